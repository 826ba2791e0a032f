"""Figures in the style of the course, each with a caption and a text for who cannot see it.

fig, ax = figure()
ax.plot(losses)
show(fig, caption="The loss falls.", alt="A curve that falls from 2.3 to 0.4 in 10 epochs.")
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # matplotlib takes half a second to import, and the autograder draws nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; pale yellow comes last.
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#CC79A7",  # purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#F0E442",  # yellow
)
DPI = 130


def figure(
    rows: int = 1, cols: int = 1, *, size: tuple[float, float] | None = None, **subplots_kw: Any
) -> tuple[Figure, Any]:
    """`plt.subplots(rows, cols, **subplots_kw)` in the style of the course.

    The style stays on for the session, so that legends and titles added later follow it.

    Args:
        size: width and height in inches. Stay below 6.6 in width: on a phone the figure is shrunk
            to the screen, and its text with it.
    """
    import matplotlib.pyplot as plt

    plt.rcParams.update(_style())
    size = size or ({1: 4.8, 2: 6.0}.get(cols, 6.6), 3.0 if rows == 1 else 2.4 * rows)
    return plt.subplots(rows, cols, figsize=size, **subplots_kw)


def show(fig: Figure, *, caption: str, alt: str, name: str | None = None) -> None:
    """Display a figure below the cell, with its caption, and close it.

    Outside a notebook the figure is only closed.

    Args:
        caption: what the reader should see in the figure; may hold `code`, *emphasis*, $math$.
        alt: what the figure shows, for a reader who cannot see it; not the caption again.
        name: the label by which the text of the book refers to the figure.

    Raises:
        ValueError: caption or alt is empty, or they are the same.
    """
    import matplotlib.pyplot as plt

    _require_description(caption, alt)
    if _in_notebook():
        from IPython.display import display

        png = base64.b64encode(_png(fig)).decode("ascii")
        display(
            {"image/png": png, "text/html": _html(png, caption, alt), "text/plain": alt},
            raw=True,
            metadata={"course": {"caption": caption, "alt": alt, "name": name}},
        )
    plt.close(fig)  # else a notebook would draw it a second time at the end of the cell


def image_grid(
    images: Tensor | np.ndarray | Sequence[Tensor],
    titles: Sequence[Any] | None = None,
    cols: int = 8,
    cmap: str = "gray",
) -> tuple[Figure, np.ndarray]:
    """Draw images in a grid, row by row.

    Args:
        images: shape (N, H, W), (N, 1, H, W) or (N, 3, H, W). Grey images share one scale, from
            the smallest to the largest value; colours are in [0, 1], or 0 to 255 if uint8.
        titles: one for each image.
        cols: the number of images in a row.
        cmap: the colour map of grey images.

    Returns:
        The figure and the N axes that hold an image.

    Raises:
        ValueError: the shape is none of these, or there is not one title for each image.
    """
    pictures = _pictures(images)
    count = len(pictures)
    if titles is not None and len(titles) != count:
        raise ValueError(f"There are {count} images, but {len(titles)} titles.")
    cols = min(cols, count)
    rows = math.ceil(count / cols)
    cell = min(1.2, 6.4 / cols)  # inches
    aspect = pictures.shape[1] / pictures.shape[2]
    height = rows * (cell * aspect + (0.18 if titles is not None else 0))
    fig, grid = figure(rows, cols, size=(cols * cell, height), squeeze=False)
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for ax in grid.flat:
        ax.set_axis_off()
    axes = grid.ravel()[:count]
    scale = {} if pictures.ndim == 4 else {"vmin": pictures.min(), "vmax": pictures.max()}
    for index, ax in enumerate(axes):
        ax.imshow(pictures[index], cmap=cmap, interpolation="nearest", **scale)
        if titles is not None:
            ax.set_title(str(titles[index]), fontsize=9, pad=2)
    return fig, axes


def annotated_matrix(
    ax: Axes,
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]],
    fmt: str = "{:g}",
    highlight: Any = None,
    color: str = PALETTE[4],
) -> None:
    """Draw a small matrix as a grid of cells with a number in each.

    Args:
        matrix: shape (rows, columns).
        fmt: how a number is written.
        highlight: an index of the matrix, such as `np.s_[0:2, 1:3]`, `(0, 1)` or a boolean mask
            of its shape; these cells are filled with `color`.

    Raises:
        ValueError: the matrix does not have two axes.
    """
    values = torch.as_tensor(matrix).detach().cpu().numpy()
    if values.ndim != 2:
        raise ValueError(f"A matrix has two axes, not {values.ndim}: its shape is {values.shape}.")
    marked = np.zeros(values.shape, dtype=bool)
    if highlight is not None:
        marked[np.asarray(highlight) if isinstance(highlight, Tensor) else highlight] = True
    rows, columns = values.shape
    for (row, column), value in np.ndenumerate(values):
        ax.add_patch(_cell(column, row, color if marked[row, column] else "white"))
        ax.text(column, row, fmt.format(value.item()), ha="center", va="center", color="black")
    ax.set(xlim=(-0.55, columns - 0.45), ylim=(rows - 0.45, -0.55), aspect="equal")
    ax.set_axis_off()


def _style() -> dict[str, Any]:
    from cycler import cycler

    return {
        "axes.grid": False,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        # Opaque, so that black text stays readable where the page is dark.
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "savefig.transparent": False,
        "font.size": 11,
        "image.cmap": "viridis",
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.8,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
    }


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # never imported here: a notebook has done so already
    return ipython is not None and ipython.get_ipython() is not None


def _require_description(caption: str, alt: str) -> None:
    if not caption.strip():
        raise ValueError("A figure needs a caption that says what to see in it.")
    if not alt.strip():
        raise ValueError("A figure needs an alt text that says what it shows to who cannot see it.")
    if alt.strip() == caption.strip():
        raise ValueError("The alt text repeats the caption; describe what the figure shows.")


def _png(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's version the same figure gives the same bytes.
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    png = buffer.getvalue()
    return min(png, _in_256_colours(png), key=len)


def _in_256_colours(png: bytes) -> bytes:
    """A third of the weight, and at this size the eye sees no difference."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _html(png: str, caption: str, alt: str) -> str:
    return (
        '<figure class="course-figure">'
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}" style="max-width: 100%">'
        f"<figcaption>{_inline_html(caption)}</figcaption></figure>"
    )


