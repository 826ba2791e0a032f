"""What is handed out and what runs elsewhere: for students, in Gradescope's layout, in nbgrader."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import filelock
import make_submissions as made
import nbformat
import pytest
from test_secrets import SECRETS, leaks
from typer.testing import CliRunner

from autograder.chapters import ChapterError, chapter_ids, find_root, load
from autograder.cli import app
from autograder.pack import nbgrader_source, pack_gradescope, pack_nbgrader, pack_student

ROOT = find_root(Path(__file__).parent)
if "tensors" not in chapter_ids(ROOT):
    pytest.skip("a copy without solutions cannot pack", allow_module_level=True)


def unpacked(path: Path, folder: Path) -> Path:
    """As Gradescope and students do it: files with their modes."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        for member in archive.infolist():
            (folder / member.filename).chmod(member.external_attr >> 16 & 0o777)
    return folder


def answers(root: Path, **sources: str) -> bytes:
    """The student notebook with the references but for the given exercises."""
    chapter = load("mini", root)
    return made.encoded(made.answered(chapter, made.references(chapter) | sources))


# --- students --------------------------------------------------------------------------------


def test_students_get_notebooks_library_and_instructions_and_no_secret(tmp_path):
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8").splitlines()
    chapters = [c for c in chapter_ids(ROOT) if f"      - file: book/chapters/{c}" in toc]
    folder = unpacked(pack_student([], ROOT, tmp_path / "student.zip"), tmp_path / "student")
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {f"{c}.ipynb" for c in chapters} == {n for n in names if n.endswith(".ipynb")}
    assert {"README.md", "requirements.txt", "course/__init__.py", "course/testing.py"} <= names
    assert not [n for n in names if "solutions" in n or "autograder" in n or "__pycache__" in n]
    # Numbers are test_secrets.py's to look for: they may stand in another chapter by chance.
    found = [leak for leak in leaks(folder) if re.search("[a-z]{3}", leak.split("'")[1])]
    assert len(SECRETS) > 100 and found == []
    assert "tensors.ipynb" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_students_pack_works_where_it_is_unpacked(tmp_path):
    pack = pack_student(["tensors"], ROOT, tmp_path / "student.zip")
    folder = unpacked(pack, tmp_path / "student")
    assert {p.name for p in (folder / "course/checks").glob("*.py")} == {
        "__init__.py",
        "tensors.py",
    }
    script = (
        "import course; from course import check, start; start('tensors'); "
        "print(course.__file__, check('logspace').status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [f"{folder / 'course/__init__.py'}", "not yet\n"]


def test_a_folder_for_the_class_repository_is_brought_up_to_date(released, tmp_path):
    out = tmp_path / "class"
    assert pack_student(["mini"], released, out) == out
    files = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert {"mini.ipynb", "README.md", ".gitignore", "course/checks/mini.py"} <= files
    (out / "syllabus.md").write_text("the teacher's own")
    (out / "mini.ipynb").write_text("an earlier release")
    pack_student(["mini"], released, out)
    assert (out / "mini.ipynb").read_bytes() == (released / "notebooks/mini.ipynb").read_bytes()
    assert (out / "syllabus.md").exists()
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    pack_student(["mini"], released, tmp_path / "clone")


def test_a_folder_of_something_else_is_left_alone(released, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for out in (tmp_path / "mine", released):
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        with pytest.raises(ChapterError, match="holds something else; name a new folder"):
            pack_student(["mini"], released, out)
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_hidden_chapter_is_packed_only_by_name(released, tmp_path):
    toc = released / "_toc.yml"
    toc.write_text(
        toc.read_text().replace("- file: book/chapters/mini", "# - file: book/chapters/mini")
    )
    with pytest.raises(ChapterError, match="lists no chapter that has been released"):
        pack_student([], released, tmp_path / "student.zip")
    with zipfile.ZipFile(pack_student(["mini"], released, tmp_path / "student.zip")) as archive:
        assert "mini.ipynb" in archive.namelist()


def test_a_pack_is_the_same_every_time(released, tmp_path):
    first, second = (pack_student(["mini"], released, tmp_path / f"{n}.zip") for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_packed_is_said_in_one_sentence(released, tmp_path, monkeypatch):
    with pytest.raises(ChapterError, match="run `autograder release nothing`"):
        pack_student(["nothing"], released, tmp_path / "a.zip")
    with pytest.raises(ChapterError, match="Chapters with sources: mini"):
        pack_gradescope("nothing", released, tmp_path / "a.zip")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ChapterError, match="is not empty"):
        pack_nbgrader(["mini"], released, tmp_path / "full")
    assert not (tmp_path / "a.zip").exists()


def test_command(released, tmp_path):
    run = CliRunner().invoke
    done = run(app, ["pack", "student", "--root", str(released), "--out", str(tmp_path / "a.zip")])
    assert done.exit_code == 0 and (tmp_path / "a.zip").exists(), done.output
    options = ["--no-sandbox", "--root", str(released), "--out", str(tmp_path / "b.zip"), "--json"]
    done = run(app, ["pack", "gradescope", "mini", *options])
    assert json.loads(done.stdout) == {"path": str(tmp_path / "b.zip")}
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert json.loads(archive.read("options.json"))["grade"] == ["--no-sandbox"]
    assert run(app, ["pack", "gradescope", "--root", str(released)]).exit_code == 2
    assert run(app, ["pack", "nbgrader", "--root", str(released)]).exit_code == 2


# --- Gradescope ------------------------------------------------------------------------------


@pytest.fixture
def container(released, tmp_path) -> Path:
    """Gradescope's layout, without what setup.sh installs: this environment stands in for it."""
    root = tmp_path / "autograder"
    unpacked(pack_gradescope("mini", released, tmp_path / "autograder.zip"), root / "source")
    shutil.copy2(root / "source" / "run_autograder", root)
    (root / "venv").symlink_to(sys.prefix)
    (root / "submission").mkdir()
    (root / "results").mkdir()
    metadata = {"id": 1, "users": [{"name": "Alice", "email": "a@x.org", "id": 7}]}
    (root / "submission_metadata.json").write_text(json.dumps(metadata))
    return root


def run_harness(container: Path) -> dict:
    """What Gradescope does for a submission; returns results.json."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [container / "run_autograder"],
        cwd=container, capture_output=True, text=True,
        env=environment | {"AUTOGRADER_ROOT": str(container)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((container / "results" / "results.json").read_text(encoding="utf-8"))


def test_gradescope_grades_a_submission(released, container):
    wrong = "def double(x):\n    return x * x\n"
    (container / "submission" / "my homework (1).ipynb").write_bytes(
        answers(released, double=wrong)
    )
    results = run_harness(container)
    assert results["score"] == 60  # 40 for the other exercise, 20 for leaving the input alone
    tests = {t["name"]: t for t in results["tests"]}
    failed = tests["Double it: double(x) should be twice x."]
    assert (failed["score"], failed["max_score"], failed["status"]) == (0, 40, "failed")
    assert "Twice, not squared." in failed["output"]
    assert tests["Double it: double(x) should leave x alone."]["status"] == "passed"
    assert sum(t["max_score"] for t in results["tests"]) == 100
    assert {t["visibility"] for t in results["tests"]} == {"visible"}


def test_gradescope_without_a_notebook_says_what_to_hand_in(container):
    (container / "submission" / "homework.pdf").write_bytes(b"%PDF-1.7")
    results = run_harness(container)
    assert results["score"] == 0 and "hand in mini.ipynb" in results["output"]


def test_scripts_of_the_container_are_valid_and_executable(container):
    for name in ("setup.sh", "run_autograder"):
        script = container / "source" / name
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", script], check=True)
        assert 'root="${AUTOGRADER_ROOT:-/autograder}"' in script.read_text()
    requirements = (container / "source" / "requirements.txt").read_text().split()
    assert any(r.startswith("torch>=") for r in requirements)
    assert any(r.startswith("typer>=") for r in requirements)
    assert not any(r.startswith(("d2l", "ruff", "jupyter-book")) for r in requirements)


# --- nbgrader --------------------------------------------------------------------------------


def test_cells_follow_nbgraders_schema(released):
    chapter = load("mini", released)
    notebook = nbgrader_source(chapter, (released / "notebooks/mini.ipynb").read_bytes())
    nbformat.validate(notebook)
    cells = {c.metadata.nbgrader["grade_id"]: c for c in notebook.cells if "nbgrader" in c.metadata}
    assert sum(c.metadata.nbgrader.get("points", 0) for c in cells.values()) == 100
    for name, cell in cells.items():
        meta = cell.metadata.nbgrader
        assert meta["schema_version"] == 3 and meta["solution"] != meta["grade"]
        assert meta["locked"] == meta["grade"]
        assert ("BEGIN SOLUTION" in cell.source) == (name in chapter.exercises)
        assert ("BEGIN HIDDEN TESTS" in cell.source) == meta["grade"]


NBGRADER = "0.9.6"


@pytest.fixture(scope="module")
def nbgrader() -> Path:
    """The command of a real nbgrader, in an environment of its own that is made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch-by-writing"
    home, uv = cache / f"nbgrader-{NBGRADER}", Path(sys.executable).with_name("uv")
    command, complete = home / "bin" / "nbgrader", home / ".complete"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / "nbgrader.lock"):
        if not complete.exists():
            if not uv.exists():
                pytest.skip(f"nbgrader {NBGRADER} is not installed, and there is no uv to do it")
            python = home / "bin" / "python"
            for step in (
                [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home],
                [uv, "pip", "install", "--quiet", "--python", python, f"nbgrader=={NBGRADER}"],
            ):
                done = subprocess.run(step, capture_output=True, text=True)
                if done.returncode:
                    pytest.skip(f"nbgrader {NBGRADER} cannot be installed: {done.stderr[-300:]}")
            complete.touch()
    return command


def test_nbgrader_accepts_the_course_and_autogrades(released, nbgrader, tmp_path):
    course = pack_nbgrader(["mini"], released, tmp_path / "course")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    # The kernel finds `course` beside the notebook, not in this repository.
    environment = os.environ | {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "PATH": f"{nbgrader.parent}{os.pathsep}{os.environ['PATH']}",  # it calls alembic
        "PYTHONPATH": "",
    }

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [nbgrader, *arguments], cwd=course, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    run("generate_assignment", "mini")
    release = (course / "release" / "mini" / "mini.ipynb").read_text(encoding="utf-8")
    for secret in ("secret_factor", "def sum_of", "A counter should count from its start.\\\"",
                   "BEGIN SOLUTION", "BEGIN HIDDEN TESTS"):  # fmt: skip
        assert secret not in release
    # Students answer what nbgrader released: the second exercise wrongly.
    chapter = load("mini", released)
    notebook = json.loads(release)
    for cell in made.exercise_cells(notebook):
        cell["source"] = chapter.exercises[cell["metadata"]["exercise"]].reference
        if cell["metadata"]["exercise"] == "double":
            cell["source"] = (
                "def double(x):\n    import sys\n    sys.stderr.write('!')\n    return x * x\n"
            )
    submitted = course / "submitted" / "alice" / "mini" / "mini.ipynb"
    submitted.parent.mkdir(parents=True)
    submitted.write_text(json.dumps(notebook), encoding="utf-8")
    run("autograde", "mini")
    run("export")
    header, row = (course / "grades.csv").read_text().splitlines()
    scores = dict(zip(header.split(","), row.split(",")))
    assert (scores["student_id"], float(scores["score"])) == ("alice", 60.0)
    assert float(scores["max_score"]) == 100


def test_the_pack_says_that_nbgrader_has_no_trust_boundary(released, tmp_path):
    course = pack_nbgrader(["mini"], released, tmp_path / "course")
    assert "no trust boundary" in (course / "README.md").read_text(encoding="utf-8")
