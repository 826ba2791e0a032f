"""Fail when the built book lacks a page of _toc.yml: jupyter-book itself exits 0 without it."""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


@cache
def pages(root: Path) -> tuple[str, ...]:
    """Every page that a folder's table of contents names, the front page first."""
    return tuple(named(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))


def named(entry: Any) -> Iterator[str]:
    if isinstance(entry, list):
        for item in entry:
            yield from named(item)
    elif isinstance(entry, dict):
        yield from (entry[key] for key in ("root", "file") if key in entry)
        for value in entry.values():
            yield from named(value)


def main() -> None:
    html = ROOT / "_build" / "html"
    missing = [page for page in pages(ROOT) if not (html / f"{page}.html").is_file()]
    if missing:
        sys.exit(f"The build left out {', '.join(missing)}, which _toc.yml names.")
    print(f"The book is ready: {html / 'index.html'}")


if __name__ == "__main__":
    main()
