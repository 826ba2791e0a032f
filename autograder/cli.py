"""The command `autograder`."""

from __future__ import annotations

import os
import sys

# One thread for each grading process, said before torch is imported: spinning threads of several
# processes slow each other down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import multiprocessing.forkserver
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

# Exit statuses: fine, found something, could not run.
FOUND, FAILED = 1, 2
SHOWN_NOTES = 3


class Policy(StrEnum):
    """See `autograder.policy`."""

    last = "last"
    best = "best"


class Pack(StrEnum):
    """What `autograder.pack` makes."""

    student = "student"
    gradescope = "gradescope"
    nbgrader = "nbgrader"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Release, check and grade the notebooks of the course.

Exit status: 0 if all is well, 1 if something was found, 2 if the command could not run.
""",
)
out, err = Console(), Console(stderr=True)

Chapters = Annotated[list[str] | None, typer.Argument(help="Ids; all of them if none is given.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="The repository, in the version that is installed; by default the one around this "
        "folder."
    ),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each CPU.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NoSandbox = Annotated[
    bool,
    typer.Option("--no-sandbox", help="Run code that you trust with your own rights."),
]


@contextmanager
def _errors() -> Iterator[None]:
    """One sentence and exit status 2 for what the command cannot do."""
    from autograder.chapters import ChapterError
    from autograder.cluster import ClusterError
    from autograder.grade import DeviceError
    from autograder.notebook import ReadProblem
    from autograder.policy import PolicyError
    from autograder.runner import ZygoteError
    from autograder.sandbox import SandboxError
    from autograder.submissions import CollectError

    try:
        yield
    except (
        ChapterError, ClusterError, CollectError, DeviceError, PolicyError,
        ReadProblem, SandboxError, ZygoteError,
    ) as error:  # fmt: skip
        err.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(FAILED) from None
    except OSError as error:
        sentence = f"{error.filename or 'A file'}: {error.strerror or error}."
        err.print(sentence, style="red", markup=False, highlight=False)
        raise typer.Exit(FAILED) from None


def _root(given: Path | None) -> Path:
    from autograder.chapters import find_root

    return find_root(given)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1, default=str))


@app.callback()
def main() -> None:
    if sys.platform == "win32":
        sentence = "The autograder needs Linux; on Windows use WSL. In a notebook, check(…) works."
        err.print(sentence, style="red", markup=False, highlight=False)
        raise typer.Exit(FAILED)


@app.command()
def release(
    chapters: Chapters = None,
    root: Root = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if something would change.")
    ] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Derive pages and student notebooks from `solutions/`, executing only what changed.

    Several chapters run at a time; one that fails keeps no other from being released.

    Examples:

    - `autograder release` all chapters
    - `autograder release convolution` one chapter
    - `autograder release --check` in continuous integration
    """
    from autograder.release import release

    with _errors():
        say = (lambda message: None) if as_json else (lambda m: err.print(m, markup=False))
        results = release(chapters or [], _root(root), jobs=jobs, check=check, progress=say)
    if as_json:
        _print_json([asdict(result) for result in results])
    else:
        for result in results:
            what = ", ".join(str(path) for path in result.changed) or "nothing changed"
            out.print(f"{result.chapter}: {what}", markup=False, highlight=False)
    if check and any(result.changed for result in results):
        raise typer.Exit(FOUND)


@app.command()
def lint(chapters: Chapters = None, root: Root = None, as_json: Json = False) -> None:
    """Check every contract of a chapter that a program can check; print the coverage.

    Examples:

    - `autograder lint` all chapters
    - `autograder lint convolution --json` one chapter, for machines
    """
    from autograder.lint import coverage, lint

    with _errors():
        home = _root(root)
        findings, table = lint(chapters or [], home), coverage(chapters or [], home)
    if as_json:
        _print_json(
            {"findings": [asdict(f) for f in findings], "coverage": [asdict(c) for c in table]}
        )
    else:
        for line in table:
            out.print(str(line), markup=False, highlight=False)
        for finding in findings:
            out.print(f"{finding.chapter}: {finding.sentence}", markup=False, highlight=False)
        out.print(f"{len(findings)} findings" if findings else "All contracts hold.")
    if findings:
        raise typer.Exit(FOUND)


