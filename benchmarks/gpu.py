"""What changes on a GPU: notebooks, tests, grading, speed and training at the size that d2l uses.

    .venv/bin/python benchmarks/gpu.py                                everything, an hour or so
    .venv/bin/python benchmarks/gpu.py --parts tests speed            some of it
    .venv/bin/python benchmarks/gpu.py --parts notebooks --chapters bert gan
    .venv/bin/python benchmarks/gpu.py --device cpu --tiny --out try.json    does it run at all?

Each part is added to `benchmarks/results/gpu/<the GPU's name>.json` as soon as it is done, so the
parts and chapters can be run one after the other; `benchmarks/page.py` shows them in the book.

notebooks  each chapter with its solutions, on the CPU and on the device: seconds on the clock
tests      the hidden tests and public checks on both: references, alternatives and misconceptions
suite      all tests of the repository, with COURSE_DEVICE set to the device
grading    a class that `autograder demo` invents, graded on both: are the scores the same?
speed      mixed precision, torch.compile, the kernels of scaled_dot_product_attention
training   LeNet, ResNet-18, a small BERT, DCGAN, with d2l's settings

Needs the solutions, and the real data for training at full size (COURSE_DATA).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from autograder import results, sandbox
from autograder.chapters import Chapter, ChapterError, chapter_ids, find_root, load
from autograder.demo import write_class
from autograder.grade import grade
from autograder.release import cost_of, identified, solved
from course import data
from course.testing import Answer, Student

ROOT = find_root(Path(__file__).parent)


@dataclass(frozen=True)
class Setting:
    """Where, how large, and which chapters."""

    device: str
    tiny: bool
    chapters: tuple[str, ...]


def say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


# --- the course on the device ----------------------------------------------------------------


def notebooks(setting: Setting) -> dict[str, Any]:
    """Seconds of each chapter's cells; None where it fails."""
    found = {}
    for name in setting.chapters:
        chapter = load(name, ROOT)
        found[name] = {
            "cpu": clock(chapter, "cpu"),
            "device": clock(chapter, setting.device),
        }
        say(f"{name}: {found[name]}")
    return found


def clock(chapter: Chapter, device: str) -> float | None:
    os.environ["COURSE_DEVICE"] = device  # kernels inherit it
    try:
        notebook = solved(chapter, identified(chapter))
        cost = cost_of(notebook, f"{chapter.id} failed on {device}.")
    except ChapterError as error:
        say(str(error))
        return None
    finally:
        del os.environ["COURSE_DEVICE"]
    return sum(cost.cells.values())


def tests(setting: Setting) -> dict[str, Any]:
    """How many verdicts on references, alternatives and misconceptions are as they should be."""
    passed, wrong, differing = 0, [], []
    for name in setting.chapters:
        chapter = load(name, ROOT)
        asked = [(exercise, [], True) for exercise in chapter.exercises]
        asked += [(answer.exercise, [answer], True) for answer in chapter.alternatives]
        asked += [(answer.exercise, [answer], False) for answer in chapter.misconceptions]
        for exercise, given, should in asked:
            on = {d: passes(chapter, exercise, given, d) for d in {"cpu", setting.device}}
            what = f"{name}, {exercise}: {given[0].name if given else 'reference'}"
            passed += on[setting.device] == should
            wrong += [what] if on[setting.device] != should else []
            differing += [what] if len(set(on.values())) > 1 else []
        say(f"{name}: {passed} as they should be, {len(wrong)} not")
    return {
        "passed": passed, "failed": len(wrong), "wrong": wrong, "other_than_on_cpu": differing,
    }  # fmt: skip


def passes(chapter: Chapter, exercise: str, given: Sequence[Answer], device: str) -> bool:
    """Whether an answer passes the hidden tests, and a reference the public checks, too."""
    student = Student(chapter.namespace(list(given)))
    asked = chapter.tests if given else [*chapter.tests, *chapter.checks]
    return all(test.run(student, device).passed for test in asked if test.exercise == exercise)


