"""Hidden tests of the chapter on classic CNNs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_true,
    probe,
    raises,
    randn,
    unchanged,
)

# --- lenet -----------------------------------------------------------------------------------


@probe
def lenet_state(student, in_ch, size, classes):
    """The shapes of the parameters by name, and whether the net is an nn.Module."""
    net = student.lenet(in_ch, size, classes)
    shapes = {name: list(p.shape) for name, p in net.named_parameters()}
    return shapes, isinstance(net, nn.Module)


@probe
def lenet_layers(student):
    net = student.lenet(2, 24, 3)
    return (
        [name for name, _ in net.features.named_children()],
        [name for name, _ in net.classifier.named_children()],
        isinstance(net.features, nn.Sequential) and isinstance(net.classifier, nn.Sequential),
    )


@probe
def run_lenet(student, in_ch, size, classes, weights, x, train):
    """With given weights: the features, the scores, and the gradients of sum(scores * c)."""
    net = student.lenet(in_ch, size, classes)
    net = net.to(x.device, x.dtype).train(train)
    own = dict(net.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    maps = net.features(x)
    scores = net(x)
    scale = torch.linspace(-1, 1, scores.numel(), dtype=x.dtype, device=x.device)
    (scores.flatten() @ scale).backward()
    grads = {name: own[name].grad.clone() for name in weights}
    again = net.classifier(maps.flatten(1))
    return maps.detach(), scores.detach(), grads, again.detach()


@probe
def lenet_twice(student):
    """Whether two networks have weights of their own."""
    one, other = student.lenet(1, 20, 4), student.lenet(1, 20, 4)
    before = [p.detach().clone() for p in other.parameters()]
    with torch.no_grad():
        for p in one.parameters():
            p.fill_(3.0)
    return all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def lenet_side(size):
    return ((size - 4) // 2 - 4) // 2


def lenet_shapes(in_ch, size, classes):
    flat = 16 * lenet_side(size) ** 2
    shapes = {
        "features.conv1": (6, in_ch, 5, 5),
        "features.conv2": (16, 6, 5, 5),
        "classifier.fc1": (120, flat),
        "classifier.fc2": (84, 120),
        "classifier.fc3": (classes, 84),
    }
    both = {}
    for name, shape in shapes.items():
        both[f"{name}.weight"] = list(shape)
        both[f"{name}.bias"] = [shape[0]]
    return both


def lenet_reference(weights, x, pool=F.max_pool2d):
    w = weights
    maps = x
    for name in ("features.conv1", "features.conv2"):
        maps = pool(F.conv2d(maps, w[f"{name}.weight"], w[f"{name}.bias"]).relu(), 2)
    h = maps.flatten(1)
    for name in ("classifier.fc1", "classifier.fc2"):
        h = F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"]).relu()
    return maps, F.linear(h, w["classifier.fc3.weight"], w["classifier.fc3.bias"])


def lenet_weights(in_ch, size, classes, device):
    return {
        name: randn(*shape, device=device)
        * (0.5 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)
        for name, shape in lenet_shapes(in_ch, size, classes).items()
    }


@pytest.mark.exercise("lenet", points=4)
@pytest.mark.parametrize(
    "in_ch, size, classes", [(1, 32, 10), (3, 28, 10), (1, 40, 7), (2, 35, 2), (4, 16, 1)]
)
def test_parameters(student, in_ch, size, classes):
    """lenet should have the parameters that the paper count gives, under the documented names."""
    shapes, module = student.run(lenet_state, in_ch, size, classes)
    assert_true(module, "lenet should return an nn.Module.")
    expected = lenet_shapes(in_ch, size, classes)
    assert_equal(shapes, expected, f"the parameters of lenet({in_ch}, {size}, {classes})")
    total = sum(math.prod(shape) for shape in shapes.values())
    if (in_ch, size, classes) == (1, 32, 10):
        assert_equal(total, 61706, "the number of parameters")


@pytest.mark.exercise("lenet", points=2)
def test_layer_names(student):
    """features and classifier should be Sequentials, their layers in the documented order."""
    features, classifier, sequential = student.run(lenet_layers)
    assert_true(sequential, "features and classifier should be nn.Sequential.")
    assert_equal(
        features, ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"], "the layers of features"
    )
    assert_equal(classifier, ["fc1", "relu3", "fc2", "relu4", "fc3"], "the layers of classifier")


@pytest.mark.exercise("lenet", points=4)
@pytest.mark.parametrize("n, in_ch, size, classes", [(3, 1, 32, 10), (1, 3, 29, 4), (2, 2, 16, 3)])
def test_scores(student, device, n, in_ch, size, classes):
    """With given weights the maps and the scores should be those of the layers in order."""
    weights = lenet_weights(in_ch, size, classes, device)
    x = randn(n, in_ch, size, size, device=device)
    maps, scores = lenet_reference(weights, x)
    for train in (True, False):
        got = student.run(run_lenet, in_ch, size, classes, weights, x, train)
        assert_close(
            got[0],
            maps,
            "the maps",
            symptoms={
                "The pooling takes the mean; it should take the maximum.": lenet_reference(
                    weights, x, F.avg_pool2d
                )[0]
            },
        )
        assert_close(got[1], scores, "the scores")
        assert_close(got[3], scores, "the classifier of the flattened maps")


@pytest.mark.exercise("lenet", points=3)
def test_lenet_gradients(student, device):
    """The gradients should reach every weight, and two networks should not share theirs."""
    weights = lenet_weights(2, 21, 5, device)
    x = randn(3, 2, 21, 21, device=device)
    _, _, got, _ = student.run(run_lenet, 2, 21, 5, weights, x, True)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    _, scores = lenet_reference(leaves, x)
    scale = torch.linspace(-1, 1, scores.numel(), dtype=x.dtype, device=device)
    grads = torch.autograd.grad(scores.flatten() @ scale, list(leaves.values()))
    assert_close(got, dict(zip(leaves, grads, strict=True)), "the gradients")
    assert_true(student.run(lenet_twice), "Two networks share their weights.")


@pytest.mark.exercise("lenet", points=2)
@pytest.mark.parametrize("size", [15, 13, 9, 5, 4, 1])
def test_too_small(student, size):
    """lenet should raise a ValueError where the layers leave no pixel, and 16 pixels are enough."""
    with raises(ValueError):
        student.lenet(1, size, 10)
    shapes, _ = student.run(lenet_state, 1, 16, 10)
    assert_equal(shapes["classifier.fc1.weight"], [120, 16], "the weight of fc1 for 16 pixels")


# --- lrn -------------------------------------------------------------------------------------


@pytest.mark.exercise("lrn", points=6)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9, 16])
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (1, 3, 5, 2), (3, 1, 2, 2)])
def test_equals_the_library(student, device, n, shape):
    """lrn should equal F.local_response_norm for even and odd n, also if n exceeds C."""
    x = 2 * randn(*shape, device=device)
    args = (n, 0.7, 0.75, 1.5)
    expected = F.local_response_norm(x, *args)
    behind = F.local_response_norm(x.flip(1), *args).flip(1)
    symptoms = {
        "alpha should be divided by n.": F.local_response_norm(x, n, 0.7 * n, 0.75, 1.5),
        "For even n, the extra channel of the window comes before, not behind.": behind,
    }
    with unchanged(x):
        got = student.lrn(x, *args)
    assert_close(got, expected, symptoms=symptoms)


@pytest.mark.exercise("lrn", points=2)
@pytest.mark.parametrize("alpha, beta, k", [(1e-4, 0.75, 2.0), (2.0, 0.5, 1.0), (0.3, 2.0, 0.1)])
def test_constants(student, device, alpha, beta, k):
    """alpha, beta and k should act as in the formula, by position and by name."""
    x = randn(2, 6, 3, 3, device=device)
    expected = F.local_response_norm(x, 4, alpha, beta, k)
    assert_close(student.lrn(x, 4, alpha, beta, k), expected)
    assert_close(student.lrn(x, n=4, k=k, beta=beta, alpha=alpha), expected, "by name")


@pytest.mark.exercise("lrn", points=2)
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 2, 3, 2), (1, 4, 1, 1)])
def test_axes_and_dtype(student, device, shape):
    """lrn should take any number of axes after the channels, and keep float32."""
    x = randn(*shape, device=device)
    expected = F.local_response_norm(x, 3, 0.9, 0.6, 1.2)
    assert_close(student.lrn(x, 3, 0.9, 0.6, 1.2), expected)
    assert_close(student.lrn(x.float(), 3, 0.9, 0.6, 1.2), expected.float(), "in float32")


@pytest.mark.exercise("lrn", points=3)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_lrn_gradient(student, device, n):
    """The gradient should equal the library's and finite differences."""
    x = randn(1, 4, 2, 2, device=device, requires_grad=True)
    assert_gradcheck(lambda x: student.lrn(x, n, 0.8, 0.75, 1.5), x)
    assert_same_gradients(
        lambda x: student.lrn(x, n, 0.8, 0.75, 1.5),
        lambda x: F.local_response_norm(x, n, 0.8, 0.75, 1.5),
        randn(2, 5, 3, 2, device=device),
    )


