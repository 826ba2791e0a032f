"""Compares the speed of this grader with nbgrader's and Otter-Grader's.

    .venv/bin/python benchmarks/grading.py            20 submissions each, ours also 10, 100, 1,000
    .venv/bin/python benchmarks/grading.py --quick    4 each, ours also 10, 40
    .venv/bin/python benchmarks/grading.py --count 8 --sizes 10 200

The same submissions of the same assignment are graded by all three on this machine, in one run, two
workers each, each grader in an environment of its own with the same torch and compiled byte code.
Seconds depend on what else the machine does, CPU seconds hardly, so both are given.
Environments stay in the work folder; the first run makes them, which needs the network. Progress
goes to the terminal, the result to standard output and to `benchmarks/results/grading.json`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import assignment
import psutil

from autograder import results

HERE = Path(__file__).parent
RIVALS = {"nbgrader": ["nbgrader==0.9.6"], "otter": ["otter-grader[grading]==7.0.0"]}
WORKERS = 2
# As everywhere in this repository: one thread a process, and byte code kept.
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")},
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="as --count 4 --sizes 10 40")
    parser.add_argument("--count", type=int, default=20, help="submissions for each grader")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], metavar="N",
                        help="two or more numbers of submissions for ours alone")  # fmt: skip
    parser.add_argument("--work", type=Path, default=_cache(), help="folder of the environments")
    parser.add_argument("--out", type=Path, default=results.folder(HERE.parent) / "grading.json")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    count, sizes = (4, [10, 40]) if options.quick else (options.count, sorted(options.sizes))
    if count <= WORKERS:
        parser.error(f"--count needs more than {WORKERS}: those leave out the start")
    if len(sizes) < 2:
        parser.error("--sizes needs two numbers at least: their difference leaves out the start")
    become_reaper()
    bench = Bench(work)
    result = {
        "machine": results.machine(),
        "load before": os.getloadavg()[0],
        "same submissions": bench.compare(count),
        "growth": bench.growth(sizes),
        "CPU seconds of the tests": bench.tests_alone(),
        "load after": os.getloadavg()[0],
    }
    results.store(options.out, result)
    print(text(result))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torch-by-writing" / "benchmark"


def say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The standard output of a command; its messages are shown if it fails."""
    # What lies beside it comes first, as in an activated environment: nbgrader calls alembic.
    path = f"{Path(command[0]).parent}{os.pathsep}{ENVIRONMENT.get('PATH', os.defpath)}"
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**ENVIRONMENT, "PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@dataclass
class Cost:
    """What a run took, from start to end."""

    seconds: float
    cpu: float  # seconds, of all its processes


