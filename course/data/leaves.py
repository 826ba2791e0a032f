"""Leaves: the competition "classify-leaves", colour pictures of leaves with the name of their tree.

Real: Kaggle's folder, photographs with train.csv (image, label) and test.csv (image alone).
Offline: 240 and 96 drawn leaves of eight kinds, 48 x 48 pixels on a light ground. Some kinds are
much rarer than others, in both splits.
"""

import csv
import functools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from course.data._images import ImageDataset

SPLITS = ("train", "test")
FOLDER = "classify-leaves"
FILES = (f"{FOLDER}/train.csv", f"{FOLDER}/test.csv")
HOW_TO_GET = (
    "Join the competition classify-leaves on Kaggle, download its data, and unpack it into "
    f"a folder {FOLDER} there, with train.csv, test.csv and the folder images."
)
UNKNOWN = -1  # the label of a photograph in test.csv

SIZE = 48  # pixels
SCALE = 3  # leaves are drawn larger and shrunk, for smooth edges
SEEDS = {"train": 1, "test": 2}
# Names, and how many leaves there are in train; in test 40 %.
COUNT = {
    "acer_palmatum": 45,
    "betula_nigra": 30,
    "cercis_canadensis": 40,
    "ginkgo_biloba": 15,
    "ilex_opaca": 20,
    "quercus_alba": 35,
    "salix_nigra": 30,
    "ulmus_rubra": 25,
}
CLASSES = sorted(COUNT)


class Leaves(ImageDataset):
    """Drawn leaves; an item is `(PIL.Image of mode "RGB", int)`, after the transforms.

    Attributes:
        data: the images, uint8 of shape (N, 48, 48, 3).
        targets: the labels, int64 of shape (N,).
        classes: the name of each label.
    """


