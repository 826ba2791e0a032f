"""What goes wrong around a batch: nothing is lost, nothing is graded twice, nobody else suffers."""

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import make_submissions as make
import pytest
from batches import knowing, running, tiny_course
from typer.testing import CliRunner

from autograder import grade as grading
from autograder import submissions
from autograder.chapters import load
from autograder.cli import app
from autograder.grade import read_records
from autograder.notebook import Blank, ReadProblem, read
from autograder.runner import StudentZygote
from autograder.sandbox import SandboxError

SECONDS = 3.0
PATIENCE = 120  # seconds for what takes a few


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with tiny_course(tmp_path_factory.mktemp("faults")) as root:
        yield root


@pytest.fixture(scope="module")
def chapter(root):
    return load("mini", root)


@pytest.fixture
def grade(root, tmp_path):
    """`grade` in this process, so that all tests share one warm slot."""

    def run(*paths, **options):
        with ThreadPoolExecutor(1) as executor:
            options = {"executor": executor, "seconds": SECONDS} | options
            return grading.grade(paths, tmp_path / "out", root, **options)

    return run


@pytest.fixture
def hand_in(chapter, tmp_path):
    """Writes right answers into files; returns their folder."""

    def write(*names, double=None):
        answers = make.references(chapter) | ({"double": double} if double else {})
        for name in names:
            path = tmp_path / "in" / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make.encoded(make.answered(chapter, answers)))
        return tmp_path / "in"

    return write


def records_of(folder):
    return {r["student"]: r for r in read_records(folder)}


# --- the grader ------------------------------------------------------------------------------


def wait_until(holds, what):
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, f"{what} never happened"
        time.sleep(0.05)


