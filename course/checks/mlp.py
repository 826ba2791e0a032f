"""Public checks of the chapter on multilayer perceptrons, modules and back-propagation."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "dense": [
        "Row j of W leads to neuron j, so the weighted sums of one example are the product of W "
        "and the example. What does that become when the examples are rows?",
        "`a @ W.T` serves a single example and a batch alike. Only a's last axis must fit.",
        "`sequential` is a loop in which x is replaced by a layer's output. `zip(…, strict=True)` "
        "raises a ValueError where the lists are not equally long.",
    ],
    "collapse": [
        "Put the first layer's formula into the second's, and multiply out.",
        "Keep two things while you go through the layers: the product of the weights so far (the "
        "newest on the left) and the bias so far. Each new weight multiplies both.",
        "A missing bias is None. Copy the result into a new nn.Linear under `torch.no_grad()`, "
        "after `.to(…)` has given it dtype and device.",
    ],
    "activations": [
        "The formulas stand above; `torch.where(x > 0, …, …)` chooses entry by entry.",
        "For tanh, the last form of the derivation has no inf/inf far out.",
        "For RReLU in training you need one random slope for each entry: `torch.rand_like(x)` is "
        "uniform on [0, 1), so stretch it and shift it.",
    ],
    "backprop": [
        "Begin at the end: the derivative of the loss with respect to z2, shape (N, K). The text "
        "has both cases for one example; the average over the batch adds a factor.",
        "Then delta1, shape (N, h): delta2 goes through W2, then entry by entry through the "
        "sigmoid's slope, which a1 knows: a1 * (1 - a1).",
        "The shapes tell the rest: from (N, m) and (N, n) you want (m, n); from (N, m) you "
        "want (m,).",
    ],
    "sequential": [
        "Everything is kept in `self._modules`, an ordered dictionary from names to layers: its "
        "values are what forward needs, its length is what len needs.",
        "`nn.Sequential` names its layers by `str(i)`. A list of the values has the right "
        "behaviour for negative numbers and raises IndexError by itself.",
        "For a slice, take it from the list of the items (name and layer), and make a "
        "MySequential of an OrderedDict of them.",
    ],
    "lists": [
        "Look at `m._parameters` and `m._modules` of a small network in a cell of your own.",
        "Each child is a module like m itself: recursion, or a list of those still to visit. "
        "`id(p)` tells whether you have met a parameter before.",
        "`Switch`: nn.ModuleDict takes a dict, and `name in d` and `', '.join(d)` work on it as "
        "on a dict.",
    ],
    "tying": [
        "Only one nn.Parameter for both directions. The transpose is taken in `encode` or "
        "`decode`, at each call, not in `__init__`.",
        "With examples in rows, W x becomes `x @ W.T`, and W^T c becomes `c @ W`.",
    ],
    "debug": [
        "`[a, b] * 3` is a list of six. How many different objects are in it?",
        "Call nn.Linear once for each layer, in a loop.",
    ],
}


@pytest.mark.exercise("dense")
def test_one_layer(student):
    """`dense` gives g of the weighted sums, for one example and for a batch."""
    W = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]])
    b = torch.tensor([0.0, 1.0, -4.0])
    batch = torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    expected = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 2.0]])
    assert_close(
        student.dense(batch, W, b, torch.relu),
        expected,
        symptoms={
            "The bias is not added.": (batch @ W.T).relu(),
            "The activation function is not applied.": batch @ W.T + b,
            "The bias is added after the activation function; it belongs inside.": (
                batch @ W.T
            ).relu()
            + b,
        },
    )
    assert_close(student.dense(batch[0], W, b, torch.relu), expected[0], "the output for a vector")


@pytest.mark.exercise("dense")
def test_widths_must_fit(student):
    """Three numbers into a layer for two raise a ValueError."""
    with raises(ValueError):
        student.dense(torch.ones(4, 3), torch.ones(5, 2), torch.zeros(5), torch.relu)


@pytest.mark.exercise("dense")
def test_layers_in_a_row(student):
    """`sequential` hands the output of each layer to the next."""
    params = [
        (torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([0.0, -1.0])),
        (torch.tensor([[1.0, -2.0]]), torch.tensor([0.0])),
    ]
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    got = student.sequential(x, params, [torch.relu, torch.neg])
    assert_close(got, torch.tensor([[-0.0], [-1.0], [-1.0], [-0.0]]), "minus XOR")
    with raises(ValueError):
        student.sequential(x, params, [torch.relu])


@pytest.mark.exercise("collapse")
def test_two_become_one(student):
    """`z = 3x + 1`, then `y = -2z + 5`, are together `y = -6x + 3`."""
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, w, b in ((first, 3.0, 1.0), (second, -2.0, 5.0)):
            layer.weight.fill_(w)
            layer.bias.fill_(b)
    one = student.collapse([first, second])
    assert_close(one.weight.detach(), torch.tensor([[-6.0]]), "the weight")
    assert_close(
        one.bias.detach(),
        torch.tensor([3.0]),
        "the bias",
        symptoms={
            "The biases are only added; the first one goes through the second layer.": torch.tensor(
                [6.0]
            ),
            "Only the last bias is left; the first one goes through the second layer.": (
                torch.tensor([5.0])
            ),
        },
    )


@pytest.mark.exercise("collapse")
def test_widths_differ(student):
    """Layers 2 → 4 → 3 collapse into one layer 2 → 3 with the same outputs."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 4), nn.Linear(4, 3, bias=False)]
    x = torch.randn(5, 2)
    with torch.no_grad():
        assert_close(student.collapse(layers)(x), layers[1](layers[0](x)), atol=1e-5)


