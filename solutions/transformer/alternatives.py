"""Other right answers in the chapter on the Transformer."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative

# Names of the chapter's set-up cells, which the answers below use.
PAD = BOS = EOS = keys_values = attend = look = sinusoid = None
EncoderLayer = DecoderLayer = Seq2Seq = reversal = None


@alternative("masks")
def make_mask(tgt_ids, pad):
    at = torch.arange(tgt_ids.shape[1], device=tgt_ids.device)
    late = at[None, :] > at[:, None]
    return ~(late | tgt_ids.eq(pad).unsqueeze(1))


@alternative("masks")
def make_mask(tgt_ids, pad):
    n, t = tgt_ids.shape
    mask = torch.zeros(n, t, t, dtype=torch.bool, device=tgt_ids.device)
    for i in range(t):
        mask[:, i, : i + 1] = tgt_ids[:, : i + 1] != pad
    return mask


@alternative("shift")
def shift_right(y, bos, eos, pad):
    rows = [[t for t in row if t != pad] for row in y.tolist()]
    fill = [y.shape[1] - len(row) for row in rows]
    inp = [[bos, *row, *[pad] * k] for row, k in zip(rows, fill, strict=True)]
    target = [[*row, eos, *[pad] * k] for row, k in zip(rows, fill, strict=True)]
    mask = [[True] * (len(row) + 1) + [False] * k for row, k in zip(rows, fill, strict=True)]
    return tuple(torch.tensor(v, device=y.device) for v in (inp, target, mask))


@alternative("shift")
def shift_right(y, bos, eos, pad):
    column = torch.full_like(y[:, :1], pad)
    real = y != pad
    inp = torch.cat([torch.full_like(column, bos), y], dim=1)
    mask = torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
    target = torch.cat([y, column], dim=1)
    last = mask & ~torch.cat([real, torch.zeros_like(real[:, :1])], dim=1)
    return inp, torch.where(last, eos, target), mask


@alternative("addnorm")
class AddNorm(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.p = p

    def forward(self, x, y):
        if x.size() != y.size():
            raise ValueError("x and y must have the same shape")
        z = F.dropout(y, self.p, self.training) + x
        mean = z.mean(-1, keepdim=True)
        variance = z.var(-1, unbiased=False, keepdim=True)
        z = (z - mean) / torch.sqrt(variance + self.norm.eps)
        return z * self.norm.weight + self.norm.bias


@alternative("addnorm")
class FFN(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.linear1 = nn.Linear(d, h)
        self.linear2 = nn.Linear(h, d)

    def forward(self, x):
        hidden = (x @ self.linear1.weight.T + self.linear1.bias).clamp(min=0)
        return hidden @ self.linear2.weight.T + self.linear2.bias


@alternative("encoder")
class EncoderBlock(nn.Module):
    def __init__(self, d, h, ff, p, norm_first=False):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, dropout=p, batch_first=True)
        self.linear1 = nn.Linear(d, ff)
        self.linear2 = nn.Linear(ff, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.dropouts = nn.ModuleList([nn.Dropout(p) for _ in range(3)])
        self.pre = norm_first

    def forward(self, x, mask=None):
        if mask is not None:  # the library's own call, with its own rule for masks
            n, t, _ = x.shape
            mask = ~mask.expand(n, t, t).repeat_interleave(self.self_attn.num_heads, 0)
        y = self.norm1(x) if self.pre else x
        y, _ = self.self_attn(y, y, y, attn_mask=mask, need_weights=False)
        x = x + self.dropouts[0](y)
        x = x if self.pre else self.norm1(x)
        y = self.norm2(x) if self.pre else x
        y = self.linear2(self.dropouts[1](self.linear1(y).relu()))
        x = x + self.dropouts[2](y)
        return x if self.pre else self.norm2(x)


@alternative("decoder")
class DecoderBlock(nn.Module):
    def __init__(self, d, h, ff, p):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, h, dropout=p, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, h, dropout=p, batch_first=True)
        self.linear1 = nn.Linear(d, ff)
        self.linear2 = nn.Linear(ff, d)
        for k in (1, 2, 3):
            self.add_module(f"norm{k}", nn.LayerNorm(d))
        self.p, self.heads = p, h

    def forward(self, x, memory, mask=None, memory_mask=None):
        def drop(y):
            return F.dropout(y, self.p, self.training)

        def attention(attn, x, y, allowed):
            if allowed is not None:
                allowed = allowed.expand(len(x), x.shape[1], y.shape[1])
                allowed = ~allowed.repeat_interleave(self.heads, 0)
            return attn(x, y, y, attn_mask=allowed, need_weights=False)[0]

        x = self.norm1(drop(attention(self.self_attn, x, x, mask)) + x)
        x = self.norm2(drop(attention(self.multihead_attn, x, memory, memory_mask)) + x)
        return self.norm3(drop(self.linear2(drop(self.linear1(x).relu()))) + x)


@alternative("train")
def build_model(cfg):
    vocab, d = cfg["vocab"], cfg["d"]
    embed = nn.Embedding.from_pretrained(torch.randn(vocab, d) / d**0.5, freeze=False)
    if cfg["positions"]:
        table = sinusoid(cfg["max_len"], d)
    else:
        table = torch.zeros(cfg["max_len"], d)
    stacks = []
    for layer in (EncoderLayer, DecoderLayer):
        stack = []
        for _ in range(cfg["layers"]):
            stack.append(layer(d, cfg["h"], cfg["ff"], cfg["p"]))
        stacks.append(stack)
    return Seq2Seq(embed, table, *stacks, nn.Linear(d, vocab))


@alternative("train")
def train(model, steps, seed, batch=reversal):
    g = torch.Generator()
    g.manual_seed(seed)
    where = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    model.train()
    losses = []
    while len(losses) < steps:
        src, inp, target = batch(64, g)
        src, inp, target = src.to(where), inp.to(where), target.to(where)
        log_p = model(src, inp).log_softmax(-1).gather(2, target[..., None])[..., 0]
        loss = -log_p[target != PAD].mean()
        for p in model.parameters():
            p.grad = None
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@alternative("decode")
def step(model, cache, token):
    x = model.place(token.view(-1, 1), start=cache["t"])
    for layer, block in enumerate(model.decoder):
        kept = cache["layers"][layer]
        (k, v), (new_k, new_v) = kept["self"], keys_values(block.self_attn, x)
        k, v = torch.cat((k, new_k), dim=2), torch.cat((v, new_v), dim=2)
        kept["self"] = k, v
        everything = torch.ones(1, 1, k.shape[2], dtype=torch.bool, device=x.device)
        x = block.norm1(attend(block.self_attn, x, k, v, everything) + x)
        k, v = kept["memory"]
        x = block.norm2(attend(block.multihead_attn, x, k, v, cache["memory_mask"]) + x)
        x = block.norm3(block.linear2(block.linear1(x).relu()) + x)
    cache["t"] = cache["t"] + 1
    return model.head(x).squeeze(1)


@alternative("decode")
@torch.no_grad()
def greedy(model, src, max_len):
    memory, mask = model.encode(src)
    ids = torch.full((len(src), 1), BOS, device=src.device)
    for _ in range(max_len):
        best = model.decode(ids, memory, mask)[:, -1].argmax(-1)
        ended = (ids == EOS).any(1)
        ids = torch.cat([ids, torch.where(ended, PAD, best)[:, None]], 1)
        if (ids == EOS).any(1).all():
            break
    return ids[:, 1:]


@alternative("debug")
def normalise(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
