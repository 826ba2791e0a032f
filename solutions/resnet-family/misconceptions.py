"""Wrong answers in the chapter on residual networks, each with the hint it deserves."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- block -------------------------------------------------------------------------------------


@misconception(
    "block",
    hint="The last ReLU is applied to the branch alone, before the sum. In this block it comes after the shortcut is added.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and (stride != 1 or cin != cout):
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h) + self.shortcut(x)


@misconception(
    "block",
    hint="The shortcut is missing: this is a plain block. Add the input, through self.shortcut, before the last ReLU.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and (stride != 1 or cin != cout):
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h)


@misconception(
    "block",
    hint="The stride is given to both convolutions, so the branch shrinks twice. Only the first one has it.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and (stride != 1 or cin != cout):
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="Only a change of the channels is noticed. A stride changes the shape, too, and then the sum fails.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and cin != cout:
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="The projection's batch normalisation is missing. Here the shortcut is a 1x1 convolution and a BatchNorm2d (d2l's block has none).",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and (stride != 1 or cin != cout):
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False))

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="What is added is not the block's input: x was overwritten by the first layers. Keep x for the shortcut.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if not use_1x1 and (stride != 1 or cin != cout):
            raise ValueError("a block that changes the shape needs use_1x1")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        side = self.shortcut(x)
        x = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(x))
        return F.relu(h + (x if side.shape == x.shape else side))


@misconception(
    "block",
    hint="Both normalisations are one and the same layer. Each convolution is followed by a BatchNorm2d of its own.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if (stride != 1 or cin != cout) and not use_1x1:
            raise ValueError("a projection is needed where the shape changes")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = self.bn1
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="The second convolution has the stride. It belongs to the first one, so that all that follows works on the smaller map.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if (stride != 1 or cin != cout) and not use_1x1:
            raise ValueError("a projection is needed where the shape changes")
        self.conv1 = nn.Conv2d(cin, cout, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="The projection is a bare convolution. The shortcut should be an nn.Sequential of a 1x1 convolution and a BatchNorm2d.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if (stride != 1 or cin != cout) and not use_1x1:
            raise ValueError("a projection is needed where the shape changes")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        if use_1x1:
            self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False)
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="With use_1x1 the shortcut is a projection also where the shape stays; here it is one only where the shape changes.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if (stride != 1 or cin != cout) and not use_1x1:
            raise ValueError("a projection is needed where the shape changes")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


@misconception(
    "block",
    hint="A ReLU works in place on the block's input, and the shortcut adds the changed x. Use F.relu, and never on x.",
)
class Residual(nn.Module):
    def __init__(self, cin, cout, stride=1, use_1x1=False):
        super().__init__()
        if (stride != 1 or cin != cout) and not use_1x1:
            raise ValueError("a projection is needed where the shape changes")
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        if use_1x1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x.relu_())))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


# --- bottleneck --------------------------------------------------------------------------------


@misconception(
    "bottleneck",
    hint="The stride is in the first 1x1 convolution, as in the paper of 2016: it skips three of four pixels unseen. Here the 3x3 has it.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.shortcut(x))


@misconception(
    "bottleneck",
    hint="There is always a projection on the shortcut. Where the shape stays, the shortcut should be the identity, without any weights.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if True:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.shortcut(x))


@misconception(
    "bottleneck",
    hint="There are two convolutions, 1x1 and 3x3, as in YOLO's bottleneck. ResNet's has three: 1-3-1.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, cout, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


@misconception(
    "bottleneck",
    hint="There is a ReLU on the branch before the sum, so it can only add. The third one comes after the sum.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h))) + self.shortcut(x)


@misconception(
    "bottleneck",
    hint="The basic block has two 3x3 convolutions; one is counted.",
)
def params_bottleneck(c):
    if c % 4:
        raise ValueError(f"{c} channels cannot be divided by 4")
    mid = c // 4
    return c * mid + 9 * mid * mid + mid * c, 9 * c * c


@misconception(
    "bottleneck",
    hint="The inner convolution is counted as if it saw all c channels. It works on c/4, in and out.",
)
def params_bottleneck(c):
    if c % 4:
        raise ValueError(f"{c} channels cannot be divided by 4")
    mid = c // 4
    return c * mid + 9 * c * mid + mid * c, 2 * 9 * c * c


@misconception(
    "bottleneck",
    hint="There are two ReLUs too close to each other, one before the sum and one after it. The branch ends with bn3.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        if stride == 1 and cin == cout:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = self.bn1(self.conv1(x)).relu()
        h = self.bn2(self.conv2(h)).relu()
        h = self.bn3(self.conv3(h)).relu()
        h = h + self.shortcut(x)
        return h.relu()


@misconception(
    "bottleneck",
    hint="A stride changes the shape, too: the projection is needed if the stride is not 1, also for equal channels.",
)
class Bottleneck(nn.Module):
    def __init__(self, cin, mid, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        if cin == cout:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        h = self.bn1(self.conv1(x)).relu()
        h = self.bn2(self.conv2(h)).relu()
        h = self.bn3(self.conv3(h))
        h = h + self.shortcut(x)
        return h.relu()


@misconception(
    "bottleneck",
    hint="There are two 1x1 convolutions, one down to c/4 and one back up; only one is counted.",
)
def params_bottleneck(c):
    if c % 4:
        raise ValueError("c must be divisible by 4")
    m = c // 4
    return c * m + 9 * m * m, 18 * c * c


@misconception(
    "bottleneck",
    hint="The two counts are the wrong way round: first the bottleneck's, then the basic block's.",
)
def params_bottleneck(c):
    if c % 4:
        raise ValueError("c must be divisible by 4")
    m = c // 4
    return 18 * c * c, 2 * c * m + 9 * m * m


# --- gradient ----------------------------------------------------------------------------------


@misconception(
    "gradient",
    hint="The ReLU of the block stands before the sum. It should cut what is passed on, the sum of h and f.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    kw = dict(dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, padding=1, **kw)
    blocks = [[nn.Conv2d(16, 16, 3, padding=1, **kw) for _ in range(2)] for _ in range(depth)]
    head = nn.Linear(16, 10, **kw)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = h + F.relu(f) if residual else F.relu(f)
    F.cross_entropy(head(h.mean((2, 3))), y).backward()
    return stem.weight.grad.norm().item()


@misconception(
    "gradient",
    hint="The seed is set after the layers are made, so that the weights depend on what was drawn before. Set it first.",
)
def first_layer_grad(depth, residual, seed):
    kw = dict(dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, padding=1, **kw)
    blocks = [[nn.Conv2d(16, 16, 3, padding=1, **kw) for _ in range(2)] for _ in range(depth)]
    head = nn.Linear(16, 10, **kw)
    torch.manual_seed(seed)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    F.cross_entropy(head(h.mean((2, 3))), y).backward()
    return stem.weight.grad.norm().item()


@misconception(
    "gradient",
    hint="This is the norm of the weights, not of their gradient.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    kw = dict(dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, padding=1, **kw)
    blocks = [[nn.Conv2d(16, 16, 3, padding=1, **kw) for _ in range(2)] for _ in range(depth)]
    head = nn.Linear(16, 10, **kw)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    F.cross_entropy(head(h.mean((2, 3))), y).backward()
    return stem.weight.norm().item()


@misconception(
    "gradient",
    hint="One block is made and used again and again. Each block needs weights of its own.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    kw = dict(dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, padding=1, **kw)
    blocks = [[nn.Conv2d(16, 16, 3, padding=1, **kw) for _ in range(2)]] * depth
    head = nn.Linear(16, 10, **kw)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    F.cross_entropy(head(h.mean((2, 3))), y).backward()
    return stem.weight.grad.norm().item()


@misconception(
    "gradient",
    hint="Every branch is evaluated at X_l. Block i sees X_i, what the blocks before it have passed on.",
)
def jacobian_identity(blocks, x):
    def both(x):
        last, total = x, torch.zeros_like(x)
        for branch in blocks:
            f = branch(x)
            last, total = last + f, total + f
        return last, total

    return torch.autograd.functional.jacobian(both, x)


@misconception(
    "gradient",
    hint="One term is lost in the recursion: only the last branch is added to X_l. Sum all of them.",
)
def jacobian_identity(blocks, x):
    def both(x):
        last, f = x, torch.zeros_like(x)
        for branch in blocks:
            f = branch(last)
            last = x + f
        return last, f

    return torch.autograd.functional.jacobian(both, x)


@misconception(
    "gradient",
    hint="These are transposed: row i should be the derivatives of output i.",
)
def jacobian_identity(blocks, x):
    def both(x):
        last, total = x, torch.zeros_like(x)
        for branch in blocks:
            f = branch(last)
            last, total = last + f, total + f
        return last, total

    whole, part = torch.autograd.functional.jacobian(both, x)
    return whole.T, part.T


@misconception(
    "gradient",
    hint="The second result still holds the identity: it is the derivative of X_L, not of the sum of the branches.",
)
def jacobian_identity(blocks, x):
    def both(x):
        last, total = x, x
        for branch in blocks:
            f = branch(last)
            last, total = last + f, total + f
        return last, total

    return torch.autograd.functional.jacobian(both, x)


@misconception(
    "gradient",
    hint="This is the norm for weight and bias together. Only stem.weight is asked.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    kw = dict(padding=1, dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, **kw)
    blocks = [(nn.Conv2d(16, 16, 3, **kw), nn.Conv2d(16, 16, 3, **kw)) for _ in range(depth)]
    head = nn.Linear(16, 10, dtype=torch.float64)
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    y = torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    loss = F.cross_entropy(head(h.mean((2, 3))), y)
    loss.backward()
    return sum(p.grad.norm() ** 2 for p in stem.parameters()).sqrt().item()


@misconception(
    "gradient",
    hint="This is the mean of the absolute values. The norm is the root of the sum of squares.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    kw = dict(padding=1, dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, **kw)
    blocks = [(nn.Conv2d(16, 16, 3, **kw), nn.Conv2d(16, 16, 3, **kw)) for _ in range(depth)]
    head = nn.Linear(16, 10, dtype=torch.float64)
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    y = torch.randint(10, (8,))
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    loss = F.cross_entropy(head(h.mean((2, 3))), y)
    loss.backward()
    return stem.weight.grad.abs().mean().item()


@misconception(
    "gradient",
    hint="x and y are drawn before the layers. The order decides which random numbers go where: layers first, then x, then y.",
)
def first_layer_grad(depth, residual, seed):
    torch.manual_seed(seed)
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    y = torch.randint(10, (8,))
    kw = dict(padding=1, dtype=torch.float64)
    stem = nn.Conv2d(3, 16, 3, **kw)
    blocks = [(nn.Conv2d(16, 16, 3, **kw), nn.Conv2d(16, 16, 3, **kw)) for _ in range(depth)]
    head = nn.Linear(16, 10, dtype=torch.float64)
    h = F.relu(stem(x))
    for conv_a, conv_b in blocks:
        f = conv_b(F.relu(conv_a(h)))
        h = F.relu(h + f if residual else f)
    loss = F.cross_entropy(head(h.mean((2, 3))), y)
    loss.backward()
    return stem.weight.grad.norm().item()


# --- variants ----------------------------------------------------------------------------------


@misconception(
    "variants",
    hint="A ReLU follows the sum in every kind. In (c), (d) and (e) nothing stands there; that is what keeps the shortcut clean.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in ("a", "b", "c", "d", "e"):
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h)))
        start = F.relu(x) if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        if self.kind == "b":
            return h
        h = self.bn2(h)
        return F.relu(h) if self.kind == "c" else h

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "b":
            y = self.bn2(y)
        return F.relu(y)


@misconception(
    "variants",
    hint="In (c) the ReLU should end the branch, before the sum.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in ("a", "b", "c", "d", "e"):
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h)))
        start = F.relu(x) if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        if self.kind == "b":
            return h
        h = self.bn2(h)
        return h

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "b":
            y = self.bn2(y)
        return F.relu(y) if self.kind in ("a", "b") else y


@misconception(
    "variants",
    hint="In (e) each normalisation comes before its ReLU and convolution: BN, ReLU, conv, BN, ReLU, conv.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in ("a", "b", "c", "d", "e"):
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.bn1(self.conv1(F.relu(x)))
            return self.bn2(self.conv2(F.relu(h)))
        start = F.relu(x) if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        if self.kind == "b":
            return h
        h = self.bn2(h)
        return F.relu(h) if self.kind == "c" else h

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "b":
            y = self.bn2(y)
        return F.relu(y) if self.kind in ("a", "b") else y


@misconception(
    "variants",
    hint="In (d) the ReLU of the branch also changes what goes down the shortcut. Make a new tensor for the branch.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in ("a", "b", "c", "d", "e"):
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h)))
        start = x.relu_() if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        if self.kind == "b":
            return h
        h = self.bn2(h)
        return F.relu(h) if self.kind == "c" else h

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "b":
            y = self.bn2(y)
        return F.relu(y) if self.kind in ("a", "b") else y


@misconception(
    "variants",
    hint='`kind in "abcde"` is also true for "ab" and for the empty text. Compare with single letters.',
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in "abcde":
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h)))
        start = F.relu(x) if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        if self.kind == "b":
            return h
        h = self.bn2(h)
        return F.relu(h) if self.kind == "c" else h

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "b":
            y = self.bn2(y)
        return F.relu(y) if self.kind in ("a", "b") else y


@misconception(
    "variants",
    hint="In (b) the second normalisation belongs behind the sum; here it is still in the branch, as in (a).",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.kind = kind
        if kind not in ("a", "b", "c", "d", "e"):
            raise ValueError(f"there is no kind {kind!r}")
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def branch(self, x):
        if self.kind == "e":
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h)))
        start = F.relu(x) if self.kind == "d" else x
        h = self.conv2(F.relu(self.bn1(self.conv1(start))))
        h = self.bn2(h)
        return F.relu(h) if self.kind == "c" else h

    def forward(self, x):
        y = x + self.branch(x)
        return F.relu(y) if self.kind in ("a", "b") else y


@misconception(
    "variants",
    hint="In (b) the ReLU comes before the normalisation. After the sum it is BN first, then ReLU.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        if kind not in tuple("abcde"):
            raise ValueError(kind)
        self.kind = kind
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn2 = nn.BatchNorm2d(c)

    def branch(self, x):
        k = self.kind
        if k == "a":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if k == "b":
            return self.conv2(F.relu(self.bn1(self.conv1(x))))
        if k == "c":
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if k == "d":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(F.relu(x))))))
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "a":
            return F.relu(y)
        if self.kind == "b":
            return self.bn2(F.relu(y))
        return y


@misconception(
    "variants",
    hint="In (d) the first ReLU is missing. The branch of (d) begins with one; it is what makes it a pre-activation.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        if kind not in tuple("abcde"):
            raise ValueError(kind)
        self.kind = kind
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn2 = nn.BatchNorm2d(c)

    def branch(self, x):
        k = self.kind
        if k == "a":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if k == "b":
            return self.conv2(F.relu(self.bn1(self.conv1(x))))
        if k == "c":
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if k == "d":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "a":
            return F.relu(y)
        if self.kind == "b":
            return F.relu(self.bn2(y))
        return y


@misconception(
    "variants",
    hint="In (e) the ReLUs stand before the normalisations. Read the figure from below: BN, then ReLU, then conv, twice.",
)
class Block(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        if kind not in tuple("abcde"):
            raise ValueError(kind)
        self.kind = kind
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn2 = nn.BatchNorm2d(c)

    def branch(self, x):
        k = self.kind
        if k == "a":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if k == "b":
            return self.conv2(F.relu(self.bn1(self.conv1(x))))
        if k == "c":
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if k == "d":
            return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(F.relu(x))))))
        return self.conv2(self.bn2(F.relu(self.conv1(self.bn1(F.relu(x))))))

    def forward(self, x):
        y = x + self.branch(x)
        if self.kind == "a":
            return F.relu(y)
        if self.kind == "b":
            return F.relu(self.bn2(y))
        return y


# --- dense -------------------------------------------------------------------------------------


@misconception(
    "dense",
    hint="Only the new channels are returned. Join them to the input, so that later layers still see it.",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        h = F.dropout(h, self.drop, self.training)
        return h


@misconception(
    "dense",
    hint="The new channels come first. The input should come first and the new ones after it.",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        h = F.dropout(h, self.drop, self.training)
        return torch.cat([h, x], dim=1)


@misconception(
    "dense",
    hint="The order is convolution, normalisation, ReLU. In a dense layer BN and ReLU come before each convolution.",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(4 * k)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        h = F.dropout(h, self.drop, self.training)
        return torch.cat([x, h], dim=1)


@misconception(
    "dense",
    hint="Dropout is always on. Tell F.dropout whether the layer is training (self.training).",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        h = F.dropout(h, self.drop)
        return torch.cat([x, h], dim=1)


@misconception(
    "dense",
    hint="Dropout hits the input's channels as well. Only the new ones should lose values, before they are joined.",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return F.dropout(torch.cat([x, h], dim=1), self.drop, self.training)


@misconception(
    "dense",
    hint="theta * cin is rounded to the nearest number; it should be rounded down.",
)
class Transition(nn.Sequential):
    def __init__(self, cin, theta):
        if not 0 < theta <= 1:
            raise ValueError(f"theta should be in (0, 1], not {theta}")
        super().__init__(
            nn.BatchNorm2d(cin),
            nn.ReLU(),
            nn.Conv2d(cin, max(1, math.floor(theta * cin + 0.5)), 1, bias=False),
            nn.AvgPool2d(2),
        )


@misconception(
    "dense",
    hint="The pooling takes the maximum; a transition takes the mean of 2x2 pixels.",
)
class Transition(nn.Sequential):
    def __init__(self, cin, theta):
        if not 0 < theta <= 1:
            raise ValueError(f"theta should be in (0, 1], not {theta}")
        super().__init__(
            nn.BatchNorm2d(cin),
            nn.ReLU(),
            nn.Conv2d(cin, math.floor(theta * cin), 1, bias=False),
            nn.MaxPool2d(2),
        )


@misconception(
    "dense",
    hint="There is a transition behind every block, also the last. They stand only between two blocks.",
)
def densenet(k, cfg, theta, classes):
    c = 2 * k
    layers = [nn.Conv2d(3, c, 7, 2, 3, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    for n in cfg:
        layers.append(DenseBlock(n, c, k))  # noqa: F821
        c += n * k
        layers.append(Transition(c, theta))
        c = math.floor(theta * c)
    layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(c, classes))


@misconception(
    "dense",
    hint="The head pools windows of 7 x 7, which fits pictures of 224 x 224 only. Take the mean over all positions.",
)
def densenet(k, cfg, theta, classes):
    c = 2 * k
    layers = [
        nn.Conv2d(3, c, 7, 2, 3, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for i, n in enumerate(cfg):
        if i > 0:
            layers.append(Transition(c, theta))
            c = math.floor(theta * c)
        layers.append(DenseBlock(n, c, k))  # noqa: F821
        c += n * k
    return nn.Sequential(
        *layers, nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(c, classes)
    )


@misconception(
    "dense",
    hint="The layers count from 1 where they should from 0: the first one reads cin channels, not cin + k.",
)
class DenseBlock(nn.Sequential):
    def __init__(self, n, cin, k, drop=0.0):
        super().__init__(*(DenseLayer(cin + (i + 1) * k, k, drop) for i in range(n)))


@misconception(
    "dense",
    hint="All layers read cin channels. Each reads what all before it have added: cin + i * k, i from 0.",
)
class DenseBlock(nn.Sequential):
    def __init__(self, n, cin, k, drop=0.0):
        super().__init__(*(DenseLayer(cin, k, drop) for i in range(n)))


@misconception(
    "dense",
    hint="The last BN and ReLU are missing. In this order of layers a block ends in a convolution, so the head begins with BN and ReLU.",
)
def densenet(k, cfg, theta, classes):
    c = 2 * k
    layers = [
        nn.Conv2d(3, c, 7, 2, 3, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for i, n in enumerate(cfg):
        if i > 0:
            t = Transition(c, theta)
            layers.append(t)
            c = math.floor(theta * c)
        layers.append(DenseBlock(n, c, k))
        c += n * k
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes)]
    return nn.Sequential(*layers)


@misconception(
    "dense",
    hint="theta = 1 is refused. It is allowed, and means that nothing is compressed.",
)
class Transition(nn.Sequential):
    def __init__(self, cin, theta):
        if not 0 < theta < 1:
            raise ValueError("theta must be in (0, 1]")
        super().__init__(
            nn.BatchNorm2d(cin),
            nn.ReLU(),
            nn.Conv2d(cin, math.floor(theta * cin), 1, bias=False),
            nn.AvgPool2d(2),
        )


@misconception(
    "dense",
    hint="The input of conv1 is not normalised: norm1 is made and not used, or used after the convolution.",
)
class DenseLayer(nn.Module):
    def __init__(self, cin, k, drop=0.0):
        super().__init__()
        self.drop = drop
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * k, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * k)
        self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv1(F.relu(x))
        h = self.conv2(F.relu(self.norm2(h)))
        h = F.dropout(h, self.drop, self.training)
        return torch.cat([x, h], 1)


# --- fusion ------------------------------------------------------------------------------------


@misconception(
    "fusion",
    hint="The result is smaller than the inputs: the padding is missing.",
)
def shared_concat_conv(x, y, w):
    if x.shape != y.shape:
        raise ValueError(f"{tuple(x.shape)} and {tuple(y.shape)} differ")
    both = torch.cat([x, y], dim=1)
    shared = torch.cat([w, w], dim=1)
    return F.conv2d(both, shared)


@misconception(
    "fusion",
    hint="Shapes that broadcast are let through: x + y works for one channel or one picture, too. Compare the shapes first.",
)
def shared_concat_conv(x, y, w):
    padding = w.shape[2] // 2, w.shape[3] // 2
    return F.conv2d(x + y, w, padding=padding)


@misconception(
    "fusion",
    hint="The kernels of the second half are half as strong: this is the mean of the two inputs, not their sum.",
)
def shared_concat_conv(x, y, w):
    if x.shape != y.shape:
        raise ValueError(f"{tuple(x.shape)} and {tuple(y.shape)} differ")
    both = torch.cat([x, y], dim=1)
    shared = torch.cat([w, w], dim=1) / 2
    padding = w.shape[2] // 2, w.shape[3] // 2
    return F.conv2d(both, shared, padding=padding)


@misconception(
    "fusion",
    hint="Both axes are padded by half of the kernel's height. A kernel that is not square needs a padding for each axis.",
)
def shared_concat_conv(x, y, w):
    if x.shape != y.shape:
        raise ValueError(f"{tuple(x.shape)} and {tuple(y.shape)} differ")
    both = torch.cat([x, y], dim=1)
    shared = torch.cat([w, w], dim=1)
    padding = w.shape[2] // 2
    return F.conv2d(both, shared, padding=padding)


@misconception(
    "fusion",
    hint="This is the whole layer after concatenating. The question is how much more that is than after adding.",
)
def extra_params(c, cout, k):
    return 2 * c * cout * k * k


@misconception(
    "fusion",
    hint="A k x k kernel has k * k weights, not k.",
)
def extra_params(c, cout, k):
    return c * cout * k


@misconception(
    "fusion",
    hint="The tensors are joined along the batch, axis 0. Channels are axis 1, in the pictures and in the kernels.",
)
def shared_concat_conv(x, y, w):
    if x.shape != y.shape:
        raise ValueError("shapes differ")
    kh, kw = w.shape[-2:]
    return F.conv2d(torch.cat([x, y], 0), torch.cat([w, w], 0), padding=(kh // 2, kw // 2))


@misconception(
    "fusion",
    hint="Different shapes end in torch's RuntimeError, or in none. Compare the shapes yourself, first, and raise a ValueError.",
)
def shared_concat_conv(x, y, w):
    kh, kw = w.shape[-2:]
    return F.conv2d(torch.cat([x, y], 1), torch.cat([w, w], 1), padding=(kh // 2, kw // 2))


# --- repvgg ------------------------------------------------------------------------------------


@misconception(
    "repvgg",
    hint="There is a ReLU at the end. A convolution could not compute it; it follows outside of the block.",
)
class RepBlock(nn.Module):
    def __init__(self, c, stride=1, groups=1):
        super().__init__()
        self.conv3 = nn.Conv2d(c, c, 3, stride, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.conv1 = nn.Conv2d(c, c, 1, stride, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn0 = nn.BatchNorm2d(c) if stride == 1 else None

    def forward(self, x):
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        return F.relu(y if self.bn0 is None else y + self.bn0(x))


@misconception(
    "repvgg",
    hint="The identity branch has no batch normalisation of its own: x is added as it is.",
)
class RepBlock(nn.Module):
    def __init__(self, c, stride=1, groups=1):
        super().__init__()
        self.conv3 = nn.Conv2d(c, c, 3, stride, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.conv1 = nn.Conv2d(c, c, 1, stride, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn0 = nn.BatchNorm2d(c) if stride == 1 else None

    def forward(self, x):
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        return y if self.bn0 is None else y + x


@misconception(
    "repvgg",
    hint="The identity is made of nine ones, which sums over a window. It is 1 at the centre only.",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i % per_group] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="The identity's kernel is 1 between all channels, so it adds them all up. Each channel should read only itself.",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    identity[:, :, 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="The kernel is divided by the variance. sigma is the standard deviation, the root of running_var + eps.",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i % per_group, 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps) for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="The running mean is forgotten in the bias: beta - gamma * mean / sigma.",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i % per_group, 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(sum(bn.bias for f, (_, bn) in zip(factors, branches)))
    return fused


@misconception(
    "repvgg",
    hint="The 1x1 kernel lies in a corner of the 3x3 kernel. It belongs in the centre: pad on all sides.",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i % per_group, 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [0, 2, 0, 2]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="With groups, the second axis of the kernel has c // groups places: channel i is at i % (c // groups).",
)
def fuse(block):
    if block.training:
        raise ValueError("batch statistics cannot be folded; call eval()")
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i.clamp(max=per_group - 1), 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="A block in training mode is fused without complaint. There the batch normalisations use each batch's own statistics, which no kernel can hold.",
)
def fuse(block):
    conv3 = block.conv3
    c, per_group = conv3.weight.shape[:2]
    identity = torch.zeros_like(conv3.weight)
    i = torch.arange(c)
    identity[i, i % per_group, 1, 1] = 1
    branches = [(conv3.weight, block.bn3), (F.pad(block.conv1.weight, [1, 1, 1, 1]), block.bn1)]
    if block.bn0 is not None:
        branches.append((identity, block.bn0))
    fused = nn.Conv2d(c, c, 3, conv3.stride, 1, groups=conv3.groups)
    fused = fused.to(conv3.weight)
    with torch.no_grad():
        factors = [bn.weight / (bn.running_var + bn.eps).sqrt() for _, bn in branches]
        fused.weight.copy_(
            sum(f[:, None, None, None] * kernel for f, (kernel, _) in zip(factors, branches))
        )
        fused.bias.copy_(
            sum(bn.bias - f * bn.running_mean for f, (_, bn) in zip(factors, branches))
        )
    return fused


@misconception(
    "repvgg",
    hint="Channel i finds itself at i % (c // groups) of the kernel's second axis, not at a quotient.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(-1, 1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i // conv.groups, 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="eps is added to the root. It belongs under it: sqrt(running_var + eps).",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var) + bn.eps
        return w * s.reshape(-1, 1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="The factor scales the kernel's input channels. It belongs to the output channels, the first axis of the weight.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(1, -1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="The mean has the wrong sign in the bias: beta - gamma * mean / sigma.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(-1, 1, 1, 1), bn.bias + s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="The 1x1 kernel is copied to all nine places. It belongs in the centre, with zeros around it.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(-1, 1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + w1.expand_as(w)
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="The identity's kernel is added without its batch normalisation. Fold bn0 into it, as into the others.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(-1, 1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w = w + eye
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
    return out.eval()


@misconception(
    "repvgg",
    hint="The block itself is changed. Make a new nn.Conv2d and copy the sums into that.",
)
def fuse(block):
    if block.training:
        raise ValueError("eval first")

    def fold(w, bn):
        s = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return w * s.reshape(-1, 1, 1, 1), bn.bias - s * bn.running_mean

    conv = block.conv3
    c = conv.out_channels
    with torch.no_grad():
        w, b = fold(conv.weight, block.bn3)
        w1, b1 = fold(block.conv1.weight, block.bn1)
        w = w + F.pad(w1, (1, 1, 1, 1))
        b = b + b1
        if block.bn0 is not None:
            eye = torch.zeros_like(conv.weight)
            for i in range(c):
                eye[i, i % (c // conv.groups), 1, 1] = 1
            w0, b0 = fold(eye, block.bn0)
            w, b = w + w0, b + b0
        out = nn.Conv2d(
            c, c, 3, conv.stride, 1, groups=conv.groups, bias=True, device=w.device, dtype=w.dtype
        )
        out.weight.copy_(w)
        out.bias.copy_(b)
        conv.weight.copy_(w)
    return out.eval()


@misconception(
    "repvgg",
    hint="The identity branch is there for every stride. With a stride the map shrinks, so bn0 should be None.",
)
class RepBlock(nn.Module):
    def __init__(self, c, stride=1, groups=1):
        super().__init__()
        self.conv3 = nn.Conv2d(c, c, 3, stride, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.conv1 = nn.Conv2d(c, c, 1, stride, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.bn0 = nn.BatchNorm2d(c)

    def forward(self, x):
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        if self.conv3.stride[0] == 1:
            y = y + self.bn0(x)
        return y
