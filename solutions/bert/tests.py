"""Hidden tests of the chapter on BERT."""

import hashlib
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_shape,
    assert_true,
    probe,
    raises,
    randint,
    randn,
    unchanged,
)

PAD, UNK, CLS, SEP, MASK = range(5)


# --- wordpiece -------------------------------------------------------------------------------


def greedy(word, vocab):
    """The longest pieces, by recursion over what is left."""

    def rest(left, first):
        if not left:
            return []
        mark = "" if first else "##"
        fits = [k for k in range(1, len(left) + 1) if mark + left[:k] in vocab]
        if not fits:
            return None
        tail = rest(left[max(fits) :], False)
        return None if tail is None else [mark + left[: max(fits)], *tail]

    pieces = rest(word, True)
    return ["[UNK]"] if pieces is None else pieces


def random_words(n, letters="abc", longest=7):
    sizes = randint(1, longest + 1, (n,)).tolist()
    return ["".join(letters[i] for i in randint(0, len(letters), (k,)).tolist()) for k in sizes]


@pytest.mark.exercise("wordpiece", points=3)
@pytest.mark.parametrize("kind", [list, set, dict.fromkeys])
def test_longest_pieces(student, kind):
    """wordpiece should take the longest piece each time, from a list, set or dict."""
    starts = set(random_words(12, longest=4)) | {"a"}
    inside = {"##" + w for w in random_words(14, longest=3)} | {"##b", "##c"}
    vocab = kind(sorted(starts | inside))
    with unchanged(vocab if kind is list else []):
        for word in random_words(60):
            got = student.wordpiece(word, vocab)
            assert_equal(got, greedy(word, set(vocab)), f"the pieces of {word}")


@pytest.mark.exercise("wordpiece", points=2)
def test_greedy_and_no_step_back(student):
    """wordpiece should never take a step back, even where another cut would exist."""
    vocab = ["play", "playg", "##ground", "##round", "##s", "##g"]
    assert_equal(student.wordpiece("playground", vocab), ["playg", "##round"], "playground")
    assert_equal(
        student.wordpiece("playground", [*vocab[:3], vocab[4]]),
        ["[UNK]"],
        "playground without ##round",
    )
    assert_equal(student.wordpiece("plays", vocab), ["play", "##s"], "plays")
    assert_equal(student.wordpiece("groundplay", vocab), ["[UNK]"], "groundplay")
    assert_equal(student.wordpiece("splay", vocab), ["[UNK]"], "splay")
    assert_equal(student.wordpiece("", vocab), [], "the empty word")
    assert_equal(student.wordpiece("s", ["##s"]), ["[UNK]"], "a piece that only continues")
    assert_equal(student.wordpiece("ss", ["s"]), ["[UNK]"], "a piece that only starts")


@pytest.mark.exercise("wordpiece", points=2)
def test_pieces_join_back(student):
    """The pieces of a word should join back to it, and be pieces of the vocabulary."""
    vocab = [*"abc", "##a", "##b", "##c", "ab", "##bca", "##ca", "cab"]
    for word in random_words(40, longest=12):
        pieces = student.wordpiece(word, vocab)
        joined = pieces[0] + "".join(piece[2:] for piece in pieces[1:])
        assert_equal(joined, word, "the pieces joined")
        assert_true(set(pieces) <= set(vocab), "A piece is not in the vocabulary.")


def merges(words, n):
    """The rule with plain loops on strings of pieces."""
    counts = Counter(words)
    cuts = {w: [c if i == 0 else "##" + c for i, c in enumerate(w)] for w in counts}
    vocab = sorted({p for cut in cuts.values() for p in cut})
    for _ in range(n):
        pairs = Counter()
        for w in counts:
            for i in range(len(cuts[w]) - 1):
                pairs[cuts[w][i], cuts[w][i + 1]] += counts[w]
        if not pairs:
            break
        top = max(pairs.values())
        a, b = min(pair for pair, k in pairs.items() if k == top)
        new = a + b[2:]
        for w, cut in cuts.items():
            out, i = [], 0
            while i < len(cut):
                if i + 1 < len(cut) and (cut[i], cut[i + 1]) == (a, b):
                    out.append(new)
                    i += 2
                else:
                    out.append(cut[i])
                    i += 1
            cuts[w] = out
        if new not in vocab:
            vocab.append(new)
    return vocab


@pytest.mark.exercise("wordpiece", points=4)
@pytest.mark.parametrize("n", [0, 1, 4, 12, 300])
def test_learned_pieces(student, n):
    """learn_subwords should merge the most frequent pair each time, and list each piece once."""
    words = ["low", "low", "lower", "newest", "newest", "newest", "widest", "slow"]
    for sample in (["ba", "ba", "ca"], words, random_words(40), random_words(9, "ab", 9)):
        with unchanged(sample):
            got = student.learn_subwords(sample, n)
        assert_equal(got, merges(sample, n), f"the pieces after {n} merges")


@pytest.mark.exercise("wordpiece", points=2)
def test_counts_and_ties(student):
    """A word should count as often as it occurs; in a tie the smaller pair should be merged."""
    words = ["xy"] * 3 + ["abc"] * 2
    letters = ["##b", "##c", "##y", "a", "x"]
    assert_equal(student.learn_subwords(words, 1), [*letters, "xy"], "one merge")
    assert_equal(student.learn_subwords(words, 2), [*letters, "xy", "##bc"], "two merges")
    assert_equal(student.learn_subwords(words, 3), [*letters, "xy", "##bc", "abc"], "all merges")
    assert_equal(student.learn_subwords(words, 9), [*letters, "xy", "##bc", "abc"], "too many")
    assert_equal(student.learn_subwords(["q"], 5), ["q"], "a word of one letter")


