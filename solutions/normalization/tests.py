"""Hidden tests of the chapter on normalisation layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_true,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)

# --- bn --------------------------------------------------------------------------------------

LIBRARY = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def pair(student, dims, C, *, dtype=torch.float64, device="cpu", **options):
    """The student's layer and the library's, with the same gamma and beta."""
    names = {"track": "track_running_stats"}
    library = LIBRARY[dims](C, **{names.get(k, k): v for k, v in options.items()})
    library = library.to(device=device, dtype=dtype)
    mine = student.MyBatchNorm(C, **options).to(device=device, dtype=dtype)
    assert_equal(
        sorted(mine.state_dict()), sorted(library.state_dict()), "the names in the state dict"
    )
    if options.get("affine", True):
        with torch.no_grad():
            library.weight.copy_(randn(C, device=device))
            library.bias.copy_(randn(C, device=device))
        mine.load_state_dict(library.state_dict())
    return mine, library


@pytest.mark.exercise("bn", points=5)
@pytest.mark.parametrize(
    "shape, eps",
    [
        ((7, 3), 1e-5),
        ((2, 5), 0.3),
        ((4, 2, 9), 1e-5),
        ((3, 4, 5, 2), 1e-5),
        ((2, 3, 1, 6), 0.1),
        ((2, 3, 2, 4, 3), 1e-5),
    ],
)
def test_training_output(student, device, shape, eps):
    """In training the output should be nn.BatchNorm's, for any number of axes, eps and scale."""
    mine, library = pair(student, len(shape), shape[1], eps=eps, device=device)
    x = 3 * randn(*shape, device=device) + 2
    with unchanged(x):
        got = mine(x)
    axes = [0, *range(2, len(shape))]
    wide = [1, -1] + [1] * (len(shape) - 2)
    centred = x - x.mean(axes, keepdim=True)
    g, b = library.weight.detach().view(wide), library.bias.detach().view(wide)
    expected = library(x).detach()
    assert_close(
        got.detach(),
        expected,
        symptoms={
            "The batch is normalised with the biased variance.": g
            * centred
            / torch.sqrt(x.var(axes, keepdim=True) + eps)
            + b,
            "eps stands below the root.": g
            * centred
            / (x.var(axes, keepdim=True, correction=0).sqrt() + eps)
            + b,
            "gamma and beta are not used.": (expected - b) / g,
        },
    )


@pytest.mark.exercise("bn", points=5)
@pytest.mark.parametrize("momentum", [0.1, 0.37, None])
@pytest.mark.parametrize("shape", [(6, 3), (3, 4, 2, 5)])
def test_five_batches(student, device, shape, momentum):
    """After each of five batches the three buffers should be those of nn.BatchNorm."""
    mine, library = pair(student, len(shape), shape[1], momentum=momentum, device=device)
    for i in range(5):
        x = (i + 1) * randn(*shape, device=device) - i
        mine(x), library(x)
        for name in ("running_mean", "running_var"):
            assert_close(
                getattr(mine, name), getattr(library, name), f"{name} after {i + 1} batches"
            )
        assert_equal(int(mine.num_batches_tracked), i + 1, "num_batches_tracked")


@pytest.mark.exercise("bn", points=4)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 3)])
def test_evaluation(student, device, shape):
    """In evaluation the running statistics should be used and stay; then training goes on."""
    mine, library = pair(student, len(shape), 3, device=device, eps=0.02)
    for _ in range(3):
        x = 2 * randn(*shape, device=device) + 1
        mine(x), library(x)
    mine.eval(), library.eval()
    before = {k: v.clone() for k, v in library.state_dict().items()}
    x = 4 * randn(*shape, device=device)
    assert_close(mine(x).detach(), library(x).detach(), "the output in evaluation")
    assert_close(mine(x[:1]).detach(), library(x[:1]).detach(), "the output for one example")
    assert_close(dict(mine.state_dict()), before, "the state dict after evaluation")
    mine.train(), library.train()
    assert_close(mine(x).detach(), library(x).detach(), "the output back in training")
    assert_close(dict(mine.state_dict()), dict(library.state_dict()), "the state dict after that")