class Photographs(Dataset):
    """Photographs from a folder; an item is `(PIL.Image of mode "RGB", int)`.

    Attributes:
        files: the paths of the images.
        targets: the labels, int64 of shape (N,); -1 where the file has none.
        classes: the name of each label.
    """

    def __init__(
        self,
        files: Sequence[Path],
        targets: Tensor,
        classes: Sequence[str],
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.files, self.targets, self.classes = list(files), targets, list(classes)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        with Image.open(self.files[index]) as picture:
            image: Any = picture.convert("RGB")
        target: Any = int(self.targets[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def real(split: str, root: Path, download: bool, **transforms) -> Photographs:
    if download:
        raise RuntimeError("there is no automatic download")
    folder = root / FOLDER
    classes = sorted({row["label"] for row in _rows(folder / "train.csv")})
    rows = _rows(folder / f"{split}.csv")
    index = {name: number for number, name in enumerate(classes)}
    labels = [index[row["label"]] if row.get("label") else UNKNOWN for row in rows]
    files = [folder / row["image"] for row in rows]
    return Photographs(files, torch.tensor(labels), classes, **transforms)


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def offline(split: str, **transforms) -> Leaves:
    images, labels = _drawings(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return Leaves(images.clone(), labels.clone(), CLASSES, **transforms)


@functools.cache
def _drawings(split: str) -> tuple[Tensor, Tensor]:
    # Unlike torch's, the streams of these two generators stay the same from version to version.
    rng, noise = random.Random(SEEDS[split]), np.random.RandomState(SEEDS[split])
    share = 1.0 if split == "train" else 0.4
    labels = [CLASSES.index(name) for name, n in COUNT.items() for _ in range(round(share * n))]
    rng.shuffle(labels)
    images = np.stack([_leaf(CLASSES[label], rng) for label in labels]).astype(np.float64)
    images += noise.normal(0, 5, images.shape)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.tensor(labels)


def _leaf(name: str, rng: random.Random) -> np.ndarray:
    """One leaf on a light ground: its outline depends on the name, all else on chance."""
    side = SIZE * SCALE
    light = rng.randint(214, 246)
    ground = (light, light - rng.randint(0, 8), light - rng.randint(0, 18))
    green = rng.randint(96, 150)
    ink = (rng.randint(40, 110), green, rng.randint(28, 70))
    dark = tuple(round(0.72 * v) for v in ink)
    picture = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(picture)
    radius = side * rng.uniform(0.36, 0.45)
    turn = rng.uniform(-0.6, 0.6)
    stretch = rng.uniform(0.9, 1.1)
    middle = [side / 2 + side * rng.uniform(-0.04, 0.04) for _ in range(2)]

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        cos, sin = math.cos(turn), math.sin(turn)
        return [
            (
                middle[0] + radius * (stretch * u * cos - v * sin),
                middle[1] + radius * (stretch * u * sin + v * cos),
            )
            for u, v in points
        ]

    outline, veins = _outline(name, rng)
    stalk = place([(0.0, 0.7), (rng.uniform(-0.1, 0.1), 1.1)])
    draw.line(stalk, fill=dark, width=SCALE + 1)
    draw.polygon(place(outline), fill=ink)
    for vein in veins:
        draw.line(place(vein), fill=dark, width=SCALE - 1)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))


def _outline(name: str, rng: random.Random) -> tuple[list, list]:
    """The outline of a leaf that points up, in [-1, 1] x [-1, 1], and its veins."""
    if name == "acer_palmatum":  # five long fingers
        return _fingers(5, 0.42, rng.uniform(0.9, 1.0))
    if name == "ginkgo_biloba":  # a fan with a notch
        spread, notch = rng.uniform(1.0, 1.2), rng.uniform(0.15, 0.4)
        arc = [spread * (2 * i / 24 - 1) for i in range(25)]
        far = [1.3 * (1 - notch * math.exp(-((a / 0.12) ** 2))) for a in arc]
        rim = [(r * math.sin(a), 0.75 - r * math.cos(a)) for a, r in zip(arc, far, strict=True)]
        veins = [[(0, 0.7), (1.05 * math.sin(a), 0.75 - 1.05 * math.cos(a))] for a in (-0.6, 0.6)]
        return [(0, 0.85), *rim], veins
    # Along the middle from the tip (t = 0) to the stalk (t = 1): half the width of the blade.
    teeth, depth, steps = 0, 0.0, 80
    if name == "salix_nigra":  # a lance
        wide, peak = rng.uniform(0.17, 0.24), 0.55
    elif name == "ulmus_rubra":  # an oval with fine teeth
        wide, peak, teeth, depth = rng.uniform(0.46, 0.56), 0.52, 11, 0.16
    elif name == "betula_nigra":  # a rhombus
        wide, peak = rng.uniform(0.52, 0.64), 0.62
    elif name == "quercus_alba":  # round lobes
        wide, peak, teeth, depth = rng.uniform(0.52, 0.64), 0.42, 4, 0.45
    elif name == "ilex_opaca":  # a few sharp spines
        wide, peak, teeth, depth = rng.uniform(0.46, 0.56), 0.5, 4, 0.5
    else:  # cercis_canadensis: a heart
        wide, peak = rng.uniform(0.78, 0.9), 0.72
    right = []
    for i in range(steps + 1):
        t = i / steps
        if name == "betula_nigra":
            half = wide * (t / peak if t < peak else (1 - t) / (1 - peak))
        elif name == "cercis_canadensis":
            half = wide * math.sin(math.pi * t ** (math.log(0.5) / math.log(peak))) ** 0.8
        else:
            half = wide * math.sin(math.pi * t ** (math.log(0.5) / math.log(peak))) ** 0.75
        wave = (t * teeth) % 1
        if name == "quercus_alba":
            half *= 1 - depth * (0.5 + 0.5 * math.cos(2 * math.pi * t * teeth))
        elif name == "ilex_opaca":
            half *= 1 - depth * math.sin(math.pi * wave) ** 0.7
        elif teeth:
            half *= 1 - depth * wave
        drop = 0.22 if name == "cercis_canadensis" else 0.0  # the heart's two lobes hang down
        right.append((half, -1 + 1.8 * t + drop * half * t))
    outline = right + [(-u, v) for u, v in reversed(right)]
    veins = [[(0, -0.9), (0, 0.8)]]
    for v in (-0.05, 0.2, 0.45):
        veins += [[(0, v), (side * 0.45 * wide, v - 0.2)] for side in (-1, 1)]
    return outline, veins


def _fingers(count: int, inner: float, outer: float) -> tuple[list, list]:
    """A leaf like a hand."""
    outline, veins = [(0.0, 0.75)], []
    for i in range(count):
        angle = 1.9 * (2 * i / (count - 1) - 1)
        reach = outer * (1 - 0.13 * abs(angle))
        tip = (reach * math.sin(angle), 0.25 - 1.2 * reach * math.cos(angle))
        if i:
            between = angle - 1.9 / (count - 1)
            outline.append((inner * math.sin(between), 0.25 - inner * math.cos(between)))
        for side in (-0.22, 0.0, 0.22):
            r = reach if side == 0 else 0.62 * reach
            a = angle + side
            outline.append((r * math.sin(a), 0.25 - 1.2 * r * math.cos(a)))
        veins.append([(0, 0.25), tip])
    return outline, veins
