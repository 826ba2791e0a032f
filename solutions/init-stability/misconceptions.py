"""Wrong answers in the chapter on initialisation, each with the hint it deserves."""

import math

import torch
from torch import nn

from course.testing import misconception

# --- jacobian --------------------------------------------------------------------------------


@misconception(
    "jacobian",
    hint="The slopes multiply the columns of W. Entry [i, j] gets the slope of *output* i, so each "
    "row is scaled as a whole.",
)
def layer_jacobian(W, h, act):
    z = (W @ h).detach().requires_grad_()
    (slope,) = torch.autograd.grad(act(z).sum(), z)
    n = W.shape[1]
    slope = torch.cat([slope, torch.zeros(max(n - len(slope), 0)).to(slope)])[:n]
    return W.detach() * slope


@misconception(
    "jacobian",
    hint="W is transposed. Row i of a Jacobian belongs to output i, and so does row i of W.",
)
def layer_jacobian(W, h, act):
    z = (W @ h).detach().requires_grad_()
    (slope,) = torch.autograd.grad(act(z).sum(), z)
    return (slope[:, None] * W.detach()).T


@misconception(
    "jacobian",
    hint="The slope is taken at the output act(z). The derivative belongs to the point that goes "
    "*into* the activation, z = W h.",
)
def layer_jacobian(W, h, act):
    z = act(W @ h).detach().requires_grad_()
    (slope,) = torch.autograd.grad(act(z).sum(), z)
    return slope[:, None] * W.detach()


@misconception(
    "jacobian",
    hint="The activation's slope is worked out for one activation only. `act` may be any function: "
    "let autograd find its slope.",
)
def layer_jacobian(W, h, act):
    z = (W @ h).detach()
    return (z > 0).to(W.dtype)[:, None] * W.detach()


