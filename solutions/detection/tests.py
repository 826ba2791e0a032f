"""Hidden tests of the chapter on object detection."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as ops
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)


def random_boxes(n, span=20.0, dtype=torch.float64, device="cpu"):
    """Corner boxes with sides from 1 to span / 2 + 1."""
    corner = span * rand(n, 2, dtype=dtype, device=device)
    side = 1 + span / 2 * rand(n, 2, dtype=dtype, device=device)
    return torch.cat([corner, corner + side], 1)


# --- boxes -----------------------------------------------------------------------------------

FORMATS = ("xyxy", "cxcywh", "xywh")


@pytest.mark.exercise("boxes", points=3)
@pytest.mark.parametrize("src", FORMATS)
@pytest.mark.parametrize("dst", FORMATS)
def test_all_conversions(student, device, src, dst):
    """convert should know all nine pairs of formats, give a new tensor, and change no input."""
    boxes = ops.box_convert(random_boxes(7, device=device), "xyxy", src)
    with unchanged(boxes):
        got = student.convert(boxes, src, dst)
        expected = ops.box_convert(boxes, src, dst)
        assert_close(got, expected, f"the boxes from {src} to {dst}")
        got += 1  # of a new tensor


@pytest.mark.exercise("boxes", points=2)
@pytest.mark.parametrize("shape", [(4,), (1, 4), (0, 4), (2, 3, 4)])
def test_any_leading_axes(student, device, shape):
    """convert should take boxes of any shape (..., 4), also none, and go there and back."""
    boxes = rand(*shape, dtype=torch.float32, device=device)
    for dst in FORMATS:
        there = student.convert(boxes, "xywh", dst)
        assert_shape(there, shape, "the converted boxes")
        assert_close(student.convert(there, dst, "xywh"), boxes, "the boxes, there and back")


@pytest.mark.exercise("boxes", points=1)
@pytest.mark.parametrize("src, dst", [("xyxy", "cxcy"), ("yxyx", "xyxy"), ("XYWH", "XYWH")])
def test_unknown_format(student, src, dst):
    """convert should raise a ValueError for a format that it does not know, src or dst."""
    with raises(ValueError):
        student.convert(rand(3, 4), src, dst)


@pytest.mark.exercise("boxes", points=4)
@pytest.mark.parametrize(
    "n, m, dtype", [(7, 5, 64), (1, 9, 64), (6, 1, 32), (0, 3, 64), (4, 0, 64)]
)
def test_iou_of_all_pairs(student, device, n, m, dtype):
    """box_iou should be shared area over covered area for all N x M pairs, and change no input."""
    dtype = torch.float64 if dtype == 64 else torch.float32
    a = random_boxes(n, dtype=dtype, device=device) - 8  # also negative coordinates
    b = random_boxes(m, dtype=dtype, device=device) - 8
    with unchanged(a, b):
        got = student.box_iou(a, b)
    assert_close(got, ops.box_iou(a, b), "the IoU matrix")


@pytest.mark.exercise("boxes", points=2)
def test_iou_is_a_likeness(student, device):
    """box_iou should be symmetric, 1 for equal boxes, 0 for disjoint ones, free of scale."""
    a, b = random_boxes(8, device=device), random_boxes(6, device=device)
    iou = student.box_iou(a, b)
    assert_close(student.box_iou(b, a), iou.T, "the IoU of b and a")
    assert_close(student.box_iou(1e-3 * a, 1e-3 * b), iou, "the IoU of small boxes", rtol=1e-6)
    own = student.box_iou(a, a).diagonal()
    assert_close(own, torch.ones_like(own), "the IoU of a box with itself")
    away = student.box_iou(a, b + 100)
    assert_close(away, torch.zeros_like(away), "the IoU of disjoint boxes")
    beside = student.box_iou(a, b + torch.tensor([0.0, 100, 0, 100]).to(b))
    assert_close(beside, torch.zeros_like(beside), "the IoU of boxes one above the other")
    touching = a[:1].clone()
    touching[:, [0, 2]] += (a[:1, 2] - a[:1, 0])[:, None]
    assert_close(student.box_iou(a[:1], touching), iou.new_zeros(1, 1), "the IoU of neighbours")


@pytest.mark.exercise("boxes", points=1)
def test_box_gradients(student, device):
    """The gradients of convert and box_iou should be those of the formulas."""
    a, b = random_boxes(4, device=device), random_boxes(3, device=device)
    assert_same_gradients(student.box_iou, ops.box_iou, a, b)
    assert_same_gradients(
        lambda x: student.convert(x, "xyxy", "cxcywh"),
        lambda x: ops.box_convert(x, "xyxy", "cxcywh"),
        a,
    )


@pytest.mark.exercise("boxes", points=2)
def test_iou_of_strange_boxes(student, device):
    """Boxes without area should have IoU 0; corners in the wrong order raise a ValueError."""
    a = torch.tensor([[1.0, 1, 1, 5], [2, 3, 2, 3], [0, 0, 4, 4]], dtype=torch.float64).to(device)
    expected = torch.zeros(3, 3).to(a)
    expected[2, 2] = 1
    assert_close(student.box_iou(a, a), expected, "the IoU matrix of boxes without area")
    good = random_boxes(3, device=device)
    for swap in ([2, 1, 0, 3], [0, 3, 2, 1]):
        bad = good.clone()
        bad[1] = bad[1, swap]
        with raises(ValueError):
            student.box_iou(bad, good)
        with raises(ValueError):
            student.box_iou(good, bad)


# --- anchors ---------------------------------------------------------------------------------

SETTINGS = [
    (1, 1, [0.5], [1]),
    (3, 3, [0.75, 0.5, 0.25], [1, 2, 0.5]),
    (2, 5, [0.3, 0.9], [2, 1]),
    (4, 3, [0.4], [0.5, 1, 3, 2]),
    (1, 4, [0.2, 0.1, 0.6], [1.5]),
]


def anchor_list(h, w, sizes, ratios):
    """The anchors one by one, from the formulas."""
    pairs = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    rows = []
    for i in range(h):
        for j in range(w):
            for s, r in pairs:
                wide, high = s * r**0.5 * h / w, s / r**0.5
                x, y = (j + 0.5) / w, (i + 0.5) / h
                rows.append([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
    return torch.tensor(rows)


@pytest.mark.exercise("anchors", points=4)
@pytest.mark.parametrize("h, w, sizes, ratios", SETTINGS)
def test_every_anchor(student, h, w, sizes, ratios):
    """The anchors should be those of the formulas, float32, in the documented order."""
    with unchanged(sizes, ratios):
        got = student.multibox_prior(h, w, sizes, ratios)
    expected = anchor_list(h, w, sizes, ratios)
    columns = anchor_list(w, h, sizes, ratios).view(w, h, -1, 4).transpose(0, 1).reshape(-1, 4)
    k = len(sizes) + len(ratios) - 1
    by_shape = expected.view(h * w, k, 4).transpose(0, 1).reshape(-1, 4)
    assert_close(
        got,
        expected,
        "the anchors",
        symptoms={
            "The anchors should run row by row.": columns,
            "All anchors of a cell should stand together.": by_shape,
        },
    )


@pytest.mark.exercise("anchors", points=2)
@pytest.mark.parametrize("h, w, sizes, ratios", SETTINGS)
def test_area_and_ratio(student, h, w, sizes, ratios):
    """On the screen each anchor should have area s² and ratio r, in units of the height."""
    got = student.multibox_prior(h, w, sizes, ratios).double().view(h, w, -1, 4)
    wide, high = (got[..., 2] - got[..., 0]) * w / h, got[..., 3] - got[..., 1]
    pairs = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    s, r = torch.tensor(pairs).double().T
    assert_close(wide * high, (s**2).expand_as(wide), "the areas", rtol=1e-4)
    assert_close(wide / high, r.expand_as(wide), "the ratios", rtol=1e-4)


@pytest.mark.exercise("anchors", points=2)
def test_centres_and_symmetry(student):
    """Centres should be the middles of the cells; a square map looks the same when mirrored."""
    got = student.multibox_prior(4, 4, [0.5, 0.3], [1, 2]).view(4, 4, 3, 4)
    middle = (torch.arange(4) + 0.5) / 4
    x, y = (got[..., 0] + got[..., 2]) / 2, (got[..., 1] + got[..., 3]) / 2
    assert_close(x, middle[None, :, None].expand(4, 4, 3), "the x of the centres")
    assert_close(y, middle[:, None, None].expand(4, 4, 3), "the y of the centres")
    mirrored = 1 - got.flip(1)[..., [2, 1, 0, 3]]
    mirrored[..., [1, 3]] = got[..., [1, 3]]
    assert_close(mirrored, got, "the mirrored anchors", atol=1e-6)


@pytest.mark.exercise("anchors", points=2)
@pytest.mark.parametrize("n, m", [(1, 1), (3, 1), (1, 4), (5, 3)])
def test_count(student, n, m):
    """There should be h * w * (n + m - 1) anchors."""
    sizes = [0.1 * (k + 1) for k in range(n)]
    ratios = [1.0 + 0.5 * k for k in range(m)]
    got = student.multibox_prior(6, 3, sizes, ratios)
    assert_shape(got, (18 * (n + m - 1), 4), "the anchors")
    assert_true(got.dtype == torch.float32, "The anchors should be float32.")


# --- match -----------------------------------------------------------------------------------


def reference_assign(anchors, gt, thr):
    """The rule in words, with plain loops."""
    iou = ops.box_iou(anchors, gt).tolist()
    n, m = len(anchors), len(gt)
    answer = [-1] * n
    anchors_left, objects_left = list(range(n)), list(range(m))
    while anchors_left and objects_left:
        _, i, j = max(
            ((iou[i][j], i, j) for i in anchors_left for j in objects_left),
            key=lambda t: (t[0], -t[1], -t[2]),
        )
        answer[i] = j
        anchors_left.remove(i)
        objects_left.remove(j)
    for i in anchors_left:
        if m and max(iou[i]) >= thr:
            answer[i] = iou[i].index(max(iou[i]))
    return torch.tensor(answer)


@pytest.mark.exercise("match", points=5)
@pytest.mark.parametrize("n, m, thr", [(9, 4, 0.5), (40, 5, 0.3), (30, 1, 0.1), (25, 6, 0.7)])
def test_matching_rule(student, device, n, m, thr):
    """assign should follow the rule: objects first, then anchors from the threshold on."""
    anchors, gt = random_boxes(n, 12.0, device=device), random_boxes(m, 12.0, device=device)
    with unchanged(anchors, gt):
        got = student.assign(anchors, gt, thr)
    assert_close(got, reference_assign(anchors, gt, thr).to(device), "the object of each anchor")


@pytest.mark.exercise("match", points=3)
def test_nobody_is_forgotten(student, device):
    """Every object should have an anchor, however small the IoU, and no two share their best."""
    anchors = random_boxes(12, 10.0, device=device)
    near = anchors[:5] + 0.3  # all close to few anchors
    crowd = torch.cat([near, anchors[:1] + 0.1, anchors[:1] + 0.2])
    got = student.assign(anchors, crowd, 0.99)
    assert_equal(sorted(got[got >= 0].tolist()), list(range(7)), "the objects that have an anchor")
    far = random_boxes(2, 10.0, device=device) + 500
    got = student.assign(anchors, far)
    assert_close(
        got.cpu(),
        torch.tensor([0, 1] + [-1] * 10),
        "the objects of anchors that touch nothing",
        symptoms={"Even an object that no anchor touches needs an anchor.": torch.full((12,), -1)},
    )


@pytest.mark.exercise("match", points=2)
def test_threshold(student):
    """An IoU equal to the threshold should be enough, and 0.5 is the default."""
    gt = torch.tensor([[0.0, 0, 4, 4]])
    anchors = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 1], [0, 0, 3, 4]])
    assert_close(student.assign(anchors, gt), torch.tensor([0, 0, -1, 0]), "thr = 0.5")
    assert_close(student.assign(anchors, gt, 0.75), torch.tensor([0, -1, -1, 0]), "thr = 0.75")
    assert_close(student.assign(anchors, gt, thr=0.25), torch.tensor([0, 0, 0, 0]), "thr = 0.25")


@pytest.mark.exercise("match", points=2)
def test_ties(student):
    """In a tie the lowest anchor and then the lowest object should win."""
    twin = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]])
    assert_close(student.assign(twin, twin[:2]), torch.tensor([0, 1, 0]), "equal boxes")
    assert_close(student.assign(twin[:2], twin), torch.tensor([0, 1]), "more objects than anchors")
    anchors = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4]])
    objects = torch.tensor([[50.0, 0, 54, 4], [10, 0, 14, 5], [0, 0, 4, 5]])
    assert_close(
        student.assign(anchors, objects), torch.tensor([2, 1]), "three objects, two anchors"
    )


@pytest.mark.exercise("match", points=3)
def test_nothing_to_match(student, device):
    """Without objects all anchors should be background; without anchors the answer is empty."""
    anchors = random_boxes(6, device=device)
    got = student.assign(anchors, anchors[:0])
    assert_close(got, torch.full((6,), -1, device=device), "the answer for no objects")
    empty = student.assign(anchors[:0], anchors)
    assert_close(
        empty, torch.zeros(0, dtype=torch.int64, device=device), "the answer for no anchors"
    )
    one = student.assign(anchors[:1], anchors[3:5])
    best = ops.box_iou(anchors[:1], anchors[3:5])[0].argmax().item()
    assert_close(one, torch.tensor([best], device=device), "one anchor and two objects")


# --- offset ----------------------------------------------------------------------------------


def centres(boxes):
    return ops.box_convert(boxes, "xyxy", "cxcywh")


@pytest.mark.exercise("offset", points=2)
@pytest.mark.parametrize("n, bits", [(6, 64), (1, 32), (0, 64)])
def test_encode(student, device, n, bits):
    """encode should give the four offsets of the formula and change no input."""
    dtype = torch.float64 if bits == 64 else torch.float32
    anchors, gt = (random_boxes(n, dtype=dtype, device=device) for _ in range(2))
    a, g = centres(anchors), centres(gt)
    expected = torch.cat([(g[:, :2] - a[:, :2]) / a[:, 2:], (g[:, 2:] / a[:, 2:]).log()], 1)
    with unchanged(anchors, gt):
        got = student.encode(anchors, gt)
    assert_close(
        got,
        expected,
        "the offsets",
        symptoms={
            "Leave out the factors 10 and 5 of d2l.": expected * torch.tensor([10, 10, 5, 5]).to(a)
        },
    )


@pytest.mark.exercise("offset", points=2)
def test_round_trip(student, device):
    """decode should undo encode, and follow its formula for any offsets."""
    anchors, gt = random_boxes(9, device=device), random_boxes(9, device=device)
    assert_close(
        student.decode(anchors, student.encode(anchors, gt)), gt, "the decoded box", atol=1e-5
    )
    t = randn(9, 4, device=device)
    a = centres(anchors)
    moved = torch.cat([a[:, :2] + t[:, :2] * a[:, 2:], t[:, 2:].exp() * a[:, 2:]], 1)
    with unchanged(anchors, t):
        got = student.decode(anchors, t)
    assert_close(got, ops.box_convert(moved, "cxcywh", "xyxy"), "the decoded box")


@pytest.mark.exercise("offset", points=1)
def test_no_scale(student):
    """The offsets should not change when the picture is scaled or moved."""
    anchors, gt = random_boxes(5), random_boxes(5)
    t = student.encode(anchors, gt)
    assert_close(student.encode(7 * anchors, 7 * gt), t, "the offsets of a larger picture")
    assert_close(student.encode(anchors - 30, gt - 30), t, "the offsets of a moved picture")


@pytest.mark.exercise("offset", points=2)
@pytest.mark.parametrize("shape", [(8,), (3, 7), (1, 1)])
def test_loss_value(student, device, shape):
    """box_loss should average the L1 distance over the matched anchors only."""
    t, p = randn(*shape, 4, device=device), randn(*shape, 4, device=device)
    mask = rand(*shape, device=device) < 0.6
    mask.view(-1)[0] = True
    with unchanged(t, p, mask):
        got = student.box_loss(t, p, mask)
    expected = (t - p).abs()[mask].sum() / mask.sum()
    assert_close(
        got,
        expected,
        "the loss",
        symptoms={
            "Divide by the number of matched anchors.": (t - p).abs()[mask].sum(),
            "Sum over the four numbers of an anchor.": expected / 4,
            "Divide by the matched anchors, not by all.": (t - p).abs()[mask].sum() / mask.numel(),
            "This is the squared error.": ((t - p) ** 2)[mask].sum() / mask.sum(),
        },
    )


@pytest.mark.exercise("offset", points=2)
def test_loss_ignores_background(student, device):
    """Background should give no gradient, matched anchors a bounded one; no match gives 0."""
    t, p = randn(6, 4, device=device), 100 * randn(6, 4, device=device)
    mask = torch.tensor([True, False, False, True, False, False], device=device)
    p.requires_grad_()
    (grad,) = torch.autograd.grad(student.box_loss(t, p, mask), p)
    expected = torch.where(mask[:, None], torch.sign(p.detach() - t) / 2, 0.0)
    assert_close(grad, expected, "the gradient for the predictions")
    loss = student.box_loss(t, p, torch.zeros_like(mask))
    assert_close(
        loss.detach(), torch.zeros((), dtype=t.dtype, device=device), "the loss of no match"
    )
    (grad,) = torch.autograd.grad(loss, p, allow_unused=True)
    if grad is not None:
        assert_close(grad, torch.zeros_like(p), "the gradient of no match")


@pytest.mark.exercise("offset", points=1)
def test_offset_gradients(student):
    """Gradients should flow through encode and decode."""
    anchors, gt = random_boxes(3), random_boxes(3).requires_grad_()
    assert_gradcheck(lambda g: student.encode(anchors, g), gt)
    assert_gradcheck(lambda t: student.decode(anchors, t), randn(3, 4, requires_grad=True))


# --- nms -------------------------------------------------------------------------------------


def reference_nms(boxes, scores, thr):
    """Keep a box unless a kept, better one overlaps it by more than thr."""
    iou = ops.box_iou(boxes, boxes)
    keep = []
    for i in sorted(range(len(boxes)), key=lambda k: (-scores[k].item(), k)):
        if all(iou[i, j].item() <= thr for j in keep):
            keep.append(i)
    return torch.tensor(keep, dtype=torch.int64)


@pytest.mark.exercise("nms", points=5)
def test_two_hundred_sets(student):
    """nms should agree with the plain rule on 200 random sets of boxes."""
    for trial in range(200):
        n = 1 + trial % 9
        boxes, scores = random_boxes(n, 6.0), rand(n)
        if trial % 3 == 0:
            scores = (4 * scores).round() / 4  # ties
        thr = 0.1 + 0.2 * (trial % 4)
        expected = reference_nms(boxes, scores, thr)
        assert_close(student.nms(boxes, scores, thr), expected, "the kept indices")


@pytest.mark.exercise("nms", points=2)
def test_at_the_threshold(student, device):
    """A box whose IoU equals the threshold should stay; equal scores go by index."""
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1], [0, 0, 3, 1], [9, 9, 10, 10]]).to(device)
    scores = torch.tensor([0.5, 0.5, 0.5, 0.5]).to(device)
    for thr, expected in (
        (0.5, [0, 1, 3]),
        (0.75, [0, 1, 2, 3]),
        (0.4, [0, 3]),
        (0.0, [0, 3]),
        (1.0, [0, 1, 2, 3]),
    ):
        with unchanged(boxes, scores):
            got = student.nms(boxes, scores, thr)
        assert_close(got, torch.tensor(expected).to(device), f"the kept indices for thr = {thr}")


@pytest.mark.exercise("nms", points=1)
def test_no_and_one_box(student, device):
    """No box should give an empty int64 tensor, one box the index 0."""
    none = student.nms(rand(0, 4, device=device), rand(0, device=device), 0.5)
    assert_close(none, torch.zeros(0, dtype=torch.int64).to(device), "the answer for no box")
    one = random_boxes(1, device=device)
    got = student.nms(one, rand(1, device=device), 0.5)
    assert_close(got, torch.zeros(1, dtype=torch.int64).to(device), "the answer for one box")


@pytest.mark.exercise("nms", points=4)
def test_classes(student, device):
    """batched_nms should clean up each class alone and sort all by score, for any labels."""
    for trial in range(30):
        n, count = 12, 1 + trial % 4
        boxes, scores = random_boxes(n, 5.0, device=device), rand(n, device=device)
        if trial % 2:
            scores = (3 * scores).round() / 3
            boxes = boxes - 40  # negative coordinates
        labels = 5 * randint(0, count, (n,), device=device)
        keep = []
        for c in set(labels.tolist()):
            here = (labels == c).nonzero()[:, 0]
            keep += here[reference_nms(boxes[here], scores[here], 0.3).to(device)].tolist()
        expected = torch.tensor(sorted(keep, key=lambda k: (-scores[k].item(), k)))
        with unchanged(boxes, scores, labels):
            got = student.batched_nms(boxes, scores, 0.3, labels)
        assert_close(got, expected.to(device), "the kept indices")


@pytest.mark.exercise("nms", points=1)
def test_no_box_of_any_class(student, device):
    """batched_nms should give an empty int64 tensor for no box."""
    labels = torch.zeros(0, dtype=torch.int64, device=device)
    got = student.batched_nms(rand(0, 4, device=device), rand(0, device=device), 0.5, labels)
    assert_close(got, labels, "the answer for no box")


@pytest.mark.exercise("nms", points=2)
def test_far_from_the_origin(student):
    """batched_nms should work for boxes with large and with negative coordinates."""
    boxes = torch.tensor([[-60.0, -60, -50, -50], [-59, -60, -49, -50], [0, 0, 1, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    got = student.batched_nms(boxes, scores, 0.3, torch.tensor([0, 0, 1]))
    assert_close(got, torch.tensor([0, 2]), "the kept indices")
    for shift in (-51.0, -20.0, 24.5, 61.0):
        twins = torch.cat([boxes[:1], boxes[:1] + shift])
        got = student.batched_nms(twins, scores[:2], 0.05, torch.tensor([0, 1]))
        assert_close(got, torch.tensor([0, 1]), "the kept indices of two classes")


# --- roi -------------------------------------------------------------------------------------


def reference_pool(feat, rois, out):
    """torchvision's RoI pooling counts the last cell, so take one cell off."""
    return ops.roi_pool(feat[None], [rois - torch.tensor([0, 0, 1, 1]).to(rois)], out)


