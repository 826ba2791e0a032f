"""Public checks of the chapter on metrics, class imbalance and model selection."""

import math

import pytest
import torch

from course.testing import assert_close, assert_equal, assert_true, raises

HINTS = {
    "binary": [
        "Which of the four counts does `2 * y + p` give for each pair of labels?",
        "`torch.bincount(…, minlength=4)` counts the numbers 0, 1, 2, 3, even those that do not "
        "occur. Check the labels first: `((y != 0) & (y != 1)).any()`.",
        "Write a small helper `ratio(part, whole)` that returns `zero_division` where `whole` is "
        "0, and take the F-score from the four counts, not from precision and recall.",
    ],
    "curves": [
        "Sort by score, the highest first. The cumulative sum of the labels is the number of "
        "positives found so far.",
        "Keep one entry for each distinct score: the last one of a run of equal scores, since all "
        "of them get over the line together.",
        "`roc_auc`: compare `pos[:, None]` with `neg`. A larger score counts 1, an equal one ½; "
        "take the mean over all pairs.",
    ],
    "focal": [
        "With `u = (2 * y - 1) * z` both classes have the same formula: p_t = sigmoid(u).",
        "1 - sigmoid(u) = sigmoid(-u). Work with logarithms: `F.logsigmoid(u)`, "
        "`F.logsigmoid(-u)`.",
        "(1 - p_t) ** gamma = exp(gamma * log(1 - p_t)). The class weight is alpha where y is 1 "
        "and 1 - alpha where it is 0, and there is none for a negative alpha.",
    ],
    "resample": [
        "A plan is a list of row numbers: `torch.arange(len(y))[y == c]` are those of class c.",
        "`oversample`: keep all rows, and add what is missing with "
        "`torch.randint(…, generator=rng)`.",
        "`undersample`: within a class, number the rows of each cluster 0, 1, 2, … in random "
        "order. Which rows come first if you sort by this number?",
    ],
    "smote": [
        "A table of all squared distances: `(X[:, None] - X).pow(2).sum(-1)`. What has to happen "
        "to its diagonal?",
        "`topk(k, largest=False)` gives the k nearest of each row. Then draw a row, one of its "
        "neighbours, and one t, for n new points at once.",
        "`tomek_links`: let `near[i]` be the nearest other row of i. The choice is mutual where "
        "`near[near[i]] == i`.",
    ],
    "kfold": [
        "Give each row the number of its fold, 0 to k - 1, and read the parts off that.",
        "`torch.randperm(n, generator=rng) % k` is such a list of fold numbers. How often does "
        "each number occur in it?",
        "`stratified_kfold`: put the rows in order of their class, at random within it, and deal "
        "the folds 0, 1, …, k - 1, 0, 1, … to them like cards, without starting anew at the next "
        "class.",
    ],
    "vc": [
        "`itertools.product((-1, 1), repeat=n)` goes through all labellings.",
        "linprog wants `A @ v <= b`. The unknowns are v = (w, b), and the condition is "
        "y (w @ x + b) >= 1; multiply it by -1.",
        "Pass `bounds=(None, None)`, a cost of zeros, and look at `.success`.",
    ],
    "debug": [
        "Make a set of the training rows and one of the validation rows. Do they have rows in "
        "common?",
        "Split the original rows first; draw copies from the training part only.",
    ],
}

Y = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
P = torch.tensor([1, 0, 1, 0, 1, 0, 0, 0, 1, 0])  # TP 3, FN 1, FP 1, TN 5


@pytest.mark.exercise("binary")
def test_counts(student):
    """`confusion` counts [[TN, FP], [FN, TP]]: the row is the truth, the column the answer."""
    p = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1, 0])  # TP 2, FN 2, FP 1, TN 5
    assert_close(
        student.confusion(Y, p),
        torch.tensor([[5, 1], [2, 2]]),
        "the confusion matrix",
        symptoms={
            "Rows and columns are exchanged: the row is the truth.": torch.tensor([[5, 2], [1, 2]]),
            "The positive class comes first; the order is 0, 1.": torch.tensor([[2, 2], [1, 5]]),
        },
    )


