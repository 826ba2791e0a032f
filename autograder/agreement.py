"""`autograder agreement`: the page that tells how far every exercise agrees with the library.

A chapter's header says for each function what its tests compare it with. The numbers come from
running those tests on the reference answers while every comparison is noted.
"""

from __future__ import annotations

import ast
import inspect
import math
import numbers
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from autograder.chapters import Chapter, ChapterError, chapter_ids, load
from autograder.forbidden import Names, canonical, shortened
from course import testing
from course.testing import Student, Test

PAGE = Path("book/agreement.md")
LIBRARY = re.compile(r"[A-Za-z_]\w*(\.\w+)+")  # anything else under `agreement` is a text
QUOTED = re.compile(rf"`({LIBRARY.pattern})`")
# In the words for what a test compares; a gradient after a step is one that was to be left alone.
GRADIENT = re.compile(r"^(?!.*\b(after|kept|without)\b).*(gradient|derivative|with respect to)")

ARRAYS = (torch.Tensor, np.ndarray)

# In this order. `loose` are statistics of random draws, limits and the like, of any precision;
# `numerical` are gradients that are compared with finite differences.
PRECISIONS = (
    "complex128", "complex64", "float64", "float32", "float16", "bfloat16",
    "exact", "numerical", "loose",
)  # fmt: skip
LOOSE = {"float64": 2e-4, "float32": 1e-2}  # tolerances above these


@dataclass(frozen=True)
class Claim:
    """What a chapter's header says of one function."""

    function: str
    exercise: str
    libraries: tuple[str, ...]
    text: str  # what it is compared with where there is no library
    but: str  # where it deviates on purpose


@dataclass(frozen=True)
class Comparison:
    """One comparison that a test made and that held."""

    exercise: str
    test: str
    functions: tuple[str, ...]  # of the answer, used since the comparison before
    gradient: bool
    precision: str
    difference: float  # the largest one, relative to expected values above 1
    tolerance: float


# --- what the headers say --------------------------------------------------------------------


def claims(chapter: Chapter) -> list[Claim]:
    """The header's `agreement`, in the order of the exercises.

    Raises:
        ChapterError: if a function is missing there, or unknown, or its entry is malformed.
    """
    entries = chapter.meta.get("agreement", {})
    if not isinstance(entries, dict):
        raise ChapterError(f"{chapter.source}: `agreement` should have a line for each function.")
    found = []
    for exercise in chapter.exercises.values():
        for function in exercise.names if exercise.points else ():
            if function not in entries:
                raise ChapterError(
                    f"{chapter.source}: under `agreement` the header should say what the tests "
                    f"compare `{function}` with."
                )
            found.append(_claim(chapter, function, exercise.id, entries[function]))
    for name in entries.keys() - {claim.function for claim in found}:
        raise ChapterError(f"{chapter.source}: no exercise defines `{name}` of `agreement`.")
    return found


def _claim(chapter: Chapter, function: str, exercise: str, entry: Any) -> Claim:
    whole = entry if isinstance(entry, dict) else {"with": entry}
    what, but = whole.get("with"), whole.get("but", "")
    listed = what if isinstance(what, list) else [what]
    texts = isinstance(but, str) and all(isinstance(x, str) for x in listed)
    if not texts or set(whole) - {"with", "but"}:
        raise ChapterError(
            f"{chapter.source}: `agreement` of `{function}` should be a library's function, a list "
            "of them, a text, or {with: one of these, but: a deviation}."
        )
    if all(LIBRARY.fullmatch(x) for x in listed):
        return Claim(function, exercise, tuple(listed), "", but)
    return Claim(function, exercise, (), " ".join(listed), but)


