"""Hidden tests of the chapter on convolution and pooling."""

import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_true,
    does_not_call,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- layer -----------------------------------------------------------------------------------


@probe
def run_layer(student, size, weight, bias, x, dy):
    """A layer with given numbers: its output, and the gradients of sum(dy * output)."""
    layer = student.Conv2D(size)
    with torch.no_grad():
        layer.to(weight.dtype)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    x = x.clone().requires_grad_()
    y = layer(x)
    wanted = [layer.weight, layer.bias, x]
    grads = torch.autograd.grad((y * dy).sum(), wanted, allow_unused=True)
    return y.detach(), [
        torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted, strict=True)
    ]


@probe
def layer_parameters(student, size):
    """Shapes of the parameters, the bias at the start, and whether two layers differ."""
    one, other = student.Conv2D(size), student.Conv2D(size)
    shapes = {name: list(p.shape) for name, p in one.named_parameters()}
    differ = not torch.equal(one.weight, other.weight)
    return shapes, one.bias.detach().clone(), differ, isinstance(one, nn.Module)


@pytest.mark.exercise("layer", points=2)
@pytest.mark.parametrize("image, size", [((6, 8), (1, 2)), ((5, 4), (3, 3)), ((7, 3), (2, 1))])
def test_layer_equals_conv2d(student, device, image, size):
    """With the same numbers, Conv2D should give what nn.Conv2d gives, bias included."""
    x, w, b = randn(*image, device=device), randn(*size, device=device), randn(1, device=device)
    expected = F.conv2d(x[None, None], w[None, None], b)[0, 0]
    y, _ = student.run(run_layer, size, w, b, x, torch.ones_like(expected))
    assert_close(
        y,
        expected,
        symptoms={
            "The bias is missing.": expected - b,
            "The kernel is flipped.": F.conv2d(x[None, None], w.flip(0, 1)[None, None], b)[0, 0],
        },
    )


@pytest.mark.exercise("layer", points=2)
def test_layer_gradients(student, device):
    """The gradients for weight, bias and image should equal those of nn.Conv2d."""
    x, w, b = randn(6, 5, device=device), randn(2, 3, device=device), randn(1, device=device)
    dy = randn(5, 3, device=device)
    conv = nn.Conv2d(1, 1, (2, 3)).to(device, torch.float64)
    with torch.no_grad():
        conv.weight.copy_(w[None, None])
        conv.bias.copy_(b)
    leaf = x.clone().requires_grad_()
    loss = (conv(leaf[None, None])[0, 0] * dy).sum()
    gw, gb, gx = torch.autograd.grad(loss, [conv.weight, conv.bias, leaf])
    _, got = student.run(run_layer, (2, 3), w, b, x, dy)
    assert_close(list(got), [gw[0, 0], gb, gx], "the gradients for weight, bias and x")


@pytest.mark.exercise("layer", points=1)
def test_layer_parameters(student):
    """A new Conv2D should have a random weight (h, w) and a zero bias (1,), both parameters."""
    shapes, bias, differ, module = student.run(layer_parameters, (3, 2))
    assert_true(module, "Conv2D should be an nn.Module.")
    assert_equal(shapes, {"weight": [3, 2], "bias": [1]}, "the parameters")
    assert_close(bias, torch.zeros(1), "the bias of a new layer")
    assert_true(differ, "Two new layers have the same weight; it should be random.")


@pytest.mark.exercise("layer", points=3)
@pytest.mark.parametrize(
    "kernel", [[[1.0, -1.0]], [[0.5], [-2.0], [1.0]], [[1.0, 2.0], [0.0, -1.0]]]
)
def test_kernel_is_found(student, device, kernel):
    """After many steps learn_kernel should return the kernel that made Y, of any size."""
    kernel = torch.tensor(kernel, dtype=torch.float64, device=device)
    X = randn(9, 11, device=device)
    Y = F.conv2d(X[None, None], kernel[None, None])[0, 0]
    with unchanged(X, Y):
        got = student.learn_kernel(X, Y, 150, 0.2)
    assert_true(not got.requires_grad, "The kernel should be detached.")
    assert_close(got, kernel, "the kernel", atol=1e-2)


