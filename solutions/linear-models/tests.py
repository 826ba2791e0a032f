"""Hidden tests of the chapter on linear, logistic and softmax regression."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler, PolynomialFeatures, StandardScaler
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_shape,
    assert_true,
    does_not_call,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- cost ------------------------------------------------------------------------------------


def squared(X, y, w, b, lam=0.0):
    """The cost, from the library's mean squared error."""
    return F.mse_loss(F.linear(X, w[None]).squeeze(1) + b, y) / 2 + lam / (2 * len(y)) * w.dot(w)


@pytest.mark.exercise("cost", points=4)
@pytest.mark.parametrize("m, n", [(7, 3), (1, 4), (20, 1), (5, 9)])
@pytest.mark.parametrize("lam", [0.0, 2.5])
def test_cost_equals_the_formula(student, device, m, n, lam):
    """`cost` should be half the mean squared error plus lam / 2m times the squared weights."""
    X, y, w, b = (randn(*s, device=device) for s in ((m, n), (m,), (n,), ()))
    with unchanged(X, y, w, b):
        got = student.cost(X, y, w, b, lam)
    assert_close(
        got,
        squared(X, y, w, b, lam),
        "the cost",
        symptoms={
            "The bias is penalised as well.": squared(X, y, w, b, lam) + lam * b * b / (2 * m),
            "The penalty is not divided by m.": squared(X, y, w, b) + lam * w.dot(w) / 2,
            "The ½ is missing.": 2 * squared(X, y, w, b, lam),
            "The bias is not used.": squared(X, y, w, 0.0, lam),
        },
    )


@pytest.mark.exercise("cost", points=4)
@pytest.mark.parametrize("m, n", [(8, 3), (1, 2), (13, 1), (4, 7)])
@pytest.mark.parametrize("lam", [0.0, 1.7])
def test_grad_equals_autograd(student, device, m, n, lam):
    """`grad` should be the derivative of the cost for the weights and for the bias."""
    X, y, w, b = (randn(*s, device=device) for s in ((m, n), (m,), (n,), ()))
    leaves = [w.clone().requires_grad_(), b.clone().requires_grad_()]
    dw, db = torch.autograd.grad(squared(X, y, *leaves, lam), leaves)
    with unchanged(X, y, w, b):
        got = student.grad(X, y, w, b, lam)
    assert_close(
        got[0],
        dw,
        "`dw`",
        symptoms={
            "The penalty is missing.": dw - lam * w / m,
            "The penalty's part is lam w / m.": dw + lam * w / m,
            "It points the other way: the error is prediction minus truth.": -dw,
            "The sum over the examples is not divided by m.": dw * m,
        },
    )
    assert_close(torch.as_tensor(got[1]), db, "`db`")


@pytest.mark.exercise("cost", points=2)
def test_cost_by_finite_differences(student):
    """`cost` should be differentiable, and finite differences of it should give `grad`."""
    X, y, w = randn(6, 3), randn(6), randn(3)
    b = randn().item()
    assert_same_gradients(
        lambda X, w: student.cost(X, y, w, b, 0.8), lambda X, w: squared(X, y, w, b, 0.8), X, w
    )
    step = 1e-5
    dw, db = student.grad(X, y, w, b, 0.8)
    for j in range(3):
        move = step * F.one_hot(torch.tensor(j), 3)
        rise = student.cost(X, y, w + move, b, 0.8) - student.cost(X, y, w - move, b, 0.8)
        assert_close(dw[j], rise / (2 * step), f"dw[{j}]", atol=1e-7)
    rise = student.cost(X, y, w, b + step, 0.8) - student.cost(X, y, w, b - step, 0.8)
    assert_close(torch.as_tensor(db), rise / (2 * step), "`db`", atol=1e-7)


@pytest.mark.exercise("cost", points=2)
def test_defaults_and_float32(student, device):
    """There should be no penalty by default, and float32 stays float32; b may be a number."""
    X, y, w = (randn(*s, dtype=torch.float32, device=device) for s in ((9, 4), (9,), (4,)))
    assert_close(student.cost(X, y, w, 0.5), squared(X, y, w, 0.5), "the cost")
    dw, db = student.grad(X, y, w, 0.5)
    leaf = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(squared(X, y, leaf, 0.5), leaf)
    assert_close(dw, expected, "`dw`")
    assert_close(torch.as_tensor(db), (X @ w + 0.5 - y).mean(), "`db`")