@pytest.mark.exercise("bn", points=3)
def test_without_tracking(student, device):
    """Without track there should be no statistics, and evaluation uses the batch's, too."""
    mine, library = pair(student, 4, 3, track=False, device=device)
    for mode in (True, False):
        mine.train(mode), library.train(mode)
        x = 2 * randn(4, 3, 2, 3, device=device) + 5
        assert_close(mine(x).detach(), library(x).detach(), f"the output with training={mode}")
    with raises(ValueError):
        mine(randn(1, 3, 1, 1, device=device))
    plain, library = pair(student, 2, 4, affine=False, device=device)
    x = randn(6, 4, device=device) - 3
    assert_close(plain(x), library(x), "the output without affine")


@probe
def what_it_holds(student, affine, track):
    """Names of parameters and buffers, what is None, and whether it is a module."""
    bn = student.MyBatchNorm(3, affine=affine, track=track)
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        "parameters": sorted(n for n, _ in bn.named_parameters()),
        "buffers": sorted(n for n, _ in bn.named_buffers()),
        "None": [n for n in names if getattr(bn, n) is None],
        "module": isinstance(bn, nn.Module),
    }


@pytest.mark.exercise("bn", points=3)
def test_state(student, device):
    """There should be two parameters and three buffers, with torch's names, start and dtypes."""
    for affine in (True, False):
        for track in (True, False):
            mine, other = (
                student.run(what_it_holds, affine, track),
                nn.BatchNorm1d(3, affine=affine, track_running_stats=track),
            )
            names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            expected = {
                "parameters": sorted(n for n, _ in other.named_parameters()),
                "buffers": sorted(n for n, _ in other.named_buffers()),
                "None": [n for n in names if getattr(other, n) is None],
                "module": True,
            }
            assert_equal(mine, expected, f"what the layer holds, affine={affine}, track={track},")
    mine, library = student.MyBatchNorm(5), nn.BatchNorm2d(5)
    assert_close(dict(mine.state_dict()), dict(library.state_dict()), "the state dict at the start")
    x = randn(4, 5, 3, 3, dtype=torch.float32) + 1
    mine(x)
    library.load_state_dict(mine.state_dict())
    mine.eval(), library.eval()
    assert_close(
        mine(x).detach(), library(x).detach(), "the output, with the state in nn.BatchNorm"
    )


@probe
def backward_of(student, state, x, dy, training):
    """Gradients for x, gamma and beta, and whether a buffer carries a gradient."""
    bn = student.MyBatchNorm(x.shape[1], eps=0.05).to(x)
    if set(bn.state_dict()) != set(state):
        return sorted(bn.state_dict()), None
    bn.load_state_dict(state)
    bn.train(training)
    leaf = x.clone().requires_grad_()
    loss = (bn(leaf) * dy).sum()
    wanted = [leaf, bn.weight, bn.bias]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted)]
    tracked = any(b.requires_grad for b in bn.buffers())
    return grads, tracked


@pytest.mark.exercise("bn", points=3)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(student, device, training):
    """Gradients should flow through the batch's statistics, and never into running ones."""
    x, dy = randn(5, 3, 2, 4, device=device), randn(5, 3, 2, 4, device=device)
    library = nn.BatchNorm2d(3, eps=0.05).to(x)
    library(2 * randn(5, 3, 2, 4, device=device) + 1)
    with torch.no_grad():
        library.weight.copy_(randn(3, device=device))
    state = {k: v.detach().clone() for k, v in library.state_dict().items()}
    got, tracked = student.run(backward_of, state, x, dy, training)
    assert_true(
        tracked is not None, f"The state dict should have the names {sorted(state)}, not {got}."
    )
    library.train(training)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((library(leaf) * dy).sum(), [leaf, library.weight, library.bias])
    assert_close(list(got), list(expected), "the gradients for x, gamma and beta")
    assert_equal(tracked, False, "whether a running statistic carries a gradient")


