"""Hidden tests of the chapter on metrics, class imbalance and model selection."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- binary ----------------------------------------------------------------------------------


def expected_report(y, p, zero_division=0.0, beta=1.0):
    """scikit-learn's ratios; it knows the conventions 0 and 1, and what lies between follows."""
    y, p = y.long().cpu().numpy(), p.long().cpu().numpy()

    def ratios(rule):
        rule = {"zero_division": rule}
        return {
            "accuracy": metrics.accuracy_score(y, p),
            "precision": metrics.precision_score(y, p, **rule),
            "recall": metrics.recall_score(y, p, **rule),
            "specificity": metrics.recall_score(y, p, pos_label=0, **rule),
            "fscore": metrics.fbeta_score(y, p, beta=beta, **rule),
        }

    zero, one = ratios(0.0), ratios(1.0)
    return {k: float(zero[k] + zero_division * (one[k] - zero[k])) for k in zero}


@pytest.mark.exercise("binary", points=3)
@pytest.mark.parametrize("n, rate", [(37, 0.3), (200, 0.02), (64, 0.7), (5, 0.5)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.uint8])
def test_confusion_equals_sklearn(student, device, n, rate, dtype):
    """confusion should count as scikit-learn does, for labels of any dtype, and change none."""
    y = (rand(n, device=device) < rate).to(dtype)
    p = (rand(n, device=device) < 0.4).to(dtype)
    expected = torch.from_numpy(
        metrics.confusion_matrix(y.long().cpu(), p.long().cpu(), labels=[0, 1])
    ).to(device)
    with unchanged(y, p):
        got = student.confusion(y, p)
    assert_close(got, expected, "the confusion matrix")


@pytest.mark.exercise("binary", points=2)
@pytest.mark.parametrize(
    "y, p, expected",
    [
        ([1, 1, 1], [1, 1, 1], [[0, 0], [0, 3]]),
        ([0, 0], [0, 0], [[2, 0], [0, 0]]),
        ([1], [0], [[0, 0], [1, 0]]),
        ([0], [1], [[0, 1], [0, 0]]),
        ([0, 0, 1], [1, 1, 1], [[0, 2], [0, 1]]),
    ],
)
def test_confusion_is_always_two_by_two(student, y, p, expected):
    """confusion should be 2 x 2 even when a class or an answer does not occur."""
    got = student.confusion(torch.tensor(y), torch.tensor(p))
    assert_close(got, torch.tensor(expected), "the confusion matrix")


@pytest.mark.exercise("binary", points=2)
@pytest.mark.parametrize(
    "y, p",
    [
        ([0, 1, 2], [0, 1, 1]),
        ([0, 1, 1], [0, 1, 2]),
        ([-1, 1], [1, 1]),
        ([0, 1], [-1, 1]),
        ([0.5, 1.0], [1.0, 0.0]),
        ([1.0, 0.0], [0.0, 0.3]),
        ([0, 1, 0], [0, 1]),
        ([1, 1], [1]),
    ],
)
def test_strange_labels_raise(student, y, p):
    """confusion and report should raise a ValueError for labels that are not 0 or 1, in y or in p,
    and for different lengths."""
    with raises(ValueError):
        student.confusion(torch.tensor(y), torch.tensor(p))
    with raises(ValueError):
        student.report(torch.tensor(y), torch.tensor(p))


@pytest.mark.exercise("binary", points=4)
@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5, 0.0])
@pytest.mark.parametrize("n, rate", [(41, 0.3), (300, 0.05), (30, 0.8)])
def test_report_equals_sklearn(student, device, beta, n, rate):
    """All five ratios should equal scikit-learn's, for any beta, as floats."""
    y = (rand(n, device=device) < rate).long()
    p = ((rand(n, device=device) + 0.4 * y) > 0.6).long()
    with unchanged(y, p):
        got = student.report(y, p, beta=beta)
    assert_close(got, expected_report(y, p, beta=beta), f"the report for beta={beta}")
    kinds = sorted({type(v).__name__ for v in got.values()})
    assert_equal(kinds, ["float"], "the types of the values")


