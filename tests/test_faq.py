"""Each error on the FAQ page is raised by its first lines, and the second ones run."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "book" / "faq.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
IMPORTS = BLOCKS.search(PAGE)[1]
ENTRIES = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))


def run(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(IMPORTS + source, "faq", "exec"), {"__name__": "faq"})


def test_there_are_many():
    assert len(ENTRIES) >= 18


@pytest.mark.parametrize("message", ENTRIES)
def test_it_is_raised_and_mended(message):
    wrong, right = BLOCKS.findall(ENTRIES[message])
    with pytest.raises(Exception, match=re.escape(message)):
        run(wrong)
    run(right)
