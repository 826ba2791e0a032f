"""Hidden tests of the chapter on the Transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_true,
    probe,
    raises,
    randint,
    randn,
    unchanged,
)

# --- masks -----------------------------------------------------------------------------------


def right_mask(ids, pad):
    """Entry by entry, as the docstring says."""
    n, t = ids.shape
    return torch.tensor(
        [
            [[j <= i and ids[k, j].item() != pad for j in range(t)] for i in range(t)]
            for k in range(n)
        ]
    ).reshape(n, t, t)


@pytest.mark.exercise("masks", points=4)
@pytest.mark.parametrize("shape, pad", [((3, 5), 0), ((1, 1), 0), ((4, 7), 2), ((2, 6), -1)])
def test_every_entry(student, device, shape, pad):
    """Entry (n, i, j) should be True if and only if j <= i and token j is not the padding."""
    ids = randint(pad, pad + 3, shape, device=device)
    with unchanged(ids):
        got = student.make_mask(ids, pad)
    expected = right_mask(ids.cpu(), pad).to(device)
    assert_close(got, expected, "the mask", symptoms={"True should mean `may look`.": ~expected})


@pytest.mark.exercise("masks", points=3)
def test_the_future_stays_invisible(student, device):
    """Changing token t + 1 should leave the attention's outputs up to t unchanged."""
    ids = torch.tensor([[1, 4, 5, 6, 7], [1, 5, 7, 0, 0]], device=device)
    mask = student.make_mask(ids, 0)
    torch.manual_seed(0)
    x = randn(2, 1, 5, 8, device=device)
    for t in range(4):
        other = x.clone()
        other[:, :, t + 1] += 1.0
        a, b = (F.scaled_dot_product_attention(v, v, v, mask[:, None]) for v in (x, other))
        assert_close(a[:, :, : t + 1], b[:, :, : t + 1], f"the outputs up to {t}")
        moved = (a[0, 0, t + 1] - b[0, 0, t + 1]).abs().max()
        assert_true(moved > 1e-3, f"Output {t + 1} should depend on its own token.")


@pytest.mark.exercise("masks", points=3)
def test_the_padding_stays_invisible(student, device):
    """Changing padding should leave the outputs of all real tokens unchanged, wherever it is."""
    ids = torch.tensor([[1, 9, 5, 9, 7], [9, 5, 7, 6, 9]], device=device)
    mask = student.make_mask(ids, 9)
    x = randn(2, 1, 5, 8, device=device)
    other = x + 3.0 * (ids == 9)[:, None, :, None]
    a, b = (F.scaled_dot_product_attention(v, v, v, mask[:, None]) for v in (x, other))
    real = (ids != 9)[:, None, :, None].expand_as(a)
    assert_close(a[real], b[real], "the outputs of the real tokens")
    assert_equal(int(mask.sum()), 18, "the number of pairs that may look")


# --- shift -----------------------------------------------------------------------------------


def ragged(device, pad=0, low=0, high=6, count=9):
    """Random sequences as lists, and padded."""
    sizes = randint(low, high + 1, (count,)).tolist()
    rows = [(pad + 3 + randint(0, 8, (size,))).tolist() for size in sizes]
    longest = max(max(sizes), 1)
    y = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
    return rows, y, longest


@pytest.mark.exercise("shift", points=4)
@pytest.mark.parametrize("bos, eos, pad", [(1, 2, 0), (6, 5, 4), (101, 102, 0)])
def test_exact_arrays(student, device, bos, eos, pad):
    """Input and target should be right for sequences of all lengths, the empty one included."""
    rows, y, longest = ragged(device, pad)
    with unchanged(y):
        inp, target, mask = student.shift_right(y, bos, eos, pad)
    width = longest + 1
    fill = [(row, [pad] * (longest - len(row))) for row in rows]
    expected = torch.tensor([[bos] + row + more for row, more in fill], device=device)
    assert_close(inp, expected, "inp")
    expected = torch.tensor([row + [eos] + more for row, more in fill], device=device)
    assert_close(target, expected, "target")
    expected = torch.tensor([[k <= len(row) for k in range(width)] for row in rows], device=device)
    assert_close(mask, expected, "mask")


@pytest.mark.exercise("shift", points=2)
def test_longest_and_single(student, device):
    """A batch without any padding, and a batch of one, should work; a column is added to each."""
    for shape in ((4, 3), (1, 1), (1, 5)):
        y = randint(3, 9, shape, device=device)
        inp, target, mask = student.shift_right(y, 1, 2, 0)
        one = torch.ones_like(y[:, :1])
        assert_close(inp, torch.cat([one, y], 1), "inp")
        assert_close(target, torch.cat([y, 2 * one], 1), "target")
        assert_close(mask, torch.ones_like(target).bool(), "mask")


@pytest.mark.exercise("shift", points=2)
def test_eos_may_be_the_padding(student, device):
    """The mask should be right when eos and pad are the same id: the first one counts."""
    y = torch.tensor([[5, 6, 0], [7, 0, 0], [0, 0, 0], [5, 5, 5]], device=device)
    _, target, mask = student.shift_right(y, 1, 0, 0)
    expected = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    assert_close(mask, expected.bool().to(device), "mask")
    assert_close(target, F.pad(y, (0, 1)), "target")


