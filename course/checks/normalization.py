"""Public checks of the chapter on normalisation layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, probe, raises, unchanged

HINTS = {
    "bn": [
        "The axes to average over are all but axis 1. To combine a vector of C numbers with x, "
        "give it the shape (1, C, 1, …).",
        "Two questions, in this order: which statistics normalise x, the batch's or the running "
        "ones? And should the running ones move now?",
        "Normalise with `var(…, correction=0)`. Move running_var towards m / (m - 1) times that; "
        "without a momentum the step is 1 / num_batches_tracked.",
    ],
    "bnback": [
        "dgamma and dbeta are sums over all axes but the channel's, and you need both for dx.",
        "The formula has means, of g and of g·x̂. How many values does a channel have?",
        "dx = gamma / std · (dy - mean of dy - xhat · mean of dy·xhat), with vectors of C numbers "
        "in the shape (1, C, 1, …).",
    ],
    "family": [
        "`keepdim=True` keeps the averaged axes, so that the mean broadcasts against x.",
        "The biased variance is `x.var(axes, correction=0)`; eps stands below the root.",
        "For groups: reshape to (N, G, -1), standardise over the last axis, reshape back to x's "
        "shape, and only then use gamma and beta in the shape (1, C, 1, …).",
    ],
    "fold": [
        "Write the batch norm as a · z + c for each channel. What is a, what is c?",
        "A channel of the output has one filter, so a has to broadcast against a weight of shape "
        "(C_out, C_in / groups, k, k).",
        "`copy.deepcopy(conv)` keeps all settings; then give it a new weight, a · w, and a new "
        "bias, a · (b - mean) + beta. A missing bias counts as 0, a missing gamma as 1.",
    ],
    "shift": [
        "In training the variance is E[x_d²] - E[x_d]². Both means are derived above.",
        "A mask of the shape of x: `torch.rand_like(x) < keep`. Do not forget the division by "
        "keep.",
        "Variance of x over the *mean* of the n variances; a new mask in each pass.",
    ],
    "zerogamma": [
        "`net.modules()` visits everything, net itself included. Which of them are blocks?",
        "Within one block, collect the batch norms of `block.body.modules()`; the last one of the "
        "list is wanted.",
        "`nn.init.zeros_(norm.weight)` sets a parameter in place. Count the blocks that had one.",
    ],
    "debug": [
        "Print the state dict of the body before and after. Which entries differ?",
        "Running statistics move in every forward pass in training mode. Who puts the body into "
        "that mode?",
    ],
}

BATCH = torch.tensor([[1.0, 10], [3, 10], [5, 40], [7, 40]])


@pytest.mark.exercise("bn")
def test_worked_example(student):
    """In training `MyBatchNorm` standardises each channel with the batch's biased variance."""
    centred = BATCH - BATCH.mean(0)
    expected = centred / torch.sqrt(BATCH.var(0, correction=0) + 1e-5)
    with unchanged(BATCH):
        got = student.MyBatchNorm(2)(BATCH)
    rows = BATCH - BATCH.mean(1, keepdim=True)
    assert_close(
        got,
        expected,
        symptoms={
            "Divide by m, not by m - 1, to normalise.": centred / BATCH.std(0),
            "The running statistics are for evaluation; in training use the batch's.": BATCH
            / (1 + 1e-5) ** 0.5,
            "The mean is taken over the channels; it belongs over the batch.": rows
            / torch.sqrt(BATCH.var(1, keepdim=True, correction=0) + 1e-5),
            "Divide by the root of the variance.": centred / (BATCH.var(0, correction=0) + 1e-5),
        },
    )


@pytest.mark.exercise("bn")
def test_pictures(student):
    """For pictures the statistics of a channel are taken over the batch and all positions."""
    x = torch.arange(24.0).view(2, 3, 2, 2) ** 1.5
    assert_close(
        student.MyBatchNorm(3)(x),
        F.batch_norm(x, None, None, training=True),
        symptoms={
            "Each position has statistics of its own; pool the positions, too.": (x - x.mean(0))
            / torch.sqrt(x.var(0, correction=0) + 1e-5),
        },
    )


