"""Wrong answers that students give, each with the hint that it deserves."""

import numpy as np
import torch

from course.testing import misconception

# --- linspace and logspace -------------------------------------------------------------------


@misconception(
    "logspace",
    hint="You divide by the number of points. Draw five points and count the gaps between "
    "them: it is gaps that b - a is shared out to.",
)
def my_linspace(a, b, steps):
    return a + (b - a) * torch.arange(steps) / steps


@misconception(
    "logspace",
    hint="arange with a fractional step leaves the end out, and sometimes, after rounding, it "
    "does not. Count with whole numbers and scale afterwards.",
)
def my_linspace(a, b, steps):
    if steps == 1:
        return torch.tensor([float(a)])
    return torch.arange(a, b, (b - a) / (steps - 1))


@misconception(
    "logspace",
    hint="With one point there are no gaps, and 0/0 is NaN. What should a row of one point hold?",
)
def my_linspace(a, b, steps):
    return a + (b - a) * torch.arange(steps) / (steps - 1)


@misconception(
    "logspace",
    hint="Sorting the ends makes every row rise. When a is larger than b, the row should count down.",
)
def my_linspace(a, b, steps):
    low, high = min(a, b), max(a, b)
    if steps == 1:
        return torch.tensor([float(a)])
    t = torch.arange(steps) / (steps - 1)
    return low * (1 - t) + high * t


@misconception(
    "logspace",
    hint="steps has a default here. In today's PyTorch it is required, and leaving it out is "
    "a TypeError.",
)
def my_linspace(a, b, steps=100):
    if steps == 1:
        return torch.tensor([float(a)])
    t = torch.arange(steps) / (steps - 1)
    return a * (1 - t) + b * t


@misconception(
    "logspace",
    hint="a and b of logspace are exponents already: the row starts at base**a. Your function "
    "takes them for the first and the last value.",
)
def my_logspace(a, b, steps, base=10.0):
    if steps == 1:
        return torch.tensor([float(a)])
    t = torch.arange(steps) / (steps - 1)
    return a * (b / a) ** t


@misconception(
    "logspace",
    hint="exp raises e, the base of the natural logarithm. Which base does the caller ask for?",
)
def my_logspace(a, b, steps, base=10.0):
    t = torch.arange(steps) / max(steps - 1, 1)
    return torch.exp(a + (b - a) * t)


# --- four modes of a normal sampler ----------------------------------------------------------


@misconception(
    "normal4",
    hint="You scale by the root of std, as if it were a variance. If z has spread 1, which "
    "spread has c·z?",
)
def sample_normal(mean, std, size=None, *, generator=None):
    mean_t, std_t = torch.as_tensor(mean), torch.as_tensor(std)
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if (std_t < 0).any():
        raise ValueError("negative std")
    if size is None:
        size = torch.broadcast_shapes(mean_t.shape, std_t.shape)
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    return mean + std**0.5 * torch.randn(size, generator=generator, dtype=dtype)


@misconception(
    "normal4",
    hint="The generator is taken and never used: the draw comes from the global one. Which "
    "argument of randn is for it?",
)
def sample_normal(mean, std, size=None, *, generator=None):
    mean_t, std_t = torch.as_tensor(mean), torch.as_tensor(std)
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if (std_t < 0).any():
        raise ValueError("negative std")
    if size is None:
        size = torch.broadcast_shapes(mean_t.shape, std_t.shape)
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    return mean + std * torch.randn(size, dtype=dtype)


@misconception(
    "normal4",
    hint="z takes the shape of mean alone. When std is the larger one, several entries share one "
    "draw, or the shape of a number is all there is. Which shape do the two have together?",
)
def sample_normal(mean, std, size=None, *, generator=None):
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if (torch.as_tensor(std) < 0).any():
        raise ValueError("negative std")
    if size is None:
        size = mean.shape if isinstance(mean, torch.Tensor) else ()
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    return mean + std * torch.randn(size, generator=generator, dtype=dtype)


