"""Wrong answers in the chapter on Dataset, Sampler and DataLoader, each with the hint it deserves."""

import bisect
import itertools

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from course.testing import misconception

KINDS = ("square", "disc", "cross")


def draw_shape(image, kind, box):
    """In the notebook's first cell."""


# --- shapes ----------------------------------------------------------------------------------


@misconception(
    "shapes",
    hint="The generator is seeded with seed + i, so item 0 of seed 1 is item 1 of seed 0: a test set "
    "with another seed repeats the training set. Mix the two numbers instead of adding them.",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not -self.n <= i < self.n:
            raise IndexError(i)
        rng = np.random.default_rng(self.seed + i % self.n)
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2 + 1)
            x, y = rng.integers(self.size - side + 1, size=2)
            boxes.append([x, y, x + side, y + side])
            draw_shape(img, label, boxes[-1])
        return img[None], label, torch.tensor(np.array(boxes)).float()


@misconception(
    "shapes",
    hint="One generator serves all items, so what ds[3] is depends on what was asked before. Make a "
    "new one in `__getitem__`, from seed and index.",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.rng = n, size, np.random.default_rng(seed)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not -self.n <= i < self.n:
            raise IndexError(i)
        rng = self.rng
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2 + 1)
            x, y = rng.integers(self.size - side + 1, size=2)
            boxes.append([x, y, x + side, y + side])
            draw_shape(img, label, boxes[-1])
        return img[None], label, torch.tensor(np.array(boxes)).float()


@misconception(
    "shapes",
    hint="No IndexError comes past the end, so a plain loop over the data set never ends. Python "
    "does not look at the length there.",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        rng = np.random.default_rng((self.seed, i % self.n))
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2 + 1)
            x, y = rng.integers(self.size - side + 1, size=2)
            boxes.append([x, y, x + side, y + side])
            draw_shape(img, label, boxes[-1])
        return img[None], label, torch.tensor(np.array(boxes)).float()


@misconception(
    "shapes",
    hint="A negative index gets random numbers of its own here. ds[-1] should be the last item: "
    "find out first which item is meant, then seed.",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not -self.n <= i < self.n:
            raise IndexError(i)
        rng = np.random.default_rng((self.seed, i + 10**6))
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2 + 1)
            x, y = rng.integers(self.size - side + 1, size=2)
            boxes.append([x, y, x + side, y + side])
            draw_shape(img, label, boxes[-1])
        return img[None], label, torch.tensor(np.array(boxes)).float()


@misconception(
    "shapes",
    hint="The upper end of `rng.integers` is never drawn, so the largest side and the last place "
    "cannot come. Which numbers can a corner have, for a side of s pixels?",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not -self.n <= i < self.n:
            raise IndexError(i)
        rng = np.random.default_rng((self.seed, i % self.n))
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2)
            x, y = rng.integers(self.size - side, size=2)
            boxes.append([x, y, x + side, y + side])
            draw_shape(img, label, boxes[-1])
        return img[None], label, torch.tensor(np.array(boxes)).float()


