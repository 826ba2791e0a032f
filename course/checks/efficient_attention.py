"""Public checks of the chapter on efficient attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from course.testing import assert_close, assert_equal, probe, raises

HINTS = {
    "masks": [
        "`torch.arange(n)[:, None] - torch.arange(n)` holds i - j for all pairs. What must its "
        "absolute value be for a window?",
        "Dilated: near enough *and* a multiple of s. Global: the row *or* the column belongs to "
        "one of the first g tokens, or it is the diagonal.",
        "Random: draw one number for each cell, make sure that the diagonal comes first, and take "
        "the r + 1 best places of each row (`argsort`, then `scatter`).",
    ],
    "blocked": [
        "Pad the queries to a multiple of the block size and split them into blocks with "
        "`unflatten`. Which keys does a block need?",
        "`t.unfold(1, 3 * b, b)` on keys padded by b at both ends gives each block its three "
        "blocks, with the window's places on the last axis.",
        "Compute the place of each query and of each of its keys, and hide what is too far away, "
        "before place 0 or after place n - 1. Padding has score 0, which is not nothing.",
    ],
    "cluster": [
        "Loop over the labels that occur among the queries.",
        "`labels_q == label` picks the queries, `labels_k == label` the keys and values.",
        "Write the small attention's output to the rows of those queries: `out[mine] = …`. What "
        "does a product over no keys give?",
    ],
    "linformer": [
        "A tensor is learned when it is an `nn.Parameter`. `nn.Linear(d, d, bias=False)` is W.",
        "`E @ K` mixes the rows: (k, n) times (B, n, d) gives (B, k, d).",
        "Check `x.shape[1]` first. Then it is attention with k keys; the Synthesizer needs only "
        "the softmax of `R`, row by row, times `W_v(x)`.",
    ],
    "linear": [
        "`F.elu(x) + 1` on queries and keys first. Then only sums and products are left.",
        "Not causal: S is `k.mT @ v`, z is the sum of the keys' features. Mind the order of the "
        "products.",
        "Causal: outer products `k[..., None] * v[:, :, None]`, of shape (B, n, d, c), summed with "
        "`cumsum(1)`, and each query times the S of its own place.",
    ],
    "conv": [
        "Number the pixels row by row: `torch.cartesian_prod` gives their places, (HW, 2).",
        "For a tap, the target is the place plus (a - r, b - r). The score of a pixel is -100 "
        "times its squared distance from the target.",
        "`axial_attention`: attention runs over the last axis but one. Which two axes must change "
        "places so that this is the height? Put them back before the second step.",
    ],
    "debug": [
        "Which key does `k.roll(s, 1)` put beside token 0?",
        "Token i has i tokens before it. Which of the w + 1 places must get no weight?",
    ],
}

# --- masks -----------------------------------------------------------------------------------


def drawn(text):
    """A mask from a drawing: rows separated by spaces, 1 for what may be seen."""
    return torch.tensor([[cell == "1" for cell in row] for row in text.split()])


@pytest.mark.exercise("masks")
def test_drawn_patterns(student):
    """Window, dilated and global masks look as they do in the figure, here for five tokens."""
    assert_close(
        student.make_mask("window", 5, w=1),
        drawn("11... 111.. .111. ..111 ...11"),
        "the window with w=1",
        symptoms={
            "Here the window looks back only; it has w keys on *each* side.": drawn(
                "1.... 11... .11.. ..11. ...11"
            ),
            "w is counted from the token itself: |i - j| <= w, not < w.": drawn(
                "1.... .1... ..1.. ...1. ....1"
            ),
        },
    )
    assert_close(
        student.make_mask("dilated", 5, w=1, s=2),
        drawn("1.1.. .1.1. 1.1.1 .1.1. ..1.1"),
        "the dilated mask with w=1, s=2",
        symptoms={
            "It should reach w * s places, in steps of s.": drawn("1.... .1... ..1.. ...1. ....1"),
        },
    )
    assert_close(
        student.make_mask("global", 5, g=1),
        drawn("11111 11... 1.1.. 1..1. 1...1"),
        "the global mask with g=1",
        symptoms={
            "The first rows are full, but who sees the global tokens? Columns, too.": drawn(
                "11111 .1... ..1.. ...1. ....1"
            ),
            "The first columns are full, but what do the global tokens see? Rows, too.": drawn(
                "1.... 11... 1.1.. 1..1. 1...1"
            ),
            "Every token should see itself.": drawn("11111 1.... 1.... 1.... 1...."),
        },
    )


@pytest.mark.exercise("masks")
def test_random_rows(student):
    """In the random mask each of six rows has itself and exactly two others; a seed repeats it."""
    mask = student.make_mask("random", 6, r=2, seed=0)
    assert_equal(mask.diagonal().tolist(), [True] * 6, "the diagonal")
    assert_equal(mask.sum(1).tolist(), [3] * 6, "the number of keys in each row")
    assert_close(student.make_mask("random", 6, r=2, seed=0), mask, "the mask of the same seed")


@pytest.mark.exercise("masks")
def test_union_and_unknown(student):
    """BigBird is the union of its three parts, and an unknown kind raises a ValueError."""
    parts = [
        student.make_mask("window", 9, w=1),
        student.make_mask("global", 9, g=1),
        student.make_mask("random", 9, r=1, seed=3),
    ]
    got = student.make_mask("bigbird", 9, w=1, g=1, r=1, seed=3)
    assert_close(got, parts[0] | parts[1] | parts[2], "the BigBird mask")
    with raises(ValueError):
        student.make_mask("circle", 4)


# --- blocked ---------------------------------------------------------------------------------


@probe
def largest_made(student, name, *args):
    """The size of the largest tensor that a call makes."""
    sizes = [0]

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(t, torch.Tensor):
                    sizes.append(t.numel())
            return out

    with torch.no_grad(), Watch():
        getattr(student, name)(*args)
    return max(sizes)


def assert_smaller(size, limit):
    """Shows size and limit where the size is not below the limit."""
    expected = f"fewer than {limit:,} numbers"
    assert_equal(expected if size < limit else f"{size:,} numbers", expected, "the largest tensor")


def masked(q, k, v, seen, scale=None):
    """Dense attention to what is seen."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return (q @ k.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ v