@pytest.mark.exercise("bn", points=2)
def test_one_value_per_channel(student, device):
    """One value per channel should raise a ValueError in training, and pass in evaluation."""
    for shape in ((1, 4), (1, 4, 1), (1, 4, 1, 1)):
        bn = student.MyBatchNorm(4).to(device=device, dtype=torch.float64)
        x = randn(*shape, device=device)
        with raises(ValueError):
            bn(x)
        bn.eval()
        assert_close(bn(x).detach(), x / (1 + 1e-5) ** 0.5, "the output in evaluation")
    bn = student.MyBatchNorm(4).to(device=device, dtype=torch.float64)
    x = randn(1, 4, 2, device=device)
    try:
        got = bn(x).detach()
    except ValueError:
        got = "a ValueError"
    assert_close(
        got,
        F.batch_norm(x, None, None, training=True),
        "the output for one example with two positions",
    )


# --- bnback ----------------------------------------------------------------------------------


def forward(x, eps):
    """gamma, beta, cache and the output of batch normalisation in training."""
    axes = [0, *range(2, x.dim())]
    wide = [1, -1] + [1] * (x.dim() - 2)
    gamma = randn(x.shape[1], device=x.device).requires_grad_()
    beta = randn(x.shape[1], device=x.device).requires_grad_()
    std = torch.sqrt(x.var(axes, correction=0) + eps)
    xhat = (x - x.mean(axes, keepdim=True)) / std.view(wide)
    return (
        gamma,
        beta,
        (xhat.detach(), gamma.detach(), std.detach()),
        xhat * gamma.view(wide) + beta.view(wide),
    )


@pytest.mark.exercise("bnback", points=8)
@pytest.mark.parametrize(
    "shape, eps",
    [
        ((6, 4), 1e-5),
        ((9, 1), 0.5),
        ((3, 2, 7), 1e-5),
        ((2, 5, 3, 4), 0.2),
        ((1, 3, 2, 5), 1e-5),
        ((2, 2, 3, 2, 2), 1e-5),
    ],
)
def test_equals_autograd(student, device, shape, eps):
    """The three gradients should be autograd's to 1e-8, for any number of axes, eps included."""
    x = (2 * randn(*shape, device=device) + 1).requires_grad_()
    gamma, beta, cache, y = forward(x, eps)
    dy = randn(*shape, device=device)
    expected = torch.autograd.grad((y * dy).sum(), (x, gamma, beta))
    with unchanged(dy, *cache):
        got = student.bn_backward(dy, cache)
    assert_equal(len(got), 3, "the number of gradients")
    for name, g, e in zip(("dx", "dgamma", "dbeta"), got, expected, strict=True):
        assert_close(g, e, name, rtol=1e-8, atol=1e-8)


@pytest.mark.exercise("bnback", points=3)
@pytest.mark.parametrize("shape", [(8, 3), (3, 2, 4, 5)])
def test_sums_are_zero(student, device, shape):
    """dx should add up to 0 in each channel, and so should dx times xhat (for a tiny eps)."""
    x = randn(*shape, device=device)
    _, _, cache, _ = forward(x, 1e-14)
    dx, _, _ = student.bn_backward(randn(*shape, device=device), cache)
    axes = [0, *range(2, len(shape))]
    zero = torch.zeros(shape[1], dtype=x.dtype, device=device)
    assert_close(dx.sum(axes), zero, "the sum of dx")
    assert_close((dx * cache[0]).sum(axes), zero, "the sum of dx times xhat")
    assert_true(dx.abs().max() > 1e-3, "dx itself should not be zero.")


@pytest.mark.exercise("bnback", points=2)
def test_batch_of_two(student, device):
    """In a batch of two values per channel, dx should vanish."""
    x = randn(2, 6, device=device) * 5
    _, _, cache, _ = forward(x, 1e-14)
    dx, _, _ = student.bn_backward(randn(2, 6, device=device), cache)
    assert_close(dx, torch.zeros_like(x), "dx")


@pytest.mark.exercise("bnback", points=2)
def test_float32(student, device):
    """The gradients should keep float32, and have the shapes of x, gamma and beta."""
    x = randn(4, 3, 2, 2, device=device)
    gamma, beta, cache, y = forward(x.requires_grad_(), 1e-5)
    dy = randn(4, 3, 2, 2, device=device)
    expected = torch.autograd.grad((y * dy).sum(), (x, gamma, beta))
    got = student.bn_backward(dy.float(), tuple(t.float() for t in cache))
    assert_close(list(got), [e.float() for e in expected], "(dx, dgamma, dbeta)", atol=1e-4)


