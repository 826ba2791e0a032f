"""`autograder budget`: what each chapter costs a reader's machine, kept as data, held to limits.

The notebook is run twice, with the solutions and blank. A measurement stays valid until the code of
the chapter changes, or the library and data that it uses; what takes no time is looked up anew.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from nbformat import NotebookNode

from autograder import kernel, results
from autograder.chapters import Chapter, ChapterError, chapter_ids, load
from autograder.release import content_key, cost_of, identified, page_of, solved, student_of
from course import data

CPU_SECONDS = 60.0  # of a chapter
PEAK_BYTES = 2 * 2**30
PAGE_BYTES = 1e6
COURSE_SECONDS = 2 * 15 * 60.0  # of CPU: a quarter of an hour on two cores
CHECK_SECONDS = 0.15  # the median of check()
SLOWEST = 3  # cells that are named
RUN = ("machine", "solved", "blank", "check_seconds")  # what takes a run to measure

Entry = Mapping[str, Any]


def path_of(chapter: str, root: Path) -> Path:
    return results.folder(root) / "budget" / f"{chapter}.json"


def entries(root: Path) -> dict[str, Entry]:
    """The stored measurements, by chapter."""
    found = {p.stem: results.stored(p) for p in path_of("*", root).parent.glob("*.json")}
    return {chapter: entry for chapter, entry in sorted(found.items()) if entry}


def measure(
    chapters: Sequence[str],
    root: Path,
    *,
    jobs: int | None = None,
    check: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> list[str]:
    """Measure what changed since the last time, and store it.

    Args:
        chapters: ids; empty for all.
        jobs: how many chapters run at a time; by default one for each CPU.
        check: measure and store nothing.
        progress: is told what is being done.
    Returns:
        what leaves its budget or is not measured, a sentence each.
    Raises:
        ChapterError: naming the file and the mend, when all other chapters are measured.
    """
    sources = [load(name, root) for name in chapters or chapter_ids(root)]
    findings: list[str] = []
    problems: list[str] = []
    if check:
        for chapter in sources:
            entry = results.stored(path_of(chapter.id, root))
            if entry is None or entry["key"] != _key(chapter, root):
                command = f"autograder budget {chapter.id}"
                findings.append(f"{chapter.id}: not measured as it is now; run `{command}`.")
    else:
        tasks = {c.id: partial(_measure, c, root, progress) for c in sources}
        for name, measured in kernel.side_by_side(tasks, jobs):
            try:
                results.store(path_of(name, root), measured.result())
            except ChapterError as error:
                problems.append(str(error))
    if problems:
        raise ChapterError("\n".join(problems))
    known = entries(root)
    for chapter in sources:
        if chapter.id in known:
            findings += left(known[chapter.id])
    return findings if chapters else findings + left_by_course(known.values())


def left(entry: Entry) -> list[str]:
    """Where a chapter leaves its budget."""
    name = entry["chapter"]
    found = []
    for kind in ("solved", "blank"):
        seconds, peak = entry[kind]["cpu_seconds"], entry[kind]["peak_bytes"]
        if seconds > CPU_SECONDS:
            found.append(
                f"{name}: the {kind} notebook takes {seconds:.0f} s of CPU time; a chapter may "
                f"take {CPU_SECONDS:.0f}."
            )
        if peak > PEAK_BYTES:
            found.append(
                f"{name}: the {kind} notebook takes {peak / 2**30:.1f} GiB of memory; a chapter "
                f"may take {PEAK_BYTES / 2**30:.0f}."
            )
    weight = entry["page_bytes"]
    if weight is None:
        found.append(f"{name}: its page is not built; run `make book`, then this again.")
    elif weight > PAGE_BYTES:
        found.append(
            f"{name}: its page weighs {weight / 1e6:.2f} MB; a page may weigh {PAGE_BYTES / 1e6:g}."
        )
    return found


def left_by_course(every: Collection[Entry]) -> list[str]:
    """Where the chapters together leave the budget of the course."""
    found = []
    seconds = sum(entry["solved"]["cpu_seconds"] for entry in every)
    if seconds > COURSE_SECONDS:
        found.append(
            f"All solved notebooks take {seconds / 60:.0f} minutes of CPU time; they may take "
            f"{COURSE_SECONDS / 60:.0f}: a quarter of an hour on two cores."
        )
    median = median_check(every)
    if median is not None and median > CHECK_SECONDS:
        found.append(
            f"The median check() takes {1000 * median:.0f} ms; it may take "
            f"{1000 * CHECK_SECONDS:.0f}."
        )
    return found


def median_check(every: Iterable[Entry]) -> float | None:
    """Seconds, over all exercises of some chapters."""
    seconds = [second for entry in every for second in entry["check_seconds"].values()]
    return statistics.median(seconds) if seconds else None


def describe(entry: Entry) -> str:
    """A measurement in a line."""
    costs = [
        f"{kind} {entry[kind]['cpu_seconds']:.0f} s, {entry[kind]['peak_bytes'] / 2**20:.0f} MiB"
        for kind in ("solved", "blank")
    ]
    weight = entry["page_bytes"]
    page = "page not built" if weight is None else f"page {weight / 1e6:.2f} MB"
    return f"{entry['chapter']}: {'; '.join(costs)}; {page}"


# --- one chapter -----------------------------------------------------------------------------


def _key(chapter: Chapter, root: Path) -> str:
    """The release's own: a hash of all that a run depends on."""
    return content_key(identified(chapter), root, chapter.id)


