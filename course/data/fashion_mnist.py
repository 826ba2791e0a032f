"""Fashion-MNIST: grey images of 28 x 28 pixels of ten kinds of clothing.

Real: Zalando's photographs, 60,000 to train and 10,000 to test. Offline: 2,000 and 500 drawings
of the same ten kinds, with random cuts, positions, greys and patterns.
"""

import functools
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from course.data._images import ImageDataset

SPLITS = ("train", "test")
FILES = tuple(
    f"FashionMNIST/raw/{part}-ubyte"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
HOW_TO_GET = (
    'data.load("fashion-mnist", source="real", download=True) fetches its four files (30 MB) and '
    "checks them; without a network, copy them, unpacked, into FashionMNIST/raw in that folder."
)

CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
SIZE = 28  # pixels
PER_CLASS = {"train": 200, "test": 50}
SEEDS = {"train": 1, "test": 2}


def real(split: str, root: Path, download: bool, **transforms) -> Dataset:
    from torchvision.datasets import FashionMNIST  # costs a second

    return FashionMNIST(root, train=split == "train", download=download, **transforms)


def offline(split: str, **transforms) -> ImageDataset:
    images, labels = _drawings(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return ImageDataset(images.clone(), labels.clone(), CLASSES, **transforms)


@functools.cache
def _drawings(split: str) -> tuple[Tensor, Tensor]:
    # Unlike torch's, the streams of these two generators stay the same from version to version.
    rng, noise = random.Random(SEEDS[split]), np.random.RandomState(SEEDS[split])
    labels = list(range(len(CLASSES))) * PER_CLASS[split]
    rng.shuffle(labels)
    images = np.stack([_drawing(label, rng) for label in labels])
    images = _weave(images, rng, noise)
    return torch.from_numpy(images), torch.tensor(labels)


def _drawing(label: int, rng: random.Random) -> np.ndarray:
    pen = Pen(rng)
    GARMENTS[label](pen, rng)
    return pen.pixels()


def _weave(images: np.ndarray, rng: random.Random, noise: np.random.RandomState) -> np.ndarray:
    """Give each garment a pattern (plain, stripes, checks or a print) and a grain."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    factors = np.empty(images.shape)
    for factor in factors:
        period, phase = rng.choice((2, 3, 4, 6)), rng.randrange(6)
        across = ((rows + phase) // period) % 2
        along = ((columns + phase) // period) % 2
        blots = noise.randint(0, 2, (14, 14)).repeat(2, 0).repeat(2, 1)
        pattern = rng.choice((0, 0, 0, 0, 0, across, along, (across + along) / 2, blots))
        light = rng.uniform(-0.3, 0.3) * (columns / SIZE - 0.5)  # from one side
        factor[...] = 1 + light - rng.uniform(0.15, 0.6) * pattern
    grain = noise.uniform(0.9, 1.08, images.shape)
    return (images * factors * grain).clip(0, 255).astype(np.uint8)


Point = tuple[float, float]


class Pen:
    """Draws in a square from -1 to 1 (x to the right, y down), set askew at random.

    A tone is a brightness relative to the garment's own grey; 0 is the black background.
    """

    SCALE = 4  # drawn larger and averaged, for soft edges

    def __init__(self, rng: random.Random) -> None:
        side = SIZE * self.SCALE
        self._image = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self._image)
        self._grey = rng.uniform(80, 240)
        angle = rng.uniform(-0.2, 0.2)  # radians
        width, height = (rng.uniform(0.74, 1.0) * side / 2 for _ in range(2))
        self._x_axis = (width * math.cos(angle), width * math.sin(angle))
        self._y_axis = (-height * math.sin(angle), height * math.cos(angle))
        self._origin = [side / 2 + rng.uniform(-2.5, 2.5) * self.SCALE for _ in range(2)]

    def polygon(self, points: list[Point], tone: float = 1) -> None:
        self._draw.polygon(self._place(points), fill=self._fill(tone))

    def line(self, points: list[Point], width: float, tone: float = 1) -> None:
        """Width is in pixels of the finished image."""
        pixels = round(width * self.SCALE)
        self._draw.line(self._place(points), fill=self._fill(tone), width=pixels, joint="curve")

    def symmetric(self, right: list[Point], tone: float = 1) -> None:
        """A polygon from its right half, given from top to bottom."""
        self.polygon(right + _mirror(right)[::-1], tone)

    def pair(self, right: list[Point], tone: float = 1) -> None:
        """A polygon and its mirror image."""
        self.polygon(right, tone)
        self.polygon(_mirror(right), tone)

    def ellipse(self, x: float, y: float, width: float, height: float, tone: float = 1) -> None:
        self.polygon(_arc(x, y, width, height, 0, 2), tone)

    def pixels(self) -> np.ndarray:
        return np.asarray(self._image.reduce(self.SCALE))

    def _fill(self, tone: float) -> int:
        return min(255, round(self._grey * tone))

    def _place(self, points: list[Point]) -> list[tuple[int, int]]:
        (ax, ay), (bx, by), (ox, oy) = self._x_axis, self._y_axis, self._origin
        return [(round(ox + ax * x + bx * y), round(oy + ay * x + by * y)) for x, y in points]


def _mirror(points: list[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def _arc(x: float, y: float, width: float, height: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse with these half axes; the angles, in units of pi, run clockwise."""
    steps = 12
    angles = (math.pi * (start + (end - start) * step / steps) for step in range(steps + 1))
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


def _upper_body(
    pen: Pen, rng: random.Random, *, sleeve: float, hem: float, width: float, flare: float = 1.0
) -> float:
    """A garment for the upper body, with sleeves from 0 (none) to 1 (to the wrist).

    Returns:
        Half the width of its neck.
    """
    neck = rng.uniform(0.16, 0.28)
    shoulder = width * rng.uniform(0.95, 1.1)
    if sleeve:
        reach = shoulder + rng.uniform(0.22, 0.36) * (0.75 + 0.25 * sleeve)
        wrist = -0.55 + 1.3 * sleeve
        cuff = rng.uniform(0.2, 0.3)
        arm = [(shoulder * 0.8, -0.84), (shoulder + 0.07, -0.74), (reach, wrist - 0.06)]
        pen.pair([*arm, (reach - cuff, wrist), (width * 0.85, -0.25)], rng.uniform(0.78, 1.0))
    waist = width * rng.uniform(0.86, 1.0)
    sides = [(width * 0.95, -0.35), (waist, 0.15), (width * flare, hem)]
    pen.symmetric([(neck, -0.9), (shoulder, -0.8), *sides])
    return neck


def _tshirt(pen: Pen, rng: random.Random) -> None:
    sleeve = rng.choice((0, 0.2, 0.25, 0.3, 0.35, 0.5))
    width = rng.uniform(0.44, 0.56)
    neck = _upper_body(pen, rng, sleeve=sleeve, hem=rng.uniform(0.75, 0.95), width=width)
    pen.ellipse(0, -0.9, neck, rng.uniform(0.1, 0.35), tone=0)
    if rng.random() < 0.35:  # a print on the chest
        pen.ellipse(0, rng.uniform(-0.3, 0), rng.uniform(0.1, 0.3), 0.14, rng.choice((0.4, 1.4)))


def _pullover(pen: Pen, rng: random.Random) -> None:
    hem = rng.uniform(0.7, 0.92)
    width = rng.uniform(0.46, 0.58)
    neck = _upper_body(pen, rng, sleeve=rng.uniform(0.85, 1.08), hem=hem, width=width)
    pen.ellipse(0, -0.9, neck, 0.16, tone=0.55)
    pen.line([(-width * 0.95, hem - 0.12), (width * 0.95, hem - 0.12)], 0.8, rng.uniform(0.5, 0.8))
    if rng.random() < 0.3:  # a band across the chest
        pen.line([(-width * 0.9, -0.15), (width * 0.9, -0.15)], 3, rng.choice((0.5, 1.3)))


def _shirt(pen: Pen, rng: random.Random) -> None:
    sleeve = rng.choice((0.3, 0.4, 0.9, 0.95, 1.0))
    hem = rng.uniform(0.75, 0.95)
    width = rng.uniform(0.44, 0.56)
    neck = _upper_body(pen, rng, sleeve=sleeve, hem=hem, width=width)
    pen.polygon([(-neck * 0.6, -0.92), (neck * 0.6, -0.92), (0, -0.62)], tone=0.2)
    pen.pair([(neck, -0.95), (0.02, -0.68), (neck * 1.1, -0.62)], tone=1.25)  # the collar
    placket = rng.uniform(0.55, 0.8)
    pen.line([(0, -0.65), (0, hem)], 0.6, placket)
    for step in range(5):
        pen.ellipse(0, -0.5 + step * 0.3, 0.035, 0.035, tone=placket * 0.5)


def _coat(pen: Pen, rng: random.Random) -> None:
    hem = rng.uniform(0.85, 1.0)
    width = rng.uniform(0.48, 0.6)
    sleeve = rng.uniform(0.9, 1.1)
    neck = _upper_body(pen, rng, sleeve=sleeve, hem=hem, width=width, flare=rng.uniform(1, 1.2))
    depth = rng.uniform(-0.5, -0.1)  # where the lapels meet
    pen.polygon([(-neck, -0.92), (neck, -0.92), (0, depth)], tone=0.35)
    pen.pair([(neck, -0.95), (neck + 0.12, -0.7), (0.03, depth + 0.08)], tone=0.8)
    pen.line([(0, depth), (0, hem)], rng.uniform(0.9, 1.4), tone=0.3)
    pen.pair([(0.16, 0.3), (0.36, 0.26), (0.37, 0.34), (0.17, 0.38)], tone=0.6)  # pockets
    if rng.random() < 0.3:  # a hood
        pen.ellipse(0, -0.88, neck + 0.08, 0.14, tone=0.7)


def _dress(pen: Pen, rng: random.Random) -> None:
    neck, shoulder = rng.uniform(0.12, 0.22), rng.uniform(0.26, 0.36)
    waist, skirt = rng.uniform(0.18, 0.3), rng.uniform(0.28, 0.62)
    hem = rng.uniform(0.85, 1.0)
    sleeve = rng.choice((0, 0, 0.3, 0.6, 1.2))
    if sleeve:
        reach = shoulder + 0.1 + 0.1 * sleeve
        arm = [(shoulder * 0.7, -0.93), (shoulder + 0.05, -0.85), (reach, -0.8 + sleeve)]
        pen.pair([*arm, (reach - 0.13, -0.78 + sleeve), (shoulder * 0.8, -0.5)], tone=0.85)
    belt = rng.uniform(-0.25, 0)
    flare = [(waist, belt), ((waist + skirt) * 0.55, belt + 0.3), (skirt, hem)]
    pen.symmetric([(neck, -0.95), (shoulder, -0.9), (shoulder * 0.85, -0.55), *flare])
    pen.ellipse(0, -0.95, neck, rng.uniform(0.1, 0.3), tone=0)
    if rng.random() < 0.5:
        pen.line([(-waist, belt), (waist, belt)], 1, tone=rng.choice((0.5, 1.3)))


def _trouser(pen: Pen, rng: random.Random) -> None:
    waist, hip = rng.uniform(0.24, 0.34), rng.uniform(0.32, 0.42)
    cuff, spread = rng.uniform(0.12, 0.22), rng.uniform(0.08, 0.22)
    hem = rng.choice((0.3, 0.9, 0.95, 0.95, 1.0))  # now and then shorts
    leg = [(0, -0.92), (waist, -0.92), (hip, -0.45), (spread + cuff, hem), (spread, hem)]
    pen.pair([*leg, (0.02, -0.3)])
    pen.line([(-waist, -0.87), (waist, -0.87)], 1, tone=0.7)
    pen.line([(0, -0.9), (0, -0.35)], 0.6, tone=0.6)


def _sneaker(pen: Pen, rng: random.Random) -> None:
    """Like all the shoes, it points to the left."""
    top, toe = rng.uniform(-0.35, -0.1), rng.uniform(0.08, 0.22)
    tongue = rng.uniform(0, 0.25)
    upper = [
        (-0.93, 0.4),
        (-0.9, toe),
        (-0.55, toe - 0.08),
        (tongue, top),
        (tongue + 0.2, top + 0.1),
    ]
    pen.polygon([*upper, (0.75, top + 0.02), (0.9, top - 0.05), (0.95, 0.4)])
    pen.polygon([(-0.96, 0.36), (0.97, 0.36), (0.95, 0.55), (-0.9, 0.55)], rng.uniform(0.6, 1.6))
    for step in range(3):  # laces
        x, y = tongue - 0.12 - 0.16 * step, top + 0.1 + 0.07 * step
        pen.line([(x, y), (x + 0.14, y + 0.14)], 0.7, tone=rng.choice((0.5, 1.5)))
    if rng.random() < 0.5:  # a stripe on the side
        pen.line([(0.1, 0.3), (0.45, top + 0.2)], 1.2, tone=rng.choice((0.4, 1.5)))


def _sandal(pen: Pen, rng: random.Random) -> None:
    heel = rng.choice((0, 0, 0.25, 0.55))  # height
    back = 0.45 - heel
    sole = [(-0.95, 0.45), (-0.35, 0.42), (0.45, back), (0.92, back - 0.05)]
    thickness = rng.uniform(0.08, 0.2)
    pen.polygon(sole + [(x, y + thickness) for x, y in reversed(sole)])
    if heel:
        pen.polygon([(0.7, back), (0.92, back), (0.9, 0.62), (rng.uniform(0.6, 0.85), 0.62)], 0.9)
    width = rng.uniform(1, 2.2)
    for _ in range(rng.choice((1, 2, 2))):  # straps over the toes
        x = rng.uniform(-0.8, -0.4)
        peak = rng.uniform(-0.1, 0.15)
        pen.line([(x, 0.44), (x + 0.2, peak), (x + 0.5, 0.4)], width, rng.uniform(0.7, 1.1))
    if rng.random() < 0.75:  # a strap round the ankle
        ankle = back - rng.uniform(0.35, 0.6)
        loop = [(0.85, back), (0.85, ankle), (0.4, ankle + 0.06), (0.5, ankle + 0.2)]
        pen.line([*loop, (0.86, ankle + 0.15)], width * 0.8)
        if rng.random() < 0.6:
            pen.line([(0.42, ankle + 0.1), (-0.2, 0.4)], width * 0.8, tone=0.9)


def _ankle_boot(pen: Pen, rng: random.Random) -> None:
    top, toe = rng.uniform(-0.95, -0.45), rng.uniform(0.1, 0.3)
    front = rng.uniform(-0.05, 0.2)  # of the shaft
    heel = rng.uniform(0.12, 0.4)  # height
    ground, sole = 0.85, 0.85 - heel
    upper = [
        (-0.92, 0.75),
        (-0.88, toe + 0.2),
        (-0.5, toe),
        (front, toe - 0.25),
        (front + 0.02, top),
    ]
    pen.polygon([*upper, (0.85, top), (0.88, sole), (0.35, sole), (-0.1, 0.75)])
    pen.polygon(
        [
            (-0.93, 0.72),
            (-0.1, 0.72),
            (0.35, sole - 0.03),
            (0.3, sole + 0.1),
            (-0.1, ground),
            (-0.9, ground),
        ],
        tone=0.6,
    )
    pen.polygon([(0.4, sole), (0.9, sole), (0.88, ground), (rng.uniform(0.42, 0.7), ground)], 0.6)
    detail = rng.choice(("zip", "laces", "none"))
    if detail == "zip":
        pen.line([(0.55, top), (0.5, sole - 0.1)], 0.7, tone=0.5)
    elif detail == "laces":
        for step in range(4):
            y = top + 0.12 + step * (toe - top) / 5
            pen.line([(front, y), (front + 0.25, y + 0.06)], 0.7, tone=rng.choice((0.5, 1.5)))


def _bag(pen: Pen, rng: random.Random) -> None:
    top, bottom = rng.uniform(-0.35, 0.1), rng.uniform(0.65, 0.9)
    upper, lower = rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.92)
    handle = min(0.95 + top, rng.uniform(0.3, 0.8))  # height
    grip = rng.uniform(0.3, 0.95) * upper
    strap = _arc(0, top + 0.05, grip, handle, 1, 2)
    pen.line(strap, rng.uniform(0.9, 2), rng.uniform(0.7, 1.1))
    rounded = [
        (upper * 0.9, top),
        (upper, top + 0.12),
        (lower, bottom - 0.12),
        (lower * 0.9, bottom),
    ]
    pen.symmetric(rounded)
    closing = rng.choice(("flap", "zip", "none"))
    if closing == "flap":
        low = rng.uniform(0.4, 0.7) * (bottom - top) + top
        pen.symmetric([(upper, top + 0.08), (upper * 0.98, (top + low) / 2), (0, low)], tone=0.75)
        pen.ellipse(0, low, 0.07, 0.07, tone=1.6)
    elif closing == "zip":
        pen.line([(-upper * 0.9, top + 0.2), (upper * 0.9, top + 0.2)], 0.8, tone=0.4)


GARMENTS: list[Callable[[Pen, random.Random], None]] = [
    _tshirt,
    _trouser,
    _pullover,
    _dress,
    _coat,
    _sandal,
    _shirt,
    _sneaker,
    _bag,
    _ankle_boot,
]