@pytest.mark.exercise("wordpiece", points=2)
def test_merges_in_long_words(student):
    """A merge should join every place in a word, from left to right, and only neighbours."""
    for word in ("baaaa", "abababab", "aaaaaaa", "abcabcabd"):
        for n in range(5):
            got = student.learn_subwords([word, word, "ba"], n)
            assert_equal(got, merges([word, word, "ba"], n), f"the pieces of {word}, {n} merges")


# --- pair ------------------------------------------------------------------------------------


def packed(a, b, max_len):
    """What pack should give, by removing one token after the other."""
    a, second = list(a), list(b or [])
    frame = 2 if b is None else 3
    while len(a) + len(second) + frame > max_len:
        if len(a) > len(second):
            del a[-1]
        else:
            del second[-1]
    ids = [CLS] + a + [SEP] + ([] if b is None else second + [SEP])
    segments = [0] * (len(a) + 2) + [1] * (len(ids) - len(a) - 2)
    more = max_len - len(ids)
    mask = torch.tensor([True] * len(ids) + [False] * more)
    return torch.tensor(ids + [PAD] * more), torch.tensor(segments + [0] * more), mask


@pytest.mark.exercise("pair", points=3)
@pytest.mark.parametrize(
    "m, n, max_len", [(3, 4, 10), (3, 4, 13), (1, 6, 12), (5, 1, 9), (2, 2, 8)]
)
def test_pairs_that_fit(student, m, n, max_len):
    """A pair that fits should be framed and padded; ids, segments and mask have their dtype."""
    a, b = randint(5, 90, (m,)).tolist(), randint(5, 90, (n,)).tolist()
    with unchanged(a, b):
        got = student.pack(a, b, max_len)
    for name, g, e in zip(("ids", "segments", "mask"), got, packed(a, b, max_len), strict=True):
        assert_close(g, e, name)


@pytest.mark.exercise("pair", points=3)
@pytest.mark.parametrize(
    "m, n, max_len",
    [(9, 2, 10), (2, 9, 10), (6, 6, 9), (6, 6, 10), (7, 3, 3), (20, 3, 12), (5, 4, 4), (4, 5, 11)],
)
def test_pairs_that_are_cut(student, m, n, max_len):
    """A pair that is too long should be cut at the end of the longer one, b in a tie."""
    a, b = randint(5, 90, (m,)).tolist(), randint(5, 90, (n,)).tolist()
    with unchanged(a, b):
        got = student.pack(a, b, max_len)
    only_b = packed(a[: max_len - 3], b[: max(0, max_len - 3 - m)], max_len)
    for i, name in enumerate(("ids", "segments", "mask")):
        assert_close(
            got[i],
            packed(a, b, max_len)[i],
            name,
            symptoms={"Only b is cut; the longer sentence should be.": only_b[i]},
        )


@pytest.mark.exercise("pair", points=2)
@pytest.mark.parametrize("m, max_len", [(4, 9), (4, 6), (8, 5), (0, 2), (0, 4), (3, 2)])
def test_one_sentence(student, m, max_len):
    """Without b there should be one [SEP], and segment 0 everywhere; an empty b has its [SEP]."""
    a = randint(5, 90, (m,)).tolist()
    for i, name in enumerate(("ids", "segments", "mask")):
        assert_close(student.pack(a, None, max_len)[i], packed(a, None, max_len)[i], name)
        got = student.pack(a, [], max_len + 1)[i]
        assert_close(got, packed(a, [], max_len + 1)[i], f"{name} with an empty b")


@pytest.mark.exercise("pair", points=1)
@pytest.mark.parametrize(
    "a, b, max_len", [([7], [8], 2), ([7], None, 1), ([], [], 2), ([], None, 0)]
)
def test_no_room(student, a, b, max_len):
    """pack should raise a ValueError when not even the special tokens fit."""
    with raises(ValueError):
        student.pack(a, b, max_len)


@probe
def run_embedding(student, sizes, tables, scale, shift, ids, segments, dy):
    """An embedding with given numbers: its output and the gradients of sum(dy * output)."""
    emb = student.BertEmbedding(*sizes, dropout=0.0).to(dy.dtype)
    wanted = [emb.token.weight, emb.segment.weight, emb.position.weight]
    wanted += [emb.norm.weight, emb.norm.bias]
    with torch.no_grad():
        for p, value in zip(wanted, [*tables, scale, shift]):
            p.copy_(value)
    y = emb(ids, segments)
    return y.detach(), torch.autograd.grad((y * dy).sum(), wanted)


@pytest.mark.exercise("pair", points=3)
@pytest.mark.parametrize(
    "n, t, dtype", [(2, 5, torch.float64), (1, 1, torch.float64), (3, 7, torch.float32)]
)
def test_embedding_values_and_gradients(student, n, t, dtype):
    """BertEmbedding should normalise the sum of three tables, gradients included."""
    vocab, hidden, longest = 11, 6, 7
    tables = [randn(rows, hidden, dtype=dtype) for rows in (vocab, 2, longest)]
    scale, shift = randn(hidden, dtype=dtype), randn(hidden, dtype=dtype)
    ids, segments = randint(0, vocab, (n, t)), randint(0, 2, (n, t))
    dy = randn(n, t, hidden, dtype=dtype)
    with unchanged(ids, segments):
        y, grads = student.run(
            run_embedding, (vocab, hidden, longest), tables, scale, shift, ids, segments, dy
        )
    leaves = [p.clone().requires_grad_() for p in (*tables, scale, shift)]
    word, segment, position, s, b = leaves
    total = word[ids] + segment[segments] + position[torch.arange(t)]
    expected = F.layer_norm(total, (hidden,), s, b)
    assert_close(
        y,
        expected.detach(),
        symptoms={"The layer norm is missing.": total.detach()},
    )
    assert_close(list(grads), list(torch.autograd.grad((expected * dy).sum(), leaves)), "gradients")


