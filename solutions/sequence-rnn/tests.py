"""Hidden tests of the chapter on sequences and recurrent networks."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_shape,
    assert_true,
    probe,
    raises,
    randint,
    randn,
    unchanged,
)

# --- windows ---------------------------------------------------------------------------------


@pytest.mark.exercise("windows", points=3)
@pytest.mark.parametrize("n, tau", [(9, 1), (12, 4), (6, 5), (2, 1), (40, 17)])
def test_windows_and_labels(student, device, n, tau):
    """Row i should be x[i : i + tau] and its label x[i + tau], for any n and tau."""
    x = randn(n, device=device)
    with unchanged(x):
        features, labels = student.make_windows(x, tau)
    assert_close(features, x.unfold(0, tau, 1)[: n - tau], "features")
    assert_close(
        labels,
        x[tau:],
        "labels",
        symptoms={"The label should be the element after the window.": x[tau - 1 : -1]},
    )


@pytest.mark.exercise("windows", points=1)
def test_windows_of_ids(student):
    """Token ids should be cut in the same way and stay integers."""
    x = randint(0, 30, (11,))
    features, labels = student.make_windows(x, 3)
    assert_close(features, x.unfold(0, 3, 1)[:8], "features")
    assert_close(labels, x[3:], "labels")


@pytest.mark.exercise("windows", points=1)
@pytest.mark.parametrize("n, tau", [(4, 4), (3, 5), (1, 1)])
def test_too_short_for_windows(student, n, tau):
    """make_windows should raise a ValueError when the sequence is not longer than tau."""
    x = randn(n)
    with raises(ValueError):
        student.make_windows(x, tau)


@probe
def wave_step(window):
    """x_t = 2 cos(w) x_{t-1} - x_{t-2} for w = 0.3; older elements do not count."""
    return 2 * math.cos(0.3) * window[:, -1:] - window[:, -2:-1]


@probe
def far_step(window):
    """A rule that weighs every place of the window differently, and is not linear."""
    weights = torch.arange(1, window.shape[1] + 1, dtype=window.dtype, device=window.device)
    return torch.tanh((window * weights).sum(1, keepdim=True) / weights.sum()) + 0.1


@pytest.mark.exercise("windows", points=2)
@pytest.mark.parametrize("tau, k", [(2, 1), (2, 7), (3, 2), (5, 30), (2, 48)])
def test_exact_recurrence(student, device, tau, k):
    """A series that obeys a linear recurrence should be predicted exactly, any k steps ahead."""
    x = torch.sin(0.3 * torch.arange(50, dtype=torch.float64, device=device) + 0.4)
    with unchanged(x):
        got = student.predict_k(wave_step, x, tau, k)
    assert_close(got, x[tau + k - 1 :], "the predictions", rtol=1e-6, atol=1e-8)


@pytest.mark.exercise("windows", points=2)
@pytest.mark.parametrize("n, tau, k", [(15, 4, 1), (15, 4, 2), (15, 3, 5), (9, 4, 5), (12, 1, 6)])
def test_predictions_are_fed_back(student, device, n, tau, k):
    """From each window alone, k - 1 predictions should be fed back, the oldest element leaving."""
    x = randn(n, device=device)
    expected = []
    for i in range(n - tau - k + 1):
        window = x[i : i + tau].clone()
        for _ in range(k):
            window = torch.cat([window, far_step(window[None])[0]])[1:]
        expected.append(window[-1])
    got = student.predict_k(far_step, x, tau, k)
    assert_close(
        got,
        torch.stack(expected),
        "the predictions",
        symptoms={
            "Predicted from true elements at every step; feed the predictions back.": far_step(
                x[k - 1 :].unfold(0, tau, 1)[:-1]
            )[:, 0],
        },
    )
    assert_true(not got.requires_grad, "The predictions should carry no graph.")


@pytest.mark.exercise("windows", points=1)
def test_predict_k_from_a_network(student):
    """predict_k should work with an nn.Module in float32, and raise a ValueError if n < tau + k."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = randn(8, dtype=torch.float32)
    with torch.no_grad():
        expected = net(x.unfold(0, 3, 1)[:-1])[:, 0]
    got = student.predict_k(net, x, 3, 1)
    assert_close(got, expected, "the predictions for k = 1")
    assert_true(not got.requires_grad, "The predictions should carry no graph.")
    assert_shape(student.predict_k(net, x, 3, 5), (1,), "the predictions for n = tau + k")
    with raises(ValueError):
        student.predict_k(net, x, 3, 6)


# --- markov ----------------------------------------------------------------------------------

TEXT = "abracadabra alakazam abrakadabra"


def count_prob(text, n, alpha, token, context):
    """The smoothed probability, by searching the text."""
    context = tuple(context)[len(context) - (n - 1) :] if n > 1 else ()
    places = [i for i in range(n - 1, len(text)) if tuple(text[i - n + 1 : i]) == context]
    hits = sum(text[i] == token for i in places)
    size = len(set(text))
    total = len(places) + alpha * size
    return 1 / size if total == 0 else (hits + alpha) / total


