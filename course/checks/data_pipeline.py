"""Public checks of the chapter on Dataset, Sampler and DataLoader."""

import itertools

import pytest
import torch

from course.testing import assert_close, assert_equal, assert_shape, assert_true, probe, raises

HINTS = {
    "shapes": [
        "Check the index first, and turn a negative one into the one that it stands for: "
        "`i % n` does that.",
        "`np.random.default_rng((seed, i))` gives every item a generator of its own. Draw the "
        "label, the number of shapes, and for each shape a side and a corner.",
        "`rng.integers(a, b)` never gives b. A square of side s has size - s + 1 possible places "
        "along each axis: its corner is at 0, …, size - s.",
    ],
    "concat": [
        "Keep two lists: the data sets, and where each of them ends (`itertools.accumulate` of "
        "the lengths).",
        "Handle negative indices before anything else; `i % n` works for all valid ones.",
        "The first end *greater* than i is at `bisect.bisect_right(ends, i)`. What is to be "
        "subtracted from i, if it is the first data set?",
    ],
    "batchsampler": [
        "Rounding up with whole numbers: what do you have to add to n before `// b`?",
        "In `__iter__`, collect indices in a list. When it is full, `yield` it and begin a *new* "
        "list; `clear()` would empty the one that you have just given away.",
        "After the loop there may be a rest: yield it unless it is empty or to be dropped. For "
        "`__len__`, use `iterations_per_epoch`.",
    ],
    "weighted": [
        "With replacement: `cumsum` gives the running totals, `torch.rand(num, "
        "generator=generator)` times the last of them the darts.",
        "`torch.searchsorted(ends, darts, right=True)` finds for each dart the first total that "
        "is greater. Work in float64.",
        "Without replacement: exponential numbers divided by the weights are arrival times; "
        "`argsort` tells who comes first. How many items can arrive at all?",
    ],
    "bucket": [
        "A stable sort keeps the order of equal lengths. So shuffle first, then sort.",
        "There are n // batch_size full batches. Draw a permutation of *their numbers*, and give "
        "the slices of the sorted list in that order.",
        "Use the generator inside `__iter__`, not in `__init__`, else all epochs are the same. "
        "What is left over after the full batches comes last.",
    ],
    "collate": [
        "`zip(*batch)` turns a list of triples into three tuples. `default_collate` can do two of "
        "them for you.",
        "M is the largest `len(boxes)`. Make a tensor of -1 with the boxes' dtype, "
        "`boxes[0].new_full(shape, -1)`, and copy each image's boxes into its row.",
        "The mask compares two things: `torch.arange(M)` and the column of counts.",
    ],
    "loader": [
        "In `__init__`, first refuse what does not fit together. Then fill in what is missing: a "
        "sampler, a batch sampler, a collate function.",
        "If all cases end in one `batch_sampler`, `__iter__` needs a single loop, and `__len__` "
        "is its length.",
        "`__iter__` is a generator: first draw the one number for the workers, then for each list "
        "of indices `yield` the collated items. RandomSampler gets the generator, too.",
    ],
    "debug": [
        "Print the first index of each batch. Which object remembers how far we are?",
        "`iter(loader)` belongs in front of a loop over batches, not into it. What should happen "
        "when that loop ends and there are steps left?",
    ],
}


# --- shapes ----------------------------------------------------------------------------------


@probe
def iterate(student, n, most):
    """How many items a plain loop over the data set gives, at most `most`."""
    count = 0
    for _ in student.ShapesDataset(n):
        count += 1
        if count == most:
            break
    return count


@pytest.mark.exercise("shapes")
def test_an_item(student):
    """An item is an image, a label and a tensor of boxes, and the same each time."""
    ds = student.ShapesDataset(5)
    assert_equal(len(ds), 5, "len(ShapesDataset(5))")
    img, label, boxes = ds[2]
    assert_shape(img, (1, 32, 32), "the image")
    assert_equal(img.dtype, torch.float32, "the image's dtype")
    assert_true(type(label) is int and label in (0, 1, 2), "The label should be the int 0, 1 or 2.")
    assert_shape(boxes, (len(boxes), 4), "the boxes")
    assert_true(len(boxes) in (1, 2, 3), "There should be one, two or three boxes.")
    assert_equal(boxes.dtype, torch.float32, "the dtype of the boxes")
    again = ds[2]
    assert_true(
        again[0].equal(img) and again[1] == label and again[2].equal(boxes),
        "ds[2] should be the same each time: seed a generator of its own with (seed, i).",
    )
    assert_true(not ds[1][0].equal(img), "ds[1] and ds[2] should differ.")


