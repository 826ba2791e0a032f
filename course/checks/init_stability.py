"""Public checks of the chapter on initialisation and numerical stability."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises, unchanged

HINTS = {
    "jacobian": [
        "`layer_jacobian`: compute z = W @ h, then the slope of `act` at z. Which axis of W "
        "belongs to z?",
        "For the slope, let z require a gradient and ask `torch.autograd.grad` for the gradient "
        "of `act(z).sum()`.",
        "`chain_jacobian`: start with the identity. In each layer, multiply its Jacobian from the "
        "left, and only then move h on.",
    ],
    "fans": [
        "A weight has the shape (out, in, *kernel). How many products are added up for one output?",
        "`math.prod(())` is 1, so a dense layer needs no case of its own.",
        "`kaiming_std`: choose the fan by its mode first, then the formula; say so if the mode is "
        "neither of the two.",
    ],
    "propagate": [
        "Draw the input once, note its mean square, and go through pairs of neighbouring widths.",
        "`init(W)` changes W in place; do not rely on what it returns.",
        "W has the shape (n_out, n_in), so a batch of rows goes through it by `h @ W.T`.",
    ],
    "init": [
        "`t[0].numel()` counts what makes one output. What does `t[:, 0].numel()` count?",
        "`t.normal_(0, std, generator=generator)` and `t.uniform_(-a, a, generator=generator)` "
        "fill in place and return t; a parameter wants `torch.no_grad()` around them.",
        "`orthogonal_`: make a tall normal matrix, multiply column j of Q by the sign of R[j, j], "
        "and transpose at the end if t is wide. `init_model`: `isinstance` for each of "
        "`net.modules()`, and look whether weight and bias are there.",
    ],
    "softmax": [
        "`x.amax(dim, keepdim=True)` is the number to subtract. `x -= ...` would change the "
        "caller's scores.",
        "`log_softmax`: with z = x - max, the logarithm of exp(z) / sum(exp(z)) is a difference. "
        "No exp is left in its first term.",
        "`logsumexp` of nothing but -inf: the maximum is -inf, and -inf minus -inf is nan. Which "
        "number could you subtract there instead? `log_sigmoid`: `torch.minimum` and "
        "`torch.log1p`.",
    ],
    "debug": [
        "At which step does the probability turn into 0? Is there a way to the logarithm that "
        "does not pass through it?",
        "PyTorch has one function from scores and targets to the mean loss.",
    ],
}

W = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [3.0, -1.0]])
H = torch.tensor([1.0, 1.0])  # z = (3, -1, 2)


@pytest.mark.exercise("jacobian")
def test_relu_layer(student):
    """`layer_jacobian` of a ReLU layer keeps the rows of W with z > 0 and clears the others."""
    expected = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
    symptoms = {
        "The slope of the activation is missing.": W,
        "It is transposed: row i belongs to output i.": expected.T,
    }
    assert_close(
        student.layer_jacobian(W, H, torch.relu), expected, "the Jacobian", symptoms=symptoms
    )


@pytest.mark.exercise("jacobian")
def test_tanh_layer(student):
    """With tanh, `layer_jacobian` multiplies row i of W by 1 - tanh(z_i)^2."""
    slope = 1 - torch.tensor([3.0, -1.0, 2.0]).tanh() ** 2
    assert_close(
        student.layer_jacobian(W, H, torch.tanh),
        slope[:, None] * W,
        "the Jacobian",
        symptoms={
            "These are the slopes at tanh(z), not at z.": (
                1 - torch.tensor([3.0, -1.0, 2.0]).tanh().tanh() ** 2
            )[:, None]
            * W
        },
    )


@pytest.mark.exercise("jacobian")
def test_two_layers(student):
    """`chain_jacobian` multiplies the later Jacobian from the left, at the later input."""
    V = torch.tensor([[1.0, 5.0, 1.0], [-1.0, 0.0, 0.0]])
    assert_close(
        student.chain_jacobian([W, V], H, torch.relu),
        torch.tensor([[4.0, 1.0], [0.0, 0.0]]),
        "the Jacobian of two layers",
    )
    assert_close(student.chain_jacobian([], H, torch.relu), torch.eye(2), "without layers, it")


@pytest.mark.exercise("fans")
def test_fans(student):
    """`fan` counts what makes one output and what one input takes part in, kernel included."""
    assert_close(
        tuple(student.fan((5, 3))),
        (3, 5),
        "`fan((5, 3))`",
        symptoms={"fan_in comes first; the input is the second axis.": (5, 3)},
    )
    assert_close(
        tuple(student.fan((8, 4, 3, 3))),
        (36, 72),
        "`fan((8, 4, 3, 3))`",
        symptoms={"The kernel is not counted.": (4, 8)},
    )
    with raises(ValueError):
        student.fan((5,))


@pytest.mark.exercise("fans")
def test_gains(student):
    """`gain` knows PyTorch's table, and raises a ValueError for any other name."""
    assert_close(
        student.gain("relu"),
        math.sqrt(2),
        "`gain('relu')`",
        symptoms={"2 is the factor on the variance.": 2.0},
    )
    assert_close(student.gain("tanh"), 5 / 3, "`gain('tanh')`")
    assert_close(student.gain("leaky_relu", 1.0), 1.0, "`gain('leaky_relu', 1.0)`")
    assert_close(student.gain("leaky_relu"), math.sqrt(2 / 1.0001), "`gain('leaky_relu')`")
    with raises(ValueError):
        student.gain("quiet_relu")