@pytest.mark.exercise("shift", points=2)
def test_loss_ignores_pads(student, device):
    """The masked loss should not change when the batch is padded to a greater length."""
    _, y, longest = ragged(device)
    logits = randn(len(y), longest + 5, 12, device=device)
    losses = []
    for extra in (0, 4):
        inp, target, mask = student.shift_right(F.pad(y, (0, extra)), 1, 2, 0)
        assert_equal(list(inp.shape), [len(y), longest + extra + 1], "the shape of inp")
        losses.append(F.cross_entropy(logits[:, : longest + extra + 1][mask], target[mask]))
    assert_close(losses[1], losses[0], "the loss with more padding")


# --- addnorm ---------------------------------------------------------------------------------


@probe
def run_add_norm(student, d, weight, bias, x, y, scale):
    """A new AddNorm with given weights: output, gradients for x, y, weight, bias."""
    block = student.AddNorm(d, 0.3).to(x.device, x.dtype).eval()
    with torch.no_grad():
        block.norm.weight.copy_(weight)
        block.norm.bias.copy_(bias)
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    out = block(x, y)
    wanted = [x, y, block.norm.weight, block.norm.bias]
    grads = torch.autograd.grad((out * scale).sum(), wanted, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted, strict=True)]
    names = sorted(name for name, _ in block.named_parameters())
    return out.detach(), grads, names


@pytest.mark.exercise("addnorm", points=4)
@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 1, 3), (4, 6), (2, 3, 4, 5)])
def test_layer_norm_of_the_sum(student, device, shape):
    """In eval mode AddNorm should be nn.LayerNorm of x + y, value and gradients."""
    d = shape[-1]
    x, y, scale = (randn(*shape, device=device) for _ in range(3))
    w, b = randn(d, device=device), randn(d, device=device)
    with unchanged(x, y):
        out, grads, names = student.run(run_add_norm, d, w, b, x, y, scale)
    leaves = [t.clone().requires_grad_() for t in (x, y, w, b)]
    expected = F.layer_norm(leaves[0] + leaves[1], (d,), *leaves[2:])
    wanted = torch.autograd.grad((expected * scale).sum(), leaves)
    assert_close(
        out,
        expected.detach(),
        symptoms={
            "Only the sublayer's output is normalised.": x + F.layer_norm(y, (d,), w, b),
            "Only x is normalised.": F.layer_norm(x, (d,), w, b) + y,
        },
    )
    assert_close(list(grads), list(wanted), "the gradients for x, y, weight and bias")
    assert_equal(list(names), ["norm.bias", "norm.weight"], "the names of the parameters")


@probe
def add_norm_dropout(student, p, x, y, train):
    torch.manual_seed(0)
    block = student.AddNorm(x.shape[-1], p).to(x.device, x.dtype).train(train)
    with torch.no_grad():
        return block(x, y)


@pytest.mark.exercise("addnorm", points=3)
def test_dropout_of_the_sublayer(student, device):
    """In train mode the sublayer's output should be dropped, x never; in eval mode nothing."""
    x, y = randn(3, 4, 6, device=device), randn(3, 4, 6, device=device)
    norm = lambda t: F.layer_norm(t, (6,))  # noqa: E731
    assert_close(
        student.run(add_norm_dropout, 1.0, x, y, True),
        norm(x),
        "the output when all of y is dropped",
        symptoms={"Dropout acts on x, too.": norm(0 * x)},
    )
    assert_close(student.run(add_norm_dropout, 1.0, x, y, False), norm(x + y), "the eval output")
    # With x zero and y one, what is dropped lies below its token's mean.
    ones = torch.ones(40, 50, 6, dtype=torch.float64, device=device)
    got = student.run(add_norm_dropout, 0.25, 0 * ones, ones, True)
    share = (got < -1e-3).double().mean().item()
    assert_close(share, 0.25, "with p = 0.25, the share of y that is dropped", atol=0.05)


@pytest.mark.exercise("addnorm", points=3)
@pytest.mark.parametrize(
    "one, two",
    [
        ((2, 3, 4), (1, 3, 4)),
        ((1, 3, 4), (2, 3, 4)),
        ((2, 3, 4), (3, 4)),
        ((2, 3, 4), (2, 3, 1)),
        ((2, 3, 4), (2, 5, 4)),
    ],
)
def test_other_shapes_raise(student, one, two):
    """Shapes that differ should raise a ValueError, even where they broadcast."""
    with raises(ValueError):
        student.AddNorm(4, 0.0)(randn(*one, dtype=torch.float32), randn(*two, dtype=torch.float32))


@probe
def run_ffn(student, w1, b1, w2, b2, x, scale):
    ffn = student.FFN(w1.shape[1], w1.shape[0]).to(x.device, x.dtype)
    shapes = {name: list(p.shape) for name, p in ffn.named_parameters()}
    own = [ffn.linear1.weight, ffn.linear1.bias, ffn.linear2.weight, ffn.linear2.bias]
    with torch.no_grad():
        for p, value in zip(own, (w1, b1, w2, b2), strict=True):
            p.copy_(value)
    x = x.clone().requires_grad_()
    out = ffn(x)
    grads = torch.autograd.grad((out * scale).sum(), [x, *own])
    return out.detach(), list(grads), shapes


