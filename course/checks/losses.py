"""Public checks of the chapter on loss functions: small numbers, the main idea, quick."""

import math

import pytest
import torch
import torch.nn.functional as F

from course.testing import assert_close, assert_same_gradients, assert_true, raises

HINTS = {
    "regression": [
        "Everything depends on the error `x - y` alone. Compute it once, and its absolute value.",
        "For the two bent losses, `torch.where(condition, parabola, line)` chooses entry by entry. "
        "The pieces are in the table above the exercise.",
        "NaN in the gradient for `beta=0`? `torch.where` computes *both* pieces, and the unused "
        "one divides by zero. Treat SmoothL1 with `beta == 0` as L1 before you come to `where`.",
    ],
    "ce": [
        "Begin with log-probabilities: the logits minus `logits.logsumexp(1, keepdim=True)`. Then "
        "`gather` picks each example's own class. No exponential is ever taken of a logit alone.",
        "An ignored label, such as -100, is no index. Put any legal class in its place, and make "
        "the weight of that example 0.",
        "Smoothing mixes two terms: (1 - ε) times the usual one, and ε/K times the sum over all "
        "classes of weight times -log-probability.",
        "The mean divides by the sum of the weights of the *labels that count*, and this is so "
        "with smoothing, too.",
    ],
    "bce": [
        "`bce`: two logarithms, each clamped from below at -100 before it is multiplied.",
        "`bce_logits`: -log σ(z) = log(1 + exp(-z)) = softplus(-z). What is -log(1 - σ(z))?",
        "Weights multiply, and the mean stays a plain mean: divide by the number of entries.",
    ],
    "distribution": [
        "Poisson: with `log_input` the rate is exp(x), without it the rate is x itself, and 1e-8 "
        "is added inside the logarithm.",
        "Stirling's term is for t > 1 only; `torch.where` keeps the NaN of log 0 out.",
        "KL: `torch.xlogy(p, p)` is p log p, and 0 where p is 0.",
    ],
    "margin": [
        "Begin with `soft_margin` and `ranking`; each is one line, after a test of the labels.",
        "`multilabel_soft_margin` is binary cross-entropy with logits for each class.",
        "`multi_margin`: `x.gather(1, y[:, None])` is the own score. Take the hinge of each rival, "
        "then the power, then leave the own class out, then sum.",
        "`multilabel_margin`: a loop over the examples is fine. `(y >= 0).cumprod(1)` is 1 up to "
        "the first -1 of each row, and 0 from there on.",
    ],
    "metric": [
        "A distance is the norm of a difference to which 1e-6 has been added: "
        "`(u - v + 1e-6).norm(dim=1)`.",
        "`swap` asks which of anchor and positive is nearer to the negative: `torch.minimum`.",
        "`torch.where(y == 1, …, …)` chooses between the two prices. For the cosine, keep the "
        "product of the norms from being 0.",
    ],
    "ctc": [
        "Put blanks between the labels and at both ends: S labels give 2S + 1 states.",
        "A state is reached from itself, from the state before it, and, for a label that differs "
        "from the label two states back, from there.",
        "`torch.logsumexp` adds probabilities that are given by their logarithms. Leave out the "
        "ways that are -inf: their gradient would be NaN.",
        "A path may end in the last label or in the blank behind it.",
    ],
    "lsoftmax": [
        "k is the number of the interval: floor(m θ / π), and it needs no gradient.",
        "acos has infinite slope at the ends. cos(mθ) is a polynomial in c = cos θ: "
        "T₀ = 1, T₁ = c, and T_{j+1} = 2 c T_j - T_{j-1}. Use `clamp` only on what goes into "
        "acos: at its ends it has slope 0.",
        "Logits: compute `x @ W.T`, and the own class's cosine from it. `scatter` writes the new "
        "values into a copy.",
        "At θ = π the floor gives m; the last interval is number m - 1.",
    ],
    "debug": [
        "What does `F.cross_entropy` do first with what it is given?",
        "Logits go into the loss. Probabilities are for people to read.",
    ],
}

