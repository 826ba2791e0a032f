"""Hidden tests of the chapter on ResNet, DenseNet, RepVGG and feature fusion."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    Mismatch,
    assert_close,
    assert_equal,
    assert_same_gradients,
    brief,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)


def require(condition, sentence, expected, got):
    """Fail with the sentence, and with what was expected and came, unless the condition holds."""
    if not bool(condition):
        shown = [v if isinstance(v, str) else brief(v) for v in (expected, got)]
        raise Mismatch(sentence, *shown)


# --- blocks by name: the student's against the same layers written out -------------------------


@probe
def run_block(student, name, args, state, x, train):
    """A block with a given state: output, gradients of sum(output * c), buffers after the call."""
    block = getattr(student, name)(*args).to(x.device, x.dtype)
    result = block.load_state_dict(state, strict=False)
    missing = sorted(k for k in result.missing_keys if "num_batches" not in k)
    if missing or result.unexpected_keys:
        return {"missing": missing, "unexpected": sorted(result.unexpected_keys)}
    block.train(train)
    leaf = x.clone().requires_grad_()
    y = block(leaf)
    same = torch.equal(leaf.detach(), x)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    grads = {
        k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in block.named_parameters()
    }
    buffers = {k: b.clone() for k, b in block.named_buffers() if b.is_floating_point()}
    return {
        "missing": [],
        "unexpected": [],
        "y": y.detach(),
        "x": torch.zeros_like(x) if leaf.grad is None else leaf.grad,
        "grads": grads,
        "buffers": buffers,
        "same": same,
        "module": isinstance(block, nn.Module),
    }


def random_state(convs, norms, device, dtype=torch.float64):
    """Weights for convolutions {name: shape}, and all that norms {name: channels} hold."""
    state = {}
    for name, shape in convs.items():
        size = math.prod(shape[1:]) ** -0.5
        state[f"{name}.weight"] = randn(*shape, dtype=dtype, device=device) * 1.5 * size
    for name, c in norms.items():
        state[f"{name}.weight"] = randn(c, dtype=dtype, device=device) + 0.5
        state[f"{name}.bias"] = randn(c, dtype=dtype, device=device) * 0.5
        state[f"{name}.running_mean"] = randn(c, dtype=dtype, device=device) * 0.3
        state[f"{name}.running_var"] = rand(c, dtype=dtype, device=device) + 0.1
    return state


class Layers:
    """The state's layers as functions, with leaves for the gradients and copies of the buffers."""

    def __init__(self, state, train):
        self.train = train
        self.state = {k: v.clone().requires_grad_("running" not in k) for k, v in state.items()}

    def conv(self, name, x, stride=1, groups=1):
        w = self.state[f"{name}.weight"]
        return F.conv2d(x, w, None, stride, w.shape[-1] // 2, 1, groups)

    def bn(self, name, x, eps=1e-5):
        s = self.state
        return F.batch_norm(
            x,
            s[f"{name}.running_mean"],
            s[f"{name}.running_var"],
            s[f"{name}.weight"],
            s[f"{name}.bias"],
            self.train,
            0.1,
            eps,
        )


def expected_of(reference, state, x, train):
    layers = Layers(state, train)
    leaf = x.clone().requires_grad_()
    y = reference(layers, leaf)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    return {
        "y": y.detach(),
        "x": leaf.grad,
        "grads": {
            k: torch.zeros_like(v) if v.grad is None else v.grad
            for k, v in layers.state.items()
            if v.requires_grad
        },
        "buffers": {k: v for k, v in layers.state.items() if "running" in k},
    }


def run_both(student, name, args, reference, state, x, train):
    got = student.run(run_block, name, args, state, x, train)
    assert_equal(
        list(got["missing"]), [], "the list of names that are not documented for this case"
    )
    assert_equal(list(got["unexpected"]), [], "the list of documented names that are missing")
    require(got["module"], f"{name} should be an nn.Module.", "nn.Module", "another class")
    return got, expected_of(reference, state, x, train)


# --- block -----------------------------------------------------------------------------------


def residual_state(cin, cout, use_1x1, device, dtype=torch.float64):
    convs = {"conv1": (cout, cin, 3, 3), "conv2": (cout, cout, 3, 3)}
    norms = {"bn1": cout, "bn2": cout}
    if use_1x1:
        convs["shortcut.0"], norms["shortcut.1"] = (cout, cin, 1, 1), cout
    return random_state(convs, norms, device, dtype)


def residual(stride, use_1x1, last=True, inner=True, side_bn=True):
    """The reference, or with a part left out."""

    def run(layers, x):
        h = layers.bn("bn1", layers.conv("conv1", x, stride))
        h = layers.bn("bn2", layers.conv("conv2", F.relu(h) if inner else h))
        side = x
        if use_1x1:
            side = layers.conv("shortcut.0", x, stride)
            side = layers.bn("shortcut.1", side) if side_bn else side
        return F.relu(h + side) if last else F.relu(h) + side

    return run


RESIDUALS = [  # cin, cout, stride, use_1x1, (N, H, W)
    (4, 4, 1, False, (3, 6, 5)),
    (3, 5, 1, True, (2, 5, 7)),
    (4, 4, 2, True, (2, 7, 6)),
    (2, 6, 2, True, (2, 8, 9)),
    (3, 3, 1, True, (1, 4, 4)),
    (1, 2, 3, True, (4, 9, 7)),
]


@pytest.mark.exercise("block", points=4)
@pytest.mark.parametrize("cin, cout, stride, use_1x1, size", RESIDUALS)
@pytest.mark.parametrize("train", [True, False])
def test_residual_output(student, device, cin, cout, stride, use_1x1, size, train):
    """With given weights, Residual should compute relu(branch + shortcut), training or not."""
    state = residual_state(cin, cout, use_1x1, device)
    x = randn(size[0], cin, *size[1:], device=device)
    args = (cin, cout, stride, use_1x1)
    got, expected = run_both(student, "Residual", args, residual(stride, use_1x1), state, x, train)
    wrong = {
        "The last ReLU should come after the sum.": residual(stride, use_1x1, last=False),
        "The ReLU between the two convolutions is missing.": residual(stride, use_1x1, inner=False),
        "The shortcut's batch normalisation is missing.": residual(stride, use_1x1, side_bn=False),
    }
    symptoms = {s: expected_of(f, state, x, train)["y"] for s, f in wrong.items()}
    assert_close(got["y"], expected["y"], symptoms=symptoms)
    require(got["same"], "The input was changed in place.", "the old input", "another")


@pytest.mark.exercise("block", points=3)
@pytest.mark.parametrize("cin, cout, stride, use_1x1, size", RESIDUALS[:4])
def test_residual_gradients(student, device, cin, cout, stride, use_1x1, size):
    """The gradients for every weight and for the input should be right."""
    state = residual_state(cin, cout, use_1x1, device)
    x = randn(size[0], cin, *size[1:], device=device)
    args = (cin, cout, stride, use_1x1)
    got, expected = run_both(student, "Residual", args, residual(stride, use_1x1), state, x, True)
    assert_close(got["grads"], expected["grads"], "the gradients")
    assert_close(got["x"], expected["x"], "the gradient for the input")


@pytest.mark.exercise("block", points=2)
def test_residual_statistics(student, device):
    """In training the running statistics should move, in evaluation they should stay."""
    state = residual_state(3, 4, True, device, torch.float32)
    x = randn(4, 3, 5, 6, dtype=torch.float32, device=device)
    for train in (True, False):
        got, expected = run_both(
            student, "Residual", (3, 4, 2, True), residual(2, True), state, x, train
        )
        assert_close(got["buffers"], expected["buffers"], "the statistics", rtol=1e-3, atol=1e-4)
        assert_close(got["y"], expected["y"], "the output in float32", rtol=1e-2, atol=1e-3)


@pytest.mark.exercise("block", points=3)
@pytest.mark.parametrize("train", [True, False])
def test_zero_branch(student, device, train):
    """With a branch of zeros the output is relu(x), and the gradient still reaches the input."""
    state = residual_state(3, 3, False, device)
    for name in ("conv1.weight", "conv2.weight", "bn2.bias", "bn2.running_mean"):
        state[name] = torch.zeros_like(state[name])
    x = randn(2, 3, 5, 4, device=device)
    got, _ = run_both(student, "Residual", (3, 3), residual(1, False), state, x, train)
    assert_close(got["y"], F.relu(x))
    scale = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=device).view_as(x)
    assert_close(got["x"], scale * (x > 0), "the gradient for the input")


