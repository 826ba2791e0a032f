"""CIFAR-10: colour pictures of 32 x 32 pixels of ten kinds of animals and vehicles.

Real: a folder for each kind below `cifar10_jpeg/train` and `cifar10_jpeg/test`, with the first 500
and 100 photographs of that kind or more. Offline: 1,000 and 300 coloured shapes of ten kinds, one
for each class, with random sizes, places, colours and noise; they bear the same names.
"""

import functools
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from course.data._images import ImageDataset

SPLITS = ("train", "test")
CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
FOLDER = "cifar10_jpeg"
FILES = tuple(f"{FOLDER}/{split}/{name}/0000.jpg" for split in SPLITS for name in CLASSES)
HOW_TO_GET = (
    'data.load("cifar-10", source="real", download=True) fetches CIFAR-10 (170 MB) with '
    f"torchvision, checks it, and writes its first pictures into {FOLDER} in that folder."
)

SIZE = 32  # pixels
PER_CLASS = {"train": 100, "test": 30}
REAL_PER_CLASS = {"train": 500, "test": 100}
SEEDS = {"train": 1, "test": 2}
SCALE = 4  # shapes are drawn larger and shrunk, for smooth edges


class ColourDataset(ImageDataset):
    """Colour images with labels; an item is `(PIL.Image of mode "RGB", int)`.

    Attributes:
        data: the images, uint8 of shape (N, H, W, 3).
        targets: the labels, int64 of shape (N,).
        classes: the name of each label.
    """


def real(split: str, root: Path, download: bool, **transforms) -> Dataset:
    if download:
        _unpack(root)
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for file in sorted((root / FOLDER / split / name).glob("*.jpg")):
            with Image.open(file) as picture:
                images.append(np.asarray(picture.convert("RGB")))
            labels.append(label)
    # Mixed, so that the first n are a fair sample.
    order = np.random.RandomState(0).permutation(len(labels))
    data = torch.from_numpy(np.stack(images)[order])
    return ColourDataset(data, torch.tensor(labels)[order], CLASSES, **transforms)


def _unpack(root: Path) -> None:
    """Fetch CIFAR-10 and write the first pictures of each kind as JPEG files."""
    from torchvision.datasets import CIFAR10  # costs a second

    for split in SPLITS:
        dataset = CIFAR10(root, train=split == "train", download=True)
        targets = np.asarray(dataset.targets)
        for label, name in enumerate(CLASSES):
            folder = root / FOLDER / split / name
            folder.mkdir(parents=True, exist_ok=True)
            chosen = np.flatnonzero(targets == label)[: REAL_PER_CLASS[split]]
            for number, index in enumerate(chosen):
                picture = Image.fromarray(dataset.data[index])
                picture.save(folder / f"{number:04}.jpg", quality=95)


def offline(split: str, **transforms) -> ColourDataset:
    images, labels = _drawings(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return ColourDataset(images.clone(), labels.clone(), CLASSES, **transforms)


@functools.cache
def _drawings(split: str) -> tuple[Tensor, Tensor]:
    # Unlike torch's, the streams of these two generators stay the same from version to version.
    rng, noise = random.Random(SEEDS[split]), np.random.RandomState(SEEDS[split])
    labels = list(range(len(CLASSES))) * PER_CLASS[split]
    rng.shuffle(labels)
    images = np.stack([_drawing(label, rng) for label in labels]).astype(np.float64)
    images += 12 * noise.randn(*images.shape)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.tensor(labels)


def _drawing(label: int, rng: random.Random) -> np.ndarray:
    """One shape on a plain ground: what it is depends on the label, all else on chance."""
    ground, ink = _two_colours(rng)
    picture = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), ground)
    draw = ImageDraw.Draw(picture)
    radius = rng.uniform(8, 12)
    x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in range(2))
    turn = rng.uniform(-0.25, 0.25)
    for outline, colour in _shape(label, ink, ground):
        cos, sin = math.cos(turn), math.sin(turn)
        points = [
            (SCALE * (x + radius * (u * cos - v * sin)), SCALE * (y + radius * (u * sin + v * cos)))
            for u, v in outline
        ]
        draw.polygon(points, fill=colour)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))


def _two_colours(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A ground and an ink that differ enough to be told apart."""
    while True:
        ground, ink = (tuple(rng.randrange(20, 236) for _ in range(3)) for _ in range(2))
        if sum(abs(a - b) for a, b in zip(ground, ink, strict=True)) > 220:
            return ground, ink


def _regular(corners: int, radius: float = 1.0, start: float = -math.pi / 2) -> list:
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> list:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _shape(label: int, ink: tuple, ground: tuple) -> list[tuple[list, tuple]]:
    """The polygons of a kind, in a square from -1 to 1, each with its colour."""
    star = [
        p
        for pair in zip(_regular(5), _regular(5, 0.4, -math.pi / 2 + math.pi / 5), strict=True)
        for p in pair
    ]
    return {
        0: lambda: [(_regular(24), ink)],  # a disc
        1: lambda: [(_regular(24), ink), (_regular(24, 0.55), ground)],  # a ring
        2: lambda: [(_regular(3), ink)],
        3: lambda: [(_box(-0.8, -0.8, 0.8, 0.8), ink)],
        4: lambda: [(_box(-0.8, -0.8, 0.8, 0.8), ink), (_box(-0.4, -0.4, 0.4, 0.4), ground)],
        5: lambda: [(star, ink)],
        6: lambda: [(_box(-1, -0.3, 1, 0.3), ink), (_box(-0.3, -1, 0.3, 1), ink)],  # a cross
        7: lambda: [(_box(-1, -0.9, 1, -0.35), ink), (_box(-1, 0.35, 1, 0.9), ink)],  # two bars
        8: lambda: [(_box(-0.9, -1, -0.35, 1), ink), (_box(0.35, -1, 0.9, 1), ink)],
        9: lambda: [(_box(-0.9, -0.9, -0.3, 0.9), ink), (_box(-0.9, 0.3, 0.9, 0.9), ink)],  # an L
    }[label]()
