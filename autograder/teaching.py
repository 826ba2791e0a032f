"""Notes for whoever teaches a chapter, made from its sources. They hold hints: not for students."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from autograder.chapters import READING, Chapter, Exercise

HARD = 3  # the difficulty from which an exercise can wait


@dataclass
class Section:
    """What stands below one heading of the second level."""

    title: str
    text: str = ""
    exercises: list[Exercise] = field(default_factory=list)

    @property
    def reading(self) -> int:
        return round(len(self.text.split()) / READING)


def sections(chapter: Chapter) -> list[Section]:
    found = [Section("Opening")]
    for cell in chapter.notebook.cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                if part.startswith("## "):
                    title, _, part = part[3:].partition("\n")
                    found.append(Section(title.strip()))
                found[-1].text += part.strip() + "\n\n"
        elif "exercise" in cell.metadata:
            found[-1].exercises.append(chapter.exercises[cell.metadata["exercise"]])
    return found


def notes(chapter: Chapter) -> str:
    """A Markdown page: plan, what students get wrong, questions to ask, what can wait."""
    parts = sections(chapter)
    title = chapter.syllabus["title"]
    read, write = chapter.minutes
    needs = ", ".join(chapter.meta["prerequisites"]) or "nothing"
    lines = [
        f"# Teaching notes: {title} ({chapter.syllabus['zh']})",
        "",
        f"{read} minutes to read and run, {write} for the exercises; needs {needs}. "
        "These notes hold hints: keep them from students.",
        "",
        "After it students can",
        "",
        *(f"- {goal}" for goal in chapter.meta["objectives"]),
        "",
        *_opening(parts),
        *_plan(parts),
        *_mistakes(chapter),
        *_questions(parts),
        *_short(chapter, parts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _opening(parts: list[Section]) -> Iterator[str]:
    for part in parts:
        if part.title == "Predict first":
            yield from ("## Open with a guess", "", "Let everybody write down an answer first.", "")
            yield from (f"> {line}".rstrip() for line in part.text.strip().splitlines())
            yield ""


def _plan(parts: list[Section]) -> Iterator[str]:
    yield from ("## Plan", "", "| section | read | write | exercises |", "|---|---|---|---|")
    for part in parts:
        if part.title in ("Opening", "Further reading", "Go on"):
            continue
        names = "; ".join(f"`{e.id}` {'★' * e.difficulty}" for e in part.exercises)
        minutes = sum(e.minutes for e in part.exercises)
        write = f"{minutes} min" if minutes else ""
        yield f"| {part.title} | {part.reading} min | {write} | {names} |"
    yield ""


def _mistakes(chapter: Chapter) -> Iterator[str]:
    yield from ("## What students get wrong", "")
    for exercise in chapter.exercises.values():
        hints = list(
            dict.fromkeys(a.hint for a in chapter.misconceptions if a.exercise == exercise.id)
        )
        if hints:
            yield f"**{exercise.title}** (`{exercise.id}`, {exercise.points} points)"
            yield ""
            yield from (f"- {' '.join(hint.split())}" for hint in hints)
            yield ""


QUESTION = re.compile(r"^\*\*(\d+\. .*?)\*\*$", re.MULTILINE)
RIGHT = re.compile(
    r"<details><summary>((?:(?!</summary>).)*)</summary>\s*(Right(?:(?!</details>).)*)", re.DOTALL
)


def _questions(parts: list[Section]) -> Iterator[str]:
    quiz = next((part.text for part in parts if part.title == "Quiz"), "")
    asked = QUESTION.split(quiz)[1:]
    if asked:
        yield from ("## Questions to ask", "", "The quiz of the page, with the right answers.", "")
    for question, answers in zip(asked[::2], asked[1::2], strict=True):
        yield f"- **{question}**"
        for answer, reason in RIGHT.findall(answers):
            yield f"  {_plain(answer).rstrip('.')}. {_plain(reason)}"
    yield ""


def _plain(text: str) -> str:
    text = re.sub(r"</?code>", "`", re.sub(r"</?(?:i|b|sub|sup)>", "", text))
    return html.unescape(" ".join(text.split()))


def _short(chapter: Chapter, parts: list[Section]) -> Iterator[str]:
    hard = [e for e in chapter.exercises.values() if e.difficulty >= HARD and e.points]
    rest = sum(e.minutes for e in chapter.exercises.values()) - sum(e.minutes for e in hard)
    spare = [part for part in parts if part.title in ("The real data", "Pitfalls") and part.reading]
    yield from ("## When time is short", "")
    yield (
        "Every exercise can be left out: what comes later then uses the library's version, and "
        "each is graded alone."
    )
    yield ""
    if hard:
        names = ", ".join(f"`{e.id}` ({e.minutes} min)" for e in hard)
        yield f"- Leave the hardest to those who are fast: {names}. The others take {rest} minutes."
    if spare:
        names = " and ".join(f"“{part.title}” ({part.reading} min)" for part in spare)
        yield f"- Give {names} as reading at home."
    yield "- The debug exercise has no points; it makes a good five minutes in pairs."
