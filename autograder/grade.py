"""`autograder grade`: from submissions to records, one JSON file for each.

Grading maps over a `concurrent.futures.Executor`, a student at a time. Each process that takes part
holds the hidden tests and owns a zygote whose forks run the students' code.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autograder.chapters import Chapter, ChapterError, Exercise, chapter_ids, load, syllabus
from autograder.diagnose import Diagnosis, tests_of
from autograder.files import write_text
from autograder.notebook import Blank, ReadProblem, Submission, chapter_in_name, read
from autograder.replay import replay
from autograder.runner import StudentProcess, ZygoteError
from autograder.sandbox import available, require
from autograder.submissions import Entry, collect
from autograder.workers import TEST_SECONDS, Workers, cell_notes, limits, run_attempt
from course import testing
from course.testing import Counterexample, Outcome

MAX_TEXT = 1_000  # characters of one reason or value: students choose what they print
EARLIER = "earlier"  # below a student's folder: records that a newer file replaced

GPU_JOBS = 4  # processes that share a GPU by default: each has a context there, and its worker too

Record = dict[str, Any]


class DeviceError(Exception):
    """Tests cannot run where they were told to; one sentence."""


@dataclass(frozen=True)
class Settings:
    """What all graders of one run need to know."""

    root: Path
    out: Path
    chapter: str | None = None
    device: str = "cpu"
    full: bool = False
    seconds: float = TEST_SECONDS
    sandbox: bool = True
    gpu: float = 0.0  # the share of its memory that a worker may use
    hashes: Mapping[str | None, str] = field(default_factory=dict)  # see `tests_hash`


@dataclass(frozen=True)
class Row:
    """One submission in the table that a run prints."""

    student: str
    chapter: str | None
    file: str
    status: str
    score: float
    max: float
    unfinished: tuple[str, ...]
    notes: tuple[str, ...]
    counts: bool  # False where a newer file of the same chapter does
    fresh: bool  # False where the record of an earlier run still held


def grade(
    paths: Iterable[Path],
    out: Path,
    root: Path,
    *,
    chapter: str | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    full: bool = False,
    device: str = "cpu",
    seconds: float = TEST_SECONDS,
    sandbox: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Grade submissions and write `out/<student>/<chapter>.json` and `out/gradebook.csv`.

    What has a record of the same content and the same tests is not graded again.

    Args:
        paths: see `autograder.submissions.collect`.
        chapter: the only chapter that counts; by default each notebook tells its own.
        jobs: processes; by default one for each CPU, at most `GPU_JOBS` on a GPU.
        executor: grades there instead; the grader closes it no more than it opened it.
        force: grade everything again.
        full: also execute whole notebooks and note where outputs differ from the reference.
        seconds: limit for one case of a test; an exercise gets six times as much.
        sandbox: isolate students' code; without, it runs with the rights of whoever grades.
        progress: is told how many submissions are done, of how many.
    Raises:
        ChapterError: if the chapter does not exist, or no solutions are there.
        CollectError: if there is nothing to grade.
        DeviceError: if the device does not exist here.
        SandboxError: if students' code cannot be isolated here.
    """
    on_gpu = _is_gpu(device, elsewhere=executor is not None)
    jobs = jobs or min(os.cpu_count() or 1, GPU_JOBS if on_gpu else math.inf)
    if sandbox:
        require(available())
    root, out = root.resolve(), out.resolve()
    ids = chapter_ids(root)
    if not ids:
        raise ChapterError(f"{root / 'solutions'} holds no chapter: grading needs the solutions.")
    if chapter:
        load(chapter, root)  # raises, with the names that there are
    entries = collect(paths, ids, chapter)
    hashes = {name: tests_hash(root, name) for name in (*ids, None)}
    gpu = 0.5 / jobs if on_gpu else 0.0  # the other half is for the tests
    settings = Settings(root, out, chapter, device, full, seconds, sandbox, gpu, hashes)
    rows: list[Row] = []
    todo: list[list[Entry]] = []
    for _, group in groupby(entries, key=lambda e: e.student):
        student = list(group)
        stored = [] if force else [_stored(entry, settings) for entry in student]
        if stored and None not in stored:
            rows += _finish([(record, False) for record in stored], settings)
        else:
            todo.append(student)
    progress(len(rows), len(entries))
    # Closed even when interrupted, so that nothing more is started.
    with closing(_map(todo, settings, force, executor, jobs)) as results:
        for graded in results:
            rows += graded
            progress(len(rows), len(entries))
    write_gradebook(out, root)
    return sorted(rows, key=lambda r: (r.student, r.chapter or "", r.file))


