"""Hidden tests of the chapter on autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_gradgradcheck,
    assert_true,
    probe,
    raises,
    rand,
    randn,
    unchanged,
)


def normal(shape, **options):
    """Standard normal input; unlike randn also of shape ()."""
    return randn(*(shape or (1,)), **options).reshape(shape)


# --- flags -----------------------------------------------------------------------------------


@pytest.mark.exercise("flags", points=4)
@pytest.mark.parametrize(
    "name, expected",
    [
        ("w * x", True),
        ("w[0]", True),
        ("w * 0", True),
        ("w.clone()", True),
        ("linear(x)", True),
        ("linear.eval()(x)", True),
        ("x + 1", False),
        ("w > 0", False),
        ("w.argmax()", False),
        ("w.detach() * x", False),
        ("w.data * 2", False),
        ("torch.zeros_like(w)", False),
    ],
)
def test_tracks_grad(student, name, expected):
    """`tracks_grad` should say for each expression what PyTorch says."""
    assert_equal(student.tracks_grad(name), expected, f'tracks_grad("{name}")')


@pytest.mark.exercise("flags", points=1)
@pytest.mark.parametrize("name", ["w / x", "", "w*x"])
def test_unknown_expression(student, name):
    """`tracks_grad` should raise ValueError for an expression that is not in the list."""
    with raises(ValueError):
        student.tracks_grad(name)


@probe
def infer_once(student, x, w, training):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(w.shape[1], dtype=x.dtype, device=x.device)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.norm(x @ w))

    w.requires_grad_()
    net = Net().train(training)
    mean = net.norm.running_mean.clone()
    y = student.infer(net, x)
    same = torch.equal(mean, net.norm.running_mean)
    return y, y.requires_grad, same, torch.is_grad_enabled()


@pytest.mark.exercise("flags", points=2)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (1, 4)])
def test_infer_output(student, device, training, shape):
    """`infer` should give the model's answer in eval mode, without a graph, and leave the model
    and the grad mode as they are."""
    x, w = randn(*shape, device=device), randn(shape[1], 7, device=device)
    y, tracked, same, enabled = student.run(infer_once, x, w, training)
    assert_close(y, x @ w / math.sqrt(1 + 1e-5), "infer(model, x)")
    assert_true(not tracked, "The result of `infer` should not require grad.")
    assert_true(same, "The running mean moved: was the model in training mode?")
    assert_true(enabled, "Grad mode should be on again after `infer`.")


@probe
def infer_mixed(student, pattern, fails):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.ReLU()))
    modules = list(net.modules())
    for module, training in zip(modules, pattern):
        module.training = training
    x = torch.ones(4, 9 if fails else 2)
    try:
        student.infer(net, x)
        raised = "no error"
    except NotImplementedError:
        raise
    except Exception as error:
        raised = type(error).__name__
    return [module.training for module in modules], raised


PATTERNS = [
    [True, True, True, True, True, True],
    [False, False, False, False, False, False],
    [True, True, False, True, True, True],
    [True, False, False, True, False, True],
    [False, True, True, False, True, False],
]


@pytest.mark.exercise("flags", points=2)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_infer_restores_each_mode(student, pattern):
    """After `infer`, each part of the model should be in the mode it was in before."""
    modes, raised = student.run(infer_mixed, pattern, False)
    assert_equal(raised, "no error", "what infer raised")
    assert_equal(modes, pattern, "the training flags of the modules")


@pytest.mark.exercise("flags", points=1)
@pytest.mark.parametrize("pattern", PATTERNS[:3])
def test_infer_restores_after_error(student, pattern):
    """When the model raises an error, `infer` should raise it too, and restore the modes."""
    modes, raised = student.run(infer_mixed, pattern, True)
    assert_equal(raised, "RuntimeError", "what infer raised")
    assert_equal(modes, pattern, "the training flags of the modules")


# --- vjp -------------------------------------------------------------------------------------


@probe
def entry_by_entry(x):
    return torch.sin(x) * x


@probe
def widen(x):
    return torch.outer(x.flatten(), x.flatten().exp())


@probe
def narrow(x):
    return (x**2).sum(-1)


@probe
def running(x):
    return x.cumsum(0).tanh()


@probe
def to_scalar(x):
    return (x * x.roll(1)).sum()


@probe
def first_entry(x):
    return x.flatten()[:1] ** 3


FUNCTIONS = [entry_by_entry, widen, narrow, running, to_scalar, first_entry]


def reference_vjp(f, x, v):
    return torch.autograd.functional.vjp(f, x, v)[1]


@pytest.mark.exercise("vjp", points=4)
@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("size", [5, 1])
def test_vjp_matches_library(student, device, f, size):
    """`vjp` should equal torch.autograd.functional.vjp for vectors."""
    x = randn(size, device=device)
    v = normal(f(x).shape, device=device)
    assert_close(student.vjp(f, x, v), reference_vjp(f, x, v))


@pytest.mark.exercise("vjp", points=2)
@pytest.mark.parametrize(
    "f, shape",
    [
        (entry_by_entry, (3, 4)),
        (narrow, (2, 3, 5)),
        (running, (4, 1)),
        (to_scalar, (2, 7)),
        (entry_by_entry, ()),
        (widen, (3, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vjp_shapes(student, device, f, shape, dtype):
    """`vjp` should return a tensor of x's shape and type, for any shape of x and f(x)."""
    x = normal(shape, device=device, dtype=dtype)
    v = normal(f(x).shape, device=device, dtype=dtype)
    assert_close(student.vjp(f, x, v), reference_vjp(f, x, v))