@pytest.mark.exercise("bn")
def test_running_statistics(student):
    """The running statistics move by momentum towards the batch's mean and unbiased variance."""
    bn = student.MyBatchNorm(2)
    bn(BATCH)
    state = bn.state_dict()
    assert_equal(
        sorted(state),
        ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"],
        "the names in the state dict",
    )
    mean, var = BATCH.mean(0), BATCH.var(0)
    assert_close(
        state["running_mean"],
        0.1 * mean,
        "running_mean after one batch",
        symptoms={"momentum is the weight of the new value.": 0.9 * mean},
    )
    assert_close(
        state["running_var"],
        0.9 + 0.1 * var,
        "running_var after one batch",
        symptoms={
            "running_var collects the unbiased variance.": 0.9 + 0.1 * BATCH.var(0, correction=0),
            "momentum is the weight of the new value.": 0.1 + 0.9 * var,
        },
    )
    assert_equal(int(state["num_batches_tracked"]), 1, "num_batches_tracked after one batch")


@pytest.mark.exercise("bn")
def test_evaluation(student):
    """In evaluation the running statistics are used, and stay; an example stands alone."""
    bn = student.MyBatchNorm(2)
    bn(BATCH)
    bn.eval()
    expected = (BATCH - 0.1 * BATCH.mean(0)) / torch.sqrt(0.9 + 0.1 * BATCH.var(0) + 1e-5)
    assert_close(bn(BATCH), expected, "the output in evaluation")
    assert_close(bn(BATCH[:1]), expected[:1], "the output for one example, the second time")


@pytest.mark.exercise("bn")
def test_options(student):
    """`momentum=None` averages all batches; one value per channel is a ValueError in training."""
    bn = student.MyBatchNorm(2, momentum=None)
    bn(BATCH), bn(3 * BATCH)
    assert_close(bn.running_mean, 2 * BATCH.mean(0), "running_mean after two batches")
    with raises(ValueError):
        student.MyBatchNorm(2)(BATCH[:1])


@pytest.mark.exercise("bnback")
def test_small_batch(student):
    """`bn_backward` gives the gradients of a batch of three, as autograd does."""
    x = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    beta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    std = torch.sqrt(x.var(0, correction=0) + 1e-5)
    xhat = (x - x.mean(0)) / std
    dy = torch.tensor([[1.0], [-1.0], [3.0]], dtype=torch.float64)
    dx, dgamma, dbeta = torch.autograd.grad((gamma * xhat + beta).mul(dy).sum(), (x, gamma, beta))
    xhat, gamma, std = xhat.detach(), gamma.detach(), std.detach()
    got = student.bn_backward(dy, (xhat, gamma, std))
    assert_equal(len(got), 3, "the number of gradients")
    direct = gamma / std * dy
    assert_close(
        got[0],
        dx,
        "dx",
        symptoms={
            "μ and the standard deviation depend on x, too.": direct,
            "The part through the standard deviation is missing.": direct - direct.mean(0),
            "The part through the mean is missing.": direct - xhat * (direct * xhat).mean(0),
            "Gamma is missing.": dx / gamma,
            "The division by the standard deviation is missing.": dx * std,
        },
    )
    assert_close(got[1], dgamma, "dgamma")
    assert_close(got[2], dbeta, "dbeta")


@pytest.mark.exercise("bnback")
def test_sums_are_zero(student):
    """For pictures, too, the gradients for a channel add up to 0."""
    dy = torch.arange(24.0, dtype=torch.float64).view(2, 3, 2, 2).sin()
    xhat = F.batch_norm(dy.cos(), None, None, training=True, eps=1e-12)
    one = torch.ones(3, dtype=torch.float64)
    dx, dgamma, _ = student.bn_backward(dy, (xhat, one, 2 * one))
    assert_close(dx.sum((0, 2, 3)), 0 * one, "the sums of dx")
    assert_close(dgamma, (dy * xhat).sum((0, 2, 3)), "dgamma")


