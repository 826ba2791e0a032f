"""Hidden tests of the chapter on training practice and reproducibility."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_true,
    probe,
    raises,
    randn,
)

# --- lcg -------------------------------------------------------------------------------------

FAMOUS = {  # generator: the first numbers from a seed, as printed in the literature
    "minimal standard": ((16807, 0, 2**31 - 1, 1), [16807, 282475249, 1622650073, 984943658]),
    "RANDU": ((65539, 0, 2**31, 1), [65539, 393225, 1769499, 7077969]),
    "ANSI C": ((1103515245, 12345, 2**31, 0), [12345, 1406932606, 654583775, 1449466924]),
    "a small one": ((7, 5, 18, 0), [5, 4, 15, 2, 1, 12, 17, 16, 9, 14, 13, 6]),
    "one value": ((3, 4, 1, 0), [0, 0, 0]),
    "a negative factor": ((-3, 1, 10, 4), [9, 4, 9]),
}


@pytest.mark.exercise("lcg", points=3)
@pytest.mark.parametrize("name", FAMOUS)
def test_known_sequences(student, name):
    """next should give the known numbers of well-known generators."""
    arguments, expected = FAMOUS[name]
    g = student.LCG(*arguments)
    assert_close([g.next() for _ in expected], expected, f"the first numbers ({name})")


@pytest.mark.exercise("lcg", points=2)
@pytest.mark.parametrize("m", [7, 16, 1000])
def test_random_is_next_over_m(student, m):
    """random should go one step and divide by m, in the same stream as next."""
    one, two = student.LCG(21, 11, m, 3), student.LCG(21, 11, m, 3)
    for _ in range(12):
        assert_close(one.random(), two.next() / m, "random()")
    assert_equal(one.next(), two.next(), "the next number after twelve steps")
    counting = student.LCG(1, 1, 4, 3)
    first = counting.random()
    assert_equal(type(first), float, "the type of random()")
    assert_close([first, counting.random()], [0.0, 0.25], "two numbers of counting modulo 4")


@pytest.mark.exercise("lcg", points=2)
def test_seed_makes_the_stream(student):
    """Equal seeds should give equal streams that do not disturb each other; a seed counts mod m."""
    one, two, three = (student.LCG(13, 7, 64, s) for s in (5, 5, 69))
    alone = student.LCG(13, 7, 64, 5)
    expected = [alone.next() for _ in range(6)]
    got = []
    for _ in range(6):
        got += [one.next(), two.next(), three.next()]
    assert_close(got[::3], expected, "the stream of the first")
    assert_close(got[1::3], expected, "the stream of a second one with the same seed")
    assert_close(got[2::3], expected, "the stream from the seed 5 + 64, for m = 64")
    negative = student.LCG(1, 0, 10, -3)
    assert_equal(negative.next(), 7, "the next number from the seed -3 with a=1, c=0, m=10")
    assert_equal(
        student.LCG(2, 0, 10, 15).period(), 1, "the period for a=2, c=0, m=10 from the seed 15"
    )


def cycle_length(a, c, m, seed):
    """The period by the definition: forget the way in, then count."""
    x = seed % m
    for _ in range(m):
        x = (a * x + c) % m
    start, length = x, 0
    while True:
        x = (a * x + c) % m
        length += 1
        if x == start:
            return length


@pytest.mark.exercise("lcg", points=2)
@pytest.mark.parametrize(
    "a, c, m, seed",
    [
        (5, 3, 16, 0),
        (5, 3, 16, 9),
        (7, 3, 16, 0),
        (1, 1, 100, 50),
        (2, 0, 8, 1),
        (2, 0, 24, 1),
        (6, 0, 96, 5),
        (6, 1, 1000, 3),
        (3, 0, 7, 1),
        (4, 4, 5, 2),
        (11, 0, 25, 1),
        (1, 0, 9, 4),
        (17, 5, 1, 0),
        (137, 187, 4096, 77),
        (10, 0, 97, 3),
    ],
)
def test_period(student, a, c, m, seed):
    """period should be the length of the cycle, without the way that leads into it."""
    g = student.LCG(a, c, m, seed)
    assert_equal(g.period(), cycle_length(a, c, m, seed), f"the period of {(a, c, m, seed)}")
    x = seed % m
    for _ in range(3):
        x = (a * x + c) % m
        assert_equal(g.next(), x, "a number after period()")
    assert_equal(g.period(), cycle_length(a, c, m, seed), "the period, asked for later")


@pytest.mark.exercise("lcg", points=1)
@pytest.mark.parametrize("m", [0, -1, -8])
def test_m_must_be_positive(student, m):
    """An m that is not positive should be a ValueError, when the generator is made."""
    with raises(ValueError):
        student.LCG(5, 3, m, 1)


# --- seed ------------------------------------------------------------------------------------


@probe
def seeded_numbers(student, seed):
    """What each library draws after seeding, twice, with the library seeded directly beside it."""
    import random

    def draw():
        return [
            [random.random() for _ in range(3)],
            np.random.rand(3).tolist(),
            torch.rand(3).tolist(),
        ]

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    expected = draw()
    random.seed(seed + 1)
    np.random.seed(seed + 1)
    torch.manual_seed(seed + 1)
    student.seed_everything(seed)
    return expected, draw()


@probe
def flags_after(student, before):
    """cudnn's flags after seeding."""
    cudnn = torch.backends.cudnn
    kept = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = before
        student.seed_everything(1)
        return [cudnn.benchmark, cudnn.deterministic]
    finally:
        cudnn.benchmark, cudnn.deterministic = kept


@probe
def refused(student, seed):
    """The error for a bad seed, and which of the three streams moved."""
    import random

    def seed_all():
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    def draw():
        return [random.random(), float(np.random.rand()), torch.rand(1).item()]

    seed_all()
    expected = draw()
    seed_all()
    try:
        student.seed_everything(seed)
        error = "no error"
    except NotImplementedError:
        raise
    except Exception as e:
        error = type(e).__name__
    return error, expected, draw()


