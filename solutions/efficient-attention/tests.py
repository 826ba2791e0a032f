"""Hidden tests of the chapter on efficient attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    assert_true,
    probe,
    raises,
    randint,
    randn,
    unchanged,
)


@probe
def largest_made(student, name, *args):
    """The size of the largest tensor that a call makes."""
    sizes = [0]

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(t, torch.Tensor):
                    sizes.append(t.numel())
            return out

    with torch.no_grad(), Watch():
        getattr(student, name)(*args)
    return max(sizes)


def assert_smaller(size, limit):
    """Shows size and limit where the size is not below the limit."""
    expected = f"fewer than {limit:,} numbers"
    assert_equal(expected if size < limit else f"{size:,} numbers", expected, "the largest tensor")


def dense(q, k, v, seen, scale=None):
    """Attention to what is seen, with all scores; a query that sees nothing gets zeros."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (q @ k.mT * scale).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1).masked_fill(~seen, 0) @ v


# --- masks -----------------------------------------------------------------------------------


def cells(n, rule):
    """A mask by a rule for (i, j), cell by cell."""
    return torch.tensor([[rule(i, j) for j in range(n)] for i in range(n)])


@pytest.mark.exercise("masks", points=4)
@pytest.mark.parametrize("n, w", [(8, 2), (5, 0), (9, 3), (4, 7), (1, 1), (16, 1)])
def test_window(student, n, w):
    """The window should show exactly the keys with |i - j| <= w, in about n (2w + 1) cells."""
    got = student.make_mask("window", n, w=w)
    assert_close(
        got,
        cells(n, lambda i, j: abs(i - j) <= w),
        "the window",
        symptoms={
            "The window looks back only.": cells(n, lambda i, j: 0 <= i - j <= w),
            "It is |i - j| < w here; w itself belongs to it.": cells(
                n, lambda i, j: abs(i - j) < w
            ),
        },
    )
    if w <= n:
        assert_equal(got.sum().item(), n * (2 * w + 1) - w * (w + 1), "the number of pairs")


@pytest.mark.exercise("masks", points=4)
@pytest.mark.parametrize("n, w, s", [(8, 1, 2), (12, 2, 3), (7, 3, 1), (9, 4, 4), (6, 0, 2)])
def test_dilated(student, n, w, s):
    """The dilated mask should show the distances 0, s, ..., w * s, and no others."""
    assert_close(
        student.make_mask("dilated", n, w=w, s=s),
        cells(n, lambda i, j: abs(i - j) in [t * s for t in range(w + 1)]),
        "the dilated mask",
        symptoms={
            "It has no limit; only w keys on each side are seen.": cells(
                n, lambda i, j: (i - j) % s == 0
            ),
            "Its reach is w; it should be w * s.": cells(
                n, lambda i, j: (i - j) % s == 0 and abs(i - j) <= w
            ),
        },
    )


@pytest.mark.exercise("masks", points=4)
@pytest.mark.parametrize("n, g", [(8, 2), (7, 1), (5, 0), (4, 4), (3, 6), (10, 3)])
def test_global(student, n, g):
    """The first g rows and columns and the diagonal should be on, and nothing else."""
    assert_close(
        student.make_mask("global", n, g=g),
        cells(n, lambda i, j: i < g or j < g or i == j),
        "the global mask",
        symptoms={
            "Nobody but themselves sees the global tokens: fill the columns, too.": cells(
                n, lambda i, j: i < g or i == j
            ),
            "The global tokens do not see all: fill the rows, too.": cells(
                n, lambda i, j: j < g or i == j
            ),
            "Other tokens do not see themselves.": cells(n, lambda i, j: i < g or j < g),
        },
    )


