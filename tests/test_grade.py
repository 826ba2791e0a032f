"""Grading, end to end, on a tiny chapter; and what instructors and students call."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import make_submissions as make
import pytest
import torch
from batches import knowing, tiny_course
from typer.testing import CliRunner

from autograder import grade as grading
from autograder.chapters import ChapterError, load
from autograder.cli import app
from autograder.notebook import ReadProblem
from autograder.runner import Cell, StudentZygote
from autograder.sandbox import BOUNDS
from autograder.selfcheck import selfcheck
from autograder.submissions import CollectError, collect

SECONDS = 2.0  # for one case of a test: enough on a busy machine, not too long for a loop
SCHEMA = json.loads(
    (Path(grading.__file__).parent / "record.schema.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with tiny_course(tmp_path_factory.mktemp("grading")) as root:
        yield root


@pytest.fixture(scope="module")
def chapter(root):
    return load("mini", root)


@pytest.fixture
def grade(root, tmp_path):
    """`grade` in this process, so that all tests share one warm slot."""

    def run(*paths, out=tmp_path / "grades", **options):
        with ThreadPoolExecutor(1) as executor:
            options = {"executor": executor, "seconds": SECONDS} | options
            return grading.grade(paths, out, root, **options)

    run.out = tmp_path / "grades"
    return run


def record(out, student, chapter="mini"):
    return json.loads((out / student / f"{chapter}.json").read_text(encoding="utf-8"))


def gradebook(out):
    return list(csv.DictReader((out / "gradebook.csv").open(encoding="utf-8")))


def right(chapter, student="alice"):
    return make.Made(student, make.encoded(make.answered(chapter)), 100)


def blank(chapter, student="bob"):
    return make.Made(student, make.encoded(make.blank(chapter)), 0)


# --- scores ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(root, chapter, tmp_path_factory):
    """All variants, graded once."""
    folder = tmp_path_factory.mktemp("variants")
    made = make.variants(chapter)
    make.write_flat(folder / "in", made)
    with ThreadPoolExecutor(1) as executor:
        rows = grading.grade(
            [folder / "in"], folder / "out", root, executor=executor, seconds=SECONDS
        )
    return made, rows, folder / "out"


def find(out, student):
    (path,) = (out / student).glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_score_is_the_known_one(graded):
    made, rows, out = graded
    assert len(made) >= 29
    expected = {m.student: (m.score, m.status) for m in made}
    assert {r.student: (r.score, r.status) for r in rows} == expected
    assert {m.student: find(out, m.student)["score"] for m in made} == {
        m.student: m.score for m in made
    }


def test_every_misconception_is_named(graded):
    made, _, out = graded
    for one in made:
        hints = {e["hint"] for e in find(out, one.student)["exercises"].values()} - {""}
        if one.hint:
            assert hints == {one.hint}, one.student
        elif one.score == 100:
            assert hints == set()


def test_records_keep_their_schema(graded):
    made, _, out = graded
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for one in made:
        validator.validate(find(out, one.student))


def test_records_hold_nothing_of_the_hidden_tests(graded, root):
    _, _, out = graded
    everything = "".join(p.read_text(encoding="utf-8") for p in out.rglob("*.json"))
    for word in ("secret_factor", "assert_close", "sum_of", "student.run", "parametrize"):
        assert word not in everything


@pytest.mark.parametrize(
    ("student", "exercise", "status", "reason"),
    [
        ("blank", "double", "not attempted", "Not attempted"),
        ("no-cell", "double", "missing", "No cell defines `double`"),
        ("bad-syntax", "double", "syntax error", "no valid Python in line"),
        ("forbidden", "double", "forbidden", "uses `library.add`"),
        ("loops", "double", "timed out", "did not finish within 2 s"),
        ("exits", "double", "crashed", "exit code 0"),
        ("right", "debug", "graded", ""),
    ],
)
def test_every_exercise_says_what_became_of_it(graded, student, exercise, status, reason):
    found = find(graded[2], student)["exercises"][exercise]
    assert found["status"] == status
    assert reason in found["reason"]


def test_a_failed_test_says_why(graded):
    failed = find(graded[2], "wrong-1-double")["exercises"]["double"]
    test = failed["tests"][0]
    assert not test["passed"] and test["statement"] == "double(x) should be twice x."
    assert "should be" in test["reason"]
    assert test["counterexample"]["inputs"].startswith("double(")
    assert test["counterexample"]["expected"] and test["counterexample"]["got"]
    assert failed["hint"] == "Twice, not squared."


def test_cells_that_fail_are_noted(graded):
    notes = find(graded[2], "raises")["notes"]
    assert any("stops with ZeroDivisionError: division by zero" in note for note in notes)


def test_gradebook_has_a_line_for_each_student(graded):
    made, _, out = graded
    lines = gradebook(out)
    assert {line["student"] for line in lines} == {m.student for m in made}
    line = next(line for line in lines if line["student"] == "half-done")
    assert line == {"student": "half-done", "mini": "60", "total": "60", "max": "100"}


# --- runs ------------------------------------------------------------------------------------


def test_what_is_unchanged_is_not_graded_again(grade, chapter, root, tmp_path):
    made = [right(chapter), blank(chapter), make.Made("eve", b"%PDF", 0, "unreadable")]
    folder = make.write_flat(tmp_path / "in", made[:2])
    assert all(row.fresh for row in grade(folder))
    make.write_flat(folder, made)  # as after a run that was killed: one more to do
    again = {row.student: (row.fresh, row.score) for row in grade(folder)}
    assert again == {"alice": (False, 100), "bob": (False, 0), "eve": (True, 0)}
    make.write_flat(folder, [right(chapter, "bob")])
    assert {r.student: r.fresh for r in grade(folder)} == {
        "alice": False, "bob": True, "eve": False
    }  # fmt: skip
    assert record(grade.out, "bob")["score"] == 100
    assert all(row.fresh for row in grade(folder, force=True))


def test_changed_tests_grade_again(grade, chapter, root, tmp_path):
    folder = make.write_flat(tmp_path / "in", [blank(chapter)])
    assert grade(folder)[0].fresh and not grade(folder)[0].fresh
    extra = root / "solutions" / "mini" / "more.py"
    extra.write_text("", encoding="utf-8")
    assert grade(folder)[0].fresh
    extra.unlink()


def test_records_depend_on_the_modules_that_grading_uses():
    """And on no other: who edits a report need not grade again."""
    folder = Path(grading.__file__).parent
    open_, found = ["grade", "worker"], set()
    while open_:
        name = open_.pop()
        if (folder / f"{name}.py").exists() and name not in found:
            found.add(name)
            text = (folder / f"{name}.py").read_text(encoding="utf-8")
            open_ += re.findall(r"^from autograder\.(\w+) import", text, re.M)
            for names in re.findall(r"^ *from autograder import (.+)$", text, re.M):
                open_ += names.split(", ")
    assert {*grading.GRADING} == found - {"submissions"}  # which only finds the files


def test_what_is_unchanged_starts_no_process(grade, chapter, tmp_path):
    folder = make.write_flat(tmp_path / "in", [blank(chapter)])
    grade(folder)
    assert [row.score for row in grade(folder, executor=object())] == [0]


def test_two_files_of_a_student_both_are_graded_and_the_newer_counts(grade, chapter, tmp_path):
    folder = tmp_path / "in"
    make.write_flat(folder / "alice", [right(chapter, "new"), blank(chapter, "old")])
    os.utime(folder / "alice" / "old.ipynb", (1, 1))
    rows = {row.file: row for row in grade(folder)}
    assert rows["alice/new.ipynb"].counts and not rows["alice/old.ipynb"].counts
    assert "Counts instead of the older alice/old.ipynb." in rows["alice/new.ipynb"].notes
    assert "alice/new.ipynb is newer and counts instead." in rows["alice/old.ipynb"].notes
    assert record(grade.out, "alice")["score"] == 100
    assert gradebook(grade.out)[0]["total"] == "100"
    assert len(list((grade.out / "alice" / "earlier").glob("mini-*.json"))) == 1
    os.utime(folder / "alice" / "new.ipynb", (0, 0))
    assert not any(row.fresh for row in grade(folder))
    assert gradebook(grade.out)[0]["total"] == "0"
    assert len(list((grade.out / "alice").rglob("*.json"))) == 2


def test_a_damaged_file_does_not_replace_a_readable_one(grade, chapter, tmp_path):
    folder = make.write_flat(tmp_path / "in" / "alice", [right(chapter, "mini")])
    (folder / "mini (1).ipynb").write_bytes(b"")
    rows = grade(tmp_path / "in")
    assert {row.status for row in rows} == {"graded", "unreadable"}
    assert record(grade.out, "alice")["score"] == 100


def test_a_process_that_dies_loses_nobody(grade, chapter, root, tmp_path, monkeypatch):
    class Dying(Executor):
        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    folder = make.write_flat(tmp_path / "in", [right(chapter), blank(chapter)])
    monkeypatch.setattr(grading, "processes", ThreadPoolExecutor)
    assert [r.score for r in grade(folder, executor=Dying())] == [100, 0]
    monkeypatch.setattr(grading, "processes", lambda jobs: Dying())
    rows = grade(folder, executor=Dying(), force=True)
    assert [row.status for row in rows] == ["grader failed"] * 2


def test_a_failure_of_the_grader_is_said_and_not_kept(grade, chapter, tmp_path, monkeypatch):
    folder = make.write_flat(tmp_path / "in", [right(chapter)])
    with monkeypatch.context() as patch:
        patch.setattr(grading, "read", lambda *_: 1 / 0)
        (row,) = grade(folder)
        assert row.status == "grader failed" and "ZeroDivisionError" in row.notes[0]
    (row,) = grade(folder)
    assert row.status == "graded" and row.score == 100
    assert [p.name for p in (grade.out / "alice").iterdir()] == ["mini.json"]


def test_a_lost_zygote_is_replaced(grade, chapter, tmp_path):
    folder = make.write_flat(tmp_path / "in", [right(chapter)])
    grade(folder)
    workers = grading._current.workers
    workers._zygote._process.kill()
    workers._zygote._process.wait()
    (row,) = grade(folder, force=True)
    assert row.score == 100


def test_expected_chapter_is_named(grade, chapter, tmp_path):
    folder = make.write_flat(tmp_path / "in", [right(chapter)])
    with pytest.raises(ChapterError, match="Chapters with sources: mini"):
        grade(folder, chapter="nonsense")
    (row,) = grade(folder, chapter="mini")
    assert row.score == 100


def resident(pid):
    """Megabytes of a process's memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- devices: no GPU is needed to test what leads there ---------------------------------------


