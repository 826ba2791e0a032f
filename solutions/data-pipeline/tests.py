"""Hidden tests of the chapter on Dataset, Sampler and DataLoader."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, default_collate

from course.testing import (
    Mismatch,
    assert_close,
    assert_equal,
    assert_shape,
    assert_true,
    brief,
    probe,
    raises,
    randint,
    randn,
    unchanged,
)

# --- shapes ----------------------------------------------------------------------------------


@probe
def sample_items(student, n, size, seed, indices):
    """Length, and the items at these indices, with the global random numbers stirred before each."""
    ds = student.ShapesDataset(n, size, seed)
    items = []
    for number, i in enumerate(indices):
        torch.manual_seed(number)
        np.random.seed(number)
        items.append(ds[i])
    return len(ds), items


@probe
def global_state_stays(student):
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[2]
    ds = student.ShapesDataset(5, 16, 1)
    for i in (0, 4, 2):
        ds[i]
    return torch.equal(torch.get_rng_state(), before[0]), np.random.get_state()[2] == before[1]


@probe
def loop_counts(student, n, most):
    """Items that a plain loop gives, and how the ends answer."""
    ds = student.ShapesDataset(n)
    count = 0
    for _ in ds:
        count += 1
        if count > most:
            break
    answers = []
    for i in (n, n + 7, -n - 1, -3 * n - 2):
        try:
            ds[i]
            answers.append("no error")
        except NotImplementedError:
            raise
        except Exception as error:
            answers.append(type(error).__name__)
    return count, answers


def drawing(size, label, boxes):
    """What draw_shape makes of these boxes."""
    image = torch.zeros(1, size, size)
    for x1, y1, x2, y2 in boxes.int().tolist():
        t = torch.arange(x2 - x1) - (x2 - x1 - 1) / 2
        x, y, r = t[None, :], t[:, None], (x2 - x1) / 2
        masks = (
            (x.abs() <= r) & (y.abs() <= r),
            x**2 + y**2 <= r**2,
            (x.abs() <= r / 3) | (y.abs() <= r / 3),
        )
        image[0, y1:y2, x1:x2][masks[label]] = 1.0
    return image


@pytest.mark.exercise("shapes", points=5)
@pytest.mark.parametrize("n, size, seed", [(6, 32, 0), (4, 17, 3), (3, 8, 11), (1, 40, 5)])
def test_items_are_drawn_right(student, n, size, seed):
    """An item should be (image, label, boxes) as documented, the shapes of the label's kind exactly
    in the boxes."""
    length, items = student.run(sample_items, n, size, seed, list(range(n)))
    assert_equal(length, n, "the length")
    for item in items:
        assert_true(isinstance(item, tuple) and len(item) == 3, "An item should be a triple.")
        img, label, boxes = item
        assert_equal(type(label), int, "the type of the label")
        assert_true(label in (0, 1, 2), f"The label should be 0, 1 or 2, not {label}.")
        assert_equal(boxes.dtype, torch.float32, "the dtype of the boxes")
        assert_shape(boxes, (len(boxes), 4), "the boxes")
        assert_true(1 <= len(boxes) <= 3, f"One to three boxes are wanted, not {len(boxes)}.")
        sides = boxes[:, 2:] - boxes[:, :2]
        assert_true(bool((sides[:, 0] == sides[:, 1]).all()), "The boxes should be squares.")
        assert_true(
            bool((sides >= size // 4).all() and (sides <= size // 2).all()),
            f"A side should be {size // 4} to {size // 2} for size {size}, not {sides[:, 0]}.",
        )
        assert_true(bool((boxes >= 0).all() and (boxes <= size).all()), "A box leaves the image.")
        assert_close(img, drawing(size, label, boxes), "the image for its label and boxes")


@pytest.mark.exercise("shapes", points=3)
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_items_depend_on_seed_and_index_only(student, seed):
    """Item i should be the same whatever was asked before, whatever n is, and whatever the global
    random numbers are; -1 should be the last item."""
    _, first = student.run(sample_items, 6, 16, seed, [0, 1, 2, 3, 4, 5])
    _, second = student.run(sample_items, 6, 16, seed, [-1, 3, -6, 3, -2, -4])
    _, longer = student.run(sample_items, 50, 16, seed, [5, 3, 0, 3, 4, 2])
    for k, i in enumerate([5, 3, 0, 3, 4, 2]):
        for again, why in ((second, "asked for again"), (longer, "of a longer data set")):
            assert_close(list(again[k]), list(first[i]), f"item {i}, {why},")


@pytest.mark.exercise("shapes", points=2)
def test_different_seeds_share_nothing(student):
    """No image of one seed should come again in the data set of another seed."""
    sets = [student.run(sample_items, 12, 32, seed, list(range(12)))[1] for seed in (0, 1, 2)]
    texts = [item[0].numpy().tobytes() for items in sets for item in items]
    assert_equal(len(set(texts)), 36, "the number of different images in three seeds of 12")


@pytest.mark.exercise("shapes", points=1)
def test_global_random_numbers_stay(student):
    """Asking for items should not use up the global random numbers of torch and NumPy."""
    same = student.run(global_state_stays)
    assert_equal(list(same), [True, True], "(torch's state, NumPy's state) as before")


@probe
def with_defaults(student):
    short, full = student.ShapesDataset(3), student.ShapesDataset(n=3, size=32, seed=0)
    return [[short[i], full[i]] for i in range(3)]


@pytest.mark.exercise("shapes", points=1)
def test_defaults(student):
    """Without size and seed, the images should be 32 x 32 and the seed 0."""
    for short, full in student.run(with_defaults):
        assert_shape(short[0], (1, 32, 32), "the image")
        assert_close(list(short), list(full), "an item of ShapesDataset(3)")


@pytest.mark.exercise("shapes", points=2)
@pytest.mark.parametrize("n", [1, 4])
def test_loop_ends(student, n):
    """A plain loop should end after n items, and indices past either end be an IndexError."""
    count, answers = student.run(loop_counts, n, 3 * n)
    assert_close(
        count,
        n,
        "the number of items in a plain loop",
        symptoms={"The loop does not end: no IndexError comes.": 3 * n + 1},
    )
    assert_equal(list(answers), 4 * ["IndexError"], "the errors past the ends")


@pytest.mark.exercise("shapes", points=1)
def test_everything_is_possible(student):
    """Kinds and numbers of shapes should be about equally likely, all sides and places possible."""
    size = 16
    _, items = student.run(sample_items, 300, size, 2, list(range(300)))
    labels = np.bincount([label for _, label, _ in items], minlength=3)
    counts = np.bincount([len(boxes) - 1 for _, _, boxes in items], minlength=3)
    for name, c in (("labels", labels), ("numbers of shapes", counts)):
        assert_true((c > 60).all(), f"The {name} come {c.tolist()} times in 300 items.")
    boxes = torch.cat([boxes for _, _, boxes in items])
    sides = set((boxes[:, 2] - boxes[:, 0]).int().tolist())
    assert_equal(sides, {4, 5, 6, 7, 8}, "the sides that occur for size 16")
    for axis in (0, 1):
        assert_equal(boxes[:, axis].min().item(), 0.0, "the smallest corner")
        assert_equal(boxes[:, axis + 2].max().item(), 16.0, "the largest corner")
        least = boxes[boxes[:, 2] - boxes[:, 0] == 4][:, axis + 2].max().item()
        assert_true(least >= 14, f"The smallest shapes end at {least:g} of 16 at the latest.")
    assert_true(not boxes[:, 0].equal(boxes[:, 1]), "x and y should be drawn independently.")
    kinds = np.array([[label, len(b)] for _, label, b in items])
    pairs = {tuple(row) for row in kinds.tolist()}
    assert_equal(len(pairs), 9, "the number of pairs (label, number of shapes) that occur")


# --- concat ----------------------------------------------------------------------------------


@probe
def nested_items(student, parts):
    """Items of nestings, and of a Concat that is added to another data set."""
    Concat = student.Concat
    left = Concat([Concat(parts[:2]), *parts[2:]])
    right = Concat([*parts[:1], Concat(parts[1:])])
    plain = Concat(part for part in parts)
    items = []
    for ds in (left, right, plain):
        n = len(ds)
        items.append([ds[i] for i in range(-n, n)])
    return items


@probe
def accesses(student, lengths, indices):
    """Which items the parts are asked for."""

    class Part:
        def __init__(self, name, n):
            self.name, self.n, self.log = name, n, []

        def __len__(self):
            return self.n

        def __getitem__(self, i):
            log.append([self.name, i])
            return 100 * self.name + i

    log = []
    ds = student.Concat([Part(k, n) for k, n in enumerate(lengths)])
    begun = len(log)
    return [ds[i] for i in indices], log, begun


@probe
def loop_over(student, parts, most):
    items = []
    for item in student.Concat(parts):
        items.append(item)
        if len(items) > most:
            break
    return items


PARTS = [
    [[1, 2, 3], [4, 5]],
    [[], [1], [], [], [2, 3], []],
    [[7]],
    [list(range(k, k + 5)) for k in range(0, 40, 5)],
]


@pytest.mark.exercise("concat", points=3)
@pytest.mark.parametrize("parts", PARTS)
def test_same_as_lists_joined(student, parts):
    """Every index, negative ones too, should give what the joined lists give."""
    whole = list(itertools.chain(*parts))
    joined = student.Concat(parts)
    n = len(whole)
    assert_equal(len(joined), n, "the length")
    for i in range(-n, n):
        assert_equal(joined[i], whole[i], f"item {i} of {parts}")


@pytest.mark.exercise("concat", points=2)
@pytest.mark.parametrize("parts", [[[1], [2, 3]], [[], []], [[4, 5], []], [[0, 1, 2]]])
def test_past_the_ends(student, parts):
    """An index past either end should be an IndexError, so that a plain loop ends."""
    joined = student.Concat(parts)
    n = len(list(itertools.chain(*parts)))
    for i in (n, n + 1, n + 5, -n - 1, -n - 3):
        with raises(IndexError):
            joined[i]
    whole = list(itertools.chain(*parts))
    assert_close(student.run(loop_over, parts, 10), whole, "the items of a plain loop")


@pytest.mark.exercise("concat", points=1)
@pytest.mark.parametrize("nothing", [[], ()])
def test_no_data_sets(student, nothing):
    """No data set at all should be a ValueError, when the Concat is made."""
    with raises(ValueError):
        student.Concat(nothing)


@pytest.mark.exercise("concat", points=2)
def test_nested(student):
    """A Concat of Concats, and a Concat made from a generator, should give the same items."""
    parts = [[1, 2], [], [3], [4, 5, 6]]
    for items in student.run(nested_items, parts):
        assert_close(items, 2 * [1, 2, 3, 4, 5, 6], "the items -6 to 5")


@pytest.mark.exercise("concat", points=2)
def test_reads_only_what_is_asked(student):
    """Items should be read only when asked for, each from its place in its own data set."""
    items, log, begun = student.run(accesses, [3, 0, 2], [4, 0, -3, 3])
    assert_equal(begun, 0, "the number of items read before any was asked for")
    assert_close(list(items), [201, 0, 2, 200], "the items 4, 0, -3 and 3")
    assert_close(log, [[2, 1], [0, 0], [0, 2], [2, 0]], "the reads (data set, place)")


# --- batchsampler ----------------------------------------------------------------------------


@probe
def batches_of(student, sampler, size, drop_last):
    batches = student.MyBatchSampler(sampler, size, drop_last)
    return list(batches), list(batches), len(batches)


@probe
def lazily(student, size, wanted):
    """Take a few batches from a very long sampler; tell how many indices were drawn by then."""

    class Long:
        drawn = 0
        passes = 0

        def __iter__(self):
            self.passes += 1
            for i in range(10_000):
                self.drawn += 1
                yield 3 * i

    sampler = Long()
    batches = student.MyBatchSampler(sampler, size, False)
    before = sampler.drawn
    taken, it = [], iter(batches)
    drawn = []
    for _ in range(wanted):
        taken.append(next(it))
        drawn.append(sampler.drawn)
    return before, taken, drawn


@probe
def fresh_passes(student, n, size):
    """Batches of a sampler that shuffles anew in each pass, and two passes at once."""

    class Turning:
        passes = 0

        def __iter__(self):
            self.passes += 1
            shift = self.passes
            return iter([(i + shift) % n for i in range(n)])

        def __len__(self):
            return n

    batches = student.MyBatchSampler(Turning(), size, False)
    epochs = [list(batches), list(batches)]
    plain = student.MyBatchSampler(list(range(n)), size, False)
    pairs = []
    for a, b in zip(plain, plain):
        pairs.append([a, b])
    kept = list(plain)
    kept[0].append(-1)
    return epochs, pairs, list(plain)


@pytest.mark.exercise("batchsampler", points=4)
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_same_batches_as_torch(student, size, drop_last):
    """The batches, and their number, should be those of torch's BatchSampler."""
    for n in (1, 3, 5, 8, 12, 16):
        sampler = [7 * i % 17 for i in range(n)]
        expected = list(BatchSampler(sampler, size, drop_last))
        one, two, length = student.run(batches_of, sampler, size, drop_last)
        what = f"{n} indices, batch_size={size}, drop_last={drop_last}"
        assert_close(one, expected, f"the batches for {what}")
        assert_close(two, expected, f"the second pass for {what}")
        assert_equal(length, len(expected), f"the length for {what}")


