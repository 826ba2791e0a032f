"""Hidden tests of the chapter on hooks, CAM and TensorBoard."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import make_grid

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)

# --- models ----------------------------------------------------------------------------------


def dense_net(device, *, frozen=False):
    """Linear layers with different widths; float64."""
    net = nn.Sequential(
        OrderedDict(
            first=nn.Linear(5, 7),
            act=nn.Tanh(),
            middle=nn.Sequential(nn.Linear(7, 4), nn.Sigmoid()),
            last=nn.Linear(4, 3),
        )
    )
    return filled(net, device, frozen)


def conv_net(device, *, inplace=False, norm=False, gap=False, frozen=False):
    """Two convolutions for images of 2 x 6 x 8 pixels, three classes; float64."""
    layers = OrderedDict(conv1=nn.Conv2d(2, 4, 3, padding=1))
    if norm:
        layers["bn"] = nn.BatchNorm2d(4)
    layers["act1"] = nn.ReLU(inplace=inplace)
    layers["pool"] = nn.MaxPool2d(2)
    layers["block"] = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(4, 5, (2, 1)), act=nn.ReLU(inplace=inplace))
    )
    if gap:
        layers["gap"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["head"] = nn.Linear(5 if gap else 5 * 2 * 4, 3)
    return filled(nn.Sequential(layers), device, frozen)


def filled(net, device, frozen):
    """Weights, and running statistics, from the generator of the tests."""
    net.to(device, torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(randn(*p.shape, device=device) * 0.6)
            p.requires_grad_(not frozen)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(randn(4, device=device))
                module.running_var.copy_(rand(4, device=device) + 0.5)
    return net


# --- tensor ----------------------------------------------------------------------------------


@probe
def clipped(student, c, limit, leaf, remove):
    """Gradient of x for sum(c * h), h = 2x, with a clip on x or on h."""
    x = torch.zeros_like(c).requires_grad_()
    h = 2 * x
    handle = student.clip_grad_hook(x if leaf else h, limit)
    if remove:
        handle.remove()
    (c * h).sum().backward()
    first = x.grad.clone()
    x.grad = None
    (c * (2 * x)).sum().backward()
    return first, x.grad


@pytest.mark.exercise("tensor", points=2)
@pytest.mark.parametrize("leaf, limit", [(False, 1.5), (True, 0.3), (False, 0.25)])
def test_gradient_is_clipped(student, device, leaf, limit):
    """Every entry of the gradient should be clipped to [-limit, limit], in every backward pass."""
    c = torch.tensor([[-4.0, -0.1, 0.2], [0.7, 1.4, 9.0]], dtype=torch.float64, device=device)
    first, again = student.run(clipped, c, limit, leaf, False)
    expected = (2 * c).clamp(-limit, limit) if leaf else 2 * c.clamp(-limit, limit)
    norm = c / c.norm() * limit
    assert_close(
        first,
        expected,
        "the gradient of x",
        symptoms={
            "The norm of the gradient is limited; limit every entry.": norm if leaf else 2 * norm,
            "Only large positive entries are clipped.": (
                (2 * c).clamp(max=limit) if leaf else 2 * c.clamp(max=limit)
            ),
            "The gradient is not clipped.": 2 * c,
        },
    )
    assert_close(again, expected if leaf else 2 * c, "the gradient of x in a second pass")


@pytest.mark.exercise("tensor", points=2)
@pytest.mark.parametrize("leaf", [False, True])
def test_clip_can_be_removed(student, device, leaf):
    """After `remove` of the returned handle the gradient should be whole again."""
    c = torch.tensor([-3.0, 0.5, 8.0], dtype=torch.float64, device=device)
    first, _ = student.run(clipped, c, 1.0, leaf, True)
    assert_close(first, 2 * c, "the gradient of x")


@probe
def clip_one_of_two(student, c, clip_first):
    a = torch.zeros_like(c).requires_grad_()
    b = torch.zeros_like(c).requires_grad_()
    if clip_first:  # autograd goes back in the opposite order
        left, right = a * 1, b * 1
    else:
        right, left = b * 1, a * 1
    student.clip_grad_hook(left, 1.0)
    ((left + right) * c).sum().backward()
    return a.grad, b.grad


@pytest.mark.exercise("tensor", points=2)
@pytest.mark.parametrize("clip_first", [False, True])
def test_neighbour_is_not_clipped(student, device, clip_first):
    """For z = a + b, clipping the gradient of a should leave the gradient of b alone."""
    c = torch.tensor([-3.0, 0.5, 8.0], dtype=torch.float64, device=device)
    ga, gb = student.run(clip_one_of_two, c, clip_first)
    assert_close(
        gb,
        c,
        "the gradient of b",
        symptoms={
            "The gradient was changed in place, and b's is the same tensor.": c.clamp(-1, 1),
        },
    )
    assert_close(ga, c.clamp(-1, 1), "the gradient of a")


@pytest.mark.exercise("tensor", points=1)
@pytest.mark.parametrize("limit", [0, -0.5])
def test_limit_is_positive(student, limit):
    """clip_grad_hook should raise a ValueError for a limit that is not positive."""
    with raises(ValueError):
        student.clip_grad_hook(randn(3, requires_grad=True), limit)


@probe
def catch(student, x, w):
    """Gradients of a chain, of a tensor that is used twice, and of one that is not used."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    h = torch.tanh(x @ w)
    g = h.exp()
    unused = 3 * x

    def f(h, x, g, unused):
        return (h * g).sum() + x.pow(2).sum() + h.sum()

    got = student.grads_of(f, [h, x, g, unused])
    return [None if t is None else t.detach() for t in got]


