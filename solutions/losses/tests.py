"""Hidden tests of the chapter on loss functions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from course.testing import (
    assert_close,
    assert_gradcheck,
    assert_same_gradients,
    assert_true,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

REDUCTIONS = ("none", "sum", "mean")


def signs(*shape, device="cpu"):
    """Labels 1 and -1, float64, both of them present."""
    y = randint(0, 2, shape, device=device).double() * 2 - 1
    y.view(-1)[0], y.view(-1)[-1] = -1, 1
    return y


# --- regression ------------------------------------------------------------------------------

LIBRARY = {
    "l1": lambda x, y, beta, reduction: F.l1_loss(x, y, reduction=reduction),
    "mse": lambda x, y, beta, reduction: F.mse_loss(x, y, reduction=reduction),
    "smooth_l1": lambda x, y, beta, reduction: F.smooth_l1_loss(
        x, y, reduction=reduction, beta=beta
    ),
    "huber": lambda x, y, beta, reduction: F.huber_loss(x, y, reduction=reduction, delta=beta),
}


@pytest.mark.exercise("regression", points=3)
@pytest.mark.parametrize("kind", ["l1", "mse", "smooth_l1", "huber"])
def test_four_kinds(student, device, kind):
    """reg_loss should equal the library's loss for every kind, width, shape and reduction."""
    for shape, beta, reduction in itertools.product(
        [(7,), (1, 1), (3, 2, 4)], [0.3, 1.0, 2.5], REDUCTIONS
    ):
        x, y = 2 * randn(*shape, device=device), randn(*shape, device=device)
        with unchanged(x, y):
            got = student.reg_loss(kind, x, y, beta=beta, reduction=reduction)
        what = f"the {kind} loss for beta={beta}, reduction={reduction!r}"
        other = "huber" if kind == "smooth_l1" else "smooth_l1"
        assert_close(
            got,
            LIBRARY[kind](x, y, beta, reduction),
            what,
            symptoms={
                f"This is {other}; the two differ by the factor beta.": LIBRARY[other](
                    x, y, beta, reduction
                ),
            },
        )


@pytest.mark.exercise("regression", points=1)
@pytest.mark.parametrize("kind", ["l1", "mse", "smooth_l1", "huber"])
def test_defaults_and_float32(student, device, kind):
    """reg_loss should average by default, use beta = 1, and keep float32."""
    x = 3 * randn(5, 3, dtype=torch.float32, device=device)
    y = randn(5, 3, dtype=torch.float32, device=device)
    assert_close(student.reg_loss(kind, x, y), LIBRARY[kind](x, y, 1.0, "mean"))


@pytest.mark.exercise("regression", points=2)
@pytest.mark.parametrize("kind", ["l1", "mse", "smooth_l1", "huber"])
def test_slopes(student, device, kind):
    """The gradients for prediction and target should be the library's, at the centre too."""
    x, y = 2 * randn(6, 2, device=device), randn(6, 2, device=device)
    x[0] = y[0]  # no error: L1 has its kink here, and slope 0 by convention
    for beta, reduction in [(0.7, "mean"), (1.5, "none")]:
        assert_same_gradients(
            lambda x, y, b=beta, r=reduction: student.reg_loss(kind, x, y, b, r),
            lambda x, y, b=beta, r=reduction: LIBRARY[kind](x, y, b, r),
            x,
            y,
            what=f"the gradient of {kind}",
        )


@pytest.mark.exercise("regression", points=2)
@pytest.mark.parametrize("kind", ["smooth_l1", "huber"])
def test_the_two_pieces_meet(student, kind):
    """At an error of beta, the parabola and the line should have the same value and slope."""
    for beta in (0.5, 2.0):
        errors = torch.tensor([beta - 1e-9, beta + 1e-9, -beta - 1e-9, -beta + 1e-9]).double()
        zero = torch.zeros(4, dtype=torch.float64)
        value = torch.full((4,), beta / 2 if kind == "smooth_l1" else beta**2 / 2).double()
        got = student.reg_loss(kind, errors, zero, beta=beta, reduction="none")
        assert_close(got, value, f"the {kind} loss where the pieces meet")
        leaf = torch.tensor([beta, -beta], dtype=torch.float64, requires_grad=True)
        assert_gradcheck(lambda x, y=zero[:2], b=beta: student.reg_loss(kind, x, y, b, "sum"), leaf)


@pytest.mark.exercise("regression", points=1)
def test_without_a_parabola(student, device):
    """SmoothL1 with beta = 0 should be L1, in value and in gradient; nothing may be NaN."""
    x, y = randn(9, device=device), randn(9, device=device)
    x[2] = y[2]
    assert_close(
        student.reg_loss("smooth_l1", x, y, beta=0, reduction="none"), (x - y).abs(), "the loss"
    )
    got = student.reg_loss("mse", x, y, beta=0, reduction="none")
    assert_close(got, (x - y) ** 2, "the mse loss, which has no use for beta")
    assert_same_gradients(
        lambda x, y: student.reg_loss("smooth_l1", x, y, beta=0.0),
        lambda x, y: F.l1_loss(x, y),
        x,
        y,
    )


@pytest.mark.exercise("regression", points=1)
def test_regression_errors(student):
    """A shape that differs, an unknown kind and an unknown reduction should raise a ValueError."""
    x = randn(4)
    with raises(ValueError):
        student.reg_loss("mse", x[:, None], x)
    with raises(ValueError):
        student.reg_loss("l1", x, x[:1])
    with raises(ValueError):
        student.reg_loss("l3", x, x)
    with raises(ValueError):
        student.reg_loss("l1", x, x, reduction="average")


# --- ce --------------------------------------------------------------------------------------

