"""Writes the page “What was measured” of the book from the result files; measures nothing itself.

.venv/bin/python benchmarks/page.py            writes book/measured.md
.venv/bin/python benchmarks/page.py --check    only tells whether it would change
"""

import argparse
import html
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from grading import steady

from autograder import budget, results
from autograder.chapters import find_root, syllabus

ROOT = find_root(Path(__file__).parent)
PAGE = ROOT / "book" / "measured.md"
SHOWN_CELLS = 8
BLUE, ORANGE, GREEN, PURPLE, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"

OPENING = """\
<!-- Written by benchmarks/page.py from benchmarks/results/ and the chapters' pages. -->

# What was measured

Every number on this page was measured by a script of this project and read from the file that it
wrote; none was typed in, but for those quoted from other books. Times depend on the machine, and on
what else it does, so look at how they compare.
"""


class PageError(Exception):
    """A number of the page cannot be found; the message says where."""


# --- words ------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], right: int) -> Iterator[str]:
    """A table of Markdown whose columns from number `right` on are numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join("---:" if n >= right else "---" for n in range(len(head))) + "|"
    for row in rows:
        yield "| " + " | ".join(str(value) for value in row) + " |"
    yield ""


def machine(result: Mapping[str, Any]) -> str:
    """`2 cores, torch 2.14.1, Python 3.11.7`."""
    of = result["machine"]
    release = of["torch"].partition("+")[0]
    gpu = "" if of["GPU"] == "none" else f", {of['GPU']}"
    return f"{of['cores']} cores{gpu}, torch {release}, Python {of['python']}"


def number(value: float) -> str:
    """Two digits that mean something, and no powers of ten."""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


# --- pictures --------------------------------------------------------------------------------

# Inline SVG takes the colour of the text, so it reads in light and in dark mode. Its letters shrink
# with it, so it is drawn as wide as a phone.
WIDTH, LINE, LETTER = 360, 20, 6.4


def picture(height: float, parts: Sequence[str], alt: str, caption: str) -> Iterator[str]:
    yield (
        f'<figure class="measured"><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{html.escape(alt)}">{"".join(parts)}</svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
    yield ""


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def bars(
    values: Mapping[str, float], alt: str, caption: str, *, log: bool = False, unit: str = ""
) -> Iterator[str]:
    """A bar for each value, with its number; on a logarithmic scale it starts at one."""
    label = LETTER * max(map(len, values)) + 10
    room = WIDTH - label - 56  # for the number behind the bar
    size = {n: math.log10(max(v, 1)) if log else v for n, v in values.items()}
    longest = max(size.values()) or 1
    parts = []
    for row, (name, value) in enumerate(values.items()):
        y, length = LINE * row, max(room * size[name] / longest, 1)
        parts += [
            text(label - 6, y + 14, name, "end"),
            f'<rect x="{label:.0f}" y="{y + 3}" width="{length:.1f}" height="14" fill="{BLUE}"/>',
            text(label + length + 5, y + 14, f"{number(value)}{unit}"),
        ]
    yield from picture(LINE * len(values), parts, alt, caption)


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    alt: str,
    caption: str,
    *,
    axes: tuple[str, str],
    log: bool = False,
) -> Iterator[str]:
    """Lines over x, with a legend; both axes are logarithmic or neither is."""
    scale = math.log10 if log else float
    points = {n: [(scale(a), scale(b)) for a, b in zip(x, ys)] for n, ys in lines.items()}
    every = [point for line in points.values() for point in line]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*every))
    top, bottom, start, end = 24, 220, 46, WIDTH - 12

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            start + (end - start) * (point[0] - left) / ((right - left) or 1),
            bottom - (bottom - top) * (point[1] - low) / ((high - low) or 1),
        )

    def value(position: float) -> str:
        return number(10**position if log else position)

    parts = [
        f'<path d="M{start} {top}V{bottom}H{end}" fill="none" stroke="currentColor"/>',
        text(start - 4, top + 4, value(high), "end"), text(start - 4, bottom, value(low), "end"),
        text(start, bottom + 16, value(left)), text(end, bottom + 16, value(right), "end"),
        text((start + end) / 2, bottom + 16, axes[0], "middle"), text(0, 12, axes[1]),
    ]  # fmt: skip
    colours = (BLUE, ORANGE, GREEN, PURPLE, AMBER)
    for row, (name, line) in enumerate(points.items()):
        colour, y = colours[row % len(colours)], bottom + 30 + LINE * row
        path = "L".join("{:.1f} {:.1f}".format(*place(point)) for point in line)
        drawn = f'fill="none" stroke="{colour}" stroke-width="2.5"'
        parts += [
            f'<path d="M{path}" {drawn}/>',
            f'<path d="M{start} {y}h24" {drawn}/>',
            text(start + 32, y + 5, name),
        ]
    yield from picture(bottom + 30 + LINE * len(points), parts, alt, caption)


# --- sections --------------------------------------------------------------------------------


def costs(entries: Mapping[str, Any], mutants: Mapping[str, Any]) -> Iterator[str]:
    """What the chapters cost, and what is in them."""
    if not entries:
        return
    seconds = {name: entry["solved"]["cpu_seconds"] for name, entry in entries.items()}
    total = sum(seconds.values())
    yield "## What a chapter costs"
    yield ""
    yield (
        f"A chapter may take {budget.CPU_SECONDS:.0f} seconds of one core and "
        f"{budget.PEAK_BYTES / 2**30:.0f} GiB of memory, and its page may weigh "
        f"{budget.PAGE_BYTES / 1e6:g} MB; `make budget` fails where one does not keep to that. "
        f"The {len(entries)} chapters that were measured take {total / 60:.1f} minutes together "
        f"of one core ({machine(next(iter(entries.values())))})."
    )
    median = budget.median_check(entries.values())
    if median is not None:
        count = sum(len(entry["check_seconds"]) for entry in entries.values())
        yield (
            f"Half of the {count} exercises' checks answer within {1000 * median:.0f} ms; "
            f"{1000 * budget.CHECK_SECONDS:.0f} ms are the goal."
        )
    yield ""
    longest, quickest = max(seconds, key=seconds.__getitem__), min(seconds, key=seconds.__getitem__)
    alt = (
        f"A bar for each of {len(seconds)} chapters. The longest is {longest} with "
        f"{seconds[longest]:.0f} seconds, the shortest {quickest} with {seconds[quickest]:.0f}."
    )
    yield from bars(seconds, alt, "Seconds of one core, with all solutions in place.", unit=" s")
    yield from table(
        ["Chapter", "solved (s)", "blank (s)", "memory (GiB)"],
        [
            (
                link(name),
                f"{entry['solved']['cpu_seconds']:.0f}",
                f"{entry['blank']['cpu_seconds']:.0f}",
                f"{max(entry[k]['peak_bytes'] for k in ('solved', 'blank')) / 2**30:.2f}",
            )
            for name, entry in entries.items()
        ],
        1,
    )
    slow = sorted(
        ((cell["seconds"], name, cell["section"]) for name, entry in entries.items()
         for cell in entry["solved"]["slowest"]), reverse=True,
    )[:SHOWN_CELLS]  # fmt: skip
    yield "The cells that you wait for longest:"
    yield ""
    yield from table(
        ["Chapter", "section", "clock (s)"],
        [(link(name), section or "the beginning", f"{s:.1f}") for s, name, section in slow],
        2,
    )
    yield "## What is in a chapter"
    yield ""
    yield from table(
        ["Chapter", "words", "figures", "page (MB)"],
        [
            (
                link(name),
                f"{entry['words']:,}",
                entry["figures"],
                "–" if entry["page_bytes"] is None else f"{entry['page_bytes'] / 1e6:.2f}",
            )
            for name, entry in entries.items()
        ],
        1,
    )
    yield (
        "*Slips seen* is the share of small changes of the solutions (`<` to `<=`, a sign, an "
        "axis) that the hidden tests notice. Below 95 % in any exercise, the tests have to be "
        "better."
    )
    yield ""
    yield from table(
        ["Chapter", "exercises", "check (ms)", "slips seen"],
        [
            (
                link(name),
                entry["exercises"],
                f"{1000 * budget.median_check([entry]):.0f}",
                seen(mutants.get(name)),
            )
            for name, entry in entries.items()
        ],
        1,
    )


def seen(counted: Mapping[str, Any] | None) -> str:
    if counted is None:
        return "–"
    every = counted["exercises"].values()
    killed, made = (sum(one[key] for one in every) for key in ("killed", "mutants"))
    return f"{killed / made:.1%}"


def scratch(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## What a faster way is worth"
    yield ""
    yield (
        "What you write in the exercises against torch's own, on the same input and with the same "
        f"result, one thread ({machine(result)}). Some of it is as fast; where torch is a hundred "
        "times faster, you know why a library is written in C++."
    )
    yield ""
    pairs = sorted(result["pairs"], key=lambda pair: pair["ratio"])
    alt = "A bar for each exercise, on a logarithmic scale, from the fastest to the slowest way."
    ratios = {pair["name"]: pair["ratio"] for pair in pairs}
    yield from bars(ratios, alt, "How many times longer your way takes.", log=True, unit=" ×")
    yield from table(
        ["Exercise", "input", "yours (ms)", "torch (ms)"],
        [
            (
                f"{{doc}}`{pair['name']} <chapters/{pair['chapter']}>`",
                pair["input"],
                number(pair["ours_ms"]),
                number(pair["torch_ms"]),
            )
            for pair in pairs
        ],
        2,
    )


def growth(result: Mapping[str, Any]) -> Iterator[str]:
    lengths = result["lengths"]
    yield "## How attention grows"
    yield ""
    yield (
        f"{result['heads']} heads of {result['width']} features, sequences of {lengths[0]} to "
        f"{lengths[-1]:,} positions ({machine(result)}). A power of 2 says that twice the length "
        "takes four times as long, a power of 1 that it takes twice as long: the variants of "
        "{doc}`chapters/efficient-attention`."
    )
    yield ""
    lines = {row["variant"]: row["ms"] for row in result["variants"]}
    alt = (
        "Lines of time against length, both logarithmic. The two that compare all pairs rise "
        "twice as steeply as the others."
    )
    yield from curves(
        lengths, lines, alt, "Milliseconds against the length of the sequence.",
        axes=("positions", "ms"), log=True,
    )  # fmt: skip
    yield from table(
        ["Attention", f"at {lengths[-1]:,} (ms)", "power"],
        [
            (row["variant"], number(row["ms"][-1]), f"{row['exponent']:.1f}")
            for row in result["variants"]
        ],
        1,
    )


def loading(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## Loading data"
    yield ""
    yield (
        f"{result['pictures']:,} digits, read, resized and flipped one at a time, in batches of "
        f"{result['batch']} ({machine(result)}). Workers have to be started, and small pictures do "
        "not repay that; a data set that fits into one tensor needs none of it."
    )
    yield ""
    yield from table(
        ["Way", "pictures a second"],
        [(row["way"], f"{row['pictures_a_second']:,.0f}") for row in result["ways"]],
        1,
    )


def building(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## Building this book"
    yield ""
    yield f"From the chapters' stored outputs, in one process ({machine(result)})."
    yield ""
    yield from table(
        ["What", "clock (s)", "CPU (s)", "may take (s)"],
        [
            (
                one["what"],
                f"{one['seconds']:.0f}",
                f"{one['cpu_seconds']:.0f}",
                f"{one['limit']:.0f}",
            )
            for one in result["builds"]
        ],
        1,
    )


def grading(result: Mapping[str, Any]) -> Iterator[str]:
    compared = result["same submissions"]
    names = {"ours": "this course", "nbgrader": "nbgrader", "otter": "Otter-Grader"}
    ours, growth = compared["costs"]["ours"], result["growth"]
    further = {name: cost["seconds"] for name, cost in compared["one more"].items()}
    # Ten are graded so fast that their difference is mostly the start's: a large class tells more.
    further["ours"] = steady(growth, "seconds")
    yield "## Grading a class"
    yield ""
    yield (
        f"{compared['submissions']} submissions of the same assignment, {compared['workers']} "
        f"workers, from the start of the command to its end ({machine(result)}); and what each "
        "further submission takes, when all is started."
    )
    yield ""
    yield from table(
        ["Grader", "clock (s)", "CPU (s)", "times", "each further (s)", "times"],
        [
            (names[name], f"{cost['seconds']:.1f}", f"{cost['cpu']:.1f}",
             f"{cost['seconds'] / ours['seconds']:.1f}",
             f"{further[name]:.2f}", number(further[name] / further["ours"]))
            for name, cost in compared["costs"].items()
        ],
        1,
    )  # fmt: skip
    yield "How this course's grader grows with the class, in one process and in several:"
    yield ""
    yield from table(
        ["Submissions", "workers", "clock (s)", "memory (GB)"],
        [
            (f"{run['submissions']:,}", run["workers"], f"{run['seconds']:.0f}",
             f"{max(run['memory']) / 1e9:.1f}" if run["memory"] else "–")
            for run in growth
        ],
        0,
    )  # fmt: skip


def real_data() -> Iterator[str]:
    rows = yaml.safe_load((ROOT / "benchmarks" / "real_data.yml").read_text(encoding="utf-8"))
    yield "## On real data"
    yield ""
    yield (
        "What the chapters' models reach on public data in the seconds that they have, read from "
        "the chapters themselves. Beside it what the text of Dive into Deep Learning "
        "{cite:p}`zhang2023dive` prints for the same model on the same data, with the section of "
        "its second edition in Chinese, which prints numbers where the English one draws curves; "
        "*not reported* where we found none. Mostly d2l has more data and larger pictures, and a "
        "GPU; below each table you see what else differs."
    )
    yield ""
    for name in dict.fromkeys(row["data"] for row in rows):
        yield f"### {name}"
        yield ""
        yield from table(
            ["Model", "measure", "here", "d2l"],
            [
                (
                    f"{{doc}}`{row['model']} <chapters/{row['chapter']}>`",
                    row["measure"],
                    reached(row),
                    said(row.get("d2l")),
                )
                for row in rows
                if row["data"] == name
            ],
            2,
        )
        yield from (f"- *{r['model']}*: {r['setting']}" for r in rows if r["data"] == name)
        yield ""


def said(d2l: Mapping[str, str] | None) -> str:
    return "not reported" if d2l is None else f"{d2l['value']} ({d2l['section']})"


def reached(row: Mapping[str, Any]) -> str:
    """The numbers of a row, from the page of its chapter.

    Raises:
        PageError: if they are not there.
    """
    path = ROOT / "book" / "chapters" / f"{row['chapter']}.ipynb"
    found = re.search(row["pattern"], printed(path))
    if found is None:
        raise PageError(
            f"{path}: the cells on the real data print nothing like {row['pattern']!r}. Was it "
            "released where the data is? Else mend the pattern in benchmarks/real_data.yml."
        )
    return ", ".join(found.groups())


def printed(page: Path) -> str:
    """What the cells of a page below its heading “The real data” print."""
    inside, parts = False, []
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^## (.+)$", cell.source, re.M):
                inside = heading.startswith("The real data")
        elif inside:
            parts += [output.get("text", "") for output in cell.outputs]
    return "".join(parts)


def gpu(found: Mapping[str, Any]) -> Iterator[str]:
    """What `benchmarks/gpu.py` wrote, machine by machine."""
    yield "## On a GPU"
    yield ""
    if not found:
        yield (
            "Nothing here was measured on a GPU yet. On a machine that has one, "
            "`benchmarks/gpu.py` runs all notebooks and tests on it, trains at d2l's size, and "
            "writes the files that this section shows."
        )
        yield ""
    for result in found.values():
        yield from gpu_of(result)


def gpu_of(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {result['machine']['GPU']}"
    yield ""
    yield f"Measured with {machine(result)}, on `{result['device']}`{scale(result)}."
    yield ""
    if "tests" in result:
        yield (
            f"{result['tests']['passed']} tests of the chapters pass there, "
            f"{result['tests']['failed']} fail."
        )
        yield ""
    if "grading" in result:
        graded = result["grading"]
        same = "the same scores as" if graded["same_scores"] else "**other scores than**"
        yield (
            f"Grading {graded['submissions']} submissions there gives {same} on the CPU, in "
            f"{graded['device_seconds']:.0f} s; the CPU takes {graded['cpu_seconds']:.0f} s."
        )
        yield ""
    if "notebooks" in result:
        yield from table(
            ["Chapter", "CPU (s)", f"{result['device']} (s)"],
            [
                (link(n), clock(t["cpu"]), clock(t["device"]))
                for n, t in result["notebooks"].items()
            ],
            1,
        )
    if "speed" in result:
        yield from table(
            ["What", "time (ms)", "beside (ms)"],
            [
                (row["what"], number(row["ms"]), number(row["beside_ms"]))
                for row in result["speed"]
            ],
            1,
        )  # fmt: skip
    for run in result.get("training", []):
        last = {name: values[-1] for name, values in run["curves"].items()}
        ends = ", ".join(f"{name} {value:.3g}" for name, value in last.items())
        yield from curves(
            range(1, len(next(iter(run["curves"].values()))) + 1), run["curves"],
            f"{run['model']} on {run['data']} over the epochs; at the end {ends}.",
            f"{run['model']} on {run['data']}, {run['seconds']:.0f} s. At the end: {ends}.",
            axes=("epoch", ""),
        )  # fmt: skip


def scale(result: Mapping[str, Any]) -> str:
    return ", in a small setting that shows only that it runs" if result["tiny"] else ""


def clock(seconds: float | None) -> str:
    return "failed" if seconds is None else f"{seconds:.0f}"


def link(chapter: str) -> str:
    return f"{{doc}}`{chapter} <chapters/{chapter}>`"


# --- all of it -------------------------------------------------------------------------------


def page() -> str:
    """The page.

    Raises:
        PageError: if a number is not where it should be.
    """
    folder = results.folder(ROOT)
    order = list(syllabus(ROOT))
    entries, mutants = (
        {c: found[c] for c in order if c in found}
        for found in (budget.entries(ROOT), stored(folder / "mutants"))
    )
    lines = [OPENING, *costs(entries, mutants)]
    for section in (scratch, growth, loading, grading, building):
        result = results.stored(folder / f"{section.__name__}.json")
        lines += section(result) if result else []
    lines += [*real_data(), *gpu(stored(folder / "gpu"))]
    return "\n".join(lines).rstrip() + "\n"


def stored(folder: Path) -> dict[str, Any]:
    return {path.stem: results.stored(path) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    try:
        new = page()
    except PageError as error:
        sys.exit(str(error))
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == new:
        return
    if options.check:
        sys.exit(f"{PAGE} is not that of the results: run benchmarks/page.py.")
    PAGE.write_text(new, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
