"""Wrong answers in the chapter on transfer learning, each with the hint it deserves."""

import copy
import json
from csv import DictReader
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from course.testing import misconception

# --- head ------------------------------------------------------------------------------------


@misconception(
    "head",
    hint="`setattr(model, name, …)` with a dotted name makes a new attribute of that odd name; "
    "the old layer stays where it was. The new one has to be set in its parent module.",
)
def replace_head(model, n_classes, name):
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    new = nn.Linear(old.in_features, n_classes, bias=old.bias is not None)
    object.__setattr__(model, name, new.to(old.weight.device, old.weight.dtype))
    return model


@misconception(
    "head",
    hint="The new layer always has a bias, and the dtype of a fresh layer. The old one tells "
    "whether it had a bias, and which dtype and device the rest of the model has.",
)
def replace_head(model, n_classes, name):
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Linear(old.in_features, n_classes))
    return model


@misconception(
    "head",
    hint="The new layer takes in what the old one took in (`in_features`), not what it gave out.",
)
def replace_head(model, n_classes, name):
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    new = nn.Linear(old.out_features, n_classes, bias=old.bias is not None)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new.to(old.weight.device, old.weight.dtype))
    return model


@misconception(
    "head",
    hint="The model that was given stays as it was, and a copy comes back. The exercise asks for "
    "a change in place: whoever holds the model should see its new head.",
)
def replace_head(model, n_classes, name):
    model = copy.deepcopy(model)
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    new = nn.Linear(old.in_features, n_classes, bias=old.bias is not None)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new.to(old.weight.device, old.weight.dtype))
    return model


@misconception(
    "head",
    hint="`strict=False` forgives names, not shapes: an entry with another shape is still an "
    "error. Leave such entries out before you load.",
)
def load_partial(model, state):
    own = model.state_dict()
    report = model.load_state_dict(state, strict=False)
    return {
        "missing": sorted(report.missing_keys),
        "unexpected": sorted(report.unexpected_keys),
        "mismatched": sorted(
            k for k in own.keys() & state.keys() if own[k].shape != state[k].shape
        ),
    }


@misconception(
    "head",
    hint="Missing and unexpected are exchanged: *missing* is what the model needs and the state "
    "does not have.",
)
def load_partial(model, state):
    own = model.state_dict()
    shared = own.keys() & state.keys()
    fits = {k: state[k] for k in shared if state[k].shape == own[k].shape}
    model.load_state_dict(fits, strict=False)
    return {
        "missing": sorted(state.keys() - own.keys()),
        "unexpected": sorted(own.keys() - state.keys()),
        "mismatched": sorted(shared - fits.keys()),
    }


@misconception(
    "head",
    hint="Equal numbers of entries are not equal shapes: (3, 4) and (4, 3) both have twelve. "
    "Compare `shape`.",
)
def load_partial(model, state):
    own = model.state_dict()
    shared = own.keys() & state.keys()
    fits = {k: state[k].reshape(own[k].shape) for k in shared if state[k].numel() == own[k].numel()}
    model.load_state_dict(fits, strict=False)
    return {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "mismatched": sorted(shared - fits.keys()),
    }


@misconception(
    "head",
    hint="The missing names were taken from what load_state_dict says after the mismatched entries "
    "had been left out, so these are counted twice: they are in both, just with another shape.",
)
def load_partial(model, state):
    own = model.state_dict()
    shared = own.keys() & state.keys()
    fits = {k: state[k] for k in shared if state[k].shape == own[k].shape}
    report = model.load_state_dict(fits, strict=False)
    return {
        "missing": sorted(report.missing_keys),
        "unexpected": sorted(state.keys() - own.keys()),
        "mismatched": sorted(shared - fits.keys()),
    }


@misconception(
    "head",
    hint="The rows of the old head are copied into the new one. They belong to the old classes; "
    "row 0 of the new head stands for another class. Let its numbers be new.",
)
def replace_head(model, n_classes, name):
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    new = nn.Linear(old.in_features, n_classes, bias=old.bias is not None)
    new = new.to(old.weight.device, old.weight.dtype)
    rows = min(n_classes, old.out_features)
    with torch.no_grad():
        new.weight[:rows] = old.weight[:rows]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return model


@misconception(
    "head",
    hint="The names are in the model's order. The report should have them sorted, so that two "
    "reports can be compared.",
)
def load_partial(model, state):
    own = model.state_dict()
    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(fits, strict=False)
    return {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "mismatched": [k for k in own if k in state and k not in fits],
    }


