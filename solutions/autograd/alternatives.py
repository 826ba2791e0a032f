"""Other right answers to the exercises on autograd."""

import math

import torch
from torch import nn

from course.testing import alternative

# --- flags -----------------------------------------------------------------------------------


@alternative("flags")
def tracks_grad(op_name):
    """Run the expression and look."""
    w = torch.ones(3, requires_grad=True)
    x = torch.ones(3)
    linear = nn.Linear(3, 1)
    results = {
        "w * x": lambda: w * x,
        "x + 1": lambda: x + 1,
        "w[0]": lambda: w[0],
        "w > 0": lambda: w > 0,
        "w * 0": lambda: w * 0,
        "w.argmax()": lambda: w.argmax(),
        "w.detach() * x": lambda: w.detach() * x,
        "w.clone()": lambda: w.clone(),
        "w.data * 2": lambda: w.data * 2,
        "torch.zeros_like(w)": lambda: torch.zeros_like(w),
        "linear(x)": lambda: linear(x),
        "linear.eval()(x)": lambda: linear.eval()(x),
    }
    try:
        result = results[op_name]
    except KeyError:
        raise ValueError(f"unknown: {op_name}") from None
    return result().requires_grad


@alternative("flags")
def infer(model, x):
    """Inference mode, and the modes in a dictionary."""
    flags = {name: module.training for name, module in model.named_modules()}
    try:
        model.train(False)
        with torch.inference_mode():
            y = model(x)
    finally:
        for name, module in model.named_modules():
            module.training = flags[name]
    return y


@alternative("flags")
def infer(model, x):
    """Detach the answer, with the modes put back by an ExitStack."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        return model(x).detach()


# --- vjp -------------------------------------------------------------------------------------


@alternative("vjp")
def vjp(f, x, v):
    """The gradient of the weighted sum."""
    leaf = x.detach().clone().requires_grad_(True)
    y = f(leaf)
    if tuple(v.shape) != tuple(y.shape):
        raise ValueError("v should have the shape of f(x)")
    (y * v).sum().backward()
    return leaf.grad


@alternative("vjp")
def vjp(f, x, v):
    """One row of the Jacobian at a time."""
    leaf = x.detach().clone().requires_grad_()
    y = f(leaf)
    if v.shape != y.shape:
        raise ValueError("v should have the shape of f(x)")
    total = torch.zeros_like(leaf)
    for output, weight in zip(y.flatten(), v.flatten()):
        (row,) = torch.autograd.grad(output, leaf, retain_graph=True)
        total = total + weight * row
    return total


# --- accumulate ------------------------------------------------------------------------------


@alternative("accumulate")
def accumulate_grads(model, loss_fn, batches, total):
    """Add the pieces by hand, with torch.autograd.grad."""
    params = [p for p in model.parameters() if p.requires_grad]
    for p in params:
        p.grad = torch.zeros_like(p)
    for x, y in batches:
        loss = loss_fn(model(x), y)
        for p, g in zip(params, torch.autograd.grad(loss, params)):
            p.grad.add_(g, alpha=x.shape[0] / total)


@alternative("accumulate")
def accumulate_grads(model, loss_fn, batches, total):
    """Weights through the argument of backward; scaled at the end."""
    for p in model.parameters():
        p.grad = None
    for x, y in batches:
        loss = loss_fn(model(x), y)
        loss.backward(torch.full_like(loss, float(len(y))))
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= total


# --- step ------------------------------------------------------------------------------------


@alternative("step")
def sgd_step(params, lr):
    """add_ with a factor, on the parameters that have a gradient."""
    if lr < 0:
        raise ValueError("negative learning rate")
    with torch.set_grad_enabled(False):
        for p in filter(lambda q: q.grad is not None, params):
            p.add_(p.grad, alpha=-lr)


@alternative("step")
def sgd_step(params, lr):
    """detach shares the memory and the version counter."""
    if lr < 0:
        raise ValueError("negative learning rate")
    for p in params:
        if p.grad is None:
            continue
        p.detach().sub_(lr * p.grad)


@alternative("step")
def sgd_step(params, lr):
    """copy_ the new numbers into the old memory."""
    if lr < 0:
        raise ValueError("negative learning rate")
    for p in params:
        if p.grad is not None:
            with torch.no_grad():
                p.copy_(p - lr * p.grad)


# --- function --------------------------------------------------------------------------------


@alternative("function")
class Swish(torch.autograd.Function):
    """setup_context apart from forward, and the derivative as s (1 + x (1 - s))."""

    @staticmethod
    def forward(x):
        return x * x.sigmoid()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return dy * s * (1 + x * (1 - s))


@alternative("function")
class Swish(torch.autograd.Function):
    """Save input and output: f' = y + s (1 - y). Both may be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        y = x * torch.sigmoid(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y = ctx.saved_tensors
        return dy * (y + torch.sigmoid(x) * (1 - y))