@misconception(
    "normal4",
    hint="One number is drawn and then repeated. Every entry needs a draw of its own, so z must "
    "have the full shape.",
)
def sample_normal(mean, std, size=None, *, generator=None):
    mean_t, std_t = torch.as_tensor(mean), torch.as_tensor(std)
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if (std_t < 0).any():
        raise ValueError("negative std")
    if size is None:
        size = torch.broadcast_shapes(mean_t.shape, std_t.shape)
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    z = torch.randn(1, generator=generator, dtype=dtype)
    return (mean + std * z).expand(size)


@misconception(
    "normal4",
    hint="A negative standard deviation slips through. With a symmetric z nobody would ever "
    "notice, which is why it should be an error.",
)
def sample_normal(mean, std, size=None, *, generator=None):
    mean_t, std_t = torch.as_tensor(mean), torch.as_tensor(std)
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if size is None:
        size = torch.broadcast_shapes(mean_t.shape, std_t.shape)
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    return mean + std * torch.randn(size, generator=generator, dtype=dtype)


@misconception(
    "normal4",
    hint="rand draws from the uniform distribution on [0, 1). Its mean is 1/2, and its spread "
    "is not 1. Which function draws standard normal numbers?",
)
def sample_normal(mean, std, size=None, *, generator=None):
    mean_t, std_t = torch.as_tensor(mean), torch.as_tensor(std)
    if size is None and not (isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor)):
        raise TypeError("size is needed")
    if (std_t < 0).any():
        raise ValueError("negative std")
    if size is None:
        size = torch.broadcast_shapes(mean_t.shape, std_t.shape)
    dtype = (
        mean.dtype
        if isinstance(mean, torch.Tensor)
        else std.dtype
        if isinstance(std, torch.Tensor)
        else None
    )
    return mean + std * torch.rand(size, generator=generator, dtype=dtype)


# --- who owns the memory ---------------------------------------------------------------------


@misconception(
    "sharing",
    hint="You compare the addresses of the first elements. x and x[1:] begin at different places "
    "and share nearly everything. What else could be compared: the storage, or the whole range?",
)
def shares_memory(x, y):
    return torch.as_tensor(x).data_ptr() == torch.as_tensor(y).data_ptr()


@misconception(
    "sharing",
    hint="You compare values. A clone has equal values in memory of its own, and a transpose shares "
    "memory though its values are elsewhere.",
)
def shares_memory(x, y):
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    return x.shape == y.shape and bool((x == y).all())


@misconception(
    "sharing",
    hint="`is` asks whether two names mean one Python object. A view is a new object over old "
    "memory.",
)
def shares_memory(x, y):
    return x is y


@misconception(
    "sharing",
    hint="torch.tensor copies an array, so its copy shares memory with nobody. Which function makes a "
    "tensor of an array without a copy?",
)
def shares_memory(x, y):
    x = torch.tensor(x) if isinstance(x, np.ndarray) else x
    y = torch.tensor(y) if isinstance(y, np.ndarray) else y
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


@misconception(
    "sharing",
    hint="The flag is right only by luck: is_contiguous is not the condition for a view. Take every "
    "second column of a 4 x 6 tensor: it has gaps, and can be flattened without a copy.",
)
def flat_view(x):
    return x.reshape(-1), x.is_contiguous()


@misconception(
    "sharing",
    hint="reshape does not promise a view: where the strides do not allow one, it copies, and your flag "
    "still says True.",
)
def flat_view(x):
    return x.reshape(-1), True


@misconception(
    "sharing",
    hint="Every answer is a copy. That is honest and wasteful: the exercise asks for a view wherever one "
    "exists.",
)
def flat_view(x):
    return x.clone().reshape(-1), False


@misconception(
    "sharing",
    hint="You read the storage from front to back. For a transposed or sliced x this is another order, or "
    "holds elements that are not in x.",
)
def flat_view(x):
    return torch.as_strided(x, (x.numel(),), (1,)), True


@misconception(
    "sharing",
    hint="detach cuts the result off from the gradient. The memory is right; the connection to x "
    "is lost.",
)
def flat_view(x):
    x = x.detach()
    try:
        return x.view(-1), True
    except RuntimeError:
        return x.reshape(-1), False


# --- chunk and split -------------------------------------------------------------------------


