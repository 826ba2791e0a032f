"""Public checks of the chapter on attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from course.testing import assert_close, assert_equal, assert_true, probe, raises, unchanged

HINTS = {
    "nw": [
        "Start with one query: how far is it from each key? Then the scores, then softmax.",
        "`q[:, None] - k` has the shape (m, n, d): every query less every key. Sum the squares "
        "over the last axis.",
        "The score is minus the squared distance over 2 width²; `softmax(-1)` runs over the keys, "
        "and `@ v` takes the weighted mean.",
    ],
    "mask": [
        "Compare `torch.arange(K)` with the lengths: which places are hidden?",
        "Lengths need axes so that they broadcast against (B, Q, K): (B, 1, 1) for one length an "
        "example, (B, Q, 1) for one a query.",
        "`masked_fill(hidden, -torch.inf)` before the softmax. A row that is all hidden then is "
        "nan; what does a second `masked_fill` do to it?",
    ],
    "additive": [
        "`nn.Linear(a, b, bias=False)` has a weight of shape (b, a).",
        "`x[:, :, None]` puts a new axis behind the second, `x[:, None]` one before it. Sums of "
        "(B, Q, 1, h) and (B, 1, K, h) have all pairs.",
        "`w_v` leaves a last axis of length 1; take it off with `[..., 0]` before the softmax over "
        "the keys.",
    ],
    "dot": [
        "Without masks it is one line: the softmax of the scaled product of q and k transposed in "
        "its last two axes, times v.",
        "`is_causal` is a boolean mask: the lower triangle of ones of shape (L, S).",
        "Boolean: hide with -inf where the mask is *not* True. Floating-point: add. At the end, "
        "rows that see nothing must be 0 instead of nan.",
    ],
    "mha": [
        "`unflatten(-1, (h, -1))` cuts the last axis in two. Which axes must then change places, "
        "so that the heads come right behind the batch?",
        "`transpose_output`: undo the three steps in the opposite order.",
        "Project, split, attend, join, project. A mask for the heads repeats each *example's* mask "
        "h times in a row: `repeat_interleave`.",
    ],
    "equivariance": [
        "Two ways: shuffle, then f; or f, then shuffle.",
        "The tokens are on axis 1: `x[:, perm]`.",
        "The largest absolute difference, as a plain float: `.abs().max().item()`.",
    ],
    "pe": [
        "`torch.arange(0, d, 2)` counts the pairs: 2j for j = 0, 1, … . Take float64.",
        "All angles are one outer product, (n, 1) times (d / 2). `torch.stack([sin, cos], -1)` "
        "then `flatten(1)` lets sines and cosines alternate.",
        "`shift_matrix`: write the 2 x 2 block of one pair on paper, [[cos, sin], [-sin, cos]] of "
        "the angle that a shift adds. `torch.block_diag` puts blocks on a diagonal.",
    ],
    "debug": [
        "Add up the weights of a query. What should come out, and what does?",
        "The padding took part in the softmax. What score gives a weight of exactly zero?",
    ],
}


@pytest.mark.exercise("nw")
def test_worked_example(student):
    """`nw` gives the worked example: scores -½, 0, -2, and the mean of 10, 20, 60."""
    q, k = torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    v = torch.tensor([[10.0], [20.0], [60.0]])
    scores = torch.tensor([-0.5, 0.0, -2.0])
    assert_close(
        student.nw(q, k, v, 1.0),
        (scores.softmax(0) @ v)[None],
        symptoms={
            "The sign is wrong: here far keys get more weight.": ((-scores).softmax(0) @ v)[None],
            "The 2 in 2 width² is missing.": ((2 * scores).softmax(0) @ v)[None],
            "The weights do not add up to 1.": (scores.exp() @ v)[None],
        },
    )
    assert_close(
        student.nw(q, k, v, 2.0),
        ((scores / 4).softmax(0) @ v)[None],
        "the output for width 2",
        symptoms={"The width should be squared.": ((scores / 2).softmax(0) @ v)[None]},
    )


@pytest.mark.exercise("nw")
def test_narrow_and_wide(student):
    """A tiny width gives the nearest key's value, a huge one the mean; vectors work too."""
    q = torch.tensor([[0.9, 0.2], [0.1, 2.0]])
    k = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    v = torch.tensor([[1.0, 0.0], [2.0, 5.0], [3.0, 1.0]])
    assert_close(student.nw(q, k, v, 1e-4), v[[1, 2]], "the output for width 1e-4")
    assert_close(student.nw(q, k, v, 1e4), v.mean(0).expand(2, 2), "the output for width 1e4")