@app.command()
def check(
    notebook: Annotated[Path, typer.Argument(help="Your notebook.")],
    root: Root = None,
    outputs: Annotated[
        bool,
        typer.Option(
            help="Once all checks hold, execute the whole notebook and compare what it prints."
        ),
    ] = True,
    no_sandbox: NoSandbox = False,
    as_json: Json = False,
) -> None:
    """Run the public checks on your notebook, as `check(…)` does inside it.

    Needs no solutions. Once every check holds, the whole notebook is executed and compared with the
    printed reference.

    Examples:

    - `autograder check notebooks/convolution.ipynb`
    - `autograder check my.ipynb --no-outputs` the checks alone
    """
    from autograder.selfcheck import selfcheck

    with _errors():
        result = selfcheck(notebook, _root(root), outputs, not no_sandbox)
    if as_json:
        _print_json(result.as_dict())
    else:
        out.print(str(result), markup=False, highlight=False)
    if not result.passed:
        raise typer.Exit(FOUND)


@app.command()
def grade(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Notebooks, folders or zips.", metavar="PATH…", show_default=False),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Where records and gradebook.csv go.")
    ] = Path("grades"),
    chapter: Annotated[
        str | None, typer.Option(help="Grade as this chapter; else each notebook tells its own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list who handed in what, and when.")
    ] = False,
    jobs: Jobs = None,
    force: Annotated[
        bool, typer.Option("--force", help="Grade again what has a record already.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Also execute whole notebooks and compare what they print."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Limit for a case of a test; six times for an exercise.")
    ] = 20.0,
    device: Annotated[
        str, typer.Option(help="Where tests put their tensors: cpu, cuda, cuda:1.")
    ] = "cpu",
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Grade on the Dask cluster with this scheduler."),
    ] = None,
    no_sandbox: NoSandbox = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Grade submissions: a record for each in `grades/<student>/<chapter>.json`.

    A PATH is a notebook, a flat folder of notebooks named after students, a folder with a folder
    for each student (nbgrader's `submitted/`, a bulk download of Canvas or Moodle, an export of
    Gradescope, clones of repositories), or a zip of any of these. What has not changed since an
    earlier run is not graded again, so a run that was stopped goes on where it was.

    Exit status: 1 if a submission could not be graded.

    Examples:

    - `autograder grade submitted/` all students
    - `autograder grade download.zip --dry-run` see who was found, before anything runs
    - `autograder grade download.zip --chapter convolution --out grades/`
    - `autograder grade alice.ipynb --force --json`
    - `autograder grade submitted/ --dask tcp://head:8786` workers that share these folders
    """
    if dry_run:
        _list_submissions(paths, chapter, root, as_json)
        return
    if not dask:
        _start_forkserver()
    from autograder.cluster import cluster
    from autograder.grade import grade

    with _errors(), _bar(hidden=as_json) as progress, ExitStack() as stack:
        home = _root(root)
        try:
            rows = grade(
                paths,
                folder,
                home,
                executor=stack.enter_context(cluster(dask, home)) if dask else None,
                chapter=chapter,
                jobs=jobs,
                force=force,
                full=full,
                seconds=seconds,
                device=device,
                sandbox=not no_sandbox,
                progress=progress,
            )
        except KeyboardInterrupt:
            err.print("Stopped. Finished records are complete; run it again to go on.")
            raise typer.Exit(FAILED) from None
    if as_json:
        _print_json([asdict(row) for row in rows])
    else:
        _print_table(rows, folder)
    if any(row.status != "graded" for row in rows):
        raise typer.Exit(FOUND)


@app.command()
def report(
    grades: Annotated[Path, typer.Argument(help="The folder of records that `grade` wrote.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the report goes.")] = Path("report"),
    chapter: Annotated[str | None, typer.Option(help="Report on this chapter only.")] = None,
    submissions: Annotated[
        list[Path] | None,
        typer.Option(help="What was graded: for late penalties and to compare code. Repeatable."),
    ] = None,
    policy: Annotated[
        Policy, typer.Option(help="Which file counts where a student handed in several.")
    ] = Policy.last,
    due: Annotated[
        Path | None, typer.Option(help="CSV of due dates: chapter,student,due,penalty,cap.")
    ] = None,
    manual: Annotated[
        Path | None,
        typer.Option(help="CSV by hand: student,chapter,exercise,points,comment."),
    ] = None,
    canvas: Annotated[
        Path | None, typer.Option(help="The gradebook exported by Canvas, to be filled.")
    ] = None,
    moodle: Annotated[
        Path | None, typer.Option(help="The grading worksheet of Moodle, to be filled.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Class dashboard, feedback for each student, gradebook, exports to other tools.

    Writes `index.html` for you, `feedback/<student>.html` for each student, `gradebook.csv`,
    `nbgrader.csv`, `moodle.csv`, with `--canvas` also `canvas.csv`, and
    `gradescope/<student>/<chapter>.json`. Each page is one file without scripts. The records stay
    as they are: due dates, extensions and points by hand live in your own CSV files.

    - `--due`: a line `*,*,2026-12-01,10%,50%` takes 10% of the score for each day begun, at most
      half; `convolution,alice,2026-12-08,,` is an extension.
    - `--manual`: `12` sets the points of an exercise, `+3` or `-2` change them; without an
      exercise they are those of the whole chapter.

    Exit status: 1 if something in the exports needs a look.

    Examples:

    - `autograder report grades/`
    - `autograder report grades/ --submissions submitted/ --due due.csv --policy best`
    - `autograder report grades/ --chapter convolution --moodle worksheet.csv`
    """
    from autograder.report import summarise, write_report

    with _errors():
        summary = summarise(
            grades,
            _root(root),
            chapter=chapter,
            submissions=submissions or [],
            due=due,
            manual=manual,
            policy=policy.value,
        )
        files = write_report(summary, folder, canvas=canvas, moodle=moodle)
    if as_json:
        _print_json(summary.as_dict() | {"files": files})
    else:
        for problem in summary.problems:
            out.print(problem, markup=False, highlight=False)
        text = f"{len(summary.students)} students. Open {folder / 'index.html'}."
        out.print(text, markup=False, highlight=False)
    if summary.problems:
        raise typer.Exit(FOUND)


