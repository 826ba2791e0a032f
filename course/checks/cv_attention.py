"""Public checks of the chapter on attention modules for CNNs."""

import math

import pytest
import torch
import torch.nn.functional as F

from course.testing import assert_close, assert_equal, probe, raises

HINTS = {
    "cbam": [
        "Channel: what has one number left for each channel is a mean or a maximum over axes 2 "
        "and 3. Spatial: over axis 1.",
        "`x.amax((2, 3))` is the maximum over two axes. `nn.Linear` wants (N, c); two axes of "
        "length one are put back at the end, so that the weights broadcast.",
        "Add the two results of the shared network *before* the sigmoid. The padding that keeps "
        "the size is k // 2. CBAM's second gate is computed from what the first let through.",
    ],
    "nonlocal": [
        "`flatten(2)` makes (N, inner, HW): a pixel is a column. `transpose(1, 2)` makes it a row.",
        "Row i of A belongs to query i: theta with pixels as rows times phi with pixels as "
        "columns, and softmax over the keys.",
        "A times g has pixels as rows. Transpose back *first*, then `unflatten(2, x.shape[2:])`, "
        "then `out`, then add x. `nn.init.zeros_` fills a parameter.",
    ],
    "cross": [
        "The same as a non-local block, only that keys and values come from y.",
        "A has a row for each position of x and a column for each position of y: (N, H1 W1, "
        "H2 W2). `permute(0, 2, 1)` makes pixels rows.",
        "A @ v has a row for each position of x; bring it to (N, c, H1, W1) by a permutation and "
        "`unflatten`, with *x*'s height and width.",
    ],
    "cgnl": [
        "In one group the answer is t times one number. Which one?",
        "(p * g) summed over everything that belongs to a sample and a group. "
        "`reshape(n, groups, -1)` puts a group's numbers on the last axis.",
        "Keep the summed axis (`keepdim=True`), so that s broadcasts against t as "
        "(n, groups, -1). With `scale`, divide s by the root of the length of that axis.",
    ],
    "stn": [
        "`affine_grid`: the centres of the columns are (2 j + 1) / w - 1. Make all (x, y, 1), "
        "shape (H, W, 3), and multiply by theta transposed.",
        "`grid_sample`: x says the column, y the row. Go back to pixels, take the floor, and call "
        "the rest b and a.",
        "Write a small function that reads the pixels (i, j): clamp the indices so that they are "
        "allowed, and multiply by 0 where they were outside. `x[n, :, i, j]` with index tensors "
        "of shape (N, H, W) gives (N, H, W, C).",
    ],
    "debug": [
        "How long, in pixels, is one unit of x? And one of y?",
        "Go to pixels, turn, come back: the place in pixels is (x w / 2, y h / 2).",
        "What does that put next to each sine? The cosines stay as they are.",
    ],
}