@pytest.mark.exercise("blocked")
def test_equals_the_masked(student):
    """`local_attention` gives what masked attention gives, for seven tokens and windows 0 to 8."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 7, 4)
    i = torch.arange(7)
    gap = (i[:, None] - i).abs()
    for w in (2, 3, 1, 0, 8):
        assert_close(
            student.local_attention(q, k, v, w),
            masked(q, k, v, gap <= w),
            f"the output for w={w}",
            symptoms={
                "The division by √d is missing.": masked(q, k, v, gap <= w, 1.0),
                "It sees its own block only; the window reaches into the neighbours.": masked(
                    q, k, v, i[:, None] // max(w, 1) == i // max(w, 1)
                ),
            },
        )


@pytest.mark.exercise("blocked")
def test_no_square(student):
    """For 200 tokens and a window of 2, no tensor has 200 * 200 / 2 numbers."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 200, 4)
    size = student.run(largest_made, "local_attention", q, k, v, 2)
    assert_smaller(size, 200 * 100)


# --- cluster ---------------------------------------------------------------------------------


@pytest.mark.exercise("cluster")
def test_two_tables(student):
    """Each query averages the values of its own label; a label without keys gives zeros."""
    q, k = torch.zeros(4, 2), torch.zeros(5, 2)
    v = torch.tensor([[1.0], [2.0], [10.0], [3.0], [30.0]])
    labels_q, labels_k = torch.tensor([7, 0, 7, 5]), torch.tensor([0, 0, 7, 0, 7])
    assert_close(
        student.cluster_attention(q, k, v, labels_q, labels_k),
        torch.tensor([[20.0], [2.0], [20.0], [0.0]]),
        symptoms={
            "The rows come out sorted by label; they should be in the order of the "
            "queries.": torch.tensor([[2.0], [0.0], [20.0], [20.0]]),
            "The labels are ignored: every query sees all keys.": v.mean().expand(4, 1),
        },
    )


