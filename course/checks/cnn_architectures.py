"""Public checks of the chapter on classic CNNs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "lenet": [
        "`nn.Sequential(OrderedDict(conv1=..., relu1=...))` gives every layer a name. Build the "
        "features first.",
        "Only fc1 depends on the size of the image. Send one image of zeros through the features "
        "and count the values that come out.",
        "features, an `nn.Flatten()` and classifier can be put into one more named Sequential. "
        "What does torch raise when an image is too small, and what should you raise?",
    ],
    "lrn": [
        "Each channel needs the sum of squares over n neighbours *along the channel axis*. First "
        "square, then pad, then add up windows.",
        "n // 2 zeros go before the first channel, and (n - 1) // 2 behind the last, so that there "
        "are C windows again.",
        "`movedim(1, -1)` puts the channels last, where `F.pad` and `unfold(-1, n, 1)` are easy to "
        "use. Do not forget to divide by n.",
    ],
    "alexnet": [
        "`net.named_modules()` gives names and modules. Which of them have no children?",
        "Each hook has to know the name of its layer: write a function that takes the name and "
        "returns the hook.",
        "Remember `module.training` of every module before the run; a `try ... finally` puts it "
        "back and removes the hooks even if the run fails.",
    ],
    "nin": [
        "A NiN block has three convolutions and three ReLUs. Only the first looks at neighbours.",
        "The 1x1 convolutions have cout channels in and out.",
        "The last block has one channel for each class. Its mean runs over height and width, not "
        "over the channels.",
    ],
    "inception": [
        "Make the six convolutions in `__init__`. What padding keeps the size for 3x3, what for "
        "5x5?",
        "The pooling has to keep the size too: which stride, which padding? Join with `torch.cat` "
        "along the axis of the channels.",
        "`macs`: per pixel, a k x k convolution from a to b channels makes a * b * k * k "
        "multiply-adds. Sum over the convolutions, then times the number of pixels.",
    ],
    "separable": [
        "Which value of `groups` gives every channel a kernel of its own?",
        "The depthwise convolution has cin channels in and out; the pointwise one goes from cin to "
        "cout.",
        "`cost_ratio`: count the weights of both convolutions, and those of a standard one.",
    ],
    "debug": [
        "`[block] * 3` makes a list of length 3. How many blocks are there in it?",
        "Call the constructors once for every block, for example in a list comprehension.",
    ],
}


# --- lenet -----------------------------------------------------------------------------------


@probe
def lenet_parts(student, in_ch, size, classes):
    net = student.lenet(in_ch, size, classes)
    count = sum(p.numel() for p in net.parameters())
    features = [name for name, _ in net.features.named_children()]
    classifier = [name for name, _ in net.classifier.named_children()]
    with torch.no_grad():
        shape = list(net(torch.zeros(2, in_ch, size, size)).shape)
    return count, features, classifier, shape


@pytest.mark.exercise("lenet")
def test_lenet_on_paper(student):
    """`lenet(1, 32, 10)` has 61,706 parameters and gives 10 scores for each image."""
    count, _, _, shape = student.run(lenet_parts, 1, 32, 10)
    assert_close(
        count,
        61706,
        "the number of parameters",
        symptoms={
            "The convolutions seem to have padding; they should have none.": 136586,
            "The biases are missing.": 61470,
        },
    )
    assert_equal(shape, [2, 10], "the shape of the scores for two images")


@pytest.mark.exercise("lenet")
def test_lenet_names(student):
    """The layers of `features` and `classifier` have the names of the docstring."""
    _, features, classifier, _ = student.run(lenet_parts, 1, 32, 10)
    assert_equal(
        features, ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"], "the layers of features"
    )
    assert_equal(classifier, ["fc1", "relu3", "fc2", "relu4", "fc3"], "the layers of classifier")


@pytest.mark.exercise("lenet")
def test_lenet_sizes(student):
    """`lenet` adapts to images of 28 pixels, and raises a ValueError for images of 8."""
    count, _, _, shape = student.run(lenet_parts, 3, 28, 5)
    assert_equal((count, shape), (44426 + 300 - 425, [2, 5]), "parameters and shape")
    with raises(ValueError):
        student.lenet(1, 8, 10)


# --- lrn -------------------------------------------------------------------------------------


@pytest.mark.exercise("lrn")
def test_worked_example(student):
    """`lrn` gives 1/6, 2/6, 0, 1/2 for the worked example, the channels 1, 2, 0, 1."""
    a = torch.tensor([1.0, 2.0, 0.0, 1.0]).view(1, 4, 1, 1)
    total = torch.tensor([5.0, 5.0, 5.0, 1.0]).view(1, 4, 1, 1)
    assert_close(
        student.lrn(a, 3, 3.0, 1.0, 1.0),
        a / (1 + total),
        symptoms={
            "alpha should be divided by n.": a / (1 + 3 * total),
            "The activity is the sum of the squares, not of the values.": a
            / (1 + torch.tensor([3.0, 3, 3, 1]).view(1, 4, 1, 1)),
            "Only the value itself is in the sum, not its neighbours.": a / (1 + a**2),
            "This multiplies; lrn divides.": a * (1 + total),
        },
    )


@pytest.mark.exercise("lrn")
def test_even_window(student):
    """With n = 2 the window is the channel before and the channel itself."""
    a = torch.tensor([2.0, 0.0, 1.0, 3.0]).view(1, 4, 1, 1)
    before = torch.tensor([4.0, 4.0, 1.0, 10.0]).view(1, 4, 1, 1)
    behind = torch.tensor([4.0, 1.0, 10.0, 9.0]).view(1, 4, 1, 1)
    assert_close(
        student.lrn(a, 2, 2.0, 0.5, 4.0),
        a / (4 + before).sqrt(),
        symptoms={
            "For even n the extra channel comes before, not behind.": a / (4 + behind) ** 0.5
        },
    )


@pytest.mark.exercise("lrn")
def test_across_channels(student):
    """The window runs over channels, not over pixels; a window of no channel raises."""
    a = torch.arange(1.0, 13.0).view(1, 2, 2, 3)
    assert_close(student.lrn(a, 5, 0.5, 0.75, 2.0), F.local_response_norm(a, 5, 0.5, 0.75, 2.0))
    with raises(ValueError):
        student.lrn(a, 0, 0.5, 0.75, 2.0)


# --- alexnet ---------------------------------------------------------------------------------


@probe
def small_table(student):
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(18, 4),
    )
    net[0][1].eval()
    rows = student.layer_table(net, torch.zeros(1, 1, 5, 5))
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    return [tuple(row) for row in rows], hooks, [net.training, net[0][1].training]


@pytest.mark.exercise("alexnet")
def test_rows(student):
    """`layer_table` has a row (name, shape, parameters) for each layer, in order."""
    rows, _, _ = student.run(small_table)
    assert_equal(
        rows,
        [
            ("0.0", (1, 2, 3, 3), 20),
            ("0.1", (1, 2, 3, 3), 4),
            ("0.2", (1, 2, 3, 3), 0),
            ("1", (1, 18), 0),
            ("2", (1, 4), 76),
        ],
        "the table",
    )


@pytest.mark.exercise("alexnet")
def test_leaves_no_trace(student):
    """After `layer_table` no hook is left, and each module is in the mode it was in."""
    _, hooks, modes = student.run(small_table)
    assert_equal(hooks, 0, "the number of hooks that are left")
    assert_equal(modes, [True, False], "the modes of the network and of its batch normalisation")


# --- nin -------------------------------------------------------------------------------------


@probe
def nin_numbers(student):
    block = student.nin_block(2, 3, 3, 2, 1)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for conv in convs:
            conv.weight.fill_(0.5)
            conv.bias.fill_(-1.0)
        # A window of ones: 9 * 2 * 0.5 - 1 = 8, then 3 * 8 * 0.5 - 1 = 11, then 15.5.
        value = block(torch.ones(1, 2, 5, 5))
        negative = block(-torch.ones(1, 2, 5, 5))
    return [list(c.weight.shape) for c in convs], value, negative


@probe
def nin_shapes(student):
    net = student.NiN(3, 7)
    count = sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        shapes = [list(net(torch.zeros(2, 3, *size)).shape) for size in ((28, 28), (20, 33))]
    return count, shapes


@pytest.mark.exercise("nin")
def test_block(student):
    """`nin_block(2, 3, 3, 2, 1)` is three convolutions, each with a ReLU."""
    shapes, value, negative = student.run(nin_numbers)
    assert_equal(shapes, [[3, 2, 3, 3], [3, 3, 1, 1], [3, 3, 1, 1]], "the shapes of the weights")
    assert_close(list(value.shape), [1, 3, 3, 3], "the output's shape for 5 x 5 pixels")
    assert_close(
        value[0, 0, 1, 1].item(),
        15.5,
        "the output in the middle",
    )
    assert_close(negative, torch.zeros(1, 3, 3, 3), "the output for a negative image")


@pytest.mark.exercise("nin")
def test_any_size(student):
    """`NiN(3, 7)` gives 7 scores for images of any size, with 10,647 parameters."""
    count, shapes = student.run(nin_shapes)
    assert_equal(shapes, [[2, 7], [2, 7]], "the shapes of the scores")
    assert_equal(count, 10647, "the number of parameters")


# --- inception -------------------------------------------------------------------------------


@probe
def inception_ones(student, height, width):
    """All weights 1 and biases 0, so that a path's value is a product of counts."""
    block = student.Inception(2, 1, (3, 2), (2, 3), 4)
    with torch.no_grad():
        for m in block.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.fill_(1.0)
                m.bias.zero_()
        y = block(torch.ones(1, 2, height, width))
    return y


