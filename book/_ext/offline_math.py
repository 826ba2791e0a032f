"""Typeset mathematics without a network, by MathJax from the package sphinx-mathjax-offline.

The package is an extension too, but it copies all 15 MB of MathJax and sets its path before Sphinx
reads the configuration. Here only what a page can load is copied: the parts of the program but for
its menu, which is over a third of it, the fonts, and the TeX extensions, which it fetches when a
formula needs them (one missing extension would leave every formula of the page raw).
"""

from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset

PROGRAM = "startup.js"
PARTS = ["input/tex", "output/chtml", "a11y/assistive-mml"]
NEEDED = ["core", "output/chtml/fonts/tex"]  # which the parts load themselves, in the right order
FOLDERS = ["output/chtml/fonts/woff-v2", "input/tex/extensions"]


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    # The package's folder has hyphens in its name: no import statement can name it.
    package = find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ExtensionError(
            "The package sphinx-mathjax-offline is not installed; run `make book` to set up .venv."
        )
    source = Path(package.origin).parent / "static" / "mathjax"
    target = Path(app.outdir, "_static", "mathjax")
    for part in [PROGRAM, *(f"{part}.js" for part in PARTS + NEEDED), *FOLDERS]:
        destination = target / part
        if not destination.exists():
            copy_asset(source / part, destination if part in FOLDERS else destination.parent)


def use_local_program(app: Sphinx, config: Config) -> None:
    config.mathjax_path = f"mathjax/{PROGRAM}"
    config.mathjax3_config = {**(config.mathjax3_config or {}), "loader": {"load": PARTS}}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_local_program)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
