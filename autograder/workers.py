"""Runs the pieces of a submission in a worker, and tests or checks on them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autograder.notebook import SETUP, Submission
from autograder.runner import Cell, Limits, StudentProcess, StudentZygote, run_exercise
from autograder.sandbox import BOUNDS, LAYERS, course_home
from course.testing import Outcome, Test

TEST_SECONDS = 20.0


def limits(seconds: float) -> Limits:
    """Limits in proportion to that of one case of a test."""
    return Limits(test=seconds, exercise=6 * seconds, cell=3 * seconds)


class Workers:
    """Owns the zygote whose forks run students' code; it holds what set-up cells import.

    Args:
        root: of the repository whose `course` their code imports; by default the installed one.
        sandbox: whether their code is isolated; else only its use of resources is limited.
        gpu: the share of a GPU's memory that each worker may use; 0 for no GPU.
    """

    def __init__(self, root: Path | None = None, sandbox: bool = True, gpu: float = 0.0) -> None:
        self._root = root
        self._layers = LAYERS if sandbox else ()
        self._bounds = replace(BOUNDS, gpu=gpu)
        self._imports: set[str] = set()
        self._zygote: StudentZygote | None = None

    def spawn(self, submission: Submission, limits: Limits) -> StudentProcess:
        """A worker for a submission.

        Raises:
            ZygoteError: if there can be none.
            SandboxError: if it cannot be isolated.
        """
        setup = [p.source for p in submission.pieces if p.name.startswith(SETUP)]
        needed = _imported(setup) | self._public_checks(submission.chapter)
        if self._zygote is None or not needed <= self._imports:
            self.close()
            imports = sorted(self._imports | needed)
            self._zygote = StudentZygote(imports, self._layers, self._bounds, self._root)
            self._imports |= needed
        return self._zygote.spawn([Cell(p.name, p.source) for p in submission.pieces], limits)

    def close(self) -> None:
        """End the zygote; the next submission gets a new one."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _public_checks(self, chapter: str) -> set[str]:
        """The module that `start` imports in a set-up cell."""
        name = chapter.replace("-", "_")
        exists = (course_home(self._root) / "course" / "checks" / f"{name}.py").exists()
        return {f"course.checks.{name}"} if exists else set()


def _imported(sources: Iterable[str]) -> set[str]:
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}


def run_attempt(
    tests: Sequence[Test],
    exercise: str,
    submission: Submission,
    process: StudentProcess,
    device: str = "cpu",
) -> tuple[list[Outcome], str, str]:
    """Outcomes of an exercise's tests, its status, and the reason where that is not "graded"."""
    attempt = submission.attempts[exercise]
    if attempt.status != "answered":
        status = "not attempted" if attempt.status == "not attempted" else "not run"
        outcomes = [
            Outcome(t.name, t.exercise, t.statement, t.points, status, attempt.reason)
            for t in tests
        ]
        return outcomes, attempt.status, attempt.reason
    outcomes = run_exercise(tests, process, device=device)
    lost = [(o.status, o.reason) for o in outcomes]
    if not all(o.passed for o in outcomes):  # its definitions may be what is lost
        names = {p.name for p in submission.pieces if p.exercise == exercise}
        lost = [(r.status, r.reason) for r in process.reports if r.name in names] + lost
    for status, reason in lost:
        if status in ("timed out", "crashed"):
            return outcomes, status, reason
    if outcomes and all(o.status == "not attempted" for o in outcomes):
        return outcomes, "not attempted", outcomes[0].reason
    return outcomes, "graded", ""


def cell_notes(process: StudentProcess) -> list[str]:
    """What went wrong while the cells themselves ran, as sentences."""
    notes = []
    for report in process.reports:
        where = report.name.capitalize()
        if report.status == "failed":
            cause = f"{report.error}: {report.reason}" if report.reason else report.error
            notes.append(f"{where} stops with {cause}; the rest is graded.")
        elif report.status != "run":
            notes.append(f"{where} {report.status}: {report.reason} The rest is graded.")
    return notes
