"""Public checks of the chapter on tensors."""

import numpy as np
import pytest
import torch

from course.testing import assert_close, assert_equal, assert_true, probe, raises, randn, unchanged

HINTS = {
    "logspace": [
        "How many gaps lie between `steps` points? That is what (b - a) is divided by.",
        "Make t = 0 … 1 from `torch.arange(steps)` first; the case of one point needs its own line.",
        "With t from 0 to 1, the points are a·(1 - t) + b·t; `my_logspace` raises `base` to such points.",
    ],
    "normal4": [
        "If z comes from `torch.randn`, what are the mean and the standard deviation of mean + std·z?",
        "The only thing that changes between the four modes is the shape of z. "
        "`torch.broadcast_shapes` gives the common shape of two tensors.",
        "Collect the arguments that are tensors. None: use `size`. Else: z takes the common shape, and the "
        "dtype and device of a tensor. Pass `generator` to `torch.randn`.",
    ],
    "sharing": [
        "For `flat_view`: which of `view` and `reshape` refuses to copy? Its error is what you need.",
        "For `shares_memory`: first addresses differ for x and x[1:], so `data_ptr()` alone is not enough. "
        "Ask for the storage, or for the last address as well.",
        "`torch.as_tensor` turns an array into a tensor without a copy. The last element lies "
        "sum((n - 1) * s) positions after the first; two ranges overlap if each begins before the other ends.",
    ],
    "chunk": [
        "The size of a chunk is the length divided by n, rounded up. How do you round up with integers?",
        "`x.narrow(dim, start, length)` is a slice along any axis, and it knows negative axes.",
        "Both functions become short if you first write down the list of lengths, then the list of starts.",
    ],
    "grid": [
        "Make the x of one row of cells, and the y of one column, from `torch.arange`.",
        "`expand(h, w)` repeats the row downwards; the column needs a second axis before it can be repeated.",
        "Stack x and y along a new last axis, shape (h, w, 2), and reshape to one point a row.",
    ],
    "topk": [
        "`torch.sort` returns values and indices, along any axis and in either direction.",
        "`narrow(dim, 0, k)` takes the first k along any axis.",
        "Test k against `x.shape[dim]` before anything else; a slice would not complain.",
    ],
    "adamstep": [
        "Every line must end in a method with an underscore that is called on p, m or v. "
        "`m = …` only gives a new tensor the name m; the caller never sees it.",
        "m: `mul_`, then `add_` with `alpha`. v: `mul_`, then `addcmul_` with `value`. p: `addcdiv_` with a "
        "negative `value`.",
        "The correction of m is a number, so it can go into `value` of the last line: -lr / (1 - b1**t). "
        "The denominator is sqrt(v / (1 - b2**t)) + eps.",
    ],
    "debug": [
        "Print the shapes of `prediction`, `target`, and of their difference.",
        "(3, 1) minus (3,) is (3, 3): each prediction minus each target. Give both the same shape.",
    ],
}


# --- linspace and logspace -------------------------------------------------------------------


@pytest.mark.exercise("logspace")
def test_linspace_small(student):
    """Five numbers from 0 to 1 should be 0, 0.25, 0.5, 0.75, 1."""
    assert_close(
        student.my_linspace(0, 1, 5),
        torch.tensor([0, 0.25, 0.5, 0.75, 1]),
        rtol=1e-6,
        atol=1e-6,
        symptoms={
            "The end is missing: five points make four gaps, so divide by steps - 1.": torch.tensor(
                [0, 0.2, 0.4, 0.6, 0.8]
            ),
        },
    )
    assert_close(
        student.my_linspace(3, 1, 3), torch.tensor([3.0, 2.0, 1.0]), what="the row from 3 down to 1"
    )


@pytest.mark.exercise("logspace")
def test_linspace_one(student):
    """With one step only the first value should come, and steps should have no default."""
    assert_close(
        student.my_linspace(2, 5, 1),
        torch.tensor([2.0]),
        what="the result for one step",
        symptoms={"With one point there is no gap: 0/0 gives NaN.": torch.tensor([float("nan")])},
    )
    with raises(TypeError):
        student.my_linspace(0, 1)


