"""Self-checks in a notebook: `check("corr")` says what holds, what does not, and why.

The checks are public. They show the main idea on small numbers; the grader's tests are thorough.
"""

from __future__ import annotations

import html
import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from course import faq
from course.progress import record
from course.runtime import seed_everything
from course.testing import Outcome, Probe, Student, collect

# Each notebook is a process of its own, so one chapter and one set of reports are all there is.
_chapter: str | None = None
_reports: dict[str, Report] = {}


def start(chapter: str, seed: int = 0) -> None:
    """Open a chapter in a notebook: seed every generator, use one thread, and point `check` at it.

    Raises:
        ValueError: if there is no such chapter.
    """
    global _chapter
    load_checks(chapter)
    _chapter = chapter
    _reports.clear()
    seed_everything(seed)
    torch.set_num_threads(1)


def check(exercise: str) -> Report:
    """Run the public checks of an exercise on this notebook's own functions and classes.

    Returns:
        a report that a notebook shows as a table and a terminal as text.
    Raises:
        ValueError: if the chapter has no such exercise, or none was opened with `start`.
    """
    return _check(exercise, sys._getframe(1).f_globals)


def use(name: str, otherwise: Any = None) -> Any:
    """The notebook's own `name` where its exercise passes `check`, else `otherwise`.

    Lets a notebook go on past an unfinished exercise: one line says which of the two is used.
    """
    namespace = sys._getframe(1).f_globals
    module = load_checks(_opened())
    exercise = _exercise_of(module, name)
    if name in namespace:
        report = _reports.get(exercise)
        if report is None or not _same(report.answers, _answers(module, exercise, namespace)):
            report = _check(exercise, namespace)
        if report.passed:
            return namespace[name]
        state = (
            "is not done yet" if report.status == "not attempted" else "does not pass its check yet"
        )
    else:
        state = "is not defined yet"
    instead = (
        "the library's version is used here" if otherwise is not None else "this part is skipped"
    )
    print(f"`{name}` {state}: {instead}.")
    return otherwise


def _check(exercise: str, namespace: dict[str, Any]) -> Report:
    chapter = _opened()
    module = load_checks(chapter)
    tests = [test for test in collect(module) if test.exercise == exercise]
    if not tests:
        known = ", ".join(dict.fromkeys(test.exercise for test in collect(module)))
        raise ValueError(f'There is no exercise "{exercise}" in {chapter}; there are {known}.')
    with _undisturbed():
        outcomes = [test.run(Student(namespace)) for test in tests]
    report = Report(
        chapter,
        exercise,
        outcomes,
        hints=getattr(module, "HINTS", {}).get(exercise, []),
        answers=_answers(module, exercise, namespace),
    )
    _reports[exercise] = report
    record(chapter, exercise, report.status)
    return report


def _opened() -> str:
    if _chapter is None:
        raise ValueError('No chapter is open: run the notebook\'s first cells, with start("…").')
    return _chapter


