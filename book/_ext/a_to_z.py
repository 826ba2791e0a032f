"""``{a-to-z}``: the index: what each chapter teaches, by name, with a link to the section.

Nothing is typed twice. Terms are those of the glossary, functions those that the exercises ask for,
topics those of the syllabus, and PyTorch's names those that a chapter's text speaks of.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from check_pages import pages
from course_map import short
from docutils import nodes
from launch import CHAPTERS
from released import SYLLABUS, syllabus
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from terms import ENTRY, GLOSSARY

PAGE = "book/a-to-z"
MOST = 4  # chapters for one entry, the first ones: they teach it, later ones use it
NAME = re.compile(r"(?:torch|torchvision|nn|F|optim|transforms|v2)(?:\.[A-Za-z]\w*)+")
# As the chapters import them.
IMPORTED = {
    "torch.nn.functional.": "F.",
    "torch.nn.": "nn.",
    "optim.": "torch.optim.",
    "torchvision.transforms.v2.": "v2.",
    "torchvision.transforms.": "transforms.",
}
WORD = re.compile(r"[a-z]{4,}")

Entry = tuple[str, str]  # what the index says, code in backticks; the section's id, or nothing


# --- what a chapter teaches ------------------------------------------------------------------


def gather(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    if not page.startswith(CHAPTERS):
        return
    chapter = page.removeprefix(CHAPTERS)
    glossary = Path(app.srcdir, f"{GLOSSARY}.md")
    for file in (SYLLABUS, glossary):
        app.env.note_dependency(str(file))
    # Sphinx's own index forgets and merges the entries of a page as it should.
    app.env.domaindata["index"]["entries"].setdefault(page, []).extend(
        ("single", text, place, "", None)
        for text, place in (
            *terms(doctree, chapter, glossary),
            *functions(doctree),
            *library(doctree),
            *topics(doctree, chapter),
        )
    )


def section_of(node: nodes.Node) -> str:
    """The id of the section around a node; nothing for the whole page."""
    while node.parent is not None:
        if isinstance(node, nodes.section) and isinstance(node.parent, nodes.section):
            return node["ids"][0]
        node = node.parent
    return ""


def terms(doctree: nodes.document, chapter: str, glossary: Path) -> Iterator[Entry]:
    """The chapter's terms: a term's first use is bold."""
    bold: dict[str, nodes.strong] = {}
    for node in doctree.findall(nodes.strong):
        bold.setdefault(node.astext().lower(), node)
    for entry in ENTRY.finditer(glossary.read_text(encoding="utf-8")):
        if entry["chapter"] == chapter:
            node = bold.get(entry["term"].lower())
            yield entry["term"], section_of(node) if node else ""


def functions(doctree: nodes.document) -> Iterator[Entry]:
    """What the reader writes."""
    for cell in doctree.findall(nodes.container):
        if (cell.get("cell_metadata") or {}).get("points"):
            code = next(cell.findall(nodes.literal_block)).astext()
            for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", code, re.MULTILINE):
                yield f"`{name}`", section_of(cell)


def library(doctree: nodes.document) -> Iterator[Entry]:
    seen = set()
    for literal in doctree.findall(nodes.literal):
        found = NAME.match(literal.astext())
        if found and not literal.parent.astext().startswith("To be solved without"):
            name = found[0]
            for long, brief in IMPORTED.items():
                name = brief + name.removeprefix(long) if name.startswith(long) else name
            if name not in seen:
                seen.add(name)
                yield f"`{name}`", section_of(literal)


def topics(doctree: nodes.document, chapter: str) -> Iterator[Entry]:
    """Those with an exercise are at the exercise, others where most of their words are."""
    sections = list(doctree.findall(nodes.section))[1:]
    words = {node["ids"][0]: set(WORD.findall(own_text(node).lower())) for node in sections}
    plan = next(other for other in syllabus()["chapters"] if other["id"] == chapter)
    practised = {}
    for exercise in plan["exercises"]:
        heading = f"Exercise {exercise['id'].split('.')[-1]}: "
        found = [node for node in sections if node[0].astext().startswith(heading)]
        practised.update(dict.fromkeys(exercise["topics"] if found else [], found))
    for topic in plan["topics"]:
        if NAME.match(topic["name"]):  # the text speaks of it, by its name
            continue
        if topic["id"] in practised:
            yield topic["name"], practised[topic["id"]][0]["ids"][0]
            continue
        wanted = set(WORD.findall(topic["name"].lower()))
        best = max(words, key=lambda id_: len(wanted & words[id_]), default="")
        enough = wanted and len(wanted & words[best]) > len(wanted) / 2
        yield topic["name"], best if enough else ""


def own_text(section: nodes.section) -> str:
    return " ".join(
        child.astext() for child in section.children if not isinstance(child, nodes.section)
    )


# --- the page --------------------------------------------------------------------------------


class a_to_z(nodes.General, nodes.Element):
    """Becomes the index, when every page has been read."""


class AToZ(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [a_to_z()]


def fill(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for place in list(doctree.findall(a_to_z)):
        place.replace_self(list(index(app, page)))


def index(app: Sphinx, page: str) -> Iterator[nodes.Element]:
    """A line with all letters, and a section for each."""
    taught: dict[str, tuple[str, dict[str, str]]] = {}
    for chapter in filter(lambda name: name.startswith(CHAPTERS), pages(Path(app.srcdir))):
        for _, text, place, *_ in app.env.domaindata["index"]["entries"].get(chapter, []):
            places = taught.setdefault(text.strip("`").lower(), (text, {}))[1]
            places.setdefault(chapter, f"#{place}" if place else "")
    letters: dict[str, list[nodes.list_item]] = {}
    for text, places in sorted(taught.values(), key=lambda entry: sorting(entry[0])):
        first = sorting(text)[0].upper()
        item = entry_of(app, page, text, dict(list(places.items())[:MOST]))
        letters.setdefault(first if first.isalpha() and first.isascii() else "0–9", []).append(item)
    links = nodes.paragraph(classes=["a-to-z-letters"])
    for letter in letters:
        links += nodes.reference("", letter, refid=f"index-{letter.lower()}", internal=True)
        links += nodes.Text(" ")
    yield links
    for letter, items in letters.items():
        entries = nodes.bullet_list("", *items, classes=["a-to-z"])
        title = nodes.title("", letter)
        yield nodes.section("", title, entries, ids=[f"index-{letter.lower()}"])


def sorting(text: str) -> str:
    """`nn.Conv2d` stands under C."""
    if text.startswith("`"):
        text = re.sub(r"^(torch\.optim|torch|torchvision|nn|F|transforms|v2)\.", "", text[1:-1])
    return text.lower().lstrip("_*([ ") or text


def entry_of(app: Sphinx, page: str, text: str, places: dict[str, str]) -> nodes.list_item:
    word = nodes.literal("", text[1:-1]) if text.startswith("`") else nodes.Text(text)
    line = nodes.paragraph("", "", word)
    for number, (chapter, anchor) in enumerate(places.items()):
        uri = app.builder.get_relative_uri(page, chapter) + anchor
        name = short(chapter.removeprefix(CHAPTERS))
        line += nodes.Text(", " if number else " ")
        line += nodes.reference("", name, refuri=uri, internal=True)
    return nodes.list_item("", line)


def rewrite(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The page changes with every other."""
    return [PAGE] if PAGE in env.found_docs else []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(a_to_z)
    app.add_directive("a-to-z", AToZ)
    app.connect("doctree-read", gather)
    app.connect("doctree-resolved", fill)
    app.connect("env-updated", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