@pytest.mark.exercise("markov", points=3)
@pytest.mark.parametrize("n, alpha", [(1, 0.0), (2, 0.0), (2, 0.3), (3, 1.0), (4, 0.05), (1, 2.0)])
def test_smoothed_counts(student, n, alpha):
    """prob should be the smoothed share of the context's occurrences, for every n and alpha."""
    model = student.NGram(n, alpha).fit(TEXT)
    for context in ("abra", "zama", "dabr", "cada", "akaz"):
        for token in ("a", "b", " ", "z"):
            assert_close(
                model.prob(token, context),
                count_prob(TEXT, n, alpha, token, context),
                f"`prob({token!r}, {context!r})` for n={n}, alpha={alpha}",
            )


@pytest.mark.exercise("markov", points=2)
@pytest.mark.parametrize("n, alpha", [(1, 0.0), (2, 0.5), (3, 0.01), (3, 0.0)])
def test_probabilities_add_up(student, n, alpha):
    """Over the vocabulary the probabilities should add up to 1, after unseen contexts too."""
    model = student.NGram(n, alpha).fit(list(TEXT))
    for context in ("ab", "zz", "m ", "ra"):
        total = sum(model.prob(token, list(context)) for token in set(TEXT))
        assert_close(total, 1.0, f"the sum after {context!r}")


@pytest.mark.exercise("markov", points=1)
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_unseen_context(student, alpha):
    """After a context that was never seen, or has no next token, the probability should be 1 / V."""
    model = student.NGram(3, alpha).fit([4, 7, 7, 1])
    for context in ([1, 4], (7, 1), [9, 9, 9]):
        assert_close(model.prob(7, context), 1 / 3, f"the probability after {context}")


@pytest.mark.exercise("markov", points=3)
@pytest.mark.parametrize("n, alpha", [(1, 0.1), (2, 0.4), (3, 0.2), (5, 0.01)])
def test_perplexity_of_a_text(student, n, alpha):
    """The perplexity should be the inverse geometric mean of the probabilities of all but the
    first n - 1 tokens."""
    model = student.NGram(n, alpha).fit(TEXT)
    for new in ("kazambra abra", "abracadabra", "zamzam"):
        logs = [
            math.log(count_prob(TEXT, n, alpha, new[i], new[i - n + 1 : i]))
            for i in range(n - 1, len(new))
        ]
        mean = sum(logs) / len(logs)
        assert_close(
            model.perplexity(new),
            math.exp(-mean),
            "the perplexity",
            symptoms={
                "The sign is wrong: perplexity is at least 1.": math.exp(mean),
                "This is the mean surprise; take its exponential.": -mean,
                "Divide by the number of n-grams, not of tokens.": math.exp(-sum(logs) / len(new)),
            },
        )


@pytest.mark.exercise("markov", points=1)
def test_perplexity_of_the_extremes(student):
    """Evenly distributed text should have perplexity V, certain text 1, impossible text inf."""
    even = student.NGram(1, 0).fit("abcd" * 5)
    assert_close(even.perplexity("abba"), 4.0, "the perplexity of even text")
    sure = student.NGram(2, 0).fit("abababab")
    assert_close(sure.perplexity("baba"), 1.0, "the perplexity of certain text")
    assert_equal(sure.perplexity("abba"), math.inf, "the perplexity of impossible text")
    again = sure.fit("aab")
    assert_close(again.prob("a", "a"), 0.5, "the probability after fitting again")


# --- text ------------------------------------------------------------------------------------


@pytest.mark.exercise("text", points=3)
@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello, World!", "hello world"),
        ("\n\n  The TIME\tMachine, by H. G. Wells [1898]\n", "the time machine by h g wells"),
        ("don't--stop", "don t stop"),
        ("42", ""),
        ("", ""),
        ("Zz9aA", "zz aa"),
        ("x_y", "x y"),
    ],
)
def test_clean_characters(student, text, expected):
    """Letters should become lower case, anything else one space, with none at the ends."""
    got = student.tokenize(text)
    assert_true(isinstance(got, list), "`tokenize` should give a list.")
    if all(isinstance(token, str) for token in got):
        assert_equal("".join(got), expected, f"`tokenize({text!r})`, joined,")
    assert_equal(got, list(expected), f"`tokenize({text!r})`")


SENTENCE = "to be or not to be that is the question to see or not the sea"
WORDS = SENTENCE.split()


def ranked(tokens, min_freq=1, special=()):
    kinds = sorted(set(tokens))
    kinds = [k for k in kinds if k not in special]
    kinds.sort(key=lambda k: -tokens.count(k))  # stable: ties stay alphabetical
    return ["<unk>", *special, *(k for k in kinds if tokens.count(k) >= min_freq)]


def vocab_tokens(vocab):
    return vocab.decode(list(range(len(vocab))))