def false_claims(chapter: Chapter) -> Iterator[str]:
    """A sentence for each library function that is not there, or that no test calls."""
    reached = called(chapter)
    anywhere = set().union(*reached.values(), *_reached(_cells(chapter)).values())
    for claim in claims(chapter):
        tests = (t for t in _tests(chapter) if t.exercise == claim.exercise)
        mine = set().union(*(reached[_full_name(test)] for test in tests))
        for path in (*claim.libraries, *(quote[0] for quote in QUOTED.findall(claim.text))):
            try:
                pkgutil.resolve_name(path)
            except (ImportError, AttributeError):
                yield f"`agreement` of {claim.function} names {path}, which does not exist."
                continue
            if canonical(path) not in (mine if claim.libraries else anywhere):
                yield f"`agreement` of {claim.function} names {path}, which no test of it calls."


def called(chapter: Chapter) -> dict[str, set[str]]:
    """The library functions that the code of each test reaches."""
    found = {}
    for test in _tests(chapter):
        source = Path(inspect.getsourcefile(test.function)).read_text(encoding="utf-8")
        found[_full_name(test)] = _reached(source)[test.name]
    return found


def _tests(chapter: Chapter) -> list[Test]:
    return [*chapter.tests, *chapter.checks]


def _full_name(test: Test) -> str:
    """A check may have the name of a hidden test."""
    return f"{test.function.__module__}.{test.name}"


def _cells(chapter: Chapter) -> str:
    return "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")


@cache
def _reached(source: str) -> dict[str, set[str]]:
    """The library functions that a file's definitions reach, directly or by one another."""
    statements = ast.parse(source).body
    names = Names(statements)
    definitions: dict[str, list[ast.stmt]] = {"": []}
    for statement in statements:
        for name in _defines(statement) or [""]:
            definitions.setdefault(name, []).append(statement)

    def reach(name: str, seen: set[str]) -> set[str]:
        seen.add(name)
        paths = set()
        for node in (n for statement in definitions[name] for n in ast.walk(statement)):
            paths.update(map(canonical, names.reached(node)))
            if isinstance(node, ast.Name) and node.id in definitions.keys() - seen:
                paths |= reach(node.id, seen)
        return paths

    return {name: reach(name, set()) for name in definitions}


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


# --- what the tests find ---------------------------------------------------------------------


class Watched(Student):
    """An answer that notes which of its names are used."""

    def __init__(self, namespace: dict[str, Any]):
        super().__init__(namespace)
        self.__dict__["used"] = []

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self.used.append(name)
        return value


def record(chapter: Chapter, exercise: str | None = None) -> list[Comparison]:
    """Run hidden tests and public checks on the reference, and note what they compare.

    Args:
        exercise: run those of this exercise only.
    Raises:
        ChapterError: if a test does not hold.
    """
    student = Watched(chapter.namespace())
    found: list[Comparison] = []
    for test in _tests(chapter):
        if exercise in (None, test.exercise):
            with _noted(test, student, found):
                for index in range(len(test.cases)):
                    _run(chapter, test, student, index)
    return found


def _run(chapter: Chapter, test: Test, student: Watched, index: int) -> None:
    student.used.clear()
    try:
        test.run_case(student, index)
    except Exception as error:
        reason = test.outcome(student, index, error).reason
        raise ChapterError(f"{chapter.id}: the reference fails {test.name}: {reason}") from error


