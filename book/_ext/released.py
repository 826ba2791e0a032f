"""What the syllabus plans, and what the released pages of the chapters say about themselves."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

BOOK = Path(__file__).parents[1]
SYLLABUS = BOOK / "syllabus.yml"
DIFFICULTY = {1: "easy", 2: "medium", 3: "hard"}


@cache
def syllabus() -> dict[str, Any]:
    return yaml.safe_load(SYLLABUS.read_text(encoding="utf-8"))


def path_of(chapter: str) -> Path:
    return BOOK / "chapters" / f"{chapter}.ipynb"


@dataclass(frozen=True)
class Released:
    """A chapter's card, and how hard its graded exercises are."""

    goals: list[str]
    needs: list[str]  # other chapters
    difficulty: str


@cache
def released(chapter: str) -> Released:
    cells = json.loads(path_of(chapter).read_text(encoding="utf-8"))["cells"]
    card = "".join(cells[1]["source"])
    facts = card.partition("\n:::\n")[2]
    needs = re.search(r"\*\*You need\*\*: (.*)", facts)
    exercises = [cell["metadata"] for cell in cells if cell["metadata"].get("points")]
    found = Counter(exercise["difficulty"] for exercise in exercises)
    return Released(
        goals=re.findall(r"^- (.*)", card.removesuffix(facts), re.MULTILINE),
        needs=re.findall(r"\{doc\}`([\w-]+)`", needs[1]) if needs else [],
        difficulty=", ".join(f"{found[level]} {DIFFICULTY[level]}" for level in sorted(found)),
    )
