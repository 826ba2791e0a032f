"""Public checks of the chapter on segmentation, transposed convolution and style transfer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "colormap": [
        "`voc_colormap`: work on all indices at once: `torch.arange(n)`. Bit b of the index is "
        "`(index >> b) & 1`.",
        "Bit b belongs to colour b % 3, and is worth 2 to the power of 7 - b // 3 there.",
        "`rgb_to_index`: turn a colour into one number in int64 (uint8 would overflow), and "
        "fill the table with 255 before you write the 21 classes into it.",
    ],
    "crop": [
        "Draw `top` and `left` once with `torch.randint(…, generator=rng)`, and use the same two "
        "slices for the image and the mask.",
        "How many places are there for a box of h rows in a picture of H? One more than H - h.",
        "`resize_mask`: floor((i + 1/2) * H / h) is `(2 * i + 1) * H // (2 * h)` in whole "
        "numbers. Then index the mask with a column of row numbers and a row of column numbers.",
    ],
    "tconv": [
        "Make a zero output that is large enough *before* padding is cut off, and add one stamp "
        "for each input pixel.",
        "A stamp with dilation lands on a slice with a step. For the channels, "
        '`torch.einsum("nc,coab->noab", …)` makes the stamps of a whole batch at once. '
        "Output padding makes the zero output larger at the bottom and on the right.",
        "`as_conv`: put x into a zero tensor with `[..., ::stride, ::stride]`, pad "
        "k - 1 - padding, flip the kernel in both axes and exchange its first two axes.",
    ],
    "matrix": [
        "Think of C with four axes: output row, output column, image row, image column.",
        "C[i, j] is a picture that is zero except where window (i, j) lies; there it is the "
        "kernel.",
    ],
    "bilinear": [
        "`bilinear_kernel`: one axis first: a vector of k numbers, 1 - |a - c| / f. Its products "
        "with itself make the square.",
        "Only weight[c, c] is not zero; the two numbers of channels may differ.",
        "`bilinear`: clamp the places, take the floor as whole numbers, and see that the pixel "
        "below and the one to the right stay inside. `img[:, rows, cols]` reads many pixels at "
        "once.",
    ],
    "fcn": [
        "`FCN`: the stride and padding of `up` are given; the kernel size follows from k = 2p + s.",
        "`dice_loss`: three sums over the last two axes, then one formula, then one mean.",
        "`miou`: throw the ignored pixels out of both, and loop over the classes that occur in "
        "either (`torch.cat([pred, y]).unique()`).",
    ],
    "style": [
        "`gram`: flatten height and width (`x.flatten(2)`), then one batched matrix product.",
        "The divisor is the number of features of *one* image. `detach` makes a target.",
        "`tv_loss`: differences of `x[:, :, 1:]` and `x[:, :, :-1]`, and the same along the last "
        "axis; absolute values before the means.",
    ],
    "transfer": [
        "Compute both targets once, before the loop, without gradients.",
        "The image is an `nn.Parameter` with a copy of the content. Get its gradient with "
        "`torch.autograd.grad(loss, [img])` and put it into `img.grad` before `optimizer.step()`.",
        "Clamp in place, under `torch.no_grad()`: `img.clamp_(0, 1)`. A new tensor would be "
        "unknown to the optimizer.",
    ],
    "debug": [
        "The optimizer holds a tensor. After the last line of the loop, which tensor is `img`?",
        "Change the values of the tensor that is there, instead of making another one.",
    ],
}


@pytest.mark.exercise("colormap")
def test_some_colours(student):
    """`voc_colormap` spreads the bits of the index over red, green and blue."""
    colours = torch.tensor([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]])
    assert_close(
        student.voc_colormap(5),
        colours.to(torch.uint8),
        "the first five colours",
        symptoms={
            "Red and blue are exchanged: the lowest bit goes to red.": colours.flip(1).to(
                torch.uint8
            ),
        },
    )
    assert_equal(student.voc_colormap(16)[15].tolist(), [192, 128, 128], "the colour of class 15")


@pytest.mark.exercise("colormap")
def test_there_and_back(student):
    """Indices become colours and come back; void is 255 and nothing else."""
    idx = torch.tensor([[0, 3, 20], [15, 255, 1]])
    colours = torch.tensor([[[0, 0, 0], [128, 128, 0], [0, 64, 128]],
                            [[192, 128, 128], [224, 224, 192], [128, 0, 0]]])  # fmt: skip
    colours = colours.to(torch.uint8)
    assert_close(student.index_to_rgb(idx), colours, "the label image")
    assert_close(
        student.rgb_to_index(colours),
        idx,
        "the indices",
        symptoms={
            "The void colour became background; fill the table with 255 first.": idx * (idx != 255),
        },
    )


PICTURE = torch.arange(20.0).view(1, 4, 5)


@pytest.mark.exercise("crop")
def test_the_same_box(student):
    """`rand_crop` cuts the same box out of image and mask."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        img, mask = student.rand_crop(PICTURE, PICTURE[0].long(), 2, 3, rng)
        assert_equal(tuple(img.shape), (1, 2, 3), "the shape of the image")
        assert_equal(img[0].tolist(), mask.double().tolist(), "the pixels of the two")
        corner = int(img[0, 0, 0])
        box = PICTURE[0, corner // 5 :, corner % 5 :][:2, :3]
        assert_close(img[0], box, "the box")
    with raises(ValueError):
        student.rand_crop(PICTURE, PICTURE[0].long(), 5, 2, rng)


@pytest.mark.exercise("crop")
def test_nearest(student):
    """`resize_mask` takes the nearest old pixel, and makes no new class."""
    mask = torch.tensor([[0, 7], [15, 2]])
    assert_close(
        student.resize_mask(mask, (4, 4)),
        mask.repeat_interleave(2, 0).repeat_interleave(2, 1),
        "the enlarged mask",
    )
    mask = torch.arange(6)[None].expand(2, 6)
    assert_close(
        student.resize_mask(mask, (1, 2)),
        torch.tensor([[1, 4]]),
        "the columns that are left of six",
        symptoms={
            "Half a pixel is missing: compare the centres of new and old pixels.": torch.tensor(
                [[0, 3]]
            ),
        },
    )


X = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
K = torch.tensor([[[[1.0, 4.0], [2.0, 3.0]]]])


@pytest.mark.exercise("tconv")
def test_stamps(student):
    """`conv_transpose2d` adds a stamp for each input pixel, as in the figure."""
    expected = torch.tensor([[[[0.0, 1, 4], [2, 13, 15], [4, 12, 9]]]])
    assert_close(
        student.conv_transpose2d(X, K),
        expected,
        symptoms={
            "Stamps overwrite each other; they should add up.": torch.tensor(
                [[[[0.0, 1, 4], [2, 3, 12], [4, 6, 9]]]]
            ),
            "The kernel is turned; stamp it as it is.": F.conv_transpose2d(X, K.flip(2, 3)),
        },
    )
    assert_close(student.conv_transpose2d(X, K, padding=1), expected[..., 1:2, 1:2], "padding 1")
    assert_close(
        student.conv_transpose2d(X, K, stride=2), F.conv_transpose2d(X, K, stride=2), "stride 2"
    )


@pytest.mark.exercise("tconv")
def test_channels_and_options(student):
    """All input channels add up; dilation and output padding change the size as the formula says."""
    x = torch.arange(12.0).view(1, 2, 2, 3)
    w = torch.arange(24.0).view(2, 3, 2, 2) - 9
    options = (
        {},
        {"stride": 2, "output_padding": 1},
        {"stride": 3, "padding": 1, "output_padding": 2},
        {"dilation": 2, "padding": 1},
    )
    for kw in options:
        name = ", ".join(f"{k}={v}" for k, v in kw.items()) or "three output channels"
        assert_close(
            student.conv_transpose2d(x, w, **kw), F.conv_transpose2d(x, w, **kw), f"for {name}"
        )
    with raises(ValueError):
        student.conv_transpose2d(x, w, stride=2, output_padding=2)


@pytest.mark.exercise("tconv")
def test_one_convolution(student):
    """`as_conv` gives the same by an ordinary convolution."""
    assert_close(
        student.as_conv(X, K),
        F.conv_transpose2d(X, K),
        symptoms={
            "The kernel should be turned by 180 degrees.": F.conv2d(F.pad(X, [1] * 4), K),
            "Transposing the kernel is not turning it: flip both axes.": F.conv2d(
                F.pad(X, [1] * 4), K.mT
            ),
        },
    )
    assert_close(
        student.as_conv(X, K, 2, 1), F.conv_transpose2d(X, K, None, 2, 1), "stride 2, padding 1"
    )


@pytest.mark.exercise("matrix")
def test_small_matrix(student):
    """`conv_matrix` has a row for each output and a column for each pixel."""
    k = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    expected = torch.tensor([[1.0, 2, 0, 0, 3, 0], [0, 1, 2, 0, 0, 3]])
    assert_close(
        student.conv_matrix(k, 2, 3),
        expected,
        "C",
        symptoms={"This is the transpose: outputs should be rows.": expected.T},
    )
    image = torch.arange(12.0)
    y = F.conv2d(image.view(1, 1, 3, 4), k[None, None]).flatten()
    assert_close(student.conv_matrix(k, 3, 4) @ image, y, "C @ image")
    with raises(ValueError):
        student.conv_matrix(k, 1, 5)


@pytest.mark.exercise("bilinear")
def test_tent(student):
    """`bilinear_kernel` is a tent from each channel to itself."""
    quarter = torch.tensor([0.25, 0.75, 0.75, 0.25])
    square = quarter[:, None] * quarter
    got = student.bilinear_kernel(2, 2, 4)
    assert_close(got[0, 0], square, "the kernel of channel 0 for k=4")
    assert_close(
        got[1, 0],
        torch.zeros(4, 4),
        "from channel 1 to channel 0",
        symptoms={"Channels must not mix: only equal numbers are connected.": square},
    )
    third = torch.tensor([0.5, 1.0, 0.5])
    assert_close(student.bilinear_kernel(1, 1, 3)[0, 0], third[:, None] * third, "k=3")


@pytest.mark.exercise("bilinear")
def test_between_pixels(student):
    """`bilinear` gives 25 in the worked example, and the pixels at their places."""
    img = torch.tensor([[[10.0, 20.0], [30.0, 60.0]]])
    ys, xs = torch.tensor([0.5, 0.0, 1.0, 0.0]), torch.tensor([0.25, 1.0, 1.0, 7.0])
    assert_close(
        student.bilinear(img, ys, xs),
        torch.tensor([[25.0, 20.0, 60.0, 20.0]]),
        "the values at four places",
        symptoms={
            "Rows and columns are exchanged.": torch.tensor([[23.75, 30.0, 60.0, 30.0]]),
        },
    )


@probe
def scores_of_fcn(student, h, w):
    """The shapes of an FCN's output and of its layers' weights."""
    body = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 5, 3, 2, 1))
    net = student.FCN(body, 4, 4)
    shape = list(net(torch.zeros(2, 3, h, w)).shape)
    return shape, list(net.head.weight.shape), list(net.up.weight.shape), net.up.bias is None


@pytest.mark.exercise("fcn")
def test_output_is_as_large(student):
    """`FCN` gives scores for every pixel; `head` is a 1 x 1 convolution and `up` enlarges."""
    shape, head, up, no_bias = student.run(scores_of_fcn, 8, 12)
    assert_equal(shape, [2, 4, 8, 12], "the shape of the output")
    assert_equal(head, [4, 5, 1, 1], "the shape of head.weight")
    assert_equal(up, [4, 4, 8, 8], "the shape of up.weight")
    assert_true(no_bias, "`up` should have no bias.")


@pytest.mark.exercise("fcn")
def test_dice(student):
    """`dice_loss` is 0 for a perfect or an empty answer, and follows the formula."""
    y = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert_close(student.dice_loss(y, y), torch.tensor(0.0), "a perfect answer", atol=1e-6)
    empty = torch.zeros(1, 2, 2)
    assert_close(student.dice_loss(empty, empty), torch.tensor(0.0), "an empty mask", atol=1e-6)
    p = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]])
    assert_close(
        student.dice_loss(p, y, 1.0),
        torch.tensor(1 - 3.0 / 5.0),
        symptoms={
            "The overlap counts twice in the numerator.": torch.tensor(1 - 2.0 / 5.0),
            "This is the overlap itself; the loss is one minus it.": torch.tensor(3.0 / 5.0),
        },
    )


