"""Hidden tests of the chapter on attention modules for CNNs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)


@probe
def run_module(student, name, args, state, method, inputs, weight):
    """A module with given parameters: its output, and the gradients of sum(weight * output)."""
    module = getattr(student, name)(*args).to(inputs[0].device, inputs[0].dtype)
    module.load_state_dict(state)
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = (module if method == "forward" else getattr(module, method))(*leaves)
    if weight is None:
        return out.detach(), [], {}
    names = [n for n, _ in module.named_parameters()]
    wanted = [*leaves, *module.parameters()]
    grads = torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]
    k = len(leaves)
    return out.detach(), grads[:k], dict(zip(names, grads[k:], strict=True))


@probe
def new_module(student, name, args):
    """A new module: shapes of its parameters, which are zero, and what kind of thing it is."""
    module = getattr(student, name)(*args)
    parameters = dict(module.named_parameters())
    shapes = {n: list(p.shape) for n, p in parameters.items()}
    zero = {n: not bool(p.any()) for n, p in parameters.items()}
    return shapes, zero, isinstance(module, nn.Module)


@probe
def modes(student, name, args, state, inputs):
    """Outputs in training and in evaluation, and the number of buffers."""
    module = getattr(student, name)(*args).double()
    module.load_state_dict(state)
    with torch.no_grad():
        train = module.train()(*inputs)
        again = module.train()(*inputs)
        evaluation = module.eval()(*inputs)
    return train, again, evaluation, len(list(module.buffers()))


def numbers_for(student, name, args, dtype=torch.float64, device="cpu"):
    """Random parameters in the shapes of the student's module, in whatever order it has them."""
    shapes, _, _ = student.run(new_module, name, args)
    return {n: 0.5 * randn(*shapes[n], dtype=dtype, device=device) for n in sorted(shapes)}


def call(student, name, args, state, *inputs, method="forward"):
    return student.run(run_module, name, args, state, method, list(inputs), None)[0]


def assert_module_gradients(student, name, args, reference, *inputs):
    """Compare the gradients for inputs and parameters with those of reference(state, *inputs)."""
    state = numbers_for(student, name, args, inputs[0].dtype, inputs[0].device)
    leaves = [x.clone().requires_grad_() for x in inputs]
    own = {n: p.clone().requires_grad_() for n, p in state.items()}
    out = reference(own, *leaves)
    weight = randn(*out.shape, dtype=out.dtype, device=out.device)
    expected = torch.autograd.grad((out * weight).sum(), [*leaves, *own.values()])
    _, grads, by_name = student.run(run_module, name, args, state, "forward", list(inputs), weight)
    k = len(leaves)
    for i, (got, e) in enumerate(zip(grads, expected[:k], strict=True)):
        assert_close(got, e, f"the gradient with respect to input {i + 1}")
    for n, e in zip(own, expected[k:], strict=True):
        assert_close(by_name[n], e, f"the gradient with respect to {n}")


# --- cbam ------------------------------------------------------------------------------------


def shared(state, v, prefix=""):
    hidden = F.linear(v, state[f"{prefix}hidden.weight"], state[f"{prefix}hidden.bias"])
    return F.linear(hidden.relu(), state[f"{prefix}out.weight"], state[f"{prefix}out.bias"])


def channel(state, x, prefix=""):
    flat = x.flatten(2)
    score = shared(state, flat.mean(-1), prefix) + shared(state, flat.max(-1).values, prefix)
    return score.sigmoid()[..., None, None]


def spatial(state, x, prefix=""):
    maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
    weight, bias = state[f"{prefix}conv.weight"], state[f"{prefix}conv.bias"]
    return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2).sigmoid()


def cbam(state, x):
    x = channel(state, x, "channel.") * x
    return spatial(state, x, "spatial.") * x


