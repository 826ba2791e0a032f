"""lint: silent on a good chapter, one plain sentence for every breach."""

import pytest

from autograder.lint import coverage, lint, signature_names


def test_a_good_chapter_has_no_finding(mini):
    assert lint([], mini) == []
    (row,) = coverage([], mini)
    assert str(row) == "mini: 1 of 1 topics (100%), 1 of 1 errata"


BREACHES = [
    ("chapter.md", ":topics: [mini.doubling]\n", "", "No cell says `topics: [mini.doubling]`"),
    ("chapter.md", "[mini.doubling]\n:e", "[mini.doubling, mini.odd]\n:e", "teaches mini.odd"),
    ("chapter.md", ":errata: [E999]\n", "", "No cell says `errata: [E999]`"),
    ("chapter.md", "points: 60", "points: 50", "double has 50 points; the syllabus says 60"),
    ("chapter.md", "points: 60", "points: 50", "add up to 90, not to 100"),
    ("chapter.md", "exercise: count", "exercise: tally", "The exercise count is missing"),
    ("chapter.md", "exercise: count", "exercise: tally", "The syllabus has no exercise tally"),
    ("chapter.md", "exercise: debug", "exercise: bug", "There is no `exercise: debug`"),
    ("chapter.md", "def total", "def totals", "count should define `total`"),
    ("chapter.md", 'check("count")', "1", 'should be `check("count")` alone'),
    ("chapter.md", "twice(torch", "double(torch", "uses `double` directly"),
    ("chapter.md", "return sum(c.n", "return double(c.n", "uses `double`, another exercise's"),
    ("chapter.md", "ax.plot([0, 1])", "ax.plot([0, 1]);", "trailing semicolon"),
    ("chapter.md", "ax.plot([0, 1])", f"x = '{'a' * 90}'", "96 columns wide"),
    ("chapter.md", "difficulty: 2", "difficulty: 4", "count has difficulty 4"),
    ("chapter.md", "minutes: 2\ndifficulty: 1", "difficulty: 1", "double has no 'minutes'"),
    ("chapter.md", ":::{note}", ":::{youtube}", "{youtube} has no plain form"),
    ("chapter.md", "Look.", "<details><summary>$x_t$</summary>Yes.</details>", "is not typeset"),
    ("chapter.md", "Look.", "<details><summary>`x`</summary>Yes.</details>", "<code>"),
    ("chapter.md", "Look.", "| mode | $x$ |\n|---|---|\n| a | 1 |", "A screen reader"),
    ("chapter.md", "  data: none\n", "", "The header has no `data`"),
    ("chapter.md", "zh: 加倍, ", "", "“doubling” needs `zh` and `means`"),
    ("tests.py", "points=40", "points=30", "tests of double give 50 points, not 60"),
    ("tests.py", '"count", points=15', '"cuont", points=15', "belongs to an exercise cuont"),
    ("tests.py", '    """total should add up the counts."""\n', "", "has no docstring"),
    ("misconceptions.py", "def double(x):\n    2 * x", "def trouble(x):\n    2 * x",
     "defines trouble, no name of it"),
    ("misconceptions.py", '@misconception("count", hint="Every', '@misconception("double", hint="E',
     "count has 2 misconceptions"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "sentence"), BREACHES)
def test_breach(mini, file, old, new, sentence):
    path = mini / "solutions/mini" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert [f for f in lint([], mini) if sentence in f.sentence]


def test_checks_and_hints_are_wanted(mini, mini_checks):
    mini_checks.HINTS["double"] = ["Only one."]
    del mini_checks.test_fixed
    sentences = [f.sentence for f in lint(["mini"], mini)]
    assert "double has fewer than two staged hints." in sentences
    assert "debug has no public check." in sentences


def test_toc_is_wanted(mini):
    (mini / "_toc.yml").write_text("root: book/index\n")
    assert "_toc.yml has no line" in lint([], mini)[0].sentence


@pytest.mark.parametrize(
    ("signature", "names"),
    [
        ("corr2d(x, k), conv2d(x[N,C,H,W], w, b)", ["corr2d", "conv2d"]),
        ("class Conv2D(nn.Module), learn_kernel(X, Y)", ["Conv2D", "learn_kernel"]),
        ("class Swish(torch.autograd.Function) and swish(x)", ["Swish", "swish"]),
        ("class Value with +, exp, backward(); directional(f, x, v)", ["Value", "directional"]),
        ("class Plateau(lr, mode): step(metric) -> lr", ["Plateau"]),
        ("grid(h: int, w: int = f(1)) -> Tensor[h*w, g(2)]", ["grid", "f"]),
    ],
)
def test_names_of_a_signature(signature, names):
    assert signature_names(signature) == names


def test_a_key_twice_in_the_bibliography_is_told(mini):
    path = mini / "book/references.bib"
    path.write_text(path.read_text() * 2)
    assert any("references.bib" in f.sentence and "lecun1998" in f.sentence for f in lint([], mini))
