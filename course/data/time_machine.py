"""A text, line by line: H. G. Wells' The Time Machine, or sentences from a small grammar.

Offline, each line is a sentence like "the old cats sleep again near the river". Every word is drawn
uniformly and independently; only the verb has to agree with the noun. So the probability of each
text is known exactly, and with it the lowest perplexity that a language model can reach.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

SPLITS = ("train", "test")
FILE = "timemachine.txt"
FILES = (FILE,)
URL = f"http://d2l-data.s3-accelerate.amazonaws.com/{FILE}"  # of Dive into Deep Learning
SHA1 = "090b5e7e70c295757f55df93cb0a180b9691891a"
HOW_TO_GET = (
    'Call data.load("time-machine", source="real", download=True), or copy the file '
    f"{FILE} (180 kB) of Dive into Deep Learning into that folder."
)

ADJECTIVES = ("old", "young", "tired", "happy")
NOUNS = ("cat", "dog", "bird", "horse")
VERBS = ("sleep", "sing", "wait", "run")
ADVERBS = ("quietly", "again", "today", "alone")
PREPOSITIONS = ("near", "behind", "under")
PLACES = ("river", "house", "garden", "tree")
GRAMMAR = (ADJECTIVES, NOUNS, VERBS, ADVERBS, PREPOSITIONS, PLACES)

COUNT = {"train": 500, "test": 100}  # sentences
SEEDS = {"train": 1, "test": 2}


class Text(Dataset):
    """The lines of a text; an item is a `str`, after the transform.

    Attributes:
        lines: all lines, without their ends.
        text: the whole text, one line after another.
        nats: the entropy of a sentence and its mean length in characters, the space after it
            included; None if nobody knows them, as for a novel.
    """

    def __init__(
        self,
        lines: list[str],
        nats: tuple[float, float] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.lines, self.nats = lines, nats
        self.transform, self.target_transform = transform, target_transform  # there is no target

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Any:
        line = self.lines[index]
        return line if self.transform is None else self.transform(line)


def offline(split: str, **transforms) -> Text:
    return Text(list(_sentences(split)), _nats(), **transforms)


def real(split: str, root: Path, download: bool, **transforms) -> Text:
    path = root / FILE
    if download:
        from torchvision.datasets.utils import download_url  # costs a second

        download_url(URL, str(root), FILE)
        if hashlib.sha1(path.read_bytes()).hexdigest() != SHA1:
            path.unlink()
            raise RuntimeError("what came is another file: its checksum differs")
    lines = path.read_text(encoding="utf-8").splitlines()
    cut = len(lines) * 9 // 10
    return Text(lines[:cut] if split == "train" else lines[cut:], **transforms)


@functools.cache
def _sentences(split: str) -> tuple[str, ...]:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEEDS[split])
    return tuple(_sentence(rng) for _ in range(COUNT[split]))


def _sentence(rng: np.random.RandomState) -> str:
    many = rng.randint(2)
    adjective, noun, verb, adverb, preposition, place = (w[rng.randint(len(w))] for w in GRAMMAR)
    noun, verb = (noun + "s", verb) if many else (noun, verb + "s")
    return f"the {adjective} {noun} {verb} {adverb} {preposition} the {place}"


def _nats() -> tuple[float, float]:
    """The entropy of a sentence, and its mean number of characters with the space after it."""
    entropy = math.log(2) + sum(math.log(len(words)) for words in GRAMMAR)
    # Two times "the", one "s", and a space after each of the eight words.
    length = 3 + 3 + 1 + 8 + sum(sum(map(len, words)) / len(words) for words in GRAMMAR)
    return entropy, length
