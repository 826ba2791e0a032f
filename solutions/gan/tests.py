"""Hidden tests of the chapter on generative adversarial networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import nn

from course.testing import (
    Mismatch,
    assert_close,
    assert_equal,
    assert_same_gradients,
    brief,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)


def require(condition, sentence, expected, got):
    """Fail with the sentence, and show both values, unless the condition holds."""
    if not bool(condition):
        raise Mismatch(
            sentence, expected=str(expected), got=got if type(got) is str else brief(got)
        )


# --- losses ----------------------------------------------------------------------------------

KINDS = ("saturating", "non-saturating")


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def reference_d(real, fake, smooth=0.0):
    return bce(real, 1 - smooth) + bce(fake, 0.0)


def reference_g(fake, kind):
    return -bce(fake, 0.0) if kind == "saturating" else bce(fake, 1.0)


@pytest.mark.exercise("losses", points=4)
@pytest.mark.parametrize(
    "real, fake", [((5,), (5,)), ((7, 1), (3, 1)), ((1,), (4,)), ((2, 1, 3, 3), (5, 1, 3, 3))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discriminator_loss(student, device, real, fake, dtype):
    """d_loss should be the mean BCE of the real ones against 1 plus that of the fakes against 0,
    for any shape and any number of each."""
    real = 3 * randn(*real, dtype=dtype, device=device)
    fake = 3 * randn(*fake, dtype=dtype, device=device)
    with unchanged(real, fake):
        got = student.d_loss(real, fake)
    assert_close(
        got,
        reference_d(real, fake),
        "the loss",
        symptoms={
            "This is half the loss.": reference_d(real, fake) / 2,
            "Real and fake are exchanged.": reference_d(fake, real),
            "This is the mean over all logits together; take the two means first.": torch.cat(
                [F.softplus(-real).flatten(), F.softplus(fake).flatten()]
            ).mean(),
        },
    )


@pytest.mark.exercise("losses", points=4)
@pytest.mark.parametrize("smooth", [0.05, 0.1, 0.3, 1.0])
def test_label_smoothing(student, device, smooth):
    """With smooth, the real target should be 1 - smooth and the fake target still 0."""
    real, fake = randn(6, 1, device=device) * 2, randn(4, 1, device=device) * 2
    expected = reference_d(real, fake, smooth)
    symptoms = {
        "The fakes are smoothed too.": bce(real, 1 - smooth) + bce(fake, smooth),
        "The real target should be 1 - smooth, not 1 - smooth / 2.": bce(real, 1 - smooth / 2)
        + bce(fake, 0.0),
        "The fake part of the cross-entropy of a soft target is missing.": (1 - smooth)
        * bce(real, 1.0)
        + bce(fake, 0.0),
    }
    assert_close(student.d_loss(real, fake, smooth), expected, "the loss", symptoms=symptoms)
    assert_close(student.d_loss(real, fake, smooth=smooth), expected, "the loss, smooth by name")


@pytest.mark.exercise("losses", points=3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (9, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_generator_loss(student, device, kind, shape, dtype):
    """g_loss should be the mean of log(1 - D) or of -log D, for any shape."""
    fake = 3 * randn(*shape, dtype=dtype, device=device)
    with unchanged(fake):
        got = student.g_loss(fake, kind)
    other = KINDS[1 - KINDS.index(kind)]
    assert_close(
        got,
        reference_g(fake, kind),
        f"the {kind} loss",
        symptoms={
            "The two kinds are exchanged.": reference_g(fake, other),
            "The sign is wrong.": -reference_g(fake, kind),
        },
    )


@pytest.mark.exercise("losses", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits(student, device, dtype):
    """Logits of plus and minus 100, and of 1000, should give finite losses and gradients."""
    zero = torch.zeros(2, dtype=dtype, device=device)
    for size in (100.0, 1000.0):
        big = torch.tensor([size, -size], dtype=dtype, device=device)
        pairs = {
            "d_loss of real": (lambda a: student.d_loss(a, zero), lambda a: reference_d(a, zero)),
            "d_loss of fakes": (lambda a: student.d_loss(zero, a), lambda a: reference_d(zero, a)),
        }
        for kind in KINDS:
            pairs[f"the {kind} g_loss"] = (
                lambda a, kind=kind: student.g_loss(a, kind),
                lambda a, kind=kind: reference_g(a, kind),
            )
        for name, (ours, theirs) in pairs.items():
            assert_close(ours(big), theirs(big), f"{name} at {size:g}")
            assert_same_gradients(ours, theirs, big, what=f"the gradient of {name} at {size:g}")


@pytest.mark.exercise("losses", points=4)
def test_gradients(student, device):
    """The gradients should be those of the cross-entropy; for a D that is sure of its fakes the
    saturating loss has next to none, the non-saturating one nearly -1 for each."""
    real, fake = randn(5, device=device), randn(7, device=device)
    assert_same_gradients(student.d_loss, reference_d, real, fake)
    assert_same_gradients(
        lambda a, b: student.d_loss(a, b, 0.2), lambda a, b: reference_d(a, b, 0.2), real, fake
    )
    for kind in KINDS:
        assert_same_gradients(
            lambda a, kind=kind: student.g_loss(a, kind),
            lambda a, kind=kind: reference_g(a, kind),
            fake,
            what=f"the gradient of the {kind} loss",
        )
    sure = torch.full((4,), -30.0, dtype=torch.float64, device=device, requires_grad=True)
    for kind, expected in (("saturating", 0.0), ("non-saturating", -0.25)):
        (slope,) = torch.autograd.grad(student.g_loss(sure, kind), sure)
        assert_close(
            slope, torch.full_like(slope, expected), f"the {kind} gradient at -30", atol=1e-9
        )


@pytest.mark.exercise("losses", points=2)
@pytest.mark.parametrize("kind", ["", "Saturating", "wasserstein", None])
def test_unknown_kind(student, kind):
    """g_loss should raise a ValueError for a kind that it does not know."""
    fake = randn(3)
    with raises(ValueError):
        student.g_loss(fake, kind)


# --- value -----------------------------------------------------------------------------------


def distributions(*shape, device="cpu", zeros=0.0):
    """Random distributions over the last axis; some entries are 0."""
    weights = rand(*shape, device=device) + 0.05
    if zeros:
        weights = weights * (rand(*shape, device=device) >= zeros)
        weights[..., 0] += 0.1
    return weights / weights.sum(-1, keepdim=True)


def plain_value(p, q, D):
    """V, entry by entry, for one distribution."""
    total = 0.0
    for a, b, d in zip(p.tolist(), q.tolist(), D.tolist(), strict=True):
        total += a * math.log(d) if a else 0.0
        total += b * math.log(1 - d) if b else 0.0
    return total


@pytest.mark.exercise("value", points=5)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_value_by_the_sum(student, device, k):
    """V should be the sum of p log D + q log(1 - D) over the outcomes; inputs stay as they are."""
    p, q = distributions(k, device=device), distributions(k, device=device)
    D = 0.05 + 0.9 * rand(k, device=device)
    with unchanged(p, q, D):
        got = student.value(p, q, D)
    expected = torch.tensor(plain_value(p, q, D), dtype=p.dtype, device=device)
    assert_close(
        got,
        expected,
        "V",
        symptoms={
            "p and q are exchanged.": torch.tensor(
                plain_value(q, p, D), dtype=p.dtype, device=device
            ),
            "The sign is wrong: V is never positive.": -expected,
        },
    )


@pytest.mark.exercise("value", points=3)
def test_value_at_the_border(student, device):
    """0 log 0 should count as 0; a D that is sure and wrong should make V minus infinity."""
    p = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64, device=device)
    q = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64, device=device)
    D = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64, device=device)
    expected = torch.tensor(1.25 * math.log(0.5), dtype=torch.float64, device=device)
    assert_close(student.value(p, q, D), expected, "V")
    for wrong in ([0.0, 0.5, 0.0], [1.0, 0.5, 1.0]):
        D = torch.tensor(wrong, dtype=torch.float64, device=device)
        assert_close(student.value(p, q, D), torch.full_like(expected, -math.inf), f"V for {wrong}")


@pytest.mark.exercise("value", points=3)
def test_many_judges(student, device):
    """One call should serve many D and many distributions, in float32 too."""
    p, q = distributions(3, 1, 5, device=device), distributions(3, 1, 5, device=device)
    D = 0.05 + 0.9 * rand(4, 5, device=device)
    got = student.value(p, q, D)
    expected = [[plain_value(p[i, 0], q[i, 0], D[j]) for j in range(4)] for i in range(3)]
    assert_close(got, torch.tensor(expected, dtype=torch.float64, device=device), "V")
    small = student.value(p.float(), q.float(), D.float())
    assert_close(small, torch.tensor(expected, dtype=torch.float32, device=device), "V in float32")


@pytest.mark.exercise("value", points=4)
def test_optimal_d(student, device):
    """optimal_d should be p / (p + q), and one half where neither p nor q has anything."""
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.0, 0.25, 0.75, 0.0], [0.3, 0.2, 0.1, 0.4]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 2 / 3, 0.0, 0.5], [0.25, 0.5, 0.875, 0.0]], dtype=torch.float64)
    p, q, expected = p.to(device), q.to(device), expected.to(device)
    with unchanged(p, q):
        got = student.optimal_d(p, q)
    assert_close(got, expected, "D*", symptoms={"p and q are exchanged.": 1 - expected})
    assert_close(student.optimal_d(p.float(), q.float()), expected.float(), "D* in float32")
    assert_close(
        student.optimal_d(p[0], q), torch.stack([expected[0], p[0] / (p[0] + q[1])]).nan_to_num(0.5)
    )
    assert_same_gradients(student.optimal_d, lambda p, q: p / (p + q), p[1, :3], q[1, :3])
    tiny = torch.tensor([1e-30, 1 - 1e-30], dtype=torch.float64, device=device)
    other = torch.tensor([3e-30, 1 - 3e-30], dtype=torch.float64, device=device)
    assert_close(student.optimal_d(tiny, other)[0].item(), 0.25, "D* at a very rare outcome")


@pytest.mark.exercise("value", points=4)
def test_no_other_d_is_better(student, device):
    """V at optimal_d should be the largest: no random D beats it, and its slope there is 0."""
    p, q = distributions(6, device=device), distributions(6, device=device)
    best = student.optimal_d(p, q)
    top = student.value(p, q, best)
    tries = rand(2000, 6, device=device)
    near = (best + 0.02 * (rand(200, 6, device=device) - 0.5)).clamp(0, 1)
    for some, sentence in (
        (tries, "A random D is better than D*."),
        (near, "A D close to D* is better than D*."),
    ):
        highest = student.value(p, q, some).max().item()
        require(
            highest <= top.item() + 1e-12, sentence, f"a V of at most {top.item():.6f}", highest
        )
    D = best.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(student.value(p, q, D), D)
    assert_close(slope, torch.zeros_like(slope), "the slope of V at D*", atol=1e-9)
    D = (0.1 + 0.8 * rand(6, device=device)).requires_grad_()
    (slope,) = torch.autograd.grad(student.value(p, q, D), D)
    assert_close(slope, (p / D - q / (1 - D)).detach(), "the gradient of V for D")


@pytest.mark.exercise("value", points=4)
@pytest.mark.parametrize("shape", [(1,), (2,), (6,), (3, 5), (2, 2, 4)])
def test_js_equals_scipy(student, device, shape):
    """js should be the square of SciPy's jensenshannon, zeros included, and symmetric."""
    for zeros in (0.0, 0.5):
        p = distributions(*shape, device=device, zeros=zeros)
        q = distributions(*shape, device=device, zeros=zeros)
        with unchanged(p, q):
            got = student.js(p, q)
        root = torch.as_tensor(jensenshannon(p.cpu().numpy(), q.cpu().numpy(), axis=-1))
        expected = (root**2).to(device)
        assert_close(
            got,
            expected,
            "JS",
            atol=1e-8,
            symptoms={
                "This is the square root.": root.to(device),
                "Take half of the sum of the two KL divergences.": 2 * expected,
                "This is in bits; use the natural logarithm.": expected / math.log(2),
            },
        )
        assert_close(student.js(q, p), got, "JS(q, p)", atol=1e-12)

    def entropies(a, b):
        """JS of two softmaxes, as the gain in entropy of their average."""
        p, q = a.softmax(-1), b.softmax(-1)
        h = [torch.special.entr(r).sum(-1) for r in ((p + q) / 2, p, q)]
        return h[0] - (h[1] + h[2]) / 2

    assert_same_gradients(
        lambda a, b: student.js(a.softmax(-1), b.softmax(-1)),
        entropies,
        randn(*shape, device=device),
        randn(*shape, device=device),
        what="the gradient of JS",
    )