@pytest.mark.exercise("cost", points=3)
@pytest.mark.parametrize(
    "x, y, w", [((5, 3), (5, 1), (3,)), ((5, 3), (4,), (3,)), ((5, 3), (5,), (2,)),
                ((5, 3), (5,), (3, 1)), ((1, 3), (4,), (3,)), ((5, 3), (1,), (3,))]
)  # fmt: skip
def test_wrong_shapes(student, x, y, w):
    """Shapes that do not fit should raise a ValueError, also where broadcasting would hide it."""
    X, y, w = randn(*x), randn(*y), randn(*w)
    with raises(ValueError):
        student.cost(X, y, w, 0.0)
    with raises(ValueError):
        student.grad(X, y, w, 0.0)


# --- gd --------------------------------------------------------------------------------------


def descent(X, y, lr, max_steps, tol, patience):
    """Gradient descent as the docstring tells, in NumPy."""
    X, y = X.double().cpu().numpy(), y.double().cpu().numpy()
    theta, A = np.zeros(X.shape[1] + 1), np.c_[X, np.ones(len(X))]
    history, small = [np.mean(y**2) / 2], 0
    while len(history) <= max_steps and small < patience:
        theta = theta - lr * A.T @ (A @ theta - y) / len(y)
        history.append(np.mean((A @ theta - y) ** 2) / 2)
        small = small + 1 if history[-2] - history[-1] <= tol * history[-2] else 0
    return theta[:-1], theta[-1], history


def steepest(X):
    A = torch.cat([X, torch.ones(len(X), 1).to(X)], dim=1)
    return torch.linalg.eigvalsh(A.T @ A / len(X))[-1].item()


@pytest.mark.exercise("gd", points=5)
@pytest.mark.parametrize("m, n, steps", [(9, 2, 1), (6, 4, 7), (1, 3, 3), (12, 1, 20), (5, 2, 0)])
def test_every_step(student, device, m, n, steps):
    """`fit` should make plain gradient descent on the halved mean squared error, from zeros."""
    X, y = randn(m, n, device=device), randn(m, device=device) + 2
    lr = 0.8 / steepest(X)
    w, b, history = descent(X, y, lr, steps, 0.0, steps + 1)
    with unchanged(X, y):
        got = student.fit(X, y, lr, steps, 0.0, steps + 1)
    assert_close(got[0], torch.tensor(w, device=device), "`w`")
    assert_close(torch.as_tensor(got[1]), torch.tensor(b, dtype=X.dtype, device=device), "`b`")
    assert_equal(len(got[2]), steps + 1, "the number of costs")
    assert_equal({type(J).__name__ for J in got[2]}, {"float"}, "the types of the costs")
    assert_close(list(got[2]), [float(J) for J in history], "the history")


@pytest.mark.exercise("gd", points=4)
@pytest.mark.parametrize("m, n", [(40, 3), (25, 1), (60, 5)])
def test_reaches_least_squares(student, device, m, n):
    """On scaled data `fit` should reach the least-squares solution, the cost falling all the way."""
    X = randn(m, n, device=device)
    X = (X - X.mean(0)) / X.std(0)
    y = X @ randn(n, device=device) + 1.5 + 0.3 * randn(m, device=device)
    A = torch.cat([X, torch.ones(m, 1).to(X)], dim=1)
    expected = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    w, b, history = student.fit(X, y, 1 / steepest(X), 1500, 1e-13, 5)
    assert_close(w, expected[:-1], "`w`", atol=1e-4)
    assert_close(torch.as_tensor(b), expected[-1], "`b`", atol=1e-4)
    rises = max(b - a for a, b in zip(history, history[1:], strict=False))
    assert_true(rises <= 1e-12, f"The cost rises by {rises:.2g} in some step.")


@pytest.mark.exercise("gd", points=5)
@pytest.mark.parametrize(
    "tol, patience", [(1e-2, 1), (1e-2, 4), (1e-5, 1), (1e-5, 3), (0.3, 2), (1.0, 3), (1e-3, 10)]
)
def test_when_it_stops(student, tol, patience):
    """`fit` should stop right after `patience` steps in a row that are small."""
    X, y = randn(30, 2), randn(30) + 1
    lr = 0.3 / steepest(X)
    _, _, history = descent(X, y, lr, 400, tol, patience)
    got = student.fit(X, y, lr, 400, tol, patience)
    _, _, first = descent(X, y, lr, 400, tol, 1)
    assert_close(
        len(got[2]),
        len(history),
        "the number of costs",
        symptoms={
            "It stops at the first small step, whatever the patience.": len(first),
            "It never stops before max_steps.": 401,
            "It stops one step too early.": len(history) - 1,
            "It stops one step too late.": len(history) + 1,
        },
    )
    assert_close(list(got[2]), [float(J) for J in history], "the history")


