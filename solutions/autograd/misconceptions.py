"""Wrong answers that students give to the exercises on autograd, and the hint for each."""

import math

import torch

from course.testing import misconception

# --- flags -----------------------------------------------------------------------------------


@misconception(
    "flags",
    hint="eval() does not stop recording. It changes how dropout and batch "
    "normalization behave; the parameters are still inputs that require grad.",
)
def tracks_grad(op_name):
    answers = {
        "w * x": True,
        "x + 1": False,
        "w[0]": True,
        "w > 0": False,
        "w * 0": True,
        "w.argmax()": False,
        "w.detach() * x": False,
        "w.clone()": True,
        "w.data * 2": False,
        "torch.zeros_like(w)": False,
        "linear(x)": True,
        "linear.eval()(x)": False,
    }
    if op_name not in answers:
        raise ValueError(op_name)
    return answers[op_name]


@misconception(
    "flags",
    hint="Not everything computed from w requires grad. Can an index or a truth "
    "value have a derivative? And does zeros_like use the numbers of w, or only its shape?",
)
def tracks_grad(op_name):
    answers = {
        "w * x": True,
        "x + 1": False,
        "w[0]": True,
        "w > 0": True,
        "w * 0": True,
        "w.argmax()": True,
        "w.detach() * x": False,
        "w.clone()": True,
        "w.data * 2": False,
        "torch.zeros_like(w)": True,
        "linear(x)": True,
        "linear.eval()(x)": True,
    }
    if op_name not in answers:
        raise ValueError(op_name)
    return answers[op_name]


@misconception(
    "flags",
    hint="A gradient that is zero is still a gradient: autograd does not look "
    "at the numbers, only at who took part.",
)
def tracks_grad(op_name):
    answers = {
        "w * x": True,
        "x + 1": False,
        "w[0]": True,
        "w > 0": False,
        "w * 0": False,
        "w.argmax()": False,
        "w.detach() * x": False,
        "w.clone()": True,
        "w.data * 2": False,
        "torch.zeros_like(w)": False,
        "linear(x)": True,
        "linear.eval()(x)": True,
    }
    if op_name not in answers:
        raise ValueError(op_name)
    return answers[op_name]


@misconception(
    "flags",
    hint="no_grad stops the recording, and nothing else: dropout still drops. "
    "The mode is a second switch.",
)
def infer(model, x):
    with torch.no_grad():
        return model(x)


@misconception(
    "flags",
    hint="eval changes the layers' behaviour, but the parameters still require "
    "grad, so the answer has a graph. There is a second switch.",
)
def infer(model, x):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return model(x)
    finally:
        for module, mode in modes:
            module.training = mode


@misconception(
    "flags",
    hint="When the model raises an error, the lines after the call never run. "
    "What must happen in any case belongs into `finally`.",
)
def infer(model, x):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        y = model(x)
    for module, mode in modes:
        module.training = mode
    return y


@misconception(
    "flags",
    hint="The model may have been in eval mode before. Put back what was there, "
    "rather than train mode.",
)
def infer(model, x):
    model.eval()
    try:
        with torch.no_grad():
            return model(x)
    finally:
        model.train()


@misconception(
    "flags",
    hint="model.train(mode) sets every part to the same mode. A part that was "
    "frozen in eval mode is now in train mode: remember one flag for each module.",
)
def infer(model, x):
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(x)
    finally:
        model.train(training)


# --- vjp -------------------------------------------------------------------------------------


@misconception(
    "vjp",
    hint="This adds the rows of the Jacobian with weight 1. Each output has its own weight in v.",
)
def vjp(f, x, v):
    x = x.detach().requires_grad_()
    y = f(x)
    if v.shape != y.shape:
        raise ValueError("shape of v")
    return torch.autograd.grad(y.sum(), x)[0]