@pytest.mark.parametrize(
    ("device", "count", "says"),
    [
        ("gpu", 1, "There is no device gpu"),
        ("meta", 1, "There is no device meta"),
        ("cuda", 0, "torch finds none here"),
        ("cuda:2", 2, "torch finds 2 of them here"),
    ],
)
def test_a_device_that_is_not_here_is_said(
    chapter, root, tmp_path, monkeypatch, device, count, says
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    folder = make.write_flat(tmp_path / "in", [blank(chapter)])
    with pytest.raises(grading.DeviceError, match=says):
        grading.grade([folder], tmp_path / "out", root, device=device)


@pytest.mark.parametrize(("jobs", "share"), [(None, 0.125), (2, 0.25)])
def test_processes_share_a_gpu(chapter, root, tmp_path, monkeypatch, jobs, share):
    def started(students, settings, force, executor, jobs):
        found.append((settings.gpu, jobs))
        yield from ()

    found = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(grading, "_map", started)
    folder = make.write_flat(tmp_path / "in", [blank(chapter)])
    grading.grade([folder], tmp_path / "out", root, device="cuda", jobs=jobs)
    assert found == [(share, 0.5 / share)]


def test_a_worker_knows_its_share_of_a_gpu_and_was_forked_before_cuda():
    bounds = replace(BOUNDS, gpu=0.125)
    cell = Cell("answer", "import os, torch\nstarted = torch.cuda.is_initialized()\n"
                "limit = os.environ.get('PYTORCH_ALLOC_CONF')")  # fmt: skip
    with StudentZygote(layers=(), bounds=bounds) as zygote, zygote.spawn([cell]) as process:
        assert process.student.limit == "per_process_memory_fraction:0.1250"
        assert process.student.started is False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(grade, chapter, tmp_path):
    data, wrong = right(chapter).data, make.misconceptions(chapter)[0].data

    def grade_class(size):
        made = [make.Made(f"s{n}", wrong if n % 4 else data, 0) for n in range(size)]
        grade(make.write_flat(tmp_path / f"{size}", made), out=tmp_path / "out", force=True)
        zygote = grading._current.workers._zygote._process.pid
        return resident(os.getpid()) + resident(zygote)

    before = grade_class(20)  # what is read once, read
    grown = grade_class(100) - before
    assert grown < 4  # MB: what a submission leaves behind would add up


# --- layouts ---------------------------------------------------------------------------------


def students(path, chapters=("mini", "other")):
    return [(e.student, e.label) for e in collect([path], chapters)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["alice.ipynb", "bob.ipynb"], ["alice", "bob"]),
        (["alice_mini.ipynb", "mini-bob.ipynb", "carl mini (2).ipynb"], ["alice", "bob", "carl"]),
        (["submitted/alice/hw1/mini.ipynb", "submitted/bob/hw1/x.ipynb"], ["alice", "bob"]),
        (["alice/hw1/mini.ipynb", "bob/hw1/mini.ipynb"], ["alice", "bob"]),
        (["alice/mini.ipynb", "alice/other.ipynb"], ["alice", "alice"]),
        (["mini.ipynb", "other.ipynb"], ["class", "class"]),
        (["doejane_123_456_mini.ipynb", "roe_LATE_9_8_a_b.ipynb"], ["doejane_123", "roe_9"]),
        (["Jané Doe_12_assignsubmission_file_/mini.ipynb"], ["Jané-Doe_12"]),
        (["Jane Doe_12_assignsubmission_file_mini.ipynb"], ["Jane-Doe_12"]),
        (["alice/mini.ipynb", "alice/data.csv", "alice/notes.txt", "roster.csv"], ["alice"]),
        (["alice/answers.pdf", "bob/mini.ipynb"], ["alice", "bob"]),
        (["alice/.ipynb_checkpoints/mini.ipynb", "alice/mini.ipynb"], ["alice"]),
        (["=cmd().ipynb", ".hidden.ipynb"], ["cmd"]),
    ],
)
def test_students_are_found_in_common_layouts(tmp_path, names, expected):
    assert [s for s, _ in students(touch(tmp_path / "class", *names))] == expected