@pytest.mark.exercise("masks", points=2)
@pytest.mark.parametrize("n, r", [(8, 2), (9, 8), (5, 0), (1, 0), (20, 3), (6, 5)])
def test_random_has_r_others(student, n, r):
    """Each row of the random mask should have itself and exactly r other keys."""
    for seed in (0, 1, 17):
        mask = student.make_mask("random", n, r=r, seed=seed)
        assert_equal(mask.dtype, torch.bool, "the dtype of the random mask")
        assert_equal(tuple(mask.shape), (n, n), "the shape of the random mask")
        assert_equal(mask.diagonal().tolist(), [True] * n, "the diagonal")
        assert_equal(mask.sum(1).tolist(), [r + 1] * n, "the number of keys in each row")


@probe
def many_random_masks(student):
    """How often a cell is on, how often two rows share a key, and whether seeds matter."""
    before = torch.get_rng_state()
    masks = torch.stack([student.make_mask("random", 7, r=2, seed=s) for s in range(200)])
    quiet = torch.equal(before, torch.get_rng_state())
    again = torch.equal(masks[5], student.make_mask("random", 7, r=2, seed=5))
    both = (masks[:, 0, 5] & masks[:, 1, 5]).double().mean().item()
    return masks.double().mean(0), both, again, torch.equal(masks[0], masks[1]), quiet


@pytest.mark.exercise("masks", points=2)
def test_random_is_fair(student):
    """Each other key should be as likely as any, in each row anew; only the seed decides."""
    share, both, again, same, quiet = student.run(many_random_masks)
    off = ~torch.eye(7, dtype=torch.bool)
    assert_close(
        share[off], torch.full((42,), 1 / 3, dtype=torch.float64), "the share of masks", atol=0.15
    )
    assert_close(both, 1 / 9, "the share of masks in which rows 0 and 1 both see key 5", atol=0.1)
    assert_equal(again, True, "whether the same seed gives the same mask")
    assert_equal(same, False, "whether seeds 0 and 1 give the same mask")
    assert_equal(quiet, True, "whether the global random numbers stay as they were")


@pytest.mark.exercise("masks", points=2)
@pytest.mark.parametrize("n, w, g, r, seed", [(12, 1, 2, 3, 4), (9, 2, 1, 1, 0), (6, 0, 0, 2, 8)])
def test_bigbird(student, n, w, g, r, seed):
    """BigBird should be the union of the window, global and random masks of its arguments."""
    parts = [
        cells(n, lambda i, j: abs(i - j) <= w),
        cells(n, lambda i, j: i < g or j < g or i == j),
        student.make_mask("random", n, r=r, seed=seed),
    ]
    assert_close(
        student.make_mask("bigbird", n, w=w, g=g, r=r, seed=seed),
        parts[0] | parts[1] | parts[2],
        "the BigBird mask",
        symptoms={"This is what all three have in common.": parts[0] & parts[1] & parts[2]},
    )


@pytest.mark.exercise("masks", points=2)
@pytest.mark.parametrize("kind", ["", "full", "Window", "big bird"])
def test_unknown_kinds(student, kind):
    """A kind that is not in the list should raise a ValueError."""
    with raises(ValueError):
        student.make_mask(kind, 5, w=1, s=1, g=1, r=1, seed=0)


# --- blocked ---------------------------------------------------------------------------------


def near(n, w, device):
    i = torch.arange(n, device=device)
    return (i[:, None] - i).abs() <= w


LOCAL = [
    # B, n, d, c, w
    (2, 12, 4, 4, 3),
    (1, 13, 3, 5, 4),
    (3, 10, 2, 1, 3),
    (1, 1, 4, 2, 2),
    (2, 7, 5, 3, 0),
    (1, 5, 4, 4, 9),
    (2, 9, 1, 2, 1),
    (1, 6, 3, 3, 5),
    (1, 17, 2, 3, 5),
]


