"""Wrong answers that students give in the chapter on attention, each with its hint."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- nw --------------------------------------------------------------------------------------


@misconception(
    "nw",
    hint="Far keys get more weight than near ones: the distance is used as if it were a "
    "similarity. What must a score do when the distance grows?",
)
def nw(q, k, v, width):
    scores = (q[:, None] - k).pow(2).sum(-1) / (2 * width**2)
    return scores.softmax(-1) @ v


@misconception(
    "nw",
    hint="The width divides the squared distance as it is, not squared. Where does it stand in "
    "the exponent of the bell?",
)
def nw(q, k, v, width):
    scores = -(q[:, None] - k).pow(2).sum(-1) / (2 * width)
    return scores.softmax(-1) @ v


@misconception(
    "nw",
    hint="The weights of a query should add up to 1 over the *keys*. Here they add up to 1 over "
    "the queries: look at which axis the softmax runs along.",
)
def nw(q, k, v, width):
    scores = -(q[:, None] - k).pow(2).sum(-1) / (2 * width**2)
    return scores.softmax(0) @ v


@misconception(
    "nw",
    hint="For a tiny width, or a query far from every key, all kernels round to 0 and 0 / 0 is "
    "nan. Which function normalises exponentials without forming them first?",
)
def nw(q, k, v, width):
    kernel = torch.exp(-(q[:, None] - k).pow(2).sum(-1) / (2 * width**2))
    return kernel @ v / kernel.sum(-1, keepdim=True)


@misconception(
    "nw",
    hint="The distance itself stands in the exponent. A Gaussian has its square.",
)
def nw(q, k, v, width):
    scores = -(q[:, None] - k).pow(2).sum(-1).sqrt() / (2 * width**2)
    return scores.softmax(-1) @ v


# --- mask ------------------------------------------------------------------------------------


@misconception(
    "mask",
    hint="The mask comes after the softmax. By then the padding has taken its share, and the rest "
    "does not add up to 1.",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    keep = torch.arange(scores.shape[-1], device=scores.device) < lens
    return scores.softmax(-1) * keep


@misconception(
    "mask",
    hint="Hidden scores are set to 0. But e to the 0 is 1: a score of 0 gets weight. Which score "
    "has none?",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    keep = torch.arange(scores.shape[-1], device=scores.device) < lens
    return (scores * keep).softmax(-1)


@misconception(
    "mask",
    hint="A row of length 0 comes out as nan: a softmax over nothing is 0 / 0. The rule of this "
    "chapter is zeros.",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    hidden = torch.arange(scores.shape[-1], device=scores.device) >= lens
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


@misconception(
    "mask",
    hint="A large negative number is not minus infinity: where *all* scores of a row are hidden "
    "they are equal, and the padding shares the weight evenly.",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    hidden = torch.arange(scores.shape[-1], device=scores.device) >= lens
    return scores.masked_fill(hidden, max(-1e6, torch.finfo(scores.dtype).min)).softmax(-1)


@misconception(
    "mask",
    hint="One key too many is seen. Keys are counted from 0: which is the last one for a valid "
    "length of 3?",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    hidden = torch.arange(scores.shape[-1], device=scores.device) > lens
    return scores.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0)


@misconception(
    "mask",
    hint="The scores that were handed in are changed: `masked_fill_` with an underscore, or an "
    "assignment to a slice, works in place.",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    hidden = torch.arange(scores.shape[-1], device=scores.device) >= lens
    scores.data.masked_fill_(hidden, -torch.inf)
    return scores.softmax(-1).masked_fill(hidden, 0)


@misconception(
    "mask",
    hint="The lengths are lined up with the queries. A length of shape (B,) belongs to an "
    "*example*: it needs the axes (B, 1, 1).",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens[None, :, None] if valid_lens.dim() == 1 else valid_lens[..., None]
    hidden = torch.arange(scores.shape[-1], device=scores.device) >= lens
    return scores.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0)


@misconception(
    "mask",
    hint="Hidden scores are set to 0, and their weights taken away afterwards. But e to the 0 "
    "is 1: they have had a share of the sum by then. Which score has none?",
)
def masked_softmax(scores, valid_lens):
    if valid_lens is None:
        return scores.softmax(-1)
    lens = valid_lens.view(len(scores), -1, 1)
    keep = torch.arange(scores.shape[-1], device=scores.device) < lens
    return (scores * keep).softmax(-1) * keep


# --- additive --------------------------------------------------------------------------------


@misconception(
    "additive",
    hint="Without the tanh the query's part is the same number for all keys, and the softmax does "
    "not see it: every query gets the same answer.",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.w_v = nn.Linear(h, 1, bias=False)

    def forward(self, queries, keys, values):
        pairs = self.W_q(queries)[:, :, None] + self.W_k(keys)[:, None]
        return self.w_v(pairs)[..., 0].softmax(-1) @ values


@misconception(
    "additive",
    hint="`nn.Linear` adds a bias unless you tell it not to. Additive attention has three matrices "
    "and nothing else.",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h)
        self.W_k = nn.Linear(k, h)
        self.w_v = nn.Linear(h, 1)

    def forward(self, queries, keys, values):
        pairs = self.W_q(queries)[:, :, None] + self.W_k(keys)[:, None]
        return self.w_v(pairs.tanh())[..., 0].softmax(-1) @ values


@misconception(
    "additive",
    hint="The softmax runs along the queries. The weights of one query over its keys should add "
    "up to 1.",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.w_v = nn.Linear(h, 1, bias=False)

    def forward(self, queries, keys, values):
        pairs = self.W_q(queries)[:, :, None] + self.W_k(keys)[:, None]
        return self.w_v(pairs.tanh())[..., 0].softmax(1) @ values


@misconception(
    "additive",
    hint="The tanh is outside: it squashes the finished score. It belongs to the hidden layer, "
    "before w_v.",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.w_v = nn.Linear(h, 1, bias=False)

    def forward(self, queries, keys, values):
        pairs = self.W_q(queries)[:, :, None] + self.W_k(keys)[:, None]
        return self.w_v(pairs).tanh()[..., 0].softmax(-1) @ values


@misconception(
    "additive",
    hint="The scores are divided by a root. Additive attention needs no such division: the "
    "tanh keeps its hidden units between -1 and 1, however long the vectors are.",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.w_v = nn.Linear(h, 1, bias=False)

    def forward(self, queries, keys, values):
        pairs = self.W_q(queries)[:, :, None] + self.W_k(keys)[:, None]
        scores = self.w_v(pairs.tanh())[..., 0] / math.sqrt(keys.shape[1])
        return scores.softmax(-1) @ values


@misconception(
    "additive",
    hint="Query 0 meets only key 0, query 1 only key 1, and so on. Each query should meet "
    "*every* key: which two new axes make all pairs?",
)
class Additive(nn.Module):
    def __init__(self, q, k, h):
        super().__init__()
        self.W_q = nn.Linear(q, h, bias=False)
        self.W_k = nn.Linear(k, h, bias=False)
        self.w_v = nn.Linear(h, 1, bias=False)

    def forward(self, queries, keys, values):
        scores = self.w_v((self.W_q(queries) + self.W_k(keys)).tanh())[..., 0]
        return scores.softmax(-1)[..., None] * values


# --- dot -------------------------------------------------------------------------------------


@misconception(
    "dot",
    hint="The scores are not scaled. By what is the spread of a dot product of d numbers larger "
    "than that of one?",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0) @ v


@misconception(
    "dot",
    hint="The scores are divided by d: too much. The *variance* of a dot product is d. What is its "
    "standard deviation?",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / q.shape[-1] @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0) @ v


@misconception(
    "dot",
    hint="The boolean mask is read the other way round, as nn.MultiheadAttention reads it. Here "
    "True means: may be seen.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = ~torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    return scores.masked_fill(mask, -torch.inf).softmax(-1).masked_fill(mask, 0) @ v


@misconception(
    "dot",
    hint="The causal mask is the wrong triangle: each query sees its own key and the *later* ones.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).triu()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0) @ v


@misconception(
    "dot",
    hint="The product is formed first and divided afterwards. In float16 it is infinite by then; "
    "infinity divided by 8 is still infinity.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0) @ v


@misconception(
    "dot",
    hint="The product is formed first and divided afterwards. In float16 it is infinite by then; "
    "infinity divided by 8 is still infinity.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1).nan_to_num() @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1).nan_to_num() @ v
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num().masked_fill(~mask, 0) @ v


@misconception(
    "dot",
    hint="A query that may see nothing comes out as nan: its softmax divides 0 by 0. It should "
    "get an output of zeros.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        else:
            scores = scores + mask
    return scores.softmax(-1) @ v


@misconception(
    "dot",
    hint="The causal mask hides a query's own key too, so the first query sees nothing. Query "
    "i sees the keys 0, ..., i, and i itself is one of them.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril(-1)
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="The scores are divided by the root of the size of a *value*. What adds up d products "
    "is the dot product of query and key: d is their last axis.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(v.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="The scores are divided by the root of the number of keys. What grows is the dot "
    "product, with the number of its products: the length d of one key.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(k.shape[-2]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="The softmax runs along the queries. Each *query* shares itself out among the keys, "
    "so a row adds up to 1: the last axis.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-2) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-2) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-2).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="Two fixed axes are exchanged, 1 and 2. With more leading axes (batch and heads) "
    "these are others: count from the end, -2 and -1.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(1, 2)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="The floating-point mask is multiplied. It should be *added* to the scores: 0 changes "
    "nothing, and minus infinity hides.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores * mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="The floating-point mask is multiplied. It should be *added* to the scores: 0 changes "
    "nothing, and minus infinity hides.",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    if is_causal and mask is not None:
        raise ValueError("either a mask or is_causal")
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores * mask).softmax(-1).nan_to_num() @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


@misconception(
    "dot",
    hint="A mask together with is_causal is accepted. The docstring asks for a ValueError: "
    "which of the two would count?",
)
def sdpa(q, k, v, mask=None, is_causal=False):
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1) @ v
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1) @ v
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)
    return weights @ v


# --- mha -------------------------------------------------------------------------------------


@misconception(
    "mha",
    hint="A reshape alone cuts the numbers up in the order in which they lie in memory, so a head "
    "gets whole tokens in pieces. First split the features, then move an axis.",
)
def transpose_qkv(x, h):
    if x.shape[-1] % h:
        raise ValueError("h does not divide d")
    return x.reshape(x.shape[0] * h, x.shape[1], -1)


@misconception(
    "mha",
    hint="The heads are there, but in another order: all examples for head 0, then all for head "
    "1. Entry b * h + i should be head i of example b.",
)
def transpose_qkv(x, h):
    if x.shape[-1] % h:
        raise ValueError("h does not divide d")
    return torch.cat(x.chunk(h, -1))


@misconception(
    "mha",
    hint="The features are dealt out like cards, every h-th to the same head. Each head should "
    "get d / h features that lie next to each other.",
)
def transpose_qkv(x, h):
    if x.shape[-1] % h:
        raise ValueError("h does not divide d")
    return x.unflatten(-1, (-1, h)).permute(0, 3, 1, 2).flatten(0, 1)


@misconception(
    "mha",
    hint="Going back, the heads are merged with the tokens' axis. Move the heads behind the tokens "
    "first, then merge them with the features.",
)
def transpose_output(x, h):
    return x.reshape(x.shape[0] // h, x.shape[1], -1)


@misconception(
    "mha",
    hint="Lengths are repeated as l0, l1, l0, l1, but the batch holds all heads of example 0 "
    "first: l0, l0, l1, l1.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(values), self.h)
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = (torch.arange(k.shape[1], device=k.device) < lens).repeat(self.h, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.W_o(transpose_output(out, self.h))


@misconception(
    "mha",
    hint="The heads are joined and handed out as they are. W_o is there, but nobody calls it: it "
    "lets the heads talk to each other.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(values), self.h)
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = torch.arange(k.shape[1], device=k.device) < lens
            keep = keep.repeat_interleave(self.h, 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return transpose_output(out, self.h)


@misconception(
    "mha",
    hint="The features are never split: there is one large head, whatever h says.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = torch.arange(keys.shape[1], device=keys.device) < lens
        return self.W_o(
            F.scaled_dot_product_attention(
                self.W_q(queries), self.W_k(keys), self.W_v(values), attn_mask=keep
            )
        )


@misconception(
    "mha",
    hint="The scores of a head are divided by the root of d. How many products does a score of "
    "one head add up?",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(values), self.h)
        scores = q @ k.mT / math.sqrt(queries.shape[-1])
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            hidden = torch.arange(k.shape[1], device=k.device) >= lens
            scores = scores.masked_fill(hidden.repeat_interleave(self.h, 0), -torch.inf)
        return self.W_o(transpose_output(scores.softmax(-1) @ v, self.h))


@misconception(
    "mha",
    hint="The mask is turned round: the padding is seen, and the real keys are hidden. "
    "F.scaled_dot_product_attention reads True as *may be seen*.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(values), self.h)
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = torch.arange(k.shape[1], device=k.device) >= lens
            keep = keep.repeat_interleave(self.h, 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.W_o(transpose_output(out, self.h))


@misconception(
    "mha",
    hint="The values are made from the keys. A library is searched by titles, but read by "
    "pages: W_v gets `values`.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d), nn.Linear(d, d)
        self.W_v, self.W_o = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(keys), self.h)
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = torch.arange(k.shape[1], device=k.device) < lens
            keep = keep.repeat_interleave(self.h, 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.W_o(transpose_output(out, self.h))


@misconception(
    "mha",
    hint="The linear maps have no bias. The docstring asks for nn.Linear(d, d) as it is.",
)
class MHA(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        if d % h:
            raise ValueError("h does not divide d")
        self.h = h
        self.W_q, self.W_k = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.W_v, self.W_o = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, queries, keys, values, valid_lens=None):
        q = transpose_qkv(self.W_q(queries), self.h)
        k = transpose_qkv(self.W_k(keys), self.h)
        v = transpose_qkv(self.W_v(values), self.h)
        keep = None
        if valid_lens is not None:
            lens = valid_lens.view(len(queries), -1, 1)
            keep = torch.arange(k.shape[1], device=k.device) < lens
            keep = keep.repeat_interleave(self.h, 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.W_o(transpose_output(out, self.h))


# --- equivariance ----------------------------------------------------------------------------


@misconception(
    "equivariance",
    hint="This asks whether the output stays the same (invariance). Equivariant means that it is "
    "shuffled in the same way: f(x) has to be shuffled too.",
)
def is_equivariant(f, x, perm):
    return (f(x[:, perm]) - f(x)).abs().max().item()


@misconception(
    "equivariance",
    hint="The largest difference is taken with its sign. A gap of -3 is as large as one of 3.",
)
def is_equivariant(f, x, perm):
    return (f(x[:, perm]) - f(x)[:, perm]).max().item()


@misconception(
    "equivariance",
    hint="The features are shuffled, on the last axis. Tokens lie along axis 1.",
)
def is_equivariant(f, x, perm):
    small = perm[perm < x.shape[-1]]
    y = f(x)
    return (f(x[..., small]) - y[..., small[small < y.shape[-1]]]).abs().max().item()


@misconception(
    "equivariance",
    hint="The answer is yes or no here. A gap is asked for, a float: how far off is it at the "
    "worst place?",
)
def is_equivariant(f, x, perm):
    return torch.allclose(f(x[:, perm]), f(x)[:, perm], atol=1e-6)


@misconception(
    "equivariance",
    hint="The output is put back with the inverse shuffle. f of the shuffled input has token "
    "perm[i] at place i; f(x)[:, perm] has, too.",
)
def is_equivariant(f, x, perm):
    return (f(x[:, perm]) - f(x)[:, perm.argsort()]).abs().max().item()


@misconception(
    "equivariance",
    hint="This is the mean difference. The gap is the largest: one token that ends up "
    "elsewhere is enough.",
)
def is_equivariant(f, x, perm):
    return (f(x[:, perm]) - f(x)[:, perm]).abs().mean().item()


@misconception(
    "equivariance",
    hint="The examples of the batch are shuffled, on axis 0. Tokens lie along axis 1: `x[:, "
    "perm]`.",
)
def is_equivariant(f, x, perm):
    return (f(x[perm]) - f(x)[perm]).abs().max().item()


@misconception(
    "equivariance",
    hint="The features are shuffled, on the last axis. Tokens lie along axis 1: `x[:, perm]`.",
)
def is_equivariant(f, x, perm):
    return (f(x[..., perm]) - f(x)[..., perm]).abs().max().item()


@misconception(
    "equivariance",
    hint="The gap is right, but still a tensor. `.item()` makes a plain float of it.",
)
def is_equivariant(f, x, perm):
    return (f(x[:, perm]) - f(x)[:, perm]).abs().max()


# --- pe --------------------------------------------------------------------------------------


@misconception(
    "pe",
    hint="All sines come first, then all cosines. They should alternate, so that a pair of one "
    "frequency lies side by side.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], 1)


@misconception(
    "pe",
    hint="The frequencies fall too slowly: the exponent of pair j is -2j / d, and you have -j / d.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(d // 2, dtype=torch.float64) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


@misconception(
    "pe",
    hint="Sine and cosine of a pair have different frequencies here. Columns 2j and 2j + 1 share "
    "one; else no rotation can shift them.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    angle = torch.arange(n)[:, None] * 10000 ** (-torch.arange(d, dtype=torch.float64) / d)
    P = torch.empty(n, d, dtype=torch.float64)
    P[:, 0::2], P[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return P


@misconception(
    "pe",
    hint="The values are computed in float32. A position in the hundreds leaves only a few digits "
    "behind the point; the docstring asks for float64.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(0, d, 2) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).double()


@misconception(
    "pe",
    hint="The signs of the sines are swapped, so the matrix goes *back* by delta. Put i = 0 into "
    "the addition theorems and compare.",
)
def shift_matrix(d, delta):
    if d % 2:
        raise ValueError("d is odd")
    angle = delta * 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    cos, sin = angle.cos(), angle.sin()
    return torch.block_diag(*torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2))


@misconception(
    "pe",
    hint="All pairs are turned by the same angle. Each pair has a frequency of its own.",
)
def shift_matrix(d, delta):
    if d % 2:
        raise ValueError("d is odd")
    c, s = math.cos(delta), math.sin(delta)
    block = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    return torch.block_diag(*[block] * (d // 2))


@misconception(
    "pe",
    hint="Sine and cosine are exchanged: position 0 should read 0, 1, 0, 1, ….",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)


@misconception(
    "pe",
    hint="The positions begin at 1. The first one is 0, whose sines are 0 and cosines 1.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(1, n + 1)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


@misconception(
    "pe",
    hint="The result is in float32. The docstring asks for float64: give `torch.arange` that "
    "dtype, and everything after it follows.",
)
def sinusoid(n, d):
    if d % 2:
        raise ValueError("d is odd")
    omega = 10000 ** (-torch.arange(0, d, 2) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


@misconception(
    "pe",
    hint="An odd d goes through. The last sine would have no cosine, and no rotation: both "
    "functions should raise a ValueError.",
)
def sinusoid(n, d):
    omega = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(n)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d]
