"""A place for a figure that moves, below the picture of a code cell that says `moving: NAME`.

`book/assets/moving.js` fills it; without scripts it stays empty, and the picture remains.
"""

import re
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

SCRIPT = Path(__file__).parents[1] / "assets" / "moving.js"
logger = logging.getLogger(__name__)


@cache
def names() -> tuple[str, ...]:
    """Of all figures that move."""
    script = SCRIPT.read_text(encoding="utf-8")
    return tuple(re.findall(r'^    "([a-z-]+)": \{\n      title', script, re.MULTILINE))


def add_places(app: Sphinx, doctree: nodes.document) -> None:
    for cell in list(doctree.findall(nodes.container)):
        name = (cell.get("cell_metadata") or {}).get("moving")
        if name is None:
            continue
        if name not in names():
            logger.warning("no figure that moves is called %s", name, location=cell)
        html = f'<div class="moving" data-figure="{name}"></div>'
        cell.parent.insert(cell.parent.index(cell) + 1, nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", add_places)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
