"""What a chapter's card says beyond the released page: how hard, and when last changed."""

import subprocess
from datetime import date
from functools import cache
from pathlib import Path

from docutils import nodes
from launch import CHAPTERS, facts_of_a_card
from released import released
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def date_pages(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Dates every chapter; those with a new date are written again, since a commit is no edit."""
    before = getattr(env, "last_changes", {})
    env.last_changes = {
        page: last_change(
            Path(app.srcdir), f"solutions/{page.removeprefix(CHAPTERS)}/chapter.md", f"{page}.ipynb"
        )
        for page in env.found_docs
        if page.startswith(CHAPTERS)
    }
    return [page for page, day in env.last_changes.items() if before.get(page) != day]


def add_facts(app: Sphinx, doctree: nodes.document, page: str) -> None:
    card = next(doctree.findall(facts_of_a_card), None)
    if not page.startswith(CHAPTERS) or card is None:
        return
    difficulty = released(page.removeprefix(CHAPTERS)).difficulty
    card += fact("Difficulty of the exercises", difficulty)
    day = app.env.last_changes[page]
    if day:
        card += fact("Last change", day.isoformat())


def fact(name: str, text: str) -> nodes.list_item:
    line = nodes.paragraph("", "", nodes.strong("", name), nodes.Text(f": {text}"))
    return nodes.list_item("", line)


def last_change(root: Path, *paths: str) -> date | None:
    """The day of the last commit that touched one of the paths; None where git cannot tell.

    The oldest commit of a shallow clone seems to have written every file, so it tells nothing.
    """
    last = git(root, "log", "-1", "--format=%H %cs", "--", *paths)
    if not last:
        return None
    commit, day = last.split()
    return None if commit in oldest(root) else date.fromisoformat(day)


@cache
def oldest(root: Path) -> list[str]:
    """The commits at which a shallow clone's history breaks off."""
    file = Path(root, git(root, "rev-parse", "--git-path", "shallow"))
    return file.read_text(encoding="utf-8").split() if file.is_file() else []


def git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-updated", date_pages)
    app.connect("doctree-resolved", add_facts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