@pytest.mark.exercise("blocked", points=7)
@pytest.mark.parametrize("B, n, d, c, w", LOCAL)
def test_equals_masked_dense(student, device, B, n, d, c, w):
    """local_attention should equal the masked dense attention for any length and window."""
    q, k = 2 * randn(B, n, d, device=device), 2 * randn(B, n, d, device=device)
    v = randn(B, n, c, device=device)
    seen = near(n, w, device)
    i = torch.arange(n, device=device) // max(w, 1)
    blocks = (i[:, None] - i).abs() <= 1
    with unchanged(q, k, v):
        got = student.local_attention(q, k, v, w)
    assert_close(
        got,
        dense(q, k, v, seen),
        symptoms={
            "The division by √d is missing.": dense(q, k, v, seen, 1.0),
            "A block sees only itself; a window reaches into both neighbours.": dense(
                q, k, v, i[:, None] == i
            ),
            "A block sees all of its neighbours; what is farther than w must be hidden.": dense(
                q, k, v, blocks
            ),
            "The windows look back only.": dense(q, k, v, seen.tril()),
            "The keys at distance w are missing; they belong to the window.": dense(
                q, k, v, near(n, w - 1, device)
            ),
            "Hidden scores are 0, and e to the 0 is 1: they still have weight.": (
                (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, 0).softmax(-1) @ v
            ),
        },
    )


@pytest.mark.exercise("blocked", points=2)
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_float32_and_padding(student, device, shift):
    """float32 should stay float32, and padding should have no weight, whatever the scores."""
    q = randn(2, 11, 4, dtype=torch.float32, device=device) - shift
    k = randn(2, 11, 4, dtype=torch.float32, device=device) + shift
    v = randn(2, 11, 3, dtype=torch.float32, device=device)
    expected = dense(q.double(), k.double(), v.double(), near(11, 4, device)).float()
    got = student.local_attention(q, k, v, 4)
    assert_close(got, expected, rtol=1e-2 if shift else 1e-3, atol=1e-2 if shift else 1e-4)


@pytest.mark.exercise("blocked", points=4)
@pytest.mark.parametrize("n, w", [(11, 3), (8, 4), (5, 1), (4, 6)])
def test_local_gradients(student, device, n, w):
    """Queries, keys and values should get the gradients of the masked dense attention, no nan."""
    q, k = randn(2, n, 3, device=device), randn(2, n, 3, device=device)
    v = randn(2, n, 2, device=device)
    assert_same_gradients(
        lambda q, k, v: student.local_attention(q, k, v, w),
        lambda q, k, v: dense(q, k, v, near(n, w, device)),
        q,
        k,
        v,
    )