@pytest.mark.exercise("logspace")
def test_logspace_small(student):
    """Four powers of ten from -2 to 1 should be 0.01, 0.1, 1, 10, and the base can be another."""
    assert_close(
        student.my_logspace(-2, 1, 4),
        torch.tensor([0.01, 0.1, 1, 10]),
        rtol=1e-5,
        symptoms={
            "These are powers of e; the default base is 10.": torch.tensor(
                [-2.0, -1.0, 0.0, 1.0]
            ).exp()
        },
    )
    assert_close(
        student.my_logspace(0, 4, 3, base=2.0),
        torch.tensor([1.0, 4.0, 16.0]),
        what="the row with base 2",
        rtol=1e-5,
        symptoms={"The base is not used.": torch.tensor([1.0, 1e2, 1e4])},
    )


# --- four modes of a normal sampler ----------------------------------------------------------


@pytest.mark.exercise("normal4")
def test_shapes(student):
    """The shape should be size for two numbers, else the common shape of mean and std."""
    row, column = torch.zeros(4), torch.ones(3, 1)
    assert_equal(
        tuple(student.sample_normal(0.0, 1.0, (2, 3)).shape), (2, 3), "the shape for two numbers"
    )
    assert_equal(
        tuple(student.sample_normal(row, 1.0).shape), (4,), "the shape for a tensor and a number"
    )
    assert_equal(
        tuple(student.sample_normal(0.0, column).shape),
        (3, 1),
        "the shape for a number and a tensor",
    )
    assert_equal(
        tuple(student.sample_normal(row, column).shape), (3, 4), "the shape for two tensors"
    )


@pytest.mark.exercise("normal4")
def test_statistics(student):
    """4000 draws with mean 3 and standard deviation 2 should have about these."""
    draws = student.sample_normal(3.0, 2.0, (4000,), generator=torch.Generator().manual_seed(1))
    assert_close(draws.double().mean().item(), 3.0, what="the mean", atol=0.2)
    assert_close(
        draws.double().std().item(),
        2.0,
        what="the standard deviation",
        atol=0.15,
        rtol=0,
        symptoms={"std is taken for the variance.": 2**0.5, "The spread is std squared.": 4.0},
    )


