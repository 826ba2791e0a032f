"""Hidden tests of the chapter on initialisation and numerical stability."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    does_not_call,
    probe,
    raises,
    randn,
    unchanged,
)

# --- jacobian --------------------------------------------------------------------------------


@probe
def cube(z):
    return z**3 - 2 * z


@probe
def same(z):
    return z


def jacobian_of(Ws, h, act):
    def net(h):
        for W in Ws:
            h = act(W @ h)
        return h

    return torch.autograd.functional.jacobian(net, h)


@pytest.mark.exercise("jacobian", points=5)
@pytest.mark.parametrize("act", [torch.tanh, torch.sigmoid, torch.relu, F.softplus, cube, same])
@pytest.mark.parametrize("m, n", [(4, 4), (3, 6), (5, 2), (1, 3), (4, 1)])
def test_layer_jacobian(student, device, act, m, n):
    """layer_jacobian should be autograd's Jacobian, for any activation and size."""
    W, h = randn(m, n, device=device), randn(n, device=device)
    with unchanged(W, h):
        got = student.layer_jacobian(W, h, act)
    expected = jacobian_of([W], h, act)
    symptoms = {"The slope of the activation is missing.": W}
    if m == n:
        symptoms["W is transposed; row i of the Jacobian belongs to output i."] = expected.T
        slope = jacobian_of([torch.eye(n, dtype=W.dtype, device=device)], W @ h, act).diagonal()
        symptoms["The slopes multiply the columns; they belong to the rows."] = W * slope
    assert_close(got, expected, "the Jacobian", symptoms=symptoms)


@pytest.mark.exercise("jacobian", points=4)
def test_relu_drops_rows(student, device):
    """With ReLU, rows of negative pre-activations should be zero and the others rows of W."""
    W, h = randn(7, 5, device=device), randn(5, device=device)
    W[3] = 0  # a pre-activation of exactly 0: ReLU's slope there is 0 for torch
    got = student.layer_jacobian(W, h, torch.relu)
    expected = torch.where((W @ h > 0)[:, None], W, 0)
    assert_close(got, expected, "the Jacobian")


@pytest.mark.exercise("jacobian", points=6)
@pytest.mark.parametrize("act", [torch.tanh, torch.relu, torch.sigmoid, cube])
@pytest.mark.parametrize("widths", [[3, 3, 3], [4, 2, 5, 3], [2, 6], [5, 4, 3, 2, 1]])
def test_chain_jacobian(student, device, act, widths):
    """chain_jacobian should be the Jacobian of the whole stack, each layer at its own input."""
    Ws = [randn(m, n, device=device) / 2 for n, m in zip(widths, widths[1:], strict=False)]
    h = randn(widths[0], device=device)
    with unchanged(*Ws, h):
        got = student.chain_jacobian(Ws, h, act)
    frozen = None
    for W in Ws:  # every layer at the first input, where the sizes allow it
        if all(W.shape[0] == W.shape[1] for W in Ws):
            J = jacobian_of([W], h, act)
            frozen = J if frozen is None else J @ frozen
    symptoms = {}
    if frozen is not None:
        symptoms["Each layer's Jacobian belongs to the layer's own input."] = frozen
    assert_close(got, jacobian_of(Ws, h, act), "the Jacobian", symptoms=symptoms)


