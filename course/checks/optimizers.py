"""Public checks of the chapter on optimizers."""

import math

import pytest
import torch

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "critical": [
        "`jacobian(f, x)` and `hessian(f, x)` of `torch.autograd.functional` give gradient and "
        "Hessian; `torch.linalg.eigvalsh` the eigenvalues of a symmetric matrix.",
        "First the gradient. Then count the eigenvalues above tol and those below -tol: what do "
        "the two counts say? Test for the saddle before the zeros.",
        "`newton_step`: solve (H + damping I) d = g with `torch.linalg.solve`, and subtract d.",
    ],
    "momentum": [
        "Keep a dict from parameter to velocity. It has no entry before the parameter's first "
        "step.",
        "In this order: weight decay into g, then the velocity, then the direction (g, v, or "
        "g + momentum * v), then the step. Make a new g instead of changing `p.grad`.",
        "First step: v = g. Later: v = momentum * v + (1 - dampening) * g.",
    ],
    "adaptive": [
        "One tensor of zeros for each parameter, made in `__init__`, is the memory. Update it in "
        "place, or store the new one.",
        "The average first, then the step, which uses the new average. eps outside the root in "
        "Adagrad and RMSprop, inside both roots in Adadelta.",
        "Adadelta has two averages. The step uses the *old* average of steps and the new one of "
        "squares; then the step's square goes into the average.",
    ],
    "adam": [
        "Each parameter has an m, a v and a count t of its own. t is 1 in the first step.",
        "Store the averages as they are. The corrected ones, divided by 1 - beta ** t, are only "
        "used for this step.",
        "Decay: decoupled multiplies p by 1 - lr * weight_decay and leaves g alone; else g + "
        "weight_decay * p goes into both averages.",
    ],
    "optimizer": [
        "`__init__` can leave the work to `add_param_group`: a plain list of tensors is one group. "
        "A generator can be read only once, so make lists.",
        "`{**self.defaults, **group, ...}` merges settings, the later one wins. Compare parameters "
        "as objects: sets and dicts do, `==` and `in list` compare values.",
        "Number all parameters through the groups, and use the same numbers in the state and in "
        "the groups. `copy.deepcopy` makes the snapshot, when saving and when loading.",
    ],
    "schedules": [
        "Each kind is one line from the table; `kw` holds its arguments, `kw.get(name, default)` "
        "those with a default.",
        '`//` is the floor for "step"; for "multistep" count the milestones m with m <= epoch.',
        '"restarts": subtract whole cycles, each T_mult times as long, until the epoch lies in '
        "the current one.",
    ],
    "plateau": [
        "Three things to remember: best, bad epochs in a row, epochs of cooldown left.",
        "Follow the three numbered rules of the text in their order. What is the worst possible "
        "best to begin with, in each mode?",
        "Compare with > patience, not >=. NaN: every comparison with it is False, so ask whether "
        "the metric is better, not whether it is worse.",
    ],
    "warmup": [
        "Three pieces: before `warmup`, from there to `total`, and after.",
        "In the warm-up, step s is the (s + 1)-th of `warmup` steps. In the cosine, progress runs "
        "from 0 at step `warmup` to 1 at step `total`.",
    ],
    "debug": [
        "Print the rate at every update. How often does it change in one epoch?",
        "A schedule that counts epochs is to be told about epochs. Which loop ends with an epoch?",
    ],
}


def fed(optimizer, params, grads):
    """Feed gradients, one row a step; returns the first parameter after each step."""
    path = []
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else torch.tensor(g, dtype=p.dtype)
        optimizer.step()
        path.append(params[0].tolist())
    return path


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@probe
def bowl(p):
    return p[0] ** 2 + 3 * p[1] ** 2


@probe
def moved_bowl(p):
    return (p[0] - 1) ** 2 + 2 * p[1] ** 2


@probe
def hill(p):
    return -(p[0] ** 2) - p[1] ** 2


@probe
def saddle(p):
    return p[0] ** 2 - p[1] ** 2


@probe
def flat_bottom(p):
    return p[0] ** 2 + p[1] ** 4


@probe
def one_more(e):
    return e + 1


@pytest.mark.exercise("critical")
def test_four_kinds(student):
    """`classify` tells a minimum, a maximum, a saddle and a degenerate point apart."""
    zero = torch.zeros(2, dtype=torch.float64)
    kinds = {"min": bowl, "max": hill, "saddle": saddle, "degenerate": flat_bottom}
    for kind, f in kinds.items():
        assert_equal(student.classify(f, zero, 1e-6), kind, "`classify(f, x, tol)`")


