"""``{course-map}``: a drawing of which chapter needs which, then every chapter by part.

``{part} NAME`` is the same for one part, with more on each chapter. Chapters come from
book/syllabus.yml; one is linked as soon as _toc.yml names its page, and its page says what it
needs. `book/assets/progress.js` adds what a student has done.
"""

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from released import SYLLABUS, path_of, released, syllabus
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Chapter = dict[str, Any]
# What the drawing calls a chapter whose id would not do.
SHORT = {
    "mlp": "MLPs", "gan": "GANs", "bert": "BERT", "sequence-rnn": "RNNs",
    "cnn-architectures": "CNN architectures", "cv-attention": "Visual attention",
    "hooks-cam": "Hooks and CAM", "resnet-family": "ResNets",
    "init-stability": "Initialisation", "segmentation-style": "Segmentation",
    "semi-supervised": "Few labels", "vision-transformers": "ViT and Swin",
}  # fmt: skip
WIDTH, HEIGHT, GAP, RISE, IN_A_ROW = 134, 48, 10, 34, 5
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def hours(chapters: Iterable[Chapter]) -> str:
    return f"about {sum(chapter['minutes'] for chapter in chapters) / 60:.0f} hours"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def exercises(chapter: Chapter) -> str:
    """The names of a chapter's exercises, as a student's progress file has them."""
    return " ".join(exercise["id"].split(".")[-1] for exercise in chapter["exercises"])


def short(chapter: str) -> str:
    return SHORT.get(chapter, chapter.replace("-", " ").capitalize())


def page_of_part(name: str) -> str:
    return f"parts/{nodes.make_id(name)}"


# --- the drawing -----------------------------------------------------------------------------


def depth(chapter: str, wanted: dict[str, list[str]]) -> int:
    return 1 + max((depth(other, wanted) for other in wanted[chapter]), default=-1)


def ancestors(chapter: str, wanted: dict[str, list[str]]) -> set[str]:
    found = set(wanted[chapter])
    return found.union(*(ancestors(other, wanted) for other in wanted[chapter]))


def drawing(chapters: list[Chapter], parts: Sequence[str], base: str) -> str:
    """An SVG: a row for each depth, and lines only to what no other line leads to already.

    Args:
        chapters: those to draw, all with a page.
        parts: the names of all parts, in order, which gives each its colour.
        base: the way from the page to the folder `book`.
    """
    drawn = {chapter["id"] for chapter in chapters}
    wanted = {name: [other for other in released(name).needs if other in drawn] for name in drawn}
    rows: list[list[Chapter]] = []
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
        boxes.append(
            f'<a href="{base}chapters/{name}.html" data-chapter="{name}" '
            f'data-exercises="{exercises(chapter)}" style="--part:{colour}">'
            f'<rect x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}"/>'
            f'<rect class="done" x="{x:g}" y="{y + HEIGHT - 6}" width="0" height="6"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 19}">{html.escape(short(name))}</text>'
            f'<text class="facts" x="{x + WIDTH / 2:g}" y="{y + 35}">{chapter["minutes"]} min · '
            f"{count(len(chapter['exercises']), 'exercise')}</text></a>"
        )
    height = len(rows) * (HEIGHT + RISE) - RISE
    shown = {chapter["part"] for chapter in chapters}
    key = "".join(
        f'<li style="--part:{colour}"><a href="{base}{page_of_part(part)}.html">'
        f"{html.escape(part)}</a></li>"
        for part, colour in zip(parts, COLOURS, strict=False)
        if len(shown) > 1 and part in shown
    )
    return (
        '<figure class="course-drawing"><div tabindex="0" role="group" '
        'aria-label="Drawing of the chapters: each stands below those that it needs">'
        f'<svg viewBox="-2 -2 {whole + 4} {height + 4}"><g class="lines">{"".join(lines)}</g>'
        f"{''.join(boxes)}</svg></div>"
        + (f"<figcaption><ul>{key}</ul></figcaption>" if key else "")
        + "</figure>"
    )


# --- the list --------------------------------------------------------------------------------


def card(number: int, chapter: Chapter, linked: bool) -> Iterator[str]:
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