COMBINATIONS = list(
    itertools.product((False, True), (None, -100, 2, -1), (0.0, 0.2), REDUCTIONS)
)  # weights?, what is ignored, smoothing, reduction: 48


def ce_case(n, classes, ignored, device="cpu"):
    logits, y = 3 * randn(n, classes, device=device), randint(0, classes, (n,), device=device)
    if ignored is not None:
        y[::3] = ignored
        y[1] = 0  # at least one that counts
    return logits, y, 0.2 + 3 * rand(classes, device=device)


@pytest.mark.exercise("ce", points=8)
@pytest.mark.parametrize("weighted, ignored, smoothing, reduction", COMBINATIONS)
def test_every_option(student, device, weighted, ignored, smoothing, reduction):
    """cross_entropy should equal F.cross_entropy for every combination of its options."""
    logits, y, weight = ce_case(8, 5, ignored, device)
    options = {
        "weight": weight if weighted else None,
        "ignore_index": -100 if ignored is None else ignored,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    with unchanged(logits, y, weight):
        got = student.cross_entropy(logits, y, **options)
    expected = F.cross_entropy(logits, y, **options)
    symptoms = {}
    if reduction == "mean":
        total = F.cross_entropy(logits, y, **{**options, "reduction": "sum"})
        counted = (y != options["ignore_index"]).sum()
        symptoms = {
            "With weights, the mean divides by the sum of the weights that were used, "
            "not by the number of examples.": total / counted,
            "This divides by all examples, ignored ones included.": total / len(y),
        }
    assert_close(got, expected, "the loss", symptoms=symptoms)


@pytest.mark.exercise("ce", points=4)
@pytest.mark.parametrize(
    "ignored, smoothing, reduction",
    [(None, 0.0, "mean"), (-100, 0.3, "mean"), (1, 0.1, "sum"), (-100, 1.0, "none")],
)
def test_cross_entropy_gradients(student, device, ignored, smoothing, reduction):
    """The gradient for the logits should be that of F.cross_entropy, 0 for ignored examples."""
    logits, y, weight = ce_case(7, 4, ignored, device)
    options = {
        "weight": weight,
        "ignore_index": -100 if ignored is None else ignored,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    assert_same_gradients(
        lambda z: student.cross_entropy(z, y, **options),
        lambda z: F.cross_entropy(z, y, **options),
        logits,
    )


@pytest.mark.exercise("ce", points=2)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_ignored(student, device, smoothing):
    """If every label is ignored, the sum should be 0 and the mean nan: nothing to average."""
    logits = randn(3, 4, device=device)
    y = torch.full((3,), -100, device=device)
    for reduction, expected in {
        "none": logits.new_zeros(3),
        "sum": logits.new_zeros(()),
        "mean": logits.new_full((), math.nan),
    }.items():
        got = student.cross_entropy(logits, y, reduction=reduction, label_smoothing=smoothing)
        assert_close(got, expected, f"the loss for reduction={reduction!r}")


@pytest.mark.exercise("ce", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits(student, device, dtype, scale):
    """Logits of 1e4 should give finite losses and gradients, in float32 and in float64."""
    logits = torch.tensor([[1.0, 0.5, -1.0], [1.0, 1.0, 1.0], [0.0, -1.0, 1.0]]) * scale
    logits = logits.to(device=device, dtype=dtype)
    y = torch.tensor([2, 1, 0], device=device)
    for smoothing in (0.0, 0.1):
        got = student.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
        assert_close(got, F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none"))
    assert_same_gradients(
        lambda z: student.cross_entropy(z, y), lambda z: F.cross_entropy(z, y), logits
    )


@pytest.mark.exercise("ce", points=2)
@pytest.mark.parametrize("n, classes", [(1, 2), (1, 7), (13, 3)])
def test_other_sizes(student, device, n, classes):
    """cross_entropy should work for one example, two classes, and with its defaults alone."""
    logits, y, weight = ce_case(n, classes, None, device)
    assert_close(student.cross_entropy(logits, y), F.cross_entropy(logits, y), "the loss")
    y[0] = classes - 1
    assert_close(
        student.cross_entropy(logits, y, weight, -100, 0.5, "sum"),
        F.cross_entropy(logits, y, weight, reduction="sum", label_smoothing=0.5),
        "the loss with positional options",
    )
    one, labels = logits[:, :1], torch.zeros(n, dtype=torch.long, device=device)
    labels[0] = -100
    got = student.cross_entropy(one, labels, reduction="none", label_smoothing=0.5)
    assert_close(got, torch.zeros_like(one[:, 0]), "the loss with one class only")


@pytest.mark.exercise("ce", points=1)
@pytest.mark.parametrize("reduction", ["average", "Mean", ""])
def test_unknown_reduction(student, reduction):
    """An unknown reduction should raise a ValueError."""
    logits, y, _ = ce_case(3, 4, None)
    with raises(ValueError):
        student.cross_entropy(logits, y, reduction=reduction)


# --- bce -------------------------------------------------------------------------------------


@pytest.mark.exercise("bce", points=3)
@pytest.mark.parametrize("shape, weights", [((5,), (5,)), ((3, 4), (4,)), ((1, 2, 3), (1, 1, 1))])
def test_bce_values(student, device, shape, weights):
    """bce should equal F.binary_cross_entropy, with weights, and with labels between 0 and 1."""
    p, y = rand(*shape, device=device), rand(*shape, device=device)
    weight = 0.1 + 4 * rand(*weights, device=device)
    with unchanged(p, y, weight):
        got = student.bce(p, y), student.bce(p, y, weight=weight)
    total = F.binary_cross_entropy(p, y, weight, reduction="sum")
    assert_close(got[0], F.binary_cross_entropy(p, y), "the loss without weights")
    assert_close(
        got[1],
        F.binary_cross_entropy(p, y, weight),
        "the loss with weights",
        symptoms={
            "This divides by the sum of the weights; here the mean divides by the count.": total
            / weight.expand(shape).sum(),
        },
    )


@pytest.mark.exercise("bce", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_and_wrong(student, device, dtype):
    """A probability of 0 or 1 should cost 0 if right and 100 if wrong, as in the library."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.0], dtype=dtype, device=device)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.25], dtype=dtype, device=device)
    for i, cost in enumerate([100.0, 100.0, 0.0, 0.0, math.log(2), 25.0]):
        expected = torch.tensor(cost, dtype=dtype, device=device)
        what = f"the loss for p={p[i].item():g}, y={y[i].item():g}"
        assert_close(student.bce(p[i : i + 1], y[i : i + 1]), expected, what)
    tiny = torch.tensor([1e-40], dtype=torch.float64, device=device)
    one = torch.ones(1, dtype=torch.float64, device=device)
    assert_close(student.bce(tiny, one), -tiny.log()[0], "the loss for p=1e-40, y=1")


@pytest.mark.exercise("bce", points=2)
def test_bce_gradients(student, device):
    """The gradient for the probabilities should be the library's."""
    p, y = 0.05 + 0.9 * rand(4, 3, device=device), rand(4, 3, device=device)
    weight = 2 * rand(4, 3, device=device)
    assert_same_gradients(
        lambda p: student.bce(p, y, weight), lambda p: F.binary_cross_entropy(p, y, weight), p
    )


@pytest.mark.exercise("bce", points=1)
def test_bce_errors(student):
    """bce should raise a ValueError for shapes that differ, and for what is no probability."""
    p, y = rand(4), rand(4)
    with raises(ValueError):
        student.bce(p[:, None], y)
    with raises(ValueError):
        student.bce(torch.tensor([0.5, 1.25]), torch.ones(2))
    with raises(ValueError):
        student.bce(torch.tensor([-0.25, 0.5]), torch.ones(2))


@pytest.mark.exercise("bce", points=3)
@pytest.mark.parametrize("shape, positive", [((6,), (1,)), ((4, 3), (3,)), ((1, 2, 5), (2, 1))])
def test_logits_values(student, device, shape, positive):
    """bce_logits should equal the library's, with pos_weight and weight, alone and together."""
    z, y = 4 * randn(*shape, device=device), rand(*shape, device=device)
    y = torch.where(y < 0.3, 0.0, torch.where(y > 0.7, 1.0, y))
    pos_weight = 0.2 + 5 * rand(*positive, device=device)
    weight = 0.1 + 2 * rand(*shape, device=device)
    for w, pos in itertools.product((None, weight), (None, pos_weight)):
        with unchanged(z, y, weight, pos_weight):
            got = student.bce_logits(z, y, pos_weight=pos, weight=w)
        both = 1 if pos is None else pos
        everywhere = both * F.binary_cross_entropy_with_logits(z, y, w, reduction="none")
        assert_close(
            got,
            F.binary_cross_entropy_with_logits(z, y, w, pos_weight=pos),
            "the loss",
            symptoms={
                "pos_weight multiplies the term of the positives only.": everywhere.mean(),
            },
        )


@pytest.mark.exercise("bce", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(student, device, dtype):
    """Logits of 120 and -120 should give finite losses, and gradients that still push."""
    z = torch.tensor([120.0, -120.0, 120.0, -120.0, 0.0, 40.0], dtype=dtype, device=device)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], dtype=dtype, device=device)
    for i in range(len(z)):
        expected = F.binary_cross_entropy_with_logits(z[i : i + 1], y[i : i + 1])
        got = student.bce_logits(z[i : i + 1], y[i : i + 1])
        assert_close(got, expected, f"the loss for z={z[i].item():g}, y={y[i].item():g}")
    assert_same_gradients(
        lambda z: student.bce_logits(z, y),
        lambda z: F.binary_cross_entropy_with_logits(z, y),
        z,
    )


@pytest.mark.exercise("bce", points=2)
def test_logits_gradients_and_errors(student, device):
    """The gradient for the logits should be the library's; other shapes raise a ValueError."""
    z, y = 2 * randn(5, 3, device=device), randint(0, 2, (5, 3), device=device).double()
    pos_weight, weight = 4 * rand(3, device=device), 2 * rand(5, 1, device=device)
    assert_same_gradients(
        lambda z: student.bce_logits(z, y, pos_weight, weight),
        lambda z: F.binary_cross_entropy_with_logits(z, y, weight, pos_weight=pos_weight),
        z,
    )
    with raises(ValueError):
        student.bce_logits(z[:, :1], y[:, 0])


# --- distribution ----------------------------------------------------------------------------

COUNTS = torch.tensor([0.0, 1.0, 1.5, 2.0, 7.0, 0.0, 30.0], dtype=torch.float64)


@pytest.mark.exercise("distribution", points=3)
@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_poisson_values(student, device, log_input, full):
    """poisson_nll should equal F.poisson_nll_loss in its four versions."""
    for shape in ((6,), (1, 1), (4, 3)):
        x, t = randn(*shape, device=device), randint(0, 9, shape, device=device).double()
        x = x if log_input else x.exp()
        with unchanged(x, t):
            got = student.poisson_nll(x, t, log_input=log_input, full=full)
        assert_close(got, F.poisson_nll_loss(x, t, log_input, full))


@pytest.mark.exercise("distribution", points=1)
def test_stirling(student, device):
    """Stirling's term should be added where t > 1 only, and t = 0 should do no harm."""
    for t in COUNTS.to(device):
        x = torch.tensor([0.75], dtype=torch.float64, device=device)
        assert_close(
            student.poisson_nll(x, t[None], full=True),
            F.poisson_nll_loss(x, t[None], full=True),
            f"the loss for t={t.item():g}",
        )


@pytest.mark.exercise("distribution", points=2)
def test_poisson_gradients_and_rate_zero(student, device):
    """The gradient should be the library's; a rate of 0 costs a lot, but not infinitely much."""
    t = COUNTS.to(device)
    x = randn(7, device=device)
    for log_input, full in itertools.product((True, False), (True, False)):
        assert_same_gradients(
            lambda x, a=log_input, b=full: student.poisson_nll(x if a else x.exp(), t, a, b),
            lambda x, a=log_input, b=full: F.poisson_nll_loss(x if a else x.exp(), t, a, b),
            x,
        )
    zero = torch.zeros(2, dtype=torch.float64, device=device)
    counts = torch.tensor([3.0, 0.0], dtype=torch.float64, device=device)
    got = student.poisson_nll(zero, counts, log_input=False)
    assert_close(got, F.poisson_nll_loss(zero, counts, log_input=False), "the loss at rate 0")
    x = randn(3, device=device)
    assert_close(student.poisson_nll(x, t[:3]), (x.exp() - t[:3] * x).mean(), "with the defaults")


@pytest.mark.exercise("distribution", points=2)
@pytest.mark.parametrize("shape", [(4, 5), (1, 3), (2, 3, 4)])
def test_kl_reductions(student, device, shape):
    """kl_div should equal F.kl_div for every reduction, and be batchmean by default."""
    logq = F.log_softmax(randn(*shape, device=device), -1)
    p = F.softmax(randn(*shape, device=device), -1)
    for reduction in (*REDUCTIONS, "batchmean"):
        with unchanged(logq, p):
            got = student.kl_div(logq, p, reduction=reduction)
        expected = logq.new_zeros(())
        terms = F.kl_div(logq, p, reduction="none")
        expected = {"none": terms, "sum": terms.sum(), "mean": terms.mean()}.get(
            reduction, terms.sum() / shape[0]
        )
        assert_close(
            got,
            expected,
            f"the loss for reduction={reduction!r}",
            symptoms={"p and q have changed places, or log p is missing.": -(p * logq).mean()},
        )
    assert_close(student.kl_div(logq, p), F.kl_div(logq, p, reduction="batchmean"), "by default")


@pytest.mark.exercise("distribution", points=1)
def test_kl_of_categoricals(student, device):
    """batchmean should be the mean KL divergence of the rows; entries with p = 0 add nothing."""
    logq = F.log_softmax(2 * randn(6, 4, device=device), 1)
    p = F.softmax(2 * randn(6, 4, device=device), 1)
    p[0, 1] = 0
    p[3] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    p = p / p.sum(1, keepdim=True)
    expected = kl_divergence(Categorical(probs=p), Categorical(logits=logq)).mean()
    assert_close(student.kl_div(logq, p), expected, rtol=1e-6)
    each = student.kl_div(logq, p, reduction="none")
    assert_close(each[p == 0], torch.zeros_like(each[p == 0]), "the entries with p = 0")


@pytest.mark.exercise("distribution", points=1)
def test_kl_gradients_and_errors(student, device):
    """The gradients for log q and p should be the library's; unknown reductions raise."""
    logq = F.log_softmax(randn(3, 5, device=device), 1)
    p = F.softmax(randn(3, 5, device=device), 1)
    for reduction in ("batchmean", "none", "sum"):
        assert_same_gradients(
            lambda a, b, r=reduction: student.kl_div(a, b, r),
            lambda a, b, r=reduction: F.kl_div(a, b, reduction=r),
            logq,
            p,
            what=f"the gradient for reduction={reduction!r}",
        )
    with raises(ValueError):
        student.kl_div(logq, p, reduction="batch")


# --- margin ----------------------------------------------------------------------------------


@pytest.mark.exercise("margin", points=3)
@pytest.mark.parametrize("shape", [(1,), (9,), (4, 5)])
def test_ranking(student, device, shape):
    """The kind `ranking` should equal F.margin_ranking_loss for any margin; the default margin is 0."""
    a, b = randn(*shape, device=device), randn(*shape, device=device)
    y = signs(*shape, device=device)
    with unchanged(a, b, y):
        got = student.margin_loss("ranking", a, y, other=b)
    assert_close(
        got,
        F.margin_ranking_loss(a, b, y),
        "the loss without a margin",
        symptoms={
            "The order seems to be turned round: y = 1 means that x should be larger.": (
                F.margin_ranking_loss(b, a, y)
            ),
            "The margin of ranking is 0 unless one is given.": F.margin_ranking_loss(
                a, b, y, margin=1.0
            ),
        },
    )
    for margin in (0.5, 2.0):
        got = student.margin_loss("ranking", a, y, other=b, margin=margin)
        assert_close(got, F.margin_ranking_loss(a, b, y, margin), f"the loss for margin={margin}")
    assert_same_gradients(
        lambda a, b: student.margin_loss("ranking", a, y, b, 0.5),
        lambda a, b: F.margin_ranking_loss(a, b, y, 0.5),
        a,
        b,
    )


@pytest.mark.exercise("margin", points=2)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4)])
def test_soft_margin(student, device, shape):
    """The kind `soft_margin` should equal F.soft_margin_loss, and stay finite for scores of 1000."""
    x, y = 3 * randn(*shape, device=device), signs(*shape, device=device)
    with unchanged(x, y):
        got = student.margin_loss("soft_margin", x, y)
    turned = {"The sign is turned round: a large y x should be cheap.": F.soft_margin_loss(-x, y)}
    assert_close(got, F.soft_margin_loss(x, y), symptoms=turned)
    assert_same_gradients(
        lambda x: student.margin_loss("soft_margin", x, y), lambda x: F.soft_margin_loss(x, y), x
    )
    far = torch.tensor([1000.0, -1000.0, -30.0], dtype=torch.float32, device=device)
    one = torch.ones(3, dtype=torch.float32, device=device)
    got = student.margin_loss("soft_margin", far, one)
    assert_close(got, torch.tensor(1030 / 3, device=device), "the loss for large scores")


@pytest.mark.exercise("margin", points=2)
@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (2, 7)])
def test_multilabel_soft_margin(student, device, shape):
    """The kind `multilabel_soft_margin` should equal the library's, with class weights and without."""
    x, y = 3 * randn(*shape, device=device), randint(0, 2, shape, device=device).double()
    weight = 0.2 + 2 * rand(shape[1], device=device)
    for w in (None, weight):
        with unchanged(x, y, weight):
            got = student.margin_loss("multilabel_soft_margin", x, y, weight=w)
        expected = F.multilabel_soft_margin_loss(x, y, w)
        whole = {"This is the sum over the classes; it is their mean.": shape[1] * expected}
        assert_close(got, expected, symptoms=whole)
        assert_same_gradients(
            lambda x, w=w: student.margin_loss("multilabel_soft_margin", x, y, weight=w),
            lambda x, w=w: F.multilabel_soft_margin_loss(x, y, w),
            x,
        )
    far = torch.tensor([[-200.0, 200.0]], device=device)
    label = torch.tensor([[1.0, 0.0]], device=device)
    got = student.margin_loss("multilabel_soft_margin", far, label)
    assert_close(got, torch.tensor(200.0, device=device), "the loss for large logits")