@pytest.mark.exercise("critical")
def test_slope_is_refused(student):
    """`classify` raises ValueError where the gradient is not zero."""
    with raises(ValueError):
        student.classify(bowl, torch.ones(2, dtype=torch.float64), 1e-6)


@pytest.mark.exercise("critical")
def test_one_newton_step(student):
    """`newton_step` goes to the lowest point of a bowl at once, and less far with damping."""
    x = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert_close(
        student.newton_step(moved_bowl, x),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        "`newton_step(f, x)`",
        atol=1e-6,
        symptoms={
            "The step goes uphill: it is minus H⁻¹ g.": torch.tensor([3.0, -2.0]).double(),
            "This is only the step; return the new point.": torch.tensor([-1.0, 1.0]).double(),
        },
    )
    expected = torch.tensor([2 - 2 / 4, -1 + 4 / 6], dtype=torch.float64)
    assert_close(student.newton_step(moved_bowl, x, 2.0), expected, "the step with damping 2")


@pytest.mark.exercise("momentum")
def test_plain_step(student):
    """Without momentum, `SGD` moves by -lr times the gradient, weight decay included."""
    w = parameter(1.0, -2.0)
    fed(student.SGD([w], lr=0.1), [w], [[[3.0, 0.0]]])
    assert_close(
        w.tolist(),
        [0.7, -2.0],
        "the parameter",
        symptoms={"It climbs: the step is minus the gradient.": [1.3, -2.0]},
    )
    w = parameter(1.0, -2.0)
    fed(student.SGD([w], lr=0.1, weight_decay=0.5), [w], [[[3.0, 0.0]]])
    assert_close(w.tolist(), [0.65, -1.9], "the parameter with weight_decay=0.5")


@pytest.mark.exercise("momentum")
def test_velocity_builds_up(student):
    """With momentum 0.5 and gradients of 1, the steps are lr times 1, 1.5 and 1.75."""
    w = parameter(0.0)
    path = fed(student.SGD([w], lr=1.0, momentum=0.5), [w], [[[1.0]]] * 3)
    assert_close(
        path,
        [[-1.0], [-2.5], [-4.25]],
        "the parameter after each step",
        symptoms={
            "This is the averaging form; PyTorch adds the whole gradient.": [
                [-0.5],
                [-1.25],
                [-2.125],
            ],
        },
    )
    w = parameter(0.0)
    damped = student.SGD([w], lr=1.0, momentum=0.5, dampening=0.5)
    assert_close(
        fed(damped, [w], [[[1.0]]] * 2),
        [[-1.0], [-2.0]],
        "with dampening 0.5",
        symptoms={"Dampening does not act in the first step.": [[-0.5], [-1.25]]},
    )


@pytest.mark.exercise("momentum")
def test_nesterov(student):
    """Nesterov steps along g + momentum * v, and asks for momentum without dampening."""
    w = parameter(0.0)
    path = fed(student.SGD([w], lr=1.0, momentum=0.5, nesterov=True), [w], [[[1.0]]] * 2)
    assert_close(path, [[-1.5], [-3.25]], "the parameter after each step")
    with raises(ValueError):
        student.SGD([w], lr=0.1, nesterov=True)
    with raises(ValueError):
        student.SGD([w], lr=-0.1)


@pytest.mark.exercise("momentum")
def test_no_gradient_no_step(student):
    """A parameter without gradient stays where it is, and gradients stay as they are."""
    a, b = parameter(1.0), parameter(2.0)
    optimizer = student.SGD([a, b], lr=0.1, momentum=0.9, weight_decay=0.1)
    fed(optimizer, [a, b], [[[1.0], None]])
    assert_close(b.tolist(), [2.0], "the parameter without gradient")
    assert_close(a.grad.tolist(), [1.0], "the gradient after the step")


@pytest.mark.exercise("adaptive")
def test_adagrad_steps(student):
    """`Adagrad` with a constant gradient makes steps of lr, lr / sqrt(2), lr / sqrt(3)."""
    w = parameter(0.0, 0.0)
    path = fed(student.Adagrad([w], lr=1.0), [w], [[[5.0, -0.1]]] * 3)
    sums = [1.0, 1 + 0.5**0.5, 1 + 0.5**0.5 + 3**-0.5]
    assert_close(path, [[-s, s] for s in sums], "the parameter after each step", rtol=1e-6)


