"""Wrong answers in the chapter on metrics, class imbalance and model selection, with hints."""

import math

import torch
import torch.nn.functional as F

from course.testing import misconception

# --- binary ----------------------------------------------------------------------------------


@misconception(
    "binary",
    hint="Rows and columns are exchanged. A false alarm (truth 0, answer 1) belongs into row 0 and "
    "column 1.",
)
def confusion(y, p):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    return torch.bincount(y.long() + 2 * p.long(), minlength=4).view(2, 2)


@misconception(
    "binary",
    hint="The positive class comes first here. The classes should be in the order 0, 1, so that TN "
    "is at the top left.",
)
def confusion(y, p):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    return torch.bincount(2 * y.long() + p.long(), minlength=4).flip(0).view(2, 2)


@misconception(
    "binary",
    hint="Only the true labels are checked. An answer of 2 or 0.3 is as strange as a label of 2; "
    "look at both.",
)
def confusion(y, p):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("labels should be 0 or 1")
    table = torch.zeros(2, 2, dtype=torch.int64, device=y.device)
    for a in (0, 1):
        for b in (0, 1):
            table[a, b] = ((y == a) & (p == b)).sum()
    return table


@misconception(
    "binary",
    hint="Precision and recall are exchanged. Precision divides by what was called positive, recall "
    "by what is positive.",
)
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    y, p = y.bool(), p.bool()
    tp, fp = (y & p).sum().item(), (~y & p).sum().item()
    fn, tn = (y & ~p).sum().item(), (~y & ~p).sum().item()

    def ratio(a, b):
        return a / b if b else float(zero_division)

    b2 = beta**2
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": ratio(tp, tp + fn),
        "recall": ratio(tp, tp + fp),
        "specificity": ratio(tn, tn + fp),
        "fscore": ratio((1 + b2) * tp, (1 + b2) * tp + b2 * fn + fp),
    }


@misconception(
    "binary",
    hint="The F-score is computed from precision and recall. Where both are 0 that is 0/0, though "
    "the form with the four counts has a clear answer: 0.",
)
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    y, p = y.bool(), p.bool()
    tp, fp = (y & p).sum().item(), (~y & p).sum().item()
    fn, tn = (y & ~p).sum().item(), (~y & ~p).sum().item()

    def ratio(a, b):
        return a / b if b else float(zero_division)

    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    b2 = beta**2
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "specificity": ratio(tn, tn + fp),
        "fscore": ratio((1 + b2) * precision * recall, b2 * precision + recall),
    }


@misconception(
    "binary",
    hint="beta is used without its square: a miss (FN) should weigh beta squared times as much as a "
    "false alarm.",
)
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    y, p = y.bool(), p.bool()
    tp, fp = (y & p).sum().item(), (~y & p).sum().item()
    fn, tn = (y & ~p).sum().item(), (~y & ~p).sum().item()

    def ratio(a, b):
        return a / b if b else float(zero_division)

    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "fscore": ratio((1 + beta) * tp, (1 + beta) * tp + beta * fn + fp),
    }


@misconception(
    "binary",
    hint="beta squared weighs the false alarms. It should weigh the misses (FN): a large beta is for "
    "those who care about recall.",
)
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    y, p = y.bool(), p.bool()
    tp, fp = (y & p).sum().item(), (~y & p).sum().item()
    fn, tn = (y & ~p).sum().item(), (~y & ~p).sum().item()

    def ratio(a, b):
        return a / b if b else float(zero_division)

    b2 = beta**2
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "fscore": ratio((1 + b2) * tp, (1 + b2) * tp + fn + b2 * fp),
    }


@misconception(
    "binary",
    hint="A ratio whose denominator is 0 is always 0 here. It should be `zero_division`, whatever "
    "the caller chose.",
)
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    y, p = y.bool(), p.bool()
    tp, fp = (y & p).sum().item(), (~y & p).sum().item()
    fn, tn = (y & ~p).sum().item(), (~y & ~p).sum().item()

    def ratio(a, b):
        return a / b if b else 0.0

    b2 = beta**2
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "fscore": ratio((1 + b2) * tp, (1 + b2) * tp + b2 * fn + fp),
    }


