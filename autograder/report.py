"""`autograder report`: what the records say, for the class, for each student, and for other tools.

    report/index.html                 the class dashboard
    report/feedback/<student>.html    what one student reads
    report/gradebook.csv              final scores; nbgrader.csv, moodle.csv, canvas.csv beside it
    report/gradescope/<student>/<chapter>.json

Every page is one file without scripts that asks the network for nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from autograder.chapters import ChapterError, chapter_ids, load, syllabus
from autograder.grade import LOST, UNFINISHED, read_records
from autograder.notebook import Blank, ReadProblem, read
from autograder.policy import PolicyError, Result, read_deadlines, read_manual, settle, times_of
from autograder.submissions import Entry, collect
from course import faq

BINS = 10  # of the histogram of scores
STUCK = 0.5  # who earned less of an exercise, after trying, is stuck in it
FEWEST = 5  # answers that a correlation needs to mean anything
SLOWEST = 3  # submissions named as such

# Similarity: code is compared by all its runs of this many characters, names and layout aside.
KGRAM = 25
COMMON, MANY = 0.25, 20  # what this share of the class wrote, or so many, is how one writes it
ALIKE = 0.6  # shown from this share of the shorter answer on …
LEAST = 60  # … if that has so many runs of its own

Record = dict[str, Any]


# --- one class -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExerciseStatistics:
    """How a class did in one exercise."""

    id: str
    title: str
    max: float
    shares: tuple[float, ...]  # of the points, one for each student who handed the chapter in
    difficulty: float | None  # mean share of the points; None where it has none
    discrimination: float | None  # correlation with the rest of the chapter; None: too few
    full: int  # students by what they earned
    partial: int
    none: int
    untried: int
    stuck: tuple[str, ...]
    seconds: float  # median time of grading it


@dataclass(frozen=True)
class Told:
    """A hint or an unmet test, and who got it."""

    exercise: str
    text: str
    students: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two students whose code is alike."""

    chapter: str
    first: str
    second: str
    share: float  # of the shorter answer's uncommon code
    exercises: tuple[str, ...]


@dataclass(frozen=True)
class ChapterStatistics:
    """How a class did in one chapter."""

    id: str
    title: str
    results: tuple[Result, ...]  # the best score's first
    bins: tuple[int, ...]
    exercises: tuple[ExerciseStatistics, ...]
    hints: tuple[Told, ...]  # the most frequent first
    unexplained: tuple[Told, ...]  # tests that failed without a hint
    pairs: tuple[Pair, ...] | None  # None where the code was not given

    @cached_property
    def shares(self) -> list[float]:
        return [r.share for r in self.results]

    @property
    def median(self) -> float:
        return statistics.median(self.shares)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.shares)

    @property
    def seconds(self) -> list[float]:
        """Time of grading each submission that counts."""
        return [r.record["seconds"] for r in self.results]

    @property
    def slowest(self) -> list[Result]:
        ordered = sorted(self.results, key=lambda r: (-r.record["seconds"], r.student))
        return ordered[:SLOWEST]


@dataclass
class Class:
    """All that a report says."""

    results: list[Result]
    chapters: list[ChapterStatistics]
    students: list[str]
    unnamed: list[Record]  # records that tell no chapter
    problems: list[str] = field(default_factory=list)  # sentences for the instructor

    @cached_property
    def by_student(self) -> dict[str, list[Result]]:
        """Each student's results, in the order of the chapters."""
        found: dict[str, list[Result]] = {student: [] for student in self.students}
        for chapter in self.chapters:
            for result in chapter.results:
                found[result.student].append(result)
        return found

    @property
    def attention(self) -> list[tuple[str, str]]:
        """What the instructor should look at: a student (or nobody in particular) and a text."""
        found = [("", problem) for problem in self.problems]
        found += [(r["student"], " ".join(r["notes"])) for r in self.unnamed]
        for r in self.results:
            if r.record["status"] != "graded":
                found.append((r.student, f"{r.chapter}: {' '.join(r.record['notes'])}"))
            for name, exercise in r.record["exercises"].items():
                if exercise["status"] in LOST:
                    said = f"{exercise['status']}: {exercise['reason']}"
                    found.append((r.student, f"{r.chapter}, {name} {said}"))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "students": len(self.students),
            "problems": self.problems,
            "chapters": [_chapter_as_dict(chapter) for chapter in self.chapters],
        }


