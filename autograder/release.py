"""`autograder release`: from `solutions/<chapter>/chapter.md` to the page and the student notebook.

The chapter is executed once, with its solutions. The page keeps every output and loses the
solutions; the student notebook loses the outputs too, but for the text of the checked cells.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder import kernel
from autograder.chapters import (
    Chapter,
    ChapterError,
    Exercise,
    chapter_ids,
    load,
    stub_of,
    syllabus,
    without_markers,
)
from autograder.files import write_text
from autograder.forbidden import canonical, shortened
from autograder.markdown import MystError, PlainMarkdown, read_bibliography

CHECKED = "# NBVAL_CHECK_OUTPUT"
CELL_SECONDS = 300  # a cell that takes longer hangs
KEPT = ("exercise", "points", "minutes", "difficulty", "forbid", "setup", "moving", "tags")


@dataclass(frozen=True)
class Released:
    """What a release did to one chapter."""

    chapter: str
    executed: bool
    changed: tuple[Path, ...]


def release(
    chapters: Sequence[str],
    root: Path,
    *,
    jobs: int | None = None,
    check: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Released]:
    """Derive pages, student notebooks and the glossary; execute only what changed.

    Args:
        chapters: ids; empty for all.
        jobs: how many chapters run at a time; by default one for each CPU.
        check: write and execute nothing, only tell what would change.
        progress: is told what is being done.
    Raises:
        ChapterError: naming the file and the mend, when all other chapters are released.
    """
    sources = {c: load(c, root) for c in chapter_ids(root)}
    if not sources:
        raise ChapterError(f"{root / 'solutions'} holds no chapter: a release needs the solutions.")
    names = list(dict.fromkeys(chapters or sources))
    for name in set(names) - set(sources):
        load(name, root)  # raises, with the names that there are
    results: dict[str, Released] = {}
    problems: dict[str, str] = {}
    tasks = {n: partial(_prepare, sources[n], root, check, progress) for n in names}
    for name, prepared in kernel.side_by_side(tasks, jobs):
        try:
            results[name] = _release(sources[name], root, check, prepared.result())
        except ChapterError as error:
            problems[name] = str(error)
    released = [results[name] for name in names if name in results]
    glossary = root / "book" / "glossary.md"
    if _write(glossary, _glossary(sources.values()), check):
        released.append(Released("glossary", False, (glossary,)))
    if problems:
        raise ChapterError("\n".join(problems[name] for name in names if name in problems))
    return released


@dataclass(frozen=True)
class Prepared:
    """What a page is made of; `run` is missing where a check would have to execute it."""

    cells: Sequence[NotebookNode]
    key: str
    run: Run | None
    executed: bool


def _prepare(
    chapter: Chapter, root: Path, check: bool, progress: Callable[[str], None]
) -> Prepared:
    cells = identified(chapter)
    key = content_key(cells, root, chapter.id)
    run = _stored_run(page_of(chapter.id, root), key)
    if run or check:
        return Prepared(cells, key, run, executed=False)
    progress(f"{chapter.id}: running the solved notebook")
    return Prepared(cells, key, execute(chapter, cells), executed=True)


def _release(chapter: Chapter, root: Path, check: bool, made: Prepared) -> Released:
    page_path = page_of(chapter.id, root)
    student_path = student_of(chapter.id, root)
    if made.run is None:
        return Released(chapter.id, False, (page_path, student_path))
    page = _page(chapter, made.cells, made.run, made.key, root)
    student = _student(chapter, made.cells, made.run, root)
    changed = [
        path
        for path, notebook in ((page_path, page), (student_path, student))
        if _write(path, nbformat.writes(notebook) + "\n", check)
    ]
    return Released(chapter.id, made.executed, tuple(changed))


def page_of(chapter: str, root: Path) -> Path:
    """The page that a release writes."""
    return root / "book" / "chapters" / f"{chapter}.ipynb"


def student_of(chapter: str, root: Path) -> Path:
    """The notebook for students that a release writes."""
    return root / "notebooks" / f"{chapter}.ipynb"


def _write(path: Path, text: str, check: bool) -> bool:
    """Write text atomically where it differs; with `check` only say whether it does."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    if not check:
        write_text(path, text)
    return True


# --- cells and their identity ----------------------------------------------------------------


def identified(chapter: Chapter) -> list[NotebookNode]:
    """The chapter's cells with ids that stay when other cells come and go."""
    cells = _title_apart(chapter)
    seen: dict[str, int] = {}
    for cell in cells:
        name = _cell_id(cell)
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return cells


