"""How many slips do the hidden tests see? Mutants of the reference solutions tell.

A mutant is a reference with one small change between the solution markers. The tests of its
exercise should fail on it; where they pass, it survives, and a student's slip of that kind would
earn full points. A change that no input of the exercise can show is listed in
`solutions/<chapter>/equivalent.yml` with the reason.
"""

from __future__ import annotations

import ast
import copy
import gc
import hashlib
import importlib
import itertools
import math
import multiprocessing.connection
import os
import resource
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml

import course.testing
from autograder import results
from autograder.chapters import BEGIN, END, Chapter, ChapterError, run_source, without_markers
from autograder.runner import WARM_IMPORTS
from course.testing import Student, Test

REQUIRED = 0.95  # the share of an exercise's mutants that its tests should kill

CPU_SECONDS = 10  # for the tests of a reference
SLOWER = 4  # times the reference's CPU time, and a second: what the tests of a mutant may take
WALL_SECONDS = 120.0  # for one that waits without computing
MEMORY = 8 * 2**30  # bytes of address space; importing torch takes up to 4 GiB


# --- operators -------------------------------------------------------------------------------

# Each yields what may stand in the place of a node. None of them changes the node itself.

BINARY = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.Mod: (ast.FloorDiv, ast.Mult),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_PAIRS = (
    ("mean", "sum"), ("max", "min"), ("argmax", "argmin"), ("floor", "ceil"), ("zeros", "ones"),
    ("zeros_like", "ones_like"), ("new_zeros", "new_ones"), ("any", "all"), ("rand", "randn"),
    ("exp", "log"), ("append", "extend"), ("train", "eval"),
)  # fmt: skip
METHODS = dict(_PAIRS) | {there: here for here, there in _PAIRS}
LIBRARIES = {"torch", "nn", "F", "np", "math"}


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _without(items: Sequence[ast.AST], index: int) -> list[ast.AST]:
    return [*items[:index], *items[index + 1 :]]


def _detached(node: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])


def _shifted(node: ast.expr) -> Iterator[ast.expr]:
    """One more and one less; constants are shifted where they stand."""
    if not isinstance(node, ast.Constant):
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))
        yield ast.BinOp(node, ast.Sub(), ast.Constant(1))


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """`a + b` to `a - b`, and the like; also in `a += b`."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        for other in BINARY.get(type(node.op), ()):
            yield _with(node, op=other())


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """`a < b` to `a <= b` and `a >= b`; one link of a chain left out."""
    if not isinstance(node, ast.Compare):
        return
    for i, op in enumerate(node.ops):
        for other in COMPARISONS.get(type(op), ()):
            yield _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
    if len(node.ops) > 1:
        yield _with(node, ops=node.ops[:-1], comparators=node.comparators[:-1])
        yield ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])


def boolean(node: ast.AST) -> Iterator[ast.AST]:
    """`and` to `or` and back; one operand left out."""
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        for i in range(len(node.values)):
            rest = _without(node.values, i)
            yield _with(node, values=rest) if len(rest) > 1 else rest[0]


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """Numbers one more and one less, so 0 to 1 and 1 to 0; True to False."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)