def test_a_grader_that_is_killed_goes_on_where_it_was(root, hand_in, tmp_path, grade):
    folder = hand_in("a", "b", "y", "z")
    hand_in("m", double="def double(x):\n    while True: pass")
    out = tmp_path / "out"
    arguments = ["grade", str(folder), "--out", str(out), "--root", str(root), "--jobs", "1"]
    command = [sys.executable, "-m", "autograder.cli", *arguments, "--seconds", "600"]
    with subprocess.Popen(command, env=knowing(root)) as process:
        wait_until(lambda: (out / "b" / "mini.json").exists(), "the second record")
        time.sleep(0.5)
        family = [*running(process.pid), process.pid]
        process.kill()
    wait_until(lambda: not any(map(is_alive, family)), "the end of its processes")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("mini.json")}
    assert set(records_of(out)) == {"a", "b"}  # whole ones
    rows = grade(folder)
    assert {r.student: r.fresh for r in rows} == {
        "a": False, "b": False, "m": True, "y": True, "z": True,
    }  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {s: r["score"] for s, r in records_of(out).items()} == {
        "a": 100, "b": 100, "m": 40, "y": 100, "z": 100,
    }  # fmt: skip
    assert not any(row.fresh for row in grade(folder))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_loses_no_record_and_is_one_sentence(
    root, hand_in, tmp_path, grade, monkeypatch
):
    folder, out = hand_in("a", "b", "c"), tmp_path / "out"
    grade(folder / "a.ipynb")
    write = Path.write_text

    def fail(path, text, *args, **kwargs):
        write(path, text[: len(text) // 2], *args, **kwargs)
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        patch.setattr(grading, "processes", lambda jobs: ThreadPoolExecutor(1))
        arguments = ["grade", str(folder), "--out", str(out), "--root", str(root)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert {*records_of(out)} == {"a"}
    rows = grade(folder)
    assert {r.student: (r.score, r.fresh) for r in rows} == {
        "a": (100, False), "b": (100, True), "c": (100, True),
    }  # fmt: skip


def test_a_file_that_cannot_be_read_is_said_and_the_rest_graded(hand_in, grade, monkeypatch):
    folder = hand_in("a", "b", "c")

    def open_(path, *args):
        if Path(path).name == "b.ipynb":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *args)

    monkeypatch.setattr(submissions, "open", open_, raising=False)
    rows = {row.student: row for row in grade(folder)}
    assert {s: (r.status, r.score) for s, r in rows.items()} == {
        "a": ("graded", 100), "b": ("unreadable", 0), "c": ("graded", 100),
    }  # fmt: skip
    assert rows["b"].notes == ("b.ipynb cannot be read: Permission denied.",)
    monkeypatch.undo()
    assert {row.student: row.fresh for row in grade(folder)} == {"a": False, "b": True, "c": False}


def test_processes_that_die_between_submissions_are_replaced(hand_in, grade):
    folder = hand_in(*"abcd")
    killed = []

    def kill(done, total):
        if done and grading._current is not None:
            process = grading._current.workers._zygote._process
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed.append(process.pid)

    rows = grade(folder, progress=kill)
    assert len(killed) == 4
    assert [(r.status, r.score, r.notes) for r in rows] == [("graded", 100, ())] * 4


def test_a_worker_that_is_killed_costs_one_test(hand_in, grade, tmp_path, monkeypatch):
    """As the kernel does when memory runs out."""
    folder = hand_in("a", "b")
    from autograder import runner

    exchange, count = runner.Channel.exchange, []

    def interrupted(channel, *args):
        count.append(channel)
        if len(count) == 8:  # within the first submission's tests
            worker = grading._current.workers._zygote
            for pid in running(worker._process.pid):
                os.kill(pid, signal.SIGKILL)
        return exchange(channel, *args)

    monkeypatch.setattr(runner.Channel, "exchange", interrupted)
    rows = grade(folder)
    records = records_of(tmp_path / "out")
    statuses = [t["status"] for e in records["a"]["exercises"].values() for t in e["tests"]]
    assert statuses.count("crashed") == 1
    (reason,) = (e["reason"] for e in records["a"]["exercises"].values() if e["reason"])
    assert reason == "The process was killed by signal 9 (killed, perhaps for lack of memory)."
    assert rows[1].score == 100


def test_the_same_submission_twice_counts_once(hand_in, grade, tmp_path):
    folder = hand_in("alice/mini", "alice/mini (1)", "bob/mini")
    rows = grade(folder)
    assert [(r.student, r.score, r.counts) for r in rows if r.counts] == [
        ("alice", 100, True), ("bob", 100, True),
    ]  # fmt: skip
    book = (tmp_path / "out" / "gradebook.csv").read_text(encoding="utf-8").splitlines()
    assert book == ["student,mini,total,max", "alice,100,100,100", "bob,100,100,100"]
    assert not any(row.fresh for row in grade(folder))


def test_an_archive_of_traps(chapter, grade, tmp_path):
    """Damaged, inflated, oddly named, a link: each is told alone, and nothing leaves the folder."""
    right = make.encoded(make.answered(chapter))
    long, link = "\U00020000" * 90, zipfile.ZipInfo("link/mini.ipynb")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("damaged/mini.ipynb", right)
        target.writestr("bomb/mini.ipynb", bytes(40 << 20))
        target.writestr("honest/mini.ipynb", right)
        target.writestr("../up/mini.ipynb", right)
        target.writestr("turned\u202earound/mini.ipynb", right)
        target.writestr(f"{long}/mini.ipynb", right)
        target.writestr(link, "/etc/passwd")
    data = bytearray(archive.getvalue())
    start = data.index(b"damaged/mini.ipynb") + len(b"damaged/mini.ipynb")
    data[start : start + 10] = b"\xff" * 10
    (tmp_path / "class.zip").write_bytes(data)
    rows = {row.student: row for row in grade(tmp_path / "class.zip")}
    assert rows.keys() == {"damaged", "bomb", "honest", "turned-around", long[:40]}
    assert rows["damaged"].notes[0].startswith("mini.ipynb cannot be unpacked")
    assert "more than 32" in rows["bomb"].notes[0]
    assert {s: row.score for s, row in rows.items() if row.status == "graded"} == {
        "honest": 100, "turned-around": 100, long[:40]: 100,
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"class.zip", "out"}


# --- the reader -----------------------------------------------------------------------------


JUNK = [
    None, True, -1, 1e400, 10**400, "", "\x00", "\ud800", "é" * 10, [], {}, [[]], {"": {}}, "code",
    "markdown", "def double(x): return 2 * x", "def double(x:\n", "%%bash\nls", "!ls", "x = ?",
    "lambda: (yield)", "return 1", "(" * 400, "-" * 3000 + "1", "class Counter: pass", "double",
    ["def double(x):\n", 3, "    return x"], {"exercise": "double"}, {"exercise": ["count"]},
]  # fmt: skip
SNIPPETS = [
    *map(str, JUNK),
    "await x",
    "import",
    "\f",
    "\r",
    "\t",
    "'''",
    "\\",
    "#",
    "@",
    ":=",
    "*",
]


def mutated(rng, notebook, data):
    """A notebook after one to three accidents."""
    kind = rng.randrange(5)
    if kind == 0:  # bytes
        broken = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(broken))
            broken[at : at + rng.choice((0, 1, 1, 50))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        return bytes(broken)
    if kind == 1:  # a piece of the file, in some encoding
        start = rng.choice((0, 0, rng.randrange(len(data))))
        part = data[start : rng.randrange(start, len(data)) + 1].decode("utf-8", "replace")
        return part.encode(rng.choice(("utf-8", "utf-16", "utf-32", "latin-1")), "replace")
    notebook = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        if kind == 2:  # the structure
            change(rng, notebook)
        elif notebook["cells"]:  # the code
            cell = rng.choice(notebook["cells"])
            text = "".join(cell["source"]) or " "
            at = rng.randrange(len(text))
            end = at + rng.choice((0, 1, 5, 40))
            cell["source"] = text[:at] + rng.choice(SNIPPETS) + text[end:]
            if kind == 4:
                rng.shuffle(notebook["cells"])
                notebook["cells"].pop()
    return json.dumps(notebook, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def change(rng, node):
    """Replace, delete or repeat something somewhere below a list or dict."""
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], (list, dict)) and rng.random() < 0.8:
            node = node[key]
            continue
        match rng.randrange(3):
            case 0:
                node[key] = rng.choice(JUNK)
            case 1:
                del node[key]
            case 2 if isinstance(node, list):
                node.insert(key, node[key])
        return


def test_no_mutated_notebook_breaks_the_reader(chapter):
    rng = random.Random(0)
    blanks = {"mini": Blank.of(chapter)}
    notebook = make.answered(chapter)
    data, seen = make.encoded(notebook), []
    for number in range(10_000):
        broken = mutated(rng, notebook, data)
        try:
            submission = read(broken, "alice.ipynb", blanks)
        except ReadProblem as problem:
            assert is_sentence(str(problem)), broken
            seen.append(problem.status)
            continue
        except Exception as error:
            raise AssertionError(f"mutant {number}: {broken!r}") from error
        assert {*submission.attempts} == {"double", "count", "debug"}
        for attempt in submission.attempts.values():
            assert attempt.status == "answered" or is_sentence(attempt.reason)
            seen.append(attempt.status)
        assert all(map(is_sentence, submission.notes)), submission.notes
    # The mutants reach every corner, not only the JSON parser.
    assert {*seen} >= {"unreadable", "answered", "missing", "syntax error"}


def test_mutated_notebooks_are_graded_like_any_others(chapter, hand_in, grade, tmp_path):
    rng = random.Random(1)
    notebook = make.answered(chapter)
    data, folder = make.encoded(notebook), hand_in("honest")
    for number in range(200):
        (folder / f"mutant-{number:03}.ipynb").write_bytes(mutated(rng, notebook, data))
    (folder / "digits.ipynb").write_bytes(b'{"cells": [' + b"9" * 5_000 + b"]}")
    (folder / "nan.ipynb").write_bytes(b'{"cells": [NaN, Infinity, {"cell_type": NaN}]}')
    rows = {row.student: row for row in grade(folder)}
    assert len(rows) == 203 and rows["honest"].score == 100
    assert {row.status for row in rows.values()} == {"graded", "unreadable"}
    assert rows["digits"].status == rows["nan"].status == "unreadable"
    for row in rows.values():
        assert (row.status == "graded" or row.notes) and all(map(is_note, row.notes))
    for record in records_of(tmp_path / "out").values():
        assert all(map(is_note, [e["reason"] or "." for e in record["exercises"].values()]))


def is_note(text):
    """A student's own error may stand in it, at length."""
    return text.endswith((".", "…")) and "Traceback" not in text and "grader failed" not in text


def is_sentence(text):
    return text.endswith(".") and len(text) < 500 and "Traceback" not in text


# --- what a killed grader leaves behind ------------------------------------------------------


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files into which workers, who are other users, can go."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        monkeypatch.undo()


def test_the_next_grader_removes_what_a_killed_one_left(temporary):
    left, young, foreign = (temporary / name for name in ("autograder-a", "autograder-b", "other"))
    for folder in (left, young, foreign):
        (folder / "0").mkdir(parents=True)
    with StudentZygote() as living:
        for folder in (left, foreign, living._scratch):
            os.utime(folder, (0, 0))
        with StudentZygote():
            assert not left.exists()
            assert young.exists(), "Perhaps its grader has not locked it yet."
            assert foreign.exists()
            assert living._scratch.exists(), "Its grader lives."
    assert {path.name for path in temporary.iterdir()} == {"autograder-b", "other"}


def test_elsewhere_than_on_linux_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="on Linux only"):
        StudentZygote()
    monkeypatch.setattr(sys, "platform", "win32")
    done = CliRunner().invoke(app, ["check", "a.ipynb"])
    assert done.exit_code == 2 and "use WSL" in done.output