@pytest.mark.exercise("adaptive")
def test_rmsprop_step(student):
    """`RMSprop` divides by the root of its average, which starts at zero; eps is outside."""
    w = parameter(0.0)
    path = fed(student.RMSprop([w], lr=1.0, alpha=0.75, eps=1.0), [w], [[[4.0]]] * 2)
    first = 4 / (2 + 1)
    second = 4 / (math.sqrt(0.75 * 4 + 0.25 * 16) + 1)
    inside = 4 / math.sqrt(4 + 1)
    assert_close(
        path,
        [[-first], [-first - second]],
        "the parameter after each step",
        symptoms={
            "eps is inside the root; here it belongs outside.": [
                [-inside],
                [-inside - 4 / math.sqrt(8)],
            ],
            "alpha is the share of the *old* average.": [
                [-4 / (math.sqrt(12) + 1)],
                [-4 / (math.sqrt(12) + 1) - 4 / (math.sqrt(15) + 1)],
            ],
        },
    )


@pytest.mark.exercise("adaptive")
def test_adadelta_step(student):
    """`Adadelta` starts with steps of about sqrt(eps / (1 - rho)), and speeds up."""
    w = parameter(0.0)
    path = fed(student.Adadelta([w], rho=0.5, eps=0.02), [w], [[[2.0]]] * 2)
    d1 = math.sqrt(0.02 / 2.02) * 2
    a1 = 0.5 * d1**2
    d2 = math.sqrt((a1 + 0.02) / 3.02) * 2
    late = math.sqrt((0.5 * d1**2 + 0.02) / 2.02) * 2
    assert_close(
        path,
        [[-d1], [-d1 - d2]],
        "the parameter after each step",
        symptoms={"The average of squares is old; use the new one.": [[-late], [-late - d2]]},
    )


@pytest.mark.exercise("adaptive")
def test_adaptive_skips_none(student):
    """A parameter whose grad is None is left alone by all three."""
    for made in (student.Adagrad, student.RMSprop, student.Adadelta):
        a, b = parameter(1.0), parameter(2.0)
        fed(made([a, b]), [a, b], [[[1.0], None]])
        assert_close(b.tolist(), [2.0], "the parameter without gradient")
        assert_true(a.item() < 1.0, "The parameter with a positive gradient should get smaller.")


@pytest.mark.exercise("adam")
def test_adam_first_two(student):
    """`Adam`: the first step is lr long; a second, smaller gradient gives a shorter one."""
    w = parameter(0.0, 0.0)
    path = fed(student.Adam([w], lr=0.1, eps=0.0), [w], [[[7.0, -1e-3]]])
    assert_close(
        path[0],
        [-0.1, 0.1],
        "the parameter after one step",
        symptoms={
            "The averages are not corrected for their start at zero.": [
                -0.1 * 0.1 / 0.001**0.5,
                0.1 * 0.1 / 0.001**0.5,
            ]
        },
    )
    w = parameter(0.0)
    path = fed(student.Adam([w], lr=1.0, betas=(0.5, 0.5), eps=0.0), [w], [[[3.0]], [[0.0]]])
    # m = 1.5, 0.75; v = 4.5, 2.25; both divided by 0.75 in the second step.
    assert_close(path, [[-1.0], [-1 - 1 / 3**0.5]], "the parameter after each step")


@pytest.mark.exercise("adam")
def test_adam_decay(student):
    """Decoupled decay multiplies by 1 - lr * weight_decay; otherwise it goes into the gradient."""
    w = parameter(10.0)
    fed(student.Adam([w], lr=0.1, weight_decay=0.5, decoupled=True), [w], [[[1.0]]])
    assert_close(
        w.tolist(),
        [9.4],
        "the parameter, decoupled",
        rtol=1e-6,
        symptoms={"The decay lacks the learning rate.": [4.9]},
    )
    w = parameter(10.0)
    fed(student.Adam([w], lr=0.1, weight_decay=0.5), [w], [[[1.0]]])
    assert_close(w.tolist(), [9.9], "the parameter, with decay in the gradient", rtol=1e-6)