def summarise(
    folder: Path,
    root: Path,
    *,
    chapter: str | None = None,
    submissions: Sequence[Path] = (),
    due: Path | None = None,
    manual: Path | None = None,
    policy: str = "last",
) -> Class:
    """Read the records below a folder and compute what a report shows.

    Args:
        chapter: the only one that counts.
        submissions: what was graded. Gives the times for late penalties, and the code to compare.
        due, manual: see `autograder.policy`.
    Raises:
        PolicyError: if the folder holds no records, or a CSV does not fit them.
        CollectError: if the submissions cannot be found.
    """
    records = read_records(folder)
    if chapter is not None:
        records = [r for r in records if r["chapter"] == chapter]
    if not records:
        what = f"records of {chapter}" if chapter else "records"
        raise PolicyError(f"{folder} holds no {what}; run `autograder grade … --out {folder}`.")
    if due is not None and not submissions:
        raise PolicyError(
            f"{due} needs the times of the submissions: give what was graded with --submissions."
        )
    found = collect(submissions, chapter_ids(root)) if submissions else []
    entries = [(entry, _digest(entry)) for entry in found]
    results = settle(
        records,
        policy=policy,
        times=times_of(entries),
        deadlines=read_deadlines(due) if due else (),
        manual=read_manual(manual) if manual else (),
    )
    titles = {name: entry["title"] for name, entry in syllabus(root).items()}
    present = {r.chapter for r in results}
    present = [c for c in titles if c in present] + sorted(present - titles.keys())
    codes = _codes(entries, results, root) if submissions else None
    chapters = [
        _statistics(
            name,
            titles.get(name, name),
            [r for r in results if r.chapter == name],
            None if codes is None else codes.get(name, {}),
        )
        for name in present
    ]
    unnamed = [r for r in records if r["chapter"] is None]
    students = sorted({r["student"] for r in records})
    return Class(results, chapters, students, unnamed, list(_problems(results, due is not None)))


def _digest(entry: Entry) -> str:
    try:
        return hashlib.sha256(entry.source.read()).hexdigest()
    except ReadProblem:
        return ""


def _problems(results: Sequence[Result], has_deadlines: bool) -> Iterator[str]:
    """What the instructor should look at before trusting the scores."""
    if not has_deadlines:
        return
    for result in results:
        if result.due and result.submitted is None:
            yield (
                f"{result.student}, {result.chapter}: the file that was graded is not among "
                "the submissions given, so nothing is taken for lateness."
            )
        if result.marked_late:
            yield (
                f"{result.student}, {result.chapter}: the LMS marks it late, but its file's time "
                "is not; give the points by hand if something is to be taken."
            )


def _chapter_as_dict(chapter: ChapterStatistics) -> dict[str, Any]:
    return {
        "chapter": chapter.id,
        "submissions": len(chapter.results),
        "mean": chapter.mean,
        "median": chapter.median,
        "scores": {r.student: r.score for r in chapter.results},
        "exercises": {
            e.id: {"difficulty": e.difficulty, "discrimination": e.discrimination}
            for e in chapter.exercises
        },
        "hints": [
            {"exercise": t.exercise, "hint": t.text, "students": t.students} for t in chapter.hints
        ],
        "similar": [
            {"students": [p.first, p.second], "share": p.share, "exercises": p.exercises}
            for p in chapter.pairs or ()
        ],
    }


def _statistics(
    name: str,
    title: str,
    results: Sequence[Result],
    codes: Mapping[str, Mapping[str, set[int]]] | None,
) -> ChapterStatistics:
    graded = [r for r in results if r.record["status"] == "graded"]
    ordered = sorted(results, key=lambda r: (-r.score, r.student))
    bins = [0] * BINS
    for result in results:
        bins[min(int(result.share * BINS), BINS - 1)] += 1
    first = graded[0].record["exercises"] if graded else {}
    return ChapterStatistics(
        name,
        title,
        tuple(ordered),
        tuple(bins),
        tuple(_exercise_statistics(exercise, graded) for exercise in first),
        tuple(_told(graded, _hints)),
        tuple(_told(graded, _unexplained)),
        None if codes is None else tuple(_pairs(name, codes)),
    )


