"""Other right answers in the chapter on residual networks."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("block")
class Residual(nn.Module):
    # A Sequential for the projection, an in-place sum, and a loop over the branch.
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        changes = stride > 1 or cin != cout
        if changes and not use_1x1:
            raise ValueError(f"{cin} to {cout} channels with stride {stride} needs a projection")
        self.conv1 = nn.Conv2d(cin, cout, (3, 3), (stride, stride), "same" if stride == 1 else 1)
        self.conv1.register_parameter("bias", None)
        self.bn1 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding="same", bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if use_1x1:
            self.shortcut.append(nn.Conv2d(cin, cout, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(cout))

    def forward(self, x):
        y = x
        for layer in (self.conv1, self.bn1, self.relu, self.conv2, self.bn2):
            y = layer(y)
        y += self.shortcut(x)
        return y.clamp(min=0)


@alternative("bottleneck")
class Bottleneck(nn.Module):
    # The layers are made in a loop.
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        plan = [(cin, mid, 1, 1), (mid, mid, 3, stride), (mid, cout, 1, 1)]
        for i, (a, b, k, s) in enumerate(plan, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        same = stride == 1 and cin == cout
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        )

    def forward(self, x):
        y = x
        for i in (1, 2, 3):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < 3 else y
        return torch.relu(y.add(self.shortcut(x)))


@alternative("bottleneck")
def params_bottleneck(c):
    # Counted from the layers themselves.
    if c % 4 != 0:
        raise ValueError("c should be divisible by 4")

    def weights(cin, cout, k):
        return nn.Conv2d(cin, cout, k, bias=False, device="meta").weight.numel()

    m = c // 4
    return weights(c, m, 1) + weights(m, m, 3) + weights(m, c, 1), 2 * weights(c, c, 3)


@alternative("gradient")
def first_layer_grad(depth, residual, seed):
    # One Sequential of float64 layers, and autograd.grad.
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        convs = nn.ModuleList([nn.Conv2d(3, 16, 3, padding="same")])
        for _ in range(2 * depth):
            convs.append(nn.Conv2d(16, 16, 3, padding="same"))
        head = nn.Linear(16, 10)
        x, target = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
    finally:
        torch.set_default_dtype(default)
    h = torch.relu(convs[0](x))
    for i in range(depth):
        out = convs[2 * i + 2](torch.relu(convs[2 * i + 1](h)))
        h = torch.relu(out + h * float(residual))
    pooled = F.adaptive_avg_pool2d(h, 1).flatten(1)
    loss = -F.log_softmax(head(pooled), 1)[torch.arange(8), target].mean()
    (grad,) = torch.autograd.grad(loss, convs[0].weight)
    return float(grad.pow(2).sum().sqrt())


@alternative("gradient")
def jacobian_identity(blocks, x):
    # By the product rule: (I + J) ... (I + J), and the sum of J_i times what came before.
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    whole, branches = eye.clone(), torch.zeros_like(eye)
    for f in blocks:
        J = torch.autograd.functional.jacobian(f, x)
        branches = branches + J @ whole
        whole = whole + J @ whole
        x = (x + f(x)).detach()
    return whole, branches


@alternative("gradient")
def jacobian_identity(blocks, x):
    # Row by row with backward passes.
    leaf = x.detach().clone().requires_grad_()
    state, parts = leaf.clone(), 0 * leaf
    for f in blocks:
        out = f(state)
        state, parts = state + out, parts + out
    both = []
    for result in (state, parts):
        rows = [torch.autograd.grad(r, leaf, retain_graph=True)[0] for r in result]
        both.append(torch.stack(rows))
    return tuple(both)


@alternative("variants")
class Block(nn.Module):
    # A table of what runs before the sum and after it.
    def __init__(self, c, kind):
        super().__init__()
        plans = {
            "a": ("conv1 bn1 relu conv2 bn2", "relu"),
            "b": ("conv1 bn1 relu conv2", "bn2 relu"),
            "c": ("conv1 bn1 relu conv2 bn2 relu", ""),
            "d": ("relu conv1 bn1 relu conv2 bn2", ""),
            "e": ("bn1 relu conv1 bn2 relu conv2", ""),
        }
        if kind not in plans:
            raise ValueError(f"unknown kind {kind}")
        self.before, self.after = (plan.split() for plan in plans[kind])
        self.conv1 = nn.Conv2d(c, c, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        self.relu = nn.ReLU()

    def run(self, names, x):
        for name in names:
            x = getattr(self, name)(x)
        return x

    def branch(self, x):
        return self.run(self.before, x)

    def forward(self, x):
        return self.run(self.after, self.branch(x) + x)


@alternative("dense")
class DenseLayer(nn.Module):
    # One Sequential would change the names, so the layers stay attributes.
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(cin), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(cin, 4 * k, kernel_size=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(4 * k), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * k, k, kernel_size=3, padding=1, bias=False)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        y = x
        for name in ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2", "drop"):
            y = getattr(self, name)(y)
        return torch.cat((x, y), 1)


@alternative("dense")
class DenseBlock(nn.Module):
    # Every layer's output is kept in a list.
    def __init__(self, n, cin, k, drop=0.0):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(n):
            self.layers.append(DenseLayer(cin, k, drop))
            cin += k

    def forward(self, x):
        outputs, read = [x], x
        for layer in self.layers:
            new = layer(read)[:, read.shape[1] :]
            outputs.append(new)
            read = torch.cat(outputs, 1)
        return read


@alternative("dense")
class Transition(nn.Module):
    # The mean over windows by reshaping.
    def __init__(self, cin, theta):
        super().__init__()
        if theta <= 0 or theta > 1:
            raise ValueError("theta should be in (0, 1]")
        self.norm = nn.BatchNorm2d(cin)
        self.conv = nn.Conv2d(cin, int(theta * cin), 1, bias=False)

    def forward(self, x):
        y = self.conv(torch.relu(self.norm(x)))
        h, w = y.shape[2] // 2, y.shape[3] // 2
        y = y[:, :, : 2 * h, : 2 * w]
        return y.unflatten(3, (w, 2)).unflatten(2, (h, 2)).mean((3, 5))


@alternative("dense")
def densenet(k, cfg, theta, classes):
    # A module of its own; the mean is taken in its forward.
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            c = 2 * k
            self.conv0 = nn.Conv2d(3, c, 7, stride=2, padding=3, bias=False)
            self.norm0 = nn.BatchNorm2d(c)
            self.body = nn.ModuleList()
            for i, n in enumerate(cfg):
                self.body.append(DenseBlock(n, c, k))
                c = c + n * k
                if i < len(cfg) - 1:
                    self.body.append(Transition(c, theta))
                    c = int(c * theta)
            self.norm5 = nn.BatchNorm2d(c)
            self.classifier = nn.Linear(c, classes)

        def forward(self, x):
            x = F.max_pool2d(torch.relu(self.norm0(self.conv0(x))), 3, stride=2, padding=1)
            for part in self.body:
                x = part(x)
            return self.classifier(torch.relu(self.norm5(x)).mean(dim=(2, 3)))

    return Net()


@alternative("fusion")
def shared_concat_conv(x, y, w):
    # As the sum of two convolutions.
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError("x and y should have the same shape")
    return F.conv2d(x, w, padding="same") + F.conv2d(y, w, padding="same")


@alternative("fusion")
def extra_params(c, cout, k):
    return c * cout * k**2


@alternative("repvgg")
class RepBlock(nn.Module):
    # Keyword arguments throughout.
    def __init__(self, c, stride=1, groups=1):
        super().__init__()
        same = {"stride": stride, "groups": groups, "bias": False}
        self.bn3, self.bn1 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.conv3 = nn.Conv2d(c, c, kernel_size=3, padding=1, **same)
        self.conv1 = nn.Conv2d(c, c, kernel_size=1, padding=0, **same)
        self.bn0 = None
        if stride == 1:
            self.bn0 = nn.BatchNorm2d(c)

    def forward(self, x):
        parts = [self.bn3(self.conv3(x)), self.bn1(self.conv1(x))]
        if self.bn0 is not None:
            parts.append(self.bn0(x))
        return torch.stack(parts).sum(0)


@alternative("repvgg")
def fuse(block):
    # By the answers of the branches to single pixels, which is what a kernel is.
    if block.training:
        raise ValueError("the block is in training mode")
    old = block.conv3
    c, size = old.weight.shape[:2]

    def fold(kernel, bn):
        std = torch.sqrt(bn.running_var + bn.eps)
        return torch.einsum("o,oihw->oihw", bn.weight / std, kernel), (
            bn.bias - bn.weight * bn.running_mean / std
        )

    with torch.no_grad():
        weight, bias = fold(old.weight, block.bn3)
        small, b1 = fold(block.conv1.weight, block.bn1)
        weight, bias = weight.clone(), bias + b1
        weight[:, :, 1:2, 1:2] += small
        if block.bn0 is not None:
            eye = torch.eye(size, dtype=weight.dtype, device=weight.device)
            one = eye.repeat(c // size, 1)[:, :, None, None]
            own, b0 = fold(one, block.bn0)
            weight[:, :, 1:2, 1:2] += own
            bias = bias + b0
    conv = nn.Conv2d(c, c, 3, stride=old.stride, padding=1, groups=old.groups)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv
