"""Wrong answers that students give in the chapter on ViT, Swin and MAE, each with its hint."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception

# --- patchify --------------------------------------------------------------------------------


@misconception(
    "patchify",
    hint="These are strips of pixels that lie side by side in memory, not squares. A reshape keeps "
    "the order; which axes must change places before the last one?",
)
def patchify(x, p):
    n, c, h, w = x.shape
    if h % p or w % p:
        raise ValueError("the patches do not fit")
    return x.reshape(n, (h // p) * (w // p), c * p * p)


@misconception(
    "patchify",
    hint="In your patches the channel varies fastest. The weight of a convolution is (d, C, p, p), "
    "so that here the channel should come before row and column.",
)
def patchify(x, p):
    n, c, h, w = x.shape
    if h % p or w % p:
        raise ValueError("the patches do not fit")
    x = x.reshape(n, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // p) * (w // p), c * p * p)


@misconception(
    "patchify",
    hint="Your patches run down the columns of the picture first. They should be numbered like "
    "words on a page: along a row, then the next row.",
)
def patchify(x, p):
    n, c, h, w = x.shape
    if h % p or w % p:
        raise ValueError("the patches do not fit")
    x = x.reshape(n, c, h // p, p, w // p, p)
    return x.permute(0, 4, 2, 1, 3, 5).reshape(n, (h // p) * (w // p), c * p * p)


@misconception(
    "patchify",
    hint="Pixels that fill no patch are dropped without a word. Which check belongs at the start?",
)
def patchify(x, p):
    n, c, h, w = x.shape
    x = x[:, :, : h // p * p, : w // p * p].reshape(n, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // p) * (w // p), c * p * p)


@misconception(
    "patchify",
    hint="A reshape to the picture's shape puts the patches one after the other as strips. Split "
    "the axes as in patchify, and move them back.",
)
def unpatchify(t, p, h, w):
    if h % p or w % p or h * w != t.shape[1] * p * p:
        raise ValueError("the patches do not fit")
    return t.reshape(len(t), t.shape[2] // (p * p), h, w)


@misconception(
    "patchify",
    hint="The rows inside a patch and the columns of patches are exchanged when you merge: the "
    "axes should become (patch row, row inside, patch column, column inside).",
)
def unpatchify(t, p, h, w):
    if h % p or w % p or h * w != t.shape[1] * p * p:
        raise ValueError("the patches do not fit")
    t = t.reshape(len(t), h // p, w // p, t.shape[2] // (p * p), p, p)
    return t.permute(0, 3, 1, 5, 2, 4).reshape(len(t), -1, h, w)


@misconception(
    "patchify",
    hint="The tokens of your layer lack the bias of the convolution.",
)
def conv_to_linear(conv):
    if conv.stride != conv.kernel_size:
        raise ValueError("the windows overlap")
    weight = conv.weight.detach().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return linear


@misconception(
    "patchify",
    hint="The layer shares its memory with the convolution: who trains one changes the other. "
    "Copy the numbers.",
)
def conv_to_linear(conv):
    if conv.stride != conv.kernel_size:
        raise ValueError("the windows overlap")
    d, size = conv.weight.flatten(1).shape
    linear = nn.Linear(size, d, bias=conv.bias is not None).to(conv.weight)
    linear.weight = nn.Parameter(conv.weight.detach().view(d, size))
    if conv.bias is not None:
        linear.bias = conv.bias
    return linear


# --- vit -------------------------------------------------------------------------------------


@misconception(
    "vit",
    hint="Without `batch_first=True` the layer takes the first axis for the sequence: your tokens "
    "attend to the other pictures of the batch instead of to each other.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic")
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


@misconception(
    "vit",
    hint="`dim_feedforward` is at its default, 2048, whatever the width. The stub asks for four "
    "times the width.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic")
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


@misconception(
    "vit",
    hint="The head reads the mean of all tokens. Here only the class token should reach it: the "
    "token at place 0.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic")
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x)).mean(1))


@misconception(
    "vit",
    hint="The class token gets no position: yours are added before it is put in front. It has one, "
    "too, the first.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic")
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        patches = maps.flatten(2).mT + self.positions(*maps.shape[2:])[:, 1:]
        return torch.cat([self.cls.expand(len(x), -1, -1), patches], 1)

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


@misconception(
    "vit",
    hint="For another size you take the first positions of the list. On another grid these belong "
    "to other places: scale them as a picture.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        count = 1 + rows * cols
        missing = max(0, count - self.pos.shape[1])
        return F.pad(self.pos, (0, 0, 0, missing))[:, :count]

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


@misconception(
    "vit",
    hint="The positions start with a standard deviation of 1. The stub asks for 0.02.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic")
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


@misconception(
    "vit",
    hint="You scale the positions with `align_corners=True`, as torchvision's interpolate_embeddings "
    "does. The stub asks for F.interpolate with no more than the mode.",
)
class ViT(nn.Module):
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        channels, h, w = img
        if h % patch or w % patch:
            raise ValueError("the patches do not fit")
        self.grid = h // patch, w // patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        count = 1 + self.grid[0] * self.grid[1]
        self.pos = nn.Parameter(0.02 * torch.randn(1, count, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        first, rest = self.pos[:, :1], self.pos[:, 1:].mT.unflatten(2, self.grid)
        rest = F.interpolate(rest, (rows, cols), mode="bicubic", align_corners=True)
        return torch.cat([first, rest.flatten(2).mT], 1)

    def tokens(self, x):
        maps = self.proj(x)
        t = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        return t + self.positions(*maps.shape[2:])

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x))[:, 0])


# --- windows ---------------------------------------------------------------------------------


@misconception(
    "windows",
    hint="These windows are strips of the map. Between the two reshapes, which two axes must "
    "change places?",
)
def window_partition(x, m):
    n, h, w, c = x.shape
    if h % m or w % m:
        raise ValueError("the windows do not fit")
    return x.reshape(n * (h // m) * (w // m), m * m, c)


@misconception(
    "windows",
    hint="Inside your windows the tokens run down the columns first. They should be numbered row "
    "by row.",
)
def window_partition(x, m):
    n, h, w, c = x.shape
    if h % m or w % m:
        raise ValueError("the windows do not fit")
    x = x.reshape(n, h // m, m, w // m, m, c)
    return x.permute(0, 1, 3, 4, 2, 5).reshape(n * (h // m) * (w // m), m * m, c)


@misconception(
    "windows",
    hint="The windows of different pictures are mixed: window 0 of each picture comes first. All "
    "windows of the first picture should come first.",
)
def window_partition(x, m):
    n, h, w, c = x.shape
    if h % m or w % m:
        raise ValueError("the windows do not fit")
    x = x.reshape(n, h // m, m, w // m, m, c)
    return x.permute(1, 3, 0, 2, 4, 5).reshape(n * (h // m) * (w // m), m * m, c)


@misconception(
    "windows",
    hint="The number of windows along the height and along the width are exchanged, which shows "
    "on maps that are not square.",
)
def window_reverse(w, m, h, w_):
    c = w.shape[-1]
    n = len(w) * m * m // (h * w_)
    x = w.reshape(n, w_ // m, h // m, m, m, c)
    return x.transpose(2, 3).reshape(n, h, w_, c)


@misconception(
    "windows",
    hint="A reshape to the map's shape lays the windows down as strips. The same two axes as in "
    "window_partition have to change places.",
)
def window_reverse(w, m, h, w_):
    n = len(w) * m * m // (h * w_)
    return w.reshape(n, h, w_, w.shape[-1])


@misconception(
    "windows",
    hint="Upper right and lower left are exchanged. The order goes down first, then right; "
    "weights of somebody else's layer depend on it.",
)
class PatchMerging(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(4 * c)
        self.reduction = nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        four = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, -1)))


@misconception(
    "windows",
    hint="A last odd row or column is cut off, and its tokens are lost. It should be paired with "
    "zeros instead.",
)
class PatchMerging(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(4 * c)
        self.reduction = nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x):
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, -1)))


@misconception(
    "windows",
    hint="You join the four quarters of the map instead of the four tokens of each 2 x 2 block. "
    "Neighbours are one step apart: slices with step 2.",
)
class PatchMerging(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(4 * c)
        self.reduction = nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        h, w = x.shape[1] // 2, x.shape[2] // 2
        four = [x[:, a : a + h, b : b + w] for b in (0, w) for a in (0, h)]
        return self.reduction(self.norm(torch.cat(four, -1)))


# --- mask ------------------------------------------------------------------------------------


@misconception(
    "mask",
    hint="The values are turned around: tokens of the same piece may look at each other, so that "
    "they get 0, and strangers get -100.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (torch.arange(h) - s) // m, (torch.arange(w) - s) // m
    piece = (rows[:, None] * w + cols).roll((-s, -s), (0, 1))
    piece = piece.view(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], -100.0, 0.0)


@misconception(
    "mask",
    hint="The labels of the original map are cut as they are. Attention works on the rolled map, "
    "so the labels must be rolled in the same way first.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (torch.arange(h) - s) // m, (torch.arange(w) - s) // m
    piece = rows[:, None] * w + cols
    piece = piece.view(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="Rows are kept apart, but columns are not: the left and the right edge of the map still "
    "see each other. Two tokens must agree in both.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows = (torch.arange(h) - s) // m
    piece = rows[:, None].expand(h, w).roll((-s, -s), (0, 1))
    piece = piece.reshape(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="Row piece plus column piece is no label: 0 + 1 and 1 + 0 are the same number, but they "
    "are different pieces.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (torch.arange(h) - s) // m, (torch.arange(w) - s) // m
    piece = (rows[:, None] + cols).roll((-s, -s), (0, 1))
    piece = piece.view(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="The map is cut with a plain reshape, so that your windows are strips. Cut the labels "
    "just as the tokens are cut.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (torch.arange(h) - s) // m, (torch.arange(w) - s) // m
    piece = (rows[:, None] * w + cols).roll((-s, -s), (0, 1)).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="Columns are kept apart, but rows are not: the upper and the lower edge of the map still "
    "see each other. Two tokens must agree in both.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    cols = (torch.arange(w) - s) // m
    piece = cols.expand(h, w).roll((-s, -s), (0, 1))
    piece = piece.reshape(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="Your pieces are those of a grid that is moved up and to the left. Its walls should stand "
    "at s, s + m, …, so that row i is in piece (i - s) // m.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (torch.arange(h) + s) // m, (torch.arange(w) + s) // m
    piece = (rows[:, None] * 2 * w + cols).roll((-s, -s), (0, 1))
    piece = piece.view(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


@misconception(
    "mask",
    hint="Rows before s should be piece -1. A division that cuts off towards zero makes it 0, the "
    "piece of the rows that follow; `//` rounds down.",
)
def sw_mask(h, w, m, s):
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    rows, cols = (((torch.arange(n) - s) / m).int() for n in (h, w))
    piece = (rows[:, None] * w + cols).roll((-s, -s), (0, 1))
    piece = piece.view(h // m, m, w // m, m).transpose(1, 2).reshape(-1, m * m)
    return torch.where(piece[:, :, None] == piece[:, None], 0.0, -100.0)


# --- cost ------------------------------------------------------------------------------------


@misconception(
    "cost",
    hint="You count three projections. The heads' results go through a fourth matrix at the end.",
)
def macs_msa(h, w, c):
    n = h * w
    return 3 * n * c * c + 2 * n * n * c


@misconception(
    "cost",
    hint="One of the two quadratic products is missing: the scores are one, the weighted sums of "
    "the values the other.",
)
def macs_msa(h, w, c):
    n = h * w
    return 4 * n * c * c + n * n * c


@misconception(
    "cost",
    hint="A multiplication and the addition that follows count as one multiply-add here, not two.",
)
def macs_msa(h, w, c):
    n = h * w
    return 8 * n * c * c + 4 * n * n * c


@misconception(
    "cost",
    hint="This is the cost of a single window. How many windows does the map have?",
)
def macs_wmsa(h, w, c, m):
    return 4 * m * m * c * c + 2 * m**4 * c


@misconception(
    "cost",
    hint="A window of side m has m * m tokens, and each of them meets them all.",
)
def macs_wmsa(h, w, c, m):
    return 4 * h * w * c * c + 2 * m * h * w * c


@misconception(
    "cost",
    hint="The quadratic part grows with the fourth power of m only within one window; you "
    "multiplied it by all tokens of the map instead of by the number of windows.",
)
def macs_wmsa(h, w, c, m):
    return 4 * h * w * c * c + 2 * m**4 * h * w * c


# --- maemask ---------------------------------------------------------------------------------


@misconception(
    "maemask",
    hint="All pictures of the batch hide the same patches. Draw noise for each picture: shape "
    "(N, T), sorted along the last axis.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.randperm(length, generator=rng).to(x.device).expand(n, -1)
    restore = shuffle.argsort(1)
    return x[:, shuffle[0, :k]], restore >= k, restore


@misconception(
    "maemask",
    hint="`ids_restore` is the shuffle itself. What brings the order back is its inverse.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    mask = shuffle.argsort(1) >= k
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), mask, shuffle


@misconception(
    "maemask",
    hint="The mask is in shuffled order: its first entries are the visible ones. Each entry should "
    "speak of the patch at that place of the picture.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    mask = (torch.arange(length, device=x.device) >= k).expand(n, -1)
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), mask, shuffle.argsort(1)


@misconception(
    "maemask",
    hint="Each patch is hidden by its own toss, so that the number of visible ones varies from "
    "picture to picture. It should be exactly k.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    noise = torch.rand(n, length, generator=rng).to(x.device)
    mask = noise < ratio
    shuffle = noise.argsort(1, descending=True)
    k = int((~mask[0]).sum()) if n else 0
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), mask, shuffle.argsort(1)


@misconception(
    "maemask",
    hint="You keep the part that should be hidden: ratio is what disappears, 1 - ratio what stays.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * ratio)
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    restore = shuffle.argsort(1)
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), restore >= k, restore


@misconception(
    "maemask",
    hint="`int` cuts off: 10 * (1 - 0.9) is 0.9999999999999998 for a computer, and becomes 0. "
    "Round instead.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = int(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    restore = shuffle.argsort(1)
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), restore >= k, restore


@misconception(
    "maemask",
    hint="The noise comes from the global generator: two calls with equal `rng` differ. Hand `rng` "
    "on as `generator=`.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length).argsort(1).to(x.device)
    restore = shuffle.argsort(1)
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), restore >= k, restore


@misconception(
    "maemask",
    hint="Your mask is True where a patch is visible. It should be True where one is hidden.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    restore = shuffle.argsort(1)
    return x.gather(1, shuffle[:, :k, None].expand(-1, -1, d)), restore < k, restore


@misconception(
    "maemask",
    hint="The visible tokens stand in the order of the picture, but `ids_restore` speaks of the "
    "shuffled sequence. Leave them in shuffled order.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    restore = shuffle.argsort(1)
    seen = shuffle[:, :k].sort(1).values
    return x.gather(1, seen[..., None].expand(-1, -1, d)), restore >= k, restore


@misconception(
    "maemask",
    hint="You compare the shuffle with k. A patch is hidden if its place in the shuffled sequence "
    "is k or later, and the places are the inverse of the shuffle.",
)
def random_mask(x, ratio, rng):
    if not 0 <= ratio <= 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    shuffle = torch.rand(n, length, generator=rng).argsort(1).to(x.device)
    visible = x.gather(1, shuffle[:, :k, None].expand(-1, -1, d))
    return visible, shuffle >= k, shuffle.argsort(1)


# --- mae -------------------------------------------------------------------------------------


@misconception(
    "mae",
    hint="Only the mask tokens get positions. The decoder does not know where the visible tokens "
    "came from, either.",
)
def decoder_input(vis, ids_restore, mask_token, pos):
    n, k, d = vis.shape
    length = ids_restore.shape[1]
    full = torch.cat([vis, mask_token.expand(n, length - k, d)], 1)
    full = full.gather(1, ids_restore[..., None].expand(-1, -1, d))
    return full + pos * (ids_restore >= k)[..., None]


@misconception(
    "mae",
    hint="The positions are added while the sequence is still shuffled, so that tokens get those "
    "of other places. Restore the order first.",
)
def decoder_input(vis, ids_restore, mask_token, pos):
    n, k, d = vis.shape
    length = ids_restore.shape[1]
    full = torch.cat([vis, mask_token.expand(n, length - k, d)], 1) + pos
    return full.gather(1, ids_restore[..., None].expand(-1, -1, d))


@misconception(
    "mae",
    hint="The order is not restored: visible tokens stand first, mask tokens last.",
)
def decoder_input(vis, ids_restore, mask_token, pos):
    n, k, d = vis.shape
    hidden = mask_token.expand(n, ids_restore.shape[1] - k, d)
    return torch.cat([vis, hidden], 1) + pos


@misconception(
    "mae",
    hint="The mask tokens stand before the visible ones, but `ids_restore` counts the visible ones "
    "first.",
)
def decoder_input(vis, ids_restore, mask_token, pos):
    n, k, d = vis.shape
    length = ids_restore.shape[1]
    full = torch.cat([mask_token.expand(n, length - k, d), vis], 1)
    return full.gather(1, ids_restore[..., None].expand(-1, -1, d)) + pos


@misconception(
    "mae",
    hint="Visible patches count in your loss. They are known; only hidden ones should be learned.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, 2, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    return (pred - target).square().mean()


@misconception(
    "mae",
    hint="The mask is turned around: True means hidden, and hidden patches are the ones to count.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, 2, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    error = (pred - target).square().mean(2)
    return (error * ~mask).sum() / (~mask).sum().clamp(min=1)


@misconception(
    "mae",
    hint="The sum over hidden patches is divided by the number of all patches. Then the loss "
    "depends on how many are hidden.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, 2, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.numel()


@misconception(
    "mae",
    hint="With nothing hidden you divide 0 by 0, and nan spoils every weight it reaches. What "
    "smallest number should stand below the fraction?",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, 2, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.sum()


@misconception(
    "mae",
    hint="The whole picture is normalised at once. With norm_pix, each patch has its own mean and "
    "variance.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, (1, 2), keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.sum().clamp(min=1)


@misconception(
    "mae",
    hint="`norm_pix` makes no difference in your loss.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.sum().clamp(min=1)


@misconception(
    "mae",
    hint="You take the mean within each picture first, then over the pictures. Where they hide "
    "different numbers of patches, that weighs them differently: divide once, by all hidden ones.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        var, mean = torch.var_mean(target, 2, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    error = (pred - target).square().mean(2)
    return ((error * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@misconception(
    "mae",
    hint="The small number belongs inside the root: divide by sqrt(var + 1e-6). Outside, it hardly "
    "helps a nearly flat patch.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        std, mean = torch.std_mean(target, 2, keepdim=True)
        target = (target - mean) / (std + 1e-6)
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.sum().clamp(min=1)


@misconception(
    "mae",
    hint="Only the target is normalised. The prediction stays as the network gives it.",
)
def mae_loss(pred, img, mask, norm_pix):
    p = math.isqrt(pred.shape[2] // img.shape[1])
    target = F.unfold(img, p, stride=p).mT
    if norm_pix:
        pred, target = (
            (t - t.mean(2, keepdim=True)) / (t.var(2, keepdim=True) + 1e-6).sqrt()
            for t in (pred, target)
        )
    error = (pred - target).square().mean(2)
    return (error * mask).sum() / mask.sum().clamp(min=1)
