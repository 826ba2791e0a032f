"""Wrong answers in the chapter on knowledge distillation, each with the hint it deserves."""

import torch
import torch.nn.functional as F

from course.testing import misconception

# --- temperature -----------------------------------------------------------------------------


@misconception(
    "temperature",
    hint="For large logits the exponential overflows, and infinite divided by infinite is not a "
    "number. Which number can you subtract from all logits without changing the result?",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = (z / T).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="A high temperature should make the distribution flatter. Yours gets sharper: look at "
    "what you do with T and the logits.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = ((z - z.amax(-1, keepdim=True)) * T).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="The temperature divides the logits, before the exponential. Divided probabilities no "
    "longer add up to 1.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True) / T


@misconception(
    "temperature",
    hint="The sum runs over a wrong axis. Classes are on the last axis, however many axes come "
    "before it.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = ((z - z.max()) / T).exp()
    return e / e.sum(0, keepdim=True)


@misconception(
    "temperature",
    hint="What should happen at T = 0 and below? The docstring asks for an error; a division by "
    "zero gives none in torch.",
)
def softmax_t(z, T):
    e = ((z - z.amax(-1, keepdim=True)) / T).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="Where a probability is 0, its logarithm is minus infinity, and 0 times infinity is not "
    "a number. By definition such a term counts as 0.",
)
def entropy(p):
    return -(p * p.log()).sum(-1)


@misconception(
    "temperature",
    hint="Logarithms of probabilities are negative. Which sign makes the entropy positive?",
)
def entropy(p):
    return torch.xlogy(p, p).sum(-1)


@misconception(
    "temperature",
    hint="This is the entropy in bits. The definition in this chapter has the natural logarithm, "
    "so that its largest value is log K.",
)
def entropy(p):
    return -torch.where(p > 0, p * p.clamp(min=1e-300).log2(), torch.zeros_like(p)).sum(-1)


@misconception(
    "temperature",
    hint="A small number added inside the logarithm hides the problem at p = 0, but changes every "
    "other value a little. Treat the zeros apart.",
)
def entropy(p):
    return -(p * (p + 1e-6).log()).sum(-1)


@misconception(
    "temperature",
    hint="`dim=1` is the last axis of a matrix only. A single vector has no axis 1, and a stack of "
    "matrices has another one there: `dim=-1` is the last axis of anything.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = ((z - z.amax(1, keepdim=True)) / T).exp()
    return e / e.sum(1, keepdim=True)


@misconception(
    "temperature",
    hint="You subtract the largest logit of the whole tensor. A row whose own logits are all much "
    "smaller then becomes 0 divided by 0. Each row has its own largest logit.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = ((z - z.max()) / T).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="Clamped logits do not overflow, but two large ones that differ become equal. Subtract "
    "the largest from all of them: that changes no difference.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    e = (z / T).clamp(max=80).exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="`z /= T` and `z -= ...` write into the caller's logits. Make a new tensor: `z = z / T`.",
)
def softmax_t(z, T):
    if T <= 0:
        raise ValueError("T")
    z /= T
    z -= z.amax(-1, keepdim=True)
    e = z.exp()
    return e / e.sum(-1, keepdim=True)


@misconception(
    "temperature",
    hint="A sum without an axis adds up all rows. Each distribution has an entropy of its own: sum "
    "along the last axis.",
)
def entropy(p):
    return -torch.xlogy(p, p).sum()


@misconception(
    "temperature",
    hint="Every probability below your smallest allowed one gets a wrong logarithm. Only exact "
    "zeros need care.",
)
def entropy(p):
    return -(p * p.clamp(min=1e-3).log()).sum(-1)


# --- kd --------------------------------------------------------------------------------------


@misconception(
    "kd",
    hint="Without T² the soft term nearly disappears at high temperatures: its gradient falls "
    "like 1/T².",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The student's gradient has one factor 1/T from the division of the logits. There is a "
    "second one: the difference of the probabilities shrinks too. So which power of T?",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="T² balances the soft term against the hard one. If both get it, nothing is balanced.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return T**2 * (alpha * soft + (1 - alpha) * F.cross_entropy(zs, y))


@misconception(
    "kd",
    hint="A divergence is not symmetric. Whose probabilities stand outside the logarithm, and "
    "decide which classes count?",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_ps.exp() * (log_ps - log_pt)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="Labels are hard targets: the student should meet them at temperature 1, with its "
    "logits as they are.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.nll_loss(log_ps, y)


@misconception(
    "kd",
    hint="The mean over all N · K numbers divides by the number of classes too. Sum over the "
    "classes first, then take the mean over the batch.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The gradient would change the teacher as well: it should be cut off where the "
    "teacher's logits come in.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The two weights are exchanged: alpha belongs to the soft term, 1 - alpha to the labels.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return (1 - alpha) * T**2 * soft + alpha * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The logarithm of a softmax that has become 0 is minus infinity. `F.log_softmax` "
    "computes the logarithm without that detour.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    ps, pt = F.softmax(zs / T, 1), F.softmax(zt.detach() / T, 1)
    soft = (pt * (pt.log() - ps.log())).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="This is the cross-entropy with soft targets: the gradient is right, but a perfect "
    "student's loss is not 0. The divergence is less by the teacher's entropy.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    soft = F.cross_entropy(zs / T, F.softmax(zt.detach() / T, 1))
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="Only the student is softened. Both distributions are compared at the same temperature: "
    "divide the teacher's logits by T as well.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach(), 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The softmax runs down the batch. A picture's classes are on the last axis: `dim=1`.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 0), F.log_softmax(zt.detach() / T, 0)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="The logarithms are the right way round, but the weights before them are the student's "
    "probabilities. In the divergence the teacher's stand there.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 <= alpha <= 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_ps.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


@misconception(
    "kd",
    hint="alpha = 0 (labels only) and alpha = 1 (teacher only) are allowed: from 0 to 1 includes "
    "both ends.",
)
def kd_loss(zs, zt, y, T, alpha):
    if T <= 0 or not 0 < alpha < 1:
        raise ValueError("T, alpha")
    log_ps, log_pt = F.log_softmax(zs / T, 1), F.log_softmax(zt.detach() / T, 1)
    soft = (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()
    return alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)


# --- scaling ---------------------------------------------------------------------------------


@misconception(
    "scaling",
    hint="The question is how the gradient shrinks *without* the factor T². Leave it out here.",
)
def grad_norms(zs, zt, Ts):
    norms = []
    for T in Ts:
        z = zs.detach().clone().requires_grad_()
        loss = F.kl_div(
            F.log_softmax(z / T, 1), F.log_softmax(zt / T, 1), log_target=True, reduction="sum"
        )
        (grad,) = torch.autograd.grad(T**2 * loss, z)
        norms.append(grad.norm(dim=1).mean())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="You differentiate for the logits divided by T. For the logits themselves the chain rule "
    "gives another 1/T.",
)
def grad_norms(zs, zt, Ts):
    return torch.stack(
        [(F.softmax(zs / T, 1) - F.softmax(zt / T, 1)).norm(dim=1).mean() for T in Ts]
    )


@misconception(
    "scaling",
    hint="With the mean over the batch, each example's gradient is divided by N. Sum the losses: "
    "then row n of the gradient is example n's own.",
)
def grad_norms(zs, zt, Ts):
    norms = []
    for T in Ts:
        z = zs.detach().clone().requires_grad_()
        loss = F.kl_div(
            F.log_softmax(z / T, 1),
            F.log_softmax(zt / T, 1),
            log_target=True,
            reduction="batchmean",
        )
        (grad,) = torch.autograd.grad(loss, z)
        norms.append(grad.norm(dim=1).mean())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="This is one norm of the whole batch's gradient. Each example has its own norm; the "
    "answer is their mean.",
)
def grad_norms(zs, zt, Ts):
    return torch.stack(
        [((F.softmax(zs / T, 1) - F.softmax(zt / T, 1)) / T).norm() / len(zs) for T in Ts]
    )


@misconception(
    "scaling",
    hint="`backward` leaves its result in the logits' .grad, where it is added to what was there. "
    "Work on a copy, or use `torch.autograd.grad`.",
)
def grad_norms(zs, zt, Ts):
    zs.requires_grad_()
    norms = []
    for T in Ts:
        before = 0 if zs.grad is None else zs.grad.clone()
        loss = F.kl_div(
            F.log_softmax(zs / T, 1),
            F.log_softmax(zt.detach() / T, 1),
            log_target=True,
            reduction="sum",
        )
        loss.backward()
        norms.append((zs.grad - before).norm(dim=1).mean())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="`backward` adds to the .grad that is already there, so that each temperature's gradient "
    "contains all earlier ones. Take a new copy of the logits for each T, or use "
    "`torch.autograd.grad`.",
)
def grad_norms(zs, zt, Ts):
    z = zs.detach().clone().requires_grad_()
    norms = []
    for T in Ts:
        loss = -(F.softmax(zt / T, 1) * F.log_softmax(z / T, 1)).sum()
        loss.backward()
        norms.append(z.grad.norm(dim=1).mean())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="This is the norm of the mean gradient, in which the examples' gradients cancel. First "
    "one norm for each example, then the mean of the norms.",
)
def grad_norms(zs, zt, Ts):
    norms = []
    for T in Ts:
        z = zs.detach().clone().requires_grad_()
        loss = -(F.softmax(zt / T, 1) * F.log_softmax(z / T, 1)).sum()
        (grad,) = torch.autograd.grad(loss, z)
        norms.append(grad.mean(0).norm())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="`norm(dim=0)` runs down the batch and has one number for each class. One norm for each "
    "example needs `dim=1`.",
)
def grad_norms(zs, zt, Ts):
    norms = []
    for T in Ts:
        z = zs.detach().clone().requires_grad_()
        loss = -(F.softmax(zt / T, 1) * F.log_softmax(z / T, 1)).sum()
        (grad,) = torch.autograd.grad(loss, z)
        norms.append(grad.norm(dim=0).mean())
    return torch.stack(norms)


