"""Hidden tests of the chapter on regularisation and dropout."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Lasso, Ridge
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_shape,
    assert_true,
    probe,
    raises,
    randn,
    unchanged,
)


def near(got, expected, count, what, spread=1.0):
    """The mean of `count` numbers of standard deviation `spread`, within six of its own."""
    assert_close(got, expected, what, rtol=0.0, atol=6 * spread / math.sqrt(count))


def about(got, expected, what, step=0.05):
    """A coarse look before the fine one: random numbers that are wrong, but wrong in the same way,
    round to the same value."""
    got = [float(v) for v in got]
    rounded = [round(v / step) * step if math.isfinite(v) else v for v in got]
    assert_close(rounded, expected, f"{what}, to the nearest {step}", rtol=0.0, atol=step / 2)


def alike_along(mask):
    """The axes (of more than one entry) along which a mask is the same."""
    return [
        axis
        for axis, n in enumerate(mask.shape)
        if n > 1 and torch.equal(mask, mask.narrow(axis, 0, 1).expand_as(mask))
    ]


# --- biasvar -----------------------------------------------------------------------------------


@probe
def straight_line(x, y):
    A = torch.stack([torch.ones_like(x), x], dim=1)
    return A @ torch.linalg.lstsq(A, y).solution


@probe
def cubic(x, y):
    A = torch.stack([x**k for k in range(4)], dim=1)
    return A @ torch.linalg.lstsq(A, y).solution


@probe
def quintic(x, y):
    A = torch.stack([x**k for k in range(6)], dim=1)
    return A @ torch.linalg.lstsq(A, y).solution


@probe
def half_x(x, y):
    return 0.5 * x


@probe
def repeat(x, y):
    return y.clone()


@probe
def wave(x):
    return torch.sin(3 * x)


@probe
def tripled(x):
    return 3 * x


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.exercise("biasvar", points=2)
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_a_model_that_does_not_look(student, sigma):
    """A model that ignores its targets should have no variance, and its exact squared bias."""
    x0 = torch.tensor([-2.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    with unchanged(x0):
        bias2, var, noise, mse = student.decompose(half_x, x0, tripled, sigma, 400, generator())
    gap = 2.5 * x0
    assert_close(
        bias2,
        gap.pow(2).mean().item(),
        "bias2",
        symptoms={
            "Square the bias at each point, then average.": gap.mean().item() ** 2,
            "Average over x0, do not add.": gap.pow(2).sum().item(),
            "The bias should be squared.": gap.abs().mean().item(),
        },
    )
    assert_close(var, 0.0, "var", atol=1e-12)
    assert_close(
        noise, sigma**2, "noise", symptoms={"The noise is the variance, sigma squared.": sigma}
    )
    assert_close(mse, bias2 + sigma**2, "mse", rtol=1e-9 if sigma == 0 else 0.06)


@pytest.mark.exercise("biasvar", points=3)
def test_a_model_that_repeats(student):
    """A model that repeats its targets should have variance sigma², and error 2 sigma² on new
    targets."""
    x0 = torch.linspace(-1, 1, 50, dtype=torch.float64)
    bias2, var, _, mse = student.decompose(repeat, x0, wave, 0.6, 400, generator(5))
    shares = [bias2 / 0.36, var / 0.36, mse / 0.36]
    about(shares, [0.0, 1.0, 2.0], "(bias2, var, mse) in units of sigma²", step=0.5)
    assert_close(bias2, 0.36 / 400, "bias2", atol=0.36 / 400)
    assert_close(var, 0.36, "var", rtol=0.06)
    assert_close(
        mse,
        0.72,
        "mse",
        rtol=0.06,
        symptoms={
            "The error should be measured on new targets, not on those that were fitted.": 0.0,
        },
    )


@pytest.mark.exercise("biasvar", points=1)
def test_few_sets(student):
    """With two sets, var should divide by 2, and with one set it should be 0."""
    x0 = torch.linspace(-1, 1, 6000, dtype=torch.float64)
    bias2, var, _, mse = student.decompose(repeat, x0, wave, 2.0, 2, generator(1))
    shares = [bias2 / 4, var / 4, mse / 4]
    about(shares, [0.5, 0.5, 2.0], "(bias2, var, mse) in units of sigma², for two sets", step=0.5)
    assert_close([bias2, var, mse], [2.0, 2.0, 8.0], "(bias2, var, mse)", rtol=0.12)
    bias2, var, _, _ = student.decompose(repeat, x0, wave, 2.0, 1, generator(1))
    assert_close([bias2, var], [4.0, 0.0], "(bias2, var)", rtol=0.12)


@pytest.mark.exercise("biasvar", points=1)
def test_the_price_of_a_parameter(student):
    """In least squares, var should be sigma² d / n; more features should mean less bias."""
    x0 = torch.linspace(-1, 1, 20, dtype=torch.float64)
    found = [
        student.decompose(fit, x0, wave, 0.5, 500, generator(3))[:2]
        for fit in (straight_line, cubic, quintic)
    ]
    assert_close([v for _, v in found], [0.25 * d / 20 for d in (2, 4, 6)], "var", rtol=0.2)
    bias = [b for b, _ in found]
    assert_true(bias[0] > 5 * bias[1] > 0, f"The bias should fall with the degree; it is {bias}.")


@pytest.mark.exercise("biasvar", points=2)
@pytest.mark.parametrize("seed, sigma", [(1, 0.4), (2, 1.0)])
def test_the_parts_add_up(student, seed, sigma):
    """bias2 + var + noise should be mse, within 5 percent."""
    x0 = torch.linspace(-1, 1, 40, dtype=torch.float64)
    bias2, var, noise, mse = student.decompose(straight_line, x0, wave, sigma, 800, generator(seed))
    assert_close(mse, bias2 + var + noise, "mse", rtol=0.05)


@probe
def leaves_the_rest_alone(student, x0, f, fit):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = student.decompose(fit, x0, f, 1.0, 5, torch.Generator().manual_seed(1))
    second = student.decompose(fit, x0, f, 1.0, 5, torch.Generator().manual_seed(1))
    third = student.decompose(fit, x0, f, 1.0, 5, torch.Generator().manual_seed(2))
    kinds = [type(v).__name__ for v in first]
    return list(first), list(second), list(third), torch.equal(before, torch.get_rng_state()), kinds


@pytest.mark.exercise("biasvar", points=1)
def test_all_noise_comes_from_rng(student):
    """The noise should come from rng alone: the same seed, the same four floats."""
    x0 = torch.linspace(0, 1, 7, dtype=torch.float64)
    first, second, third, untouched, kinds = student.run(
        leaves_the_rest_alone, x0, wave, straight_line
    )
    assert_equal(kinds, ["float"] * 4, "the types of the four results")
    assert_close(second, first, "a second call with the same seed")
    assert_equal(
        (abs(third[1] - first[1]) > 1e-6, untouched),
        (True, True),
        "(another seed gives other noise, the global generator is left alone)",
    )


# --- ridge-lasso -------------------------------------------------------------------------------


@pytest.mark.exercise("ridge-lasso", points=3)
@pytest.mark.parametrize("shape, t", [((7,), 0.6), ((3, 4), 0.0), ((1,), 2.0), ((2, 3, 2), 1.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_equals_softshrink(student, device, shape, t, dtype):
    """soft_threshold should move every entry by t towards zero, for any shape, and leave v
    unchanged."""
    v = randn(*shape, dtype=dtype, device=device)
    with unchanged(v):
        got = student.soft_threshold(v, t)
    assert_close(
        got,
        F.softshrink(v, t),
        symptoms={
            "This is the hard threshold: what survives should move by t, too.": torch.where(
                v.abs() > t, v, 0.0
            ),
            "It has moved past zero.": v - t * v.sign(),
        },
    )
    assert_same_gradients(
        lambda v: student.soft_threshold(v, t), lambda v: F.softshrink(v, t), v.double()
    )


@pytest.mark.exercise("ridge-lasso", points=1)
@pytest.mark.parametrize("t", [-1.0, -1e-6])
def test_negative_threshold(student, t):
    """A negative t should be a ValueError; t = 0 should not."""
    v = randn(4)
    assert_close(student.soft_threshold(v, 0.0), v, "soft_threshold(v, 0)")
    with raises(ValueError):
        student.soft_threshold(v, t)


@pytest.mark.exercise("ridge-lasso", points=4)
@pytest.mark.parametrize("n, d, lam", [(30, 4, 0.3), (6, 15, 0.05), (1, 3, 2.0), (12, 1, 10.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ridge_equals_scikit_learn(student, device, n, d, lam, dtype):
    """ridge should equal scikit-learn's Ridge with alpha = n lam, also with more features than
    examples."""
    X, y = randn(n, d, dtype=dtype, device=device), randn(n, dtype=dtype, device=device)

    def solved(alpha):
        model = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky")
        w = model.fit(X.double().cpu().numpy(), y.double().cpu().numpy()).coef_
        return torch.from_numpy(w).to(device, dtype)

    with unchanged(X, y):
        got = student.ridge(X, y, lam)
    assert_close(
        got,
        solved(n * lam),
        "w",
        rtol=1e-3 if dtype == torch.float32 else None,
        atol=1e-4 if dtype == torch.float32 else None,
        symptoms={
            "The 1 / n is missing: compare the sizes of X^T X and lam.": solved(lam),
            "The penalty has a factor 1 / 2, so its gradient is lam w.": solved(2 * n * lam),
        },
    )


@pytest.mark.exercise("ridge-lasso", points=2)
def test_ridge_is_the_limit_of_descent(student, device):
    """Many steps of "shrink by 1 - eta lam, then step" should end at ridge's answer."""
    X, y = randn(20, 5, device=device), randn(20, device=device)
    w = torch.zeros(5, dtype=torch.float64, device=device)
    for _ in range(1500):
        w = (1 - 0.1 * 0.4) * w - 0.1 * X.T @ (X @ w - y) / 20
    assert_close(student.ridge(X, y, 0.4), w, "w", atol=1e-6)


