"""Handwritten digits, 8 x 8 pixels, that come with scikit-learn: 1,437 to train, 360 to test.

The real data is small enough to ship with a library, so offline and real are the same.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course.data._images import ImageDataset

SPLITS = ("train", "test")
FILES = ()
HOW_TO_GET = "The digits come with scikit-learn; there is nothing to get."

CLASSES = [str(digit) for digit in range(10)]
TEST_SIZE = 360


def offline(split: str, **transforms) -> ImageDataset:
    images, labels = _splits()[split]
    # Copies, so that whoever changes the data set does not change everybody's.
    return ImageDataset(images.clone(), labels.clone(), CLASSES, **transforms)


def real(split: str, root: Path, download: bool, **transforms) -> ImageDataset:
    return offline(split, **transforms)


@functools.cache
def _splits() -> dict[str, tuple[Tensor, Tensor]]:
    """A fixed split in which every class has the same share of both parts, to within one image."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)  # 0..16 there
    labels = torch.from_numpy(digits.target).long()

    # NumPy promises that this generator's stream never changes; torch promises no such thing.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    # Sorted by class, each class in random order; then evenly spaced positions are a fair sample.
    by_class = order[labels[order].argsort(stable=True)]
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    in_test[by_class[torch.arange(TEST_SIZE) * len(labels) // TEST_SIZE]] = True
    test, train = order[in_test[order]], order[~in_test[order]]
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