@pytest.mark.exercise("binary")
def test_no_other_labels(student):
    """Labels other than 0 and 1 raise a ValueError."""
    with raises(ValueError):
        student.confusion(torch.tensor([0, 2]), torch.tensor([0, 1]))


@pytest.mark.exercise("binary")
def test_ratios(student):
    """`report` gives the five ratios of the counts."""
    p = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1, 0])
    expected = {
        "accuracy": 0.7,
        "precision": 2 / 3,
        "recall": 0.5,
        "specificity": 5 / 6,
        "fscore": 4 / 7,
    }
    assert_close(
        student.report(Y, p),
        expected,
        "the report",
        symptoms={
            "Precision and recall are exchanged.": {
                **expected,
                "precision": 0.5,
                "recall": 2 / 3,
            },
            "The F-score is the harmonic mean, not the arithmetic one.": {
                **expected,
                "fscore": (2 / 3 + 0.5) / 2,
            },
        },
    )


@pytest.mark.exercise("binary")
def test_nobody_called(student):
    """Where nobody is called positive, precision is `zero_division`; recall and F-score are 0."""
    got = student.report(Y, torch.zeros_like(Y), zero_division=1.0)
    shown = {key: got[key] for key in ("precision", "recall", "fscore")}
    assert_close(
        shown, {"precision": 1.0, "recall": 0.0, "fscore": 0.0}, "the report of saying no to all"
    )


@pytest.mark.exercise("curves")
def test_points(student):
    """`pr_curve` has one point for each distinct score, from the highest down."""
    y, s = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0.5, 0.9, 0.5, 0.1, 0.3])
    got = student.pr_curve(y, s)
    assert_equal(len(got), 3, "the number of results")
    p, r, t = got
    assert_close(t, torch.tensor([0.9, 0.5, 0.3, 0.1]), "the thresholds")
    assert_close(p, torch.tensor([1, 2 / 3, 3 / 4, 3 / 5]), "the precision")
    assert_close(
        r,
        torch.tensor([1 / 3, 2 / 3, 1.0, 1.0]),
        "the recall",
    )


@pytest.mark.exercise("curves")
def test_area_below_pr(student):
    """`average_precision` weights each precision by the recall that is gained there."""
    y, s = torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.7, 0.1])
    assert_close(
        student.average_precision(y, s),
        5 / 6,
        "the average precision",
        rtol=1e-5,
        symptoms={
            "It is the mean of all precisions; weight each by the recall gained.": 2 / 3,
            "The area is taken below straight lines; use the steps.": 0.5 + 7 / 24,
        },
    )


@pytest.mark.exercise("curves")
def test_pairs(student):
    """`roc_auc` is the share of pairs in the right order, a tie counting half."""
    y, s = torch.tensor([1, 1, 0, 0]), torch.tensor([0.9, 0.4, 0.4, 0.2])
    assert_close(
        student.roc_auc(y, s),
        7 / 8,
        "the AUC",
        rtol=1e-5,
        symptoms={
            "A tie counts as right; it should count half.": 1.0,
            "A tie counts as wrong; it should count half.": 0.75,
            "The negatives seem to be ranked above the positives.": 1 / 8,
        },
    )


@pytest.mark.exercise("curves")
def test_one_class(student):
    """With one class only, all three raise a ValueError."""
    y, s = torch.ones(3, dtype=torch.int64), torch.tensor([0.1, 0.2, 0.3])
    with raises(ValueError):
        student.pr_curve(y, s)
    with raises(ValueError):
        student.average_precision(y, s)
    with raises(ValueError):
        student.roc_auc(y, s)


LOGITS = torch.tensor([0.0, 0.0, math.log(3.0), math.log(3.0)])  # p = 1/2 and 3/4
LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0])


@pytest.mark.exercise("focal")
def test_by_hand(student):
    """For p = ½ and ¾ `focal` gives what the formula gives."""
    p_t = torch.tensor([0.5, 0.5, 0.75, 0.25])
    alpha = torch.tensor([0.25, 0.75, 0.25, 0.75])
    good = -alpha * (1 - p_t) ** 2 * p_t.log()
    assert_close(
        student.focal(LOGITS, LABELS),
        good,
        "the loss",
        symptoms={
            "alpha belongs to the positives, 1 - alpha to the negatives.": good
            * torch.tensor([3, 1 / 3, 3, 1 / 3]),
            "The factor is (1 - p_t) to the power gamma, not p_t.": -alpha * p_t**2 * p_t.log(),
            "alpha is not used.": good / alpha,
        },
    )