@probe
def inception_macs(student, h, w, reduce):
    return student.macs(student.Inception(2, 1, (3, 2), (2, 3), 4), h, w, reduce)


@pytest.mark.exercise("inception")
def test_channels_and_size(student):
    """The block joins c1 + c2[1] + c3[1] + c4 channels and keeps height and width."""
    y = student.run(inception_ones, 6, 7)
    assert_equal(list(y.shape), [1, 10, 6, 7], "the shape")


@pytest.mark.exercise("inception")
def test_paths(student):
    """With all weights 1 the four paths count their windows: 2, 2·3·9, 2·2·25 and 2."""
    y = student.run(inception_ones, 6, 7)
    expected = torch.tensor([2.0] + [54.0] * 2 + [100.0] * 3 + [2.0] * 4)
    assert_close(y[0, :, 3, 3], expected, "the values in the middle")


@pytest.mark.exercise("inception")
def test_macs(student):
    """`macs` counts cin·cout·k² per pixel of each convolution, with and without reduction."""
    # per pixel: 2 + (6 + 54) + (4 + 150) + 8 = 224; without: 2 + 36 + 150 + 8 = 196
    assert_close(
        student.run(inception_macs, 2, 3, True),
        224 * 6,
        "the multiply-adds",
        symptoms={
            "The size of the map is missing: each pixel costs as much.": 224,
            "The reductions themselves cost something too.": (224 - 10) * 6,
            "The windows have 9 and 25 cells, not 3 and 5.": (2 + 24 + 34 + 8) * 6,
        },
    )
    assert_close(student.run(inception_macs, 2, 3, False), 196 * 6, "without reduction")


