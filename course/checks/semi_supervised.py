"""Public checks of the chapter on semi-supervised learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "pi": [
        "Call `noise` twice and `model` twice. What would be the difference of two passes with the "
        "same noise?",
        "A bool mask picks rows: `first[labelled_mask]` are the logits that have a label, and "
        "`y[labelled_mask]` are their classes. `F.cross_entropy` takes logits.",
        "The consistency compares probabilities (`softmax` over the last axis) of all rows, and its "
        "mean runs over rows and classes. What is the mean over no rows? Leave that term out.",
    ],
    "ramp": [
        "First bring `epoch` into the range from 0 to `length`.",
        "The exponent is 0 at the end of the ramp and -5 at its start. `length` may be 0: divide "
        "only where you can.",
    ],
    "temporal": [
        "Keep four tensors: the averages Z, the number of epochs of each example, and for the "
        "current epoch the sum of the outputs of each example and how many there were.",
        "`Z[idx] += z` counts an example that stands in idx twice only once; `index_add_` does not "
        "forget. Do not let the graph of z live on in the buffer: `detach`.",
        "`end_epoch` touches only the examples with a count above 0: their mean goes into Z, their "
        "number of epochs grows by one, and the sums start anew.",
        "`target` divides by 1 - alpha ** epochs, one number for each example. Where this is 0, Z is "
        "0 too: divide by 1 there.",
    ],
    "ema": [
        "A teacher is a copy with memory of its own: `copy.deepcopy`. Which call switches off "
        "`requires_grad` for all parameters of a module?",
        "Go through both `parameters()` side by side under `torch.no_grad()`, and change the "
        "teacher's tensors in place (`mul_`, `add_`, `copy_` or `lerp_`).",
        "`parameters()` does not contain the running statistics of a batch normalisation; "
        "`buffers()` does.",
    ],
    "pseudo": [
        "`probs.max(-1)` gives two things that you need: the confidence and the class.",
        "At least the threshold: which comparison is that?",
        "For the cap, sort all rows by confidence once (descending, stable). Of each class keep the "
        "first `cap` of that order, and put the chosen rows back in ascending order.",
        "`guard`: `torch.isin(idx, test_idx)` says for each entry of idx whether it is in the test "
        "set.",
    ],
    "moons": [
        "Write the supervised method first: seed, network, optimiser, and a loop of steps with "
        "`net(perturb(X))`.",
        "The two other methods differ in one line: which network makes the second pass? For the "
        "teacher no gradient is kept.",
        "The ramp is over after RAMP * steps steps, so its place is t / (RAMP * steps), at most 1. "
        "The teacher follows *after* the optimiser's step.",
    ],
    "debug": [
        "Which example does row 0 of `outputs` belong to?",
        "Read and write the same rows of the memory: those that `order` names.",
    ],
}


# --- pi --------------------------------------------------------------------------------------

POINTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
CLASSES = torch.tensor([1, -1, -1])
KNOWN = torch.tensor([True, False, False])


@probe
def run_pi(student, x, y, mask, w):
    """pi_loss with the identity as the model; the noise adds 0 at first, then 1 to input 0."""
    drifts = iter([torch.zeros(2), torch.tensor([1.0, 0.0])])
    return student.pi_loss(lambda x: x, x, y, mask, w, lambda x: x + next(drifts, 0.0))


@pytest.mark.exercise("pi")
def test_labels_and_consistency(student):
    """`pi_loss` adds the cross-entropy of the labelled row to w times the consistency of all rows."""
    first, second = POINTS, POINTS + torch.tensor([1.0, 0.0])  # the model is the identity
    gap = (first.softmax(-1) - second.softmax(-1)).square()
    labelled = F.cross_entropy(first[:1], torch.tensor([1]))
    got = student.run(run_pi, POINTS, CLASSES, KNOWN, 4.0)
    assert_close(
        got,
        labelled + 4 * gap.mean(),
        "the loss",
        symptoms={
            "The consistency is missing; are both passes made with one and the same noise?": labelled,
            "The consistency compares logits; compare probabilities.": labelled
            + 4 * (first - second).square().mean(),
            "The squares are added up; take their mean over rows and classes.": labelled
            + 4 * gap.sum(),
            "Divide by the number of rows and of classes.": labelled + 4 * gap.sum(-1).mean(),
            "The consistency belongs to all rows, labelled or not.": labelled + 4 * gap[1:].mean(),
            "The labelled part is missing.": 4 * gap.mean(),
        },
    )


@pytest.mark.exercise("pi")
def test_only_labels(student):
    """With w = 0 only the labelled rows count."""
    got = student.run(run_pi, POINTS, CLASSES, KNOWN, 0.0)
    assert_close(got, F.cross_entropy(POINTS[:1], torch.tensor([1])), "the loss")


@pytest.mark.exercise("pi")
def test_no_label_in_the_batch(student):
    """A batch without any label has only the consistency; a mask that is not bool is refused."""
    none = torch.zeros(3, dtype=torch.bool)
    got = student.run(run_pi, POINTS, CLASSES, none, 0.0)
    assert_close(got, torch.tensor(0.0), "the loss for w = 0 without labels")
    with raises(ValueError):
        student.run(run_pi, POINTS, CLASSES, torch.tensor([1, 0, 0]), 1.0)


# --- ramp ------------------------------------------------------------------------------------


@pytest.mark.exercise("ramp")
def test_three_points_of_the_ramp(student):
    """`ramp` is exp(-5) at the start, exp(-1.25) half way, and 1 at the end and after it."""
    for epoch, expected in ((0, math.exp(-5)), (20, math.exp(-1.25)), (40, 1.0), (41, 1.0)):
        assert_close(
            student.ramp(epoch, 40),
            expected,
            f"`ramp({epoch}, 40)`",
            symptoms={
                "The ramp is upside down: it should be small at the start.": math.exp(
                    -5 * min(epoch / 40, 1) ** 2
                ),
                "The square is missing.": math.exp(-5 * (1 - min(epoch / 40, 1))),
                "After the ramp the value should stay 1.": math.exp(-5 * (1 - epoch / 40) ** 2),
            },
        )


@pytest.mark.exercise("ramp")
def test_no_ramp(student):
    """With length 0 the ramp is 1 from the start; a negative length is refused."""
    assert_close(student.ramp(0, 0), 1.0, "`ramp(0, 0)`")
    with raises(ValueError):
        student.ramp(1, -2)


# --- temporal --------------------------------------------------------------------------------


@pytest.mark.exercise("temporal")
def test_a_constant_comes_back(student):
    """Where the output is the same in each epoch, `target` gives it back exactly."""
    memory = student.Ensemble(3, 2, 0.5)
    z = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    weight = 0.0
    for _ in range(3):
        memory.update(torch.tensor([2, 0]), z)
        memory.end_epoch()
        weight = 0.5 * weight + 0.5
        assert_close(
            memory.target(torch.tensor([2, 0])),
            z,
            "the target",
            symptoms={"The bias is not corrected: divide by 1 - alpha ** epochs.": weight * z},
        )
    assert_close(memory.target(torch.tensor([1])), torch.zeros(1, 2), "a never-seen example")


@pytest.mark.exercise("temporal")
def test_two_epochs(student):
    """The newer epoch counts more, and nothing moves before `end_epoch`."""
    memory = student.Ensemble(2, 1, 0.5)
    one = torch.tensor([1])
    memory.update(one, torch.tensor([[0.3]]))
    assert_close(memory.target(one), torch.zeros(1, 1), "the target before the first epoch ends")
    memory.end_epoch()
    memory.update(one, torch.tensor([[0.9]]))
    assert_close(memory.target(one), torch.tensor([[0.3]]), "the target before the epoch ends")
    memory.end_epoch()
    assert_close(memory.target(one), torch.tensor([[0.7]]), "the target after two epochs")


@pytest.mark.exercise("temporal")
def test_twice_in_an_epoch(student):
    """An example that is noted twice counts with the mean, one that is not noted stays."""
    memory = student.Ensemble(2, 1, 0.5)
    memory.update(torch.tensor([0, 0, 1]), torch.tensor([[0.2], [0.6], [0.9]]))
    memory.end_epoch()
    expected = torch.tensor([[0.4], [0.9]])
    assert_close(memory.target(torch.tensor([0, 1])), expected, "the targets")
    memory.end_epoch()
    assert_close(memory.target(torch.tensor([0, 1])), expected, "the targets after an empty epoch")
    with raises(ValueError):
        student.Ensemble(2, 1, 1.0)


# --- ema -------------------------------------------------------------------------------------


def scalar(value):
    """A linear layer whose only weight is value."""
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(value)
    return layer


@pytest.mark.exercise("ema")
def test_weights_follow(student):
    """The teacher is the student at step 0, then the plain mean, then a moving average."""
    net = scalar(5.0)
    mean = student.MeanTeacher(net, 0.6)
    for step, (value, expected) in enumerate([(2.0, 2.0), (4.0, 3.0), (8.0, 5.0)]):
        with torch.no_grad():
            net.weight.fill_(value)
        mean.update(step)
        assert_close(
            mean.teacher.weight.detach(),
            torch.tensor([[expected]]),
            f"the teacher's weight after step {step}",
            symptoms={
                "The teacher has the student's weight: is it a copy?": torch.tensor([[value]]),
                "The teacher does not move: change its tensors in place.": torch.tensor([[5.0]]),
            },
        )
    assert_close(net.weight.detach(), torch.tensor([[8.0]]), "the student's weight")


@pytest.mark.exercise("ema")
def test_teacher_has_no_gradient(student):
    """No parameter of the teacher requires grad, those of the student still do."""
    net = nn.Linear(2, 2)
    mean = student.MeanTeacher(net, 0.9)
    flags = [p.requires_grad for p in mean.teacher.parameters()]
    assert_equal(flags, [False, False], "requires_grad of the teacher's parameters")
    assert_true(net.weight.requires_grad, "The student's weight should still require grad.")
    with raises(ValueError):
        student.MeanTeacher(net, 1.5)


@pytest.mark.exercise("ema")
def test_buffers_are_copied(student):
    """The running statistics of a batch normalisation are the student's."""
    net = nn.BatchNorm1d(2)
    mean = student.MeanTeacher(net, 0.6)
    for step in range(3):
        net(torch.tensor([[1.0, 2.0], [3.0, 8.0]]))
        mean.update(step)
    assert_close(mean.teacher.running_mean, net.running_mean, "running_mean")
    assert_close(mean.teacher.num_batches_tracked, torch.tensor(3), "num_batches_tracked")