@pytest.mark.exercise("focal")
def test_cross_entropy(student):
    """With gamma=0 and alpha=-1 `focal` is the cross-entropy, and "mean" takes its mean."""
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, LABELS)
    got = student.focal(LOGITS, LABELS, alpha=-1, gamma=0.0, reduction="mean")
    assert_close(got, expected, "the mean loss")


@pytest.mark.exercise("focal")
def test_large_logits(student):
    """A logit of 100 on the wrong side has a finite loss."""
    z, y = torch.tensor([100.0, -100.0]), torch.tensor([0.0, 1.0])
    got = student.focal(z, y, alpha=-1, gamma=2.0)
    assert_close(got, torch.tensor([100.0, 100.0]), "the loss")


@pytest.mark.exercise("focal")
def test_bias(student):
    """`prior_bias` starts the sigmoid at pi, and refuses 0."""
    assert_close(
        student.prior_bias(0.1),
        -math.log(9),
        "`prior_bias(0.1)`",
        rtol=1e-5,
        symptoms={
            "The sign is wrong: rare positives need a negative bias.": math.log(9),
            "This is log(pi); the sigmoid of the bias should be pi.": math.log(0.1),
        },
    )
    with raises(ValueError):
        student.prior_bias(0.0)


CLASSES = torch.tensor([0, 1, 0, 0, 2, 0, 1, 0])  # five, two, one


@pytest.mark.exercise("resample")
def test_over(student):
    """`oversample` keeps every row and makes all classes as frequent as the largest."""
    rows = student.oversample(CLASSES, torch.Generator().manual_seed(0))
    assert_equal(rows.dtype, torch.int64, "the dtype of the row numbers")
    assert_close(CLASSES[rows].bincount(minlength=3), torch.tensor([5, 5, 5]), "the class sizes")
    assert_equal(sorted(set(rows.tolist())), list(range(8)), "the rows that occur")


@pytest.mark.exercise("resample")
def test_under(student):
    """`undersample` makes all classes as frequent as the smallest, from all of its clusters."""
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    clusters = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0])
    for seed in range(5):
        rows = student.undersample(y, clusters, torch.Generator().manual_seed(seed))
        rows = sorted(rows.tolist())
        assert_equal(rows[1:], [5, 6, 7], "the rows after the first (5 is a cluster of its own)")
        assert_true(rows[0] < 5, f"One of the rows 0 to 4 should be kept too, not {rows[0]}.")


@pytest.mark.exercise("resample")
def test_too_many_clusters(student):
    """`undersample` raises a ValueError where a class has more clusters than it may keep rows."""
    y, clusters = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0])
    with raises(ValueError):
        student.undersample(y, clusters, torch.Generator().manual_seed(0))


# Two pairs of neighbours, far apart.
PAIRS = torch.tensor([[0.0, 0.0], [2.0, 1.0], [100.0, 0.0], [101.0, 4.0]])


@pytest.mark.exercise("smote")
def test_on_segments(student):
    """With two far pairs and k=1, all new points lie between the two points of a pair."""
    made = student.smote(PAIRS, 1, 50, torch.Generator().manual_seed(0))
    assert_equal(tuple(made.shape), (50, 2), "the shape")
    left, right = made[made[:, 0] < 50], made[made[:, 0] >= 50]
    assert_true(len(left) and len(right), "Both pairs should get new points.")
    assert_close(left[:, 1], left[:, 0] / 2, "x1 of the points between (0, 0) and (2, 1)")
    assert_close(
        right[:, 1],
        4 * (right[:, 0] - 100),
        "x1 of the points between (100, 0) and (101, 4)",
        atol=1e-3,
    )
    assert_true(left[:, 0].max() <= 2 and left.min() >= 0, "A new point lies beyond its segment.")
    assert_true(left[:, 0].std() > 0.2, "The places on the segment should be random.")


@pytest.mark.exercise("smote")
def test_k_too_large(student):
    """`smote` raises a ValueError for k = N, since a row has only N - 1 neighbours."""
    with raises(ValueError):
        student.smote(PAIRS, 4, 5, torch.Generator().manual_seed(0))


