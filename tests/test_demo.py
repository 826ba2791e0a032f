"""The invented class: as many students as asked, of all kinds, graded and reported."""

import csv
import json
import os
import subprocess
import sys

from typer.testing import CliRunner

from autograder.cli import app
from autograder.demo import write_class

run = CliRunner().invoke


def test_a_class_is_made_graded_and_reported(released, tmp_path):
    out = tmp_path / "demo"
    command = [
        sys.executable, "-m", "autograder.cli", "demo", "--students", "40", "--out", str(out),
        "--root", str(released), "--no-open",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in out.glob("grades/*/*.json")]
    handed_in = [*out.glob("submitted/*/mini/mini.ipynb")]
    assert len(records) == len(handed_in) >= 36
    scores = {record["score"] for record in records}
    assert max(scores) == 100 and len(scores) >= 3
    statuses = {e["status"] for record in records for e in record["exercises"].values()}
    assert {"graded", "not attempted", "crashed"} <= statuses
    assert [e["hint"] for record in records for e in record["exercises"].values() if e["hint"]]
    assert (out / "report" / "index.html").exists()
    with open(out / "report" / "gradebook.csv", newline="") as file:
        assert len([*csv.DictReader(file)]) == len({record["student"] for record in records})


def test_the_same_class_again(released, tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        write_class(folder, released, ["mini"], 12)
    first, again = (
        {p.relative_to(f): (p.read_bytes(), os.stat(p).st_mtime) for p in f.rglob("*.ipynb")}
        for f in folders
    )
    assert first == again
    # They differ from one another, though the same three answers come again.
    assert len({data for data, _ in first.values()}) >= 3


def test_a_folder_is_not_overwritten(released, tmp_path):
    done = run(app, ["demo", "--out", str(tmp_path), "--root", str(released)])
    assert done.exit_code == 2 and "exists already" in " ".join(done.output.split())
