"""`autograder lint`: the contracts of a chapter that a program can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from autograder.agreement import false_claims
from autograder.chapters import Chapter, ChapterError, chapter_ids, load, syllabus
from autograder.markdown import MystError, PlainMarkdown, read_bibliography

MAX_COLUMNS = 88
MIN_MISCONCEPTIONS = 3
EXTRA = "debug"  # the one exercise of a chapter that the syllabus does not list


@dataclass(frozen=True)
class Finding:
    """One breach of a contract: where, and what to do."""

    chapter: str
    sentence: str


@dataclass(frozen=True)
class Coverage:
    """How much of the syllabus a chapter's cells say they teach."""

    chapter: str
    taught: int
    topics: int
    errata_shown: int
    errata: int

    def __str__(self) -> str:
        return (
            f"{self.chapter}: {self.taught} of {self.topics} topics "
            f"({self.taught / self.topics:.0%}), {self.errata_shown} of {self.errata} errata"
        )


def lint(chapters: Sequence[str], root: Path) -> list[Finding]:
    """Every breach found in the given chapters (all where none is given).

    Raises:
        ChapterError: if a chapter's sources cannot be read at all.
    """
    findings = []
    for name in chapters or chapter_ids(root):
        try:
            chapter = load(name, root)
            for rule in RULES:
                findings += [Finding(name, sentence) for sentence in rule(chapter, root)]
        except ChapterError as error:
            findings.append(Finding(name, str(error)))
        except ValueError as error:  # from collect(): a test that breaks the vocabulary
            findings.append(Finding(name, str(error)))
    return findings


def coverage(chapters: Sequence[str], root: Path) -> list[Coverage]:
    """Topics and errata that each chapter's cells carry, out of those of the syllabus."""
    table = []
    for name in chapters or chapter_ids(root):
        chapter = load(name, root)
        topics = {t["id"] for t in chapter.syllabus["topics"]}
        errata = _errata(chapter)
        table.append(
            Coverage(
                name,
                len(topics & _tagged(chapter, "topics")),
                len(topics),
                len(errata & _tagged(chapter, "errata")),
                len(errata),
            )
        )
    return table


def _tagged(chapter: Chapter, key: str) -> set[str]:
    return {value for cell in chapter.notebook.cells for value in cell.metadata.get(key, [])}


def _errata(chapter: Chapter) -> set[str]:
    return {e for topic in chapter.syllabus["topics"] for e in topic.get("errata", [])}


# --- rules: each yields a sentence for every breach ------------------------------------------


def topics_are_taught(chapter: Chapter, root: Path) -> Iterator[str]:
    topics = {t["id"]: t for t in chapter.syllabus["topics"]}
    taught = _tagged(chapter, "topics")
    for topic in topics.keys() - taught:
        yield f"No cell says `topics: [{topic}]` ({topics[topic]['name']})."
    for topic in taught - topics.keys():
        yield f"A cell teaches {topic}, which the syllabus does not know."
    for erratum in _errata(chapter) - _tagged(chapter, "errata"):
        yield f"No cell says `errata: [{erratum}]`."


def exercises_are_those_of_the_syllabus(chapter: Chapter, root: Path) -> Iterator[str]:
    wanted = {e["id"].split(".")[-1]: e for e in chapter.syllabus["exercises"]}
    for name in wanted.keys() - chapter.exercises.keys():
        yield f"The exercise {name} is missing."
    for name in chapter.exercises.keys() - wanted.keys() - {EXTRA}:
        yield f"The syllabus has no exercise {name}."
    if EXTRA not in chapter.exercises:
        yield f"There is no `exercise: {EXTRA}` (0 points)."
    for name in wanted.keys() & chapter.exercises.keys():
        exercise = chapter.exercises[name]
        if exercise.points != wanted[name]["points"]:
            listed = wanted[name]["points"]
            yield f"{name} has {exercise.points:g} points; the syllabus says {listed}."
        for function in signature_names(wanted[name]["signature"]):
            if function not in exercise.names:
                yield f"{name} should define `{function}`."
    total = sum(e.points for e in chapter.exercises.values())
    if total != 100:
        yield f"The points add up to {total:g}, not to 100."


def signature_names(signature: str) -> list[str]:
    """`class Conv2D(nn.Module): forward(x); learn_kernel(X, Y)` → Conv2D, learn_kernel."""
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", signature)) != signature:
        signature = shorter  # without the shapes in brackets
    names = []
    for part in signature.split(";"):
        if "class " in part:
            part = re.split(r": | with ", part)[0]  # what follows are its methods
        names += re.findall(r"(?<=class )\w+|(?<![\w.])[A-Za-z_]\w*(?=\()", part)
    return names


def exercises_are_complete(chapter: Chapter, root: Path) -> Iterator[str]:
    for exercise in chapter.exercises.values():
        name = exercise.id
        checks = [t for t in chapter.checks if t.exercise == name]
        tests = [t for t in chapter.tests if t.exercise == name]
        wrong = [a for a in chapter.misconceptions if a.exercise == name]
        if not checks:
            yield f"{name} has no public check."
        if len(chapter.hints.get(name, [])) < 2:
            yield f"{name} has fewer than two staged hints."
        if not 1 <= exercise.difficulty <= 3:
            yield f"{name} has difficulty {exercise.difficulty}; it should be 1, 2 or 3."
        if exercise.points:
            points = sum(t.points for t in tests)
            if points != exercise.points:
                yield f"The hidden tests of {name} give {points:g} points, not {exercise.points:g}."
            if any(not t.points for t in tests):
                yield f"A hidden test of {name} gives no points."
            if len(wrong) < MIN_MISCONCEPTIONS:
                yield f"{name} has {len(wrong)} misconceptions; it needs {MIN_MISCONCEPTIONS}."
    for test in [*chapter.checks, *chapter.tests]:
        if test.exercise not in chapter.exercises:
            yield f"{test.name} belongs to an exercise {test.exercise}, which does not exist."
    for answer in [*chapter.misconceptions, *chapter.alternatives]:
        if answer.exercise not in chapter.exercises:
            yield f"An answer belongs to an exercise {answer.exercise}, which does not exist."
        elif answer.name not in chapter.exercises[answer.exercise].names:
            yield f"A {answer.kind} of {answer.exercise} defines {answer.name}, no name of it."