def reference_align(feat, rois, out, samples):
    return ops.roi_align(feat[None], [rois], out, sampling_ratio=samples, aligned=True)


@pytest.mark.exercise("roi", points=4)
@pytest.mark.parametrize("out", [(1, 1), (2, 3), (3, 2), (5, 4)])
def test_pool_equals_torchvision(student, device, out):
    """roi_pool should round halves up, divide into bins, and take the maximum."""
    feat = randn(3, 9, 13, device=device)
    corner = 5 * rand(12, 2, device=device)
    rois = torch.cat([corner, corner + 1 + 3 * rand(12, 2, device=device)], 1)
    rois[:4] = (2 * rois[:4]).round() / 2  # halves
    with unchanged(feat, rois):
        got = student.roi_pool(feat, rois, out)
    assert_close(got, reference_pool(feat, rois, out), "the pooled regions")


@pytest.mark.exercise("roi", points=2)
def test_pool_at_the_border(student, device):
    """roi_pool should clip a region to the map and keep at least one cell."""
    feat = randn(2, 4, 6, device=device)
    rois = torch.tensor(
        [
            [-3.0, -2, 2, 2],
            [4.4, 1.6, 99, 99],
            [-9, -9, 99, 99],
            [2.1, 1.2, 2.3, 1.4],  # rounded to nothing
            [6.9, 8, 12, 14],  # outside
            [-8, -8, -2, -5],
        ],
        dtype=torch.float64,
    ).to(device)
    cells = [(0, 2, 0, 2), (2, 4, 4, 6), (0, 4, 0, 6), (1, 2, 2, 3), (3, 4, 5, 6), (0, 1, 0, 1)]
    expected = torch.stack(
        [F.adaptive_max_pool2d(feat[:, a:b, c:d], (1, 2)) for a, b, c, d in cells]
    )
    assert_close(student.roi_pool(feat, rois, (1, 2)), expected, "the pooled regions")


