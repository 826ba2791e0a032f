"""Hidden tests of the chapter on knowledge distillation."""

import functools
import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_true,
    does_not_call,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- temperature -----------------------------------------------------------------------------


@pytest.mark.exercise("temperature", points=4)
@pytest.mark.parametrize("shape", [(5,), (1, 7), (4, 3), (2, 3, 6), (3, 1)])
@pytest.mark.parametrize("T", [0.3, 1.0, 2.7, 40])
def test_softmax_equals_torch(student, device, shape, T):
    """softmax_t should equal the softmax of z / T along the last axis, for any shape and T."""
    z = 3 * randn(*shape, device=device)
    with unchanged(z), does_not_call(student, "softmax", "log_softmax"):
        got = student.softmax_t(z, T)
    assert_close(
        got,
        F.softmax(z / T, -1),
        symptoms={
            "The temperature is not used.": F.softmax(z, -1),
            "The logits are multiplied by T; divide them.": F.softmax(z * T, -1),
            "The sums run along the first axis; take the last.": F.softmax(z / T, 0),
        },
    )


@pytest.mark.exercise("temperature", points=2)
def test_cold_and_hot(student, device):
    """A cold softmax should be one-hot (half and half in a tie), a hot one uniform."""
    z = torch.tensor([[0.1, 0.4, 0.2], [2.0, -1.0, 2.0]], dtype=torch.float64, device=device)
    cold = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64, device=device)
    assert_close(student.softmax_t(z, 1e-3), cold, "the output at T = 0.001")
    hot = torch.full((2, 3), 1 / 3, dtype=torch.float64, device=device)
    assert_close(student.softmax_t(z, 1e8), hot, "the output at T = 100,000,000", atol=1e-7)


@pytest.mark.exercise("temperature", points=2)
@pytest.mark.parametrize("T", [1.0, 0.5, 10.0])
def test_large_logits(student, device, T):
    """Logits of plus and minus 10,000 should give finite probabilities, in float32 too."""
    z = torch.tensor([[1e4, 1e4 - 2, 0.0], [-1e4, -1e4 + 1, -1e4], [-1e4, 1e4, 0.0]], device=device)
    assert_close(student.softmax_t(z, T), F.softmax(z / T, -1), rtol=2e-3)


@pytest.mark.exercise("temperature", points=1)
@pytest.mark.parametrize("T", [0, 0.0, -0.5, -3])
def test_temperature_must_be_positive(student, T):
    """A temperature that is not above 0 should raise a ValueError."""
    with raises(ValueError):
        student.softmax_t(randn(2, 3), T)


@pytest.mark.exercise("temperature", points=3)
@pytest.mark.parametrize("shape", [(4,), (1, 6), (5, 3), (2, 3, 4)])
def test_entropy_equals_scipy(student, device, shape):
    """entropy should equal SciPy's along the last axis, with 0 log 0 = 0."""
    p = rand(*shape, device=device)
    p[..., 1] = 0.0
    p = p / p.sum(-1, keepdim=True)
    expected = torch.as_tensor(scipy.stats.entropy(p.cpu().numpy(), axis=-1), device=device)
    with unchanged(p):
        got = student.entropy(p)
    assert_close(
        got,
        expected,
        symptoms={
            "The sign is wrong.": -expected,
            "This is in bits; use the natural logarithm.": expected / math.log(2),
            "This is the mean over the classes; take the sum.": expected / shape[-1],
        },
    )


@pytest.mark.exercise("temperature", points=1)
def test_certain_answer(student):
    """A certain answer should have the entropy 0, and a nearly certain one a little more."""
    for dtype in (torch.float32, torch.float64):
        p = torch.eye(4, dtype=dtype)
        assert_close(student.entropy(p), torch.zeros(4, dtype=dtype), "the entropy")
    rare = torch.tensor([1e-6, 1e-5, 0.0, 1 - 1.1e-5], dtype=torch.float64)
    expected = torch.as_tensor(scipy.stats.entropy(rare.numpy()))
    assert_close(student.entropy(rare), expected, "the entropy", rtol=1e-3, atol=0.0)