# --- pseudo ----------------------------------------------------------------------------------

PROBS = torch.tensor([[0.75, 0.25], [0.4, 0.6], [0.125, 0.875], [0.9, 0.1], [1.0, 0.0]])


@pytest.mark.exercise("pseudo")
def test_at_least_the_threshold(student):
    """`pseudo_labels` keeps the rows from the threshold on, in ascending order."""
    idx, labels = student.pseudo_labels(PROBS, 0.75)
    assert_close(
        idx,
        torch.tensor([0, 2, 3, 4]),
        "idx",
        symptoms={
            "A row with exactly the threshold should be kept.": torch.tensor([2, 3, 4]),
        },
    )
    assert_close(labels, torch.tensor([0, 1, 0, 0]), "labels")
    with raises(ValueError):
        student.pseudo_labels(PROBS * 3, 0.75)


@pytest.mark.exercise("pseudo")
def test_cap(student):
    """With `cap` each class has at most that many rows, the most confident ones."""
    idx, labels = student.pseudo_labels(PROBS, 0.5, cap=2)
    assert_close(idx, torch.tensor([1, 2, 3, 4]), "idx for cap=2")
    assert_close(labels, torch.tensor([1, 1, 0, 0]), "labels for cap=2")
    idx, _ = student.pseudo_labels(PROBS, 0.5, cap=1)
    assert_close(idx, torch.tensor([2, 4]), "idx for cap=1")


