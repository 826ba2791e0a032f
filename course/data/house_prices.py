"""Houses: living area in square feet, number of rooms, and the price in 1,000 dollars.

Offline, the prices are made: 20 + 0.09 area + 9 rooms, and noise with a standard deviation of 22.
So the best model is known. The real table is Kaggle's house prices (Ames, Iowa), of which the same
two columns are read.
"""

import csv
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "test")
FILE = "kaggle_house_pred_train.csv"  # Kaggle's test.csv has no prices
FILES = (FILE,)
URL = f"http://d2l-data.s3-accelerate.amazonaws.com/{FILE}"  # of Dive into Deep Learning
SHA1 = "585e9cc93e70b39160e7921475f9bcd7d31219ce"
HOW_TO_GET = (
    'Call data.load("house-prices", source="real", download=True), or copy the file '
    f"{FILE} (460 kB) of Dive into Deep Learning into that folder."
)

COLUMNS = ("GrLivArea", "TotRmsAbvGrd")  # area and rooms above the ground
PRICE = "SalePrice"

COUNT = {"train": 200, "test": 50}
SEED = 0


class Houses(Dataset):
    """A table of houses; an item is (features, price), float64, after the transforms.

    Attributes:
        features: shape (m, 2): area in square feet, number of rooms.
        prices: shape (m,), in 1,000 dollars.
    """

    def __init__(
        self,
        features: Tensor,
        prices: Tensor,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.features, self.prices = features, prices
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.prices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = self.features[index], self.prices[index]
        if self.transform is not None:
            x = self.transform(x)
        if self.target_transform is not None:
            y = self.target_transform(y)
        return x, y


def offline(split: str, **transforms) -> Houses:
    table = _generated()
    first = 0 if split == "train" else COUNT["train"]
    table = table[first : first + COUNT[split]]
    # A copy, so that whoever changes the data set does not change everybody's.
    return Houses(*_columns(table), **transforms)


def real(split: str, root: Path, download: bool, **transforms) -> Houses:
    """Kaggle's houses; every fifth one is for testing."""
    path = root / FILE
    if download:
        from torchvision.datasets.utils import download_url  # costs a second

        download_url(URL, str(root), FILE)
        if hashlib.sha1(path.read_bytes()).hexdigest() != SHA1:
            path.unlink()
            raise RuntimeError("what came is another file: its checksum differs")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(row[name]) for name in (*COLUMNS, PRICE)] for row in csv.DictReader(file)]
    table = np.array(rows)
    table[:, -1] /= 1000
    in_test = np.arange(len(table)) % 5 == 4
    return Houses(*_columns(table[in_test == (split == "test")]), **transforms)


def _columns(table: np.ndarray) -> tuple[Tensor, Tensor]:
    table = torch.tensor(table, dtype=torch.float64)
    return table[:, :-1].contiguous(), table[:, -1].contiguous()


@functools.cache
def _generated() -> np.ndarray:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEED)
    size, more, noise = rng.randn(3, sum(COUNT.values()))
    area = np.clip(np.round(1500 + 450 * size), 500, 3500)
    rooms = np.clip(np.round(6.5 + 0.5 * size + 1.4 * more), 2, 12)
    price = np.round(20 + 0.09 * area + 9 * rooms + 22 * noise, 1)
    return np.stack([area, rooms, price], axis=1)