IMAGE = torch.tensor([[[[0.0, 1.0, 2.0], [0.0, 0.0, 3.0]], [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]])


@probe
def channel_attention(student, args, state, *inputs):
    """The output for given parameters; without them, their shapes."""
    module = student.ChannelAttention(*args)
    if state is None:
        return {n: list(p.shape) for n, p in module.named_parameters()}
    module.load_state_dict(state)
    with torch.no_grad():
        return module(*inputs)


@probe
def spatial_attention(student, args, state, *inputs):
    """The output for given parameters; without them, their shapes."""
    module = student.SpatialAttention(*args)
    if state is None:
        return {n: list(p.shape) for n, p in module.named_parameters()}
    module.load_state_dict(state)
    with torch.no_grad():
        return module(*inputs)


@probe
def cbam(student, args, state, *inputs):
    """The output for given parameters; without them, their shapes."""
    module = student.CBAM(*args)
    if state is None:
        return {n: list(p.shape) for n, p in module.named_parameters()}
    module.load_state_dict(state)
    with torch.no_grad():
        return module(*inputs)


@probe
def non_local(student, args, state, *inputs):
    """Weights and output for given parameters; without them, their shapes."""
    module = student.NonLocal(*args)
    if state is None:
        return {n: list(p.shape) for n, p in module.named_parameters()}
    module.load_state_dict(state)
    with torch.no_grad():
        return module.attention(*inputs), module(*inputs)


@probe
def cross_layer(student, args, state, *inputs):
    """Weights and output for given parameters; without them, their shapes."""
    module = student.CrossLayer(*args)
    if state is None:
        return {n: list(p.shape) for n, p in module.named_parameters()}
    module.load_state_dict(state)
    with torch.no_grad():
        return module.attention(*inputs), module(*inputs)


def made_up(shapes):
    """Small parameters of the given shapes, the same every time."""
    return {
        name: torch.linspace(-1, 1, math.prod(s)).view(s) + 0.1 * k
        for k, (name, s) in enumerate(shapes.items())
    }


@pytest.mark.exercise("cbam")
def test_channel_weights(student):
    """The channel weights are the sigmoid of the network's answers to mean and maximum, added."""
    eye = {"hidden.weight": torch.eye(2), "hidden.bias": torch.zeros(2)}
    eye |= {"out.weight": torch.eye(2), "out.bias": torch.zeros(2)}
    got = student.run(channel_attention, (2, 1), eye, IMAGE)
    mean, top = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0])
    assert_close(
        got,
        torch.sigmoid(mean + top).view(1, 2, 1, 1),
        "the channel weights",
        symptoms={
            "The maximum is missing.": torch.sigmoid(mean).view(1, 2, 1, 1),
            "The mean is missing.": torch.sigmoid(top).view(1, 2, 1, 1),
            "The sigmoid is missing.": (mean + top).view(1, 2, 1, 1),
            "Add first, then one sigmoid.": (mean.sigmoid() + top.sigmoid()).view(1, 2, 1, 1),
        },
    )


@pytest.mark.exercise("cbam")
def test_few_channels(student):
    """There are c // r hidden units, and one where this would be none."""
    for args, units in (((32, 16), 2), ((4, 16), 1)):
        shapes = student.run(channel_attention, args, None)
        expected = {"hidden.weight": [units, args[0]], "hidden.bias": [units]}
        expected |= {"out.weight": [args[0], units], "out.bias": [args[0]]}
        assert_equal(shapes, expected, f"the parameters of ChannelAttention{args}")


@pytest.mark.exercise("cbam")
def test_spatial_weights(student):
    """The spatial weights see the mean (first) and the maximum over the channels."""
    state = {"conv.weight": torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)}
    state |= {"conv.bias": torch.tensor([0.5])}
    got = student.run(spatial_attention, (1,), state, IMAGE)
    mean, top = IMAGE.mean(1, keepdim=True), IMAGE.amax(1, keepdim=True)
    assert_close(
        got,
        torch.sigmoid(mean - 2 * top + 0.5),
        "the spatial weights",
        symptoms={
            "The mean should come first, the maximum second.": torch.sigmoid(top - 2 * mean + 0.5),
            "The sigmoid is missing.": mean - 2 * top + 0.5,
        },
    )
    with raises(ValueError):
        student.SpatialAttention(4)


@pytest.mark.exercise("cbam")
def test_one_gate_after_the_other(student):
    """CBAM multiplies by the channel weights, then by the spatial weights of the product."""
    state = {"channel.hidden.weight": torch.eye(2), "channel.hidden.bias": torch.zeros(2)}
    state |= {"channel.out.weight": torch.eye(2), "channel.out.bias": torch.zeros(2)}
    kernel = torch.zeros(1, 2, 7, 7)
    kernel[0, 0, 3, 3] = 1.0
    state |= {"spatial.conv.weight": kernel, "spatial.conv.bias": torch.zeros(1)}
    got = student.run(cbam, (2, 1), state, IMAGE)
    gated = torch.sigmoid(torch.tensor([4.0, 1.0])).view(1, 2, 1, 1) * IMAGE
    assert_close(
        got,
        torch.sigmoid(gated.mean(1, keepdim=True)) * gated,
        symptoms={
            "The second gate looks at x; it should look at what the first let through.": (
                torch.sigmoid(IMAGE.mean(1, keepdim=True)) * gated
            ),
            "Only the first gate is applied.": gated,
        },
    )


