"""Public checks of the chapter on training practice and reproducibility."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "lcg": [
        "Only the present x has to be remembered. Which line of `next` is the formula of the text?",
        "`random` can call `next`; what must it divide by so that 1 never comes out?",
        "`period`: walk on with a local variable and note the step at which each value was first "
        "seen. When a value comes again, how many steps lie between the two visits?",
    ],
    "seed": [
        "Three seeds, one for each library; `torch.manual_seed` takes care of the GPUs. Check the "
        "argument before you touch anything.",
        "The text of a long tensor or array is shortened by dots, so most of the state is not in "
        "it. `tobytes()` gives all bytes of an array, `.numpy()` an array of a tensor.",
        "NumPy's state is not only the array: the second half of the tuple says where in it the "
        "next number is read. Which of `draws` does the late caller get first?",
    ],
    "stable": [
        "`preserve_rng`: what stands before `yield` runs on entering, what stands behind it on "
        "leaving. Which statement of Python runs its block even after an error?",
        "`stable` has a `yield`, so it can stop between two batches. Keep a variable with the "
        "states of the loader's own stream.",
        "Every `next(batches)` happens within `with preserve_rng():`, after `set_states(own)`, and "
        "is followed by `own = get_states()`. The `yield` stands outside the block. Why?",
    ],
    "accum": [
        "Take k batches from the iterator at a time; `list(islice(batches, k))` gives fewer at the "
        "end, and an empty list when nothing is left.",
        "By which number must the mean loss of a batch be multiplied to be its share in the mean "
        "over all examples of the group?",
        "Zero the gradients at the start of a group, step at its end, and call `backward` once "
        "for each batch in between.",
    ],
    "checkpoint": [
        "`hasattr(obj, 'state_dict')` tells objects from plain values. Random states need a name "
        "under which no object can be saved: put objects and states into two dictionaries.",
        "`torch.load` with weights_only reads numbers, texts, lists, tuples, dictionaries and "
        "tensors. NumPy's state holds an array; `.tolist()` makes a list of it.",
        "Write to another name in the same folder, then `os.replace`. When loading, look for "
        "missing names before you change anything, and set the random states last.",
    ],
    "scaler": [
        "Keep the factor, a count of good updates in a row, and whether the gradients of this step "
        "are finite: yes, no, or not known yet.",
        "All parameters: `for group in opt.param_groups: for p in group['params']`. A gradient "
        "can be None.",
        "`update` has three cases: not finite; finite and the count reaches the interval; finite "
        "and it does not. In which of them is the count set to zero?",
    ],
    "search": [
        "One configuration is one draw for each entry of the space. `rng.random()` is uniform on "
        "[0, 1).",
        "Sort by the score alone: `key=lambda trial: ...`. Two dictionaries cannot be compared, "
        "and NaN is neither smaller nor larger than anything.",
        "`neighbourhood`: `{**best, name: value}` is a copy with one other entry. The exponent "
        "j / k runs from -1 to 1; j = 0 is the configuration itself.",
    ],
    "measure": [
        "Read the clock just before and just after one call, collect the differences, and take "
        "their median.",
        "Put reading the clock into a small function of its own: synchronise if `batch.is_cuda`, "
        "then `time.perf_counter()`.",
        "`opt.state.values()` are dictionaries, and so `.values()` of these are what is kept: "
        "tensors, numbers or None. A tensor has `numel()` entries of `element_size()` bytes.",
    ],
    "debug": [
        "Three mistakes: one in the mode of the network, one in what is added, one in the division.",
        "A batch of 60 examples is not worth as much as one of 100.",
    ],
}


# --- lcg -------------------------------------------------------------------------------------


@pytest.mark.exercise("lcg")
def test_first_numbers(student):
    """`next` follows the formula: 3, 2, 5, 4, … for a = 5, c = 3, m = 8 from 0."""
    g = student.LCG(5, 3, 8, 0)
    assert_close(
        [g.next() for _ in range(4)],
        [3, 2, 5, 4],
        "the first numbers",
        symptoms={
            "The seed itself comes first; `next` should go one step before it answers.": [
                0,
                3,
                2,
                5,
            ],
        },
    )
    g = student.LCG(a=5, c=3, m=8, seed=0)
    assert_close([g.random(), g.random()], [0.375, 0.25], "the first values of random()")
    with raises(ValueError):
        student.LCG(5, 3, 0, 1)


@pytest.mark.exercise("lcg")
def test_small_periods(student):
    """`period` is the length of the cycle, and asking for it changes nothing."""
    assert_equal(student.LCG(5, 3, 8, 0).period(), 8, "the period for a=5, c=3, m=8")
    assert_close(
        student.LCG(2, 0, 8, 1).period(),
        1,
        "the period for a=2, c=0, m=8 from 1",
        symptoms={"The way into the cycle does not count.": 4},
    )
    g = student.LCG(5, 3, 8, 0)
    g.period()
    assert_equal(g.next(), 3, "the first number after period()")


# --- seed ------------------------------------------------------------------------------------


@probe
def seeded_twice(student, seed):
    """Numbers of the three libraries, seeded twice; the flags; what a bad seed does."""
    import random

    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = True, False
        rows = []
        for _ in range(2):
            student.seed_everything(seed)
            rows.append([random.random(), float(np.random.rand()), torch.rand(1).item()])
        return rows, cudnn.benchmark, cudnn.deterministic
    finally:
        cudnn.benchmark, cudnn.deterministic = flags


@probe
def prints_around(student, which):
    """The fingerprints before and after one draw of a library."""
    import random

    before, between = student.rng_fingerprint(), student.rng_fingerprint()
    draw = {
        "nothing": lambda: None,
        "random": random.random,
        "NumPy": np.random.rand,
        "torch": lambda: torch.rand(1),
    }
    draw[which]()
    after = student.rng_fingerprint()
    moved = [b != a for b, a in zip(before, after)]
    return before == between, moved, type(after).__name__, len(after)


@pytest.mark.exercise("seed")
def test_all_libraries_are_seeded(student):
    """`seed_everything` gives the same numbers again in all three libraries."""
    (one, two), benchmark, deterministic = student.run(seeded_twice, 3)
    for name, a, b in zip(("random", "NumPy", "torch"), one, two, strict=True):
        assert_close(b, a, f"the second first number of {name}")
    assert_equal([benchmark, deterministic], [False, True], "[benchmark, deterministic]")
    with raises(ValueError):
        student.seed_everything(-1)


@pytest.mark.exercise("seed")
def test_fingerprint_notices(student):
    """`rng_fingerprint` draws nothing, and changes with one draw of any library."""
    for i, which in enumerate(("random", "NumPy", "torch")):
        still, moved, kind, length = student.run(prints_around, which)
        assert_equal([kind, length], ["tuple", 3], "the type and length of a fingerprint")
        assert_true(still, "Two fingerprints in a row should be the same.")
        assert_equal(
            moved, [j == i for j in range(3)], f"which entries change by a draw of {which}"
        )


@pytest.mark.exercise("seed")
def test_shifted(student):
    """`predict_shift` drops what the other caller has taken."""
    draws = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert_close(
        student.predict_shift(draws, 1),
        draws[1:],
        "what follows one other draw",
        symptoms={"The other caller takes the first numbers, not the last.": draws[:-1]},
    )
    with raises(ValueError):
        student.predict_shift(draws, 5)


# --- stable ----------------------------------------------------------------------------------


@probe
def around_block(student, fail):
    """What the three libraries draw after seeding: plainly, and after a preserved block."""
    import random

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    def draws():
        return [random.random(), float(np.random.rand()), torch.rand(1).item()]

    seed()
    plain = draws()
    seed()
    error = "no error"
    try:
        with student.preserve_rng():
            draws()
            if fail:
                raise KeyError("on purpose")
    except KeyError:
        error = "KeyError"
    return plain, draws(), error


@probe
def stable_orders(student, pairs, noise):
    """The order of eight items for each (seed, epoch), and the global numbers in between."""
    loader = torch.utils.data.DataLoader(torch.arange(8), 2, shuffle=True)
    torch.manual_seed(noise)
    orders, numbers = [], []
    for seed, epoch in pairs:
        items = []
        for batch in student.stable(loader, seed, epoch):
            items += batch.tolist()
            numbers.append(torch.rand(1).item())
        orders.append(items)
    torch.manual_seed(noise)
    return orders, numbers, torch.rand(len(numbers)).tolist()


@pytest.mark.exercise("stable")
def test_block_leaves_no_trace(student):
    """After `preserve_rng` all three libraries go on as if the block had not been."""
    for fail in (False, True):
        plain, after, error = student.run(around_block, fail)
        how = "a block that raised an error" if fail else "the block"
        assert_close(list(after), list(plain), f"(Python, NumPy, torch) after {how}")
        if fail:
            assert_equal(error, "KeyError", "the error that reaches the caller")


@pytest.mark.exercise("stable")
def test_stream_of_its_own(student):
    """`stable` gives an order that depends on (seed, epoch) only, and disturbs nobody."""
    pairs = [(0, 0), (0, 1), (1, 0), (0, 0)]
    orders, numbers, alone = student.run(stable_orders, pairs, 5)
    others, _, _ = student.run(stable_orders, pairs, 6)
    for order in orders:
        assert_equal(sorted(order), list(range(8)), "the items of an epoch")
    assert_equal(orders[3], orders[0], "the order for (0, 0), asked for again")
    assert_equal(others, orders, "the orders when the global generator was seeded otherwise")
    assert_equal(len({tuple(o) for o in orders}), 3, "the number of orders of three pairs")
    assert_close(numbers, alone, "the global numbers drawn between the batches")


# --- accum -----------------------------------------------------------------------------------


@probe
def one_epoch(student, batches, k):
    """Updates, and the weight of y = w x after an epoch with SGD of rate 0.1."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    net.weight.grad = torch.full((1, 1), 100.0)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    updates = student.train_epoch(net, opt, iter(batches), k, nn.MSELoss())
    return updates, net.weight.item()


