"""Class dashboard, feedback and exports, from records whose numbers are known."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import make_records as made
import make_submissions
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright
from typer.testing import CliRunner

from autograder.chapters import find_root, load
from autograder.cli import app
from autograder.policy import PolicyError
from autograder.report import Class, canvas_csv, feedback, gradescope, summarise, write_report

ROOT = find_root(Path(__file__).parent)


@pytest.fixture(scope="module")
def grades(tmp_path_factory) -> Path:
    """The records of a class of 36."""
    return made.write(tmp_path_factory.mktemp("class") / "grades", made.klass())


@pytest.fixture(scope="module")
def pages(grades) -> Path:
    """Its report."""
    out = grades.parent / "report"
    write_report(summarise(grades, ROOT), out)
    return out


def summary(folder: Path, *records: dict, **options) -> Class:
    return summarise(made.write(folder / "grades", list(records)), ROOT, **options)


def simple(student: str, *passed: bool, hint: str = "") -> dict:
    """corr (30 points in two tests), padding (25 in two), edge (20 in one)."""
    corr, padding, edge = passed[:2], passed[2:4], passed[4:]
    exercises = {
        "corr": made.exercise("corr", [*corr], hint),
        "padding": made.exercise("padding", [*padding]),
        "edge": made.exercise("edge", [*edge]),
    }
    return made.record(student, exercises)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_made_up_class_follows_the_records_schema():
    schema = json.loads((ROOT / "autograder" / "record.schema.json").read_text(encoding="utf-8"))
    for record in made.klass():
        jsonschema.validate(record, schema)


# --- statistics ------------------------------------------------------------------------------


def test_difficulty_and_discrimination(tmp_path):
    everything, nothing = [True] * 5, [False] * 5
    half = [True, False, False, False, False]
    odd = [False, False, True, True, False]
    made_up = {"a": everything, "b": everything, "c": nothing, "d": half, "e": odd}
    chapter = summary(tmp_path, *(simple(s, *p) for s, p in made_up.items())).chapters[0]
    corr, padding, _ = chapter.exercises
    assert corr.difficulty == pytest.approx((1 + 1 + 0 + 0.5 + 0) / 5)
    assert (corr.full, corr.partial, corr.none, corr.untried) == (2, 1, 2, 0)
    # Pearson's r of (30, 30, 0, 15, 0) with the rest (45, 45, 0, 0, 25), by its definition.
    assert corr.discrimination == pytest.approx(975 / (900 * 2030) ** 0.5)
    assert padding.stuck == ("c", "d")
    assert chapter.bins == (1, 0, 1, 1, 0, 0, 0, 0, 0, 2)  # 0, 15, 25 and twice 75 of 75
    assert (chapter.median, chapter.mean) == (25 / 75, pytest.approx(190 / 75 / 5))


def test_no_correlation_of_a_few_or_of_what_all_do_alike(tmp_path):
    few = [simple(s, *[True] * 5) for s in "abcd"]
    assert summary(tmp_path / "few", *few).chapters[0].exercises[0].discrimination is None
    same = [simple(s, *[True] * 5) for s in "abcdef"]
    assert summary(tmp_path / "same", *same).chapters[0].exercises[0].discrimination is None


def test_hints_are_counted_and_failures_without_one_told_apart(tmp_path):
    wrong = [False, False, True, True, False]
    records = [simple(s, *wrong, hint=made.HINTS["corr"]) for s in "abc"]
    records.append(simple("d", False, True, True, True, True, hint="Another."))
    chapter = summary(tmp_path, *records).chapters[0]
    told = [(t.exercise, t.text, t.students) for t in chapter.hints]
    assert told == [("corr", made.HINTS["corr"], ("a", "b", "c")), ("corr", "Another.", ("d",))]
    assert [(t.exercise, t.students) for t in chapter.unexplained] == [("edge", ("a", "b", "c"))]


def test_no_records_no_report(tmp_path, grades):
    with pytest.raises(PolicyError, match="holds no records; run `autograder grade"):
        summarise(tmp_path, ROOT)
    with pytest.raises(PolicyError, match="holds no records of tensors"):
        summarise(grades, ROOT, chapter="tensors")
    with pytest.raises(PolicyError, match="give what was graded with --submissions"):
        summarise(grades, ROOT, due=tmp_path / "due.csv")


# --- similar code ----------------------------------------------------------------------------

OWN = {
    "ann": """
    result = torch.zeros_like(x)
    flat, target = x.reshape(-1), result.reshape(-1)
    for place in range(flat.numel()):
        target[place] = flat[place] + flat[place]
    assert result.shape == x.shape, "shape"
    return result""",
    "ben": """
    pieces = [row * 2 for row in torch.unbind(x.unsqueeze(0), dim=0)]
    stacked = torch.stack(pieces, dim=0).sum(dim=0)
    if stacked.dtype != x.dtype:
        stacked = stacked.to(x.dtype)
    return stacked""",
    "cem": """
    weights = torch.full((), 2.0, dtype=x.dtype, device=x.device)
    answer = torch.einsum("...,->...", x, weights)
    return answer.clone() if answer is x else answer""",
}


def renamed(source: str) -> str:
    """The same with other names, layout and comments."""
    names = {"result": "out", "flat": "line", "target": "sink", "place": "k"}
    for old, new in names.items():
        source = re.sub(rf"\b{old}\b", new, source)
    return source.replace("\n    for", "\n\n    # my own idea\n    for")


@pytest.fixture
def hand_ins(mini, tmp_path) -> Path:
    """Four answers to one exercise, two of which are alike, among blank and usual ones."""
    chapter, folder = load("mini", mini), tmp_path / "handed-in"
    folder.mkdir()
    bodies = OWN | {"dan": renamed(OWN["ann"])}
    heads = {s: f'def double(x):\n    """Twice x, shape kept."""{b}\n' for s, b in bodies.items()}
    usual = chapter.exercises["double"].reference
    heads |= {f"usual-{n}": usual for n in range(5)} | {"blank": chapter.exercises["double"].stub}
    for student, source in heads.items():
        notebook = make_submissions.answered(chapter, {"double": source})
        (folder / f"{student}.ipynb").write_bytes(make_submissions.encoded(notebook))
    return folder


def graded(folder: Path, hand_ins: Path) -> Path:
    """Records of them, as `grade` would name and hash them."""
    records = []
    for path in hand_ins.glob("*.ipynb"):
        record = made.record(path.stem, {"corr": made.exercise("corr", [True, True])}, "mini")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        record["hashes"] = {**record["hashes"], "submission": digest}
        records.append(record)
    return made.write(folder / "grades", records)


def test_similar_code_stands_out_whatever_its_names(mini, hand_ins, tmp_path):
    grades = graded(tmp_path, hand_ins)
    found = summarise(grades, mini, submissions=[hand_ins])
    pairs = found.chapters[0].pairs
    assert [(p.first, p.second, p.exercises) for p in pairs] == [("ann", "dan", ("double",))]
    assert pairs[0].share > 0.9
    page = (write_report(found, tmp_path / "out")[0].parent / "index.html").read_text()
    assert "reason to look and no more" in page and "plagia" not in page.lower()
    assert summarise(grades, mini).chapters[0].pairs is None


def test_late_hand_ins_cost_in_every_export(mini, hand_ins, tmp_path):
    for path in hand_ins.iterdir():
        os.utime(path, (1_800_000_000,) * 2)  # 2027-01-15T08:00Z
    os.utime(hand_ins / "ann.ipynb", (1_800_000_000 + 3600,) * 2)
    due = tmp_path / "due.csv"
    due.write_text("chapter,student,due,penalty\n*,*,2027-01-15T08:00Z,10%\n")
    grades = graded(tmp_path, hand_ins)
    options = dict(submissions=[hand_ins], due=due)
    write_report(summarise(grades, mini, **options), tmp_path / "out")
    lines = {r["student_id"]: r for r in rows((tmp_path / "out/nbgrader.csv").read_text())}
    wanted = ("raw_score", "late_submission_penalty", "score", "max_score")
    assert [lines["ann"][k] for k in wanted] == ["30", "3", "27", "30"]
    assert [lines["ben"][k] for k in wanted] == ["30", "0", "30", "30"]
    assert "handed in 1 day late, so 10 % is taken off" in (
        tmp_path / "out/feedback/ann.html"
    ).read_text(encoding="utf-8")
    (hand_ins / "cem.ipynb").write_text("{}")  # another file than the one that was graded
    assert "is not among the submissions given" in summarise(grades, mini, **options).problems[0]


# --- exports ---------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path) -> Class:
    """Two students named as a bulk download names them, one with half the points."""
    return summary(
        tmp_path,
        simple("doealice_4711", *[True] * 5),
        simple("Bob-Roe_4712", True, False, True, True, False, hint="Flip it."),
    )


def test_gradebook(grades, pages):
    lines = rows((pages / "gradebook.csv").read_text(encoding="utf-8"))
    assert len(lines) == 36 and [*lines[0]] == ["student", "convolution", "total", "max"]
    scores = {r["student"]: r["convolution"] for r in lines}
    assert scores["pdf"] == "" and scores["torn"] == "0"
    for record in made.klass()[:34]:
        assert float(scores[record["student"]]) == record["score"]


CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Convolution (991),Essay (992),Final Score
    Points Possible,,,,,150,10,(read only)
"Doe, Alice",4711,s1,alice,A,,9,90
"Roe, Bob",4712,s2,bob,A,,8,80
"Poe, Carl",4713,s3,carl,A,,7,70
"""


