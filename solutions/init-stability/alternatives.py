"""Other right answers in the chapter on initialisation and numerical stability."""

import math

import torch
from torch import nn

from course.testing import alternative


@alternative("jacobian")
def layer_jacobian(W, h, act):
    # A derivative along (1, ..., 1) is the vector of slopes, since act works entry by entry.
    z = W.detach() @ h.detach()
    slope = torch.autograd.functional.jvp(act, z, torch.ones_like(z))[1]
    return torch.diag(slope) @ W.detach()


@alternative("jacobian")
def chain_jacobian(Ws, h, act):
    # Forwards first, then backwards, row by row of the last layer.
    h = h.detach()
    slopes, Ws = [], [W.detach() for W in Ws]
    for W in Ws:
        z = (W @ h).requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        slopes.append(slope)
        h = act(z).detach()
    J = None
    for W, slope in zip(reversed(Ws), reversed(slopes), strict=True):
        own = slope[:, None] * W
        J = own if J is None else J @ own
    return torch.eye(len(h), dtype=h.dtype, device=h.device) if J is None else J


@alternative("fans")
def fan(weight_shape):
    if len(weight_shape) in (0, 1):
        raise ValueError("a bias has no fans")
    field = 1
    for size in weight_shape[2:]:
        field = field * size
    return weight_shape[1] * field, weight_shape[0] * field


@alternative("fans")
def gain(name, param=None):
    match name:
        case "linear" | "conv1d" | "conv2d" | "conv3d" | "sigmoid":
            return 1
        case "tanh":
            return 5 / 3
        case "selu":
            return 0.75
        case "relu":
            return 2**0.5
        case "leaky_relu":
            return (2 / (1 + (0.01 if param is None else param) ** 2)) ** 0.5
    raise ValueError(name)


@alternative("fans")
def xavier_std(shape, gain=1.0):
    # From the bound of the uniform form, a = sqrt(6 / (n_in + n_out)).
    kernel = math.prod(shape[2:])
    return gain * math.sqrt(6 / ((shape[0] + shape[1]) * kernel)) / math.sqrt(3)


@alternative("fans")
def kaiming_std(shape, a=0.0, mode="fan_in"):
    fans = {"fan_in": math.prod(shape[1:]), "fan_out": shape[0] * math.prod(shape[2:])}
    if mode not in fans:
        raise ValueError(mode)
    return math.sqrt(2 / (1 + a**2)) / math.sqrt(fans[mode])


@alternative("propagate")
def second_moments(widths, act, init, n_samples):
    # Layers of the library, all made and filled before anything is sent through.
    layers = [
        nn.Linear(n_in, n_out, bias=False, dtype=torch.float64)
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True)
    ]
    with torch.no_grad():
        for layer in layers:
            init(layer.weight)
        h = torch.normal(0.0, 1.0, (n_samples, widths[0]), dtype=torch.float64)
        result = [(h * h).mean()]
        for layer in layers:
            h = act(layer(h))
            result.append((h * h).mean())
    return torch.stack(result).tolist()


@alternative("propagate")
def second_moments(widths, act, init, n_samples):
    # One example in each column.
    h = torch.randn(widths[0], n_samples).double()
    moments = [float((h**2).mean())]
    for n_out in widths[1:]:
        W = torch.zeros(n_out, h.shape[0], dtype=torch.float64)
        init(W)
        h = act((W @ h).T).T
        moments.append(float((h**2).sum()) / (n_out * n_samples))
    return moments


@alternative("init")
def kaiming_normal_(t, a=0.0, mode="fan_in", generator=None):
    kernel = math.prod(t.shape[2:])
    n = (t.shape[1] if mode == "fan_in" else t.shape[0]) * kernel
    values = torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device)
    t.data.copy_(values * (2 / (1 + a * a) / n) ** 0.5)
    return t


@alternative("init")
@torch.no_grad()
def xavier_uniform_(t, gain=1.0, generator=None):
    kernel = math.prod(t.shape[2:])
    std = gain * math.sqrt(2 / (kernel * (t.shape[0] + t.shape[1])))
    values = torch.rand(t.shape, generator=generator, dtype=t.dtype, device=t.device)
    t.copy_((2 * values - 1) * math.sqrt(3) * std)
    return t


@alternative("init")
@torch.no_grad()
def orthogonal_(t, gain=1.0, generator=None):
    # The orthogonal factor of the polar decomposition is fair as it is.
    A = torch.randn(len(t), t[0].numel(), generator=generator, dtype=t.dtype, device=t.device)
    U, _, V = torch.linalg.svd(A, full_matrices=False)
    t.copy_((gain * U @ V).view_as(t))
    return t


@alternative("init")
def init_model(net):
    def by_type(m):
        kind = type(m).__name__
        if kind in ("Conv1d", "Conv2d", "Conv3d"):
            m.weight.data.normal_(0, math.sqrt(2 / m.weight[0].numel()))
        elif kind in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"):
            if m.affine:
                m.weight.data.fill_(1)
        elif kind != "Linear":
            return
        if m.bias is not None:
            m.bias.data.fill_(0)

    return net.apply(by_type)


@alternative("softmax")
def softmax(x, dim):
    if x.shape[dim] < 1:
        raise ValueError("no entries")
    x = x.movedim(dim, -1)
    x = x - x.max(-1, keepdim=True).values.detach()
    e = torch.exp(x)
    return (e / e.sum(-1, keepdim=True)).movedim(-1, dim)


@alternative("softmax")
def log_softmax(x, dim):
    if x.shape[dim] < 1:
        raise ValueError("no entries")
    z = x - x.detach().max(dim, keepdim=True).values
    return z - torch.log(torch.sum(torch.exp(z), dim, keepdim=True))


@alternative("softmax")
def logsumexp(x, dim):
    if x.size(dim) == 0:
        raise ValueError("no entries")
    big = torch.finfo(x.dtype).max
    c = x.detach().amax(dim, keepdim=True).clamp(-big, big)
    return (c + torch.log(torch.exp(x - c).sum(dim, keepdim=True))).squeeze(dim)


@alternative("softmax")
def log_sigmoid(x):
    # -log(e^0 + e^-x), with the larger of the two exponents taken out; at 0 half of each.
    top = torch.where(x > 0, torch.zeros_like(x), torch.where(x == 0, -x / 2, -x))
    return -(top + torch.log1p(torch.exp(-x.abs())))


@alternative("softmax")
def softmax_jacobian(y):
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    return y[..., None] * (eye - y[..., None, :])
