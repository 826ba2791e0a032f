"""Hidden tests of the chapter on segmentation, transposed convolution and style transfer."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- colormap --------------------------------------------------------------------------------

# The 21 classes of PASCAL VOC, as its development kit lists them.
VOC = torch.tensor(
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128],
     [0, 128, 128], [128, 128, 128], [64, 0, 0], [192, 0, 0], [64, 128, 0], [192, 128, 0],
     [64, 0, 128], [192, 0, 128], [64, 128, 128], [192, 128, 128], [0, 64, 0], [128, 64, 0],
     [0, 192, 0], [128, 192, 0], [0, 64, 128]],
    dtype=torch.uint8,
)  # fmt: skip


@pytest.mark.exercise("colormap", points=3)
def test_official_colours(student):
    """voc_colormap should give the 21 official colours, and go on after them up to 255."""
    assert_close(student.voc_colormap(21), VOC, "the 21 colours")
    assert_close(student.voc_colormap(1), VOC[:1], "the first colour")
    full = student.voc_colormap(256)
    assert_shape(full, (256, 3), "the full palette")
    assert_equal(full[255].tolist(), [224, 224, 192], "the colour of index 255")
    assert_equal(full[64].tolist(), [32, 0, 0], "the colour of index 64")
    assert_equal(full[128].tolist(), [0, 32, 0], "the colour of index 128")
    assert_equal(full[61].tolist(), [192, 64, 192], "the colour of index 61")
    assert_equal(len({tuple(c) for c in full.tolist()}), 256, "the number of different colours")


@pytest.mark.exercise("colormap", points=3)
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 3, 4)])
def test_round_trip(student, device, shape):
    """Class indices should become colours and come back, for one mask and for several."""
    idx = randint(0, 21, shape, device=device)
    idx.flatten()[::3] = 255
    palette = torch.cat([VOC, VOC.new_tensor([[224, 224, 192]])]).to(device)
    colours = palette[idx.clamp(max=21)]
    with unchanged(idx, colours):
        assert_close(student.index_to_rgb(idx), colours, "the label image")
        assert_close(student.rgb_to_index(colours), idx, "the indices")
    assert_close(student.index_to_rgb(idx.to(torch.uint8)), colours, "the label image of uint8")


@pytest.mark.exercise("colormap", points=2)
def test_void_is_255(student):
    """The void colour should become 255, and class 0 only black."""
    img = torch.tensor([[[224, 224, 192], [0, 0, 0]], [[0, 64, 128], [224, 224, 192]]])
    assert_close(
        student.rgb_to_index(img.to(torch.uint8)),
        torch.tensor([[255, 0], [20, 255]]),
        "the indices",
        symptoms={
            "The void colour became background: fill the table with 255.": torch.tensor(
                [[0, 0], [20, 0]]
            )
        },
    )


@pytest.mark.exercise("colormap", points=2)
@pytest.mark.parametrize(
    "colour",
    [
        (255, 255, 255),
        (128, 64, 128),
        (0, 128, 64),
        (1, 0, 0),
        (0, 0, 127),
        (0, 127, 255),
        (127, 255, 0),
    ],
)
def test_unknown_colours(student, colour):
    """A colour that belongs to no class should be 255 or raise a ValueError, never a class."""
    img = torch.tensor([[colour]], dtype=torch.uint8)
    try:
        got = student.rgb_to_index(img)
    except ValueError:
        return
    assert_close(got, torch.tensor([[255]]), f"the index of the unknown colour {colour}")


# --- crop ------------------------------------------------------------------------------------


@pytest.mark.exercise("crop", points=3)
@pytest.mark.parametrize("size, box", [((6, 9), (3, 4)), ((7, 5), (7, 2)), ((4, 4), (1, 4))])
def test_pixels_stay_aligned(student, device, size, box):
    """Image and mask should be the same box, a part of the original as it was."""
    H, W = size
    mask = torch.arange(H * W, device=device).view(H, W)
    img = torch.stack([mask.double(), -mask.double(), mask.double() ** 2])
    rng = torch.Generator().manual_seed(7)
    for _ in range(4):
        with unchanged(img, mask):
            cut, label = student.rand_crop(img, mask, *box, rng)
        assert_shape(label, box, "the mask")
        top, left = divmod(int(label[0, 0]), W)
        rows, cols = slice(top, top + box[0]), slice(left, left + box[1])
        assert_close(label, mask[rows, cols], "the mask")
        assert_close(cut, img[:, rows, cols], "the image at the mask's box")


@probe
def corners(student, H, W, h, w, draws, seed):
    """The top left corners of many crops; and the global generator's next number."""
    mask = torch.arange(H * W).view(H, W)
    rng = torch.Generator().manual_seed(seed)
    found = [int(student.rand_crop(mask[None].float(), mask, h, w, rng)[1][0, 0])
             for _ in range(draws)]  # fmt: skip
    return found