@pytest.mark.exercise("value", points=2)
def test_three_together(student, device):
    """V at D* should be 2 JS - log 4: -log 4 for p = q, and 0 for disjoint distributions."""
    p, q = distributions(4, 5, device=device, zeros=0.4), distributions(4, 5, device=device)
    v = student.value(p, q, student.optimal_d(p, q))
    assert_close(v, 2 * student.js(p, q) - math.log(4), "V at D*", atol=1e-9)
    assert_close(v, 2 * torch.as_tensor(jensenshannon(p.cpu(), q.cpu(), axis=1) ** 2).to(device)
                 - math.log(4), "V at D*", atol=1e-8)  # fmt: skip
    same = student.value(p, p, student.optimal_d(p, p))
    assert_close(same, torch.full_like(same, -math.log(4)), "V for p = q")
    left = torch.tensor([0.3, 0.7, 0, 0, 0], dtype=torch.float32, device=device)
    right = torch.tensor([0, 0, 0.6, 0.4, 0], dtype=torch.float32, device=device)
    apart = student.value(left, right, student.optimal_d(left, right))
    assert_close(apart, torch.zeros_like(apart), "V for disjoint distributions")
    assert_close(student.js(left, right).item(), math.log(2), "JS of disjoint ones", rtol=1e-5)