@pytest.mark.exercise("smote")
def test_links(student):
    """`tomek_links` finds the mutual nearest neighbours of different class."""
    X = torch.tensor([[0.0], [1.0], [1.8], [5.0], [6.0], [9.0]])
    y = torch.tensor([0, 0, 1, 1, 0, 1])
    assert_close(
        student.tomek_links(X, y),
        torch.tensor([[1, 2], [3, 4]]),
        "the links",
        symptoms={
            "The choice should be mutual; 5's neighbour is 4, but 4's is 3.": torch.tensor(
                [[1, 2], [3, 4], [4, 5]]
            ),
            "Each link should be listed once, the smaller row first.": torch.tensor(
                [[1, 2], [2, 1], [3, 4], [4, 3]]
            ),
        },
    )


@pytest.mark.exercise("kfold")
def test_partition(student):
    """`kfold(7, 3)` validates every row once, in parts of 3, 2 and 2, and trains on the others."""
    parts = student.kfold(7, 3, torch.Generator().manual_seed(0))
    assert_equal(len(parts), 3, "the number of folds")
    assert_equal(sorted(len(val) for _, val in parts), [2, 2, 3], "the sizes")
    seen = sorted(torch.cat([val for _, val in parts]).tolist())
    assert_equal(seen, list(range(7)), "all validation rows together")
    for train, val in parts:
        assert_equal(sorted(torch.cat([train, val]).tolist()), list(range(7)), "train and val")


@pytest.mark.exercise("kfold")
def test_random_cut(student):
    """The cut is random: other seeds give other folds, and k > n raises a ValueError."""
    cuts = {
        tuple(sorted(student.kfold(20, 2, torch.Generator().manual_seed(s))[0][1].tolist()))
        for s in range(4)
    }
    assert_true(len(cuts) > 1, "Four seeds gave the same folds.")
    with raises(ValueError):
        student.kfold(3, 4, torch.Generator().manual_seed(0))


@pytest.mark.exercise("kfold")
def test_strata(student):
    """`stratified_kfold` deals each class evenly: 4 of 12 are positive, so 1 or 2 in each fold."""
    y = torch.tensor([1, 1, 1, 1] + [0] * 8)
    for seed in range(4):
        parts = student.stratified_kfold(y, 3, torch.Generator().manual_seed(seed))
        assert_equal([len(val) for _, val in parts], [4, 4, 4], "the sizes")
        inside = sorted(y[val].sum().item() for _, val in parts)
        assert_equal(inside, [1, 1, 2], "the positives in the folds")


@pytest.mark.exercise("vc")
def test_triangle_and_line(student):
    """A triangle is shattered, three points on a line are not."""
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert_equal(student.can_shatter(triangle), True, "can_shatter of a triangle")
    on_line = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])
    assert_equal(student.can_shatter(on_line), False, "can_shatter of three points on a line")


@pytest.mark.exercise("vc")
def test_square(student):
    """The corners of a square are not shattered (XOR), two numbers are."""
    square = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert_equal(student.can_shatter(square), False, "can_shatter of a square")
    two = torch.tensor([[5.0], [7.0]])
    assert_equal(student.can_shatter(two), True, "can_shatter of the numbers 5 and 7")


@pytest.mark.exercise("debug")
def test_no_common_rows(student):
    """No row is in both parts, the validation part is a random fifth, and training is balanced."""
    parts = set()
    for seed, positives in enumerate((10, 10, 40)):
        y = (7 * torch.arange(100) % 100 < positives).long()
        train, val = student.split_then_balance(y, torch.Generator().manual_seed(seed))
        parts.add(tuple(val.tolist()))
        common = sorted(set(train.tolist()) & set(val.tolist()))
        assert_equal(common, [], "the rows in both parts")
        assert_equal(len(set(val.tolist())), 20, "the number of different validation rows")
        assert_equal(len(val), 20, "the size of the validation part")
        assert_equal(len(set(train.tolist())), 80, "the number of different training rows")
        zeros, ones = y[train].bincount(minlength=2).tolist()
        assert_equal(ones, zeros, "the number of ones in training")
    assert_equal(len(parts), 3, "the number of different splits for three seeds")