@pytest.mark.exercise("margin", points=4)
@pytest.mark.parametrize("n, classes", [(6, 4), (1, 2), (9, 3)])
def test_multi_margin(student, device, n, classes):
    """The kind `multi_margin` should equal F.multi_margin_loss for p = 1 and 2, margins and weights."""
    x, y = randn(n, classes, device=device), randint(0, classes, (n,), device=device)
    y[-1], y[0] = 0, classes - 1
    weight = 0.2 + 2 * rand(classes, device=device)
    for p, margin, w in itertools.product((1, 2), (1.0, 0.3, 2.0, 0.0), (None, weight)):
        with unchanged(x, y, weight):
            got = student.margin_loss("multi_margin", x, y, margin=margin, p=p, weight=w)
        whole = F.multi_margin_loss(x, y, p=1, margin=margin, reduction="none") * classes
        expected = F.multi_margin_loss(x, y, p=p, margin=margin, weight=w)
        assert_close(
            got,
            expected,
            f"the loss for p={p}, margin={margin}",
            symptoms={
                "The sum over the rivals is to be divided by the number of classes.": (
                    expected * classes
                ),
                "This divides by the number of rivals; divide by that of all classes.": (
                    expected * classes / (classes - 1)
                ),
                "A margin of 0 was given, and is not the same as none.": F.multi_margin_loss(
                    x, y, p=p, margin=margin or 1.0, weight=w
                ),
                "The power belongs to each class's term, not to their sum.": (
                    whole**p * (1 if w is None else w[y]) / classes
                ).mean(),
                "The class of the example itself is no rival of its own.": (
                    F.multi_margin_loss(x, y, p=p, margin=margin, reduction="none")
                    + margin**p / classes
                ).mean(),
            },
        )
        assert_same_gradients(
            lambda x, a=p, b=margin, c=w: student.margin_loss(
                "multi_margin", x, y, margin=b, p=a, weight=c
            ),
            lambda x, a=p, b=margin, c=w: F.multi_margin_loss(x, y, p=a, margin=b, weight=c),
            x,
        )
    got = student.margin_loss("multi_margin", x, y)
    assert_close(got, F.multi_margin_loss(x, y), "the loss with the defaults")


