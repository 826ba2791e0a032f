"""Hidden tests of the chapter on ViT, Swin and MAE."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_shape,
    assert_true,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)

# --- patchify --------------------------------------------------------------------------------

PICTURES = [
    ((1, 1, 4, 6), 2),
    ((2, 3, 6, 9), 3),
    ((3, 2, 5, 5), 5),
    ((2, 4, 3, 2), 1),
    ((1, 2, 12, 4), 4),
    ((0, 3, 4, 4), 2),
]


@pytest.mark.exercise("patchify", points=4)
@pytest.mark.parametrize("shape, p", PICTURES)
def test_patches_equal_unfold(student, device, shape, p):
    """patchify should give the patches row by row, each with channel, row and column in order."""
    x = randn(*shape, device=device)
    with unchanged(x):
        got = student.patchify(x, p)
    expected = F.unfold(x, p, stride=p).mT if len(x) else x.new_zeros(0, 4, 12)
    assert_close(
        got,
        expected,
        "the patches",
        symptoms={
            "The channel should vary slowest in a patch.": expected.unflatten(2, (-1, p * p))
            .transpose(2, 3)
            .flatten(2),
            "In a patch the row should vary more slowly than the column.": expected.unflatten(
                2, (-1, p, p)
            ).mT.flatten(2),
        },
    )


@pytest.mark.exercise("patchify", points=3)
@pytest.mark.parametrize("shape, p", PICTURES)
def test_round_trip(student, device, shape, p):
    """unpatchify should put the picture together again, bit for bit, without changing its input."""
    x = randn(*shape, device=device, dtype=torch.float32)
    _, _, h, w = shape
    t = F.unfold(x, p, stride=p).mT if len(x) else x.new_zeros(0, 4, 12)
    with unchanged(t):
        got = student.unpatchify(t, p, h, w)
    c = shape[1]
    orders = (t.unflatten(2, (-1, c)).mT, t.unflatten(2, (c, p, p)).mT) if len(x) else ()
    mixed = [F.fold(order.flatten(2).mT, (h, w), p, stride=p) for order in orders] or [x, x]
    assert_close(
        got,
        x,
        "the picture",
        rtol=0,
        atol=0,
        symptoms={
            "In a patch the channel should vary slowest, not fastest.": mixed[0],
            "In a patch the row should vary more slowly than the column.": mixed[1],
        },
    )


@pytest.mark.exercise("patchify", points=1)
def test_photograph(student):
    """A picture of 224 x 224 pixels in patches of 16 should be 196 vectors of 768 numbers."""
    x = rand(1, 3, 224, 224, dtype=torch.float32)
    got = student.patchify(x, 16)
    assert_shape(got, (1, 196, 768), "the patches")
    assert_close(got[0, 15], x[0, :, 16:32, 16:32].flatten(), "patch 15")


@pytest.mark.exercise("patchify", points=1)
def test_patch_gradients(student, device):
    """Gradients should flow through patchify and unpatchify to the numbers they move."""
    x, t = randn(2, 2, 4, 6, device=device), randn(1, 6, 12, device=device)
    assert_same_gradients(
        lambda x: student.patchify(x, 2), lambda x: F.unfold(x, 2, stride=2).mT, x
    )
    assert_same_gradients(
        lambda t: student.unpatchify(t, 2, 4, 6),
        lambda t: F.fold(t.mT, (4, 6), 2, stride=2),
        t,
    )


@pytest.mark.exercise("patchify", points=2)
@pytest.mark.parametrize("h, w", [(6, 7), (7, 6), (3, 3)])
def test_patches_that_do_not_fit(student, h, w):
    """patchify should raise a ValueError when p does not divide both height and width."""
    x = randn(1, 1, h, w)
    with raises(ValueError):
        student.patchify(x, 2)


@pytest.mark.exercise("patchify", points=1)
@pytest.mark.parametrize(
    "count, h, w", [(6, 4, 4), (6, 4, 8), (6, 5, 6), (6, 4, 7), (6, 3, 8), (3, 4, 3), (3, 3, 4)]
)
def test_pictures_that_do_not_fit(student, count, h, w):
    """unpatchify should raise a ValueError when T patches do not make a picture of this size."""
    t = randn(1, count, 4)
    with raises(ValueError):
        student.unpatchify(t, 2, h, w)


@probe
def compare_projections(student, conv, patches):
    """The linear layer's output, its settings, and whether it is a copy."""
    before = [p.detach().clone() for p in conv.parameters()]
    linear = student.conv_to_linear(conv)
    names = {name: list(p.shape) for name, p in linear.named_parameters()}
    where = [(str(p.dtype), p.device.type) for p in linear.parameters()]
    trains = all(p.requires_grad for p in linear.parameters())
    kind = type(linear).__name__
    out = linear(patches.to(linear.weight)).detach()
    with torch.no_grad():
        for p in linear.parameters():
            p.add_(1)
    after = [p.detach() for p in conv.parameters()]
    kept = all(torch.equal(a, b) for a, b in zip(before, after))
    return out, names, where, trains, kind, kept


