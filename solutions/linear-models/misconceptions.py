"""Wrong answers in the chapter on linear models, each with the hint it deserves."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- cost ------------------------------------------------------------------------------------


@misconception(
    "cost",
    hint="The bias is penalised. It only says where zero is; the penalty is for the weights.",
)
def cost(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return (error @ error + lam * (w @ w + b * b)) / (2 * m)


@misconception(
    "cost",
    hint="This is the mean of the squares. The cost here has a ½ as well, which cancels the 2 of "
    "the derivative.",
)
def cost(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return (error @ error + lam * (w @ w)) / m


@misconception(
    "cost",
    hint="An answer of shape (m, 1) is silently broadcast: each prediction meets every answer. "
    "Compare the shapes first, and raise a ValueError.",
)
def cost(X, y, w, b, lam=0.0):
    error = X @ w + b - y
    return error.pow(2).mean() / 2 + lam * w.pow(2).sum() / (2 * len(X))


@misconception(
    "cost", hint="The penalty should be divided by 2m, like the rest of the cost, not by 2 only."
)
def cost(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return error @ error / (2 * m) + lam * (w @ w) / 2


@misconception(
    "cost",
    hint="The penalty is in the cost, but its derivative is missing from `grad`.",
)
def grad(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return X.T @ error / m, error.mean()


@misconception(
    "cost",
    hint="The sign is turned: the error is prediction minus truth, since the derivative of the "
    "prediction is +x.",
)
def grad(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = y - X @ w - b
    return (X.T @ error + lam * w) / m, error.mean()


@misconception(
    "cost", hint="The slopes are sums over the examples; the cost is a mean. Divide by m."
)
def grad(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return X.T @ error + lam * w, error.sum()


@misconception(
    "cost",
    hint="The derivative of lam w² / 2m is lam w / m: the 2 cancels, the m stays.",
)
def grad(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return X.T @ error / m + lam * w, error.mean()


@misconception(
    "cost",
    hint="The derivative of lam w² / 2m is lam w / m: the 2 cancels, the m stays.",
)
def grad(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return (X.T @ error + 2 * lam * w) / m, error.mean()


@misconception(
    "cost",
    hint="The penalty adds up the squares of the weights, not their sizes.",
)
def cost(X, y, w, b, lam=0.0):
    m, n = X.shape
    if y.shape != (m,) or w.shape != (n,):
        raise ValueError("shapes do not fit")
    error = X @ w + b - y
    return (error @ error + lam * w.abs().sum()) / (2 * m)


# --- gd --------------------------------------------------------------------------------------


@misconception(
    "gd",
    hint="The bias is moved with the new weights. Both slopes belong to the same point: compute "
    "both, then change both.",
)
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    history = [(y @ y / (2 * m)).item()]
    small = 0
    for _ in range(max_steps):
        w = w - lr * X.T @ (X @ w + b - y) / m
        b = b - lr * (X @ w + b - y).mean()
        history.append(((X @ w + b - y) ** 2).mean().item() / 2)
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="It stops at the first small step. `patience` says how many in a row there should be.",
)
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    error = -y
    history = [(error @ error / (2 * m)).item()]
    for _ in range(max_steps):
        w, b = w - lr * X.T @ error / m, b - lr * error.mean()
        error = X @ w + b - y
        history.append((error @ error / (2 * m)).item())
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        if history[-2] - history[-1] <= tol * history[-2]:
            break
    return w, b, history


@misconception(
    "gd",
    hint="Small is meant in proportion: the fall is compared with `tol` times the cost before the "
    "step, so that the rule does not depend on the units of y.",
)
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
        small = small + 1 if history[-2] - history[-1] <= tol else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="Only nan and inf are noticed. A cost above that of the start is a failure already, and "
    "with few steps it is all there is to see.",
)
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
        if not math.isfinite(history[-1]):
            raise FloatingPointError("diverged")
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="A cost that rises counts as a small step, so the run ends as converged before the test for "
    "divergence is made. Make that test first; and mind that every comparison with nan is False.",
)
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
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
        if history[-1] > history[0]:
            raise FloatingPointError("diverged")
    return w, b, history


@misconception(
    "gd",
    hint="The step seems to be twice too long: with the halved cost, the 2 of the derivative "
    "is cancelled.",
)
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    error = -y
    history = [(error @ error / (2 * m)).item()]
    small = 0
    for _ in range(max_steps):
        w, b = w - lr * 2 * X.T @ error / m, b - lr * 2 * error.mean()
        error = X @ w + b - y
        history.append((error @ error / (2 * m)).item())
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="`torch.zeros(n)` is float32 on the CPU, whatever X is. `X.new_zeros(n)` has X's dtype and "
    "device.",
)
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = torch.zeros(n), torch.zeros(())
    error = X @ w + b - y
    history = [(error @ error / (2 * m)).item()]
    small = 0
    for _ in range(max_steps):
        w, b = w - lr * X.T @ error / m, b - lr * error.mean()
        error = X @ w + b - y
        history.append((error @ error / (2 * m)).item())
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="The cost is compared with that of the step before. Near the minimum rounding lets it rise "
    "a little; the error is for a cost above that of the *start*.",
)
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
        if not history[-1] <= history[-2]:
            raise FloatingPointError("diverged")
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="It stops one step too late: with `patience` small steps in a row it is enough, so compare "
    "with >=.",
)
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
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small > patience:
            break
    return w, b, history


@misconception(
    "gd",
    hint="The last cost is missing from the history: it should hold the cost at the start and then "
    "that after each step.",
)
def fit(X, y, lr, max_steps, tol, patience):
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    history, small = [], 0
    for _ in range(max_steps):
        error = X @ w + b - y
        history.append((error @ error / (2 * m)).item())
        if not history[-1] <= history[0]:
            raise FloatingPointError("diverged")
        if len(history) > 1:
            small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
        if small == patience:
            break
        w, b = w - lr * X.T @ error / m, b - lr * error.mean()
    return w, b, history


# --- scaler ----------------------------------------------------------------------------------


@misconception(
    "scaler",
    hint="`std` divides by m - 1 unless you say otherwise. Here, as in scikit-learn, it should "
    "divide by m: look up `correction`.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        low, high = X.amin(0), X.amax(0)
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(low)
        scale = {"max": X.abs().amax(0), "mean": high - low, "zscore": X.std(0) * (high > low)}
        scale = torch.nan_to_num(scale[self.kind])
        self.scale = torch.where(scale > 0, scale, 1.0)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="`transform` measures every table by its own numbers. It should use those that `fit` "
    "has learned, or a single row becomes zeros.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        low, high = X.amin(0), X.amax(0)
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(low)
        scale = {
            "max": X.abs().amax(0),
            "mean": high - low,
            "zscore": X.std(0, correction=0) * (high > low),
        }[self.kind]
        self.scale = torch.where(scale > 0, scale, 1.0)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        self.fit(X)
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="A constant column is divided by zero. It tells nothing: use 1 as its scale.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(X[0])
        self.scale = {
            "max": X.abs().amax(0),
            "mean": X.amax(0) - X.amin(0),
            "zscore": X.std(0, correction=0),
        }[self.kind]
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="The standard deviation of a constant column can be 1e-17 instead of 0, by rounding, and "
    "dividing by it gives ones instead of zeros. Compare maximum and minimum.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(X[0])
        scale = {
            "max": X.abs().amax(0),
            "mean": X.amax(0) - X.amin(0),
            "zscore": ((X - X.mean(0)) ** 2).mean(0).sqrt(),
        }[self.kind]
        self.scale = torch.where(scale == 0, 1.0, scale)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="The mean, the range and the deviation are taken over the whole table. Each column "
    "has its own: `dim=0`.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        self.shift = X.mean() if self.kind != "max" else 0 * X.mean()
        scale = {"max": X.abs().max(), "mean": X.max() - X.min(), "zscore": X.std(correction=0)}
        self.scale = torch.where(scale[self.kind] > 0, scale[self.kind], 1.0)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="The way back undoes the steps in the reverse order: first multiply by the scale, "
    "then add the shift.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        low, high = X.amin(0), X.amax(0)
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(low)
        scale = {
            "max": X.abs().amax(0),
            "mean": high - low,
            "zscore": X.std(0, correction=0) * (high > low),
        }[self.kind]
        self.scale = torch.where(scale > 0, scale, 1.0)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (Z + self.shift) * self.scale


@misconception(
    "scaler",
    hint="A small constant in the denominator turns a constant column into a trap: a new value that "
    "is a little different becomes enormous. Use 1 as the scale there.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(X[0])
        scale = {
            "max": X.abs().amax(0),
            "mean": X.amax(0) - X.amin(0),
            "zscore": X.std(0, correction=0),
        }
        self.scale = scale[self.kind] + 1e-8
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


@misconception(
    "scaler",
    hint="A column of negative numbers has its largest *size* at its minimum: take the maximum of "
    "|x|, not of x.",
)
class Scaler:
    def __init__(self, kind):
        if kind not in ("max", "mean", "zscore"):
            raise ValueError(kind)
        self.kind, self.scale = kind, None

    def fit(self, X):
        low, high = X.amin(0), X.amax(0)
        self.shift = X.mean(0) if self.kind != "max" else torch.zeros_like(low)
        scale = {
            "max": high,
            "mean": high - low,
            "zscore": X.std(0, correction=0) * (high > low),
        }[self.kind]
        self.scale = torch.where(scale != 0, scale, 1.0)
        return self

    def transform(self, X):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return (X - self.shift) / self.scale

    def inverse_transform(self, Z):
        if self.scale is None:
            raise RuntimeError("call fit first")
        return Z * self.scale + self.shift


# --- logistic --------------------------------------------------------------------------------


@misconception(
    "logistic",
    hint="First the sigmoid, then the logarithm: at z = 200 the sigmoid is exactly 1, and log(0) "
    "is minus infinity. Put the two together on paper, and compute from z.",
)
def logistic_loss(z, y):
    p = torch.sigmoid(z)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@misconception(
    "logistic",
    hint="Clamping the probability hides the overflow, and with it the loss and its slope: far on "
    "the wrong side the model would learn nothing any more.",
)
def logistic_loss(z, y):
    p = torch.sigmoid(z).clamp(1e-7, 1 - 1e-7)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@misconception(
    "logistic",
    hint="exp(z) overflows for large z, before the logarithm can bring it back.",
)
def logistic_loss(z, y):
    return (torch.log1p(torch.exp(z)) - y * z).mean()


@misconception(
    "logistic",
    hint="The values are right, but relu and abs have kinks at z = 0, where autograd takes each by "
    "itself: the slope there is wrong, and it is the slope of every fit's first step.",
)
def logistic_loss(z, y):
    return (F.relu(z) - y * z + torch.log1p(torch.exp(-z.abs()))).mean()


@misconception("logistic", hint="This is the sum over the examples; the loss is their mean.")
def logistic_loss(z, y):
    return (torch.logaddexp(torch.zeros_like(z), z) - y * z).sum()


@misconception(
    "logistic",
    hint="The bias is penalised, too. It should be free: the penalty is for the weights only.",
)
def fit_logistic(X, y, lam):
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("labels must be 0 or 1")
    A = torch.cat([X, X.new_ones(len(X), 1)], dim=1)
    eye = torch.eye(A.shape[1], dtype=X.dtype, device=X.device)
    theta = X.new_zeros(A.shape[1])
    for _ in range(20):
        p = torch.sigmoid(A @ theta)
        g = A.T @ (p - y) + lam * theta
        theta = theta - torch.linalg.solve(A.T @ (A * (p * (1 - p))[:, None]) + lam * eye, g)
    return theta[:-1], theta[-1]


@misconception(
    "logistic",
    hint="The penalty is m times too strong: it is divided by m as the sum of the losses is.",
)
def fit_logistic(X, y, lam):
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("labels must be 0 or 1")
    m, n = X.shape
    A = torch.cat([X, X.new_ones(m, 1)], dim=1)
    penalty = torch.diag(X.new_tensor([lam * m] * n + [0.0]))
    theta = X.new_zeros(n + 1)
    for _ in range(20):
        p = torch.sigmoid(A @ theta)
        g = A.T @ (p - y) + penalty @ theta
        theta = theta - torch.linalg.solve(A.T @ (A * (p * (1 - p))[:, None]) + penalty, g)
    return theta[:-1], theta[-1]


@misconception(
    "logistic",
    hint="It stops on the way: a hundred steps of 0.1 do not reach the minimum. Take longer steps "
    "and many more of them, or a faster method, and look at the gradient at the end.",
)
def fit_logistic(X, y, lam):
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("labels must be 0 or 1")
    m, n = X.shape
    w, b = X.new_zeros(n), X.new_zeros(())
    for _ in range(100):
        error = torch.sigmoid(X @ w + b) - y
        w, b = w - 0.1 * (X.T @ error + lam * w) / m, b - 0.1 * error.mean()
    return w, b


# --- boundary --------------------------------------------------------------------------------


@misconception(
    "boundary",
    hint="Solve w1 x1 + w2 x2 + b = 0 again: both other terms change sign when they move to the "
    "other side, the bias too.",
)
def boundary_x2(w, b, x1):
    if w[1] == 0:
        raise ValueError("vertical")
    return (b - w[0] * x1) / w[1]


@misconception(
    "boundary",
    hint="Solve w1 x1 + w2 x2 + b = 0 again: w2 divides *both* other terms, and both change sign.",
)
def boundary_x2(w, b, x1):
    if w[1] == 0:
        raise ValueError("vertical")
    return -w[0] * x1 / w[1] + b


@misconception(
    "boundary",
    hint="Solve w1 x1 + w2 x2 + b = 0 again: w2 divides *both* other terms, and both change sign.",
)
def boundary_x2(w, b, x1):
    if w[1] == 0:
        raise ValueError("vertical")
    return -w[0] * x1 / w[1] - b


@misconception(
    "boundary",
    hint="With w2 = 0 you divide by zero, and the plot shows nothing. Say so with a ValueError.",
)
def boundary_x2(w, b, x1):
    return -(w[0] * x1 + b) / w[1]


@misconception(
    "boundary",
    hint="This is the line where z = 1/2. The *probability* is one half where z = 0.",
)
def boundary_x2(w, b, x1):
    if w[1] == 0:
        raise ValueError("vertical")
    return (0.5 - w[0] * x1 - b) / w[1]


@misconception(
    "boundary",
    hint="Without the product x1 x2, an ellipse can lie along the axes only. There are five features.",
)
def quadratic_features(X):
    if X.shape[1] != 2:
        raise ValueError("two columns")
    return torch.cat([X, X**2], dim=1)


@misconception(
    "boundary",
    hint="The order is x1, x2, x1², x1 x2, x2²; here the product comes last. Weights belong to "
    "places, so the order is part of the answer.",
)
def quadratic_features(X):
    if X.shape[1] != 2:
        raise ValueError("two columns")
    return torch.cat([X, X**2, X[:, :1] * X[:, 1:]], dim=1)


# --- softmax ---------------------------------------------------------------------------------


@misconception(
    "softmax",
    hint="The exponential of 1000 overflows. Only differences of logits count: subtract the "
    "largest one of each row first.",
)
def softmax_ce(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -p[torch.arange(len(y), device=y.device), y].log().mean()


@misconception(
    "softmax",
    hint="The largest logit is subtracted, so nothing overflows any more; but a probability can "
    "become 0, and its logarithm is minus infinity. Stay with logarithms: log p = z - logsumexp(z).",
)
def softmax_ce(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    e = (logits - logits.amax(1, keepdim=True)).exp()
    p = e / e.sum(1, keepdim=True)
    return -p[torch.arange(len(y), device=y.device), y].log().mean()


@misconception(
    "softmax",
    hint="The sum runs over the examples (dim 0). The classes of one example compete with each "
    "other, so it runs over dim 1.",
)
def softmax_ce(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    log_p = logits - logits.logsumexp(0, keepdim=True)
    return -log_p[torch.arange(len(y), device=y.device), y].mean()


@misconception(
    "softmax",
    hint="A class -1 counts from the end, so it is silently taken for the last class. Check the "
    "labels first.",
)
def softmax_ce(logits, y):
    if y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    true = logits[torch.arange(len(y), device=y.device), y]
    return (logits.logsumexp(1) - true).mean()


@misconception(
    "softmax",
    hint="The loss is a mean over the examples, so the gradient is (p - one-hot) / m.",
)
def softmax_grad(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    p = (logits - logits.logsumexp(1, keepdim=True)).exp()
    p[torch.arange(len(y), device=y.device), y] -= 1
    return p


@misconception(
    "softmax",
    hint="The mean is over the m examples only, so the gradient is (p - one-hot) / m, not over m K.",
)
def softmax_grad(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    p = (logits - logits.logsumexp(1, keepdim=True)).exp()
    p[torch.arange(len(y), device=y.device), y] -= 1
    return p / p.numel()


@misconception(
    "softmax",
    hint="`F.one_hot(y)` guesses the number of classes from the largest label in this batch. Tell it "
    "K: `F.one_hot(y, K)`.",
)
def softmax_grad(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    p = (logits - logits.logsumexp(1, keepdim=True)).exp()
    return (p - F.one_hot(y)) / len(y)


@misconception(
    "softmax",
    hint="This is the sum over the examples; the loss is their mean.",
)
def softmax_ce(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    true = logits[torch.arange(len(y), device=y.device), y]
    return (logits.logsumexp(1) - true).sum()


@misconception(
    "softmax",
    hint="All truths land in every row: `p[:, y]` means all rows and the columns y. Each row has "
    "one true class: `p[torch.arange(m), y]`.",
)
def softmax_grad(logits, y):
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError("unknown class")
    p = (logits - logits.logsumexp(1, keepdim=True)).exp()
    p[:, y] -= 1
    return p / len(y)


# --- linear ----------------------------------------------------------------------------------


@misconception(
    "linear",
    hint="The weight is kept as (in, out). The library keeps (out, in), one row for each output, "
    "and so must you, or a saved state does not fit.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))
        self.bias = (
            nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        )

    def forward(self, x):
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


@misconception(
    "linear",
    hint="Weight and bias are ordinary tensors: no optimizer, no state_dict and no `to` finds them.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = torch.empty(out_features, in_features).uniform_(-bound, bound)
        self.bias = torch.empty(out_features).uniform_(-bound, bound) if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@misconception(
    "linear",
    hint="Without a bias there should be no parameter of that name: one of zeros would still be "
    "trained.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound) * bias)

    def forward(self, x):
        return x @ self.weight.T + self.bias


@misconception(
    "linear",
    hint="`randn` has no limits. Weight and bias are *uniform* between the two bounds.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / in_features**0.5)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@misconception(
    "linear",
    hint="`rand` lies between 0 and 1, so that no weight is negative. Between -bound and bound it is "
    "(2 rand - 1) bound, or `uniform_(-bound, bound)`.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(bound * torch.rand(out_features, in_features))
        self.bias = nn.Parameter(bound * torch.rand(out_features)) if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@misconception(
    "linear",
    hint="The bound uses the wrong side: it is 1 / sqrt(in_features), the number of terms in each "
    "sum.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(out_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = (
            nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        )

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@misconception(
    "linear",
    hint="`self.weight.data` cuts the output off from the parameter: right values, but no gradient "
    "comes back.",
)
class MyLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = (
            nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        )

    def forward(self, x):
        y = x @ self.weight.data.T
        return y if self.bias is None else y + self.bias