@pytest.mark.exercise("temperature", points=2)
def test_entropy_rises_and_gradients(student):
    """The entropy should rise with the temperature, and both functions have right gradients."""
    z = 4 * randn(6, 5)
    steps = [student.entropy(student.softmax_t(z, T)) for T in (0.2, 0.7, 1.0, 3.0, 20.0)]
    rising = torch.stack([(b > a).all() for a, b in zip(steps, steps[1:], strict=False)])
    assert_true(rising.all(), "The entropy should rise with T for each row.")
    assert_same_gradients(
        lambda z: student.softmax_t(z, 1.7),
        lambda z: F.softmax(z / 1.7, -1),
        randn(2, 4),
        what="the gradient of softmax_t",
    )
    assert_same_gradients(
        student.entropy,
        lambda p: -(p * p.log()).sum(-1),
        rand(3, 4) + 0.1,
        what="the gradient of entropy",
    )


# --- kd --------------------------------------------------------------------------------------


def soft_term(zs, zt, T):
    """The mean divergence, without T²."""
    log_ps, log_pt = (zs / T).log_softmax(1), (zt / T).log_softmax(1)
    return (log_pt.exp() * (log_pt - log_ps)).sum(1).mean()


def hard_term(zs, y):
    return -zs.log_softmax(1)[torch.arange(len(y), device=y.device), y].mean()


def loss_symptoms(zs, zt, y, T, alpha):
    soft, hard = soft_term(zs, zt, T), hard_term(zs, y)
    n, k = zs.shape
    wrong = {
        "The factor T² of the soft term is missing.": alpha * soft + (1 - alpha) * hard,
        "The factor should be T², not T.": alpha * T * soft + (1 - alpha) * hard,
        "T² belongs to the soft term only.": T**2 * (alpha * soft + (1 - alpha) * hard),
        "Teacher and student are exchanged in the divergence.": alpha * T**2 * soft_term(zt, zs, T)
        + (1 - alpha) * hard,
        "The weights are exchanged: alpha belongs to the soft term.": (1 - alpha) * T**2 * soft
        + alpha * hard,
        "The hard term should see the logits undivided.": alpha * T**2 * soft
        + (1 - alpha) * hard_term(zs / T, y),
        "The soft term is divided by the number of classes too.": alpha * T**2 * soft / k
        + (1 - alpha) * hard,
        "The soft term is a sum over the batch; take the mean.": alpha * T**2 * soft * n
        + (1 - alpha) * hard,
        "This is a cross-entropy; a divergence is less by the teacher's entropy.": alpha
        * T**2
        * F.cross_entropy(zs / T, (zt / T).softmax(1))
        + (1 - alpha) * hard,
    }
    expected = alpha * T**2 * soft + (1 - alpha) * hard
    return {s: v for s, v in wrong.items() if not torch.allclose(v, expected)}


@pytest.mark.exercise("kd", points=7)
@pytest.mark.parametrize(
    "n, k, T, alpha",
    [(1, 3, 2.0, 0.5), (6, 5, 4.0, 0.9), (4, 10, 1.0, 0.3), (3, 2, 0.5, 0.75), (7, 4, 20, 0.1)],
)
def test_loss_by_hand(student, device, n, k, T, alpha):
    """The loss should be alpha T² times the divergence plus 1 - alpha times the cross-entropy."""
    zs, zt = 2 * randn(n, k, device=device), 3 * randn(n, k, device=device)
    y = randint(0, k, (n,), device=device)
    with unchanged(zs, zt, y), does_not_call(student, "kl_div"):
        got = student.kd_loss(zs, zt, y, T, alpha)
    expected = alpha * T**2 * soft_term(zs, zt, T) + (1 - alpha) * hard_term(zs, y)
    assert_close(got, expected, "the loss", symptoms=loss_symptoms(zs, zt, y, T, alpha))