@pytest.mark.exercise("layer", points=2)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_steps_of_gradient_descent(student, device, steps):
    """A few steps should be plain gradient descent on the mean squared error, from zeros."""
    X, Y = randn(7, 6, device=device), randn(6, 4, device=device)
    kernel = torch.zeros(2, 3, dtype=X.dtype, device=device)
    doubled = kernel.clone()
    for _ in range(steps):
        for current, scale in ((kernel, 1.0), (doubled, float(Y.numel()))):
            error = F.conv2d(X[None, None], current[None, None])[0, 0] - Y
            grad = 2 / Y.numel() * F.conv2d(X[None, None], error[None, None])[0, 0]
            current -= 0.05 * scale * grad
    assert_close(
        student.learn_kernel(X, Y, steps, 0.05),
        kernel,
        "the kernel",
        symptoms={
            "The loss is the sum of the squared errors; take the mean.": doubled,
        },
    )


# --- size ------------------------------------------------------------------------------------


def settings():
    """150 sizes (h, k, s, p, d) that fit."""
    found = [
        (h, k, s, p, d)
        for h in (7, 8, 12, 15, 29)
        for k in (1, 2, 3, 5)
        for s in (1, 2, 3)
        for p in (0, 1, 3)
        for d in (1, 2, 3)
        if h + 2 * p >= d * (k - 1) + 1
    ]
    return found[:: len(found) // 150][:150]


def conv1d_size(h, k, s, p, d):
    x = torch.zeros(1, 1, h)
    return F.conv1d(x, torch.zeros(1, 1, k), stride=s, padding=p, dilation=d).shape[-1]


@pytest.mark.exercise("size", points=4)
def test_every_size(student):
    """out_size should be the size of F.conv2d's output, in 150 settings."""
    for setting in settings():
        got = student.out_size(*setting)
        h, k, s, p, d = setting
        assert_close(
            got,
            conv1d_size(*setting),
            f"`out_size{setting}`",
            symptoms={
                "The -1 in the numerator is missing.": (h + 2 * p - d * (k - 1)) // s + 1,
                "The size is rounded up; an incomplete window does not count.": -(
                    -(h + 2 * p - d * (k - 1) - 1) // s
                )
                + 1,
            },
        )


@pytest.mark.exercise("size", points=2)
def test_size_by_name(student):
    """out_size should take s, p and d by name, with the defaults 1, 0 and 1, and return an int."""
    assert_equal(student.out_size(11, 4), 8, "`out_size(11, 4)`")
    assert_equal(student.out_size(11, 4, p=2), 12, "`out_size(11, 4, p=2)`")
    assert_equal(student.out_size(11, 4, d=3), 2, "`out_size(11, 4, d=3)`")
    got = student.out_size(h=20, k=3, s=4, p=1, d=2)
    assert_equal(got, 5, "`out_size(20, 3, s=4, p=1, d=2)`")
    assert_true(type(got) is int, "The size should be an int.")


STACKS = [
    [(3, 1, 1, 1)],
    [(3, 2, 0, 1), (3, 1, 0, 1)],
    [(5, 2, 2, 1), (2, 2, 0, 1), (3, 1, 1, 1)],
    [(3, 1, 1, 1), (3, 1, 2, 2), (3, 1, 4, 4)],
    [(3, 2, 1, 1), (3, 3, 2, 2), (2, 1, 0, 3)],
    [(1, 1, 0, 1), (4, 3, 1, 1), (1, 2, 0, 1), (3, 1, 1, 1)],
]


@pytest.mark.exercise("size", points=5)
@pytest.mark.parametrize("layers", STACKS)
def test_field_is_the_support_of_a_gradient(student, layers):
    """Output t should see exactly the pixels from start + t * jump to start + t * jump + r - 1."""
    r, jump, start = student.receptive_field([tuple(layer) for layer in layers])
    x = torch.zeros(1, 1, 60, requires_grad=True)
    y = x
    for k, s, p, d in layers:
        y = F.conv1d(y, torch.ones(1, 1, k), stride=s, padding=p, dilation=d)
    # Kernels with holes: what lies between the first and the last pixel counts as seen.
    for t in (0, 1, y.shape[-1] // 2, y.shape[-1] - 1):
        seen = torch.autograd.grad(y[0, 0, t], x, retain_graph=True)[0][0, 0].nonzero()[:, 0]
        first, last = start + t * jump, start + t * jump + r - 1
        if first >= 0:
            assert_equal(first, seen[0].item(), f"the first pixel that output {t} sees")
        if last < 60:
            assert_equal(last, seen[-1].item(), f"the last pixel that output {t} sees")


@pytest.mark.exercise("size", points=4)
@pytest.mark.parametrize(
    "layers, expected",
    [
        ([], (1, 1, 0)),
        ([(7, 2, 3, 1), (3, 2, 1, 1)], (11, 4, -5)),
        ([(3, 1, 1, 1), (3, 1, 1, 1), (2, 2, 0, 1)] * 3, (36, 8, -14)),
        ([(3, 1, 2, 2), (3, 2, 0, 1), (3, 1, 3, 3)], (19, 2, -8)),
    ],
)
def test_field_on_paper(student, layers, expected):
    """receptive_field should agree with the recursion on paper, padding and dilation included."""
    layers = [tuple(layer) for layer in layers]
    with unchanged(layers):
        got = student.receptive_field(layers)
    assert_close(list(got), list(expected), "(r, jump, start)")


# --- corr ------------------------------------------------------------------------------------


@pytest.mark.exercise("corr", points=3)
@pytest.mark.parametrize(
    "image, kernel",
    [((6, 8), (1, 2)), ((5, 5), (5, 5)), ((7, 4), (3, 2)), ((1, 6), (1, 4)), ((3, 3), (1, 1))],
)
def test_corr2d_equals_conv2d(student, device, image, kernel):
    """corr2d should equal F.conv2d for any image and kernel size, and leave both as they were."""
    x, k = randn(*image, device=device), randn(*kernel, device=device)
    with unchanged(x, k):
        got = student.corr2d(x, k)
    assert_close(
        got,
        F.conv2d(x[None, None], k[None, None])[0, 0],
        symptoms={
            "The kernel is flipped; cross-correlation slides it as it is.": F.conv2d(
                x[None, None], k.flip(0, 1)[None, None]
            )[0, 0]
        },
    )


@pytest.mark.exercise("corr", points=1)
def test_convolution_by_flipping(student):
    """corr2d with a flipped kernel should be the convolution of signal processing."""
    x, k = randn(6, 7), randn(3, 2)
    expected = torch.from_numpy(convolve2d(x.numpy(), k.numpy(), mode="valid"))
    assert_close(student.corr2d(x, k.flip(0, 1)), expected)


@pytest.mark.exercise("corr", points=1)
@pytest.mark.parametrize("image, kernel", [((2, 5), (3, 3)), ((5, 2), (1, 3)), ((1, 1), (2, 2))])
def test_corr2d_kernel_too_large(student, image, kernel):
    """corr2d should raise a ValueError when the kernel is larger than the image in either axis."""
    x, k = randn(*image), randn(*kernel)
    with raises(ValueError):
        student.corr2d(x, k)


# N, C, H, W, O, h, k, stride, padding, dilation, groups, bias: forty settings
CONFIGURATIONS = [
    (
        1 + i % 3,
        g * (1 + i % 2),
        9 + i % 4,
        12 - i % 3,
        g * (1 + (i // 2) % 3),
        1 + i % 3,
        1 + (i // 3) % 4,
        1 + (i // 2) % 3,
        (i // 4) % 3,
        1 + (i // 5) % 2,
        g,
        i % 2 == 0,
    )
    for i, g in enumerate([1, 2, 1, 3, 4] * 8)
]


@pytest.mark.exercise("corr", points=8)
def test_forty_configurations(student, device):
    """conv2d should equal F.conv2d for all sizes, strides, paddings, dilations and groups."""
    for n, c, H, W, o, h, k, s, p, d, g, bias in CONFIGURATIONS:
        x = randn(n, c, H, W, device=device)
        w = randn(o, c // g, h, k, device=device)
        b = randn(o, device=device) if bias else None
        expected = F.conv2d(x, w, b, s, p, d, g)
        got = student.conv2d(x, w, b, stride=s, padding=p, dilation=d, groups=g)
        assert_close(
            got,
            expected,
            f"the output for stride={s}, padding={p}, dilation={d}, groups={g}",
            symptoms={
                "The bias is missing.": F.conv2d(x, w, None, s, p, d, g),
                "The kernel is flipped.": F.conv2d(x, w.flip(2, 3), b, s, p, d, g),
            },
        )


@pytest.mark.exercise("corr", points=2)
def test_float32_and_defaults(student, device):
    """conv2d should keep float32, work without the optional arguments, and change no input."""
    x = randn(1, 2, 6, 5, dtype=torch.float32, device=device)
    w = randn(3, 2, 2, 3, dtype=torch.float32, device=device)
    with unchanged(x, w):
        got = student.conv2d(x, w)
    expected = F.conv2d(x.double(), w.double()).float()  # a GPU's float32 may be rounded to TF32
    assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.exercise("corr", points=3)
def test_conv2d_gradients(student, device):
    """The gradients for images, weight and bias should equal those of F.conv2d."""
    x, w, b = (
        randn(2, 4, 6, 7, device=device),
        randn(6, 2, 3, 2, device=device),
        randn(6, device=device),
    )
    assert_same_gradients(
        lambda x, w, b: student.conv2d(x, w, b, 2, 1, 1, 2),
        lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2),
        x,
        w,
        b,
    )


@pytest.mark.exercise("corr", points=2)
@pytest.mark.parametrize("channels, outputs, groups", [(4, 6, 3), (6, 4, 3), (5, 5, 2)])
def test_groups_that_do_not_divide(student, channels, outputs, groups):
    """conv2d should raise a ValueError when groups does not divide both numbers of channels."""
    x, w = randn(1, channels, 5, 5), randn(outputs, max(channels // groups, 1), 3, 3)
    with raises(ValueError):
        student.conv2d(x, w, groups=groups)


# --- im2col ----------------------------------------------------------------------------------


@pytest.mark.exercise("im2col", points=6)
@pytest.mark.parametrize(
    "shape, k, s, p, d",
    [
        ((1, 1, 4, 4), 2, 1, 0, 1),
        ((2, 3, 7, 5), 3, 1, 0, 1),
        ((2, 2, 8, 9), 3, 2, 1, 1),
        ((1, 3, 9, 7), 3, 1, 2, 2),
        ((3, 1, 10, 11), 2, 3, 1, 3),
        ((2, 4, 3, 6), 1, 2, 0, 1),
    ],
)
def test_im2col_equals_unfold(student, device, shape, k, s, p, d):
    """im2col should equal F.unfold for any size, stride, padding and dilation."""
    x = randn(*shape, device=device)
    with unchanged(x):
        got = student.im2col(x, k, s, p, d)
    expected = F.unfold(x, k, d, p, s)
    c = shape[1]
    taps_first = expected.unflatten(1, (c, k * k)).transpose(1, 2).flatten(1, 2)
    assert_close(
        got,
        expected,
        symptoms={
            "The channel should vary slowest, then the kernel's row, then its column.": taps_first
        },
    )


@pytest.mark.exercise("im2col", points=2)
def test_im2col_is_a_convolution(student, device):
    """The flattened weight times im2col should be the convolution, gradients included."""
    x, w = randn(2, 3, 6, 5, device=device), randn(4, 3, 3, 3, device=device)

    def by_columns(x, w):
        return (w.flatten(1) @ student.im2col(x, 3, p=1)).unflatten(2, (6, 5))

    assert_close(by_columns(x, w), F.conv2d(x, w, padding=1))
    assert_same_gradients(by_columns, lambda x, w: F.conv2d(x, w, padding=1), x, w)


@pytest.mark.exercise("im2col", points=3)
@pytest.mark.parametrize(
    "kernel, h, w", [((2, 2), 3, 3), ((3, 3), 5, 7), ((1, 3), 4, 5), ((3, 1), 5, 4), ((4, 4), 4, 4)]
)
def test_conv_matrix_times_image(student, device, kernel, h, w):
    """conv_matrix(k, h, w) @ x.flatten() should be the flattened convolution."""
    k, x = randn(*kernel, device=device), randn(h, w, device=device)
    with unchanged(k):
        M = student.conv_matrix(k, h, w)
    rows = (h - kernel[0] + 1) * (w - kernel[1] + 1)
    assert_equal(tuple(M.shape), (rows, h * w), "the shape of M")
    assert_close(M @ x.flatten(), F.conv2d(x[None, None], k[None, None]).flatten(), "M @ x")


@pytest.mark.exercise("im2col", points=2)
def test_conv_matrix_is_sparse(student, device):
    """Each row of conv_matrix should hold the kernel's entries once and zeros elsewhere."""
    k = rand(3, 2, device=device, dtype=torch.float32) + 1
    M = student.conv_matrix(k, 6, 5)
    for row in M:
        assert_close(row[row != 0], k.flatten(), "the entries of a row that are not zero")


@pytest.mark.exercise("im2col", points=2)
@pytest.mark.parametrize("kernel, h, w", [((2, 3), 4, 5), ((3, 3), 6, 4)])
def test_transpose_is_transposed_convolution(student, device, kernel, h, w):
    """The transpose of conv_matrix should do what F.conv_transpose2d does."""
    k = randn(*kernel, device=device)
    y = randn(h - kernel[0] + 1, w - kernel[1] + 1, device=device)
    expected = F.conv_transpose2d(y[None, None], k[None, None])[0, 0]
    got = (student.conv_matrix(k, h, w).T @ y.flatten()).view(h, w)
    assert_close(got, expected, "M.T @ y")


# --- one -------------------------------------------------------------------------------------


@probe
def to_linear(student, weight, bias, x, dy):
    """The linear layer made from a 1x1 convolution: output, gradients, kind, independence."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv = conv.to(weight.device, weight.dtype)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
    lin = student.conv1x1_to_linear(conv)
    x = x.clone().requires_grad_()
    y = lin(x.movedim(1, -1)).movedim(-1, 1)
    wanted = [x, *lin.parameters()]
    grads = torch.autograd.grad((y * dy).sum(), wanted, allow_unused=True)
    with torch.no_grad():
        for parameter in lin.parameters():
            parameter.add_(1)
    untouched = torch.equal(conv.weight, weight)
    facts = [isinstance(lin, nn.Linear), lin.bias is not None, untouched]
    return y.detach(), [torch.zeros(1) if g is None else g for g in grads], facts


@probe
def to_conv(student, weight, bias, x, dy):
    """The 1x1 convolution made from a linear layer: output, gradients, kind, independence."""
    lin = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    lin = lin.to(weight.device, weight.dtype)
    with torch.no_grad():
        lin.weight.copy_(weight)
        if bias is not None:
            lin.bias.copy_(bias)
    conv = student.linear_to_conv1x1(lin)
    x = x.clone().requires_grad_()
    y = conv(x)
    grads = torch.autograd.grad((y * dy).sum(), [x, *conv.parameters()], allow_unused=True)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(1)
    untouched = torch.equal(lin.weight, weight)
    facts = [isinstance(conv, nn.Conv2d), conv.bias is not None, untouched]
    return y.detach(), [torch.zeros(1) if g is None else g for g in grads], facts


@pytest.mark.exercise("one", points=3)
@pytest.mark.parametrize("c, o, with_bias", [(3, 5, True), (4, 2, False), (3, 3, True)])
def test_conv_to_linear(student, device, c, o, with_bias):
    """conv1x1_to_linear should give the same outputs and gradients, with its own parameters."""
    w = randn(o, c, 1, 1, device=device)
    b = randn(o, device=device) if with_bias else None
    x, dy = randn(2, c, 3, 4, device=device), randn(2, o, 3, 4, device=device)
    y, grads, facts = student.run(to_linear, w, b, x, dy)
    assert_equal(list(facts)[:2], [True, with_bias], "(is an nn.Linear, has a bias)")
    assert_close(y, F.conv2d(x, w, b), "the output")
    expected = [
        torch.einsum("nohw,oc->nchw", dy, w[:, :, 0, 0]),
        torch.einsum("nohw,nchw->oc", dy, x),
        dy.sum((0, 2, 3)),
    ]
    assert_close(list(grads), expected[: 3 if with_bias else 2], "the gradients")
    assert_true(facts[2], "Changing the linear layer changes the convolution: copy the numbers.")


@pytest.mark.exercise("one", points=3)
@pytest.mark.parametrize("c, o, with_bias", [(5, 3, True), (2, 4, False), (3, 3, True)])
def test_linear_to_conv(student, device, c, o, with_bias):
    """linear_to_conv1x1 should give the same outputs and gradients, with its own parameters."""
    w = randn(o, c, device=device)
    b = randn(o, device=device) if with_bias else None
    x, dy = randn(2, c, 4, 3, device=device), randn(2, o, 4, 3, device=device)
    y, grads, facts = student.run(to_conv, w, b, x, dy)
    assert_equal(list(facts)[:2], [True, with_bias], "(is an nn.Conv2d, has a bias)")
    assert_close(y, F.linear(x.movedim(1, -1), w, b).movedim(-1, 1), "the output")
    expected = [
        torch.einsum("nohw,oc->nchw", dy, w),
        torch.einsum("nohw,nchw->oc", dy, x)[:, :, None, None],
        dy.sum((0, 2, 3)),
    ]
    assert_close(list(grads), expected[: 3 if with_bias else 2], "the gradients")
    assert_true(facts[2], "Changing the convolution changes the linear layer: copy the numbers.")


def circular_conv(device, stride=1):
    conv = nn.Conv2d(2, 3, 3, stride, padding=1, padding_mode="circular")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return conv.to(device, torch.float64).requires_grad_(False)


@pytest.mark.exercise("one", points=2)
@pytest.mark.parametrize("dy, dx", [(1, 0), (0, 3), (2, 5), (-1, 2), (0, 0)])
def test_no_gap(student, device, dy, dx):
    """shift_gap should be 0 for a circular convolution and for a global maximum, at every shift."""
    x = randn(2, 2, 6, 8, device=device)
    with unchanged(x):
        gap = student.shift_gap(circular_conv(device), x, dy, dx)
    assert_true(isinstance(gap, float), "The gap should be a float, not a tensor.")
    assert_close(gap, 0.0, "the gap of a circular convolution", atol=1e-9)
    gap = student.shift_gap(nn.AdaptiveMaxPool2d(1), x, dy, dx)
    assert_close(gap, 0.0, "the gap of a global maximum", atol=1e-9)


@pytest.mark.exercise("one", points=2)
@pytest.mark.parametrize("dy, dx", [(1, 0), (0, 1), (3, 2), (2, 4), (-2, 0), (4, 6)])
def test_gap_of_stride_two(student, device, dy, dx):
    """For stride 2, shift_gap should be 0 at even shifts and the largest difference at odd ones."""
    x, conv = randn(1, 2, 6, 8, device=device), circular_conv(device, 2)
    moved = conv(x.roll((dy, dx), (2, 3)))
    expected = (moved - conv(x).roll((dy // 2, dx // 2), (2, 3))).abs().max().item()
    got = student.shift_gap(conv, x, dy, dx)
    if dy % 2 or dx % 2:
        assert_true(got > 1e-3, "Stride 2 should leave a gap at odd shifts.")
    assert_close(got, expected, "the gap", atol=1e-9)


# --- pool ------------------------------------------------------------------------------------


def library_pool(x, k, stride, padding, mode, count_include_pad=True, ceil_mode=False):
    if mode == "max":
        return F.max_pool2d(x, k, stride, padding, ceil_mode=ceil_mode)
    return F.avg_pool2d(x, k, stride, padding, ceil_mode, count_include_pad)


@pytest.mark.exercise("pool", points=4)
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize(
    "shape, k, stride, padding",
    [
        ((2, 3, 8, 6), 2, None, 0),
        ((1, 2, 7, 9), 3, 2, 0),
        ((2, 1, 6, 7), 3, 1, 1),
        ((1, 1, 5, 5), 2, 2, 1),
        ((2, 2, 9, 5), 4, 3, 2),
        ((1, 3, 4, 6), 1, 2, 0),
    ],
)
def test_pool_equals_library(student, device, mode, shape, k, stride, padding):
    """pool2d should equal F.max_pool2d and F.avg_pool2d, also where all values are negative."""
    x = randn(*shape, device=device) - 3
    with unchanged(x):
        got = student.pool2d(x, k, stride, padding, mode)
    assert_close(got, library_pool(x, k, stride, padding, mode))


@pytest.mark.exercise("pool", points=3)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(
    "h, w, k, stride, padding",
    [(7, 6, 3, 2, 1), (5, 8, 2, 3, 1), (6, 7, 3, 3, 0), (9, 5, 4, 3, 2), (4, 4, 1, 3, 0)],
)
def test_pool_borders(student, device, ceil_mode, include, h, w, k, stride, padding):
    """ceil_mode and count_include_pad should do what they do in the library, at the rim too."""
    x = randn(2, 2, h, w, device=device)
    for mode in ("max", "avg"):
        got = student.pool2d(
            x, k, stride, padding, mode, count_include_pad=include, ceil_mode=ceil_mode
        )
        expected = library_pool(x, k, stride, padding, mode, include, ceil_mode)
        assert_close(
            got,
            expected,
            f"the output for mode={mode!r}, count_include_pad={include}, ceil_mode={ceil_mode}",
        )


@pytest.mark.exercise("pool", points=1)
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("k, padding", [(2, 2), (3, 2), (1, 1)])
def test_pool_padding_too_large(student, mode, k, padding):
    """pool2d should raise a ValueError when the padding is more than half of the window."""
    x = randn(1, 1, 6, 6)
    with raises(ValueError):
        student.pool2d(x, k, 1, padding, mode)


@pytest.mark.exercise("pool", points=2)
def test_pool_dtype_and_autograd(student, device):
    """pool2d should keep float32, and autograd should be able to pass through it."""
    x = randn(2, 2, 5, 6, dtype=torch.float32, device=device)
    for mode in ("max", "avg"):
        assert_close(student.pool2d(x, 3, 2, 1, mode), library_pool(x, 3, 2, 1, mode))
        assert_same_gradients(
            lambda x, mode=mode: student.pool2d(x, 3, 2, 1, mode),
            lambda x, mode=mode: library_pool(x, 3, 2, 1, mode),
            x.double(),
        )


@pytest.mark.exercise("pool", points=5)
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(
    "shape, out",
    [
        ((2, 3, 8, 6), (4, 3)),
        ((1, 2, 7, 5), (3, 2)),
        ((2, 1, 5, 9), (4, 7)),
        ((1, 1, 3, 4), (5, 6)),
        ((2, 2, 7, 6), 1),
        ((1, 2, 9, 9), 4),
    ],
)
def test_adaptive_equals_library(student, device, mode, shape, out):
    """adaptive_pool2d should equal the library's for sizes that divide and sizes that do not, and
    so should its gradient."""
    x = randn(*shape, device=device) - 2
    library = F.adaptive_avg_pool2d if mode == "avg" else F.adaptive_max_pool2d
    with unchanged(x):
        got = student.adaptive_pool2d(x, out, mode)
    assert_close(got, library(x, out))
    assert_same_gradients(
        lambda x: student.adaptive_pool2d(x, out, mode), lambda x: library(x, out), x
    )
    if mode == "avg":
        assert_close(student.adaptive_pool2d(x, out), library(x, out), "the output without a mode")


@pytest.mark.exercise("pool", points=5)
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize(
    "shape, k, stride, padding",
    [
        ((2, 3, 6, 8), 2, 2, 0),
        ((1, 2, 7, 6), 3, 2, 1),
        ((2, 1, 5, 7), 3, 1, 1),
        ((1, 1, 8, 7), 2, 3, 0),
        ((1, 2, 6, 6), 4, 2, 2),
    ],
)
def test_pool_backward(student, device, mode, shape, k, stride, padding):
    """pool_backward should equal autograd's gradient, with overlaps, padding and ties."""
    ties = randint(-3, 1, shape, device=device).double()
    for x in (randn(*shape, device=device) - 1, ties):
        leaf = x.clone().requires_grad_()
        y = library_pool(leaf, k, stride, padding, mode)
        dy = randn(*y.shape, device=device)
        (expected,) = torch.autograd.grad(y, leaf, dy)
        with unchanged(x, dy), does_not_call(student, "grad", "backward"):
            got = student.pool_backward(dy, (x, k, stride, padding, mode))
        assert_close(got, expected, "the gradient")


# --- unpool ----------------------------------------------------------------------------------


@pytest.mark.exercise("unpool", points=3)
@pytest.mark.parametrize(
    "shape, k",
    [
        ((1, 1, 4, 4), 2),
        ((2, 3, 6, 9), 3),
        ((2, 2, 7, 5), 2),
        ((1, 2, 5, 11), 4),
        ((3, 1, 4, 3), 1),
    ],
)
def test_indices_equal_library(student, device, shape, k):
    """Values and indices should equal F.max_pool2d(return_indices=True), whatever the size."""
    x = randn(*shape, device=device)
    expected = F.max_pool2d(x, k, return_indices=True)
    with unchanged(x):
        y, idx = student.maxpool_with_indices(x, k)
    assert_close(y, expected[0], "the values")
    assert_close(idx, expected[1], "the indices")


@pytest.mark.exercise("unpool", points=1)
def test_first_of_a_tie(student, device):
    """In a tie the index should be that of the first maximum, row by row."""
    x = randint(0, 2, (2, 2, 6, 8), device=device).double()
    y, idx = student.maxpool_with_indices(x, 2)
    expected = F.max_pool2d(x, 2, return_indices=True)
    assert_close(y, expected[0], "the values")
    assert_close(idx, expected[1], "the indices")


@pytest.mark.exercise("unpool", points=3)
@pytest.mark.parametrize("shape, k", [((1, 1, 4, 4), 2), ((2, 3, 6, 9), 3), ((2, 2, 7, 5), 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unpool_equals_library(student, device, shape, k, dtype):
    """unpool should equal F.max_unpool2d, also where rows or columns were dropped."""
    x = randn(*shape, device=device, dtype=dtype)
    y, idx = F.max_pool2d(x, k, return_indices=True)
    y = y + 1  # a decoder changes the values
    with unchanged(y, idx):
        got = student.unpool(y, idx, shape[2:])
    assert_close(got, F.max_unpool2d(y, idx, k, output_size=shape[2:]))


@pytest.mark.exercise("unpool", points=1)
def test_overlapping_windows(student, device):
    """An index that occurs twice, as with overlapping windows, should be written, not added."""
    x = randn(1, 2, 7, 7, device=device) + 5
    y, idx = F.max_pool2d(x, 3, 1, return_indices=True)
    expected = torch.zeros_like(x).flatten(2)
    for plane in range(2):
        expected[0, plane, idx[0, plane].flatten()] = y[0, plane].flatten()
    assert_close(student.unpool(y, idx, (7, 7)), expected.view_as(x))


@pytest.mark.exercise("unpool", points=2)
def test_gradient_through_unpool(student, device):
    """Gradients should flow through the pooled values and through unpool to the input."""
    x = randn(1, 2, 5, 6, device=device, requires_grad=True)
    _, idx = F.max_pool2d(x.detach(), 2, return_indices=True)
    assert_gradcheck(lambda x: student.maxpool_with_indices(x, 2)[0], x)
    y = randn(1, 2, 2, 3, device=device, requires_grad=True)
    assert_gradcheck(lambda y: student.unpool(y, idx, (5, 6)), y)
