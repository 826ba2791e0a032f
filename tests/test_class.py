"""A class of strangers hands in the three exemplary chapters; every score is known beforehand."""

from functools import cache
from pathlib import Path

import pytest
from make_submissions import Made, variants, write_flat, write_nbgrader, write_zip

from autograder.chapters import Chapter, chapter_ids, find_root, load
from autograder.grade import grade, read_records

ROOT = find_root(Path(__file__).parent)
CHAPTERS = ("tensors", "autograd", "convolution")
if not set(CHAPTERS) <= set(chapter_ids(ROOT)):
    pytest.skip("a copy without solutions cannot grade", allow_module_level=True)


@cache
def chapter(name: str) -> Chapter:
    return load(name, ROOT)


@cache
def handed_in(name: str) -> list[Made]:
    """All that goes wrong in the convolution notebook; of the others, what differs by chapter.

    Of the misconceptions every third: `test_diagnosis` grades them all.
    """
    other = chapter("autograd" if name != "autograd" else "tensors")
    made = variants(chapter(name), other)
    if name == "convolution":
        wrong = [m for m in made if m.hint]
        return [m for m in made if not m.hint] + wrong[::3]
    wanted = ("right", "blank", "half-done", "unlabelled", "forbidden", "wrong-chapter")
    return [m for m in made if m.student in wanted or m.student.startswith(("wrong-", "other-"))][
        ::3
    ]


LAYOUTS = {
    "tensors": lambda folder, made: write_nbgrader(folder, made, "tensors"),
    "autograd": lambda folder, made: write_zip(folder.with_suffix(".zip"), made),
    "convolution": write_flat,
}


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_submission_gets_the_score_it_deserves(name, tmp_path):
    made = handed_in(name)
    path = LAYOUTS[name](tmp_path / "submissions", made)
    grade([path], tmp_path / "grades", ROOT, chapter=name, jobs=1, seconds=4)
    records = {r["student"]: r for r in read_records(tmp_path / "grades")}
    assert len(records) == len(made)
    plain = {m.student: m for m in made}
    if name == "autograd":  # Canvas adds the student's number to the name
        plain = {f"{m.student.replace('_', '')}_{1000 + n}": m for n, m in enumerate(made)}
    wrong = {
        student: (records[student]["score"], m.score, records[student]["status"], m.status)
        for student, m in plain.items()
        if (records[student]["score"], records[student]["status"]) != (m.score, m.status)
    }
    assert wrong == {}
    # Whoever handed in a known misconception reads its hint.
    told = [
        m.hint in [e.get("hint") for e in records[student]["exercises"].values()]
        for student, m in plain.items()
        if m.hint
    ]
    assert sum(told) >= 0.95 * len(told)


def test_there_are_enough_of_them():
    assert sum(len(handed_in(name)) for name in CHAPTERS) >= 40