@pytest.mark.exercise("addnorm", points=3)
@pytest.mark.parametrize("d, h, n, t", [(6, 9, 2, 5), (3, 1, 1, 1), (4, 16, 3, 2), (5, 5, 2, 4)])
def test_ffn_is_a_convolution(student, device, d, h, n, t):
    """FFN should equal two convolutions of width 1 with a ReLU between, gradients included."""
    w1, b1 = randn(h, d, device=device), randn(h, device=device)
    w2, b2 = randn(d, h, device=device), randn(d, device=device)
    x, scale = randn(n, t, d, device=device), randn(n, t, d, device=device)
    with unchanged(x):
        out, grads, shapes = student.run(run_ffn, w1, b1, w2, b2, x, scale)
    leaves = [v.clone().requires_grad_() for v in (x, w1, b1, w2, b2)]
    hidden = F.conv1d(leaves[0].transpose(1, 2), leaves[1][..., None], leaves[2]).relu()
    expected = F.conv1d(hidden, leaves[3][..., None], leaves[4]).transpose(1, 2)
    wanted = torch.autograd.grad((expected * scale).sum(), leaves)
    assert_close(out, expected.detach())
    assert_close(list(grads), list(wanted), "the gradients")
    assert_equal(
        dict(shapes),
        {
            "linear1.weight": [h, d],
            "linear1.bias": [h],
            "linear2.weight": [d, h],
            "linear2.bias": [d],
        },
        "the shapes of the parameters",
    )


@probe
def ffn_positions(student, x, order):
    ffn = student.FFN(x.shape[-1], 7).to(x.device, x.dtype)
    with torch.no_grad():
        whole = ffn(x)
        single = torch.stack([ffn(x[:, t : t + 1])[:, 0] for t in range(x.shape[1])], 1)
        return whole, single, ffn(x[:, order]), ffn(x[0, 0])


@pytest.mark.exercise("addnorm", points=2)
def test_positions_are_independent(student, device):
    """FFN should treat each position alone, in any order, for any number of axes."""
    x = randn(2, 6, 5, device=device)
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=device)
    whole, single, shuffled, one = student.run(ffn_positions, x, order)
    assert_close(single, whole, "the output position by position")
    assert_close(shuffled, whole[:, order], "the output for shuffled positions")
    assert_close(one, whole[0, 0], "the output for one vector")


# --- encoder ---------------------------------------------------------------------------------


def randomised(layer, device="cpu", dtype=torch.float64):
    """All parameters drawn from the tests' generator, norms and biases included."""
    layer = layer.to(device, dtype)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.copy_(randn(*p.shape, dtype=dtype, device=device) * (0.4 if p.dim() > 1 else 0.5))
            if "norm" in name and "weight" in name:
                p.add_(1.0)
    return layer


def library_mask(mask, n, t, s, heads):
    """Ours for the library."""
    return None if mask is None else ~mask.expand(n, t, s).repeat_interleave(heads, 0)


@probe
def run_encoder(student, state, sizes, kw, x, mask, scale, train):
    """Value and gradients of an EncoderBlock with given weights."""
    block = student.EncoderBlock(*sizes, **kw).to(x.device, x.dtype).train(train)
    block.load_state_dict(state)
    x = x.clone().requires_grad_()
    out = block(x, mask) if mask is not None else block(x)
    (out * scale).sum().backward()
    grads = {name: p.grad for name, p in block.named_parameters()}
    grads = {k: torch.zeros_like(state[k]) if g is None else g for k, g in grads.items()}
    return out.detach(), x.grad, grads


def encoder_reference(layer, x, mask, scale, heads):
    leaf = x.clone().requires_grad_()
    n, t, _ = x.shape
    out = layer(leaf, library_mask(mask, n, t, t, heads))
    layer.zero_grad()
    (out * scale).sum().backward()
    return out.detach(), leaf.grad, {k: p.grad.clone() for k, p in layer.named_parameters()}


@pytest.mark.exercise("encoder", points=6)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("sizes, n, t", [((6, 2, 9), 3, 5), ((4, 4, 3), 1, 1), ((8, 1, 16), 2, 3)])
def test_equals_the_library(student, device, norm_first, sizes, n, t):
    """With its weights the block should equal nn.TransformerEncoderLayer in both norm orders."""
    layer = nn.TransformerEncoderLayer(*sizes, 0.0, batch_first=True, norm_first=norm_first)
    layer = randomised(layer, device)
    x, scale = randn(n, t, sizes[0], device=device), randn(n, t, sizes[0], device=device)
    kw = {"norm_first": True} if norm_first else {}
    state = layer.state_dict()
    with unchanged(x):
        out, gx, grads = student.run(run_encoder, state, (*sizes, 0.0), kw, x, None, scale, True)
    value, dx, wanted = encoder_reference(layer, x, None, scale, sizes[1])
    assert_close(out, value)
    assert_close(gx, dx, "the gradient for x")
    assert_close(dict(grads), wanted, "the gradients of the parameters")


@pytest.mark.exercise("encoder", points=4)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", ["padding", "pairs"])
def test_masks_of_both_shapes(student, device, norm_first, kind):
    """A mask (N, 1, T) and a mask (N, T, T) should hide what is False, in both norm orders."""
    layer = nn.TransformerEncoderLayer(6, 3, 8, 0.0, batch_first=True, norm_first=norm_first)
    layer = randomised(layer, device)
    x, scale = randn(3, 4, 6, device=device), randn(3, 4, 6, device=device)
    if kind == "padding":
        lengths = torch.tensor([4, 2, 1], device=device)
        mask = (torch.arange(4, device=device) < lengths[:, None])[:, None]
    else:
        mask = randint(0, 2, (3, 4, 4), device=device).bool() | torch.eye(4, device=device).bool()
    kw = {"norm_first": norm_first}
    out, gx, _ = student.run(
        run_encoder, layer.state_dict(), (6, 3, 8, 0.0), kw, x, mask, scale, True
    )
    value, dx, _ = encoder_reference(layer, x, mask, scale, 3)
    assert_close(
        out,
        value,
        symptoms={
            "The mask is not used.": encoder_reference(layer, x, None, scale, 3)[0],
        },
    )
    assert_close(gx, dx, "the gradient for x")