@pytest.mark.exercise("text", points=4)
@pytest.mark.parametrize(
    "tokens, min_freq, reserved",
    [
        (WORDS, 1, ()),
        (WORDS, 2, ()),
        (WORDS, 3, ("<pad>", "<bos>")),
        (list("mississippi"), 2, ["<pad>"]),
        (list("zyx"), 1, ["<z>", "<a>"]),
        ([], 1, ["<pad>"]),
    ],
)
def test_frequency_order(student, tokens, min_freq, reserved):
    """First <unk>, then reserved tokens as given, then by frequency with alphabetical ties."""
    vocab = student.Vocab(tokens, min_freq=min_freq, reserved=reserved)
    expected = ranked(tokens, min_freq, tuple(reserved))
    assert_equal(len(vocab), len(expected), "the number of tokens")
    assert_equal(
        vocab_tokens(vocab),
        expected,
        "the tokens in order",
    )


@pytest.mark.exercise("text", points=2)
def test_special_tokens_once(student):
    """A reserved token or <unk> that occurs in the text should be listed once, in its place."""
    tokens = ["<pad>", "b", "<unk>", "b", "<pad>", "a", "<pad>", "<unk>"]
    vocab = student.Vocab(tokens, reserved=["<pad>"])
    assert_equal(vocab_tokens(vocab), ["<unk>", "<pad>", "b", "a"], "the tokens in order")
    assert_equal(vocab.encode(tokens), [1, 2, 0, 2, 1, 3, 1, 0], "the ids")


@pytest.mark.exercise("text", points=3)
def test_there_and_back(student):
    """Known tokens should survive encode and decode, unknown ones become <unk> with the id 0."""
    vocab = student.Vocab(WORDS, reserved=["<pad>"])
    ids = vocab.encode(WORDS)
    order = ranked(WORDS, 1, ("<pad>",))
    assert_equal(ids, [order.index(w) for w in WORDS], "the ids")
    assert_equal(vocab.decode(ids), WORDS, "the tokens")
    assert_equal(vocab.encode(["fish", "to", "<pad>", "<unk>"]), [0, 2, 1, 0], "the ids")
    assert_equal(vocab.decode([0, 2]), ["<unk>", "to"], "the tokens of 0 and 2")
    assert_equal(vocab.encode([]), [], "the ids of no tokens")


@pytest.mark.exercise("text", points=3)
@pytest.mark.parametrize(
    "tokens, min_freq, reserved",
    [
        (WORDS, 1, ["<pad>"]),
        (list("bbbaac"), 2, []),
        (["好", "ä", "\n", '"', "ä"], 1, ["<b>", "<a>"]),
    ],
)
def test_reload(student, tokens, min_freq, reserved):
    """from_json(to_json()) should number all tokens as before; the text should be valid JSON."""
    vocab = student.Vocab(tokens, min_freq=min_freq, reserved=reserved)
    text = vocab.to_json()
    assert_true(isinstance(text, str), "`to_json` should return a string.")
    json.loads(text)
    again = student.Vocab.from_json(text)
    assert_equal(len(again), len(vocab), "the number of tokens after reloading")
    assert_equal(vocab_tokens(again), vocab_tokens(vocab), "the tokens after reloading")
    some = [*tokens, "new", *reserved]
    assert_equal(again.encode(some), vocab.encode(some), "the ids after reloading")
    assert_equal(again.to_json(), text, "the text after reloading")


# --- embedding -------------------------------------------------------------------------------


