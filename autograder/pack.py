"""`autograder pack`: what others run or hand out, made from a chapter.

pack student      a zip or folder of notebooks, the course library, instructions; nothing secret
pack gradescope   a zip that grades one chapter in Gradescope's container; secret
pack nbgrader     a course folder for nbgrader; secret
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

import course
from autograder.chapters import Chapter, ChapterError, load, syllabus
from autograder.files import whole
from course.check import load_checks

TEMPLATES = Path(__file__).with_name("templates")
DISTRIBUTION = "torch-by-writing"
SCHEMA = 3  # of nbgrader's cell metadata
BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"

Files = dict[str, bytes]  # path inside a pack → content


def pack_student(chapters: Sequence[str], root: Path, out: Path) -> Path:
    """Write the released notebooks and what they need.

    Args:
        chapters: ids; if none is given, all that have been released and that `_toc.yml` lists.
        out: a zip, or a folder: a new one, an earlier pack or a git repository. Files that it has
            from before and that are not of this pack stay.
    Raises:
        ChapterError: if one has not been released, or the folder holds something else.
    """
    names = list(chapters) or [c for c in _listed(root) if _released(c, root).exists()]
    if not names:
        raise ChapterError(f"{root / '_toc.yml'} lists no chapter that has been released.")
    files: Files = {f"{name}.ipynb": _notebook(name, root) for name in names}
    files |= _library(names)
    entries = syllabus(root)
    table = "\n".join(
        f"| `{name}.ipynb` | {entries[name]['title']} | {entries[name]['minutes']} |"
        for name in names
    )
    title = entries[names[0]]["title"] if len(names) == 1 else "Notebooks of the course"
    files["README.md"] = _template("student/README.md", title=title, table=table)
    files["requirements.txt"] = _requirements()
    files[".gitignore"] = (TEMPLATES / "student" / "gitignore").read_bytes()
    if out.suffix == ".zip":
        return write_zip(files, out)
    is_pack = (out / ".git").exists() or (out / "course" / "checks").is_dir()
    if (out / "_toc.yml").exists() or not (is_pack or _is_new(out)):
        raise ChapterError(
            f"{out} holds something else; name a new folder, a pack or its repository by --out."
        )
    return _write_folder(files, out)


def pack_gradescope(chapter: str, root: Path, out: Path, grade: Sequence[str] = ()) -> Path:
    """Write an autograder.zip for Gradescope.

    Args:
        grade: options that `autograder grade` gets there.
    Raises:
        ChapterError: if the chapter has no sources.
    """
    loaded = load(chapter, root)
    points = sum(e.points for e in loaded.exercises.values())
    files = _library([chapter]) | _tree(Path(__file__).parent, "autograder")
    files |= _tree(loaded.folder, f"solutions/{chapter}")
    files |= {name: (root / name).read_bytes() for name in ("_toc.yml", "book/syllabus.yml")}
    files["README.md"] = _template("gradescope/README.md", chapter=chapter, points=points)
    for name in ("setup.sh", "run_autograder", "grade_submission.py"):
        files[name] = (TEMPLATES / "gradescope" / name).read_bytes()
    files["options.json"] = json.dumps({"chapter": chapter, "grade": [*grade]}).encode()
    files["requirements.txt"] = _requirements("grade")
    lock = root / "requirements.txt"
    files["constraints.txt"] = lock.read_bytes() if lock.exists() else b""
    return write_zip(files, out)


def pack_nbgrader(chapters: Sequence[str], root: Path, out: Path) -> Path:
    """Write a folder in which `nbgrader generate_assignment` and `nbgrader autograde` work.

    Args:
        chapters: ids, at least one.
    Raises:
        ChapterError: if one has no sources, has not been released, or `out` holds another course.
    """
    if not _is_new(out):
        raise ChapterError(f"{out} is not empty; name a new folder by --out.")
    names = ", ".join(chapters)
    files: Files = {
        "README.md": _template("nbgrader/README.md", first=chapters[0], chapters=names),
        "nbgrader_config.py": (TEMPLATES / "nbgrader" / "nbgrader_config.py").read_bytes(),
        "requirements.txt": _requirements(),
    }
    for name in chapters:
        notebook = nbgrader_source(load(name, root), _notebook(name, root))
        folder = f"source/{name}"
        files[f"{folder}/{name}.ipynb"] = nbformat.writes(notebook).encode()
        files |= {f"{folder}/{path}": data for path, data in _library([name]).items()}
    return _write_folder(files, out)


# --- nbgrader --------------------------------------------------------------------------------


def nbgrader_source(chapter: Chapter, released: bytes) -> nbformat.NotebookNode:
    """The released notebook with solutions in place and a cell for each hidden test at its end.

    nbgrader cuts out both when it makes the release, and puts the tests back to grade.
    """
    notebook = nbformat.reads(released.decode(), as_version=4)
    sources = {
        c.metadata["exercise"]: c.source for c in chapter.notebook.cells if "exercise" in c.metadata
    }
    for cell in notebook.cells:
        name = cell.metadata.get("exercise")
        if name in sources:
            cell.source = sources[name]
            cell.metadata["nbgrader"] = _metadata(name, solution=True)
    heading = "## Hidden tests\n\nLeave the cells below as they are."
    notebook.cells.append(_new("markdown", heading, "hidden-tests"))
    text = (chapter.folder / "tests.py").read_text(encoding="utf-8")
    helper = (TEMPLATES / "nbgrader" / "hidden_tests.py").read_text(encoding="utf-8")
    code = f"HIDDEN_TESTS = {text!r}\n\n\n{helper.rstrip()}"
    notebook.cells.append(_hidden("tests-setup", "What the tests need.", code, 0))
    for test in chapter.tests:
        title = f"{chapter.exercises[test.exercise].title}: {test.statement}"
        notebook.cells.append(
            _hidden(
                f"tests-{test.name}",
                title,
                f"hidden_test({test.name!r}, HIDDEN_TESTS)",
                test.points,
            )
        )
    return notebook


def _hidden(name: str, title: str, code: str, points: float) -> nbformat.NotebookNode:
    cell = _new("code", f"# {title}\n{BEGIN}\n{code}\n{END}", name)
    cell.metadata["nbgrader"] = _metadata(name, grade=True, locked=True, points=points)
    return cell


def _new(kind: str, source: str, name: str) -> nbformat.NotebookNode:
    """A cell whose id follows from its name, so that packs can be compared."""
    make = getattr(nbformat.v4, f"new_{kind}_cell")
    return make(source, id=re.sub(r"[^\w-]", "-", name)[:64])


def _metadata(name: str, **values: Any) -> dict[str, Any]:
    return {
        "grade": False, "solution": False, "locked": False, "task": False,
        "grade_id": name, "schema_version": SCHEMA, **values,
    }  # fmt: skip


# --- files -----------------------------------------------------------------------------------


def _listed(root: Path) -> list[str]:
    """The chapters that the book shows: a line of `_toc.yml` that is commented out hides one."""
    toc = (root / "_toc.yml").read_text(encoding="utf-8")
    return re.findall(r"^\s*- file: book/chapters/([\w-]+)", toc, re.MULTILINE)


def _released(chapter: str, root: Path) -> Path:
    return root / "notebooks" / f"{chapter}.ipynb"


def _notebook(chapter: str, root: Path) -> bytes:
    try:
        return _released(chapter, root).read_bytes()
    except FileNotFoundError:
        raise ChapterError(
            f"{_released(chapter, root)} is missing; run `autograder release {chapter}`."
        ) from None


def _library(chapters: Iterable[str]) -> Files:
    """The package `course`, with the public checks of these chapters only."""
    home = Path(course.__file__).parent
    files = _tree(home, "course")
    files = {p: d for p, d in files.items() if not re.match(r"course/checks/(?!__init__)", p)}
    for chapter in chapters:
        path = Path(load_checks(chapter).__file__)
        files[f"course/checks/{path.name}"] = path.read_bytes()
    return files


def _tree(folder: Path, name: str) -> Files:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _template(name: str, **values: Any) -> bytes:
    return (TEMPLATES / name).read_text(encoding="utf-8").format(**values).encode()


def _requirements(extra: str | None = None) -> bytes:
    """What this package needs, one a line; d2l, which pins old releases, is left out."""
    lines = []
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement, _, marker = line.partition(";")
        wanted = not marker or (extra and f"extra == '{extra}'" in marker.replace('"', "'"))
        if wanted and not requirement.startswith("d2l"):
            lines.append(requirement.strip())
    return ("\n".join(sorted(lines)) + "\n").encode()


def _is_new(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def _write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(files: Mapping[str, bytes], path: Path) -> Path:
    """Write a zip that is the same whenever its files are; scripts can be executed."""
    with whole(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if data.startswith(b"#!") else 0o644
            member.external_attr = (0o100000 | mode) << 16
            archive.writestr(member, data)
    return path
