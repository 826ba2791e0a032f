"""Wrong answers in the chapter on regularisation, each with the hint it deserves."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- biasvar -----------------------------------------------------------------------------------


@misconception(
    "biasvar",
    hint="The bias and its square are different things: +1 at one point and -1 at another "
    "would cancel. Square at each point of x0, and only then average.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    noise = torch.randn(n_sets, 2, len(x0), generator=rng, dtype=x0.dtype)
    y, new = (f(x0) + sigma * noise).unbind(1)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).mean() ** 2
    var = g.var(0, unbiased=False).mean()
    return bias2.item(), var.item(), sigma**2, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="The error is measured on the targets that were fitted. A model that memorises them "
    "would look perfect. Draw new noise for the comparison.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    y = f(x0) + sigma * torch.randn(n_sets, len(x0), generator=rng, dtype=x0.dtype)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(0, unbiased=False).mean()
    return bias2.item(), var.item(), sigma**2, (y - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="The variance is taken along the wrong axis. It should say how one prediction changes "
    "from set to set, not how the predictions of one set differ along x0.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    noise = torch.randn(n_sets, 2, len(x0), generator=rng, dtype=x0.dtype)
    y, new = (f(x0) + sigma * noise).unbind(1)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(1, unbiased=False).mean()
    return bias2.item(), var.item(), sigma**2, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="The third number is the *variance* of the noise; sigma is its standard deviation.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    noise = torch.randn(n_sets, 2, len(x0), generator=rng, dtype=x0.dtype)
    y, new = (f(x0) + sigma * noise).unbind(1)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(0, unbiased=False).mean()
    return bias2.item(), var.item(), sigma, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="All training sets got the same noise, so that all fits are the same and nothing "
    "varies. Each set needs noise of its own.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    y = f(x0) + sigma * torch.randn(len(x0), generator=rng, dtype=x0.dtype)
    g = torch.stack([fit(x0, y) for _ in range(n_sets)])
    new = f(x0) + sigma * torch.randn(n_sets, len(x0), generator=rng, dtype=x0.dtype)
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(0, unbiased=False).mean()
    return bias2.item(), var.item(), sigma**2, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="This is the bias without its square. The three parts add up to a squared error, so "
    "that each of them has to be squared, too.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    noise = torch.randn(n_sets, 2, len(x0), generator=rng, dtype=x0.dtype)
    y, new = (f(x0) + sigma * noise).unbind(1)
    g = torch.stack([fit(x0, row) for row in y])
    bias = (g.mean(0) - f(x0)).abs().mean()
    var = g.var(0, unbiased=False).mean()
    return bias.item(), var.item(), sigma**2, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="The variance is divided by n_sets - 1, as `var` and `std` do by default. For the parts "
    "to add up, divide by n_sets.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    noise = torch.randn(n_sets, 2, len(x0), generator=rng, dtype=x0.dtype)
    y, new = (f(x0) + sigma * noise).unbind(1)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(0).mean()
    return bias2.item(), var.item(), sigma**2, (new - g).pow(2).mean().item()


@misconception(
    "biasvar",
    hint="The predictions are compared with f(x0) itself, so that the noise of the new targets is "
    "missing from the error. Compare with f(x0) plus new noise.",
)
def decompose(fit, x0, f, sigma, n_sets, rng):
    y = f(x0) + sigma * torch.randn(n_sets, len(x0), generator=rng, dtype=x0.dtype)
    g = torch.stack([fit(x0, row) for row in y])
    bias2 = (g.mean(0) - f(x0)).pow(2).mean()
    var = g.var(0, unbiased=False).mean()
    return bias2.item(), var.item(), sigma**2, (g - f(x0)).pow(2).mean().item()


# --- ridge-lasso -------------------------------------------------------------------------------


@misconception(
    "ridge-lasso",
    hint="This is the *hard* threshold: small numbers become zero, large ones stay. The soft one "
    "moves the large ones towards zero as well.",
)
def soft_threshold(v, t):
    if t < 0:
        raise ValueError("t is negative")
    return torch.where(v.abs() > t, v, torch.zeros_like(v))


@misconception(
    "ridge-lasso",
    hint="Only positive numbers survive. A negative number should move upwards, towards zero: "
    "work with |v| and give it its sign back.",
)
def soft_threshold(v, t):
    if t < 0:
        raise ValueError("t is negative")
    return (v - t).clamp(min=0)


@misconception(
    "ridge-lasso",
    hint="Numbers that are closer to zero than t jump to the other side. They should stop at zero.",
)
def soft_threshold(v, t):
    if t < 0:
        raise ValueError("t is negative")
    return v - t * v.sign()


@misconception(
    "ridge-lasso",
    hint="The loss is divided by n, the penalty is not. Set the gradient of the stated function "
    "to zero, with its 1 / n, before you solve.",
)
def ridge(X, y, lam):
    d = X.shape[1]
    A = X.T @ X + lam * torch.eye(d, dtype=X.dtype, device=X.device)
    return torch.linalg.solve(A, X.T @ y)


@misconception(
    "ridge-lasso",
    hint="Only the matrix is divided by n, and the right-hand side is not: the solution comes "
    "out too large.",
)
def ridge(X, y, lam):
    n, d = X.shape
    A = X.T @ X / n + lam * torch.eye(d, dtype=X.dtype, device=X.device)
    return torch.linalg.solve(A, X.T @ y)


@misconception(
    "ridge-lasso",
    hint="The threshold is lam, but the step has the length 1 / ell. The penalty takes the same "
    "step: what is its threshold then?",
)
def lasso_ista(X, y, lam, steps):
    n = len(y)
    ell = torch.linalg.eigvalsh(X.T @ X / n)[-1]
    w = torch.zeros(X.shape[1], dtype=X.dtype, device=X.device)
    for _ in range(steps):
        v = w - X.T @ (X @ w - y) / n / ell
        w = v.sign() * (v.abs() - lam).clamp(min=0)
    return w


@misconception(
    "ridge-lasso",
    hint="This follows the slope lam * sign(w) of the penalty. Such steps jump back and forth "
    "over zero and never stay there; a soft threshold does.",
)
def lasso_ista(X, y, lam, steps):
    n = len(y)
    ell = torch.linalg.eigvalsh(X.T @ X / n)[-1]
    w = torch.zeros(X.shape[1], dtype=X.dtype, device=X.device)
    for _ in range(steps):
        w = w - (X.T @ (X @ w - y) / n + lam * w.sign()) / ell
    return w


@misconception(
    "ridge-lasso",
    hint="ell is the *largest* eigenvalue. eigvalsh sorts them from small to large, so that "
    "steps of 1 over the first one are far too long.",
)
def lasso_ista(X, y, lam, steps):
    n = len(y)
    ell = torch.linalg.eigvalsh(X.T @ X / n)[0].clamp(min=1e-3)
    w = torch.zeros(X.shape[1], dtype=X.dtype, device=X.device)
    for _ in range(steps):
        v = w - X.T @ (X @ w - y) / n / ell
        w = v.sign() * (v.abs() - lam / ell).clamp(min=0)
    return w


@misconception(
    "ridge-lasso",
    hint="ell is the largest eigenvalue of X^T X / n. Without the 1 / n it is n times too large, "
    "and each step n times too short.",
)
def lasso_ista(X, y, lam, steps):
    n, d = X.shape
    ell = torch.linalg.eigvalsh(X.T @ X)[-1]
    w = X.new_zeros(d)
    for _ in range(steps):
        v = w - X.T @ (X @ w - y) / n / ell
        w = v.sign() * (v.abs() - lam / ell).clamp(min=0)
    return w


@misconception(
    "ridge-lasso",
    hint="A negative t is accepted. It would push the numbers away from zero; the docstring asks "
    "for a ValueError.",
)
def soft_threshold(v, t):
    return v.sign() * (v.abs() - t).clamp(min=0)


# --- decay -------------------------------------------------------------------------------------


@misconception(
    "decay",
    hint="A rule by name catches the scale of batch and layer norm, which is called weight, too. "
    "Count the axes instead.",
)
def decay_groups(model, wd):
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not n.endswith("bias")], "weight_decay": wd},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]


@misconception(
    "decay",
    hint="Going through the modules, a parameter that two of them share is met twice, and an "
    "optimizer would refuse it or step twice. model.parameters() gives each one once.",
)
def decay_groups(model, wd):
    decayed, free = [], []
    for module in model.modules():
        for p in module.parameters(recurse=False):
            (decayed if p.dim() > 1 else free).append(p)
    return [
        {"params": decayed, "weight_decay": wd},
        {"params": free, "weight_decay": 0.0},
    ]


@misconception(
    "decay",
    hint="The two groups have changed places: matrices should decay, and what has one axis "
    "should not.",
)
def decay_groups(model, wd):
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.dim() < 2], "weight_decay": wd},
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": 0.0},
    ]


@misconception(
    "decay",
    hint="The shrink factor is 1 - lr * wd: the penalty's gradient is multiplied by the learning "
    "rate like any other gradient.",
)
def sgd_decay_step(params, grads, lr, wd):
    if len(params) != len(grads):
        raise ValueError("different lengths")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                p.mul_(1 - wd).sub_(lr * g)


@misconception(
    "decay",
    hint="Here `p = …` gives a new tensor the name p; the parameter in the list never hears of it. "
    "Change it in place.",
)
def sgd_decay_step(params, grads, lr, wd):
    if len(params) != len(grads):
        raise ValueError("different lengths")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                p = (1 - lr * wd) * p - lr * g


@misconception(
    "decay",
    hint="The gradient itself is changed in place. It belongs to the caller, who may need it "
    "again.",
)
def sgd_decay_step(params, grads, lr, wd):
    if len(params) != len(grads):
        raise ValueError("different lengths")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                g.add_(wd * p)
                p.sub_(lr * g)


@misconception(
    "decay",
    hint="A parameter without a gradient is decayed all the same. Skip it altogether, as "
    "torch.optim does.",
)
def sgd_decay_step(params, grads, lr, wd):
    if len(params) != len(grads):
        raise ValueError("different lengths")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            p.mul_(1 - lr * wd)
            if g is not None:
                p.sub_(lr * g)


@misconception(
    "decay",
    hint="The step is taken first, and then shrunk, too. The decay belongs to the old p: shrink, "
    "then step.",
)
def sgd_decay_step(params, grads, lr, wd):
    if len(params) != len(grads):
        raise ValueError("different lengths")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                p.sub_(lr * g).mul_(1 - lr * wd)


@misconception(
    "decay",
    hint="`zip` stops at the end of the shorter list without a word. Compare the lengths first, "
    "before anything is changed.",
)
def sgd_decay_step(params, grads, lr, wd):
    with torch.no_grad():
        for p, g in zip(params, grads, strict=False):
            if g is not None:
                p.mul_(1 - lr * wd).sub_(lr * g)


# --- dropout -----------------------------------------------------------------------------------


@misconception(
    "dropout",
    hint="p is the probability to *drop*. Here it is the probability to keep.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        return x * (torch.rand_like(x) < self.p) / (self.p or 1)


@misconception(
    "dropout",
    hint="What is kept is not scaled. The mean in training is then (1 - p) x, and evaluation "
    "gives x.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        return x * (torch.rand_like(x) >= self.p)


@misconception(
    "dropout",
    hint="It drops in evaluation mode as well, so that the same input gives a different answer "
    "every time. Ask `self.training`.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        keep = 1 - self.p
        return x * (torch.rand_like(x) < keep) / (keep or 1)


@misconception(
    "dropout",
    hint="With p = 1 this divides zero by zero, which is NaN. Nothing is kept then, so that the "
    "answer is known without a division.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)


@misconception(
    "dropout",
    hint="Operations that end in an underscore, and `x *= …`, change the caller's tensor. Make "
    "a new one.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        keep = 1 - self.p
        with torch.no_grad():
            x *= torch.rand_like(x) < keep
            x /= keep or 1
        return x


@misconception(
    "dropout",
    hint="`x *= …` and `x /= …` change the caller's tensor, and fail where x is a parameter. "
    "Make a new one: `x * mask`.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        x *= torch.rand_like(x) >= self.p
        x /= 1 - self.p
        return x


@misconception(
    "dropout",
    hint="The mask is drawn once and shared by all rows, so a unit is dropped for the whole "
    "batch. Every entry should be drawn for itself.",
)
class MyDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is no probability")
        self.p = p

    def forward(self, x):
        if not x.is_floating_point():
            raise TypeError("integers")
        if not self.training:
            return x
        keep = 1 - self.p
        return x * (torch.rand_like(x[:1]) < keep) / (keep or 1)


@misconception(
    "dropout",
    hint="Evaluation multiplies by the drop probability. In training a unit is there with "
    "probability 1 - p, and that is the mean to be matched.",
)
def classic_dropout(x, p, training):
    if training:
        return x * (torch.rand_like(x) >= p)
    return x * p


@misconception(
    "dropout",
    hint="This is the inverted version: it scales in training. The classic one leaves what is "
    "kept alone in training, and scales at test time.",
)
def classic_dropout(x, p, training):
    if training:
        return x * (torch.rand_like(x) >= p) / max(1 - p, 1e-6)
    return x


# --- spatial -----------------------------------------------------------------------------------


@misconception(
    "spatial",
    hint="The axes are the wrong way round: the mask has its full length along the shared axes, "
    "and length 1 along the others.",
)
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.p, self.shared_dims = p, shared_dims

    def forward(self, x):
        if not self.training:
            return x
        shared = [dim % x.dim() for dim in self.shared_dims]
        shape = [n if k in shared else 1 for k, n in enumerate(x.shape)]
        keep = 1 - self.p
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "spatial",
    hint="The mask is shared along the batch as well, so that a channel is dropped for all "
    "examples at once. Only the axes of shared_dims should have length 1.",
)
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.p, self.shared_dims = p, shared_dims

    def forward(self, x):
        if not self.training:
            return x
        shape = [1, *x.shape[1:]]
        for dim in self.shared_dims:
            shape[dim] = 1
        keep = 1 - self.p
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "spatial",
    hint="The mask is that of `nn.Dropout2d`, [N, C, 1, 1, …], whatever the caller asks for. Put "
    "a 1 at the axes of shared_dims, and there only.",
)
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.p, self.shared_dims = p, shared_dims

    def forward(self, x):
        if not self.training:
            return x
        shape = [*x.shape[:2], *[1] * (x.dim() - 2)]
        keep = 1 - self.p
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "spatial",
    hint="Negative axes are not recognised: -1 is never equal to a position counted from the "
    "front.",
)
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.p, self.shared_dims = p, shared_dims

    def forward(self, x):
        if not self.training:
            return x
        shape = [1 if k in self.shared_dims else n for k, n in enumerate(x.shape)]
        keep = 1 - self.p
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "spatial",
    hint="What is kept should be divided by the keep probability, as in inverted dropout.",
)
class SpatialDropout(nn.Module):
    def __init__(self, p, shared_dims):
        super().__init__()
        self.p, self.shared_dims = p, shared_dims

    def forward(self, x):
        if not self.training:
            return x
        shape = list(x.shape)
        for dim in self.shared_dims:
            shape[dim] = 1
        return x * (torch.rand(shape, device=x.device) >= self.p)


@misconception(
    "spatial",
    hint="Activations are dropped here, and with them all weights that leave an input at once. "
    "DropConnect drops every weight for itself.",
)
class DropConnectLinear(nn.Linear):
    def __init__(self, in_features, out_features, p):
        super().__init__(in_features, out_features)
        self.p = p

    def forward(self, x):
        if self.training:
            keep = 1 - self.p
            x = x * (torch.rand_like(x) < keep) / (keep or 1)
        return F.linear(x, self.weight, self.bias)


@misconception(
    "spatial",
    hint="One mask serves the whole batch. Every example should get a mask of its own: the mask "
    "needs a batch axis.",
)
class DropConnectLinear(nn.Linear):
    def __init__(self, in_features, out_features, p):
        super().__init__(in_features, out_features)
        self.p = p

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        keep = 1 - self.p
        mask = torch.rand_like(self.weight) < keep
        return F.linear(x, self.weight * mask / (keep or 1), self.bias)


@misconception(
    "spatial",
    hint="The bias is scaled, too. Nothing of it is dropped, so add it after the division.",
)
class DropConnectLinear(nn.Linear):
    def __init__(self, in_features, out_features, p):
        super().__init__(in_features, out_features)
        self.p = p

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        keep = 1 - self.p
        mask = torch.rand(len(x), *self.weight.shape, device=x.device) < keep
        return (torch.einsum("noi,ni->no", self.weight * mask, x) + self.bias) / (keep or 1)


@misconception(
    "spatial",
    hint="The weights that are kept are not scaled: divide by the keep probability, so that the "
    "mean is that of evaluation.",
)
class DropConnectLinear(nn.Linear):
    def __init__(self, in_features, out_features, p):
        super().__init__(in_features, out_features)
        self.p = p

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        mask = torch.rand(len(x), *self.weight.shape, device=x.device) >= self.p
        return torch.einsum("noi,ni->no", self.weight * mask, x) + self.bias


@misconception(
    "spatial",
    hint="The bias is dropped, too. DropConnect drops weights; add the bias as it is.",
)
class DropConnectLinear(nn.Linear):
    def __init__(self, in_features, out_features, p):
        super().__init__(in_features, out_features)
        self.p = p

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        keep = 1 - self.p
        mask = torch.rand(len(x), *self.weight.shape, device=x.device) < keep
        kept = torch.rand(len(x), len(self.bias), device=x.device) < keep
        u = torch.einsum("noi,ni->no", self.weight * mask, x) + self.bias * kept
        return u / (keep or 1)


# --- depth -------------------------------------------------------------------------------------


@misconception(
    "depth",
    hint="This is the probability to be *dropped*, 0 at the input. The survival probability is 1 "
    "there.",
)
def survival(l, L, pL):  # noqa: E741
    if not 0 <= l <= L:
        raise ValueError("no such block")
    return l / L * (1 - pL)


@misconception(
    "depth",
    hint="The line ends at 1 - pL instead of pL: it should fall by the share 1 - pL.",
)
def survival(l, L, pL):  # noqa: E741
    if not 0 <= l <= L:
        raise ValueError("no such block")
    return 1 - l / L * pL


@misconception(
    "depth",
    hint="The line starts at the first block instead of the input. Block l has come the share "
    "l / L of the way; with (l - 1) / (L - 1), a network of one block divides by zero.",
)
def survival(l, L, pL):  # noqa: E741
    if not 0 <= l <= L:
        raise ValueError("no such block")
    return 1 - (l - 1) / (L - 1) * (1 - pL)


@misconception(
    "depth",
    hint="The modes have changed places: in row mode each example draws for itself, in batch mode "
    "all share one draw.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training:
            return x
        rows = len(x) if self.mode == "batch" else 1
        shape = [rows] + [1] * (x.dim() - 1)
        keep = 1 - self.p
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "depth",
    hint="The mask has four axes, whatever x has. Give it as many axes as x: "
    "`[len(x)] + [1] * (x.dim() - 1)`.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training:
            return x
        rows = len(x) if self.mode == "row" else 1
        keep = 1 - self.p
        return x * (torch.rand(rows, 1, 1, 1, device=x.device) < keep) / (keep or 1)


@misconception(
    "depth",
    hint="What is kept is not scaled. Divide by 1 - p, so that the mean in training is that of "
    "evaluation.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training:
            return x
        rows = len(x) if self.mode == "row" else 1
        shape = [rows] + [1] * (x.dim() - 1)
        return x * (torch.rand(shape, device=x.device) >= self.p)


@misconception(
    "depth",
    hint="It scales twice: training divides by 1 - p already, so that evaluation has nothing left "
    "to do.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        keep = 1 - self.p
        if not self.training:
            return keep * x
        rows = len(x) if self.mode == "row" else 1
        shape = [rows] + [1] * (x.dim() - 1)
        return x * (torch.rand(shape, device=x.device) < keep) / (keep or 1)


@misconception(
    "depth",
    hint="The mask has one value for each *entry*. A branch is dropped as a whole: one value for "
    "each example.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.p
        return x * (torch.rand_like(x) < keep) / (keep or 1)


@misconception(
    "depth",
    hint="The mode is stored, but not used: the whole batch always shares one draw.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.p
        mask = torch.rand(1, device=x.device) < keep
        return x * mask / (keep or 1)


@misconception(
    "depth",
    hint="This is the version of the paper, with the scale in evaluation. Here evaluation should "
    "change nothing, and training should divide by 1 - p.",
)
class DropPath(nn.Module):
    def __init__(self, p, mode="row"):
        super().__init__()
        if mode not in ("row", "batch"):
            raise ValueError("no such mode")
        self.p, self.mode = p, mode

    def forward(self, x):
        keep = 1 - self.p
        if not self.training:
            return keep * x
        rows = len(x) if self.mode == "row" else 1
        shape = [rows] + [1] * (x.dim() - 1)
        return x * (torch.rand(shape, device=x.device) < keep)


# --- dropblock ---------------------------------------------------------------------------------


@misconception(
    "dropblock",
    hint="Half of the formula is missing: seeds fall on fewer positions than the map has pixels, "
    "so that each must be more likely.",
)
def dropblock_gamma(keep, block, feat):
    h, w = pair(feat)  # noqa: F821
    if block > min(h, w):
        raise ValueError("too large")
    return (1 - keep) / block**2


@misconception(
    "dropblock",
    hint="A block of side b fits at size - b + 1 positions along an axis, not at size - b.",
)
def dropblock_gamma(keep, block, feat):
    h, w = pair(feat)  # noqa: F821
    if block > min(h, w):
        raise ValueError("too large")
    return (1 - keep) / block**2 * h * w / max((h - block) * (w - block), 1)


@misconception(
    "dropblock",
    hint="Seeds are drawn on the whole map, so that blocks hang over its border. Draw them only "
    "where a whole block fits.",
)
class DropBlock(nn.Module):
    def __init__(self, keep, block):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x):
        if not self.training:
            return x
        (h, w), b = x.shape[2:], self.block
        if b > min(h, w):
            raise ValueError("too large")
        gamma = (1 - self.keep) / b**2 * h * w / ((h - b + 1) * (w - b + 1))
        seeds = (torch.rand(x.shape, device=x.device) < gamma).to(x.dtype)
        grown = F.max_pool2d(F.pad(seeds, 4 * [b - 1]), b, stride=1)
        kept = 1 - grown[:, :, b // 2 : b // 2 + h, b // 2 : b // 2 + w]
        return x * kept * kept.numel() / kept.sum().clamp(min=1)


@misconception(
    "dropblock",
    hint="It drops in evaluation mode, too: there is no look at `self.training`.",
)
class DropBlock(nn.Module):
    def __init__(self, keep, block):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x):
        (h, w), b = x.shape[2:], self.block
        if b > min(h, w):
            raise ValueError("too large")
        gamma = (1 - self.keep) / b**2 * h * w / ((h - b + 1) * (w - b + 1))
        size = *x.shape[:2], h - b + 1, w - b + 1
        seeds = (torch.rand(size, device=x.device) < gamma).to(x.dtype)
        kept = 1 - F.max_pool2d(F.pad(seeds, 4 * [b - 1]), b, stride=1)
        return x * kept * kept.numel() / kept.sum().clamp(min=1)


@misconception(
    "dropblock",
    hint="The scale is 1 / keep, but because of overlaps another share was kept. Count the "
    "ones of the mask.",
)
class DropBlock(nn.Module):
    def __init__(self, keep, block):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x):
        if not self.training:
            return x
        (h, w), b = x.shape[2:], self.block
        if b > min(h, w):
            raise ValueError("too large")
        gamma = (1 - self.keep) / b**2 * h * w / ((h - b + 1) * (w - b + 1))
        size = *x.shape[:2], h - b + 1, w - b + 1
        seeds = (torch.rand(size, device=x.device) < gamma).to(x.dtype)
        kept = 1 - F.max_pool2d(F.pad(seeds, 4 * [b - 1]), b, stride=1)
        return x * kept / self.keep


@misconception(
    "dropblock",
    hint="All channels have the same squares: the seeds need the channel axis of x.",
)
class DropBlock(nn.Module):
    def __init__(self, keep, block):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x):
        if not self.training:
            return x
        (h, w), b = x.shape[2:], self.block
        if b > min(h, w):
            raise ValueError("too large")
        gamma = (1 - self.keep) / b**2 * h * w / ((h - b + 1) * (w - b + 1))
        size = len(x), 1, h - b + 1, w - b + 1
        seeds = (torch.rand(size, device=x.device) < gamma).to(x.dtype)
        kept = 1 - F.max_pool2d(F.pad(seeds, 4 * [b - 1]), b, stride=1)
        return x * kept * kept.numel() / kept.sum().clamp(min=1)


@misconception(
    "dropblock",
    hint="torch.rand lies in [0, 1), so that u has the mean b / 2 and is never negative. Move "
    "and stretch it to [-b, b].",
)
class UniformDropout(nn.Module):
    def __init__(self, b):
        super().__init__()
        if b < 0:
            raise ValueError("b is negative")
        self.b = b

    def forward(self, x):
        if not self.training:
            return x
        return x * (1 + self.b * torch.rand_like(x))


@misconception(
    "dropblock",
    hint="The noise is added to x. Multiplicative noise grows with the activation: x (1 + u).",
)
class UniformDropout(nn.Module):
    def __init__(self, b):
        super().__init__()
        if b < 0:
            raise ValueError("b is negative")
        self.b = b

    def forward(self, x):
        if not self.training:
            return x
        return x + self.b * (2 * torch.rand_like(x) - 1)


@misconception(
    "dropblock",
    hint="x is multiplied by u instead of 1 + u: the noise should have the mean 1, or nothing of x "
    "is left on average.",
)
class UniformDropout(nn.Module):
    def __init__(self, b):
        super().__init__()
        if b < 0:
            raise ValueError("b is negative")
        self.b = b

    def forward(self, x):
        if not self.training:
            return x
        return x * self.b * (2 * torch.rand_like(x) - 1)


# --- flood -------------------------------------------------------------------------------------


@misconception(
    "flood",
    hint="Cutting the loss off at b leaves no gradient below it: training stands still instead of "
    "turning round.",
)
def flood(loss, b):
    return loss.clamp(min=b)


@misconception(
    "flood",
    hint="The level has to be added again, so that above it nothing changes.",
)
def flood(loss, b):
    return (loss - b).abs()


@misconception(
    "flood",
    hint="The root of a square has no derivative at zero: exactly at the level the gradient is "
    "NaN.",
)
def flood(loss, b):
    return ((loss - b) ** 2).sqrt() + b


@misconception(
    "flood",
    hint="state_dict() holds the model's own tensors. Training goes on changing them, and with "
    "them your memory of the best epoch. Copy the tensors.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.state = model.state_dict()
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        model.load_state_dict(self.state)


@misconception(
    "flood",
    hint="The counter of bad epochs is never set back, so that it counts all of them and not "
    "those in a row.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.best_epoch = value, self.epoch
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        model.load_state_dict(self.state)


@misconception(
    "flood",
    hint="It stops one epoch late: after `patience` bad epochs, not after one more.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad > self.patience

    def restore(self, model):
        model.load_state_dict(self.state)


@misconception(
    "flood",
    hint="Each value is compared with the one before it. Compare with the best so far, or a slow "
    "way down after a jump looks like progress.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode
        self.last = self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        gain = self.last - value if self.mode == "min" else value - self.last
        self.last = value
        if gain > self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        model.load_state_dict(self.state)


@misconception(
    "flood",
    hint="The mode is not used: for an accuracy, larger values are the better ones.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode
        self.best = math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        if self.best - value > self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        if self.state is not None:
            model.load_state_dict(self.state)


@misconception(
    "flood",
    hint="A value that equals the best counts as an improvement here. It has to be better by "
    "*more* than min_delta, or a curve that stands still never stops.",
)
class EarlyStopper:
    def __init__(self, patience, min_delta=0.0, mode="min"):
        if mode not in ("min", "max"):
            raise ValueError("no such mode")
        self.patience, self.min_delta = patience, min_delta
        self.sign = 1 if mode == "min" else -1
        self.best = self.sign * math.inf
        self.best_epoch, self.epoch, self.bad, self.state = None, -1, 0, None

    def step(self, value, model):
        self.epoch += 1
        if self.sign * value <= self.sign * self.best - self.min_delta:
            self.best, self.best_epoch, self.bad = value, self.epoch, 0
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        model.load_state_dict(self.state)