@pytest.mark.exercise("family")
def test_axes(student):
    """`normalize` gives mean 0 and variance 1 over the chosen axes, whichever they are."""
    x = torch.tensor([[1.0, 3, 5, 7], [0, 0, 4, 4]])
    with unchanged(x):
        got = student.normalize(x, (1,), 1e-5)
    assert_close(
        got,
        F.layer_norm(x, (4,)),
        "the output over axis 1",
        symptoms={
            "The variance should divide by n, not by n - 1.": (x - x.mean(1, keepdim=True))
            / torch.sqrt(x.var(1, keepdim=True) + 1e-5),
        },
    )
    x = torch.arange(24.0).view(2, 3, 2, 2) ** 1.5
    assert_close(student.normalize(x, (2, 3), 1e-5), F.instance_norm(x), "the output over (2, 3)")
    zeros = torch.zeros(2, 3)
    assert_close(student.normalize(zeros, (0,), 1e-5), zeros, "the output for equal values")


@pytest.mark.exercise("family")
def test_groups(student):
    """`group_norm` normalises groups of neighbouring channels; gamma and beta belong to channels."""
    x = torch.arange(16.0).view(1, 4, 2, 2) ** 1.5
    gamma, beta = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.0, 1, 0, -1])
    plain = F.group_norm(x, 2)
    assert_close(
        student.group_norm(x, 2, gamma, beta),
        F.group_norm(x, 2, gamma, beta),
        symptoms={
            "gamma and beta are not used.": plain,
            "The channels of a group are neighbours.": F.group_norm(
                x[:, [0, 2, 1, 3]], 2, gamma[[0, 2, 1, 3]], beta[[0, 2, 1, 3]]
            )[:, [0, 2, 1, 3]],
            "There should be G groups, not groups of G channels; and each example has its own.": (
                F.instance_norm(x) * gamma.view(1, 4, 1, 1) + beta.view(1, 4, 1, 1)
            ),
        },
    )
    with raises(ValueError):
        student.group_norm(x, 3, gamma, beta)


def small_pair(**settings):
    """A convolution and a batch norm behind it, with numbers that matter."""
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(2, 3, 2, **settings), nn.BatchNorm2d(3)
    with torch.no_grad():
        bn.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        bn.running_var.copy_(torch.tensor([4.0, 0.25, 1e-6]))
        bn.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        bn.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    return conv.eval(), bn.eval()


@pytest.mark.exercise("fold")
def test_same_function(student):
    """The folded convolution gives what bn(conv(x)) gives in eval mode, with and without bias."""
    x = torch.linspace(-1, 2, 18).view(1, 2, 3, 3)
    for settings in ({}, {"bias": False, "stride": 2}):
        conv, bn = small_pair(**settings)
        with torch.no_grad():
            z, mean, var = conv(x), bn.running_mean, bn.running_var
            wide = (slice(None), None, None)
            without_eps = bn.weight[wide] * (z - mean[wide]) / var[wide].sqrt() + bn.bias[wide]
            got = student.fold_conv_bn(conv, bn)(x)
            expected = bn(z)
        assert_close(
            got.detach(),
            expected,
            f"the output for {settings or 'a plain convolution'}",
            rtol=1e-4,
            atol=1e-3,
            symptoms={
                "eps is missing below the root.": without_eps,
                "beta is missing.": expected - bn.bias[wide].detach(),
                "This is the convolution without the batch norm.": z,
            },
        )