@pytest.mark.exercise("cluster")
def test_one_cluster_is_full(student):
    """If all labels are equal, it is full attention, with its √d."""
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 5, 4)
    ones = torch.ones(5, dtype=torch.long)
    assert_close(
        student.cluster_attention(q, k, v, ones, ones),
        (q @ k.T / 2).softmax(-1) @ v,
        symptoms={"The division by √d is missing.": (q @ k.T).softmax(-1) @ v},
    )


# --- linformer -------------------------------------------------------------------------------


@pytest.mark.exercise("linformer")
def test_parameters_of_both(student):
    """The parameters of both layers have the names and shapes of the docstring."""
    shapes = {name: tuple(p.shape) for name, p in student.Linformer(6, 2, 4).named_parameters()}
    assert_equal(
        dict(sorted(shapes.items())),
        {
            "E_k": (2, 6),
            "E_v": (2, 6),
            "W_k.weight": (4, 4),
            "W_q.weight": (4, 4),
            "W_v.weight": (4, 4),
        },
        "the parameters of Linformer",
    )
    shapes = {name: tuple(p.shape) for name, p in student.Synthesizer(6, 4).named_parameters()}
    assert_equal(
        dict(sorted(shapes.items())),
        {"R": (6, 6), "W_v.weight": (4, 4)},
        "the parameters of Synthesizer",
    )


@probe
def with_identities(student, x):
    """A Linformer whose mixtures are the keys themselves, beside plain attention."""
    layer = student.Linformer(x.shape[1], x.shape[1], x.shape[2])
    with torch.no_grad():
        layer.E_k.copy_(torch.eye(x.shape[1]))
        layer.E_v.copy_(torch.eye(x.shape[1]))
        q, k, v = layer.W_q(x), layer.W_k(x), layer.W_v(x)
        return layer(x), q, k, v


@pytest.mark.exercise("linformer")
def test_identity_is_attention(student):
    """With the identity as both mixtures, `Linformer` is exact attention."""
    torch.manual_seed(2)
    x = 3 * torch.randn(2, 5, 4)
    got, q, k, v = student.run(with_identities, x)
    assert_close(
        got,
        F.scaled_dot_product_attention(q, k, v),
        symptoms={
            "The division by √d is missing.": (q @ k.mT).softmax(-1) @ v,
            "The softmax should run over the k mixtures, the last axis.": (q @ k.mT / 2).softmax(-2)
            @ v,
        },
    )


@probe
def planned(student, R, x):
    """A Synthesizer with given scores, and its values."""
    layer = student.Synthesizer(*x.shape[1:])
    with torch.no_grad():
        layer.R.copy_(R)
        return layer(x), layer.W_v(x)


@pytest.mark.exercise("linformer")
def test_seating_plan(student):
    """`Synthesizer` averages the values with the softmax of R; another length raises."""
    torch.manual_seed(3)
    R, x = 2 * torch.randn(3, 3), torch.randn(1, 3, 2)
    got, values = student.run(planned, R, x)
    assert_close(
        got,
        R.softmax(-1) @ values,
        symptoms={
            "The softmax is missing.": R @ values,
            "The softmax should run along the rows of R.": R.softmax(0) @ values,
            "There is no dot product, so nothing to divide by √d.": (R / math.sqrt(2)).softmax(-1)
            @ values,
        },
    )
    for layer in (student.Linformer(6, 2, 4), student.Synthesizer(6, 4)):
        with raises(ValueError):
            layer(torch.zeros(1, 5, 4))


# --- linear ----------------------------------------------------------------------------------


@pytest.mark.exercise("linear")
def test_worked_example(student):
    """With features 1, 3, 2 for values 10, 20, 40, it gives the numbers of the worked example."""
    q = torch.zeros(1, 3, 1)  # elu(0) + 1 = 1
    k = torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1)
    v = torch.tensor([10.0, 20.0, 40.0]).view(1, 3, 1)
    assert_close(
        student.linear_attention(q, k, v),
        torch.full((1, 3, 1), 25.0),
        "the output where all see all",
        symptoms={
            "The sum is not divided by the sum of the weights.": torch.full((1, 3, 1), 150.0),
            "The + 1 in elu(x) + 1 is missing.": torch.full((1, 3, 1), 80 / 3),
        },
    )
    assert_close(
        student.linear_attention(q, k, v, causal=True),
        torch.tensor([10.0, 17.5, 25.0]).view(1, 3, 1),
        "the causal output",
        symptoms={
            "Only the numerator is summed up to i; the denominator, too, should be.": torch.tensor(
                [10 / 6, 70 / 6, 25.0]
            ).view(1, 3, 1),
            "`causal` makes no difference.": torch.full((1, 3, 1), 25.0),
        },
    )


