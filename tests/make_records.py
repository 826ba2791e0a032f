"""Makes the records of a class, for tests of reports: no grading, every number known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Record = dict[str, Any]

EXERCISES = {
    "corr": ("Cross-correlation", 30, ["The output should equal F.conv2d's.", "x should stay."]),
    "padding": ("Padding by hand", 25, ["The border should be zero.", "Any width should work."]),
    "channels": ("Many channels", 25, ["Channels should be summed.", "A batch of one works."]),
    "edge": ("Find an edge", 20, ["The kernel should find vertical edges."]),
    "debug": ("Debug this", 0, ["blur(x) should keep the mean."]),
}
HINTS = {
    "corr": "The kernel is flipped: cross-correlation slides it as it is.",
    "padding": "Pad both sides, not only the end.",
    "channels": "Sum over the input channels before you stack the output channels.",
}


def record(student: str, exercises: dict[str, Any], chapter: str = "convolution") -> Record:
    """A record as `grade` writes it."""
    return {
        "student": student,
        "chapter": chapter,
        "file": f"{student}.ipynb",
        "superseded_by": None,
        "supersedes": [],
        "hashes": {"submission": digest(student), "tests": "0" * 64},
        "status": "graded",
        "score": sum(e["score"] for e in exercises.values()),
        "max": sum(e["max"] for e in exercises.values()),
        "notes": [],
        "exercises": exercises,
        "versions": {"python": "3.11.2", "torch": "2.14.1", "numpy": "2.3.0"},
        "device": "cpu",
        "full": False,
        "seconds": round(0.1 + 0.01 * len(student), 3),
    }


def digest(text: str) -> str:
    return text.encode().hex().ljust(64, "0")[:64]


def exercise(name: str, passed: list[bool], hint: str = "", status: str = "graded") -> Any:
    """An exercise's part of a record; its points are shared among the tests."""
    title, worth, statements = EXERCISES[name]
    each = worth / len(statements)
    tests = [check(s, ok, each) for s, ok in zip(statements, passed, strict=True)]
    return {
        "title": title,
        "status": status,
        "reason": "" if status == "graded" else "Not attempted.",
        "score": sum(each for ok in passed if ok),
        "max": worth,
        "tests": tests if status == "graded" else [],
        "hint": hint,
        "seconds": 0.02,
    }


def check(statement: str, passed: bool, points: float) -> Any:
    """A test's part of a record."""
    example = {"inputs": "", "expected": "", "got": ""}
    if not passed:
        example = {
            "inputs": "corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]])",
            "expected": "[[19, 25], [37, 43]]",
            "got": "[[5, 11], [23, 29]]",
        }
    return {
        "name": "test_hidden_" + statement.split()[-1].strip(".").replace("'", ""),
        "statement": statement,
        "passed": passed,
        "points": points,
        "status": "passed" if passed else "failed",
        "reason": "" if passed else "The output should be 19 at [0, 0], not 5 (4 values differ).",
        "symptom": "",
        "counterexample": example,
    }


def klass(size: int = 34, seed: int = 0) -> list[Record]:
    """A class in which skill and the exercise decide what is solved."""
    draw = random.Random(seed)
    names = [
        "alice",
        "bob",
        "chen-wei",
        "dörte",
        "émile",
        "fatima",
        "grace",
        "hiro",
        "ivan",
        "júlia",
    ]
    records = []
    for number in range(size):
        student = names[number] if number < len(names) else f"student-{number:02}"
        skill, exercises = draw.gauss(0.4, 1.0), {}
        for place, name in enumerate(EXERCISES):
            if skill + draw.gauss(0, 0.5) < 0.5 * place - 2:
                exercises[name] = exercise(
                    name, [False] * len(EXERCISES[name][2]), status="not attempted"
                )
                continue
            passed = [skill + draw.gauss(0, 0.6) > 0.4 * place - 1 for _ in EXERCISES[name][2]]
            hint = HINTS.get(name, "") if not all(passed) and draw.random() < 0.7 else ""
            exercises[name] = exercise(name, passed, hint)
        records.append(record(student, exercises))
    late = records[3]
    late["notes"] = ["The metadata of exercise corr was lost; found by the names defined."]
    late["exercises"]["corr"] |= {
        "status": "timed out", "score": 0, "tests": [],
        "reason": "It took more than 20 seconds and was stopped.",
    }  # fmt: skip
    late["score"] = sum(e["score"] for e in late["exercises"].values())
    broken = record("torn", {}) | {"status": "unreadable", "max": 100}
    broken["notes"] = ["torn.ipynb is empty; save the notebook and hand it in again."]
    unnamed = record("pdf", {}) | {"status": "unreadable", "chapter": None}
    unnamed["notes"] = ["pdf.ipynb is a PDF; hand in the notebook itself."]
    return [*records, broken, unnamed]


def write(folder: Path, records: list[Record]) -> Path:
    """Records where `grade` puts them."""
    for one in records:
        name = one["chapter"] or "unreadable"
        sub = f"earlier/{name}-{one['hashes']['submission'][:8]}" if one["superseded_by"] else name
        path = folder / one["student"] / f"{sub}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one), encoding="utf-8")
    return folder