@pytest.mark.exercise("collapse")
def test_bends_cannot_be_folded(student):
    """A ReLU in the list raises a TypeError, an empty list a ValueError."""
    with raises(TypeError):
        student.collapse([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)])
    with raises(ValueError):
        student.collapse([])


X = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.exercise("activations")
def test_values(student):
    """`act` gives the values of the library at -2, 0 and 1."""
    assert_close(student.act("sigmoid", X), X.sigmoid(), "sigmoid")
    assert_close(
        student.act("tanh", X),
        X.tanh(),
        "tanh",
        symptoms={"At 0, tanh is 0: the constant has the wrong sign.": X.tanh() + 2},
    )
    assert_close(student.act("relu", X), torch.tensor([0.0, 0, 1]).to(X), "ReLU")
    assert_close(student.act("leaky", X, 0.1), torch.tensor([-0.2, 0, 1]).to(X), "leaky, slope 0.1")


@pytest.mark.exercise("activations")
def test_slopes(student):
    """`dact` gives the derivatives; at 0, ReLU has 0 and the leaky ones have their slope."""
    s = X.sigmoid()
    assert_close(
        student.dact("sigmoid", X),
        s * (1 - s),
        "the sigmoid's derivative",
        symptoms={"The bracket holds 1 - s, not x - s.": s * (X - s)},
    )
    assert_close(student.dact("tanh", X), 1 - X.tanh() ** 2, "tanh's derivative")
    assert_close(student.dact("relu", X), torch.tensor([0.0, 0, 1]).to(X), "ReLU's derivative")
    leaky = torch.tensor([0.1, 0.1, 1]).to(X)
    assert_close(student.dact("leaky", X, 0.1), leaky, "the leaky one's derivative")


@pytest.mark.exercise("activations")
def test_random_slopes(student):
    """In evaluation RReLU has the slope 11/48; in training slopes differ, from 1/8 to 1/3."""
    x = -torch.ones(50)
    assert_close(student.act("rrelu", x[:2]), torch.tensor([-11 / 48] * 2), "rrelu in evaluation")
    slopes = -student.act("rrelu", x, training=True)
    low, high, different = slopes.min().item(), slopes.max().item(), slopes.unique().numel()
    assert_true(
        low >= 0.124 and high <= 0.334,
        f"The slopes reach from {low:.3f} to {high:.3f}; they should lie between 0.125 and 0.333.",
    )
    assert_true(
        different > 40,
        f"50 negative entries should draw 50 different slopes; here are only {different}.",
    )


@pytest.mark.exercise("activations")
def test_far_out(student):
    """Nothing is NaN far out, and unknown names raise a ValueError."""
    far = torch.tensor([-1000.0, 1000.0])
    assert_close(student.act("tanh", far), torch.tensor([-1.0, 1.0]), "tanh at -1000 and 1000")
    assert_close(student.dact("tanh", far), torch.zeros(2), "its derivative")
    with raises(ValueError):
        student.act("swoosh", far)