@pytest.mark.exercise("jacobian", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chain_ends(student, device, dtype):
    """Without layers the Jacobian should be the identity of h's dtype; float32 stays float32."""
    h = randn(4, dtype=dtype, device=device)
    expected = torch.eye(4, dtype=dtype, device=device)
    assert_close(student.chain_jacobian([], h, torch.tanh), expected, "the Jacobian of no layer")
    W = randn(2, 4, dtype=dtype, device=device)
    expected = jacobian_of([W], h, torch.tanh)
    assert_close(student.chain_jacobian([W], h, torch.tanh), expected, "the Jacobian of a layer")
    assert_close(student.layer_jacobian(W, h, torch.tanh), expected, "the Jacobian of a layer")


@pytest.mark.exercise("jacobian", points=2)
def test_jacobian_is_detached(student, device):
    """Weights and inputs that require a gradient should work, and the Jacobian be detached."""
    W = randn(3, 3, device=device, requires_grad=True)
    h = randn(3, device=device, requires_grad=True)
    expected = jacobian_of([W.detach()], h.detach(), torch.tanh)
    got = student.layer_jacobian(W, h, torch.tanh)
    assert_close(got, expected, "the Jacobian")
    assert_equal(got.requires_grad, False, "requires_grad of layer_jacobian's result")
    got = student.chain_jacobian([W, W], h, torch.tanh)
    assert_close(got, jacobian_of([W.detach()] * 2, h.detach(), torch.tanh), "the Jacobian")
    assert_equal(got.requires_grad, False, "requires_grad of chain_jacobian's result")


# --- fans ------------------------------------------------------------------------------------

SHAPES = [
    (3, 5),
    (7, 1),
    (1, 9),
    (4, 6, 3),
    (16, 3, 5, 2),
    (2, 3, 4, 5, 6),
    (64, 1, 3, 3),  # depthwise
    (12, 2, 1),
]


@pytest.mark.exercise("fans", points=4)
@pytest.mark.parametrize("shape", SHAPES)
def test_fans(student, shape):
    """fan should count the kernel, for dense layers and convolutions in one to three axes."""
    expected = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    what = f"`fan({shape})`"
    got = tuple(student.fan(shape))
    symptoms = {"The two are in the wrong order: fan_in comes first.": expected[::-1]}
    assert_close(got, expected, what, symptoms=symptoms)
    assert_equal(got, expected, what)


@pytest.mark.exercise("fans", points=2)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_no_fans(student, shape):
    """fan should raise a ValueError for a weight with fewer than two axes."""
    with raises(ValueError):
        student.fan(shape)


@pytest.mark.exercise("fans", points=4)
@pytest.mark.parametrize(
    "name, param",
    [
        ("linear", None),
        ("conv1d", None),
        ("conv2d", None),
        ("conv3d", None),
        ("sigmoid", None),
        ("tanh", None),
        ("relu", None),
        ("selu", None),
        ("leaky_relu", None),
        ("leaky_relu", 0),
        ("leaky_relu", 0.3),
        ("leaky_relu", 2),
        ("leaky_relu", math.sqrt(5)),
        ("relu", 0.5),
        ("tanh", 0.5),
    ],
)
def test_gains(student, name, param):
    """gain should agree with nn.init.calculate_gain for every name, with and without slope."""
    expected = nn.init.calculate_gain(name, param)
    assert_close(
        student.gain(name, param),
        expected,
        f"`gain({name!r}, {param})`",
        symptoms={"This is the factor on the variance, not on the std.": expected**2},
    )


@pytest.mark.exercise("fans", points=1)
@pytest.mark.parametrize("name", ["swish", "ReLU", "", "leaky"])
def test_unknown_gain(student, name):
    """gain should raise a ValueError for a name that is not in the table."""
    with raises(ValueError):
        student.gain(name)


@pytest.mark.exercise("fans", points=2)
@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_std(student, shape):
    """xavier_std should be gain * sqrt(2 / (fan_in + fan_out))."""
    fans = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    expected = math.sqrt(2 / sum(fans))
    assert_close(student.xavier_std(shape), expected, f"`xavier_std({shape})`")
    assert_close(student.xavier_std(shape, 5 / 3), 5 / 3 * expected, f"`xavier_std({shape}, 5/3)`")
    assert_close(student.xavier_std(shape, gain=0.5), expected / 2, "with gain=0.5, the std")


@pytest.mark.exercise("fans", points=2)
@pytest.mark.parametrize("shape", SHAPES)
def test_kaiming_std(student, shape):
    """kaiming_std should follow slope and mode, and raise a ValueError for any other mode."""
    n_in, n_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert_close(student.kaiming_std(shape), math.sqrt(2 / n_in), f"`kaiming_std({shape})`")
    for a, mode, n in ((0.2, "fan_in", n_in), (1.5, "fan_out", n_out), (0, "fan_out", n_out)):
        expected = math.sqrt(2 / (1 + a**2) / n)
        what = f"`kaiming_std({shape}, {a}, {mode!r})`"
        assert_close(student.kaiming_std(shape, a, mode), expected, what)
        assert_close(student.kaiming_std(shape, mode=mode, a=a), expected, what)
    with raises(ValueError):
        student.kaiming_std(shape, 0.0, "fan_avg")


# --- propagate -------------------------------------------------------------------------------


@probe
def half_eye(w):
    torch.nn.init.eye_(w)
    w.mul_(0.5)  # and returns nothing


@probe
def tiny_eye(w):
    return torch.nn.init.eye_(w).mul_(1e-90)


@probe
def third(w):
    w.fill_(1 / 3)


@probe
def tell_shape(w):
    w.fill_(10.0 * w.shape[0] + w.shape[1])


@probe
def three(z):
    return 0 * z + 3


@probe
def count(z):
    return torch.full_like(z, 100.0 * z.shape[0] + z.shape[1])


@probe
def seeded_moments(student, seed):
    torch.manual_seed(seed)
    return student.second_moments([6, 9, 4], torch.tanh, torch.nn.init.xavier_normal_, 5)


@probe
def kaiming(w):
    torch.nn.init.kaiming_normal_(w)


@probe
def xavier(w):
    torch.nn.init.xavier_normal_(w)


@pytest.mark.exercise("propagate", points=4)
def test_moments_by_algebra(student):
    """Weights of half the identity should quarter the mean of the squares in each layer."""
    got = student.second_moments([5, 5, 5, 5], same, half_eye, 11)
    assert_true(isinstance(got, list), "The result should be a list.")
    assert_equal(len(got), 4, "the number of values, the input's included")
    assert_true(all(isinstance(m, float) for m in got), "The values should be floats.")
    expected = [got[0] / 4**layer for layer in range(4)]
    assert_close(got, expected, "the second moments", rtol=1e-9)
    got = student.second_moments([4, 3, 7], three, half_eye, 2)[1:]
    what = "the second moments behind an activation that is always 3"
    symptoms = {"This is the variance; the mean is not to be subtracted.": [0.0, 0.0]}
    assert_close(got, [9.0, 9.0], what, symptoms=symptoms)


@pytest.mark.exercise("propagate", points=4)
def test_shapes_of_weights_and_batch(student):
    """Weights should be (n_out, n_in), activations (n_samples, n_out), one pass for all samples."""
    got = student.second_moments([1, 7], same, tell_shape, 9)
    assert_close(got[1] / got[0], 71.0**2, "with one input and `init` filling in 10 * rows + cols")
    got = student.second_moments([3, 4, 2], count, half_eye, 13)
    what = "the second moments behind an activation that gives 100 * rows + cols"
    assert_close(got[1:], [1304.0**2, 1302.0**2], what)


@pytest.mark.exercise("propagate", points=4)
def test_moments_in_float64(student):
    """Very small values should not vanish: all is computed in float64."""
    got = student.second_moments([3, 3, 3], same, tiny_eye, 8)
    assert_true(got[1] > 0, "The second moment of numbers near 1e-90 should not be 0.")
    assert_close(got[1] / got[0] * 1e180, 1.0, "1e180 times the ratio of two layers")
    assert_equal(got[2], 0.0, "what even float64 cannot hold")
    got = student.second_moments([1, 1], same, third, 4)
    assert_close(got[1] / got[0], 1 / 9, "with weights of 1/3, the ratio", rtol=1e-13)


@pytest.mark.exercise("propagate", points=2)
def test_input_is_standard_normal(student):
    """The input should be standard normal, new in each call, from torch's own generator."""
    got = student.second_moments([50], torch.relu, half_eye, 2000)
    assert_equal(len(got), 1, "the number of values without a layer")
    assert_close(got[0], 1.0, "the second moment of the input", rtol=0.03)
    got = student.second_moments([10, 10], torch.square, half_eye, 10000)
    what = "16 times the fourth moment of half the input"
    assert_close(16 * got[1], 3.0, what, rtol=0.12)
    one, again = student.run(seeded_moments, 3), student.run(seeded_moments, 3)
    assert_close(again, one, "the same seed's second moments")
    assert_true(student.run(seeded_moments, 4) != one, "Another seed should give other numbers.")


@pytest.mark.exercise("propagate", points=3)
def test_relu_needs_kaiming(student):
    """Through 30 ReLU layers Kaiming should keep the scale, Xavier halve it in each layer."""
    kept = student.second_moments([256] * 31, torch.relu, kaiming, 32)
    assert_equal(len(kept), 31, "the number of values")
    assert_true(1 / 30 < kept[-1] < 30, f"Kaiming should keep the scale; it ends at {kept[-1]}.")
    halved = student.second_moments([256] * 31, torch.relu, xavier, 32)
    factor = (halved[-1] / halved[0]) ** (1 / 30)
    assert_close(factor, 0.5, "Xavier's factor in each layer", rtol=0.12)


@pytest.mark.exercise("propagate", points=3)
def test_tanh_and_widths(student):
    """tanh should fade slowly, and Xavier on other widths follow n_in * 2 / (n_in + n_out)."""
    got = student.second_moments([200] * 31, torch.tanh, xavier, 40)
    assert_true(0.006 < got[-1] < 0.03, f"tanh after 30 layers should keep 0.015, not {got[-1]}.")
    assert_true(got[5] > got[15] > got[30], "tanh should fade from layer to layer.")
    got = student.second_moments([300, 100, 500], same, xavier, 300)
    assert_close(got[1], 1.5, "from 300 to 100 units, the second moment", rtol=0.2)
    assert_close(got[2], 0.5, "then to 500 units, the second moment", rtol=0.25)


# --- init ------------------------------------------------------------------------------------


@probe
def fill_twice(student, name, shape, options, seed, device):
    """Two fillings with the same seed of a generator, and one with another."""
    f, results = getattr(student, name), []
    for s in (seed, seed, seed + 1):
        g = torch.Generator(device=device).manual_seed(s)
        t = torch.full(shape, 9.0, device=device)
        results.append(f(t, **options, generator=g).clone())
    return results


@probe
def fill_parameter(student, name, shape, dtype, device):
    """Whether a parameter is filled in place, returned, still a leaf, and of its dtype."""
    t = torch.nn.Parameter(torch.full(shape, 9.0, dtype=dtype, device=device))
    address = t.data_ptr()
    got = getattr(student, name)(t)
    return {
        "returned itself": got is t,
        "in place": t.data_ptr() == address and not bool((t == 9).any()),
        "a leaf that learns": t.is_leaf and t.requires_grad and t.grad_fn is None,
        "dtype": str(t.dtype),
        "grad": t.grad is None,
    }


@probe
def fill_many(student, name, shape, times):
    """The mean of many fillings, and that of their squares."""
    f = getattr(student, name)
    drawn = torch.stack([f(torch.empty(shape, dtype=torch.float64)) for _ in range(times)])
    return drawn.mean(0), drawn.square().mean(0)


FILLERS = ["kaiming_normal_", "xavier_uniform_", "orthogonal_"]


@pytest.mark.exercise("init", points=3)
@pytest.mark.parametrize(
    "shape, a, mode",
    [
        ((200, 300), 0.0, "fan_in"),
        ((300, 200), 0.5, "fan_out"),
        ((64, 30, 5, 7), 0.0, "fan_in"),
        ((64, 30, 5, 7), 1.0, "fan_out"),
        ((150, 20, 9), 0.2, "fan_in"),
        ((400, 1, 13, 11), 0.0, "fan_in"),
        ((1, 60000), 0.0, "fan_in"),
        ((60000, 1), 0.3, "fan_out"),
    ],
)
def test_kaiming_normal(student, device, shape, a, mode):
    """kaiming_normal_ should draw normal numbers of mean 0 and variance 2 / ((1 + a^2) fan)."""
    t = torch.full(shape, 9.0, dtype=torch.float64, device=device)
    got = student.kaiming_normal_(t, a, mode)
    assert_close(got, t, "what is returned, compared with the tensor itself")
    fans = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    n = fans[mode == "fan_out"]
    variance = 2 / (1 + a**2) / n
    assert_close(t.var().item() / variance, 1.0, "variance over its right value", rtol=0.05)
    scaled = t / math.sqrt(variance)
    assert_close(scaled.mean().item(), 0.0, "the mean, in std", atol=0.03)
    inside = (scaled.abs() < 1).double().mean().item()
    assert_close(inside, 0.6827, "the share within one std of a normal distribution", rtol=0.03)


@pytest.mark.exercise("init", points=3)
@pytest.mark.parametrize(
    "shape, gain",
    [
        ((300, 100), 1.0),
        ((100, 300), 2.5),
        ((32, 16, 9, 5), 5 / 3),
        ((90, 50, 7), 1),
        ((1, 60000), 2.0),
        ((60000, 1), 1),
    ],
)
def test_xavier_uniform(student, device, shape, gain):
    """xavier_uniform_ should stay within its bound, reach it, and have Xavier's variance."""
    t = torch.full(shape, 9.0, dtype=torch.float64, device=device)
    got = student.xavier_uniform_(t, gain)
    assert_close(got, t, "what is returned, compared with the tensor itself")
    fans = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    bound = gain * math.sqrt(6 / sum(fans))
    scaled = t / bound
    assert_close(scaled.max().item(), 1.0, "the largest weight over its bound", rtol=0.005)
    assert_close(scaled.min().item(), -1.0, "the smallest weight over its bound", rtol=0.005)
    assert_true(scaled.abs().max() <= 1, "No weight should be beyond the bound.")
    assert_close(3 * scaled.var().item(), 1.0, "variance over its right value", rtol=0.05)
    default = student.xavier_uniform_(torch.empty(shape, dtype=torch.float64, device=device))
    assert_close(default.abs().max().item(), bound / gain, "with gain 1, the largest", rtol=0.005)


@pytest.mark.exercise("init", points=4)
@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((6, 6), torch.float64),
        ((9, 4), torch.float64),
        ((3, 8), torch.float32),
        ((4, 3, 2, 5), torch.float64),
        ((10, 1, 3, 2), torch.float32),
        ((1, 5), torch.float64),
        ((5, 1), torch.float64),
        ((1, 1), torch.float64),
    ],
)
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_orthogonal(student, device, shape, dtype, gain):
    """All singular values of an orthogonal_ weight should be gain; axes behind the first are one."""
    t = torch.full(shape, 9.0, dtype=dtype, device=device)
    got = student.orthogonal_(t, gain)
    assert_close(got, t, "what is returned, compared with the tensor itself")
    W = t.flatten(1)
    W = W if W.shape[0] <= W.shape[1] else W.T
    eye = torch.eye(len(W), dtype=dtype, device=device)
    symptoms = {"The gain multiplies by its root.": gain * eye, "The gain is missing.": eye}
    assert_close(W @ W.T, gain**2 * eye, "W W^T (or W^T W)", atol=2e-5, rtol=0, symptoms=symptoms)