SCORES = torch.tensor([[[1.0, 3.0, 2.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])


@pytest.mark.exercise("mask")
def test_padding_gets_nothing(student):
    """Keys beyond the valid length get a weight of exactly 0; the others add up to 1."""
    with unchanged(SCORES):
        got = student.masked_softmax(SCORES, torch.tensor([3]))
    first = F.pad(SCORES[..., :3].softmax(-1), (0, 1))
    late = SCORES.softmax(-1) * torch.tensor([1.0, 1, 1, 0])
    zeros = torch.tensor([1.0, 1, 1, 0]) * SCORES
    assert_close(
        got,
        first,
        "the weights",
        symptoms={
            "Mask before the softmax, not after it: these do not add up to 1.": late,
            "A hidden score of 0 still gets a weight; only minus infinity does not.": zeros.softmax(
                -1
            ),
            "The softmax should run over the last axis, the keys.": F.pad(
                SCORES[..., :3].softmax(1), (0, 1)
            ),
        },
    )
    assert_equal(got[..., 3].abs().max().item(), 0.0, "the weight of the padding")
    assert_close(student.masked_softmax(SCORES, None), SCORES.softmax(-1), "without lengths")


@pytest.mark.exercise("mask")
def test_a_length_for_each_query(student):
    """With lengths of shape (B, Q) each query has its own; length 0 gives zeros, not nan."""
    got = student.masked_softmax(SCORES, torch.tensor([[2, 0]]))
    two = F.pad(SCORES[0, 0, :2].softmax(-1), (0, 2))
    even = torch.full((4,), 0.25)
    assert_close(
        got,
        torch.stack([two, torch.zeros(4)])[None],
        "the weights",
        symptoms={"Length 0 gives equal weights to the padding.": torch.stack([two, even])[None]},
    )


@pytest.mark.exercise("additive")
def test_three_matrices(student):
    """`Additive` has three weights, of the shapes (h, q), (h, k) and (1, h), and no more."""
    layer = student.Additive(2, 3, 4)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert_equal(
        shapes, {"W_q.weight": (4, 2), "W_k.weight": (4, 3), "w_v.weight": (1, 4)}, "the parameters"
    )


@pytest.mark.exercise("additive")
def test_one_hidden_unit(student):
    """With one hidden unit and all weights 1, the score is tanh(q + k)."""
    layer = student.Additive(1, 1, 1)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(1.0)
    q, k = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[-1.0], [0.5], [2.0]]])
    v = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [4.0, 2.0]]])
    sums = q + k.mT
    assert_close(
        layer(q, k, v),
        sums.tanh().softmax(-1) @ v,
        symptoms={
            "The tanh is missing.": sums.softmax(-1) @ v,
            "The softmax should run over the keys.": sums.tanh().softmax(1) @ v,
            "The softmax is missing.": sums.tanh() @ v,
        },
    )


@pytest.mark.exercise("dot")
def test_scaled(student):
    """`sdpa` divides the scores by √d, takes the softmax over the keys, and averages the values."""
    q = torch.tensor([[[2.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]])
    k = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]]])
    v = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    raw = q @ k.mT
    assert_close(
        student.sdpa(q, k, v),
        (raw / 2).softmax(-1) @ v,
        symptoms={
            "The division by √d is missing.": raw.softmax(-1) @ v,
            "The scores are divided by d; take its root.": (raw / 4).softmax(-1) @ v,
            "The softmax should run over the keys, the last axis.": (raw / 2).softmax(-2) @ v,
        },
    )