def condition(node: ast.AST) -> Iterator[ast.AST]:
    """`if a` to `if not a`; a comprehension's `if` left out."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=ifs):
            for i in range(len(ifs)):
                yield _with(node, ifs=_without(ifs, i))


def statement(node: ast.AST) -> Iterator[ast.AST]:
    """A statement left out; a `with` or `try` without what it does around its body."""
    match node:
        case ast.With(body=body) | ast.Try(body=body):
            yield ast.If(ast.Constant(True), body, [])
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.FunctionDef() | ast.ClassDef() | ast.Pass():
            pass
        case ast.stmt():
            yield ast.Pass()


def assignment(node: ast.AST) -> Iterator[ast.AST]:
    """`a += b` to `a = a + b`, which changes nothing in place, and to `a = b`."""
    if isinstance(node, ast.AugAssign):
        values = [node.value]
        if isinstance(node.target, ast.Name):  # a[i] is written in place either way
            load = ast.Name(node.target.id, ast.Load())
            values.append(ast.BinOp(load, node.op, node.value))
        for value in values:
            yield ast.Assign([node.target], value, lineno=node.lineno)


def part(node: ast.AST) -> Iterator[ast.AST]:
    """An expression replaced by a part of it: an operation, a call or an index left out."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield left
            yield right
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Subscript(value=value, ctx=ast.Load()):
            yield value
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name)), args=[first, *_]) if (
            name in LIBRARIES
        ):
            yield first
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))) if name in LIBRARIES:
            pass
        case ast.Call(func=ast.Attribute(value=value)):
            yield value
        case ast.Call(func=ast.Name(), args=[first]):
            yield first
        case ast.List(elts=items, ctx=ast.Load()) | ast.Set(elts=items):
            for i in range(len(items)):
                yield _with(node, elts=_without(items, i))


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """An argument of a call left out, or two that stand side by side swapped."""
    if not isinstance(node, ast.Call):
        return
    for i in range(len(node.args)):
        yield _with(node, args=_without(node.args, i))
    for i in range(len(node.keywords)):
        yield _with(node, keywords=_without(node.keywords, i))
    if getattr(node.func, "id", "") in ("min", "max"):  # for which the order is all the same
        return
    for i, (first, second) in enumerate(itertools.pairwise(node.args)):
        yield _with(node, args=[*node.args[:i], second, first, *node.args[i + 2 :]])


def bounds(node: ast.AST) -> Iterator[ast.AST]:
    """The bounds of a slice or a range left out, or one more and one less."""
    match node:
        case ast.Slice():
            for name in ("lower", "upper", "step"):
                bound = getattr(node, name)
                if bound is not None:
                    yield _with(node, **{name: None})
                    for other in _shifted(bound):
                        yield _with(node, **{name: other})
        case ast.Call(func=ast.Name(id="range" | "slice"), args=args):
            for i, bound in enumerate(args):
                for other in _shifted(bound):
                    yield _with(node, args=[*args[:i], other, *args[i + 1 :]])


def method(node: ast.AST) -> Iterator[ast.AST]:
    """`mean` to `sum`, `max` to `min` and the like; `add_` to `add`."""
    match node:
        case ast.Attribute(attr=name) if name in METHODS:
            yield _with(node, attr=METHODS[name])
        case ast.Call(func=ast.Name(id=name) as function) if name in METHODS:
            yield _with(node, func=_with(function, id=METHODS[name]))
        case ast.Call(func=ast.Attribute(attr=name) as function) if name.endswith("_"):
            if callable(getattr(torch.Tensor, name[:-1], None)):
                yield _with(node, func=_with(function, attr=name[:-1]))


def result(node: ast.AST) -> Iterator[ast.AST]:
    """What is returned detached, or with its first two parts swapped."""
    match node:
        case ast.Return(value=ast.Tuple(elts=[first, second, *rest])):
            yield ast.Return(ast.Tuple([second, first, *rest], ast.Load()))
            yield ast.Return(ast.Tuple([_detached(first), second, *rest], ast.Load()))
        case ast.Return(value=ast.Call(func=ast.Attribute(attr="detach"))):
            pass
        case ast.Return(value=ast.expr() as value):
            yield ast.Return(_detached(value))


OPERATORS: tuple[Callable[[ast.AST], Iterator[ast.AST]], ...] = (
    arithmetic, comparison, boolean, constant, condition, statement, assignment, part, arguments,
    bounds, method, result,
)  # fmt: skip


def intermediate(node: ast.AST, scope: ast.AST | None) -> Iterator[ast.AST]:
    """`return y` with another name that its function gives a value."""
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Name) and scope is not None:
        stored = (n for n in ast.walk(scope) if isinstance(n, ast.Name))
        names = dict.fromkeys(n.id for n in stored if isinstance(n.ctx, ast.Store))
        for name in names:
            if name != node.value.id:
                yield ast.Return(ast.Name(name, ast.Load()))