@app.command()
def demo(
    chapters: Chapters = None,
    folder: Annotated[Path, typer.Option("--out", help="A new folder for all of it.")] = Path(
        "demo"
    ),
    students: Annotated[int, typer.Option(min=1, help="How many are in the class.")] = 60,
    jobs: Jobs = None,
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the dashboard in a browser.")
    ] = True,
    no_sandbox: NoSandbox = False,
    root: Root = None,
) -> None:
    """Try it: invent a class, grade what it handed in, and open the dashboard.

    Writes `submitted/` and `due.csv`, `grades/` and `report/` into the folder. The students make
    the mistakes that the chapters know; a few hand in late, not at all, a damaged file, a copy of
    their neighbour's answers, or code that attacks the grader.

    Examples:

    - `autograder demo` 60 students, the first three chapters
    - `autograder demo convolution attention --students 20 --out try/`
    """
    _start_forkserver()
    from autograder.chapters import chapter_ids
    from autograder.demo import SECONDS, write_class
    from autograder.grade import grade
    from autograder.report import summarise, write_report

    with _errors():
        home = _root(root)
        names = chapters or chapter_ids(home)[:3]
        count = write_class(folder, home, names, students)
        err.print(f"{students} students handed in {count} notebooks.", markup=False)
        submitted = [folder / "submitted"]
        with _bar(hidden=False) as progress:
            grade(submitted, folder / "grades", home, jobs=jobs, seconds=SECONDS,
                  sandbox=not no_sandbox, progress=progress)  # fmt: skip
        err.print("The report compares what they wrote …", markup=False)
        summary = summarise(folder / "grades", home, submissions=submitted, due=folder / "due.csv")
        write_report(summary, folder / "report")
    page = folder / "report" / "index.html"
    out.print(f"Open {page}.", markup=False, highlight=False)
    if show and out.is_terminal:
        typer.launch(page.resolve().as_uri())


@app.command()
def notes(
    chapters: Chapters = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the pages go.")] = Path("notes"),
    root: Root = None,
) -> None:
    """Write notes for teachers: a plan, what students get wrong, questions to ask, what can wait.

    One Markdown page a chapter, made from its sources. They hold hints, so keep them from students.

    Examples:

    - `autograder notes` all chapters
    - `autograder notes convolution --out term/`
    """
    from autograder.chapters import chapter_ids, load
    from autograder.teaching import notes

    with _errors():
        home = _root(root)
        pages = {name: notes(load(name, home)) for name in chapters or chapter_ids(home)}
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (folder / f"{name}.md").write_text(page, encoding="utf-8")
    out.print(f"{len(pages)} pages in {folder}.", markup=False, highlight=False)


