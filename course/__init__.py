"""The one library that a notebook of this course imports.

from course import check, data, figure, show, start, use
start("convolution")
"""

from course import data
from course.check import check, start, use
from course.figures import PALETTE, annotated_matrix, figure, image_grid, show
from course.progress import progress
from course.runtime import device, seed_everything

__all__ = [
    "PALETTE",
    "annotated_matrix",
    "check",
    "data",
    "device",
    "figure",
    "image_grid",
    "progress",
    "seed_everything",
    "show",
    "start",
    "use",
]