ERRORS = torch.tensor([0.0, 0.5, -2.0, 4.0])
ZEROS = torch.zeros(4)


@pytest.mark.exercise("regression")
def test_prices(student):
    """`reg_loss` gives the prices of errors 0, 0.5, -2 and 4 for each of the four kinds."""
    prices = {
        "l1": [0.0, 0.5, 2.0, 4.0],
        "mse": [0.0, 0.25, 4.0, 16.0],
        "smooth_l1": [0.0, 0.0625, 1.0, 3.0],
        "huber": [0.0, 0.125, 2.0, 6.0],
    }
    for kind, price in prices.items():
        price = torch.tensor(price)
        symptoms = {
            "mse": {"There is no factor 1/2 in this loss.": price / 2},
            "smooth_l1": {"This is Huber; SmoothL1 is Huber divided by beta.": 2 * price},
            "huber": {"This is SmoothL1; Huber is beta times as large.": price / 2},
        }
        got = student.reg_loss(kind, ERRORS, ZEROS, beta=2.0, reduction="none")
        assert_close(got, price, f"the {kind} loss for beta=2", symptoms=symptoms.get(kind))


@pytest.mark.exercise("regression")
def test_sums_and_means(student):
    """`reduction` is the mean by default, or the sum; an unknown one raises a ValueError."""
    assert_close(student.reg_loss("l1", ERRORS, ZEROS), torch.tensor(6.5 / 4), "the mean")
    got = student.reg_loss("mse", ERRORS, ZEROS, reduction="sum")
    assert_close(got, torch.tensor(20.25), "the sum")
    with raises(ValueError):
        student.reg_loss("mse", ERRORS, ZEROS, reduction="average")


@pytest.mark.exercise("regression")
def test_kink(student):
    """SmoothL1 with `beta=0` is L1, and its gradient is no NaN."""
    assert_same_gradients(
        lambda x: student.reg_loss("smooth_l1", x, ZEROS, beta=0.0, reduction="sum"),
        lambda x: F.l1_loss(x, ZEROS, reduction="sum"),
        ERRORS,
    )


@pytest.mark.exercise("regression")
def test_shapes_and_kinds(student):
    """Shapes that differ raise a ValueError, although they could be broadcast; so do new kinds."""
    with raises(ValueError):
        student.reg_loss("mse", ERRORS[:, None], ZEROS)
    with raises(ValueError):
        student.reg_loss("cubic", ERRORS, ZEROS)


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 1.0], [-1.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 2, 0])
WEIGHT = torch.tensor([1.0, 2.0, 5.0])


@pytest.mark.exercise("ce")
def test_one_price_each(student):
    """`cross_entropy` is minus the log-probability of the own class."""
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    assert_close(student.cross_entropy(LOGITS, LABELS, reduction="none"), each, "each loss")
    assert_close(
        student.cross_entropy(LOGITS, LABELS),
        each.mean(),
        "the mean",
        symptoms={"This is the sum.": each.sum(), "The sign is turned round.": -each.mean()},
    )


@pytest.mark.exercise("ce")
def test_weighted_mean(student):
    """With class weights, the mean divides by the sum of the weights that were used."""
    each = WEIGHT[LABELS] * F.cross_entropy(LOGITS, LABELS, reduction="none")
    assert_close(
        student.cross_entropy(LOGITS, LABELS, weight=WEIGHT),
        each.sum() / 7,
        "the mean",
        symptoms={
            "This divides by the number of examples.": each.mean(),
            "This divides by the sum of all class weights; use those of the labels.": each.sum()
            / 8,
        },
    )


@pytest.mark.exercise("ce")
def test_ignored(student):
    """Examples with the label `ignore_index` cost nothing and do not count in the mean."""
    y = torch.tensor([0, -100, 0])
    each = F.cross_entropy(LOGITS, y, reduction="none")
    got = student.cross_entropy(LOGITS, y, reduction="none")
    assert_close(got, each, "each loss")
    assert_close(
        student.cross_entropy(LOGITS, y),
        each.sum() / 2,
        "the mean",
        symptoms={"The ignored example is counted in the mean.": each.mean()},
    )
    got = student.cross_entropy(LOGITS, LABELS, ignore_index=0)
    assert_close(got, F.cross_entropy(LOGITS, LABELS, ignore_index=0), "with ignore_index=0")


