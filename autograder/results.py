"""What was measured: files in `benchmarks/results/`, written by commands and shown in the book."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from autograder import sandbox

DIGITS = 4  # more would be noise


def folder(root: Path) -> Path:
    return root / "benchmarks" / "results"


def machine() -> dict[str, str]:
    """On what it was measured."""
    known = sandbox.machine()
    return {name: known[name] for name in ("cores", "python", "torch", "GPU")}


def store(path: Path, result: Any) -> None:
    """Write a result, numbers with the digits that mean something, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(_rounded(result), ensure_ascii=False, indent=1)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


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