def ista(X, y, lam, steps, scale=1.0):
    n = len(y)
    ell = torch.linalg.matrix_norm(X, 2).item() ** 2 / n
    w = torch.zeros(X.shape[1], dtype=X.dtype, device=X.device)
    for _ in range(steps):
        w = F.softshrink(w - X.T @ (X @ w - y) / (n * ell), scale * lam / ell)
    return w


@pytest.mark.exercise("ridge-lasso", points=4)
@pytest.mark.parametrize("n, d, lam", [(25, 6, 0.1), (8, 12, 0.2), (5, 1, 0.01), (4, 3, 0.0)])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_lasso_steps(student, device, n, d, lam, steps):
    """After any number of steps, lasso_ista should be where ISTA from zero is."""
    X, y = randn(n, d, device=device), randn(n, device=device)
    with unchanged(X, y):
        got = student.lasso_ista(X, y, lam, steps)
    assert_close(
        got,
        ista(X, y, lam, steps),
        "w",
        symptoms={
            "There are steps, but no threshold.": ista(X, y, 0.0, steps),
            "The threshold should be lam / ell: it belongs to a step of length 1 / ell.": ista(
                X, y, lam * torch.linalg.matrix_norm(X, 2).item() ** 2 / n, steps
            ),
        },
    )


@pytest.mark.exercise("ridge-lasso", points=3)
@pytest.mark.parametrize("n, d, lam", [(40, 6, 0.1), (40, 6, 0.4), (30, 12, 0.25)])
def test_lasso_minimum(student, device, n, d, lam):
    """After many steps, w should equal scikit-learn's Lasso, and its gradient should be lam in
    size where w is not zero and at most lam elsewhere."""
    X = randn(n, d, device=device)
    y = X[:, :3] @ torch.tensor([2.0, -1.5, 0.5], dtype=X.dtype, device=device)
    y = y + 0.3 * randn(n, device=device)
    w = student.lasso_ista(X, y, lam, 1500)
    model = Lasso(alpha=lam, fit_intercept=False, tol=1e-12, max_iter=100_000)
    best = torch.from_numpy(model.fit(X.cpu().numpy(), y.cpu().numpy()).coef_).to(device)
    assert_close(w, best, "w", atol=1e-5)
    assert_equal((w == 0).cpu().tolist(), (best == 0).cpu().tolist(), "where w is exactly zero")
    pull = X.T @ (y - X @ w) / n
    assert_close(pull[w != 0], lam * w[w != 0].sign(), "the pull where w is not 0", atol=1e-5)
    assert_true((pull.abs() <= lam + 1e-6).all(), "Where w is 0, the pull is at most lam.")