@pytest.mark.exercise("ce")
def test_smoothed(student):
    """`label_smoothing` moves a share ε of each label evenly to all K classes."""
    target = 0.7 * F.one_hot(LABELS, 3) + 0.3 / 3
    others = 0.7 * F.one_hot(LABELS, 3) + 0.3 / 2 * (1 - F.one_hot(LABELS, 3))
    logp = F.log_softmax(LOGITS, 1)
    assert_close(
        student.cross_entropy(LOGITS, LABELS, label_smoothing=0.3, reduction="none"),
        -(target * logp).sum(1),
        "each loss for ε=0.3",
        symptoms={
            "The share is spread over the other classes only; the own class gets ε/K too.": -(
                others * logp
            ).sum(1),
        },
    )
    options = {"weight": WEIGHT, "label_smoothing": 0.3}
    got = student.cross_entropy(LOGITS, LABELS, **options)
    assert_close(got, F.cross_entropy(LOGITS, LABELS, **options), "the mean with weights and ε")


@pytest.mark.exercise("ce")
def test_no_overflow(student):
    """Logits of 10,000 give a finite loss."""
    got = student.cross_entropy(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert_close(got, torch.tensor(1e4), "the loss")


P = torch.tensor([0.9, 0.2, 0.5])
Y = torch.tensor([1.0, 0.0, 1.0])


@pytest.mark.exercise("bce")
def test_two_logs(student):
    """`bce` takes -log p where y is 1 and -log(1 - p) where y is 0."""
    each = -torch.tensor([0.9, 0.8, 0.5]).log()
    assert_close(
        student.bce(P, Y),
        each.mean(),
        "the loss",
        symptoms={
            "The term of y = 0 is missing.": (Y * each).mean(),
            "This is the sum.": each.sum(),
        },
    )
    weight = torch.tensor([1.0, 2.0, 5.0])
    assert_close(
        student.bce(P, Y, weight),
        (weight * each).mean(),
        "the loss with weights",
        symptoms={
            "This divides by the sum of the weights; here the mean divides by N.": (
                weight * each
            ).sum()
            / 8,
        },
    )


@pytest.mark.exercise("bce")
def test_clamped(student):
    """A sure and wrong answer costs 100, a sure and right one 0; wrong input raises."""
    p = torch.tensor([0.0, 1.0])
    assert_close(student.bce(p, 1 - p), torch.tensor(100.0), "the loss when wrong")
    assert_close(student.bce(p, p), torch.tensor(0.0), "the loss when right")
    with raises(ValueError):
        student.bce(torch.tensor([1.5]), torch.ones(1))
    with raises(ValueError):
        student.bce(P[:, None], Y)


@pytest.mark.exercise("bce")
def test_from_logits(student):
    """`bce_logits` is the same loss from logits, finite for any of them."""
    assert_close(student.bce_logits(P.logit(), Y), F.binary_cross_entropy(P, Y), "the loss")
    z = torch.tensor([120.0, -120.0])
    got = student.bce_logits(z, torch.tensor([0.0, 1.0]))
    assert_close(got, torch.tensor(120.0), "the loss for z = ±120, wrong")
    with raises(ValueError):
        student.bce_logits(P[:, None], Y)


@pytest.mark.exercise("bce")
def test_positives_count_more(student):
    """`pos_weight` multiplies the term of the positives, `weight` everything."""
    each = -torch.tensor([0.9, 0.8, 0.5]).log()
    three, weight = torch.tensor([3.0]), torch.tensor([1.0, 2.0, 5.0])
    assert_close(
        student.bce_logits(P.logit(), Y, pos_weight=three),
        (each * (1 + 2 * Y)).mean(),
        "the loss for pos_weight=3",
        symptoms={"The negatives got the factor too.": 3 * each.mean()},
    )
    got = student.bce_logits(P.logit(), Y, weight=weight)
    assert_close(got, (weight * each).mean(), "the loss with weights")


@pytest.mark.exercise("distribution")
def test_counts(student):
    """`poisson_nll` is rate - t log rate, from the rate or from its logarithm."""
    rate, t = torch.tensor([0.5, 4.0]), torch.tensor([0.0, 3.0])
    expected = torch.tensor((0.5 + 4 - 3 * math.log(4)) / 2)
    assert_close(student.poisson_nll(rate.log(), t), expected, "the loss from log rates")
    got = student.poisson_nll(rate, t, log_input=False)
    assert_close(got, expected, "the loss from rates")
    got = student.poisson_nll(rate, t, log_input=False, full=True)
    assert_close(got, F.poisson_nll_loss(rate, t, False, True), "the loss with Stirling's term")


@pytest.mark.exercise("distribution")
def test_divergence(student):
    """`kl_div` sums p (log p - log q), and divides by the number of rows by default."""
    p = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.3, 0.3, 0.4]])
    terms = F.kl_div(q.log(), p, reduction="none")
    assert_close(
        student.kl_div(q.log(), p),
        terms.sum() / 2,
        "the loss by default",
        symptoms={
            "This divides by all entries; a divergence belongs to a row.": terms.mean(),
            "p log p is missing: this is the cross-entropy.": -(p * q.log()).sum() / 2,
        },
    )
    assert_close(student.kl_div(q.log(), p, "none"), terms, "each term")
    assert_close(student.kl_div(q.log(), p, "mean"), terms.mean(), "the mean")
    with raises(ValueError):
        student.kl_div(q.log(), p, "row")