@pytest.mark.exercise("tensor", points=2)
def test_caught_gradients(student, device):
    """grads_of should return what autograd finds for each tensor, leaf or not, None if unused."""
    x, w = randn(4, 3, device=device), randn(3, 5, device=device)
    got = student.run(catch, x, w)
    a = x.clone().requires_grad_()
    h = torch.tanh(a @ w)
    g = h.exp()
    expected = list(torch.autograd.grad((h * g).sum() + a.pow(2).sum() + h.sum(), [h, a, g]))
    assert_close(got, [*expected, None], "the gradients")


@probe
def leaves_no_trace(student, c, fail):
    x = c.clone().requires_grad_()
    h = x * 2

    def f(h, x):
        if fail:
            raise ArithmeticError("on purpose")
        return (h * c).sum() + (x * x).sum()

    error, got = "", []
    try:
        got = student.grads_of(f, [h, x])
    except ArithmeticError as raised:
        error = str(raised)
    hooks = len(h._backward_hooks or {}) + len(x._backward_hooks or {})
    return hooks, error, h.retains_grad, [t.detach() for t in got]


@pytest.mark.exercise("tensor", points=1)
@pytest.mark.parametrize("fail", [False, True])
def test_no_trace(student, device, fail):
    """grads_of should leave no hook and no kept gradient; an error of f should come through."""
    c = torch.tensor([1.0, -2.0], dtype=torch.float64, device=device)
    hooks, error, retains, got = student.run(leaves_no_trace, c, fail)
    assert_equal(hooks, 0, "the number of hooks left")
    assert_equal(error, "on purpose" if fail else "", "the message of f's error")
    assert_equal(retains, False, "`retains_grad` of the intermediate tensor")
    assert_close(got, [] if fail else [c, 4 * c], "the gradients")


# --- features --------------------------------------------------------------------------------


@probe
def collect(student, model, names, x):
    with student.Features(model, names) as features:
        return {name: value.detach().clone() for name, value in features(x).items()}


@pytest.mark.exercise("features", points=4)
@pytest.mark.parametrize(
    "names",
    [["conv1"], ["block.conv", "act1"], ["head", "pool", "block", "flat"], ["block.act"]],
)
def test_same_as_by_hand(student, device, names):
    """Each kept tensor should be what its layer returns when the layers are called by hand."""
    model, x = conv_net(device), randn(3, 2, 6, 8, device=device)
    by_hand, y = {}, x
    for name, layer in model.named_children():
        if name == "block":
            by_hand["block.conv"] = layer.conv(y)
            by_hand["block.act"] = F.relu(by_hand["block.conv"])
        y = by_hand[name] = layer(y)
    got = student.run(collect, model, names, x)
    assert_close(got, {name: by_hand[name].detach() for name in names}, "the features")


@probe
def count_hooks(student, model, x, where):
    """Hooks before, inside and after a with block, maybe left by an error."""

    def count():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    calls = []
    mine = model.first.register_forward_hook(lambda module, args, out: calls.append(1))
    counts, error = [count()], ""
    try:
        with student.Features(model, ["first", "middle.0", "last"]) as features:
            features(x)
            counts.append(count())
            if where == "block":
                raise ArithmeticError("on purpose")
            if where == "model":
                features(x[:, :2])
    except NotImplementedError:
        raise
    except Exception as raised:
        error = type(raised).__name__
    counts.append(count())
    before = len(calls)
    model(x)
    mine.remove()
    return counts, error, len(calls) - before


@pytest.mark.exercise("features", points=3)
@pytest.mark.parametrize("where", ["nowhere", "block", "model"])
def test_hooks_are_gone(student, device, where):
    """Three hooks should be there within the block, none after it, and other hooks should stay."""
    counts, error, calls = student.run(
        count_hooks, dense_net(device), randn(2, 5, device=device), where
    )
    errors = {"nowhere": "", "block": "ArithmeticError", "model": "RuntimeError"}
    assert_equal(error, errors[where], "the error that comes out of the block")
    assert_close(
        list(counts),
        [1, 4, 1],
        "the numbers of hooks before, within and after the block (one is not yours)",
        symptoms={
            "Your hooks stay behind.": [1, 4, 4],
            "The hooks of others were removed as well.": [1, 4, 0],
        },
    )
    assert_equal(calls, 1, "the calls of the hook that is not yours")


@probe
def unknown_layer(student, model, names):
    """The kind of the error, whether it names the layer, and the hooks left."""
    error, text = "none", ""
    try:
        with student.Features(model, names):
            pass
    except NotImplementedError:
        raise
    except Exception as raised:
        error, text = type(raised).__name__, str(raised)
    return error, names[-1] in text, sum(len(m._forward_hooks) for m in model.modules())


@pytest.mark.exercise("features", points=2)
@pytest.mark.parametrize("names", [["convolution"], ["first", "middle.7"]])
def test_unknown_name(student, device, names):
    """A name that the model does not have should raise a KeyError, and leave no hook."""
    error, named, left = student.run(unknown_layer, dense_net(device), names)
    assert_equal(error, "KeyError", "the kind of the error")
    assert_equal(named, True, "whether the message has the name")
    assert_equal(left, 0, "the number of hooks left")


@probe
def keep_before_inplace(student, model, x):
    """Features before and behind a layer that works in place, and the gradient between them."""
    with student.Features(model, ["conv1", "head"]) as features:
        kept = features(x)
    grad = torch.autograd.grad(kept["head"].square().sum(), kept["conv1"], allow_unused=True)[0]
    return kept["conv1"].detach(), None if grad is None else grad.detach()


