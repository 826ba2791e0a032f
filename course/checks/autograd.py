"""Public checks of the chapter on autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_gradgradcheck,
    assert_true,
    probe,
    raises,
    unchanged,
)

HINTS = {
    "flags": [
        "Ask of each expression: is there an input that requires grad, and can the result have a "
        "derivative at all?",
        "Indices and booleans have no derivative. `detach`, `.data` and `zeros_like` do not carry "
        "the history on. A module's parameters are inputs too, in either mode.",
        "For `infer`: write down each module's flag before you change anything (`model.modules()` "
        "gives them all), and put the flags back in a `finally` block.",
    ],
    "vjp": [
        "Work on a leaf of your own, so that the caller's x stays as it is: "
        "`x.detach().requires_grad_()`.",
        "`torch.autograd.grad` returns the gradient and leaves every `.grad` alone.",
        "Its argument `grad_outputs` takes the weights. Compare the shapes before you call it.",
    ],
    "accumulate": [
        "`backward` adds to `.grad`. What must happen before the first piece, and only then?",
        "Each piece's loss is a mean over its own examples. What share of all examples is that?",
        "Call `backward` within the loop, once for each piece, so that its graph can be freed.",
    ],
    "step": [
        "Two things are needed: no recording, and a change inside the tensor.",
        "`p -= ...`, `p.sub_(...)` and `p.add_(..., alpha=...)` work in place; `p = p - ...` moves "
        "the name to a new tensor.",
        "Check lr before the loop, and look whether `p.grad` is None inside it.",
    ],
    "function": [
        "`forward` returns the value; `backward` returns dy times the derivative.",
        "The derivative is s + x s (1 - s) with s = sigmoid(x).",
        "Save x only, and compute the sigmoid again in `backward`: then it can be differentiated "
        "a second time.",
    ],
    "hvp": [
        "First the gradient, recorded (`create_graph=True`); then differentiate the gradient.",
        "You need its vector-Jacobian product with v, so `grad_outputs=v` once more.",
        "Two ways of having no second-order term: the gradient does not require grad at all, or "
        "it does, but does not depend on x. See `allow_unused` and `materialize_grads`.",
    ],
    "engine": [
        "Each operation returns a new `Value` with the pairs (parent, local derivative). A product "
        "has the other factor as local derivative.",
        "`backward`: first an order in which each node stands after its parents, then the walk from "
        "the end. Where ways meet, add.",
        "Keep what arrives at the nodes in a dictionary of this one call, and add it to `.grad`; "
        "what is left in `.grad` from an earlier call must not travel on.",
    ],
    "debug": [
        "What is the derivative of the square root at 0, and what is 0 times that?",
        "The forbidden input must not reach `sqrt`. Replace it before, not after.",
        "Two `where`: one for what goes into `sqrt`, one for what comes out.",
    ],
}


# --- flags -----------------------------------------------------------------------------------


@pytest.mark.exercise("flags")
def test_tracks_grad(student):
    """A result requires grad if an input does: `w * x` and `linear(x)` do, `x + 1` does not."""
    assert_equal(student.tracks_grad("w * x"), True, 'tracks_grad("w * x")')
    assert_equal(student.tracks_grad("x + 1"), False, 'tracks_grad("x + 1")')
    assert_equal(student.tracks_grad("linear(x)"), True, 'tracks_grad("linear(x)")')


@pytest.mark.exercise("flags")
def test_unknown_expression(student):
    """`tracks_grad` should raise ValueError for an expression that is not in the list."""
    with raises(ValueError):
        student.tracks_grad("x / 0")


@probe
def infer_dropout(student):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1)).double()
    x = torch.ones(2, 6, dtype=torch.float64)
    out = student.infer(model, x)
    training = [module.training for module in model.modules()]
    return out, model[1](x).detach(), training


@pytest.mark.exercise("flags")
def test_infer(student):
    """`infer` should apply the model in eval mode without a graph, then restore its mode."""
    out, expected, training = student.run(infer_dropout)
    assert_close(
        out,
        expected,
        "infer(model, x)",
        symptoms={"Nothing is returned; the `return` is missing.": None},
    )
    assert_true(not out.requires_grad, "The result of `infer` should not require grad.")
    assert_equal(training, [True] * 3, "the training flags of model and parts afterwards")


@probe
def infer_with_error(student):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1))
    try:
        student.infer(model, torch.ones(2, 5))
    except NotImplementedError:
        raise
    except RuntimeError:
        return [module.training for module in model.modules()]
    return "no error"


@pytest.mark.exercise("flags")
def test_infer_error(student):
    """If the model raises an error, `infer` should pass it on, and still restore the mode."""
    training = student.run(infer_with_error)
    assert_true(training != "no error", "`infer` should let the model's error through.")
    assert_equal(training, [True] * 3, "the training flags after an error")


# --- vjp -------------------------------------------------------------------------------------


@probe
def products(x):
    return torch.stack([x[0] * x[1], x[1] * x[2]])


@pytest.mark.exercise("vjp")
def test_vjp(student):
    """`vjp` should weigh the rows of the Jacobian by v and add them up."""
    x = torch.tensor([1.0, 2.0, 3.0])
    v = torch.tensor([1.0, 10.0])
    with unchanged(x, v):
        got = student.vjp(products, x, v)  # J = [[2, 1, 0], [0, 3, 2]]
    assert_close(
        got,
        torch.tensor([2.0, 31.0, 20.0]),
        symptoms={
            "The rows are added with weight 1; v is not used.": torch.tensor([2.0, 4.0, 2.0]),
            "The whole Jacobian is returned; v should weigh its rows.": torch.tensor(
                [[2.0, 1.0, 0.0], [0.0, 3.0, 2.0]]
            ),
        },
    )
    assert_true(not x.requires_grad, "The x that was given should still not require grad.")


@pytest.mark.exercise("vjp")
def test_vjp_shape(student):
    """`vjp` should raise ValueError if v does not have the shape of f(x)."""
    with raises(ValueError):
        student.vjp(products, torch.ones(3), torch.ones(3))


# --- accumulate ------------------------------------------------------------------------------


@probe
def accumulate_small(student, sizes, calls):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    y = torch.tensor([[3.0], [0.0], [6.0]], dtype=torch.float64)
    for _ in range(calls):
        batches = list(zip(x.split(sizes), y.split(sizes)))
        student.accumulate_grads(model, F.mse_loss, batches, 3)
    return None if model.weight.grad is None else model.weight.grad.item()


@pytest.mark.exercise("accumulate")
def test_accumulate(student):
    """Pieces of 2 and 1 examples should give the gradient of all 3 at once."""
    # one by one the gradients of (w x - y)^2 at w = 0 are -2xy: -6, 0, -36
    assert_close(
        student.run(accumulate_small, [2, 1], 1),
        -42 / 3,
        "the gradient",
        symptoms={
            "The means of the pieces are added without a weight.": -3.0 - 36.0,
            "The sum is divided by the number of pieces; the pieces are not equally large.": (
                -3.0 - 36.0
            )
            / 2,
            "Only the last piece counts. Is the gradient cleared inside the loop?": -36 / 3,
            "Only the last piece counts, and it is not weighted.": -36.0,
            "Each loss is divided by the total, but it is a mean already: multiply by its size.": (
                -3.0 - 36.0
            )
            / 3,
            "This is the sum over the examples; the mean is asked for.": -42.0,
        },
    )


@pytest.mark.exercise("accumulate")
def test_accumulate_again(student):
    """A second call should give the same gradient, not twice as much."""
    assert_close(
        student.run(accumulate_small, [2, 1], 2),
        -42 / 3,
        "the gradient",
        symptoms={"Gradients of the first call are still in p.grad.": -84 / 3},
    )


# --- step ------------------------------------------------------------------------------------


@probe
def step_once(student):
    w = torch.tensor([3.0, -1.0], requires_grad=True)
    frozen = torch.tensor([5.0], requires_grad=True)  # without gradient
    (w**2).sum().backward()
    address = w.data_ptr()
    student.sgd_step([w, frozen], 0.1)
    return (
        w.detach(),
        frozen.detach(),
        w.data_ptr() == address,
        w.is_leaf and w.requires_grad,
        w.grad,
    )


@pytest.mark.exercise("step")
def test_step(student):
    """A step from (3, -1) with gradient (6, -2) and lr = 0.1 should lead to (2.4, -0.8)."""
    w, frozen, same_memory, still_leaf, grad = student.run(step_once)
    assert_close(
        w,
        torch.tensor([2.4, -0.8]),
        "the parameter",
        symptoms={
            "The parameter did not change. Was the name p moved to a new tensor?": torch.tensor(
                [3.0, -1.0]
            ),
            "The step goes uphill; check the sign.": torch.tensor([3.6, -1.2]),
            "The learning rate is not used.": torch.tensor([-3.0, 1.0]),
        },
    )
    assert_close(frozen, torch.tensor([5.0]), "a parameter without gradient")
    assert_true(same_memory, "The parameter should stay in the same memory.")
    assert_true(still_leaf, "The parameter should still be a leaf that requires grad.")
    assert_close(grad, torch.tensor([6.0, -2.0]), "p.grad after the step")


@pytest.mark.exercise("step")
def test_negative_rate(student):
    """`sgd_step` should raise ValueError for a negative learning rate."""
    with raises(ValueError):
        student.sgd_step([torch.zeros(1, requires_grad=True)], -0.1)


# --- function --------------------------------------------------------------------------------


@pytest.mark.exercise("function")
def test_swish_value(student):
    """`swish(x)` should be x * sigmoid(x)."""
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert_close(
        student.swish(x),
        x * torch.sigmoid(x),
        symptoms={
            "This is the sigmoid alone; it is still to be multiplied by x.": torch.sigmoid(x)
        },
    )


@pytest.mark.exercise("function")
def test_swish_gradient(student):
    """The gradient should be sigmoid(x) + x sigmoid(x) (1 - sigmoid(x)), times dy."""
    x = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    dy = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    s = torch.sigmoid(x.detach())
    slope = s + x.detach() * s * (1 - s)
    (got,) = torch.autograd.grad(student.swish(x), x, grad_outputs=dy)
    assert_close(
        got,
        dy * slope,
        "the gradient",
        symptoms={
            "dy, the gradient that arrives, is not used.": slope,
            "The product rule has two terms; sigmoid(x) is missing.": dy * x.detach() * s * (1 - s),
            "The product rule has two terms; only sigmoid(x) is there.": dy * s,
        },
    )


@pytest.mark.exercise("function")
def test_swish_second(student):
    """First and second derivatives should agree with finite differences."""
    x = torch.tensor([-1.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert_gradcheck(student.swish, x)
    assert_gradgradcheck(student.swish, x)


@probe
def swish_class(student):
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    return type(student.Swish.apply(x).grad_fn).__name__


@pytest.mark.exercise("function")
def test_swish_class(student):
    """`Swish.apply(x)` should be one operation in the graph."""
    assert_equal(student.run(swish_class), "SwishBackward", "the grad_fn of Swish.apply(x)")


# --- hvp -------------------------------------------------------------------------------------


@probe
def cubic(x):
    return x[0] ** 2 * x[1] + x[1] ** 3


@probe
def linear(x):
    return 3 * x[0] - x[1]


@pytest.mark.exercise("hvp")
def test_hvp(student):
    """For x0^2 x1 + x1^3 at (1, 2), `hvp` should multiply v by [[4, 2], [2, 12]]."""
    x, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0])
    with unchanged(x, v):
        got = student.hvp(cubic, x, v)
    assert_close(
        got,
        torch.tensor([24.0, 122.0]),
        symptoms={
            "This is the gradient (times v, entry by entry), not its derivative.": torch.tensor(
                [4.0, 130.0]
            ),
            "Only the diagonal of the Hessian is used.": torch.tensor([4.0, 120.0]),
            "The rows of the Hessian are added with weight 1; v is not used.": torch.tensor(
                [6.0, 14.0]
            ),
        },
    )
    assert_true(not x.requires_grad, "The x that was given should still not require grad.")


@pytest.mark.exercise("hvp")
def test_hvp_linear(student):
    """A linear function has the Hessian 0: `hvp` should return zeros, not raise an error."""
    got = student.hvp(linear, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
    assert_close(got, torch.zeros(2))


@pytest.mark.exercise("hvp")
def test_hvp_shape(student):
    """`hvp` should raise ValueError if v does not have the shape of x."""
    with raises(ValueError):
        student.hvp(cubic, torch.ones(2), torch.ones(3))


# --- engine ----------------------------------------------------------------------------------


@probe
def engine_values(student):
    a, b = student.Value(0.5), student.Value(-2.0)
    results = {
        "a + b": a + b,
        "a * b": a * b,
        "3 + a": 3 + a,
        "3 * a": 3 * a,
        "b.exp()": b.exp(),
        "a.tanh()": a.tanh(),
        "a.relu()": a.relu(),
        "b.relu()": b.relu(),
    }
    return {name: value.data for name, value in results.items()}


@pytest.mark.exercise("engine")
def test_values(student):
    """The operations should compute the right values; a plain number may stand on either side."""
    assert_close(
        student.run(engine_values),
        {
            "a + b": -1.5,
            "a * b": -1.0,
            "3 + a": 3.5,
            "3 * a": 1.5,
            "b.exp()": math.exp(-2),
            "a.tanh()": math.tanh(0.5),
            "a.relu()": 0.5,
            "b.relu()": 0.0,
        },
        "the value of",
    )


@probe
def engine_slopes(student):
    slopes = {}
    for name in ["exp", "tanh", "relu"]:
        a = student.Value(0.5)
        getattr(a, name)().backward()
        slopes[f"a.{name}()"] = a.grad
    a = student.Value(0.5)
    (3 * a + 1).backward()
    slopes["3 * a + 1"] = a.grad
    return slopes


@pytest.mark.exercise("engine")
def test_slopes(student):
    """At a = 0.5, each operation should have the right local derivative."""
    assert_close(
        student.run(engine_slopes),
        {
            "a.exp()": math.exp(0.5),
            "a.tanh()": 1 - math.tanh(0.5) ** 2,
            "a.relu()": 1.0,
            "3 * a + 1": 3.0,
        },
        "the derivative of",
    )


@probe
def engine_shared(student):
    x, y = student.Value(2.0), student.Value(3.0)
    z = x * y + x
    z.backward()
    return [x.grad, y.grad, z.grad]


@pytest.mark.exercise("engine")
def test_shared_node(student):
    """For z = x y + x at (2, 3), the derivatives are dz/dx = 4 and dz/dy = 2."""
    assert_close(
        student.run(engine_shared),
        [4.0, 2.0, 1.0],
        "[x.grad, y.grad, z.grad]",
        symptoms={
            "x is used twice, but only one use counts. Where ways meet, add.": [1.0, 2.0, 1.0],
            "x is used twice, but only one of the uses counts. Where ways meet, add.": [
                3.0,
                2.0,
                1.0,
            ],
            "z.grad itself should be 1, the derivative of z by z.": [4.0, 2.0, 0.0],
        },
    )


@probe
def engine_order(student):
    x = student.Value(1.0)
    a = x * x
    z = a * (a * a)
    z.backward()
    return x.grad


@pytest.mark.exercise("engine")
def test_order(student):
    """For a = x x and z = a (a a) at 1, dz/dx is 6: a must wait until all of its gradient is there."""
    assert_close(
        student.run(engine_order),
        6.0,
        "x.grad",
        symptoms={"A node passed its gradient on before all of it had arrived.": 2.0},
    )


@probe
def engine_chain(student, depth):
    x = student.Value(1.0)
    y = x
    for _ in range(depth):
        y = y + 0.5
    y.backward()
    return x.grad


@pytest.mark.exercise("engine")
def test_long_chain(student):
    """`backward` should work for a chain of 2000 nodes."""
    assert_close(student.run(engine_chain, 2000), 1.0, "x.grad")


@probe
def product_and_sum(values):
    return values[0] * values[1] + 3 * values[0]


@pytest.mark.exercise("engine")
def test_directional(student):
    """For x0 x1 + 3 x0 at (2, 5), the gradient is (8, 2); along (1, 10) the derivative is 28."""
    got = student.directional(product_and_sum, [2.0, 5.0], [1.0, 10.0])
    assert_close(
        got,
        28.0,
        "directional(f, x, v)",
        symptoms={
            "v was scaled to length 1; use it as it is.": 28.0 / 101**0.5,
            "The gradient is summed without v.": 10.0,
        },
    )


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_safe_root(student):
    """Values and gradients should be those of the root where x > 0, and 0 elsewhere."""
    x = torch.tensor([4.0, 0.0, -1.0, 25.0], requires_grad=True)
    y = student.safe_root(x)
    assert_close(
        y.detach(),
        torch.tensor([2.0, 0.0, 0.0, 5.0]),
        "the value",
        symptoms={
            "The replacement value shows: choose 0 after the root as well.": torch.tensor(
                [2.0, 1.0, 1.0, 5.0]
            )
        },
    )
    (got,) = torch.autograd.grad(y.sum(), x)
    nan = float("nan")
    assert_close(
        got,
        torch.tensor([0.25, 0.0, 0.0, 0.1]),
        "the gradient",
        symptoms={
            "0 times infinity: the forbidden input still reaches sqrt.": torch.tensor(
                [0.25, nan, nan, 0.1]
            )
        },
    )