SCORES = torch.tensor([0.3, -1.0, 2.0])
SIGNS = torch.tensor([1.0, 1.0, -1.0])


@pytest.mark.exercise("margin")
def test_pairs_and_signs(student):
    """`ranking` and `soft_margin` give the prices of three scores; labels are 1 and -1."""
    other = torch.zeros(3)
    assert_close(
        student.margin_loss("ranking", SCORES, SIGNS, other=other),
        torch.tensor(1.0),
        "the ranking loss without a margin",
        symptoms={"y = 1 says that x should be the larger one.": torch.tensor(0.1)},
    )
    got = student.margin_loss("ranking", SCORES, SIGNS, other=other, margin=0.5)
    assert_close(got, torch.tensor(4.2 / 3), "the ranking loss for margin=0.5")
    expected = (1 + (-SIGNS * SCORES).exp()).log().mean()
    assert_close(student.margin_loss("soft_margin", SCORES, SIGNS), expected, "the soft margin")
    for kind in ("ranking", "soft_margin"):
        with raises(ValueError):
            student.margin_loss(kind, SCORES, torch.tensor([1.0, 0.0, 1.0]), other=other)


TABLE = torch.tensor([[0.1, 0.2, 0.4, 0.8], [1.0, -0.5, 0.0, 0.3]])


@pytest.mark.exercise("margin")
def test_many_classes(student):
    """`multi_margin` charges each rival that comes closer than the margin; p is its power."""
    y = torch.tensor([3, 0])
    for p in (1, 2):
        got = student.margin_loss("multi_margin", TABLE, y, p=p)
        expected = F.multi_margin_loss(TABLE, y, p=p)
        assert_close(
            got,
            expected,
            f"the loss for p={p}",
            symptoms={
                "The own class counts as a rival of itself.": expected + 0.25,
                "The sum is to be divided by the number of classes.": 4 * expected,
            },
        )
    weight = torch.tensor([2.0, 1.0, 1.0, 0.5])
    got = student.margin_loss("multi_margin", TABLE, y, margin=0.5, weight=weight)
    assert_close(got, F.multi_margin_loss(TABLE, y, 1, 0.5, weight), "the loss with weights")
    with raises(ValueError):
        student.margin_loss("multi_margin", TABLE, torch.tensor([4, 0]))


