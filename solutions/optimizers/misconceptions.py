"""Wrong answers in the chapter on optimizers, each with the hint it deserves."""

import copy
import math

import torch

from course.testing import misconception

# --- critical --------------------------------------------------------------------------------


@misconception(
    "critical",
    hint="Where an eigenvalue is zero, the quadratic model is flat, and higher terms decide. "
    "`>= 0` for all is not enough for a minimum.",
)
def classify(f, x, tol=1e-6):
    if torch.autograd.functional.jacobian(f, x).norm() > tol:
        raise ValueError("not critical")
    e = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x))
    if (e >= -tol).all():
        return "min"
    return "max" if (e <= tol).all() else "saddle"


@misconception(
    "critical",
    hint="A point with a slope is not critical, whatever its Hessian. Look at the gradient first.",
)
def classify(f, x, tol=1e-6):
    e = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x))
    up, down = (e > tol).sum(), (e < -tol).sum()
    if up and down:
        return "saddle"
    if up + down < len(x):
        return "degenerate"
    return "min" if up else "max"


@misconception(
    "critical",
    hint="The determinant alone does not tell: two negative eigenvalues have a positive product. "
    "Look at every eigenvalue.",
)
def classify(f, x, tol=1e-6):
    if torch.autograd.functional.jacobian(f, x).norm() > tol:
        raise ValueError("not critical")
    H = torch.autograd.functional.hessian(f, x)
    det = torch.linalg.det(H)
    if abs(det) <= tol:
        return "degenerate"
    if det < 0:
        return "saddle"
    return "min" if H[0, 0] > 0 else "max"


@misconception(
    "critical",
    hint="Eigenvalues of both signs make a saddle, also when a third one is zero: there is a way "
    "up and a way down.",
)
def classify(f, x, tol=1e-6):
    if torch.autograd.functional.jacobian(f, x).norm() > tol:
        raise ValueError("not critical")
    e = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x))
    if (e.abs() <= tol).any():
        return "degenerate"
    if (e > 0).all():
        return "min"
    return "max" if (e < 0).all() else "saddle"


@misconception(
    "critical",
    hint="Only the diagonal of the Hessian is used. x·y has zeros there and is a saddle all the "
    "same; the eigenvalues know.",
)
def classify(f, x, tol=1e-6):
    if torch.autograd.functional.jacobian(f, x).norm() > tol:
        raise ValueError("not critical")
    e = torch.autograd.functional.hessian(f, x).diagonal()
    if (e > tol).any() and (e < -tol).any():
        return "saddle"
    if (e.abs() <= tol).any():
        return "degenerate"
    return "min" if e[0] > 0 else "max"


@misconception("critical", hint="The step goes uphill: it is minus the inverse Hessian times g.")
def newton_step(f, x, damping=0.0):
    g = torch.autograd.functional.jacobian(f, x)
    H = torch.autograd.functional.hessian(f, x) + damping * torch.eye(len(x)).to(x)
    return (x + torch.linalg.solve(H, g)).detach()


@misconception(
    "critical", hint="This is the step itself. Wanted is the point to which it leads, from x."
)
def newton_step(f, x, damping=0.0):
    g = torch.autograd.functional.jacobian(f, x)
    H = torch.autograd.functional.hessian(f, x) + damping * torch.eye(len(x)).to(x)
    return -torch.linalg.solve(H, g).detach()


@misconception(
    "critical",
    hint="`H + damping` adds the number to every entry of the matrix. Only the diagonal should "
    "get it.",
)
def newton_step(f, x, damping=0.0):
    g = torch.autograd.functional.jacobian(f, x)
    H = torch.autograd.functional.hessian(f, x) + damping
    return (x - torch.linalg.solve(H, g)).detach()


@misconception(
    "critical",
    hint="Each coordinate is divided by its own entry of the diagonal. The mixed derivatives "
    "belong to the Hessian, too: solve (H + damping I) d = g.",
)
def newton_step(f, x, damping=0.0):
    x = x.detach()
    g = torch.func.grad(f)(x)
    H = torch.func.hessian(f)(x)
    return (x - g / torch.diagonal(H + damping)).detach()


@misconception(
    "critical",
    hint="The gradient is compared with zero exactly. Rounding leaves 1e-16 where a zero should "
    "be: compare its norm with tol.",
)
def classify(f, x, tol=1e-6):
    g = torch.autograd.functional.jacobian(f, x)
    if g.any():
        raise ValueError("not a critical point")
    e = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x))
    up, down = (e > tol).sum().item(), (e < -tol).sum().item()
    if up and down:
        return "saddle"
    if up + down < len(e):
        return "degenerate"
    return "min" if up else "max"


@misconception(
    "critical",
    hint="The damping is subtracted. Added to the eigenvalues, it makes the step shorter and "
    "safer.",
)
def newton_step(f, x, damping=0.0):
    x = x.detach()
    g = torch.func.grad(f)(x)
    H = torch.func.hessian(f)(x)
    return (
        x - torch.linalg.solve(H - damping * torch.eye(len(x), dtype=x.dtype, device=x.device), g)
    ).detach()


# --- momentum --------------------------------------------------------------------------------


