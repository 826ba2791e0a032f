"""release: one source in, a page and a student notebook out, and nothing secret in either."""

from pathlib import Path

import mini as mini_course
import nbformat
import pytest

from autograder import release as module
from autograder.chapters import Chapter, ChapterError, load, stub_of
from autograder.release import content_key, release

SECRETS = ("secret_factor", "self.n += 1", "sum(c.n for c in counters)", "BEGIN SOLUTION")


@pytest.fixture
def released(mini):
    results = release([], mini)
    assert [(r.chapter, r.executed) for r in results] == [("mini", True), ("glossary", False)]
    return mini


def page_and_notebook(root):
    return (
        nbformat.read(root / "book/chapters/mini.ipynb", 4),
        nbformat.read(root / "notebooks/mini.ipynb", 4),
    )


def by_id(notebook):
    return {cell["id"]: cell for cell in notebook.cells}


def test_release(released):
    """One run, many looks at it: executing costs seconds."""
    root = released
    page, student = page_and_notebook(root)
    nbformat.validate(page)
    nbformat.validate(student)

    # The page has what the solved run printed, and stubs in place of solutions.
    assert "its one check holds" in str(by_id(page)["check-double"].outputs)
    assert "your code here" in by_id(page)["exercise-double"].source

    # The student notebook has neither outputs nor secrets, but for the text of checked cells.
    outputs = [cell.outputs for cell in student.cells if cell.get("outputs")]
    assert [o[0]["text"] for o in outputs] == ["tensor([0, 2, 4])\n"]
    checked = [c for c in student.cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert [c.source.splitlines()[0][:5] for c in checked] == ["twice"]
    for path in (root / "book/chapters/mini.ipynb", root / "notebooks/mini.ipynb"):
        text = path.read_text()
        assert not [secret for secret in SECRETS if secret in text]

    # Figures carry caption and alt text where myst-nb reads them, and no second HTML picture.
    (figure,) = [c for c in page.cells if "mystnb" in c.metadata]
    assert figure.metadata["mystnb"]["image"]["alt"] == "A straight line from 0 to 1."
    assert "text/html" not in figure.outputs[0]["data"]

    # The student's Markdown is plain.
    text = "\n".join(c.source for c in student.cells if c.cell_type == "markdown")
    assert "[LeCun et al. (1998)](https://doi.org/10.1/x)" in text
    assert "see (1) and doubling" in text
    assert "\\tag{1}" in text
    assert "> **Note**" in text
    assert ":::" not in text and "{cite" not in text

    # Hints are staged, the card is there, the first code cell installs the course in Colab.
    task = by_id(student)["task-double"].source
    assert task.index("Think of 2.") < task.index("Hint 2 of 2") < task.index("Multiply `x`.")
    assert "worth 100 points" in by_id(student)["card"].source
    assert "git+https://example.org/mini" in by_id(student)["install"].source
    assert student.cells[0].source == "# A tiny chapter"
    assert by_id(student)["exercise-double"].metadata["forbid"] == ["torch.add"]
    assert "difficulty ●○○\n\nTo be solved without `torch.add`.\n" in task
    assert "solved without" not in by_id(student)["task-count"].source

    assert "doubling\n  **加倍**. Twice as much." in (root / "book/glossary.md").read_text()

    # Nothing changed: nothing runs, nothing is written.
    assert [(r.executed, r.changed) for r in release([], root)] == [(False, ())]
    before = (root / "notebooks/mini.ipynb").read_bytes()

    # Text changed: nothing runs; `check` writes nothing.
    source = root / "solutions/mini/chapter.md"
    source.write_text(source.read_text().replace("Look.", "Look closely."))
    (result,) = release([], root, check=True)
    assert len(result.changed) == 2
    assert (root / "notebooks/mini.ipynb").read_bytes() == before
    (result,) = release([], root)
    assert (result.executed, len(result.changed)) == (False, 2)

    # Code changed: it runs, and the ids of the other cells stay.
    ids = set(by_id(page_and_notebook(root)[1]))
    source.write_text(source.read_text().replace("torch.arange(3)", "torch.arange(4)"))
    (result,) = release([], root)
    assert result.executed
    assert len(ids - set(by_id(page_and_notebook(root)[1]))) == 1


def test_a_failing_cell_names_the_chapter_and_the_error(mini):
    source = mini / "solutions/mini/chapter.md"
    source.write_text(source.read_text().replace("torch.arange(3)", "torch.nonsense"))
    with pytest.raises(ChapterError, match=r"(?s)chapter\.md: a cell .* failed.*nonsense"):
        release([], mini)
    assert not (mini / "notebooks/mini.ipynb").exists()


def test_a_solution_that_fails_its_own_check_is_not_shown_to_readers(mini, mini_checks):
    wrong = mini_course.CHECKS.replace("student.double(x), 2 * x", "student.double(x), x")
    Path(mini_checks.__file__).write_text(wrong)
    with pytest.raises(ChapterError, match=r"(?s)a solution fails its own check.*double: 0 of 1"):
        release([], mini)
    assert not (mini / "notebooks/mini.ipynb").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("# A tiny chapter", "Hello", "first line should be `# Title`"),
        ("{cite:t}`lecun1998`", "{cite:t}`nobody`", "no entry nobody"),
        ("{term}`doubling`", "{numref}`doubling`", "role {numref} has no plain form"),
        (":::{note}", ":::{youtube}", "directive {youtube} has no plain form"),
        ("    ### END SOLUTION\n```\n\n```{code-cell} ipython3\ncheck(\"double\")",
         "```\n\n```{code-cell} ipython3\ncheck(\"double\")", "needs ### BEGIN SOLUTION"),
        ("  chapter: mini", "  chapter: maxi", "should say `course: {chapter: mini}`"),
    ],
)  # fmt: skip
def test_a_broken_source_is_told_in_a_sentence(mini, monkeypatch, old, new, sentence):
    run = module.Run({}, 1)
    monkeypatch.setattr(module, "execute", lambda chapter, cells: FakeRun(cells))

    class FakeRun(type(run)):
        def __init__(self, cells):
            super().__init__({c["id"]: [] for c in cells}, 1)

    source = mini / "solutions/mini/chapter.md"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    with pytest.raises(ChapterError) as caught:
        release([], mini)
    assert sentence in str(caught.value)
    assert "chapter.md" in str(caught.value)


