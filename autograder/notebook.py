"""Reads one submitted notebook, whatever became of it on its way.

Nothing of the student's runs here. The notebook is taken apart into what grading needs: the cells
that answer exercises, and the definitions in cells that the student added.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from autograder.chapters import Chapter, ChapterError, defined_names, stub_of
from autograder.forbidden import Names, forbidden_uses

MAX_BYTES = 32 * 2**20
MAX_DEPTH = 150  # of nested syntax
MAX_CELL = 200_000  # characters; a parsed cell takes a hundred times as many bytes


class ReadProblem(Exception):
    """The file cannot be graded at all; one sentence says why, and what to do.

    `status` is that of the record: "unreadable" or "wrong chapter".
    """

    def __init__(self, sentence: str, status: str = "unreadable"):
        super().__init__(sentence)
        self.status = status


# --- what students were given ----------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """An exercise as the blank notebook holds it."""

    id: str
    names: tuple[str, ...]
    stub: frozenset[str]  # its statements, as AST dumps
    forbid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blank:
    """A chapter's notebook as students get it: what a submission is compared with."""

    chapter: str
    setup: tuple[str, ...]
    questions: Mapping[str, Question]
    statements: frozenset[str] = field(repr=False)  # of the cells that are no exercises

    @classmethod
    def of(cls, chapter: Chapter) -> Blank:
        """From a chapter's sources."""
        code = [(c.metadata, c.source) for c in chapter.notebook.cells if c.cell_type == "code"]
        return cls._from(
            chapter.id, ((m, stub_of(source) if "exercise" in m else source) for m, source in code)
        )

    @classmethod
    def released(cls, data: bytes, name: str) -> Blank:
        """From a released notebook; all that there is where the solutions are not.

        Raises:
            ReadProblem: if it is none.
        """
        raw = _load(data, name)
        chapter = _chapter_said(raw)
        if chapter is None:
            raise ReadProblem(f"{name} is no released notebook: its metadata names no chapter.")
        return cls._from(chapter, ((c.metadata, c.source) for c in _code_cells(raw)))

    @classmethod
    def _from(cls, chapter: str, cells: Iterable[tuple[Mapping[str, Any], str]]) -> Blank:
        setup, questions, statements = [], {}, set()
        for metadata, source in cells:
            dumps = set(parse(source)[1].values())
            if "exercise" in metadata:
                name = metadata["exercise"]
                forbid = tuple(metadata.get("forbid", ()))
                questions[name] = Question(name, defined_names(source), frozenset(dumps), forbid)
            else:
                statements |= dumps
                if metadata.get("setup"):
                    setup.append(source)
        return cls(chapter, tuple(setup), questions, frozenset(statements))


# --- what a submission comes to --------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A statement to run for grading; its line numbers are those of the student's cell."""

    name: str  # "code cell 7, line 12": no two are the same
    source: str
    exercise: str | None = None


SETUP = "set-up cell"


@dataclass(frozen=True)
class Attempt:
    """What a notebook holds for one exercise.

    `status` is "answered" where there is something to run, else "not attempted", "missing",
    "syntax error" or "forbidden", and `reason` says why nothing is run.
    """

    exercise: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Submission:
    """A submitted notebook, ready to grade."""

    chapter: str
    pieces: tuple[Piece, ...]
    attempts: Mapping[str, Attempt]
    notes: tuple[str, ...]


def read(
    data: bytes, name: str, blanks: Mapping[str, Blank], expected: str | None = None
) -> Submission:
    """Read a submitted notebook.

    Args:
        name: the file's name, for messages and as the last hint at the chapter.
        blanks: the blank notebook by chapter id.
        expected: the chapter that it should be; by default any that it turns out to be.
    Raises:
        ReadProblem: if there is nothing to grade.
    """
    raw = _load(data, name)
    cells = _code_cells(raw)
    chapter = _recognise(cells, _chapter_said(raw), name, blanks)
    if expected and chapter not in (expected, None):
        raise ReadProblem(
            f"{name} is the notebook of {chapter}, not of {expected}; hand in {expected}.ipynb.",
            "wrong chapter",
        )
    chapter = chapter or expected
    if chapter is None:
        raise ReadProblem(
            f"{name} holds no exercise of this course; hand in the notebook with your answers."
        )
    reader = _Reader(cells, blanks[chapter])
    named = chapter_in_name(name, blanks)
    if named not in (chapter, None):
        reader.notes.insert(0, f"This is the notebook of {chapter}, not of {named}.")
    return reader.submission()