# --- family ----------------------------------------------------------------------------------


def standardised(x, axes, eps):
    """From sums, without var."""
    n = 1
    for a in axes:
        n *= x.shape[a]
    mean = x.sum(axes, keepdim=True) / n
    var = (x - mean).square().sum(axes, keepdim=True) / n
    return (x - mean) / torch.sqrt(var + eps)


@pytest.mark.exercise("family", points=5)
@pytest.mark.parametrize(
    "shape, axes, eps",
    [
        ((5, 4), (0,), 1e-5),
        ((5, 4), (1,), 0.4),
        ((3, 4, 5), (0, 2), 1e-5),
        ((2, 3, 4, 5), (1, 2, 3), 1e-3),
        ((2, 3, 4, 5), (0, 2, 3), 1e-5),
        ((1, 6, 2, 3), (-2, -1), 0.1),
        ((2, 7), (-1,), 1e-5),
    ],
)
def test_any_axes(student, device, shape, axes, eps):
    """normalize should give (x - mean) / sqrt(biased variance + eps) over any axes."""
    x = 2 * randn(*shape, device=device) - 1
    with unchanged(x):
        got = student.normalize(x, axes, eps)
    spread = x - x.mean(axes, keepdim=True)
    assert_close(
        got,
        standardised(x, axes, eps),
        symptoms={
            "The variance divides by n, not by n - 1.": spread
            / torch.sqrt(x.var(axes, keepdim=True) + eps),
            "eps stands below the root.": spread
            / (x.var(axes, keepdim=True, correction=0).sqrt() + eps),
        },
    )