@pytest.mark.exercise("linear")
def test_equals_the_square(student):
    """It equals the n x n way with the same features, without an n x n tensor."""
    torch.manual_seed(4)
    q, k, v = torch.randn(3, 2, 6, 3)
    A = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    for causal in (False, True):
        B = A.tril() if causal else A
        expected = B @ v / B.sum(-1, keepdim=True)
        assert_close(
            student.linear_attention(q, k, v, causal), expected, f"the output, causal={causal}"
        )
    q, k, v = torch.randn(3, 1, 200, 2)
    for causal in (False, True):
        size = student.run(largest_made, "linear_attention", q, k, v, causal)
        assert_smaller(size, 200 * 100)


# --- conv ------------------------------------------------------------------------------------


@pytest.mark.exercise("conv")
def test_one_tap(student):
    """A kernel that is 1 in its upper left corner takes the upper left neighbour of each pixel."""
    x = torch.arange(12.0).view(1, 3, 4)
    w = torch.zeros(1, 1, 3, 3)
    w[0, 0, 0, 0] = 1
    padded = F.pad(x[None], [1] * 4, mode="replicate")[0]
    assert_close(
        student.conv_as_attention(x, w),
        padded[:, :3, :4],
        symptoms={
            "It looks at the lower right neighbour: the kernel is flipped.": padded[:, 2:, 2:],
            "Outside is 0 here; the nearest pixel inside should be taken.": F.pad(x, [1] * 4)[
                :, :3, :4
            ],
            "Rows and columns are exchanged.": padded[:, 2:, :4],
        },
    )


@pytest.mark.exercise("conv")
def test_convolution(student):
    """`conv_as_attention` is a convolution with channels, on replicated borders."""
    torch.manual_seed(5)
    x, w = torch.randn(2, 4, 5), torch.randn(3, 2, 3, 3)
    expected = F.conv2d(F.pad(x[None], [1] * 4, mode="replicate"), w)[0]
    assert_close(student.conv_as_attention(x, w), expected)


@pytest.mark.exercise("conv")
def test_axes(student):
    """`axial_attention` attends along the height, then along the width of what came out."""
    torch.manual_seed(6)
    x = 2 * torch.randn(1, 3, 4, 2)

    def along(t):
        return (t @ t.mT / math.sqrt(2)).softmax(-1) @ t

    columns = along(x.transpose(1, 2)).transpose(1, 2)
    assert_close(
        student.axial_attention(x),
        along(columns),
        symptoms={
            "The width comes first here; the height should.": along(
                along(x).transpose(1, 2)
            ).transpose(1, 2),
            "It attends along the width twice.": along(along(x)),
            "The second step should start from the first one's result.": columns + along(x),
            "It attends along one axis only.": columns,
        },
    )


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_no_ring(student):
    """Token 0 sees itself only, and the last token is seen by nobody before it."""
    torch.manual_seed(7)
    x = torch.randn(1, 6, 2)
    got = student.look_back(x, x, x, 2)
    assert_close(got[:, 0], x[:, 0], "the output of token 0")
    changed = x.clone()
    changed[0, 5] = 3.0
    after = student.look_back(changed, changed, changed, 2)
    assert_close(after[:, :5], got[:, :5], "the outputs 0 to 4 after a change of token 5")


@pytest.mark.exercise("debug")
def test_looks_back(student):
    """It equals attention with a mask that shows a token and the w before it."""
    torch.manual_seed(8)
    q, k, v = torch.randn(3, 2, 7, 4)
    i = torch.arange(7)
    gap = i[:, None] - i
    for w in (0, 3, 9):
        expected = masked(q, k, v, (gap >= 0) & (gap <= w))
        assert_close(student.look_back(q, k, v, w), expected, f"the output for w={w}")