@pytest.mark.exercise("crop", points=2)
def test_every_place_is_equally_likely(student):
    """Every place of the box should come about equally often, the first and the last included."""
    found = student.run(corners, 4, 6, 2, 5, 600, 3)
    places = {row * 6 + col for row in range(3) for col in range(2)}
    assert_equal(set(found), places, "the top left corners that come")
    for place in places:
        assert_true(
            60 <= found.count(place) <= 145,
            f"In 600 crops the corner {divmod(place, 6)} came {found.count(place)} times; "
            "about 100 were to be expected.",
        )


@pytest.mark.exercise("crop", points=1)
def test_randomness_from_the_generator(student):
    """The same generator should give the same crops, whatever happened to the global one."""
    torch.manual_seed(1)
    one = student.run(corners, 9, 9, 3, 3, 12, 5)
    torch.manual_seed(2)
    torch.rand(3)
    other = student.run(corners, 9, 9, 3, 3, 12, 5)
    assert_equal(one, other, "the corners")
    assert_true(
        one != student.run(corners, 9, 9, 3, 3, 12, 6), "Two seeds gave the same twelve crops."
    )


@pytest.mark.exercise("crop", points=1)
@pytest.mark.parametrize("box", [(5, 2), (2, 6), (5, 6)])
def test_too_large_a_box(student, box):
    """rand_crop should raise a ValueError if the box is too large in either direction."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(4, 5, dtype=torch.int64)
    with raises(ValueError):
        student.rand_crop(torch.zeros(3, 4, 5), mask, *box, rng)


@pytest.mark.exercise("crop", points=3)
@pytest.mark.parametrize(
    "old, new", [((2, 3), (4, 9)), ((8, 6), (4, 2)), ((5, 7), (3, 4)), ((3, 4), (5, 7)),
                 ((6, 6), (6, 6)), ((9, 1), (2, 3))]
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_nearest_neighbours(student, device, old, new, dtype):
    """resize_mask should take the old pixel at each new centre, and keep the type."""
    mask = randint(0, 256, old, device=device).to(dtype)
    with unchanged(mask):
        got = student.resize_mask(mask, new)
    expected = mask.cpu().repeat_interleave(new[0], 0).repeat_interleave(new[1], 1)
    # Each old pixel repeated new times: the centre of new row i is at (2i + 1) * old / 2.
    rows = (2 * torch.arange(new[0]) + 1) * old[0] // 2
    cols = (2 * torch.arange(new[1]) + 1) * old[1] // 2
    first = mask.cpu()[torch.arange(new[0]) * old[0] // new[0]]
    first = first[:, torch.arange(new[1]) * old[1] // new[1]]
    assert_close(
        got,
        expected[rows][:, cols].to(device),
        "the mask",
        symptoms={"Half a pixel is missing: compare centres.": first.to(device)},
    )


# --- tconv -----------------------------------------------------------------------------------

# N, C_in, C_out, H, W, k_h, k_w, stride, padding, output_padding, dilation: thirty settings
SETTINGS = [
    (
        1 + i % 2,
        1 + i % 3,
        1 + (i // 2) % 3,
        2 + i % 3,
        1 + (i // 3) % 4,
        1 + (i // 2) % 3,
        1 + i % 4,
        s,
        min((i // 4) % 2, (s + i % 4) // 2),
        op,
        d,
    )
    for i, (s, op, d) in enumerate(
        [(1, 0, 1), (2, 0, 1), (2, 1, 1), (3, 2, 1), (1, 0, 2), (3, 1, 2), (1, 1, 2), (2, 2, 3)] * 4
    )
][:30]


def fits(setting):
    _, _, _, H, W, kh, kw, s, p, op, d = setting
    return all((n - 1) * s - 2 * p + d * (k - 1) + op + 1 > 0 for n, k in ((H, kh), (W, kw)))


@pytest.mark.exercise("tconv", points=6)
def test_thirty_settings(student, device):
    """conv_transpose2d should equal F.conv_transpose2d in thirty settings, sizes included."""
    for n, cin, cout, H, W, kh, kw, s, p, op, d in filter(fits, SETTINGS):
        x, w = randn(n, cin, H, W, device=device), randn(cin, cout, kh, kw, device=device)
        with unchanged(x, w):
            got = student.conv_transpose2d(x, w, s, p, op, d)
        assert_close(
            got,
            F.conv_transpose2d(x, w, None, s, p, op, 1, d),
            f"the output for stride={s}, padding={p}, output_padding={op}, dilation={d}",
            symptoms={
                "The kernel is turned; a stamp shows it as it is.": F.conv_transpose2d(
                    x, w.flip(2, 3), None, s, p, op, 1, d
                )
            },
        )


@pytest.mark.exercise("tconv", points=2)
@pytest.mark.parametrize("padding, output_padding", [(1, 2), (2, 1), (2, 2), (0, 2)])
def test_output_padding_shows_what_was_cut(student, device, padding, output_padding):
    """Output padding should bring back rows that padding cut off, and add zeros only beyond."""
    x, w = randn(2, 2, 3, 4, device=device), randn(2, 1, 5, 4, device=device)
    expected = F.conv_transpose2d(x, w, None, 3, padding, output_padding)
    plain = F.conv_transpose2d(x, w, None, 3, padding)
    assert_close(
        student.conv_transpose2d(x, w, 3, padding, output_padding),
        expected,
        symptoms={
            "Output padding is not a frame of zeros: it is added before padding is cut off.": F.pad(
                plain, (0, output_padding, 0, output_padding)
            )
        },
    )


@pytest.mark.exercise("tconv", points=2)
@pytest.mark.parametrize("s, op, d", [(1, 1, 1), (2, 2, 1), (2, 3, 2), (1, 2, 2), (3, 3, 3)])
def test_invalid_output_padding(student, s, op, d):
    """An output padding smaller than neither stride nor dilation should raise a ValueError."""
    x, w = randn(1, 1, 3, 3), randn(1, 1, 3, 3)
    with raises(ValueError):
        student.conv_transpose2d(x, w, stride=s, output_padding=op, dilation=d)


@pytest.mark.exercise("tconv", points=3)
def test_gradients_of_stamping(student, device):
    """The gradients for x and w should equal those of F.conv_transpose2d."""
    x, w = randn(2, 3, 3, 2, device=device), randn(3, 2, 2, 3, device=device)
    assert_same_gradients(
        lambda x, w: student.conv_transpose2d(x, w, 2, 1, 1),
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1),
        x,
        w,
    )


@pytest.mark.exercise("tconv", points=4)
@pytest.mark.parametrize(
    "channels, size, kernel, s, p",
    [
        ((1, 1), (3, 4), (2, 2), 1, 0),
        ((2, 3), (3, 5), (3, 3), 2, 1),
        ((3, 2), (4, 2), (4, 4), 2, 1),
        ((3, 1), (2, 3), (3, 5), 3, 2),
        ((2, 2), (1, 4), (5, 3), 4, 0),
        ((1, 4), (3, 3), (3, 2), 1, 1),
    ],
)
def test_as_conv(student, device, channels, size, kernel, s, p):
    """as_conv should equal F.conv_transpose2d for any channels, sizes, strides and paddings."""
    x, w = randn(2, channels[0], *size, device=device), randn(*channels, *kernel, device=device)
    with unchanged(x, w):
        got = student.as_conv(x, w, s, p)
    assert_close(got, F.conv_transpose2d(x, w, None, s, p))
    assert_same_gradients(
        lambda x, w: student.as_conv(x, w, s, p),
        lambda x, w: F.conv_transpose2d(x, w, None, s, p),
        x,
        w,
    )


@pytest.mark.exercise("tconv", points=2)
def test_it_is_one_convolution(student):
    """as_conv should do its work by one call of F.conv2d, and not by stamping."""
    x, w = randn(1, 2, 3, 3), randn(2, 2, 3, 3)
    with student.watch() as called:
        student.as_conv(x, w, 2, 1)
    assert_true(called & {"conv2d"}, "as_conv should call F.conv2d.")
    assert_true(not called & {"conv_transpose2d"}, "as_conv should not call the library's.")


@pytest.mark.exercise("tconv", points=1)
def test_float32_and_defaults(student, device):
    """Both forms should keep float32 and work without the optional arguments."""
    x = randn(1, 2, 3, 4, dtype=torch.float32, device=device)
    w = randn(2, 3, 3, 2, dtype=torch.float32, device=device)
    expected = F.conv_transpose2d(x.double(), w.double()).float()
    assert_close(student.conv_transpose2d(x, w), expected, rtol=1e-3, atol=1e-4)
    assert_close(student.as_conv(x, w), expected, rtol=1e-3, atol=1e-4)


# --- matrix ----------------------------------------------------------------------------------

SHAPES = [((2, 2), 3, 3), ((3, 3), 4, 4), ((1, 3), 4, 5), ((3, 2), 5, 4), ((4, 5), 4, 5)]


@pytest.mark.exercise("matrix", points=4)
@pytest.mark.parametrize("kernel, h, w", SHAPES)
def test_times_image(student, device, kernel, h, w):
    """C @ image should be the convolution, and C.T @ map the transposed convolution."""
    k, x = randn(*kernel, device=device), randn(h, w, device=device)
    with unchanged(k):
        C = student.conv_matrix(k, h, w)
    y = F.conv2d(x[None, None], k[None, None])
    assert_shape(C, (y.numel(), x.numel()), "C")
    assert_close(
        C @ x.flatten(),
        y.flatten(),
        "C @ image",
        symptoms={
            "The kernel is flipped.": F.conv2d(x[None, None], k.flip(0, 1)[None, None]).flatten()
        },
    )
    z = randn(*y.shape, device=device)
    back = F.conv_transpose2d(z, k[None, None]).flatten()
    assert_close(C.T @ z.flatten(), back, "C.T @ map")


@pytest.mark.exercise("matrix", points=3)
@pytest.mark.parametrize("kernel, h, w", SHAPES[1:4])
def test_adjoint(student, kernel, h, w):
    """<Cx, y> should be <x, C.T y>, where C.T y is the gradient of the convolution."""
    k, x = randn(*kernel), randn(h, w).requires_grad_()
    C = student.conv_matrix(k, h, w)
    out = F.conv2d(x[None, None], k[None, None])
    y = randn(*out.shape)
    (grad,) = torch.autograd.grad(out, x, y)
    assert_close(C.T @ y.flatten(), grad.flatten(), "C.T @ y")
    assert_close((C @ x.detach().flatten()) @ y.flatten(), x.detach().flatten() @ grad.flatten())


@pytest.mark.exercise("matrix", points=2)
def test_entries(student, device):
    """Each row of C should hold the kernel once, and zeros else; dtype and device are k's."""
    k = torch.arange(1.0, 7.0, device=device).view(2, 3)
    C = student.conv_matrix(k, 3, 5)
    assert_close(C.sum(1), torch.full((6,), 21.0, device=device), "the sums of the rows")
    assert_equal(C.count_nonzero().item(), 36, "the number of entries that are not zero")
    assert_close(C[4].view(3, 5)[1:, 1:4], k, "row 4, as a picture, at its window")


