"""Wrong answers in the chapter on semi-supervised learning, each with the hint it deserves."""

import copy
import math

import torch
import torch.nn.functional as F

from course.testing import misconception

# Names of the chapter's set-up cells, which the answers below use.
make_net = perturb = LR = WEIGHT = RAMP = ALPHA = None

# --- pi --------------------------------------------------------------------------------------


@misconception(
    "pi",
    hint="Both passes see the same noise, so they always agree and the consistency is zero. "
    "The noise has to be drawn anew for the second pass.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    noisy = noise(x)
    first, second = model(noisy), model(noisy)
    loss = w * (first.softmax(-1) - second.softmax(-1)).square().mean()
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


@misconception(
    "pi",
    hint="The second pass is detached, so the gradient flows through the first one only. "
    "That halves the weight of the consistency; here both passes should get their gradient.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first = model(noise(x))
    with torch.no_grad():
        second = model(noise(x))
    loss = w * (first.softmax(-1) - second.softmax(-1)).square().mean()
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


@misconception(
    "pi",
    hint="The consistency compares logits. Two logits can be far apart where the probabilities "
    "hardly differ; take the softmax of both first.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first, second = model(noise(x)), model(noise(x))
    loss = w * F.mse_loss(first, second)
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


@misconception(
    "pi",
    hint="The consistency uses only the rows without a label. It needs no label, but it is "
    "meant for all rows of the batch.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first, second = model(noise(x)), model(noise(x))
    gap = first.softmax(-1) - second.softmax(-1)
    loss = w * gap[~labelled_mask].square().sum() / max(gap[~labelled_mask].numel(), 1)
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


@misconception(
    "pi",
    hint="What is the mean over no rows? Without a labelled row in the batch, the cross-entropy "
    "becomes NaN and takes the whole network with it.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first, second = model(noise(x)), model(noise(x))
    gap = (first.softmax(-1) - second.softmax(-1)).square().mean()
    return F.cross_entropy(first[labelled_mask], y[labelled_mask]) + w * gap


@misconception(
    "pi",
    hint="`F.cross_entropy` takes logits and does the softmax itself. Here it is given "
    "probabilities, so the softmax is taken twice.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first, second = model(noise(x)).softmax(-1), model(noise(x)).softmax(-1)
    loss = w * (first - second).square().mean()
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


@misconception(
    "pi",
    hint="The second pass sees the input as it is. Both passes get noise, each its own: two noisy "
    "answers should agree.",
)
def pi_loss(model, x, y, labelled_mask, w, noise):
    if labelled_mask.dtype != torch.bool:
        raise ValueError("bool, please")
    first, second = model(noise(x)), model(x)
    loss = w * (first.softmax(-1) - second.softmax(-1)).square().mean()
    if labelled_mask.any():
        loss = loss + F.cross_entropy(first[labelled_mask], y[labelled_mask])
    return loss


# --- ramp ------------------------------------------------------------------------------------


@misconception(
    "ramp",
    hint="The ramp is upside down: it starts at 1 and falls. What is missing to the end of the "
    "ramp should be in the exponent, not what has been covered.",
)
def ramp(epoch, length):
    if length < 0:
        raise ValueError("negative length")
    if length == 0:
        return 1.0
    return math.exp(-5 * (min(max(epoch, 0), length) / length) ** 2)


@misconception(
    "ramp",
    hint="The Gaussian falls again on its other side. After the ramp the value should stay 1, "
    "so bring the epoch into the range first.",
)
def ramp(epoch, length):
    if length < 0:
        raise ValueError("negative length")
    if length == 0:
        return 1.0
    return math.exp(-5 * (1 - max(epoch, 0) / length) ** 2)


@misconception(
    "ramp",
    hint="This ramp is a straight line. The one of the paper is a piece of a Gaussian curve: small "
    "for long, and flat at its end.",
)
def ramp(epoch, length):
    if length < 0:
        raise ValueError("negative length")
    return 1.0 if length == 0 else min(max(epoch, 0), length) / length


@misconception(
    "ramp",
    hint="A ramp of length 0 is over before it begins: its value is 1, without a division.",
)
def ramp(epoch, length):
    if length < 0:
        raise ValueError("negative length")
    return math.exp(-5 * (1 - min(max(epoch, 0), length) / length) ** 2)


# --- temporal --------------------------------------------------------------------------------


@misconception(
    "temporal",
    hint="The average starts from zero, so after t epochs its weights add up to 1 - alpha ** t "
    "only. The target should divide by that.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha = alpha
        self.Z, self.total = torch.zeros(n, classes), torch.zeros(n, classes)
        self.count = torch.zeros(n, 1)

    def target(self, idx):
        return self.Z[idx.cpu()].to(idx.device)

    def update(self, idx, z):
        self.total.index_add_(0, idx.cpu(), z.detach().cpu().float())
        self.count.index_add_(0, idx.cpu(), torch.ones(len(idx), 1))

    def end_epoch(self):
        seen = self.count[:, 0] > 0
        mean = self.total[seen] / self.count[seen]
        self.Z[seen] = self.alpha * self.Z[seen] + (1 - self.alpha) * mean
        self.total.zero_()
        self.count.zero_()


@misconception(
    "temporal",
    hint="One counter serves all examples. An example that was not shown in an epoch has fewer "
    "outputs in its average than the counter says; count for each example.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha, self.t = alpha, 0
        self.Z, self.total = torch.zeros(n, classes), torch.zeros(n, classes)
        self.count = torch.zeros(n, 1)

    def target(self, idx):
        weight = 1 - self.alpha**self.t if self.t else 1.0
        return (self.Z[idx.cpu()] / weight).to(idx.device)

    def update(self, idx, z):
        self.total.index_add_(0, idx.cpu(), z.detach().cpu().float())
        self.count.index_add_(0, idx.cpu(), torch.ones(len(idx), 1))

    def end_epoch(self):
        seen = self.count[:, 0] > 0
        mean = self.total[seen] / self.count[seen]
        self.Z[seen] = self.alpha * self.Z[seen] + (1 - self.alpha) * mean
        self.t += 1
        self.total.zero_()
        self.count.zero_()


@misconception(
    "temporal",
    hint="The averages move at every update, so a target changes in the middle of an epoch and an "
    "example that is noted twice moves twice. Collect the outputs, and move at end_epoch.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha = alpha
        self.Z, self.epochs = torch.zeros(n, classes), torch.zeros(n, 1)

    def target(self, idx):
        weight = 1 - self.alpha ** self.epochs[idx.cpu()]
        return (self.Z[idx.cpu()] / weight.clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        at = idx.cpu()
        self.Z[at] = self.alpha * self.Z[at] + (1 - self.alpha) * z.detach().cpu().float()
        self.epochs[at] += 1

    def end_epoch(self):
        pass


@misconception(
    "temporal",
    hint="alpha is the share of the *old* average that is kept. Here it goes to the new output.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha = alpha
        self.Z, self.weight = torch.zeros(n, classes), torch.zeros(n, 1)
        self.total, self.count = torch.zeros(n, classes), torch.zeros(n, 1)

    def target(self, idx):
        at = idx.cpu()
        return (self.Z[at] / self.weight[at].clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        self.total.index_add_(0, idx.cpu(), z.detach().cpu().float())
        self.count.index_add_(0, idx.cpu(), torch.ones(len(idx), 1))

    def end_epoch(self):
        seen = self.count[:, 0] > 0
        mean = self.total[seen] / self.count[seen]
        self.Z[seen] = (1 - self.alpha) * self.Z[seen] + self.alpha * mean
        self.weight[seen] = (1 - self.alpha) * self.weight[seen] + self.alpha
        self.total.zero_()
        self.count.zero_()


@misconception(
    "temporal",
    hint="An example that is missing in an epoch is treated as if its output were zero. It should "
    "keep its average and its number of epochs.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha, self.t = alpha, torch.zeros(n, 1)
        self.Z, self.total = torch.zeros(n, classes), torch.zeros(n, classes)
        self.count = torch.zeros(n, 1)

    def target(self, idx):
        weight = 1 - self.alpha ** self.t[idx.cpu()]
        return (self.Z[idx.cpu()] / weight.clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        self.total.index_add_(0, idx.cpu(), z.detach().cpu().float())
        self.count.index_add_(0, idx.cpu(), torch.ones(len(idx), 1))

    def end_epoch(self):
        self.Z = self.alpha * self.Z + (1 - self.alpha) * self.total / self.count.clamp(min=1)
        self.t += 1
        self.total.zero_()
        self.count.zero_()


@misconception(
    "temporal",
    hint="`total[idx] += z` reads, adds and writes once for each row of idx, so of an example that "
    "stands there twice only the last output is kept. `index_add_` adds them all.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha, self.t = alpha, torch.zeros(n, 1)
        self.Z, self.total = torch.zeros(n, classes), torch.zeros(n, classes)
        self.count = torch.zeros(n, 1)

    def target(self, idx):
        weight = 1 - self.alpha ** self.t[idx.cpu()]
        return (self.Z[idx.cpu()] / weight.clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        self.total[idx.cpu()] += z.detach().cpu().float()
        self.count[idx.cpu()] += 1

    def end_epoch(self):
        seen = self.count[:, 0] > 0
        mean = self.total[seen] / self.count[seen]
        self.Z[seen] = self.alpha * self.Z[seen] + (1 - self.alpha) * mean
        self.t[seen] += 1
        self.total.zero_()
        self.count.zero_()


@misconception(
    "temporal",
    hint="Of an example that is noted several times in an epoch only the last output counts. Add "
    "the outputs up, count them, and take their mean at end_epoch.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha, self.t = alpha, torch.zeros(n, 1)
        self.Z, self.new = torch.zeros(n, classes), torch.zeros(n, classes)
        self.seen = torch.zeros(n, dtype=torch.bool)

    def target(self, idx):
        weight = 1 - self.alpha ** self.t[idx.cpu()]
        return (self.Z[idx.cpu()] / weight.clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        self.new[idx.cpu()] = z.detach().cpu().float()
        self.seen[idx.cpu()] = True

    def end_epoch(self):
        at = self.seen
        self.Z[at] = self.alpha * self.Z[at] + (1 - self.alpha) * self.new[at]
        self.t[at] += 1
        self.seen[:] = False


@misconception(
    "temporal",
    hint="The outputs are kept with their graph, so the target has a gradient, and every epoch's "
    "graph stays in memory. `detach` what you note.",
)
class Ensemble:
    def __init__(self, n, classes, alpha):
        if not 0 <= alpha < 1:
            raise ValueError("alpha")
        self.alpha, self.t = alpha, torch.zeros(n, 1)
        self.Z, self.total = torch.zeros(n, classes), torch.zeros(n, classes)
        self.count = torch.zeros(n, 1)

    def target(self, idx):
        weight = 1 - self.alpha ** self.t[idx.cpu()]
        return (self.Z[idx.cpu()] / weight.clamp(min=1e-12)).to(idx.device)

    def update(self, idx, z):
        self.total = self.total.index_add(0, idx.cpu(), z.cpu().float())
        self.count.index_add_(0, idx.cpu(), torch.ones(len(idx), 1))

    def end_epoch(self):
        seen = self.count > 0
        mean = self.total / self.count.clamp(min=1)
        self.Z = torch.where(seen, self.alpha * self.Z + (1 - self.alpha) * mean, self.Z)
        self.t += seen
        self.total = torch.zeros_like(self.total)
        self.count.zero_()


# --- ema -------------------------------------------------------------------------------------


@misconception(
    "ema",
    hint="The teacher is a second name for the student, so it is trained like it and averages "
    "nothing. It should be a copy with memory of its own.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.teacher, self.alpha = student, student, alpha

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(a).add_((1 - a) * p)


@misconception(
    "ema",
    hint="`q = …` gives a new tensor the name q and forgets it at the next turn of the loop; the "
    "teacher's own tensors never change. Change them in place.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q = a * q + (1 - a) * p
        for q, p in zip(self.teacher.buffers(), self.student.buffers()):
            q.copy_(p)


@misconception(
    "ema",
    hint="The warm-up is missing: with a constant factor the teacher carries the random weights "
    "of the start around for a long time.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(self.alpha).add_((1 - self.alpha) * p)
        for q, p in zip(self.teacher.buffers(), self.student.buffers()):
            q.copy_(p)


@misconception(
    "ema",
    hint="The buffers are left behind. The teacher's batch normalisation would go on with the "
    "statistics of the first day; copy them from the student.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(a).add_((1 - a) * p)


@misconception(
    "ema",
    hint="The teacher's parameters still require grad, so its passes build graphs, and an "
    "optimiser or a loss may change it. It should only follow.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(a).add_((1 - a) * p)
        for q, p in zip(self.teacher.buffers(), self.student.buffers()):
            q.copy_(p)


@misconception(
    "ema",
    hint="The factor belongs to the teacher's old value. Here the student's weight gets it, so "
    "the teacher jumps with the student once the warm-up is over.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(1 - a).add_(a * p)
        for q, p in zip(self.teacher.buffers(), self.student.buffers()):
            q.copy_(p)


@misconception(
    "ema",
    hint="The teacher's own first weights count as one term of the mean: step counts from 0, so "
    "the first factor is 1 - 1 / 1 = 0 and the first update is a copy.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 2), self.alpha)
        for q, p in zip(self.teacher.parameters(), self.student.parameters()):
            q.mul_(a).add_((1 - a) * p)
        for q, p in zip(self.teacher.buffers(), self.student.buffers()):
            q.copy_(p)


@misconception(
    "ema",
    hint="The buffers are averaged like the weights. The running statistics are moving averages "
    "already, and the counter is a whole number; copy them.",
)
class MeanTeacher:
    def __init__(self, student, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha")
        self.student, self.alpha = student, alpha
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, step):
        a = min(1 - 1 / (step + 1), self.alpha)
        pairs = zip(self.teacher.state_dict().values(), self.student.state_dict().values())
        for q, p in pairs:
            q.copy_(a * q + (1 - a) * p)


# --- pseudo ----------------------------------------------------------------------------------


@misconception(
    "pseudo",
    hint="A row that has exactly the threshold is kept as well: at least, not more than.",
)
def pseudo_labels(probs, threshold, cap=None):
    if ((probs.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError("logits?")
    confidence, labels = probs.max(-1)
    keep = confidence > threshold
    if cap is not None:
        order = confidence.argsort(descending=True, stable=True)
        order = order[keep[order]]
        for c in range(probs.shape[1]):
            keep[order[labels[order] == c][cap:]] = False
    idx = keep.nonzero()[:, 0]
    return idx, labels[idx]


@misconception(
    "pseudo",
    hint="The cap keeps the first rows of each class, not the most confident ones. Sort by "
    "confidence before you cut.",
)
def pseudo_labels(probs, threshold, cap=None):
    if ((probs.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError("logits?")
    confidence, labels = probs.max(-1)
    keep = confidence >= threshold
    if cap is not None:
        for c in range(probs.shape[1]):
            keep[(keep & (labels == c)).nonzero()[cap:, 0]] = False
    idx = keep.nonzero()[:, 0]
    return idx, labels[idx]


@misconception(
    "pseudo",
    hint="The cap is counted over all classes together. It is meant for each predicted class, so "
    "that an easy class cannot crowd out the others.",
)
def pseudo_labels(probs, threshold, cap=None):
    if ((probs.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError("logits?")
    confidence, labels = probs.max(-1)
    order = confidence.argsort(descending=True, stable=True)
    order = order[confidence[order] >= threshold][:cap]
    idx = order.sort().values
    return idx, labels[idx]


@misconception(
    "pseudo",
    hint="The labels belong to all rows; return those of the chosen rows only, in the order of idx.",
)
def pseudo_labels(probs, threshold, cap=None):
    if ((probs.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError("logits?")
    confidence, labels = probs.max(-1)
    keep = confidence >= threshold
    if cap is not None:
        order = confidence.argsort(descending=True, stable=True)
        order = order[keep[order]]
        for c in range(probs.shape[1]):
            keep[order[labels[order] == c][cap:]] = False
    return keep.nonzero()[:, 0], labels


@misconception(
    "pseudo",
    hint="The rows come in the order of their confidence. Put them back in ascending order, and "
    "their labels with them.",
)
def pseudo_labels(probs, threshold, cap=None):
    if ((probs.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError("logits?")
    confidence, labels = probs.max(-1)
    keep = confidence >= threshold
    order = confidence.argsort(descending=True, stable=True)
    order = order[keep[order]]
    if cap is not None:
        for c in range(probs.shape[1]):
            keep[order[labels[order] == c][cap:]] = False
        order = order[keep[order]]
    return order, labels[order]


@misconception(
    "pseudo",
    hint="`guard` counts the entries of test_idx that were chosen; asked for is how many entries of "
    "idx belong to the test set. The two differ where an example stands in one of them twice.",
)
def guard(idx, test_idx):
    common = torch.isin(test_idx, idx).sum().item()
    if common:
        raise ValueError(f"{common} examples are from the test set")
    return idx


@misconception(
    "pseudo",
    hint="The examples of the test set are taken out silently. A guard should stop you: what "
    "else is wrong in a program that mixes up its test set?",
)
def guard(idx, test_idx):
    return idx[~torch.isin(idx, test_idx)]


# --- moons -----------------------------------------------------------------------------------


@misconception(
    "moons",
    hint="The teacher was averaged, but the student is returned. The mean teacher's prediction is "
    "that of the teacher.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return net


@misconception(
    "moons",
    hint="The cross-entropy runs over all points, so the classes that nobody gave are used. With "
    "real data they would not be there.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out.flatten(0, -2), y.flatten())
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="The consistency has its full weight from the first step; the ramp-up is missing.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            loss = loss + WEIGHT * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="Only the labelled points go through the network, so the consistency never sees the "
    "others, and nothing is learned from them.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            w = WEIGHT * math.exp(-5 * (1 - s) ** 2)
            loss = loss + w * gap[labelled].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="`teacher = net` makes no copy: the teacher and the student are one network, so the mean "
    "teacher is a Pi-model under another name.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = net
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            gap = out.softmax(-1) - teacher(perturb(X)).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return teacher


@misconception(
    "moons",
    hint="The second pass sees the points as they are. Draw noise for it as well, or the consistency "
    "asks for less than the recipe.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(X).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="The ramp-up takes all of training. It should be over after the share RAMP of the steps.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            s = t / steps
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="The teacher has no warm-up: the random weights of the start fade only slowly.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1)
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = ALPHA
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net


@misconception(
    "moons",
    hint="The second pass of the Pi-model is detached; there the gradient flows through both. Only the "
    "teacher's pass has none.",
)
def train_semi(X, y, labelled, method, steps, seed):
    if method not in ("supervised", "pi", "mean-teacher"):
        raise ValueError(method)
    torch.manual_seed(seed)
    net = make_net(X)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(perturb(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            other = net if method == "pi" else teacher
            gap = out.softmax(-1) - other(perturb(X)).softmax(-1).detach()
            s = min(t / (RAMP * steps), 1)
            loss = loss + WEIGHT * math.exp(-5 * (1 - s) ** 2) * gap.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        a = min(1 - 1 / (t + 1), ALPHA)
        for q, p in zip(teacher.parameters(), net.parameters()):
            q.mul_(a).add_((1 - a) * p.detach())
    return teacher if method == "mean-teacher" else net
