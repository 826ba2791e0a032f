"""A whole course of one tiny chapter, written into a folder, for tests of the tools."""

from pathlib import Path

FILES = {
    "_toc.yml": """
format: jb-book
root: book/index
chapters:
  - file: book/chapters/mini
""",
    "_config.yml": """
repository:
  url: https://example.org/mini
""",
    "book/references.bib": """
@article{lecun1998,
  author = {LeCun, Yann and Bottou, Leon and Bengio, Yoshua},
  title = {Gradient-based learning}, journal = {Proceedings}, year = {1998}, doi = {10.1/x},
}
""",
    "book/syllabus.yml": """
parts:
  - {name: Foundations, chapters: [mini]}
chapters:
  - id: mini
    title: A tiny chapter
    zh: 小
    part: Foundations
    minutes: 5
    topics:
      - {id: mini.doubling, name: Doubling, zh: 加倍, teach: exercise, errata: [E999]}
    exercises:
      - id: mini.ex.double
        title: Double it
        points: 60
        topics: [mini.doubling]
        signature: "double(x: Tensor) -> Tensor[N]"
      - id: mini.ex.count
        title: Count calls
        points: 40
        topics: [mini.doubling]
        signature: "class Counter(start): step(); total(counters)"
""",
    "solutions/mini/chapter.md": """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3, language: python}
course:
  chapter: mini
  prerequisites: []
  data: none
  objectives: [double a tensor]
  glossary:
    doubling: {zh: 加倍, means: "Twice as much."}
  agreement:
    double: twice the input
    Counter: counts by hand
    total: {with: their sum, but: It takes no start.}
---

# A tiny chapter

As {cite:t}`lecun1998` never said, and see {eq}`two` and {term}`doubling`.

```{math}
:label: two
y = 2x
```

:::{note}
Look.
:::

```{code-cell} ipython3
:setup: true

import torch
from course import check, figure, show, start, use

start("mini")
```

```{code-cell} ipython3
---
exercise: double
points: 60
minutes: 2
difficulty: 1
forbid: [torch.add]
---
def double(x):
    \"\"\"Twice x, shape kept.\"\"\"
    ### BEGIN SOLUTION
    secret_factor = 2
    return secret_factor * x
    ### END SOLUTION
```

```{code-cell} ipython3
check("double")
```

```{code-cell} ipython3
:topics: [mini.doubling]
:errata: [E999]

# NBVAL_CHECK_OUTPUT
twice = use("double", otherwise=lambda x: x + x)
print(twice(torch.arange(3)))
```

```{code-cell} ipython3
---
exercise: count
points: 40
minutes: 2
difficulty: 2
---
class Counter:
    \"\"\"Counts its steps from `start`.\"\"\"

    def __init__(self, start=0):
        ### BEGIN SOLUTION
        self.n = start
        ### END SOLUTION

    def step(self):
        ### BEGIN SOLUTION
        self.n += 1
        return self.n
        ### END SOLUTION


def total(counters):
    \"\"\"The sum of all counts.\"\"\"
    ### BEGIN SOLUTION
    return sum(c.n for c in counters)
    ### END SOLUTION
```

```{code-cell} ipython3
check("count")
```

```{code-cell} ipython3
fig, ax = figure()
ax.plot([0, 1])
show(fig, caption="A line.", alt="A straight line from 0 to 1.")
```

```{code-cell} ipython3
---
exercise: debug
points: 0
minutes: 1
difficulty: 1
---
def fixed(x):
    \"\"\"The mended function.\"\"\"
    ### BEGIN SOLUTION
    return x
    ### END SOLUTION
```

```{code-cell} ipython3
check("debug")
```
""",
    "solutions/mini/tests.py": """
import pytest

from course.testing import assert_close, assert_equal, probe, randn, unchanged


@pytest.mark.exercise("double", points=40)
@pytest.mark.parametrize("n", [1, 5])
def test_double(student, device, n):
    \"\"\"double(x) should be twice x.\"\"\"
    x = randn(n, device=device)
    assert_close(student.double(x), 2 * x)


@pytest.mark.exercise("double", points=20)
def test_keeps_its_input(student):
    \"\"\"double(x) should leave x alone.\"\"\"
    x = randn(3)
    with unchanged(x):
        student.double(x)


@pytest.mark.exercise("count", points=25)
def test_steps(student):
    \"\"\"A counter should count from its start.\"\"\"
    counter = student.Counter(3)
    counter.step()
    assert_equal(counter.step(), 5)


@probe
def sum_of(student, starts):
    return student.total([student.Counter(s) for s in starts])


@pytest.mark.exercise("count", points=15)
def test_total(student):
    \"\"\"total should add up the counts.\"\"\"
    assert_equal(student.run(sum_of, [1, 2, 4]), 7)
""",
    "solutions/mini/misconceptions.py": """
from course.testing import misconception


@misconception("double", hint="Twice, not squared.")
def double(x):
    return x * x


@misconception("double", hint="Leave the caller's tensor alone.")
def double(x):
    x *= 2
    return x


@misconception("double", hint="A return is missing.")
def double(x):
    2 * x


@misconception("count", hint="Start where you are told to.")
class Counter:
    def __init__(self, start=0):
        self.n = 0

    def step(self):
        self.n += 1
        return self.n


@misconception("count", hint="Add the counts, not the counters.")
def total(counters):
    return len(counters)


@misconception("count", hint="Every counter counts.")
def total(counters):
    return counters[0].n
""",
    "solutions/mini/alternatives.py": """
from course.testing import alternative


@alternative("double")
def double(x):
    return x + x
""",
}

CHECKS = """
import pytest
import torch

from course.testing import assert_close, assert_equal

HINTS = {
    "double": ["Think of 2.", "Multiply `x`."],
    "count": ["Keep a number.", "Add one."],
    "debug": ["Look.", "Look again."],
}


@pytest.mark.exercise("double")
def test_double(student):
    \"\"\"double(x) should be twice x.\"\"\"
    x = torch.tensor([1.0, 3.0])
    assert_close(student.double(x), 2 * x, symptoms={"It looks squared.": x * x})


@pytest.mark.exercise("count")
def test_count(student):
    \"\"\"A counter should count.\"\"\"
    assert_equal(student.Counter().step(), 1)


@pytest.mark.exercise("count")
def test_total(student):
    \"\"\"total should add.\"\"\"
    assert_equal(student.total([]), 0)


def mended(student):
    return student.fixed(3)


@pytest.mark.exercise("debug")
def test_fixed(student):
    \"\"\"fixed(x) should be x.\"\"\"
    assert_equal(mended(student), 3)
"""


def write(root: Path) -> Path:
    """Write the course's files below `root`."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), encoding="utf-8")
    return root