@pytest.mark.exercise("accum")
def test_small_epoch(student):
    """Updates are those of the joined batches, the short last group included."""
    sizes = [(2, 1.0), (1, 3.0), (1, 2.0)]  # batches of ones and their targets
    batches = [(torch.ones(n, 1), torch.full((n, 1), t)) for n, t in sizes]

    def after(groups):
        w = 1.0
        for weighted in groups:
            w -= 0.1 * sum(share * 2 * (w - t) for share, t in weighted)
        return w

    right = after([[(2 / 3, 1.0), (1 / 3, 3.0)], [(1.0, 2.0)]])
    updates, got = student.run(one_epoch, batches, 2)
    assert_equal(updates, 2, "the number of updates of three batches by two")
    assert_close(
        got,
        right,
        "the weight after the epoch",
        rtol=1e-5,
        symptoms={
            "Each batch counts the same; weigh it by its number of examples.": after(
                [[(1 / 2, 1.0), (1 / 2, 3.0)], [(1.0, 2.0)]]
            ),
            "The losses of a group are added up; their weights should add up to 1.": after(
                [[(1.0, 1.0), (1.0, 3.0)], [(1.0, 2.0)]]
            ),
            "Divided by k, also where the last group has fewer batches.": after(
                [[(1 / 2, 1.0), (1 / 2, 3.0)], [(1 / 2, 2.0)]]
            ),
        },
    )
    with raises(ValueError):
        student.run(one_epoch, batches, 0)