def _is_gpu(device: str, elsewhere: bool) -> bool:
    """Whether a device is a GPU; one that should be here must exist."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise DeviceError(f"There is no device {device}; --device takes cpu, cuda or cuda:1, say.")
    if wanted.type == "cuda" and not elsewhere:
        count = torch.cuda.device_count()
        if (wanted.index or 0) >= count:
            found = f"{count} of them" if count else "none"
            raise DeviceError(
                f"There is no GPU for --device {device}: torch finds {found} here (see "
                "`autograder doctor`); without the option, grading uses the CPU."
            )
    return wanted.type == "cuda"


# --- processes -------------------------------------------------------------------------------


def _map(
    students: Sequence[list[Entry]],
    settings: Settings,
    force: bool,
    executor: Executor | None,
    jobs: int,
) -> Iterator[list[Row]]:
    """Grade students in any order; one that breaks its process is tried once more, alone."""
    if not students:
        return
    lost: list[list[Entry]] = []
    own = executor or processes(min(jobs, len(students)))
    futures = {own.submit(grade_student, e, settings, force): e for e in students}
    try:
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception:  # however an executor puts it that a process or machine is gone
                lost.append(futures[future])
    finally:
        for future in futures:
            future.cancel()
        if executor is None:
            own.shutdown()
    for entries in lost:
        with processes(1) as alone:
            try:
                yield alone.submit(grade_student, entries, settings, force).result()
            except BrokenExecutor:
                reason = "The grader's process died; grade this student alone to see why."
                yield [_row(_failed(entry, settings, reason), True) for entry in entries]


def processes(jobs: int) -> ProcessPoolExecutor:
    """Processes that grade, forked from one that has imported what they need."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_process)


def _start_process() -> None:
    # Ctrl-C is the main process's to handle: a submission under way is finished first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    multiprocessing.util.Finalize(None, close_slot, exitpriority=10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Should the main process be killed, nobody takes what is graded here; a rerun will."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


class Slot:
    """What one grading process keeps between submissions."""

    def __init__(self, settings: Settings):
        self.root, self.device, self.hashes = settings.root, settings.device, settings.hashes
        self.sandbox, self.gpu = settings.sandbox, settings.gpu
        self.workers = Workers(self.root, self.sandbox, self.gpu)
        self.blanks = Blanks(self.root)

    @functools.cache  # noqa: B019, a slot lives as long as its process
    def chapter(self, name: str) -> Chapter:
        return load(name, self.root)

    @functools.cache  # noqa: B019
    def diagnosis(self, name: str) -> Diagnosis:
        return Diagnosis(self.chapter(name), self.device)


# The modules that decide what a record says; an edit of a report makes no record stale.
GRADING = (
    "chapters", "diagnose", "files", "forbidden", "grade", "notebook", "remote", "replay", "runner",
    "sandbox", "usage", "wire", "worker", "workers",
)  # fmt: skip


def tests_hash(root: Path, chapter: str | None) -> str:
    """Of everything but the submission that a record depends on."""
    files = [Path(__file__).with_name(f"{name}.py") for name in GRADING]
    files.append(Path(testing.__file__))  # it judges, whatever the repository has
    if chapter is not None:
        files += (root / "solutions" / chapter).glob("*")
        files.append(root / "course" / "checks" / f"{chapter.replace('-', '_')}.py")
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, files)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Blanks(Mapping[str, Blank]):
    """The blank notebooks of all chapters, each read when first asked for."""

    def __init__(self, root: Path):
        self.root, self.ids, self.known = root, chapter_ids(root), {}

    def __getitem__(self, chapter: str) -> Blank:
        if chapter not in self.ids:
            raise KeyError(chapter)
        if chapter not in self.known:
            self.known[chapter] = Blank.of(load(chapter, self.root))
        return self.known[chapter]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


_current: Slot | None = None


def _slot(settings: Settings) -> Slot:
    """This process's slot; one at a time, since its zygote takes much memory."""
    global _current
    wanted = settings.root, settings.device, settings.hashes, settings.sandbox, settings.gpu
    now = _current
    if not now or wanted != (now.root, now.device, now.hashes, now.sandbox, now.gpu):
        close_slot()
        _current = Slot(settings)
    return _current


def close_slot() -> None:
    """End what this process keeps for grading."""
    global _current
    if _current is not None:
        _current.workers.close()
        _current = None


# --- one student -----------------------------------------------------------------------------


_turn = threading.Lock()  # seeds and slots are a process's, and a cluster may start threads


def grade_student(entries: Sequence[Entry], settings: Settings, force: bool) -> list[Row]:
    """Grade all files of one student and write their records; never raises for what is in them."""
    with _turn:
        done = []
        for entry in entries:
            stored = None if force else _stored(entry, settings)
            done.append((stored or _graded(entry, settings), stored is None))
        return _finish(done, settings)


