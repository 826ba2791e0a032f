"""What a worker and all that it started use together, where no limit of the system's covers that.

A limit of memory holds for one process, and where files are on disk, for one file. So the sums are
looked at while the worker is waited for, a few times a second.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autograder.sandbox import Bounds

EVERY = 0.25  # seconds between two looks
SHARE = 0.05  # of the time that looking may take, on a machine with very many processes


@dataclass
class Watch:
    """Looks after the processes below one, and after a folder that they write to.

    Args:
        pid: of the process that starts them; it does not count itself.
        folder: where files are on disk; None where they are in memory and limited there.
    """

    pid: int
    bounds: Bounds
    folder: Path | None = None
    _next: float = 0.0

    def excess(self) -> str:
        """The bound that is broken, as a sentence; "" where none is, or it is too early to look."""
        if time.monotonic() < self._next:
            return ""
        started = time.thread_time()  # of the CPU: a busy machine is to be looked at no less often
        found = self._excess(descendants(self.pid))
        self._next = time.monotonic() + max(EVERY, (time.thread_time() - started) / SHARE)
        return found

    def _excess(self, pids: list[int]) -> str:
        if memory(pids, self.pid, self.bounds.together) > self.bounds.together:
            return self.bounds.too_much_memory()
        if self.folder is not None:
            size, count = files(self.folder, pids, self.bounds.files)
            if size > self.bounds.scratch or count > self.bounds.files:
                return self.bounds.too_many_files()
        return ""


def descendants(pid: int) -> list[int]:
    """The processes that descend from one."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, _names("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parent = file.read().rpartition(b")")[2].split()[1]  # before it, any name may stand
            children.setdefault(int(parent), []).append(int(name))
    found = [*children.get(pid, ())]
    for child in found:  # grows
        found += children.get(child, ())
    return found


def memory(pids: Iterable[int], parent: int, enough: int) -> int:
    """Bytes of memory of some processes; what several share counts once.

    Args:
        parent: of all of them. What each took beside that one's memory is found fast, and where it
            comes to no more than `enough`, that is the answer: a fork alone costs nothing.
    """
    pids, inherited = list(pids), _resident(parent)
    roughly = sum(max(0, _resident(pid) - inherited) for pid in pids)
    if roughly <= enough:
        return roughly
    exactly = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            exactly += sum(int(line.split()[1]) << 10 for line in file if line.startswith(b"Pss:"))
    return exactly


def _resident(pid: int) -> int:
    """Bytes in memory that are of no file: those of files, the system can drop."""
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        kinds = (line.split() for line in file if line.startswith((b"RssAnon:", b"RssShmem:")))
        return sum(int(size) << 10 for _, size, _ in kinds)
    return 0


def files(folder: Path, pids: Iterable[int], most: int) -> tuple[int, int]:
    """Bytes and number of the files in a folder, and of those that are open but have no name."""
    sizes: dict[tuple[int, int], int] = {}
    for place in _walk(str(folder)):
        with suppress(OSError):
            entry = os.lstat(place)
            sizes[entry.st_dev, entry.st_ino] = entry.st_blocks * 512
        if len(sizes) > most:
            return sum(sizes.values()), len(sizes)
    for pid in pids:
        for name in _names(f"/proc/{pid}/fd"):
            with suppress(OSError):
                entry = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(entry.st_mode) and not entry.st_nlink:
                    sizes[entry.st_dev, entry.st_ino] = entry.st_blocks * 512
    return sum(sizes.values()), len(sizes)


def _walk(folder: str) -> Iterator[str]:
    open_ = [folder]
    while open_:
        with suppress(OSError), os.scandir(open_.pop()) as entries:
            for entry in entries:
                yield entry.path
                if entry.is_dir(follow_symlinks=False):
                    open_.append(entry.path)


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []
