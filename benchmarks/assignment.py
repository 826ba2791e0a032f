"""An assignment of four small torch questions, written out for each of the graders.

The tests are the same lines of code everywhere: asserts that use `torch` and the student's names.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "bench"
SETUP = "import torch\nfrom torch import nn"


@dataclass(frozen=True)
class Check:
    """A test: what should hold, its points, and asserts."""

    name: str
    points: int
    statement: str
    body: str


@dataclass(frozen=True)
class Question:
    """A question, its answer, and a wrong one that earns the points of the second test only."""

    name: str  # of the function or class
    right: str
    wrong: str
    hint: str
    tests: tuple[Check, Check]


QUESTIONS = (
    Question(
        "standardize",
        """
def standardize(x):
    return (x - x.mean(0)) / x.std(0, unbiased=False)
""",
        """
def standardize(x):
    return (x - x.mean()) / x.std(unbiased=False)
""",
        "Each column has a mean and a deviation of its own.",
        (
            Check(
                "test_columns",
                15,
                "Each column should have mean 0 and standard deviation 1.",
                """
x = torch.arange(12.0).reshape(4, 3) ** 2
z = standardize(x)
assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5)
assert torch.allclose(z.std(0, unbiased=False), torch.ones(3), atol=1e-5)
""",
            ),
            Check(
                "test_standardize_shape",
                10,
                "Shape and dtype should be those of the input.",
                """
z = standardize(torch.ones(5, 2, dtype=torch.float64).cumsum(0))
assert z.shape == (5, 2)
assert z.dtype == torch.float64
""",
            ),
        ),
    ),
    Question(
        "softmax",
        """
def softmax(x):
    e = (x - x.max(-1, keepdim=True).values).exp()
    return e / e.sum(dim=-1, keepdim=True)
""",
        """
def softmax(x):
    e = x.exp()
    return e / e.sum(dim=-1, keepdim=True)
""",
        "Subtract the largest first: exp(1000) is infinite.",
        (
            Check(
                "test_large",
                15,
                "Large inputs should not overflow.",
                """
x = torch.tensor([[1000.0, 1001.0], [-1000.0, 0.0]])
assert torch.allclose(softmax(x), torch.softmax(x, -1))
""",
            ),
            Check(
                "test_softmax",
                10,
                "It should equal torch.softmax over the last axis.",
                """
for shape in ((3,), (2, 5), (2, 3, 4)):
    x = torch.linspace(-2, 2, torch.Size(shape).numel()).reshape(shape)
    assert torch.allclose(softmax(x), torch.softmax(x, -1))
""",
            ),
        ),
    ),
    Question(
        "fit_line",
        """
def fit_line(x, y):
    w = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        ((w[0] * x + w[1] - y) ** 2).mean().backward()
        optimizer.step()
    return w.detach()
""",
        """
def fit_line(x, y):
    w = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for _ in range(100):
        ((w[0] * x + w[1] - y) ** 2).mean().backward()
        optimizer.step()
    return w.detach()
""",
        "Gradients add up until zero_grad.",
        (
            Check(
                "test_line",
                15,
                "It should find slope and intercept.",
                """
x = torch.linspace(-2, 2, 20)
assert torch.allclose(fit_line(x, 3 * x - 1), torch.tensor([3.0, -1.0]), atol=1e-2)
""",
            ),
            Check(
                "test_line_shape",
                10,
                "It should return two numbers that need no gradient.",
                """
