"""Hidden tests of the chapter on optimizers."""

import math

import pytest
import torch

from course.testing import (
    assert_close,
    assert_equal,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)

# --- critical --------------------------------------------------------------------------------


@probe
def bowl(x):
    return x.square().sum() + 0.5 * (x.sum()) ** 2


@probe
def hill(x):
    return -(x[0] ** 2) - 3 * x[1] ** 2 - x[0] * x[1] + 7


@probe
def pass_road(x):
    return x[0] * x[1]


@probe
def saddle_and_flat(x):
    return x[0] ** 2 - x[1] ** 2 + 0 * x[2]


@probe
def waves(x):
    return torch.cos(x).sum()


@probe
def monkey(x):
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2


@probe
def flat_floor(x):
    return x[0] ** 2 + x[1] ** 4


@probe
def flat_top(x):
    return -(x[0] ** 2) + x[1] ** 3


@probe
def parabola(x):
    return 3 * (x[0] - 2) ** 2


@probe
def constant(x):
    return 0 * x.sum() + 1


@pytest.mark.exercise("critical", points=3)
@pytest.mark.parametrize(
    "f, point, expected",
    [
        (bowl, [0.0, 0.0, 0.0], "min"),
        (hill, [0.0, 0.0], "max"),
        (waves, [0.0, 0.0, 0.0], "max"),
        (pass_road, [0.0, 0.0], "saddle"),
        (saddle_and_flat, [0.0, 0.0, 5.0], "saddle"),
        (waves, [math.pi, -math.pi], "min"),
        (waves, [0.0, 2 * math.pi], "max"),
        (waves, [0.0, math.pi, 0.0], "saddle"),
        (monkey, [0.0, 0.0], "degenerate"),
        (flat_floor, [0.0, 0.0], "degenerate"),
        (flat_top, [0.0, 0.0], "degenerate"),
        (constant, [1.0, 2.0], "degenerate"),
        (parabola, [2.0], "min"),
    ],
)
def test_classifies(student, device, f, point, expected):
    """`classify` should name each critical point after the signs of the Hessian's eigenvalues."""
    x = torch.tensor(point, dtype=torch.float64, device=device)
    with unchanged(x):
        assert_equal(student.classify(f, x, 1e-6), expected, f"classify({f.__name__}, x, tol)")


@probe
def narrow(x):
    return x[0] ** 2 + 1e-3 * x[1] ** 2


@probe
def narrow_top(x):
    return -(x[0] ** 2) - 1e-3 * x[1] ** 2


@probe
def barely_saddle(x):
    return x[0] ** 2 - 1e-5 * x[1] ** 2


@probe
def half_curved(x):
    return 0.25 * x[0] ** 2


@probe
def half_curved_down(x):
    return -0.25 * x[0] ** 2


@pytest.mark.exercise("critical", points=1)
@pytest.mark.parametrize(
    "f, point, tol, expected",
    [
        (narrow, [0.0, 0.0], 1e-4, "min"),
        (narrow, [0.0, 0.0], 1e-2, "degenerate"),
        (narrow_top, [0.0, 0.0], 1e-4, "max"),
        (narrow_top, [0.0, 0.0], 1e-2, "degenerate"),
        (barely_saddle, [0.0, 0.0], 1e-6, "saddle"),
        (barely_saddle, [0.0, 0.0], 1e-4, "degenerate"),
        (half_curved, [0.0], 0.5, "degenerate"),
        (half_curved_down, [0.0], 0.5, "degenerate"),
        (half_curved, [0.0], 0.25, "min"),
        (half_curved, [0.5], 0.25, "min"),  # the gradient is exactly tol
        (narrow, [0.004, 0.0], 1e-2, "degenerate"),
    ],
)
def test_tolerance(student, device, f, point, tol, expected):
    """An eigenvalue counts as zero when its absolute value is at most tol, and so does the norm of
    the gradient."""
    x = torch.tensor(point, dtype=torch.float64, device=device)
    assert_equal(student.classify(f, x, tol), expected, f"classify({f.__name__}, x, {tol})")


@pytest.mark.exercise("critical", points=1)
@pytest.mark.parametrize(
    "f, point, tol",
    [
        (bowl, [0.1, 0.0], 1e-6),
        (pass_road, [0.0, -1.0], 1e-3),
        (waves, [1.0, 1.0], 0.1),
        (narrow, [0.004, 0.0], 1e-3),
        (narrow, [0.004, 4.0], 1e-2),  # each entry is within tol, the norm is not
        (half_curved, [-0.52], 0.25),
    ],
)
def test_not_critical(student, device, f, point, tol):
    """Where the norm of the gradient is more than tol, `classify` should raise ValueError."""
    with raises(ValueError):
        student.classify(f, torch.tensor(point, dtype=torch.float64, device=device), tol)


@probe
def tilted(x):
    n = x.numel()
    lam = torch.arange(1.0, n + 1, dtype=x.dtype, device=x.device) * (-1) ** torch.arange(
        n, device=x.device
    )
    return 0.5 * (lam * x * x).sum() + 0.2 * x.sum() ** 2 - x.sum()


@probe
def bent(x):
    return torch.exp(x).sum() + (x[:-1] * x[1:] ** 2).sum() + x[0] ** 3


def newton(f, x, damping=0.0):
    g = torch.autograd.functional.jacobian(f, x)
    H = torch.autograd.functional.hessian(f, x)
    return x - torch.linalg.inv(H + damping * torch.eye(len(x)).to(x)) @ g


