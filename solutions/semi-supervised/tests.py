"""Hidden tests of the chapter on semi-supervised learning."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_true,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- pi --------------------------------------------------------------------------------------


@probe
def run_pi(student, weight, x, y, mask, w, drifts):
    """pi_loss of a two-layer model: value, gradients for weight and x, and the calls made."""
    weight = weight.clone().requires_grad_()
    x = x.clone().requires_grad_()
    calls = []

    def noise(rows):
        calls.append(("noise", tuple(rows.shape)))
        number = sum(name == "noise" for name, _ in calls) - 1
        return rows + drifts[number % len(drifts)]

    def model(rows):
        calls.append(("model", tuple(rows.shape)))
        return torch.tanh(rows).flatten(1) @ weight

    loss = student.pi_loss(model, x, y, mask, w, noise)
    grads = [torch.zeros_like(weight), torch.zeros_like(x)]
    if loss.requires_grad:
        found = torch.autograd.grad(loss, [weight, x], allow_unused=True)
        grads = [z if g is None else g for g, z in zip(found, grads)]
    return loss.detach(), grads, sorted(calls)


def pi_by_hand(weight, x, y, mask, w, drifts, detach=False, logits=False, average=False):
    """The same loss and gradients, term by term."""
    weight, x = weight.clone().requires_grad_(), x.clone().requires_grad_()
    first, second = (torch.tanh(x + d).flatten(1) @ weight for d in drifts)
    p, q = (first, second) if logits else (first.softmax(1), second.softmax(1))
    loss = w * F.mse_loss(p, q.detach() if detach else q)
    known = mask.nonzero()[:, 0]
    for i in known.tolist():
        term = -first.log_softmax(1)[i, y[i]]
        if average:
            term = (term - second.log_softmax(1)[i, y[i]]) / 2
        loss = loss + term / len(known)
    grads = torch.autograd.grad(loss, [weight, x], allow_unused=True)
    return loss.detach(), [
        torch.zeros_like(t) if g is None else g for g, t in zip(grads, [weight, x])
    ]


def pi_case(n, classes, features, known, device="cpu", dtype=torch.float64):
    """Weight, inputs, classes (-1 where unknown), mask, and two drifts."""
    x = randn(n, *features, device=device, dtype=dtype)
    weight = randn(math.prod(features), classes, device=device, dtype=dtype)
    mask = torch.zeros(n, dtype=torch.bool, device=device)
    mask[list(known)] = True
    y = torch.where(mask, randint(0, classes, (n,), device=device), -1)
    drifts = [0.7 * randn(n, *features, device=device, dtype=dtype) for _ in range(2)]
    return weight, x, y, mask, drifts


@pytest.mark.exercise("pi", points=7)
@pytest.mark.parametrize(
    "n, classes, features, known, w",
    [
        (7, 3, (4,), (1, 4), 2.5),
        (5, 2, (2, 3), (0, 1, 2, 3, 4), 0.7),
        (9, 5, (3,), (8,), 30.0),
        (1, 4, (2,), (0,), 1.0),
    ],
)
def test_pi_equals_the_formula(student, device, n, classes, features, known, w):
    """pi_loss should be the mean cross-entropy of the labelled rows of the first pass, plus w times the mean squared difference of the softmax outputs of all rows."""
    weight, x, y, mask, drifts = pi_case(n, classes, features, known, device)
    expected, _ = pi_by_hand(weight, x, y, mask, w, drifts)
    consistency = expected - pi_by_hand(weight, x, y, mask, 0.0, drifts)[0]
    labelled = expected - consistency
    got, _, _ = student.run(run_pi, weight, x, y, mask, w, drifts)
    assert_close(
        got,
        expected,
        "the loss",
        symptoms={
            "The consistency is missing.": labelled,
            "The labelled part is missing.": consistency,
            "The consistency compares logits; compare probabilities.": pi_by_hand(
                weight, x, y, mask, w, drifts, logits=True
            )[0],
            "The squares should be averaged over rows and classes.": labelled
            + consistency * n * classes,
            "The squares should be averaged over the classes, too.": labelled
            + consistency * classes,
            "The cross-entropy should be averaged over the labelled rows only.": labelled
            * len(known)
            / n
            + consistency,
            "The cross-entropy should use the first pass only.": pi_by_hand(
                weight, x, y, mask, w, drifts, average=True
            )[0],
        },
    )


@pytest.mark.exercise("pi", points=5)
def test_pi_gradient_flows_through_both_passes(student, device):
    """The gradient should flow through both passes, to the model and to the inputs."""
    weight, x, y, mask, drifts = pi_case(6, 3, (4,), (0, 5), device)
    _, expected = pi_by_hand(weight, x, y, mask, 5.0, drifts)
    _, detached = pi_by_hand(weight, x, y, mask, 5.0, drifts, detach=True)
    _, swapped = pi_by_hand(weight, x, y, mask, 0.0, drifts)
    _, got, _ = student.run(run_pi, weight, x, y, mask, 5.0, drifts)
    for k, what in enumerate(("the gradient for the model", "the gradient for x")):
        assert_close(
            got[k],
            expected[k],
            what,
            symptoms={
                "The second pass is detached; the gradient should flow through it.": detached[k],
                "The consistency has no gradient.": swapped[k],
            },
        )


@pytest.mark.exercise("pi", points=3)
def test_pi_without_weight_is_supervised(student, device):
    """With w = 0 the loss should be the cross-entropy of the labelled rows, whatever stands in y for the others."""
    weight, x, y, mask, drifts = pi_case(8, 3, (4,), (2, 3, 6), device)
    first = torch.tanh(x + drifts[0]) @ weight
    expected = F.cross_entropy(first[mask], y[mask])
    for filler in (-1, 2, 77):
        full = torch.where(mask, y, filler)
        with unchanged(x, full, mask):
            got, _, _ = student.run(run_pi, weight, x, full, mask, 0.0, drifts)
        assert_close(got, expected, f"the loss with {filler} for unknown classes")


@pytest.mark.exercise("pi", points=3)
@pytest.mark.parametrize("n", [1, 6])
def test_pi_without_labels(student, device, n):
    """Without any labelled row the loss should be the consistency alone, not NaN."""
    weight, x, y, mask, drifts = pi_case(n, 3, (4,), (), device)
    expected, gradient = pi_by_hand(weight, x, y, mask, 3.0, drifts)
    got, grads, _ = student.run(run_pi, weight, x, y, mask, 3.0, drifts)
    assert_close(got, expected, "the loss")
    assert_close(grads[0], gradient[0], "the gradient for the model")


@pytest.mark.exercise("pi", points=1)
@pytest.mark.parametrize("w", [0.0, 2.0])
def test_pi_calls(student, w):
    """noise and model should each be called twice with all rows, also when w is 0; float32 stays float32."""
    weight, x, y, mask, drifts = pi_case(5, 2, (3,), (1,), dtype=torch.float32)
    loss, _, calls = student.run(run_pi, weight, x, y, mask, w, drifts)
    assert_equal(
        [tuple(c) for c in calls],
        [("model", (5, 3))] * 2 + [("noise", (5, 3))] * 2,
        "the calls",
    )
    expected, _ = pi_by_hand(weight, x, y, mask, w, drifts)
    assert_close(loss, expected, "the loss")


@pytest.mark.exercise("pi", points=1)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_pi_refuses_other_masks(student, dtype):
    """A labelled_mask that is not bool should raise a ValueError: integers would be taken as row numbers."""
    weight, x, y, mask, drifts = pi_case(4, 2, (3,), (1, 2))
    with raises(ValueError):
        student.run(run_pi, weight, x, y, mask.to(dtype), 1.0, drifts)


# --- ramp ------------------------------------------------------------------------------------


@pytest.mark.exercise("ramp", points=4)
@pytest.mark.parametrize("length", [1, 7, 80, 2.5])
def test_ramp_on_the_way(student, length):
    """Between 0 and length the ramp should be exp(-5 (1 - epoch / length) ** 2), for fractions too."""
    for share in (0.0, 0.125, 0.4, 0.75, 0.99):
        epoch = share * length
        assert_close(
            student.ramp(epoch, length),
            math.exp(-5 * (1 - share) ** 2),
            f"`ramp({epoch:g}, {length})`",
            symptoms={
                "The ramp is upside down.": math.exp(-5 * share**2),
                "The square is missing.": math.exp(-5 * (1 - share)),
                "The ramp is linear; it should be a piece of a Gaussian curve.": share,
            },
        )


@pytest.mark.exercise("ramp", points=3)
def test_ramp_start_and_end(student):
    """The ramp should be below 0.01 at the start, stay 1 after its length, and count what is below 0 as 0."""
    for length in (1, 10, 300):
        start = student.ramp(0, length)
        assert_close(start, math.exp(-5), f"`ramp(0, {length})`")
        for epoch in (length, length + 1, 3 * length):
            got = student.ramp(epoch, length)
            assert_close(got, 1.0, f"`ramp({epoch}, {length})`")
        for epoch in (-1, -0.5, -length - 7):
            got = student.ramp(epoch, length)
            assert_close(got, math.exp(-5), f"`ramp({epoch}, {length})`")


@pytest.mark.exercise("ramp", points=1)
def test_ramp_is_monotone(student):
    """The ramp should never fall, and be a plain number between 0 and 1."""
    values = [student.ramp(e / 4, 9) for e in range(-8, 60)]
    kinds = {type(v).__name__ for v in values}
    assert_equal(sorted(kinds), ["float"], "the type of the answer")
    drop = max(a - b for a, b in zip(values, values[1:]))
    assert_true(drop <= 0, f"The ramp should never fall; it falls by {drop:.4f}.")
    assert_close(max(values), 1.0, "the largest value")


@pytest.mark.exercise("ramp", points=2)
def test_ramp_lengths(student):
    """A length of 0 should give 1 from the start, and a negative length a ValueError."""
    for epoch in (0, 3, -2):
        assert_close(student.ramp(epoch, 0), 1.0, f"`ramp({epoch}, 0)`")
    for length in (-1, -0.25):
        with raises(ValueError):
            student.ramp(1, length)


# --- temporal --------------------------------------------------------------------------------


def averages(alpha, epochs):
    """For the outputs of an example in its epochs, the corrected average by explicit weights."""
    weights = [alpha ** (len(epochs) - 1 - k) for k in range(len(epochs))]
    total = sum(w * z.double() for w, z in zip(weights, epochs))
    return (total / sum(weights)).float()


@pytest.mark.exercise("temporal", points=5)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 0.95, 0.999])
def test_constant_predictions_come_back(student, device, alpha):
    """If an example has the same output in every epoch, its target should be that output, after any number of epochs."""
    memory = student.Ensemble(6, 3, alpha)
    z = rand(4, 3, dtype=torch.float32, device=device).softmax(-1)
    idx = torch.tensor([5, 0, 3, 2], device=device)
    for epoch in range(1, 6):
        memory.update(idx, z)
        memory.end_epoch()
        assert_close(
            memory.target(idx),
            z,
            f"the targets after {epoch} epochs",
            symptoms={
                "The bias is not corrected.": (1 - alpha**epoch) * z,
                "The correction uses one epoch too few.": z
                * (1 - alpha**epoch)
                / max(1 - alpha ** (epoch - 1), 1e-9),
                "The correction uses one epoch too many.": z
                * (1 - alpha**epoch)
                / (1 - alpha ** (epoch + 1)),
            },
        )


@pytest.mark.exercise("temporal", points=5)
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
def test_each_example_has_its_own_history(student, device, alpha):
    """Each target should be the moving average over the epochs in which that example was noted, newer ones counting more."""
    memory = student.Ensemble(5, 4, alpha)
    history = {i: [] for i in range(5)}
    for noted in ([0, 3, 1], [3], [1, 2, 0, 3], [2, 1], [3, 2]):
        z = rand(len(noted), 4, dtype=torch.float32, device=device).softmax(-1)
        memory.update(torch.tensor(noted, device=device), z)
        memory.end_epoch()
        for i, row in zip(noted, z):
            history[i].append(row)
        for i in range(4):
            if history[i]:
                got = memory.target(torch.tensor([i], device=device))[0]
                forward = averages(alpha, history[i])
                newest_first = averages(alpha, history[i][::-1]) if alpha else forward
                assert_close(
                    got,
                    forward,
                    f"the target of example {i}",
                    symptoms={"The older outputs count more than the newer.": newest_first}
                    if alpha and len(history[i]) > 1
                    else None,
                )


@pytest.mark.exercise("temporal", points=2)
def test_never_seen_is_zero(student, device):
    """Examples that no epoch has noted should have zeros, and idx may repeat and come in any order."""
    memory = student.Ensemble(4, 2, 0.6)
    idx = torch.tensor([3, 1, 3, 0], device=device)
    assert_close(
        memory.target(idx), torch.zeros(4, 2, device=device), "the targets before the first epoch"
    )
    memory.update(torch.tensor([1], device=device), torch.tensor([[0.25, 0.75]], device=device))
    memory.end_epoch()
    expected = torch.zeros(4, 2, device=device)
    expected[1] = torch.tensor([0.25, 0.75])
    assert_close(memory.target(idx), expected, "the targets after one epoch")


@pytest.mark.exercise("temporal", points=3)
def test_order_and_batches_do_not_matter(student):
    """Within an epoch neither the order of the updates nor the cut into batches should matter, and an example noted several times should count with its mean."""
    idx = torch.tensor([2, 0, 2, 4, 1, 2, 0])
    z = rand(7, 3, dtype=torch.float32)
    expected = torch.zeros(5, 3)
    for i in (0, 1, 2, 4):
        expected[i] = z[idx == i].mean(0)
    last = torch.zeros(5, 3)
    for i, row in zip(idx, z):
        last[i] = row
    everyone = torch.arange(5)
    for order in (torch.arange(7), torch.tensor([6, 5, 4, 3, 2, 1, 0])):
        for size in (1, 3, 7):  # from the plainest; in larger batches examples repeat
            memory = student.Ensemble(5, 3, 0.6)
            for _ in range(2):
                for part in order.split(size):
                    memory.update(idx[part], z[part])
                memory.end_epoch()
            assert_close(
                memory.target(everyone),
                expected,
                f"the targets for batches of {size}",
                symptoms={"Only the last output of an epoch counts; take the mean.": last},
            )


@pytest.mark.exercise("temporal", points=3)
def test_nothing_moves_within_an_epoch(student):
    """Targets should change at end_epoch only; an epoch without updates should change nothing."""
    memory = student.Ensemble(3, 2, 0.5)
    everyone = torch.arange(3)
    z1, z2 = rand(3, 2, dtype=torch.float32), rand(3, 2, dtype=torch.float32)
    memory.update(everyone, z1)
    assert_close(memory.target(everyone), torch.zeros(3, 2), "the targets in the first epoch")
    memory.end_epoch()
    before = memory.target(everyone)
    memory.update(everyone[:2], z2[:2])
    assert_close(memory.target(everyone), before, "the targets before end_epoch")
    memory.end_epoch()
    expected = (0.5 * z1 + z2) / 1.5
    expected[2] = z1[2]
    for number in range(3):
        assert_close(memory.target(everyone), expected, f"the targets after {number} empty epochs")
        memory.end_epoch()


@pytest.mark.exercise("temporal", points=1)
def test_outputs_are_not_shared(student, device):
    """The memory should keep no graph and no view of the outputs, and give float32 without gradient."""
    memory = student.Ensemble(2, 2, 0.6)
    z = rand(2, 2, device=device).requires_grad_()
    idx = torch.arange(2, device=device)
    with unchanged(z, idx):
        memory.update(idx, z)
        memory.end_epoch()
    got = memory.target(idx)
    assert_equal(got.requires_grad, False, "`requires_grad` of the target")
    assert_close(got, z.detach().float(), "the target")
    got += 1
    assert_close(memory.target(idx), z.detach().float(), "the target, asked for again")


@pytest.mark.exercise("temporal", points=1)
@pytest.mark.parametrize("alpha", [1.0, -0.1, 1.5])
def test_alpha_out_of_range(student, alpha):
    """An alpha below 0, or of 1 and more, should raise a ValueError."""
    with raises(ValueError):
        student.Ensemble(3, 2, alpha)


# --- ema -------------------------------------------------------------------------------------


@probe
def follow(student, weights, alpha, steps):
    """The teacher's weights and bias after each update, and the student's at the end."""
    net = nn.Linear(weights.shape[2] - 1, weights.shape[1]).to(weights)

    def put(values):
        with torch.no_grad():
            net.weight.copy_(values[:, :-1])
            net.bias.copy_(values[:, -1])

    put(weights[0])
    mean = student.MeanTeacher(net, alpha)
    places = [p.data_ptr() for p in mean.teacher.parameters()]
    seen = []
    for step, values in zip(steps, weights[1:]):
        put(values)
        mean.update(step)
        seen.append(torch.cat([mean.teacher.weight, mean.teacher.bias[:, None]], 1).detach())
    same = places == [p.data_ptr() for p in mean.teacher.parameters()]
    after = torch.cat([net.weight, net.bias[:, None]], 1).detach()
    return torch.stack(seen), after, same


@pytest.mark.exercise("ema", points=6)
@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.0, 1.0])
def test_ema_recursion(student, device, alpha):
    """Each update should make every parameter a * old + (1 - a) * student's, with a = min(1 - 1 / (step + 1), alpha)."""
    weights = randn(9, 3, 5, device=device)
    expected, teacher, swapped, late = [], weights[0], weights[0], weights[0]
    other, warmless = [], []
    for step in range(8):
        a = min(1 - 1 / (step + 1), alpha)
        teacher = a * teacher + (1 - a) * weights[step + 1]
        swapped = (1 - a) * swapped + a * weights[step + 1]
        late = alpha * late + (1 - alpha) * weights[step + 1]
        expected.append(teacher)
        other.append(swapped)
        warmless.append(late)
    with unchanged(weights):
        got, after, same = student.run(follow, weights, alpha, list(range(8)))
    symptoms = {
        "The teacher is a second name for the student.": weights[1:],
        "The teacher never moves.": weights[:1].expand(8, -1, -1),
        "a belongs to the teacher's old value, 1 - a to the student's.": torch.stack(other),
        "The warm-up is missing: a is at most 1 - 1 / (step + 1).": torch.stack(warmless),
    }
    assert_close(  # where all slips have come apart
        got[7],
        expected[7],
        "the teacher's parameters after step 7",
        symptoms={sentence: values[7] for sentence, values in symptoms.items()},
    )
    assert_close(got, torch.stack(expected), "the teacher's parameters")
    assert_close(after, weights[8], "the student's parameters")
    assert_true(same, "The teacher's tensors should be changed in place.")


