"""Hidden tests of the chapter on attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import rbf_kernel
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_true,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)

# --- nw --------------------------------------------------------------------------------------


def kernel_mean(q, k, v, width):
    """The definition, with two loops."""
    rows = []
    for i in range(len(q)):
        kernel = [torch.exp(-(q[i] - k[j]).pow(2).sum() / (2 * width**2)) for j in range(len(k))]
        rows.append(sum(a * v[j] for j, a in enumerate(kernel)) / sum(kernel))
    return torch.stack(rows)


@pytest.mark.exercise("nw", points=3)
@pytest.mark.parametrize(
    "m, n, d, c, width",
    [(4, 6, 3, 2, 1.0), (1, 5, 1, 1, 0.4), (7, 1, 2, 3, 2.0), (3, 4, 5, 4, 2.5)],
)
def test_the_mean_of_a_kernel(student, device, m, n, d, c, width):
    """nw should be the mean of the values, weighted by the Gaussian kernel, for any sizes."""
    q, k, v = randn(m, d, device=device), randn(n, d, device=device), randn(n, c, device=device)
    with unchanged(q, k, v):
        got = student.nw(q, k, v, width)
    assert_close(
        got,
        kernel_mean(q, k, v, width),
        symptoms={
            "The 2 in 2 width² is missing.": kernel_mean(q, k, v, width / math.sqrt(2)),
            "The distance is not squared.": (-torch.cdist(q, k) / (2 * width**2)).softmax(-1) @ v,
            "The softmax runs over the queries.": (
                -(torch.cdist(q, k) ** 2) / (2 * width**2)
            ).softmax(0)
            @ v,
        },
    )


@pytest.mark.exercise("nw", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_scikit_learn(student, device, dtype):
    """With the identity as values, the rows should be normalised kernels, adding up to 1."""
    q, k = randn(5, 2, dtype=dtype, device=device), randn(8, 2, dtype=dtype, device=device)
    alpha = student.nw(q, k, torch.eye(8, dtype=dtype, device=device), 0.7)
    assert_close(alpha.sum(1), torch.ones(5, dtype=dtype, device=device), "the sums of the weights")
    kernel = rbf_kernel(q.cpu().double(), k.cpu().double(), gamma=1 / (2 * 0.7**2))
    expected = torch.from_numpy(kernel / kernel.sum(1, keepdims=True)).to(alpha)
    assert_close(alpha, expected, "the weights")


@pytest.mark.exercise("nw", points=2)
def test_the_two_limits(student, device):
    """A tiny width should give the nearest key's value, a huge one the mean, and never nan."""
    q, k, v = randn(6, 2, device=device), randn(9, 2, device=device), randn(9, 3, device=device)
    nearest = torch.cdist(q, k).argmin(1)
    assert_close(student.nw(q, k, v, 1e-6), v[nearest], "the output for width 1e-6")
    mean = v.mean(0).expand(6, 3)
    assert_close(student.nw(q, k, v, 1e6), mean, "the output for width 1e6", atol=1e-6)
    far = student.nw(q + 1000, k, v, 0.5)
    assert_true(far.isfinite().all(), "A query far from all keys should not give nan.")


@pytest.mark.exercise("nw", points=3)
def test_gradients_reach_the_width(student, device):
    """Gradients should reach queries, keys, values, and a width that is a tensor."""
    q, k, v = randn(3, 2, device=device), randn(4, 2, device=device), randn(4, 2, device=device)
    width = torch.tensor([1.3], dtype=q.dtype, device=device)

    def library(q, k, v, width):
        return (-(q[:, None] - k).pow(2).sum(-1) / (2 * width**2)).softmax(-1) @ v

    assert_same_gradients(student.nw, library, q, k, v, width)


# --- mask ------------------------------------------------------------------------------------


def masked(scores, lens):
    """One row at a time: the softmax of what is seen, zeros for the rest."""
    out = torch.zeros_like(scores)
    for b in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            n = int(lens[b] if lens.dim() == 1 else lens[b, i])
            if n:
                out[b, i, :n] = scores[b, i, :n].softmax(-1)
    return out


