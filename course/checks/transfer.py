"""Public checks of the chapter on transfer learning."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises

HINTS = {
    "head": [
        "`model.get_submodule(name)` finds a layer by its dotted name and raises the AttributeError "
        "by itself. The old layer knows its inputs, dtype, device, and whether it has a bias.",
        "A module is replaced in its *parent*: cut the name at its last dot (`rpartition`), get the "
        "parent (an empty name is the model itself), and `setattr` the new layer there.",
        "For the report, think of two sets of names, `model.state_dict().keys()` and "
        "`state.keys()`: their two differences, and those of the intersection whose shapes differ. "
        "Load a dict of the rest with `strict=False`.",
    ],
    "freeze": [
        "`requires_grad_(False)` works on a whole module, and on a module inside it as well.",
        "First freeze all, then free the modules of `except_`. `get_submodule` finds exactly the "
        "module of that name, while comparing the beginnings of names also finds `head2`.",
        "For batch norm: `register_forward_pre_hook(f)` makes the layer call `f(layer, inputs)` "
        "before every forward pass. What could f do to the layer?",
    ],
    "groups": [
        "`model.get_submodule(head).parameters()` are the head's parameters; the body's are all "
        "others.",
        "Tensors are compared entry by entry with ==. To ask whether a parameter is *the same one*, "
        "compare `id(p)`, for example with a set of ids.",
        "`model.parameters()` gives a tied weight once. Leave out what does not require a gradient, "
        "in both groups.",
    ],
    "labels": [
        "`sorted(set(labels))` is each name once, in sorted order: that is all that fit learns.",
        "For encode, make a dict from each name to its number. Look for unknown names first, so "
        "that the ValueError can tell which one it is.",
        "In Python, `classes[-1]` is the last class and no error: decode has to look at the range "
        "itself. to_json is `json.dumps` of the list.",
    ],
    "split": [
        "Go through the classes one by one. For each, list the indices of its members.",
        "Shuffle the members with `torch.randperm(len(members), generator=rng)`, then cut: the "
        "first few to valid, the rest to train.",
        "How many is `round(frac * n)`, but never all n of them. Test frac first: `0 < frac < 1`.",
    ],
    "loader": [
        "`DictReader(lines)` gives a dict for each row, with the header's names as keys. Read all "
        "rows in `__init__`, and test each file with `is_file()`.",
        "Encode all labels at once in `__init__`: then an unknown name is found early. Remember "
        "with None that there are no labels.",
        "In `__getitem__` open the picture, convert it to RGB, transform it if there is a "
        "transform, and return it with or without its label.",
    ],
    "finetune": [
        "Set up first: the head's parameters, all others (by `id`), their requires_grad, and an "
        "SGD with two groups. Then write the plain loop.",
        "Each epoch begins with train mode. For factor 0 everything is in eval mode but the head. "
        "It ends with eval mode and the accuracy on valid under `torch.no_grad()`.",
        "When the accuracy is *higher* than all before, keep `copy.deepcopy(model.state_dict())` "
        "(without the copy it goes on training), and load it at the very end.",
    ],
    "debug": [
        "Print `id(model.head.weight)` and the ids of what the optimizer holds.",
        "An optimizer keeps the tensors that it was given. Which of the two lines has to come "
        "first?",
    ],
}


# --- head ------------------------------------------------------------------------------------


@probe
def swap_head(student, name, n_classes):
    """Shapes before and after, and whether the model returned is the model given."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model.add_module("head", nn.Sequential(nn.Dropout(), nn.Linear(4, 10)))
    first = model.body[0].weight.detach().clone()
    out = student.replace_head(model, n_classes, name)
    shapes = {k: list(v.shape) for k, v in out.state_dict().items()}
    return shapes, torch.equal(out.body[0].weight, first), out is model


@pytest.mark.exercise("head")
def test_new_outputs(student):
    """`replace_head` gives the layer of that name new outputs, in the model itself."""
    shapes, same_body, same_model = student.run(swap_head, "head.1", 5)
    expected = {
        "body.0.weight": [4, 3],
        "body.0.bias": [4],
        "head.1.weight": [5, 4],
        "head.1.bias": [5],
    }
    assert_equal(shapes, expected, "the shapes of the state dict")
    assert_equal(same_body, True, "whether the body is as it was")
    assert_equal(same_model, True, "whether the answer is the model that was given")


@pytest.mark.exercise("head")
def test_no_such_layer(student):
    """`replace_head` raises for a name that is not there, and for what is no linear layer."""
    with raises(AttributeError):
        student.run(swap_head, "fc", 5)
    with raises(TypeError):
        student.run(swap_head, "body.1", 5)


