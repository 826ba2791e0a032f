"""Mutants: what the operators make of small sources, and what the runner says of them.

The whole run over the chapters is `make mutants`.
"""

import ast
import json
import os

import pytest
from typer.testing import CliRunner

from autograder import mutants
from autograder.chapters import ChapterError, load
from autograder.cli import app
from course.testing import Test, assert_equal


def made_by(operator, source: str) -> list[str]:
    """What an operator makes of the nodes of a source, as code."""
    nodes = ast.walk(ast.parse(source))
    return [ast.unparse(ast.fix_missing_locations(new)) for node in nodes for new in operator(node)]


@pytest.mark.parametrize(
    ("operator", "source", "expected"),
    [
        (mutants.arithmetic, "a + b", ["a - b"]),
        (mutants.arithmetic, "a // b", ["a / b", "a * b"]),
        (mutants.arithmetic, "a *= b", ["a /= b"]),
        (mutants.comparison, "a < b", ["a <= b", "a >= b"]),
        (mutants.comparison, "a is None", ["a is not None"]),
        (
            mutants.comparison,
            "0 <= k == n",
            ["0 < k == n", "0 > k == n", "0 <= k != n", "0 <= k", "k == n"],
        ),
        (mutants.boolean, "a and b", ["a or b", "b", "a"]),
        (mutants.constant, "0", ["1", "-1"]),
        (mutants.constant, "0.5", ["1.5", "-0.5"]),
        (mutants.constant, "True", ["False"]),
        (mutants.constant, "'text'", []),
        (mutants.condition, "a if b else c", ["a if not b else c"]),
        (mutants.condition, "while a:\n    f()", ["while not a:\n    f()"]),
        (mutants.condition, "[a for a in b if c]", [" for a in b"]),
        (mutants.statement, "a = 1", ["pass"]),
        (mutants.statement, "with a:\n    pass", ["if True:\n    pass"]),
        (mutants.statement, "def f():\n    pass", []),
        (mutants.assignment, "a += b", ["a = b", "a = a + b"]),
        (mutants.assignment, "a[0] += b", ["a[0] = b"]),
        (mutants.part, "-a", ["a"]),
        (mutants.part, "a + b", ["a", "b"]),
        (mutants.part, "x.clone().sum(0)", ["x.clone()", "x"]),
        (mutants.part, "torch.exp(x)", ["x"]),
        (mutants.part, "torch.rand()", []),
        (mutants.part, "x[0]", ["x"]),
        (mutants.part, "{1, 2}", ["{2}", "{1}"]),
        (mutants.arguments, "f(a, b, c=d)", ["f(b, c=d)", "f(a, c=d)", "f(a, b)", "f(b, a, c=d)"]),
        (mutants.arguments, "min(a, b)", ["min(b)", "min(a)"]),
        (mutants.bounds, "x[a:2]", ["x[:2]", "x[a + 1:2]", "x[a - 1:2]", "x[a:]"]),
        (mutants.bounds, "range(n)", ["range(n + 1)", "range(n - 1)"]),
        (mutants.method, "x.mean(0)", ["x.sum"]),
        (mutants.method, "torch.new_zeros(2)", ["torch.new_ones"]),
        (mutants.method, "max(a)", ["min(a)"]),
        (mutants.method, "x.add_(1)", ["x.add(1)"]),
        (mutants.method, "x.requires_grad_()", []),
        (mutants.result, "return a", ["return a.detach()"]),
        (mutants.result, "return (a, b)", ["return (b, a)", "return (a.detach(), b)"]),
        (mutants.result, "return a.detach()", []),
    ],
)
def test_operator(operator, source, expected):
    made = made_by(operator, source)
    if operator is mutants.bounds and "x[" in source:  # slices stand for themselves
        made = [f"x[{slice_}]" for slice_ in made]
    assert made == expected


CELL = '''
class Box:
    """A box of 1."""

    size = 3

    def scaled(self, by=2):
        """Twice."""
        ### BEGIN SOLUTION
        def wide(n):
            return n + self.size
        if by < 0:
            raise ValueError(f"not {by + 1}")
        first = wide(by)
        second = first
        return second
        ### END SOLUTION
'''