@pytest.mark.exercise("matrix", points=1)
@pytest.mark.parametrize("kernel, h, w", [((3, 2), 2, 5), ((2, 4), 5, 3), ((3, 3), 1, 1)])
def test_kernel_too_large(student, kernel, h, w):
    """conv_matrix should raise a ValueError if the kernel does not fit in either direction."""
    with raises(ValueError):
        student.conv_matrix(randn(*kernel), h, w)


# --- bilinear --------------------------------------------------------------------------------


@pytest.mark.exercise("bilinear", points=4)
@pytest.mark.parametrize("s", [2, 3, 4])
def test_interpolates(student, device, s):
    """With k = 2s (2s - 1 for odd s) the layer should equal F.interpolate away from the border."""
    x = rand(2, 3, 5, 6, dtype=torch.float32, device=device)
    kernel = student.bilinear_kernel(3, 3, 2 * s - s % 2).to(device)
    y = F.conv_transpose2d(x, kernel, stride=s, padding=s // 2)
    expected = F.interpolate(x, scale_factor=s, mode="bilinear")
    inside = (..., slice(s, -s), slice(s, -s))
    assert_close(y[inside], expected[inside], "the interior", atol=1e-5)


@pytest.mark.exercise("bilinear", points=2)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_partition_of_unity(student, k):
    """With stride (k + 1) // 2, a flat picture should stay flat; odd k included."""
    s = (k + 1) // 2
    kernel = student.bilinear_kernel(1, 1, k)
    y = F.conv_transpose2d(torch.ones(1, 1, 6, 6), kernel, stride=s)[0, 0]
    inside = y[k:-k, k:-k] if k < 4 else y[2 * s : -2 * s, 2 * s : -2 * s]
    assert_close(inside, torch.ones_like(inside), f"the interior for k={k}", atol=1e-5)
    assert_close(kernel, kernel.flip(2, 3), "the kernel turned by 180 degrees")


@pytest.mark.exercise("bilinear", points=2)
@pytest.mark.parametrize("cin, cout, k", [(3, 3, 4), (2, 4, 3), (4, 2, 5), (1, 1, 6)])
def test_channels_do_not_mix(student, cin, cout, k):
    """weight[c, c] should be the tent for each channel that both sides have; all others zero."""
    got = student.bilinear_kernel(cin, cout, k)
    factor, centre = (k + 1) // 2, (k - 1) / 2
    tent = torch.tensor([1 - abs(a - centre) / factor for a in range(k)])
    expected = torch.eye(cin, cout)[:, :, None, None] * torch.outer(tent, tent)
    assert_close(got, expected, "the weight")


@pytest.mark.exercise("bilinear", points=4)
@pytest.mark.parametrize("size, places", [((5, 7), (4, 3)), ((3, 2), (6,)), ((4, 6), (2, 1, 3))])
def test_equals_grid_sample(student, device, size, places):
    """bilinear should equal F.grid_sample at places inside and outside, of any shape."""
    H, W = size
    img = randn(3, H, W, device=device)
    ys = rand(*places, device=device) * (H + 3) - 2
    xs = rand(*places, device=device) * (W + 3) - 2
    with unchanged(img, ys, xs):
        got = student.bilinear(img, ys, xs)
    grid = torch.stack([2 * xs / (W - 1) - 1, 2 * ys / (H - 1) - 1], -1).view(1, 1, -1, 2)
    expected = F.grid_sample(img[None], grid, padding_mode="border", align_corners=True)
    assert_close(got, expected.view(3, *places))


@pytest.mark.exercise("bilinear", points=2)
def test_on_the_pixels_and_at_the_corners(student, device):
    """At whole places bilinear should give the pixels, at the last row and column as well."""
    img = randn(2, 4, 3, dtype=torch.float32, device=device)
    ys, xs = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    assert_close(student.bilinear(img, ys.to(device), xs.to(device)), img, "the pixels")
    one = randn(1, 1, 1, device=device)
    place = torch.tensor([0.0, 0.4, -3.0], dtype=torch.float64, device=device)
    assert_close(student.bilinear(one, place, place), one[:, 0].expand(1, 3), "a single pixel")


@pytest.mark.exercise("bilinear", points=1)
def test_gradients_of_reading(student):
    """Gradients should flow to the image and to the places."""
    img = randn(2, 4, 5).requires_grad_()
    ys = (0.1 + 0.8 * rand(3) + torch.arange(3)).requires_grad_()
    xs = (0.1 + 0.8 * rand(3) + torch.arange(3)).requires_grad_()
    assert_gradcheck(student.bilinear, img, ys, xs)


# --- fcn -------------------------------------------------------------------------------------


@probe
def run_fcn(student, stride, classes, x, weights):
    """An FCN with given numbers: its output, and gradients of the weights and of x."""
    net = student.FCN(nn.Conv2d(3, weights[0].shape[0], 3, stride, 1), classes, stride)
    net(torch.zeros(1, 3, 2 * stride, 2 * stride))  # a lazy layer wakes up
    net.to(x)
    with torch.no_grad():
        net.backbone.weight.copy_(weights[0])
        net.backbone.bias.copy_(weights[1])
        net.head.weight.copy_(weights[2])
        net.head.bias.copy_(weights[3])
        net.up.weight.copy_(weights[4])
    leaf = x.clone().requires_grad_()
    y = net(leaf)
    wanted = [net.backbone.weight, net.head.weight, net.head.bias, net.up.weight, leaf]
    return y.detach(), list(torch.autograd.grad(y.square().sum(), wanted, allow_unused=True))


@pytest.mark.exercise("fcn", points=3)
@pytest.mark.parametrize("stride, classes, size", [(2, 4, (4, 6)), (4, 3, (8, 4)), (3, 2, (6, 9))])
def test_fcn_is_its_three_parts(student, device, stride, classes, size):
    """FCN should be backbone, head and up in this order, gradients included."""
    k = stride + 2 * (stride // 2)
    weights = [
        randn(5, 3, 3, 3, device=device),
        randn(5, device=device),
        randn(classes, 5, 1, 1, device=device),
        randn(classes, device=device),
        randn(classes, classes, k, k, device=device),
    ]
    x = randn(2, 3, *size, device=device)
    got, grads = student.run(run_fcn, stride, classes, x, weights)
    leaves = [t.clone().requires_grad_() for t in (*weights, x)]
    y = F.conv2d(leaves[5], leaves[0], leaves[1], stride, 1)
    y = F.conv2d(y, leaves[2], leaves[3])
    y = F.conv_transpose2d(y, leaves[4], None, stride, stride // 2)
    assert_close(got, y.detach(), "the scores")
    wanted = [leaves[i] for i in (0, 2, 3, 4, 5)]
    expected = torch.autograd.grad(y.square().sum(), wanted)
    assert_close(grads, list(expected), "the gradients")


@probe
def fcn_facts(student, stride, classes, channels, sizes):
    """What an FCN's layers are, and the shapes of its outputs."""
    body = nn.Sequential(nn.Conv2d(3, channels, 1), nn.MaxPool2d(stride), nn.Dropout(0.5))
    net = student.FCN(body, classes, stride)
    shapes = [list(net(torch.zeros(n, 3, h, w)).shape) for n, h, w in sizes]
    names = sorted(name for name, _ in net.named_parameters())
    net.eval()
    return (shapes, names, list(net.up.weight.shape), list(net.head.weight.shape),
            isinstance(net, nn.Module), net.backbone[2].training,
            all(p.requires_grad for p in net.parameters()))  # fmt: skip


@pytest.mark.exercise("fcn", points=2)
@pytest.mark.parametrize(
    "stride, classes, channels, kernel", [(4, 5, 6, 8), (8, 21, 3, 16), (2, 2, 1, 4)]
)
def test_size_in_size_out(student, stride, classes, channels, kernel):
    """For any multiple of the stride the output should be as large as the input."""
    sizes = [(1, stride, 2 * stride), (2, 3 * stride, stride), (3, 2 * stride, 2 * stride)]
    shapes, names, up, head, module, training, learned = student.run(
        fcn_facts, stride, classes, channels, sizes
    )
    assert_equal(shapes, [[n, classes, h, w] for n, h, w in sizes], "the shapes of the scores")
    assert_equal(
        names,
        ["backbone.0.bias", "backbone.0.weight", "head.bias", "head.weight", "up.weight"],
        "the parameters",
    )
    assert_equal(up, [classes, classes, kernel, kernel], "the shape of up.weight")
    assert_equal(head, [classes, channels, 1, 1], "the shape of head.weight")
    assert_true(module, "FCN should be an nn.Module.")
    assert_true(not training, "`eval()` should reach the backbone.")
    assert_true(learned, "All parameters should be learned.")


def dice(p, y, smooth):
    losses = [
        1 - (2 * (a * b).sum() + smooth) / (a.sum() + b.sum() + smooth)
        for a, b in zip(p.flatten(0, -3), y.flatten(0, -3), strict=True)
    ]
    return torch.stack(losses).mean()


@pytest.mark.exercise("fcn", points=3)
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 5, 2), (2, 3, 4, 4), (2, 1, 1, 7)])
@pytest.mark.parametrize("smooth", [1.0, 0.25])
def test_dice_formula(student, device, shape, smooth):
    """dice_loss should follow the formula for each map, and be the mean over maps."""
    p, y = rand(*shape, device=device), randint(0, 2, shape, device=device)
    with unchanged(p, y):
        got = student.dice_loss(p, y, smooth)
    whole = 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)
    assert_close(
        got,
        dice(p, y, smooth),
        symptoms={"One Dice for each map, then their mean; this joins all maps.": whole},
    )
    assert_close(student.dice_loss(p, y.bool(), smooth), got, "the loss for y of bool")


