"""Wrong answers in the chapter on loss functions, each with the hint it deserves."""

import math

import torch
import torch.nn.functional as F

from course.testing import misconception

# --- regression ------------------------------------------------------------------------------


@misconception(
    "regression",
    hint="The squared error is halved. Some books do so to have a tidy gradient; the table here "
    "(and the library) does not.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = (x - y).abs()
    if kind == "l1" or (kind == "smooth_l1" and beta == 0):
        loss = size
    elif kind == "mse":
        loss = size**2 / 2
    elif kind == "smooth_l1":
        loss = torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    elif kind == "huber":
        loss = torch.where(size < beta, size**2 / 2, beta * (size - beta / 2))
    else:
        raise ValueError("kind")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="SmoothL1 and Huber give the same here. For a width other than 1 they differ by a "
    "factor: compare the two rows of the table.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = (x - y).abs()
    if kind == "l1" or (kind == "smooth_l1" and beta == 0):
        loss = size
    elif kind == "mse":
        loss = size**2
    elif kind in ("smooth_l1", "huber"):
        loss = torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    else:
        raise ValueError("kind")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="With beta = 0 the values are right, but the gradient is NaN: `torch.where` also "
    "differentiates the piece that it does not choose, and that one divides by zero.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = (x - y).abs()
    if kind == "l1":
        loss = size
    elif kind == "mse":
        loss = size**2
    elif kind == "smooth_l1":
        loss = torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    elif kind == "huber":
        loss = torch.where(size < beta, size**2 / 2, beta * (size - beta / 2))
    else:
        raise ValueError("kind")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="Shapes that differ are broadcast without a word: [N, 1] against [N] compares every "
    "prediction with every target. Raise a ValueError.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    size = (x - y).abs()
    if kind == "l1" or (kind == "smooth_l1" and beta == 0):
        loss = size
    elif kind == "mse":
        loss = size**2
    elif kind == "smooth_l1":
        loss = torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    elif kind == "huber":
        loss = torch.where(size < beta, size**2 / 2, beta * (size - beta / 2))
    else:
        raise ValueError("kind")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="At the seam the loss jumps: the straight line has to start where the parabola ends. "
    "Which constant makes the two values equal at an error of beta?",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = (x - y).abs()
    if kind == "l1" or (kind == "smooth_l1" and beta == 0):
        loss = size
    elif kind == "mse":
        loss = size**2
    elif kind == "smooth_l1":
        loss = torch.where(size < beta, size**2 / (2 * beta), size)
    elif kind == "huber":
        loss = torch.where(size < beta, size**2 / 2, beta * size)
    else:
        raise ValueError("kind")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="The mean divides by the number of rows. It should divide by the number of all entries.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = (x - y).abs()
    if kind == "l1" or (kind == "smooth_l1" and beta == 0):
        loss = size
    elif kind == "mse":
        loss = size**2
    elif kind == "smooth_l1":
        loss = torch.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    elif kind == "huber":
        loss = torch.where(size < beta, size**2 / 2, beta * (size - beta / 2))
    else:
        raise ValueError("kind")
    if reduction == "none":
        return loss
    return loss.sum() / (len(x) if reduction == "mean" else 1)


@misconception(
    "regression",
    hint="The line of SmoothL1 is |e| - beta/2. The constant 1/2 fits for beta = 1 only.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape:
        raise ValueError("shapes")
    e = x - y
    a = e.abs()
    if kind == "smooth_l1" and beta == 0:
        kind = "l1"
    if kind == "l1":
        loss = a
    elif kind == "mse":
        loss = e**2
    elif kind == "smooth_l1":
        loss = torch.where(a < beta, e**2 / (2 * beta), a - 0.5)
    elif kind == "huber":
        loss = torch.where(a < beta, e**2 / 2, beta * (a - beta / 2))
    else:
        raise ValueError(kind)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="Huber's line is beta times (|e| - beta/2): the factor beta belongs to both terms.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape:
        raise ValueError("shapes")
    e = x - y
    a = e.abs()
    if kind == "smooth_l1" and beta == 0:
        kind = "l1"
    if kind == "l1":
        loss = a
    elif kind == "mse":
        loss = e**2
    elif kind == "smooth_l1":
        loss = torch.where(a < beta, e**2 / (2 * beta), a - beta / 2)
    elif kind == "huber":
        loss = torch.where(a < beta, e**2 / 2, beta * a - beta / 2)
    else:
        raise ValueError(kind)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="The parabola of SmoothL1 is e²/(2 beta): it is divided by the width, too.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape:
        raise ValueError("shapes")
    e = x - y
    a = e.abs()
    if kind == "smooth_l1" and beta == 0:
        kind = "l1"
    if kind == "l1":
        loss = a
    elif kind == "mse":
        loss = e**2
    elif kind == "smooth_l1":
        loss = torch.where(a < beta, e**2 / 2, a - beta / 2)
    elif kind == "huber":
        loss = torch.where(a < beta, e**2 / 2, beta * (a - beta / 2))
    else:
        raise ValueError(kind)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "regression",
    hint="A root is taken of the mean squared error. MSE has none.",
)
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    if x.shape != y.shape:
        raise ValueError("shapes")
    e = x - y
    a = e.abs()
    if kind == "smooth_l1" and beta == 0:
        kind = "l1"
    if kind == "l1":
        loss = a
    elif kind == "mse":
        loss = e**2
        if reduction == "mean":
            return loss.mean().sqrt()
    elif kind == "smooth_l1":
        loss = torch.where(a < beta, e**2 / (2 * beta), a - beta / 2)
    elif kind == "huber":
        loss = torch.where(a < beta, e**2 / 2, beta * (a - beta / 2))
    else:
        raise ValueError(kind)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


# --- ce --------------------------------------------------------------------------------------


@misconception(
    "ce",
    hint="With class weights the mean divides by the number of examples here. For cross-entropy "
    "it is a weighted average: divide by the weights that were used.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    logp = F.log_softmax(logits, 1)
    hard = -w[label] * counts * logp.gather(1, label[:, None])[:, 0]
    even = -(w * logp).sum(1) / K * counts
    loss = (1 - label_smoothing) * hard + label_smoothing * even
    if reduction == "mean":
        return loss.sum() / counts.sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="Ignored examples cost nothing, but they are still counted in the mean, which makes it "
    "too small.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    logp = F.log_softmax(logits, 1)
    hard = -w[label] * counts * logp.gather(1, label[:, None])[:, 0]
    even = -(w * logp).sum(1) / K * counts
    loss = (1 - label_smoothing) * hard + label_smoothing * even
    if reduction == "mean":
        return loss.sum() / w[label].sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="The share ε is spread over the K - 1 other classes. It goes to all K classes, so the "
    "own one gets ε/K back.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    hot = F.one_hot(label, K).to(logits)
    target = (1 - label_smoothing) * hot + label_smoothing / (K - 1) * (1 - hot)
    loss = -(target * w * F.log_softmax(logits, 1)).sum(1) * counts
    if reduction == "mean":
        return loss.sum() / (w[label] * counts).sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="The smoothed part has no class weights. Each class's term -log q gets the weight of "
    "that class.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    logp = F.log_softmax(logits, 1)
    own = w[label] * counts
    loss = (1 - label_smoothing) * -own * logp.gather(1, label[:, None])[:, 0]
    loss = loss - label_smoothing * logp.mean(1) * counts
    if reduction == "mean":
        return loss.sum() / own.sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="Exponentials of large logits overflow, and the logarithm of a softmax that rounds to 0 "
    "is infinite. Work with log-probabilities from the beginning.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    q = logits.exp() / logits.exp().sum(1, keepdim=True)
    own = w[label] * counts
    loss = (1 - label_smoothing) * -own * q.gather(1, label[:, None])[:, 0].log()
    loss = loss - label_smoothing * (w * q.log()).mean(1) * counts
    if reduction == "mean":
        return loss.sum() / own.sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="Softmax is applied twice: `log_softmax` begins with a softmax of its own and wants "
    "the logits.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    K = logits.shape[1]
    w = logits.new_ones(K) if weight is None else weight
    counts = y != ignore_index
    label = torch.where(counts, y, 0)
    logp = F.log_softmax(F.softmax(logits, 1), 1)
    own = w[label] * counts
    loss = (1 - label_smoothing) * -own * logp.gather(1, label[:, None])[:, 0]
    loss = loss - label_smoothing * (w * logp).mean(1) * counts
    if reduction == "mean":
        return loss.sum() / own.sum()
    return loss.sum() if reduction == "sum" else loss


@misconception(
    "ce",
    hint="The logarithm of a softmax that has rounded to 0 is minus infinity, and 0 times that is "
    "NaN. Work with log-probabilities from the beginning.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.softmax(logits, dim=1).log()
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="A small number inside the logarithm of the softmax cuts off every loss at about 27 and "
    "shifts all others a little. Work with log-probabilities from the beginning, and nothing "
    "needs to be added.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = (F.softmax(logits, dim=1) + 1e-12).log()
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="The smoothed part is multiplied by the weight of the label. Each of its terms -log q_j "
    "has the weight of its own class j.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -logq.sum(1) * w / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="Ignored examples still pay the smoothed part. They should cost nothing at all.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="The logarithm is missing: this takes probabilities for log-probabilities, and the loss "
    "is negative.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="Every negative label is ignored, and no other. What is ignored is the label "
    "`ignore_index`, which may also be a class.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y >= 0
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint='The ignored examples are thrown away. With reduction="none" there should be a price for '
    "every example: 0 for these.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    keep = y != ignore_index
    logits, y = logits[keep], y[keep]
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="With all labels ignored the mean is 0/0, nan. Here something keeps the sum of the "
    "weights away from 0.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=1)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum().clamp(min=1e-8)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "ce",
    hint="The softmax runs down the batch. It should run over the classes, dimension 1.",
)
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    N, K = logits.shape
    logq = F.log_softmax(logits, dim=0)
    if weight is None:
        weight = logits.new_ones(K)
    keep = y != ignore_index
    safe = torch.where(keep, y, torch.zeros_like(y))
    w = weight[safe] * keep
    nll = -logq.gather(1, safe[:, None])[:, 0] * w
    smooth = -(logq * weight).sum(1) * keep / K
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / w.sum()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


# --- bce -------------------------------------------------------------------------------------


@misconception(
    "bce",
    hint="The probability is kept away from 0 and 1 by a small number, so a sure mistake costs "
    "about 16. It is the logarithm that is to be clamped, at -100.",
)
def bce(p, y, weight=None):
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p should be probabilities, of the shape of y")
    p = p.clamp(1e-7, 1 - 1e-7)
    loss = -(y * p.log() + (1 - y) * (1 - p).log())
    return (loss if weight is None else weight * loss).mean()


@misconception(
    "bce",
    hint="The weighted mean divides by the sum of the weights. That is the rule of "
    "cross-entropy; here the mean divides by the number of entries.",
)
def bce(p, y, weight=None):
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p should be probabilities, of the shape of y")
    yes, no = p.log().clamp(min=-100), (1 - p).log().clamp(min=-100)
    loss = -(y * yes + (1 - y) * no)
    if weight is None:
        return loss.mean()
    return (weight * loss).sum() / weight.expand_as(loss).sum()


@misconception(
    "bce",
    hint="The clamp comes after the product, and 0 times minus infinity is already NaN by then. "
    "Clamp each logarithm first.",
)
def bce(p, y, weight=None):
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p should be probabilities, of the shape of y")
    loss = -(y * p.log()).clamp(min=-100) - ((1 - y) * (1 - p).log()).clamp(min=-100)
    return (loss if weight is None else weight * loss).mean()


@misconception(
    "bce",
    hint="The factor `pos_weight` is on both terms. It belongs to the term of y = 1 only.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    if z.shape != y.shape:
        raise ValueError("shapes")
    loss = y * F.softplus(-z) + (1 - y) * F.softplus(z)
    for factor in (pos_weight, weight):
        loss = loss if factor is None else factor * loss
    return loss.mean()


@misconception(
    "bce",
    hint="A sigmoid, then a logarithm: for large logits the sigmoid rounds to 0 or 1, and value "
    "and gradient are lost. Stay with the logits.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    if z.shape != y.shape:
        raise ValueError("shapes")
    p = torch.sigmoid(z)
    yes, no = p.log().clamp(min=-100), (1 - p).log().clamp(min=-100)
    positive = y if pos_weight is None else pos_weight * y
    loss = -(positive * yes + (1 - y) * no)
    return (loss if weight is None else weight * loss).mean()


@misconception(
    "bce",
    hint="The value is right, but at z = 0 the slope is not: `abs` and the maximum have their "
    "kinks there, and autograd takes each by itself. Use softplus.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    if z.shape != y.shape:
        raise ValueError("shapes")
    soft = (-z.abs()).exp().log1p()
    positive = y if pos_weight is None else pos_weight * y
    loss = positive * (F.relu(-z) + soft) + (1 - y) * (F.relu(z) + soft)
    return (loss if weight is None else weight * loss).mean()


@misconception(
    "bce",
    hint="For a logit of 120 the result is infinite: in float32 exp(120) overflows, and a sigmoid "
    "rounds to 1. Softplus is log(1 + exp(…)), safely.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    if z.shape != y.shape:
        raise ValueError("shape")
    c = 1.0 if pos_weight is None else pos_weight
    loss = c * y * torch.log(1 + torch.exp(-z)) + (1 - y) * torch.log(1 + torch.exp(z))
    if weight is not None:
        loss = loss * weight
    return loss.mean()


@misconception(
    "bce",
    hint="`pos_weight` multiplies the term of y = 0. It belongs to the positives, y = 1.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    if z.shape != y.shape:
        raise ValueError("shape")
    c = 1.0 if pos_weight is None else pos_weight
    loss = y * F.softplus(-z) + c * (1 - y) * F.softplus(z)
    if weight is not None:
        loss = loss * weight
    return loss.mean()


@misconception(
    "bce",
    hint="Logits and labels of different shapes are broadcast without a word. Raise a ValueError.",
)
def bce_logits(z, y, pos_weight=None, weight=None):
    c = 1.0 if pos_weight is None else pos_weight
    loss = c * y * F.softplus(-z) + (1 - y) * F.softplus(z)
    if weight is not None:
        loss = loss * weight
    return loss.mean()


@misconception(
    "bce",
    hint="A p outside of [0, 1] is no probability, perhaps a logit. Raise a ValueError.",
)
def bce(p, y, weight=None):
    if p.shape != y.shape:
        raise ValueError("shape")
    loss = -(y * p.log().clamp(min=-100) + (1 - y) * (1 - p).log().clamp(min=-100))
    if weight is not None:
        loss = loss * weight
    return loss.mean()


# --- distribution ----------------------------------------------------------------------------


@misconception(
    "distribution",
    hint="`log_input` is turned round: if it is True, x is the *logarithm* of the rate.",
)
def poisson_nll(x, t, log_input=True, full=False):
    loss = x - t * (x + 1e-8).log() if log_input else x.exp() - t * x
    if full:
        stirling = t * t.log() - t + 0.5 * (2 * math.pi * t).log()
        loss = loss + torch.where(t > 1, stirling, 0)
    return loss.mean()


@misconception(
    "distribution",
    hint="Stirling's term is added for every count. It is an approximation for t > 1 only; at "
    "t = 0 it is even NaN.",
)
def poisson_nll(x, t, log_input=True, full=False):
    loss = x.exp() - t * x if log_input else x - t * (x + 1e-8).log()
    if full:
        loss = loss + t * t.log() - t + 0.5 * (2 * math.pi * t).log()
    return loss.mean()


@misconception(
    "distribution",
    hint="Without the 1e-8 inside the logarithm, a rate of 0 costs infinitely much.",
)
def poisson_nll(x, t, log_input=True, full=False):
    loss = x.exp() - t * x if log_input else x - t * x.log()
    if full:
        stirling = t * t.log() - t + 0.5 * (2 * math.pi * t).log()
        loss = loss + torch.where(t > 1, stirling, 0)
    return loss.mean()


@misconception(
    "distribution",
    hint="`batchmean` divides by the number of all entries. A divergence belongs to a row: "
    "divide by the number of rows.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = torch.xlogy(p, p) - p * logq
    if reduction in ("batchmean", "mean"):
        return loss.mean()
    if reduction not in ("none", "sum"):
        raise ValueError("reduction")
    return loss if reduction == "none" else loss.sum()


@misconception(
    "distribution",
    hint="This is the divergence the other way round, weighted by q. The truth p comes first in "
    "KL(p || q), although it comes second among the arguments.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = logq.exp() * (logq - p.clamp(min=1e-30).log())
    if reduction == "batchmean":
        return loss.sum() / len(p)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="Where p is 0, 0 times log 0 gives NaN. There the entry should be 0.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = p * (p.log() - logq)
    if reduction == "batchmean":
        return loss.sum() / len(p)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="The term p log p is missing. This is the cross-entropy: its gradient for q is the "
    "same, but it is not 0 when q = p.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = -p * logq
    if reduction == "batchmean":
        return loss.sum() / len(p)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="The sign is turned round: the divergence is p (log p - log q), and never negative.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = p * logq - torch.xlogy(p, p)
    if reduction == "batchmean":
        return loss.sum() / len(logq)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="`batchmean` sums dimension 1 only. For shapes with more dimensions, too, it is the sum "
    "of everything, divided by N.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = torch.xlogy(p, p) - p * logq
    if reduction == "batchmean":
        return loss.sum(1).mean()
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="The first argument is log q already; its logarithm is taken once more.",
)
def kl_div(logq, p, reduction="batchmean"):
    loss = torch.xlogy(p, p) - p * logq.log()
    if reduction == "batchmean":
        return loss.sum() / len(logq)
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


@misconception(
    "distribution",
    hint="This is the exact log t!. The loss adds Stirling's approximation to it, and only where t "
    "> 1.",
)
def poisson_nll(x, t, log_input=True, full=False):
    if log_input:
        loss = x.exp() - t * x
    else:
        loss = x - t * torch.log(x + 1e-8)
    if full:
        loss = loss + torch.lgamma(t + 1)
    return loss.mean()


# --- margin ----------------------------------------------------------------------------------


@misconception(
    "margin",
    hint="The ranking has the wrong sign: y = 1 says that x should be the *larger* of the two, "
    "and then a lead of x must lower the price.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin") and not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    if kind == "soft_margin":
        return F.softplus(-y * x).mean()
    if kind == "ranking":
        return ((margin or 0) + y * (x - other)).clamp(min=0).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        return (loss if weight is None else weight * loss).mean()
    raise ValueError(kind)


@misconception(
    "margin",
    hint="The own class is counted as its own rival, which adds the whole margin to every "
    "example. The sum runs over i ≠ y.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin") and not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    if kind == "soft_margin":
        return F.softplus(-y * x).mean()
    if kind == "ranking":
        return ((margin or 0) - y * (x - other)).clamp(min=0).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        return (loss if weight is None else weight * loss).mean()
    if kind == "multi_margin":
        if y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError("class")
        lead = x.gather(1, y[:, None]) - x
        price = ((1 if margin is None else margin) - lead).clamp(min=0) ** p
        price = price.sum(1) if weight is None else weight[y] * price.sum(1)
        return price.mean() / x.shape[1]
    raise ValueError(kind)


@misconception(
    "margin",
    hint="The power p is taken of the sum over the rivals. It belongs to each rival's term, "
    "inside the sum.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin") and not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    if kind == "soft_margin":
        return F.softplus(-y * x).mean()
    if kind == "ranking":
        return ((margin or 0) - y * (x - other)).clamp(min=0).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        return (loss if weight is None else weight * loss).mean()
    if kind == "multi_margin":
        if y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError("class")
        lead = x.gather(1, y[:, None]) - x
        price = ((1 if margin is None else margin) - lead).clamp(min=0)
        price = price.scatter(1, y[:, None], 0.0).sum(1) ** p
        return (price if weight is None else weight[y] * price).mean() / x.shape[1]
    raise ValueError(kind)


@misconception(
    "margin",
    hint="All non-negative entries of a row are read as classes. The row ends at the *first* -1; "
    "what stands behind it is padding.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind != "multilabel_margin":
        raise ValueError(kind)
    if y.min() < -1 or y.max() >= x.shape[1]:
        raise ValueError("class")
    total = x.new_zeros(())
    for scores, labels in zip(x, y, strict=True):
        right = labels[labels >= 0]
        wrong = torch.ones_like(labels, dtype=torch.bool)
        wrong[right] = False
        total = total + (1 - scores[right][:, None] + scores[wrong]).clamp(min=0).sum()
    return total / x.numel()


@misconception(
    "margin",
    hint="log(1 + exp(…)) overflows to infinity for a score of 1000 on the wrong side. Softplus "
    "is the same function, and safe.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin") and not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    if kind == "soft_margin":
        return (1 + (-y * x).exp()).log().mean()
    if kind == "ranking":
        return ((margin or 0) - y * (x - other)).clamp(min=0).mean()
    if kind == "multilabel_soft_margin":
        loss = y * (1 + (-x).exp()).log() + (1 - y) * (1 + x.exp()).log()
        return (loss if weight is None else weight * loss).mean()
    raise ValueError(kind)


@misconception(
    "margin",
    hint="Labels 0 and 1 are accepted by the losses for labels 1 and -1. An example with label 0 "
    "would then have no gradient at all. Raise a ValueError.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind == "soft_margin":
        return F.softplus(-y * x).mean()
    if kind == "ranking":
        return ((margin or 0) - y * (x - other)).clamp(min=0).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        return (loss if weight is None else weight * loss).mean()
    C = x.shape[1]
    if y.max() >= C or y.min() < (0 if kind == "multi_margin" else -1):
        raise ValueError("class")
    if kind == "multi_margin":
        lead = x.gather(1, y[:, None]) - x
        price = ((1 if margin is None else margin) - lead).clamp(min=0) ** p
        price = price.scatter(1, y[:, None], 0.0).sum(1)
        return (price if weight is None else weight[y] * price).mean() / C
    if kind != "multilabel_margin":
        raise ValueError(kind)
    total = x.new_zeros(())
    for scores, labels in zip(x, y, strict=True):
        right = labels[(labels >= 0).cumprod(0) == 1]
        wrong = torch.ones_like(labels, dtype=torch.bool)
        wrong[right] = False
        total = total + (1 - scores[right][:, None] + scores[wrong]).clamp(min=0).sum()
    return total / x.numel()


@misconception(
    "margin",
    hint="`margin or 1.0` takes a margin of 0 for none. Ask for `margin is None`.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin"):
        if not ((y == 1) | (y == -1)).all():
            raise ValueError("labels")
        if kind == "ranking":
            m = 0.0 if margin is None else margin
            return (m - y * (x - other)).clamp(min=0).mean()
        return F.softplus(-y * x).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        if weight is not None:
            loss = loss * weight
        return loss.mean()
    N, C = x.shape
    if kind == "multi_margin":
        if ((y < 0) | (y >= C)).any():
            raise ValueError("class")
        m = margin or 1.0
        own = x.gather(1, y[:, None])
        h = (m - own + x).clamp(min=0) ** p
        h = h * (1 - F.one_hot(y, C))
        if weight is not None:
            h = h * weight[y][:, None]
        return h.sum() / (N * C)
    if kind == "multilabel_margin":
        if ((y < -1) | (y >= C)).any():
            raise ValueError("class")
        total = 0.0
        for scores, row in zip(x, y):
            right = []
            for c in row.tolist():
                if c == -1:
                    break
                right.append(c)
            wrong = [c for c in range(C) if c not in right]
            for j in right:
                total = total + (1 - scores[j] + scores[wrong]).clamp(min=0).sum()
        return total / (N * C) + 0 * x.sum()
    raise ValueError(kind)


@misconception(
    "margin",
    hint="Each rival has the weight of its own class. The whole price of an example has the weight "
    "of the right class y.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin"):
        if not ((y == 1) | (y == -1)).all():
            raise ValueError("labels")
        if kind == "ranking":
            m = 0.0 if margin is None else margin
            return (m - y * (x - other)).clamp(min=0).mean()
        return F.softplus(-y * x).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        if weight is not None:
            loss = loss * weight
        return loss.mean()
    N, C = x.shape
    if kind == "multi_margin":
        if ((y < 0) | (y >= C)).any():
            raise ValueError("class")
        m = 1.0 if margin is None else margin
        own = x.gather(1, y[:, None])
        h = (m - own + x).clamp(min=0) ** p
        h = h * (1 - F.one_hot(y, C))
        if weight is not None:
            h = h * weight
        return h.sum() / (N * C)
    if kind == "multilabel_margin":
        if ((y < -1) | (y >= C)).any():
            raise ValueError("class")
        total = 0.0
        for scores, row in zip(x, y):
            right = []
            for c in row.tolist():
                if c == -1:
                    break
                right.append(c)
            wrong = [c for c in range(C) if c not in right]
            for j in right:
                total = total + (1 - scores[j] + scores[wrong]).clamp(min=0).sum()
        return total / (N * C) + 0 * x.sum()
    raise ValueError(kind)


@misconception(
    "margin",
    hint="Only the rival that is ahead of all others is charged. Every rival that comes closer "
    "than the margin costs, and the sum is divided by C.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin"):
        if not ((y == 1) | (y == -1)).all():
            raise ValueError("labels")
        if kind == "ranking":
            m = 0.0 if margin is None else margin
            return (m - y * (x - other)).clamp(min=0).mean()
        return F.softplus(-y * x).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        if weight is not None:
            loss = loss * weight
        return loss.mean()
    N, C = x.shape
    if kind == "multi_margin":
        if ((y < 0) | (y >= C)).any():
            raise ValueError("class")
        m = 1.0 if margin is None else margin
        own = x.gather(1, y[:, None])
        h = (m - own + x).clamp(min=0) ** p
        h = h * (1 - F.one_hot(y, C))
        if weight is not None:
            h = h * weight[y][:, None]
        return h.max(1).values.mean()
    if kind == "multilabel_margin":
        if ((y < -1) | (y >= C)).any():
            raise ValueError("class")
        total = 0.0
        for scores, row in zip(x, y):
            right = []
            for c in row.tolist():
                if c == -1:
                    break
                right.append(c)
            wrong = [c for c in range(C) if c not in right]
            for j in right:
                total = total + (1 - scores[j] + scores[wrong]).clamp(min=0).sum()
        return total / (N * C) + 0 * x.sum()
    raise ValueError(kind)


@misconception(
    "margin",
    hint="A right class has to beat the other right classes as well. Its rivals are the wrong "
    "classes only.",
)
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    if kind in ("ranking", "soft_margin"):
        if not ((y == 1) | (y == -1)).all():
            raise ValueError("labels")
        if kind == "ranking":
            m = 0.0 if margin is None else margin
            return (m - y * (x - other)).clamp(min=0).mean()
        return F.softplus(-y * x).mean()
    if kind == "multilabel_soft_margin":
        loss = y * F.softplus(-x) + (1 - y) * F.softplus(x)
        if weight is not None:
            loss = loss * weight
        return loss.mean()
    N, C = x.shape
    if kind == "multi_margin":
        if ((y < 0) | (y >= C)).any():
            raise ValueError("class")
        m = 1.0 if margin is None else margin
        own = x.gather(1, y[:, None])
        h = (m - own + x).clamp(min=0) ** p
        h = h * (1 - F.one_hot(y, C))
        if weight is not None:
            h = h * weight[y][:, None]
        return h.sum() / (N * C)
    if kind == "multilabel_margin":
        if ((y < -1) | (y >= C)).any():
            raise ValueError("class")
        total = 0.0
        for scores, row in zip(x, y):
            right = []
            for c in row.tolist():
                if c == -1:
                    break
                right.append(c)
            for j in right:
                total = (
                    total
                    + (1 - scores[j] + scores[[c for c in range(C) if c != j]]).clamp(min=0).sum()
                )
        return total / (N * C) + 0 * x.sum()
    raise ValueError(kind)


# --- metric ----------------------------------------------------------------------------------


@misconception(
    "metric",
    hint="Positive and negative have changed places: the price should fall when the negative "
    "moves away.",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def distance(u, v):
        return (u - v + 1e-6).norm(dim=1)

    far = distance(a, p)
    if swap:
        far = torch.minimum(far, distance(p, n))
    return (distance(a, n) - far + margin).clamp(min=0).mean()


@misconception(
    "metric",
    hint="The distances are squared. The library takes the norm itself.",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def distance(u, v):
        return (u - v + 1e-6).pow(2).sum(1)

    far = distance(a, n)
    if swap:
        far = torch.minimum(far, distance(p, n))
    return (distance(a, p) - far + margin).clamp(min=0).mean()


@misconception(
    "metric",
    hint="`swap` always uses the distance from the positive to the negative. It should be used "
    "only where it is the smaller of the two.",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def distance(u, v):
        return (u - v + 1e-6).norm(dim=1)

    far = distance(p, n) if swap else distance(a, n)
    return (distance(a, p) - far + margin).clamp(min=0).mean()


@misconception(
    "metric",
    hint="The hinge is taken of the mean. Then far negatives pay for near ones: take the maximum "
    "with 0 for each triplet, and average afterwards.",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def distance(u, v):
        return (u - v + 1e-6).norm(dim=1)

    far = distance(a, n)
    if swap:
        far = torch.minimum(far, distance(p, n))
    return (distance(a, p) - far + margin).mean().clamp(min=0)


@misconception(
    "metric",
    hint="The labels are turned round: y = 1 means alike, and then every distance costs.",
)
def hinge_embed(d, y, margin=1.0):
    if not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    return torch.where(y == -1, d, (margin - d).clamp(min=0)).mean()


@misconception(
    "metric",
    hint="Different pairs cost -cos + margin here. They should cost only where the cosine is "
    "*larger* than the margin.",
)
def cos_embed(a, b, y, margin=0.0):
    if not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    cos = F.cosine_similarity(a, b)
    return torch.where(y == 1, 1 - cos, (margin - cos).clamp(min=0)).mean()


@misconception(
    "metric",
    hint="A vector of zeros gives 0/0. Keep the product of the norms away from 0, so that the "
    "cosine becomes 0.",
)
def cos_embed(a, b, y, margin=0.0):
    if not (y.abs() == 1).all():
        raise ValueError("labels should be 1 or -1")
    cos = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return torch.where(y == 1, 1 - cos, (cos - margin).clamp(min=0)).mean()


@misconception(
    "metric",
    hint="The distance lacks the 1e-6, which is added to every entry of the difference before the "
    "norm is taken.",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def dist(u, v):
        return (u - v).norm(dim=1)

    dn = dist(a, n)
    if swap:
        dn = torch.minimum(dn, dist(p, n))
    return (dist(a, p) - dn + margin).clamp(min=0).mean()


@misconception(
    "metric",
    hint="Nearly right: because of the 1e-6, d(n, p) is not quite d(p, n).",
)
def triplet(a, p, n, margin=1.0, swap=False):
    def dist(u, v):
        return (u - v + 1e-6).norm(dim=1)

    dn = dist(a, n)
    if swap:
        dn = torch.minimum(dn, dist(n, p))
    return (dist(a, p) - dn + margin).clamp(min=0).mean()


@misconception(
    "metric",
    hint="This is the dot product. Divide it by both lengths to get the cosine.",
)
def cos_embed(a, b, y, margin=0.0):
    if not ((y == 1) | (y == -1)).all():
        raise ValueError("labels")
    cos = (a * b).sum(1)
    return torch.where(y == 1, 1 - cos, (cos - margin).clamp(min=0)).mean()


@misconception(
    "metric",
    hint="For different pairs the hinge is missing: a cosine below the margin should cost 0, not "
    "less.",
)
def cos_embed(a, b, y, margin=0.0):
    if not ((y == 1) | (y == -1)).all():
        raise ValueError("labels")
    cos = F.cosine_similarity(a, b)
    return torch.where(y == 1, 1 - cos, cos - margin).mean()


@misconception(
    "metric",
    hint="For different pairs the hinge is missing: a distance beyond the margin should cost 0, "
    "not less.",
)
def hinge_embed(d, y, margin=1.0):
    if not ((y == 1) | (y == -1)).all():
        raise ValueError("labels")
    return torch.where(y == 1, d, margin - d).mean()


@misconception(
    "metric",
    hint="Labels other than 1 and -1 are taken without a word. Raise a ValueError.",
)
def cos_embed(a, b, y, margin=0.0):
    cos = F.cosine_similarity(a, b)
    return torch.where(y == 1, 1 - cos, (cos - margin).clamp(min=0)).mean()


# --- ctc -------------------------------------------------------------------------------------


@misconception(
    "ctc",
    hint="The blank between two equal labels is skipped. Then they merge into one: from a label "
    "to the next, the blank may be left out only if the two differ.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)

    def add(ways):
        ways = [way for way in ways if way > -math.inf]
        return torch.stack(ways).logsumexp(0) if ways else never

    alpha = [row if s < 2 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, never, *alpha]
        for s, c in enumerate(state):
            ways = before[s : s + 3] if s > 1 and c != blank else before[s + 1 : s + 3]
            alpha[s] = now[c] + add(ways)
    loss = -add(alpha[-2:])
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="A blank is demanded between all labels. It may be left out between two labels that "
    "differ: there is a third way into such a state.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)

    def add(ways):
        ways = [way for way in ways if way > -math.inf]
        return torch.stack(ways).logsumexp(0) if ways else never

    alpha = [row if s < 2 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, *alpha]
        alpha = [now[c] + add(before[s : s + 2]) for s, c in enumerate(state)]
    loss = -add(alpha[-2:])
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="Only paths that end in a blank are counted. A path may also end in the last label.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)

    def add(ways):
        ways = [way for way in ways if way > -math.inf]
        return torch.stack(ways).logsumexp(0) if ways else never

    alpha = [row if s < 2 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, never, *alpha]
        for s, c in enumerate(state):
            ways = before[s + 1 : s + 3]
            if s > 1 and c != blank and c != state[s - 2]:
                ways = before[s : s + 3]
            alpha[s] = now[c] + add(ways)
    loss = -alpha[-1]
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="Paths have to begin with a blank here. They may also begin with the first label.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)

    def add(ways):
        ways = [way for way in ways if way > -math.inf]
        return torch.stack(ways).logsumexp(0) if ways else never

    alpha = [row if s < 1 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, never, *alpha]
        for s, c in enumerate(state):
            ways = before[s + 1 : s + 3]
            if s > 1 and c != blank and c != state[s - 2]:
                ways = before[s : s + 3]
            alpha[s] = now[c] + add(ways)
    loss = -add(alpha[-2:])
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="The value is right, but the gradient is NaN: a sum of ways that are all impossible has "
    "no derivative. Leave out the ways of probability 0 before you add.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)
    alpha = [row if s < 2 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, never, *alpha]
        for s, c in enumerate(state):
            ways = before[s + 1 : s + 3]
            if s > 1 and c != blank and c != state[s - 2]:
                ways = before[s : s + 3]
            alpha[s] = now[c] + torch.stack(ways).logsumexp(0)
    loss = -torch.stack(alpha[-2:]).logsumexp(0)
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="The best path alone is counted, a maximum over the ways. CTC sums over all of them.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank")
    state = [blank]
    for label in target.tolist():
        state += [label, blank]
    never = log_probs.new_tensor(-math.inf)
    alpha = [row if s < 2 else never for s, row in enumerate(log_probs[0][state])]
    for now in log_probs[1:]:
        before = [never, never, *alpha]
        for s, c in enumerate(state):
            ways = before[s + 1 : s + 3]
            if s > 1 and c != blank and c != state[s - 2]:
                ways = before[s : s + 3]
            alpha[s] = now[c] + torch.stack(ways).amax()
    loss = -torch.stack(alpha[-2:]).amax()
    return log_probs.new_zeros(()) if zero_infinity and loss.isinf() else loss


@misconception(
    "ctc",
    hint="Every state may be reached from two states back. Only a label may, and only if it "
    "differs from the label there; a blank may not.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(min(2, S))}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 1, S - 2) if s in alpha]
    if not ends:
        return (log_probs * 0).sum() if zero_infinity else log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


@misconception(
    "ctc",
    hint="Only paths that end in the last label are counted. A path may also end in the blank "
    "behind it.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(min(2, S))}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 2,) if s in alpha]
    if not ends:
        return (log_probs * 0).sum() if zero_infinity else log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


@misconception(
    "ctc",
    hint="Infinity times 0 is NaN. With `zero_infinity`, return a zero of your own. And leave ways "
    "of probability 0 out of the sums: their gradient is NaN.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    never = log_probs.new_tensor(-math.inf)
    alpha = [log_probs[0, states[s]] if s < 2 else never for s in range(S)]
    for t in range(1, T):
        new = []
        for s in range(S):
            ways = [alpha[s]]
            if s >= 1:
                ways.append(alpha[s - 1])
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(alpha[s - 2])
            new.append(torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]])
        alpha = new
    loss = -torch.logsumexp(torch.stack(alpha[-2:]), 0)
    if zero_infinity and loss.isinf():
        return loss * 0
    return loss


@misconception(
    "ctc",
    hint="The probabilities themselves are multiplied. In a long recording their product rounds to "
    "0, and the loss becomes infinite. Add logarithms instead.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    p = log_probs.exp()
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    S = len(states)
    alpha = [p[0, states[s]] if s < 2 else 0.0 * p[0, 0] for s in range(S)]
    for t in range(1, len(p)):
        new = []
        for s in range(S):
            a = alpha[s]
            if s >= 1:
                a = a + alpha[s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                a = a + alpha[s - 2]
            new.append(a * p[t, states[s]])
        alpha = new
    total = sum(alpha[-2:])
    if zero_infinity and total == 0:
        return total * 0
    return -total.log()


@misconception(
    "ctc",
    hint="An empty target has one state only, the blank. The start asks for a second one.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(2)}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 1, S - 2) if s in alpha]
    if not ends:
        return (log_probs * 0).sum() if zero_infinity else log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


@misconception(
    "ctc",
    hint="`zero_infinity` is not used: with it, a target that does not fit costs 0.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(min(2, S))}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 1, S - 2) if s in alpha]
    if not ends:
        return log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


@misconception(
    "ctc",
    hint="The blank is always class 0 here. It is the argument `blank`.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    blank = 0
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(min(2, S))}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.logsumexp(torch.stack(ways), 0) + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 1, S - 2) if s in alpha]
    if not ends:
        return (log_probs * 0).sum() if zero_infinity else log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


@misconception(
    "ctc",
    hint="The best of the ways into a state is taken, a maximum. CTC sums over all of them.",
)
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    if (target == blank).any():
        raise ValueError("blank in target")
    states = [blank]
    for c in target.tolist():
        states += [c, blank]
    T, S = len(log_probs), len(states)
    # alpha: state -> log-probability, only for those that can be reached
    alpha = {s: log_probs[0, states[s]] for s in range(min(2, S))}
    for t in range(1, T):
        new = {}
        for s in range(S):
            ways = [s, s - 1]
            if s >= 2 and states[s] != blank and states[s] != states[s - 2]:
                ways.append(s - 2)
            ways = [alpha[r] for r in ways if r in alpha]
            if ways:
                new[s] = torch.stack(ways).max() + log_probs[t, states[s]]
        alpha = new
    ends = [alpha[s] for s in (S - 1, S - 2) if s in alpha]
    if not ends:
        return (log_probs * 0).sum() if zero_infinity else log_probs.new_tensor(math.inf)
    return -torch.logsumexp(torch.stack(ends), 0)


# --- lsoftmax --------------------------------------------------------------------------------


@misconception(
    "lsoftmax",
    hint="cos(mθ) alone rises again beyond θ = π/m. The steps with k are missing.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    before, now = torch.ones_like(cos_theta), cos_theta
    for _ in range(m - 1):
        before, now = now, 2 * cos_theta * now - before
    return now


@misconception(
    "lsoftmax",
    hint="The way back through acos has an infinite slope where the feature points along its "
    "weight, and the gradient becomes NaN. cos(mθ) is a polynomial in cos θ.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    theta = cos_theta.acos()
    k = (m * theta.detach() / math.pi).floor().clamp(max=m - 1)
    return (-1) ** k * torch.cos(m * theta) - 2 * k


@misconception(
    "lsoftmax",
    hint="The sign (-1)^k is missing, so that psi goes up in every second interval.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    before, now = torch.ones_like(cos_theta), cos_theta
    for _ in range(m - 1):
        before, now = now, 2 * cos_theta * now - before
    k = (m * cos_theta.detach().clamp(-1, 1).acos() / math.pi).floor().clamp(max=m - 1)
    return now - 2 * k


@misconception(
    "lsoftmax",
    hint="Every logit gets the margin. Only the own class's should: the rivals keep the plain "
    "logits.",
)
def lsoftmax_logits(x, W, y, m):
    if m < 1:
        raise ValueError("m")
    length = x.norm(dim=1, keepdim=True) * W.norm(dim=1)
    c = x @ W.T / length.clamp(min=1e-12)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    k = (m * c.detach().clamp(-1, 1).acos() / math.pi).floor().clamp(max=m - 1)
    return length * ((-1) ** k * now - 2 * k)


@misconception(
    "lsoftmax",
    hint="The own logit has lost the two lengths: it is |W_y| |x| psi, not psi alone.",
)
def lsoftmax_logits(x, W, y, m):
    if m < 1:
        raise ValueError("m")
    logits = x @ W.T
    length = x.norm(dim=1) * W[y].norm(dim=1)
    c = logits.gather(1, y[:, None])[:, 0] / length.clamp(min=1e-12)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    k = (m * c.detach().clamp(-1, 1).acos() / math.pi).floor().clamp(max=m - 1)
    return logits.scatter(1, y[:, None], ((-1) ** k * now - 2 * k)[:, None])


@misconception(
    "lsoftmax",
    hint="The slope at the ends is 0: `clamp` has no slope there, and acos none that is finite, so a "
    "feature along its weight gets no pull. Clamp only what goes into acos to find k, and take "
    "cos(mθ) from the polynomial in cos θ.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    c = cos_theta.clamp(-1, 1)
    with torch.no_grad():
        k = (m * torch.acos(c) / math.pi).floor().clamp(max=m - 1)
        sign = 1 - 2 * (k % 2)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return sign * now - 2 * k


@misconception(
    "lsoftmax",
    hint="Clamping a little inside of [-1, 1] keeps acos finite, but the slope at the ends becomes "
    "0, and the value is a little off. cos(mθ) is a polynomial in cos θ.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    theta = torch.acos(cos_theta.clamp(-1 + 1e-7, 1 - 1e-7))
    k = (m * theta / math.pi).floor()
    return (-1) ** k * torch.cos(m * theta) - 2 * k


@misconception(
    "lsoftmax",
    hint="acos of a number just above 1, by rounding, is NaN. Clamp what goes into acos.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    c = cos_theta
    with torch.no_grad():
        k = (m * torch.acos(c) / math.pi).floor().clamp(max=m - 1)
        sign = 1 - 2 * (k % 2)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return sign * now - 2 * k


@misconception(
    "lsoftmax",
    hint="The steps go up: the 2k is to be subtracted.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    c = cos_theta
    with torch.no_grad():
        k = (m * torch.acos(c.clamp(-1, 1)) / math.pi).floor().clamp(max=m - 1)
        sign = 1 - 2 * (k % 2)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return sign * now + 2 * k


@misconception(
    "lsoftmax",
    hint="Each step should be 2, the whole height of a cosine: subtract 2k.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    c = cos_theta
    with torch.no_grad():
        k = (m * torch.acos(c.clamp(-1, 1)) / math.pi).floor().clamp(max=m - 1)
        sign = 1 - 2 * (k % 2)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return sign * now - k


@misconception(
    "lsoftmax",
    hint="At θ = π the floor gives k = m, which is one interval too far: the slope there has the "
    "wrong sign.",
)
def psi(cos_theta, m):
    if m < 1:
        raise ValueError("m")
    c = cos_theta
    with torch.no_grad():
        k = (m * torch.acos(c.clamp(-1, 1)) / math.pi).floor()
        sign = 1 - 2 * (k % 2)
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return sign * now - 2 * k


@misconception(
    "lsoftmax",
    hint="A feature of zeros gives 0/0. Keep the product of the lengths away from 0 before you "
    "divide.",
)
def lsoftmax_logits(x, W, y, m):
    if m < 1:
        raise ValueError("m")
    z = x @ W.T
    own = z.gather(1, y[:, None])
    norms = (x.norm(dim=1) * W[y].norm(dim=1))[:, None]
    cos = own / norms
    return z.scatter(1, y[:, None], norms * psi(cos, m))


@misconception(
    "lsoftmax",
    hint="psi gets the logit itself. It wants the cosine: divide by both lengths first, and "
    "multiply by them afterwards.",
)
def lsoftmax_logits(x, W, y, m):
    if m < 1:
        raise ValueError("m")
    z = x @ W.T
    own = z.gather(1, y[:, None])
    return z.scatter(1, y[:, None], psi(own, m))