@pytest.mark.exercise("binary", points=2)
@pytest.mark.parametrize("zero_division", [0.0, 1.0, 0.25])
@pytest.mark.parametrize(
    "y, p",
    [
        ([1, 0, 1], [0, 0, 0]),
        ([0, 0, 0], [0, 1, 0]),
        ([0, 0, 0], [0, 0, 0]),
        ([1, 1], [1, 0]),
        ([1, 1], [1, 1]),
        ([1, 1, 1], [0, 0, 0]),
        ([1, 0, 0], [0, 1, 0]),
    ],
)
def test_zero_division(student, zero_division, y, p):
    """A ratio whose denominator is 0 should be zero_division; all others stay what they are."""
    y, p = torch.tensor(y), torch.tensor(p)
    got = student.report(y, p, zero_division=zero_division)
    assert_close(
        got, expected_report(y, p, zero_division), f"the report for zero_division={zero_division}"
    )
    whole = student.report(y, p, zero_division=int(zero_division))
    kinds = sorted({type(v).__name__ for v in whole.values()})
    assert_equal(kinds, ["float"], "the types of the values")
    if zero_division == 0:
        assert_close(student.report(y, p), expected_report(y, p), "the report by default")


@pytest.mark.exercise("binary", points=2)
def test_swapped_classes(student):
    """Exchanging the names of the classes should exchange recall and specificity."""
    y, p = randint(0, 2, (50,)), randint(0, 2, (50,))
    one, other = student.report(y, p), student.report(1 - y, 1 - p)
    assert_close(other["recall"], one["specificity"], "the recall with swapped classes")
    assert_close(other["specificity"], one["recall"], "the specificity with swapped classes")
    assert_close(other["accuracy"], one["accuracy"], "the accuracy with swapped classes")


# --- curves ----------------------------------------------------------------------------------


def scored(n, levels, dtype=torch.float64, device="cpu"):
    """Labels of both classes, and scores with ties (levels) or without (0)."""
    y = (rand(n, device=device) < 0.4).long()
    y[0], y[1] = 1, 0
    s = randn(n, device=device) + y
    if levels:
        s = (s * levels).round() / levels
    return y, s.to(dtype)


def expected_curve(y, s):
    p, r, t = metrics.precision_recall_curve(y.cpu(), s.cpu())
    return [torch.from_numpy(a[::-1].copy()).to(s) for a in (p[:-1], r[:-1], t)]