# --- the file --------------------------------------------------------------------------------

# How files begin that students hand in by mistake, and what to tell them.
LOOKALIKES = {
    b"%PDF": "a PDF; hand in the notebook itself (File > Download in Jupyter or Colab)",
    b"PK\x03\x04": "a zip archive or an office document; hand in the .ipynb file itself",
    b"<!": "a web page; download the notebook itself (on GitHub: the raw file)",
    b"<h": "a web page; download the notebook itself (on GitHub: the raw file)",
    b"\x89PNG": "a picture; hand in the notebook itself",
}


def _load(data: bytes, name: str) -> dict[str, Any]:
    """The JSON of a notebook, with a list of cells in it for sure."""
    if len(data) > MAX_BYTES:
        size = f"{len(data) / 2**20:.0f} MB, more than {MAX_BYTES // 2**20}"
        raise ReadProblem(f"{name} has {size}; clear its outputs, save and hand it in again.")
    if not data.strip():
        raise ReadProblem(f"{name} is empty; save the notebook and hand it in again.")
    for start, what in LOOKALIKES.items():
        if data.lstrip().startswith(start):
            raise ReadProblem(f"{name} is {what}.")
    try:
        raw = json.loads(_text(data))
    except RecursionError:
        raise ReadProblem(f"{name} is nested too deeply to be a notebook.") from None
    except ValueError as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        cause = "is not a notebook, or is damaged"
        if re.search(rb"^(<<<<<<<|>>>>>>>)", data, re.M):
            cause = "has the conflict marks of a git merge in it"
        raise ReadProblem(
            f"{name} {cause}: its JSON cannot be read{line}; open it in Jupyter, save it and hand "
            "it in again."
        ) from None
    if isinstance(raw, dict) and isinstance(raw.get("worksheets"), list):  # nbformat 3
        sheets = [s for s in raw["worksheets"] if isinstance(s, dict)]
        raw["cells"] = [c for s in sheets if isinstance(s.get("cells"), list) for c in s["cells"]]
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list):
        raise ReadProblem(f"{name} is JSON but not a notebook: it has no list of cells.")
    return raw


def _text(data: bytes) -> str:
    try:
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # reads anything; only comments and texts can come out odd


@dataclass(frozen=True)
class Cell:
    """A code cell: its number among the code cells, counted from 1 as a reader would."""

    number: int
    source: str
    metadata: Mapping[str, Any]
    id: str | None = None
    outputs: list[Any] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"code cell {self.number}"

    @property
    def exercise(self) -> str | None:
        """The exercise that the metadata names."""
        name = self.metadata.get("exercise")
        return name if isinstance(name, str) else None


def code_cells(data: bytes, name: str) -> list[Cell]:
    """The code cells of a notebook.

    Raises:
        ReadProblem: if it is none.
    """
    return _code_cells(_load(data, name))


def _code_cells(raw: dict[str, Any]) -> list[Cell]:
    cells: list[Cell] = []
    for cell in raw["cells"]:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input"))
        if isinstance(source, list):
            source = "".join(line for line in source if isinstance(line, str))
        if not isinstance(source, str):
            source = ""
        source = source.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        metadata, name, outputs = (cell.get(key) for key in ("metadata", "id", "outputs"))
        cells.append(
            Cell(
                len(cells) + 1,
                source,
                metadata if isinstance(metadata, dict) else {},
                name if isinstance(name, str) else None,
                outputs if isinstance(outputs, list) else [],
            )
        )
    return cells


def _chapter_said(raw: dict[str, Any]) -> str | None:
    """The chapter that the notebook's metadata names."""
    metadata = raw.get("metadata")
    course = metadata.get("course") if isinstance(metadata, dict) else None
    chapter = course.get("chapter") if isinstance(course, dict) else None
    return chapter if isinstance(chapter, str) else None


def chapter_in_name(name: str, chapters: Iterable[str]) -> str | None:
    """The chapter that a file's name or path mentions."""
    found = [c for c in chapters if re.search(rf"(?<![a-z]){re.escape(c)}(?![a-z])", name.lower())]
    return max(found, key=len, default=None)