@misconception(
    "chunk",
    hint="The size is rounded down, so something is left over and makes an extra piece. Which way does "
    "torch.chunk round?",
)
def my_chunk(x, n, dim=0):
    size = max(x.shape[dim] // n, 1)
    return tuple(
        x.narrow(dim, i, min(size, x.shape[dim] - i)) for i in range(0, x.shape[dim], size)
    )


@misconception(
    "chunk",
    hint="You share the remainder out, so that sizes differ by at most one. That is tensor_split; chunk gives "
    "every piece but the last the same size.",
)
def my_chunk(x, n, dim=0):
    size, extra = divmod(x.shape[dim], n)
    pieces, start = [], 0
    for i in range(min(n, x.shape[dim])):
        length = size + (i < extra)
        pieces.append(x.narrow(dim, start, length))
        start += length
    return tuple(pieces)


@misconception("chunk", hint="The first axis is cut, whatever dim says.")
def my_chunk(x, n, dim=0):
    size = -(-len(x) // n)
    return tuple(x[i : i + size] for i in range(0, len(x), size))


@misconception(
    "chunk",
    hint="A negative dim is not understood: [slice(None)] * -1 is an empty list, so the first axis is cut. "
    "Turn dim into dim + x.dim() first, or use narrow.",
)
def my_chunk(x, n, dim=0):
    size = -(-x.shape[dim] // n)
    before = [slice(None)] * dim
    return tuple(x[(*before, slice(i, i + size))] for i in range(0, x.shape[dim], size))


@misconception(
    "chunk",
    hint="Exactly n pieces come back, some of them empty. torch.chunk stops when nothing is left, with fewer "
    "pieces than asked for.",
)
def my_chunk(x, n, dim=0):
    length = x.shape[dim]
    size = -(-length // n)
    starts = [min(i * size, length) for i in range(n)]
    return tuple(x.narrow(dim, i, min(size, length - i)) for i in starts)


@misconception(
    "chunk",
    hint="The pieces are copies. A slice is a view already; what is written to a piece should appear in x.",
)
def my_chunk(x, n, dim=0):
    size = -(-x.shape[dim] // n)
    return tuple(
        x.narrow(dim, i, min(size, x.shape[dim] - i)).clone() for i in range(0, x.shape[dim], size)
    )


@misconception(
    "chunk",
    hint="An int is the size of a piece, not the number of pieces: that is what chunk is for.",
)
def my_split(x, size_or_sizes, dim=0):
    length = x.shape[dim]
    if isinstance(size_or_sizes, int):
        size = -(-length // size_or_sizes)
        sizes = [min(size, length - i) for i in range(0, length, size)]
    else:
        sizes = size_or_sizes
    if sum(sizes) != length:
        raise ValueError("sizes do not add up")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(x.narrow(dim, i, n) for i, n in zip(starts, sizes))


@misconception(
    "chunk",
    hint="A list that does not add up passes without a word, because slices stop at the end by "
    "themselves. Compare the sum with the length first.",
)
def my_split(x, size_or_sizes, dim=0):
    length = x.shape[dim]
    if isinstance(size_or_sizes, int):
        size_or_sizes = [size_or_sizes] * -(-length // size_or_sizes)
    pieces, start = [], 0
    for size in size_or_sizes:
        pieces.append(x.movedim(dim, 0)[start : start + size].movedim(0, dim))
        start += size
    return tuple(pieces)


@misconception(
    "chunk",
    hint="Each piece begins where its own size says. It should begin where the piece before it ended: keep a "
    "running sum.",
)
def my_split(x, size_or_sizes, dim=0):
    length = x.shape[dim]
    if isinstance(size_or_sizes, int):
        sizes = [min(size_or_sizes, length - i) for i in range(0, length, size_or_sizes)]
    else:
        sizes = list(size_or_sizes)
    if sum(sizes) != length:
        raise ValueError("sizes do not add up")
    return tuple(x.narrow(dim, min(i * size, length - size), size) for i, size in enumerate(sizes))


@misconception("chunk", hint="The last piece is dropped when it is shorter than the others.")
def my_split(x, size_or_sizes, dim=0):
    length = x.shape[dim]
    if isinstance(size_or_sizes, int):
        sizes = [size_or_sizes] * (length // size_or_sizes)
    else:
        sizes = list(size_or_sizes)
        if sum(sizes) != length:
            raise ValueError("sizes do not add up")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(x.narrow(dim, i, n) for i, n in zip(starts, sizes))


# --- pixel centres ---------------------------------------------------------------------------


@misconception(
    "grid",
    hint="The columns are (y, x). Images are indexed by row, then column, but a point is (x, y): the column "
    "index comes first.",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x = ((torch.arange(w) + 0.5) * stride).expand(h, w)
    y = ((torch.arange(h) + 0.5) * stride)[:, None].expand(h, w)
    return torch.stack([y, x], dim=-1).reshape(-1, 2)


@misconception(
    "grid",
    hint="These are the upper left corners. The centre of a cell lies half a cell further, in both "
    "directions.",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x = (torch.arange(w) * stride).float().expand(h, w)
    y = (torch.arange(h) * stride).float()[:, None].expand(h, w)
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@misconception(
    "grid",
    hint="Half a pixel is added after the scaling. It is half a cell that leads to the centre, and a cell is "
    "stride pixels wide.",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x = (torch.arange(w) * stride + 0.5).expand(h, w)
    y = (torch.arange(h) * stride + 0.5)[:, None].expand(h, w)
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@misconception(
    "grid",
    hint="The cells come column by column. Row i*w + j should be the cell in row i, column j: x changes "
    "faster.",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x = ((torch.arange(w) + 0.5) * stride)[:, None].expand(w, h)
    y = ((torch.arange(h) + 0.5) * stride).expand(w, h)
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@misconception(
    "grid",
    hint="The stack makes a new axis in front, shape (2, h, w). Reshaping that to (-1, 2) mixes x with x. The "
    "new axis belongs last.",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x = ((torch.arange(w) + 0.5) * stride).expand(h, w)
    y = ((torch.arange(h) + 0.5) * stride)[:, None].expand(h, w)
    return torch.stack([x, y]).reshape(-1, 2)


@misconception(
    "grid",
    hint="It works for square grids only: one arange serves both axes. How many columns does a grid of h x w "
    "have?",
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    c = (torch.arange(h) + 0.5) * stride
    return torch.stack([c.expand(h, h), c[:, None].expand(h, h)], dim=-1).reshape(-1, 2)


@misconception(
    "grid",
    hint="A grid without cells passes silently. h and w below 1 should be a ValueError, with a message that "
    "says so.",
)
def pixel_centres(h, w, stride=1.0):
    x = ((torch.arange(max(w, 0)) + 0.5) * stride).expand(max(h, 0), max(w, 0))
    y = ((torch.arange(max(h, 0)) + 0.5) * stride)[:, None].expand(max(h, 0), max(w, 0))
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@misconception(
    "grid", hint="The result is float64: NumPy's default came along. Say which dtype you want."
)
def pixel_centres(h, w, stride=1.0):
    if h < 1 or w < 1:
        raise ValueError("empty grid")
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    return torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2) * stride)


# --- topk ------------------------------------------------------------------------------------


@misconception(
    "topk",
    hint="sort rises by default, so the first k are the smallest. For the largest, sort the other way.",
)
def my_topk(x, k, dim=-1, largest=True):
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("bad k")
    values, indices = torch.sort(x, dim=dim)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


@misconception(
    "topk",
    hint="You take the last k of a rising order: the right values, with the best one last. The best should "
    "come first.",
)
def my_topk(x, k, dim=-1, largest=True):
    n = x.shape[dim]
    if not 0 <= k <= n:
        raise ValueError("bad k")
    values, indices = torch.sort(x, dim=dim)
    start = n - k if largest else 0
    return values.narrow(dim, start, k), indices.narrow(dim, start, k)


@misconception("topk", hint="dim is ignored: you always search the last axis.")
def my_topk(x, k, dim=-1, largest=True):
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("bad k")
    values, indices = torch.sort(x, descending=largest)
    return values[..., :k], indices[..., :k]


@misconception(
    "topk",
    hint="You sort along dim but cut along the first axis. Slicing with [:k] is axis 0; narrow takes the "
    "axis as an argument.",
)
def my_topk(x, k, dim=-1, largest=True):
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("bad k")
    values, indices = torch.sort(x, dim=dim, descending=largest)
    return values[:k], indices[:k]


@misconception(
    "topk",
    hint="These are ranks: how many values are better than each. Wanted are positions in x, so that gather "
    "finds the values again.",
)
def my_topk(x, k, dim=-1, largest=True):
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("bad k")
    values, indices = torch.sort(x, dim=dim, descending=largest)
    ranks = indices.argsort(dim=dim)
    return values.narrow(dim, 0, k), ranks.narrow(dim, 0, k)


@misconception(
    "topk",
    hint="A k that is too large passes silently, for a slice stops at the end by itself. Compare k with the "
    "length of the axis first.",
)
def my_topk(x, k, dim=-1, largest=True):
    values, indices = torch.sort(x, dim=dim, descending=largest)
    keep = torch.arange(x.shape[dim], device=x.device)[: max(k, 0)]
    return values.index_select(dim, keep), indices.index_select(dim, keep)


@misconception(
    "topk",
    hint="Each value is looked up by equality, and argmax finds the first match. Where two values tie, one "
    "position comes twice and the other never.",
)
def my_topk(x, k, dim=-1, largest=True):
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("bad k")
    values = torch.sort(x, dim=dim, descending=largest).values.narrow(dim, 0, k)
    a, b = x.movedim(dim, -1), values.movedim(dim, -1)
    indices = (a[..., None, :] == b[..., :, None]).int().argmax(-1)
    return values, indices.movedim(-1, dim)


# --- Adam ------------------------------------------------------------------------------------


@misconception(
    "adamstep",
    hint="The bias corrections are missing: both means begin at zero and are too small at first. Divide by "
    "1 - b**t.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p.addcdiv_(m, v.sqrt().add_(eps), value=-lr)


@misconception(
    "adamstep",
    hint="`m = …` gives the name m to a new tensor; the caller's m stays at zero, and the means never build "
    "up. Use methods that end in an underscore.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    p.addcdiv_(m / (1 - b1**t), (v / (1 - b2**t)).sqrt() + eps, value=-lr)


@misconception(
    "adamstep",
    hint="p is computed anew and returned, and the caller's p does not move. The step must be written "
    "into p.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p = p - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
    return p


@misconception(
    "adamstep",
    hint="epsilon stands under the root. In Adam it is added to the root: for eps = 0.1 that is a "
    "difference you can see.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p.addcdiv_(m, (v / (1 - b2**t) + eps).sqrt(), value=-lr / (1 - b1**t))


@misconception(
    "adamstep",
    hint="The stored means are divided by the correction, so they are corrected again at every step. The "
    "correction is for the step only; m and v keep the plain means.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1).div_(1 - b1**t)
    v.mul_(b2).addcmul_(g, g, value=1 - b2).div_(1 - b2**t)
    p.addcdiv_(m, v.sqrt().add_(eps), value=-lr)


@misconception(
    "adamstep",
    hint="The weights are swapped: the old mean should keep the share b1 and the new gradient "
    "get 1 - b1.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(1 - b1).add_(g, alpha=b1)
    v.mul_(1 - b2).addcmul_(g, g, value=b2)
    p.addcdiv_(m / (1 - b1**t), (v / (1 - b2**t)).sqrt_().add_(eps), value=-lr)


@misconception(
    "adamstep",
    hint="The step goes uphill. Which sign must `value` have for a step against the gradient?",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    p.addcdiv_(m, (v / (1 - b2**t)).sqrt_().add_(eps), value=lr / (1 - b1**t))


@misconception(
    "adamstep",
    hint="To save a temporary you square g, or scale it, in place. But g is the caller's gradient, and "
    "may be needed again.",
)
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).add_(g.square_(), alpha=1 - b2)
    p.addcdiv_(m, (v / (1 - b2**t)).sqrt_().add_(eps), value=-lr / (1 - b1**t))


# --- debug this ------------------------------------------------------------------------------
# `debug` has no hidden tests, so it has no misconceptions here: its public check names the mistake.