# --- step ------------------------------------------------------------------------------------


@probe
def play_round(student, kind, weights, real, z, k, rates, rounds):
    """Some rounds with given weights and old gradients; what came out, and who moved when."""

    class Judge(nn.Module):
        """Logits of shape [N]; with batch normalisation if asked for."""

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4) if kind == "norm" else nn.Identity()
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            y = self.last(torch.tanh(self.norm(self.first(x))))
            return y[:, 0] if kind == "flat" else y

    G = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4) if kind == "norm" else nn.Tanh(),
                      nn.Linear(4, 3)).to(real)  # fmt: skip
    D = Judge().to(real)
    G.load_state_dict(weights[0])
    D.load_state_dict(weights[1])
    make = torch.optim.Adam if kind == "adam" else torch.optim.SGD
    opt_g, opt_d = make(G.parameters(), rates[0]), make(D.parameters(), rates[1])
    for w in [*G.parameters(), *D.parameters()]:
        w.grad = torch.full_like(w, 7.0)  # what an earlier round left behind
    losses = []
    for _ in range(rounds):
        args = () if k is None else (k,)
        losses.append(student.gan_step(G, D, opt_g, opt_d, real, z, *args))
    return losses, [w.detach() for w in G.parameters()], [w.detach() for w in D.parameters()]