@misconception(
    "vjp",
    hint="v was multiplied after the sum over the outputs. Each row has to be "
    "weighted before the rows are added.",
)
def vjp(f, x, v):
    x = x.detach().requires_grad_()
    y = f(x)
    if v.shape != y.shape:
        raise ValueError("shape of v")
    (g,) = torch.autograd.grad(y.sum(), x)
    return g * v if v.shape == g.shape else g * v.sum()


@misconception(
    "vjp",
    hint="This is J v, one number per output, a Jacobian-vector product. Asked for "
    "is v J: one number per input.",
)
def vjp(f, x, v):
    leaf = x.detach().clone().requires_grad_()
    y = f(leaf)
    if v.shape != y.shape:
        raise ValueError("shape of v")
    rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in y.flatten()]
    direction = v.flatten() if v.numel() == x.numel() else torch.ones_like(x).flatten()
    return torch.stack(rows).flatten(1) @ direction


@misconception(
    "vjp",
    hint="The caller's x now requires grad and has a .grad. Work on a leaf of your "
    "own, made from x.",
)
def vjp(f, x, v):
    x.requires_grad_()
    y = f(x)
    if v.shape != y.shape:
        raise ValueError("shape of v")
    y.backward(v)
    return x.grad


@misconception(
    "vjp",
    hint="(v * y).sum() broadcasts: a v of the wrong shape gives a number, but a "
    "wrong one. Compare the shapes first.",
)
def vjp(f, x, v):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((v * f(x)).sum(), x)[0]


@misconception(
    "vjp",
    hint="v has the shape of f(x), not of x. The two shapes differ as soon as f has "
    "more or fewer outputs than inputs.",
)
def vjp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), x, grad_outputs=v)[0]


# --- accumulate ------------------------------------------------------------------------------


@misconception(
    "accumulate",
    hint="Dividing by the number of pieces is right only if all are equally "
    "large. How many examples does each piece's mean stand for?",
)
def accumulate_grads(model, loss_fn, batches, total):
    batches = list(batches)
    model.zero_grad()
    for x, y in batches:
        (loss_fn(model(x), y) / len(batches)).backward()


@misconception(
    "accumulate",
    hint="The means of the pieces are added without weights, so the "
    "gradient grows with the number of pieces.",
)
def accumulate_grads(model, loss_fn, batches, total):
    model.zero_grad()
    for x, y in batches:
        loss_fn(model(x), y).backward()


@misconception(
    "accumulate",
    hint="loss_fn gives a mean already. Dividing it by the total divides "
    "twice; multiply by the size of the piece first.",
)
def accumulate_grads(model, loss_fn, batches, total):
    model.zero_grad()
    for x, y in batches:
        (loss_fn(model(x), y) / total).backward()


@misconception(
    "accumulate",
    hint="Gradients from before the call are still there. Start from zero, once, before the loop.",
)
def accumulate_grads(model, loss_fn, batches, total):
    for x, y in batches:
        (loss_fn(model(x), y) * len(x) / total).backward()


@misconception(
    "accumulate",
    hint="The gradient is cleared inside the loop, so that only the last piece is left.",
)
def accumulate_grads(model, loss_fn, batches, total):
    for x, y in batches:
        model.zero_grad()
        (loss_fn(model(x), y) * len(x) / total).backward()


@misconception(
    "accumulate",
    hint="The gradient is right, but one backward at the end keeps the "
    "graphs of all pieces in memory. Walk back after each piece.",
)
def accumulate_grads(model, loss_fn, batches, total):
    model.zero_grad()
    loss = 0.0
    for x, y in batches:
        loss = loss + loss_fn(model(x), y) * len(x) / total
    loss.backward()


# --- step ------------------------------------------------------------------------------------


@misconception(
    "step",
    hint="p = p - ... makes a new tensor and moves the name p to it. The parameter "
    "itself never changes.",
)
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p = p - lr * p.grad


@misconception(
    "step",
    hint="An in-place change of a leaf that requires grad is forbidden while "
    "autograd records. The step is no part of the function.",
)
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    for p in params:
        if p.grad is not None:
            p -= lr * p.grad