@pytest.mark.exercise("vjp", points=2)
@pytest.mark.parametrize(
    "f, shape, wrong",
    [
        (entry_by_entry, (3,), (4,)),
        (entry_by_entry, (3,), (1,)),
        (entry_by_entry, (3,), (3, 1)),
        (entry_by_entry, (3,), ()),
        (narrow, (2, 3), (2, 3)),
        (to_scalar, (4,), (4,)),
    ],
)
def test_vjp_wrong_shape(student, device, f, shape, wrong):
    """`vjp` should raise ValueError if v's shape is not that of f(x), even if it would broadcast."""
    x, v = normal(shape, device=device), normal(wrong, device=device)
    with raises(ValueError):
        student.vjp(f, x, v)


@probe
def vjp_of_fresh(student, x, v):
    student.vjp(lambda t: t**3, x, v)
    return not x.requires_grad, x.grad is None


@probe
def vjp_of_used(student, x, v):
    x.requires_grad_()
    (x**2).sum().backward()
    before = x.grad.clone()
    got = student.vjp(lambda t: t**3, x, v)
    return got.detach(), torch.equal(before, x.grad), x.requires_grad and x.is_leaf


@pytest.mark.exercise("vjp", points=2)
def test_vjp_leaves_x_alone(student, device):
    """`vjp` should leave x, its requires_grad and its .grad as they were."""
    x, v = randn(4, device=device), randn(4, device=device)
    with unchanged(x, v):
        student.vjp(entry_by_entry, x, v)
    plain, empty = student.run(vjp_of_fresh, x.detach().clone(), v)
    assert_true(plain, "x did not require grad before the call, and does now.")
    assert_true(empty, "x.grad should still be None.")
    got, same, leaf = student.run(vjp_of_used, x, v)
    assert_close(got, 3 * x.detach() ** 2 * v)
    assert_true(same, "x.grad should hold what it held before the call.")
    assert_true(leaf, "x should still be a leaf that requires grad.")


# --- accumulate ------------------------------------------------------------------------------


@probe
def accumulate(student, parameters, x, y, sizes, kind, as_iterator, garbage):
    net = nn.Sequential(nn.Linear(x.shape[1], 6), nn.Tanh(), nn.Linear(6, 3))
    net.to(x)
    with torch.no_grad():
        for p, values in zip(net.parameters(), parameters):
            p.copy_(values)
    if garbage:
        for p in net.parameters():
            p.grad = torch.full_like(p, 7.0)
    loss_fn = F.cross_entropy if kind == "labels" else F.mse_loss
    batches = zip(x.split(sizes), y.split(sizes))
    result = student.accumulate_grads(
        net, loss_fn, batches if as_iterator else list(batches), len(x)
    )
    return [p.grad for p in net.parameters()], [p.detach() for p in net.parameters()], result