@pytest.mark.exercise("margin")
def test_many_labels(student):
    """The two multi-label losses agree with the library; a row of classes ends at the first -1."""
    y = torch.tensor([[3, 0, -1, 1], [1, -1, 0, 0]])
    assert_close(
        student.margin_loss("multilabel_margin", TABLE, y),
        F.multilabel_margin_loss(TABLE, y),
        "multilabel_margin",
        symptoms={
            "Classes after the first -1 do not count.": F.multilabel_margin_loss(
                TABLE, torch.tensor([[3, 0, 1, -1], [1, 0, 0, -1]])
            ),
        },
    )
    y = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    weight = torch.tensor([2.0, 1.0, 1.0, 0.5])
    got = student.margin_loss("multilabel_soft_margin", TABLE, y, weight=weight)
    expected = F.multilabel_soft_margin_loss(TABLE, y, weight)
    assert_close(got, expected, "multilabel_soft_margin")


A, B, C = (torch.tensor([v]) for v in ([0.0, 0.0], [3.0, 0.0], [0.0, 4.0]))


@pytest.mark.exercise("metric")
def test_three_points(student):
    """`triplet` costs 3 - 4 + margin, if positive; `swap` uses the smaller distance."""
    for margin, swap, points in ((2.0, False, (A, B, C)), (0.5, False, (A, B, C)),
                                 (7.0, True, (C, A, B))):  # fmt: skip
        got = student.triplet(*points, margin=margin, swap=swap)
        expected = F.triplet_margin_loss(*points, margin=margin, swap=swap)
        assert_close(got, expected, f"the loss for margin={margin}, swap={swap}")


@pytest.mark.exercise("metric")
def test_pairs(student):
    """`hinge_embed` and `cos_embed` pull pairs with y = 1 together and push the others apart."""
    d, y = torch.tensor([0.2, 0.2, 3.0]), torch.tensor([1.0, -1.0, -1.0])
    assert_close(
        student.hinge_embed(d, y),
        torch.tensor(1.0 / 3),
        "the hinge loss",
        symptoms={"The labels seem to be turned round.": torch.tensor(4.0 / 3)},
    )
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 1.0]])
    for margin in (0.0, 0.5):
        got = student.cos_embed(a, b, torch.tensor([1.0, -1.0, 1.0]), margin=margin)
        expected = torch.tensor((0.4 + 0.6 - margin + 1) / 3)
        assert_close(got, expected, f"the cosine loss for margin={margin}")
    with raises(ValueError):
        student.hinge_embed(d, torch.tensor([1.0, 0.0, 0.0]))
    with raises(ValueError):
        student.cos_embed(a, b, torch.tensor([1.0, 0.0, 0.0]))


STEPS = torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.5, 0.2], [0.6, 0.1, 0.3]]).log()


@pytest.mark.exercise("ctc")
def test_few_paths(student):
    """`ctc_nll` sums over paths: three of them read [1] in two steps."""
    one = torch.tensor([1])
    # Two steps, label 1: the paths 11, 1-, -1.
    total = 0.4 * 0.5 + 0.4 * 0.3 + 0.5 * 0.5
    assert_close(
        student.ctc_nll(STEPS[:2], one),
        torch.tensor(-math.log(total)),
        "the loss of [1] in two steps",
        symptoms={
            "A path may end in a blank too.": torch.tensor(-math.log(0.4 * 0.5 + 0.5 * 0.5)),
            "A path may begin with a blank too.": torch.tensor(-math.log(0.4 * 0.5 + 0.4 * 0.3)),
        },
    )
    # Label 1 twice needs a blank between: the one path 1-1.
    got = student.ctc_nll(STEPS, torch.tensor([1, 1]))
    expected = torch.tensor(-math.log(0.4 * 0.3 * 0.1))
    assert_close(got, expected, "the loss of [1, 1] in three steps")