@pytest.mark.exercise("gd", points=2)
def test_perfect_fit_stops(student):
    """Where the cost reaches 0 exactly, `fit` should stop; equal to `tol` times it is small."""
    X, y = torch.zeros(4, 2).double(), torch.zeros(4).double()
    w, _, history = student.fit(X, y, 0.1, 50, 0.0, 3)
    assert_equal(len(history), 4, "the number of costs for zeros and patience 3")
    assert_close(w, torch.zeros(2).double(), "`w`")
    # Halving the error each step: the cost falls by exactly three quarters of itself.
    X, y = torch.zeros(2, 1).double(), torch.full((2,), 8.0).double()
    _, _, history = student.fit(X, y, 0.5, 50, 0.75, 2)
    assert_equal(len(history), 3, "the number of costs where each step falls by exactly tol")
    # With tol = 1 any step that does not rise is small, whatever happened before.
    _, _, history = student.fit(X, y, 0.5, 50, 0.5, 1)
    assert_equal(history[1], 8.0, "the cost after one step")
    assert_true(len(history) > 10, f"It stopped after {len(history) - 1} steps, all of them large.")


@pytest.mark.exercise("gd", points=3)
@pytest.mark.parametrize("factor", [2.05, 3.0, 40.0, 1e200])
def test_divergence(student, factor):
    """Above 2 / c_max `fit` should raise a FloatingPointError instead of returning the weights."""
    X, y = randn(20, 3), randn(20) + 3
    with raises(FloatingPointError):
        student.fit(X, y, factor / steepest(X), 3000, 0.0, 3001)
    with raises(FloatingPointError):  # after the first step already; patience does not forgive it
        student.fit(torch.ones(2, 1).double(), torch.ones(2).double(), 1.2, 1, 0.0, 1)


@pytest.mark.exercise("gd", points=1)
def test_just_below_the_limit(student, device):
    """Just below 2 / c_max there should be no error; float32 data gives float32 weights."""
    X, y = randn(20, 3, device=device), randn(20, device=device) + 3
    lr = 1.98 / steepest(X)
    w, _, _ = student.fit(X, y, lr, 60, 0.0, 61)
    assert_close(w, torch.tensor(descent(X, y, lr, 60, 0.0, 61)[0], device=device), "`w`")
    low = [t.float() for t in (X, y)]
    w, b, _ = student.fit(*low, 0.1, 5, 0.0, 6)
    expected = descent(*low, 0.1, 5, 0.0, 6)
    assert_close(w, torch.tensor(expected[0], dtype=torch.float32, device=device), "`w` in float32")
    assert_close(
        torch.as_tensor(b), torch.tensor(expected[1], dtype=torch.float32, device=device), "b"
    )


# --- scaler ----------------------------------------------------------------------------------


@probe
def scaled(student, kind, X, new):
    """A table scaled, another one scaled likewise, the second and the first one back again."""
    scaler = student.Scaler(kind)
    same = scaler.fit(X) is scaler
    Z, other = scaler.transform(X), scaler.transform(new)
    return [Z, other, scaler.inverse_transform(Z), scaler.inverse_transform(other), same]


def expected_scaling(kind, X, new):
    low, high = X.min(0).values, X.max(0).values
    if kind == "mean":
        width = torch.where(high > low, high - low, 1.0)
        return (X - X.mean(0)) / width, (new - X.mean(0)) / width
    library = {"max": MaxAbsScaler, "zscore": StandardScaler}[kind]().fit(X.cpu().numpy())
    return [torch.from_numpy(library.transform(t.cpu().numpy())).to(X) for t in (X, new)]


@pytest.mark.exercise("scaler", points=3)
@pytest.mark.parametrize("kind", ["max", "mean", "zscore"])
@pytest.mark.parametrize("m, n", [(7, 3), (30, 1), (2, 5)])
def test_three_kinds(student, device, kind, m, n):
    """Each kind should equal its formula (scikit-learn's, where it has one), and be undone."""
    X = 3 * randn(m, n, device=device) - 5 * rand(n, device=device)
    with unchanged(X):
        Z, _, back, _, same = student.run(scaled, kind, X, X[:1])
    expected, _ = expected_scaling(kind, X, X)
    assert_close(
        Z,
        expected,
        f"the scaled table for {kind!r}",
        symptoms={
            "The standard deviation divides by m - 1; it should divide by m.": (X - X.mean(0))
            / X.std(0),
            "The largest size counts, without its sign.": X / X.amax(0),
            "This is min-max scaling: subtract the mean.": (X - X.amin(0))
            / (X.amax(0) - X.amin(0)),
            "The mean is over the whole table; each column has its own.": (X - X.mean()) / X.std(),
        },
    )
    assert_close(back, X, "the table after inverse_transform")
    assert_equal(same, True, "whether `fit` returns the scaler itself")


