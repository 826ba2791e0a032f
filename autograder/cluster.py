"""Grading on a Dask cluster.

Its workers need this package, and the repository, the submissions and the folder of the records at
the paths that they have here: a folder that all of them share.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from autograder.grade import close_slot, tests_hash

CONNECT_SECONDS = 20


class ClusterError(Exception):
    """A cluster that cannot be graded on; the message says why, and the mend."""


@contextmanager
def cluster(address: str, root: Path) -> Iterator[Executor]:
    """An executor that grades on the Dask cluster with this scheduler, `tcp://host:8786`.

    Dask gives the submissions of a worker that dies to others. A worker process grades one
    submission at a time, so each should have one thread and there should be one for each core.

    Raises:
        ClusterError: Dask is not installed, nobody answers, or a worker has not these files.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ClusterError(
            "Grading on a cluster needs Dask: pip install 'torch-by-writing[dask]'."
        ) from None
    root = root.resolve()
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"There is no Dask scheduler with workers at {address}: {_sentence(error)}"
        ) from None
    with client:
        _prepare(client, root)
        try:
            yield client.get_executor(pure=False)
        finally:
            with suppress(Exception):  # whoever is gone has closed its slot
                client.run(close_slot)


def _prepare(client, root: Path) -> None:
    try:
        found = client.run(_start_worker, str(root))
    except Exception as error:
        raise ClusterError(
            f"The cluster's workers cannot run the grader: {_sentence(error)} "
            "Start them in the environment of this repository."
        ) from None
    expected = tests_hash(root, None)
    other = sorted(worker for worker, digest in found.items() if digest != expected)
    if other:
        raise ClusterError(
            f"The worker {other[0]} has another version of the grader, or does not see {root}; "
            "the cluster's workers need the same files at the same place."
        )


def _start_worker(root: str) -> str:
    torch.set_num_threads(1)
    return tests_hash(Path(root), None)


def _sentence(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "").rstrip(".")
    return f"{first or type(error).__name__}."
