"""Other right answers in the chapter on ViT, Swin and MAE."""

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


@alternative("patchify")
def patchify(x, p):
    # Sliding windows that do not overlap.
    if x.shape[2] % p or x.shape[3] % p:
        raise ValueError("the patches do not fit")
    windows = x.unfold(2, p, p).unfold(3, p, p)  # n c a u b v
    return windows.movedim(1, 3).flatten(3).flatten(1, 2)


@alternative("patchify")
def unpatchify(t, p, h, w):
    # One patch after the other into an empty picture.
    if h % p or w % p or (h // p) * (w // p) != t.shape[1]:
        raise ValueError("the patches do not fit")
    t = t.unflatten(2, (-1, p, p)).unbind(1)
    rows = [torch.cat(t[i : i + w // p], -1) for i in range(0, len(t), w // p)]
    return torch.cat(rows, -2)


@alternative("patchify")
def conv_to_linear(conv):
    if conv.stride[0] != conv.kernel_size[0]:
        raise ValueError("the windows overlap")
    weight = conv.weight.detach().clone().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=conv.bias is not None)
    linear.weight = nn.Parameter(weight)
    if conv.bias is not None:
        linear.bias = nn.Parameter(conv.bias.detach().clone())
    return linear


@alternative("vit")
class ViT(nn.Module):
    # No interpolation where none is needed; parameters made empty and filled.
    def __init__(self, img, patch, dim, depth, heads, classes):
        super().__init__()
        c, h, w = img
        self.rows, r = divmod(h, patch)
        self.cols, s = divmod(w, patch)
        if r or s:
            raise ValueError(f"{h} x {w} is not made of patches of {patch}")
        self.proj = nn.Conv2d(c, dim, kernel_size=patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos = nn.Parameter(torch.empty(1, self.rows * self.cols + 1, dim))
        nn.init.normal_(self.pos, std=0.02)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                d_model=dim,
                nhead=heads,
                dim_feedforward=4 * dim,
                dropout=0.0,
                activation=F.gelu,
                batch_first=True,
                norm_first=True,
            ),
            num_layers=depth,
            norm=nn.LayerNorm(dim),
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(dim, classes)

    def positions(self, rows, cols):
        if (rows, cols) == (self.rows, self.cols):
            return self.pos
        grid = self.pos[:, 1:].reshape(1, self.rows, self.cols, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, cols), mode="bicubic", align_corners=False)
        grid = grid.permute(0, 2, 3, 1).reshape(1, rows * cols, -1)
        return torch.cat((self.pos[:, :1], grid), dim=1)

    def tokens(self, x):
        maps = self.proj(x)
        pos = self.positions(maps.shape[2], maps.shape[3])
        patches = maps.flatten(2).transpose(1, 2) + pos[:, 1:]
        first = (self.cls + pos[:, :1]).repeat(x.shape[0], 1, 1)
        return torch.cat((first, patches), dim=1)

    def forward(self, x):
        first = self.encoder(self.tokens(x)).select(1, 0)
        return self.head(first)


@alternative("windows")
def window_partition(x, m):
    n, h, w, c = x.shape
    if h % m or w % m:
        raise ValueError("the windows do not fit")
    windows = x.unfold(1, m, m).unfold(2, m, m)  # n a u c b v
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(n * (h // m) * (w // m), m * m, c)


@alternative("windows")
def window_reverse(w, m, h, w_):
    # Windows of a row side by side, then rows below each other.
    c = w.shape[-1]
    n = len(w) * m * m // (h * w_)
    x = w.reshape(n, h // m, w_ // m, m, m, c)
    return torch.cat(torch.cat(x.unbind(2), 3).unbind(1), 1) if n else w.new_zeros(0, h, w_, c)


@alternative("windows")
class PatchMerging(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(4 * c)
        self.reduction = nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x):
        n, h, w, c = x.shape
        full = x.new_zeros(n, h + h % 2, w + w % 2, c)
        full[:, :h, :w] = x
        blocks = full.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
        blocks = blocks.permute(0, 1, 3, 4, 2, 5).reshape(n, (h + 1) // 2, (w + 1) // 2, 4 * c)
        return self.reduction(self.norm(blocks))


@alternative("mask")
def sw_mask(h, w, m, s):
    # As in Swin's code: three slices of each axis of the rolled map.
    if h % m or w % m or not 0 <= s < m:
        raise ValueError("no such windows")
    label = torch.zeros(h, w)
    if s:
        slices = (slice(0, -m), slice(-m, -s), slice(-s, None))
        for i, rows in enumerate(slices):
            for j, cols in enumerate(slices):
                label[rows, cols] = 3 * i + j
    label = label.view(h // m, m, w // m, m).permute(0, 2, 1, 3).reshape(-1, m * m)
    gap = label.unsqueeze(1) - label.unsqueeze(2)
    return torch.zeros_like(gap).masked_fill(gap != 0, -100.0)


@alternative("mask")
def sw_mask(h, w, m, s):
    # Rows and columns are compared one at a time.
    if h % m or w % m or s < 0 or s >= m:
        raise ValueError("no such windows")

    def same(length):
        piece = ((torch.arange(length) + s) % length - s).div(m, rounding_mode="floor")
        piece = piece.view(-1, m)
        return piece[:, :, None] == piece[:, None]  # (windows, m, m)

    rows, cols = same(h), same(w)
    both = rows[:, None, :, None, :, None] & cols[None, :, None, :, None, :]
    return torch.where(both.reshape(-1, m * m, m * m), 0.0, -100.0)


@alternative("cost")
def macs_msa(h, w, c):
    products = [(h * w, c, c)] * 4 + [(h * w, c, h * w), (h * w, h * w, c)]
    return sum(rows * inner * cols for rows, inner, cols in products)


@alternative("cost")
def macs_wmsa(h, w, c, m):
    windows = (h // m) * (w // m)
    return windows * (4 * m**2 * c**2 + 2 * m**4 * c)


@alternative("maemask")
def random_mask(x, ratio, rng):
    # A permutation for each picture; the inverse by scatter.
    if ratio < 0 or ratio > 1:
        raise ValueError("no such ratio")
    n, length, d = x.shape
    k = round(length * (1 - ratio))
    rows = [torch.randperm(length, generator=rng) for _ in range(n)]
    shuffle = torch.stack(rows).to(x.device) if rows else torch.zeros(0, length).long()
    places = torch.arange(length, device=x.device).expand(n, -1)
    restore = torch.empty_like(shuffle).scatter_(1, shuffle, places)
    mask = torch.ones(n, length, dtype=torch.bool, device=x.device)
    mask.scatter_(1, shuffle[:, :k], False)
    batch = torch.arange(n, device=x.device)[:, None]
    return x[batch, shuffle[:, :k]], mask, restore


@alternative("mae")
def decoder_input(vis, ids_restore, mask_token, pos):
    # Mask tokens everywhere, then the visible ones written over them.
    n, k, d = vis.shape
    length = ids_restore.shape[1]
    shuffle = ids_restore.argsort(1)
    index = shuffle[:, :k, None].expand(n, k, d)
    full = mask_token.repeat(n, length, 1).scatter(1, index, vis)
    return pos + full


@alternative("mae")
def mae_loss(pred, img, mask, norm_pix):
    # Hidden patches are picked out; an empty pick is 0.
    c = img.shape[1]
    p = round((pred.shape[2] / c) ** 0.5)
    target = img.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5)
    target = target.flatten(3).flatten(1, 2)
    if norm_pix:
        centred = target - target.mean(-1, keepdim=True)
        var = centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1)
        target = centred / torch.sqrt(var + 1e-6)
    if not mask.any():
        return 0 * pred.sum()
    return F.mse_loss(pred[mask], target[mask])