def test_students_whose_safe_names_collide_are_told_apart(tmp_path):
    folder = touch(tmp_path / "class", "a b/x.ipynb", "a-b/x.ipynb")
    names = {s for s, _ in students(folder)}
    assert len(names) == 2 and all(name.startswith("a-b-") for name in names)


@pytest.mark.parametrize("prefix", ["", "hw1/", "class/submitted/", "submitted/"])
def test_zips_of_a_class(tmp_path, prefix):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}alice/mini.ipynb", "{}")
        archive.writestr(f"{prefix}bob/mini.ipynb", "{}")
        archive.writestr("__MACOSX/x.ipynb", "{}")
    assert [s for s, _ in students(path)] == ["alice", "bob"]


def test_a_zip_within_the_class_is_a_students(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("work/mini.ipynb", b"inside")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("alice.zip", inner.getvalue())
        archive.writestr("bob.ipynb", b"beside")
    alice, bob = collect([tmp_path / "all.zip"], ["mini"])
    assert (alice.student, alice.source.read()) == ("alice", b"inside")
    assert (bob.student, bob.source.read()) == ("bob", b"beside")


def test_nothing_leaves_a_zip(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.ipynb", "{}")
        archive.writestr("/etc/absolute.ipynb", "{}")
        archive.writestr("C:\\drive.ipynb", "{}")
        link = zipfile.ZipInfo("link.ipynb")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("alice.ipynb", b" " * (100 << 20))
        archive.writestr("bob.ipynb", "{}")
    alice, bob = collect([path], ["mini"])
    assert (alice.student, bob.student) == ("alice", "bob")
    assert len(alice.source.read()) < 40 << 20  # never the whole bomb
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"]


GRADESCOPE = """---
submission_101:
  :submitters:
  - :name: Ada Lovelace
    :sid: '7'
    :email: ada@example.org
  :created_at: 2026-10-05 15:58:23.948203000 Z
  :results: !ruby/hash:ActiveSupport::HashWithIndifferentAccess
    tests: []
submission_102:
  :submitters:
  - :name: Bo
    :sid: '8'
    :email:
  - :name: Cy
    :sid:
    :email:
  :created_at: !ruby/object:ActiveSupport::TimeWithZone
    zone: UTC
"""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "folder"])
def test_an_export_of_gradescope_tells_who_and_when(tmp_path, zipped):
    export = tmp_path / "assignment_7_export"
    touch(export, "submission_101/mini.ipynb", "submission_102/answers/mini.ipynb")
    touch(export, "submission_103/alice.ipynb")  # of nobody that the export names
    (export / "submission_metadata.yml").write_text(GRADESCOPE, encoding="utf-8")
    path = Path(shutil.make_archive(export, "zip", tmp_path, export.name)) if zipped else export
    found = {e.student: e for e in collect([path], ["mini"])}
    assert set(found) == {"ada@example.org", "8", "Cy", "submission_103"}
    handed_in = datetime(2026, 10, 5, 15, 58, 23, 948203, UTC)
    assert found["ada@example.org"].time == handed_in.timestamp()
    assert found["8"].source == found["Cy"].source