@pytest.mark.exercise("shapes")
def test_boxes_hold_the_shapes(student):
    """The boxes are inside the image, and nothing is drawn outside of them."""
    ds = student.ShapesDataset(4)
    for i in range(4):
        img, _, boxes = ds[i]
        assert_true(
            boxes.min() >= 0 and boxes.max() <= 32, "A box leaves the image of 32 x 32 pixels."
        )
        rest = img[0].clone()
        for x1, y1, x2, y2 in boxes.int().tolist():
            assert_true(x1 < x2 and y1 < y2, "A box should have x1 < x2 and y1 < y2.")
            assert_true(rest.shape and img[0, y1:y2, x1:x2].max() == 1, "A box is empty.")
            rest[y1:y2, x1:x2] = 0
        assert_true(rest.sum() == 0, "Something is drawn outside of all boxes (x1, y1, x2, y2).")


@pytest.mark.exercise("shapes")
def test_ends(student):
    """A plain loop ends after n items; -1 is the last item; n and -n - 1 are IndexErrors."""
    count = student.run(iterate, 3, 10)
    assert_close(
        count,
        3,
        "the number of items in a loop over ShapesDataset(3)",
        symptoms={"It goes on for ever: raise an IndexError past the end.": 10},
    )
    ds = student.ShapesDataset(3)
    assert_true(ds[-1][0].equal(ds[2][0]), "ds[-1] should be ds[2].")
    for i in (3, -4):
        with raises(IndexError):
            ds[i]


# --- concat ----------------------------------------------------------------------------------


@pytest.mark.exercise("concat")
def test_joined_items(student):
    """`Concat` gives the items of all data sets, one after the other, from both ends."""
    joined = student.Concat([[10, 11], [], [12, 13, 14]])
    assert_equal(len(joined), 5, "the length")
    assert_close([joined[i] for i in range(5)], [10, 11, 12, 13, 14], "the items 0 to 4")
    assert_close([joined[i] for i in range(-5, 0)], [10, 11, 12, 13, 14], "the items -5 to -1")


@pytest.mark.exercise("concat")
def test_joined_errors(student):
    """An index past either end is an IndexError, and no data set at all a ValueError."""
    joined = student.Concat([[1], [2, 3]])
    for i in (3, -4):
        with raises(IndexError):
            joined[i]
    with raises(ValueError):
        student.Concat([])


# --- batchsampler ----------------------------------------------------------------------------


@probe
def groups(student, sampler, size, drop_last):
    batches = student.MyBatchSampler(sampler, size, drop_last)
    return list(batches), len(batches)


@pytest.mark.exercise("batchsampler")
def test_counts(student):
    """`iterations_per_epoch`: 80 items in batches of 8 make 10, 87 make 10 or 11."""
    assert_equal(student.iterations_per_epoch(80, 8, False), 10, "80 items, nothing dropped,")
    assert_close(
        student.iterations_per_epoch(87, 8, False),
        11,
        "87 items, nothing dropped,",
        symptoms={"The last, smaller batch is not counted: round up.": 10},
    )
    assert_equal(student.iterations_per_epoch(87, 8, True), 10, "87 items, the last dropped,")


@pytest.mark.exercise("batchsampler")
def test_groups(student):
    """`MyBatchSampler` groups ten indices by three, with and without the last one."""
    for drop_last, expected in (
        (False, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]),
        (True, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
    ):
        batches, length = student.run(groups, list(range(10)), 3, drop_last)
        assert_close(
            batches,
            expected,
            f"the batches for drop_last={drop_last}",
            symptoms={
                "All batches are one and the same list: begin a new one for each batch.": [
                    expected[-1]
                ]
                * len(expected),
                "They are the same list, emptied: begin a new one instead of `clear()`.": [[]]
                * len(expected),
            },
        )
        assert_equal(length, len(expected), f"the length for drop_last={drop_last}")


@pytest.mark.exercise("batchsampler")
def test_refuses_batches_of_none(student):
    """`MyBatchSampler` raises a ValueError for a batch size of 0."""
    with raises(ValueError):
        student.MyBatchSampler([0, 1], 0, False)