@pytest.mark.exercise("fcn", points=2)
def test_dice_extremes_and_gradient(student, device):
    """Dice should be 0 for perfect and for empty masks, with 1 as smooth, and have its gradient."""
    empty = torch.zeros(2, 3, 4, dtype=torch.float64, device=device)
    full = torch.ones_like(empty)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    assert_close(student.dice_loss(empty, empty), zero, "the loss of empty masks")
    assert_close(student.dice_loss(full, full), zero, "the loss of a perfect answer")
    assert_close(student.dice_loss(empty, full), zero + 1 - 1 / 13, "the loss of a wrong answer")
    y = randint(0, 2, (2, 2, 3)).double()
    p = rand(2, 2, 3).requires_grad_()
    assert_gradcheck(lambda p: student.dice_loss(p, y, 0.5), p)


@pytest.mark.exercise("fcn", points=3)
@pytest.mark.parametrize("shape, classes", [((3, 6, 7), 4), ((50,), 3), ((1, 9, 2), 21)])
@pytest.mark.parametrize("ignore", [255, 11])
def test_miou_equals_scikit_learns(student, device, shape, classes, ignore):
    """miou should be scikit-learn's macro Jaccard score of the pixels that count."""
    pred, y = randint(0, classes, shape), randint(0, classes, shape)
    y = torch.where(rand(*shape) < 0.3, pred, y)
    y = torch.where(rand(*shape) < 0.2, torch.tensor(ignore), y)
    counts = y != ignore
    expected = float(jaccard_score(y[counts], pred[counts], average="macro"))
    pred, y = pred.to(device), y.to(device)
    with unchanged(pred, y):
        got = student.miou(pred, y, ignore)
    assert_close(got, expected, "the mean IoU", rtol=1e-5)
    assert_true(isinstance(got, float), "miou should return a float.")


