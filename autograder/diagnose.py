"""Names the misconception behind a wrong answer.

Each misconception of an exercise is graded like a submission; a student's answer that fails in the
same way gets its hint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autograder.chapters import Chapter
from course.testing import Answer, Outcome, Student, Test


@dataclass
class Diagnosis:
    """The misconceptions of a chapter and how each fails; computed when first asked for."""

    chapter: Chapter
    device: str = "cpu"
    _failures: dict[str, list[tuple[str, dict[str, Outcome]]]] = field(default_factory=dict)

    def hint(self, exercise: str, outcomes: Sequence[Outcome]) -> str:
        """The hint of the misconception that fails as these outcomes do; "" where none does."""
        failed = [o for o in outcomes if o.status == "failed"]
        if not failed:
            return ""
        if exercise not in self._failures:
            self._failures[exercise] = self._run(exercise)
        known = self._failures[exercise]
        whole = [_signature(o) for o in outcomes]
        for hint, theirs in known:
            if [_signature(theirs[o.test]) for o in outcomes] == whole:
                return hint
        for hint, theirs in known:
            if all(_reason(theirs[o.test]) == _reason(o) for o in failed):
                return hint
        first = failed[0]
        for hint, theirs in known:
            if first.counterexample.got and _signature(theirs[first.test]) == _signature(first):
                return hint
        return ""

    def _run(self, exercise: str) -> list[tuple[str, dict[str, Outcome]]]:
        tests = tests_of(self.chapter, exercise)
        return [
            (answer.hint, {o.test: o for o in self.outcomes(answer, tests)})
            for answer in self.chapter.misconceptions
            if answer.exercise == exercise
        ]

    def outcomes(self, answer: Answer, tests: Sequence[Test]) -> list[Outcome]:
        """What the tests say of one of the authors' own answers, run in this process."""
        namespace = self.chapter.namespace([answer])
        return [test.run(Student(namespace), self.device) for test in tests]


def tests_of(chapter: Chapter, exercise: str) -> list[Test]:
    """An exercise's hidden tests; one without points has none, its public checks tell as much."""
    hidden = [t for t in chapter.tests if t.exercise == exercise]
    return hidden or [replace(t, points=0) for t in chapter.checks if t.exercise == exercise]


def _signature(outcome: Outcome) -> tuple[str, ...]:
    example = outcome.counterexample
    return outcome.status, _reason(outcome), example.expected, example.got


def _reason(outcome: Outcome) -> str:
    """The reason without the line of code that raised, which is everyone's own."""
    return re.sub(r" \(in [\w<>]+, line \d+.*\)$", "", outcome.reason, flags=re.S)