@pytest.mark.exercise("batchsampler", points=3)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 64, 87, 1000])
def test_iterations(student, n):
    """iterations_per_epoch should be floor(n / b) with drop_last and ceil(n / b) without."""
    for b in (1, 2, 7, 8, 9, 64, 1001):
        for drop_last, expected in ((True, math.floor(n / b)), (False, math.ceil(n / b))):
            got = student.iterations_per_epoch(n, b, drop_last)
            assert_equal(type(got), int, "the type of the result")
            assert_equal(got, expected, f"iterations_per_epoch({n}, {b}, {drop_last})")


@pytest.mark.exercise("batchsampler", points=3)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_takes_no_more_than_needed(student, size):
    """Batches should be made on demand, with no index taken before it is needed."""
    before, taken, drawn = student.run(lazily, size, 3)
    assert_equal(before, 0, "the number of indices drawn before the first batch is asked for")
    expected = [[3 * i for i in range(k * size, (k + 1) * size)] for k in range(3)]
    assert_close(taken, expected, "the first three batches of a long sampler")
    assert_close(list(drawn), [size, 2 * size, 3 * size], "the indices drawn after each batch")


@pytest.mark.exercise("batchsampler", points=3)
@pytest.mark.parametrize("n, size", [(7, 3), (6, 2)])
def test_fresh_passes(student, n, size):
    """Each pass should ask the sampler anew, passes should not disturb each other, and each batch be
    a new list."""
    epochs, pairs, plain = student.run(fresh_passes, n, size)
    for number, batches in enumerate(epochs, 1):
        order = [(i + number) % n for i in range(n)]
        expected = [order[k : k + size] for k in range(0, n, size)]
        assert_close(batches, expected, f"the batches of pass {number}")
    expected = [list(range(k, min(k + size, n))) for k in range(0, n, size)]
    assert_close(pairs, [[e, e] for e in expected], "two passes at the same time")
    assert_close(plain, expected, "a pass after a batch of an earlier one was changed")