@probe
def prints(student, which):
    """Fingerprints before and after a call, and of the same states reached again."""
    import random

    def set_all(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    calls = {
        "nothing": lambda: None,
        "random.random": lambda: random.random(),
        "random.gauss, the second": lambda: random.gauss(0, 1),
        "np.random.rand": lambda: np.random.rand(),
        "np.random.randn, the second": lambda: np.random.randn(),
        "700 numbers of NumPy": lambda: np.random.rand(700),
        "torch.rand": lambda: torch.rand(1),
        "700 numbers of torch": lambda: torch.rand(700),
        "another seed": lambda: set_all(2),
        "another seed of random": lambda: random.seed(2),
        "another seed of NumPy": lambda: np.random.seed(2),
        "another seed of NumPy, as far on": lambda: (np.random.seed(2), np.random.rand(4)),
        "another seed of torch": lambda: torch.manual_seed(2),
        "evaluation in fork_rng": lambda: evaluate(),
    }

    def evaluate():
        with torch.random.fork_rng(devices=[]):
            torch.rand(5)
            for _ in torch.utils.data.DataLoader([1, 2, 3]):
                pass

    def ready():
        set_all(1)
        np.random.rand(4)  # in the middle of NumPy's block of 624 words
        if which.startswith("random.gauss"):
            random.gauss(0, 1)
        if which.startswith("np.random.randn"):
            np.random.randn()

    ready()
    before = student.rng_fingerprint()
    follow = [random.random(), float(np.random.rand()), torch.rand(1).item()]
    ready()
    again = student.rng_fingerprint()
    unmoved = [random.random(), float(np.random.rand()), torch.rand(1).item()]
    ready()
    calls[which]()
    after = student.rng_fingerprint()
    whole = [type(v) is int for v in before]
    moved = [b != a for b, a in zip(before, after)]
    return type(before).__name__, whole, before == again, follow == unmoved, moved


@pytest.mark.exercise("seed", points=2)
@pytest.mark.parametrize("seed", [0, 1, 42, 123456789, 2**32 - 2])
def test_seeds_all_three(student, seed):
    """After seed_everything, random, NumPy and torch should draw what their own seed gives."""
    expected, got = student.run(seeded_numbers, seed)
    for name, e, g in zip(("random", "NumPy", "torch"), expected, got, strict=True):
        assert_close(list(g), list(e), f"the first numbers of {name} after the seed {seed}")


@pytest.mark.exercise("seed", points=1)
@pytest.mark.parametrize("before", [(True, False), (False, True), (True, True)])
def test_flags(student, before):
    """seed_everything should switch cudnn.benchmark off and cudnn.deterministic on."""
    assert_equal(student.run(flags_after, before), [False, True], "[benchmark, deterministic]")


@pytest.mark.exercise("seed", points=1)
@pytest.mark.parametrize("seed", [-1, -7, 2**32, 2**40])
def test_bad_seeds(student, seed):
    """A seed outside [0, 2**32) should be a ValueError, with all generators as they were."""
    error, expected, got = student.run(refused, seed)
    assert_equal(error, "ValueError", f"the error for the seed {seed}")
    assert_close(list(got), list(expected), "the numbers of (random, NumPy, torch) afterwards")


MOVES = {
    "nothing": [False, False, False],
    "random.random": [True, False, False],
    "random.gauss, the second": [True, False, False],
    "np.random.rand": [False, True, False],
    "np.random.randn, the second": [False, True, False],
    "700 numbers of NumPy": [False, True, False],
    "torch.rand": [False, False, True],
    "700 numbers of torch": [False, False, True],
    "another seed": [True, True, True],
    "another seed of random": [True, False, False],
    "another seed of NumPy": [False, True, False],
    "another seed of NumPy, as far on": [False, True, False],
    "another seed of torch": [False, False, True],
    "evaluation in fork_rng": [False, False, False],
}


@pytest.mark.exercise("seed", points=4)
@pytest.mark.parametrize("which", MOVES)
def test_fingerprint(student, which):
    """The fingerprint should be three ints that change just where a generator has moved, and reading
    it should draw nothing."""
    kind, whole, again, undisturbed, moved = student.run(prints, which)
    assert_equal([kind, len(whole)], ["tuple", 3], "the type and length of the fingerprint")
    assert_equal(whole, [True] * 3, "whether its entries are ints")
    assert_equal(again, True, "whether the same states give the same fingerprint")
    assert_equal(undisturbed, True, "whether a second reading leaves the same numbers to follow")
    assert_equal(moved, MOVES[which], f"which entries change by: {which}")


@probe
def really_shifted(student, n, k):
    torch.manual_seed(11)
    draws = torch.rand(n)
    torch.manual_seed(11)
    torch.rand(k)
    return draws, torch.rand(n)[: n - k]


@pytest.mark.exercise("seed", points=2)
@pytest.mark.parametrize("n, k", [(6, 1), (6, 0), (5, 5), (9, 4), (1, 1), (40, 17)])
def test_shift_as_in_torch(student, n, k):
    """predict_shift should give what torch.rand really gives after k more draws."""
    draws, expected = student.run(really_shifted, n, k)
    got = student.predict_shift(draws, k)
    assert_close(got, expected, f"the numbers after {k} of {n} were drawn by somebody else")
    for bad in (-1, -n - 1, n + 1):
        with raises(ValueError):
            student.predict_shift(draws, bad)


# --- stable ----------------------------------------------------------------------------------


@probe
def blocks(student, kind):
    """What the libraries draw after a preserved block, and plainly; what was drawn within."""
    import random

    def seed():
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        np.random.randn()  # leaves a second normal number in store

    def draw():
        return [
            random.random(),
            float(np.random.randn()),
            float(np.random.rand()),
            torch.rand(1).item(),
            torch.randn(1).item(),
        ]

    seed()
    plain, second = draw(), draw()
    seed()
    inside, error = [], "no error"
    try:
        with student.preserve_rng():
            inside = draw()
            if kind == "nested":
                with student.preserve_rng():
                    inside = draw()
                inside = [inside, draw()]
            if kind == "reseeds":
                random.seed(99)
                np.random.seed(99)
                torch.manual_seed(99)
            if kind == "raises":
                raise ZeroDivisionError("on purpose")
            if kind == "many":
                for _ in range(700):
                    draw()
    except ZeroDivisionError:
        error = "ZeroDivisionError"
    return plain, second, inside, draw(), error


@pytest.mark.exercise("stable", points=3)
@pytest.mark.parametrize("kind", ["plain", "nested", "reseeds", "raises", "many"])
def test_preserve(student, kind):
    """After a preserve_rng block, all three libraries should draw as if it had not been: also when it
    raised, reseeded, or held another such block."""
    plain, second, inside, after, error = student.run(blocks, kind)
    assert_close(list(after), list(plain), f"(Python, NumPy, torch) after the block ({kind})")
    if kind == "nested":
        assert_close(list(inside[1]), list(second), "the draws after the inner block")
    else:
        assert_close(list(inside), list(plain), "the draws within the block")
    expected = "ZeroDivisionError" if kind == "raises" else "no error"
    assert_equal(error, expected, "the error that leaves the block")


@probe
def epochs_of(student, pairs, noise, augment):
    """The batches for each pair, while the caller draws; the caller's numbers and the right ones."""
    import random

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            extra = [random.random(), float(np.random.rand()), torch.rand(1).item()]
            return torch.tensor([float(i), *(extra if augment else ())])

    def seed():
        random.seed(noise)
        np.random.seed(noise)
        torch.manual_seed(noise)

    def draw():
        return [random.random(), float(np.random.rand()), torch.rand(1).item()]

    loader = torch.utils.data.DataLoader(Items(), 2, shuffle=True)
    seed()
    numbers, runs = [], []
    for s, e in pairs:
        rows = []
        for batch in student.stable(loader, s, e):
            rows.append(batch)
            numbers.append(draw())
        numbers.append(draw())
        runs.append(torch.cat(rows))
    seed()
    return runs, numbers, [draw() for _ in numbers]


@pytest.mark.exercise("stable", points=3)
@pytest.mark.parametrize("augment", [False, True])
def test_caller_is_not_disturbed(student, augment):
    """Between and after the batches, the caller should draw what it would draw without a loader."""
    pairs = [(0, 0), (4, 2)]
    _, numbers, expected = student.run(epochs_of, pairs, 5, augment)
    for i, (got, right) in enumerate(zip(numbers, expected, strict=True)):
        assert_close(list(got), list(right), f"(Python, NumPy, torch), the caller's draw {i + 1}")


@pytest.mark.exercise("stable", points=3)
@pytest.mark.parametrize("augment", [False, True])
def test_depends_on_seed_and_epoch_only(student, augment):
    """Order and augmentations should be the same for the same (seed, epoch) whatever the caller
    draws, and unrelated for different pairs."""
    pairs = [(0, 0), (0, 1), (1, 0), (7, 3), (3, 7), (0, 0)]
    runs, _, _ = student.run(epochs_of, pairs, 5, augment)
    others, _, _ = student.run(epochs_of, pairs[::-1], 6, augment)
    for pair, items, other in zip(pairs, runs, others[::-1], strict=True):
        order = items[:, 0].int().tolist()
        assert_equal(sorted(order), list(range(9)), f"the items for {pair}")
        assert_close(other, items, f"the items for {pair} beside other global numbers")
    assert_close(runs[5], runs[0], "the items for (0, 0), asked for again")
    orders = {tuple(items[:, 0].tolist()) for items in runs[:5]}
    assert_equal(len(orders), 5, "the number of different orders of five pairs")
    if augment:
        for column, name in ((1, "random"), (2, "NumPy"), (3, "torch")):
            values = torch.cat([items[:, column] for items in runs[:5]]).tolist()
            assert_equal(len(set(values)), 45, f"how many draws of {name} differ, of 45")


@pytest.mark.exercise("stable", points=1)
def test_far_pairs(student):
    """Pairs such as (1, 0) and (0, 1000) should have unrelated streams, too."""
    pairs = [(1, 0), (0, 10), (0, 100), (0, 1000), (0, 10000)]
    runs, _, _ = student.run(epochs_of, pairs, 5, False)
    orders = {tuple(items[:, 0].tolist()) for items in runs}
    assert_equal(len(orders), 5, f"the number of different orders of {pairs}")


@probe
def losses_of(student, evaluate):
    """Training losses of a network with dropout; evaluation also in the middle of an epoch."""
    data = torch.utils.data.TensorDataset(
        torch.arange(48.0).view(12, 4).sin().double(), torch.arange(12) % 3
    )
    train = torch.utils.data.DataLoader(data, 5, shuffle=True)
    test = torch.utils.data.DataLoader(data, 4, shuffle=True)
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.4), nn.Linear(8, 3)).double()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for epoch in range(3):
        for step, (x, y) in enumerate(student.stable(train, 1, epoch)):
            opt.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            if evaluate and step == 1:
                for _ in student.stable(test, 9, epoch):
                    pass
        if evaluate:
            with student.preserve_rng():
                for x, _ in test:
                    net(x)
    return losses


