"""The notes for teachers say what the chapters hold."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autograder.chapters import chapter_ids, find_root, load
from autograder.cli import app
from autograder.teaching import notes, sections

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapter_ids(ROOT)
if not CHAPTERS:
    pytest.skip("a copy without solutions has nothing to tell teachers", allow_module_level=True)


@pytest.mark.parametrize("name", CHAPTERS)
def test_notes_hold_every_exercise_hint_and_question(name):
    chapter = load(name, ROOT)
    page = notes(chapter)
    for exercise in chapter.exercises.values():
        assert f"`{exercise.id}` {'★' * exercise.difficulty}" in page
    flat = " ".join(page.split())
    for answer in chapter.misconceptions:
        assert " ".join(answer.hint.split()) in flat
    quiz = next(part.text for part in sections(chapter) if part.title == "Quiz")
    asked = re.findall(r"^\*\*\d+\.", quiz, re.MULTILINE)
    told = page.partition("## Questions to ask")[2].partition("\n## ")[0]
    assert len(asked) >= 5
    answers = re.findall(r"^- \*\*\d+\..*\n  .*Right", told, re.MULTILINE)
    assert len(answers) == len(asked), "every question has its right answer"
    # Sentences of the text are quoted whole, and no cell of code or directive is left over.
    assert "```" not in told and "<details>" not in page


def test_the_command_writes_a_page_a_chapter(tmp_path):
    out = tmp_path / "notes"
    done = CliRunner().invoke(app, ["notes", CHAPTERS[0], "--out", str(out), "--root", str(ROOT)])
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.iterdir()] == [f"{CHAPTERS[0]}.md"]