def _title_apart(chapter: Chapter) -> list[NotebookNode]:
    """The chapter's cells, the title a cell of its own, since the card goes below it."""
    first, *rest = copy.deepcopy(chapter.notebook.cells)
    title, _, text = first.source.strip().partition("\n")
    if first.cell_type != "markdown" or not re.fullmatch(r"# \S.*", title):
        raise ChapterError(f"{chapter.source}: the first line should be `# Title`.")
    opening = [new_markdown_cell(text.strip())] if text.strip() else []
    return [new_markdown_cell(title), *opening, *rest]


def _cell_id(cell: NotebookNode) -> str:
    if "exercise" in cell.metadata:
        return f"exercise-{cell.metadata['exercise']}"
    checked = re.fullmatch(r'check\("([\w-]+)"\)', cell.source.strip())
    if checked:
        return f"check-{checked[1]}"
    return hashlib.sha256(cell.source.encode()).hexdigest()[:10]


def content_key(cells: Sequence[NotebookNode], root: Path, chapter: str) -> str:
    """A hash of all that outputs depend on: the code, the library, the chapter's own checks."""
    digest = hashlib.sha256()
    code = json.dumps([[cell["id"], cell.source] for cell in cells if cell.cell_type == "code"])
    digest.update(code.encode())
    for path in sorted((root / "course").rglob("*.py")):
        if _concerns(path, chapter, code):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _concerns(path: Path, chapter: str, code: str) -> bool:
    """Whether a library file bears on a chapter: others' checks and unused data sets do not."""
    name = path.stem.replace("_", "-")
    if path.parent.name == "checks":
        return name == chapter
    if path.parent.name == "data" and not path.stem.startswith("_"):
        return f'\\"{name}\\"' in code
    return True


# --- running ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Outputs by cell id of a solved run, and the CPU seconds that it took."""

    outputs: dict[str, list[NotebookNode]]
    cpu_seconds: int


def _stored_run(page: Path, key: str) -> Run | None:
    if not page.exists():
        return None
    try:
        notebook = nbformat.read(page, as_version=4)
        meta = notebook.metadata["course"]
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError):
        return None
    if meta.get("key") != key:
        return None
    outputs = {c["id"]: c.outputs for c in notebook.cells if c.cell_type == "code"}
    return Run(outputs, meta["cpu_seconds"])


def execute(chapter: Chapter, cells: Sequence[NotebookNode]) -> Run:
    """Run the solved chapter top to bottom in a fresh kernel and an empty folder.

    Raises:
        ChapterError: with the cell that failed, or the check that a solution does not pass.
    """
    notebook = solved(chapter, cells)
    cost = cost_of(notebook, f"{chapter.source}: a cell of the solved run failed.")
    for cell in notebook.cells:
        if cell["id"].startswith("check-"):
            said = cell.outputs[-1]["data"]["text/plain"]
            if "✗" in said:
                raise ChapterError(f"{chapter.source}: a solution fails its own check.\n{said}")
    outputs = {c["id"]: [_tidy(output) for output in c.outputs] for c in notebook.cells}
    return Run(outputs, round(cost.cpu_seconds))


def cost_of(notebook: NotebookNode, failed: str) -> kernel.Cost:
    """Execute a notebook.

    Raises:
        ChapterError: `failed`, and what the cell said.
    """
    try:
        return kernel.execute(notebook, CELL_SECONDS)
    except (CellExecutionError, CellTimeoutError) as error:
        message = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        raise ChapterError(f"{failed}\n{message}") from None


def solved(chapter: Chapter, cells: Sequence[NotebookNode]) -> NotebookNode:
    """The code of a chapter with its solutions, as a notebook."""
    return new_notebook(
        cells=[new_code_cell(_solved(c), id=c["id"]) for c in cells if c.cell_type == "code"],
        metadata={"kernelspec": dict(chapter.notebook.metadata["kernelspec"])},
    )


def _solved(cell: NotebookNode) -> str:
    return without_markers(cell.source) if "exercise" in cell.metadata else cell.source


def _tidy(output: NotebookNode) -> NotebookNode:
    """Drop what is for Jupyter alone: the HTML twin of a figure (the page makes its own)."""
    if "course" in output.get("metadata", {}):
        output.data.pop("text/html", None)
    return output


# --- the two notebooks -----------------------------------------------------------------------