# --- weighted --------------------------------------------------------------------------------


@pytest.mark.exercise("weighted")
def test_frequencies(student):
    """With replacement, weights 1, 3, 0 and 2 give each index its share of 6,000 draws."""
    g = torch.Generator().manual_seed(0)
    drawn = student.weighted_indices([1.0, 3.0, 0.0, 2.0], 6000, True, g)
    assert_true(isinstance(drawn, list) and len(drawn) == 6000, "It should be a list of 6,000.")
    assert_true(all(type(i) is int for i in drawn), "The indices should be plain ints: `tolist`.")
    counts = [drawn.count(i) for i in range(4)]
    assert_equal(sum(counts), 6000, "the number of indices from 0 to 3")
    assert_equal(counts[2], 0, "the number of draws of index 2, which has weight 0,")
    assert_true(
        all(abs(c - e) < 200 for c, e in zip(counts, (1000, 3000, 0, 2000), strict=True)),
        f"About 1000, 3000, 0 and 2000 draws are expected, not {counts}.",
    )


@pytest.mark.exercise("weighted")
def test_no_repeats(student):
    """Without replacement no index comes twice, and the first follows the weights."""
    g = torch.Generator().manual_seed(0)
    orders = [student.weighted_indices([1.0, 3.0, 0.0, 2.0], 3, False, g) for _ in range(200)]
    for order in orders:
        assert_equal(sorted(order), [0, 1, 3], "three draws without replacement, sorted,")
    ones = sum(order[0] == 1 for order in orders)
    assert_true(
        70 <= ones <= 130, f"Index 1 should be first in about half of 200 cases, not in {ones}."
    )


@pytest.mark.exercise("weighted")
def test_too_many(student):
    """Four different indices cannot be drawn from three positive weights: a ValueError."""
    with raises(ValueError):
        student.weighted_indices([1.0, 3.0, 0.0, 2.0], 4, False, torch.Generator())


# --- bucket ----------------------------------------------------------------------------------


@probe
def bucket_epochs(student, lengths, size):
    sampler = student.BucketSampler(lengths, size, torch.Generator().manual_seed(0))
    return list(sampler), list(sampler), len(sampler)


@pytest.mark.exercise("bucket")
def test_buckets(student):
    """Every index comes once; full batches hold similar lengths; the incomplete one is last."""
    lengths = [5, 1, 9, 2, 6, 1, 8, 2, 5]
    order, _, length = student.run(bucket_epochs, lengths, 2)
    assert_equal(length, 9, "the length of the sampler")
    assert_true(
        all(type(i) is int for i in order),
        "The sampler should give plain ints: not tensors, and not lists of them.",
    )
    assert_equal(sorted(order), list(range(9)), "the indices of an epoch, sorted,")
    pairs = sorted(sorted(lengths[i] for i in order[k : k + 2]) for k in range(0, 8, 2))
    assert_close(pairs, [[1, 1], [2, 2], [5, 5], [6, 8]], "the lengths in the full batches")
    assert_equal(order[8], 2, "the last index, that of the longest item,")


@pytest.mark.exercise("bucket")
def test_epochs_differ(student):
    """The second epoch has another order than the first."""
    one, two, _ = student.run(bucket_epochs, list(range(40)), 4)
    assert_true(
        one != two, "Both epochs have the same order: draw in `__iter__`, not in `__init__`."
    )


# --- collate ---------------------------------------------------------------------------------


@pytest.mark.exercise("collate")
def test_worked_example(student):
    """Two images with 2 and 1 boxes: the fourth place is filled with -1 and masked."""
    boxes = [torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]]), torch.tensor([[8.0, 9, 10, 11]])]
    batch = [(torch.full((1, 2, 2), float(k)), k, b) for k, b in enumerate(boxes)]
    imgs, labels, padded, mask = student.collate_boxes(batch)
    assert_close(imgs, torch.stack([img for img, _, _ in batch]), "the images")
    assert_equal(labels, torch.tensor([0, 1]), "the labels")
    fill = torch.full((1, 4), -1.0)
    assert_close(
        padded,
        torch.stack([boxes[0], torch.cat([boxes[1], fill])]),
        "the boxes",
        symptoms={
            "Fill up with -1, not with 0.": torch.stack([boxes[0], torch.cat([boxes[1], 0 * fill])])
        },
    )
    true = torch.tensor([[True, True], [True, False]])
    assert_equal(mask, true, "the mask")


