"""Wrong answers in the chapter on image transforms and augmentation, each with its hint."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course.testing import misconception


def draw_lambda(alpha, generator):  # as in the chapter's first cell
    if alpha == 0:
        return 1.0
    seed = torch.randint(2**31, (), generator=generator).item()
    return float(np.random.RandomState(seed).beta(alpha, alpha))


# --- normalize -------------------------------------------------------------------------------


@misconception(
    "normalize",
    hint="The C numbers meet the last axis, the width, instead of the channels. Give them two axes "
    "of length one behind.",
)
def normalize(x, mean, std):
    mean = torch.as_tensor(mean).to(x)
    std = torch.as_tensor(std).to(x)
    if (std == 0).any():
        raise ValueError("a standard deviation is zero")
    return (x - mean) / std


@misconception(
    "normalize",
    hint="The input is changed in place (`-=`, `/=`, `sub_`). Whoever handed you the picture still "
    "wants the old one.",
)
def normalize(x, mean, std):
    mean = torch.as_tensor(mean).to(x).view(-1, 1, 1)
    std = torch.as_tensor(std).to(x).view(-1, 1, 1)
    if (std == 0).any():
        raise ValueError("a standard deviation is zero")
    with torch.no_grad():
        x -= mean
        x /= std
    return x


@misconception(
    "normalize",
    hint="A zero standard deviation passes silently and gives infinities or NaN. Say so with a "
    "ValueError.",
)
def normalize(x, mean, std):
    mean = torch.as_tensor(mean).to(x).view(-1, 1, 1)
    std = torch.as_tensor(std).to(x).view(-1, 1, 1)
    return (x - mean) / std


@misconception(
    "normalize",
    hint="The order is turned: to undo (x - mean) / std, multiply first and add the mean last.",
)
def denormalize(x, mean, std):
    mean = torch.as_tensor(mean).to(x).view(-1, 1, 1)
    std = torch.as_tensor(std).to(x).view(-1, 1, 1)
    return (x + mean) * std


@misconception(
    "normalize",
    hint="It averages what the batches say. A batch of one picture then counts as much as one of a "
    "hundred, and the distance between the batches' means is lost. Keep sums, divide at the end.",
)
def channel_stats(batches):
    means, stds = [], []
    for x in batches:
        pixels = x.double().movedim(1, 0).flatten(1)
        means.append(pixels.mean(1))
        stds.append(pixels.std(1, correction=0))
    if not means:
        raise ValueError("no batch")
    return torch.stack(means).mean(0), torch.stack(stds).mean(0)


@misconception(
    "normalize",
    hint="The variance divides by n - 1 here. All pixels of the set are there, none is a sample "
    "for others: divide by n.",
)
def channel_stats(batches):
    pixels = [x.double().movedim(1, 0).flatten(1) for x in batches]
    if not pixels:
        raise ValueError("no batch")
    joined = torch.cat(pixels, 1)
    return joined.mean(1), joined.std(1)


@misconception(
    "normalize",
    hint="The batches are walked through twice, once for the mean and once for the deviation. A "
    "stream can be read only once, so the second time nothing is left.",
)
def channel_stats(batches):
    count, total = 0, 0
    for x in batches:
        count += x[:, 0].numel()
        total = total + x.double().sum((0, 2, 3))
    if count == 0:
        raise ValueError("no batch")
    mean = total / count
    squares = torch.zeros_like(mean)
    for x in batches:
        squares = squares + (x.double() - mean[:, None, None]).square().sum((0, 2, 3))
    return mean, (squares / count).sqrt()


@misconception(
    "normalize",
    hint="The sums are divided by the number of pictures. Count pixels: each picture has H W of them "
    "in a channel.",
)
def channel_stats(batches):
    count, total, squares = 0, 0.0, 0.0
    for x in batches:
        x = x.double()
        count += len(x)
        total = total + x.sum((0, 2, 3))
        squares = squares + x.square().sum((0, 2, 3))
    if count == 0:
        raise ValueError("no batches")
    mean = total / count
    return mean, (squares / count - mean**2).abs().sqrt()


# --- color -----------------------------------------------------------------------------------


@misconception(
    "color",
    hint="Grey is computed as the plain mean of red, green and blue. Eyes weigh them differently; "
    "use the three weights of the docstring.",
)
def adjust(img, brightness, contrast, saturation):
    if min(brightness, contrast, saturation) < 0:
        raise ValueError("negative factor")
    img = (brightness * img).clamp(0, 1)
    img = (contrast * img + (1 - contrast) * img.mean(0).mean()).clamp(0, 1)
    return (saturation * img + (1 - saturation) * img.mean(0)).clamp(0, 1)


@misconception(
    "color",
    hint="All three dull versions are taken from the picture that came in. Each step should start "
    "from the result of the one before.",
)
def adjust(img, brightness, contrast, saturation):
    if min(brightness, contrast, saturation) < 0:
        raise ValueError("negative factor")
    grey = 0.2989 * img[0] + 0.587 * img[1] + 0.114 * img[2]
    out = (brightness * img).clamp(0, 1)
    out = (contrast * out + (1 - contrast) * grey.mean()).clamp(0, 1)
    return (saturation * out + (1 - saturation) * grey).clamp(0, 1)


@misconception(
    "color",
    hint="Clipping comes only once, at the end. Every blend clips, since the next step expects a "
    "picture with values in [0, 1].",
)
def adjust(img, brightness, contrast, saturation):
    if min(brightness, contrast, saturation) < 0:
        raise ValueError("negative factor")
    img = brightness * img
    grey = 0.2989 * img[0] + 0.587 * img[1] + 0.114 * img[2]
    img = contrast * img + (1 - contrast) * grey.mean()
    grey = 0.2989 * img[0] + 0.587 * img[1] + 0.114 * img[2]
    return (saturation * img + (1 - saturation) * grey).clamp(0, 1)


@misconception(
    "color",
    hint="Contrast pulls every pixel to its own grey; that is what saturation does. The contrast's "
    "dull version is one single number, the mean of the grey picture.",
)
def adjust(img, brightness, contrast, saturation):
    if min(brightness, contrast, saturation) < 0:
        raise ValueError("negative factor")
    img = (brightness * img).clamp(0, 1)
    grey = 0.2989 * img[0] + 0.587 * img[1] + 0.114 * img[2]
    img = (contrast * img + (1 - contrast) * grey).clamp(0, 1)
    grey = 0.2989 * img[0] + 0.587 * img[1] + 0.114 * img[2]
    return (saturation * img + (1 - saturation) * grey).clamp(0, 1)


@misconception(
    "color",
    hint="The exponent is 1 / g. Monitors are corrected that way; here x is raised to g itself.",
)
def gamma_correct(img, g):
    if g <= 0:
        raise ValueError("gamma must be positive")
    return img ** (1 / g)


@misconception(
    "color",
    hint="What is cut off is thrown away, so pixels get lost. Hand the excess back to all levels.",
)
def clipped_hist(hist, limit):
    if limit <= 0:
        raise ValueError("limit must be positive")
    return hist.clamp(max=limit)


@misconception(
    "color",
    hint="The excess of all histograms is put together and shared among all. Each row is a "
    "histogram of its own: sum along the last axis.",
)
def clipped_hist(hist, limit):
    if limit <= 0:
        raise ValueError("limit must be positive")
    excess = (hist - limit).clamp(min=0).sum()
    return hist.clamp(max=limit) + excess / hist.numel()


@misconception(
    "color",
    hint="Only the levels that were not cut get a share of the excess. It goes to all n levels "
    "alike, also if that lifts some above the limit again.",
)
def clipped_hist(hist, limit):
    if limit <= 0:
        raise ValueError("limit must be positive")
    excess = (hist - limit).clamp(min=0).sum(-1, keepdim=True)
    low = (hist < limit).to(hist.dtype)
    return hist.clamp(max=limit) + low * excess / low.sum(-1, keepdim=True).clamp(min=1)


# --- noise -----------------------------------------------------------------------------------


@misconception(
    "noise",
    hint="One number is drawn for each value, so a pixel's red can become 1 while its blue stays: "
    "coloured noise. Draw one number for each pixel, shape (H, W).",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) >= self.p:
            return img
        u = torch.rand(img.shape, generator=self.generator).to(img.device)
        edge = (1 - self.snr) / 2
        out = torch.where(u < edge, torch.zeros_like(img), img)
        return torch.where(u >= 1 - edge, torch.ones_like(img), out)


@misconception(
    "noise",
    hint="snr is taken as the share of *noisy* pixels. It is the share that stays as it is.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) >= self.p:
            return img
        u = torch.rand(img.shape[1:], generator=self.generator).to(img.device)
        out = img.clone()
        out[:, u < self.snr / 2] = 0
        out[:, u >= 1 - self.snr / 2] = 1
        return out


@misconception(
    "noise",
    hint="The picture that was handed in is changed. Write into a clone; the next epoch wants the "
    "clean picture again.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) >= self.p:
            return img
        u = torch.rand(img.shape[1:], generator=self.generator).to(img.device)
        edge = (1 - self.snr) / 2
        img[:, u < edge] = 0
        img[:, u >= 1 - edge] = 1
        return img


@misconception(
    "noise",
    hint="The global random numbers are used. Whoever hands in a generator wants the noise to "
    "depend on that generator alone: `torch.rand(..., generator=self.generator)`.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p = snr, p

    def __call__(self, img):
        if torch.rand(()) >= self.p:
            return img
        u = torch.rand(img.shape[1:]).to(img.device)
        edge = (1 - self.snr) / 2
        out = img.clone()
        out[:, u < edge] = 0
        out[:, u >= 1 - edge] = 1
        return out


@misconception(
    "noise",
    hint="The decision is turned round: with p = 0 there should never be noise, with p = 1 always.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) < self.p:
            return img
        u = torch.rand(img.shape[1:], generator=self.generator).to(img.device)
        edge = (1 - self.snr) / 2
        out = img.clone()
        out[:, u < edge] = 0
        out[:, u >= 1 - edge] = 1
        return out


@misconception(
    "noise",
    hint="All noisy pixels become black (or white). Half of them should be pepper, half salt.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) >= self.p:
            return img
        keep = torch.rand(img.shape[1:], generator=self.generator) < self.snr
        return img * keep.to(img)


@misconception(
    "noise",
    hint="Salt gets a share of 1 - snr, and pepper the same once more. Together they get 1 - snr, "
    "half each.",
)
class SaltPepper:
    def __init__(self, snr, p, generator):
        if not (0 <= snr <= 1 and 0 <= p <= 1):
            raise ValueError("shares are in [0, 1]")
        self.snr, self.p, self.generator = snr, p, generator

    def __call__(self, img):
        if torch.rand((), generator=self.generator) >= self.p:
            return img
        u = torch.rand(img.shape[1:], generator=self.generator).to(img.device)
        out = img.clone()
        out[:, u < 1 - self.snr] = 0
        out[:, u >= self.snr] = 1
        return out


# --- pad -------------------------------------------------------------------------------------


@misconception(
    "pad",
    hint="reflect and symmetric are exchanged. Reflect puts the mirror *on* the last pixel, which "
    "is then not repeated.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    widest = {"constant": math.inf, "edge": math.inf, "reflect": n, "symmetric": n - 1}
    if mode not in widest or max(left, right) > widest[mode]:
        raise ValueError("cannot pad so")
    i = torch.arange(-left, n + right, device=x.device)
    if mode == "symmetric":
        i = (n - 1) - ((n - 1) - i.abs()).abs()
    elif mode == "reflect":
        i = torch.where(i < 0, -1 - i, i)
        i = torch.where(i >= n, 2 * n - 1 - i, i)
    out = x[..., i.clamp(0, n - 1)]
    if mode == "constant":
        out[..., (i < 0) | (i >= n)] = fill
    return out


@misconception(
    "pad",
    hint="The mirrored part is copied in the old order. In a mirror the nearest pixel comes first: "
    "the order is turned round.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    widest = {"constant": math.inf, "edge": math.inf, "reflect": n - 1, "symmetric": n}
    if mode not in widest or max(left, right) > widest[mode]:
        raise ValueError("cannot pad so")
    places = torch.arange(n, device=x.device)
    if mode == "reflect":
        before, behind = places[1 : left + 1], places[n - 1 - right : n - 1]
    elif mode == "symmetric":
        before, behind = places[:left], places[n - right :]
    else:
        before, behind = places[:1].repeat(left), places[-1:].repeat(right)
    out = x[..., torch.cat([before, places, behind])]
    if mode == "constant":
        out[..., :left] = fill
        out[..., left + n :] = fill
    return out


@misconception(
    "pad",
    hint="Left and right are exchanged: `left` entries belong before the first one.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    widest = {"constant": math.inf, "edge": math.inf, "reflect": n - 1, "symmetric": n}
    if mode not in widest or max(left, right) > widest[mode]:
        raise ValueError("cannot pad so")
    i = torch.arange(-right, n + left, device=x.device)
    if mode == "reflect":
        i = (n - 1) - ((n - 1) - i.abs()).abs()
    elif mode == "symmetric":
        i = torch.where(i < 0, -1 - i, i)
        i = torch.where(i >= n, 2 * n - 1 - i, i)
    out = x[..., i.clamp(0, n - 1)]
    if mode == "constant":
        out[..., (i < 0) | (i >= n)] = fill
    return out


@misconception(
    "pad",
    hint="A mirror that is asked for more than there is goes on silently (to and fro, or with the "
    "last pixel). The docstring wants a ValueError: reflect has n - 1 pixels to show, symmetric n.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    if mode not in ("constant", "edge", "reflect", "symmetric"):
        raise ValueError("unknown mode")
    i = torch.arange(-left, n + right, device=x.device)
    outside = (i < 0) | (i >= n)
    if mode == "reflect":
        i = (n - 1) - ((n - 1) - i.abs()).abs()
    elif mode == "symmetric":
        i = torch.where(i < 0, -1 - i, i)
        i = torch.where(i >= n, 2 * n - 1 - i, i)
    out = x[..., i.clamp(0, n - 1)]
    if mode == "constant":
        out[..., outside] = fill
    return out


@misconception(
    "pad",
    hint="`fill` is ignored; constant always pads with zeros.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    widest = {"constant": math.inf, "edge": math.inf, "reflect": n - 1, "symmetric": n}
    if mode not in widest or max(left, right) > widest[mode]:
        raise ValueError("cannot pad so")
    i = torch.arange(-left, n + right, device=x.device)
    inside = (i >= 0) & (i < n)
    if mode == "reflect":
        i = (n - 1) - ((n - 1) - i.abs()).abs()
    elif mode == "symmetric":
        i = torch.where(i < 0, -1 - i, i)
        i = torch.where(i >= n, 2 * n - 1 - i, i)
    out = x[..., i.clamp(0, n - 1)]
    return out * inside.to(x.dtype) if mode == "constant" else out


@misconception(
    "pad",
    hint="The widest reflection is one pixel too wide: the mirror pixel itself cannot be shown, so "
    "n - 1 are left.",
)
def pad1d(x, left, right, mode, fill=0):
    n = x.shape[-1]
    widest = {"constant": math.inf, "edge": math.inf, "reflect": n, "symmetric": n}
    if mode not in widest or max(left, right) > widest[mode]:
        raise ValueError("cannot pad so")
    i = torch.arange(-left, n + right, device=x.device)
    outside = (i < 0) | (i >= n)
    if mode == "reflect":
        i = (n - 1) - ((n - 1) - i.abs()).abs()
    elif mode == "symmetric":
        i = torch.where(i < 0, -1 - i, i)
        i = torch.where(i >= n, 2 * n - 1 - i, i)
    out = x[..., i.clamp(0, n - 1)]
    if mode == "constant":
        out[..., outside] = fill
    return out


# --- affine ----------------------------------------------------------------------------------


@misconception(
    "affine",
    hint="It turns the other way. With y pointing down, the matrix (cos, -sin; sin, cos) turns "
    "clockwise on the screen; yours is its transpose.",
)
def affine_matrix(angle, translate, scale, shear, center):
    if scale <= 0:
        raise ValueError("scale must be positive")
    a, px, py = (math.radians(v) for v in (-angle, *shear))
    R = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    Y = torch.tensor([[1, 0], [-math.tan(py), 1]]).double()
    X = torch.tensor([[1, -math.tan(px)], [0, 1]]).double()
    A = scale * R @ Y @ X
    c, t = torch.tensor(center).double(), torch.tensor(translate).double()
    return torch.cat([A, (c + t - A @ c)[:, None]], 1)


@misconception(
    "affine",
    hint="The centre does not stay where it is: everything turns around the corner (0, 0). "
    "Subtract the centre first, and add it again at the end.",
)
def affine_matrix(angle, translate, scale, shear, center):
    if scale <= 0:
        raise ValueError("scale must be positive")
    a, px, py = (math.radians(v) for v in (angle, *shear))
    R = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    Y = torch.tensor([[1, 0], [-math.tan(py), 1]]).double()
    X = torch.tensor([[1, -math.tan(px)], [0, 1]]).double()
    return torch.cat([scale * R @ Y @ X, torch.tensor(translate).double()[:, None]], 1)


@misconception(
    "affine",
    hint="The scale is used as a factor for areas: its root goes into the matrix. It is a factor for "
    "lengths, so scale 0.5 leaves a quarter of the area.",
)
def affine_matrix(angle, translate, scale, shear, center):
    if scale <= 0:
        raise ValueError("scale must be positive")
    a, px, py = (math.radians(v) for v in (angle, *shear))
    R = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    Y = torch.tensor([[1, 0], [-math.tan(py), 1]]).double()
    X = torch.tensor([[1, -math.tan(px)], [0, 1]]).double()
    A = math.sqrt(scale) * R @ Y @ X
    c, t = torch.tensor(center).double(), torch.tensor(translate).double()
    return torch.cat([A, (c + t - A @ c)[:, None]], 1)


@misconception(
    "affine",
    hint="`math.cos` and `math.tan` want radians. 30 degrees are 0.52 radians, not 30.",
)
def affine_matrix(angle, translate, scale, shear, center):
    if scale <= 0:
        raise ValueError("scale must be positive")
    a, (px, py) = angle, shear
    R = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    Y = torch.tensor([[1, 0], [-math.tan(py), 1]]).double()
    X = torch.tensor([[1, -math.tan(px)], [0, 1]]).double()
    A = scale * R @ Y @ X
    c, t = torch.tensor(center).double(), torch.tensor(translate).double()
    return torch.cat([A, (c + t - A @ c)[:, None]], 1)


@misconception(
    "affine",
    hint="The product runs in the other order: first the turn, then the shears. In A = s R S_y S_x "
    "the rightmost matrix acts first.",
)
def affine_matrix(angle, translate, scale, shear, center):
    if scale <= 0:
        raise ValueError("scale must be positive")
    a, px, py = (math.radians(v) for v in (angle, *shear))
    R = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    Y = torch.tensor([[1, 0], [-math.tan(py), 1]]).double()
    X = torch.tensor([[1, -math.tan(px)], [0, 1]]).double()
    A = scale * X @ Y @ R
    c, t = torch.tensor(center).double(), torch.tensor(translate).double()
    return torch.cat([A, (c + t - A @ c)[:, None]], 1)


@misconception(
    "affine",
    hint="The picture moves the wrong way, for M itself is applied to the output pixels. They ask "
    "where they *came from*: that is the inverse of M.",
)
def warp(img, M):
    C, H, W = img.shape
    M = M.to(img.device)
    rows, cols = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    points = torch.stack([cols.flatten(), rows.flatten()]).to(M)
    x, y = M[:, :2] @ points + M[:, 2:]
    out = 0
    for xi in (x.floor(), x.floor() + 1):
        for yj in (y.floor(), y.floor() + 1):
            w = (1 - (x - xi).abs()) * (1 - (y - yj).abs())
            w = w * ((xi >= 0) & (xi < W) & (yj >= 0) & (yj < H))
            place = (yj.clamp(0, H - 1) * W + xi.clamp(0, W - 1)).long()
            out = out + img.flatten(1)[:, place] * w.to(img.dtype)
    return out.view(C, H, W)


@misconception(
    "affine",
    hint="It reads the nearest pixel only. Between pixels the value is the weighted mean of the four "
    "around.",
)
def warp(img, M):
    C, H, W = img.shape
    M = M.to(img.device)
    rows, cols = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    points = torch.stack([cols.flatten(), rows.flatten()]).to(M)
    x, y = (torch.linalg.inv(M[:, :2]) @ (points - M[:, 2:])).round()
    inside = (x >= 0) & (x < W) & (y >= 0) & (y < H)
    place = (y.clamp(0, H - 1) * W + x.clamp(0, W - 1)).long()
    return (img.flatten(1)[:, place] * inside.to(img.dtype)).view(C, H, W)


@misconception(
    "affine",
    hint="Outside of the picture the last pixels go on. There should be zeros: a neighbour that is "
    "not inside counts as 0.",
)
def warp(img, M):
    C, H, W = img.shape
    M = M.to(img.device)
    rows, cols = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    points = torch.stack([cols.flatten(), rows.flatten()]).to(M)
    x, y = torch.linalg.inv(M[:, :2]) @ (points - M[:, 2:])
    out = 0
    for xi in (x.floor(), x.floor() + 1):
        for yj in (y.floor(), y.floor() + 1):
            w = (1 - (x - xi).abs()) * (1 - (y - yj).abs())
            place = (yj.clamp(0, H - 1) * W + xi.clamp(0, W - 1)).long()
            out = out + img.flatten(1)[:, place] * w.to(img.dtype)
    return out.view(C, H, W)


# --- erase -----------------------------------------------------------------------------------


@misconception(
    "erase",
    hint="For an odd length the hole is one row and one column too small: from y - l // 2 to "
    "y + l // 2 there are 2 (l // 2) rows. Begin there, and take `length` of them.",
)
def cutout(img, length, generator):
    h, w = img.shape[1:]
    y = torch.randint(h, (), generator=generator).item()
    x = torch.randint(w, (), generator=generator).item()
    out, half = img.clone(), length // 2
    out[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
    return out


@misconception(
    "erase",
    hint="The square always lies inside completely. Its *centre* is uniform over all pixels, so that "
    "near the border a part of it is cut off.",
)
def cutout(img, length, generator):
    h, w = img.shape[1:]
    top = torch.randint(max(h - length, 0) + 1, (), generator=generator).item()
    left = torch.randint(max(w - length, 0) + 1, (), generator=generator).item()
    out = img.clone()
    out[:, top : top + length, left : left + length] = 0
    return out


@misconception(
    "erase",
    hint="A negative first row is used as an index, and Python counts it from the end: the hole "
    "vanishes. Cut it off at 0.",
)
def cutout(img, length, generator):
    h, w = img.shape[1:]
    y = torch.randint(h, (), generator=generator).item() - length // 2
    x = torch.randint(w, (), generator=generator).item() - length // 2
    out = img.clone()
    out[:, y : y + length, x : x + length] = 0
    return out


@misconception(
    "erase",
    hint="The hole is cut into the picture that was handed in. Work on a clone.",
)
def cutout(img, length, generator):
    h, w = img.shape[1:]
    y = torch.randint(h, (), generator=generator).item() - length // 2
    x = torch.randint(w, (), generator=generator).item() - length // 2
    img[:, max(y, 0) : y + length, max(x, 0) : x + length] = 0
    return img


@misconception(
    "erase",
    hint="The ratio is drawn uniformly, so upright rectangles are more frequent than flat ones. Draw "
    "its logarithm uniformly, and take the exponential.",
)
def erase_box(h, w, scale, ratio, generator):
    for _ in range(10):
        u, v = torch.rand(2, generator=generator).tolist()
        area = h * w * (scale[0] + (scale[1] - scale[0]) * u)
        r = ratio[0] + (ratio[1] - ratio[0]) * v
        height, width = round(math.sqrt(area * r)), round(math.sqrt(area / r))
        if 1 <= height <= h and 1 <= width <= w:
            top = torch.randint(h - height + 1, (), generator=generator).item()
            left = torch.randint(w - width + 1, (), generator=generator).item()
            return top, left, height, width
    return None


@misconception(
    "erase",
    hint="The ratio is height / width, but here the rectangles with a large ratio are wide: "
    "height = sqrt(area r), width = sqrt(area / r).",
)
def erase_box(h, w, scale, ratio, generator):
    for _ in range(10):
        u, v = torch.rand(2, generator=generator).tolist()
        area = h * w * (scale[0] + (scale[1] - scale[0]) * u)
        r = ratio[0] * (ratio[1] / ratio[0]) ** v
        height, width = round(math.sqrt(area / r)), round(math.sqrt(area * r))
        if 1 <= height <= h and 1 <= width <= w:
            top = torch.randint(h - height + 1, (), generator=generator).item()
            left = torch.randint(w - width + 1, (), generator=generator).item()
            return top, left, height, width
    return None


@misconception(
    "erase",
    hint="The last place is never drawn: a rectangle of the picture's own size has one place, not "
    "none. `torch.randint(k, ...)` gives 0 to k - 1.",
)
def erase_box(h, w, scale, ratio, generator):
    for _ in range(10):
        u, v = torch.rand(2, generator=generator).tolist()
        area = h * w * (scale[0] + (scale[1] - scale[0]) * u)
        r = ratio[0] * (ratio[1] / ratio[0]) ** v
        height, width = round(math.sqrt(area * r)), round(math.sqrt(area / r))
        if 1 <= height <= h and 1 <= width <= w:
            top = torch.randint(max(h - height, 1), (), generator=generator).item()
            left = torch.randint(max(w - width, 1), (), generator=generator).item()
            return top, left, height, width
    return None


@misconception(
    "erase",
    hint="A rectangle that does not fit is squeezed into the picture, which changes its area and "
    "ratio. Draw again, up to ten times.",
)
def erase_box(h, w, scale, ratio, generator):
    u, v = torch.rand(2, generator=generator).tolist()
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u)
    r = ratio[0] * (ratio[1] / ratio[0]) ** v
    height = min(max(round(math.sqrt(area * r)), 1), h)
    width = min(max(round(math.sqrt(area / r)), 1), w)
    top = torch.randint(h - height + 1, (), generator=generator).item()
    left = torch.randint(w - width + 1, (), generator=generator).item()
    return top, left, height, width


# --- mix -------------------------------------------------------------------------------------


@misconception(
    "mix",
    hint="The pictures are mixed, the labels are not. A picture that is 70 % A and 30 % B needs a "
    "label that says so.",
)
def mixup(x, y, alpha, num_classes, generator):
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return lam * x + (1 - lam) * x[partner], F.one_hot(y, num_classes).to(x.dtype)


@misconception(
    "mix",
    hint="Pictures and labels have different partners, for the permutation is drawn twice. Draw it "
    "once and use it for both.",
)
def mixup(x, y, alpha, num_classes, generator):
    lam = draw_lambda(alpha, generator)
    hot = F.one_hot(y, num_classes).to(x.dtype)
    first = torch.randperm(len(x), generator=generator).to(x.device)
    second = torch.randperm(len(x), generator=generator).to(x.device)
    return lam * x + (1 - lam) * x[first], lam * hot + (1 - lam) * hot[second]


@misconception(
    "mix",
    hint="The weights are exchanged in the labels: the picture's own label gets 1 - lambda, its "
    "pixels lambda.",
)
def mixup(x, y, alpha, num_classes, generator):
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partner], (1 - lam) * hot + lam * hot[partner]


@misconception(
    "mix",
    hint="lambda is uniform whatever alpha is. It should come from Beta(alpha, alpha): "
    "`draw_lambda` gives it.",
)
def mixup(x, y, alpha, num_classes, generator):
    lam = 1.0 if alpha == 0 else torch.rand((), generator=generator).item()
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partner], lam * hot + (1 - lam) * hot[partner]


@misconception(
    "mix",
    hint="The labels are weighted with the lambda that was drawn. Rounding and the border change the "
    "area, so count the pixels that were really pasted.",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * math.sqrt(1 - lam)), round(w * math.sqrt(1 - lam))
    top = torch.randint(h, (), generator=generator).item() - a // 2
    left = torch.randint(w, (), generator=generator).item() - b // 2
    out = x.clone()
    at = (..., slice(max(top, 0), top + a), slice(max(left, 0), left + b))
    out[at] = x[partner][at]
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return out, lam * hot + (1 - lam) * hot[partner]


@misconception(
    "mix",
    hint="The area is counted before the border cuts the rectangle. Cut it first, then count the "
    "pixels that were really pasted.",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * math.sqrt(1 - lam)), round(w * math.sqrt(1 - lam))
    top = torch.randint(h, (), generator=generator).item() - a // 2
    left = torch.randint(w, (), generator=generator).item() - b // 2
    out = x.clone()
    at = (..., slice(max(top, 0), top + a), slice(max(left, 0), left + b))
    out[at] = x[partner][at]
    share = a * b / (h * w)
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return out, (1 - share) * hot + share * hot[partner]


@misconception(
    "mix",
    hint="The rectangle always lies inside completely, so nothing is ever cut off. Its *centre* is "
    "uniform over all pixels.",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * math.sqrt(1 - lam)), round(w * math.sqrt(1 - lam))
    top = torch.randint(h - a + 1, (), generator=generator).item()
    left = torch.randint(w - b + 1, (), generator=generator).item()
    out = x.clone()
    at = (..., slice(top, top + a), slice(left, left + b))
    out[at] = x[partner][at]
    share = a * b / (h * w)
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return out, (1 - share) * hot + share * hot[partner]


@misconception(
    "mix",
    hint="The sides are 1 - lambda of the picture's, so the area is (1 - lambda) squared. An area of "
    "1 - lambda needs sides of sqrt(1 - lambda).",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    lam = draw_lambda(alpha, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * (1 - lam)), round(w * (1 - lam))
    top = torch.randint(h, (), generator=generator).item() - a // 2
    left = torch.randint(w, (), generator=generator).item() - b // 2
    out, inside = x.clone(), torch.zeros(h, w)
    at = (..., slice(max(top, 0), top + a), slice(max(left, 0), left + b))
    out[at] = x[partner][at]
    inside[at] = 1
    part = inside.mean().item()
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return out, (1 - part) * hot + part * hot[partner]


@misconception(
    "mix",
    hint="The partner's pixels are pasted into the picture that was handed in, so the batch is "
    "damaged, and later pictures get pieces of changed ones. Work on a clone.",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    side = math.sqrt(1 - draw_lambda(alpha, generator))
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * side), round(w * side)
    top = torch.randint(h, (), generator=generator).item() - a // 2
    left = torch.randint(w, (), generator=generator).item() - b // 2
    inside = torch.zeros(h, w)
    at = (..., slice(max(top, 0), top + a), slice(max(left, 0), left + b))
    inside[at] = 1
    part = inside.mean().item()
    x[at] = x[partner][at]
    hot = F.one_hot(y, num_classes).to(x.dtype)
    return x, (1 - part) * hot + part * hot[partner]


@misconception(
    "mix",
    hint="The hole is filled with zeros: that is Cutout. CutMix pastes the same rectangle of the "
    "partner, and the label tells of it.",
)
def cutmix(x, y, alpha, num_classes, generator):
    h, w = x.shape[2:]
    side = math.sqrt(1 - draw_lambda(alpha, generator))
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    a, b = round(h * side), round(w * side)
    top = torch.randint(h, (), generator=generator).item() - a // 2
    left = torch.randint(w, (), generator=generator).item() - b // 2
    inside = torch.zeros(h, w)
    at = (..., slice(max(top, 0), top + a), slice(max(left, 0), left + b))
    inside[at] = 1
    part = inside.mean().item()
    hot = F.one_hot(y, num_classes).to(x.dtype)
    out = x * (1 - inside).to(x)
    return out, (1 - part) * hot + part * hot[partner]


# --- pipeline --------------------------------------------------------------------------------


@misconception(
    "pipeline",
    hint="Each transform gets the picture that came in, so only the last one counts. Feed the output "
    "of each to the next.",
)
class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, img):
        out = img
        for transform in self.transforms:
            out = transform(img)
        return out


@misconception(
    "pipeline",
    hint="The last transform of the list is applied first. Read the list from left to right.",
)
class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, img):
        for transform in reversed(self.transforms):
            img = transform(img)
        return img


@misconception(
    "pipeline",
    hint="A number is drawn for every transform, so that parts of the list are applied. Decide once "
    "for the whole list.",
)
class RandomApply:
    def __init__(self, transforms, p, generator):
        self.transforms, self.p, self.generator = transforms, p, generator

    def __call__(self, img):
        for transform in self.transforms:
            if torch.rand((), generator=self.generator) < self.p:
                img = transform(img)
        return img


@misconception(
    "pipeline",
    hint="The decision is made once, in the constructor. Each call should draw anew.",
)
class RandomApply:
    def __init__(self, transforms, p, generator):
        self.transforms = transforms
        self.on = bool(torch.rand((), generator=generator) < p)

    def __call__(self, img):
        for transform in self.transforms if self.on else []:
            img = transform(img)
        return img


@misconception(
    "pipeline",
    hint="Five crops come from the middles of the edges (up, down, left, right). They are the four "
    "corners and the centre.",
)
def ten_crop(img, size):
    (H, W), (h, w) = img.shape[1:], size
    if h > H or w > W:
        raise ValueError("too large")
    i, j = round((H - h) / 2), round((W - w) / 2)
    places = [(0, j), (H - h, j), (i, 0), (i, W - w), (i, j)]
    return torch.stack([v[:, a : a + h, b : b + w] for v in (img, img.flip(2)) for a, b in places])


@misconception(
    "pipeline",
    hint="The crops are mirrored, each by itself. The second five are crops of the mirrored *picture*, "
    "so its upper left corner comes first.",
)
def ten_crop(img, size):
    (H, W), (h, w) = img.shape[1:], size
    if h > H or w > W:
        raise ValueError("too large")
    i, j = round((H - h) / 2), round((W - w) / 2)
    places = [(0, 0), (0, W - w), (H - h, 0), (H - h, W - w), (i, j)]
    crops = torch.stack([img[:, a : a + h, b : b + w] for a, b in places])
    return torch.cat([crops, crops.flip(3)])


@misconception(
    "pipeline",
    hint="Logits are averaged, and the softmax comes last. One view with huge numbers then outvotes "
    "all others; average the probabilities.",
)
def tta_predict(model, x, views):
    mode = model.training
    model.eval()
    with torch.no_grad():
        mean = sum(model(view(x)) for view in views) / len(views)
    model.train(mode)
    return mean.softmax(1)


@misconception(
    "pipeline",
    hint="The model is used in the mode that it happens to be in: dropout drops and batch norm uses "
    "the batch. Call `model.eval()` first, and put the mode back afterwards.",
)
def tta_predict(model, x, views):
    with torch.no_grad():
        return sum(model(view(x)).softmax(1) for view in views) / len(views)


@misconception(
    "pipeline",
    hint="The model is left in evaluation mode. If it was in training mode before, whoever goes on "
    "training does so without dropout.",
)
def tta_predict(model, x, views):
    model.eval()
    with torch.no_grad():
        return sum(model(view(x)).softmax(1) for view in views) / len(views)


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="x1 and x2 are mirrored but not exchanged, so x1 is larger than x2.",
)
def flip_with_boxes(image, boxes):
    W = image.shape[2]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(2), torch.stack([W - x1, y1, W - x2, y2], 1)


@misconception(
    "debug",
    hint="Boxes are edges between pixels, so x goes to W - x. With W - 1 - x they land one pixel "
    "too far left.",
)
def flip_with_boxes(image, boxes):
    W = image.shape[2]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(2), torch.stack([W - 1 - x2, y1, W - 1 - x1, y2], 1)


@misconception(
    "debug",
    hint="The picture is turned upside down: axis 1 holds the rows. Left and right are axis 2.",
)
def flip_with_boxes(image, boxes):
    W = image.shape[2]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(1), torch.stack([W - x2, y1, W - x1, y2], 1)