@probe
def embedding_state(student):
    """Names and shapes, the spread of the tables, and what dropout does."""
    torch.manual_seed(1)
    emb = student.BertEmbedding(300, 50, 80, dropout=0.25)
    shapes = {name: list(p.shape) for name, p in emb.named_parameters()}
    spread = [t.weight.std().item() for t in (emb.token, emb.segment, emb.position)]
    middle = emb.token.weight.mean().item()
    ids = torch.arange(80)[None].repeat(6, 1)
    dropped = (emb(ids, ids % 2) == 0).double().mean().item()
    emb.eval()
    one, two = emb(ids, ids % 2), emb(ids, ids % 2)
    default = student.BertEmbedding(3, 4, 5).dropout.p
    scale = emb.norm(torch.arange(50.0)).std().item()
    return shapes, spread, middle, dropped, torch.equal(one, two), default, scale


@pytest.mark.exercise("pair", points=2)
def test_embedding_parts(student):
    """The tables should start at N(0, 0.02²); dropout acts in training only, 0.1 by default."""
    shapes, spread, middle, dropped, same, default, scale = student.run(embedding_state)
    expected = {
        "token.weight": [300, 50],
        "segment.weight": [2, 50],
        "position.weight": [80, 50],
        "norm.weight": [50],
        "norm.bias": [50],
    }
    assert_equal(shapes, expected, "the parameters")
    for name, s in zip(("token", "segment", "position"), spread, strict=True):
        assert_close(s, 0.02, f"the standard deviation of {name}", atol=0.006)
    assert_close(middle, 0.0, "the mean of the token table", atol=0.002)
    assert_close(dropped, 0.25, "the share of zeros in training", atol=0.03)
    assert_true(same, "In eval mode two calls should give the same.")
    assert_close(default, 0.1, "the default of dropout")
    assert_close(scale, 1.0, "the spread after the norm", atol=0.05)


@pytest.mark.exercise("pair", points=1)
def test_too_long(student):
    """BertEmbedding should raise a ValueError for more tokens than positions, and not before."""
    with raises(ValueError):
        student.BertEmbedding(9, 4, 5)(torch.zeros(1, 6).long(), torch.zeros(1, 6).long())
    full = student.BertEmbedding(9, 4, 5)(torch.zeros(2, 5).long(), torch.zeros(2, 5).long())
    assert_shape(full, (2, 5, 4), "the output for as many tokens as positions")


# --- mlm -------------------------------------------------------------------------------------


def within(share, p, n, what, symptoms=None):
    """The share should be within five standard deviations of p: right answers draw their random
    numbers in many ways, and none of them should fail by bad luck."""
    limit = 5 * math.sqrt(p * (1 - p) / n)
    assert_close(share, p, what, rtol=0, atol=limit, symptoms=symptoms)


@pytest.mark.exercise("mlm", points=6)
@pytest.mark.parametrize("seed, vocab_size", [(0, 1000), (1, 30), (2, 12)])
def test_rates(student, seed, vocab_size):
    """15 % should be chosen; of these 80 % masked, 10 % random, 10 % as they were."""
    n = 200_000
    ids = randint(5, vocab_size, (n,))
    rng = torch.Generator().manual_seed(seed)
    inp, labels = student.mask_tokens(ids, vocab_size, MASK, list(range(5)), rng)
    chosen = labels != -100
    k = int(chosen.sum())
    within(k / n, 0.15, n, "the share of chosen tokens")
    # A random token may be the mask, or the token itself.
    masked = (inp == MASK)[chosen].double().mean().item()
    same = (inp == ids)[chosen].double().mean().item()
    by_chance = 0.1 / vocab_size
    within(
        masked,
        0.8 + by_chance,
        k,
        "the share of masks",
        {
            "A second draw overwrites some masks: one random number should decide.": 0.72
            + by_chance,
            "All chosen tokens become masks.": 1.0,
        },
    )
    within(
        same,
        0.1 + by_chance,
        k,
        "the share of tokens that stay",
        {"All the others become random; half of them should stay.": 2 * by_chance},
    )


@pytest.mark.exercise("mlm", points=4)
def test_random_tokens_are_uniform(student):
    """Random tokens should be uniform over the whole vocabulary, the first and last included."""
    ids = torch.full((240_000,), 7)
    rng = torch.Generator().manual_seed(5)
    inp, labels = student.mask_tokens(ids, 20, 9, [0], rng)
    chosen = labels != -100
    counts = inp[chosen].bincount(minlength=20)
    k = int(chosen.sum())
    for token in range(20):
        if token not in (7, 9):
            within(counts[token].item() / k, 0.1 / 20, k, f"the share of token {token}")
    assert_equal(len(counts), 20, "the largest token, plus one,")


@pytest.mark.exercise("mlm", points=4)
@pytest.mark.parametrize("shape", [(40, 50), (2000,), (1, 700), (4, 30, 20)])
@pytest.mark.parametrize("special", [[0, 1, 2, 3, 4], [3], []])
def test_specials_and_labels(student, shape, special):
    """Special tokens should never be chosen; labels are the old ids there, -100 elsewhere."""
    ids = randint(0, 12, shape)
    rng = torch.Generator().manual_seed(2)
    with unchanged(ids, special):
        inp, labels = student.mask_tokens(ids, 12, 4, special, rng)
    assert_shape(inp, shape, "inp")
    assert_shape(labels, shape, "labels")
    assert_true(inp.dtype == labels.dtype == torch.int64, "Both should be int64.")
    chosen = labels != -100
    assert_equal(labels[chosen], ids[chosen], "the labels of the chosen tokens")
    assert_equal(inp[~chosen], ids[~chosen], "the tokens that were not chosen")
    picked = set(ids[chosen].tolist())
    assert_equal(picked, set(range(12)) - set(special), "the tokens that are ever chosen")


