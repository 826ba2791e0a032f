"""Fixtures that several test files share."""

import importlib
import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

import course.checks

sys.path.insert(0, str(Path(__file__).parent))  # tests import their helpers by name

import make_submissions as made
import mini as mini_course

from autograder.chapters import load


class ByFile(LoadScopeScheduling):
    """A file's tests share what it prepares, so one process runs them; notebooks go one by one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith("test_notebooks.py") else file


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture
def mini_checks(tmp_path, monkeypatch):
    """The tiny chapter's public checks, importable as `course.checks.mini`, in kernels too."""
    folder = tmp_path / "mini-checks"
    folder.mkdir()
    (folder / "mini.py").write_text(mini_course.CHECKS, encoding="utf-8")
    extend = f"import course.checks; course.checks.__path__.append({str(folder)!r})"
    (folder / "sitecustomize.py").write_text(extend, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(course.checks, "__path__", [*course.checks.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "course.checks.mini", raising=False)
    yield importlib.import_module("course.checks.mini")
    sys.modules.pop("course.checks.mini", None)


@pytest.fixture
def mini(tmp_path, mini_checks) -> Path:
    """The root of a course of one tiny chapter."""
    return mini_course.write(tmp_path / "mini-course")


@pytest.fixture
def released(mini) -> Path:
    """The tiny course with its student notebook."""
    (mini / "notebooks").mkdir()
    (mini / "notebooks" / "mini.ipynb").write_bytes(made.encoded(made.blank(load("mini", mini))))
    return mini
