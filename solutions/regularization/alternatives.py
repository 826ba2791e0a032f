"""Other right answers in the chapter on regularisation."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("biasvar")
def decompose(fit, x0, f, sigma, n_sets, rng):
    # One set at a time, with running sums instead of a stack.
    total = torch.zeros_like(x0)
    squares = torch.zeros_like(x0)
    error = 0.0
    clean = f(x0)
    for _ in range(n_sets):
        noise = torch.randn(2, len(x0), generator=rng, dtype=x0.dtype)
        g = fit(x0, clean + sigma * noise[0]) - clean
        total, squares = total + g, squares + g**2
        error += float(((sigma * noise[1] - g) ** 2).mean())
    mean = total / n_sets
    bias2 = float((mean**2).mean())
    var = max(float((squares / n_sets).mean()) - bias2, 0.0)
    return bias2, var, float(sigma) ** 2, error / n_sets


@alternative("ridge-lasso")
def soft_threshold(v, t):
    if t < 0:
        raise ValueError("t is negative")
    return F.relu(v - t) - F.relu(-v - t)


@alternative("ridge-lasso")
def ridge(X, y, lam):
    # The dual form: a system of n equations instead of d.
    n = len(y)
    K = X @ X.T + n * lam * torch.eye(n, dtype=X.dtype, device=X.device)
    return X.T @ torch.linalg.solve(K, y)


@alternative("ridge-lasso")
def ridge(X, y, lam):
    # Least squares on the data with d more rows.
    n, d = X.shape
    rows = math.sqrt(n * lam) * torch.eye(d, dtype=X.dtype, device=X.device)
    return torch.linalg.lstsq(torch.cat([X, rows]), torch.cat([y, y.new_zeros(d)])).solution


@alternative("ridge-lasso")
def lasso_ista(X, y, lam, steps):
    # Gram matrix and singular values; the threshold as a clamp that is taken away.
    n = len(y)
    G, c = X.T @ X / n, X.T @ y / n
    step = n / torch.linalg.svdvals(X)[0] ** 2
    w = torch.zeros_like(c)
    for _ in range(steps):
        v = w + step * (c - G @ w)
        w = torch.where(v.abs() > step * lam, v - step * lam * v.sign(), torch.zeros_like(v))
    return w


@alternative("decay")
def decay_groups(model, wd):
    params = list(model.parameters())
    return [
        {"params": [p for p in params if len(p.shape) > 1], "weight_decay": wd},
        {"params": [p for p in params if len(p.shape) <= 1], "weight_decay": 0.0},
    ]


@alternative("decay")
def sgd_decay_step(params, grads, lr, wd):
    if len(list(params)) != len(list(grads)):
        raise ValueError("different lengths")
    for p, g in zip(params, grads, strict=True):
        if g is None:
            continue
        p.data.copy_(p.data - lr * (g + wd * p.data))


@alternative("dropout")
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not torch.is_floating_point(x):
            raise TypeError("floats only")
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        mask = torch.bernoulli(torch.full_like(x, 1 - self.p))
        return x * mask.div_(1 - self.p)


@alternative("dropout")
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        assert_probability = 0.0 <= p <= 1.0
        if not assert_probability:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise TypeError("floats only")
        if self.training:
            gone = torch.rand(x.shape, device=x.device) >= 1 - self.p
            x = torch.where(gone, torch.zeros_like(x), x / max(1 - self.p, 1e-12))
        return x.clone()


@alternative("dropout")
def classic_dropout(x, p, training):
    return x * torch.bernoulli(torch.full_like(x, 1 - p)) if training else (1 - p) * x


@alternative("spatial")
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.keep, self.shared = 1 - p, shared_dims

    def forward(self, x):
        if not self.training:
            return x.clone()
        if self.keep == 0:
            return torch.zeros_like(x)
        shared = {dim % x.dim() for dim in self.shared}
        shape = [1 if k in shared else n for k, n in enumerate(x.shape)]
        noise = x.new_empty(shape).bernoulli_(self.keep).div_(self.keep)
        return x * noise.expand_as(x)


@alternative("spatial")
class DropConnectLinear(nn.Module):
    def __init__(self, in_features, out_features, p):
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.p = p

    def forward(self, x):
        W = self.weight
        if self.training and self.p > 0:
            keep = torch.full((len(x), *W.shape), 1 - self.p, device=x.device, dtype=x.dtype)
            W = W * torch.bernoulli(keep) / max(1 - self.p, 1e-12)
            return (W @ x[:, :, None])[:, :, 0] + self.bias
        return x @ W.T + self.bias


@alternative("depth")
def survival(l, L, pL):  # noqa: E741
    if l < 0 or l > L:
        raise ValueError("no such block")
    return ((L - l) + l * pL) / L


@alternative("depth")
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in {"row", "batch"}:
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        if self.mode == "batch":
            return x / (1 - self.p) if torch.rand(()).item() >= self.p else x * 0
        keep = torch.rand(x.shape[0], device=x.device) >= self.p
        return x * (keep / (1 - self.p)).view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


@alternative("dropblock")
def dropblock_gamma(keep, block, feat):
    h, w = (feat, feat) if isinstance(feat, int) else feat
    places = max(h - block + 1, 0) * max(w - block + 1, 0)
    if places == 0:
        raise ValueError("too large")
    return (1 - keep) * (h * w) / (block * block * places)


@alternative("dropblock")
class DropBlock(nn.Module):
    def __init__(self, keep, block):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x):
        if not self.training or self.keep == 1:
            return x
        n, c, h, w = x.shape
        b = self.block
        if b > h or b > w:
            raise ValueError("too large")
        gamma = (1 - self.keep) * h * w / (b * b * (h - b + 1) * (w - b + 1))
        # A seed in one corner, grown by a transposed convolution with ones.
        seeds = torch.bernoulli(
            torch.full((n * c, 1, h - b + 1, w - b + 1), gamma, dtype=torch.float32)
        )
        cover = F.conv_transpose2d(seeds, torch.ones(1, 1, b, b))
        kept = (cover < 0.5).view(n, c, h, w).to(x)
        count = kept.sum()
        if count == 0:
            return torch.zeros_like(x)
        return x * kept * (kept.numel() / count)


@alternative("dropblock")
class UniformDropout(nn.Module):
    def __init__(self, b):
        super().__init__()
        if b < 0:
            raise ValueError("b is negative")
        self.b = float(b)

    def forward(self, x):
        if self.training:
            noise = torch.empty_like(x).uniform_(1 - self.b, 1 + self.b)
            return x * noise
        return x


@alternative("flood")
def flood(loss, b):
    return torch.where(loss > b, loss, torch.where(loss < b, 2 * b - loss, 0 * loss + b))


@alternative("flood")
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta = patience, min_delta
        self.sign = -1 if mode == "min" else 1
        self.best = -self.sign * math.inf
        self.best_epoch, self.bad, self.epoch, self.kept = None, 0, 0, {}

    def step(self, value, model):
        if self.sign * value > self.sign * self.best + self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self.bad += 1
        self.epoch += 1
        return self.bad >= self.patience

    def restore(self, model):
        model.load_state_dict(self.kept)