@pytest.mark.exercise("kd", points=5)
def test_ends_of_alpha(student, device):
    """alpha = 1 should leave the soft term only, alpha = 0 the hard term only."""
    zs, zt = randn(5, 4, device=device), randn(5, 4, device=device)
    y = randint(0, 4, (5,), device=device)
    assert_close(
        student.kd_loss(zs, zt, y, 3.0, 1.0), 9 * soft_term(zs, zt, 3.0), "the loss for alpha = 1"
    )
    assert_close(student.kd_loss(zs, zt, y, 3.0, 0.0), hard_term(zs, y), "the loss for alpha = 0")
    zero = torch.zeros((), dtype=zs.dtype, device=device)
    assert_close(student.kd_loss(zs, zs + 5, y, 3.0, 1), zero, "the soft loss of a perfect student")


@pytest.mark.exercise("kd", points=7)
@pytest.mark.parametrize("T, alpha", [(1.0, 1.0), (3.0, 0.6), (10.0, 0.9), (2.0, 0.0)])
def test_loss_gradient(student, device, T, alpha):
    """The gradient for zs should be that of the formula: alpha T (ps - pt) and the hard part."""
    zs, zt = randn(4, 6, device=device), 2 * randn(4, 6, device=device)
    y = randint(0, 6, (4,), device=device)
    leaf = zs.clone().requires_grad_()
    (got,) = torch.autograd.grad(student.kd_loss(leaf, zt, y, T, alpha), leaf)
    soft = T * ((zs / T).softmax(1) - (zt / T).softmax(1)) / 4
    hard = (zs.softmax(1) - F.one_hot(y, 6)) / 4
    assert_close(
        got,
        alpha * soft + (1 - alpha) * hard,
        "the gradient",
        symptoms={"The factor T² is missing.": alpha * soft / T**2 + (1 - alpha) * hard}
        if T > 1
        else None,
    )


@pytest.mark.exercise("kd", points=4)
@pytest.mark.parametrize("T", [50.0, 300.0, 2000.0])
def test_balance_does_not_depend_on_temperature(student, device, T):
    """For high T the soft gradient should stay (zs - zt) / (N K), for logits of mean zero."""
    zs, zt = randn(3, 5, device=device), randn(3, 5, device=device)
    zs, zt = zs - zs.mean(1, keepdim=True), zt - zt.mean(1, keepdim=True)
    leaf = zs.clone().requires_grad_()
    y = randint(0, 5, (3,), device=device)
    (got,) = torch.autograd.grad(student.kd_loss(leaf, zt, y, T, 1.0), leaf)
    expected = (zs - zt) / 15
    assert_close(got.norm() / expected.norm(), torch.ones_like(got.norm()), "the ratio", rtol=0.05)
    assert_close(got, expected, "the gradient", rtol=0.05, atol=0.02)


@probe
def gradients_of_both(student, zs, zt, y):
    zs, zt = zs.clone().requires_grad_(), zt.clone().requires_grad_()
    student.kd_loss(zs, zt, y, 2.0, 0.5).backward()
    return zs.grad is not None, zt.grad is None or bool((zt.grad == 0).all())


@pytest.mark.exercise("kd", points=3)
def test_no_gradient_for_the_teacher(student, device):
    """A gradient should reach the student's logits, and none the teacher's."""
    zs, zt = randn(3, 4, device=device), randn(3, 4, device=device)
    pupil, spared = student.run(gradients_of_both, zs, zt, randint(0, 4, (3,), device=device))
    assert_true(pupil, "No gradient reaches the student's logits.")
    assert_true(spared, "A gradient reaches the teacher's logits.")


@pytest.mark.exercise("kd", points=2)
def test_loss_of_large_logits(student, device):
    """Logits of 10,000 should give a finite loss and gradient, in float32 too."""
    zs = torch.tensor([[1e4, 0.0, -1e4], [3.0, 1.0, 2.0]], device=device)
    zt = torch.tensor([[0.0, 1e4, -1e4], [1e4, -1e4, 5.0]], device=device)
    y = torch.tensor([1, 0], device=device)
    leaf = zs.clone().requires_grad_()
    loss = student.kd_loss(leaf, zt, y, 2.0, 0.5)
    expected = 0.5 * 4 * soft_term(zs.double(), zt.double(), 2.0) + 0.5 * hard_term(zs.double(), y)
    assert_close(loss, expected.float(), "the loss")
    (grad,) = torch.autograd.grad(loss, leaf)
    assert_true(grad.isfinite().all(), "The gradient should be finite.")


