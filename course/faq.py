"""The book's page on the error messages of PyTorch, so that a message can lead to its paragraph."""

from __future__ import annotations

import re

TITLE = "What does this error mean?"
PAGE = "https://torch-by-writing.github.io/torch-by-writing/book/faq.html"

# The headings of book/faq.md: a part of the message that PyTorch gives.
MESSAGES = (
    "mat1 and mat2 shapes cannot be multiplied",
    "must match the size of tensor b",
    "to have 3 channels, but got 1 channels",
    "view size is not compatible with input tensor's size and stride",
    "stack expects each tensor to be equal size",
    "Expected more than 1 value per channel when training",
    "mat1 and mat2 must have the same dtype",
    "Expected tensor for argument #1 'indices'",
    "Target 3 is out of bounds",
    "index out of range in self",
    "Boolean value of Tensor with more than one value is ambiguous",
    "does not require grad and does not have a grad_fn",
    "Trying to backward through the graph a second time",
    "a leaf Variable that requires grad is being used in an in-place operation",
    "has been modified by an inplace operation",
    "grad can be implicitly created only for scalar outputs",
    "Can't call numpy() on Tensor that requires grad",
    "cannot assign module before Module.__init__() call",
    "optimizer got an empty parameter list",
    "Error(s) in loading state_dict",
)


def address(message: str) -> str:
    """The paragraph that explains an error, whatever its numbers, or "" if the page has none.

    Args:
        message: what the error says, anywhere in the text.
    """
    for known in MESSAGES:
        if re.search(re.sub(r"\d+", r"\\d+", re.escape(known)), message):
            return f"{PAGE}#{anchor(known)}"
    return ""


def anchor(heading: str) -> str:
    """The identifier that the book gives to a heading."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