def _finish(done: Sequence[tuple[Record, bool]], settings: Settings) -> list[Row]:
    """Decide which of a student's files count, and write the records.

    Args:
        done: records, the oldest file's first, and whether they are new.
    """
    last: dict[str, Record] = {}
    for record, _ in sorted(done, key=lambda pair: pair[0]["status"] == "graded"):
        last[record["chapter"] or record["file"]] = record
    for record, _ in done:
        counting = last[record["chapter"] or record["file"]]
        record["superseded_by"] = None if record is counting else counting["file"]
        same = [r for r, _ in done if r is not record and r["chapter"] == record["chapter"]]
        is_last = record is counting and record["chapter"] is not None
        record["supersedes"] = [r["file"] for r in same] if is_last else []
    written = {_write(record, settings.out) for record, _ in done}
    _forget([record for record, _ in done], written, settings.out)
    return [_row(record, fresh) for record, fresh in done]


def _graded(entry: Entry, settings: Settings) -> Record:
    """The record of a file, whatever happens."""
    started = time.perf_counter()
    try:
        slot = _slot(settings)
        data = entry.source.read()
        try:
            record = _grade(entry, data, settings, slot)
        except ZygoteError:  # whatever ended it, a new one may live
            slot.workers.close()
            record = _grade(entry, data, settings, slot)
    except ReadProblem as problem:
        record = _unreadable(entry, b"", problem, settings, slot)
    except Exception as error:
        reason = f"The grader failed on this file ({type(error).__name__}: {error}); report it."
        record = _failed(entry, settings, reason)
    record["seconds"] = round(time.perf_counter() - started, 3)
    return record


def _grade(entry: Entry, data: bytes, settings: Settings, slot: Slot) -> Record:
    try:
        submission = read(data, entry.label, slot.blanks, settings.chapter)
    except ReadProblem as problem:
        return _unreadable(entry, data, problem, settings, slot)
    chapter = slot.chapter(submission.chapter)
    with slot.workers.spawn(submission, limits(settings.seconds)) as process:
        exercises = {
            exercise.id: _exercise(exercise, chapter, submission, process, slot)
            for exercise in chapter.exercises.values()
        }
        notes = [*submission.notes, *cell_notes(process)]
    if settings.full:
        notes += _replayed(data, settings, chapter.id, entry.label)
    return _record(entry, data, settings, "graded", notes, chapter, exercises)


def _replayed(data: bytes, settings: Settings, chapter: str, label: str) -> list[str]:
    released = settings.root / "notebooks" / f"{chapter}.ipynb"
    if not released.exists():
        return [f"Not compared with the reference: run `autograder release {released.stem}`."]
    return replay(data, released.read_bytes(), label, settings.root, settings.sandbox)


def _exercise(
    exercise: Exercise,
    chapter: Chapter,
    submission: Submission,
    process: StudentProcess,
    slot: Slot,
) -> dict[str, Any]:
    started = time.perf_counter()
    tests = tests_of(chapter, exercise.id)
    outcomes, status, reason = run_attempt(tests, exercise.id, submission, process, slot.device)
    hint = slot.diagnosis(chapter.id).hint(exercise.id, outcomes)
    return {
        "title": exercise.title,
        "status": status,
        "reason": _short(reason),
        "score": sum(o.points for o in outcomes if o.passed),
        "max": exercise.points,
        "tests": [_test(outcome) for outcome in outcomes],
        "hint": hint,
        "seconds": round(time.perf_counter() - started, 3),
    }


# --- records ---------------------------------------------------------------------------------


def _record(
    entry: Entry,
    data: bytes,
    settings: Settings,
    status: str,
    notes: Sequence[str],
    chapter: Chapter | None,
    exercises: dict[str, Any],
) -> Record:
    worth = sum(e.points for e in chapter.exercises.values()) if chapter else 0
    return {
        "student": entry.student,
        "chapter": chapter.id if chapter else None,
        "file": entry.label,
        "superseded_by": None,
        "supersedes": [],
        "hashes": {
            "submission": hashlib.sha256(data).hexdigest(),
            "tests": settings.hashes[chapter.id if chapter else None],
        },
        "status": status,
        "score": sum(e["score"] for e in exercises.values()),
        "max": worth,
        "notes": [_short(note) for note in notes],
        "exercises": exercises,
        "versions": VERSIONS,
        "device": settings.device,
        "full": settings.full,
        "seconds": 0.0,
    }


SCHEMA = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": np.__version__,
}


def _unreadable(
    entry: Entry, data: bytes, problem: ReadProblem, settings: Settings, slot: Slot
) -> Record:
    name = settings.chapter or chapter_in_name(entry.label, slot.blanks)
    chapter = slot.chapter(name) if name else None
    return _record(entry, data, settings, problem.status, [str(problem)], chapter, {})