@pytest.mark.exercise("patchify", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c, d, p, bias", [(3, 7, 2, True), (1, 4, 3, False), (2, 5, 1, True)])
def test_linear_equals_conv(student, device, c, d, p, bias, dtype):
    """The linear layer on patches should give what the convolution gives, as a copy of its own."""
    conv = nn.Conv2d(c, d, p, stride=p, bias=bias)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(randn(*parameter.shape))
    conv = conv.to(device, dtype)
    x = randn(2, c, 2 * p, 3 * p, device=device, dtype=dtype)
    patches = F.unfold(x, p, stride=p).mT
    out, names, where, trains, kind, kept = student.run(compare_projections, conv, patches)
    assert_equal(kind, "Linear", "the kind of layer")
    sizes = {"weight": [d, c * p * p]} | ({"bias": [d]} if bias else {})
    assert_equal(names, sizes, "the parameters")
    wanted = (str(dtype), conv.weight.device.type)
    assert_equal(set(where), {wanted}, "the dtype and device of the parameters")
    weight, b = conv.weight.detach(), conv.bias.detach() if bias else None
    assert_close(
        out,
        conv(x).flatten(2).mT.detach(),
        "the tokens",
        rtol=1e-3,
        atol=1e-4,
        symptoms={
            "The kernels are flattened with the channel last; patches have it first.": F.linear(
                patches, weight.permute(0, 2, 3, 1).flatten(1), b
            ),
            "Each kernel should become a row of the weight.": F.linear(
                patches, weight.reshape(-1, d).T, b
            ),
        },
    )
    assert_true(trains, "The parameters of the linear layer should require gradients.")
    assert_true(kept, "A change of the linear layer changed the convolution: copy its numbers.")


@probe
def convert(student, conv):
    return list(student.conv_to_linear(conv).weight.shape)


@pytest.mark.exercise("patchify", points=1)
@pytest.mark.parametrize("k, s", [(3, 1), (3, 2), (2, 4)])
def test_strides_that_overlap(student, k, s):
    """conv_to_linear should raise a ValueError when stride and kernel size differ."""
    with raises(ValueError):
        student.run(convert, nn.Conv2d(2, 3, k, stride=s))


# --- vit -------------------------------------------------------------------------------------

SETTINGS = [((1, 4, 6), 2, 8, 2, 2, 3), ((3, 6, 6), 3, 12, 1, 3, 5), ((2, 8, 4), 4, 4, 3, 1, 2)]


@probe
def vit_at(student, settings, x, training):
    """A ViT with random numbers: its state, and what it makes of x."""
    torch.manual_seed(0)
    vit = student.ViT(*settings).double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in vit.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)
    vit.to(x.device).train(training)
    x = x.clone().requires_grad_()
    scores = vit(x)
    weight = torch.arange(1.0, scores.shape[1] + 1, dtype=x.dtype, device=x.device)
    (scores * weight).sum().backward()
    grads = {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}
    state = {name: v.detach() for name, v in vit.state_dict().items()}
    return state, vit.tokens(x).detach(), scores.detach(), grads, x.grad


def reference_vit(state, settings, x, act=F.gelu, pre=True, scale="bicubic", aligned=None):
    """Tokens and scores by torch's functions, from a state dict."""
    assert_parameters(state, settings)
    (_, h, w), patch, dim, depth, heads, _ = settings
    rows, cols = x.shape[2] // patch, x.shape[3] // patch
    z = F.conv2d(x, state["proj.weight"], state["proj.bias"], patch).flatten(2).mT
    z = torch.cat([state["cls"].expand(len(x), -1, -1), z], 1)
    grid = state["pos"][:, 1:].mT.reshape(1, dim, h // patch, w // patch)
    grid = F.interpolate(grid, (rows, cols), mode=scale, align_corners=aligned).flatten(2).mT
    tokens = z = z + torch.cat([state["pos"][:, :1], grid], 1)

    def norm(z, name):
        return F.layer_norm(z, (dim,), state[f"{name}.weight"], state[f"{name}.bias"])

    for k in range(depth):
        p = f"encoder.layers.{k}"
        a = norm(z, f"{p}.norm1") if pre else z
        qkv = F.linear(
            a, state[f"{p}.self_attn.in_proj_weight"], state[f"{p}.self_attn.in_proj_bias"]
        )
        q, k_, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k_, v).transpose(1, 2).flatten(2)
        out = f"{p}.self_attn.out_proj"
        z = z + F.linear(a, state[f"{out}.weight"], state[f"{out}.bias"])
        z = z if pre else norm(z, f"{p}.norm1")
        a = norm(z, f"{p}.norm2") if pre else z
        a = act(F.linear(a, state[f"{p}.linear1.weight"], state[f"{p}.linear1.bias"]))
        z = z + F.linear(a, state[f"{p}.linear2.weight"], state[f"{p}.linear2.bias"])
        z = z if pre else norm(z, f"{p}.norm2")
    z = norm(z, "encoder.norm")
    return tokens, F.linear(z[:, 0], state["head.weight"], state["head.bias"])


