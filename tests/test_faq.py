"""Each error on the FAQ page is raised by its first lines, and the second ones run."""

import re
import warnings
from pathlib import Path

import pytest

from course import faq

PAGE = (Path(__file__).parents[1] / "book" / "faq.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
IMPORTS = BLOCKS.search(PAGE)[1]
ENTRIES = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))


def run(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(IMPORTS + source, "faq", "exec"), {"__name__": "faq"})


def test_the_library_knows_the_messages():
    assert tuple(ENTRIES) == faq.MESSAGES
    assert len(ENTRIES) >= 18


def test_a_message_leads_to_its_paragraph_whatever_its_numbers():
    assert faq.address("It raised IndexError: Target 17 is out of bounds. (in f, line 2)") == (
        f"{faq.PAGE}#target-3-is-out-of-bounds"
    )
    assert faq.address("It raised ValueError: the kernel is too large") == ""


@pytest.mark.parametrize("message", ENTRIES)
def test_it_is_raised_and_mended(message):
    wrong, right = BLOCKS.findall(ENTRIES[message])
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        run(wrong)
    assert faq.address(str(caught.value)).endswith("#" + faq.anchor(message))
    run(right)
