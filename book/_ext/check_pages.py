"""Fail when the built book lacks a page of _toc.yml: jupyter-book itself exits 0 without it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def pages(entry: Any) -> Iterator[str]:
    """Every page that the table of contents names, the front page first."""
    if isinstance(entry, list):
        for item in entry:
            yield from pages(item)
    elif isinstance(entry, dict):
        yield from (entry[key] for key in ("root", "file") if key in entry)
        for value in entry.values():
            yield from pages(value)


def main() -> None:
    html = ROOT / "_build" / "html"
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    missing = [page for page in pages(toc) if not (html / f"{page}.html").is_file()]
    if missing:
        sys.exit(f"The build left out {', '.join(missing)}, which _toc.yml names.")
    print(f"The book is ready: {html / 'index.html'}")


if __name__ == "__main__":
    main()
