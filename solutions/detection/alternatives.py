"""Other right answers in the chapter on object detection."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import alternative


def pairwise_iou(a, b):  # as in the set-up cell
    from torchvision.ops import box_iou as library

    return library(a, b)


# --- boxes -----------------------------------------------------------------------------------


@alternative("boxes")
def convert(boxes, src, dst):
    """Every format is a 4 x 4 matrix that makes corners; the way back is its inverse."""
    to_corners = {
        "xyxy": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        "cxcywh": [[1, 0, -0.5, 0], [0, 1, 0, -0.5], [1, 0, 0.5, 0], [0, 1, 0, 0.5]],
        "xywh": [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]],
    }
    if src not in to_corners or dst not in to_corners:
        raise ValueError(f"unknown format: {src} or {dst}")
    there = torch.tensor(to_corners[src], dtype=boxes.dtype, device=boxes.device)
    back = torch.tensor(to_corners[dst], dtype=boxes.dtype, device=boxes.device)
    return boxes @ (torch.linalg.inv(back) @ there).T


@alternative("boxes")
def box_iou(a, b):
    """Coordinate by coordinate, with a mask where nothing is covered."""
    ax1, ay1, ax2, ay2 = (v[:, None] for v in a.unbind(1))
    bx1, by1, bx2, by2 = b.unbind(1)
    if any((low > high).any() for low, high in ((ax1, ax2), (ay1, ay2), (bx1, bx2), (by1, by2))):
        raise ValueError("corners in the wrong order")
    wide = F.relu(torch.min(ax2, bx2) - torch.max(ax1, bx1))
    high = F.relu(torch.min(ay2, by2) - torch.max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - wide * high
    return torch.where(union > 0, wide * high / torch.where(union > 0, union, 1), 0)


# --- anchors ---------------------------------------------------------------------------------


@alternative("anchors")
def multibox_prior(h, w, sizes, ratios):
    """One anchor after the other."""
    rows = []
    for i in range(h):
        for j in range(w):
            for k in range(len(sizes) + len(ratios) - 1):
                s = sizes[k] if k < len(sizes) else sizes[0]
                r = ratios[0] if k < len(sizes) else ratios[k - len(sizes) + 1]
                high = s / math.sqrt(r)
                wide = high * r * h / w
                x, y = (2 * j + 1) / (2 * w), (2 * i + 1) / (2 * h)
                rows.append((x - wide / 2, y - high / 2, x + wide / 2, y + high / 2))
    return torch.tensor(rows)


# --- match -----------------------------------------------------------------------------------


@alternative("match")
def assign(anchors, gt, thr=0.5):
    """Go once through all pairs, sorted by IoU."""
    n, m = anchors.shape[0], gt.shape[0]
    answer = torch.full((n,), -1, dtype=torch.int64, device=anchors.device)
    if n * m == 0:
        return answer
    iou = pairwise_iou(anchors, gt)
    taken, served = set(), set()
    for place in iou.flatten().sort(descending=True, stable=True).indices.tolist():
        i, j = place // m, place % m
        if i not in taken and j not in served:
            answer[i] = j
            taken.add(i)
            served.add(j)
    for i in range(n):
        if i not in taken and iou[i].max() >= thr:
            answer[i] = iou[i].argmax()
    return answer


# --- offset ----------------------------------------------------------------------------------


@alternative("offset")
def encode(anchors, gt):
    """Number by number; the logarithm of a quotient is a difference."""
    ax, ay, bx, by = anchors.unbind(-1)
    gx, gy, hx, hy = gt.unbind(-1)
    tx = ((gx + hx) - (ax + bx)) / (2 * (bx - ax))
    ty = ((gy + hy) - (ay + by)) / (2 * (by - ay))
    tw = (hx - gx).log() - (bx - ax).log()
    th = (hy - gy).log() - (by - ay).log()
    return torch.stack([tx, ty, tw, th], -1)


@alternative("offset")
def decode(anchors, t):
    """Corner and size in between."""
    x, y, x2, y2 = anchors.unbind(-1)
    w, h = x2 - x, y2 - y
    wide, high = w * t[:, 2].exp(), h * t[:, 3].exp()
    left = x + w * (0.5 + t[:, 0]) - wide / 2
    top = y + h * (0.5 + t[:, 1]) - high / 2
    return torch.stack([left, top, left + wide, top + high], -1)


@alternative("offset")
def box_loss(t, p, mask):
    """The library's L1, weighted by the mask."""
    loss = F.l1_loss(p, t, reduction="none") * mask[..., None]
    return loss.sum() / mask.sum().clamp(min=1)


# --- nms -------------------------------------------------------------------------------------


@alternative("nms")
def nms(boxes, scores, thr):
    """One matrix of overlaps, and a flag for each box."""
    n = len(scores)
    order = scores.argsort(descending=True, stable=True).tolist()
    overlaps = pairwise_iou(boxes, boxes) > thr
    alive, keep = [True] * n, []
    for place, i in enumerate(order):
        if not alive[i]:
            continue
        keep.append(i)
        for j in order[place + 1 :]:
            if overlaps[i, j]:
                alive[j] = False
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device)


@alternative("nms")
def batched_nms(boxes, scores, thr, labels):
    """Move the classes so far apart that they cannot meet."""
    if len(boxes) == 0:
        return labels.clone()
    boxes = boxes.double()
    step = boxes.max() - boxes.min() + 1
    rank = labels.unique(return_inverse=True)[1]
    return nms(boxes + (rank * step)[:, None], scores, thr)


# --- roi -------------------------------------------------------------------------------------