def _exercise_statistics(name: str, graded: Sequence[Result]) -> ExerciseStatistics:
    rows = [(r, r.record["exercises"][name]) for r in graded if name in r.record["exercises"]]
    worth = rows[0][1]["max"]
    shares = tuple(e["score"] / worth if worth else float(_holds(e)) for _, e in rows)
    rest = [sum(x["score"] for x in r.record["exercises"].values()) - e["score"] for r, e in rows]
    untried = [_untried(e) for _, e in rows]
    tried = [share for share, u in zip(shares, untried) if not u]
    return ExerciseStatistics(
        id=name,
        title=rows[0][1]["title"],
        max=worth,
        shares=shares,
        difficulty=statistics.fmean(shares) if worth else None,
        discrimination=_correlation(shares, rest) if worth else None,
        full=sum(share >= 1 for share in tried),
        partial=sum(0 < share < 1 for share in tried),
        none=sum(share <= 0 for share in tried),
        untried=sum(untried),
        stuck=tuple(
            r.student for (r, _), share, u in zip(rows, shares, untried) if share < STUCK and not u
        ),
        seconds=statistics.median(e["seconds"] for _, e in rows),
    )


def _holds(exercise: Mapping[str, Any]) -> bool:
    return bool(exercise["tests"]) and all(t["passed"] for t in exercise["tests"])


def _untried(exercise: Mapping[str, Any]) -> bool:
    return exercise["status"] in UNFINISHED and not exercise["score"]


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(a) < FEWEST:
        return None
    try:
        return statistics.correlation(a, b)
    except statistics.StatisticsError:  # all the same
        return None


def _told(graded: Sequence[Result], texts: Any) -> list[Told]:
    found: dict[tuple[str, str], list[str]] = {}
    for result in graded:
        for name, exercise in result.record["exercises"].items():
            for text in texts(exercise):
                found.setdefault((name, text), []).append(result.student)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Told(exercise, text, tuple(who)) for (exercise, text), who in ordered]


def _hints(exercise: Mapping[str, Any]) -> list[str]:
    return [exercise["hint"]] if exercise["hint"] else []


def _unexplained(exercise: Mapping[str, Any]) -> list[str]:
    if exercise["hint"] or exercise["status"] in UNFINISHED:
        return []
    return list(dict.fromkeys(t["statement"] for t in exercise["tests"] if t["status"] == "failed"))


# --- similar code ----------------------------------------------------------------------------

# chapter → student → exercise → hashes of its runs of characters
Codes = dict[str, dict[str, dict[str, set[int]]]]


def _codes(entries: Sequence[tuple[Entry, str]], results: Sequence[Result], root: Path) -> Codes:
    """What students wrote into exercises, as fingerprints without the stubs'."""
    sources = {(e.student, digest): e for e, digest in entries}
    blanks: dict[str, Blank] = {}
    stubs: dict[str, dict[str, set[int]]] = {}
    codes: Codes = {}
    for result in results:
        entry = sources.get((result.student, result.record["hashes"]["submission"]))
        if entry is None or result.record["status"] != "graded":
            continue
        name = result.chapter
        if name not in blanks:
            with suppress(ChapterError):  # gone since it was graded
                chapter = load(name, root)
                blanks[name] = Blank.of(chapter)
                stubs[name] = {e.id: _fingerprint(e.stub) for e in chapter.exercises.values()}
        if name not in blanks:
            continue
        with suppress(ReadProblem):
            submission = read(entry.source.read(), entry.label, blanks, name)
            written: dict[str, str] = {}
            for piece in submission.pieces:
                if piece.exercise and submission.attempts[piece.exercise].status == "answered":
                    written[piece.exercise] = written.get(piece.exercise, "") + piece.source + "\n"
            codes.setdefault(name, {})[result.student] = {
                exercise: _fingerprint(code) - stubs[name][exercise]
                for exercise, code in written.items()
            }
    return codes


def _fingerprint(source: str) -> set[int]:
    """Hashes of all runs of a source's tokens; names, comments, texts and layout do not matter."""
    from copydetect import CodeFingerprint  # slow to import

    if not source.strip():
        return set()
    return CodeFingerprint("answer.py", KGRAM, 1, fp=io.StringIO(source)).hashes


