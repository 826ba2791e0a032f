"""How long the book takes to build: all of it, and after one chapter changed.

    .venv/bin/python benchmarks/building.py           two or three minutes

Builds in a copy of the tree; the book's own folder is left alone.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

from autograder import results
from autograder.chapters import find_root

ROOT = find_root(Path(__file__).parent)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "_build", "solutions", "tests", "__pycache__")
WHOLE_SECONDS, ONE_SECONDS = 90, 10  # what a build may take on the clock


def build(tree: Path) -> dict[str, float]:
    """Seconds on the clock and of CPU time, of `make book` without its checks."""
    start, used = time.perf_counter(), cpu_seconds()
    command = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([command, "build", ".", "-q"], cwd=tree, check=True, capture_output=True)
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def change(page: Path) -> None:
    """Add a sentence to a chapter."""
    notebook = nbformat.read(page, as_version=4)
    notebook.cells.append(new_markdown_cell("One sentence more."))
    nbformat.write(notebook, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=results.folder(ROOT) / "building.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "course")
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        found = {"the whole book": build(tree)}
        change(sorted((tree / "book" / "chapters").glob("*.ipynb"))[0])
        found["after one chapter changed"] = build(tree)
    limits = {"the whole book": WHOLE_SECONDS, "after one chapter changed": ONE_SECONDS}
    builds = [{"what": what, **cost, "limit": limits[what]} for what, cost in found.items()]
    for one in builds:
        print(
            "{what}: {seconds:.0f} s, {cpu_seconds:.0f} s of CPU; may take {limit} s".format(**one)
        )
    results.store(options.out, {"machine": results.machine(), "builds": builds})
    if any(one["seconds"] > one["limit"] for one in builds):
        sys.exit("A build takes longer than it may.")


if __name__ == "__main__":
    main()
