"""Hidden tests of the chapter on multilayer perceptrons, modules and back-propagation."""

import re

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
    rand,
    randint,
    randn,
    unchanged,
)

# --- dense -----------------------------------------------------------------------------------


@probe
def cubed(z):
    """An activation function that no library has."""
    return z**3 - z


@pytest.mark.exercise("dense", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape, m", [((7, 5), 3), ((1, 2), 4), ((4,), 2), ((3, 1), 1), ((6, 3), 3)]
)
def test_dense_equals_linear(student, device, shape, m, dtype):
    """dense should be g of F.linear, for a batch, a batch of one and a single example."""
    kind = {"device": device, "dtype": dtype}
    a, W, b = randn(*shape, **kind), randn(m, shape[-1], **kind), randn(m, **kind)
    for g in (torch.tanh, F.relu, cubed):
        linear = F.linear(a, W, b)
        with unchanged(a, W, b):
            got = student.dense(a, W, b, g)
        assert_close(
            got,
            g(linear),
            symptoms={
                "The activation function is missing.": linear,
                "The bias is missing.": g(F.linear(a, W)),
                "The bias belongs inside the activation function.": g(F.linear(a, W)) + b,
            },
        )


@pytest.mark.exercise("dense", points=1)
def test_dense_gradients(student, device):
    """Gradients should go through dense and sequential as through F.linear, to all arguments."""
    a, W, b = randn(4, 3, device=device), randn(5, 3, device=device), randn(5, device=device)
    assert_same_gradients(
        lambda a, W, b: student.dense(a, W, b, torch.tanh),
        lambda a, W, b: torch.tanh(F.linear(a, W, b)),
        a,
        W,
        b,
    )
    U, c = randn(2, 5, device=device), randn(2, device=device)
    assert_same_gradients(
        lambda a, W, b, U, c: student.sequential(a, [(W, b), (U, c)], [torch.tanh, torch.sigmoid]),
        lambda a, W, b, U, c: F.linear(torch.tanh(F.linear(a, W, b)), U, c).sigmoid(),
        a,
        W,
        b,
        U,
        c,
        what="the gradient of sequential",
    )


@pytest.mark.exercise("dense", points=2)
@pytest.mark.parametrize("shape", [(4, 2), (4, 6), (2,), (6,), (4, 5), (3, 3, 4)])
def test_dense_width(student, shape):
    """An input whose last axis is not as wide as W's should raise a ValueError in dense."""
    with raises(ValueError):
        student.dense(
            randn(*shape), randn(5, 3) if shape[-1] != 5 else randn(5, 4), randn(5), F.relu
        )


@pytest.mark.exercise("dense", points=3)
@pytest.mark.parametrize("shape", [(7, 4), (1, 4), (4,)])
@pytest.mark.parametrize("widths", [[3], [5, 2], [6, 3, 2, 4]])
def test_sequential_equals_torch(student, device, shape, widths):
    """sequential should be a torch network with the same weights, whatever the activations."""
    bends = [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Identity()]
    layers, params, acts = [], [], []
    for n, m, bend in zip([4, *widths], widths, bends, strict=False):
        layer = nn.Linear(n, m).to(device, torch.float64)
        layers += [layer, bend]
        params.append((layer.weight.detach(), layer.bias.detach()))
        acts.append(bend)
    x = randn(*shape, device=device)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(x)
        assert_close(student.sequential(x, params, acts), expected)


@pytest.mark.exercise("dense", points=1)
def test_sequential_errors(student):
    """Lists of different lengths, or a width that does not fit, should raise a ValueError."""
    good = [(randn(3, 2), randn(3)), (randn(4, 3), randn(4))]
    x = randn(5, 2)
    with raises(ValueError):
        student.sequential(x, good, [F.relu])
    with raises(ValueError):
        student.sequential(x, good, [F.relu, F.relu, F.relu])
    with raises(ValueError):
        student.sequential(x, good[::-1], [F.relu, F.relu])
    with raises(ValueError):
        student.sequential(randn(5, 3), good, [F.relu, F.relu])


# --- collapse --------------------------------------------------------------------------------


@probe
def fold(student, weights, biases, x):
    """Collapse a stack: its outputs on x, the new layer's parameters, its kind, the stack's."""
    layers = []
    for W, b in zip(weights, biases):
        layer = nn.Linear(W.shape[1], W.shape[0], bias=b is not None).to(W)
        with torch.no_grad():
            layer.weight.copy_(W)
            if b is not None:
                layer.bias.copy_(b)
        layers.append(layer)
    one = student.collapse(layers)
    if not isinstance(one, nn.Linear):
        return type(one).__name__, None, None, None, None, False
    got = one(x).detach()
    bias = None if one.bias is None else one.bias.detach().clone()
    weight = one.weight.detach().clone()
    learned = all(p.requires_grad and p.is_leaf for p in one.parameters())
    sizes = [one.in_features, one.out_features]
    with torch.no_grad():
        for p in one.parameters():
            p.add_(1)
    kept = all(torch.equal(layer.weight, W) for layer, W in zip(layers, weights))
    kept = kept and all(b is None or torch.equal(la.bias, b) for la, b in zip(layers, biases))
    return "Linear", got, weight, bias, [sizes, learned], kept