@pytest.mark.exercise("margin", points=3)
def test_multilabel_margin(student, device):
    """The kind `multilabel_margin` should equal the library's; a row of labels ends at the first -1."""
    rows = [
        [[3, 0, -1, 1, 2]],
        [[0, 1, 2, 3, 4], [-1, 2, 0, 1, 3], [4, -1, -1, -1, -1], [1, 4, 2, -1, 0]],
        [[-1, 0, 0, 0, 0]],
    ]
    for labels in rows:
        y = torch.tensor(labels, device=device)
        x = randn(*y.shape, device=device)
        with unchanged(x, y):
            got = student.margin_loss("multilabel_margin", x, y)
        expected = F.multilabel_margin_loss(x, y)
        assert_close(
            got,
            expected,
            f"the loss for y={labels}",
            symptoms={
                "The sum over the pairs is to be divided by the number of classes.": (
                    expected * y.shape[1]
                ),
            },
        )
    y = torch.tensor(rows[1], device=device)
    assert_same_gradients(
        lambda x: student.margin_loss("multilabel_margin", x, y),
        lambda x: F.multilabel_margin_loss(x, y),
        randn(4, 5, device=device),
    )


@pytest.mark.exercise("margin", points=1)
def test_illegal_targets(student):
    """Labels that a loss does not know, and an unknown kind, should raise a ValueError."""
    x, zero_one = randn(3), torch.tensor([1.0, 0.0, 1.0]).double()
    with raises(ValueError):
        student.margin_loss("soft_margin", x, zero_one)
    with raises(ValueError):
        student.margin_loss("ranking", x, zero_one, other=-x)
    x = randn(2, 3)
    for y in ([0, 3], [-1, 2]):
        with raises(ValueError):
            student.margin_loss("multi_margin", x, torch.tensor(y))
    for y in ([[0, 3, -1], [1, -1, -1]], [[0, -1, -1], [1, -2, -1]]):
        with raises(ValueError):
            student.margin_loss("multilabel_margin", x, torch.tensor(y))
    with raises(ValueError):
        student.margin_loss("hinge", x, torch.tensor([0, 1]))