def random_nets(kind, device, dtype):
    """Random weights of the two networks of `play_round`."""

    def t(*shape):
        return randn(*shape, dtype=dtype, device=device)

    G = {"0.weight": t(4, 2), "0.bias": t(4), "2.weight": t(3, 4), "2.bias": t(3)}
    D = {"first.weight": t(4, 3), "first.bias": t(4), "last.weight": t(1, 4), "last.bias": t(1)}
    if kind == "norm":
        for net, name in ((G, "1"), (D, "norm")):
            net |= {
                f"{name}.weight": t(4),
                f"{name}.bias": t(4),
                f"{name}.running_mean": torch.zeros(4, dtype=dtype, device=device),
                f"{name}.running_var": torch.ones(4, dtype=dtype, device=device),
                f"{name}.num_batches_tracked": torch.tensor(0, device=device),
            }
    return G, D


def normalised(x, weight, bias):
    return weight * (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() + bias


def expected_rounds(kind, weights, real, z, k, rates, rounds, mixed=False, halved=False):
    """The same rounds, written as functions of the weights."""
    G, D = (
        {n: w.clone().requires_grad_() for n, w in net.items() if w.is_floating_point()
         and "running" not in n} for net in weights
    )  # fmt: skip

    def made(G):
        y = z @ G["0.weight"].T + G["0.bias"]
        y = normalised(y, G["1.weight"], G["1.bias"]) if kind == "norm" else y.tanh()
        return y @ G["2.weight"].T + G["2.bias"]

    def logits(D, x):
        y = x @ D["first.weight"].T + D["first.bias"]
        if kind == "norm":
            y = normalised(y, D["norm.weight"], D["norm.bias"])
        return y.tanh() @ D["last.weight"].T + D["last.bias"]

    make = torch.optim.Adam if kind == "adam" else torch.optim.SGD
    opt_g, opt_d = make(list(G.values()), rates[0]), make(list(D.values()), rates[1])
    losses = []
    for _ in range(rounds):
        fake = made(G).detach()
        for _ in range(k):
            if mixed:
                both = logits(D, torch.cat([real, fake]))
                d_loss = bce(both[: len(real)], 1.0) + bce(both[len(real) :], 0.0)
            else:
                d_loss = bce(logits(D, real), 1.0) + bce(logits(D, fake), 0.0)
            opt_d.zero_grad()
            (d_loss / 2 if halved else d_loss).backward()
            opt_d.step()
        g_loss = bce(logits(D, made(G)), 1.0)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        losses.append({"d_loss": d_loss.item(), "g_loss": g_loss.item()})
    order = {"G": list(G.values()), "D": list(D.values())}
    if kind == "norm":  # the order in which the modules list them
        order["G"] = [G[n] for n in ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight",
                                     "2.bias")]  # fmt: skip
        order["D"] = [D[n] for n in ("first.weight", "first.bias", "norm.weight", "norm.bias",
                                     "last.weight", "last.bias")]  # fmt: skip
    return losses, [w.detach() for w in order["G"]], [w.detach() for w in order["D"]]