@pytest.mark.exercise("family", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_three_layers(student, device, dtype):
    """Over the right axes normalize should be F.layer_norm, F.instance_norm and F.batch_norm."""
    x = randn(3, 4, 5, 2, dtype=dtype, device=device) + 1
    tokens = randn(2, 5, 8, dtype=dtype, device=device)
    for name, got, expected in (
        ("layer norm", student.normalize(x, (1, 2, 3), 1e-5), F.layer_norm(x, (4, 5, 2))),
        (
            "layer norm of tokens",
            student.normalize(tokens, (-1,), 1e-5),
            F.layer_norm(tokens, (8,)),
        ),
        ("instance norm", student.normalize(x, (2, 3), 1e-5), F.instance_norm(x)),
        (
            "batch norm",
            student.normalize(x, (0, 2, 3), 1e-5),
            F.batch_norm(x, None, None, training=True),
        ),
    ):
        assert_close(got, expected, name)


@pytest.mark.exercise("family", points=6)
@pytest.mark.parametrize(
    "shape, G, dtype",
    [
        ((2, 6, 4, 3), 3, torch.float64),
        ((1, 4, 5, 5), 2, torch.float64),
        ((3, 6), 2, torch.float64),
        ((2, 8, 7), 4, torch.float64),
        ((2, 4, 2, 3, 2), 2, torch.float64),
        ((4, 12, 2, 2), 3, torch.float32),
    ],
)
def test_group_norm(student, device, shape, G, dtype):
    """group_norm should equal F.group_norm for any number of axes and groups."""
    x = 2 * randn(*shape, dtype=dtype, device=device) + 1
    x = x * torch.linspace(0.01, 3, shape[1], dtype=dtype, device=device).view(
        1, -1, *[1] * (len(shape) - 2)
    )
    gamma, beta = randn(2, shape[1], dtype=dtype, device=device)
    with unchanged(x, gamma, beta):
        got = student.group_norm(x, G, gamma, beta)
    assert_close(
        got,
        F.group_norm(x, G, gamma, beta),
        symptoms={"gamma and beta are not used.": F.group_norm(x, G)},
    )


@pytest.mark.exercise("family", points=2)
def test_one_group_and_all(student, device):
    """One group should be layer norm over C, H, W; C groups should be instance norm."""
    x = randn(3, 5, 4, 2, device=device) * 0.01
    ones = torch.ones(5, dtype=x.dtype, device=device)
    assert_close(student.group_norm(x, 1, ones, 0 * ones), F.layer_norm(x, (5, 4, 2)), "G = 1")
    assert_close(student.group_norm(x, 5, ones, 0 * ones), F.instance_norm(x), "G = C")


@pytest.mark.exercise("family", points=2)
def test_family_gradients(student, device):
    """Gradients should flow through the statistics, to x, gamma and beta."""
    x, gamma, beta = randn(2, 6, 3, 2, device=device), randn(6, device=device), randn(6)
    beta = beta.to(device)
    assert_same_gradients(
        lambda x, g, b: student.group_norm(x, 3, g, b),
        lambda x, g, b: F.group_norm(x, 3, g, b),
        x,
        gamma,
        beta,
    )
    assert_same_gradients(
        lambda x: student.normalize(x, (1, 2, 3), 1e-5), lambda x: F.layer_norm(x, (6, 3, 2)), x
    )


@pytest.mark.exercise("family", points=2)
@pytest.mark.parametrize("C, G", [(6, 4), (5, 2), (3, 6), (7, 3)])
def test_groups_that_do_not_divide(student, C, G):
    """group_norm should raise a ValueError when G does not divide C."""
    ones = torch.ones(C, dtype=torch.float64)
    x = randn(2, C, 12, 5)
    with raises(ValueError):
        student.group_norm(x, G, ones, ones)


# --- fold ------------------------------------------------------------------------------------


def conv_bn(device="cpu", dtype=torch.float64, eps=1e-5, affine=True, **settings):
    """A convolution from 4 to 6 channels and a batch norm with numbers that matter."""
    conv = nn.Conv2d(4, 6, **{"kernel_size": 3, **settings})
    bn = nn.BatchNorm2d(6, eps=eps, affine=affine)
    conv, bn = conv.to(device=device, dtype=dtype), bn.to(device=device, dtype=dtype)
    with torch.no_grad():
        for p in (*conv.parameters(), *bn.parameters(), bn.running_mean):
            p.copy_(randn(*p.shape, device=device))
        bn.running_var.copy_(rand(6, device=device) + 0.2)
    return conv.eval(), bn.eval()


@pytest.mark.exercise("fold", points=6)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": False},
        {"padding": 1, "stride": 2},
        {"groups": 2, "padding": (0, 2)},
        {"groups": 2, "bias": False, "dilation": 2, "padding": 2},
        {"kernel_size": (1, 3), "stride": (2, 1)},
        {"kernel_size": 1},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular", "bias": False},
    ],
)
def test_folded_output(student, device, settings):
    """The folded layer should give bn(conv(x)) of eval mode, whatever the settings."""
    conv, bn = conv_bn(device, **settings)
    x = randn(2, 4, 8, 7, device=device)
    folded = student.fold_conv_bn(conv, bn)
    z = conv(x).detach()
    expected = bn(z).detach()
    wide = (slice(None), None, None)
    mean, beta = bn.running_mean[wide], bn.bias.detach()[wide]
    assert_close(
        folded(x).detach(),
        expected,
        rtol=1e-5,
        atol=1e-8,
        symptoms={
            "eps is missing below the root.": bn.weight.detach()[wide]
            * (z - mean)
            / bn.running_var[wide].sqrt()
            + beta,
            "This is the convolution without the batch norm.": z,
            "beta is missing.": expected - beta,
        },
    )