# --- metric ----------------------------------------------------------------------------------


D = F.pairwise_distance  # with the same 1e-6


def swapped(a, p, n, margin):
    return (D(a, p) - torch.minimum(D(a, n), D(n, p)) + margin).clamp(min=0).mean()


@pytest.mark.exercise("metric", points=3)
@pytest.mark.parametrize("shape", [(8, 2), (1, 3), (5, 6)])
def test_triplet(student, device, shape):
    """triplet should equal F.triplet_margin_loss, for any margin, with and without swap."""
    a, p, n = (randn(*shape, device=device) for _ in range(3))
    assert_close(student.triplet(a, p, n), F.triplet_margin_loss(a, p, n), "with the defaults")
    for margin, swap in itertools.product((0.1, 0.7, 3.0), (False, True)):
        with unchanged(a, p, n):
            got = student.triplet(a, p, n, margin=margin, swap=swap)
        assert_close(
            got,
            F.triplet_margin_loss(a, p, n, margin, swap=swap),
            f"the loss for margin={margin}, swap={swap}",
            symptoms={
                "Positive and negative have changed places.": F.triplet_margin_loss(
                    a, n, p, margin, swap=swap
                ),
                "Nearly: 1e-6 is to be added to every entry of a difference before the norm.": (
                    F.triplet_margin_loss(a, p, n, margin, swap=swap, eps=0.0)
                ),
                "Nearly: because of the 1e-6, d(n, p) is not quite d(p, n).": swapped(
                    a, p, n, margin
                ),
                "`swap` takes the smaller of the two distances, not the larger.": (
                    (D(a, p) - torch.maximum(D(a, n), D(p, n)) + margin).clamp(min=0).mean()
                ),
            },
        )