@pytest.mark.exercise("kd", points=2)
@pytest.mark.parametrize("T, alpha", [(0, 0.5), (-1.0, 0.5), (2.0, -0.01), (2.0, 1.01), (-2.0, 2)])
def test_numbers_out_of_range(student, T, alpha):
    """T <= 0, or alpha outside of 0 to 1, should raise a ValueError."""
    with raises(ValueError):
        student.kd_loss(randn(2, 3), randn(2, 3), randint(0, 3, (2,)), T, alpha)


# --- scaling ---------------------------------------------------------------------------------


def norms_by_formula(zs, zt, Ts):
    gradients = [((zs / T).softmax(1) - (zt / T).softmax(1)) / T for T in Ts]
    return torch.stack([g.norm(dim=1).mean() for g in gradients])


@pytest.mark.exercise("scaling", points=6)
@pytest.mark.parametrize(
    "n, k, Ts",
    [(1, 4, [2.0]), (5, 3, [1.0, 0.5, 8.0]), (3, 7, (3, 1, 2, 30)), (8, 2, [1e-1, 1.5])],
)
def test_norms_by_formula(student, device, n, k, Ts):
    """Each entry should be the mean norm of (ps - pt) / T, in the order of the temperatures."""
    zs, zt = 2 * randn(n, k, device=device), 3 * randn(n, k, device=device)
    expected = norms_by_formula(zs, zt, Ts)
    with unchanged(zs, zt, Ts):
        got = student.grad_norms(zs, zt, Ts)
    T = torch.tensor(Ts, dtype=zs.dtype, device=device)
    joint = torch.stack([(((zs / t).softmax(1) - (zt / t).softmax(1)) / t).norm() for t in Ts])
    wrong = {
        "T² is in it: take the gradient without the factor.": expected * T**2,
        "A factor 1/T is missing: differentiate by the logits themselves.": expected * T,
        "The loss was averaged, so each gradient is divided by N.": expected / n,
        "The norms are added; take their mean.": expected * n,
        "This is the norm of the whole batch's gradient.": joint,
        "That norm of the whole batch is divided by N; take each example's norm.": joint / n,
    }
    wrong = {s: v for s, v in wrong.items() if not torch.allclose(v, expected)}
    assert_close(got, expected, "the norms", symptoms=wrong)


@pytest.mark.exercise("scaling", points=4)
@pytest.mark.parametrize("mean", [0.0, 7.0])
def test_limit_of_high_temperature(student, device, mean):
    """At high T the norm times K T² should be that of zs - zt, each less its mean, to 1 percent."""
    zs, zt = randn(4, 6, device=device), randn(4, 6, device=device)
    zs, zt = zs - zs.mean(1, keepdim=True), zt - zt.mean(1, keepdim=True)
    Ts = torch.tensor([500.0, 3000.0], dtype=zs.dtype, device=device)
    got = student.grad_norms(zs + mean, zt - 2 * mean, Ts.tolist())
    expected = (zs - zt).norm(dim=1).mean().expand(2)
    assert_close(got * 6 * Ts**2, expected, "the norms times K T²", rtol=0.01)


@probe
def norms_and_leftovers(student, zs, zt, Ts):
    zs = zs.clone().requires_grad_()
    zt = zt.clone().requires_grad_()
    zs.grad = torch.full_like(zs, 7.0)
    norms = student.grad_norms(zs, zt, Ts)
    clean = bool((zs.grad == 7.0).all()) and zt.grad is None and zs.requires_grad
    plain = zs.detach().clone()
    student.grad_norms(plain, zt.detach(), Ts)
    return norms.detach(), clean, plain.requires_grad


