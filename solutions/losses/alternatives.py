"""Other right answers in the chapter on loss functions."""

import itertools
import math

import torch
import torch.nn.functional as F

from course.testing import alternative


@alternative("regression")
def reg_loss(kind, x, y, beta=1.0, reduction="mean"):
    # SmoothL1 by clamping: the part of the error within beta is squared, the rest is linear.
    if tuple(x.shape) != tuple(y.shape) or reduction not in ("none", "sum", "mean"):
        raise ValueError("shapes or reduction")
    size = torch.abs(y - x)
    inner = size.clamp(max=beta)
    huber = inner**2 / 2 + beta * (size - inner)
    table = {"l1": size, "mse": size * size, "huber": huber}
    table["smooth_l1"] = huber / beta if beta else size
    if kind not in table:
        raise ValueError("kind")
    loss = table[kind]
    if reduction == "none":
        return loss
    return loss.sum() / (loss.numel() if reduction == "mean" else 1)


@alternative("ce")
def cross_entropy(logits, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    # With a whole matrix of targets, and only the rows that count.
    if reduction not in ("none", "sum", "mean"):
        raise ValueError("reduction")
    classes = logits.shape[1]
    w = torch.ones(classes).to(logits) if weight is None else weight
    keep = (y != ignore_index).nonzero()[:, 0]
    kept = y[keep]
    target = F.one_hot(kept, classes).to(logits) * (1 - label_smoothing)
    target = target + label_smoothing / classes
    prices = -(target * w * torch.log_softmax(logits[keep], dim=1)).sum(1)
    if reduction == "mean":
        return prices.sum() / w[kept].sum()
    if reduction == "sum":
        return prices.sum()
    return torch.zeros_like(logits[:, 0]).index_put((keep,), prices)


@alternative("bce")
def bce(p, y, weight=None):
    # Clamp inside the logarithm where it can matter; only then multiply.
    if p.shape != y.shape:
        raise ValueError("shapes")
    if p.numel() and (p.min() < 0 or p.max() > 1):
        raise ValueError("no probability")
    log_p = torch.maximum(torch.log(p), torch.full_like(p, -100))
    log_q = torch.maximum(torch.log1p(-p), torch.full_like(p, -100))
    loss = y * log_p + (1 - y) * log_q
    if weight is not None:
        loss = loss * weight
    return -loss.sum() / p.numel()


@alternative("bce")
def bce_logits(z, y, pos_weight=None, weight=None):
    # The library's own form: (1 - y) z + (1 + (c - 1) y) softplus(-z).
    if z.shape != y.shape:
        raise ValueError("shapes")
    factor = torch.ones_like(z) if pos_weight is None else 1 + (pos_weight - 1) * y
    loss = (1 - y) * z - factor * F.logsigmoid(z)
    weight = torch.ones_like(z) if weight is None else weight
    return torch.mean(loss * weight)


@alternative("distribution")
def poisson_nll(x, t, log_input=True, full=False):
    # Stirling's term for the large counts only, written into a tensor of zeros.
    loss = torch.exp(x) - t * x if log_input else x - t * torch.log(x + 1e-8)
    if full:
        term = torch.zeros_like(t)
        large = t[t > 1]
        term[t > 1] = (large + 0.5) * large.log() - large + 0.5 * math.log(2 * math.pi)
        loss = loss + term
    return loss.sum() / loss.numel()


@alternative("distribution")
def kl_div(logq, p, reduction="batchmean"):
    # log p with a 1 in place of 0, which gives 0 * log 1 = 0.
    safe = torch.where(p > 0, p, torch.ones_like(p))
    loss = p * (safe.log() - logq)
    if reduction == "none":
        return loss
    counts = {"sum": 1, "mean": loss.numel(), "batchmean": loss.shape[0]}
    if reduction not in counts:
        raise ValueError("reduction")
    return loss.sum() / counts[reduction]


@alternative("margin")
def margin_loss(kind, x, y, other=None, margin=None, p=1, weight=None):
    def signed():
        if not bool(((y == 1) | (y == -1)).all()):
            raise ValueError("signs")

    if kind == "ranking":
        signed()
        return F.relu(-y * (x - other) + (0.0 if margin is None else margin)).mean()
    if kind == "soft_margin":
        signed()
        return -F.logsigmoid(y * x).mean()
    if kind == "multilabel_soft_margin":
        loss = -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))
        return (loss * (1 if weight is None else weight)).mean(1).mean()
    if kind == "multi_margin":
        if any(not 0 <= c < x.shape[1] for c in y.tolist()):
            raise ValueError("class")
        total = 0
        for row, c in zip(x, y.tolist(), strict=True):
            factor = 1 if weight is None else weight[c]
            for i in range(len(row)):
                if i != c:
                    gap = (1 if margin is None else margin) - row[c] + row[i]
                    total = total + factor * F.relu(gap) ** p
        return total / x.numel()
    if kind == "multilabel_margin":
        if any(not -1 <= c < x.shape[1] for c in y.flatten().tolist()):
            raise ValueError("class")
        total = 0 * x.sum()
        for row, labels in zip(x, y.tolist(), strict=True):
            own = list(itertools.takewhile(lambda c: c >= 0, labels))
            rest = [i for i in range(len(row)) if i not in own]
            for c, i in itertools.product(own, rest):
                total = total + F.relu(1 - row[c] + row[i])
        return total / x.numel()
    raise ValueError("kind")