@pytest.mark.exercise("stable", points=2)
def test_training_is_the_same(student):
    """Evaluating in the middle of an epoch (stable) and between epochs (preserve_rng) should leave
    all training losses as they were."""
    plain, looked = student.run(losses_of, False), student.run(losses_of, True)
    assert_close(looked, plain, "the training losses with evaluation")


@probe
def odd_loaders(student):
    """Items of loaders that are no DataLoader, how early they are read, nested and broken loops."""
    log = []

    class Lazy:
        def __iter__(self):
            for i in range(4):
                log.append(f"make {i}")
                yield i

    for i in student.stable(Lazy(), 0, 0):
        log.append(f"use {i}")
    plain = list(student.stable([5, 6, 7], 1, 1)), list(student.stable([], 1, 1))
    fixed = torch.utils.data.DataLoader([3, 1, 2], 2)
    in_order = torch.cat(list(student.stable(fixed, 0, 5))).tolist()
    loader = torch.utils.data.DataLoader(torch.arange(4), 2, shuffle=True)
    alone = [b.tolist() for b in student.stable(loader, 0, 0)]
    nested = []
    for batch in student.stable(loader, 0, 0):
        nested.append(batch.tolist())
        for _ in student.stable(loader, 0, 1):
            pass
    return log, plain, in_order, alone, nested


@probe
def broken_off(student, how):
    """The global numbers after a loop that ended early, and plainly; the error that came."""
    import random

    def seed():
        random.seed(8)
        np.random.seed(8)
        torch.manual_seed(8)

    def draw():
        return [random.random(), float(np.random.rand()), torch.rand(1).item()]

    class Failing(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            draw()
            if how == "raises" and len(seen) == 1:
                raise ArithmeticError("on purpose")
            return i

    seed()
    expected = draw()
    seed()
    seen, error = [], "no error"
    try:
        for batch in student.stable(torch.utils.data.DataLoader(Failing(), 2), 0, 0):
            seen.append(batch.tolist())
            if how == "break":
                break
    except ArithmeticError:
        error = "ArithmeticError"
    return expected, draw(), seen, error


@pytest.mark.exercise("stable", points=2)
def test_any_loader(student):
    """stable should take any iterable, make batches only when asked, and work in nested loops."""
    log, (some, none), in_order, alone, nested = student.run(odd_loaders)
    assert_equal(log[:3], ["make 0", "use 0", "make 1"], "the first three events")
    assert_equal([e for e in log if e[:3] == "use"], [f"use {i}" for i in range(4)], "the uses")
    assert_equal([some, none], [[5, 6, 7], []], "the items of [5, 6, 7] and of []")
    assert_equal(in_order, [3, 1, 2], "the items of a loader that does not shuffle")
    assert_equal(nested, alone, "the batches of an outer loop around another one")


@pytest.mark.exercise("stable", points=1)
@pytest.mark.parametrize("how", ["break", "raises"])
def test_broken_off(student, how):
    """A loop that is left early, or a data set that raises, should leave the generators in order."""
    expected, got, seen, error = student.run(broken_off, how)
    assert_close(list(got), list(expected), f"(Python, NumPy, torch) after a loop that ends: {how}")
    assert_equal(seen, [[0, 1]], "the batches that were seen")
    wanted = "ArithmeticError" if how == "raises" else "no error"
    assert_equal(error, wanted, "the error that reaches the caller")


# --- accum -----------------------------------------------------------------------------------


@probe
def accumulated(student, x, y, sizes, k, kind, stale, where):
    """Updates and parameters after an epoch of train_epoch over batches of these sizes."""

    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(x.shape[1], 5), nn.Tanh(), nn.Linear(5, 3))
        net = net.to(x.device, x.dtype)
        made = {
            "SGD": lambda p: torch.optim.SGD(p, lr=0.3),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
        }[kind](net.parameters())
        return net, made

    def flat(net):
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    net, opt = make()
    groups = [sizes[i : i + k] for i in range(0, len(sizes), k)]
    start = 0
    for group in groups:
        stop = start + sum(group)
        opt.zero_grad()
        F.cross_entropy(net(x[start:stop]), y[start:stop]).backward()
        opt.step()
        start = stop
    right = flat(net)

    net, opt = make()
    if stale:
        for p in net.parameters():
            p.grad = torch.full_like(p, 10.0)
    pairs = list(zip(x.split(sizes), y.split(sizes)))
    batches = pairs
    if where == "loader":

        class Pairs:
            def __iter__(self):
                return iter(pairs)

        batches = Pairs()
    elif where == "generator":
        batches = (pair for pair in pairs)
    updates = student.train_epoch(net, opt, batches, k, F.cross_entropy)
    return updates, flat(net), right, len(groups)