def network_case(rows, kind, device, dtype):
    """Parameters, inputs, targets and the gradient of the mean loss, computed directly."""
    sizes = [(6, 4), (6,), (3, 6), (3,)]
    parameters = [randn(*s, device=device, dtype=dtype) for s in sizes]
    x = randn(rows, 4, device=device, dtype=dtype)
    if kind == "labels":
        y = rand(rows, 3, device=device).argmax(1)
    else:
        y = randn(rows, 3, device=device, dtype=dtype)
    leaves = [p.clone().requires_grad_() for p in parameters]
    out = torch.tanh(x @ leaves[0].T + leaves[1]) @ leaves[2].T + leaves[3]
    loss = F.cross_entropy(out, y) if kind == "labels" else F.mse_loss(out, y)
    return parameters, x, y, list(torch.autograd.grad(loss, leaves))


@pytest.mark.exercise("accumulate", points=3)
@pytest.mark.parametrize("rows, sizes", [(8, [4, 4]), (6, [2, 2, 2]), (5, [5]), (3, [1, 1, 1])])
@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_equal_pieces(student, device, rows, sizes, kind):
    """With pieces of equal size, p.grad should be the gradient of the whole batch."""
    parameters, x, y, expected = network_case(rows, kind, device, torch.float64)
    got, _, _ = student.run(accumulate, parameters, x, y, sizes, kind, False, False)
    assert_close(got, expected, "the gradients")


