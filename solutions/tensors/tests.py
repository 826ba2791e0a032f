"""Hidden tests of the chapter on tensors."""

import numpy as np
import pytest
import torch

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    does_not_call,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- linspace and logspace -------------------------------------------------------------------


@pytest.mark.exercise("logspace", points=3)
@pytest.mark.parametrize(
    "a, b, steps",
    [(0, 1, 11), (-3.5, 7.25, 8), (5, -5, 7), (2, 3, 2), (0.1, 0.2, 101), (-1e3, 1e3, 50)],
)
def test_linspace_matches(student, a, b, steps):
    """my_linspace should equal torch.linspace: both ends in, evenly spaced, rising or falling."""
    with does_not_call(student, "linspace", "logspace"):
        got = student.my_linspace(a, b, steps)
    scale = max(abs(a), abs(b))
    assert_close(got, torch.linspace(a, b, steps), rtol=1e-6, atol=2e-7 * scale)


@pytest.mark.exercise("logspace", points=2)
@pytest.mark.parametrize("a, b", [(2, 9), (-0.5, 4.0), (3, 3)])
def test_linspace_few_steps(student, a, b):
    """One step should give the first value alone, two steps the two ends."""
    assert_close(
        student.my_linspace(a, b, 1), torch.tensor([float(a)]), what="the result for one step"
    )
    assert_close(
        student.my_linspace(a, b, 2),
        torch.tensor([float(a), float(b)]),
        what="the result for two steps",
    )


@pytest.mark.exercise("logspace", points=1)
def test_steps_is_required(student):
    """Leaving steps out should be a TypeError, for both functions."""
    with raises(TypeError):
        student.my_linspace(0.0, 3.0)
    with raises(TypeError):
        student.my_logspace(0.0, 3.0)


@pytest.mark.exercise("logspace", points=3)
@pytest.mark.parametrize(
    "a, b, steps, base", [(-3, 2, 6, 10.0), (0, 10, 11, 2.0), (2, -2, 9, 3.0), (0.25, 0.75, 4, 0.5)]
)
def test_logspace_matches(student, a, b, steps, base):
    """my_logspace should equal torch.logspace: a and b are exponents, of any base."""
    with does_not_call(student, "linspace", "logspace"):
        got = student.my_logspace(a, b, steps, base)
    assert_close(got, torch.logspace(a, b, steps, base), rtol=5e-6, atol=0.0)


@pytest.mark.exercise("logspace", points=1)
def test_logspace_defaults(student):
    """The base should be 10 when none is given, and one step gives base**a."""
    assert_close(student.my_logspace(-1, 1, 5), torch.logspace(-1, 1, 5), rtol=5e-6)
    assert_close(
        student.my_logspace(2, 4, 1, base=3.0),
        torch.tensor([9.0]),
        rtol=5e-6,
        what="the result for one step",
    )


# --- four modes of a normal sampler ----------------------------------------------------------


@pytest.mark.exercise("normal4", points=2)
@pytest.mark.parametrize(
    "mean, std",
    [((5,), None), (None, (2, 3)), ((4, 1), (3,)), ((1,), (6,)), ((2, 3), (2, 3)), ((), (2,))],
)
def test_shape_of_tensor_modes(student, device, mean, std):
    """With a tensor among mean and std, the shape should be their common shape, the dtype the tensor's."""
    shape = torch.broadcast_shapes(*(s for s in (mean, std) if s is not None))
    for dtype in (torch.float32, torch.float64, torch.float16):
        mu = 2.0 if mean is None else randn(1, *mean, dtype=dtype, device=device)[0]
        sigma = 0.5 if std is None else rand(1, *std, dtype=dtype, device=device)[0] + 0.1
        got = student.sample_normal(mu, sigma)
        assert_shape(got, shape)
        assert_equal(got.dtype, dtype, "the dtype")


@pytest.mark.exercise("normal4", points=1)
@pytest.mark.parametrize("size", [(1,), (2, 1, 5), (0, 3)])
def test_shape_of_numbers(student, size):
    """With two numbers the shape should be size, the dtype float32, and every entry its own draw."""
    got = student.sample_normal(1, 2, size)
    assert_shape(got, size)
    assert_equal(got.dtype, torch.float32, "the dtype")
    assert_equal(len(set(got.flatten().tolist())), got.numel(), "the number of different draws")


