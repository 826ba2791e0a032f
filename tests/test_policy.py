"""Which submission counts, what lateness costs, and that points by hand stay."""

import os
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from make_records import digest, exercise, record

from autograder.policy import (
    PolicyError,
    Result,
    read_deadlines,
    read_manual,
    settle,
    times_of,
)
from autograder.submissions import collect

DUE = datetime(2026, 12, 1, 18, tzinfo=UTC)


def handed_in(student: str, score: float, name: str = "", **changes) -> dict:
    """A record of 100 points with this score; `name` tells one file of a student from another."""
    made = record(student, {"corr": exercise("corr", [True, True])})
    made |= {"score": score, "max": 100, "file": f"{name or student}.ipynb"}
    made["hashes"] = made["hashes"] | {"submission": digest(name or student)}
    return made | changes


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def after(hours: float, *names: str) -> dict[tuple[str, str], datetime]:
    """Times of files of alice's, or of the students of these names."""
    return {(n, digest(n)): DUE + timedelta(hours=hours) for n in names}


def only(results: list[Result]) -> Result:
    assert len(results) == 1
    return results[0]


# --- which one counts ------------------------------------------------------------------------


def attempts() -> list[dict]:
    first = handed_in("alice", 80, "first", superseded_by="second.ipynb")
    return [first, handed_in("alice", 60, "second")]


def test_last_and_best():
    assert only(settle(attempts(), policy="last")).score == 60
    best = only(settle(attempts(), policy="best"))
    assert (best.score, best.record["file"], best.attempts) == (80, "first.ipynb", 2)


def test_times_decide_which_is_last():
    times = {
        ("alice", digest("first")): DUE,
        ("alice", digest("second")): DUE - timedelta(hours=1),
    }
    assert only(settle(attempts(), times=times)).record["file"] == "first.ipynb"


def test_a_file_that_cannot_be_graded_counts_only_alone():
    torn = handed_in("alice", 0, "torn", status="unreadable", exercises={})
    older = handed_in("alice", 60, "older", superseded_by="torn.ipynb")
    assert only(settle([torn, older])).record["file"] == "older.ipynb"
    assert only(settle([torn])).record["file"] == "torn.ipynb"


def test_best_is_the_best_after_the_penalty(tmp_path):
    lines = read_deadlines(
        written(tmp_path, "chapter,student,due,penalty\n*,*,2026-12-01T18:00Z,50%")
    )
    times = {
        ("alice", digest("first")): DUE + timedelta(hours=1),  # 80, late: 40
        ("alice", digest("second")): DUE,
    }
    best = only(settle(attempts(), policy="best", times=times, deadlines=lines))
    assert (best.score, best.taken) == (60, 0)


# --- deadlines -------------------------------------------------------------------------------

TABLE = """chapter,student,due,penalty,cap
*,*,2026-12-01T18:00Z,10%,25%
autograd,*,2026-12-08T18:00+00:00,,
*,bob,2026-12-03T18:00Z,,
convolution,carol,,0%,
"""


@pytest.mark.parametrize(
    "student, hours, days, score",
    [
        ("alice", 0, 0, 80),
        ("alice", 0.01, 1, 72),
        ("alice", 24, 1, 72),
        ("alice", 24.01, 2, 64),
        ("alice", 24 * 30, 30, 60),  # the cap
        ("bob", 48, 0, 80),  # an extension
        ("bob", 49, 1, 72),
        ("carol", 49, 3, 80),  # nothing is taken
    ],
)
def test_late_days_cost(tmp_path, student, hours, days, score):
    lines = read_deadlines(written(tmp_path, TABLE))
    result = only(settle([handed_in(student, 80)], times=after(hours, student), deadlines=lines))
    assert (result.days_late, result.score, result.earned) == (days, score, 80)


def test_a_students_line_comes_before_a_chapters(tmp_path):
    lines = read_deadlines(written(tmp_path, TABLE))
    late = after(5 * 24, "alice", "bob")
    records = [handed_in(s, 80, chapter="autograd") for s in ("alice", "bob")]
    alice, bob = settle(records, times=late, deadlines=lines)
    assert (alice.days_late, bob.days_late) == (0, 3)


def test_a_date_is_the_end_of_that_day(tmp_path):
    line = read_deadlines(written(tmp_path, "chapter,student,due\n*,*,2026-12-01\n"))[0]
    assert line.due.tzinfo is not None
    assert (line.due.hour, line.due.minute) == (23, 59)


def test_what_an_lms_marks_late_is_told(tmp_path):
    lines = read_deadlines(written(tmp_path, TABLE))
    name = "alice_LATE_123_456_answer"
    said = handed_in("alice", 80, file=f"{name}.ipynb")
    result = only(settle([said], times=after(-1, "alice"), deadlines=lines))
    assert (result.marked_late, result.score) == (True, 80)
    assert not only(settle([said])).marked_late


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("chapter,student\n", "has no column due; its first line should be chapter,student,due"),
        ("chapter,student,due\n*,*,tomorrow\n", "line 2: 'tomorrow' is no date; write 2026-12-01"),
        ("chapter,student,due,penalty\n*,*,,0.1\n", "line 2: '0.1' is no percentage; write 10%"),
        ("chapter,student,due,penalty\n*,*,,110%\n", "'110%' is no percentage"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, sentence):
    with pytest.raises(PolicyError, match=sentence.replace(".", r"\.")):
        read_deadlines(written(tmp_path, text))