@pytest.mark.exercise("mlm", points=2)
def test_unchanged_tokens_are_predicted(student):
    """Tokens that stay as they are, and random ones, should have their label as well."""
    ids = randint(5, 300, (60_000,))
    inp, labels = student.mask_tokens(ids, 300, MASK, [PAD], torch.Generator().manual_seed(9))
    stays = ((inp == ids) & (labels == ids)).double().mean().item()
    changed = ((inp != ids) & (inp != MASK) & (labels == ids)).double().mean().item()
    within(stays, 0.015 + 0.015 / 300, 60_000, "the share of labelled tokens that stay")
    within(changed, 0.015 * 298 / 300, 60_000, "the share of labelled random tokens")
    assert_true(((inp != ids) <= (labels == ids)).all(), "A changed token has no label.")


@pytest.mark.exercise("mlm", points=2)
def test_generator(student):
    """All random numbers should come from rng: the same seed gives the same, another another."""
    ids = randint(5, 50, (30, 40))

    def run(seed):
        rng = torch.Generator().manual_seed(seed)
        first = student.mask_tokens(ids, 50, MASK, [0], rng)
        return [*first, *student.mask_tokens(ids, 50, MASK, [0], rng)]

    torch.manual_seed(1)
    one = run(3)
    torch.manual_seed(2)
    again = run(3)
    assert_close(one, again, "the result for the same seed")
    assert_true(not torch.equal(one[1], one[3]), "A second call should choose other tokens.")
    assert_true(not torch.equal(one[1], run(4)[1]), "Another seed should choose other tokens.")


@pytest.mark.exercise("mlm", points=2)
def test_independent_choices(student):
    """Each token should be chosen on its own: counts per row vary as those of coins do."""
    ids = randint(5, 50, (3000, 40))
    _, labels = student.mask_tokens(ids, 50, MASK, [0], torch.Generator().manual_seed(7))
    chosen = (labels != -100).double()
    assert_close(chosen.sum(1).var().item(), 40 * 0.15 * 0.85, "the variance per row", atol=0.6)
    within(chosen.mean(0).max().item(), 0.15, 3000, "the largest share of a column")
    within(chosen.mean(0).min().item(), 0.15, 3000, "the smallest share of a column")
    both = (chosen[:, :-1] * chosen[:, 1:]).mean().item()
    within(both, 0.15**2, 3000 * 39, "the share of neighbours that are both chosen")


# --- nsp -------------------------------------------------------------------------------------


def corpus(sizes):
    return [[(d, i) for i in range(size)] for d, size in enumerate(sizes)]


@pytest.mark.exercise("nsp", points=3)
@pytest.mark.parametrize("sizes", [[4, 1, 3], [2, 2], [1, 1, 5, 2, 1], [7, 3]])
def test_every_neighbour_once(student, sizes):
    """There should be one pair for each two neighbours, in order, and none across an end."""
    docs = corpus(sizes)
    firsts = [(d, i) for d, size in enumerate(sizes) for i in range(size - 1)]
    seen = set()
    for seed in range(12):
        with unchanged(docs):
            pairs = student.nsp_pairs(docs, torch.Generator().manual_seed(seed))
        assert_equal([tuple(a) for a, _, _ in pairs], firsts, "the first sentences")
        for (d, i), b, label in pairs:
            seen.add(label)
            if label == 1:
                assert_equal(tuple(b), (d, i + 1), f"the sentence after {(d, i)}")
            else:
                assert_equal(label, 0, "the label of a false pair")
                assert_true(
                    b[0] != d, f"The false sentence of {(d, i)} is {tuple(b)}, of its own document."
                )
    assert_equal(seen, {0, 1}, "the labels")


@pytest.mark.exercise("nsp", points=3)
def test_half_and_uniform(student):
    """Half of the pairs should be true; documents uniform, then sentences in them."""
    docs = corpus([3001, 1, 4, 1])
    pairs = student.nsp_pairs(docs, torch.Generator().manual_seed(1))[:3000]
    share = sum(label for *_, label in pairs) / 3000
    within(share, 0.5, 3000, "the share of true pairs")
    drawn = Counter(tuple(b) for *_, b, label in pairs if label == 0)
    total = drawn.total()
    expected = {(1, 0): 1 / 3, (3, 0): 1 / 3} | {(2, i): 1 / 12 for i in range(4)}
    strange = set(drawn) - set(expected)
    assert_true(not strange, f"{strange and min(strange)} is of document 0, not of another one.")
    for place, p in expected.items():
        within(
            drawn[place] / total,
            p,
            total,
            f"the share of document {place[0]}, sentence {place[1]},",
        )


@pytest.mark.exercise("nsp", points=2)
def test_any_document_may_lend(student):
    """Each document should draw from all others, before and after it."""
    docs = corpus([2, 2, 2, 2])
    met = set()
    rng = torch.Generator().manual_seed(4)
    for _ in range(150):
        met |= {(a[0], b[0]) for a, b, label in student.nsp_pairs(docs, rng) if label == 0}
    wanted = {(d, other) for d in range(4) for other in range(4) if d != other}
    assert_equal(met, wanted, "who draws from whom")


@pytest.mark.exercise("nsp", points=1)
@pytest.mark.parametrize("docs", [[["one", "two", "three"]], [], [["alone"]]])
def test_no_other_document(student, docs):
    """nsp_pairs should raise a ValueError for fewer than two documents."""
    with raises(ValueError):
        student.nsp_pairs(docs, torch.Generator())


