"""Wrong answers in the chapter on convolution, each with the hint it deserves."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- layer -----------------------------------------------------------------------------------


@misconception(
    "layer",
    hint="The bias never reaches the output. Having a parameter is not yet "
    "using it: look at `forward` again.",
)
class Conv2D(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(kernel_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return F.conv2d(x[None, None], self.weight[None, None])[0, 0]


@misconception(
    "layer",
    hint="The weight is an ordinary tensor, so no optimizer and no `to` will "
    "ever find it. What turns a tensor into a parameter of a module?",
)
class Conv2D(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.weight = torch.rand(kernel_size, requires_grad=True)
        self.bias = torch.zeros(1, requires_grad=True)

    def forward(self, x):
        return F.conv2d(x[None, None], self.weight[None, None])[0, 0] + self.bias


@misconception(
    "layer",
    hint="`.data` (like `detach`) cuts the output off from the parameters: the "
    "values are right, but no gradient can come back. Use the parameters themselves.",
)
class Conv2D(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(kernel_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return F.conv2d(x[None, None], self.weight.data[None, None])[0, 0] + self.bias


@misconception(
    "layer",
    hint="The loss should be the *mean* of the squared errors. With the sum, the "
    "step grows with the size of the image, and soon it is too long.",
)
def learn_kernel(X, Y, steps, lr):
    h, w = X.shape[0] - Y.shape[0] + 1, X.shape[1] - Y.shape[1] + 1
    kernel = torch.zeros(h, w, dtype=X.dtype, device=X.device, requires_grad=True)
    for _ in range(steps):
        loss = ((F.conv2d(X[None, None], kernel[None, None])[0, 0] - Y) ** 2).sum()
        (grad,) = torch.autograd.grad(loss, kernel)
        with torch.no_grad():
            kernel -= lr * grad
    return kernel.detach()


@misconception(
    "layer",
    hint="`backward` adds to `.grad`. Without setting it to zero, each step uses "
    "the sum of all gradients so far.",
)
def learn_kernel(X, Y, steps, lr):
    h, w = X.shape[0] - Y.shape[0] + 1, X.shape[1] - Y.shape[1] + 1
    kernel = torch.zeros(h, w, dtype=X.dtype, device=X.device, requires_grad=True)
    for _ in range(steps):
        loss = ((F.conv2d(X[None, None], kernel[None, None])[0, 0] - Y) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            kernel -= lr * kernel.grad
    return kernel.detach()


@misconception(
    "layer",
    hint="The kernel is not always 1 x 2: its size follows from how much smaller Y is than X.",
)
def learn_kernel(X, Y, steps, lr):
    kernel = torch.zeros(1, 2, dtype=X.dtype, device=X.device, requires_grad=True)
    for _ in range(steps):
        loss = ((F.conv2d(X[None, None], kernel[None, None])[0, 0] - Y) ** 2).mean()
        (grad,) = torch.autograd.grad(loss, kernel)
        with torch.no_grad():
            kernel -= lr * grad
    return kernel.detach()


# --- size ------------------------------------------------------------------------------------


@misconception(
    "size",
    hint="The -1 in the numerator is missing: the last tap must be at most at pixel "
    "h + 2p - 1, since pixels are counted from 0.",
)
def out_size(h, k, s=1, p=0, d=1):
    return (h + 2 * p - d * (k - 1)) // s + 1


@misconception("size", hint="Padding is added on both sides, so a row grows by twice the padding.")
def out_size(h, k, s=1, p=0, d=1):
    return (h + p - d * (k - 1) - 1) // s + 1


@misconception(
    "size",
    hint="The kernel covers d * (k - 1) + 1 pixels, not d * k: between k taps there "
    "are k - 1 gaps.",
)
def out_size(h, k, s=1, p=0, d=1):
    return (h + 2 * p - d * k) // s + 1


@misconception(
    "size", hint="The size is rounded down: a last window that does not fit is left out."
)
def out_size(h, k, s=1, p=0, d=1):
    return -(-(h + 2 * p - d * (k - 1) - 1) // s) + 1


@misconception(
    "size",
    hint="A stride widens the view of the layers *after* it. In its own layer the "
    "taps are still one old jump apart, so the jump is to be updated last.",
)
def receptive_field(layers):
    r, jump, start = 1, 1, 0
    for k, s, p, d in layers:
        jump *= s
        r += d * (k - 1) * jump
        start -= p * jump
    return r, jump, start


@misconception(
    "size",
    hint="One step in a later layer is several input pixels: what does a step "
    "count for, after layers with stride?",
)
def receptive_field(layers):
    r, jump, start = 1, 1, 0
    for k, s, p, d in layers:
        r += d * (k - 1)
        start -= p
        jump *= s
    return r, jump, start


@misconception(
    "size",
    hint="Dilation is left out: the taps are d steps apart, so the view grows by "
    "d * (k - 1) steps.",
)
def receptive_field(layers):
    r, jump, start = 1, 1, 0
    for k, s, p, _ in layers:
        r += (k - 1) * jump
        start -= p * jump
        jump *= s
    return r, jump, start


# --- corr ------------------------------------------------------------------------------------


@misconception(
    "corr",
    hint="The kernel is flipped: that is convolution in the sense of mathematics. "
    "Cross-correlation slides the kernel as it is.",
)
def corr2d(x, k):
    if k.shape[0] > x.shape[0] or k.shape[1] > x.shape[1]:
        raise ValueError("the kernel is larger than the image")
    k = k.flip(0, 1)
    rows, cols = x.shape[0] - k.shape[0] + 1, x.shape[1] - k.shape[1] + 1
    y = torch.zeros(rows, cols, dtype=x.dtype, device=x.device)
    for i in range(rows):
        for j in range(cols):
            y[i, j] = (x[i : i + k.shape[0], j : j + k.shape[1]] * k).sum()
    return y


@misconception(
    "corr",
    hint="The last position is missing, in each axis: how many places are there "
    "for a window of 2 in a row of 3?",
)
def corr2d(x, k):
    h, w = k.shape
    if h > x.shape[0] or w > x.shape[1]:
        raise ValueError("the kernel is larger than the image")
    y = torch.zeros(x.shape[0] - h, x.shape[1] - w, dtype=x.dtype, device=x.device)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (x[i : i + h, j : j + w] * k).sum()
    return y


@misconception(
    "corr",
    hint="Only one side of the image and of the kernel is used; both may be higher "
    "than wide, or the other way round.",
)
def corr2d(x, k):
    n = k.shape[0]
    if n > x.shape[0]:
        raise ValueError("the kernel is larger than the image")
    y = torch.zeros(x.shape[0] - n + 1, x.shape[0] - n + 1, dtype=x.dtype, device=x.device)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (x[i : i + n, j : j + n] * k).sum()
    return y


@misconception(
    "corr",
    hint="The window moves by whole pixels, but the dilation does not spread its "
    "taps: neighbours in the kernel should be `dilation` pixels apart.",
)
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] % groups or w.shape[0] % groups:
        raise ValueError("groups must divide the channels")
    n, (h, k) = x.shape[0], w.shape[2:]
    cols = F.unfold(x, (h, k), 1, padding, stride)
    rows = (x.shape[2] + 2 * padding - h) // stride + 1
    cols = cols.unflatten(1, (groups, -1))
    y = torch.einsum("ngkl,gok->ngol", cols, w.flatten(1).unflatten(0, (groups, -1)))
    y = y.reshape(n, w.shape[0], rows, -1)
    return y if b is None else y + b[:, None, None]


@misconception(
    "corr",
    hint="The bias is added once for every input channel. It belongs to the output "
    "channel: add it once, after the sum over the input channels.",
)
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] % groups or w.shape[0] % groups:
        raise ValueError("groups must divide the channels")
    n, (outputs, _, h, k) = x.shape[0], w.shape
    rows = (x.shape[2] + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    columns = F.unfold(x, (h, k), dilation, padding, stride).unflatten(1, (groups, -1))
    y = torch.einsum("ngkl,gok->ngol", columns, w.flatten(1).unflatten(0, (groups, -1)))
    y = y.reshape(n, outputs, rows, -1)
    return y if b is None else y + w.shape[1] * b[:, None, None]


@misconception(
    "corr",
    hint="Each output channel should sum over its input channels, with a kernel of "
    "its own for each of them. Here the same kernel is used for all.",
)
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] % groups or w.shape[0] % groups:
        raise ValueError("groups must divide the channels")
    w = w[:, :1].expand_as(w)
    n, (outputs, _, h, k) = x.shape[0], w.shape
    rows = (x.shape[2] + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    columns = F.unfold(x, (h, k), dilation, padding, stride).unflatten(1, (groups, -1))
    y = torch.einsum("ngkl,gok->ngol", columns, w.flatten(1).unflatten(0, (groups, -1)))
    y = y.reshape(n, outputs, rows, -1)
    return y if b is None else y + b[:, None, None]


@misconception(
    "corr",
    hint="Groups are blocks of neighbouring channels: the first C / groups channels "
    "make the first O / groups outputs. Here every `groups`-th channel is taken.",
)
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] % groups or w.shape[0] % groups:
        raise ValueError("groups must divide the channels")
    x = x.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2)
    n, (outputs, _, h, k) = x.shape[0], w.shape
    rows = (x.shape[2] + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    columns = F.unfold(x, (h, k), dilation, padding, stride).unflatten(1, (groups, -1))
    y = torch.einsum("ngkl,gok->ngol", columns, w.flatten(1).unflatten(0, (groups, -1)))
    y = y.reshape(n, outputs, rows, -1)
    return y if b is None else y + b[:, None, None]


@misconception(
    "corr",
    hint="Channels that do not divide into the groups are cut off silently. Say so "
    "with a ValueError instead; a wrong answer is worse than none.",
)
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    c, o = x.shape[1] // groups, w.shape[0] // groups
    x, w = x[:, : c * groups], w[: o * groups, :c]
    n, (outputs, _, h, k) = x.shape[0], w.shape
    rows = (x.shape[2] + 2 * padding - dilation * (h - 1) - 1) // stride + 1
    columns = F.unfold(x, (h, k), dilation, padding, stride).unflatten(1, (groups, -1))
    y = torch.einsum("ngkl,gok->ngol", columns, w.flatten(1).unflatten(0, (groups, -1)))
    y = y.reshape(n, outputs, rows, -1)
    return y if b is None else y + b[:outputs, None, None]


# --- im2col ----------------------------------------------------------------------------------


@misconception(
    "im2col",
    hint="The patches are in the rows. The result should be (N, C * k * k, L), "
    "one patch in each column.",
)
def im2col(x, k, s=1, p=0, d=1):
    x = F.pad(x, [p, p, p, p])
    rows = (x.shape[2] - d * (k - 1) - 1) // s + 1
    cols = (x.shape[3] - d * (k - 1) - 1) // s + 1
    taps = []
    for a in range(k):
        for b in range(k):
            below = x[:, :, a * d :: s, b * d :: s]
            taps.append(below[:, :, :rows, :cols].flatten(2))
    return torch.stack(taps, 2).flatten(1, 2).transpose(1, 2)


@misconception(
    "im2col",
    hint="In a column, all taps of channel 0 come first, then those of channel 1. "
    "Here the taps vary slowest; check the order of the axes before the reshape.",
)
def im2col(x, k, s=1, p=0, d=1):
    x = F.pad(x, [p, p, p, p])
    rows = (x.shape[2] - d * (k - 1) - 1) // s + 1
    cols = (x.shape[3] - d * (k - 1) - 1) // s + 1
    taps = []
    for a in range(k):
        for b in range(k):
            below = x[:, :, a * d :: s, b * d :: s]
            taps.append(below[:, :, :rows, :cols].flatten(2))
    return torch.stack(taps, 1).flatten(1, 2)


@misconception(
    "im2col", hint="The stride is used along the rows only; it moves the window in both axes."
)
def im2col(x, k, s=1, p=0, d=1):
    x = F.pad(x, [p, p, p, p])
    rows = (x.shape[2] - d * (k - 1) - 1) // s + 1
    cols = x.shape[3] - d * (k - 1)
    taps = []
    for a in range(k):
        for b in range(k):
            below = x[:, :, a * d :: s, b * d :]
            taps.append(below[:, :, :rows, :cols].flatten(2))
    return torch.stack(taps, 2).flatten(1, 2)


@misconception(
    "im2col", hint="The padding is only at the top and left. It belongs on all four sides."
)
def im2col(x, k, s=1, p=0, d=1):
    x = F.pad(x, [p, 0, p, 0])
    rows = (x.shape[2] - d * (k - 1) - 1) // s + 1
    cols = (x.shape[3] - d * (k - 1) - 1) // s + 1
    taps = []
    for a in range(k):
        for b in range(k):
            below = x[:, :, a * d :: s, b * d :: s]
            taps.append(below[:, :, :rows, :cols].flatten(2))
    return torch.stack(taps, 2).flatten(1, 2)


@misconception(
    "im2col",
    hint="Inputs and outputs have changed places: M should have one row for each "
    "output and one column for each pixel.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    rows, cols = h - kh + 1, w - kw + 1
    m = torch.zeros(h, w, rows, cols, dtype=k.dtype, device=k.device)
    for i in range(rows):
        for j in range(cols):
            m[i : i + kh, j : j + kw, i, j] = k
    return m.reshape(h * w, rows * cols)


@misconception(
    "im2col",
    hint="The kernel runs over the right edge into the next row. A window has "
    "w - kw + 1 places in a row, not w.",
)
def conv_matrix(k, h, w):
    kh, kw = k.shape
    count = (h - kh + 1) * (w - kw + 1)
    m = torch.zeros(count, h * w, dtype=k.dtype, device=k.device)
    for row in range(count):
        for a in range(kh):
            for b in range(kw):
                m[row, (row + a * w + b) % (h * w)] = k[a, b]
    return m


# --- one -------------------------------------------------------------------------------------


@misconception(
    "one",
    hint="The linear layer shares its memory with the convolution: changing one "
    "changes the other. Copy the numbers.",
)
def conv1x1_to_linear(conv):
    lin = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    lin = lin.to(conv.weight)
    lin.weight.data = conv.weight.data[:, :, 0, 0]
    if conv.bias is not None:
        lin.bias.data = conv.bias.data
    return lin


@misconception(
    "one",
    hint="The linear layer always has a bias, and where the convolution has none "
    "it is a random one. Make a bias only if there is one.",
)
def conv1x1_to_linear(conv):
    lin = nn.Linear(conv.in_channels, conv.out_channels).to(conv.weight)
    with torch.no_grad():
        lin.weight.copy_(conv.weight[:, :, 0, 0])
        if conv.bias is not None:
            lin.bias.copy_(conv.bias)
    return lin


@misconception(
    "one",
    hint="The weight's axes have changed places. A linear layer's weight is (O, C), "
    "in the same order as the convolution's (O, C, 1, 1).",
)
def linear_to_conv1x1(lin):
    conv = nn.Conv2d(lin.in_features, lin.out_features, 1, bias=lin.bias is not None)
    conv = conv.to(lin.weight)
    with torch.no_grad():
        conv.weight.copy_(lin.weight.T.reshape(conv.weight.shape))
        if lin.bias is not None:
            conv.bias.copy_(lin.bias)
    return conv


@misconception(
    "one", hint="The bias is forgotten: the new layer starts with a random one of its own."
)
def linear_to_conv1x1(lin):
    conv = nn.Conv2d(lin.in_features, lin.out_features, 1, bias=lin.bias is not None)
    conv = conv.to(lin.weight)
    with torch.no_grad():
        conv.weight.copy_(lin.weight[:, :, None, None])
    return conv


@misconception(
    "one",
    hint="You compare f(shifted x) with f(x): that measures invariance. For "
    "equivariance the output has to move along.",
)
def shift_gap(f, x, dy, dx):
    return (f(x.roll((dy, dx), (2, 3))) - f(x)).abs().max().item()


@misconception(
    "one",
    hint="The output of a layer with stride 2 is half as large, so its shift is half "
    "as long. Scale dy and dx by the ratio of the sizes.",
)
def shift_gap(f, x, dy, dx):
    return (f(x.roll((dy, dx), (2, 3))) - f(x).roll((dy, dx), (2, 3))).abs().max().item()


# --- pool ------------------------------------------------------------------------------------


@misconception(
    "pool", hint="Without a stride the windows should not overlap: the default stride is k, not 1."
)
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    if 2 * padding > k:
        raise ValueError("the padding is more than half of the window")
    stride = 1 if stride is None else stride

    def count(n):
        room = n + 2 * padding - k
        places = (-(-room // stride) if ceil_mode else room // stride) + 1
        return places - ((places - 1) * stride >= n + padding)

    def windows(values, rim, beyond):
        values = F.pad(values, 4 * [padding], value=rim)
        values = F.pad(values, [0, k + stride, 0, k + stride], value=beyond)
        cells = values.unfold(2, k, stride).unfold(3, k, stride)
        return cells[:, :, : count(x.shape[2]), : count(x.shape[3])].flatten(4)

    if mode == "max":
        return windows(x, -torch.inf, -torch.inf).amax(-1)
    cells = windows(torch.ones_like(x), float(count_include_pad), 0.0)
    return windows(x, 0.0, 0.0).sum(-1) / cells.sum(-1)


@misconception(
    "pool",
    hint="A zero of the padding wins where all values of a window are negative. "
    "Which number never is the maximum?",
)
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    if 2 * padding > k:
        raise ValueError("the padding is more than half of the window")
    stride = k if stride is None else stride

    def count(n):
        room = n + 2 * padding - k
        places = (-(-room // stride) if ceil_mode else room // stride) + 1
        return places - ((places - 1) * stride >= n + padding)

    def windows(values, rim, beyond):
        values = F.pad(values, 4 * [padding], value=rim)
        values = F.pad(values, [0, k + stride, 0, k + stride], value=beyond)
        cells = values.unfold(2, k, stride).unfold(3, k, stride)
        return cells[:, :, : count(x.shape[2]), : count(x.shape[3])].flatten(4)

    if mode == "max":
        return windows(x, 0.0, -torch.inf).amax(-1)
    cells = windows(torch.ones_like(x), float(count_include_pad), 0.0)
    return windows(x, 0.0, 0.0).sum(-1) / cells.sum(-1)


@misconception(
    "pool",
    hint="`count_include_pad` makes no difference in your answer. If it is False, "
    "divide by the number of cells that lie inside the image.",
)
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    if 2 * padding > k:
        raise ValueError("the padding is more than half of the window")
    stride = k if stride is None else stride

    def count(n):
        room = n + 2 * padding - k
        places = (-(-room // stride) if ceil_mode else room // stride) + 1
        return places - ((places - 1) * stride >= n + padding)

    def windows(values, rim, beyond):
        values = F.pad(values, 4 * [padding], value=rim)
        values = F.pad(values, [0, k + stride, 0, k + stride], value=beyond)
        cells = values.unfold(2, k, stride).unfold(3, k, stride)
        return cells[:, :, : count(x.shape[2]), : count(x.shape[3])].flatten(4)

    if mode == "max":
        return windows(x, -torch.inf, -torch.inf).amax(-1)
    cells = windows(torch.ones_like(x), 1.0, 0.0)
    return windows(x, 0.0, 0.0).sum(-1) / cells.sum(-1)


@misconception(
    "pool",
    hint="With ceil_mode the mean of an incomplete window is divided by k * k. What "
    "hangs over the padded border does not count.",
)
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    if 2 * padding > k:
        raise ValueError("the padding is more than half of the window")
    stride = k if stride is None else stride

    def count(n):
        room = n + 2 * padding - k
        places = (-(-room // stride) if ceil_mode else room // stride) + 1
        return places - ((places - 1) * stride >= n + padding)

    def windows(values, rim, beyond):
        values = F.pad(values, 4 * [padding], value=rim)
        values = F.pad(values, [0, k + stride, 0, k + stride], value=beyond)
        cells = values.unfold(2, k, stride).unfold(3, k, stride)
        return cells[:, :, : count(x.shape[2]), : count(x.shape[3])].flatten(4)

    if mode == "max":
        return windows(x, -torch.inf, -torch.inf).amax(-1)
    if count_include_pad:
        return windows(x, 0.0, 0.0).sum(-1) / k**2
    return windows(x, 0.0, 0.0).sum(-1) / windows(torch.ones_like(x), 0.0, 0.0).sum(-1)


@misconception(
    "pool",
    hint="Too much padding passes silently. A window could then lie in the padding "
    "alone; raise a ValueError when the padding is more than half of k.",
)
def pool2d(x, k, stride=None, padding=0, mode="max", count_include_pad=True, ceil_mode=False):
    stride = k if stride is None else stride

    def count(n):
        room = n + 2 * padding - k
        places = (-(-room // stride) if ceil_mode else room // stride) + 1
        return places - ((places - 1) * stride >= n + padding)

    def windows(values, rim, beyond):
        values = F.pad(values, 4 * [padding], value=rim)
        values = F.pad(values, [0, k + stride, 0, k + stride], value=beyond)
        cells = values.unfold(2, k, stride).unfold(3, k, stride)
        return cells[:, :, : count(x.shape[2]), : count(x.shape[3])].flatten(4)

    if mode == "max":
        return windows(x, -torch.inf, -torch.inf).amax(-1)
    cells = windows(torch.ones_like(x), float(count_include_pad), 0.0)
    return windows(x, 0.0, 0.0).sum(-1) / cells.sum(-1)


@misconception(
    "pool",
    hint="Your windows have one length, n // out, so what remains at the end is "
    "dropped. Adaptive windows run from floor(i * n / o) to ceil((i + 1) * n / o).",
)
def adaptive_pool2d(x, out, mode="avg"):
    h, w = pair(out)  # noqa: F821  (of the set-up cell)
    kh, kw = max(x.shape[2] // h, 1), max(x.shape[3] // w, 1)
    cells = x.unfold(2, kh, kh).unfold(3, kw, kw)[:, :, :h, :w].flatten(4)
    return cells.mean(-1) if mode == "avg" else cells.amax(-1)


@misconception(
    "pool",
    hint="Your windows never overlap: the end of a window is rounded down as well. "
    "It should be rounded up.",
)
def adaptive_pool2d(x, out, mode="avg"):
    def cuts(n, o):
        return [(i * n // o, max((i + 1) * n // o, i * n // o + 1)) for i in range(o)]

    h, w = pair(out)  # noqa: F821
    rows = []
    for a, b in cuts(x.shape[2], h):
        cells = [x[:, :, a:b, c:d].flatten(2) for c, d in cuts(x.shape[3], w)]
        values = [c.mean(-1) if mode == "avg" else c.amax(-1) for c in cells]
        rows.append(torch.stack(values, -1))
    return torch.stack(rows, -2)


@misconception(
    "pool",
    hint="Where windows overlap, a pixel hears from several outputs. Its "
    "contributions should be added; here the last one overwrites the others.",
)
def pool_backward(dy, cache):
    x, k, stride, padding, mode = cache
    padded = F.pad(x, [padding] * 4, value=float("-inf"))
    dx = torch.zeros_like(padded)
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            rows = slice(i * stride, i * stride + k)
            cols = slice(j * stride, j * stride + k)
            g = dy[:, :, i, j, None, None]
            if mode == "max":
                first = padded[:, :, rows, cols].flatten(2).argmax(-1)
                g = g * F.one_hot(first, k * k).unflatten(-1, (k, k))
            else:
                g = g / k**2
            dx[:, :, rows, cols] = g
    return dx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


@misconception(
    "pool",
    hint="In a tie, every maximum of the window gets the whole gradient. Only the "
    "first one should.",
)
def pool_backward(dy, cache):
    x, k, stride, padding, mode = cache
    padded = F.pad(x, [padding] * 4, value=float("-inf"))
    dx = torch.zeros_like(padded)
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            rows = slice(i * stride, i * stride + k)
            cols = slice(j * stride, j * stride + k)
            window, g = padded[:, :, rows, cols], dy[:, :, i, j, None, None]
            top = window.amax((2, 3), keepdim=True)
            dx[:, :, rows, cols] += g * (window == top) if mode == "max" else g / k**2
    return dx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


@misconception(
    "pool",
    hint="For the mean, each cell of a window has the weight 1 / k², so it gets that "
    "share of the gradient, not all of it.",
)
def pool_backward(dy, cache):
    x, k, stride, padding, mode = cache
    padded = F.pad(x, [padding] * 4, value=float("-inf"))
    dx = torch.zeros_like(padded)
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            rows = slice(i * stride, i * stride + k)
            cols = slice(j * stride, j * stride + k)
            g = dy[:, :, i, j, None, None]
            if mode == "max":
                first = padded[:, :, rows, cols].flatten(2).argmax(-1)
                g = g * F.one_hot(first, k * k).unflatten(-1, (k, k))
            dx[:, :, rows, cols] += g
    return dx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


# --- unpool ----------------------------------------------------------------------------------


@misconception(
    "unpool",
    hint="Your indices are places within the window, from 0 to k * k - 1. Count "
    "in the whole plane: row * W + column.",
)
def maxpool_with_indices(x, k):
    rows, cols = x.shape[2] // k, x.shape[3] // k
    cells = x[:, :, : rows * k, : cols * k].unflatten(3, (cols, k)).unflatten(2, (rows, k))
    values, at = cells.transpose(3, 4).flatten(4).max(-1)
    return values, at


@misconception(
    "unpool",
    hint="The index counts with the width of the *pooled* part. A row of the plane "
    "has W columns, also when the last of them fill no window.",
)
def maxpool_with_indices(x, k):
    rows, cols = x.shape[2] // k, x.shape[3] // k
    cells = x[:, :, : rows * k, : cols * k].unflatten(3, (cols, k)).unflatten(2, (rows, k))
    values, at = cells.transpose(3, 4).flatten(4).max(-1)
    row = torch.arange(rows, device=x.device)[:, None] * k + at // k
    col = torch.arange(cols, device=x.device) * k + at % k
    return values, row * cols * k + col


@misconception(
    "unpool",
    hint="The index is column * H + row. Planes are stored row by row, so it is row * W + column.",
)
def maxpool_with_indices(x, k):
    rows, cols = x.shape[2] // k, x.shape[3] // k
    cells = x[:, :, : rows * k, : cols * k].unflatten(3, (cols, k)).unflatten(2, (rows, k))
    values, at = cells.transpose(3, 4).flatten(4).max(-1)
    row = torch.arange(rows, device=x.device)[:, None] * k + at // k
    col = torch.arange(cols, device=x.device) * k + at % k
    return values, col * x.shape[2] + row


@misconception(
    "unpool",
    hint="Values with the same index are added. Unpooling writes them: the "
    "maximum of two windows is still one pixel.",
)
def unpool(y, idx, size):
    out = torch.zeros(*y.shape[:2], size[0] * size[1], dtype=y.dtype, device=y.device)
    return out.scatter_add(2, idx.flatten(2), y.flatten(2)).unflatten(2, tuple(size))


@misconception(
    "unpool",
    hint="Every cell of the window gets the value: that is nearest-neighbour "
    "upsampling. Use the indices, and leave zeros elsewhere.",
)
def unpool(y, idx, size):
    return F.interpolate(y, size=tuple(size), mode="nearest")


@misconception(
    "unpool",
    hint="All images and channels write into the first plane. The indices count "
    "in each plane anew.",
)
def unpool(y, idx, size):
    out = torch.zeros(y.shape[0] * y.shape[1] * size[0] * size[1], dtype=y.dtype, device=y.device)
    out = out.scatter(0, idx.flatten(), y.flatten())
    return out.view(*y.shape[:2], *size)