@pytest.mark.exercise("fold", points=3)
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_tiny_variances(student, device, eps):
    """With variances far below eps the folded layer should still be right."""
    conv, bn = conv_bn(device, eps=eps, padding=1)
    bn.running_var.mul_(torch.tensor([1e-9, 1e-6, 1e-5, 1e-3, 0.0, 1.0]).to(bn.running_var))
    x = randn(1, 4, 5, 5, device=device)
    got = student.fold_conv_bn(conv, bn)(x).detach()
    assert_close(got, bn(conv(x)).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.exercise("fold", points=2)
@pytest.mark.parametrize("bias", [True, False])
def test_without_gamma(student, device, bias):
    """A batch norm with affine=False, or still in training mode, should be folded as well."""
    conv, bn = conv_bn(device, affine=False, bias=bias)
    x = randn(3, 4, 6, 5, device=device)
    expected = bn(conv(x)).detach()
    assert_close(student.fold_conv_bn(conv, bn)(x).detach(), expected, "without gamma and beta")
    conv, bn = conv_bn(device, bias=bias)
    expected = bn(conv(x)).detach()
    got = student.fold_conv_bn(conv.train(), bn.train())
    assert_close(got(x).detach(), expected, "with both in training mode, the output")


@probe
def shared_memory(student, conv, bn):
    """What changes in conv and bn when the folded layer is overwritten."""
    before = [t.detach().clone() for m in (conv, bn) for t in m.state_dict().values()]
    folded = student.fold_conv_bn(conv, bn)
    with torch.no_grad():
        for t in folded.state_dict().values():
            t.fill_(7.0)
    after = [t for m in (conv, bn) for t in m.state_dict().values()]
    return (
        sum(not torch.equal(a, b) for a, b in zip(before, after)),
        sorted(folded.state_dict()),
        isinstance(folded, nn.Conv2d),
        all(isinstance(p, nn.Parameter) and p.is_leaf for p in (folded.weight, folded.bias)),
    )


@pytest.mark.exercise("fold", points=3)
@pytest.mark.parametrize("settings", [{}, {"bias": False, "groups": 2, "stride": 2}])
def test_originals_stay(student, device, settings):
    """conv and bn should stay as they are, share no memory, and keep all their settings."""
    conv, bn = conv_bn(device, dtype=torch.float32, **settings)
    tensors = [*conv.state_dict().values(), *bn.state_dict().values()]
    with unchanged(*tensors):
        folded = student.fold_conv_bn(conv, bn)
    for name in ("stride", "padding", "dilation", "groups", "kernel_size"):
        assert_equal(getattr(folded, name), getattr(conv, name), f"the {name} of the new layer")
    assert_equal(folded.weight.dtype, torch.float32, "the dtype of the new weight")
    changed, names, kind, leaves = student.run(shared_memory, conv, bn)
    assert_equal(changed, 0, "the number of old tensors that change with the new ones")
    assert_equal(names, ["bias", "weight"], "the names in the new state dict")
    assert_true(kind, "The result should be an nn.Conv2d.")
    assert_true(leaves, "weight and bias should be parameters without history.")


@pytest.mark.exercise("fold", points=1)
@pytest.mark.parametrize("affine", [True, False])
def test_no_statistics(student, affine):
    """A batch norm without running statistics should be refused with a ValueError."""
    conv = nn.Conv2d(4, 6, 3)
    with raises(ValueError):
        student.fold_conv_bn(conv, nn.BatchNorm2d(6, affine=affine, track_running_stats=False))


# --- shift -----------------------------------------------------------------------------------

GRID = [(e, v, p) for e in (-2.0, 0.0, 0.3, 1.0, 4.0) for v in (0.2, 1.0, 3.0) for p in (0.2, 0.8)]


@pytest.mark.exercise("shift", points=5)
def test_the_formula(student):
    """shift_ratio should be v / ((v + e²) / keep - e²), for any mean and variance."""
    for e, v, p in GRID:
        train = v / p + e * e * (1 - p) / p
        assert_close(
            student.shift_ratio(e, v, p),
            v / train,
            f"`shift_ratio({e}, {v}, {p})`",
            symptoms={
                "The ratio is upside down.": train / v,
                "The square of the mean is not subtracted.": v / ((v + e * e) / p),
                "The mean is not squared.": v / ((v + e) / p - e),
                "keep and drop are exchanged.": v / (v / (1 - p) + e * e * p / (1 - p)),
            },
        )


@pytest.mark.exercise("shift", points=5)
@pytest.mark.parametrize(
    "e, v, p", [(0.0, 1.0, 0.5), (0.5, 1.0, 0.7), (2.0, 0.5, 0.9), (-1.0, 4.0, 0.4)]
)
def test_measured(student, e, v, p):
    """measure should be within 2 % of the formula, and leave x as it was."""
    # Masks may come from a generator with the same seed: take other numbers of the stream.
    x = e + v**0.5 * randn(60_007)[20_007:]
    e, v = x.mean().item(), x.var(correction=0).item()
    with unchanged(x):
        got = student.measure(p, x, 10)
    square = v + e * e

    def against(variance):
        return v / variance

    assert_close(
        got,
        against(square / p - e * e),
        f"the measured ratio for keep={p}",
        rtol=0.02,
        symptoms={
            "The kept values are not divided by keep.": against(p * square - p * p * e * e),
            "The values are multiplied by keep.": against(p**3 * square - p**4 * e * e),
            "The mask is inverted: entries are kept with probability 1 - keep.": against(
                (1 - p) * square / p**2 - ((1 - p) / p * e) ** 2
            ),
            "keep and drop are exchanged.": against(square / (1 - p) - e * e),
            "Standard deviations are compared; the variance is their square.": against(
                square / p - e * e
            )
            ** 0.5,
            "The ratio is upside down.": (square / p - e * e) / v,
            "As if nothing were dropped: the dropped values count as zeros.": 1.0,
        },
    )


@probe
def one_and_many(student, x):
    """Whether one pass gives what the mean over 40 gives, from the same seed, twice."""
    same = []
    for seed in (0, 1):
        found = []
        for n in (1, 40):
            torch.manual_seed(seed)
            found.append(float(student.measure(0.5, x, n)))
        same.append(abs(found[0] / found[1] - 1) < 1e-9)
    return all(same)


@pytest.mark.exercise("shift", points=1)
def test_one_mask_each(student):
    """The masks of 40 passes should not all be the same."""
    x = torch.linspace(-1, 3, 12, dtype=torch.float64)
    same = student.run(one_and_many, x)
    assert_equal(same, False, "whether 40 passes give what one of them gives")


@pytest.mark.exercise("shift", points=1)
def test_new_masks(student):
    """Each pass should draw a new mask: the mean over many passes is exact, also for few values."""
    x, p = torch.tensor([3.0, 1.0, -1.0, 2.0, 4.0, 0.5, 2.5, -2.0], dtype=torch.float64), 0.5
    m = len(x)
    e, square = x.mean(), x.square().mean()
    train = square / p - e**2 - square * (1 - p) / p / m
    expected = (x.var(correction=0) / train).item()
    assert_close(student.measure(p, x, 6000), expected, "the ratio for 8 values", rtol=0.04)
    one = [student.measure(p, x, 1) for _ in range(3)]
    assert_true(len(set(one)) > 1, "Three calls with one pass each should differ.")


@pytest.mark.exercise("shift", points=1)
def test_without_dropout(student):
    """With keep = 1 nothing should shift, and measure should give a float."""
    assert_close(student.shift_ratio(1.7, 0.3, 1), 1.0, "`shift_ratio(1.7, 0.3, 1)`")
    got = student.measure(1, randn(50), 3)
    assert_close(got, 1.0, "`measure(1, x, 3)`")
    assert_equal(type(student.measure(0.6, randn(50), 2)).__name__, "float", "the type")


@pytest.mark.exercise("shift", points=2)
@pytest.mark.parametrize("keep", [0, 0.0, -0.2, 1.01, 2])
def test_no_probability(student, keep):
    """Both functions should raise a ValueError unless 0 < keep <= 1."""
    with raises(ValueError):
        student.shift_ratio(0.5, 1.0, keep)
    with raises(ValueError):
        student.measure(keep, randn(20), 2)


# --- zerogamma -------------------------------------------------------------------------------


@probe
def build_and_zero(student, kind):
    """A net of some kind, before and after: count, zero gammas, other changes."""
    torch.manual_seed(0)

    def conv(c, d=2):
        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](c, c, 1)

    def bn(c, d=2):
        layer = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1](c)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, 0.5, 1.5)
        return layer

    def body(c, d=2):
        return nn.Sequential(conv(c, d), bn(c, d), nn.ReLU(), conv(c, d), bn(c, d))

    if kind == "two blocks":
        net = nn.Sequential(
            conv(3),
            bn(3),
            student.Residual(body(3), nn.Sequential(conv(3), bn(3))),
            nn.ReLU(),
            student.Residual(body(3)),
            bn(3),
        )
    elif kind == "deep inside":
        stages = [nn.Sequential(student.Residual(body(2)), bn(2)) for _ in range(3)]
        net = nn.ModuleDict({"stem": bn(2), "stages": nn.ModuleList(stages)})
    elif kind == "not at the end":
        inner = nn.Sequential(conv(2), bn(2), nn.Sequential(bn(2), conv(2), bn(2)))
        net = nn.Sequential(
            student.Residual(nn.Sequential(inner, nn.Dropout2d(0.1), nn.Identity()))
        )
    elif kind == "the net is a block":
        net = student.Residual(body(4), nn.Sequential(conv(4), bn(4)))
    elif kind == "1d and 3d":
        net = nn.Sequential(student.Residual(body(2, 1)), student.Residual(body(2, 3)))
    elif kind == "one without":
        bare = nn.Sequential(conv(2), nn.GroupNorm(1, 2), nn.LayerNorm(5))
        net = nn.Sequential(
            student.Residual(body(2)), student.Residual(bare), student.Residual(body(2))
        )
    else:
        net = nn.Sequential(conv(2), bn(2), nn.ReLU())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    count = student.zero_init_last_bn(net)
    after = net.state_dict()
    changed = [k for k in after if not torch.equal(before[k], after[k])]
    zero = [k for k in changed if not after[k].any()]
    learns = all(p.requires_grad and p.is_leaf for p in net.parameters())
    kind = type(count).__name__
    return count if kind == "int" else None, kind, zero, changed, learns