@pytest.mark.exercise("nsp", points=1)
def test_nsp_generator(student):
    """The same seed should give the same pairs, whatever the other generators did."""
    docs = [[f"{d}-{i}" for i in range(20)] for d in range(5)]
    torch.manual_seed(1)
    one = student.nsp_pairs(docs, torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    again = student.nsp_pairs(docs, torch.Generator().manual_seed(3))
    assert_equal([list(p) for p in one], [list(p) for p in again], "the pairs for the same seed")
    rng = torch.Generator().manual_seed(3)
    first, second = student.nsp_pairs(docs, rng), student.nsp_pairs(docs, rng)
    assert_true(
        [list(p) for p in first] != [list(p) for p in second], "A second call gives the same pairs."
    )


# --- count -----------------------------------------------------------------------------------


def built(V, H, L, A, ff, max_len):
    """The number of parameters of a model made of the library's layers."""
    parts = [nn.Embedding(V, H), nn.Embedding(2, H), nn.Embedding(max_len, H), nn.LayerNorm(H)]
    parts += [nn.TransformerEncoderLayer(H, A, ff) for _ in range(L)]
    parts += [nn.Linear(H, H)]
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.exercise("count", points=5)
@pytest.mark.parametrize(
    "size",
    [
        (100, 8, 2, 2, 16, 10),
        (57, 12, 3, 4, 20, 33),
        (400, 32, 2, 8, 128, 64),
        (5, 6, 0, 1, 7, 3),
        (31, 9, 5, 3, 1, 2),
    ],
)
def test_count_of_a_model(student, size):
    """bert_params should count what a model of the library's layers has."""
    _, H, L, A, ff, _ = size
    got, right = student.bert_params(*size), built(*size)
    assert_close(
        got,
        right,
        f"`bert_params{size}`",
        symptoms={
            "2 H are missing: the two segments, or the layer norm of the embeddings.": right
            - 2 * H,
            "Each layer has two layer norms.": right - 2 * H * L,
            "The layer norms of the layers are missing.": right - 4 * H * L,
            "The feed-forward layers have biases, too.": right - L * (ff + H),
            "The heads share the width; they have no matrices of their own.": right
            + (A - 1) * L * 4 * (H * H + H),
            "The pooler has a bias, too.": right - H,
        },
    )
    assert_true(type(got) is int, "The count should be an int.")


@pytest.mark.exercise("count", points=3)
def test_published_sizes(student):
    """BERT-base should have 109,482,240 parameters with its pooler, BERT-large 335,141,888."""
    base = student.bert_params(V=30522, H=768, L=12, A=12, ff=3072, max_len=512)
    assert_equal(base, 109_482_240, "BERT-base")
    large = student.bert_params(30522, 1024, 24, 16, 4096, 512)
    assert_equal(large, 335_141_888, "BERT-large")


@pytest.mark.exercise("count", points=1)
def test_heads_cost_nothing(student):
    """The number of heads should not change the count."""
    one = student.bert_params(50, 24, 3, 1, 40, 16)
    for heads in (2, 3, 24):
        assert_equal(student.bert_params(50, 24, 3, heads, 40, 16), one, f"with {heads} heads")


@pytest.mark.exercise("count", points=1)
@pytest.mark.parametrize("H, A", [(8, 3), (9, 2), (12, 24)])
def test_heads_that_do_not_divide(student, H, A):
    """bert_params should raise a ValueError when the heads do not divide the width."""
    with raises(ValueError):
        student.bert_params(50, H, 2, A, 16, 8)


# --- pretrain --------------------------------------------------------------------------------


@probe
def tiny_bert(student, sizes, seed, dtype, ids, segments, mask):
    """A model of these sizes: state, encoding and scores, in training and in eval mode."""
    vocab, hidden, layers, heads, ff = sizes

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(vocab, hidden)
            self.kind = nn.Embedding(2, hidden)

        def forward(self, ids, segments):
            return self.table(ids) + self.kind(segments)

    torch.manual_seed(seed)
    net = student.TinyBERT(Words(), vocab, hidden, layers, heads, ff).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, dtype=dtype) * 0.4)
    state = {name: p.detach().clone() for name, p in net.state_dict().items()}
    encoded = net.encode(ids, segments, mask)
    words, follows = net(ids, segments, mask)
    net.eval()
    quiet = net(ids, segments, mask)
    same = all(
        torch.allclose(a[..., :1, :], b[..., :1, :], atol=1e-5)
        for a, b in zip((words, follows[None]), (quiet[0], quiet[1][None]))
    )
    return state, encoded.detach(), words.detach(), follows.detach(), same