# --- mutants ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A reference solution with one change."""

    exercise: str
    function: str  # "pool2d.starts"
    line: int  # of the exercise's cell
    original: str  # the statement, or the first line of one that holds others
    mutated: str
    source: str  # the whole cell

    @property
    def key(self) -> tuple[str, str, str]:
        """What describes it in `equivalent.yml`, beside its exercise."""
        return self.function, self.original, self.mutated


def mutants(exercise: str, cell: str) -> list[Mutant]:
    """All mutants of an exercise's cell, no two with the same code.

    Args:
        cell: its source with the markers; what stands outside of them stays as it is.
    """
    tree = ast.parse(cell)
    inside = _solution_lines(cell)
    seen = {ast.unparse(tree)}
    found = []
    for container, place, replacement, owner in _replacements(tree, inside):
        node, before = container[place], _headline(owner.statement)
        container[place] = replacement
        source = ast.unparse(tree)
        after = _headline(replacement if node is owner.statement else owner.statement)
        container[place] = node
        if source not in seen:
            seen.add(source)
            function, line = owner.function, owner.statement.lineno
            found.append(Mutant(exercise, function, line, before, after, source))
    return found


@dataclass(frozen=True)
class _Owner:
    """Where a node stands: its statement, and the definitions around it."""

    statement: ast.AST
    function: str = ""
    scope: ast.AST | None = None


def _solution_lines(cell: str) -> set[int]:
    lines: set[int] = set()
    start = 0
    for number, line in enumerate(cell.splitlines(), 1):
        if line.strip() == BEGIN:
            start = number
        elif line.strip() == END:
            lines.update(range(start, number))
    return lines


def _replacements(tree: ast.AST, inside: set[int]) -> Iterator[tuple[Any, Any, ast.AST, _Owner]]:
    """(container, place, other node, owner): `container[place]` is the node to replace."""

    def visit(node: ast.AST, owner: _Owner) -> Iterator[tuple[Any, Any, ast.AST, _Owner]]:
        for container, place, child in _places(node):
            here = owner
            if isinstance(child, ast.stmt):
                here = _Owner(child, owner.function, owner.scope)
            if getattr(here.statement, "lineno", 0) in inside and not _is_text(child):
                for operator in OPERATORS:
                    for replacement in operator(child):
                        yield container, place, replacement, here
                for replacement in intermediate(child, owner.scope):
                    yield container, place, replacement, here
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                function = f"{owner.function}.{child.name}".removeprefix(".")
                here = _Owner(child, function, child)
            if not isinstance(child, (ast.Raise, ast.JoinedStr)):  # messages are for people
                yield from visit(child, here)

    return visit(tree, _Owner(tree))


def _places(node: ast.AST) -> Iterator[tuple[Any, Any, ast.AST]]:
    """Where children of a node stand: in a list by index, or among its fields by name."""
    for name, value in list(ast.iter_fields(node)):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        if isinstance(value, list):
            yield from ((value, i, v) for i, v in enumerate(value) if isinstance(v, ast.AST))
        elif isinstance(value, ast.AST):
            yield vars(node), name, value


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _headline(statement: ast.AST) -> str:
    """A statement on one line; of one that holds others, what stands above them."""
    empty = {name: [] for name in ("body", "orelse", "handlers", "finalbody", "decorator_list")}
    fields = {n: [] for n in empty if isinstance(getattr(statement, n, None), list)}
    return " ".join(ast.unparse(_with(statement, **fields)).split())


# --- equivalent mutants ----------------------------------------------------------------------


def equivalents(chapter: Chapter) -> dict[str, set[tuple[str, str, str]]]:
    """The mutants listed as equivalent, as keys by exercise.

    Raises:
        ChapterError: if the file is not what `solutions/<chapter>/equivalent.yml` should be.
    """
    path = chapter.folder / "equivalent.yml"
    if not path.exists():
        return {}
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {exercise: _keys(entries) for exercise, entries in listed.items()}
    except (yaml.YAMLError, AttributeError, LookupError, TypeError):
        raise ChapterError(
            f"{path}: each exercise should hold a list of `function`, `original`, `mutated` (a "
            "list) and `reason`."
        ) from None