@pytest.mark.exercise("roi", points=4)
@pytest.mark.parametrize("out, samples", [((1, 1), 1), ((2, 3), 2), ((3, 1), 3), ((7, 7), 2)])
def test_align_equals_torchvision(student, device, out, samples):
    """roi_align should average q x q bilinear readings in each bin, without rounding."""
    feat = randn(3, 8, 11, device=device)
    corner = 5 * rand(6, 2, device=device)
    rois = torch.cat([corner, corner + 3 * rand(6, 2, device=device)], 1)
    rois[0] = torch.tensor([0, 0, 11, 8]).to(rois)  # the whole map
    expected = reference_align(feat, rois, out, samples)
    with unchanged(feat, rois):
        got = student.roi_align(feat, rois, out, samples)
    moved = reference_align(feat, (rois + 0.5).clamp(max=8), out, samples)
    assert_close(
        got,
        expected,
        "the aligned regions",
        symptoms={"The centre of cell 0 is at ½, not at 0.": moved},
    )


@pytest.mark.exercise("roi", points=1)
def test_align_of_a_linear_map(student, device):
    """On a linear map roi_align should give the value in the middle of each bin, exactly."""
    y, x = torch.meshgrid(torch.arange(12.0) + 0.5, torch.arange(16.0) + 0.5, indexing="ij")
    feat = (2 * x - 3 * y + 1)[None].double().to(device)
    corner = 1 + 4 * rand(20, 2, device=device)
    rois = torch.cat([corner, corner + 0.2 + 6 * rand(20, 2, device=device)], 1)
    x1, y1, x2, y2 = rois.T
    middle_x = x1[:, None] + (x2 - x1)[:, None] * torch.tensor([1, 3, 5]).to(rois) / 6
    middle_y = y1[:, None] + (y2 - y1)[:, None] * torch.tensor([1, 3]).to(rois) / 4
    expected = (2 * middle_x[:, None] - 3 * middle_y[:, :, None] + 1)[:, None]
    assert_close(student.roi_align(feat, rois, (2, 3), 3), expected, "the aligned regions")