@pytest.mark.exercise("scaler", points=3)
@pytest.mark.parametrize("kind", ["max", "mean", "zscore"])
@pytest.mark.parametrize("rows", [1, 4])
def test_new_data_uses_old_numbers(student, device, kind, rows):
    """New rows should be scaled with the numbers of the table that `fit` has seen."""
    X, new = randn(11, 3, device=device) + 2, 4 * randn(rows, 3, device=device)
    _, got, _, back, _ = student.run(scaled, kind, X, new)
    _, expected = expected_scaling(kind, X, new)
    assert_close(
        got,
        expected,
        "the new rows",
        symptoms={
            "They are scaled by their own numbers.": expected_scaling(kind, new, new)[0],
        },
    )
    assert_close(back, new, "the new rows after inverse_transform")


@pytest.mark.exercise("scaler", points=2)
@pytest.mark.parametrize("value", [0.1, 0.0, -7.0, 1e6])
@pytest.mark.parametrize("kind", ["mean", "zscore"])
def test_constant_column(student, device, kind, value):
    """A constant column should become zeros, without nan, whatever its value; also one row alone."""
    X = randn(7, 3, device=device)
    X[:, 1] = value
    Z, new, back, _, _ = student.run(scaled, kind, X, X[:2] + 1)
    zeros = torch.zeros(7, device=device).double()
    assert_close(Z[:, 1], zeros, "the constant column", atol=1e-6)
    assert_close(new[:, 1], torch.ones(2, device=device).double(), "a new value, one larger,")
    assert_close(back, X, "the table after inverse_transform")
    single, _, _, _, _ = student.run(scaled, kind, X[:1], X[:1])
    assert_close(single, torch.zeros(1, 3, device=device).double(), "a table of one row", atol=1e-6)
    alone, _, back, _, _ = student.run(scaled, kind, X[:, 1:2], X[:, 1:2])
    assert_close(alone, zeros[:, None], "a table of one constant column", atol=1e-6)
    assert_close(back, X[:, 1:2], "that table after inverse_transform")


@pytest.mark.exercise("scaler", points=1)
def test_zeros_and_float32(student, device):
    """For "max" a column of zeros should stay zeros; float32 stays float32."""
    X = randn(6, 3, dtype=torch.float32, device=device)
    X[:, 2] = 0
    X[:, 1] = -X[:, 1].abs()
    Z, _, _, _, _ = student.run(scaled, "max", X, X)
    assert_close(Z, expected_scaling("max", X, X)[0].float(), "the table for 'max'")
    Z, _, _, _, _ = student.run(scaled, "zscore", X, X)
    assert_close(Z, expected_scaling("zscore", X, X)[0].float(), "the table for 'zscore'")


@probe
def early(student, kind, method):
    """The type of the error that a scaler raises before fit, or nothing."""
    try:
        getattr(student.Scaler(kind), method)(torch.ones(2, 2))
    except NotImplementedError:  # a stub
        raise
    except Exception as error:
        return type(error).__name__
    return "no error"


@pytest.mark.exercise("scaler", points=1)
@pytest.mark.parametrize("kind", ["max", "mean", "zscore"])
def test_errors(student, kind):
    """Before `fit`, both transforms should raise a RuntimeError; unknown kinds a ValueError."""
    for method in ("transform", "inverse_transform"):
        assert_equal(student.run(early, kind, method), "RuntimeError", f"{method} before fit")
    for wrong in ("minmax", "", "z-score"):
        with raises(ValueError):
            student.Scaler(wrong)


# --- logistic --------------------------------------------------------------------------------


@pytest.mark.exercise("logistic", points=4)
@pytest.mark.parametrize("shape", [(7,), (1,), (4, 3), ()])
def test_loss_equals_bce(student, device, shape):
    """`logistic_loss` should equal the library's loss for logits of any shape."""
    z, y = 4 * randn(*shape, device=device), randint(0, 2, shape, device=device).double()
    with unchanged(z, y):
        got = student.logistic_loss(z, y)
    assert_close(
        got,
        F.binary_cross_entropy_with_logits(z, y),
        "the loss",
        symptoms={
            "This is the sum; take the mean.": F.binary_cross_entropy_with_logits(
                z, y, reduction="sum"
            ),
            "The labels 0 and 1 are swapped.": F.binary_cross_entropy_with_logits(z, 1 - y),
            "The sigmoid is taken twice.": F.binary_cross_entropy_with_logits(z.sigmoid(), y),
        },
    )