@app.command()
def agreement(chapters: Chapters = None, root: Root = None) -> None:
    """Write `book/agreement.md`: how far each exercise agrees with the library, as its tests find.

    Runs hidden tests and public checks on the reference answers and notes every comparison. What an
    exercise is compared with stands in the header of its chapter.

    Examples:

    - `autograder agreement` all chapters: half a minute
    - `autograder agreement convolution` after a change of its tests
    """
    from autograder.agreement import agreement

    with _errors():
        page = agreement(chapters or [], _root(root), lambda m: err.print(m, markup=False))
    out.print(page, markup=False, highlight=False)


@app.command()
def pack(
    kind: Annotated[Pack, typer.Argument(help="What to make.")],
    chapters: Chapters = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="By default student.zip, autograder.zip or nbgrader-course/. For students a name "
            "without .zip makes a folder, to push to a repository.",
        ),
    ] = None,
    no_sandbox: Annotated[
        bool,
        typer.Option("--no-sandbox", help="gradescope: grade even where nothing can be isolated."),
    ] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Make what others hand out or run: a zip for students, for Gradescope, a course for nbgrader.

    Only the pack for students is free of secrets; the other two hold solutions and hidden tests.

    Examples:

    - `autograder pack student` all released notebooks that `_toc.yml` lists
    - `autograder pack student tensors autograd --out class-repository/` a folder of two chapters
    - `autograder pack gradescope convolution` one chapter: one assignment of Gradescope
    - `autograder pack nbgrader tensors autograd --out my-course/`
    """
    from autograder.pack import pack_gradescope, pack_nbgrader, pack_student

    names = chapters or []
    if (kind == Pack.nbgrader and not names) or (kind == Pack.gradescope and len(names) != 1):
        wanted = "one chapter" if kind == Pack.gradescope else "the chapters"
        raise typer.BadParameter(f"Name {wanted}: autograder pack {kind} convolution.")
    with _errors():
        home = _root(root)
        match kind:
            case Pack.student:
                path = pack_student(names, home, target or Path("student.zip"))
            case Pack.gradescope:
                options = ["--no-sandbox"] if no_sandbox else []
                zip_file = target or Path("autograder.zip")
                path = pack_gradescope(names[0], home, zip_file, options)
            case Pack.nbgrader:
                path = pack_nbgrader(names, home, target or Path("nbgrader-course"))
    if as_json:
        _print_json({"path": path})
    else:
        secret = "" if kind == Pack.student else " It holds solutions and hidden tests: keep it."
        out.print(f"{path}.{secret}", markup=False, highlight=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine can isolate and accelerate.

    Exit status: 1 if students' code cannot be isolated here.
    """
    from autograder import sandbox

    works = sandbox.available()
    unprotected = sandbox.missing(works)
    machine = sandbox.machine()
    if as_json:
        layers = {name: name in works for name in sandbox.LAYERS}
        _print_json({"layers": layers, "unprotected": unprotected, "machine": machine})
    else:
        table = Table("layer", "works here?", "what it protects")
        for name, protects in sandbox.LAYERS.items():
            table.add_row(name, "yes" if name in works else "[red]no[/red]", protects)
        table.add_row("limits", "yes", str(sandbox.BOUNDS))
        out.print(table)
        for name, value in machine.items():
            out.print(f"{name}: {value}", markup=False, highlight=False)
        verdict = "Students' code is isolated here."
        if unprotected:
            verdict = f"Not isolated: {', '.join(unprotected)}. `grade` needs --no-sandbox here."
        out.print(verdict, markup=False, highlight=False)
    if unprotected:
        raise typer.Exit(FOUND)