@contextmanager
def _noted(test: Test, student: Watched, found: list[Comparison]) -> Iterator[None]:
    """Within the block, what `course.testing` compares is added to `found`."""
    last: tuple[str, ...] = ()

    def note(what: str, precision: str, difference: float = 0.0, tolerance: float = 0.0) -> None:
        nonlocal last
        last = tuple(dict.fromkeys(student.used)) or last
        student.used.clear()
        gradient = precision == "numerical" or (precision != "exact" and GRADIENT.search(what))
        where = test.exercise, _full_name(test)
        found.append(Comparison(*where, last, bool(gradient), precision, difference, tolerance))

    def compare(got: Any, expected: Any, what: str, rtol: float | None, atol: float | None) -> None:
        plain(got, expected, what, rtol, atol)
        if isinstance(expected, ARRAYS) or _is_number(expected):
            note(what, *_measured(got, expected, rtol, atol))

    def equal(got: Any, expected: Any, what: str = "the result") -> None:
        plain_equal(got, expected, what)
        if not isinstance(expected, ARRAYS):  # those have gone to `compare`
            note(what, "exact")

    def gradcheck(check: Callable, f: Callable, inputs: tuple, what: str) -> None:
        plain_gradcheck(check, f, inputs, what)
        note(what, "numerical")

    plain, plain_equal = testing._compare, testing.assert_equal
    plain_gradcheck = testing._gradcheck
    here = test.function.__globals__
    with ExitStack() as stack:
        for name, noting in (
            ("_compare", compare),
            ("assert_equal", equal),
            ("_gradcheck", gradcheck),
        ):
            stack.enter_context(mock.patch.object(testing, name, noting))
        if "assert_equal" in here:  # a name of its own for the same function
            stack.enter_context(mock.patch.dict(here, assert_equal=equal))
        yield


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _measured(
    got: Any, expected: Any, rtol: float | None, atol: float | None
) -> tuple[str, float, float]:
    """Precision, largest difference and tolerance of a comparison that held."""
    if _is_number(expected):
        if isinstance(got, numbers.Integral) and isinstance(expected, numbers.Integral):
            return "exact", 0.0, 0.0
        got, expected = (torch.tensor(float(x), dtype=torch.float64) for x in (got, expected))
    a, b = torch.as_tensor(got).detach().cpu(), torch.as_tensor(expected).detach().cpu()
    default_rtol, default_atol = testing.TOLERANCES.get(b.dtype, (0.0, 0.0))
    tolerance = (default_rtol if rtol is None else rtol) + (default_atol if atol is None else atol)
    if not tolerance or not (b.is_floating_point() or b.is_complex()):
        return "exact", 0.0, 0.0
    a, b = (x.to_dense() if x.is_sparse else x for x in (a, b))
    wide = torch.promote_types(b.dtype, torch.float64)
    away = ((a.to(wide) - b.to(wide)).abs() / b.to(wide).abs().clamp(min=1)).nan_to_num(0)
    away = away.masked_fill(a == b, 0)  # infinite ones
    difference = away.max().item() if away.numel() else 0.0
    precision = str(b.dtype).removeprefix("torch.")
    loose = tolerance > LOOSE.get(precision, 1.0)
    return "loose" if loose else precision, difference, tolerance


# --- the page --------------------------------------------------------------------------------

OPENING = """\
<!-- Written by `autograder agreement` from the chapters' headers and what their tests find. -->

# Agreement with PyTorch

How do we know that what you write here is right, down to the last digit? Its tests ask a library
that many people have used for years, on random inputs of odd sizes, in value and in gradient. This
page is what they find on the reference answers: **{functions}** functions and classes,
**{libraries}** of them beside a library's own, in **{values}** comparisons of values and
**{gradients}** of gradients. The others have no counterpart; for them it says what else the tests
ask.

How to read `36 float64: 10⁻¹⁵ ≤ 10⁻⁷`: there are 36 comparisons in float64, their largest
difference is at most 10⁻¹⁵, and the tests fail above 10⁻⁷. Where the expected value is above 1,
the difference is a share of it.

- *exact*: whole numbers, texts and truth values, which must be equal.
- *numerical*: gradients beside finite differences.
- *loose*: statistics of random draws, limits, and training runs.

Where a library is named, only the tests that call it count for the values. `F` is
`torch.nn.functional`, `nn` is `torch.nn`, `np` is `numpy`. The largest differences vary a little
with the machine, within the tolerances.
"""
HEADER = "{.agreement}\n| function, compared with | values | gradients |\n|---|---|---|"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def section(chapter: Chapter, comparisons: Sequence[Comparison]) -> str:
    """What the page says of a chapter."""
    listed, reached = claims(chapter), called(chapter)
    title = chapter.syllabus["title"]
    parts = [
        f"## {title}\n\nTaught in [{title}](/book/chapters/{chapter.id}).",
        "\n".join([HEADER, *(row(claim, reached, comparisons) for claim in listed)]),
    ]
    deviations = [f"- `{claim.function}`: {shortened(claim.but)}" for claim in listed if claim.but]
    if deviations:
        parts += ["Intended deviations:", "\n".join(deviations)]
    return "\n\n".join(parts) + "\n"