@probe
def encoder_eval(student, state, sizes, norm_first, x, train):
    block = student.EncoderBlock(*sizes, norm_first=norm_first)
    block = block.to(x.device, x.dtype).train(train)
    if state:
        block.load_state_dict(state)
    with torch.no_grad():
        return block(x)


@pytest.mark.exercise("encoder", points=3)
@pytest.mark.parametrize("norm_first", [False, True])
def test_sublayers_are_dropped(student, device, norm_first):
    """With p = 1 in train mode only the path around the sublayers should be left; eval drops none."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, 1.0, batch_first=True, norm_first=norm_first)
    layer = randomised(layer, device).eval()
    x = randn(2, 3, 6, device=device)
    got = student.run(encoder_eval, layer.state_dict(), (6, 2, 8, 1.0), norm_first, x, True)
    around = x if norm_first else layer.norm2(layer.norm1(x))
    assert_close(got, around.detach(), "the output when everything is dropped")
    got = student.run(encoder_eval, layer.state_dict(), (6, 2, 8, 1.0), norm_first, x, False)
    expected = encoder_reference(layer, x, None, torch.ones_like(x), 2)[0]
    assert_close(got, expected, "the output in eval mode")


@probe
def inner_dropout(student, which, p):
    """Share of tokens whose sublayer output is wholly zero; sublayers of one unit."""
    torch.manual_seed(0)
    block = student.EncoderBlock(8, 1, 1, p, norm_first=True).double().train()
    with torch.no_grad():
        for name, q in block.named_parameters():
            if "norm" not in name:
                q.zero_()
        if which == "hidden":
            block.linear1.bias.fill_(1.0)
            block.linear2.weight.fill_(1.0)
        else:
            block.self_attn.in_proj_bias[16:] = 1.0
            block.self_attn.out_proj.weight.copy_(torch.eye(8))
        x = torch.randn(600, 1, 8, dtype=torch.float64)
        moved = (block(x) - x).abs() > 1e-12
    return (~moved.any(-1)).double().mean().item(), moved.double().mean().item()


@pytest.mark.exercise("encoder", points=3)
@pytest.mark.parametrize("which", ["hidden", "weights"])
def test_dropout_inside(student, which):
    """In train mode dropout should also act behind the ReLU and on the attention weights."""
    hidden = which == "hidden"
    place, name = ("hidden features", "the FFN") if hidden else ("attention weights", "attention")
    tokens, features = student.run(inner_dropout, which, 0.3)
    assert_close(tokens, 0.3, f"with p = 0.3, the share of {place} that are dropped", atol=0.1)
    # A feature is left if neither its token's one unit nor it itself is dropped.
    what = f"with p = 0.3 inside and outside, the share of {name}'s output that is left"
    assert_close(features, 0.49, what, atol=0.08)


@probe
def encoder_parameters(student, sizes):
    one, other = student.EncoderBlock(*sizes), student.EncoderBlock(*sizes)
    shapes = {name: list(p.shape) for name, p in one.named_parameters()}
    same = torch.equal(one.linear1.weight, other.linear1.weight)
    batch_first = one.self_attn.batch_first
    return shapes, same, batch_first, one.self_attn.num_heads


@pytest.mark.exercise("encoder", points=2)
@pytest.mark.parametrize("sizes", [(6, 2, 9, 0.1), (4, 1, 4, 0.0)])
def test_names_and_shapes(student, sizes):
    """The parameters should have the library's names and shapes, each block its own draw."""
    layer = nn.TransformerEncoderLayer(*sizes, batch_first=True)
    shapes, same, batch_first, heads = student.run(encoder_parameters, sizes)
    expected = {name: list(p.shape) for name, p in layer.named_parameters()}
    assert_equal(dict(shapes), expected, "the parameters")
    assert_true(not same, "Two new blocks have the same weights; they should be random.")
    assert_true(batch_first, "self_attn should have batch_first=True.")
    assert_equal(heads, sizes[1], "the number of heads")