@app.command()
def mutants(
    chapters: Chapters = None,
    exercise: Annotated[
        list[str] | None, typer.Option(help="Only this exercise; can be given several times.")
    ] = None,
    jobs: Jobs = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Keep the numbers in benchmarks/results/mutants/, for the book, and skip chapters "
            "that did not change since they passed.",
        ),
    ] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure the hidden tests: how many small changes of the solutions do they notice?

    Prints the share for each exercise, and each change that no test noticed. A change that no input
    can show belongs into `solutions/<chapter>/equivalent.yml`, with the reason.

    Exit status: 1 if an exercise is below 95 %, or its list of equivalent changes is wrong.

    Examples:

    - `autograder mutants` all chapters
    - `autograder mutants convolution --exercise corr` while its tests are being written
    """
    from autograder.chapters import chapter_ids, load
    from autograder.mutants import counts, known, measure, path_of
    from autograder.results import store as keep

    if store and exercise:
        raise typer.BadParameter("--store keeps the numbers of whole chapters: leave --exercise.")
    results = []
    with _errors():
        home = _root(root)
        for name in chapters or chapter_ids(home):
            chapter = load(name, home)
            if store and known(chapter, home):
                err.print(f"{name}: unchanged since it passed", markup=False, highlight=False)
                continue
            with _bar(as_json, name) as progress:
                found = measure(chapter, exercise, jobs, progress)
            if store:
                keep(path_of(name, home), counts(chapter, found))
            if not as_json:
                for result in found:
                    out.print(str(result), markup=False, highlight=False, soft_wrap=True)
            results += found
    if as_json:
        _print_json([result.as_dict() for result in results])
    if not all(result.passed for result in results):
        raise typer.Exit(FOUND)


@app.command()
def budget(
    chapters: Chapters = None,
    jobs: Jobs = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing; look at what was measured before.")
    ] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure what each chapter costs, store it in `benchmarks/results/budget/`, hold it to limits.

    Runs the solved and the blank notebook of each chapter that changed since the last time. A
    chapter may take 60 seconds of CPU time and 2 GiB of memory; its page may weigh 1 MB.

    Exit status: 1 if something leaves its budget, or with `--check` is not measured as it is now.

    Examples:

    - `autograder budget` all chapters; `make budget` builds the pages first, to weigh them
    - `autograder budget convolution --jobs 1` one chapter
    """
    from autograder.budget import describe, entries, measure

    with _errors():
        home = _root(root)
        say = (lambda message: None) if as_json else (lambda m: err.print(m, markup=False))
        findings = measure(chapters or [], home, jobs=jobs, check=check, progress=say)
        known = entries(home)
    shown = {c: entry for c, entry in known.items() if not chapters or c in chapters}
    if as_json:
        _print_json({"findings": findings, "chapters": shown})
    else:
        for entry in shown.values():
            out.print(describe(entry), markup=False, highlight=False)
        for sentence in findings or ["All within budget."]:
            out.print(sentence, markup=False, highlight=False)
    if findings:
        raise typer.Exit(FOUND)


def _start_forkserver() -> None:
    """Start the process that graders are forked from: it imports torch while this one does."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(["autograder.grade"])
        multiprocessing.forkserver.ensure_running()


@contextmanager
def _bar(hidden: bool, what: str = "grading") -> Iterator[Any]:
    """A progress bar with the time left, on a terminal."""
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True, disable=hidden or None) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _list_submissions(
    paths: list[Path], chapter: str | None, root: Path | None, as_json: bool
) -> None:
    from autograder.chapters import chapter_ids
    from autograder.policy import times_of
    from autograder.submissions import collect

    with _errors():
        entries = collect(paths, chapter_ids(_root(root)), chapter)
    times = times_of((entry, entry.label) for entry in entries)
    found = [(e.student, e.label, times[e.student, e.label].astimezone()) for e in entries]
    if as_json:
        _print_json([{"student": s, "file": f, "time": t.isoformat()} for s, f, t in found])
        return
    table = Table("student", "file", "handed in")
    for student, file, time in found:
        table.add_row(escape(student), escape(file), f"{time:%Y-%m-%d %H:%M}")
    out.print(table)
    students = len({student for student, _, _ in found})
    out.print(f"{len(found)} files of {students} students.", highlight=False)


def _print_table(rows: list[Any], folder: Path) -> None:
    table = Table("student", "chapter", "score", "not attempted", "notes")
    table.columns[2].justify = "right"
    for row in rows:
        score = f"{row.score:g} of {row.max:g}" if row.counts else "–"
        more = len(row.notes) - SHOWN_NOTES
        notes = [*row.notes[:SHOWN_NOTES], *([f"… and {more} more, in the record"] * (more > 0))]
        cells = row.student, row.chapter or "?", score, ", ".join(row.unfinished), "\n".join(notes)
        table.add_row(*map(escape, cells))
    out.print(table)
    kept = sum(not row.fresh for row in rows)
    again = f", {kept} of them unchanged since an earlier run" if kept else ""
    text = f"{len(rows)} submissions{again}. Records and gradebook.csv are in {folder}."
    out.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    app()
