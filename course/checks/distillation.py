"""Public checks of the chapter on knowledge distillation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "temperature": [
        "Only differences of logits matter: what may you subtract from all of them, so that the "
        "largest exponent is 0?",
        "`amax(-1, keepdim=True)` and `sum(-1, keepdim=True)` keep the last axis, so that the "
        "shapes fit.",
        "`entropy`: p.log() is -inf where p is 0, and 0 times -inf is not a number. Look up "
        "`torch.xlogy`, or replace these entries.",
    ],
    "kd": [
        "Three pieces: the divergence for each picture, its mean over the batch, the cross-entropy "
        "with the labels. Write each on a line of its own.",
        "Take `F.log_softmax` of both logits divided by T. The difference of the two logarithms "
        "is the logarithm of the ratio.",
        "The teacher's probabilities stand outside the logarithm. T² belongs to the soft term "
        "only, and the hard term sees the logits undivided. Who should get no gradient?",
    ],
    "scaling": [
        "For each T: a copy of zs that requires a gradient, the divergence of each example, one "
        "gradient.",
        "If you sum the examples' losses, row n of the gradient is the gradient of example n alone.",
        "`grad.norm(dim=1)` has one norm for each example; take their mean, and stack the M means.",
    ],
    "student": [
        "Start from `fit`. What is new in each batch? The teacher's logits, without a gradient, "
        "and another loss.",
        "`F.kl_div(log_ps, log_pt, log_target=True, reduction='batchmean')` is the divergence. "
        "Which factors belong to it?",
        "Modes: the teacher in eval mode from the start, the student in train mode before and in "
        "eval mode after. Collect `loss.item()` in each epoch.",
    ],
    "debug": [
        "What does `F.kl_div` want as its first argument, probabilities or their logarithms?",
        "With `log_target=True` both arguments are logarithms.",
    ],
}


# --- temperature -----------------------------------------------------------------------------


@pytest.mark.exercise("temperature")
def test_dog(student):
    """At T = 4 the logits (8, 4, 0) give about 0.665, 0.245 and 0.090."""
    z = torch.tensor([8.0, 4.0, 0.0])
    e = math.e
    expected = torch.tensor([e * e, e, 1.0]) / (e * e + e + 1)
    assert_close(
        student.softmax_t(z, 4.0),
        expected,
        symptoms={
            "The temperature is not used.": F.softmax(z, 0),
            "The logits are multiplied by T; divide them.": F.softmax(4 * z, 0),
            "The probabilities are divided by T; the logits should be.": F.softmax(z, 0) / 4,
        },
    )


@pytest.mark.exercise("temperature")
def test_last_axis_and_large_logits(student):
    """Each row of a matrix is one distribution, and logits of 10,000 do no harm."""
    z = torch.tensor([[1e4, 1e4], [0.0, math.log(3)], [-1e4, 0.0]])
    assert_close(
        student.softmax_t(z, 1.0),
        torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]),
        symptoms={"Columns add up to 1; rows should.": F.softmax(z, 0)},
    )


@pytest.mark.exercise("temperature")
def test_temperature_is_positive(student):
    """A temperature of 0 or below raises a ValueError."""
    for T in (0.0, -1.0):
        with raises(ValueError):
            student.softmax_t(torch.zeros(3), T)


@pytest.mark.exercise("temperature")
def test_known_entropies(student):
    """The entropy of four equal probabilities is log 4, and that of a certain answer is 0."""
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]])
    expected = torch.tensor([math.log(4), 0.0, math.log(2)])
    assert_close(
        student.entropy(p),
        expected,
        symptoms={
            "The sign is wrong: an entropy is not negative.": -expected,
            "This is in bits; use the natural logarithm.": expected / math.log(2),
            "0 log 0 should count as 0.": torch.tensor([math.log(4), math.nan, math.nan]),
        },
    )


# --- kd --------------------------------------------------------------------------------------

# With T = 2 the probabilities are (1/2, 1/2) for the student, (3/4, 1/4) for the teacher.
ZS, ZT = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
DIVERGENCE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


@pytest.mark.exercise("kd")
def test_soft_term(student):
    """With alpha = 1 the loss is T² times the divergence of (3/4, 1/4) from (1/2, 1/2)."""
    got = student.kd_loss(ZS, ZT, torch.tensor([0]), 2.0, 1.0)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert_close(
        got,
        torch.tensor(4 * DIVERGENCE),
        symptoms={
            "The factor T² is missing.": torch.tensor(DIVERGENCE),
            "The factor is T instead of T², or the mean runs over the classes too.": torch.tensor(
                2 * DIVERGENCE
            ),
            "Teacher and student are exchanged.": torch.tensor(4 * reverse),
            "This is the cross-entropy; subtract the teacher's entropy.": torch.tensor(
                4 * math.log(2)
            ),
            "The temperature is not used in the softmaxes.": torch.tensor(
                4 * (0.9 * math.log(1.8) + 0.1 * math.log(0.2))
            ),
        },
    )


@pytest.mark.exercise("kd")
def test_hard_term(student):
    """With alpha = 0 only the labels count, at temperature 1."""
    zs = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    y = torch.tensor([2, 0])
    got = student.kd_loss(zs, torch.zeros(2, 3), y, 5.0, 0.0)
    assert_close(
        got,
        F.cross_entropy(zs, y),
        symptoms={
            "The hard term should see the logits undivided.": F.cross_entropy(zs / 5, y),
            "T² belongs to the soft term only.": 25 * F.cross_entropy(zs, y),
        },
    )


@pytest.mark.exercise("kd")
def test_mixture(student):
    """With alpha = 0.75 three parts are soft and one is hard."""
    y = torch.tensor([1, 0])
    soft, hard = 4 * DIVERGENCE, math.log(2)
    assert_close(
        student.kd_loss(ZS.repeat(2, 1), ZT.repeat(2, 1), y, 2.0, 0.75),
        torch.tensor(0.75 * soft + 0.25 * hard),
        symptoms={
            "The soft term is added up over the batch; take its mean.": torch.tensor(
                0.75 * 2 * soft + 0.25 * hard
            ),
            "The weights are exchanged: alpha belongs to the soft term.": torch.tensor(
                0.25 * soft + 0.75 * hard
            ),
            "The hard term should be weighted by 1 - alpha.": torch.tensor(0.75 * soft + hard),
        },
    )


@probe
def who_gets_gradients(student):
    zs = torch.tensor([[1.0, -1.0]], requires_grad=True)
    zt = torch.tensor([[0.0, 2.0]], requires_grad=True)
    student.kd_loss(zs, zt, torch.tensor([0]), 2.0, 0.5).backward()
    return zs.grad is not None, zt.grad is not None


@pytest.mark.exercise("kd")
def test_teacher_gets_no_gradient(student):
    """The gradient reaches the student's logits and not the teacher's."""
    pupil, master = student.run(who_gets_gradients)
    assert_true(pupil, "No gradient reaches the student's logits.")
    assert_true(not master, "A gradient reaches the teacher's logits: cut them off the graph.")


@pytest.mark.exercise("kd")
def test_impossible_numbers(student):
    """T = 0 and alpha = 1.5 raise a ValueError."""
    for T, alpha in ((0.0, 0.5), (2.0, 1.5), (2.0, -0.5)):
        with raises(ValueError):
            student.kd_loss(ZS, ZT, torch.tensor([0]), T, alpha)


# --- scaling ---------------------------------------------------------------------------------


@pytest.mark.exercise("scaling")
def test_norms_on_paper(student):
    """At T = 2 the gradient for (1/2, 1/2) and (3/4, 1/4) is (-1/8, 1/8)."""
    expected = torch.tensor([math.sqrt(2) / 8])
    assert_close(
        student.grad_norms(ZS, ZT, [2.0]),
        expected,
        "the norm",
        symptoms={
            "T² is in it: this should be the gradient without the factor.": 4 * expected,
            "A factor 1/T is missing: differentiate by the logits themselves.": 2 * expected,
            "The sum of the absolute values is no Euclidean norm.": torch.tensor([0.25]),
            "Take the square root.": expected**2,
        },
    )


@pytest.mark.exercise("scaling")
def test_mean_of_norms(student):
    """Two examples give the mean of their norms, three temperatures give three numbers."""
    zs = torch.cat([ZS, ZS])
    zt = torch.cat([ZT, -ZT])
    got = student.grad_norms(zs, zt, [1.0, 2.0, 4.0])
    assert_equal(tuple(got.shape), (3,), "the shape")
    norm = math.sqrt(2) / 8
    assert_close(
        got[1].item(),
        norm,
        "the mean norm at T = 2",
        atol=1e-6,
        symptoms={
            "The norm of the mean gradient is 0 here; take the mean of the norms.": 0.0,
            "The loss was averaged, so each row is divided by N.": norm / 2,
            "The norms are added; take their mean.": 2 * norm,
            "This is one norm of the whole batch.": norm * math.sqrt(2),
        },
    )


@pytest.mark.exercise("scaling")
def test_hot_limit(student):
    """At T = 1000 the norm is that of (zs - zt) / (K T²), for logits of mean zero."""
    zs = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64)
    zt = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    got = student.grad_norms(zs, zt, [1000.0])
    assert_close(got * 3 * 1000**2, (zs - zt).norm()[None], "the norm times K T²", rtol=0.01)


# --- student ---------------------------------------------------------------------------------


@probe
def one_step(student, T, alpha):
    """One batch, one epoch, on two tiny networks with a dropout in the teacher."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    pupil = nn.Sequential(nn.Linear(3, 4))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        zt, before = teacher[0](x), pupil[0].weight.clone()
    zs = pupil(x)
    soft = F.kl_div(F.log_softmax(zs / T, 1), F.softmax(zt / T, 1), reduction="batchmean")
    loss = alpha * T * T * soft + (1 - alpha) * F.cross_entropy(zs, y)
    (grad,) = torch.autograd.grad(loss, pupil[0].weight)
    history = student.distill(teacher, pupil, [(x, y)], 1, T, alpha)
    moved = pupil[0].weight.detach() - before
    return loss.item(), list(history), (moved + 0.01 * grad.sign()).abs().max().item()


