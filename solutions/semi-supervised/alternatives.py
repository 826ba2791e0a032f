"""Other right answers in the chapter on semi-supervised learning."""

import copy
import math

import torch
import torch.nn.functional as F

from course.testing import alternative

# Names of the chapter's set-up cells, which the answers below use.
make_net = perturb = LR = WEIGHT = RAMP = ALPHA = None


@alternative("pi")
def pi_loss(model, x, y, labelled_mask, w, noise):
    # Unknown classes become the index that cross_entropy ignores; the sum is divided by hand.
    if labelled_mask.dtype is not torch.bool:
        raise ValueError("labelled_mask should be a bool tensor")
    logits = model(noise(x))
    target = torch.where(labelled_mask, y, -100)
    labelled = F.cross_entropy(logits, target, reduction="sum") / labelled_mask.sum().clamp(min=1)
    return labelled + w * F.mse_loss(logits.softmax(-1), model(noise(x)).softmax(-1))


@alternative("ramp")
def ramp(epoch, length):
    # Decide by cases instead of clipping.
    if length < 0:
        raise ValueError("length is negative")
    if epoch >= length:
        return 1.0
    if epoch <= 0:
        return math.exp(-5.0) if length else 1.0
    return math.e ** (-5.0 * ((length - epoch) / length) ** 2)


@alternative("temporal")
class Ensemble:
    # Keep the sum of the weights by the same recursion as the average; lists of rows for an epoch.
    def __init__(self, n, classes, alpha):
        if alpha < 0 or alpha >= 1:
            raise ValueError("alpha is not in [0, 1)")
        self.alpha = alpha
        self.average = torch.zeros(n, classes)
        self.weight = torch.zeros(n)
        self.noted = {}

    def target(self, idx):
        rows = idx.tolist()
        weight = self.weight[rows].clone()
        weight[weight == 0] = 1
        return (self.average[rows] / weight[:, None]).to(idx.device)

    def update(self, idx, z):
        for i, row in zip(idx.tolist(), z.detach().to("cpu", torch.float32)):
            self.noted.setdefault(i, []).append(row)

    def end_epoch(self):
        for i, rows in self.noted.items():
            mean = torch.stack(rows).mean(0)
            self.average[i] = self.alpha * self.average[i] + (1 - self.alpha) * mean
            self.weight[i] = self.alpha * self.weight[i] + (1 - self.alpha)
        self.noted = {}


@alternative("temporal")
class Ensemble:
    # No moving average at all: keep the corrected mean itself, and move it by its share.
    def __init__(self, n, classes, alpha):
        if not (0 <= alpha < 1):
            raise ValueError("alpha is not in [0, 1)")
        self.alpha, self.mean = alpha, torch.zeros(n, classes, dtype=torch.float64)
        self.weight = torch.zeros(n, dtype=torch.float64)  # 1 + alpha + alpha² + …
        self.end_epoch_sums()

    def end_epoch_sums(self):
        self.sums, self.counts = torch.zeros_like(self.mean), torch.zeros_like(self.weight)

    def target(self, idx):
        return self.mean[idx.cpu()].float().to(idx.device)

    def update(self, idx, z):
        for i, row in zip(idx.tolist(), z.detach().cpu().double()):
            self.sums[i] += row
            self.counts[i] += 1

    def end_epoch(self):
        for i in self.counts.nonzero()[:, 0].tolist():
            self.weight[i] = self.alpha * self.weight[i] + 1
            self.mean[i] += (self.sums[i] / self.counts[i] - self.mean[i]) / self.weight[i]
        self.end_epoch_sums()


@alternative("ema")
class MeanTeacher:
    # By names, through state_dicts; lerp_ moves by the share of the new value.
    def __init__(self, student, alpha):
        if alpha < 0 or alpha > 1:
            raise ValueError("alpha is not in [0, 1]")
        self.alpha, self.source = alpha, student
        self.teacher = copy.deepcopy(student)
        for p in self.teacher.parameters():
            p.requires_grad_(False)

    def update(self, step):
        share = max(1 / (step + 1), 1 - self.alpha)
        learned = {name for name, _ in self.source.named_parameters()}
        new, own = self.source.state_dict(), self.teacher.state_dict()
        with torch.no_grad():
            for name, value in own.items():
                if name in learned:
                    value.lerp_(new[name], share)
                else:
                    value.copy_(new[name])


@alternative("pseudo")
def pseudo_labels(probs, threshold, cap=None):
    # Class by class, with topk-like sorting; chosen rows are collected and sorted at the end.
    if not torch.allclose(probs.sum(1), torch.ones_like(probs[:, 0]), rtol=0, atol=1e-3):
        raise ValueError("not probabilities")
    confidence, labels = probs.amax(1), probs.argmax(1)
    chosen = []
    for c in range(probs.shape[1]):
        rows = ((labels == c) & (confidence >= threshold)).nonzero().flatten()
        if cap is not None:
            rows = rows[torch.sort(-confidence[rows], stable=True).indices[:cap]]
        chosen.append(rows)
    idx = torch.sort(torch.cat(chosen)).values
    return idx, labels[idx]


@alternative("pseudo")
def guard(idx, test_idx):
    forbidden = set(test_idx.tolist())
    found = [i for i in idx.tolist() if i in forbidden]
    if found:
        raise ValueError(f"the selection holds {len(found)} test examples")
    return idx


@alternative("moons")
def train_semi(X, y, labelled, method, steps, seed):
    # A function for each method's target; the average moves by lerp_.
    def target_of_pi():
        return net(perturb(X)).softmax(-1)

    @torch.no_grad()
    def target_of_teacher():
        return teacher(perturb(X)).softmax(-1)

    targets = {"supervised": None, "pi": target_of_pi, "mean-teacher": target_of_teacher}
    if method not in targets:
        raise ValueError(f"unknown method {method}")
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), LR)
    length = RAMP * steps
    for t in range(steps):
        optimizer.zero_grad()
        logits = net(perturb(X))
        loss = F.cross_entropy(logits[labelled], y[labelled])
        if targets[method]:
            rise = math.exp(-5 * max(1 - t / length, 0) ** 2)
            loss = loss + WEIGHT * rise * F.mse_loss(logits.softmax(-1), targets[method]())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), net.parameters()):
                slow.lerp_(fast, max(1 / (t + 1), 1 - ALPHA))
    return teacher if method == "mean-teacher" else net