@pytest.mark.exercise("normal4", points=3)
@pytest.mark.parametrize("mode", ["two numbers", "tensor mean", "tensor std", "two tensors"])
@pytest.mark.parametrize("seeded", [True, False])
def test_mean_and_spread(student, mode, seeded):
    """Mean and standard deviation of many draws should be the ones asked for, within 5 standard errors."""
    n = 20_000
    mean, std = torch.tensor([-3.0, 0.5, 40.0]), torch.tensor([0.25, 3.0, 7.0])
    if mode == "two numbers":
        mean, std = -3.0, 7.0
    elif mode == "tensor mean":
        std = 3.0
    elif mode == "tensor std":
        mean = 5.0
    generator = torch.Generator().manual_seed(11) if seeded else None
    if mode == "two numbers":
        draws = student.sample_normal(mean, std, (n,), generator=generator)
        assert_shape(draws, (n,))
        draws = draws[:, None]
    else:
        wide = mean.expand(n, 3) if isinstance(mean, torch.Tensor) else mean
        spread = (
            std.expand(n, 3) if isinstance(std, torch.Tensor) and isinstance(mean, float) else std
        )
        draws = student.sample_normal(wide, spread, generator=generator)
        assert_shape(draws, (n, 3))
    draws = draws.double()
    sigma = torch.as_tensor(std, dtype=torch.float64)
    off_mean = (draws.mean(0) - torch.as_tensor(mean)) / (sigma / n**0.5)
    off_std = (draws.std(0) - sigma) / (sigma / (2 * n) ** 0.5)
    assert_true(
        (off_mean.abs() < 5).all(), f"The mean is off by more than 5 standard errors ({mode})."
    )
    assert_true(
        (off_std.abs() < 5).all(),
        f"The standard deviation is off by more than 5 standard errors ({mode}).",
    )


@probe
def draws_with_generator(student):
    def fresh():
        return torch.Generator().manual_seed(7)

    def state():
        return torch.get_rng_state()

    mean, std = torch.tensor([1.0, 2.0]), torch.tensor([[0.5], [2.0]])
    modes = [(0.0, 1.0, (6,)), (mean, 1.0, None), (0.0, std, None), (mean, std, None)]
    report = []
    for mu, sigma, size in modes:
        before = state()
        g = fresh()
        one = student.sample_normal(mu, sigma, size, generator=g)
        two = student.sample_normal(mu, sigma, size, generator=g)
        again = student.sample_normal(mu, sigma, size, generator=fresh())
        untouched = torch.equal(before, state())
        report.append([torch.equal(one, again), torch.equal(one, two), untouched])
    return report


@pytest.mark.exercise("normal4", points=2)
def test_generator(student):
    """The same seed should give the same draw, the next draw another one, and the global generator rest."""
    for same, stuck, untouched in student.run(draws_with_generator):
        assert_true(same, "A generator with the same seed should give the same draw.")
        assert_true(not stuck, "A second draw from the same generator should be a new one.")
        assert_true(untouched, "With a generator given, the global one should not be touched.")


@pytest.mark.exercise("normal4", points=2)
def test_errors_and_inputs(student):
    """Negative std and a missing size should be errors; std may be 0; mean and std stay as they are."""
    with raises((TypeError, ValueError)):
        student.sample_normal(1.0, 2.0)
    for std in (-0.5, torch.tensor([1.0, -1e-3, 2.0])):
        with raises((ValueError, RuntimeError)):
            student.sample_normal(torch.zeros(3), std)
    with raises((ValueError, RuntimeError)):
        student.sample_normal(0.0, -2.0, (3,))
    mean, std = randn(3), torch.zeros(3, dtype=torch.float64)
    with unchanged(mean, std):
        assert_close(student.sample_normal(mean, std), mean, what="a draw with std 0")


# --- who owns the memory ---------------------------------------------------------------------