@pytest.mark.exercise("roi", points=2)
def test_align_outside(student, device):
    """roi_align should clip a region to the map first."""
    feat = randn(2, 5, 7, device=device)
    rois = torch.tensor([[-4.0, 1, 3, 9], [5.5, -2.5, 30, 2], [-5, -5, 50, 50]]).to(feat)
    clipped = torch.stack(
        [
            rois[:, 0].clamp(0, 7),
            rois[:, 1].clamp(0, 5),
            rois[:, 2].clamp(0, 7),
            rois[:, 3].clamp(0, 5),
        ],
        1,
    )
    got = student.roi_align(feat, rois, (2, 2), 2)
    assert_close(got, reference_align(feat, clipped, (2, 2), 2), "the aligned regions")


@pytest.mark.exercise("roi", points=2)
def test_roi_gradients(student, device):
    """Gradients should flow to the map, and from roi_align to the regions; float32 works too."""
    feat = randn(2, 6, 7, device=device)
    corner = 2 * rand(3, 2, device=device)
    rois = torch.cat([corner, corner + 1.5 + 2 * rand(3, 2, device=device)], 1)
    assert_same_gradients(
        lambda f: student.roi_pool(f, rois, (2, 2)), lambda f: reference_pool(f, rois, (2, 2)), feat
    )
    assert_same_gradients(
        lambda f: student.roi_align(f, rois, (2, 2), 2),
        lambda f: reference_align(f, rois, (2, 2), 2),
        feat,
    )
    inner = corner[:2] + 0.6  # away from the centres of cells, where the slope changes
    regions = torch.cat([inner, inner + 1.23], 1).requires_grad_()
    assert_gradcheck(
        lambda r: student.roi_align(feat, r, (1, 2), 2),
        regions,
        what="the gradient for the regions",
    )
    small, none = feat.float(), rois.float()[:0]
    assert_close(student.roi_pool(small, none, (2, 2)), small.new_zeros(0, 2, 2, 2), "no region")
    aligned = student.roi_align(small, rois.float(), (2, 2), 2)
    assert_close(aligned, reference_align(small, rois.float(), (2, 2), 2), "the float32 answer")


