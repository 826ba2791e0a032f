"""Grade the one submission of a Gradescope container and write its results.json."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from autograder.grade import read_records
from autograder.policy import settle
from autograder.report import gradescope


def main(root: Path) -> None:
    """Args: root: the folder that holds `source`, `submission` and `results`."""
    source, submission = root / "source", root / "submission"
    options = json.loads((source / "options.json").read_text(encoding="utf-8"))
    if any(submission.rglob("*.ipynb")):
        results = graded(source, submission, options)
    else:
        sentence = f"There is no notebook here; hand in {options['chapter']}.ipynb."
        results = {"score": 0, "output": sentence, "visibility": "visible", "tests": []}
    (root / "results").mkdir(exist_ok=True)
    text = json.dumps(results, ensure_ascii=False, indent=1)
    (root / "results" / "results.json").write_text(text, encoding="utf-8")


def graded(source: Path, submission: Path, options: dict) -> dict:
    """The results of a submission; stops with the grader's own words if it could not run."""
    with tempfile.TemporaryDirectory() as folder:
        # A layout in which everything handed in is one student's, whatever its name.
        handed_in, grades = Path(folder, "submitted"), Path(folder, "grades")
        shutil.copytree(submission, handed_in / "student", symlinks=True)
        command = [sys.executable, "-m", "autograder.cli", "grade", str(handed_in), "--jobs", "1"]
        command += ["--chapter", options["chapter"], "--out", str(grades), "--root", str(source)]
        status = subprocess.run([*command, *options["grade"]], cwd=source).returncode
        results = settle(read_records(grades)) if status < 2 else []
    if not results:
        sys.exit("The submission could not be graded; the lines above say why.")
    return gradescope(results[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