@pytest.mark.exercise("scaling", points=3)
def test_gradients_of_others_stay(student, device):
    """Logits that already have a gradient should keep it, and nothing is added to it."""
    zs, zt = randn(3, 4, device=device), randn(3, 4, device=device)
    got, clean, marked = student.run(norms_and_leftovers, zs, zt, [1.0, 4.0])
    assert_true(clean, "The .grad of the logits has changed: use torch.autograd.grad, or a copy.")
    assert_equal(marked, False, "`zs.requires_grad` after the call, False before,")
    assert_close(got, norms_by_formula(zs, zt, [1.0, 4.0]), "the norms")


@pytest.mark.exercise("scaling", points=2)
def test_no_difference_and_float32(student, device):
    """A perfect student should give zeros; float32 logits should give float32 norms."""
    zt = randn(3, 5, dtype=torch.float32, device=device)
    zeros = torch.zeros(2, device=device)
    assert_close(student.grad_norms(zt + 3, zt, [1.0, 5.0]), zeros, "a perfect student's norms")
    zs = randn(3, 5, dtype=torch.float32, device=device)
    expected = norms_by_formula(zs.double(), zt.double(), [1.0, 5.0]).float()
    assert_close(student.grad_norms(zs, zt, [1.0, 5.0]), expected, "the norms", rtol=1e-3)


# --- student ---------------------------------------------------------------------------------


@probe
def small_training(student, weights, batches, epochs, T, alpha, device):
    """Two linear networks with given weights: the student's weights and the history afterwards."""
    teacher, pupil = (nn.Linear(3, 4, dtype=torch.float64, device=device) for _ in range(2))
    with torch.no_grad():
        for p, w in zip([*teacher.parameters(), *pupil.parameters()], weights, strict=True):
            p.copy_(w)
    history = student.distill(teacher, pupil, batches, epochs, T, alpha)
    return [p.detach().cpu() for p in pupil.parameters()], [float(h) for h in history]


