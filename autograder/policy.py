"""Which submission of a student counts, what it costs to be late, and points given by hand.

All of it comes from the instructor's own CSV files and is applied to records when they are
reported: a record says what the tests say, so grading again overwrites nothing of this.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from autograder.notebook import ReadProblem
from autograder.submissions import Entry, Source

EVERY = "*"
DAY = timedelta(days=1)

Record = dict[str, Any]


class PolicyError(Exception):
    """A CSV of the instructor's cannot be applied; the message names the line and the mend."""


@dataclass(frozen=True)
class Deadline:
    """A line of the due dates; None where a more general line decides."""

    chapter: str  # or EVERY
    student: str  # or EVERY
    due: datetime | None
    penalty: float | None  # share of the score, for each day begun
    cap: float | None  # the largest share that is ever taken


@dataclass(frozen=True)
class Manual:
    """A line of points and comments given by hand."""

    student: str
    chapter: str
    exercise: str  # empty: the whole chapter
    points: float | None
    is_change: bool  # written with a sign: added to what the tests give
    comment: str
    place: str  # for messages


@dataclass
class Result:
    """What a student gets for a chapter."""

    record: Record
    submitted: datetime | None = None
    due: datetime | None = None
    days_late: int = 0
    taken: float = 0.0  # share of the score that lateness costs
    score: float = 0.0  # what counts
    earned: float = 0.0  # before anything is taken for lateness
    comments: list[tuple[str, str]] = field(default_factory=list)  # (exercise or "", comment)
    attempts: int = 1  # files handed in for the chapter
    marked_late: bool = False  # by the LMS, while the file's time is not late

    @property
    def student(self) -> str:
        return self.record["student"]

    @property
    def chapter(self) -> str:
        return self.record["chapter"]

    @property
    def max(self) -> float:
        return self.record["max"]

    @property
    def share(self) -> float:
        """Of the points that there are, 0 to 1 (more with a bonus)."""
        return self.score / self.max if self.max else 0.0


