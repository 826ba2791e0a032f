"""Data sets by name, as `torch.utils.data.Dataset`s.

    from course import data

    train = data.load("fashion-mnist")                          # drawn here, no network needed
    test = data.load("fashion-mnist", "test", source="real")    # the public data set

The default source, "offline", needs neither a network nor a file, so every reader sees the same
numbers. The source "real" reads the public data set from the data folder: `root`, else the
environment variable COURSE_DATA, else `torch-by-writing` in the user's cache folder. Nothing is
ever downloaded without `download=True`.

To add a data set, add one module to this package; "fashion-mnist" is the module
`fashion_mnist`. (A leading underscore hides a module; the name of a function of this page is
taken.) The module defines

- `SPLITS`: the names of the splits, such as `("train", "test")`;
- `FILES`: the files of the real data, relative to the data folder; empty if none are needed;
- `HOW_TO_GET`: one or two sentences that say how to get these files;
- `offline(split, **transforms) -> Dataset`: the same for everybody, from no file and no network;
- `real(split, root, download, **transforms) -> Dataset`: the public data set, of the same type of
  item; it may raise anything, `load` turns it into one sentence.

`transforms` holds `transform` and `target_transform`, as in torchvision. `ImageDataset` is a
ready base for images with labels.
"""

import contextlib
import importlib
import os
import pkgutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from torch.utils.data import Dataset

from course.data._images import ImageDataset, on_canvas, tensors

__all__ = [
    "DataNotFound",
    "ImageDataset",
    "available",
    "folder",
    "how_to_get",
    "load",
    "names",
    "on_canvas",
    "tensors",
]

TIMEOUT = 20.0  # seconds that a download waits for an answer


class DataNotFound(FileNotFoundError):
    """The real data is missing or unreadable; the message says where, and how to get it."""


def load(
    name: str,
    split: str = "train",
    *,
    source: str = "offline",
    transform: Callable | None = None,
    target_transform: Callable | None = None,
    download: bool = False,
    root: str | os.PathLike | None = None,
) -> Dataset:
    """Return one split of a data set.

    Args:
        name: one of `names()`, such as "fashion-mnist".
        split: "train" or "test", unless the data set says otherwise.
        source: "offline" (no network, no files) or "real" (the public data set).
        transform, target_transform: applied to the input and the target of each item.
        download: with source "real", fetch what is missing and verify its checksum.
        root: the data folder, see `folder`.

    Raises:
        ValueError: there is no such name, split or source.
        DataNotFound: the real data is not in the data folder or could not be fetched.
    """
    module = _module(name)
    if split not in module.SPLITS:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(module.SPLITS)}.")
    transforms = {"transform": transform, "target_transform": target_transform}
    if source == "offline":
        return module.offline(split, **transforms)
    if source != "real":
        raise ValueError(f'The source is "offline" or "real", not {source!r}.')

    where = folder(root)
    present = available(name, where)
    if not (present or download):
        raise DataNotFound(
            f"The data set {name} is not in {where} (root or COURSE_DATA names another folder): "
            f"{how_to_get(name)}"
        )
    try:
        with _socket_timeout(TIMEOUT):
            return module.real(split, where, download and not present, **transforms)
    except Exception as error:
        problem = (
            "could not be read, so delete its files and get them again, in"
            if present
            else "could not be downloaded to"
        )
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # on one line
        raise DataNotFound(
            f"The data set {name} {problem} {where} ({reason}): {how_to_get(name)}"
        ) from error


def available(name: str, root: str | os.PathLike | None = None) -> bool:
    """Return whether all files of the real data set are in the data folder."""
    return all((folder(root) / file).is_file() for file in _module(name).FILES)


def how_to_get(name: str) -> str:
    """Return one or two sentences that say how to get the real data set."""
    return _module(name).HOW_TO_GET


def names() -> list[str]:
    """Return the names of all data sets, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def folder(root: str | os.PathLike | None = None) -> Path:
    """Return the data folder: `root`, else COURSE_DATA, else a folder in the user's cache."""
    chosen = root or os.environ.get("COURSE_DATA")
    return Path(chosen).expanduser() if chosen else _user_cache() / "torch-by-writing"


def _module(name: str) -> ModuleType:
    if name not in names():
        raise ValueError(f"There is no data set {name!r}; there are {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # Loaders open their connections without a timeout of their own, so a dead network would hang.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