@pytest.mark.exercise("ema", points=4)
def test_ema_warm_up(student):
    """At first the teacher should be the plain mean of the student's weights, and step 0 a copy."""
    weights = randn(11, 2, 3)
    got, _, _ = student.run(follow, weights, 0.99, list(range(10)))
    means = weights[1:].cumsum(0) / torch.arange(1, 11)[:, None, None]
    assert_close(
        got,
        means,
        "the teacher's parameters",
        symptoms={
            "The mean contains the weights from before the first update: step counts from 0.": weights.cumsum(
                0
            )[1:]
            / torch.arange(2, 12)[:, None, None]
        },
    )
    got, _, _ = student.run(follow, weights[:3], 0.75, [999, 1000])
    late = 0.75 * (0.75 * weights[0] + 0.25 * weights[1]) + 0.25 * weights[2]
    assert_close(got[1], late, "the teacher's parameters after steps 999 and 1000")


@probe
def train_with_teacher(student, x, steps):
    """Train a small network with batch normalisation; buffers and flags of both."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    alone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    alone.load_state_dict(net.state_dict())  # the same training without a teacher
    mean = student.MeanTeacher(net, 0.5)
    for model in (alone, net):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(steps):
            loss = model(x + step).square().mean()
            if model is net:
                loss = loss + mean.teacher(x).square().mean() * 0.1
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if model is net:
                mean.update(step)
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    fresh.load_state_dict(mean.teacher.state_dict())
    fresh.eval()
    mean.teacher.eval()
    return {
        "keys": [list(n.state_dict()) for n in (mean.teacher, net)],
        "buffers": [[b.detach().clone() for b in n.buffers()] for n in (mean.teacher, net, alone)],
        "flags": [[p.requires_grad for p in n.parameters()] for n in (mean.teacher, net)],
        "grads": [p.grad is None for p in mean.teacher.parameters()],
        "outputs": [mean.teacher(x).detach(), fresh(x).detach()],
        "graph": any(not p.is_leaf for p in mean.teacher.parameters()),
    }


@pytest.mark.exercise("ema", points=5)
@pytest.mark.parametrize("steps", [1, 4])
def test_ema_buffers(student, steps):
    """After an update the teacher's buffers should be the student's, running statistics and counter alike; the student's stay as they are."""
    facts = student.run(train_with_teacher, randn(6, 3), steps)
    teacher, net, alone = facts["buffers"]
    for k, name in enumerate(("running_mean", "running_var", "num_batches_tracked")):
        assert_close(teacher[k], alone[k], f"the teacher's {name}")
        assert_close(net[k], alone[k], f"the student's {name}")


