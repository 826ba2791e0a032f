"""Hidden tests of the chapter on transfer learning."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.preprocessing import LabelEncoder
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

# --- head ------------------------------------------------------------------------------------


@probe
def head_replaced(student, name, n_classes, bias, dtype, device):
    """State before and after replace_head, the answer's identity, and an output."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU()))
    model.add_module("classifier", nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 4, bias=bias)))
    model.add_module("other", nn.Sequential(nn.Linear(4, 4)))
    model.to(device, getattr(torch, dtype)).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    out = student.replace_head(model, n_classes, name)
    after = {k: v.clone() for k, v in model.state_dict().items()}
    layer = model.get_submodule(name)
    frozen = [k for k, p in model.named_parameters() if not p.requires_grad]
    return state, after, out is model, type(layer).__name__, frozen


@pytest.mark.exercise("head", points=3)
@pytest.mark.parametrize(
    "name, n_classes, inputs", [("classifier.1", 9, 6), ("classifier.0", 6, 7), ("other.0", 1, 4)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_only_the_head_changes(student, device, name, n_classes, inputs, dtype):
    """replace_head should change the named layer's outputs, and leave all other numbers alone."""
    before, after, same, kind, frozen = student.run(
        head_replaced, name, n_classes, True, dtype, device
    )
    assert_equal(kind, "Linear", f"the type of the layer {name}")
    shapes = {k: list(v.shape) for k, v in before.items()}
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [n_classes, inputs], [n_classes]
    got = {k: list(v.shape) for k, v in after.items()}
    assert_equal(got, shapes, "the shapes of the state dict")
    for key, value in before.items():
        if not key.startswith(name):
            assert_close(after[key], value, key)
    new = after[f"{name}.weight"]
    assert_equal(str(new.dtype), f"torch.{dtype}", "the dtype of the new weight")
    assert_equal(new.device.type, torch.device(device).type, "the device of the new weight")
    assert_equal(frozen, [], "parameters of the model that cannot train")
    assert_equal(same, True, "whether the answer is the model that was given")


@pytest.mark.exercise("head", points=2)
def test_new_numbers_and_bias(student, device):
    """The new head should have new random numbers, and a bias only if the old one had."""
    before, after, *_ = student.run(head_replaced, "classifier.1", 5, True, "float32", device)
    new, old = after["classifier.1.weight"], before["classifier.1.weight"]
    assert_equal(tuple(new.shape), (5, 6), "the shape of the new weight")
    kept = (new[:4] - old).abs().amax(1) < 1e-4
    assert_equal(int(kept.sum()), 0, "the number of rows that are still the old head's")
    spread = after["classifier.1.weight"].std()
    assert_equal(bool(spread > 1e-3), True, "whether the new numbers are random")
    _, after, *_ = student.run(head_replaced, "classifier.1", 3, False, "float32", device)
    names = [k for k in after if k.startswith("classifier.1")]
    assert_equal(names, ["classifier.1.weight"], "entries of a head without bias")


@probe
def plain_layer_replaced(student):
    """The layer at the top level of a model, and what it answers."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    out = student.replace_head(model, 5, "1")
    shape, names = list(out(torch.ones(4, 3)).shape), [n for n, _ in out.named_children()]
    elsewhere = student.replace_head(nn.Sequential(nn.Linear(3, 2, device="meta")), 5, "0")
    return shape, names, [p.device.type for p in elsewhere.parameters()]


@pytest.mark.exercise("head", points=1)
def test_top_level_name(student):
    """A name without dots should work, the order of the layers stay, and their device, too."""
    shape, names, where = student.run(plain_layer_replaced)
    assert_equal(where, ["meta", "meta"], "the device of a new head of a model on `meta`")
    assert_equal(shape, [4, 5], "the shape of the output")
    assert_equal(names, ["0", "1"], "the layers")


@pytest.mark.exercise("head", points=2)
@pytest.mark.parametrize(
    "name, error",
    [
        ("fc", AttributeError),
        ("classifier.7", AttributeError),
        ("body.2", TypeError),
        ("classifier", TypeError),
        ("body.1", TypeError),
    ],
)
def test_wrong_names(student, name, error):
    """A name that is not there should be an AttributeError, one of another layer a TypeError."""
    with raises(error):
        student.run(head_replaced, name, 3, True, "float32", "cpu")


@probe
def partly_loaded(student, state):
    """The report, the state afterwards, and whether the module still trains."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(7)
    model.to(torch.float64)
    report = student.load_partial(model, state)
    return report, {k: v.clone() for k, v in model.state_dict().items()}


def some_state(**changes):
    """A state for the model of partly_loaded, with changed or (None) missing entries."""
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().state_dict()
    state = {
        k: randn(*v.shape) if v.is_floating_point() else torch.tensor(3) for k, v in state.items()
    }
    state.update({k.replace("__", "."): v for k, v in changes.items()})
    return {k: v for k, v in state.items() if v is not None}


KEYS = ("missing", "unexpected", "mismatched")
CASES = {
    "all fits": {},
    "a new head": {"2__weight": torch.ones(5, 4), "2__bias": torch.ones(5)},
    "names": {"0__bias": None, "1__running_mean": None, "extra": torch.ones(1)},
    "same size, other shape": {"0__weight": torch.ones(4, 3).T.contiguous(), "2__weight": None},
    "broadcast": {"1__weight": torch.ones(1), "0__bias": torch.ones(1, 4), "z": torch.ones(2)},
    "order": {"2__weight": None, "0__weight": None, "y": torch.ones(1), "b": torch.ones(1)},
}


@pytest.mark.exercise("head", points=5)
@pytest.mark.parametrize("case", list(CASES))
def test_report_and_numbers(student, case):
    """load_partial should load what fits, keep the rest, and report names in sorted lists."""
    state = some_state(**CASES[case])
    with unchanged(state):
        report, after = student.run(partly_loaded, state)
    shapes = {k: v.shape for k, v in after.items()}
    expected = {
        "missing": sorted(k for k in shapes if k not in state),
        "unexpected": sorted(k for k in state if k not in shapes),
        "mismatched": sorted(k for k in state if k in shapes and state[k].shape != shapes[k]),
    }
    swapped = dict(expected, missing=expected["unexpected"], unexpected=expected["missing"])
    symptoms = {}
    if swapped != expected:
        symptoms["Missing is what the state lacks; the two lists are exchanged."] = swapped
    assert_close(report, expected, "the report", symptoms=symptoms)
    for key, value in after.items():
        if key in state and state[key].shape == shapes[key]:
            assert_close(value, state[key].to(value.dtype), f"{key}, which fits")
        else:
            assert_close(value, torch.full_like(value, 7), f"{key}, which should stay")


@probe
def loaded_entries_are_copies(student):
    """Whether training the model later changes the state that it was loaded from."""
    model = nn.Linear(2, 2)
    state = {"weight": torch.ones(2, 2)}
    student.load_partial(model, state)
    trainable = model.weight.requires_grad
    with torch.no_grad():
        model.weight.add_(1)
    return state["weight"].clone(), trainable


@pytest.mark.exercise("head", points=2)
def test_state_stays(student):
    """Training after load_partial should not change the state dict, and the weights can train."""
    state, trainable = student.run(loaded_entries_are_copies)
    assert_close(state, torch.ones(2, 2), "the state after the model was trained")
    assert_equal(trainable, True, "whether the loaded weight can train")


# --- freeze ----------------------------------------------------------------------------------


@probe
def after_freeze(student, except_, frozen_before):
    """Freeze's answer and the flags, for a model with similar names."""
    model = nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)),
            "head": nn.Linear(2, 2),
            "head2": nn.Linear(2, 2, bias=False),
        }
    )
    for name in frozen_before:
        model.get_submodule(name).requires_grad_(False)
    answer = student.freeze(model, *([except_] if except_ is not None else []))
    flags = {k: p.requires_grad for k, p in model.named_parameters()}
    return answer, [k for k, free in flags.items() if free], model.training