def by_the_book(weights, batches, epochs, T, alpha, lr=0.01):
    """The same training, step by step."""
    teacher, pupil = (nn.Linear(3, 4, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for p, w in zip([*teacher.parameters(), *pupil.parameters()], weights, strict=True):
            p.copy_(w)
    parameters = list(pupil.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    history, step = [], 0
    for _ in range(epochs):
        losses = []
        for x, y in batches:
            zs, zt = pupil(x), teacher(x).detach()
            loss = alpha * T**2 * soft_term(zs, zt, T) + (1 - alpha) * hard_term(zs, y)
            grads = torch.autograd.grad(loss, parameters)
            step += 1
            for p, m, v, g in zip(parameters, first, second, grads, strict=True):  # Adam
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                with torch.no_grad():
                    p -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    return [p.detach() for p in pupil.parameters()], history


def small_problem(sizes):
    weights = [2 * randn(4, 3), randn(4), randn(4, 3), randn(4)]
    return weights, [(2 * randn(n, 3), randint(0, 4, (n,))) for n in sizes]


@pytest.mark.exercise("student", points=10)
@pytest.mark.parametrize(
    "sizes, epochs, T, alpha",
    [((6,), 1, 4.0, 0.9), ((5, 5, 2), 3, 2.0, 0.5), ((1, 4), 2, 1.0, 1.0), ((7, 3), 4, 8.0, 0.0)],
)
def test_every_step(student, device, sizes, epochs, T, alpha):
    """The student should be trained by Adam on the distillation loss, one step for each batch."""
    weights, batches = small_problem(sizes)
    got, _ = student.run(small_training, weights, batches, epochs, T, alpha, str(device))
    expected, _ = by_the_book(weights, batches, epochs, T, alpha)
    hard_only, _ = by_the_book(weights, batches, epochs, T, 0.0)
    exchanged, _ = by_the_book(weights, batches, epochs, T, 1 - alpha)
    another_rate, _ = by_the_book(weights, batches, epochs, T, alpha, lr=0.001)
    one_epoch, _ = by_the_book(weights, batches, 1, T, alpha)
    wrong = {
        "The student was not trained at all.": weights[2:],
        "The teacher has no say: only the labels were used.": hard_only,
        "The weights are exchanged: alpha belongs to the soft term.": exchanged,
        "The learning rate is Adam's default; it should be 0.01.": another_rate,
        "There was only one epoch.": one_epoch,
    }
    wrong = {
        s: v
        for s, v in wrong.items()
        if not all(torch.allclose(a, b) for a, b in zip(v, expected, strict=True))
    }
    assert_close(list(got), expected, "the student's parameters", rtol=1e-5, symptoms=wrong)


@pytest.mark.exercise("student", points=4)
@pytest.mark.parametrize("epochs", [1, 3])
def test_history(student, device, epochs):
    """distill should return each epoch's mean of its batches' losses, as floats."""
    weights, batches = small_problem((6, 2, 3))
    _, got = student.run(small_training, weights, batches, epochs, 3.0, 0.7, str(device))
    _, expected = by_the_book(weights, batches, epochs, 3.0, 0.7)
    sums = [3 * e for e in expected]
    assert_close(
        list(got),
        expected,
        "the history",
        rtol=1e-5,
        symptoms={"The losses are added; take the mean over the epoch's batches.": sums},
    )


@probe
def watched_training(student, device):
    """Networks whose modes matter: what they saw, and what is left behind."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    pupil = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    teacher, pupil = teacher.to(device).train(), pupil.to(device).eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    start = [p.detach().clone() for p in pupil.parameters()]
    modes = {"teacher": [], "student": []}
    teacher.register_forward_hook(lambda m, i, o: modes["teacher"].append(m.training))
    pupil.register_forward_hook(lambda m, i, o: modes["student"].append(m.training))
    batches = [(torch.randn(6, 3), torch.randint(0, 4, (6,))) for _ in range(3)]
    history = student.distill(teacher, pupil, batches, 2, 2.0, 0.5)
    same = all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    grads = sum(p.grad is not None for p in teacher.parameters())
    moved = all(not torch.equal(a, b) for a, b in zip(start, pupil.parameters(), strict=True))
    modules = [m.training for m in teacher.modules()], [m.training for m in pupil.modules()]
    kind = all(isinstance(h, float) for h in history)
    return {
        "teacher's modes": modes["teacher"],
        "student's modes": modes["student"],
        "same": same,
        "grads": grads,
        "moved": moved,
        "left": [any(m) for m in modules],
        "floats": kind,
    }


@pytest.mark.exercise("student", points=7)
def test_teacher_is_not_touched(student, device):
    """The teacher should run in eval mode, and keep its parameters, buffers and gradients."""
    seen = student.run(watched_training, str(device))
    assert_true(len(seen["teacher's modes"]) > 0, "The teacher was never asked.")
    assert_equal(any(seen["teacher's modes"]), False, "whether the teacher ran in train mode")
    assert_true(seen["same"], "The teacher's parameters or buffers have changed.")
    assert_equal(seen["grads"], 0, "the number of the teacher's parameters with a gradient")
    assert_equal(seen["left"][0], False, "`teacher.training` afterwards")


@pytest.mark.exercise("student", points=4)
def test_student_mode(student, device):
    """The student should be trained in train mode, all of it, and be left in eval mode."""
    seen = student.run(watched_training, str(device))
    trained_so = seen["student's modes"]
    assert_equal(
        [len(trained_so) >= 6, all(trained_so[:6])], [True, True], "train mode in all six steps"
    )
    assert_true(seen["moved"], "Some of the student's parameters did not move.")
    assert_equal(seen["left"][1], False, "`student.training` afterwards")
    assert_true(seen["floats"], "The history should hold floats, not tensors.")


@probe
def counted_passes(student, device, epochs):
    """A loader that is no list: how often it is opened, and two runs with the same seed."""

    class Loader:
        def __init__(self):
            self.opened, self.given = 0, 0

        def __iter__(self):
            self.opened += 1
            g = torch.Generator().manual_seed(self.opened)
            for _ in range(2):
                self.given += 1
                yield torch.randn(4, 3, generator=g), torch.randint(0, 4, (4,), generator=g)

    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        teacher = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).to(device)
        pupil = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4)).to(device)
        loader = Loader()
        history = student.distill(teacher, pupil, loader, epochs, 2.0, 0.5)
        weights.append(torch.cat([p.detach().cpu().flatten() for p in pupil.parameters()]))
    return loader.opened, loader.given, len(history), torch.equal(*weights)


@pytest.mark.exercise("student", points=5)
@pytest.mark.parametrize("epochs", [1, 4])
def test_passes_and_seed(student, device, epochs):
    """The loader should be gone through once an epoch; the same seed gives the same student."""
    opened, given, length, same = student.run(counted_passes, str(device), epochs)
    assert_equal(opened, epochs, "the number of passes over the loader")
    assert_equal(given, 2 * epochs, "the number of batches")
    assert_equal(length, epochs, "the number of losses")
    assert_true(same, "Two runs with the same seed gave different students.")


@probe
def moved_batches(student):
    """Batches that count how often they are sent to a device."""
    sent = []

    class Elsewhere(torch.Tensor):
        def to(self, *args, **kwargs):
            if args or kwargs:
                sent.append("x" if self.is_floating_point() else "y")
            return self.as_subclass(torch.Tensor)

    torch.manual_seed(0)
    teacher, pupil = nn.Linear(3, 4), nn.Linear(3, 4)
    batches = [
        (torch.randn(5, 3).as_subclass(Elsewhere), torch.randint(0, 4, (5,)).as_subclass(Elsewhere))
        for _ in range(2)
    ]
    student.distill(teacher, pupil, batches, 1, 2.0, 0.5)
    return sent.count("x"), sent.count("y")


@pytest.mark.exercise("student", points=2)
def test_batches_are_moved(student):
    """The inputs and labels of each batch should be moved to the student's device with `to`."""
    x, y = student.run(moved_batches)
    assert_true(x >= 2, "The inputs x are not moved.")
    assert_true(y >= 2, "The labels y are not moved.")


@functools.cache
def digits_and_teacher():
    """Digits without threes to train on, threes to test on, and a linear teacher of all ten."""
    digits = load_digits()
    images = torch.from_numpy(digits.data / 16).float()
    labels = torch.from_numpy(digits.target).long()
    x, y = images[:1400], labels[:1400]
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    weight, pace = torch.zeros(10, 65), torch.zeros(10, 65)
    for _ in range(100):  # softmax regression by gradient descent with momentum
        error = (ones @ weight.T).softmax(1) - F.one_hot(y, 10)
        pace = 0.9 * pace - 0.5 * error.T @ ones / len(y)
        weight += pace
    keep = y != 3
    return x[keep], y[keep], images[1400:][labels[1400:] == 3], weight


@probe
def share_of_threes(student, x, y, threes, weight, alpha, device):
    """For three seeds, the share of threes that a student of 16 units names."""
    shares = []
    for seed in range(3):
        torch.manual_seed(seed)
        teacher = nn.Linear(64, 10)
        with torch.no_grad():
            teacher.weight.copy_(weight[:, :64])
            teacher.bias.copy_(weight[:, 64])
        pupil = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        teacher, pupil = teacher.to(device), pupil.to(device)
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).split(128)
        batches = [(x[r], y[r]) for r in rows]
        student.distill(teacher, pupil, batches, 20, 4.0, alpha)
        with torch.no_grad():
            shares.append((pupil(threes.to(device)).argmax(1) == 3).float().mean().item())
    return shares


@pytest.mark.exercise("student", points=8)
def test_a_digit_it_never_saw(student, device):
    """Without a three in training, soft targets should teach some threes, and labels none."""
    x, y, threes, weight = digits_and_teacher()
    soft = student.run(share_of_threes, x, y, threes, weight, 0.9, str(device))
    hard = student.run(share_of_threes, x, y, threes, weight, 0.0, str(device))
    assert_equal(max(hard), 0.0, "the largest share of threes with labels only")
    mean = sum(soft) / 3
    assert_equal(mean > 0.25, True, f"whether the mean share of threes, {mean:.2f}, is above 0.25")
