"""Executes a whole notebook and compares what it prints with the reference, through nbval."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from autograder import sandbox
from autograder.notebook import Cell, code_cells

CELL_SECONDS = 120
TOTAL_SECONDS = 600
MAX_REPORT = 16 << 20  # bytes


def replay(data: bytes, released: bytes, name: str, root: Path, isolated: bool = True) -> list[str]:
    """What a notebook does otherwise than the reference, as sentences; none where it agrees.

    Args:
        data: the submitted notebook.
        released: the chapter's student notebook, which holds the reference outputs.
        root: of the repository whose `course` it imports.
        isolated: execute it in a sandbox.
    Raises:
        ReadProblem: if one of them is no notebook.
        SandboxError: if it cannot be isolated here.
    """
    cells = code_cells(data, name)
    hybrid = _hybrid(cells, code_cells(released, "the released notebook"))
    home = sandbox.course_home(root)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve()
        notebook, report = folder / "notebook.ipynb", folder / "report.xml"
        notebook.write_text(json.dumps(hybrid), encoding="utf-8")
        command = [
            sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env",
            f"--nbval-cell-timeout={CELL_SECONDS}", f"--junitxml={report}",
            "-p", "no:cacheprovider", "-p", "no:xdist", notebook.name,
        ]  # fmt: skip
        try:
            if isolated:
                if reason := sandbox.run(command, folder, home, TOTAL_SECONDS):
                    return [f"The whole notebook could not be executed. {reason}"]
            else:
                paths = filter(None, (str(home), os.environ.get("PYTHONPATH")))
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
                subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    timeout=TOTAL_SECONDS,
                )
        except subprocess.TimeoutExpired:
            return [f"The whole notebook takes longer than {TOTAL_SECONDS} seconds."]
        try:  # whatever the notebook made of it, a link elsewhere included
            text = os.read(os.open(report, os.O_RDONLY | os.O_NOFOLLOW), MAX_REPORT)
            cases = list(ElementTree.fromstring(text).iter("testcase"))
        except (OSError, ElementTree.ParseError):
            cases = []
    if len(cases) < len(cells) or any(case.find("error") is not None for case in cases):
        return ["The whole notebook could not be executed."]
    return [s for case in cases if (s := _sentence(case, cells)) is not None]


def _hybrid(cells: Iterable[Cell], released: Iterable[Cell]) -> dict[str, Any]:
    """The student's code with the reference's outputs, matched by cell id, else by source."""
    reference = {cell.source: cell for cell in released}
    reference |= {cell.id: cell for cell in released if cell.id}
    hybrid = []
    for number, cell in enumerate(cells):
        match = reference.get(cell.id) or reference.get(cell.source)
        outputs = match.outputs if match else []
        tags = ["nbval-check-output"] if outputs else ["nbval-ignore-output"]
        hybrid.append(
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "source": cell.source,
                "metadata": {"tags": tags},
                "outputs": outputs,
                "execution_count": 1 if outputs else None,
            }
        )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": hybrid}


def _sentence(case: ElementTree.Element, cells: list[Cell]) -> str | None:
    failure = case.find("failure")
    number = re.search(r"\d+$", case.get("name", ""))
    if failure is None or number is None:
        return None
    where = cells[int(number[0])].where.capitalize()
    text = re.sub(r"(\x1b|#x1B)\[[0-9;]*m", "", failure.text or "")
    if "exceeded the timeout" in text or "Timeout" in text:
        return f"{where} takes longer than {CELL_SECONDS} seconds."
    if "outputs differ" not in text:
        lines = [line for line in text.splitlines() if re.match(r"\w+(Error|Exception)\b", line)]
        return f"{where} stops with {lines[-1][:200].rstrip('.') if lines else 'an error'}."
    values = re.search(r"assert reference_output == test_output failed:\s*(.*)", text)
    try:
        pair = ast.parse(values[1], mode="eval").body
        expected, got = pair.left.value.strip(), pair.comparators[0].value.strip()
    except (TypeError, SyntaxError, AttributeError):
        return f"{where} prints something else than the reference."
    return f"{where} should print {_short(expected)}, but printed {_short(got)}."


def _short(text: str) -> str:
    text = " ⏎ ".join(text.splitlines())
    return f"“{text if len(text) <= 120 else text[:119] + '…'}”"
