"""Makes submissions of a chapter whose scores are known, for tests of the grader."""

from __future__ import annotations

import copy
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.chapters import Chapter, stub_of
from autograder.demo import filled
from autograder.diagnose import Diagnosis, tests_of
from autograder.notebook import Blank, read

Notebook = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A submission, and what grading it should give."""

    student: str
    data: bytes
    score: float
    status: str = "graded"
    hint: str = ""  # of the misconception that it holds


def variants(chapter: Chapter, other: Chapter | None = None) -> list[Made]:
    """Right, wrong, damaged and hostile submissions of any chapter.

    Args:
        other: a chapter whose notebook is handed in for this one (grade with `chapter=`).
    """
    total = sum(e.points for e in chapter.exercises.values())
    right = answered(chapter)
    half = list(chapter.exercises)[: len(chapter.exercises) // 2]
    # The one that goes wrong: with few tests, since each has to time out.
    graded = [e for e in chapter.exercises.values() if e.points]
    first = min(graded, key=lambda e: len(tests_of(chapter, e.id)))
    rest = total - first.points
    without = {name: e.reference for name, e in chapter.exercises.items() if name != first.id}

    def with_first(source: str) -> bytes:
        return encoded(answered(chapter, without | {first.id: source}))

    made = [
        Made("right", encoded(right), total),
        Made("blank", encoded(blank(chapter)), 0),
        Made(
            "half-done",
            encoded(answered(chapter, {n: chapter.exercises[n].reference for n in half})),
            sum(chapter.exercises[n].points for n in half),
        ),
        Made("unlabelled", encoded(unlabelled(right)), total),
        Made("moved-cells", encoded(moved(right)), total),
        Made("new-ids", encoded(with_new_ids(right)), total),
        Made("old-format", encoded(in_format_3(right)), total),
        Made("other-encoding", json.dumps(right).encode("utf-16"), total),
        Made("two-cells", encoded(split(chapter, right)), total),
        Made("answered-twice", encoded(answered_twice(chapter, right)), total),
        Made("helpers", encoded(with_helper(chapter, right, first.id)), total),
        Made("raises", encoded(raising(right)), total),
        Made("magics", with_first(f"%matplotlib inline\n{first.reference}\n!ls"), total),
        Made("bad-syntax", with_first(f"{first.reference}\n\ndef f(:\n"), rest),
        Made("no-cell", encoded(without_cell(right, first.id)), rest),
        Made("loops", with_first(hostile(first.names, "while True: pass")), rest),
        Made("exits", with_first(hostile(first.names, "__import__('os')._exit(0)")), rest),
        Made("loops-beside", with_first(f"{first.reference}\nx = max(iter(int, 1))"), total),
        Made("cut-off", encoded(right)[: len(encoded(right)) // 2], 0, "unreadable"),
        Made("empty", b"", 0, "unreadable"),
        Made("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", 0, "unreadable"),
        Made("json", b"[1, 2, 3]", 0, "unreadable"),
    ]
    for exercise in chapter.exercises.values():
        if exercise.forbid and exercise.points:
            cheat = f"{exercise.reference}\n\n{call_of(exercise.forbid[0])}"
            notebook = answered(chapter, {**references(chapter), exercise.id: cheat})
            made.append(Made("forbidden", encoded(notebook), total - exercise.points))
            break
    if other is not None:
        made.append(Made("wrong-chapter", encoded(answered(other)), 0, "wrong chapter"))
    return made + misconceptions(chapter) + alternatives(chapter)


def misconceptions(chapter: Chapter) -> list[Made]:
    """One submission for each misconception, all else being right."""
    made = []
    diagnosis, blanks = Diagnosis(chapter), {chapter.id: Blank.of(chapter)}
    total = sum(e.points for e in chapter.exercises.values())
    for number, answer in enumerate(chapter.misconceptions, 1):
        outcomes = diagnosis.outcomes(answer, tests_of(chapter, answer.exercise))
        lost, hint = sum(o.points for o in outcomes if not o.passed), answer.hint
        data = encoded(with_answer(chapter, answer.exercise, answer.source))
        attempt = read(data, chapter.id, blanks).attempts[answer.exercise]
        if attempt.status == "forbidden":  # a short way to write it for its author
            lost, hint = chapter.exercises[answer.exercise].points, ""
        made.append(Made(f"wrong-{number}-{answer.name}", data, total - lost, hint=hint))
    return made


def alternatives(chapter: Chapter) -> list[Made]:
    """One submission for each alternative, all else being the reference."""
    total = sum(e.points for e in chapter.exercises.values())
    return [
        Made(f"other-{n}-{a.name}", encoded(with_answer(chapter, a.exercise, a.source)), total)
        for n, a in enumerate(chapter.alternatives, 1)
    ]


# --- notebooks -------------------------------------------------------------------------------


def blank(chapter: Chapter) -> Notebook:
    """The student notebook: as released, else made from the sources."""
    released = chapter.folder.parent.parent / "notebooks" / f"{chapter.id}.ipynb"
    if released.exists():
        notebook = json.loads(released.read_text(encoding="utf-8"))
        if notebook["metadata"].get("course", {}).get("chapter") == chapter.id:
            return notebook
    cells = []
    for number, cell in enumerate(chapter.notebook.cells):
        is_exercise = "exercise" in cell.metadata
        source = stub_of(cell.source) if is_exercise else cell.source
        code = {"execution_count": None, "outputs": []} if cell.cell_type == "code" else {}
        metadata = json.loads(json.dumps(cell.metadata))
        common = {"cell_type": cell.cell_type, "id": f"cell-{number}", "metadata": metadata}
        cells.append({**common, "source": source.splitlines(keepends=True), **code})
    metadata = {"course": {"chapter": chapter.id}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def references(chapter: Chapter) -> dict[str, str]:
    return {name: e.reference for name, e in chapter.exercises.items()}


def answered(chapter: Chapter, answers: Mapping[str, str] | None = None) -> Notebook:
    """The student notebook with answers by exercise; by default the references."""
    answers = references(chapter) if answers is None else answers
    return filled(blank(chapter), answers)


def with_answer(chapter: Chapter, exercise: str, source: str) -> Notebook:
    """One name answered otherwise, as the authors' answers are: after the reference."""
    answers = references(chapter)
    answers[exercise] += f"\n\n\n{source}"
    return answered(chapter, answers)