@pytest.mark.exercise("lrn", points=2)
def test_window_of_nothing(student):
    """lrn should raise a ValueError if n is less than 1, and accept n = 1."""
    x = randn(1, 3, 2, 2)
    for n in (0, -1, -4):
        with raises(ValueError):
            student.lrn(x, n, 1.0, 0.75, 1.0)
    assert_close(student.lrn(x, 1, 1.0, 1.0, 1.0), x / (1 + x**2), "the output for n = 1")


# --- alexnet ---------------------------------------------------------------------------------


@probe
def alexnet_table(student):
    """The table of torchvision's AlexNet, written out, on the device meta."""

    class Photo(nn.Module):
        def forward(self, x):
            return torch.zeros(2, 3, 224, 224, device="meta")

    with torch.device("meta"):
        relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, 2)
        features = nn.Sequential(
            *[nn.Conv2d(3, 64, 11, 4, 2), relu(), pool()],
            *[nn.Conv2d(64, 192, 5, padding=2), relu(), pool()],
            *[nn.Conv2d(192, 384, 3, padding=1), relu()],
            *[nn.Conv2d(384, 256, 3, padding=1), relu()],
            *[nn.Conv2d(256, 256, 3, padding=1), relu(), pool()],
        )
        classifier = nn.Sequential(
            *[nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), relu()],
            *[nn.Dropout(), nn.Linear(4096, 4096), relu(), nn.Linear(4096, 1000)],
        )
    net = nn.Sequential()
    for name, part in (("photo", Photo()), ("features", features), ("classifier", classifier)):
        net.add_module(name, part)
    return [tuple(row) for row in student.layer_table(net, torch.zeros(1))]


