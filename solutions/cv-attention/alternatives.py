"""Other right answers in the chapter on attention modules for CNNs."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("cbam")
class ChannelAttention(nn.Module):
    # Library layers for the pooling; both summaries pass through the network as one batch.
    def __init__(self, c, r):
        super().__init__()
        units = c // r if c >= r else 1
        self.out = nn.Linear(units, c)
        self.hidden = nn.Linear(c, units)

    def forward(self, x):
        both = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)])
        score = self.out(F.relu(self.hidden(both.flatten(1))))
        one, other = score.chunk(2)
        return torch.sigmoid(one + other).unsqueeze(-1).unsqueeze(-1)


@alternative("cbam")
class SpatialAttention(nn.Module):
    # Padding by name; the convolution keeps the size by itself.
    def __init__(self, k):
        super().__init__()
        if not k % 2:
            raise ValueError("an even kernel has no middle")
        self.conv = nn.Conv2d(2, 1, kernel_size=k, padding="same")

    def forward(self, x):
        mean = torch.mean(x, dim=1, keepdim=True)
        top, _ = torch.max(x, dim=1, keepdim=True)
        return torch.sigmoid(self.conv(torch.cat([mean, top], dim=1)))


@alternative("nonlocal")
class NonLocal(nn.Module):
    # Sums written as einsum, the softmax by hand.
    def __init__(self, c, inner=None):
        super().__init__()
        inner = max(1, c // 2) if inner is None else inner
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        for p in self.out.parameters():
            nn.init.constant_(p, 0.0)

    def attention(self, x):
        score = torch.einsum("nci,ncj->nij", self.theta(x).flatten(2), self.phi(x).flatten(2))
        score = (score - score.amax(2, keepdim=True)).exp()
        return score / score.sum(2, keepdim=True)

    def forward(self, x):
        g = self.g(x).flatten(2)
        y = torch.einsum("nij,ncj->nci", self.attention(x), g)
        return self.out(y.reshape(*y.shape[:2], *x.shape[2:])) + x


@alternative("cgnl")
def cgnl(t, p, g, groups=1, scale=False):
    # Matrix products with the brackets in the right place.
    n, c, h, w = t.shape
    if c % groups != 0:
        raise ValueError("the groups do not divide the channels")
    D = c // groups * h * w
    s = p.reshape(-1, 1, D) @ g.reshape(-1, D, 1)
    if scale:
        s = s / D**0.5
    return (t.reshape(-1, D, 1) @ s).reshape(n, c, h, w)


@alternative("cgnl")
def cgnl(t, p, g, groups=1, scale=False):
    # One group after the other.
    if t.shape[1] % groups:
        raise ValueError("the groups do not divide the channels")
    parts = []
    for a, b, v in zip(t.chunk(groups, 1), p.chunk(groups, 1), g.chunk(groups, 1), strict=True):
        s = torch.einsum("nchw,nchw->n", b, v)[:, None, None, None]
        parts.append(a * s / (math.sqrt(a[0].numel()) if scale else 1))
    return torch.cat(parts, 1)


@alternative("cross")
class CrossLayer(nn.Module):
    # One picture at a time, with 2-D matrices.
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query = nn.Conv2d(cq, c, kernel_size=1)
        self.key, self.value = (nn.Conv2d(ck, c, kernel_size=1) for _ in range(2))
        self.out = nn.Conv2d(c, cq, kernel_size=1)

    def attention(self, x, y):
        q, k = self.query(x), self.key(y)
        pairs = zip(q, k, strict=True)
        return torch.stack([F.softmax(a.flatten(1).T @ b.flatten(1), dim=1) for a, b in pairs])

    def forward(self, x, y):
        v = self.value(y).flatten(2)
        o = torch.bmm(v, self.attention(x, y).mT)
        return self.out(o.view(len(x), -1, x.shape[2], x.shape[3])) + x


@alternative("stn")
def affine_grid(theta, size):
    # x and y computed one by one, by broadcasting.
    n, _, h, w = size
    x = ((torch.arange(w) + 0.5) * 2 / w - 1).to(theta)[None, None, :]
    y = ((torch.arange(h) + 0.5) * 2 / h - 1).to(theta)[None, :, None]
    a = theta[:, :, :, None, None]
    rows = [a[:, k, 0] * x + a[:, k, 1] * y + a[:, k, 2] for k in range(2)]
    return torch.stack(rows, -1)


@alternative("stn")
def grid_sample(x, grid):
    # A frame of zeros around the picture; flat indices and gather.
    n, c, h, w = x.shape
    framed = F.pad(x, (1, 2, 1, 2))
    u = (((grid[..., 0] + 1) * w - 1) / 2).clamp(-1, w) + 1
    v = (((grid[..., 1] + 1) * h - 1) / 2).clamp(-1, h) + 1
    j, i = u.detach().floor().long(), v.detach().floor().long()
    b, a = (u - j).unsqueeze(1), (v - i).unsqueeze(1)

    def read(i, j):
        flat = (i * (w + 3) + j).flatten(1)[:, None].expand(-1, c, -1)
        return framed.flatten(2).gather(2, flat).view(n, c, *grid.shape[1:3])

    upper = read(i, j) + b * (read(i, j + 1) - read(i, j))
    lower = read(i + 1, j) + b * (read(i + 1, j + 1) - read(i + 1, j))
    return upper + a * (lower - upper)
