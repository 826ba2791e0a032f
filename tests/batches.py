"""What tests of whole batches share: a course to grade, and what a batch may leave behind."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mini
import pytest

import course.checks
from autograder import grade as grading


@contextmanager
def tiny_course(folder: Path) -> Iterator[Path]:
    """The root of a course of one tiny chapter, whose checks are importable here too."""
    root = mini.write(folder / "root")
    package = Path(course.checks.__file__).parents[1]
    shutil.copytree(package, root / "course", ignore=shutil.ignore_patterns("__pycache__"))
    checks = root / "course" / "checks"
    (checks / "mini.py").write_text(mini.CHECKS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course.checks, "__path__", [*course.checks.__path__, str(checks)])
        yield root
    sys.modules.pop("course.checks.mini", None)
    grading.close_slot()


def knowing(root: Path) -> dict[str, str]:
    """The environment in which other processes, too, find the tiny chapter's checks."""
    folder = root.parent / "site"
    folder.mkdir(exist_ok=True)
    extend = f"import course.checks; course.checks.__path__.append({str(root / 'course/checks')!r})"
    (folder / "sitecustomize.py").write_text(extend, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def running(pid: int) -> list[int]:
    """The processes that descend from one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == pid:
            found += [int(stat.parent.name), *running(int(stat.parent.name))]
    return found


def snapshot(*folders: Path) -> dict[Path, str]:
    """The content of all files below some folders."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