# --- hvp -------------------------------------------------------------------------------------


@alternative("hvp")
def hvp(f, x, v):
    """Differentiate gradient · v, and treat "unused" as zero."""
    if v.shape != x.shape:
        raise ValueError("v should have the shape of x")
    leaf = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    slope = (g * v.detach()).sum()
    if slope.grad_fn is None:
        return torch.zeros_like(x)
    (hv,) = torch.autograd.grad(slope, leaf, allow_unused=True)
    return torch.zeros_like(x) if hv is None else hv


@alternative("hvp")
def hvp(f, x, v):
    """Reverse mode twice, always through x: adding 0 · sum(x²) makes every f depend on it."""
    if v.shape != x.shape:
        raise ValueError("v should have the shape of x")
    leaf = x.detach().clone().requires_grad_()
    y = f(leaf) + 0 * (leaf**2).sum()
    (g,) = torch.autograd.grad(y, leaf, create_graph=True)
    return torch.autograd.grad(g, leaf, grad_outputs=v)[0]


# --- engine ----------------------------------------------------------------------------------


@alternative("engine")
class Value:
    """Each operation leaves a function that passes its gradient on; nodes wait for all their
    users (Kahn's order)."""

    def __init__(self, data, parents=()):
        self.data = float(data)
        self.grad = 0.0
        self.parents = parents
        self.share = lambda g: ()

    def __add__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        out = Value(self.data + other.data, (self, other))
        out.share = lambda g: (g, g)
        return out

    def __mul__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        out = Value(self.data * other.data, (self, other))
        out.share = lambda g: (g * other.data, g * self.data)
        return out

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def exp(self):
        out = Value(math.exp(self.data), (self,))
        out.share = lambda g: (g * out.data,)
        return out

    def tanh(self):
        out = Value(math.tanh(self.data), (self,))
        out.share = lambda g: (g * (1 - out.data * out.data),)
        return out

    def relu(self):
        out = Value(self.data if self.data > 0 else 0.0, (self,))
        out.share = lambda g: (g if self.data > 0 else 0.0,)
        return out

    def backward(self):
        users, met = {self: 0}, [self]
        for node in met:
            for parent in node.parents:
                if parent not in users:
                    users[parent] = 0
                    met.append(parent)
                users[parent] += 1
        arrived = {node: 0.0 for node in met}
        arrived[self] = 1.0
        ready = [self]
        while ready:
            node = ready.pop()
            node.grad += arrived[node]
            for parent, g in zip(node.parents, node.share(arrived[node])):
                arrived[parent] += g
                users[parent] -= 1
                if users[parent] == 0:
                    ready.append(parent)


@alternative("engine")
def directional(f, x, v):
    """The derivative by the time t of a walk from x along v."""
    t = Value(0.0)  # noqa: F821
    f([a + d * t for a, d in zip(x, v)]).backward()
    return t.grad