@probe
def sharing_of_tensors(student):
    x = torch.arange(24.0).reshape(4, 6)
    y = torch.arange(24.0).reshape(2, 3, 4)
    pairs = [
        (x, x),
        (x, x.t()),
        (x, x[1:]),
        (x[:, 2:], x),
        (x[:, ::2], x),
        (x[3, 5], x),
        (x, x.view(-1)),
        (x[:, :1].expand(4, 6), x),
        (x[1:], x[:3]),
        (y, y.permute(2, 0, 1)),
        (y[1], y[:, 1]),
        (x, x.unsqueeze(0)),
        (x.unsqueeze(0), x),
        (x.detach(), x),
        (x.view(torch.int32), x),
        (x.contiguous(), x),
    ]
    return [student.shares_memory(a, b) for a, b in pairs]


@pytest.mark.exercise("sharing", points=5)
def test_views_share(student):
    """Views share memory: transposed, sliced, expanded, reshaped, seen as another dtype."""
    for i, answer in enumerate(student.run(sharing_of_tensors)):
        assert_equal(answer, True, f"the answer for view number {i + 1}")


@probe
def sharing_of_copies(student):
    x = torch.arange(24.0).reshape(4, 6)
    pairs = [
        (x, x.clone()),
        (x, torch.arange(24.0).reshape(4, 6)),
        (x, x.t().contiguous()),
        (x, x.double()),
        (x, x + 0),
        (x[:, torch.tensor([0, 1, 2, 3, 4, 5])], x),
        (x[x >= 0], x),
        (x, torch.zeros(4, 6)),
        (torch.stack([x]), x),
        (x.t().reshape(-1), x),
        (x[:2].clone(), x),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(0), torch.zeros(3)),
        (x, torch.zeros(2, 0)),
    ]
    buffer = bytearray(96)  # two tensors side by side: the one begins where the other ends
    left, right = (
        torch.frombuffer(buffer, dtype=torch.float32, count=12, offset=start).view(3, 4)
        for start in (0, 48)
    )
    pairs += [(left, right), (right, left)]
    return [student.shares_memory(a, b) for a, b in pairs]


@pytest.mark.exercise("sharing", points=3)
def test_copies_do_not_share(student):
    """Copies do not share memory, also when shape and all values are equal; nor do neighbours."""
    for i, answer in enumerate(student.run(sharing_of_copies)):
        assert_equal(answer, False, f"the answer for copy number {i + 1}")


@probe
def sharing_with_numpy(student):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    t = torch.from_numpy(a)
    ints = np.arange(5)
    shared = [
        (a, t),
        (t, a),
        (a, a),
        (a, t[1:]),
        (t.t(), a),
        (a.T, t),
        (t.numpy(), a),
        (ints, torch.as_tensor(ints)),
    ]
    copied = [
        (a, torch.tensor(a)),
        (a, a.copy()),
        (a, t.clone()),
        (ints, torch.tensor(ints)),
        (a.astype(np.float64), t),
    ]
    return [[student.shares_memory(x, y) for x, y in pairs] for pairs in (shared, copied)]


@pytest.mark.exercise("sharing", points=3)
def test_numpy_shares(student):
    """A tensor from from_numpy shares memory with the array, also through views; torch.tensor copies."""
    shared, copied = student.run(sharing_with_numpy)
    for answer in shared:
        assert_equal(answer, True, "the answer for an array and a view of it")
    for answer in copied:
        assert_equal(answer, False, "the answer for an array and a copy")


def _layouts(x):
    """One tensor in several layouts; x has shape (4, 6)."""
    return {
        "contiguous": x,
        "transposed": x.t(),
        "rows": x[1:3],
        "left half": x[:, :3],
        "every second column": x[:, ::2],
        "one column": x[:, 2],
        "expanded": x[:, :1].expand(4, 5),
        "expanded row": x[0].expand(3, 6),
        "with axes of one": x[None, :, None],
        "one number": x[2, 3],
        "permuted": x.view(2, 2, 6).permute(2, 0, 1),
        "a batch of one": x[:1].t(),
    }


@pytest.mark.exercise("sharing", points=3)
@pytest.mark.parametrize("layout", list(_layouts(torch.zeros(4, 6))))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_values(student, device, layout, dtype):
    """flat should hold the elements of x in row-major order, and x stay as it is."""
    x = _layouts(randn(4, 6, dtype=dtype, device=device))[layout]
    with unchanged(x):
        flat, shared = student.flat_view(x)
        assert_close(flat, x.clone().flatten(), what="the tensor flat")
    assert_true(isinstance(shared, bool), "The second value should be True or False.")