def test_only_solutions_are_mutated():
    found = mutants.mutants("box", CELL)
    assert {(m.function, m.original) for m in found} == {
        ("Box.scaled.wide", "return n + self.size"),
        ("Box.scaled", "if by < 0:"),
        ("Box.scaled", "raise ValueError(f'not {by + 1}')"),
        ("Box.scaled", "first = wide(by)"),
        ("Box.scaled", "second = first"),
        ("Box.scaled", "return second"),
    }
    assert [m.mutated for m in found if m.original == "if by < 0:"] == [
        "if not by < 0:", "pass", "if by <= 0:", "if by >= 0:", "if by < 1:", "if by < -1:",
    ]  # fmt: skip
    assert [m.mutated for m in found if "ValueError" in m.original] == ["pass"]  # no other text
    assert {m.mutated for m in found if m.original == "return second"} == {
        "pass", "return second.detach()", "return first",
    }  # fmt: skip
    assert {m.line for m in found if m.original == "if by < 0:"} == {12}


def test_mutants_are_valid_and_different():
    sources = [m.source for m in mutants.mutants("box", CELL)]
    assert len({ast.dump(ast.parse(source)) for source in sources}) == len(sources)
    assert ast.dump(ast.parse(CELL)) not in {ast.dump(ast.parse(source)) for source in sources}
    assert mutants.mutants("box", CELL) == mutants.mutants("box", CELL)


# --- the runner ------------------------------------------------------------------------------


def is_seven(student):
    assert_equal(student.f(), 7)


def mutant(body: str) -> mutants.Mutant:
    return mutants.Mutant("seven", "f", 1, "", body, f"import os\ndef f():\n    {body}")


def survivors(*bodies: str) -> set[str]:
    tests = {"seven": [Test("test_seven", "seven", "It should be 7.", 1, is_seven)]}
    made = [mutant(body) for body in bodies]
    alive = mutants.run(made, {}, tests, jobs=2, limits={"seven": 1})
    assert all(seconds < 1 for seconds in alive.values())
    return {m.mutated for m in alive}


def test_the_runner_tells_killed_from_alive():
    assert survivors("return 7", "return 8", "return '7'", "return undefined") == {"return 7"}


def test_what_never_ends_or_ends_the_process_is_killed():
    assert (
        survivors(
            "while True: pass",
            "os._exit(0)",
            "raise SystemExit",
            "os.kill(os.getpid(), 9)",
            "bytearray(2**40)",
            "print('passed')",
        )
        == set()
    )


def test_mutants_do_not_meet():
    """Each has a process and a namespace of its own."""
    home = os.getpid()
    body = "f.n = getattr(f, 'n', 6) + 1; return f.n"
    other = "global f; f = None; return 7"
    assert survivors(body, other, f"return 7 if os.getpid() != {home} else 8") == {
        body,
        other,
        f"return 7 if os.getpid() != {home} else 8",
    }


def test_progress_is_told():
    told = []
    tests = {"seven": [Test("test_seven", "seven", "It should be 7.", 1, is_seven)]}
    mutants.run([mutant("return 7")] * 3, {}, tests, progress=lambda *now: told.append(now))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (3, 3)


# --- a whole chapter -------------------------------------------------------------------------

DETACHED = """
double:
  - function: double
    original: return secret_factor * x
    mutated: [return (secret_factor * x).detach()]
    reason: "{reason}"
"""


def test_a_chapter_is_measured(mini):
    double, count = mutants.measure(load("mini", mini))
    assert [m.mutated for m in double.survivors] == ["return (secret_factor * x).detach()"]
    assert double.rate == 1 - 1 / double.total
    assert double.tests == ("test_double", "test_keeps_its_input")
    assert (count.exercise, count.rate, count.passed) == ("count", 1.0, True)


def test_equivalent_mutants_are_left_out(mini):
    (before,) = mutants.measure(load("mini", mini), ["double"])
    (mini / "solutions/mini/equivalent.yml").write_text(DETACHED.format(reason="No gradient."))
    (after,) = mutants.measure(load("mini", mini), ["double"])
    assert (after.total, after.equivalent) == (before.total - 1, 1)
    assert (after.rate, after.passed) == (1.0, True)