def compare_rounds(student, kind, device, k, dtype=torch.float64, rounds=1, n=(5, 5)):
    weights = random_nets(kind, device, dtype)
    real = randn(n[0], 3, dtype=dtype, device=device) + 1
    z = randn(n[1], 2, dtype=dtype, device=device)
    rates = (0.01, 0.02) if kind == "adam" else (0.3, 0.4)
    with unchanged(real, z):
        losses, G, D = student.run(play_round, kind, weights, real, z, k, rates, rounds)
    k = 1 if k is None else k
    wanted, G_wanted, D_wanted = expected_rounds(kind, weights, real, z, k, rates, rounds)
    loose = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-8}
    _, _, D_mixed = expected_rounds(kind, weights, real, z, k, rates, rounds, mixed=True)
    _, _, D_half = expected_rounds(kind, weights, real, z, k, rates, rounds, halved=True)
    symptoms = {
        "D has not moved at all.": list(weights[1].values())[: len(D_wanted)],
        "The step is that of half the loss; add the two means, do not average them.": D_half,
    }
    if kind == "norm":
        symptoms["Real and fake went through D in one batch."] = D_mixed
    assert_close(list(D), D_wanted, "D's weights", symptoms=symptoms, **loose)
    still = list(weights[0].values())[: len(G_wanted)]
    assert_close(list(G), G_wanted, "G's weights", symptoms={"G has not moved at all.": still},
                 **loose)  # fmt: skip
    for got, expected in zip(losses, wanted, strict=True):
        assert_close(got, expected, "the losses", **loose)
        kinds = {name: type(loss).__name__ for name, loss in got.items()}
        assert_equal(kinds, {"d_loss": "float", "g_loss": "float"}, "the types of the losses")


@pytest.mark.exercise("step", points=6)
@pytest.mark.parametrize("kind", ["plain", "flat"])
@pytest.mark.parametrize("k", [None, 1, 2, 4])
def test_round_equals_two_phases(student, device, kind, k):
    """A round should be k SGD steps of D on its loss, then one of G on its own, old gradients
    forgotten; the losses are floats from before the update."""
    compare_rounds(student, kind, device, k, n=(5, 5))


@pytest.mark.exercise("step", points=4)
@pytest.mark.parametrize("kind, k", [("norm", 1), ("norm", 2), ("adam", 1), ("adam", 3)])
def test_norm_and_adam(student, device, kind, k):
    """Several rounds with batch normalisation, or with Adam, should go right: real and fake pass
    through D apart, and each optimizer keeps its own state."""
    compare_rounds(student, kind, device, k, rounds=3, n=(6, 6))