@misconception(
    "step",
    hint="A change through .data is invisible to autograd: a later backward uses "
    "the new value where it saved the old one, without an error. Use no_grad.",
)
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    for p in params:
        if p.grad is not None:
            p.data -= lr * p.grad


@misconception(
    "step",
    hint="p.data = ... gives the parameter new memory. Change the numbers in the "
    "memory that it has.",
)
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    for p in params:
        if p.grad is not None:
            p.data = p.data - lr * p.grad


@misconception("step", hint="A parameter that took no part in the loss has .grad None; skip it.")
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    with torch.no_grad():
        for p in params:
            p -= lr * p.grad


@misconception("step", hint="The step goes uphill: the gradient points to larger losses.")
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p += lr * p.grad


@misconception(
    "step",
    hint="The step also clears p.grad. Clearing is the caller's business: the "
    "gradient may still be needed.",
)
def sgd_step(params, lr):
    if lr < 0:
        raise ValueError("lr")
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p -= lr * p.grad
                p.grad = None


@misconception(
    "step",
    hint="The learning rate is looked at too late, or 0 is refused: only a "
    "negative one is an error, and it must be noticed before anything changes.",
)
def sgd_step(params, lr):
    if lr <= 0:
        raise ValueError("lr")
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p -= lr * p.grad


# --- function --------------------------------------------------------------------------------