@probe
def odd_table(student):
    """A network whose layers do not run in the order in which they were made; one never runs."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 2, bias=False)
            self.idle = nn.Linear(3, 3)
            self.first = nn.Linear(4, 6)
            self.twice = nn.Linear(6, 6)
            self.first.weight.requires_grad_(False)

        def forward(self, x):
            return self.last(self.twice(self.twice(self.first(x))))

    rows = student.layer_table(Odd(), torch.zeros(5, 4))
    single = student.layer_table(nn.Linear(3, 2), torch.zeros(1, 3))
    return [tuple(row) for row in rows], [tuple(row) for row in single]


@probe
def traces(student, fail):
    """Hooks, modes, statistics, and what the forward saw; the run may fail."""
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append((torch.is_grad_enabled(), self.training))
            if fail:
                raise RuntimeError("no")
            return x

    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(norm, nn.Dropout()), Watch())
    net[1].eval()
    net[1][1].train()
    before = [m.training for m in net.modules()]
    mean = norm.running_mean.clone()
    raised = False
    try:
        student.layer_table(net, torch.randn(4, 2))
    except RuntimeError as error:
        raised = "no" in str(error)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(m, kind)) for m in net.modules() for kind in kinds)
    after = [m.training for m in net.modules()]
    return (
        hooks,
        (after, before),
        torch.equal(mean, norm.running_mean),
        seen,
        raised,
        torch.is_grad_enabled(),
    )


@probe
def train_table(student):
    """A single picture through a batch normalisation, and statistics in train mode."""
    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(2, 3), norm)
    rows = student.layer_table(net, torch.randn(1, 2))
    return [tuple(row) for row in rows], norm.running_mean.tolist(), net.training


@pytest.mark.exercise("alexnet", points=4)
def test_alexnet(student):
    """The table of AlexNet should have its shapes, and 61,100,840 parameters."""
    rows = student.run(alexnet_table)
    assert_equal(sum(params for *_, params in rows), 61100840, "the sum of the parameters")
    assert_equal(len(rows), 22, "the number of rows")
    rows = rows[1:]  # without the layer that makes the photo
    assert_equal(rows[0], ("features.0", (2, 64, 55, 55), 23296), "the first row")
    assert_equal(rows[5], ("features.5", (2, 192, 13, 13), 0), "the sixth row")
    assert_equal(rows[12], ("features.12", (2, 256, 6, 6), 0), "the last row of the features")
    assert_equal(
        rows[15], ("classifier.2", (2, 4096), 37752832), "the row of the first dense layer"
    )
    assert_equal(rows[-1], ("classifier.7", (2, 1000), 4097000), "the last row")


@pytest.mark.exercise("alexnet", points=3)
def test_order_of_running(student):
    """Rows come in running order; a second run of a layer counts 0; an idle layer has no row."""
    rows, single = student.run(odd_table)
    assert_equal(
        rows,
        [("first", (5, 6), 30), ("twice", (5, 6), 42), ("twice", (5, 6), 0), ("last", (5, 2), 12)],
        "the table",
    )
    assert_equal(single, [("", (1, 2), 8)], "the table of a single layer")


@pytest.mark.exercise("alexnet", points=3)
def test_nothing_is_left(student):
    """The run should be in eval mode without gradients, and leave no hook and no changed mode."""
    for fail in (False, True):
        hooks, modes, mean, seen, raised, grad = student.run(traces, fail)
        when = "after a run that fails" if fail else "after the run"
        assert_equal(hooks, 0, f"the number of hooks {when}")
        assert_close(
            list(modes[0]), list(modes[1]), f"whether each module is in train mode {when},"
        )
        assert_true(mean, "The statistics of a batch normalisation have changed.")
        assert_equal([tuple(s) for s in seen], [(False, False)], "(gradients on, train mode)")
        assert_equal(raised, fail, "whether the network's error comes through")
        assert_true(grad, "Gradients are still switched off.")
    rows, mean, training = student.run(train_table)
    assert_equal(rows, [("0", (1, 3), 9), ("1", (1, 3), 6)], "the table for one picture")
    assert_equal(list(mean), [0.0] * 3, "the mean in a batch normalisation")
    assert_true(training, "The network was in train mode and should be again.")


# --- nin -------------------------------------------------------------------------------------


@probe
def run_block(student, args, weights, x):
    """The output of a block with given weights, and the gradient of sum(output * c) for x."""
    block = student.nin_block(*args).to(x.device, x.dtype)
    parameters = list(block.parameters())
    shapes = [list(p.shape) for p in parameters]
    with torch.no_grad():
        for p, value in zip(parameters, weights, strict=True):
            p.copy_(value)
    x = x.clone().requires_grad_()
    y = block(x)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    return shapes, y.detach(), x.grad


@probe
def run_nin(student, in_ch, classes, weights, x, train):
    net = student.NiN(in_ch, classes).to(x.device, x.dtype).train(train)
    parameters = list(net.parameters())
    shapes = [list(p.shape) for p in parameters]
    if weights:
        with torch.no_grad():
            for p, value in zip(parameters, weights, strict=True):
                p.copy_(value)
    x = x.clone().requires_grad_()
    scores = net(x)
    scale = torch.linspace(-1, 1, scores.numel(), dtype=x.dtype, device=x.device)
    (scores.flatten() @ scale).backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return shapes, scores.detach(), x.grad, grads, isinstance(net, nn.Module)


@probe
def nin_parameter_shapes(student, in_ch, classes):
    return [list(p.shape) for p in student.NiN(in_ch, classes).parameters()]


def block_shapes(cin, cout, k):
    return [[cout, cin, k, k], [cout], [cout, cout, 1, 1], [cout], [cout, cout, 1, 1], [cout]]


def some_weights(shapes, device):
    return [
        randn(*s, device=device) * (0.3 if len(s) == 1 else (2 / math.prod(s[1:])) ** 0.5)
        for s in shapes
    ]


def block_reference(x, w, s, p):
    x = F.conv2d(x, w[0], w[1], s, p).relu()
    for i in (2, 4):  # a dense layer at every pixel
        x = F.linear(x.movedim(1, -1), w[i].flatten(1), w[i + 1]).relu().movedim(-1, 1)
    return x


def nin_shapes(in_ch, classes):
    return block_shapes(in_ch, 16, 5) + block_shapes(16, 32, 3) + block_shapes(32, classes, 3)


def nin_reference(x, w):
    x = F.max_pool2d(block_reference(x, w[:6], 2, 2), 3, 2)
    x = F.max_pool2d(block_reference(x, w[6:12], 1, 1), 3, 2)
    return block_reference(x, w[12:], 1, 1).mean((2, 3))


BLOCKS = [(2, 3, 3, 1, 1), (1, 4, 5, 2, 0), (3, 2, 1, 1, 0), (4, 5, 4, 3, 2)]


@pytest.mark.exercise("nin", points=5)
@pytest.mark.parametrize("args", BLOCKS)
def test_block_is_a_network_per_pixel(student, device, args):
    """With given weights, a block should be a convolution and two dense layers at every pixel."""
    cin, cout, k, s, p = args
    shapes = block_shapes(cin, cout, k)
    weights = some_weights(shapes, device)
    x = randn(2, cin, 9, 8, device=device)
    got_shapes, y, gx = student.run(run_block, args, weights, x)
    assert_equal([list(s) for s in got_shapes], shapes, "the shapes of the parameters")
    leaf = x.clone().requires_grad_()
    expected = block_reference(leaf, weights, s, p)
    before = F.conv2d(x, weights[0], weights[1], s, p).relu()
    for i in (2, 4):
        before = F.conv2d(before, weights[i], weights[i + 1])
        before = before.relu() if i == 2 else before
    assert_close(
        y,
        expected.detach(),
        symptoms={"The last ReLU is missing.": before},
    )
    scale = torch.linspace(-1, 1, expected.numel(), dtype=x.dtype, device=device)
    (expected.flatten() @ scale).backward()
    assert_close(gx, leaf.grad, "the gradient for the input")


@pytest.mark.exercise("nin", points=3)
@pytest.mark.parametrize("in_ch, classes", [(1, 10), (3, 7), (2, 1)])
def test_nin_parameters(student, in_ch, classes):
    """NiN should have three blocks and no other parameters; NiN(1, 10) has 10,822 of them."""
    shapes = [list(s) for s in student.run(nin_parameter_shapes, in_ch, classes)]
    assert_equal(shapes, nin_shapes(in_ch, classes), "the shapes of the parameters")
    if (in_ch, classes) == (1, 10):
        assert_equal(sum(math.prod(s) for s in shapes), 10822, "the number of parameters")


@pytest.mark.exercise("nin", points=4)
@pytest.mark.parametrize("n, in_ch, classes, size", [(2, 1, 4, (28, 28)), (1, 3, 6, (21, 34))])
def test_nin_scores(student, device, n, in_ch, classes, size):
    """With given weights, NiN's scores and gradients should be those of its blocks and poolings."""
    weights = some_weights(nin_shapes(in_ch, classes), device)
    x = randn(n, in_ch, *size, device=device)
    leaves = [w.clone().requires_grad_() for w in weights]
    expected = nin_reference(x, leaves)
    scale = torch.linspace(-1, 1, expected.numel(), dtype=x.dtype, device=device)
    grads = torch.autograd.grad(expected.flatten() @ scale, leaves)
    for train in (True, False):
        _, scores, _, got, module = student.run(run_nin, in_ch, classes, weights, x, train)
        assert_true(module, "NiN should be an nn.Module.")
        assert_close(scores, expected.detach(), "the scores")
        assert_close(list(got), list(grads), "the gradients")


