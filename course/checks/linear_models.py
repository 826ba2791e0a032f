"""Public checks of the chapter on linear, logistic and softmax regression."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "cost": [
        "All predictions at once are `X @ w + b`. The error is prediction minus truth.",
        "The sum of the squares of a vector is its dot product with itself. For the weights' "
        "slope, each error is multiplied by its example's features and summed over the examples: "
        "which product of a matrix and the error does that?",
        "For the weights: `X.T @ error`. Divide by m, and add the penalty's part, which is lam w "
        "over m. The bias has no penalty.",
    ],
    "gd": [
        "Keep the error vector; cost and both slopes come from it.",
        "Compute both slopes before you change w or b. Then append the new cost and look at the "
        "last two entries of the history.",
        "Count the small steps in a row, and set the counter to 0 after a step that is not small. "
        "A comparison with nan is always False, so `cost > history[0]` misses it.",
    ],
    "scaler": [
        "Every kind is (x - shift) / scale, with a shift and a scale for each column. `fit` keeps "
        "them, the other methods only use them.",
        "`amin`, `amax`, `mean` and `std` take `dim=0`. For `std`, look up `correction`.",
        "Where a column is constant, its maximum equals its minimum: use 1 as its scale.",
    ],
    "logistic": [
        "The loss of one example is log(1 + e^z) - y z. Which function of torch computes the first "
        "part without overflow? Look for softplus or logaddexp.",
        "The gradient has the form of linear regression, with sigmoid(X @ w + b) as the "
        "prediction. Add lam w / m for the weights, nothing for the bias.",
        "Newton: put a column of ones beside X, solve (Hessian) step = gradient, subtract the "
        "step, twenty times. The Hessian is AᵀSA + penalty, with p (1 - p) on S's diagonal. Or "
        "use `torch.optim.LBFGS` with line_search_fn='strong_wolfe' and small tolerances.",
    ],
    "boundary": [
        "Solve w1 x1 + w2 x2 + b = 0 for x2.",
        "`torch.stack(…, dim=1)` puts vectors of length m side by side as columns.",
    ],
    "softmax": [
        "The loss of one example is logsumexp of its logits less the logit of the true class.",
        "`logits[torch.arange(m), y]` takes one entry of each row.",
        "log p is the logits less their logsumexp (`keepdim=True`). The gradient is p less the "
        "one-hot truth, over m.",
    ],
    "linear": [
        "The weight is (out, in), and examples are rows: transpose it in `forward`.",
        "`nn.Parameter` around a tensor makes it a parameter; `uniform_` fills it.",
        "Without a bias, set `self.bias = None` and do not add it.",
    ],
    "debug": [
        "Call it with one house. What is `X_new.mean(0)` then?",
        "Which table do the weights' mean and standard deviation come from?",
    ],
}

X = torch.tensor([[1.0, 2.0], [2.0, 0.0], [0.0, 1.0]])
Y = torch.tensor([3.0, 1.0, 2.0])
W = torch.tensor([1.0, 2.0])


@pytest.mark.exercise("cost")
def test_small_cost(student):
    """`cost` halves the mean squared error, and adds lam times the squared weights over 2m."""
    # Predictions with b = -1: 4, 1, 1; errors 1, 0, -1.
    assert_close(
        student.cost(X, Y, W, -1.0),
        torch.tensor(2 / 6),
        "the cost",
        symptoms={
            "This is the mean of the squares; halve it.": torch.tensor(2 / 3),
            "This is half the sum; divide by m as well.": torch.tensor(1.0),
            "The bias is not used.": F.mse_loss(X @ W, Y) / 2,
        },
    )
    assert_close(
        student.cost(X, Y, W, -1.0, 3.0),
        torch.tensor(2 / 6 + 15 / 6),
        "the cost for lam = 3",
        symptoms={
            "The bias is penalised as well.": torch.tensor(2 / 6 + 18 / 6),
            "The penalty is lam / 2m, not lam / m.": torch.tensor(2 / 6 + 15 / 3),
            "The penalty lacks its square.": torch.tensor(2 / 6 + 9 / 6),
        },
    )


@pytest.mark.exercise("cost")
def test_small_gradient(student):
    """`grad` is the mean of error times feature, and the mean error for the bias."""
    # Errors 1, 0, -1, times the features (1, 2), (2, 0), (0, 1).
    dw, db = student.grad(X, Y, W, 0.0)  # errors 2, 1, 0
    assert_close(
        dw,
        torch.tensor([4 / 3, 4 / 3]),
        "`dw`",
        symptoms={
            "The sum over the examples is to be divided by m.": torch.tensor([4.0, 4.0]),
            "It points the other way: the error is prediction minus truth.": torch.tensor(
                [-4 / 3, -4 / 3]
            ),
            "A factor 2 is left over from the square; the ½ of the cost cancels it.": torch.tensor(
                [8 / 3, 8 / 3]
            ),
        },
    )
    assert_close(torch.as_tensor(db), torch.tensor(1.0), "`db`")
    dw, _ = student.grad(X, Y, W, 0.0, 3.0)
    assert_close(dw, torch.tensor([7 / 3, 10 / 3]), "`dw` for lam = 3")


@pytest.mark.exercise("cost")
def test_shapes_that_do_not_fit(student):
    """An answer of shape (m, 1) raises a ValueError instead of being broadcast."""
    with raises(ValueError):
        student.cost(X, Y[:, None], W, 0.0)
    with raises(ValueError):
        student.grad(X, Y, torch.ones(3), 0.0)


LINE = torch.tensor([[-1.0], [0.0], [1.0]])
HEIGHT = torch.tensor([-1.0, 2.0, 5.0])  # 3 x + 2


@pytest.mark.exercise("gd")
def test_two_steps(student):
    """`fit` starts from zeros, and moves w and b together against the gradient."""
    w, b, history = student.fit(LINE, HEIGHT, 0.3, 1, 0.0, 1)
    # At zero: the errors are 1, -2, -5, so dw = -2 and db = -2.
    assert_close(
        w,
        torch.tensor([0.6]),
        "`w` after one step",
        symptoms={"It moves uphill: subtract the gradient.": torch.tensor([-0.6])},
    )
    assert_close(torch.as_tensor(b), torch.tensor(0.6), "`b` after one step")
    assert_equal(len(history), 2, "the number of costs after one step (start and end)")
    assert_close(float(history[0]), 5.0, "the cost at the start")
    uneven = torch.tensor([[1.0], [3.0]])
    _, b, _ = student.fit(uneven, torch.tensor([1.0, 2.0]), 0.1, 2, 0.0, 1)
    # Step 1: dw = -3.5, db = -1.5, so w = 0.35, b = 0.15. Step 2: errors -0.5 and -0.8.
    assert_close(
        torch.as_tensor(b),
        torch.tensor(0.215),
        "`b` after two steps",
        symptoms={
            "b was moved with the new w; compute both slopes first.": torch.tensor(0.12875),
        },
    )


@pytest.mark.exercise("gd")
def test_stops(student):
    """`fit` stops after `patience` small steps in a row, and not before."""
    w, _, history = student.fit(LINE, HEIGHT, 0.5, 500, 1e-3, 3)
    assert_close(w, torch.tensor([3.0]), "`w`", atol=0.05)
    falls = [(a - b) / a for a, b in zip(history, history[1:], strict=False)]
    assert_true(len(falls) < 500 or min(falls) > 1e-3, "`fit` did not stop.")
    _, _, once = student.fit(LINE, HEIGHT, 0.001, 50, 0.5, 1)
    _, _, thrice = student.fit(LINE, HEIGHT, 0.001, 50, 0.5, 3)
    assert_equal((len(once), len(thrice)), (2, 4), "the numbers of costs for patience 1 and 3")


@pytest.mark.exercise("gd")
def test_divergence_is_an_error(student):
    """A learning rate that is too large raises a FloatingPointError."""
    with raises(FloatingPointError):
        student.fit(LINE, HEIGHT, 3.5, 200, 0.0, 10)


@probe
def scaled(student, kind, X, new):
    """A table scaled, another scaled likewise, and the first one back again."""
    scaler = student.Scaler(kind)
    scaler.fit(X)
    Z = scaler.transform(X)
    return [Z, scaler.transform(new), scaler.inverse_transform(Z)]


TABLE = torch.tensor([[1.0, -4.0, 7.0], [2.0, 0.0, 7.0], [6.0, 2.0, 7.0]])


@pytest.mark.exercise("scaler")
def test_three_kinds(student):
    """Each kind shifts and divides as the docstring says; a constant column becomes zeros."""
    by_max = TABLE / torch.tensor([6.0, 4.0, 7.0])
    by_range = (TABLE - TABLE.mean(0)) / torch.tensor([5.0, 6.0, 1.0])
    spread = torch.tensor([(14 / 3) ** 0.5, (56 / 9) ** 0.5, 1.0])
    z = (TABLE - TABLE.mean(0)) / spread
    for kind, expected in (("max", by_max), ("mean", by_range), ("zscore", z)):
        got, _, back = student.run(scaled, kind, TABLE, TABLE[:1])
        assert_close(
            got,
            expected,
            f"the table for {kind!r}",
            symptoms={
                "The standard deviation divides by m - 1; it should divide by m.": z
                * (2 / 3) ** 0.5,
                "The largest value has the largest size here only without its sign.": TABLE
                / torch.tensor([6.0, 2.0, 7.0]),
            },
        )
        assert_close(back, TABLE, f"the table after inverse_transform, for {kind!r}")


@pytest.mark.exercise("scaler")
def test_new_rows(student):
    """`transform` uses what `fit` learned, even for a single new row."""
    new = torch.tensor([[3.0, 2.0, 9.0]])
    _, got, _ = student.run(scaled, "zscore", TABLE[:, :2], new[:, :2])
    expected = torch.tensor([[0.0, (8 / 3) / (56 / 9) ** 0.5]])
    assert_close(got, expected, "the new row", atol=1e-5)


@probe
def early(student, method):
    """The type of the error that a scaler raises before fit, or nothing."""
    try:
        getattr(student.Scaler("zscore"), method)(torch.ones(2, 2))
    except NotImplementedError:  # a stub
        raise
    except Exception as error:
        return type(error).__name__
    return "no error"


@pytest.mark.exercise("scaler")
def test_errors(student):
    """`transform` before `fit` raises a RuntimeError, an unknown kind a ValueError."""
    assert_equal(student.run(early, "transform"), "RuntimeError", "what transform before fit gives")
    with raises(ValueError):
        student.Scaler("standard")


@pytest.mark.exercise("logistic")
def test_loss(student):
    """`logistic_loss` is the mean of -log of the true label's probability, even far out."""
    z, y = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    assert_close(
        student.logistic_loss(z, y),
        F.binary_cross_entropy_with_logits(z, y),
        "the loss",
        symptoms={
            "This is the sum; take the mean.": 3 * F.binary_cross_entropy_with_logits(z, y),
            "The labels 0 and 1 are swapped.": F.binary_cross_entropy_with_logits(z, 1 - y),
        },
    )
    far = torch.tensor([200.0, -200.0])
    assert_close(student.logistic_loss(far, torch.tensor([0.0, 1.0])), torch.tensor(200.0))


