"""The day of a chapter's last change, from git."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "book" / "_ext"))
from card import last_change


def git(folder: Path, *arguments: str, day: str = "2026-05-01") -> None:
    who = {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("GIT_AUTHOR", "GIT_COMMITTER"):
        who |= {f"{role}_NAME": "x", f"{role}_EMAIL": "x", f"{role}_DATE": f"{day}T12:00:00Z"}
    subprocess.run(["git", *arguments], cwd=folder, check=True, env=os.environ | who)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three files of the second of May; the second is changed on the ninth, the third later."""
    folder = tmp_path / "whole"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for day, names in (("02", "abc"), ("09", "b"), ("16", "c")):
        for name in names:
            (folder / name).write_text(day)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", day, day=f"2026-05-{day}")
    return folder


def test_the_last_commit_that_touched_a_path_counts(repository):
    assert last_change(repository, "a") == date(2026, 5, 2)
    assert last_change(repository, "b") == date(2026, 5, 9)
    assert last_change(repository, "a", "b") == date(2026, 5, 9)
    assert last_change(repository, "gone") is None


def test_a_shallow_clone_tells_only_what_it_knows(repository, tmp_path):
    git(tmp_path, "clone", "--quiet", "--depth", "2", repository.as_uri(), "shallow")
    days = [last_change(tmp_path / "shallow", name) for name in "abc"]
    assert days == [None, None, date(2026, 5, 16)]


def test_without_a_repository_there_is_no_day(tmp_path):
    (tmp_path / "file").write_text("")
    assert last_change(tmp_path, "file") is None


def test_without_git_there_is_no_day(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert last_change(repository, "a") is None