@pytest.mark.exercise("nin", points=3)
@pytest.mark.parametrize("size", [(13, 13), (13, 40), (31, 17), (28, 28)])
def test_any_size(student, device, size):
    """NiN should take images of any size from 13 pixels on, also a batch of one, in float32."""
    for n in (1, 3):
        x = randn(n, 2, *size, dtype=torch.float32, device=device)
        _, scores, gx, _, _ = student.run(run_nin, 2, 5, [], x, True)
        assert_equal(tuple(scores.shape), (n, 5), "the shape of the scores")
        assert_true(scores.dtype == torch.float32, "The scores should stay float32.")
        sentence = "After the last ReLU no score is below zero."
        assert_close(scores, scores.clamp(min=0), "a score", symptoms={sentence: scores})
        assert_equal(tuple(gx.shape), tuple(x.shape), "the shape of the gradient")


# --- inception -------------------------------------------------------------------------------


@probe
def run_inception(student, args, weights, x, train):
    """Fill the convolutions, found by the shapes of their weights; output and gradients."""
    block = student.Inception(*args).to(x.device, x.dtype).train(train)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    filled = 0
    named = {}
    with torch.no_grad():
        for name, (weight, bias) in weights.items():
            for conv in convs:
                if conv.weight.shape == weight.shape and conv.bias is not None:
                    conv.weight.copy_(weight)
                    conv.bias.copy_(bias)
                    named[name] = conv
                    filled += 1
    x = x.clone().requires_grad_()
    y = block(x)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    grads = {
        name: torch.zeros_like(c.weight) if c.weight.grad is None else c.weight.grad
        for name, c in named.items()
    }
    return len(convs), filled, y.detach(), x.grad, grads