@pytest.mark.exercise("critical", points=2)
@pytest.mark.parametrize("f, size", [(bowl, 4), (bowl, 1), (tilted, 5), (tilted, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_newton_on_quadratics(student, device, f, size, dtype):
    """From anywhere on a quadratic, one Newton step should land on its critical point."""
    x = randn(size, device=device, dtype=dtype)
    with unchanged(x):
        there = student.newton_step(f, x)
    tol = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {}
    assert_close(there, newton(f, x), "newton_step(f, x)", **tol)
    slope = torch.autograd.functional.jacobian(f, there.to(x))
    assert_close(slope, torch.zeros_like(x), "the gradient at the new point", atol=1e-4)


@pytest.mark.exercise("critical", points=2)
@pytest.mark.parametrize("damping", [0.0, 0.7, 20.0])
@pytest.mark.parametrize("size", [3, 1])
def test_newton_in_general(student, device, damping, size):
    """The new point should be x - (H + damping I)⁻¹ g, with gradient and Hessian taken at x."""
    x = rand(size, device=device) + 0.5
    expected = newton(bent, x, damping)
    for point in (x, x.clone().requires_grad_()):
        got = student.newton_step(bent, point, damping=damping)
        assert_close(got, expected, f"newton_step(f, x, damping={damping})")
        assert_equal(got.requires_grad, False, "requires_grad of the new point")


@pytest.mark.exercise("critical", points=1)
@pytest.mark.parametrize("f, point", [(flat_floor, [1.0, 0.0]), (monkey, [0.0, 0.0])])
def test_newton_singular(student, device, f, point):
    """A singular Hessian should raise torch.linalg.LinAlgError, unless damping mends it."""
    x = torch.tensor(point, dtype=torch.float64, device=device)
    with raises(torch.linalg.LinAlgError):
        student.newton_step(f, x)
    assert_close(student.newton_step(f, x, 0.5), newton(f, x, 0.5), "the damped step")


# --- rules: SGD, Adagrad, RMSprop, Adadelta, Adam --------------------------------------------


@probe
def walk(student, name, settings, starts, grads, rates):
    """Parameters after each step of an optimizer that is fed the given gradients."""
    params = [p.clone().requires_grad_() for p in starts]
    optimizer = getattr(student, name)((p for p in params), **settings)
    path = []
    for t in range(len(grads)):
        for p, g in zip(params, grads[t]):
            p.grad = None if g is None else g.clone()
        if rates is not None:
            optimizer.lr = rates[t]
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


@probe
def gradients_after(student, name, settings, starts, grads):
    """What stands in `.grad` after two steps, when the same tensor is written anew in between."""
    params = [p.clone().requires_grad_() for p in starts]
    optimizer = getattr(student, name)(params, **settings)
    for p in params:
        p.grad = torch.zeros_like(p)
    left = []
    for row in grads:
        for p, g in zip(params, row):
            p.grad.copy_(g)
        optimizer.step()
        left.append([p.grad.clone() for p in params])
    return left, [p.detach().clone() for p in params], [p.requires_grad for p in params]


@probe
def make(student, name, settings):
    getattr(student, name)([torch.zeros(2, requires_grad=True)], **settings)
    return True


SHAPES = [(3,), (2, 3), (1, 1)]


def problem(device, steps=30, dtype=torch.float64, scale=1.0, shapes=SHAPES):
    starts = [randn(*s, device=device, dtype=dtype) for s in shapes]
    grads = [[scale * randn(*s, device=device, dtype=dtype) for s in shapes] for _ in range(steps)]
    return starts, grads


def torch_walk(make_optimizer, starts, grads, rates=None):
    params = [p.clone().requires_grad_() for p in starts]
    optimizer = make_optimizer(params)
    path = []
    for t, row in enumerate(grads):
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[t]
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def with_gaps(grads):
    """The second parameter gets a gradient from step 2 on, the first in every other step."""
    rows = []
    for t, (first, second, third) in enumerate(grads):
        rows.append([first if t % 2 == 0 else None, second if t >= 2 else None, third])
    return rows


def compare(student, name, settings, library, starts, grads, rates=None):
    got = student.run(walk, name, settings, starts, grads, rates)
    expected = torch_walk(lambda p: library(p, **settings), starts, grads, rates)
    for t in range(len(grads)):
        assert_close(got[t], expected[t], f"the parameters after step {t + 1}")


def compare_untouched(student, name, settings, library, starts, grads):
    left, params, flags = student.run(gradients_after, name, settings, starts, grads)
    assert_close(left, grads, "the gradients after each step")
    assert_close(params, torch_walk(lambda p: library(p, **settings), starts, grads)[-1])
    assert_equal(flags, [True] * len(params), "requires_grad of the parameters")


SGD_SETTINGS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.5, "weight_decay": 0.3},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "dampening": 1.0},
    {"momentum": 0.3, "dampening": 0.9, "weight_decay": 0.05},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "nesterov": True, "weight_decay": 0.2},
    {"dampening": 0.5},
    {"dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 1.0},
]


@pytest.mark.exercise("momentum", points=5)
@pytest.mark.parametrize("settings", SGD_SETTINGS)
def test_sgd_matches_torch(student, device, settings):
    """Thirty steps should equal torch.optim.SGD's, for every combination of the arguments."""
    starts, grads = problem(device)
    compare(student, "SGD", {"lr": 0.05, **settings}, torch.optim.SGD, starts, grads)


@pytest.mark.exercise("momentum", points=1)
@pytest.mark.parametrize("settings", [{"momentum": 0.9, "nesterov": True}, {}])
def test_sgd_float32_and_lr(student, device, settings):
    """It should work in float32, on one number too, and obey a change of `lr` between the steps."""
    starts, grads = problem(device, steps=6, dtype=torch.float32, shapes=[(1,), (4, 1)])
    rates = [0.1, 0.2, 0.0, 0.3, 0.05, 1.0]
    compare(student, "SGD", {"lr": 9.0, **settings}, torch.optim.SGD, starts, grads, rates)