def test_a_table_that_is_no_text(tmp_path):
    path = tmp_path / "due.csv"
    path.write_bytes("chapter,student,due\n*,dörte,".encode("latin-1"))
    with pytest.raises(PolicyError, match="no UTF-8 text; save it as CSV UTF-8"):
        read_deadlines(path)


# --- points by hand --------------------------------------------------------------------------


def by_hand(tmp_path: Path, lines: str) -> list:
    text = f"student,chapter,exercise,points,comment\n{lines}\n"
    return read_manual(written(tmp_path, text))


def one() -> dict:
    """corr 15 of 30, padding 25 of 25."""
    return record(
        "alice",
        {
            "corr": exercise("corr", [True, False]),
            "padding": exercise("padding", [True, True]),
        },
    )


@pytest.mark.parametrize(
    "line, score",
    [
        ("alice,convolution,corr,20,", 45),
        ("alice,convolution,corr,+5,", 45),
        ("alice,convolution,corr,-20,", 25),  # never below none
        ("alice,convolution,,50,", 50),
        ("alice,convolution,,+5,", 45),
        ("alice,convolution,,,well argued", 40),
    ],
)
def test_points_by_hand(tmp_path, line, score):
    assert only(settle([one()], manual=by_hand(tmp_path, line))).score == score


def test_points_of_exercises_are_late_too_those_of_a_chapter_are_not(tmp_path):
    lines = read_deadlines(
        written(tmp_path, "chapter,student,due,penalty\n*,*,2026-12-01T18:00Z,50%")
    )
    given = dict(times=after(1, "alice"), deadlines=lines)
    text = "alice,convolution,,+1,\nalice,convolution,corr,25,"
    assert only(settle([one()], manual=by_hand(tmp_path, text), **given)).score == 26


def test_comments_are_kept_in_order_even_with_commas_and_newlines(tmp_path):
    text = 'alice,convolution,corr,,"Nice, but\nslow."\nalice,convolution,,,See me.'
    result = only(settle([one()], manual=by_hand(tmp_path, text)))
    assert result.comments == [("corr", "Nice, but\nslow."), ("", "See me.")]


def test_grading_again_overwrites_nothing_by_hand_and_records_stay(tmp_path):
    lines = by_hand(tmp_path, "alice,convolution,corr,30,")
    before, again = one(), one()
    again["exercises"] = {**again["exercises"], "corr": exercise("corr", [False, False])}
    again["score"] = 25
    assert only(settle([before], manual=lines)).score == 55
    assert only(settle([again], manual=lines)).score == 55
    assert before == one()


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("bob,convolution,,5,", "line 2: there is no record of bob for convolution"),
        ("alice,convolution,cor,5,", "has no exercise cor; it has corr, padding"),
        ("alice,convolution,corr,five,", "line 2: 'five' is no number of points"),
        ("alice,convolution,corr,nan,", "'nan' is no number of points"),
    ],
)
def test_a_line_by_hand_that_fits_nothing(tmp_path, line, sentence):
    with pytest.raises(PolicyError, match=sentence):
        settle([one()], manual=by_hand(tmp_path, line))


# --- when it was handed in -------------------------------------------------------------------


def times(path: Path) -> dict[str, datetime]:
    entries = [(e, e.label) for e in collect([path], ["convolution"])]
    return {label: when for (_, label), when in times_of(entries).items()}


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-12-01 19:00:00.5 Europe/Rome",
        "2026-12-01 18:00:00.5 UTC",
        "2026-12-01T18:00:00.5+00:00",
    ],
)
def test_nbgraders_timestamp(tmp_path, stamp):
    folder = tmp_path / "submitted" / "alice" / "convolution"
    folder.mkdir(parents=True)
    (folder / "convolution.ipynb").write_text("{}")
    (folder / "timestamp.txt").write_text(stamp + "\n")
    expected = {"alice/convolution/convolution.ipynb": DUE + timedelta(seconds=0.5)}
    assert times(tmp_path) == expected
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.relative_to(tmp_path).as_posix())
    assert times(tmp_path / "all.zip") == expected


def test_the_time_in_a_name_and_else_the_files(tmp_path):
    named = tmp_path / "HW1_alice_attempt_2026-12-01-18-30-05_answer.ipynb"
    plain = tmp_path / "bob.ipynb"
    for path in (named, plain):
        path.write_text("{}")
        os.utime(path, (DUE.timestamp(), DUE.timestamp()))
    found = times(tmp_path)
    assert found["bob.ipynb"] == DUE
    local = found[named.name].astimezone().replace(tzinfo=None)
    assert local == datetime(2026, 12, 1, 18, 30, 5)


def test_handing_the_same_in_again_is_not_late(tmp_path):
    for name, hours in (("alice.ipynb", 5), ("alice (1).ipynb", 1)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (DUE.timestamp() + 3600 * hours,) * 2)
    entries = [(e, "same") for e in collect([tmp_path], ["convolution"])]
    assert times_of(entries) == {("alice", "same"): DUE + timedelta(hours=1)}