@misconception(
    "shapes",
    hint="The boxes are (x, y, width, height). Documented are the two corners, (x1, y1, x2, y2).",
)
class ShapesDataset(Dataset):
    def __init__(self, n, size=32, seed=0):
        self.n, self.size, self.seed = n, size, seed

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not -self.n <= i < self.n:
            raise IndexError(i)
        rng = np.random.default_rng((self.seed, i % self.n))
        img, label, boxes = torch.zeros(self.size, self.size), int(rng.integers(3)), []
        for _ in range(rng.integers(1, 4)):
            side = rng.integers(self.size // 4, self.size // 2 + 1)
            x, y = rng.integers(self.size - side + 1, size=2)
            boxes.append([x, y, side, side])
            draw_shape(img, label, (x, y, x + side, y + side))
        return img[None], label, torch.tensor(np.array(boxes)).float()


# --- concat ----------------------------------------------------------------------------------


@misconception(
    "concat",
    hint="At a border the wrong data set is asked: index i belongs to the first data set whose end "
    "is *greater* than i, not greater or equal.",
)
class Concat(Dataset):
    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("no data sets")
        self.ends = list(itertools.accumulate(len(d) for d in self.datasets))

    def __len__(self):
        return self.ends[-1]

    def __getitem__(self, i):
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        which = bisect.bisect_left(self.ends, i)
        return self.datasets[which][i - (self.ends[which - 1] if which else 0)]


@misconception(
    "concat",
    hint="The index is passed on as it is. Each data set counts from 0, so what came before has to "
    "be subtracted.",
)
class Concat(Dataset):
    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("no data sets")

    def __len__(self):
        return sum(len(d) for d in self.datasets)

    def __getitem__(self, i):
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        before = 0
        for d in self.datasets:
            if i < before + len(d):
                return d[i % len(d)]
            before += len(d)


@misconception(
    "concat",
    hint="Negative indices are not translated, so -1 is the last item of the *first* data set.",
)
class Concat(Dataset):
    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("no data sets")

    def __len__(self):
        return sum(len(d) for d in self.datasets)

    def __getitem__(self, i):
        for d in self.datasets:
            if i < len(d):
                return d[i]
            i -= len(d)
        raise IndexError(i)


@misconception(
    "concat",
    hint="All items are read when the data sets are joined. Imagine a million pictures: read an "
    "item when it is asked for, and not before.",
)
class Concat(Dataset):
    def __init__(self, datasets):
        datasets = list(datasets)
        if not datasets:
            raise ValueError("no data sets")
        self.items = [d[i] for d in datasets for i in range(len(d))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@misconception(
    "concat",
    hint="An index below -n wraps around a second time. `i % n` accepts every index, so check the "
    "range before it.",
)
class Concat(Dataset):
    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("no data sets")

    def __len__(self):
        return sum(len(d) for d in self.datasets)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        i %= len(self)
        for d in self.datasets:
            if i < len(d):
                return d[i]
            i -= len(d)


# --- batchsampler ----------------------------------------------------------------------------


@misconception(
    "batchsampler",
    hint="The rest makes a batch of its own, even if it is small: without drop_last, round up.",
)
def iterations_per_epoch(n, b, drop_last):
    return n // b


@misconception(
    "batchsampler",
    hint="If b divides n there is no rest, and so no extra batch. `n // b + 1` counts one anyway.",
)
def iterations_per_epoch(n, b, drop_last):
    return n // b if drop_last else n // b + 1


@misconception(
    "batchsampler",
    hint="The list that was handed out is emptied afterwards, and the caller still holds it. Begin "
    "a new list for each batch.",
)
class MyBatchSampler(Sampler):
    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        batch = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch.clear()
        if batch and not self.drop_last:
            yield batch

    def __len__(self):
        n, b = len(self.sampler), self.batch_size
        return n // b if self.drop_last else -(-n // b)


@misconception(
    "batchsampler",
    hint="The last batch is given even if it is empty, when the batch size divides the length.",
)
class MyBatchSampler(Sampler):
    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        batch = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if not self.drop_last:
            yield batch

    def __len__(self):
        n, b = len(self.sampler), self.batch_size
        return n // b if self.drop_last else -(-n // b)


@misconception(
    "batchsampler",
    hint="`list(self.sampler)` draws the whole epoch before the first batch is given; with an endless "
    "sampler it never comes back. Collect as you go.",
)
class MyBatchSampler(Sampler):
    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        indices = list(self.sampler)
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self):
        n, b = len(self.sampler), self.batch_size
        return n // b if self.drop_last else -(-n // b)


@misconception(
    "batchsampler",
    hint="The sampler is asked only once, when the batch sampler is made, so a sampler that shuffles "
    "gives the same batches in each epoch, or none in the second. Ask it in `__iter__`.",
)
class MyBatchSampler(Sampler):
    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.n = len(sampler) if hasattr(sampler, "__len__") else None
        self.it, self.batch_size, self.drop_last = iter(sampler), batch_size, drop_last

    def __iter__(self):
        while batch := list(itertools.islice(self.it, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self):
        b = self.batch_size
        return self.n // b if self.drop_last else -(-self.n // b)


# --- weighted --------------------------------------------------------------------------------


@misconception(
    "weighted",
    hint="The weights are used as if they added up to 1. Scale the dart to their total.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        darts = torch.rand(num, generator=generator, dtype=torch.float64)
        found = torch.searchsorted(w.cumsum(0), darts, right=True)
        return found.clamp(max=len(w) - 1).tolist()
    if num > (w > 0).sum():
        raise ValueError("too many")
    arrival = torch.empty_like(w).exponential_(generator=generator) / w
    return arrival.argsort()[:num].tolist()


@misconception(
    "weighted",
    hint="The index is one too large or too small: a dart below the first total should give index 0.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        ends = w.cumsum(0)
        darts = torch.rand(num, generator=generator, dtype=torch.float64) * ends[-1]
        return (torch.searchsorted(ends, darts, right=True) + 1).clamp(max=len(w) - 1).tolist()
    if num > (w > 0).sum():
        raise ValueError("too many")
    arrival = torch.empty_like(w).exponential_(generator=generator) / w
    return arrival.argsort()[:num].tolist()


@misconception(
    "weighted",
    hint="Without replacement you sort random numbers times weights. That favours large weights, but "
    "not in proportion; the race needs exponential numbers divided by the weights.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        ends = w.cumsum(0)
        darts = torch.rand(num, generator=generator, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, darts, right=True).tolist()
    if num > (w > 0).sum():
        raise ValueError("too many")
    keys = torch.rand(len(w), generator=generator, dtype=torch.float64) * w
    return keys.argsort(descending=True)[:num].tolist()


@misconception(
    "weighted",
    hint="The weights play no part without replacement: every order is equally likely here.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        ends = w.cumsum(0)
        darts = torch.rand(num, generator=generator, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, darts, right=True).tolist()
    positive = w.nonzero()[:, 0]
    if num > len(positive):
        raise ValueError("too many")
    return positive[torch.randperm(len(positive), generator=generator)[:num]].tolist()


@misconception(
    "weighted",
    hint="The generator is not used, so the same seed does not give the same indices. Pass it to "
    "every function that draws.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        ends = w.cumsum(0)
        darts = torch.rand(num, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, darts, right=True).tolist()
    if num > (w > 0).sum():
        raise ValueError("too many")
    return (torch.empty_like(w).exponential_() / w).argsort()[:num].tolist()


@misconception(
    "weighted",
    hint="You ask for more items than there are, but an item of weight 0 can never come. Count the "
    "positive weights only.",
)
def weighted_indices(weights, num, replacement, generator):
    w = torch.as_tensor(weights, dtype=torch.float64)
    if (w < 0).any() or w.sum() == 0:
        raise ValueError("weights")
    if replacement:
        ends = w.cumsum(0)
        darts = torch.rand(num, generator=generator, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, darts, right=True).tolist()
    if num > len(w):
        raise ValueError("too many")
    arrival = torch.empty_like(w).exponential_(generator=generator) / w
    return arrival.argsort()[:num].tolist()


# --- bucket ----------------------------------------------------------------------------------


@misconception(
    "bucket",
    hint="The order is drawn in `__init__`, once for all, so every epoch is the same. Draw in "
    "`__iter__`.",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        lengths = torch.as_tensor(lengths)
        n, b = len(lengths), batch_size
        mixed = torch.randperm(n, generator=generator)
        order = mixed[lengths[mixed].argsort(stable=True)].tolist()
        self.order = []
        for k in torch.randperm(n // b, generator=generator).tolist():
            self.order += order[k * b : (k + 1) * b]
        self.order += order[n // b * b :]

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


@misconception(
    "bucket",
    hint="The items are sorted, but the batches come from short to long. Draw the order of the "
    "batches, too.",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.lengths, self.generator = torch.as_tensor(lengths), generator

    def __iter__(self):
        mixed = torch.randperm(len(self.lengths), generator=self.generator)
        return iter(mixed[self.lengths[mixed].argsort(stable=True)].tolist())

    def __len__(self):
        return len(self.lengths)


@misconception(
    "bucket",
    hint="The incomplete batch is shuffled among the others. After it, a loader cuts at the wrong "
    "places, and long and short items share a batch. It has to come last.",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self):
        n, b, g = len(self.lengths), self.batch_size, self.generator
        mixed = torch.randperm(n, generator=g)
        order = mixed[self.lengths[mixed].argsort(stable=True)].tolist()
        for k in torch.randperm(-(-n // b), generator=g).tolist():
            yield from order[k * b : (k + 1) * b]

    def __len__(self):
        return len(self.lengths)


@misconception(
    "bucket",
    hint="Items of equal length are always in the same order, so they share a batch in every epoch. "
    "Shuffle before the (stable) sort.",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self):
        n, b, g = len(self.lengths), self.batch_size, self.generator
        order = self.lengths.argsort(stable=True).tolist()
        for k in torch.randperm(n // b, generator=g).tolist():
            yield from order[k * b : (k + 1) * b]
        yield from order[n // b * b :]

    def __len__(self):
        return len(self.lengths)


@misconception(
    "bucket",
    hint="The rest behind the last full batch is forgotten, so the longest items are never seen.",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self):
        n, b, g = len(self.lengths), self.batch_size, self.generator
        mixed = torch.randperm(n, generator=g)
        order = mixed[self.lengths[mixed].argsort(stable=True)].tolist()
        for k in torch.randperm(n // b, generator=g).tolist():
            yield from order[k * b : (k + 1) * b]

    def __len__(self):
        return len(self.lengths)


@misconception(
    "bucket",
    hint="Lists of indices are given, as from a batch sampler. A sampler gives one index at a time "
    "(`yield from`).",
)
class BucketSampler(Sampler):
    def __init__(self, lengths, batch_size, generator):
        if batch_size < 1:
            raise ValueError(batch_size)
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self):
        n, b, g = len(self.lengths), self.batch_size, self.generator
        mixed = torch.randperm(n, generator=g)
        order = mixed[self.lengths[mixed].argsort(stable=True)].tolist()
        for k in torch.randperm(n // b, generator=g).tolist():
            yield order[k * b : (k + 1) * b]
        if n % b:
            yield order[n // b * b :]

    def __len__(self):
        return len(self.lengths)


# --- collate ---------------------------------------------------------------------------------


@misconception(
    "collate",
    hint="The empty places hold 0, which looks like a box of no size in the corner. They should "
    "hold -1.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    padded = nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)
    counts = torch.tensor([len(b) for b in boxes])
    mask = (torch.arange(padded.shape[1]) < counts[:, None]).to(padded.device)
    return default_collate(imgs), default_collate(labels), padded, mask


@misconception(
    "collate",
    hint="The mask is the wrong way round: True where a box is filling. It should be True where a "
    "box is true.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    padded = nn.utils.rnn.pad_sequence(list(boxes), batch_first=True, padding_value=-1)
    counts = torch.tensor([len(b) for b in boxes])
    mask = (torch.arange(padded.shape[1]) >= counts[:, None]).to(padded.device)
    return default_collate(imgs), default_collate(labels), padded, mask


@misconception(
    "collate",
    hint="Boxes are recognised by their values (not -1, or not negative). A true box can have any "
    "coordinates; the counts know better.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    padded = nn.utils.rnn.pad_sequence(list(boxes), batch_first=True, padding_value=-1)
    return default_collate(imgs), default_collate(labels), padded, (padded != -1).any(-1)


@misconception(
    "collate",
    hint="The boxes become float32, whatever they were. Make the padded tensor of the boxes' own "
    "dtype and device.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    counts = [len(b) for b in boxes]
    padded = torch.full((len(batch), max(counts), 4), -1.0, device=boxes[0].device)
    mask = torch.zeros(len(batch), max(counts), dtype=torch.bool, device=boxes[0].device)
    for k, b in enumerate(boxes):
        padded[k, : len(b)] = b
        mask[k, : len(b)] = True
    return default_collate(imgs), default_collate(labels), padded, mask


@misconception(
    "collate",
    hint="There is always room for three boxes. The number of places is that of the richest image in "
    "*this* batch.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    most = max(3, *(len(b) for b in boxes), 0)
    padded = boxes[0].new_full((len(batch), most, 4), -1)
    mask = torch.zeros(len(batch), most, dtype=torch.bool, device=boxes[0].device)
    for k, b in enumerate(boxes):
        padded[k, : len(b)] = b
        mask[k, : len(b)] = True
    return default_collate(imgs), default_collate(labels), padded, mask


@misconception(
    "collate",
    hint="The boxes are cut down to the smallest number in the batch, so some are lost. Fill up to "
    "the largest instead.",
)
def collate_boxes(batch):
    imgs, labels, boxes = zip(*batch)
    least = min(len(b) for b in boxes)
    padded = torch.stack([b[:least] for b in boxes])
    mask = torch.ones(len(batch), least, dtype=torch.bool, device=padded.device)
    return default_collate(imgs), default_collate(labels), padded, mask


# --- loader ----------------------------------------------------------------------------------


@misconception(
    "loader",
    hint="The order is drawn once, when the loader is made, so all epochs are the same. Ask the "
    "sampler anew in `__iter__`.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError("batch_sampler excludes the others")
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        if sampler is None:
            random = RandomSampler(dataset, generator=generator)
            sampler = random if shuffle else SequentialSampler(dataset)
        if batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.batches = dataset, list(batch_sampler)
        self.collate_fn = collate_fn or default_collate

    def __iter__(self):
        for indices in self.batches:
            yield self.collate_fn([self.dataset[i] for i in indices])

    def __len__(self):
        return len(self.batches)


@misconception(
    "loader",
    hint="The loader is its own iterator: two loops over it share one place in the epoch. `__iter__` "
    "should return a new iterator each time; only that has `__next__`.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError("batch_sampler excludes the others")
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        if sampler is None:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = random if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler or BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.generator = dataset, generator
        self.collate_fn = collate_fn or default_collate

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        self.sample_iter = iter(self.batch_sampler)
        return self

    def __next__(self):
        return self.collate_fn([self.dataset[i] for i in next(self.sample_iter)])

    def __len__(self):
        return len(self.batch_sampler)


@misconception(
    "loader",
    hint="The batches are right, but not those of DataLoader for the same generator: at the start of "
    "an epoch it draws one number for its workers, before the permutation.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError("batch_sampler excludes the others")
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        if sampler is None:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = random if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler or BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.collate_fn = collate_fn or default_collate

    def __iter__(self):
        for indices in self.batch_sampler:
            yield self.collate_fn([self.dataset[i] for i in indices])

    def __len__(self):
        return len(self.batch_sampler)


@misconception(
    "loader",
    hint="A batch_sampler silently wins over the other options. Whoever gave them believes that they "
    "are used: raise a ValueError.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        if sampler is None:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = random if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler or BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.generator = dataset, generator
        self.collate_fn = collate_fn or default_collate

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        for indices in self.batch_sampler:
            yield self.collate_fn([self.dataset[i] for i in indices])

    def __len__(self):
        return len(self.batch_sampler)


@misconception(
    "loader",
    hint="The length is the number of items. In an epoch, a loader gives batches, so its length is "
    "the number of batches.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError("batch_sampler excludes the others")
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        if sampler is None:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = random if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler or BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.generator = dataset, generator
        self.collate_fn = collate_fn or default_collate

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        for indices in self.batch_sampler:
            yield self.collate_fn([self.dataset[i] for i in indices])

    def __len__(self):
        return len(self.dataset)


@misconception(
    "loader",
    hint="The items are stacked, but never by the `collate_fn` that was given.",
)
class MiniLoader:
    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError("batch_sampler excludes the others")
        if sampler is not None and shuffle:
            raise ValueError("sampler excludes shuffle")
        if sampler is None:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = random if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler or BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.generator = dataset, generator

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        for indices in self.batch_sampler:
            yield default_collate([self.dataset[i] for i in indices])

    def __len__(self):
        return len(self.batch_sampler)