# --- heads -----------------------------------------------------------------------------------


@probe
def head_facts(student, cin, a, classes):
    """Shapes of weights and outputs of both heads on an odd map, and the receptive field."""
    facts = []
    for head in (student.cls_predictor(cin, a, classes), student.bbox_predictor(cin, a)):
        x = torch.zeros(2, cin, 5, 7, requires_grad=True)
        y = head(x)
        seen = torch.autograd.grad(y[0, :, 2, 3].sum(), x)[0][0].abs().sum(0) > 0
        facts.append(
            (
                tuple(y.shape),
                tuple(head.weight.shape),
                None if head.bias is None else tuple(head.bias.shape),
                seen.nonzero().tolist(),
                isinstance(head, nn.Conv2d),
            )
        )
    return facts


@pytest.mark.exercise("heads", points=4)
@pytest.mark.parametrize("cin, a, classes", [(8, 4, 1), (3, 1, 20), (5, 6, 2)])
def test_heads(student, cin, a, classes):
    """The heads should be 3 x 3 convolutions with padding 1 and a (K + 1) or 4 a channels."""
    neighbours = [[i, j] for i in (1, 2, 3) for j in (2, 3, 4)]
    facts = student.run(head_facts, cin, a, classes)
    for got, channels, name in zip(
        facts, (a * (classes + 1), 4 * a), ("class", "box"), strict=True
    ):
        shape, weight, bias, seen, conv = got
        assert_equal(tuple(shape), (2, channels, 5, 7), f"the output shape of the {name} head")
        assert_equal(tuple(weight), (channels, cin, 3, 3), f"the weight of the {name} head")
        assert_equal(bias and tuple(bias), (channels,), f"the bias of the {name} head")
        assert_equal([list(s) for s in seen], neighbours, f"what a cell of the {name} head sees")
        assert_true(conv, "A head should be an nn.Conv2d.")