@pytest.mark.exercise("curves", points=5)
@pytest.mark.parametrize("n, levels", [(30, 0), (57, 1), (200, 4), (2, 0), (9, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_curve_equals_sklearn(student, device, n, levels, dtype):
    """pr_curve should equal scikit-learn's, turned round and without the point that it appends,
    with and without ties."""
    y, s = scored(n, levels, dtype, device)
    with unchanged(y, s):
        p, r, t = student.pr_curve(y, s)
    for got, expected, what in zip(
        (t, p, r), expected_curve(y, s)[2:] + expected_curve(y, s)[:2],
        ("the thresholds", "the precision", "the recall"), strict=True,
    ):  # fmt: skip
        assert_close(got, expected, what)


@pytest.mark.exercise("curves", points=4)
@pytest.mark.parametrize("n, levels", [(30, 0), (57, 1), (200, 4), (2, 0), (9, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ap_equals_sklearn(student, device, n, levels, dtype):
    """average_precision should equal scikit-learn's, with and without ties, as a float."""
    y, s = scored(n, levels, dtype, device)
    with unchanged(y, s):
        got = student.average_precision(y, s)
    expected = float(metrics.average_precision_score(y.cpu(), s.cpu()))
    assert_equal(type(got).__name__, "float", "the type of the average precision")
    assert_close(got, expected, "the average precision", rtol=1e-5)


@pytest.mark.exercise("curves", points=4)
@pytest.mark.parametrize("n, levels", [(30, 0), (57, 1), (200, 4), (2, 0), (9, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_auc_equals_sklearn(student, device, n, levels, dtype):
    """roc_auc should equal scikit-learn's, with and without ties, as a float."""
    y, s = scored(n, levels, dtype, device)
    with unchanged(y, s):
        got = student.roc_auc(y, s)
    expected = float(metrics.roc_auc_score(y.cpu(), s.cpu()))
    assert_equal(type(got).__name__, "float", "the type of the AUC")
    assert_close(got, expected, "the AUC", rtol=1e-5)


@pytest.mark.exercise("curves", points=2)
@pytest.mark.parametrize("positives, negatives", [(3, 5), (1, 1), (20, 2)])
def test_constant_scores(student, positives, negatives):
    """If all scores are equal, the curve has one point, AUC is one half, and AP the base rate."""
    y = torch.tensor([1] * positives + [0] * negatives)
    s = torch.full((len(y),), 0.3, dtype=torch.float64)
    rate = positives / len(y)
    p, r, t = student.pr_curve(y, s)
    assert_close(t, s[:1], "the thresholds")
    assert_close(p, torch.tensor([rate], dtype=torch.float64), "the precision")
    assert_close(r, torch.ones(1, dtype=torch.float64), "the recall")
    assert_close(student.roc_auc(y, s), 0.5, "the AUC", rtol=1e-5)
    assert_close(student.average_precision(y, s), rate, "the average precision", rtol=1e-5)


@pytest.mark.exercise("curves", points=3)
def test_only_the_order_counts(student):
    """A growing function of the scores should change neither AUC nor AP, nor precision and recall;
    turning the order round should turn the AUC round."""
    y, s = scored(60, 3)
    for other in (10 * s - 400, s**3, torch.exp(s), s / 1000):
        assert_close(student.roc_auc(y, other), student.roc_auc(y, s), "the AUC", rtol=1e-5)
        got, expected = student.average_precision(y, other), student.average_precision(y, s)
        assert_close(got, expected, "the average precision", rtol=1e-5)
        p, r, _ = student.pr_curve(y, other)
        p0, r0, _ = student.pr_curve(y, s)
        assert_close(p, p0, "the precision")
        assert_close(r, r0, "the recall")
    assert_close(student.roc_auc(y, -s), 1 - student.roc_auc(y, s), "the AUC of -s", rtol=1e-5)


@pytest.mark.exercise("curves", points=2)
@pytest.mark.parametrize("label", [0, 1])
def test_single_class_raises(student, label):
    """With all labels 0, or all 1, each of the three should raise a ValueError."""
    y, s = torch.full((4,), label), randn(4)
    for name in ("pr_curve", "average_precision", "roc_auc"):
        with raises(ValueError):
            getattr(student, name)(y, s)


# --- focal -----------------------------------------------------------------------------------


def library_focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    """torchvision's sigmoid_focal_loss, in its formula."""
    y = y.to(z)
    p = torch.sigmoid(z)
    p_t = p * y + (1 - p) * (1 - y)
    loss = F.binary_cross_entropy_with_logits(z, y, reduction="none") * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


# torchvision 0.29's values for these logits and labels, by (alpha, gamma).
FROZEN_Z = [-3.0, -0.5, 0.0, 1.0, 2.5, 4.0]
FROZEN_Y = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
FROZEN = {
    (0.25, 2.0): [0.691570110, 0.050680118, 0.043321699, 0.526401228, 0.000113492, 2.906180428],
    (0.6, 1.5): [1.700583910, 0.043990052, 0.147038722, 0.328351899, 0.000988952, 1.564092770],
    (-1, 0.5): [2.975418330, 0.291293465, 0.490129072, 1.122864531, 0.021728098, 3.981850320],
    (0.0, 2.0): [0.0, 0.067573491, 0.0, 0.701868303, 0.0, 3.874907238],
    (1.0, 3.0): [2.635087176, 0.0, 0.086643398, 0.0, 0.000034437, 0.0],
}


@pytest.mark.exercise("focal", points=3)
@pytest.mark.parametrize("alpha, gamma", list(FROZEN))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_frozen_values(student, device, alpha, gamma, dtype):
    """focal should give torchvision's values, for several alpha and gamma."""
    z = torch.tensor(FROZEN_Z, dtype=dtype, device=device)
    y = torch.tensor(FROZEN_Y, dtype=dtype, device=device)
    expected = torch.tensor(FROZEN[alpha, gamma], dtype=dtype, device=device)
    with unchanged(z, y):
        got = student.focal(z, y, alpha, gamma, "none")
    assert_close(got, expected, f"the loss for alpha={alpha}, gamma={gamma}", rtol=1e-4)


@pytest.mark.exercise("focal", points=2)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 1, 4), ()])
def test_shapes_and_reductions(student, device, reduction, shape):
    """focal should take any shape and reduce it as asked; labels may be integers; the defaults are
    alpha=0.25, gamma=2 and no reduction."""
    z, y = 3 * randn(*shape, device=device), randint(0, 2, shape, device=device)
    got = student.focal(z, y, reduction=reduction)
    assert_close(got, library_focal(z, y, reduction=reduction), f"the loss for {reduction!r}")
    assert_close(student.focal(z, y), library_focal(z, y), "the loss by default")
    mixed = student.focal(z.float(), y.double(), reduction=reduction)
    expected = library_focal(z.float(), y, reduction=reduction)
    assert_close(mixed, expected, "the loss of float32 logits with float64 labels")


@pytest.mark.exercise("focal", points=2)
@pytest.mark.parametrize("shape", [(9,), (4, 3)])
def test_equals_cross_entropy(student, device, shape):
    """With gamma=0 and alpha=-1 focal should be the cross-entropy, value and gradient; with
    alpha=0.5 half of it."""
    z, y = 2 * randn(*shape, device=device), randint(0, 2, shape, device=device).double()

    def bce(z):
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")

    assert_close(student.focal(z, y, -1, 0.0), bce(z), "the loss for gamma=0, alpha=-1")
    assert_close(student.focal(z, y, 0.5, 0.0), bce(z) / 2, "the loss for gamma=0, alpha=0.5")
    assert_same_gradients(lambda z: student.focal(z, y, -1, 0.0), bce, z)


@pytest.mark.exercise("focal", points=2)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(student, device, gamma, dtype):
    """For logits of +-100 and +-1000 loss and gradient should be finite, and on the wrong side
    equal to the size of the logit."""
    z = torch.tensor([100.0, -100, 100, -100, 1000, -1000, 1000, -1000], dtype=dtype, device=device)
    y = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 1], dtype=dtype, device=device)
    z.requires_grad_()
    loss = student.focal(z, y, -1, gamma)
    wrong = torch.tensor([0.0, 0, 100, 100, 0, 0, 1000, 1000], dtype=dtype, device=device)
    assert_close(loss.detach(), wrong, "the loss", atol=1e-5)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    slope = torch.tensor([0.0, 0, 1, -1, 0, 0, 1, -1], dtype=dtype, device=device)
    assert_close(grad, slope, "the gradient", atol=1e-5)


@pytest.mark.exercise("focal", points=2)
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (-1, 0.7), (0.8, 1.0)])
def test_gradient(student, device, alpha, gamma):
    """The gradient of focal should agree with finite differences and with torchvision's."""
    z = 2 * randn(8, device=device)
    y = torch.tensor([0.0, 1] * 4, dtype=torch.float64, device=device)
    assert_gradcheck(lambda z: student.focal(z, y, alpha, gamma), z.clone().requires_grad_())
    for reduction in ("none", "mean", "sum"):
        assert_same_gradients(
            lambda z, r=reduction: student.focal(z, y, alpha, gamma, r),
            lambda z, r=reduction: library_focal(z, y, alpha, gamma, r),
            z,
            what=f"the gradient for {reduction!r}",
        )


@pytest.mark.exercise("focal", points=1)
@pytest.mark.parametrize("reduction", ["average", "", "Mean"])
def test_unknown_reduction(student, reduction):
    """focal should raise a ValueError for a reduction that does not exist."""
    with raises(ValueError):
        student.focal(randn(3), torch.ones(3, dtype=torch.float64), reduction=reduction)


@pytest.mark.exercise("focal", points=2)
@pytest.mark.parametrize("pi", [0.01, 0.024, 0.3, 0.5, 0.99])
def test_prior_bias(student, pi):
    """The sigmoid of prior_bias(pi) should be pi, so that the first loss is the entropy."""
    got = student.prior_bias(pi)
    assert_close(got, math.log(pi / (1 - pi)), f"`prior_bias({pi})`", rtol=1e-5)


@pytest.mark.exercise("focal", points=1)
@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.5])
def test_no_share(student, pi):
    """prior_bias should raise a ValueError unless 0 < pi < 1."""
    with raises(ValueError):
        student.prior_bias(pi)