@pytest.mark.exercise("pseudo")
def test_guard(student):
    """`guard` returns idx, or raises a ValueError with the number of test examples in it."""
    idx = torch.tensor([3, 8, 5])
    assert_close(student.guard(idx, torch.tensor([1, 2])), idx, "guard's answer")
    with raises(ValueError, match="2"):
        student.guard(idx, torch.tensor([8, 1, 3]))


# --- moons -----------------------------------------------------------------------------------


def two_heaps():
    """Sixteen points in two heaps, one of each labelled."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(16, 2, generator=g) * 0.2
    X[8:] += 2
    y = torch.tensor([0] * 8 + [1] * 8)
    mask = torch.zeros(16, dtype=torch.bool)
    mask[[2, 11]] = True
    return X, y, mask


@pytest.mark.exercise("moons")
def test_learns_two_heaps(student):
    """Each method learns to tell two heaps from two labels."""
    X, y, mask = two_heaps()
    for method in ("supervised", "pi", "mean-teacher"):
        net = student.train_semi(X, torch.where(mask, y, -1), mask, method, 25, 0)
        with torch.no_grad():
            right = (net(X).argmax(-1) == y).float().mean()
        assert_true(right > 0.9, f"The accuracy of {method} should be near 1, not {right:.2f}.")


@pytest.mark.exercise("moons")
def test_what_counts(student):
    """The seed decides everything; the unlabelled points matter to "pi", not to "supervised"."""
    X, y, mask = two_heaps()
    other = torch.where(mask[:, None], X, X + 1)

    def out(points, method, seed):
        return student.train_semi(points, y, mask, method, 4, seed)(X).detach()

    a = out(X, "supervised", 0)
    assert_close(out(X, "supervised", 0), a, "the output with the same seed")
    assert_true(not torch.allclose(out(X, "supervised", 1), a), "Another seed changes nothing.")
    assert_close(out(other, "supervised", 0), a, "the output of supervised with other grey points")
    assert_true(
        not torch.allclose(out(other, "pi", 0), out(X, "pi", 0)),
        "The unlabelled points should matter to the Pi-model.",
    )


@pytest.mark.exercise("moons")
def test_unknown_method(student):
    """A method that does not exist is refused."""
    X, y, mask = two_heaps()
    with raises(ValueError):
        student.train_semi(X, y, mask, "magic", 1, 0)


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_rows_belong_to_examples(student):
    """Row j of the outputs goes to example order[j]; other examples stay as they are."""
    memory = torch.tensor([[0.0], [0.25], [0.5], [1.0]])
    before = memory.clone()
    got = student.remember(memory, torch.tensor([3, 0]), torch.tensor([[0.5], [0.75]]), 0.5)
    assert_close(
        got,
        torch.tensor([[0.375], [0.25], [0.5], [0.75]]),
        "the memory",
        symptoms={
            "The outputs went to the rows of their place in the batch.": torch.tensor(
                [[0.25], [0.5], [0.5], [1.0]]
            ),
            "The old average is read from another row than the new one is written to.": torch.tensor(
                [[0.5], [0.25], [0.5], [0.25]]
            ),
        },
    )
    assert_close(memory, before, "the memory that was handed in")