@probe
def new_residual(student, args, kwargs):
    """Shapes of what a new block holds."""
    block = student.Residual(*args, **kwargs)
    return {k: list(v.shape) for k, v in block.state_dict().items() if "num_batches" not in k}


@pytest.mark.exercise("block", points=3)
@pytest.mark.parametrize(
    "args", [(4, 8), (4, 4, 2), (8, 4, 1), (4, 8, 2), (4, 5, 1, False), (1, 2), (6, 6, 3)]
)
def test_projection_is_needed(student, args):
    """Without use_1x1, a block that changes the shape should raise a ValueError when it is made."""
    with raises(ValueError):
        student.Residual(*args)
    held = student.run(new_residual, (5, 5), {})
    assert_equal(
        sorted(held),
        sorted(residual_state(5, 5, False, "cpu")),
        "the names in a block without projection",
    )
    held = student.run(new_residual, (5, 6), {"stride": 2, "use_1x1": True})
    assert_equal(
        held,
        {k: list(v.shape) for k, v in residual_state(5, 6, True, "cpu").items()},
        "the shapes in a block with projection",
    )


# --- bottleneck ------------------------------------------------------------------------------


def bottleneck_state(cin, mid, cout, stride, device, dtype=torch.float64):
    convs = {
        "conv1": (mid, cin, 1, 1),
        "conv2": (mid, mid, 3, 3),
        "conv3": (cout, mid, 1, 1),
    }
    norms = {"bn1": mid, "bn2": mid, "bn3": cout}
    if stride != 1 or cin != cout:
        convs["shortcut.0"], norms["shortcut.1"] = (cout, cin, 1, 1), cout
    return random_state(convs, norms, device, dtype)


def bottleneck(stride, where=2, last=True):
    def run(layers, x):
        h = F.relu(layers.bn("bn1", layers.conv("conv1", x, stride if where == 1 else 1)))
        h = F.relu(layers.bn("bn2", layers.conv("conv2", h, stride if where == 2 else 1)))
        h = layers.bn("bn3", layers.conv("conv3", h))
        side = x
        if "shortcut.0.weight" in layers.state:
            side = layers.bn("shortcut.1", layers.conv("shortcut.0", x, stride))
        return F.relu(h + side) if last else F.relu(h) + side

    return run


BOTTLENECKS = [  # cin, mid, cout, stride, (N, H, W)
    (6, 2, 6, 1, (3, 5, 6)),
    (4, 3, 8, 1, (2, 6, 5)),
    (6, 2, 6, 2, (2, 7, 8)),
    (3, 4, 5, 2, (2, 9, 6)),
    (2, 5, 7, 3, (4, 8, 7)),
]


@pytest.mark.exercise("bottleneck", points=4)
@pytest.mark.parametrize("cin, mid, cout, stride, size", BOTTLENECKS)
@pytest.mark.parametrize("train", [True, False])
def test_bottleneck_output(student, device, cin, mid, cout, stride, size, train):
    """With given weights, Bottleneck should compute relu(branch + shortcut), training or not."""
    state = bottleneck_state(cin, mid, cout, stride, device)
    x = randn(size[0], cin, *size[1:], device=device)
    args = (cin, mid, cout, stride)
    got, expected = run_both(student, "Bottleneck", args, bottleneck(stride), state, x, train)
    symptoms = {
        "The stride belongs to the 3x3 convolution, not to the first 1x1.": expected_of(
            bottleneck(stride, where=1), state, x, train
        )["y"],
        "The last ReLU should come after the sum.": expected_of(
            bottleneck(stride, last=False), state, x, train
        )["y"],
    }
    assert_close(got["y"], expected["y"], symptoms=symptoms)
    require(got["same"], "The input was changed in place.", "the old input", "another")


@pytest.mark.exercise("bottleneck", points=2)
@pytest.mark.parametrize("cin, mid, cout, stride, size", BOTTLENECKS[:4])
def test_bottleneck_gradients(student, device, cin, mid, cout, stride, size):
    """The gradients and the running statistics should be right."""
    state = bottleneck_state(cin, mid, cout, stride, device)
    x = randn(size[0], cin, *size[1:], device=device)
    args = (cin, mid, cout, stride)
    got, expected = run_both(student, "Bottleneck", args, bottleneck(stride), state, x, True)
    for key, what in (
        ("grads", "the gradients"),
        ("x", "the gradient for the input"),
        ("buffers", "the statistics"),
    ):
        assert_close(got[key], expected[key], what)