@pytest.mark.exercise("sharing", points=1)
def test_flat_gradient(student):
    """flat should stay connected to x: gradients flow through the view and through the copy."""
    assert_same_gradients(lambda x: student.flat_view(x)[0], lambda x: x.flatten(), randn(3, 5))
    assert_same_gradients(
        lambda x: student.flat_view(x.t())[0], lambda x: x.t().flatten(), randn(3, 5)
    )


@probe
def flags_and_writes(student):
    def layouts(x):
        return [
            x,
            x.t(),
            x[1:3],
            x[:, :3],
            x[:, ::2],
            x[:, 2],
            x[:, :1].expand(4, 5),
            x[None, :, None],
            x[2, 3],
            x.view(2, 2, 6).permute(2, 0, 1),
            x.view(2, 2, 6).transpose(0, 1),
            x[:1].t(),
            x[:, ::4],
        ]

    report = []
    for i in range(13):
        x = layouts(torch.arange(24.0).reshape(4, 6))[i]
        flat, shared = student.flat_view(x)
        flat[0] = 100.0  # a write to flat …
        seen = x.flatten()[0].item() == 100.0
        back = layouts(torch.arange(24.0).reshape(4, 6))[i]
        flat_back, _ = student.flat_view(back)
        back[(0,) * back.dim()] = -7.0  # … and one to x
        seen_back = flat_back[0].item() == -7.0
        try:
            x.view(-1)
            possible = True
        except RuntimeError:
            possible = False
        report.append([shared, seen, seen_back, possible])
    return report


@pytest.mark.exercise("sharing", points=5)
def test_flag_tells_the_truth(student):
    """Writes should appear on the other side exactly when the flag says so, and a view is used if one exists."""
    for shared, seen, seen_back, possible in student.run(flags_and_writes):
        assert_equal(seen, possible, "a write to flat appears in x, where a view exists")
        assert_equal(seen_back, possible, "a write to x appears in flat, where a view exists")
        assert_equal(shared, seen, "the flag")


# --- chunk and split -------------------------------------------------------------------------


def _random_cases(count, seed):
    rng = np.random.default_rng(seed)
    return [
        (int(rng.integers(1, 14)), int(rng.integers(1, 9)), int(rng.integers(-3, 3)))
        for _ in range(count)
    ]


def _tensor(length, dim, device="cpu"):
    shape = [2, 3, 4]
    shape[dim] = length
    return randn(*shape, device=device)


@pytest.mark.exercise("chunk", points=4)
@pytest.mark.parametrize(
    "length, n, dim", _random_cases(40, 0) + [(10, 6, 0), (1, 1, -1), (5, 5, 1), (7, 20, 2)]
)
def test_chunk_matches(student, device, length, n, dim):
    """my_chunk should equal torch.chunk, along every axis, counted from the front or the back."""
    x = _tensor(length, dim, device)
    with unchanged(x), does_not_call(student, "chunk", "split", "tensor_split", "split_with_sizes"):
        got = student.my_chunk(x, n, dim)
    assert_close(list(got), list(torch.chunk(x, n, dim)), what="the pieces")


@pytest.mark.exercise("chunk", points=3)
@pytest.mark.parametrize(
    "length, size, dim", _random_cases(40, 1) + [(10, 3, 0), (4, 9, 1), (6, 6, -1), (9, 1, 2)]
)
def test_split_by_size(student, device, length, size, dim):
    """my_split with an int should cut pieces of this length, the last one shorter where needed."""
    x = _tensor(length, dim, device)
    with unchanged(x), does_not_call(student, "chunk", "split", "tensor_split", "split_with_sizes"):
        got = student.my_split(x, size, dim)
    assert_close(list(got), list(torch.split(x, size, dim)), what="the pieces")