@pytest.mark.exercise("adam")
def test_adam_refuses(student):
    """`Adam` raises ValueError for a beta of 1, and leaves parameters without gradient alone."""
    with raises(ValueError):
        student.Adam([parameter(0.0)], betas=(0.9, 1.0))
    a, b = parameter(1.0), parameter(2.0)
    optimizer = student.Adam([a, b], lr=0.1, weight_decay=0.5, decoupled=True)
    fed(optimizer, [a, b], [[[1.0], None]])
    assert_close(b.tolist(), [2.0], "the parameter without gradient")


@probe
def velocity(g, state, group):
    state["v"] = group["mu"] * state.get("v", torch.zeros_like(g)) + g
    return state["v"]


@probe
def ones(g, state, group):
    return torch.ones_like(g)


@pytest.mark.exercise("optimizer")
def test_groups_and_steps(student):
    """`step(phi, psi)` uses each group's own settings, and counts the updates."""
    a, b = parameter(0.0), parameter(0.0)
    groups = [{"params": [a]}, {"params": b, "lr": 1.0}]
    optimizer = student.Optimizer(groups, {"lr": 0.1, "mu": 0.5})
    for _ in range(2):
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        optimizer.step(velocity, ones)
    assert_close([a.item(), b.item()], [-0.25, -2.5], "the parameters after two steps")
    assert_equal(optimizer.state[a]["step"], 2, "`state[a]['step']`")
    optimizer.zero_grad()
    assert_true(a.grad is None and b.grad is None, "`zero_grad` sets every grad to None.")


@pytest.mark.exercise("optimizer")
def test_save_and_resume(student):
    """A saved state is a snapshot, numbers the parameters, and can be loaded elsewhere."""
    a, b = parameter(0.0), parameter(0.0)
    optimizer = student.Optimizer([a], {"lr": 0.1, "mu": 0.5})
    a.grad = torch.ones_like(a)
    optimizer.step(velocity, ones)
    saved = optimizer.state_dict()
    optimizer.step(velocity, ones)
    expected = {
        "state": {0: {"step": 1, "v": torch.ones(1, dtype=torch.float64)}},
        "param_groups": [{"lr": 0.1, "mu": 0.5, "params": [0]}],
    }
    assert_close(saved, expected, "state_dict(), saved after one step,")
    other = student.Optimizer([b], {"lr": 9.0, "mu": 0.0})
    other.load_state_dict(saved)
    b.grad = torch.ones_like(b)
    other.step(velocity, ones)
    assert_close(b.item(), -0.15, "the other parameter's step after loading")


@pytest.mark.exercise("optimizer")
def test_refuses_parameters(student):
    """No parameters, or one of them twice, raises ValueError."""
    a, b = parameter(0.0), parameter(0.0)
    with raises(ValueError):
        student.Optimizer([], {"lr": 0.1})
    with raises(ValueError):
        student.Optimizer([{"params": [a]}, {"params": [a]}], {"lr": 0.1})
    student.Optimizer([a, b], {"lr": 0.1})  # equal values, but two parameters


@pytest.mark.exercise("schedules")
def test_powers(student):
    """`lr_at` for "step", "multistep", "exp" and "lambda" multiplies the base by a factor."""
    f = student.lr_at
    rates = [f("step", e, 1.0, step_size=2, gamma=0.5) for e in range(5)]
    assert_close(rates, [1, 1, 0.5, 0.5, 0.25], '"step" with step_size 2')
    rates = [f("multistep", e, 1.0, milestones=[3, 1]) for e in range(5)]
    assert_close(
        rates,
        [1, 0.1, 0.1, 0.01, 0.01],
        '"multistep" with milestones 3 and 1',
        symptoms={"At the milestone itself the rate falls already.": [1, 1, 0.1, 0.1, 0.01]},
    )
    rates = [f("exp", e, 2.0, gamma=0.5) for e in range(4)]
    assert_close(rates, [2, 1, 0.5, 0.25], '"exp" with gamma 0.5')
    assert_close(f("lambda", 3, 0.5, lr_lambda=one_more), 2.0, '"lambda" with e + 1')


@pytest.mark.exercise("schedules")
def test_cosines(student):
    """ "cosine" falls to eta_min at T_max and rises again; "restarts" jumps back to the base."""
    f = student.lr_at
    rates = [f("cosine", e, 1.0, T_max=2, eta_min=0.2) for e in range(5)]
    assert_close(
        rates,
        [1, 0.6, 0.2, 0.6, 1],
        '"cosine" with T_max 2',
        symptoms={"Beyond T_max the cosine rises again.": [1, 0.6, 0.2, 0.2, 0.2]},
    )
    rates = [f("restarts", e, 1.0, T_0=2, T_mult=2) for e in range(7)]
    low = (1 + math.cos(3 * math.pi / 4)) / 2
    assert_close(rates, [1, 0.5, 1, 1 - low, 0.5, low, 1], '"restarts" with T_0 2, T_mult 2')


