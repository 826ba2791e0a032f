"""Every chapter keeps its contract: sources, tests, notebooks and page agree."""

import copy
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


def answers(kind: str) -> list:
    return [
        pytest.param(name, answer, id=f"{name}-{answer.exercise}-{answer.name}-{number}")
        for name in CHAPTERS
        for number, answer in enumerate(getattr(chapter(name), kind))
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
def test_generated_files_are_those_of_the_sources(name):
    (result, *_) = release([name], ROOT, check=True)
    assert result.changed == (), f"run `autograder release {name}` and commit what it writes"


@pytest.mark.parametrize(("name", "exercise"), exercises())
def test_reference_passes(name, exercise):
    assert failures(name, exercise, []) == []
    namespace = chapter(name).namespace()
    for check in (t for t in chapter(name).checks if t.exercise == exercise):
        assert check.run(Student(namespace)).passed


@pytest.mark.parametrize(("name", "exercise"), exercises())
def test_untouched_stub_is_not_attempted(name, exercise):
    namespace = chapter(name).namespace()
    exec(chapter(name).exercises[exercise].stub, namespace)
    for check in (t for t in chapter(name).checks if t.exercise == exercise):
        assert check.run(Student(namespace)).status == "not attempted"


@pytest.mark.parametrize(("name", "answer"), answers("alternatives"))
def test_alternative_passes(name, answer):
    assert failures(name, answer.exercise, [answer]) == []


@pytest.mark.parametrize(("name", "answer"), answers("misconceptions"))
def test_misconception_fails(name, answer):
    assert failures(name, answer.exercise, [answer]), f"passes, but: {answer.hint}"


# --- the notebooks, run ----------------------------------------------------------------------


def student_notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", CHAPTERS)
def test_blank_notebook_runs_to_its_end(name, tmp_path):
    notebook = student_notebook(name)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in notebook.cells:
        if cell["id"].startswith("check-"):
            assert "not attempted" in cell.outputs[-1]["data"]["text/plain"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_nbval_reproduces_the_solved_notebook(name, tmp_path):
    notebook = copy.deepcopy(student_notebook(name))
    for cell in notebook.cells:
        if "exercise" in cell.metadata:
            cell.source = chapter(name).exercises[cell.metadata["exercise"]].reference
    checked = [c for c in notebook.cells if c.get("outputs")]
    assert checked, "no cell begins with # NBVAL_CHECK_OUTPUT"
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout=120", "-p", "no:cacheprovider", "-p", "no:xdist", str(path)],
        capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
