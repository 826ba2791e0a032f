"""The page of errata: complete, in the course's order, each entry in the same three parts."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SYLLABUS = yaml.safe_load((ROOT / "book" / "syllabus.yml").read_text(encoding="utf-8"))
TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
CHAPTERS = re.findall(r"^\s*#?\s*- file: book/chapters/([\w-]+)", TOC, re.MULTILINE)
WANTED = {
    chapter["id"]: {e for topic in chapter["topics"] for e in topic.get("errata", [])}
    for chapter in SYLLABUS["chapters"]
    if chapter["id"] in CHAPTERS
}
PAGE = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
SECTIONS = {
    match[1]: match[2]
    for match in re.finditer(
        r"^## [^\n]+\n\nTaught in \[[^\n]+\]\(/book/chapters/([\w-]+)\)\.\n(.*?)(?=^## |\Z)",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
}
ENTRY = re.compile(
    r"^:::\{dropdown\} ([^\n]+)\n:name: (\S+)\n\n(.*?)\n:::$", re.MULTILINE | re.DOTALL
)


def test_every_chapter_with_errata_has_its_section_in_the_order_of_the_course():
    assert len(SECTIONS) == PAGE.count("\n## ")
    assert list(SECTIONS) == [chapter for chapter in CHAPTERS if WANTED[chapter]]


@pytest.mark.parametrize("chapter", SECTIONS)
def test_the_errata_of_a_chapter_are_those_of_its_topics(chapter):
    named = [name for _, names, _ in ENTRY.findall(SECTIONS[chapter]) for name in names.split("-")]
    assert sorted(named) == sorted(name.lower() for name in WANTED[chapter])


def test_an_entry_says_what_you_may_read_what_is_right_and_how_to_check():
    entries = ENTRY.findall(PAGE)
    assert len(entries) == PAGE.count("{dropdown}")
    for title, _, text in entries:
        labels = re.findall(r"^\*\*([\w ]+):\*\*", text, re.MULTILINE)
        assert labels == ["You may read", "Right", "Check"], title