def row(claim: Claim, called: dict[str, set[str]], comparisons: Sequence[Comparison]) -> str:
    """A function's line in the table.

    Raises:
        ChapterError: if the header names a library that none of the comparisons is with.
    """
    libraries = {canonical(path) for path in claim.libraries}
    mine = [
        c for c in comparisons if c.exercise == claim.exercise and claim.function in c.functions
    ]
    with_it = [c for c in mine if not libraries or libraries & called[c.test]]
    if not with_it:
        wanted = " or ".join(claim.libraries) or claim.text
        raise ChapterError(f"No test compares `{claim.function}` with {wanted}.")
    values = _cell([c for c in with_it if not c.gradient])
    gradients = _cell([c for c in mine if c.gradient])
    return f"| {first_cell(claim)} | {values} | {gradients} |"


def first_cell(claim: Claim) -> str:
    """A function and what it is compared with."""
    against = ", ".join(f"`{shortened(path)}`" for path in claim.libraries) or shortened(claim.text)
    return f"`{claim.function}`<br>{against}"


def _cell(comparisons: Sequence[Comparison]) -> str:
    lines = []
    for precision in PRECISIONS:
        found = [c for c in comparisons if c.precision == precision]
        if found:
            worst, allowed = max(c.difference for c in found), max(c.tolerance for c in found)
            sizes = f": {_rounded_up(worst, allowed)} ≤ {_number(allowed)}" if allowed else ""
            lines.append(f"{len(found)} {precision}{sizes}")
    return "<br>".join(lines) or "–"


def _rounded_up(difference: float, allowed: float) -> str:
    """The next power of ten, or the next digit where that power is more than is allowed."""
    if not difference:
        return "0"
    power = math.ceil(math.log10(difference))
    if 10.0**power <= allowed:
        return _number(10.0**power)
    unit = 10.0 ** (power - 1)
    return _number(math.ceil(difference / unit) * unit)


def _number(value: float) -> str:
    """`10⁻⁷` or `2·10⁻⁵`: to one digit."""
    digit, _, power = f"{value:.0e}".partition("e")
    ten = f"10{str(int(power)).translate(SUPERSCRIPT)}"
    return ten if digit == "1" else f"{digit}·{ten}"


def agreement(
    chapters: Sequence[str], root: Path, progress: Callable[[str], None] = lambda message: None
) -> Path:
    """Run the tests of the chapters (all where none is given) and bring the page up to date.

    Raises:
        ChapterError: for a header that claims what the tests do not show.
    """
    sources = [load(name, root) for name in chapters or chapter_ids(root)]
    for chapter in sources:
        for sentence in false_claims(chapter):
            raise ChapterError(f"{chapter.source}: {sentence}")
    found = {}
    for chapter in sources:
        progress(f"{chapter.id}: running its tests")
        found[chapter.id] = section(chapter, record(chapter))
    path = root / PAGE
    known = (sections(path) if path.exists() else {}) | found
    ordered = [known[name] for name in chapter_ids(root) if name in known]
    path.write_text("\n".join([opening(ordered), *ordered]), encoding="utf-8")
    return path


def sections(page: Path) -> dict[str, str]:
    """The page's sections by chapter."""
    parts = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        re.search(r"\(/book/chapters/([\w-]+)\)", part)[1]: part.strip() + "\n" for part in parts
    }


def opening(sections: Sequence[str]) -> str:
    """The head of the page, with the totals of its tables."""
    name = rf"`{LIBRARY.pattern}`"
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", "\n".join(sections), re.MULTILINE)
    return OPENING.format(
        functions=len(rows),
        libraries=sum(bool(re.search(rf"<br>{name}(, {name})*$", first)) for first, _, _ in rows),
        values=f"{sum(_count(cell) for _, cell, _ in rows):,}",
        gradients=f"{sum(_count(cell) for _, _, cell in rows):,}",
    )


def _count(cell: str) -> int:
    return sum(int(number) for number in re.findall(rf"(\d+) (?:{'|'.join(PRECISIONS)})", cell))