@pytest.mark.exercise("ema", points=4)
def test_ema_has_no_gradient(student):
    """No parameter of the teacher should require grad, hold one or belong to a graph; the student's still require it."""
    facts = student.run(train_with_teacher, randn(6, 3), 3)
    assert_equal(facts["flags"][0], [False] * 6, "requires_grad of the teacher")
    assert_equal(facts["flags"][1], [True] * 6, "requires_grad of the student")
    assert_equal(facts["grads"], [True] * 6, "whether `grad` of the teacher's parameters is None")
    assert_equal(facts["graph"], False, "whether the teacher's parameters belong to a graph")


@pytest.mark.exercise("ema", points=3)
def test_ema_state_dict(student):
    """The teacher's state_dict should have the student's keys and load into a fresh network that then gives the same outputs."""
    facts = student.run(train_with_teacher, randn(6, 3), 3)
    assert_equal(facts["keys"][0], facts["keys"][1], "the keys")
    assert_close(facts["outputs"][1], facts["outputs"][0], "the fresh network's output")


@probe
def made_from(student, training):
    """The mode and the class of a teacher, whether it is another object, and its first state."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train(training)
    with torch.no_grad():
        net[2].running_mean.fill_(3.0)
    mean = student.MeanTeacher(net, 0.9)
    same = [
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), mean.teacher.state_dict().values())
    ]
    shared = [
        a.data_ptr() == b.data_ptr() for a, b in zip(net.parameters(), mean.teacher.parameters())
    ]
    shared += [a.data_ptr() == b.data_ptr() for a, b in zip(net.buffers(), mean.teacher.buffers())]
    modes = [m.training for m in mean.teacher.modules()]
    return type(mean.teacher).__name__, modes, same, any(shared), net.training


@pytest.mark.exercise("ema", points=2)
@pytest.mark.parametrize("training", [True, False])
def test_ema_starts_as_a_copy(student, training):
    """A new teacher should be a copy of the student: same class, mode and state, but memory of its own."""
    name, modes, same, shared, mode = student.run(made_from, training)
    assert_equal(name, "Sequential", "the class of the teacher")
    assert_equal(modes, [training] * 4, "the modes of the teacher and its layers")
    assert_equal(same, [True] * len(same), "whether each tensor of the state equals the student's")
    assert_equal(shared, False, "whether the teacher shares a tensor with the student")
    assert_equal(mode, training, "the student's mode")


@pytest.mark.exercise("ema", points=1)
@pytest.mark.parametrize("alpha", [-0.1, 1.01, 20])
def test_ema_alpha_out_of_range(student, alpha):
    """An alpha outside of [0, 1] should raise a ValueError."""
    with raises(ValueError):
        student.MeanTeacher(nn.Linear(2, 2), alpha)


# --- pseudo ----------------------------------------------------------------------------------


def chosen_by_hand(probs, threshold, cap):
    """The same selection with plain Python."""
    rows = []
    for c in range(probs.shape[1]):
        own = [
            (-max(p), i)
            for i, p in enumerate(probs.tolist())
            if p.index(max(p)) == c and max(p) >= threshold
        ]
        rows += [i for _, i in sorted(own)[:cap]]
    rows = sorted(rows)
    classes = [probs[i].argmax().item() for i in rows]
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(classes, dtype=torch.int64)


@pytest.mark.exercise("pseudo", points=3)
@pytest.mark.parametrize("n, classes", [(40, 3), (1, 2), (25, 7)])
def test_pseudo_threshold(student, device, n, classes):
    """pseudo_labels should keep the rows whose largest probability is at least the threshold, in ascending order, with their classes."""
    probs = (2 * randn(n, classes)).softmax(-1).to(device)
    exact = probs.max(-1).values.sort().values[n // 2].item()
    for threshold in (0.0, 0.5, exact, 0.999999, 1.0):
        idx, labels = chosen_by_hand(probs.cpu(), threshold, None)
        with unchanged(probs):
            got = student.pseudo_labels(probs, threshold)
        assert_close(got[0], idx.to(device), f"`idx` for threshold {threshold:.3f}")
        assert_close(got[1], labels.to(device), f"`labels` for threshold {threshold:.3f}")


@pytest.mark.exercise("pseudo", points=3)
@pytest.mark.parametrize("cap", [0, 1, 3, 100])
def test_pseudo_cap(student, device, cap):
    """With cap, each predicted class should keep its most confident rows, the first of equals; the threshold still holds."""
    probs = (1.5 * randn(30, 4)).softmax(-1)
    probs[20:] = probs[:10]  # equals
    for threshold in (0.0, 0.6):
        idx, labels = chosen_by_hand(probs, threshold, cap)
        got = student.pseudo_labels(probs.to(device), threshold, cap=cap)
        assert_close(got[0], idx.to(device), f"`idx` for threshold {threshold}, cap {cap}")
        assert_close(got[1], labels.to(device), f"`labels` for threshold {threshold}, cap {cap}")


@pytest.mark.exercise("pseudo", points=1)
def test_pseudo_nothing_to_keep(student):
    """If no row is sure enough, both results should be empty int64 tensors."""
    probs = torch.full((5, 4), 0.25)
    for cap in (None, 2):
        idx, labels = student.pseudo_labels(probs, 0.5, cap)
        assert_close(idx, torch.zeros(0, dtype=torch.int64), "`idx`")
        assert_close(labels, torch.zeros(0, dtype=torch.int64), "`labels`")


@pytest.mark.exercise("pseudo", points=1)
def test_pseudo_refuses_logits(student):
    """Rows that do not add up to 1 should raise a ValueError, a rounding error of 0.0002 should not."""
    probs = randn(6, 3, dtype=torch.float32).softmax(-1)
    too_small = probs.clone()
    too_small[4] *= 0.99
    too_large = probs.clone()
    too_large[0] *= 1.01
    for wrong in (randn(6, 3), too_small, too_large):
        with raises(ValueError):
            student.pseudo_labels(wrong, 0.5)
    for factor in (1.0002, 0.9998):
        idx, _ = student.pseudo_labels(probs * factor, 0.0)
        assert_close(idx, torch.arange(6), "`idx` for rows that are rounded")


@pytest.mark.exercise("pseudo", points=2)
def test_guard_refuses_test_examples(student, device):
    """guard should return idx as it is, or raise a ValueError that tells how many of its entries are test examples."""
    test = torch.tensor([40, 7, 7, 50], device=device)
    for idx in (torch.tensor([1, 39, 14]), torch.tensor([], dtype=torch.int64), torch.tensor([5])):
        idx = idx.to(device)
        with unchanged(idx, test):
            assert_close(student.guard(idx, test), idx, "guard's answer")
    for idx, count in (([50, 6, 40], "2"), ([7], "1"), ([7, 7, 50, 6], "3")):
        with raises(ValueError, match=count):  # a digit that is in none of the tensors
            student.guard(torch.tensor(idx, device=device), test)


# --- moons -----------------------------------------------------------------------------------

LR, SIGMA, WEIGHT, RAMP, ALPHA = 0.02, 0.1, 20.0, 0.3, 0.9  # as in the chapter's set-up


class Layer(nn.Module):
    """The dense layer of the chapter's set-up."""

    def __init__(self, lead, fan_in, fan_out):
        super().__init__()
        bound = fan_in**-0.5
        self.weight = nn.Parameter(torch.empty(*lead, fan_in, fan_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead, 1, fan_out).uniform_(-bound, bound))

    def forward(self, x):
        return x @ self.weight + self.bias