@pytest.mark.exercise("ridge-lasso", points=3)
@pytest.mark.parametrize("n, d", [(20, 8), (6, 10)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lasso_bound(student, device, n, d, dtype):
    """All weights should be zero if lam exceeds max |X^T y| / n, and not all just below it."""
    X, y = randn(n, d, dtype=dtype, device=device), randn(n, dtype=dtype, device=device)
    bound = (X.T @ y / n).abs().max().item()
    zeros = torch.zeros(d, dtype=dtype, device=device)
    assert_close(student.lasso_ista(X, y, 1.01 * bound, 50), zeros, "w above the bound")
    below = student.lasso_ista(X, y, 0.9 * bound, 300)
    count = int((below != 0).sum())
    assert_true(0 < count < d, f"Just below the bound, {count} of {d} weights are not zero.")


# --- decay -------------------------------------------------------------------------------------


@probe
def grouped(student, kind, wd):
    """The names in the groups of a model, and the weight decay of each."""
    if kind == "mixed":
        model = nn.ModuleDict(
            {
                "words": nn.Embedding(5, 4),
                "conv": nn.Conv2d(2, 3, 3),
                "bn": nn.BatchNorm2d(3),
                "ln": nn.LayerNorm(4),
                "act": nn.PReLU(),
                "bare": nn.Linear(4, 2, bias=False),
            }
        )
        model["scale"] = nn.Module()
        model["scale"].s = nn.Parameter(torch.ones(()))
    elif kind == "tied":
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        model[2].bias = model[0].bias
    elif kind == "frozen":
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        model[0].requires_grad_(False)
    else:
        model = nn.BatchNorm1d(3)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = student.decay_groups(model, wd)
    found = [[names.get(id(p), "?") for p in g["params"]] for g in groups]
    return found, [g["weight_decay"] for g in groups], [sorted(g) for g in groups]


@pytest.mark.exercise("decay", points=3)
def test_which_parameters_decay(student):
    """Weights with two or more axes should decay; biases, PReLU, batch and layer norm should
    not."""
    found, decay, keys = student.run(grouped, "mixed", 0.03)
    assert_equal(keys, [["params", "weight_decay"]] * 2, "the keys of the groups")
    assert_equal(list(found[0]), ["words.weight", "conv.weight", "bare.weight"], "what decays")
    assert_equal(
        list(found[1]),
        ["conv.bias", "bn.weight", "bn.bias", "ln.weight", "ln.bias", "act.weight", "scale.s"],
        "what does not decay",
    )
    assert_equal(list(decay), [0.03, 0.0], "the weight_decay of the groups")


@pytest.mark.exercise("decay", points=2)
@pytest.mark.parametrize(
    "kind, first, second",
    [
        ("tied", ["0.weight"], ["0.bias"]),
        ("frozen", ["0.weight", "1.weight"], ["0.bias", "1.bias"]),
        ("norm", [], ["weight", "bias"]),
    ],
)
def test_every_parameter_once(student, kind, first, second):
    """Every parameter should be in one group, once: also if it is shared or frozen, and also if
    nothing decays."""
    found, decay, _ = student.run(grouped, kind, 0.5)
    assert_equal([list(names) for names in found], [first, second], "the names in the groups")
    assert_equal(list(decay), [0.5, 0.0], "the weight_decay of the groups")


@pytest.mark.exercise("decay", points=3)
@pytest.mark.parametrize("lr, wd", [(0.1, 0.5), (0.03, 2.0), (0.5, 0.0)])
def test_steps_equal_sgd(student, device, lr, wd):
    """Several steps should equal torch.optim.SGD with weight_decay, and leave the gradients
    unchanged."""
    start = [randn(3, 4, device=device), randn(5, device=device)]
    ours = [p.clone().requires_grad_() for p in start]
    theirs = [p.clone().requires_grad_() for p in start]
    coupled = [p.clone() for p in start]
    optimizer = torch.optim.SGD(theirs, lr=lr, weight_decay=wd)
    for _ in range(3):
        grads = [randn(*p.shape, device=device) for p in start]
        with unchanged(grads):
            result = student.sgd_decay_step(ours, grads, lr, wd)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        coupled = [(1 - wd) * p - lr * g for p, g in zip(coupled, grads, strict=True)]
    assert_equal(result, None, "the return value")
    for k in range(2):
        assert_close(
            ours[k].detach(),
            theirs[k].detach(),
            f"parameter {k} after three steps",
            symptoms={
                "The decay lacks the learning rate.": coupled[k],
                "Nothing has changed: work in place.": start[k],
            },
        )


@pytest.mark.exercise("decay", points=1)
def test_none_is_skipped(student, device):
    """A parameter whose gradient is None should stay, without decay; those behind it should move."""
    p, q = randn(4, device=device), randn(2, 3, device=device)
    g = randn(2, 3, device=device)
    expected = 0.9 * q - 0.2 * g
    with unchanged(p):
        student.sgd_decay_step([p, q], [None, g], 0.2, 0.5)
    assert_close(q, expected, "the parameter behind it")


@pytest.mark.exercise("decay", points=1)
@pytest.mark.parametrize("params, grads", [(2, 1), (1, 2), (1, 0)])
def test_lists_of_different_length(student, params, grads):
    """Lists of different lengths should be a ValueError, and nothing should change."""
    p, g = [randn(3) for _ in range(params)], [randn(3) for _ in range(grads)]
    with unchanged(*p), raises(ValueError):
        student.sgd_decay_step(p, g, 0.1, 0.1)


# --- dropout -----------------------------------------------------------------------------------


def away_from_zero(*shape, **kw):
    """Normal numbers, moved away from zero, so that a zero can only come from a mask."""
    x = randn(*shape, **kw)
    return x + x.sign()


def check_mask(y, x, p, what="the output"):
    """y is x / (1 - p) where it is not zero; returns the mask."""
    assert_shape(y, x.shape, what)
    mask = y != 0
    if mask.any():
        factors = (y / x)[mask].double()
        both = [1 / (1 - p)] * 2
        symptoms = {
            "What is kept should be divided by the keep probability 1 - p.": [1.0] * 2,
            "It is multiplied by the keep probability; divide.": [1 - p] * 2,
        }
        if p > 0:
            symptoms["It is divided by p; divide by 1 - p."] = [1 / p] * 2
        assert_close(
            [factors.min().item(), factors.max().item()],
            both,
            f"the (smallest, largest) factor of what is kept in {what}",
            rtol=1e-5,
            symptoms=symptoms,
        )
    assert_close(y, x * mask / (1 - p), what)
    return mask


def check_evaluation(layer, x):
    """A layer in evaluation mode lets values and gradients pass."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    assert_close(y.detach(), x, "the output in evaluation mode")
    assert_true(y.requires_grad, "In evaluation mode, the output is cut off from x.")
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert_close(grad, torch.ones_like(x), "the gradient in evaluation mode")


@pytest.mark.exercise("dropout", points=3)
@pytest.mark.parametrize("shape", [(7,), (1, 5), (4, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_kept_or_zero(student, device, shape, p):
    """In training, every entry should be zero or x / (1 - p), for any shape, and x should stay."""
    x = away_from_zero(*shape, device=device)
    layer = student.MyDropout(p)
    with unchanged(x):
        y = layer(x)
    mask = check_mask(y, x, p)
    if p == 0:
        assert_equal(int((~mask).sum()), 0, "the number of entries dropped for p = 0")


@pytest.mark.exercise("dropout", points=3)
@pytest.mark.parametrize("p", [0.1, 0.35, 0.9])
def test_share_and_mean(student, device, p):
    """A share of 1 - p should be kept, entry by entry and anew in each call, so that the mean
    stays."""
    x = torch.ones(200, 150, device=device)
    layer = student.MyDropout(p)
    first, second = layer(x), layer(x)
    for y in (first, second):
        kept = (y != 0).double()
        share, n = kept.mean().item(), y.numel()
        spread = math.sqrt(p * (1 - p))
        about([share], [1 - p], "the share that is kept")
        near(share, 1 - p, n, "the share that is kept", spread)
        near(y.double().mean().item(), 1.0, n, "the mean", spread / (1 - p))
        # rows and columns of a shared mask would scatter far more
        near(
            kept.mean(0).var().item() * 200, spread**2, 149, "200 times the variance of the "
            "columns' shares", spread**2 * 1.5
        )  # fmt: skip
        near(
            kept.mean(1).var().item() * 150, spread**2, 199, "150 times the variance of the "
            "rows' shares", spread**2 * 1.5
        )  # fmt: skip
    assert_true(not torch.equal(first, second), "Each call should draw a new mask.")


@pytest.mark.exercise("dropout", points=3)
@pytest.mark.parametrize("p", [0.25, 0.6])
def test_gradient_is_the_mask(student, device, p):
    """The gradient should be mask / (1 - p): zero for what was dropped, enlarged for the rest."""
    x = away_from_zero(6, 20, device=device).requires_grad_()
    dy = randn(6, 20, device=device)
    y = student.MyDropout(p)(x)
    assert_true(y.requires_grad, "The output is cut off from x.")
    (grad,) = torch.autograd.grad(y, x, dy)
    mask = (y != 0).double().detach()
    assert_close(
        grad,
        dy * mask / (1 - p),
        "the gradient",
        symptoms={
            "The gradient ignores the mask.": dy,
            "The scale 1 / (1 - p) is missing in the gradient.": dy * mask,
        },
    )


@pytest.mark.exercise("dropout", points=2)
def test_modes(student, device):
    """In evaluation the values should be those of x; back in training, dropout should be on."""
    x = away_from_zero(40, 10, device=device).requires_grad_()
    layer = student.MyDropout(0.5)
    assert_close(float(layer.p), 0.5, "the attribute p")
    layer.eval()
    y = layer(x)
    assert_close(y, x, "the output in evaluation mode", rtol=0.0, atol=0.0)
    assert_close(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x), "its gradient")
    layer.train()
    assert_true((layer(x) == 0).any(), "After train(), entries should be dropped again.")
    assert_close(float(student.MyDropout().p), 0.5, "the default of p")


@pytest.mark.exercise("dropout", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_dropped(student, device, dtype):
    """With p = 1 all should be zero, with a gradient of zero, and no NaN; evaluation as ever."""
    x = randn(3, 4, dtype=dtype, device=device).requires_grad_()
    layer = student.MyDropout(1.0)
    y = layer(x)
    assert_close(y.detach(), torch.zeros_like(x), "the output")
    if y.requires_grad:
        (grad,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        if grad is not None:
            assert_close(grad, torch.zeros_like(x), "the gradient")
    layer.eval()
    assert_close(layer(x), x, "the output in evaluation mode")


@pytest.mark.exercise("dropout", points=2)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(student, device, dtype):
    """The dtype should be that of x, and x should not be changed, in either mode."""
    x = away_from_zero(5, 6, dtype=dtype, device=device)
    layer = student.MyDropout(0.5)
    with unchanged(x):
        y = layer(x)
        old = student.classic_dropout(x, 0.5, True)
    assert_close(y, x * (y != 0) * 2, "the output")
    assert_close(old, x * (old != 0), "the output of classic_dropout")
    layer.eval()
    assert_close(layer(x), x, "the output in evaluation mode")


@pytest.mark.exercise("dropout", points=2)
def test_what_is_refused(student):
    """A p outside of [0, 1] should be a ValueError; integers and booleans a TypeError."""
    for p in (-0.01, 1.01, 5):
        with raises(ValueError):
            student.MyDropout(p)
    for p in (0.0, 1.0):
        student.MyDropout(p)
    layer = student.MyDropout(0.5)
    for _ in ("training", "evaluation"):
        with raises(TypeError):
            layer(torch.arange(5))
        with raises(TypeError):
            layer(torch.tensor([True, False]))
        layer.eval()


@pytest.mark.exercise("dropout", points=3)
@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_classic(student, device, p):
    """classic_dropout should keep x as it is with probability 1 - p in training, and give
    (1 - p) x otherwise: the same mean."""
    x = away_from_zero(100, 90, device=device)
    with unchanged(x):
        y = student.classic_dropout(x, p, True)
        calm = student.classic_dropout(x, p, False)
    mask = y != 0
    assert_close(
        y,
        x * mask,
        "the output in training",
        symptoms={"This is inverted dropout; the classic one has its scale at test time."
                  : x * mask / max(1 - p, 1e-9)},
    )  # fmt: skip
    near(mask.double().mean().item(), 1 - p, 9000, "the share that is kept", math.sqrt(p * (1 - p)))
    assert_close(
        calm,
        x * (1 - p),
        "the output without training",
        symptoms={
            "It should be scaled by the keep probability.": x,
            "p is the probability to drop; scale by 1 - p.": p * x,
        },
    )
    assert_same_gradients(
        lambda x: student.classic_dropout(x, p, False), lambda x: (1 - p) * x, x[:2]
    )
    leaf = x.clone().requires_grad_()
    y = student.classic_dropout(leaf, p, True)
    assert_true(y.requires_grad, "In training, the output is cut off from x.")
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert_close(grad, (y != 0).double(), "the gradient in training")


# --- spatial -----------------------------------------------------------------------------------


@pytest.mark.exercise("spatial", points=3)
@pytest.mark.parametrize(
    "shape, shared",
    [
        ((6, 8, 5, 4), (2, 3)),
        ((9, 7, 6), (1,)),
        ((9, 7, 6), (2,)),
        ((5, 6, 4, 3), (-1, -2)),
        ((5, 4, 3, 3, 2), (2, 3, 4)),
        ((30, 8), ()),
        ((6, 40, 3), (0, -1)),
    ],
)
def test_shared_axes(student, device, shape, shared):
    """Along the shared axes all entries should share their fate, and along the others not."""
    x = away_from_zero(*shape, device=device)
    with unchanged(x):
        y = student.SpatialDropout(0.4, shared)(x)
    mask = check_mask(y, x, 0.4)
    assert_equal(
        alike_along(mask),
        sorted(axis % len(shape) for axis in shared),
        f"the axes of {shape} along which the mask is the same",
    )


@pytest.mark.exercise("spatial", points=1)
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_statistics_of_dropout2d(student, device, p):
    """The share of channels kept, and the mean, should be those of nn.Dropout2d."""
    x = torch.ones(90, 50, 3, 2, device=device)
    y = student.SpatialDropout(p, (2, 3))(x)
    kept = (y[:, :, 0, 0] != 0).double()
    about([kept.mean().item()], [1 - p], "the share of channels kept")
    near(kept.mean().item(), 1 - p, 4500, "the share of channels kept", math.sqrt(p * (1 - p)))
    near(y.mean().item(), 1.0, 4500, "the mean", math.sqrt(p / (1 - p)))


@pytest.mark.exercise("spatial", points=1)
def test_spatial_edges(student, device):
    """Evaluation should change nothing, p = 0 neither; p = 1 should give zeros, and gradients
    should be the mask."""
    x = away_from_zero(3, 4, 5, device=device)
    layer = student.SpatialDropout(0.5, (2,))
    layer.eval()
    check_evaluation(layer, x)
    assert_close(student.SpatialDropout(0.0, (2,))(x), x, "the output for p = 0")
    assert_close(student.SpatialDropout(1.0, (2,))(x), torch.zeros_like(x), "the output for p = 1")
    leaf = x.clone().requires_grad_()
    layer.train()
    y = layer(leaf)
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert_close(grad, 2 * (y != 0).double(), "the gradient")
    small = layer(x.float())
    assert_close(small, x.float() * 2 * (small != 0), "the output in float32")


@probe
def connect(student, weight, bias, p, x, training):
    """A DropConnect layer with given numbers; a mask that kills nothing has p = 0."""
    layer = student.DropConnectLinear(weight.shape[1], weight.shape[0], p)
    layer = layer.to(weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    layer.train(training)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    wanted = [layer.weight, layer.bias, leaf]
    grads = torch.autograd.grad(y.sum(), wanted, allow_unused=True)
    same = torch.equal(layer.weight.detach(), weight)
    return (
        y.detach(),
        [torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted)],
        same,
    )


@probe
def connect_shapes(student, i, o):
    first, second = student.DropConnectLinear(i, o, 0.5), student.DropConnectLinear(i, o, 0.5)
    shapes = {name: tuple(p.shape) for name, p in first.named_parameters()}
    return shapes, torch.equal(first.weight, second.weight)


@pytest.mark.exercise("spatial", points=2)
@pytest.mark.parametrize("p, training", [(0.4, False), (1.0, False), (0.0, True)])
def test_connect_is_linear(student, device, p, training):
    """In evaluation, and for p = 0, DropConnectLinear should be F.linear, gradients included."""
    weight, bias = randn(3, 5, device=device), randn(3, device=device)
    x = randn(4, 5, device=device)
    y, grads, same = student.run(connect, weight, bias, p, x, training)
    assert_close(y, F.linear(x, weight, bias), "the output")
    expected = [x.sum(0).expand(3, 5), torch.full_like(bias, 4.0), weight.sum(0).expand(4, 5)]
    for k, what in enumerate(("the weight", "the bias", "x")):
        assert_close(grads[k], expected[k].contiguous(), f"the gradient for {what}")
    assert_true(same, "The weight itself was changed.")
    shapes, equal = student.run(connect_shapes, 5, 3)
    assert_equal(shapes, {"weight": (3, 5), "bias": (3,)}, "the parameters")
    assert_true(not equal, "Two new layers should have different random weights.")


@pytest.mark.exercise("spatial", points=1)
def test_connect_masks(student, device):
    """Every example should have a mask of its own, the bias should never be dropped, and a
    dropped weight should get no gradient."""
    weight, bias = torch.ones(1, 1, device=device), torch.full((1,), 0.25, device=device)
    x = torch.ones(60, 1, device=device)
    y, grads, _ = student.run(connect, weight, bias, 0.5, x, True)
    values = sorted(set(y.flatten().tolist()))
    assert_equal(len(values), 2, "the number of different outputs for sixty equal examples")
    assert_close(values, [0.25, 2.25], "the values of sixty outputs")
    kept = (y > 1).double().sum().item()
    assert_close(grads[0].item(), 2 * kept, "the gradient of the weight")
    y, _, _ = student.run(connect, weight, bias, 1.0, x, True)
    assert_close(y, bias.expand(60, 1).contiguous(), "the output for p = 1")


@pytest.mark.exercise("spatial", points=2)
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_connect_moments(student, device, p):
    """In training, mean and variance over masks should be Wx + b and p / (1 - p) * w² x²,
    summed."""
    n = 6000
    weight, bias = randn(2, 6, device=device), randn(2, device=device)
    x = away_from_zero(6, device=device)
    y, _, same = student.run(connect, weight, bias, p, x.expand(n, 6).contiguous(), True)
    mean = weight @ x + bias
    var = p / (1 - p) * (weight**2) @ x**2
    scaled = (1 - p) * (weight @ x) + bias
    for k in range(2):
        spread = var[k].sqrt().item()
        assert_close(
            y[:, k].mean().item(),
            mean[k].item(),
            f"the mean of output {k}",
            rtol=0.0,
            atol=6 * spread / math.sqrt(n),
            symptoms={
                "The scale 1 / (1 - p) is missing.": scaled[k].item(),
                "The bias is scaled, too.": (mean + bias * p / (1 - p))[k].item(),
            },
        )
    assert_close(y.var(0), var, "the variance", rtol=0.2)
    together = ((y - mean) / var.sqrt()).prod(1).mean().item()
    near(together, 0.0, n, "the correlation of the two outputs", 1.2)
    assert_true(same, "The weight itself was changed.")


# --- depth -------------------------------------------------------------------------------------


@pytest.mark.exercise("depth", points=2)
@pytest.mark.parametrize("L, pL", [(1, 0.5), (7, 0.2), (54, 0.5), (5, 1.0), (4, 0.0)])
def test_survival_line(student, L, pL):
    """survival should be the straight line from 1 at the input to pL at the last block."""
    got = [student.survival(k, L, pL) for k in range(L + 1)]
    expected = [((L - k) * 1.0 + k * pL) / L for k in range(L + 1)]
    assert_close(
        got,
        expected,
        f"survival(0, {L}, {pL}) to survival({L}, {L}, {pL})",
        symptoms={
            "These are the probabilities to be dropped.": [1 - e for e in expected],
            "It should fall by the share 1 - pL, not by pL.": [
                1 - k / L * pL for k in range(L + 1)
            ],
        },
    )


@pytest.mark.exercise("depth", points=1)
@pytest.mark.parametrize("block, L", [(-1, 5), (6, 5), (2, 1)])
def test_no_such_block(student, block, L):
    """A block outside of 0 to L should be a ValueError."""
    with raises(ValueError):
        student.survival(block, L, 0.5)


@pytest.mark.exercise("depth", points=2)
@pytest.mark.parametrize("shape", [(60, 3), (60, 2, 3, 4), (60,), (60, 1, 5)])
@pytest.mark.parametrize("p", [0.3, 0.6])
def test_row_mode(student, device, shape, p):
    """In row mode each example should be kept or dropped as a whole, and for itself."""
    x = away_from_zero(*shape, device=device)
    with unchanged(x):
        y = student.DropPath(p)(x)
    mask = check_mask(y, x, p)
    expected = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    assert_equal(
        alike_along(mask), expected, f"the axes of {shape} along which the mask is the same"
    )


@pytest.mark.exercise("depth", points=2)
@pytest.mark.parametrize("shape", [(8, 3), (5, 2, 3, 4)])
def test_batch_mode(student, device, shape):
    """In batch mode all examples should share one draw, a new one in each call."""
    x = away_from_zero(*shape, device=device)
    layer = student.DropPath(0.4, "batch")
    kept = 0
    for _ in range(80):
        mask = check_mask(layer(x), x, 0.4)
        axes = list(range(len(shape)))
        assert_equal(
            alike_along(mask), axes, f"the axes of {shape} along which the mask is the same"
        )
        kept += bool(mask.all())
    assert_close(kept / 80, 0.6, "the share of eighty calls that keep the batch", atol=0.34)


@pytest.mark.exercise("depth", points=1)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_path_expectation(student, device, p):
    """A share of 1 - p of the examples should be kept, so that the mean stays."""
    y = student.DropPath(p, mode="row")(torch.ones(20_000, 1, 1, 1, device=device))
    spread = math.sqrt(p * (1 - p))
    shares = [(y != 0).double().mean().item(), y.double().mean().item()]
    about(shares, [1 - p, 1.0], "(the share of examples kept, the mean of ones)", step=0.1)
    near((y != 0).double().mean().item(), 1 - p, 20_000, "the share of examples kept", spread)
    near(y.double().mean().item(), 1.0, 20_000, "the mean", spread / (1 - p))


@pytest.mark.exercise("depth", points=1)
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_path_edges(student, device, mode):
    """Evaluation should change nothing, p = 0 neither; p = 1 should give zeros; gradients should
    be the mask."""
    x = away_from_zero(50, 2, 3, device=device)
    layer = student.DropPath(0.5, mode)
    layer.eval()
    check_evaluation(layer, x)
    layer.train()
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    mask = check_mask(grad, torch.ones_like(x), 0.5, "the gradient")
    assert_close(mask.double(), (y != 0).double(), "where the gradient is not zero")
    assert_close(student.DropPath(0.0, mode)(x), x, "the output for p = 0")
    assert_close(student.DropPath(1.0, mode)(x), torch.zeros_like(x), "the output for p = 1")
    small = x.float()
    assert_close(student.DropPath(0.0, mode)(small), small, "the output in float32")


@pytest.mark.exercise("depth", points=1)
@pytest.mark.parametrize("mode", ["rows", "", "Row", None])
def test_no_such_mode(student, mode):
    """A mode other than "row" and "batch" should be a ValueError when the layer is made."""
    with raises(ValueError):
        student.DropPath(0.5, mode)


# --- dropblock ---------------------------------------------------------------------------------


@pytest.mark.exercise("dropblock", points=2)
@pytest.mark.parametrize("keep, block, feat", [(0.9, 7, 20), (0.75, 2, 5), (1.0, 3, 8), (0.6, 1, 4),
                                               (0.8, 4, 4)])  # fmt: skip
def test_gamma_formula(student, keep, block, feat):
    """dropblock_gamma should be the formula of the chapter, for a number and for a pair."""
    squares = (feat / (feat - block + 1)) ** 2
    assert_close(
        student.dropblock_gamma(keep, block, feat),
        (1 - keep) / block**2 * squares,
        "gamma",
        symptoms={
            "The second factor is missing.": (1 - keep) / block**2,
            "keep is the share to keep; drop 1 - keep.": keep / block**2 * squares,
            "A block has block² pixels.": (1 - keep) / block * squares,
        },
    )
    wide = student.dropblock_gamma(keep, block, (feat, feat + 3))
    expected = (1 - keep) / block**2 * feat / (feat - block + 1) * (feat + 3) / (feat + 4 - block)
    assert_close(wide, expected, f"gamma for a {feat} x {feat + 3} map")


@pytest.mark.exercise("dropblock", points=1)
@pytest.mark.parametrize("block, feat", [(6, 5), (6, (9, 5)), (6, (5, 9))])
def test_block_too_large(student, block, feat):
    """A block that does not fit the map should be a ValueError, for the layer, too."""
    with raises(ValueError):
        student.dropblock_gamma(0.9, block, feat)
    h, w = feat if isinstance(feat, tuple) else (feat, feat)
    with raises(ValueError):
        student.DropBlock(0.9, block)(torch.ones(1, 1, h, w))
    for size in (6, (6, 8), (8, 6)):
        assert_true(student.dropblock_gamma(0.9, block, size) > 0, "A block that fits is fine.")


@pytest.mark.exercise("dropblock", points=2)
@pytest.mark.parametrize("h, w, block", [(9, 9, 3), (8, 13, 4), (12, 7, 2), (6, 6, 1), (5, 9, 5)])
def test_squares(student, device, h, w, block):
    """What is dropped should be squares inside the map, other ones in each channel, and what is
    kept should be scaled by entries / kept."""
    x = away_from_zero(200, 3, h, w, device=device)
    with unchanged(x):
        y = student.DropBlock(0.8, block)(x)
    kept = (y != 0).double()
    dropped = 1 - kept
    inside = 1 - F.max_pool2d(kept, block, stride=1)  # 1 where a whole square is dropped
    squares = F.max_pool2d(F.pad(inside, [block - 1] * 4), block, stride=1)
    shared = [axis for axis in alike_along(dropped) if axis < 2]
    assert_equal(shared, [], "the axes (0: examples, 1: channels) along which the squares agree")
    assert_close(squares, dropped, f"the dropped pixels, covered by {block} x {block} squares")
    assert_close(
        y,
        x * kept * kept.numel() / kept.sum(),
        "the output",
        symptoms={
            "What is kept is not rescaled.": x * kept,
            "The scale should count what was kept, not what was wanted.": x * kept / 0.8,
        },
    )
    corners = inside.mean((0, 1))
    assert_true((corners > 0).all(), "A square should be possible wherever it fits.")


@pytest.mark.exercise("dropblock", points=2)
@pytest.mark.parametrize("keep, block, size", [(0.9, 7, 20), (0.8, 5, 14), (0.95, 4, 16)])
def test_share_dropped(student, device, keep, block, size):
    """The share of dropped pixels should be 1 - keep within 20 percent, and the mean should
    stay."""
    x = torch.ones(200, 12, size, size, device=device)
    y = student.DropBlock(keep, block)(x)
    share = (y == 0).double().mean().item()
    assert_close(share, 1 - keep, "the share that is dropped", rtol=0.2)
    assert_close(y.double().mean().item(), 1.0, "the mean", rtol=1e-4)


@pytest.mark.exercise("dropblock", points=1)
def test_block_edges(student, device):
    """Evaluation and keep = 1 should change nothing; a map that is dropped altogether should be
    zero, not NaN; gradients should be those of the mask."""
    x = away_from_zero(2, 3, 6, 6, device=device)
    layer = student.DropBlock(0.5, 3)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    kept = (y != 0).double().detach()
    assert_close(grad, kept * kept.numel() / kept.sum(), "the gradient")
    layer.eval()
    check_evaluation(layer, x)
    assert_close(student.DropBlock(1.0, 3)(x), x, "the output for keep = 1")
    one = torch.ones(1, 1, 4, 4, device=device)
    layer, seen = student.DropBlock(0.5, 4), set()
    for _ in range(40):
        seen.add(layer(one).mean().item())
    assert_close(sorted(seen), [0.0, 1.0], "the means of forty maps of one block")
    two, layer, seen = torch.ones(1, 1, 1, 2, device=device), student.DropBlock(0.5, 1), set()
    for _ in range(40):
        seen.add(layer(two).mean().item())
    assert_close(sorted(seen), [0.0, 1.0], "the means of forty maps of two pixels")
    small = student.DropBlock(0.5, 2)(one.half())
    assert_equal(str(small.dtype), "torch.float16", "the dtype")


@pytest.mark.exercise("dropblock", points=1)
@pytest.mark.parametrize("b", [0.3, 1.0, 2.0])
def test_uniform_noise(student, device, b):
    """UniformDropout should multiply each entry by 1 + u, with u uniform on [-b, b], so that the
    variance grows by 1 + b² / 3."""
    n = 40_000
    x = away_from_zero(n, device=device)
    layer = student.UniformDropout(b)
    with unchanged(x):
        u = layer(x) / x - 1
    assert_close([u.min().item(), u.max().item()], [-b, b], "the range of u", atol=0.01 * b)
    near(u.mean().item(), 0.0, n, "the mean of u", b / math.sqrt(3))
    assert_close(u.pow(2).mean().item(), b * b / 3, "the variance of u", rtol=0.04)
    near(((layer(x) / x - 1) * u).mean().item(), 0.0, n, "the product of two draws", b * b / 3)
    same = layer(torch.ones(1, 2, 50, 40, device=device))
    assert_true(same.unique().numel() > 1000, "Each entry should have a u of its own.")


@pytest.mark.exercise("dropblock", points=1)
def test_uniform_edges(student, device):
    """b = 0 and evaluation should change nothing, a negative b should be a ValueError, and the
    gradient should be 1 + u."""
    x = away_from_zero(4, 5, device=device).requires_grad_()
    layer = student.UniformDropout(0.5)
    y = layer(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert_close(grad, (y / x).detach(), "the gradient")
    layer.eval()
    check_evaluation(layer, x.detach())
    assert_close(student.UniformDropout(0.0)(x), x, "the output for b = 0")
    small = student.UniformDropout(0.0)(x.detach().float())
    assert_close(small, x.detach().float(), "the output in float32")
    for b in (-0.5, -1e-9):
        with raises(ValueError):
            student.UniformDropout(b)


# --- flood -------------------------------------------------------------------------------------


@pytest.mark.exercise("flood", points=2)
@pytest.mark.parametrize("b", [0.0, 0.3, 1.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flooded_loss(student, device, b, dtype):
    """Above b, flood should change nothing; below it, value and gradient should be mirrored."""
    loss = torch.tensor([0.05, 0.29, 0.31, 1.19, 1.21, 5.0], dtype=dtype, device=device)
    loss.requires_grad_()
    y = student.flood(loss, b)
    above = loss.detach() > b
    assert_close(
        y.detach(),
        torch.where(above, loss.detach(), 2 * b - loss.detach()),
        symptoms={
            "The level b is not added again.": (loss.detach() - b).abs(),
            "The loss is cut off at b.": loss.detach().clamp(min=b),
        },
    )
    (grad,) = torch.autograd.grad(y.sum(), loss)
    assert_close(grad, torch.where(above, 1.0, -1.0).to(dtype), "the gradient")
    scalar = torch.tensor(0.1, dtype=dtype, device=device)
    with unchanged(scalar):
        assert_close(student.flood(scalar, 0.4), torch.full_like(scalar, 0.7), "a scalar loss")


@pytest.mark.exercise("flood", points=1)
@pytest.mark.parametrize("b", [0.0, 0.5])
def test_at_the_level(student, device, b):
    """At the level exactly, the loss should be b, and the gradient a number: 0, not NaN."""
    loss = torch.tensor(b, dtype=torch.float64, device=device, requires_grad=True)
    y = student.flood(loss, b)
    assert_close(y.detach(), torch.full_like(loss, b), "the loss")
    (grad,) = torch.autograd.grad(y, loss)
    assert_close(grad, torch.zeros_like(loss), "the gradient")


@probe
def train(student, values, args, go_on):
    """Feed a stopper with values; the model's weight and buffer carry the epoch's number."""
    stopper = student.EarlyStopper(*args)
    model = nn.BatchNorm1d(1)
    stops, bests, epochs = [], [stopper.best], [stopper.best_epoch]
    for epoch, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(float(epoch))
            model.running_mean.fill_(10.0 + epoch)
        stops.append(bool(stopper.step(value, model)))
        bests.append(stopper.best)
        epochs.append(stopper.best_epoch)
        if stops[-1] and not go_on:
            break
    seen = [model.weight.item(), model.running_mean.item()]
    restored = []
    if stopper.best_epoch is not None:
        stopper.restore(model)
        restored = [model.weight.item(), model.running_mean.item()]
        other = nn.BatchNorm1d(1)
        with torch.no_grad():
            model.weight.fill_(-1.0)
        stopper.restore(other)
        restored.append(other.weight.item())
    return stops, bests, epochs, seen, restored


CURVES = [
    # values, (patience, min_delta, mode), epochs run, best epoch
    ([3.0, 2.0, 1.0, 0.5, 0.4], (1,), 5, 4),
    ([3.0, 2.0, 2.5, 1.0, 0.5], (1,), 3, 1),
    ([3.0, 2.0, 2.5, 1.0, 1.5, 1.6, 0.1], (2,), 6, 3),
    ([3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 2.1, 1.0], (4,), 6, 1),
    ([1.0, 1.0, 1.0, 1.0], (2,), 3, 0),
    ([0.1, 0.5, 0.4, 0.6, 0.6, 0.2, 0.9], (3, 0.0, "max"), 7, 6),
    ([0.1, 0.5, 0.4, 0.5, 0.3, 0.9], (3, 0.0, "max"), 5, 1),
    ([-1.0, -2.0, -1.5, -1.7, -3.0], (2, 0.0, "min"), 4, 1),
    ([-5.0, -4.0, -4.5, -6.0], (2, 0.0, "max"), 4, 1),
]


@pytest.mark.exercise("flood", points=2)
@pytest.mark.parametrize("values, args, length, best", CURVES)
def test_stops_in_time(student, values, args, length, best):
    """Training should stop after `patience` epochs in a row without improvement, not before and
    not after."""
    stops, bests, epochs, _, _ = student.run(train, values, args, False)
    assert_equal(len(stops), length, f"the number of epochs for {values}")
    assert_equal(bool(stops[-1]), length < len(values) or length - 1 - best >= args[0], "the stop")
    assert_equal(any(stops[:-1]), False, "a stop before the end")
    assert_equal(epochs[-1], best, "best_epoch")
    assert_close(bests[-1], values[best], "best")


@pytest.mark.exercise("flood", points=2)
@pytest.mark.parametrize("values, args, length, best", CURVES[1:4] + CURVES[6:])
def test_restores_the_best(student, values, args, length, best):
    """restore should bring back weights and buffers of the best epoch, into any model, and step
    should not touch the model."""
    _, _, _, seen, restored = student.run(train, values, args, False)
    last = float(length - 1)
    assert_equal(list(seen), [last, 10 + last], "(weight, running mean) before restore")
    assert_close(
        list(restored),
        [float(best), 10.0 + best, float(best)],
        "(weight, running mean, weight of another model), which count the epochs,",
        symptoms={
            "These are the last ones. Was a copy kept, or the model's own tensors, which training "
            "goes on changing?": [last, 10 + last, -1.0],
        },
    )


@pytest.mark.exercise("flood", points=1)
@pytest.mark.parametrize("values, args, best", [
    ([1.0, 0.75, 0.5, 0.4], (9, 0.25), 2),
    ([1.0, 0.7, 0.6, 0.5, 0.4], (9, 0.25), 4),
    ([0.0, 0.125, 0.25, 0.5], (9, 0.25, "max"), 3),
    ([0.0, 0.25, 0.25, 0.2], (9, 0.25, "max"), 0),
])  # fmt: skip
def test_min_delta(student, values, args, best):
    """An improvement should beat the best value so far by more than min_delta."""
    _, bests, epochs, _, _ = student.run(train, values, args, False)
    assert_equal(epochs[-1], best, f"best_epoch for {values}, min_delta = {args[1]}")
    assert_close(bests[-1], values[best], "best")


@pytest.mark.exercise("flood", points=1)
def test_not_a_number(student):
    """A NaN should never be an improvement, not even as the first value."""
    nan = float("nan")
    stops, _, epochs, _, _ = student.run(train, [nan, 1.0, nan, nan, 0.5], (3,), False)
    assert_equal(list(epochs), [None, None, 1, 1, 1, 4], "best_epoch after each epoch")
    assert_equal([bool(s) for s in stops], [False] * 5, "the stops")
    stops, _, epochs, _, _ = student.run(train, [nan, nan, nan, 0.5], (2, 0.0, "max"), False)
    assert_equal([bool(s) for s in stops], [False, True], "the stops if all are NaN")


@pytest.mark.exercise("flood", points=1)
def test_start_and_modes(student):
    """Before the first epoch best should be inf or -inf and best_epoch None; another mode should
    be a ValueError; a stop should stay until there is an improvement."""
    _, bests, epochs, _, _ = student.run(train, [1.0], (1,), False)
    assert_equal((bests[0], epochs[0]), (math.inf, None), "(best, best_epoch) for min")
    _, bests, epochs, _, _ = student.run(train, [1.0], (1, 0.0, "max"), False)
    assert_equal((bests[0], epochs[0]), (-math.inf, None), "(best, best_epoch) for max")
    stops, _, _, _, _ = student.run(train, [1.0, 2.0, 3.0, 4.0, 0.5], (2,), True)
    assert_equal([bool(s) for s in stops], [False, False, True, True, False], "the stops")
    for mode in ("minimum", "", None):
        with raises(ValueError):
            student.EarlyStopper(2, 0.0, mode)
