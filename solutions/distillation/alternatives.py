"""Other right answers in the chapter on knowledge distillation."""

import torch
import torch.nn.functional as F

from course.testing import alternative


@alternative("temperature")
def softmax_t(z, T):
    # By the logarithm of the sum, which torch computes stably.
    if not T > 0:
        raise ValueError("T must be positive")
    z = z / T
    return (z - z.logsumexp(-1, keepdim=True)).exp()


@alternative("temperature")
def entropy(p):
    return torch.special.entr(p).sum(-1)


@alternative("temperature")
def entropy(p):
    safe = torch.where(p > 0, p, torch.ones_like(p))
    return -(p * safe.log()).sum(dim=-1)


@alternative("kd")
def kd_loss(zs, zt, y, T, alpha):
    # The soft term as a cross-entropy, less the teacher's entropy.
    if not (T > 0 and 0 <= alpha <= 1):
        raise ValueError("out of range")
    with torch.no_grad():
        pt = torch.softmax(zt / T, dim=-1)
        teachers_own = torch.special.entr(pt).sum(-1).mean()
    soft = F.cross_entropy(zs / T, pt) - teachers_own
    own = zs.gather(1, y[:, None])[:, 0]
    hard = (torch.logsumexp(zs, 1) - own).mean()
    return alpha * T * T * soft + (1 - alpha) * hard


@alternative("kd")
def kd_loss(zs, zt, y, T, alpha):
    # One example after the other.
    if T <= 0:
        raise ValueError("T")
    if alpha < 0 or alpha > 1:
        raise ValueError("alpha")
    losses = []
    for s, t, label in zip(zs, zt.detach(), y, strict=True):
        log_s, log_t = F.log_softmax(s / T, 0), F.log_softmax(t / T, 0)
        divergence = torch.dot(log_t.exp(), log_t - log_s)
        losses.append(alpha * T**2 * divergence - (1 - alpha) * F.log_softmax(s, 0)[label])
    return torch.stack(losses).mean()


@alternative("scaling")
def grad_norms(zs, zt, Ts):
    # By the formula: (ps - pt) / T.
    with torch.no_grad():
        return torch.stack(
            [
                ((torch.softmax(zs / T, 1) - torch.softmax(zt / T, 1)) / T).norm(dim=1).mean()
                for T in Ts
            ]
        )


@alternative("scaling")
def grad_norms(zs, zt, Ts):
    # One gradient for each example.
    def gradient(s, t, T):
        s = s.detach().clone().requires_grad_()
        loss = F.kl_div(
            F.log_softmax(s / T, 0),
            F.log_softmax(t.detach() / T, 0),
            log_target=True,
            reduction="sum",
        )
        return torch.autograd.grad(loss, s)[0]

    rows = [[gradient(s, t, T).norm() for s, t in zip(zs, zt, strict=True)] for T in Ts]
    return torch.stack([torch.stack(row).mean() for row in rows])


@alternative("student")
def distill(teacher, student, loader, epochs, T, alpha):
    # Detached instead of under no_grad, and a cross-entropy less the teacher's entropy.
    device = next(iter(student.parameters())).device
    teacher.train(False)
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    history = []
    for _ in range(epochs):
        student.train()
        total, count = 0.0, 0
        for x, y in loader:
            x = x.to(device)
            pt = torch.softmax(teacher(x).detach() / T, dim=1)
            zs = student(x)
            entropy_t = torch.special.entr(pt).sum(1).mean()
            soft = F.cross_entropy(zs / T, pt) - entropy_t
            hard = F.cross_entropy(zs, y.to(device))
            loss = alpha * T * T * soft + (1 - alpha) * hard
            student.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            count += 1
        history.append(total / count)
    student.eval()
    return history
