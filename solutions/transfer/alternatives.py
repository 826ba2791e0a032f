"""Other right answers in the chapter on transfer learning."""

import json
from csv import DictReader
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from course.testing import alternative


@alternative("head")
def replace_head(model, n_classes, name):
    *path, last = name.split(".")
    parent = model
    for step in path:
        parent = getattr(parent, step)
    old = getattr(parent, last)
    if not isinstance(old, nn.Linear):
        raise TypeError(name)
    new = nn.Linear(old.in_features, n_classes, bias=old.bias is not None).to(old.weight)
    parent.add_module(last, new)
    return model


@alternative("head")
def load_partial(model, state):
    report = {"missing": [], "unexpected": [], "mismatched": []}
    own = model.state_dict()
    with torch.no_grad():
        for name in sorted(set(own) | set(state)):
            if name not in state:
                report["missing"].append(name)
            elif name not in own:
                report["unexpected"].append(name)
            elif own[name].shape != state[name].shape:
                report["mismatched"].append(name)
            else:
                own[name].copy_(state[name])
    return report


@alternative("freeze")
def freeze(model, except_=()):
    free = {id(p) for name in except_ for p in model.get_submodule(name).parameters()}
    names = []
    for name, p in model.named_parameters():
        p.requires_grad = id(p) in free
        if p.requires_grad:
            names.append(name)
    return names


@alternative("freeze")
def frozen_bn_eval(model):
    # Without a hook: these layers get a train method that does nothing.
    kept = []
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for name, layer in model.named_modules():
        if isinstance(layer, kinds) and all(not p.requires_grad for p in layer.parameters()):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
            kept.append(name)
    return kept


@alternative("groups")
def param_groups(model, head, base_lr, factor):
    in_head = {id(p) for p in model.get_submodule(head).parameters()}
    groups = [
        {"params": [], "lr": base_lr * factor},
        {"params": [], "lr": base_lr},
    ]
    for p in model.parameters():
        if p.requires_grad:
            groups[id(p) in in_head]["params"].append(p)
    return groups


@alternative("labels")
class LabelMap:
    def fit(self, labels):
        self.number = {}
        for name in sorted(labels):
            self.number.setdefault(name, len(self.number))
        return self

    @property
    def classes(self):
        return list(self.number)

    def encode(self, labels):
        out = torch.empty(len(labels), dtype=torch.long)
        for i, name in enumerate(labels):
            if name not in self.number:
                raise ValueError(f"{name} is no class of this map")
            out[i] = self.number[name]
        return out

    def decode(self, numbers):
        names = {i: name for name, i in self.number.items()}
        try:
            return [names[int(i)] for i in numbers]
        except KeyError as error:
            raise ValueError(f"there is no class {error}") from None

    def to_json(self):
        return json.dumps(self.classes, ensure_ascii=False, indent=1)


@alternative("split")
def stratified_split(labels, frac, rng):
    if frac <= 0 or frac >= 1:
        raise ValueError("frac")
    # Shuffle all at once; walking along, a class gives to valid whenever its share is behind.
    order = torch.randperm(len(labels), generator=rng).tolist()
    room = {y: int(np.floor(frac * list(labels).count(y))) for y in set(labels)}
    train, valid = [], []
    for i in order:
        if room[labels[i]] > 0:
            room[labels[i]] -= 1
            valid.append(i)
        else:
            train.append(i)
    return torch.tensor(train).long(), torch.tensor(valid).long()


@alternative("split")
def stratified_split(labels, frac, rng):
    if not 0 < frac < 1:
        raise ValueError("frac")
    noise = torch.rand(len(labels), generator=rng)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for name in set(labels):
        members = torch.tensor([i for i in range(len(labels)) if labels[i] == name])
        count = min(-int(-frac * len(members) // 1), len(members) - 1)
        chosen[members[noise[members].argsort()[:count]]] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


@alternative("loader")
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        self.transform = transform or (lambda picture: picture)
        header, *lines = Path(csv).read_text(encoding="utf-8").splitlines()
        columns = header.split(",")
        cells = [dict(zip(columns, line.split(","), strict=True)) for line in lines]
        self.paths = [Path(root, cell["image"]) for cell in cells]
        missing = [str(path) for path in self.paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(missing[0])
        self.labelled = "label" in columns
        if self.labelled and cells:
            self.numbers = label_map.encode([cell["label"] for cell in cells]).tolist()

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        x = self.transform(Image.open(self.paths[i]).convert("RGB"))
        return (x, self.numbers[i]) if self.labelled else x


@alternative("loader")
class CSVImages(Dataset):
    def __init__(self, csv, root, label_map, transform=None):
        with open(csv, newline="", encoding="utf-8") as file:
            self.rows = list(DictReader(file))
        self.root, self.transform = Path(root), transform
        for row in self.rows:
            if not (self.root / row["image"]).is_file():
                raise FileNotFoundError(str(self.root / row["image"]))
            if "label" in row:
                row["number"] = label_map.encode([row["label"]])[0].item()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        picture = Image.open(self.root / row["image"]).convert("RGB")
        picture = self.transform(picture) if self.transform else picture
        return (picture, row["number"]) if "number" in row else picture


@alternative("finetune")
def finetune(model, loader, epochs, valid, head="head", lr=0.02, factor=0.1):
    # Momentum by hand, and the modes set module by module.
    top = model.get_submodule(head)
    in_head = {id(p) for p in top.parameters()}
    rates = {}
    for p in model.parameters():
        if id(p) not in in_head:
            p.requires_grad = factor != 0
        if p.requires_grad:
            rates[p] = lr if id(p) in in_head else lr * factor
    velocity = {p: torch.zeros_like(p) for p in rates}
    losses, accuracies, states = [], [], []
    for _ in range(epochs):
        model.train(mode=factor != 0)
        top.train()
        seen = []
        for x, y in loader:
            each = F.cross_entropy(model(x), y, reduction="none")
            grads = torch.autograd.grad(each.mean(), list(rates), allow_unused=True)
            with torch.no_grad():
                for p, g in zip(rates, grads, strict=True):
                    if g is not None:
                        velocity[p].mul_(0.9).add_(g)
                        p.sub_(rates[p] * velocity[p])
            seen += each.tolist()
        model.eval()
        with torch.no_grad():
            guess = model(valid[0]).argmax(dim=1)
        losses.append(sum(seen) / len(seen))
        accuracies.append((guess == valid[1]).sum().item() / len(valid[1]))
        states.append({k: v.detach().clone() for k, v in model.state_dict().items()})
    best = accuracies.index(max(accuracies))
    model.load_state_dict(states[best])
    return {"loss": losses, "accuracy": accuracies, "best": best}