def _recognise(
    cells: list[Cell], said: str | None, name: str, blanks: Mapping[str, Blank]
) -> str | None:
    """The chapter of a notebook: as its metadata says, else by its exercises, else by its name."""
    if said in blanks and _exercises_in(cells, blanks[said]):
        return said
    found = {}
    for chapter in blanks:
        # One that is being written, and cannot be read yet, is not the one handed in.
        with suppress(ChapterError, ReadProblem, ValueError):
            found[chapter] = _exercises_in(cells, blanks[chapter])
    best = max(found, key=lambda chapter: found[chapter], default=None)
    if best is not None and found[best]:
        return best
    return said if said in blanks else chapter_in_name(name, blanks)


def _exercises_in(cells: list[Cell], blank: Blank) -> float:
    """How many of the chapter's exercises a notebook has; those by metadata alone count less."""
    seen = {n for c in cells for n in re.findall(r"^(?:def|class)\s+(\w+)", c.source, re.M)}
    said = {c.exercise for c in cells}
    questions = blank.questions.values()
    return sum((q.id in said) / 100 + bool(seen & set(q.names)) for q in questions)


# --- Python, as notebooks have it ------------------------------------------------------------

# Cell magics that only measure or hide what they run.
TRANSPARENT = ("%%time", "%%timeit", "%%capture", "%%prun")
MAGIC = re.compile(r"^(\s*)(?:[%!?].*|[\w.]+\?+\s*|[\w, ]+=\s*[%!].*)$", re.M)


@lru_cache(512)  # most cells of a submission are those of the one before
def parse(source: str) -> tuple[str, dict[ast.stmt, str]]:
    """The Python of a cell, with IPython's magics as `pass`, and its statements.

    Each statement comes with its dump, which tells statements apart; comments and layout do not.

    Raises:
        SyntaxError: also for what Python cannot parse for other reasons.
    """
    if len(source) > MAX_CELL:
        raise SyntaxError(f"it has more than {MAX_CELL} characters")
    first, *rest = source.split("\n", 1)
    if first.startswith("%%"):
        if not first.startswith(TRANSPARENT):
            return "", {}  # another language
        source = "\n" + "".join(rest)
    try:
        return source, _statements(source)
    except SyntaxError as error:
        source = MAGIC.sub(r"\1pass", source)
        try:
            return source, _statements(source)
        except SyntaxError:
            raise error from None