@probe
def inception_shapes(student, args):
    block = student.Inception(*args)
    shapes = sorted(list(p.shape) for p in block.parameters())
    return shapes, isinstance(block, nn.Module)


@probe
def run_macs(student, args, calls):
    block = student.Inception(*args)
    return [student.macs(block, *call) for call in calls]


@probe
def run_macs_by_name(student, args, h, w):
    block = student.Inception(*args)
    return [
        student.macs(block, h, w),
        student.macs(block, h=h, w=w, reduce=True),
        student.macs(block, w=w, h=h, reduce=False),
    ]


# cin, c1, c2, c3, c4, chosen so that no two convolutions have weights of one shape
BUDGETS = [(6, 4, (3, 5), (2, 7), 8), (5, 1, (2, 3), (4, 6), 7), (3, 2, (4, 6), (5, 1), 9)]


def conv_shapes(cin, c1, c2, c3, c4):
    return {
        "1": (c1, cin, 1, 1),
        "2a": (c2[0], cin, 1, 1),
        "2b": (c2[1], c2[0], 3, 3),
        "3a": (c3[0], cin, 1, 1),
        "3b": (c3[1], c3[0], 5, 5),
        "4": (c4, cin, 1, 1),
    }


def inception_weights(args, device):
    return {
        name: (
            randn(*shape, device=device) * math.prod(shape[1:]) ** -0.5,
            0.3 + 0.3 * randn(shape[0], device=device),
        )
        for name, shape in conv_shapes(*args).items()
    }