@misconception(
    "function",
    hint="backward returns the local derivative alone. It must be multiplied "
    "by dy, the gradient that arrives.",
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return s + x * s * (1 - s)


@misconception(
    "function",
    hint="The sigmoid was computed in forward and saved. It is neither input "
    "nor output, so autograd takes it for a constant when it differentiates backward.",
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        return dy * (s + x * s * (1 - s))


@misconception(
    "function",
    hint="The tensor is kept as an attribute of ctx. There it is not checked "
    "for later changes, and can keep memory alive: use ctx.save_for_backward.",
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        s = torch.sigmoid(ctx.x)
        return dy * (s + ctx.x * s * (1 - s))


@misconception(
    "function",
    hint="One term of the product rule is missing: x is a factor too, and has the derivative 1.",
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return dy * x * s * (1 - s)


@misconception(
    "function", hint="The derivative of the sigmoid is s (1 - s), with s itself, not with x, in it."
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return dy * (s + x * s * (1 - x))


@misconception(
    "function",
    hint="exp overflows for large |x|, and infinity over infinity is nan. torch.sigmoid is safe.",
)
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.exp(x) / (1 + torch.exp(x))

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        e = torch.exp(x)
        return dy * (e / (1 + e) + x * e / (1 + e) ** 2)


@misconception("function", hint="swish never calls Swish.apply, so your backward is not used.")
def swish(x):
    return x * torch.sigmoid(x)


# --- hvp -------------------------------------------------------------------------------------


@misconception(
    "hvp",
    hint="A function without second-order term has the product zero. The gradient "
    "then does not require grad, and the second call of grad raises an error.",
)
def hvp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad(g, x, grad_outputs=v)[0]


@misconception(
    "hvp",
    hint="The gradient may require grad and still not depend on x, for example "
    "where f is linear with weights of its own. See allow_unused.",
)
def hvp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not g.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(g, x, grad_outputs=v)[0]


@misconception(
    "hvp",
    hint="Differentiating the sum of the gradient, then multiplying by v, gives "
    "H 1 times v, entry by entry. Multiply by v first, then differentiate.",
)
def hvp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not g.requires_grad:
        return torch.zeros_like(x)
    return v * torch.autograd.grad(g.sum(), x, allow_unused=True, materialize_grads=True)[0]


@misconception("hvp", hint="This is the gradient times v. Its derivative is still to be taken.")
def hvp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x)
    return g * v


@misconception(
    "hvp",
    hint="Without create_graph=True the walk back is not recorded, and the gradient "
    "is a constant. Zeros are then the answer for every function.",
)
def hvp(f, x, v):
    if v.shape != x.shape:
        raise ValueError("shape of v")
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x)
    if not g.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(g, x, grad_outputs=v)[0]


@misconception(
    "hvp",
    hint="A v of another shape can broadcast against the gradient and give a wrong "
    "result in silence. Compare the shapes first.",
)
def hvp(f, x, v):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    if not g.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad((g * v).sum(), x, allow_unused=True, materialize_grads=True)[0]


# --- engine ----------------------------------------------------------------------------------


@misconception(
    "engine",
    hint="The gradient is overwritten where it should be added: a node that is "
    "used twice gets the sum of both uses.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, ((self, 1 - y * y),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((p, False) for p, _ in node.parents)
        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in node.parents:
                parent.grad = slope * node.grad


@misconception(
    "engine",
    hint="A recursive walk fails on a long chain: Python allows about 1000 "
    "nested calls. Use a list as your own stack.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, ((self, 1 - y * y),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        order, seen = [], set()

        def visit(node):
            if node not in seen:
                seen.add(node)
                for parent, _ in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        arrived = dict.fromkeys(order, 0.0)
        arrived[self] = 1.0
        for node in reversed(order):
            node.grad += arrived[node]
            for parent, slope in node.parents:
                arrived[parent] += slope * arrived[node]


@misconception(
    "engine",
    hint="A node passed its gradient on before all of it had arrived. Distance "
    "from the result is no safe order: every user of a node must come first.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, ((self, 1 - y * y),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        order, seen = [self], {self}
        for node in order:
            for parent, _ in node.parents:
                if parent not in seen:
                    seen.add(parent)
                    order.append(parent)
        arrived = dict.fromkeys(order, 0.0)
        arrived[self] = 1.0
        for node in order:
            node.grad += arrived[node]
            for parent, slope in node.parents:
                arrived[parent] += slope * arrived[node]


@misconception(
    "engine",
    hint="A second backward passes on what the first one left in .grad. What "
    "travels must be kept apart from what has been collected.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, ((self, 1 - y * y),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((p, False) for p, _ in node.parents)
        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in node.parents:
                parent.grad += slope * node.grad


@misconception(
    "engine",
    hint="Each way to a node is walked on its own. The sum is right, but the "
    "number of ways doubles with each shared node. Put the nodes in order, then visit each "
    "once.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, ((self, 1 - y * y),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        stack = [(self, 1.0)]
        while stack:
            node, arrived = stack.pop()
            node.grad += arrived
            stack.extend((parent, slope * arrived) for parent, slope in node.parents)


@misconception(
    "engine",
    hint="The derivative of tanh is 1 minus the square of the result; here it is "
    "computed from the input.",
)
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        y = math.exp(self.data)
        return Value(y, ((self, y),))

    def tanh(self):
        return Value(math.tanh(self.data), ((self, 1 - self.data**2),))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((p, False) for p, _ in node.parents)
        arrived = dict.fromkeys(order, 0.0)
        arrived[self] = 1.0
        for node in reversed(order):
            node.grad += arrived[node]
            for parent, slope in node.parents:
                arrived[parent] += slope * arrived[node]


@misconception(
    "engine",
    hint="v was scaled to length 1. Use it as it is: walking twice as fast, the "
    "function changes twice as fast.",
)
def directional(f, x, v):
    point = [Value(number) for number in x]  # noqa: F821
    f(point).backward()
    length = math.sqrt(sum(number * number for number in v))
    return sum(p.grad * d for p, d in zip(point, v)) / length


@misconception(
    "engine",
    hint="A finite difference is only an estimate. Take the gradient of your "
    "engine, and its dot product with v.",
)
def directional(f, x, v):
    h = 1e-4
    ahead = f([Value(a + h * d) for a, d in zip(x, v)]).data  # noqa: F821
    return (ahead - f([Value(a) for a in x]).data) / h  # noqa: F821