@pytest.mark.exercise("fcn")
def test_worked_example(student):
    """`miou` is 1/3 in the worked example: void pixels count in neither."""
    y = torch.tensor([0, 0, 1, 1, 2, 255])
    pred = torch.tensor([0, 1, 1, 1, 1, 2])
    assert_close(
        student.miou(pred, y),
        1 / 3,
        "the mean IoU",
        symptoms={
            "The void pixel counts in the prediction, or as a class.": (0.5 + 0.5 + 0 + 0) / 4,
        },
    )
    assert_true(math.isnan(student.miou(pred[5:], y[5:])), "No pixel counts: this should be nan.")


FEATURES = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 1.0]]]])


@pytest.mark.exercise("style")
def test_small_gram(student):
    """`gram` holds the inner products of all pairs of channels, divided by C * H * W."""
    product = torch.tensor([[[6.0, 4.0], [4.0, 11.0]]])
    assert_close(
        student.gram(FEATURES),
        product / 8,
        symptoms={
            "The division by C * H * W is missing.": product,
            "Divide by the channels, too: C * H * W.": product / 4,
        },
    )
    assert_close(
        student.style_loss(FEATURES, torch.zeros(1, 2, 2)),
        (product / 8).square().mean(),
        "style_loss",
        symptoms={"This is the sum; take the mean.": (product / 8).square().sum()},
    )