def _failed(entry: Entry, settings: Settings, reason: str) -> Record:
    return _record(entry, b"", settings, "grader failed", [reason], None, {})


def _test(outcome: Outcome) -> dict[str, Any]:
    """A test as its student may see it: what should hold, never how it is tested."""
    example: Counterexample = outcome.counterexample
    return {
        "name": outcome.test,
        "statement": outcome.statement,
        "passed": outcome.passed,
        "points": outcome.points,
        "status": outcome.status,
        "reason": _short(outcome.reason),
        "symptom": outcome.symptom,
        "counterexample": {key: _short(text) for key, text in asdict(example).items()},
    }


def _short(text: str) -> str:
    """A student's text, cut, and without what JSON or a terminal cannot show."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _stored(entry: Entry, settings: Settings) -> Record | None:
    """The record of an earlier run, if it would come out the same today."""
    try:
        submission = hashlib.sha256(entry.source.read()).hexdigest()
    except ReadProblem:
        return None
    for record in read_records(settings.out / entry.student):
        if (
            record["hashes"]["submission"] == submission
            and record["hashes"]["tests"] == settings.hashes.get(record["chapter"])
            and record["status"] != "grader failed"
            and record["device"] == settings.device
            and record["full"] >= settings.full
            and settings.chapter in (None, record["chapter"])
        ):
            return record | {"file": entry.label}
    return None


def read_records(folder: Path) -> list[Record]:
    """All records below a folder; what is none is passed over."""
    records = (read_record(path) for path in sorted(folder.rglob("*.json")))
    return [record for record in records if record is not None]


def read_record(path: Path) -> Record | None:
    """A record; None where the file is none of this version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {*record} == {*SCHEMA["required"]} else None


def _forget(records: Sequence[Record], written: set[Path], out: Path) -> None:
    """Delete what an earlier run said of the same files at another place."""
    files, chapters = {r["file"] for r in records}, {r["chapter"] for r in records}
    for path in (out / records[0]["student"]).rglob("*.json"):
        old = read_record(path) if path not in written else None
        if old and old["file"] in files and old["chapter"] in {*chapters, None}:
            path.unlink()


def _write(record: Record, out: Path) -> Path:
    """Write a record whole or not at all; returns where."""
    digest = record["hashes"]["submission"][:8]
    unnamed = f"{record['status'].replace(' ', '-')}-{digest}"
    folder, name = out / record["student"], record["chapter"] or unnamed
    if record["superseded_by"] is not None:
        folder, name = folder / EARLIER, f"{name}-{digest}"
    path = folder / f"{name}.json"
    if read_record(path) != record:
        write_text(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return path


# --- summaries -------------------------------------------------------------------------------


def _row(record: Record, fresh: bool) -> Row:
    notes = list(record["notes"])
    if record["superseded_by"] is not None:
        notes.insert(0, f"{record['superseded_by']} is newer and counts instead.")
    if record["supersedes"]:
        notes.insert(0, f"Counts instead of the older {', '.join(record['supersedes'])}.")
    for name, exercise in record["exercises"].items():
        if exercise["status"] in LOST:
            notes.append(f"{name} {exercise['status']}: {exercise['reason']}")
    unfinished = [n for n, e in record["exercises"].items() if e["status"] in UNFINISHED]
    return Row(
        record["student"],
        record["chapter"],
        record["file"],
        record["status"],
        record["score"],
        record["max"],
        tuple(unfinished),
        tuple(notes),
        record["superseded_by"] is None,
        fresh,
    )


UNFINISHED = "not attempted", "missing"
LOST = "forbidden", "timed out", "crashed"


def write_gradebook(out: Path, root: Path) -> Path:
    """`gradebook.csv`: a line for each student in the folder, a column for each chapter."""
    scores: dict[str, dict[str, Record]] = {}
    for record in read_records(out):
        of_student = scores.setdefault(record["student"], {})
        if record["chapter"] is not None and record["superseded_by"] is None:
            of_student[record["chapter"]] = record
    present = {name for of_student in scores.values() for name in of_student}
    columns = [c for c in syllabus(root) if c in present]
    worth = {name: of[name]["max"] for of in scores.values() for name in of}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", *columns, "total", "max"])
    for student, of_student in sorted(scores.items()):
        points = [of_student[c]["score"] if c in of_student else "" for c in columns]
        total = sum(p for p in points if p != "")
        writer.writerow([student, *points, total, sum(worth[c] for c in columns)])
    path = out / "gradebook.csv"
    write_text(path, text.getvalue())
    return path