def sizes_of(settings):
    """Names and shapes of all parameters."""
    (c, h, w), patch, dim, depth, _, classes = settings
    count = 1 + (h // patch) * (w // patch)
    sizes = {"cls": [1, 1, dim], "pos": [1, count, dim]}
    sizes |= {"proj.weight": [dim, c, patch, patch], "proj.bias": [dim]}
    for k in range(depth):
        p = f"encoder.layers.{k}."
        sizes |= {f"{p}self_attn.in_proj_weight": [3 * dim, dim]}
        sizes |= {f"{p}self_attn.in_proj_bias": [3 * dim]}
        sizes |= {f"{p}self_attn.out_proj.weight": [dim, dim], f"{p}self_attn.out_proj.bias": [dim]}
        sizes |= {f"{p}linear1.weight": [4 * dim, dim], f"{p}linear1.bias": [4 * dim]}
        sizes |= {f"{p}linear2.weight": [dim, 4 * dim], f"{p}linear2.bias": [dim]}
        for name in ("norm1", "norm2"):
            sizes |= {f"{p}{name}.weight": [dim], f"{p}{name}.bias": [dim]}
    sizes |= {"encoder.norm.weight": [dim], "encoder.norm.bias": [dim]}
    return sizes | {"head.weight": [classes, dim], "head.bias": [classes]}


def assert_parameters(state, settings):
    """Names first, then shapes, so that a student sees the one that is wrong."""
    wanted, found = sizes_of(settings), {name: list(v.shape) for name, v in state.items()}
    assert_equal(sorted(wanted.keys() - found.keys()), [], "the list of missing parameters")
    assert_equal(sorted(found.keys() - wanted.keys()), [], "the list of unasked parameters")
    wrong = [name for name, size in wanted.items() if found[name] != size]
    for name in wrong[:1]:
        assert_equal(found[name], wanted[name], f"the shape of `{name}`")


@pytest.mark.exercise("vit", points=2)
@pytest.mark.parametrize("settings", SETTINGS)
def test_tokens_of_training_size(student, device, settings):
    """tokens should be class token and patches in order, plus the positions."""
    x = randn(2, *settings[0], device=device)
    state, tokens, _, _, _ = student.run(vit_at, settings, x, True)
    expected, _ = reference_vit(state, settings, x)
    bare = expected - state["pos"]
    cls, maps = state["cls"].expand(2, -1, -1), bare[:, 1:].mT
    assert_close(
        tokens,
        expected,
        "the tokens",
        symptoms={
            "The positions are not added.": bare,
            "The class token should come first, not last.": torch.cat([maps.mT, cls], 1)
            + state["pos"],
            "A reshape mixes patches and channels: (N, dim, rows, cols) wants its axes exchanged, "
            "to (N, T, dim).": torch.cat([cls, maps.reshape(maps.mT.shape)], 1) + state["pos"],
        },
    )


@probe
def dropouts(student, settings):
    """All probabilities of dropout in a new ViT."""
    modules = list(student.ViT(*settings).modules())
    attention = [float(m.dropout) for m in modules if isinstance(m, nn.MultiheadAttention)]
    return [float(m.p) for m in modules if isinstance(m, nn.Dropout)] + attention


@pytest.mark.exercise("vit", points=3)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_by_hand(student, device, settings, training):
    """The scores should be those of pre-norm blocks with GELU, read off the class token."""
    assert_equal(max(student.run(dropouts, settings), default=0.0), 0.0, "the largest dropout")
    x = randn(3, *settings[0], device=device)
    state, _, scores, _, _ = student.run(vit_at, settings, x, training)
    assert_close(
        scores,
        reference_vit(state, settings, x)[1],
        "the scores",
        rtol=1e-6,
        atol=1e-8,
        symptoms={
            "The normalisations come after attention and MLP; they should come "
            "first.": reference_vit(state, settings, x, pre=False)[1],
            "The activation is ReLU, the default, not GELU.": reference_vit(
                state, settings, x, act=F.relu
            )[1],
        },
    )


@pytest.mark.exercise("vit", points=2)
def test_vit_gradients(student, device):
    """Every parameter, and the picture, should get the gradient of the same network by hand."""
    settings = SETTINGS[0]
    x = randn(2, *settings[0], device=device)
    state, _, _, grads, of_x = student.run(vit_at, settings, x, True)
    leaves = {name: v.clone().requires_grad_() for name, v in state.items()}
    leaf = x.clone().requires_grad_()
    _, scores = reference_vit(leaves, settings, leaf)
    weight = torch.arange(1.0, 4.0, dtype=x.dtype, device=device)
    (scores * weight).sum().backward()
    for name, v in leaves.items():
        assert_true(name in grads, f"`{name}` gets no gradient.")
        assert_close(grads[name], v.grad, f"the gradient of `{name}`", rtol=1e-5, atol=1e-7)
    assert_close(of_x, leaf.grad, "the gradient of the picture", rtol=1e-5, atol=1e-7)


@pytest.mark.exercise("vit", points=2)
@pytest.mark.parametrize("h, w", [(2, 2), (8, 6), (4, 10), (12, 14)])
def test_other_sizes(student, device, h, w):
    """For a picture of another size, the positions of the grid should be scaled, bicubically."""
    settings = SETTINGS[0]
    x = randn(2, 1, h, w, device=device)
    state, tokens, scores, _, _ = student.run(vit_at, settings, x, False)
    expected, by_hand = reference_vit(state, settings, x)
    bilinear = reference_vit(state, settings, x, scale="bilinear")[0]
    aligned = reference_vit(state, settings, x, aligned=True)[0]
    assert_close(
        tokens,
        expected,
        "the tokens",
        rtol=1e-6,
        atol=1e-8,
        symptoms={
            "The positions are scaled with mode “bilinear”, not “bicubic”.": bilinear,
            "The positions are scaled with align_corners=True; the default is False.": aligned,
        },
    )
    assert_close(scores, by_hand, "the scores", rtol=1e-6, atol=1e-8)


@probe
def scaled_positions(student, settings, rows, cols):
    vit = student.ViT(*settings).double()
    with torch.no_grad():
        g = torch.Generator().manual_seed(2)
        vit.pos.copy_(torch.randn(vit.pos.shape, generator=g, dtype=torch.float64))
    out = vit.positions(rows, cols)
    (out**2).sum().backward()
    return vit.pos.detach().clone(), out.detach(), vit.pos.grad


@pytest.mark.exercise("vit", points=1)
@pytest.mark.parametrize("rows, cols", [(5, 4), (3, 2), (2, 3), (1, 1)])
def test_positions_keep_the_first(student, rows, cols):
    """positions should leave the class token's alone and scale the others as a picture."""
    pos, got, grad = student.run(scaled_positions, SETTINGS[0], rows, cols)
    leaf = pos.clone().requires_grad_()
    grid = leaf[:, 1:].mT.reshape(1, 8, 2, 3)
    grid = F.interpolate(grid, (rows, cols), mode="bicubic").flatten(2).mT
    expected = torch.cat([leaf[:, :1], grid], 1)
    (expected**2).sum().backward()
    mixed = F.interpolate(pos[:, 1:].reshape(1, 8, 2, 3), (rows, cols), mode="bicubic")
    plain = pos[:, 1:].mT.reshape(1, 8, 2, 3)
    bilinear = F.interpolate(plain, (rows, cols), mode="bilinear")
    aligned = F.interpolate(plain, (rows, cols), mode="bicubic", align_corners=True)
    known = {
        "A reshape from (1, T, dim) to (1, dim, rows, cols) mixes places and features; exchange "
        "the axes first.": mixed,
        "Scale with mode “bicubic”, not “bilinear”.": bilinear,
        "Leave align_corners at its default.": aligned,
    }
    symptoms = {
        sentence: torch.cat([pos[:, :1], grid.flatten(2).mT], 1) for sentence, grid in known.items()
    }
    last = {sentence: wrong[:, -1] for sentence, wrong in symptoms.items()}
    assert_close(got[:, -1], expected[:, -1].detach(), "the last position", symptoms=last)
    assert_close(got, expected.detach(), "the positions", symptoms=symptoms)
    assert_close(grad, leaf.grad, "the gradient of pos")


@probe
def without_positions(student, x, perm):
    """Scores of pictures whose columns of patches are shuffled, with and without positions."""
    torch.manual_seed(0)
    vit = student.ViT((1, 2, 10), 2, 8, 2, 2, 3).double().eval()
    columns = torch.cat([torch.arange(2) + 2 * k for k in perm])
    with torch.no_grad():
        vit.pos.normal_()
        placed = vit(x), vit(x[..., columns])
        vit.pos.zero_()
        return [*placed, vit(x), vit(x[..., columns])]


@pytest.mark.exercise("vit", points=1)
def test_shuffled_patches(student):
    """Without positions the order of the patches should not matter; with them it should."""
    one, other, bare, bare_other = student.run(
        without_positions, randn(2, 1, 2, 10), [3, 0, 4, 1, 2]
    )
    assert_close(bare_other, bare, "the scores of shuffled patches without positions")
    gap = (one - other).abs().max().item()
    assert_true(gap > 1e-3, "With positions, shuffled patches should get other scores.")


@probe
def at_the_start(student):
    torch.manual_seed(3)
    vit = student.ViT((1, 32, 32), 4, 64, 1, 4, 10)
    parameters = [name for name, p in vit.named_parameters() if p.requires_grad]
    float32 = all(p.dtype == torch.float32 for p in vit.parameters())
    return vit.cls.detach(), vit.pos.detach(), parameters, float32, vit.training


@pytest.mark.exercise("vit", points=2)
def test_start(student):
    """At the start cls should be zeros, pos normal with standard deviation 0.02, all learnable."""
    cls, pos, names, float32, training = student.run(at_the_start)
    assert_close(cls, torch.zeros(1, 1, 64), "`cls` at the start")
    assert_true(0.019 < pos.std() < 0.021, f"`pos` has a standard deviation of {pos.std():.3f}.")
    assert_true(pos.mean().abs() < 0.002, f"`pos` has a mean of {pos.mean():.3f}.")
    assert_true(pos.abs().max() > 0.05, "`pos` should be normal: some values beyond 0.05.")
    assert_true(float32 and training, "A new ViT should be float32 and in training mode.")
    assert_true({"cls", "pos"} <= set(names), "`cls` and `pos` should be parameters.")


@pytest.mark.exercise("vit", points=2)
@pytest.mark.parametrize("img, patch", [((1, 5, 6), 2), ((1, 6, 5), 2), ((3, 7, 7), 3)])
def test_pictures_that_patches_do_not_fill(student, img, patch):
    """ViT should raise a ValueError when patch does not divide height and width."""
    with raises(ValueError):
        student.ViT(img, patch, 8, 1, 2, 3)


# --- windows ---------------------------------------------------------------------------------

MAPS = [
    ((1, 4, 6, 1), 2),
    ((2, 6, 3, 4), 3),
    ((3, 4, 4, 2), 4),
    ((2, 3, 2, 3), 1),
    ((0, 4, 2, 3), 2),
]


def windows_by_loops(x, m):
    """Windows of maps (N, H, W, C), one after the other."""
    _, h, w, c = x.shape
    found = [
        picture[i : i + m, j : j + m].reshape(m * m, c)
        for picture in x
        for i in range(0, h, m)
        for j in range(0, w, m)
    ]
    return torch.stack(found) if found else x.new_zeros(0, m * m, c)


@pytest.mark.exercise("windows", points=3)
@pytest.mark.parametrize("shape, m", MAPS)
def test_partition(student, device, shape, m):
    """window_partition should give every window, picture after picture, row by row."""
    x = randn(*shape, device=device)
    with unchanged(x):
        got = student.window_partition(x, m)
    assert_close(got, windows_by_loops(x, m), "the windows")
    rolled = x.roll((-1, -1), (1, 2)).transpose(1, 2).contiguous().transpose(1, 2)
    got = student.window_partition(rolled, m)
    assert_close(got, windows_by_loops(rolled, m), "the windows of a map in another memory order")


def maps_by_columns(x, m):
    """The maps with rows and columns exchanged in each window."""
    n, h, w, c = x.shape
    return x.reshape(n, h // m, m, w // m, m, c).transpose(2, 4).reshape(x.shape)


@pytest.mark.exercise("windows", points=3)
@pytest.mark.parametrize("shape, m", MAPS)
def test_reverse(student, device, shape, m):
    """window_reverse should give the maps back, bit for bit."""
    x = randn(*shape, device=device, dtype=torch.float32)
    w = windows_by_loops(x, m)
    with unchanged(w):
        got = student.window_reverse(w, m, shape[1], shape[2])
    assert_close(
        got,
        x,
        "the maps",
        rtol=0,
        atol=0,
        symptoms={
            "In a window the tokens should be laid down row by row.": maps_by_columns(x, m),
        },
    )


@pytest.mark.exercise("windows", points=1)
def test_window_gradients(student, device):
    """Gradients should flow through both, back to where each number came from."""
    x = randn(2, 4, 6, 3, device=device)
    assert_same_gradients(
        lambda x: student.window_partition(x, 2), lambda x: windows_by_loops(x, 2), x
    )
    w = windows_by_loops(x, 2)
    index = windows_by_loops(torch.arange(48, device=device).view(2, 4, 6, 1), 2).flatten()
    assert_same_gradients(
        lambda w: student.window_reverse(w, 2, 4, 6),
        lambda w: w.flatten(0, 1)[index.argsort()].view(2, 4, 6, 3),
        w,
    )


@pytest.mark.exercise("windows", points=1)
@pytest.mark.parametrize("h, w", [(4, 5), (5, 4), (3, 3)])
def test_windows_that_do_not_fit(student, h, w):
    """window_partition should raise a ValueError when m does not divide both sides."""
    x = randn(1, h, w, 2)
    with raises(ValueError):
        student.window_partition(x, 2)


@probe
def sizes_of_merging(student, c):
    return {name: list(p.shape) for name, p in student.PatchMerging(c).named_parameters()}


@probe
def merge(student, x, w, b, r, training):
    """A PatchMerging with given numbers: output and gradients."""
    layer = student.PatchMerging(x.shape[-1]).to(x.device, x.dtype).train(training)
    with torch.no_grad():
        layer.norm.weight.copy_(w)
        layer.norm.bias.copy_(b)
        layer.reduction.weight.copy_(r)
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.arange(y.numel(), dtype=y.dtype, device=y.device).view_as(y).cos()).sum().backward()
    grads = [layer.norm.weight.grad, layer.norm.bias.grad, layer.reduction.weight.grad, x.grad]
    return y.detach(), grads


@pytest.mark.exercise("windows", points=5)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 4, 6, 2), (2, 3, 4, 1), (2, 4, 5, 3), (1, 1, 1, 2), (3, 5, 3, 2)]
)
def test_patch_merging(student, device, shape, training):
    """PatchMerging should join, normalise and reduce, with odd sizes padded; gradients included."""
    x = randn(*shape, device=device)
    n, h, w_, c = shape
    w, b = randn(4 * c, device=device), randn(4 * c, device=device)
    r = randn(2 * c, 4 * c, device=device)
    leaves = [t.clone().requires_grad_() for t in (w, b, r, x)]
    full = F.pad(leaves[3], (0, 0, 0, w_ % 2, 0, h % 2))
    blocks = full.reshape(n, (h + 1) // 2, 2, (w_ + 1) // 2, 2, c)
    down_first = blocks.permute(0, 1, 3, 4, 2, 5).flatten(3)
    right_first = blocks.permute(0, 1, 3, 2, 4, 5).flatten(3)

    def finish(four):
        return F.layer_norm(four, (4 * c,), leaves[0], leaves[1]) @ leaves[2].T

    expected = finish(down_first)
    wanted = {"norm.weight": [4 * c], "norm.bias": [4 * c], "reduction.weight": [2 * c, 4 * c]}
    assert_equal(student.run(sizes_of_merging, c), wanted, "the parameters")
    with unchanged(x):
        got, grads = student.run(merge, x, w, b, r, training)
    above = F.pad(x, (0, 0, w_ % 2, 0, h % 2, 0)).reshape(full.shape)
    above = above.reshape(blocks.shape).permute(0, 1, 3, 4, 2, 5).flatten(3)
    assert_close(
        got,
        expected.detach(),
        "the merged map",
        symptoms={
            "Upper right and lower left are exchanged.": finish(right_first).detach(),
            "The four tokens are not normalised before the reduction.": (
                down_first @ leaves[2].T
            ).detach(),
            "The zeros belong at the bottom and at the right.": finish(above).detach(),
            "A reshape alone joins tokens of a row, not of a block.": finish(
                full.reshape(right_first.shape)
            ).detach(),
        },
    )
    weight = torch.arange(got.numel(), dtype=got.dtype, device=device).view_as(got).cos()
    (expected * weight).sum().backward()
    assert_close(list(grads), [t.grad for t in leaves], "the gradients", rtol=1e-6, atol=1e-8)


@pytest.mark.exercise("windows", points=2)
def test_first_stage(student):
    """A 56 x 56 map should make 64 windows of 49 tokens, and merge to 28 x 28 of twice the width."""
    x = randn(1, 56, 56, 4, dtype=torch.float32)
    assert_shape(student.window_partition(x, 7), (64, 49, 4), "the windows")
    w, b, r = torch.ones(16), torch.zeros(16), randn(8, 16, dtype=torch.float32)
    got, _ = student.run(merge, x, w, b, r, True)
    assert_shape(got, (1, 28, 28, 8), "the merged map")


# --- mask ------------------------------------------------------------------------------------

SHIFTS = [
    (4, 4, 2, 1),
    (4, 6, 2, 1),
    (8, 4, 4, 2),
    (6, 9, 3, 1),
    (6, 3, 3, 2),
    (14, 7, 7, 3),
    (5, 5, 5, 2),
    (8, 8, 4, 3),
]


def shifted_pieces(h, w, m, s):
    """The piece of each token of the original map, as pairs (row piece, column piece)."""
    walls = [k for k in range(s, max(h, w) + 1, m) if k > 0] if s else range(m, max(h, w) + 1, m)
    return [
        [(sum(i >= k for k in walls), sum(j >= k for k in walls)) for j in range(w)]
        for i in range(h)
    ]


def mask_by_loops(h, w, m, s, roll=None):
    """Windows of the rolled map, token against token."""
    roll = s if roll is None else roll
    piece = shifted_pieces(h, w, m, s)
    found = []
    for i0 in range(0, h, m):
        for j0 in range(0, w, m):
            cells = [
                piece[(i + roll) % h][(j + roll) % w]
                for i in range(i0, i0 + m)
                for j in range(j0, j0 + m)
            ]
            found.append([[0.0 if a == b else -100.0 for b in cells] for a in cells])
    return torch.tensor(found)


@pytest.mark.exercise("mask", points=5)
@pytest.mark.parametrize("h, w, m, s", SHIFTS)
def test_mask_by_loops(student, h, w, m, s):
    """sw_mask should be 0 between tokens of one piece of the shifted grid, and -100 else."""
    expected = mask_by_loops(h, w, m, s)
    assert_close(
        student.sw_mask(h, w, m, s),
        expected,
        "the mask",
        symptoms={
            "The values are exchanged: strangers get -100.": -100 - expected,
            "The labels are not rolled.": mask_by_loops(h, w, m, s, roll=0),
            "The labels are rolled by s instead of -s.": mask_by_loops(h, w, m, s, roll=-s),
        },
    )


@pytest.mark.exercise("mask", points=2)
@pytest.mark.parametrize("h, w, m", [(4, 4, 2), (6, 3, 3), (7, 14, 7), (3, 2, 1)])
def test_no_shift_no_mask(student, h, w, m):
    """With s = 0 the mask should be zeros: every window is one piece."""
    count = (h // m) * (w // m)
    assert_close(student.sw_mask(h, w, m, 0), torch.zeros(count, m * m, m * m), "the mask")


@pytest.mark.exercise("mask", points=4)
@pytest.mark.parametrize("h, w, m, s", [(8, 8, 4, 2), (6, 9, 3, 1), (7, 14, 7, 3)])
def test_as_dense_attention(student, h, w, m, s):
    """Rolled, masked, reversed: the result should be dense attention within each piece."""
    q, k, v = randn(3, h, w, 4)

    def cut(t):
        return windows_by_loops(t.roll((-s, -s), (0, 1))[None], m)

    mask = student.sw_mask(h, w, m, s).double()
    out = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), attn_mask=mask)
    place = cut(torch.arange(h * w).view(h, w, 1)).flatten()
    got = out.flatten(0, 1)[place.argsort()]
    piece = [p for row in shifted_pieces(h, w, m, s) for p in row]
    same = torch.tensor([[a == b for b in piece] for a in piece])
    q, k, v = (t.flatten(0, 1)[None] for t in (q, k, v))
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=same)[0]
    assert_close(got, dense, "the attention with your mask")