def test_canvas_keeps_its_columns_and_points(two, tmp_path):
    exported = tmp_path / "canvas.csv"
    exported.write_text("\ufeff" + CANVAS, encoding="utf-8")
    assert canvas_csv(two, exported).splitlines() == [
        "Student,ID,SIS User ID,SIS Login ID,Section,Convolution (991)",
        "    Points Possible,,,,,150",
        '"Doe, Alice",4711,s1,alice,A,150',
        '"Roe, Bob",4712,s2,bob,A,80',
        '"Poe, Carl",4713,s3,carl,A,',
    ]
    assert two.problems == []


def test_canvas_gets_a_column_for_a_new_chapter_and_names_who_is_missing(two, tmp_path):
    exported = tmp_path / "canvas.csv"
    exported.write_text(CANVAS.replace("Convolution (991)", "Other").replace("4712", "1"))
    line = rows(canvas_csv(two, exported))[1]
    assert line[two.chapters[0].title] == "75" and "Other" not in line
    assert two.problems == [f"Not in {exported}: Bob-Roe_4712."]
    exported.write_text("name,points\nx,1\n")
    with pytest.raises(PolicyError, match="Use Grades > Export in Canvas"):
        canvas_csv(two, exported)
    exported.write_text(CANVAS.replace("471", "99"))
    with pytest.raises(PolicyError, match="none of its students has a record"):
        canvas_csv(two, exported)