@probe
def look_ahead(student, H, start, lr, mu, steps):
    w = start.clone().requires_grad_()
    optimizer = student.SGD([w], lr=lr, momentum=mu, nesterov=True)
    for _ in range(steps):
        w.grad = H @ w.detach()
        optimizer.step()
    return w.detach()


@pytest.mark.exercise("momentum", points=2)
@pytest.mark.parametrize("mu", [0.9, 0.3])
def test_two_nesterov_forms(student, device, mu):
    """With nesterov=True the parameters should be the look-ahead points of Nesterov's own form,
    v ← mu v + gradient at (w - lr mu v), w ← w - lr v."""
    H = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64, device=device))
    start, lr = randn(3, device=device), 0.07
    w, v = start.clone(), torch.zeros_like(start)
    for _ in range(12):
        v = mu * v + H @ (w - lr * mu * v)
        w = w - lr * v
    got = student.run(look_ahead, H, start, lr, mu, 12)
    assert_close(got, w - lr * mu * v, "the parameters after 12 steps")


@pytest.mark.exercise("momentum", points=2)
@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"weight_decay": 0.1}])
def test_sgd_skips_what_has_no_gradient(student, device, settings):
    """A parameter whose grad is None should stay where it is, and so should its velocity; every
    parameter has a velocity of its own."""
    starts, grads = problem(device, steps=9)
    grads = with_gaps(grads)
    compare(student, "SGD", {"lr": 0.1, **settings}, torch.optim.SGD, starts, grads)


@pytest.mark.exercise("momentum", points=2)
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"weight_decay": 0.2}, {"momentum": 0.9, "nesterov": True}],
)
def test_sgd_leaves_gradients_alone(student, device, settings):
    """`step` should change the parameters in place and leave the gradients as they are; what it
    remembers must be no alias of a gradient."""
    starts, grads = problem(device, steps=3)
    compare_untouched(student, "SGD", {"lr": 0.1, **settings}, torch.optim.SGD, starts, grads)


@pytest.mark.exercise("momentum", points=3)
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -0.1},
        {"lr": 0.1, "momentum": -0.9},
        {"lr": 0.1, "weight_decay": -1e-4},
        {"lr": 0.1, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "nesterov": True},
    ],
)
def test_sgd_errors(student, settings):
    """A negative lr, momentum or weight_decay should raise ValueError, and so should Nesterov
    without momentum or with dampening; zeros are fine."""
    fine = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0}
    assert_equal(student.run(make, "SGD", fine), True, "SGD with zeros")
    with raises(ValueError):
        student.run(make, "SGD", settings)


ADAPTIVE = {
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "Adadelta": torch.optim.Adadelta,
}


def adaptive_case(student, device, name, settings, scale=1.0, dtype=torch.float64):
    starts, grads = problem(device, steps=20, scale=scale, dtype=dtype)
    compare(student, name, settings, ADAPTIVE[name], starts, grads)


@pytest.mark.exercise("adaptive", points=3)
@pytest.mark.parametrize(
    "settings, scale",
    [({}, 1.0), ({"lr": 0.3}, 5.0), ({"lr": 0.1, "eps": 0.5}, 0.1), ({"eps": 1e-3}, 1e-4)],
)
def test_adagrad(student, device, settings, scale):
    """Adagrad's steps should equal torch.optim.Adagrad's, also where eps matters."""
    adaptive_case(student, device, "Adagrad", settings, scale)


@pytest.mark.exercise("adaptive", points=3)
@pytest.mark.parametrize(
    "settings, scale",
    [
        ({}, 1.0),
        ({"lr": 0.3, "alpha": 0.9}, 5.0),
        ({"lr": 0.1, "alpha": 0.5, "eps": 0.5}, 0.1),
        ({"eps": 1e-3}, 1e-4),
        ({}, 1e-7),
    ],
)
def test_rmsprop(student, device, settings, scale):
    """RMSprop's steps should equal torch.optim.RMSprop's, also where eps matters."""
    adaptive_case(student, device, "RMSprop", settings, scale)


@pytest.mark.exercise("adaptive", points=3)
@pytest.mark.parametrize(
    "settings, scale",
    [
        ({}, 1.0),
        ({"lr": 0.3, "rho": 0.5}, 5.0),
        ({"rho": 0.99, "eps": 0.5}, 0.1),
        ({"eps": 1e-3}, 1e-2),
    ],
)
def test_adadelta(student, device, settings, scale):
    """Adadelta's steps should equal torch.optim.Adadelta's, also where eps matters."""
    adaptive_case(student, device, "Adadelta", settings, scale)


@pytest.mark.exercise("adaptive", points=2)
@pytest.mark.parametrize("name", list(ADAPTIVE))
def test_adaptive_skips(student, device, name):
    """A parameter whose grad is None should keep its value and its averages."""
    starts, grads = problem(device, steps=9)
    grads = with_gaps(grads)
    compare(student, name, {"lr": 0.1}, ADAPTIVE[name], starts, grads)


@pytest.mark.exercise("adaptive", points=2)
@pytest.mark.parametrize("name", list(ADAPTIVE))
def test_adaptive_float32_and_lr(student, device, name):
    """They should work in float32, on one number too, and obey a change of `lr`."""
    starts, grads = problem(device, steps=5, dtype=torch.float32, shapes=[(1,), (4, 1)])
    rates = [0.1, 0.2, 0.0, 0.5, 0.05]
    compare(student, name, {"lr": 7.0}, ADAPTIVE[name], starts, grads, rates)