@pytest.mark.exercise("heads", points=2)
def test_five_scales(student, device):
    """concat_preds should join maps of different sizes and channels into one row a picture."""
    maps = [
        randn(3, 2 * k, s, s + 1, device=device)
        for k, s in ((2, 8), (3, 4), (1, 3), (4, 2), (2, 1))
    ]
    expected = torch.cat([m.permute(0, 2, 3, 1).reshape(3, -1) for m in maps], 1)
    with unchanged(*maps):
        got = student.concat_preds(maps)
    assert_close(
        got,
        expected,
        "the row",
        symptoms={
            "Put the channels last before you flatten.": torch.cat([m.flatten(1) for m in maps], 1)
        },
    )
    assert_close(student.concat_preds(maps[:1]), expected[:, : 4 * 72], "the row of one map")


@probe
def one_hot_slices(student, a, classes):
    """Where an anchor's numbers end up when only its channels of the head are not zero."""
    places = []
    for k in range(a):
        head = student.cls_predictor(2, a, classes)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            head.bias[k * (classes + 1) : (k + 1) * (classes + 1)] = 1
        row = student.concat_preds([head(torch.zeros(1, 2, 2, 3)), head(torch.zeros(1, 2, 1, 1))])
        places.append(row.view(-1, classes + 1).nonzero()[:, 0].unique().tolist())
    return places


