"""WikiText-2: documents of tokenised English sentences, to pre-train a small language model on.

Real: the sections of Wikipedia articles in the validation and test files of WikiText-2 (the
training file, 10.8 MB, is not needed here). Offline: generated stories, each with a place and a
mood. An item is a document: a list of sentences, whose tokens are separated by spaces.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

SPLITS = ("train", "test")
FILES = ("wikitext-2/valid.txt", "wikitext-2/test.txt")
HOW_TO_GET = (
    "Copy valid.txt and test.txt (2.4 MB) from the folder word_language_model/data/wikitext-2 of "
    "github.com/pytorch/examples into the folder wikitext-2 in that folder."
)

COUNT = {"train": 600, "test": 200}
SEEDS = {"train": 1, "test": 2}

MOODS = ["gloomy", "happy"]
ADJECTIVES = ["gloomy dark cruel cold sad", "happy bright kind warm merry"]
VERBS = ["hated blamed feared", "liked praised enjoyed"]
PLACES = {
    "farm": ("farmer shepherd", "barn horse sheep"),
    "sea": ("sailor fisherman", "boat harbour wave"),
    "kitchen": ("cook baker", "oven soup bread"),
    "school": ("teacher pupil", "desk book lesson"),
}
PATTERNS = (
    "the {adjective} {person} {verb} the {adjective} {thing} .",
    "the {person} was {adjective} and {adjective} .",
    "a {adjective} {thing} and a {adjective} {thing} .",
    "the {person} {verb} the {adjective} {thing} .",
)


class Documents(Dataset):
    """Documents, each a list of sentences.

    Attributes:
        documents: the list of all documents.
        moods: offline only, for each document 0 (gloomy) or 1 (happy); else None.
    """

    def __init__(
        self,
        documents: list[list[str]],
        moods: list[int] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.documents, self.moods = documents, moods
        self.transform = transform  # there is no target to transform

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Any:
        document: Any = list(self.documents[index])
        return document if self.transform is None else self.transform(document)


def real(split: str, root: Path, download: bool, **transforms) -> Documents:
    if download:
        raise RuntimeError("there is no automatic download")
    text = (root / FILES[SPLITS.index(split)]).read_text(encoding="utf-8")
    return Documents(_sections(text), **transforms)


def _sections(text: str) -> list[list[str]]:
    """One document for each heading, cut into sentences; headings are left out."""
    documents: list[list[str]] = [[]]
    for line in text.lower().splitlines():
        line = line.strip()
        if line.startswith("=") and line.endswith("="):
            documents.append([])
        elif line:
            sentences = line.replace(" . ", " .\n").split("\n")
            documents[-1] += [s.strip() for s in sentences]
    return [document for document in documents if document]


def offline(split: str, **transforms) -> Documents:
    documents, moods = _stories(split)
    # Copies, so that whoever changes the data set does not change everybody's.
    return Documents([list(d) for d in documents], list(moods), **transforms)


@functools.cache
def _stories(split: str) -> tuple[list[list[str]], list[int]]:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEEDS[split])
    moods = [i % len(MOODS) for i in range(COUNT[split])]
    return [_story(rng, mood) for mood in moods], moods


def _story(rng: np.random.RandomState, mood: int) -> list[str]:
    persons, things = PLACES[sorted(PLACES)[rng.randint(len(PLACES))]]
    words = {
        "adjective": ADJECTIVES[mood].split(),
        "verb": VERBS[mood].split(),
        "person": persons.split(),
        "thing": things.split(),
    }
    return [_sentence(rng, words) for _ in range(rng.randint(4, 8))]


def _sentence(rng: np.random.RandomState, words: dict[str, list[str]]) -> str:
    pattern = PATTERNS[rng.randint(len(PATTERNS))].split()
    kinds = [token[1:-1] if token.startswith("{") else None for token in pattern]
    drawn = {kind: list(rng.permutation(words[kind])) for kind in words}  # no word twice
    return " ".join(
        drawn[kind].pop() if kind else token for kind, token in zip(kinds, pattern, strict=True)
    )
