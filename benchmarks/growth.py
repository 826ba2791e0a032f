"""How attention grows with the length of the sequence: the variants of two chapters, and torch's.

    .venv/bin/python benchmarks/growth.py            lengths up to 4,096, about a minute
    .venv/bin/python benchmarks/growth.py --quick    up to 512

Needs the solutions.
"""

import argparse
import math
import os
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F

from autograder import results
from autograder.chapters import find_root, load

ROOT = find_root(Path(__file__).parent)
HEADS, WIDTH = 4, 32
NEIGHBOURS, MIXTURES = 16, 64
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
ROUNDS = 5

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def variants() -> dict[str, Callable[[int], Attention]]:
    """For each name what makes the attention for a length."""
    dense = load("attention", ROOT).namespace()["sdpa"]
    ns = load("efficient-attention", ROOT).namespace()

    def linformer(length: int) -> Attention:
        layer = ns["Linformer"](length, MIXTURES, WIDTH)
        return lambda q, k, v: layer(q)

    return {
        "all pairs, written down": lambda length: dense,
        "all pairs, torch": lambda length: F.scaled_dot_product_attention,
        f"window of {NEIGHBOURS}": lambda length: (
            lambda q, k, v: ns["local_attention"](q, k, v, NEIGHBOURS)
        ),
        f"Linformer, {MIXTURES} mixtures": linformer,
        "linear attention": lambda length: ns["linear_attention"],
    }


@torch.no_grad()
def seconds(attention: Attention, length: int) -> float:
    q, k, v = torch.randn(3, HEADS, length, WIDTH)
    timer = timeit.Timer(lambda: attention(q, k, v))
    rounds = [timer.autorange() for _ in range(ROUNDS)]
    return min(taken / calls for calls, taken in rounds)  # the one that was disturbed least


def exponent(lengths: Sequence[int], taken: Sequence[float]) -> float:
    """The power of the length by which the time grew from the third longest to the longest."""
    return math.log(taken[-1] / taken[-3]) / math.log(lengths[-1] / lengths[-3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter sequences")
    parser.add_argument("--out", type=Path, default=results.folder(ROOT) / "growth.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lengths = LENGTHS[:3] if options.quick else LENGTHS
    rows = []
    for name, make in variants().items():
        taken = [seconds(make(length), length) for length in lengths]
        rows.append(
            {
                "variant": name,
                "ms": [1000 * one for one in taken],
                "exponent": exponent(lengths, taken),
            }
        )
        print("{variant}: grows with the power {exponent:.2f}".format(**rows[-1]))
    shape = {"heads": HEADS, "width": WIDTH, "lengths": list(lengths)}
    results.store(options.out, {"machine": results.machine(), **shape, "variants": rows})


if __name__ == "__main__":
    main()
