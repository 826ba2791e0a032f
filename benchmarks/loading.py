"""How many pictures a second the ways of loading give.

    .venv/bin/python benchmarks/loading.py            about half a minute
    .venv/bin/python benchmarks/loading.py --quick    fewer pictures

The data set turns one of scikit-learn's digits into a tensor at a time, as most data sets do; the
batch is 64. Needs the solutions, for the loader of the chapter data-pipeline.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from autograder import results
from autograder.chapters import find_root, load
from course import data

ROOT = find_root(Path(__file__).parent)
BATCH, ROUNDS = 64, 5
PICTURES, QUICK_PICTURES = 1400, 256

TRANSFORM = v2.Compose(
    [v2.ToImage(), v2.Resize((32, 32)), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float, True)]
)


def ways(dataset: Dataset) -> dict[str, Callable[[], Iterable]]:
    ours = load("data-pipeline", ROOT).namespace()["MiniLoader"]
    images = torch.stack([image for image, _ in dataset])
    return {
        "one tensor, sliced": lambda: images.split(BATCH),
        "the chapter's loader": lambda: ours(dataset, BATCH),
        "DataLoader": lambda: DataLoader(dataset, BATCH),
        "DataLoader, 2 workers": lambda: DataLoader(dataset, BATCH, num_workers=2),
    }


def rate(make: Callable[[], Iterable], pictures: int, rounds: int) -> float:
    """Pictures a second of an epoch, the start of workers included."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        for batch in make():
            images = batch if isinstance(batch, torch.Tensor) else batch[0]
            images.sum()  # looks at every pixel
        taken.append(time.perf_counter() - start)
    return pictures / statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    parser.add_argument("--out", type=Path, default=results.folder(ROOT) / "loading.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pictures, rounds = (QUICK_PICTURES, 1) if options.quick else (PICTURES, ROUNDS)
    dataset = Subset(data.load("digits", transform=TRANSFORM), range(pictures))
    rows = []
    for name, make in ways(dataset).items():
        rows.append({"way": name, "pictures_a_second": rate(make, pictures, rounds)})
        print("{way}: {pictures_a_second:,.0f} pictures a second".format(**rows[-1]))
    result = {"machine": results.machine(), "batch": BATCH, "pictures": pictures, "ways": rows}
    results.store(options.out, result)


if __name__ == "__main__":
    main()