@pytest.mark.exercise("logistic", points=3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_far_out(student, device, dtype):
    """At z = 200 and -200 the loss should be exact, without inf or nan, and so its slope."""
    z = torch.tensor([200.0, -200.0, 200.0, -200.0, 90.0, -750.0], dtype=dtype, device=device)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0], dtype=dtype, device=device)
    one_by_one = torch.stack([student.logistic_loss(z[i], y[i]) for i in range(6)])
    expected = torch.tensor([200.0, 200.0, 0.0, 0.0, 90.0, 750.0]).to(z)
    assert_close(one_by_one, expected, "the losses")
    z.requires_grad_()
    (slope,) = torch.autograd.grad(student.logistic_loss(z, y), z)
    assert_close(slope, torch.tensor([1.0, -1, 0, 0, 1, -1]).to(z) / 6, "the slopes")


@pytest.mark.exercise("logistic", points=3)
def test_loss_gradient(student, device):
    """The slope should be (sigmoid(z) - y) / m everywhere, z = 0 included."""
    z = torch.tensor([0.0, 0.0, 1.0, -2.0, 0.3], device=device).double().requires_grad_()
    y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], device=device).double()
    (slope,) = torch.autograd.grad(student.logistic_loss(z, y), z)
    assert_close(slope, (z.detach().sigmoid() - y) / 5, "the slope")
    z = randn(3, 4, device=device)
    y = randint(0, 2, (3, 4), device=device).double()
    assert_same_gradients(
        lambda z: student.logistic_loss(z, y),
        lambda z: F.binary_cross_entropy_with_logits(z, y),
        z,
    )