@pytest.mark.exercise("logistic")
def test_slope_at_zero(student):
    """At z = 0 the slope for a label 1 is -1/2, as everywhere sigmoid(z) - y."""
    z = torch.tensor([0.0], requires_grad=True)
    student.logistic_loss(z, torch.tensor([1.0])).backward()
    assert_close(
        z.grad,
        torch.tensor([-0.5]),
        "the slope",
        symptoms={
            "The loss has a kink at 0: max(z, 0) or |z| hides in it.": torch.tensor([0.0]),
            "The loss has a kink at 0: relu(z) or |z| hides in it.": torch.tensor([-1.0]),
        },
    )


POINTS = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
SIDES = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)


@pytest.mark.exercise("logistic")
def test_minimum(student):
    """`fit_logistic` ends where the gradient is zero, penalty included, the bias left free."""
    w, b = student.fit_logistic(POINTS, SIDES, 0.5)
    p = torch.sigmoid(POINTS @ w + b)
    dw = (POINTS.T @ (p - SIDES) + 0.5 * w) / 6
    assert_close(
        dw, torch.zeros(1, dtype=torch.float64), "the slope of w at your answer", atol=1e-5
    )
    db = (p - SIDES).mean()
    assert_close(db, torch.zeros((), dtype=torch.float64), "the slope of b at it", atol=1e-5)
    with raises(ValueError):
        student.fit_logistic(POINTS, 2 * SIDES - 1, 0.5)