ZEROS = {
    "two blocks": ["2.body.4.weight", "4.body.4.weight"],
    "deep inside": [f"stages.{i}.0.body.4.weight" for i in range(3)],
    "not at the end": ["0.body.0.2.2.weight"],
    "the net is a block": ["body.4.weight"],
    "1d and 3d": ["0.body.4.weight", "1.body.4.weight"],
    "one without": ["0.body.4.weight", "2.body.4.weight"],
    "no block": [],
}


@pytest.mark.exercise("zerogamma", points=4)
@pytest.mark.parametrize("kind", ["two blocks", "deep inside", "the net is a block", "no block"])
def test_which_gammas(student, kind):
    """The last gamma of each block's body, and no other, should become zero."""
    _, _, zero, _, _ = student.run(build_and_zero, kind)
    assert_equal(list(zero), ZEROS[kind], "the names of the weights that became zero")


@pytest.mark.exercise("zerogamma", points=2)
@pytest.mark.parametrize("kind", ["not at the end", "1d and 3d", "one without"])
def test_unusual_bodies(student, kind):
    """The last batch norm should be found in nested bodies, in 1d and 3d, and not be invented."""
    _, _, zero, _, _ = student.run(build_and_zero, kind)
    assert_equal(list(zero), ZEROS[kind], "the names of the weights that became zero")


