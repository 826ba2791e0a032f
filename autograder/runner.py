"""Runs an exercise's tests, here, against a student's code, over there.

One `StudentZygote` a slot forks the workers; a `StudentProcess` is one submission, in a worker that
is replaced when it hangs or dies; `run_exercise` drives the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from autograder import sandbox
from autograder.remote import Channel, RemoteStudent
from autograder.sandbox import BOUNDS, Bounds, SandboxError
from autograder.usage import Watch
from course.testing import AnswerLost, Outcome, Test, seed_of

__all__ = [
    "Cell",
    "CellReport",
    "Limits",
    "StudentProcess",
    "StudentZygote",
    "ZygoteError",
    "run_exercise",
]

# What torch imports on first use costs a worker a second, unless the zygote has it already.
WARM_IMPORTS = (
    "torch.testing", "torch.optim", "torch._dynamo", "torch.utils.data", "encodings.idna"
)  # fmt: skip

_START_SECONDS = 120
_SIGNALS = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGFPE: "arithmetic",
    signal.SIGKILL: "killed, perhaps for lack of memory",
    signal.SIGBUS: "bus error",
}


class ZygoteError(Exception):
    """The process that forks the workers cannot start, or is gone; one sentence."""


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook that grading executes; the name is for messages."""

    name: str
    source: str


@dataclass(frozen=True)
class CellReport:
    """What became of a cell: run, failed, timed out, crashed."""

    name: str
    status: str
    error: str = ""  # the type
    reason: str = ""
    line: int = 0
    output: str = ""


@dataclass(frozen=True)
class Limits:
    """Seconds of wall-clock time."""

    test: float = 20.0  # for one case of one test
    exercise: float = 120.0
    cell: float = 60.0


def _hurried(seconds: float) -> float:
    """What is left of a limit once an earlier test of the exercise, or an earlier cell, used it up.

    Most likely the rest hangs too; but an answer that hangs for one input only, or whose other
    function is right, still has the time to show it.
    """
    return min(seconds, max(seconds / 10, 1.0))


def _gpu_environment(share: float) -> dict[str, str]:
    """Lets a process look for a GPU without starting CUDA, which no fork survives."""
    if not share:
        return {}
    limit = f"per_process_memory_fraction:{share:.4f}"
    return {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTORCH_ALLOC_CONF": limit}


@dataclass
class Spawned:
    """A worker: the line to it, and its process."""

    channel: Channel
    pid: int
    zygote: StudentZygote
    _end: dict[str, Any] | None = None

    def end(self, grace: float = 0.0) -> dict[str, Any]:
        """Kill the worker with all that it started; returns its wait `status` and CPU `seconds`."""
        if self._end is None:
            self._end = self.zygote._request({"pid": self.pid, "grace": grace})
        return self._end

    def cause(self) -> str:
        """How the worker died, as a sentence."""
        try:
            end = self.end(grace=1.0)
        except ZygoteError:
            return ""
        code, allowed = os.waitstatus_to_exitcode(end["status"]), self.zygote.bounds.cpu
        # The kernel enforces the limit by sampling, which a busy machine makes less than exact.
        if code in (-signal.SIGKILL, -signal.SIGXCPU) and end["seconds"] > 0.8 * allowed:
            return f"It used up its {allowed:g} s of CPU time."
        if code >= 0:
            return f"The process ended with exit code {code}."
        known = _SIGNALS.get(-code)
        return f"The process was killed by signal {-code}" + (f" ({known})." if known else ".")

    def close(self) -> None:
        """Hang up, and end the process."""
        if self.channel.lost is None:
            self.channel.close()
        self.end()


class StudentZygote:
    """A warm process from which workers are forked; a context manager.

    It never sees a test or a reference answer: it gets no descriptor but its socket, and of the
    environment only what is named here.

    Args:
        imports: modules that a chapter's set-up cells import; one that fails is left to them.
        layers: of the sandbox, to be used where the machine has them; none for no sandbox.
        bounds: what each worker may use.
        root: of the repository whose `course` students' code imports; by default the installed one.

    Raises:
        ZygoteError: it does not start.
        SandboxError: the layers that work here do not isolate a worker.
    """

    def __init__(
        self,
        imports: Iterable[str] = (),
        layers: Collection[str] = sandbox.LAYERS,
        bounds: Bounds = BOUNDS,
        root: Path | None = None,
    ):
        if sys.platform != "linux":
            raise SandboxError(
                "The grader runs students' code on Linux only; elsewhere, use a container or a "
                "virtual machine. In a notebook, check(…) works everywhere."
            )
        self.bounds = bounds
        _remove_leftovers()
        self._scratch = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _locked(self._scratch)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "autograder.sandbox", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=self._scratch,
                env=sandbox.environment(self._scratch) | _gpu_environment(bounds.gpu),
                start_new_session=True,
            )
        self._control.settimeout(_START_SECONDS)
        # The names may come from a submission, and what is imported here, every student can read.
        public = [name for name in imports if name.partition(".")[0] not in ("solutions", "tests")]
        settings = {
            "imports": [*WARM_IMPORTS, *public],
            "scratch": str(self._scratch),
            "home": str(sandbox.course_home(root)),
            "layers": list(layers),
            "bounds": asdict(bounds),
        }
        try:
            ready = self._request(settings)
            self.layers = frozenset(ready["layers"])
            if layers:
                sandbox.require(self.layers)
        except (ZygoteError, SandboxError):
            self.close()
            raise
        folder = None if "view" in self.layers else self._scratch
        self._watch = Watch(ready["pid"], bounds, folder)

    def __enter__(self) -> StudentZygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(self) -> Spawned:
        """A fresh worker with an empty namespace."""
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._request({}, theirs.fileno())["pid"]
        worker = Spawned(Channel(ours), pid, self)
        worker.channel.cause, worker.channel.excess = worker.cause, self._watch.excess
        return worker

    def spawn(self, cells: Sequence[Cell], limits: Limits = Limits()) -> StudentProcess:
        """A submission: a worker in which its cells were executed."""
        return StudentProcess(self, cells, limits)

    def close(self) -> None:
        """End the zygote and its workers, and delete their folders."""
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _request(self, request: dict[str, Any], *fds: int) -> dict[str, Any]:
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], fds)
            reply = self._control.recv(1 << 16)
        except OSError as error:
            raise ZygoteError(f"The process that forks workers does not answer: {error}.") from None
        if not reply:
            raise ZygoteError("The process that forks workers is gone.")
        return json.loads(reply)