def stack_of(widths, bias, device, dtype=torch.float64):
    """Weights, biases (None where `bias` has a 0)."""
    kind = {"device": device, "dtype": dtype}
    weights = [randn(m, n, **kind) for n, m in zip(widths, widths[1:], strict=False)]
    biases = [randn(m, **kind) if keep else None for m, keep in zip(widths[1:], bias, strict=True)]
    return weights, biases


def in_turn(weights, biases, x):
    for W, b in zip(weights, biases, strict=True):
        x = F.linear(x, W, b)
    return x


@pytest.mark.exercise("collapse", points=4)
@pytest.mark.parametrize(
    "widths, bias",
    [
        ([3, 5, 2], (1, 1)),
        ([2, 4, 3, 6], (1, 1, 1)),
        ([4, 3], (1,)),
        ([3, 3, 3, 3, 3], (1, 1, 1, 1)),
        ([2, 1, 4], (1, 1)),
        ([3, 4, 2], (1, 0)),
        ([3, 4, 2], (0, 1)),
        ([3, 4, 5, 2], (0, 1, 0)),
    ],
)
def test_collapse_same_outputs(student, device, widths, bias):
    """The one layer should give the outputs of the whole stack, biases folded in."""
    weights, biases = stack_of(widths, bias, device)
    x = randn(6, widths[0], device=device)
    kind, got, *_ = student.run(fold, weights, biases, x)
    assert_equal(kind, "Linear", "the kind of the result")
    without = in_turn(weights, [None] * len(weights), x)
    expected = in_turn(weights, biases, x)
    symptoms = {"All biases are lost.": without}
    if biases[-1] is not None and len(weights) > 1:
        symptoms["The earlier biases are lost; they go through the later layers."] = (
            without + biases[-1]
        )
    assert_close(got, expected, symptoms=symptoms)


@pytest.mark.exercise("collapse", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [(0, 0), (1, 0), (0, 1)])
def test_collapse_bias_and_dtype(student, device, bias, dtype):
    """The result has a bias only if a layer has one, keeps the dtype, and knows its sizes."""
    weights, biases = stack_of([3, 4, 2], bias, device, dtype)
    x = randn(2, 3, device=device, dtype=dtype)
    kind, got, weight, folded, facts, _ = student.run(fold, weights, biases, x)
    assert_equal(kind, "Linear", "the kind of the result")
    assert_close(got, in_turn(weights, biases, x))
    assert_close(weight, weights[1] @ weights[0], "the weight")
    assert_equal(folded is not None, any(bias), "whether there is a bias")
    assert_equal(facts, [[3, 2], True], "[in_features, out_features], learned")


@pytest.mark.exercise("collapse", points=2)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bend", [nn.ReLU, nn.Tanh, nn.Identity])
def test_collapse_refuses(student, bend, place):
    """A module that is no nn.Linear should raise a TypeError, wherever it stands."""
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    layers.insert(place, bend())
    with raises(TypeError):
        student.collapse(layers)
    with raises(ValueError):
        student.collapse([])


@pytest.mark.exercise("collapse", points=2)
@pytest.mark.parametrize("widths, bias", [([4, 3], (1,)), ([2, 3, 3], (1, 1))])
def test_collapse_owns_its_weights(student, device, widths, bias):
    """Training the new layer should leave the old ones as they are, also for a list of one."""
    weights, biases = stack_of(widths, bias, device)
    *_, kept = student.run(fold, weights, biases, randn(2, widths[0], device=device))
    assert_equal(kept, True, "whether the old layers kept their numbers")


# --- activations -----------------------------------------------------------------------------

LIBRARY = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky": F.leaky_relu,
    "rrelu": F.rrelu,  # in evaluation, the default
}


def points(device, dtype=torch.float64):
    """From -50 to 50, with exact zeros."""
    far = torch.linspace(-50, 50, 41, dtype=dtype, device=device)
    return torch.cat([far, randn(27, device=device, dtype=dtype)]).view(4, 17)


@pytest.mark.exercise("activations", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LIBRARY)
def test_act_values(student, device, name, dtype):
    """act should give the library's values from -50 to 50, in float32 and float64."""
    x = points(device, dtype)
    with unchanged(x):
        got = student.act(name, x)
    assert_close(got, LIBRARY[name](x), f"act({name!r}, x)", atol=1e-6)
    assert_close(
        student.act(name, x[0, 0]), LIBRARY[name](x[0, 0]), "for a single number", atol=1e-6
    )


