"""Wrong answers in the chapter on segmentation and style transfer, each with its hint."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- colormap --------------------------------------------------------------------------------


@misconception(
    "colormap",
    hint="Red and blue are exchanged: the lowest bit of the index belongs to red, the third "
    "to blue.",
)
def voc_colormap(n):
    colours = torch.zeros(n, 3, dtype=torch.uint8)
    index = torch.arange(n)
    for bit in range(8):
        digit = (index >> bit) & 1
        colours[:, 2 - bit % 3] += (digit << (7 - bit // 3)).to(torch.uint8)
    return colours


@misconception(
    "colormap",
    hint="The index has eight bits, not three: bits 3, 4 and 5 are the second highest bits of "
    "red, green and blue. Classes from 8 on need them.",
)
def voc_colormap(n):
    index = torch.arange(n)
    return torch.stack([((index >> b) & 1) * 128 for b in range(3)], 1).to(torch.uint8)


@misconception(
    "colormap",
    hint="The void colour and every unknown one become background. What should the table hold "
    "where no class is written?",
)
def rgb_to_index(img):
    table = torch.zeros(256**3, dtype=torch.uint8)
    palette = torch.zeros(21, 3, dtype=torch.int64)
    for c in range(21):
        for bit in range(8):
            palette[c, bit % 3] += ((c >> bit) & 1) << (7 - bit // 3)
    table[(palette[:, 0] * 256 + palette[:, 1]) * 256 + palette[:, 2]] = torch.arange(21).byte()
    r, g, b = img.long().unbind(-1)
    return table.to(img.device)[(r * 256 + g) * 256 + b].long()


@misconception(
    "colormap",
    hint="A nearest colour is found for everything, so a colour that nobody assigned, the void "
    "colour included, becomes some class.",
)
def rgb_to_index(img):
    palette = torch.zeros(21, 3)
    for c in range(21):
        for bit in range(8):
            palette[c, bit % 3] += ((c >> bit) & 1) << (7 - bit // 3)
    palette = palette.to(img.device)
    return (img[..., None, :].float() - palette).square().sum(-1).argmin(-1)


@misconception(
    "colormap",
    hint="The products are taken in uint8, where 128 * 256 is 0. Convert the image to int64 first.",
)
def rgb_to_index(img):
    table = torch.full((256**3,), 255, dtype=torch.uint8)
    palette = torch.zeros(21, 3, dtype=torch.int64)
    for c in range(21):
        for bit in range(8):
            palette[c, bit % 3] += ((c >> bit) & 1) << (7 - bit // 3)
    table[(palette[:, 0] * 256 + palette[:, 1]) * 256 + palette[:, 2]] = torch.arange(21).byte()
    r, g, b = img.unbind(-1)
    return table.to(img.device)[((r << 8) + (g << 8) + b).long()].long()


@misconception(
    "colormap",
    hint="Only 21 colours are kept, so 255 has none. The palette goes on up to 256 colours; "
    "the last one is the void colour.",
)
def index_to_rgb(idx):
    palette = torch.zeros(256, 3, dtype=torch.int64)
    for c in range(21):
        for bit in range(8):
            palette[c, bit % 3] += ((c >> bit) & 1) << (7 - bit // 3)
    return palette.to(torch.uint8).to(idx.device)[idx.long()]


# --- crop ------------------------------------------------------------------------------------


@misconception(
    "crop",
    hint="Image and mask get different boxes: the place is drawn twice. Draw it once and cut both.",
)
def rand_crop(img, mask, h, w, rng):
    H, W = mask.shape
    if h > H or w > W:
        raise ValueError("the box is too large")

    def cut(t):
        top = torch.randint(H - h + 1, (), generator=rng).item()
        left = torch.randint(W - w + 1, (), generator=rng).item()
        return t[..., top : top + h, left : left + w]

    return cut(img), cut(mask)


@misconception(
    "crop",
    hint="The last place never comes, and a box as large as the picture fails: a box of h rows has "
    "H - h + 1 places.",
)
def rand_crop(img, mask, h, w, rng):
    H, W = mask.shape
    if h > H or w > W:
        raise ValueError("the box is too large")
    top = torch.randint(max(H - h, 1), (), generator=rng).item()
    left = torch.randint(max(W - w, 1), (), generator=rng).item()
    at = (..., slice(top, top + h), slice(left, left + w))
    return img[at], mask[at]


@misconception(
    "crop",
    hint="The place comes from the global generator, so `rng` cannot repeat an experiment. Pass "
    "`generator=rng`.",
)
def rand_crop(img, mask, h, w, rng):
    H, W = mask.shape
    if h > H or w > W:
        raise ValueError("the box is too large")
    top = torch.randint(H - h + 1, ()).item()
    left = torch.randint(W - w + 1, ()).item()
    at = (..., slice(top, top + h), slice(left, left + w))
    return img[at], mask[at]


@misconception(
    "crop",
    hint="A box that is too wide comes back smaller than asked, without a word: slices stop at "
    "the border. Compare both sides with the picture first.",
)
def rand_crop(img, mask, h, w, rng):
    H, W = mask.shape
    if h > H:
        raise ValueError("the box is too large")
    top = torch.randint(H - h + 1, (), generator=rng).item()
    left = torch.randint(max(W - w, 0) + 1, (), generator=rng).item()
    at = (..., slice(top, top + h), slice(left, left + w))
    return img[at], mask[at]


@misconception(
    "crop",
    hint="The mask is interpolated, so classes that nobody drew appear at the borders. Take the "
    "nearest pixel.",
)
def resize_mask(mask, size):
    values = F.interpolate(mask[None, None].double(), size, mode="bilinear")[0, 0]
    return values.round().to(mask.dtype)


@misconception(
    "crop",
    hint="The mask moves by half a pixel against the image: compare the *centres* of new and old "
    "pixels. In PyTorch this is `nearest-exact`, not `nearest`.",
)
def resize_mask(mask, size):
    values = F.interpolate(mask[None, None].double(), size, mode="nearest")[0, 0]
    return values.to(mask.dtype)


@misconception(
    "crop",
    hint="The mask comes back as floats (or as another integer type). An index keeps its type.",
)
def resize_mask(mask, size):
    return F.interpolate(mask[None, None].double(), size, mode="nearest-exact")[0, 0]


@misconception(
    "crop",
    hint="New row i is read at i * H / h, the upper edge of its pixel, so all moves up and to the "
    "left. Its centre is at (i + 1/2) * H / h.",
)
def resize_mask(mask, size):
    (H, W), (h, w) = mask.shape, size
    rows = torch.arange(h, device=mask.device) * H // h
    columns = torch.arange(w, device=mask.device) * W // w
    return mask[rows[:, None], columns]


# --- tconv -----------------------------------------------------------------------------------


@misconception(
    "tconv",
    hint="Each stamp is the kernel as it is. Turning it by 180 degrees belongs to the other form, "
    "the one that gathers.",
)
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    if output_padding >= max(stride, dilation):
        raise ValueError("output_padding is too large")
    N, _, H, W = x.shape
    kh, kw = w.shape[2:]
    tall, wide = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    y = x.new_zeros(N, w.shape[1], (H - 1) * stride + tall + output_padding,
                    (W - 1) * stride + wide + output_padding)  # fmt: skip
    for i in range(H):
        for j in range(W):
            rows = slice(i * stride, i * stride + tall, dilation)
            cols = slice(j * stride, j * stride + wide, dilation)
            y[:, :, rows, cols] += torch.einsum("nc,coab->noab", x[:, :, i, j], w.flip(2, 3))
    return y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]


@misconception(
    "tconv",
    hint="A later stamp replaces an earlier one where they overlap. Stamps add up.",
)
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    if output_padding >= max(stride, dilation):
        raise ValueError("output_padding is too large")
    N, _, H, W = x.shape
    kh, kw = w.shape[2:]
    tall, wide = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    y = x.new_zeros(N, w.shape[1], (H - 1) * stride + tall + output_padding,
                    (W - 1) * stride + wide + output_padding)  # fmt: skip
    for i in range(H):
        for j in range(W):
            rows = slice(i * stride, i * stride + tall, dilation)
            cols = slice(j * stride, j * stride + wide, dilation)
            y[:, :, rows, cols] = torch.einsum("nc,coab->noab", x[:, :, i, j], w)
    return y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]


@misconception(
    "tconv",
    hint="Padding is added to the input here, as in a convolution. In a transposed convolution "
    "it takes rows and columns off the *output*.",
)
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    if output_padding >= max(stride, dilation):
        raise ValueError("output_padding is too large")
    x = F.pad(x, (padding,) * 4)
    N, _, H, W = x.shape
    kh, kw = w.shape[2:]
    tall, wide = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    y = x.new_zeros(N, w.shape[1], (H - 1) * stride + tall + output_padding,
                    (W - 1) * stride + wide + output_padding)  # fmt: skip
    for i in range(H):
        for j in range(W):
            rows = slice(i * stride, i * stride + tall, dilation)
            cols = slice(j * stride, j * stride + wide, dilation)
            y[:, :, rows, cols] += torch.einsum("nc,coab->noab", x[:, :, i, j], w)
    return y


@misconception(
    "tconv",
    hint="The rows of output padding are always zero here. They are what padding would have cut "
    "off, so make the canvas larger first and cut padding off afterwards.",
)
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    if output_padding >= max(stride, dilation):
        raise ValueError("output_padding is too large")
    N, _, H, W = x.shape
    kh, kw = w.shape[2:]
    tall, wide = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    y = x.new_zeros(N, w.shape[1], (H - 1) * stride + tall, (W - 1) * stride + wide)
    for i in range(H):
        for j in range(W):
            rows = slice(i * stride, i * stride + tall, dilation)
            cols = slice(j * stride, j * stride + wide, dilation)
            y[:, :, rows, cols] += torch.einsum("nc,coab->noab", x[:, :, i, j], w)
    y = y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]
    return F.pad(y, (0, output_padding, 0, output_padding))


@misconception(
    "tconv",
    hint="Output padding must be smaller than the stride *or* the dilation: one of the two is "
    "enough, so compare with the larger one.",
)
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    if output_padding and output_padding >= min(stride, dilation):
        raise ValueError("output_padding is too large")
    N, _, H, W = x.shape
    kh, kw = w.shape[2:]
    tall, wide = dilation * (kh - 1) + 1, dilation * (kw - 1) + 1
    y = x.new_zeros(N, w.shape[1], (H - 1) * stride + tall + output_padding,
                    (W - 1) * stride + wide + output_padding)  # fmt: skip
    for i in range(H):
        for j in range(W):
            rows = slice(i * stride, i * stride + tall, dilation)
            cols = slice(j * stride, j * stride + wide, dilation)
            y[:, :, rows, cols] += torch.einsum("nc,coab->noab", x[:, :, i, j], w)
    return y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]


@misconception(
    "tconv",
    hint="The kernel is transposed, not turned. It is the large matrix that is transposed; the "
    "kernel is flipped in both axes.",
)
def as_conv(x, w, stride=1, padding=0):
    N, C, H, W = x.shape
    kh, kw = w.shape[2:]
    spread = x.new_zeros(N, C, (H - 1) * stride + 1, (W - 1) * stride + 1)
    spread[:, :, ::stride, ::stride] = x
    tall, wide = kh - 1 - padding, kw - 1 - padding
    return F.conv2d(F.pad(spread, (tall, tall, wide, wide)), w.transpose(0, 1).mT)


@misconception(
    "tconv",
    hint="The kernel is not turned. Follow the taps from the output's side: they come in "
    "reverse order.",
)
def as_conv(x, w, stride=1, padding=0):
    N, C, H, W = x.shape
    kh, kw = w.shape[2:]
    spread = x.new_zeros(N, C, (H - 1) * stride + 1, (W - 1) * stride + 1)
    spread[:, :, ::stride, ::stride] = x
    tall, wide = kh - 1 - padding, kw - 1 - padding
    return F.conv2d(F.pad(spread, (wide, wide, tall, tall)), w.transpose(0, 1))


@misconception(
    "tconv",
    hint="`stride` zeros are inserted between neighbours; it should be stride - 1, so that "
    "input i lands on row stride * i.",
)
def as_conv(x, w, stride=1, padding=0):
    N, C, H, W = x.shape
    kh, kw = w.shape[2:]
    step = stride + 1
    spread = x.new_zeros(N, C, (H - 1) * step + 1, (W - 1) * step + 1)
    spread[:, :, ::step, ::step] = x
    tall, wide = kh - 1 - padding, kw - 1 - padding
    return F.conv2d(F.pad(spread, (wide, wide, tall, tall)), w.flip(2, 3).transpose(0, 1))


# --- matrix ----------------------------------------------------------------------------------


@misconception(
    "matrix",
    hint="This is the matrix of the transposed convolution. In C, outputs are rows and pixels "
    "are columns.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    rows, cols = h - kh + 1, w - kw + 1
    if rows < 1 or cols < 1:
        raise ValueError("the kernel does not fit")
    C = k.new_zeros(h, w, rows, cols)
    for i in range(rows):
        for j in range(cols):
            C[i : i + kh, j : j + kw, i, j] = k
    return C.reshape(h * w, rows * cols)


@misconception(
    "matrix",
    hint="The kernel is flipped in the rows of C. The convolution of deep learning takes it as "
    "it is; turning comes with the transposed one.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    rows, cols = h - kh + 1, w - kw + 1
    if rows < 1 or cols < 1:
        raise ValueError("the kernel does not fit")
    C = k.new_zeros(rows, cols, h, w)
    for i in range(rows):
        for j in range(cols):
            C[i, j, i : i + kh, j : j + kw] = k.flip(0, 1)
    return C.reshape(rows * cols, h * w)


@misconception(
    "matrix",
    hint="Height and width of the image are mixed up. With a picture that is not square, a row of "
    "pixels is w long.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    rows, cols = h - kh + 1, w - kw + 1
    if rows < 1 or cols < 1:
        raise ValueError("the kernel does not fit")
    C = k.new_zeros(rows * cols, h * w)
    for i in range(rows):
        for j in range(cols):
            for a in range(kh):
                for b in range(kw):
                    C[i * cols + j, ((i + a) * h + j + b) % (h * w)] = k[a, b]
    return C


@misconception(
    "matrix",
    hint="Windows that hang over the border are counted. Without padding there are "
    "h - k_h + 1 rows of windows.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    if kh > h or kw > w:
        raise ValueError("the kernel does not fit")
    C = k.new_zeros(h, w, h + kh, w + kw)
    for i in range(h):
        for j in range(w):
            C[i, j, i : i + kh, j : j + kw] = k
    return C[:, :, :h, :w].reshape(h * w, h * w)


# --- bilinear --------------------------------------------------------------------------------


@misconception(
    "bilinear",
    hint="Every input channel goes to every output channel, so the channels are mixed. Only equal "
    "numbers are connected.",
)
def bilinear_kernel(cin, cout, k):
    factor, centre = (k + 1) // 2, (k - 1) / 2
    tent = 1 - (torch.arange(k) - centre).abs() / factor
    return (tent[:, None] * tent).expand(cin, cout, k, k).clone()


@misconception(
    "bilinear",
    hint="The centre of the tent is off by half a tap for an even k: the middle of the taps "
    "0 to k - 1 is (k - 1) / 2.",
)
def bilinear_kernel(cin, cout, k):
    factor = (k + 1) // 2
    tent = 1 - (torch.arange(k) - (factor - 1)).abs() / factor
    weight = torch.zeros(cin, cout, k, k)
    for c in range(min(cin, cout)):
        weight[c, c] = tent[:, None] * tent
    return weight


@misconception(
    "bilinear",
    hint="The slope is k / 2. For an odd k that is not a whole number, and the pieces no longer "
    "add up to one: round (k + 1) / 2 down.",
)
def bilinear_kernel(cin, cout, k):
    tent = 1 - (torch.arange(k) - (k - 1) / 2).abs() / (k / 2)
    weight = torch.zeros(cin, cout, k, k)
    for c in range(min(cin, cout)):
        weight[c, c] = tent[:, None] * tent
    return weight


@misconception(
    "bilinear",
    hint="The kernel is divided by its sum. What must add up to one are the taps that hit one "
    "output pixel, not all of them.",
)
def bilinear_kernel(cin, cout, k):
    factor, centre = (k + 1) // 2, (k - 1) / 2
    tent = 1 - (torch.arange(k) - centre).abs() / factor
    tent = tent / tent.sum()
    weight = torch.zeros(cin, cout, k, k)
    for c in range(min(cin, cout)):
        weight[c, c] = tent[:, None] * tent
    return weight


@misconception(
    "bilinear",
    hint="The place is rounded to the nearest pixel. Between pixels the value should change "
    "gradually.",
)
def bilinear(img, ys, xs):
    H, W = img.shape[1:]
    return img[:, ys.clamp(0, H - 1).round().long(), xs.clamp(0, W - 1).round().long()]


@misconception(
    "bilinear",
    hint="The weights are exchanged: near the upper pixel its own weight should be near 1, and "
    "that is one minus the fraction.",
)
def bilinear(img, ys, xs):
    H, W = img.shape[1:]
    ys, xs = ys.clamp(0, H - 1), xs.clamp(0, W - 1)
    y0, x0 = ys.floor().long(), xs.floor().long()
    y1, x1 = (y0 + 1).clamp(max=H - 1), (x0 + 1).clamp(max=W - 1)
    v, u = ys - y0, xs - x0
    above = u * img[:, y0, x0] + (1 - u) * img[:, y0, x1]
    below = u * img[:, y1, x0] + (1 - u) * img[:, y1, x1]
    return v * above + (1 - v) * below


@misconception(
    "bilinear",
    hint="Rows and columns are exchanged: ys counts along the height, the second axis of img.",
)
def bilinear(img, ys, xs):
    img = img.transpose(1, 2)
    H, W = img.shape[1:]
    ys, xs = ys.clamp(0, H - 1), xs.clamp(0, W - 1)
    y0, x0 = ys.floor().long(), xs.floor().long()
    y1, x1 = (y0 + 1).clamp(max=H - 1), (x0 + 1).clamp(max=W - 1)
    v, u = ys - y0, xs - x0
    above = (1 - u) * img[:, y0, x0] + u * img[:, y0, x1]
    below = (1 - u) * img[:, y1, x0] + u * img[:, y1, x1]
    return (1 - v) * above + v * below


@misconception(
    "bilinear",
    hint="Places outside are continued on a line instead of being moved to the border: clamp ys "
    "and xs themselves before you take the fractions.",
)
def bilinear(img, ys, xs):
    H, W = img.shape[1:]
    y0 = ys.floor().long().clamp(0, max(H - 2, 0))
    x0 = xs.floor().long().clamp(0, max(W - 2, 0))
    y1, x1 = (y0 + 1).clamp(max=H - 1), (x0 + 1).clamp(max=W - 1)
    v, u = ys - y0, xs - x0
    above = (1 - u) * img[:, y0, x0] + u * img[:, y0, x1]
    below = (1 - u) * img[:, y1, x0] + u * img[:, y1, x1]
    return (1 - v) * above + v * below


@misconception(
    "bilinear",
    hint="The tent stands at k / 2, half a tap beside the middle: the taps are 0 to k - 1, and "
    "their middle is (k - 1) / 2.",
)
def bilinear_kernel(cin, cout, k):
    factor = (k + 1) // 2
    tent = 1 - (torch.arange(k) - k / 2).abs() / factor
    weight = torch.zeros(cin, cout, k, k)
    for c in range(min(cin, cout)):
        weight[c, c] = tent[:, None] * tent
    return weight


# --- fcn -------------------------------------------------------------------------------------


@misconception(
    "fcn",
    hint="The kernel is as large as the stride, so k = 2p + s does not hold and the output comes "
    "out too small. Which k belongs to padding stride // 2?",
)
class FCN(nn.Module):
    def __init__(self, backbone, classes, stride):
        super().__init__()
        self.backbone = backbone
        self.head = nn.LazyConv2d(classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, stride, stride, stride // 2, bias=False)

    def forward(self, x):
        return self.up(self.head(self.backbone(x)))


@misconception(
    "fcn",
    hint="The kernel is always twice the stride. For an odd stride this is one too many: the size "
    "follows from k = 2p + s.",
)
class FCN(nn.Module):
    def __init__(self, backbone, classes, stride):
        super().__init__()
        self.backbone = backbone
        self.head = nn.LazyConv2d(classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 2 * stride, stride, stride // 2, bias=False)

    def forward(self, x):
        return self.up(self.head(self.backbone(x)))


@misconception(
    "fcn",
    hint="The output of `forward` has been through a softmax. The network gives scores; "
    "cross-entropy does the rest.",
)
class FCN(nn.Module):
    def __init__(self, backbone, classes, stride):
        super().__init__()
        p = stride // 2
        self.backbone = backbone
        self.head = nn.LazyConv2d(classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 2 * p + stride, stride, p, bias=False)

    def forward(self, x):
        return self.up(self.head(self.backbone(x))).softmax(1)


@misconception(
    "fcn",
    hint="One Dice coefficient is computed for all maps together. A large object then hides a "
    "small one: sum over H and W only, and take the mean at the end.",
)
def dice_loss(p, y, smooth=1.0):
    return 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)


@misconception(
    "fcn",
    hint="Epsilon is missing in the numerator, so an empty mask, rightly predicted, has the loss 1 "
    "instead of 0.",
)
def dice_loss(p, y, smooth=1.0):
    both = (p * y).sum((-2, -1))
    sizes = p.sum((-2, -1)) + y.sum((-2, -1))
    return (1 - 2 * both / (sizes + smooth)).mean()


@misconception(
    "fcn",
    hint="Probabilities are cut at 0.5. A step has no gradient, so nothing can be learned; "
    "thresholds belong to the report.",
)
def dice_loss(p, y, smooth=1.0):
    p = (p > 0.5).to(p.dtype)
    both = (p * y).sum((-2, -1))
    sizes = p.sum((-2, -1)) + y.sum((-2, -1))
    return (1 - (2 * both + smooth) / (sizes + smooth)).mean()


@misconception(
    "fcn",
    hint="This is the Jaccard (IoU) loss: the overlap is taken off the sum of the sizes and not "
    "counted twice. Dice is 2 both / (p + y).",
)
def dice_loss(p, y, smooth=1.0):
    both = (p * y).sum((-2, -1))
    union = p.sum((-2, -1)) + y.sum((-2, -1)) - both
    return (1 - (both + smooth) / (union + smooth)).mean()


@misconception(
    "fcn",
    hint="Void pixels still count in the prediction's area. Take them out of both before you count "
    "anything.",
)
def miou(pred, y, ignore=255):
    ious = []
    for c in torch.cat([pred.flatten(), y.flatten()]).unique():
        if c != ignore:
            both = ((pred == c) & (y == c)).sum().item()
            ious.append(both / ((pred == c) | (y == c)).sum().item())
    return sum(ious) / len(ious) if ious else math.nan


@misconception(
    "fcn",
    hint="Only the classes of the truth are looked at. A class that is predicted but never true "
    "has an IoU of 0, and that should count.",
)
def miou(pred, y, ignore=255):
    seen = y != ignore
    pred, y = pred[seen], y[seen]
    ious = []
    for c in y.unique():
        both = ((pred == c) & (y == c)).sum().item()
        ious.append(both / ((pred == c) | (y == c)).sum().item())
    return sum(ious) / len(ious) if ious else math.nan


@misconception(
    "fcn",
    hint="This is the pixel accuracy. The mean IoU has one ratio for each class, and their mean.",
)
def miou(pred, y, ignore=255):
    seen = y != ignore
    return (pred == y)[seen].double().mean().item()


# --- style -----------------------------------------------------------------------------------


@misconception(
    "style",
    hint="The division is by H * W only. The number of channels belongs to it, so that large "
    "layers do not count more.",
)
def gram(x):
    rows = x.flatten(2)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


@misconception(
    "style",
    hint="The Gram matrix compares places (HW x HW) instead of channels: it should be C x C and "
    "forget the places.",
)
def gram(x):
    rows = x.flatten(2)
    return rows.transpose(1, 2) @ rows / rows[0].numel()


@misconception(
    "style",
    hint="All images of the batch are joined into one matrix. Each image has a Gram matrix of "
    "its own.",
)
def gram(x):
    rows = x.transpose(0, 1).flatten(1)
    return (rows @ rows.T / rows.numel())[None].expand(len(x), -1, -1)


@misconception(
    "style",
    hint="The means of the channels were taken off: that is the covariance. The Gram matrix keeps "
    "them, they carry the colours.",
)
def gram(x):
    rows = x.flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    return rows @ rows.transpose(1, 2) / rows[0].numel()


@misconception(
    "style",
    hint="The target still belongs to a graph, so the loss would change the style as well. A "
    "target is detached.",
)
def style_loss(y, g):
    rows = y.flatten(2)
    mine = rows @ rows.transpose(1, 2) / rows[0].numel()
    return (mine - g).square().mean()


@misconception(
    "style",
    hint="Something in front of the Gram matrix was detached: the value is right, but the "
    "features get no gradient. Detach the target only.",
)
def style_loss(y, g):
    rows = y.detach().flatten(2)
    mine = rows @ rows.transpose(1, 2) / rows[0].numel()
    return (mine - g.detach()).square().mean()


@misconception(
    "style",
    hint="Neighbours are compared without the absolute value, so that ups and downs cancel.",
)
def tv_loss(x):
    down = (x[:, :, 1:] - x[:, :, :-1]).mean()
    right = (x[:, :, :, 1:] - x[:, :, :, :-1]).mean()
    return (down + right) / 2


@misconception(
    "style",
    hint="The two directions are summed; take half of the sum.",
)
def tv_loss(x):
    down = (x[:, :, 1:] - x[:, :, :-1]).abs().mean()
    right = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean()
    return down + right


@misconception(
    "style",
    hint="`roll` compares the last row with the first one, which are no neighbours. Use slices.",
)
def tv_loss(x):
    down = (x - x.roll(1, 2)).abs().mean()
    right = (x - x.roll(1, 3)).abs().mean()
    return (down + right) / 2


# --- transfer --------------------------------------------------------------------------------


@misconception(
    "transfer",
    hint="After the first step `img` is a new tensor that the optimizer does not know, so nothing "
    "moves any more. Clamp in place, under `torch.no_grad()`.",
)
def stylize(content, style, net, steps, weights):
    def correlations(maps):
        return [m.flatten(2) @ m.flatten(2).mT / m[0].numel() for m in maps]

    with torch.no_grad():
        goal, look = net(content)[0], correlations(net(style)[1])
    img = content.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([img], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(correlations(styles), look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        (grad,) = torch.autograd.grad(loss, [img])
        img.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        img = img.detach().clamp(0, 1).requires_grad_()
        history.append(loss.item())
    return img.detach(), history


@misconception(
    "transfer",
    hint="`loss.backward()` fills `.grad` of the network's weights, too. Ask for the gradient of "
    "the image only: `torch.autograd.grad(loss, [img])`.",
)
def stylize(content, style, net, steps, weights):
    def correlations(maps):
        return [m.flatten(2) @ m.flatten(2).mT / m[0].numel() for m in maps]

    with torch.no_grad():
        goal, look = net(content)[0], correlations(net(style)[1])
    img = content.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([img], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(correlations(styles), look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            img.clamp_(0, 1)
        history.append(loss.item())
    return img.detach(), history


@misconception(
    "transfer",
    hint="The optimizer holds the network's weights as well. Here the network is a ruler; only the "
    "image may change.",
)
def stylize(content, style, net, steps, weights):
    def correlations(maps):
        return [m.flatten(2) @ m.flatten(2).mT / m[0].numel() for m in maps]

    with torch.no_grad():
        goal, look = net(content)[0], correlations(net(style)[1])
    img = content.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([img, *net.parameters()], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(correlations(styles), look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            img.clamp_(0, 1)
        history.append(loss.item())
    return img.detach(), history


@misconception(
    "transfer",
    hint="Nothing keeps the pixels in [0, 1]. Clamp after every step, in place.",
)
def stylize(content, style, net, steps, weights):
    def correlations(maps):
        return [m.flatten(2) @ m.flatten(2).mT / m[0].numel() for m in maps]

    with torch.no_grad():
        goal, look = net(content)[0], correlations(net(style)[1])
    img = content.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([img], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(correlations(styles), look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        (img.grad,) = torch.autograd.grad(loss, [img])
        optimizer.step()
        history.append(loss.item())
    return img.detach(), history


@misconception(
    "transfer",
    hint="The optimised image shares its memory with the content picture, so the content changes "
    "along. Start from a copy.",
)
def stylize(content, style, net, steps, weights):
    def correlations(maps):
        return [m.flatten(2) @ m.flatten(2).mT / m[0].numel() for m in maps]

    with torch.no_grad():
        goal, look = net(content)[0], correlations(net(style)[1])
    img = nn.Parameter(content)
    optimizer = torch.optim.Adam([img], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(correlations(styles), look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        (img.grad,) = torch.autograd.grad(loss, [img])
        optimizer.step()
        with torch.no_grad():
            img.clamp_(0, 1)
        history.append(loss.item())
    return img.detach(), history


@misconception(
    "transfer",
    hint="The style is compared map by map, so that the style picture's own objects appear. "
    "Compare Gram matrices, which forget the places.",
)
def stylize(content, style, net, steps, weights):
    style = F.interpolate(style, content.shape[2:])
    with torch.no_grad():
        goal, look = net(content)[0], net(style)[1]
    img = content.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([img], lr=0.05)
    history = []
    for _ in range(steps):
        contents, styles = net(img)
        loss = weights[0] * sum(F.mse_loss(a, b) for a, b in zip(contents, goal))
        loss = loss + weights[1] * sum(F.mse_loss(a, b) for a, b in zip(styles, look))
        tv = (img.diff(dim=2).abs().mean() + img.diff(dim=3).abs().mean()) / 2
        loss = loss + weights[2] * tv
        (img.grad,) = torch.autograd.grad(loss, [img])
        optimizer.step()
        with torch.no_grad():
            img.clamp_(0, 1)
        history.append(loss.item())
    return img.detach(), history