@pytest.mark.exercise("embedding", points=2)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 1, 4), (), (0,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_of_any_shape(student, device, shape, dtype):
    """embed should equal F.embedding for ids of any shape, in W's dtype."""
    W = randn(7, 3, dtype=dtype, device=device)
    ids = randint(0, 7, shape, device=device)
    with unchanged(W, ids):
        got = student.embed(ids, W)
    assert_close(got, F.embedding(ids, W))


@pytest.mark.exercise("embedding", points=2)
def test_gradient_reaches_used_rows(student, device):
    """The gradient of embed for W should be that of F.embedding, repeated ids added up."""
    ids = torch.tensor([[4, 0, 4], [4, 2, 0]], device=device)
    W = randn(6, 2, device=device)
    assert_same_gradients(lambda W: student.embed(ids, W), lambda W: F.embedding(ids, W), W)


@pytest.mark.exercise("embedding", points=2)
@pytest.mark.parametrize("ids", [[0, 5], [-1, 2], [9], [[1, 1], [1, 7]]])
def test_id_out_of_range(student, ids):
    """embed should raise an IndexError for a negative id and for one that is not below V."""
    W = randn(5, 2)
    with raises(IndexError):
        student.embed(torch.tensor(ids), W)


@pytest.mark.exercise("embedding", points=2)
@pytest.mark.parametrize("shape, V, d", [((6,), 4, 3), ((2, 5), 9, 1), ((1, 1), 3, 4), ((), 5, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_by_hand(student, device, shape, V, d, dtype):
    """embed_grad should be the gradient that nn.Embedding gets, for ids of any shape."""
    ids = randint(0, V, shape, device=device)
    dy = randn(*shape, d, dtype=dtype, device=device)
    W = torch.zeros(V, d, dtype=dtype, device=device, requires_grad=True)
    F.embedding(ids, W).backward(dy)
    with unchanged(ids, dy):
        got = student.embed_grad(ids, dy, V)
    assert_close(got, W.grad, "the gradient")


@pytest.mark.exercise("embedding", points=2)
@pytest.mark.parametrize("padding", [0, 2, 3])
def test_padding_learns_nothing(student, device, padding):
    """The row of padding_idx, 0 included, should get a zero gradient, all others theirs."""
    ids = torch.tensor([[0, 2, 3, 2], [3, 1, 0, 0]], device=device)
    dy = randn(2, 4, 3, device=device)
    layer = nn.Embedding(5, 3, padding_idx=padding).to(device, torch.float64)
    layer(ids).backward(dy)
    assert_close(student.embed_grad(ids, dy, 5, padding_idx=padding), layer.weight.grad)


# --- batches ---------------------------------------------------------------------------------

SETTINGS = [(50, 3, 4), (101, 4, 5), (40, 1, 6), (61, 5, 1), (30, 2, 7), (100, 3, 2), (25, 4, 3)]


@probe
def collect_epochs(student, corpus, batch, steps, mode, seeds):
    """The batches of an epoch for each seed; the global generator starts elsewhere each time."""
    epochs = []
    for number, seed in enumerate(seeds):
        torch.manual_seed(number)
        rng = torch.Generator().manual_seed(seed)
        epochs.append([tuple(b) for b in student.seq_iter(corpus, batch, steps, mode, rng)])
    return epochs


def epochs(student, n, batch, steps, mode, seeds=(0,)):
    """The batches of epochs over 0, 1, 2, …, so that a token is its own place."""
    return student.run(collect_epochs, torch.arange(n), batch, steps, mode, list(seeds))


@pytest.mark.exercise("batches", points=2)
@pytest.mark.parametrize("mode", ["random", "sequential"])
@pytest.mark.parametrize("n, batch, steps", SETTINGS)
def test_shapes_and_targets(student, n, batch, steps, mode):
    """x and y should be (N, T) of consecutive tokens, y shifted by one, no token used twice."""
    (batches,) = epochs(student, n, batch, steps, mode)
    for x, y in batches:
        assert_shape(x, (batch, steps), "x")
        assert_equal(x, x[:, :1] + torch.arange(steps), "the rows of x")
        assert_equal(y, x + 1, "y")
    used = torch.cat([x.flatten() for x, _ in batches]).tolist()
    assert_equal(len(set(used)), len(used), "the number of different tokens in x")


@pytest.mark.exercise("batches", points=1)
@pytest.mark.parametrize("mode", ["random", "sequential"])
def test_tokens_not_places(student, device, mode):
    """The batches should hold the tokens of the corpus, which stays as it is."""
    corpus = randint(100, 200, (60,), device=device)
    rng = torch.Generator().manual_seed(3)
    with unchanged(corpus):
        batches = list(student.seq_iter(corpus, 2, 5, mode, rng))
    (places,) = epochs(student, 60, 2, 5, mode, [3])
    assert_equal(len(batches), len(places), "the number of batches")
    for (x, y), (at, _) in zip(batches, places, strict=True):
        assert_equal(x, corpus[at.to(device)], "x")
        assert_equal(y, corpus[at.to(device) + 1], "y")


@pytest.mark.exercise("batches", points=2)
@pytest.mark.parametrize("n, batch, steps", SETTINGS)
def test_rows_continue(student, n, batch, steps):
    """In sequential mode, row i of a batch should continue row i of the batch before, and rows
    should be as far apart as the corpus allows."""
    for pairs in epochs(student, n, batch, steps, "sequential", range(4)):
        batches = [x for x, _ in pairs]
        offset = batches[0][0, 0].item()
        assert_true(
            0 <= offset < steps, f"The offset should be between 0 and {steps - 1}, not {offset}."
        )
        m = n - offset - 1
        assert_equal(len(batches), m // batch // steps, "the number of batches")
        first = offset + (m // batch) * torch.arange(batch)
        for number, x in enumerate(batches):
            assert_equal(x[:, 0], first + number * steps, f"the first tokens of batch {number}")


@pytest.mark.exercise("batches", points=3)
@pytest.mark.parametrize("n, batch, steps", SETTINGS)
def test_pieces_are_shuffled(student, n, batch, steps):
    """In random mode the pieces should lie side by side, in random order, as many as fit."""
    orders = []
    for pairs in epochs(student, n, batch, steps, "random", range(6)):
        batches = [x for x, _ in pairs]
        starts = torch.stack(batches)[:, :, 0].flatten()
        offset = starts[0].item() % steps
        assert_true(bool((starts % steps == offset).all()), "The pieces should not overlap.")
        assert_true(starts.max().item() + steps < n, "A piece runs over the end.")
        assert_equal(len(batches), (n - offset - 1) // steps // batch, "the number of batches")
        orders.append(((starts - offset) // steps).tolist())
    assert_true(any(o != sorted(o) for o in orders), "The pieces come in order; shuffle them.")
    assert_true(any(o != orders[0] for o in orders), "The order is the same for every generator.")
    every = {place for order in orders for place in order}
    most = (n - 1) // steps
    assert_true(len(every) >= most - 2, "Some pieces are never used.")


@pytest.mark.exercise("batches", points=2)
@pytest.mark.parametrize("mode", ["random", "sequential"])
def test_generator_and_mode(student, mode):
    """All offsets should occur, all draws come from rng, and an unknown mode should raise."""
    many = epochs(student, 20, 2, 4, mode, range(60))
    offsets = {pairs[0][0][0, 0].item() % 4 for pairs in many}
    assert_equal(offsets, {0, 1, 2, 3}, "the offsets of sixty generators")
    one, two = ([x for x, _ in e] for e in epochs(student, 60, 2, 4, mode, [7, 7]))
    assert_close(one, two, "the batches of equal generators")
    for wrong in ("shuffled", "Random", None):
        with raises(ValueError):
            list(student.seq_iter(torch.arange(30), 2, 3, wrong, torch.Generator()))


# --- rnn -------------------------------------------------------------------------------------


@probe
def run_rnn(student, batch_first, weights, x, state, dy):
    """An RNN with given weights: outputs, last state, and the gradients of sum(dy * outputs)."""
    v, h = weights[0].shape
    layer = student.RNN(v, h, batch_first=True) if batch_first else student.RNN(v, h)
    layer.to(x.device, x.dtype)
    with torch.no_grad():
        for p, w in zip([layer.W_xh, layer.W_hh, layer.b_h], weights, strict=True):
            p.copy_(w)
    x = x.clone().requires_grad_()
    wanted = [layer.W_xh, layer.W_hh, layer.b_h, x]
    if state is not None:
        state = state.clone().requires_grad_()
        wanted.append(state)
    outputs, last = layer(x) if state is None else layer(x, state)
    grads = torch.autograd.grad((outputs * dy).sum() + last.pow(2).sum(), wanted, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted, strict=True)]
    return outputs.detach(), last.detach(), grads


def library_rnn(batch_first, weights, x, state, dy):
    """The same by nn.RNN."""
    v, h = weights[0].shape
    layer = nn.RNN(v, h, batch_first=batch_first).to(x.device, x.dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(weights[0].T)
        layer.weight_hh_l0.copy_(weights[1].T)
        layer.bias_ih_l0.copy_(weights[2])
        layer.bias_hh_l0.zero_()
    x = x.clone().requires_grad_()
    wanted = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, x]
    if state is not None:
        state = state.clone().requires_grad_()
        wanted.append(state)
    outputs, last = layer(x, None if state is None else state[None])
    last = last[0]
    grads = torch.autograd.grad((outputs * dy).sum() + last.pow(2).sum(), wanted)
    grads = [grads[0].T, grads[1].T, *grads[2:]]
    return outputs.detach(), last.detach(), grads


CASES = [
    (5, 3, 4, 6, False),
    (1, 1, 2, 3, False),
    (7, 1, 3, 2, True),
    (4, 6, 1, 5, True),
    (3, 2, 4, 4, True),
]


def rnn_inputs(t, n, v, h, device, dtype=torch.float64):
    def normal(*shape):
        return randn(*shape, dtype=dtype, device=device)

    return (
        [normal(v, h) * 0.5, normal(h, h) * 0.5, normal(h) * 0.5],
        normal(t, n, v),
        normal(n, h),
        normal(t, n, h),
    )


@pytest.mark.exercise("rnn", points=5)
@pytest.mark.parametrize("t, n, v, h, given", CASES)
def test_outputs_equal_nn_rnn(student, device, t, n, v, h, given):
    """With copied weights, outputs and state should equal nn.RNN's, with and without a state."""
    weights, x, state, dy = rnn_inputs(t, n, v, h, device)
    state = state if given else None
    expected, last, _ = library_rnn(False, weights, x, state, dy)
    got, end, _ = student.run(run_rnn, False, weights, x, state, dy)
    assert_close(
        got,
        expected,
        "the outputs",
        symptoms={
            "The time axis runs backwards.": expected.flip(0),
            "The bias is missing.": library_rnn(
                False, [*weights[:2], weights[2] * 0], x, state, dy
            )[0],
            "The state is not used.": library_rnn(
                False, [weights[0], weights[1] * 0, weights[2]], x, state, dy
            )[0],
            "The state that is given is not used.": library_rnn(False, weights, x, None, dy)[0],
        },
    )
    assert_close(end, last, "the state")


@pytest.mark.exercise("rnn", points=5)
@pytest.mark.parametrize("t, n, v, h, given", CASES)
def test_gradients_equal_nn_rnn(student, device, t, n, v, h, given):
    """The gradients for all weights, the input and the state should equal those of nn.RNN."""
    weights, x, state, dy = rnn_inputs(t, n, v, h, device)
    state = state if given else None
    expected = library_rnn(False, weights, x, state, dy)[2]
    got = student.run(run_rnn, False, weights, x, state, dy)[2]
    names = ("W_xh", "W_hh", "b_h", "x", "state")
    for name, g, e in zip(names, got, expected, strict=False):
        assert_close(g, e, f"the gradient for {name}")


@pytest.mark.exercise("rnn", points=4)
@pytest.mark.parametrize("t, n, v, h, given", CASES)
def test_batch_first(student, device, t, n, v, h, given):
    """With batch_first, input and outputs should be (N, T, …), while the state stays (N, h)."""
    weights, x, state, dy = rnn_inputs(t, n, v, h, device)
    state = state if given else None
    x, dy = x.transpose(0, 1).contiguous(), dy.transpose(0, 1).contiguous()
    expected, last, grads = library_rnn(True, weights, x, state, dy)
    got, end, ours = student.run(run_rnn, True, weights, x, state, dy)
    assert_close(got, expected, "the outputs")
    assert_close(end, last, "the state")
    assert_close(list(ours), list(grads), "the gradients")


@probe
def rnn_start(student, v, h):
    """Shapes, extremes and spread of new parameters, and whether two layers differ."""
    one, two = student.RNN(v, h), student.RNN(v, h)
    about = {
        name: [list(p.shape), p.min().item(), p.max().item(), p.std().item()]
        for name, p in one.named_parameters()
    }
    return about, not torch.equal(one.W_xh, two.W_xh), isinstance(one, nn.Module)


@pytest.mark.exercise("rnn", points=3)
@pytest.mark.parametrize("v, h", [(50, 64), (90, 25)])
def test_start(student, v, h):
    """W_xh, W_hh and b_h should be parameters, even on [-1 / sqrt(h), 1 / sqrt(h)]."""
    about, differ, module = student.run(rnn_start, v, h)
    assert_true(module, "RNN should be an nn.Module.")
    shapes = {name: shape for name, (shape, *_) in about.items()}
    assert_equal(shapes, {"W_xh": [v, h], "W_hh": [h, h], "b_h": [h]}, "the parameters")
    bound = 1 / math.sqrt(h)
    for name, (_, low, high, spread) in about.items():
        assert_true(
            -bound - 1e-6 <= low and high <= bound + 1e-6,
            f"{name} runs from {low:.3f} to {high:.3f}; {bound:.3f} is 1 / sqrt(h) here.",
        )
        room = 0.05 if name != "b_h" else 0.35
        assert_close(low, -bound, f"the smallest entry of {name}", rtol=room)
        assert_close(high, bound, f"the largest entry of {name}", rtol=room)
        assert_close(spread, bound / math.sqrt(3), f"the spread of {name}", rtol=4 * room)
    assert_true(differ, "Two new layers have the same weights.")


@probe
def rnn_in_parts(student, x, dtype, detach):
    """Two runs with the state handed over: values, the old state after them, the gradient of x."""
    torch.manual_seed(5)
    layer = student.RNN(x.shape[2], 4).to(x.device, dtype)
    x = x.to(dtype).requires_grad_()
    whole, end = layer(x)
    first, state = layer(x[:3])
    kept = state.detach().clone()
    second, last = layer(x[3:], state.detach() if detach else state)
    (grad,) = torch.autograd.grad(last.sum(), x)
    (full,) = torch.autograd.grad(end.sum(), x)
    parts = torch.cat([first, second]).detach()
    return parts, whole.detach(), last.detach(), end.detach(), kept, state.detach(), grad, full


@pytest.mark.exercise("rnn", points=3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_state_between_batches(student, device, dtype):
    """A state that is handed over should continue the sequence unchanged; gradients should stop at
    it if the caller detaches it, and only then."""
    x = randn(5, 2, 3, device=device)
    with unchanged(x):
        joined = student.run(rnn_in_parts, x.clone(), dtype, False)
    cut = student.run(rnn_in_parts, x.clone(), dtype, True)
    parts, whole, last, end, kept, state, grad, full = joined
    assert_close(parts, whole, "the outputs of two runs")
    assert_close(last, end, "the last state of two runs")
    assert_close(state, kept, "the state that was handed over")
    assert_close(grad, full, "the gradient through a state that is not detached")
    assert_close(cut[6][3:], full[3:], "the gradient behind a detached state")
    assert_close(cut[6][:3], torch.zeros_like(full[:3]), "the gradient before a detached state")


# --- lm --------------------------------------------------------------------------------------


@pytest.mark.exercise("lm", points=2)
def test_perplexity_from_sums(student):
    """perplexity should be the exponential of the mean, for floats and tensors, as a float."""
    for nll, n in ((3.7, 5), (120.0, 40), (0.0, 2)):
        assert_close(student.perplexity(nll, n), math.exp(nll / n), f"`perplexity({nll}, {n})`")
    got = student.perplexity(torch.tensor(2.5), 2)
    assert_true(type(got) is float, "The perplexity should be a float.")
    assert_close(got, math.exp(1.25), "the perplexity of a tensor", rtol=1e-5)
    logits, y = randn(30, 6), randint(0, 6, (30,))
    total = F.cross_entropy(logits, y, reduction="sum").item()
    expected = math.exp(F.cross_entropy(logits, y).item())
    assert_close(student.perplexity(total, 30), expected, "the perplexity of a model")


@probe
def clip_some(student, grads, theta, once):
    """Clip parameters with these gradients (None: has none), given as a list or a generator."""
    params = []
    for g in grads:
        p = nn.Parameter(torch.zeros(2) if g is None else torch.zeros_like(g))
        p.grad = None if g is None else g.clone()
        params.append(p)
    before = [p.grad for p in params]
    norm = student.clip_grads((p for p in params) if once else params, theta)
    in_place = all(a is p.grad for a, p in zip(before, params, strict=True))
    return norm, [p.grad for p in params], in_place


@pytest.mark.exercise("lm", points=4)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("once", [False, True])
def test_clip_equals_torch(student, device, dtype, once):
    """clip_grads should give the norm and gradients of clip_grad_norm_, in place, for large and
    small thresholds; a parameter without a gradient stays without one."""
    shapes = [(4, 3), (5,), (1, 2, 2)]
    for theta in (0.3, 2.0, 1e4):
        grads = [randn(*s, dtype=dtype, device=device) for s in shapes]
        params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        expected = nn.utils.clip_grad_norm_(params, theta)
        grads.insert(1, None)
        norm, got, in_place = student.run(clip_some, grads, theta, once)
        assert_close(norm, expected, "the norm before clipping", rtol=1e-5)
        assert_true(got.pop(1) is None, "A parameter without a gradient got one.")
        assert_close(got, [p.grad for p in params], f"the gradients for theta = {theta}", rtol=1e-4)
        assert_true(in_place, "The gradients should be changed in place.")


@pytest.mark.exercise("lm", points=2)
def test_clip_lengthens_nothing(student):
    """Gradients up to theta, tiny and zero ones included, should stay exactly as they are; longer
    ones should get the length theta and keep their direction."""
    for scale in (1.0, 0.5, 1e-9, 0.0):
        grads = [scale * torch.tensor([0.6, 0.0]), scale * torch.tensor([[0.8]])]
        _, got, _ = student.run(clip_some, grads, 1.0001, False)
        assert_equal(got[0], grads[0], "a short gradient")
        assert_equal(got[1], grads[1], "a short gradient")
    grads = [randn(3), 50 * randn(2, 2)]
    _, got, _ = student.run(clip_some, grads, 0.7, False)
    long, short = (torch.cat([g.flatten() for g in gs]) for gs in (grads, got))
    assert_close(short.norm().item(), 0.7, "the new norm", rtol=1e-4)
    assert_close(F.cosine_similarity(long, short, 0).item(), 1.0, "the cosine with the old one")


@probe
def train_small(student, kind, weights, batches, lr, theta, carry):
    """Train a small language model with given weights for one epoch."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = (nn.LSTM if kind == "lstm" else nn.RNN)(5, 6, batch_first=True)
            self.score = nn.Linear(6, 5)

        def forward(self, x, state=None):
            y, state = self.layer(F.one_hot(x, 5).to(self.score.weight.dtype), state)
            return self.score(y), state

    model = Small().double()
    model.load_state_dict(weights)
    for p in model.parameters():  # what an earlier step left behind
        p.grad = torch.ones_like(p)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    args = () if carry is None else (carry,)
    value = student.train_lm(model, iter(batches), optimizer, theta, *args)
    return value, [p.detach() for p in model.parameters()]


class Small(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = (nn.LSTM if kind == "lstm" else nn.RNN)(5, 6, batch_first=True)
        self.score = nn.Linear(6, 5)

    def forward(self, x, state=None):
        y, state = self.layer(F.one_hot(x, 5).to(self.score.weight.dtype), state)
        return self.score(y), state


def reference_epoch(model, batches, lr, theta, carry):
    nll, count, state = 0.0, 0, None
    params = list(model.parameters())
    for x, y in batches:
        if not carry or state is None:
            state = None
        elif isinstance(state, tuple):
            state = (state[0].detach(), state[1].detach())
        else:
            state = state.detach()
        scores, state = model(x, state)
        loss = F.cross_entropy(scores.reshape(-1, 5), y.reshape(-1))
        grads = torch.autograd.grad(loss, params)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p -= lr * g * min(1.0, theta / norm.item())
        nll, count = nll + loss.item() * y.numel(), count + y.numel()
    return math.exp(nll / count)


@pytest.mark.exercise("lm", points=6)
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("theta, carry", [(0.2, True), (0.2, False), (100.0, True), (0.5, None)])
def test_one_epoch(student, kind, theta, carry):
    """An epoch should be steps on the mean cross-entropy with clipped gradients, the state carried
    or not, and return the perplexity of all tokens; batches may differ in size."""
    model = Small(kind).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(randn(*p.shape) * 0.6)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    batches = []
    for steps in (4, 4, 7, 1):
        ids = randint(0, 5, (3, steps + 1))
        batches.append((ids[:, :-1], ids[:, 1:]))
    got, params = student.run(train_small, kind, weights, batches, 0.8, theta, carry)
    expected = reference_epoch(model, batches, 0.8, theta, carry is not False)
    assert_close(got, expected, "the perplexity", rtol=1e-5)
    for (name, p), q in zip(model.named_parameters(), params, strict=True):
        assert_close(q, p.detach(), f"{name} after the epoch", rtol=1e-4, atol=1e-6)


@probe
def train_on_sentences(student, batches, test, v):
    """A small network, four epochs; the mean cross-entropy on the test ids."""

    class Letters(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.score = nn.LSTM(v, 48, batch_first=True), nn.Linear(48, v)

        def forward(self, x, state=None):
            y, state = self.layer(F.one_hot(x, v).float(), state)
            return self.score(y), state

    torch.manual_seed(0)
    model = Letters()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    curve = [student.train_lm(model, batches, optimizer, 1.0) for _ in range(5)]
    with torch.no_grad():
        scores, _ = model(test[None, :-1])
    return curve, F.cross_entropy(scores[0], test[1:]).item()


@pytest.mark.exercise("lm", points=3)
def test_grammar_is_learned(student):
    """On sentences of a small grammar, five epochs should bring a network within ten percent of
    the lowest perplexity that is possible."""
    nouns, verbs, places = ("cat", "dog", "fox"), ("runs", "sits"), ("here", "there", "away", "up")

    def text(count):
        words = [
            (nouns[n], verbs[v], places[p])
            for n, v, p in zip(
                randint(0, 3, (count,)).tolist(),
                randint(0, 2, (count,)).tolist(),
                randint(0, 4, (count,)).tolist(),
                strict=True,
            )
        ]
        return "".join(f"{a} {b} {c} " for a, b, c in words)

    train, test = text(420), text(150)
    letters = sorted(set(train))
    ids, unseen = (torch.tensor([letters.index(c) for c in s]) for s in (train, test))
    row = (len(ids) - 1) // 8
    x, y = ids[: 8 * row].view(8, row), ids[1 : 8 * row + 1].view(8, row)
    batches = [(x[:, i : i + 20], y[:, i : i + 20]) for i in range(0, row - 19, 20)]
    curve, nll = student.run(train_on_sentences, batches, unseen, len(letters))
    floor = math.exp(150 * math.log(3 * 2 * 4) / len(test))
    assert_true(curve[-1] < curve[0], "The perplexity does not fall from epoch to epoch.")
    assert_true(
        math.exp(nll) < 1.1 * floor,
        f"The perplexity on unseen text is {math.exp(nll):.3f}; {1.1 * floor:.3f} is within reach.",
    )
    assert_true(math.exp(nll) > 0.97 * floor, "The perplexity is lower than is possible.")


@probe
def walker(x, state=None):
    """A model that notes what it is fed: scores depend on all tokens read so far, in order."""
    total = 0 if state is None else state
    scores = []
    for token in x[0].tolist():
        total = (2 * total + token + 1) % 101
        scores.append([float((total * (j + 3)) % 17) / 4 for j in range(6)])
    return torch.tensor([scores], dtype=torch.float64, device=x.device), total


def walk(prefix, n):
    """What greedy generation from `walker` gives."""
    tokens, total = list(prefix), 0
    for token in prefix:
        total = (2 * total + token + 1) % 101
    for _ in range(n):
        scores = [float((total * (j + 3)) % 17) / 4 for j in range(6)]
        tokens.append(scores.index(max(scores)))
        total = (2 * total + tokens[-1] + 1) % 101
    return tokens


@pytest.mark.exercise("lm", points=4)
@pytest.mark.parametrize("prefix, n", [([2], 8), ([2, 2, 5, 1], 12), ([4, 1], 1), ([3, 1], 0)])
def test_greedy_generation(student, device, prefix, n):
    """Greedy generation should append the token of the largest score n times, feeding the prefix
    once and each new token once, and give the same text every time."""
    start = torch.tensor(prefix, device=device)
    expected = torch.tensor(walk(prefix, n), device=device)
    with unchanged(start):
        got = student.generate(walker, start, n)
    assert_close(got, expected, "the tokens")
    torch.manual_seed(1)
    assert_close(student.generate(walker, start, n), expected, "the tokens, once more,")


@probe
def loaded_dice(x, state=None):
    """The same scores at every last place, with a graph; at other places in another order."""
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0], requires_grad=True)
    rows = [scores.flip(0)] * (x.shape[1] - 1) + [scores]
    return torch.stack(rows)[None], None


@probe
def generate_with_grad(student):
    """Whether a model is called with gradients switched on."""
    switched = []

    def model(x, state=None):
        switched.append(torch.is_grad_enabled())
        return torch.zeros(1, x.shape[1], 3), None

    out = student.generate(model, torch.tensor([0]), 3)
    return switched, out.requires_grad


@pytest.mark.exercise("lm", points=4)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_drawn_generation(student, temperature):
    """Tokens should be drawn from softmax(scores / temperature) by rng, without gradients."""
    rng = torch.Generator().manual_seed(2)
    drawn = student.generate(loaded_dice, torch.tensor([2]), 2000, temperature, rng)[1:]
    share = torch.bincount(drawn, minlength=4).double() / 2000
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    assert_close(share, (scores / temperature).softmax(0), "the shares", atol=0.05, rtol=0.0)
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        rng = torch.Generator().manual_seed(9)
        runs.append(student.generate(loaded_dice, torch.tensor([0]), 20, temperature, rng))
    assert_equal(runs[0], runs[1], "the text of equal generators")
    rng = torch.Generator().manual_seed(3)
    sure = student.generate(loaded_dice, torch.tensor([1, 1, 1]), 1, 0.01 * temperature, rng)
    assert_equal(sure.tolist(), [1, 1, 1, 3], "the text at a low temperature")
    switched, graph = student.run(generate_with_grad)
    assert_true(not any(switched) and not graph, "Generation should build no graph.")
