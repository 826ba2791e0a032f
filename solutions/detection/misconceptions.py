"""Wrong answers in the chapter on object detection, each with the hint it deserves."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course.testing import misconception


def pairwise_iou(a, b):  # as in the set-up cell
    from torchvision.ops import box_iou as library

    return library(a, b)


# --- boxes -----------------------------------------------------------------------------------


@misconception(
    "boxes",
    hint="The corners lie *half* a width and half a height away from the centre. You go "
    "the full size to each side, so the box becomes four times as large.",
)
def convert(boxes, src, dst):
    for name in (src, dst):
        if name not in ("xyxy", "cxcywh", "xywh"):
            raise ValueError(name)
    a, b = boxes[..., :2], boxes[..., 2:]
    if src == "cxcywh":
        a, b = a - b, a + b
    elif src == "xywh":
        b = a + b
    if dst == "cxcywh":
        a, b = (a + b) / 2, b - a
    elif dst == "xywh":
        b = b - a
    return torch.cat([a, b], -1)


@misconception(
    "boxes",
    hint="You write the result into the tensor that came in. Whoever called you still "
    "holds that tensor; build a new one.",
)
def convert(boxes, src, dst):
    for name in (src, dst):
        if name not in ("xyxy", "cxcywh", "xywh"):
            raise ValueError(name)
    if src == "cxcywh":
        boxes[..., :2] -= boxes[..., 2:] / 2
        boxes[..., 2:] += boxes[..., :2]
    elif src == "xywh":
        boxes[..., 2:] += boxes[..., :2]
    if dst == "cxcywh":
        boxes[..., 2:] -= boxes[..., :2]
        boxes[..., :2] += boxes[..., 2:] / 2
    elif dst == "xywh":
        boxes[..., 2:] -= boxes[..., :2]
    return boxes


@misconception(
    "boxes",
    hint="Two boxes that are apart in both axes have a negative width *and* a negative "
    "height, and minus times minus is plus. Where should you clamp?",
)
def box_iou(a, b):
    for boxes in (a, b):
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).prod(-1).clamp(min=0)
    area_a = (a[:, 2:] - a[:, :2]).prod(-1)
    area_b = (b[:, 2:] - b[:, :2]).prod(-1)
    union = area_a[:, None] + area_b - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)


@misconception(
    "boxes",
    hint="What both boxes share is in the area of the one and in the area of the other, so "
    "the sum of the areas counts it twice.",
)
def box_iou(a, b):
    for boxes in (a, b):
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a = (a[:, 2:] - a[:, :2]).prod(-1)
    area_b = (b[:, 2:] - b[:, :2]).prod(-1)
    union = area_a[:, None] + area_b
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)


@misconception(
    "boxes",
    hint="The + 1 belongs to old code in which x2 is the number of the last pixel. Here a "
    "coordinate is a place on the ruler, and the width is x2 - x1.",
)
def box_iou(a, b):
    for boxes in (a, b):
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low + 1).clamp(min=0).prod(-1)
    area_a = (a[:, 2:] - a[:, :2] + 1).prod(-1)
    area_b = (b[:, 2:] - b[:, :2] + 1).prod(-1)
    return inter / (area_a[:, None] + area_b - inter)


@misconception(
    "boxes",
    hint="Two things are missing: an error for corners in the wrong order, and an answer "
    "for boxes without area, where 0 / 0 gives nan.",
)
def box_iou(a, b):
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a = (a[:, 2:] - a[:, :2]).prod(-1)
    area_b = (b[:, 2:] - b[:, :2]).prod(-1)
    return inter / (area_a[:, None] + area_b - inter)


# --- anchors ---------------------------------------------------------------------------------


@misconception(
    "anchors",
    hint="These are all pairs of a size and a ratio. Here only the pairs with the first "
    "ratio or the first size are wanted, n + m - 1 of them.",
)
def multibox_prior(h, w, sizes, ratios):
    shapes = [(s, r) for s in sizes for r in ratios]
    half = torch.tensor([(s * r**0.5 * h / w, s / r**0.5) for s, r in shapes]) / 2
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


@misconception(
    "anchors",
    hint="On a map that is not square your ratio-1 anchors are not square on the screen. x is "
    "a fraction of the width, s is one of the height: convert the one into the other.",
)
def multibox_prior(h, w, sizes, ratios):
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    half = torch.tensor([(s * r**0.5, s / r**0.5) for s, r in shapes]) / 2
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


@misconception(
    "anchors",
    hint="Width s·r and height s/r have the ratio r². Which function of r makes the ratio r "
    "and keeps the area?",
)
def multibox_prior(h, w, sizes, ratios):
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    half = torch.tensor([(s * r * h / w, s / r) for s, r in shapes]) / 2
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


@misconception(
    "anchors",
    hint="Your anchors sit at the upper left corners of the cells. Where is the middle of the "
    "first cell, as a fraction of the picture?",
)
def multibox_prior(h, w, sizes, ratios):
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    half = torch.tensor([(s * r**0.5 * h / w, s / r**0.5) for s, r in shapes]) / 2
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


@misconception(
    "anchors",
    hint="The cells run column by column. A picture is read row by row: x changes fastest.",
)
def multibox_prior(h, w, sizes, ratios):
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    half = torch.tensor([(s * r**0.5 * h / w, s / r**0.5) for s, r in shapes]) / 2
    x, y = torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


# --- match -----------------------------------------------------------------------------------


@misconception(
    "match",
    hint="An object that no anchor fits well is lost here, and so never learned. Every object "
    "should get its anchor first, whatever the IoU.",
)
def assign(anchors, gt, thr=0.5):
    if not len(anchors) or not len(gt):
        return torch.full((len(anchors),), -1, device=anchors.device)
    best, which = pairwise_iou(anchors, gt).max(1)
    return torch.where(best >= thr, which, -1)


@misconception(
    "match",
    hint="Only one anchor for each object is matched. Another that fits just as well would be "
    "taught that there is nothing: use the threshold for the rest.",
)
def assign(anchors, gt, thr=0.5):
    n, m = len(anchors), len(gt)
    index = torch.full((n,), -1, device=anchors.device)
    if not n or not m:
        return index
    iou = pairwise_iou(anchors, gt)
    for _ in range(min(n, m)):
        i, j = divmod(iou.argmax().item(), m)
        index[i] = j
        iou[i], iou[:, j] = -1, -1
    return index


@misconception(
    "match",
    hint="Without a threshold, nearly every anchor gets an object that it hardly touches. What "
    "should an anchor be whose largest IoU is small?",
)
def assign(anchors, gt, thr=0.5):
    n, m = len(anchors), len(gt)
    index = torch.full((n,), -1, device=anchors.device)
    if not n or not m:
        return index
    iou = pairwise_iou(anchors, gt)
    index = iou.argmax(1)
    for _ in range(min(n, m)):
        i, j = divmod(iou.argmax().item(), m)
        index[i] = j
        iou[i], iou[:, j] = -1, -1
    return index


@misconception(
    "match",
    hint="Each object takes its best anchor, but two objects may take the *same* one, and then "
    "the first of them has none. Strike out the row of a taken anchor.",
)
def assign(anchors, gt, thr=0.5):
    n, m = len(anchors), len(gt)
    index = torch.full((n,), -1, device=anchors.device)
    if not n or not m:
        return index
    iou = pairwise_iou(anchors, gt)
    best, which = iou.max(1)
    index = torch.where(best >= thr, which, -1)
    index[iou.argmax(0)] = torch.arange(m, device=anchors.device)
    return index


@misconception(
    "match",
    hint="With more objects than anchors the loop goes on when everything is struck out: the "
    "largest entry is then -1, at place 0, and anchor 0 is given away again.",
)
def assign(anchors, gt, thr=0.5):
    n, m = len(anchors), len(gt)
    index = torch.full((n,), -1, device=anchors.device)
    if not n or not m:
        return index
    iou = pairwise_iou(anchors, gt)
    best, which = iou.max(1)
    index = torch.where(best >= thr, which, -1)
    for _ in range(m):
        i, j = divmod(iou.argmax().item(), m)
        index[i] = j
        iou[i], iou[:, j] = -1, -1
    return index


@misconception(
    "match",
    hint="An IoU that is *equal* to the threshold is enough.",
)
def assign(anchors, gt, thr=0.5):
    n, m = len(anchors), len(gt)
    index = torch.full((n,), -1, device=anchors.device)
    if not n or not m:
        return index
    iou = pairwise_iou(anchors, gt)
    best, which = iou.max(1)
    index = torch.where(best > thr, which, -1)
    for _ in range(min(n, m)):
        i, j = divmod(iou.argmax().item(), m)
        index[i] = j
        iou[i], iou[:, j] = -1, -1
    return index


# --- offset ----------------------------------------------------------------------------------


@misconception(
    "offset",
    hint="These are offsets of the corners. The formula wants the move of the centre and the "
    "logarithm of the growth.",
)
def encode(anchors, gt):
    size = anchors[:, 2:] - anchors[:, :2]
    return (gt - anchors) / torch.cat([size, size], 1)


@misconception(
    "offset",
    hint="The move is measured in pixels, so a large object has larger offsets than the same "
    "one far away. In which unit should it be measured?",
)
def encode(anchors, gt):
    size_a, size_g = anchors[:, 2:] - anchors[:, :2], gt[:, 2:] - gt[:, :2]
    move = (gt[:, :2] + gt[:, 2:]) / 2 - (anchors[:, :2] + anchors[:, 2:]) / 2
    return torch.cat([move, (size_g / size_a).log()], 1)


@misconception(
    "offset",
    hint="You divide by the size of the object. In a picture that the network has never seen, "
    "only the *anchor's* size is known, and decode has to use it.",
)
def encode(anchors, gt):
    size_a, size_g = anchors[:, 2:] - anchors[:, :2], gt[:, 2:] - gt[:, :2]
    move = (gt[:, :2] + gt[:, 2:]) / 2 - (anchors[:, :2] + anchors[:, 2:]) / 2
    return torch.cat([move / size_g, (size_g / size_a).log()], 1)


@misconception(
    "offset",
    hint="The decoded size is the anchor's size *times* exp(t), not plus: t is a logarithm.",
)
def decode(anchors, t):
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + size * t[:, :2]
    half = (size + t[:, 2:].exp()) / 2
    return torch.cat([centre - half, centre + half], 1)


@misconception(
    "offset",
    hint="The new centre is the *anchor's centre* plus the move; you started from its upper "
    "left corner.",
)
def decode(anchors, t):
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size * t[:, :2]
    half = size * t[:, 2:].exp() / 2
    return torch.cat([centre - half, centre + half], 1)


@misconception(
    "offset",
    hint="The background is masked, but it still counts in the mean: with a thousand anchors and "
    "three matches the loss nearly vanishes. Divide by the matched ones.",
)
def box_loss(t, p, mask):
    return ((t - p).abs().sum(-1) * mask).mean()


@misconception(
    "offset",
    hint="That is the squared error: one hopeless anchor outweighs all the others. The "
    "exercise asks for L1.",
)
def box_loss(t, p, mask):
    wrong = ((t - p) ** 2).sum(-1)[mask]
    return wrong.sum() / max(len(wrong), 1)


@misconception(
    "offset",
    hint="The mean of nothing is nan, and one nan is enough to spoil all weights. What should a "
    "picture without objects cost?",
)
def box_loss(t, p, mask):
    return (t - p).abs().sum(-1)[mask].mean()


@misconception(
    "offset",
    hint="w / w_a - 1 is 0 where the sizes agree, as it should be, but half the size should be as "
    "far from 0 as twice the size: take the logarithm of the ratio.",
)
def encode(anchors, gt):
    size_a = anchors[:, 2:] - anchors[:, :2]
    size_g = gt[:, 2:] - gt[:, :2]
    centre_a = (anchors[:, :2] + anchors[:, 2:]) / 2
    centre_g = (gt[:, :2] + gt[:, 2:]) / 2
    return torch.cat([(centre_g - centre_a) / size_a, size_g / size_a - 1], dim=1)


# --- nms -------------------------------------------------------------------------------------


@misconception(
    "nms",
    hint="A box that has been removed still removes others here. Only *kept* boxes may do that.",
)
def nms(boxes, scores, thr):
    order = scores.argsort(descending=True, stable=True)
    iou = pairwise_iou(boxes[order], boxes[order]).triu(1)
    return order[~(iou > thr).any(0)] if len(order) else order


@misconception(
    "nms",
    hint="You keep the boxes that overlap and drop the others. Turn the comparison round.",
)
def nms(boxes, scores, thr):
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while len(order):
        best, order = order[:1], order[1:]
        keep.append(best)
        order = order[pairwise_iou(boxes[best], boxes[order])[0] >= thr]
    return torch.cat(keep) if keep else order


@misconception(
    "nms",
    hint="A box whose IoU is *equal* to the threshold should stay.",
)
def nms(boxes, scores, thr):
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while len(order):
        best, order = order[:1], order[1:]
        keep.append(best)
        order = order[pairwise_iou(boxes[best], boxes[order])[0] < thr]
    return torch.cat(keep) if keep else order


@misconception(
    "nms",
    hint="The boxes are taken as they come. The best *score* goes first.",
)
def nms(boxes, scores, thr):
    order = torch.arange(len(scores), device=scores.device)
    keep = []
    while len(order):
        best, order = order[:1], order[1:]
        keep.append(best)
        order = order[pairwise_iou(boxes[best], boxes[order])[0] <= thr]
    return torch.cat(keep) if keep else order


@misconception(
    "nms",
    hint="Boxes of different classes push each other out; `labels` is not used at all.",
)
def batched_nms(boxes, scores, thr, labels):
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while len(order):
        best, order = order[:1], order[1:]
        keep.append(best)
        order = order[pairwise_iou(boxes[best], boxes[order])[0] <= thr]
    return torch.cat(keep) if keep else order


@misconception(
    "nms",
    hint="The answer of one class counts within that class. Translate it back into indices of "
    "all boxes: `here[...]`.",
)
def batched_nms(boxes, scores, thr, labels):
    keep = []
    for label in labels.unique():
        here = (labels == label).nonzero()[:, 0]
        keep.append(nms(boxes[here], scores[here], thr))
    keep = torch.cat(keep) if keep else labels
    return keep[scores[keep].argsort(descending=True, stable=True)]


@misconception(
    "nms",
    hint="Moving each class by label times the largest coordinate is a good trick, but with "
    "negative coordinates two classes can still meet. How large must the step be?",
)
def batched_nms(boxes, scores, thr, labels):
    if not len(boxes):
        return labels
    shift = labels.to(boxes)[:, None] * (boxes.max() + 1)
    return nms(boxes + shift, scores, thr)


@misconception(
    "nms",
    hint="The kept boxes come class after class. The caller wants one list, best score first.",
)
def batched_nms(boxes, scores, thr, labels):
    keep = [labels[:0]]
    for label in labels.unique():
        here = (labels == label).nonzero()[:, 0]
        keep.append(here[nms(boxes[here], scores[here], thr)])
    return torch.cat(keep)


# --- roi -------------------------------------------------------------------------------------


@misconception(
    "roi",
    hint="`int` cuts off instead of rounding, so regions move to the upper left by half a cell "
    "on average.",
)
def roi_pool(feat, rois, out):
    (C, H, W), (n, m) = feat.shape, out
    result = []
    for x1, y1, x2, y2 in rois.tolist():
        a, c = (min(max(int(v), 0), s - 1) for v, s in ((y1, H), (x1, W)))
        b, d = min(max(int(y2), a + 1), H), min(max(int(x2), c + 1), W)
        result.append(F.adaptive_max_pool2d(feat[:, a:b, c:d], (n, m)))
    return torch.stack(result) if result else feat.new_zeros(0, C, n, m)


@misconception(
    "roi",
    hint="Python's `round` rounds halves to the even number: 2.5 becomes 2. Here halves go up.",
)
def roi_pool(feat, rois, out):
    (C, H, W), (n, m) = feat.shape, out
    result = []
    for x1, y1, x2, y2 in rois.tolist():
        a, c = (min(max(round(v), 0), s - 1) for v, s in ((y1, H), (x1, W)))
        b, d = min(max(round(y2), a + 1), H), min(max(round(x2), c + 1), W)
        result.append(F.adaptive_max_pool2d(feat[:, a:b, c:d], (n, m)))
    return torch.stack(result) if result else feat.new_zeros(0, C, n, m)


@misconception(
    "roi",
    hint="You count the cell after the right and lower border as well. x2 is where the region "
    "*ends*: cell j covers j to j + 1.",
)
def roi_pool(feat, rois, out):
    (C, H, W), (n, m) = feat.shape, out
    result = []
    for roi in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v + 0.5) for v in roi)
        a, c = min(max(y1, 0), H - 1), min(max(x1, 0), W - 1)
        b, d = min(max(y2 + 1, a + 1), H), min(max(x2 + 1, c + 1), W)
        result.append(F.adaptive_max_pool2d(feat[:, a:b, c:d], (n, m)))
    return torch.stack(result) if result else feat.new_zeros(0, C, n, m)


@misconception(
    "roi",
    hint="These are the means of the bins. RoI pooling takes the maximum of each.",
)
def roi_pool(feat, rois, out):
    (C, H, W), (n, m) = feat.shape, out
    result = []
    for roi in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v + 0.5) for v in roi)
        a, c = min(max(y1, 0), H - 1), min(max(x1, 0), W - 1)
        b, d = min(max(y2, a + 1), H), min(max(x2, c + 1), W)
        result.append(F.adaptive_avg_pool2d(feat[:, a:b, c:d], (n, m)))
    return torch.stack(result) if result else feat.new_zeros(0, C, n, m)


@misconception(
    "roi",
    hint="The centre of cell 0 is at ½. Without taking half a cell off, everything is read "
    "half a cell too far to the right and too low.",
)
def roi_align(feat, rois, out, samples):
    (_, H, W), (n, m) = feat.shape, out

    def hats(start, stop, size, count):
        start, stop = start.clamp(0, size), stop.clamp(0, size)
        points = torch.arange(count * samples).to(feat) + 0.5
        x = start[:, None] + (stop - start)[:, None] * points / len(points)
        x = x.clamp(0, size - 1)
        weight = 1 - (x[..., None] - torch.arange(size).to(feat)).abs()
        return weight.clamp(min=0).unflatten(1, (count, samples)).mean(2)

    rows, cols = hats(rois[:, 1], rois[:, 3], H, n), hats(rois[:, 0], rois[:, 2], W, m)
    return torch.einsum("rih,chw,rjw->rcij", rows, feat, cols)


@misconception(
    "roi",
    hint="The regions are rounded first. That is what RoI align was made to avoid: read the map "
    "*between* its cells.",
)
def roi_align(feat, rois, out, samples):
    (_, H, W), (n, m) = feat.shape, out

    def hats(start, stop, size, count):
        start, stop = start.round().clamp(0, size), stop.round().clamp(0, size)
        points = torch.arange(count * samples).to(feat) + 0.5
        x = start[:, None] + (stop - start)[:, None] * points / len(points)
        x = (x - 0.5).clamp(0, size - 1)
        weight = 1 - (x[..., None] - torch.arange(size).to(feat)).abs()
        return weight.clamp(min=0).unflatten(1, (count, samples)).mean(2)

    rows, cols = hats(rois[:, 1], rois[:, 3], H, n), hats(rois[:, 0], rois[:, 2], W, m)
    return torch.einsum("rih,chw,rjw->rcij", rows, feat, cols)


@misconception(
    "roi",
    hint="Points outside the map read zeros here. Clip the region to the map first, and repeat "
    "the border between it and the outermost centres.",
)
def roi_align(feat, rois, out, samples):
    (_, H, W), (n, m) = feat.shape, out

    def hats(start, stop, size, count):
        points = torch.arange(count * samples).to(feat) + 0.5
        x = start[:, None] + (stop - start)[:, None] * points / len(points) - 0.5
        weight = 1 - (x[..., None] - torch.arange(size).to(feat)).abs()
        return weight.clamp(min=0).unflatten(1, (count, samples)).mean(2)

    rows, cols = hats(rois[:, 1], rois[:, 3], H, n), hats(rois[:, 0], rois[:, 2], W, m)
    return torch.einsum("rih,chw,rjw->rcij", rows, feat, cols)


@misconception(
    "roi",
    hint="The samples of a bin are averaged, not maximised.",
)
def roi_align(feat, rois, out, samples):
    (_, H, W), (n, m) = feat.shape, out

    def hats(start, stop, size, count):
        start, stop = start.clamp(0, size), stop.clamp(0, size)
        points = torch.arange(count * samples).to(feat) + 0.5
        x = start[:, None] + (stop - start)[:, None] * points / len(points)
        x = (x - 0.5).clamp(0, size - 1)
        return (1 - (x[..., None] - torch.arange(size).to(feat)).abs()).clamp(min=0)

    rows, cols = hats(rois[:, 1], rois[:, 3], H, n), hats(rois[:, 0], rois[:, 2], W, m)
    values = torch.einsum("rih,chw,rjw->rcij", rows, feat, cols)
    return values.unflatten(3, (m, samples)).unflatten(2, (n, samples)).amax((3, 5))


# --- heads -----------------------------------------------------------------------------------


@misconception(
    "heads",
    hint="The background needs a score, too: K + 1 numbers for each anchor.",
)
def cls_predictor(cin, a, classes):
    return nn.Conv2d(cin, a * classes, 3, padding=1)


@misconception(
    "heads",
    hint="Without padding the map shrinks by two rows and columns, and its cells no longer fit "
    "the anchors.",
)
def cls_predictor(cin, a, classes):
    return nn.Conv2d(cin, a * (classes + 1), 3)


@misconception(
    "heads",
    hint="Four numbers for each *anchor*, and there are several anchors in a cell.",
)
def bbox_predictor(cin, a):
    return nn.Conv2d(cin, 4, 3, padding=1)


@misconception(
    "heads",
    hint="A 1 x 1 kernel sees a single cell. The head should see its eight neighbours as well.",
)
def bbox_predictor(cin, a):
    return nn.Conv2d(cin, 4 * a, 1)


@misconception(
    "heads",
    hint="Flattened like this, all cells of channel 0 come first, so the numbers of an anchor are "
    "torn apart. Which axis should be the last before you flatten?",
)
def concat_preds(preds):
    return torch.cat([p.flatten(1) for p in preds], 1)


@misconception(
    "heads",
    hint="Rows and columns have changed places: the cells now run column by column. Only the "
    "channels should move.",
)
def concat_preds(preds):
    return torch.cat([p.permute(0, 3, 2, 1).flatten(1) for p in preds], 1)


# --- train -----------------------------------------------------------------------------------


@misconception(
    "train",
    hint="The labels are the classes themselves, so class 0 and background are the same number. "
    "Add 1 to the class of an object.",
)
def train_tiny_ssd(images, boxes, labels, steps):
    model = TinySSD().to(images.device)  # noqa: F821
    anchors = model(images[:1])[2]
    mid, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    targets, offsets, masks = [], [], []
    for box, label in zip(boxes, labels, strict=True):
        iou = pairwise_iou(anchors, box)
        best, which = iou.max(1)
        first = iou.argmax(0)
        best[first], which[first] = 1, torch.arange(len(box)).to(which)
        targets.append(label[which] * (best >= 0.5))
        masks.append(best >= 0.5)
        box = box[which]
        move = ((box[:, :2] + box[:, 2:]) / 2 - mid) / size
        offsets.append(torch.cat([move, ((box[:, 2:] - box[:, :2]) / size).log()], 1))
    targets, offsets, masks = torch.stack(targets), torch.stack(offsets), torch.stack(masks)
    adam = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        pick = torch.randint(len(images), (16,)).to(images.device)
        scores, moves, _ = model(images[pick])
        mask = masks[pick]
        loss = (
            F.cross_entropy(scores.flatten(0, 1), targets[pick].flatten(), reduction="sum")
            + (moves - offsets[pick])[mask].abs().sum()
        )
        adam.zero_grad()
        (loss / mask.sum()).backward()
        adam.step()
    return model


@misconception(
    "train",
    hint="The gradients are never cleared, so every step repeats all steps before. What comes "
    "before `backward`?",
)
def train_tiny_ssd(images, boxes, labels, steps):
    model = TinySSD().to(images.device)  # noqa: F821
    anchors = model(images[:1])[2]
    mid, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    targets, offsets = [], []
    for box, label in zip(boxes, labels, strict=True):
        iou = pairwise_iou(anchors, box)
        best, which = iou.max(1)
        first = iou.argmax(0)
        best[first], which[first] = 1, torch.arange(len(box)).to(which)
        targets.append((label[which] + 1) * (best >= 0.5))
        box = box[which]
        move = ((box[:, :2] + box[:, 2:]) / 2 - mid) / size
        offsets.append(torch.cat([move, ((box[:, 2:] - box[:, :2]) / size).log()], 1))
    targets, offsets = torch.stack(targets), torch.stack(offsets)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        pick = torch.randint(len(images), (16,)).to(images.device)
        scores, moves, _ = model(images[pick])
        mask = targets[pick] > 0
        loss = (
            F.cross_entropy(scores.flatten(0, 1), targets[pick].flatten(), reduction="sum")
            + (moves - offsets[pick])[mask].abs().sum()
        )
        (loss / mask.sum()).backward()
        adam.step()
    return model


@misconception(
    "train",
    hint="Only anchors above the threshold are matched. An object with an unusual shape has none, "
    "and the model learns to call it background.",
)
def train_tiny_ssd(images, boxes, labels, steps):
    model = TinySSD().to(images.device)  # noqa: F821
    anchors = model(images[:1])[2]
    mid, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    targets, offsets = [], []
    for box, label in zip(boxes, labels, strict=True):
        best, which = pairwise_iou(anchors, box).max(1)
        targets.append((label[which] + 1) * (best >= 0.5))
        box = box[which]
        move = ((box[:, :2] + box[:, 2:]) / 2 - mid) / size
        offsets.append(torch.cat([move, ((box[:, 2:] - box[:, :2]) / size).log()], 1))
    targets, offsets = torch.stack(targets), torch.stack(offsets)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(adam, 0.01, max(steps, 2))
    for _ in range(steps):
        pick = torch.randint(len(images), (16,)).to(images.device)
        scores, moves, _ = model(images[pick])
        mask = targets[pick] > 0
        loss = (
            F.cross_entropy(scores.flatten(0, 1), targets[pick].flatten(), reduction="sum")
            + (moves - offsets[pick])[mask].abs().sum()
        )
        adam.zero_grad()
        (loss / mask.sum().clamp(min=1)).backward()
        adam.step()
        plan.step()
    return model


@misconception(
    "train",
    hint="`backward` runs, but nobody makes a step: the weights stay as they were drawn.",
)
def train_tiny_ssd(images, boxes, labels, steps):
    model = TinySSD().to(images.device)  # noqa: F821
    for _ in range(steps):
        pick = torch.randint(len(images), (16,)).to(images.device)
        scores, moves, _ = model(images[pick])
        loss = scores.logsumexp(-1).mean() + moves.abs().mean()
        loss.backward()
    return model


@misconception(
    "train",
    hint="The model is still in training mode, so batch normalisation uses the single picture's "
    "own mean, and even changes what it has learned.",
)
@torch.no_grad()
def detect(model, img, min_score=0.05, thr=0.4):
    from torchvision.ops import batched_nms as library_nms

    scores, offsets, anchors = model(img[None])
    best, label = scores[0].softmax(-1)[:, 1:].max(-1)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + size * offsets[0, :, :2]
    half = size * offsets[0, :, 2:].exp() / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    sure = best >= min_score
    boxes, label, best = boxes[sure], label[sure], best[sure]
    keep = library_nms(boxes, best, label, thr)
    return boxes[keep], label[keep], best[keep]


@misconception(
    "train",
    hint="Background takes part in the contest and wins nearly everywhere, and the classes are "
    "shifted by one. Leave column 0 out before you take the best.",
)
@torch.no_grad()
def detect(model, img, min_score=0.05, thr=0.4):
    from torchvision.ops import batched_nms as library_nms

    model.eval()
    scores, offsets, anchors = model(img[None])
    best, label = scores[0].softmax(-1).max(-1)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + size * offsets[0, :, :2]
    half = size * offsets[0, :, 2:].exp() / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    sure = best >= min_score
    boxes, label, best = boxes[sure], label[sure], best[sure]
    keep = library_nms(boxes, best, label, thr)
    return boxes[keep], label[keep], best[keep]


@misconception(
    "train",
    hint="The softmax is taken after background was dropped, so even an anchor on empty ground "
    "has a sure opinion. Softmax over *all* classes first.",
)
@torch.no_grad()
def detect(model, img, min_score=0.05, thr=0.4):
    from torchvision.ops import batched_nms as library_nms

    model.eval()
    scores, offsets, anchors = model(img[None])
    best, label = scores[0, :, 1:].softmax(-1).max(-1)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + size * offsets[0, :, :2]
    half = size * offsets[0, :, 2:].exp() / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    sure = best >= min_score
    boxes, label, best = boxes[sure], label[sure], best[sure]
    keep = library_nms(boxes, best, label, thr)
    return boxes[keep], label[keep], best[keep]


@misconception(
    "train",
    hint="The scores go through a sigmoid, so a class does not know of the others. They were "
    "trained with the cross-entropy: softmax over all classes, the background included.",
)
@torch.no_grad()
def detect(model, img, min_score=0.05, thr=0.4):
    from torchvision.ops import batched_nms as library_nms

    model.eval()
    scores, offsets, anchors = model(img[None])
    best, label = scores[0].sigmoid()[:, 1:].max(-1)
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + size * offsets[0, :, :2]
    half = size * offsets[0, :, 2:].exp() / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    sure = best >= min_score
    boxes, label, best = boxes[sure], label[sure], best[sure]
    keep = library_nms(boxes, best, label, thr)
    return boxes[keep], label[keep], best[keep]


# --- debug -----------------------------------------------------------------------------------


@misconception(
    "debug",
    hint="The boxes are mirrored, but left and right have changed their roles: x1 is now larger "
    "than x2.",
)
def flip(image, boxes):
    width = image.shape[-1]
    flipped = boxes.clone()
    flipped[:, [0, 2]] = width - boxes[:, [0, 2]]
    return image.flip(-1), flipped


@misconception(
    "debug",
    hint="A coordinate is a place on the ruler, so its mirror image is "
    "W - x, without the 1 of pixel numbers.",
)
def flip(image, boxes):
    width = image.shape[-1] - 1
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(-1), torch.stack([width - x2, y1, width - x1, y2], 1)


@misconception(
    "debug",
    hint="The picture is mirrored upside down: the last axis runs along the width.",
)
def flip(image, boxes):
    width = image.shape[-1]
    x1, y1, x2, y2 = boxes.unbind(1)
    return image.flip(-2), torch.stack([width - x2, y1, width - x1, y2], 1)