@pytest.mark.exercise("accum", points=6)
@pytest.mark.parametrize("kind", ["SGD", "momentum", "Adam"])
@pytest.mark.parametrize(
    "sizes, k",
    [
        ([4, 4, 4, 4], 2),
        ([4, 4, 4, 4, 4], 2),
        ([4, 4, 4, 3], 4),
        ([4, 4, 1], 5),
        ([1, 5, 2, 7, 3, 1, 6], 3),
        ([3, 1], 2),
        ([6], 4),
    ],
)
def test_equals_big_batches(student, device, sizes, k, kind):
    """The parameters should be those of training with the joined batches, short tail included."""
    x = randn(sum(sizes), 4, device=device)
    y = torch.arange(sum(sizes), device=device) % 3
    updates, got, expected, count = student.run(accumulated, x, y, sizes, k, kind, False, "list")
    assert_equal(updates, count, f"the number of updates for {len(sizes)} batches by {k}")
    assert_close(got, expected, "the parameters", rtol=1e-6, atol=1e-7)


@pytest.mark.exercise("accum", points=2)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_one_batch_at_a_time(student, device, kind):
    """With k = 1 it should be plain training, in float32 too."""
    x = randn(11, 4, dtype=torch.float32, device=device)
    y = torch.arange(11, device=device) % 3
    updates, got, expected, _ = student.run(accumulated, x, y, [3, 3, 3, 2], 1, kind, False, "list")
    assert_equal(updates, 4, "the number of updates of four batches")
    assert_close(got, expected, "the parameters")


@pytest.mark.exercise("accum", points=2)
@pytest.mark.parametrize("where", ["loader", "generator"])
def test_any_iterable_and_stale_gradients(student, where):
    """A loader without length should do, and gradients from before the epoch should not count."""
    x, y = randn(14, 2), torch.arange(14) % 3
    updates, got, expected, _ = student.run(
        accumulated, x, y, [3, 3, 3, 3, 2], 2, "SGD", True, where
    )
    assert_equal(updates, 3, "the number of updates of five batches by two")
    assert_close(got, expected, "the parameters", rtol=1e-6, atol=1e-7)


@probe
def order_of_events(student, sizes, k):
    """What happens in which order: forward passes, backward passes, steps."""
    log = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            log.append("forward")
            return x * self.w

    class Opt(torch.optim.SGD):
        def step(self, *args):
            log.append("step")
            return super().step(*args)

    model = Model()
    model.w.register_hook(lambda g: log.append("backward"))
    opt = Opt(model.parameters(), lr=0.1)
    batches = [(torch.ones(n, 1), torch.zeros(n, 1)) for n in sizes]
    updates = student.train_epoch(model, opt, batches, k, F.mse_loss)
    return log, updates


@pytest.mark.exercise("accum", points=3)
@pytest.mark.parametrize("sizes, k", [([2, 2, 2], 2), ([1, 1, 1, 1], 4), ([3], 2)])
def test_one_graph_at_a_time(student, sizes, k):
    """Each batch should go forward once and backward at once, before the next; then one step."""
    log, updates = student.run(order_of_events, sizes, k)
    expected = []
    for i in range(0, len(sizes), k):
        expected += ["forward", "backward"] * len(sizes[i : i + k]) + ["step"]
    assert_equal(list(log), expected, "the order of events")
    assert_equal(updates, math.ceil(len(sizes) / k), "the number of updates")


@pytest.mark.exercise("accum", points=2)
@pytest.mark.parametrize("k", [0, -1])
def test_k_and_empty(student, k):
    """A k below 1 should be a ValueError; an empty loader makes no update."""
    with raises(ValueError):
        student.run(bad_k, k)
    assert_equal(student.run(nothing_to_do), 0, "the number of updates for an empty loader")


@probe
def bad_k(student, k):
    net = nn.Linear(2, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = [(torch.ones(2, 2), torch.zeros(2, 1))]
    return student.train_epoch(net, opt, batches, k, F.mse_loss)


@probe
def nothing_to_do(student):
    net = nn.Linear(2, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    return student.train_epoch(net, opt, [], 2, F.mse_loss)


# --- checkpoint ------------------------------------------------------------------------------


@probe
def resumed(student, kind, steps):
    """Losses of an unbroken run, and of one that is saved, rebuilt and loaded after some steps."""
    import os
    import random
    import tempfile

    def build():
        net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1)).double()
        opt = {
            "SGD": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
            "Adam": lambda p: torch.optim.AdamW(p, lr=0.05),
        }[kind](net.parameters())
        return net, opt, torch.optim.lr_scheduler.StepLR(opt, 2, gamma=0.3)

    def go(net, opt, plan, n):
        losses = []
        for _ in range(n):
            x = torch.randn(6, 3, dtype=torch.float64)
            x = x + random.random() + float(np.random.randn())
            opt.zero_grad()
            loss = (net(x) - x.sum(1, keepdim=True)).pow(2).mean()
            loss.backward()
            opt.step()
            plan.step()
            losses.append(loss.item())
        return losses

    def seed(s):
        random.seed(s)
        np.random.seed(s)
        torch.manual_seed(s)

    seed(1)
    whole = go(*build(), steps + 4)
    seed(1)
    net, opt, plan = build()
    go(net, opt, plan, steps)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.pt")
        student.save_ckpt(path, net=net, opt=opt, plan=plan, step=steps, note="here")
        seed(2)
        net, opt, plan = build()
        rest = student.load_ckpt(path, net=net, opt=opt, plan=plan)
        tail = go(net, opt, plan, 4)
        student.load_ckpt(path, net=net, opt=opt, plan=plan)  # a second time, from the same file
        again = go(net, opt, plan, 4)
    return whole[steps:], tail, again, rest


