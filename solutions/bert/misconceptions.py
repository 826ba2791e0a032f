"""Wrong answers in the chapter on BERT, each with the hint it deserves."""

import hashlib
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# What the chapter's first cell defines.
PAD, UNK, CLS, SEP, MASK = range(5)


def fingerprint(vocab):
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()[:16]


# --- wordpiece -------------------------------------------------------------------------------


@misconception(
    "wordpiece",
    hint="The cut takes the *shortest* piece that fits. From which end should the search start?",
)
def wordpiece(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(start + 1, len(word) + 1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


@misconception(
    "wordpiece",
    hint="Inside a word only pieces that begin with ## may be used. Without the mark, nobody "
    "could tell two pieces of a word from two words.",
)
def wordpiece(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            if word[start:end] in vocab:
                break
        else:
            return ["[UNK]"]
        pieces.append(word[start:end])
        start = end
    return pieces


@misconception(
    "wordpiece",
    hint="When the cut gets stuck, the whole word is unknown. The pieces found so far are given up, too.",
)
def wordpiece(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            return [*pieces, "[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


@misconception(
    "wordpiece",
    hint="Greedy never takes a step back. You search for any cut that works, which is another "
    "algorithm: it can find one where WordPiece says [UNK].",
)
def wordpiece(word, vocab):
    def search(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                rest = search(end)
                if rest is not None:
                    return [piece, *rest]
        return None

    pieces = search(0)
    return ["[UNK]"] if pieces is None else pieces


@misconception(
    "wordpiece",
    hint="A word that occurs ten times should count ten times. Each different word is counted "
    "once here.",
)
def learn_subwords(words, n):
    cuts = {w: [w[0], *("##" + c for c in w[1:])] for w in words}
    vocab = sorted({piece for cut in cuts.values() for piece in cut})
    for _ in range(n):
        pairs = Counter(pair for cut in cuts.values() for pair in zip(cut, cut[1:], strict=False))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = best[0] + best[1][2:]
        for cut in cuts.values():
            for i in range(len(cut)):
                if tuple(cut[i : i + 2]) == best:
                    cut[i : i + 2] = [joined]
        if joined not in vocab:
            vocab.append(joined)
    return vocab


@misconception(
    "wordpiece",
    hint="In a tie you keep the pair that was met first (`most_common` does that). The smaller "
    "pair in Python's order should win, so that the result does not depend on the order of words.",
)
def learn_subwords(words, n):
    counts = Counter(words)
    cuts = {w: [w[0], *("##" + c for c in w[1:])] for w in counts}
    vocab = sorted({piece for cut in cuts.values() for piece in cut})
    for _ in range(n):
        pairs = Counter()
        for word, cut in cuts.items():
            for pair in zip(cut, cut[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = pairs.most_common(1)[0][0]
        joined = best[0] + best[1][2:]
        for cut in cuts.values():
            for i in range(len(cut)):
                if tuple(cut[i : i + 2]) == best:
                    cut[i : i + 2] = [joined]
        if joined not in vocab:
            vocab.append(joined)
    return vocab


@misconception(
    "wordpiece",
    hint="Where nothing fits you put one [UNK] for a letter and go on. The *whole* word is unknown "
    "then, and gives a single [UNK].",
)
def wordpiece(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            piece, end = "[UNK]", start + 1
        pieces.append(piece)
        start = end
    return pieces


@misconception(
    "wordpiece",
    hint="The piece grows as long as it is known, and stops at the first gap. A longer piece may "
    "be known although a shorter one is not: search from the longest down.",
)
def wordpiece(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        mark, end = "##" if start else "", start + 1
        while end < len(word) and mark + word[start : end + 1] in vocab:
            end += 1
        if mark + word[start:end] not in vocab:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


@misconception(
    "wordpiece",
    hint="The letters are listed in the order in which they were met. They should be sorted.",
)
def learn_subwords(words, n):
    counts = Counter(words)
    cuts = {w: [w[0], *("##" + c for c in w[1:])] for w in counts}
    vocab = list(dict.fromkeys(piece for cut in cuts.values() for piece in cut))
    for _ in range(n):
        pairs = Counter()
        for word, cut in cuts.items():
            for pair in zip(cut, cut[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = best[0] + best[1][2:]
        for cut in cuts.values():
            for i in range(len(cut)):
                if tuple(cut[i : i + 2]) == best:
                    cut[i : i + 2] = [joined]
        if joined not in vocab:
            vocab.append(joined)
    return vocab


@misconception(
    "wordpiece",
    hint="A merged piece has ## in its middle. Take the two marks off the second piece first.",
)
def learn_subwords(words, n):
    counts = Counter(words)
    cuts = {w: [w[0], *("##" + c for c in w[1:])] for w in counts}
    vocab = sorted({piece for cut in cuts.values() for piece in cut})
    for _ in range(n):
        pairs = Counter()
        for word, cut in cuts.items():
            for pair in zip(cut, cut[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = best[0] + best[1]
        for cut in cuts.values():
            for i in range(len(cut)):
                if tuple(cut[i : i + 2]) == best:
                    cut[i : i + 2] = [joined]
        if joined not in vocab:
            vocab.append(joined)
    return vocab


# --- pair ------------------------------------------------------------------------------------


@misconception(
    "pair",
    hint="There is no [SEP] at the end. It closes *each* sentence, the last one as well.",
)
def pack(a, b, max_len):
    room = max_len - (1 if b is None else 2)
    if room < 1:
        raise ValueError
    first, second = list(a), list(b or [])
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    ids = [CLS, *first] + ([] if b is None else [SEP, *second])
    segments = [0] * (len(first) + 1) + ([] if b is None else [0] + [1] * len(second))
    more = max_len - len(ids)
    return (
        torch.tensor(ids + [PAD] * more),
        torch.tensor(segments + [0] * more),
        torch.arange(max_len) < len(ids),
    )


@misconception(
    "pair",
    hint="The second sentence is cut until all fits, however long the first one is. It is the "
    "longer of the two that should lose its last token.",
)
def pack(a, b, max_len):
    room = max_len - (2 if b is None else 3)
    if room < 0:
        raise ValueError
    first = list(a)[:room]
    second = list(b or [])[: room - len(first)]
    ids = [CLS, *first, SEP] + ([] if b is None else [*second, SEP])
    segments = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
    more = max_len - len(ids)
    mask = torch.arange(max_len) < len(ids)
    ids, segments = torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more)
    return ids, segments, mask


@misconception(
    "pair",
    hint="`pop` shortens the caller's own lists. Work on copies: `list(a)`.",
)
def pack(a, b, max_len):
    room = max_len - (2 if b is None else 3)
    if room < 0:
        raise ValueError
    second = [] if b is None else b
    while len(a) + len(second) > room:
        (a if len(a) > len(second) else second).pop()
    first = a
    ids = [CLS, *first, SEP] + ([] if b is None else [*second, SEP])
    segments = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
    more = max_len - len(ids)
    mask = torch.arange(max_len) < len(ids)
    ids, segments = torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more)
    return ids, segments, mask


@misconception(
    "pair",
    hint="The mask is the wrong way round: True means a real token here.",
)
def pack(a, b, max_len):
    room = max_len - (2 if b is None else 3)
    if room < 0:
        raise ValueError
    first, second = list(a), list(b or [])
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    ids = [CLS, *first, SEP] + ([] if b is None else [*second, SEP])
    segments = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
    more = max_len - len(ids)
    mask = torch.arange(max_len) < len(ids)
    ids, segments = torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more)
    return ids, segments, ~mask


@misconception(
    "pair",
    hint="In a tie the first sentence loses a token. The description says: b in a tie.",
)
def pack(a, b, max_len):
    room = max_len - (2 if b is None else 3)
    if room < 0:
        raise ValueError
    first, second = list(a), list(b or [])
    while len(first) + len(second) > room:
        (first if len(first) >= len(second) else second).pop()
    ids = [CLS, *first, SEP] + ([] if b is None else [*second, SEP])
    segments = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
    more = max_len - len(ids)
    mask = torch.arange(max_len) < len(ids)
    ids, segments = torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more)
    return ids, segments, mask


@misconception(
    "pair",
    hint="The tables start with a standard deviation of 1, as `nn.Embedding` makes them. BERT's "
    "start at 0.02.",
)
class BertEmbedding(nn.Module):
    def __init__(self, vocab_size, hidden, max_len, dropout=0.1):
        super().__init__()
        self.token = nn.Embedding(vocab_size, hidden)
        self.segment = nn.Embedding(2, hidden)
        self.position = nn.Embedding(max_len, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids, segments):
        if ids.shape[1] > self.position.num_embeddings:
            raise ValueError
        x = self.token(ids) + self.segment(segments) + self.position.weight[: ids.shape[1]]
        return self.dropout(self.norm(x))


@misconception(
    "pair",
    hint="The position vector is looked up by the token's *id*. It should depend on where the "
    "token stands, and on nothing else.",
)
class BertEmbedding(nn.Module):
    def __init__(self, vocab_size, hidden, max_len, dropout=0.1):
        super().__init__()
        self.token = nn.Embedding(vocab_size, hidden)
        self.segment = nn.Embedding(2, hidden)
        self.position = nn.Embedding(max_len, hidden)
        for table in (self.token, self.segment, self.position):
            nn.init.normal_(table.weight, std=0.02)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids, segments):
        if ids.shape[1] > self.position.num_embeddings:
            raise ValueError
        place = ids % self.position.num_embeddings
        x = self.token(ids) + self.segment(segments) + self.position(place)
        return self.dropout(self.norm(x))


@misconception(
    "pair",
    hint="The special tokens just fit into the sequence here, and you refuse. Only less room than "
    "they need is an error.",
)
def pack(a, b, max_len):
    room = max_len - (2 if b is None else 3)
    if room <= 0:
        raise ValueError
    first, second = list(a), list(b or [])
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    ids = [CLS, *first, SEP] + ([] if b is None else [*second, SEP])
    segments = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
    more = max_len - len(ids)
    mask = torch.arange(max_len) < len(ids)
    ids, segments = torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more)
    return ids, segments, mask


# --- mlm -------------------------------------------------------------------------------------


@misconception(
    "mlm",
    hint="All chosen tokens become [MASK]. What of the 10 % that become random words, and the "
    "10 % that stay?",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    return ids.masked_fill(chosen, mask_id), ids.masked_fill(~chosen, -100)


@misconception(
    "mlm",
    hint="Two independent draws decide, and the second overwrites masks of the first. One random "
    "number per token should decide between the three cases.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    inp = ids.masked_fill(chosen & (torch.rand(ids.shape, generator=rng) < 0.8), mask_id)
    swap = chosen & (torch.rand(ids.shape, generator=rng) < 0.1)
    anything = torch.randint(vocab_size, ids.shape, generator=rng)
    return torch.where(swap, anything, inp), ids.masked_fill(~chosen, -100)


@misconception(
    "mlm",
    hint="Only tokens that were changed have a label here. The 10 % that stay as they are were "
    "chosen, too, and are predicted.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    kind = torch.rand(ids.shape, generator=rng)
    anything = torch.randint(vocab_size, ids.shape, generator=rng)
    inp = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inp = torch.where(chosen & (kind >= 0.9), anything, inp)
    return inp, ids.masked_fill(inp == ids, -100)


@misconception(
    "mlm",
    hint="Special tokens are chosen as well. A model should not be asked for [CLS], [SEP] or "
    "padding.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    kind = torch.rand(ids.shape, generator=rng)
    anything = torch.randint(vocab_size, ids.shape, generator=rng)
    inp = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inp = torch.where(chosen & (kind >= 0.9), anything, inp)
    return inp, ids.masked_fill(~chosen, -100)


@misconception(
    "mlm",
    hint="`inp = ids` is a second name for the same tensor: the input is overwritten, and the "
    "labels are made of what was written into it.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    kind = torch.rand(ids.shape, generator=rng)
    inp = ids
    inp[chosen & (kind < 0.8)] = mask_id
    swap = chosen & (kind >= 0.9)
    inp[swap] = torch.randint(vocab_size, (int(swap.sum()),), generator=rng)
    return inp, ids.masked_fill(~chosen, -100)


@misconception(
    "mlm",
    hint="Labels of 0 would be asked for: 0 is a token. Positions that do not count need -100.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    kind = torch.rand(ids.shape, generator=rng)
    anything = torch.randint(vocab_size, ids.shape, generator=rng)
    inp = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inp = torch.where(chosen & (kind >= 0.9), anything, inp)
    return inp, ids.masked_fill(~chosen, 0)


@misconception(
    "mlm",
    hint="All chosen tokens that are not masked become random. Half of them should stay.",
)
def mask_tokens(ids, vocab_size, mask_id, special, rng):
    chosen = torch.rand(ids.shape, generator=rng) < 0.15
    chosen &= ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    kind = torch.rand(ids.shape, generator=rng)
    anything = torch.randint(vocab_size, ids.shape, generator=rng)
    inp = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inp = torch.where(chosen & (kind >= 0.8), anything, inp)
    return inp, ids.masked_fill(~chosen, -100)


# --- nsp -------------------------------------------------------------------------------------


@misconception(
    "nsp",
    hint="The false sentence may come from the same document here, even be the true next one. "
    "Leave the pair's own document out.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    pairs = []
    for doc in docs:
        for a, b in zip(doc, doc[1:], strict=False):
            label = torch.randint(2, (), generator=rng).item()
            if not label:
                other = docs[torch.randint(len(docs), (), generator=rng).item()]
                b = other[torch.randint(len(other), (), generator=rng).item()]
            pairs.append((a, b, label))
    return pairs


@misconception(
    "nsp",
    hint="All sentences are put into one row first, so some pairs run across the end of a "
    "document. Pair up the neighbours of each document by itself.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    row = [(d, s) for d, doc in enumerate(docs) for s in doc]
    pairs = []
    for (d, a), (_, b) in zip(row, row[1:], strict=False):
        label = torch.randint(2, (), generator=rng).item()
        if not label:
            other = torch.randint(len(docs) - 1, (), generator=rng).item()
            other += other >= d
            b = docs[other][torch.randint(len(docs[other]), (), generator=rng).item()]
        pairs.append((a, b, label))
    return pairs


@misconception(
    "nsp",
    hint="The labels are the wrong way round: 1 means that b really follows.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    pairs = []
    for d, doc in enumerate(docs):
        for a, b in zip(doc, doc[1:], strict=False):
            swap = torch.randint(2, (), generator=rng).item()
            if swap:
                other = torch.randint(len(docs) - 1, (), generator=rng).item()
                other += other >= d
                b = docs[other][torch.randint(len(docs[other]), (), generator=rng).item()]
            pairs.append((a, b, swap))
    return pairs


@misconception(
    "nsp",
    hint="Sentences of long documents are drawn more often here. First a document, each with the "
    "same chance, then a sentence in it.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    pairs = []
    for d, doc in enumerate(docs):
        others = [s for e, other in enumerate(docs) if e != d for s in other]
        for a, b in zip(doc, doc[1:], strict=False):
            label = torch.randint(2, (), generator=rng).item()
            if not label:
                b = others[torch.randint(len(others), (), generator=rng).item()]
            pairs.append((a, b, label))
    return pairs


@misconception(
    "nsp",
    hint="The *first* sentence of the pair is replaced. It stays; b is drawn from elsewhere.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    pairs = []
    for d, doc in enumerate(docs):
        for a, b in zip(doc, doc[1:], strict=False):
            label = torch.randint(2, (), generator=rng).item()
            if not label:
                other = torch.randint(len(docs) - 1, (), generator=rng).item()
                other += other >= d
                a = docs[other][torch.randint(len(docs[other]), (), generator=rng).item()]
            pairs.append((a, b, label))
    return pairs


@misconception(
    "nsp",
    hint="The coin is tossed without `rng`, so the same seed gives other pairs each time.",
)
def nsp_pairs(docs, rng):
    if len(docs) < 2:
        raise ValueError
    pairs = []
    for d, doc in enumerate(docs):
        for a, b in zip(doc, doc[1:], strict=False):
            label = torch.randint(2, ()).item()
            if not label:
                other = torch.randint(len(docs) - 1, (), generator=rng).item()
                other += other >= d
                b = docs[other][torch.randint(len(docs[other]), (), generator=rng).item()]
            pairs.append((a, b, label))
    return pairs


# --- count -----------------------------------------------------------------------------------


@misconception(
    "count",
    hint="Only the weights are counted. Linear layers and layer norms have biases, too.",
)
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    return (V + max_len + 2) * H + H + L * (4 * H * H + 2 * H * ff + 2 * H) + H * H


@misconception(
    "count",
    hint="Each head does not have matrices of its own of the full width: the heads share it, "
    "H / A for each.",
)
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    layer = 3 * A * (H * H + H) + H * H + H + 2 * H * ff + ff + H + 4 * H
    return (V + max_len + 2) * H + 2 * H + L * layer + H * H + H


@misconception("count", hint="The pooler is missing, the dense layer that reads [CLS].")
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    layer = 4 * (H * H + H) + 2 * H * ff + ff + H + 4 * H
    return (V + max_len + 2) * H + 2 * H + L * layer


@misconception(
    "count",
    hint="The feed-forward layer is taken as 4 H wide. Here its width is an argument.",
)
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    layer = 4 * (H * H + H) + 8 * H * H + 5 * H + 4 * H
    return (V + max_len + 2) * H + 2 * H + L * layer + H * H + H


@misconception("count", hint="The layer norm behind the three tables is missing.")
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    layer = 4 * (H * H + H) + 2 * H * ff + ff + H + 4 * H
    return (V + max_len + 2) * H + L * layer + H * H + H


@misconception("count", hint="Each layer has two layer norms, one behind each of its halves.")
def bert_params(V, H, L, A, ff, max_len):
    if H % A:
        raise ValueError
    layer = 4 * (H * H + H) + 2 * H * ff + ff + H + 2 * H
    return (V + max_len + 2) * H + 2 * H + L * layer + H * H + H


@misconception(
    "count",
    hint="The number of heads has to divide the width. Say so with a ValueError.",
)
def bert_params(V, H, L, A, ff, max_len):
    layer = 4 * (H * H + H) + 2 * H * ff + ff + H + 4 * H
    return (V + max_len + 2) * H + 2 * H + L * layer + H * H + H


# --- pretrain --------------------------------------------------------------------------------


@misconception(
    "pretrain",
    hint="The padding is attended to: no mask reaches the layers.",
)
class TinyBERT(nn.Module):
    def __init__(self, embedding, vocab_size, hidden, layers, heads, ff):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, ff, dropout=0.0, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.mlm = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, vocab_size),
        )
        self.pooler = nn.Linear(hidden, hidden)
        self.nsp = nn.Linear(hidden, 2)

    def encode(self, ids, segments, mask):
        x = self.embedding(ids, segments)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, ids, segments, mask):
        x = self.encode(ids, segments, mask)
        return self.mlm(x), self.nsp(torch.tanh(self.pooler(x[:, 0])))


@misconception(
    "pretrain",
    hint="PyTorch's `src_key_padding_mask` is True for what is to be *ignored*. You pass it what "
    "is real, so that the model looks at the padding only.",
)
class TinyBERT(nn.Module):
    def __init__(self, embedding, vocab_size, hidden, layers, heads, ff):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, ff, dropout=0.0, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.mlm = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, vocab_size),
        )
        self.pooler = nn.Linear(hidden, hidden)
        self.nsp = nn.Linear(hidden, 2)

    def encode(self, ids, segments, mask):
        x = self.embedding(ids, segments)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask)
        return x

    def forward(self, ids, segments, mask):
        x = self.encode(ids, segments, mask)
        return self.mlm(x), self.nsp(torch.tanh(self.pooler(x[:, 0])))


@misconception(
    "pretrain",
    hint="The sentence is judged by the mean over all vectors, padding included. Use the vector of [CLS], "
    "at position 0.",
)
class TinyBERT(nn.Module):
    def __init__(self, embedding, vocab_size, hidden, layers, heads, ff):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, ff, dropout=0.0, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.mlm = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, vocab_size),
        )
        self.pooler = nn.Linear(hidden, hidden)
        self.nsp = nn.Linear(hidden, 2)

    def encode(self, ids, segments, mask):
        x = self.embedding(ids, segments)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return x

    def forward(self, ids, segments, mask):
        x = self.encode(ids, segments, mask)
        return self.mlm(x), self.nsp(torch.tanh(self.pooler(x.mean(1))))


@misconception(
    "pretrain",
    hint="The layers take the first axis for time. Did you forget `batch_first=True`? Then sentences of a batch "
    "look at each other.",
)
class TinyBERT(nn.Module):
    def __init__(self, embedding, vocab_size, hidden, layers, heads, ff):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, ff, dropout=0.0, activation="gelu")
            for _ in range(layers)
        )
        self.mlm = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, vocab_size),
        )
        self.pooler = nn.Linear(hidden, hidden)
        self.nsp = nn.Linear(hidden, 2)

    def encode(self, ids, segments, mask):
        x = self.embedding(ids, segments)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return x

    def forward(self, ids, segments, mask):
        x = self.encode(ids, segments, mask)
        return self.mlm(x), self.nsp(torch.tanh(self.pooler(x[:, 0])))


@misconception(
    "pretrain",
    hint="The mean over no labels is 0 / 0: a batch without chosen tokens gives NaN.",
)
def pretrain_step(model, batch):
    words, follows = model(batch["ids"], batch["segments"], batch["mask"])
    return (
        F.cross_entropy(words.flatten(0, 1), batch["labels"].flatten()),
        F.cross_entropy(follows, batch["next"]),
    )


@misconception(
    "pretrain",
    hint="The sum over labelled positions is divided by *all* positions. The loss then depends "
    "on how much padding there is.",
)
def pretrain_step(model, batch):
    words, follows = model(batch["ids"], batch["segments"], batch["mask"])
    total = F.cross_entropy(words.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    nsp = F.cross_entropy(follows, batch["next"], reduction="sum")
    return total / batch["labels"].numel(), nsp / batch["next"].numel()


@misconception(
    "pretrain",
    hint="Every position is predicted, chosen or not. The loss should look at the labels only, "
    "not at the ids.",
)
def pretrain_step(model, batch):
    words, follows = model(batch["ids"], batch["segments"], batch["mask"])
    n = (batch["next"] != -100).sum().clamp(min=1)
    return (
        F.cross_entropy(words.flatten(0, 1), batch["ids"].flatten()),
        F.cross_entropy(follows, batch["next"], reduction="sum") / n,
    )


# --- finetune --------------------------------------------------------------------------------


@misconception(
    "finetune",
    hint="Whether the *number* of pieces agrees says little: the same pieces in another order "
    "are another vocabulary. Compare fingerprints.",
)
def finetune(model, data, freeze_layers=0):
    if len(data["vocab"]) != model.embedding.num_embeddings:
        raise ValueError
    if freeze_layers > len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="The embedding still moves. Below the first frozen layer nothing should change, or the layer gets "
    "other inputs than before.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="The *last* layers are frozen. The general ones are those near the input.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[-freeze_layers:].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="The vocabulary is checked at the end, when the weights have already been trained on "
    "the wrong ids. Check before anything changes.",
)
def finetune(model, data, freeze_layers=0):
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    return losses


@misconception(
    "finetune",
    hint="What an earlier call had frozen stays frozen. Let everything move again before you freeze.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="`zero_grad` is never called, so each step uses the sum of all gradients so far.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="The model stays in the mode in which it came. Call `model.train()` before the steps.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers > len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception(
    "finetune",
    hint="All layers may be frozen, so that only the head learns: freeze_layers equal to the "
    "number of layers is allowed.",
)
def finetune(model, data, freeze_layers=0):
    if fingerprint(data["vocab"]) != model.vocab_hash or freeze_layers >= len(model.layers):
        raise ValueError
    model.requires_grad_(True)
    if freeze_layers:
        model.embedding.requires_grad_(False)
        model.layers[:freeze_layers].requires_grad_(False)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, data["lr"])
    model.train()
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        loss = F.cross_entropy(model(ids, segments, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