def settle(
    records: Iterable[Record],
    *,
    policy: str = "last",
    times: Mapping[tuple[str, str], datetime] | None = None,
    deadlines: Sequence[Deadline] = (),
    manual: Sequence[Manual] = (),
) -> list[Result]:
    """One result for each student and chapter, by both names.

    Args:
        records: all of them, also those that a newer file replaced.
        policy: "last" (the last file that could be graded) or "best" (after the late penalty).
        times: when files were handed in, by student and hash; see `times_of`.
    Raises:
        PolicyError: if a line of `manual` fits no record.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for record in records:
        if record["chapter"] is not None:
            result = _timed(record, times or {}, deadlines)
            groups.setdefault((record["student"], record["chapter"]), []).append(result)
    order: Callable[[Result], Any] = _last if policy == "last" else _best
    results = []
    for _, group in sorted(groups.items()):
        result = max(group, key=order)
        result.attempts = len(group)
        results.append(result)
    _apply(manual, results)
    return results


def _timed(
    record: Record, times: Mapping[tuple[str, str], datetime], deadlines: Sequence[Deadline]
) -> Result:
    submitted = times.get((record["student"], record["hashes"]["submission"]))
    due, penalty, cap = _terms(deadlines, record["chapter"], record["student"])
    result = Result(record, submitted, due, earned=record["score"])
    if submitted and due and submitted > due:
        result.days_late = math.ceil((submitted - due) / DAY)
        result.taken = min(result.days_late * penalty, cap)
    said_late = any(LATE.search(part) for part in PurePosixPath(record["file"]).parts)
    result.marked_late = due is not None and not result.days_late and said_late
    result.score = _rounded(result.earned * (1 - result.taken))
    return result


def _last(result: Result) -> tuple[Any, ...]:
    record = result.record
    when = result.submitted.timestamp() if result.submitted else 0.0
    return record["status"] == "graded", when, record["superseded_by"] is None


def _best(result: Result) -> tuple[Any, ...]:
    return result.score, *_last(result)


def _terms(
    deadlines: Sequence[Deadline], chapter: str, student: str
) -> tuple[datetime | None, float, float]:
    """Each term by the most particular line that gives it: a student's before a chapter's."""
    fitting = [
        d for d in deadlines if d.chapter in (chapter, EVERY) and d.student in (student, EVERY)
    ]
    fitting.sort(key=lambda d: (d.student != EVERY, d.chapter != EVERY))
    due, penalty, cap = None, 0.0, 1.0
    for line in fitting:
        due = due if line.due is None else line.due
        penalty = penalty if line.penalty is None else line.penalty
        cap = cap if line.cap is None else line.cap
    return due, penalty, cap


def _apply(manual: Sequence[Manual], results: Sequence[Result]) -> None:
    """Merge points and comments: exercises first, then lateness, then whole chapters."""
    known = {(r.student, r.chapter): r for r in results}
    for line in sorted(manual, key=lambda m: m.exercise == ""):
        result = known.get((line.student, line.chapter))
        if result is None:
            raise PolicyError(
                f"{line.place}: there is no record of {line.student} for {line.chapter}."
            )
        if line.comment:
            result.comments.append((line.exercise, line.comment))
        if line.exercise:
            _apply_to_exercise(line, result)
        elif line.points is not None:
            base = result.score if line.is_change else 0.0
            result.score = max(_rounded(base + line.points), 0.0)


def _apply_to_exercise(line: Manual, result: Result) -> None:
    exercises = result.record["exercises"]
    if line.exercise not in exercises:
        names = ", ".join(exercises) or "none; leave `exercise` empty to give points for all of it"
        raise PolicyError(
            f"{line.place}: {line.student}'s {line.chapter} has no exercise {line.exercise}; "
            f"it has {names}."
        )
    if line.points is None:
        return
    old = exercises[line.exercise]
    points = max(line.points + (old["score"] if line.is_change else 0.0), 0.0)
    changed = exercises | {line.exercise: old | {"score": points}}
    result.record = result.record | {"exercises": changed}
    result.earned = _rounded(result.earned + points - old["score"])
    result.score = _rounded(result.earned * (1 - result.taken))


def _rounded(points: float) -> float:
    return round(points, 2)


# --- the instructor's files ------------------------------------------------------------------


def read_deadlines(path: Path) -> list[Deadline]:
    """Due dates and extensions: columns chapter, student, due, penalty, cap.

    `*` stands for every chapter or student. `due` is an ISO date (the end of that day) or time, in
    this machine's zone unless it says another; `penalty` and `cap` are percentages of the score,
    `10%` a day and at most `50%`, say. What a line leaves empty a more general line decides, so an
    extension needs only chapter, student and due.

    Raises:
        PolicyError: if the file is not like that.
        OSError: if it cannot be read.
    """
    lines = []
    for place, row in read_table(path, ("chapter", "student", "due"), ("penalty", "cap")):
        lines.append(
            Deadline(
                row["chapter"] or EVERY,
                row["student"] or EVERY,
                _moment(row["due"], place),
                _percentage(row["penalty"], place),
                _percentage(row["cap"], place),
            )
        )
    return lines


def read_manual(path: Path) -> list[Manual]:
    """Points and comments by hand: columns student, chapter, exercise, points, comment.

    `12` sets the points, `+3` and `-2` change them; without an exercise they are those of the whole
    chapter, and nothing is taken from them for lateness. A comment needs no points.

    Raises:
        PolicyError: if the file is not like that.
        OSError: if it cannot be read.
    """
    lines = []
    for place, row in read_table(path, ("student", "chapter"), ("exercise", "points", "comment")):
        text = row["points"]
        try:
            points = float(text) if text else None
        except ValueError:
            points = math.nan
        if points is not None and not math.isfinite(points):
            raise PolicyError(f"{place}: {text!r} is no number of points; write 12, +3 or -2.")
        is_change = text.startswith(("+", "-"))
        lines.append(
            Manual(
                row["student"], row["chapter"], row["exercise"], points, is_change,
                row["comment"], place,
            )
        )  # fmt: skip
    return lines


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[str, dict[str, str]]]:
    """The lines of a CSV with a header, each with its place; cells stripped, missing ones empty.

    Raises:
        PolicyError: if columns are missing.
        OSError: if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets like to write a mark in front
    except UnicodeDecodeError:
        raise PolicyError(f"{path} is no UTF-8 text; save it as CSV UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    missing = [name for name in required if name not in columns]
    if missing:
        wanted = ",".join((*required, *optional))
        raise PolicyError(f"{path} has no column {missing[0]}; its first line should be {wanted}.")
    rows = []
    for raw in reader:
        row = {n: (raw.get(columns.get(n)) or "").strip() for n in (*required, *optional)}
        if any(row.values()):
            rows.append((f"{path}, line {reader.line_num}", row))
    return rows


def _moment(text: str, place: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PolicyError(
            f"{place}: {text!r} is no date; write 2026-12-01, 2026-12-01T18:00 or "
            "2026-12-01T18:00+08:00."
        ) from None
    if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text):
        moment = datetime.combine(moment, time.max)
    return moment.astimezone()


def _percentage(text: str, place: str) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    if not match or float(match[1]) > 100:
        raise PolicyError(f"{place}: {text!r} is no percentage; write 10%, say.")
    return float(match[1]) / 100


# --- when it was handed in -------------------------------------------------------------------

LATE = re.compile(r"_LATE_\d+_\d+_")  # Canvas
ATTEMPT = re.compile(r"_attempt_(\d{4})-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")  # Blackboard


def times_of(entries: Iterable[tuple[Entry, str]]) -> dict[tuple[str, str], datetime]:
    """When each file was handed in, by student and hash; the first time that it was.

    From nbgrader's `timestamp.txt` beside it, else from a name that an LMS gave it, else from the
    time at which the file was last changed.

    Args:
        entries: what was handed in, each with its SHA-256.
    """
    times: dict[tuple[str, str], datetime] = {}
    for entry, digest in entries:
        when = _stamped(entry.source) or _named(entry.label)
        when = when or datetime.fromtimestamp(entry.time, UTC)
        key = entry.student, digest
        times[key] = min(when, times.get(key, when))
    return times


def _stamped(source: Source) -> datetime | None:
    """The time in nbgrader's `timestamp.txt`: `2026-12-01 15:58:23.948203 Europe/Rome`, say."""
    if source.members:
        *outer, member = source.members
        beside = PurePosixPath(member).with_name("timestamp.txt").as_posix()
        stamp = Source(source.path, (*outer, beside))
    else:
        stamp = Source(source.path.with_name("timestamp.txt"))
    try:
        text = stamp.read(1_000).decode("utf-8", "replace").strip()
    except (ReadProblem, KeyError):  # there is none
        return None
    moment, _, zone = text.rpartition(" ")
    try:
        if zone[:1].isalpha():
            return datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, ZoneInfoNotFoundError):
        return None


def _named(label: str) -> datetime | None:
    match = ATTEMPT.search(label)
    try:
        return datetime(*map(int, match.groups())).astimezone() if match else None
    except ValueError:
        return None
