"""What is measured, stored and shown: budgets of chapters, benchmarks, and the page of the book."""

import importlib
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from autograder import budget, kernel, results
from autograder.chapters import ChapterError, find_root, syllabus
from autograder.cli import app

ROOT = find_root(Path(__file__).parent)
STORED = budget.entries(ROOT)


@pytest.fixture(scope="module")
def benchmark():
    """A script of benchmarks/, by its name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def page(benchmark):
    return benchmark("page")


@pytest.fixture
def course(released):
    """The tiny course, its page with one figure in it, not built."""
    path = released / "book" / "chapters" / "mini.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=[new_code_cell("1", metadata={"mystnb": {}})]), path)
    return released


# --- kernels ---------------------------------------------------------------------------------


def test_what_a_run_takes(capfd):
    cells = [
        new_code_cell("many = bytearray(300 << 20)", id="memory"),
        new_code_cell("del many\nimport time\nuntil = time.process_time() + 0.5", id="free"),
        new_code_cell("while time.process_time() < until: pass", id="busy"),
    ]
    notebook = new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    cost = kernel.execute(notebook, cell_seconds=60)
    assert 300 << 20 < cost.peak_bytes < 900 << 20
    assert cost.cpu_seconds > 0.5
    assert max(cost.cells, key=cost.cells.__getitem__) in ("busy", "memory")
    assert cost.cells["busy"] > 0.4
    assert [cell["id"] for cell in notebook.cells] == ["memory", "free", "busy"]
    assert capfd.readouterr().err == ""  # ipykernel warns of sockets that others could read


def test_as_many_run_at_a_time_as_are_asked_for():
    meeting = threading.Barrier(2)

    def meet():
        return meeting.wait(timeout=20)

    met = kernel.side_by_side({"a": meet, "b": meet}, 2)
    assert {name: future.result() < 2 for name, future in met} == {"a": True, "b": True}
    order = []
    for _ in kernel.side_by_side({n: lambda n=n: order.append(n) for n in "abc"}, 1):
        pass
    assert order == ["a", "b", "c"]


# --- budgets ---------------------------------------------------------------------------------


def test_a_chapter_is_measured_once(course, monkeypatch):
    findings = budget.measure([], course)
    assert findings == ["mini: its page is not built; run `make book`, then this again."]
    entry = budget.entries(course)["mini"]
    assert (entry["words"], entry["figures"], entry["exercises"]) == (23, 1, 2)
    assert set(entry["check_seconds"]) == {"double", "count", "debug"}
    for kind in ("solved", "blank"):
        assert 0.1 < entry[kind]["cpu_seconds"] < 60
        assert entry[kind]["peak_bytes"] > 50 << 20
        assert len(entry[kind]["slowest"]) == budget.SLOWEST

    monkeypatch.setattr(budget, "_run", lambda *_: pytest.fail("it was measured again"))
    built = course / "_build/html/book/chapters/mini.html"
    built.parent.mkdir(parents=True)
    (built.parent / "line.png").write_bytes(bytes(900_000))
    built.write_text('<img alt="" src="line.png"><img alt="" src="line.png">' + 200_000 * "x")
    assert budget.measure([], course) == ["mini: its page weighs 1.10 MB; a page may weigh 1."]
    built.write_text("light")
    assert budget.measure([], course) == []
    result = CliRunner().invoke(app, ["budget", "--root", str(course), "--check"])
    assert (result.exit_code, "All within budget." in result.stdout) == (0, True)

    # The text may change; the code, the checks and the library may not.
    source = course / "solutions/mini/chapter.md"
    source.write_text(source.read_text().replace("Look.", "Look here."))
    assert budget.measure([], course, check=True) == []
    source.write_text(source.read_text().replace("torch.arange(3)", "torch.arange(4)"))
    result = CliRunner().invoke(app, ["budget", "--root", str(course), "--check"])
    assert result.exit_code == 1
    assert "mini: not measured as it is now; run `autograder budget mini`." in result.stdout


def test_what_cannot_be_measured_is_told(mini):
    with pytest.raises(
        ChapterError, match=r"mini\.ipynb is missing; run `autograder release mini`"
    ):
        budget.measure([], mini)


def entry_of(cpu=1.0, peak=1 << 20, weight=1000, check=0.01):
    run = {"cpu_seconds": cpu, "peak_bytes": peak, "slowest": []}
    return {
        "chapter": "c", "solved": run, "blank": run, "page_bytes": weight,
        "check_seconds": {"a": 0.01, "b": check, "d": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (entry_of(cpu=60, peak=2 << 30, weight=10**6), None),
        (entry_of(cpu=61), "takes 61 s of CPU time; a chapter may take 60."),
        (entry_of(peak=5 << 29), "takes 2.5 GiB of memory; a chapter may take 2."),
    ],
)
def test_what_leaves_a_budget(entry, said):
    notebooks = [f"c: the {kind} notebook {said}" for kind in ("solved", "blank")]
    assert budget.left(entry) == (notebooks if said else [])


def test_what_leaves_the_budget_of_the_course():
    assert budget.left_by_course([entry_of(cpu=59)] * 30) == []
    assert budget.left_by_course([entry_of(cpu=59)] * 31) == [
        "All solved notebooks take 30 minutes of CPU time; they may take 30: a quarter of an hour "
        "on two cores."
    ]
    assert budget.left_by_course([entry_of(check=0.2)]) == [
        "The median check() takes 200 ms; it may take 150."
    ]


def test_stored_measurements_are_of_chapters_that_exist():
    assert STORED and set(STORED) <= set(syllabus(ROOT))


@pytest.mark.parametrize("chapter", STORED)
def test_chapter_keeps_to_its_budget(chapter):
    assert budget.left(STORED[chapter]) == []


def test_course_keeps_to_its_budget():
    assert budget.left_by_course(STORED.values()) == []


# --- the page --------------------------------------------------------------------------------


def test_the_page_agrees_with_the_results(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run `make measured`"


def test_a_number_that_is_not_there_is_told(page, tmp_path, monkeypatch):
    cells = [
        nbformat.v4.new_markdown_cell("## Before"),
        new_code_cell("", outputs=[nbformat.v4.new_output("stream", text="score 0.1\n")]),
        nbformat.v4.new_markdown_cell("## The real data\n\nOf clothes."),
        new_code_cell("", outputs=[nbformat.v4.new_output("stream", text="score 0.2 of 3\n")]),
        nbformat.v4.new_markdown_cell("## Quiz"),
        new_code_cell("", outputs=[nbformat.v4.new_output("stream", text="points 5\n")]),
    ]
    monkeypatch.setattr(page, "ROOT", tmp_path)
    (tmp_path / "book" / "chapters").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), tmp_path / "book" / "chapters" / "mini.ipynb")
    row = {"chapter": "mini", "pattern": r"score ([\d.]+) of (\d)"}
    assert page.reached(row) == "0.2, 3"
    with pytest.raises(page.PageError, match=r"mini\.ipynb: .* print nothing like 'points"):
        page.reached({**row, "pattern": r"points (\d)"})


def test_what_a_gpu_found_is_shown(page):
    curves = {"training loss": [2.0, 1.0], "test accuracy": [0.5, 0.75]}
    result = {
        "machine": {"cores": "16", "python": "3.12", "torch": "2.11+cu", "GPU": "A fast one"},
        "device": "cuda", "tiny": False,
        "tests": {"passed": 7, "failed": 0},
        "grading": {"submissions": 3, "same_scores": False, "cpu_seconds": 9, "device_seconds": 8},
        "notebooks": {"mlp": {"cpu": 12.0, "device": None}},
        "speed": [{"what": "half beside full", "ms": 1.0, "beside_ms": 2.5}],
        "training": [{"model": "LeNet", "data": "clothes", "curves": curves, "seconds": 5.0}],
    }  # fmt: skip
    text = "\n".join(page.gpu({"fast": result}))
    for words in (
        "### A fast one", "16 cores, A fast one, torch 2.11, Python 3.12",
        "7 tests of the chapters", "**other scores than** on the CPU",
        "| {doc}`mlp <chapters/mlp>` | 12 | failed |",
        "| half beside full | 1 | 2.5 |", "test accuracy 0.75",
    ):  # fmt: skip
        assert words in text
    (figure,) = [line for line in text.splitlines() if line.startswith("<figure")]
    assert len(ET.fromstring(figure).findall(".//text")) == 8
    assert "gpu.py" in "\n".join(page.gpu({}))


def test_what_does_something_else_is_not_compared(benchmark):
    scratch = benchmark("scratch")
    pair = scratch.Pair("c", "e", "n", "i", lambda: torch.ones(2), lambda: torch.tensor([1, 1.1]))
    with pytest.raises(AssertionError, match="not close"):
        scratch.measure(pair, rounds=1)


def test_the_power_of_a_growth(benchmark):
    lengths = [2, 4, 8, 16]
    assert benchmark("growth").exponent(lengths, [n**1.5 for n in lengths]) == pytest.approx(1.5)


def test_chapters_measured_on_a_gpu_are_added_to_those_before(benchmark, tmp_path):
    gpu = benchmark("gpu")
    path, setting = tmp_path / "gpu.json", gpu.Setting("cuda", False, ())
    gpu.add(path, setting, "notebooks", {"a": {"cpu": 1, "device": 2}})
    gpu.add(path, setting, "tests", {"passed": 3})
    gpu.add(path, setting, "notebooks", {"b": {"cpu": 4, "device": None}})
    found = results.stored(path)
    assert set(found["notebooks"]) == {"a", "b"}
    assert (found["tests"], found["device"]) == ({"passed": 3}, "cuda")


def test_a_result_is_stored_in_one_step_with_the_digits_that_count(tmp_path):
    path = tmp_path / "deep" / "result.json"
    results.store(path, {"a": [1.23456789, 2], "b": (123456.7, "text")})
    assert results.stored(path) == {"a": [1.235, 2], "b": [123500.0, "text"]}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
    path.write_text("{")
    assert results.stored(path) is None
    assert results.stored(tmp_path / "none.json") is None