@pytest.mark.exercise("backprop")
def test_paper_example(student):
    """`backward` gives the numbers of the worked example."""
    params = {
        "W1": torch.tensor([[0.5, -0.25]]),
        "b1": torch.zeros(1),
        "W2": torch.tensor([[2.0]]),
        "b2": torch.zeros(1),
    }
    a2 = torch.sigmoid(torch.ones(1, 1))
    cache = {
        "x": torch.tensor([[1.0, 2.0]]),
        "z1": torch.zeros(1, 1),
        "a1": torch.full((1, 1), 0.5),
        "z2": torch.ones(1, 1),
        "a2": a2,
        "loss": "mse",
    }
    delta = 2 * (a2 - 1) * a2 * (1 - a2)
    got = student.backward(params, cache, torch.ones(1, 1))
    assert_equal(sorted(got), ["W1", "W2", "b1", "b2"], "the keys")
    assert_close(got["b2"], delta[0], "b2", symptoms={"The factor 2 is missing.": delta[0] / 2})
    assert_close(got["W2"], 0.5 * delta, "W2")
    assert_close(
        got["b1"],
        0.5 * delta[0],
        "b1",
        symptoms={"The sigmoid's slope at z1 is missing.": 2 * delta[0]},
    )
    assert_close(got["W1"], 0.5 * delta * torch.tensor([[1.0, 2.0]]), "W1")


@pytest.mark.exercise("backprop")
def test_two_classes(student):
    """With softmax and cross-entropy, the last layer's error is `a2 - one_hot(y)`, averaged."""
    params = {
        "W1": torch.ones(3, 1),
        "b1": torch.zeros(3),
        "W2": torch.zeros(2, 3),
        "b2": torch.zeros(2),
    }
    half = torch.full((4, 2), 0.5)
    cache = {
        "x": torch.zeros(4, 1),
        "z1": torch.zeros(4, 3),
        "a1": torch.full((4, 3), 0.5),
        "z2": torch.zeros(4, 2),
        "a2": half,
        "loss": "ce",
    }
    got = student.backward(params, cache, torch.tensor([1, 1, 1, 0]))
    expected = torch.tensor([0.25, -0.25])
    assert_close(
        got["b2"],
        expected,
        "b2",
        symptoms={
            "This is the sum over the batch; the loss is the mean.": 4 * expected,
            "The mean over examples and classes; it is over examples only.": expected / 2,
            "The sign is turned: it is a2 minus the wanted output.": -expected,
        },
    )
    assert_close(got["W2"], 0.5 * expected[:, None].expand(2, 3), "W2")
    assert_close(got["W1"], torch.zeros(3, 1), "W1")


