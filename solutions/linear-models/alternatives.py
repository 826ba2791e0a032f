"""Other right answers in the chapter on linear models."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("cost")
def cost(X, y, w, b, lam=0.0):
    if X.dim() != 2 or list(y.shape) != [len(X)] or list(w.shape) != [X.shape[1]]:
        raise ValueError("the shapes do not fit")
    fit = ((X * w).sum(1) + b - y).pow(2).mean()
    return 0.5 * (fit + lam / len(y) * w.pow(2).sum())


@alternative("cost")
def grad(X, y, w, b, lam=0.0):
    if X.dim() != 2 or list(y.shape) != [len(X)] or list(w.shape) != [X.shape[1]]:
        raise ValueError("the shapes do not fit")
    error = torch.mv(X, w) + b - y
    return (error[:, None] * X).mean(0) + lam / len(y) * w, error.sum() / len(y)


@alternative("gd")
def fit(X, y, lr, max_steps, tol, patience):
    A = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
    theta = torch.zeros_like(A[0])

    def J():
        return 0.5 * float(((A @ theta - y) ** 2).mean())

    history, run = [J()], 0
    while len(history) - 1 < max_steps and run < patience:
        theta = theta - lr * (A * (A @ theta - y)[:, None]).mean(0)
        history.append(J())
        if not math.isfinite(history[-1]) or history[-1] > history[0]:
            raise FloatingPointError("the learning rate is too large")
        is_small = history[-1] >= (1 - tol) * history[-2]
        run = (run + 1) * is_small
    return theta[:-1], theta[-1], history


@alternative("gd")
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    error = -y
    history = [(error @ error / (2 * m)).item()]
    small = 0
    for _ in range(max_steps):
        w, b = w - lr * X.T @ error / m, b - lr * error.mean()
        error = X @ w + b - y
        history.append((error @ error / (2 * m)).item())
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        # Without rounding a small step is followed by small ones only: the ratio of two costs in
        # a row never falls. So it does not matter whether they are counted in a row.
        small += history[-2] - history[-1] <= tol * history[-2]
        if small == patience:
            break
    return w, b, history


@alternative("scaler")
class Scaler:
    def __init__(self, kind):
        self.measure = {"max": self._max, "mean": self._mean, "zscore": self._z}.get(kind)
        if self.measure is None:
            raise ValueError("kind is max, mean or zscore")
        self.fitted = False

    def _max(self, X):
        return 0 * X[0], torch.maximum(X.max(0).values, -X.min(0).values)

    def _mean(self, X):
        return X.sum(0) / len(X), X.max(0).values - X.min(0).values

    def _z(self, X):
        mu = X.sum(0) / len(X)
        constant = (X == X[0]).all(0)
        return mu, ((X - mu) ** 2).mean(0).sqrt().masked_fill(constant, 0.0)

    def fit(self, X):
        self.mu, s = self.measure(X)
        self.s = s + (s == 0)
        self.fitted = True
        return self

    def transform(self, X):
        if not self.fitted:
            raise RuntimeError("not fitted")
        return (X - self.mu) / self.s

    def inverse_transform(self, Z):
        if not self.fitted:
            raise RuntimeError("not fitted")
        return self.mu + self.s * Z


@alternative("logistic")
def logistic_loss(z, y):
    return -F.logsigmoid(torch.where(y == 1, z, -z)).mean()


@alternative("logistic")
def logistic_loss(z, y):
    return torch.mean(F.softplus(z) - y * z)


@alternative("logistic")
def fit_logistic(X, y, lam):
    if not set(y.unique().tolist()) <= {0.0, 1.0}:
        raise ValueError("labels are 0 and 1")
    w = torch.zeros_like(X[0], requires_grad=True)
    b = torch.zeros((), dtype=X.dtype, device=X.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=200,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = F.softplus((1 - 2 * y) * (X @ w + b)).mean() + lam * (w @ w) / (2 * len(y))
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach(), b.detach()


@alternative("logistic")
def fit_logistic(X, y, lam):
    """Plain gradient descent with the step 1/L."""
    if ((y != 0) & (y != 1)).any():
        raise ValueError("labels are 0 and 1")
    A = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
    keep = torch.ones_like(A[0]) * lam
    keep[-1] = 0
    L = (torch.linalg.matrix_norm(A, 2) ** 2 / 4 + lam) / len(A)
    theta = torch.zeros_like(A[0])
    for _ in range(3000):
        g = (A.T @ (torch.sigmoid(A @ theta) - y) + keep * theta) / len(A)
        if g.abs().max() < 1e-8:
            break
        theta = theta - g / L
    return theta[:-1], theta[-1]


@alternative("boundary")
def boundary_x2(w, b, x1):
    w1, w2 = w.tolist()
    if w2 == 0.0:
        raise ValueError("a vertical line has no x2 for an x1")
    return x1 * (-w1 / w2) - b / w2


@alternative("boundary")
def quadratic_features(X):
    if X.size(1) != 2:
        raise ValueError("two columns, please")
    i, j = torch.triu_indices(2, 2, device=X.device)
    return torch.cat([X, X[:, i] * X[:, j]], dim=1)


@alternative("softmax")
def softmax_ce(logits, y):
    if ((y < 0) | (y >= logits.size(1))).any():
        raise ValueError("no such class")
    z = logits - logits.max(dim=1, keepdim=True).values
    log_p = z - z.exp().sum(dim=1, keepdim=True).log()
    return -log_p.gather(1, y[:, None]).mean()


@alternative("softmax")
def softmax_grad(logits, y):
    if ((y < 0) | (y >= logits.size(1))).any():
        raise ValueError("no such class")
    e = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    p = e / e.sum(dim=1, keepdim=True)
    p[torch.arange(len(y), device=y.device), y] -= 1
    return p / len(y)


@alternative("linear")
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        for p in self.parameters():
            nn.init.uniform_(p, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x):
        y = torch.einsum("...i,oi->...o", x, self.weight)
        if self.bias is not None:
            y = y + self.bias
        return y