@pytest.mark.exercise("fans")
def test_stds(student):
    """`xavier_std` uses both fans, `kaiming_std` the one of its mode."""
    assert_close(student.xavier_std((6, 2)), 0.5, "`xavier_std((6, 2))`")
    assert_close(student.xavier_std((6, 2), 3.0), 1.5, "`xavier_std((6, 2), 3.0)`")
    assert_close(student.kaiming_std((2, 8)), 0.5, "`kaiming_std((2, 8))`")
    got = student.kaiming_std((2, 8), 0.0, "fan_out")
    assert_close(got, 1.0, "`kaiming_std((2, 8), 0.0, 'fan_out')`")
    assert_close(student.kaiming_std((2, 4), 1.0), 0.5, "`kaiming_std((2, 4), 1.0)`")


@probe
def doubled(w):
    nn.init.eye_(w)
    w.mul_(2)


@probe
def same(z):
    return z


@probe
def always_two(z):
    return 0 * z + 2


@probe
def input_and_shapes(student):
    shapes = []
    moments = student.second_moments(
        [40, 7, 20], torch.tanh, lambda w: shapes.append(tuple(w.shape)), 100
    )
    return float(moments[0]), shapes


@pytest.mark.exercise("propagate")
def test_doubling_layers(student):
    """`second_moments`: layers that double their input multiply the mean square by four."""
    got = student.second_moments([3, 3, 3], same, doubled, 5)
    assert_equal(len(got), 3, "the number of values")
    assert_close(
        [m / got[0] for m in got],
        [1.0, 4.0, 16.0],
        "the values over the first",
        symptoms={"These are roots: return the mean of the squares.": [1.0, 2.0, 4.0]},
    )


@pytest.mark.exercise("propagate")
def test_not_the_variance(student):
    """`second_moments` does not subtract the mean: an activation that is always 2 gives 4."""
    got = student.second_moments([3, 5], always_two, doubled, 4)
    assert_close(
        got[1],
        4.0,
        "the second moment",
        symptoms={"This is the variance; do not subtract the mean.": 0.0},
    )


@pytest.mark.exercise("propagate")
def test_input_and_shape(student):
    """The input of `second_moments` is standard normal, and weights have the shape (out, in)."""
    first, shapes = student.run(input_and_shapes)
    assert_close(first, 1.0, "the second moment of the input", rtol=0.15)
    assert_equal(shapes, [(7, 40), (20, 7)], "the shapes that init sees")


@pytest.mark.exercise("init")
def test_kaiming_and_xavier(student):
    """`kaiming_normal_` and `xavier_uniform_` fill a tensor in place and return it."""
    t = torch.zeros(100, 200)
    got = student.kaiming_normal_(t)
    assert_true(got is t, "`kaiming_normal_` should return t itself.")
    assert_close(t.std().item(), 0.1, "the std for 200 inputs", rtol=0.05)
    got = student.xavier_uniform_(t)
    assert_true(got is t, "`xavier_uniform_` should return t itself.")
    bound = math.sqrt(6 / 300)
    assert_close(
        t.abs().max().item(),
        bound,
        "the largest weight",
        rtol=0.01,
        symptoms={"That is the std; a uniform bound is sqrt(3) times it.": bound / math.sqrt(3)},
    )


