"""`pytest solutions/<chapter>/tests.py` runs a chapter's hidden tests on its reference solution."""

from functools import cache

import pytest

from autograder.chapters import find_root, load
from course.testing import Student, seed_inputs

load = cache(load)


@pytest.fixture
def student(request):
    folder = request.path.parent
    return Student(load(folder.name, find_root(folder)).namespace())


@pytest.fixture
def device():
    return "cpu"


@pytest.fixture(autouse=True)
def seeded(request):
    seed_inputs(request.node.name)
