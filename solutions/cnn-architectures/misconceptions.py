"""Wrong answers in the chapter on classic CNNs, each with the hint it deserves."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- lenet -----------------------------------------------------------------------------------


@misconception(
    "lenet",
    hint="The first dense layer always expects 400 features, which is right for 32 x 32 pixels "
    "only. Let the features tell how many values they make.",
)
def lenet(in_ch, size, classes):
    if size < 16:
        raise ValueError("too small")
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_ch, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )
    classifier = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(16 * 5 * 5, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


@misconception(
    "lenet",
    hint="The first convolution has padding, as in versions for 28 x 28 pixels. Here no layer has "
    "any: 32 pixels become 28.",
)
def lenet(in_ch, size, classes):
    if size < 16:
        raise ValueError("too small")
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_ch, 6, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )
    flat = features(torch.zeros(1, in_ch, size, size)).numel()
    classifier = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(flat, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


@misconception(
    "lenet",
    hint="The poolings take the mean. That is the network of 1998 (and of some books); here they "
    "should take the maximum.",
)
def lenet(in_ch, size, classes):
    if size < 16:
        raise ValueError("too small")
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_ch, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),
        )
    )
    flat = features(torch.zeros(1, in_ch, size, size)).numel()
    classifier = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(flat, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


@misconception(
    "lenet",
    hint="There is a ReLU behind the scores as well. The last layer's output is the answer; a ReLU "
    "there would lose every negative score.",
)
def lenet(in_ch, size, classes):
    if size < 16:
        raise ValueError("too small")
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_ch, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )
    flat = features(torch.zeros(1, in_ch, size, size)).numel()
    classifier = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(flat, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
            relu5=nn.ReLU(),
        )
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


@misconception(
    "lenet",
    hint="The layers are right but have numbers instead of names. An OrderedDict of layers gives "
    "a Sequential names such as conv1.",
)
def lenet(in_ch, size, classes):
    if size < 16:
        raise ValueError("too small")
    features = nn.Sequential(
        nn.Conv2d(in_ch, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    flat = features(torch.zeros(1, in_ch, size, size)).numel()
    classifier = nn.Sequential(
        nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


@misconception(
    "lenet",
    hint="Images that are too small are taken without a word: the side of the last maps comes out "
    "as 0 or less. The docstring asks for a ValueError.",
)
def lenet(in_ch, size, classes):
    side = ((size - 4) // 2 - 4) // 2
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_ch, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )
    classifier = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(16 * side * side, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


# --- lrn -------------------------------------------------------------------------------------


@misconception(
    "lrn",
    hint="alpha multiplies the sum of the squares here, as in the paper. In this exercise, as in "
    "PyTorch, it is divided by n.",
)
def lrn(x, n, alpha, beta, k):
    if n < 1:
        raise ValueError("n is less than 1")
    squares = F.pad(x.pow(2).movedim(1, -1), (n // 2, (n - 1) // 2))
    return x / (k + alpha * squares.unfold(-1, n, 1).sum(-1).movedim(-1, 1)).pow(beta)


@misconception(
    "lrn",
    hint="For even n the window cannot be symmetric. The extra channel belongs before the channel, "
    "not behind it.",
)
def lrn(x, n, alpha, beta, k):
    if n < 1:
        raise ValueError("n is less than 1")
    squares = F.pad(x.pow(2).movedim(1, -1), ((n - 1) // 2, n // 2))
    return x / (k + alpha / n * squares.unfold(-1, n, 1).sum(-1).movedim(-1, 1)).pow(beta)


@misconception(
    "lrn",
    hint="At the first and last channels the mean is taken over the channels that exist. The sum "
    "is always divided by n; missing channels count as zero.",
)
def lrn(x, n, alpha, beta, k):
    if n < 1:
        raise ValueError("n is less than 1")
    parts = []
    for c in range(x.shape[1]):
        window = x[:, max(0, c - n // 2) : c + (n - 1) // 2 + 1]
        parts.append(x[:, c] / (k + alpha * window.pow(2).mean(1)).pow(beta))
    return torch.stack(parts, 1)


@misconception(
    "lrn",
    hint="The window runs along the last axis, over neighbouring pixels. It should run over "
    "neighbouring channels at the same pixel.",
)
def lrn(x, n, alpha, beta, k):
    if n < 1:
        raise ValueError("n is less than 1")
    squares = F.pad(x.pow(2), (n // 2, (n - 1) // 2))
    return x / (k + alpha / n * squares.unfold(-1, n, 1).sum(-1)).pow(beta)


@misconception(
    "lrn",
    hint="k is added after the power. It belongs into the bracket, so that the power is taken of "
    "the sum.",
)
def lrn(x, n, alpha, beta, k):
    if n < 1:
        raise ValueError("n is less than 1")
    squares = F.pad(x.pow(2).movedim(1, -1), (n // 2, (n - 1) // 2))
    activity = squares.unfold(-1, n, 1).sum(-1).movedim(-1, 1)
    return x / (k + (alpha / n * activity).pow(beta))


# --- alexnet ---------------------------------------------------------------------------------


@misconception(
    "alexnet",
    hint="The hooks stay on the network, so that its next run writes into an old list. "
    "`register_forward_hook` returns a handle; call its `remove`.",
)
def layer_table(net, x):
    rows, seen = [], set()
    modes = [(m, m.training) for m in net.modules()]

    def note(name):
        def hook(module, inputs, output):
            params = 0 if name in seen else sum(p.numel() for p in module.parameters())
            seen.add(name)
            rows.append((name, tuple(output.shape), params))

        return hook

    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(note(name))
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "alexnet",
    hint="Every hook writes the same name. A function sees a loop's variable as it is when it is "
    "called, after the loop; hand the name over as an argument.",
)
def layer_table(net, x):
    rows, seen, handles = [], set(), []
    modes = [(m, m.training) for m in net.modules()]
    for name, module in net.named_modules():
        if not list(module.children()):

            def hook(module, inputs, output):
                params = 0 if module in seen else sum(p.numel() for p in module.parameters())
                seen.add(module)
                rows.append((name, tuple(output.shape), params))

            handles.append(module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "alexnet",
    hint="At the end the whole network is put into train mode, also what was in eval mode before. "
    "Remember the mode of each module.",
)
def layer_table(net, x):
    rows, seen, handles = [], set(), []

    def note(name):
        def hook(module, inputs, output):
            params = 0 if name in seen else sum(p.numel() for p in module.parameters())
            seen.add(name)
            rows.append((name, tuple(output.shape), params))

        return hook

    for name, module in net.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        net.train()
    return rows


@misconception(
    "alexnet",
    hint="Containers have rows too, so that the parameters inside them are counted again. A layer "
    "is a module without children.",
)
def layer_table(net, x):
    rows, seen, handles = [], set(), []
    modes = [(m, m.training) for m in net.modules()]

    def note(name):
        def hook(module, inputs, output):
            params = 0 if name in seen else sum(p.numel() for p in module.parameters())
            seen.add(name)
            rows.append((name, tuple(output.shape), params))

        return hook

    for name, module in net.named_modules():
        handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return rows


@misconception(
    "alexnet",
    hint="If the network fails, the hooks stay and the modes are not put back. What always has to "
    "happen belongs into `finally`.",
)
def layer_table(net, x):
    rows, seen, handles = [], set(), []
    modes = [(m, m.training) for m in net.modules()]

    def note(name):
        def hook(module, inputs, output):
            params = 0 if name in seen else sum(p.numel() for p in module.parameters())
            seen.add(name)
            rows.append((name, tuple(output.shape), params))

        return hook

    for name, module in net.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(note(name)))
    with torch.no_grad():
        net.eval()(x)
    for handle in handles:
        handle.remove()
    for module, mode in modes:
        module.training = mode
    return rows


# --- nin -------------------------------------------------------------------------------------


@misconception(
    "nin",
    hint="There is no ReLU between the 1 x 1 convolutions. Two linear layers in a row are one "
    "linear layer, so nothing is gained.",
)
def nin_block(cin, cout, k, s, p):
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, s, p),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 1),
        nn.Conv2d(cout, cout, 1),
        nn.ReLU(),
    )


@misconception(
    "nin",
    hint="Stride and padding have changed places. In `nn.Conv2d` the stride comes right after the "
    "kernel size; names are safer.",
)
def nin_block(cin, cout, k, s, p):
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, stride=max(p, 1), padding=s),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 1),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 1),
        nn.ReLU(),
    )


@misconception(
    "nin",
    hint="The two small convolutions have windows of 3 x 3, so they look at neighbours. A network "
    "at every pixel looks at one pixel.",
)
def nin_block(cin, cout, k, s, p):
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, s, p),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(),
    )


@misconception(
    "nin",
    hint="The network ends with a dense layer. In NiN the last block already has one channel for "
    "each class, and its mean is the score.",
)
class NiN(nn.Module):
    def __init__(self, in_ch, classes):
        super().__init__()

        def block(a, b, k, s, p):
            return nn.Sequential(
                nn.Conv2d(a, b, k, s, p),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
            )

        self.blocks = nn.Sequential(
            block(in_ch, 16, 5, 2, 2),
            nn.MaxPool2d(3, 2),
            block(16, 32, 3, 1, 1),
            nn.MaxPool2d(3, 2),
            block(32, 32, 3, 1, 1),
        )
        self.dense = nn.Linear(32, classes)

    def forward(self, x):
        return self.dense(self.blocks(x).mean((2, 3)))


@misconception(
    "nin",
    hint="The score of a class is the largest value of its map here. Global *average* pooling "
    "takes the mean.",
)
class NiN(nn.Module):
    def __init__(self, in_ch, classes):
        super().__init__()

        def block(a, b, k, s, p):
            return nn.Sequential(
                nn.Conv2d(a, b, k, s, p),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
            )

        self.blocks = nn.Sequential(
            block(in_ch, 16, 5, 2, 2),
            nn.MaxPool2d(3, 2),
            block(16, 32, 3, 1, 1),
            nn.MaxPool2d(3, 2),
            block(32, classes, 3, 1, 1),
        )

    def forward(self, x):
        return self.blocks(x).amax((2, 3))


@misconception(
    "nin",
    hint="The poolings have windows of 2 x 2 that do not overlap. Here they are 3 x 3 with "
    "stride 2.",
)
class NiN(nn.Module):
    def __init__(self, in_ch, classes):
        super().__init__()

        def block(a, b, k, s, p):
            return nn.Sequential(
                nn.Conv2d(a, b, k, s, p),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
                nn.Conv2d(b, b, 1),
                nn.ReLU(),
            )

        self.blocks = nn.Sequential(
            block(in_ch, 16, 5, 2, 2),
            nn.MaxPool2d(2),
            block(16, 32, 3, 1, 1),
            nn.MaxPool2d(2),
            block(32, classes, 3, 1, 1),
        )

    def forward(self, x):
        return self.blocks(x).mean((2, 3))


@misconception(
    "nin",
    hint="The last 1 x 1 convolution has no ReLU. In NiN each of the three has one, also in the "
    "block that gives the scores.",
)
def nin_block(cin, cout, k, s, p):
    return nn.Sequential(
        nn.Conv2d(cin, cout, k, s, p),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 1),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 1),
    )


# --- inception -------------------------------------------------------------------------------


@misconception(
    "inception",
    hint="There is no ReLU between the reduction and the large window, so the two are one linear "
    "step. Each of the six convolutions has its ReLU.",
)
class Inception(nn.Module):
    def __init__(self, cin, c1, c2, c3, c4):
        super().__init__()
        self.cin, self.c1, self.c2, self.c3, self.c4 = cin, c1, c2, c3, c4
        self.p1 = nn.Conv2d(cin, c1, 1)
        self.p2_1 = nn.Conv2d(cin, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(cin, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.p4 = nn.Conv2d(cin, c4, 1)

    def forward(self, x):
        paths = [
            self.p1(x),
            self.p2_2(self.p2_1(x)),
            self.p3_2(self.p3_1(x)),
            self.p4(F.max_pool2d(x, 3, 1, 1)),
        ]
        return torch.cat(paths, 1).relu()


@misconception(
    "inception",
    hint="Path 4 takes the mean of each window. It should take the maximum.",
)
class Inception(nn.Module):
    def __init__(self, cin, c1, c2, c3, c4):
        super().__init__()
        self.cin, self.c1, self.c2, self.c3, self.c4 = cin, c1, c2, c3, c4
        self.p1 = nn.Conv2d(cin, c1, 1)
        self.p2_1 = nn.Conv2d(cin, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(cin, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.p4 = nn.Conv2d(cin, c4, 1)

    def forward(self, x):
        one = F.relu(self.p1(x))
        two = F.relu(self.p2_2(F.relu(self.p2_1(x))))
        three = F.relu(self.p3_2(F.relu(self.p3_1(x))))
        four = F.relu(self.p4(F.avg_pool2d(x, 3, 1, 1)))
        return torch.cat([one, two, three, four], 1)


@misconception(
    "inception",
    hint="Path 3 has a window of 3 x 3, as in a well-known library, where it is a known slip. The "
    "paper has 5 x 5.",
)
class Inception(nn.Module):
    def __init__(self, cin, c1, c2, c3, c4):
        super().__init__()
        self.cin, self.c1, self.c2, self.c3, self.c4 = cin, c1, c2, c3, c4
        self.p1 = nn.Conv2d(cin, c1, 1)
        self.p2_1 = nn.Conv2d(cin, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(cin, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 3, padding=1)
        self.p4 = nn.Conv2d(cin, c4, 1)

    def forward(self, x):
        one = F.relu(self.p1(x))
        two = F.relu(self.p2_2(F.relu(self.p2_1(x))))
        three = F.relu(self.p3_2(F.relu(self.p3_1(x))))
        four = F.relu(self.p4(F.max_pool2d(x, 3, 1, 1)))
        return torch.cat([one, two, three, four], 1)


@misconception(
    "inception",
    hint="Paths 2 and 3 are joined in the wrong order. The next layer relies on which channel is "
    "which.",
)
class Inception(nn.Module):
    def __init__(self, cin, c1, c2, c3, c4):
        super().__init__()
        self.cin, self.c1, self.c2, self.c3, self.c4 = cin, c1, c2, c3, c4
        self.p1 = nn.Conv2d(cin, c1, 1)
        self.p2_1 = nn.Conv2d(cin, c2[0], 1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.p3_1 = nn.Conv2d(cin, c3[0], 1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.p4 = nn.Conv2d(cin, c4, 1)

    def forward(self, x):
        one = F.relu(self.p1(x))
        two = F.relu(self.p2_2(F.relu(self.p2_1(x))))
        three = F.relu(self.p3_2(F.relu(self.p3_1(x))))
        four = F.relu(self.p4(F.max_pool2d(x, 3, 1, 1)))
        return torch.cat([one, three, two, four], 1)


@misconception(
    "inception",
    hint="The reductions are left out of the sum. A 1 x 1 convolution is cheap, not free.",
)
def macs(block, h, w, reduce=True):
    cin, c1, c2, c3, c4 = block.cin, block.c1, block.c2, block.c3, block.c4
    two, three = (c2[0], c3[0]) if reduce else (cin, cin)
    return (cin * c1 + two * c2[1] * 9 + three * c3[1] * 25 + cin * c4) * h * w


@misconception(
    "inception",
    hint="These are the parameters of one pixel's worth. Every weight is used at every position: "
    "h times w.",
)
def macs(block, h, w, reduce=True):
    cin, c1, c2, c3, c4 = block.cin, block.c1, block.c2, block.c3, block.c4
    if reduce:
        two = cin * c2[0] + c2[0] * c2[1] * 9
        three = cin * c3[0] + c3[0] * c3[1] * 25
    else:
        two, three = cin * c2[1] * 9, cin * c3[1] * 25
    return cin * c1 + two + three + cin * c4


@misconception(
    "inception",
    hint="Without reduction, path 4 is counted as if it had no convolution. Its 1 x 1 convolution "
    "comes after the pooling, it reduces nothing, and it stays.",
)
def macs(block, h, w, reduce=True):
    cin, c1, c2, c3, c4 = block.cin, block.c1, block.c2, block.c3, block.c4
    if reduce:
        two = cin * c2[0] + c2[0] * c2[1] * 9
        three = cin * c3[0] + c3[0] * c3[1] * 25
        return (cin * c1 + two + three + cin * c4) * h * w
    return (cin * c1 + cin * c2[1] * 9 + cin * c3[1] * 25) * h * w


@misconception(
    "inception",
    hint="Path 4 is not counted. The pooling costs no multiplication, but the 1 x 1 convolution "
    "behind it reads all cin channels.",
)
def macs(block, h, w, reduce=True):
    cin, c1, c2, c3 = block.cin, block.c1, block.c2, block.c3
    if reduce:
        two = cin * c2[0] + c2[0] * c2[1] * 9
        three = cin * c3[0] + c3[0] * c3[1] * 25
    else:
        two, three = cin * c2[1] * 9, cin * c3[1] * 25
    return (cin * c1 + two + three) * h * w


# --- separable -------------------------------------------------------------------------------


@misconception(
    "separable",
    hint="The first convolution mixes all channels already. Which argument of `nn.Conv2d` gives "
    "every channel a kernel of its own?",
)
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if k % 2 == 0:
            raise ValueError("k is even")
        self.depthwise = nn.Conv2d(cin, cin, k, s, k // 2, bias=False)
        self.pointwise = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


@misconception(
    "separable",
    hint="Both convolutions have a bias. Without one, 64 to 128 channels need 8,768 numbers; "
    "`bias=False` leaves it out.",
)
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if k % 2 == 0:
            raise ValueError("k is even")
        self.depthwise = nn.Conv2d(cin, cin, k, s, k // 2, groups=cin)
        self.pointwise = nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


@misconception(
    "separable",
    hint="The padding is at the 1 x 1 convolution, where it only adds a frame of zeros to the "
    "result. The window that looks over the border is the depthwise one's.",
)
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if k % 2 == 0:
            raise ValueError("k is even")
        self.depthwise = nn.Conv2d(cin, cin, k, s, groups=cin, bias=False)
        self.pointwise = nn.Conv2d(cin, cout, 1, padding=k // 2, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


@misconception(
    "separable",
    hint="There is a ReLU between the two steps. Many networks have one there, but this class "
    "promises nothing between.",
)
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if k % 2 == 0:
            raise ValueError("k is even")
        self.depthwise = nn.Conv2d(cin, cin, k, s, k // 2, groups=cin, bias=False)
        self.pointwise = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x).relu())


@misconception(
    "separable",
    hint="This is how many times larger the standard convolution is. The ratio asked for has the "
    "separable weights on top.",
)
def cost_ratio(cin, cout, k):
    return cin * cout * k**2 / (cin * k**2 + cin * cout)


@misconception(
    "separable",
    hint="Only the depthwise part is on top. Its 1 x 1 convolution has weights as well.",
)
def cost_ratio(cin, cout, k):
    return k**2 * cin / (cin * cout * k**2)


@misconception(
    "separable",
    hint="Input and output channels have changed places: it is the input channels that cancel.",
)
def cost_ratio(cin, cout, k):
    return 1 / cin + 1 / k**2


@misconception(
    "separable",
    hint="The pointwise convolution has a bias. Neither step has one here: `bias=False` belongs to "
    "both.",
)
class SeparableConv(nn.Module):
    def __init__(self, cin, cout, k, s):
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"the kernel size should be odd, not {k}")
        self.depthwise = nn.Conv2d(cin, cin, k, s, k // 2, groups=cin, bias=False)
        self.pointwise = nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))