@pytest.mark.exercise("checkpoint", points=5)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("steps", [1, 3])
def test_resumes_exactly(student, kind, steps):
    """A resumed run should go on as the unbroken one: model, optimizer, scheduler, all random
    numbers."""
    whole, tail, again, rest = student.run(resumed, kind, steps)
    assert_close(tail, whole, "the losses after loading")
    assert_close(again, whole, "the losses after loading the same file again")
    assert_close(rest, {"step": steps, "note": "here"}, "what load_ckpt returns")


@probe
def random_after(student, which):
    """Draws of one library: before saving as they would go on, and after loading."""
    import os
    import random
    import tempfile

    def draw():
        if which == "random":
            return [random.random(), random.gauss(0, 1), random.gauss(0, 1)]
        if which == "NumPy":
            return [float(np.random.randn()), float(np.random.rand()), float(np.random.randn())]
        return [torch.rand(1).item(), *torch.randn(2).tolist(), torch.rand(1).item()]

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "r.pt")
        np.random.randn()
        random.gauss(0, 1)
        student.save_ckpt(path)
        expected = draw()
        for _ in range(700):
            draw()
        rest = student.load_ckpt(path)
        return expected, draw(), rest


@pytest.mark.exercise("checkpoint", points=3)
@pytest.mark.parametrize("which", ["random", "NumPy", "torch"])
def test_random_states(student, which):
    """After loading, each library should draw what it would have drawn after saving."""
    expected, got, rest = student.run(random_after, which)
    assert_close(list(got), list(expected), f"the numbers of {which}")
    assert_close(rest, {}, "what load_ckpt returns when nothing was named")


@probe
def plain_values(student):
    """What comes back of plain values, and whether saving or loading part of them works."""
    import os
    import tempfile

    values = {
        "epoch": 7,
        "best": 0.25,
        "name": "a run",
        "curve": [3.0, 2.0],
        "rng": {"python": 1},
        "objs": [1, 2],
        "path_": None,
        "table": torch.arange(4),
    }
    net = nn.Linear(2, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "v.pt")
        student.save_ckpt(path, net=net, **values)
        torch.load(path, weights_only=True)
        other = nn.Linear(2, 2)
        rest = student.load_ckpt(path, net=other)
        same = torch.equal(other.weight, net.weight)
        state = student.load_ckpt(path)["net"]
        return rest, values, same, state["weight"], net.weight.detach().clone()


@pytest.mark.exercise("checkpoint", points=3)
def test_plain_values(student):
    """Values without state_dict should come back as they were, under any name; what is not asked
    for comes back as it lies in the file."""
    rest, values, same, weight, expected = student.run(plain_values)
    assert_close(rest, values, "what load_ckpt returns")
    assert_equal(same, True, "whether the network was loaded")
    assert_close(weight, expected, "the weight in the state dict that was not asked for")


@probe
def missing_name(student):
    """The error for names that are not in the file, and whether anything was changed."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.pt")
        student.save_ckpt(path, first=nn.Linear(2, 2), epoch=1)
        first, plan = nn.Linear(2, 2), nn.Linear(1, 1)
        before = first.weight.detach().clone()
        torch.manual_seed(4)
        expected = torch.rand(1).item()
        torch.manual_seed(4)
        try:
            student.load_ckpt(path, first=first, scheduler=plan)
            error, text = "no error", ""
        except NotImplementedError:
            raise
        except Exception as e:
            error, text = type(e).__name__, str(e)
        number = torch.rand(1).item()
        return error, "scheduler" in text, torch.equal(first.weight, before), number, expected


@pytest.mark.exercise("checkpoint", points=3)
def test_missing_name(student):
    """A name that the file does not have should be a KeyError that names it, and change nothing."""
    error, named, untouched, number, expected = student.run(missing_name)
    assert_equal(error, "KeyError", "the error")
    assert_equal(named, True, "whether the message holds the name that is missing")
    assert_equal(untouched, True, "whether the other object is as it was")
    assert_close(number, expected, "the next number of torch after the error")


@probe
def interrupted(student, kind):
    """Files in the folder, and what can be loaded, after a save that failed or was repeated."""
    import os
    import pathlib
    import tempfile

    class Bad:
        def state_dict(self):
            return {"f": lambda: 0}

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "c.pt")
        if kind == "a Path":
            path = pathlib.Path(path)
        if kind == "a relative name":
            here = os.getcwd()
            os.chdir(folder)
            path = "c.pt"
        try:
            student.save_ckpt(path, epoch=1)
            try:
                if kind == "fails":
                    student.save_ckpt(path, epoch=2, bad=Bad())
                else:
                    student.save_ckpt(path, epoch=2)
                error = "no error"
            except NotImplementedError:
                raise
            except Exception:
                error = "an error"
            try:
                epoch = student.load_ckpt(path)["epoch"]
            except Exception as e:
                epoch = type(e).__name__
            return error, epoch, sorted(os.listdir(folder)) if kind != "fails" else ["c.pt"]
        finally:
            if kind == "a relative name":
                os.chdir(here)


@pytest.mark.exercise("checkpoint", points=3)
@pytest.mark.parametrize("kind", ["a str", "a Path", "a relative name", "fails"])
def test_atomic(student, kind):
    """Saving again should replace the file and leave no other one; if it fails, the old file should
    still be readable."""
    error, epoch, files = student.run(interrupted, kind)
    fails = kind == "fails"
    assert_equal(error, "an error" if fails else "no error", "what the second saving raises")
    assert_equal(epoch, 1 if fails else 2, "the epoch in the file afterwards")
    assert_equal(files, ["c.pt"], "the files in the folder")


@probe
def safe_and_mapped(student):
    """What load_ckpt does with a pickled module; how often map_location is asked."""
    import os
    import pickle
    import tempfile

    asked = []

    def where(storage, location):
        asked.append(location)
        return storage

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s.pt")
        net = nn.Linear(2, 2)
        student.save_ckpt(path, net=net)
        student.load_ckpt(path, map_location=where, net=nn.Linear(2, 2))
        count = len(asked)
        torch.save({"objs": {"net": nn.Linear(2, 2)}, "rng": {}, "net": nn.Linear(2, 2)}, path)
        try:
            student.load_ckpt(path, net=net)
            error = "no error"
        except pickle.UnpicklingError:
            error = "UnpicklingError"
        except NotImplementedError:
            raise
        except Exception as e:
            error = type(e).__name__
        return count > 0, error


@pytest.mark.exercise("checkpoint", points=3)
def test_safe_and_mapped(student):
    """load_ckpt should hand map_location on, and refuse a file with a whole module in it."""
    asked, error = student.run(safe_and_mapped)
    assert_equal(asked, True, "whether map_location was asked where a tensor should go")
    assert_equal(error, "UnpicklingError", "the error for a file with a pickled module")


# --- scaler ----------------------------------------------------------------------------------


@probe
def scaler_trace(student, options, grads, by_hand):
    """After each step: the weights, the factor; the same with torch's GradScaler."""
    names = {"init": "init_scale", "growth": "growth_factor"}
    names |= {"backoff": "backoff_factor", "interval": "growth_interval"}
    theirs = torch.amp.GradScaler("cpu", **{names[k]: v for k, v in options.items()})
    logs = []
    for scaler in (student.Scaler(**options), theirs):
        w, v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(()))
        unused = nn.Parameter(torch.ones(3))
        opt = torch.optim.SGD(
            [{"params": [w, unused]}, {"params": [v], "lr": 0.5}], lr=1.0, momentum=0.5
        )
        log = []
        for a, b in grads:
            opt.zero_grad()
            scaler.scale((w * torch.tensor([a, 1.0])).sum() + v * b).backward()
            if by_hand:
                scaler.unscale_(opt)
                log.append(torch.stack([w.grad[1], v.grad]).nan_to_num(9.0, 9.0, -9.0))
            scaler.step(opt)
            scaler.update()
            now = scaler.scale(torch.ones(())).reshape(1)
            log.append(torch.cat([w.detach(), v.detach().reshape(1), now]))
        logs.append(torch.cat(log))
    return logs