@alternative("metric")
def triplet(a, p, n, margin=1.0, swap=False):
    # With the library's distance; the hinge as a where.
    near, far = F.pairwise_distance(a, p), F.pairwise_distance(a, n)
    if swap:
        other = F.pairwise_distance(p, n)
        far = torch.where(other < far, other, far)
    return F.relu(near + margin - far).sum() / len(a)


@alternative("metric")
def hinge_embed(d, y, margin=1.0):
    if set(y.flatten().tolist()) - {1, -1}:
        raise ValueError("labels")
    alike = (1 + y) / 2
    return (alike * d + (1 - alike) * F.relu(margin - d)).mean()


@alternative("metric")
def cos_embed(a, b, y, margin=0.0):
    # Unit vectors first.
    if set(y.tolist()) - {1, -1}:
        raise ValueError("labels")
    cos = (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)
    alike = (1 + y) / 2
    return (alike * (1 - cos) + (1 - alike) * F.relu(cos - margin)).mean()


@alternative("ctc")
def ctc_nll(log_probs, target, blank=0, zero_infinity=False):
    # Backwards in time, from the last states to the first, by recursion with a memory.
    labels = target.tolist()
    if blank in labels:
        raise ValueError("blank")
    state = [blank] + [c for label in labels for c in (label, blank)]
    last = len(log_probs) - 1
    memory = {}

    def rest(t, s):
        """The log-probability of all ends of paths that are in state s at time t, or None."""
        if (t, s) not in memory:
            if t == last:
                ways = [0.0 * log_probs[t, 0]] if s >= len(state) - 2 else []
            else:
                steps = [s, s + 1]
                if s + 2 < len(state) and state[s + 2] not in (blank, state[s]):
                    steps.append(s + 2)
                ways = [rest(t + 1, r) for r in steps if r < len(state)]
                ways = [way for way in ways if way is not None]
            memory[t, s] = (
                torch.logsumexp(torch.stack(ways), 0) + log_probs[t, state[s]] if ways else None
            )
        return memory[t, s]

    starts = [rest(0, s) for s in range(min(2, len(state)))]
    starts = [start for start in starts if start is not None]
    if starts:
        return -torch.logsumexp(torch.stack(starts), 0)
    return log_probs.new_tensor(0.0 if zero_infinity else math.inf)


@alternative("lsoftmax")
def psi(cos_theta, m):
    # Which interval: count the seams cos(k pi / m) that the cosine has fallen below.
    if m < 1:
        raise ValueError("m")
    seams = [math.cos(k * math.pi / m) for k in range(1, m)]
    k = sum((cos_theta.detach() < seam).to(cos_theta.dtype) for seam in seams)
    k = k if seams else torch.zeros_like(cos_theta)
    powers = [1.0, cos_theta]
    for _ in range(m - 1):
        powers.append(2 * cos_theta * powers[-1] - powers[-2])
    return (1 - 2 * (k % 2)) * powers[m] - 2 * k


@alternative("lsoftmax")
def lsoftmax_logits(x, W, y, m):
    # De Moivre: cos(m θ) is a sum over even powers of the sine.
    if m < 1:
        raise ValueError("m")
    plain = F.linear(x, W)
    size = x.norm(dim=1, keepdim=True) * W.norm(dim=1)
    mask = F.one_hot(y, len(W)).bool()
    c = plain[mask] / size[mask].clamp(min=1e-30)
    cos_m = sum(math.comb(m, 2 * n) * c ** (m - 2 * n) * (c**2 - 1) ** n for n in range(m // 2 + 1))
    k = (torch.acos(c.detach().clamp(-1, 1)) * m / math.pi).floor()
    own = size[mask] * ((1 - 2 * (k % 2)) * cos_m - 2 * k)
    return torch.where(mask, own[:, None], plain)