def suite(setting: Setting) -> dict[str, Any]:
    """The repository's own tests, less those that look at the book."""
    chosen = ["tests/test_runtime.py"] if setting.tiny else ["tests", "--ignore=tests/test_book.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen],
        cwd=ROOT, env={**os.environ, "COURSE_DEVICE": setting.device},
        capture_output=True, text=True,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    say(last)
    return {
        word: int(found[1]) if (found := re.search(rf"(\d+) {word}", last)) else 0
        for word in ("passed", "failed", "error", "skipped")
    }


def grading(setting: Setting) -> dict[str, Any]:
    """A class graded on both: the scores, and the seconds from start to end."""
    isolated = not sandbox.missing(sandbox.available())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "class")
        count = write_class(home, ROOT, setting.chapters[:1], 4 if setting.tiny else 60)
        scores, seconds = {}, {}
        for place, device in (("cpu", "cpu"), ("device", setting.device)):
            start = time.perf_counter()
            rows = grade(
                [home / "submitted"], Path(folder, place), ROOT, device=device, sandbox=isolated
            )
            seconds[place] = time.perf_counter() - start
            scores[place] = {(row.student, row.chapter): row.score for row in rows}
    return {
        "submissions": count,
        "cpu_seconds": seconds["cpu"],
        "device_seconds": seconds["device"],
        "same_scores": scores["cpu"] == scores["device"],
        "isolated": isolated,
    }


# --- speed -----------------------------------------------------------------------------------


def milliseconds(task: Callable[[], Any], least: float) -> float:
    """The median of a call; waits for the GPU."""
    task()  # what is compiled or tried out once
    return (
        1000 * Timer("task()", globals={"task": task}).blocked_autorange(min_run_time=least).median
    )


def speed(setting: Setting) -> list[dict[str, Any]]:
    """Pairs of a way and what it is compared with."""
    least = 0.1 if setting.tiny else 2.0
    rows = []
    for what, fast, plain in (*precision(setting), *compiled(setting), *kernels(setting)):
        try:
            row = {"what": what, "ms": milliseconds(fast, least)}
        except RuntimeError as error:  # this device has no such kernel, or no compiler
            say(f"{what}: {str(error).splitlines()[0]}")
            continue
        rows.append({**row, "beside_ms": milliseconds(plain, least)})
        say("{what}: {ms:.2f} ms, beside it {beside_ms:.2f}".format(**rows[-1]))
    return rows


Comparison = tuple[str, Callable[[], Any], Callable[[], Any]]