INF, NAN = math.inf, math.nan
STEPS = {
    "good steps": [(1.0, 2.0)] * 7,
    "an overflow": [(1.0, 2.0), (INF, 1.0), (1.0, 1.0), (2.0, 0.5), (1.0, 1.0), (1.0, 1.0)],
    "an overflow in a later group": [(1.0, 1.0), (1.0, INF), (1.0, 3.0)],
    "minus infinity and NaN": [(-INF, 1.0), (1.0, 1.0), (1.0, NAN), (NAN, 1.0), (1.0, 2.0)],
    "overflows in a row": [(INF, INF)] * 3 + [(1.0, 1.0)] * 4,
    "a broken row": [(1.0, 1.0), (1.0, 1.0), (INF, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)],
}


@pytest.mark.exercise("scaler", points=4)
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("steps", STEPS)
def test_as_grad_scaler(student, steps, by_hand):
    """Weights and factor should be those of torch's GradScaler, with unscale_ by hand or without."""
    for options in (
        {"init": 8.0, "interval": 3},
        {"init": 64.0, "growth": 4.0, "backoff": 0.25, "interval": 2},
        {"init": 1024.0, "interval": 1},
    ):
        got, expected = student.run(scaler_trace, options, STEPS[steps], by_hand)
        assert_close(got, expected, f"weights and factors ({steps}, {options})")


@probe
def default_factors(student, steps):
    """The factor at the start, after some good steps, and after an overflow."""
    scaler = student.Scaler()
    w = nn.Parameter(torch.zeros(()))
    opt = torch.optim.SGD([w], lr=1e-3)
    factors = [float(scaler.scale(torch.ones(())))]
    for step in range(steps + 1):
        w.grad = torch.tensor(float("inf") if step == steps else 1.0)
        scaler.step(opt)
        scaler.update()
        if step >= steps - 2:
            factors.append(float(scaler.scale(torch.ones(()))))
    return factors


@pytest.mark.exercise("scaler", points=1)
def test_defaults(student):
    """Without arguments the factor should be 2**16, double after 2000 good steps, and halve."""
    factors = student.run(default_factors, 2000)
    assert_close(factors, [2.0**16, 2.0**16, 2.0**17, 2.0**16], "the factors")


@probe
def in_half(student, scale):
    """The true gradient 1e-8 through float16, unscaled; and whether a graph is kept."""
    scaler = student.Scaler(init=scale)
    w = nn.Parameter(torch.ones(3))
    opt = torch.optim.SGD([w], lr=1.0)
    loss = scaler.scale((w.half().float() * 1e-8).sum())
    loss.backward()
    scaler.unscale_(opt)
    grad = w.grad.clone()
    scaler.step(opt)
    return grad, loss.item()


@pytest.mark.exercise("scaler", points=2)
@pytest.mark.parametrize("power", [14, 16, 20])
def test_small_gradients_survive(student, power):
    """A gradient of 1e-8 should come through float16 when the loss is scaled."""
    grad, loss = student.run(in_half, 2.0**power)
    assert_close(grad, torch.full((3,), 1e-8), "the gradient", rtol=1e-2, atol=1e-12)
    assert_close(loss, 3e-8 * 2.0**power, "the scaled loss", rtol=1e-4)