def two_clouds(m, n, device):
    y = (torch.arange(m, device=device) % 2).double()
    y[: m // 8] = 1  # the classes are not equally large
    X = randn(m, n, device=device)
    return X + 0.8 * y[:, None], y


@pytest.mark.exercise("logistic", points=6)
@pytest.mark.parametrize("m, n, lam", [(60, 2, 1.0), (40, 4, 0.1), (51, 1, 8.0), (90, 3, 40.0)])
def test_minimum_is_scikit_learns(student, device, m, n, lam):
    """`fit_logistic` should end at the minimum: scikit-learn's with C = 1 / lam."""
    X, y = two_clouds(m, n, device)
    with unchanged(X, y):
        w, b = student.fit_logistic(X, y, lam)
    assert_shape(w, (n,), "`w`")
    assert_equal(w.requires_grad, False, "requires_grad of w")
    library = LogisticRegression(C=1 / lam, tol=1e-10, max_iter=2000).fit(
        X.cpu().numpy(), y.cpu().numpy()
    )
    assert_close(w, torch.tensor(library.coef_[0]).to(X), "`w`", atol=1e-3)
    assert_close(torch.as_tensor(b), torch.tensor(library.intercept_[0]).to(X), "`b`", atol=1e-3)
    p = torch.sigmoid(X @ w + b)
    slope = torch.cat([(X.T @ (p - y) + lam * w) / m, (p - y).mean()[None]])
    assert_close(slope, torch.zeros(n + 1).to(X), "the gradient at your answer", atol=2e-6)


@pytest.mark.exercise("logistic", points=2)
def test_separated_classes(student):
    """Separated classes should have a minimum thanks to the penalty; float32 works as well."""
    X = torch.tensor([[-2.0, 0.3], [-1.0, -0.2], [1.5, 0.1], [2.0, -0.4], [1.0, 0.6]])
    y = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    library = LogisticRegression(C=1 / 0.5, tol=1e-10, max_iter=2000).fit(X.numpy(), y.numpy())
    for table, labels in ((X, y), (X.double(), y.double())):
        w, b = student.fit_logistic(table, labels, 0.5)
        assert_close(w, torch.tensor(library.coef_[0]).to(table), "`w`", atol=2e-3)
        assert_close(
            torch.as_tensor(b), torch.tensor(library.intercept_[0]).to(table), "`b`", atol=2e-3
        )


@pytest.mark.exercise("logistic", points=2)
@pytest.mark.parametrize("bad", [-1.0, 2.0, 0.5])
def test_labels_must_be_zero_or_one(student, bad):
    """A label other than 0 and 1 should raise a ValueError, even a single one."""
    X, y = two_clouds(12, 2, "cpu")
    y[5] = bad
    with raises(ValueError):
        student.fit_logistic(X, y, 1.0)


# --- boundary --------------------------------------------------------------------------------


@pytest.mark.exercise("boundary", points=3)
@pytest.mark.parametrize("shape", [(5,), (1,), (), (2, 3)])
def test_probability_is_one_half(student, device, shape):
    """Every point (x1, x2) of the boundary should have the probability 1/2; gradients flow."""
    w, b, x1 = randn(2, device=device), randn(device=device), 3 * randn(*shape, device=device)
    with unchanged(w, x1):
        x2 = student.boundary_x2(w, b, x1)
    assert_close(
        x2,
        -(w[0] * x1 + b) / w[1],
        "`x2`",
        symptoms={
            "The sign is turned.": (w[0] * x1 + b) / w[1],
            "The bias changes its sign, too.": (b - w[0] * x1) / w[1],
            "w1 and w2 are swapped.": -(w[1] * x1 + b) / w[0],
        },
    )
    p = torch.sigmoid(w[0] * x1 + w[1] * x2 + b)
    assert_close(p, torch.full(shape, 0.5, device=device).double(), "the probability there")
    assert_same_gradients(
        lambda x1: student.boundary_x2(w, b, x1), lambda x1: -(w[0] * x1 + b) / w[1], x1
    )


@pytest.mark.exercise("boundary", points=2)
def test_vertical_and_horizontal(student):
    """w2 = 0 should raise a ValueError; w1 = 0 and tiny or negative w2 are fine; b may be a number."""
    x1 = randn(4)
    for first in (1.0, 0.0, -2.0):
        with raises(ValueError):
            student.boundary_x2(torch.tensor([first, 0.0]).double(), 0.7, x1)
    flat = student.boundary_x2(torch.tensor([0.0, -2.0]).double(), 3.0, x1)
    assert_close(flat, torch.full((4,), 1.5).double(), "`x2` for w1 = 0")
    steep = student.boundary_x2(torch.tensor([1.0, 1e-6]).double(), 0.5, x1)
    assert_close(steep, -(x1 + 0.5) * 1e6, "`x2` for w2 = 1e-6")
    low = student.boundary_x2(torch.tensor([1.0, 0.5]), torch.tensor(2.0), x1.float())
    assert_close(low, -2 * (x1.float() + 2), "`x2` in float32")


@pytest.mark.exercise("boundary", points=3)
@pytest.mark.parametrize("m", [1, 2, 6, 13])
def test_features_equal_scikit_learns(student, device, m):
    """`quadratic_features` should equal scikit-learn's PolynomialFeatures(2) without the 1."""
    X = 2 * randn(m, 2, device=device)
    with unchanged(X):
        got = student.quadratic_features(X)
    expected = PolynomialFeatures(2, include_bias=False).fit_transform(X.cpu().numpy())
    expected = torch.from_numpy(expected).to(X)
    assert_close(
        got,
        expected,
        "the features",
        symptoms={
            "The order should be x1, x2, x1², x1 x2, x2².": expected[:, [0, 1, 2, 4, 3]],
            "The product counts once.": expected * torch.tensor([1.0, 1, 1, 2, 1]).to(X),
        },
    )


@pytest.mark.exercise("boundary", points=1)
def test_a_ring_is_separated(student):
    """A linear model on the quadratic features should separate a disc from the ring around it."""
    angle, y = 6.2832 * rand(60), torch.arange(60) % 2
    radius = 0.3 + 0.5 * rand(60) + y
    X = torch.stack([radius * angle.cos() + 1, radius * angle.sin() - 2], dim=1)
    features = student.quadratic_features(X)
    assert_shape(features, (60, 5), "the features")
    model = LogisticRegression(C=1e4, max_iter=5000).fit(features.numpy(), y.numpy())
    assert_equal(model.score(features.numpy(), y.numpy()), 1.0, "the share that is right")


@pytest.mark.exercise("boundary", points=1)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_two_columns(student, n):
    """A table without exactly two columns should raise a ValueError; gradients flow through it."""
    with raises(ValueError):
        student.quadratic_features(randn(4, n))
    assert_same_gradients(
        student.quadratic_features,
        lambda X: torch.cat([X, X[:, :1] ** 2, X.prod(1, keepdim=True), X[:, 1:] ** 2], dim=1),
        randn(3, 2),
    )


# --- softmax ---------------------------------------------------------------------------------


@pytest.mark.exercise("softmax", points=4)
@pytest.mark.parametrize("m, K", [(6, 4), (1, 3), (9, 2), (3, 11), (4, 1)])
def test_loss_equals_cross_entropy(student, device, m, K):
    """`softmax_ce` should equal F.cross_entropy in value and gradient, for any sizes."""
    z, y = 2 * randn(m, K, device=device), randint(0, K, (m,), device=device)
    with unchanged(z, y):
        got = student.softmax_ce(z, y)
    assert_close(
        got,
        F.cross_entropy(z, y),
        "the loss",
        symptoms={
            "This is the sum; take the mean.": F.cross_entropy(z, y, reduction="sum"),
            "The sign is turned.": -F.cross_entropy(z, y),
            "The softmax is taken twice.": F.cross_entropy(z.softmax(1), y),
            "The mean is over all m times K entries.": F.cross_entropy(z, y) / K,
        },
    )
    assert_same_gradients(lambda z: student.softmax_ce(z, y), lambda z: F.cross_entropy(z, y), z)


@pytest.mark.exercise("softmax", points=4)
@pytest.mark.parametrize("m, K", [(5, 4), (1, 6), (8, 2), (3, 9)])
def test_gradient_equals_autograd(student, device, m, K):
    """`softmax_grad` should be the gradient of the library's loss: (p - one-hot) / m."""
    z, y = 2 * randn(m, K, device=device), randint(0, K, (m,), device=device)
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(leaf, y), leaf)
    with unchanged(z, y):
        got = student.softmax_grad(z, y)
    assert_close(
        got,
        expected,
        "the gradient",
        symptoms={
            "Divide by m: the loss is a mean.": expected * m,
            "The sign is turned.": -expected,
            "The truth is not subtracted.": z.softmax(1) / m,
            "The softmax runs over the examples.": (z.softmax(0) - F.one_hot(y, K)) / m,
        },
    )