@misconception(
    "jacobian",
    hint="All Jacobians are taken at the first input. Each layer sees what the layers before it "
    "made: move h on.",
)
def chain_jacobian(Ws, h, act):
    J = torch.eye(len(h), dtype=h.dtype, device=h.device)
    start = h.detach()
    for W in Ws:
        x = start if W.shape[1] == len(start) else start.new_zeros(W.shape[1])
        z = (W @ x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        J = slope[:, None] * W.detach() @ J
    return J


@misconception(
    "jacobian",
    hint="The product is in the wrong order: the last layer's Jacobian stands on the left, since "
    "it acts last.",
)
def chain_jacobian(Ws, h, act):
    J = torch.eye(len(h), dtype=h.dtype, device=h.device)
    for i, W in enumerate(Ws):
        z = (W @ h).detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        own = slope[:, None] * W.detach()
        J = own if i == 0 else (J @ own if J.shape[1] == own.shape[0] else own @ J)
        h = act(W @ h).detach()
    return J


@misconception(
    "jacobian",
    hint="Between the layers the activation is left out: the next layer's input is act(W h), not "
    "W h.",
)
def chain_jacobian(Ws, h, act):
    J = torch.eye(len(h), dtype=h.dtype, device=h.device)
    for W in Ws:
        z = (W @ h).detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        J = slope[:, None] * W.detach() @ J
        h = (W @ h).detach()
    return J


@misconception(
    "jacobian",
    hint="h moves on too early: each layer's Jacobian is taken at the layer's own output. Multiply "
    "first, then set h = act(W h).",
)
def chain_jacobian(Ws, h, act):
    J = torch.eye(len(h), dtype=h.dtype, device=h.device)
    for W in Ws:
        h = act(W @ h).detach()
        z = (W @ h).detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        J = slope[:, None] * W.detach() @ J
    return J


@misconception(
    "jacobian",
    hint="This is the gradient of the *sum* of the outputs, one number for each input. A Jacobian "
    "keeps the outputs apart: one row for each. Only the slopes come from a sum.",
)
def layer_jacobian(W, h, act):
    h = h.detach().requires_grad_()
    return torch.autograd.grad(act(W.detach() @ h).sum(), h)[0]


# --- fans ------------------------------------------------------------------------------------


@misconception(
    "fans",
    hint="The two are exchanged. A weight is stored as (out, in, ...): the second axis is what "
    "comes in.",
)
def fan(weight_shape):
    if len(weight_shape) < 2:
        raise ValueError("at least two axes")
    n_in, n_out, *kernel = weight_shape
    return n_in * math.prod(kernel), n_out * math.prod(kernel)


@misconception(
    "fans",
    hint="The kernel is left out. One output of a convolution adds up a product for every channel "
    "*and* every position of the kernel.",
)
def fan(weight_shape):
    if len(weight_shape) < 2:
        raise ValueError("at least two axes")
    return weight_shape[1], weight_shape[0]


@misconception(
    "fans",
    hint="The kernel counts for what comes in only. An input, too, is used at every position of "
    "the kernel.",
)
def fan(weight_shape):
    if len(weight_shape) < 2:
        raise ValueError("at least two axes")
    return math.prod(weight_shape[1:]), weight_shape[0]


@misconception(
    "fans",
    hint="A gain multiplies the *standard deviation*; these are the factors on the variance. "
    "Take the root.",
)
def gain(name, param=None):
    slope = 0.01 if param is None else param
    table = {"linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "sigmoid": 1}
    table |= {"tanh": 25 / 9, "relu": 2, "leaky_relu": 2 / (1 + slope**2), "selu": 9 / 16}
    if name not in table:
        raise ValueError(name)
    return table[name]


@misconception(
    "fans",
    hint="`param or 0.01` turns a slope of 0 into 0.01, because 0 counts as false. Ask whether "
    "param *is None*.",
)
def gain(name, param=None):
    slope = param or 0.01
    table = {"linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "sigmoid": 1}
    table |= {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    table |= {"leaky_relu": math.sqrt(2 / (1 + slope**2))}
    if name not in table:
        raise ValueError(name)
    return table[name]


@misconception(
    "fans",
    hint="An unknown name silently gets 1. A misspelt activation would never be noticed; raise a "
    "ValueError.",
)
def gain(name, param=None):
    slope = 0.01 if param is None else param
    table = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    table |= {"leaky_relu": math.sqrt(2 / (1 + slope**2))}
    return table.get(name, 1.0)


@misconception(
    "fans",
    hint="The gain stands inside the root. It multiplies the standard deviation, not the variance.",
)
def xavier_std(shape, gain=1.0):
    kernel = math.prod(shape[2:])
    return math.sqrt(gain * 2 / ((shape[0] + shape[1]) * kernel))


@misconception(
    "fans",
    hint="That is the bound of the uniform form. Its standard deviation is smaller by sqrt(3).",
)
def xavier_std(shape, gain=1.0):
    kernel = math.prod(shape[2:])
    return gain * math.sqrt(6 / ((shape[0] + shape[1]) * kernel))


@misconception(
    "fans",
    hint="The slope belongs squared: it is the second moment that a leaky ReLU keeps, "
    "(1 + a^2) / 2 of it.",
)
def kaiming_std(shape, a=0.0, mode="fan_in"):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(mode)
    n = shape[1 if mode == "fan_in" else 0] * math.prod(shape[2:])
    return math.sqrt(2 / ((1 + a) * n))


@misconception(
    "fans",
    hint="This is the variance. The standard deviation is its root.",
)
def xavier_std(shape, gain=1.0):
    return gain * 2 / ((shape[0] + shape[1]) * math.prod(shape[2:]))


@misconception(
    "fans",
    hint="The slope `a` is not used. A leaky ReLU keeps (1 + a^2) / 2 of the second moment, so the "
    "weights need less.",
)
def kaiming_std(shape, a=0.0, mode="fan_in"):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(mode)
    return math.sqrt(2 / (shape[1 if mode == "fan_in" else 0] * math.prod(shape[2:])))


# --- propagate -------------------------------------------------------------------------------


@misconception(
    "propagate",
    hint="This is the variance, which subtracts the mean. Behind a ReLU the mean is not 0, and the "
    "next layer feels the mean of the *squares*.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.var().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = act(h @ W.T)
        moments.append(h.var().item())
    return moments


@misconception(
    "propagate",
    hint="The weight has its axes exchanged. The initialiser reads the fans from the shape "
    "(n_out, n_in).",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_in, n_out, dtype=torch.float64)
        init(W)
        h = act(h @ W)
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="What is noted is the scale before the activation. It belongs behind it.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        z = h @ W.T
        moments.append(z.square().mean().item())
        h = act(z)
    return moments


@misconception(
    "propagate",
    hint="In float32 the squares of small numbers become 0 long before the numbers do. "
    "Compute in float64.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0])
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in)
        init(W)
        h = act(h @ W.T)
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="The input's own value is missing: the list starts with it, one value for each width.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = act(h @ W.T)
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="The weight is what `init` returned, but `init` promises only to fill in place; it may "
    "return nothing.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = init(torch.empty(n_out, n_in, dtype=torch.float64))
        h = act(h @ W.T)
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="The activation is never called. Each layer computes act(h @ W.T).",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = h @ W.T
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="These are roots, the RMS. Return the mean of the squares itself.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().sqrt().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = act(h @ W.T)
        moments.append(h.square().mean().sqrt().item())
    return moments


@misconception(
    "propagate",
    hint="Every layer gets fresh random numbers. Draw the input once; a layer's input is what the "
    "layer before it put out.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        x = torch.randn(n_samples, n_in, dtype=torch.float64)
        h = act(x @ W.T)
        moments.append(h.square().mean().item())
    return moments


@misconception(
    "propagate",
    hint="The squares are added up over the units. Take their mean over samples *and* units.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.randn(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().sum(1).mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = act(h @ W.T)
        moments.append(h.square().sum(1).mean().item())
    return moments


@misconception(
    "propagate",
    hint="The input is uniform on [0, 1). `torch.rand` is uniform; `torch.randn` is normal.",
)
def second_moments(widths, act, init, n_samples):
    h = torch.rand(n_samples, widths[0], dtype=torch.float64)
    moments = [h.square().mean().item()]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        W = torch.empty(n_out, n_in, dtype=torch.float64)
        init(W)
        h = act(h @ W.T)
        moments.append(h.square().mean().item())
    return moments


# --- init ------------------------------------------------------------------------------------


@misconception(
    "init",
    hint="`normal_` wants the standard deviation; here it gets the variance. Take the root.",
)
def kaiming_normal_(t, a=0.0, mode="fan_in", generator=None):
    n = t[0].numel() if mode == "fan_in" else t[:, 0].numel()
    with torch.no_grad():
        return t.normal_(0, 2 / ((1 + a**2) * n), generator=generator)


@misconception(
    "init",
    hint="Only the second axis is counted. The fan of a convolution includes its kernel.",
)
def kaiming_normal_(t, a=0.0, mode="fan_in", generator=None):
    n = t.shape[1] if mode == "fan_in" else t.shape[0]
    with torch.no_grad():
        return t.normal_(0, math.sqrt(2 / ((1 + a**2) * n)), generator=generator)


@misconception(
    "init",
    hint="The caller's tensor stays as it was: a new tensor is made and returned. The underscore "
    "promises a change in place.",
)
def kaiming_normal_(t, a=0.0, mode="fan_in", generator=None):
    n = t[0].numel() if mode == "fan_in" else t[:, 0].numel()
    std = math.sqrt(2 / ((1 + a**2) * n))
    return std * torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device)


@misconception(
    "init",
    hint="The bound is the standard deviation. A uniform distribution on [-a, a] has the variance "
    "a^2 / 3; solve for a.",
)
def xavier_uniform_(t, gain=1.0, generator=None):
    bound = gain * math.sqrt(2 / (t[0].numel() + t[:, 0].numel()))
    with torch.no_grad():
        return t.uniform_(-bound, bound, generator=generator)


@misconception(
    "init",
    hint="All numbers are positive, so the mean is not 0. The distribution should be symmetric.",
)
def xavier_uniform_(t, gain=1.0, generator=None):
    bound = gain * math.sqrt(6 / (t[0].numel() + t[:, 0].numel()))
    with torch.no_grad():
        return t.uniform_(0, bound, generator=generator)


@misconception(
    "init",
    hint="The generator is not used, so its seed changes nothing. Hand it on.",
)
def xavier_uniform_(t, gain=1.0, generator=None):
    bound = gain * math.sqrt(6 / (t[0].numel() + t[:, 0].numel()))
    with torch.no_grad():
        return t.uniform_(-bound, bound)


@misconception(
    "init",
    hint="The signs of R's diagonal are not used, so some orthogonal matrices come more often "
    "than others: in each column a sign is favoured.",
)
def orthogonal_(t, gain=1.0, generator=None):
    rows, cols = len(t), t[0].numel()
    A = t.new_empty(max(rows, cols), min(rows, cols)).normal_(generator=generator)
    Q = torch.linalg.qr(A.detach())[0]
    with torch.no_grad():
        return t.copy_(gain * (Q if rows >= cols else Q.T).reshape(t.shape))


@misconception(
    "init",
    hint="Some columns of a wide weight are always 0. A wide matrix cannot have orthonormal columns: "
    "make a tall one, and transpose it at the end.",
)
def orthogonal_(t, gain=1.0, generator=None):
    rows, cols = len(t), t[0].numel()
    A = t.new_empty(rows, cols).normal_(generator=generator).detach()
    Q, R = torch.linalg.qr(A, mode="complete" if rows < cols else "reduced")
    W = torch.zeros_like(A)
    W[:, : Q.shape[1]] = Q * R.diagonal().sign()
    with torch.no_grad():
        return t.copy_(gain * W.reshape(t.shape))


@misconception(
    "init",
    hint="Only the direct children are visited. Layers inside blocks are left out; "
    "`net.modules()` finds them at every depth.",
)
def init_model(net):
    for m in net.children():
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            if m.affine:
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)
    return net


@misconception(
    "init",
    hint="Batch normalisation starts with weight 0 here, so it puts out nothing but zeros. It "
    "should start as pure standardisation: weight 1.",
)
def init_model(net):
    for m in net.modules():
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            if m.affine:
                nn.init.zeros_(m.weight)
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)
    return net


@misconception(
    "init",
    hint="Only the two-dimensional layers are treated. `isinstance` takes a tuple of classes: "
    "Conv1d and Conv3d, BatchNorm1d and BatchNorm3d belong in, too.",
)
def init_model(net):
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            if m.affine:
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)
    return net


@misconception(
    "init",
    hint="The weights of nn.Linear are filled again. They should stay as they are; only their bias "
    "becomes 0.",
)
def init_model(net):
    for m in net.modules():
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            if m.affine:
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return net


@misconception(
    "init",
    hint="The gain is not used. Every singular value should be gain.",
)
def orthogonal_(t, gain=1.0, generator=None):
    rows, cols = len(t), t[0].numel()
    A = t.new_empty(max(rows, cols), min(rows, cols)).normal_(generator=generator)
    Q, R = torch.linalg.qr(A.detach())
    Q = Q * R.diagonal().sign()
    with torch.no_grad():
        return t.copy_((Q if rows >= cols else Q.T).reshape(t.shape))


# --- softmax ---------------------------------------------------------------------------------


@misconception(
    "softmax",
    hint="exp(1000) is inf, and inf / inf is nan. Subtract the largest score first; the result is "
    "the same on paper.",
)
def softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    return x.exp() / x.exp().sum(dim, keepdim=True)


@misconception(
    "softmax",
    hint="`-=` changes the caller's scores. Make a new tensor: `x = x - ...`.",
)
def softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    top = x.detach().amax(dim, keepdim=True)
    if x.requires_grad:
        x = x - top
    else:
        x -= top
    return x.exp() / x.exp().sum(dim, keepdim=True)


@misconception(
    "softmax",
    hint="One maximum for the whole tensor: a row far below it underflows as a whole, and becomes "
    "0 / 0. Each slice along dim needs its own.",
)
def softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    e = (x - (x.max() if x.numel() else 0)).exp()
    return e / e.sum(dim, keepdim=True)


@misconception(
    "softmax",
    hint="A probability that underflows to 0 has the logarithm -inf. Do not go through the "
    "probability: the logarithm of the quotient is a difference.",
)
def log_softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    e = (x - x.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True)).log()


@misconception(
    "softmax",
    hint="x - logsumexp(x) is right on paper, but near 10000 a number has few digits left. "
    "Subtract the maximum first, then the logarithm of the sum.",
)
def log_softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    top = x.amax(dim, keepdim=True)
    lse = top + (x - top).exp().sum(dim, keepdim=True).log()
    return x - lse


@misconception(
    "softmax",
    hint="For a row of nothing but -inf the maximum is -inf, and -inf - (-inf) is nan. Subtract 0 "
    "where the maximum is not finite.",
)
def logsumexp(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    top = x.amax(dim, keepdim=True)
    return top.squeeze(dim) + (x - top).exp().sum(dim).log()


@misconception(
    "softmax",
    hint="The maximum was subtracted, but never added again: the result is too small by it.",
)
def logsumexp(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    return (x - top).exp().sum(dim).log()


@misconception(
    "softmax",
    hint="Far to the left the sigmoid is 0 in floating point, and its logarithm -inf. Use the "
    "formula with min(x, 0).",
)
def log_sigmoid(x):
    return torch.log(torch.sigmoid(x))


@misconception(
    "softmax",
    hint="For very negative x, exp(-x) overflows. Only exp(-|x|) is safe.",
)
def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x))


@misconception(
    "softmax",
    hint="Only the diagonal is there. Every output depends on every score, through the sum below "
    "the fraction.",
)
def softmax_jacobian(y):
    return torch.diag_embed(y * (1 - y))


@misconception(
    "softmax",
    hint="The sign of the products is turned round: raising one score lowers the probability of "
    "the others.",
)
def softmax_jacobian(y):
    return torch.diag_embed(y) + y[..., :, None] * y[..., None, :]


@misconception(
    "softmax",
    hint="The axis of the sum is gone, so the division lines up with the wrong axis. Keep it: "
    "`keepdim=True`.",
)
def softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim)


@misconception(
    "softmax",
    hint="The last axis is taken, whatever `dim` says.",
)
def softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "softmax",
    hint="A small constant in the logarithm hides the -inf and gives wrong numbers instead. With z "
    "= x - max, the answer is a difference that needs no probability.",
)
def log_softmax(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    e = (x - x.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True) + 1e-8).log()