@pytest.mark.exercise("fcn", points=2)
def test_miou_at_the_edges(student):
    """Void pixels should not count, absent classes be left out, and nothing to count be nan."""
    y = torch.tensor([[0, 0, 255], [5, 255, 5]])
    assert_close(student.miou(torch.where(y == 255, 3, y), y), 1.0, "a perfect answer, void aside")
    assert_close(student.miou(torch.tensor([[0, 0, 0], [0, 0, 0]]), y), 0.25, "all zeros")
    assert_close(
        student.miou(torch.tensor([0, 2]), torch.tensor([0, 1])), 1 / 3, "a class of neither side"
    )
    void = torch.full((2, 2), 255)
    assert_true(math.isnan(student.miou(torch.zeros_like(void), void)), "This should be nan.")


# --- style -----------------------------------------------------------------------------------


def gram_of(x):
    _, c, h, w = x.shape
    return torch.einsum("nchw,ndhw->ncd", x, x) / (c * h * w)


@pytest.mark.exercise("style", points=3)
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 4, 3, 3), (3, 1, 2, 7), (1, 5, 1, 1)])
def test_gram(student, device, shape):
    """gram should hold the inner products of all channels, over C * H * W, for each image."""
    x = randn(*shape, device=device)
    with unchanged(x):
        got = student.gram(x)
    expected = gram_of(x)
    assert_close(
        got,
        expected,
        symptoms={
            "Divide by the size of one image's features, C * H * W.": expected * shape[1],
            "The division by C * H * W is missing.": expected * x[0].numel(),
        },
    )