@probe
def clipped(student):
    """The weight after clipping to norm 1 between unscale_ and step; and unscale_ twice."""
    scaler = student.Scaler(init=256.0, interval=1)
    w = nn.Parameter(torch.zeros(2))
    opt = torch.optim.SGD([w], lr=1.0)
    scaler.scale((w * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.unscale_(opt)
    norm = nn.utils.clip_grad_norm_([w], 1.0).item()
    try:
        scaler.unscale_(opt)
        error = "no error"
    except NotImplementedError:
        raise
    except Exception as e:
        error = type(e).__name__
    grad = w.grad.clone()
    scaler.step(opt)
    scaler.update()
    first = w.detach().clone()
    opt.zero_grad()
    scaler.scale(w.sum()).backward()
    scaler.unscale_(opt)
    return norm, error, grad, first, w.grad.clone()


@pytest.mark.exercise("scaler", points=3)
def test_clipping_in_between(student):
    """After unscale_ the gradients should be the true ones, so that clipping works; dividing twice
    should be a RuntimeError, until update."""
    norm, error, grad, first, second = student.run(clipped)
    assert_close(norm, 5.0, "the norm that clipping sees", rtol=1e-5)
    assert_equal(error, "RuntimeError", "the error of a second unscale_")
    assert_close(grad, torch.tensor([0.6, 0.8]), "the gradient before the step")
    assert_close(first, torch.tensor([-0.6, -0.8]), "the weight after the step")
    assert_close(second, torch.ones(2), "the gradient in the next round")


# --- search ----------------------------------------------------------------------------------


@probe
def plain_score(config):
    """A smooth score of a configuration."""
    return -abs(math.log10(config["lr"]) + 2) - config.get("drop", 0.0)


@probe
def lr_score(config):
    return config["lr"]


@probe
def counted(config):
    return float(len(config))


@probe
def sometimes_nan(config):
    """NaN for rates above 0.1: a run that diverged."""
    return float("nan") if config["lr"] > 0.1 else config["lr"]


@probe
def planted(config):
    """A broad hill around 0.03, and a spike at 0.002 that is narrower than one percent."""
    t = math.log10(config["lr"])
    spike = 1.0 if abs(t - math.log10(0.002)) < 0.003 else 0.0
    return 1.0 - 0.1 * (t + 1.5) ** 2 + spike


def generator(seed):
    return np.random.default_rng(seed)


@pytest.mark.exercise("search", points=2)
@pytest.mark.parametrize("low, high", [(1e-4, 1.0), (2.0, 3.0), (10.0, 1e5)])
def test_log_uniform(student, low, high):
    """Entries ("log", low, high) should be uniform on a logarithmic scale, as floats."""
    trials = student.random_search({"lr": ("log", low, high)}, lr_score, 400, generator(1))
    values = np.array([config["lr"] for _, config in trials])
    types = sorted({type(config["lr"]).__name__ for _, config in trials})
    assert_true(
        all(isinstance(c["lr"], float) for _, c in trials), f"Values should be floats, not {types}."
    )
    p = stats.kstest(values, stats.loguniform(low, high).cdf).pvalue
    median = float(np.median(values))
    assert_close(
        math.log(median),
        math.log(math.sqrt(low * high)),
        "the logarithm of the median of 400 draws",
        rtol=0,
        atol=0.15 * math.log(high / low),
    )
    assert_true(p > 1e-4, f"The draws from [{low:g}, {high:g}] are not log-uniform (p = {p:.1g}).")


@pytest.mark.exercise("search", points=2)
def test_uniform_and_choices(student):
    """Uniform entries should fill their interval evenly, choices should all come, independently."""
    space = {"drop": ("uniform", -1.0, 3.0), "act": ["a", "b", "c"], "two": [16, 32]}
    trials = student.random_search(space, counted, 600, generator(2))
    assert_equal(len(trials), 600, "the number of trials")
    assert_equal(sorted(trials[0][1]), ["act", "drop", "two"], "the names in a configuration")
    drops = np.array([config["drop"] for _, config in trials])
    assert_close(float(drops.mean()), 1.0, "the mean of the uniform draws", rtol=0, atol=0.2)
    p = stats.kstest(drops, stats.uniform(-1.0, 4.0).cdf).pvalue
    assert_true(p > 1e-4, f"The draws from [-1, 3] are not uniform (p = {p:.1g}).")
    pairs = [(config["act"], config["two"]) for _, config in trials]
    counts = [pairs.count((a, t)) for a in "abc" for t in (16, 32)]
    assert_true(min(counts) > 60, f"The six pairs of choices come {counts} times in 600 trials.")
    late = [c["act"] for _, c in trials if c["drop"] > 1.0]
    assert_true(late.count("a") > 50, "The entries should be drawn independently of each other.")


@pytest.mark.exercise("search", points=1)
@pytest.mark.parametrize("n", [1, 2, 25])
def test_sorted_and_reproducible(student, n):
    """The result should be n pairs, best first, with the score of their configuration, and the same
    for the same rng; runs with NaN come last."""
    space = {"lr": ("log", 1e-3, 1.0), "drop": ("uniform", 0.0, 0.5)}
    one = student.random_search(space, plain_score, n, generator(3))
    two = student.random_search(space, plain_score, n, generator(3))
    scores = [score for score, _ in one]
    assert_equal(len(one), n, "the number of trials")
    assert_close(scores, sorted(scores, reverse=True), "the scores, best first")
    for score, config in one:
        assert_close(score, plain_score(config), f"the score of {config}")
    assert_close([list(t) for t in two], [list(t) for t in one], "the trials, asked for again")
    other = student.random_search(space, plain_score, n, generator(4))
    assert_true(other[0][1]["lr"] != one[0][1]["lr"], "Another rng should give other trials.")
    trials = student.random_search({"lr": ("log", 1e-3, 1.0)}, sometimes_nan, 40, generator(5))
    got = [score for score, _ in trials]
    good = [score for score in got if not math.isnan(score)]
    assert_true(5 < len(good) < 40, f"{len(good)} of 40 runs gave a number.")
    assert_close(got[: len(good)], sorted(good, reverse=True), "the scores in front of the NaNs")


@pytest.mark.exercise("search", points=1)
def test_search_errors(student):
    """n below 1 and an unknown kind of interval should be ValueErrors."""
    for n in (0, -3):
        with raises(ValueError):
            student.random_search({"lr": ("log", 0.1, 1.0)}, lr_score, n, generator(0))
    for kind in ("normal", "linear", ""):
        with raises(ValueError):
            student.random_search({"lr": (kind, 0.1, 1.0)}, lr_score, 2, generator(0))


@probe
def asked(student, best, radius, k):
    """All configurations that the objective is asked for, the answer, and best afterwards."""
    seen = []

    def objective(config):
        seen.append(dict(config))
        return float(sum(v for v in config.values() if isinstance(v, float)))

    answer = student.neighbourhood(best, radius, objective, k)
    return seen, answer, best


@pytest.mark.exercise("search", points=3)
@pytest.mark.parametrize(
    "best, radius, k",
    [
        ({"lr": 0.1}, 0.5, 1),
        ({"lr": 2.0, "drop": 0.25}, 1.0, 3),
        ({"width": 64, "lr": 0.01, "act": "relu", "decay": 1e-4}, 0.2, 2),
        ({"lr": 3.0, "deep": True}, 3.0, 4),
    ],
)
def test_neighbours(student, best, radius, k):
    """neighbourhood should ask 2 k neighbours of each float entry, one entry at a time, and give the
    median."""
    original = dict(best)
    expected = sorted(
        (name, value * (1 + radius) ** (j / k))
        for name, value in best.items()
        if isinstance(value, float)
        for j in range(-k, k + 1)
        if j
    )
    seen, answer, after = student.run(asked, best, radius, k)
    moved = []
    for config in seen:
        assert_equal(sorted(config), sorted(original), "the names in a neighbour")
        changed = [n for n in original if config[n] != original[n]]
        assert_equal(len(changed), 1, f"the number of entries that differ in {config}")
        moved.append((changed[0], config[changed[0]]))
    moved.sort()
    assert_equal(len(moved), len(expected), "the number of neighbours")
    assert_equal([n for n, _ in moved], [n for n, _ in expected], "the entries that are changed")
    assert_close([v for _, v in moved], [v for _, v in expected], "their values", rtol=1e-6)
    base = sum(v for v in original.values() if isinstance(v, float))
    scores = [base - original[name] + value for name, value in expected]
    assert_close(answer, float(np.median(scores)), "the median of the scores", rtol=1e-6)
    assert_equal(type(answer), float, "the type of the answer")
    assert_close(after, original, "best afterwards")


@pytest.mark.exercise("search", points=1)
def test_spike_is_rejected(student):
    """The neighbours of an isolated spike should score lower than those of a broad hill; bad radius
    or no float entry are ValueErrors."""
    spike, hill = {"lr": 0.002, "width": 8}, {"lr": 0.04, "width": 8}
    assert_true(planted(spike) > planted(hill) + 0.5, "The spike scores higher.")
    low = student.neighbourhood(spike, 0.5, planted, 4)
    high = student.neighbourhood(hill, 0.5, planted, 4)
    assert_close(low, 0.8556, "the median around the spike", rtol=0, atol=5e-3)
    assert_close(high, 0.9989, "the median around the hill", rtol=0, atol=3e-3)
    for radius in (0.0, -0.5):
        with raises(ValueError):
            student.neighbourhood(hill, radius, planted, 2)
    with raises(ValueError):
        student.neighbourhood({"width": 8, "act": "relu"}, 0.5, counted, 2)


# --- measure ---------------------------------------------------------------------------------


@probe
def fake_clock(student, durations, size, repeats, warmup):
    """throughput by a clock that only the calls move; which batches they were given."""
    import time

    now, calls = [100.0], []
    batch = torch.zeros(size, 3)

    def fn(given):
        now[0] += durations[len(calls)]
        calls.append(given is batch)
        return given

    real = time.perf_counter
    time.perf_counter = lambda: now[0]
    try:
        rate = student.throughput(fn, batch, repeats, warmup)
    finally:
        time.perf_counter = real
    return rate, calls


@probe
def fake_gpu(student, work, repeats, warmup):
    """throughput on a pretended GPU: calls only queue work, synchronize waits for it."""
    import time

    now, queue, calls = [0.0], [0.0], []

    class Batch:
        is_cuda = True
        device = torch.device("cuda")
        shape = torch.Size([10, 3])
        ndim = 2

        def __len__(self):
            return 10

        def size(self, dim=None):
            return self.shape if dim is None else self.shape[dim]

        def numel(self):
            return 30

    def fn(batch):
        queue[0] += work[len(calls)]
        now[0] += 0.001
        calls.append(1)

    def wait(*args):
        now[0] += queue[0]
        queue[0] = 0.0

    real = time.perf_counter, torch.cuda.synchronize
    time.perf_counter, torch.cuda.synchronize = lambda: now[0], wait
    try:
        rate = student.throughput(fn, Batch(), repeats, warmup)
    finally:
        time.perf_counter, torch.cuda.synchronize = real
    return rate, len(calls)


@pytest.mark.exercise("measure", points=3)
@pytest.mark.parametrize(
    "durations, size, repeats, warmup",
    [
        ([0.5], 8, 1, 0),
        ([9.0, 0.25, 0.5, 4.0], 12, 3, 1),
        ([7.0, 7.0, 7.0, 1.0, 2.0, 3.0, 50.0], 5, 4, 3),
        ([0.5, 0.5, 0.25, 2.0, 0.125], 64, 5, 0),
        ([8.0, 4.0, 1.0, 1.0, 1.0, 100.0, 0.5], 3, 5, 2),
    ],
)
def test_rate_by_a_fake_clock(student, durations, size, repeats, warmup):
    """The rate should be the size of the batch over the median of the timed calls."""
    rate, calls = student.run(fake_clock, durations, size, repeats, warmup)
    timed = durations[warmup:]
    assert_equal(len(calls), repeats + warmup, "the number of calls")
    assert_equal(all(calls), True, "whether each call was given the batch")
    assert_close(
        rate,
        size / float(np.median(timed)),
        "the rate",
        symptoms={
            "This uses the mean of the seconds.": size / float(np.mean(timed)),
            "This uses the fastest call.": size / min(timed),
            "These are batches per second.": 1 / float(np.median(timed)),
            "This is the time for one example.": float(np.median(timed)) / size,
        },
    )


@pytest.mark.exercise("measure", points=2)
@pytest.mark.parametrize(
    "work, repeats, warmup", [([1.0, 1.0, 1.0], 3, 0), ([9.0, 2.0, 2.0], 2, 1), ([5.0, 0.5], 1, 1)]
)
def test_waits_for_the_gpu(student, work, repeats, warmup):
    """Where batch.is_cuda is true, the work in the queue should be waited for before each reading of
    the clock."""
    rate, calls = student.run(fake_gpu, work, repeats, warmup)
    assert_equal(calls, repeats + warmup, "the number of calls")
    assert_close(rate, 10 / (work[warmup] + 0.001), "the rate on a GPU whose queue was waited for")


@pytest.mark.exercise("measure", points=1)
@pytest.mark.parametrize("repeats", [0, -2])
def test_repeats(student, repeats):
    """Fewer than one repeat should be a ValueError."""
    with raises(ValueError):
        student.run(fake_clock, [1.0] * 5, 4, repeats, 1)


@probe
def state_bytes(student, kind, shapes, dtype, steps):
    """optimizer_bytes after some steps, and the bytes of the parameters."""
    params = [nn.Parameter(torch.ones(*shape, dtype=dtype)) for shape in shapes]
    opt = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
        "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    }[kind]([{"params": params[:1]}, {"params": params[1:], "lr": 0.2}])
    for _ in range(steps):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    got = student.optimizer_bytes(opt)
    return got, type(got).__name__, sum(p.numel() * p.element_size() for p in params)


# kind: (copies of the parameters, counters of 4 bytes for each parameter)
COPIES = {"SGD": (0, 0), "momentum": (1, 0), "Adam": (2, 1), "AMSGrad": (3, 1), "Adagrad": (1, 1)}


@pytest.mark.exercise("measure", points=3)
@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_copies(student, kind, dtype):
    """SGD should keep nothing, momentum one copy of the parameters, Adam two and a counter each."""
    shapes = [(3, 5), (7,), (2, 2, 2)]
    copies, counters = COPIES[kind]
    got, name, size = student.run(state_bytes, kind, shapes, dtype, 2)
    assert_close(got, copies * size + counters * 4 * len(shapes), f"the bytes of {kind}")
    assert_equal(name, "int", "the type of the result")


@probe
def odd_state(student):
    """A hand-made state with tensors, numbers and None."""

    class Opt:
        def __init__(self):
            self.state = {
                "a": {"m": torch.ones(3), "n": 5, "o": None, "p": [1.0]},
                "b": {},
                "c": {"flag": torch.tensor(True), "x": torch.ones(2, 2, dtype=torch.float64)},
            }

    return student.optimizer_bytes(Opt())


@pytest.mark.exercise("measure", points=1)
def test_before_the_first_step(student):
    """Before the first step nothing is kept; numbers and None in the state do not count."""
    for kind in ("momentum", "Adam"):
        got, _, _ = student.run(state_bytes, kind, [(4,)], torch.float32, 0)
        assert_close(got, 0, f"the bytes of {kind} before the first step")
    assert_close(student.run(odd_state), 12 + 1 + 32, "the bytes of a state made by hand")