@pytest.mark.exercise("dot")
def test_masks(student):
    """A boolean mask says what may be seen, a float mask is added, and both at once raise."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    keep = torch.tensor([[True, False, True], [True, True, False], [False, True, False]])
    plain = F.scaled_dot_product_attention
    assert_close(
        student.sdpa(x, x, x, keep),
        plain(x, x, x, keep),
        "the output for a boolean mask",
        symptoms={"True means: may be seen. Here it hides.": plain(x, x, x, ~keep)},
    )
    bias = torch.tensor([[0.0, 1.0, -1.0]] * 3)
    assert_close(student.sdpa(x, x, x, bias), plain(x, x, x, bias), "the output for a float mask")
    assert_close(
        student.sdpa(x, x, x, is_causal=True),
        plain(x, x, x, is_causal=True),
        "the causal output",
        symptoms={
            "The mask is turned around: queries see the future.": plain(
                x, x, x, torch.ones(3, 3).triu().bool()
            ),
            "Each query should see its own key as well.": plain(
                x, x, x, torch.ones(3, 3).tril(-1).bool()
            ),
        },
    )
    with raises(ValueError):
        student.sdpa(x, x, x, keep, is_causal=True)


@pytest.mark.exercise("dot")
def test_a_query_that_sees_nothing(student):
    """A query for which the boolean mask is all False gets an output of zeros, not nan."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    keep = torch.tensor([[False, False], [True, True]])
    got = student.sdpa(x, x, x, keep)
    assert_close(got[0, 0], torch.zeros(2), "the output of that query")


# Token i has the features 10 i, 10 i + 1, ..., so each number tells where it is from.
TOKENS = torch.tensor(
    [[[10.0 * i + j + 100 * b for j in range(4)] for i in range(3)] for b in (0, 1)]
)


@pytest.mark.exercise("mha")
def test_heads_split_features(student):
    """Each head has every token, with its share of the features; the split can be undone."""
    got = student.transpose_qkv(TOKENS, 2)
    expected = torch.stack([TOKENS[0, :, :2], TOKENS[0, :, 2:], TOKENS[1, :, :2], TOKENS[1, :, 2:]])
    assert_close(
        got,
        expected,
        "the heads",
        symptoms={
            "A reshape alone mixes tokens: the axes have to move.": TOKENS.reshape(4, 3, 2),
            "The heads of one example should lie next to each other.": expected[[0, 2, 1, 3]],
        },
    )
    assert_close(student.transpose_output(expected, 2), TOKENS, "heads put together again")
    with raises(ValueError):
        student.transpose_qkv(TOKENS, 3)


@pytest.mark.exercise("mha")
def test_one_head_is_attention(student):
    """With one head, `MHA` is attention between linear maps; lengths hide the padding."""
    torch.manual_seed(0)
    layer = student.MHA(4, 1)
    q, x = torch.randn(2, 2, 4), torch.randn(2, 3, 4)
    for lens in (None, torch.tensor([1, 3])):
        keep = None if lens is None else torch.arange(3) < lens[:, None, None]
        parts = layer.W_q(q), layer.W_k(x), layer.W_v(x)
        expected = layer.W_o(F.scaled_dot_product_attention(*parts, attn_mask=keep))
        what = "the output" if lens is None else "the output with valid lengths"
        assert_close(layer(q, x, x, lens), expected, what)
    assert_equal(sum(p.numel() for p in layer.parameters()), 4 * (16 + 4), "the parameters")
    with raises(ValueError):
        student.MHA(4, 3)


