"""The instructor's guide does what it says: every command of the page, run as it stands."""

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import make_submissions as made
import pytest
from copies import copy_of

from autograder.chapters import chapter_ids, find_root, load
from autograder.grade import read_records

ROOT = find_root(Path(__file__).parent)
PAGE = ROOT / "book" / "fifteen-minutes.md"
CHAPTERS = ("tensors", "autograd")
STUDENTS = {"Ada": ("tensors", "autograd"), "Amina": ("tensors",)}  # what each hands in
HANDED_IN = datetime(2026, 10, 1, tzinfo=UTC).timestamp()
if not set(CHAPTERS) <= set(chapter_ids(ROOT)):
    pytest.skip("a copy without solutions cannot grade", allow_module_level=True)


@dataclass(frozen=True)
class Step:
    """A block of the page, and what came of it."""

    commands: str
    status: int
    output: str


@dataclass(frozen=True)
class Walk:
    """The repository after all blocks of the page, in their order."""

    root: Path
    steps: list[Step]

    @property
    def term(self) -> Path:
        return self.root / "term"

    def step(self, command: str) -> Step:
        (found,) = (step for step in self.steps if command in step.commands)
        return found


# --- what a teacher has and a test has not ---------------------------------------------------


def hand_in(term: Path) -> None:
    """The same class in nbgrader's layout, as Moodle's download, and as Gradescope's export."""
    submitted = term / "submitted"
    metadata = ""
    for student, chapters in STUDENTS.items():
        for name in chapters:
            notebook = submitted / student / name / f"{name}.ipynb"
            notebook.parent.mkdir(parents=True)
            # Right answers, which are graded fast.
            notebook.write_bytes(made.encoded(made.answered(load(name, ROOT))))
            os.utime(notebook, (HANDED_IN, HANDED_IN))
    with (
        zipfile.ZipFile(term / "moodle.zip", "w") as moodle,
        zipfile.ZipFile(term / "gradescope.zip", "w") as gradescope,
    ):
        for number, student in enumerate(STUDENTS, 101):
            notebook = submitted / student / "tensors" / "tensors.ipynb"
            moodle.write(notebook, f"{student}_{number}_assignsubmission_file_/tensors.ipynb")
            gradescope.write(notebook, f"assignment_7_export/submission_{number}/tensors.ipynb")
            metadata += (
                f"submission_{number}:\n  :submitters:\n  - :name: {student}\n"
                f"    :sid: '{number}'\n    :email: {student.lower()}@example.org\n"
                "  :created_at: 2026-10-05 12:00:00.000000000 Z\n"
            )
        gradescope.writestr("assignment_7_export/submission_metadata.yml", metadata)


def git_server(folder: Path, submitted: Path, environment: dict[str, str]) -> None:
    """Repositories: empty for the teacher; for students with what they committed."""

    def git(*arguments: str, cwd: Path = folder) -> None:
        subprocess.run(["git", *arguments], cwd=cwd, env=environment, check=True)

    for owner in ("you", "ada", "amina"):
        repository = folder / owner / "deep-learning.git"
        repository.mkdir(parents=True)
        git("init", "--quiet", "--bare", "--initial-branch=main", cwd=repository)
        if owner == "you":
            continue
        work = folder / f"{owner}-works"
        work.mkdir()
        git("init", "--quiet", "--initial-branch=main", cwd=work)
        for notebook in (submitted / owner.capitalize()).rglob("*.ipynb"):
            shutil.copy(notebook, work)
        git("add", ".", cwd=work)
        git("commit", "--quiet", "--message=Done", cwd=work)
        git("push", "--quiet", str(repository), "main", cwd=work)