@pytest.mark.exercise("batchsampler", points=2)
@pytest.mark.parametrize("size", [0, -1, -5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batch_size_must_be_positive(student, size, drop_last):
    """A batch_size below 1 should be a ValueError, when the batch sampler is made."""
    with raises(ValueError):
        student.MyBatchSampler([0, 1, 2], size, drop_last)


# --- weighted --------------------------------------------------------------------------------


@probe
def many_orders(student, weights, num, seed, times):
    """Many draws without replacement, one after the other from one generator."""
    g = torch.Generator().manual_seed(seed)
    return [student.weighted_indices(weights, num, False, g) for _ in range(times)]


@probe
def global_untouched(student, weights):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[2]
    for replacement in (True, False):
        student.weighted_indices(weights, 2, replacement, torch.Generator().manual_seed(1))
    return torch.equal(torch.get_rng_state(), before[0]), np.random.get_state()[2] == before[1]


def assert_frequencies(counts, chances, what):
    """Chi-square test that only a wrong distribution fails (one right answer in a million)."""
    counts, chances = np.asarray(counts, float), np.asarray(chances, float)
    possible = chances > 0
    shares = (chances / chances.sum() * counts.sum()).round().astype(int)
    told = brief(shares.tolist()), brief(counts.astype(int).tolist())
    if counts[~possible].sum():
        raise Mismatch(f"An index that cannot come was drawn, in {what}.", *told)
    expected = chances[possible] / chances[possible].sum() * counts.sum()
    if stats.chisquare(counts[possible], expected).pvalue <= 1e-6:
        raise Mismatch(f"The counts are far from the probabilities, in {what}.", *told)


WEIGHTS = [
    [1.0, 2.0, 3.0, 4.0],
    [0.0, 5.0, 0.5, 0.0, 2.0, 0.0],
    [0.2, 0.1, 0.1],
    [1, 1, 8, 2],
    [30.0, 10.0, 0.0],
]


@pytest.mark.exercise("weighted", points=4)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_with_replacement(student, weights):
    """With replacement, each draw should give index i with probability weights[i] / sum."""
    g = torch.Generator().manual_seed(7)
    drawn = student.weighted_indices(weights, 20_000, True, g)
    assert_equal(len(drawn), 20_000, "the number of draws")
    assert_true(
        min(drawn) >= 0 and max(drawn) < len(weights), "An index is outside of the weights."
    )
    assert_frequencies(np.bincount(drawn, minlength=len(weights)), weights, "with replacement")
    pairs = np.array(drawn).reshape(-1, 2)
    joint = np.bincount(pairs[:, 0] * len(weights) + pairs[:, 1], minlength=len(weights) ** 2)
    assert_frequencies(joint, np.outer(weights, weights).ravel(), "two draws in a row")


@pytest.mark.exercise("weighted", points=4)
@pytest.mark.parametrize(
    "weights", [[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.5, 2.0], [0.1, 0.1, 0.7], [2, 5, 1]]
)
def test_orders_without_replacement(student, weights):
    """Without replacement, the first two draws should come with probability
    w[i] / sum * w[j] / (sum - w[i])."""
    n = len(weights)
    orders = student.run(many_orders, weights, 2, 3, 3000)
    w = np.array(weights, float)
    chances = np.outer(w / w.sum(), w) / (w.sum() - w)[:, None]
    np.fill_diagonal(chances, 0)
    counts = np.zeros((n, n))
    for i, j in orders:
        counts[i, j] += 1
    assert_equal(counts.trace(), 0.0, "the number of pairs with an index twice")
    assert_frequencies(counts.ravel(), chances.ravel(), "the first two draws")


@pytest.mark.exercise("weighted", points=2)
@pytest.mark.parametrize("n, num", [(1, 1), (5, 5), (40, 17), (1000, 999)])
def test_no_index_twice(student, n, num):
    """Without replacement no index should come twice, also when nearly all are drawn."""
    weights = torch.linspace(0.5, 3, n, dtype=torch.float64)
    g = torch.Generator().manual_seed(n)
    with unchanged(weights):
        drawn = student.weighted_indices(weights, num, False, g)
    assert_true(isinstance(drawn, list), "It should be a list.")
    assert_true(all(type(i) is int for i in drawn), "The indices should be plain ints.")
    assert_equal(len(drawn), num, "the number of draws")
    assert_equal(len(set(drawn)), num, "the number of different indices")
    assert_true(set(drawn) <= set(range(n)), "An index is outside of the weights.")


@pytest.mark.exercise("weighted", points=2)
@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_generator_decides(student, replacement, dtype):
    """The same seed should give the same indices, the next call others, for any type of weights;
    the global random numbers should play no part."""
    weights = torch.arange(1, 41).to(dtype)
    draws = []
    for seed in (4, 4, 5):
        g = torch.Generator().manual_seed(seed)
        with unchanged(weights):
            draws.append([student.weighted_indices(weights, 20, replacement, g) for _ in range(2)])
    assert_close(draws[1], draws[0], "two calls with a generator of the same seed")
    assert_true(draws[0][0] != draws[0][1], "The second call gives the same as the first.")
    assert_true(draws[0][0] != draws[2][0], "Another seed gives the same indices.")
    same = student.run(global_untouched, [1.0, 2.0, 3.0])
    assert_equal(list(same), [True, True], "(torch's, NumPy's) global state as before")


@pytest.mark.exercise("weighted", points=3)
def test_impossible_draws(student):
    """Negative weights, weights that are all 0, and more draws without replacement than positive
    weights should be a ValueError."""
    g = torch.Generator().manual_seed(0)
    for replacement in (True, False):
        for weights in ([1.0, -0.5, 2.0], [0.0, 0.0], [-1.0, 3.0]):
            with raises(ValueError):
                student.weighted_indices(weights, 1, replacement, g)
    for weights, num in (([1.0, 2.0], 3), ([1.0, 0.0, 2.0], 3), ([0.0, 4.0], 2)):
        with raises(ValueError):
            student.weighted_indices(weights, num, False, g)
        assert_equal(
            len(student.weighted_indices(weights, num, True, g)), num, "draws with replacement"
        )
    both = student.weighted_indices([1.0, 0.0, 2.0], 2, False, g)
    assert_equal(sorted(both), [0, 2], "all draws that are possible, sorted,")


# --- bucket ----------------------------------------------------------------------------------


@probe
def bucket_orders(student, lengths, size, seed, epochs):
    sampler = student.BucketSampler(lengths, size, torch.Generator().manual_seed(seed))
    return [list(sampler) for _ in range(epochs)], len(sampler)


@probe
def bucket_in_loader(student, lengths, size):
    """Batch by batch the indices that a DataLoader reads."""
    sampler = student.BucketSampler(lengths, size, torch.Generator().manual_seed(2))
    loader = torch.utils.data.DataLoader(
        list(range(len(lengths))), batch_size=size, sampler=sampler
    )
    return [batch.tolist() for batch in loader]


@probe
def bucket_leaves_global(student, lengths):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[2]
    list(student.BucketSampler(lengths, 3, torch.Generator().manual_seed(1)))
    return torch.equal(torch.get_rng_state(), before[0]), np.random.get_state()[2] == before[1]


def cut(values, size):
    return [values[k : k + size] for k in range(0, len(values), size)]


@pytest.mark.exercise("bucket", points=4)
@pytest.mark.parametrize("n, size", [(24, 4), (23, 4), (5, 8), (16, 1), (9, 2), (1, 1)])
def test_batches_are_runs_of_the_sorted_order(student, n, size):
    """One epoch should be a permutation, the full batches runs of the sorted order, and the
    incomplete one, with the longest items, the last."""
    lengths = (randn(n) * 100).argsort().tolist()  # all different
    with unchanged(lengths):
        orders, length = student.run(bucket_orders, lengths, size, 0, 2)
    assert_equal(length, n, "the length of the sampler")
    by_length = sorted(range(n), key=lambda i: lengths[i])
    expected = cut(by_length, size)
    for order in orders:
        assert_true(all(type(i) is int for i in order), "The sampler should give plain ints.")
        assert_equal(sorted(order), list(range(n)), "the indices of an epoch, sorted,")
        got = cut(order, size)
        assert_close(
            sorted(map(sorted, got)), sorted(map(sorted, expected)), "the batches, sorted,"
        )
        if n % size:
            assert_close(sorted(got[-1]), sorted(expected[-1]), "the last, incomplete batch")


@pytest.mark.exercise("bucket", points=3)
@pytest.mark.parametrize("n, size", [(640, 16), (601, 32)])
def test_padding(student, n, size):
    """The padding should be at most half of what a random order needs."""
    lengths = [2 + int(v) for v in randn(n).abs() * 30]
    orders, _ = student.run(bucket_orders, lengths, size, 1, 2)
    shuffled = randn(n).argsort().tolist()

    def padded(order):
        batches = [[lengths[i] for i in batch] for batch in cut(order, size)]
        return sum(max(b) * len(b) - sum(b) for b in batches)

    for order in orders:
        assert_equal(sorted(order), list(range(n)), "the indices of an epoch, sorted,")
        assert_true(
            2 * padded(order) <= padded(shuffled),
            f"It pads {padded(order)} places, a random order {padded(shuffled)}.",
        )


@pytest.mark.exercise("bucket", points=3)
def test_batches_in_random_order(student):
    """The full batches should come in random order, another one in each epoch, each batch equally
    likely to be first."""
    n, size = 40, 4
    orders, _ = student.run(bucket_orders, list(range(n)), size, 3, 600)
    assert_true(orders[0] != orders[1], "Two epochs have the same order.")
    first = np.bincount([min(order[:size]) // size for order in orders], minlength=10)
    last = np.bincount([min(order[-size:]) // size for order in orders], minlength=10)
    assert_frequencies(first, np.ones(10), "which of ten batches comes first in 600 epochs")
    assert_frequencies(last, np.ones(10), "which of ten batches comes last in 600 epochs")


@pytest.mark.exercise("bucket", points=2)
def test_ties_are_mixed(student):
    """Items of equal length should be put together anew in each epoch."""
    orders, _ = student.run(bucket_orders, [5] * 12, 3, 1, 300)
    groups = [{frozenset(batch) for batch in cut(order, 3)} for order in orders]
    together = [sorted(map(sorted, epoch)) for epoch in groups[:2]]
    if together[0] == together[1]:
        reason = "The same items of equal length share a batch in both epochs."
        raise Mismatch(reason, "other batches in the second", brief(together[1]))
    partners = np.zeros(12)
    for epoch in groups:
        for group in epoch:
            if 0 in group:
                partners[list(group - {0})] += 1
    assert_frequencies(partners[1:], np.ones(11), "how often the items share a batch with item 0")


@pytest.mark.exercise("bucket", points=2)
def test_seed_and_loader(student):
    """The same seed should give the same order, and a DataLoader of the same batch size should cut
    at the same places; the lengths may be a tensor."""
    lengths = randint(1, 9, (22,))
    one, _ = student.run(bucket_orders, lengths, 4, 9, 3)
    two, _ = student.run(bucket_orders, lengths, 4, 9, 3)
    other, _ = student.run(bucket_orders, lengths, 4, 10, 3)
    assert_close(two, one, "three epochs from the same seed")
    assert_true(one != other, "Another seed gives the same order.")
    batches = student.run(bucket_in_loader, lengths, 4)
    sizes = [len(batch) for batch in batches]
    assert_equal(sizes, [4, 4, 4, 4, 4, 2], "the sizes of the loader's batches")
    by_length = sorted(lengths.tolist())
    expected = sorted(cut(by_length, 4))
    got = sorted(sorted(lengths[i].item() for i in batch) for batch in batches)
    assert_close(got, expected, "the lengths in the loader's batches")
    same = student.run(bucket_leaves_global, lengths)
    assert_equal(list(same), [True, True], "(torch's, NumPy's) global state as before")


@pytest.mark.exercise("bucket", points=1)
@pytest.mark.parametrize("size", [0, -2])
def test_bucket_size_must_be_positive(student, size):
    """A batch_size below 1 should be a ValueError, when the sampler is made."""
    with raises(ValueError):
        student.BucketSampler([1, 2, 3], size, torch.Generator())


# --- collate ---------------------------------------------------------------------------------


def ragged(counts, shape=(1, 4, 5), dtype=torch.float32, device="cpu"):
    return [
        (
            randn(*shape, device=device, dtype=torch.float32),
            k,
            (100 * randn(c, 4)).to(device, dtype),
        )
        for k, c in enumerate(counts)
    ]


@pytest.mark.exercise("collate", points=5)
@pytest.mark.parametrize(
    "counts", [(2, 1), (0, 3, 1), (1, 4, 4, 0, 2), (3,), (0, 0, 5), (2, 0), (1, 2, 3, 4, 5, 6)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_boxes_are_padded(student, device, counts, dtype):
    """The boxes should be filled up with -1 behind the true ones, the mask be True at the true ones,
    and the dtype stay."""
    batch = ragged(counts, dtype=dtype, device=device)
    with unchanged(*[t for img, _, boxes in batch for t in (img, boxes)]):
        result = student.collate_boxes(batch)
    assert_true(
        isinstance(result, (tuple, list)) and len(result) == 4, "It should return four tensors."
    )
    imgs, labels, boxes, mask = result
    most = max(counts)
    expected = torch.full((len(counts), most, 4), -1.0).to(device, dtype)
    true = torch.zeros(len(counts), most, dtype=torch.bool, device=device)
    for k, (_, _, b) in enumerate(batch):
        expected[k, : counts[k]] = b
        true[k, : counts[k]] = True
    assert_close(boxes, expected, "the boxes")
    assert_close(mask, true, "the mask")
    assert_close(imgs, torch.stack([img for img, _, _ in batch]), "the images")
    assert_close(labels, torch.arange(len(counts)), "the labels")


@pytest.mark.exercise("collate", points=3)
@pytest.mark.parametrize("size", [1, 4])
def test_no_boxes_at_all(student, device, size):
    """If no image has a box, the boxes should have shape (B, 0, 4) and the mask (B, 0)."""
    _, _, boxes, mask = student.collate_boxes(ragged([0] * size, device=device))
    assert_close(boxes, torch.zeros(size, 0, 4, device=device), "the boxes")
    assert_close(mask, torch.zeros(size, 0, dtype=torch.bool, device=device), "the mask")


@pytest.mark.exercise("collate", points=4)
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 7, 2), (6,)])
@pytest.mark.parametrize("kind", ["int", "float", "tensor", "bool"])
def test_equals_default_collate(student, device, shape, kind):
    """Where nothing is ragged, everything should equal default_collate, with its dtypes."""
    batch = []
    for k in range(3):
        label = {
            "int": 5 - k, "float": k / 3, "tensor": torch.tensor(k, dtype=torch.int32),
            "bool": k == 1,
        }[kind]  # fmt: skip
        img = randn(*shape, device=device)
        batch.append((img, label, randn(2, 4, device=device)))
    expected = default_collate(batch)
    *got, mask = student.collate_boxes(batch)
    for g, e, what in zip(got, expected, ("the images", "the labels", "the boxes"), strict=True):
        assert_close(g, e, what)
    assert_close(mask, torch.ones(3, 2, dtype=torch.bool, device=device), "the mask")


@pytest.mark.exercise("collate", points=2)
def test_equals_pad_sequence(student, device):
    """The boxes should equal torch's pad_sequence, also where true coordinates are -1 or 0."""
    batch = ragged([3, 1, 2], device=device)
    batch[1][2][0] = -1.0
    batch[2][2][0] = 0.0
    _, _, boxes, mask = student.collate_boxes(batch)
    lists = [b for _, _, b in batch]
    expected = nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1.0)
    assert_close(boxes, expected, "the boxes")
    assert_close(mask.sum(1).tolist(), [3, 1, 2], "the number of true boxes of each image")


@probe
def through_loader(student, counts, size):
    items = []
    for k, c in enumerate(counts):
        items.append((torch.full((1, 2, 2), float(k)), k, torch.full((c, 4), float(k))))
    loader = torch.utils.data.DataLoader(items, batch_size=size, collate_fn=student.collate_boxes)
    return [list(batch) for batch in loader]


@pytest.mark.exercise("collate", points=1)
def test_in_a_loader(student):
    """Used in a DataLoader, each batch should be padded to its own longest list."""
    counts = [3, 0, 1, 2, 1]
    batches = student.run(through_loader, counts, 2)
    assert_close([list(b[2].shape) for b in batches], [[2, 3, 4], [2, 2, 4], [1, 1, 4]], "shapes")
    got = [b[3].sum(1).tolist() for b in batches]
    assert_close(got, cut(counts, 2), "the number of true boxes")


# --- loader ----------------------------------------------------------------------------------


@probe
def loader_epochs(student, items, options, seed, epochs):
    """Epochs of batches, the length, and the generator's state at the end."""
    g = None
    if seed is not None:
        g = torch.Generator().manual_seed(seed)
        options = dict(options, generator=g)
    torch.manual_seed(11)
    loader = student.MiniLoader(items, **options)
    batches = [list(loader) for _ in range(epochs)]
    state = torch.get_rng_state() if g is None else g.get_state()
    return batches, len(loader), state


@probe
def loader_with_parts(student, items, seed):
    """Custom samplers and collate functions."""
    data = torch.utils.data
    found = []
    g = torch.Generator().manual_seed(seed)
    weighted = data.WeightedRandomSampler([1.0, 5.0, 2.0, 1.0, 0.0], 7, generator=g)
    found.append(list(student.MiniLoader(items, batch_size=3, sampler=weighted, generator=g)))
    g = torch.Generator().manual_seed(seed)
    batched = data.BatchSampler(data.RandomSampler(items, generator=g), 2, True)
    found.append(list(student.MiniLoader(items, batch_sampler=batched, generator=g)))
    loader = student.MiniLoader(items, batch_size=2, collate_fn=list)
    found.append(list(loader))
    loader = student.MiniLoader(items, sampler=[2, 2, 0], batch_size=2, drop_last=True)
    found.append([list(loader), len(loader)])
    loader = student.MiniLoader(items, 2, False, None, None, True, tuple)
    found.append([list(loader), len(loader)])
    return found


@probe
def loader_protocol(student, n):
    """Which items are read when, nested loops, and whether the loader is its own iterator."""

    class Logged:
        def __init__(self):
            self.log = []

        def __len__(self):
            return n

        def __getitem__(self, i):
            self.log.append(i)
            return i

    ds = Logged()
    loader = student.MiniLoader(ds, batch_size=2)
    it = iter(loader)
    reads = [len(ds.log)]
    next(it)
    reads.append(len(ds.log))
    next(it)
    reads.append(len(ds.log))
    nested = []
    for a in loader:
        for b in loader:
            nested.append([a.tolist(), b.tolist()])
        if len(nested) > 3 * n * n:
            break
    return reads, nested, hasattr(loader, "__next__"), hasattr(it, "__next__")


@probe
def loader_of_tuples(student, x, y):
    data = torch.utils.data
    loader = student.MiniLoader(data.TensorDataset(x, y), batch_size=3)
    dicts = student.MiniLoader([{"x": a, "n": k} for k, a in enumerate(x)], batch_size=4)
    return [list(batch) for batch in loader], list(dicts)


@pytest.mark.exercise("loader", points=5)
@pytest.mark.parametrize("n, size", [(10, 4), (9, 3), (1, 1), (5, 8), (7, 1)])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("seed", [0, None])
def test_same_batches_as_dataloader(student, n, size, shuffle, drop_last, seed):
    """Three epochs should give the batches of DataLoader with the same generator, or with the same
    global seed if there is no generator."""
    items = [10 * i for i in range(n)]
    options = {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last}
    got, length, state = student.run(loader_epochs, items, options, seed, 3)
    g = None if seed is None else torch.Generator().manual_seed(seed)
    torch.manual_seed(11)
    loader = DataLoader(items, generator=g, **options)
    expected = [list(loader) for _ in range(3)]
    for epoch, (mine, theirs) in enumerate(zip(got, expected, strict=True), 1):
        assert_close(mine, theirs, f"epoch {epoch} for {options}")
    assert_equal(length, len(loader), "the length")
    wanted = torch.get_rng_state() if g is None else g.get_state()
    assert_true(torch.equal(state, wanted), "The generator was not used as often as DataLoader's.")


@pytest.mark.exercise("loader", points=3)
@pytest.mark.parametrize("seed", [1, 2])
def test_own_parts(student, seed):
    """Samplers, batch samplers and collate functions of one's own should be obeyed."""
    items = [1.5, 2.5, 3.5, 4.5, 5.5]
    got = student.run(loader_with_parts, items, seed)
    g = torch.Generator().manual_seed(seed)
    weighted = torch.utils.data.WeightedRandomSampler([1.0, 5.0, 2.0, 1.0, 0.0], 7, generator=g)
    expected = [list(DataLoader(items, batch_size=3, sampler=weighted, generator=g))]
    g = torch.Generator().manual_seed(seed)
    batched = BatchSampler(torch.utils.data.RandomSampler(items, generator=g), 2, True)
    expected.append(list(DataLoader(items, batch_sampler=batched, generator=g)))
    expected.append(cut(items, 2))
    expected.append([[torch.tensor([3.5, 3.5], dtype=torch.float64)], 1])
    expected.append([[(1.5, 2.5), (3.5, 4.5)], 2])
    names = ("sampler", "batch_sampler", "collate_fn=list", "sampler and drop_last",
             "arguments by position")  # fmt: skip
    for g, e, name in zip(got, expected, names, strict=True):
        assert_close(g, e, f"the batches with {name}")


@pytest.mark.exercise("loader", points=2)
@pytest.mark.parametrize("n", [4, 5])
def test_iterable_not_iterator(student, n):
    """Items should be read batch by batch, when asked for; loops over one loader should not disturb
    each other; only the iterator should have __next__."""
    reads, nested, own, other = student.run(loader_protocol, n)
    assert_close(list(reads), [0, 2, 4], "the items read before and after each of two batches")
    batches = cut(list(range(n)), 2)
    pairs = [[a, b] for a in batches for b in batches]
    assert_close(nested, pairs, "the batches of two nested loops")
    assert_equal([own, other], [False, True], "(the loader, its iterator) has __next__")


@pytest.mark.exercise("loader", points=1)
def test_tuples_and_dictionaries(student, device):
    """Without a collate_fn, tuples and dictionaries should be collated as default_collate does."""
    x, y = randn(7, 2, device=device), randint(0, 5, (7,), device=device)
    tuples, dicts = student.run(loader_of_tuples, x, y)
    expected = [[x[k : k + 3], y[k : k + 3]] for k in range(0, 7, 3)]
    assert_close(tuples, expected, "the batches of pairs")
    numbers = torch.arange(7).split(4)
    expected = [{"x": a, "n": n} for a, n in zip(x.split(4), numbers, strict=True)]
    assert_close(dicts, expected, "the batches of dictionaries")


EXCLUSIVE = [
    {"batch_sampler": [[0], [1]], "batch_size": 2},
    {"batch_sampler": [[0], [1]], "shuffle": True},
    {"batch_sampler": [[0], [1]], "sampler": [1, 0]},
    {"batch_sampler": [[0], [1]], "drop_last": True},
    {"sampler": [1, 0], "shuffle": True},
]


@pytest.mark.exercise("loader", points=4)
@pytest.mark.parametrize("options", [*EXCLUSIVE, *({**e, "generator": None} for e in EXCLUSIVE)])
def test_exclusive_options(student, options):
    """batch_sampler with batch_size, shuffle, sampler or drop_last, and sampler with shuffle, should
    be a ValueError when the loader is made; allowed pairs should not."""
    with raises(ValueError):
        student.MiniLoader([5, 6], **options)
    for fine in (
        {"batch_sampler": [[0, 1]], "batch_size": 1, "shuffle": False, "drop_last": False},
        {"sampler": [1, 0], "batch_size": 2, "drop_last": True},
    ):
        assert_equal(len(student.MiniLoader([5, 6], **fine)), 1, f"the length for {fine}")