def plain_scores(s, heads, ids, segments, mask, act=F.gelu):
    """The model from its state dict, by plain functions."""
    x = s["embedding.table.weight"][ids] + s["embedding.kind.weight"][segments]
    hidden = x.shape[-1]
    for i in range(len({name.split(".")[1] for name in s if name.startswith("layers.")})):
        p = {
            k.removeprefix(f"layers.{i}."): v for k, v in s.items() if k.startswith(f"layers.{i}.")
        }
        q, k, v = F.linear(x, p["self_attn.in_proj_weight"], p["self_attn.in_proj_bias"]).chunk(
            3, -1
        )
        q, k, v = (t.unflatten(-1, (heads, hidden // heads)).transpose(1, 2) for t in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        a = a.transpose(1, 2).flatten(2)
        x = x + F.linear(a, p["self_attn.out_proj.weight"], p["self_attn.out_proj.bias"])
        x = F.layer_norm(x, (hidden,), p["norm1.weight"], p["norm1.bias"])
        wide = act(F.linear(x, p["linear1.weight"], p["linear1.bias"]))
        x = x + F.linear(wide, p["linear2.weight"], p["linear2.bias"])
        x = F.layer_norm(x, (hidden,), p["norm2.weight"], p["norm2.bias"])
    h = F.gelu(F.linear(x, s["mlm.0.weight"], s["mlm.0.bias"]))
    h = F.layer_norm(h, (hidden,), s["mlm.2.weight"], s["mlm.2.bias"])
    words = F.linear(h, s["mlm.3.weight"], s["mlm.3.bias"])
    pooled = torch.tanh(F.linear(x[:, 0], s["pooler.weight"], s["pooler.bias"]))
    return x, words, F.linear(pooled, s["nsp.weight"], s["nsp.bias"])


@pytest.mark.exercise("pretrain", points=4)
@pytest.mark.parametrize(
    "sizes, n, t, dtype",
    [
        ((13, 8, 2, 2, 12), 3, 6, torch.float64),
        ((7, 6, 1, 3, 5), 1, 4, torch.float64),
        ((9, 4, 3, 1, 9), 2, 1, torch.float32),
    ],
)
def test_scores(student, sizes, n, t, dtype):
    """TinyBERT should compute what its layers say: body, both heads, padding left out."""
    ids, segments = randint(0, sizes[0], (n, t)), randint(0, 2, (n, t))
    lengths = randint(1, t + 1, (n,))
    mask = torch.arange(t) < lengths[:, None]
    with unchanged(ids, segments, mask):
        state, encoded, words, follows, same = student.run(
            tiny_bert, sizes, 3, dtype, ids, segments, mask
        )
    assert_true(same, "Training and eval mode should give the same: there is no dropout.")
    x, expected, expected_next = plain_scores(state, sizes[3], ids, segments, mask)
    relu, *_ = plain_scores(state, sizes[3], ids, segments, mask, F.relu)
    assert_close(
        encoded[mask],
        x[mask],
        "the encoding of the real tokens",
        symptoms={"The layers use ReLU, which is the default; BERT has GELU.": relu[mask]},
    )
    assert_close(words[mask], expected[mask], "the scores of the words")
    assert_close(
        follows,
        expected_next,
        "the scores of the next sentence",
        symptoms={
            "The tanh of the pooler is missing.": F.linear(
                F.linear(x[:, 0], state["pooler.weight"], state["pooler.bias"]),
                state["nsp.weight"],
                state["nsp.bias"],
            )
        },
    )


@probe
def tiny_shapes(student):
    """Names and shapes of a model's parameters."""
    net = student.TinyBERT(nn.Embedding(5, 6), 5, 6, 2, 3, 7)
    shapes = {name: list(p.shape) for name, p in net.named_parameters()}
    return shapes, len(net.layers), [type(m).__name__ for m in net.mlm]


@pytest.mark.exercise("pretrain", points=1)
def test_parts(student):
    """TinyBERT should have the parts of its description, with parameters of the right shapes."""
    shapes, layers, head = student.run(tiny_shapes)
    like = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 6),
            "layers": nn.ModuleList(nn.TransformerEncoderLayer(6, 3, 7) for _ in range(2)),
            "mlm": nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 5)),
            "pooler": nn.Linear(6, 6),
            "nsp": nn.Linear(6, 2),
        }
    )
    assert_equal(shapes, {n: list(p.shape) for n, p in like.named_parameters()}, "the parameters")
    assert_equal(layers, 2, "the number of layers")
    assert_equal(list(head), ["Linear", "GELU", "LayerNorm", "Linear"], "the MLM head")


@probe
def padding_matters(student, ids, mask):
    """Scores and gradient, with the ids as they are and with others in the padding."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8)

        def forward(self, ids, segments):
            return self.table(ids)

    torch.manual_seed(2)
    net = student.TinyBERT(Words(), 20, 8, 2, 2, 12).double()
    zeros = torch.zeros_like(ids)
    one = net(ids, zeros, mask)
    two = net(torch.where(mask, ids, 19 - ids), zeros, mask)
    net.zero_grad()
    (one[1].sin().sum() + one[0][mask].sin().sum()).backward()
    return [t.detach() for t in (*one, *two)], net.embedding.table.weight.grad


@pytest.mark.exercise("pretrain", points=2)
def test_padding_is_ignored(student):
    """What stands in the padding should change no score, and get no gradient."""
    ids = randint(2, 9, (3, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    ids[~mask] = 1
    (words, follows, words2, follows2), grad = student.run(padding_matters, ids, mask)
    assert_close(follows2, follows, "the NSP scores with other padding")
    assert_close(words2[mask], words[mask], "the scores of the words with other padding")
    assert_close(grad[1], torch.zeros(8, dtype=torch.float64), "the gradient of the padding's row")
    assert_true(grad[ids[0, 0]].abs().sum() > 0, "No gradient reaches the embedding.")


@probe
def step_losses(student, words, follows, batch, weights):
    """Both losses for fixed scores, and the gradients of their weighted sum; calls made."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.follows = nn.Parameter(words), nn.Parameter(follows)
            self.seen = []

        def forward(self, ids, segments, mask):
            self.seen.append((ids, segments, mask))
            return self.words, self.follows

    net = Fixed()
    mlm, nsp = student.pretrain_step(net, batch)
    grads = torch.autograd.grad(
        weights[0] * mlm + weights[1] * nsp, [net.words, net.follows], allow_unused=True
    )
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip((words, follows), grads)]
    right = len(net.seen) == 1 and all(
        torch.equal(a, batch[k]) for a, k in zip(net.seen[0], ("ids", "segments", "mask"))
    )
    return mlm.detach(), nsp.detach(), grads, right


def step_batch(n, t, vocab, share):
    asked = torch.rand(n, t) < share
    labels = randint(0, vocab, (n, t)).masked_fill(~asked, -100)
    return {
        "ids": randint(0, vocab, (n, t)),
        "segments": randint(0, 2, (n, t)),
        "mask": randint(0, 2, (n, t)) > 0,
        "labels": labels,
        "next": randint(0, 2, (n,)),
    }


def mean_by_hand(scores, labels):
    """The mean surprise at labelled rows, one by one."""
    logs = scores.log_softmax(-1)
    chosen = [-logs[i, y] for i, y in enumerate(labels.tolist()) if y != -100]
    return torch.stack(chosen).mean() if chosen else scores.sum() * 0


