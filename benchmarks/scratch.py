"""What a faster way is worth: code of the exercises against torch's, on the same input.

    .venv/bin/python benchmarks/scratch.py            about a minute
    .venv/bin/python benchmarks/scratch.py --quick    a few seconds, less precise

Both sides must give the same numbers. Each pair is measured in one run, one thread, so the ratio
says more than the times. Needs the solutions.
"""

import argparse
import os
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import ops

from autograder import results
from autograder.chapters import find_root, load

ROOT = find_root(Path(__file__).parent)
ROUNDS = 5  # of a fifth of a second or more, for each side of a pair


@dataclass
class Pair:
    """An exercise's code and torch's, which do the same."""

    chapter: str
    exercise: str
    name: str
    input: str
    ours: Callable[[], Any]
    torchs: Callable[[], Any]


def namespace(chapter: str) -> dict[str, Any]:
    return load(chapter, ROOT).namespace()


def by_loops(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """What nobody should write: one number at a time."""
    (height, width), (rows, columns) = image.shape, kernel.shape
    result = torch.zeros(height - rows + 1, width - columns + 1)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            for a in range(rows):
                for b in range(columns):
                    result[i, j] += image[i + a, j + b] * kernel[a, b]
    return result


def convolution() -> Iterator[Pair]:
    ns = namespace("convolution")
    image, kernel = torch.randn(16, 16), torch.randn(3, 3)
    yield Pair(
        "convolution", "corr", "four loops", "one image of 16 × 16",
        lambda: by_loops(image, kernel),
        lambda: F.conv2d(image[None, None], kernel[None, None])[0, 0],
    )  # fmt: skip
    photo, window = torch.randn(64, 64), torch.randn(5, 5)
    yield Pair(
        "convolution", "corr", "cross-correlation", "one image of 64 × 64",
        lambda: ns["corr2d"](photo, window),
        lambda: F.conv2d(photo[None, None], window[None, None])[0, 0],
    )  # fmt: skip
    x, w = torch.randn(8, 16, 32, 32), torch.randn(32, 16, 3, 3)
    yield Pair(
        "convolution", "im2col", "im2col, matrix product", "8 images, 16 channels",
        lambda: (w.flatten(1) @ ns["im2col"](x, 3, p=1)).view(8, 32, 32, 32),
        lambda: F.conv2d(x, w, padding=1),
    )  # fmt: skip
    yield Pair(
        "convolution", "pool", "max pooling", "8 images, 16 channels",
        lambda: ns["pool2d"](x, 2), lambda: F.max_pool2d(x, 2),
    )  # fmt: skip


def detection() -> Iterator[Pair]:
    ns = namespace("detection")
    corners = torch.rand(400, 2)
    boxes, scores = torch.cat([corners, corners + 0.2 * torch.rand(400, 2)], 1), torch.rand(400)
    yield Pair(
        "detection", "boxes", "IoU, broadcasting", "400 × 400 boxes",
        lambda: ns["box_iou"](boxes, boxes), lambda: ops.box_iou(boxes, boxes),
    )  # fmt: skip
    yield Pair(
        "detection", "nms", "NMS", "400 boxes",
        lambda: ns["nms"](boxes, scores, 0.3), lambda: ops.nms(boxes, scores, 0.3),
    )  # fmt: skip


def attention() -> Iterator[Pair]:
    ns = namespace("attention")
    q, k, v = torch.randn(3, 4, 8, 256, 32)
    yield Pair(
        "attention", "dot", "attention", "32 heads, length 256",
        lambda: ns["sdpa"](q, k, v), lambda: F.scaled_dot_product_attention(q, k, v),
    )  # fmt: skip


def normalization() -> Iterator[Pair]:
    ns = namespace("normalization")
    x = torch.randn(16, 32, 32, 32)
    ours, torchs = ns["MyBatchNorm"](32), nn.BatchNorm2d(32)
    yield Pair(
        "normalization", "bn", "batch norm", "16 images, 32 channels",
        lambda: ours(x).detach(), lambda: torchs(x).detach(),
    )  # fmt: skip


def optimizers() -> Iterator[Pair]:
    ns = namespace("optimizers")

    def stepping(optimizer: Any) -> Callable[[], torch.Tensor]:
        parameters = [nn.Parameter(torch.ones(64, 64)) for _ in range(50)]
        for parameter in parameters:
            parameter.grad = torch.ones(64, 64)
        chosen = optimizer(parameters)

        def step() -> torch.Tensor:
            chosen.step()
            return parameters[0].detach()

        return step

    yield Pair(
        "optimizers", "adam", "step of Adam", "50 matrices",
        stepping(ns["Adam"]), stepping(torch.optim.Adam),
    )  # fmt: skip


def recurrent() -> Iterator[Pair]:
    ns = namespace("sequence-rnn")
    x = torch.randn(64, 16, 32)
    ours, torchs = ns["RNN"](32, 64), nn.RNN(32, 64)
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(ours.W_xh.T)
        torchs.weight_hh_l0.copy_(ours.W_hh.T)
        torchs.bias_ih_l0.copy_(ours.b_h)
        torchs.bias_hh_l0.zero_()
    yield Pair(
        "sequence-rnn", "rnn", "RNN, step by step", "64 steps",
        lambda: ours(x)[0].detach(), lambda: torchs(x)[0].detach(),
    )  # fmt: skip
    ids, table = torch.randint(2000, (16, 64)), torch.randn(2000, 64)
    yield Pair(
        "sequence-rnn", "embedding", "one-hot embedding", "2,000 words",
        lambda: ns["embed"](ids, table), lambda: F.embedding(ids, table),
    )  # fmt: skip


def losses() -> Iterator[Pair]:
    ns = namespace("losses")
    log_probs, target = torch.randn(100, 20).log_softmax(1), torch.randint(1, 20, (30,))
    length = torch.tensor([100]), torch.tensor([30])
    yield Pair(
        "losses", "ctc", "CTC loss", "100 steps",
        lambda: ns["ctc_nll"](log_probs, target),
        lambda: F.ctc_loss(log_probs[:, None], target[None], *length, reduction="sum"),
    )  # fmt: skip


FAMILIES = (
    convolution, detection, attention, normalization, optimizers, recurrent, losses,
)  # fmt: skip


def seconds(task: Callable[[], Any]) -> float:
    """The mean of some calls."""
    calls, taken = timeit.Timer(task).autorange()
    return taken / calls


def measure(pair: Pair, rounds: int) -> dict[str, Any]:
    torch.testing.assert_close(pair.ours(), pair.torchs(), rtol=1e-3, atol=1e-4)
    # In turn, so that what else the machine does meanwhile falls on both.
    taken = [(seconds(pair.ours), seconds(pair.torchs)) for _ in range(rounds)]
    mine, library = map(min, zip(*taken))  # those that were disturbed least
    return {
        "chapter": pair.chapter, "exercise": pair.exercise, "name": pair.name, "input": pair.input,
        "ours_ms": 1000 * mine, "torch_ms": 1000 * library, "ratio": mine / library,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less precise")
    parser.add_argument("--out", type=Path, default=results.folder(ROOT) / "scratch.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for family in FAMILIES:
        for pair in family():
            rows.append(measure(pair, 1 if options.quick else ROUNDS))
            print("{name}, {input}: {ratio:.1f} times torch's {torch_ms:.2f} ms".format(**rows[-1]))
    results.store(options.out, {"machine": results.machine(), "pairs": rows})


if __name__ == "__main__":
    main()