@misconception(
    "head",
    hint="The model's parameters now *are* the tensors of the state, so training changes the "
    "state, too. Copy the numbers; load_state_dict does.",
)
def load_partial(model, state):
    own = model.state_dict(keep_vars=True)
    shared = own.keys() & state.keys()
    fits = {k for k in shared if state[k].shape == own[k].shape}
    for k in fits:
        own[k].data = state[k]
    return {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "mismatched": sorted(shared - fits),
    }


# --- freeze ----------------------------------------------------------------------------------


@misconception(
    "freeze",
    hint='The names are compared by their beginnings, so "head" also frees head2, and a name '
    "that does not exist frees nothing, in silence. `get_submodule` knows the modules.",
)
def freeze(model, except_=()):
    for name, p in model.named_parameters():
        p.requires_grad_(any(name.startswith(e) for e in except_))
    return [name for name, p in model.named_parameters() if p.requires_grad]


@misconception(
    "freeze",
    hint="Parameters of the excepted modules are only left alone. If they were frozen before, "
    "they stay frozen; they should be trainable afterwards in any case.",
)
def freeze(model, except_=()):
    keep = {id(p) for e in except_ for p in model.get_submodule(e).parameters()}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return [name for name, p in model.named_parameters() if p.requires_grad]


@misconception(
    "freeze",
    hint="It is the other way round: the modules in `except_` are those that go on training, "
    "and all others are frozen.",
)
def freeze(model, except_=()):
    model.requires_grad_(True)
    for name in except_:
        model.get_submodule(name).requires_grad_(False)
    return [name for name, p in model.named_parameters() if p.requires_grad]


@misconception(
    "freeze",
    hint="eval() holds only until the next model.train(), which every training loop calls at the "
    "start of an epoch. It has to be made permanent, for example by a hook.",
)
def frozen_bn_eval(model):
    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if not any(p.requires_grad for p in layer.parameters()):
                layer.eval()
                kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="All batch-norm layers are frozen now, those that should go on training included. Only "
    "layers without a trainable parameter belong here.",
)
def frozen_bn_eval(model):
    def stay(layer, inputs):
        layer.eval()

    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(stay)
            kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="With `track_running_stats=False` nothing is recorded any more, but then the layer uses "
    "the statistics of each batch. Eval mode uses the *recorded* ones.",
)
def frozen_bn_eval(model):
    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if not any(p.requires_grad for p in layer.parameters()):
                layer.track_running_stats = False
                kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="With momentum 0 the running statistics stay, but in train mode the layer still uses "
    "those of each batch for its output. Eval mode uses the *recorded* ones.",
)
def frozen_bn_eval(model):
    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if not any(p.requires_grad for p in layer.parameters()):
                layer.momentum = 0.0
                kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="Only the layer's weight is asked. With affine=False there is none (it is None, so "
    "nothing can train), and a bias alone can be trainable. Ask all of layer.parameters().",
)
def frozen_bn_eval(model):
    def stay(layer, inputs):
        layer.eval()

    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if layer.weight is not None and not layer.weight.requires_grad:
                layer.register_forward_pre_hook(stay)
                kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="Every layer without a trainable parameter is on the list, ReLU and dropout included. "
    "Only batch normalisation is meant.",
)
def frozen_bn_eval(model):
    def stay(layer, inputs):
        layer.eval()

    kept = []
    for name, layer in model.named_modules():
        if not any(p.requires_grad for p in layer.parameters()):
            layer.register_forward_pre_hook(stay)
            kept.append(name)
    return kept


@misconception(
    "freeze",
    hint="The model's own train() does nothing any more, so dropout and trainable batch norm stay "
    "in eval mode, too. Only the frozen batch-norm layers should.",
)
def frozen_bn_eval(model):
    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if not any(p.requires_grad for p in layer.parameters()):
                layer.eval()
                kept.append(name)
    model.train = lambda mode=True: model
    return kept


@misconception(
    "freeze",
    hint="Only BatchNorm2d is looked for. There are BatchNorm1d and BatchNorm3d as well.",
)
def frozen_bn_eval(model):
    def stay(layer, inputs):
        layer.eval()

    kept = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            if not any(p.requires_grad for p in layer.parameters()):
                layer.register_forward_pre_hook(stay)
                kept.append(name)
    return kept


# --- groups ----------------------------------------------------------------------------------


@misconception(
    "groups",
    hint="The factor makes the *body* slower. The head is new and goes at base_lr.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    ids = {id(p) for p in top}
    body = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": [p for p in part if p.requires_grad], "lr": lr}
        for part, lr in ((body, base_lr), (top, base_lr * factor))
    ]