def _page(
    chapter: Chapter, cells: Sequence[NotebookNode], run: Run, key: str, root: Path
) -> NotebookNode:
    page: list[NotebookNode] = []
    for cell in _with_card(chapter, cells, run, root):
        if cell.cell_type == "markdown":
            page.append(new_markdown_cell(cell.source, id=cell["id"]))
            continue
        outputs = run.outputs[cell["id"]]
        count = len(page) + 1
        for output in outputs:
            if output.output_type == "execute_result":
                output["execution_count"] = count
        page.append(
            new_code_cell(
                _stubbed(cell),
                id=cell["id"],
                outputs=outputs,
                execution_count=count,
                metadata=_kept(cell) | _figure_metadata(chapter, cell, outputs),
            )
        )
    return _notebook(chapter, page, {"key": key, "cpu_seconds": run.cpu_seconds})


def _figure_metadata(
    chapter: Chapter, cell: NotebookNode, outputs: Sequence[NotebookNode]
) -> dict[str, Any]:
    """Caption and alt text of the cell's figure, where myst-nb looks for them."""
    figures = [o.metadata["course"] for o in outputs if "course" in o.get("metadata", {})]
    if not figures:
        return {}
    if len(figures) > 1:
        raise ChapterError(
            f"{chapter.source}: a cell shows {len(figures)} figures; give each its own cell."
        )
    figure = figures[0]
    name = figure.get("name") or f"fig-{chapter.id}-{cell['id']}"
    return {
        "mystnb": {
            "figure": {"caption": figure["caption"], "name": name},
            "image": {"alt": figure["alt"]},
        }
    }


def _student(chapter: Chapter, cells: Sequence[NotebookNode], run: Run, root: Path) -> NotebookNode:
    plain = PlainMarkdown(
        read_bibliography(root), {c: syllabus(root)[c]["title"] for c in chapter_ids(root)}
    )
    plain.number_equations([c.source for c in cells if c.cell_type == "markdown"])
    student = [new_code_cell(_bootstrap(root), id="install", metadata={"tags": ["hide-input"]})]
    for cell in _with_card(chapter, cells, run, root):
        if cell.cell_type == "code":
            outputs, count = _expected_text(run.outputs[cell["id"]], cell)
            student.append(
                new_code_cell(
                    _stubbed(cell),
                    id=cell["id"],
                    outputs=outputs,
                    execution_count=count,
                    metadata=_kept(cell),
                )
            )
            continue
        try:
            student.append(new_markdown_cell(plain.convert(cell.source), id=cell["id"]))
        except MystError as error:
            first = cell.source.strip().splitlines()[0]
            raise ChapterError(f"{chapter.source}: the text “{first}”: {error}.") from None
    student[0], student[1] = student[1], student[0]  # the title comes first
    return _notebook(chapter, student, {})


def _expected_text(
    outputs: Sequence[NotebookNode], cell: NotebookNode
) -> tuple[list[NotebookNode], int | None]:
    """The printed text of a checked cell, which nbval compares; nothing of any other."""
    if not cell.source.startswith(CHECKED):
        return [], None
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stdout":
            kept.append(output)
        elif output.output_type == "execute_result" and "text/plain" in output.data:
            text = {"text/plain": output.data["text/plain"]}
            kept.append(
                NotebookNode(
                    output_type="execute_result", data=text, metadata={}, execution_count=1
                )
            )
    return kept, 1


def _stubbed(cell: NotebookNode) -> str:
    if "exercise" in cell.metadata:
        return stub_of(cell.source)
    return cell.source.removeprefix(CHECKED).lstrip("\n")


def _kept(cell: NotebookNode) -> dict[str, Any]:
    kept = {key: copy.deepcopy(cell.metadata[key]) for key in KEPT if key in cell.metadata}
    if cell.source.startswith(CHECKED):
        # nbval knows the comment and the tag; a reader is better off with the tag.
        kept["tags"] = [*kept.get("tags", []), "nbval-check-output"]
    return kept


def _notebook(chapter: Chapter, cells: list[NotebookNode], course: dict[str, Any]) -> NotebookNode:
    return new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "course": {"chapter": chapter.id, **course},
        },
    )


