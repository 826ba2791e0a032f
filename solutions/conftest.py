"""`pytest solutions/<chapter>/tests.py` runs a chapter's hidden tests on its reference solution."""

import pytest

from autograder.chapters import find_root, load
from course.testing import Student, seed_inputs


@pytest.fixture
def student(request):
    chapter = load(request.path.parent.name, find_root(request.path.parent))
    return Student(chapter.namespace())


@pytest.fixture
def device():
    return "cpu"


@pytest.fixture(autouse=True)
def seeded(request):
    seed_inputs(request.node.name)