_PREFIX = "autograder-"  # of folders for temporary files
_LEFT_SECONDS = 60  # the age from which a folder that nobody has locked was left behind


def _locked(folder: Path) -> int | None:
    """A descriptor that locks a folder as long as this process lives; None if another one does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers() -> None:
    """Delete the folders of graders that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just deleted
            status = folder.lstat()
            mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            old = time.time() - status.st_mtime > _LEFT_SECONDS
            if mine and old and (lock := _locked(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


class StudentProcess:
    """One submission, in a worker that is replaced when it is lost; a context manager.

    Cells at which a worker hung or died are left out of the next one, and reported.
    """

    def __init__(self, zygote: StudentZygote, cells: Sequence[Cell], limits: Limits):
        self.cells, self.limits = tuple(cells), limits
        self._zygote = zygote
        self._lost: dict[int, CellReport] = {}
        self._worker: Spawned | None = None
        self.reports: list[CellReport] = []
        self._student: RemoteStudent | None = None

    def __enter__(self) -> StudentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def student(self) -> RemoteStudent:
        """The answer in a living worker: the same as before, or a fresh one."""
        while self._student is None or self._student.channel.lost is not None:
            self.close()
            self._start()
        return self._student

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._student = None

    def _start(self) -> None:
        """Execute the cells in a new worker, up to one that ends it."""
        self._worker = self._zygote.fork()
        channel = self._worker.channel
        student = RemoteStudent(channel)
        self.reports = []
        for index, cell in enumerate(self.cells):
            if index in self._lost:
                self.reports.append(self._lost[index])
                continue
            hung = any(self._lost[i].status == "timed out" for i in self._lost if i < index)
            channel.limit = _hurried(self.limits.cell) if hung else self.limits.cell
            channel.deadline = time.monotonic() + channel.limit
            try:
                self.reports.append(_report(cell, student.execute(cell.source, cell.name)))
            except Exception:  # the worker is lost, or answers in a way of its own
                lost = channel.lost or channel.lose("crashed", "Its answer is not readable.")
                self._lost[index] = CellReport(cell.name, lost.status, reason=str(lost))
                return
        channel.limit = channel.deadline = math.inf
        self._student = student


def _report(cell: Cell, result: dict[str, Any]) -> CellReport:
    error, output = result["error"], str(result["output"])
    if error is None:
        return CellReport(cell.name, "run", output=output)
    lines = [line for function, line, _ in error["frames"] if function == "<module>"]
    return CellReport(
        cell.name,
        "failed",
        str(error["type"]),
        str(error["message"]),
        int(lines[-1]) if lines else 0,
        output,
    )


_HANGS = 2  # in a row, after which a function is not called again


@dataclass
class _Clock:
    """The deadline of a case: its own limit, or what is left of the exercise's."""

    limits: Limits
    inherited: RemoteStudent | None = None  # other exercises used it, and may have left something
    hung: bool = False  # a test ran out of time
    hangs: dict[str, int] = field(default_factory=dict)  # of what was called; how often in a row
    started: float = field(default_factory=time.monotonic)

    def set(self, channel: Channel) -> None:
        seconds = _hurried(self.limits.test) if self.hung else self.limits.test
        case, whole = time.monotonic() + seconds, self.started + self.limits.exercise
        channel.deadline = min(case, whole)
        channel.limit = seconds if case <= whole else self.limits.exercise

    @property
    def stuck(self) -> set[str]:
        """What is not worth the time of another call."""
        return {name for name, count in self.hangs.items() if count >= _HANGS}

    def learn(self, student: RemoteStudent) -> None:
        """Count what ran out of time; whatever answered in between starts anew."""
        lost, answered = student.channel.lost, list(student.begun)
        if answered and lost is not None and lost.status == "timed out":
            name = answered.pop()
            self.hangs[name] = self.hangs.get(name, 0) + 1
            answered = [other for other in answered if other != name]
        for name in answered:
            self.hangs.pop(name, None)

    def note(self, outcome: Outcome) -> Outcome:
        """Hurry the tests that come after one that hung, and say so where it mattered."""
        if outcome.status != "timed out":
            return outcome
        before, self.hung = self.hung, True
        full, less = self.limits.test, _hurried(self.limits.test)
        if not before or less == full:
            return outcome
        why = f"An earlier test of this exercise used up {full:g} s, so this one had {less:g} s."
        return replace(outcome, reason=f"{outcome.reason} {why}")


def run_exercise(
    tests: Sequence[Test], submission: StudentProcess, limits: Limits | None = None, device="cpu"
) -> list[Outcome]:
    """The outcome of every test of one exercise, in their order.

    A test whose worker hangs or dies is reported as "timed out" or "crashed"; the next one gets a
    fresh worker. Once one has timed out, each of the others has a tenth of the limit, and its
    reason says so; a function that did so twice in a row is not called again, and the tests that
    would are reported as "not run". When the exercise's time is over, the rest has "timed out".
    """
    clock = _Clock(limits or submission.limits, submission._student)
    outcomes = []
    for test in tests:
        if time.monotonic() - clock.started > clock.limits.exercise:
            reason = f"The exercise did not finish within {clock.limits.exercise:g} s."
            outcomes.append(test.outcome(None, 0, AnswerLost("timed out", reason)))
        else:
            outcomes.append(clock.note(_run(test, submission, clock, device)))
    return outcomes


def _run(test: Test, submission: StudentProcess, clock: _Clock, device: str) -> Outcome:
    """Run the cases up to the first that does not hold."""
    for index in range(len(test.cases)):
        student = submission.student
        clock.set(student.channel)
        try:
            student.reset(seed_of(f"{test.name} {index}"), clock.stuck)
            test.run_case(student, index, device)
            student.check()
        except Exception as error:
            if student.channel.exceeded and student is clock.inherited:
                return _run(test, submission, clock, device)  # in a worker of its own
            return _outcome(test, student, index, error)
        finally:
            clock.learn(student)
    return test.success()


def _outcome(test: Test, student: RemoteStudent, index: int, error: Exception) -> Outcome:
    # A test may have met the loss as another error, in an operator that swallowed it, say.
    error = student.channel.lost or student.refused or error
    try:
        return test.outcome(student, index, error)
    except Exception:  # an answer that breaks whoever looks at it closely
        with contextlib.suppress(Exception):
            return test.outcome(None, index, AssertionError(f"{type(error).__name__}: {error}"))
        return test.outcome(None, index, AssertionError(type(error).__name__))
