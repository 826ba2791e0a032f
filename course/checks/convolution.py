"""Public checks of the chapter on convolution and pooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, raises

HINTS = {
    "layer": [
        "A tensor becomes a learned weight when you wrap it in `nn.Parameter` in `__init__`.",
        "`F.conv2d` wants four axes: `x[None, None]` adds two, `[0, 0]` takes them off again. "
        "For `learn_kernel`: an h-row kernel leaves H - h + 1 rows, so what is h?",
        "In a loop: the output, the mean of its squared error, the gradient with respect to the "
        "kernel (`torch.autograd.grad`), then one step inside `torch.no_grad()`.",
    ],
    "size": [
        "`out_size`: where is the last tap of output t, and which is the last pixel it may use?",
        "Integer division `//` rounds down. Do not forget that counting starts at 0.",
        "`receptive_field`: go through the layers with three numbers, 1, 1 and 0 at first. The "
        "order of the updates matters: which of them needs the old jump?",
    ],
    "corr": [
        "`corr2d`: for each kernel entry (a, b), the pixels that it ever touches form a rectangle "
        "as large as the output, that starts at (a, b).",
        "`conv2d`: pad first (`F.pad`). Tap (i, j) touches rows i * dilation, i * dilation "
        "+ stride, and so on, out_h of them: a slice with a step.",
        "For the groups, split the channel axis of x into (groups, C / groups) and the first "
        "axis of w into (groups, O / groups), for example with `unflatten`; the "
        "sum runs over C / groups.",
    ],
    "im2col": [
        "`conv_matrix`: think of M with four axes (out row, out column, row, column). Which block "
        "of M[i, j] holds the kernel?",
        "`im2col`: for each tap (a, b) take the strided slice of the padded image, as in a "
        "convolution, but collect the slices instead of adding them.",
        "`torch.stack` the k * k slices behind the channel axis, and only then reshape.",
    ],
    "one": [
        "The weights have the shapes (O, C, 1, 1) and (O, C). Copy under `torch.no_grad()`, so "
        "that the new module has parameters of its own.",
        "`bias=conv.bias is not None` makes a bias only where there was one; `.to(conv.weight)` "
        "gives dtype and device.",
        "`shift_gap`: compute f(x.roll(...)) and f(x).roll(...). How many pixels does the output "
        "move if it is only half as high as the input?",
    ],
    "pool": [
        "Loop over output rows and columns; each window is a slice of the padded input. A slice "
        "that goes over the border just stops there, which is what ceil_mode wants.",
        "What must padding be filled with so that it never is the maximum? For the mean, count the "
        "cells: a tensor of ones, padded with ones or zeros, can do it.",
        "`pool_backward`: make a zero gradient of the padded size, add to each window what it "
        "gets, and cut the padding off at the end.",
    ],
    "unpool": [
        "First find each window's maximum as a number from 0 to k * k - 1.",
        "`// k` and `% k` turn it into a row and a column in the window; the window's own corner "
        "is at (k * i, k * j).",
        "`unpool`: flatten the plane and use `scatter` along it.",
    ],
    "debug": [
        "Look at a single pixel: where are its red, green and blue in the wrong batch?",
        "`reshape` never changes the order of the numbers in memory. Which function moves axes?",
    ],
}


@pytest.mark.exercise("layer")
def test_layer_adds_its_bias(student):
    """`Conv2D` slides its weight over the image and adds its bias to every output."""
    layer = student.Conv2D((1, 2))
    assert_equal(tuple(layer.weight.shape), (1, 2), "the shape of weight")
    assert_equal(tuple(layer.bias.shape), (1,), "the shape of bias")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.bias.fill_(10)
    x = torch.tensor([[1.0, 5.0, 7.0], [2.0, 2.0, 0.0]])
    assert_close(
        layer(x),
        torch.tensor([[6.0, 8.0], [10.0, 12.0]]),
        symptoms={
            "The bias is not added.": torch.tensor([[-4.0, -2.0], [0.0, 2.0]]),
            "The kernel is flipped; use it as it is.": torch.tensor([[14.0, 12.0], [10.0, 8.0]]),
        },
    )


@pytest.mark.exercise("layer")
def test_layer_is_learned(student):
    """The weight and the bias of `Conv2D` are parameters, so that an optimizer finds them."""
    layer = student.Conv2D((3, 2))
    names = sorted(name for name, _ in layer.named_parameters())
    assert_equal(names, ["bias", "weight"], "the names of the parameters")
    layer(torch.ones(4, 4)).sum().backward()
    assert_true(layer.weight.grad is not None, "No gradient arrives at the weight.")


@pytest.mark.exercise("layer")
def test_one_step_and_many(student):
    """`learn_kernel` makes steps of gradient descent on the mean squared error, from zeros."""
    x = torch.tensor([[1.0, 0.0, 2.0]])
    y = torch.tensor([[1.0, -2.0]])  # the kernel [1, -1]
    # Error at zero: (-1, 2), so the gradient is 2/2 * (-1 * 1 + 2 * 0, -1 * 0 + 2 * 2).
    step = torch.tensor([[-1.0, 4.0]])
    assert_close(
        student.learn_kernel(x, y, 1, 0.1),
        -0.1 * step,
        "the kernel after one step",
        symptoms={
            "It moves uphill: the step goes against the gradient.": 0.1 * step,
            "The loss seems to be the sum of the squared errors; it should be their mean.": -0.2
            * step,
        },
    )
    assert_close(
        student.learn_kernel(x, y, 300, 0.2),
        torch.tensor([[1.0, -1.0]]),
        "the kernel after 300 steps",
        atol=1e-3,
    )
    high = student.learn_kernel(x.T, y.T, 300, 0.2)
    assert_close(high, torch.tensor([[1.0], [-1.0]]), "the kernel for X and Y turned", atol=1e-3)


@pytest.mark.exercise("size")
def test_sizes(student):
    """`out_size` counts the outputs for kernel, stride, padding and dilation."""
    assert_equal(student.out_size(5, 3), 3, "`out_size(5, 3)`")
    assert_close(
        student.out_size(28, 5, 1, 2),
        28,
        "`out_size(28, 5, s=1, p=2)`",
        symptoms={
            "Padding is on both sides, so it counts twice.": 26,
            "One too many: derive the -1 in the numerator again.": 29,
            "One too few: counting starts at 0.": 27,
        },
    )
    assert_equal(student.out_size(8, 3, 2), 3, "`out_size(8, 3, s=2)`, rounded down,")
    assert_equal(student.out_size(10, 3, d=2), 6, "`out_size(10, 3, d=2)`")


@pytest.mark.exercise("size")
def test_worked_example(student):
    """`receptive_field` gives 7, 2, -3 for the worked example, two 3x3 layers, one of stride 2."""
    assert_equal(tuple(student.receptive_field([])), (1, 1, 0), "no layers")
    assert_close(
        list(student.receptive_field([(3, 2, 1, 1), (3, 1, 1, 1)])),
        [7, 2, -3],
        "(r, jump, start)",
        symptoms={
            "The stride of a layer widens the view of the layers after it; use the old jump.": [
                9,
                2,
                -4,
            ],
            "A step in layer 2 is a jump of 2 input pixels; multiply by the jump.": [5, 2, -2],
            "The padding moves the start to the left.": [7, 2, 0],
            "The padding of layer 2 counts in steps of the jump.": [7, 2, -2],
        },
    )
    assert_equal(tuple(student.receptive_field([(3, 1, 0, 2)])), (5, 1, 0), "one layer, dilation 2")


IMAGE = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 4.0], [2.0, 0.0, 1.0]])
KERNEL = torch.tensor([[1.0, 2.0], [0.0, -1.0]])


@pytest.mark.exercise("corr")
def test_small_correlation(student):
    """`corr2d` slides the kernel as it is, and moves by one pixel."""
    assert_close(
        student.corr2d(IMAGE, KERNEL),
        torch.tensor([[4.0, -2.0], [2.0, 8.0]]),
        symptoms={
            "The kernel seems to be flipped; cross-correlation slides it as it is.": F.conv2d(
                IMAGE[None, None], KERNEL.flip(0, 1)[None, None]
            )[0, 0],
            "The kernel seems to be transposed.": F.conv2d(IMAGE[None, None], KERNEL.T[None, None])[
                0, 0
            ],
        },
    )
    assert_equal(
        tuple(student.corr2d(torch.ones(4, 7), torch.ones(2, 3)).shape), (3, 5), "the shape"
    )


@pytest.mark.exercise("corr")
def test_too_large_a_kernel(student):
    """A kernel larger than the image raises a ValueError."""
    with raises(ValueError):
        student.corr2d(torch.ones(2, 5), torch.ones(3, 3))


@pytest.mark.exercise("corr")
def test_knobs(student):
    """`conv2d` knows stride, padding and dilation."""
    x = torch.arange(36.0).view(1, 1, 6, 6)
    w = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    for knob in ({}, {"stride": 2}, {"padding": 1}, {"dilation": 3}):
        name = ", ".join(f"{k}={v}" for k, v in knob.items()) or "no knobs"
        assert_close(student.conv2d(x, w, **knob), F.conv2d(x, w, **knob), f"the output for {name}")


@pytest.mark.exercise("corr")
def test_channels(student):
    """`conv2d` sums over input channels, makes every output channel, and adds the bias."""
    x = torch.stack([IMAGE, 10 * IMAGE])[None]
    w = torch.stack([torch.stack([KERNEL, KERNEL]), torch.stack([KERNEL, 0 * KERNEL])])
    b = torch.tensor([0.5, -0.5])
    got = student.conv2d(x, w, b)
    assert_close(
        got,
        F.conv2d(x, w, b),
        symptoms={
            "The bias is not added.": F.conv2d(x, w),
            "The bias is added once for each input channel.": F.conv2d(x, w, 2 * b),
        },
    )


@pytest.mark.exercise("corr")
def test_groups(student):
    """With two groups an output sees half of the channels; three groups of four channels raise."""
    x = torch.stack([IMAGE, -IMAGE, 2 * IMAGE, IMAGE.T])[None]
    w = torch.stack([KERNEL, KERNEL.T, -KERNEL, 3 * KERNEL])[:, None].repeat(1, 2, 1, 1)
    assert_close(
        student.conv2d(x, w, groups=2), F.conv2d(x, w, groups=2), "the output for groups=2"
    )
    with raises(ValueError):
        student.conv2d(x, w, groups=3)


@pytest.mark.exercise("im2col")
def test_columns(student):
    """`im2col` has one column for each position of the window, row by row."""
    expected = torch.tensor([[1.0, 2, 0, 1], [2, 0, 1, 4], [0, 1, 2, 0], [1, 4, 0, 1]])
    assert_close(
        student.im2col(IMAGE[None, None], 2),
        expected[None],
        symptoms={
            "Patches are in the rows; they should be in the columns.": expected.T[None],
        },
    )
    x = torch.arange(2 * 2 * 25.0).view(2, 2, 5, 5)
    for s, p, d in ((2, 0, 1), (1, 1, 1), (1, 0, 2)):
        assert_close(
            student.im2col(x, 3, s, p, d),
            F.unfold(x, 3, d, p, s),
            f"the output for s={s}, p={p}, d={d}",
        )


@pytest.mark.exercise("im2col")
def test_matrix(student):
    """`conv_matrix` holds the kernel in each row, and times the image it gives the output."""
    got = student.conv_matrix(KERNEL, 3, 3)
    expected = torch.tensor(
        [
            [1.0, 2, 0, 0, -1, 0, 0, 0, 0],
            [0, 1, 2, 0, 0, -1, 0, 0, 0],
            [0, 0, 0, 1, 2, 0, 0, -1, 0],
            [0, 0, 0, 0, 1, 2, 0, 0, -1],
        ]
    )
    assert_close(
        got,
        expected,
        "M",
        symptoms={
            "This is the transpose: outputs should be rows, inputs columns.": expected.T,
            "The kernel is flipped in M.": expected.flip(0, 1),
        },
    )


@pytest.mark.exercise("one")
def test_same_outputs(student):
    """Converted to a linear layer and back, a 1x1 convolution gives the same outputs."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 1)
    x = torch.randn(1, 3, 2, 2)
    linear = student.conv1x1_to_linear(conv)
    assert_close(linear(x.movedim(1, -1)).movedim(-1, 1), conv(x), "the linear layer's output")
    assert_close(student.linear_to_conv1x1(linear)(x), conv(x), "the convolution's output")
    bare = student.conv1x1_to_linear(nn.Conv2d(2, 3, 1, bias=False))
    assert_true(bare.bias is None, "A convolution without bias gives a linear layer without bias.")