@probe
def new_bottleneck(student, args, x):
    block = student.Bottleneck(*args)
    shapes = {k: list(v.shape) for k, v in block.state_dict().items() if "num_batches" not in k}
    convs = sum(p.numel() for p in block.parameters() if p.dim() == 4)
    return shapes, convs, list(block(x).shape), isinstance(block, nn.Module)


@pytest.mark.exercise("bottleneck", points=2)
@pytest.mark.parametrize(
    "args", [(8, 2, 8), (8, 2, 8, 1), (8, 2, 8, 2), (4, 2, 8, 1), (8, 4, 4, 1), (64, 16, 64, 1)]
)
def test_bottleneck_layers(student, args):
    """All layers should be registered, with a projection only where the shape changes."""
    cin, mid, cout, stride = (*args, 1)[:4]
    x = randn(2, cin, 7, 9, dtype=torch.float32)
    shapes, convs, out, module = student.run(new_bottleneck, args, x)
    require(module, "Bottleneck should be an nn.Module.", "nn.Module", "another class")
    expected = bottleneck_state(cin, mid, cout, stride, "cpu")
    assert_equal(shapes, {k: list(v.shape) for k, v in expected.items()}, "the shapes")
    count = sum(v.numel() for v in expected.values() if v.dim() == 4)
    assert_equal(convs, count, "the number of weights in convolutions")
    assert_equal(out, [2, cout, -(-7 // stride), -(-9 // stride)], "the shape of the output")


@pytest.mark.exercise("bottleneck", points=2)
def test_bottleneck_counts(student):
    """params_bottleneck should be 69,632 and 1,179,648 for 256 channels, and right for others."""
    assert_equal(tuple(student.params_bottleneck(256)), (69632, 1179648), "the two counts for 256")
    for c in (4, 8, 12, 64, 100, 1024):
        m = c // 4
        got = student.params_bottleneck(c)
        assert_close(list(got), [2 * c * m + 9 * m * m, 18 * c * c], f"the two counts for c = {c}")
        require(all(type(v) is int for v in got), "The counts should be ints.", "ints", got)
    for c in (1, 2, 3, 6, 255):
        with raises(ValueError):
            student.params_bottleneck(c)


# --- gradient --------------------------------------------------------------------------------


def reference_grad(depth, residual, seed, after=True):
    torch.manual_seed(seed)
    kw = {"dtype": torch.float64}
    stem = nn.Conv2d(3, 16, 3, padding=1, **kw)
    convs = [nn.Conv2d(16, 16, 3, padding=1, **kw) for _ in range(2 * depth)]
    head = nn.Linear(16, 10, **kw)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    h = stem(x).relu()
    for a, b in zip(convs[::2], convs[1::2], strict=True):
        f = b(a(h).relu())
        if after:
            h = (h + f if residual else f).relu()
        else:
            h = h + f.relu() if residual else f.relu()
    loss = F.cross_entropy(head(h.mean((2, 3))), y)
    return torch.autograd.grad(loss, stem.weight)[0].norm().item()


@pytest.mark.exercise("gradient", points=5)
@pytest.mark.parametrize(
    "depth, residual, seed",
    [(1, True, 0), (1, False, 0), (3, True, 5), (3, False, 5), (0, True, 2), (2, True, 11)],
)
def test_first_layer(student, depth, residual, seed):
    """first_layer_grad should be the norm that the recipe gives, for any depth and seed."""
    got = student.first_layer_grad(depth, residual, seed)
    require(type(got) is float, "The result should be a float (use .item()).", "a float", got)
    assert_close(
        got,
        reference_grad(depth, residual, seed),
        f"first_layer_grad({depth}, {residual}, {seed})",
        rtol=1e-6,
        atol=0,
        symptoms={
            "The ReLU should come after the sum, not before it.": reference_grad(
                depth, residual, seed, after=False
            ),
            "The shortcut is there when it should not be, or the other way round.": (
                reference_grad(depth, not residual, seed)
            ),
        },
    )


@pytest.mark.exercise("gradient", points=3)
def test_shortcuts_keep_it_alive(student):
    """At 16 blocks the gradient with shortcuts should be more than 1,000 times the plain one."""
    plain = student.first_layer_grad(16, False, 1)
    residual = student.first_layer_grad(16, True, 1)
    expected = reference_grad(16, False, 1)
    assert_close(plain, expected, "the plain gradient at 16 blocks", rtol=1e-5, atol=0)
    require(
        residual > 1e3 * plain,
        "The gradient with shortcuts should be more than 1,000 times the plain one.",
        f"more than {1e3 * plain:.3g}",
        residual,
    )
    again = student.first_layer_grad(16, True, 1)
    assert_equal(again, residual, "a second call with the same seed")


@probe
def jacobians(student, matrices, x, kind):
    """jacobian_identity for branches made of matrices."""
    makers = {
        "linear": lambda A: lambda v: A @ v,
        "tanh": lambda A: lambda v: torch.tanh(A @ v),
        "square": lambda A: lambda v: (A @ v) * v,
    }
    branches = [makers[kind](A) for A in matrices]
    before = x.clone()
    whole, part = student.jacobian_identity(branches, x)
    return whole.detach(), part.detach(), torch.equal(before, x), len(branches) == len(matrices)


def reference_jacobians(matrices, x, kind):
    """The product of I + J_i, by hand."""
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    whole = eye
    for A in matrices:
        z = A @ x
        if kind == "linear":
            f, J = z, A
        elif kind == "tanh":
            f, J = z.tanh(), (1 - z.tanh() ** 2)[:, None] * A
        else:
            f, J = z * x, x[:, None] * A + torch.diag(z)
        whole, x = (eye + J) @ whole, x + f
    return whole, whole - eye


@pytest.mark.exercise("gradient", points=4)
@pytest.mark.parametrize("kind", ["linear", "tanh", "square"])
@pytest.mark.parametrize("n, depth", [(4, 1), (3, 2), (5, 6), (1, 3)])
def test_both_sides(student, device, kind, n, depth):
    """whole should be the product of all I + J, and branches that product minus I."""
    matrices = [randn(n, n, device=device) / n for _ in range(depth)]
    x = randn(n, device=device)
    whole, part, same, kept = student.run(jacobians, matrices, x, kind)
    expected = reference_jacobians(matrices, x, kind)
    single = sum(reference_jacobians([A], x, kind)[1] for A in matrices)
    assert_close(
        whole,
        expected[0],
        "whole",
        symptoms={
            "This is transposed: rows are outputs, columns are inputs.": expected[0].T,
            "This is the branches' part; the identity is missing.": expected[1],
        },
    )
    assert_close(
        part,
        expected[1],
        "branches",
        symptoms={
            "Every branch sees X_l here; block i should see X_i.": single,
            "The identity should not be in it.": expected[0],
        },
    )
    require(same, "x was changed in place.", x, "another x")
    require(kept, "The list of blocks was changed.", f"{depth} blocks", "another number")


@pytest.mark.exercise("gradient", points=3)
def test_no_blocks_and_float32(student, device):
    """No blocks leave the identity and zero, and the dtype should be x's."""
    x = randn(3, device=device)
    whole, part, _, _ = student.run(jacobians, [], x, "tanh")
    eye = torch.eye(3, dtype=x.dtype, device=device)
    assert_close(whole, eye, "whole for no blocks")
    assert_close(part, torch.zeros_like(eye), "branches for no blocks")
    matrices = [randn(3, 3, device=device).float() for _ in range(2)]
    whole, part, _, _ = student.run(jacobians, matrices, x.float(), "tanh")
    expected = reference_jacobians([A.double() for A in matrices], x.float().double(), "tanh")
    assert_close(whole, expected[0].float(), "whole in float32", rtol=1e-3, atol=1e-3)
    assert_close(part, expected[1].float(), "branches in float32", rtol=1e-3, atol=1e-3)


# --- variants --------------------------------------------------------------------------------


def block_state(c, device, dtype=torch.float64):
    convs = {"conv1": (c, c, 3, 3), "conv2": (c, c, 3, 3)}
    return random_state(convs, {"bn1": c, "bn2": c}, device, dtype)


def branch_of(kind, layers, x):
    conv1, conv2 = (lambda v, n=n: layers.conv(n, v) for n in ("conv1", "conv2"))
    bn1, bn2 = (lambda v, n=n: layers.bn(n, v) for n in ("bn1", "bn2"))
    return {
        "a": lambda: bn2(conv2(bn1(conv1(x)).relu())),
        "b": lambda: conv2(bn1(conv1(x)).relu()),
        "c": lambda: bn2(conv2(bn1(conv1(x)).relu())).relu(),
        "d": lambda: bn2(conv2(bn1(conv1(x.relu())).relu())),
        "e": lambda: conv2(bn2(conv1(bn1(x).relu())).relu()),
    }[kind]()


def arrangement(kind, after=True):
    def run(layers, x):
        y = x + branch_of(kind, layers, x)
        if kind == "b":
            y = layers.bn("bn2", y)
        if after:
            return y.relu() if kind in "ab" else y
        return y if kind in "ab" else y.relu()

    return run


@pytest.mark.exercise("variants", points=4)
@pytest.mark.parametrize("kind", list("abcde"))
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [(2, 3, 5, 4), (1, 4, 3, 6)])
def test_arrangement(student, device, kind, train, size):
    """Each kind should run its layers in the order of the figure, training or not."""
    state, x = block_state(size[1], device), randn(*size, device=device)
    args = (size[1], kind)
    got, expected = run_both(student, "Block", args, arrangement(kind), state, x, train)
    symptoms = {
        "The ReLU after the sum is missing, or stands where none should be.": expected_of(
            arrangement(kind, after=False), state, x, train
        )["y"]
    }
    for other in "abcde":
        if other != kind:
            y = expected_of(arrangement(other), state, x, train)["y"]
            symptoms[f"This is arrangement ({other})."] = y
    assert_close(got["y"], expected["y"], f"the output of kind {kind}", symptoms=symptoms)
    require(got["same"], "The input was changed in place.", "the old input", "another")


@pytest.mark.exercise("variants", points=2)
@pytest.mark.parametrize("kind", list("abcde"))
def test_arrangement_gradients(student, device, kind):
    """The gradients and the running statistics of each kind should be right."""
    state, x = block_state(3, device), randn(3, 3, 4, 5, device=device)
    got, expected = run_both(student, "Block", (3, kind), arrangement(kind), state, x, True)
    for key, what in (("grads", "the gradients"), ("x", "the gradient for the input")):
        assert_close(got[key], expected[key], what)
    assert_close(got["buffers"], expected["buffers"], "the statistics")


@probe
def run_branch(student, c, kind, state, x):
    """The branch alone, in eval mode, with all weights given, and with zero convolutions."""
    block = student.Block(c, kind).to(x.device, x.dtype)
    block.load_state_dict(state, strict=False)
    block.eval()
    branch = block.branch(x).detach()
    again = block.branch(x).detach()
    with torch.no_grad():
        for p in (block.conv1.weight, block.conv2.weight):
            p.zero_()
        for bn in (block.bn1, block.bn2):
            bn.reset_running_stats()
            bn.weight.fill_(1.0)
            bn.bias.zero_()
            bn.eps = 0.0
    return branch, block(x).detach(), torch.equal(branch, again)


@pytest.mark.exercise("variants", points=3)
@pytest.mark.parametrize("kind", list("abcde"))
def test_branch(student, device, kind):
    """branch should be what is added; with zero weights (c), (d), (e) should be the identity."""
    state, x = block_state(4, device), randn(3, 4, 5, 5, device=device)
    branch, empty, _ = student.run(run_branch, 4, kind, state, x)
    expected = branch_of(kind, Layers(state, False), x)
    assert_close(branch, expected, f"the branch of kind {kind}")
    if kind == "c":
        low = branch.min()
        require(low >= 0, "The branch of kind c should not be negative.", "0 or more", low)
    if kind == "e":
        low = branch.min()
        require(low < 0, "The branch of kind e may be negative, too.", "values below 0", low)
    want = x if kind in "cde" else x.relu()
    assert_close(empty, want, f"the output of kind {kind} with zero weights")


@pytest.mark.exercise("variants", points=1)
@pytest.mark.parametrize("kind", ["f", "A", "ab", "", "bcd", None, 1])
def test_unknown_kind(student, kind):
    """Anything but one of the five letters should raise a ValueError."""
    with raises(ValueError):
        student.Block(4, kind)


# --- dense -----------------------------------------------------------------------------------


def layer_state(cin, k, device, dtype=torch.float64):
    convs = {"conv1": (4 * k, cin, 1, 1), "conv2": (k, 4 * k, 3, 3)}
    return random_state(convs, {"norm1": cin, "norm2": 4 * k}, device, dtype)


def dense_layer(layers, x):
    h = layers.conv("conv1", layers.bn("norm1", x).relu())
    return torch.cat([x, layers.conv("conv2", layers.bn("norm2", h).relu())], 1)


@pytest.mark.exercise("dense", points=4)
@pytest.mark.parametrize("cin, k, size", [(5, 2, (3, 4, 6)), (3, 4, (2, 5, 3)), (1, 1, (2, 3, 3))])
@pytest.mark.parametrize("train", [True, False])
def test_dense_layer(student, device, cin, k, size, train):
    """DenseLayer should join its input and k new channels; values, gradients and statistics."""
    state = layer_state(cin, k, device)
    x = randn(size[0], cin, *size[1:], device=device)
    got, expected = run_both(student, "DenseLayer", (cin, k), dense_layer, state, x, train)
    swapped = torch.cat([expected["y"][:, cin:], x], 1)
    assert_close(
        got["y"],
        expected["y"],
        symptoms={
            "The input should come first, the new channels after it.": swapped,
            "Only the new channels are here; join them to the input.": expected["y"][:, cin:],
        },
    )
    for key, what in (("grads", "the gradients"), ("x", "the gradient for the input")):
        assert_close(got[key], expected[key], what)
    assert_close(got["buffers"], expected["buffers"], "the statistics")
    require(got["same"], "The input was changed in place.", "the old input", "another")


@probe
def dropped(student, drop, x):
    layer = student.DenseLayer(x.shape[1], 3, drop).to(x.device, x.dtype)
    layer.eval()
    with torch.no_grad():  # constant new channels, so that dropout is all that changes them
        layer.norm2.weight.zero_()
        layer.norm2.bias.fill_(1.0)
        layer.conv2.weight.fill_(1.0)
    flat = layer(x).detach()
    layer.train()
    return flat, layer(x).detach()


@probe
def dropped_in_block(student, drop, x):
    block = student.DenseBlock(2, x.shape[1], 2, drop).to(x.device, x.dtype)
    return block(x).detach(), block.eval()(x).detach()


@pytest.mark.exercise("dense", points=2)
@pytest.mark.parametrize("drop", [1.0, 0.5, 0.25])
def test_dropout(student, device, drop):
    """Dropout should hit the new channels only, scale what is left, and stop in evaluation."""
    x = randn(4, 2, 8, 8, device=device)
    flat, noisy = student.run(dropped, drop, x)
    assert_close(noisy[:, :2], x, "the input's channels in training")
    assert_close(flat[:, :2], x, "the input's channels in evaluation")
    require(flat[:, 2:].all(), "In evaluation nothing should be dropped.", "no zeros", flat[0, 2])
    new, calm = noisy[:, 2:], flat[:, 2:]
    zero = (new == 0).double().mean().item()
    assert_close(zero, drop, "the share of new values that are dropped", atol=0.12)
    kept = new != 0
    if drop < 1:
        assert_close(new[kept], (calm / (1 - drop))[kept], "the values that are kept")
    else:
        noisy, calm = student.run(dropped_in_block, drop, x)
        assert_close(noisy[:, 2:], torch.zeros_like(noisy[:, 2:]), "a block's new channels")
        assert_close(noisy[:, :2], x, "a block's input channels")
        new = calm[:, 2:]
        require(new.any(), "In evaluation nothing should be dropped.", "not only zeros", new[0, 0])


@probe
def run_in_order(student, name, args, values, stats, x, train):
    """A module whose parameters and statistics are given in the order of registration."""
    module = getattr(student, name)(*args).to(x.device, x.dtype)
    parameters = list(module.parameters())
    shapes = [list(p.shape) for p in parameters]
    if shapes != [list(v.shape) for v in values]:
        return shapes, None, None, None
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p, value in zip(parameters, values):
            p.copy_(value)
        for norm, (mean, var) in zip(norms, stats):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
    module.train(train)
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y.flatten() @ scale).backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return shapes, y.detach(), leaf.grad, grads


class Tape:
    """Makes random layers in running order, and runs them as functions."""

    def __init__(self, device, train):
        self.device, self.train, self.values, self.stats = device, train, [], []

    def conv(self, x, cout, k, stride=1, padding=None):
        w = randn(cout, x.shape[1], k, k, device=self.device) / (k * x.shape[1] ** 0.5)
        self.values.append(w.requires_grad_())
        return F.conv2d(x, w, None, stride, k // 2 if padding is None else padding)

    def bn(self, x):
        c = x.shape[1]
        weight = (randn(c, device=self.device) * 0.3 + 1).requires_grad_()
        bias = (randn(c, device=self.device) * 0.3).requires_grad_()
        mean, var = randn(c, device=self.device) * 0.2, rand(c, device=self.device) + 0.5
        self.values += [weight, bias]
        self.stats.append((mean.clone(), var.clone()))
        return F.batch_norm(x, mean, var, weight, bias, self.train)

    def dense_block(self, x, n, k):
        for _ in range(n):
            h = self.conv(self.bn(x).relu(), 4 * k, 1)
            x = torch.cat([x, self.conv(self.bn(h).relu(), k, 3)], 1)
        return x

    def transition(self, x, theta):
        m = math.floor(theta * x.shape[1])
        return F.avg_pool2d(self.conv(self.bn(x).relu(), m, 1), 2)

    def densenet(self, x, k, cfg, theta, classes):
        x = F.max_pool2d(self.bn(self.conv(x, 2 * k, 7, 2)).relu(), 3, 2, 1)
        for i, n in enumerate(cfg):
            if i:
                x = self.transition(x, theta)
            x = self.dense_block(x, n, k)
        x = self.bn(x).relu().mean((2, 3))
        w = randn(classes, x.shape[1], device=self.device) * 0.3
        b = randn(classes, device=self.device)
        self.values += [w.requires_grad_(), b.requires_grad_()]
        return F.linear(x, w, b)


def compare_in_order(student, name, args, x, reference, train):
    tape = Tape(x.device, train)
    leaf = x.clone().requires_grad_()
    y = reference(tape, leaf)
    scale = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    grads = torch.autograd.grad(y.flatten() @ scale, [leaf, *tape.values])
    values = [v.detach() for v in tape.values]
    shapes, got, x_grad, got_grads = student.run(
        run_in_order, name, args, values, tape.stats, x, train
    )
    assert_equal(
        [tuple(s) for s in shapes],
        [tuple(v.shape) for v in values],
        f"the shapes of the parameters of {name}{args}",
    )
    assert_close(got, y.detach(), f"the output of {name}{args}")
    assert_close(x_grad, grads[0], "the gradient for the input")
    assert_close(list(got_grads), list(grads[1:]), "the gradients for the parameters")


@pytest.mark.exercise("dense", points=3)
@pytest.mark.parametrize("n, cin, k", [(1, 3, 2), (3, 4, 2), (5, 2, 1), (2, 1, 3)])
@pytest.mark.parametrize("train", [True, False])
def test_dense_block(student, device, n, cin, k, train):
    """In DenseBlock, layer l should read cin + k (l - 1) channels: all that came before."""
    x = randn(2, cin, 5, 4, device=device)
    compare_in_order(
        student, "DenseBlock", (n, cin, k), x, lambda t, x: t.dense_block(x, n, k), train
    )


@pytest.mark.exercise("dense", points=3)
@pytest.mark.parametrize("cin, theta", [(6, 0.5), (7, 0.5), (10, 0.7), (5, 1.0), (9, 0.3), (4, 1)])
def test_transition(student, device, cin, theta):
    """Transition should make floor(theta * cin) channels and average 2x2 windows."""
    x = randn(3, cin, 6, 5, device=device)
    for train in (True, False):
        compare_in_order(
            student, "Transition", (cin, theta), x, lambda t, x: t.transition(x, theta), train
        )
    for wrong in (0, -0.5, 1.01, 2):
        with raises(ValueError):
            student.Transition(cin, wrong)


@probe
def count_parameters(student, args, sizes):
    with torch.device("meta"):  # no numbers, so a large network costs nothing
        count = sum(p.numel() for p in student.densenet(*args).parameters())
    shapes = []
    if sizes:
        net = student.densenet(*args).eval()
        with torch.no_grad():
            shapes = [list(net(torch.zeros(1, 3, s, s)).shape) for s in sizes]
    return count, shapes


@pytest.mark.exercise("dense", points=3)
@pytest.mark.parametrize(
    "args, count, sizes",
    [
        ((32, (6, 12, 24, 16), 0.5, 1000), 7978856, []),
        ((12, (4, 4, 4), 0.4, 7), 99437, [32]),
        ((2, (2, 1, 1, 1), 0.5, 5), 1717, [32, 64, 224]),
        ((4, (3,), 1.0, 2), 3746, [32, 64]),
    ],
)
def test_densenet_count(student, args, count, sizes):
    """densenet should have DenseNet-121's 7,978,856 parameters, and accept 32, 64, 224 pixels."""
    got, shapes = student.run(count_parameters, args, sizes)
    assert_equal(got, count, f"the number of parameters of densenet{args}")
    expected = [[1, args[3]] for _ in sizes]
    assert_equal([list(s) for s in shapes], expected, f"the shapes for {sizes} pixels")


@pytest.mark.exercise("dense", points=4)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "args, size",
    [
        ((2, (2, 1, 2), 0.5, 3), (33, 44)),
        ((3, (1,), 0.7, 4), (32, 37)),
        ((3, (2, 2), 0.3, 1), (40, 32)),
    ],
)
def test_densenet_output(student, device, args, size, train):
    """With given weights, densenet should run stem, blocks, transitions and head in order."""
    x = randn(2, 3, *size, device=device)
    compare_in_order(student, "densenet", args, x, lambda t, x: t.densenet(x, *args), train)


@probe
def reach(student, n, cin, k, x):
    """How the last layer's new channels depend on the block's input when all other layers are 0."""
    block = student.DenseBlock(n, cin, k).double().eval()
    layers = [m for m in block.modules() if hasattr(m, "conv2") and hasattr(m, "norm1")]
    with torch.no_grad():
        for layer in layers[:-1]:
            layer.conv2.weight.zero_()
    leaf = x.clone().requires_grad_()
    block(leaf)[:, -k:].sum().backward()
    return leaf.grad, len(layers)


@pytest.mark.exercise("dense", points=1)
def test_first_input_is_visible(student, device):
    """The last layer should see the block's input, even if all layers between put out zeros."""
    grad, layers = student.run(reach, 4, 3, 2, randn(2, 3, 5, 5))
    assert_equal(layers, 4, "the number of DenseLayers")
    require(grad.any(), "No gradient arrives at the first input.", "not only zeros", grad[0, 0])


# --- fusion ----------------------------------------------------------------------------------


@pytest.mark.exercise("fusion", points=3)
@pytest.mark.parametrize(
    "size, cout, kernel",
    [
        ((2, 3, 5, 6), 4, (3, 3)),
        ((1, 1, 4, 7), 2, (1, 1)),
        ((3, 2, 6, 5), 1, (5, 3)),
        ((2, 4, 3, 8), 5, (1, 7)),
    ],
)
def test_adding_first(student, device, size, cout, kernel):
    """The result should be the convolution of x + y, for odd kernels of any shape."""
    x, y = randn(*size, device=device), randn(*size, device=device)
    w = randn(cout, size[1], *kernel, device=device)
    with unchanged(x, y, w):
        got = student.shared_concat_conv(x, y, w)
    padding = [k // 2 for k in kernel]
    assert_close(
        got,
        F.conv2d(x + y, w, padding=padding),
        symptoms={
            "Only x is convolved.": F.conv2d(x, w, padding=padding),
            "Only y is convolved.": F.conv2d(y, w, padding=padding),
            "The size should stay: pad by half of the kernel.": F.conv2d(x + y, w),
        },
    )


@pytest.mark.exercise("fusion", points=2)
def test_fusion_gradients(student, device):
    """The gradients should be those of the convolution of x + y, w's summed over both halves."""
    x, y = randn(2, 3, 4, 5, device=device), randn(2, 3, 4, 5, device=device)
    w = randn(2, 3, 3, 3, device=device)
    assert_same_gradients(
        lambda x, y, w: student.shared_concat_conv(x, y, w),
        lambda x, y, w: F.conv2d(x + y, w, padding=1),
        x,
        y,
        w,
    )
    x, y, w = x.float(), y.float(), w.float()
    expected = F.conv2d((x + y).double(), w.double(), padding=1).float()
    got = student.shared_concat_conv(x, y, w)
    assert_close(got, expected, "the output in float32", rtol=1e-2, atol=1e-2)


@pytest.mark.exercise("fusion", points=2)
@pytest.mark.parametrize(
    "other", [(2, 3, 4, 1), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 5), (2, 4, 4, 5), (2, 2, 4, 5)]
)
def test_shapes_differ(student, other):
    """Inputs of different shapes should raise a ValueError, also where they could broadcast."""
    x, y, w = randn(2, 3, 4, 5), randn(*other), randn(2, 3, 3, 3)
    with raises(ValueError):
        student.shared_concat_conv(x, y, w)
    with raises(ValueError):
        student.shared_concat_conv(y, x, w)


@pytest.mark.exercise("fusion", points=3)
@pytest.mark.parametrize("c, cout, k", [(1, 1, 1), (3, 5, 3), (256, 128, 1), (7, 2, 5), (4, 4, 7)])
def test_extra_params(student, c, cout, k):
    """extra_params should be the difference of two layers' weights, an int."""
    after = nn.Conv2d(2 * c, cout, k, device="meta").weight.numel()
    before = nn.Conv2d(c, cout, k, device="meta").weight.numel()
    got = student.extra_params(c, cout, k)
    assert_close(
        got,
        after - before,
        f"extra_params({c}, {cout}, {k})",
        symptoms={
            "This is all of the weights after concatenating; only the difference is asked.": after,
            "A kernel has k * k weights.": c * cout * k,
        },
    )
    require(type(got) is int, "The result should be an int.", "an int", got)


# --- repvgg ----------------------------------------------------------------------------------


def rep_state(c, stride, groups, device, dtype=torch.float64):
    convs = {"conv3": (c, c // groups, 3, 3), "conv1": (c, c // groups, 1, 1)}
    norms = {"bn3": c, "bn1": c}
    if stride == 1:
        norms["bn0"] = c
    return random_state(convs, norms, device, dtype)


def rep(stride, groups, eps=1e-5, leave_out=()):
    def run(layers, x):
        parts = {
            "3x3": layers.bn("bn3", layers.conv("conv3", x, stride, groups), eps),
            "1x1": layers.bn("bn1", layers.conv("conv1", x, stride, groups), eps),
        }
        if stride == 1:
            parts["identity"] = layers.bn("bn0", x, eps)
        return sum(part for name, part in parts.items() if name not in leave_out)

    return run


REPS = [(4, 1, 1), (4, 2, 1), (6, 1, 3), (6, 2, 2), (5, 1, 5), (3, 3, 1), (1, 1, 1)]


@pytest.mark.exercise("repvgg", points=3)
@pytest.mark.parametrize("c, stride, groups", REPS)
@pytest.mark.parametrize("train", [True, False])
def test_three_branches(student, device, c, stride, groups, train):
    """RepBlock should be the sum of its normalised branches, without a ReLU."""
    state = rep_state(c, stride, groups, device)
    x = randn(3, c, 7, 6, device=device)
    args, reference = (c, stride, groups), rep(stride, groups)
    got, expected = run_both(student, "RepBlock", args, reference, state, x, train)
    symptoms = {"There should be no ReLU after the sum.": expected["y"].relu()}
    for name in ("identity", "1x1", "3x3")[0 if stride == 1 else 1 :]:
        y = expected_of(rep(stride, groups, leave_out=(name,)), state, x, train)["y"]
        symptoms[f"The {name} branch is missing."] = y
    assert_close(got["y"], expected["y"], symptoms=symptoms)
    require(got["same"], "The input was changed in place.", "the old input", "another")


@pytest.mark.exercise("repvgg", points=2)
@pytest.mark.parametrize("c, stride, groups", REPS[:4])
def test_rep_gradients(student, device, c, stride, groups):
    """The gradients and the running statistics should be right."""
    state = rep_state(c, stride, groups, device)
    x = randn(2, c, 5, 6, device=device)
    args, reference = (c, stride, groups), rep(stride, groups)
    got, expected = run_both(student, "RepBlock", args, reference, state, x, True)
    for key, what in (("grads", "the gradients"), ("x", "the gradient for the input")):
        assert_close(got[key], expected[key], what)
    assert_close(got["buffers"], expected["buffers"], "the statistics")


@probe
def new_rep(student, args, kwargs):
    block = student.RepBlock(*args, **kwargs)
    held = {k: list(v.shape) for k, v in block.state_dict().items() if "num_batches" not in k}
    return held, block.bn0 is None


@pytest.mark.exercise("repvgg", points=2)
@pytest.mark.parametrize("c, stride, groups", REPS)
def test_identity_branch(student, c, stride, groups):
    """There should be an identity branch with BN if the stride is 1, else bn0 should be None."""
    kwargs = {"stride": stride, "groups": groups}
    if (stride, groups) == (1, 1):
        kwargs = {}
    held, none = student.run(new_rep, (c,), kwargs)
    expected = rep_state(c, stride, groups, "cpu")
    assert_equal(held, {k: list(v.shape) for k, v in expected.items()}, "the block's content")
    assert_equal(none, stride != 1, "whether bn0 is None")


@probe
def run_fuse(student, args, state, x, eps):
    """The fused layer of a block with a given state, and what became of the block."""
    block = student.RepBlock(*args).to(x.device, x.dtype)
    block.load_state_dict(state, strict=False)
    for bn in (block.bn3, block.bn1, block.bn0):
        if bn is not None:
            bn.eps = eps
    block.eval()
    before = {k: v.clone() for k, v in block.state_dict().items()}
    names = [name for name, _ in block.named_modules()]
    fused = student.fuse(block)
    y = fused(x).detach()
    with torch.no_grad():
        for p in fused.parameters():
            p.add_(1.0)
    after = block.state_dict()
    kept = all(torch.equal(v, after[k]) for k, v in before.items()) and len(before) == len(after)
    kept = kept and names == [name for name, _ in block.named_modules()] and not block.training
    again = student.fuse(block)
    return {
        "y": y,
        "weight": again.weight.detach(),
        "bias": None if again.bias is None else again.bias.detach(),
        "kept": kept,
        "conv": isinstance(again, nn.Conv2d),
        "plain": not again.weight.is_sparse and again.weight.is_leaf,
        "stride": list(again.stride),
        "padding": [int(p) for p in again.padding],
        "groups": again.groups,
        "channels": [again.in_channels, again.out_channels],
    }


def reference_fuse(state, stride, groups, eps):
    """The kernel and the bias, by probing with single pixels."""
    c = state["conv3.weight"].shape[0]
    layers, f = Layers(state, False), rep(1, groups, eps, () if stride == 1 else ("identity",))
    if stride != 1:  # the branches without their stride
        for key in ("weight", "bias", "running_mean", "running_var"):
            layers.state[f"bn0.{key}"] = layers.state[f"bn3.{key}"]
    zero = torch.zeros(1, c, 5, 5, dtype=state["conv3.weight"].dtype)
    zero = zero.to(state["conv3.weight"].device)
    with torch.no_grad():
        bias = f(layers, zero)[0, :, 2, 2]
        weight = torch.zeros_like(state["conv3.weight"])
        size = weight.shape[1]
        for i in range(c):
            pixel = zero.clone()
            pixel[0, i, 2, 2] = 1
            answer = f(layers, pixel)[0] - bias[:, None, None]
            group = slice(i // size * size, (i // size + 1) * size)
            weight[group, i % size] = answer[group, 1:4, 1:4].flip(1, 2)
    return weight, bias


@pytest.mark.exercise("repvgg", points=5)
@pytest.mark.parametrize("c, stride, groups", REPS)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_fused_equals_block(student, device, c, stride, groups, eps):
    """The fused convolution should give the block's output in eval mode, for all branches."""
    state = rep_state(c, stride, groups, device)
    x = randn(2, c, 8, 7, device=device)
    got = student.run(run_fuse, (c, stride, groups), state, x, eps)
    require(got["conv"], "fuse should return an nn.Conv2d.", "nn.Conv2d", "another class")
    expected = expected_of(rep(stride, groups, eps), state, x, False)["y"]
    symptoms = {}
    for name in ("identity", "1x1", "3x3")[0 if stride == 1 else 1 :]:
        y = expected_of(rep(stride, groups, eps, (name,)), state, x, False)["y"]
        symptoms[f"The {name} branch is missing in the fused kernel."] = y
    if eps != 1e-5:
        y = expected_of(rep(stride, groups), state, x, False)["y"]
        symptoms["Each batch normalisation has its own eps; use it."] = y
    assert_close(got["y"], expected, "the fused layer's output", symptoms=symptoms)


@pytest.mark.exercise("repvgg", points=3)
@pytest.mark.parametrize("c, stride, groups", REPS[:5])
def test_fused_kernel(student, device, c, stride, groups):
    """The fused layer should have the block's stride and groups, the summed kernel and the bias."""
    state = rep_state(c, stride, groups, device)
    x = randn(1, c, 5, 6, device=device)
    got = student.run(run_fuse, (c, stride, groups), state, x, 1e-3)
    for name, value in (
        ("stride", [stride] * 2),
        ("padding", [1, 1]),
        ("groups", groups),
        ("channels", [c, c]),
    ):
        have = got[name] if isinstance(got[name], int) else list(got[name])
        assert_equal(have, value, f"the fused layer's {name}")
    require(got["bias"] is not None, "The fused layer needs a bias.", f"{c} biases", None)
    weight, bias = reference_fuse(state, stride, groups, 1e-3)
    assert_close(got["weight"], weight, "the fused weight")
    assert_close(got["bias"], bias, "the fused bias")
    require(
        got["plain"], "The fused weight should be a new parameter.", "a leaf", "a part of a graph"
    )


@pytest.mark.exercise("repvgg", points=2)
@pytest.mark.parametrize("c, groups", [(3, 1), (4, 2), (5, 5)])
def test_identity_kernel(student, device, c, groups):
    """With all convolutions zero, only a 1 at the centre of each channel's own kernel is left."""
    state = rep_state(c, 1, groups, device, torch.float32)
    for key, value in state.items():
        if key.startswith("conv") or key.endswith(("bias", "mean")):
            state[key] = torch.zeros_like(value)
        else:
            state[key] = torch.ones_like(value)
    x = randn(1, c, 4, 4, dtype=torch.float32, device=device)
    got = student.run(run_fuse, (c, 1, groups), state, x, 0.0)
    expected = torch.zeros(c, c // groups, 3, 3, device=device)
    for i in range(c):
        expected[i, i % (c // groups), 1, 1] = 1
    ones = expected[:, :, 1:2, 1:2].expand_as(expected)
    assert_close(
        got["weight"],
        expected,
        "the fused weight",
        symptoms={
            "These are nine ones; the identity is 1 at the centre and 0 elsewhere.": ones,
            "Each channel should read itself only.": (
                torch.ones_like(expected) * expected.sum((0, 1), keepdim=True) / c
            ),
        },
    )
    assert_close(got["bias"], torch.zeros(c, device=device), "the fused bias")
    assert_close(got["y"], x, "the fused layer's output", rtol=1e-3, atol=1e-3)


@probe
def fuse_in_training(student):
    """Whether fuse refuses a block in training mode; or fuses one that was trained, then eval."""
    block = student.RepBlock(3).double()
    torch.manual_seed(0)
    x = 2 * torch.randn(8, 3, 6, 6, dtype=torch.float64) + 1
    block(x)
    raised = ""
    try:
        student.fuse(block)
    except Exception as error:
        raised = type(error).__name__
    block.eval()
    y = block(x).detach()
    return raised, y, student.fuse(block)(x).detach()


@pytest.mark.exercise("repvgg", points=3)
def test_training_mode(student, device):
    """fuse should raise a ValueError in training mode, and work after training and eval()."""
    raised, block, fused = student.run(fuse_in_training)
    assert_equal(raised or "no error", "ValueError", "what a block in training mode raises")
    assert_close(fused, block, "the fused layer's output after training")
    state = rep_state(4, 1, 2, device)
    with unchanged(state):
        got = student.run(run_fuse, (4, 1, 2), state, randn(1, 4, 3, 3, device=device), 1e-5)
    require(
        got["kept"],
        "The block was changed, or shares memory with the fused layer.",
        "the old block",
        "another",
    )