@pytest.mark.exercise("init", points=2)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2, 2), (3, 1)])
def test_orthogonal_is_fair(student, shape):
    """No sign and no place should be favoured: all entries are 0 on average, and equally large."""
    mean, square = student.run(fill_many, "orthogonal_", shape, 300)
    expected = torch.zeros(shape, dtype=torch.float64)
    assert_close(mean, expected, "the mean of 300 draws", atol=0.22)
    # The squares of the shorter axis' unit vectors add up to 1 over the longer one.
    assert_close(square, expected + 1 / max(shape), "the mean square of 300 draws", atol=0.1)


@pytest.mark.exercise("init", points=3)
@pytest.mark.parametrize("name", FILLERS)
def test_in_place_and_generator(student, device, name):
    """Parameters should be filled in place and returned; a generator should reproduce them."""
    for shape, dtype in (((4, 7), torch.float64), ((5, 3, 2), torch.float32)):
        got = student.run(fill_parameter, name, shape, dtype, device)
        expected = {
            "returned itself": True,
            "in place": True,
            "a leaf that learns": True,
            "dtype": str(dtype),
            "grad": True,
        }
        assert_equal(got, expected, f"what `{name}` makes of a parameter")
    one, again, other = student.run(fill_twice, name, (6, 8), {}, 5, device)
    assert_close(again, one, "the numbers of the same generator seed")
    assert_true(not torch.equal(other, one), "Another seed should give other numbers.")