@pytest.mark.exercise("adaptive", points=2)
@pytest.mark.parametrize("name", list(ADAPTIVE))
def test_adaptive_leaves_gradients_alone(student, device, name):
    """`step` should change the parameters in place and leave the gradients as they are."""
    starts, grads = problem(device, steps=4)
    compare_untouched(student, name, {"lr": 0.1}, ADAPTIVE[name], starts, grads)


def torch_adam(params, decoupled=False, weight_decay=0.0, **settings):
    library = torch.optim.AdamW if decoupled else torch.optim.Adam
    return library(params, weight_decay=weight_decay, **settings)


ADAM_SETTINGS = [
    ({}, 1.0),
    ({"lr": 0.1}, 10.0),
    ({"lr": 0.1, "betas": (0.5, 0.9)}, 1.0),
    ({"lr": 0.1, "betas": (0.0, 0.99)}, 1.0),
    ({"lr": 0.1, "betas": (0.9, 0.0)}, 1.0),
    ({"lr": 0.1, "eps": 0.5}, 0.1),
    ({"lr": 0.1}, 1e-8),
]


@pytest.mark.exercise("adam", points=3)
@pytest.mark.parametrize("settings, scale", ADAM_SETTINGS)
def test_adam(student, device, settings, scale):
    """Adam's steps should equal torch.optim.Adam's, for any betas and eps."""
    starts, grads = problem(device, steps=20, scale=scale)
    compare(student, "Adam", settings, torch_adam, starts, grads)


@pytest.mark.exercise("adam", points=4)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.3, 2.0])
@pytest.mark.parametrize("lr", [0.05, 0.5])
def test_adam_weight_decay(student, device, decoupled, weight_decay, lr):
    """With weight_decay it should equal torch.optim.Adam, and with decoupled=True AdamW."""
    starts, grads = problem(device, steps=12)
    settings = {"lr": lr, "weight_decay": weight_decay, "decoupled": decoupled}
    compare(student, "Adam", settings, torch_adam, starts, grads)


@pytest.mark.exercise("adam", points=2)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_adam_first_step(student, device, scale):
    """The first step should be lr long in every coordinate, whatever the scale of the gradient."""
    starts, grads = problem(device, steps=1, scale=scale)
    (after,) = student.run(walk, "Adam", {"lr": 0.02, "eps": 1e-16}, starts, grads, None)
    for start, new, g in zip(starts, after, grads[0], strict=True):
        assert_close(new - start, -0.02 * g.sign(), "the first step", atol=1e-8)


@pytest.mark.exercise("adam", points=2)
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_counts_for_each_parameter(student, device, decoupled):
    """A parameter whose grad is None should be skipped, without decay; the t of its bias
    correction counts its own updates."""
    starts, grads = problem(device, steps=9)
    settings = {"lr": 0.1, "weight_decay": 0.5, "decoupled": decoupled}
    compare(student, "Adam", settings, torch_adam, starts, with_gaps(grads))


@pytest.mark.exercise("adam", points=2)
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_float32_lr_and_gradients(student, device, decoupled):
    """It should work in float32, obey a change of `lr`, and leave the gradients as they are."""
    settings = {"lr": 3.0, "weight_decay": 0.1, "decoupled": decoupled}
    starts, grads = problem(device, steps=4, dtype=torch.float32, shapes=[(1,), (4, 1)])
    compare(student, "Adam", settings, torch_adam, starts, grads, [0.1, 0.0, 0.3, 0.05])
    compare_untouched(student, "Adam", settings, torch_adam, starts, grads)


@pytest.mark.exercise("adam", points=2)
@pytest.mark.parametrize("betas", [(1.0, 0.999), (-0.1, 0.999), (0.9, 1.0), (0.9, -0.5)])
def test_adam_errors(student, betas):
    """A beta outside of [0, 1) should raise ValueError; (0, 0) is allowed."""
    assert_equal(student.run(make, "Adam", {"betas": (0.0, 0.0)}), True, "Adam with betas (0, 0)")
    with raises(ValueError):
        student.run(make, "Adam", {"betas": betas})


# --- optimizer -------------------------------------------------------------------------------


@probe
def framework(student, groups, defaults, grads, rule, stop, save_at, extra):
    """Run the student's Optimizer with one of three (phi, psi) pairs; returns the path, and the
    path of a second optimizer that goes on from what the first one saved."""

    def phi_sgd(g, state, group):
        return g

    def phi_momentum(g, state, group):  # in place: the state's tensor is the same all the time
        if "v" not in state:
            state["v"] = torch.zeros_like(g)
        return state["v"].mul_(group["mu"]).add_(g)

    def phi_adam(g, state, group):
        state["m"] = group["b1"] * state.get("m", 0) + (1 - group["b1"]) * g
        return state["m"] / (1 - group["b1"] ** state["step"])

    def psi_one(g, state, group):
        return torch.ones_like(g)

    def psi_adam(g, state, group):
        state["V"] = group["b2"] * state.get("V", 0) + (1 - group["b2"]) * g * g
        return state["V"] / (1 - group["b2"] ** state["step"])

    phi, psi = {
        "sgd": (phi_sgd, psi_one),
        "momentum": (phi_momentum, psi_one),
        "adam": (phi_adam, psi_adam),
    }[rule]

    def build():
        made = []
        for group in groups:
            params = [p.clone().requires_grad_() for p in group["params"]]
            made.append({**group, "params": params})
        params = [p for group in made for p in group["params"]]
        return made, params

    def run(optimizer, params, rows):
        path = []
        for row in rows:
            for p, g in zip(params, row):
                p.grad = None if g is None else g.clone()
            optimizer.step(phi, psi)
            path.append([p.detach().clone() for p in params])
        return path

    made, params = build()
    optimizer = student.Optimizer(made, defaults)
    if extra is not None:
        more = {**extra, "params": [p.clone().requires_grad_() for p in extra["params"]]}
        optimizer.add_param_group(more)
        params = params + more["params"]
    path = run(optimizer, params, grads[:save_at])
    saved = optimizer.state_dict()
    where = [p.detach().clone() for p in params]
    path += run(optimizer, params, grads[save_at:stop])

    again, others = build()
    for group in again:  # other settings, which loading must replace
        group["lr"] = 123.0
    second = student.Optimizer(again, defaults)
    if extra is not None:
        more = {"params": [p.clone().requires_grad_() for p in extra["params"]]}
        second.add_param_group(more)
        others = others + more["params"]
    second.load_state_dict(saved)
    for p, value in zip(others, where):
        p.data.copy_(value)
    resumed = run(second, others, grads[save_at:stop])

    third, thirds = build()
    last = student.Optimizer(third, defaults)
    if extra is not None:
        more = {"params": [p.clone().requires_grad_() for p in extra["params"]]}
        last.add_param_group(more)
        thirds = thirds + more["params"]
    last.load_state_dict(saved)  # a second time: the first one must not have used it up
    for p, value in zip(thirds, where):
        p.data.copy_(value)
    again_resumed = run(last, thirds, grads[save_at:stop])
    return path, resumed, again_resumed