@pytest.mark.exercise("encoder", points=2)
def test_float32_and_order(student, device):
    """The block should keep float32, and permute its outputs when the tokens are permuted."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
    state = randomised(layer, device, torch.float32).state_dict()
    x = randn(2, 5, 6, dtype=torch.float32, device=device)
    order = torch.tensor([4, 2, 0, 1, 3], device=device)
    a = student.run(encoder_eval, state, (6, 2, 8, 0.0), False, x, False)
    b = student.run(encoder_eval, state, (6, 2, 8, 0.0), False, x[:, order], False)
    assert_equal(a.dtype, torch.float32, "the dtype")
    assert_close(b, a[:, order], "the output for permuted tokens", atol=1e-3)


# --- decoder ---------------------------------------------------------------------------------


@probe
def run_decoder(student, state, sizes, x, memory, mask, memory_mask, scale, train):
    """Value and gradients of a DecoderBlock with given weights."""
    block = student.DecoderBlock(*sizes).to(x.device, x.dtype).train(train)
    block.load_state_dict(state)
    x, memory = x.clone().requires_grad_(), memory.clone().requires_grad_()
    if mask is None and memory_mask is None:
        out = block(x, memory)
    else:
        out = block(x, memory, mask, memory_mask)
    (out * scale).sum().backward()
    grads = {name: p.grad for name, p in block.named_parameters()}
    grads = {k: torch.zeros_like(state[k]) if g is None else g for k, g in grads.items()}
    return out.detach(), [x.grad, memory.grad], grads


def decoder_reference(layer, x, memory, mask, memory_mask, scale, heads):
    leaves = [x.clone().requires_grad_(), memory.clone().requires_grad_()]
    (n, t, _), s = x.shape, memory.shape[1]
    out = layer(
        *leaves,
        tgt_mask=library_mask(mask, n, t, t, heads),
        memory_mask=library_mask(memory_mask, n, t, s, heads),
    )
    layer.zero_grad()
    (out * scale).sum().backward()
    grads = {k: p.grad.clone() for k, p in layer.named_parameters()}
    return out.detach(), [leaf.grad for leaf in leaves], grads


def causal(t, device="cpu"):
    return torch.ones(1, t, t, dtype=torch.bool, device=device).tril()


@pytest.mark.exercise("decoder", points=6)
@pytest.mark.parametrize(
    "sizes, n, t, s", [((6, 2, 9), 3, 5, 4), ((4, 4, 3), 1, 1, 1), ((8, 1, 16), 2, 3, 6)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_decoder_layer(student, device, sizes, n, t, s, masked):
    """With its weights the block should equal nn.TransformerDecoderLayer, gradients included."""
    layer = randomised(nn.TransformerDecoderLayer(*sizes, 0.0, batch_first=True), device)
    d, heads = sizes[0], sizes[1]
    x, memory = randn(n, t, d, device=device), randn(n, s, d, device=device)
    scale = randn(n, t, d, device=device)
    mask = causal(t, device) if masked else None
    memory_mask = None
    if masked:
        memory_mask = torch.ones(n, 1, s, dtype=torch.bool, device=device)
        memory_mask[0, 0, 1:] = False
    with unchanged(x, memory):
        out, gx, grads = student.run(
            run_decoder,
            layer.state_dict(),
            (*sizes, 0.0),
            x,
            memory,
            mask,
            memory_mask,
            scale,
            True,
        )
    value, wanted, by_name = decoder_reference(layer, x, memory, mask, memory_mask, scale, heads)
    assert_close(out, value)
    assert_close(list(gx), wanted, "the gradients for x and memory")
    assert_close(dict(grads), by_name, "the gradients of the parameters")


@probe
def decoder_eval(student, state, sizes, x, memory, mask, memory_mask, train):
    block = student.DecoderBlock(*sizes).to(x.device, x.dtype).train(train)
    block.load_state_dict(state)
    with torch.no_grad():
        return block(x, memory, mask=mask, memory_mask=memory_mask)


@pytest.mark.exercise("decoder", points=4)
def test_causality(student, device):
    """Changing token t + 1 of x should leave the outputs up to t unchanged, bit for bit."""
    layer = randomised(nn.TransformerDecoderLayer(6, 2, 8, 0.0, batch_first=True), device)
    x, memory = randn(2, 5, 6, device=device), randn(2, 3, 6, device=device)
    run = lambda x: student.run(  # noqa: E731
        decoder_eval, layer.state_dict(), (6, 2, 8, 0.0), x, memory, causal(5, device), None, False
    )
    base = run(x)
    for t in range(4):
        other = x.clone()
        other[:, t + 1] = randn(2, 6, device=device)
        got = run(other)
        assert_close(got[:, : t + 1], base[:, : t + 1], f"the outputs up to {t}", atol=1e-12)
        moved = (got[:, t + 1] - base[:, t + 1]).abs().max()
        assert_true(moved > 1e-6, f"Output {t + 1} should depend on token {t + 1}.")


@pytest.mark.exercise("decoder", points=4)
def test_source_padding_is_invisible(student, device):
    """What memory_mask hides should change nothing, for a mask (N, 1, S) and (N, T, S)."""
    layer = randomised(nn.TransformerDecoderLayer(6, 3, 8, 0.0, batch_first=True), device)
    x, memory = randn(2, 3, 6, device=device), randn(2, 5, 6, device=device)
    seen = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=device).bool()[:, None]
    other = memory + 5.0 * ~seen.transpose(1, 2)
    run = lambda m, mask: student.run(  # noqa: E731
        decoder_eval, layer.state_dict(), (6, 3, 8, 0.0), x, m, causal(3, device), mask, False
    )
    base = run(memory, seen)
    assert_close(run(other, seen), base, "the output with other padding")
    assert_close(run(memory, seen.expand(2, 3, 5)), base, "the output for a mask (N, T, S)")
    pairs = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1]], device=device)
    pairs = pairs.bool()[None].expand(2, 3, 5)
    scale = torch.ones_like(x)
    expected = decoder_reference(layer, x, memory, causal(3, device), pairs, scale, 3)[0]
    assert_close(run(memory, pairs), expected, "the output where each token sees other keys")


@pytest.mark.exercise("decoder", points=3)
def test_all_three_are_dropped(student, device):
    """With p = 1 in train mode only the three norms should be left; eval mode drops nothing."""
    layer = randomised(nn.TransformerDecoderLayer(6, 2, 8, 1.0, batch_first=True), device).eval()
    x, memory = randn(2, 3, 6, device=device), randn(2, 4, 6, device=device)
    args = layer.state_dict(), (6, 2, 8, 1.0), x, memory, None, None
    expected = layer.norm3(layer.norm2(layer.norm1(x))).detach()
    assert_close(student.run(decoder_eval, *args, True), expected, "when everything is dropped")
    expected = decoder_reference(layer, x, memory, None, None, torch.ones_like(x), 2)[0]
    assert_close(student.run(decoder_eval, *args, False), expected, "the output in eval mode")


@probe
def decoder_inner_dropout(student, which, p):
    """Spread of one sublayer's tokens in train mode, with the other sublayers silent."""
    torch.manual_seed(0)
    block = student.DecoderBlock(8, 1, 1, p).double().train()
    with torch.no_grad():
        for name, q in block.named_parameters():
            if "norm" not in name:
                q.zero_()
        if which == "hidden":
            block.linear1.bias.fill_(1.0)
            block.linear2.weight.fill_(1e6)
        else:
            attn = block.self_attn if which == "self" else block.multihead_attn
            attn.in_proj_bias[16:] = 1e6
            attn.out_proj.weight.copy_(torch.eye(8))
        x = torch.randn(1, 1, 8, dtype=torch.float64).expand(600, 1, 8)
        silent = block.norm3(block.norm2(block.norm1(x)))
        moved = (block(x, torch.zeros(600, 1, 8, dtype=torch.float64)) - silent).abs() > 0.05
    # A token is untouched if its one unit was dropped (p), or all or none of its features were.
    return (~moved.any(-1)).double().mean().item()