@pytest.mark.exercise("mask", points=3)
@pytest.mark.parametrize(
    "shape, lens", [((2, 3, 5), [2, 5]), ((1, 1, 4), [1]), ((3, 3, 3), [3, 1, 2])]
)
def test_a_length_for_each_example(student, device, shape, lens):
    """Lengths of shape (B,) should hold for all queries of an example; the scores stay unchanged."""
    scores, lens = 3 * randn(*shape, device=device), torch.tensor(lens, device=device)
    with unchanged(scores, lens):
        got = student.masked_softmax(scores, lens)
    hidden = torch.arange(shape[2], device=device) >= lens[:, None, None]
    assert_close(
        got,
        masked(scores, lens),
        "the weights",
        symptoms={
            "The mask comes after the softmax; these do not add up to 1.": scores.softmax(
                -1
            ).masked_fill(hidden, 0),
            "Hidden scores are set to 0, which still gets a weight.": scores.masked_fill(
                hidden, 0
            ).softmax(-1),
        },
    )


@pytest.mark.exercise("mask", points=3)
@pytest.mark.parametrize(
    "shape, lens",
    [
        ((2, 3, 4), [[1, 2, 4], [3, 4, 2]]),
        ((1, 4, 4), [[1, 2, 3, 4]]),
        ((2, 2, 6), [[6, 5], [2, 1]]),
    ],
)
def test_a_length_for_each_query_of_its_own(student, device, shape, lens):
    """Lengths of shape (B, Q) should hold for each query by itself."""
    scores, lens = 3 * randn(*shape, device=device), torch.tensor(lens, device=device)
    assert_close(student.masked_softmax(scores, lens), masked(scores, lens), "the weights")


@pytest.mark.exercise("mask", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_exact_zeros_in_any_precision(student, device, dtype):
    """Hidden weights should be exactly 0 in any precision, even if all scores are large or small."""
    for offset in (0.0, 4e4, -4e4):
        scores = (randn(2, 3, 6, device=device) + offset).to(dtype)
        lens = torch.tensor([[2, 4, 0], [1, 3, 6]], device=device)
        got = student.masked_softmax(scores, lens)
        hidden = torch.arange(6, device=device) >= lens[..., None]
        assert_equal(got.masked_select(hidden).abs().max().item(), 0.0, "the largest hidden weight")
        assert_close(got, masked(scores, lens), "the weights")


@pytest.mark.exercise("mask", points=3)
def test_length_zero_and_no_lengths(student, device):
    """Length 0 should give a row of zeros, one length an example or one a query; None hides nothing."""
    scores = randn(3, 2, 4, device=device)
    for lens in ([0, 2, 4], [[0, 3], [4, 0], [0, 0]]):
        lens = torch.tensor(lens, device=device)
        got = student.masked_softmax(scores, lens)
        assert_true(not got.isnan().any(), "A row of length 0 holds nan; it should be zeros.")
        assert_close(got, masked(scores, lens), "the weights")
    assert_close(student.masked_softmax(scores, None), scores.softmax(-1), "without lengths")


@pytest.mark.exercise("mask", points=3)
def test_no_gradient_to_the_padding(student, device):
    """Hidden scores should get a gradient of exactly 0, and the others that of the softmax."""
    scores = randn(2, 3, 5, device=device)
    for lens in ([[2, 0, 5], [1, 3, 4]], [4, 0], None):
        lens = lens if lens is None else torch.tensor(lens, device=device)
        reference = masked if lens is not None else lambda s, _: s.softmax(-1)
        leaf, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
        weight = randn(2, 3, 5, device=device)
        (student.masked_softmax(leaf, lens) * weight).sum().backward()
        (reference(other, lens) * weight).sum().backward()
        assert_close(leaf.grad, other.grad, "the gradient for the scores")


# --- additive --------------------------------------------------------------------------------


@probe
def run_additive(student, sizes, weights, inputs, dy):
    """A layer with given weights: its output, and gradients of sum(dy * output)."""
    layer = student.Additive(*sizes)
    wanted = [layer.W_q.weight, layer.W_k.weight, layer.w_v.weight]
    layer.to(device=weights[0].device, dtype=weights[0].dtype)
    with torch.no_grad():
        for p, w in zip(wanted, weights):
            p.copy_(w)
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = layer(*inputs)
    grads = torch.autograd.grad((y * dy).sum(), wanted + inputs, allow_unused=True)
    return y.detach(), [
        torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted + inputs)
    ]