@pytest.mark.exercise("sequential")
def test_names_and_outputs(student):
    """`MySequential` has the keys and the outputs of nn.Sequential, with and without names."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)]
    x = torch.randn(5, 3)
    for args in (layers, [OrderedDict(zip(("in", "bend", "out"), layers, strict=True))]):
        mine, library = student.MySequential(*args), nn.Sequential(*args)
        assert_equal(list(mine.state_dict()), list(library.state_dict()), "the keys")
        assert_close(mine(x).detach(), library(x).detach())


@probe
def _taken_apart(student):
    chain = student.MySequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    kinds = [type(chain[i]).__name__ for i in (0, 1, -1)]
    return len(chain), kinds, list(chain[1:].state_dict()), len(chain[:2])


@probe
def _name_twice(student):
    chain = student.MySequential(nn.Linear(3, 4))
    chain.add("bend", nn.ReLU())
    length = len(chain)
    chain.add("bend", nn.Tanh())
    return length


@pytest.mark.exercise("sequential")
def test_like_a_list(student):
    """It has a length, indices from both ends, and slices that keep the names."""
    length, kinds, keys, short = student.run(_taken_apart)
    assert_equal(length, 3, "its length")
    assert_equal(kinds, ["Linear", "Tanh", "Linear"], "the layers at 0, 1 and -1")
    assert_equal(keys, ["2.weight", "2.bias"], "the keys of the slice [1:]")
    assert_equal(short, 2, "the length of the slice [:2]")


@pytest.mark.exercise("sequential")
def test_no_name_twice(student):
    """`add` appends a layer, and raises a KeyError for a name that is taken."""
    with raises(KeyError):
        student.run(_name_twice)


@pytest.mark.exercise("lists")
def test_counts(student):
    """`count_params` counts what is registered, everything once, and no buffers."""
    assert_equal(student.count_params(nn.Linear(3, 2)), 8, "nn.Linear(3, 2)")
    assert_equal(student.count_params(nn.Linear(3, 2, bias=False)), 6, "without bias")
    assert_equal(student.count_params(nn.BatchNorm1d(5)), 10, "nn.BatchNorm1d(5)")
    deep = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.ReLU()]))
    assert_equal(student.count_params(deep), 12, "a nested module")


@probe
def _counted_twice(student):
    layer = nn.Linear(3, 3)
    tower = nn.Module()
    tower.floors = [nn.Linear(3, 3)]
    return student.count_params(nn.Sequential(layer, layer)), student.count_params(tower)


@pytest.mark.exercise("lists")
def test_shared_and_hidden(student):
    """A shared layer counts once; layers in a plain list do not count."""
    shared, hidden = student.run(_counted_twice)
    assert_equal(shared, 12, "the same nn.Linear(3, 3) twice")
    assert_equal(hidden, 0, "a layer in a plain list")


@pytest.mark.exercise("lists")
def test_switch(student):
    """`Switch` applies the chosen layer, then the chosen activation; unknown names are told."""
    twice, thrice = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        twice.weight.fill_(2)
        thrice.weight.fill_(-3)
    net = student.Switch(
        {"twice": twice, "thrice": thrice}, {"relu": nn.ReLU(), "id": nn.Identity()}
    )
    x = torch.tensor([[1.0], [-1.0]])
    assert_close(net(x, "twice", "relu").detach(), torch.tensor([[2.0], [0.0]]), "twice, relu")
    assert_close(net(x, "thrice", "id").detach(), torch.tensor([[-3.0], [3.0]]), "thrice, id")
    keys = ["choices.twice.weight", "choices.thrice.weight"]
    assert_equal(list(net.state_dict()), keys, "the keys")
    with raises(KeyError, match="twice.*thrice"):
        net(x, "half", "relu")


@pytest.mark.exercise("tying")
def test_one_weight(student):
    """There is one weight, and two biases that begin at zero."""
    net = student.TiedAutoencoder(4, 2)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert_equal(shapes, {"weight": (2, 4), "b_e": (2,), "b_d": (4,)}, "the parameters")
    assert_close(net.b_d.detach(), torch.zeros(4), "b_d")


@probe
def _code_and_back(student):
    net = student.TiedAutoencoder(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]))
        net.b_e.copy_(torch.tensor([0.0, 1.0]))
        net.b_d.copy_(torch.tensor([0.0, 0.0, 5.0]))
        x = torch.tensor([[1.0, 0.0, 7.0]])
        return net.encode(x), net.decode(torch.tensor([[1.0, 10.0]])), net(x)


@pytest.mark.exercise("tying")
def test_there_and_back(student):
    """`encode` is tanh(W x + b_e), `decode` is W^T c + b_d, and the call does both."""
    code, back, both = student.run(_code_and_back)
    one = torch.tensor(1.0).tanh().item()
    assert_close(
        code,
        torch.tensor([[one, one]]),
        "the code",
        symptoms={"The tanh is missing.": torch.tensor([[1.0, 1.0]])},
    )
    assert_close(back, torch.tensor([[1.0, 20.0, 5.0]]), "decode of (1, 10)")
    assert_close(both, torch.tensor([[one, 2 * one, 5.0]]), "the output")


@probe
def _sizes_of(student, width, depth):
    net = student.deep(width, depth)
    return len(net), sum(p.numel() for p in net.parameters()), net[0] is net[-2]


@pytest.mark.exercise("debug")
def test_parameters_grow(student):
    """Four layers of width 8 have 4 · 72 = 288 parameters."""
    parts, numbers, same = student.run(_sizes_of, 8, 4)
    assert_equal(parts, 8, "the number of modules")
    assert_close(
        numbers,
        288,
        "the number of parameters",
        symptoms={"It is one layer, four times: make a new one for each place.": 72},
    )
    assert_true(not same, "The first and the last layer are the same object.")
