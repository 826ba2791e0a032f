"""Takes off the built pages what they do not use.

The theme brings all 1,400 icons three times: as a script of 1.5 MB, as fonts, and as style rules.
The fonts do, with the icons that some page shows. And each page would load the index of the whole
book for the search, which only the search page does, and MathJax also where there is no formula.
"""

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

SCRIPTS = re.compile(
    r'\s*<script[^>]* src="[^"]*/fontawesome\.js[^"]*"></script>'
    r'|\s*<link[^>]* href="[^"]*/fontawesome\.js[^"]*" ?/?>'
)
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
)
MATHEMATICS = re.compile(r'\s*<script[^>]* src="[^"]*/mathjax/startup\.js[^"]*"></script>')
RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
ICON = re.compile(r"\bfa-[a-z0-9-]+")


def lighten(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used = set()
    for page in out.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        used |= set(ICON.findall(html))
        less = SCRIPTS.sub("", html)
        if page.name != "search.html":
            less = SEARCH.sub("", less)
        if 'class="math' not in html:
            less = MATHEMATICS.sub("", less)
        if less != html:
            page.write_text(less, encoding="utf-8")
    static = out / "_static"
    for script in static.rglob("*theme.js"):
        used |= set(ICON.findall(script.read_text(encoding="utf-8")))
    for file in static.glob("scripts/fontawesome.js*"):
        file.unlink()
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    rules = sheet.read_text(encoding="utf-8")
    rules = RULE.sub(lambda rule: rule[0] if used & set(ICON.findall(rule[1])) else "", rules)
    rules = re.sub(r"\.woff2\) format\(\"woff2\"\),url\([^)]*\.ttf\) format\(\"truetype\"\)",
                   '.woff) format("woff")', rules)  # fmt: skip
    sheet.write_text(rules, encoding="utf-8")
    styles = "".join(file.read_text(encoding="utf-8") for file in static.rglob("*.css"))
    shown = {int(code, 16) for code in re.findall(r'content: ?"\\([0-9a-fA-F]{4})"', styles)}
    for font in (static / "vendor" / "fontawesome" / "webfonts").glob("*.ttf"):
        keep_glyphs(font, shown)
        font.with_suffix(".woff2").unlink()
        font.unlink()


def keep_glyphs(font: Path, characters: set[int]) -> None:
    """Write the font with these characters only, as a .woff beside it."""
    options = subset.Options(flavor="woff", notdef_outline=True)
    smaller = subset.Subsetter(options)
    smaller.populate(unicodes=characters)
    with TTFont(font) as whole:
        smaller.subset(whole)
        whole.flavor = "woff"
        whole.save(font.with_suffix(".woff"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