def make_a_test_wrong(path: Path) -> None:
    """Its first hidden test asks for something that does not hold."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    tests = (node for node in ast.parse("".join(lines)).body if isinstance(node, ast.FunctionDef))
    first = next(node for node in tests if node.name.startswith("test_"))
    lines.insert(first.body[0].end_lineno, "    assert_equal(1, 2)\n")  # after its docstring
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    home = tmp_path_factory.mktemp("guide")
    root = copy_of(ROOT, home / "course")
    (root / "term").mkdir()
    hand_in(root / "term")
    tests = root / "solutions" / "autograd" / "tests.py"
    right = shutil.copy(tests, home)
    make_a_test_wrong(tests)
    editor = home / "editor"  # a teacher who knows the mend
    editor.write_text(f'#!/bin/sh\ncp "{right}" "$1"\n')
    editor.chmod(0o755)
    server = home / "server"
    (home / ".gitconfig").write_text(
        "[user]\nname = A Teacher\nemail = teacher@example.org\n"
        f'[url "{server.as_uri()}/"]\ninsteadOf = https://git.example.org/\n'
    )
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_COMMITTER_DATE": "2026-10-06T12:00:00+00:00", "EDITOR": str(editor),
        "COLUMNS": "120",
    }  # fmt: skip
    git_server(server, root / "term" / "submitted", environment)
    steps = []
    for commands in re.findall(
        r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
    ):
        done = subprocess.run(
            ["bash", "-eu", "-c", commands], cwd=root, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        steps.append(Step(commands, done.returncode, done.stdout))
    return Walk(root, steps)


# --- what the page says ----------------------------------------------------------------------


def test_every_block_does_what_it_says(walk):
    assert len(walk.steps) >= 12
    for step in walk.steps:
        differs = step.commands.rstrip().splitlines()[-1].startswith("diff ")
        assert step.status == (1 if differs else 0), f"{step.commands}\n{step.output}"


def test_students_get_the_chosen_chapters_and_nothing_secret(walk):
    with zipfile.ZipFile(walk.term / "student.zip") as archive:
        names = set(archive.namelist())
    assert {n for n in names if n.endswith(".ipynb")} == {f"{c}.ipynb" for c in CHAPTERS}
    assert {n for n in names if n.startswith("course/checks/")} == {
        "course/checks/__init__.py", *(f"course/checks/{c}.py" for c in CHAPTERS)
    }  # fmt: skip
    pushed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "main"],
        cwd=walk.root.parent / "server" / "you" / "deep-learning.git",
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(pushed) == names


def test_everyone_is_found_wherever_they_hand_in(walk):
    moodle = walk.step("moodle.zip").output
    assert all(f"{name}_{n}" in moodle for n, name in enumerate(STUDENTS, 101))
    assert "2 files of 2 students" in moodle
    gradescope = walk.step("gradescope.zip").output
    assert all(f"{name.lower()}@example.org" in gradescope for name in STUDENTS)
    clones = walk.step("--chapter tensors --dry-run").output
    assert "Ada/tensors.ipynb" in clones and "2 files of 2 students" in clones
    for name in STUDENTS:  # its commit, not the moment of cloning
        stamp = (walk.term / "clones" / name / "timestamp.txt").read_text()
        assert stamp.startswith("2026-10-06T12:00:00")


def test_records_gradebook_and_report_are_where_the_page_says(walk):
    records = read_records(walk.term / "grades")
    assert {(r["student"], r["chapter"]) for r in records} == {
        (student, chapter) for student, chapters in STUDENTS.items() for chapter in chapters
    }
    report = walk.term / "report"
    dashboard = (report / "index.html").read_text(encoding="utf-8")
    assert "discrimination" in dashboard and all(f'id="{c}"' in dashboard for c in CHAPTERS)
    pages = {path.stem for path in (report / "feedback").glob("*.html")}
    assert pages == set(STUDENTS) and (report / "gradebook.csv").exists()


def test_students_find_their_page_in_their_repository(walk):
    for name in STUDENTS:
        page = subprocess.run(
            ["git", "show", "main:feedback.html"],
            cwd=walk.root.parent / "server" / name.lower() / "deep-learning.git",
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert name in page and not any(f"{other}<" in page for other in STUDENTS if other != name)


def gradebook(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_a_mended_test_changes_its_own_chapter_alone(walk):
    before = gradebook(walk.term / "before.csv")
    after = gradebook(walk.term / "grades" / "gradebook.csv")
    assert float(before["Ada"]["autograd"]) < float(after["Ada"]["autograd"]) == 100
    assert all(before[s]["tensors"] == after[s]["tensors"] == "100" for s in STUDENTS)
    output = walk.step("before.csv").output
    assert "3 submissions, 2 of them unchanged since an earlier run" in output
    assert re.findall(r"^> (\w+),", output, re.M) == ["Ada"]


def test_points_by_hand_are_in_the_report_and_not_in_the_record(walk):
    assert gradebook(walk.term / "report" / "gradebook.csv")["Amina"]["tensors"] == "105"
    (record,) = read_records(walk.term / "grades" / "Amina")
    assert record["score"] == 100
    page = (walk.term / "report" / "feedback" / "Amina.html").read_text(encoding="utf-8")
    assert "You explained it well in my office." in page
