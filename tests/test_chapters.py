"""Every chapter keeps its contract: its sources agree with the syllabus and with each other.

That the tests fail on every misconception is shown in `test_diagnosis`.
"""

import re
from functools import cache
from pathlib import Path

import pytest

from autograder.agreement import PAGE, called, claims, record, row, sections
from autograder.chapters import Chapter, chapter_ids, find_root, load
from autograder.lint import coverage, lint
from autograder.release import release
from course.testing import Answer, Student

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapter_ids(ROOT)
if not CHAPTERS:
    pytest.skip("a copy without solutions has no chapters to test", allow_module_level=True)


@cache
def chapter(name: str) -> Chapter:
    return load(name, ROOT)


def exercises() -> list:
    return [
        pytest.param(name, exercise, id=f"{name}-{exercise}")
        for name in CHAPTERS
        for exercise in chapter(name).exercises
    ]


def alternatives() -> list:
    return [
        pytest.param(name, answer, id=f"{name}-{answer.exercise}-{answer.name}-{number}")
        for name in CHAPTERS
        for number, answer in enumerate(chapter(name).alternatives)
    ]


def failures(name: str, exercise: str, given: list[Answer]) -> list[str]:
    """What the hidden tests of an exercise say against the reference with these answers over it."""
    namespace = chapter(name).namespace(given)
    tests = [t for t in chapter(name).tests if t.exercise == exercise]
    outcomes = [test.run(Student(namespace)) for test in tests]
    return [f"{o.test}: {o.reason}" for o in outcomes if not o.passed]


@pytest.mark.parametrize("name", CHAPTERS)
def test_lint_is_silent_and_every_topic_is_taught(name):
    assert [f.sentence for f in lint([name], ROOT)] == []
    (row,) = coverage([name], ROOT)
    assert (row.taught, row.errata_shown) == (row.topics, row.errata)


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_map_promises_the_time_that_text_and_exercises_take(name):
    assert chapter(name).syllabus["minutes"] == pytest.approx(sum(chapter(name).minutes), abs=10)


@pytest.mark.parametrize("name", CHAPTERS)
def test_generated_files_are_those_of_the_sources(name):
    (result, *_) = release([name], ROOT, check=True)
    assert result.changed == (), f"run `autograder release {name}` and commit what it writes"


@pytest.mark.parametrize(("name", "exercise"), exercises())
def test_reference_passes_and_agrees_as_the_page_says(name, exercise):
    found = record(chapter(name), exercise)  # raises where a test or check fails
    page = without_measured(sections(ROOT / PAGE).get(name, ""))
    reached = called(chapter(name))
    for claim in (c for c in claims(chapter(name)) if c.exercise == exercise):
        line = without_measured(row(claim, reached, found))
        assert line in page, f"run `autograder agreement {name}` and commit what it writes"


def without_measured(text: str) -> str:
    """Rows of the page without the largest differences, which vary with the machine."""
    return re.sub(r"\S+ ≤", "≤", text)


@pytest.mark.parametrize(("name", "exercise"), exercises())
def test_untouched_stub_is_not_attempted(name, exercise):
    namespace = chapter(name).namespace()
    exec(chapter(name).exercises[exercise].stub, namespace)
    for check in (t for t in chapter(name).checks if t.exercise == exercise):
        assert check.run(Student(namespace)).status == "not attempted"


@pytest.mark.parametrize(("name", "answer"), alternatives())
def test_alternative_passes(name, answer):
    assert failures(name, answer.exercise, [answer]) == []