@misconception(
    "groups",
    hint="Frozen parameters are in the groups, too. They would not move, but weight decay, "
    "counts and reports would still see them; leave them out.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    ids = {id(p) for p in top}
    body = [p for p in model.parameters() if id(p) not in ids]
    return [{"params": body, "lr": base_lr * factor}, {"params": top, "lr": base_lr}]


@misconception(
    "groups",
    hint="The head's parameters are in both groups: the body is *all others*, not the whole model.",
)
def param_groups(model, head, base_lr, factor):
    top = [p for p in model.get_submodule(head).parameters() if p.requires_grad]
    body = [p for p in model.parameters() if p.requires_grad]
    return [{"params": body, "lr": base_lr * factor}, {"params": top, "lr": base_lr}]


@misconception(
    "groups",
    hint="Parameters were told apart by name. A tied weight has two names and one tensor; compare "
    "the tensors themselves, by `id`.",
)
def param_groups(model, head, base_lr, factor):
    model.get_submodule(head)
    body, top = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (top if name.startswith(head + ".") else body).append(p)
    return [{"params": body, "lr": base_lr * factor}, {"params": top, "lr": base_lr}]


@misconception(
    "groups",
    hint="The body's rate is base_lr times the factor, not the factor itself.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    ids = {id(p) for p in top}
    body = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": [p for p in part if p.requires_grad], "lr": lr}
        for part, lr in ((body, factor), (top, base_lr))
    ]


@misconception(
    "groups",
    hint="The head's group comes first. The exercise asks for the body first.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    ids = {id(p) for p in top}
    body = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": [p for p in part if p.requires_grad], "lr": lr}
        for part, lr in ((top, base_lr), (body, base_lr * factor))
    ]


@misconception(
    "groups",
    hint="The rate of the body is *divided* by the factor. It is base_lr times the factor.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    ids = {id(p) for p in top}
    body = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": [p for p in part if p.requires_grad], "lr": lr}
        for part, lr in ((body, base_lr / factor if factor else 0.0), (top, base_lr))
    ]


@misconception(
    "groups",
    hint="`p in some_list` compares tensors entry by entry, which gives no single yes or no. "
    "Compare `id(p)` with a set of ids.",
)
def param_groups(model, head, base_lr, factor):
    top = list(model.get_submodule(head).parameters())
    body, upper = [], []
    for p in model.parameters():
        if p.requires_grad:
            (upper if p in top else body).append(p)
    return [{"params": body, "lr": base_lr * factor}, {"params": upper, "lr": base_lr}]


# --- labels ----------------------------------------------------------------------------------


@misconception(
    "labels",
    hint="The classes are in the order in which they appear, so the map changes when the rows are "
    "shuffled. Sort them.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = list(dict.fromkeys(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 0 <= i < len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="encode makes a map of its own from the names that it is given. So each split has other "
    "numbers. It should only look up what fit has learned.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        self.classes = sorted(set(labels))
        return torch.tensor([self.classes.index(name) for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 0 <= i < len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="An unknown name gets a number of its own (-1, say) instead of an error, and a number "
    "below zero counts from the end of the list. Both go unnoticed until it is too late.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number.get(name, -1) for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        return [self.classes[int(i)] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="A dict raises a KeyError and a list an IndexError, and -1 is no error at all. The "
    "exercise asks for a ValueError in all these cases.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        return [self.classes[int(i)] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="The names are numbered from 1. A network's outputs, and cross-entropy, count from 0.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes, start=1)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 1 <= i <= len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i - 1] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="`str` of a list is Python's text for it, with single quotes; JSON has double ones. Use "
    "`json.dumps`.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 0 <= i < len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return str(self.classes)


@misconception(
    "labels",
    hint="to_json gives the dict from names to numbers. A list of the names says the same, and fit "
    "can read it.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 0 <= i < len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return json.dumps({name: i for i, name in enumerate(self.classes)})


@misconception(
    "labels",
    hint="decode takes -1 for the last class, as Python's lists do. A number below zero is no class; "
    "look at the range yourself.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return torch.tensor([number[name] for name in labels], dtype=torch.int64)

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(i >= len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


@misconception(
    "labels",
    hint="encode gives a list. A loss function needs a tensor of type int64.",
)
class LabelMap:
    def fit(self, labels):
        self.classes = sorted(set(labels))
        return self

    def encode(self, labels):
        number = {name: i for i, name in enumerate(self.classes)}
        unseen = [name for name in labels if name not in number]
        if unseen:
            raise ValueError(f"unknown: {unseen}")
        return [number[name] for name in labels]

    def decode(self, numbers):
        numbers = [int(i) for i in numbers]
        if any(not 0 <= i < len(self.classes) for i in numbers):
            raise ValueError("out of range")
        return [self.classes[i] for i in numbers]

    def to_json(self):
        return json.dumps(self.classes)


# --- split -----------------------------------------------------------------------------------


@misconception(
    "split",
    hint="This is a random split of all indices. Rare classes may get too many or none at all; "
    "draw the share within each class.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    order = torch.randperm(len(labels), generator=rng)
    count = min(round(frac * len(labels)), len(labels) - 1)
    return order[count:], order[:count]


@misconception(
    "split",
    hint="The first members of each class go to valid, without any chance: rng is not used. If "
    "the rows are sorted by anything, valid is a special part of the data.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = [i for i, y in enumerate(labels) if y == name]
        count = min(round(frac * len(members)), len(members) - 1)
        valid += members[:count]
        train += members[count:]
    return torch.tensor(train, dtype=torch.int64), torch.tensor(valid, dtype=torch.int64)


@misconception(
    "split",
    hint="The global generator is used instead of rng, so the split changes from run to run. Pass "
    "`generator=rng`.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members))]
        count = min(round(frac * len(members)), len(members) - 1)
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="Each class gives at least one member to valid, even one that has no other. A class with "
    "one member should be in train: what is not trained on cannot be recognised.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = max(1, round(frac * len(members)))
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="Every class gives the same number to valid, that of the rarest class. Then valid is "
    "balanced, but it does not have the shares of the data.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    kinds = sorted(set(labels))
    smallest = min(list(labels).count(name) for name in kinds)
    train, valid = [], []
    for name in kinds:
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(round(frac * smallest), len(members) - 1)
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="The two parts are exchanged: frac is the share of the *second* part, valid.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(round(frac * len(members)), len(members) - 1)
        train.append(members[:count])
        valid.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="A new generator with a fixed seed is made inside. So the split is the same whatever rng is; "
    "draw from rng.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    rng = torch.Generator().manual_seed(0)
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(round(frac * len(members)), len(members) - 1)
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="A class can give all its members to valid, when the share is large or the class small. One at "
    "least should be in train.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = round(frac * len(members))
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


@misconception(
    "split",
    hint="The parts are lists. They should be int64 tensors, with which other tensors can be indexed.",
)
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(round(frac * len(members)), len(members) - 1)
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train).tolist(), torch.cat(valid).tolist()


@misconception(
    "split",
    hint="frac is not tested, or 0 and 1 are let through. Then one of the parts is empty, and the mistake "
    "is noticed much later; raise a ValueError.",
)
def stratified_split(labels, frac, rng):
    if not 0 <= frac <= 1:
        raise ValueError("frac")
    train, valid = [], []
    for name in sorted(set(labels)):
        members = torch.tensor([i for i, y in enumerate(labels) if y == name])
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(round(frac * len(members)), len(members) - 1)
        valid.append(members[:count])
        train.append(members[count:])
    return torch.cat(train), torch.cat(valid)


# --- loader ----------------------------------------------------------------------------------


@misconception(
    "loader",
    hint="The missing picture is noticed only when it is asked for, perhaps hours later. Look at "
    "all files when the data set is made.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="The column label is read without asking whether there is one. The table of the test set "
    "has none.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x, self.targets[index]


@misconception(
    "loader",
    hint="The pictures come in the mode of their files: grey ones have one channel, some PNGs "
    'have four. `convert("RGB")` makes them all alike.',
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.copy()
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="All pictures are transformed when the data set is made. A random transform would then "
    "give the same picture in every epoch; transform in `__getitem__`.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        files = [Path(root) / row["image"] for row in rows]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.pictures = [Image.open(file).convert("RGB") for file in files]
        if transform is not None:
            self.pictures = [transform(x) for x in self.pictures]
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        x = self.pictures[index]
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="The item has the *name* of the class. A network needs its number: encode it with the "
    "label map.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [row["label"] for row in rows]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="`exists()` is true for a folder, too, and no folder can be opened as a picture. Ask "
    "`is_file()`.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.exists():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="Without labels an item is a pair with None. It should be the picture alone; a DataLoader "
    "cannot put None into a batch.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return (x, None if self.targets is None else self.targets[index])


@misconception(
    "loader",
    hint="The paths in the table are relative to root; root is left out.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(row["image"]) for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="The message has the name of the file, but not its path. In which folder was it looked for?",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file.name}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [int(y) for y in label_map.encode([r["label"] for r in rows])]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


@misconception(
    "loader",
    hint="The labels are encoded when an item is asked for, so a name that the map does not know is "
    "noticed late. Encode all of them when the data set is made.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = [r["label"] for r in rows]
        self.transform, self.label_map = transform, label_map

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        if self.targets is None:
            return x
        return x, int(self.label_map.encode([self.targets[index]])[0])


@misconception(
    "loader",
    hint="The label is a tensor. The exercise asks for an int; the DataLoader makes tensors of a whole "
    "batch.",
)
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="") as lines:
            rows = list(DictReader(lines))
        self.files = [Path(root) / row["image"] for row in rows]
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"there is no picture {file}")
        self.targets = None
        if rows and "label" in rows[0]:
            self.targets = label_map.encode([r["label"] for r in rows])
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as picture:
            x = picture.convert("RGB")
        if self.transform is not None:
            x = self.transform(x)
        return x if self.targets is None else (x, self.targets[index])


# --- finetune --------------------------------------------------------------------------------


@misconception(
    "finetune",
    hint="`state_dict()` gives the living tensors, which train on. What was kept as the best is "
    "the last by now; make a copy.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = model.state_dict()
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The accuracy is measured in train mode: batch norm uses the statistics of the validation "
    "batch, and learns from it. Switch to eval mode before you measure, and back afterwards.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    model.eval()
    return history


@misconception(
    "finetune",
    hint="With factor 0 the body gets no steps, but its batch norm is in train mode, so its "
    "statistics move. Everything outside the head should be in eval mode then.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="All parameters train at the same rate; factor is not used. Give the optimizer two "
    "groups.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.requires_grad_(True)
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The loss of an epoch is the mean of the batches' means. If the last batch is smaller, its "
    "examples count too much; weight each batch by its size.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        losses = []
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(sum(losses) / len(losses))
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="In a tie the last epoch wins. Take a new best only if it is really higher: less "
    "training for the same accuracy is the better bargain.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right >= highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="A body that comes frozen stays frozen. With a factor other than 0 all parameters should "
    "train: set requires_grad to True, not only to False.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    if factor == 0:
        for p in body:
            p.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="With factor 0 the body's rate is 0, but its parameters still require gradients. Set "
    "requires_grad=False: no gradient is computed then, and freezing can be seen.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(True)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The steps are those of SGD without momentum; the exercise asks for momentum 0.9.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="Only the parameters of the best epoch are kept. The running statistics of batch norm are "
    "buffers, and are still those of the last epoch; state_dict() has both.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = {k: p.detach().clone() for k, p in model.named_parameters()}
    model.load_state_dict(weights, strict=False)
    return history


@misconception(
    "finetune",
    hint="The first epoch is in train mode, the others are not: measuring has switched to eval mode. "
    "Switch back at the start of every epoch.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    model.train(factor > 0)
    top.train()
    for epoch in range(epochs):
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The gradients of all steps add up, since nothing sets them to zero.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="Every epoch begins with a new optimizer, whose momentum is zero again. Make one, before the "
    "first epoch.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        groups = [{"params": body, "lr": lr * factor}, {"params": list(top.parameters())}]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The two rates are exchanged: lr is the head's, lr * factor that of all others.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr}, {"params": top.parameters(), "lr": lr * factor}],
        lr=lr,
        momentum=0.9,
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The best epoch is chosen by the training loss. Choose it by the accuracy on valid: the loss "
    "falls on even while the network gets worse on new data.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history = {"loss": [], "accuracy": []}
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if epoch == 0 or history["loss"][-1] < min(history["loss"][:-1]):
            history["best"] = epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="With factor 0 the head is in eval mode, too, so its batch norm or dropout does not train. Only "
    "what is outside the head stays in eval mode.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The loss of an epoch is that of its last batch. It should be the mean over all examples.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(loss.item())
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="The losses are added up and never divided by the number of examples.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return history


@misconception(
    "finetune",
    hint="In the end the model is in train mode. Whoever uses it next would change its running "
    "statistics; leave it in eval mode.",
)
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    top = model.get_submodule(head)
    ids = {id(p) for p in top.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids]
    for p in body:
        p.requires_grad_(factor > 0)
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": lr * factor}, {"params": top.parameters()}], lr=lr, momentum=0.9
    )
    history, highest = {"loss": [], "accuracy": []}, -1.0
    for epoch in range(epochs):
        model.train(factor > 0)
        top.train()
        total = count = 0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + len(y) * loss.item(), count + len(y)
        model.eval()
        with torch.no_grad():
            right = (model(valid[0]).argmax(1) == valid[1]).double().mean().item()
        history["loss"].append(total / count)
        history["accuracy"].append(right)
        if right > highest:
            highest, history["best"] = right, epoch
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    model.train()
    return history
