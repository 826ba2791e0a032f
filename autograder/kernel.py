"""Executes a notebook in a fresh kernel, and tells what it took."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from traitlets.config import Config

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    cpu_seconds: float  # of the kernel and of processes that it started
    peak_bytes: int  # of memory
    cells: Mapping[str, float]  # seconds on the clock, by the id of the cell


# `ru_maxrss` would begin with the memory of the process that the kernel was forked from.
METER = """
import json, pathlib, resource, sys
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
peak = used[0].ru_maxrss * (1 if sys.platform == "darwin" else 1024)
status = pathlib.Path("/proc/self/status")
if status.exists():
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps([sum(u.ru_utime + u.ru_stime for u in used), peak]))
"""


def execute(notebook: NotebookNode, cell_seconds: int) -> Cost:
    """Run a notebook from top to bottom, in an empty folder; its cells get their outputs.

    Raises:
        CellExecutionError, CellTimeoutError: with the cell that failed.
    """
    meter = new_code_cell(METER, id="meter")
    notebook.cells.append(meter)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        client = NotebookClient(
            notebook,
            timeout=cell_seconds,
            resources={"metadata": {"path": folder}},
            coalesce_streams=True,  # else what is printed slowly comes in several boxes
            # Over TCP, where other users of the machine could listen, ipykernel warns.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
        )
        try:
            client.execute(env={"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ})
        finally:
            notebook.cells.remove(meter)
    cpu_seconds, peak = json.loads(meter.outputs[0]["text"])
    return Cost(cpu_seconds, peak, {c["id"]: _seconds(c) for c in notebook.cells if _ran(c)})


def _ran(cell: NotebookNode) -> bool:
    return "iopub.execute_input" in cell.metadata.get("execution", {})


def _seconds(cell: NotebookNode) -> float:
    times = cell.metadata["execution"]
    start, end = times["iopub.execute_input"], times["shell.execute_reply"]
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def side_by_side(
    tasks: Mapping[str, Callable[[], T]], jobs: int | None
) -> Iterator[tuple[str, Future[T]]]:
    """Run tasks that wait for kernels; each comes with its name when it is done.

    Args:
        jobs: how many run at a time; by default one for each CPU.
    """
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        names = {pool.submit(task): name for name, task in tasks.items()}
        try:
            for future in as_completed(names):
                yield names[future], future
        finally:
            pool.shutdown(cancel_futures=True)