@pytest.mark.exercise("init")
def test_orthogonal_rows(student):
    """`orthogonal_` gives orthogonal rows of length gain to a wide weight, columns to a tall one."""
    t = torch.empty(2, 5)
    student.orthogonal_(t, 3.0)
    assert_close(t @ t.T, 9 * torch.eye(2), "W W^T for gain 3", atol=1e-4)
    t = torch.empty(4, 2)
    student.orthogonal_(t)
    assert_close(t.T @ t, torch.eye(2), "W^T W", atol=1e-4)


@pytest.mark.exercise("init")
def test_model(student):
    """`init_model` clears biases and sets a batch normalisation to 1 and 0, at every depth."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4)), nn.Linear(4, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
    assert_true(student.init_model(net) is net, "`init_model` should return the network.")
    assert_close(net[0].bias.detach(), torch.zeros(4), "the convolution's bias")
    assert_true(len(net[0].weight.unique()) > 9, "The convolution's weight should be random.")
    assert_close(net[1][0].weight.detach(), torch.ones(4), "the batch normalisation's weight")
    assert_close(net[1][0].bias.detach(), torch.zeros(4), "the batch normalisation's bias")
    assert_close(net[2].bias.detach(), torch.zeros(2), "the linear layer's bias")
    assert_close(net[2].weight.detach(), torch.full((2, 4), 0.5), "the linear layer's weight")


@pytest.mark.exercise("softmax")
def test_softmax_values(student):
    """`softmax` adds up to 1, survives scores of 1000, and leaves its input as it was."""
    x = torch.tensor([[0.0, math.log(3.0)], [1000.0, 1000.0]])
    with unchanged(x):
        got = student.softmax(x, 1)
    assert_close(got, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    got = student.softmax(x[:, :1], 0)
    assert_close(got, torch.tensor([[0.0], [1.0]]), "along axis 0, the output")
    with raises(ValueError):
        student.softmax(torch.empty(2, 0), 1)


@pytest.mark.exercise("softmax")
def test_logarithms(student):
    """`log_softmax` and `logsumexp` are right where softmax underflows."""
    x = torch.tensor([0.0, -200.0])
    got = student.log_softmax(x, 0)
    assert_close(got, torch.tensor([0.0, -200.0]), "log_softmax of (0, -200)")
    got = student.logsumexp(torch.tensor([[1000.0, 1000.0]]), 1)
    assert_close(got, torch.tensor([1000.0 + math.log(2)]), "logsumexp of (1000, 1000)")
    got = student.logsumexp(torch.tensor([-math.inf, -math.inf]), 0)
    assert_close(got, torch.tensor(-math.inf), "logsumexp of (-inf, -inf)")


@pytest.mark.exercise("softmax")
def test_log_sigmoid(student):
    """`log_sigmoid` is -log 2 at 0 with slope 1/2, and nearly x far to the left."""
    x = torch.tensor([-300.0, 0.0, 300.0], requires_grad=True)
    y = student.log_sigmoid(x)
    assert_close(y, torch.tensor([-300.0, -math.log(2), 0.0]), "log_sigmoid of (-300, 0, 300)")
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert_close(slope, torch.tensor([1.0, 0.5, 0.0]), "its slope")


@pytest.mark.exercise("softmax")
def test_softmax_jacobian(student):
    """`softmax_jacobian` is diag(y) - y y^T."""
    y = torch.tensor([0.25, 0.75])
    expected = torch.tensor([[3.0, -3.0], [-3.0, 3.0]]) / 16
    assert_close(
        student.softmax_jacobian(y),
        expected,
        "the Jacobian",
        symptoms={"The products of different outputs are missing.": torch.diag(y * (1 - y))},
    )


@pytest.mark.exercise("debug")
def test_loss_far_away(student):
    """`safe_loss` is finite, and so is its gradient, however wrong the model is."""
    logits = torch.tensor([[0.0, 500.0], [1.0, 1.0]], requires_grad=True)
    target = torch.tensor([0, 1])
    loss = student.safe_loss(logits, target)
    assert_close(loss, F.cross_entropy(logits, target), "the loss")
    (grad,) = torch.autograd.grad(loss, logits)
    assert_close(grad[0], torch.tensor([-0.5, 0.5]), "the gradient of the first scores")