def _statements(source: str) -> dict[ast.stmt, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape is the student's to see, not ours
        try:
            tree = ast.parse(source)
        except (RecursionError, MemoryError):
            raise SyntaxError("it is nested too deeply") from None
        except ValueError as error:  # a null byte
            raise SyntaxError(str(error)) from None
    level: list[ast.AST] = [tree]
    depth = 0
    while level := [child for node in level for child in ast.iter_child_nodes(node)]:
        depth += 1
        if depth > MAX_DEPTH:  # all that looks at code here is recursive
            raise SyntaxError("it is nested too deeply")
    return {statement: ast.dump(statement) for statement in tree.body}


def _bound(statement: ast.AST) -> Iterator[str]:
    """The names that a top-level statement gives a value."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Import() | ast.ImportFrom():
            yield from (a.asname or a.name.split(".")[0] for a in statement.names)
        case ast.Name(ctx=ast.Store()):
            yield statement.id
        case ast.Lambda():
            pass
        case _:
            for child in ast.iter_child_nodes(statement):
                yield from _bound(child)


def _free(statement: ast.AST) -> set[str]:
    """The names that a statement takes from elsewhere, roughly: loaded and nowhere stored."""
    loaded, stored = set(), set()
    nodes = list(ast.walk(statement))
    # These give no name to the code inside: the statement itself (class Net(Net)), and methods.
    outside = {statement}.union(*(node.body for node in nodes if isinstance(node, ast.ClassDef)))
    for node in nodes:
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else stored).add(node.id)
        elif isinstance(node, ast.arg):
            stored.add(node.arg)
        elif isinstance(node, ast.alias):
            stored.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler):
            stored.add(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            stored |= {node.name} if node not in outside else set()
    return loaded - stored - vars(builtins).keys()


def _is_definition(statement: ast.stmt, calls: bool = False) -> bool:
    """An import, function or class, or an assignment; one that calls something only if `calls`."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return True
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            return calls or not _calls(statement)
        case ast.If() | ast.Try():
            inner = [n for n in ast.iter_child_nodes(statement) if isinstance(n, ast.stmt)]
            inner += [s for h in getattr(statement, "handlers", ()) for s in h.body]
            if isinstance(statement, ast.If) and _calls(statement.test) and not calls:
                return False
            return all(isinstance(s, ast.Pass) or _is_definition(s, calls) for s in inner)
    return False


def _calls(node: ast.AST) -> bool:
    """Whether running the statement calls anything (a lambda's body does not run yet)."""
    if isinstance(node, (ast.Call, ast.Await)):
        return True
    if isinstance(node, (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    return any(map(_calls, ast.iter_child_nodes(node)))


def _alone(source: str, statement: ast.stmt) -> str:
    """One statement of a cell, on the line where it stands there."""
    decorators = getattr(statement, "decorator_list", [])
    first = min(node.lineno for node in [statement, *decorators])
    lines = source.splitlines()[first - 1 : statement.end_lineno]
    if not decorators:  # then others may share its lines
        lines = (ast.get_source_segment(source, statement) or "").splitlines()
    return "\n" * (first - 1) + "\n".join(lines)


# --- cells to exercises ----------------------------------------------------------------------


@dataclass
class _Statement:
    """A top-level statement of the student's that grading may run."""

    cell: Cell
    source: str  # of the cell, without magics
    node: ast.stmt
    exercise: str | None = None
    is_stub: bool = False

    @cached_property
    def names(self) -> set[str]:
        """What it defines."""
        return set(_bound(self.node))

    @cached_property
    def free(self) -> set[str]:
        """What it takes from elsewhere."""
        return _free(self.node)


class _Reader:
    """Sorts the statements of a notebook by the exercises of its chapter."""

    def __init__(self, cells: list[Cell], blank: Blank):
        self.blank = blank
        self.notes: list[str] = []
        self.setup = [s for source in blank.setup for s in parse(source)[1]]
        self.owner_of = {n: q.id for q in reversed(blank.questions.values()) for n in q.names}
        self.broken: dict[str, str] = {}  # exercise → what is wrong with its cell
        self.kept: list[_Statement] = []
        self.left: list[_Statement] = []  # what is not run
        self.given: list[_Statement] = []  # the chapter's own definitions
        self.labelled = {c.exercise for c in cells} & blank.questions.keys()
        for cell in cells:
            self._sort(cell)
        self._drop_stubs()
        self._add_given()

    def _sort(self, cell: Cell) -> None:
        label = cell.exercise if cell.exercise in self.blank.questions else None
        try:
            source, body = parse(cell.source)
        except SyntaxError as error:
            self._note_broken(cell, label, error)
            return
        if label is None:
            label = next(filter(None, (self._exercise(s, None) for s in body)), None)
        for node, dump in body.items():
            if dump in self.blank.statements:
                if _is_definition(node):
                    self.given.append(_Statement(cell, source, node))
            elif not _is_definition(node, calls=label is not None):
                self.left.append(_Statement(cell, source, node))
            else:
                exercise = self._exercise(node, label)
                is_stub = exercise is not None and dump in self.blank.questions[exercise].stub
                self.kept.append(_Statement(cell, source, node, exercise, is_stub))

    def _exercise(self, statement: ast.stmt, label: str | None) -> str | None:
        """The exercise that a statement answers: by its cell's label or by the name it defines."""
        if not _is_definition(statement):
            return label
        names = list(_bound(statement))
        if label and set(names) & set(self.blank.questions[label].names):
            return label
        return next((self.owner_of[n] for n in names if n in self.owner_of), label)

    def _note_broken(self, cell: Cell, label: str | None, error: SyntaxError) -> None:
        line = f" in line {error.lineno}" if error.lineno else ""
        self.notes.append(f"{cell.where.capitalize()} is no valid Python{line}: {error.msg}.")
        names = re.findall(r"^(?:def|class)\s+(\w+)", cell.source, re.M)
        for exercise in {label, *(self.owner_of.get(n) for n in names)} - {None}:
            self.broken[exercise] = f"Its cell is no valid Python{line}: {error.msg}."

    def _drop_stubs(self) -> None:
        """A stub that stands beside an answer of the same name must not overwrite it."""
        written = {n for s in self.kept if s.exercise and not s.is_stub for n in s.names}
        self.kept = [s for s in self.kept if not (s.is_stub and s.names & written)]

    def _add_given(self) -> None:
        """The chapter's own demonstrations run only where an answer uses what they define."""
        self.defined = {name for statement in self.setup for name in _bound(statement)}
        self.defined.update(*(s.names for s in self.kept))
        wanted = _free_in(self.kept) - self.defined
        while wanted:
            used = [s for s in self.given if s.names & wanted]
            self.kept += used
            self.defined.update(*(s.names for s in used))
            wanted = _free_in(used) - self.defined
        self.kept.sort(key=lambda s: (s.cell.number, s.node.lineno, s.node.col_offset))

    @cached_property
    def meaning(self) -> Names:
        """What names mean in this notebook."""
        return Names([*self.setup, *(s.node for s in self.kept)])

    def submission(self) -> Submission:
        attempts = {q.id: self._attempt(q) for q in self.blank.questions.values()}
        self._note_lost_metadata(attempts)
        pieces = [Piece(f"{SETUP} {i}", text) for i, text in enumerate(self.blank.setup, 1)]
        for s in self.kept:
            name = f"{s.cell.where}, line {s.node.lineno}"
            if s.node.col_offset:  # a = 1; b = 2
                name += f", column {s.node.col_offset + 1}"
            pieces.append(Piece(name, _alone(s.source, s.node), s.exercise))
        return Submission(self.blank.chapter, tuple(pieces), attempts, tuple(self.notes))

    def _attempt(self, question: Question) -> Attempt:
        own = [s for s in self.kept if s.exercise == question.id]
        if not any(s.names & set(question.names) for s in own):
            if question.id in self.broken:
                return Attempt(question.id, "syntax error", self.broken[question.id])
            self.notes.append(f"Exercise {question.id} is missing.")
            names = " or ".join(f"`{name}`" for name in question.names)
            return Attempt(question.id, "missing", f"No cell defines {names}.")
        answers = [s for s in own if not s.is_stub]
        if not answers:
            return Attempt(question.id, "not attempted", "Not attempted.")
        self._note_oddities(question, answers)
        code = [(s.cell.where, s.node) for s in self._with_helpers(answers)]
        uses = forbidden_uses(code, self.meaning, question.forbid)
        if uses:
            place = f"Line {uses[0].line} of {uses[0].where}"
            reason = f"{place} uses `{uses[0].text}`, which this exercise is to be solved without."
            return Attempt(question.id, "forbidden", reason)
        return Attempt(question.id, "answered")

    def _note_lost_metadata(self, attempts: Mapping[str, Attempt]) -> None:
        lost = [a for a in attempts if attempts[a].status != "missing" and a not in self.labelled]
        if lost:
            cells = f"exercises {', '.join(lost)}" if len(lost) > 1 else f"exercise {lost[0]}"
            self.notes.append(f"The metadata of {cells} was lost; found by the names defined.")

    def _note_oddities(self, question: Question, answers: list[_Statement]) -> None:
        for name in question.names:
            cells = list(dict.fromkeys(s.cell.where for s in answers if name in s.names))
            if len(cells) > 1:
                self.notes.append(
                    f"{len(cells)} cells answer {question.id}; the last one ({cells[-1]}) counts."
                )
                break
        computed = set().union(*(s.names for s in self.left))
        for name in sorted((_free_in(answers) - self.defined) & computed):
            self.notes.append(
                f"{question.id} uses `{name}`, which another cell computes; grading runs only "
                "definitions of other cells, so it should be computed in the exercise's own cell."
            )

    def _with_helpers(self, answers: list[_Statement]) -> list[_Statement]:
        """The statements of an answer and those that define what it uses, directly or not."""
        code = list(answers)
        for statement in code:  # grows
            known = {id(s) for s in code}
            code += [
                s
                for s in self.kept
                if s.names & statement.free and not s.is_stub and id(s) not in known
            ]
        return code


def _free_in(statements: Iterable[_Statement]) -> set[str]:
    return set().union(*(s.free for s in statements))