@pytest.mark.exercise("cbam", points=7)
@pytest.mark.parametrize(
    "shape, r",
    [
        ((2, 8, 4, 5), 4),
        ((1, 6, 3, 7), 2),
        ((3, 5, 1, 1), 1),
        ((2, 3, 6, 2), 16),
        ((1, 9, 2, 3), 4),
    ],
)
def test_channel_attention(student, device, shape, r):
    """The channel weights should be sigmoid(m(mean) + m(maximum)), with max(1, c // r) units."""
    x, c = randn(*shape, device=device) - 0.5, shape[1]
    units = max(1, c // r)
    shapes, _, _ = student.run(new_module, "ChannelAttention", (c, r))
    assert_equal(
        shapes,
        {
            "hidden.weight": [units, c],
            "hidden.bias": [units],
            "out.weight": [c, units],
            "out.bias": [c],
        },
        f"the parameters of ChannelAttention({c}, {r})",
    )
    state = numbers_for(student, "ChannelAttention", (c, r), device=device)
    mean = shared(state, x.mean((2, 3)))
    top = shared(state, x.amax((2, 3)))
    assert_close(
        call(student, "ChannelAttention", (c, r), state, x),
        channel(state, x),
        "the channel weights",
        symptoms={
            "The maximum is missing.": mean.sigmoid()[..., None, None],
            "The mean is missing.": top.sigmoid()[..., None, None],
            "The two are added before they pass through the network.": shared(
                state, x.mean((2, 3)) + x.amax((2, 3))
            ).sigmoid()[..., None, None],
            "Each has its own sigmoid; add first, then one sigmoid.": (
                mean.sigmoid() + top.sigmoid()
            )[..., None, None],
            "This is the mean of the two; they should be added.": ((mean + top) / 2).sigmoid()[
                ..., None, None
            ],
        },
    )


@pytest.mark.exercise("cbam", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channel_weights_forget_places(student, device, dtype):
    """Shuffled pixels should leave the channel weights as they are; two pictures should differ."""
    state = numbers_for(student, "ChannelAttention", (4, 16), dtype, device)
    state["hidden.bias"] = state["hidden.bias"].abs() + 2  # the only hidden unit is awake
    x = randn(1, 4, 5, 3, dtype=dtype, device=device)
    shuffled = x.flatten(2)[:, :, torch.randperm(15)].view_as(x)
    both = call(student, "ChannelAttention", (4, 16), state, torch.cat([x, shuffled, 3 * x]))
    assert_shape(both, (3, 4, 1, 1), "the weights")
    assert_close(both[1], both[0], "the weights after a shuffle")
    assert_close(both, channel(state, torch.cat([x, shuffled, 3 * x])), "the weights")


@pytest.mark.exercise("cbam", points=6)
@pytest.mark.parametrize(
    "shape, k",
    [((2, 3, 6, 5), 7), ((1, 8, 4, 9), 3), ((3, 1, 5, 5), 1), ((2, 4, 2, 3), 5), ((1, 2, 1, 8), 7)],
)
def test_spatial_attention(student, device, shape, k):
    """The spatial weights should be the sigmoid of a convolution of mean and maximum maps."""
    shapes, _, _ = student.run(new_module, "SpatialAttention", (k,))
    assert_equal(
        shapes,
        {"conv.weight": [1, 2, k, k], "conv.bias": [1]},
        f"the parameters of SpatialAttention({k})",
    )
    x = randn(*shape, device=device)
    state = numbers_for(student, "SpatialAttention", (k,), device=device)
    expected = spatial(state, x)
    swapped = {**state, "conv.weight": state["conv.weight"].flip(1)}
    got = call(student, "SpatialAttention", (k,), state, x)
    assert_close(
        got,
        expected,
        "the spatial weights",
        symptoms={
            "The mean should be channel 0, the maximum channel 1.": spatial(swapped, x),
            "The maximum is taken of absolute values.": F.conv2d(
                torch.stack([x.mean(1), x.abs().amax(1)], 1),
                state["conv.weight"],
                state["conv.bias"],
                padding=k // 2,
            ).sigmoid(),
        },
    )


@pytest.mark.exercise("cbam", points=2)
@pytest.mark.parametrize("k", [2, 4, 8])
def test_even_kernels(student, k):
    """SpatialAttention should raise a ValueError for an even kernel, which has no middle."""
    with raises(ValueError):
        student.SpatialAttention(k)


@pytest.mark.exercise("cbam", points=5)
@pytest.mark.parametrize(
    "shape, r", [((2, 8, 6, 5), 2), ((1, 5, 9, 8), 16), ((3, 1, 3, 4), 1), ((2, 4, 1, 7), 4)]
)
def test_cbam(student, device, shape, r):
    """CBAM should gate the channels, then the places, by what the first gate let through."""
    c = shape[1]
    shapes, _, module = student.run(new_module, "CBAM", (c, r))
    assert_equal(module, True, "`isinstance(CBAM(c, r), nn.Module)`")
    assert_equal(shapes.get("spatial.conv.weight"), [1, 2, 7, 7], "the shape of the kernel")
    x = 2 * randn(*shape, device=device)
    state = numbers_for(student, "CBAM", (c, r), device=device)
    one = channel(state, x, "channel.")
    with unchanged(x):
        got = call(student, "CBAM", (c, r), state, x)
    assert_close(
        got,
        cbam(state, x),
        symptoms={
            "The second gate looks at x; it should look at what the first let through.": (
                spatial(state, x, "spatial.") * one * x
            ),
            "The places come first; the channels should.": (
                channel(state, spatial(state, x, "spatial.") * x, "channel.")
                * spatial(state, x, "spatial.")
                * x
            ),
            "Only the channels are gated.": one * x,
            "The input is added; CBAM only multiplies.": cbam(state, x) + x,
        },
    )


@pytest.mark.exercise("cbam", points=2)
def test_cbam_gradients_and_modes(student, device):
    """Gradients should reach the input and all parameters; train and eval should not differ."""
    x = randn(2, 6, 5, 4, device=device)
    assert_module_gradients(student, "CBAM", (6, 2), cbam, x)
    state = numbers_for(student, "CBAM", (6, 2))
    train, again, evaluation, buffers = student.run(
        modes, "CBAM", (6, 2), state, [randn(1, 6, 5, 4)]
    )
    assert_close(again, train, "the output of a second call")
    assert_close(evaluation, train, "the output in eval mode")
    assert_equal(buffers, 0, "the number of buffers")


# --- nonlocal --------------------------------------------------------------------------------


def conv_rows(state, name, x):
    """A 1x1 convolution of x, with pixels as rows."""
    y = torch.einsum("oc,nchw->nohw", state[f"{name}.weight"][:, :, 0, 0], x)
    return (y + state[f"{name}.bias"][:, None, None]).flatten(2).transpose(1, 2)


def conv_back(state, y, size):
    """The convolution `out` of pixels as rows, as a feature map."""
    y = y @ state["out.weight"][:, :, 0, 0].T + state["out.bias"]
    return y.transpose(1, 2).unflatten(2, size)


def nonlocal_block(state, x):
    q, k, v = (conv_rows(state, n, x) for n in ("theta", "phi", "g"))
    y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return x + conv_back(state, y, x.shape[2:])


@pytest.mark.exercise("nonlocal", points=4)
@pytest.mark.parametrize("args, inner", [((6, 4), 4), ((5,), 2), ((1,), 1), ((8,), 4), ((3, 7), 7)])
def test_new_block(student, args, inner):
    """A new block should be the identity: only `out` starts at zero, weight and bias."""
    c = args[0]
    shapes, zero, module = student.run(new_module, "NonLocal", args)
    expected, start = {}, {}
    for name in ("theta", "phi", "g"):
        expected |= {f"{name}.weight": [inner, c, 1, 1], f"{name}.bias": [inner]}
        start[f"{name}.weight"] = False
    expected |= {"out.weight": [c, inner, 1, 1], "out.bias": [c]}
    start |= {"out.weight": True, "out.bias": True}
    assert_equal(shapes, expected, f"the parameters of NonLocal{args}")
    assert_equal(module, True, "`isinstance(NonLocal(c), nn.Module)`")
    got = {n: zero[n] for n in start}
    assert_equal(got, start, "which parameters start at zero")
    x = randn(2, c, 3, 4, dtype=torch.float32)
    state = numbers_for(student, "NonLocal", args, torch.float32)
    state |= {n: torch.zeros_like(state[n]) for n in ("out.weight", "out.bias")}
    assert_close(call(student, "NonLocal", args, state, x), x, "the output while `out` is zero")


@pytest.mark.exercise("nonlocal", points=5)
@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (1, 4, 1, 7), (3, 4, 4, 1), (1, 4, 1, 1)])
def test_attention_weights(student, device, shape):
    """`attention` should be the softmax of theta times phi over the keys; rows add up to 1."""
    x = randn(*shape, device=device)
    state = numbers_for(student, "NonLocal", (4, 3), device=device)
    with unchanged(x):
        got = call(student, "NonLocal", (4, 3), state, x, method="attention")
    scores = conv_rows(state, "theta", x) @ conv_rows(state, "phi", x).transpose(1, 2)
    assert_close(
        got,
        scores.softmax(2),
        "the weights",
        symptoms={
            "The softmax runs over the queries; it should run over the keys.": scores.softmax(1),
            "The scores are scaled; here they are not.": (scores / math.sqrt(3)).softmax(2),
            "Keys are the rows; queries should be.": scores.transpose(1, 2).softmax(2),
        },
    )
    n = shape[2] * shape[3]
    assert_close(got.sum(2), torch.ones_like(got[..., 0]), "the sums of the rows")
    assert_shape(got, (shape[0], n, n), "the weights")