def inception_reference(x, w):
    def conv(x, name, padding=0):
        return F.conv2d(x, *w[name], padding=padding).relu()

    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    return [
        conv(x, "1"),
        conv(conv(x, "2a"), "2b", 1),
        conv(conv(x, "3a"), "3b", 2),
        conv(pooled, "4"),
    ]


def compare_inception(student, device, args, shape, weights, train=True):
    x = randn(*shape, device=device)
    convs, filled, y, gx, grads = student.run(run_inception, args, weights, x, train)
    assert_equal(convs, 6, "the number of convolutions")
    assert_equal(filled, 6, "the number of convolutions with a bias and the documented channels")
    leaf = x.clone().requires_grad_()
    leaves = {k: (w.clone().requires_grad_(), b) for k, (w, b) in weights.items()}
    paths = inception_reference(leaf, leaves)
    expected = torch.cat(paths, 1)
    swapped = torch.cat([paths[0], paths[2], paths[1], paths[3]], 1)
    assert_close(
        y,
        expected.detach(),
        symptoms={"Paths 2 and 3 are joined in the wrong order.": swapped.detach()},
    )
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device)
    (expected.flatten() @ scale).backward()
    assert_close(gx, leaf.grad, "the gradient for the input")
    assert_close(grads, {k: w.grad for k, (w, _) in leaves.items()}, "the gradients of the weights")


@pytest.mark.exercise("inception", points=6)
@pytest.mark.parametrize("args", BUDGETS)
def test_block_equals_four_paths(student, device, args):
    """With given weights the output and gradients should be those of four paths, joined."""
    weights = inception_weights(args, device)
    compare_inception(student, device, args, (2, args[0], 6, 7), weights)
    compare_inception(student, device, args, (1, args[0], 5, 3), weights, train=False)


@pytest.mark.exercise("inception", points=4)
@pytest.mark.parametrize("path", ["1", "2", "3", "4"])
def test_one_path_alone(student, device, path):
    """With the weights of three paths set to zero, only the fourth one's channels should live."""
    args = BUDGETS[0]
    weights = {
        name: (w, b) if name.startswith(path) else (0 * w, 0 * b)
        for name, (w, b) in inception_weights(args, device).items()
    }
    compare_inception(student, device, args, (2, args[0], 7, 5), weights)


@pytest.mark.exercise("inception", points=3)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 8), (9, 4)])
def test_size_is_kept(student, device, size):
    """Height and width should be kept, for any size, in float32 as well."""
    for n in (1, 2):
        x = randn(n, 6, *size, dtype=torch.float32, device=device)
        _, _, y, _, _ = student.run(run_inception, BUDGETS[0], {}, x, True)
        assert_equal(tuple(y.shape), (n, 4 + 5 + 7 + 8, *size), "the shape of the output")
        assert_true(y.dtype == torch.float32, "The output should stay float32.")


