"""Other right answers in the chapter on optimizers."""

import copy
import math

import torch

from course.testing import alternative


@alternative("critical")
def classify(f, x, tol=1e-6):
    point = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(point), point, create_graph=True)
    if g.detach().pow(2).sum().sqrt() > tol:
        raise ValueError("the gradient is not zero")
    rows = []
    for entry in g:
        row = None
        if entry.requires_grad:
            (row,) = torch.autograd.grad(entry, point, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(x) if row is None else row)
    H = torch.stack(rows)
    e = torch.linalg.eigvalsh((H + H.T) / 2).tolist()
    signs = {0 if abs(v) <= tol else (1 if v > 0 else -1) for v in e}
    if {1, -1} <= signs:
        return "saddle"
    if 0 in signs:
        return "degenerate"
    return "min" if 1 in signs else "max"


@alternative("critical")
def newton_step(f, x, damping=0.0):
    # In the coordinates of the eigenvectors: the slope over the curvature.
    x = x.detach()
    g = torch.func.grad(f)(x)
    e, Q = torch.linalg.eigh(torch.func.jacrev(torch.func.grad(f))(x))
    e = e + damping
    if (e.abs() < 1e-12 * e.abs().max().clamp(min=1e-6)).any():
        raise torch.linalg.LinAlgError("singular")
    return x - Q @ ((Q.T @ g) / e)


@alternative("momentum")
class SGD:
    # In place, with buffers that are made at the first step, as torch does it.
    def __init__(self, params, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0):
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must not be negative")
        if nesterov and not (momentum > 0 and dampening == 0):
            raise ValueError("nesterov needs momentum and no dampening")
        self.params = tuple(params)
        self.buffers = [None] * len(self.params)
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            d = p.grad.detach().add(p.detach(), alpha=self.weight_decay)
            if self.momentum != 0:
                if self.buffers[i] is None:
                    self.buffers[i] = d.clone()
                else:
                    self.buffers[i].mul_(self.momentum).add_(d, alpha=1 - self.dampening)
                b = self.buffers[i]
                d = d.add(b, alpha=self.momentum) if self.nesterov else b
            p.data.add_(d, alpha=-self.lr)


@alternative("adaptive")
class Adagrad:
    def __init__(self, params, lr=0.01, eps=1e-10):
        self.params, self.lr, self.eps, self.sums = list(params), lr, eps, {}

    def step(self):
        for p in self.params:
            if p.grad is None:
                continue
            g = p.grad.detach()
            self.sums[p] = self.sums.get(p, 0) + g * g
            p.data.addcdiv_(g, self.sums[p].sqrt().add(self.eps), value=-self.lr)


@alternative("adaptive")
class RMSprop:
    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.mean = {p: torch.zeros_like(p) for p in self.params}

    @torch.no_grad()
    def step(self):
        for p, s in self.mean.items():
            if p.grad is not None:
                s.lerp_(p.grad.square(), 1 - self.alpha)
                p.sub_(self.lr * p.grad / (s.sqrt() + self.eps))


@alternative("adaptive")
class Adadelta:
    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6):
        self.params, self.lr, self.rho, self.eps = list(params), lr, rho, eps
        self.state = {}

    @torch.no_grad()
    def step(self):
        for p in self.params:
            if p.grad is None:
                continue
            s, a = self.state.get(p, (torch.zeros_like(p), torch.zeros_like(p)))
            s = self.rho * s + (1 - self.rho) * p.grad.square()
            d = (a + self.eps).sqrt() / (s + self.eps).sqrt() * p.grad
            self.state[p] = (s, self.rho * a + (1 - self.rho) * d.square())
            p.copy_(p - self.lr * d)


@alternative("adam")
class Adam:
    # The corrections are moved into the rate and eps, as in section 2 of the paper.
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
    ):
        if any(beta < 0 or beta >= 1 for beta in betas):
            raise ValueError("betas")
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.weight_decay, self.decoupled, self.state = weight_decay, decoupled, {}

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p in self.params:
            if p.grad is None:
                continue
            t, m, v = self.state.get(p, (0, torch.zeros_like(p), torch.zeros_like(p)))
            t, g = t + 1, p.grad.clone()
            if self.decoupled:
                p.mul_(1 - self.lr * self.weight_decay)
            else:
                g.add_(p, alpha=self.weight_decay)
            m, v = m.lerp(g, 1 - b1), b2 * v + (1 - b2) * g.square()
            self.state[p] = t, m, v
            root = math.sqrt(1 - b2**t)
            p.sub_(self.lr * root / (1 - b1**t) * m / (v.sqrt() + self.eps * root))