@pytest.mark.exercise("mha")
def test_two_heads_are_torchs(student):
    """With two heads and the same weights, `MHA` agrees with nn.MultiheadAttention."""
    torch.manual_seed(1)
    layer, x = student.MHA(4, 2), torch.randn(2, 3, 4)
    torchs = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    three = (layer.W_q, layer.W_k, layer.W_v)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([m.weight for m in three]))
        torchs.in_proj_bias.copy_(torch.cat([m.bias for m in three]))
        torchs.out_proj.weight.copy_(layer.W_o.weight)
        torchs.out_proj.bias.copy_(layer.W_o.bias)
        assert_close(layer(x, x, x), torchs(x, x, x)[0])


@probe
def running_sum(x):
    """Depends on the order."""
    return x.cumsum(1)


@probe
def double(x):
    """Treats every token alike."""
    return 2 * x


@pytest.mark.exercise("equivariance")
def test_gap(student):
    """The gap is 0 for what treats tokens alike, and the largest difference for a running sum."""
    x = torch.tensor([[[1.0], [10.0], [100.0]]])
    perm = torch.tensor([2, 0, 1])
    got = student.is_equivariant(double, x, perm)
    assert_true(isinstance(got, float), "The gap should be a float.")
    assert_close(got, 0.0, "the gap of doubling")
    # Shuffled: 100, 1, 10 with sums 100, 101, 111. Sums 1, 11, 111 shuffled: 111, 1, 11.
    assert_close(
        student.is_equivariant(running_sum, x, perm),
        100.0,
        "the gap of a running sum",
        symptoms={
            "This compares f(x) with f of the shuffled x: that would be invariance.": 99.0,
            "Take the largest difference, without its sign.": 11.0,
        },
    )


@pytest.mark.exercise("pe")
def test_first_rows(student):
    """Position 0 is 0, 1, 0, 1; position 1 with d = 4 has sin and cos of 1 and of 1/100."""
    P = student.sinusoid(3, 4)
    angles = [1.0, 0.01]
    row = [f(a) for a in angles for f in (math.sin, math.cos)]
    halves = [f(a) for f in (math.sin, math.cos) for a in angles]
    wrong = [f(a) for a in (1.0, 0.1) for f in (math.sin, math.cos)]
    assert_close(P[0], torch.tensor([0.0, 1, 0, 1], dtype=torch.float64), "position 0")
    assert_close(
        P[1],
        torch.tensor(row, dtype=torch.float64),
        "position 1",
        symptoms={
            "Sines and cosines should alternate.": torch.tensor(halves, dtype=torch.float64),
            "The exponent of pair j is -2j / d.": torch.tensor(wrong, dtype=torch.float64),
        },
    )
    with raises(ValueError):
        student.sinusoid(3, 5)


@pytest.mark.exercise("pe")
def test_shift(student):
    """`shift_matrix` turns each pair by its own angle, and takes any position further by delta."""
    M = student.shift_matrix(2, 1)
    c, s = math.cos(1), math.sin(1)
    assert_close(
        M,
        torch.tensor([[c, s], [-s, c]], dtype=torch.float64),
        "M(1) for d = 2",
        symptoms={
            "It turns the wrong way round: this one goes back by 1.": torch.tensor(
                [[c, -s], [s, c]], dtype=torch.float64
            )
        },
    )
    angle = torch.arange(9.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.01])
    P = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    assert_close(P[:6] @ student.shift_matrix(4, 3).T, P[3:], "positions 0 to 5, moved by 3,")
    with raises(ValueError):
        student.shift_matrix(3, 1)


@pytest.mark.exercise("debug")
def test_a_mean_of_ones_is_one(student):
    """Attention to values that are all 1 gives 1, however much padding there is."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    got = student.attend_padded(x, x, torch.ones(2, 5, 1), torch.tensor([2, 5]))
    assert_close(got, torch.ones(2, 5, 1))


@pytest.mark.exercise("debug")
def test_padding_is_not_seen(student):
    """The output equals that of the sentence without its padding."""
    torch.manual_seed(1)
    x = torch.randn(1, 5, 4)
    got = student.attend_padded(x, x, x, torch.tensor([3]))
    short = x[:, :3]
    assert_close(got, F.scaled_dot_product_attention(x, short, short))