@misconception(
    "scaling",
    hint="The mean of the absolute values is no Euclidean norm: square, add over the classes, "
    "take the root.",
)
def grad_norms(zs, zt, Ts):
    norms = []
    for T in Ts:
        z = zs.detach().clone().requires_grad_()
        loss = -(F.softmax(zt / T, 1) * F.log_softmax(z / T, 1)).sum()
        (grad,) = torch.autograd.grad(loss, z)
        norms.append(grad.abs().mean())
    return torch.stack(norms)


# --- student ---------------------------------------------------------------------------------


@misconception(
    "student",
    hint="The teacher is in train mode: its dropout throws the dice and its batch normalisation "
    "learns from your batches. Which method stops both?",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="A gradient flows into the teacher: its parameters collect a .grad. Its forward pass "
    "belongs under `torch.no_grad()`, or its logits should be detached.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The optimizer has the teacher's parameters too, so the teacher learns from its "
    "student. Give it the student's only.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam([*student.parameters(), *teacher.parameters()], lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The gradients of all batches so far add up: they are never set to zero.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The factor T² is missing: at T = 4 the soft term counts sixteen times less than its "
    "weight says.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The student learns from the teacher's first choice only. The knowledge is in the other "
    "probabilities, which a hard label leaves out.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                choice = teacher(x).argmax(1)
            zs = student(x)
            loss = alpha * F.cross_entropy(zs, choice) + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The student is trained in eval mode, so its dropout and batch normalisation sleep "
    "while it learns. Train mode first, eval mode at the end.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.eval()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    return history


@misconception(
    "student",
    hint="The history holds one number for each batch. It should hold one for each epoch: the "
    "mean over its batches.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    student.eval()
    return history


@misconception(
    "student",
    hint="The history holds the last batch's loss of each epoch. It should be the mean of all its "
    "batches' losses.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(losses[-1])
    student.eval()
    return history


@misconception(
    "student",
    hint="A new optimizer for each epoch forgets Adam's running means. Make it once, before the "
    "loop.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    student.eval()
    return history


@misconception(
    "student",
    hint="The student is left in train mode, so that its dropout still throws the dice when it is "
    "used. End with `student.eval()`.",
)
def distill(teacher, student, loader, epochs, T, alpha):
    where = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    teacher.eval()
    student.train()
    history = []
    for _ in range(epochs):
        losses = []
        for x, y in loader:
            x, y = x.to(where), y.to(where)
            with torch.no_grad():
                log_pt = F.log_softmax(teacher(x) / T, 1)
            zs = student(x)
            log_ps = F.log_softmax(zs / T, 1)
            soft = F.kl_div(log_ps, log_pt, log_target=True, reduction="batchmean")
            loss = alpha * T**2 * soft + (1 - alpha) * F.cross_entropy(zs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    return history
