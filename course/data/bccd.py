"""BCCD: blood cells under a microscope, with boxes, in the layout of PASCAL VOC.

Real: photographs of 640 x 480 pixels with red cells (RBC), white cells (WBC) and platelets, read by
torchvision's VOCDetection. Offline: drawings of such pictures. An item is a picture and the tree of
its annotation file as a dictionary, in which every number is a text, as in the file.
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

SPLITS = ("train", "val", "test")
FOLDER = "BCCD/VOCdevkit/VOC2007"
FILES = tuple(f"{FOLDER}/ImageSets/Main/{split}.txt" for split in SPLITS)
HOW_TO_GET = (
    "Get github.com/Shenggan/BCCD_Dataset (MIT licence, 8 MB) and copy the folders Annotations, "
    f"ImageSets and JPEGImages from its BCCD folder into {FOLDER} in that folder."
)

CLASSES = ["RBC", "WBC", "Platelets"]
COUNT = {"train": 24, "val": 8, "test": 8}
SEEDS = {"train": 1, "val": 2, "test": 3}
WIDTH, HEIGHT = 640, 480  # pixels
SHRINK = 2  # drawn at half the size, and enlarged


def real(split: str, root: Path, download: bool, **transforms) -> Dataset:
    if download:
        raise RuntimeError("there is no automatic download")
    from torchvision.datasets import VOCDetection  # costs a second

    # torchvision knows a test list for the year 2007 only.
    dataset = VOCDetection(root / "BCCD", year="2007", image_set=split, **transforms)
    dataset.classes = list(CLASSES)
    return dataset


class BloodCells(Dataset):
    """Drawings with the items of VOCDetection.

    Attributes:
        data: the pictures, uint8 of shape (N, 480, 640, 3).
        classes: the names of the classes.
    """

    def __init__(
        self,
        data: Tensor,
        cells: list[list[tuple[str, list[int]]]],
        split: str,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.data, self._cells, self._split = data, cells, split
        self.classes = list(CLASSES)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.data[index].numpy())
        target: Any = _annotation(f"{self._split}_{index:05}.jpg", self._cells[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def _annotation(file: str, cells: list[tuple[str, list[int]]]) -> dict[str, Any]:
    size = {"width": str(WIDTH), "height": str(HEIGHT), "depth": "3"}
    objects = []
    for name, (x1, y1, x2, y2) in cells:
        cut = x1 <= 1 or y1 <= 1 or x2 >= WIDTH or y2 >= HEIGHT
        box = {"xmin": str(x1), "ymin": str(y1), "xmax": str(x2), "ymax": str(y2)}
        objects.append(
            {
                "name": name,
                "pose": "Unspecified",
                "truncated": str(int(cut)),
                "difficult": "0",
                "bndbox": box,
            }
        )
    return {
        "annotation": {
            "folder": "JPEGImages",
            "filename": file,
            "source": {"database": "drawn"},
            "size": size,
            "segmented": "0",
            "object": objects,
        }
    }


def offline(split: str, **transforms) -> BloodCells:
    images, cells = _drawings(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return BloodCells(images.clone(), [list(c) for c in cells], split, **transforms)


@functools.cache
def _drawings(split: str) -> tuple[Tensor, list[list[tuple[str, list[int]]]]]:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEEDS[split])
    images, cells = zip(*(_picture(rng) for _ in range(COUNT[split])), strict=True)
    return torch.from_numpy(np.stack(images)), list(cells)


# Name: smallest and largest radius in pixels, colour of the cell.
KINDS = {
    "RBC": (44, 58, (205, 140, 140)),
    "WBC": (75, 105, (190, 165, 205)),
    "Platelets": (15, 24, (150, 105, 170)),
}


def _picture(rng: np.random.RandomState) -> tuple[np.ndarray, list]:
    picture = np.empty((HEIGHT // SHRINK, WIDTH // SHRINK, 3))
    picture[:] = rng.uniform(0.95, 1.03) * np.array([216, 205, 198])
    names = ["WBC"] * rng.choice([0, 1, 1, 1, 2]) + ["RBC"] * rng.randint(8, 15)
    names += ["Platelets"] * rng.choice([0, 1, 2])
    placed: list[tuple[float, float, float]] = []
    cells = []
    for name in names:
        low, high, colour = KINDS[name]
        for _attempt in range(20):
            rx, ry = rng.uniform(low, high) * rng.uniform(0.9, 1.1, 2)
            x, y = rng.uniform(0.05, 0.95, 2) * (WIDTH, HEIGHT)
            gaps = [np.hypot(x - a, y - b) / (r + (rx + ry) / 2) for a, b, r in placed]
            if all(gap > 0.85 for gap in gaps):  # cells may touch and overlap a little
                break
        else:
            continue
        placed.append((x, y, (rx + ry) / 2))
        _paint(picture, rng, name, colour, x, y, rx, ry)
        corners = np.clip([x - rx, y - ry, x + rx, y + ry], 1, [WIDTH, HEIGHT] * 2)
        cells.append((name, [round(c) for c in corners]))
    picture += rng.normal(0, 3, picture.shape)
    small = picture.clip(0, 255).astype(np.uint8)
    return small.repeat(SHRINK, 0).repeat(SHRINK, 1), cells


def _paint(
    picture: np.ndarray,
    rng: np.random.RandomState,
    name: str,
    colour: tuple[int, int, int],
    x: float,
    y: float,
    rx: float,
    ry: float,
) -> None:
    """Draw one cell with its centre and radii in pixels of the finished picture."""
    left, right = (max(0, int((x + side * rx) / SHRINK + side)) for side in (-1, 1))
    top, bottom = (max(0, int((y + side * ry) / SHRINK + side)) for side in (-1, 1))
    part = picture[top:bottom, left:right]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5

    def depth(x: float, y: float, rx: float, ry: float) -> np.ndarray:
        """0 at the rim of an ellipse, 1 in the middle."""
        return 1 - np.hypot((columns * SHRINK - x) / rx, (rows * SHRINK - y) / ry)[..., None]

    def fill(depth: np.ndarray, sharpness: float, tone: np.ndarray) -> None:
        cover = np.clip(depth * sharpness, 0, 1)
        part[:] = (1 - cover) * part + cover * tone

    inner = depth(x, y, rx, ry)
    tone = np.array(colour) * rng.uniform(0.94, 1.04)
    fill(inner, 25, tone + 25 * inner.clip(0, 1) if name == "RBC" else tone)  # paler inside
    if name == "WBC":  # a dark nucleus of two or three lobes
        for _ in range(rng.randint(2, 4)):
            dx, dy = rng.uniform(-0.3, 0.3, 2)
            lobe = depth(x + dx * rx, y + dy * ry, 0.42 * rx, 0.42 * ry)
            fill(lobe, 12, np.array([105, 60, 140]))