@pytest.mark.exercise("step", points=3)
@pytest.mark.parametrize("n", [(1, 1), (7, 3), (2, 9)])
def test_odd_batches(student, device, n):
    """A batch of one, and a number of fakes other than that of the real ones, should work."""
    compare_rounds(student, "plain", device, 2, n=n)
    compare_rounds(student, "flat", device, 1, n=n, dtype=torch.float32)


@probe
def watch_round(student, k, frozen, training):
    """What each player's gradients are before and after the steps of both; flags and modes."""
    torch.manual_seed(3)
    G = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.0), nn.Linear(3, 2))
    D = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    for i in frozen:
        list(D.parameters())[i].requires_grad_(False)
    G.train(training[0])
    D.train(training[1])
    opts = {"G": torch.optim.SGD(G.parameters(), 0.1), "D": torch.optim.SGD(D.parameters(), 0.1)}
    for w in G.parameters():
        w.grad = torch.full_like(w, 5.0)

    def grads(net):
        return [None if w.grad is None else w.grad.clone() for w in net.parameters()]

    def weights(net):
        return [w.detach().clone() for w in net.parameters()]

    seen = []
    for name, opt in opts.items():
        opt.register_step_pre_hook(
            lambda *_, name=name: seen.append((name, grads(G), grads(D), weights(G), weights(D)))
        )
    start = weights(G), weights(D)
    args = (G, D, opts["G"], opts["D"], torch.randn(5, 2), torch.randn(5, 2))
    student.gan_step(*args, k=k)
    end = ("end", grads(G), grads(D), weights(G), weights(D))
    flags = [w.requires_grad for w in G.parameters()], [w.requires_grad for w in D.parameters()]
    modes = [m.training for m in G.modules()], [m.training for m in D.modules()]
    return [("start", [], [], *start), *seen, end], flags, modes


