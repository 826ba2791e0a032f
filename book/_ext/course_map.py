"""``{course-map}``: a drawing of which chapter needs which, then every chapter by part.

Chapters come from book/syllabus.yml; one is linked as soon as _toc.yml names its page, and its page
says what it needs. `book/assets/progress.js` adds what a student has done.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SYLLABUS = Path(__file__).parents[1] / "syllabus.yml"
# What the drawing calls a chapter whose id would not do.
SHORT = {
    "mlp": "MLPs", "gan": "GANs", "bert": "BERT", "sequence-rnn": "RNNs",
    "cnn-architectures": "CNN architectures", "cv-attention": "Visual attention",
    "hooks-cam": "Hooks and CAM", "resnet-family": "ResNets",
    "init-stability": "Initialisation", "segmentation-style": "Segmentation",
    "semi-supervised": "Few labels",
}  # fmt: skip
WIDTH, HEIGHT, GAP, RISE, IN_A_ROW = 134, 48, 10, 34, 5
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def hours(chapters: list[dict[str, Any]]) -> str:
    return f"about {sum(chapter['minutes'] for chapter in chapters) / 60:.0f} hours"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def exercises(chapter: dict[str, Any]) -> str:
    """The names of a chapter's exercises, as a student's progress file has them."""
    return " ".join(exercise["id"].split(".")[-1] for exercise in chapter["exercises"])


# --- the drawing -----------------------------------------------------------------------------


def needs(srcdir: Path, chapter: str) -> list[str]:
    """The chapters that a released page says one needs."""
    page = srcdir / "book" / "chapters" / f"{chapter}.ipynb"
    if not page.exists():
        return []
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    line = re.search(r"\*\*You need\*\*: (.*)", "".join(cells[1]["source"]))
    return re.findall(r"\{doc\}`([\w-]+)`", line[1]) if line else []


def depth(chapter: str, wanted: dict[str, list[str]]) -> int:
    return 1 + max((depth(other, wanted) for other in wanted[chapter]), default=-1)


def ancestors(chapter: str, wanted: dict[str, list[str]]) -> set[str]:
    found = set(wanted[chapter])
    return found.union(*(ancestors(other, wanted) for other in wanted[chapter]))


def drawing(
    chapters: list[dict[str, Any]], wanted: dict[str, list[str]], parts: list[str], uris: dict
) -> str:
    """An SVG: a row for each depth, and lines only to what no other line leads to already."""
    rows: list[list[dict[str, Any]]] = []
    for level in range(1 + max(depth(c["id"], wanted) for c in chapters)):
        members = [c for c in chapters if depth(c["id"], wanted) == level]
        rows += [members[i : i + IN_A_ROW] for i in range(0, len(members), IN_A_ROW)]
    whole = IN_A_ROW * (WIDTH + GAP) - GAP
    place = {}
    for y, row in enumerate(rows):
        left = (whole - len(row) * (WIDTH + GAP) + GAP) / 2
        for x, chapter in enumerate(row):
            place[chapter["id"]] = left + x * (WIDTH + GAP), y * (HEIGHT + RISE)
    lines, boxes = [], []
    for chapter in chapters:
        name = chapter["id"]
        x, y = place[name]
        direct = set(wanted[name])
        for other in sorted(direct - set().union(*(ancestors(o, wanted) for o in direct))):
            a, b = place[other][0] + WIDTH / 2, place[other][1] + HEIGHT
            middle = (b + y) / 2
            path = f"M{a:g} {b}C{a:g} {middle:g} {x + WIDTH / 2:g} {middle:g} {x + WIDTH / 2:g} {y}"
            lines.append(f'<path d="{path}"/>')
        colour = COLOURS[parts.index(chapter["part"])]
        title = SHORT.get(name, name.replace("-", " ").capitalize())
        boxes.append(
            f'<a href="{uris[name]}" data-chapter="{name}" data-exercises="{exercises(chapter)}" '
            f'style="--part:{colour}"><rect x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}"/>'
            f'<rect class="done" x="{x:g}" y="{y + HEIGHT - 6}" width="0" height="6"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 19}">{html.escape(title)}</text>'
            f'<text class="facts" x="{x + WIDTH / 2:g}" y="{y + 35}">{chapter["minutes"]} min · '
            f"{count(len(chapter['exercises']), 'exercise')}</text></a>"
        )
    height = len(rows) * (HEIGHT + RISE) - RISE
    key = "".join(
        f'<li style="--part:{colour}">{html.escape(part)}</li>'
        for part, colour in zip(parts, COLOURS, strict=False)
    )
    return (
        '<figure class="course-drawing"><div tabindex="0" role="group" '
        'aria-label="Drawing of the chapters: each stands below those that it needs">'
        f'<svg viewBox="-2 -2 {whole + 4} {height + 4}"><g class="lines">{"".join(lines)}</g>'
        f"{''.join(boxes)}</svg></div><figcaption><ul>{key}</ul></figcaption></figure>"
    )


# --- the list --------------------------------------------------------------------------------


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
            nodes.raw("", self.drawing(syllabus, chapters), format="html"),
            *sections,
        ]

    def drawing(self, syllabus: dict[str, Any], chapters: dict[str, dict[str, Any]]) -> str:
        srcdir = Path(self.env.srcdir)
        ready = [id_ for part in syllabus["parts"] for id_ in part["chapters"] if self.linked(id_)]
        for id_ in ready:
            self.env.note_dependency(str(srcdir / "book" / "chapters" / f"{id_}.ipynb"))
        wanted = {id_: [o for o in needs(srcdir, id_) if o in ready] for id_ in ready}
        uris = {id_: f"chapters/{id_}.html" for id_ in ready}
        names = [part["name"] for part in syllabus["parts"]]
        return drawing([chapters[id_] for id_ in ready], wanted, names, uris)

    def linked(self, chapter: str) -> bool:
        return f"book/chapters/{chapter}" in self.env.found_docs

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
            lines += card(number, chapter, self.linked(chapter["id"]))
        self.state.nested_parse(StringList([*lines, ":::::"], source=str(SYLLABUS)), 0, section)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("course-map", CourseMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
