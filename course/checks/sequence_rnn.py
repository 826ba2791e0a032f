"""Public checks of the chapter on sequences and recurrent networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_shape, assert_true, probe, raises

HINTS = {
    "windows": [
        "`make_windows`: write down the rows for five numbers and tau = 2. Which slice of x is the "
        "first column, which the second? Both have n - tau entries.",
        "`torch.stack` puts columns side by side with `dim=1`. `x.unfold` is another way.",
        "`predict_k`: make the first n - tau - k + 1 windows. Then, k times: predict, append the "
        "prediction as a last column, drop the first column.",
    ],
    "markov": [
        "`fit`: go over all places i that have n - 1 tokens before them, and count the pair "
        "(context, token) and the context. A `tuple` can be counted by a `Counter`.",
        "Take a context's last n - 1 tokens with care: for n = 1 the slice `[-0:]` is everything. "
        "`[len(context) - n + 1:]` is not.",
        "`perplexity`: add up -log of `prob`, divide by the number of tokens that you added up, "
        "len(tokens) - n + 1, and take the exponential once, at the end.",
    ],
    "text": [
        "`tokenize`: `re.sub` replaces every match of a pattern; `[^a-z]+` matches a run of "
        "anything but small letters.",
        "Sort by two things at once: the key `(-count, token)` puts large counts first and breaks "
        "ties alphabetically.",
        "Keep two things: the list of tokens, and a dictionary from token to place. The list alone "
        "is enough for `to_json`, and `from_json` makes the dictionary again.",
    ],
    "embedding": [
        "`F.one_hot(ids, V)` gives integers; a matrix product wants W's dtype.",
        "One-hot rows times W work for ids of any shape: the product is over the last axis.",
        "`embed_grad`: flatten the ids and all axes of dy but the last. What does the transpose of "
        "the one-hot matrix do to dy?",
    ],
    "batches": [
        "Where does each row of a batch start? If you have the starts, a row is "
        "`corpus[start : start + T]`, and its target the same one place later.",
        "Random: the pieces start at offset, offset + T, offset + 2 T and so on; shuffle these "
        "numbers with `torch.randperm(…, generator=rng)`.",
        "Sequential: cut into N long rows of m // N tokens. Batch j takes the columns from j * T "
        "to j * T + T of all of them.",
    ],
    "rnn": [
        "Go over time with `for x_t in x`; each x_t is (N, v). Keep a list of the states.",
        "One step: `torch.tanh(x_t @ W_xh + state @ W_hh + b_h)`. Make a new tensor each time; do "
        "not write into the old state.",
        "Stack the list along time: dim 0, or dim 1 if `batch_first`. Swap the axes of the input "
        "before the loop in that case.",
    ],
    "lm": [
        "`clip_grads`: `params` may be a generator that can be read only once, so collect the "
        "gradients in a list first. The joint norm is the norm of the norms.",
        "`train_lm`: the order in the loop is detach, scores, loss, zero_grad, backward, clip, "
        "step. Add up the loss times the number of tokens in the batch.",
        "`generate`: call the model once on the whole prefix; take the scores of its last place; "
        "from then on feed only the new token, with the state.",
    ],
    "debug": [
        "Write down, for T = 2 and N = 2, in which order `reshape` lists the scores, and in which "
        "the targets.",
        "Bring both into the same order before you flatten them: either time first, or sequences "
        "first.",
    ],
}


@pytest.mark.exercise("windows")
def test_table(student):
    """`make_windows` gives the rows of the worked example."""
    x = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    features, labels = student.make_windows(x, 2)
    assert_close(
        features,
        torch.tensor([[10.0, 20.0], [20.0, 30.0], [30.0, 40.0]]),
        "features",
        symptoms={
            "Time runs backwards in a window.": torch.tensor(
                [[20.0, 10.0], [30.0, 20.0], [40.0, 30.0]]
            )
        },
    )
    assert_close(
        labels,
        torch.tensor([30.0, 40.0, 50.0]),
        "labels",
        symptoms={
            "The label is the last element of the window; it should be the next.": torch.tensor(
                [20.0, 30.0, 40.0]
            )
        },
    )
    with raises(ValueError):
        student.make_windows(x, 5)


@probe
def two_more(window):
    return window[:, -1:] + 2


@pytest.mark.exercise("windows")
def test_steps_of_two(student):
    """A model that adds 2 to the newest element is 2 k further after k steps."""
    x = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0])
    for k in (1, 2, 3):
        assert_close(
            student.predict_k(two_more, x, 2, k),
            x[k + 1 :],
            f"the predictions for k = {k}",
            symptoms={
                "This predicts one step only; feed the predictions back.": x[1 : 5 - k] + 2,
            },
        )
    with raises(ValueError):
        student.predict_k(two_more, x, 2, 4)


@pytest.mark.exercise("markov")
def test_bigrams(student):
    """For the text abababb the counts give the worked example."""
    model = student.NGram(2, 0).fit("abababb")
    assert_close(model.prob("b", "a"), 1.0, "`prob('b', 'a')`")
    assert_close(
        model.prob("a", "b"),
        2 / 3,
        "`prob('a', 'b')`",
        symptoms={"The last b has no next token, so it is no context.": 1 / 2},
    )
    assert_close(
        model.perplexity("abababb"),
        (27 / 4) ** (1 / 6),
        "the perplexity",
        symptoms={"Divide by the number of bigrams, 6, not by 7.": (27 / 4) ** (1 / 7)},
    )


@pytest.mark.exercise("markov")
def test_smoothing(student):
    """Smoothed probabilities add up to 1; a context that was never seen gives 1 / V."""
    model = student.NGram(2, 0.5).fit("abcab")
    probs = [model.prob(token, "a") for token in "abc"]
    assert_close(probs, [1 / 7, 5 / 7, 1 / 7], "the probabilities after a")
    trigram = student.NGram(3, 0).fit("aabb")
    assert_close(trigram.prob("a", "ba"), 0.5, "the probability after a new context")
    assert_equal(student.NGram(1, 0).fit("aab").prob("a", "b"), 2 / 3, "the probability for n = 1")


@pytest.mark.exercise("text")
def test_characters(student):
    """`tokenize` keeps letters, in lower case, and single spaces between words."""
    assert_equal("".join(student.tokenize("  A cat's\n 2 lives! ")), "a cat s lives", "the tokens")


@pytest.mark.exercise("text")
def test_order(student):
    """`Vocab` orders by frequency, ties alphabetically, after <unk> and the reserved tokens."""
    vocab = student.Vocab(list("babcad"))
    assert_equal(
        vocab.decode(range(len(vocab))), ["<unk>", "a", "b", "c", "d"], "the tokens in order"
    )
    assert_equal(vocab.encode(["b", "x", "d"]), [2, 0, 4], "the ids of b, x, d")
    short = student.Vocab(list("babcad"), min_freq=2, reserved=["<pad>"])
    assert_equal(
        short.decode(range(len(short))),
        ["<unk>", "<pad>", "a", "b"],
        "the tokens for min_freq=2 and reserved=['<pad>']",
    )


@pytest.mark.exercise("text")
def test_reloaded(student):
    """A vocabulary that is written to JSON and read again gives the same ids."""
    vocab = student.Vocab(list("zzyyyx"), reserved=["<pad>"])
    again = student.Vocab.from_json(vocab.to_json())
    assert_equal(again.encode(list("xyz?")), vocab.encode(list("xyz?")), "the ids")


@pytest.mark.exercise("embedding")
def test_rows(student):
    """`embed` gives the rows that the ids name, and an IndexError for ids that name none."""
    W = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert_close(student.embed(torch.tensor([2, 0]), W), torch.tensor([[5.0, 6.0], [1.0, 2.0]]))
    assert_shape(student.embed(torch.zeros(2, 3, dtype=torch.long), W), (2, 3, 2))
    with raises(IndexError):
        student.embed(torch.tensor([3]), W)


@pytest.mark.exercise("embedding")
def test_rows_add_up(student):
    """`embed_grad` adds up by token, and leaves the row of `padding_idx` zero."""
    ids, dy = torch.tensor([2, 0, 2]), torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    expected = torch.tensor([[2.0, 0.0], [0.0, 0.0], [4.0, 2.0], [0.0, 0.0]])
    last = expected.clone()
    last[2] = dy[2]
    assert_close(
        student.embed_grad(ids, dy, 4),
        expected,
        "the gradient",
        symptoms={"A token that occurs twice gets the sum, not the last one.": last},
    )
    assert_equal(student.embed_grad(ids, dy, 4, 2)[2].tolist(), [0.0, 0.0], "the padding's row")


@pytest.mark.exercise("batches")
def test_successors(student):
    """Targets are the inputs shifted by one, and no token is read twice."""
    for mode in ("random", "sequential"):
        rng = torch.Generator().manual_seed(0)
        batches = list(student.seq_iter(torch.arange(50), 3, 4, mode, rng))
        assert_true(len(batches) >= 3, f"There are too few batches in {mode} mode.")
        for x, y in batches:
            assert_shape(x, (3, 4), "x")
            assert_equal(y, x + 1, "y")
        places = torch.cat([x.flatten() for x, _ in batches]).tolist()
        assert_equal(len(set(places)), len(places), "the number of different tokens")


@pytest.mark.exercise("batches")
def test_neighbours(student):
    """In sequential mode each row continues the same row of the batch before."""
    rng = torch.Generator().manual_seed(1)
    batches = [x for x, _ in student.seq_iter(torch.arange(60), 2, 5, "sequential", rng)]
    for before, after in zip(batches, batches[1:], strict=False):
        assert_equal(after[:, 0], before[:, -1] + 1, "the first token of each row")
    with raises(ValueError):
        list(student.seq_iter(torch.arange(60), 2, 5, "sorted", rng))


@probe
def run_small_rnn(student, batch_first):
    layer = student.RNN(1, 2, batch_first)
    with torch.no_grad():
        layer.W_xh.copy_(torch.tensor([[1.0, 0.0]]))
        layer.W_hh.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        layer.b_h.copy_(torch.tensor([0.0, 0.5]))
    x = torch.tensor([[[1.0], [0.0]], [[2.0], [0.0]], [[0.0], [0.0]]])  # (3, 2, 1)
    with torch.no_grad():
        return layer(x.transpose(0, 1) if batch_first else x)


@pytest.mark.exercise("rnn")
def test_three_steps(student):
    """Three steps on paper: unit 0 reads the input, unit 1 reads unit 0 one step later."""
    a, b = math.tanh(1), math.tanh(2)
    read = [[a, math.tanh(0.5)], [b, math.tanh(a + 0.5)], [0.0, math.tanh(b + 0.5)]]
    idle = [[0.0, math.tanh(0.5)]] * 3
    expected = torch.tensor([read, idle]).transpose(0, 1)
    for batch_first in (False, True):
        outputs, state = student.run(run_small_rnn, batch_first)
        wanted = expected.transpose(0, 1) if batch_first else expected
        assert_close(outputs, wanted, f"the outputs for batch_first={batch_first}")
        assert_close(state, expected[-1], "the state")


@pytest.mark.exercise("rnn")
def test_handing_over(student):
    """Two halves with the state handed over give what one run gives."""
    layer = student.RNN(3, 4)
    x = torch.linspace(-1, 1, 5 * 2 * 3).view(5, 2, 3)
    whole, end = layer(x)
    first, state = layer(x[:2])
    second, last = layer(x[2:], state)
    assert_close(torch.cat([first, second]), whole, "the outputs of two halves")
    assert_close(last, end, "the last state")


@pytest.mark.exercise("lm")
def test_perplexities(student):
    """The perplexity of guessing evenly among V tokens is V, of certainty 1."""
    assert_close(student.perplexity(10 * math.log(7), 10), 7.0, "the perplexity of a guess")
    assert_close(student.perplexity(0.0, 3), 1.0, "the perplexity of certainty")


@probe
def clip_two(student, theta):
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = student.clip_grads([a, b], theta)
    return torch.cat([a.grad, b.grad]), float(norm)


@pytest.mark.exercise("lm")
def test_three_and_four(student):
    """The gradients (3, 0) and (4) have the norm 5; theta = 1 divides both by 5."""
    grads, norm = student.run(clip_two, 1.0)
    assert_close(norm, 5.0, "the norm before clipping", rtol=1e-5)
    assert_close(
        grads,
        torch.tensor([0.6, 0.0, 0.8]),
        "the gradients",
        symptoms={
            "Each gradient is clipped alone; clip them together.": torch.tensor([1.0, 0.0, 1.0])
        },
    )
    assert_close(
        student.run(clip_two, 10.0)[0], torch.tensor([3.0, 0.0, 4.0]), "the gradients, theta = 10"
    )


@probe
def train_counter(student):
    """A model whose scores are free numbers; its state counts the tokens it has read."""

    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = nn.Parameter(torch.zeros(3))
            self.states = []

        def forward(self, x, state=None):
            self.states.append(None if state is None else state.item())
            read = (0.0 if state is None else state) + x.shape[1]
            return self.scores.expand(*x.shape, 3), self.scores.sum() * 0 + read

    results = []
    for carry in (True, False):
        model = Free()
        sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        batches = [(torch.zeros(2, 4).long(), torch.ones(2, 4).long())] * 2
        value = student.train_lm(model, batches, sgd, 0.1, carry)
        results.append((value, model.scores.detach().norm().item(), model.states))
    return results


@pytest.mark.exercise("lm")
def test_two_batches(student):
    """`train_lm` carries the state or not, and makes clipped steps."""
    carried, fresh = student.run(train_counter)
    assert_equal(carried[2], [None, 4.0], "the states that are fed, carry=True,")
    assert_equal(fresh[2], [None, None], "the states that are fed, carry=False,")
    assert_close(carried[1], 0.2, "the way of two steps of length 0.1", rtol=1e-2)
    assert_true(2.7 < carried[0] < 3.0, "The perplexity should be a little below 3.")


@probe
def count_up(x, state=None):
    """The next token is the last one plus the number of tokens that were read."""
    read = (0 if state is None else state) + x.shape[1]
    return F.one_hot((x + read) % 5, 5).float(), read


@pytest.mark.exercise("lm")
def test_writing(student):
    """Greedy `generate` takes the largest score, and feeds each token once."""
    got = student.generate(count_up, torch.tensor([0, 1]), 3)
    assert_close(
        got,
        torch.tensor([0, 1, 3, 1, 0]),
        "the tokens",
        symptoms={
            "The whole text is fed again, although the state has read it.": torch.tensor(
                [0, 1, 3, 3, 2]
            ),
            "The state is not carried on.": torch.tensor([0, 1, 3, 4, 0]),
            "The prefix should be part of the answer.": torch.tensor([3, 1, 0]),
        },
    )


@pytest.mark.exercise("debug")
def test_perfect_model(student):
    """A model that is certain and right has the loss 0, and one that knows nothing log V."""
    y = torch.tensor([[0, 1, 2], [3, 3, 1]])
    perfect = 30.0 * F.one_hot(y.T, 4).float()
    wrong = F.cross_entropy(perfect.reshape(-1, 4), y.reshape(-1))
    assert_close(
        student.sequence_loss(perfect, y),
        torch.tensor(0.0),
        "the loss",
        symptoms={"Scores and targets are still listed in two orders.": wrong},
    )
    assert_close(student.sequence_loss(torch.zeros(3, 2, 4), y), torch.tensor(math.log(4)))