@misconception(
    "softmax",
    hint="The axis is still there, with length 1. The sum should drop it, and so should the maximum "
    "that is added at the end.",
)
def logsumexp(x, dim):
    if x.shape[dim] == 0:
        raise ValueError("no entries")
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    return top + (x - top).exp().sum(dim, keepdim=True).log()


@misconception(
    "softmax",
    hint="1 + u is rounded before the logarithm sees it, so a tiny u loses its digits, and all of "
    "them in the end. `torch.log1p(u)` keeps them.",
)
def log_sigmoid(x):
    return torch.minimum(x, torch.zeros_like(x)) - torch.log(1 + torch.exp(-x.abs()))


@misconception(
    "softmax",
    hint="`torch.where` computes both branches everywhere. In the one that is thrown away exp "
    "overflows, and backwards 0 times inf is nan. Use exp(-|x|), which never overflows.",
)
def log_sigmoid(x):
    left, right = x - torch.log1p(torch.exp(x)), -torch.log1p(torch.exp(-x))
    return torch.where(x >= 0, right, left)


@misconception(
    "softmax",
    hint="At 0 the slope comes out as 0 or 1, not 1/2: clamp puts the whole slope on one side of its "
    "corner. `torch.minimum` splits a tie equally.",
)
def log_sigmoid(x):
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))
