import base64
import io

import matplotlib

matplotlib.use("Agg")

import IPython
import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from course.figures import PALETTE, annotated_matrix, figure, image_grid, show


@pytest.fixture(autouse=True)
def clean_matplotlib():
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook would have displayed."""
    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, **kw: shown.append((data, kw)))
    return shown


def line_plot():
    fig, ax = figure()
    ax.plot([1, 3, 2], label="loss")
    ax.legend()
    return fig


def test_figure_has_the_course_style():
    fig, ax = figure()
    lines = [ax.plot([0, 1])[0] for _ in PALETTE]
    assert tuple(line.get_color() for line in lines) == PALETTE
    assert to_hex(fig.get_facecolor()) == "#ffffff"
    assert type(fig.get_layout_engine()).__name__ == "ConstrainedLayoutEngine"


def test_text_is_readable_on_a_phone():
    for cols in (1, 2, 3):
        fig, axes = figure(1, cols)
        label = np.ravel(axes)[0].set_xlabel("step")
        # The figure is shrunk to 360 CSS pixels; 72 points are an inch.
        pixels = label.get_fontsize() / 72 * 360 / fig.get_size_inches()[0]
        assert pixels >= 8


def test_figure_passes_its_options_to_subplots():
    fig, axes = figure(2, 3, size=(5, 4), sharex=True)
    assert axes.shape == (2, 3) and tuple(fig.get_size_inches()) == (5, 4)
    assert axes[0, 0].get_shared_x_axes().joined(axes[0, 0], axes[1, 2])


def test_show_gives_one_bundle_and_closes_the_figure(notebook):
    fig = line_plot()
    show(fig, caption="The loss.", alt="A line.", name="loss")
    ((bundle, options),) = notebook
    assert options == {
        "raw": True,
        "metadata": {"course": {"caption": "The loss.", "alt": "A line.", "name": "loss"}},
    }
    assert set(bundle) == {"image/png", "text/html", "text/plain"}
    assert bundle["text/plain"] == "A line."
    assert bundle["image/png"] in bundle["text/html"]
    assert not plt.fignum_exists(fig.number)


def test_the_picture_is_small_opaque_and_the_same_every_time(notebook):
    for _ in range(2):
        show(line_plot(), caption="The loss.", alt="A line.")
    first, second = (bundle["image/png"] for bundle, _ in notebook)
    assert first == second
    png = base64.b64decode(first)
    assert len(png) < 60_000 and b"Matplotlib" not in png
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)
    assert picture.getchannel("A").getextrema() == (255, 255)


def test_the_html_is_escaped_and_knows_a_little_markdown(notebook):
    caption = "If $a < b$ and $x_1 * y * z$, `f(a*b*c)` is **much** <i>less</i> *here*."
    show(line_plot(), caption=caption, alt='A "quoted" <line> & more')
    html = notebook[0][0]["text/html"]
    assert html.startswith(
        '<figure class="course-figure"><img alt="A &quot;quoted&quot; &lt;line&gt;'
    )
    assert html.endswith(
        "<figcaption>If $a &lt; b$ and $x_1 * y * z$, <code>f(a*b*c)</code> is "
        "<strong>much</strong> &lt;i&gt;less&lt;/i&gt; <em>here</em>.</figcaption></figure>"
    )


@pytest.mark.parametrize(
    "caption, alt, message",
    [(" ", "A line.", "caption"), ("Loss.", "", "alt text"), ("Loss.", "Loss. ", "repeats")],
)
def test_show_insists_on_a_description(notebook, caption, alt, message):
    with pytest.raises(ValueError, match=message):
        show(line_plot(), caption=caption, alt=alt)
    assert notebook == []


def test_show_is_quiet_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    fig = line_plot()
    show(fig, caption="The loss.", alt="A line.")
    assert capsys.readouterr() == ("", "")
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 1, 8, 6), (5, 3, 8, 6)])
def test_image_grid_shows_each_image(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    fig, axes = image_grid(images, titles=range(5), cols=3)
    assert len(axes) == 5 and len(fig.axes) == 6
    assert [ax.get_title() for ax in axes] == ["0", "1", "2", "3", "4"]
    for image, ax in zip(images, axes, strict=True):
        expected = image.permute(1, 2, 0) if image.shape[0] == 3 else image.reshape(8, 6)
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)


def test_grey_images_share_one_scale():
    _, axes = image_grid([torch.zeros(2, 2), torch.full((2, 2), 4.0)])
    assert [ax.images[0].get_clim() for ax in axes] == [(0, 4), (0, 4)]


def test_colours_keep_their_kind():
    _, axes = image_grid(torch.full((1, 3, 2, 2), 200, dtype=torch.uint8))
    assert axes[0].images[0].get_array().max() == 200
    _, axes = image_grid(torch.full((1, 3, 2, 2), 1.5, requires_grad=True))
    assert axes[0].images[0].get_array().max() == 1


@pytest.mark.parametrize("shape", [(8, 6), (5, 2, 8, 6), (0, 8, 6)])
def test_image_grid_names_the_shapes_that_it_takes(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        image_grid(torch.zeros(shape))


def test_image_grid_wants_one_title_for_each_image():
    with pytest.raises(ValueError, match="2 images, but 1 title"):
        image_grid(torch.zeros(2, 4, 4), titles=["one"])


@pytest.mark.parametrize(
    "highlight, cells",
    [
        (None, set()),
        (np.s_[0:2, 1:3], {(0, 1), (0, 2), (1, 1), (1, 2)}),
        ((1, 0), {(1, 0)}),
        (torch.tensor([[False, False, True], [True, False, False]]), {(0, 2), (1, 0)}),
    ],
)
def test_annotated_matrix_writes_numbers_and_fills_cells(highlight, cells):
    _, ax = figure()
    annotated_matrix(ax, torch.tensor([[1.0, 2.0, 0.5], [3.0, 4.0, -1.0]]), highlight=highlight)
    written = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    assert written == {
        (0, 0): "1", (0, 1): "2", (0, 2): "0.5", (1, 0): "3", (1, 1): "4", (1, 2): "-1",
    }  # fmt: skip
    filled = {
        (round(patch.get_y() + 0.5), round(patch.get_x() + 0.5))
        for patch in ax.patches
        if to_hex(patch.get_facecolor()) != "#ffffff"
    }
    assert filled == cells
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 is on top


def test_annotated_matrix_formats_and_insists_on_two_axes():
    _, ax = figure()
    annotated_matrix(ax, [[1, 2]], fmt="{:.1f}")
    assert [text.get_text() for text in ax.texts] == ["1.0", "2.0"]
    with pytest.raises(ValueError, match=r"two axes, not 1.*\(3,\)"):
        annotated_matrix(ax, [1, 2, 3])


def test_a_heavy_picture_is_lightened(notebook):
    fig, ax = figure()
    noise = np.random.default_rng(0).random((400, 600, 3))
    ax.imshow(noise)
    show(fig, caption="Noise.", alt="A picture of coloured noise, the worst case for a PNG.")
    ((bundle, _),) = notebook
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.mode == "P" and len(picture.getcolors()) <= 256
