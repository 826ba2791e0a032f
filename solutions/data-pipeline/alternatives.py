"""Other right answers in the chapter on Dataset, Sampler and DataLoader."""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, RandomSampler, Sampler

from course.testing import alternative


def draw_shape(image, kind, box):
    """In the notebook's first cell."""


@alternative("shapes")
class ShapesDataset(Dataset):
    """torch's generator, seeded by one number made of two."""

    def __init__(self, n, size=32, seed=0):
        self.indices = range(n)
        self.size, self.seed = size, seed

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        i = self.indices[i]  # a range knows negative indices and IndexError
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + i)

        def draw(low, high):
            return torch.randint(low, high + 1, (), generator=g).item()

        label, count = draw(0, 2), draw(1, 3)
        canvas = torch.zeros(1, self.size, self.size)
        boxes = torch.empty(count, 4)
        for box in boxes:
            side = draw(self.size // 4, self.size // 2)
            x, y = draw(0, self.size - side), draw(0, self.size - side)
            box[:] = torch.tensor([x, y, x + side, y + side])
            draw_shape(canvas[0], label, box)
        return canvas, label, boxes


@alternative("concat")
class Concat(Dataset):
    """Walk along the data sets, without running totals."""

    def __init__(self, datasets):
        self.datasets = [*datasets]
        if len(self.datasets) == 0:
            raise ValueError("nothing to join")

    def __len__(self):
        return sum(map(len, self.datasets))

    def __getitem__(self, i):
        i = range(len(self))[i]
        for dataset in self.datasets:
            if i < len(dataset):
                return dataset[i]
            i -= len(dataset)
        raise IndexError(i)


@alternative("batchsampler")
class MyBatchSampler(Sampler):
    """Slices of one iterator."""

    def __init__(self, sampler, batch_size, drop_last):
        if batch_size <= 0:
            raise ValueError("batch_size")
        self.sampler, self.size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        it = iter(self.sampler)
        while batch := list(itertools.islice(it, self.size)):
            if len(batch) < self.size and self.drop_last:
                return
            yield batch

    def __len__(self):
        return (len(self.sampler) + (0 if self.drop_last else self.size - 1)) // self.size


@alternative("batchsampler")
def iterations_per_epoch(n, b, drop_last):
    full, rest = divmod(n, b)
    return full + int(rest > 0 and not drop_last)


@alternative("batchsampler")
def iterations_per_epoch(n, b, drop_last):
    return (math.floor if drop_last else math.ceil)(n / b)


@alternative("weighted")
def weighted_indices(weights, num, replacement, generator):
    """Draw one after the other, and take out what was drawn."""
    left = np.array([float(w) for w in weights])
    if left.min() < 0 or left.sum() <= 0:
        raise ValueError("weights")
    if not replacement and num > np.count_nonzero(left):
        raise ValueError("too many")
    darts = torch.rand(num, generator=generator, dtype=torch.float64).numpy()
    if replacement:
        ends = np.cumsum(left)
        return np.searchsorted(ends, darts * ends[-1], side="right").tolist()
    drawn = []
    for u in darts:
        ends = np.cumsum(left)
        drawn.append(int(np.searchsorted(ends, u * ends[-1], side="right")))
        left[drawn[-1]] = 0
    return drawn


@alternative("weighted")
def weighted_indices(weights, num, replacement, generator):
    """The keys of Efraimidis and Spirakis, as logarithms; with replacement, a race for each draw."""
    w = torch.as_tensor(weights).double()
    if bool((w < 0).any()) or not bool((w > 0).any()):
        raise ValueError("weights")
    if not replacement and num > int((w > 0).sum()):
        raise ValueError("too many")
    rows = num if replacement else 1
    keys = torch.rand(rows, len(w), generator=generator, dtype=torch.float64).log() / w
    keys[:, w == 0] = -torch.inf
    if replacement:
        return keys.argmax(1).tolist()
    return keys[0].topk(num).indices.tolist()


@alternative("bucket")
class BucketSampler(Sampler):
    """Random numbers as the second key of the sort."""

    def __init__(self, lengths, batch_size, generator):
        if batch_size <= 0:
            raise ValueError("batch_size")
        self.lengths = [int(v) for v in lengths]
        self.size, self.generator = batch_size, generator

    def __iter__(self):
        tie = torch.rand(len(self.lengths), generator=self.generator).tolist()
        order = sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], tie[i]))
        batches = [order[k : k + self.size] for k in range(0, len(order), self.size)]
        rest = batches.pop() if len(order) % self.size else []
        keys = torch.rand(len(batches), generator=self.generator).argsort().tolist()
        return itertools.chain(*(batches[k] for k in keys), rest)

    def __len__(self):
        return len(self.lengths)


@alternative("collate")
def collate_boxes(batch):
    """pad_sequence, for the boxes and for the mask."""
    imgs = torch.stack([img for img, _, _ in batch])
    labels = torch.utils.data.default_collate([label for _, label, _ in batch])
    boxes = [b for _, _, b in batch]
    padded = nn.utils.rnn.pad_sequence(boxes, batch_first=True, padding_value=-1)
    ones = [b.new_ones(len(b), dtype=torch.bool) for b in boxes]
    mask = nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_value=False)
    return imgs, labels, padded, mask


@alternative("loader")
class MiniLoader:
    """No generators: an iterator class inside, slices of a list of indices."""

    def __init__(self, dataset, batch_size=1, shuffle=False, sampler=None, batch_sampler=None,
                 drop_last=False, collate_fn=None, generator=None):  # fmt: skip
        given = [batch_size != 1, bool(shuffle), sampler is not None, bool(drop_last)]
        if batch_sampler is not None and any(given):
            raise ValueError("batch_sampler stands alone")
        if shuffle and sampler is not None:
            raise ValueError("sampler and shuffle")
        self.dataset, self.generator = dataset, generator
        self.size, self.drop_last = batch_size, drop_last
        self.batch_sampler = batch_sampler
        self.order = sampler
        if sampler is None:
            self.order = range(len(dataset))
            if shuffle:
                self.order = RandomSampler(dataset, generator=generator)
        self.collate = collate_fn or torch.utils.data.default_collate

    def lists(self):
        if self.batch_sampler is not None:
            yield from self.batch_sampler
            return
        it = iter(self.order)
        while batch := list(itertools.islice(it, self.size)):
            if len(batch) == self.size or not self.drop_last:
                yield batch

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return map(lambda ids: self.collate([self.dataset[i] for i in ids]), self.lists())

    def __len__(self):
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        full, rest = divmod(len(self.order), self.size)
        return full + (1 if rest and not self.drop_last else 0)