@pytest.mark.exercise("decoder", points=2)
@pytest.mark.parametrize("which", ["self", "cross", "hidden"])
def test_dropout_inside_the_decoder(student, which):
    """In train mode dropout should also act behind the ReLU and on both attentions' weights."""
    share = student.run(decoder_inner_dropout, which, 0.3)
    place = {
        "self": "of the self-attention's weights",
        "cross": "of the cross-attention's weights",
        "hidden": "of the hidden features",
    }[which]
    assert_close(share, 0.3, f"with p = 0.3, the share {place} that are dropped", atol=0.15)


@probe
def decoder_parameters(student, sizes):
    block = student.DecoderBlock(*sizes)
    shapes = {name: list(p.shape) for name, p in block.named_parameters()}
    heads = block.self_attn.num_heads, block.multihead_attn.num_heads
    return shapes, list(heads), block.self_attn.batch_first and block.multihead_attn.batch_first


@pytest.mark.exercise("decoder", points=1)
def test_names_and_shapes_of_the_decoder(student):
    """The parameters should have the library's names and shapes."""
    layer = nn.TransformerDecoderLayer(6, 3, 10, batch_first=True)
    shapes, heads, batch_first = student.run(decoder_parameters, (6, 3, 10, 0.1))
    expected = {name: list(p.shape) for name, p in layer.named_parameters()}
    assert_equal(dict(shapes), expected, "the parameters")
    assert_equal(list(heads), [3, 3], "the numbers of heads")
    assert_true(batch_first, "Both attentions should have batch_first=True.")


# --- train -----------------------------------------------------------------------------------

CFG = {"vocab": 13, "d": 16, "h": 4, "ff": 24, "layers": 3, "p": 0.2, "max_len": 11}


@probe
def parts(student, cfg):
    """Everything there is to see of a new model."""
    model = student.build_model(cfg)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    blocks = [*model.encoder, *model.decoder]
    heads = [a.num_heads for b in blocks for a in b.children() if hasattr(a, "num_heads")]
    drops = [a.dropout for b in blocks for a in b.children() if hasattr(a, "num_heads")]
    apart = not torch.equal(blocks[0].linear1.weight, blocks[1].linear1.weight)
    order = [bool(b.norm_first) for b in blocks if hasattr(b, "norm_first")]
    return (
        shapes,
        heads,
        drops,
        apart,
        order,
        model.table.clone(),
        model.embed.weight.detach().clone(),
        "table" in dict(model.named_buffers()),
    )


@pytest.mark.exercise("train", points=3)
@pytest.mark.parametrize("layers", [1, 3])
def test_build_model_parts(student, layers):
    """build_model should give blocks of the configured sizes that share no weights, and a head."""
    cfg = CFG | {"layers": layers, "positions": True}
    shapes, heads, drops, apart, order, *_, buffer = student.run(parts, cfg)
    expected = {"embed.weight": [13, 16], "head.weight": [13, 16], "head.bias": [13]}
    sizes = {"dim_feedforward": 24, "batch_first": True}
    stacks = {
        "encoder": nn.TransformerEncoderLayer(16, 4, **sizes),
        "decoder": nn.TransformerDecoderLayer(16, 4, **sizes),
    }
    for side, layer in stacks.items():
        for k in range(layers):
            for name, p in layer.named_parameters():
                expected[f"{side}.{k}.{name}"] = list(p.shape)
    assert_equal(dict(shapes), expected, "the parameters")
    assert_equal(list(heads), [4] * (3 * layers), "the numbers of heads")
    assert_close(list(drops), [0.2] * (3 * layers), "the dropout of the attentions")
    assert_true(apart, "Each block should have its own draw of the weights.")
    assert_true(not any(order), "The blocks should be post-norm.")
    assert_true(buffer, "The position table should be handed to Seq2Seq.")


@pytest.mark.exercise("train", points=2)
def test_table_and_embedding(student):
    """The table should hold sinusoids, or zeros without positions; the embedding has std d**-0.5."""
    cfg = CFG | {"vocab": 500, "d": 64, "layers": 1}
    *_, table, embed, _ = student.run(parts, cfg | {"positions": True})
    angle = torch.arange(11)[:, None] * 10000 ** (-torch.arange(0, 64, 2) / 64)
    expected = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    assert_close(table, expected, "the table", atol=1e-4)
    assert_close(embed.std().item(), 0.125, "the embedding's standard deviation", rtol=0.03)
    assert_true(embed.mean().abs() < 0.003, "The embedding should have mean 0.")
    *_, table, _, _ = student.run(parts, cfg | {"positions": False})
    assert_close(table, torch.zeros(11, 64), "the table without positions")