def _with_card(
    chapter: Chapter, cells: Sequence[NotebookNode], run: Run, root: Path
) -> Iterator[NotebookNode]:
    """The cells, with the card after the title and a heading before each exercise."""
    title, *rest = cells
    yield title
    yield new_markdown_cell(_card(chapter, run, root), id="card")
    for cell in rest:
        if "exercise" in cell.metadata:
            exercise = chapter.exercises[cell.metadata["exercise"]]
            hints = chapter.hints.get(exercise.id, [])
            yield new_markdown_cell(_task(exercise, hints), id=f"task-{exercise.id}")
        yield cell


def _card(chapter: Chapter, run: Run, root: Path) -> str:
    meta = chapter.meta
    known = set(chapter_ids(root))
    entries = syllabus(root)
    needs = [
        f"{{doc}}`{c}`" if c in known else entries[c]["title"]
        for c in meta.get("prerequisites", [])
    ]
    graded = [e for e in chapter.exercises.values() if e.points]
    total = sum(e.points for e in graded)
    reading, doing = chapter.minutes
    facts = [
        f"**Chinese title**: {entries[chapter.id]['zh']}",
        f"**You need**: {', '.join(needs) or 'Python and first-year mathematics'}",
        f"**Time**: about {reading} minutes to read and run, {doing} for the exercises; your "
        f"computer calculates for {max(run.cpu_seconds, 1)} seconds (one CPU core)",
        f"**Exercises**: {len(graded)}, worth {total:g} points",
        f"**Data**: {meta['data']}",
    ]
    goals = "\n".join(f"- {goal}" for goal in meta["objectives"])
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f":::{{admonition}} After this chapter you can\n:class: tip\n{goals}\n:::\n\n{listed}"


def _task(exercise: Exercise, hints: Sequence[str]) -> str:
    """The heading of an exercise, and its hints, each inside the one before."""
    stars = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    worth = f"{exercise.points:g} points · " if exercise.points else ""
    without = f"To be solved without {_listed(exercise.forbid)}.\n\n" if exercise.forbid else ""
    staged = ""
    for number in range(len(hints), 0, -1):
        staged = (
            f"<details>\n<summary>Hint {number} of {len(hints)}</summary>\n\n"
            f"{hints[number - 1]}\n\n{staged}</details>\n\n"
        )
    return (
        f"### Exercise `{exercise.id}`: {exercise.title}\n\n"
        f"{worth}{exercise.minutes} minutes · difficulty {stars}\n\n{without}{staged}"
    ).rstrip()


def _listed(paths: Sequence[str]) -> str:
    """`F.conv2d`, `nn.Conv2d`: library functions as students write them, each once."""
    kept: dict[str, str] = {}
    for path in paths:  # `torch.topk` stands for `torch.Tensor.topk`, too
        things = [pkgutil.resolve_name(other) for other in kept.values()]
        if all(pkgutil.resolve_name(path) is not thing for thing in things):
            kept.setdefault(canonical(path), path)
    return ", ".join(f"`{shortened(path)}`" for path in kept.values())


def _bootstrap(root: Path) -> str:
    """The first code cell of a student notebook: installs the course where it is missing."""
    with open(root / "_config.yml", encoding="utf-8") as file:
        url = yaml.safe_load(file)["repository"]["url"]
    return (
        "# In Colab this installs the course; where it is installed it does nothing.\n"
        "try:\n"
        "    import course\n"
        "except ModuleNotFoundError:\n"
        "    import importlib, subprocess, sys\n"
        '    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]\n'
        f'    subprocess.check_call([*pip, "git+{url}"])\n'
        "    importlib.invalidate_caches()"
    )


# --- the glossary ----------------------------------------------------------------------------


def _glossary(chapters: Sequence[Chapter]) -> str:
    """`book/glossary.md`, from the headers of all chapters."""
    terms: dict[str, tuple[Chapter, dict[str, str]]] = {}
    for chapter in chapters:
        for term, entry in chapter.meta.get("glossary", {}).items():
            if term in terms:
                raise ChapterError(
                    f"{chapter.source}: {terms[term][0].id} has “{term}” in its glossary already."
                )
            terms[term] = (chapter, entry)
    entries = "\n\n".join(
        f"{term}\n  **{entry['zh']}**. {entry['means']} Taught in {{doc}}`chapters/{chapter.id}`."
        for term, (chapter, entry) in sorted(terms.items(), key=lambda item: item[0].casefold())
    )
    return (
        "<!-- Written by `autograder release` from the headers of the chapters. -->\n\n"
        "# Glossary\n\n"
        "Each key term in English and in Chinese (简体), with the chapter that teaches it.\n\n"
        f"```{{glossary}}\n{entries}\n```\n"
    )
