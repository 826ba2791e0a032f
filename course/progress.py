"""A student's progress: one small file beside the notebooks, and a picture of it."""

from __future__ import annotations

import html
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

FILE = ".course-progress.json"


def record(chapter: str, exercise: str, status: str) -> None:
    """Note the latest status of an exercise; once passed it stays passed.

    A folder that cannot be written to loses the note, never the check.
    """
    seen = read()
    before = seen.get(chapter, {}).get(exercise)
    if before == "passed" or before == status:
        return
    seen.setdefault(chapter, {})[exercise] = status
    try:
        # Written beside and renamed, so that a reader never meets half a file.
        with tempfile.NamedTemporaryFile("w", dir=".", delete=False, encoding="utf-8") as file:
            json.dump(seen, file, indent=1, sort_keys=True)
        os.replace(file.name, FILE)
    except OSError:
        pass


def read() -> dict[str, dict[str, str]]:
    """Chapter → exercise → status; empty where there is no file or it cannot be read."""
    try:
        seen = json.loads(Path(FILE).read_text(encoding="utf-8"))
        return {c: dict(e) for c, e in seen.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def progress() -> Progress:
    """What you have done so far in the notebooks of this folder, as bars."""
    return Progress(read())


@dataclass
class Progress:
    """Chapter → exercise → status, shown as bars in a notebook and as text in a terminal."""

    chapters: dict[str, dict[str, str]]

    def _rows(self) -> list[tuple[str, int, int]]:
        from course.check import load_checks
        from course.testing import collect

        rows = []
        for chapter, seen in self.chapters.items():
            try:
                known = {test.exercise for test in collect(load_checks(chapter))}
            except ValueError:  # a chapter that this version of the course does not have
                continue
            rows.append((chapter, sum(seen.get(e) == "passed" for e in known), len(known)))
        return rows

    def __repr__(self) -> str:
        rows = self._rows()
        if not rows:
            return "Nothing yet: solve an exercise and run its check."
        return "\n".join(
            f"{chapter:<24} {'█' * done}{'░' * (total - done)} {done} of {total}"
            for chapter, done, total in rows
        )

    def _repr_html_(self) -> str:
        rows = self._rows()
        if not rows:
            return f"<p>{html.escape(repr(self))}</p>"
        bars = "".join(_bar(html.escape(chapter), done, total) for chapter, done, total in rows)
        return f'<div class="course-progress"><table><tbody>{bars}</tbody></table></div>'


def _bar(chapter: str, done: int, total: int) -> str:
    return (
        f'<tr><th scope="row" style="text-align:left;padding-right:1em">{chapter}</th>'
        f'<td><progress value="{done}" max="{total}" aria-label="{chapter}"></progress></td>'
        f"<td>{done} of {total}</td></tr>"
    )
