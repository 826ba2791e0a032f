"""Other right answers in the chapter on metrics, class imbalance and model selection."""

import math

import torch
import torch.nn.functional as F

from course.testing import alternative


@alternative("binary")
def confusion(y, p):
    if len(y) != len(p):
        raise ValueError("different lengths")
    table = torch.zeros(2, 2, dtype=torch.int64, device=y.device)
    for a, b in zip(y.tolist(), p.tolist(), strict=True):
        if a not in (0, 1) or b not in (0, 1):
            raise ValueError("labels should be 0 or 1")
        table[int(a), int(b)] += 1
    return table


@alternative("binary")
def report(y, p, zero_division=0.0, beta=1.0):
    if y.shape != p.shape or not all(v in (0, 1) for v in y.tolist() + p.tolist()):
        raise ValueError("labels should be 0 or 1")
    y, p = y.double(), p.double()

    def mean(values):
        return values.mean().item() if len(values) else float(zero_division)

    precision, recall = mean(y[p == 1]), mean(p[y == 1])
    if y.sum() == 0 and p.sum() == 0 or beta == 0 and p.sum() == 0:
        fscore = float(zero_division)
    elif (y * p).sum() == 0:
        fscore = 0.0
    else:
        fscore = (1 + beta**2) / (1 / precision + beta**2 / recall)
    return {
        "accuracy": mean((y == p).double()),
        "precision": precision,
        "recall": recall,
        "specificity": mean(1 - p[y == 0]),
        "fscore": fscore,
    }


@alternative("curves")
def pr_curve(y, s):
    if len(set(y.tolist())) < 2:
        raise ValueError("one class")
    thresholds = s.unique().flip(0)
    called = s >= thresholds[:, None]
    found = (called & (y == 1)).sum(1).to(s)
    return found / called.sum(1), found / (y == 1).sum(), thresholds


@alternative("curves")
def average_precision(y, s):
    if len(set(y.tolist())) < 2:
        raise ValueError("one class")
    pos = s[y == 1]
    above = (s >= pos[:, None]).sum(1)  # for each positive: who gets over the line with it
    found = (pos >= pos[:, None]).sum(1)
    return (found / above).double().mean().item()


@alternative("curves")
def roc_auc(y, s):
    if len(set(y.tolist())) < 2:
        raise ValueError("one class")
    _, group, size = s.unique(return_inverse=True, return_counts=True)
    rank = size.cumsum(0) - (size - 1) / 2  # the mean rank of each tie
    n1, n0 = int((y == 1).sum()), int((y == 0).sum())
    total = rank[group][y == 1].double().sum().item()
    return (total - n1 * (n1 + 1) / 2) / (n1 * n0)


@alternative("curves")
def roc_auc(y, s):
    if len(set(y.tolist())) < 2:
        raise ValueError("one class")
    called = (s >= s.unique().flip(0)[:, None]).double()
    zero = torch.zeros(1, dtype=torch.float64, device=s.device)
    tpr = torch.cat([zero, called[:, y == 1].mean(1)])
    fpr = torch.cat([zero, called[:, y == 0].mean(1)])
    return torch.trapezoid(tpr, fpr).item()


@alternative("focal")
def focal(z, y, alpha=0.25, gamma=2.0, reduction="none"):
    reduce = {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}
    if reduction not in reduce:
        raise ValueError(reduction)
    positive = y == 1
    u = torch.where(positive, z, -z)
    loss = F.softplus(-u) * torch.exp(-gamma * F.softplus(u))
    if alpha >= 0:
        loss = torch.where(positive, alpha, 1 - alpha).to(z) * loss
    return reduce[reduction](loss)


@alternative("focal")
def prior_bias(pi):
    if pi <= 0 or pi >= 1:
        raise ValueError(pi)
    return math.log(pi) - math.log1p(-pi)


@alternative("smote")
def smote(X, k, n, rng):
    N = len(X)
    if k < 1 or k >= N:
        raise ValueError(k)
    order = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist")
    order = (order + torch.diag(torch.full((N,), math.inf, dtype=X.dtype))).argsort(1)
    new = []
    for _ in range(n):
        i = torch.randint(N, (), generator=rng)
        j = order[i, torch.randint(k, (), generator=rng)]
        t = torch.rand((), generator=rng, dtype=X.dtype)
        new.append((1 - t) * X[i] + t * X[j])
    return torch.stack(new)


@alternative("smote")
def tomek_links(X, y):
    n = len(X)
    near = []
    for i in range(n):
        far = ((X - X[i]) ** 2).sum(1)
        far[i] = math.inf
        near.append(int(far.argmin()))
    links = [(i, near[i]) for i in range(n) if i < near[i] and near[near[i]] == i]
    links = [pair for pair in links if y[pair[0]] != y[pair[1]]]
    return torch.tensor(links, dtype=torch.int64, device=X.device).reshape(-1, 2)


@alternative("resample")
def oversample(y, rng):
    labels = y.tolist()
    rows = {c: [i for i, label in enumerate(labels) if label == c] for c in set(labels)}
    most = max(map(len, rows.values()))
    plan = []
    for own in rows.values():
        draw = torch.randint(0, len(own), (most - len(own),), generator=rng).tolist()
        plan += own + [own[i] for i in draw]
    return torch.tensor(plan)


@alternative("resample")
def undersample(y, clusters, rng):
    pools = {}
    for i in torch.randperm(len(y), generator=rng).tolist():
        pools.setdefault(int(y[i]), {}).setdefault(int(clusters[i]), []).append(i)
    keep = min(sum(map(len, groups.values())) for groups in pools.values())
    plan = []
    for groups in pools.values():
        if len(groups) > keep:
            raise ValueError("too many clusters")
        taken = []
        while len(taken) < keep:
            for pool in groups.values():
                if pool and len(taken) < keep:
                    taken.append(pool.pop())
        plan += taken
    return torch.tensor(plan)


@alternative("kfold")
def kfold(n, k, rng):
    if k < 2 or k > n:
        raise ValueError(k)
    parts = torch.randperm(n, generator=rng).tensor_split(k)
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(k)]


@alternative("kfold")
def stratified_kfold(y, k, rng):
    if k < 2 or k > len(y):
        raise ValueError(k)
    order = []
    for c in y.unique():
        own = (y == c).nonzero()[:, 0]
        order.append(own[torch.randperm(len(own), generator=rng)])
    order = torch.cat(order)
    parts = [order[f::k] for f in range(k)]
    return [(torch.cat([*parts[:f], *parts[f + 1 :]]), parts[f]) for f in range(k)]


@alternative("vc")
def can_shatter(points):
    # Shattered means: the rows (x, 1) are linearly independent.
    rows = torch.cat([points.double(), torch.ones(len(points), 1, dtype=torch.float64)], 1)
    return torch.linalg.matrix_rank(rows).item() == len(points)