@pytest.mark.exercise("pretrain", points=4)
@pytest.mark.parametrize(
    "n, t, vocab, share, skip", [(3, 5, 7, 0.4, []), (1, 9, 4, 0.2, []), (4, 3, 6, 1.0, [1, 2])]
)
def test_losses_and_gradients(student, n, t, vocab, share, skip):
    """Each loss should be the mean over labelled positions; no other position has a gradient."""
    batch = step_batch(n, t, vocab, share)
    batch["labels"][0, 0] = 2
    batch["next"][skip] = -100
    words, follows = randn(n, t, vocab), randn(n, 2)
    with unchanged(batch, words, follows):
        mlm, nsp, grads, right = student.run(step_losses, words, follows, batch, (1.5, -0.7))
    assert_true(right, "The model should be called once, with ids, segments and mask.")
    leaves = [words.clone().requires_grad_(), follows.clone().requires_grad_()]
    expected = mean_by_hand(leaves[0].flatten(0, 1), batch["labels"].flatten())
    expected_next = mean_by_hand(leaves[1], batch["next"])
    by_all = expected.detach() * (batch["labels"] != -100).double().mean()
    assert_close(
        mlm,
        expected.detach(),
        "the MLM loss",
        symptoms={"The sum is divided by all positions.": by_all},
    )
    assert_close(nsp, expected_next.detach(), "the NSP loss")
    wanted = torch.autograd.grad(1.5 * expected - 0.7 * expected_next, leaves)
    assert_close(list(grads), list(wanted), "the gradients of the scores")


@pytest.mark.exercise("pretrain", points=2)
@pytest.mark.parametrize("which", ["labels", "next", "both"])
def test_nothing_is_asked(student, which):
    """Without labels a loss should be 0, not NaN, with a gradient of 0; the other one stays."""
    batch = step_batch(2, 4, 5, 1.0)
    for key in ("labels", "next"):
        if which in (key, "both"):
            batch[key][:] = -100
    words, follows = randn(2, 4, 5, dtype=torch.float32), randn(2, 2, dtype=torch.float32)
    mlm, nsp, grads, _ = student.run(step_losses, words, follows, batch, (1.0, 1.0))
    assert_close(mlm, mean_by_hand(words.flatten(0, 1), batch["labels"].flatten()), "the MLM loss")
    assert_close(nsp, mean_by_hand(follows, batch["next"]), "the NSP loss")
    for key, grad in zip(("labels", "next"), grads, strict=True):
        if which in (key, "both"):
            assert_close(grad, torch.zeros_like(grad), "the gradient without labels")


@probe
def a_few_steps(student, ids, labels):
    """The sum of both losses before and after thirty steps on one batch."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.place = nn.Embedding(12, 16), nn.Embedding(8, 16)

        def forward(self, ids, segments):
            return self.table(ids) + self.place.weight[: ids.shape[1]]

    torch.manual_seed(0)
    net = student.TinyBERT(Words(), 12, 16, 1, 2, 32)
    batch = {"ids": ids, "segments": ids * 0, "mask": ids > 0, "labels": labels}
    batch["next"] = ids[:, 1] % 2
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(30):
        mlm, nsp = student.pretrain_step(net, batch)
        losses.append([mlm.item(), nsp.item()])
        optimizer.zero_grad()
        (mlm + nsp).backward()
        optimizer.step()
    return losses


@pytest.mark.exercise("pretrain", points=2)
def test_it_learns(student):
    """A few optimizer steps on one batch should bring both losses far down."""
    ids = randint(1, 12, (8, 8))
    labels = ids.clone()
    labels[:, ::2] = -100
    losses = student.run(a_few_steps, ids, labels)
    for name, first, last in zip(("MLM", "NSP"), losses[0], losses[-1], strict=True):
        assert_true(
            last < first / 3,
            f"The {name} loss should fall to a third; it went from {first:.3f} to {last:.3f}.",
        )


# --- finetune --------------------------------------------------------------------------------

VOCAB = ["[PAD]", "[UNK]", *(f"word{i}" for i in range(30))]


def stored(vocab):
    """The fingerprint of the chapter's first cell, computed here."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()[:16]


@probe
def tune(student, table, layers, seed, data, freezes, vocab_hash, exam):
    """Fine-tune a small classifier, once for each entry of freezes.

    Returns for each: losses or the error's name; the state; gradients wanted; training mode seen.
    Then the guesses for the exam.
    """

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(*table.shape)
            self.layers = nn.ModuleList(
                nn.Linear(table.shape[1], table.shape[1]) for _ in range(layers)
            )
            self.head = nn.Linear(table.shape[1], 3)
            self.vocab_hash = vocab_hash
            self.modes = []

        def forward(self, ids, segments, mask):
            self.modes.append(self.training)
            x = (self.embedding(ids) * mask[..., None]).sum(1) + segments.sum(1, keepdim=True)
            for layer in self.layers:
                x = x + torch.tanh(layer(x))
            return self.head(x)

    torch.manual_seed(seed)
    net = Small().double()
    with torch.no_grad():
        net.embedding.weight.copy_(table)
    net.eval()
    states = [{n: p.detach().clone() for n, p in net.named_parameters()}]
    results, wants = [], []
    for freeze in freezes:
        try:
            got = student.finetune(net, data, freeze) if freeze else student.finetune(net, data)
            results.append([type(got).__name__, [type(v).__name__ for v in got], list(got)])
        except ValueError:
            results.append("ValueError")
        states.append({n: p.detach().clone() for n, p in net.named_parameters()})
        wants.append([n for n, p in net.named_parameters() if p.requires_grad])
    modes = sorted(set(net.modes))
    net.eval()
    guesses = net(*exam).argmax(1) if exam else None
    return results, states, wants, modes, guesses


def batches(count, n):
    """Random batches (ids, segments, mask, labels)."""
    out = []
    for _ in range(count):
        ids = randint(2, 32, (n, 5))
        mask = torch.arange(5) < randint(1, 6, (n, 1))
        labels = randint(0, 3, (n,))
        out.append((ids, randint(0, 2, (n, 5)), mask, labels))
    return out