def _keys(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    keys = set()
    for entry in entries:
        if not entry["reason"]:
            raise LookupError("reason")
        keys.update((entry["function"], entry["original"], one) for one in entry["mutated"])
    return keys


# --- running them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of an exercise's mutants."""

    chapter: str
    exercise: str
    total: int  # equivalent ones apart
    equivalent: int
    survivors: tuple[Mutant, ...]
    tests: tuple[str, ...]  # that ran on each survivor
    mistaken: tuple[str, ...]  # what is wrong with equivalent.yml, as sentences

    @property
    def rate(self) -> float:
        """The share of mutants that the tests killed."""
        return 1 - len(self.survivors) / self.total if self.total else 1.0

    @property
    def passed(self) -> bool:
        return self.rate >= REQUIRED and not self.mistaken

    def __str__(self) -> str:
        killed = self.total - len(self.survivors)
        lines = [
            f"{self.chapter}, {self.exercise}: {self.rate:.1%} ({killed} of {self.total} mutants "
            f"killed, {self.equivalent} equivalent ones apart)"
        ]
        for mutant in self.survivors:
            lines.append(f"  {mutant.function}, line {mutant.line} of the cell")
            lines += [f"  - {mutant.original}", f"  + {mutant.mutated}"]
        if self.survivors:
            lines.append(f"  passed {', '.join(self.tests)}")
        lines += [f"  equivalent.yml lists {sentence}" for sentence in self.mistaken]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"rate": self.rate, "passed": self.passed}


def path_of(chapter: str, root: Path) -> Path:
    return results.folder(root) / "mutants" / f"{chapter}.json"


def counts(chapter: Chapter, found: Iterable[Result]) -> dict[str, Any]:
    """What may be published of a chapter's results: numbers, no code."""
    return {
        "chapter": chapter.id,
        "key": _key(chapter),
        "exercises": {
            one.exercise: {
                "mutants": one.total,
                "killed": one.total - len(one.survivors),
                "equivalent": one.equivalent,
                "passed": one.passed,
            }
            for one in found
        },
    }


def known(chapter: Chapter, root: Path) -> Mapping[str, Any] | None:
    """The stored numbers of a chapter as it is now, if all exercises passed."""
    stored = results.stored(path_of(chapter.id, root))
    if stored is None or stored["key"] != _key(chapter):
        return None
    return stored if all(one["passed"] for one in stored["exercises"].values()) else None


