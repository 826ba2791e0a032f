"""Other right answers in the chapter on classic CNNs."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("lenet")
def lenet(in_ch, size, classes):
    # A class of its own, and the size by formula.
    side = ((size - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError("the images are too small")

    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential()
            for i, (a, b) in enumerate([(in_ch, 6), (6, 16)], 1):
                self.features.add_module(f"conv{i}", nn.Conv2d(a, b, kernel_size=5))
                self.features.add_module(f"relu{i}", nn.ReLU(inplace=True))
                self.features.add_module(f"pool{i}", nn.MaxPool2d(kernel_size=2, stride=2))
            self.classifier = nn.Sequential(
                OrderedDict(
                    [
                        ("fc1", nn.Linear(16 * side * side, 120)),
                        ("relu3", nn.ReLU(inplace=True)),
                        ("fc2", nn.Linear(120, 84)),
                        ("relu4", nn.ReLU(inplace=True)),
                        ("fc3", nn.Linear(84, classes)),
                    ]
                )
            )

        def forward(self, x):
            x = self.features(x)
            return self.classifier(x.view(x.size(0), -1))

    return LeNet()


@alternative("lrn")
def lrn(x, n, alpha, beta, k):
    # A sum of shifted copies.
    if n < 1:
        raise ValueError("n is less than 1")
    activity = torch.zeros_like(x)
    channels = x.shape[1]
    for c in range(channels):
        first, last = max(0, c - n // 2), min(channels, c + (n - 1) // 2 + 1)
        activity[:, c] = (x[:, first:last] ** 2).sum(1)
    return x * (k + alpha * activity / n) ** -beta


@alternative("lrn")
def lrn(x, n, alpha, beta, k):
    # A matrix that says who is in whose window.
    if n <= 0:
        raise ValueError("n is less than 1")
    c = torch.arange(x.shape[1], device=x.device)
    offset = c - c[:, None]
    band = ((offset >= -(n // 2)) & (offset <= (n - 1) // 2)).to(x.dtype)
    mean = torch.einsum("cd,nd...->nc...", band, x * x) / n
    return x / (k + alpha * mean).pow(beta)


@alternative("alexnet")
def layer_table(net, x):
    # One recursive visit instead of named_modules, and a context for the modes.
    modes = {module: module.training for module in net.modules()}
    rows, counted, handles = [], set(), []

    def visit(module, path):
        children = dict(module.named_children())
        for name, child in children.items():
            visit(child, [*path, name])
        if not children:
            name = ".".join(path)

            def hook(layer, args, out, name=name):
                params = [p for p in layer.parameters() if id(p) not in counted]
                counted.update(id(p) for p in params)
                rows.append((name, tuple(out.size()), sum(p.numel() for p in params)))

            handles.append(module.register_forward_hook(hook))

    try:
        visit(net, [])
        net.eval()
        with torch.inference_mode():
            net(x)
    finally:
        while handles:
            handles.pop().remove()
        for module, mode in modes.items():
            module.training = mode
    return rows


@alternative("nin")
def nin_block(cin, cout, k, s, p):
    layers = [nn.Conv2d(cin, cout, kernel_size=k, stride=s, padding=p), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [nn.Conv2d(cout, cout, kernel_size=(1, 1)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@alternative("nin")
def nin_block(cin, cout, k, s, p):
    # Dense layers at every pixel, which keep their weights as convolutions.
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(cin, cout, k, s, p)
            self.one = nn.Conv2d(cout, cout, 1)
            self.two = nn.Conv2d(cout, cout, 1)

        def forward(self, x):
            x = F.relu(self.conv(x)).movedim(1, -1)
            for layer in (self.one, self.two):
                x = F.relu(F.linear(x, layer.weight.flatten(1), layer.bias))
            return x.movedim(-1, 1)

    return Block()


@alternative("nin")
class NiN(nn.Module):
    def __init__(self, in_ch, classes):
        super().__init__()

        def block(a, b, k, s, p):
            return [
                nn.Conv2d(a, b, k, s, p),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
            ]

        self.net = nn.Sequential(
            *block(in_ch, 16, 5, 2, 2),
            nn.MaxPool2d(3, stride=2),
            *block(16, 32, 3, 1, 1),
            nn.MaxPool2d(3, stride=2),
            *block(32, classes, 3, 1, 1),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
        )

    def forward(self, x):
        return self.net(x)


@alternative("inception")
class Inception(nn.Module):
    def __init__(self, cin, c1, c2, c3, c4):
        super().__init__()
        self.cin, self.c1, self.c2, self.c3, self.c4 = cin, c1, c2, c3, c4

        def conv(a, b, k):
            return [nn.Conv2d(a, b, k, padding="same"), nn.ReLU()]

        self.paths = nn.ModuleList(
            [
                nn.Sequential(*conv(cin, c1, 1)),
                nn.Sequential(*conv(cin, c2[0], 1), *conv(c2[0], c2[1], 3)),
                nn.Sequential(*conv(cin, c3[0], 1), *conv(c3[0], c3[1], 5)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *conv(cin, c4, 1)),
            ]
        )

    def forward(self, x):
        return torch.cat([path(x) for path in self.paths], 1)


@alternative("inception")
def macs(block, h, w, reduce=True):
    # A list of convolutions (in, out, kernel).
    wide = [(block.cin, block.c1, 1), (block.cin, block.c4, 1)]
    for (small, big), k in ((block.c2, 3), (block.c3, 5)):
        wide += [(block.cin, small, 1), (small, big, k)] if reduce else [(block.cin, big, k)]
    return sum(a * b * k * k * h * w for a, b, k in wide)


@alternative("separable")
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if not k % 2:
            raise ValueError("k is even")
        self.depthwise = nn.Conv2d(
            cin, cin, kernel_size=k, stride=s, padding=(k - 1) // 2, groups=cin, bias=False
        )
        self.pointwise = nn.Conv2d(cin, cout, kernel_size=1, bias=False)

    def forward(self, x):
        y = self.depthwise(x)
        mixed = F.linear(y.movedim(1, -1), self.pointwise.weight.flatten(1))
        return mixed.movedim(-1, 1)


@alternative("separable")
def cost_ratio(cin, cout, k):
    return 1 / cout + 1 / k**2