@pytest.mark.exercise("one")
def test_gaps(student):
    """`shift_gap` is 0 for a circular convolution, and for stride 2 at even shifts."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 6)
    circular = {"padding": 1, "padding_mode": "circular"}
    plain, strided = nn.Conv2d(1, 2, 3, **circular), nn.Conv2d(1, 2, 3, stride=2, **circular)
    with torch.no_grad():
        assert_close(
            student.shift_gap(plain, x, 1, 2), 0.0, "the gap of the convolution", atol=1e-5
        )
        assert_true(
            student.shift_gap(strided, x, 1, 0) > 1e-3,
            "Stride 2 and a shift by one pixel should leave a gap.",
        )
        assert_close(
            student.shift_gap(strided, x, 2, 4),
            0.0,
            "the gap of stride 2 at a shift by (2, 4)",
            atol=1e-5,
        )


WINDOWS = torch.tensor([[1.0, 3, 2, 0], [4, 2, 1, 5], [0, 1, 7, 2], [2, 6, 3, 1]])[None, None]


@pytest.mark.exercise("pool")
def test_plain_windows(student):
    """`pool2d` takes the largest or the mean of each window; the default stride is k."""
    largest = torch.tensor([[[[4.0, 5], [6, 7]]]])
    mean = torch.tensor([[[[2.5, 2], [2.25, 3.25]]]])
    assert_close(student.pool2d(WINDOWS, 2), largest, "the largest")
    assert_close(
        student.pool2d(WINDOWS, 2, mode="avg"),
        mean,
        "the mean",
        symptoms={
            "This is the sum; divide by the number of cells.": 4 * mean,
        },
    )
    assert_close(
        student.pool2d(WINDOWS, 3, 1), F.max_pool2d(WINDOWS, 3, 1), "the largest for k=3, stride=1"
    )


@pytest.mark.exercise("pool")
def test_borders(student):
    """Padding never wins the maximum, and counts in the mean only if it should."""
    x = -WINDOWS - 1
    assert_close(
        student.pool2d(x, 2, 2, 1),
        F.max_pool2d(x, 2, 2, 1),
        "max with padding",
        symptoms={
            "A zero of the padding wins where all values are negative.": F.max_pool2d(
                F.pad(x, [1] * 4), 2, 2
            ),
        },
    )
    for flag in (True, False):
        kw = {"count_include_pad": flag}
        assert_close(
            student.pool2d(x, 2, 2, 1, "avg", flag),
            F.avg_pool2d(x, 2, 2, 1, **kw),
            f"the mean, count_include_pad={flag}",
        )
    with raises(ValueError):
        student.pool2d(x, 3, padding=2)


@pytest.mark.exercise("pool")
def test_rounding_up(student):
    """With ceil_mode a last, incomplete window is kept."""
    x = torch.arange(25.0).view(1, 1, 5, 5)
    for mode, library in (("max", F.max_pool2d), ("avg", F.avg_pool2d)):
        assert_close(
            student.pool2d(x, 2, mode=mode, ceil_mode=True),
            library(x, 2, ceil_mode=True),
            f"the output for mode={mode!r}",
        )


@pytest.mark.exercise("pool")
def test_adaptive(student):
    """`adaptive_pool2d` gives the wanted size, its windows overlap where it does not divide."""
    x = torch.tensor([4.0, 2, 6, 8, 2]).view(1, 1, 1, 5)
    assert_close(
        student.adaptive_pool2d(x, (1, 3)),
        torch.tensor([[[[3.0, 16 / 3, 5.0]]]]),
        "the mean of five pixels in three windows",
        symptoms={
            "The end of a window is rounded up, so that windows may overlap.": torch.tensor(
                [[[[4.0, 4.0, 5.0]]]]
            ),
        },
    )
    assert_close(
        student.adaptive_pool2d(x, (1, 3), "max"),
        torch.tensor([[[[4.0, 8, 8]]]]),
        "the largest of five pixels in three windows",
    )
    assert_close(
        student.adaptive_pool2d(WINDOWS, 1),
        WINDOWS.mean((2, 3), keepdim=True),
        "the mean for out=1",
    )


@pytest.mark.exercise("pool")
def test_backward(student):
    """`pool_backward` sends the gradient to the maxima, or spreads it evenly."""
    dy = torch.tensor([[[[1.0, 2], [3, 4]]]])
    to_max = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 2], [0, 0, 4, 0], [0, 3, 0, 0]])[None, None]
    spread = dy.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_close(
        student.pool_backward(dy, (WINDOWS, 2, 2, 0, "max")),
        to_max,
        "the gradient of max",
        symptoms={"Only the maximum gets the gradient, not the whole window.": spread},
    )
    assert_close(
        student.pool_backward(dy, (WINDOWS, 2, 2, 0, "avg")),
        spread / 4,
        "the gradient of avg",
        symptoms={"Each cell gets a share of 1 / k².": spread},
    )
    dy = torch.arange(9.0).view(1, 1, 3, 3)
    x = torch.zeros_like(WINDOWS).requires_grad_()
    F.avg_pool2d(x, 2, 1).backward(dy)
    assert_close(
        student.pool_backward(dy, (WINDOWS, 2, 1, 0, "avg")),
        x.grad,
        "the gradient of avg where windows overlap",
    )


@pytest.mark.exercise("unpool")
def test_indices(student):
    """`maxpool_with_indices` gives the maxima, and row * W + column of each."""
    y, idx = student.maxpool_with_indices(WINDOWS, 2)
    assert_close(y, torch.tensor([[[[4.0, 5], [6, 7]]]]), "the values")
    assert_close(
        idx,
        torch.tensor([[[[4, 7], [13, 10]]]]),
        "the indices",
        symptoms={
            "These are places in the window; count in the whole plane.": torch.tensor(
                [[[[2, 3], [3, 0]]]]
            ),
        },
    )


@pytest.mark.exercise("unpool")
def test_back_in_place(student):
    """`unpool` puts each value at its index and zeros elsewhere."""
    y, idx = torch.tensor([[[[4.0, 5], [6, 7]]]]), torch.tensor([[[[4, 7], [13, 10]]]])
    expected = torch.tensor([[0.0, 0, 0, 0], [4, 0, 0, 5], [0, 0, 7, 0], [0, 6, 0, 0]])[None, None]
    assert_close(student.unpool(y, idx, (4, 4)), expected)
    two = torch.cat([y, 10 * y], dim=1)
    assert_close(
        student.unpool(two, torch.cat([idx, idx], dim=1), (4, 4)),
        torch.cat([expected, 10 * expected], dim=1),
        "the output for two channels",
    )
    same = torch.tensor([[[[1, 1]]]])
    twice = student.unpool(torch.tensor([[[[3.0, 3.0]]]]), same, (1, 3))
    assert_close(
        twice,
        torch.tensor([[[[0.0, 3, 0]]]]),
        "an index that occurs twice",
        symptoms={
            "Values with the same index are added; they should be written.": torch.tensor(
                [[[[0.0, 6, 0]]]]
            ),
        },
    )


@pytest.mark.exercise("debug")
def test_pixels_stay_together(student):
    """`to_batch` keeps every pixel's three colours at its place, as float32 in [0, 1]."""
    images = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3) * 3
    expected = torch.stack([images[..., c] for c in range(3)], 1).float() / 255
    scrambled = torch.cat([image.flatten() for image in images]).view(2, 3, 3, 4).float() / 255
    assert_close(
        student.to_batch(images),
        expected,
        "the batch",
        symptoms={
            "The order in memory was kept, so pixels and colours are mixed.": scrambled,
            "The values still run to 255.": expected * 255,
        },
    )