@pytest.mark.exercise("activations", points=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LIBRARY)
def test_dact_equals_autograd(student, device, name, dtype):
    """dact should be the derivative that autograd finds, from -50 to 50 and at 0."""
    x = points(device, dtype)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(LIBRARY[name](leaf).sum(), leaf)
    with unchanged(x), torch.no_grad():
        got = student.dact(name, x)
    assert_close(got, expected, f"dact({name!r}, x)", atol=1e-6)


@pytest.mark.exercise("activations", points=2)
@pytest.mark.parametrize("name", LIBRARY)
def test_act_gradient(student, device, name):
    """act should have the library's gradient, at 0 too, so that it can be used in a network."""
    x = points(device)
    grads = []
    for f in (lambda x: student.act(name, x), LIBRARY[name]):
        leaf = x.clone().requires_grad_()
        out = f(leaf)
        assert_true(out.requires_grad, "The output of act should carry a gradient.")
        grads.append(torch.autograd.grad(out.sum(), leaf)[0])
    assert_close(grads[0], grads[1], f"the gradient of {name}", atol=1e-6)


@pytest.mark.exercise("activations", points=2)
@pytest.mark.parametrize("slope", [0.3, 0.01, 0.0])
def test_slopes_fixed_and_learned(student, device, slope):
    """leaky should take any slope; a tensor of slopes should be learned as in F.prelu."""
    x = randn(6, 3, device=device)
    assert_close(student.act("leaky", x, slope), F.leaky_relu(x, slope), f"slope {slope}")
    assert_close(student.act("leaky", x, slope=slope), F.leaky_relu(x, slope), f"slope={slope}")
    expected = torch.where(x > 0, 1.0, slope).to(x)
    assert_close(student.dact("leaky", x, slope), expected, "its derivative")
    slopes = torch.tensor([slope, 0.25, -0.5], device=device, dtype=x.dtype)
    assert_same_gradients(
        lambda x, s: student.act("leaky", x, s),
        F.prelu,
        x,
        slopes,
        what="the learned slopes' gradient",
    )


@pytest.mark.exercise("activations", points=3)
def test_rrelu_training(student, device):
    """In training, each negative entry's slope is drawn anew, uniformly from [1/8, 1/3]."""
    x = torch.cat([-rand(3000, device=device) - 0.5, rand(20, device=device)]).view(4, 755)
    with unchanged(x):
        y = student.act("rrelu", x, training=True)
    again = student.act("rrelu", x, training=True)
    below = x < 0
    assert_close(y[~below], x[~below], "the positive entries")
    slopes = y[below] / x[below]
    assert_equal(bool(slopes.min() >= 1 / 8 - 1e-9), True, "whether all slopes are at least 1/8")
    assert_equal(bool(slopes.max() <= 1 / 3 + 1e-9), True, "whether all slopes are at most 1/3")
    assert_close(slopes.min().item(), 1 / 8, "the smallest of 3000 slopes", atol=2e-3)
    assert_close(slopes.max().item(), 1 / 3, "the largest of 3000 slopes", atol=2e-3)
    assert_close(slopes.mean().item(), 11 / 48, "the mean of 3000 slopes", atol=6e-3)
    fourth = torch.quantile(slopes, 0.25).item()
    assert_close(fourth, 1 / 8 + 5 / 24 / 4, "the lower quartile of the slopes", atol=8e-3)
    assert_equal(bool((again[below] != y[below]).double().mean() > 0.9), True, "drawn anew")
    assert_equal(bool(slopes.unique().numel() > 2900), True, "a slope for each entry")
    x32 = x.float().requires_grad_()
    out = student.act("rrelu", x32, training=True)
    assert_equal(out.dtype, torch.float32, "the dtype")
    (grad,) = torch.autograd.grad(out.sum(), x32)
    assert_close(grad * x32.detach(), out.detach(), "gradient times x, which is the output")


@pytest.mark.exercise("activations", points=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_and_unknown(student, device, dtype):
    """Nothing may be NaN at -1000 or 1000; an unknown name should raise a ValueError."""
    x = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], dtype=dtype, device=device)
    for name, f in LIBRARY.items():
        assert_close(student.act(name, x), f(x), f"act({name!r}, x)", atol=1e-6)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(f(leaf).sum(), leaf)
        assert_close(student.dact(name, x), expected, f"dact({name!r}, x)", atol=1e-6)
    for name in ("swish", "", "ReLU"):
        with raises(ValueError):
            student.act(name, x)
        with raises(ValueError):
            student.dact(name, x)


# --- backprop --------------------------------------------------------------------------------


