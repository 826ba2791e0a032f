"""Wrong answers that students give in the chapter on sequences and recurrent networks."""

import json
import math
import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- windows -------------------------------------------------------------------------------


@misconception(
    "windows",
    hint="The label is the last element of its own window, so the model may simply copy "
    "it. It should be the element after the window.",
)
def make_windows(x, tau):
    if len(x) <= tau:
        raise ValueError("too short")
    features = x.unfold(0, tau, 1)[:-1]
    return features, x[tau - 1 : -1]


@misconception(
    "windows",
    hint="The last window is lost: a sequence of n elements has n - tau windows with a label.",
)
def make_windows(x, tau):
    if len(x) <= tau:
        raise ValueError("too short")
    features = torch.stack([x[i : i + tau] for i in range(len(x) - tau - 1)] or [x[:tau]])
    return features, x[tau : tau + len(features)]


@misconception(
    "windows",
    hint="The windows do not overlap. Each starts one element after the one before, not "
    "tau elements.",
)
def make_windows(x, tau):
    if len(x) <= tau:
        raise ValueError("too short")
    starts = range(0, len(x) - tau, tau)
    return torch.stack([x[i : i + tau] for i in starts]), torch.stack([x[i + tau] for i in starts])


@misconception(
    "windows",
    hint="Your windows slide over the true elements, so every prediction is one step ahead "
    "only. After the first step the newest element of a window should be the model's "
    "own prediction.",
)
@torch.no_grad()
def predict_k(model, x, tau, k):
    count = len(x) - tau - k + 1
    if count < 1:
        raise ValueError("too short")
    window = x[k - 1 :].unfold(0, tau, 1)[:count]
    return model(window)[:, 0]


@misconception(
    "windows",
    hint="The prediction is put at the old end of the window. It is the newest element: "
    "append it on the right and drop the one on the left.",
)
@torch.no_grad()
def predict_k(model, x, tau, k):
    count = len(x) - tau - k + 1
    if count < 1:
        raise ValueError("too short")
    window = x.unfold(0, tau, 1)[:count]
    for _ in range(k):
        prediction = model(window)
        window = torch.cat([prediction, window[:, :-1]], 1)
    return prediction[:, 0]


@misconception(
    "windows",
    hint="One step is missing: k = 1 should already ask the model once, and k steps ask it "
    "k times.",
)
@torch.no_grad()
def predict_k(model, x, tau, k):
    count = len(x) - tau - k + 1
    if count < 1:
        raise ValueError("too short")
    window = x.unfold(0, tau, 1)[:count]
    for _ in range(k - 1):
        window = torch.cat([window, model(window)], 1)[:, 1:]
    return window[:, -1]


@misconception(
    "windows",
    hint="The windows are the columns of your matrix. Each should be a row: stack along dim 1.",
)
def make_windows(x, tau):
    if len(x) <= tau:
        raise ValueError("too short")
    return torch.stack([x[i : len(x) - tau + i] for i in range(tau)]), x[tau:]


@misconception(
    "windows",
    hint="The last window is left out. The window that starts at n - tau - k can still be "
    "compared with the last element, so there are n - tau - k + 1 predictions.",
)
@torch.no_grad()
def predict_k(model, x, tau, k):
    if len(x) < tau + k:
        raise ValueError("too short")
    window = x.unfold(0, tau, 1)[: len(x) - tau - k]
    for _ in range(k):
        window = torch.cat([window[:, 1:], model(window)], 1)
    return window[:, -1]


# --- markov --------------------------------------------------------------------------------