@pytest.mark.exercise("chunk", points=3)
@pytest.mark.parametrize(
    "sizes, dim", [([9], 0), ([4, 5], 0), ([1, 2, 3, 3], 1), ([5, 1, 3], -1), ([3, 3, 3], -2)]
)
def test_split_by_list(student, sizes, dim):
    """my_split with a list should cut exactly these lengths."""
    x = _tensor(9, dim)
    before = list(sizes)
    with unchanged(x):
        got = student.my_split(x, sizes, dim)
    assert_close(list(got), list(torch.split(x, before, dim)), what="the pieces")
    assert_equal(sizes, before, "the list of sizes after the call")


@pytest.mark.exercise("chunk", points=2)
@pytest.mark.parametrize("sizes", [[3, 3], [5, 5], [6], [2, 2, 2, 2], []])
def test_split_bad_list(student, sizes):
    """A list of sizes that does not add up to the length, too small or too large, should be a ValueError."""
    with raises(ValueError):
        student.my_split(torch.arange(7), sizes)
    with raises(ValueError):
        student.my_split(torch.zeros(8, 9), sizes, dim=-1)


@probe
def writes_to_pieces(student):
    x = torch.zeros(4, 6)
    for piece in student.my_chunk(x, 3, dim=1):
        piece += 1.0
    y = torch.zeros(4, 6)
    for piece in student.my_split(y, [1, 3]):
        piece += 1.0
    for piece in student.my_split(y, 2, dim=-1):
        piece += 1.0
    return [x.unique().tolist(), y.unique().tolist()]


@pytest.mark.exercise("chunk", points=2)
def test_pieces_are_views(student):
    """The pieces should be views that cover x once: what is written to them appears in x."""
    assert_equal(student.run(writes_to_pieces), [[1.0], [2.0]], "x after writing to every piece")


@pytest.mark.exercise("chunk", points=1)
def test_chunk_gradient(student):
    """Gradients should flow through the pieces."""
    assert_same_gradients(
        lambda x: student.my_chunk(x, 3, 1)[1], lambda x: torch.chunk(x, 3, 1)[1], randn(2, 7)
    )
    assert_same_gradients(
        lambda x: student.my_split(x, [2, 5], -1)[0],
        lambda x: torch.split(x, [2, 5], -1)[0],
        randn(2, 7),
    )


# --- pixel centres ---------------------------------------------------------------------------


def _numpy_centres(h, w, stride):
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    return torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2) * stride).float()


SIZES = [
    (1, 1),
    (1, 5),
    (6, 1),
    (2, 3),
    (3, 2),
    (4, 4),
    (5, 7),
    (7, 5),
    (1, 12),
    (13, 1),
    (10, 3),
    (16, 20),
]


@pytest.mark.exercise("grid", points=6)
@pytest.mark.parametrize("h, w", SIZES)
def test_grid_matches_numpy(student, h, w):
    """The centres should be those of NumPy's meshgrid, (x, y) row by row, for any height and width."""
    assert_close(student.pixel_centres(h, w), _numpy_centres(h, w, 1.0))


@pytest.mark.exercise("grid", points=4)
@pytest.mark.parametrize("stride", [1, 2.0, 8, 0.5, 3.7])
@pytest.mark.parametrize("h, w", [(3, 5), (1, 4)])
def test_grid_stride(student, h, w, stride):
    """The stride should scale the whole cell, its half included."""
    assert_close(student.pixel_centres(h, w, stride), _numpy_centres(h, w, stride))
    assert_close(student.pixel_centres(h, w, stride=stride), _numpy_centres(h, w, stride))


@pytest.mark.exercise("grid", points=2)
@pytest.mark.parametrize("h, w", [(1, 1), (4, 9)])
def test_grid_dtype_and_shape(student, h, w):
    """The result should be float32 of shape (h*w, 2), also for an integer stride."""
    for stride in (1.0, 4):
        got = student.pixel_centres(h, w, stride)
        assert_shape(got, (h * w, 2))
        assert_equal(got.dtype, torch.float32, "the dtype")


@pytest.mark.exercise("grid", points=3)
@pytest.mark.parametrize("h, w", [(0, 3), (3, 0), (0, 0), (-1, 4), (4, -2)])
def test_grid_errors(student, h, w):
    """A height or width below 1 should be a ValueError."""
    with raises(ValueError):
        student.pixel_centres(h, w)


# --- topk ------------------------------------------------------------------------------------