NL_SHAPES = {
    "theta.weight": (2, 3, 1, 1),
    "theta.bias": (2,),
    "phi.weight": (2, 3, 1, 1),
    "phi.bias": (2,),
    "g.weight": (2, 3, 1, 1),
    "g.bias": (2,),
    "out.weight": (3, 2, 1, 1),
    "out.bias": (3,),
}


def rows(x, state, name):
    """A 1x1 convolution of x, pixels as rows."""
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]).flatten(2).transpose(1, 2)


@pytest.mark.exercise("nonlocal")
def test_starts_as_the_identity(student):
    """A new block gives back its input, and its parameters have the names of the docstring."""
    assert_equal(
        student.run(non_local, (3, 2), None),
        {n: list(s) for n, s in NL_SHAPES.items()},
        "the parameters of NonLocal(3, 2)",
    )
    x = torch.arange(18.0).view(1, 3, 2, 3)
    with torch.no_grad():
        assert_close(student.NonLocal(3)(x), x, "the output of a new block")


@pytest.mark.exercise("nonlocal")
def test_rows_of_the_weights(student):
    """`attention` has a row for each query, adding up to 1 over the keys, without scaling."""
    x = torch.linspace(-1, 1, 18).view(1, 3, 2, 3).sin()
    state = made_up(NL_SHAPES)
    got, _ = student.run(non_local, (3, 2), state, x)
    scores = rows(x, state, "theta") @ rows(x, state, "phi").transpose(1, 2)
    assert_close(
        got,
        scores.softmax(2),
        "the weights",
        symptoms={
            "The softmax runs over the queries; it should run over the keys.": scores.softmax(1),
            "The scores are divided by a root; here they are not.": (scores / math.sqrt(2)).softmax(
                2
            ),
            "Keys are the rows; queries should be.": scores.transpose(1, 2).softmax(2),
        },
    )


@pytest.mark.exercise("nonlocal")
def test_block(student):
    """The output is x plus the last convolution of the weighted values, pixel for pixel."""
    x = torch.linspace(-1, 1, 18).view(1, 3, 2, 3).sin()
    state = made_up(NL_SHAPES)
    _, got = student.run(non_local, (3, 2), state, x)
    q, k, v = (rows(x, state, n) for n in ("theta", "phi", "g"))
    y = F.scaled_dot_product_attention(q, k, v, scale=1.0)

    def back(y):
        return F.conv2d(y, state["out.weight"], state["out.bias"])

    right = back(y.transpose(1, 2).reshape(1, 2, 2, 3))
    assert_close(
        got,
        x + right,
        symptoms={
            "The input is not added.": right,
            "The pixels are mixed up: transpose back before you cut into rows.": (
                x + back(y.reshape(1, 2, 2, 3))
            ),
        },
    )


T = torch.tensor([1.0, 2.0, -1.0, 3.0, 0.0, 1.0, 2.0, -2.0]).view(1, 4, 1, 2)
P = torch.tensor([3.0, 0.0, 1.0, 1.0, -1.0, 2.0, 0.0, 1.0]).view(1, 4, 1, 2)
G = torch.tensor([2.0, 5.0, -4.0, 1.0, 1.0, 1.0, 3.0, 2.0]).view(1, 4, 1, 2)