def encoded(notebook: Notebook) -> bytes:
    return json.dumps(notebook, ensure_ascii=False, indent=1).encode()


def exercise_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [c for c in notebook["cells"] if "exercise" in c["metadata"]]


def code_cell(source: str, **metadata: Any) -> dict[str, Any]:
    """A cell that a student added."""
    return {
        "cell_type": "code", "id": "added", "metadata": metadata, "source": source,
        "outputs": [], "execution_count": 3,
    }  # fmt: skip


# --- what happens to notebooks ---------------------------------------------------------------


def unlabelled(notebook: Notebook) -> Notebook:
    """All metadata dropped, as some editors do."""
    notebook = copy.deepcopy(notebook)
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell.pop("id", None)
    return notebook


def moved(notebook: Notebook) -> Notebook:
    """The cells in reverse order."""
    return {**notebook, "cells": notebook["cells"][::-1]}


def with_new_ids(notebook: Notebook) -> Notebook:
    """All cells with one and the same id."""
    return {**notebook, "cells": [{**cell, "id": "same"} for cell in notebook["cells"]]}


def in_format_3(notebook: Notebook) -> Notebook:
    """As Jupyter saved notebooks before 2015."""
    cells = [{**c, "input": c["source"]} for c in notebook["cells"]]
    for cell in cells:
        del cell["source"]
    sheets = [{"cells": cells}]
    metadata = notebook["metadata"]
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": metadata, "worksheets": sheets}