@pytest.mark.exercise("accumulate", points=4)
@pytest.mark.parametrize("rows, sizes", [(7, [4, 3]), (9, [1, 5, 3]), (11, [2, 2, 2, 5])])
@pytest.mark.parametrize("kind", ["labels", "numbers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uneven_pieces(student, device, rows, sizes, kind, dtype):
    """With pieces of different sizes, given by any iterable, p.grad should still be the gradient
    of the mean over all examples."""
    parameters, x, y, expected = network_case(rows, kind, device, dtype)
    got, _, _ = student.run(accumulate, parameters, x, y, sizes, kind, True, False)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    assert_close(got, expected, "the gradients", **tolerance)


@pytest.mark.exercise("accumulate", points=3)
@pytest.mark.parametrize("sizes", [[3, 2], [5]])
def test_starts_from_zero(student, device, sizes):
    """Gradients that were there before the call should not count."""
    parameters, x, y, expected = network_case(5, "numbers", device, torch.float64)
    got, _, _ = student.run(accumulate, parameters, x, y, sizes, "numbers", False, True)
    assert_close(got, expected, "the gradients")


@probe
def order_of_events(student, sizes):
    net = nn.Linear(3, 2)
    x, y = torch.ones(sum(sizes), 3), torch.ones(sum(sizes), 2)
    events = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: events.append("save") or t, lambda t: events.append("use") or t
    )
    with hooks:
        student.accumulate_grads(net, F.mse_loss, list(zip(x.split(sizes), y.split(sizes))), len(x))
    pairs = zip(events, events[1:])
    return sum(a == "use" and b == "save" for a, b in pairs), "use" in events


@pytest.mark.exercise("accumulate", points=3)
@pytest.mark.parametrize("sizes", [[2, 1], [1, 3, 2, 2]])
def test_one_graph_at_a_time(student, sizes):
    """Each piece's backward should come before the next piece's forward, so that only one graph
    is in memory."""
    turns, used = student.run(order_of_events, sizes)
    assert_true(used, "There was no backward at all.")
    assert_equal(turns, len(sizes) - 1, "the number of times a forward follows a backward")


@probe
def accumulate_frozen(student, training):
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 1)).train(training)
    net[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y = torch.ones(3, 3), torch.ones(3, 1)
    batches = list(zip(x.split([2, 1]), y.split([2, 1])))
    result = student.accumulate_grads(net, F.mse_loss, batches, 3)
    same = all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    modes = [module.training for module in net.modules()]
    return same, modes, net[0].weight.grad, net[0].weight.requires_grad, result


@pytest.mark.exercise("accumulate", points=2)
@pytest.mark.parametrize("training", [True, False])
def test_only_gradients_change(student, training):
    """Parameters, modes and frozen parameters should stay as they are; nothing is returned."""
    same, modes, frozen, required, result = student.run(accumulate_frozen, training)
    assert_true(same, "The parameters were changed; only gradients should be.")
    assert_equal(modes, [training] * 4, "the training flags of the modules")
    assert_true(frozen is None and not required, "A frozen parameter should get no gradient.")
    assert_true(result is None, "accumulate_grads should return None.")


# --- step ------------------------------------------------------------------------------------


@probe
def step(student, values, grads, lr, as_iterator):
    params = [value.clone().requires_grad_() for value in values]
    for p, grad in zip(params, grads):
        p.grad = None if grad is None else grad.clone()
    result = student.sgd_step(iter(params) if as_iterator else params, lr)
    return [p.detach() for p in params], [p.grad for p in params], result


@pytest.mark.exercise("step", points=3)
@pytest.mark.parametrize("shapes", [[(3,)], [(2, 5), (5,), ()], [(1, 1, 4)]])
@pytest.mark.parametrize("lr", [0.1, 2.5, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_value(student, device, shapes, lr, dtype):
    """Each parameter should become p - lr * p.grad, for any iterable of parameters; p.grad stays."""
    values = [normal(s, device=device, dtype=dtype) for s in shapes]
    grads = [normal(s, device=device, dtype=dtype) for s in shapes]
    got, left, result = student.run(step, values, grads, lr, True)
    assert_close(got, [p - lr * g for p, g in zip(values, grads, strict=True)], "the parameters")
    assert_close(left, grads, "p.grad after the step")
    assert_true(result is None, "sgd_step should return None.")


@probe
def step_identity(student, required):
    model = nn.Linear(3, 2)
    params = list(model.parameters())
    for p in params:
        p.requires_grad_(required)
        p.grad = torch.ones_like(p)
    before = [(id(p), p.data_ptr()) for p in params]
    values = [p.detach().clone() for p in params]
    student.sgd_step(model.parameters(), 0.5)
    after = list(model.parameters())
    return {
        "same tensor": all(id(p) == b[0] for p, b in zip(after, before)),
        "same memory": all(p.data_ptr() == b[1] for p, b in zip(after, before)),
        "leaf": all(p.is_leaf and p.grad_fn is None for p in after),
        "requires grad": [p.requires_grad for p in after],
        "moved": all(torch.equal(p.detach(), v - 0.5) for p, v in zip(after, values)),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.exercise("step", points=4)
@pytest.mark.parametrize("required", [True, False])
def test_step_in_place(student, required):
    """A module's parameters should move, and be the same leaf tensors in the same memory."""
    state = student.run(step_identity, required)
    assert_true(state["moved"], "The module's parameters did not move by -lr * p.grad.")
    assert_true(state["same tensor"], "A parameter was replaced by another tensor.")
    assert_true(state["same memory"], "A parameter moved to another place in memory.")
    assert_true(state["leaf"], "A parameter is no leaf any more.")
    assert_equal(state["requires grad"], [required] * 2, "requires_grad after the step")
    assert_true(state["grad mode"], "Grad mode should be on again after the step.")


@pytest.mark.exercise("step", points=2)
@pytest.mark.parametrize("missing", [[0], [1], [2], [0, 1, 2]])
def test_step_without_gradient(student, device, missing):
    """A parameter whose gradient is None should be skipped, and the others updated."""
    values = [randn(n + 1, device=device) for n in range(3)]
    grads = [None if n in missing else randn(n + 1, device=device) for n in range(3)]
    got, left, _ = student.run(step, values, grads, 0.3, False)
    expected = [p if g is None else p - 0.3 * g for p, g in zip(values, grads, strict=True)]
    assert_close(got, expected, "the parameters")
    assert_equal(
        [g is None for g in left],
        [n in missing for n in range(3)],
        "which gradients are None afterwards",
    )


@probe
def step_negative(student, lr):
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    try:
        student.sgd_step([w], lr)
        raised = "no error"
    except ValueError:
        raised = "ValueError"
    return raised, w.detach()


@pytest.mark.exercise("step", points=3)
@pytest.mark.parametrize("lr", [-0.1, -1e-12, -3])
def test_step_negative_rate(student, lr):
    """A negative learning rate should raise ValueError, and change nothing."""
    raised, w = student.run(step_negative, lr)
    assert_equal(raised, "ValueError", f"what sgd_step with lr = {lr} raised")
    assert_close(w, torch.ones(3), "the parameter after the error")


@probe
def backward_after_step(student):
    w = torch.tensor([3.0], requires_grad=True)
    loss = (w**2).sum()  # saves w
    w.grad = torch.ones(1)
    student.sgd_step([w], 1.0)
    moved = w.item()
    try:
        loss.backward()
    except RuntimeError:
        return moved, "RuntimeError"
    return moved, f"no error, and the gradient {w.grad.item() - 1:g} in place of 6"


@pytest.mark.exercise("step", points=3)
def test_step_is_visible(student):
    """A backward over a graph from before the step that needs the old value should raise an error."""
    moved, outcome = student.run(backward_after_step)
    assert_close(moved, 2.0, "the parameter")
    assert_equal(outcome, "RuntimeError", "what backward gave")


# --- function --------------------------------------------------------------------------------


@pytest.mark.exercise("function", points=3)
@pytest.mark.parametrize("shape", [(7,), (1,), (), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swish_value(student, device, shape, dtype):
    """`swish(x)` should be x * sigmoid(x), for any shape and type; x stays as it is."""
    x = 3 * normal(shape, device=device, dtype=dtype)
    with unchanged(x):
        got = student.swish(x)
    assert_close(got.detach(), F.silu(x))


@pytest.mark.exercise("function", points=4)
@pytest.mark.parametrize("shape", [(9,), (1,), (), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swish_gradient(student, device, shape, dtype):
    """The gradient should be that of x * sigmoid(x), weighted by the gradient that arrives, in
    the type of x; also for large positive and negative x."""
    x = 3 * normal(shape, device=device, dtype=dtype)
    if x.numel() > 4:
        x.flatten()[:4] = torch.tensor([800.0, -800.0, 0.0, -20.0])
    dy = normal(shape, device=device, dtype=dtype)
    grads = []
    for f in (student.swish, F.silu):
        leaf = x.clone().requires_grad_()
        out = f(leaf)
        assert_true(out.requires_grad, "The result of swish should require grad if x does.")
        grads.append(torch.autograd.grad(out, leaf, grad_outputs=dy)[0])
    assert_close(grads[0], grads[1], "the gradient")


@pytest.mark.exercise("function", points=4)
@pytest.mark.parametrize("shape", [(3,), (1, 2), (2, 2)])
def test_swish_gradcheck(student, device, shape):
    """First and second derivatives should agree with finite differences in float64."""
    x = randn(*shape, device=device, requires_grad=True)
    assert_gradcheck(student.swish, x)
    assert_gradgradcheck(student.swish, x)


@probe
def swish_node(student, x):
    x.requires_grad_()
    node = student.swish(x).grad_fn
    pending, found = [node], None
    while pending and found is None:
        node = pending.pop()
        if node is None:
            continue
        if type(node).__name__ == "SwishBackward":
            found = node
        pending += [parent for parent, _ in node.next_functions]
    if found is None:
        return None

    def holds_tensor(value):
        if isinstance(value, (list, tuple)):
            return any(holds_tensor(v) for v in value)
        if isinstance(value, dict):
            return any(holds_tensor(v) for v in value.values())
        return isinstance(value, torch.Tensor)

    return [name for name, value in vars(found).items() if holds_tensor(value)]


@pytest.mark.exercise("function", points=2)
def test_swish_saves_properly(student, device):
    """Tensors for backward should be kept by ctx.save_for_backward, not as attributes of ctx."""
    attributes = student.run(swish_node, randn(3, device=device))
    assert_true(attributes is not None, "swish should go through Swish.apply.")
    assert_equal(attributes, [], "the attributes of ctx that hold tensors")


@probe
def swish_apply(student, x):
    x.requires_grad_()
    y = student.Swish.apply(x)
    return y.detach(), type(y.grad_fn).__name__, type(y.grad_fn.next_functions[0][0]).__name__


@pytest.mark.exercise("function", points=2)
def test_swish_is_one_operation(student, device):
    """`Swish.apply` should be a single operation of the graph, between the result and x."""
    x = randn(4, device=device)
    y, node, parent = student.run(swish_apply, x.clone())
    assert_close(y, F.silu(x))
    assert_equal((node, parent), ("SwishBackward", "AccumulateGrad"), "the graph of Swish.apply(x)")


# --- hvp -------------------------------------------------------------------------------------


@probe
def quartic(x):
    return (x**4).sum() + (x * x.roll(1)).sum()


@probe
def bowl(x):
    return 0.5 * (x.flatten() ** 2).sum() + x.flatten().prod()


@probe
def log_sum_exp(x):
    return torch.logsumexp(x.flatten(), 0)


@probe
def mixed(x):
    return torch.sin(x.flatten()[0]) * x.sum() + torch.tanh(x).sum()


SCALARS = [quartic, bowl, log_sum_exp, mixed]


def reference_hvp(f, x, v):
    return torch.autograd.functional.hvp(f, x, v)[1]


@pytest.mark.exercise("hvp", points=6)
@pytest.mark.parametrize("f", SCALARS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_hvp_matches_library(student, device, f, size):
    """`hvp` should equal torch.autograd.functional.hvp for vectors."""
    x, v = randn(size, device=device), randn(size, device=device)
    assert_close(student.hvp(f, x, v).detach(), reference_hvp(f, x, v))


@pytest.mark.exercise("hvp", points=3)
@pytest.mark.parametrize("f", SCALARS)
def test_hvp_symmetric(student, device, f):
    """H is symmetric, u·Hv = v·Hu, and the product is linear in v."""
    x, u, v = (randn(4, device=device) for _ in range(3))
    hv, hu = student.hvp(f, x, v).detach(), student.hvp(f, x, u).detach()
    assert_close(u @ hv, v @ hu, "u·Hv")
    assert_close(student.hvp(f, x, 2 * v - 3 * u).detach(), 2 * hv - 3 * hu, "H(2v - 3u)")
    assert_close((u @ hv), u @ reference_hvp(f, x, v), "u·Hv")


@pytest.mark.exercise("hvp", points=3)
@pytest.mark.parametrize("f", SCALARS)
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 2), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hvp_shapes(student, device, f, shape, dtype):
    """`hvp` should return a tensor of x's shape and type, for x of any shape."""
    x = normal(shape, device=device, dtype=dtype)
    v = normal(shape, device=device, dtype=dtype)
    if shape == () and f is quartic:  # roll needs an axis
        f = bowl
    assert_close(student.hvp(f, x, v).detach(), reference_hvp(f, x, v))


@probe
def weighted_sum(x):
    return (x * torch.arange(x.numel(), dtype=x.dtype, device=x.device)).sum() - 4


@probe
def only_first(x):
    return x[0] ** 3 + 5 * x[1:].sum()


@probe
def with_parameter(x):
    scale = torch.full_like(x, 1.5).requires_grad_()
    return (scale * x).sum()


@probe
def piecewise(x):
    return x.relu().sum()


@pytest.mark.exercise("hvp", points=4)
@pytest.mark.parametrize(
    "f, factor", [(weighted_sum, 0.0), (only_first, 6.0), (with_parameter, 0.0), (piecewise, 0.0)]
)
@pytest.mark.parametrize("size", [1, 3])
def test_hvp_without_second_order(student, device, f, factor, size):
    """Where f has no second-order term, `hvp` should give zeros of x's shape, and no error: also
    if f is linear in x with weights that require grad."""
    x, v = randn(size, device=device), randn(size, device=device)
    expected = torch.zeros_like(x)
    expected[0] = factor * x[0] * v[0]
    assert_close(student.hvp(f, x, v).detach(), expected)


@pytest.mark.exercise("hvp", points=2)
@pytest.mark.parametrize("wrong", [(4,), (1,), (), (3, 1), (1, 3)])
@pytest.mark.parametrize("f", [quartic, weighted_sum])
def test_hvp_wrong_shape(student, device, wrong, f):
    """`hvp` should raise ValueError if v's shape is not x's, even if it would broadcast."""
    x, v = randn(3, device=device), normal(wrong, device=device)
    with raises(ValueError):
        student.hvp(f, x, v)


@probe
def hvp_of_fresh(student, x, v):
    student.hvp(lambda t: (t**3).sum(), x, v)
    return not x.requires_grad, x.grad is None


@probe
def hvp_of_used(student, x, v):
    x.requires_grad_()
    (x**2).sum().backward()
    before = x.grad.clone()
    got = student.hvp(lambda t: (t**3).sum(), x, v)
    return got.detach(), torch.equal(before, x.grad), x.requires_grad and x.is_leaf


@pytest.mark.exercise("hvp", points=2)
def test_hvp_leaves_x_alone(student, device):
    """`hvp` should leave x, its requires_grad and its .grad as they were."""
    x, v = randn(4, device=device), randn(4, device=device)
    with unchanged(x, v):
        student.hvp(quartic, x, v)
    plain, empty = student.run(hvp_of_fresh, x.detach().clone(), v)
    assert_true(plain, "x did not require grad before the call, and does now.")
    assert_true(empty, "x.grad should still be None.")
    got, same, leaf = student.run(hvp_of_used, x, v)
    assert_close(got, 6 * x.detach() * v)
    assert_true(same, "x.grad should hold what it held before the call.")
    assert_true(leaf, "x should still be a leaf that requires grad.")


# --- engine ----------------------------------------------------------------------------------


@probe
def one_operation(student, operation, a, b):
    x, y = student.Value(a), student.Value(b)
    z = {
        "x + y": lambda: x + y,
        "x * y": lambda: x * y,
        "x + b": lambda: x + b,
        "x * b": lambda: x * b,
        "b + x": lambda: b + x,
        "b * x": lambda: b * x,
        "x.exp()": lambda: x.exp(),
        "x.tanh()": lambda: x.tanh(),
        "x.relu()": lambda: x.relu(),
    }[operation]()
    z.backward()
    return [z.data, x.grad, y.grad]


def local(operation, a, b):
    """Value, and derivatives with respect to x and y; b is a plain number in some."""
    return {
        "x + y": [a + b, 1.0, 1.0],
        "x * y": [a * b, b, a],
        "x + b": [a + b, 1.0, 0.0],
        "x * b": [a * b, b, 0.0],
        "b + x": [a + b, 1.0, 0.0],
        "b * x": [a * b, b, 0.0],
        "x.exp()": [math.exp(a), math.exp(a), 0.0],
        "x.tanh()": [math.tanh(a), 1 - math.tanh(a) ** 2, 0.0],
        "x.relu()": [max(a, 0.0), 1.0 if a > 0 else 0.0, 0.0],
    }[operation]


@pytest.mark.exercise("engine", points=2)
@pytest.mark.parametrize(
    "operation",
    ["x + y", "x * y", "x + b", "x * b", "b + x", "b * x", "x.exp()", "x.tanh()", "x.relu()"],
)
@pytest.mark.parametrize("a, b", [(1.7, -0.4), (-0.6, 3), (0.0, 2.0)])
def test_operations(student, operation, a, b):
    """Each operation should give the right value and derivatives, with plain numbers on either
    side too."""
    got = student.run(one_operation, operation, a, b)
    assert_close(got, local(operation, a, b), f"[value, x.grad, y.grad] of {operation}")


@probe
def expression(student, leaves, program):
    nodes = [student.Value(v) for v in leaves]
    for name, i, j in program:
        a, b = nodes[i], nodes[j]
        nodes.append(
            a + b
            if name == "+"
            else a * b
            if name == "*"
            else a * 0.5
            if name == "half"
            else getattr(a, name)()
        )
    nodes[-1].backward()
    return [nodes[-1].data] + [node.grad for node in nodes[: len(leaves)]]


def random_program(seed, leaves=4, length=16):
    """A random expression graph: (operation, index, index), most nodes used several times."""
    random = torch.Generator().manual_seed(1000 + seed)
    names = ["+", "*", "tanh", "exp", "relu", "half", "+", "*"]
    program = []
    for step in range(length):
        known = leaves + step
        name = names[int(torch.randint(len(names), (), generator=random))]
        i, j = torch.randint(max(0, known - 5), known, (2,), generator=random).tolist()
        program.append((name, i, j))
        if name in ("exp", "*"):  # keep the numbers small
            program.append(("tanh", leaves + len(program) - 1, 0))
    known = leaves + len(program)
    for i in range(leaves):  # every leaf counts, with ways of different lengths
        program.append(("*", i, known - 1 + i))
    return program


def torch_expression(leaves, program):
    nodes = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in leaves]
    inputs = list(nodes)
    for name, i, j in program:
        a, b = nodes[i], nodes[j]
        nodes.append(
            a + b
            if name == "+"
            else a * b
            if name == "*"
            else a * 0.5
            if name == "half"
            else getattr(a, name)()
        )
    grads = torch.autograd.grad(nodes[-1], inputs, allow_unused=True)
    return [nodes[-1].item()] + [0.0 if g is None else g.item() for g in grads]


@pytest.mark.exercise("engine", points=4)
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(student, seed):
    """On random expressions, with nodes used several times, value and gradients should equal
    torch's."""
    leaves, program = randn(4).tolist(), random_program(seed)
    got = student.run(expression, leaves, program)
    assert_close(got, torch_expression(leaves, program), "[value, gradients]")


@probe
def doubling_cost(student, depth):
    import sys

    def lines(shared):
        """How many lines of Python `backward` executes; a clock would depend on the machine."""
        x = student.Value(1.0)
        y = x
        for _ in range(depth):
            y = y + (y if shared else 0.5)
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            y.backward()
        finally:
            sys.settrace(before)
        return count, x.grad

    (chain, _), (doubled, grad) = lines(False), lines(True)
    return grad, doubled / chain


@pytest.mark.exercise("engine", points=2)
def test_each_node_once(student):
    """For y = x doubled 15 times, dy/dx is 32768, and `backward` should visit 16 nodes, not
    every one of the 32768 ways."""
    grad, ratio = student.run(doubling_cost, 15)
    assert_close(grad, 2.0**15, "x.grad")
    assert_true(ratio < 20, "`backward` takes thousands of times longer where nodes are shared.")


@probe
def deep_chain(student, depth):
    x, w = student.Value(1.0), student.Value(1.0)
    y = x
    for i in range(depth):
        y = y * w if i % 3 == 0 else y + 0.0 * x if i % 3 == 1 else y.relu()
    y.backward()
    return [y.data, x.grad, w.grad]


@pytest.mark.exercise("engine", points=3)
@pytest.mark.parametrize("depth", [3, 3000])
def test_deep_chain(student, depth):
    """`backward` should work for a chain of thousands of nodes."""
    got = student.run(deep_chain, depth)
    assert_close(got, [1.0, 1.0, depth / 3], "[y, dy/dx, dy/dw]")


@probe
def backward_twice(student):
    x = student.Value(0.5)
    inner = x * x
    y = (inner + x).tanh() * inner
    y.backward()
    once = x.grad
    y.backward()
    twice = x.grad
    inner.backward()
    return [once, twice, x.grad]


@pytest.mark.exercise("engine", points=1)
def test_backward_adds(student):
    """A second `backward` should add the same gradients once more, and one from another node its
    own."""
    x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((x * x + x).tanh() * x * x, x)
    g = g.item()
    assert_close(student.run(backward_twice), [g, 2 * g, 2 * g + 1], "x.grad after each call")


@probe
def surface(x):
    return (x[0] * x[1] + x[0].exp()).tanh() + x[1].relu() * x[0] * 2


@probe
def reuse(x):
    total = 0.5
    for a in x:
        total = a * total + a
    return total


@probe
def shallow(x):
    return x[0] * x[0] + 3 * x[-1]


@pytest.mark.exercise("engine", points=3)
@pytest.mark.parametrize("f, size", [(surface, 2), (reuse, 1), (reuse, 5), (shallow, 3)])
def test_directional(student, f, size):
    """`directional` should equal gradient · v for any v, and be largest along the gradient."""
    x = (0.5 * randn(size)).tolist()
    leaves = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in x]
    grads = torch.autograd.grad(f(leaves), leaves, allow_unused=True)
    gradient = torch.stack(
        [torch.zeros((), dtype=torch.float64) if g is None else g for g in grads]
    )
    for _ in range(3):
        v = 2 * randn(size)
        assert_close(
            student.directional(f, x, v.tolist()), (gradient @ v).item(), "directional(f, x, v)"
        )
    steepest = student.directional(f, x, (gradient / gradient.norm()).tolist())
    assert_close(steepest, gradient.norm().item(), "the slope along the gradient")
