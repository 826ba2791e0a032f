"""Other right answers in the chapter on convolution."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("layer")
class Conv2D(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*kernel_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        h, w = self.weight.shape
        windows = x.unfold(0, h, 1).unfold(1, w, 1)
        return torch.einsum("ijab,ab->ij", windows, self.weight) + self.bias


@alternative("layer")
def learn_kernel(X, Y, steps, lr):
    # The gradient by hand: the input correlated with the error.
    h, w = X.shape[0] - Y.shape[0] + 1, X.shape[1] - Y.shape[1] + 1
    kernel = torch.zeros(h, w, dtype=X.dtype, device=X.device)
    for _ in range(steps):
        error = F.conv2d(X[None, None], kernel[None, None])[0, 0] - Y
        grad = F.conv2d(X[None, None], error[None, None])[0, 0] * 2 / error.numel()
        kernel = kernel - lr * grad
    return kernel


@alternative("layer")
def learn_kernel(X, Y, steps, lr):
    kernel = nn.Parameter(
        torch.zeros(
            X.shape[0] - Y.shape[0] + 1, X.shape[1] - Y.shape[1] + 1, dtype=X.dtype, device=X.device
        )
    )
    optimizer = torch.optim.SGD([kernel], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        out = F.conv2d(X.view(1, 1, *X.shape), kernel.view(1, 1, *kernel.shape))
        F.mse_loss(out[0, 0], Y).backward()
        optimizer.step()
    return kernel.detach()


@alternative("size")
def out_size(h, k, s=1, p=0, d=1):
    last = h + 2 * p - 1
    return sum(1 for first in range(0, h + 2 * p, s) if first + d * (k - 1) <= last)


@alternative("size")
def receptive_field(layers):
    # From the top down: which interval of inputs does an interval of outputs see?
    def back(first, last):
        for k, s, p, d in reversed(layers):
            first, last = first * s - p, last * s - p + d * (k - 1)
        return first, last

    first, last = back(0, 0)
    return last - first + 1, math.prod(s for _, s, _, _ in layers), first


@alternative("corr")
def corr2d(x, k):
    if k.shape[0] > x.shape[0] or k.shape[1] > x.shape[1]:
        raise ValueError("the kernel is larger than the image")
    windows = x.unfold(0, k.shape[0], 1).unfold(1, k.shape[1], 1)
    return (windows * k).sum((-2, -1))


@alternative("corr")
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    # Four loops, one window at a time.
    (n, c, H, W), (o, _, h, k) = x.shape, w.shape
    if c % groups or o % groups:
        raise ValueError("the groups do not divide the channels")
    x = F.pad(x, [padding] * 4)
    rows = (H + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    cols = (W + 2 * padding - dilation * (k - 1) - 1) // stride + 1
    maps = []
    for out in range(o):
        g = out // (o // groups)
        mine = x[:, g * (c // groups) : (g + 1) * (c // groups)]
        values = []
        for i in range(rows):
            for j in range(cols):
                top, left = i * stride, j * stride
                window = mine[
                    :,
                    :,
                    top : top + dilation * (h - 1) + 1 : dilation,
                    left : left + dilation * (k - 1) + 1 : dilation,
                ]
                values.append((window * w[out]).sum((1, 2, 3)))
        plane = torch.stack(values, 1).view(n, rows, cols)
        maps.append(plane if b is None else plane + b[out])
    return torch.stack(maps, 1)


@alternative("corr")
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    # One matrix product on unfolded patches.
    n, c, H, _ = x.shape
    o, _, h, k = w.shape
    if c % groups != 0 or o % groups != 0:
        raise ValueError("the groups do not divide the channels")
    cols = F.unfold(x, (h, k), dilation, padding, stride).view(n, groups, -1, 1)
    cols = cols.view(n, groups, c // groups * h * k, -1)
    y = w.reshape(1, groups, o // groups, -1) @ cols
    rows = (H + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    y = y.reshape(n, o, rows, -1)
    return y if b is None else y + b.view(1, -1, 1, 1)


@alternative("im2col")
def im2col(x, k, s=1, p=0, d=1):
    x = F.pad(x, [p] * 4)
    reach = d * (k - 1) + 1
    windows = x.unfold(2, reach, s).unfold(3, reach, s)[..., ::d, ::d]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


@alternative("im2col")
def conv_matrix(k, h, w):
    kh, kw = k.shape
    rows, cols = h - kh + 1, w - kw + 1
    m = torch.zeros(rows * cols, h * w, dtype=k.dtype, device=k.device)
    for i in range(rows):
        for j in range(cols):
            for a in range(kh):
                for b in range(kw):
                    m[i * cols + j, (i + a) * w + j + b] = k[a, b]
    return m


@alternative("one")
def conv1x1_to_linear(conv):
    lin = nn.Linear(
        conv.in_channels,
        conv.out_channels,
        bias=conv.bias is not None,
        dtype=conv.weight.dtype,
        device=conv.weight.device,
    )
    state = {"weight": conv.weight.flatten(1)}
    if conv.bias is not None:
        state["bias"] = conv.bias
    lin.load_state_dict(state)
    return lin


@alternative("one")
def linear_to_conv1x1(lin):
    conv = nn.Conv2d(lin.in_features, lin.out_features, kernel_size=1, bias=lin.bias is not None)
    conv.weight = nn.Parameter(lin.weight.detach().clone().unsqueeze(-1).unsqueeze(-1))
    if lin.bias is not None:
        conv.bias = nn.Parameter(lin.bias.detach().clone())
    return conv


@alternative("one")
def shift_gap(f, x, dy, dx):
    def shifted(t, down, right):
        rows = (torch.arange(t.shape[2], device=t.device) - down) % t.shape[2]
        cols = (torch.arange(t.shape[3], device=t.device) - right) % t.shape[3]
        return t[:, :, rows][:, :, :, cols]

    y = f(x)
    down, right = dy * y.size(2) // x.size(2), dx * y.size(3) // x.size(3)
    gap = f(shifted(x, dy, dx)) - shifted(y, down, right)
    return float(gap.abs().max())


@alternative("pool")
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    # By unfolding; cells that do not count are NaN.
    if padding > k / 2:
        raise ValueError("the padding is more than half of the window")
    stride = stride or k
    H, W = x.shape[2:]

    def outputs(size):
        rounded = math.ceil if ceil_mode else math.floor
        count = rounded((size + 2 * padding - k) / stride) + 1
        return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count

    rows, cols = outputs(H), outputs(W)
    border = 0.0 if mode == "avg" and count_include_pad else math.nan
    full = F.pad(x, [padding] * 4, value=border)
    more = [
        max((m - 1) * stride + k - size, 0)
        for m, size in ((cols, full.shape[3]), (rows, full.shape[2]))
    ]
    full = F.pad(full, [0, more[0], 0, more[1]], value=math.nan)
    windows = full.unfold(2, k, stride).unfold(3, k, stride)[:, :, :rows, :cols].flatten(4)
    if mode == "max":
        return torch.where(windows.isnan(), -math.inf, windows).max(-1).values
    return windows.nanmean(-1)


@alternative("pool")
def adaptive_pool2d(x, out, mode="avg"):
    # One axis after the other; the mean as two matrix products.
    h, w = (out, out) if isinstance(out, int) else out

    def windows(n, o):
        return [(math.floor(i * n / o), math.ceil((i + 1) * n / o)) for i in range(o)]

    def matrix(n, o):
        m = torch.zeros(o, n, dtype=x.dtype, device=x.device)
        for i, (a, b) in enumerate(windows(n, o)):
            m[i, a:b] = 1 / (b - a)
        return m

    if mode == "avg":
        return matrix(x.shape[2], h) @ x @ matrix(x.shape[3], w).T
    x = torch.stack([x[:, :, a:b].amax(2) for a, b in windows(x.shape[2], h)], 2)
    return torch.stack([x[..., a:b].amax(3) for a, b in windows(x.shape[3], w)], 3)


@alternative("pool")
def pool_backward(dy, cache):
    # F.fold adds what overlapping windows contribute.
    x, k, stride, padding, mode = cache
    n, c, H, W = x.shape
    size = (H + 2 * padding, W + 2 * padding)
    flat = dy.reshape(n * c, 1, -1)
    if mode == "avg":
        columns = (flat / k**2).expand(-1, k * k, -1)
    else:
        full = F.pad(x.reshape(n * c, 1, H, W), [padding] * 4, value=-1e30)
        first = F.unfold(full, k, stride=stride).argmax(1)
        columns = F.one_hot(first, k * k).movedim(-1, 1) * flat
    dx = F.fold(columns.to(x.dtype), size, k, stride=stride)
    return dx.view(n, c, *size)[:, :, padding : padding + H, padding : padding + W]


@alternative("unpool")
def maxpool_with_indices(x, k):
    n, c, H, W = x.shape
    rows, cols = H // k, W // k
    y = torch.empty(n, c, rows, cols, dtype=x.dtype, device=x.device)
    idx = torch.empty(n, c, rows, cols, dtype=torch.long, device=x.device)
    for i in range(rows):
        for j in range(cols):
            window = x[:, :, i * k : (i + 1) * k, j * k : (j + 1) * k].reshape(n, c, -1)
            at = window.argmax(-1)
            y[:, :, i, j] = window.gather(-1, at[..., None])[..., 0]
            idx[:, :, i, j] = (i * k + at // k) * W + j * k + at % k
    return y, idx


@alternative("unpool")
def unpool(y, idx, size):
    n, c = y.shape[:2]
    out = torch.zeros(n, c, size[0] * size[1], dtype=y.dtype, device=y.device)
    image = torch.arange(n, device=y.device)[:, None, None]
    channel = torch.arange(c, device=y.device)[None, :, None]
    out[image, channel, idx.flatten(2)] = y.flatten(2)
    return out.reshape(n, c, size[0], size[1])
