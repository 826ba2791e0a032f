"""Copies of the repository, for tests that change or rename what is in it."""

import shutil
import subprocess
from pathlib import Path


def copy_of(root: Path, folder: Path, without: str | None = None) -> Path:
    """What a fresh clone would have, with what is not committed yet.

    Args:
        without: a folder to leave out.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source = root / name
        if source.is_file() and not (without and name.startswith(f"{without}/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return folder