@pytest.mark.exercise("freeze", points=4)
@pytest.mark.parametrize(
    "except_, before, free",
    [
        (None, [], []),
        ((), ["head"], []),
        (("head",), [], ["head.weight", "head.bias"]),
        (("head",), ["head", "body"], ["head.weight", "head.bias"]),
        (
            ("head2", "body.1"),
            ["body"],
            ["body.1.weight", "body.1.bias", "head2.weight"],
        ),
        (
            ("body",),
            [],
            [f"body.{i}.{p}" for i in range(3) for p in ("weight", "bias")],
        ),
    ],
)
def test_trainable_parameters(student, except_, before, free):
    """freeze should leave exactly the parameters of the excepted modules trainable."""
    answer, found, training = student.run(after_freeze, except_, before)
    assert_equal(found, free, "the trainable parameters")
    assert_equal(list(answer), free, "the answer of freeze")
    assert_equal(training, True, "whether the model is still in train mode")


@pytest.mark.exercise("freeze", points=1)
@pytest.mark.parametrize("except_", [("haed",), ("head", "body.9"), ("he",)])
def test_freeze_unknown_name(student, except_):
    """freeze should raise an AttributeError for a module that is not there."""
    with raises(AttributeError):
        student.run(after_freeze, except_, [])


@probe
def bn_network(student, dims, free, x, steps):
    """Twenty steps with frozen_bn_eval, then names, changed entries, and outputs."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    torch.manual_seed(0)
    model = nn.Sequential()
    body = nn.Sequential(
        conv(2, 3, 1), norm(3), nn.ReLU(), conv(3, 4, 1), norm(4, affine=False), nn.Flatten()
    )
    model.add_module("body", body)
    size = int(np.prod(x.shape[2:]))
    model.add_module("head", nn.Sequential(nn.Linear(4 * size, 3), nn.BatchNorm1d(3)))
    model.requires_grad_(False)
    for name in free:
        model.get_submodule(name).requires_grad_(True)
    names = student.frozen_bn_eval(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = model.body.eval()(x).detach().clone()
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.1) if params else None
    for _ in range(steps):
        model.train()
        loss = model(x).pow(2).sum()
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    in_train_mode = model.body(x).detach().clone()
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    return names, changed, first, in_train_mode


HEAD = ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]
HEAD_BUFFERS = ["head.1.running_mean", "head.1.running_var", "head.1.num_batches_tracked"]


@pytest.mark.exercise("freeze", points=4)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_twenty_steps_on_the_head(student, dims):
    """After 20 steps on the head the body's numbers, buffers and outputs should be unchanged."""
    x = randn(6, 2, *[3, 2, 2][:dims], dtype=torch.float32) * 2 + 1
    names, changed, first, later = student.run(bn_network, dims, ["head"], x, 20)
    assert_equal(names, ["body.1", "body.4"], "the names of frozen batch norm")
    buffers = [
        f"body.{i}.{k}"
        for i in (1, 4)
        for k in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert_close(
        sorted(changed),
        sorted(HEAD + HEAD_BUFFERS),
        "the entries that changed",
        symptoms={
            "model.train() undoes eval(); it has to last.": sorted(HEAD + HEAD_BUFFERS + buffers),
            "Trainable batch norm should work as usual.": sorted(HEAD),
        },
    )
    assert_close(later, first, "the body's output in train mode, after 20 steps")


@pytest.mark.exercise("freeze", points=2)
@pytest.mark.parametrize(
    "free, names",
    [
        (["body.0"], ["body.1", "body.4", "head.1"]),
        (["body.1", "head.0"], ["body.4", "head.1"]),
        ([], ["body.1", "body.4", "head.1"]),
    ],
)
def test_which_layers(student, free, names):
    """Only layers without a trainable parameter should be kept in eval mode."""
    x = randn(5, 2, 2, 3, dtype=torch.float32)
    got, changed, *_ = student.run(bn_network, 2, free, x, 2)
    assert_equal(got, names, "the names of frozen batch norm")
    moving = [f"{n}.running_mean" for n in ("body.1", "body.4", "head.1") if n not in names]
    means = [k for k in changed if "mean" in k]
    assert_close(means, moving, "the running means that moved")


@probe
def partly_trainable(student, x):
    """A batch norm with one trainable parameter of two, and dropout beside it."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    model[2].requires_grad_(False)
    names = student.frozen_bn_eval(model)
    model.train()
    torch.manual_seed(0)
    zeros = (model[1](torch.ones(1000)) == 0).double().mean().item()
    model(x)
    means = [model[i].running_mean.clone() for i in (0, 2)]
    model.eval()
    quiet = (model[1](torch.ones(1000)) == 0).double().mean().item()
    before = model[0].running_mean.clone()
    model(x)
    still = torch.equal(model[0].running_mean, before)
    return names, means, zeros > 0.3, quiet, still


@pytest.mark.exercise("freeze", points=2)
def test_others_follow_train_and_eval(student):
    """Dropout, and batch norm that can train at all, should follow train() and eval() as usual."""
    x = randn(4, 3, dtype=torch.float32) + 2
    names, means, drops, quiet, still = student.run(partly_trainable, x)
    assert_equal(names, ["2"], "the names of frozen batch norm")
    assert_close(means[0], 0.1 * x.mean(0), "the running mean of the trainable layer")
    assert_close(means[1], torch.zeros(3), "the running mean of the frozen layer")
    assert_equal(drops, True, "whether dropout works in train mode")
    assert_equal(quiet, 0.0, "the share that dropout drops in eval mode")
    assert_equal(still, True, "whether the trainable layer is at rest in eval mode")


@probe
def value_and_gradient(student, x, stats):
    """Output and input gradient of a frozen layer in train mode, beside eval mode."""
    results = []
    for ours in (True, False):
        layer = nn.Sequential(nn.BatchNorm2d(3)).double()
        with torch.no_grad():
            layer[0].weight.copy_(stats[0])
            layer[0].bias.copy_(stats[1])
            layer[0].running_mean.copy_(stats[2])
            layer[0].running_var.copy_(stats[3].abs() + 0.5)
        layer.requires_grad_(False)
        if ours:
            student.frozen_bn_eval(layer)
            layer.train()
        else:
            layer.eval()
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        (grad,) = torch.autograd.grad((out**3).sum(), leaf)
        results.append([out.detach(), grad])
    return results


@pytest.mark.exercise("freeze", points=2)
def test_value_and_gradient_of_eval_mode(student):
    """A frozen layer in train mode should have the value and the gradient of eval mode."""
    got, expected = student.run(value_and_gradient, randn(2, 3, 4, 5), randn(4, 3))
    assert_close(list(got), list(expected), "output and gradient")


# --- groups ----------------------------------------------------------------------------------


@probe
def grouped(student, kind, head, base_lr, factor):
    """Names and rates of the groups of a model; the optimizer accepts them."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)))
    model.add_module("neck", nn.Linear(4, 4, bias=False))
    model.add_module("head", nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    if kind == "frozen":
        model.body[0].requires_grad_(False)
        model.head[0].bias.requires_grad_(False)
    elif kind == "frozen body":
        model.body.requires_grad_(False)
        model.neck.requires_grad_(False)
    elif kind == "tied":
        model.head[2].weight = model.neck.weight
    elif kind == "tied body":
        model.body[2].weight = model.body[0].weight
    elif kind == "tied head":
        model.head[2].weight = model.head[0].weight
    flags = [p.requires_grad for p in model.parameters()]
    groups = student.param_groups(model, head, base_lr, factor)
    name = {id(p): k for k, p in model.named_parameters()}
    names = [[name.get(id(p), "no parameter of the model") for p in g["params"]] for g in groups]
    same = flags == [p.requires_grad for p in model.parameters()]
    lrs = [g["lr"] for g in torch.optim.SGD(groups, lr=123.0).param_groups]
    return names, lrs, same


BODY = ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
BODY += ["body.2.weight", "body.2.bias", "neck.weight"]
TOP = ["head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"]


def without(names, *gone):
    return [name for name in names if name not in gone]


@pytest.mark.exercise("groups", points=3)
@pytest.mark.parametrize(
    "kind, expected",
    [
        ("plain", [BODY, TOP]),
        ("frozen", [BODY[2:], without(TOP, "head.0.bias")]),
        ("frozen body", [[], TOP]),
    ],
)
def test_every_parameter_once(student, kind, expected):
    """Each trainable parameter should be in its group, in the model's order; frozen ones not."""
    found, _, same = student.run(grouped, kind, "head", 0.1, 0.1)
    assert_equal(len(found), 2, "the number of groups")
    for part, got, names in zip(("body", "head"), found, expected, strict=True):
        assert_equal(list(got), names, f"the {part}'s group")
    assert_equal(same, True, "whether requires_grad is as it was")


@pytest.mark.exercise("groups", points=3)
@pytest.mark.parametrize(
    "kind, expected",
    [
        ("tied", [without(BODY, "neck.weight"), [*TOP[:2], "neck.weight", TOP[3]]]),
        ("tied body", [without(BODY, "body.2.weight"), TOP]),
        ("tied head", [BODY, without(TOP, "head.2.weight")]),
    ],
)
def test_tied_weights_once(student, kind, expected):
    """A tied weight should be there once, with the head if the head uses it."""
    found, *_ = student.run(grouped, kind, "head", 0.1, 0.1)
    for part, got, names in zip(("body", "head"), found, expected, strict=True):
        assert_equal(sorted(got), sorted(names), f"the {part}'s group, sorted")


@pytest.mark.exercise("groups", points=3)
@pytest.mark.parametrize("base_lr, factor", [(0.3, 0.1), (0.02, 0.5), (0.4, 0.0), (0.01, 10.0)])
def test_rates(student, base_lr, factor):
    """The head's rate should be base_lr, the body's base_lr * factor."""
    _, rates, _ = student.run(grouped, "plain", "head", base_lr, factor)
    assert_close(
        list(rates),
        [base_lr * factor, base_lr],
        "the rates of body and head",
        symptoms={
            "The rates of body and head are exchanged.": [base_lr, base_lr * factor],
            "The factor is a multiple of base_lr, not the rate itself.": [factor, base_lr],
        },
    )


@pytest.mark.exercise("groups", points=1)
def test_any_head(student):
    """Any module can be the head, also one in the middle; an unknown one is an AttributeError."""
    (body, top), *_ = student.run(grouped, "plain", "body.1", 0.1, 0.1)
    inside = ["body.1.weight", "body.1.bias"]
    assert_equal(list(top), inside, "the head's group for the head body.1")
    assert_equal(list(body), without(BODY + TOP, *inside), "the body's group for the head body.1")
    with raises(AttributeError):
        student.run(grouped, "plain", "fc", 0.1, 0.1)


# --- labels ----------------------------------------------------------------------------------

TREES = ["ulmus", "acer", "Betula", "quercus_alba", "quercus", "acer2", "betula", "ilex", "Ulmus"]


def some_names(count):
    return [TREES[i] for i in randint(0, len(TREES), (count,)).tolist()]


@probe
def fitted(student, fit_on, names, numbers):
    """Everything that a label map says."""
    label_map = student.LabelMap()
    answer = label_map.fit(fit_on)
    return {
        "classes": list(label_map.classes),
        "encoded": label_map.encode(names),
        "decoded": label_map.decode(numbers),
        "json": label_map.to_json(),
        "self": answer is label_map,
    }


@pytest.mark.exercise("labels", points=4)
@pytest.mark.parametrize("count", [1, 30, 80])
def test_equals_label_encoder(student, count):
    """Classes, numbers and names should be those of scikit-learn's LabelEncoder."""
    names = some_names(count)
    encoder = LabelEncoder().fit(names)
    some = names[::-1][: count // 2 + 1]
    numbers = encoder.transform(some).tolist()
    with unchanged(names, some, numbers):
        got = student.run(fitted, names, some, numbers)
    assert_close(got["classes"], encoder.classes_.tolist(), "classes")
    assert_close(got["encoded"], torch.tensor(numbers), "the encoded names")
    assert_close(got["decoded"], some, "the decoded numbers")


@pytest.mark.exercise("labels", points=3)
def test_stable_under_shuffling(student):
    """The map should not depend on the order or the number of the rows, and fit returns self."""
    names = TREES * 2
    expected = list(range(len(TREES)))
    for seed in range(3):
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        shuffled = [names[i] for i in order.tolist()]
        got = student.run(fitted, shuffled, sorted(TREES), [0])
        assert_close(got["encoded"], torch.tensor(expected), "the encoded names, sorted")
    assert_equal(got["self"], True, "whether fit returns the label map itself")


@pytest.mark.exercise("labels", points=2)
@pytest.mark.parametrize("names", [["ash"], ["acer", "ash", "ilex"], ["ilex", "acer "]])
def test_unseen_label(student, names):
    """encode should raise a ValueError that tells the name that was not in fit."""
    unknown = next(n for n in names if n not in TREES)
    with raises(ValueError, match=unknown.strip()):
        student.run(fitted, TREES, names, [0])


@pytest.mark.exercise("labels", points=2)
@pytest.mark.parametrize("numbers", [[-1], [0, 9], [-10, 3], [100]])
def test_number_out_of_range(student, numbers):
    """decode should raise a ValueError for numbers below 0 or beyond the last class."""
    with raises(ValueError):
        student.run(fitted, TREES, ["acer"], numbers)


@probe
def json_text(student, names):
    """What to_json answers."""
    return student.LabelMap().fit(names).to_json()


@probe
def read_back(student, names, read, other):
    """A map that is fitted on the names that were read, and one that is fitted twice."""
    second = student.LabelMap().fit(read)
    again = student.LabelMap().fit(names)
    again.fit(other)
    return second.encode(names), second.decode([0]), list(again.classes)


def parsed(text):
    """What a JSON text says; the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.exercise("labels", points=3)
def test_json(student):
    """to_json should be the JSON text of the sorted names, and give the same map when read."""
    names = ["oak", 'the "red" elm', "épicéa", "oak", "fir"]
    text = student.run(json_text, names)
    assert_equal(type(text).__name__, "str", "the type of to_json's answer")
    assert_equal(parsed(text), sorted(set(names)), "the JSON text, read,")
    numbers, first, again = student.run(read_back, names, parsed(text), ["b", "a"])
    expected = torch.from_numpy(LabelEncoder().fit_transform(names))
    assert_close(numbers, expected, "the numbers after reading back")
    assert_close(first, ["fir"], "the name of 0 after reading back")
    assert_close(again, ["a", "b"], "classes after a second fit")


@pytest.mark.exercise("labels", points=1)
def test_types(student):
    """encode should give an int64 tensor, also for no names; decode takes a tensor, too."""
    got = student.run(fitted, TREES, [], torch.tensor([2, 0]))
    assert_close(got["encoded"], torch.empty(0, dtype=torch.int64), "no names")
    assert_close(got["decoded"], [sorted(TREES)[2], sorted(TREES)[0]], "the decoded tensor")


# --- split -----------------------------------------------------------------------------------


def generator(seed):
    return torch.Generator().manual_seed(seed)


MIXED = ["oak"] * 13 + ["elm"] * 5 + ["fir"] + ["ash"] * 2 + ["oak"] * 8 + ["yew"] * 40


def split_of(student, *args):
    """The two parts, which have to be tensors."""
    parts = student.stratified_split(*args)
    assert_equal([type(part).__name__ for part in parts], ["Tensor", "Tensor"], "the types")
    return parts


@pytest.mark.exercise("split", points=4)
@pytest.mark.parametrize(
    "labels, frac",
    [
        (MIXED, 0.2),
        (MIXED, 0.5),
        (MIXED, 0.75),
        ([3, 1, 1, 3, 3, 1, 1, 1], 0.3),
        (["a"] * 10, 0.4),
    ],
)
def test_shares_of_every_class(student, labels, frac):
    """Of each class frac * n should be in valid, to within one item, and at least one in train."""
    with unchanged(labels):
        train, valid = split_of(student, labels, frac, generator(1))
    for name in sorted(set(labels)):
        n = labels.count(name)
        count = sum(labels[i] == name for i in valid.tolist())
        kept = sum(labels[i] == name for i in train.tolist())
        what = f"the number of {name!r} (of {n}) in valid"
        wanted = Fraction(str(frac)) * n
        low = max(0, min(int(wanted), n - 1))
        high = max(0, min(-int(-wanted // 1), n - 1))
        if not low <= count <= high:
            assert_equal(count, low, what)
        assert_equal(kept, n - count, f"the number of {name!r} in train")


@pytest.mark.exercise("split", points=3)
@pytest.mark.parametrize("labels", [MIXED, ["a"], list("abcabcabb"), [2, 2, 0]])
def test_a_partition(student, labels):
    """Both parts should be int64 tensors that together hold every index once."""
    train, valid = split_of(student, labels, 0.4, generator(2))
    assert_equal(str(train.dtype), "torch.int64", "the dtype of train")
    assert_equal(str(valid.dtype), "torch.int64", "the dtype of valid")
    both = torch.cat([train, valid]).sort().values
    assert_close(both, torch.arange(len(labels)), "the indices of both parts, sorted")


@pytest.mark.exercise("split", points=2)
@pytest.mark.parametrize("frac", [0.01, 0.5, 0.99])
def test_singletons(student, frac):
    """A class with one member should be in train, whatever frac is; others keep one in train."""
    labels = ["b", "a", "a", "c", "d", "d", "d"]
    train, valid = split_of(student, labels, frac, generator(3))
    where = {name: [labels[i] for i in train.tolist()].count(name) for name in "bc"}
    assert_equal(where, {"b": 1, "c": 1}, "how many of b and c are in train")
    missing = sorted(set(labels) - {labels[i] for i in train.tolist()})
    assert_close(missing, [], "the classes without a member in train")
    if frac == 0.99:
        assert_equal(len(valid), 3, "the size of valid (1 of 2 and 2 of 3) for frac = 0.99")


@pytest.mark.exercise("split", points=3)
def test_reproducible(student):
    """The same seed of rng should give the same split, whatever the global generators do."""
    found = []
    for seed, other in ((4, 0), (4, 1), (5, 0), (6, 0)):
        torch.manual_seed(other)
        np.random.seed(other)
        train, valid = split_of(student, MIXED, 0.3, generator(seed))
        found.append([valid.sort().values, train.sort().values])
    assert_close(found[1], found[0], "two splits with the same seed")
    different = len({tuple(valid.tolist()) for valid, _ in found[1:]})
    assert_equal(different, 3, "the number of different splits from three seeds")


@probe
def how_often(student, labels, frac, repeats):
    """How often each index is drawn into valid, with one generator for all."""
    rng = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(labels))
    state = torch.get_rng_state()
    for _ in range(repeats):
        counts[student.stratified_split(labels, frac, rng)[1]] += 1
    return counts / repeats, torch.equal(torch.get_rng_state(), state)


@pytest.mark.exercise("split", points=2)
def test_every_member_is_drawn(student):
    """Each member of a class should be equally likely to be in valid, and rng goes on."""
    labels = ["a", "b", "a", "a", "b", "b", "a", "b", "a", "a", "a", "a"]
    share, untouched = student.run(how_often, labels, 0.25, 600)
    expected = torch.full((12,), 0.25)
    assert_close(share, expected, "how often each index is in valid", rtol=0, atol=0.1)
    assert_equal(untouched, True, "whether the global generator is as it was")


@pytest.mark.exercise("split", points=1)
@pytest.mark.parametrize("frac", [0, 1, -0.2, 1.0, 0.0, 2])
def test_share_out_of_range(student, frac):
    """A share that is not strictly between 0 and 1 should be a ValueError."""
    with raises(ValueError):
        student.stratified_split(["a", "b", "a"], frac, generator(0))


# --- loader ----------------------------------------------------------------------------------


@probe
def from_table(student, table, sizes, transform, index):
    """Write pictures of given sizes and a table; tell what CSVImages makes of them."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from PIL import Image

    class Names:
        def encode(self, names):
            known = ["fir", "oak", "yew"]
            for name in names:
                if name not in known:
                    raise ValueError("unknown: " + name)
            return torch.tensor([known.index(name) for name in names], dtype=torch.int64)

    calls = []

    def double(picture):
        calls.append(picture.mode)
        return torch.from_numpy(np.asarray(picture).copy()).long() * 2

    with TemporaryDirectory() as folder:
        root = Path(folder) / "pictures"
        for number, (file, mode, size) in enumerate(sizes):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            pixels = (np.arange(size[0] * size[1]) * 7 + 20 * number) % 200
            picture = Image.fromarray(pixels.reshape(size).astype(np.uint8))
            picture.convert(mode).save(root / file)
        path = Path(folder) / "tables" / "some.csv"
        path.parent.mkdir()
        path.write_text(table, encoding="utf-8")
        args = [str(path), str(root), Names()] + ([double] if transform else [])
        dataset = student.CSVImages(*args)
        if index is None:
            return len(dataset), len(calls), isinstance(dataset, torch.utils.data.Dataset)
        item = dataset[index]
        if isinstance(item, tuple) != ("label" in table.split("\n")[0]):
            kind = "a tuple of " + str(len(item)) if isinstance(item, tuple) else "no tuple"
            return None, None, kind, None, calls
        picture, label = item if isinstance(item, tuple) else (item, "no label")
        mode = "a tensor" if transform else picture.mode
        pixels = picture.numpy() if transform else np.asarray(picture).copy()
        return torch.from_numpy(pixels).long(), label, type(label).__name__, mode, calls


FILES = [("a.png", "L", (2, 3)), ("deep/b.png", "RGB", (4, 2)), ("c.png", "RGBA", (3, 3))]
WITH = "image,label\na.png,yew\ndeep/b.png,fir\nc.png,oak\n"
WITHOUT = "image\nc.png\na.png\n"
EXTRA = "number,label,image\n7,oak,c.png\n8,oak,a.png\n"


def pixels_of(number, size):
    grey = (torch.arange(size[0] * size[1]) * 7 + 20 * number) % 200
    return grey.view(*size, 1).expand(*size, 3)


@pytest.mark.exercise("loader", points=2)
@pytest.mark.parametrize(
    "table, rows",
    [(WITH, 3), (WITHOUT, 2), (EXTRA, 2), ("image,label\nc.png,oak\n", 1), ("image,label\n", 0)],
)
def test_length(student, table, rows):
    """len should be the number of rows, with labels or without; no picture is transformed yet."""
    size, calls, is_dataset = student.run(from_table, table, FILES, True, None)
    assert_equal(size, rows, "the length")
    assert_equal(calls, 0, "how often transform was called before an item was asked for")
    assert_equal(is_dataset, True, "whether CSVImages is a Dataset")


@pytest.mark.exercise("loader", points=3)
@pytest.mark.parametrize(
    "table, index, number, label",
    [(WITH, 0, 0, 2), (WITH, 1, 1, 0), (WITH, 2, 2, 1), (EXTRA, 1, 0, 1)],
)
@pytest.mark.parametrize("transform", [True, False])
def test_items_with_labels(student, table, index, number, label, transform):
    """An item should be the RGB picture of its row, transformed once, and an int label."""
    x, y, kind, mode, calls = student.run(from_table, table, FILES, transform, index)
    if x is None:
        assert_equal(kind, "a tuple of 2", "an item of a table with labels")
    expected = pixels_of(number, FILES[number][2])
    assert_close(
        x,
        2 * expected if transform else expected,
        "the picture",
        symptoms={
            "The transform was applied twice.": 4 * expected,
            "The transform was not applied.": expected,
        }
        if transform
        else {},
    )
    assert_equal([y, kind], [label, "int"], "the label and its type")
    assert_equal(mode, "a tensor" if transform else "RGB", "the picture's mode")
    assert_equal(calls, ["RGB"] if transform else [], "the modes that transform has seen")


@pytest.mark.exercise("loader", points=2)
@pytest.mark.parametrize("index, number", [(0, 2), (1, 0)])
@pytest.mark.parametrize("transform", [True, False])
def test_items_without_labels(student, index, number, transform):
    """Without the column label an item should be the picture alone, in the order of the rows."""
    x, _, kind, *_ = student.run(from_table, WITHOUT, FILES, transform, index)
    if x is None:
        assert_equal(kind, "a picture alone", "an item of a table without labels")
    expected = pixels_of(number, FILES[number][2])
    assert_close(x, 2 * expected if transform else expected, "the picture")


@pytest.mark.exercise("loader", points=1)
@pytest.mark.parametrize(
    "table, name",
    [
        ("image,label\na.png,fir\ndeep/gone.png,oak\n", "gone.png"),
        ("image\nlost.png\na.png\n", "lost.png"),
    ],
)
def test_missing_picture(student, table, name):
    """A missing picture should be a FileNotFoundError with its path when the data set is made."""
    with raises(FileNotFoundError, match=f"pictures.*{name}"):
        student.run(from_table, table, FILES, True, None)


@pytest.mark.exercise("loader", points=1)
def test_folder(student):
    """A row that names a folder should be a FileNotFoundError with its path, as it is no file."""
    with raises(FileNotFoundError, match="pictures.*deep"):
        student.run(from_table, "image\ndeep\n", FILES, True, None)


@pytest.mark.exercise("loader", points=1)
def test_unknown_label(student):
    """A label that the map does not know should be its ValueError when the data set is made."""
    table = "image,label\na.png,fir\nc.png,ash\n"
    with raises(ValueError, match="ash"):
        student.run(from_table, table, FILES, True, None)


# --- finetune --------------------------------------------------------------------------------


@probe
def finetuned(student, state, batches, epochs, valid, head, lr, factor, double):
    """History, state, flags and mode after finetune, and what the loader saw."""
    model = nn.Sequential()
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
    model.add_module("body", body)
    model.add_module("head", nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    if double:
        model.double()
    model.load_state_dict(state)
    history = student.finetune(model, batches, epochs, valid, head, lr, factor)
    flags = [k for k, p in model.named_parameters() if p.requires_grad]
    return history, {k: v.clone() for k, v in model.state_dict().items()}, flags, model.training


def small_net():
    model = nn.Sequential()
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
    model.add_module("body", body)
    model.add_module("head", nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    return model.double()


def some_task(batch_sizes=(6, 6, 3), seed=0):
    """A network's state, batches, and a validation set of numbers."""
    model = small_net()
    state = {
        k: randn(*v.shape) * 0.5 + (k.endswith("running_var") or "1.weight" in k) * 1.0
        if v.is_floating_point()
        else v.clone()
        for k, v in model.state_dict().items()
    }
    for key in state:
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
    batches = [(randn(n, 4) + 1, randint(0, 3, (n,))) for n in batch_sizes]
    valid = (randn(40, 4) + 1, randint(0, 3, (40,)))
    return state, batches, valid


def by_the_book(state, batches, epochs, valid, head, lr, factor):
    """All epochs of plain fine-tuning: losses, accuracies, and the state after each epoch."""
    model = small_net()
    model.load_state_dict(state)
    top = model.get_submodule(head)
    inside = {id(p) for p in top.parameters()}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups = [{"params": list(top.parameters()), "lr": lr}]
    if factor:
        groups.append({"params": rest, "lr": lr * factor})
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    losses, accuracies, states = [], [], []
    for _ in range(epochs):
        model.train()
        if not factor:
            model.eval()
            top.train()
        parts = []
        for x, y in batches:
            optimizer.zero_grad()
            parts.append(F.cross_entropy(model(x), y, reduction="none"))
            parts[-1].mean().backward()
            optimizer.step()
        losses.append(torch.cat(parts).mean().item())
        model.eval()
        with torch.no_grad():
            accuracies.append((model(valid[0]).argmax(1) == valid[1]).double().mean().item())
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    return losses, accuracies, states


@pytest.mark.exercise("finetune", points=5)
@pytest.mark.parametrize("lr, factor", [(0.05, 1.0), (0.1, 0.1), (0.05, 0.0), (0.02, 3.0)])
@pytest.mark.parametrize("head", ["head", "head.2"])
def test_history_and_weights(student, lr, factor, head):
    """Losses, accuracies and the best weights should be those of plain SGD with momentum 0.9."""
    state, batches, valid = some_task()
    args = (state, batches, 6, valid, head, lr, factor)
    history, after, _, training = student.run(finetuned, *args, True)
    losses, accuracies, states = by_the_book(*args)
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert_equal(sorted(history), ["accuracy", "best", "loss"], "the keys of the history")
    kinds = {type(v).__name__ for v in [*history["loss"], *history["accuracy"]]}
    assert_equal(sorted(kinds), ["float"], "the types of the losses and accuracies")
    assert_close(list(history["loss"]), losses, "the losses", **close)
    assert_close(list(history["accuracy"]), accuracies, "the accuracies", **close)
    best = accuracies.index(max(accuracies))
    assert_equal(history["best"], best, "the best epoch")
    assert_equal(training, False, "whether the model is in train mode in the end")
    for key, value in states[best].items():
        assert_close(after[key], value, f"{key} in the end", rtol=1e-5, atol=1e-6)


@pytest.mark.exercise("finetune", points=3)
def test_best_not_last(student):
    """When later epochs are worse, the weights and buffers of the best one should come back."""
    state, batches, _ = some_task()
    state["head.2.bias"].zero_()
    many = 3 * randn(300, 4)
    # Valid is what the network after epoch 1 answers, so no other epoch is as good as that.
    _, _, states = by_the_book(state, batches, 2, (many, many[:, 0].long()), "head", 0.2, 1.0)
    model = small_net().eval()
    model.load_state_dict(states[1])
    valid = (many, model(many).argmax(1))
    args = (state, batches, 7, valid, "head", 0.2, 1.0)
    history, after, *_ = student.run(finetuned, *args, True)
    assert_equal(history["best"], 1, "the best epoch")
    assert_close(history["accuracy"][1], 1.0, "the accuracy of the best epoch", atol=0.02)
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert_close(after["head.2.weight"], states[1]["head.2.weight"], "a weight", **close)
    mean = "body.1.running_mean"
    assert_close(after[mean], states[1][mean], "a running mean, a buffer", **close)


@pytest.mark.exercise("finetune", points=2)
@pytest.mark.parametrize("epochs", [1, 4])
def test_first_in_a_tie(student, epochs):
    """In a tie the first epoch should win, even with an accuracy of zero."""
    state, batches, valid = some_task()
    nobody = (valid[0], torch.full((40,), 7))  # a class that the network cannot answer
    args = (state, batches, epochs, nobody, "head", 0.05, 1.0)
    history, after, *_ = student.run(finetuned, *args, True)
    assert_equal(history["best"], 0, "the best epoch")
    assert_close(list(history["accuracy"]), [0.0] * epochs, "the accuracies")
    expected = by_the_book(*args)[2][0]
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert_close(after["head.2.bias"], expected["head.2.bias"], "the head's bias", **close)


@pytest.mark.exercise("finetune", points=3)
def test_frozen_body(student):
    """With factor 0 the body should keep its numbers and buffers, and no gradient; the head not."""
    state, batches, valid = some_task()
    with unchanged(state, batches, valid):
        _, after, flags, _ = student.run(
            finetuned, state, batches, 3, valid, "head", 0.1, 0.0, True
        )
    body = {k: v for k, v in state.items() if k.startswith("body")}
    assert_close({k: after[k] for k in body}, body, "the body")
    head = [k for k in state if k.startswith("head") and k.endswith(("weight", "bias"))]
    assert_close(sorted(flags), sorted(head), "the trainable parameters")
    for key in ["head.0.weight", "head.2.weight", "head.2.bias", "head.1.running_mean"]:
        moved = (after[key] - state[key]).abs().max().item()
        assert_equal(moved > 1e-6, True, f"whether {key} has moved")


@probe
def defaults(student, state, batches, valid):
    """finetune with its default head, rate and factor."""
    model = nn.Sequential()
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
    model.add_module("body", body)
    model.add_module("head", nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    model.double().load_state_dict(state)
    model.body.requires_grad_(False)
    history = student.finetune(model, batches, 2, valid)
    flags = [p.requires_grad for p in model.parameters()]
    return list(history["loss"]), all(flags)


@pytest.mark.exercise("finetune", points=2)
def test_defaults(student):
    """The defaults should be head="head", lr=0.02, factor=0.1; a frozen body is set free again."""
    state, batches, valid = some_task((5, 4))
    losses, free = student.run(defaults, state, batches, valid)
    expected = by_the_book(state, batches, 2, valid, "head", 0.02, 0.1)[0]
    assert_equal(free, True, "whether a body that was frozen can train with factor 0.1")
    assert_close(losses, expected, "the losses", rtol=1e-5)


def thicker(x):
    across = F.max_pool2d(x, (1, 3), 1, (0, 1))
    return torch.maximum(across, F.max_pool2d(x, (3, 1), 1, (1, 0)))


@probe
def on_digits(student, state, train, valid, test, factor, seed):
    """Test accuracy of a small network that finetune has trained."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU())
    model.add_module("body", body)
    model.add_module("head", nn.Linear(48, 10))
    if state is not None:
        model.load_state_dict(state)
    student.finetune(model, [train], 30, valid, "head", 0.05, factor)
    with torch.no_grad():
        return (model(test[0]).argmax(1) == test[1]).double().mean().item()


@pytest.mark.exercise("finetune", points=5)
def test_beats_scratch(student):
    """From a pre-trained start it should beat scratch by 5 points with 20 thick digits."""
    digits = load_digits()
    x = torch.from_numpy(digits.images / 16).float()[:, None]
    y = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    source = nn.Sequential()
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU())
    source.add_module("body", body)
    source.add_module("head", nn.Linear(48, 10))
    optimizer = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        for rows in torch.randperm(900).split(50):
            optimizer.zero_grad()
            F.cross_entropy(source(x[rows]), y[rows]).backward()
            optimizer.step()
    state = {k: v.detach().clone() for k, v in source.state_dict().items()}
    thick = thicker(x)
    test = (thick[1200:], y[1200:])
    valid = (thick[1100:1200], y[1100:1200])
    scores = {"scratch": [], "pre-trained": []}
    for seed in range(3):
        rows = torch.cat(
            [900 + (y[900:1100] == c).nonzero()[2 * seed : 2 * seed + 2, 0] for c in range(10)]
        )
        train = (thick[rows], y[rows])
        for name, start in (("scratch", None), ("pre-trained", state)):
            args = (start, train, valid, test, 1.0, seed)
            scores[name].append(student.run(on_digits, *args))
    scratch, pretrained = (sum(s) / 3 for s in scores.values())
    assert_true(
        0.4 < scratch < 0.8,
        f"From scratch it reached {scratch:.3f}; something between 0.4 and 0.8 was expected.",
    )
    assert_true(
        pretrained > scratch + 0.05,
        f"The pre-trained start reached {pretrained:.3f}, scratch {scratch:.3f}; "
        "5 points more were expected.",
    )