@probe
def additive_parts(student, sizes):
    """Shapes of the parameters and whether two layers differ."""
    one, other = student.Additive(*sizes), student.Additive(*sizes)
    shapes = {name: list(p.shape) for name, p in one.named_parameters()}
    differ = not torch.equal(one.W_q.weight, other.W_q.weight)
    return shapes, len(list(one.buffers())), differ, isinstance(one, nn.Module)


def pair_by_pair(W_q, W_k, w_v, queries, keys, values):
    """The definition, with loops over examples, queries and keys."""
    batch = []
    for q, k, v in zip(queries, keys, values, strict=True):
        rows = []
        for a in q:
            scores = torch.stack([(w_v[0] * torch.tanh(W_q @ a + W_k @ b)).sum() for b in k])
            rows.append(scores.softmax(0) @ v)
        batch.append(torch.stack(rows))
    return torch.stack(batch)


ADDITIVE = [
    # q, k, h, B, Q, K, c
    (3, 5, 4, 2, 3, 4, 2),
    (1, 2, 7, 1, 1, 6, 3),
    (4, 1, 1, 3, 5, 2, 1),
    (2, 2, 3, 2, 4, 4, 4),
]


@pytest.mark.exercise("additive", points=4)
@pytest.mark.parametrize("q, k, h, B, Q, K, c", ADDITIVE)
def test_every_pair(student, device, q, k, h, B, Q, K, c):
    """Additive should score every query with every key, of any sizes, and average the values."""
    weights = [randn(h, q, device=device), randn(h, k, device=device), randn(1, h, device=device)]
    inputs = [randn(B, Q, q, device=device), randn(B, K, k, device=device)]
    inputs.append(randn(B, K, c, device=device))
    expected = pair_by_pair(*weights, *inputs)
    y, _ = student.run(run_additive, (q, k, h), weights, inputs, torch.ones_like(expected))
    assert_close(y, expected)


@pytest.mark.exercise("additive", points=3)
def test_additive_gradients(student, device):
    """Gradients should reach the three matrices, the queries, the keys and the values."""
    weights = [randn(4, 3, device=device), randn(4, 2, device=device), randn(1, 4, device=device)]
    inputs = [randn(2, 3, 3, device=device), randn(2, 4, 2, device=device)]
    inputs.append(randn(2, 4, 2, device=device))
    dy = randn(2, 3, 2, device=device)
    leaves = [t.clone().requires_grad_() for t in (*weights, *inputs)]
    loss = (pair_by_pair(*leaves) * dy).sum()
    expected = torch.autograd.grad(loss, leaves)
    _, got = student.run(run_additive, (3, 2, 4), weights, inputs, dy)
    assert_close(list(got), list(expected), "the gradients")


@pytest.mark.exercise("additive", points=3)
@pytest.mark.parametrize("q, k, h", [(3, 5, 4), (2, 1, 6)])
def test_only_three_matrices(student, q, k, h):
    """There should be three random matrices of the shapes (h, q), (h, k), (1, h), and no bias."""
    shapes, buffers, differ, module = student.run(additive_parts, (q, k, h))
    assert_true(module, "Additive should be an nn.Module.")
    assert_equal(
        shapes,
        {"W_q.weight": [h, q], "W_k.weight": [h, k], "w_v.weight": [1, h]},
        "the parameters",
    )
    assert_equal(buffers, 0, "the number of buffers")
    assert_true(differ, "Two new layers have the same weights; they should be random.")


# --- dot -------------------------------------------------------------------------------------

