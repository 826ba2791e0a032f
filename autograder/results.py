"""What was measured: files in `benchmarks/results/`, written by commands and shown in the book."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autograder import sandbox
from autograder.files import write_text

DIGITS = 4  # more would be noise


def folder(root: Path) -> Path:
    return root / "benchmarks" / "results"


def machine() -> dict[str, str]:
    """On what it was measured."""
    known = sandbox.machine()
    return {name: known[name] for name in ("cores", "python", "torch", "GPU")}


def store(path: Path, result: Any) -> None:
    """Write a result, numbers with the digits that mean something, in one step."""
    write_text(path, json.dumps(_rounded(result), ensure_ascii=False, indent=1) + "\n")


def stored(path: Path) -> Any:
    """A stored result; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