@pytest.mark.exercise("style")
def test_rough_and_smooth(student):
    """`tv_loss` is 0 for an even image and half the sum of two means else."""
    assert_close(student.tv_loss(torch.full((1, 3, 4, 5), 0.7)), torch.tensor(0.0), atol=1e-7)
    x = torch.tensor([[[[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]]]])
    down, right = (2 + 1 + 2) / 3, (1 + 3 + 0 + 0) / 4
    assert_close(
        student.tv_loss(x),
        torch.tensor((down + right) / 2),
        symptoms={
            "Half of the sum is meant.": torch.tensor(down + right),
            "Signs cancel: take absolute values first.": torch.tensor((1 / 3 + 1.0) / 2),
        },
    )


@probe
def small_transfer(student, steps):
    """stylize on a tiny net: image, history, whether the net is as before, and its gradients."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.linspace(-1, 1, 36).view(4, 3, 3, 1))

        def forward(self, x):
            y = F.relu(F.conv2d(x, self.w))
            return [y], [y]

    net = Tiny()
    before = net.w.detach().clone()
    content = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
    style = (content * 7) % 1
    img, history = student.stylize(content, style, net, steps, (1.0, 50.0, 0.1))
    return img.detach(), list(history), torch.equal(before, net.w), net.w.grad is None


@pytest.mark.exercise("transfer")
def test_loss_falls(student):
    """The loss falls, and the image stays in [0, 1]."""
    img, history, _, _ = student.run(small_transfer, 25)
    assert_equal(len(history), 25, "the number of losses")
    assert_equal(tuple(img.shape), (1, 3, 4, 4), "the shape of the image")
    assert_true(
        history[-1] < 0.7 * history[0],
        "The loss hardly falls. Does the optimizer still hold the image that you change?",
    )
    assert_true(img.min() >= 0 and img.max() <= 1, "The image leaves [0, 1].")


@pytest.mark.exercise("transfer")
def test_net_is_left_alone(student):
    """The network's weights stay as they are and get no gradient."""
    _, _, same, no_grad = student.run(small_transfer, 2)
    assert_true(same, "The weights of the network changed; only the image may.")
    assert_true(no_grad, "A weight of the network got a .grad; ask for the image's only.")


@pytest.mark.exercise("debug")
def test_it_goes_on_moving(student):
    """`pull` arrives at the target, stays in [0, 1], and leaves the start as it is."""
    start = torch.tensor([[[0.0, 0.2], [1.0, 0.4]]])
    goal = torch.tensor([[[0.75, 0.2], [0.5, 3.0]]])
    one = (start - 0.2 * 2 * (start - goal)).clamp(0, 1)
    before = start.clone()
    assert_close(student.pull(start, goal, 1), one, "the image after one step")
    assert_close(
        student.pull(start, goal, 60),
        goal.clamp(0, 1),
        "the image after 60 steps",
        symptoms={"It stops after the first step: the optimizer has lost the image.": one},
        atol=1e-4,
    )
    assert_close(start, before, "the start")
