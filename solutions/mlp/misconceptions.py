"""Wrong answers of the chapter on multilayer perceptrons, modules and back-propagation."""

import copy
import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- dense -----------------------------------------------------------------------------------


@misconception(
    "dense",
    hint="The weight is used as [inputs, outputs]. Here row j of W leads to neuron j, so for "
    "examples in rows it has to be transposed.",
)
def dense(a, W, b, g):
    if a.shape[-1] != W.shape[0]:
        raise ValueError("the widths do not fit")
    return g(a @ W + b)


@misconception(
    "dense",
    hint="The bias is added to the activation. It shifts the weighted sum, so it belongs inside g.",
)
def dense(a, W, b, g):
    if a.shape[-1] != W.shape[1]:
        raise ValueError("the widths do not fit")
    return g(a @ W.T) + b


@misconception(
    "dense",
    hint="No ValueError comes when the widths do not fit: the matrix product raises an error of "
    "another kind. Compare the widths yourself, before it.",
)
def dense(a, W, b, g):
    return g(a @ W.T + b)


@misconception(
    "dense",
    hint="A single example, of shape (n,), has no axis 1. Its features are on the last axis, in a "
    "batch as well.",
)
def dense(a, W, b, g):
    if a.shape[1] != W.shape[1]:
        raise ValueError("the widths do not fit")
    return g(a @ W.T + b)


@misconception(
    "dense",
    hint="All layers get the first activation function; each layer has its own.",
)
def sequential(x, params, acts):
    if len(params) != len(acts):
        raise ValueError("lengths")
    for W, b in params:
        if x.shape[-1] != W.shape[1]:
            raise ValueError("the widths do not fit")
        x = acts[0](x @ W.T + b)
    return x


@misconception(
    "dense",
    hint="`zip` stops at the shorter list, so that layers are left out without a word. The lists "
    "should be compared, or zipped with strict=True.",
)
def sequential(x, params, acts):
    for (W, b), g in zip(params, acts):
        if x.shape[-1] != W.shape[1]:
            raise ValueError("the widths do not fit")
        x = g(x @ W.T + b)
    return x


@misconception(
    "dense",
    hint="The weight is used as [inputs, outputs]. Here row j of W leads to neuron j, so for "
    "examples in rows it has to be transposed.",
)
def dense(a, W, b, g):
    if a.shape[-1] != W.shape[1]:
        raise ValueError("the widths do not fit")
    return g(a @ W + b)


@misconception(
    "dense",
    hint="The product W @ a.T has the neurons in rows and the examples in columns. Here examples "
    "stay in rows: transpose W, not a.",
)
def dense(a, W, b, g):
    if a.shape[-1] != W.shape[1]:
        raise ValueError("the widths do not fit")
    return g(W @ a.T + b[:, None])


@misconception(
    "dense",
    hint="The last layer's activation function is left out. Each layer applies its own, the last "
    "one too; where none is wanted, the list holds the identity.",
)
def sequential(x, params, acts):
    if len(params) != len(acts):
        raise ValueError("lengths")
    for i, ((W, b), g) in enumerate(zip(params, acts)):
        if x.shape[-1] != W.shape[1]:
            raise ValueError("the widths do not fit")
        x = x @ W.T + b
        if i < len(params) - 1:
            x = g(x)
    return x


# --- collapse --------------------------------------------------------------------------------