@pytest.mark.exercise("blocked", points=4)
@pytest.mark.parametrize("n, w", [(300, 3), (401, 5), (257, 1)])
def test_no_square_of_scores(student, device, n, w):
    """No tensor should have n * n / 2 numbers when n is much larger than w."""
    q, k, v = (randn(1, n, 2, device=device) for _ in range(3))
    assert_smaller(student.run(largest_made, "local_attention", q, k, v, w), n * n // 2)


@pytest.mark.exercise("blocked", points=3)
def test_reach(student, device):
    """Changing one token should change exactly the outputs within w of it."""
    x = randn(1, 20, 3, device=device)
    for j, w in ((9, 4), (0, 3), (19, 2)):
        changed = x.clone()
        changed[0, j] += 2
        got = student.local_attention(changed, changed, changed, w)
        moved = ((got - student.local_attention(x, x, x, w)).abs() > 1e-7).any(-1)[0]
        expected = [i for i in range(20) if abs(i - j) <= w]
        assert_equal(moved.nonzero()[:, 0].tolist(), expected, f"the outputs that token {j} moves")


# --- cluster ---------------------------------------------------------------------------------


def drawn_labels(count, device, names=(3, -2, 100, 0)):
    return torch.tensor(names, device=device)[randint(0, len(names), (count,), device=device)]


@pytest.mark.exercise("cluster", points=4)
@pytest.mark.parametrize(
    "m, n, d, c", [(9, 9, 4, 3), (12, 20, 3, 2), (15, 8, 2, 5), (1, 6, 5, 1), (7, 12, 1, 2)]
)
def test_equals_a_block_mask(student, device, m, n, d, c):
    """It should equal attention with the mask “same label”, for any labels in any order."""
    q, k = 2 * randn(m, d, device=device), 2 * randn(n, d, device=device)
    v = randn(n, c, device=device)
    labels_q, labels_k = drawn_labels(m, device), drawn_labels(n, device)
    seen = labels_q[:, None] == labels_k
    with unchanged(q, k, v, labels_q, labels_k):
        got = student.cluster_attention(q, k, v, labels_q, labels_k)
    expected = dense(q, k, v, seen)
    assert_close(
        got,
        expected,
        symptoms={
            "The division by √d is missing.": dense(q, k, v, seen, 1.0),
            "The rows are in the order of the labels, not of the queries.": expected[
                labels_q.argsort(stable=True)
            ],
            "The labels are ignored.": dense(q, k, v, torch.ones_like(seen)),
        },
    )


@pytest.mark.exercise("cluster", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_cluster(student, device, dtype):
    """With a single label for all, it should be full attention, in the dtype of the values."""
    kw = {"dtype": dtype, "device": device}
    q, k, v = randn(6, 4, **kw), randn(9, 4, **kw), randn(9, 2, **kw)
    labels = torch.full((15,), 4, device=device)
    expected = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    got = student.cluster_attention(q, k, v, labels[:6], labels[6:])
    assert_close(got, expected, rtol=1e-3 if dtype == torch.float32 else None)


@pytest.mark.exercise("cluster", points=3)
def test_empty_clusters(student, device):
    """A query without keys of its label should get zeros, and keys without queries no attention."""
    q, k, v = randn(5, 3, device=device), randn(6, 3, device=device), randn(6, 2, device=device)
    labels_q = torch.tensor([0, 7, 1, 7, 0], device=device)
    labels_k = torch.tensor([1, 2, 0, 1, 2, 0], device=device)
    got = student.cluster_attention(q, k, v, labels_q, labels_k)
    assert_close(got[[1, 3]], torch.zeros_like(got[:2]), "the output of the queries without keys")
    expected = dense(q, k, v, labels_q[:, None] == labels_k)
    assert_close(got, expected)
    nobody = student.cluster_attention(q, k, v, labels_q + 50, labels_k)
    assert_close(nobody, torch.zeros_like(nobody), "the output where no query has a key")


@pytest.mark.exercise("cluster", points=3)
def test_cluster_gradients(student, device):
    """Queries, keys and values should get the gradients of the block mask, without nan."""
    q, k, v = randn(7, 3, device=device), randn(9, 3, device=device), randn(9, 2, device=device)
    labels_q = torch.tensor([0, 1, 5, 1, 0, 2, 2], device=device)
    labels_k = torch.tensor([1, 2, 0, 1, 2, 0, 9, 9, 1], device=device)
    seen = labels_q[:, None] == labels_k
    assert_same_gradients(
        lambda q, k, v: student.cluster_attention(q, k, v, labels_q, labels_k),
        lambda q, k, v: dense(q, k, v, seen),
        q,
        k,
        v,
    )


@pytest.mark.exercise("cluster", points=2)
@pytest.mark.parametrize("m, n", [(256, 256), (150, 300)])
def test_only_inside_clusters(student, device, m, n):
    """With sixteen clusters no tensor should have m * n / 2 numbers."""
    q, k, v = randn(m, 3, device=device), randn(n, 3, device=device), randn(n, 2, device=device)
    labels_q = torch.arange(m, device=device) * 7 % 16
    labels_k = torch.arange(n, device=device) * 5 % 16
    size = student.run(largest_made, "cluster_attention", q, k, v, labels_q, labels_k)
    assert_smaller(size, m * n // 2)


# --- linformer -------------------------------------------------------------------------------


@probe
def run_layer(student, name, sizes, weights, x, dy):
    """A layer with given parameters: its output, and the gradients of sum(dy * output)."""
    layer = getattr(student, name)(*sizes).to(x)
    named = dict(layer.named_parameters())
    with torch.no_grad():
        for key, value in weights.items():
            named[key].copy_(value)
    x = x.clone().requires_grad_()
    y = layer(x)
    wanted = [*(named[key] for key in weights), x]
    grads = torch.autograd.grad((y * dy).sum(), wanted, allow_unused=True)
    return y.detach(), [torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted)]


@probe
def parts(student, name, sizes):
    """Parameters, buffers, and how the values of a new layer are spread."""
    one, other = getattr(student, name)(*sizes), getattr(student, name)(*sizes)
    shapes = {key: list(p.shape) for key, p in sorted(one.named_parameters())}
    spread = {
        key: [p.mean().item(), p.std().item()]
        for key, p in sorted(one.named_parameters())
        if "." not in key
    }
    values = dict(one.named_parameters())
    differ = all(not torch.equal(values[key], p) for key, p in other.named_parameters())
    flat = [p.flatten() for key, p in one.named_parameters()]
    alike = any(
        a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i]
    )
    return (
        shapes,
        spread,
        differ and not alike,
        len(list(one.buffers())),
        isinstance(one, nn.Module),
    )


@pytest.mark.exercise("linformer", points=3)
@pytest.mark.parametrize("n, k, d", [(9, 3, 4), (5, 5, 2), (400, 50, 3)])
def test_parameters(student, n, k, d):
    """Both layers should have the parameters of the docstring and no others, drawn as it says."""
    shapes, spread, random, buffers, module = student.run(parts, "Linformer", (n, k, d))
    square = [d, d]
    expected = {"W_q.weight": square, "W_k.weight": square, "W_v.weight": square}
    assert_equal(shapes, {"E_k": [k, n], "E_v": [k, n], **expected}, "the parameters of Linformer")
    assert_equal([random, buffers, module], [True, 0, True], "random, buffers, nn.Module")
    if n == 400:
        wanted = {"E_k": [0.0, 0.05], "E_v": [0.0, 0.05]}
        assert_close(spread, wanted, "mean and standard deviation", atol=0.004)
    shapes, spread, random, buffers, module = student.run(parts, "Synthesizer", (n, d))
    expected = {"R": [n, n], "W_v.weight": square}
    assert_equal(shapes, expected, "the parameters of Synthesizer")
    assert_equal([random, buffers, module], [True, 0, True], "random, buffers, nn.Module")
    if n == 400:
        assert_close(spread, {"R": [0.0, 1.0]}, "mean and standard deviation", atol=0.05)


def by_formula(W_q, W_k, W_v, E_k, E_v, x, scale=None):
    scale = 1 / math.sqrt(x.shape[-1]) if scale is None else scale
    scores = (x @ W_q.T) @ (E_k @ (x @ W_k.T)).mT * scale
    return scores.softmax(-1) @ (E_v @ (x @ W_v.T))


LAYERS = [
    # B, n, k, d
    (2, 6, 3, 4),
    (1, 5, 1, 2),
    (3, 4, 7, 3),
    (1, 8, 2, 1),
]


@pytest.mark.exercise("linformer", points=4)
@pytest.mark.parametrize("B, n, k, d", LAYERS)
def test_linformer_formula(student, device, B, n, k, d):
    """Linformer should attend to the mixed keys and values; all gradients should be right."""
    names = ("W_q.weight", "W_k.weight", "W_v.weight", "E_k", "E_v")
    weights = [1.5 * randn(d, d, device=device) for _ in range(3)]
    weights += [randn(k, n, device=device) for _ in range(2)]
    x, dy = randn(B, n, d, device=device), randn(B, n, d, device=device)
    leaves = [t.clone().requires_grad_() for t in (*weights, x)]
    expected = by_formula(*leaves)
    grads = torch.autograd.grad((expected * dy).sum(), leaves)
    named = dict(zip(names, weights, strict=True))
    with unchanged(x):
        y, got = student.run(run_layer, "Linformer", (n, k, d), named, x, dy)
    W_q, W_k, W_v, E_k, _ = weights
    assert_close(
        y,
        expected.detach(),
        symptoms={
            "The division by √d is missing.": by_formula(*weights, x, 1.0),
            "The scores are divided by the root of k, not of d.": by_formula(
                *weights, x, 1 / math.sqrt(k)
            ),
            "One mixture serves keys and values; there are two.": by_formula(
                W_q, W_k, W_v, E_k, E_k, x
            ),
        },
    )
    assert_close(list(got), list(grads), "the gradients")


@pytest.mark.exercise("linformer", points=2)
def test_identity_mixture(student, device):
    """With k = n and the identity as both mixtures, Linformer should be exact self-attention."""
    weights = [randn(4, 4, device=device) for _ in range(3)]
    eye = torch.eye(7, dtype=torch.float64, device=device)
    x = randn(2, 7, 4, device=device)
    named = dict(zip(("W_q.weight", "W_k.weight", "W_v.weight"), weights, strict=True))
    named |= {"E_k": eye, "E_v": eye}
    y, _ = student.run(run_layer, "Linformer", (7, 7, 4), named, x, torch.ones_like(x))
    q, k, v = (x @ w.T for w in weights)
    assert_close(y, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.exercise("linformer", points=4)
@pytest.mark.parametrize("B, n, d", [(2, 5, 3), (1, 1, 4), (3, 4, 4), (1, 7, 1)])
def test_synthesizer_formula(student, device, B, n, d):
    """Synthesizer should average the values by the softmax of R; all gradients should be right."""
    R, W = 2 * randn(n, n, device=device), randn(d, d, device=device)
    x, dy = randn(B, n, d, device=device), randn(B, n, d, device=device)
    leaves = [t.clone().requires_grad_() for t in (R, W, x)]
    expected = leaves[0].softmax(-1) @ (leaves[2] @ leaves[1].T)
    grads = torch.autograd.grad((expected * dy).sum(), leaves)
    named = {"R": R, "W_v.weight": W}
    y, got = student.run(run_layer, "Synthesizer", (n, d), named, x, dy)
    assert_close(
        y,
        expected.detach(),
        symptoms={
            "The softmax is missing.": R @ (x @ W.T),
            "The softmax should run along the rows of R.": R.softmax(0) @ (x @ W.T),
            "Nothing is to be divided by √d here.": (R / math.sqrt(d)).softmax(-1) @ (x @ W.T),
        },
    )
    assert_close(list(got), list(grads), "the gradients")


@pytest.mark.exercise("linformer", points=2)
@pytest.mark.parametrize("n, other", [(5, 4), (5, 6), (3, 1)])
def test_other_lengths(student, device, n, other):
    """Both layers should raise a ValueError for shorter and for longer sequences."""
    x = randn(2, other, 4, dtype=torch.float32)
    with raises(ValueError):
        student.Linformer(n, 2, 4)(x)
    with raises(ValueError):
        student.Synthesizer(n, 4)(x)


# --- linear ----------------------------------------------------------------------------------


def by_the_square(q, k, v, causal=False, phi=None):
    """The definition with all weights."""
    q, k = (torch.where(x > 0, x + 1, x.exp()) if phi is None else phi(x) for x in (q, k))
    A = q @ k.mT
    A = A.tril() if causal else A
    return A @ v / A.sum(-1, keepdim=True)


LINEAR = [
    # B, m, n, d, c
    (2, 5, 5, 3, 4),
    (1, 1, 7, 4, 2),
    (3, 6, 2, 1, 1),
    (1, 4, 9, 5, 3),
    (2, 3, 1, 2, 2),
]


@pytest.mark.exercise("linear", points=4)
@pytest.mark.parametrize("B, m, n, d, c", LINEAR)
def test_equals_the_quadratic_form(student, device, B, m, n, d, c):
    """It should equal the n x n way with the same features, for any numbers of queries and keys."""
    q, k = 1.5 * randn(B, m, d, device=device), 1.5 * randn(B, n, d, device=device)
    v = randn(B, n, c, device=device)
    with unchanged(q, k, v):
        got = student.linear_attention(q, k, v)
    root = d**0.25
    A = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    assert_close(
        got,
        by_the_square(q, k, v),
        symptoms={
            "The weights are not divided by their sum.": A @ v,
            "The + 1 is missing.": by_the_square(q, k, v, phi=F.elu),
            "There is a softmax somewhere; here only phi acts.": F.scaled_dot_product_attention(
                q, k, v
            ),
            "Nothing is to be divided by √d here.": by_the_square(q / root, k / root, v),
        },
    )


@pytest.mark.exercise("linear", points=4)
@pytest.mark.parametrize("B, n, d, c", [(2, 6, 3, 4), (1, 1, 4, 2), (3, 9, 1, 1), (1, 13, 5, 3)])
def test_causal_equals_the_triangle(student, device, B, n, d, c):
    """With causal=True it should equal the n x n way with the lower triangle of the weights."""
    q, k = 1.5 * randn(B, n, d, device=device), 1.5 * randn(B, n, d, device=device)
    v = randn(B, n, c, device=device)
    fq, fk = F.elu(q) + 1, F.elu(k) + 1
    A = (fq @ fk.mT).tril()
    with unchanged(q, k, v):
        got = student.linear_attention(q, k, v, causal=True)
    assert_close(
        got,
        by_the_square(q, k, v, True),
        symptoms={
            "The weights are not divided by their sum.": A @ v,
            "It is divided by the sum over all keys; only those up to i count.": A
            @ v
            / (fq @ fk.mT).sum(-1, keepdim=True),
            "`causal` makes no difference.": by_the_square(q, k, v),
        },
    )


@pytest.mark.exercise("linear", points=3)
def test_prefixes(student, device):
    """Causal output i should be that of the first i + 1 tokens alone, whatever comes later."""
    q, k, v = (randn(2, 8, 3, device=device) for _ in range(3))
    whole = student.linear_attention(q, k, v, causal=True)
    for i in (0, 3, 7):
        head = [t[:, : i + 1] for t in (q, k, v)]
        alone = by_the_square(*head)[:, -1]
        assert_close(whole[:, i], alone, f"the causal output {i}")
    later = [torch.cat([t[:, :5], randn(2, 3, 3, device=device)], 1) for t in (q, k, v)]
    again = student.linear_attention(*later, causal=True)
    assert_close(again[:, :5], whole[:, :5], "the outputs 0 to 4 after the tokens 5 to 7 changed")


@pytest.mark.exercise("linear", points=3)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_shares(student, device, causal, dtype):
    """With the identity as values, rows should be shares: at least 0, adding up to 1."""
    kw = {"dtype": dtype, "device": device}
    q, k = randn(1, 12, 4, **kw), randn(1, 12, 4, **kw)
    A = student.linear_attention(q, k, torch.eye(12, **kw)[None], causal)
    assert_close(A.sum(-1), torch.ones(1, 12, **kw), "the sums of the rows")
    assert_true((A >= 0).all(), "A weight is negative.")
    exact = by_the_square(q, k, torch.eye(12, **kw)[None], causal)
    assert_close(A, exact, "the weights", rtol=1e-3 if dtype == torch.float32 else None)


@pytest.mark.exercise("linear", points=3)
@pytest.mark.parametrize("n, d, c", [(256, 3, 4), (201, 2, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_no_square(student, device, n, d, c, causal):
    """No tensor should have n x n numbers, causal or not."""
    q, k, v = randn(1, n, d, device=device), randn(1, n, d, device=device), randn(1, n, c)
    v = v.to(device)
    assert_smaller(student.run(largest_made, "linear_attention", q, k, v, causal), n * n // 2)


@pytest.mark.exercise("linear", points=3)
@pytest.mark.parametrize("causal", [False, True])
def test_linear_gradients(student, device, causal):
    """Queries, keys and values should get the gradients of the n x n way."""
    q, k, v = (randn(2, 6, c, device=device) for c in (3, 3, 2))
    assert_same_gradients(
        lambda q, k, v: student.linear_attention(q, k, v, causal),
        lambda q, k, v: by_the_square(q, k, v, causal),
        q,
        k,
        v,
    )


# --- conv ------------------------------------------------------------------------------------


def replicated(x, w, mode="replicate"):
    return F.conv2d(F.pad(x[None], [w.shape[-1] // 2] * 4, mode=mode), w)[0]


CONVS = [
    # C, H, W, O, K
    (1, 5, 7, 1, 3),
    (3, 6, 4, 2, 3),
    (2, 7, 8, 3, 5),
    (4, 3, 5, 1, 1),
    (1, 2, 3, 2, 5),
    (2, 1, 6, 2, 3),
]


@pytest.mark.exercise("conv", points=3)
@pytest.mark.parametrize("C, H, W, O, K", CONVS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_conv2d(student, device, C, H, W, O, K, dtype):  # noqa: E741
    """conv_as_attention should equal F.conv2d on a picture with repeated border pixels."""
    x = randn(C, H, W, dtype=dtype, device=device)
    w = randn(O, C, K, K, dtype=dtype, device=device)
    wide, taps = x.double(), w.double()
    with unchanged(x, w):
        got = student.conv_as_attention(x, w)
    assert_close(
        got,
        replicated(wide, taps).to(dtype),
        symptoms={
            "The kernel is flipped.": replicated(wide, taps.flip(2, 3)).to(dtype),
            "Rows and columns of the kernel are exchanged.": replicated(wide, taps.mT).to(dtype),
            "Outside the picture there are zeros; take the nearest pixel inside.": replicated(
                wide, taps, "constant"
            ).to(dtype),
        },
        rtol=1e-3 if dtype == torch.float32 else None,
        atol=1e-4 if dtype == torch.float32 else None,
    )


@pytest.mark.exercise("conv", points=2)
@pytest.mark.parametrize("K", [1, 3])
def test_conv_gradients(student, device, K):
    """The gradients for the picture and the weight should equal those of the convolution."""
    x, w = randn(2, 4, 5, device=device), randn(3, 2, K, K, device=device)
    assert_same_gradients(lambda x, w: student.conv_as_attention(x, w), replicated, x, w)


def along(t):
    return (t @ t.mT / math.sqrt(t.shape[-1])).softmax(-1) @ t


@pytest.mark.exercise("conv", points=4)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 4, 4, 2), (3, 1, 6, 3), (1, 5, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_batches_of_sequences(student, device, shape, dtype):
    """axial_attention should be attention in each column, then in each row of what came out."""
    x = randn(*shape, dtype=dtype, device=device)
    wide = 1.5 * x.double()
    columns = torch.stack([along(wide[:, :, j]) for j in range(shape[2])], 2)
    expected = torch.stack([along(columns[:, i]) for i in range(shape[1])], 1)
    rows = torch.stack([along(wide[:, i]) for i in range(shape[1])], 1)
    other = torch.stack([along(rows[:, :, j]) for j in range(shape[2])], 2)
    x = 1.5 * x
    with unchanged(x):
        got = student.axial_attention(x)
    assert_close(
        got,
        expected.to(dtype),
        symptoms={
            "The width comes before the height.": other.to(dtype),
            "Only the height is attended.": columns.to(dtype),
            "Only the width is attended.": rows.to(dtype),
        },
        rtol=1e-3 if dtype == torch.float32 else None,
        atol=1e-4 if dtype == torch.float32 else None,
    )


@pytest.mark.exercise("conv", points=1)
def test_axial_gradients(student, device):
    """The gradient should equal that of the two attentions."""

    def reference(x):
        columns = along(x.transpose(1, 2)).transpose(1, 2)
        return along(columns)

    assert_same_gradients(
        lambda x: student.axial_attention(x), reference, randn(2, 3, 4, 2, device=device)
    )