@pytest.mark.exercise("schedules")
def test_other_kinds(student):
    """Another kind raises ValueError."""
    with raises(ValueError):
        student.lr_at("plateau", 1, 0.1)


@pytest.mark.exercise("plateau")
def test_patience_and_cooldown(student):
    """Patience 1 accepts one bad epoch; in the cooldown none is counted."""
    plateau = student.Plateau(1.0, factor=0.5, patience=1, cooldown=1)
    rates = [plateau.step(1.0) for _ in range(7)]
    assert_close(
        rates,
        [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25],
        "the rates for a metric that stays at 1",
        symptoms={
            "It lowers one epoch too early: patience bad epochs are accepted.": [
                1,
                0.5,
                0.5,
                0.25,
                0.25,
                0.125,
                0.125,
            ],
            "The cooldown seems to have no effect.": [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125],
        },
    )
    assert_close(plateau.lr, 0.25, "`lr`")


@pytest.mark.exercise("plateau")
def test_modes_and_nan(student):
    """Mode "max" waits for larger values; NaN counts as bad."""
    plateau = student.Plateau(1.0, mode="max", factor=0.5, patience=0)
    rates = [plateau.step(m) for m in (1.0, 2.0, 1.5, float("nan"), 3.0)]
    assert_close(rates, [1, 1, 0.5, 0.25, 0.25], 'the rates in mode "max"')


@pytest.mark.exercise("plateau")
def test_floor_and_errors(student):
    """The rate stops at min_lr; a factor of 1 raises ValueError."""
    plateau = student.Plateau(1.0, factor=0.5, patience=0, min_lr=0.3)
    assert_close([plateau.step(1.0) for _ in range(4)], [1, 0.5, 0.3, 0.3], "the rates")
    with raises(ValueError):
        student.Plateau(1.0, factor=1.0)


@pytest.mark.exercise("warmup")
def test_three_pieces(student):
    """`warmup_cosine` climbs to the base rate, falls to `final`, and stays there."""
    rates = [student.warmup_cosine(s, 6, 2, 1.0, 0.2) for s in range(8)]
    half = 0.4 * math.cos(math.pi / 4)
    assert_close(
        rates,
        [0.5, 1, 1, 0.6 + half, 0.6, 0.6 - half, 0.2, 0.2],
        "the rates for 6 steps, 2 of them warm-up",
        symptoms={
            "The cosine counts from step 0; it should count from the end of the warm-up.": [
                0.5,
                1,
                *[0.6 + 0.4 * math.cos(math.pi * s / 6) for s in range(2, 6)],
                0.2,
                0.2,
            ]
        },
    )
    assert_close(student.warmup_cosine(0, 10, 0, 0.3), 0.3, "the first rate without warm-up")


@pytest.mark.exercise("warmup")
def test_batch_rule(student):
    """`scaled_lr` grows in proportion to the batch."""
    assert_close(student.scaled_lr(512), 0.2, "`scaled_lr(512)`")
    assert_close(student.scaled_lr(32, 0.4, 64), 0.2, "`scaled_lr(32, 0.4, 64)`")


@probe
def rates_of_two_epochs(student):
    w = torch.tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    rates = student.train(optimizer, scheduler, [lambda: ((w - 1) ** 2).sum()] * 3, 2)
    return rates, w.item()


@pytest.mark.exercise("debug")
def test_rate_by_epochs(student):
    """`train` keeps the rate within an epoch, the schedule acts between epochs, and every step uses
    the gradient of its own batch."""
    rates, w = student.run(rates_of_two_epochs)
    assert_close(
        rates,
        [0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
        "the rates of the six updates",
        symptoms={
            "The rate falls with every batch.": [0.1 * 0.1**k for k in range(6)],
            "The schedule acts before the first epoch is over.": [0.01] * 3 + [0.001] * 3,
        },
    )
    # Each step on (w - 1)² multiplies the distance from 1 by 1 - 2 lr.
    assert_close(w, 1 - 0.8**3 * 0.98**3, "w after the training", rtol=1e-5)