@pytest.mark.exercise("student")
def test_first_step(student):
    """The loss of the first batch is the distillation loss, and Adam makes one step of 0.01."""
    for T, alpha in ((4.0, 0.9), (2.0, 0.0)):
        loss, history, gap = student.run(one_step, T, alpha)
        assert_equal(len(history), 1, "the number of losses for one epoch")
        assert_close(history[0], loss, f"the loss for T = {T:g}, alpha = {alpha:g}", rtol=1e-4)
        assert_true(
            gap < 1e-4,
            "After one step of Adam each weight should have moved by 0.01 against its gradient.",
        )


@probe
def modes(student):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    pupil = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1))
    pupil.eval()
    seen = []
    teacher.register_forward_hook(lambda m, i, o: seen.append(m.training))
    pupil.register_forward_hook(lambda m, i, o: seen.append(not m.training))
    before = [v.clone() for v in teacher.state_dict().values()]
    batches = [(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64))] * 2
    student.distill(teacher, pupil, batches, 2, 2.0, 0.5)
    same = all(
        torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True)
    )
    grads = any(p.grad is not None for p in teacher.parameters())
    return any(seen), same, grads, teacher.training, pupil.training


@pytest.mark.exercise("student")
def test_who_is_in_which_mode(student):
    """The teacher runs in eval mode and stays as it is; the student ends in eval mode."""
    wrong, same, grads, master, pupil = student.run(modes)
    assert_true(
        not wrong, "In training, the teacher should be in eval mode, the student in train mode."
    )
    assert_true(same, "The teacher's parameters or buffers have changed.")
    assert_true(not grads, "The teacher's parameters have gradients.")
    assert_equal((master, pupil), (False, False), "(teacher.training, student.training) at the end")


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_divergence_on_paper(student):
    """The loss is 0 for a perfect student, and 4 times 0.1308 for the fair coin at T = 2."""
    assert_close(
        student.soft_loss(ZT, ZT, 2.0),
        torch.tensor(0.0),
        "a perfect student's loss",
        atol=1e-6,
        symptoms={
            "Where the second argument is a logarithm too, say log_target=True.": torch.tensor(
                math.nan
            )
        },
    )
    wrong = 4 * (0.75 * (math.log(0.75) - 0.5) + 0.25 * (math.log(0.25) - 0.5))
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert_close(
        student.soft_loss(ZS, ZT, 2.0),
        torch.tensor(4 * DIVERGENCE),
        "the loss",
        symptoms={
            "The first argument of F.kl_div should be log-probabilities.": torch.tensor(wrong),
            "The factor T² is missing.": torch.tensor(DIVERGENCE),
            "Teacher and student are exchanged.": torch.tensor(4 * reverse),
            "Divided by the number of classes too: use batchmean.": torch.tensor(2 * DIVERGENCE),
        },
    )