@probe
def load_some(student, state):
    """The report and the numbers after loading a state into a small model."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    report = student.load_partial(model, state)
    return report, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.exercise("head")
def test_report(student):
    """`load_partial` loads what fits in name and shape, and lists the rest in three lists."""
    state = {
        "0.weight": torch.ones(1, 2),
        "0.bias": torch.ones(3),
        "1.weight": torch.ones(2, 1),
        "2.bias": torch.ones(1),
    }
    report, numbers = student.run(load_some, state)
    expected = {"missing": ["1.bias"], "unexpected": ["2.bias"], "mismatched": ["0.bias"]}
    swapped = {"missing": ["2.bias"], "unexpected": ["1.bias"], "mismatched": ["0.bias"]}
    assert_close(
        report,
        expected,
        "the report",
        symptoms={"Missing is what the *state* lacks: the two lists are exchanged.": swapped},
    )
    assert_close(numbers["0.weight"], torch.ones(1, 2), "0.weight, which fits")
    assert_close(numbers["0.bias"], torch.zeros(1), "0.bias, which does not fit")


# --- freeze ----------------------------------------------------------------------------------


@probe
def frozen_names(student, except_):
    """What is trainable after freeze, by its answer and by the parameters themselves."""
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    model["head2"] = nn.Linear(2, 1)
    model["head"].requires_grad_(False)
    answer = student.freeze(model, except_)
    return answer, [k for k, p in model.named_parameters() if p.requires_grad]


@pytest.mark.exercise("freeze")
def test_names(student):
    """`freeze` leaves only the parameters of the modules in `except_` trainable."""
    answer, free = student.run(frozen_names, ("head",))
    assert_close(
        free,
        ["head.weight", "head.bias"],
        "the trainable parameters",
        symptoms={
            "What was frozen before should be trainable again.": [],
            "The name head2 begins with head, but is another module.": [
                "head.weight",
                "head.bias",
                "head2.weight",
                "head2.bias",
            ],
        },
    )
    assert_equal(answer, ["head.weight", "head.bias"], "the answer of freeze")
    with raises(AttributeError):
        student.run(frozen_names, ("haed",))


@probe
def bn_after_training(student, frozen):
    """Names, and how far the running mean moves in train mode."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.0)).requires_grad_(not frozen)
    names = student.frozen_bn_eval(model)
    model.train()
    model(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    return names, model[0].running_mean.clone()


@pytest.mark.exercise("freeze")
def test_statistics_stay(student):
    """Frozen batch norm keeps its running mean, also after `model.train()`."""
    names, mean = student.run(bn_after_training, True)
    assert_equal(names, ["0"], "the names")
    assert_close(
        mean,
        torch.zeros(2),
        "the running mean of a frozen layer",
        symptoms={"model.train() has undone it.": torch.tensor([0.2, 0.3])},
    )
    names, mean = student.run(bn_after_training, False)
    assert_equal(names, [], "the names, where batch norm is trainable")
    assert_close(mean, torch.tensor([0.2, 0.3]), "the running mean of a trainable layer")


# --- groups ----------------------------------------------------------------------------------


@probe
def group_names(student, tied):
    """Names and rates of the two groups."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False)))
    model.add_module("head", nn.Linear(3, 3))
    if tied:
        model.head.weight = model.body[1].weight
    model.body[0].bias.requires_grad_(False)
    groups = student.param_groups(model, "head", 0.5, 0.1)
    name = {id(p): k for k, p in model.named_parameters()}
    return [[name[id(p)] for p in g["params"]] for g in groups], [g["lr"] for g in groups]


@pytest.mark.exercise("groups")
def test_two_groups(student):
    """`param_groups` gives the body at the small rate, then the head, without what is frozen."""
    names, rates = student.run(group_names, False)
    expected = [["body.0.weight", "body.1.weight"], ["head.weight", "head.bias"]]
    frozen = [["body.0.weight", "body.0.bias", "body.1.weight"], expected[1]]
    assert_close(
        names,
        expected,
        "the groups",
        symptoms={
            "A frozen parameter is in a group.": frozen,
            "The body comes first.": expected[::-1],
        },
    )
    assert_close(
        rates,
        [0.05, 0.5],
        "the rates",
        symptoms={"The factor belongs to the body, not to the head.": [0.5, 0.05]},
    )


@pytest.mark.exercise("groups")
def test_tied_weight(student):
    """A weight that body and head share is in the head's group, and only there."""
    names, _ = student.run(group_names, True)
    # PyTorch calls a shared weight by the first of its names.
    expected = [["body.0.weight"], ["body.1.weight", "head.bias"]]
    twice = [["body.0.weight", "body.1.weight"], expected[1]]
    assert_close(
        names,
        expected,
        "the groups",
        symptoms={"The shared weight is in both groups.": twice},
    )


# --- labels ----------------------------------------------------------------------------------


@probe
def map_of(student, fit_on, names, numbers):
    """Classes, encoded names, decoded numbers and the JSON of a label map."""
    label_map = student.LabelMap().fit(fit_on)
    return (
        list(label_map.classes),
        label_map.encode(names),
        label_map.decode(numbers),
        label_map.to_json(),
    )


@pytest.mark.exercise("labels")
def test_there_and_back(student):
    """`LabelMap` numbers the names in sorted order, and finds the names back."""
    trees = ["oak", "elm", "oak", "fir", "elm"]
    classes, numbers, back, text = student.run(map_of, trees, ["oak", "elm"], [0, 2, 1])
    assert_close(
        classes,
        ["elm", "fir", "oak"],
        "classes",
        symptoms={"The names are in the order of appearance.": ["oak", "elm", "fir"]},
    )
    assert_close(numbers, torch.tensor([2, 0]), "the encoded names oak and elm")
    assert_equal(back, ["elm", "oak", "fir"], "the names of 0, 2 and 1")
    assert_equal(json.loads(text), ["elm", "fir", "oak"], "the JSON text, read back")


@pytest.mark.exercise("labels")
def test_unknown(student):
    """An unknown name or number is a ValueError, and the message tells the name."""
    with raises(ValueError, match="ash"):
        student.run(map_of, ["oak", "elm"], ["elm", "ash"], [])
    for number in (2, -1):
        with raises(ValueError):
            student.run(map_of, ["oak", "elm"], [], [number])


# --- split -----------------------------------------------------------------------------------


def valid_counts(labels, valid):
    """How many of each class are in valid."""
    return [sum(labels[i] == c for i in valid.tolist()) for c in sorted(set(labels))]


@pytest.mark.exercise("split")
def test_shares(student):
    """Each class gives its share to valid, one member stays in train, and nothing is lost."""
    labels = ["b"] * 4 + ["a"] * 8 + ["c"]
    train, valid = student.stratified_split(labels, 0.25, torch.Generator().manual_seed(0))
    both = torch.cat([train, valid]).sort().values
    assert_close(both, torch.arange(13), "all indices, sorted")
    assert_equal(valid_counts(labels, valid), [2, 1, 0], "the members of a, b and c in valid")


@pytest.mark.exercise("split")
def test_chance(student):
    """The split depends on `rng`, and on nothing else."""
    labels = ["a"] * 20 + ["b"] * 20
    found = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        rng = torch.Generator().manual_seed(seed)
        found.append(student.stratified_split(labels, 0.25, rng)[1].sort().values.tolist())
    assert_equal(found[1], found[0], "valid with the same rng and another global seed")
    assert_true(found[2] != found[0], "Two seeds of rng should give two splits.")


@pytest.mark.exercise("split")
def test_no_share(student):
    """A share that is not between 0 and 1 is a ValueError."""
    for frac in (0, 1, 1.5):
        with raises(ValueError):
            student.stratified_split(["a", "a"], frac, torch.Generator())


# --- loader ----------------------------------------------------------------------------------


@probe
def read_table(student, table, files):
    """Write pictures and a table into a new folder; give length, items and calls."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from PIL import Image

    class Names:
        def encode(self, names):
            return torch.tensor([["fir", "oak"].index(name) for name in names])

    calls = []

    def transform(picture):
        calls.append(picture.mode)
        return float(np.asarray(picture).mean())

    with TemporaryDirectory() as folder:
        root = Path(folder)
        for number, file in enumerate(files):
            Image.new("L", (3, 2), 10 * number + 5).save(root / file)
        (root / "table.csv").write_text(table)
        dataset = student.CSVImages(root / "table.csv", root, Names(), transform)
        return len(dataset), [dataset[i] for i in range(len(dataset))], calls


@pytest.mark.exercise("loader")
def test_with_labels(student):
    """With labels an item is (picture, number); the picture is RGB, and transformed once."""
    table = "image,label\na.png,oak\nb.png,fir\n"
    size, items, calls = student.run(read_table, table, ["a.png", "b.png"])
    assert_equal(size, 2, "the length")
    assert_close([tuple(item) for item in items], [(5.0, 1), (15.0, 0)], "the items")
    assert_equal(calls, ["RGB", "RGB"], "the modes of the pictures that were transformed")


@pytest.mark.exercise("loader")
def test_without_labels(student):
    """Without the column label an item is the picture alone."""
    size, items, _ = student.run(read_table, "image\na.png\n", ["a.png"])
    assert_close(items, [5.0], "the items")
    assert_equal(size, 1, "the length")


@pytest.mark.exercise("loader")
def test_missing(student):
    """A missing picture is a FileNotFoundError that names its path."""
    with raises(FileNotFoundError, match="gone"):
        student.run(read_table, "image,label\ngone.png,oak\n", [])


# --- finetune --------------------------------------------------------------------------------


@probe
def tune_small(student, x, y, valid, epochs, lr, factor):
    """History and state after finetune of a tiny network with given weights."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    model.add_module("head", nn.Linear(2, 2))
    model.double()
    with torch.no_grad():
        model.body[0].weight.copy_(torch.eye(2))
        model.head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        model.body[0].bias.zero_()
        model.head.bias.zero_()
    history = student.finetune(model, [(x, y)], epochs, valid, "head", lr, factor)
    return history, {k: v.clone() for k, v in model.state_dict().items()}, model.training


TINY_X = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
TINY_Y = torch.tensor([0, 1, 0, 1])


@pytest.mark.exercise("finetune")
def test_history(student):
    """`finetune` reports loss and accuracy of each epoch, and ends in eval mode."""
    args = (TINY_X, TINY_Y, (TINY_X, TINY_Y), 2, 0.1, 1.0)
    history, _, training = student.run(tune_small, *args)
    assert_equal(sorted(history), ["accuracy", "best", "loss"], "the keys of the history")
    first = F.cross_entropy(scores_of(TINY_X), TINY_Y).item()
    assert_close(history["loss"][0], first, "the loss of the first epoch", rtol=1e-5)
    assert_equal([len(history["loss"]), len(history["accuracy"])], [2, 2], "the lengths")
    assert_equal(history["accuracy"], [1.0, 1.0], "the accuracies")
    assert_equal(history["best"], 0, "the best epoch; the first one in a tie")
    assert_equal(training, False, "whether the model is in train mode afterwards")


def scores_of(x):
    """What the tiny network answers in train mode, before any step."""
    model = nn.BatchNorm1d(2).double()
    z = model(x)
    return torch.stack([z[:, 0] - z[:, 1], z[:, 1] - z[:, 0]], 1)


@pytest.mark.exercise("finetune")
def test_frozen_body(student):
    """With factor 0 nothing of the body changes, statistics included; the head does."""
    args = (TINY_X, TINY_Y, (TINY_X, TINY_Y), 3, 0.1, 0.0)
    _, state, _ = student.run(tune_small, *args)
    assert_close(state["body.0.weight"], torch.eye(2).double(), "the body's weight")
    assert_close(
        state["body.1.running_mean"],
        torch.zeros(2).double(),
        "the running mean of the body",
    )
    moved = (state["head.bias"].abs() + (state["head.weight"].abs() - 1).abs().sum(1)).max()
    assert_true(moved > 1e-4, "The head should have moved.")


@pytest.mark.exercise("finetune")
def test_best_weights(student):
    """The model ends with the weights of its best epoch, not of the last one."""
    # The labels of training are the opposite of those of valid: every step makes it worse.
    args = (TINY_X, 1 - TINY_Y, (TINY_X, TINY_Y), 6, 0.4, 1.0)
    history, state, _ = student.run(tune_small, *args)
    _, after_one, _ = student.run(tune_small, *args[:3], 1, *args[4:])
    assert_equal(history["best"], 0, "the best epoch")
    assert_true(
        history["accuracy"][0] > history["accuracy"][-1], "Accuracy should fall in this example."
    )
    assert_close(
        state["head.weight"],
        after_one["head.weight"],
        "the head's weight, which should be that after epoch 0",
    )


# --- debug -----------------------------------------------------------------------------------


@probe
def prepared(student, n_classes):
    """Which parameters move in one step, and the shape of the new head."""
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 4))
    model.add_module("head", nn.Linear(4, 10))
    optimizer = student.prepare(model, n_classes, 0.1)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    model(torch.ones(2, 3)).pow(2).sum().backward()
    optimizer.step()
    moved = [k for k, p in model.named_parameters() if not torch.equal(p, before[k])]
    return list(model.head.weight.shape), moved


@pytest.mark.exercise("debug")
def test_all_of_it_moves(student):
    """One step of the optimizer that `prepare` makes moves the new head, too."""
    shape, moved = student.run(prepared, 3)
    assert_equal(shape, [3, 4], "the shape of the new head's weight")
    assert_close(
        moved,
        ["body.weight", "body.bias", "head.weight", "head.bias"],
        "the parameters that moved",
        symptoms={
            "The optimizer still holds the old head.": ["body.weight", "body.bias"],
        },
    )
