"""``{course-map}``: every chapter of book/syllabus.yml by part.

A chapter is linked as soon as _toc.yml names its page.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SYLLABUS = Path(__file__).parents[1] / "syllabus.yml"


def hours(chapters: list[dict[str, Any]]) -> str:
    return f"about {sum(chapter['minutes'] for chapter in chapters) / 60:.0f} hours"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def card(number: int, chapter: dict[str, Any], linked: bool) -> Iterator[str]:
    title = f"{number}. {chapter['title']}"
    yield f"::::{{grid-item-card}} {title}"
    if linked:
        yield f":link: /book/chapters/{chapter['id']}"
        yield ":link-type: doc"
    yield f":class-card: course-map-{'ready' if linked else 'planned'}"
    yield ""
    yield chapter["zh"]
    yield ":::{card-footer}"
    last = count(len(chapter["topics"]), "topic") if linked else "in preparation"
    yield f"{chapter['minutes']} min · {count(len(chapter['exercises']), 'exercise')} · {last}"
    yield from (":::", "::::")


class CourseMap(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for file in (SYLLABUS, Path(self.env.srcdir, "_toc.yml")):
            self.env.note_dependency(str(file))
        syllabus = yaml.safe_load(SYLLABUS.read_text(encoding="utf-8"))
        chapters = {chapter["id"]: chapter for chapter in syllabus["chapters"]}
        facts = [count(len(chapters), "chapter")]
        for key, noun in (("topics", "topic"), ("exercises", "graded exercise")):
            facts.append(count(sum(len(chapter[key]) for chapter in chapters.values()), noun))
        number = 1
        sections = []
        for part in syllabus["parts"]:
            members = [chapters[id_] for id_ in part["chapters"]]
            sections.append(self.part(part["name"], members, number))
            number += len(members)
        return [
            nodes.paragraph("", f"{', '.join(facts)}, {hours(list(chapters.values()))}."),
            *sections,
        ]

    def part(self, name: str, chapters: list[dict[str, Any]], first: int) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
        section += nodes.title("", name)
        lines = [
            f"{count(len(chapters), 'chapter')}, {hours(chapters)}.",
            "",
            ":::::{grid} 1 2 2 2",
            ":gutter: 3",
            "",
        ]
        for number, chapter in enumerate(chapters, first):
            lines += card(number, chapter, f"book/chapters/{chapter['id']}" in self.env.found_docs)
        self.state.nested_parse(StringList([*lines, ":::::"], source=str(SYLLABUS)), 0, section)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("course-map", CourseMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
