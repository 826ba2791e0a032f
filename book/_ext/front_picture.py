"""``{front-picture}``: the picture of the front page, a kernel that finds the edges of a digit.

It is computed and drawn here, as inline SVG: the colours come from the page, so it reads in light
and in dark mode.
"""

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Grid = list[list[float]]

# A seven, six pixels high and wide.
IMAGE: Grid = [
    [float(pixel) for pixel in row]
    for row in ("011110", "011110", "000110", "001100", "001100", "001100")
]
KERNEL: Grid = [[-1.0, 0.0, 1.0]] * 3
# This kernel takes the left column of a window from its right one; the general case is an exercise.
RESULT: Grid = [
    [sum(row[j + 2] - row[j] for row in IMAGE[i : i + 3]) for j in range(4)] for i in range(4)
]
WINDOW = (2, 1)  # the corner of the window that the picture shows
CELL, MARGIN, GAP, TITLE = 24, 2, 36, 24  # in the units of the drawing
ALT = (
    "A digit seven of six by six pixels, a three by three kernel with the columns -1, 0 and 1, and "
    "their cross-correlation: sixteen numbers, positive at left edges, negative at right edges. "
    "One window of the image is outlined, and the one number of the result that it gives."
)


def top(grid: Grid) -> float:
    """Where a grid begins, so that all are centred on the line of the image."""
    return TITLE + CELL * (len(IMAGE) - len(grid)) / 2


def square(kind: str, x: float, y: float, cells: int = 1, more: str = "") -> str:
    side = cells * CELL
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{side}" height="{side}"{more}/>'


def draw(grid: Grid, left: float, name: str, numbers: bool) -> Iterator[str]:
    """One grid: the sign of a value gives its colour, the size its strength."""
    strongest = max(abs(value) for row in grid for value in row)
    middle = left + CELL * len(grid[0]) / 2
    yield f'<text class="name" x="{middle}" y="{top(grid) - 9}">{name}</text>'
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            x, y = left + CELL * j, top(grid) + CELL * i
            kind = "ink" if not numbers else "positive" if value > 0 else "negative"
            opacity = round((0.55 if numbers else 0.8) * abs(value) / strongest, 2)
            yield square(kind, x, y, more=f' fill-opacity="{opacity}"')
            if numbers:
                text = f"{value:.0f}".replace("-", "−")
                yield f'<text x="{x + CELL / 2}" y="{y + 17}">{text}</text>'


def picture() -> str:
    left = {"image": MARGIN}
    left["kernel"] = left["image"] + CELL * len(IMAGE) + GAP
    left["result"] = left["kernel"] + CELL * len(KERNEL) + GAP
    width = left["result"] + CELL * len(RESULT) + MARGIN
    height = TITLE + CELL * len(IMAGE) + MARGIN
    baseline = TITLE + CELL * len(IMAGE) / 2 + 6
    i, j = WINDOW
    parts = [
        *draw(IMAGE, left["image"], "image", numbers=False),
        f'<text class="sign" x="{left["kernel"] - GAP / 2}" y="{baseline}">⋆</text>',
        *draw(KERNEL, left["kernel"], "kernel", numbers=True),
        f'<text class="sign" x="{left["result"] - GAP / 2}" y="{baseline}">=</text>',
        *draw(RESULT, left["result"], "result", numbers=True),
        square("window", left["image"] + CELL * j, top(IMAGE) + CELL * i, len(KERNEL)),
        square("window", left["result"] + CELL * j, top(RESULT) + CELL * i),
    ]
    attributes = f'viewBox="0 0 {width} {height}" role="img" aria-label="{ALT}"'
    return f"<svg {attributes}>{''.join(parts)}</svg>"


class FrontPicture(SphinxDirective):
    has_content = True  # the caption

    def run(self) -> list[nodes.Node]:
        caption = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [
            nodes.raw("", f'<figure class="front-picture">{picture()}<figcaption>', format="html"),
            *caption.children,
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("front-picture", FrontPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