def test_only_the_export_itself_says_who_is_who(tmp_path):
    folder = touch(tmp_path / "class", "bob/submission_101/mini.ipynb", "cy/mini.ipynb")
    (folder / "bob" / "submission_metadata.yml").write_text(GRADESCOPE, encoding="utf-8")
    assert [student for student, _ in students(folder)] == ["bob", "cy"]


@pytest.mark.parametrize("text", ["[1, 2]", "submission_101: 3", "{", "submission_101: !!x 3"])
def test_a_damaged_export_is_said(tmp_path, text):
    folder = touch(tmp_path / "class", "submission_101/mini.ipynb")
    (folder / "submission_metadata.yml").write_text(text, encoding="utf-8")
    with pytest.raises(CollectError, match=r"submission_metadata.yml is not as .* export again"):
        students(folder)


def test_clones_of_github_classroom(tmp_path):
    folder = touch(
        tmp_path / "week-1-submissions",
        "week-1-ada/mini.ipynb",
        "week-1-week-1-bo/notebooks/mini.ipynb",
        "week-1-week-1-bo/book/chapters/mini.ipynb",  # the page, in a clone of the whole course
        "week-1-week-1-bo/.git/mini.ipynb",
    )
    assert students(folder) == [
        ("ada", "week-1-ada/mini.ipynb"),
        ("week-1-bo", "week-1-week-1-bo/notebooks/mini.ipynb"),
    ]


