"""Links the first use of a glossary's term on each later page, and shows its meaning there.

A term is linked on pages that come after the chapter that teaches it. The style sheet shows
`data-means` while the pointer is over the link, or the keyboard on it.
"""

import html
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from check_pages import pages
from docutils import nodes
from launch import CHAPTERS
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
MOST = 25  # links on one page: more than that is noise
# Words that mean something else as often as not.
AMBIGUOUS = {
    "activation", "anchor", "bias", "blank", "buffer", "calibration", "collate", "container",
    "contiguous", "degradation", "filter", "folding", "gain", "gate", "generator", "head",
    "iteration", "kernel", "key", "leaf", "margin", "mask", "mode", "module", "mosaic", "overflow",
    "padding", "period", "precision", "query", "ragged", "recall", "seed", "shortcut", "storage",
    "underflow", "value", "view", "worker",
}  # fmt: skip
ENTRY = re.compile(
    r"^(?P<term>\S.*)\n  \*\*(?P<chinese>.+?)\*\*\. (?P<means>.+?) Taught in "
    r"\{doc\}`chapters/(?P<chapter>[\w-]+)`",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Term:
    name: str
    means: str  # the Chinese term, and the definition
    chapter: str


@cache
def terms(source: Path) -> dict[str, Term]:
    """The glossary's terms, in lower case."""
    found = {}
    for entry in ENTRY.finditer(source.read_text(encoding="utf-8")):
        name = entry["term"]
        if "(" not in name and len(name) > 2 and name.lower() not in AMBIGUOUS:
            means = re.sub(r"[`*]|\$([^$]*)\$", r"\1", entry["means"])
            if "\\" not in means:  # mathematics is for the glossary's own page
                text = f"{name} ({entry['chinese']}): {means}"
                found[name.lower()] = Term(name, text, entry["chapter"])
    return found


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.format != "html" or not page.startswith(CHAPTERS):
        return
    order = [name.removeprefix(CHAPTERS) for name in pages(Path(app.srcdir))]
    here = order.index(page.removeprefix(CHAPTERS))
    known = {
        key: term
        for key, term in terms(Path(app.srcdir, f"{GLOSSARY}.md")).items()
        if term.chapter in order[:here]
    }
    if not known:
        return
    words = "|".join(re.escape(key) for key in sorted(known, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{words})s?(?![\w-])", re.IGNORECASE)
    address = app.builder.get_relative_uri(page, GLOSSARY)
    places = app.env.domaindata["std"]["terms"]
    links = 0
    for text in list(doctree.findall(is_prose)):
        pieces, end = [], 0
        for match in pattern.finditer(text.astext()):
            key = match[0].lower()
            term = known.pop(key, None) or known.pop(key.removesuffix("s"), None)
            if term is None or links == MOST:
                continue
            links += 1
            pieces += [
                nodes.Text(text.astext()[end : match.start()]),
                link(term, match[0], f"{address}#{places[term.name.lower()][1]}"),
            ]
            end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text.astext()[end:])])


def is_prose(node: nodes.Node) -> bool:
    """Whether a node is plain text of a paragraph: not of a link, a heading, code or a caption."""
    return (
        isinstance(node, nodes.Text)
        and isinstance(node.parent, nodes.paragraph)
        and isinstance(node.parent.parent, (nodes.section, nodes.list_item))
    )


def link(term: Term, word: str, address: str) -> nodes.raw:
    return nodes.raw(
        "",
        f'<a class="term" href="{address}" data-means="{html.escape(term.means)}">'
        f"{html.escape(word)}</a>",
        format="html",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