@probe
def build_and_init(student, kind):
    """A network before and after init_model."""
    torch.manual_seed(1)
    if kind == "nested":
        block = nn.Sequential(nn.Conv2d(40, 60, 3), nn.BatchNorm2d(60), nn.ReLU())
        net = nn.Sequential(
            nn.Conv1d(50, 80, 5),
            nn.BatchNorm1d(7),
            nn.ModuleDict({"a": block, "b": nn.Conv3d(20, 30, (1, 2, 3), bias=False)}),
            nn.Conv2d(100, 100, 5, groups=50),
            nn.BatchNorm3d(3, affine=False),
            nn.Linear(6, 5),
            nn.Linear(5, 4, bias=False),
            nn.ConvTranspose2d(3, 2, 2),
            nn.LayerNorm(4),
            nn.Embedding(3, 2),
        )
    elif kind == "conv":
        net = nn.Conv2d(60, 70, 5)
    elif kind == "norm":
        net = nn.BatchNorm3d(6)
    else:
        net = nn.Linear(9, 3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.7)
        for b in net.buffers():
            if b.is_floating_point():
                b.add_(0.3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ids = [id(p) for p in net.parameters()]
    back = student.init_model(net)
    facts = {
        "returned": back is net,
        "same parameters": ids == [id(p) for p in net.parameters()],
        "all learn": all(p.requires_grad and p.is_leaf for p in net.parameters()),
        "training": net.training,
    }
    return before, {k: v.clone() for k, v in net.state_dict().items()}, facts


def check_convolution(after, name):
    w = after[name]
    variance = 2 / w[0].numel()
    assert_close(w.var().item() / variance, 1.0, f"{name}: variance over 2 / fan_in", rtol=0.1)
    assert_close(w.mean().item() / math.sqrt(variance), 0.0, f"{name}: mean in std", atol=0.06)


@pytest.mark.exercise("init", points=3)
def test_init_model(student):
    """init_model should treat each layer by its type, at every depth, and leave the rest alone."""
    before, after, facts = student.run(build_and_init, "nested")
    right = {"returned": True, "same parameters": True, "all learn": True, "training": True}
    assert_equal(facts, right, "the network after init_model")
    for name in ("3.weight", "2.a.0.weight", "0.weight", "2.b.weight"):
        check_convolution(after, name)
    for name in ("0.bias", "2.a.0.bias", "3.bias", "1.bias", "2.a.1.bias", "5.bias"):
        assert_close(after[name], torch.zeros_like(before[name]), name)
    for name in ("1.weight", "2.a.1.weight"):
        assert_close(after[name], torch.ones_like(before[name]), name)
    changed = {"0", "1", "2", "3"}
    for name in before:
        if name == "5.bias" or (
            name.split(".")[0] in changed and name.endswith(("weight", "bias"))
        ):
            continue
        assert_close(after[name], before[name], f"{name}, which should stay as it was,")


@pytest.mark.exercise("init", points=2)
@pytest.mark.parametrize("kind", ["conv", "norm", "linear"])
def test_init_single_layer(student, kind):
    """init_model should also work on a single layer, and return it."""
    before, after, facts = student.run(build_and_init, kind)
    assert_equal(facts["returned"], True, "whether the layer itself is returned")
    assert_close(after["bias"], torch.zeros_like(before["bias"]), "the bias")
    if kind == "conv":
        check_convolution(after, "weight")
    elif kind == "norm":
        assert_close(after["weight"], torch.ones(6), "the weight")
        assert_close(after["running_mean"], before["running_mean"], "the running mean")
    else:
        assert_close(after["weight"], before["weight"], "the weight")


# --- softmax ---------------------------------------------------------------------------------

LIBRARY = ("softmax", "log_softmax", "logsumexp", "logsigmoid", "softplus", "logaddexp", "softmin")
FAMILY = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "logsumexp": torch.logsumexp,
}