RULES = {
    "sgd": ({"lr": 0.1}, lambda p, lr: torch.optim.SGD(p, lr)),
    "momentum": ({"lr": 0.1, "mu": 0.9}, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)),
    "adam": (
        {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
        lambda p, lr: torch.optim.Adam(p, lr, betas=(0.9, 0.99), eps=1e-3),
    ),
}


def exact(got, expected, what):
    for t, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert_close(g, e, f"{what}, parameters after step {t + 1}", rtol=0, atol=0)


@pytest.mark.exercise("optimizer", points=3)
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("gaps", [False, True])
def test_framework_matches_torch(student, device, rule, gaps):
    """`step(phi, psi)` should move each parameter by -lr m / (sqrt(V) + eps), with a state and a
    step count of its own; one without gradient is skipped."""
    defaults, library = RULES[rule]
    starts, grads = problem(device, steps=8)
    grads = with_gaps(grads) if gaps else grads
    path, _, _ = student.run(framework, [{"params": starts}], defaults, grads, rule, 8, 4, None)
    expected = torch_walk(lambda p: library(p, defaults["lr"]), starts, grads)
    for t in range(8):
        assert_close(path[t], expected[t], f"the parameters after step {t + 1}")


@pytest.mark.exercise("optimizer", points=2)
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("save_at", [0, 1, 5])
def test_resume(student, device, rule, save_at):
    """A second optimizer that loads the state_dict should go on exactly, bit for bit, as the first
    one does, with the saved settings; what is saved is a snapshot that later steps leave alone."""
    defaults, _ = RULES[rule]
    starts, grads = problem(device, steps=9)
    groups = [{"params": starts[:1]}, {"params": starts[1:], "lr": 0.03}]
    path, resumed, again = student.run(framework, groups, defaults, grads, rule, 9, save_at, None)
    exact(resumed, path[save_at:], "resumed")
    exact(again, path[save_at:], "resumed a second time")


@pytest.mark.exercise("optimizer", points=2)
@pytest.mark.parametrize("rule", list(RULES))
def test_groups_keep_their_settings(student, device, rule):
    """Each group should use its own settings, and the defaults for what it does not name, also a
    group that is added later."""
    defaults, library = RULES[rule]
    starts, grads = problem(device, steps=6)
    extra = {"params": starts[2:], "lr": 0.7}
    groups = [{"params": starts[:1], "lr": 0.01}, {"params": starts[1:2]}]
    path, resumed, _ = student.run(framework, groups, defaults, grads, rule, 6, 3, extra)
    for i, lr in enumerate((0.01, 0.1, 0.7)):
        own = [row[i : i + 1] for row in grads]
        expected = torch_walk(lambda p, lr=lr: library(p, lr), starts[i : i + 1], own)
        for t in range(6):
            assert_close(path[t][i : i + 1], expected[t], f"group {i} after step {t + 1}")
    exact(resumed, path[3:], "resumed")


@probe
def layout(student, single):
    a, b, c = (torch.zeros(2, requires_grad=True) for _ in range(3))
    first = {"params": a, "lr": 0.5}
    given = dict(first)
    defaults = {"lr": 0.1, "eps": 0.0}
    optimizer = student.Optimizer([first], defaults)
    second = {"params": (p for p in (b, c))}
    if not single:
        optimizer.add_param_group(second)
    for p in (a, c):
        p.grad = torch.ones(2)

    def phi(g, state, group):
        state["m"] = g * 2
        return state["m"]

    def psi(g, state, group):
        return torch.full_like(g, 4.0)

    optimizer.step(phi, psi)
    saved = optimizer.state_dict()
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    settings = [[group["lr"], group["eps"]] for group in optimizer.param_groups]
    same = list(first) == list(given) and first["params"] is a
    own = torch.is_tensor(optimizer.param_groups[0]["params"][0])
    value = a.detach().clone()
    return {
        "saved": saved,
        "sizes": sizes,
        "settings": settings,
        "defaults": [dict(optimizer.defaults), defaults],
        "your group is unchanged": same,
        "holds tensors": own,
        "steps": [optimizer.state[p]["step"] for p in (a, c) if p in optimizer.state],
        "value": value,
    }


