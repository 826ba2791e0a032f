"""Other right answers in the chapter on normalisation layers."""

# ruff: noqa: F821 (Residual is defined in a set-up cell)

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("bn")
class MyBatchNorm(nn.Module):
    # Channels go last, everything else becomes one long batch; variance as E[x²] - E[x]² of
    # the centred values.
    def __init__(self, C, eps=1e-5, momentum=0.1, affine=True, track=True):
        super().__init__()
        self.eps, self.momentum, self.tracks = eps, momentum, track
        for name, start in (("weight", torch.ones(C)), ("bias", torch.zeros(C))):
            self.register_parameter(name, nn.Parameter(start) if affine else None)
        statistics = {
            "running_mean": torch.zeros(C),
            "running_var": torch.ones(C),
            "num_batches_tracked": torch.zeros((), dtype=torch.long),
        }
        for name, start in statistics.items():
            self.register_buffer(name, start if track else None)

    def forward(self, x):
        flat = x.movedim(1, -1)
        rows = flat.reshape(-1, x.shape[1])
        if self.training or not self.tracks:
            m = len(rows)
            if m < 2:
                raise ValueError("expected more than one value per channel")
            mean = rows.sum(0) / m
            var = (rows - mean).square().sum(0) / m
            if self.tracks:
                self.move(mean.detach(), var.detach() * m / (m - 1))
        else:
            mean, var = self.running_mean, self.running_var
        out = (rows - mean) * (var + self.eps).rsqrt()
        if self.weight is not None:
            out = torch.addcmul(self.bias, out, self.weight)
        return out.reshape(flat.shape).movedim(-1, 1)

    def move(self, mean, var):
        if not self.training:
            return
        self.num_batches_tracked.add_(1)
        t = self.num_batches_tracked.item()
        old = (t - 1) / t if self.momentum is None else 1 - self.momentum
        self.running_mean.mul_(old).add_(mean, alpha=1 - old)
        self.running_var.mul_(old).add_(var, alpha=1 - old)


@alternative("bnback")
def bn_backward(dy, cache):
    # Step by step through the graph, each channel a row.
    xhat, gamma, std = cache
    g = dy.transpose(0, 1).flatten(1)
    h = xhat.transpose(0, 1).flatten(1)
    m = g.shape[1]
    dbeta, dgamma = g.sum(1), (g * h).sum(1)
    dh = g * gamma[:, None]
    dstd = -(dh * h).sum(1, keepdim=True) / std[:, None]
    centred = dh / std[:, None] + dstd * h / m
    rows = centred - centred.mean(1, keepdim=True)
    shape = (dy.shape[1], dy.shape[0], *dy.shape[2:])
    return rows.reshape(shape).transpose(0, 1), dgamma, dbeta


@alternative("bnback")
def bn_backward(dy, cache):
    # With the Jacobian, as a matrix for each channel.
    xhat, gamma, std = cache
    g = dy.movedim(1, 0).reshape(dy.shape[1], -1)
    h = xhat.movedim(1, 0).reshape(dy.shape[1], -1)
    m = g.shape[1]
    eye = torch.eye(m, dtype=dy.dtype, device=dy.device)
    jacobian = (eye - 1 / m - h[:, :, None] * h[:, None, :] / m) / std[:, None, None]
    dx = (gamma[:, None] * g)[:, None, :] @ jacobian
    moved = dy.movedim(1, 0).shape
    return dx.reshape(moved).movedim(0, 1), (g * h).sum(1), g.sum(1)


@alternative("family")
def normalize(x, axes, eps):
    mean = torch.mean(x, dim=axes, keepdim=True)
    centred = x - mean
    return centred * torch.rsqrt(centred.pow(2).mean(dim=axes, keepdim=True) + eps)


@alternative("family")
def group_norm(x, G, gamma, beta):
    # One group after the other.
    C = x.shape[1]
    if C % G != 0:
        raise ValueError("the groups do not divide the channels")
    parts = []
    for part in x.split(C // G, dim=1):
        rest = tuple(range(1, x.dim()))
        std = torch.sqrt(part.var(rest, correction=0, keepdim=True) + 1e-5)
        parts.append((part - part.mean(rest, keepdim=True)) / std)
    out = torch.cat(parts, 1).movedim(1, -1)
    return (out * gamma + beta).movedim(-1, 1)


@alternative("fold")
def fold_conv_bn(conv, bn):
    # A new layer; its bias is what the batch norm makes of the old one.
    if bn.running_var is None:
        raise ValueError("bn has no running statistics")
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        True,
        conv.padding_mode,
        dtype=conv.weight.dtype,
        device=conv.weight.device,
    )
    with torch.no_grad():
        zero = torch.zeros_like(bn.running_mean)

        def through(z):
            return F.batch_norm(
                z[None], bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps
            )[0]

        inverse = 1 / torch.sqrt(bn.running_var + bn.eps)
        scale = inverse if bn.weight is None else bn.weight * inverse
        new.weight.copy_(scale.view(-1, 1, 1, 1) * conv.weight)
        new.bias.copy_(through(zero if conv.bias is None else conv.bias))
    return new


@alternative("shift")
def shift_ratio(e, v, keep):
    if keep <= 0 or keep > 1:
        raise ValueError("0 < keep <= 1")
    noise = (1 - keep) / keep
    return 1 / (1 + noise * (1 + e * e / v))


@alternative("shift")
def measure(keep, x, n):
    # All passes at once, with torch's dropout.
    if keep <= 0 or keep > 1:
        raise ValueError("0 < keep <= 1")
    passes = F.dropout(x.expand(n, -1), p=1 - keep, training=True)
    return float(x.var(correction=0) / passes.var(1, correction=0).mean())


@alternative("zerogamma")
def zero_init_last_bn(net):
    norm_of = {}
    for block in (m for m in net.modules() if type(m) is Residual):
        for m in block.body.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                norm_of[id(block)] = m
    with torch.no_grad():
        for norm in norm_of.values():
            norm.weight.zero_()
    return len(norm_of)