def split(chapter: Chapter, notebook: Notebook) -> Notebook:
    """Every definition of an exercise in a cell of its own, without metadata."""
    cells = []
    for cell in copy.deepcopy(notebook)["cells"]:
        if "exercise" not in cell["metadata"]:
            cells.append(cell)
            continue
        parts = re.split(r"\n(?=def |class |@)", cell["source"])
        for part in join_decorators(parts):
            cells.append(code_cell(part))
    return {**notebook, "cells": cells}


def join_decorators(parts: Iterable[str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and joined[-1].startswith("@") and "\n" not in joined[-1].strip():
            joined[-1] += f"\n{part}"
        else:
            joined.append(part)
    return joined


def answered_twice(chapter: Chapter, notebook: Notebook) -> Notebook:
    """Wrong in the exercise's cell, right in one below."""
    notebook = copy.deepcopy(notebook)
    for cell in exercise_cells(notebook):
        exercise = chapter.exercises[cell["metadata"]["exercise"]]
        right, cell["source"] = cell["source"], hostile(exercise.names, "return 'nonsense'")
        notebook["cells"].append(code_cell(right))
    return notebook


def with_helper(chapter: Chapter, notebook: Notebook, exercise: str) -> Notebook:
    """The work done by helpers in a cell above that the student added."""
    notebook = copy.deepcopy(notebook)
    names = chapter.exercises[exercise].names
    for place, cell in enumerate(notebook["cells"]):
        if cell["metadata"].get("exercise") == exercise:
            helper = re.sub(rf"\b({'|'.join(names)})\b", r"my_\1", cell["source"])
            helper = f"import math as mathematics\nTHREE = 3\n{helper}\nprint(1 / 0)"
            cell["source"] = "\n".join(f"{name} = my_{name}" for name in names)
            notebook["cells"].insert(place, code_cell(helper))
            break
    return notebook


def raising(notebook: Notebook) -> Notebook:
    """Cells raise half-way, the exercises' own included."""
    notebook = copy.deepcopy(notebook)
    for cell in exercise_cells(notebook):
        cell["source"] = f"before = 1 / 0\n{cell['source']}\n\nprint(undefined_name)"
    notebook["cells"].insert(3, code_cell("raise RuntimeError('half-way')"))
    notebook["cells"].insert(4, code_cell("assert False"))
    return notebook


def without_cell(notebook: Notebook, exercise: str) -> Notebook:
    """One exercise's cell deleted."""
    cells = [c for c in notebook["cells"] if c["metadata"].get("exercise") != exercise]
    return {**notebook, "cells": cells}


def hostile(names: Iterable[str], body: str) -> str:
    """Functions of these names that do something else."""
    return "\n\n".join(f"def {name}(*args, **kwargs):\n    {body}" for name in names)


def call_of(path: str) -> str:
    """Code that reaches for a library function through an alias."""
    module, _, inner = path.partition(".")
    return f"import {module} as library\n\n\ndef cheat(x):\n    return library.{inner}(x)"


# --- layouts ---------------------------------------------------------------------------------


def write_flat(folder: Path, made: Iterable[Made]) -> Path:
    """`<student>.ipynb`."""
    return _write(folder, made, lambda m: f"{m.student}.ipynb")


def write_nbgrader(folder: Path, made: Iterable[Made], assignment: str) -> Path:
    """`submitted/<student>/<assignment>/<assignment>.ipynb`."""
    name = f"{assignment}/{assignment}.ipynb"
    return _write(folder, made, lambda m: f"submitted/{m.student}/{name}")


def _write(folder: Path, made: Iterable[Made], name: Callable[[Made], str]) -> Path:
    for one in made:
        path = folder / name(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
    return folder


def write_zip(path: Path, made: Iterable[Made]) -> Path:
    """A zip of a flat folder, as Canvas gives it."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, one in enumerate(made):
            name = f"{one.student.replace('_', '')}_{1000 + number}_{9000 + number}_answer.ipynb"
            archive.writestr(name, one.data)
    return path