def load_checks(chapter: str) -> ModuleType:
    """The module of a chapter's public checks.

    Raises:
        ValueError: if there is none.
    """
    try:
        return importlib.import_module(f"course.checks.{chapter.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("course.checks"):
            raise
        raise ValueError(f'There is no chapter "{chapter}" in this course.') from None


def _exercise_of(module: ModuleType, name: str) -> str:
    """The exercise whose checks speak of `student.<name>`."""
    for test in collect(module):
        if name in _names(test.function.__code__, module):
            return test.exercise
    raise ValueError(f"No check of this chapter uses `{name}`.")


def _answers(module: ModuleType, exercise: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """The objects that an exercise's checks look at, kept to notice a new definition."""
    names = set()
    for test in collect(module):
        if test.exercise == exercise:
            names |= _names(test.function.__code__, module)
    return {name: namespace[name] for name in names if name in namespace}


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old.keys() == new.keys() and all(old[name] is new[name] for name in old)


def _names(code: CodeType, module: ModuleType) -> set[str]:
    """All names that a check uses, itself or through inner functions, helpers and probes."""
    names: set[str] = set()
    seen: list[CodeType] = []
    waiting = [code]
    while waiting:
        code = waiting.pop()
        seen.append(code)
        names.update(code.co_names)
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        helpers = [vars(module).get(name) for name in code.co_names]
        inner += [h.function.__code__ for h in helpers if isinstance(h, Probe)]
        inner += [
            h.__code__
            for h in helpers
            if isinstance(h, FunctionType) and h.__globals__ is vars(module)
        ]
        waiting += [found for found in inner if found not in seen]
    return names


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A check leaves the notebook's random numbers, grad mode and default dtype as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    dtype = torch.get_default_dtype()
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        torch.set_default_dtype(dtype)


@dataclass
class Report:
    """What the public checks of one exercise said."""

    chapter: str
    exercise: str
    outcomes: list[Outcome]
    hints: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def status(self) -> str:
        """ "passed", "not attempted", or "not yet"."""
        if self.passed:
            return "passed"
        if all(outcome.status == "not attempted" for outcome in self.outcomes):
            return "not attempted"
        return "not yet"

    @property
    def headline(self) -> str:
        held = sum(outcome.passed for outcome in self.outcomes)
        every = "its one check holds" if held == 1 else f"all {held} checks hold"
        return {
            "passed": f"{self.exercise}: {every}",
            "not attempted": f"{self.exercise}: not attempted",
            "not yet": f"{self.exercise}: {held} of {len(self.outcomes)} checks hold",
        }[self.status]

    def __repr__(self) -> str:
        lines = [self.headline]
        if self.status != "not attempted":
            for outcome in self.outcomes:
                lines.append(f"  {'✓' if outcome.passed else '✗'} {outcome.statement}")
                if not outcome.passed:
                    lines += [f"      {label}: {text}" for label, text in _details(outcome)]
        if self.status == "not yet" and self.hints:
            lines.append(f"  Hint: {self.hints[0]}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "" if self.status == "not attempted" else "".join(map(_row, self.outcomes))
        table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
        hints = "" if self.passed else _staged(self.hints)
        state = self.status.replace(" ", "-")
        return (
            f'{STYLE}<div class="course-check course-{state}" role="status">'
            f"<p><strong>{html.escape(self.headline)}</strong></p>{table}{hints}</div>"
        )


def _details(outcome: Outcome) -> list[tuple[str, str]]:
    example = outcome.counterexample
    pairs = [
        ("Likely cause", outcome.symptom),
        ("Why", outcome.reason),
        ("For", example.inputs),
        ("Expected", example.expected),
        ("Got", example.got),
        ("Explained", faq.address(outcome.reason)),
    ]
    return [(label, text) for label, text in pairs if text]


def _row(outcome: Outcome) -> str:
    mark, word = ("✓", "holds") if outcome.passed else ("✗", "does not hold")
    detail = ""
    if not outcome.passed:
        pairs = (
            f"<dt>{label}</dt><dd>{_shown(label, text)}</dd>" for label, text in _details(outcome)
        )
        detail = f"<dl>{''.join(pairs)}</dl>"
    return (
        f'<tr class="course-{"good" if outcome.passed else "bad"}">'
        f'<td><span role="img" aria-label="{word}">{mark}</span></td>'
        f"<td>{_prose(outcome.statement)}{detail}</td></tr>"
    )


def _shown(label: str, text: str) -> str:
    if label == "Explained":
        return f'<a href="{html.escape(text)}">{faq.TITLE}</a>'
    return _prose(text) if label in ("Likely cause", "Why") else _code(text)


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _prose(text: str) -> str:
    """Escape a sentence; what stands between backticks is code."""
    parts = text.split("`")
    return "".join(_code(p) if i % 2 else html.escape(p) for i, p in enumerate(parts))


def _staged(hints: list[str]) -> str:
    """Hints that open one inside the other, so that the second is seen only after the first."""
    inside = ""
    for number in range(len(hints), 0, -1):
        inside = (
            f"<details><summary>Hint {number} of {len(hints)}</summary>"
            f"<p>{_prose(hints[number - 1])}</p>{inside}</details>"
        )
    return inside


# Colours that read on white and on black, since Jupyter, Colab and the book have both.
STYLE = """<style>
.course-check{border-left:4px solid #8a8a8a;padding:.1em .9em;margin:.3em 0;max-width:52em}
.course-check.course-passed{border-color:#009e73}.course-check.course-not-yet{border-color:#d55e00}
.course-check p{margin:.35em 0}.course-check table{border-collapse:collapse;margin:0;width:100%}
.course-check td{text-align:left;vertical-align:top;padding:.15em .4em;border:0;white-space:normal}
.course-check td:first-child{width:1.2em;font-weight:bold}
.course-check .course-good td:first-child{color:#00865f}
.course-check .course-bad td:first-child{color:#c25400}
.course-check dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em .8em}
.course-check dl{margin:.2em 0 .5em}
.course-check dt{font-weight:600;opacity:.85}.course-check dd{margin:0;overflow-wrap:anywhere}
.course-check code{background:transparent;color:inherit;font-size:.95em;white-space:pre-wrap}
.course-check summary{cursor:pointer}.course-check details details{margin-left:1em}
</style>"""
