"""Fra-eng: short English sentences with a French translation, as texts.

Real: 167,130 pairs of the Tatoeba project, as manythings.org/anki and d2l give them out. Offline:
pairs from a small grammar. Its colours follow the French noun and agree with it, its sizes stand
before the noun, and its negation is two words around the verb, so words have to be moved, changed
and added. An item is an English and a French text.

The real file has no splits: an English sentence is in "test" by a hash of its text, about one in
ten, so that all its translations are on one side. No English sentence of the offline test split
occurs in the training split.
"""

import functools
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

SPLITS = ("train", "test")
FILES = ("fra-eng/fra.txt",)
HOW_TO_GET = (
    "Ask for download=True (4 MB), or unpack fra-eng.zip of d2l.ai into that folder "
    "(CC BY 2.0, manythings.org/anki and tatoeba.org)."
)
ZIP_SHA1 = "94646ad1522d915e7b0f9296181140edcf86a4f5"  # d2l's, which it does not check itself

COUNT = {"train": 4000, "test": 400}
SEED = 1


class Pairs(Dataset):
    """Pairs of texts.

    Attributes:
        pairs: a list of (English, French).
    """

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.pairs = pairs
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        source, target = self.pairs[index]
        if self.transform is not None:
            source = self.transform(source)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return source, target


def real(split: str, root: Path, download: bool, **transforms) -> Pairs:
    if download:
        _download(root)
    lines = (root / FILES[0]).read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split("\t")[:2]) for line in lines if line]
    wanted = split == "test"
    return Pairs([pair for pair in pairs if _is_test(pair[0]) == wanted], **transforms)


def _is_test(source: str) -> bool:
    return zlib.crc32(source.encode()) % 10 == 0


def _download(root: Path) -> None:
    from d2l import torch as d2l  # costs seconds

    file = Path(d2l.download(d2l.DATA_URL + "fra-eng.zip", str(root), ZIP_SHA1))
    if hashlib.sha1(file.read_bytes()).hexdigest() != ZIP_SHA1:
        file.unlink()
        raise RuntimeError("the checksum of fra-eng.zip is wrong")
    d2l.extract(str(file))


# English, French, and whether the French noun is feminine.
NOUNS = (
    ("cat", "chat", False),
    ("dog", "chien", False),
    ("book", "livre", False),
    ("boy", "garçon", False),
    ("king", "roi", False),
    ("hat", "chapeau", False),
    ("girl", "fille", True),
    ("house", "maison", True),
    ("car", "voiture", True),
    ("mouse", "souris", True),
    ("flower", "fleur", True),
    ("queen", "reine", True),
)
# English, French for a masculine and for a feminine noun, and whether it stands before the noun.
ADJECTIVES = (
    ("red", "rouge", "rouge", False),
    ("green", "vert", "verte", False),
    ("black", "noir", "noire", False),
    ("white", "blanc", "blanche", False),
    ("small", "petit", "petite", True),
    ("big", "grand", "grande", True),
    ("pretty", "joli", "jolie", True),
)
ARTICLES = (("the", "le", "la"), ("a", "un", "une"))
# English, after "does not", and French.
VERBS = (
    ("sees", "see", "voit"),
    ("finds", "find", "trouve"),
    ("wants", "want", "veut"),
    ("takes", "take", "prend"),
    ("draws", "draw", "dessine"),
    ("knows", "know", "connaît"),
)


def offline(split: str, **transforms) -> Pairs:
    first, last = (0, COUNT["train"]) if split == "train" else (COUNT["train"], None)
    return Pairs(list(_sentences()[first:last]), **transforms)


@functools.cache
def _sentences() -> tuple[tuple[str, str], ...]:
    # NumPy promises that the stream of this generator never changes.
    rng = np.random.RandomState(SEED)
    pairs: dict[str, str] = {}  # no English sentence twice
    while len(pairs) < sum(COUNT.values()):
        source, target = _sentence(rng)
        pairs[source] = target
    return tuple(pairs.items())


def _sentence(rng: np.random.RandomState) -> tuple[str, str]:
    (who, qui), (whom, que) = _noun_phrase(rng), _noun_phrase(rng)
    third, plain, french = VERBS[rng.randint(len(VERBS))]
    if rng.randint(3) == 0:
        return f"{who} does not {plain} {whom}.", f"{qui} ne {french} pas {que}."
    return f"{who} {third} {whom}.", f"{qui} {french} {que}."


def _noun_phrase(rng: np.random.RandomState) -> tuple[str, str]:
    noun, nom, feminine = NOUNS[rng.randint(len(NOUNS))]
    article, *articles = ARTICLES[rng.randint(len(ARTICLES))]
    if rng.randint(3) == 0:
        return f"{article} {noun}", f"{articles[feminine]} {nom}"
    adjective, *adjectives, before = ADJECTIVES[rng.randint(len(ADJECTIVES))]
    words = (adjectives[feminine], nom) if before else (nom, adjectives[feminine])
    return f"{article} {adjective} {noun}", " ".join((articles[feminine], *words))