w = fit_line(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
assert w.shape == (2,)
assert not w.requires_grad
""",
            ),
        ),
    ),
    Question(
        "TwoLayer",
        """
class TwoLayer(nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.first = nn.Linear(n_in, n_hidden)
        self.second = nn.Linear(n_hidden, n_out)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
""",
        """
class TwoLayer(nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.first = nn.Linear(n_in, n_hidden)
        self.second = nn.Linear(n_hidden, n_out)

    def forward(self, x):
        return self.second(self.first(x))
""",
        "Two linear layers without a ReLU between them are one.",
        (
            Check(
                "test_forward",
                15,
                "The output should be that of two layers with a ReLU between them.",
                """
torch.manual_seed(0)
net = TwoLayer(4, 8, 2)
x = torch.randn(5, 4)
hidden = torch.relu(x @ net.first.weight.T + net.first.bias)
assert torch.allclose(net(x), hidden @ net.second.weight.T + net.second.bias, atol=1e-5)
""",
            ),
            Check(
                "test_gradients",
                10,
                "Every parameter should get a gradient.",
                """
net = TwoLayer(3, 5, 2)
net(torch.randn(4, 3)).sum().backward()
assert all(p.grad is not None for p in net.parameters())
""",
            ),
        ),
    ),
)


# --- submissions -----------------------------------------------------------------------------


def student(number: int) -> str:
    """Names that begin with a or b in turn, so that two processes can share them."""
    return f"{'ab'[number % 2]}{number:04d}"


def score(number: int) -> int:
    """What a student's submission deserves; sixteen in a row are all different."""
    lost = sum(q.tests[0].points for i, q in enumerate(QUESTIONS) if number >> i & 1)
    return sum(t.points for q in QUESTIONS for t in q.tests) - lost


def write_submissions(released: Path, folder: Path, count: int) -> Path:
    """`folder/<student>/bench/bench.ipynb`: the released notebook with each one's answers."""
    notebook = json.loads(released.read_text(encoding="utf-8"))
    answers = {c["metadata"]["exercise"]: c for c in notebook["cells"] if _is_answer(c)}
    for number in range(count):
        for index, question in enumerate(QUESTIONS):
            source = question.wrong if number >> index & 1 else question.right
            answers[question.name]["source"] = f"# {student(number)}\n{source.strip()}"
        path = folder / student(number) / NAME / f"{NAME}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return folder


def _is_answer(cell: dict[str, Any]) -> bool:
    return "exercise" in cell["metadata"]


# --- the same assignment for each grader -----------------------------------------------------


def write_nbgrader(folder: Path) -> Path:
    """A course folder of nbgrader's with the assignment's source notebook."""
    cells = [_code(SETUP, setup=True)]
    for question in QUESTIONS:
        answer, graded = _marked(question.right), _nbgrader(question.name)
        cells.append(_code(answer, exercise=question.name, nbgrader=graded))
        for test in question.tests:
            hidden = f"### BEGIN HIDDEN TESTS\n{test.body.strip()}\n### END HIDDEN TESTS"
            graded = _nbgrader(test.name, points=test.points)
            cells.append(_code(f"# {test.statement}\n{hidden}", nbgrader=graded))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "course": {"chapter": NAME}}
    cells = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}
    _write(folder / "source" / NAME / f"{NAME}.ipynb", json.dumps(notebook))
    config = f'c = get_config()\nc.CourseDirectory.course_id = "{NAME}"\n'
    _write(folder / "nbgrader_config.py", config)
    return folder


def _nbgrader(name: str, points: int | None = None) -> dict[str, Any]:
    graded = {} if points is None else {"points": points}
    return {
        "schema_version": 3, "grade_id": name, "cell_type": "code", "task": False,
        "grade": bool(graded), "locked": bool(graded), "solution": not graded, **graded,
    }  # fmt: skip


def _code(source: str, **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code", "metadata": metadata, "source": source,
        "outputs": [], "execution_count": None,
    }  # fmt: skip


def write_otter(folder: Path) -> Path:
    """A folder of Otter's test files."""
    for question in QUESTIONS:
        parts = [
            "OK_FORMAT = False",
            "import torch\nfrom otter.test_files import test_case",
            f"name = {question.name!r}",
        ]
        for test in question.tests:
            call = f"@test_case(points={test.points}, hidden=True)"
            parts.append(f"{call}\ndef {test.name}({question.name}):\n{_indented(test.body)}")
        _write(folder / f"{question.name}.py", "\n\n".join(parts) + "\n")
    return folder


def write_course(root: Path) -> Path:
    """A course of one chapter, for this repository's grader."""
    exercises = [{"id": f"{NAME}.ex.{q.name}", "title": q.name} for q in QUESTIONS]
    syllabus = {"chapters": [{"id": NAME, "title": NAME, "exercises": exercises}]}
    cells = [f":setup: true\n\n{SETUP}"]
    tests = ["import pytest\nimport torch"]
    wrong = ["import torch\nfrom torch import nn\n\nfrom course.testing import misconception"]
    for q in QUESTIONS:
        points = sum(t.points for t in q.tests)
        head = f"---\nexercise: {q.name}\npoints: {points}\nminutes: 5\ndifficulty: 1\n---"
        cells.append(f"{head}\n{_marked(q.right)}")
        wrong.append(f'@misconception("{q.name}", hint="{q.hint}")\n{q.wrong.strip()}')
        tests += [_pytest(q, t) for t in q.tests]
    blocks = "\n\n".join(f"```{{code-cell}} ipython3\n{cell}\n```" for cell in cells)
    folder = root / "solutions" / NAME
    _write(folder / "chapter.md", f"{HEADER}\n# Benchmark\n\n{blocks}\n")
    _write(folder / "tests.py", "\n\n\n".join(tests) + "\n")
    _write(folder / "misconceptions.py", "\n\n\n".join(wrong) + "\n")
    _write(root / "book" / "syllabus.yml", json.dumps(syllabus))
    _write(root / "_toc.yml", "format: jb-book\n")
    return root


HEADER = f"""---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{name: python3, display_name: Python 3, language: python}}
course:
  chapter: {NAME}
---
"""


def _pytest(question: Question, test: Check) -> str:
    mark = f'@pytest.mark.exercise("{question.name}", points={test.points})'
    head = f'def {test.name}(student):\n    """{test.statement}"""'
    name = f"    {question.name} = student.{question.name}"
    return f"{mark}\n{head}\n{name}\n{_indented(test.body)}"


def _marked(answer: str) -> str:
    """An answer whose first line students keep."""
    first, body = answer.strip().split("\n", 1)
    return f"{first}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"


def _indented(body: str) -> str:
    return textwrap.indent(body.strip(), "    ")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