@pytest.mark.exercise("collate")
def test_no_boxes(student):
    """An image without boxes has a row of False; no boxes at all make shape (B, 0, 4)."""
    img, none = torch.zeros(1, 2, 2), torch.zeros(0, 4)
    *_, mask = student.collate_boxes([(img, 0, none), (img, 1, torch.ones(1, 4))])
    assert_equal(mask, torch.tensor([[False], [True]]), "the mask")
    *_, padded, _ = student.collate_boxes([(img, 0, none), (img, 1, none)])
    assert_shape(padded, (2, 0, 4), "the boxes of two images without boxes")


# --- loader ----------------------------------------------------------------------------------


@probe
def load(student, n, options):
    loader = student.MiniLoader(list(range(n)), **options)
    return [batch.tolist() for batch in loader], len(loader)


@probe
def load_shuffled(student, n, size):
    g = torch.Generator().manual_seed(0)
    loader = student.MiniLoader(list(range(n)), batch_size=size, shuffle=True, generator=g)
    return [[batch.tolist() for batch in loader] for _ in range(2)]


@pytest.mark.exercise("loader")
def test_in_order(student):
    """Without options the items come in order; drop_last and batch_sampler are obeyed."""
    for options, expected in (
        ({"batch_size": 2}, [[0, 1], [2, 3], [4]]),
        ({"batch_size": 2, "drop_last": True}, [[0, 1], [2, 3]]),
        ({"sampler": [4, 0]}, [[4], [0]]),
        ({"batch_sampler": [[3, 1, 0], [2]]}, [[3, 1, 0], [2]]),
    ):
        batches, length = student.run(load, 5, options)
        assert_close(batches, expected, f"the batches for {options}")
        assert_equal(length, len(expected), f"the length for {options}")


@pytest.mark.exercise("loader")
def test_shuffled(student):
    """Shuffled epochs hold every item once, differ, and equal DataLoader's for the same seed."""
    epochs = student.run(load_shuffled, 10, 4)
    flat = [list(itertools.chain(*batches)) for batches in epochs]
    for items in flat:
        assert_equal(sorted(items), list(range(10)), "the items of an epoch, sorted,")
    assert_true(flat[0] != flat[1], "Both epochs have the same order.")
    g = torch.Generator().manual_seed(0)
    theirs = torch.utils.data.DataLoader(range(10), batch_size=4, shuffle=True, generator=g)
    no_seed = torch.randperm(10, generator=torch.Generator().manual_seed(0)).split(4)
    expected = [batch.tolist() for batch in theirs]
    assert_close(
        epochs[0],
        expected,
        "the first epoch",
        symptoms={"The number for the workers was not drawn first.": [b.tolist() for b in no_seed]},
    )


@pytest.mark.exercise("loader")
def test_exclusive(student):
    """Options that exclude each other raise a ValueError."""
    with raises(ValueError):
        student.MiniLoader([1, 2], shuffle=True, sampler=[0, 1])
    with raises(ValueError):
        student.MiniLoader([1, 2], batch_size=2, batch_sampler=[[0, 1]])


# --- debug -----------------------------------------------------------------------------------


@probe
def taken(student, steps):
    class Passes:
        """Each pass gives three batches, which tell the pass."""

        count = 0

        def __iter__(self):
            self.count += 1
            return iter([f"{self.count}{letter}" for letter in "abc"])

    batches = []
    for batch in student.take(Passes(), steps):
        batches.append(batch)
        if len(batches) > steps:
            break
    return batches


@pytest.mark.exercise("debug")
def test_take(student):
    """`take` gives the batches of a pass in order, and begins a new pass when one is over."""
    assert_close(
        student.run(taken, 7),
        ["1a", "1b", "1c", "2a", "2b", "2c", "3a"],
        "seven batches of passes with three",
        symptoms={
            "Every step begins a new epoch and takes its first batch.": [
                f"{k}a" for k in range(1, 8)
            ],
            "The first epoch is kept and repeated; ask the loader for a new one.": [
                "1a", "1b", "1c", "1a", "1b", "1c", "1a",
            ],
            "It ends with the first epoch.": ["1a", "1b", "1c"],
        },
    )  # fmt: skip
    assert_equal(student.run(taken, 0), [], "no batches")
    assert_equal(student.run(taken, 3), ["1a", "1b", "1c"], "exactly one epoch")