@pytest.mark.exercise("metric", points=2)
def test_triplet_gradients_and_rest(student, device):
    """triplet's gradients should be the library's, and 0 where the negative is far enough."""
    a, p, n = (randn(6, 3, device=device) for _ in range(3))
    for swap in (False, True):
        assert_same_gradients(
            lambda a, p, n, s=swap: student.triplet(a, p, n, 2.0, s),
            lambda a, p, n, s=swap: F.triplet_margin_loss(a, p, n, 2.0, swap=s),
            a,
            p,
            n,
        )
    same = lambda a, n: student.triplet(a, a.detach(), n, 2.0)  # noqa: E731
    assert_same_gradients(same, lambda a, n: F.triplet_margin_loss(a, a.detach(), n, 2.0), a, n)
    far = torch.full((6, 3), 50.0, dtype=torch.float64, device=device)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    assert_close(student.triplet(a, p, far), zero, "the loss when the negatives are far away")


@pytest.mark.exercise("metric", points=2)
@pytest.mark.parametrize("shape", [(1,), (9,), (3, 4)])
def test_hinge_embedding(student, device, shape):
    """hinge_embed should equal F.hinge_embedding_loss for any margin, gradients included."""
    d, y = 2 * rand(*shape, device=device), signs(*shape, device=device)
    assert_close(student.hinge_embed(d, y), F.hinge_embedding_loss(d, y), "with the defaults")
    for margin in (0.4, 3.0):
        with unchanged(d, y):
            got = student.hinge_embed(d, y, margin=margin)
        assert_close(got, F.hinge_embedding_loss(d, y, margin), f"the loss for margin={margin}")
        assert_same_gradients(
            lambda d, m=margin: student.hinge_embed(d, y, m),
            lambda d, m=margin: F.hinge_embedding_loss(d, y, m),
            d,
        )
    for kind in (torch.ones_like(d), -torch.ones_like(d)):
        assert_close(student.hinge_embed(d, kind), F.hinge_embedding_loss(d, kind))


@pytest.mark.exercise("metric", points=2)
@pytest.mark.parametrize("n, size", [(1, 4), (7, 3), (5, 1)])
def test_cosine_embedding(student, device, n, size):
    """cos_embed should equal the library's, and not care about positive scaling."""
    a, b = randn(n, size, device=device), randn(n, size, device=device)
    y = signs(n, device=device)
    assert_close(student.cos_embed(a, b, y), F.cosine_embedding_loss(a, b, y), "by default")
    for margin in (-0.5, 0.3):
        with unchanged(a, b, y):
            got = student.cos_embed(a, b, y, margin=margin)
        expected = F.cosine_embedding_loss(a, b, y, margin)
        assert_close(got, expected, f"the loss for margin={margin}")
        scale = 0.1 + 5 * rand(n, 1, device=device)
        got = student.cos_embed(scale * a, 7 * b, y, margin=margin)
        assert_close(got, expected, "the loss of scaled inputs")
    if size > 1:
        assert_same_gradients(
            lambda a, b: student.cos_embed(a, b, y, -0.5),
            lambda a, b: F.cosine_embedding_loss(a, b, y, -0.5),
            a,
            b,
        )


@pytest.mark.exercise("metric", points=1)
def test_zero_vectors_and_labels(student, device):
    """A vector of zeros has cosine 0; labels other than 1 and -1 should raise a ValueError."""
    a = torch.zeros(2, 3, dtype=torch.float64, device=device)
    b = randn(2, 3, device=device)
    y = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device)
    assert_close(student.cos_embed(a, b, y), y.new_tensor(0.5), "the loss of a zero vector")
    for wrong in ([1.0, 0.0], [2.0, -1.0]):
        wrong = torch.tensor(wrong, dtype=torch.float64, device=device)
        with raises(ValueError):
            student.cos_embed(b, b, wrong)
        with raises(ValueError):
            student.hinge_embed(b[:, 0].abs(), wrong)