def case(N, d, h, K, loss, device, dtype=torch.float64, scale=1.0):
    """Random params, the cache of their forward pass, y, and the gradients of autograd."""
    kind = {"device": device, "dtype": dtype}
    params = {
        "W1": scale * randn(h, d, **kind),
        "b1": randn(h, **kind),
        "W2": scale * randn(K, h, **kind),
        "b2": randn(K, **kind),
    }
    x = randn(N, d, **kind)
    y = rand(N, K, **kind) if loss == "mse" else randint(0, K, (N,), device=device)
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    z1 = x @ leaves["W1"].T + leaves["b1"]
    a1 = z1.sigmoid()
    z2 = a1 @ leaves["W2"].T + leaves["b2"]
    a2 = z2.sigmoid() if loss == "mse" else z2.softmax(1)
    total = F.mse_loss(a2, y) if loss == "mse" else F.cross_entropy(z2, y)
    grads = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    cache = {"x": x, "z1": z1.detach(), "a1": a1.detach(), "z2": z2.detach(), "a2": a2.detach()}
    return params, {**cache, "loss": loss}, y, grads


def compare(got, expected, N, loss):
    """Entry by entry, last layer first, with the usual slips of the average."""
    assert_equal(sorted(got), sorted(expected), "the keys")
    K = len(expected["b2"])
    for name in ("b2", "W2", "b1", "W1"):
        wanted = expected[name]
        symptoms = {"The sign is turned.": -wanted}
        symptoms["The gradients are summed over the batch; the loss is a mean."] = N * wanted
        if loss == "mse":
            symptoms["A factor 2 is missing."] = wanted / 2
            symptoms["The mean is over the N examples; it is over all N * K entries."] = K * wanted
        else:
            symptoms["The mean is over N * K entries; it is over the N examples."] = wanted / K
        assert_close(got[name], wanted, f"grads[{name!r}]", symptoms=symptoms)


SIZES = [(6, 4, 5, 3), (9, 2, 3, 7), (5, 3, 3, 3)]


@pytest.mark.exercise("backprop", points=5)
@pytest.mark.parametrize("N, d, h, K", SIZES)
def test_backward_mse(student, device, N, d, h, K):
    """With sigmoid and mean squared error, all four gradients should equal autograd's."""
    params, cache, y, grads = case(N, d, h, K, "mse", device)
    with torch.no_grad():
        compare(student.backward(params, cache, y), grads, N, "mse")


@pytest.mark.exercise("backprop", points=5)
@pytest.mark.parametrize("N, d, h, K", SIZES)
def test_backward_ce(student, device, N, d, h, K):
    """With softmax and cross-entropy, all four gradients should equal autograd's."""
    params, cache, y, grads = case(N, d, h, K, "ce", device)
    with torch.no_grad():
        compare(student.backward(params, cache, y), grads, N, "ce")


@pytest.mark.exercise("backprop", points=4)
@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("N, d, h, K", [(1, 3, 4, 2), (4, 1, 1, 2), (8, 2, 3, 1), (1, 1, 1, 1)])
def test_backward_small_sizes(student, device, loss, N, d, h, K):
    """A batch of one, a single hidden neuron or a single output should work as well."""
    params, cache, y, grads = case(N, d, h, K, loss, device)
    with torch.no_grad():
        compare(student.backward(params, cache, y), grads, N, loss)


@pytest.mark.exercise("backprop", points=3)
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_backward_float32_and_inputs(student, device, loss):
    """In float32 the gradients should be float32, and nothing that was passed may change."""
    params, cache, y, grads = case(6, 3, 4, 5, loss, device, torch.float32)
    tensors = [v for v in cache.values() if isinstance(v, torch.Tensor)]
    with torch.no_grad(), unchanged(*params.values(), *tensors, y):
        compare(student.backward(params, cache, y), grads, 6, loss)


@pytest.mark.exercise("backprop", points=3)
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_backward_averages(student, device, loss):
    """A batch that holds every example twice should have the same gradients, for any weights."""
    params, cache, y, grads = case(4, 3, 5, 2, loss, device, scale=4.0)
    twice = {k: v if k == "loss" else torch.cat([v, v]) for k, v in cache.items()}
    with torch.no_grad():
        compare(student.backward(params, twice, torch.cat([y, y])), grads, 8, loss)


# --- sequential ------------------------------------------------------------------------------


@probe
def build_both(student, names, x, dy):
    """A chain and nn.Sequential of the same layers: keys, outputs, gradients."""
    from collections import OrderedDict

    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)]
    layers = [layer.to(x) for layer in layers]
    args = layers if names is None else [OrderedDict(zip(names, layers))]
    results = []
    for kind in (student.MySequential, nn.Sequential):
        chain = kind(*args)
        chain.zero_grad()
        y = chain(x)
        (y * dy).sum().backward()
        grads = [p.grad.clone() for p in chain.parameters()]
        results.append([list(chain.state_dict()), y.detach(), grads])
    return results


@pytest.mark.exercise("sequential", points=3)
@pytest.mark.parametrize(
    "names", [None, ["fc1", "bend", "fc2", "kink", "out"], ["b", "a", "d", "c", "e"]]
)
@pytest.mark.parametrize("N", [1, 6])
def test_chain_equals_sequential(student, device, names, N):
    """Keys, outputs and gradients should be those of nn.Sequential, with names or without."""
    x, dy = randn(N, 4, device=device), randn(N, 2, device=device)
    mine, library = student.run(build_both, names, x, dy)
    assert_equal(mine[0], library[0], "the keys of the state dict")
    assert_close(mine[1], library[1])
    assert_close(mine[2], library[2], "the gradients")