@pytest.mark.exercise("features", points=3)
def test_layers_in_place(student, device):
    """A kept tensor should hold what the layer returned, and lie on the way to the output."""
    model, x = conv_net(device, inplace=True), randn(2, 2, 6, 8, device=device)
    maps = model.conv1(x).detach().requires_grad_()
    out = model[2:](F.relu(maps))
    (grad,) = torch.autograd.grad(out.square().sum(), maps)
    value, got = student.run(keep_before_inplace, model, x)
    assert_close(
        value,
        maps.detach(),
        "what `conv1` returned",
        symptoms={
            "The ReLU behind it has written into the tensor that you kept.": maps.detach().relu()
        },
    )
    where = "beside the way to the output" if got is None else "on the way to the output"
    assert_equal(where, "on the way to the output", "the place of the kept tensor")
    assert_close(got, grad, "the gradient with respect to what `conv1` returned")


@probe
def call_twice(student, model, a, b):
    model.train()
    with student.Features(model, ["last"]) as features:
        one, two = features(a), features(b)
        same = one["last"].shape == two["last"].shape
        first, second = one["last"].detach().clone(), two["last"].detach().clone()
    return first, second, same, model.training


@pytest.mark.exercise("features", points=2)
def test_each_call_is_new(student, device):
    """A second call should leave the first call's dict alone, and the model in train mode."""
    model = dense_net(device)
    a, b = randn(1, 5, device=device), randn(4, 5, device=device)
    first, second, same, training = student.run(call_twice, model, a, b)
    assert_close(first, model(a).detach(), "the first call's features")
    assert_close(second, model(b).detach(), "the second call's features")
    assert_equal([same, training], [False, True], "equal shapes, and the model's `training`")


@probe
def call_outside(student, model, x, entered):
    features = student.Features(model, ["first"])
    if entered:
        with features:
            features(x)
    try:
        features(x)
    except NotImplementedError:
        raise
    except Exception as raised:
        return type(raised).__name__
    return "no error"


@pytest.mark.exercise("features", points=1)
@pytest.mark.parametrize("entered", [False, True])
def test_outside_of_the_block(student, device, entered):
    """A call before or after the `with` block should raise a RuntimeError."""
    got = student.run(call_outside, dense_net(device), randn(2, 5, device=device), entered)
    assert_equal(got, "RuntimeError", "the error")


# --- pre -------------------------------------------------------------------------------------


@probe
def cut(student, model, name, channels, x):
    """The output with some channels cut, and after the handle was removed."""
    handle = student.ablate(model, name, channels)
    with_cut = model(x).detach()
    handle.remove()
    return with_cut, model(x).detach()


@pytest.mark.exercise("pre", points=4)
@pytest.mark.parametrize("name, channels", [("conv1", [1]), ("block.conv", [0, 3]), ("head", [2])])
def test_ablation_equals_zero_weights(student, device, name, channels):
    """Cutting channels should do what zero weights and biases for them do, until removed."""
    model, x = conv_net(device), randn(3, 2, 6, 8, device=device)
    whole = model(x).detach()
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    layer = model.get_submodule(name)
    with torch.no_grad():
        layer.weight[channels] = 0
        layer.bias[channels] = 0
    expected = model(x).detach()
    model.load_state_dict(kept)
    got, after = student.run(cut, model, name, channels, x)
    assert_close(
        got,
        expected,
        "the output with cut channels",
        symptoms={"The output is the same as without cutting.": whole},
    )
    assert_close(after, whole, "the output after the handle was removed")


@probe
def cut_identity(student, x):
    """Cut a layer that returns its own input."""
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    handle = student.ablate(model, "0", [1])
    y = model(x).clone()
    handle.remove()
    return y, x.clone()


@pytest.mark.exercise("pre", points=2)
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 3), (2, 2, 4)])
def test_ablation_is_not_in_place(student, device, shape):
    """Where a layer returns its own input, cutting its output should not change that input."""
    x = randn(*shape, device=device, dtype=torch.float32)
    expected = x.clone()
    expected[:, 1] = 0
    y, after = student.run(cut_identity, x.clone())
    assert_close(y, expected.flatten(1), "the output")
    assert_close(
        after,
        x,
        "the input of the layer",
        symptoms={"The layer's output, which here is its input, was changed in place.": expected},
    )


@probe
def cut_twice(student, model, x, order):
    handles = [student.ablate(model, "conv1", [0]), student.ablate(model, "conv1", [2])]
    outputs = [model.conv1(x).detach()]
    for i in order:
        handles[i].remove()
        outputs.append(model.conv1(x).detach())
    model.zero_grad()
    handle = student.ablate(model, "conv1", [3])
    model(x).sum().backward()
    handle.remove()
    left = sum(len(m._forward_hooks) for m in model.modules())
    return outputs, model.conv1.weight.grad, left


@pytest.mark.exercise("pre", points=3)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_ablations(student, device, order):
    """Two ablations should add up, and end in any order; cut channels get no gradient."""
    model, x = conv_net(device), randn(2, 2, 6, 8, device=device)
    outputs, grad, left = student.run(cut_twice, model, x, order)
    whole = model.conv1(x).detach()
    expected, gone = [], {0, 2}
    for i in (None, *order):
        gone -= {{0: 0, 1: 2}.get(i)}
        y = whole.clone()
        y[:, sorted(gone)] = 0
        expected.append(y)
    assert_close(list(outputs), expected, "conv1's output after each removal")
    assert_close(grad[3], torch.zeros_like(grad[3]), "the gradient of the cut filter")
    y = model.conv1(x)
    mask = torch.ones(4, 1, 1, dtype=y.dtype, device=y.device)
    mask[3] = 0
    (expected_grad,) = torch.autograd.grad(model[1:](y * mask).sum(), model.conv1.weight)
    assert_close(grad, expected_grad, "the gradient of all filters")
    assert_equal(left, 0, "the number of hooks left")


