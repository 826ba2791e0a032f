"""Other right answers: the hidden tests must pass them."""

import numpy as np
import torch

from course.testing import alternative

# --- linspace and logspace -------------------------------------------------------------------


@alternative("logspace")
def my_linspace(a, b, steps):
    """Steps from the left end, computed in float64."""
    gap = (b - a) / max(steps - 1, 1)
    return (a + gap * torch.arange(steps, dtype=torch.float64)).float()


@alternative("logspace")
def my_logspace(a, b, steps, base=10.0):
    """By exp and log, on its own."""
    t = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    return torch.exp(
        torch.lerp(torch.tensor(float(a)).double(), torch.tensor(float(b)).double(), t)
        * torch.tensor(base, dtype=torch.float64).log()
    ).float()


# --- four modes of a normal sampler ----------------------------------------------------------


@alternative("normal4")
def sample_normal(mean, std, size=None, *, generator=None):
    """Find the common shape by adding two zeros of the right shapes."""
    if isinstance(mean, torch.Tensor) or isinstance(std, torch.Tensor):
        blank = mean * 0 + std * 0
    elif size is None:
        raise ValueError("give a size, or a tensor")
    else:
        blank = torch.zeros(size)
    if torch.any(blank + std < 0):
        raise RuntimeError("std is negative")
    like = dict(dtype=blank.dtype, device=blank.device)
    z = torch.randn(blank.shape, generator=generator, **like)
    return torch.addcmul(blank + mean, blank + std, z)


@alternative("normal4")
def sample_normal(mean, std, size=None, *, generator=None):
    """Box and Muller's transformation of uniform numbers."""
    tensors = [v for v in (mean, std) if isinstance(v, torch.Tensor)]
    if tensors:
        size = (sum(tensors) if len(tensors) == 2 else tensors[0]).shape
    elif size is None:
        raise TypeError("size")
    if torch.as_tensor(std).lt(0).any():
        raise ValueError("std < 0")
    like = dict(dtype=tensors[0].dtype, device=tensors[0].device) if tensors else {}
    u1 = torch.rand(size, generator=generator, **like)
    u2 = torch.rand(size, generator=generator, **like)
    z = (-2 * torch.log1p(-u1)).sqrt() * torch.cos(2 * torch.pi * u2)
    return mean + std * z


# --- who owns the memory ---------------------------------------------------------------------


@alternative("sharing")
def shares_memory(x, y):
    """Compare storages."""

    def storage(t):
        return torch.as_tensor(t).untyped_storage().data_ptr()

    return storage(x) == storage(y)


@alternative("sharing")
def shares_memory(x, y):
    """NumPy's exact answer."""
    return np.shares_memory(
        *(t.detach().numpy() if isinstance(t, torch.Tensor) else t for t in (x, y))
    )


@alternative("sharing")
def flat_view(x):
    """Let reshape decide, and look at the storages afterwards."""
    flat = x.reshape(-1)
    return flat, flat.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@alternative("sharing")
def flat_view(x):
    """By the condition on the strides."""
    axes = [(n, s) for n, s in zip(x.shape, x.stride()) if n != 1]
    for (_, outer), (n, inner) in zip(axes, axes[1:]):
        if outer != n * inner:
            return x.clone(memory_format=torch.contiguous_format).view(-1), False
    return x.view(-1), True


# --- chunk and split -------------------------------------------------------------------------


@alternative("chunk")
def my_chunk(x, n, dim=0):
    """Indexing with slices, and a while loop."""
    dim = dim % x.dim()
    size = (x.shape[dim] + n - 1) // n
    pieces, start = [], 0
    while start < x.shape[dim]:
        index = [slice(None)] * x.dim()
        index[dim] = slice(start, start + size)
        pieces.append(x[tuple(index)])
        start += size
    return pieces


@alternative("chunk")
def my_split(x, size_or_sizes, dim=0):
    """Move the axis to the front, cut, and move it back."""
    front = x.movedim(dim, 0)
    sizes = size_or_sizes
    if isinstance(sizes, int):
        whole, rest = divmod(len(front), sizes)
        sizes = [sizes] * whole + [rest] * (rest > 0)
    if sum(sizes) != len(front):
        raise ValueError("the sizes do not add up")
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return tuple(front[e - s : e].movedim(0, dim) for s, e in zip(sizes, ends))


# --- pixel centres ---------------------------------------------------------------------------


@alternative("grid")
def pixel_centres(h: int, w: int, stride: float = 1.0) -> torch.Tensor:
    """meshgrid."""
    if min(h, w) < 1:
        raise ValueError("h and w start at 1")
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1) * stride


@alternative("grid")
def pixel_centres(h: int, w: int, stride: float = 1.0) -> torch.Tensor:
    """Division with remainder of the running number."""
    if h < 1 or w < 1:
        raise ValueError("h and w start at 1")
    n = torch.arange(h * w)
    return torch.stack([n % w, n // w], dim=1).add(0.5).mul(stride)


# --- topk ------------------------------------------------------------------------------------


@alternative("topk")
def my_topk(x, k, dim=-1, largest=True):
    """argsort and gather."""
    n = x.size(dim)
    if k < 0 or k > n:
        raise RuntimeError("k out of range")
    order = x.argsort(dim=dim, descending=largest)
    indices = order.index_select(dim, torch.arange(k, device=x.device))
    return torch.gather(x, dim, indices), indices


@alternative("topk")
def my_topk(x, k, dim=-1, largest=True):
    """Take the best, k times, out of the axis moved to the end."""
    if not 0 <= k <= x.shape[dim]:
        raise ValueError("k")
    rows = x.movedim(dim, -1)
    taken = torch.zeros_like(rows, dtype=torch.bool)
    found = []
    for _ in range(k):
        worst = rows.detach().double()
        worst = worst.masked_fill(taken, -float("inf") if largest else float("inf"))
        best = worst.argmax(-1, keepdim=True) if largest else worst.argmin(-1, keepdim=True)
        taken = taken.scatter(-1, best, True)
        found.append(best)
    empty = torch.zeros(*rows.shape[:-1], 0, dtype=torch.int64, device=x.device)
    indices = torch.cat([empty, *found], dim=-1)
    return rows.gather(-1, indices).movedim(-1, dim), indices.movedim(-1, dim)


# --- Adam ------------------------------------------------------------------------------------


@alternative("adamstep")
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    """lerp_, slices with [...], and augmented assignment."""
    m.lerp_(g, 1 - b1)
    v[...] = b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    p -= lr * m_hat / (v_hat**0.5 + eps)


@alternative("adamstep")
def adam_inplace(p, g, m, v, lr, b1, b2, eps, t):
    """copy_ of results computed out of place."""
    m.copy_(b1 * m + (1 - b1) * g)
    v.copy_(b2 * v + (1 - b2) * g * g)
    step = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
    p.copy_(p - step * m / (v.sqrt() + eps * (1 - b2**t) ** 0.5))