SIZES = pytest.mark.parametrize(
    "shape, dim",
    [
        ((5,), 0),
        ((3, 4), 0),
        ((3, 4), 1),
        ((2, 3, 5), 1),
        ((2, 3, 5), -1),
        ((1, 1), 1),
        ((4, 1), 1),
        ((3, 1, 5), 2),
    ],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
INF = math.inf


def check_values(student, device, name, shape, dim):
    f = getattr(student, name)
    for scale in (1.0, 300.0):
        x = scale * randn(*shape, device=device)
        with unchanged(x), does_not_call(student, *LIBRARY):
            got = f(x, dim)
        assert_close(got, FAMILY[name](x, dim), f"{name} along axis {dim}", atol=0, rtol=1e-9)
    shifted = f(x + 4096.0, dim) - (4096.0 if name == "logsumexp" else 0.0)
    assert_close(shifted, f(x, dim), f"{name} of shifted scores", rtol=1e-6, atol=1e-9)
    assert_close(f(x, dim=dim), f(x, dim), f"{name} with dim by name")


def check_huge(student, device, name, dtype):
    rows = [
        [1e4, 1e4, -1e4],
        [1e4, 0.0, -1e4],
        [-1e4, -1e4, -1e4],
        [9992.0, 1e4, 9984.0],
        [0.0, -3.0, 1.0],
    ]
    x = torch.tensor(rows, dtype=dtype, device=device)
    expected = FAMILY[name](x.double(), 1).to(dtype)
    symptoms = {}
    if name == "log_softmax":
        lse = torch.logsumexp(x, 1, keepdim=True)
        symptoms["Near 10000 few digits are left: subtract the maximum first."] = x - lse
    got = getattr(student, name)(x, 1)
    assert_close(got, expected, f"{name} in {dtype}", symptoms=symptoms)


def check_infinite_and_empty(student, device, name):
    f, theirs = getattr(student, name), FAMILY[name]
    x = torch.tensor(
        [[0.0, -INF, 2.0], [-INF, -INF, -INF], [-INF, 5.0, -INF]],
        dtype=torch.float64,
        device=device,
    )
    with unchanged(x):
        assert_close(f(x, 1), theirs(x, 1), f"{name} of {x.tolist()}")
    masked = x[[0, 2]]
    assert_close(f(masked, 0), theirs(masked, 0), f"{name} along axis 0")
    if name == "logsumexp":
        top = torch.tensor([[1.0, INF, -INF], [2.0, 3.0, INF]], dtype=torch.float64, device=device)
        assert_close(f(top, 1), theirs(top, 1), "logsumexp of rows with inf")
    if name != "log_softmax":  # its gradient of -inf is nan in torch, too
        assert_same_gradients(lambda t: f(t, 1), lambda t: theirs(t, 1), masked)
    for shape, dim in [((0,), 0), ((3, 0), 1), ((0, 2), 0), ((2, 0, 4), -2)]:
        with raises(ValueError):
            f(torch.empty(shape), dim)
    none = torch.empty(0, 3, dtype=torch.float64)
    assert_close(f(none, 1), theirs(none, 1), f"{name} of no rows")


def check_gradients(student, device, name):
    def mine(t):
        return getattr(student, name)(t, 1)

    def theirs(t):
        return FAMILY[name](t, 1)

    x = randn(2, 3, 2, device=device)
    assert_gradcheck(mine, x.clone().requires_grad_())
    ties = torch.tensor([[1.0, 1, 0], [5, 5, 5], [1e4, 0, -1e4]], device=device).double()
    for t in (x, ties, 1000 * x):
        assert_same_gradients(mine, theirs, t)


@pytest.mark.exercise("softmax", points=2)
@SIZES
def test_softmax(student, device, shape, dim):
    """softmax should equal torch's on any axis, input untouched."""
    check_values(student, device, "softmax", shape, dim)


@pytest.mark.exercise("softmax", points=2)
@DTYPES
def test_softmax_of_huge_scores(student, device, dtype):
    """Scores of +-10000 should give finite, exact probabilities in every floating-point format."""
    check_huge(student, device, "softmax", dtype)


@pytest.mark.exercise("softmax", points=1)
def test_softmax_of_infinite_scores_or_none(student, device):
    """An entry of -inf should get 0, a row of -inf nan; an empty axis a ValueError."""
    check_infinite_and_empty(student, device, "softmax")


@pytest.mark.exercise("softmax", points=1)
def test_softmax_gradients(student, device):
    """Gradients of softmax should equal torch's, for ties and huge scores too."""
    check_gradients(student, device, "softmax")


@pytest.mark.exercise("softmax", points=2)
@SIZES
def test_log_softmax(student, device, shape, dim):
    """log_softmax should equal torch's on any axis, input untouched."""
    check_values(student, device, "log_softmax", shape, dim)


@pytest.mark.exercise("softmax", points=2)
@DTYPES
def test_log_softmax_of_huge_scores(student, device, dtype):
    """log_softmax should be finite and exact for scores of +-10000, in every format."""
    check_huge(student, device, "log_softmax", dtype)


@pytest.mark.exercise("softmax", points=1)
def test_log_softmax_of_infinite_scores_or_none(student, device):
    """log_softmax of -inf should be -inf, a row of -inf nan; an empty axis a ValueError."""
    check_infinite_and_empty(student, device, "log_softmax")


@pytest.mark.exercise("softmax", points=1)
def test_log_softmax_gradients(student, device):
    """Gradients of log_softmax should equal torch's, for ties and huge scores too."""
    check_gradients(student, device, "log_softmax")


@pytest.mark.exercise("softmax", points=2)
@SIZES
def test_logsumexp(student, device, shape, dim):
    """logsumexp should equal torch's on any axis, which is dropped; input untouched."""
    check_values(student, device, "logsumexp", shape, dim)


@pytest.mark.exercise("softmax", points=2)
@DTYPES
def test_logsumexp_of_huge_scores(student, device, dtype):
    """logsumexp should be finite and exact for scores of +-10000, in every format."""
    check_huge(student, device, "logsumexp", dtype)


@pytest.mark.exercise("softmax", points=1)
def test_logsumexp_of_infinite_scores_or_none(student, device):
    """logsumexp of nothing but -inf should be -inf, with +inf inf; an empty axis a ValueError."""
    check_infinite_and_empty(student, device, "logsumexp")


@pytest.mark.exercise("softmax", points=1)
def test_logsumexp_gradients(student, device):
    """Gradients of logsumexp should equal torch's, for ties and huge scores too."""
    check_gradients(student, device, "logsumexp")


@pytest.mark.exercise("softmax", points=4)
@DTYPES
def test_log_sigmoid(student, device, dtype):
    """log_sigmoid should equal torch's from -10000 to 10000, with slope 1/2 at 0."""
    rows = [[-1e4, -120.0, -20.0, -1.0], [-0.01, 0.0, 0.5, 3.0], [8.0, 30.0, 100.0, 1e4]]
    x = torch.tensor(rows, dtype=dtype, device=device)
    expected = F.logsigmoid(x.double()).to(dtype)
    symptoms = {"The sigmoid underflows before the logarithm.": torch.sigmoid(x).log()}
    with unchanged(x), does_not_call(student, *LIBRARY):
        got = student.log_sigmoid(x)
    assert_close(got, expected, "log_sigmoid", symptoms=symptoms)
    if dtype == torch.float64:  # far right the result is tiny, and still right
        assert_close(got, expected, "log_sigmoid", rtol=1e-9, atol=0)
        assert_same_gradients(student.log_sigmoid, F.logsigmoid, x)
        assert_same_gradients(student.log_sigmoid, F.logsigmoid, 100 * randn(2, 3, 4))


@pytest.mark.exercise("softmax", points=3)
@pytest.mark.parametrize("shape", [(4,), (1,), (3, 5), (2, 3, 4)])
def test_softmax_jacobian(student, device, shape):
    """softmax_jacobian should be autograd's Jacobian, for a vector and for each row of a batch."""
    x = randn(*shape, device=device)
    y = torch.softmax(x, -1)
    rows = [
        torch.autograd.functional.jacobian(lambda t: torch.softmax(t, 0), row)
        for row in x.reshape(-1, shape[-1])
    ]
    expected = torch.stack(rows).reshape(*shape, shape[-1])
    with unchanged(y):
        got = student.softmax_jacobian(y)
    assert_shape(got, expected.shape, "the Jacobian")
    symptoms = {"The sign is turned round.": -expected, "The products are missing.": y.diag_embed()}
    assert_close(got, expected, "the Jacobian", symptoms=symptoms)
    # Not only for probabilities: the formula, on any numbers, in float32.
    z = randn(*shape, dtype=torch.float32, device=device)
    n = shape[-1]
    formula = z[..., None] * torch.eye(n, device=device) - torch.einsum("...i,...j->...ij", z, z)
    assert_close(student.softmax_jacobian(z), formula, "diag(y) - y y^T")
    assert_same_gradients(
        student.softmax_jacobian,
        lambda y: y.diag_embed() - torch.einsum("...i,...j->...ij", y, y),
        y,
        what="the gradient through the Jacobian",
    )