@pytest.mark.exercise("mask", points=2)
def test_nine_pieces(student):
    """Four windows should hold 1, 2, 2 and 4 pieces, nine in all, in a mask of float32."""
    got = student.sw_mask(14, 14, 7, 3)
    assert_shape(got, (4, 49, 49), "the mask")
    pieces = [len({tuple(row) for row in window.tolist()}) for window in got]
    assert_equal(pieces, [1, 2, 2, 4], "the number of pieces in each window")
    assert_close(got.mT, got, "the transposed mask")
    assert_equal(str(got.dtype), "torch.float32", "the dtype")


@pytest.mark.exercise("mask", points=2)
@pytest.mark.parametrize(
    "h, w, m, s", [(4, 5, 2, 1), (5, 4, 2, 1), (4, 4, 2, 2), (4, 4, 2, -1), (6, 6, 3, 4)]
)
def test_shifts_that_do_not_fit(student, h, w, m, s):
    """sw_mask should raise a ValueError for sizes that m does not divide, and for s outside 0..m-1."""
    with raises(ValueError):
        student.sw_mask(h, w, m, s)


# --- cost ------------------------------------------------------------------------------------


@pytest.mark.exercise("cost", points=4)
@pytest.mark.parametrize("h, w, c", [(1, 1, 1), (2, 3, 5), (7, 7, 96), (56, 28, 96), (4, 9, 1)])
def test_global_cost(student, h, w, c):
    """macs_msa should count four projections, the scores and the weighted sums."""
    n = h * w
    assert_close(
        student.macs_msa(h, w, c),
        4 * n * c * c + 2 * n * n * c,
        "the count",
        symptoms={
            "Three projections: the one of the output is missing.": 3 * n * c * c + 2 * n * n * c,
            "Only one of the two quadratic products is counted.": 4 * n * c * c + n * n * c,
            "The scores compare all pairs: the number of tokens squared.": 4 * n * c * c
            + 2 * n * c,
            "A score is a dot product of length c, not c * c.": 4 * n * c * c + 2 * (n * c) ** 2,
        },
    )