@probe
def ends_of(student):
    """Chains of no layer, one layer, one named layer, and one inside another."""
    from collections import OrderedDict

    x = torch.arange(6.0).view(2, 3)
    empty = student.MySequential()
    single = student.MySequential(nn.Linear(3, 2))
    named = student.MySequential(OrderedDict(fc=nn.Linear(3, 2)))
    nested = student.MySequential(single, nn.Dropout(0.5), named)
    nested.eval()
    asleep = [m.training for m in nested.modules()]
    nested.train()
    awake = [m.training for m in nested.modules()]
    keys = [list(c.state_dict()) for c in (empty, single, named, nested)]
    return empty(x), keys, [len(c) for c in (empty, single, named, nested)], any(asleep), all(awake)


@pytest.mark.exercise("sequential", points=2)
def test_chain_of_none_one_and_chains(student):
    """An empty chain gives back x; chains can be nested, and train and eval reach all parts."""
    out, keys, lengths, asleep, awake = student.run(ends_of)
    assert_close(out, torch.arange(6.0).view(2, 3), "the output of an empty chain")
    nested = ["0.0.weight", "0.0.bias", "2.fc.weight", "2.fc.bias"]
    expected = [[], ["0.weight", "0.bias"], ["fc.weight", "fc.bias"], nested]
    assert_equal(keys, expected, "the keys")
    assert_equal(lengths, [0, 1, 1, 3], "the lengths")
    assert_equal([asleep, awake], [False, True], "[any training after eval(), all after train()]")


@probe
def at(student, index):
    """Which of five layers stands at an index (as a number), in a chain and in nn.Sequential."""
    layers = [nn.Linear(3, 3) for _ in range(5)]
    return [
        [i for i, layer in enumerate(layers) if layer is kind(*layers)[index]]
        for kind in (student.MySequential, nn.Sequential)
    ]


@pytest.mark.exercise("sequential", points=1)
def test_chain_indices(student):
    """An index from either end gives that very layer; one out of range raises an IndexError."""
    for index in (0, 1, 3, 4, -1, -2, -5):
        mine, library = student.run(at, index)
        assert_equal(mine, library, f"the layer at {index}")
    for index in (5, -6, 9):
        with raises(IndexError):
            student.run(at, index)


@probe
def sliced(student, start, stop, step, names, x):
    """A slice of a chain: kind, names, whether the layers are the same objects, output."""
    from collections import OrderedDict

    torch.manual_seed(1)
    layers = [nn.Linear(3, 3).to(x) for _ in range(5)]
    args = layers if names is None else [OrderedDict(zip(names, layers))]
    results = []
    for kind in (student.MySequential, nn.Sequential):
        part = kind(*args)[start:stop:step]
        own = isinstance(part, kind)
        which = [i for p in part._modules.values() for i, la in enumerate(layers) if la is p]
        results.append([own, list(part.state_dict()), which, len(part), part(x).detach()])
    return results


@pytest.mark.exercise("sequential", points=2)
@pytest.mark.parametrize("names", [None, list("vwxyz")])
@pytest.mark.parametrize(
    "cut",
    [(0, 2, None), (1, None, None), (-2, None, None), (None, None, 2), (1, 4, 2), (3, 3, None)],
)
def test_chain_slices(student, device, cut, names):
    """A slice is a MySequential of the same layers under their names, as in nn.Sequential."""
    x = randn(2, 3, device=device)
    mine, library = student.run(sliced, *cut, names, x)
    assert_equal(mine[0], True, "whether the slice is a MySequential")
    assert_equal(mine[1:4], library[1:4], "keys, layers and length of the slice")
    assert_close(mine[4], library[4], "the output of the slice")


@probe
def grown(student):
    """A chain that grows by add, from empty."""
    chain = student.MySequential()
    chain.add("b", nn.Linear(2, 3))
    chain.add("a", nn.ReLU())
    chain.add("out", nn.Linear(3, 1, bias=False))
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    with torch.no_grad():
        same = torch.equal(chain(x), chain[2](F.relu(chain[0](x))))
    return list(chain.state_dict()), len(chain), same


@probe
def refused(student, name, numbered):
    """Whether a second layer of a name raises KeyError, and leaves the first where it was."""
    from collections import OrderedDict

    first = nn.Linear(2, 2)
    chain = (
        student.MySequential(first, nn.ReLU())
        if numbered
        else student.MySequential(OrderedDict([(name, first), ("bend", nn.ReLU())]))
    )
    try:
        chain.add(name, nn.Tanh())
        error = "no error"
    except KeyError:
        error = "KeyError"
    except Exception as other:
        error = type(other).__name__
    return error, chain[0] is first, len(chain)