def test_one_chapter_of_repositories_that_hold_several(tmp_path):
    folder = touch(tmp_path, "ada/mini.ipynb", "ada/other.ipynb", "bo/other.ipynb", "cy/my.ipynb")
    found = [(e.student, e.source.name) for e in collect([folder], ["mini", "other"], "mini")]
    # Bo is told that it is the wrong one.
    assert found == [("ada", "mini.ipynb"), ("bo", "other.ipynb"), ("cy", "my.ipynb")]


def test_links_to_files_of_others_are_not_followed(tmp_path):
    folder = touch(tmp_path / "class", "alice/mini.ipynb")
    (folder / "bob").mkdir()
    (folder / "bob" / "mini.ipynb").symlink_to(folder / "alice" / "mini.ipynb")
    assert students(folder) == [("alice", "alice/mini.ipynb")]


def test_what_holds_no_submissions_is_said(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    (tmp_path / "nothing").mkdir()
    sentences = {"gone": "There is no", "bad.zip": "not a zip", "nothing": "no notebooks"}
    for name, sentence in sentences.items():
        with pytest.raises(CollectError, match=sentence):
            collect([tmp_path / name], ["mini"])


def test_odd_files_are_graded_as_unreadable(grade, tmp_path):
    folder = touch(tmp_path / "class", "bob.pdf")
    (folder / "alice.ipynb").mkdir()
    (folder / "carl.zip").write_bytes(b"PK\x03\x04 damaged")
    rows = {row.student: row for row in grade(folder)}
    assert set(rows) == {"alice", "bob", "carl"}
    assert all(row.status == "unreadable" and row.score == 0 for row in rows.values())
    assert "is a folder" in rows["alice"].notes[0]
    assert "zip archive" in rows["carl"].notes[0]


def test_nbgrader_layout_and_zip_give_the_same_scores(grade, chapter, tmp_path):
    made = [right(chapter), blank(chapter), *make.misconceptions(chapter)[:2]]
    expected = sorted(m.score for m in made)
    nbgrader = make.write_nbgrader(tmp_path / "nbgrader", made, "mini")
    assert sorted(r.score for r in grade(nbgrader, out=tmp_path / "one")) == expected
    archive = make.write_zip(tmp_path / "all.zip", made)
    assert sorted(r.score for r in grade(archive, out=tmp_path / "two")) == expected


# --- commands --------------------------------------------------------------------------------


def test_grade_command_in_processes(chapter, root, tmp_path):
    """In real processes, each with a zygote of its own."""
    made = [right(chapter), blank(chapter), make.Made("eve", b"", 0, "unreadable")]
    make.write_flat(tmp_path / "in", made)
    command = [
        sys.executable, "-m", "autograder.cli", "grade", str(tmp_path / "in"),
        "--root", str(root), "--out", str(tmp_path / "out"), "--jobs", "2",
    ]  # fmt: skip
    environment = {**knowing(root), "COLUMNS": "120"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert first.returncode == 1, first.stderr
    assert "100 of 100" in first.stdout and "eve.ipynb is empty" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    command.append("--json")
    second = subprocess.run(command, capture_output=True, text=True, env=environment)
    rows = json.loads(second.stdout)
    assert [(r["student"], r["score"], r["fresh"]) for r in rows] == [
        ("alice", 100, False), ("bob", 0, False), ("eve", 0, False)
    ]  # fmt: skip


def test_a_dry_run_lists_what_was_found_and_writes_nothing(root, tmp_path):
    folder = touch(tmp_path / "class", "ada/mini.ipynb", "bo/mini.ipynb")
    (folder / "ada" / "timestamp.txt").write_text("2026-10-05T18:00:00+00:00")
    command = [
        "grade", str(folder), "--dry-run", "--root", str(root), "--out", str(tmp_path / "out")
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "2 files of 2 students." in result.output
    ada, bo = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert (ada["student"], ada["file"], bo["student"]) == ("ada", "ada/mini.ipynb", "bo")
    assert datetime.fromisoformat(ada["time"]) == datetime(2026, 10, 5, 18, tzinfo=UTC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grade", "gone"], "There is no gone."),
        (["grade", "gone", "--dry-run"], "There is no gone."),
        (["grade", ".", "--chapter", "nonsense"], "Chapters with sources: mini"),
        (["check", "gone.ipynb"], "gone.ipynb: No such file or directory."),
        (["lint", "nonsense"], "Chapters with sources: mini"),
        (["release", "nonsense"], "Chapters with sources: mini"),
    ],
)
def test_commands_that_cannot_run_say_so_in_one_sentence(root, arguments, says):
    result = CliRunner().invoke(app, [*arguments, "--root", str(root)])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["grade", "check", "release", "lint"])
def test_help_teaches_with_examples(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output and f"autograder {command}" in result.output


@pytest.fixture
def public(root, chapter, tmp_path):
    """The course as students have it: no solutions."""
    folder = tmp_path / "public"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("solutions"))
    (folder / "notebooks").mkdir()
    notebook = make.blank(chapter)
    for cell in notebook["cells"]:
        if "".join(cell["source"]).startswith("# NBVAL_CHECK_OUTPUT"):
            text = "tensor([0, 2, 4])\n"
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
    (folder / "notebooks" / "mini.ipynb").write_bytes(make.encoded(notebook))
    return folder


def answer(public, chapter, **answers):
    """A copy of the student notebook with the reference's answers, but for those given."""
    notebook = json.loads((public / "notebooks" / "mini.ipynb").read_text(encoding="utf-8"))
    for cell in make.exercise_cells(notebook):
        name = cell["metadata"]["exercise"]
        cell["source"] = answers.get(name, chapter.exercises[name].reference)
    path = public / "my.ipynb"
    path.write_bytes(make.encoded(notebook))
    return path


def test_check_says_what_the_notebook_says(public, chapter):
    wrong = answer(public, chapter, double="def double(x):\n    return x * x")
    result = selfcheck(wrong, public)
    assert not result.passed and result.differences is None
    assert [r.status for r in result.reports] == ["not yet", "passed", "passed"]
    assert "double: 0 of 1 checks hold" in str(result)
    assert "Likely cause: It looks squared." in str(result)
    untouched = selfcheck(public / "notebooks" / "mini.ipynb", public)
    assert {r.status for r in untouched.reports} == {"not attempted"}


def test_check_tells_what_is_forbidden_as_the_grader_does(public, chapter, grade):
    """Else a student sees green and then loses the exercise."""
    path = answer(public, chapter, double="def double(x):\n    return torch.add(x, x)")
    result = selfcheck(path, public)
    sentence = (
        "Line 2 of code cell 2 uses `torch.add`, which this exercise is to be solved without."
    )
    assert not result.passed
    assert result.reports[0].status == "not yet"
    assert str(result).count(sentence) == 1
    (row,) = grade(path)
    assert row.notes == (f"double forbidden: {sentence}",)


def test_check_tells_once_why_nothing_was_run(public, chapter):
    result = selfcheck(answer(public, chapter, count="class Counter:\n    def step(:"), public)
    assert str(result).count("Its cell is no valid Python") == 1


def test_check_compares_printed_results_once_all_checks_hold(public, chapter):
    result = selfcheck(answer(public, chapter), public)
    assert result.passed and result.differences == ()
    odd = "def double(x):\n    return 2 * x if x.is_floating_point() else 3 * x"
    result = selfcheck(answer(public, chapter, double=odd), public)
    assert not result.passed
    (difference,) = result.differences
    assert "should print “tensor([0, 2, 4])”, but printed “tensor([0, 3, 6])”" in difference


def test_full_grading_notes_what_is_printed_otherwise(grade, public, root, chapter):
    odd = "def double(x):\n    return 2 * x if x.is_floating_point() else 3 * x"
    path = answer(public, chapter, double=odd)
    (row,) = grade(path, full=True)
    assert row.notes == ("Not compared with the reference: run `autograder release mini`.",)
    shutil.copytree(public / "notebooks", root / "notebooks")
    try:
        (row,) = grade(path, full=True, force=True)
    finally:
        shutil.rmtree(root / "notebooks")
    assert row.score == 100
    assert "should print “tensor([0, 2, 4])”, but printed “tensor([0, 3, 6])”" in row.notes[0]


def test_check_command(public, chapter):
    wrong = answer(public, chapter, double="def double(x):\n    return x * x")
    arguments = ["check", str(wrong), "--root", str(public), "--no-outputs", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert json.loads(result.output)["exercises"]["double"]["status"] == "not yet"
    with pytest.raises(ReadProblem, match="is empty"):
        wrong.write_bytes(b"")
        selfcheck(wrong, public)