@misconception(
    "markov",
    hint="The denominator lacks the smoothing: what is added to each of the V counts has "
    "to be added V times below, or the probabilities do not add up to 1.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n + 1 :])
        total = self.contexts[context]
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


@misconception(
    "markov",
    hint="alpha is added below only once. There are V continuations, and each of them was "
    "seen alpha times more often.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n + 1 :])
        total = self.contexts[context] + self.alpha
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


@misconception(
    "markov",
    hint="For n = 1 the context is not empty: the slice [-(n - 1):] is [-0:], which is everything.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[-(self.n - 1) :])
        total = self.contexts[context] + self.alpha * len(self.vocab)
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


@misconception(
    "markov",
    hint="The contexts are counted at the end of the text too, where no token follows. "
    "Then the probabilities after the last context do not add up to 1.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        self.contexts[tuple(tokens[len(tokens) - self.n + 1 :])] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n + 1 :])
        total = self.contexts[context] + self.alpha * len(self.vocab)
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


@misconception(
    "markov",
    hint="A context has n tokens in your model. An n-gram has n tokens together with the "
    "one that is predicted, so its context has n - 1.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n, len(tokens)):
            context = tuple(tokens[i - self.n : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n :])
        total = self.contexts[context] + self.alpha * len(self.vocab)
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


@misconception(
    "markov",
    hint="The sum is divided by the number of all tokens. The first n - 1 have no full "
    "context and are not in the sum, so they do not count below either.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n + 1 :])
        total = self.contexts[context] + self.alpha * len(self.vocab)
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                return math.inf
            nll -= math.log(p)
        return math.exp(nll / len(tokens))


@misconception(
    "markov",
    hint="A probability of 0 is skipped, so that impossible text looks good. Its surprise "
    "is infinite.",
)
class NGram:
    def __init__(self, n, alpha):
        self.n, self.alpha = n, alpha

    def fit(self, tokens):
        self.vocab = set(tokens)
        self.pairs, self.contexts = Counter(), Counter()
        for i in range(self.n - 1, len(tokens)):
            context = tuple(tokens[i - self.n + 1 : i])
            self.pairs[context, tokens[i]] += 1
            self.contexts[context] += 1
        return self

    def prob(self, token, context):
        context = tuple(context[len(context) - self.n + 1 :])
        total = self.contexts[context] + self.alpha * len(self.vocab)
        if total == 0:
            return 1 / len(self.vocab)
        return (self.pairs[context, token] + self.alpha) / total

    def perplexity(self, tokens):
        nll = 0.0
        for i in range(self.n - 1, len(tokens)):
            p = self.prob(tokens[i], tokens[i - self.n + 1 : i])
            if p == 0:
                continue
            nll -= math.log(p)
        return math.exp(nll / (len(tokens) - self.n + 1))


# --- text ----------------------------------------------------------------------------------


@misconception(
    "text",
    hint="Digits and underscores survive: in a regular expression \\w means letters, digits "
    "and the underscore. Only a to z are letters here.",
)
def tokenize(text):
    return list(re.sub(r"\W+", " ", text.lower()).strip())


@misconception(
    "text",
    hint="Punctuation is deleted instead of being replaced by a space, so words grow together.",
)
def tokenize(text):
    return list(" ".join(re.sub("[^a-z ]", "", text.lower()).split()))


@misconception(
    "text",
    hint="This gives words. Here a token is a single character, the space included.",
)
def tokenize(text):
    return re.sub("[^a-z]+", " ", text.lower()).split()


@misconception(
    "text",
    hint="Tokens of equal frequency stay in the order in which they were met, so two runs "
    "over the same words may number them differently. Break ties alphabetically.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = Counter(tokens).most_common()
        self.tokens = special + [
            token for token, count in common if count >= min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="Among tokens of equal frequency the alphabet runs backwards: reverse=True turns "
    "both parts of the key around.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: (e[1], e[0]), reverse=True)
        self.tokens = special + [
            token for token, count in common if count >= min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="The ids are alphabetical; frequent tokens should come first.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: e[0])
        self.tokens = special + [
            token for token, count in common if count >= min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="Tokens that occur exactly min_freq times are lost. Only rarer ones should be.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: (-e[1], e[0]))
        self.tokens = special + [
            token for token, count in common if count > min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="A reserved token that also occurs in the text is listed twice, so it has two ids.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: (-e[1], e[0]))
        self.tokens = special + [token for token, count in common if count >= min_freq]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="Reloading sorts the tokens anew, so the ids differ and an old model would read "
    "scrambled text. Keep the order that was saved.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: (-e[1], e[0]))
        self.tokens = special + [
            token for token, count in common if count >= min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, 0) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = sorted(json.loads(text))
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="An unknown token gets the last id. It should get the id of <unk>, which is 0.",
)
class Vocab:
    def __init__(self, tokens, min_freq=1, reserved=()):
        special = ["<unk>", *reserved]
        common = sorted(Counter(tokens).items(), key=lambda e: (-e[1], e[0]))
        self.tokens = special + [
            token for token, count in common if count >= min_freq and token not in special
        ]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, tokens):
        return [self.ids.get(token, len(self) - 1) for token in tokens]

    def decode(self, ids):
        return [self.tokens[i] for i in ids]

    def to_json(self):
        return json.dumps(self.tokens)

    @classmethod
    def from_json(cls, text):
        vocab = cls([])
        vocab.tokens = json.loads(text)
        vocab.ids = {token: i for i, token in enumerate(vocab.tokens)}
        return vocab


@misconception(
    "text",
    hint="A space is left over at an end of the text. `strip` removes it.",
)
def tokenize(text):
    return list(re.sub("[^a-z]+", " ", text.lower()))


@misconception(
    "text",
    hint="Each single character becomes a space of its own. A whole *run* should become one "
    "space: `+` in the pattern.",
)
def tokenize(text):
    return list(re.sub("[^a-z]", " ", text.lower()).strip())


# --- embedding -----------------------------------------------------------------------------


@misconception(
    "embedding",
    hint="A negative id counts from the end of the matrix, as in Python, without an error. "
    "No token has a negative id.",
)
def embed(ids, W):
    if (ids >= len(W)).any():
        raise IndexError("an id is outside the vocabulary")
    return W[ids]


@misconception(
    "embedding",
    hint="The one-hot product raises another error than the documented one where an id is "
    "too large. Check the ids yourself and raise an IndexError.",
)
def embed(ids, W):
    return F.one_hot(ids, len(W)).to(W.dtype) @ W


@misconception(
    "embedding",
    hint="The ids pick columns: W has one row for each token.",
)
def embed(ids, W):
    if (ids < 0).any() or (ids >= len(W)).any():
        raise IndexError("an id is outside the vocabulary")
    return W.T.contiguous().view(W.shape)[ids]


@misconception(
    "embedding",
    hint="No gradient arrives at W, since its values are copied out of the graph.",
)
def embed(ids, W):
    if (ids < 0).any() or (ids >= len(W)).any():
        raise IndexError("an id is outside the vocabulary")
    return F.one_hot(ids, len(W)).to(W.dtype) @ W.detach()


@misconception(
    "embedding",
    hint="Where a token occurs twice, only the last gradient counts: neither `grad[ids] = dy` nor "
    "`grad[ids] += dy` adds up. Use the one-hot product, or an operation that accumulates.",
)
def embed_grad(ids, dy, V, padding_idx=None):
    grad = dy.new_zeros(V, dy.shape[-1])
    grad[ids.flatten()] = dy.reshape(-1, dy.shape[-1])
    if padding_idx is not None:
        grad[padding_idx] = 0
    return grad


@misconception(
    "embedding",
    hint="The padding's row learns nothing, except if it is row 0: `if padding_idx` is "
    "false for 0.",
)
def embed_grad(ids, dy, V, padding_idx=None):
    one_hot = F.one_hot(ids.flatten(), V).to(dy.dtype)
    grad = one_hot.T @ dy.reshape(len(one_hot), -1)
    if padding_idx:
        grad[padding_idx] = 0
    return grad


@misconception(
    "embedding",
    hint="The gradient is the mean over a token's occurrences. Each occurrence contributes "
    "in full, so it is their sum.",
)
def embed_grad(ids, dy, V, padding_idx=None):
    one_hot = F.one_hot(ids.flatten(), V).to(dy.dtype)
    grad = one_hot.T @ dy.reshape(len(one_hot), -1)
    grad = grad / one_hot.sum(0).clamp(min=1)[:, None]
    if padding_idx is not None:
        grad[padding_idx] = 0
    return grad


# --- batches -------------------------------------------------------------------------------


@misconception(
    "batches",
    hint="The targets are the inputs themselves. Each target should be the token after its input.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, (), generator=rng))
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.randperm(m // steps, generator=rng)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at]


@misconception(
    "batches",
    hint="In sequential mode the rows of one batch lie side by side, so row i of the next "
    "batch does not continue row i. Cut the corpus into N long rows first.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, (), generator=rng))
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.randperm(m // steps, generator=rng)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset
            + steps * torch.arange(batch)[:, None]
            + steps * batch * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


@misconception(
    "batches",
    hint="The pieces overlap: they may start anywhere, so some tokens are read several "
    "times. Cut first, then shuffle.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, (), generator=rng))
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = torch.randperm(len(corpus) - steps, generator=rng)[: m // steps]
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


@misconception(
    "batches",
    hint="There is no random offset, so every epoch cuts the corpus at the same places.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = 0
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.randperm(m // steps, generator=rng)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


@misconception(
    "batches",
    hint="The random numbers do not come from `rng`, so the same generator gives another "
    "epoch every time.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, ()))
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.randperm(m // steps)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


@misconception(
    "batches",
    hint="The pieces are not shuffled in random mode.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, (), generator=rng))
    m = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.arange(m // steps)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


@misconception(
    "batches",
    hint="The last token of the corpus may lie in x, where it has no successor. Leave one "
    "token over for the targets before you count the pieces.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError("unknown mode")
    offset = int(torch.randint(steps, (), generator=rng))
    m = len(corpus) - offset
    if mode == "random":
        starts = offset + steps * torch.randperm(m // steps, generator=rng)
        count = len(starts) // batch
        starts = starts[: count * batch].view(count, batch, 1)
    else:
        row = m // batch
        count = row // steps
        starts = (
            offset + row * torch.arange(batch)[:, None] + steps * torch.arange(count)[:, None, None]
        )
    for first in starts:
        at = first + torch.arange(steps)
        yield corpus[at], corpus[(at + 1) % len(corpus)]


@misconception(
    "batches",
    hint="The long rows are shortened to a multiple of T before they are laid out, so they lie "
    "closer together than in the text: each should have m // N tokens.",
)
def seq_iter(corpus, batch, steps, mode, rng):
    if mode not in ("random", "sequential"):
        raise ValueError(mode)
    offset = int(torch.randint(steps, (1,), generator=rng))
    room = len(corpus) - offset - 1
    if mode == "random":
        starts = offset + steps * torch.randperm(room // steps, generator=rng)
        starts = starts[: len(starts) // batch * batch].view(-1, batch)
    else:
        row = room // (batch * steps) * steps
        columns = offset + row * torch.arange(batch)
        starts = columns + steps * torch.arange(row // steps)[:, None]
    for group in starts:
        at = group[:, None] + torch.arange(steps)
        yield corpus[at], corpus[at + 1]


# --- rnn -----------------------------------------------------------------------------------


@misconception(
    "rnn",
    hint="Each output is the state before its input was read. The output at step t should "
    "know x_t.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            outputs.append(state)
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="The state that is passed in is overwritten by zeros, so nothing is carried from "
    "one batch to the next.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="The state is detached inside the layer at every step, so no gradient flows back "
    "through time. Leave it to the caller, between batches.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state.detach() @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="The state that comes in is detached by the layer. Whether the gradient stops "
    "there is for the caller to decide.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        state = state.detach()
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="batch_first is ignored on the way out: the outputs are still (T, N, h).",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs), state


@misconception(
    "rnn",
    hint="batch_first is ignored on the way in: the loop runs over the sequences of the "
    "batch, not over time.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs), state


@misconception(
    "rnn",
    hint="The matrix W_hh is transposed. With states as rows the product is state @ W_hh.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh.T + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="tanh is applied to the input only; the old state has to be inside it, together "
    "with the bias.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + self.b_h) + state @ self.W_hh
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="The weights start from a standard normal distribution. They should be even "
    "between -1 / sqrt(h) and 1 / sqrt(h).",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.randn(shape) * bound)

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, int(self.batch_first)), state


@misconception(
    "rnn",
    hint="`reshape` does not swap axes: it reads the numbers in the same order and mixes up "
    "the sequences. Use `transpose(0, 1)`.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(h)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.reshape(x.shape[1], x.shape[0], x.shape[2])
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, 1 if self.batch_first else 0), state


@misconception(
    "rnn",
    hint="The interval depends on the number of inputs. PyTorch's is 1 / sqrt(h), the number of "
    "hidden units, for all parameters.",
)
class RNN(nn.Module):
    def __init__(self, v, h, batch_first=False):
        super().__init__()

        def parameter(*shape):
            bound = 1 / math.sqrt(v)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.W_xh, self.W_hh = parameter(v, h), parameter(h, h)
        self.b_h = parameter(h)
        self.batch_first = batch_first

    def forward(self, x, state=None):
        if self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            state = x.new_zeros(x.shape[1], len(self.b_h))
        outputs = []
        for x_t in x:
            state = torch.tanh(x_t @ self.W_xh + state @ self.W_hh + self.b_h)
            outputs.append(state)
        return torch.stack(outputs, 1 if self.batch_first else 0), state


# --- lm ------------------------------------------------------------------------------------


@misconception(
    "lm",
    hint="This is the mean of the surprise, not yet the perplexity: the exponential is missing.",
)
def perplexity(nll_sum, n):
    return float(nll_sum / n)


@misconception(
    "lm",
    hint="The exponential is taken before the mean.",
)
def perplexity(nll_sum, n):
    return math.exp(nll_sum) / n


@misconception(
    "lm",
    hint="The logarithms are natural, so the perplexity is e to the mean, not 2 to it.",
)
def perplexity(nll_sum, n):
    return float(2 ** (nll_sum / n))


@misconception(
    "lm",
    hint="Each tensor is clipped on its own, which changes the direction of the step. One "
    "norm for all, one factor for all.",
)
def clip_grads(params, theta):
    grads = [p.grad for p in params if p.grad is not None]
    for g in grads:
        g.mul_(min(1.0, theta / max(g.norm().item(), 1e-12)))
    return torch.stack([g.norm() for g in grads]).norm()


@misconception(
    "lm",
    hint="Single entries are cut off at theta. Clipping by the norm keeps the direction of "
    "the gradient.",
)
def clip_grads(params, theta):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    for g in grads:
        g.clamp_(-theta, theta)
    return norm


@misconception(
    "lm",
    hint="Short gradients are made longer: every gradient gets the norm theta. The factor "
    "should never exceed 1.",
)
def clip_grads(params, theta):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    for g in grads:
        g.mul_(theta / norm)
    return norm


@misconception(
    "lm",
    hint="The norms of the tensors are added. The joint norm is the square root of the sum "
    "of their squares.",
)
def clip_grads(params, theta):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).sum()
    if norm > theta:
        for g in grads:
            g.mul_(theta / norm)
    return norm


@misconception(
    "lm",
    hint="`params` is read twice. A generator such as model.parameters() is empty the "
    "second time, and nothing is clipped. Make a list of it first.",
)
def clip_grads(params, theta):
    norm = torch.stack([p.grad.norm() for p in params if p.grad is not None]).norm()
    if norm > theta:
        for p in params:
            if p.grad is not None:
                p.grad.mul_(theta / norm)
    return norm


@misconception(
    "lm",
    hint="The state is handed over with its graph, so the second backward runs into the "
    "first batch's graph. Detach it.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = state if carry else None
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grads(model.parameters(), theta)  # noqa: F821
        optimizer.step()
        total += loss.item() * y.numel()
        count += y.numel()
    return perplexity(total, count)  # noqa: F821


@misconception(
    "lm",
    hint="Every batch starts with a fresh state, whatever `carry` says.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = None
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grads(model.parameters(), theta)  # noqa: F821
        optimizer.step()
        total += loss.item() * y.numel()
        count += y.numel()
    return perplexity(total, count)  # noqa: F821


@misconception(
    "lm",
    hint="The gradients of all batches add up: clear them before each backward pass.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = detached(state) if carry and state is not None else None  # noqa: F821
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        loss.backward()
        clip_grads(model.parameters(), theta)  # noqa: F821
        optimizer.step()
        total += loss.item() * y.numel()
        count += y.numel()
    return perplexity(total, count)  # noqa: F821


@misconception(
    "lm",
    hint="Clipping comes before backward, where it only shortens old gradients. It belongs "
    "between backward and step.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = detached(state) if carry and state is not None else None  # noqa: F821
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_grads(model.parameters(), theta)  # noqa: F821
        total += loss.item() * y.numel()
        count += y.numel()
    return perplexity(total, count)  # noqa: F821


@misconception(
    "lm",
    hint="The perplexity is the mean of the batches' perplexities. Average the cross- "
    "entropy over all tokens first, and take the exponential once.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = detached(state) if carry and state is not None else None  # noqa: F821
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grads(model.parameters(), theta)  # noqa: F821
        optimizer.step()
        total += math.exp(loss.item())
        count += 1
    return total / count


@misconception(
    "lm",
    hint="Each batch counts the same in the mean, although some hold more tokens. Weigh "
    "its loss by its number of tokens.",
)
def train_lm(model, batches, optimizer, theta, carry=True):
    total, count, state = 0.0, 0, None
    for x, y in batches:
        state = detached(state) if carry and state is not None else None  # noqa: F821
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grads(model.parameters(), theta)  # noqa: F821
        optimizer.step()
        total += loss.item()
        count += 1
    return perplexity(total, count)  # noqa: F821


@misconception(
    "lm",
    hint="The state is forgotten after each token, so the model sees one letter only.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x = [prefix], prefix[None]
    for _ in range(n):
        scores, _ = model(x, None)
        if temperature == 0:
            x = scores[:, -1].argmax(1, keepdim=True)
        else:
            p = (scores[:, -1] / temperature).softmax(1)
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
    return torch.cat(ids)


@misconception(
    "lm",
    hint="The whole text is fed again for each token, although the state has already read "
    "it. Feed the new token alone.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x, state = [prefix], prefix[None], None
    for _ in range(n):
        scores, state = model(x, state)
        if temperature == 0:
            x = scores[:, -1].argmax(1, keepdim=True)
        else:
            p = (scores[:, -1] / temperature).softmax(1)
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
        x = torch.cat(ids)[None]
    return torch.cat(ids)


@misconception(
    "lm",
    hint="The next token is read from the scores of the first place. The last place has "
    "read the whole prefix.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x, state = [prefix], prefix[None], None
    for _ in range(n):
        scores, state = model(x, state)
        if temperature == 0:
            x = scores[:, 0].argmax(1, keepdim=True)
        else:
            p = (scores[:, 0] / temperature).softmax(1)
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
    return torch.cat(ids)


@misconception(
    "lm",
    hint="The temperature multiplies the scores. Dividing by a small temperature makes "
    "them sharper.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x, state = [prefix], prefix[None], None
    for _ in range(n):
        scores, state = model(x, state)
        if temperature == 0:
            x = scores[:, -1].argmax(1, keepdim=True)
        else:
            p = (scores[:, -1] * temperature).softmax(1)
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
    return torch.cat(ids)


@misconception(
    "lm",
    hint="Only the new tokens are returned; the prefix belongs to the answer.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x, state = [prefix], prefix[None], None
    for _ in range(n):
        scores, state = model(x, state)
        if temperature == 0:
            x = scores[:, -1].argmax(1, keepdim=True)
        else:
            p = (scores[:, -1] / temperature).softmax(1)
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
    return torch.cat(ids[1:]) if n else prefix[:0]


@misconception(
    "lm",
    hint="The temperature divides the probabilities, which `multinomial` normalises again: "
    "nothing changes. Divide the scores, then take the softmax.",
)
@torch.no_grad()
def generate(model, prefix, n, temperature=0.0, rng=None):
    ids, x, state = [prefix], prefix[None], None
    for _ in range(n):
        scores, state = model(x, state)
        if temperature == 0:
            x = scores[:, -1].argmax(1, keepdim=True)
        else:
            p = scores[:, -1].softmax(1) / temperature
            x = torch.multinomial(p, 1, generator=rng)
        ids.append(x[0])
    return torch.cat(ids)