library = F.scaled_dot_product_attention


@pytest.mark.exercise("dot", points=3)
@pytest.mark.parametrize(
    "lead, L, S, d, c",
    [((2,), 3, 5, 4, 2), ((2, 3), 4, 6, 8, 8), ((1,), 1, 1, 3, 5), ((1, 2), 7, 2, 1, 3)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_library(student, device, lead, L, S, d, c, dtype):
    """sdpa should equal F.scaled_dot_product_attention, for any sizes and leading axes."""
    kw = {"dtype": dtype, "device": device}
    q, k, v = randn(*lead, L, d, **kw), randn(*lead, S, d, **kw), randn(*lead, S, c, **kw)
    with unchanged(q, k, v):
        got = student.sdpa(q, k, v)
    scores = q.double() @ k.double().mT
    assert_close(
        got,
        ((scores / math.sqrt(d)).softmax(-1) @ v.double()).to(dtype),
        symptoms={
            "The division by √d is missing.": (scores.softmax(-1) @ v.double()).to(dtype),
            "The scores are divided by d, not by its root.": (
                (scores / d).softmax(-1) @ v.double()
            ).to(dtype),
        },
    )


@pytest.mark.exercise("dot", points=3)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (4, 5), (1, 5), (2, 3, 4, 1)])
def test_boolean_masks(student, device, shape):
    """A boolean mask should say what may be seen, of any shape that broadcasts; all False gives 0."""
    q, k = randn(2, 3, 4, 6, device=device), randn(2, 3, 5, 6, device=device)
    v = randn(2, 3, 5, 2, device=device)
    keep = rand(*shape, device=device) < 0.5
    keep[..., 0, :] = False
    with unchanged(keep):
        got = student.sdpa(q, k, v, keep)
    scores = (q @ k.mT / math.sqrt(6)).masked_fill(~keep, -torch.inf)
    expected = scores.softmax(-1).nan_to_num() @ v
    assert_true(not got.isnan().any(), "A query that sees nothing gives nan; it should give 0.")
    assert_close(got, expected)
    seen = torch.ones(4, 5, dtype=torch.bool, device=device)
    assert_close(student.sdpa(q, k, v, seen), library(q, k, v), "the output if all may be seen")


@pytest.mark.exercise("dot", points=2)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 5), (2, 1, 1, 5)])
def test_float_masks(student, device, shape):
    """A floating-point mask should be added to the scaled scores; minus infinity hides."""
    q, k = randn(2, 3, 4, 6, device=device), randn(2, 3, 5, 6, device=device)
    v, bias = randn(2, 3, 5, 2, device=device), 2 * randn(*shape, device=device)
    bias[..., 1] = -torch.inf
    with unchanged(bias):
        got = student.sdpa(q, k, v, mask=bias)
    scores = q @ k.mT / math.sqrt(6)
    assert_close(
        got,
        (scores + bias).softmax(-1) @ v,
        symptoms={
            "The mask is added before the division by √d.": (scores + bias / math.sqrt(6)).softmax(
                -1
            )
            @ v,
        },
    )