@pytest.mark.exercise("cgnl")
def test_one_group(student):
    """With one group the output is t times the sum of p g, over channels and positions."""
    s = 6.0  # 6 + 0 - 4 + 1 - 1 + 2 + 0 + 2
    per_channel = (P * G).sum((2, 3), keepdim=True)
    assert_close(
        student.cgnl(T, P, G),
        s * T,
        symptoms={
            "Each channel has its own sum; a group shares one.": per_channel * T,
            "Multiply the queries t, not the values.": s * G,
        },
    )
    two = torch.cat([T, 2 * T])
    got = student.cgnl(two, torch.cat([P, P]), torch.cat([G, 0 * G]))
    assert_close(got, torch.cat([s * T, 0 * T]), "the output for two pictures")


@pytest.mark.exercise("cgnl")
def test_groups_and_scale(student):
    """Neighbouring channels form a group with a sum of its own; `scale` divides by its root."""
    sums = torch.tensor([3.0, 3.0, 3.0, 3.0]).view(1, 4, 1, 1)  # 6 + 0 - 4 + 1, -1 + 2 + 0 + 2
    assert_close(student.cgnl(T, P, 2 * G, 2), 2 * sums * T, "the output for groups=2")
    mixed = G * torch.tensor([1.0, 1.0, 2.0, 2.0]).view(1, 4, 1, 1)
    factors = torch.tensor([3.0, 3.0, 6.0, 6.0]).view(1, 4, 1, 1)
    assert_close(
        student.cgnl(T, P, mixed, groups=2, scale=True),
        factors / 2 * T,
        "the output for groups=2, scale=True",
        symptoms={
            "The scale takes all channels; a group has C / groups of them.": (
                factors / math.sqrt(8) * T
            ),
            "Groups are of neighbouring channels, not of every second one.": (
                torch.tensor([6.0, 3.0, 6.0, 3.0]).view(1, 4, 1, 1) / 2 * T
            ),
        },
    )
    with raises(ValueError):
        student.cgnl(T, P, G, groups=3)


CROSS_SHAPES = {
    "query.weight": (2, 3, 1, 1),
    "query.bias": (2,),
    "key.weight": (2, 4, 1, 1),
    "key.bias": (2,),
    "value.weight": (2, 4, 1, 1),
    "value.bias": (2,),
    "out.weight": (3, 2, 1, 1),
    "out.bias": (3,),
}
FINE = torch.linspace(-1, 1, 18).view(1, 3, 2, 3).sin()
COARSE = torch.linspace(2, -1, 8).view(1, 4, 1, 2).cos()


@pytest.mark.exercise("cross")
def test_cross_weights(student):
    """`attention` has a row for each place of x and a column for each place of y."""
    assert_equal(
        student.run(cross_layer, (3, 4, 2), None),
        {n: list(s) for n, s in CROSS_SHAPES.items()},
        "the parameters of CrossLayer(3, 4, 2)",
    )
    state = made_up(CROSS_SHAPES)
    got, _ = student.run(cross_layer, (3, 4, 2), state, FINE, COARSE)
    scores = rows(FINE, state, "query") @ rows(COARSE, state, "key").transpose(1, 2)
    assert_close(
        got,
        scores.softmax(2),
        "the weights",
        symptoms={
            "The softmax runs over the queries; it should run over the keys.": scores.softmax(1),
            "The scores are divided by a root; here they are not.": (scores / math.sqrt(2)).softmax(
                2
            ),
        },
    )


@pytest.mark.exercise("cross")
def test_cross_output(student):
    """The output has the shape of x: x plus what each of its places collects from y."""
    state = made_up(CROSS_SHAPES)
    _, got = student.run(cross_layer, (3, 4, 2), state, FINE, COARSE)
    q = rows(FINE, state, "query")
    k, v = rows(COARSE, state, "key"), rows(COARSE, state, "value")
    y = F.scaled_dot_product_attention(q, k, v, scale=1.0)

    def back(y):
        return F.conv2d(y, state["out.weight"], state["out.bias"])

    right = back(y.transpose(1, 2).reshape(1, 2, 2, 3))
    assert_close(
        got,
        FINE + right,
        symptoms={
            "x is not added.": right,
            "The places are mixed up: permute back before you cut into rows.": (
                FINE + back(y.reshape(1, 2, 2, 3))
            ),
        },
    )


