"""Wrong answers in the chapter on generative adversarial networks, each with its hint."""
# ruff: noqa: F821 (names of the set-up cell)

import torch
import torch.nn.functional as F

from course.testing import misconception

# --- losses ----------------------------------------------------------------------------------


@misconception(
    "losses",
    hint="For logits of about 17 and more the sigmoid is exactly 1 in float32, and the logarithm "
    "of 1 - 1 is minus infinity. Do not leave the logit: which function gives both logarithms "
    "without ever computing a probability?",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    yes, no = -torch.log(real), -torch.log(1 - real)
    return ((1 - smooth) * yes + smooth * no).mean() - torch.log(1 - fake).mean()


@misconception(
    "losses",
    hint="A small constant inside the logarithm avoids infinity, but it also changes the loss "
    "and its gradient just where D is sure. Work with the logit itself.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    yes, no = -torch.log(real + 1e-8), -torch.log(1 - real + 1e-8)
    return ((1 - smooth) * yes + smooth * no).mean() - torch.log(1 - fake + 1e-8).mean()


@misconception(
    "losses",
    hint="Real and fake are exchanged: real examples have the target 1, made ones 0.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    yes, no = F.softplus(-fake_logits), F.softplus(fake_logits)
    return ((1 - smooth) * yes + smooth * no).mean() + F.softplus(real_logits).mean()


@misconception(
    "losses",
    hint="This is half the loss. The chapter adds the two means, so that the loss is minus the "
    "value V; some libraries average them.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    yes, no = F.softplus(-real_logits), F.softplus(real_logits)
    real = ((1 - smooth) * yes + smooth * no).mean()
    return (real + F.softplus(fake_logits).mean()) / 2


@misconception(
    "losses",
    hint="Smoothing is for the real examples only. With a raised target for the fakes, those far "
    "from any data would have no slope that leads them home.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    def bce(logits, target):
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    return bce(real_logits, 1 - smooth) + bce(fake_logits, smooth)


@misconception(
    "losses",
    hint="A soft target has two costs: (1 - smooth) times that of “real” *plus* smooth times that "
    "of “fake”. The second one is missing.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    real = (1 - smooth) * F.softplus(-real_logits).mean()
    return real + F.softplus(fake_logits).mean()


@misconception(
    "losses",
    hint="Put together, the larger batch weighs more. Take the mean of each batch, then add.",
)
def d_loss(real_logits, fake_logits, smooth=0.0):
    yes, no = F.softplus(-real_logits), F.softplus(real_logits)
    real = (1 - smooth) * yes + smooth * no
    return 2 * torch.cat([real.flatten(), F.softplus(fake_logits).flatten()]).mean()


@misconception(
    "losses",
    hint="The two kinds are exchanged. The saturating one is log(1 - D): nearly 0, and flat, where "
    "D is sure that a fake is a fake.",
)
def g_loss(fake_logits, kind):
    if kind == "saturating":
        return F.softplus(-fake_logits).mean()
    if kind == "non-saturating":
        return -F.softplus(fake_logits).mean()
    raise ValueError(kind)


@misconception(
    "losses",
    hint="The sign of the saturating loss is wrong: to minimise -log(1 - D) pushes D(fake) *down*. "
    "That is D's wish, not G's.",
)
def g_loss(fake_logits, kind):
    if kind == "saturating":
        return F.softplus(fake_logits).mean()
    if kind == "non-saturating":
        return F.softplus(-fake_logits).mean()
    raise ValueError(kind)


@misconception(
    "losses",
    hint="A kind that is not known should raise a ValueError. Here every typing error is taken "
    "for the non-saturating loss.",
)
def g_loss(fake_logits, kind):
    if kind == "saturating":
        return -F.softplus(fake_logits).mean()
    return F.softplus(-fake_logits).mean()


# --- value -----------------------------------------------------------------------------------


@misconception(
    "value",
    hint="0 · log 0 is NaN in floating point, but an outcome that never happens should add 0. "
    "Look at `torch.xlogy`.",
)
def value(p, q, D):
    return (p * torch.log(D) + q * torch.log(1 - D)).sum(-1)


@misconception(
    "value",
    hint="A small constant inside the logarithm hides that a judge who is sure and wrong pays an "
    "infinite price, and it changes every other value a little.",
)
def value(p, q, D):
    return (p * torch.log(D + 1e-6) + q * torch.log(1 - D + 1e-6)).sum(-1)


@misconception(
    "value",
    hint="This is the loss of D. The value is minus that: D makes it large.",
)
def value(p, q, D):
    return -(torch.xlogy(p, D) + torch.xlogy(q, 1 - D)).sum(-1)


@misconception(
    "value",
    hint="p and q are not the scores. Both are distributions, and the score is D: the expectation "
    "weighs log D by how often an outcome happens.",
)
def value(p, q, D):
    return (D * torch.log(p.clamp(min=1e-12)) + (1 - D) * torch.log(q.clamp(min=1e-12))).sum(-1)


@misconception(
    "value",
    hint="The probabilities are the weights of the expectation already. Take the sum over the "
    "outcomes, not their mean.",
)
def value(p, q, D):
    return (torch.xlogy(p, D) + torch.xlogy(q, 1 - D)).mean(-1)


@misconception(
    "value",
    hint="The sum runs over the outcomes, the last axis, and not over all distributions.",
)
def value(p, q, D):
    return (torch.xlogy(p, D) + torch.xlogy(q, 1 - D)).sum()


@misconception(
    "value",
    hint="Where p and q are both 0 this is 0 / 0. The description says what D* should be there.",
)
def optimal_d(p, q):
    return p / (p + q)


@misconception(
    "value",
    hint="Where p and q are both 0, a D of 0 would say “fake, for sure”. Nothing is known there, so "
    "the description asks for one half.",
)
def optimal_d(p, q):
    return torch.nan_to_num(p / (p + q))


@misconception(
    "value",
    hint="p and q are exchanged: D is the probability that an example is *real*, and p is the "
    "distribution of the real ones.",
)
def optimal_d(p, q):
    total = p + q
    return torch.where(total > 0, q / torch.where(total > 0, total, 1), 0.5)


@misconception(
    "value",
    hint="“Real or fake, whichever is more likely” is a decision, not a probability. V rewards "
    "honest probabilities.",
)
def optimal_d(p, q):
    half = torch.full_like(p + q, 0.5)
    return torch.where(p > q, 1.0, torch.where(p < q, 0.0, half))


@misconception(
    "value",
    hint="A constant in the denominator avoids 0 / 0, but gives 0 there instead of one half, and "
    "spoils rare outcomes.",
)
def optimal_d(p, q):
    return p / (p + q + 1e-8)


@misconception(
    "value",
    hint="0 · log 0 is NaN in floating point, in js as in value: either distribution may have zeros. "
    "Look at `torch.xlogy`.",
)
def js(p, q):
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


@misconception(
    "value",
    hint="V at D* is 2 JS - log 4. Solve that for JS: first add log 4, then halve all of it.",
)
def js(p, q):
    m = (p + q) / 2
    both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)
    best = both.sum(-1) - torch.log(torch.tensor(4.0, dtype=m.dtype, device=m.device))
    return best / 2 + torch.log(torch.tensor(4.0, dtype=m.dtype, device=m.device))


@misconception(
    "value",
    hint="This is the sum of the two KL divergences; JS is half of it.",
)
def js(p, q):
    m = (p + q) / 2
    both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)
    return both.sum(-1)


@misconception(
    "value",
    hint="The KL divergences are to the average m = (p + q) / 2, not to each other. The latter is "
    "infinite as soon as one distribution has a zero where the other has none.",
)
def js(p, q):
    kl = torch.xlogy(p, p) - torch.xlogy(p, q) + torch.xlogy(q, q) - torch.xlogy(q, p)
    return kl.sum(-1) / 2


@misconception(
    "value",
    hint="This is the square root, as SciPy returns it. The divergence itself is asked for.",
)
def js(p, q):
    m = (p + q) / 2
    both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)
    return (both.sum(-1) / 2).clamp(min=0).sqrt()


@misconception(
    "value",
    hint="This is in bits, with the logarithm to base 2. The identity with log 4 needs the natural "
    "one.",
)
def js(p, q):
    m = (p + q) / 2
    both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)
    return both.sum(-1) / 2 / torch.log(torch.tensor(2.0, dtype=m.dtype, device=m.device))


# --- step ------------------------------------------------------------------------------------


@misconception(
    "step",
    hint="The fake is detached in G's phase too, so the gradient never reaches G. Make the fakes "
    "of the second phase anew, with their path into G.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    fake = G(z).detach()
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    loss_g = F.softplus(-D(fake)).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    opt_d.zero_grad()
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="Without detach, D's `backward` runs on into G and leaves gradients there. While D "
    "learns, G should get none.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(G(z))).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    opt_g.zero_grad()
    learns = [w for w in D.parameters() if w.requires_grad]
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    loss_g.backward()
    opt_g.step()
    for w in learns:
        w.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="G's `backward` leaves gradients in D. Nothing steps on them here, but the next one who "
    "forgets a zero_grad will. Switch them off for the parameters of D.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    fake = G(z).detach()
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="D is frozen and stays so: after the round its parameters still have requires_grad "
    "False, and in the next round it cannot learn.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    fake = G(z).detach()
    D.requires_grad_(True)
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="At the end every parameter of D wants a gradient, also one that somebody had frozen on "
    "purpose. Note who wanted one before.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    fake = G(z).detach()
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    D.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="G is judged by the D from before its steps: the logits of the fakes come from the first "
    "phase. Score the fakes anew with the D of now.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    fake = G(z)
    grad = None
    for _ in range(k):
        leaf = fake.detach().requires_grad_()
        logits = D(leaf)
        (grad,) = torch.autograd.grad(F.softplus(-logits).mean(), leaf, retain_graph=True)
        g_value = F.softplus(-logits).mean().item()
        loss_d = F.softplus(-D(real)).mean() + F.softplus(logits).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    opt_g.zero_grad()
    fake.backward(grad)
    opt_g.step()
    return {"d_loss": loss_d.item(), "g_loss": g_value}


@misconception(
    "step",
    hint="`k` has no effect: D should make k steps before G makes one.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    with torch.no_grad():
        fake = G(z)
    loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
    opt_d.zero_grad()
    loss_d.backward()
    opt_d.step()
    learns = [w for w in D.parameters() if w.requires_grad]
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    for w in learns:
        w.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="k rounds are not one round with k steps of D: here G steps k times, too.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    learns = [w for w in D.parameters() if w.requires_grad]
    for _ in range(k):
        with torch.no_grad():
            fake = G(z)
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        D.requires_grad_(False)
        loss_g = F.softplus(-D(G(z))).mean()
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        for w in learns:
            w.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="Real and fake go through D in one batch. With batch normalisation their statistics mix, "
    "and D becomes another function. Use two passes.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    with torch.no_grad():
        fake = G(z)
    for _ in range(k):
        logits = D(torch.cat([real, fake]))
        loss_d = F.softplus(-logits[: len(real)]).mean() + F.softplus(logits[len(real) :]).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    learns = [w for w in D.parameters() if w.requires_grad]
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    for w in learns:
        w.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="`eval()` is no way to make a network stand still: it changes batch normalisation and "
    "dropout, and gradients flow as before. And the modes should stay as they were.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    G.eval()
    D.train()
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(G(z).detach())).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    G.train()
    D.eval()
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


@misconception(
    "step",
    hint="The losses are returned as tensors. They keep their graphs alive, and a list of them fills "
    "the memory: return `loss.item()`.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    with torch.no_grad():
        fake = G(z)
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    learns = [w for w in D.parameters() if w.requires_grad]
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    for w in learns:
        w.requires_grad_(True)
    return {"d_loss": loss_d, "g_loss": loss_g}


@misconception(
    "step",
    hint="Gradients are never set to zero, so each step also takes all the earlier ones.",
)
def gan_step(G, D, opt_g, opt_d, real, z, k=1):
    if k < 1:
        raise ValueError("k")
    with torch.no_grad():
        fake = G(z)
    for _ in range(k):
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        loss_d.backward()
        opt_d.step()
    learns = [w for w in D.parameters() if w.requires_grad]
    D.requires_grad_(False)
    loss_g = F.softplus(-D(G(z))).mean()
    loss_g.backward()
    opt_g.step()
    for w in learns:
        w.requires_grad_(True)
    return {"d_loss": loss_d.item(), "g_loss": loss_g.item()}


# --- ring ------------------------------------------------------------------------------------


@misconception(
    "ring",
    hint="The learning rates are exchanged, which is game B of the first page: D cannot keep up, "
    "and G hops from mode to mode.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_D), adam(D, LR_G)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="D is made before G, so the first random numbers go into D. The order of the draws is part "
    "of the exercise: first G, then D.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    D, G = mlp(2, 1), mlp(LATENT, 2)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="G's step draws noise of its own. Here both steps of a round use the same noise, drawn once.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(G(noise(BATCH)))).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="The noise is drawn before the real points. The order of the draws is part of the exercise: "
    "first ring(BATCH), then noise(BATCH).",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        fake, real = G(noise(BATCH)), ring(BATCH)
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="The seed is never set, so every call gives another generator.",
)
def train_ring(steps, seed):
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="The batch of real points and the noise are drawn once, before the loop. D learns these "
    "128 points by heart. Draw both anew in each round.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    real, z = ring(BATCH), noise(BATCH)
    for _ in range(steps):
        fake = G(z)
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = F.softplus(-D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="First D is trained to the end, then G: that is the frozen judge of Part 3, and all "
    "points run off in one direction. Take turns in each round.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
    for _ in range(steps):
        loss = F.softplus(-D(G(noise(BATCH)))).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="This is the saturating loss: while D is sure of its fakes, G hardly moves. The "
    "non-saturating one is asked for.",
)
def train_ring(steps, seed):
    torch.manual_seed(seed)
    G, D = mlp(LATENT, 2), mlp(2, 1)
    opt_g, opt_d = adam(G, LR_G), adam(D, LR_D)
    for _ in range(steps):
        real, fake = ring(BATCH), G(noise(BATCH))
        loss = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        loss = -F.softplus(D(fake)).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return G


@misconception(
    "ring",
    hint="A single sample is not a covered mode. Count the hits of each centre, and ask for "
    "n / (4 K) of them.",
)
def modes_covered(samples, centres):
    distance, nearest = torch.cdist(samples, centres).min(dim=1)
    return len(nearest[distance <= NEAR].unique())


@misconception(
    "ring",
    hint="Every sample has a nearest centre, but not every sample is near to it. A hit needs a "
    "distance of at most NEAR.",
)
def modes_covered(samples, centres):
    nearest = torch.cdist(samples, centres).argmin(dim=1)
    hits = torch.bincount(nearest, minlength=len(centres))
    return (hits >= len(samples) / (4 * len(centres))).sum().item()


@misconception(
    "ring",
    hint="A sample that is near to two centres hits only the nearest of them.",
)
def modes_covered(samples, centres):
    hits = (torch.cdist(samples, centres) <= NEAR).sum(0)
    return (hits >= len(samples) / (4 * len(centres))).sum().item()


@misconception(
    "ring",
    hint="The fair share of a centre is n / K of *all* samples. Here the bad samples are left out "
    "of n, so a few stray points can cover everything.",
)
def modes_covered(samples, centres):
    distance, nearest = torch.cdist(samples, centres).min(dim=1)
    good = nearest[distance <= NEAR]
    hits = torch.bincount(good, minlength=len(centres))
    return ((hits > 0) & (hits >= len(good) / (4 * len(centres)))).sum().item()


@misconception(
    "ring",
    hint="These are the hits, not the modes: count the centres that got enough.",
)
def modes_covered(samples, centres):
    distance, _ = torch.cdist(samples, centres).min(dim=1)
    return (distance <= NEAR).sum().item()


@misconception(
    "ring",
    hint="Exactly n / (4 K) hits are enough (“at least”), and n / (4 K) is rarely a whole number: "
    "compare with >=, and do not round it.",
)
def modes_covered(samples, centres):
    distance, nearest = torch.cdist(samples, centres).min(dim=1)
    hits = torch.bincount(nearest[distance <= NEAR], minlength=len(centres))
    return (hits > len(samples) // (4 * len(centres))).sum().item()