@misconception(
    "collapse",
    hint="The biases are only added up. An early bias goes through all later layers, so their "
    "weights multiply it.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = layers[0].weight
        for layer in layers[1:]:
            W = layer.weight @ W
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.zero_()
            for layer in layers:
                if layer.bias is not None:
                    one.bias.add_(layer.bias)
    return one


@misconception(
    "collapse",
    hint="Only the last layer's bias is kept. Set x to zero: what comes out of the whole stack?",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    with torch.no_grad():
        W = layers[0].weight
        for layer in layers[1:]:
            W = layer.weight @ W
        last = layers[-1].bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=last is not None).to(W)
        one.weight.copy_(W)
        if last is not None:
            one.bias.copy_(last)
    return one


@misconception(
    "collapse",
    hint="The weights are multiplied in the wrong order: the layer that is applied last stands on "
    "the left, as in f(g(x)).",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W, b = layers[0].weight, layers[0].weight.new_zeros(layers[0].out_features)
        if layers[0].bias is not None:
            b = b + layers[0].bias
        for layer in layers[1:]:
            W, b = W @ layer.weight, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="Modules that are not linear are skipped. With a ReLU in between, no single layer does "
    "the same, so this must be refused with a TypeError.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    layers = [layer for layer in layers if isinstance(layer, nn.Linear)]
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="The new layer is always float32: nn.Linear makes it so. It should have the dtype and "
    "device of the layers.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="The bias is dropped if one of the layers has none. A single bias in the stack is enough: "
    "it goes through the later layers and comes out.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = all(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="The new layer has a bias only if the last layer has one. An earlier bias comes out too, "
    "through the later weights.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = layers[-1].bias is not None
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="The new layer always has a bias, even if none of the layers has one.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = True
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="A list of one layer gives back that very layer, so both share their weights. The result "
    "should be a new layer.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    if len(layers) == 1:
        return layers[0]
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[1], W.shape[0], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


@misconception(
    "collapse",
    hint="The sizes of the new layer are swapped: the weight is [outputs, inputs], but nn.Linear is "
    "called with the inputs first.",
)
def collapse(layers):
    if not layers:
        raise ValueError("empty")
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise TypeError("not linear")
    bias = any(layer.bias is not None for layer in layers)
    with torch.no_grad():
        W = torch.eye(layers[0].in_features).to(layers[0].weight)
        b = W.new_zeros(layers[0].in_features)
        for layer in layers:
            W, b = layer.weight @ W, layer.weight @ b
            if layer.bias is not None:
                b = b + layer.bias
        one = nn.Linear(W.shape[0], W.shape[1], bias=bias).to(W)
        one.weight.copy_(W)
        if bias:
            one.bias.copy_(b)
    return one


# --- activations -----------------------------------------------------------------------------


@misconception(
    "activations",
    hint="ReLU as a maximum of x and zeros has the right values, but at 0 autograd gives each of "
    "the two one half. The library's gradient is 0 there.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.maximum(x, torch.zeros_like(x))
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = 11 / 48
        if training:
            slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="tanh is written as a quotient of sums of exponentials: far out both are infinite, and "
    "inf/inf is NaN. The last form of the derivation does not have this trouble.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        up, down = torch.exp(x), torch.exp(-x)
        return (up - down) / (up + down)
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = 11 / 48
        if training:
            slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="RReLU draws one slope for the whole tensor. Each negative entry should draw its own.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = 11 / 48
        if training:
            slope = torch.empty(1).uniform_(1 / 8, 1 / 3).item()
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="RReLU draws its slopes in evaluation too. There it should be the same at each call, "
    "with the mean slope.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        return torch.where(x > 0, x, torch.empty_like(x).uniform_(1 / 8, 1 / 3) * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="The derivative is computed as if x were the activation already: s * (1 - s) needs "
    "s = sigmoid(x), and 1 - y * y needs y = tanh(x).",
)
def dact(name, x, slope=0.01):
    if name == "sigmoid":
        return x * (1 - x)
    if name == "tanh":
        return 1 - x * x
    if name not in ("relu", "leaky", "rrelu"):
        raise ValueError(name)
    below = {"relu": 0, "leaky": slope, "rrelu": 11 / 48}[name]
    return torch.where(x > 0, torch.ones_like(x), below)


@misconception(
    "activations",
    hint="At 0 the slope is counted as that of the positive side. Here 0 belongs to the "
    "other side, as in the library.",
)
def dact(name, x, slope=0.01):
    if name == "sigmoid":
        s = 1 / (1 + torch.exp(-x))
        return s * (1 - s)
    if name == "tanh":
        y = 2 / (1 + torch.exp(-2 * x)) - 1
        return 1 - y * y
    if name not in ("relu", "leaky", "rrelu"):
        raise ValueError(name)
    below = {"relu": 0, "leaky": slope, "rrelu": 11 / 48}[name]
    return torch.where(x >= 0, torch.ones_like(x), below)


@misconception(
    "activations",
    hint="The result is always float32, since it is made from Python numbers. It should have the "
    "dtype of x.",
)
def dact(name, x, slope=0.01):
    if name == "sigmoid":
        s = 1 / (1 + torch.exp(-x))
        return s * (1 - s)
    if name == "tanh":
        y = 2 / (1 + torch.exp(-2 * x)) - 1
        return 1 - y * y
    if name not in ("relu", "leaky", "rrelu"):
        raise ValueError(name)
    below = {"relu": 0.0, "leaky": slope, "rrelu": 11 / 48}[name]
    return torch.where(x > 0, 1.0, below)


@misconception(
    "activations",
    hint="The sigmoid is written with exp(x) above and below: far out to the right both are "
    "infinite, and inf/inf is NaN. 1/(1 + exp(-x)) has no such trouble.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return torch.exp(x) / (1 + torch.exp(x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = (1 / 8 + 1 / 3) / 2
        if training:
            slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="The leaky ReLU is written as a maximum: at 0 autograd gives each of the two one half, so "
    "that the slope there is (1 + slope)/2.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.maximum(x, slope * x)
    if name == "rrelu":
        slope = (1 / 8 + 1 / 3) / 2
        if training:
            slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="A slope lies above 1/3: a number on [0, 1), stretched by u and shifted by l, reaches "
    "l + u. Stretch it by u - l.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = (1 / 8 + 1 / 3) / 2
        if training:
            slope = 1 / 8 + torch.rand_like(x) / 3
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="In evaluation RReLU has the mean of its limits, half of their sum. This is their "
    "difference.",
)
def act(name, x, slope=0.01, training=False):
    if name == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if name == "tanh":
        return 2 / (1 + torch.exp(-2 * x)) - 1
    if name == "relu":
        return torch.where(x > 0, x, 0)
    if name == "leaky":
        return torch.where(x > 0, x, slope * x)
    if name == "rrelu":
        slope = 1 / 3 - 1 / 8
        if training:
            slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3)
        return torch.where(x > 0, x, slope * x)
    raise ValueError(name)


@misconception(
    "activations",
    hint="For RReLU the derivative uses `slope`, which belongs to the leaky one. In evaluation "
    "RReLU's slope is the mean of its limits.",
)
def dact(name, x, slope=0.01):
    if name == "sigmoid":
        s = 1 / (1 + torch.exp(-x))
        return s * (1 - s)
    if name == "tanh":
        y = 2 / (1 + torch.exp(-2 * x)) - 1
        return 1 - y * y
    if name not in ("relu", "leaky", "rrelu"):
        raise ValueError(name)
    below = {"relu": 0, "leaky": slope, "rrelu": slope}[name]
    return torch.where(x > 0, torch.ones_like(x), below)


@misconception(
    "activations",
    hint="Far out to the left exp(-x) is infinite, and inf/inf is NaN. Take s = sigmoid(x) first, "
    "then s * (1 - s).",
)
def dact(name, x, slope=0.01):
    if name == "sigmoid":
        e = torch.exp(-x)
        return e / (1 + e) ** 2
    if name == "tanh":
        y = 2 / (1 + torch.exp(-2 * x)) - 1
        return 1 - y * y
    if name not in ("relu", "leaky", "rrelu"):
        raise ValueError(name)
    below = {"relu": 0, "leaky": slope, "rrelu": 11 / 48}[name]
    return torch.where(x > 0, torch.ones_like(x), below)


# --- backprop --------------------------------------------------------------------------------


@misconception(
    "backprop",
    hint="The gradients are sums over the batch. The loss is a mean, so a batch that holds "
    "everything twice should have the same gradients.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = a2 - F.one_hot(y, a2.shape[1])
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The mean of the squared error is taken over the examples only. F.mse_loss divides by "
    "all entries, N times K.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / len(y) * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The error goes back through W2 but not through the hidden layer's sigmoid: its slope "
    "a1 * (1 - a1) is missing.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"]
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="With the cross-entropy, the slope a2 * (1 - a2) is applied as well. It has cancelled "
    "already: delta2 is a2 minus the wanted output, over N.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y) * a2 * (1 - a2)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="With the squared error, the sigmoid of the output layer is forgotten: delta2 is the "
    "derivative with respect to z2, not a2.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The biases' gradients are means over the batch, but the average is in delta2 already. "
    "So they are sums over the rows.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.mean(0),
        "W2": delta2.T @ a1,
        "b2": delta2.mean(0),
    }