@pytest.mark.exercise("pre", points=1)
def test_ablate_unknown(student, device):
    """ablate should raise a KeyError for a layer that the model does not have."""
    model = dense_net(device)
    with raises(KeyError):
        student.ablate(model, "middle.9", [0])


@probe
def normalized(student, model, x, mean, std):
    handle = student.normalize_input(model, mean, std)
    y = model(x).detach().clone()
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    if out.requires_grad:
        out.sum().backward()
    handle.remove()
    return y, model(x).detach().clone(), x.clone(), leaf.grad


@pytest.mark.exercise("pre", points=3)
@pytest.mark.parametrize(
    "shape, mean, std",
    [
        ((2, 3, 4, 5), [0.3, -1.0, 2.0], [0.2, 3.0, 0.7]),
        ((1, 1, 3, 3), [0.25], [4.0]),
        ((3, 2, 2, 3), (1.0, 2.0), (0.5, 0.25)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalized_input(student, device, shape, mean, std, dtype):
    """The model should see (x - mean) / std for each channel, in x's dtype, and x should stay."""
    x = randn(*shape, device=device, dtype=dtype)
    model = nn.Identity()
    m = torch.tensor(mean, dtype=dtype, device=device).view(-1, 1, 1)
    s = torch.tensor(std, dtype=dtype, device=device).view(-1, 1, 1)
    y, after, same, grad = student.run(normalized, model, x.clone(), list(mean), tuple(std))
    assert_close(
        y,
        (x - m) / s,
        "what the model sees",
        rtol=1e-12 if dtype == torch.float64 else None,
        atol=1e-12 if dtype == torch.float64 else None,
        symptoms={
            "It is multiplied by std; divide.": (x - m) * s,
            "Subtract the mean first, then divide.": x / s - m,
            "The mean is added; subtract it.": (x + m) / s,
            "The input is not normalised: does the hook return anything?": x,
        },
    )
    assert_close(after, x, "what the model sees after the handle was removed")
    assert_close(same, x, "x itself")
    assert_close(grad, (1 / s).expand_as(x), "the gradient of the sum with respect to x")


@probe
def normalize_nested(student, x, factor, twice):
    """A model with two inputs; maybe two normalisations, removed one by one."""

    class Scaled(nn.Module):
        def forward(self, x, factor):
            return x * factor

    model = Scaled()
    handles = [student.normalize_input(model, [1.0, 0.0], [2.0, 1.0])]
    if twice:
        handles.append(student.normalize_input(model, [0.0, 3.0], [1.0, 5.0]))
    outputs = [model(x, factor)]
    for handle in handles:
        handle.remove()
        outputs.append(model(x, factor))
    return outputs


@pytest.mark.exercise("pre", points=2)
@pytest.mark.parametrize("twice", [False, True])
def test_further_inputs_and_nesting(student, device, twice):
    """Further inputs should arrive unchanged; of two normalisations the first comes first."""
    x, factor = randn(2, 2, 3, 2, device=device), randn(2, 1, 3, 2, device=device)
    one = [
        torch.tensor(v, dtype=x.dtype, device=device).view(-1, 1, 1) for v in ([1, 0.0], [2.0, 1])
    ]
    two = [
        torch.tensor(v, dtype=x.dtype, device=device).view(-1, 1, 1) for v in ([0, 3.0], [1.0, 5])
    ]
    expected = [(x - one[0]) / one[1], x]
    if twice:
        expected = [((x - one[0]) / one[1] - two[0]) / two[1], (x - two[0]) / two[1], x]
    got = student.run(normalize_nested, x, factor, twice)
    assert_close(list(got), [e * factor for e in expected], "the outputs after each removal")


# --- backward --------------------------------------------------------------------------------


@probe
def flow(student, model, x, power):
    got = student.gradient_norms(model, lambda y: y.pow(power).mean(), x)
    kinds = {type(v).__name__ for pair in got.values() for v in pair}
    return [[name, [float(v) for v in pair]] for name, pair in got.items()], sorted(kinds)


def norms_by_hand(model, x, power):
    """The norms from autograd.grad on the inputs and outputs of all children."""
    states = [x.detach().clone().requires_grad_()]
    for child in model.children():
        states.append(child(states[-1]))
    grads = torch.autograd.grad(states[-1].pow(power).mean(), states)
    norms = [g.norm().item() for g in grads]
    names = [name for name, _ in model.named_children()]
    return [[n, [a, b]] for n, a, b in zip(names, norms, norms[1:], strict=False)]


@pytest.mark.exercise("backward", points=4)
@pytest.mark.parametrize("batch, power", [(4, 2), (1, 3)])
def test_norms_of_dense_layers(student, device, batch, power):
    """The norms should be those of autograd.grad on the children's inputs and outputs, in order."""
    model, x = dense_net(device), randn(batch, 5, device=device)
    expected = norms_by_hand(model, x, power)
    got, kinds = student.run(flow, model, x, power)
    assert_equal(list(kinds), ["float"], "the kind of the norms")
    assert_close(
        got,
        expected,
        "the report (name, [at the input, at the output])",
        symptoms={
            "Input and output are exchanged.": [[n, pair[::-1]] for n, pair in expected],
        },
    )


@pytest.mark.exercise("backward", points=3)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_of_conv_layers(student, device, frozen):
    """The norms should be right for convolutions, pooling and a block, also if all is frozen."""
    model, x = conv_net(device, frozen=frozen), randn(2, 2, 6, 8, device=device)
    got, _ = student.run(flow, model, x, 2)
    assert_close(got, norms_by_hand(model, x, 2), "the report")


@probe
def flow_of_several(student, weight, x):
    """A child whose forward has more than one operation."""

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return torch.sigmoid(x @ self.weight) * 3 + 1

    model = nn.Sequential(Several(), nn.Tanh(), Several())
    got = student.gradient_norms(model, lambda y: y[:, 0].sum(), x)
    return {name: [float(v) for v in pair] for name, pair in got.items()}


@pytest.mark.exercise("backward", points=3)
def test_modules_of_several_operations(student, device):
    """Where a module does several things, its input is the module's, not the last operation's."""
    weight, x = randn(3, 3, device=device), randn(4, 3, device=device)
    states = [x.clone().requires_grad_()]
    states.append(torch.sigmoid(states[0] @ weight) * 3 + 1)
    states.append(states[1].tanh())
    states.append(torch.sigmoid(states[2] @ weight) * 3 + 1)
    g = [t.norm().item() for t in torch.autograd.grad(states[3][:, 0].sum(), states)]
    expected = {"0": [g[0], g[1]], "1": [g[1], g[2]], "2": [g[2], g[3]]}
    got = student.run(flow_of_several, weight, x)
    got = {name: list(pair) for name, pair in got.items()}
    assert_close(got, expected, "the report")


@probe
def flow_leaves_no_trace(student, model, x, fail, needs_grad):
    """What is left: hooks, gradients of parameters and x, modes, the error."""
    model.train()
    model.act.eval()
    model.last.bias.grad = torch.ones_like(model.last.bias)
    x = x.clone().requires_grad_(needs_grad)

    def loss_fn(y):
        if fail:
            raise ArithmeticError("on purpose")
        return y.sum()

    error = ""
    try:
        student.gradient_norms(model, loss_fn, x)
    except NotImplementedError:
        raise
    except Exception as raised:
        error = type(raised).__name__
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    touched = [name for name, p in model.named_parameters() if p.grad is not None]
    same = bool((model.last.bias.grad == 1).all())
    modes = [model.training, model.act.training]
    return hooks, error, touched, same, x.grad is None, x.requires_grad, modes


@pytest.mark.exercise("backward", points=3)
@pytest.mark.parametrize("needs_grad", [False, True])
def test_model_is_left_alone(student, device, needs_grad):
    """Afterwards no hook should be left, every `.grad` and mode as before, and x as it was."""
    got = student.run(
        flow_leaves_no_trace, dense_net(device), randn(2, 5, device=device), False, needs_grad
    )
    hooks, error, touched, same, no_grad, requires, modes = got
    assert_equal(error, "", "the error")
    assert_equal(hooks, 0, "the number of hooks left")
    assert_equal(list(touched), ["last.bias"], "the parameters with a `.grad` (one had it before)")
    assert_equal(same, True, "whether that `.grad` is unchanged")
    assert_equal(no_grad, True, "whether `x.grad` is None")
    assert_equal(requires, needs_grad, "`x.requires_grad`")
    assert_equal(list(modes), [True, False], "the modes of the model and of `act`")


@pytest.mark.exercise("backward", points=2)
def test_report_after_an_error(student, device):
    """If loss_fn raises, its error should come through, and no hook be left."""
    hooks, error, *_ = student.run(
        flow_leaves_no_trace, dense_net(device), randn(2, 5, device=device), True, False
    )
    assert_equal(error, "ArithmeticError", "the error")
    assert_equal(hooks, 0, "the number of hooks left")


# --- cam -------------------------------------------------------------------------------------


def enlarged(heat, size):
    return F.interpolate(heat[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def cam_by_loops(features, weights, classes):
    heat = torch.zeros_like(features[:, 0])
    for n, c in enumerate(classes):
        for k in range(features.shape[1]):
            heat[n] += weights[c, k] * features[n, k]
    return heat


@pytest.mark.exercise("cam", points=4)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 6, 3, 2), (3, 1, 1, 4)])
def test_cam_is_a_weighted_sum(student, device, shape):
    """At the size of the maps, CAM should be the class's weighted sum of them, cut at zero."""
    features, weights = randn(*shape, device=device), randn(4, shape[1], device=device)
    with unchanged(features, weights):
        got = student.cam(features, weights, 2, shape[2:])
    signed = cam_by_loops(features, weights, [2] * shape[0])
    assert_close(
        got,
        signed.relu(),
        "the map",
        symptoms={
            "Negative evidence is to be cut off at zero.": signed,
            "The maps are averaged; CAM is their sum.": signed.relu() / shape[1],
        },
    )


@pytest.mark.exercise("cam", points=3)
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (3, 4), (12, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cam_is_enlarged(student, device, size, dtype):
    """CAM should be cut at zero and then enlarged bilinearly, with align_corners=False."""
    features = randn(2, 3, 3, 4, device=device, dtype=dtype)
    weights = randn(2, 3, device=device, dtype=dtype)
    signed = cam_by_loops(features, weights, [1, 1])
    assert_close(
        student.cam(features, weights, 1, size),
        enlarged(signed.relu(), size),
        "the map",
        symptoms={
            "Cut at zero first, then enlarge.": enlarged(signed, size).relu(),
            "It was enlarged with align_corners=True.": F.interpolate(
                signed.relu()[:, None], size=size, mode="bilinear", align_corners=True
            )[:, 0],
            "It was enlarged by repeating values.": F.interpolate(
                signed.relu()[:, None], size=size, mode="nearest"
            )[:, 0],
        },
    )


@pytest.mark.exercise("cam", points=2)
def test_a_class_for_each_image(student, device):
    """cam should take one class for all images, or a tensor with one for each."""
    features, weights = randn(4, 3, 2, 3, device=device), randn(5, 3, device=device)
    cls = torch.tensor([4, 0, 0, 2], device=device)
    expected = cam_by_loops(features, weights, cls.tolist()).relu()
    assert_close(student.cam(features, weights, cls, (2, 3)), expected, "the maps")
    one = cam_by_loops(features, weights, [4] * 4).relu()
    assert_close(student.cam(features, weights, 4, (2, 3)), one, "the maps for one class")
    assert_same_gradients(
        lambda f, w: student.cam(f, w, cls, (2, 3)),
        lambda f, w: (w[cls][:, :, None, None] * f).sum(1).relu(),
        features,
        weights,
        what="the gradient of the maps",
    )


def parts(model, layer):
    """The model up to a layer, and behind it, as two functions."""
    if layer == "block.conv":
        return (
            lambda x: model.block.conv(model[: len(model) - 3](x)),
            lambda m: model[len(model) - 2 :](F.relu(m)),
        )
    at = [name for name, _ in model.named_children()].index(layer) + 1
    return model[:at], model[at:]


def gradcam_by_hand(model, layer, x, classes):
    """Image by image, from the definition, at the size of the maps."""
    first, rest = parts(model, layer)
    heats, signed = [], []
    for image, c in zip(x, classes, strict=True):
        maps = first(image[None]).detach().requires_grad_()
        (grad,) = torch.autograd.grad(rest(maps)[0, c], maps)
        heat = sum(g.mean() * m for g, m in zip(grad[0], maps[0], strict=True)).detach()
        signed.append(heat)
        heats.append(heat.relu())
    return torch.stack(heats), torch.stack(signed)


@pytest.mark.exercise("cam", points=5)
@pytest.mark.parametrize(
    "layer, cls",
    [("conv1", 0), ("act1", 2), ("block.conv", 1), ("block", [2, 0, 1]), ("pool", [1, 1, 0])],
)
def test_gradcam_from_the_definition(student, device, layer, cls):
    """Grad-CAM should weight the maps by their mean gradients, at any layer, for any class."""
    model, x = conv_net(device).eval(), randn(3, 2, 6, 8, device=device)
    classes = [cls] * 3 if isinstance(cls, int) else cls
    heat, signed = gradcam_by_hand(model, layer, x, classes)
    wanted = cls if isinstance(cls, int) else torch.tensor(cls, device=device)
    with unchanged(x):
        got = student.gradcam(model, layer, x, wanted)
    cells = heat[0].numel()
    assert_close(
        got,
        enlarged(heat, (6, 8)),
        "the map",
        symptoms={
            "The gradients are summed over positions; take their mean.": enlarged(
                heat * cells, (6, 8)
            ),
            "The ReLU is missing.": enlarged(signed, (6, 8)),
            "The ReLU comes before enlarging.": enlarged(signed, (6, 8)).relu(),
            "The map has the size of the layer; enlarge it.": heat,
        },
    )
    assert_equal(got.requires_grad, False, "`requires_grad` of the map")
    assert_equal(x.requires_grad, False, "`x.requires_grad`")


@pytest.mark.exercise("cam", points=4)
@pytest.mark.parametrize("cls", [0, 1, 2])
def test_gradcam_equals_cam(student, device, cls):
    """For a network with global average pooling, HW times Grad-CAM should be CAM."""
    model, x = conv_net(device, gap=True).eval(), randn(3, 2, 6, 8, device=device)
    maps = model[:4](x).detach()
    weights = model.head.weight.detach()
    expected = enlarged(cam_by_loops(maps, weights, [cls] * 3).relu(), (6, 8))
    got = student.gradcam(model, "block", x, cls) * maps[0, 0].numel()
    assert_close(got, expected, "HW times Grad-CAM")
    assert_close(
        student.cam(maps, weights, cls, (6, 8)),
        expected,
        "CAM",
    )


@probe
def gradcam_in_train_mode(student, model, x, cls):
    """The maps, and what is left behind, of a model in train mode with one part in eval mode."""
    model.train()
    model.block.eval()
    model.head.bias.grad = torch.ones_like(model.head.bias)
    heat = student.gradcam(model, "act1", x, cls)
    modes = [model.training, model.bn.training, model.block.training, model.block.conv.training]
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())
    grads = sorted(name for name, p in model.named_parameters() if p.grad is not None)
    same = bool((model.head.bias.grad == 1).all())
    return heat, modes, hooks, grads, same, model.bn.running_mean.clone()


@pytest.mark.exercise("cam", points=3)
def test_batch_equals_single_images(student, device):
    """The images of a batch should not influence each other, and the model be left as it was."""
    model, x = conv_net(device, norm=True), randn(3, 2, 6, 8, device=device)
    mean = model.bn.running_mean.clone()
    model.eval()
    heat, _ = gradcam_by_hand(model, "act1", x, [2, 1, 1])
    cls = torch.tensor([2, 1, 1], device=device)
    got, modes, hooks, grads, same, after = student.run(gradcam_in_train_mode, model, x, cls)
    assert_close(got, enlarged(heat, (6, 8)), "the maps")
    assert_equal(
        list(modes),
        [True, True, False, False],
        "the modes (`training`) of the model, `bn`, `block` and `block.conv`",
    )
    assert_equal(hooks, 0, "the number of hooks left")
    assert_equal(list(grads), ["head.bias"], "the parameters with a `.grad` (one had it before)")
    assert_equal(same, True, "whether that `.grad` is unchanged")
    assert_close(after, mean, "the running mean")


@pytest.mark.exercise("cam", points=2)
@pytest.mark.parametrize("layer", ["conv1", "block.conv"])
def test_gradcam_before_inplace_relu(student, device, layer):
    """A ReLU that works in place behind the layer should not change the map."""
    plain, model = conv_net(device).eval(), conv_net(device, inplace=True).eval()
    model.load_state_dict(plain.state_dict())
    x = randn(2, 2, 6, 8, device=device)
    heat, _ = gradcam_by_hand(plain, layer, x, [0, 0])
    assert_close(student.gradcam(model, layer, x, 0), enlarged(heat, (6, 8)), "the map")


@probe
def gradcam_without_graph(student, model, x, layer):
    """The map of a frozen model within no_grad, the grad mode behind it, or the error."""
    error, heat = "", None
    model.train()
    with torch.no_grad():
        try:
            heat = student.gradcam(model, layer, x, 1)
        except NotImplementedError:
            raise
        except Exception as raised:
            error = type(raised).__name__
        enabled = torch.is_grad_enabled()
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())
    return heat, error, enabled, hooks, model.training, model.head.training


@probe
def grad_needed_by_x(student, model, x):
    student.gradcam(model, "conv1", x, 1)
    return x.requires_grad


@pytest.mark.exercise("cam", points=1)
def test_frozen_and_no_grad(student, device):
    """Grad-CAM should work for a frozen model within torch.no_grad()."""
    model, x = conv_net(device, frozen=True), randn(1, 2, 6, 8, device=device)
    heat, _ = gradcam_by_hand(model, "conv1", x, [1])
    assert_equal(student.run(grad_needed_by_x, model, x.clone()), False, "`x.requires_grad`")
    got, error, enabled, *_ = student.run(gradcam_without_graph, model, x, "conv1")
    assert_equal(error, "", "the error")
    assert_equal(enabled, False, "whether gradients are enabled again in the caller's block")
    assert_close(got, enlarged(heat, (6, 8)), "the map")


@pytest.mark.exercise("cam", points=1)
@pytest.mark.parametrize("layer, channels", [("conv9", 2), ("conv1", 3)])
def test_gradcam_after_an_error(student, device, layer, channels):
    """An unknown layer should raise a KeyError; after any error the model should be as it was."""
    model, x = conv_net(device), randn(1, channels, 6, 8, device=device)
    _, error, _, hooks, training, head = student.run(gradcam_without_graph, model, x, layer)
    assert_equal(error, "KeyError" if channels == 2 else "RuntimeError", "the error")
    assert_equal([hooks, training, head], [0, True, True], "hooks left, and the modes")


# --- grid ------------------------------------------------------------------------------------


@pytest.mark.exercise("grid", points=4)
@pytest.mark.parametrize(
    "shape, nrow, padding, pad_value",
    [
        ((6, 3, 4, 5), 2, 2, 0.0),
        ((7, 3, 3, 6), 3, 1, 0.5),
        ((2, 3, 5, 2), 8, 3, -1.0),
        ((4, 3, 2, 2), 1, 0, 0.0),
        ((5, 4, 3, 3), 5, 2, 1.0),
        ((9, 3, 2, 3), 4, 4, 0.25),
    ],
)
def test_grid_equals_torchvision(student, device, shape, nrow, padding, pad_value):
    """make_grid should equal torchvision's for any number and size of images."""
    imgs = rand(*shape, device=device)
    with unchanged(imgs):
        got = student.make_grid(imgs, nrow, padding, pad_value)
    assert_close(got, make_grid(imgs, nrow=nrow, padding=padding, pad_value=pad_value), "the grid")


@pytest.mark.exercise("grid", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_grey_images_and_defaults(student, device, dtype):
    """Grey images should become three equal channels, and the defaults be torchvision's."""
    imgs = (rand(11, 1, 3, 4, device=device) * 200).to(dtype)
    assert_close(student.make_grid(imgs), make_grid(imgs), "the grid")
    assert_close(
        student.make_grid(imgs, nrow=4, pad_value=7), make_grid(imgs, 4, pad_value=7), "the grid"
    )


@pytest.mark.exercise("grid", points=2)
@pytest.mark.parametrize("value_range", [None, (0.0, 1.0), (-0.5, 0.25), (0.0, 4.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalized_grid(student, device, value_range, channels):
    """With normalize, values should be clipped to the range and mapped to [0, 1]; imgs stay."""
    imgs = randn(5, channels, 3, 2, device=device)
    with unchanged(imgs):
        got = student.make_grid(imgs, 3, 1, 0.5, True, value_range)
    expected = make_grid(imgs, 3, 1, True, value_range, pad_value=0.5)
    assert_close(
        got, expected, "the grid", rtol=1e-6, atol=1e-8
    )  # torchvision rounds the range to float32


@pytest.mark.exercise("grid", points=1)
def test_images_of_one_value(student, device):
    """Images that are all the same value should become 0 with normalize, not NaN."""
    imgs = torch.full((3, 3, 2, 2), 5.0, device=device)
    assert_close(
        student.make_grid(imgs, normalize=True), make_grid(imgs, normalize=True), "the grid"
    )
    nearly = torch.tensor([1.0, 1.0 + 2**-20], dtype=torch.float64, device=device)
    nearly = nearly.view(2, 1, 1, 1).expand(2, 3, 2, 2)
    expected = torch.zeros(3, 4, 10, dtype=torch.float64, device=device)
    expected = make_grid(torch.stack([expected[:, :2, :2], expected[:, :2, :2] + 2**-20 / 1e-5]))
    assert_close(
        student.make_grid(nearly, normalize=True), expected, "the grid", rtol=1e-6, atol=1e-8
    )


@pytest.mark.exercise("grid", points=1)
def test_one_image_and_none(student, device):
    """One image should come back without a frame; an empty batch should raise a ValueError."""
    imgs = rand(1, 1, 3, 4, device=device)
    assert_close(student.make_grid(imgs), make_grid(imgs), "the grid of one image")
    colour = randn(1, 3, 3, 4, device=device)
    assert_close(
        student.make_grid(colour, 2, 5, 1.0, True, (-1.0, 1.0)),
        (colour[0].clamp(-1, 1) + 1) / 2,
        "the grid of one image, normalised",
    )
    with raises(ValueError):
        student.make_grid(torch.zeros(0, 3, 4, 4))


# --- summary ---------------------------------------------------------------------------------


@probe
def rows_of(student, model, x):
    return [
        [name, kind, list(shape), params] for name, kind, shape, params in student.summary(model, x)
    ]


@pytest.mark.exercise("summary", points=3)
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_a_network(student, device, batch):
    """There should be one row for each layer, with its name, kind, shape and parameters."""
    model, x = conv_net(device, norm=True), randn(batch, 2, 6, 8, device=device)
    expected = [
        ["conv1", "Conv2d", [batch, 4, 6, 8], 76],
        ["bn", "BatchNorm2d", [batch, 4, 6, 8], 8],
        ["act1", "ReLU", [batch, 4, 6, 8], 0],
        ["pool", "MaxPool2d", [batch, 4, 3, 4], 0],
        ["block.conv", "Conv2d", [batch, 5, 2, 4], 45],
        ["block.act", "ReLU", [batch, 5, 2, 4], 0],
        ["flat", "Flatten", [batch, 40], 0],
        ["head", "Linear", [batch, 3], 123],
    ]
    assert_close(student.run(rows_of, model, x), expected, "the rows")


@probe
def rows_out_of_order(student, x):
    """Layers that are defined in another order than they run, one twice, one never."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.never = nn.Linear(9, 9)
            self.square = nn.Linear(4, 4)
            self.act = nn.Tanh()

        def forward(self, x):
            x = self.act(self.square(x))
            return self.last(self.square(x))

    model = Odd().to(x.dtype).to(x.device)
    got = student.summary(model, x)
    return [[name, kind, tuple(shape), params] for name, kind, shape, params in got]


@pytest.mark.exercise("summary", points=2)
def test_order_and_repetition(student, device):
    """Rows should come in the order of running; a layer's second row has no parameters."""
    got = student.run(rows_out_of_order, randn(5, 4, device=device))
    expected = [
        ["square", "Linear", (5, 4), 20],
        ["act", "Tanh", (5, 4), 0],
        ["square", "Linear", (5, 4), 0],
        ["last", "Linear", (5, 2), 10],
    ]
    counted = [[*row[:3], 20 if i == 2 else row[3]] for i, row in enumerate(expected)]
    assert_close(
        [list(row) for row in got],
        expected,
        "the rows",
        symptoms={"The shared layer's parameters are counted twice.": counted},
    )


@probe
def rows_of_tied(student, x):
    """Two layers that share their weight, frozen, and one module under two names."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    first.weight.requires_grad_(False)
    shared = nn.ReLU()
    model = nn.Sequential(first, shared, second, shared).to(x.dtype).to(x.device)
    return [[name, params] for name, _, _, params in student.summary(model, x)]


@pytest.mark.exercise("summary", points=2)
def test_tied_weights(student, device):
    """A parameter of two layers should count in the first of them only, frozen or not."""
    got = student.run(rows_of_tied, randn(2, 4, device=device))
    assert_close(
        [list(row) for row in got],
        [["0", 20], ["1", 0], ["2", 0], ["1", 0]],
        "names and parameters",
        symptoms={
            "The shared weight is counted twice.": [["0", 20], ["1", 0], ["2", 16], ["1", 0]],
            "Frozen parameters should count as well.": [["0", 4], ["1", 0], ["2", 0], ["1", 0]],
        },
    )


@probe
def summary_leaves_no_trace(student, model, x):
    model.train()
    model.block.eval()
    error, grads = "", []
    handle = model.head.register_forward_hook(
        lambda module, args, out: grads.append([out.requires_grad, module.training])
    )
    try:
        student.summary(model, x)
    except NotImplementedError:
        raise
    except Exception as raised:
        error = type(raised).__name__
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    handle.remove()
    modes = [model.training, model.bn.training, model.block.training, model.block.conv.training]
    tracked = int(model.bn.num_batches_tracked)
    return hooks, error, grads, modes, tracked, model.bn.running_var.clone()


@pytest.mark.exercise("summary", points=2)
@pytest.mark.parametrize("channels", [2, 3])
def test_summary_leaves_no_trace(student, device, channels):
    """Modes, running statistics and other hooks should be as before, also after an error."""
    model, x = conv_net(device, norm=True), randn(2, channels, 6, 8, device=device)
    var = model.bn.running_var.clone()
    hooks, error, grads, modes, tracked, after = student.run(summary_leaves_no_trace, model, x)
    assert_equal(error, "" if channels == 2 else "RuntimeError", "the error")
    assert_equal(hooks, 1, "the number of hooks left (one is not yours)")
    assert_equal(
        list(modes),
        [True, True, False, False],
        "the modes (`training`) of the model, `bn`, `block` and `block.conv`",
    )
    assert_equal(tracked, 0, "the batches that the batch normalisation has counted")
    assert_close(after, var, "the running variance")
    if channels == 2:
        assert_equal(
            [list(g) for g in grads],
            [[False, False]],
            "[whether the last output has a graph, the head's mode]",
        )


@pytest.mark.exercise("summary", points=1)
def test_other_inputs(student, device):
    """Integer inputs and float32 should work, and shapes be tuples."""
    model = nn.Sequential(nn.Embedding(6, 3), nn.LayerNorm(3), nn.Flatten()).to(device)
    got = student.summary(model, randint(0, 6, (2, 5), device=device))
    expected = [
        ("0", "Embedding", (2, 5, 3), 18),
        ("1", "LayerNorm", (2, 5, 3), 6),
        ("2", "Flatten", (2, 15), 0),
    ]
    assert_close([tuple(row) for row in got], expected, "the rows")
    assert_equal([tuple(row)[2] for row in got], [row[2] for row in expected], "the shapes")