@alternative("roi")
def roi_pool(feat, rois, out):
    """Adaptive pooling of the piece that is left after rounding."""
    C, H, W = feat.shape
    result = []
    for x1, y1, x2, y2 in (rois + 0.5).floor().long().tolist():
        top, left = sorted((0, y1, H - 1))[1], sorted((0, x1, W - 1))[1]
        bottom, right = max(min(y2, H), top + 1), max(min(x2, W), left + 1)
        result.append(F.adaptive_max_pool2d(feat[None, :, top:bottom, left:right], out)[0])
    return torch.stack(result) if result else feat.new_zeros(0, C, *out)


@alternative("roi")
def roi_align(feat, rois, out, samples):
    """The four neighbours of each point, by their indices."""
    (C, H, W), (n, m) = feat.shape, out
    x1, x2 = rois[:, 0].clamp(0, W), rois[:, 2].clamp(0, W)
    y1, y2 = rois[:, 1].clamp(0, H), rois[:, 3].clamp(0, H)

    def points(low, high, count, size):
        part = (torch.arange(count * samples).to(rois) + 0.5) / (count * samples)
        at = torch.lerp(low[:, None], high[:, None], part[None]) - 0.5
        at = at.clamp(0, size - 1)
        before = at.detach().floor().long().clamp(max=max(size - 2, 0))
        return at - before, before, (before + 1).clamp(max=size - 1)

    fy, y0, y_1 = points(y1, y2, n, H)
    fx, x0, x_1 = points(x1, x2, m, W)

    def read(y, x):
        return feat[:, y[:, :, None], x[:, None, :]]  # [C, R, n q, m q]

    wy, wx = fy[None, :, :, None], fx[None, :, None, :]
    upper = read(y0, x0) * (1 - wx) + read(y0, x_1) * wx
    lower = read(y_1, x0) * (1 - wx) + read(y_1, x_1) * wx
    values = upper * (1 - wy) + lower * wy
    return F.avg_pool2d(values, samples).transpose(0, 1) if len(rois) else values.view(0, C, n, m)


# --- heads -----------------------------------------------------------------------------------


@alternative("heads")
def cls_predictor(cin, a, classes):
    """Padding by name."""
    return nn.Conv2d(cin, a + a * classes, (3, 3), padding="same")


@alternative("heads")
def concat_preds(preds):
    """A list of cells, by einsum."""
    rows = [torch.einsum("nchw->nhwc", p).reshape(len(p), -1) for p in preds]
    return torch.hstack(rows)


# --- train -----------------------------------------------------------------------------------


@alternative("train")
def train_tiny_ssd(images, boxes, labels, steps):
    """Targets inside the loop, hard negatives as in SSD, smooth L1."""
    model = TinySSD().to(images.device)  # noqa: F821
    model.train()
    anchors = model(images[:1])[2]
    wide = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + wide / 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.008)

    def target(k):
        iou = pairwise_iou(anchors, boxes[k])
        index = torch.where(iou.amax(1) >= 0.5, iou.argmax(1), -1)
        for j in range(len(boxes[k])):
            index[iou[:, j].argmax()] = j
        gt = boxes[k][index]
        side = gt[:, 2:] - gt[:, :2]
        offset = torch.cat([(gt[:, :2] + side / 2 - centre) / wide, torch.log(side / wide)], 1)
        return torch.where(index >= 0, labels[k][index] + 1, 0), offset

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.008 * min(1, (steps - step) / (0.5 * steps))
        batch = torch.randperm(len(images))[:16].tolist()
        while len(batch) < 16:
            batch = (batch + batch)[:16]
        scores, moves, _ = model(images[batch])
        truth, offsets = map(torch.stack, zip(*map(target, batch), strict=True))
        matched = truth > 0
        loss = F.cross_entropy(scores.transpose(1, 2), truth, reduction="none")
        rank = loss.detach().masked_fill(matched, -1).argsort(1, descending=True).argsort(1)
        hard = rank < 6 * matched.sum(1, keepdim=True)
        close = F.smooth_l1_loss(moves[matched], offsets[matched], reduction="sum", beta=0.1)
        total = (loss[matched | hard].sum() + 2 * close) / matched.sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
    return model


@alternative("train")
def detect(model, img, min_score=0.05, thr=0.4):
    """Class by class, and sorted in the end."""
    from torchvision.ops import nms as library

    was = model.eval()
    with torch.inference_mode():
        scores, offsets, anchors = was(img.unsqueeze(0))
        p = F.softmax(scores[0], dim=1)
        best, label = p[:, 1:].max(1)
        side = anchors[:, 2:] - anchors[:, :2]
        low = anchors[:, :2] + side * (0.5 + offsets[0, :, :2] - offsets[0, :, 2:].exp() / 2)
        boxes = torch.cat([low, low + side * offsets[0, :, 2:].exp()], 1)
        keep = []
        for c in range(p.shape[1] - 1):
            here = ((label == c) & (best >= min_score)).nonzero().squeeze(1)
            keep.append(here[library(boxes[here], best[here], thr)])
        keep = torch.cat(keep)
        keep = keep[best[keep].argsort(descending=True)]
        return boxes[keep].clone(), label[keep].clone(), best[keep].clone()


# --- debug -----------------------------------------------------------------------------------


@alternative("debug")
def flip(image, boxes):
    """Mirror with a matrix, then sort the two x."""
    W = image.size(-1)
    boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]).to(boxes)
    return image.flip([2]), boxes + torch.tensor([W, 0, W, 0]).to(boxes)