def precision(setting: Setting) -> Iterable[Comparison]:
    """A training step of ResNet-18."""
    net = resnet18(num_classes=10).to(setting.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(4 if setting.tiny else 256, 3, 64, 64, device=setting.device)
    y = torch.randint(10, (len(x),), device=setting.device)

    def step(dtype: torch.dtype | None) -> None:
        optimizer.zero_grad()
        amp = torch.autocast(setting.device, dtype) if dtype else nullcontext()
        with amp:
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    name = f"training step of ResNet-18, {len(x)} pictures"
    yield f"{name}: bfloat16 beside float32", partial(step, torch.bfloat16), partial(step, None)


def compiled(setting: Setting) -> Iterable[Comparison]:
    """Element-wise functions one after the other, which a compiler joins."""
    x = torch.randn(2**16 if setting.tiny else 2**24, device=setting.device)

    def chain(x: torch.Tensor) -> torch.Tensor:
        return (x.sigmoid() * x + x.tanh()).relu().square() - 0.5 * x

    fast = torch.compile(chain)
    yield f"seven functions of {len(x):,} numbers: compiled", partial(fast, x), partial(chain, x)


def kernels(setting: Setting) -> Iterable[Comparison]:
    """Attention by each kernel, beside the one that writes all scores down."""
    length = 256 if setting.tiny else 4096
    q, k, v = torch.randn(3, 4, 8, length, 64, device=setting.device, dtype=torch.bfloat16)

    def attend(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    names = {
        SDPBackend.FLASH_ATTENTION: "flash",
        SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
        SDPBackend.CUDNN_ATTENTION: "cuDNN",
    }
    for backend, name in names.items():
        what = f"causal attention, length {length}: {name} beside plain"
        yield what, partial(attend, backend), partial(attend, SDPBackend.MATH)


# --- training --------------------------------------------------------------------------------


def training(setting: Setting) -> list[dict[str, Any]]:
    """Runs with d2l's settings, with a number for each epoch."""
    runs = []
    for run in (lenet, residual, bert, dcgan):
        torch.manual_seed(0)
        start = time.perf_counter()
        try:
            found = run(setting)
        except data.DataNotFound as error:
            say(f"{run.__name__}: {error}")
            continue
        runs.append({**found, "seconds": time.perf_counter() - start})
        say(f"{found['model']}: { {name: values[-1] for name, values in found['curves'].items()} }")
    return runs


def clothes(setting: Setting, split: str, size: int) -> TensorDataset:
    """FashionMNIST, enlarged to `size` pixels; in a tiny setting the drawn stand-in."""
    source = "offline" if setting.tiny else "real"
    images, labels = data.tensors(
        data.load("fashion-mnist", split, source=source), 256 if setting.tiny else None
    )
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear")
    return TensorDataset(images.to(setting.device), labels.to(setting.device))


def classify(
    setting: Setting, net: nn.Module, *, size: int, batch: int, epochs: int, lr: float
) -> dict[str, list[float]]:
    """Train with plain SGD; the mean loss and the accuracy on unseen pictures, by epoch."""
    train, test = (clothes(setting, split, size) for split in ("train", "test"))
    net.to(setting.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    curves: dict[str, list[float]] = {"training loss": [], "test accuracy": []}
    for _ in range(2 if setting.tiny else epochs):
        total = 0.0
        net.train()
        for x, y in DataLoader(train, batch, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        net.eval()
        with torch.no_grad():
            hits = sum((net(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, batch))
        curves["training loss"].append(total / len(train))
        curves["test accuracy"].append(hits / len(test))
    return curves


def lenet(setting: Setting) -> dict[str, Any]:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
    curves = classify(setting, net, size=28, batch=256, epochs=10, lr=0.9)
    return {"model": "LeNet", "data": "FashionMNIST", "curves": curves}


def residual(setting: Setting) -> dict[str, Any]:
    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    size = 32 if setting.tiny else 96
    curves = classify(setting, net, size=size, batch=256, epochs=10, lr=0.05)
    return {"model": "ResNet-18", "data": f"FashionMNIST at {size} pixels", "curves": curves}


def bert(setting: Setting) -> dict[str, Any]:
    """d2l's own model, data set and loss: two layers of 128 units."""
    from d2l import torch as d2l

    source = "offline" if setting.tiny else "real"
    articles = data.load("wikitext-2", source=source)
    sections = [articles[i] for i in range(len(articles))][: 40 if setting.tiny else None]
    words = d2l._WikiTextDataset([s for s in sections if len(s) > 1], 64)
    size = len(words.vocab)
    net = d2l.BERTModel(size, 128, 256, 2, 2, dropout=0.2).to(setting.device)
    batches = DataLoader(words, 32 if setting.tiny else 512, shuffle=True)
    net(*[part.to(setting.device) for part in next(iter(batches))[:4]])  # sizes of its lazy layers
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loss = nn.CrossEntropyLoss()
    curves: dict[str, list[float]] = {"masked words": [], "next sentence": []}
    for _ in range(2 if setting.tiny else 10):
        totals = [0.0, 0.0]
        for batch in batches:
            optimizer.zero_grad()
            parts = [part.to(setting.device) for part in batch]
            *each, both = d2l._get_batch_loss_bert(net, loss, size, *parts)
            both.backward()
            optimizer.step()
            totals = [total + one.item() for total, one in zip(totals, each)]
        for curve, total in zip(curves.values(), totals):
            curve.append(total / len(batches))
    return {"model": "Small BERT", "data": "WikiText-2", "curves": curves}


def dcgan(setting: Setting) -> dict[str, Any]:
    """d2l's networks and rates, on clothes instead of its drawings of Pokémon."""
    latent, width, batch = 100, 8 if setting.tiny else 64, 256
    real = clothes(setting, "train", 64)
    up = [latent, 8 * width, 4 * width, 2 * width, width]
    down = [1, width, 2 * width, 4 * width, 8 * width]
    generator, critic = nn.Sequential(), nn.Sequential()
    for level, (a, b) in enumerate(zip(up, up[1:])):
        first = level == 0
        generator.extend([
            nn.ConvTranspose2d(a, b, 4, 1 if first else 2, 0 if first else 1, bias=False),
            nn.BatchNorm2d(b), nn.ReLU(),
        ])  # fmt: skip
    generator.extend([nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh()])
    for a, b in zip(down, down[1:]):
        critic.extend([
            nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2),
        ])  # fmt: skip
    critic.append(nn.Conv2d(8 * width, 1, 4, bias=False))
    nets = [net.to(setting.device) for net in (generator, critic)]
    for parameter in (p for net in nets for p in net.parameters()):
        nn.init.normal_(parameter, 0, 0.02)
    step_g, step_d = (torch.optim.Adam(net.parameters(), 0.005, (0.5, 0.999)) for net in nets)
    judge = nn.BCEWithLogitsLoss()
    curves: dict[str, list[float]] = {"discriminator": [], "generator": []}
    for _ in range(1 if setting.tiny else 20):
        totals, count = [0.0, 0.0], 0
        for x, _ in DataLoader(real, batch, shuffle=True, drop_last=True):
            fake = generator(torch.randn(len(x), latent, 1, 1, device=setting.device))
            true, false = (critic(images) for images in (2 * x - 1, fake.detach()))
            loss_d = judge(true, torch.ones_like(true)) + judge(false, torch.zeros_like(false))
            step_d.zero_grad()
            (loss_d / 2).backward()
            step_d.step()
            score = critic(fake)
            loss_g = judge(score, torch.ones_like(score))
            step_g.zero_grad()
            loss_g.backward()
            step_g.step()
            totals = [totals[0] + loss_d.item() / 2, totals[1] + loss_g.item()]
            count += 1
        for curve, total in zip(curves.values(), totals):
            curve.append(total / count)
    return {"model": "DCGAN", "data": "FashionMNIST at 64 pixels", "curves": curves}


# --- all of it -------------------------------------------------------------------------------

PARTS = {part.__name__: part for part in (notebooks, tests, suite, grading, speed, training)}


def add(path: Path, setting: Setting, part: str, found: Any) -> None:
    """Store a part beside those that are there; chapters beside chapters."""
    before = results.stored(path) or {}
    if part == "notebooks":
        found = {**before.get(part, {}), **found}
    head = {"machine": results.machine(), "device": setting.device, "tiny": setting.tiny}
    results.store(path, {**before, **head, part: found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--chapters", nargs="+", choices=chapter_ids(ROOT), metavar="CHAPTER")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument("--out", type=Path, help="by default a file named after the GPU")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            "there is no CUDA GPU here; `--device cpu --tiny --out FILE` only tries it out"
        )
    if options.device == "cpu" and options.out is None:
        parser.error("a run on the CPU is no result for the book: say --out FILE")
    chapters = options.chapters or chapter_ids(ROOT)
    if options.tiny and not options.chapters:
        chapters = chapters[:1]
    setting = Setting(options.device, options.tiny, tuple(chapters))
    name = re.sub(r"[^a-z0-9]+", "-", results.machine()["GPU"].lower()).strip("-")
    path = options.out or results.folder(ROOT) / "gpu" / f"{name}.json"
    for part in options.parts:
        say(part)
        add(path, setting, part, PARTS[part](setting))
    print(path)


if __name__ == "__main__":
    main()