@probe
def trained(student, cfg, steps, seed, mode, where):
    """Losses of train and of the loop written out, from the same start."""
    torch.manual_seed(5)
    sizes = cfg["d"], cfg["h"], cfg["ff"], cfg["p"]
    model = student.Seq2Seq(
        nn.Embedding(cfg["vocab"], cfg["d"]),
        student.sinusoid(cfg["max_len"], cfg["d"]),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes)],
        nn.Linear(cfg["d"], cfg["vocab"]),
    )
    model = model.to(where)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    model.train(mode)
    torch.manual_seed(6)
    losses = student.train(model, steps, seed)
    state, training = model.state_dict(), model.training
    other = student.Seq2Seq(
        nn.Embedding(cfg["vocab"], cfg["d"]),
        student.sinusoid(cfg["max_len"], cfg["d"]),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes)],
        nn.Linear(cfg["d"], cfg["vocab"]),
    )
    other = other.to(where)
    other.load_state_dict(start)
    torch.manual_seed(6)
    moved = max((state[k] - v).abs().max().item() for k, v in start.items())
    g, wanted = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.Adam(other.parameters(), lr=5e-3)
    for _ in range(steps):
        src, inp, target = (t.to(where) for t in student.reversal(64, g))
        logits = other(src, inp)
        loss = F.cross_entropy(logits[target != 0], target[target != 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    ends = zip(state.values(), other.state_dict().values(), strict=True)
    gap = max((a - b).abs().max().item() for a, b in ends)
    return losses, wanted, gap, training, moved


@pytest.mark.exercise("train", points=4)
@pytest.mark.parametrize("steps, seed, p", [(1, 0, 0.0), (6, 4, 0.0), (3, 1, 0.5)])
def test_losses_step_by_step(student, device, steps, seed, p):
    """train should give the losses of Adam at 5e-3 on reversal(64, g), pads left out."""
    cfg = CFG | {"p": p, "d": 8, "h": 2}
    got = student.run(trained, cfg, steps, seed, False, str(device))
    losses, wanted, gap, training, moved = got
    assert_close(list(losses), list(wanted), "the losses", rtol=1e-3)
    if steps == 1:  # Adam's first step is the learning rate, whatever the gradient
        assert_close(moved, 5e-3, "the largest change of a weight in the first step", rtol=0.01)
    assert_true(
        gap < 2e-3,
        f"The weights after {steps} steps should be those of Adam at 5e-3; one is off by {gap:.2g}.",
    )
    assert_true(training, "train should put the model into train mode.")


@probe
def tiny_parts(student, cfg, steps, seed):
    """Which batches train asks for, and what it returns."""
    calls = []

    def batch(n, g):
        calls.append([n, torch.randint(1000, (1,), generator=g).item()])
        return student.reversal(n, g)

    torch.manual_seed(0)
    sizes = cfg["d"], cfg["h"], cfg["ff"], 0.0
    model = student.Seq2Seq(
        nn.Embedding(cfg["vocab"], cfg["d"]),
        student.sinusoid(cfg["max_len"], cfg["d"]),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes)],
        nn.Linear(cfg["d"], cfg["vocab"]),
    )
    losses = student.train(model, steps, seed, batch=batch)
    g, wanted = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        wanted.append([64, torch.randint(1000, (1,), generator=g).item()])
        student.reversal(64, g)
    return calls, wanted, len(losses), all(type(v) is float for v in losses)


@pytest.mark.exercise("train", points=2)
def test_batches_of_another_task(student):
    """train should ask the given function for batches of 64, with one generator for all."""
    calls, wanted, count, floats = student.run(tiny_parts, CFG | {"d": 8, "h": 2}, 3, 11)
    assert_equal([list(c) for c in calls], [list(w) for w in wanted], "the calls of batch(n, g)")
    assert_equal(count, 3, "the number of losses")
    assert_true(floats, "The losses should be floats.")


@probe
def learned(student, positions, steps):
    """Teacher-forced accuracy on new words."""
    cfg = {"vocab": 13, "d": 32, "h": 4, "ff": 64, "layers": 1, "p": 0.0, "max_len": 9}
    torch.manual_seed(0)
    model = student.build_model({**cfg, "positions": positions})
    student.train(model, steps, 0)
    src, inp, target = student.reversal(200, torch.Generator().manual_seed(1234))
    with torch.no_grad():
        right = model.eval()(src, inp).argmax(-1) == target
    return right[target != 0].double().mean().item()


@pytest.mark.exercise("train", points=4)
def test_it_learns_to_reverse(student):
    """With positions, 130 steps should reach a token accuracy above 0.95; without, stay below 0.6."""
    got = student.run(learned, True, 130)
    assert_true(got > 0.95, f"With positions the accuracy should be above 0.95, not {got:.2f}.")
    got = student.run(learned, False, 25)
    assert_true(got < 0.6, f"Without positions it should stay below 0.6, and is {got:.2f}.")


# --- decode ----------------------------------------------------------------------------------


