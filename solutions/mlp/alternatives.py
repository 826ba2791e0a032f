"""Other right answers in the chapter on multilayer perceptrons, modules and back-propagation."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("dense")
def dense(a, W, b, g):
    # Neuron by neuron.
    if a.size(-1) != W.size(1):
        raise ValueError("the widths do not fit")
    return g(torch.stack([(a * W[j]).sum(-1) + b[j] for j in range(len(W))], -1))


@alternative("dense")
def sequential(x, params, acts):
    if len(params) != len(acts):
        raise ValueError("one activation for each layer, please")
    for i in range(len(params)):
        W, b = params[i]
        if x.shape[-1] != W.shape[1]:
            raise ValueError("the widths do not fit")
        x = acts[i](torch.einsum("...k,jk->...j", x, W) + b)
    return x


@alternative("collapse")
def collapse(layers):
    # From its values: zero gives the bias, the unit vectors give the columns.
    if len(layers) == 0:
        raise ValueError("no layers")
    if not all(type(layer) is nn.Linear for layer in layers):
        raise TypeError("only linear layers can be folded")
    like = layers[0].weight
    n = layers[0].in_features
    with torch.no_grad():
        both = torch.cat([torch.zeros(1, n).to(like), torch.eye(n).to(like)])
        for layer in layers:
            both = layer(both)
        bias = any(layer.bias is not None for layer in layers)
        one = nn.Linear(n, both.shape[1], bias=bias, dtype=like.dtype, device=like.device)
        one.weight.copy_((both[1:] - both[0]).T)
        if bias:
            one.bias.copy_(both[0])
    return one


@alternative("activations")
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        # A softmax of two scores, x and 0.
        return torch.stack([x, torch.zeros_like(x)]).softmax(0)[0]
    if name == "tanh":
        return 1 - 2 / (torch.exp(2 * x) + 1)
    if name == "relu":
        return x * (x > 0)
    if name == "leaky":
        positive = (x > 0).to(x.dtype)
        return positive * x + (1 - positive) * x * slope
    if name == "rrelu":
        factor = (1 / 8 + 1 / 3) / 2
        if training:
            factor = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x <= 0, factor * x, x)
    raise ValueError(name)


@alternative("activations")
def dact(name, x, slope=0.01):
    e = torch.exp(-x.abs())
    formulas = {
        "sigmoid": lambda: e / (1 + e) ** 2,
        "tanh": lambda: 4 * e**2 / (1 + e**2) ** 2,
        "relu": lambda: (x > 0).to(x.dtype),
        "leaky": lambda: slope + (1 - slope) * (x > 0).to(x.dtype),
        "rrelu": lambda: torch.full_like(x, 11 / 48).masked_fill(x > 0, 1.0),
    }
    if name not in formulas:
        raise ValueError(f"unknown: {name}")
    return formulas[name]()


@alternative("backprop")
def backward(params, cache, y):
    # Example by example, with outer products; averaged at the end.
    n = len(cache["x"])
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    for i in range(n):
        x, z1, a2 = cache["x"][i], cache["z1"][i], cache["a2"][i]
        s = torch.sigmoid(z1)
        if cache["loss"] == "ce":
            delta2 = a2.clone()
            delta2[y[i]] -= 1
        else:
            delta2 = (a2 - y[i]) * 2 / len(a2) * a2 * (1 - a2)
        delta1 = params["W2"].T @ delta2 * s * (1 - s)
        for name, g in (
            ("W1", torch.outer(delta1, x)),
            ("b1", delta1),
            ("W2", torch.outer(delta2, s)),
            ("b2", delta2),
        ):
            grads[name] = grads[name] + g / n
    return grads


@alternative("sequential")
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        if layers and isinstance(layers[0], dict):
            pairs = list(layers[0].items())
        else:
            pairs = list(zip(map(str, range(len(layers))), layers))
        for pair in pairs:
            self.add(*pair)

    def add(self, name, layer):
        if name in dict(self.named_children()):
            raise KeyError(name)
        self._modules[name] = layer

    def forward(self, x):
        for i in range(len(self)):
            x = self[i](x)
        return x

    def __len__(self):
        return sum(1 for _ in self._modules)

    def __getitem__(self, index):
        names = list(self._modules)[index]
        if isinstance(names, str):
            return self._modules[names]
        part = MySequential()
        for name in names:
            part.add(name, self._modules[name])
        return part


@alternative("lists")
def count_params(m):
    seen = set()

    def below(module):
        own = [p for p in module._parameters.values() if p is not None and p not in seen]
        seen.update(own)
        return sum(p.numel() for p in own) + sum(below(child) for child in module.children())

    return below(m)


@alternative("lists")
class Switch(nn.Module):
    def __init__(self, choices, acts):
        super().__init__()
        self.choices, self.acts = nn.ModuleDict(), nn.ModuleDict()
        for target, given in ((self.choices, choices), (self.acts, acts)):
            for name, module in given.items():
                target.add_module(name, module)

    def forward(self, x, choice, activation):
        try:
            layer = self.choices[choice]
        except KeyError:
            raise KeyError(f"choices: {list(self.choices.keys())}") from None
        try:
            bend = self.acts[activation]
        except KeyError:
            raise KeyError(f"acts: {list(self.acts.keys())}") from None
        return bend(layer(x))


@alternative("tying")
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(h, d))
        nn.init.xavier_uniform_(self.weight)
        for name, size in (("b_e", h), ("b_d", d)):
            self.register_parameter(name, nn.Parameter(torch.zeros(size)))

    def encode(self, x):
        return F.linear(x, self.weight, self.b_e).tanh()

    def decode(self, code):
        return F.linear(code, self.weight.t(), self.b_d)

    def forward(self, x):
        return self.decode(self.encode(x))
