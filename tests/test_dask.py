"""Grading on a Dask cluster: a scheduler and several worker processes on this machine."""

import os
import signal
import sys
from pathlib import Path

import make_submissions as make
import pytest
from typer.testing import CliRunner

from autograder.chapters import chapter_ids, find_root, load
from autograder.cli import app
from autograder.cluster import ClusterError, cluster
from autograder.grade import grade, read_records

distributed = pytest.importorskip("distributed")

ROOT = find_root(Path(__file__).parent)
CHAPTER = "tensors"
if CHAPTER not in chapter_ids(ROOT):
    pytest.skip("a copy without solutions cannot grade", allow_module_level=True)


@pytest.fixture(scope="module")
def scheduler():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=True, **options) as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    """Right ones, blank ones, and one that cannot be read, of ten students."""
    chapter = load(CHAPTER, ROOT)
    right, blank = make.encoded(make.answered(chapter)), make.encoded(make.blank(chapter))
    made = [make.Made(f"right-{n}", right, 100) for n in range(5)]
    made += [make.Made(f"blank-{n}", blank, 0) for n in range(4)]
    made.append(make.Made("pdf", b"%PDF", 0, "unreadable"))
    return make.write_flat(tmp_path_factory.mktemp("class"), made)


def told(out):
    """All that records say, but for what a clock says."""
    records = {record["student"]: record for record in read_records(out)}
    for record in records.values():
        for timed in (record, *record["exercises"].values()):
            del timed["seconds"]
    return records


def test_a_cluster_that_loses_a_process_grades_as_this_machine_does(
    scheduler, submissions, tmp_path
):
    killed = []

    def progress(done, total):
        if done >= 2 and not killed:  # in the middle: others are under way
            with distributed.Client(scheduler, set_as_default=False) as client:
                killed.extend(client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    with cluster(scheduler, ROOT) as executor:
        rows = grade([submissions], tmp_path / "there", ROOT, executor=executor, progress=progress)
    assert len(killed) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)
    assert len(rows) == 10
    grade([submissions], tmp_path / "here", ROOT, jobs=1)
    there, here = told(tmp_path / "there"), told(tmp_path / "here")
    assert there == here
    assert {name: r["score"] for name, r in there.items() if name.endswith("-0")} == {
        "right-0": 100, "blank-0": 0
    }  # fmt: skip
    book = [(tmp_path / name / "gradebook.csv").read_text() for name in ("there", "here")]
    assert book[0] == book[1]


def test_the_command_grades_on_a_cluster(scheduler, submissions, tmp_path):
    one = str(submissions / "right-1.ipynb")
    done = CliRunner().invoke(
        app, ["grade", one, "--out", str(tmp_path), "--dask", scheduler, "--root", str(ROOT)]
    )
    assert done.exit_code == 0, done.output
    assert told(tmp_path)["right-1"]["score"] == 100


def test_workers_that_see_other_files_are_refused(scheduler, monkeypatch):
    monkeypatch.setattr("autograder.cluster.tests_hash", lambda *_: "another")
    with pytest.raises(ClusterError, match="another version"), cluster(scheduler, ROOT):
        pass


def test_nobody_there_is_said(monkeypatch):
    monkeypatch.setattr("autograder.cluster.CONNECT_SECONDS", 0.3)
    with pytest.raises(ClusterError, match="no Dask scheduler"), cluster("tcp://127.0.0.1:9", ROOT):
        pass


def test_a_missing_dask_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="pip install"), cluster("tcp://127.0.0.1:9", ROOT):
        pass