def _pairs(chapter: str, codes: Mapping[str, Mapping[str, set[int]]]) -> list[Pair]:
    """Students whose code is alike beyond what the class has in common, the most alike first."""
    holders: dict[tuple[str, int], list[str]] = {}
    for student, exercises in sorted(codes.items()):
        for exercise, hashes in exercises.items():
            for value in hashes:
                holders.setdefault((exercise, value), []).append(student)
    usual = min(max(2, COMMON * len(codes)), MANY)
    own: Counter[str] = Counter()
    shared: dict[tuple[str, str], Counter[str]] = {}
    for (exercise, _), students in holders.items():
        if len(students) <= usual:
            own.update(students)
            for pair in combinations(students, 2):
                shared.setdefault(pair, Counter())[exercise] += 1
    pairs = []
    for (first, second), counts in shared.items():
        least = min(own[first], own[second])
        share = counts.total() / least
        if share >= ALIKE and least >= LEAST:
            exercises = tuple(name for name, _ in counts.most_common())
            pairs.append(Pair(chapter, first, second, share, exercises))
    return sorted(pairs, key=lambda p: (-p.share, p.first, p.second))


# --- pages -----------------------------------------------------------------------------------


def write_report(
    summary: Class,
    out: Path,
    *,
    canvas: Path | None = None,
    moodle: Path | None = None,
) -> list[Path]:
    """Write pages and exports; returns their paths.

    Args:
        canvas: the gradebook that Canvas exported; its ID columns are kept.
        moodle: the grading worksheet of a Moodle assignment; its identifiers are kept.
    Raises:
        PolicyError: if such a file is not one, or fits nobody. Nothing is written then.
    """
    texts = {"gradebook.csv": gradebook_csv(summary), "nbgrader.csv": nbgrader_csv(summary)}
    texts["moodle.csv"] = moodle_csv(summary, moodle)
    if canvas is not None:
        texts["canvas.csv"] = canvas_csv(summary, canvas)
    texts["index.html"] = dashboard(summary)
    for student in summary.students:
        texts[f"feedback/{student}.html"] = feedback(summary, student)
    for result in summary.results:
        name = f"gradescope/{result.student}/{result.chapter}.json"
        texts[name] = json.dumps(gradescope(result), ensure_ascii=False, indent=1) + "\n"
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return [out / name for name in texts]


def dashboard(summary: Class) -> str:
    """The page for the instructor."""
    return _page("dashboard.html", summary=summary)


def feedback(summary: Class, student: str) -> str:
    """The page for one student; nobody else's name is on it."""
    return _page(
        "feedback.html",
        student=student,
        results=summary.by_student[student],
        unnamed=[r for r in summary.unnamed if r["student"] == student],
        titles={c.id: c.title for c in summary.chapters},
    )