@misconception("momentum", hint="The parameters climb. A step goes against the gradient.")
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.nesterov, self.wd, self.v = nesterov, weight_decay, {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad + self.wd * p
                if self.mu:
                    old = self.v.get(p)
                    v = g if old is None else self.mu * old + (1 - self.damp) * g
                    self.v[p] = v
                    g = g + self.mu * v if self.nesterov else v
                p += self.lr * g


@misconception(
    "momentum",
    hint="This is an average, with the factor 1 - momentum before the gradient. PyTorch's velocity "
    "is a sum: the gradient goes in whole.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.nesterov, self.wd, self.v = nesterov, weight_decay, {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad + self.wd * p
                if self.mu:
                    v = self.mu * self.v.get(p, 0) + (1 - self.mu) * (1 - self.damp) * g
                    self.v[p] = v
                    g = g + self.mu * v if self.nesterov else v
                p -= self.lr * g


@misconception(
    "momentum",
    hint="Dampening acts in the first step already. There is nothing to damp yet: the first "
    "velocity is the gradient itself.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.nesterov, self.wd, self.v = nesterov, weight_decay, {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad + self.wd * p
                if self.mu:
                    v = self.mu * self.v.get(p, torch.zeros_like(p)) + (1 - self.damp) * g
                    self.v[p] = v
                    g = g + self.mu * v if self.nesterov else v
                p -= self.lr * g


@misconception(
    "momentum",
    hint="Nesterov steps along the velocity alone, which is ordinary momentum. The look-ahead is "
    "one more term: g + momentum * v.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.wd, self.v = weight_decay, {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad + self.wd * p
                if self.mu:
                    old = self.v.get(p)
                    g = g if old is None else self.mu * old + (1 - self.damp) * g
                    self.v[p] = g
                p -= self.lr * g


@misconception(
    "momentum",
    hint="`velocity = p.grad` stores the gradient tensor itself, and in-place arithmetic changes "
    "it. Whoever looks at `.grad` afterwards finds something else. Make new tensors.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.nesterov, self.wd, self.v = nesterov, weight_decay, {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad
                g += self.wd * p
                if self.mu:
                    if p in self.v:
                        self.v[p].mul_(self.mu).add_(g, alpha=1 - self.damp)
                    else:
                        self.v[p] = g
                    g = g + self.mu * self.v[p] if self.nesterov else self.v[p]
                p -= self.lr * g


@misconception(
    "momentum",
    hint="All parameters share one velocity. Each needs its own, of its own shape.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if min(lr, momentum, weight_decay) < 0 or nesterov and (momentum == 0 or dampening):
            raise ValueError("bad settings")
        self.params, self.lr, self.mu, self.damp = list(params), lr, momentum, dampening
        self.nesterov, self.wd, self.v = nesterov, weight_decay, None

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is not None:
                g = p.grad + self.wd * p
                if self.mu:
                    if self.v is None or self.v.shape != g.shape:
                        self.v = g
                    else:
                        self.v = self.mu * self.v + (1 - self.damp) * g
                    g = g + self.mu * self.v if self.nesterov else self.v
                p -= self.lr * g


@misconception(
    "momentum",
    hint="`p = p - ...` makes a new tensor and leaves the parameter where it is. Change it in "
    "place: `p -= ...`.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p = p - self.lr * g


@misconception(
    "momentum",
    hint="The weight decay does not go through the velocity. In SGD, weight_decay * p is added to "
    "the gradient first, before anything else.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p -= self.lr * (g + self.weight_decay * p)


@misconception(
    "momentum",
    hint="A generator can be read only once: after the first step there are no parameters left. "
    "Make a list in `__init__`.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = params
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = {}

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p
            if self.momentum:
                if i not in self.v:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p -= self.lr * g


@misconception(
    "momentum",
    hint="The learning rate is inside the velocity. It looks the same until the rate changes: then"
    " the old velocity keeps the old rate. Multiply by lr only in the step.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = self.lr * g
                else:
                    self.v[i] = self.momentum * self.v[i] + self.lr * (1 - self.dampening) * g
                g = self.lr * g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p -= g if self.momentum else self.lr * g


@misconception(
    "momentum",
    hint="Dampening acts without momentum. It belongs to the velocity, and without momentum there "
    "is none.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            elif self.dampening:
                g = g * (1 - self.dampening)
            p -= self.lr * g


@misconception(
    "momentum",
    hint="A gradient of None is taken for zero: the velocity and the decay go on moving the "
    "parameter. Skip it altogether.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            g = (p.grad if p.grad is not None else torch.zeros_like(p)) + self.weight_decay * p
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p -= self.lr * g


@misconception(
    "momentum",
    hint="Nesterov with dampening is accepted. The look-ahead g + momentum * v supposes that v "
    "took the gradient in whole, so it should raise ValueError.",
)
class SGD:
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError("negative")
        if nesterov and momentum <= 0:
            raise ValueError("nesterov")
        self.params = list(params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay
        self.v = [None] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p
            if self.momentum:
                if self.v[i] is None:
                    self.v[i] = g.clone()
                else:
                    self.v[i] = self.momentum * self.v[i] + (1 - self.dampening) * g
                g = g + self.momentum * self.v[i] if self.nesterov else self.v[i]
            p -= self.lr * g


# --- adaptive --------------------------------------------------------------------------------


@misconception(
    "adaptive",
    hint="Adagrad keeps the *sum* of all squares; a moving average of them is RMSprop.",
)
class Adagrad:
    def __init__(self, params, lr=0.01, eps=1e-10):
        self.params, self.lr, self.eps = list(params), lr, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s, strict=True):
            if p.grad is not None:
                s.copy_(0.9 * s + 0.1 * p.grad**2)
                p -= self.lr * p.grad / (s.sqrt() + self.eps)


@misconception(
    "adaptive",
    hint="The root is missing. Without it, a larger gradient gives a *smaller* step.",
)
class Adagrad:
    def __init__(self, params, lr=0.01, eps=1e-10):
        self.params, self.lr, self.eps = list(params), lr, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s, strict=True):
            if p.grad is not None:
                s += p.grad**2
                p -= self.lr * p.grad / (s + self.eps)


@misconception(
    "adaptive",
    hint="eps stands inside the root. In PyTorch's RMSprop it is added to the root, which makes a "
    "difference when gradients are small.",
)
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s, strict=True):
            if p.grad is not None:
                s.copy_(self.alpha * s + (1 - self.alpha) * p.grad**2)
                p -= self.lr * p.grad / (s + self.eps).sqrt()


@misconception(
    "adaptive",
    hint="alpha and 1 - alpha have changed places. With alpha = 0.99 the average should be slow.",
)
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s, strict=True):
            if p.grad is not None:
                s.copy_((1 - self.alpha) * s + self.alpha * p.grad**2)
                p -= self.lr * p.grad / (s.sqrt() + self.eps)


@misconception(
    "adaptive",
    hint="One scale for the whole tensor, from the norm of its gradient. The division goes entry "
    "by entry.",
)
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.s = [0.0 for p in self.params]

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is not None:
                mean = (p.grad**2).mean()
                self.s[i] = self.alpha * self.s[i] + (1 - self.alpha) * mean
                p -= self.lr * p.grad / (self.s[i].sqrt() + self.eps)


@misconception(
    "adaptive",
    hint="The average of squared steps is updated before the step uses it. The numerator is the "
    "size of the steps *so far*.",
)
class Adadelta:
    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6):
        self.params, self.lr, self.rho, self.eps = list(params), lr, rho, eps
        self.s = [torch.zeros_like(p) for p in self.params]
        self.a = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s, a in zip(self.params, self.s, self.a, strict=True):
            if p.grad is not None:
                s.copy_(self.rho * s + (1 - self.rho) * p.grad**2)
                d = ((a + self.eps) / (s + self.eps)).sqrt() * p.grad
                a.copy_(self.rho * a + (1 - self.rho) * d**2)
                p -= self.lr * ((a + self.eps) / (s + self.eps)).sqrt() * p.grad


@misconception(
    "adaptive",
    hint="The average takes the squares of lr times the step. It should hold the step before lr "
    "is applied.",
)
class Adadelta:
    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6):
        self.params, self.lr, self.rho, self.eps = list(params), lr, rho, eps
        self.s = [torch.zeros_like(p) for p in self.params]
        self.a = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s, a in zip(self.params, self.s, self.a, strict=True):
            if p.grad is not None:
                s.copy_(self.rho * s + (1 - self.rho) * p.grad**2)
                d = self.lr * ((a + self.eps) / (s + self.eps)).sqrt() * p.grad
                a.copy_(self.rho * a + (1 - self.rho) * d**2)
                p -= d


@misconception(
    "adaptive", hint="eps stands inside Adagrad's root. As in RMSprop it is added to the root."
)
class Adagrad:
    def __init__(self, params, lr=0.01, eps=1e-10):
        self.params = list(params)
        self.lr, self.eps = lr, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s):
            if p.grad is not None:
                s += p.grad**2
                p -= self.lr * p.grad / (s + self.eps).sqrt()


@misconception(
    "adaptive",
    hint="The step is divided by the old average, which is zero at first. Put the new square into "
    "the average, then divide.",
)
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params = list(params)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s):
            if p.grad is not None:
                p -= self.lr * p.grad / (s.sqrt() + self.eps)
                s.mul_(self.alpha).add_((1 - self.alpha) * p.grad**2)


@misconception(
    "adaptive",
    hint="The average is corrected for its start at zero. Adam does that; RMSprop does not.",
)
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params = list(params)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.t = 0
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p, s in zip(self.params, self.s):
            if p.grad is not None:
                s.mul_(self.alpha).add_((1 - self.alpha) * p.grad**2)
                p -= self.lr * p.grad / ((s / (1 - self.alpha**self.t)).sqrt() + self.eps)


@misconception(
    "adaptive",
    hint="eps is added to the roots. In Adadelta it stands inside both of them: sqrt(average + "
    "eps).",
)
class Adadelta:
    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6):
        self.params = list(params)
        self.lr, self.rho, self.eps = lr, rho, eps
        self.s = [torch.zeros_like(p) for p in self.params]
        self.a = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s, a in zip(self.params, self.s, self.a):
            if p.grad is not None:
                s.mul_(self.rho).add_((1 - self.rho) * p.grad**2)
                d = (a.sqrt() + self.eps) / (s.sqrt() + self.eps) * p.grad
                p -= self.lr * d
                a.mul_(self.rho).add_((1 - self.rho) * d**2)


@misconception("adaptive", hint="lr is left out. It is a factor of the step, 1 by default.")
class Adadelta:
    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6):
        self.params = list(params)
        self.lr, self.rho, self.eps = lr, rho, eps
        self.s = [torch.zeros_like(p) for p in self.params]
        self.a = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s, a in zip(self.params, self.s, self.a):
            if p.grad is not None:
                s.mul_(self.rho).add_((1 - self.rho) * p.grad**2)
                d = (a + self.eps).sqrt() / (s + self.eps).sqrt() * p.grad
                p -= d
                a.mul_(self.rho).add_((1 - self.rho) * d**2)


@misconception(
    "adaptive",
    hint="The sum takes absolute values. It should take squares, and the root comes in the step.",
)
class Adagrad:
    def __init__(self, params, lr=0.01, eps=1e-10):
        self.params = list(params)
        self.lr, self.eps = lr, eps
        self.s = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        for p, s in zip(self.params, self.s):
            if p.grad is not None:
                s += p.grad.abs()
                p -= self.lr * p.grad / (s.sqrt() + self.eps)


# --- adam ------------------------------------------------------------------------------------


@misconception(
    "adam",
    hint="The averages start at zero and are used as they are. Divide by 1 - beta ** t before use.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            if p.grad is not None:
                g = p.grad
                if self.decoupled:
                    p *= 1 - self.lr * self.wd
                else:
                    g = g + self.wd * p
                m.copy_(b1 * m + (1 - b1) * g)
                v.copy_(b2 * v + (1 - b2) * g**2)
                p -= self.lr * m / (v.sqrt() + self.eps)


@misconception(
    "adam",
    hint="The corrected averages are stored and corrected again in the next step. Keep the plain "
    "ones; the corrected ones serve one step only.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, (p, m, v) in enumerate(zip(self.params, self.m, self.v, strict=True)):
            if p.grad is not None:
                g = p.grad
                self.t[i] += 1
                if self.decoupled:
                    p *= 1 - self.lr * self.wd
                else:
                    g = g + self.wd * p
                m.copy_((b1 * m + (1 - b1) * g) / (1 - b1 ** self.t[i]))
                v.copy_((b2 * v + (1 - b2) * g**2) / (1 - b2 ** self.t[i]))
                p -= self.lr * m / (v.sqrt() + self.eps)


@misconception(
    "adam",
    hint="One count t for all parameters. One that joins later, or is skipped, needs a count of "
    "its own.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd, self.decoupled, self.t = weight_decay, decoupled, 0
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        self.t += 1
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            if p.grad is not None:
                g = p.grad
                if self.decoupled:
                    p *= 1 - self.lr * self.wd
                else:
                    g = g + self.wd * p
                m.copy_(b1 * m + (1 - b1) * g)
                v.copy_(b2 * v + (1 - b2) * g**2)
                m_hat, v_hat = m / (1 - b1**self.t), v / (1 - b2**self.t)
                p -= self.lr * m_hat / (v_hat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="The decoupled decay lacks the learning rate: the factor is 1 - lr * weight_decay.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, (p, m, v) in enumerate(zip(self.params, self.m, self.v, strict=True)):
            if p.grad is not None:
                g = p.grad
                self.t[i] += 1
                if self.decoupled:
                    p *= 1 - self.wd
                else:
                    g = g + self.wd * p
                m.copy_(b1 * m + (1 - b1) * g)
                v.copy_(b2 * v + (1 - b2) * g**2)
                m_hat, v_hat = m / (1 - b1 ** self.t[i]), v / (1 - b2 ** self.t[i])
                p -= self.lr * m_hat / (v_hat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="`decoupled` makes no difference: the decay goes through the averages in both cases, and "
    "is divided with them.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd = weight_decay
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, (p, m, v) in enumerate(zip(self.params, self.m, self.v, strict=True)):
            if p.grad is not None:
                g = p.grad + self.wd * p
                self.t[i] += 1
                m.copy_(b1 * m + (1 - b1) * g)
                v.copy_(b2 * v + (1 - b2) * g**2)
                m_hat, v_hat = m / (1 - b1 ** self.t[i]), v / (1 - b2 ** self.t[i])
                p -= self.lr * m_hat / (v_hat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="eps is added before the root. In Adam it is added to the root of the corrected average.",
)
class Adam:
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, (p, m, v) in enumerate(zip(self.params, self.m, self.v, strict=True)):
            if p.grad is not None:
                g = p.grad
                self.t[i] += 1
                if self.decoupled:
                    p *= 1 - self.lr * self.wd
                else:
                    g = g + self.wd * p
                m.copy_(b1 * m + (1 - b1) * g)
                v.copy_(b2 * v + (1 - b2) * g**2)
                m_hat, v_hat = m / (1 - b1 ** self.t[i]), v / (1 - b2 ** self.t[i])
                p -= self.lr * m_hat / (v_hat + self.eps).sqrt()


@misconception(
    "adam",
    hint="t is still 0 in the first step, where 1 - beta ** t is zero. Count first, then correct.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            else:
                g = g + self.wd * p
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)
            self.t[i] += 1


@misconception(
    "adam",
    hint="Only m is corrected. v starts at zero as well and needs its own correction, 1 - beta2 **"
    " t.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            else:
                g = g + self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i]
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="With decoupled=True the decay also goes into the gradient. It should be one or the "
    "other.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            g = g + self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="A parameter without a gradient still decays. Skip it before anything happens to it.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            if g is None:
                continue
            if self.decoupled:
                pass
            else:
                g = g + self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)


@misconception(
    "adam",
    hint="`g += ...` writes the decay into `p.grad` itself. Make a new tensor: g = g + "
    "weight_decay * p.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            else:
                g += self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)


@misconception(
    "adam", hint="The decay comes after the step, so it shrinks the step, too. Multiply p first."
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                pass
            else:
                g = g + self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)
            if self.decoupled:
                p *= 1 - self.lr * self.wd


@misconception(
    "adam",
    hint="A beta of 1 is accepted. Then the average never takes anything in, and its correction "
    "divides by zero.",
)
class Adam:
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    ):
        if not all(0 <= b <= 1 for b in betas):
            raise ValueError("betas")
        self.params = list(params)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.wd, self.decoupled = weight_decay, decoupled
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0 for p in self.params]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for i, p in enumerate(self.params):
            g = p.grad
            if g is None:
                continue
            if self.decoupled:
                p *= 1 - self.lr * self.wd
            else:
                g = g + self.wd * p
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            mhat = self.m[i] / (1 - b1 ** self.t[i])
            vhat = self.v[i] / (1 - b2 ** self.t[i])
            p -= self.lr * mhat / (vhat.sqrt() + self.eps)


# --- optimizer -------------------------------------------------------------------------------


@misconception(
    "optimizer",
    hint="The saved dictionary holds the very tensors that go on changing. A snapshot must be a "
    "copy, and so must what you load.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults, self.state, self.param_groups = defaults, {}, []
        groups = list(params)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if torch.is_tensor(params) else list(params)
        known = [p for other in self.param_groups for p in other["params"]]
        if not params or len(set(known + params)) < len(known) + len(params):
            raise ValueError("bad group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {"step": 0})
                    state["step"] += 1
                    m, V = phi(p.grad, state, group), psi(p.grad, state, group)
                    p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def state_dict(self):
        params = [p for group in self.param_groups for p in group["params"]]
        number = {p: i for i, p in enumerate(params)}
        return {
            "state": {number[p]: s for p, s in self.state.items()},
            "param_groups": [
                {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
            ],
        }

    def load_state_dict(self, saved):
        mine, theirs = self.param_groups, saved["param_groups"]
        if [len(g["params"]) for g in mine] != [len(g["params"]) for g in theirs]:
            raise ValueError("the groups do not fit")
        params = [p for group in mine for p in group["params"]]
        self.state = {params[i]: s for i, s in saved["state"].items()}
        self.param_groups = [
            {**new, "params": old["params"]} for new, old in zip(theirs, mine, strict=True)
        ]


@misconception(
    "optimizer",
    hint="Gradients are filled with zeros. torch sets them to None, so that parameters without a "
    "gradient are skipped.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults, self.state, self.param_groups = defaults, {}, []
        groups = list(params)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if torch.is_tensor(params) else list(params)
        known = [p for other in self.param_groups for p in other["params"]]
        if not params or len(set(known + params)) < len(known) + len(params):
            raise ValueError("bad group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.zero_()

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {"step": 0})
                    state["step"] += 1
                    m, V = phi(p.grad, state, group), psi(p.grad, state, group)
                    p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def state_dict(self):
        params = [p for group in self.param_groups for p in group["params"]]
        number = {p: i for i, p in enumerate(params)}
        groups = [{**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups]
        state = {number[p]: s for p, s in self.state.items()}
        return copy.deepcopy({"state": state, "param_groups": groups})

    def load_state_dict(self, saved):
        saved = copy.deepcopy(saved)
        mine, theirs = self.param_groups, saved["param_groups"]
        if [len(g["params"]) for g in mine] != [len(g["params"]) for g in theirs]:
            raise ValueError("the groups do not fit")
        params = [p for group in mine for p in group["params"]]
        self.state = {params[i]: s for i, s in saved["state"].items()}
        self.param_groups = [
            {**new, "params": old["params"]} for new, old in zip(theirs, mine, strict=True)
        ]


@misconception(
    "optimizer",
    hint="All groups are stepped with the defaults. Each group has settings of its own, and the "
    "defaults only fill the gaps.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults, self.state, self.param_groups = defaults, {}, []
        groups = list(params)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if torch.is_tensor(params) else list(params)
        known = [p for other in self.param_groups for p in other["params"]]
        if not params or len(set(known + params)) < len(known) + len(params):
            raise ValueError("bad group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {"step": 0})
                    state["step"] += 1
                    m, V = phi(p.grad, state, self.defaults), psi(p.grad, state, self.defaults)
                    p -= self.defaults["lr"] * m / (V.sqrt() + self.defaults.get("eps", 0))

    def state_dict(self):
        params = [p for group in self.param_groups for p in group["params"]]
        number = {p: i for i, p in enumerate(params)}
        groups = [{**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups]
        state = {number[p]: s for p, s in self.state.items()}
        return copy.deepcopy({"state": state, "param_groups": groups})

    def load_state_dict(self, saved):
        saved = copy.deepcopy(saved)
        mine, theirs = self.param_groups, saved["param_groups"]
        if [len(g["params"]) for g in mine] != [len(g["params"]) for g in theirs]:
            raise ValueError("the groups do not fit")
        params = [p for group in mine for p in group["params"]]
        self.state = {params[i]: s for i, s in saved["state"].items()}
        self.param_groups = [
            {**new, "params": old["params"]} for new, old in zip(theirs, mine, strict=True)
        ]


@misconception(
    "optimizer",
    hint="The states are loaded, but the settings stay the old ones. Resuming needs the groups' "
    "learning rates, too.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults, self.state, self.param_groups = defaults, {}, []
        groups = list(params)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if torch.is_tensor(params) else list(params)
        known = [p for other in self.param_groups for p in other["params"]]
        if not params or len(set(known + params)) < len(known) + len(params):
            raise ValueError("bad group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {"step": 0})
                    state["step"] += 1
                    m, V = phi(p.grad, state, group), psi(p.grad, state, group)
                    p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def state_dict(self):
        params = [p for group in self.param_groups for p in group["params"]]
        number = {p: i for i, p in enumerate(params)}
        groups = [{**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups]
        state = {number[p]: s for p, s in self.state.items()}
        return copy.deepcopy({"state": state, "param_groups": groups})

    def load_state_dict(self, saved):
        saved = copy.deepcopy(saved)
        mine, theirs = self.param_groups, saved["param_groups"]
        if [len(g["params"]) for g in mine] != [len(g["params"]) for g in theirs]:
            raise ValueError("the groups do not fit")
        params = [p for group in mine for p in group["params"]]
        self.state = {params[i]: s for i, s in saved["state"].items()}


@misconception(
    "optimizer", hint="The root is missing: V holds squares, so the step is m / (sqrt(V) + eps)."
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception("optimizer", hint="eps stands inside the root; here it is added to the root.")
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V + group.get("eps", 0)).sqrt()

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="The numbers begin at 0 again in every group, so two parameters share one. Count through "
    "all groups.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": list(range(len(g["params"])))} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="The parameters are saved under `id(p)`, which means nothing to another optimizer. Number"
    " them from 0, through all groups.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: id(p) for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="`p in list` compares values, entry by entry. Two parameters may hold equal numbers: "
    "compare the objects, by a set, a dict or `is`.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if any(p in g["params"] for g in self.param_groups for p in params):
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="The loaded states still stand under their numbers. Hand each one to the parameter with "
    "that number.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = saved["state"]


@misconception(
    "optimizer", hint='state["step"] is counted after phi and psi. They need it: set it before.'
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                state["step"] = state.get("step", 0) + 1
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="The caller's own dict is changed. Make a new one: {**self.defaults, **group, ...}.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        group["params"] = params
        for k, v in self.defaults.items():
            group.setdefault(k, v)
        self.param_groups.append(group)

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="Loading adds to the states that are there. It should replace them: what is not in "
    "`saved` is forgotten.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state.update(state)


@misconception(
    "optimizer",
    hint="Only the number of groups is compared. A group with another number of parameters should "
    "raise ValueError, too.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if len(mine) != len(saved["param_groups"]):
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="What is loaded is used as it is, so that later steps change `saved`. Copy it.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint="`state` has an entry for every parameter from the start. It should be empty until a "
    "parameter has its first update.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        for p in params:
            self.state[p] = {}
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


@misconception(
    "optimizer",
    hint='A single tensor under "params" is taken for a list, and its rows become the parameters. '
    "Wrap it in a list.",
)
class Optimizer:
    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        if not isinstance(params[0], dict):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def add_param_group(self, group):
        params = group["params"]
        params = list(params)
        if not params:
            raise ValueError("no parameters")
        ids = [id(p) for p in params]
        if len(set(ids)) < len(ids):
            raise ValueError("twice")
        if set(ids) & {id(p) for g in self.param_groups for p in g["params"]}:
            raise ValueError("in another group")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, phi, psi):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                state["step"] = state.get("step", 0) + 1
                m = phi(p.grad, state, group)
                V = psi(p.grad, state, group)
                if not isinstance(V, torch.Tensor):
                    V = torch.tensor(V, dtype=p.dtype, device=p.device)
                p -= group["lr"] * m / (V.sqrt() + group.get("eps", 0))

    def _all(self):
        return [p for g in self.param_groups for p in g["params"]]

    def state_dict(self):
        params = self._all()
        number = {p: i for i, p in enumerate(params)}
        return copy.deepcopy(
            {
                "state": {number[p]: s for p, s in self.state.items()},
                "param_groups": [
                    {**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups
                ],
            }
        )

    def load_state_dict(self, saved):
        mine = [len(g["params"]) for g in self.param_groups]
        if mine != [len(g["params"]) for g in saved["param_groups"]]:
            raise ValueError("other groups")
        saved = copy.deepcopy(saved)
        groups = []
        state = {}
        for old, new in zip(self.param_groups, saved["param_groups"]):
            for p, i in zip(old["params"], new["params"]):
                if i in saved["state"]:
                    state[p] = saved["state"][i]
            groups.append({**new, "params": old["params"]})
        self.param_groups = groups
        self.state = state


# --- schedules -------------------------------------------------------------------------------


@misconception(
    "schedules",
    hint="A rate at T_max and then zero for ever: the cosine goes on beyond T_max and rises again.",
)
def lr_at(kind, epoch, base, **kw):
    gamma, low = kw.get("gamma", 0.1), kw.get("eta_min", 0.0)

    def cosine(e, T):
        return low + (base - low) * (1 + math.cos(math.pi * e / T)) / 2

    if kind == "step":
        return base * gamma ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * gamma ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * gamma**epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    if kind == "cosine":
        return cosine(min(epoch, kw["T_max"]), kw["T_max"])
    if kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch, T = epoch - T, T * kw.get("T_mult", 1)
        return cosine(epoch, T)
    raise ValueError(kind)


@misconception(
    "schedules",
    hint="All cycles have the same length. With T_mult, each is T_mult times as long as the one "
    "before.",
)
def lr_at(kind, epoch, base, **kw):
    gamma, low = kw.get("gamma", 0.1), kw.get("eta_min", 0.0)

    def cosine(e, T):
        return low + (base - low) * (1 + math.cos(math.pi * e / T)) / 2

    if kind == "step":
        return base * gamma ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * gamma ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * gamma**epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    if kind == "cosine":
        return cosine(epoch, kw["T_max"])
    if kind == "restarts":
        return cosine(epoch % kw["T_0"], kw["T_0"])
    raise ValueError(kind)


@misconception(
    "schedules",
    hint="The rate falls one epoch after the milestone. At the milestone itself it has fallen: "
    "count the milestones m with m <= epoch.",
)
def lr_at(kind, epoch, base, **kw):
    gamma, low = kw.get("gamma", 0.1), kw.get("eta_min", 0.0)

    def cosine(e, T):
        return low + (base - low) * (1 + math.cos(math.pi * e / T)) / 2

    if kind == "step":
        return base * gamma ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * gamma ** sum(m < epoch for m in kw["milestones"])
    if kind == "exp":
        return base * gamma**epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    if kind == "cosine":
        return cosine(epoch, kw["T_max"])
    if kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch, T = epoch - T, T * kw.get("T_mult", 1)
        return cosine(epoch, T)
    raise ValueError(kind)


@misconception(
    "schedules",
    hint="The exponential is applied again and again with a growing power. Over e epochs the rate "
    "is multiplied by gamma e times in all.",
)
def lr_at(kind, epoch, base, **kw):
    gamma, low = kw.get("gamma", 0.1), kw.get("eta_min", 0.0)

    def cosine(e, T):
        return low + (base - low) * (1 + math.cos(math.pi * e / T)) / 2

    if kind == "step":
        return base * gamma ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * gamma ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        lr = base
        for e in range(epoch + 1):
            lr = lr * gamma**e
        return lr
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    if kind == "cosine":
        return cosine(epoch, kw["T_max"])
    if kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch, T = epoch - T, T * kw.get("T_mult", 1)
        return cosine(epoch, T)
    raise ValueError(kind)


@misconception(
    "schedules",
    hint="The function's value is taken as the rate itself. It is a factor of the base rate.",
)
def lr_at(kind, epoch, base, **kw):
    gamma, low = kw.get("gamma", 0.1), kw.get("eta_min", 0.0)

    def cosine(e, T):
        return low + (base - low) * (1 + math.cos(math.pi * e / T)) / 2

    if kind == "step":
        return base * gamma ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * gamma ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * gamma**epoch
    if kind == "lambda":
        return kw["lr_lambda"](epoch)
    if kind == "cosine":
        return cosine(epoch, kw["T_max"])
    if kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch, T = epoch - T, T * kw.get("T_mult", 1)
        return cosine(epoch, T)
    raise ValueError(kind)


@misconception(
    "schedules",
    hint='The rate falls like exp(-gamma e). "exp" multiplies by gamma once an epoch: gamma ** e.',
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * math.exp(-kw["gamma"] * epoch)
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * epoch / T))


@misconception(
    "schedules",
    hint='"cosine" jumps back to the base at T_max. That is a restart; the plain cosine turns '
    "round and climbs.",
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
        epoch = epoch % T
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * epoch / T))


@misconception(
    "schedules",
    hint="The last epoch of a cycle is counted to the wrong one: at epoch T_0 the new cycle has "
    "begun. Use >=.",
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch > T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * epoch / T))


@misconception(
    "schedules",
    hint="The exponent is epoch / step_size, which falls a little in every epoch. Stairs need the "
    "floor, //.",
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch / kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * epoch / T))


@misconception(
    "schedules", hint="A milestone that is listed twice counts once. It should count twice."
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in set(kw["milestones"]))
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * epoch / T))


@misconception(
    "schedules",
    hint="The cosine runs through a whole period in T_max epochs. It should be half of one, from 1"
    " to -1.",
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + (base - low) / 2 * (1 + math.cos(2 * math.pi * epoch / T))


@misconception(
    "schedules",
    hint="The wave's height is the base rate. It should be base - eta_min, so that the first rate "
    "is the base.",
)
def lr_at(kind, epoch, base, **kw):
    if kind == "step":
        return base * kw.get("gamma", 0.1) ** (epoch // kw["step_size"])
    if kind == "multistep":
        return base * kw.get("gamma", 0.1) ** sum(m <= epoch for m in kw["milestones"])
    if kind == "exp":
        return base * kw["gamma"] ** epoch
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    low = kw.get("eta_min", 0)
    if kind == "cosine":
        T = kw["T_max"]
    elif kind == "restarts":
        T = kw["T_0"]
        while epoch >= T:
            epoch -= T
            T *= kw.get("T_mult", 1)
    else:
        raise ValueError(kind)
    return low + base / 2 * (1 + math.cos(math.pi * epoch / T))


# --- plateau ---------------------------------------------------------------------------------


@misconception(
    "plateau",
    hint="It lowers the rate one epoch too early. `patience` bad epochs are accepted; the next one "
    "is too many.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("settings")
        self.lr, self.mode, self.factor, self.patience = lr, mode, factor, patience
        self.cooldown, self.threshold, self.min_lr, self.eps = cooldown, threshold, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        self.bad += 1
        if better:
            self.best, self.bad = metric, 0
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad >= self.patience and self.bad > 0:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr


@misconception(
    "plateau",
    hint="Bad epochs are counted over the whole run. One that is better sets the count to zero.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("settings")
        self.lr, self.mode, self.factor, self.patience = lr, mode, factor, patience
        self.cooldown, self.threshold, self.min_lr, self.eps = cooldown, threshold, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best = metric
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr


@misconception(
    "plateau",
    hint="NaN is taken for an improvement. Every comparison with NaN is False, so `not worse` is "
    "True: ask whether the metric is better.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("settings")
        self.lr, self.mode, self.factor, self.patience = lr, mode, factor, patience
        self.cooldown, self.threshold, self.min_lr, self.eps = cooldown, threshold, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def step(self, metric):
        if self.mode == "min":
            worse = metric >= self.best * (1 - self.threshold)
        else:
            worse = metric <= self.best * (1 + self.threshold)
        if worse:
            self.bad += 1
        else:
            self.best, self.bad = metric, 0
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr


@misconception(
    "plateau",
    hint="The metric is compared with the last one. The bar is the *best* so far; else a metric "
    "that goes up and down never counts as stuck.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("settings")
        self.lr, self.mode, self.factor, self.patience = lr, mode, factor, patience
        self.cooldown, self.threshold, self.min_lr, self.eps = cooldown, threshold, min_lr, eps
        self.last = math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.last * (1 - self.threshold)
        else:
            better = metric > self.last * (1 + self.threshold)
        self.last = metric
        self.bad = 0 if better else self.bad + 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr


@misconception(
    "plateau",
    hint="The threshold is taken as an absolute difference. It is relative: a share of the best.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("settings")
        self.lr, self.mode, self.factor, self.patience = lr, mode, factor, patience
        self.cooldown, self.threshold, self.min_lr, self.eps = cooldown, threshold, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cooling = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best - self.threshold
        else:
            better = metric > self.best + self.threshold
        self.bad += 1
        if better:
            self.best, self.bad = metric, 0
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr


@misconception(
    "plateau",
    hint="With >= the rate is lowered after `patience` bad epochs; with patience 0 even after a "
    "good one. Compare with >.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad >= self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="In the cooldown the metric is not looked at. It may be a new best: rule 1 comes first, "
    "then the cooldown.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.cool > 0:
            self.cool -= 1
            return self.lr
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="Any improvement counts, however small. It must exceed the threshold, a share of the "
    "best.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best
        else:
            better = metric > self.best
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="After a lowering the count of bad epochs goes on, so the next bad epoch lowers again. "
    "Set it to zero.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
        return self.lr


@misconception(
    "plateau",
    hint='In mode "max" the bar is below the best. It should be above: best * (1 + threshold).',
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 - self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="The rate is lowered by however little. A change of at most eps is to be left out.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="A change of exactly eps is taken. It should be left out: only a change of more than eps "
    "counts.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new >= self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        return self.lr


@misconception(
    "plateau",
    hint="The cooldown is looked at after the lowering. Rule 2 comes before rule 3: in a cooldown "
    "the count is zero, bad or not.",
)
class Plateau:
    def __init__(
        self,
        lr,
        mode="min",
        factor=0.1,
        patience=10,
        cooldown=0,
        threshold=1e-4,
        min_lr=0.0,
        eps=1e-8,
    ):
        if mode not in ("min", "max") or factor >= 1:
            raise ValueError("bad")
        self.lr, self.mode, self.factor = lr, mode, factor
        self.patience, self.cooldown, self.threshold = patience, cooldown, threshold
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.cool = 0

    def step(self, metric):
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        if better:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            if self.lr - new > self.eps:
                self.lr = new
            self.cool = self.cooldown
            self.bad = 0
        elif self.cool > 0:
            self.cool -= 1
            self.bad = 0
        return self.lr


# --- warmup ----------------------------------------------------------------------------------


@misconception(
    "warmup",
    hint="The first step has the rate zero and is wasted. Step s is the (s + 1)-th of the warm-up.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return base * step / warmup
    progress = (step - warmup) / (total - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * progress)) / 2


@misconception(
    "warmup",
    hint="The cosine counts from step 0, so that the rate jumps down at the joint. It should begin "
    "where the warm-up ends.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return base * (step + 1) / warmup
    return final + (base - final) * (1 + math.cos(math.pi * step / total)) / 2


@misconception(
    "warmup",
    hint="After `total` the cosine rises again. From there on the rate should stay at `final`.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step < warmup:
        return base * (step + 1) / warmup
    if warmup == total:
        return final
    progress = (step - warmup) / (total - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * progress)) / 2


@misconception(
    "warmup",
    hint="The rate grows with the *root* of the batch. That is another rule; linear means in "
    "proportion.",
)
def scaled_lr(batch, ref_lr=0.1, ref_batch=256):
    return ref_lr * (batch / ref_batch) ** 0.5


@misconception(
    "warmup", hint="Upside down: a larger batch has less noise and deserves a larger rate."
)
def scaled_lr(batch, ref_lr=0.1, ref_batch=256):
    return ref_lr * ref_batch / batch


@misconception(
    "warmup",
    hint="The warm-up goes on for one step too long, above the base rate. Step `warmup` belongs to"
    " the cosine.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step <= warmup:
        return base * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * done)) / 2


@misconception(
    "warmup",
    hint="The cosine falls to zero and then jumps to `final`. It should fall from base to final.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return base * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return base * (1 + math.cos(math.pi * done)) / 2


@misconception(
    "warmup",
    hint="This is a quarter of a cosine, which arrives with full speed. Half of one, (1 + cos(pi "
    "x)) / 2, is flat at both ends.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return base * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return final + (base - final) * math.cos(math.pi / 2 * done)


@misconception(
    "warmup", hint="The cosine arrives one step too early. Its progress is 1 at step `total`."
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return base * (step + 1) / warmup
    done = (step - warmup) / (total - 1 - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * done)) / 2


@misconception(
    "warmup",
    hint="The warm-up starts from `final`. It is a share of the base rate alone: base * (s + 1) / "
    "warmup.",
)
def warmup_cosine(step, total, warmup, base, final=0.0):
    if not 0 <= warmup <= total:
        raise ValueError("warmup")
    if step >= total:
        return final
    if step < warmup:
        return final + (base - final) * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * done)) / 2


@misconception(
    "warmup",
    hint="`//` cuts the ratio off to a whole number: below the reference batch the rate becomes "
    "zero.",
)
def scaled_lr(batch, ref_lr=0.1, ref_batch=256):
    return ref_lr * (batch // ref_batch)
