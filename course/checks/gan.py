"""Public checks of the chapter on generative adversarial networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "losses": [
        "Which of softplus(logit) and softplus(-logit) is small when D rightly says “real”? That "
        "one is the cost of a target of 1.",
        "A target of 1 - smooth is a mixture: 1 - smooth times the cost of “real” plus smooth "
        "times the cost of “fake”, for the real examples only.",
        "`g_loss`: log(1 - D) is minus the cost of “fake”. The other kind is the cost of “real”.",
    ],
    "value": [
        "`torch.xlogy(a, b)` is a log b, and 0 where a is 0. Sum over the last axis with "
        "`.sum(-1)`, so that many distributions fit into one call.",
        "`optimal_d`: an entry with p + q = 0 would be 0 / 0. `torch.where` can put another "
        "denominator there, and one half into the result.",
        "`js`: the average m = (p + q) / 2 is 0 only where both are. Write each KL as p log p - "
        "p log m.",
    ],
    "step": [
        "Phase 1: make the fakes once, under `torch.no_grad()`, since G stands still for all k "
        "steps. In each step: loss, zero_grad, backward, step.",
        "Phase 2: note which parameters of D want a gradient, switch them off with "
        "`D.requires_grad_(False)`, and make the fakes anew, with a gradient this time.",
        "At the end switch on only those that were on before: somebody may have frozen a layer of "
        "D on purpose. The losses leave as `loss.item()`.",
    ],
    "ring": [
        "`train_ring`: one fake batch serves both steps. D's loss needs it detached, G's loss "
        "needs it as it is.",
        "Compute D(fake) again for G's loss: D has changed since, and its graph is used up.",
        "`modes_covered`: `torch.cdist(samples, centres).min(dim=1)` gives distance and index of "
        "the nearest centre; `torch.bincount` counts how often each index occurs.",
    ],
    "debug": [
        "Print `[w.grad for w in G2.parameters()]` after `backward`. What do you see?",
        "Which phase needs `detach`, and which needs the path through D into G?",
    ],
}


@pytest.mark.exercise("losses")
def test_two_batches(student):
    """`d_loss` adds the mean cost of two real and of three fake logits."""
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.0, -3.0, 1.0])
    yes, no = F.softplus(-real).mean(), F.softplus(fake).mean()
    assert_close(
        student.d_loss(real, fake),
        yes + no,
        "the loss",
        symptoms={
            "This is half the loss: add the two means.": (yes + no) / 2,
            "Real and fake are exchanged.": F.softplus(real).mean() + F.softplus(-fake).mean(),
            "The sign is wrong: this is the value, which D would like to be large.": -yes - no,
        },
    )
    half = torch.zeros(2)
    assert_close(student.d_loss(half, half).item(), 2 * math.log(2), "for logits of 0", rtol=1e-5)


@pytest.mark.exercise("losses")
def test_smoothing(student):
    """With `smooth=0.1` real examples have the target 0.9; fakes keep 0."""
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([-2.0, 0.5])

    def bce(logits, target):
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    assert_close(
        student.d_loss(real, fake, smooth=0.1),
        bce(real, 0.9) + bce(fake, 0.0),
        "the loss",
        symptoms={
            "`smooth` has no effect.": bce(real, 1.0) + bce(fake, 0.0),
            "The fakes are smoothed too; only the real ones should be.": bce(real, 0.9)
            + bce(fake, 0.1),
            "The other part of the cross-entropy, smooth * softplus(logit), is missing.": 0.9
            * bce(real, 1.0)
            + bce(fake, 0.0),
        },
    )


@pytest.mark.exercise("losses")
def test_generator(student):
    """`g_loss` knows two kinds, and raises a ValueError for another one."""
    fake = torch.tensor([-2.0, 1.0])
    costs = {
        "saturating": -F.softplus(fake).mean(),
        "non-saturating": F.softplus(-fake).mean(),
    }
    for kind, other in (("saturating", "non-saturating"), ("non-saturating", "saturating")):
        assert_close(
            student.g_loss(fake, kind),
            costs[kind],
            f"the {kind} loss",
            symptoms={
                "The two kinds are exchanged.": costs[other],
                "The sign is wrong: G should make its loss small.": -costs[kind],
            },
        )
    with raises(ValueError):
        student.g_loss(fake, "hinge")


@pytest.mark.exercise("losses")
def test_large_logits(student):
    """Logits of 100 and -100 give finite losses."""
    big = torch.tensor([100.0])
    assert_close(student.d_loss(-big, big).item(), 200.0, "the loss of a D that is sure and wrong")
    assert_close(student.d_loss(big, -big).item(), 0.0, "the loss of a D that is right", atol=1e-6)
    assert_close(student.g_loss(big, "saturating").item(), -100.0, "the saturating loss")
    assert_close(student.g_loss(-big, "non-saturating").item(), 100.0, "the non-saturating loss")


COIN, HEADS = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])


@pytest.mark.exercise("value")
def test_worked_example(student):
    """A fair coin against a coin that only throws heads gives the numbers of the text."""
    best = torch.tensor([1 / 3, 1.0])
    assert_close(
        student.optimal_d(COIN, HEADS),
        best,
        "D*",
        symptoms={
            "p and q are exchanged: D is the probability of *real*.": 1 - best,
            "This is the ratio p / q; D* is p / (p + q).": COIN / HEADS,
        },
    )
    expected = 0.5 * math.log(1 / 3) + math.log(2 / 3)
    assert_close(
        student.value(COIN, HEADS, best),
        torch.tensor(expected),
        "V",
        symptoms={
            "0 log 0 gives NaN; `torch.xlogy` gives 0.": torch.tensor(math.nan),
            "The sign is wrong: V adds logarithms of probabilities.": torch.tensor(-expected),
        },
    )


@pytest.mark.exercise("value")
def test_limits_of_js(student):
    """JS is 0 for equal distributions, log 2 for disjoint ones, 0.216 for the two coins."""
    pairs = {
        "equal": (COIN, COIN, 0.0),
        "disjoint": (HEADS, HEADS.flip(0), math.log(2)),
        "the coins'": (COIN, HEADS, 0.2157616),
    }
    for name, (p, q, expected) in pairs.items():
        symptoms = {
            "Take half the sum of the two KL divergences.": torch.tensor(2 * expected),
            "This is the square root, as SciPy returns it.": torch.tensor(math.sqrt(expected)),
            "This is in bits; use the natural logarithm.": torch.tensor(expected / math.log(2)),
        }
        assert_close(
            student.js(p, q), torch.tensor(expected), f"JS of {name} distributions",
            symptoms=symptoms if expected else None,
        )  # fmt: skip


@pytest.mark.exercise("value")
def test_many_at_once(student):
    """All three work on several distributions at once; an impossible outcome gets D* = 1/2."""
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    q = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    best = student.optimal_d(p, q)
    assert_close(best[1], torch.full((3,), 0.5), "D* for p = q")
    v, divergence = student.value(p, q, best), student.js(p, q)
    assert_equal(tuple(v.shape), (2,), "the shape of V")
    assert_close(v, 2 * divergence - math.log(4), "V at D*", atol=1e-5)


@probe
def one_round(student, k):
    """A tiny game with plain SGD: losses, weights, gradients left, flags."""
    G, D = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        G.weight.fill_(0.5)
        D.weight.fill_(-1.0)
    opt_g, opt_d = torch.optim.SGD(G.parameters(), 0.1), torch.optim.SGD(D.parameters(), 0.2)
    moved = []
    opt_d.register_step_pre_hook(lambda *_: moved.append(("D", G.weight.item())))
    opt_g.register_step_pre_hook(lambda *_: moved.append(("G", D.weight.item())))
    real, z = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-3.0]])
    losses = student.gan_step(G, D, opt_g, opt_d, real, z, k)
    return (
        losses,
        G.weight.item(),
        D.weight.item(),
        "".join(n for n, _ in moved),
        (D.weight.requires_grad),
    )


def by_hand(k):
    """The same game with derivatives by hand."""
    g, d = 0.5, -1.0
    real, z = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -3.0])
    for _ in range(k):
        d_loss = F.softplus(-d * real).mean() + F.softplus(d * g * z).mean()
        slope = (-real * torch.sigmoid(-d * real)).mean()
        slope = slope + (g * z * torch.sigmoid(d * g * z)).mean()
        d = d - 0.2 * slope.item()
    g_loss = F.softplus(-d * g * z).mean()
    g = g - 0.1 * (-d * z * torch.sigmoid(-d * g * z)).mean().item()
    return d_loss.item(), g_loss.item(), g, d


@pytest.mark.exercise("step")
def test_one_round(student):
    """In a game with one weight each, a round gives the numbers that one gets by hand."""
    losses, g, d, order, wants = student.run(one_round, 1)
    assert_equal(order, "DG", "the order of the steps")
    d_loss, g_loss, g_hand, d_hand = by_hand(1)
    assert_close(losses, {"d_loss": d_loss, "g_loss": g_loss}, "the losses", rtol=1e-4)
    assert_close(d, d_hand, "D's weight", rtol=1e-4)
    assert_close(
        g,
        g_hand,
        "G's weight",
        rtol=1e-4,
        symptoms={"G did not move: is the path through D cut?": 0.5},
    )
    assert_equal(wants, True, "requires_grad of D's weight after the round")


@pytest.mark.exercise("step")
def test_three_steps_of_d(student):
    """With `k=3` D makes three steps, then G one; `k=0` raises a ValueError."""
    losses, g, d, order, _ = student.run(one_round, 3)
    assert_equal(order, "DDDG", "the order of the steps")
    d_loss, g_loss, g_hand, d_hand = by_hand(3)
    assert_close([d, g], [d_hand, g_hand], "the weights of D and G", rtol=1e-4)
    assert_close(
        losses, {"d_loss": d_loss, "g_loss": g_loss}, "the losses (D's of the last step)", rtol=1e-4
    )
    with raises(ValueError):
        student.run(one_round, 0)


@probe
def left_behind(student):
    """Sums of the gradients in D after each phase, and of G before its own."""
    torch.manual_seed(0)
    G, D = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    D[0].requires_grad_(False)
    opt_g, opt_d = torch.optim.SGD(G.parameters(), 0.1), torch.optim.SGD(D.parameters(), 0.1)

    def total(net):
        return sum(w.grad.abs().sum().item() for w in net.parameters() if w.grad is not None)

    seen = {}
    opt_d.register_step_pre_hook(lambda *_: seen.update(d=total(D), g_in_d=total(G)))
    opt_g.register_step_pre_hook(lambda *_: seen.update(d_in_g=total(D)))
    student.gan_step(G, D, opt_g, opt_d, torch.randn(4, 2), torch.randn(4, 2))
    return seen, [w.requires_grad for w in D.parameters()]


@pytest.mark.exercise("step")
def test_nothing_left(student):
    """Who stands still gets no gradient, and a frozen layer of D stays frozen."""
    seen, flags = student.run(left_behind)
    assert_close(seen["g_in_d"], 0.0, "the gradient in G while D learns")
    assert_close(
        seen["d_in_g"],
        seen["d"] if seen["d_in_g"] else 0.0,
        "the gradient in D when G steps (that of D's own step, or none)",
    )
    assert_equal(flags, [False, False, True, True], "requires_grad of D's parameters")


@pytest.mark.exercise("ring")
def test_counting(student):
    """`modes_covered` counts centres with enough hits, not samples."""
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    at = [0] * 10 + [1] * 3 + [2] * 2 + [3]  # 16 samples, so that one hit is enough
    samples = centres[at] + torch.tensor([0.2, -0.3])
    assert_equal(student.modes_covered(samples, centres), 4, "all four are covered")
    assert_equal(student.modes_covered(samples.repeat(2, 1)[1:], centres), 4, "31 samples")
    assert_equal(
        student.modes_covered(torch.cat([samples, samples[:10]]), centres),
        3,
        "the count: of 26 samples, one hit is less than 26 / 16",
    )
    assert_equal(
        student.modes_covered(samples + 1.0, centres), 0, "the count for samples far from all"
    )


@probe
def few_rounds(student):
    """Four points of a fresh generator, and of four trained ones."""
    torch.manual_seed(5)
    nets = [student.mlp(student.LATENT, 2)]
    nets += [student.train_ring(*args) for args in ((0, 5), (2, 5), (2, 5), (2, 6))]
    z = student.noise(4)
    return [net(z).detach().cpu() for net in nets]


@pytest.mark.exercise("ring")
def test_rounds_and_seeds(student):
    """Zero rounds give the fresh generator, two give another, and a seed gives the same again."""
    fresh, zero, two, again, other = student.run(few_rounds)
    assert_close(zero, fresh, "the points after 0 rounds")
    assert_close(again, two, "the points for the same seed")
    assert_true((two - fresh).abs().max() > 1e-4, "After two rounds G should have moved.")
    assert_true((two - fresh).abs().max() < 0.1, "In two rounds G should move by little.")
    assert_true((two - other).abs().max() > 1e-3, "Another seed should give another generator.")


@probe
def cut_or_not(student):
    """Value, and whether G's weight gets its gradient."""
    G, D = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        G.weight.fill_(2.0)
        D.weight.fill_(0.5)
    loss = student.generator_loss(G, D, torch.tensor([[1.0], [-2.0]]))
    loss.backward()
    return loss.item(), 0.0 if G.weight.grad is None else G.weight.grad.item()


@pytest.mark.exercise("debug")
def test_path_into_g(student):
    """`generator_loss` has the same value as before, and its gradient reaches G."""
    value, slope = student.run(cut_or_not)
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    wrong = (math.log1p(math.exp(1)) + math.log1p(math.exp(-2))) / 2
    assert_close(
        value,
        expected,
        "the loss for the logits 1 and -2",
        rtol=1e-4,
        symptoms={"This is the cost of “fake”; G wants its fakes to be taken for real.": wrong},
    )
    exact = (-0.5 / (1 + math.e) + 1 / (1 + math.exp(-2))) / 2
    assert_close(
        slope,
        exact,
        "the gradient of G's weight",
        rtol=1e-4,
        symptoms={"No gradient reaches G: the path is still cut.": 0.0},
    )