@pytest.mark.exercise("sequential", points=2)
def test_chain_add(student):
    """add appends a layer; a name that is taken raises a KeyError and changes nothing."""
    keys, length, same = student.run(grown)
    assert_equal(keys, ["b.weight", "b.bias", "out.weight"], "the keys after three calls of add")
    assert_equal(length, 3, "the length")
    assert_equal(same, True, "whether the layers are applied in the order of add")
    for name, numbered in (("fc", False), ("0", True)):
        got = student.run(refused, name, numbered)
        expected = ["KeyError", True, 2]
        assert_equal(list(got), expected, "[error, first layer still there, length]")


# --- lists -----------------------------------------------------------------------------------


@pytest.mark.exercise("lists", points=3)
@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(7, 3),
        nn.Linear(7, 3, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, affine=False),
        nn.Sequential(nn.Conv2d(2, 3, 5), nn.Sequential(nn.PReLU(3), nn.Linear(2, 1))),
        nn.ModuleList([nn.Linear(4, 4), nn.ModuleDict({"a": nn.Bilinear(2, 3, 4)})]),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.ParameterList([torch.zeros(2, 5), torch.zeros(())]),
    ],
)
def test_count_equals_torch(student, module):
    """count_params should be the sum over m.parameters(): nested, without bias, no buffers."""
    expected = sum(p.numel() for p in module.parameters())
    assert_equal(student.count_params(module), expected, "the number of parameters")


@probe
def odd_cases(student):
    """Counts of modules that are built by hand."""
    layer = nn.Linear(3, 4)
    tied_modules = nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer))
    tied_weights = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    tied_weights[1].weight = tied_weights[0].weight
    hidden = nn.Module()
    hidden.layers = [nn.Linear(5, 5), nn.Linear(5, 5)]
    hidden.options = {"a": nn.Linear(5, 5)}
    part = nn.Module()
    part.layers = [nn.Linear(5, 5)]
    part.head = nn.Linear(5, 2)
    empty = nn.Module()
    empty.register_module("nothing", None)
    empty.register_parameter("none", None)
    empty.register_buffer("kept", torch.zeros(9))
    empty.last = nn.Linear(1, 1)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    cases = (tied_modules, tied_weights, hidden, part, empty, frozen)
    counts = [student.count_params(m) for m in cases]
    equal = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    equal[1].load_state_dict(equal[0].state_dict())
    return [*counts, student.count_params(equal)]


@pytest.mark.exercise("lists", points=3)
def test_count_odd_cases(student):
    """Tied parameters count once, plain lists hide theirs, entries that are None do no harm."""
    got = student.run(odd_cases)
    what = (
        "the count for a layer that is used twice",
        "the count for a weight that two layers share",
        "the count for layers in a plain list and dict",
        "the count for a plain list beside a registered layer",
        "the count with entries that are None and a buffer",
        "the count of a frozen layer",
        "the count of two layers with equal numbers",
    )
    for text, count, expected in zip(what, got, (16, 20, 0, 12, 2, 6, 12), strict=True):
        assert_equal(count, expected, text)


@probe
def guarded(student):
    """A module whose own methods for listing parameters are out of order."""

    class Guarded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.ones(3))

        def refuse(self, *args, **kwargs):
            raise RuntimeError("count_params should walk through the dictionaries by itself")

        parameters = named_parameters = state_dict = modules = named_modules = apply = refuse

    return student.count_params(Guarded())


@pytest.mark.exercise("lists", points=1)
def test_count_walks_by_itself(student):
    """count_params should find parameters without parameters(), state_dict() and modules()."""
    assert_equal(student.run(guarded), 13, "the count for nn.Linear(4, 2) and three numbers")


@probe
def switched(student, x, dy, choice, activation):
    """The output of a Switch, gradients by name (None where there is none), and by hand."""
    torch.manual_seed(0)
    choices = {"flat": nn.Linear(4, 3), "deep": nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))}
    acts = {"prelu": nn.PReLU(), "tanh": nn.Tanh(), "relu": nn.ReLU()}
    net = student.Switch(choices, acts).to(x)
    y = net(x, choice, activation)
    expected = acts[activation](choices[choice](x)).detach()
    (y * dy).sum().backward()
    reached = sorted(name for name, p in net.named_parameters() if p.grad is not None)
    return y.detach(), expected, reached, list(net.state_dict())


@pytest.mark.exercise("lists", points=3)
@pytest.mark.parametrize("choice", ["flat", "deep"])
@pytest.mark.parametrize("activation", ["prelu", "tanh", "relu"])
def test_switch_chooses(student, device, choice, activation):
    """Switch applies the chosen layer and then the chosen activation; only they get gradients."""
    x, dy = randn(5, 4, device=device), randn(5, 3, device=device)
    y, expected, reached, _ = student.run(switched, x, dy, choice, activation)
    assert_close(y, expected)
    inner = {"flat": ["choices.flat"], "deep": ["choices.deep.0", "choices.deep.1"]}[choice]
    names = [f"{n}.{kind}" for n in inner for kind in ("bias", "weight")]
    names += ["acts.prelu.weight"] if activation == "prelu" else []
    assert_equal(reached, sorted(names), "the parameters that get a gradient")


