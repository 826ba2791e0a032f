"""Other right answers in the chapter on segmentation and style transfer."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("colormap")
def voc_colormap(n):
    rows = []
    for index in range(n):
        r = g = b = 0
        for shift in (7, 6, 5):
            r |= (index & 1) << shift
            g |= (index >> 1 & 1) << shift
            b |= (index >> 2 & 1) << shift
            index >>= 3
        rows.append([r, g, b])
    return torch.tensor(rows, dtype=torch.uint8)


@alternative("colormap")
def rgb_to_index(img):
    # No table: compare with each of the 21 colours, and refuse what is none of them.
    flat = img.reshape(-1, 3)
    out = torch.full((len(flat),), -1, dtype=torch.int64, device=img.device)
    for c in [*range(21), 255]:
        colour = [sum(((c >> (3 * i + ch)) & 1) << (7 - i) for i in range(3)) for ch in range(3)]
        out[(flat == flat.new_tensor(colour)).all(1)] = c
    if (out < 0).any():
        raise ValueError("a colour that belongs to no class")
    return out.view(img.shape[:-1])


@alternative("colormap")
def index_to_rgb(idx):
    idx = idx.long()
    channels = [sum(((idx >> (3 * i + ch)) & 1) << (7 - i) for i in range(3)) for ch in range(3)]
    return torch.stack(channels, -1).to(torch.uint8)


@alternative("crop")
def rand_crop(img, mask, h, w, rng):
    H, W = mask.shape
    if H < h or W < w:
        raise ValueError("the box does not fit")
    place = int(torch.randint((H - h + 1) * (W - w + 1), (1,), generator=rng))
    top, left = divmod(place, W - w + 1)
    return img.narrow(1, top, h).narrow(2, left, w), mask.narrow(0, top, h).narrow(1, left, w)


@alternative("crop")
def resize_mask(mask, size):
    picture = mask[None, None].double()
    return F.interpolate(picture, size, mode="nearest-exact")[0, 0].to(mask.dtype)


@alternative("tconv")
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    # The matrix product and col2im.
    if output_padding >= stride and output_padding >= dilation:
        raise ValueError("output_padding must be smaller than stride or dilation")
    H, W = x.shape[2:]
    k = w.shape[2:]
    size = [
        (n - 1) * stride + dilation * (kk - 1) + 1 + output_padding
        for n, kk in zip((H, W), k, strict=True)
    ]
    # fold counts windows by the full size, so give it one without output padding.
    inner = [n - output_padding for n in size]
    columns = w.flatten(1).T @ x.flatten(2)
    y = F.fold(columns, inner, k, dilation, 0, stride)
    y = F.pad(y, (0, output_padding, 0, output_padding))
    return y[..., padding : size[0] - padding, padding : size[1] - padding]


@alternative("tconv")
def conv_transpose2d(x, w, stride=1, padding=0, output_padding=0, dilation=1):
    # A loop over the taps instead of the pixels.
    if output_padding >= max(stride, dilation):
        raise ValueError("output_padding must be smaller than stride or dilation")
    N, _, H, W = x.shape
    _, C, kh, kw = w.shape
    y = x.new_zeros(
        N,
        C,
        (H - 1) * stride + dilation * (kh - 1) + 1 + output_padding,
        (W - 1) * stride + dilation * (kw - 1) + 1 + output_padding,
    )
    for a in range(kh):
        for b in range(kw):
            part = torch.einsum("nchw,co->nohw", x, w[:, :, a, b])
            top, left = a * dilation, b * dilation
            y[
                :,
                :,
                top : top + (H - 1) * stride + 1 : stride,
                left : left + (W - 1) * stride + 1 : stride,
            ] += part
    return y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]


@alternative("tconv")
def as_conv(x, w, stride=1, padding=0):
    # Zeros behind every pixel, the last ones cut off; padding left to the convolution.
    N, C, H, W = x.shape
    spread = F.pad(x[..., None, :, None], (0, stride - 1, 0, 0, 0, stride - 1))
    spread = spread.reshape(N, C, H * stride, W * stride)
    spread = spread[..., : (H - 1) * stride + 1, : (W - 1) * stride + 1]
    kernel = torch.rot90(w, 2, (2, 3)).permute(1, 0, 2, 3)
    frame = (w.shape[2] - 1 - padding, w.shape[3] - 1 - padding)
    return F.conv2d(spread, kernel, padding=frame)


@alternative("matrix")
def conv_matrix(k, h, w):
    if k.shape[0] > h or k.shape[1] > w:
        raise ValueError("the kernel is larger than the image")
    # The columns are the outputs for pictures with one bright pixel.
    dots = torch.eye(h * w, dtype=k.dtype, device=k.device).view(h * w, 1, h, w)
    return F.conv2d(dots, k[None, None]).flatten(1).T


@alternative("bilinear")
def bilinear_kernel(cin, cout, k):
    factor = (k + 1) // 2
    centre = factor - 1 if k % 2 == 1 else factor - 0.5
    rows, cols = np.ogrid[:k, :k]
    square = (1 - abs(rows - centre) / factor) * (1 - abs(cols - centre) / factor)
    same = torch.eye(cin, cout)
    return same[:, :, None, None] * torch.tensor(square, dtype=torch.float32)


@alternative("bilinear")
def bilinear(img, ys, xs):
    # A weighted sum over all pixels: the tent, evaluated everywhere.
    H, W = img.shape[1:]
    rows = torch.arange(H, device=img.device).to(ys)
    cols = torch.arange(W, device=img.device).to(xs)
    ys, xs = ys.clamp(0, H - 1)[..., None], xs.clamp(0, W - 1)[..., None]
    weight_y = (1 - (ys - rows).abs()).clamp(min=0)
    weight_x = (1 - (xs - cols).abs()).clamp(min=0)
    return torch.einsum("chw,...h,...w->c...", img, weight_y, weight_x)


@alternative("fcn")
class FCN(nn.Module):
    def __init__(self, backbone, classes, stride):
        super().__init__()
        self.backbone = backbone
        self.head = nn.LazyConv2d(classes, kernel_size=1)
        kernel = 2 * stride if stride % 2 == 0 else 2 * stride - 1
        self.up = nn.ConvTranspose2d(
            classes, classes, kernel_size=kernel, stride=stride, padding=stride // 2, bias=False
        )

    def forward(self, x):
        features = self.backbone(x)
        scores = self.head(features)
        return self.up(scores, output_size=x.shape[2:])


@alternative("fcn")
def dice_loss(p, y, smooth=1.0):
    y = y.to(p.dtype)
    p, y = p.flatten(-2), y.flatten(-2)
    numerator = 2 * torch.einsum("...i,...i->...", p, y) + smooth
    return 1 - (numerator / ((p + y).sum(-1) + smooth)).mean()


@alternative("fcn")
def miou(pred, y, ignore=255):
    # One pass: a confusion matrix.
    keep = y != ignore
    pred, y = pred[keep].long(), y[keep].long()
    if not len(y):
        return float("nan")
    n = int(max(pred.max(), y.max())) + 1
    table = torch.bincount(n * y + pred, minlength=n * n).view(n, n).double()
    union = table.sum(0) + table.sum(1) - table.diagonal()
    seen = union > 0
    return (table.diagonal()[seen] / union[seen]).mean().item()


@alternative("style")
def gram(x):
    return torch.einsum("nchw,ndhw->ncd", x, x) / (x.shape[1] * x.shape[2] * x.shape[3])


@alternative("style")
def style_loss(y, g):
    rows = y.reshape(y.shape[0], y.shape[1], -1)
    mine = torch.bmm(rows, rows.transpose(1, 2)).div(rows.shape[1] * rows.shape[2])
    return F.mse_loss(mine, g.detach())


@alternative("style")
def tv_loss(x):
    return 0.5 * sum(F.l1_loss(x.narrow(d, 1, x.shape[d] - 1), x.narrow(d, 0, x.shape[d] - 1))
                     for d in (2, 3))  # fmt: skip


@alternative("transfer")
def stylize(content, style, net, steps, weights):
    def all_terms(x, goal, look):
        contents, styles = net(x)
        a = sum((u - v).square().mean() for u, v in zip(contents, goal, strict=True))
        b = sum(
            (torch.einsum("nchw,ndhw->ncd", u, u) / u[0].numel() - v).square().mean()
            for u, v in zip(styles, look, strict=True)
        )
        return a, b, 0.5 * sum(x.diff(dim=d).abs().mean() for d in (2, 3))

    goal = [m.detach() for m in net(content)[0]]
    look = [(torch.einsum("nchw,ndhw->ncd", m, m) / m[0].numel()).detach() for m in net(style)[1]]

    class Picture(nn.Module):
        def __init__(self):
            super().__init__()
            self.pixels = nn.Parameter(content.clone())

        def forward(self):
            return self.pixels

    picture, history = Picture(), []
    optimizer = torch.optim.RMSprop(picture.parameters(), lr=0.01)
    for _ in range(steps):
        terms = all_terms(picture(), goal, look)
        loss = torch.dot(torch.stack(terms), torch.tensor(weights).to(terms[0]))
        picture.pixels.grad = torch.autograd.grad(loss, picture.pixels)[0]
        optimizer.step()
        picture.pixels.data.clamp_(0, 1)
        history.append(loss.item())
    return picture().detach(), history


@alternative("debug")
def pull(begin, target, steps, lr=0.2):
    # The step by hand: a new tensor each time does no harm without an optimizer.
    img = begin.clone()
    for _ in range(steps):
        img = (img - lr * 2 * (img - target)).clamp(0, 1)
    return img