@pytest.mark.exercise("inception", points=2)
@pytest.mark.parametrize("args", [*BUDGETS, (192, 64, (96, 128), (16, 32), 32)])
def test_inception_parameters(student, args):
    """The block should have six convolutions with bias, and no other parameters."""
    shapes, module = student.run(inception_shapes, args)
    assert_true(module, "Inception should be an nn.Module.")
    expected = sorted(
        [list(s) for s in conv_shapes(*args).values()]
        + [[s[0]] for s in conv_shapes(*args).values()]
    )
    assert_equal([list(s) for s in shapes], expected, "the shapes of the parameters")


def counted(args, h, w, reduce):
    """The library's count of multiply-adds, on the device meta."""
    cin, c1, c2, c3, c4 = args
    pairs = [(cin, c1, 1), (cin, c4, 1)]
    if reduce:
        pairs += [(cin, c2[0], 1), (*c2, 3), (cin, c3[0], 1), (*c3, 5)]
    else:
        pairs += [(cin, c2[1], 3), (cin, c3[1], 5)]
    with FlopCounterMode(display=False) as counter:
        for a, b, k in pairs:
            x = torch.zeros(1, a, h, w, device="meta")
            F.conv2d(x, torch.zeros(b, a, k, k, device="meta"), padding=k // 2)
    return counter.get_total_flops() // 2


SIZES = [(28, 28), (7, 12), (1, 5), (10, 1)]


@pytest.mark.exercise("inception", points=5)
@pytest.mark.parametrize("args", [*BUDGETS, (192, 64, (96, 128), (16, 32), 32)])
def test_macs_of_the_block(student, args):
    """macs should equal the library's count of the six convolutions, for any size of the maps."""
    got = student.run(run_macs, args, SIZES)
    assert_equal(list(got), [counted(args, h, w, True) for h, w in SIZES], "the multiply-adds")


@pytest.mark.exercise("inception", points=5)
@pytest.mark.parametrize("args", [*BUDGETS, (192, 64, (96, 128), (16, 32), 32)])
def test_macs_without_reduction(student, args):
    """With reduce=False the 3x3 and the 5x5 convolution read all input channels."""
    got = student.run(run_macs, args, [(h, w, False) for h, w in SIZES])
    assert_equal(list(got), [counted(args, h, w, False) for h, w in SIZES], "the multiply-adds")
    default, by_name, without = student.run(run_macs_by_name, args, 3, 8)
    assert_equal((default, by_name), (counted(args, 3, 8, True),) * 2, "with reduction, by name")
    assert_equal(without, counted(args, 3, 8, False), "without reduction, by name")


# --- separable -------------------------------------------------------------------------------


@probe
def run_separable(student, args, depth, point, x):
    """Output and gradients with given weights."""
    layer = student.SeparableConv(*args).to(x.device, x.dtype)
    shapes = [list(layer.depthwise.weight.shape), list(layer.pointwise.weight.shape)]
    count = sum(p.numel() for p in layer.parameters())
    with torch.no_grad():
        layer.depthwise.weight.copy_(depth)
        layer.pointwise.weight.copy_(point)
    x = x.clone().requires_grad_()
    y = layer(x)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    grads = [x.grad, layer.depthwise.weight.grad, layer.pointwise.weight.grad]
    return shapes, count, y.detach(), grads


@probe
def touched(student, c, k):
    """For each output channel of the depthwise layer, the input channels it depends on."""
    layer = student.SeparableConv(c, 3, k, 1).double()
    found = []
    for i in range(c):
        x = torch.randn(1, c, 7, 7, dtype=torch.float64, requires_grad=True)
        layer.depthwise(x)[0, i, 3, 3].backward()
        channels = (x.grad[0] != 0).any(2).any(1).nonzero().flatten().tolist()
        rows = (x.grad[0] != 0).any(2).any(0).sum().item()
        found.append((channels, rows))
    x = torch.randn(1, c, 7, 7, dtype=torch.float64, requires_grad=True)
    layer.pointwise(x)[0, 1, 3, 3].backward()
    point = (x.grad[0] != 0).nonzero().tolist()
    return found, point, isinstance(layer, nn.Module)


@probe
def weight_counts(student, settings):
    counts = []
    for cin, cout, k in settings:
        layer = student.SeparableConv(cin, cout, k, 1)
        counts.append(sum(p.numel() for p in layer.parameters()))
    return counts


@probe
def make_separable(student, k):
    student.SeparableConv(2, 3, k, 1)


SEPARABLE = [(4, 6, 3, 1), (3, 2, 5, 2), (1, 4, 3, 2), (5, 1, 1, 1), (2, 3, 7, 3)]


@pytest.mark.exercise("separable", points=6)
@pytest.mark.parametrize("args", SEPARABLE)
def test_equals_one_convolution(student, device, args):
    """It should equal a standard convolution with the weight p·d, in value and gradient."""
    cin, cout, k, s = args
    depth, point = randn(cin, 1, k, k, device=device), randn(cout, cin, 1, 1, device=device)
    for n, size in ((2, (9, 8)), (1, (7, 11))):
        x = randn(n, cin, *size, device=device)
        _, _, y, grads = student.run(run_separable, args, depth, point, x)
        leaves = [t.clone().requires_grad_() for t in (x, depth, point)]
        weight = leaves[2] * leaves[1][:, 0]
        expected = F.conv2d(leaves[0], weight, stride=s, padding=k // 2)
        assert_close(y, expected.detach())
        scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device)
        wanted = torch.autograd.grad(expected.flatten() @ scale, leaves)
        assert_close(list(grads), list(wanted), "the gradients for x, depthwise and pointwise")


@pytest.mark.exercise("separable", points=4)
@pytest.mark.parametrize("c, k", [(4, 3), (2, 5), (3, 1)])
def test_who_sees_whom(student, c, k):
    """Depthwise, channel i should see its own channel only; pointwise, its own pixel only."""
    found, point, module = student.run(touched, c, k)
    assert_true(module, "SeparableConv should be an nn.Module.")
    assert_equal(
        [(list(channels), rows) for channels, rows in found],
        [([i], k) for i in range(c)],
        "for each channel, the channels seen and the rows of the window",
    )
    assert_equal(
        [list(p) for p in point], [[i, 3, 3] for i in range(c)], "what one pointwise output sees"
    )


@pytest.mark.exercise("separable", points=3)
@pytest.mark.parametrize(
    "cin, cout, k, expected", [(64, 128, 3, 8768), (3, 5, 7, 162), (1, 1, 1, 2), (6, 2, 5, 162)]
)
def test_weights(student, device, cin, cout, k, expected):
    """Two weights and no bias: from 64 to 128 channels 8,768 numbers instead of 73,728."""
    depth, point = randn(cin, 1, k, k, device=device), randn(cout, cin, 1, 1, device=device)
    x = randn(1, cin, 8, 8, dtype=torch.float32, device=device)
    shapes, count, y, _ = student.run(
        run_separable, (cin, cout, k, 2), depth.float(), point.float(), x
    )
    assert_equal(
        [list(s) for s in shapes], [[cin, 1, k, k], [cout, cin, 1, 1]], "the shapes of the weights"
    )
    assert_close(
        count,
        expected,
        "the number of parameters",
        symptoms={"There are biases; both convolutions should have none.": expected + cin + cout},
    )
    assert_equal(tuple(y.shape), (1, cout, 4, 4), "the shape of the output")
    assert_true(y.dtype == torch.float32, "The output should stay float32.")


@pytest.mark.exercise("separable", points=2)
def test_even_kernel(student):
    """An even kernel size should raise a ValueError, an odd one should not."""
    for k in (2, 4, 6):
        with raises(ValueError):
            student.run(make_separable, k)
    for k in (1, 3, 5):
        student.run(make_separable, k)


@pytest.mark.exercise("separable", points=5)
@pytest.mark.parametrize(
    "cin, cout, k", [(64, 128, 3), (1, 1, 1), (8, 2, 5), (3, 1000, 7), (17, 5, 2), (512, 512, 3)]
)
def test_cost_ratio(student, cin, cout, k):
    """cost_ratio should be 1/cout + 1/k², whatever cin, and agree with the weights counted."""
    got = student.cost_ratio(cin, cout, k)
    expected = 1 / cout + 1 / k**2
    assert_close(
        got,
        expected,
        "the ratio",
        symptoms={
            "This is the inverse; the separable weights go on top.": 1 / expected,
            "The input channels cancel; the output channels do not.": 1 / cin + 1 / k**2,
            "The window has k * k cells.": 1 / cout + 1 / k,
        },
    )
    if k % 2:
        (weights,) = student.run(weight_counts, [(cin, cout, k)])
        assert_close(weights / (cin * cout * k**2), expected, "the ratio of the counted weights")
