"""Drawn scenes with boxes, labels and masks: 1,000 to train, 200 to test, 64 x 64 pixels.

Each scene has one to three circles, squares and triangles, of random colour, size and place, on a
textured background. What is drawn later may cover a part of what was drawn before; boxes and masks
tell what can be seen. There is no public data set behind it: offline and real are the same.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "test")
FILES = ()
HOW_TO_GET = "The scenes are drawn by the course; there is nothing to get."

CLASSES = ["circle", "square", "triangle"]
SIZE = 64  # pixels
COUNT = {"train": 1000, "test": 200}
SEEDS = {"train": 1, "test": 2}
RADIUS = (7.0, 15.0)  # pixels
VISIBLE = 0.7  # the part of every object that stays in sight, at least


class Scenes(Dataset):
    """Scenes; an item is `(PIL.Image of mode "RGB", target)`, after the transforms.

    The target is a dictionary:

    - `boxes`: float32 of shape (M, 4), the edges x1, y1, x2, y2 in pixels of what can be seen of
      each object: x1 is the left edge of its first column, x2 the right edge of its last;
    - `labels`: int64 of shape (M,), places in `classes`;
    - `mask`: uint8 of shape (64, 64), 0 for the background and label + 1 for an object.

    Attributes:
        data: the images, uint8 of shape (N, 64, 64, 3).
        masks: the masks, uint8 of shape (N, 64, 64).
        boxes, labels: lists of N tensors.
        classes: the name of each label.
    """

    def __init__(
        self,
        data: Tensor,
        masks: Tensor,
        boxes: list[Tensor],
        labels: list[Tensor],
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.data, self.masks, self.boxes, self.labels = data, masks, boxes, labels
        self.classes = list(CLASSES)
        self.class_to_idx = {name: index for index, name in enumerate(CLASSES)}
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.data[index].numpy())
        target: Any = {
            "boxes": self.boxes[index].clone(),
            "labels": self.labels[index].clone(),
            "mask": self.masks[index].clone(),
        }
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def offline(split: str, **transforms) -> Scenes:
    images, masks, boxes, labels = _drawings(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return Scenes(
        images.clone(),
        masks.clone(),
        [b.clone() for b in boxes],
        [label.clone() for label in labels],
        **transforms,
    )


def real(split: str, root: Path, download: bool, **transforms) -> Scenes:
    return offline(split, **transforms)


@functools.cache
def _drawings(split: str) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEEDS[split])
    images, masks, boxes, labels = zip(*(_scene(rng) for _ in range(COUNT[split])), strict=True)
    return (
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(masks)),
        [torch.tensor(b, dtype=torch.float32) for b in boxes],
        [torch.tensor(label, dtype=torch.int64) for label in labels],
    )


def _scene(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, list, list]:
    background = rng.uniform(40, 215, 3)
    picture = _texture(rng, background)
    owner = np.full((SIZE, SIZE), -1)  # the object that is seen at each pixel
    sizes: list[int] = []
    labels: list[int] = []
    for _ in range(rng.randint(1, 4)):
        for _attempt in range(10):
            label = rng.randint(len(CLASSES))
            depth = _shape(rng, label)  # pixels to the border, positive inside
            inside = depth > 0
            seen = np.bincount(owner[~inside & (owner >= 0)], minlength=len(sizes))
            if all(seen[i] >= VISIBLE * size for i, size in enumerate(sizes)):
                break
        else:
            continue  # no room
        owner[inside] = len(sizes)
        sizes.append(int(inside.sum()))
        labels.append(int(label))
        tint = _contrast(rng, background) * rng.uniform(0.92, 1.08, (SIZE, SIZE, 1))
        cover = np.clip(depth + 0.5, 0, 1)[..., None]  # soft edges
        picture = (1 - cover) * picture + cover * tint
    picture = picture + rng.normal(0, 4, picture.shape)
    mask = np.array([0, *(label + 1 for label in labels)], dtype=np.uint8)[owner + 1]
    boxes = [_box(owner == index) for index in range(len(labels))]
    return picture.clip(0, 255).astype(np.uint8), mask, boxes, labels


ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5  # the centres of the pixels


def _texture(rng: np.random.RandomState, colour: np.ndarray) -> np.ndarray:
    """Stripes of a random direction and width over a slow change of brightness."""
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(5, 20), rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * COLUMNS + np.sin(angle) * ROWS
    stripes = rng.uniform(5, 22) * np.sin(2 * np.pi * across / period + phase)
    slope = rng.uniform(-0.5, 0.5, 2)
    light = slope[0] * (COLUMNS - SIZE / 2) + slope[1] * (ROWS - SIZE / 2)
    return colour + (stripes + light)[..., None]


def _contrast(rng: np.random.RandomState, background: np.ndarray) -> np.ndarray:
    """A colour that stands out from the background."""
    while True:
        colour = rng.uniform(10, 245, 3)
        if np.abs(colour - background).max() > 90:
            return colour


def _shape(rng: np.random.RandomState, label: int) -> np.ndarray:
    """How far each pixel lies inside a shape of random size and place, in pixels."""
    radius = rng.uniform(*RADIUS)
    x, y = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    dx, dy = COLUMNS - x, ROWS - y
    if CLASSES[label] == "circle":
        return radius - np.hypot(dx, dy)
    if CLASSES[label] == "square":
        corners, start, reach = 4, np.pi / 4 + rng.uniform(-0.15, 0.15), radius * 0.8
    else:
        corners, start, reach = 3, rng.uniform(0, 2 * np.pi), radius * 0.5
    # Inside a regular polygon each side is at least as far away as the border: take the nearest.
    sides = start + np.pi / corners + 2 * np.pi * np.arange(corners) / corners
    return np.min([reach - dx * np.cos(a) - dy * np.sin(a) for a in sides], axis=0)


def _box(pixels: np.ndarray) -> list[float]:
    rows, columns = pixels.any(1).nonzero()[0], pixels.any(0).nonzero()[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