@pytest.mark.exercise("nonlocal", points=6)
@pytest.mark.parametrize(
    "shape, inner", [((2, 6, 3, 5), 4), ((1, 3, 5, 2), 3), ((3, 2, 1, 4), 5), ((1, 4, 6, 6), 1)]
)
def test_block_equals_sdpa(student, device, shape, inner):
    """The block should be x + out(attention), the library's attention with scale 1."""
    args = (shape[1], inner)
    x = randn(*shape, device=device)
    state = numbers_for(student, "NonLocal", args, device=device)
    expected = nonlocal_block(state, x)
    q, k, v = (conv_rows(state, n, x) for n in ("theta", "phi", "g"))
    y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    mixed = y.reshape(shape[0], inner, *shape[2:]).flatten(2).transpose(1, 2)
    with unchanged(x):
        got = call(student, "NonLocal", args, state, x)
    assert_close(
        got,
        expected,
        symptoms={
            "The input is not added.": expected - x,
            "Pixels and channels are mixed up: transpose before you cut into rows.": (
                x + conv_back(state, mixed, x.shape[2:])
            ),
            "The scores are scaled; here they are not.": x
            + conv_back(state, F.scaled_dot_product_attention(q, k, v), x.shape[2:]),
        },
    )


@pytest.mark.exercise("nonlocal", points=3)
def test_block_moves_with_a_shuffle(student, device):
    """Shuffled pixels should give the shuffled output; every pixel should see all others."""
    x = randn(2, 4, 3, 4, device=device)
    state = numbers_for(student, "NonLocal", (4,), device=device)
    perm = torch.randperm(12)
    shuffled = x.flatten(2)[:, :, perm].view_as(x)
    one = call(student, "NonLocal", (4,), state, x)
    other = call(student, "NonLocal", (4,), state, shuffled)
    assert_close(other, one.flatten(2)[:, :, perm].view_as(x), "the output of shuffled pixels")
    assert_close(one, nonlocal_block(state, x), "the output")