@pytest.mark.exercise("style", points=2)
def test_gram_forgets_places(student):
    """Shuffled places should leave the Gram matrix as it is; scaling by a should give a²."""
    x = randn(2, 3, 4, 5)
    shuffled = x.flatten(2)[..., torch.randperm(20)].view(2, 3, 4, 5)
    before = student.gram(x)
    assert_close(student.gram(shuffled), before, "the Gram matrix of shuffled places")
    assert_close(student.gram(-1.5 * x), 2.25 * before, "the Gram matrix of -1.5 x")
    assert_gradcheck(student.gram, randn(1, 2, 2, 3).requires_grad_())


@pytest.mark.exercise("style", points=2)
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 2, 3, 2)])
def test_style_loss(student, device, shape):
    """style_loss should be the mean squared difference of Gram matrices, with its gradient."""
    y, target = randn(*shape, device=device), gram_of(randn(*shape, device=device))
    assert_close(student.style_loss(y, target), F.mse_loss(gram_of(y), target))
    assert_same_gradients(
        lambda y: student.style_loss(y, target), lambda y: F.mse_loss(gram_of(y), target), y
    )


@pytest.mark.exercise("style", points=1)
def test_no_gradient_into_the_target(student):
    """No gradient should flow into the target of style_loss."""
    y = randn(1, 2, 3, 3).requires_grad_()
    source = randn(1, 2, 2).requires_grad_()
    student.style_loss(y, source * 1.0).backward()
    assert_true(y.grad is not None and y.grad.any(), "The features get no gradient.")
    assert_true(
        source.grad is None or not source.grad.any(), "A gradient arrived at the target: detach it."
    )


