"""Other right answers in the chapter on efficient attention."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("masks")
def make_mask(kind, n, **kw):
    # Cell by cell; the random keys by a permutation of the others.
    mask = torch.eye(n, dtype=torch.bool)
    if kind == "window" or kind == "dilated":
        s = kw.get("s", 1)
        for t in range(kw["w"] + 1):
            for i in range(n - t * s):
                mask[i, i + t * s] = mask[i + t * s, i] = True
    elif kind == "global":
        mask[: kw["g"]] = True
        mask[:, : kw["g"]] = True
    elif kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        for i in range(n):
            others = [j for j in range(n) if j != i]
            for place in torch.randperm(n - 1, generator=g)[: kw["r"]].tolist():
                mask[i, others[place]] = True
    elif kind == "bigbird":
        for part, names in (("window", "w"), ("global", "g"), ("random", ("r", "seed"))):
            mask |= make_mask(part, n, **{name: kw[name] for name in names})
    else:
        raise ValueError("unknown kind")
    return mask


@alternative("blocked")
def local_attention(q, k, v, w):
    # A window of its own for each query.
    n = q.shape[1]
    w = min(w, n - 1)
    k, v = (F.pad(t, (0, 0, w, w)).unfold(1, 2 * w + 1, 1) for t in (k, v))
    to = torch.arange(n, device=q.device)[:, None] + torch.arange(-w, w + 1, device=q.device)
    scores = torch.einsum("bnd,bndt->bnt", q, k) / math.sqrt(q.shape[2])
    scores = scores.masked_fill((to < 0) | (to >= n), -torch.inf)
    return torch.einsum("bnt,bnct->bnc", scores.softmax(-1), v)


@alternative("blocked")
def local_attention(q, k, v, w):
    # A loop over blocks of queries, each with the slice of keys that it needs.
    n, size = q.shape[1], max(w, 1)
    out = []
    for first in range(0, n, size):
        last = min(first + size, n)
        low, high = max(first - w, 0), min(last + w, n)
        at = torch.arange(first, last, device=q.device)
        to = torch.arange(low, high, device=q.device)
        seen = (at[:, None] - to).abs() <= w
        out.append(
            F.scaled_dot_product_attention(q[:, first:last], k[:, low:high], v[:, low:high], seen)
        )
    return torch.cat(out, 1)


@alternative("cluster")
def cluster_attention(q, k, v, labels_q, labels_k):
    # Sort both sides, attend in the squares on the diagonal, and undo the sorting.
    by_q, by_k = labels_q.argsort(), labels_k.argsort()
    names, counts = labels_q[by_q].unique_consecutive(return_counts=True)
    keys, values, sorted_k = k[by_k], v[by_k], labels_k[by_k].contiguous()
    rows = []
    for name, queries in zip(names, q[by_q].split(counts.tolist()), strict=True):
        low = torch.searchsorted(sorted_k, name)
        high = torch.searchsorted(sorted_k, name, right=True)
        if low == high:
            rows.append(v.new_zeros(len(queries), v.shape[1]))
            continue
        scores = queries @ keys[low:high].T / q.shape[1] ** 0.5
        rows.append(scores.softmax(-1) @ values[low:high])
    return torch.cat(rows)[by_q.argsort()]


@alternative("linformer")
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.n = n
        for name in ("W_q", "W_k", "W_v"):
            setattr(self, name, nn.Linear(d, d, bias=False))
        self.E_k = nn.Parameter(torch.empty(k, n))
        self.E_v = nn.Parameter(torch.empty(k, n))
        for E in (self.E_k, self.E_v):
            nn.init.normal_(E, std=n**-0.5)

    def forward(self, x):
        if x.size(1) != self.n:
            raise ValueError(f"{self.n} tokens, please")
        # Mix first, then project: the two commute.
        keys = self.W_k(torch.einsum("kn,bnd->bkd", self.E_k, x))
        values = self.W_v(torch.einsum("kn,bnd->bkd", self.E_v, x))
        return F.scaled_dot_product_attention(self.W_q(x), keys, values)


@alternative("linformer")
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.n = n
        self.R = nn.Parameter(torch.normal(0.0, 1.0, (n, n)))
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        if x.size(1) != self.n:
            raise ValueError(f"{self.n} tokens, please")
        weights = self.R.exp() / self.R.exp().sum(1, keepdim=True)
        return self.W_v(torch.einsum("ij,bjd->bid", weights, x))


@alternative("linear")
def linear_attention(q, k, v, causal=False):
    # The recurrent form: one token a step.
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        S, z = torch.einsum("bnd,bnc->bdc", k, v), k.sum(1)
        return torch.einsum("bmd,bdc->bmc", q, S) / torch.einsum("bmd,bd->bm", q, z)[..., None]
    S, z, rows = 0, 0, []
    for i in range(q.shape[1]):
        S = S + k[:, i, :, None] * v[:, i, None, :]
        z = z + k[:, i]
        rows.append(torch.einsum("bd,bdc->bc", q[:, i], S) / (q[:, i] * z).sum(-1, keepdim=True))
    return torch.stack(rows, 1)


@alternative("linear")
def linear_attention(q, k, v, causal=False):
    # A column of ones among the values gives the denominator along with the numerator.
    phi = [torch.where(t > 0, t + 1, t.clamp(max=0).exp()) for t in (q, k)]
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    if causal:
        sums = torch.cumsum(phi[1].unsqueeze(-1) * v.unsqueeze(-2), 1)
        y = (phi[0].unsqueeze(-1) * sums).sum(-2)
    else:
        y = phi[0] @ (phi[1].transpose(1, 2) @ v)
    return y[..., :-1] / y[..., -1:]


@alternative("conv")
def conv_as_attention(x, w):
    # A one-hot gaze is an index.
    (H, W), r = x.shape[1:], w.shape[-1] // 2
    y = x.new_zeros(w.shape[0], H, W)
    for a in range(-r, r + 1):
        rows = (torch.arange(H, device=x.device) + a).clamp(0, H - 1)
        for b in range(-r, r + 1):
            cols = (torch.arange(W, device=x.device) + b).clamp(0, W - 1)
            seen = x[:, rows][:, :, cols]
            y = y + torch.einsum("chw,oc->ohw", seen, w[:, :, a + r, b + r])
    return y


@alternative("conv")
def axial_attention(x):
    root = math.sqrt(x.shape[-1])
    weights = torch.einsum("niwd,njwd->nwij", x, x).div(root).softmax(-1)
    x = torch.einsum("nwij,njwd->niwd", weights, x)
    weights = torch.einsum("nhid,nhjd->nhij", x, x).div(root).softmax(-1)
    return torch.einsum("nhij,nhjd->nhid", weights, x)