# --- smote -----------------------------------------------------------------------------------


def squared_distances(X):
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    return far


def segment_gap(made, X, k):
    """For each new point, the smallest distance to a segment from a row to one of its k nearest,
    and the numbers i and j of that segment."""
    near = squared_distances(X).topk(k, largest=False).indices
    i = torch.arange(len(X)).repeat_interleave(k)
    j = near.flatten()
    start, way = X[i], X[j] - X[i]
    t = ((made[:, None] - start) * way).sum(-1) / way.pow(2).sum(-1).clamp(min=1e-12)
    foot = start + t.clamp(0, 1)[..., None] * way
    gap, which = (made[:, None] - foot).norm(dim=-1).min(1)
    return gap, i[which], j[which]


@pytest.mark.exercise("smote", points=4)
@pytest.mark.parametrize(
    "rows, d, k, n", [(12, 2, 3, 40), (30, 5, 4, 77), (5, 1, 4, 9), (2, 3, 1, 6), (9, 3, 1, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_on_segments(student, rows, d, k, n, dtype):
    """Every new point should lie on a segment from a row to one of its k nearest other rows."""
    X = randn(rows, d, dtype=dtype)
    with unchanged(X):
        made = student.smote(X, k, n, generator())
    assert_shape(made, (n, d))
    assert_equal(made.dtype, dtype, "the dtype")
    gap, _, _ = segment_gap(made.double(), X.double(), k)
    assert_close(gap, torch.zeros_like(gap), "the distance to the nearest segment", atol=1e-5)


@pytest.mark.exercise("smote", points=3)
def test_neighbours_in_turn(student):
    """All rows, and all of their k neighbours, should be used equally often."""
    X = randn(6, 3)
    k, n = 3, 3600
    made = student.smote(X, k, n, generator())
    _, i, j = segment_gap(made, X, k)
    both = torch.stack([i, j]).sort(0).values
    count = torch.zeros(6, 6).index_put((both[0], both[1]), torch.ones(n), accumulate=True)
    near = squared_distances(X).topk(k, largest=False).indices
    expected = torch.zeros(6, 6)
    for a in range(6):
        for b in near[a].tolist():
            expected[min(a, b), max(a, b)] += n / 6 / k
    assert_close(count / n, expected / n, "the share of each segment", rtol=0, atol=0.035)
    pairs = torch.tensor([[p * 100.0, q] for p in range(4) for q in (0.0, 1.0)])
    single = [student.smote(pairs, 1, 1, generator(seed))[0, 0].item() for seed in range(40)]
    found = sorted({round(x / 100) for x in single})
    assert_equal(
        found, [0, 1, 2, 3], "the pairs of neighbours that a single new point may come from"
    )


@pytest.mark.exercise("smote", points=2)
def test_places_on_the_segment(student):
    """The places on a segment should be spread evenly from one end to the other, never beyond."""
    X = torch.tensor([[0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    made = student.smote(X, 1, 2000, generator())[:, 0]
    inside = bool(((made >= 0) & (made <= 1)).all())
    assert_equal(inside, True, "whether all new points lie on their segment")
    tenths = torch.histc(made, 10, 0, 1) / 2000
    assert_close(
        tenths,
        torch.full((10,), 0.1, dtype=torch.float64),
        "the share in each tenth",
        rtol=0,
        atol=0.04,
    )


@pytest.mark.exercise("smote", points=2)
def test_smote_rng(student):
    """The same generator state should give the same points, whatever the global seed; another one,
    or a second call, others."""
    X = randn(10, 2)
    torch.manual_seed(1)
    first = student.smote(X, 3, 8, generator(5))
    torch.manual_seed(2)
    again = student.smote(X, 3, 8, generator(5))
    assert_equal(torch.equal(again, first), True, "whether the same seed gives the same points")
    other = student.smote(X, 3, 8, generator(6))
    assert_true((other - first).abs().max() > 1e-3, "Two seeds gave the same points.")
    rng = generator(5)
    student.smote(X, 3, 8, rng)
    again = student.smote(X, 3, 8, rng)
    assert_true((again - first).abs().max() > 1e-3, "Two calls with one rng gave the same points.")


@pytest.mark.exercise("smote", points=1)
def test_copies_of_a_row(student):
    """A row is not its own neighbour, but another row at the same place is."""
    X = torch.tensor([[1.0, 1.0], [1.0, 1.0], [5.0, 2.0], [5.0, 2.0]], dtype=torch.float64)
    made = student.smote(X, 1, 40, generator())
    gap = torch.cdist(made, X).min(1).values
    assert_close(gap, torch.zeros_like(gap), "the distance to the nearest row", atol=1e-9)


@pytest.mark.exercise("smote", points=2)
@pytest.mark.parametrize("rows, k", [(5, 5), (5, 6), (1, 1), (4, 0), (4, -1)])
def test_smote_k(student, rows, k):
    """smote should raise a ValueError unless 1 <= k < N."""
    with raises(ValueError):
        student.smote(randn(rows, 2), k, 3, generator())


def expected_links(X, y):
    near = squared_distances(X).argmin(1).tolist()
    return [[i, j] for i, j in enumerate(near) if near[j] == i and i < j and y[i] != y[j]]


@pytest.mark.exercise("smote", points=4)
@pytest.mark.parametrize("n, d, classes", [(40, 2, 2), (25, 1, 2), (60, 4, 3), (2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_links(student, device, n, d, classes, dtype):
    """tomek_links should list every pair of mutual nearest neighbours of different class once, the
    smaller row first, sorted."""
    X, y = randn(n, d, dtype=dtype, device=device), randint(0, classes, (n,), device=device)
    y[0], y[1] = 0, 1
    expected = expected_links(X, y)
    with unchanged(X, y):
        got = student.tomek_links(X, y)
    assert_shape(got, (len(expected), 2), "the links")
    assert_close(
        got, torch.tensor(expected, dtype=torch.int64, device=device).view(-1, 2), "the links"
    )


@pytest.mark.exercise("smote", points=2)
@pytest.mark.parametrize(
    "X, y, expected",
    [
        ([0.0, 0.0, 3.0], [0, 1, 1], [[0, 1]]),
        ([0.0, 1.0, 2.0], [0, 1, 0], [[0, 1]]),
        ([2.0, 1.0, 0.0], [0, 1, 0], [[0, 1]]),
        ([5.0, 1.0, 0.0, 6.5, 2.5], [0, 1, 0, 1, 0], [[0, 3], [1, 2]]),
        ([0.0, 1.0, 5.0, 6.0], [1, 1, 0, 0], []),
        ([0.0, 1.0], [7, -3], [[0, 1]]),
    ],
)
def test_small_links(student, X, y, expected):
    """tomek_links should be right for rows at one place, ties, chains and no link at all."""
    got = student.tomek_links(torch.tensor(X)[:, None], torch.tensor(y))
    assert_close(got, torch.tensor(expected, dtype=torch.int64).view(-1, 2), "the links")


# --- resample --------------------------------------------------------------------------------

SIZES = [(7, 3), (20, 1), (5, 5), (9, 2, 4), (1, 12, 6)]


def labels_of(sizes):
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    return y[torch.randperm(len(y), generator=generator(3))]


@pytest.mark.exercise("resample", points=2)
@pytest.mark.parametrize("sizes", SIZES)
def test_oversample_counts(student, sizes):
    """oversample should make every class as frequent as the largest, and keep every row; rows of
    the largest class come once."""
    y = labels_of(sizes)
    with unchanged(y):
        rows = student.oversample(y, generator())
    assert_equal(rows.dtype, torch.int64, "the dtype")
    assert_shape(rows, (len(sizes) * max(sizes),), "the rows")
    assert_equal(y[rows].bincount().tolist(), [max(sizes)] * len(sizes), "the class sizes")
    assert_equal(sorted(set(rows.tolist())), list(range(len(y))), "the rows that occur")
    other = student.oversample(2 - 3 * y, generator())
    assert_equal(
        y[other].bincount().tolist(), [max(sizes)] * len(sizes), "the sizes of classes 2, -1, …"
    )


@pytest.mark.exercise("resample", points=2)
def test_oversample_draws(student):
    """The additional rows should be drawn with replacement, all equally likely, from rng."""
    y = (torch.arange(44) < 4).long()
    many = torch.stack([student.oversample(y, generator(s)).bincount() for s in range(60)])
    share = many[:, :4].double().mean(0) / 40
    assert_close(
        share, torch.full((4,), 0.25, dtype=torch.float64), "the share of each row", atol=0.03
    )
    spread = many[:, 0].double().std().item()
    assert_true(
        spread > 1.2, f"A row comes nearly equally often each time (std {spread:.1f} of about 2.6)."
    )
    torch.manual_seed(1)
    first = student.oversample(y, generator(5))
    torch.manual_seed(2)
    again = student.oversample(y, generator(5))
    assert_equal(torch.equal(again, first), True, "whether the same seed gives the same rows")


def expected_quotas(sizes, total):
    """How many rows each cluster gives for certain, and whether one more is possible."""
    quota = [0] * len(sizes)
    while True:
        open_ = [i for i, n in enumerate(sizes) if quota[i] < n]
        if len(open_) > total - sum(quota) or not open_:
            return quota, open_, total - sum(quota)
        for i in open_:
            quota[i] += 1


# class sizes are sums of cluster sizes: class 0, class 1, …
PLANS = [
    [[400, 6], [4]],
    [[6, 3, 1], [4]],
    [[10, 10], [3, 2]],
    [[8, 1, 1], [5]],
    [[2, 9], [6]],
    [[4, 4, 4], [3], [5, 2]],
    [[30], [1]],
    [[5], [5]],
]


def plan(clusters):
    y, g = [], []
    for label, sizes in enumerate(clusters):
        for number, size in enumerate(sizes):
            y += [label] * size
            g += [10 * number + (label == 0)] * size  # numbers of clusters need not be 0, 1, 2
    order = torch.randperm(len(y), generator=generator(4))
    return torch.tensor(y)[order], torch.tensor(g)[order]


@pytest.mark.exercise("resample", points=3)
@pytest.mark.parametrize("clusters", PLANS)
def test_undersample_quotas(student, clusters):
    """undersample should balance the classes with different rows, keep the smallest class whole,
    and take from the clusters of a class in turn."""
    y, g = plan(clusters)
    keep = min(sum(sizes) for sizes in clusters)
    for seed in range(4):
        with unchanged(y, g):
            rows = student.undersample(y, g, generator(seed))
        assert_equal(rows.dtype, torch.int64, "the dtype")
        assert_equal(len(set(rows.tolist())), len(rows), "the number of different rows")
        counts = y[rows].bincount(minlength=len(clusters)).tolist()
        assert_equal(counts, [keep] * len(clusters), "the class sizes")
        for label, sizes in enumerate(clusters):
            quota, open_, rest = expected_quotas(sizes, keep)
            taken = [
                int(((y[rows] == label) & (g[rows] == 10 * i + (label == 0))).sum())
                for i in range(len(sizes))
            ]
            extra = [t - q for t, q in zip(taken, quota, strict=True)]
            fine = sum(extra) == rest and all(
                e in ((0, 1) if i in open_ else (0,)) for i, e in enumerate(extra)
            )
            if not fine:
                more = f", and {rest} more from different clusters" if rest else ""
                assert_equal(taken, quota, f"the rows from the clusters of class {label}{more},")


@pytest.mark.exercise("resample", points=2)
def test_undersample_draws(student):
    """Within a cluster every row should be equally likely, drawn from rng."""
    y = torch.tensor([0] * 12 + [1] * 4)
    g = torch.tensor([0] * 8 + [1] * 4 + [0] * 4)
    total = sum(
        torch.zeros(16).index_add(0, student.undersample(y, g, generator(s)), torch.ones(4 + 4))
        for s in range(120)
    )
    expected = torch.tensor([0.25] * 8 + [0.5] * 4 + [1.0] * 4)
    assert_close(total / 120, expected, "the share of plans with each row", rtol=0, atol=0.2)
    torch.manual_seed(1)
    first = [sorted(student.undersample(y, g, generator(n)).tolist()) for n in range(5)]
    torch.manual_seed(2)
    again = [sorted(student.undersample(y, g, generator(n)).tolist()) for n in range(5)]
    assert_equal(again == first, True, "whether the same seed gives the same rows")


@pytest.mark.exercise("resample", points=1)
@pytest.mark.parametrize("clusters", [[[1, 1, 1], [2]], [[5, 2], [1]], [[3], [2], [1, 1, 1]]])
def test_more_clusters_than_rows(student, clusters):
    """undersample should raise a ValueError where a class has more clusters than the smallest class
    has rows; as many are fine."""
    y, g = plan(clusters)
    with raises(ValueError):
        student.undersample(y, g, generator())
    y, g = plan([[4, 1, 1], [3]])
    rows = student.undersample(y, g, generator())
    assert_equal(y[rows].bincount().tolist(), [3, 3], "the class sizes for 3 clusters and 3 rows")


# --- kfold -----------------------------------------------------------------------------------


def assert_partition(parts, n, k):
    """Every row is validated once and trained on otherwise; sizes differ by at most one."""
    assert_equal(len(parts), k, "the number of folds")
    sizes = sorted(len(val) for _, val in parts)
    assert_equal(sizes, [n // k] * (k - n % k) + [n // k + 1] * (n % k), "the validation sizes")
    for train, val in parts:
        assert_equal(str(train.dtype), "torch.int64", "the dtype of the training rows")
        assert_equal(str(val.dtype), "torch.int64", "the dtype of the validation rows")
        together = sorted(torch.cat([train, val]).tolist())
        assert_equal(together, list(range(n)), "training and validation rows together")
    seen = sorted(torch.cat([val for _, val in parts]).tolist())
    assert_equal(seen, list(range(n)), "all validation rows together")


@pytest.mark.exercise("kfold", points=3)
@pytest.mark.parametrize("n, k", [(10, 5), (11, 3), (7, 7), (50, 8), (2, 2), (101, 2)])
def test_partition(student, n, k):
    """Every row should be validated exactly once, by parts that differ in size by at most one, and
    be in all other training parts."""
    for seed in range(3):
        assert_partition(student.kfold(n, k, generator(seed)), n, k)


@pytest.mark.exercise("kfold", points=2)
def test_random_folds(student):
    """Rows should fall into folds at random: any two are together about equally often, from rng."""
    together = torch.zeros(12, 12, dtype=torch.float64)
    for seed in range(150):
        for _, val in student.kfold(12, 3, generator(seed)):
            together[val[:, None], val] += 1 / 150
    together.fill_diagonal_(3 / 11)
    assert_close(
        together,
        torch.full((12, 12), 3 / 11, dtype=torch.float64),
        "how often two rows are in one fold",
        rtol=0,
        atol=0.2,
    )
    torch.manual_seed(1)
    first = [val.tolist() for _, val in student.kfold(20, 3, generator(5))]
    torch.manual_seed(2)
    again = [val.tolist() for _, val in student.kfold(20, 3, generator(5))]
    assert_equal(again == first, True, "whether the same seed gives the same folds")


@pytest.mark.exercise("kfold", points=1)
@pytest.mark.parametrize("n, k", [(3, 4), (5, 1), (5, 0), (1, 2), (4, -1)])
def test_bad_k(student, n, k):
    """Both functions should raise a ValueError unless 2 <= k <= n."""
    with raises(ValueError):
        student.kfold(n, k, generator())
    with raises(ValueError):
        student.stratified_kfold(torch.arange(n) % 2, k, generator())


@pytest.mark.exercise("kfold", points=3)
@pytest.mark.parametrize(
    "sizes, k",
    [
        ((60, 60), 60),
        ((30, 6), 3),
        ((41, 7), 2),
        ((5, 9, 13), 5),
        ((20, 1), 3),
        ((2, 2), 4),
        ((7, 8, 6), 6),
    ],
)
def test_strata(student, sizes, k):
    """Each class should be dealt to the folds evenly, to within one row, and the parts still be a
    partition whose sizes differ by at most one."""
    for y in (labels_of(sizes), labels_of(sizes).sort(descending=True).values):
        for seed in range(2):
            with unchanged(y):
                parts = student.stratified_kfold(y, k, generator(seed))
            assert_partition(parts, len(y), k)
            for label, size in enumerate(sizes):
                inside = sorted(int((y[val] == label).sum()) for _, val in parts)
                even = [size // k] * (k - size % k) + [size // k + 1] * (size % k)
                what = f"the fewest and the most rows of class {label} in a fold"
                assert_equal([inside[0], inside[-1]], [even[0], even[-1]], what)
                assert_equal(inside, even, f"the rows of class {label} in the folds")


@pytest.mark.exercise("kfold", points=1)
def test_random_strata(student):
    """stratified_kfold should be random within a class, from rng."""
    y = torch.tensor([0, 1] * 6)
    together = torch.zeros(12, 12, dtype=torch.float64)
    for seed in range(150):
        for _, val in student.stratified_kfold(y, 3, generator(seed)):
            together[val[:, None], val] += 1 / 150
    same = y[:, None] == y
    expected = torch.where(same, 1 / 5, 1 / 3).double()
    expected.fill_diagonal_(1)
    assert_close(together, expected, "how often two rows are in one fold", rtol=0, atol=0.2)
    torch.manual_seed(1)
    first = [val.tolist() for _, val in student.stratified_kfold(y, 3, generator(5))]
    torch.manual_seed(2)
    again = [val.tolist() for _, val in student.stratified_kfold(y, 3, generator(5))]
    assert_equal(again == first, True, "whether the same seed gives the same folds")


# --- vc --------------------------------------------------------------------------------------


@pytest.mark.exercise("vc", points=3)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_simplex(student, d, dtype):
    """d + 1 corners of a simplex should be shattered in d dimensions, wherever it lies."""
    X = torch.cat([torch.zeros(1, d), torch.eye(d)]).to(dtype)
    with unchanged(X):
        got = student.can_shatter(X)
    assert_equal(got, True, "can_shatter of a simplex")
    if d < 4:
        assert_equal(student.can_shatter(3 * X - 5), True, "can_shatter of a moved simplex")


@pytest.mark.exercise("vc", points=3)
@pytest.mark.parametrize("n, d", [(3, 1), (4, 2), (5, 3), (5, 2), (6, 4)])
def test_too_many_points(student, n, d):
    """More than d + 1 points should never be shattered in d dimensions."""
    for _ in range(2):
        assert_equal(student.can_shatter(randn(n, d)), False, f"can_shatter of {n} points")


@pytest.mark.exercise("vc", points=2)
@pytest.mark.parametrize(
    "points, expected",
    [
        ([[-4.0, -4]], True),
        ([[4.0, 4]], True),
        ([[3.0, 1], [1, 3]], True),
        ([[0.0, 0], [1, 2], [2, 4]], False),
        ([[0.0, 0], [2, 4], [1, 2]], False),
        ([[1.0, 2], [0, 0], [2, 4]], False),
        ([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], False),
        ([[0.0, 0, 1], [1, 0, 2], [3, 0, 1]], True),
        ([[1.0, 1], [1, 1]], False),
        ([[-2.0, -1], [-4, -3], [-2, -5]], True),
        ([[0.0]], True),
    ],
)
def test_special_positions(student, points, expected):
    """Points on a line or plane, equal points, few points in many dimensions, and a single one
    should be judged rightly."""
    got = student.can_shatter(torch.tensor(points))
    assert_equal(got, expected, f"can_shatter of {points}")


@pytest.mark.exercise("vc", points=2)
@pytest.mark.parametrize("n, d", [(2, 1), (3, 2), (4, 3), (3, 4)])
def test_random_positions(student, n, d):
    """Up to d + 1 random points should be shattered, and the answer be a bool."""
    got = student.can_shatter(randn(n, d))
    assert_equal(type(got).__name__, "bool", "the type of the answer")
    assert_equal(got, True, f"can_shatter of {n} random points in {d} dimensions")
