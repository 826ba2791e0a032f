"""Every student notebook runs: blank to its end, and solved to the printed reference."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from autograder import kernel
from autograder.chapters import chapter_ids, find_root, load

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapter_ids(ROOT)


def student_notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", CHAPTERS)
def test_blank_notebook_runs_to_its_end(name):
    notebook = student_notebook(name)
    kernel.execute(notebook, cell_seconds=120)
    for cell in notebook.cells:
        if cell["id"].startswith("check-"):
            assert "not attempted" in cell.outputs[-1]["data"]["text/plain"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_nbval_reproduces_the_solved_notebook(name, tmp_path):
    notebook = copy.deepcopy(student_notebook(name))
    chapter = load(name, ROOT)
    for cell in notebook.cells:
        if "exercise" in cell.metadata:
            cell.source = chapter.exercises[cell.metadata["exercise"]].reference
    checked = [c for c in notebook.cells if c.get("outputs")]
    assert checked, "no cell begins with # NBVAL_CHECK_OUTPUT"
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout=120", "-p", "no:cacheprovider", "-p", "no:xdist", str(path)],
        capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