# --- ctc -------------------------------------------------------------------------------------


def library_ctc(log_probs, target, blank=0, zero_infinity=False):
    return F.ctc_loss(
        log_probs[:, None],
        target[None],
        (len(log_probs),),
        (len(target),),
        blank,
        "sum",
        zero_infinity,
    )


def by_enumeration(log_probs, target, blank):
    """-log of the summed probability of all paths that collapse to the target."""
    steps, classes = log_probs.shape
    total = []
    for path in itertools.product(range(classes), repeat=steps):
        kept = [c for c, _ in itertools.groupby(path) if c != blank]
        if kept == target:
            total.append(sum(log_probs[t, c] for t, c in enumerate(path)))
    return -torch.stack(total).logsumexp(0)


TARGETS = [
    (1, 3, [2]),
    (6, 4, [1, 2]),
    (7, 3, [1, 1]),
    (7, 5, [4, 2, 2, 3]),
    (9, 3, [2, 1, 2, 1]),
    (3, 4, [1, 2, 3]),
    (4, 6, []),
]


@pytest.mark.exercise("ctc", points=2)
@pytest.mark.parametrize("steps, classes, target", TARGETS)
def test_ctc_equals_library(student, device, steps, classes, target):
    """ctc_nll should equal F.ctc_loss for any length, repeated labels and an empty target too."""
    log_probs = F.log_softmax(2 * randn(steps, classes, device=device), 1)
    target = torch.tensor(target, dtype=torch.long, device=device)
    with unchanged(log_probs, target):
        got = student.ctc_nll(log_probs, target)
    expected = library_ctc(log_probs, target)
    short = {
        "The loss of one sequence is not divided by the length of its target.": expected
        / max(len(target), 1),
    }
    assert_close(got, expected, symptoms=short)
    got = student.ctc_nll(log_probs.float(), target)
    assert_close(got, library_ctc(log_probs.float(), target), "the loss in float32")


@pytest.mark.exercise("ctc", points=1)
def test_long_recordings(student, device):
    """A long recording should not underflow: no path has a probability that float64 can hold."""
    target = torch.tensor([1, 4, 4], device=device)
    log_probs = F.log_softmax(0.3 * randn(450, 8, device=device), 1)
    got = student.ctc_nll(log_probs, target)
    assert_close(got, library_ctc(log_probs, target), "the loss for T=450")


@pytest.mark.exercise("ctc", points=2)
@pytest.mark.parametrize("target, blank", [([1], 0), ([2, 0], 1), ([0, 0], 2), ([1, 0], 2)])
def test_ctc_counts_paths(student, target, blank):
    """ctc_nll should be -log of the sum over all paths that collapse to the target."""
    for steps in (4, 5):
        log_probs = F.log_softmax(randn(steps, 3), 1)
        got = student.ctc_nll(log_probs, torch.tensor(target), blank=blank)
        assert_close(got, by_enumeration(log_probs, target, blank), f"the loss for T={steps}")


@pytest.mark.exercise("ctc", points=2)
@pytest.mark.parametrize("steps, target", [(2, [1, 2, 1]), (1, [2, 1]), (2, [1, 1]), (4, [2] * 3)])
def test_impossible(student, device, steps, target):
    """A target that does not fit into T steps should cost inf, or 0 with zero_infinity."""
    log_probs = F.log_softmax(randn(steps, 3, device=device), 1)
    target = torch.tensor(target, device=device)
    assert_close(student.ctc_nll(log_probs, target), log_probs.new_tensor(math.inf))
    got = student.ctc_nll(log_probs, target, zero_infinity=True)
    assert_close(got, log_probs.new_tensor(0.0), "the loss with zero_infinity")
    log_probs = F.log_softmax(randn(5, 3, device=device), 1)
    got = student.ctc_nll(log_probs, target, zero_infinity=True)
    assert_close(got, library_ctc(log_probs, target), "zero_infinity where there is a path")


@pytest.mark.exercise("ctc", points=2)
@pytest.mark.parametrize("steps, classes, target", TARGETS)
def test_ctc_gradients(student, device, steps, classes, target):
    """The gradient through log_softmax should be the library's, and finite."""
    target = torch.tensor(target, dtype=torch.long, device=device)
    assert_same_gradients(
        lambda z: student.ctc_nll(F.log_softmax(z, 1), target),
        lambda z: library_ctc(F.log_softmax(z, 1), target),
        2 * randn(steps, classes, device=device),
    )


@pytest.mark.exercise("ctc", points=1)
def test_other_blanks(student, device):
    """The blank may be any class; a target that contains it should raise a ValueError."""
    log_probs = F.log_softmax(randn(8, 4, device=device), 1)
    for blank, target in ((3, [0, 1, 1]), (1, [0, 3, 0])):
        target = torch.tensor(target, device=device)
        got = student.ctc_nll(log_probs, target, blank=blank)
        assert_close(got, library_ctc(log_probs, target, blank), f"the loss for blank={blank}")
    with raises(ValueError):
        student.ctc_nll(log_probs, torch.tensor([1, 0], device=device))
    with raises(ValueError):
        student.ctc_nll(log_probs, torch.tensor([2, 1], device=device), blank=2)


# --- lsoftmax --------------------------------------------------------------------------------


def psi_by_angle(cos, m):
    theta = torch.acos(cos)
    k = (theta * m / math.pi).floor()
    return (1 - 2 * (k % 2)) * torch.cos(m * theta) - 2 * k