def by_hand(state, layers, data, freeze, make=torch.optim.AdamW):
    """AdamW on the same network, from its state; the losses and the parameters afterwards."""
    p = {n: t.clone().requires_grad_() for n, t in state.items()}
    frozen = ["embedding."] + [f"layers.{i}." for i in range(freeze)] if freeze else []
    moving = [t for n, t in p.items() if not any(n.startswith(f) for f in frozen)]
    optimizer = make(moving, data["lr"])
    losses = []
    for ids, segments, mask, labels in data["batches"]:
        x = (p["embedding.weight"][ids] * mask[..., None]).sum(1) + segments.sum(1, keepdim=True)
        for i in range(layers):
            x = x + torch.tanh(F.linear(x, p[f"layers.{i}.weight"], p[f"layers.{i}.bias"]))
        loss = F.cross_entropy(F.linear(x, p["head.weight"], p["head.bias"]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {n: t.detach() for n, t in p.items()}


@pytest.mark.exercise("finetune", points=4)
@pytest.mark.parametrize("freeze, layers, lr", [(0, 2, 0.01), (1, 3, 0.03), (2, 2, 0.02)])
def test_every_step(student, freeze, layers, lr):
    """Losses and weights should be those of AdamW with one step for each batch, in order."""
    data = {"vocab": VOCAB, "lr": lr, "batches": batches(6, 4)}
    with unchanged(data):
        results, states, _, modes, _ = student.run(
            tune, randn(32, 6), layers, 1, data, [freeze], stored(VOCAB), None
        )
    losses, after = by_hand(states[0], layers, data, freeze)
    assert_true(results[0] != "ValueError", "This vocabulary is the model's own.")
    kind, kinds, got = results[0]
    assert_equal((kind, set(kinds)), ("list", {"float"}), "the types of the result")
    adam, _ = by_hand(states[0], layers, data, freeze, torch.optim.Adam)
    assert_close(
        list(got),
        losses,
        "the losses",
        rtol=1e-6,
        symptoms={"These are steps of Adam, without the weight decay of AdamW.": adam},
    )
    assert_close(states[1], after, "the parameters afterwards", rtol=1e-5, atol=1e-8)
    assert_equal(list(modes), [True], "the training mode during the steps")


@pytest.mark.exercise("finetune", points=3)
@pytest.mark.parametrize("freeze", [0, 1, 2, 3])
def test_what_is_frozen(student, freeze):
    """With k > 0 the embedding and the first k layers should stay bit for bit; the rest moves."""
    data = {"vocab": VOCAB, "lr": 0.05, "batches": batches(3, 5)}
    _, states, _, _, _ = student.run(tune, randn(32, 4), 3, 2, data, [freeze], stored(VOCAB), None)
    still = {n for n in states[0] if torch.equal(states[0][n], states[1][n])}
    wanted = {"embedding.weight"} if freeze else set()
    wanted |= {f"layers.{i}.{kind}" for i in range(freeze) for kind in ("weight", "bias")}
    assert_equal(still, wanted, f"what has not moved with freeze_layers={freeze}")


@pytest.mark.exercise("finetune", points=2)
def test_thawed_again(student):
    """A later call with freeze_layers=0 should train everything that was frozen before."""
    data = {"vocab": VOCAB, "lr": 0.05, "batches": batches(2, 5)}
    _, states, _, _, _ = student.run(tune, randn(32, 4), 2, 2, data, [2, 0, 1], stored(VOCAB), None)
    moved = {n for n in states[1] if not torch.equal(states[1][n], states[2][n])}
    assert_equal(moved, set(states[0]), "what moves in the second call")
    moved = {n for n in states[2] if not torch.equal(states[2][n], states[3][n])}
    expected = {"head.bias", "head.weight", "layers.1.bias", "layers.1.weight"}
    assert_equal(moved, expected, "what moves in the third call")


@pytest.mark.exercise("finetune", points=3)
@pytest.mark.parametrize("case", ["order", "one more", "one other", "too many layers"])
def test_refused(student, case):
    """Another vocabulary, or too few layers, should raise a ValueError before anything moves."""
    vocab = {
        "order": [*VOCAB[:5], VOCAB[6], VOCAB[5], *VOCAB[7:]],
        "one more": [*VOCAB, "word30"],
        "one other": [*VOCAB[:-1], "other"],
    }.get(case, VOCAB)
    freeze = 4 if case == "too many layers" else 0
    data = {"vocab": vocab, "lr": 0.05, "batches": batches(2, 5)}
    results, states, wants, _, _ = student.run(
        tune, randn(32, 4), 3, 2, data, [freeze], stored(VOCAB), None
    )
    assert_equal(list(results), ["ValueError"], "the result")
    assert_close(states[1], states[0], "the parameters", rtol=0, atol=0)
    assert_equal(set(wants[0]), set(states[0]), "the parameters that require a gradient")


@pytest.mark.exercise("finetune", points=3)
def test_good_weights_pay(student):
    """From a body that knows the words, new words should be classified right; not from chance."""
    kind = torch.arange(32) % 3
    knows = 3 * F.one_hot(kind, 8).double() + 0.1 * randn(32, 8)
    chance = randn(32, 8)
    known_words = randint(2, 14, (12, 8))  # the labelled set uses words 2 to 13 only
    steps = []
    for row in known_words:
        ids = row[:, None].repeat(1, 4)
        steps.append((ids, ids * 0, ids >= 0, kind[row]))
    new = torch.arange(14, 32)
    ids = new[:, None].repeat(1, 4)
    exam = (ids, ids * 0, ids >= 0)
    data = {"vocab": VOCAB, "lr": 0.03, "batches": steps * 3}
    share = {}
    for name, table in (("knows", knows), ("chance", chance)):
        *_, guesses = student.run(tune, table, 1, 0, data, [1], stored(VOCAB), exam)
        share[name] = (guesses == kind[new]).double().mean().item()
    knows, chance = share["knows"], share["chance"]
    assert_true(
        knows > 0.9, f"A body that knows the words should be right on new ones; {knows:.0%} are."
    )
    assert_true(
        knows > chance + 0.2,
        f"It should be better than a random body: {knows:.0%} against {chance:.0%}.",
    )