@pytest.mark.exercise("fold")
def test_fold_leaves_the_originals(student):
    """conv and bn stay as they are; without running statistics there is a ValueError."""
    conv, bn = small_pair()
    with unchanged(conv.weight, conv.bias, bn.weight, bn.running_var):
        student.fold_conv_bn(conv, bn)
    with raises(ValueError):
        student.fold_conv_bn(conv, nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.exercise("shift")
def test_formula(student):
    """`shift_ratio` gives 0.444 for mean 0.5, variance 1 and keep 0.5, and 1 without dropout."""
    assert_close(
        student.shift_ratio(0.5, 1.0, 0.5),
        1 / 2.25,
        "`shift_ratio(0.5, 1.0, 0.5)`",
        symptoms={
            "Upside down: the variance in use is the smaller one.": 2.25,
            "The second term is missing: subtract the square of the mean.": 1 / 2.5,
            "The mean enters squared.": 1 / (1.5 / 0.5 - 0.5),
        },
    )
    assert_close(student.shift_ratio(3.0, 2.0, 1), 1.0, "the ratio without dropout")
    with raises(ValueError):
        student.shift_ratio(0.5, 1.0, 0)


@pytest.mark.exercise("shift")
def test_dice(student):
    """`measure` finds the same ratio by drawing masks, within a few percent."""
    torch.manual_seed(0)
    x = 0.5 + torch.randn(20_000, dtype=torch.float64)
    e, v = x.mean().item(), x.var().item()
    with unchanged(x):
        got = student.measure(0.5, x, 10)
    assert_close(
        got,
        v / ((v + e**2) / 0.5 - e**2),
        "`measure(0.5, x, 10)`",
        rtol=0.05,
    )
    assert_close(student.measure(1, x, 2), 1.0, "the ratio without dropout", rtol=1e-6)


@probe
def zero_and_tell(student):
    """The count, and the gammas that are zero, of a net with two blocks."""

    def block():
        return student.Residual(
            nn.Sequential(
                nn.Conv2d(2, 2, 1, bias=False),
                nn.BatchNorm2d(2),
                nn.ReLU(),
                nn.Conv2d(2, 2, 1, bias=False),
                nn.BatchNorm2d(2),
            )
        )

    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), block(), block())
    count = student.zero_init_last_bn(net)
    names = [n for n, p in net.named_parameters() if n.endswith("weight") and not p.any()]
    x = torch.linspace(-1, 1, 18).view(1, 2, 3, 3)
    return count, names, net[2](x).detach(), x.relu()


@pytest.mark.exercise("zerogamma")
def test_two_blocks(student):
    """Only the last gamma of each body becomes 0; a block then gives its shortcut."""
    count, names, got, shortcut = student.run(zero_and_tell)
    assert_close(
        names,
        ["2.body.4.weight", "3.body.4.weight"],
        "the names of the weights that are zero",
        symptoms={
            "Every batch norm of a body is zero; only the last one should be.": [
                "2.body.1.weight",
                "2.body.4.weight",
                "3.body.1.weight",
                "3.body.4.weight",
            ],
            "The first batch norm of each body is zero, not the last.": [
                "2.body.1.weight",
                "3.body.1.weight",
            ],
            "Each block has a last batch norm; only the net's last one is zero.": [
                "3.body.4.weight"
            ],
        },
    )
    assert_equal(count, 2, "the number of gammas that were set")
    assert_close(got, shortcut, "the output of a block at the start")


@probe
def one_epoch(student):
    """What changes in an epoch of a net whose body should be frozen."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU())
    net = nn.Sequential(body, nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)))
    x = torch.linspace(-2, 5, 30).view(10, 3)
    net.eval()
    before = body(x).detach()
    student.start_epoch(net)
    head = net[1].training
    net(x).sum().backward()
    none = all(p.grad is None for p in body.parameters())
    body.eval()
    return before, body(x).detach(), head, none, net[1][0].weight.grad is not None


@pytest.mark.exercise("debug")
def test_frozen(student):
    """After `start_epoch` the body computes the same before and after a step; the head learns."""
    before, after, head, none, learns = student.run(one_epoch)
    assert_close(after, before, "the body's features after a training step")
    assert_equal(none, True, "whether the body's parameters get no gradient")
    assert_equal(head, True, "whether the head is in training mode")
    assert_equal(learns, True, "whether the head's parameters get a gradient")