@misconception(
    "backprop",
    hint="The slope of the hidden sigmoid is taken at a1. a1 is the sigmoid's value already, so "
    "its slope is a1 * (1 - a1).",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    s = torch.sigmoid(a1)
    delta1 = delta2 @ params["W2"] * s * (1 - s)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="With the cross-entropy, the mean is taken over N * K entries. Each example has one loss, "
    "so it is over the N examples.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / a2.numel()
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The derivative of the square has a factor 2.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 1 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The slope of the hidden sigmoid is written as z1 * (1 - z1). The formula takes the "
    "sigmoid's value, which is a1.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * cache["z1"] * (1 - cache["z1"])
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The weights' gradients are transposed. They have the shapes of the weights: the neurons "
    "of the layer in rows, so delta.T comes first.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": cache["x"].T @ delta1,
        "b1": delta1.sum(0),
        "W2": a1.T @ delta2,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="The gradient of W1 is transposed. It has the shape of W1: the hidden neurons in rows, so "
    "delta1.T comes first.",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y, a2.shape[1])) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": cache["x"].T @ delta1,
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


@misconception(
    "backprop",
    hint="F.one_hot without the number of classes makes only as many columns as the largest class "
    "in the batch needs. Pass it: F.one_hot(y, K).",
)
def backward(params, cache, y):
    a1, a2 = cache["a1"], cache["a2"]
    if cache["loss"] == "mse":
        delta2 = 2 / y.numel() * (a2 - y) * a2 * (1 - a2)
    else:
        delta2 = (a2 - F.one_hot(y)) / len(y)
    delta1 = delta2 @ params["W2"] * a1 * (1 - a1)
    return {
        "W1": delta1.T @ cache["x"],
        "b1": delta1.sum(0),
        "W2": delta2.T @ a1,
        "b2": delta2.sum(0),
    }