def test_a_chapter_that_fails_keeps_no_other_from_being_released(mini, monkeypatch):
    (mini / "solutions/other").mkdir()
    source = (mini / "solutions/mini/chapter.md").read_text()
    source = source.replace("chapter: mini", "chapter: other")
    source = source.replace("  glossary:\n    doubling", "  glossary:\n    trebling")
    (mini / "solutions/other/chapter.md").write_text(source)
    syllabus = mini / "book/syllabus.yml"
    text = syllabus.read_text()
    text += text.partition("chapters:\n  -")[2].replace("mini", "other").join(["  -", ""])
    syllabus.write_text(text)

    def execute(chapter, cells):
        if chapter.id == "mini":
            raise ChapterError("mini failed.")
        return module.Run({c["id"]: [] for c in cells}, 1)

    monkeypatch.setattr(module, "execute", execute)
    monkeypatch.setattr(Chapter, "hints", {})
    said = []
    with pytest.raises(ChapterError, match=r"^mini failed\.$"):
        release([], mini, jobs=1, progress=said.append)
    assert said == [f"{name}: running the solved notebook" for name in ("mini", "other")]
    assert (mini / "notebooks/other.ipynb").exists()
    assert not (mini / "notebooks/mini.ipynb").exists()
    assert "trebling" in (mini / "book/glossary.md").read_text()


def test_no_solutions_is_told(mini):
    import shutil

    shutil.rmtree(mini / "solutions")
    with pytest.raises(ChapterError, match="holds no chapter"):
        release([], mini)


def test_stub_of_keeps_the_interface_and_names_what_is_missing():
    source = '''class A:
    """Doc."""

    def f(self):
        """F."""
        ### BEGIN SOLUTION
        return 1
        ### END SOLUTION


def g():
    ### BEGIN SOLUTION
    return 2
    ### END SOLUTION'''
    stub = stub_of(source)
    assert "return" not in stub
    assert '        raise NotImplementedError("`A.f` is not written yet.")' in stub
    assert '    raise NotImplementedError("`g` is not written yet.")' in stub
    compile(stub, "stub", "exec")


@pytest.mark.parametrize(
    "source",
    ["x = 1", "### BEGIN SOLUTION", "### END SOLUTION",
     "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION"],
)  # fmt: skip
def test_stub_of_refuses_unbalanced_markers(source):
    with pytest.raises(ValueError, match="SOLUTION"):
        stub_of(source)


def test_namespace_runs_the_reference_and_answers_over_it(mini):
    chapter = load("mini", mini)
    assert chapter.namespace()["double"](3) == 6
    wrong = [a for a in chapter.misconceptions if a.name == "total"]
    assert chapter.namespace(wrong[:1])["total"]([1, 2, 3]) == 3


def test_the_key_follows_what_a_chapter_uses(tmp_path):
    for name in ("check.py", "checks/mini.py", "checks/other.py", "data/digits.py", "data/ants.py"):
        (tmp_path / "course" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "course" / name).write_text("")
    cell = nbformat.v4.new_code_cell('data.load("digits")', id="a")

    def key() -> str:
        return content_key([cell], tmp_path, "mini")

    for name, counts in {
        "check.py": True, "checks/mini.py": True, "checks/other.py": False,
        "data/digits.py": True, "data/ants.py": False,
    }.items():  # fmt: skip
        before = key()
        (tmp_path / "course" / name).write_text("changed")
        assert (key() != before) == counts, name
