"""Makes links to a hidden chapter plain text, so that leaving one out is one line of _toc.yml.

A chapter is hidden by a `#` before its line. A link to any other page that is missing still warns.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from launch import CHAPTERS
from released import syllabus
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join

LINE = re.compile(rf"^\s*#\s*- file: {CHAPTERS}([\w-]+)\s*$", re.MULTILINE)


class HiddenChapters(SphinxPostTransform):
    default_priority = 8  # MyST (9) and Sphinx (10) then look for the pages that links name

    def run(self, **kwargs: Any) -> None:
        toc = Path(self.env.srcdir, "_toc.yml").read_text(encoding="utf-8")
        hidden = set(LINE.findall(toc))
        if not hidden:
            return
        for link in list(self.document.findall(pending_xref)):
            chapter = self.target(link)
            if chapter in hidden:
                text = link.astext() if link.get("refexplicit") else title(chapter)
                link.replace_self(nodes.inline("", text))

    def target(self, link: pending_xref) -> str | None:
        """The chapter that a link names, however it does."""
        if link.get("reftype") not in ("doc", "myst"):
            return None
        page = docname_join(link["refdoc"], link["reftarget"].partition("#")[0])
        page = re.sub(r"\.(md|ipynb)$", "", page).lstrip("/")
        return page.removeprefix(CHAPTERS) if page.startswith(CHAPTERS) else None


def title(chapter: str) -> str:
    return next(entry["title"] for entry in syllabus()["chapters"] if entry["id"] == chapter)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(HiddenChapters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