def recipe(X, y, labelled, method, steps, seed, **change):
    """The outputs on X by the recipe of the docstring; `change` gives known slips."""
    torch.manual_seed(seed)
    lead = X.shape[:-2]
    net = nn.Sequential(
        Layer(lead, 2, 32), nn.ReLU(), Layer(lead, 32, 32), nn.ReLU(), Layer(lead, 32, 2)
    ).to(X.device)
    teacher = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    for t in range(steps):
        out = net(X + SIGMA * torch.randn_like(X))
        loss = F.cross_entropy(out[labelled], y[labelled])
        if method != "supervised":
            model = net if method == "pi" else teacher
            noise = 0.0 if change.get("quiet") else SIGMA * torch.randn_like(X)
            target = model(X + noise).softmax(-1)
            if method == "mean-teacher" or change.get("detach"):
                target = target.detach()
            s = min(t / (steps if change.get("long_ramp") else RAMP * steps), 1)
            w = WEIGHT if change.get("no_ramp") else WEIGHT * math.exp(-5 * (1 - s) ** 2)
            loss = loss + w * F.mse_loss(out.softmax(-1), target)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        for p, g in zip(net.parameters(), grads):
            p.grad = g
        optimizer.step()
        a = ALPHA if change.get("no_warm_up") else min(1 - 1 / (t + 1), ALPHA)
        with torch.no_grad():
            for q, p in zip(teacher.parameters(), net.parameters()):
                q.mul_(a).add_((1 - a) * p)
    best = teacher if method == "mean-teacher" and not change.get("student") else net
    with torch.no_grad():
        return best(X)