@pytest.mark.exercise("nonlocal", points=2)
def test_block_gradients(student, device):
    """Gradients should be those of the library; large scores should give no NaN."""
    x = randn(2, 5, 3, 2, device=device)
    assert_module_gradients(student, "NonLocal", (5, 3), nonlocal_block, x)
    state = numbers_for(student, "NonLocal", (5, 3), torch.float32, device)
    big = 60 * randn(1, 5, 2, 3, dtype=torch.float32, device=device)
    got = call(student, "NonLocal", (5, 3), state, big)
    assert_close(got, nonlocal_block(state, big), "the output for large inputs", rtol=1e-3)


# --- cgnl ------------------------------------------------------------------------------------


def all_pairs(t, p, g, groups=1, scale=False):
    """(t p^T) g with the matrix of all pairs, one picture and one group after the other."""
    out = []
    for a, b, c in zip(t, p, g, strict=True):
        parts = []
        for u, v, w in zip(a.chunk(groups), b.chunk(groups), c.chunk(groups), strict=True):
            matrix = torch.outer(u.flatten(), v.flatten())
            if scale:
                matrix = matrix / math.sqrt(u.numel())
            parts.append((matrix @ w.flatten()).view_as(u))
        out.append(torch.cat(parts))
    return torch.stack(out)


