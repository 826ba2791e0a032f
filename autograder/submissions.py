"""Finds the submissions in what an instructor has: notebooks, folders in common layouts, zips."""

from __future__ import annotations

import datetime
import hashlib
import io
import lzma
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from autograder.notebook import MAX_BYTES, ReadProblem

MAX_MEMBERS = 100_000  # files in a zip
MAX_NAME = 160  # bytes of a student's folder
MAX_ARCHIVE = 64 * 2**20  # bytes of a zip within a zip
# What students hand in instead of a notebook; other files beside notebooks are data.
MISTAKEN = {".pdf", ".py", ".html", ".htm", ".doc", ".docx", ".txt", ".md", ".rar", ".7z"}


class CollectError(Exception):
    """A path that holds no submissions; the message names it and the mend."""


_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where the bytes of a file are: on disk, or in a zip (that may itself be in a zip)."""

    path: Path
    members: tuple[str, ...] = ()

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """The content, or one byte more than `limit` of a longer file.

        Raises:
            ReadProblem: with one sentence, if it cannot be read.
        """
        try:
            if not self.members:
                with open(self.path, "rb") as file:
                    return file.read(limit + 1)
            outer, member = Source(self.path, self.members[:-1]), self.members[-1]
            with _open_zip(outer) as archive, archive.open(member) as file:
                return file.read(limit + 1)
        except IsADirectoryError:
            raise ReadProblem(f"{self.name} is a folder, not a notebook.") from None
        except OSError as error:
            raise ReadProblem(f"{self.name} cannot be read: {error.strerror or error}.") from None
        except _DAMAGED as error:
            raise ReadProblem(f"{self.name} cannot be unpacked: {error}.") from None

    @property
    def name(self) -> str:
        return PurePosixPath(self.members[-1]).name if self.members else self.path.name


@dataclass(frozen=True)
class Entry:
    """One file that a student handed in."""

    student: str  # safe as the name of a folder
    source: Source
    label: str  # its place in what was given, for messages
    time: float  # when it was last changed, seconds since 1970


def collect(paths: Iterable[Path], chapters: Iterable[str], only: str | None = None) -> list[Entry]:
    """All submissions under the given paths, ordered by student, oldest first.

    A path is a notebook; a flat folder of notebooks named after students; a folder with one folder
    for each student (nbgrader's `submitted`, Moodle's bulk download, Gradescope's export, clones of
    the students' repositories); or a zip of any of these.

    Args:
        chapters: ids, which are taken off file names to leave the student's.
        only: the chapter that counts. A student's files that are named after another one are left
            out where there are more, as in a repository that holds the notebooks of a term.
    Raises:
        CollectError: if a path does not exist, cannot be opened, or holds nothing of the kind.
    """
    chapters = sorted(chapters, key=len, reverse=True)
    found: list[tuple[str, Entry]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise CollectError(f"There is no {path}.")
        files = list(_files(path, chapters))
        if not any(_is_wanted(parts[-1]) for parts, _, _ in files):
            raise CollectError(f"{path} holds no notebooks (*.ipynb).")
        home = path.resolve()
        fallback = home.name if path.is_dir() else home.stem
        exported = _gradescope(files)
        for parts, source, time in _handed_in(files):
            if parts[0] in exported:
                students, time = exported[parts[0]].students, exported[parts[0]].time or time
            else:
                students = [_student(_without_assignment(parts, fallback), fallback, chapters)]
            for student in students:
                found.append((student, Entry(_safe(student), source, "/".join(parts), time)))
    entries = _tell_apart(found)
    if only:
        others = {f"{chapter}.ipynb" for chapter in chapters if chapter != only}
        fitting = [e for e in entries if e.source.name not in others]
        having = {e.student for e in fitting}
        entries = fitting + [e for e in entries if e.student not in having]
    return sorted(entries, key=lambda e: (e.student, e.time, e.label))


# --- files -----------------------------------------------------------------------------------

File = tuple[tuple[str, ...], Source, float]  # parts of the relative path, content, time


def _files(path: Path, chapters: Sequence[str]) -> Iterator[File]:
    if path.is_file() and not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise CollectError(f"{path} is not a zip archive, or is damaged; download it again.")
        yield (path.name,), Source(path), path.stat().st_mtime
        return
    if path.is_file():
        try:
            yield from _inside_root(list(_in_zip(Source(path))), chapters)
        except (ReadProblem, zipfile.BadZipFile) as error:
            raise CollectError(f"{path} cannot be unpacked: {error}") from None
        return
    root = path / "submitted" if (path / "submitted").is_dir() else path
    for file in sorted(root.rglob("*")):
        parts = file.relative_to(root).parts
        wanted_folder = file.suffix == ".ipynb" and file.is_dir()
        if _is_hidden(parts) or file.is_symlink() or not (file.is_file() or wanted_folder):
            continue
        yield from _unpacked(parts, Source(file), file.stat().st_mtime)


def _unpacked(parts: tuple[str, ...], source: Source, time: float) -> Iterator[File]:
    """A file, or what is in it where a student handed in a zip."""
    if not parts[-1].lower().endswith(".zip") or len(source.members) > 1:
        yield parts, source, time
        return
    stem = parts[-1][: -len(".zip")]
    try:
        inner = [f for f in _in_zip(source) if _is_wanted(f[0][-1])]
    except (ReadProblem, zipfile.BadZipFile):
        inner = []
    # A bad archive stays as it is: reading it tells the student what is wrong.
    yield from (((*parts[:-1], stem, *p), s, t) for p, s, t in inner)
    if not inner:
        yield parts, source, time


def _in_zip(source: Source) -> Iterator[File]:
    """The files of a zip, read where they lie: nothing is ever unpacked to disk."""
    with _open_zip(source) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise ReadProblem(f"{source.name} holds more than {MAX_MEMBERS} files.")
        for member in sorted(members, key=lambda m: m.filename):
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            strange = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]
            if member.is_dir() or is_link or strange or _is_hidden(parts):
                continue
            inside = Source(source.path, (*source.members, member.filename))
            yield from _unpacked(parts, inside, _time(member))


def _open_zip(source: Source) -> zipfile.ZipFile:
    if not source.members:
        return zipfile.ZipFile(source.path)
    data = source.read(MAX_ARCHIVE)
    if len(data) > MAX_ARCHIVE:
        raise ReadProblem(f"{source.name} has more than {MAX_ARCHIVE >> 20} MB.")
    return zipfile.ZipFile(io.BytesIO(data))


def _time(member: zipfile.ZipInfo) -> float:
    try:
        return datetime.datetime(*member.date_time).timestamp()
    except ValueError:
        return 0.0


def _inside_root(files: list[File], chapters: Sequence[str]) -> list[File]:
    """Without what an archive has around its students: a folder of the class, `submitted`."""
    inside = [f for f in files if "submitted" in f[0][:-1]]
    if inside:
        return [(p[p.index("submitted") + 1 :], source, time) for p, source, time in inside]
    while True:
        roots = {parts[0] for parts, _, _ in files}
        if len(roots) != 1 or any(len(parts) == 1 for parts, _, _ in files):
            return files
        below = {_without_chapter(PurePosixPath(p[1]).stem, chapters) for p, _, _ in files}
        if len(below - {""}) < 2:
            return files  # the one folder is a student's
        files = [(parts[1:], source, time) for parts, source, time in files]


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(p.startswith((".", "__MACOSX")) for p in parts)


def _is_page(parts: tuple[str, ...]) -> bool:
    """Whether it is a page of the book, in a student's clone of the whole course."""
    return parts[-3:-1] == ("book", "chapters")


def _is_wanted(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".ipynb", *MISTAKEN)


def _handed_in(files: list[File]) -> Iterator[File]:
    """The notebooks; and where a student has none, what was handed in instead."""
    notebooks = [f for f in files if f[0][-1].lower().endswith(".ipynb") and not _is_page(f[0])]
    with_notebook = {parts[0] for parts, _, _ in notebooks if len(parts) > 1}
    yield from notebooks
    for parts, source, time in files:
        suffix = PurePosixPath(parts[-1]).suffix.lower()
        if suffix in (*MISTAKEN, ".zip") and parts[0] not in with_notebook:
            yield parts, source, time


# --- students --------------------------------------------------------------------------------

CANVAS = re.compile(r"(?P<student>[^_]+)(?:_LATE)?_(?P<id>\d+)_\d+_.+", re.I)
MOODLE = re.compile(r"(?P<student>.+?)_(?P<id>\d+)_assignsubmission_.*", re.I)


METADATA = "submission_metadata.yml"  # in Gradescope's export, beside its submission_<id>/


class _FromRuby(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML as Ruby writes it: an object of a class of its own is read as its plain values."""


_FromRuby.add_multi_constructor(
    "!ruby/",
    lambda loader, kind, node: (
        loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None
    ),
)


@dataclass(frozen=True)
class Exported:
    """What Gradescope's export says of one of its folders."""

    students: list[str]  # several where a group handed it in
    time: float | None


def _gradescope(files: Iterable[File]) -> dict[str, Exported]:
    """The folders of Gradescope's export by name; none where it is no such export.

    Only the file at the top is believed: one that lies deeper is a student's.
    """
    source = next((source for parts, source, _ in files if parts == (METADATA,)), None)
    if source is None:
        return {}
    try:
        folders = yaml.load(source.read(MAX_ARCHIVE), _FromRuby)
        return {
            name: Exported([_submitter(s) for s in said[":submitters"]], _seconds(said))
            for name, said in folders.items()
            if said.get(":submitters")
        }
    except (ReadProblem, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        raise CollectError(
            f"{source.path}: {METADATA} is not as Gradescope writes it; download the export again."
        ) from None


def _submitter(said: Mapping[str, Any]) -> str:
    return str(said.get(":email") or said.get(":sid") or said[":name"])


def _seconds(said: Mapping[str, Any]) -> float | None:
    """When it was handed in; a time without a zone is UTC."""
    when = said.get(":created_at")
    if not isinstance(when, datetime.datetime):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def _without_assignment(parts: tuple[str, ...], home: str) -> tuple[str, ...]:
    """`ada` of `week-1-submissions/week-1-ada`, as GitHub Classroom names its clones."""
    assignment = home.removesuffix("-submissions")
    return parts if assignment == home else (parts[0].removeprefix(f"{assignment}-"), *parts[1:])


def _student(parts: tuple[str, ...], fallback: str, chapters: Sequence[str]) -> str:
    """Who handed a file in: the first part of its path that says more than the chapter."""
    *folders, file = parts
    for part in (*folders, PurePosixPath(file).stem):
        for pattern in (MOODLE, CANVAS):
            if match := pattern.fullmatch(part):
                return f"{match['student']}_{match['id']}"
        name = _without_chapter(part, chapters)
        if name:
            return name
    return fallback


def _without_chapter(name: str, chapters: Sequence[str]) -> str:
    """`alice` for `alice_convolution`, `convolution-alice`, `alice_convolution (1)`."""
    name = re.sub(r"\s*\(\d+\)$", "", name)
    for chapter in chapters:
        shorter = re.sub(rf"(^|[_\-. ]+){re.escape(chapter)}($|[_\-. ]+)", "", name, flags=re.I)
        if shorter != name:
            return shorter
    return name


def _safe(student: str) -> str:
    """A name that is safe as a folder's: letters and digits of any script, and `_-.@+`."""
    text = unicodedata.normalize("NFC", student)
    safe = re.sub(r"[^\w\-.@+]+", "-", text).strip("-.")
    # A file system counts bytes: 255 at most.
    return safe.encode()[:MAX_NAME].decode(errors="ignore") or "student"


def _tell_apart(found: list[tuple[str, Entry]]) -> list[Entry]:
    """Different students whose safe names are the same get a suffix."""
    owners: dict[str, set[str]] = {}
    for student, entry in found:
        owners.setdefault(entry.student.casefold(), set()).add(student)
    entries = []
    for student, entry in found:
        if len(owners[entry.student.casefold()]) > 1:
            suffix = hashlib.sha256(student.encode("utf-8", "replace")).hexdigest()[:6]
            entry = Entry(f"{entry.student}-{suffix}", entry.source, entry.label, entry.time)
        entries.append(entry)
    return entries