def _page(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autograder"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"points": points, "percent": percent, "level": _level, "prose": _prose}
    environment.filters["explained"] = faq.address
    environment.globals |= {"UNFINISHED": UNFINISHED, "faq_title": faq.TITLE}
    return environment


def _prose(text: str) -> Markup:
    """A sentence with its `code` set as such."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def points(value: float) -> str:
    """`12`, `12.5`."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """`83 %`."""
    return f"{100 * share:.0f} %"


def _level(exercise: Mapping[str, Any]) -> str:
    """How an exercise came out, as the class of a table's cell."""
    if _untried(exercise):
        return "untried"
    share = exercise["score"] / exercise["max"] if exercise["max"] else float(_holds(exercise))
    return "full" if share >= 1 else "partial" if share > 0 else "none"


# --- exports ---------------------------------------------------------------------------------


def gradebook_csv(summary: Class) -> str:
    """A line for each student, a column for each chapter; empty where nothing was handed in."""
    scores = {(r.student, r.chapter): r.score for r in summary.results}
    worth = sum(max(r.max for r in c.results) for c in summary.chapters)
    names = [c.id for c in summary.chapters]
    rows: list[list[Any]] = [["student", *names, "total", "max"]]
    for student in summary.students:
        own = [scores.get((student, name), "") for name in names]
        total = sum(s for s in own if s != "")
        rows.append([student, *(_cell(s) for s in own), points(total), points(worth)])
    return _csv(rows)


def nbgrader_csv(summary: Class) -> str:
    """What `nbgrader export` writes: a line for each student and chapter, missing ones with 0."""
    header = (
        "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
        "raw_score", "late_submission_penalty", "score", "max_score",
    )  # fmt: skip
    found = {(r.chapter, r.student): r for r in summary.results}
    rows: list[Sequence[Any]] = [header]
    for chapter in summary.chapters:
        worth = points(max(r.max for r in chapter.results))
        for student in summary.students:
            result = found.get((chapter.id, student))
            if result is None:
                rows.append((chapter.id, "", "", student, "", "", "", "0", "0", "0", worth))
                continue
            penalty = result.earned * result.taken
            rows.append((
                chapter.id, result.due or "", result.submitted or "", student, "", "", "",
                points(result.earned), points(penalty), points(result.score), points(result.max),
            ))  # fmt: skip
    return _csv(rows)


def gradescope(result: Result) -> dict[str, Any]:
    """`results.json` of Gradescope for one submission; students see all of it."""
    record = result.record
    tests = []
    for number, exercise in enumerate(record["exercises"].values(), 1):
        whole = not exercise["tests"] or exercise["score"] != sum(
            t["points"] for t in exercise["tests"] if t["passed"]
        )  # nothing was run, or points were given by hand
        if whole:
            text = exercise["reason"] or exercise["hint"]
            tests.append(
                _gradescope_test(
                    f"{number}", exercise["title"], exercise["score"], exercise["max"], text
                )
            )
            continue
        for part, test in enumerate(exercise["tests"], 1):
            earned = test["points"] if test["passed"] else 0
            title = f"{exercise['title']}: {test['statement']}"
            text = "" if test["passed"] else "\n".join(_sentences(test, exercise))
            tests.append(_gradescope_test(f"{number}.{part}", title, earned, test["points"], text))
    comments = [f"{name}: {text}" if name else text for name, text in result.comments]
    if result.taken:
        comments.insert(0, f"{_days(result.days_late)} late: {percent(result.taken)} taken.")
    return {
        "score": result.score,
        "execution_time": record["seconds"],
        "output": "\n".join([*record["notes"], *comments]),
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": {"chapter": record["chapter"], "hashes": record["hashes"]},
        "tests": tests,
    }


def _gradescope_test(
    number: str, name: str, score: float, worth: float, output: str
) -> dict[str, Any]:
    return {
        "number": number,
        "name": name,
        "score": score,
        "max_score": worth,
        "status": "passed" if score >= worth and not output else "failed",
        "output": output,
        "visibility": "visible",
    }


def _sentences(test: Mapping[str, Any], exercise: Mapping[str, Any]) -> Iterator[str]:
    """Why a test failed, as lines of text."""
    yield test["reason"]
    example = test["counterexample"]
    for label, key in (("Called as", "inputs"), ("Expected", "expected"), ("Got", "got")):
        if example[key]:
            yield f"{label}: {example[key]}"
    if test["symptom"]:
        yield f"Likely cause: {test['symptom']}"
    if explained := faq.address(test["reason"]):
        yield f"Explained: {explained}"
    if exercise["hint"]:
        yield f"Hint: {exercise['hint']}"


def canvas_csv(summary: Class, exported: Path) -> str:
    """The gradebook that Canvas exported, with the chapters' columns filled, to be imported.

    Kept are the columns that say who is who; a column counts as a chapter's if its name is the
    chapter's id or title, with or without Canvas's number. A chapter without column gets a new
    one. Scores are scaled to the points that Canvas has for the column.

    Raises:
        PolicyError: if the file is none of Canvas's, or no student of it has a record.
        OSError: if it cannot be read.
    """
    header, lines = _read_rows(exported)
    if not {"Student", "ID"} <= set(header):
        raise PolicyError(
            f"{exported} is no gradebook of Canvas: it has no columns Student and ID. "
            "Use Grades > Export in Canvas."
        )
    who = ("Student", "ID", "SIS User ID", "SIS Login ID", "Integration ID", "Root Account")
    kept = [name for name in header if name in (*who, "Section")]
    possible = next((row for row in lines if row["Student"].strip() == "Points Possible"), {})
    columns, worth = {}, {}
    for chapter in summary.chapters:
        names = {chapter.id.lower(), chapter.title.lower()}
        fits = (n for n in header if re.sub(r"\s*\(\d+\)$", "", n).strip().lower() in names)
        columns[chapter.id] = next(fits, chapter.title)
        most = max(r.max for r in chapter.results)
        worth[chapter.id] = _number(possible.get(columns[chapter.id], "")) or most
    students = [row for row in lines if row["ID"].strip()]
    matched = _matched(summary, students, ("ID", "SIS User ID", "SIS Login ID", "Student"))
    if not matched:
        raise PolicyError(f"{exported}: none of its students has a record.")
    rows: list[list[Any]] = [[*kept, *columns.values()]]
    totals = [points(worth[c.id]) for c in summary.chapters]
    rows.append([*("    Points Possible" if n == "Student" else "" for n in kept), *totals])
    for place, row in enumerate(students):
        own = {r.chapter: r for r in summary.results if r.student == matched.get(place)}
        scores = [points(own[c].share * worth[c]) if c in own else "" for c in columns]
        rows.append([*(row[name] for name in kept), *scores])
    summary.problems += _left_out(summary, matched.values(), exported)
    return _csv(rows)


def moodle_csv(summary: Class, worksheet: Path | None = None) -> str:
    """Scores and comments for Moodle.

    Without a worksheet: for Grades > Import, a column for each chapter and one for what there is
    to say. With the grading worksheet of one assignment: the same file, its grades filled.

    Raises:
        PolicyError: if the worksheet is none, if there are several chapters to fill it with, or if
            no student of it has a record.
        OSError: if it cannot be read.
    """
    found = {(r.student, r.chapter): r for r in summary.results}
    names = [c.id for c in summary.chapters]
    if worksheet is None:
        rows: list[Sequence[Any]] = [
            ["Username", *(x for n in names for x in (n, f"{n} (feedback)"))]
        ]
        for student in summary.students:
            own = [found.get((student, name)) for name in names]
            cells = ((points(r.score), _remark(r)) if r else ("", "") for r in own)
            rows.append([student, *(x for pair in cells for x in pair)])
        return _csv(rows)
    header, lines = _read_rows(worksheet)
    if not {"Identifier", "Grade"} <= set(header):
        raise PolicyError(
            f"{worksheet} is no grading worksheet of Moodle: it has no columns Identifier and "
            "Grade. Use Download grading worksheet in the assignment."
        )
    if len(names) != 1:
        raise PolicyError(
            f"{worksheet} is for one assignment; say which of {', '.join(names)} by --chapter."
        )
    ids = ("Identifier", "ID number", "Username", "Email address", "Full name")
    matched = _matched(summary, lines, ids)
    if not matched:
        raise PolicyError(f"{worksheet}: none of its students has a record.")
    for place, row in enumerate(lines):
        result = found.get((matched.get(place, ""), names[0]))
        if result is not None:
            worth = _number(row.get("Maximum Grade", "")) or result.max
            row["Grade"] = points(result.share * worth)
            if "Feedback comments" in row:
                row["Feedback comments"] = _remark(result)
    summary.problems += _left_out(summary, matched.values(), worksheet)
    return _csv([header, *([row[name] for name in header] for row in lines)])


def _remark(result: Result) -> str:
    """In a sentence or two, what a student should know of a score."""
    parts = [text for _, text in result.comments]
    if result.record["status"] != "graded":
        parts += result.record["notes"]
    if result.taken:
        parts.append(f"{_days(result.days_late)} late: {percent(result.taken)} taken.")
    hints = [e["hint"] for e in result.record["exercises"].values() if e["hint"]]
    return " ".join([*parts, *dict.fromkeys(hints)])


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _matched(
    summary: Class, rows: Sequence[Mapping[str, str]], columns: Sequence[str]
) -> dict[int, str]:
    """Rows of another tool's table, by number, and whose records they are.

    A student is known by a column's value, by the part of an address before the @, or by the
    number that a bulk download puts behind the name (`alice_4711`, Moodle's `Participant 4711`).
    """
    known = {student.casefold(): student for student in summary.students}
    for student in summary.students:
        if number := re.search(r"_(\d+)$", student):
            known.setdefault(number[1], student)
    matched = {}
    for place, row in enumerate(rows):
        for column in columns:
            value = (row.get(column) or "").strip().casefold()
            forms = value, value.removeprefix("participant "), value.partition("@")[0]
            found = next((known[f] for f in forms if f and f in known), None)
            if found is not None:
                matched[place] = found
                break
    return matched


def _left_out(summary: Class, matched: Iterable[str], path: Path) -> list[str]:
    missing = sorted(set(summary.students) - set(matched))
    return [f"Not in {path}: {', '.join(missing)}."] if missing else []


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PolicyError(f"{path} is no UTF-8 text; save it as CSV UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    header = list(reader.fieldnames or [])
    return header, [{name: row[name] for name in header} for row in reader]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cell(score: float | str) -> str:
    return score if isinstance(score, str) else points(score)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