# --- checkpoint ------------------------------------------------------------------------------


@probe
def there_and_back(student):
    """Save a small run, change everything, load it; a name that is not there."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        net = nn.Linear(2, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        weight = net.weight.detach().clone()
        student.save_ckpt(path, model=net, opt=opt, epoch=3)
        files = os.listdir(folder)
        expected = torch.rand(2), float(np.random.rand())
        torch.load(path, weights_only=True)
        other = nn.Linear(2, 1)
        rate = torch.optim.SGD(other.parameters(), lr=0.7)
        rest = student.load_ckpt(path, model=other, opt=rate)
        got = torch.rand(2), float(np.random.rand())
        try:
            student.load_ckpt(path, model=other, plan=opt)
            error = "no error"
        except KeyError as missing:
            error = str(missing)
        return (
            files,
            [weight, other.weight.detach().clone()],
            rate.param_groups[0]["lr"],
            rest,
            [expected, got],
            error,
        )


@pytest.mark.exercise("checkpoint")
def test_saved_and_loaded(student):
    """What was saved comes back: weights, optimizer, plain values and random states."""
    files, (weight, loaded), lr, rest, (expected, got), error = student.run(there_and_back)
    assert_equal(files, ["run.pt"], "the files that are left after saving")
    assert_close(loaded, weight, "the weight that was loaded")
    assert_close(lr, 0.1, "the learning rate that was loaded")
    assert_close(rest, {"epoch": 3}, "what load_ckpt returns")
    assert_close(list(got), list(expected), "(torch, NumPy) numbers after loading")
    assert_true("plan" in error, f"A name that is missing should be in a KeyError; got: {error}.")


# --- scaler ----------------------------------------------------------------------------------


@probe
def scaled_steps(student, grads, interval):
    """The weight and the factor after each of some steps with these gradients."""
    scaler = student.Scaler(init=8.0, interval=interval)
    w = nn.Parameter(torch.zeros(()))
    opt = torch.optim.SGD([w], lr=1.0)
    log = []
    for g in grads:
        opt.zero_grad()
        scaler.scale(w * g).backward()
        scaler.step(opt)
        scaler.update()
        log.append((w.item(), float(scaler.scale(torch.ones(())))))
    return log


@probe
def unscaled_by_hand(student):
    """The gradient after unscale_, the weight after step, and a second unscale_."""
    scaler = student.Scaler(init=4.0)
    w = nn.Parameter(torch.zeros(()))
    opt = torch.optim.SGD([w], lr=1.0)
    scaler.scale(3 * w).backward()
    scaler.unscale_(opt)
    grad = w.grad.item()
    scaler.step(opt)
    return grad, w.item()


@pytest.mark.exercise("scaler")
def test_grow_and_back_off(student):
    """The factor doubles after two good steps, halves after a bad one, which is skipped."""
    inf = float("inf")
    log = student.run(scaled_steps, [1.0, 1.0, inf, 1.0, 1.0], 2)
    assert_close([w for w, _ in log], [-1.0, -2.0, -2.0, -3.0, -4.0], "the weights")
    assert_close([f for _, f in log], [8.0, 16.0, 8.0, 8.0, 16.0], "the factors")


@pytest.mark.exercise("scaler")
def test_unscale_once(student):
    """After `unscale_` the gradient is the true one, and `step` does not divide again."""
    grad, w = student.run(unscaled_by_hand)
    assert_close(grad, 3.0, "the gradient after unscale_")
    assert_close(
        w, -3.0, "the weight", symptoms={"step divides the gradient a second time.": -0.75}
    )


# --- search ----------------------------------------------------------------------------------


@probe
def rate_score(config):
    """A hill over the learning rate."""
    return -abs(math.log10(config["lr"]) + 2)


@probe
def visited(student, best, radius, k):
    """The values of lr at which neighbourhood asks the objective, and its answer."""
    rates = []

    def objective(config):
        rates.append(config["lr"])
        return config["lr"]

    median = student.neighbourhood(best, radius, objective, k)
    return sorted(rates), median, best


@pytest.mark.exercise("search")
def test_trials(student):
    """`random_search` draws from the intervals, sorts the best first, and repeats."""
    space = {"lr": ("log", 1e-4, 1.0), "drop": ("uniform", 0.2, 0.4), "width": [8, 16]}
    trials, again = (
        student.random_search(space, rate_score, 20, np.random.default_rng(0)) for _ in range(2)
    )
    assert_equal(len(trials), 20, "the number of trials")
    scores = [score for score, _ in trials]
    assert_close(scores, sorted(scores, reverse=True), "the scores, best first")
    for _, config in trials:
        assert_true(1e-4 <= config["lr"] < 1.0, f"lr = {config['lr']} is not in its interval.")
        assert_true(0.2 <= config["drop"] < 0.4, f"drop = {config['drop']} is not in its interval.")
        assert_true(config["width"] in (8, 16), f"width = {config['width']} is no choice.")
    small = sum(config["lr"] < 1e-2 for _, config in trials)
    assert_true(3 < small < 17, f"{small} of 20 rates are below 0.01; about half should be.")
    assert_close([s for s, _ in again], scores, "the scores with the same seed")
    with raises(ValueError):
        student.random_search({"lr": ("normal", 0, 1)}, rate_score, 3, np.random.default_rng(0))


@pytest.mark.exercise("search")
def test_neighbours(student):
    """`neighbourhood` asks 2 k neighbours of each float entry, and gives their median."""
    rates, median, best = student.run(visited, {"lr": 4.0, "width": 8}, 1.0, 2)
    assert_close(rates, [2.0, 8**0.5, 32**0.5, 8.0], "the values of lr that are tried", rtol=1e-6)
    assert_close(median, (8**0.5 + 32**0.5) / 2, "their median", rtol=1e-6)
    assert_close(best, {"lr": 4.0, "width": 8}, "best afterwards")


# --- measure ---------------------------------------------------------------------------------


@probe
def with_fake_clock(student, durations, size, repeats, warmup):
    """throughput, where the calls take these seconds of a clock that we turn."""
    import time

    now, calls = [0.0], []

    def fn(batch):
        now[0] += durations[len(calls)]
        calls.append(len(batch))

    real = time.perf_counter
    time.perf_counter = lambda: now[0]
    try:
        rate = student.throughput(fn, torch.zeros(size, 2), repeats, warmup)
    finally:
        time.perf_counter = real
    return rate, len(calls)


@probe
def state_sizes(student):
    """Bytes of the state of three optimizers after a step."""
    sizes = []
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p),
    ):
        w = nn.Parameter(torch.ones(10))
        opt = make([w])
        w.sum().backward()
        opt.step()
        sizes.append(student.optimizer_bytes(opt))
    return sizes


@pytest.mark.exercise("measure")
def test_rate(student):
    """`throughput` is the batch size over the median time, without the warm-up."""
    rate, calls = student.run(with_fake_clock, [9.0, 9.0, 1.0, 2.0, 6.0], 12, 3, 2)
    assert_equal(calls, 5, "the number of calls")
    assert_close(
        rate,
        6.0,
        "the rate",
        symptoms={
            "This is the mean of the seconds; one disturbed call spoils it.": 4.0,
            "The batch size is missing: these are calls per second.": 0.5,
            "The warm-up is timed, too.": 2.0,
        },
    )


@pytest.mark.exercise("measure")
def test_state(student):
    """`optimizer_bytes` is 0 for SGD, a copy for momentum, two and a counter for Adam."""
    assert_close(
        student.run(state_sizes),
        [0, 40, 84],
        "the bytes for 10 weights (SGD, momentum, Adam)",
        symptoms={"These are numbers of entries; a float32 has four bytes.": [0, 10, 21]},
    )


# --- debug -----------------------------------------------------------------------------------


@probe
def loss_of(student, training):
    """The mean loss of a network with dropout over uneven batches, its type, and the mode."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    net.eval()
    with torch.no_grad():
        right = F.cross_entropy(net(x), y).item()
        parts = [F.cross_entropy(net(x[a:b]), y[a:b]).item() for a, b in ((0, 4), (4, 5))]
    net.train(training)
    got = student.mean_loss(net, [(x[:4], y[:4]), (x[4:], y[4:])])
    kind = "a tensor" if isinstance(got, torch.Tensor) else type(got).__name__
    return kind, float(got), right, sum(parts) / 2, net.training


@pytest.mark.exercise("debug")
def test_mean_over_examples(student):
    """`mean_loss` is a float, without dropout, and each example counts the same."""
    for training in (True, False):
        kind, got, right, by_batch, mode = student.run(loss_of, training)
        assert_equal(kind, "float", "the type of the result")
        assert_close(
            got,
            right,
            "the mean loss",
            rtol=1e-4,
            symptoms={"Each batch counts the same, though they have 4 and 1 examples.": by_batch},
        )
        assert_equal(mode, training, "whether the network is in training mode afterwards")