@pytest.mark.exercise("zerogamma", points=2)
@pytest.mark.parametrize("kind", list(ZEROS))
def test_count(student, kind):
    """The number of gammas that were set should be returned as an int; all else should stay."""
    count, name, zero, changed, learns = student.run(build_and_zero, kind)
    assert_equal(name, "int", "the type of the result")
    assert_equal(count, len(ZEROS[kind]), "the number of gammas")
    assert_equal(list(changed), list(zero), "the names of the weights that changed")
    assert_equal(learns, True, "whether all parameters can go on learning")


@probe
def block_at_start(student, project, x):
    """Output of a block after zero_init_last_bn, and of its shortcut; then gamma's gradient."""
    torch.manual_seed(1)
    body = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
    )
    shortcut = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) if project else None
    block = student.Residual(body, shortcut).to(x.dtype)
    student.zero_init_last_bn(block)
    y = block(x)
    y.square().sum().backward()
    grad = block.body[-1].weight.grad
    return y.detach(), block.shortcut(x).relu().detach(), grad is not None and bool(grad.any())


@pytest.mark.exercise("zerogamma", points=2)
@pytest.mark.parametrize("project", [False, True])
def test_block_is_its_shortcut(student, project):
    """At the start a block should equal its shortcut, and its last gamma should learn."""
    got, expected, learns = student.run(block_at_start, project, randn(2, 3, 4, 5))
    assert_close(got, expected)
    assert_equal(learns, True, "whether a gradient arrives at the last gamma")