MOODLE = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Feedback comments
Participant 4711,Alice Doe,a@x.org,Submitted,,10.00,
Participant 4712,Bob Roe,b@x.org,Submitted,,10.00,
Participant 4713,Carl Poe,c@x.org,No submission,,10.00,
"""


def test_moodles_worksheet_is_filled(two, tmp_path):
    worksheet = tmp_path / "worksheet.csv"
    worksheet.write_text(MOODLE)
    write_report(two, tmp_path / "out", moodle=worksheet)
    lines = rows((tmp_path / "out" / "moodle.csv").read_text(encoding="utf-8"))
    assert [*lines[0]] == MOODLE.splitlines()[0].split(",")
    assert [r["Grade"] for r in lines] == ["10", "5.33", ""]
    assert [r["Feedback comments"] for r in lines] == ["", "Flip it.", ""]


def test_moodle_without_and_with_a_wrong_worksheet(two, tmp_path):
    write_report(two, tmp_path / "out")
    line = rows((tmp_path / "out" / "moodle.csv").read_text(encoding="utf-8"))[0]
    expected = {"convolution": "40", "convolution (feedback)": "Flip it."}
    assert line == {"Username": "Bob-Roe_4712"} | expected
    worksheet = tmp_path / "worksheet.csv"
    worksheet.write_text("Name,Points\n")
    with pytest.raises(PolicyError, match="Use Download grading worksheet"):
        write_report(two, tmp_path / "other", moodle=worksheet)
    worksheet.write_text(MOODLE)
    both = simple("doealice_4711", *[True] * 5) | {"chapter": "tensors"}
    several = summary(tmp_path / "several", simple("doealice_4711", *[True] * 5), both)
    with pytest.raises(PolicyError, match="say which of tensors, convolution by --chapter"):
        write_report(several, tmp_path / "other", moodle=worksheet)
    assert not (tmp_path / "other").exists()  # nothing half-written


def test_gradescopes_results(two):
    result = gradescope(two.by_student["Bob-Roe_4712"][0])
    assert result["score"] == 40 and sum(t["score"] for t in result["tests"]) == 40
    assert sum(t["max_score"] for t in result["tests"]) == 75
    failed = next(t for t in result["tests"] if t["status"] == "failed")
    assert failed["name"] == "Cross-correlation: x should stay."
    assert "Expected: [[19, 25], [37, 43]]" in failed["output"]
    assert "Hint: Flip it." in failed["output"]
    known = {"number", "name", "score", "max_score", "status", "output", "visibility"}
    assert {frozenset(t) for t in result["tests"]} == {frozenset(known)}


def test_points_by_hand_reach_every_export(tmp_path):
    manual = tmp_path / "manual.csv"
    manual.write_text(
        "student,chapter,exercise,points,comment\nbob,convolution,edge,12,Nearly <there>.\n"
    )
    bob = simple("bob", True, True, True, True, False)
    found = summary(tmp_path, bob, manual=manual)
    write_report(found, tmp_path / "out")
    assert rows((tmp_path / "out/gradebook.csv").read_text())[0]["total"] == "67"
    results = json.loads((tmp_path / "out/gradescope/bob/convolution.json").read_text())
    edge = next(t for t in results["tests"] if t["name"] == "Find an edge")
    assert (results["score"], edge["score"], edge["max_score"]) == (67, 12, 20)
    page = (tmp_path / "out/feedback/bob.html").read_text(encoding="utf-8")
    assert "Nearly &lt;there&gt;." in page and "12 of 20" in page


# --- pages -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, runs, and links to."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.scripts = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.scripts += tag == "script" or any(name.startswith("on") for name in values)
        address = values.get("src") or (values.get("href") if tag in ("link", "a") else None)
        if address and not address.startswith(("data:", "#")):
            self.loads.append((tag, address))


def test_each_page_is_one_file_without_scripts(pages):
    for path in [pages / "index.html", *(pages / "feedback").iterdir()]:
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert page.scripts == 0 and "@import" not in text and "url(" not in text
        assert [tag for tag, _ in page.loads if tag != "a"] == []
        for _, address in page.loads:
            assert path.name == "index.html" and address.startswith("feedback/")


def test_feedback_tells_what_why_and_what_to_do(tmp_path):
    record = simple("bob", True, False, True, True, False, hint="The kernel is flipped.")
    record["exercises"]["corr"]["tests"][1]["symptom"] = "It looks like a convolution."
    record["exercises"]["edge"] |= {
        "status": "forbidden", "tests": [],
        "reason": "Line 3 of code cell 9 uses `F.conv2d`, which is not allowed.",
    }  # fmt: skip
    record["notes"] = ["The metadata of exercise corr was lost."]
    page = feedback(summary(tmp_path, record), "bob")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for said in (
        "40 of 75", "15 of 30", "25 of 25", "x should stay.", "The output should be 19 at [0, 0]",
        "Called as", "Expected", "[[19, 25], [37, 43]]", "Your answer", "[[5, 11], [23, 29]]",
        "Likely cause It looks like a convolution.", "Hint The kernel is flipped.", "Forbidden",
        "uses F.conv2d", "The metadata of exercise corr was lost.",
    ):  # fmt: skip
        assert said in text, said


def test_feedback_names_no_hidden_test_and_nobody_else(pages):
    students = {r["student"] for r in made.klass()}
    for path in (pages / "feedback").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "test_hidden" not in text
        assert not [
            s for s in students - {path.stem} if re.search(rf"\b{s}\b", text) and s != "pdf"
        ]


def test_what_a_student_wrote_stays_text(tmp_path):
    record = simple("bob", False, True, True, True, True, hint="<b>bold</b>")
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
    record["exercises"]["corr"]["tests"][0]["counterexample"]["got"] = evil
    record["exercises"]["corr"]["tests"][0]["reason"] = evil
    record["exercises"]["edge"] |= {"status": "crashed", "reason": evil, "tests": [], "score": 0}
    record |= {"notes": [evil], "file": evil}
    write_report(summary(tmp_path, record), tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.html"):
        assert Page(path.read_text(encoding="utf-8")).scripts == 0


def test_code_in_a_sentence_is_set_as_code(tmp_path):
    record = simple("bob", False, True, True, True, True, hint="`a < b` is a tensor.")
    write_report(summary(tmp_path, record), tmp_path / "out")
    for name in ("index.html", "feedback/bob.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "<code>a &lt; b</code> is a tensor." in text


def test_the_dashboard_says_all_it_should(pages):
    text = (pages / "index.html").read_text(encoding="utf-8")
    for heading in (
        "Worth a look", "Scores", "Exercises", "Common misconceptions", "Who is stuck where",
        "Similar code", "Time spent grading",
    ):  # fmt: skip
        assert f">{heading}</h" in text
    assert text.count("<svg") >= 3 + len(made.EXERCISES) - 1
    assert all(f'href="feedback/{s}.html"' in text for s in ("alice", "torn", "pdf"))


def test_every_link_of_the_dashboard_leads_to_a_page(pages):
    links = {a for _, a in Page((pages / "index.html").read_text(encoding="utf-8")).loads}
    assert len(links) == 36
    assert [link for link in links if not (pages / unquote(link)).is_file()] == []


def test_command(grades, tmp_path):
    out = tmp_path / "report"
    command = ["report", str(grades), "--out", str(out), "--root", str(ROOT)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["students"] == 36 and said["chapters"][0]["submissions"] == 35
    assert str(out / "index.html") in said["files"] and all(map(os.path.exists, said["files"]))
    manual = tmp_path / "manual.csv"
    manual.write_text("student,chapter,points\nnobody,convolution,5\n")
    done = CliRunner().invoke(app, [*command, "--manual", str(manual)])
    assert done.exit_code == 2 and "no record of nobody" in " ".join(done.output.split())


CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no `chromium` on the PATH: nobody has looked at the pages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index.html", "feedback/émile.html"])
def test_in_a_browser(browser, pages, name, width, theme):
    size = {"width": width, "height": 900}
    with browser.new_context(viewport=size, color_scheme=theme) as context:
        page, requests, complaints = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: complaints.append(line.text))
        page.goto((pages / name).as_uri())
        assert [r for r in requests if not r.startswith(("file:", "data:"))] == []
        assert complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        options = {"preload": False, "resultTypes": ["violations"]}
        found = Axe().run(page, options=options)
        assert found.violations_count == 0, found.generate_report()
        backgrounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", backgrounds)[:3])) / 3
        assert (brightness > 128) == (theme == "light")
