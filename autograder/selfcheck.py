"""`autograder check`: the public checks on a student's own notebook, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autograder.notebook import Blank, ReadProblem, read
from autograder.replay import replay
from autograder.workers import Workers, cell_notes, limits, run_attempt
from course.check import Report, load_checks
from course.testing import collect

CHECK_SECONDS = 20.0


@dataclass(frozen=True)
class SelfCheck:
    """The reports of a notebook's exercises, and what else was noticed."""

    chapter: str
    reports: tuple[Report, ...]
    notes: tuple[str, ...]
    differences: tuple[str, ...] | None  # from the printed reference; None if not compared

    @property
    def passed(self) -> bool:
        return all(report.passed for report in self.reports) and not self.differences

    def __str__(self) -> str:
        lines = [*self.notes, *map(repr, self.reports)]
        if self.differences is not None:
            lines += self.differences or ["All printed results are those of the reference."]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        reports = {
            r.exercise: {
                "status": r.status,
                "checks": [
                    {"statement": o.statement, "passed": o.passed, "reason": o.reason}
                    for o in r.outcomes
                ],
            }
            for r in self.reports
        }
        return {
            "chapter": self.chapter,
            "passed": self.passed,
            "notes": self.notes,
            "exercises": reports,
            "differences": self.differences,
        }


def selfcheck(notebook: Path, root: Path, outputs: bool = True, sandbox: bool = True) -> SelfCheck:
    """Run a chapter's public checks on a notebook; needs no solutions.

    Args:
        outputs: once every check holds, also execute the notebook and compare what it prints.
    Raises:
        ReadProblem: if the file is no notebook of the course.
        SandboxError: if it cannot be isolated.
        OSError: if it cannot be read.
    """
    data = notebook.read_bytes()
    blanks = ReleasedBlanks(root)
    if not blanks:
        raise ReadProblem(f"{blanks.folder} holds no notebooks to compare with; fetch them again.")
    submission = read(data, notebook.name, blanks)
    chapter = submission.chapter
    module = load_checks(chapter)
    workers = Workers(root, sandbox)
    reports = []
    try:
        with workers.spawn(submission, limits(CHECK_SECONDS)) as process:
            for exercise, attempt in submission.attempts.items():
                checks = [t for t in collect(module) if t.exercise == exercise]
                outcomes, _, _ = run_attempt(checks, exercise, submission, process)
                if attempt.status not in ("answered", "not attempted"):  # once, not for each check
                    outcomes = [replace(outcomes[0], statement="There is an answer that counts.")]
                hints = getattr(module, "HINTS", {}).get(exercise, [])
                reports.append(Report(chapter, exercise, outcomes, hints))
            notes = [*submission.notes, *cell_notes(process)]
    finally:
        workers.close()
    differences = None
    if outputs and all(report.passed for report in reports):
        released = blanks.path(chapter).read_bytes()
        differences = tuple(replay(data, released, notebook.name, root, sandbox))
    return SelfCheck(chapter, tuple(reports), tuple(notes), differences)


class ReleasedBlanks(Mapping[str, Blank]):
    """The blank notebooks as released, `notebooks/<chapter>.ipynb`."""

    def __init__(self, root: Path):
        self.folder = root / "notebooks"
        self.known: dict[str, Blank] = {}

    def path(self, chapter: str) -> Path:
        return self.folder / f"{chapter}.ipynb"

    def __getitem__(self, chapter: str) -> Blank:
        if chapter not in self.known:
            try:
                data = self.path(chapter).read_bytes()
            except OSError:
                raise KeyError(chapter) from None
            self.known[chapter] = Blank.released(data, chapter)
        return self.known[chapter]

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.ipynb")))

    def __len__(self) -> int:
        return len(list(iter(self)))