# --- sequential ------------------------------------------------------------------------------


@misconception(
    "sequential",
    hint="The layers are in a plain list, so none of them is registered: the state dict is empty.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        self.named = named

    def add(self, name, layer):
        if name in dict(self.named):
            raise KeyError(name)
        self.named.append((name, layer))

    def forward(self, x):
        for _, layer in self.named:
            x = layer(x)
        return x

    def __len__(self):
        return len(self.named)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return MySequential(OrderedDict(self.named[index]))
        return self.named[index][1]


@misconception(
    "sequential",
    hint="A slice numbers its layers anew. It should keep their names, as nn.Sequential does.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        layers = list(self._modules.values())
        return MySequential(*layers[index]) if isinstance(index, slice) else layers[index]


@misconception(
    "sequential",
    hint="A slice gives back a list. It should be a MySequential, so that it can be called.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        return list(self._modules.values())[index]


@misconception(
    "sequential",
    hint="A name that is taken replaces the layer without a word: so does add_module. Look first "
    "whether it is in `self._modules`.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return MySequential(OrderedDict(items[index]))
        return items[index][1]


@misconception(
    "sequential",
    hint="Layers are found by the name str(index), so a negative index and named layers do not "
    "work. Count the entries of `_modules` instead.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        if isinstance(index, slice):
            items = list(self._modules.items())
            return MySequential(OrderedDict(items[index]))
        if str(index) not in self._modules:
            raise IndexError(index)
        return self._modules[str(index)]


@misconception(
    "sequential",
    hint="The layers have names of your own making. nn.Sequential's are "
    "the numbers as text, '0', '1', …; with others its weights cannot be loaded.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(f"layer{i}", layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return MySequential(OrderedDict(items[index]))
        return items[index][1]


@misconception(
    "sequential",
    hint="An OrderedDict is taken for a layer. Where it is the only argument, its items are the "
    "names and the layers.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return MySequential(OrderedDict(items[index]))
        return items[index][1]


@misconception(
    "sequential",
    hint="A slice holds copies of the layers. It should hold the same objects, so that training "
    "the slice trains the chain.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return MySequential(OrderedDict((n, copy.deepcopy(layer)) for n, layer in items[index]))
        return items[index][1]


@misconception(
    "sequential",
    hint="Layers are found by the name str(index), so a negative index and named layers do not "
    "work. Take the layer from the list of all, by its place.",
)
class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        named = [(str(i), layer) for i, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        for name, layer in named:
            self.add(name, layer)

    def add(self, name, layer):
        if name in self._modules:
            raise KeyError(name)
        self.add_module(name, layer)

    def forward(self, x):
        for layer in self._modules.values():
            x = layer(x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return MySequential(OrderedDict(items[index]))
        return self._modules[str(index)]


# --- lists -----------------------------------------------------------------------------------


@misconception(
    "lists",
    hint="Only the module's own parameters are counted, and those of its children, but not what "
    "lies deeper. Children have children.",
)
def count_params(m):
    total = sum(p.numel() for p in m._parameters.values() if p is not None)
    for child in m._modules.values():
        if child is not None:
            total += sum(p.numel() for p in child._parameters.values() if p is not None)
    return total


@misconception(
    "lists",
    hint="A parameter that occurs at two places is counted twice. Remember which ones you have met.",
)
def count_params(m):
    total = sum(p.numel() for p in m._parameters.values() if p is not None)
    return total + sum(count_params(c) for c in m._modules.values() if c is not None)


@misconception(
    "lists",
    hint="Buffers are counted as well. They are saved, but they are not parameters.",
)
def count_params(m):
    found = {}
    todo = [m]
    while todo:
        module = todo.pop()
        for t in (*module._parameters.values(), *module._buffers.values()):
            if t is not None:
                found[id(t)] = t.numel()
        todo += [c for c in module._modules.values() if c is not None]
    return sum(found.values())


@misconception(
    "lists",
    hint="This counts the parameter tensors. Wanted is how many numbers they hold together: numel.",
)
def count_params(m):
    found = set()
    todo = [m]
    while todo:
        module = todo.pop()
        found |= {id(p) for p in module._parameters.values() if p is not None}
        todo += [c for c in module._modules.values() if c is not None]
    return len(found)


@misconception(
    "lists",
    hint="The modules are kept in plain dictionaries, so they are not registered: no parameters, "
    "not moved, not saved.",
)
class Switch(nn.Module):
    def __init__(self, choices, acts):
        super().__init__()
        self.choices, self.acts = dict(choices), dict(acts)

    def forward(self, x, choice, activation):
        for name, known in ((choice, self.choices), (activation, self.acts)):
            if name not in known:
                raise KeyError(f"no {name!r}, only {', '.join(known)}")
        return self.acts[activation](self.choices[choice](x))


@misconception(
    "lists",
    hint="The activation function is applied before the layer; it should bend the layer's output.",
)
class Switch(nn.Module):
    def __init__(self, choices, acts):
        super().__init__()
        self.choices, self.acts = nn.ModuleDict(choices), nn.ModuleDict(acts)

    def forward(self, x, choice, activation):
        for name, known in ((choice, self.choices), (activation, self.acts)):
            if name not in known:
                raise KeyError(f"no {name!r}, only {', '.join(known)}")
        return self.choices[choice](self.acts[activation](x))


@misconception(
    "lists",
    hint="The KeyError names only what was asked for. Whoever made the typing error wants to read "
    "which names there are.",
)
class Switch(nn.Module):
    def __init__(self, choices, acts):
        super().__init__()
        self.choices, self.acts = nn.ModuleDict(choices), nn.ModuleDict(acts)

    def forward(self, x, choice, activation):
        return self.acts[activation](self.choices[choice](x))


@misconception(
    "lists",
    hint="Frozen parameters are left out. They are not trained, but they are parameters.",
)
def count_params(m):
    found = {}
    todo = [m]
    while todo:
        module = todo.pop()
        for p in module._parameters.values():
            if p is not None and p.requires_grad:
                found[id(p)] = p.numel()
        todo += [c for c in module._modules.values() if c is not None]
    return sum(found.values())


@misconception(
    "lists",
    hint="A layer without bias has an entry `bias` all the same, which is None. Leave such entries "
    "out.",
)
def count_params(m):
    found = {}
    todo = [m]
    while todo:
        module = todo.pop()
        for p in module._parameters.values():
            found[id(p)] = p.numel()
        todo += [c for c in module._modules.values() if c is not None]
    return sum(found.values())


@misconception(
    "lists",
    hint="Two parameters are taken for one since they hold equal numbers. Compare the objects, by "
    "id(p), not their values.",
)
def count_params(m):
    found = []
    todo = [m]
    while todo:
        module = todo.pop()
        for p in module._parameters.values():
            if p is not None and not any(torch.equal(p, q) for q in found):
                found.append(p)
        todo += [c for c in module._modules.values() if c is not None]
    return sum(p.numel() for p in found)


@misconception(
    "lists",
    hint="For an unknown activation the KeyError lists the layers. It should list the names that "
    "are known in its place.",
)
class Switch(nn.Module):
    def __init__(self, choices, acts):
        super().__init__()
        self.choices, self.acts = nn.ModuleDict(choices), nn.ModuleDict(acts)

    def forward(self, x, choice, activation):
        if choice not in self.choices or activation not in self.acts:
            raise KeyError(f"only {', '.join(self.choices)}")
        return self.acts[activation](self.choices[choice](x))


# --- tying -----------------------------------------------------------------------------------


@misconception(
    "tying",
    hint="The decoder has a parameter of its own, which is only a copy at the start. There should "
    "be a single weight; transpose it when you use it.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.back = nn.Parameter(self.weight.detach().T.clone())
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.back.T + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The decoder uses a detached weight, so its use sends no gradient. The gradients of both "
    "uses should add.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.weight.detach() + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The transpose was taken once, in `__init__`. After a deepcopy or a change of dtype it "
    "belongs to the old weight. Take it at each call.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))
        self.turned = self.weight.data.T

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.turned.T.to(code) + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The decoder squeezes its output through tanh too. Pixels and other inputs need not lie "
    "between -1 and 1; the decoder is linear.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return torch.tanh(code @ self.weight + self.b_d)

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The weight is all zeros at the start. Then the code is zero and both uses send no "
    "gradient: it would stay zero. Draw it at random.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(h, d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.weight + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The encoder uses a detached weight, so its use sends no gradient. The gradients of both "
    "uses should add.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.detach().T + self.b_e)

    def decode(self, code):
        return code @ self.weight + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The tanh of the code is missing.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return x @ self.weight.T + self.b_e

    def decode(self, code):
        return code @ self.weight + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The encoder's bias is added after the tanh. It belongs inside: tanh(W x + b_e).",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T) + self.b_e

    def decode(self, code):
        return code @ self.weight + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The decoder's bias b_d is not added.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.weight

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The weight has the shape (d, h). As in nn.Linear, a row leads to one number of the code: "
    "(h, d).",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d, h) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight + self.b_e)

    def decode(self, code):
        return code @ self.weight.T + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The weight is a plain tensor or a buffer, so no optimizer will find it. Make it an "
    "nn.Parameter.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.register_buffer("weight", torch.randn(h, d) / math.sqrt(d))
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.weight + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="The transpose was taken once, in `__init__`. After a deepcopy or a change of dtype it "
    "belongs to the old weight. Take it at each call.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(h, d) / math.sqrt(d))
        self.turned = self.weight.T
        self.b_e = nn.Parameter(torch.zeros(h))
        self.b_d = nn.Parameter(torch.zeros(d))

    def encode(self, x):
        return torch.tanh(x @ self.weight.T + self.b_e)

    def decode(self, code):
        return code @ self.turned.T + self.b_d

    def forward(self, x):
        return self.decode(self.encode(x))


@misconception(
    "tying",
    hint="Two nn.Linear hold two weights, and a second nn.Parameter of the transpose is a parameter "
    "of its own. There should be one, under the name `weight`, and the biases b_e and b_d.",
)
class TiedAutoencoder(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, h), nn.Linear(h, d)
        self.decoder.weight = nn.Parameter(self.encoder.weight.T)

    def encode(self, x):
        return torch.tanh(self.encoder(x))

    def decode(self, code):
        return self.decoder(code)

    def forward(self, x):
        return self.decode(self.encode(x))