@pytest.mark.exercise("normal4")
def test_seed_and_errors(student):
    """The same seed should give the same draw; no size, or a negative std, is an error."""
    first, second = (
        student.sample_normal(0.0, 1.0, (3,), generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert_close(second, first, what="the second draw with the same seed")
    with raises((TypeError, ValueError)):
        student.sample_normal(0.0, 1.0)
    with raises((ValueError, RuntimeError)):
        student.sample_normal(0.0, -1.0, (2,))


# --- who owns the memory ---------------------------------------------------------------------


@probe
def answers_on_views(student):
    x = torch.arange(6.0).reshape(2, 3)
    a = np.zeros(3, dtype=np.float32)
    return {
        "x and x.t()": student.shares_memory(x, x.t()),
        "x and x[1:]": student.shares_memory(x, x[1:]),
        "x and x.clone()": student.shares_memory(x, x.clone()),
        "a and torch.from_numpy(a)": student.shares_memory(a, torch.from_numpy(a)),
        "a and torch.tensor(a)": student.shares_memory(a, torch.tensor(a)),
    }


@pytest.mark.exercise("sharing")
def test_shares_memory_small(student):
    """Views should share memory with their source, copies should not."""
    expected = {
        "x and x.t()": True,
        "x and x[1:]": True,
        "x and x.clone()": False,
        "a and torch.from_numpy(a)": True,
        "a and torch.tensor(a)": False,
    }
    assert_close(
        student.run(answers_on_views),
        expected,
        what="the answer",
        symptoms={
            "x and x[1:] begin at different addresses and share memory all the same.": {
                **expected,
                "x and x[1:]": False,
            },
            "Equal values do not prove that memory is shared: a clone is equal, too.": {
                **expected,
                "x and x[1:]": False,
                "x and x.t()": False,
                "x and x.clone()": True,
                "a and torch.tensor(a)": True,
            },
        },
    )


@probe
def writes_through(student):
    x = torch.arange(6.0).reshape(2, 3)
    flat, shared = student.flat_view(x)
    turned, turned_shared = student.flat_view(x.t())
    flat[0] = 9.0
    return [bool(shared), x[0, 0].item() == 9.0, bool(turned_shared), turned.tolist()]


@pytest.mark.exercise("sharing")
def test_flat_view_small(student):
    """A contiguous x should give a view, x.t() a copy in row-major order, and the flag should say which."""
    shared, seen, turned_shared, turned = student.run(writes_through)
    assert_equal(shared, True, "the flag for a contiguous x")
    assert_true(seen, "A write to flat should appear in a contiguous x: no copy is needed there.")
    assert_equal(turned_shared, False, "the flag for x.t()")
    assert_close(
        turned,
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0],
        what="the order of flat_view(x.t())",
        symptoms={
            "This is the order of the storage; wanted is the order of x.t(), row by row.": [
                0.0,
                1.0,
                2.0,
                3.0,
                4.0,
                5.0,
            ]
        },
    )


# --- chunk and split -------------------------------------------------------------------------


@pytest.mark.exercise("chunk")
def test_chunk_small(student):
    """Ten numbers in 4 chunks should have lengths 3, 3, 3, 1; in 6 chunks, five pieces of 2."""
    ten = torch.arange(10)
    assert_close(
        [len(piece) for piece in student.my_chunk(ten, 4)],
        [3, 3, 3, 1],
        what="the lengths",
        symptoms={
            "The size is rounded down; chunk rounds it up.": [2, 2, 2, 2, 2],
            "These sizes are balanced, as in tensor_split; chunk makes all but the last equal.": [
                3,
                3,
                2,
                2,
            ],
            "Something is left over at the end.": [3, 3, 3],
        },
    )
    assert_close(list(student.my_chunk(ten, 6)), list(ten.view(5, 2)), what="the pieces of 10 in 6")


@pytest.mark.exercise("chunk")
def test_split_small(student):
    """Sizes should be as given, and a list that does not add up is a ValueError."""
    ten = torch.arange(10)
    assert_close(
        [len(piece) for piece in student.my_split(ten, 4)],
        [4, 4, 2],
        what="the lengths for size 4",
        symptoms={"4 is the size of a piece, not the number of pieces.": [3, 3, 3, 1]},
    )
    pieces = student.my_split(ten, [1, 6, 3])
    assert_close(
        [p.tolist() for p in pieces],
        [[0], [1, 2, 3, 4, 5, 6], [7, 8, 9]],
        what="the pieces for [1, 6, 3]",
    )
    with raises(ValueError):
        student.my_split(ten, [3, 3])


@pytest.mark.exercise("chunk")
def test_last_axis(student):
    """dim should choose the axis, and -1 is the last one."""
    x = torch.arange(6).reshape(2, 3)
    left, right = x[:, :2], x[:, 2:]
    assert_close(
        list(student.my_chunk(x, 2, dim=-1)),
        [left, right],
        what="the pieces of my_chunk(x, 2, dim=-1)",
    )
    assert_close(
        list(student.my_split(x, [2, 1], dim=1)),
        [left, right],
        what="the pieces of my_split(x, [2, 1], dim=1)",
    )


# --- pixel centres ---------------------------------------------------------------------------


@pytest.mark.exercise("grid")
def test_two_by_three(student):
    """The centres of a 2 x 3 grid should come row by row, x first."""
    expected = torch.tensor(
        [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]
    )
    by_column = expected.reshape(2, 3, 2).transpose(0, 1).reshape(6, 2)
    assert_close(
        student.pixel_centres(2, 3),
        expected,
        symptoms={
            "The columns are (y, x); wanted is (x, y).": expected.flip(1),
            "These are corners; a centre is half a cell further.": expected - 0.5,
            "The cells come column by column; wanted is row by row.": by_column,
            "h and w are swapped.": torch.tensor(
                [[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5], [0.5, 2.5], [1.5, 2.5]]
            ),
        },
    )


@pytest.mark.exercise("grid")
def test_stride(student):
    """With stride 8 the first centre should be at (4, 4); an empty grid is a ValueError."""
    expected = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    assert_close(
        student.pixel_centres(1, 2, 8.0),
        expected,
        what="the result of pixel_centres(1, 2, 8.0)",
        symptoms={
            "Half a pixel was added after scaling; the half belongs to the cell, so scale it, too.": torch.tensor(
                [[0.5, 0.5], [8.5, 0.5]]
            ),
            "The stride is not used.": expected / 8,
        },
    )
    with raises(ValueError):
        student.pixel_centres(0, 3)


# --- topk ------------------------------------------------------------------------------------


@pytest.mark.exercise("topk")
def test_topk_small(student):
    """The two largest of 3, 1, 4, 2 should be 4 and 3, at positions 2 and 0."""
    x = torch.tensor([3.0, 1.0, 4.0, 2.0])
    with unchanged(x):
        values, indices = student.my_topk(x, 2)
    assert_close(
        values,
        torch.tensor([4.0, 3.0]),
        what="the values",
        symptoms={
            "These are the smallest.": torch.tensor([1.0, 2.0]),
            "The order is rising; the largest comes first.": torch.tensor([3.0, 4.0]),
            "These are the first two as they stood.": torch.tensor([3.0, 1.0]),
        },
    )
    assert_close(
        indices,
        torch.tensor([2, 0]),
        what="the indices",
        symptoms={
            "These are ranks: how many values are larger. Wanted are positions in x.": torch.tensor(
                [1, 3]
            )
        },
    )
    assert_close(
        student.my_topk(x, 1, largest=False)[0], torch.tensor([1.0]), what="the smallest value"
    )


@pytest.mark.exercise("topk")
def test_topk_dim(student):
    """dim should choose the axis; a k that is too large is an error."""
    x = torch.tensor([[1.0, 5.0], [4.0, 2.0], [3.0, 9.0]])
    assert_close(
        student.my_topk(x, 2, dim=0)[0],
        torch.tensor([[4.0, 9.0], [3.0, 5.0]]),
        what="the values along dim 0",
    )
    assert_close(
        student.my_topk(x, 1, dim=1)[0],
        torch.tensor([[5.0], [4.0], [9.0]]),
        what="the values along dim 1",
    )
    with raises((ValueError, RuntimeError, IndexError)):
        student.my_topk(x, 3)


# --- Adam ------------------------------------------------------------------------------------


@pytest.mark.exercise("adamstep")
def test_state(student):
    """After one step m should be (1 - b1)·g and v (1 - b2)·g², written into the tensors given."""
    p, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, -4.0])
    m, v, nothing = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    with unchanged(g):
        student.adam_inplace(p, g, m, v, 0.1, 0.9, 0.999, 1e-8, 1)
    assert_close(
        m,
        torch.tensor([0.05, -0.4]),
        what="the mean m",
        symptoms={
            "m has not changed: is it updated in place?": nothing,
            "The factor 1 - b1 is missing, or m is divided by it: m keeps the plain mean.": torch.tensor(
                [0.5, -4.0]
            ),
        },
    )
    assert_close(
        v,
        torch.tensor([0.00025, 0.016]),
        what="the mean v",
        atol=1e-8,
        symptoms={
            "v has not changed: is it updated in place?": nothing,
            "g is not squared.": torch.tensor([0.0005, -0.004]),
            "The factor 1 - b2 is missing, or v is divided by it: v keeps the plain mean.": torch.tensor(
                [0.25, 16.0]
            ),
        },
    )