@probe
def steps_of(student, seed, layers, src, tgt, dtype):
    """Logits of step after step, and of the full pass; and the cache at the end."""
    torch.manual_seed(seed)
    sizes = (8, 2, 12, 0.0)
    model = student.Seq2Seq(
        nn.Embedding(9, 8),
        student.sinusoid(16, 8),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes) for _ in range(layers)],
        nn.Linear(8, 9),
    )
    with torch.no_grad():
        for p in model.parameters():  # norms too
            p.add_(0.3 * torch.randn_like(p))
    model = model.to(src.device, dtype).eval()
    with torch.no_grad():
        cache = model.begin(src)
        before = [[t.clone() for t in layer["memory"]] for layer in cache["layers"]]
        rows = [student.step(model, cache, tgt[:, t]) for t in range(tgt.shape[1])]
        full = model(src, tgt)
    same = all(
        torch.equal(a, b)
        for old, layer in zip(before, cache["layers"])
        for a, b in zip(old, layer["memory"])
    )
    shapes = [[list(t.shape) for t in layer["self"]] for layer in cache["layers"]]
    return torch.stack(rows, 1), full, cache["t"], shapes, same


@pytest.mark.exercise("decode", points=4)
@pytest.mark.parametrize("layers, n, s, t", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 2, 4, 10)])
def test_cache_equals_full_forward(student, device, layers, n, s, t):
    """The logits of step should equal those of a full pass over the prefix, padding included."""
    src = randint(3, 9, (n, s), device=device)
    if s > 2:
        src[0, 2:] = 0
    tgt = randint(3, 9, (n, t), device=device)
    tgt[:, 0] = 1
    got, expected, count, shapes, same = student.run(
        steps_of, 3 + layers, layers, src, tgt, torch.float64
    )
    assert_close(got, expected, "the logits", atol=1e-6)
    assert_equal(count, t, 'cache["t"] after all steps')
    assert_equal(
        [[list(x) for x in pair] for pair in shapes],
        [[[n, 2, t, 4]] * 2] * layers,
        "the shapes of the cached keys and values",
    )
    assert_true(same, "The memory's keys and values should stay as they are.")


@probe
def count_positions(student, src, tgt):
    """Positions that go through the decoder's feed-forward network and the encoder."""
    torch.manual_seed(0)
    sizes = (8, 2, 12, 0.0)
    model = student.Seq2Seq(
        nn.Embedding(9, 8),
        student.sinusoid(16, 8),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes)],
        nn.Linear(8, 9),
    ).eval()
    seen = {"embedded": 0}

    def note(module, args, out):
        seen["embedded"] += args[0].shape[-1] if args[0].dim() > 1 else 1

    with torch.no_grad():
        cache = model.begin(src)
        model.embed.register_forward_hook(note)
        for t in range(tgt.shape[1]):
            student.step(model, cache, tgt[:, t])
    return seen["embedded"]


@pytest.mark.exercise("decode", points=1)
def test_one_position_a_step(student):
    """step should embed the new token only, not the whole prefix or the source again."""
    src, tgt = randint(3, 9, (2, 4)), randint(3, 9, (2, 6))
    assert_equal(student.run(count_positions, src, tgt), 6, "the positions embedded in 6 steps")


@probe
def write(student, seed, scale, bias, src, max_len):
    """greedy, and the same by full recomputation."""
    torch.manual_seed(seed)
    sizes = (8, 2, 12, 0.0)
    model = student.Seq2Seq(
        nn.Embedding(9, 8),
        student.sinusoid(16, 8),
        [student.EncoderLayer(*sizes)],
        [student.DecoderLayer(*sizes) for _ in range(2)],
        nn.Linear(8, 9),
    )
    model = model.to(src.device).double().eval()
    with torch.no_grad():
        model.embed.weight.mul_(scale)
        model.head.weight.mul_(3.0)
        model.head.bias[2] += bias
        model.head.bias[0] -= 1.0
        model.head.bias[1] -= 1.0
    got = student.greedy(model, src, max_len)
    with torch.no_grad():
        rows = []
        for one in src:
            memory, mask = model.encode(one[None])
            ids = torch.ones(1, 1, dtype=torch.long, device=src.device)
            while ids.shape[1] <= max_len and ids[0, -1] != 2:
                best = model.decode(ids, memory, mask)[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, best], 1)
            rows.append(ids[0, 1:].tolist())
    return got, rows, got.requires_grad, model.training


@pytest.mark.exercise("decode", points=3)
@pytest.mark.parametrize("seed, bias, max_len", [(1, 1.5, 10), (2, 1.0, 12), (5, 2.0, 6)])
def test_batch_with_different_stops(student, device, seed, bias, max_len):
    """Each sequence should end with EOS and then PAD, as if it were decoded alone."""
    src = randint(3, 9, (12, 5), device=device)
    src[:4, 3:] = 0
    got, rows, grad, _ = student.run(write, seed, 1.5, bias, src, max_len)
    longest = max(map(len, rows))
    expected = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    assert_close(got, expected, "the tokens")
    assert_true(not grad, "greedy should record no gradients.")


@pytest.mark.exercise("decode", points=2)
def test_it_stops(student, device):
    """greedy should stop when all sequences have ended, and after max_len steps at the latest."""
    src = randint(3, 9, (3, 4), device=device)
    got, *_ = student.run(write, 0, 1.0, 100.0, src, 9)
    assert_close(got, torch.full((3, 1), 2, device=device), "a model that ends at once")
    for longest in (1, 5):
        got, rows, *_ = student.run(write, 0, 1.0, -100.0, src, longest)
        assert_close(got, torch.tensor(rows, device=device), "a model that never ends")
        assert_equal(list(got.shape), [3, longest], "the shape")
    got, rows, *_ = student.run(write, 0, 1.0, -100.0, src[:1, :1], 3)
    assert_close(got, torch.tensor(rows, device=device), "the tokens for one source token")