@pytest.mark.exercise("dot", points=2)
@pytest.mark.parametrize("L, S", [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_causal(student, device, L, S):
    """With is_causal, query i should see the keys 0, ..., i, also when L and S differ."""
    q, k, v = (
        randn(2, 2, L, 4, device=device),
        randn(2, 2, S, 4, device=device),
        randn(2, 2, S, 3, device=device),
    )
    keep = torch.ones(L, S, dtype=torch.bool, device=device).tril()
    got = student.sdpa(q, k, v, is_causal=True)
    expected = (q @ k.mT / 2).masked_fill(~keep, -torch.inf).softmax(-1) @ v
    assert_close(got, expected)
    changed = v.clone()
    changed[..., -1, :] += 100
    if L == S > 1:
        later = student.sdpa(q, k, changed, is_causal=True)
        assert_close(later[..., :-1, :], expected[..., :-1, :], "the outputs before the last")


@pytest.mark.exercise("dot", points=3)
def test_dot_gradients(student, device):
    """The gradients for q, k and v should be the library's, with every kind of mask."""
    q, k = randn(2, 4, 6, device=device), randn(2, 5, 6, device=device)
    v = randn(2, 5, 3, device=device)
    keep = rand(2, 4, 5, device=device) < 0.6
    keep[0, 1] = False
    keep[..., 2] |= torch.tensor([[True, False, True, True]], device=device)
    bias = randn(4, 5, device=device)

    def reference(q, k, v, mask=None):
        scores = q @ k.mT / math.sqrt(6)
        if mask is None:
            return scores.softmax(-1) @ v
        if mask.dtype != torch.bool:
            return (scores + mask).softmax(-1) @ v
        # A large negative number instead of infinity: no nan on the way back.
        weights = scores.masked_fill(~mask, -1e30).softmax(-1).masked_fill(~mask, 0)
        return weights @ v

    assert_same_gradients(student.sdpa, reference, q, k, v)
    for mask in (keep, bias):
        assert_same_gradients(
            lambda q, k, v, mask=mask: student.sdpa(q, k, v, mask),
            lambda q, k, v, mask=mask: reference(q, k, v, mask),
            q,
            k,
            v,
        )
    triangle = torch.ones(4, 5, dtype=torch.bool, device=device).tril()
    assert_same_gradients(
        lambda q, k, v: student.sdpa(q, k, v, is_causal=True),
        lambda q, k, v: reference(q, k, v, triangle),
        q,
        k,
        v,
    )


@pytest.mark.exercise("dot", points=1)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(student, device, dtype):
    """In float16 and bfloat16 large features should not overflow, and the dtype should stay."""
    q, k = 40 * randn(1, 4, 64, device=device).sign(), randn(1, 5, 64, device=device)
    k[0, 0], k[0, 1] = q[0, 0], q[0, 2]
    k[0, :2] *= 1.5
    v = randn(1, 5, 8, device=device)
    low = [t.to(dtype) for t in (q, k, v)]
    exact = library(*(t.double() for t in low))
    got = student.sdpa(*low)
    assert_true(got.isfinite().all(), "The output holds nan or inf: the scores overflow.")
    assert_close(got, exact.to(dtype), atol=0.1)


@pytest.mark.exercise("dot", points=1)
def test_two_masks(student):
    """sdpa should raise a ValueError for a mask together with is_causal, of either kind."""
    x = randn(1, 3, 2)
    for mask in (torch.ones(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.float64)):
        with raises(ValueError):
            student.sdpa(x, x, x, mask, True)
        with raises(ValueError):
            student.sdpa(x, x, x, mask=mask, is_causal=True)


# --- mha -------------------------------------------------------------------------------------


@pytest.mark.exercise("mha", points=4)
@pytest.mark.parametrize("B, n, d, h", [(2, 5, 8, 2), (1, 3, 6, 3), (3, 4, 4, 4), (2, 1, 6, 1)])
def test_each_head_has_every_token(student, device, B, n, d, h):
    """Entry b * h + i should be head i of example b: every token, with the i-th share of features."""
    x = randn(B, n, d, device=device)
    with unchanged(x):
        got = student.transpose_qkv(x, h)
    size = d // h
    expected = torch.stack([x[b, :, i * size : (i + 1) * size] for b in range(B) for i in range(h)])
    assert_close(
        got,
        expected,
        "the heads",
        symptoms={"A reshape alone deals tokens to the heads.": x.reshape(B * h, n, size)},
    )


@pytest.mark.exercise("mha", points=3)
@pytest.mark.parametrize("B, n, d, h", [(2, 5, 8, 2), (1, 3, 6, 3), (3, 4, 4, 4), (4, 2, 6, 2)])
def test_the_way_back(student, device, B, n, d, h):
    """transpose_output should undo the split, gradients included; each alone is a rearrangement."""
    x = randn(B, n, d, device=device)
    heads = torch.cat([torch.stack(e.chunk(h, -1)) for e in x])
    with unchanged(heads):
        got = student.transpose_output(heads, h)
    assert_close(got, x, "the features put together")
    assert_same_gradients(
        lambda x: student.transpose_output(student.transpose_qkv(x, h), h), lambda x: x * 1.0, x
    )


@pytest.mark.exercise("mha", points=2)
@pytest.mark.parametrize("d, h", [(6, 4), (5, 2), (3, 6)])
def test_heads_that_do_not_divide(student, d, h):
    """transpose_qkv and MHA should raise a ValueError when h does not divide d."""
    x = randn(2, 3, d)
    with raises(ValueError):
        student.transpose_qkv(x, h)
    with raises(ValueError):
        student.MHA(d, h)


@probe
def run_mha(student, d, h, state, inputs, lens, dy):
    """A layer with given weights: its output, and gradients of sum(dy * output)."""
    layer = student.MHA(d, h).to(device=inputs[0].device, dtype=inputs[0].dtype)
    layer.load_state_dict(state)
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = layer(*inputs) if lens is None else layer(*inputs, lens)
    parameters = dict(layer.named_parameters())
    wanted = [*parameters.values(), *inputs]
    grads = torch.autograd.grad((y * dy).sum(), wanted, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted)]
    return y.detach(), dict(zip(parameters, grads)), grads[len(parameters) :]


NAMES = ("W_q", "W_k", "W_v", "W_o")


def torchs_layer(d, h, device):
    """nn.MultiheadAttention with random numbers, and the same numbers for MHA."""
    layer = nn.MultiheadAttention(d, h, batch_first=True).to(device, torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(randn(*p.shape, device=device) / 2)
    weights = [*layer.in_proj_weight.detach().chunk(3), layer.out_proj.weight.detach()]
    biases = [*layer.in_proj_bias.detach().chunk(3), layer.out_proj.bias.detach()]
    state = {f"{name}.weight": w.clone() for name, w in zip(NAMES, weights, strict=True)}
    state |= {f"{name}.bias": b.clone() for name, b in zip(NAMES, biases, strict=True)}
    return layer, state


@pytest.mark.exercise("mha", points=4)
@pytest.mark.parametrize(
    "d, h, B, Q, K", [(8, 2, 2, 3, 5), (6, 3, 1, 4, 4), (4, 1, 3, 2, 6), (6, 6, 2, 1, 3)]
)
def test_equals_torchs_layer(student, device, d, h, B, Q, K):
    """With the same weights, MHA should equal nn.MultiheadAttention, in value and gradient."""
    layer, state = torchs_layer(d, h, device)
    inputs = [randn(B, n, d, device=device) for n in (Q, K, K)]
    dy = randn(B, Q, d, device=device)
    y, parameters, got = student.run(run_mha, d, h, state, inputs, None, dy)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = layer(*leaves, need_weights=False)[0]
    assert_close(y, expected)
    (expected * dy).sum().backward()
    assert_close(list(got), [x.grad for x in leaves], "the gradients for queries, keys and values")
    grads = [*layer.in_proj_weight.grad.chunk(3), layer.out_proj.weight.grad]
    for name, grad in zip(NAMES, grads, strict=True):
        assert_close(parameters[f"{name}.weight"], grad, f"the gradient for {name}.weight")


@pytest.mark.exercise("mha", points=5)
@pytest.mark.parametrize(
    "lens",
    [[1, 4, 3], [4, 4, 2], [[1, 2], [4, 3], [2, 4]]],
    ids=["by example", "by example again", "by query"],
)
@pytest.mark.parametrize("h", [1, 2, 4])
def test_valid_lengths(student, device, h, lens):
    """Valid lengths should hide the padding of each example (or query) from all of its heads."""
    layer, state = torchs_layer(8, h, device)
    inputs = [randn(3, n, 8, device=device) for n in (2, 4, 4)]
    lens = torch.tensor(lens, device=device)
    dy = randn(3, 2, 8, device=device)
    with unchanged(lens):
        y, _, got = student.run(run_mha, 8, h, state, inputs, lens, dy)
    hide = torch.arange(4, device=device) >= lens.view(3, -1, 1)
    hide = hide.expand(3, 2, 4).repeat_interleave(h, 0)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = layer(*leaves, attn_mask=hide, need_weights=False)[0]
    assert_close(y, expected)
    (expected * dy).sum().backward()
    assert_close(list(got), [x.grad for x in leaves], "the gradients for queries, keys and values")


@probe
def mha_parts(student, d, h):
    """Shapes of the parameters, whether the four maps differ, and the kind of thing."""
    layer = student.MHA(d, h)
    shapes = {name: list(p.shape) for name, p in layer.named_parameters()}
    maps = [layer.W_q.weight, layer.W_k.weight, layer.W_v.weight, layer.W_o.weight]
    differ = all(not torch.equal(maps[i], maps[j]) for i in range(4) for j in range(i))
    return shapes, differ, isinstance(layer, nn.Module)


@pytest.mark.exercise("mha", points=2)
@pytest.mark.parametrize("d, h", [(6, 2), (4, 4)])
def test_four_maps(student, d, h):
    """MHA should own four linear maps of d features with bias, whatever the number of heads."""
    shapes, differ, module = student.run(mha_parts, d, h)
    assert_true(module, "MHA should be an nn.Module.")
    expected = {f"{name}.weight": [d, d] for name in NAMES}
    expected |= {f"{name}.bias": [d] for name in NAMES}
    assert_equal(shapes, expected, "the parameters")
    assert_true(differ, "Two of the four maps are the same; each should have its own weights.")


# --- equivariance ----------------------------------------------------------------------------


@probe
def attend_to_itself(x):
    """Self-attention with fixed projections."""
    d = x.shape[-1]
    W = torch.arange(3 * d * d, dtype=x.dtype, device=x.device).cos().view(3, d, d)
    return F.scaled_dot_product_attention(x @ W[0], x @ W[1], x @ W[2])


@probe
def with_positions(x):
    """The same with positions added."""
    place = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
    d = x.shape[-1]
    W = torch.arange(3 * d * d, dtype=x.dtype, device=x.device).cos().view(3, d, d)
    y = x + place.sin()
    return F.scaled_dot_product_attention(y @ W[0], y @ W[1], y @ W[2])


@probe
def weighted_sums(x):
    """Depends on the order: a running sum with growing weights, two features out."""
    place = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
    return (x * place).cumsum(1)[..., :2]


PERMS = [[2, 0, 1, 4, 3], [1, 2, 3, 4, 0], [4, 3, 2, 1, 0], [0, 2, 4, 1, 3]]


@pytest.mark.exercise("equivariance", points=3)
@pytest.mark.parametrize("perm", PERMS)
def test_self_attention_has_no_gap(student, device, perm):
    """Self-attention should have a gap below 1e-6, for every permutation, as a plain float."""
    x, perm = randn(2, 5, 4, device=device), torch.tensor(perm, device=device)
    with unchanged(x, perm):
        got = student.is_equivariant(attend_to_itself, x, perm)
    kind = type(got).__name__
    assert_true(kind == "float", f"The gap should be a plain float, not of type {kind}.")
    assert_true(got < 1e-6, f"The gap of self-attention should be below 1e-6, not {got:.3g}.")
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    layer = layer.to(device, torch.float64).train()
    with torch.no_grad():
        got = student.is_equivariant(layer, x, perm)
    assert_true(got < 1e-6, f"The gap of an encoder layer should be below 1e-6, not {got:.3g}.")


@pytest.mark.exercise("equivariance", points=3)
def test_positions_leave_a_gap(student, device):
    """With positions added the gap should be above 0.1; for the identity shuffle it is 0."""
    x = randn(3, 5, 4, device=device)
    for perm in PERMS:
        got = student.is_equivariant(with_positions, x, torch.tensor(perm, device=device))
        assert_true(got > 0.1, f"The gap with positions should be above 0.1, not {got:.3g}.")
    same = torch.arange(5, device=device)
    assert_close(student.is_equivariant(with_positions, x, same), 0.0, "the gap without a shuffle")


@pytest.mark.exercise("equivariance", points=4)
@pytest.mark.parametrize("perm", PERMS[:2] + [[3, 1, 0, 2, 4]])
@pytest.mark.parametrize("batch", [1, 3])
def test_size_of_the_gap(student, device, perm, batch):
    """The gap should be the largest absolute difference, also when f changes the feature size."""
    x, perm = randn(batch, 5, 3, device=device), torch.tensor(perm, device=device)
    y, shuffled = weighted_sums(x), weighted_sums(x[:, perm])
    got = student.is_equivariant(weighted_sums, x, perm)
    inverse = perm.argsort()
    assert_close(
        got,
        (shuffled - y[:, perm]).abs().max().item(),
        "the gap",
        symptoms={
            "This is the gap of invariance: f(x) should be shuffled too.": (shuffled - y)
            .abs()
            .max()
            .item(),
            "The output is shuffled the wrong way round.": (shuffled - y[:, inverse])
            .abs()
            .max()
            .item(),
            "The largest difference without its sign is asked for.": (shuffled - y[:, perm])
            .max()
            .item(),
            "The mean difference is not the largest.": (shuffled - y[:, perm]).abs().mean().item(),
        },
    )


# --- pe --------------------------------------------------------------------------------------


def by_formula(n, d):
    """Entry by entry, with Python's own arithmetic."""
    rows = []
    for i in range(n):
        angles = [i / 10000 ** (2 * j / d) for j in range(d // 2)]
        rows.append([f(a) for a in angles for f in (math.sin, math.cos)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.exercise("pe", points=6)
@pytest.mark.parametrize("n, d", [(5, 8), (1, 2), (40, 6), (3, 64), (300, 4)])
def test_sines_and_cosines(student, n, d):
    """sinusoid should hold sines in even, cosines in odd columns, with the right frequencies."""
    assert_close(student.sinusoid(n, d), by_formula(n, d), "P", atol=1e-10)


@pytest.mark.exercise("pe", points=6)
@pytest.mark.parametrize("d, delta", [(8, 3), (2, 1), (16, 7), (6, 40), (12, 0), (10, -5)])
def test_one_matrix_moves_all(student, d, delta):
    """P[i + delta] should be M P[i] to 1e-10 for all i, for steps forward and back."""
    M = student.shift_matrix(d, delta)
    P = by_formula(100, d)
    before, after = (P[: 100 - delta], P[delta:]) if delta >= 0 else (P[-delta:], P[:delta])
    assert_close(
        before @ M.T,
        after,
        "M times the positions",
        atol=1e-10,
        symptoms={"This matrix moves the other way.": before @ M},
    )


@pytest.mark.exercise("pe", points=4)
@pytest.mark.parametrize("d", [2, 8, 14])
def test_rotations(student, d):
    """M should be orthogonal, M(a) M(b) should be M(a + b), and M zero outside its 2 x 2 blocks."""
    a, b = student.shift_matrix(d, 5), student.shift_matrix(d, -12)
    eye = torch.eye(d, dtype=torch.float64)
    assert_close(a @ a.T, eye, "M(5) times its transpose", atol=1e-10)
    assert_close(a @ b, student.shift_matrix(d, -7), "M(5) M(-12), which is M(-7),", atol=1e-10)
    assert_close(student.shift_matrix(d, 0), eye, "M(0)", atol=1e-10)
    pair = torch.arange(d) // 2
    outside = a[pair[:, None] != pair]
    assert_equal(outside.abs().sum().item(), 0.0, "the sum of what lies outside the blocks")


@pytest.mark.exercise("pe", points=4)
@pytest.mark.parametrize("d", [1, 5, 33])
def test_odd_sizes(student, d):
    """sinusoid and shift_matrix should raise a ValueError if d is odd."""
    with raises(ValueError):
        student.sinusoid(4, d)
    with raises(ValueError):
        student.shift_matrix(d, 2)