@alternative("optimizer")
class Optimizer:
    # Compares parameters by id, and copies tensor by tensor.
    def __init__(self, params, defaults):
        self.defaults = dict(defaults)
        self.state = {}
        self.param_groups = []
        params = list(params)
        if len(params) == 0:
            raise ValueError("no parameters")
        if all(torch.is_tensor(p) for p in params):
            self.add_param_group({"params": params})
        else:
            for group in params:
                self.add_param_group(group)

    def _all(self):
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, group):
        new = copy.copy(group)
        given = new["params"]
        new["params"] = [given] if isinstance(given, torch.Tensor) else [*given]
        ids = {id(p) for p in self._all()}
        for p in new["params"]:
            if id(p) in ids:
                raise ValueError("twice")
            ids.add(id(p))
        if not new["params"]:
            raise ValueError("empty")
        for name, value in self.defaults.items():
            new.setdefault(name, value)
        self.param_groups.append(new)

    def zero_grad(self):
        for p in self._all():
            p.grad = None

    def step(self, phi, psi):
        with torch.no_grad():
            for group in self.param_groups:
                for p in filter(lambda p: p.grad is not None, group["params"]):
                    state = self.state.get(p)
                    if state is None:
                        state = self.state[p] = {"step": 0}
                    state["step"] = state["step"] + 1
                    m = phi(p.grad, state, group)
                    V = psi(p.grad, state, group)
                    p.sub_(group["lr"] * m / (V.sqrt() + group.get("eps", 0.0)))

    def state_dict(self):
        groups, first, state = [], 0, {}
        for group in self.param_groups:
            numbers = list(range(first, first + len(group["params"])))
            first += len(numbers)
            groups.append({**group, "params": numbers})
        for i, p in enumerate(self._all()):
            if p in self.state:
                state[i] = {
                    k: v.clone() if torch.is_tensor(v) else v for k, v in self.state[p].items()
                }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved):
        theirs = saved["param_groups"]
        if len(theirs) != len(self.param_groups):
            raise ValueError("another number of groups")
        for mine, other in zip(self.param_groups, theirs, strict=True):
            if len(mine["params"]) != len(other["params"]):
                raise ValueError("another number of parameters")
        for mine, other in zip(self.param_groups, theirs, strict=True):
            mine.update({k: copy.deepcopy(v) for k, v in other.items() if k != "params"})
        params = self._all()
        self.state = {params[i]: copy.deepcopy(s) for i, s in saved["state"].items()}


@alternative("schedules")
def lr_at(kind, epoch, base, **kw):
    # Walks through the epochs, as a scheduler does.
    if kind not in ("step", "multistep", "exp", "cosine", "restarts", "lambda"):
        raise ValueError(kind)
    low = kw.get("eta_min", 0.0)
    if kind == "cosine":
        return low + (base - low) * math.cos(math.pi * epoch / kw["T_max"] / 2) ** 2
    if kind == "restarts":
        begin, length = 0, kw["T_0"]
        while begin + length <= epoch:
            begin += length
            length *= kw.get("T_mult", 1)
        return low + (base - low) * math.cos(math.pi * (epoch - begin) / length / 2) ** 2
    if kind == "lambda":
        return base * kw["lr_lambda"](epoch)
    rate, gamma = base, kw.get("gamma", 0.1)
    for e in range(1, epoch + 1):
        if kind == "exp" or (kind == "step" and e % kw["step_size"] == 0):
            rate *= gamma
        elif kind == "multistep":
            rate *= gamma ** list(kw["milestones"]).count(e)
    return rate


@alternative("plateau")
class Plateau:
    # Both modes in one: the metric is negated for "max"; the waiting is one number.
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
        if mode not in ("min", "max"):
            raise ValueError("mode")
        if not factor < 1:
            raise ValueError("factor")
        self.lr, self.sign = lr, 1 if mode == "min" else -1
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.share, self.min_lr, self.eps = 1 - self.sign * threshold, min_lr, eps
        self.best, self.bad, self.free = None, 0, 0

    def step(self, metric):
        if self.best is None:
            better = not math.isnan(metric)
        else:
            better = self.sign * metric < self.sign * self.best * self.share
        if better:
            self.best = metric
        if self.free:
            self.free -= 1
            self.bad = 0
        else:
            self.bad = 0 if better else self.bad + 1
        if self.bad > self.patience:
            new = max(self.factor * self.lr, self.min_lr)
            self.lr = new if self.lr - new > self.eps else self.lr
            self.bad, self.free = 0, self.cooldown
        return self.lr


@alternative("warmup")
def warmup_cosine(step, total, warmup, base, final=0.0):
    if warmup < 0 or warmup > total:
        raise ValueError("warmup")
    if step < warmup:
        return base / warmup * (step + 1)
    rest = max(total - warmup, 1)
    share = min(step - warmup, rest) / rest if step < total else 1.0
    return final + (base - final) * math.cos(math.pi / 2 * share) ** 2


@alternative("warmup")
def scaled_lr(batch, ref_lr=0.1, ref_batch=256):
    return batch * (ref_lr / ref_batch)
