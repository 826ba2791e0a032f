import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from course.runtime import device, seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_the_same_seed_gives_the_same_numbers_everywhere():
    first = seed_everything(3)
    numbers = draw()
    second = seed_everything(3)
    assert draw() == numbers
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))


def test_another_seed_gives_other_numbers_everywhere():
    first = seed_everything(3)
    numbers = draw()
    second = seed_everything(4)
    assert all(old != new for old, new in zip(numbers, draw(), strict=True))
    assert not torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))


def test_the_generator_does_not_share_its_state_with_the_global_one():
    generator = seed_everything(0)
    alone = torch.rand(5)
    generator = seed_everything(0)
    torch.rand(100, generator=generator)
    assert torch.equal(torch.rand(5), alone)


@pytest.mark.parametrize("has_gpu, expected", [(False, "cpu"), (True, "cuda")])
def test_device_is_a_gpu_where_there_is_one(monkeypatch, has_gpu, expected):
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert device() == torch.device(expected)


def test_the_environment_overrides_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert device() == torch.device("cpu")


def test_a_device_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "abacus")
    with pytest.raises(ValueError, match="COURSE_DEVICE is 'abacus'"):
        device()


def test_importing_the_course_stays_light():
    heavy = ("torchvision", "d2l", "sklearn", "pandas", "matplotlib")
    program = (
        "import sys; from course import data, figures, runtime; data.names();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
