"""Wrong answers that students give in the chapter on efficient attention, each with its hint."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- masks -----------------------------------------------------------------------------------


@misconception(
    "masks",
    hint="The window is one too narrow on each side: with w = 1 a token should see itself and one "
    "neighbour left and right.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap < kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The window looks back only. That is a causal window; here a token sees w neighbours on "
    "*both* sides.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    back = i[:, None] - i
    gap = back.abs()
    if kind == "window":
        return (back >= 0) & (back <= kw["w"])
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The dilated mask goes on for ever: every s-th key is seen. It should stop after w keys "
    "on each side, or the number of pairs is n² / s.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return gap % kw["s"] == 0
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The dilated mask has holes but no longer reach: it stops at distance w. The point of the "
    "holes is to get w *keys* on each side, the last one much farther away.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The global tokens see everybody, but nobody sees them: their rows are full, their "
    "columns are not. News could get in and never out.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="Tokens that are not global do not see themselves in the global mask: the diagonal is "
    "missing.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"])
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The random keys are drawn with repetition: some rows get fewer than r others, because a "
    "key comes twice or it is the token itself.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        drawn = torch.randint(n, (n, kw["r"]), generator=g)
        return torch.eye(n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="The lots of the random mask disturb everybody else's: `torch.manual_seed` reseeds the "
    "whole program. Draw from a generator of your own.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        torch.manual_seed(kw["seed"])
        lots = torch.rand(n, n).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="BigBird comes out as what the three masks have in *common*. A pair may meet as soon as "
    "one of the three allows it.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) & make_mask("global", n, g=kw["g"])
        return near & make_mask("random", n, r=kw["r"], seed=kw["seed"])
    raise ValueError(kind)


@misconception(
    "masks",
    hint="For a kind that it does not know the function returns None. Somebody who mistypes a name "
    "should hear of it: raise a ValueError.",
)
def make_mask(kind, n, **kw):
    i = torch.arange(n)
    gap = (i[:, None] - i).abs()
    if kind == "window":
        return gap <= kw["w"]
    if kind == "dilated":
        return (gap <= kw["w"] * kw["s"]) & (gap % kw["s"] == 0)
    if kind == "global":
        return (i[:, None] < kw["g"]) | (i < kw["g"]) | (gap == 0)
    if kind == "random":
        g = torch.Generator().manual_seed(kw["seed"])
        lots = torch.rand(n, n, generator=g).fill_diagonal_(2)
        drawn = lots.topk(kw["r"] + 1, dim=1).indices
        return torch.zeros(n, n, dtype=torch.bool).scatter(1, drawn, True)
    if kind == "bigbird":
        near = make_mask("window", n, w=kw["w"]) | make_mask("global", n, g=kw["g"])
        return near | make_mask("random", n, r=kw["r"], seed=kw["seed"])


# --- blocked ---------------------------------------------------------------------------------


@misconception(
    "blocked",
    hint="Each block attends only to itself. A token at the edge of its block has half of its "
    "window in the block next door.",
)
def local_attention(q, k, v, w):
    n, d = q.shape[1:]
    b = max(w, 1)
    extra = -n % b
    q, k, v = (F.pad(t, (0, 0, 0, extra)).unflatten(1, (-1, b)) for t in (q, k, v))
    to = torch.arange(n + extra, device=q.device).view(-1, 1, b)
    scores = (q @ k.mT / math.sqrt(d)).masked_fill(to >= n, -torch.inf)
    return (scores.softmax(-1) @ v).flatten(1, 2)[:, :n]


@misconception(
    "blocked",
    hint="The keys that padding brought in get weight: a key of zeros has score 0, and e to the 0 "
    "is 1. Hide what lies before the first and behind the last token.",
)
def local_attention(q, k, v, w):
    n, d = q.shape[1:]
    b = max(w, 1)
    extra = -n % b
    q = F.pad(q, (0, 0, 0, extra)).unflatten(1, (-1, b))
    k, v = (F.pad(t, (0, 0, b, b + extra)).unfold(1, 3 * b, b) for t in (k, v))
    at = torch.arange(n + extra, device=q.device).view(-1, b, 1)
    to = torch.arange(-b, 2 * b, device=q.device) + at[:, :1]
    scores = (q @ k / math.sqrt(d)).masked_fill((at - to).abs() > w, -torch.inf)
    return (scores.softmax(-1) @ v.mT).flatten(1, 2)[:, :n]


@misconception(
    "blocked",
    hint="The values are right, but all n x n scores are computed first and most of them hidden "
    "afterwards: nothing is saved. Give each block of queries the few keys that it can reach.",
)
def local_attention(q, k, v, w):
    i = torch.arange(q.shape[1], device=q.device)
    hidden = (i[:, None] - i).abs() > w
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


@misconception(
    "blocked",
    hint="Each block sees all of its two neighbours. Some of those keys are farther than w from "
    "some of the queries, and must be hidden.",
)
def local_attention(q, k, v, w):
    n, d = q.shape[1:]
    b = max(w, 1)
    extra = -n % b
    q = F.pad(q, (0, 0, 0, extra)).unflatten(1, (-1, b))
    k, v = (F.pad(t, (0, 0, b, b + extra)).unfold(1, 3 * b, b) for t in (k, v))
    first = torch.arange(n + extra, device=q.device).view(-1, b, 1)[:, :1]
    to = torch.arange(-b, 2 * b, device=q.device) + first
    scores = (q @ k / math.sqrt(d)).masked_fill((to < 0) | (to >= n), -torch.inf)
    return (scores.softmax(-1) @ v.mT).flatten(1, 2)[:, :n]


@misconception(
    "blocked",
    hint="The scores are not scaled: they should be divided by the root of the number of features.",
)
def local_attention(q, k, v, w):
    n = q.shape[1]
    k, v = (F.pad(t, (0, 0, w, w)).unfold(1, 2 * w + 1, 1) for t in (k, v))
    at = torch.arange(n, device=q.device)[:, None]
    to = at + torch.arange(-w, w + 1, device=q.device)
    scores = (q[:, :, None] @ k)[:, :, 0].masked_fill((to < 0) | (to >= n), -torch.inf)
    return (scores.softmax(-1)[:, :, None] @ v.mT)[:, :, 0]


@misconception(
    "blocked",
    hint="The window looks back only. It has w neighbours on both sides.",
)
def local_attention(q, k, v, w):
    n = q.shape[1]
    k, v = (F.pad(t, (0, 0, w, 0)).unfold(1, w + 1, 1) for t in (k, v))
    at = torch.arange(n, device=q.device)[:, None]
    to = at + torch.arange(-w, 1, device=q.device)
    scores = (q[:, :, None] @ k)[:, :, 0] / math.sqrt(q.shape[-1])
    return (scores.masked_fill(to < 0, -torch.inf).softmax(-1)[:, :, None] @ v.mT)[:, :, 0]


@misconception(
    "blocked",
    hint="The sequence is closed to a ring: with `roll` the first tokens see the last ones. What "
    "moves out at one end must not come in again at the other.",
)
def local_attention(q, k, v, w):
    steps = range(-w, w + 1)
    ks = torch.stack([k.roll(s, 1) for s in steps], 2)
    vs = torch.stack([v.roll(s, 1) for s in steps], 2)
    scores = (q[:, :, None] * ks).sum(-1) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1)[..., None] * vs).sum(2)


@misconception(
    "blocked",
    hint="The window is one too narrow on each side: the keys at distance w belong to it, and with "
    "w = 0 a token still sees itself.",
)
def local_attention(q, k, v, w):
    n, d = q.shape[1:]
    b = max(w, 1)
    i = torch.arange(n, device=q.device)
    out = []
    for first in range(0, n, b):
        last = min(first + b, n)
        keys = slice(max(first - w, 0), last + w)
        hidden = (i[first:last, None] - i[keys]).abs() >= w
        scores = q[:, first:last] @ k[:, keys].mT / math.sqrt(d)
        out.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, keys])
    return torch.cat(out, 1)


@misconception(
    "blocked",
    hint="The scores of keys that are too far away are set to 0. But e to the 0 is 1: they still get "
    "weight. Minus infinity gives none.",
)
def local_attention(q, k, v, w):
    n, d = q.shape[1:]
    b = max(w, 1)
    i = torch.arange(n, device=q.device)
    out = []
    for first in range(0, n, b):
        last = min(first + b, n)
        keys = slice(max(first - w, 0), last + w)
        hidden = (i[first:last, None] - i[keys]).abs() > w
        scores = q[:, first:last] @ k[:, keys].mT / math.sqrt(d)
        out.append(scores.masked_fill(hidden, 0.0).softmax(-1) @ v[:, keys])
    return torch.cat(out, 1)


# --- cluster ---------------------------------------------------------------------------------


@misconception(
    "cluster",
    hint="The outputs come in the order of the sorted labels. Put each one back to the row of its "
    "query.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    out = []
    for label in labels_q.unique():
        mine, theirs = labels_q == label, labels_k == label
        scores = q[mine] @ k[theirs].T / math.sqrt(q.shape[1])
        out.append(scores.softmax(-1) @ v[theirs])
    return torch.cat(out)


@misconception(
    "cluster",
    hint="A query whose cluster has no keys comes out as nan: a row of minus infinities has no "
    "softmax. It should get zeros.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    scores = q @ k.T / math.sqrt(q.shape[1])
    hidden = labels_q[:, None] != labels_k
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


@misconception(
    "cluster",
    hint="The values are right, but all m x n scores are computed and then hidden: nothing is "
    "saved. Compute one small attention for each label.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    hidden = labels_q[:, None] != labels_k
    scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(hidden, -torch.inf)
    scores = scores.masked_fill(hidden.all(1, keepdim=True), 0)
    return scores.softmax(-1).masked_fill(hidden, 0) @ v


@misconception(
    "cluster",
    hint="The scores inside a cluster are not divided by the root of the number of features.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    out = v.new_zeros(len(q), v.shape[1])
    for label in labels_q.unique():
        mine, theirs = labels_q == label, labels_k == label
        out[mine] = (q[mine] @ k[theirs].T).softmax(-1) @ v[theirs]
    return out


@misconception(
    "cluster",
    hint="Labels are taken to be 0, 1, 2, and so on up to the largest. They may be any integers, "
    "negative ones too; ask which of them occur.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    out = v.new_zeros(len(q), v.shape[1])
    for label in range(int(labels_q.max()) + 1):
        mine, theirs = labels_q == label, labels_k == label
        scores = q[mine] @ k[theirs].T / math.sqrt(q.shape[1])
        out[mine] = scores.softmax(-1) @ v[theirs]
    return out


@misconception(
    "cluster",
    hint="The keys are chosen by the labels of the *queries*. Keys have labels of their own, and "
    "there may be more or fewer of them.",
)
def cluster_attention(q, k, v, labels_q, labels_k):
    out = v.new_zeros(len(q), v.shape[1])
    for label in labels_q.unique():
        mine = labels_q == label
        scores = q[mine] @ k[mine].T / math.sqrt(q.shape[1])
        out[mine] = scores.softmax(-1) @ v[mine]
    return out


# --- linformer -------------------------------------------------------------------------------


@misconception(
    "linformer",
    hint="One and the same matrix mixes the keys and the values. There are two, and each should "
    "be learned for its own purpose.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = nn.Parameter(torch.randn(k, n) / math.sqrt(n))

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("wrong length")
        keys, values = self.E_k @ self.W_k(x), self.E_k @ self.W_v(x)
        scores = self.W_q(x) @ keys.mT / math.sqrt(x.shape[2])
        return scores.softmax(-1) @ values


@misconception(
    "linformer",
    hint="The Linformer's softmax runs over the queries. A query's weights, for the k mixtures, "
    "should add up to 1.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = nn.Parameter(torch.randn(k, n) / math.sqrt(n))

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("wrong length")
        keys, values = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        scores = self.W_q(x) @ keys.mT / math.sqrt(x.shape[2])
        return scores.softmax(-2) @ values


@misconception(
    "linformer",
    hint="The Linformer's scores are divided by the root of k, the number of mixtures. A score is "
    "still a sum of d products.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.k = k
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = nn.Parameter(torch.randn(k, n) / math.sqrt(n))

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("wrong length")
        keys, values = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        scores = self.W_q(x) @ keys.mT / math.sqrt(self.k)
        return scores.softmax(-1) @ values


@misconception(
    "linformer",
    hint="The linear layers have a bias: `nn.Linear` adds one unless told not to.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = nn.Parameter(torch.randn(k, n) / math.sqrt(n))

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("wrong length")
        keys, values = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        scores = self.W_q(x) @ keys.mT / math.sqrt(x.shape[2])
        return scores.softmax(-1) @ values


@misconception(
    "linformer",
    hint="The mixtures are plain tensors, not parameters: an optimizer would never find them.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = torch.randn(k, n) / math.sqrt(n)
        self.E_v = torch.randn(k, n) / math.sqrt(n)

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("wrong length")
        keys, values = self.E_k.to(x) @ self.W_k(x), self.E_v.to(x) @ self.W_v(x)
        scores = self.W_q(x) @ keys.mT / math.sqrt(x.shape[2])
        return scores.softmax(-1) @ values


@misconception(
    "linformer",
    hint="The Synthesizer divides by √d. That factor tames dot products of d terms; here there "
    "are none.",
)
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(n, n))
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        if x.shape[1] != len(self.R):
            raise ValueError("wrong length")
        return (self.R / math.sqrt(x.shape[2])).softmax(-1) @ self.W_v(x)


@misconception(
    "linformer",
    hint="For a shorter sequence the Synthesizer quietly uses a corner of R. It has learned places "
    "of a sequence of n tokens; another length should be refused with a ValueError.",
)
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(n, n))
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        n = x.shape[1]
        return self.R[:n, :n].softmax(-1) @ self.W_v(x)


@misconception(
    "linformer",
    hint="The Synthesizer uses R as it is. R holds scores; what makes shares of them?",
)
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(n, n))
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        if x.shape[1] != len(self.R):
            raise ValueError("wrong length")
        return self.R @ self.W_v(x)


@misconception(
    "linformer",
    hint="`E_v` is `E_k` under a second name: the layer has one mixture instead of two. Make two "
    "parameters, each drawn for itself.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = self.E_k

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("another length")
        k, v = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        return F.scaled_dot_product_attention(self.W_q(x), k, v)


@misconception(
    "linformer",
    hint="The mixtures are drawn with another spread than 1/√n. With n terms of variance 1/n each, "
    "a mixed key is about as large as a key.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / n)
        self.E_v = nn.Parameter(torch.randn(k, n) / n)

    def forward(self, x):
        if x.shape[1] != self.E_k.shape[1]:
            raise ValueError("another length")
        k, v = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        return F.scaled_dot_product_attention(self.W_q(x), k, v)


@misconception(
    "linformer",
    hint="Another length ends in an error about shapes, deep inside. Look at the length first and "
    "raise a ValueError that says what is wrong.",
)
class Linformer(nn.Module):
    def __init__(self, n, k, d):
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.E_k = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        self.E_v = nn.Parameter(torch.randn(k, n) / math.sqrt(n))

    def forward(self, x):
        k, v = self.E_k @ self.W_k(x), self.E_v @ self.W_v(x)
        return F.scaled_dot_product_attention(self.W_q(x), k, v)


@misconception(
    "linformer",
    hint="The Synthesizer's R is a plain tensor: it is not among the parameters, and would never be "
    "learned.",
)
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = torch.randn(n, n)
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        if x.shape[1] != len(self.R):
            raise ValueError("another length")
        return self.R.softmax(-1) @ self.W_v(x)


@misconception(
    "linformer",
    hint="The Synthesizer's softmax runs down the columns. Row i holds what place i listens to, and "
    "should add up to 1.",
)
class Synthesizer(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(n, n))
        self.W_v = nn.Linear(d, d, bias=False)

    def forward(self, x):
        if x.shape[1] != len(self.R):
            raise ValueError("another length")
        return self.R.softmax(0) @ self.W_v(x)


# --- linear ----------------------------------------------------------------------------------


@misconception(
    "linear",
    hint="The sum of the weights is not divided out: outputs grow with the number of tokens. "
    "Where is the denominator?",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        return (q[:, :, None] @ S)[:, :, 0]
    return q @ (k.mT @ v)


@misconception(
    "linear",
    hint="The features lack their + 1. ELU alone is negative for negative inputs, so the weights "
    "can be negative and their sum close to 0.",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.elu(q), F.elu(k)
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        top = (q[:, :, None] @ S)[:, :, 0]
        return top / (q * k.cumsum(1)).sum(-1, keepdim=True)
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


@misconception(
    "linear",
    hint="The brackets stand where they stood: all n x n weights are made first. Multiply the keys "
    "with the values before the queries come in; for causal, with running sums.",
)
def linear_attention(q, k, v, causal=False):
    A = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    A = A.tril() if causal else A
    return A @ v / A.sum(-1, keepdim=True)


@misconception(
    "linear",
    hint="Only the numerator runs along. In the causal form each query must be divided by the sum "
    "of the weights of *its* keys, 0 to i.",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    bottom = q @ k.sum(1)[..., None]
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        return (q[:, :, None] @ S)[:, :, 0] / bottom
    return q @ (k.mT @ v) / bottom


@misconception(
    "linear",
    hint="The features go through a softmax, or an exponential of all scores, again. phi(q) . phi(k)"
    " is the weight itself, up to the division by the sum.",
)
def linear_attention(q, k, v, causal=False):
    scores = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ v


@misconception(
    "linear",
    hint="Queries and keys are scaled by √d before phi. That factor belongs to the softmax; here "
    "it changes the features.",
)
def linear_attention(q, k, v, causal=False):
    root = math.sqrt(math.sqrt(q.shape[-1]))
    q, k = F.elu(q / root) + 1, F.elu(k / root) + 1
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        top = (q[:, :, None] @ S)[:, :, 0]
        return top / (q * k.cumsum(1)).sum(-1, keepdim=True)
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


@misconception(
    "linear",
    hint="phi acts on the queries only. Both sides need it: the keys' weights must be positive, "
    "too.",
)
def linear_attention(q, k, v, causal=False):
    q = F.elu(q) + 1
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        top = (q[:, :, None] @ S)[:, :, 0]
        return top / (q * k.cumsum(1)).sum(-1, keepdim=True)
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


@misconception(
    "linear",
    hint="The queries are divided by √d before phi. That factor belongs to the softmax; here it "
    "changes the features.",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.elu(q / math.sqrt(q.shape[-1])) + 1, F.elu(k) + 1
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        top = (q[:, :, None] @ S)[:, :, 0]
        return top / (q * k.cumsum(1)).sum(-1, keepdim=True)
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


@misconception(
    "linear",
    hint="phi is a ReLU here. Where all features of a query are 0, its weights are, too, and their "
    "sum: 0 / 0 is nan. elu(x) + 1 is positive everywhere.",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.relu(q), F.relu(k)
    if causal:
        S = (k[..., None] * v[:, :, None]).cumsum(1)
        top = (q[:, :, None] @ S)[:, :, 0]
        return top / (q * k.cumsum(1)).sum(-1, keepdim=True)
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


@misconception(
    "linear",
    hint="`causal` makes no difference: every query sees all keys. For causal, S and z become "
    "running sums.",
)
def linear_attention(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


# --- conv ------------------------------------------------------------------------------------


@misconception(
    "conv",
    hint="The heads look the other way: tap (0, 0) should look at the *upper left* neighbour. As "
    "it is, the kernel is flipped.",
)
def conv_as_attention(x, w):
    (H, W), K = x.shape[1:], w.shape[-1]
    p = torch.cartesian_prod(torch.arange(H), torch.arange(W)).to(x)
    tokens, y = x.flatten(1).T, 0
    for a in range(K):
        for b in range(K):
            target = p - p.new_tensor([a - K // 2, b - K // 2])
            scores = -100 * (target[:, None] - p).pow(2).sum(-1)
            y = y + scores.softmax(-1) @ tokens @ w[:, :, a, b].T
    return y.T.unflatten(1, (H, W))


@misconception(
    "conv",
    hint="Beyond the border there are zeros. A softmax cannot look at nothing: the pixel nearest "
    "to the target gets the weight.",
)
def conv_as_attention(x, w):
    H, W = x.shape[1:]
    K = w.shape[-1]
    x = F.pad(x, [K // 2] * 4)
    taps = [(a, b) for a in range(K) for b in range(K)]
    return sum(
        torch.einsum("chw,oc->ohw", x[:, a : a + H, b : b + W], w[:, :, a, b]) for a, b in taps
    )


@misconception(
    "conv",
    hint="The offsets are not centred. Tap (a, b) of a K x K kernel looks at (a - r, b - r) from "
    "its pixel, with r = (K - 1) / 2.",
)
def conv_as_attention(x, w):
    (H, W), K = x.shape[1:], w.shape[-1]
    p = torch.cartesian_prod(torch.arange(H), torch.arange(W)).to(x)
    tokens, y = x.flatten(1).T, 0
    for a in range(K):
        for b in range(K):
            target = p + p.new_tensor([a, b])
            scores = -100 * (target[:, None] - p).pow(2).sum(-1)
            y = y + scores.softmax(-1) @ tokens @ w[:, :, a, b].T
    return y.T.unflatten(1, (H, W))


@misconception(
    "conv",
    hint="The gaze is soft: several pixels share the weight, so the picture is blurred. How much "
    "larger must the best score be than the next for a one-hot weight?",
)
def conv_as_attention(x, w):
    (H, W), K = x.shape[1:], w.shape[-1]
    p = torch.cartesian_prod(torch.arange(H), torch.arange(W)).to(x)
    tokens, y = x.flatten(1).T, 0
    for a in range(K):
        for b in range(K):
            target = p + p.new_tensor([a - K // 2, b - K // 2])
            scores = -((target[:, None] - p).pow(2).sum(-1))
            y = y + scores.softmax(-1) @ tokens @ w[:, :, a, b].T
    return y.T.unflatten(1, (H, W))


@misconception(
    "conv",
    hint="The width comes first. The order matters, since the second step works on the result of "
    "the first: the height, then the width.",
)
def axial_attention(x):
    x = F.scaled_dot_product_attention(x, x, x)
    x = x.transpose(1, 2)
    return F.scaled_dot_product_attention(x, x, x).transpose(1, 2)


@misconception(
    "conv",
    hint="Both steps start from x, and the results are added. The second should start from what "
    "the first one gave, or no pixel hears of those off its own cross.",
)
def axial_attention(x):
    t = x.transpose(1, 2)
    columns = F.scaled_dot_product_attention(t, t, t).transpose(1, 2)
    return columns + F.scaled_dot_product_attention(x, x, x)


@misconception(
    "conv",
    hint="Every pixel attends to every other at once: that is full attention on the flattened "
    "picture, (HW)² scores. Go along one axis after the other.",
)
def axial_attention(x):
    t = x.flatten(1, 2)
    return F.scaled_dot_product_attention(t, t, t).view_as(x)


@misconception(
    "conv",
    hint="After the first step the two axes are not put back, so that the output is turned over, "
    "or the height is attended twice.",
)
def axial_attention(x):
    x = x.transpose(1, 2)
    x = F.scaled_dot_product_attention(x, x, x)
    return F.scaled_dot_product_attention(x, x, x).transpose(1, 2)


@misconception(
    "conv",
    hint="The heads look at the pixel *farthest* from the target: the scores have the wrong sign. "
    "The nearest pixel needs the largest score.",
)
def conv_as_attention(x, w):
    C, H, W = x.shape
    r = w.shape[-1] // 2
    places = torch.cartesian_prod(torch.arange(H), torch.arange(W)).to(x)
    out = 0
    for a in range(w.shape[-1]):
        for b in range(w.shape[-1]):
            target = places + torch.tensor([a - r, b - r]).to(x)
            gaze = (100 * (target[:, None] - places).pow(2).sum(-1)).softmax(-1)
            out = out + w[:, :, a, b] @ x.reshape(C, -1) @ gaze.T
    return out.reshape(-1, H, W)


@misconception(
    "conv",
    hint="Rows and columns are exchanged: the places are numbered column by column, but the pixels "
    "lie row by row.",
)
def conv_as_attention(x, w):
    C, H, W = x.shape
    r = w.shape[-1] // 2
    y, z = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="xy")
    places = torch.stack([y.flatten(), z.flatten()], 1).to(x)
    out = 0
    for a in range(w.shape[-1]):
        for b in range(w.shape[-1]):
            target = places + torch.tensor([a - r, b - r]).to(x)
            gaze = (-100 * (target[:, None] - places).pow(2).sum(-1)).softmax(-1)
            out = out + w[:, :, a, b] @ x.reshape(C, -1) @ gaze.T
    return out.reshape(-1, H, W)


@misconception(
    "conv",
    hint="The axes are not put back after the first step, so that the second runs along the height "
    "again and the output is turned over.",
)
def axial_attention(x):
    x = x.transpose(1, 2)
    x = F.scaled_dot_product_attention(x, x, x)
    return F.scaled_dot_product_attention(x, x, x)
