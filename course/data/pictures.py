"""Two pictures for style transfer: one whose content is kept, one whose style is borrowed.

Real: the photographs of *Dive into Deep Learning*, Mount Rainier and an autumn oak. Offline: a
landscape and a picture of brush strokes, both drawn by the course.
"""

import functools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from torch.utils.data import Dataset

SPLITS = ("content", "style")
PATHS = {"content": "img/rainier.jpg", "style": "img/autumn-oak.jpg"}
FILES = tuple(PATHS.values())
HOW_TO_GET = (
    "copy rainier.jpg and autumn-oak.jpg from the folder img of the repository d2l-ai/d2l-en on "
    "GitHub into a folder img there, or put two pictures of your own under these names."
)
TITLES = {
    "content": {"real": "Mount Rainier", "offline": "mountains at a lake"},
    "style": {"real": "autumn oak", "offline": "brush strokes"},
}
SIZE = (384, 256)  # width and height of the drawings in pixels


class Pictures(Dataset):
    """Pictures; an item is `(PIL.Image of mode "RGB", its title)`, after the transforms."""

    def __init__(
        self,
        pictures: Sequence[Image.Image],
        titles: Sequence[str],
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self._pictures, self.titles = list(pictures), list(titles)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        picture: Any = self._pictures[index].copy()
        title: Any = self.titles[index]
        if self.transform is not None:
            picture = self.transform(picture)
        if self.target_transform is not None:
            title = self.target_transform(title)
        return picture, title


def real(split: str, root: Path, download: bool, **transforms) -> Pictures:
    with Image.open(Path(root) / PATHS[split]) as picture:
        return Pictures([picture.convert("RGB")], [TITLES[split]["real"]], **transforms)


def offline(split: str, **transforms) -> Pictures:
    draw = {"content": _landscape, "style": _strokes}[split]
    return Pictures([draw()], [TITLES[split]["offline"]], **transforms)


@functools.cache
def _landscape() -> Image.Image:
    """Mountains in three ranges, a sun, a lake with a reflection, and firs."""
    rng = random.Random(4)
    width, height = SIZE
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([92, 142, 205]) * (1 - rows) + np.array([250, 220, 190]) * rows
    picture = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((275, 38, 315, 78), fill=(255, 244, 205))
    shore = 186
    ranges = ((92, 44, (132, 146, 178)), (122, 30, (92, 108, 134)), (156, 14, (58, 84, 82)))
    for base, rough, colour in ranges:
        ridge = _ridge(rng, base, rough)
        draw.polygon([(0, shore), *enumerate(ridge), (width, shore)], fill=colour)
        if base == 92:  # snow
            snow = [(x, y) for x, y in enumerate(ridge)]
            low = [(x, max(y, min(y + 14, 84 + 5 * math.sin(x / 3)))) for x, y in snow]
            draw.polygon(snow + low[::-1], fill=(238, 240, 246))
    mirror = picture.crop((0, 2 * shore - height, width, shore)).transpose(
        Image.Transpose.FLIP_TOP_BOTTOM
    )
    water = Image.blend(mirror, Image.new("RGB", mirror.size, (48, 84, 122)), 0.45)
    picture.paste(water.filter(ImageFilter.GaussianBlur(1.2)), (0, shore))
    for x in list(range(6, 120, 15)) + list(range(300, 384, 17)):
        _fir(draw, rng, x + rng.uniform(-4, 4), height - rng.uniform(0, 14), rng.uniform(50, 88))
    return picture


def _ridge(rng: random.Random, base: float, rough: float) -> list[float]:
    """Heights for every column: midpoint displacement."""
    points = [base + rng.uniform(-rough, rough) for _ in range(4)]
    while len(points) < SIZE[0]:
        finer = []
        for a, b in zip(points, points[1:], strict=False):
            finer += [a, (a + b) / 2 + rng.uniform(-rough, rough) / 2]
        points, rough = [*finer, points[-1]], rough / 2
    return [points[round(x * (len(points) - 1) / (SIZE[0] - 1))] for x in range(SIZE[0])]


def _fir(draw: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float) -> None:
    green = tuple(round(v * rng.uniform(0.8, 1.2)) for v in (28, 62, 44))
    for step in range(5):
        top, wide = y - size + step * size * 0.17, size * (0.07 + 0.035 * step)
        draw.polygon([(x, top), (x - wide, top + size * 0.3), (x + wide, top + size * 0.3)], green)


@functools.cache
def _strokes() -> Image.Image:
    """Brush strokes along two whirls, dark blue below and ochre on top."""
    rng = random.Random(7)
    width, height = SIZE
    picture = Image.new("RGB", SIZE, (30, 42, 96))
    draw = ImageDraw.Draw(picture)
    blues = ((28, 44, 110), (46, 84, 160), (82, 132, 196), (20, 28, 70), (122, 170, 205))
    warm = ((236, 178, 44), (248, 214, 110), (214, 112, 32), (250, 236, 190))
    whirls = ((110, 96, 1), (280, 150, -1))
    for _ in range(4200):
        x, y = rng.uniform(-10, width + 10), rng.uniform(-10, height + 10)
        flow = [0.5, 0.15]
        nearest = math.inf
        for cx, cy, turn in whirls:
            dx, dy = x - cx, y - cy
            far = math.hypot(dx, dy) + 12
            nearest = min(nearest, far)
            flow[0] -= turn * dy / far * 70 / far
            flow[1] += turn * dx / far * 70 / far
        glow = math.exp(-(((nearest - 12) / 55) ** 2)) + 0.25 * math.sin(nearest / 7)
        colour = rng.choice(warm if rng.random() < glow else blues)
        tone = rng.uniform(0.85, 1.1)
        length = rng.uniform(5, 12) / math.hypot(*flow)
        end = (x + flow[0] * length, y + flow[1] * length)
        fill = tuple(min(255, round(v * tone)) for v in colour)
        draw.line([(x, y), end], fill=fill, width=rng.choice((2, 3, 3, 4)))
    return picture
