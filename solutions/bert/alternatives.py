"""Other right answers in the chapter on BERT."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("wordpiece")
def wordpiece(word, vocab):
    # From a table of lengths: the longest known piece at each place.
    known = set(vocab)
    if not word:
        return []
    for k in range(len(word), 0, -1):
        if word[:k] in known:
            pieces, left = [word[:k]], word[k:]
            break
    else:
        return ["[UNK]"]
    while left:
        fits = [k for k in range(1, len(left) + 1) if "##" + left[:k] in known]
        if not fits:
            return ["[UNK]"]
        pieces.append("##" + left[: fits[-1]])
        left = left[fits[-1] :]
    return pieces


@alternative("wordpiece")
def learn_subwords(words, n):
    # Every occurrence is kept, and a merge builds new lists.
    cuts = [[c if i == 0 else "##" + c for i, c in enumerate(w)] for w in words]
    vocab = sorted({p for cut in cuts for p in cut})
    for _ in range(n):
        pairs = Counter(p for cut in cuts for p in zip(cut[:-1], cut[1:], strict=True))
        if not pairs:
            return vocab
        top = max(pairs.values())
        a, b = sorted(p for p, k in pairs.items() if k == top)[0]
        merged = []
        for cut in cuts:
            new = []
            for piece in cut:
                if new and piece == b and new[-1] == a:
                    new[-1] = (a + b[2:], "joined")  # not to be joined twice in one pass
                else:
                    new.append(piece)
            merged.append([p[0] if isinstance(p, tuple) else p for p in new])
        cuts = merged
        if a + b[2:] not in vocab:
            vocab.append(a + b[2:])
    return vocab


@alternative("pair")
def pack(a, b, max_len):
    # The lengths after cutting, from arithmetic.
    room = max_len - (2 if b is None else 3)
    if room < 0:
        raise ValueError("no room")
    m, n = len(a), 0 if b is None else len(b)
    if m + n > room:
        half = room // 2
        if n <= half:
            m = room - n
        elif m <= room - half:
            n = room - m
        else:
            m, n = room - half, half
    ids = torch.full((max_len,), 0)
    segments = torch.zeros(max_len, dtype=torch.long)
    ids[0], ids[m + 1] = 2, 3
    ids[1 : m + 1] = torch.tensor(a[:m], dtype=torch.long)
    end = m + 2
    if b is not None:
        ids[end : end + n] = torch.tensor(b[:n], dtype=torch.long)
        ids[end + n] = 3
        segments[end : end + n + 1] = 1
        end += n + 1
    return ids, segments, torch.arange(max_len) < end


@alternative("pair")
class BertEmbedding(nn.Module):
    def __init__(self, vocab_size, hidden, max_len, dropout=0.1):
        super().__init__()
        self.token, self.segment, self.position = (
            nn.Embedding(rows, hidden) for rows in (vocab_size, 2, max_len)
        )
        for table in (self.token, self.segment, self.position):
            table.weight.data.normal_(0, 0.02)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids, segments):
        place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if ids.shape[1] > len(self.position.weight):
            raise ValueError("too long")
        vectors = torch.stack([self.token(ids), self.segment(segments), self.position(place)])
        return self.dropout(self.norm(vectors.sum(0)))


@alternative("mlm")
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    # One uniform number per token decides everything.
    u = torch.rand(ids.shape, generator=rng)
    for token in special:
        u = u.masked_fill(ids == token, 1.0)
    inp, labels = ids.clone(), torch.full_like(ids, -100)
    chosen = u < 0.15
    labels[chosen] = ids[chosen]
    inp[u < 0.12] = mask_id
    swap = (u >= 0.12) & (u < 0.135)
    inp[swap] = torch.randint(vocab_size, (int(swap.sum()),), generator=rng)
    return inp, labels


@alternative("nsp")
def nsp_pairs(docs, rng):
    if len(docs) <= 1:
        raise ValueError("two documents, please")
    pairs = []
    for d in range(len(docs)):
        others = docs[:d] + docs[d + 1 :]
        for i in range(len(docs[d]) - 1):
            if torch.rand((), generator=rng) < 0.5:
                pairs.append((docs[d][i], docs[d][i + 1], 1))
            else:
                other = others[int(torch.randint(len(others), (1,), generator=rng))]
                pairs.append(
                    (docs[d][i], other[int(torch.randint(len(other), (1,), generator=rng))], 0)
                )
    return pairs


@alternative("count")
def bert_params(V, H, L, A, ff, max_len):
    # Linear layers and norms, one by one.
    if H % A != 0:
        raise ValueError("the heads do not divide the width")

    def linear(m, n):
        return (m + 1) * n

    norm = 2 * H
    layer = 3 * linear(H, H) + linear(H, H) + norm + linear(H, ff) + linear(ff, H) + norm
    return V * H + 2 * H + max_len * H + norm + sum(layer for _ in range(L)) + linear(H, H)


@alternative("pretrain")
class TinyBERT(nn.Module):
    def __init__(self, embedding, vocab_size, hidden, layers, heads, ff):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(
                nn.TransformerEncoderLayer(
                    d_model=hidden,
                    nhead=heads,
                    dim_feedforward=ff,
                    dropout=0,
                    activation=F.gelu,
                    batch_first=True,
                )
            )
        head = [nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden)]
        self.mlm = nn.Sequential(*head, nn.Linear(hidden, vocab_size))
        self.pooler = nn.Linear(hidden, hidden)
        self.nsp = nn.Linear(hidden, 2)

    def encode(self, ids, segments, mask):
        # A float mask that is added to the scores of attention.
        x = self.embedding(ids, segments)
        bias = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(~mask, float("-inf"))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=bias)
        return x

    def forward(self, ids, segments, mask):
        vectors = self.encode(ids, segments, mask)
        first = vectors.select(1, 0)
        return self.mlm(vectors), self.nsp(self.pooler(first).tanh())


@alternative("pretrain")
def pretrain_step(model, batch):
    # Chosen rows only; a sum over nothing keeps the graph and is 0.
    words, follows = model(batch["ids"], batch["segments"], batch["mask"])
    losses = []
    for scores, labels in ((words, batch["labels"]), (follows, batch["next"])):
        asked = labels >= 0
        logs = scores[asked].log_softmax(-1)
        picked = logs.gather(-1, labels[asked][:, None])
        losses.append(-picked.sum() / max(int(asked.sum()), 1))
    return losses[0], losses[1]


@alternative("finetune")
def finetune(model, data, freeze_layers=0):
    import hashlib

    text = "\n".join(data["vocab"]).encode()
    if hashlib.sha256(text).hexdigest()[:16] != model.vocab_hash:
        raise ValueError("another vocabulary")
    if len(model.layers) < freeze_layers:
        raise ValueError("too few layers")
    fixed = set()
    if freeze_layers:
        for part in [model.embedding, *list(model.layers)[:freeze_layers]]:
            fixed |= {id(p) for p in part.parameters()}
    for p in model.parameters():
        p.requires_grad = id(p) not in fixed
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if id(p) not in fixed), lr=data["lr"]
    )
    model.train(True)
    losses = []
    for *inputs, labels in data["batches"]:
        model.zero_grad(set_to_none=True)
        scores = model(*inputs)
        loss = -scores.log_softmax(1).gather(1, labels[:, None]).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