def _inline_html(markdown: str) -> str:
    """Code, bold and emphasis as HTML; mathematics as it is, for MathJax."""

    def tag(match: re.Match) -> str:
        name = match.lastgroup
        return match[0] if name == "math" else f"<{name}>{match[name]}</{name}>"

    patterns = (
        r"(?P<math>\$[^$]+\$)",
        r"`(?P<code>[^`]+)`",
        r"\*\*(?P<strong>[^*]+)\*\*",
        r"\*(?P<em>[^*]+)\*",
    )
    return re.sub("|".join(patterns), tag, html.escape(markdown, quote=False))


def _pictures(images: Tensor | np.ndarray | Sequence[Tensor]) -> np.ndarray:
    """Grey images as (N, H, W), colour images as (N, H, W, 3) that matplotlib accepts."""
    if not isinstance(images, Tensor | np.ndarray):
        images = torch.stack(list(images))
    batch = torch.as_tensor(images).detach().cpu()
    if batch.ndim == 4 and batch.shape[1] == 1:
        batch = batch[:, 0]
    if len(batch) and batch.ndim == 3:
        return batch.float().numpy()
    if len(batch) and batch.ndim == 4 and batch.shape[1] == 3:
        colours = batch.permute(0, 2, 3, 1)
        return (colours if colours.dtype == torch.uint8 else colours.float().clamp(0, 1)).numpy()
    raise ValueError(
        f"Images have the shape (N, H, W), (N, 1, H, W) or (N, 3, H, W), not {tuple(batch.shape)}."
    )


def _cell(column: int, row: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="0.4")