@pytest.mark.exercise("heads", points=2)
@pytest.mark.parametrize("a, classes", [(4, 3), (1, 2), (3, 1)])
def test_an_anchor_owns_its_slice(student, a, classes):
    """After flattening, the scores of anchor k should be rows k, k + a, k + 2a, …"""
    places = student.run(one_hot_slices, a, classes)
    for k, got in enumerate(places):
        assert_equal(list(got), list(range(k, 7 * a, a)), f"the rows of anchor {k}")


@pytest.mark.exercise("heads", points=2)
def test_concat_gradient(student, device):
    """Gradients should flow back through concat_preds to each map."""
    maps = [randn(1, 4, 3, 2, device=device), randn(1, 2, 1, 5, device=device)]
    assert_same_gradients(
        lambda x, y: student.concat_preds([x, y]),
        lambda x, y: torch.cat([x.movedim(1, -1).flatten(1), y.movedim(1, -1).flatten(1)], 1),
        *maps,
    )


# --- train -----------------------------------------------------------------------------------


def simple_scenes(count):
    """Pictures of 32 x 32 with one bright square; its colour is its class."""
    images = 0.1 * rand(count, 3, 32, 32, dtype=torch.float32)
    boxes, labels = [], []
    for k in range(count):
        side = int(randint(9, 17, (1,)))
        x, y = randint(0, 32 - side, (2,)).tolist()
        label = int(randint(0, 3, (1,)))
        images[k, label, y : y + side, x : x + side] += 0.8
        boxes.append(torch.tensor([[x, y, x + side, y + side]]).float())
        labels.append(torch.tensor([label]))
    return images, boxes, labels


@probe
def train_and_detect(student, images, boxes, labels, steps, test_images):
    """The best detection of each test picture, whether detecting changed the model, and the number
    of batches of 16 that it saw in training mode."""
    sizes = []

    def note(module, inputs, output):
        if isinstance(module, student.TinySSD) and module.training:
            sizes.append(len(output[0]))

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        model = student.train_tiny_ssd(images, boxes, labels, steps)
    finally:
        hook.remove()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = []
    for image in test_images:
        box, label, score = student.detect(model, image)
        found.append((box[:1], label[:1], score[:1]))
    after = model.state_dict()
    changed = any(not torch.equal(before[k], after[k]) for k in before)
    return found, changed, sizes.count(16)


@pytest.mark.exercise("train", points=4)
def test_it_finds_squares(student):
    """After 130 steps, each with 16 small pictures, the best detections should have an IoU above 0.7."""
    images, boxes, labels = simple_scenes(96)
    test_images, truth, classes = simple_scenes(16)
    with unchanged(images, boxes, labels):
        found, changed, batches = student.run(
            train_and_detect, images, boxes, labels, 130, test_images
        )
    assert_true(not changed, "detect changes the model; is it in eval mode?")
    assert_true(
        130 <= batches <= 132,
        f"The model saw {batches} batches of 16 in training mode; 130 were asked for.",
    )
    got = [
        ops.box_iou(t, box)[0, 0].item() if len(box) else 0.0
        for (box, _, _), t in zip(found, truth, strict=True)
    ]
    mean = sum(got) / len(got)
    assert_true(mean > 0.7, f"The mean IoU of the best detections is {mean:.2f}, not above 0.7.")
    right = sum(
        len(label) == 1 and label.item() == c.item()
        for (_, label, _), c in zip(found, classes, strict=True)
    )
    assert_true(right >= 13, f"Only {right} of 16 classes are right.")


@probe
def detect_on_fixed(student, scores, offsets, anchors, image, kwargs):
    """detect on a model with given outputs; what the model was fed, and its mode."""

    class Fixed(nn.Module):
        def forward(self, x):
            self.x, self.mode, self.grad = x, self.training, torch.is_grad_enabled()
            return scores[None], offsets[None], anchors

    model = Fixed().train()
    answer = student.detect(model, image, **kwargs)
    needs_grad = any(t.requires_grad for t in answer)
    return tuple(answer), model.x, model.mode, needs_grad


