"""Other right answers in the chapter on generative adversarial networks."""
# ruff: noqa: F821 (names of the set-up cell)

import math

import torch
import torch.nn.functional as F

from course.testing import alternative


@alternative("losses")
def d_loss(real_logits, fake_logits, smooth=0.0):
    bce = F.binary_cross_entropy_with_logits
    real = bce(real_logits, torch.full_like(real_logits, 1 - smooth))
    return real + bce(fake_logits, torch.zeros_like(fake_logits))


@alternative("losses")
def d_loss(real_logits, fake_logits, smooth=0.0):
    # The cost of a target t is softplus(l) - t l.
    real = F.softplus(real_logits) - (1 - smooth) * real_logits
    return real.mean() - F.logsigmoid(-fake_logits).mean()


@alternative("losses")
def g_loss(fake_logits, kind):
    losses = {
        "saturating": lambda: F.logsigmoid(-fake_logits).mean(),
        "non-saturating": lambda: -F.logsigmoid(fake_logits).mean(),
    }
    if kind not in losses:
        raise ValueError(f"kind is {', '.join(losses)}")
    return losses[kind]()


@alternative("value")
def value(p, q, D):
    return torch.xlogy(p, D).sum(-1) + torch.special.xlog1py(q, -D).sum(-1)


@alternative("value")
def optimal_d(p, q):
    return torch.nan_to_num(p / (p + q), nan=0.5)


@alternative("value")
def js(p, q):
    m = 0.5 * (p + q)

    def kl(a):
        return torch.where(a > 0, a * (a / torch.where(m > 0, m, 1)).clamp(min=1e-300).log(), 0)

    return (kl(p) + kl(q)).sum(-1) / 2


@alternative("value")
def js(p, q):
    # Through the entropies: that of the average less the average of both.
    def entropy(a):
        return torch.special.entr(a).sum(-1)

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


@alternative("value")
def js(p, q):
    # Through the best discriminator.
    total = p + q
    best = torch.where(total > 0, p / total, 0.5)
    v = (torch.xlogy(p, best) + torch.xlogy(q, 1 - best)).sum(-1)
    return (v + math.log(4)) / 2


@alternative("step")
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    # One fake for both phases; gradients of D's phase by torch.autograd.grad.
    if k <= 0:
        raise ValueError(f"k is {k}; it should be at least 1")
    fake = G(z)
    bce = F.binary_cross_entropy_with_logits
    for _ in range(k):
        opt_d.zero_grad()
        yes, no = D(real), D(fake.detach())
        d_loss = bce(yes, torch.ones_like(yes)) + bce(no, torch.zeros_like(no))
        d_loss.backward()
        opt_d.step()
    opt_d.zero_grad()
    opt_g.zero_grad()
    logits = D(fake)
    g_loss = bce(logits, torch.ones_like(logits))
    weights = [w for w in G.parameters() if w.requires_grad]
    for w, grad in zip(weights, torch.autograd.grad(g_loss, weights), strict=True):
        w.grad = grad
    opt_g.step()
    return {"d_loss": float(d_loss), "g_loss": float(g_loss)}


@alternative("step")
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    # Both players are frozen in turn, and their flags kept.
    if k < 1:
        raise ValueError("k")
    flags = {w: w.requires_grad for net in (G, D) for w in net.parameters()}
    G.requires_grad_(False)
    for _ in range(k):
        fake = G(z)
        d_loss = -F.logsigmoid(D(real)).mean() - F.logsigmoid(-D(fake)).mean()
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
    for w, flag in flags.items():
        w.requires_grad_(flag)
    D.requires_grad_(False)
    g_loss = -F.logsigmoid(D(G(z))).mean()
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    for w, flag in flags.items():
        w.requires_grad_(flag)
    return {"d_loss": d_loss.item(), "g_loss": g_loss.item()}


@alternative("ring")
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G = mlp(LATENT, 2)
    D = mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    bce = F.binary_cross_entropy_with_logits
    for _ in range(steps):
        real, z = ring(BATCH), noise(BATCH)
        with torch.no_grad():
            fake = G(z)
        opt_d.zero_grad()
        yes, no = D(real), D(fake)
        (bce(yes, torch.ones_like(yes)) + bce(no, torch.zeros_like(no))).backward()
        opt_d.step()
        opt_g.zero_grad()
        logits = D(G(z))
        bce(logits, torch.ones_like(logits)).backward()
        opt_g.step()
    return G


@alternative("ring")
def modes_covered(samples, centres):
    distance = (samples[:, None] - centres).norm(dim=2)
    nearest = F.one_hot(distance.argmin(1), len(centres)).bool()
    hits = (nearest & (distance <= NEAR)).sum(0)
    return int((4 * len(centres) * hits >= len(samples)).sum())


@alternative("ring")
def modes_covered(samples, centres):
    count = 0
    distance = torch.cdist(samples, centres, compute_mode="donot_use_mm_for_euclid_dist")
    winner = distance.argmin(1)
    for j in range(len(centres)):
        hits = ((winner == j) & (distance[:, j] <= NEAR)).sum().item()
        count += hits >= len(samples) / len(centres) / 4
    return count