def same_grads(a, b):
    """Whether two lists of gradients are equal; None counts as zero."""
    return all(
        (x is None or not x.any()) and (y is None or not y.any())
        if x is None or y is None
        else torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.exercise("step", points=5)
@pytest.mark.parametrize("k", [1, 3])
def test_who_stands_still(student, k):
    """D's weights should change in D's steps only and G's in G's; who stands still should get no
    gradient."""
    events, _, _ = student.run(watch_round, k, [], (True, True))
    order = "".join(name for name, *_ in events[1:-1])
    assert_equal(order, "D" * k + "G", "the order of the steps")
    old = [torch.full_like(w, 5.0) for w in events[0][3]]
    last_d = events[k]
    for i in range(1, k + 1):
        _, g_grads, _, g_weights, _ = events[i]
        require(
            same_grads(g_grads, old) or not any(g is not None and g.any() for g in g_grads),
            "While D learns, nothing should be added to the gradients of G.",
            "the old gradients, zeros or None",
            g_grads[0],
        )
        assert_close(list(g_weights), list(events[0][3]), "G's weights while D learns")
    before_g, end = events[k + 1], events[-1]
    for event, when in ((before_g, "in G's phase"), (end, "at the end")):
        d_grads = event[2]
        require(
            same_grads(d_grads, last_d[2]) or not any(g is not None and g.any() for g in d_grads),
            f"G's step should add nothing to the gradients of D ({when}).",
            f"those of D's own step, {brief(last_d[2][0])}, zeros or None",
            d_grads[0],
        )
    assert_close(list(end[4]), list(before_g[4]), "D's weights in G's phase")
    require(
        all(g is not None for g in before_g[1]),
        "When G steps, all its parameters need a gradient.",
        "four tensors",
        list(before_g[1]),
    )


@pytest.mark.exercise("step", points=4)
@pytest.mark.parametrize("frozen", [[], [0], [1, 2], [0, 1]])
@pytest.mark.parametrize("training", [(True, True), (False, True), (True, False)])
def test_flags_and_modes(student, frozen, training):
    """At the end, requires_grad of every parameter and the mode of every module should be what
    they were, and a frozen layer of D should not have moved."""
    events, (g_flags, d_flags), (g_modes, d_modes) = student.run(watch_round, 2, frozen, training)
    assert_equal(list(g_flags), [True] * 4, "requires_grad of G's parameters")
    assert_equal(
        list(d_flags), [i not in frozen for i in range(4)], "requires_grad of D's parameters"
    )
    assert_equal(list(g_modes), [training[0]] * 4, "the modes of G")
    assert_equal(list(d_modes), [training[1]] * 4, "the modes of D")
    first, last = events[0][4], events[-1][4]
    for i in range(4):
        moved = not torch.equal(first[i], last[i])
        assert_equal(moved, i not in frozen, f"whether parameter {i} of D has moved")


@pytest.mark.exercise("step", points=3)
@pytest.mark.parametrize("k", [0, -1])
def test_no_step_of_d(student, k):
    """gan_step should raise a ValueError for k below 1, before anything moves."""
    with raises(ValueError):
        student.run(watch_round, k, [], (True, True))
    moved = student.run(try_round, k)
    assert_equal(moved, [False, False], "whether G and D have moved")


@probe
def try_round(student, k):
    """Whether the networks have moved although k is wrong."""
    G, D = nn.Linear(2, 2), nn.Linear(2, 1)
    before = [net.weight.detach().clone() for net in (G, D)]
    opts = [torch.optim.SGD(net.parameters(), 0.1) for net in (G, D)]
    try:  # noqa: SIM105 (a probe has no contextlib)
        student.gan_step(G, D, *opts, torch.randn(3, 2), torch.randn(3, 2), k)
    except ValueError:
        pass
    return [not torch.equal(net.weight, w) for net, w in zip((G, D), before)]


# --- ring ------------------------------------------------------------------------------------


@probe
def rounds_on_ring(student, steps, seed, n):
    """Points of the student's generator, of the reference's, and the latent vectors."""
    latent, batch, rate_g, rate_d = 2, 128, 1e-3, 4e-3
    angles = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    torch.manual_seed(99)  # what the caller's generator happens to be
    G = student.train_ring(steps, seed)
    where = next(G.parameters()).device

    def net(outputs):
        layers = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                  nn.Linear(64, outputs)]  # fmt: skip
        return nn.Sequential(*layers).to(where)

    def adam(net, rate):
        return torch.optim.Adam(net.parameters(), rate, betas=(0.5, 0.99))

    torch.manual_seed(seed)
    mine, judge = net(2), net(1)
    start = [w.detach().clone() for w in mine.parameters()]
    opt_g, opt_d = adam(mine, rate_g), adam(judge, rate_d)
    for _ in range(min(steps, 3)):
        which = torch.randint(8, (batch,))
        real = (centres[which] + 0.2 * torch.randn(batch, 2)).to(where)
        fake = mine(torch.randn(batch, latent).to(where))
        opt_d.zero_grad()
        d_loss = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
        d_loss.backward()
        opt_d.step()
        opt_g.zero_grad()
        F.softplus(-judge(fake)).mean().backward()
        opt_g.step()
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, latent, generator=generator).to(where)
    moved = max((w - s).abs().max().item() for w, s in zip(G.parameters(), start))
    return G(z).detach().cpu(), mine(z).detach().cpu(), moved, G.training


@pytest.mark.exercise("ring", points=7)
@pytest.mark.parametrize("steps, seed", [(0, 0), (3, 0), (3, 11), (1, 4)])
def test_first_rounds(student, steps, seed):
    """After 0, 1 and 3 rounds the generator should be the one that the description leads to."""
    points, expected, moved, _ = student.run(rounds_on_ring, steps, seed, 50)
    if not steps:
        assert_close(points, expected, "the points of the fresh G", rtol=1e-3, atol=2e-5)
    require(
        moved <= 1.5e-3 * steps + 1e-7,
        "A weight of G has moved further than it can with LR_G and one step in each round.",
        f"about {1e-3 * steps:.4f} after {steps} rounds",
        moved,
    )
    if steps:
        require(
            moved > 0.5e-3 * steps,
            "G has hardly moved: does it make a step in each round, with LR_G?",
            f"about {1e-3 * steps:.4f} after {steps} rounds",
            moved,
        )
    assert_close(points, expected, f"the points after {steps} rounds", rtol=1e-3, atol=2e-5)


@pytest.mark.exercise("ring", points=6)
@pytest.mark.parametrize("seed", [1])
def test_modes_appear(student, seed):
    """After 400 rounds the generator should cover at least 6 of the 8 modes."""
    points, _, _, _ = student.run(rounds_on_ring, 400, seed, 400)
    angles = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    modes = count(points, centres)
    require(modes >= 6, "Too few modes are covered after 400 rounds.", "6 to 8 modes", modes)