@pytest.mark.exercise("cost", points=4)
@pytest.mark.parametrize(
    "h, w, c, m", [(6, 9, 8, 3), (4, 6, 5, 2), (56, 56, 96, 7), (7, 14, 3, 7), (3, 5, 2, 1)]
)
def test_window_cost(student, h, w, c, m):
    """macs_wmsa should be the cost of one window times the number of windows."""
    one = 4 * m**2 * c * c + 2 * m**4 * c
    windows = (h // m) * (w // m)
    assert_close(
        student.macs_wmsa(h, w, c, m),
        windows * one,
        "the count",
        symptoms={
            "This is the cost of global attention.": 4 * h * w * c * c + 2 * (h * w) ** 2 * c,
            "Only one of the two quadratic products is counted.": windows
            * (4 * m**2 * c * c + m**4 * c),
            "Three projections: the one of the output is missing.": windows
            * (3 * m**2 * c * c + 2 * m**4 * c),
            "In a window a token meets m * m others, not h * w / (m * m).": 4 * h * w * c * c
            + 2 * h * w * windows * c,
        },
    )


def multiplications(windows, tokens, c):
    """What PyTorch counts for plain self-attention, a multiply-add as two."""
    x, e = torch.zeros(windows, tokens, c), torch.zeros(c, c)
    with FlopCounterMode(display=False) as counter:
        q, k, v = x @ e, x @ e, x @ e
        (q @ k.mT).softmax(-1) @ v @ e
    return counter.get_total_flops() // 2


@pytest.mark.exercise("cost", points=2)
def test_as_counted(student):
    """Both should be what PyTorch's own counter finds, and agree for a single window."""
    assert_close(student.macs_msa(6, 9, 10), multiplications(1, 54, 10), "global, counted")
    assert_close(student.macs_wmsa(6, 9, 10, 3), multiplications(6, 9, 10), "windows, counted")
    assert_close(student.macs_wmsa(5, 5, 7, 5), student.macs_msa(5, 5, 7), "a single window")
    ratio = student.macs_msa(56, 56, 96) / student.macs_wmsa(56, 56, 96, 7)
    assert_close(round(ratio, 3), 13.809, "the ratio at 56, 96 and 7")


# --- maemask ---------------------------------------------------------------------------------


@probe
def masked(student, x, ratio, seed):
    visible, mask, restore = student.random_mask(x, ratio, torch.Generator().manual_seed(seed))
    return visible, mask, restore


CASES = [
    ((2, 16, 3), 0.75),
    ((3, 7, 2), 0.5),
    ((1, 10, 1), 0.9),
    ((4, 9, 2), 0.3),
    ((2, 5, 4), 0.0),
    ((2, 6, 3), 1.0),
    ((1, 1, 2), 0.4),
]


@pytest.mark.exercise("maemask", points=4)
@pytest.mark.parametrize("shape, ratio", CASES)
def test_kept_and_hidden(student, device, shape, ratio):
    """Exactly round(T * (1 - ratio)) tokens should stay visible; the mask marks the others."""
    x = randn(*shape, device=device)
    n, length, d = shape
    k = round(length * (1 - ratio))
    with unchanged(x):
        visible, mask, restore = student.run(masked, x, ratio, 4)
    assert_shape(visible, (n, k, d), "`visible`")
    assert_equal(str(mask.dtype), "torch.bool", "the dtype of the mask")
    assert_shape(mask, (n, length), "`mask`")
    assert_equal(mask.sum(1).tolist(), [length - k] * n, "the number of hidden tokens")
    assert_equal(str(restore.dtype), "torch.int64", "the dtype of ids_restore")
    places = restore.sort(1).values.tolist()
    assert_equal(places, [list(range(length))] * n, "`ids_restore`, sorted")
    assert_equal(str(visible.dtype), str(x.dtype), "the dtype of visible")
    where = {str(t.device.type) for t in (visible, mask, restore)}
    assert_equal(where, {x.device.type}, "the devices")


@pytest.mark.exercise("maemask", points=4)
@pytest.mark.parametrize("shape, ratio", CASES)
def test_restored(student, device, shape, ratio):
    """ids_restore should bring each visible token back to its place, and mask should agree."""
    x = randn(*shape, device=device)
    visible, mask, restore = student.run(masked, x, ratio, 5)
    n, length, d = shape
    k = visible.shape[1]
    full = torch.cat([visible, torch.zeros(n, length - k, d, dtype=x.dtype, device=device)], 1)
    got = full.gather(1, restore[..., None].expand(-1, -1, d))
    row = torch.arange(length, device=device).expand(n, -1)
    assert_close(
        mask,
        restore >= k,
        "the mask, against the places",
        symptoms={
            "True should mean hidden, not visible.": restore < k,
            "A patch is hidden if its place is k or later; the places are the inverse of the "
            "shuffle.": restore.argsort(1) >= k,
            "The mask is in shuffled order; it should be in that of the picture.": row >= k,
        },
    )
    ordered = torch.stack([torch.cat([t[~m], 0 * t[m]]) for t, m in zip(x, mask, strict=True)])
    assert_close(
        got,
        torch.where(mask[..., None], 0.0, x),
        "the restored tokens",
        symptoms={
            "The visible tokens should stay in shuffled order, as `ids_restore` expects "
            "them.": ordered.gather(1, restore[..., None].expand(-1, -1, d)),
        },
    )


@pytest.mark.exercise("maemask", points=3)
@pytest.mark.parametrize("ratio, length", [(0.75, 8), (0.5, 6)])
def test_uniform(student, ratio, length):
    """Over many pictures, each token and each pair of tokens should be hidden equally often."""
    n = 6000
    _, mask, restore = student.run(masked, torch.zeros(n, length, 1), ratio, 6)
    hidden = mask.double()
    often = hidden.mean(0)
    assert_close(
        often, torch.full_like(often, ratio), "how often each token is hidden", rtol=0, atol=0.03
    )
    h = round(length * ratio)
    together = h * (h - 1) / (length * (length - 1))
    pairs = (hidden.T @ hidden / n)[~torch.eye(length, dtype=torch.bool)]
    assert_close(
        pairs,
        torch.full_like(pairs, together),
        "how often each pair of tokens is hidden",
        rtol=0,
        atol=0.03,
    )
    first = (restore == 0).double().mean(0)
    assert_close(
        first,
        torch.full_like(first, 1 / length),
        "how often each token is the first visible one",
        rtol=0,
        atol=0.03,
    )


@probe
def runs_of_chance(student, x):
    """Masks for equal states, for a generator that goes on, and for other global seeds."""
    rng = torch.Generator().manual_seed(7)
    torch.manual_seed(0)
    one = student.random_mask(x, 0.5, rng)[1]
    two = student.random_mask(x, 0.5, rng)[1]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = student.random_mask(x, 0.5, torch.Generator().manual_seed(7))[1]
    return one, two, again, torch.equal(before, torch.get_rng_state())


@pytest.mark.exercise("maemask", points=2)
def test_chance_comes_from_rng(student):
    """Equal generators should give equal masks, each picture its own, and nothing else be drawn."""
    one, two, again, untouched = student.run(runs_of_chance, torch.zeros(8, 30, 1))
    assert_close(again, one, "the mask of an equal generator")
    rows = len({tuple(row) for row in one.tolist()})
    assert_equal(rows, 8, "the number of different masks among 8 pictures")
    changed = int((one != two).any(1).sum())
    assert_equal(changed, 8, "the number of masks that are new when the generator goes on")
    assert_true(untouched, "The global generator was used; all chance should come from rng.")


@probe
def gradient_of_visible(student, x, ratio):
    x = x.clone().requires_grad_()
    visible, mask, _ = student.random_mask(x, ratio, torch.Generator().manual_seed(8))
    (visible * 3).sum().backward()
    return x.grad, mask


@pytest.mark.exercise("maemask", points=1)
def test_hidden_tokens_do_not_enter(student):
    """The gradient should reach visible tokens only: the encoder never sees the hidden ones."""
    x = randn(3, 8, 2)
    grad, mask = student.run(gradient_of_visible, x, 0.75)
    expected = torch.where(mask[..., None], 0.0, torch.full_like(x, 3.0))
    assert_close(grad, expected, "the gradient of x")


@pytest.mark.exercise("maemask", points=1)
@pytest.mark.parametrize("ratio", [-0.1, 1.1, 2])
def test_impossible_ratio(student, ratio):
    """random_mask should raise a ValueError when ratio is not from 0 to 1."""
    x = randn(1, 4, 2)
    with raises(ValueError):
        student.run(masked, x, ratio, 0)


# --- mae -------------------------------------------------------------------------------------


def shuffled(n, length, k, device="cpu"):
    """A random shuffle of each picture, as ids_restore."""
    return rand(n, length, device=device).argsort(1)


def filled_by_loops(vis, restore, token, pos):
    n, k, d = vis.shape
    rows = []
    for i in range(n):
        for t in range(restore.shape[1]):
            place = int(restore[i, t])
            rows.append((vis[i, place] if place < k else token[0, 0]) + pos[0, t])
    return torch.stack(rows).view(n, restore.shape[1], d)


@pytest.mark.exercise("mae", points=5)
@pytest.mark.parametrize(
    "n, length, k, d", [(1, 4, 1, 2), (2, 9, 3, 4), (3, 5, 5, 1), (2, 6, 0, 3), (2, 16, 4, 8)]
)
def test_decoder_input(student, device, n, length, k, d):
    """Visible tokens should be at their places, the mask token elsewhere, positions everywhere."""
    vis, restore = randn(n, k, d, device=device), shuffled(n, length, k, device)
    token, pos = randn(1, 1, d, device=device), randn(1, length, d, device=device)
    with unchanged(vis, restore, token, pos):
        got = student.decoder_input(vis, restore, token, pos)
    expected = filled_by_loops(vis, restore, token, pos)
    hidden = (restore >= k)[..., None]
    assert_close(
        got,
        expected,
        "the decoder's input",
        symptoms={
            "The positions are missing.": expected - pos,
            "Only the mask tokens got positions.": torch.where(hidden, expected, expected - pos),
            "Only the visible tokens got positions.": torch.where(hidden, expected - pos, expected),
            "`ids_restore` tells the place of each patch; it is not the list of the visible "
            "ones.": filled_by_loops(vis, restore.argsort(1), token, pos),
            "Hidden patches should hold the mask token, not zeros.": expected - token * hidden,
        },
    )


@pytest.mark.exercise("mae", points=2)
def test_decoder_gradients(student, device):
    """Gradients should reach the visible tokens, the mask token (summed) and all positions."""
    vis, restore = randn(2, 2, 3, device=device), shuffled(2, 6, 2, device)
    token, pos = randn(1, 1, 3, device=device), randn(1, 6, 3, device=device)
    assert_same_gradients(
        lambda v, t, p: student.decoder_input(v, restore, t, p),
        lambda v, t, p: filled_by_loops(v, restore, t, p),
        vis,
        token,
        pos,
    )


def loss_by_loops(pred, img, mask, norm_pix, p, correction=1, power=0.5):
    """One hidden patch after the other."""
    n, _, h, w = img.shape
    losses = []
    for i in range(n):
        t = 0
        for a in range(0, h, p):
            for b in range(0, w, p):
                target = img[i, :, a : a + p, b : b + p].flatten()
                if norm_pix:
                    var = target.var(correction=correction) + 1e-6
                    target = (target - target.mean()) / var**power
                if mask[i, t]:
                    losses.append((pred[i, t] - target).square().mean())
                t += 1
    return torch.stack(losses).mean() if losses else (pred * 0).sum()


PIXELS = [((1, 1, 4, 4), 2), ((2, 3, 6, 4), 2), ((3, 2, 3, 9), 3), ((2, 1, 8, 4), 4)]


@pytest.mark.exercise("mae", points=4)
@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("shape, p", PIXELS)
def test_loss(student, device, shape, p, norm_pix):
    """mae_loss should be the mean squared error of the hidden patches, of normalised ones too."""
    n, c, h, w = shape
    length = (h // p) * (w // p)
    img = 3 * randn(*shape, device=device) + 2
    pred = randn(n, length, c * p * p, device=device)
    mask = rand(n, length, device=device) < 0.6
    mask[0, 0], mask[-1, -1] = True, False
    with unchanged(pred, img, mask):
        got = student.mae_loss(pred, img, mask, norm_pix)
    every = torch.ones_like(mask)
    assert_close(
        got,
        loss_by_loops(pred, img, mask, norm_pix, p),
        "the loss",
        symptoms={
            "Visible patches count, too.": loss_by_loops(pred, img, every, norm_pix, p),
            "The mask is turned around.": loss_by_loops(pred, img, ~mask, norm_pix, p),
            "The target should be normalised only if norm_pix is True.": loss_by_loops(
                pred, img, mask, not norm_pix, p
            ),
            "The variance should be that with n - 1.": loss_by_loops(
                pred, img, mask, norm_pix, p, correction=0
            ),
            "Divide by the standard deviation, the root of the variance.": loss_by_loops(
                pred, img, mask, norm_pix, p, power=1
            ),
            "Take the mean over the pixels of a patch, not the sum.": c
            * p
            * p
            * loss_by_loops(pred, img, mask, norm_pix, p),
        },
    )


@pytest.mark.exercise("mae", points=2)
@pytest.mark.parametrize("norm_pix", [False, True])
def test_visible_patches_get_no_gradient(student, device, norm_pix):
    """The gradient should be zero on visible patches, and right on hidden ones."""
    img, pred = randn(2, 2, 4, 6, device=device), randn(2, 6, 8, device=device)
    mask = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1]], device=device).bool()
    assert_same_gradients(
        lambda p: student.mae_loss(p, img, mask, norm_pix),
        lambda p: loss_by_loops(p, img, mask, norm_pix, 2),
        pred,
    )


@pytest.mark.exercise("mae", points=2)
@pytest.mark.parametrize("norm_pix", [False, True])
def test_edge_cases(student, norm_pix):
    """Nothing hidden should give 0, not nan; a flat patch should be no trouble; float32 stays."""
    img = randn(2, 1, 4, 4, dtype=torch.float32)
    img[0, 0, :2, :2] = 0.5
    pred = randn(2, 4, 4, dtype=torch.float32)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    got = student.mae_loss(pred, img, nothing, norm_pix)
    assert_close(got, torch.tensor(0.0), "the loss with nothing hidden")
    flat = nothing.clone()
    flat[0, 0] = True
    expected = pred[0, 0].square().mean() if norm_pix else (pred[0, 0] - 0.5).square().mean()
    assert_close(student.mae_loss(pred, img, flat, norm_pix), expected, "the loss of a flat patch")
    faint = img.clone()
    faint[0, 0, 0, :2] = 0.501
    expected = loss_by_loops(pred, faint, flat, norm_pix, 2)
    got = student.mae_loss(pred, faint, flat, norm_pix)
    assert_close(got, expected, "the loss of a nearly flat patch", rtol=1e-3, atol=1e-4)