@pytest.mark.exercise("topk", points=5)
@pytest.mark.parametrize(
    "shape, k, dim",
    [
        ((9,), 4, -1),
        ((5, 7), 3, -1),
        ((5, 7), 2, 0),
        ((2, 3, 6), 2, 1),
        ((2, 3, 6), 5, -1),
        ((1, 4), 1, 0),
        ((6, 1), 4, -2),
    ],
)
@pytest.mark.parametrize("largest", [True, False])
def test_topk_values(student, device, shape, k, dim, largest):
    """The values should equal torch.topk's, along any axis, largest or smallest, best first."""
    for dtype in (torch.float64, torch.float32):
        x = randn(*shape, dtype=dtype, device=device)
        with unchanged(x), does_not_call(student, "topk", "kthvalue"):
            values, _ = student.my_topk(x, k, dim, largest)
        assert_close(values, torch.topk(x, k, dim, largest).values, what="the values")


@pytest.mark.exercise("topk", points=4)
@pytest.mark.parametrize("dim, largest", [(0, True), (1, False), (-1, True), (-2, False)])
def test_topk_indices(student, device, dim, largest):
    """gather with the indices should give the values, and no position twice, also where values tie."""
    for x in (randn(6, 8, device=device), randint(0, 3, (6, 8), device=device).double()):
        values, indices = student.my_topk(x, 4, dim=dim, largest=largest)
        assert_close(values, torch.topk(x, 4, dim, largest).values, what="the values")
        assert_equal(indices.dtype, torch.int64, "the dtype of the indices")
        assert_shape(indices, values.shape, "the indices")
        inside = (indices >= 0) & (indices < x.shape[dim])
        assert_true(inside.all(), "An index lies outside of the axis.")
        assert_close(x.gather(dim, indices), values, what="the value of x at the indices")
        ordered = indices.sort(dim).values
        repeats = (ordered.diff(dim=dim) == 0).any()
        assert_true(not repeats, "A position comes twice; tied values have positions of their own.")


@pytest.mark.exercise("topk", points=2)
def test_topk_defaults(student):
    """By default the largest along the last axis should come, and integers stay integers."""
    x = randint(-20, 20, (3, 4, 5))
    values, indices = student.my_topk(x, 2)
    assert_close(values, torch.topk(x, 2).values, what="the values")
    assert_close(x.gather(-1, indices), values, what="the value of x at the indices")


@pytest.mark.exercise("topk", points=2)
@pytest.mark.parametrize("shape, dim", [((4,), -1), ((3, 5), 0), ((3, 5), 1)])
def test_topk_extreme_k(student, shape, dim):
    """k = 0 should give empty results, k = L all values in order, and a larger or negative k an error."""
    x = randn(*shape)
    length = x.shape[dim]
    values, indices = student.my_topk(x, 0, dim)
    assert_shape(values, torch.topk(x, 0, dim).values.shape, "the values for k = 0")
    assert_shape(indices, values.shape, "the indices for k = 0")
    assert_close(
        student.my_topk(x, length, dim)[0],
        x.sort(dim, descending=True).values,
        what="the values for k = L",
    )
    for k in (length + 1, length + 4, -1):
        with raises((ValueError, RuntimeError, IndexError)):
            student.my_topk(x, k, dim)


@pytest.mark.exercise("topk", points=2)
def test_topk_gradient(student):
    """The gradient should flow from each value to its place in x."""
    x = randn(4, 6)
    assert_same_gradients(lambda x: student.my_topk(x, 3)[0], lambda x: torch.topk(x, 3)[0], x)
    assert_gradcheck(lambda x: student.my_topk(x, 2, 0, False)[0], randn(4, 3, requires_grad=True))


# --- Adam ------------------------------------------------------------------------------------


def _run_adam(student, p, gradient, steps, lr=0.1, b1=0.9, b2=0.999, eps=1e-8):
    p = p.clone()
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, steps + 1):
        student.adam_inplace(p, gradient(p), m, v, lr, b1, b2, eps, t)
    return p


def _run_torch(p, gradient, steps, lr=0.1, b1=0.9, b2=0.999, eps=1e-8):
    p = p.clone().requires_grad_()
    optimiser = torch.optim.Adam([p], lr=lr, betas=(b1, b2), eps=eps)
    for _ in range(steps):
        p.grad = gradient(p.detach())
        optimiser.step()
    return p.detach()


