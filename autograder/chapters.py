"""The sources of a chapter: `solutions/<chapter>/`, read once and handed to every command."""

from __future__ import annotations

import ast
import importlib.util
import linecache
import re
import sys
import textwrap
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import yaml

from course.check import load_checks
from course.testing import Answer, Test, collect

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
READING = 100  # words a minute of a text with formulas, figures and cells to run


class ChapterError(Exception):
    """A source file breaks its contract; the message names the file and the mend."""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a chapter, as its cell declares it."""

    id: str
    title: str
    points: float
    minutes: int
    difficulty: int
    forbid: tuple[str, ...]
    names: tuple[str, ...]  # what its cell defines, in order
    reference: str  # the cell's source with the solution
    stub: str  # the same as students get it


@dataclass(frozen=True)
class Chapter:
    """A chapter's sources, and what follows from them."""

    id: str
    folder: Path
    notebook: nbformat.NotebookNode

    @property
    def meta(self) -> dict[str, Any]:
        """The `course` block of the header."""
        return self.notebook.metadata["course"]

    @cached_property
    def syllabus(self) -> dict[str, Any]:
        """This chapter's entry of the syllabus."""
        return syllabus(self.folder.parent.parent)[self.id]

    @cached_property
    def setup(self) -> list[str]:
        """Sources of the set-up cells."""
        return [c.source for c in self.notebook.cells if c.metadata.get("setup")]

    @cached_property
    def exercises(self) -> dict[str, Exercise]:
        """Exercises by id, in the order of the chapter."""
        titles = {e["id"].split(".")[-1]: e["title"] for e in self.syllabus["exercises"]}
        found: dict[str, Exercise] = {}
        for cell in self.notebook.cells:
            name = cell.metadata.get("exercise")
            if name is None:
                continue
            if name in found:
                raise ChapterError(f"{self.source}: two cells say `exercise: {name}`.")
            try:
                found[name] = Exercise(
                    id=name,
                    title=titles.get(name, "Debug this"),
                    points=cell.metadata["points"],
                    minutes=cell.metadata["minutes"],
                    difficulty=cell.metadata["difficulty"],
                    forbid=tuple(cell.metadata.get("forbid", ())),
                    names=defined_names(cell.source),
                    reference=without_markers(cell.source),
                    stub=stub_of(cell.source),
                )
            except KeyError as missing:
                raise ChapterError(f"{self.source}: exercise {name} has no {missing}.") from None
            except (SyntaxError, ValueError) as error:
                raise ChapterError(f"{self.source}: exercise {name}: {error}") from None
        return found

    @property
    def source(self) -> Path:
        return self.folder / "chapter.md"

    @cached_property
    def checks(self) -> list[Test]:
        """The public checks."""
        return collect(load_checks(self.id))

    @property
    def words(self) -> int:
        """Of its text."""
        return sum(len(c.source.split()) for c in self.notebook.cells if c.cell_type == "markdown")

    @property
    def minutes(self) -> tuple[int, int]:
        """To read it and run its cells, and to do its exercises."""
        return 5 * round(self.words / READING / 5), sum(e.minutes for e in self.exercises.values())

    @cached_property
    def hints(self) -> dict[str, list[str]]:
        """Staged hints by exercise."""
        return getattr(load_checks(self.id), "HINTS", {})

    @cached_property
    def tests(self) -> list[Test]:
        """The hidden tests."""
        return collect(self._module("tests"))

    @cached_property
    def misconceptions(self) -> list[Answer]:
        return self._answers("misconceptions")

    @cached_property
    def alternatives(self) -> list[Answer]:
        return self._answers("alternatives")

    def _answers(self, name: str) -> list[Answer]:
        if not (self.folder / f"{name}.py").exists():
            return []
        return getattr(self._module(name), "ANSWERS", [])

    def _module(self, name: str) -> ModuleType:
        path = self.folder / f"{name}.py"
        full = f"solutions.{self.id.replace('-', '_')}.{name}"
        spec = importlib.util.spec_from_file_location(full, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module  # inspect.getsource looks modules up there
        try:
            spec.loader.exec_module(module)
        except FileNotFoundError:
            raise ChapterError(f"{path} is missing.") from None
        return module

    def namespace(self, answers: list[Answer] | None = None) -> dict[str, Any]:
        """Run the set-up cells, the reference solutions, and then the given answers over them."""
        sources = [*self.setup, *(e.reference for e in self.exercises.values())]
        sources += [answer.source for answer in answers or []]
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for number, source in enumerate(sources):
            run_source(source, namespace, f"<{self.id} {number}>")
        return namespace


def run_source(source: str, namespace: dict[str, Any], name: str) -> None:
    """Execute source in a namespace so that tracebacks and `inspect` can show it."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), namespace)


def find_root(start: Path | None = None) -> Path:
    """The repository around a folder: the nearest parent with `_toc.yml` and `book/`.

    Raises:
        ChapterError: if there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").exists() and (folder / "book").is_dir():
            return folder
    raise ChapterError(f"{start} is not inside the course's repository: no _toc.yml above it.")


def chapter_ids(root: Path) -> list[str]:
    """Ids of the chapters that have sources, in the order of the syllabus."""
    present = {p.parent.name for p in (root / "solutions").glob("*/chapter.md")}
    return [c for c in syllabus(root) if c in present] + sorted(present - set(syllabus(root)))


def syllabus(root: Path) -> dict[str, dict[str, Any]]:
    """`book/syllabus.yml` by chapter id."""
    path = root / "book" / "syllabus.yml"
    now = path.stat()
    return _syllabus(path, now.st_mtime_ns, now.st_size)


@lru_cache(8)
def _syllabus(path: Path, modified: int, size: int) -> dict[str, dict[str, Any]]:
    """Read once for each state of the file: this takes longer than to grade a submission."""
    with open(path, encoding="utf-8") as file:
        return {c["id"]: c for c in yaml.safe_load(file)["chapters"]}


def load(chapter: str, root: Path) -> Chapter:
    """Read a chapter's sources.

    Raises:
        ChapterError: if they are missing or the header is not what CONTRIBUTING.md asks for.
    """
    folder = root / "solutions" / chapter
    path = folder / "chapter.md"
    if not path.exists():
        known = ", ".join(chapter_ids(root)) or "none; is this a copy without solutions?"
        raise ChapterError(f"There is no {path}. Chapters with sources: {known}.")
    notebook = jupytext.read(path)
    meta = notebook.metadata.get("course", {})
    if meta.get("chapter") != chapter:
        raise ChapterError(f"{path}: the header should say `course: {{chapter: {chapter}}}`.")
    if chapter not in syllabus(root):
        raise ChapterError(f"{path}: book/syllabus.yml has no chapter {chapter}.")
    return Chapter(chapter, folder, notebook)


# --- an exercise's cell ----------------------------------------------------------------------


def without_markers(source: str) -> str:
    """The cell with its solution, less the lines of the markers."""
    return "\n".join(line for line in source.splitlines() if line.strip() not in (BEGIN, END))


def stub_of(source: str) -> str:
    """The cell as students get it: each solution becomes a NotImplementedError.

    Raises:
        ValueError: if markers are missing, nested or unbalanced.
    """
    lines: list[str] = []
    inside = False
    regions = 0
    for line in source.splitlines():
        marker = line.strip()
        if marker == BEGIN:
            if inside:
                raise ValueError(f"a second {BEGIN} before {END}")
            inside, regions = True, regions + 1
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}# your code here")
            lines.append(f'{indent}raise NotImplementedError("{_innermost(lines, indent)}")')
        elif marker == END:
            if not inside:
                raise ValueError(f"{END} without {BEGIN}")
            inside = False
        elif not inside:
            lines.append(line)
    if inside or not regions:
        raise ValueError(f"every exercise needs {BEGIN} … {END}")
    return "\n".join(lines)


def _innermost(lines: list[str], indent: str) -> str:
    """`corr2d is not written yet.`, with the name of the function around the last line."""
    for line in reversed(lines):
        found = re.match(r"(\s*)def (\w+)", line)
        if found and len(found.group(1)) < len(indent):
            name = found.group(2)
            owner = next(
                (m.group(1) for m in map(re.compile(r"class (\w+)").match, reversed(lines)) if m),
                None,
            )
            inside_class = bool(found.group(1)) and owner
            return (
                f"`{owner}.{name}` is not written yet."
                if inside_class
                else (f"`{name}` is not written yet.")
            )
    return "Not written yet."


def defined_names(source: str) -> tuple[str, ...]:
    """Functions, classes and variables that a cell defines at its top level."""
    names: list[str] = []
    for node in ast.parse(textwrap.dedent(source)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return tuple(names)
