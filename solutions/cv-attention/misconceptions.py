"""Wrong answers that students give in the chapter on attention modules, each with its hint."""

import math

import torch
from torch import nn

from course.testing import misconception

# --- cbam ------------------------------------------------------------------------------------


@misconception(
    "cbam",
    hint="With fewer channels than r there is no hidden unit left, and the gate is the same for "
    "every picture. How many units should there be at least?",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.utils.skip_init(nn.Linear, c, c // r)
        self.out = nn.Linear(max(c // r, 1), c)
        if c // r == 0:
            self.out.weight = nn.Parameter(torch.zeros(c, 0))

    def forward(self, x):
        mean = self.out(self.hidden(x.mean((2, 3))).relu())
        top = self.out(self.hidden(x.amax((2, 3))).relu())
        return (mean + top).sigmoid()[:, :, None, None]


@misconception(
    "cbam",
    hint="Only the mean is looked at: that is squeeze-and-excitation. CBAM hears a second summary "
    "of each channel, too.",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        mean = self.out(self.hidden(x.mean((2, 3))).relu())
        return mean.sigmoid()[:, :, None, None]


@misconception(
    "cbam",
    hint="Mean and maximum are added before they pass through the network. Because of the ReLU "
    "the order makes a difference: each summary passes by itself.",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        both = x.mean((2, 3)) + x.amax((2, 3))
        return self.out(self.hidden(both).relu()).sigmoid()[:, :, None, None]


@misconception(
    "cbam",
    hint="Each summary gets a sigmoid of its own, so a weight can be larger than 1. How many "
    "sigmoids are in the formula?",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        mean = self.out(self.hidden(x.mean((2, 3))).relu()).sigmoid()
        top = self.out(self.hidden(x.amax((2, 3))).relu()).sigmoid()
        return (mean + top)[:, :, None, None]


@misconception(
    "cbam",
    hint="The ReLU of the hidden layer is missing. Two linear layers in a row are one linear "
    "layer with fewer choices.",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        mean, top = self.out(self.hidden(x.mean((2, 3)))), self.out(self.hidden(x.amax((2, 3))))
        return (mean + top).sigmoid()[:, :, None, None]


@misconception(
    "cbam",
    hint="The two maps are stacked the wrong way around: the convolution's channel 0 should see "
    "the mean, channel 1 the maximum.",
)
class SpatialAttention(nn.Module):
    def __init__(self, k):
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"k must be odd, not {k}")
        self.conv = nn.Conv2d(2, 1, k, padding=k // 2)

    def forward(self, x):
        maps = torch.stack([x.amax(1), x.mean(1)], 1)
        return self.conv(maps).sigmoid()


@misconception(
    "cbam",
    hint="An even kernel goes through without a word, and the map that comes out is one pixel too "
    "large. What should happen for an even k?",
)
class SpatialAttention(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, k, padding=k // 2)

    def forward(self, x):
        maps = torch.stack([x.mean(1), x.amax(1)], 1)
        return self.conv(maps).sigmoid()


@misconception(
    "cbam",
    hint="Both gates look at the input. The second one should look at what the first let "
    "through: one after the other, not side by side.",
)
class CBAM(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.channel = ChannelAttention(c, r)  # noqa: F821 - the student's own
        self.spatial = SpatialAttention(7)  # noqa: F821

    def forward(self, x):
        return self.channel(x) * self.spatial(x) * x


@misconception(
    "cbam",
    hint="The places are gated before the channels. It runs, and it is another module: which "
    "gate comes first in CBAM?",
)
class CBAM(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.channel = ChannelAttention(c, r)  # noqa: F821 - the student's own
        self.spatial = SpatialAttention(7)  # noqa: F821

    def forward(self, x):
        x = self.spatial(x) * x
        return self.channel(x) * x


@misconception(
    "cbam",
    hint="There is a ReLU behind the second layer, too, so that no weight can be below one half. "
    "Only the hidden layer has one.",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        mean = self.out(self.hidden(x.mean((2, 3))).relu()).relu()
        top = self.out(self.hidden(x.amax((2, 3))).relu()).relu()
        return (mean + top).sigmoid()[:, :, None, None]


@misconception(
    "cbam",
    hint="The weights come back multiplied with x. ChannelAttention returns the weights alone, "
    "(N, c, 1, 1); CBAM does the multiplying.",
)
class ChannelAttention(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.hidden = nn.Linear(c, max(1, c // r))
        self.out = nn.Linear(max(1, c // r), c)

    def forward(self, x):
        mean = self.out(self.hidden(x.mean((2, 3))).relu())
        top = self.out(self.hidden(x.amax((2, 3))).relu())
        return (mean + top).sigmoid()[:, :, None, None] * x


@misconception(
    "cbam",
    hint="The input is added at the end. CBAM only multiplies; where it stands in a residual block, "
    "the block does the adding.",
)
class CBAM(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.channel = ChannelAttention(c, r)  # noqa: F821 - the student's own
        self.spatial = SpatialAttention(7)  # noqa: F821

    def forward(self, x):
        y = self.channel(x) * x
        return x + self.spatial(y) * y


# --- nonlocal --------------------------------------------------------------------------------


@misconception(
    "nonlocal",
    hint="The weights of a *query* should add up to 1. Here each column does: along which axis do "
    "the keys lie?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The scores are divided by the root of the width, as in a transformer. The block of the "
    "paper does not scale them.",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi / math.sqrt(theta.shape[1])).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The shape is right, but pixels and channels are mixed up: y has a pixel in each row, "
    "and the memory is cut into channels. Which two axes must change places first?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.reshape(len(x), -1, *x.shape[2:]))


@misconception(
    "nonlocal",
    hint="A new block already changes its input: put into a trained network, it would break it. "
    "Which parameters should be zero at the start?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The input is not added. A new block gives zeros, and everything that the layers before "
    "have found is lost.",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The default of `inner` is c here. The docstring asks for half of it, to save work.",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = c if inner is None else inner
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The weight of `out` starts at zero, its bias does not, so that a new block adds a constant to "
    "each channel. Which parameters should be zero?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="Half of one channel is no channel at all. How many should `inner` be at least?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = c // 2 if inner is None else inner
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="`inner` is not used: the width is half of c, whatever one asks for. When should the default be "
    "taken?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The roles of theta and phi are swapped: row i should be the query theta_i against all "
    "keys phi_j.",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (phi.transpose(1, 2) @ theta).softmax(-1)

    def forward(self, x):
        y = self.attention(x) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@misconception(
    "nonlocal",
    hint="The values are weighed by a column of A, that is by what all queries give to one key. Which "
    "index of A is summed over?",
)
class NonLocal(nn.Module):
    def __init__(self, c, inner=None):
        super().__init__()
        inner = inner or max(1, c // 2)
        self.theta, self.phi, self.g = (nn.Conv2d(c, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def attention(self, x):
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        return (theta.transpose(1, 2) @ phi).softmax(-1)

    def forward(self, x):
        y = self.attention(x).transpose(1, 2) @ self.g(x).flatten(2).transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


# --- cgnl ------------------------------------------------------------------------------------


@misconception(
    "cgnl",
    hint="The result is right, but on the way there is a matrix of all pairs. In which order can "
    "the three vectors be multiplied so that it is never formed?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    a, b, v = (x.reshape(n * groups, -1, 1) for x in (t, p, g))
    y = a @ b.transpose(1, 2) @ v
    if scale:
        y = y / math.sqrt(a.shape[1])
    return y.reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="The groups are left out: all channels share one sum. Each group of channels should "
    "have its own.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).sum((1, 2, 3), keepdim=True)
    if scale:
        s = s / math.sqrt(c * h * w)
    return s * t


@misconception(
    "cgnl",
    hint="Each channel is weighed by its own sum over the positions. In a group the channels "
    "share one sum; what is it summed over?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).sum((2, 3), keepdim=True)
    if scale:
        s = s / math.sqrt(h * w)
    return s * t


@misconception(
    "cgnl",
    hint="The scale is the root of all C H W numbers. A sum runs over one group only: how many "
    "numbers are in it?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).reshape(n, groups, -1).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(c * h * w)
    return (t.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="The number is multiplied with the values g. With the brackets moved, which of the three "
    "vectors is left outside?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (t * p).reshape(n, groups, -1).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(c // groups * h * w)
    return (g.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="A softmax does not belong here: after it the matrix is no product any more, and the "
    "brackets must stay where they are.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    p, g = (x.reshape(n, groups, -1) for x in (p, g))
    s = (p.softmax(-1) * g).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(c // groups * h * w)
    return (t.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="The sum is divided by the number of products, not by its root. A sum of D random products "
    "grows like the root of D.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).reshape(n, groups, -1).sum(-1, keepdim=True)
    if scale:
        s = s / (c // groups * h * w)
    return (t.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="This is the mean of the products. The dot product of p and g is their sum; only `scale` "
    "divides, and by a root.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).reshape(n, groups, -1).mean(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(c // groups * h * w)
    return (t.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="A group here is made of every G-th channel. It should be of neighbouring channels: cut the "
    "axis, do not deal it out like cards.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    t, p, g = (v.unflatten(1, (-1, groups)).transpose(1, 2).flatten(2) for v in (t, p, g))
    s = (p * g).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(t.shape[2])
    return (t * s).unflatten(2, (-1, h, w)).transpose(1, 2).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="A group here is made of every G-th channel, and they come back in another order. Cut the "
    "axis into neighbours, and put it together again as it was.",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    t, p, g = (v.unflatten(1, (-1, groups)).transpose(1, 2).flatten(2) for v in (t, p, g))
    s = (p * g).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(t.shape[2])
    return (t * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="All pictures of the batch share one sum. Each picture has an attention of its own: which axis "
    "should not be summed over?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p * g).reshape(n, groups, -1).sum((0, 2), keepdim=True)
    if scale:
        s = s / math.sqrt(c // groups * h * w)
    return (t.reshape(n, groups, -1) * s).reshape(n, c, h, w)


@misconception(
    "cgnl",
    hint="`view` works only where the memory lies in the order of the axes, and that of channels_last "
    "does not. What does the same for any layout?",
)
def cgnl(t, p, g, groups=1, scale=False):
    n, c, h, w = t.shape
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    s = (p.view(n, groups, -1) * g.view(n, groups, -1)).sum(-1, keepdim=True)
    if scale:
        s = s / math.sqrt(c // groups * h * w)
    return (t.view(n, groups, -1) * s).view(n, c, h, w)


# --- cross -----------------------------------------------------------------------------------


@misconception(
    "cross",
    hint="The weights of a place of x should add up to 1 over the places of y. Here the softmax "
    "runs over the queries.",
)
class CrossLayer(nn.Module):
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query, self.out = nn.Conv2d(cq, c, 1), nn.Conv2d(c, cq, 1)
        self.key, self.value = nn.Conv2d(ck, c, 1), nn.Conv2d(ck, c, 1)

    def attention(self, x, y):
        q, k = self.query(x).flatten(2), self.key(y).flatten(2)
        return (q.permute(0, 2, 1) @ k).softmax(1)

    def forward(self, x, y):
        o = (self.attention(x, y) @ self.value(y).flatten(2).permute(0, 2, 1)).permute(0, 2, 1)
        return x + self.out(o.unflatten(2, x.shape[2:]))


@misconception(
    "cross",
    hint="The shape is right, but places and channels are mixed up: cutting the memory into "
    "(c, H1, W1) does not swap axes. Permute back first.",
)
class CrossLayer(nn.Module):
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query, self.out = nn.Conv2d(cq, c, 1), nn.Conv2d(c, cq, 1)
        self.key, self.value = nn.Conv2d(ck, c, 1), nn.Conv2d(ck, c, 1)

    def attention(self, x, y):
        q, k = self.query(x).flatten(2), self.key(y).flatten(2)
        return (q.permute(0, 2, 1) @ k).softmax(-1)

    def forward(self, x, y):
        o = self.attention(x, y) @ self.value(y).flatten(2).permute(0, 2, 1)
        return x + self.out(o.reshape(len(x), -1, *x.shape[2:]))


@misconception(
    "cross",
    hint="The keys are collected instead of the values. What is compared and what is collected "
    "come from two different convolutions.",
)
class CrossLayer(nn.Module):
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query, self.out = nn.Conv2d(cq, c, 1), nn.Conv2d(c, cq, 1)
        self.key, self.value = nn.Conv2d(ck, c, 1), nn.Conv2d(ck, c, 1)

    def attention(self, x, y):
        q, k = self.query(x).flatten(2), self.key(y).flatten(2)
        return (q.permute(0, 2, 1) @ k).softmax(-1)

    def forward(self, x, y):
        o = (self.attention(x, y) @ self.key(y).flatten(2).permute(0, 2, 1)).permute(0, 2, 1)
        return x + self.out(o.unflatten(2, x.shape[2:]))


@misconception(
    "cross",
    hint="The scores are scaled by the root of the width. Here they are plain dot products.",
)
class CrossLayer(nn.Module):
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query, self.out = nn.Conv2d(cq, c, 1), nn.Conv2d(c, cq, 1)
        self.key, self.value = nn.Conv2d(ck, c, 1), nn.Conv2d(ck, c, 1)

    def attention(self, x, y):
        q, k = self.query(x).flatten(2), self.key(y).flatten(2)
        return (q.permute(0, 2, 1) @ k / math.sqrt(q.shape[1])).softmax(-1)

    def forward(self, x, y):
        o = (self.attention(x, y) @ self.value(y).flatten(2).permute(0, 2, 1)).permute(0, 2, 1)
        return x + self.out(o.unflatten(2, x.shape[2:]))


@misconception(
    "cross",
    hint="x is not added: what its own layer knew about a place is gone, only what was collected "
    "from y is left.",
)
class CrossLayer(nn.Module):
    def __init__(self, cq, ck, c):
        super().__init__()
        self.query, self.out = nn.Conv2d(cq, c, 1), nn.Conv2d(c, cq, 1)
        self.key, self.value = nn.Conv2d(ck, c, 1), nn.Conv2d(ck, c, 1)

    def attention(self, x, y):
        q, k = self.query(x).flatten(2), self.key(y).flatten(2)
        return (q.permute(0, 2, 1) @ k).softmax(-1)

    def forward(self, x, y):
        o = (self.attention(x, y) @ self.value(y).flatten(2).permute(0, 2, 1)).permute(0, 2, 1)
        return self.out(o.unflatten(2, x.shape[2:]))


# --- stn -------------------------------------------------------------------------------------


@misconception(
    "stn",
    hint="The outermost *centres* lie at -1 and 1: that is align_corners=True. Here -1 and 1 are "
    "the outer edges; where is the centre of the first column then?",
)
def affine_grid(theta, size):
    n, _, h, w = size
    kind = {"dtype": theta.dtype, "device": theta.device}
    x, y = torch.linspace(-1, 1, w, **kind), torch.linspace(-1, 1, h, **kind)
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    return (places @ theta.transpose(1, 2)).view(n, h, w, 2)


@misconception(
    "stn",
    hint="The places are (y, x, 1), row first. Theta expects x first, and the first of the two "
    "results is x.",
)
def affine_grid(theta, size):
    n, _, h, w = size
    kind = {"dtype": theta.dtype, "device": theta.device}
    x = (2 * torch.arange(w, **kind) + 1) / w - 1
    y = (2 * torch.arange(h, **kind) + 1) / h - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([y, x, torch.ones_like(x)], -1).flatten(0, 1)
    return (places @ theta.transpose(1, 2)).view(n, h, w, 2)


@misconception(
    "stn",
    hint="This reads the nearest pixel. The output then does not change when the place moves a "
    "little, so nothing can be learned: read four pixels and take a weighted mean.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    j = (((grid[..., 0] + 1) * w - 1) / 2).round()
    i = (((grid[..., 1] + 1) * h - 1) / 2).round()
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
    picked = x[torch.arange(n, device=x.device)[:, None, None], :, i, j] * inside[..., None]
    return picked.permute(0, 3, 1, 2) + 0 * grid[..., 0].unsqueeze(1)


@misconception(
    "stn",
    hint="Places outside the picture read its border, since the indices are only clamped. They "
    "should read zeros.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = ((grid[..., 0] + 1) * w - 1) / 2, ((grid[..., 1] + 1) * h - 1) / 2
    j, i = u.floor(), v.floor()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        return x[sample, :, i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()]

    upper = (1 - b) * read(i, j) + b * read(i, j + 1)
    lower = (1 - b) * read(i + 1, j) + b * read(i + 1, j + 1)
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="The first number of a place chooses the row here. It is x, and x runs along the columns.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    v, u = ((grid[..., 0] + 1) * h - 1) / 2, ((grid[..., 1] + 1) * w - 1) / 2
    j, i = u.floor(), v.floor()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
        return x[sample, :, i, j] * inside[..., None]

    upper = (1 - b) * read(i, j) + b * read(i, j + 1)
    lower = (1 - b) * read(i + 1, j) + b * read(i + 1, j + 1)
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="The values are right. But the weights 1 - |distance| have no slope at distance 0, so on "
    "the pixels, where the identity starts, half of the gradient is lost.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = ((grid[..., 0] + 1) * w - 1) / 2, ((grid[..., 1] + 1) * h - 1) / 2
    sample = torch.arange(n, device=x.device)[:, None, None]
    out = 0
    for di in (0, 1):
        for dj in (0, 1):
            i, j = v.detach().floor() + di, u.detach().floor() + dj
            weight = (1 - (v - i).abs()) * (1 - (u - j).abs())
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
            out = out + (weight * inside)[..., None] * x[sample, :, i, j]
    return out.permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="These are the left and upper edges of the pixels. Half a pixel further lie their centres.",
)
def affine_grid(theta, size):
    n, _, h, w = size
    kind = {"dtype": theta.dtype, "device": theta.device}
    x = 2 * torch.arange(w, **kind) / w - 1
    y = 2 * torch.arange(h, **kind) / h - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    return (places @ theta.transpose(1, 2)).view(n, h, w, 2)


@misconception(
    "stn",
    hint="The memory of theta is cut into three rows of two. That does not transpose it: rows and "
    "columns should change places.",
)
def affine_grid(theta, size):
    n, _, h, w = size
    kind = {"dtype": theta.dtype, "device": theta.device}
    x = (2 * torch.arange(w, **kind) + 1) / w - 1
    y = (2 * torch.arange(h, **kind) + 1) / h - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    return (places @ theta.reshape(n, 3, 2)).view(n, h, w, 2)


@misconception(
    "stn",
    hint="Here -1 and 1 are read as the outermost centres (align_corners=True). They are the outer "
    "edges: solve (2 j + 1) / w - 1 = x for j.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = (grid[..., 0] + 1) * (w - 1) / 2, (grid[..., 1] + 1) * (h - 1) / 2
    j, i = u.floor(), v.floor()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
        return x[sample, :, i, j] * inside[..., None]

    upper = (1 - b) * read(i, j) + b * read(i, j + 1)
    lower = (1 - b) * read(i + 1, j) + b * read(i + 1, j + 1)
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="Left of and above the picture places are negative, and `trunc`, `int` and `long` round them "
    "towards zero. The pixel before them is the floor.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = ((grid[..., 0] + 1) * w - 1) / 2, ((grid[..., 1] + 1) * h - 1) / 2
    j, i = u.trunc(), v.trunc()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
        return x[sample, :, i, j] * inside[..., None]

    upper = (1 - b) * read(i, j) + b * read(i, j + 1)
    lower = (1 - b) * read(i + 1, j) + b * read(i + 1, j + 1)
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="The values are right. But on a pixel floor and ceil are the same pixel, so that the slope "
    "there is zero, and a transformer that starts as the identity learns nothing. The neighbour "
    "is one further, always.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = ((grid[..., 0] + 1) * w - 1) / 2, ((grid[..., 1] + 1) * h - 1) / 2
    j, i = u.floor(), v.floor()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
        return x[sample, :, i, j] * inside[..., None]

    upper = (1 - b) * read(i, j) + b * read(i, u.ceil())
    lower = (1 - b) * read(v.ceil(), j) + b * read(v.ceil(), u.ceil())
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2)


@misconception(
    "stn",
    hint="The values are right, but no gradient reaches the places: the weights a and b are cut off "
    "from the grid. Only whole numbers may be.",
)
def grid_sample(x, grid):
    n, _, h, w = x.shape
    u, v = ((grid[..., 0].detach() + 1) * w - 1) / 2, ((grid[..., 1].detach() + 1) * h - 1) / 2
    j, i = u.floor(), v.floor()
    b, a = (u - j)[..., None], (v - i)[..., None]
    sample = torch.arange(n, device=x.device)[:, None, None]

    def read(i, j):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = i.clamp(0, h - 1).long(), j.clamp(0, w - 1).long()
        return x[sample, :, i, j] * inside[..., None]

    upper = (1 - b) * read(i, j) + b * read(i, j + 1)
    lower = (1 - b) * read(i + 1, j) + b * read(i + 1, j + 1)
    return ((1 - a) * upper + a * lower).permute(0, 3, 1, 2) + 0 * grid[..., 0].unsqueeze(1)


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="This is the rotation for square pictures. One unit of x is half the width, one unit of "
    "y half the height.",
)
def rotation(angle, h, w):
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])


@misconception(
    "debug",
    hint="The two ratios have changed places: check with a place on the x axis, by going to "
    "pixels, turning, and coming back.",
)
def rotation(angle, h, w):
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin * w / h, 0.0], [sin * h / w, cos, 0.0]])