@pytest.mark.exercise("style", points=2)
@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 1, 2, 7)])
def test_total_variation(student, device, shape):
    """tv_loss should be half the sum of two means of absolute differences, with its gradient; 0 for
    a flat image."""
    x = randn(*shape, device=device)
    down, right = x.diff(dim=2).abs().mean(), x.diff(dim=3).abs().mean()
    with unchanged(x):
        got = student.tv_loss(x)
    assert_close(
        got,
        (down + right) / 2,
        symptoms={
            "Half of the sum is meant.": down + right,
            "Only vertical neighbours are compared.": down,
            "Take absolute values, not squares.": (
                x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()
            )
            / 2,
        },
    )
    assert_close(student.tv_loss(torch.full_like(x, 3.0)), torch.zeros_like(got), "a flat image")
    assert_same_gradients(
        lambda x: student.tv_loss(x),
        lambda x: (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()) / 2,
        x,
    )


# --- transfer --------------------------------------------------------------------------------


@probe
def transfer(student, content, style, filters, steps, weights):
    """stylize with a net of two layers; the image, the losses, and what became of the inputs."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(f.clone()) for f in filters)

        def forward(self, x):
            one = F.relu(F.conv2d(2 * x - 1, self.a))
            two = F.conv2d(F.avg_pool2d(one, 2), self.b)
            return [two, one[:, :2]], [one, two]

    net = Features()
    old = content.clone(), style.clone()
    img, history = student.stylize(content, style, net, steps, weights)
    same = all(torch.equal(p, f) for p, f in zip((net.a, net.b), filters))
    no_grad = all(p.grad is None for p in net.parameters())
    learns = all(p.requires_grad for p in net.parameters())
    inputs = torch.equal(old[0], content) and torch.equal(old[1], style)
    floats = all(isinstance(v, float) for v in history)
    return img.detach().clone(), [float(v) for v in history], (
        same, no_grad, learns, inputs, bool(img.requires_grad), floats)  # fmt: skip


def total_loss(img, content, style, filters, weights):
    """The loss by the formulas of the text."""

    def features(x):
        one = F.relu(F.conv2d(2 * x - 1, filters[0]))
        two = F.conv2d(F.avg_pool2d(one, 2), filters[1])
        return [two, one[:, :2]], [one, two]

    (contents, styles), (goal, _), (_, look) = map(features, (img, content, style))
    terms = (
        sum(F.mse_loss(a, b) for a, b in zip(contents, goal, strict=True)),
        sum(F.mse_loss(gram_of(a), gram_of(b)) for a, b in zip(styles, look, strict=True)),
        (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2,
    )
    return sum(w * t for w, t in zip(weights, terms, strict=True)).item()


def inputs(device, height=10, dtype=torch.float64):
    content = rand(1, 3, height, 12, device=device, dtype=dtype)
    style = rand(1, 3, 9, 14, device=device, dtype=dtype) ** 3
    filters = [
        randn(6, 3, 3, 3, device=device, dtype=dtype) / 3,
        randn(5, 6, 1, 3, device=device, dtype=dtype) / 3,
    ]
    return content, style, filters


@pytest.mark.exercise("transfer", points=3)
def test_loss_falls_and_image_stays_an_image(student, device):
    """In 60 steps the loss should fall to less than a third; the image should stay in [0, 1]."""
    content, style, filters = inputs(device, dtype=torch.float32)
    img, history, _ = student.run(transfer, content, style, filters, 60, (0.2, 30.0, 0.02))
    assert_equal(len(history), 60, "the number of losses")
    assert_shape(img, content.shape, "the image")
    assert_true(
        history[-1] < history[0] / 3,
        f"The loss fell only from {history[0]:.3g} to {history[-1]:.3g} in 60 steps.",
    )
    assert_true(bool((img >= 0).all() and (img <= 1).all()), "The image leaves [0, 1].")
    assert_true(
        bool((img - content).abs().max() > 0.05), "The image hardly differs from the content."
    )


@pytest.mark.exercise("transfer", points=3)
@pytest.mark.parametrize(
    "weights", [(1.0, 10.0, 0.5), (2.0, 0.0, 0.3), (0.0, 5.0, 0.0), (0.0, 0.0, 1.0)]
)
def test_history_is_the_total_loss(student, device, weights):
    """history[t] should be the weighted sum of the losses of the image before update t, a float."""
    content, style, filters = inputs(device)
    arguments = (content, style, filters)
    first, history, (*_, floats) = student.run(transfer, *arguments, 3, weights)
    assert_true(floats, "The history should hold floats: a tensor keeps its whole graph.")
    _, longer, _ = student.run(transfer, *arguments, 4, weights)
    begin = total_loss(content, *arguments, weights)
    assert_close(history[0], begin, "the loss of the content picture", rtol=1e-5)
    assert_close(longer[:3], history, "the losses of a second run", rtol=1e-5)
    end = total_loss(first, *arguments, weights)
    assert_close(longer[3], end, "the loss after three updates", rtol=1e-4)


@pytest.mark.exercise("transfer", points=2)
def test_everything_else_is_left_alone(student, device):
    """Network, content and style should stay as they are, and no weight should get a .grad."""
    content, style, filters = inputs(device)
    _, _, facts = student.run(transfer, content, style, filters, 5, (1.0, 10.0, 0.1))
    same, no_grad, _, untouched, live, _ = facts
    assert_true(same, "The weights of the network changed.")
    assert_true(no_grad, "A weight of the network got a .grad; ask for the image's only.")
    assert_true(untouched, "The content or the style picture was changed in place.")
    assert_true(not live, "The image should be detached.")


@pytest.mark.exercise("transfer", points=2)
def test_it_starts_from_the_content(student, device):
    """No steps should give the content and no losses; content as its own style should not move."""
    content, style, filters = inputs(device, height=12)
    img, history, _ = student.run(transfer, content, style, filters, 0, (1.0, 10.0, 0.1))
    assert_close(img, content, "the image after no steps")
    assert_equal(history, [], "the losses of no steps")
    img, history, _ = student.run(transfer, content, content, filters, 4, (1.0, 10.0, 0.0))
    assert_close(history, [0.0] * 4, "the losses if the style is the content's", atol=1e-9)
    assert_close(img, content, "the image if the style is the content's")
