"""Other right answers in the chapter on image transforms and augmentation."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course.testing import alternative


def draw_lambda(alpha, generator):  # as in the chapter's first cell
    if alpha == 0:
        return 1.0
    seed = torch.randint(2**31, (), generator=generator).item()
    return float(np.random.RandomState(seed).beta(alpha, alpha))


@alternative("normalize")
def normalize(x, mean, std):
    planes = []
    for c in range(x.shape[-3]):
        s = float(std[c])
        if s == 0:
            raise ValueError(f"the standard deviation of channel {c} is zero")
        planes.append((x[..., c, :, :] - float(mean[c])) / s)
    return torch.stack(planes, -3)


@alternative("normalize")
def denormalize(x, mean, std):
    m = torch.tensor([float(v) for v in mean], dtype=x.dtype, device=x.device)
    s = torch.tensor([float(v) for v in std], dtype=x.dtype, device=x.device)
    return (x.movedim(-3, -1) * s + m).movedim(-1, -3)


@alternative("normalize")
def channel_stats(batches):
    # Merge means and sums of squared deviations, which never subtracts large numbers.
    count, mean, deviation = 0, None, None
    for x in batches:
        pixels = x.to(torch.float64).movedim(1, 0).flatten(1)
        n, m = pixels.shape[1], pixels.mean(1)
        d = (pixels - m[:, None]).square().sum(1)
        if mean is None:
            count, mean, deviation = n, m, d
            continue
        gap = m - mean
        deviation = deviation + d + gap.square() * count * n / (count + n)
        mean = mean + gap * n / (count + n)
        count += n
    if mean is None:
        raise ValueError("no batch")
    return mean, (deviation / count).sqrt()


@alternative("color")
def adjust(img, brightness, contrast, saturation):
    for factor in (brightness, contrast, saturation):
        if factor < 0:
            raise ValueError("negative factor")
    luma = torch.tensor([0.2989, 0.587, 0.114], dtype=img.dtype, device=img.device)
    img = torch.clamp(img * brightness, 0, 1)
    mean = torch.einsum("c,chw->hw", luma, img).mean()
    img = torch.clamp(mean + contrast * (img - mean), 0, 1)
    grey = torch.einsum("c,chw->hw", luma, img)
    return torch.clamp(torch.lerp(grey.expand_as(img), img, float(saturation)), 0, 1)


@alternative("color")
def gamma_correct(img, g):
    if not g > 0:
        raise ValueError("gamma must be positive")
    return torch.pow(img, g)


@alternative("color")
def clipped_hist(hist, limit):
    if limit <= 0:
        raise ValueError("limit must be positive")
    low = torch.where(hist > limit, torch.full_like(hist, limit), hist)
    return low + (hist.mean(-1, keepdim=True) - low.mean(-1, keepdim=True))


@alternative("noise")
class SaltPepper:
    def __init__(self, snr, p, generator):
        if snr < 0 or snr > 1 or p < 0 or p > 1:
            raise ValueError("not a share")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if not torch.rand(1, generator=self.generator).item() < self.p:
            return img
        size = img.shape[-2:]
        keep = torch.rand(size, generator=self.generator) < self.snr
        salt = torch.randint(0, 2, size, generator=self.generator)
        keep, salt = keep.to(img.device), salt.to(img)
        return torch.where(keep, img, salt.expand_as(img))


@alternative("noise")
class SaltPepper:
    def __init__(self, snr, p, generator):
        for share in (snr, p):
            if not 0 <= share <= 1:
                raise ValueError("not a share")
        self.noise, self.p, self.generator = 1 - snr, p, generator

    def __call__(self, img):
        (coin,) = torch.rand(1, generator=self.generator).tolist()
        if coin >= self.p:
            return img
        flat = img.flatten(1).clone()
        u = torch.rand(flat.shape[1], generator=self.generator).to(img.device)
        flat[:, u < self.noise] = 1
        flat[:, u < self.noise / 2] = 0
        return flat.view_as(img)


@alternative("pad")
def pad1d(x, left, right, mode, fill=0):
    # Pieces side by side.
    n = x.shape[-1]
    if mode == "constant":
        before = x.new_full((*x.shape[:-1], left), fill)
        behind = x.new_full((*x.shape[:-1], right), fill)
    elif mode == "edge":
        before = x[..., :1].expand(*x.shape[:-1], left)
        behind = x[..., -1:].expand(*x.shape[:-1], right)
    elif mode in ("reflect", "symmetric"):
        skip = 1 if mode == "reflect" else 0
        if left > n - skip or right > n - skip:
            raise ValueError("the mirror is too small")
        turned = x.flip(-1)
        before = turned[..., n - skip - left : n - skip]
        behind = turned[..., skip : skip + right]
    else:
        raise ValueError("unknown mode")
    return torch.cat([before, x, behind], -1)


@alternative("pad")
def pad1d(x, left, right, mode, fill=0):
    # One index at a time, in plain Python.
    n = x.shape[-1]

    def source(i):
        if mode == "reflect":
            return -i if i < 0 else 2 * (n - 1) - i if i >= n else i
        if mode == "symmetric":
            return -1 - i if i < 0 else 2 * n - 1 - i if i >= n else i
        return min(max(i, 0), n - 1)

    if mode not in ("constant", "edge", "reflect", "symmetric"):
        raise ValueError("unknown mode")
    index = [source(i) for i in range(-left, n + right)]
    if min(index) < 0 or max(index) >= n:
        raise ValueError("the mirror is too small")
    out = x[..., torch.tensor(index, device=x.device)]
    if mode == "constant":
        out[..., :left] = fill
        out[..., left + n :] = fill
    return out


@alternative("affine")
def affine_matrix(angle, translate, scale, shear, center):
    # The entries written out.
    if not scale > 0:
        raise ValueError("scale must be positive")
    a, px, py = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    m00 = scale * math.cos(a - py) / math.cos(py)
    m10 = scale * math.sin(a - py) / math.cos(py)
    m01 = -m00 * math.tan(px) - scale * math.sin(a)
    m11 = -m10 * math.tan(px) + scale * math.cos(a)
    (cx, cy), (tx, ty) = center, translate
    return torch.tensor(
        [
            [m00, m01, cx + tx - m00 * cx - m01 * cy],
            [m10, m11, cy + ty - m10 * cx - m11 * cy],
        ],
        dtype=torch.float64,
    )


@alternative("affine")
def warp(img, M):
    # A frame of zeros, so that no neighbour has to be asked whether it is inside.
    C, H, W = img.shape
    y, x = torch.meshgrid(
        torch.arange(H, dtype=torch.float64), torch.arange(W, dtype=torch.float64), indexing="ij"
    )
    back = torch.linalg.inv(torch.cat([M.cpu(), torch.tensor([[0.0, 0, 1]]).to(M.cpu())]))
    came = torch.einsum("ij,jhw->ihw", back, torch.stack([x, y, torch.ones_like(x)]))
    x, y = came[0].clamp(-2, W + 1) + 2, came[1].clamp(-2, H + 1) + 2
    frame = F.pad(img, [2, 3, 2, 3])
    j, i = x.floor().long(), y.floor().long()
    fx, fy = (x - j).to(img), (y - i).to(img)
    i, j = i.to(img.device), j.to(img.device)
    top = frame[:, i, j] * (1 - fx) + frame[:, i, j + 1] * fx
    low = frame[:, i + 1, j] * (1 - fx) + frame[:, i + 1, j + 1] * fx
    return top * (1 - fy) + low * fy


@alternative("erase")
def cutout(img, length, generator):
    h, w = img.shape[-2:]
    centre = int(torch.randint(h * w, (1,), generator=generator))
    inside = []
    for c, n in ((centre // w, h), (centre % w, w)):
        at = torch.arange(n, device=img.device) - (c - length // 2)
        inside.append((at >= 0) & (at < length))
    hole = inside[0][:, None] & inside[1]
    return torch.where(hole, torch.zeros_like(img), img)


@alternative("erase")
def erase_box(h, w, scale, ratio, generator):
    rng = np.random.RandomState(int(torch.randint(2**31, (1,), generator=generator)))
    tries = 0
    while tries < 10:
        tries += 1
        area = rng.uniform(*scale) * h * w
        r = ratio[0] * (ratio[1] / ratio[0]) ** rng.rand()
        height, width = round((area * r) ** 0.5), round((area / r) ** 0.5)
        if 0 < height <= h and 0 < width <= w:
            return rng.randint(h - height + 1), rng.randint(w - width + 1), height, width


@alternative("mix")
def mixup(x, y, alpha, num_classes, generator):
    # As one matrix that mixes the batch.
    partner = torch.argsort(torch.rand(len(x), generator=generator))
    lam = draw_lambda(alpha, generator)
    mix = lam * torch.eye(len(x)).double() + (1 - lam) * torch.eye(len(x)).double()[partner]
    mix = mix.to(x)
    hot = (y[:, None] == torch.arange(num_classes, device=y.device)).to(x.dtype)
    return torch.einsum("ij,jchw->ichw", mix, x), mix @ hot


@alternative("mix")
def cutmix(x, y, alpha, num_classes, generator):
    # By a mask of the rectangle.
    n, _, h, w = x.shape
    cy = int(torch.randint(0, h, (1,), generator=generator))
    cx = int(torch.randint(0, w, (1,), generator=generator))
    side = (1 - draw_lambda(alpha, generator)) ** 0.5
    rows, cols = torch.arange(h)[:, None], torch.arange(w)
    a, b = round(h * side), round(w * side)
    top, left = cy - a // 2, cx - b // 2
    inside = (rows >= top) & (rows < top + a) & (cols >= left) & (cols < left + b)
    partner = torch.randperm(n, generator=generator).to(x.device)
    part = inside.double().mean().item()
    labels = x.new_zeros(n, num_classes)
    at = torch.arange(n, device=x.device)
    labels.index_put_((at, y), x.new_tensor(1 - part), accumulate=True)
    labels.index_put_((at, y[partner]), x.new_tensor(part), accumulate=True)
    return torch.where(inside.to(x.device), x[partner], x), labels


@alternative("pipeline")
class Compose:
    def __init__(self, transforms):
        self.steps = list(transforms)

    def __call__(self, img):
        def through(value, steps):
            return through(steps[0](value), steps[1:]) if steps else value

        return through(img, self.steps)


@alternative("pipeline")
class RandomApply:
    def __init__(self, transforms, p, generator):
        self.steps, self.p, self.generator = list(transforms), p, generator

    def __call__(self, img):
        if not torch.rand(1, generator=self.generator).item() < self.p:
            return img
        for step in self.steps:
            img = step(img)
        return img


@alternative("pipeline")
def ten_crop(img, size):
    # All windows at once; the mirrored crops from their places in the picture.
    (H, W), (h, w) = img.shape[1:], size
    if h > H or w > W:
        raise ValueError("the crop does not fit")
    windows = img.unfold(1, h, 1).unfold(2, w, 1)  # (C, H - h + 1, W - w + 1, h, w)
    i, j = round((H - h) / 2), round((W - w) / 2)
    places = [(0, 0), (0, W - w), (H - h, 0), (H - h, W - w), (i, j)]
    plain = [windows[:, a, b] for a, b in places]
    mirrored = [windows[:, a, W - w - b].flip(2) for a, b in places]
    return torch.stack(plain + mirrored)


@alternative("pipeline")
@torch.no_grad()
def tta_predict(model, x, views):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        logits = torch.stack([model(view(x)) for view in views])
    finally:
        for m, mode in modes:
            m.training = mode
    return F.softmax(logits, -1).mean(0)