@pytest.mark.exercise("softmax", points=3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_overflow(student, device, dtype):
    """Logits of 1000 or -1000, and a constant added to all, should make no difference."""
    z, y = randn(5, 3, dtype=dtype, device=device), torch.tensor([0, 1, 2, 2, 0], device=device)
    for constant in (1000.0, -1000.0):
        tol = 1e-3 if dtype == torch.float32 else 1e-9
        moved = z + constant
        loss, grad = student.softmax_ce(moved, y), student.softmax_grad(moved, y)
        assert_close(loss, F.cross_entropy(z, y), f"the loss at {constant:+g}", atol=tol)
        expected = (z.softmax(1) - F.one_hot(y, 3)) / 5
        assert_close(grad, expected.to(z), f"the gradient at {constant:+g}", atol=tol)
    far = torch.tensor([[1000.0, 0.0, -1000.0]], dtype=dtype, device=device)
    for k, loss in enumerate([0.0, 1000.0, 2000.0]):
        label = torch.tensor([k], device=device)
        assert_close(
            student.softmax_ce(far, label), torch.tensor(loss).to(far), f"the loss of class {k}"
        )


@pytest.mark.exercise("softmax", points=2)
def test_two_classes_are_logistic(student):
    """Two classes should give the logistic loss and slope of the difference of the logits."""
    z, y = randn(7, 2), randint(0, 2, (7,))
    d = z[:, 1] - z[:, 0]
    expected = F.binary_cross_entropy_with_logits(d, y.double())
    assert_close(student.softmax_ce(z, y), expected, "the loss")
    slope = (d.sigmoid() - y) / 7
    assert_close(student.softmax_grad(z, y), torch.stack([-slope, slope], 1), "the gradient")


@pytest.mark.exercise("softmax", points=1)
@pytest.mark.parametrize("bad", [-1, 3, -100])
def test_unknown_classes(student, bad):
    """A class below 0 or above K - 1 should raise a ValueError in both functions."""
    z, y = randn(4, 3), torch.tensor([0, 2, bad, 1])
    for function in (student.softmax_ce, student.softmax_grad):
        with raises(ValueError):
            function(z, y)


@pytest.mark.exercise("softmax", points=1)
def test_by_hand(student):
    """Neither function should call the library's softmax, loss or autograd."""
    z, y = randn(4, 3, requires_grad=True), randint(0, 3, (4,))
    with does_not_call(student, "softmax", "log_softmax", "cross_entropy", "nll_loss", "backward"):
        loss, grad = student.softmax_ce(z, y), student.softmax_grad(z.detach(), y)
    assert_close(loss.detach(), F.cross_entropy(z, y).detach(), "the loss")
    assert_close(grad.sum(1), torch.zeros(4).double(), "the sum of each row of the gradient")


# --- linear ----------------------------------------------------------------------------------


@probe
def run_layer(student, weight, bias, x, dy):
    """A layer with given numbers: shapes, output, and gradients of sum(dy * output)."""
    layer = student.MyLinear(weight.shape[1], weight.shape[0], bias is not None)
    layer.to(weight.device, weight.dtype)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    shapes = {name: list(value.shape) for name, value in layer.state_dict().items()}
    if shapes != {name: list(value.shape) for name, value in state.items()}:
        return shapes, None, None
    layer.load_state_dict(state)
    x = x.clone().requires_grad_()
    y = layer(x)
    leaves = [x, *layer.parameters()]
    grads = torch.autograd.grad((y * dy).sum(), leaves, allow_unused=True)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    return (
        shapes,
        y.detach(),
        {
            n: torch.zeros_like(p) if g is None else g
            for n, p, g in zip(names, leaves, grads, strict=True)
        },
    )


@probe
def made_layer(student, in_features, out_features, bias):
    """State of a new layer, names of its parameters, and whether its bias is None."""
    torch.manual_seed(4)
    one = student.MyLinear(in_features, out_features, bias)
    two = student.MyLinear(in_features, out_features, bias)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    names = sorted(name for name, p in one.named_parameters() if p.requires_grad)
    differ = not torch.equal(one.weight, two.weight)
    return state, names, one.bias is None, differ, isinstance(one, nn.Module)


def shapes_of(weight, bias):
    shapes = {"weight": list(weight.shape)}
    return shapes if bias is None else shapes | {"bias": list(bias.shape)}


SHAPES = [((4, 3), 3, 5), ((1, 2), 2, 1), ((2, 6, 3), 3, 4), ((3,), 3, 2), ((2, 1, 3, 2), 2, 7)]


@pytest.mark.exercise("linear", points=3)
@pytest.mark.parametrize("shape, inside, outside", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_equals_linear(student, device, shape, inside, outside, bias):
    """With the same numbers, MyLinear should give what nn.Linear gives, on inputs of any rank."""
    x, w = randn(*shape, device=device), randn(outside, inside, device=device)
    b = randn(outside, device=device) if bias else None
    expected = F.linear(x, w, b)
    shapes, y, _ = student.run(run_layer, w, b, x, torch.ones_like(expected))
    assert_equal(shapes, shapes_of(w, b), "the shapes in the state_dict")
    assert_close(y, expected, symptoms={"The bias is missing.": F.linear(x, w)})


@pytest.mark.exercise("linear", points=3)
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_linears(student, device, shape, bias):
    """The gradients for input, weight and bias should equal nn.Linear's."""
    x, w = randn(*shape, device=device), randn(4, 3, device=device)
    layer = nn.Linear(3, 4, bias).to(device, torch.float64)
    b = layer.bias.detach() if bias else None
    with torch.no_grad():
        layer.weight.copy_(w)
    dy = randn(*shape[:-1], 4, device=device)
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *layer.parameters()]
    expected = torch.autograd.grad((layer(leaf) * dy).sum(), wanted)
    shapes, _, got = student.run(run_layer, w, b, x, dy)
    assert_equal(shapes, shapes_of(w, b), "the shapes in the state_dict")
    names = ["x", "weight", "bias"][: len(expected)]
    assert_equal(sorted(got), sorted(names), "what has a gradient")
    for name, value in zip(names, expected, strict=True):
        assert_close(got[name], value, f"the gradient for {name}")


@pytest.mark.exercise("linear", points=2)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters(student, bias):
    """The state_dict should have weight (out, in) and, if wanted, bias (out,); else bias is None."""
    state, names, none, differ, module = student.run(made_layer, 6, 4, bias)
    shapes = {name: list(value.shape) for name, value in state.items()}
    expected = {"weight": [4, 6], "bias": [4]} if bias else {"weight": [4, 6]}
    assert_equal(shapes, expected, "the shapes in the state_dict")
    assert_equal(names, sorted(expected), "the names of the parameters")
    assert_equal(none, not bias, "whether bias is None")
    assert_equal(differ, True, "whether two new layers have different weights")
    assert_equal(module, True, "whether MyLinear is an nn.Module")


@pytest.mark.exercise("linear", points=2)
@pytest.mark.parametrize("inside", [4, 100])
def test_start(student, inside):
    """Weight and bias should start uniform between -1/sqrt(in) and 1/sqrt(in)."""
    state, _, _, _, _ = student.run(made_layer, inside, 1500, True)
    bound = inside**-0.5
    for name, value in state.items():
        assert_equal(value.dtype, torch.float32, f"the dtype of {name}")
        scaled = value / bound
        outside = (scaled.abs() > 1 + 1e-6).double().mean().item()
        assert_equal(outside, 0.0, f"the share of the {name} outside the interval")
        assert_close(scaled.max().item(), 1.0, f"the largest {name}, in bounds,", atol=0.02)
        assert_close(scaled.min().item(), -1.0, f"the smallest {name}, in bounds,", atol=0.02)
        assert_close(scaled.mean().item(), 0.0, f"the mean of the {name}, in bounds,", atol=0.08)
        assert_close(
            scaled.std().item(),
            3**-0.5,
            f"the standard deviation of the {name}, in bounds,",
            atol=0.05,
        )
