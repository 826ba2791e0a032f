"""A known misconception fails, and gets its hint, however its variables are called."""

import ast
from functools import cache
from pathlib import Path

import pytest
import torch
from make_submissions import answered, encoded, with_answer

from autograder import diagnose
from autograder.chapters import Chapter, chapter_ids, find_root, load
from autograder.diagnose import Diagnosis
from autograder.notebook import Blank, read
from autograder.workers import Workers, limits, run_attempt
from course.testing import Answer, Outcome, Test

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapter_ids(ROOT)
if not CHAPTERS:
    pytest.skip("a copy without solutions cannot diagnose", allow_module_level=True)

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
FUNCTIONS = (ast.FunctionDef, ast.Lambda)


@cache
def chapter(name: str) -> Chapter:
    return load(name, ROOT)


@cache
def blank(name: str) -> Blank:
    return Blank.of(chapter(name))


def renamed(source: str) -> str:
    """The same code with other names for everything local but arguments, which callers may name."""
    tree = ast.parse(source)
    inner = [
        node
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if node is not function
    ]
    arguments = {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    names = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.name for n in inner if isinstance(n, ast.FunctionDef)}
    outer = {name for n in inner if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    names -= arguments | outer
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"my_{node.id}"
        elif node in inner and isinstance(node, ast.FunctionDef):
            node.name = f"my_{node.name}"
    return ast.unparse(tree)


def test_renaming_changes_local_names_only():
    source = """
def f(x, n=2):
    x = x + 1
    total = n
    def g(y):
        half = y / 2
        return half + total
    return g(x) * len([i for i in range(n)])
"""
    other = renamed(source)
    for name in ("total", "half", "g", "i"):
        assert f" my_{name}" in other
    for kept in ("def f(x, n=2):", "x = x + 1", "(y):", "range(n)"):
        assert kept in other
    mine, theirs = {}, {}
    exec(source, mine)
    exec(other, theirs)
    assert theirs["f"](3, n=4) == mine["f"](3, n=4) == 24


def test_answers_of_the_authors_run_on_the_students_device(mini):
    """What fails on a GPU only is known as a misconception only where it runs there, too."""
    seen = []
    test = Test("test_it", "double", "It should be.", 1, lambda device: seen.append(device))
    owner = load("mini", mini)
    Diagnosis(owner, "cuda").outcomes(owner.misconceptions[0], [test])
    Diagnosis(owner).outcomes(owner.misconceptions[0], [test])
    assert seen == ["cuda", "cpu"]


@pytest.mark.parametrize("place", ["f, line 4: x + y", "<lambda>, line 3: lambda a: a[0]"])
def test_the_line_that_raised_does_not_tell_answers_apart(place):
    outcome = Outcome(
        "test_it", "double", "It should be.", 1, "failed", f"TypeError: no (in {place})"
    )
    assert diagnose._reason(outcome) == "TypeError: no"


def graded(answer: Answer, source: str, diagnosis: Diagnosis, workers: Workers) -> tuple[bool, str]:
    """Whether all tests pass for a student who hands this in, all else right; and the hint."""
    owner = diagnosis.chapter
    data = encoded(with_answer(owner, answer.exercise, source))
    submission = read(data, owner.id, {owner.id: blank(owner.id)})
    tests = diagnose.tests_of(owner, answer.exercise)  # by any other name pytest would collect it
    with workers.spawn(submission, limits(10)) as process:
        outcomes, _, _ = run_attempt(tests, answer.exercise, submission, process, diagnosis.device)
    passed = all(outcome.passed for outcome in outcomes)
    return passed, diagnosis.hint(answer.exercise, outcomes)


@pytest.mark.parametrize("name", CHAPTERS)
def test_right_answers_pass_the_public_checks_in_a_worker(name):
    """As `autograder check` runs them; within a notebook they meet the answers themselves."""
    owner, workers, failed = chapter(name), Workers(), []
    data = encoded(answered(owner))
    submission = read(data, owner.id, {owner.id: blank(owner.id)})
    try:
        with workers.spawn(submission, limits(10)) as process:
            for exercise in owner.exercises:
                checks = [t for t in owner.checks if t.exercise == exercise]
                outcomes, _, _ = run_attempt(checks, exercise, submission, process)
                failed += [f"{exercise}: {o.test}: {o.reason}" for o in outcomes if not o.passed]
    finally:
        workers.close()
    assert failed == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CHAPTERS)
def test_misconceptions_fail_and_are_named(name, device):
    diagnosis, workers = Diagnosis(chapter(name), device), Workers(gpu=float(device != "cpu"))
    passing, unnamed = [], {}
    try:
        for answer in chapter(name).misconceptions:
            passed, hint = graded(answer, renamed(answer.source), diagnosis, workers)
            which = f"{answer.exercise}, {answer.name}: {answer.hint}"
            if passed:
                passing.append(which)
            elif hint != answer.hint:
                unnamed[which] = hint
    finally:
        workers.close()
    assert passing == []
    assert len(unnamed) <= 0.05 * len(chapter(name).misconceptions), unnamed