MAPS = torch.tensor([[[0.5, 0.0, 0.25], [0.0, 2.0, 0.0]], [[0.0, -1.0, 0.0], [1.0, 0.0, 0.5]]])


@pytest.mark.exercise("stn")
def test_small_grid(student):
    """`affine_grid` maps the pixel centres of the output, x first, then y."""
    size = (2, 1, 2, 4)
    expected = F.affine_grid(MAPS, size, align_corners=False)
    assert_close(
        student.affine_grid(MAPS, size),
        expected,
        "the grid",
        symptoms={
            "x and y have changed places.": expected.flip(3),
            "The outermost *centres* are at -1 and 1; the edges should be.": F.affine_grid(
                MAPS, size, align_corners=True
            ),
        },
    )


@pytest.mark.exercise("stn")
def test_reading_between_pixels(student):
    """`grid_sample` reads bilinearly, x along the columns; outside there are zeros."""
    x = torch.tensor([[10.0, 20.0, 40.0, 80.0], [0.0, 4.0, 8.0, 0.0]]).view(1, 1, 2, 4)
    grid = torch.tensor([[[-0.125, -0.5], [0.25, 0.0], [1.0, -0.5], [0.0, -1.0], [3.0, 0.0]]])
    expected = torch.tensor([[[[25.0, 24.0, 40.0, 15.0, 0.0]]]])
    assert_close(
        student.grid_sample(x, grid[None]),
        expected,
        symptoms={
            "x should choose the column, y the row.": F.grid_sample(
                x, grid[None].flip(3), align_corners=False
            ),
            "-1 and 1 are the outer edges, not the outermost centres.": F.grid_sample(
                x, grid[None], align_corners=True
            ),
            "Outside, the border is repeated; it should be zeros.": F.grid_sample(
                x, grid[None], align_corners=False, padding_mode="border"
            ),
            "This is the nearest pixel, not a mean of four.": F.grid_sample(
                x, grid[None], align_corners=False, mode="nearest"
            ),
        },
    )


@pytest.mark.exercise("stn")
def test_slope_on_a_pixel(student):
    """On a pixel the gradient with respect to the place is the slope to the next pixel."""
    x = torch.tensor([10.0, 20.0, 40.0, 80.0]).view(1, 1, 1, 4)
    places = torch.tensor([-0.25, 0.0]).requires_grad_()  # on column 1, and between 1 and 2
    grid = torch.stack([places, torch.zeros(2)], -1).view(1, 1, 2, 2)
    got = torch.autograd.grad(student.grid_sample(x, grid).sum(), places)[0]
    assert_close(got, torch.tensor([40.0, 40.0]), "the gradient (half a picture is two pixels)")


@pytest.mark.exercise("debug")
def test_lengths_in_pixels(student):
    """`rotation` keeps distances in pixels when the picture is not square."""
    half = math.sqrt(3) / 2
    assert_close(
        student.rotation(math.pi / 6, 2, 4),
        torch.tensor([[half, -0.25, 0.0], [1.0, half, 0.0]]),
        "30° of 2 x 4 pixels",
        symptoms={
            "This is right for square pictures only.": torch.tensor(
                [[half, -0.5, 0.0], [0.5, half, 0.0]]
            ),
            "Height and width have changed places.": torch.tensor(
                [[half, -1.0, 0.0], [0.25, half, 0.0]]
            ),
        },
    )
    square = student.rotation(math.pi / 6, 5, 5)
    assert_close(square, torch.tensor([[half, -0.5, 0.0], [0.5, half, 0.0]]), "30° of 5 x 5 pixels")