@pytest.mark.exercise("optimizer", points=2)
@pytest.mark.parametrize("single", [True, False])
def test_layout(student, single):
    """`defaults`, `state`, `param_groups` and the state_dict should be laid out as described: the
    parameters are numbered through all groups, as in torch; your own dicts stay as they are."""
    got = student.run(layout, single)
    ones = {"step": 1, "m": torch.full((2,), 2.0)}
    groups = [{"lr": 0.5, "eps": 0.0, "params": [0]}]
    state = {0: ones}
    if not single:
        groups.append({"lr": 0.1, "eps": 0.0, "params": [1, 2]})
        state[2] = ones
    assert_close(got["saved"], {"state": state, "param_groups": groups}, "state_dict()")
    assert_equal(got["sizes"], [1] if single else [1, 2], "the sizes of the groups")
    assert_equal(got["settings"], [[g["lr"], g["eps"]] for g in groups], "lr and eps of the groups")
    assert_equal(got["defaults"], [{"lr": 0.1, "eps": 0.0}] * 2, "defaults")
    assert_equal(got["your group is unchanged"], True, "your own dict is unchanged")
    assert_equal(got["holds tensors"], True, "param_groups holds the tensors themselves")
    assert_equal(got["steps"], [1] if single else [1, 1], "the step counts")
    assert_close(got["value"], torch.full((2,), -0.5), "the parameter after one step")


@probe
def refuse(student, case):
    a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
    defaults = {"lr": 0.1}
    if case == "equal values are fine":
        return len(student.Optimizer([a, b], defaults).param_groups[0]["params"])
    if case == "no parameters":
        student.Optimizer([], defaults)
    if case == "an empty generator":
        student.Optimizer((p for p in ()), defaults)
    if case == "an empty group":
        student.Optimizer([{"params": []}], defaults)
    if case == "twice in a group":
        student.Optimizer([a, b, a], defaults)
    if case == "in two groups":
        student.Optimizer([{"params": [a]}, {"params": [b, a]}], defaults)
    if case == "added again":
        student.Optimizer([a], defaults).add_param_group({"params": [a]})
    if case == "added empty":
        student.Optimizer([a], defaults).add_param_group({"params": []})
    saved = student.Optimizer([{"params": [a]}, {"params": [b]}], defaults).state_dict()
    if case == "load other sizes":
        student.Optimizer([a, b], defaults).load_state_dict(saved)
    if case == "load fewer parameters":
        fewer = student.Optimizer([a], defaults).state_dict()
        student.Optimizer([a, b], defaults).load_state_dict(fewer)
    if case == "load more parameters":
        more = student.Optimizer([a, b], defaults).state_dict()
        student.Optimizer([a], defaults).load_state_dict(more)
    if case == "load fewer groups":
        student.Optimizer([a], defaults).load_state_dict(saved)
    if case == "load more groups":
        short = student.Optimizer([a], defaults).state_dict()
        student.Optimizer([{"params": [a]}, {"params": [b]}], defaults).load_state_dict(short)
    return -1


@pytest.mark.exercise("optimizer", points=3)
@pytest.mark.parametrize(
    "case",
    [
        "no parameters",
        "an empty generator",
        "an empty group",
        "twice in a group",
        "in two groups",
        "added again",
        "added empty",
        "load other sizes",
        "load fewer parameters",
        "load more parameters",
        "load fewer groups",
        "load more groups",
    ],
)
def test_optimizer_errors(student, case):
    """No parameters, an empty group, a parameter that is there already, and a state_dict of other
    groups should raise ValueError."""
    assert_equal(student.run(refuse, "equal values are fine"), 2, "two parameters of equal value")
    with raises(ValueError):
        student.run(refuse, case)


@probe
def back_to_the_start(student, again):
    """Load a state that was saved before the first step into an optimizer that has moved on."""

    def velocity(g, state, group):
        state["v"] = 0.5 * state.get("v", torch.zeros_like(g)) + g
        return state["v"]

    def one(g, state, group):
        return torch.ones_like(g)

    p = torch.zeros(2, requires_grad=True)
    optimizer = student.Optimizer([p], {"lr": 0.1})
    saved = optimizer.state_dict()
    sizes = []
    for turn in range(3):
        if turn == 2 and again:
            optimizer.load_state_dict(saved)
        before = p.detach().clone()
        p.grad = torch.ones(2)
        optimizer.step(velocity, one)
        sizes.append((before - p.detach())[0].item())
    return sizes, optimizer.state_dict()["state"][0]["step"]


@pytest.mark.exercise("optimizer", points=1)
@pytest.mark.parametrize("again", [True, False])
def test_loading_replaces_the_state(student, again):
    """`load_state_dict` should replace the states: what is not in `saved` is forgotten."""
    sizes, count = student.run(back_to_the_start, again)
    third = 0.1 if again else 0.175
    assert_close(sizes, [0.1, 0.15, third], "the lengths of the three steps", rtol=1e-5)
    assert_equal(count, 1 if again else 3, "the step count after them")


@probe
def cleared(student):
    a, b, c = (torch.zeros(2, requires_grad=True) for _ in range(3))
    optimizer = student.Optimizer([{"params": [a]}, {"params": [b, c]}], {"lr": 0.1})
    a.grad, c.grad = torch.ones(2), torch.ones(2)
    kept = a.grad
    optimizer.zero_grad()
    return [p.grad is None for p in (a, b, c)], kept


@pytest.mark.exercise("optimizer", points=2)
def test_zero_grad(student):
    """`zero_grad` should set every grad to None, as torch does, in all groups."""
    none, kept = student.run(cleared)
    assert_equal(none, [True, True, True], "grad is None")
    assert_close(kept, torch.ones(2), "a gradient that somebody kept")


# --- schedules -------------------------------------------------------------------------------

S = torch.optim.lr_scheduler


