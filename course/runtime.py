"""Where a chapter runs, and with which random numbers."""

import os
import random

import numpy as np
import torch


def seed_everything(seed: int = 0) -> torch.Generator:
    """Seed Python's, NumPy's and PyTorch's global generators, those of every GPU included.

    Returns:
        A new CPU generator with the same seed, for what should not depend on the global ones.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def device() -> torch.device:
    """Return the device to compute on: a CUDA GPU if there is one, else the CPU.

    The environment variable COURSE_DEVICE overrides it ("cpu", "cuda:1", "mps"). Apple's GPU is
    only used on request: the numbers in the book are those of a CPU, and it has no float64.

    Raises:
        ValueError: COURSE_DEVICE names no device.
    """
    chosen = os.environ.get("COURSE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(chosen)
    except RuntimeError:
        raise ValueError(f'COURSE_DEVICE is {chosen!r}; use "cpu", "cuda" or "mps".') from None