@probe
def registered(student):
    """What a Switch registers, and what reaches it."""
    choices = {"b": nn.Linear(2, 3), "a": nn.Dropout(0.5)}
    acts = {"prelu": nn.PReLU(), "norm": nn.BatchNorm1d(3)}
    net = student.Switch(choices, acts)
    keys = list(net.state_dict())
    net.to(torch.float64)
    dtypes = sorted({str(p.dtype) for p in net.parameters()})
    net.eval()
    names = [list(net.choices), list(net.acts)]
    return keys, dtypes, choices["a"].training, names, [list(choices), list(acts)]


@pytest.mark.exercise("lists", points=3)
def test_switch_registers(student):
    """state_dict, to and eval should reach all layers and activations of a Switch."""
    keys, dtypes, training, names, given = student.run(registered)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["choices.b.weight", "choices.b.bias", "acts.prelu.weight"]
    expected += [f"acts.norm.{name}" for name in norm]
    assert_equal(keys, expected, "the keys of the state dict")
    assert_equal(dtypes, ["torch.float64"], "the dtypes after to(torch.float64)")
    assert_equal(training, False, "training of a dropout after eval()")
    assert_equal(names, [["b", "a"], ["prelu", "norm"]], "the names in choices and acts")
    assert_equal(given, [["b", "a"], ["prelu", "norm"]], "the dictionaries that were passed")


@pytest.mark.exercise("lists", points=2)
@pytest.mark.parametrize(
    "choice, activation, told",
    [
        ("conv", "relu", ["lin", "wide"]),
        ("lin", "gelu", ["relu", "prelu"]),
        ("relu", "prelu", ["lin", "wide"]),
        ("wide", "lin", ["relu", "prelu"]),
    ],
)
def test_switch_unknown_names(student, choice, activation, told):
    """An unknown name should raise a KeyError that lists the names known in its place."""
    net = student.Switch(
        {"lin": nn.Linear(2, 2), "wide": nn.Linear(2, 2)}, {"relu": nn.ReLU(), "prelu": nn.PReLU()}
    )
    message = ""
    with raises(KeyError):
        try:
            net(torch.ones(1, 2), choice, activation)
        except KeyError as error:
            message = str(error)
            raise
    found = [name for name in told if re.search(rf"\b{name}\b", message)]
    assert_equal(found, told, "the known names in the message")


# --- tying -----------------------------------------------------------------------------------


@probe
def tied_parts(student, d, h):
    """Names and shapes, the biases, the spread of the weight, whether two of them differ."""
    one, other = student.TiedAutoencoder(d, h), student.TiedAutoencoder(d, h)
    shapes = {name: list(p.shape) for name, p in one.named_parameters()}
    lacking = [name for name in ("weight", "b_e", "b_d") if not hasattr(one, name)]
    if lacking or len(shapes) != 3:
        return lacking, len(shapes), shapes, [], False, False, False, [], []
    biases = [one.b_e.detach().clone(), one.b_d.detach().clone()]
    spread = one.weight.std().item() if one.weight.numel() > 1 else 1.0
    differ = not torch.equal(one.weight, other.weight)
    leaf = all(p.requires_grad for p in one.parameters())
    keys, buffers = list(one.state_dict()), list(one.buffers())
    return [], len(shapes), shapes, biases, spread > 0, differ, leaf, keys, buffers


@pytest.mark.exercise("tying", points=4)
@pytest.mark.parametrize("d, h", [(6, 2), (5, 5), (3, 7), (2, 1)])
def test_tied_parameters(student, d, h):
    """There should be one weight, drawn at random, and two biases that are zero at the start."""
    lacking, number, shapes, *rest = student.run(tied_parts, d, h)
    assert_equal("weight" not in lacking, True, "whether there is an attribute `weight`")
    assert_equal(lacking, [], "the attributes that are missing")
    assert_equal(number, 3, "the number of parameters")
    assert_equal(shapes, {"weight": [h, d], "b_e": [h], "b_d": [d]}, "the parameters")
    biases, spread, differ, leaf, keys, buffers = rest
    assert_close(biases, [torch.zeros(h), torch.zeros(d)], "the biases at the start")
    assert_equal([spread, differ], [True, True], "[entries differ, two autoencoders differ]")
    assert_equal(leaf, True, "whether all are learned")
    assert_equal(sorted(keys), ["b_d", "b_e", "weight"], "the keys of the state dict")
    assert_equal(len(buffers), 0, "the number of buffers")