@pytest.mark.exercise("ctc")
def test_library_and_limits(student):
    """`ctc_nll` agrees with the library; impossible costs inf, or 0 with `zero_infinity`."""
    target = torch.tensor([2, 1])
    expected = F.ctc_loss(STEPS[:, None], target[None], (3,), (2,), reduction="sum")
    assert_close(student.ctc_nll(STEPS, target), expected, "the loss of [2, 1]")
    got = student.ctc_nll(STEPS[:1], target)
    assert_close(got, torch.tensor(math.inf), "the loss of two labels in one step")
    got = student.ctc_nll(STEPS[:1], target, zero_infinity=True)
    assert_close(got, torch.tensor(0.0), "the same with zero_infinity")
    assert_close(student.ctc_nll(STEPS, torch.tensor([1, 0]), blank=2),
                 F.ctc_loss(STEPS[:, None], torch.tensor([[1, 0]]), (3,), (2,), 2, "sum"),
                 "the loss for blank=2")  # fmt: skip
    with raises(ValueError):
        student.ctc_nll(STEPS, torch.tensor([1, 0]))


@pytest.mark.exercise("ctc")
def test_gradient_arrives(student):
    """The gradient is finite, for repeated labels too."""
    logits = STEPS.clone().requires_grad_()
    loss = student.ctc_nll(F.log_softmax(logits, 1), torch.tensor([1, 1]))
    (grad,) = torch.autograd.grad(loss, logits)
    assert_true(bool(grad.isfinite().all()), "The gradient holds NaN: a way of probability 0?")


@pytest.mark.exercise("lsoftmax")
def test_psi_of_some_angles(student):
    """`psi` is 1 at angle 0, falls, and is 1 - 2m at angle π."""
    angles = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64) * math.pi
    assert_close(
        student.psi(angles.cos(), 2),
        torch.tensor([1.0, 0.0, -1.0, -2.0, -3.0], dtype=torch.float64),
        "psi for m=2",
        symptoms={"This is cos(2θ), which goes up again.": (2 * angles).cos()},
    )
    assert_close(student.psi(angles.cos(), 1), angles.cos(), "psi for m=1")
    with raises(ValueError):
        student.psi(angles.cos(), 0)


@pytest.mark.exercise("lsoftmax")
def test_slope_at_the_end(student):
    """The slope of `psi` is m² at the cosine 1, not infinite."""
    one = torch.ones(1, requires_grad=True)
    (slope,) = torch.autograd.grad(student.psi(one, 3).sum(), one)
    assert_close(
        slope,
        torch.tensor([9.0]),
        "the slope for m=3",
        symptoms={
            "The way back goes through acos, whose slope is infinite here.": torch.tensor(
                [math.nan]
            ),
            "The slope is lost in `clamp`, which has slope 0 at its ends: clamp only what goes "
            "into acos.": torch.zeros(1),
        },
    )


@pytest.mark.exercise("lsoftmax")
def test_logit_of_the_own_class(student):
    """`lsoftmax_logits` changes the own class's logit only, to |W| |x| psi."""
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    W = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    # The first x is at 45 degrees to its weight: psi(π/4) = cos(π/2) = 0 for m = 2.
    assert_close(
        student.lsoftmax_logits(x, W, y, 2),
        torch.tensor([[0.0, 0.0], [3.0, 6.0]], dtype=torch.float64),
        "the logits for m=2",
    )
    assert_close(student.lsoftmax_logits(x, W, y, 1), x @ W.T, "the logits for m=1")


@pytest.mark.exercise("debug")
def test_softmax_once(student):
    """`score` takes the loss from the logits, and reads the probability after one softmax."""
    logits, y = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, -1.0]]), torch.tensor([0, 2])
    probs = F.softmax(logits, 1)
    loss, own = student.score(logits, y)
    assert_close(
        loss,
        F.cross_entropy(logits, y),
        "the loss",
        symptoms={"Softmax is applied twice.": F.cross_entropy(probs, y)},
    )
    assert_close(
        own,
        probs[torch.arange(2), y],
        "the probabilities of the right classes",
        symptoms={
            "This is the largest probability, whatever the label.": probs.max(1).values,
            "These are logits, not probabilities.": logits[torch.arange(2), y],
        },
    )