@pytest.mark.exercise("lsoftmax", points=2)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_psi_values(student, device, m):
    """psi should be (-1)^k cos(m theta) - 2k, for any shape."""
    for shape in ((1,), (9,), (4, 5)):
        cos = 2 * rand(*shape, device=device) - 1
        with unchanged(cos):
            got = student.psi(cos, m)
        theta = torch.acos(cos)
        assert_close(
            got,
            psi_by_angle(cos, m),
            "psi",
            symptoms={"This is cos(m theta) without k: it goes up again.": torch.cos(m * theta)},
        )
    cos = (2 * rand(6, device=device) - 1).float()
    assert_close(student.psi(cos, m), psi_by_angle(cos, m), "psi in float32", atol=1e-4)


@pytest.mark.exercise("lsoftmax", points=1)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 6])
def test_psi_falls(student, device, m):
    """As the angle grows psi should fall, never above the cosine, from 1 down to 1 - 2m."""
    cos = torch.cos(torch.linspace(0, math.pi, 301, dtype=torch.float64, device=device))
    got = student.psi(cos, m)
    assert_close(got[0], cos.new_tensor(1.0), "psi at angle 0")
    assert_close(got[-1], cos.new_tensor(1.0 - 2 * m), "psi at angle pi")
    assert_close((got.diff() > 1e-9).sum().item(), 0, "the number of places where psi rises")
    assert_close((got > cos + 1e-9).sum().item(), 0, "the number of places above the cosine")


@pytest.mark.exercise("lsoftmax", points=2)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_slope(student, device, m):
    """psi should have the right slope everywhere: m² at both ends, where acos has none."""
    cos = (0.98 * (2 * rand(7, device=device) - 1)).requires_grad_()
    assert_gradcheck(lambda c: student.psi(c, m), cos)
    ends = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device, requires_grad=True)
    (slope,) = torch.autograd.grad(student.psi(ends, m).sum(), ends)
    assert_close(
        slope,
        torch.full_like(ends, m * m),
        "the slope of psi at the cosines 1 and -1",
        symptoms={
            "The slope is lost in `clamp`, which has slope 0 at its ends: clamp only what goes "
            "into acos.": torch.zeros_like(ends),
        },
    )
    beyond = torch.tensor([1.0 + 1e-7, -1.0 - 1e-7], dtype=torch.float64, device=device)
    expected = torch.tensor([1.0, 1.0 - 2 * m], dtype=torch.float64, device=device)
    got = student.psi(beyond, m)
    assert_close(got, expected, "psi a rounding error outside [-1, 1]", atol=1e-5)


@pytest.mark.exercise("lsoftmax", points=1)
@pytest.mark.parametrize("n, d, classes", [(1, 2, 3), (6, 3, 4)])
def test_plain_logits(student, device, n, d, classes):
    """With m = 1 the logits should be the plain x Wᵀ."""
    x, W = randn(n, d, device=device), randn(classes, d, device=device)
    y = randint(0, classes, (n,), device=device)
    assert_close(student.lsoftmax_logits(x, W, y, 1), x @ W.T, "the logits")


@pytest.mark.exercise("lsoftmax", points=2)
@pytest.mark.parametrize("n, d, classes", [(1, 2, 2), (7, 3, 5), (4, 6, 3)])
@pytest.mark.parametrize("m", [2, 3, 4])
def test_own_logit(student, device, n, d, classes, m):
    """Only the logit of the own class should change, to |W_y| |x| psi; no input is changed."""
    x, W = 2 * randn(n, d, device=device), randn(classes, d, device=device)
    y = randint(0, classes, (n,), device=device)
    with unchanged(x, W, y):
        got = student.lsoftmax_logits(x, W, y, m)
    expected = x @ W.T
    norm = x.norm(dim=1) * W[y].norm(dim=1)
    own = norm * psi_by_angle(F.cosine_similarity(x, W[y]), m)
    expected[torch.arange(n), y] = own
    everywhere = x.norm(dim=1, keepdim=True) * W.norm(dim=1)
    everywhere = everywhere * psi_by_angle((x @ W.T) / everywhere, m)
    assert_close(
        got,
        expected,
        "the logits",
        symptoms={"Only the logit of the own class gets the margin.": everywhere},
    )


@pytest.mark.exercise("lsoftmax", points=1)
@pytest.mark.parametrize("m", [1, 2, 4])
def test_lsoftmax_gradients(student, device, m):
    """The gradients for features and weights should agree with finite differences."""
    x = randn(4, 3, device=device, requires_grad=True)
    W = randn(5, 3, device=device, requires_grad=True)
    y = torch.tensor([0, 4, 2, 2], device=device)
    assert_gradcheck(lambda x, W: student.lsoftmax_logits(x, W, y, m), x, W)


@pytest.mark.exercise("lsoftmax", points=1)
def test_margin_below_one_and_zero_features(student, device):
    """m < 1 should raise a ValueError; a feature of zeros has logits of zero."""
    x, W = randn(2, 3, device=device), randn(4, 3, device=device)
    y = torch.tensor([3, 0], device=device)
    for m in (0, -2):
        with raises(ValueError):
            student.psi(x[0] / 9, m)
        with raises(ValueError):
            student.lsoftmax_logits(x, W, y, m)
    x[1] = 0
    got = student.lsoftmax_logits(x, W, y, 3)
    assert_close(got[1], torch.zeros(4, dtype=torch.float64, device=device), "the logits of zeros")
    x[0] = 2 * W[3]
    got = student.lsoftmax_logits(x.float(), W.float(), y, 4)
    assert_true(bool(got.isfinite().all()), "A feature along its own weight gives NaN.")