@probe
def run_tied(student, weight, b_e, b_d, x, code, dy):
    """With given numbers: code, decoding, output, and gradients of sum(dy * output)."""
    net = student.TiedAutoencoder(weight.shape[1], weight.shape[0]).to(weight)
    with torch.no_grad():
        net.weight.copy_(weight)
        net.b_e.copy_(b_e)
        net.b_d.copy_(b_d)
    x = x.clone().requires_grad_()
    y = net(x)
    wanted = [net.weight, net.b_e, net.b_d, x]
    grads = torch.autograd.grad((y * dy).sum(), wanted, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted)]
    return net.encode(x).detach(), net.decode(code).detach(), y.detach(), grads


def tied_case(N, d, h, device, dtype):
    kind = {"device": device, "dtype": dtype}
    shape = (N,) if N else ()
    numbers = randn(h, d, **kind), randn(h, **kind), randn(d, **kind)
    return numbers, randn(*shape, d, **kind), randn(*shape, h, **kind), randn(*shape, d, **kind)


SHAPES = [(4, 5, 3), (1, 6, 2), (0, 4, 3), (7, 3, 3), (3, 2, 5), (2, 4, 1)]


@pytest.mark.exercise("tying", points=5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("N, d, h", SHAPES)
def test_tied_values(student, device, N, d, h, dtype):
    """encode, decode and the call should follow the formulas, for batches and single examples."""
    (W, b_e, b_d), x, code, dy = tied_case(N, d, h, device, dtype)
    with unchanged(x, code):
        encoded, decoded, y, _ = student.run(run_tied, W, b_e, b_d, x, code, dy)
    expected = torch.tanh(F.linear(x, W, b_e))
    assert_close(encoded, expected, "the code")
    assert_close(decoded, F.linear(code, W.T, b_d), "the decoding of a code")
    assert_close(
        y,
        F.linear(expected, W.T, b_d),
        symptoms={"The output is squeezed by tanh too.": F.linear(expected, W.T, b_d).tanh()},
    )


@pytest.mark.exercise("tying", points=5)
@pytest.mark.parametrize("N, d, h", SHAPES)
def test_tied_gradient(student, device, N, d, h):
    """The weight's gradient should be the sum over both uses, as in an untied copy."""
    (W, b_e, b_d), x, code, dy = tied_case(N, d, h, device, torch.float64)
    *_, grads = student.run(run_tied, W, b_e, b_d, x, code, dy)
    U, V, b, c, leaf = (t.clone().requires_grad_() for t in (W, W.T, b_e, b_d, x))
    y = F.linear(torch.tanh(F.linear(leaf, U, b)), V, c)
    first, second, of_b, of_c, of_x = torch.autograd.grad((y * dy).sum(), [U, V, b, c, leaf])
    assert_close(
        grads[0],
        first + second.T,
        "the gradient of the weight",
        symptoms={
            "Only the encoder's use of the weight is counted.": first,
            "Only the decoder's use of the weight is counted.": second.T,
        },
    )
    assert_close(list(grads[1:]), [of_b, of_c, of_x], "the gradients of b_e, b_d and the input")


@probe
def copied(student, x):
    """After a deepcopy: same output, then train the copy; is it tied, did the original stay?"""
    import copy

    torch.manual_seed(0)
    net = student.TiedAutoencoder(4, 2).to(x)
    before = net(x).detach()
    twin = copy.deepcopy(net)
    same = twin(x).detach()
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(twin(x), x).backward()
        optimizer.step()
    code = torch.tanh(x @ twin.weight.T + twin.b_e)
    expected = (code @ twin.weight + twin.b_d).detach()
    return before, same, net(x).detach(), twin(x).detach(), expected


@pytest.mark.exercise("tying", points=3)
def test_tied_after_deepcopy(student, device):
    """A deep copy should be tied in itself, and training it should not touch the original."""
    before, same, after, trained, expected = student.run(copied, randn(5, 4, device=device))
    assert_close(same, before, "the output of the copy")
    assert_close(after, before, "the output of the original after training the copy")
    assert_close(trained, expected, "the output of the trained copy, from its own weight")


@probe
def reloaded(student, x):
    """A state dict through a round trip, a change of dtype, and one changed weight."""
    torch.manual_seed(0)
    one = student.TiedAutoencoder(4, 3)
    with torch.no_grad():
        one.b_e.add_(0.5)
        one.b_d.sub_(0.25)
    other = student.TiedAutoencoder(4, 3)
    other.load_state_dict(one.state_dict())
    same = torch.equal(other(x.float()), one(x.float()))
    other.double()
    with torch.no_grad():
        other.weight.mul_(2)
        code = torch.tanh(x @ other.weight.T + other.b_e)
        expected = code @ other.weight + other.b_d
        return same, other(x), expected, sorted(other.state_dict())


@pytest.mark.exercise("tying", points=3)
def test_tied_after_loading(student):
    """After load_state_dict, double() and a new weight, both directions use that weight."""
    same, got, expected, keys = student.run(reloaded, randn(5, 4))
    assert_equal(same, True, "whether a loaded copy gives the same outputs")
    assert_close(got, expected, "the output after the weight was doubled")
    assert_equal(keys, ["b_d", "b_e", "weight"], "the keys of the state dict")