@misconception(
    "binary",
    hint="The table has fewer than four entries when a pair of labels does not occur. "
    "`torch.bincount(…, minlength=4)` counts the absent ones as 0.",
)
def confusion(y, p):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    return torch.bincount(2 * y.long() + p.long()).reshape(2, 2)


@misconception(
    "binary",
    hint="Not every strange label is refused. Each entry of y and each of p should equal 0 or equal "
    "1: neither 2 nor -1 nor 0.5.",
)
def confusion(y, p):
    if y.shape != p.shape:
        raise ValueError("different lengths")
    if y.max() > 1 or p.max() > 1:
        raise ValueError("labels should be 0 or 1")
    return torch.bincount(2 * y.long() + p.long(), minlength=4).reshape(2, 2)


@misconception(
    "binary",
    hint="The shapes of y and p are not compared, so that one answer is used for everybody. "
    "Different shapes should raise a ValueError.",
)
def confusion(y, p):
    for labels in (y, p):
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels should be 0 or 1")
    return torch.bincount(2 * y.long() + p.long(), minlength=4).reshape(2, 2)


# --- curves ----------------------------------------------------------------------------------


@misconception(
    "curves",
    hint="There is one point for each person, also within a tie. No threshold separates two equal "
    "scores, so a tie should give a single point.",
)
def pr_curve(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    s, order = s.sort(descending=True)
    found = y[order].cumsum(0).to(s)
    called = torch.arange(1, len(s) + 1).to(s)
    return found / called, found / found[-1], s


@misconception(
    "curves",
    hint="The rule is s >= t, with the threshold itself included. With > the people at the "
    "threshold are left out.",
)
def pr_curve(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s > thresholds[:, None]
    found = (called & (y == 1)).sum(1).to(s)
    return found / called.sum(1).clamp(min=1), found / (y == 1).sum(), thresholds


@misconception(
    "curves",
    hint="The points run from the lowest threshold to the highest. The curve should begin at the "
    "highest score, where recall is small.",
)
def pr_curve(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique()
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).to(s)
    return found / called.sum(1), found / (y == 1).sum(), thresholds


@misconception(
    "curves",
    hint="The area is taken below straight lines between the points (trapezoids). Average precision "
    "takes steps: each gain in recall times the precision there.",
)
def average_precision(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).double()
    p, r = found / called.sum(1), found / (y == 1).sum()
    p, r = torch.cat([p.new_ones(1), p]), torch.cat([r.new_zeros(1), r])
    return torch.trapezoid(p, r).item()


@misconception(
    "curves",
    hint="The precision is averaged over people in the order of a sort, so the order within a tie "
    "decides. All people with the same score get over the line together.",
)
def average_precision(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    order = (2 * s.argsort().argsort() + 0).argsort(descending=True)
    hits = y[order].double()
    precision = hits.cumsum(0) / torch.arange(1, len(y) + 1, device=y.device)
    return ((precision * hits).sum() / hits.sum()).item()


@misconception(
    "curves",
    hint="A tie between a positive and a negative counts as lost. It is neither right nor wrong; "
    "give it one half.",
)
def roc_auc(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    return (s[y == 1][:, None] > s[y == 0]).double().mean().item()


@misconception(
    "curves",
    hint="AUC is taken from the answers at the threshold ½ (or 0), not from the scores. It goes "
    "over all thresholds; only the order of the scores counts.",
)
def roc_auc(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    called = (s >= 0.5).double()
    tpr, fpr = called[y == 1].mean(), called[y == 0].mean()
    return ((1 + tpr - fpr) / 2).item()


@misconception(
    "curves",
    hint="The ranks are those of a plain sort, which puts equal scores into some order. Equal "
    "scores need the same rank: the mean of the places that they fill.",
)
def roc_auc(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    rank = s.argsort(stable=True).argsort().double() + 1
    n1, n0 = int((y == 1).sum()), int((y == 0).sum())
    return ((rank[y == 1].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)).item()


@misconception(
    "curves",
    hint="Of a run of equal scores the first entry is kept. The last one counts: at a threshold all "
    "people with this score are called.",
)
def pr_curve(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    order = s.argsort(descending=True)
    s = s[order]
    first = torch.ones_like(s, dtype=torch.bool)
    first[1:] = s[1:] != s[:-1]
    found = y[order].cumsum(0).to(s)
    called = torch.arange(1, len(s) + 1, device=s.device).to(s)
    return (found / called)[first], (found / found[-1])[first], s[first]


@misconception(
    "curves",
    hint="The area is taken below straight lines between the points, and what lies before the first "
    "point is left out. Average precision takes steps, the first one from recall 0.",
)
def average_precision(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).double()
    return torch.trapezoid(found / called.sum(1), found / (y == 1).sum()).item()


@misconception(
    "curves",
    hint="The gain of the first threshold is missing. Before it the recall is 0, so it gains all the "
    "recall that it has.",
)
def average_precision(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).double()
    p, r = found / called.sum(1), found / (y == 1).sum()
    return (p[1:] * r.diff()).sum().item()


@misconception(
    "curves",
    hint="Each precision is replaced by the best one at this recall or a higher one. Object detection "
    "does so; the average precision of the text takes precision as it is.",
)
def average_precision(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).double()
    p, r = found / called.sum(1), found / (y == 1).sum()
    p = p.flip(0).cummax(0).values.flip(0)
    return (p * r.diff(prepend=r.new_zeros(1))).sum().item()


@misconception(
    "curves",
    hint="The ROC curve begins at the first threshold here. It begins at (0, 0), where nobody is "
    "called; the piece from there has an area too.",
)
def roc_auc(y, s):
    if y.min() == y.max():
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    called = called.double()
    return torch.trapezoid(called[:, y == 1].mean(1), called[:, y == 0].mean(1)).item()


@misconception(
    "curves",
    hint="With one class only there is no pair to compare, and the mean of nothing is NaN. Say so "
    "with a ValueError.",
)
def roc_auc(y, s):
    pos, neg = s[y == 1][:, None], s[y == 0]
    return ((pos > neg).double() + 0.5 * (pos == neg).double()).mean().item()


# --- focal -----------------------------------------------------------------------------------


@misconception(
    "focal",
    hint="alpha and 1 - alpha are exchanged: alpha is the weight of the positives, even if its "
    "usual value makes them the lighter ones.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(-u))
    if alpha >= 0:
        loss = loss * ((1 - alpha) * y + alpha * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="The factor is p_t to the power gamma, which turns down the *hard* examples. Focal loss "
    "turns down the easy ones.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(u))
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="The factor uses p, the probability of the positive class, for everybody. For a negative "
    "the probability of the true class is 1 - p.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    loss = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    loss = loss * (gamma * F.logsigmoid(-z)).exp()
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="The logarithm of a probability that has become 0 is minus infinity. Stay with logits: "
    "`F.logsigmoid` never forms the 0.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    p = torch.sigmoid(z)
    p_t = p * y + (1 - p) * (1 - y)
    loss = -((1 - p_t) ** gamma) * torch.log(p_t)
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint='The mean is taken over the positives only. Some detectors do that, but here "mean" '
    "should be over all entries.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(-u))
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    if reduction == "none":
        return loss
    return loss.sum() / (y.sum().clamp(min=1) if reduction == "mean" else 1)


@misconception(
    "focal",
    hint="The sign of the bias is wrong: positives are rare, so the sigmoid should start near 0, at "
    "a negative bias.",
)
def prior_bias(pi):
    if not 0 < pi < 1:
        raise ValueError(pi)
    return math.log((1 - pi) / pi)


@misconception(
    "focal",
    hint="This is the logarithm of pi. The sigmoid of the bias should be pi, so solve "
    "1 / (1 + exp(-b)) = pi for b.",
)
def prior_bias(pi):
    if not 0 < pi < 1:
        raise ValueError(pi)
    return math.log(pi)


@misconception(
    "focal",
    hint="The loss is right, its gradient is not: 1 - p_t becomes exactly 0, and the derivative of "
    "its power is infinite there for gamma < 1. Take the power as exp(gamma * log(1 - p_t)).",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    p = torch.sigmoid(z)
    p_t = p * y + (1 - p) * (1 - y)
    loss = F.binary_cross_entropy_with_logits(z, y, reduction="none") * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="The probability is clamped, so the loss of a sure and wrong answer stops growing, and its "
    "gradient is 0. With `F.logsigmoid` nothing needs to be clamped.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    p = torch.sigmoid(z).clamp(1e-7, 1 - 1e-7)
    p_t = p * y + (1 - p) * (1 - y)
    loss = -((1 - p_t) ** gamma) * torch.log(p_t)
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="alpha = 0 is taken for no weights. Only a negative alpha means that; 0 is a weight, which "
    "silences the positives.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(-u))
    if alpha > 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="A negative alpha is used as a weight. It means no weights at all.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(-u))
    loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="gamma is not used: the factor is 1 - p_t itself, not its power.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.sigmoid(-u)
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)


@misconception(
    "focal",
    hint="A reduction that does not exist is taken for one that does. A slip of the pen should be a "
    "ValueError, not another loss.",
)
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    y = y.to(z)
    u = (2 * y - 1) * z
    loss = -F.logsigmoid(u) * torch.exp(gamma * F.logsigmoid(-u))
    if alpha >= 0:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


# --- smote -----------------------------------------------------------------------------------


@misconception(
    "smote",
    hint="Each coordinate has a t of its own, so the points fill a box instead of lying on the "
    "segment. Draw one t for each new point.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, X.shape[1], generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="The nearest row to a row is the row itself, at distance 0. Exclude it, else some new "
    "points are only copies.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="Any other row is taken as the partner. SMOTE stays local: only the k nearest rows are "
    "partners.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    i = torch.randint(len(X), (n,), generator=rng)
    j = (i + torch.randint(1, len(X), (n,), generator=rng)) % len(X)
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="Always the very nearest row is the partner; k is not used. Draw one of the k nearest.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    i = torch.randint(len(X), (n,), generator=rng)
    j = far.argmin(1)[i]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="Every new point is the middle of its segment. The place should be random: t from 0 to 1.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    return X[i] + (X[j] - X[i]) / 2


@misconception(
    "smote",
    hint="A k that is too large is cut down silently. Say so with a ValueError: whoever asks for "
    "more neighbours than there are has made a mistake.",
)
def smote(X, k, n, rng):
    k = max(1, min(k, len(X) - 1))
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="It is enough here that j is the nearest of i. In a Tomek link the choice is mutual: i must "
    "be the nearest of j as well.",
)
def tomek_links(X, y):
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.argmin(1)
    pairs = {(min(i, j), max(i, j)) for i, j in enumerate(near.tolist()) if y[i] != y[j]}
    return torch.tensor(sorted(pairs), dtype=torch.int64, device=X.device).view(-1, 2)


@misconception(
    "smote",
    hint="Every link is listed twice, as (i, j) and as (j, i). List it once, with i < j.",
)
def tomek_links(X, y):
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.argmin(1)
    i = torch.arange(len(X), device=X.device)
    link = (near[near] == i) & (y[near] != y)
    return torch.stack([i[link], near[link]], 1)


@misconception(
    "smote",
    hint="Pairs of the same class are listed too. A Tomek link joins two *different* classes.",
)
def tomek_links(X, y):
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.argmin(1)
    i = torch.arange(len(X), device=X.device)
    link = (near[near] == i) & (i < near)
    return torch.stack([i[link], near[link]], 1)


@misconception(
    "smote",
    hint="The nearest row is searched in the other class only. It should be the nearest of *all* "
    "other rows; only then look at its class.",
)
def tomek_links(X, y):
    far = (X[:, None] - X).pow(2).sum(-1)
    far[y[:, None] == y] = math.inf
    near = far.argmin(1)
    i = torch.arange(len(X), device=X.device)
    link = (near[near] == i) & (y[near] != y) & (i < near)
    return torch.stack([i[link], near[link]], 1)


@misconception(
    "smote",
    hint="The new points lie beyond the row, on the side away from its neighbour. The way from x_i "
    "to x_j is x_j - x_i.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[i] - X[j])


@misconception(
    "smote",
    hint="The partners are the farthest rows, or the row itself: `topk` gives the largest entries "
    "unless told `largest=False`.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="The partner is always the k-th nearest row. All k nearest should have the same chance.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,), generator=rng)
    j = near[i, k - 1]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="The rows take turns from the first one on, so that a few new points all come from the first "
    "rows. Draw the row at random.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.arange(n) % len(X)
    j = near[i, torch.randint(k, (n,), generator=rng)]
    t = torch.rand(n, 1, generator=rng, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="The random numbers come from the global generator. Pass `generator=rng`, so that the points "
    "can be made again.",
)
def smote(X, k, n, rng):
    if not 1 <= k < len(X):
        raise ValueError(k)
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.topk(k, largest=False).indices
    i = torch.randint(len(X), (n,))
    j = near[i, torch.randint(k, (n,))]
    t = torch.rand(n, 1, dtype=X.dtype)
    return X[i] + t * (X[j] - X[i])


@misconception(
    "smote",
    hint="It is enough here that j is the nearest of i. In a Tomek link the choice is mutual: i must "
    "be the nearest of j as well.",
)
def tomek_links(X, y):
    far = (X[:, None] - X).pow(2).sum(-1)
    far.fill_diagonal_(math.inf)
    near = far.argmin(1)
    i = torch.arange(len(X), device=X.device)
    link = (y[near] != y) & (i < near)
    return torch.stack([i[link], near[link]], 1)


# --- resample --------------------------------------------------------------------------------


@misconception(
    "resample",
    hint="All rows of the rare class are drawn at random, so by chance some are missing. Keep every "
    "row once, and draw only what is lacking.",
)
def oversample(y, rng):
    classes, sizes = y.unique(return_counts=True)
    most = int(sizes.max())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        rows.append(own[torch.randint(len(own), (most,), generator=rng)])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="The rows of a class are repeated in a fixed order. The additional rows should be drawn at "
    "random, with replacement, with rng.",
)
def oversample(y, rng):
    classes, sizes = y.unique(return_counts=True)
    most = int(sizes.max())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        rows.append(own.repeat(-(-most // len(own)))[:most])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="The random numbers come from the global generator. Pass `generator=rng`, so that the plan "
    "can be repeated.",
)
def oversample(y, rng):
    classes, sizes = y.unique(return_counts=True)
    rows = [torch.arange(len(y))]
    for c, size in zip(classes, sizes, strict=True):
        own = (y == c).nonzero()[:, 0]
        rows.append(own[torch.randint(len(own), (int(sizes.max() - size),))])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="The clusters are not used, or only in proportion to their size, so a small one can vanish. "
    "Take one row of each cluster first, then a second one of each.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        if len(clusters[own].unique()) > keep:
            raise ValueError("too many clusters")
        rows.append(own[torch.randperm(len(own), generator=rng)[:keep]])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="The rows of a cluster are taken from the front, always the same ones. Within a cluster "
    "every row should have the same chance.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        groups = clusters[own].unique()
        if len(groups) > keep:
            raise ValueError("too many clusters")
        turn = torch.zeros_like(own)
        for g in groups:
            member = clusters[own] == g
            turn[member] = torch.arange(int(member.sum()))
        rows.append(own[turn.argsort(stable=True)][:keep])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="Each cluster gives in proportion to its size, so a small one may give nothing. Take from "
    "the clusters in turn.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        groups = clusters[own].unique()
        if len(groups) > keep:
            raise ValueError("too many clusters")
        own = own[torch.randperm(len(own), generator=rng)]
        place = torch.zeros(len(own))
        for g in groups:
            member = clusters[own] == g
            size = int(member.sum())
            place[member] = (torch.arange(size) + 0.5) / size
        rows.append(own[place.argsort()][:keep])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="With more clusters than rows to keep, some cluster is dropped without a word. That should "
    "be a ValueError.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=rng)]
        turn = torch.zeros_like(own)
        for g in clusters[own].unique():
            member = clusters[own] == g
            turn[member] = torch.arange(int(member.sum()))
        rows.append(own[turn.argsort(stable=True)][:keep])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="Only the labels 0 and 1 are looked at. There may be more classes, with other numbers: "
    "`y.unique()` lists them.",
)
def oversample(y, rng):
    few, many = sorted(((y == 1).nonzero()[:, 0], (y == 0).nonzero()[:, 0]), key=len)
    more = few[torch.randint(len(few), (len(many) - len(few),), generator=rng)]
    return torch.cat([torch.arange(len(y)), more])


@misconception(
    "resample",
    hint="Every cluster gives the same number of rows, rounded down, so that some rows are missing. "
    "Where one has no more, or something is left over, the others go on.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        groups = clusters[own].unique()
        if len(groups) > keep:
            raise ValueError("too many clusters")
        for g in groups:
            member = own[clusters[own] == g]
            member = member[torch.randperm(len(member), generator=rng)]
            rows.append(member[: keep // len(groups)])
    return torch.cat(rows)


@misconception(
    "resample",
    hint="After one row of each cluster the rest is drawn from all, so the large clusters fill the "
    "plan. Go on in turns: a second row of each, then a third.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=rng)]
        groups = clusters[own].unique()
        if len(groups) > keep:
            raise ValueError("too many clusters")
        first = torch.stack([own[clusters[own] == g][0] for g in groups])
        rest = own[~torch.isin(own, first)]
        rows += [first, rest[: keep - len(first)]]
    return torch.cat(rows)


@misconception(
    "resample",
    hint="The random numbers come from the global generator. Pass `generator=rng`, so that the plan "
    "can be repeated.",
)
def undersample(y, clusters, rng):
    classes, sizes = y.unique(return_counts=True)
    keep = int(sizes.min())
    rows = []
    for c in classes:
        own = (y == c).nonzero()[:, 0]
        own = own[torch.randperm(len(own))]
        groups = clusters[own].unique()
        if len(groups) > keep:
            raise ValueError("too many clusters")
        turn = torch.zeros_like(own)
        for g in groups:
            member = clusters[own] == g
            turn[member] = torch.arange(int(member.sum()))
        rows.append(own[turn.argsort(stable=True)][:keep])
    return torch.cat(rows)


# --- kfold -----------------------------------------------------------------------------------


@misconception(
    "kfold",
    hint="With parts of n // k rows the remainder is never validated. Some parts have to be one "
    "larger.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    rows, size = torch.randperm(n, generator=rng), n // k
    return [
        (torch.cat([rows[: f * size], rows[(f + 1) * size :]]), rows[f * size : (f + 1) * size])
        for f in range(k)
    ]


@misconception(
    "kfold",
    hint="The last part gets the whole remainder, so it can be nearly twice as large as the others. "
    "Sizes should differ by at most one.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    rows, size = torch.randperm(n, generator=rng), n // k
    parts = []
    for f in range(k):
        end = n if f == k - 1 else (f + 1) * size
        parts.append((torch.cat([rows[: f * size], rows[end:]]), rows[f * size : end]))
    return parts


@misconception(
    "kfold",
    hint="The rows are cut in the order in which they come. If they are sorted, by class or by "
    "time, the folds are not alike; shuffle with rng first.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    rows = torch.arange(n)
    return [(rows[rows % k != f], rows[rows % k == f]) for f in range(k)]


@misconception(
    "kfold",
    hint="Every fold is drawn anew, so a row can be validated twice or never. Shuffle once, then "
    "cut.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    parts = []
    for f in range(k):
        rows = torch.randperm(n, generator=rng)
        size = n // k + (f < n % k)
        parts.append((rows[size:], rows[:size]))
    return parts


@misconception(
    "kfold",
    hint="The pairs are (validation, train). The training part, the larger one, comes first.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    fold = torch.randperm(n, generator=rng) % k
    rows = torch.arange(n)
    return [(rows[fold == f], rows[fold != f]) for f in range(k)]


@misconception(
    "kfold",
    hint="The folds do not look at the classes. Each class should be spread over the folds on its "
    "own.",
)
def stratified_kfold(y, k, rng):
    if not 2 <= k <= len(y):
        raise ValueError(k)
    fold = torch.randperm(len(y), generator=rng) % k
    rows = torch.arange(len(y))
    return [(rows[fold != f], rows[fold == f]) for f in range(k)]


@misconception(
    "kfold",
    hint="Each class begins anew at fold 0, so the first folds get all the remainders and the sizes "
    "drift apart. Go on dealing where the last class stopped.",
)
def stratified_kfold(y, k, rng):
    if not 2 <= k <= len(y):
        raise ValueError(k)
    fold = torch.zeros_like(y)
    for c in y.unique():
        own = (y == c).nonzero()[:, 0]
        fold[own] = torch.randperm(len(own), generator=rng) % k
    rows = torch.arange(len(y))
    return [(rows[fold != f], rows[fold == f]) for f in range(k)]


@misconception(
    "kfold",
    hint="The parts have the size n / k rounded up, so the last one is much smaller, or missing. "
    "`tensor_split(k)` makes k parts whose sizes differ by at most one.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    parts = torch.randperm(n, generator=rng).split(-(-n // k))
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(len(parts))]


@misconception(
    "kfold",
    hint="The rows are cut in the order in which they come. If they are sorted, by class or by "
    "time, the folds are not alike; shuffle with rng first.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    parts = torch.arange(n).tensor_split(k)
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(k)]


@misconception(
    "kfold",
    hint="The random numbers come from the global generator. Pass `generator=rng`, so that the folds "
    "can be made again.",
)
def kfold(n, k, rng):
    if not 2 <= k <= n:
        raise ValueError(k)
    parts = torch.randperm(n).tensor_split(k)
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(k)]


@misconception(
    "kfold",
    hint="The rows of a class are dealt in the order in which they come, always the same. Shuffle "
    "them within the class, with rng.",
)
def stratified_kfold(y, k, rng):
    if not 2 <= k <= len(y):
        raise ValueError(k)
    order = y.argsort(stable=True)
    parts = [order[f::k] for f in range(k)]
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(k)]


# --- vc --------------------------------------------------------------------------------------


@misconception(
    "vc",
    hint="Only the number of points is looked at. Three points on a line are three points in the "
    "plane too, and no line cuts off the middle one.",
)
def can_shatter(points):
    return len(points) <= points.shape[1] + 1


@misconception(
    "vc",
    hint="linprog's variables are >= 0 unless told otherwise, so half of all lines are missing. "
    "Pass bounds=(None, None).",
)
def can_shatter(points):
    from itertools import product

    from scipy.optimize import linprog

    rows = torch.cat([points, torch.ones_like(points[:, :1])], 1).numpy()
    for signs in product((-1.0, 1.0), repeat=len(rows)):
        left = -torch.tensor(signs)[:, None].numpy() * rows
        if not linprog([0.0] * rows.shape[1], left, [-1.0] * len(rows)).success:
            return False
    return True


@misconception(
    "vc",
    hint="The bias b is missing, so that all lines go through the origin. Add a column of ones to "
    "the points.",
)
def can_shatter(points):
    from itertools import product

    from scipy.optimize import linprog

    rows = points.numpy()
    for signs in product((-1.0, 1.0), repeat=len(rows)):
        left = -torch.tensor(signs)[:, None].numpy() * rows
        answer = linprog([0.0] * rows.shape[1], left, [-1.0] * len(rows), bounds=(None, None))
        if not answer.success:
            return False
    return True


@misconception(
    "vc",
    hint="Every set of points is called shattered. Either the inequalities allow a product of 0, which "
    "w = 0, b = 0 always fulfils: ask for at least 1. Or one labelling is enough for you: ask for all.",
)
def can_shatter(points):
    from itertools import product

    from scipy.optimize import linprog

    rows = torch.cat([points, torch.ones_like(points[:, :1])], 1).numpy()
    for signs in product((-1.0, 1.0), repeat=len(rows)):
        left = -torch.tensor(signs)[:, None].numpy() * rows
        answer = linprog([0.0] * rows.shape[1], left, [0.0] * len(rows), bounds=(None, None))
        if not answer.success:
            return False
    return True


@misconception(
    "vc",
    hint="The labels are 0 and 1. With a label of 0 the product is 0, never at least 1; take -1 and 1.",
)
def can_shatter(points):
    from itertools import product

    from scipy.optimize import linprog

    rows = torch.cat([points, torch.ones_like(points[:, :1])], 1).numpy()
    for signs in product((0.0, 1.0), repeat=len(rows)):
        left = -torch.tensor(signs)[:, None].numpy() * rows
        answer = linprog([0.0] * rows.shape[1], left, [-1.0] * len(rows), bounds=(None, None))
        if not answer.success:
            return False
    return True


@misconception(
    "vc",
    hint="The perceptron is stopped too early: it needs many rounds where classes are close to each "
    "other. A linear program always decides.",
)
def can_shatter(points):
    from itertools import product

    rows = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    for signs in product((-1.0, 1.0), repeat=len(rows)):
        v, wrong = torch.zeros_like(rows[0]), 0
        for _ in range(20):
            wrong = 0
            for row, sign in zip(rows, signs, strict=True):
                if sign * (row @ v) <= 0:
                    v, wrong = v + sign * row, wrong + 1
            if not wrong:
                break
        if wrong:
            return False
    return True


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="The copies are still made before the split, so a row can be in both parts. Split the "
    "original rows, then copy within the training part.",
)
def split_then_balance(y, rng):
    pos, neg = (y == 1).nonzero()[:, 0], (y == 0).nonzero()[:, 0]
    copies = pos[torch.randint(len(pos), (len(neg),), generator=rng)]
    rows = torch.cat([neg, copies])
    rows = rows[torch.randperm(len(rows), generator=rng)]
    fifth = len(y) // 5
    return rows[fifth:], rows[:fifth]


@misconception(
    "debug",
    hint="The copies are drawn from all ones, those for validation included. Draw them from the ones "
    "of the training part.",
)
def split_then_balance(y, rng):
    rows = torch.randperm(len(y), generator=rng)
    val, train = rows[: len(y) // 5], rows[len(y) // 5 :]
    ones, lacking = (y == 1).nonzero()[:, 0], int((y[train] == 0).sum() - (y[train] == 1).sum())
    return torch.cat([train, ones[torch.randint(len(ones), (lacking,), generator=rng)]]), val


@misconception(
    "debug",
    hint="All ones of the training part are drawn anew, so by chance some are lost. Keep each once, "
    "and draw only what is lacking.",
)
def split_then_balance(y, rng):
    rows = torch.randperm(len(y), generator=rng)
    val, train = rows[: len(y) // 5], rows[len(y) // 5 :]
    ones, zeros = train[y[train] == 1], train[y[train] == 0]
    return torch.cat([zeros, ones[torch.randint(len(ones), (len(zeros),), generator=rng)]]), val


@misconception(
    "debug",
    hint="The first fifth of the rows is always taken for validation. If the rows are sorted, it is "
    "not like the rest: shuffle with rng first.",
)
def split_then_balance(y, rng):
    val, train = torch.arange(len(y) // 5), torch.arange(len(y) // 5, len(y))
    ones, zeros = train[y[train] == 1], train[y[train] == 0]
    more = ones[torch.randint(len(ones), (len(zeros) - len(ones),), generator=rng)]
    return torch.cat([train, more]), val