def expected_detections(scores, offsets, anchors, min_score=0.05, thr=0.4):
    p = scores.softmax(1)[:, 1:]
    best, label = p.max(1)
    a = centres(anchors)
    moved = torch.cat([a[:, :2] + offsets[:, :2] * a[:, 2:], offsets[:, 2:].exp() * a[:, 2:]], 1)
    boxes = ops.box_convert(moved, "cxcywh", "xyxy")
    sure = best >= min_score
    boxes, label, best = boxes[sure], label[sure], best[sure]
    keep = ops.batched_nms(boxes, best, label, thr)
    return boxes[keep], label[keep], best[keep]


@pytest.mark.exercise("train", points=3)
@pytest.mark.parametrize(
    "n, classes, kwargs",
    [
        (40, 3, {}),
        (25, 3, {"min_score": 0.5}),
        (30, 1, {"thr": 0.1}),
        (30, 5, {"min_score": 0.3, "thr": 0.7}),
        (6, 3, {"min_score": 1.1}),
    ],
)
def test_detect(student, device, n, classes, kwargs):
    """detect should give decoded boxes, classes and scores above min_score, after NMS."""
    scores = 2 * randn(n, classes + 1, dtype=torch.float32, device=device)
    offsets = 0.4 * randn(n, 4, dtype=torch.float32, device=device)
    anchors = random_boxes(n, 14.0, dtype=torch.float32, device=device)
    image = rand(3, 16, 24, dtype=torch.float32, device=device)
    (boxes, labels, best), fed, mode, needs_grad = student.run(
        detect_on_fixed, scores, offsets, anchors, image, kwargs
    )
    assert_true(not mode, "The model was in training mode: call model.eval().")
    assert_true(not needs_grad, "Detections need no gradient.")
    assert_close(fed, image[None], "what the model is fed")
    expected = expected_detections(scores, offsets, anchors, **kwargs)
    assert_close(
        labels,
        expected[1],
        "the labels",
        symptoms={"Class 0 of the model is background; subtract 1.": expected[1] + 1},
    )
    assert_close(best, expected[2], "the scores")
    assert_close(boxes, expected[0], "the boxes")


@pytest.mark.exercise("train", points=1)
def test_score_at_the_threshold(student, device):
    """Only detections with a lower score than min_score should be dropped."""
    anchors = torch.tensor([[0.0, 0, 4, 4], [8, 8, 12, 14]], device=device)
    scores, offsets = torch.zeros(2, 2, device=device), torch.zeros(2, 4, device=device)
    scores[1, 0] = 0.1
    image, kwargs = torch.zeros(3, 16, 16, device=device), {"min_score": 0.5}
    (boxes, _, best), *_ = student.run(detect_on_fixed, scores, offsets, anchors, image, kwargs)
    assert_close(best, torch.tensor([0.5], device=device), "the scores, one of them 0.5,")
    assert_close(boxes, anchors[:1], "the boxes")


@probe
def labels_seen_in_training(student):
    """Scores of a trained model at the best anchor of each object, and the untouched background."""
    torch.manual_seed(1)
    images = torch.zeros(4, 3, 16, 24)
    boxes, labels = [], []
    for k in range(4):  # a long object, below the threshold for every anchor, and a round one
        images[k, 0, 2:4, 2:22] = 1
        images[k, 1, 6:15, 8:17] = 1
        boxes.append(torch.tensor([[2.0, 2, 22, 4], [8, 6, 17, 15]]))
        labels.append(torch.tensor([2, 0]))
    model = student.train_tiny_ssd(images, boxes, labels, 40)
    found = student.detect(model, images[0], 0.3)
    return found[0], found[1]


@pytest.mark.exercise("train", points=2)
def test_hard_object(student):
    """An object that no anchor fits should be learned too, with its own class and box."""
    boxes, labels = student.run(labels_seen_in_training)
    truth = torch.tensor([[2.0, 2, 22, 4], [8, 6, 17, 15]])
    for row, label, name in ((0, 2, "thin"), (1, 0, "square")):
        mine = boxes[labels == label]
        best = ops.box_iou(truth[row : row + 1], mine).amax().item() if len(mine) else 0.0
        assert_true(best > 0.4, f"The {name} object is not found with its class.")


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug", points=0)
def test_flip(student, device):
    """flip should mirror picture and boxes and keep corners in order; twice changes nothing."""
    image, boxes = randn(3, 7, 12, device=device), random_boxes(4, 3.0, device=device)
    with unchanged(image, boxes):
        flipped, moved = student.flip(image, boxes)
    assert_close(flipped, image.flip(2), "the picture")
    expected = torch.stack([12 - boxes[:, 2], boxes[:, 1], 12 - boxes[:, 0], boxes[:, 3]], 1)
    assert_close(moved, expected, "the boxes")
    again, back = student.flip(flipped, moved)
    assert_close(again, image, "the picture, mirrored twice")
    assert_close(back, boxes, "the boxes, mirrored twice")