def exercises_are_checked_next(chapter: Chapter, root: Path) -> Iterator[str]:
    cells = [c for c in chapter.notebook.cells if c.cell_type == "code"]
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        name = cell.metadata.get("exercise")
        if name and (following is None or following.source.strip() != f'check("{name}")'):
            yield f'The code cell after exercise {name} should be `check("{name}")` alone.'


def answers_are_used_through_use(chapter: Chapter, root: Path) -> Iterator[str]:
    """A cell that calls an exercise's function directly would stop the blank notebook."""
    names = {name for e in chapter.exercises.values() for name in e.names}
    for cell in chapter.notebook.cells:
        if cell.cell_type != "code" or "exercise" in cell.metadata:
            continue
        tree = _parse(cell.source)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        for name in sorted(used & names):
            yield f"A cell uses `{name}` directly; take it from `use({name!r}, otherwise=…)`."
    for exercise in chapter.exercises.values():
        tree = _parse(exercise.reference)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        used -= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}  # these shadow them
        for name in sorted(used & (names - set(exercise.names))):
            yield f"The solution of {exercise.id} uses `{name}`, another exercise's answer."


def code_is_readable(chapter: Chapter, root: Path) -> Iterator[str]:
    for cell in chapter.notebook.cells:
        if cell.cell_type != "code":
            continue
        for line in cell.source.splitlines():
            if len(line) > MAX_COLUMNS:
                yield f"A code line is {len(line)} columns wide, over {MAX_COLUMNS}: {line[:50]}…"
            if line.rstrip().endswith(";"):
                yield f"A trailing semicolon hides output from Jupyter only: {line.strip()[:50]}"


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ChapterError(f"a code cell is no Python: {error}") from None


def text_has_a_plain_form(chapter: Chapter, root: Path) -> Iterator[str]:
    cells = [c.source for c in chapter.notebook.cells if c.cell_type == "markdown"]
    titles = {c: syllabus(root)[c]["title"] for c in chapter_ids(root)}
    plain = PlainMarkdown(read_bibliography(root), titles)
    plain.number_equations(cells)
    for source in cells:
        try:
            plain.convert(source)
        except MystError as error:
            yield f"The text “{source.strip().splitlines()[0][:60]}”: {error}."


def quiz_is_plain(chapter: Chapter, root: Path) -> Iterator[str]:
    for cell in chapter.notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type != "markdown" or not line.startswith("<details>"):
                continue
            if "$" in line:
                yield (
                    "Mathematics between <details> and </details> is not typeset; write HTML, such "
                    f"as <i>x</i><sub>t</sub>, in “{line[:60]}…”."
                )
            if "`" in line:
                yield (
                    "Backticks between <details> and </details> stay as they are; write "
                    f"<code>…</code> in “{line[:60]}…”."
                )


def tables_have_words(chapter: Chapter, root: Path) -> Iterator[str]:
    for cell in chapter.notebook.cells:
        lines = cell.source.splitlines() if cell.cell_type == "markdown" else []
        for header, rule in pairwise(lines):
            if header.startswith("|") and re.fullmatch(r"\|[\s:|-]+", rule):
                for name in header.strip().strip("|").split("|"):
                    if not re.sub(r"\$[^$]*\$", "", name).strip():
                        yield (
                            "A screen reader needs a word in every header of a table: "
                            f"“{header[:60]}” has a cell that is empty or mathematics alone."
                        )


def header_is_complete(chapter: Chapter, root: Path) -> Iterator[str]:
    for key in ("prerequisites", "data", "objectives", "glossary"):
        if key not in chapter.meta:
            yield f"The header has no `{key}`."
    for term, entry in chapter.meta.get("glossary", {}).items():
        if not {"zh", "means"} <= set(entry):
            yield f"The glossary entry “{term}” needs `zh` and `means`."
    if not chapter.setup:
        yield "No cell says `setup: true`."


def agreement_is_shown(chapter: Chapter, root: Path) -> Iterator[str]:
    yield from false_claims(chapter)


def toc_lists_it(chapter: Chapter, root: Path) -> Iterator[str]:
    if f"book/chapters/{chapter.id}" not in (root / "_toc.yml").read_text(encoding="utf-8"):
        yield f"_toc.yml has no line `- file: book/chapters/{chapter.id}`."


RULES: tuple[Callable[[Chapter, Path], Iterator[str]], ...] = (
    header_is_complete,
    toc_lists_it,
    topics_are_taught,
    exercises_are_those_of_the_syllabus,
    exercises_are_complete,
    exercises_are_checked_next,
    answers_are_used_through_use,
    code_is_readable,
    text_has_a_plain_form,
    quiz_is_plain,
    tables_have_words,
    agreement_is_shown,
)