def small_moons(n, seed, per_class, noise=0.1):
    """n points in two moons, their classes, and a mask with per_class labels a class."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, math.pi, n // 2)
    upper = torch.stack([t.cos(), t.sin()], 1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    X = torch.cat([upper, lower]) + noise * torch.randn(2 * len(t), 2, generator=g)
    y = torch.tensor([0] * len(t) + [1] * len(t))
    mask = torch.zeros(len(y), dtype=torch.bool)
    for c in (0, 1):
        order = torch.randperm(len(t), generator=g)[:per_class]
        mask[c * len(t) + order] = True
    return X, y, mask


@pytest.mark.exercise("moons", points=7)
@pytest.mark.parametrize("method", ["supervised", "pi", "mean-teacher"])
@pytest.mark.parametrize("steps", [1, 12, 30])
def test_moons_follow_the_recipe(student, device, method, steps):
    """After a few steps the network should be the one of the recipe: the same losses, ramp, noise, optimiser and average."""
    X, y, mask = (part.to(device) for part in small_moons(20, 3, 2))
    expected = recipe(X, y, mask, method, steps, 5)
    slips = {}
    if method == "pi":
        slips["The second pass is detached."] = {"detach": True}
    if method != "supervised":
        slips["The ramp-up is missing."] = {"no_ramp": True}
        slips["The ramp-up is over after RAMP * steps steps."] = {"long_ramp": True}
        slips["The second pass has no noise."] = {"quiet": True}
    if method == "mean-teacher":
        slips["Return the teacher, not the student."] = {"student": True}
        slips["The teacher has no warm-up."] = {"no_warm_up": True}
    symptoms = {  # the longest run would only repeat them
        sentence: recipe(X, y, mask, method, steps, 5, **slip)
        for sentence, slip in slips.items()
        if steps < 30
    }
    with unchanged(X, y, mask):
        net = student.train_semi(X, y, mask, method, steps, 5)
    got = net(X).detach()
    assert_close(got, expected, "the logits", rtol=2e-2, atol=2e-3, symptoms=symptoms)


@pytest.mark.exercise("moons", points=2)
@pytest.mark.parametrize("method", ["supervised", "pi", "mean-teacher"])
def test_moons_side_by_side(student, method):
    """With X of shape (K, n, 2) there should be K networks, each with data of its own."""
    parts = [small_moons(16, seed, 2) for seed in range(3)]
    X, y, mask = (torch.stack(part) for part in zip(*parts))
    net = student.train_semi(X, y, mask, method, 12, 1)
    expected = recipe(X, y, mask, method, 12, 1)
    got = net(X).detach()
    assert_close(got, expected, "the logits", rtol=2e-2, atol=2e-3)


@pytest.mark.exercise("moons", points=2)
def test_moons_hidden_labels(student):
    """Classes of points without a label should not be read: -1 in their place changes nothing."""
    X, y, mask = small_moons(20, 4, 2)
    hidden = torch.where(mask, y, -1)
    for method in ("supervised", "pi", "mean-teacher"):
        a = student.train_semi(X, y, mask, method, 8, 2)(X).detach()
        b = student.train_semi(X, hidden, mask, method, 8, 2)(X).detach()
        assert_close(b, a, f"the logits of {method} with hidden classes")


@pytest.mark.exercise("moons", points=3)
def test_moons_beat_the_baseline(student):
    """Over three data sets the mean accuracy on new points should be above that of labels only."""
    parts = [small_moons(60, 20 + k, 4) for k in range(3)]
    X, y, mask = (torch.stack(part) for part in zip(*parts))
    new = [small_moons(200, 70 + k, 0) for k in range(3)]
    new_X, new_y = torch.stack([p[0] for p in new]), torch.stack([p[1] for p in new])
    right = {}
    for method in ("supervised", "pi", "mean-teacher"):
        net = student.train_semi(X, y, mask, method, 200, 0)
        right[method] = (net(new_X).detach().argmax(-1) == new_y).float().mean(1)
    base = right["supervised"]
    for method in ("pi", "mean-teacher"):
        mine = right[method]
        assert_true(
            mine.mean() > base.mean(),
            f"{method} should be above labels only on average: {mine.mean():.3f} (standard "
            f"deviation {mine.std():.3f}) against {base.mean():.3f} ({base.std():.3f}).",
        )


@pytest.mark.exercise("moons", points=1)
@pytest.mark.parametrize("method", ["Pi", "", "mean_teacher", None])
def test_moons_unknown_method(student, method):
    """A method that does not exist should raise a ValueError."""
    X, y, mask = small_moons(10, 0, 1)
    with raises(ValueError):
        student.train_semi(X, y, mask, method, 1, 0)