def _measure(chapter: Chapter, root: Path, progress: Callable[[str], None]) -> Entry:
    for path in (page_of(chapter.id, root), student_of(chapter.id, root)):
        if not path.exists():
            raise ChapterError(f"{path} is missing; run `autograder release {chapter.id}`.")
    page = nbformat.read(page_of(chapter.id, root), as_version=4)
    cells = identified(chapter)
    key = content_key(cells, root, chapter.id)
    before = results.stored(path_of(chapter.id, root)) or {}
    real = [name for name in data.names() if data.available(name)]
    if (before.get("key"), before.get("real_data")) == (key, real):
        measured = {name: before[name] for name in RUN}
    else:
        progress(f"{chapter.id}: measuring the solved and the blank notebook")
        measured = _run(chapter, cells, root)
    return {
        "chapter": chapter.id,
        "key": key,
        "real_data": real,  # sections on data that are not there take no time
        **measured,
        "words": chapter.words,
        "figures": sum("mystnb" in cell.metadata for cell in page.cells),
        "exercises": sum(e.points > 0 for e in chapter.exercises.values()),
        "page_bytes": page_bytes(root / "_build" / "html" / f"book/chapters/{chapter.id}.html"),
    }


def _run(chapter: Chapter, cells: Sequence[NotebookNode], root: Path) -> dict[str, Any]:
    path = student_of(chapter.id, root)
    blank = nbformat.read(path, as_version=4)
    full = cost_of(solved(chapter, cells), f"{chapter.source}: a cell of the solved run failed.")
    empty = cost_of(blank, f"{path}: a cell of the blank notebook failed.")
    checks = {
        cell_id.removeprefix("check-"): seconds
        for cell_id, seconds in full.cells.items()
        if cell_id.startswith("check-")
    }
    return {
        "machine": results.machine(),
        "solved": _described(full, cells),
        "blank": _described(empty, blank.cells),
        "check_seconds": checks,
    }


def _described(cost: kernel.Cost, cells: Sequence[NotebookNode]) -> dict[str, Any]:
    sections: dict[str, str] = {}
    section = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            section = ([section] + re.findall(r"^## (.+)$", cell.source, re.M))[-1]
        sections[cell["id"]] = section
    slowest = sorted(cost.cells, key=cost.cells.__getitem__, reverse=True)[:SLOWEST]
    return {
        "cpu_seconds": cost.cpu_seconds,
        "peak_bytes": cost.peak_bytes,
        "slowest": [
            {"cell": one, "section": sections.get(one, ""), "seconds": cost.cells[one]}
            for one in slowest
        ],
    }


def page_bytes(page: Path) -> int | None:
    """What a built page weighs with its pictures; the scripts and styles that all share apart."""
    if not page.exists():
        return None
    text = page.read_text(encoding="utf-8")
    sources = set(re.findall(r'<img[^>]*?\ssrc="([^":?#]+)', text))
    pictures = [(page.parent / unquote(source)).resolve() for source in sources]
    return sum(path.stat().st_size for path in {page, *pictures} if path.is_file())
