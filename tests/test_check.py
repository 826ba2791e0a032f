"""check, use and progress, as a notebook calls them."""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import course
from course.check import check, start, use
from course.progress import FILE

RIGHT = "def double(x):\n    return 2 * x\n"
WRONG = "def double(x):\n    return x * x\n"
STUB = "def double(x):\n    raise NotImplementedError('`double` is not written yet.')\n"


@pytest.fixture(autouse=True)
def notebook(mini_checks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start("mini")


def run(source: str, last: str):
    """What a notebook with this cell gets from the expression `last`."""
    namespace = {"check": check, "use": use, "torch": torch}
    exec(source, namespace)
    return eval(last, namespace)


def test_right_wrong_and_untouched():
    assert run(RIGHT, "check('double')").status == "passed"
    assert run(WRONG, "check('double')").status == "not yet"
    assert run(STUB, "check('double')").status == "not attempted"


def test_a_wrong_answer_gets_cause_inputs_expected_got_and_hints():
    report = run(WRONG, "check('double')")
    text = repr(report)
    for part in ("It looks squared.", "double([1, 3])", "[2, 6]", "[1, 9]", "Hint: Think of 2."):
        assert part in text
    page = report._repr_html_()
    assert "It looks squared." in page
    assert page.index("Hint 1 of 2") < page.index("Hint 2 of 2")
    assert page.count("<details>") == 2
    assert page.rindex("</details>") > page.index("Multiply <code>x</code>.")


def test_untouched_shows_no_table_and_no_traceback():
    page = run(STUB, "check('double')")._repr_html_()
    assert "not attempted" in page
    assert "Traceback" not in page and "<table>" not in page


def test_a_crashing_answer_is_told_without_the_machinery():
    report = run("def double(x):\n    return x.nonsense\n", "check('double')")
    assert "AttributeError" in repr(report)
    assert "testing.py" not in repr(report)


def test_an_undefined_function_is_told():
    assert "`double` is not defined" in repr(run("", "check('double')"))


def test_html_is_escaped():
    page = run("def double(x):\n    return '<script>'\n", "check('double')")._repr_html_()
    assert "<script>" not in page


def test_unknown_exercise_and_chapter_are_told():
    with pytest.raises(ValueError, match='no exercise "tripple" in mini; there are double, count'):
        run("", "check('tripple')")
    with pytest.raises(ValueError, match='no chapter "maxi"'):
        start("maxi")


def test_check_leaves_the_random_state_and_the_dtype_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    run(
        "def double(x):\n    torch.set_default_dtype(torch.float64); torch.rand(3); return 2 * x\n",
        "check('double')",
    )
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    assert torch.get_default_dtype() == torch.float32


def test_use_prefers_a_passing_answer_and_else_goes_on(capsys):
    assert run(RIGHT, "use('double', otherwise=None)")(3) == 6
    assert capsys.readouterr().out == ""
    assert run(WRONG, "use('double', otherwise='library')") == "library"
    assert "does not pass its check yet" in capsys.readouterr().out
    assert run(STUB, "use('double', otherwise='library')") == "library"
    assert "is not done yet" in capsys.readouterr().out
    assert run("", "use('double')") is None
    assert "skipped" in capsys.readouterr().out


def test_use_finds_a_name_that_a_check_reaches_through_a_helper():
    assert run("def fixed(x):\n    return x\n", "use('fixed', otherwise=0)")(5) == 5


def test_use_notices_a_new_definition():
    namespace = {"check": check, "use": use}
    exec(WRONG, namespace)
    eval("check('double')", namespace)
    exec(RIGHT, namespace)
    assert eval("use('double', otherwise='library')", namespace) is namespace["double"]


def test_progress_is_kept_and_drawn():
    assert "Nothing yet" in repr(course.progress())
    run(STUB, "check('double')")
    run(RIGHT, "check('double')")
    run(WRONG, "check('double')")  # once passed it stays passed
    assert json.loads(Path(FILE).read_text()) == {"mini": {"double": "passed"}}
    assert "█░░ 1 of 3" in repr(course.progress())
    assert 'value="1" max="3"' in course.progress()._repr_html_()


@pytest.mark.parametrize("text", ["", "[]", '{"mini": 3}', '{"mini": null}', "{"])
def test_a_broken_progress_file_is_no_obstacle(text):
    Path(FILE).write_text(text)
    assert run(RIGHT, "check('double')").passed
    assert "1 of 3" in repr(course.progress())


def test_an_unwritable_folder_loses_the_note_only(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert run(RIGHT, "check('double')").passed


def test_importing_the_course_is_light():

    heavy = (
        "[m for m in ('torchvision', 'sklearn', 'matplotlib', 'pandas', 'd2l') if m in sys.modules]"
    )
    out = subprocess.run(
        [sys.executable, "-c", f"import course, sys; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "[]"
