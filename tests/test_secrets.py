"""Nothing secret leaves `solutions/`: delete the folder, build everything, and look for it."""

import ast
import html
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import pytest
from copies import copy_of

from autograder.chapters import BEGIN, END, Chapter, chapter_ids, find_root, load

ROOT = find_root(Path(__file__).parent)
SHORTEST = 28  # a shorter line (`return x`, `for _ in range(n):`) gives nothing away
IDIOM = re.compile(
    r"(from|import|@|torch\.set_default_dtype|class \w+\(nn\.Module\)|def \w+\((self|student)\b)"
)


def lines_of(text: str) -> set[str]:
    """Lines that say something: long enough, and not what every file has."""
    lines = map(str.strip, text.splitlines())
    return {line for line in lines if len(line) >= SHORTEST and not IDIOM.match(line)}


def solution_lines(chapter: Chapter) -> set[str]:
    """Lines between the markers of the exercise cells."""
    source = "\n".join(cell.source for cell in chapter.notebook.cells)
    return lines_of("\n".join(re.findall(rf"{BEGIN}(.*?){END}", source, re.S)))


def test_values(chapter: Chapter) -> set[str]:
    """Literal expected values of the hidden tests: numbers of five significant digits or more."""
    tree = ast.parse((chapter.folder / "tests.py").read_text(encoding="utf-8"))
    numbers = (
        str(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    )
    return {text for text in numbers if len(text.split("e")[0].replace(".", "").strip("0")) >= 5}


test_values.__test__ = False


def public_text(chapters: Iterable[Chapter]) -> str:
    """What is shown on purpose: the chapters without their solutions, and the libraries."""
    cells = (cell.source for chapter in chapters for cell in chapter.notebook.cells)
    shown = [re.sub(rf"{BEGIN}.*?{END}", "", source, flags=re.S) for source in cells]
    files = [*ROOT.glob("course/**/*.py"), *ROOT.glob("autograder/*.py"), ROOT / "CONTRIBUTING.md"]
    return "\n".join([*shown, *(path.read_text(encoding="utf-8") for path in files)])


def secrets() -> dict[str, str]:
    """Every secret line, and the chapter that it comes from."""
    chapters = [load(name, ROOT) for name in chapter_ids(ROOT)]
    public = public_text(chapters)
    found: dict[str, str] = {}
    for chapter in chapters:
        lines = solution_lines(chapter) | test_values(chapter)
        for file in ("tests.py", "misconceptions.py", "alternatives.py"):
            lines |= lines_of((chapter.folder / file).read_text(encoding="utf-8"))
        found.update({line: chapter.id for line in lines if line not in public})
    return found


SECRETS = secrets()


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A copy of the tree as a clone would have it, less `solutions/`."""
    return copy_of(ROOT, tmp_path_factory.mktemp("bare") / "course", without="solutions")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Every text below a folder, as a person or a program would read it."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix in (".png", ".woff", ".woff2", ".ico", ".pickle"):
            continue
        raw = path.read_bytes()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                for name in wheel.namelist():
                    yield f"{path.name}:{name}", wheel.read(name).decode("utf-8", "replace")
            continue
        text = raw.decode("utf-8", "replace")
        yield str(path.relative_to(folder)), text
        if path.suffix == ".html":  # highlighted code stands in many small elements
            yield (
                f"{path.relative_to(folder)} (as seen)",
                html.unescape(re.sub(r"<[^>]+>", "", text)),
            )
        if path.suffix == ".ipynb":
            notebook = nbformat.reads(text, as_version=4)
            yield f"{path.name} (cells)", "\n".join(c.source for c in notebook.cells)


def pairs(text: str) -> set[str]:
    """Words with their next one, and what is between; not the first and last, perhaps cut off."""
    return set(re.findall(r"(?<=\W)(?=(\w+\W+\w+)\W)", text))


def leaks(folder: Path) -> list[str]:
    inner = {line: pairs(line) for line in SECRETS}
    found = []
    for name, text in texts(folder):
        known = pairs(f" {text} ")  # to look for each line everywhere takes minutes
        found += [
            f"{name}: {line!r} of {SECRETS[line]}"
            for line, needed in inner.items()
            if needed <= known and line in text
        ]
    return found


def test_there_are_secrets_to_look_for_and_the_search_finds_them(tmp_path):
    assert len(SECRETS) > 100
    line = next(iter(SECRETS))
    (tmp_path / "page.html").write_text(
        f"<span>{html.escape(line[:3])}</span>{html.escape(line[3:])}"
    )
    (tmp_path / "book.ipynb").write_text(
        json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(line)]))
    )
    assert len({leak.split(":")[0] for leak in leaks(tmp_path)}) >= 2


def test_what_is_left_builds_checks_and_holds_no_secret(bare):
    python = sys.executable
    book = str(Path(python).with_name("jupyter-book"))
    run(book, "build", ".", "-W", "-n", "--keep-going", "-q", cwd=bare)
    assert (bare / "_build/html/book/chapters/convolution.html").exists()

    notebook = nbformat.read(bare / "notebooks/convolution.ipynb", as_version=4)
    assert notebook.metadata["course"]["chapter"] == "convolution"
    script = "from course import check, start; start('convolution'); print(check('corr').status)"
    assert run(python, "-c", script, cwd=bare).strip() == "not yet"

    run(python, "-m", "hatchling", "build", "-t", "wheel", cwd=bare)
    assert list((bare / "dist").glob("*.whl"))

    assert leaks(bare) == []


def test_search_index_knows_no_word_that_only_solutions_use(bare):
    """The index holds stems, not lines."""
    index = (bare / "_build/html/searchindex.js").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_]{8,}", index))
    public = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in ("book/**/*.md", "book/**/*.ipynb", "book/*.yml", "book/*.bib")
        for path in bare.glob(pattern)
    ).casefold()
    secret = {w for line in SECRETS for w in re.findall(r"[a-z_]{8,}", line.casefold())}
    assert any(w not in public for w in secret), "solutions have no word of their own"
    assert {w for w in secret & words if w not in public} == set()