@pytest.mark.exercise("adamstep", points=5)
@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((5,), torch.float64),
        ((3, 4), torch.float32),
        ((2, 1, 3), torch.float64),
        ((), torch.float64),
        ((1,), torch.float32),
    ],
)
def test_twenty_steps(student, device, shape, dtype):
    """Twenty steps should end where torch.optim.Adam ends."""
    p = randn(1, *shape, dtype=dtype, device=device)[0]
    scale = rand(1, *shape, dtype=dtype, device=device)[0] * 10 + 0.01

    def gradient(p):
        return scale * p + p**3

    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    assert_close(
        _run_adam(student, p, gradient, 20),
        _run_torch(p, gradient, 20),
        what="the parameter p after 20 steps",
        rtol=1e-5 if dtype == torch.float32 else 1e-7,
        atol=tolerance,
    )


@pytest.mark.exercise("adamstep", points=3)
@pytest.mark.parametrize(
    "settings",
    [
        dict(lr=0.01, b1=0.5, b2=0.9, eps=1e-8),
        dict(lr=1.0, b1=0.9, b2=0.99, eps=0.1),
        dict(lr=0.3, b1=0.0, b2=0.5, eps=1e-3),
    ],
)
def test_other_settings(student, settings):
    """lr, b1, b2 and eps should act as in torch.optim.Adam; eps is added after the root."""
    p = randn(7)
    gradient = torch.sin
    assert_close(
        _run_adam(student, p, gradient, 5, **settings),
        _run_torch(p, gradient, 5, **settings),
        what="the parameter p after 5 steps",
    )


@pytest.mark.exercise("adamstep", points=3)
def test_running_means(student):
    """m and v should be the running means of g and of its square, without bias correction."""
    p, m, v = randn(6), torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    m_right, v_right = m.clone(), v.clone()
    for t in range(1, 6):
        g = randn(6)
        with unchanged(g):
            student.adam_inplace(p, g, m, v, 0.1, 0.8, 0.95, 1e-8, t)
        m_right = 0.8 * m_right + 0.2 * g
        v_right = 0.95 * v_right + 0.05 * g**2
    assert_close(m, m_right, what="the mean m after five steps")
    assert_close(v, v_right, what="the mean v after five steps")


@probe
def in_place(student):
    whole = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(3, 4)
    p = whole.t()[1:]  # a view of other memory, not contiguous
    g = torch.linspace(-1, 2, p.numel(), dtype=torch.float64).reshape(p.shape)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    before = [t.data_ptr() for t in (p, m, v)]
    start, first = p.clone(), whole[:, 0].clone()
    answer = student.adam_inplace(p, g, m, v, 0.1, 0.9, 0.999, 1e-8, 1)
    return {
        "returns None": answer is None,
        "same addresses": before == [t.data_ptr() for t in (p, m, v)],
        "all written": bool((p != start).any() and (m != 0).any() and (v != 0).any()),
        "seen by others": torch.equal(whole.t()[1:], p) and torch.equal(whole[:, 0], first),
    }


@pytest.mark.exercise("adamstep", points=2)
def test_in_place(student):
    """p, m and v should be written where they lie, so that other views see the step; nothing is returned."""
    report = student.run(in_place)
    assert_true(report["returns None"], "The function should return None.")
    assert_true(
        report["same addresses"] and report["all written"], "p, m and v should be updated in place."
    )
    assert_true(report["seen by others"], "A view of the parameters should see the step.")


@probe
def largest_result(student):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(t, torch.Tensor):
                    self.largest = max(self.largest, t.numel())
            return out

    p, g = torch.ones(10, 10), torch.ones(10, 10)
    m, v = torch.zeros(10, 10), torch.zeros(10, 10)
    with Watch() as watch:
        student.adam_inplace(p, g, m, v, 0.1, 0.9, 0.999, 1e-8, 1)
    return watch.largest


@pytest.mark.exercise("adamstep", points=2)
def test_no_large_temporary(student):
    """No intermediate result should be larger than p."""
    assert_true(student.run(largest_result) <= 100, "An intermediate result is larger than p.")
