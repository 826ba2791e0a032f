"""Other right answers in the chapter on attention."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("nw")
def nw(q, k, v, width):
    # |q - k|^2 written out; what belongs to the query alone cancels in the softmax.
    scores = (q @ k.T - k.pow(2).sum(-1) / 2) / width**2
    return torch.einsum("mn,nc->mc", scores.softmax(dim=-1), v)


@alternative("nw")
def nw(q, k, v, width):
    # One query at a time, the largest score taken off by hand.
    rows = []
    for x in q:
        scores = -((x - k) / width).square().sum(1) / 2
        kernel = (scores - scores.max()).exp()
        rows.append(kernel @ v / kernel.sum())
    return torch.stack(rows)


@alternative("mask")
def masked_softmax(scores, valid_lens):
    # Rows are cut, softmaxed and filled up again.
    if valid_lens is None:
        return F.softmax(scores, dim=-1)
    B, Q, K = scores.shape
    lens = valid_lens if valid_lens.dim() == 2 else valid_lens[:, None].expand(B, Q)
    rows = [
        F.pad(row[:n].softmax(-1), (0, K - n))
        for row, n in zip(scores.flatten(0, 1), lens.flatten().tolist(), strict=True)
    ]
    return torch.stack(rows).view(B, Q, K)


@alternative("mask")
def masked_softmax(scores, valid_lens):
    # The smallest number instead of infinity; then fully hidden rows are put right.
    if valid_lens is None:
        return torch.softmax(scores, -1)
    lens = valid_lens.reshape(scores.shape[0], -1, 1)
    keep = torch.arange(scores.shape[2], device=scores.device)[None, None] < lens
    low = torch.finfo(scores.dtype).min
    weights = torch.softmax(torch.where(keep, scores, low), -1)
    return torch.where(keep, weights, 0.0).to(scores.dtype)


@alternative("additive")
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.w_v = nn.Linear(h, 1, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.W_q = nn.Linear(q, h, bias=False)

    def forward(self, queries, keys, values):
        # All queries against one key at a time.
        asked = queries @ self.W_q.weight.T
        columns = [
            self.w_v(torch.tanh(asked + self.W_k(keys[:, j : j + 1]))).squeeze(-1)
            for j in range(keys.shape[1])
        ]
        return torch.bmm(torch.stack(columns, -1).softmax(-1), values)


@alternative("dot")
def sdpa(q, k, v, mask=None, is_causal=False):
    # Every mask becomes one that is added; the smallest number stands for infinity.
    if mask is not None and is_causal:
        raise ValueError("a mask and is_causal")
    L, S = q.shape[-2], k.shape[-2]
    root = q.shape[-1] ** 0.25
    scores = torch.einsum("...ld,...sd->...ls", q / root, k / root)
    if is_causal:
        places = torch.arange(max(L, S), device=q.device)
        mask = places[:L, None] >= places[:S]
    seen = None
    if mask is not None and mask.dtype == torch.bool:
        seen = mask
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = F.softmax(scores, dim=-1)
    if seen is not None:
        weights = weights * seen
    return torch.matmul(weights, v)


@alternative("mha")
def transpose_qkv(x, h):
    if x.shape[-1] % h != 0:
        raise ValueError("h does not divide d")
    x = x.reshape(x.shape[0], x.shape[1], h, -1).permute(0, 2, 1, 3)
    return x.reshape(-1, x.shape[2], x.shape[3])


@alternative("mha")
def transpose_output(x, h):
    return torch.stack([torch.cat(list(x[i : i + h]), -1) for i in range(0, len(x), h)])


@alternative("mha")
class MHA(nn.Module):
    # Heads on an axis of their own, and a mask that is added.
    def __init__(self, d, h):
        super().__init__()
        if d % h != 0:
            raise ValueError("h does not divide d")
        self.heads = h
        self.W_q = nn.Linear(d, d)
        self.W_k = nn.Linear(d, d)
        self.W_v = nn.Linear(d, d)
        self.W_o = nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        def split(x):
            return x.unflatten(-1, (self.heads, -1)).movedim(2, 1)

        q, k, v = split(self.W_q(queries)), split(self.W_k(keys)), split(self.W_v(values))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if valid_lens is not None:
            lens = valid_lens if valid_lens.dim() == 2 else valid_lens[:, None]
            hidden = torch.arange(k.shape[2], device=k.device) >= lens[:, None, :, None]
            scores = scores.masked_fill(hidden, -torch.inf)
        return self.W_o((scores.softmax(-1) @ v).movedim(1, 2).flatten(2))


@alternative("equivariance")
def is_equivariant(f, x, perm):
    # Shuffle, apply, shuffle back.
    back = torch.empty_like(perm)
    back[perm] = torch.arange(len(perm), device=perm.device)
    undone = f(x.index_select(1, perm)).index_select(1, back)
    return float(torch.linalg.vector_norm(undone - f(x), ord=math.inf))


@alternative("pe")
def sinusoid(n, d):
    if d % 2 == 1:
        raise ValueError("d is odd")
    P = torch.zeros(n, d, dtype=torch.float64)
    for i in range(n):
        for j in range(d // 2):
            P[i, 2 * j] = math.sin(i / 10000 ** (2 * j / d))
            P[i, 2 * j + 1] = math.cos(i / 10000 ** (2 * j / d))
    return P


@alternative("pe")
def shift_matrix(d, delta):
    # The real form of multiplying by exp(-i * angle).
    if d % 2 == 1:
        raise ValueError("d is odd")
    M = torch.zeros(d, d, dtype=torch.float64)
    for j in range(d // 2):
        angle = delta * math.exp(-math.log(10000) * 2 * j / d)
        M[2 * j, 2 * j] = M[2 * j + 1, 2 * j + 1] = math.cos(angle)
        M[2 * j, 2 * j + 1], M[2 * j + 1, 2 * j] = math.sin(angle), -math.sin(angle)
    return M