@pytest.mark.exercise("adamstep")
def test_first_step(student):
    """The first step should move every parameter by lr, against the sign of its gradient."""
    p, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, -4.0])
    before, sign = p.clone(), g.sign()
    student.adam_inplace(p, g, torch.zeros(2), torch.zeros(2), 0.1, 0.9, 0.999, 1e-8, 1)
    assert_close(
        p,
        before - 0.1 * sign,
        what="the parameter p",
        symptoms={
            "p has not changed: is it updated in place?": before,
            "The step goes uphill: the sign is wrong.": before + 0.1 * sign,
            "The bias corrections 1 - b**t are missing.": before - 0.1 * 0.1 / 0.001**0.5 * sign,
        },
    )


# --- debug this ------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_mse(student):
    """Perfect predictions should have loss 0, and (3, 1) predictions the same loss as (3,)."""
    target = torch.tensor([1.0, 3.0, 5.0])
    assert_close(
        student.mse(target[:, None], target),
        torch.tensor(0.0),
        what="the loss of a perfect prediction",
        symptoms={"Each prediction is still compared with each target.": torch.tensor(16 / 3)},
    )
    prediction = randn(4, dtype=torch.float32)
    other = prediction + torch.tensor([1.0, -1.0, 3.0, 1.0])
    assert_close(student.mse(prediction, other), torch.tensor(3.0), what="the loss")
    with raises(ValueError):
        student.mse(torch.zeros(3, 1), torch.zeros(4))
