"""Other right answers in the chapter on sequences and recurrent networks."""

import json
import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("windows")
def make_windows(x, tau):
    if x.shape[0] <= tau:
        raise ValueError("too short")
    return x.unfold(0, tau, 1)[:-1].clone(), x[tau:].clone()


@alternative("windows")
def predict_k(model, x, tau, k):
    # Column after column: the known elements, then the predictions.
    count = x.shape[0] - tau - k + 1
    if count <= 0:
        raise ValueError("too short")
    columns = [x[j : j + count] for j in range(tau)]
    with torch.no_grad():
        for _ in range(k):
            columns.append(model(torch.stack(columns[-tau:], dim=1)).reshape(-1))
    return columns[-1].detach()


@alternative("markov")
class NGram:
    # A table of tables instead of counted pairs.
    def __init__(self, n, alpha):
        self.n = n
        self.alpha = alpha

    def fit(self, tokens):
        self.known = sorted(set(tokens))
        self.table = {}
        for i in range(len(tokens) - self.n + 1):
            *context, token = tokens[i : i + self.n]
            row = self.table.setdefault(tuple(context), {})
            row[token] = row.get(token, 0) + 1
        return self

    def prob(self, token, context):
        key = tuple(context)
        key = key[-(self.n - 1) :] if self.n > 1 else ()
        row = self.table.get(key, {})
        below = sum(row.values()) + self.alpha * len(self.known)
        return (row.get(token, 0) + self.alpha) / below if below > 0 else 1 / len(self.known)

    def perplexity(self, tokens):
        probs = [
            self.prob(tokens[i + self.n - 1], tokens[i : i + self.n - 1])
            for i in range(len(tokens) - self.n + 1)
        ]
        if min(probs) == 0:
            return float("inf")
        return 2 ** (-sum(math.log2(p) for p in probs) / len(probs))


@alternative("text")
def tokenize(text):
    kept = "".join(c if "a" <= c <= "z" else " " for c in text.lower())
    return list(" ".join(kept.split()))


@alternative("text")
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        counts = {}
        for token in tokens:
            counts[token] = counts.get(token, 0) + 1
        self.names = ["<unk>"] + list(reserved)
        rest = sorted(token for token in counts if token not in self.names)
        rest.sort(key=counts.get, reverse=True)
        self.names.extend(token for token in rest if counts[token] >= min_freq)
        self.number = dict(zip(self.names, range(len(self.names)), strict=True))

    def __len__(self):
        return len(self.number)

    def encode(self, tokens):
        return [self.number[t] if t in self.number else self.number["<unk>"] for t in tokens]

    def decode(self, ids):
        return list(map(self.names.__getitem__, ids))

    def to_json(self):
        return json.dumps(self.number, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        number = json.loads(text)
        return cls([], reserved=[t for t in sorted(number, key=number.get) if number[t] > 0])


@alternative("embedding")
def embed(ids, W):
    V, d = W.shape
    if ids.numel() and not (0 <= ids.min() and ids.max() < V):
        raise IndexError("no such id")
    flat = ids.reshape(-1)
    onehot = torch.zeros(len(flat), V, dtype=W.dtype, device=W.device)
    onehot[torch.arange(len(flat), device=W.device), flat] = 1
    return (onehot @ W).reshape(*ids.shape, d)


@alternative("embedding")
def embed(ids, W):
    if bool(((ids < 0) | (ids >= W.shape[0])).any()):
        raise IndexError("no such id")
    return W[ids]


@alternative("embedding")
def embed_grad(ids, dy, V, padding_idx=None):
    grad = torch.zeros(V, dy.shape[-1], dtype=dy.dtype, device=dy.device)
    grad.index_add_(0, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))
    if padding_idx is not None:
        grad[padding_idx].zero_()
    return grad


@alternative("batches")
def seq_iter(corpus, batch, steps, mode, rng):
    # Two reshapes of the shifted corpus.
    if mode != "random" and mode != "sequential":
        raise ValueError("unknown mode")
    offset = torch.randint(0, steps, (1,), generator=rng).item()
    xs, ys = corpus[offset:-1], corpus[offset + 1 :]
    if mode == "sequential":
        width = len(xs) // batch
        xs, ys = (s[: batch * width].reshape(batch, width) for s in (xs, ys))
        for i in range(0, width - steps + 1, steps):
            yield xs[:, i : i + steps], ys[:, i : i + steps]
        return
    count = len(xs) // steps
    xs, ys = (s[: count * steps].reshape(count, steps) for s in (xs, ys))
    order = torch.randperm(count, generator=rng)
    for i in range(0, count - batch + 1, batch):
        rows = order[i : i + batch].to(corpus.device)
        yield xs[rows], ys[rows]


@alternative("rnn")
class RNN(nn.Module):
    # All inputs are multiplied at once; only the state needs the loop.
    def __init__(self, v, h, batch_first=False):
        super().__init__()
        self.W_xh = nn.Parameter((2 * torch.rand(v, h) - 1) / h**0.5)
        self.W_hh = nn.Parameter((2 * torch.rand(h, h) - 1) / h**0.5)
        self.b_h = nn.Parameter((2 * torch.rand(h) - 1) / h**0.5)
        self.time = 1 if batch_first else 0

    def forward(self, x, state=None):
        steps = (x @ self.W_xh + self.b_h).unbind(self.time)
        if state is None:
            state = torch.zeros_like(steps[0])
        outputs = []
        for step in steps:
            state = (step + state @ self.W_hh).tanh()
            outputs.append(state)
        return torch.stack(outputs, dim=self.time), outputs[-1]


@alternative("lm")
def perplexity(nll_sum, n):
    return float(torch.exp(torch.as_tensor(float(nll_sum), dtype=torch.float64) / n))


@alternative("lm")
def clip_grads(params, theta):
    params = [p for p in params if p.grad is not None]
    norm = torch.cat([p.grad.flatten() for p in params]).square().sum().sqrt()
    factor = torch.clamp(theta / norm, max=1.0)  # theta / 0 is inf, so 1 remains
    for p in params:
        p.grad.copy_(p.grad * factor)
    return norm


@alternative("lm")
def train_lm(model, batches, optimizer, theta, carry=True):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    nll, tokens, state = 0.0, 0, None
    for x, y in batches:
        scores, state = model(x, state)
        total = F.cross_entropy(scores.transpose(1, 2), y, reduction="sum")
        model.zero_grad()
        (total / y.numel()).backward()
        clip_grads(params, theta)  # noqa: F821  (the same exercise's)
        optimizer.step()
        state = detached(state) if carry else None  # noqa: F821  (of the set-up cell)
        nll, tokens = nll + total.item(), tokens + y.numel()
    return math.exp(nll / tokens)


@alternative("lm")
def generate(model, prefix, n, temperature=0.0, rng=None):
    text = torch.empty(len(prefix) + n, dtype=prefix.dtype, device=prefix.device)
    text[: len(prefix)] = prefix
    with torch.no_grad():
        scores, state = model(prefix.unsqueeze(0), None)
        for i in range(len(prefix), len(text)):
            last = scores[0, -1]
            if temperature > 0:
                text[i] = torch.multinomial(F.softmax(last / temperature, 0), 1, generator=rng)[0]
            else:
                text[i] = last.argmax()
            if i + 1 < len(text):
                scores, state = model(text[i].view(1, 1), state)
    return text