@pytest.mark.exercise("cgnl", points=6)
@pytest.mark.parametrize(
    "shape, groups",
    [((2, 6, 3, 4), 1), ((3, 6, 3, 4), 3), ((1, 4, 5, 2), 2), ((2, 5, 2, 3), 5), ((1, 8, 1, 1), 4)],
)
def test_all_pairs(student, device, shape, groups):
    """cgnl should equal (t p^T) g with the matrix of all pairs, in each picture and group."""
    t, p, g = (randn(*shape, device=device) for _ in range(3))
    with unchanged(t, p, g):
        got = student.cgnl(t, p, g, groups)
    c = shape[1]
    strided = [v.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2) for v in (t, p, g)]
    wrong = all_pairs(*strided, groups).unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    assert_close(
        got,
        all_pairs(t, p, g, groups),
        symptoms={
            "All channels share one sum; each group should have its own.": all_pairs(t, p, g),
            "A group is made of neighbouring channels.": wrong,
            "Each channel has its own sum; a group shares one.": all_pairs(t, p, g, c),
            "The pictures share a sum; each should have its own.": t
            * (p * g)
            .sum(0, keepdim=True)
            .reshape(1, groups, -1)
            .sum(-1)[0]
            .repeat_interleave(c // groups)[:, None, None],
        },
    )


@pytest.mark.exercise("cgnl", points=3)
@pytest.mark.parametrize("shape, groups", [((2, 6, 3, 5), 1), ((1, 6, 3, 5), 2), ((2, 4, 2, 7), 4)])
def test_scale(student, device, shape, groups):
    """With scale the sums should be divided by the root of C / groups * H * W."""
    t, p, g = (randn(*shape, device=device) for _ in range(3))
    plain = all_pairs(t, p, g, groups)
    _, c, h, w = shape
    assert_close(
        student.cgnl(t, p, g, groups=groups, scale=True),
        all_pairs(t, p, g, groups, True),
        symptoms={
            "The scale is not used.": plain,
            "The root is missing.": plain / (c // groups * h * w),
            "The root is of C H W; a group has C / groups channels.": plain / math.sqrt(c * h * w),
            "The root is of H W; the channels of the group count, too.": plain / math.sqrt(h * w),
        },
    )
    assert_close(student.cgnl(t, p, g, groups), plain, "the output without scale")


@probe
def largest(student, shape, groups):
    """The most numbers in a result of any operation within cgnl."""
    seen = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                seen.append(out.numel())
            return out

    t, p, g = torch.ones(3, *shape).unbind(0)
    with Watch():
        student.cgnl(t, p, g, groups)
    return max(seen)


@pytest.mark.exercise("cgnl", points=5)
@pytest.mark.parametrize("shape, groups", [((1, 4, 12, 10), 1), ((2, 6, 8, 8), 2)])
def test_linear_memory(student, shape, groups):
    """No tensor on the way should be larger than the inputs: move the brackets."""
    made = student.run(largest, shape, groups)
    allowed = math.prod(shape)
    assert_equal(max(made, allowed), allowed, "the numbers in the largest tensor (at most)")


@pytest.mark.exercise("cgnl", points=3)
@pytest.mark.parametrize("channels, groups", [(4, 3), (6, 4), (2, 4), (5, 2)])
def test_groups_must_divide(student, channels, groups):
    """cgnl should raise a ValueError when groups does not divide the channels."""
    t, p, g = (randn(1, channels, 3, 4) for _ in range(3))
    with raises(ValueError):
        student.cgnl(t, p, g, groups)


@pytest.mark.exercise("cgnl", points=3)
def test_cgnl_gradients_and_layouts(student, device):
    """Gradients, float32, the defaults and channels_last inputs should work as the definition."""
    t, p, g = (randn(2, 4, 3, 2, device=device) for _ in range(3))
    assert_same_gradients(
        lambda *v: student.cgnl(*v, 2, True), lambda *v: all_pairs(*v, 2, True), t, p, g
    )
    last = [v.to(memory_format=torch.channels_last) for v in (t, p, g)]
    assert_close(
        student.cgnl(*last, groups=2), all_pairs(t, p, g, 2), "the output of channels_last"
    )
    one = [v.float() for v in (t, p, g)]
    assert_close(student.cgnl(*one), all_pairs(t, p, g).float(), "the output in float32")


# --- cross -----------------------------------------------------------------------------------


def cross_layer(state, x, y):
    q, k, v = conv_rows(state, "query", x), conv_rows(state, "key", y), conv_rows(state, "value", y)
    o = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return x + conv_back(state, o, x.shape[2:])


PAIRS = [
    ((2, 6, 4, 5), (2, 3, 2, 3), 4),
    ((1, 2, 2, 3), (1, 5, 6, 4), 3),
    ((3, 4, 1, 6), (3, 4, 5, 1), 2),
    ((1, 3, 5, 5), (1, 7, 1, 1), 5),
]


@pytest.mark.exercise("cross", points=2)
@pytest.mark.parametrize("args", [(6, 3, 4), (2, 5, 3)])
def test_cross_parameters(student, args):
    """The four convolutions should have the widths of the docstring, with bias."""
    cq, ck, c = args
    shapes, _, module = student.run(new_module, "CrossLayer", args)
    assert_equal(
        shapes,
        {
            "query.weight": [c, cq, 1, 1],
            "query.bias": [c],
            "key.weight": [c, ck, 1, 1],
            "key.bias": [c],
            "value.weight": [c, ck, 1, 1],
            "value.bias": [c],
            "out.weight": [cq, c, 1, 1],
            "out.bias": [cq],
        },
        f"the parameters of CrossLayer{args}",
    )
    assert_equal(module, True, "`isinstance(CrossLayer(cq, ck, c), nn.Module)`")


@pytest.mark.exercise("cross", points=4)
@pytest.mark.parametrize("one, other, c", PAIRS)
def test_cross_attention(student, device, one, other, c):
    """The weights should have a row for each place of x, adding up to 1 over those of y."""
    x, y = randn(*one, device=device), randn(*other, device=device)
    args = (one[1], other[1], c)
    state = numbers_for(student, "CrossLayer", args, device=device)
    with unchanged(x, y):
        got = call(student, "CrossLayer", args, state, x, y, method="attention")
    scores = conv_rows(state, "query", x) @ conv_rows(state, "key", y).transpose(1, 2)
    assert_close(
        got,
        scores.softmax(2),
        "the weights",
        symptoms={
            "The softmax runs over the queries; it should run over the keys.": scores.softmax(1),
            "The scores are scaled; here they are not.": (scores / math.sqrt(c)).softmax(2),
        },
    )
    assert_close(got.sum(2), torch.ones_like(got[..., 0]), "the sums of the rows")


@pytest.mark.exercise("cross", points=6)
@pytest.mark.parametrize("one, other, c", PAIRS)
def test_cross_equals_sdpa(student, device, one, other, c):
    """The output should be x + out(attention), with the library's attention and scale 1."""
    x, y = randn(*one, device=device), randn(*other, device=device)
    args = (one[1], other[1], c)
    state = numbers_for(student, "CrossLayer", args, device=device)
    expected = cross_layer(state, x, y)
    q, k, v = conv_rows(state, "query", x), conv_rows(state, "key", y), conv_rows(state, "value", y)
    o = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    mixed = o.reshape(one[0], c, *one[2:]).flatten(2).transpose(1, 2)
    raw = F.scaled_dot_product_attention(q, k, k, scale=1.0)
    with unchanged(x, y):
        got = call(student, "CrossLayer", args, state, x, y)
    assert_close(
        got,
        expected,
        symptoms={
            "x is not added.": expected - x,
            "Places and channels are mixed up: permute before you cut into rows.": (
                x + conv_back(state, mixed, x.shape[2:])
            ),
            "The keys are used as values.": x + conv_back(state, raw, x.shape[2:]),
        },
    )


@pytest.mark.exercise("cross", points=3)
def test_cross_gradients(student, device):
    """Gradients should reach both layers and all parameters; float32 and eval should work."""
    x, y = randn(2, 4, 3, 2, device=device), randn(2, 5, 2, 2, device=device)
    assert_module_gradients(student, "CrossLayer", (4, 5, 3), cross_layer, x, y)
    state = numbers_for(student, "CrossLayer", (4, 5, 3), torch.float32, device)
    got = call(student, "CrossLayer", (4, 5, 3), state, x.float(), y.float())
    assert_close(got, cross_layer(state, x.float(), y.float()), "the output in float32")
    state = numbers_for(student, "CrossLayer", (4, 5, 3))
    train, again, evaluation, _ = student.run(
        modes, "CrossLayer", (4, 5, 3), state, [randn(1, 4, 3, 2), randn(1, 5, 2, 2)]
    )
    assert_close(again, train, "the output of a second call")
    assert_close(evaluation, train, "the output in eval mode")


# --- stn -------------------------------------------------------------------------------------


def maps_near_identity(n, device="cpu", dtype=torch.float64):
    theta = torch.eye(2, 3, dtype=dtype, device=device).repeat(n, 1, 1)
    return theta + 0.4 * randn(n, 2, 3, dtype=dtype, device=device)


@pytest.mark.exercise("stn", points=4)
@pytest.mark.parametrize("size", [(2, 3, 4, 6), (1, 1, 5, 3), (3, 2, 1, 7), (2, 1, 6, 1)])
def test_grid_equals_torch(student, device, size):
    """affine_grid should equal F.affine_grid with align_corners=False, for any size."""
    theta = maps_near_identity(size[0], device)
    with unchanged(theta):
        got = student.affine_grid(theta, size)
    expected = F.affine_grid(theta, size, align_corners=False)
    symptoms = {"x and y have changed places in the result.": expected.flip(3)}
    if min(size[2:]) > 1:
        symptoms["The outermost centres are at -1 and 1; the edges should be."] = F.affine_grid(
            theta, size, align_corners=True
        )
    assert_close(got, expected, "the grid", atol=1e-6, symptoms=symptoms)


@pytest.mark.exercise("stn", points=6)
@pytest.mark.parametrize(
    "shape, out",
    [
        ((2, 3, 5, 4), (3, 6)),
        ((1, 1, 7, 2), (4, 4)),
        ((3, 2, 1, 6), (5, 1)),
        ((2, 4, 3, 1), (2, 3)),
    ],
)
def test_sampler_equals_torch(student, device, shape, out):
    """grid_sample should equal F.grid_sample, with zeros outside, for any sizes."""
    x = randn(*shape, device=device) + 1
    grid = 1.6 * (2 * rand(shape[0], *out, 2, device=device) - 1)
    with unchanged(x, grid):
        got = student.grid_sample(x, grid)
    assert_close(
        got,
        F.grid_sample(x, grid, align_corners=False),
        symptoms={
            "x should choose the column, y the row.": F.grid_sample(
                x, grid.flip(3), align_corners=False
            ),
            "-1 and 1 are the outer edges, not the outermost centres.": F.grid_sample(
                x, grid, align_corners=True
            ),
            "Outside, the border is repeated; it should be zeros.": F.grid_sample(
                x, grid, align_corners=False, padding_mode="border"
            ),
            "This is the nearest pixel, not a mean of four.": F.grid_sample(
                x, grid, align_corners=False, mode="nearest"
            ),
        },
    )


@pytest.mark.exercise("stn", points=3)
def test_known_pictures(student, device):
    """The identity should give x back, far places zeros, and float32 stay float32."""
    x = randn(2, 3, 5, 6, device=device)
    eye = torch.eye(2, 3, dtype=x.dtype, device=device).repeat(2, 1, 1)
    grid = F.affine_grid(eye, x.shape, align_corners=False)
    got = student.affine_grid(eye, x.shape)
    assert_close(got, grid, "the grid of the identity", atol=1e-6)
    assert_close(student.grid_sample(x, grid), x, "the picture read by the identity")
    flip = grid * torch.tensor([-1.0, 1.0], dtype=x.dtype, device=device)
    assert_close(student.grid_sample(x, flip), x.flip(3), "the picture read from right to left")
    assert_close(student.grid_sample(x, grid + 50), torch.zeros_like(x), "the picture far outside")
    theta = maps_near_identity(2, device, torch.float32)
    small = student.affine_grid(theta, (2, 3, 4, 3))
    expected = F.affine_grid(theta, (2, 3, 4, 3), align_corners=False)
    assert_close(small, expected, "the grid in float32")
    got = student.grid_sample(x.float(), expected)
    expected = F.grid_sample(x.float(), expected, align_corners=False)
    assert_close(got, expected, "the picture in float32")


@pytest.mark.exercise("stn", points=4)
def test_sampler_gradients(student, device):
    """Gradients should reach the picture and, through the grid, theta."""
    x, theta = randn(2, 2, 5, 6, device=device), maps_near_identity(2, device)
    size = (2, 2, 4, 2)

    def read(x, theta):
        return student.grid_sample(x, student.affine_grid(theta, size))

    def library(x, theta):
        grid = F.affine_grid(theta, size, align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    assert_same_gradients(read, library, x, theta)
    x = randn(1, 1, 4, 5, requires_grad=True)
    theta = (0.5 * maps_near_identity(1)).requires_grad_()
    assert_gradcheck(
        lambda x, theta: student.grid_sample(x, student.affine_grid(theta, (1, 1, 2, 2))), x, theta
    )


@pytest.mark.exercise("stn", points=3)
@pytest.mark.parametrize("h, w", [(4, 8), (2, 2), (8, 1)])
def test_slope_on_pixels(student, device, h, w):
    """On the pixels themselves the slope should be the one to the next pixel, as in torch."""
    x = randn(1, 2, h, w, device=device)  # powers of two: places on pixels are exact
    eye = torch.eye(2, 3, dtype=x.dtype, device=device)[None]
    grid = F.affine_grid(eye, x.shape, align_corners=False)
    assert_same_gradients(
        student.grid_sample,
        lambda x, grid: F.grid_sample(x, grid, align_corners=False),
        x,
        grid,
        what="the gradient on the pixels",
    )