@pytest.mark.parametrize(
    ("mutated", "said"),
    [("return x", "a test fails on it"), ("return 3 * y", "there is no such mutant")],
)
def test_a_wrong_list_is_told(mini, mutated, said):
    text = DETACHED.format(reason="So I thought.")
    text = text.replace("return (secret_factor * x).detach()", mutated)
    (mini / "solutions/mini/equivalent.yml").write_text(text)
    (result,) = mutants.measure(load("mini", mini), ["double"])
    assert not result.passed
    assert [said in sentence for sentence in result.mistaken] == [True]


def test_an_equivalent_change_may_be_seen_elsewhere(mini):
    """The same statement twice: at the first place the change does nothing, at the second all."""
    path = mini / "solutions/mini/chapter.md"
    body = "for _ in (1, 2):\n        secret_factor = 2\n        secret_factor = 2"
    path.write_text(path.read_text().replace("secret_factor = 2", body))
    text = (
        DETACHED.format(reason="No gradient.")
        + """
  - function: double
    original: secret_factor = 2
    mutated: [secret_factor = 3]
    reason: At the first place another value follows.
"""
    )
    (mini / "solutions/mini/equivalent.yml").write_text(text)
    (result,) = mutants.measure(load("mini", mini), ["double"])
    assert result.mistaken == ()
    assert "secret_factor = 3" not in [m.mutated for m in result.survivors]


@pytest.mark.parametrize(
    "text", ["double: 3", "[", "double: [{function: f}]", DETACHED.format(reason="")]
)
def test_a_list_that_cannot_be_read_is_one_sentence(mini, text):
    (mini / "solutions/mini/equivalent.yml").write_text(text)
    with pytest.raises(ChapterError, match=r"equivalent\.yml: each exercise should hold"):
        mutants.measure(load("mini", mini))


def test_a_reference_that_fails_its_tests_is_told(mini):
    path = mini / "solutions/mini/chapter.md"
    path.write_text(path.read_text().replace("secret_factor = 2", "secret_factor = 3"))
    with pytest.raises(ChapterError, match="double fails its own hidden tests"):
        mutants.measure(load("mini", mini))


def test_command(mini):
    given = ["mutants", "mini", "--root", str(mini)]
    weak = CliRunner().invoke(app, given)
    assert weak.exit_code == 1
    assert "mini, count: 100.0%" in weak.stdout
    assert "- return secret_factor * x" in weak.stdout
    assert "+ return (secret_factor * x).detach()" in weak.stdout
    strong = CliRunner().invoke(app, [*given, "--exercise", "count", "--json"])
    assert strong.exit_code == 0
    (result,) = json.loads(strong.stdout)
    assert (result["exercise"], result["rate"], result["survivors"]) == ("count", 1.0, [])
    unknown = CliRunner().invoke(app, [*given, "--exercise", "triple"])
    assert unknown.exit_code == 2


def test_numbers_are_kept_without_code_and_not_taken_again(mini, monkeypatch):
    given = ["mutants", "mini", "--root", str(mini), "--store"]
    assert CliRunner().invoke(app, given).exit_code == 1
    path = mutants.path_of("mini", mini)
    weak = json.loads(path.read_text())["exercises"]["double"]
    assert (weak["mutants"] - weak["killed"], weak["passed"]) == (1, False)
    assert "secret_factor" not in path.read_text()
    (mini / "solutions/mini/equivalent.yml").write_text(DETACHED.format(reason="No gradient."))
    assert CliRunner().invoke(app, given).exit_code == 0
    monkeypatch.setattr(mutants, "run", lambda *_: pytest.fail("they were run again"))
    assert CliRunner().invoke(app, given).exit_code == 0
    (mini / "solutions/mini/equivalent.yml").unlink()
    assert mutants.known(load("mini", mini), mini) is None
    assert CliRunner().invoke(app, [*given, "--exercise", "count"]).exit_code == 2