class OfChapters(SphinxDirective):
    """What the map and a part's page share."""

    def chapters(self) -> dict[str, Chapter]:
        for file in (SYLLABUS, Path(self.env.srcdir, "_toc.yml")):
            self.env.note_dependency(str(file))
        return {chapter["id"]: chapter for chapter in syllabus()["chapters"]}

    def linked(self, chapter: str) -> bool:
        return f"book/chapters/{chapter}" in self.env.found_docs

    def drawing(self, chapters: Iterable[Chapter]) -> nodes.raw:
        ready = [chapter for chapter in chapters if self.linked(chapter["id"])]
        for chapter in ready:
            self.env.note_dependency(str(path_of(chapter["id"])))
        parts = [part["name"] for part in syllabus()["parts"]]
        base = "../" * (self.env.docname.count("/") - 1)
        return nodes.raw("", drawing(ready, parts, base) if ready else "", format="html")

    def parse(self, lines: Iterable[str], parent: nodes.Element) -> nodes.Element:
        content = StringList(list(lines), source=str(SYLLABUS))
        self.state.nested_parse(content, 0, parent)
        return parent


class CourseMap(OfChapters):
    def run(self) -> list[nodes.Node]:
        chapters = self.chapters()
        facts = [count(len(chapters), "chapter")]
        for key, noun in (("topics", "topic"), ("exercises", "graded exercise")):
            facts.append(count(sum(len(chapter[key]) for chapter in chapters.values()), noun))
        number = 1
        sections = []
        for part in syllabus()["parts"]:
            members = [chapters[id_] for id_ in part["chapters"]]
            sections.append(self.part(part["name"], members, number))
            number += len(members)
        return [
            nodes.paragraph("", f"{', '.join(facts)}, {hours(chapters.values())}."),
            self.drawing(chapters.values()),
            *sections,
        ]

    def part(self, name: str, chapters: Sequence[Chapter], first: int) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
        section += nodes.title("", name)
        lines = [
            f"{count(len(chapters), 'chapter')}, {hours(chapters)}: "
            f"[what this part is about](/book/{page_of_part(name)}).",
            "",
            ":::::{grid} 1 2 2 2",
            ":gutter: 3",
            "",
        ]
        for number, chapter in enumerate(chapters, first):
            lines += card(number, chapter, self.linked(chapter["id"]))
        return self.parse([*lines, ":::::"], section)


class Part(OfChapters):
    """What comes before a part, a drawing of its chapters, and each with a sentence."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        chapters = self.chapters()
        parts = {part["name"]: part["chapters"] for part in syllabus()["parts"]}
        if self.arguments[0] not in parts:
            raise self.error(f"the syllabus has no part {self.arguments[0]}: {', '.join(parts)}")
        ids = parts[self.arguments[0]]
        members = [chapters[id_] for id_ in ids]
        ready = {id_ for id_ in ids if self.linked(id_)}
        wanted = {other for id_ in ready for other in released(id_).needs} - set(ids)
        order = list(chapters)
        numbers = {id_: number for number, id_ in enumerate(order, 1)}
        earlier, later = (
            [f"[{short(id_)}](/book/chapters/{id_})" for id_ in side if id_ in wanted]
            for side in (order[: order.index(ids[0])], order[order.index(ids[-1]) :])
        )
        exercises = sum(len(chapter["exercises"]) for chapter in members)
        facts = (
            f"{count(len(members), 'chapter')}, {count(exercises, 'exercise')}, {hours(members)}."
        )
        if earlier:
            facts += f" You need {listed(earlier)}."
        if later:
            facts += f" Where a chapter needs {listed(later)}, from a later part, it says so."
        return [
            *self.parse([facts], nodes.Element()).children,
            self.drawing(members),
            *(
                self.entry(numbers[chapter["id"]], chapter, chapter["id"] in ready)
                for chapter in members
            ),
        ]

    def entry(self, number: int, chapter: Chapter, linked: bool) -> nodes.section:
        title = f"{number}. {chapter['title']}"
        section = nodes.section(ids=[chapter["id"]], names=[chapter["id"]], classes=["of-a-part"])
        facts = [chapter["zh"], f"{chapter['minutes']} minutes"]
        if not linked:
            section += nodes.title("", title)
            return self.parse([" · ".join([*facts, "in preparation"])], section)
        heading = [f"[{title}](/book/chapters/{chapter['id']})"]
        section += nodes.title("", "", *self.parse(heading, nodes.Element())[0].children)
        page = released(chapter["id"])
        goal = page.goals[0]
        facts.append(f"{count(len(chapter['exercises']), 'exercise')}: {page.difficulty}")
        if page.needs:
            facts.append(f"after {', '.join(map(short, page.needs))}")
        return self.parse([f"{goal[0].upper()}{goal[1:]}.", "", " · ".join(facts)], section)


def listed(words: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("course-map", CourseMap)
    app.add_directive("part", Part)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