@pytest.mark.exercise("boundary")
def test_line(student):
    """`boundary_x2` lies on w1 x1 + w2 x2 + b = 0; a vertical boundary raises a ValueError."""
    assert_close(
        student.boundary_x2(torch.tensor([1.0, 2.0]), -4.0, torch.tensor([0.0, 2.0])),
        torch.tensor([2.0, 1.0]),
        "`x2`",
        symptoms={
            "Both terms change their sign when they move to the other side.": torch.tensor(
                [-2.0, -1.0]
            ),
            "The bias changes its sign, too.": torch.tensor([-2.0, -3.0]),
        },
    )
    with raises(ValueError):
        student.boundary_x2(torch.tensor([1.0, 0.0]), -4.0, torch.tensor([0.0]))


@pytest.mark.exercise("boundary")
def test_products(student):
    """`quadratic_features` gives x1, x2, x1², x1 x2, x2² as columns."""
    assert_close(
        student.quadratic_features(torch.tensor([[2.0, 3.0], [-1.0, 4.0]])),
        torch.tensor([[2.0, 3, 4, 6, 9], [-1.0, 4, 1, -4, 16]]),
        "the features",
    )
    with raises(ValueError):
        student.quadratic_features(torch.ones(4, 3))


LOGITS = torch.tensor([[0.0, math.log(2.0), 0.0], [1.0, 1.0, 1.0]])
CLASSES = torch.tensor([0, 2])