# --- separable -------------------------------------------------------------------------------


@probe
def separable_numbers(student):
    layer = student.SeparableConv(2, 3, 3, 1)
    with torch.no_grad():
        layer.depthwise.weight.copy_(torch.tensor([1.0, 10.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3))
        layer.pointwise.weight.copy_(
            torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]).view(3, 2, 1, 1)
        )
        return layer(torch.ones(1, 2, 3, 3))[0, :, 1, 1]


@probe
def separable_count(student, cin, cout, k):
    return sum(p.numel() for p in student.SeparableConv(cin, cout, k, 1).parameters())


@pytest.mark.exercise("separable")
def test_two_steps(student):
    """Each channel is summed with its own kernel, then the channels are mixed."""
    # Windows of ones: 9 with the first kernel, 90 with the second.
    assert_close(
        student.run(separable_numbers), torch.tensor([9.0, 90.0, -81.0]), "the values in the middle"
    )


@pytest.mark.exercise("separable")
def test_weights(student):
    """`SeparableConv(64, 128, 3, 1)` has 8,768 weights; a standard convolution has 73,728."""
    assert_close(
        student.run(separable_count, 64, 128, 3),
        8768,
        "the number of weights",
        symptoms={
            "There are biases; both convolutions should have none.": 8768 + 64 + 128,
            "The depthwise convolution mixes channels: set its groups.": 64 * 64 * 9 + 8192,
        },
    )


@pytest.mark.exercise("separable")
def test_ratio(student):
    """`cost_ratio` is 1/cout + 1/k², and an even kernel size raises a ValueError."""
    assert_close(
        student.cost_ratio(64, 128, 3),
        8768 / 73728,
        "the ratio for 64 to 128",
        symptoms={"This is the inverse; the separable weights go on top.": 73728 / 8768},
    )
    assert_close(student.cost_ratio(3, 10, 5), 0.14, "the ratio for 3 to 10, k = 5")
    with raises(ValueError):
        student.SeparableConv(2, 2, 4, 1)


# --- debug -----------------------------------------------------------------------------------


@probe
def stack_count(student, c, depth):
    net = student.deep_stack(c, depth)
    with torch.no_grad():
        shape = list(net(torch.zeros(1, c, 5, 4)).shape)
    return len(net), sum(p.numel() for p in net.parameters()), shape


@pytest.mark.exercise("debug")
def test_every_block_has_its_own(student):
    """`deep_stack(2, 3)` has three blocks, with 3 · 38 parameters."""
    blocks, count, shape = student.run(stack_count, 2, 3)
    assert_equal(blocks, 3, "the number of blocks")
    assert_close(
        count,
        114,
        "the number of parameters",
        symptoms={"All blocks are one and the same object.": 38},
    )
    assert_true(shape == [1, 2, 5, 4], "The stack should keep the shape of its input.")