def _key(chapter: Chapter) -> str:
    """A hash of all that the mutants and their fate depend on."""
    digest = hashlib.sha256()
    cells = [c for c in chapter.notebook.cells if {"exercise", "setup"} & set(c.metadata)]
    digest.update("\0".join(cell.source for cell in cells).encode())
    tests = [chapter.folder / name for name in ("tests.py", "equivalent.yml")]
    for path in (*tests, Path(__file__), Path(course.testing.__file__)):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def measure(
    chapter: Chapter,
    exercises: Iterable[str] | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Run the hidden tests of a chapter on every mutant of its reference solutions.

    Args:
        exercises: ids; by default all that have hidden tests.
        jobs: processes; by default one for each CPU.
        progress: called with the number of mutants done and in all.
    Raises:
        ChapterError: if there is no such exercise, a reference fails its own tests, or
            equivalent.yml cannot be read.
    """
    wanted = list(chapter.exercises) if exercises is None else list(exercises)
    for name in wanted:
        if name not in chapter.exercises:
            known = ", ".join(chapter.exercises)
            raise ChapterError(f"{chapter.id} has no exercise {name}; it has {known}.")
    own = {name: [t for t in chapter.tests if t.exercise == name] for name in wanted}
    tests = {name: some for name, some in own.items() if some}
    cells = {c.metadata.get("exercise"): c.source for c in chapter.notebook.cells}
    listed = equivalents(chapter)
    for module in WARM_IMPORTS:  # here once, or in every child that needs it
        importlib.import_module(module)
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    namespace = chapter.namespace()
    references = [Mutant(name, "", 0, "", "", without_markers(cells[name])) for name in tests]
    seconds = run(references, namespace, tests, jobs)
    for reference in set(references) - set(seconds):
        raise ChapterError(f"{chapter.source}: {reference.exercise} fails its own hidden tests.")
    limits = {r.exercise: math.ceil(1 + SLOWER * seconds[r]) for r in references}
    every = [mutant for name in tests for mutant in mutants(name, cells[name])]
    alive = set(run(every, namespace, tests, jobs, progress, limits))
    return [
        _result(
            chapter, [m for m in every if m.exercise == name], alive, listed.get(name, set()), some
        )
        for name, some in tests.items()
    ]


def _result(
    chapter: Chapter,
    made: Sequence[Mutant],
    alive: set[Mutant],
    listed: set[tuple[str, str, str]],
    tests: Sequence[Test],
) -> Result:
    # Where the same statement stands twice, the tests may see the change at one place only.
    excused = [m for m in made if m in alive and m.key in listed]
    keys = {m.key for m in made}
    stale, killed = sorted(listed - keys), sorted(listed & keys - {m.key for m in excused})
    mistaken = [f"{_described(key)}, but there is no such mutant." for key in stale]
    mistaken += [f"{_described(key)}, but a test fails on it." for key in killed]
    survivors = tuple(m for m in made if m in alive and m.key not in listed)
    total = len(made) - len(excused)
    names = tuple(t.name for t in tests)
    exercise = tests[0].exercise
    return Result(chapter.id, exercise, total, len(excused), survivors, names, tuple(mistaken))


def _described(key: tuple[str, str, str]) -> str:
    return "`{}`: `{}` → `{}`".format(*key)


def run(
    made: Sequence[Mutant],
    namespace: Mapping[str, Any],
    tests: Mapping[str, Sequence[Test]],
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    limits: Mapping[str, int] = MappingProxyType({}),
) -> dict[Mutant, float]:
    """Run the tests of its exercise on each mutant, in a process of its own.

    The tests that have killed most so far go first. One that fails, raises, never ends or takes
    too much memory is killed.

    Args:
        namespace: what the set-up cells and the references define.
        tests: by exercise.
        limits: seconds of CPU time, by exercise.
    Returns:
        the mutants that pass all tests, with the CPU seconds that each took.
    """
    gc.freeze()  # a collection in a child would copy every page that it looks at
    kills: Counter[str] = Counter()
    waiting, running = deque(made), {}
    alive: dict[Mutant, float] = {}
    while waiting or running:
        while waiting and len(running) < (jobs or os.cpu_count() or 1):
            mutant = waiting.popleft()
            order = sorted(tests[mutant.exercise], key=lambda test: -kills[test.name])
            limit = limits.get(mutant.exercise, CPU_SECONDS)
            reader, pid = _fork(mutant, namespace, order, limit)
            running[reader] = mutant, pid, time.monotonic() + WALL_SECONDS
        for reader in multiprocessing.connection.wait(list(running), timeout=1.0):
            mutant, pid, _ = running.pop(reader)
            with open(reader, encoding="utf-8") as pipe:
                verdict = pipe.read()
            _, _, usage = os.wait4(pid, 0)
            if verdict == "passed":
                alive[mutant] = usage.ru_utime + usage.ru_stime
            kills[verdict] += 1
            progress(len(made) - len(waiting) - len(running), len(made))
        for _, pid, deadline in running.values():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
    gc.unfreeze()
    return alive


def _fork(
    mutant: Mutant, namespace: Mapping[str, Any], tests: Sequence[Test], cpu_seconds: int
) -> tuple[int, int]:
    """Start a mutant; returns the end of a pipe from which its verdict can be read, and its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    with suppress(BaseException):  # whatever goes wrong in here: no verdict
        _silence()
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.write(writer, _verdict(mutant, dict(namespace), tests).encode())
    os._exit(0)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _verdict(mutant: Mutant, namespace: dict[str, Any], tests: Sequence[Test]) -> str:
    """ "passed", or the name of the first test that does not pass."""
    run_source(mutant.source, namespace, f"<mutant of {mutant.exercise}>")
    student = Student(namespace)
    for test in tests:
        if not test.run(student).passed:
            return test.name
    return "passed"
