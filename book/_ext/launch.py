"""A chapter's buttons: open its student notebook in Colab, download it, run it on this machine.

The theme would link to the page's own file, which is the finished page and not the notebook to work
in. The notebook is copied into the built book, so that the download works from a folder on disk.
The third button leads to the commands below the chapter's card; course.js makes it copy them.
"""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

CHAPTERS = "book/chapters/"
logger = logging.getLogger(__name__)


def notebook_of(app: Sphinx, page: str) -> Path:
    return Path(app.srcdir, "notebooks", page.removeprefix(CHAPTERS) + ".ipynb")


def add_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if not page.startswith(CHAPTERS):
        return
    notebook = notebook_of(app, page)
    options = app.config.html_theme_options
    repository = options["repository_url"].removeprefix("https://github.com/")
    context["header_buttons"][:0] = [
        {
            "type": "link",
            "url": f"https://colab.research.google.com/github/{repository}/blob/{options['repository_branch']}/notebooks/{notebook.name}",
            "text": "Open in Colab",
            "icon": "fas fa-rocket",
            "label": "open-colab",
        },
        {
            "type": "link",
            "url": context["pathto"](f"notebooks/{notebook.name}", 1),
            "text": "Notebook",
            "tooltip": "Download the notebook to work in",
            "icon": "fas fa-download",
            "label": "download-notebook",
        },
        {
            "type": "link",
            "url": "#run-locally",
            "text": "Run locally",
            "icon": "fas fa-terminal",
            "label": "run-locally",
        },
    ]


def add_commands(app: Sphinx, doctree: nodes.document, page: str) -> None:
    card = next(doctree.findall(facts_of_a_card), None)
    if not page.startswith(CHAPTERS) or card is None:
        return
    url = app.config.html_theme_options["repository_url"]
    text = (
        f"git clone {url}\ncd {url.rpartition('/')[2]}\nmake .venv/.ready\n"
        f".venv/bin/jupyter lab notebooks/{notebook_of(app, page).name}"
    )
    commands = nodes.literal_block(text, text, language="bash")
    opening = '<details id="run-locally"><summary>Run it on your machine</summary>'
    place = card.parent.index(card) + 1
    card.parent[place:place] = [
        nodes.raw("", opening, format="html"),
        commands,
        nodes.raw("", "</details>", format="html"),
    ]


def facts_of_a_card(node: nodes.Node) -> bool:
    """The list below the admonition: the first that stands in the chapter's own section."""
    return isinstance(node, nodes.bullet_list) and isinstance(node.parent, nodes.section)


def copy_notebooks(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    target = Path(app.outdir, "notebooks")
    target.mkdir(exist_ok=True)
    for page in sorted(app.env.found_docs):
        if not page.startswith(CHAPTERS):
            continue
        notebook = notebook_of(app, page)
        if notebook.exists():
            shutil.copy2(notebook, target)
        else:
            logger.warning(
                "%s has no student notebook: run `autograder release` to make notebooks/%s",
                page,
                notebook.name,
            )


def setup(app: Sphinx) -> dict[str, bool]:
    # After the theme's own buttons (501), so that these come first.
    app.connect("html-page-context", add_buttons, priority=502)
    app.connect("doctree-resolved", add_commands)
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