@pytest.mark.exercise("softmax")
def test_worked_example(student):
    """`softmax_ce` is the mean of -log of the true class's probability."""
    assert_close(
        student.softmax_ce(LOGITS, CLASSES),
        torch.tensor((math.log(4) + math.log(3)) / 2),
        "the loss",
        symptoms={
            "This is the sum; take the mean over the examples.": torch.tensor(math.log(12)),
            "This is log p; the loss is minus that.": torch.tensor(-math.log(12) / 2),
            "The softmax runs over the examples; it should run over the classes.": F.cross_entropy(
                LOGITS.T - LOGITS.T.logsumexp(1, keepdim=True), CLASSES[[0, 0, 0]]
            ),
        },
    )


@pytest.mark.exercise("softmax")
def test_gradient(student):
    """`softmax_grad` is p less the one-hot truth, over m."""
    expected = torch.tensor([[-3 / 8, 1 / 4, 1 / 8], [1 / 6, 1 / 6, -1 / 3]])
    assert_close(
        student.softmax_grad(LOGITS, CLASSES),
        expected,
        "the gradient",
        symptoms={
            "Divide by the number of examples: the loss is their mean.": 2 * expected,
            "The sign is turned: prediction minus truth.": -expected,
        },
    )


@pytest.mark.exercise("softmax")
def test_large_logits(student):
    """Logits of 1000 do not overflow, and a class -1 raises a ValueError."""
    big = torch.tensor([[1000.0, 0.0]])
    assert_close(student.softmax_ce(big, torch.tensor([1])), torch.tensor(1000.0), "the loss")
    with raises(ValueError):
        student.softmax_ce(LOGITS, torch.tensor([0, -1]))


@probe
def layer(student, bias, x):
    """Output of a layer whose weight counts from 0, with the names and shapes of its parameters."""
    made = student.MyLinear(2, 3, bias)
    with torch.no_grad():
        made.weight.copy_(torch.arange(6.0).view(3, 2))
        if bias:
            made.bias.copy_(torch.tensor([10.0, 20.0, 30.0]))
    shapes = {name: list(value.shape) for name, value in made.state_dict().items()}
    return made(x).detach(), shapes


@pytest.mark.exercise("linear")
def test_output(student):
    """The layer computes x Wᵀ + b on the last axis, with a weight of shape (out, in)."""
    x = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    y, shapes = student.run(layer, True, x)
    assert_equal(shapes, {"weight": [3, 2], "bias": [3]}, "the state_dict")
    expected = torch.tensor([[12.0, 28, 44], [9, 17, 25]])
    assert_close(
        y, expected, symptoms={"The bias is missing.": expected - torch.tensor([10.0, 20, 30])}
    )
    y, shapes = student.run(layer, False, x[None])
    assert_equal(shapes, {"weight": [3, 2]}, "the state_dict without bias")
    assert_close(y, torch.tensor([[[2.0, 8, 14], [-1, -3, -5]]]), "the output without bias")


@pytest.mark.exercise("linear")
def test_start(student):
    """A new weight is random, within 1 / sqrt(in) of zero."""
    weight = student.MyLinear(16, 200).weight.detach()
    outside = (weight.abs() > 0.25).double().mean().item()
    assert_close(outside, 0.0, "the share of weights outside -1/4 to 1/4, for 16 inputs,")
    assert_close(weight.mean().item(), 0.0, "the mean weight", atol=0.02)
    assert_true(weight.std() > 0.1, "The weights hardly differ; they should be uniform.")
    assert_true(isinstance(student.MyLinear(2, 2), nn.Module), "It should be an nn.Module.")


@pytest.mark.exercise("debug")
def test_one_house(student):
    """A house has the same price alone and in a table: the training's mean and std are used."""
    train = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
    new = torch.tensor([[5.0, 30.0], [3.0, 20.0]])
    w, b = torch.tensor([2.0, 1.0]), torch.tensor(7.0)
    sd = torch.tensor([(8 / 3) ** 0.5, (200 / 3) ** 0.5])
    expected = (new - torch.tensor([3.0, 20.0])) / sd @ w + b
    assert_close(
        student.price_of(new, train, w, b),
        expected,
        "two prices",
        symptoms={
            "The std divides by m - 1; here, as for z-scores above, by m.": (
                (new - train.mean(0)) / train.std(0) @ w + b
            ),
            "The houses are not scaled, but the weights belong to scaled ones.": new @ w + b,
        },
    )
    assert_close(
        student.price_of(new[:1], train, w, b),
        expected[:1],
        "the price of one house",
        symptoms={
            "It is the bias: the house was measured by its own mean.": torch.tensor([7.0]),
        },
    )