@probe
def halve_every_third(epoch):
    return 0.5 ** (epoch // 3)


def torch_rates(scheduler, base, kw, epochs=40):
    # Two groups: the second starts at a quarter of the first one's rate.
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": base},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": base / 4},
    ]
    optimizer = torch.optim.SGD(groups, base)
    schedule = scheduler(optimizer, **kw)
    rates = []
    for _ in range(epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return [list(column) for column in zip(*rates, strict=True)]


def schedule_case(student, kind, scheduler, base, kw):
    first, second = torch_rates(scheduler, base, kw)
    for rate, expected in ((base, first), (base / 4, second)):
        for epoch in range(40):
            got = student.lr_at(kind, epoch, rate, **kw)
            assert_close(got, expected[epoch], f"the rate at epoch {epoch}")


@pytest.mark.exercise("schedules", points=2)
@pytest.mark.parametrize(
    "kw", [{"step_size": 10}, {"step_size": 7, "gamma": 0.5}, {"step_size": 1, "gamma": 0.9}]
)
def test_step(student, kw):
    """ "step" should equal torch's StepLR for 40 epochs."""
    schedule_case(student, "step", S.StepLR, 0.3, kw)


@pytest.mark.exercise("schedules", points=2)
@pytest.mark.parametrize(
    "kw",
    [
        {"milestones": [5, 20]},
        {"milestones": [30, 8, 14], "gamma": 0.5},
        {"milestones": [6, 6, 50], "gamma": 0.3},
        {"milestones": [], "gamma": 0.3},
    ],
)
def test_multistep(student, kw):
    """ "multistep" should equal torch's MultiStepLR for 40 epochs, whatever the order of the
    milestones."""
    schedule_case(student, "multistep", S.MultiStepLR, 0.3, kw)


@pytest.mark.exercise("schedules", points=2)
@pytest.mark.parametrize("kw", [{"gamma": 0.9}, {"gamma": 1.02}])
def test_exp(student, kw):
    """ "exp" should equal torch's ExponentialLR for 40 epochs."""
    schedule_case(student, "exp", S.ExponentialLR, 2.0, kw)


@pytest.mark.exercise("schedules", points=3)
@pytest.mark.parametrize(
    "kw", [{"T_max": 40}, {"T_max": 10}, {"T_max": 7, "eta_min": 0.02}, {"T_max": 1}]
)
def test_cosine(student, kw):
    """ "cosine" should equal torch's CosineAnnealingLR for 40 epochs, beyond T_max too."""
    schedule_case(student, "cosine", S.CosineAnnealingLR, 0.4, kw)


@pytest.mark.exercise("schedules", points=3)
@pytest.mark.parametrize(
    "kw",
    [
        {"T_0": 10},
        {"T_0": 4, "T_mult": 2},
        {"T_0": 3, "T_mult": 3, "eta_min": 0.01},
        {"T_0": 1},
        {"T_0": 50, "eta_min": 0.05},
    ],
)
def test_restarts(student, kw):
    """ "restarts" should equal torch's CosineAnnealingWarmRestarts for 40 epochs."""
    schedule_case(student, "restarts", S.CosineAnnealingWarmRestarts, 0.4, kw)


@pytest.mark.exercise("schedules", points=2)
@pytest.mark.parametrize("base", [0.3, 2.0])
def test_lambda(student, base):
    """ "lambda" should equal torch's LambdaLR: the function's factor times the base rate."""
    schedule_case(student, "lambda", S.LambdaLR, base, {"lr_lambda": halve_every_third})


@pytest.mark.exercise("schedules", points=1)
@pytest.mark.parametrize("kind", ["linear", "", "Step"])
def test_unknown_schedule(student, kind):
    """`lr_at` should raise ValueError for a kind that is not in its list."""
    with raises(ValueError):
        student.lr_at(kind, 3, 0.1)


# --- plateau ---------------------------------------------------------------------------------


@probe
def follow(student, lr, settings, metrics):
    plateau = student.Plateau(lr, **settings)
    rates, attribute = [], []
    for metric in metrics:
        rates.append(plateau.step(metric))
        attribute.append(plateau.lr)
    return rates, attribute


def torch_plateau(lr, settings, metrics):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    schedule = S.ReduceLROnPlateau(optimizer, **settings)
    rates = []
    for metric in metrics:
        optimizer.step()
        schedule.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def plateau_case(student, lr, settings, metrics):
    rates, attribute = student.run(follow, lr, settings, metrics)
    expected = torch_plateau(lr, settings, metrics)
    assert_close(rates, expected, "what `step` returns", atol=1e-15, rtol=1e-9)
    assert_close(attribute, expected, "`lr` after each step", atol=1e-15, rtol=1e-9)


def series(steps, mode):
    """A metric that gets better for a while, then only jitters."""
    trend = torch.exp(-torch.arange(steps) / 6.0).double() + 0.5 + 0.1 * rand(steps)
    return [float(v) for v in (trend if mode == "min" else 3 - trend)]


@pytest.mark.exercise("plateau", points=4)
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("cooldown", [0, 1, 4])
def test_plateau_matches_torch(student, mode, patience, cooldown):
    """The rates should equal those of torch's ReduceLROnPlateau on any series, in both modes."""
    for _ in range(3):
        settings = {
            "mode": mode,
            "factor": float(0.2 + 0.6 * rand(1)),
            "patience": patience,
            "cooldown": cooldown,
            "threshold": float(0.1 * rand(1)),
        }
        plateau_case(student, 0.1, settings, series(40, mode))


@pytest.mark.exercise("plateau", points=1)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_defaults(student, mode):
    """The defaults should be torch's: a tenth after more than ten bad steps, and an improvement
    counts from one part in ten thousand on."""
    flat = [1.0] * 40
    slow = [1.0 * (1 - 0.9e-4) ** t for t in range(30)]
    fine = [1.0 * (1 - 1.2e-4) ** t for t in range(30)]
    for metrics in (flat, slow, fine):
        metrics = metrics if mode == "min" else [1 / m for m in metrics]
        plateau_case(student, 0.5, {"mode": mode}, metrics)
    plateau_case(student, 0.5, {}, flat)


@pytest.mark.exercise("plateau", points=1)
@pytest.mark.parametrize(
    "settings",
    [
        {"min_lr": 0.03},
        {"min_lr": 0.2},
        {"eps": 0.02, "factor": 0.7},
        {"eps": 0.03125, "factor": 0.5},
        {"factor": 0.9, "min_lr": 0.05, "eps": 0.011},
    ],
)
def test_plateau_floor(student, settings):
    """The rate should not fall below min_lr, and a change of at most eps is left out."""
    plateau_case(student, 0.125, {"patience": 0, **settings}, [1.0] * 15)


@pytest.mark.exercise("plateau", points=1)
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold", [0.25, 0.0])
def test_plateau_equal_is_bad(student, mode, threshold):
    """A metric that only reaches the bar, and does not pass it, counts as bad."""
    bar = 0.75 if mode == "min" else 1.25
    sign = -1 if mode == "min" else 1
    metrics = [1.0, bar, bar + sign * 2**-6, bar + sign * 2**-6, 1.0, 1.0, bar * 4**sign]
    settings = {"mode": mode, "patience": 1, "threshold": threshold, "factor": 0.5}
    plateau_case(student, 1.0, settings, metrics)
    plateau_case(student, 1.0, {**settings, "patience": 0}, metrics)


@pytest.mark.exercise("plateau", points=2)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_nan(student, mode):
    """A metric that is NaN should count as bad, also the first one, and never become the best."""
    nan = float("nan")
    settings = {"mode": mode, "patience": 1, "factor": 0.5}
    plateau_case(student, 1.0, settings, [nan, nan, nan, 1.0, nan, nan, 2.0, 0.5, nan, nan])
    plateau_case(student, 1.0, settings, [1.0, nan, 1.0, nan, nan, nan])


@probe
def build_plateau(student, settings):
    student.Plateau(0.1, **settings)
    return True


@pytest.mark.exercise("plateau", points=1)
@pytest.mark.parametrize("settings", [{"factor": 1.0}, {"factor": 1.5}, {"mode": "low"}])
def test_plateau_errors(student, settings):
    """A factor of 1 or more, or another mode than min and max, should raise ValueError."""
    assert_equal(student.run(build_plateau, {"factor": 0.99, "mode": "max"}), True, "factor 0.99")
    with raises(ValueError):
        student.run(build_plateau, settings)


# --- warmup ----------------------------------------------------------------------------------


@pytest.mark.exercise("warmup", points=1)
@pytest.mark.parametrize(
    "total, warmup, base, final",
    [(40, 8, 0.5, 0.0), (25, 2, 0.1, 0.01), (30, 29, 1.0, 0.2), (17, 5, 2.0, 0.0)],
)
def test_warmup_matches_torch(student, total, warmup, base, final):
    """It should equal torch's LinearLR for the warm-up, followed by CosineAnnealingLR."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], base)
    up = S.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    down = S.CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=final)
    schedule = S.SequentialLR(optimizer, [up, down], milestones=[warmup])
    expected = []
    for _ in range(total + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for t in range(total + 1):
        got = student.warmup_cosine(t, total, warmup, base, final)
        assert_close(got, expected[t], f"the rate at step {t}")


@pytest.mark.exercise("warmup", points=1)
@pytest.mark.parametrize("warmup", [0, 1, 6])
def test_warmup_joint_and_end(student, warmup):
    """The rate should be `base` at the joint, from the first step on without warm-up, and `final`
    from step `total` on; `final` is 0 if it is not given."""
    f = student.warmup_cosine
    assert_close(f(warmup, 20, warmup, 0.3), 0.3, f"the rate at step {warmup}")
    if warmup:
        assert_close(f(warmup - 1, 20, warmup, 0.3), 0.3, f"the rate at step {warmup - 1}")
        assert_close(f(0, 20, warmup, 0.3, 0.1), 0.3 / warmup, "the rate at step 0")
    middle = (20 + warmup) / 2
    assert_close(f(middle, 20, warmup, 0.3, 0.1), 0.2, "the rate halfway down")
    for step in (20, 21, 35):
        assert_close(f(step, 20, warmup, 0.3, 0.1), 0.1, f"the rate at step {step}")
        assert_close(f(step, 20, warmup, 0.3), 0.0, f"the rate at step {step}, final not given")
    assert_close(f(4, 20, 20, 0.3), 0.075, "the rate at step 4 of a warm-up of 20")
    assert_close(f(20, 20, 20, 0.3, 0.1), 0.1, "the rate at step 20 when all was warm-up")


@pytest.mark.exercise("warmup", points=1)
@pytest.mark.parametrize("warmup, total", [(-1, 10), (11, 10)])
def test_warmup_errors(student, warmup, total):
    """A warm-up that is negative or longer than the training should raise ValueError."""
    with raises(ValueError):
        student.warmup_cosine(2, total, warmup, 0.1)


@pytest.mark.exercise("warmup", points=2)
@pytest.mark.parametrize(
    "args, expected",
    [
        ((256,), 0.1),
        ((1,), 0.1 / 256),
        ((8192,), 3.2),
        ((64, 0.4), 0.1),
        ((96, 0.3, 32), 0.9),
        ((100, 0.05, 400), 0.0125),
    ],
)
def test_scaled_lr(student, args, expected):
    """The rate should grow in proportion to the batch, from ref_lr at ref_batch."""
    assert_close(student.scaled_lr(*args), expected, f"scaled_lr{args}")