@probe
def twice(student, steps):
    """Points after the same seed twice and after another; the seed must be set inside."""
    z = torch.linspace(-2, 2, 10).view(5, 2)
    out = []
    for seed in (2, 2, 3):
        torch.rand(7)
        G = student.train_ring(steps, seed)
        out.append(G(z.to(next(G.parameters()).device)).detach().cpu())
    return out


@pytest.mark.exercise("ring", points=3)
def test_seeds(student):
    """The same seed should give the same generator, another seed another one."""
    one, again, other = student.run(twice, 4)
    assert_close(again, one, "the points for the same seed", rtol=0, atol=0)
    require(
        (one - other).abs().max() > 1e-3,
        "Another seed gives the same generator.",
        "other points than " + brief(one[0]),
        other[0],
    )


def count(samples, centres, near=0.5):
    """Modes covered, counted one sample after the other."""
    hits = [0] * len(centres)
    for sample in samples:
        distances = [(sample - centre).norm().item() for centre in centres]
        if min(distances) <= near:
            hits[distances.index(min(distances))] += 1
    return sum(h * 4 * len(centres) >= len(samples) for h in hits)


@pytest.mark.exercise("ring", points=6)
@pytest.mark.parametrize("n, k, d", [(40, 3, 2), (57, 5, 2), (33, 2, 3), (1, 1, 1), (64, 8, 4)])
def test_count_is_exact(student, device, n, k, d):
    """modes_covered should equal a count by hand, for any number of samples, centres and axes."""
    for spread in (0.15, 0.4, 1.0):
        centres = 1.5 * randn(k, d, device=device)
        chosen = (rand(n, device=device) ** 3 * k).long()
        samples = centres[chosen] + spread * randn(n, d, device=device)
        with unchanged(samples, centres):
            got = student.modes_covered(samples, centres)
        assert_equal(got, count(samples.cpu(), centres.cpu()), "the number of modes")
        assert_equal(type(got).__name__, "int", "the type of the number")


@pytest.mark.exercise("ring", points=4)
def test_thresholds(student, device):
    """Exactly NEAR is near, exactly n / (4 K) hits are enough, and only the nearest centre
    is hit."""
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0]], device=device)
    edge = torch.tensor([[0.5, 0.0]] * 8 + [[8.0, 0.25]] * 8, device=device)
    assert_equal(student.modes_covered(edge, centres), 2, "the count at a distance of 0.5")
    edge[:8, 0] = 0.515625
    assert_equal(student.modes_covered(edge, centres), 1, "the count at a distance of 0.516")
    far = torch.full((14, 2), 40.0, device=device)
    hits = torch.tensor([[0.0, 0.1], [0.1, 0.0]], device=device)
    samples = torch.cat([far, hits])  # 16 samples: 2 hits are needed
    assert_equal(student.modes_covered(samples, centres), 1, "the count for 2 of 16 samples")
    assert_equal(
        student.modes_covered(torch.cat([samples, far[:1]]), centres),
        0,
        "the count for 2 of 17 samples",
    )
    close = torch.tensor([[0.0, 0.0], [0.5, 0.0]], device=device)
    samples = torch.tensor([[0.1, 0.0]] * 9, device=device)
    assert_equal(student.modes_covered(samples, close), 1, "the count where two centres are near")


@pytest.mark.exercise("ring", points=4)
def test_collapse_is_seen(student, device):
    """A generator with one mode, with two, or between all modes should get 1, 2 and 0; points
    with a gradient should do."""
    angles = torch.arange(8, device=device) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    noise = 0.1 * randn(400, 2, dtype=torch.float32, device=device)
    one = (centres[3] + noise).requires_grad_()
    assert_equal(student.modes_covered(one, centres), 1, "the count for a collapse")
    pair = centres[torch.arange(400, device=device) % 2 * 5] + noise
    assert_equal(student.modes_covered(pair, centres), 2, "the count for two modes")
    assert_equal(student.modes_covered(noise, centres), 0, "the count for points in the middle")
    some = torch.cat([pair[:396], centres[[1, 2, 6, 7]]])
    assert_equal(student.modes_covered(some, centres), 2, "the count with four stray points")
    whole = centres.repeat(50, 1) + noise
    assert_equal(student.modes_covered(whole, centres), 8, "the count for a full ring")
