"""The command `autograder`."""

from __future__ import annotations

import os

# One thread for each grading process, said before torch is imported: spinning threads of several
# processes slow each other down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
    Path | None, typer.Option(help="The repository; by default the one around this folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextmanager
def _errors() -> Iterator[None]:
    """One sentence and exit status 2 for what the command cannot do."""
    from autograder.chapters import ChapterError
    from autograder.notebook import ReadProblem
    from autograder.runner import ZygoteError
    from autograder.submissions import CollectError

    try:
        yield
    except (ChapterError, CollectError, ReadProblem, ZygoteError) as error:
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


@app.command()
def release(
    chapters: Chapters = None,
    root: Root = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if something would change.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Derive pages and student notebooks from `solutions/`, executing only what changed.

    Examples:

    - `autograder release` all chapters
    - `autograder release convolution` one chapter
    - `autograder release --check` in continuous integration
    """
    from autograder.release import release

    with _errors():
        say = (lambda message: None) if as_json else (lambda m: err.print(m, markup=False))
        results = release(chapters or [], _root(root), check=check, progress=say)
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
        result = selfcheck(notebook, _root(root), outputs)
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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one for each CPU.")
    ] = None,
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
    device: Annotated[str, typer.Option(help="Where tests put their tensors.")] = "cpu",
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Grade submissions: a record for each in `grades/<student>/<chapter>.json`.

    A PATH is a notebook, a flat folder of notebooks named after students, a folder with a folder
    for each student (nbgrader's `submitted/`, a bulk download of Canvas or Moodle), or a zip of any
    of these. What has not changed since an earlier run is not graded again, so a run that was
    stopped goes on where it was.

    Exit status: 1 if a submission could not be graded.

    Examples:

    - `autograder grade submitted/` all students
    - `autograder grade download.zip --chapter convolution --out grades/`
    - `autograder grade alice.ipynb --force --json`
    """
    from autograder.grade import grade

    with _errors(), _bar(hidden=as_json) as progress:
        try:
            rows = grade(
                paths,
                folder,
                _root(root),
                chapter=chapter,
                jobs=jobs,
                force=force,
                full=full,
                seconds=seconds,
                device=device,
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


@contextmanager
def _bar(hidden: bool) -> Iterator[Any]:
    """A progress bar with the time left, on a terminal."""
    columns = TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True, disable=hidden or None) as progress:
        task = progress.add_task("grading", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


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
