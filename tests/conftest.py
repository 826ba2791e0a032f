"""Fixtures that several test files share."""

import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import their helpers by name

import mini as mini_course


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture
def mini_checks(monkeypatch):
    """The public checks of the tiny chapter, importable as `course.checks.mini`."""
    module = types.ModuleType("course.checks.mini")
    exec(compile(mini_course.CHECKS, "mini_checks.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "course.checks.mini", module)
    return module


@pytest.fixture
def mini(tmp_path, mini_checks) -> Path:
    """The root of a course of one tiny chapter."""
    return mini_course.write(tmp_path / "mini-course")
