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