def become_reaper() -> None:
    """Have processes whose parent ends come here, so that their CPU time is counted."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_SECONDS = 20  # an orphan that lives longer is not of this run


def cost_of(task: Callable[[], object]) -> Cost:
    """Run a task that starts processes."""
    before, started = _cpu_of_children(), time.perf_counter()
    task()
    seconds = time.perf_counter() - started
    until = time.monotonic() + _ORPHANS_SECONDS
    try:
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
    except ChildProcessError:
        pass
    return Cost(seconds, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    """The environments and the assignment, in a folder outside the repository."""

    def __init__(self, work: Path):
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self.python = {name: self._environment(name) for name in RIVALS}
        self.course = assignment.write_course(self._fresh("course"))
        self.nbgrader = assignment.write_nbgrader(self._fresh("nbgrader"))
        say("nbgrader makes the release version")
        run(self.python["nbgrader"].with_name("nbgrader"), "generate_assignment", assignment.NAME,
            cwd=self.nbgrader)  # fmt: skip
        name = assignment.NAME
        self.released = self.nbgrader / "release" / name / f"{name}.ipynb"
        say("Otter makes its archive")
        self.otter = self._fresh("otter")
        assignment.write_otter(self.otter / "tests")
        run(self.python["otter"], "-m", "otter", "generate", "-t", "tests", "-o", "autograder.zip",
            "--no-environment", cwd=self.otter)  # fmt: skip

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / name).mkdir()
        return self.work / name

    def _environment(self, name: str) -> Path:
        """The Python of a grader's own environment, with byte code compiled."""
        folder = self.work / f"env-{name}"
        torch = f"torch=={version('torch').partition('+')[0]}"
        wanted = [*RIVALS[name], torch, "ipykernel", "setuptools<81"]
        stamp = folder / "wanted.txt"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
            say(f"making the environment of {' '.join(RIVALS[name])}")
            uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
            if uv is None:
                sys.exit("This needs uv: pip install uv.")
            run(uv, "venv", "--clear", "--python", sys.executable, folder)
            run(uv, "pip", "install", "--python", python, "--compile-bytecode", *wanted)
            stamp.write_text("\n".join(wanted))
        return python

    # one run of each grader over a folder of submissions: its cost, and the scores

    def grade_ours(self, folder: Path, workers: int = WORKERS) -> tuple[Cost, dict[str, float]]:
        """Everything from the command's start to its end."""
        out = self._fresh("grades")
        command = [sys.executable, "-m", "autograder.cli", "grade", folder, "--out", out,
                   "--root", self.course, "--jobs", str(workers), "--json"]  # fmt: skip
        cost = cost_of(lambda: run(*command))
        records = [json.loads(path.read_text()) for path in out.glob("*/*.json")]
        return cost, {r["student"]: r["score"] for r in records}

    def grade_nbgrader(self, folder: Path) -> tuple[Cost, dict[str, float]]:
        """Two processes by student's name over one gradebook."""
        for name in ("submitted", "autograded"):
            shutil.rmtree(self.nbgrader / name, ignore_errors=True)
        shutil.copytree(folder, self.nbgrader / "submitted")
        command = [self.python["nbgrader"].with_name("nbgrader"), "autograde", assignment.NAME]
        halves = [lambda s=s: run(*command, "--student", f"{s}*", cwd=self.nbgrader) for s in "ab"]
        cost = cost_of(lambda: together(*halves))
        scores = json.loads(run(self.python["nbgrader"], "-c", SCORES, cwd=self.nbgrader))
        return cost, {path.name: scores[path.name] for path in folder.iterdir()}

    def grade_otter(self, folder: Path) -> tuple[Cost, dict[str, float]]:
        """Otter's API in a pool of two processes: faster than `otter run`."""
        command = [self.python["otter"], HERE / "otter_pool.py", self.otter / "autograder.zip",
                   folder, str(WORKERS)]  # fmt: skip
        printed: list[str] = []
        cost = cost_of(lambda: printed.append(run(*command, cwd=self.otter)))
        return cost, json.loads(printed[0])

    def submissions(self, count: int) -> Path:
        return assignment.write_submissions(self.released, self._fresh("submissions"), count)

    # what is measured

    def compare(self, count: int) -> dict[str, Any]:
        """What the same submissions cost each grader; all scores must be the known ones."""
        graders = {"ours": self.grade_ours, **{n: getattr(self, f"grade_{n}") for n in RIVALS}}
        for name, grade in graders.items():
            say(f"{name}: one submission to warm up")
            grade(self.submissions(1))
        costs: dict[int, dict[str, Any]] = {}
        for size in (WORKERS, count):  # the first tells what the start costs
            folder, costs[size] = self.submissions(size), {}
            expected = {assignment.student(n): assignment.score(n) for n in range(size)}
            for name, grade in graders.items():
                say(f"{name}: {size} submissions, {WORKERS} workers")
                cost, scores = grade(folder)
                costs[size][name] = asdict(cost)
                if scores != expected:
                    wrong = sorted(s for s in expected if scores.get(s) != expected[s])
                    sys.exit(f"{name} gives other scores than expected: {wrong}")
        one_more = {
            name: {k: (costs[count][name][k] - cost[k]) / (count - WORKERS) for k in cost}
            for name, cost in costs[WORKERS].items()
        }
        return {
            "submissions": count, "workers": WORKERS, "costs": costs[count], "one more": one_more,
        }  # fmt: skip

    def tests_alone(self) -> float:
        """CPU seconds of an assignment's hidden tests, run in one process on the solution."""
        return float(run(sys.executable, "-c", TESTS_ALONE, str(self.course), assignment.NAME))

    def growth(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """Our cost by the number of submissions and workers, and the memory meanwhile."""
        rows = []
        for count in sizes:
            folder = self.submissions(count)
            for workers in (1, 2):
                say(f"ours: {count} submissions, {workers} workers")
                with Memory(lambda: len([*self.work.glob("grades/*/*.json")])) as memory:
                    cost, scores = self.grade_ours(folder, workers)
                if scores != {assignment.student(n): assignment.score(n) for n in range(count)}:
                    sys.exit("Our scores are not the expected ones.")
                row = {"submissions": count, "workers": workers, **asdict(cost)}
                rows.append({**row, "memory": memory.ends})
        return rows


SCORES = f"""
import json
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    scores = {{s.student.id: s.score for s in book.assignment_submissions("{assignment.NAME}")}}
print(json.dumps(scores))
"""

TESTS_ALONE = """
import sys, time
from pathlib import Path
import torch
from autograder.chapters import load
from course.testing import Student
torch.set_num_threads(1)
chapter = load(sys.argv[2], Path(sys.argv[1]))
namespace = chapter.namespace([])
for times in (3, 200):  # the first to warm up
    started = time.process_time()
    for _ in range(times):
        assert all(test.run(Student(namespace)).passed for test in chapter.tests)
print((time.process_time() - started) / times)
"""


def together(*tasks: Callable[[], object]) -> None:
    """Run tasks at the same time."""
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Memory:
    """Samples the memory of the grader's lasting processes while something runs.

    Args:
        done: how many submissions are graded.
    """

    def __init__(self, done: Callable[[], int]):
        self.samples: list[tuple[int, int]] = []  # submissions done, bytes
        self._done, self._stop = done, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def ends(self) -> list[int]:
        """Bytes at a tenth of the way and before the end, when processes leave."""
        last = max((count for count, _ in self.samples), default=0)
        during = [size for count, size in self.samples if last / 10 <= count < last]
        return [during[0], during[-1]] if len(during) > 1 else []

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            count, total = self._done(), 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += 0 if _is_worker(process) else process.memory_info().rss
                except psutil.Error:  # it ended
                    continue
            if count and total:
                self.samples.append((count, total))


def _is_worker(process: psutil.Process) -> bool:
    """Whether it runs a student's code: a child of a zygote's, of which it is a fork."""
    family = process, process.parent()
    return all(p is not None and "autograder.sandbox" in p.cmdline() for p in family)


# --- what is printed -------------------------------------------------------------------------


def text(result: dict[str, Any]) -> str:
    """The result as a page."""
    compared, growth = result["same submissions"], result["growth"]
    count, costs = compared["submissions"], compared["costs"]
    title = f"{count} submissions of four torch questions (8 tests), {WORKERS} workers, "
    lines = [f"{title}from start to end:", ""]
    lines.append(f"{'':10}{'seconds':>9}{'a minute':>10}{'ours':>8}{'CPU s':>9}{'ours':>8}")
    for name, cost in costs.items():
        taken, cpu = cost["seconds"], cost["cpu"]
        lines.append(
            f"{name:10}{taken:9.1f}{60 * count / taken:10.0f}{_times(costs, name, 'seconds'):>8}"
            f"{cpu:9.1f}{_times(costs, name, 'cpu'):>8}"
        )
    lines += ["", "Ours grows with submissions and workers:", ""]
    lines.append(
        f"{'submissions':>11}{'workers':>9}{'seconds':>9}{'a minute':>10}{'CPU s':>9}{'memory':>20}"
    )
    for row in growth:
        rate = 60 * row["submissions"] / row["seconds"]
        memory = _memory(row["memory"])
        lines.append(
            f"{row['submissions']:11}{row['workers']:9}{row['seconds']:9.1f}{rate:10.0f}"
            f"{row['cpu']:9.1f}{memory:>20}"
        )
    each, cpu = steady(growth, "seconds"), steady(growth, "cpu")
    lines += ["", f"All without their start: {60 / each:.0f} a minute with {WORKERS} workers,"]
    for name in RIVALS:
        theirs = compared["one more"][name]
        lines.append(
            f"  {theirs['seconds'] / each:.0f} times {name}'s {60 / theirs['seconds']:.0f}; "
            f"in CPU time {theirs['cpu'] / cpu:.0f} times."
        )
    tests = result["CPU seconds of the tests"]
    lines += [
        f"A submission takes {1000 * cpu:.0f} ms of CPU, its tests alone {1000 * tests:.0f} ms: "
        f"the overhead is {cpu / tests - 1:.1f} times the tests.",
        "Load of the machine: {load before:.1f} before, {load after:.1f} after.".format(**result),
    ]
    return "\n".join(lines)


def _times(costs: dict[str, Any], name: str, kind: str) -> str:
    return f"{costs[name][kind] / costs['ours'][kind]:.1f} x"


def _memory(ends: list[int]) -> str:
    return " → ".join(str(size >> 20) for size in ends) + " MB" if ends else "–"


def steady(growth: list[dict[str, Any]], kind: str) -> float:
    """What one more submission costs, by the two largest runs: the start is in both."""
    small, large = [row for row in growth if row["workers"] == WORKERS][-2:]
    more = large["submissions"] - small["submissions"]
    return (large[kind] - small[kind]) / more


if __name__ == "__main__":
    main()
