"""The page on agreement with the library says what the headers declare and the tests find.

That each chapter's numbers are those of its tests is shown in `test_chapters`, which runs them.
"""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autograder import agreement
from autograder.agreement import PAGE, first_cell, opening, sections
from autograder.chapters import ChapterError, chapter_ids, find_root, load
from autograder.cli import app
from autograder.lint import lint

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapter_ids(ROOT)

TESTS = '''
import pytest
import torch
import torch.nn.functional as F

from course.testing import assert_close, assert_gradcheck, assert_same_gradients, randn


def expected(x):
    return F.linear(x[:, None], torch.full((1, 1), 2, dtype=x.dtype))[:, 0]


@pytest.mark.exercise("double", points=40)
@pytest.mark.parametrize("n", [1, 5])
def test_double(student, n):
    """double(x) should be twice x."""
    x = randn(n)
    assert_close(student.double(x) * (1 + 3e-9), expected(x))
    assert_close(student.double(x.float()), expected(x.float()))
    assert_close(student.double(x).tolist(), expected(x).tolist(), rtol=1e-3)
    assert_close(student.double(torch.arange(n)), expected(torch.arange(n)))


@pytest.mark.exercise("double", points=20)
def test_gradient(student):
    """Its gradient should be two."""
    assert_same_gradients(student.double, expected, randn(3))
    assert_gradcheck(student.double, randn(2, requires_grad=True))


@pytest.mark.exercise("double", points=20)
def test_without_the_library(student):
    """double(0) should be 0."""
    assert_close(student.double(torch.zeros(2)), torch.zeros(2))
'''


@pytest.fixture
def chapter(mini):
    """The tiny chapter, its first exercise compared with a library's function."""
    source = mini / "solutions/mini/chapter.md"
    text = source.read_text(encoding="utf-8")
    claim = "double: torch.nn.functional.linear"
    source.write_text(text.replace("double: twice the input", claim), encoding="utf-8")
    (mini / "solutions/mini/tests.py").write_text(TESTS, encoding="utf-8")
    return load("mini", mini)


def test_comparisons_are_counted_by_kind(chapter):
    found = agreement.record(chapter, "double")
    (claim, *_) = agreement.claims(chapter)
    line = agreement.row(claim, agreement.called(chapter), found)
    assert line == (
        "| `double`<br>`F.linear` | 2 float64: 10⁻⁸ ≤ 10⁻⁷<br>2 float32: 0 ≤ 10⁻⁴<br>2 exact"
        "<br>6 loose: 0 ≤ 10⁻³ | 1 float64: 0 ≤ 10⁻⁷<br>1 numerical |"
    )


def test_a_reference_that_fails_is_told(chapter):
    path = chapter.folder / "tests.py"
    path.write_text(TESTS.replace("3e-9", "3e-6"), encoding="utf-8")
    with pytest.raises(ChapterError, match=r"fails test_double: The output should be"):
        agreement.record(chapter)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("torch.add", "names torch.add, which no test of it calls"),
        ("torch.nn.functional.linaer", "which does not exist"),
        ("with `torch.add`", "names torch.add, which no test of it calls"),
        ("{with: torch.add, bot: a slip}", "should be a library's function, a list"),
        ("3", "should be a library's function, a list"),
        ("twice the input\n    treble: as well", "no exercise defines `treble`"),
    ],
)
def test_lint_finds_a_claim_that_does_not_hold(mini, entry, sentence):
    source = mini / "solutions/mini/chapter.md"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("double: twice the input", f"double: {entry}"), encoding="utf-8")
    assert [f for f in lint([], mini) if sentence in f.sentence]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("    Counter: counts by hand\n", "", "compare `Counter` with"),
        ("agreement:\n", "agreement: none\n  other:\n", "should have a line for each function"),
    ],
)
def test_lint_wants_a_line_for_each_function(mini, old, new, sentence):
    source = mini / "solutions/mini/chapter.md"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace(old, new), encoding="utf-8")
    assert [f for f in lint([], mini) if sentence in f.sentence]


def test_a_library_that_is_called_but_not_compared_with_is_told(chapter):
    path = chapter.folder / "tests.py"
    path.write_text(TESTS.replace("student.double", "expected"), encoding="utf-8")
    with pytest.raises(ChapterError, match="No test compares `double` with torch"):
        agreement.section(chapter, agreement.record(chapter))


def test_the_command_writes_the_page_and_keeps_its_other_chapters(chapter, mini):
    page = mini / PAGE
    first = CliRunner().invoke(app, ["agreement", "--root", str(mini)])
    assert first.exit_code == 0, first.output
    text = page.read_text(encoding="utf-8")
    assert "**3** functions and classes,\n**1** of them" in text and "It takes no start." in text
    other = text.replace("A tiny chapter", "Gone").replace("/mini)", "/gone)")
    page.write_text(other, encoding="utf-8")
    again = CliRunner().invoke(app, ["agreement", "mini", "--root", str(mini)])
    assert again.exit_code == 0, again.output
    assert page.read_text(encoding="utf-8") == text  # a chapter that is gone leaves the page


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_page_has_every_function_with_its_library_and_deviation(name):
    text = sections(ROOT / PAGE).get(name, "")
    claims = agreement.claims(load(name, ROOT))
    firsts = [row.split(" | ")[0].removeprefix("| ") for row in re.findall(r"^\| `.*", text, re.M)]
    told = f"run `autograder agreement {name}` and commit what it writes"
    assert firsts == [first_cell(claim) for claim in claims], told
    assert re.findall(r"^- `(\w+)`: ", text, re.M) == [c.function for c in claims if c.but]


def test_the_totals_are_those_of_the_tables():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert text.startswith(opening(list(sections(ROOT / PAGE).values())))
