"""Invents a class and what it hands in, so that everybody can try the grader and its reports."""

from __future__ import annotations

import ast
import copy
import datetime
import errno
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.chapters import Chapter, Exercise, load

NAMES = (
    "Ada", "Amina", "Ana", "Arjun", "Astrid", "Ben", "Bo", "Carla", "Chen", "Chidi", "Clara",
    "Dan", "Dara", "Deniz", "Elif", "Emil", "Esra", "Eva", "Farid", "Fatou", "Felix", "Gita",
    "Greta", "Hana", "Hugo", "Ida", "Igor", "Ines", "Ivan", "Jana", "Jun", "Kai", "Karim", "Kofi",
    "Lan", "Leila", "Lena", "Lin", "Luca", "Mai", "Marta", "Mateo", "Mei", "Mila", "Musa", "Nadia",
    "Nils", "Nora", "Omar", "Pia", "Priya", "Rafael", "Rosa", "Sami", "Sofia", "Tariq", "Tess",
    "Wei", "Yuki", "Zoe",
)  # fmt: skip
FIRST_DUE = datetime.datetime(2026, 10, 5, 18)
WEEK = datetime.timedelta(days=7)
LATE = "10%,50%"  # the penalty for each day begun, and its cap
SECONDS = 2.0  # for one case of a test, since somebody's answer hangs and somebody waits


@dataclass(frozen=True)
class Answers:
    """How a chapter's exercises can be answered."""

    right: dict[str, list[str]]
    wrong: dict[str, list[str]]  # the misconceptions, the most frequent first


def write_class(
    folder: Path, root: Path, chapters: Sequence[str], students: int, seed: int = 0
) -> int:
    """Write `submitted/<student>/<chapter>/<chapter>.ipynb` and `due.csv`.

    Students differ in skill and exercises in difficulty. Wrong answers are the chapter's
    misconceptions; a few files are late, missing, damaged, copied or hostile.

    Returns:
        the number of files.
    Raises:
        ChapterError: if a chapter does not exist.
        OSError: if there is no released notebook, or the folder exists.
    """
    if folder.exists():
        raise FileExistsError(errno.EEXIST, "exists already; choose a new folder", str(folder))
    draw = random.Random(seed)
    names = [NAMES[n % len(NAMES)] + str(n // len(NAMES) or "") for n in range(students)]
    skill = {name: draw.gauss(1.0, 1.2) for name in names}
    sources = [load(name, root) for name in chapters]
    notebooks = [_blank(root, name) for name in chapters]
    folder.mkdir(parents=True)
    lines = ["chapter,student,due,penalty,cap"]
    count = 0
    for week, (chapter, notebook) in enumerate(zip(sources, notebooks, strict=True)):
        due, answers = FIRST_DUE + week * WEEK, _answers(chapter)
        lines.append(f"{chapter.id},*,{due:%Y-%m-%d %H:%M},{LATE}")
        chosen: dict[str, str] = {}
        for number, name in enumerate(names):
            if draw.random() < 0.04 - 0.02 * skill[name]:
                continue  # handed in nothing
            if number % 20 != 13:  # who else copies from the one before
                chosen = _choose(chapter, answers, skill[name], draw)
            answered = filled(notebook, chosen | _mischief(chapter, number, week))
            data = json.dumps(answered, ensure_ascii=False).encode()
            if (number, week) == (17, 1):
                data = data[: len(data) // 3]  # a broken upload
            path = folder / "submitted" / name / chapter.id / f"{chapter.id}.ipynb"
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            hours = draw.expovariate(1 / 30) - (60 if draw.random() < 0.1 else 0)
            moment = (due - datetime.timedelta(hours=hours)).timestamp()
            os.utime(path, (moment, moment))
            count += 1
    (folder / "due.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def _blank(root: Path, chapter: str) -> dict[str, Any]:
    return json.loads((root / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))


def _answers(chapter: Chapter) -> Answers:
    # The reference twice: most students come upon the usual way.
    right = {e.id: [e.reference, e.reference] for e in chapter.exercises.values()}
    wrong: dict[str, list[str]] = {e.id: [] for e in chapter.exercises.values()}
    for kind, answers in ((right, chapter.alternatives), (wrong, chapter.misconceptions)):
        for a in answers:
            reference = chapter.exercises[a.exercise].reference
            kind[a.exercise].append(_with_definition(reference, a.name, a.source))
    return Answers(right, wrong)


def _with_definition(source: str, name: str, definition: str) -> str:
    """The source with another definition of a function or class."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if getattr(node, "name", None) == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return "\n".join([*lines[: first - 1], definition.strip(), *lines[node.end_lineno :]])
    return f"{source}\n\n\n{definition}"


def _choose(
    chapter: Chapter, answers: Answers, skill: float, draw: random.Random
) -> dict[str, str]:
    """A student's answers by exercise; those not attempted are left out."""
    chosen = {}
    for exercise in chapter.exercises.values():
        odds = skill + 1.5 - 0.8 * exercise.difficulty
        if draw.random() < 1 / (1 + math.exp(-2 * odds - 1)):
            chosen[exercise.id] = draw.choice(answers.right[exercise.id])
        elif draw.random() < 0.75 and answers.wrong[exercise.id]:
            wrong = answers.wrong[exercise.id]
            chosen[exercise.id] = wrong[min(int(draw.expovariate(0.7)), len(wrong) - 1)]
    return chosen


def _mischief(chapter: Chapter, number: int, week: int) -> dict[str, str]:
    """What a few students do to the first graded exercise of a week."""
    first: Exercise = next(e for e in chapter.exercises.values() if e.points)
    harm = {
        (3, 0): "import os\nos._exit(0)",
        (8, 1): "while True: pass",
        (21, 2): "return open('/etc/passwd').read()",
    }.get((number, week))
    if (number, week) == (33, 0):
        return {first.id: first.reference.replace("):", ")", 1)}  # a syntax error
    if harm is None:
        return {}
    body = "\n".join(f"    {line}" for line in harm.splitlines())
    return {first.id: "\n\n\n".join(f"def {n}(*args, **options):\n{body}" for n in first.names)}


def filled(notebook: dict[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a student notebook with answers by exercise."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        exercise = cell["metadata"].get("exercise")
        if exercise in answers:
            cell["source"] = answers[exercise]
    return notebook
