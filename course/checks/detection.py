"""Public checks of the chapter on object detection."""

import math

import pytest
import torch
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_shape,
    assert_true,
    probe,
    raises,
    unchanged,
)

HINTS = {
    "boxes": [
        "Do not write nine conversions. Go from `src` to corners, then from corners to `dst`.",
        "In `box_iou`, `a[:, None, :2]` has shape (N, 1, 2) and `b[:, :2]` has (M, 2): "
        "`torch.maximum` of the two is (N, M, 2), the upper left corners of all intersections.",
        "A negative width means no overlap: clamp at 0 *before* you multiply width and height. "
        "Where the union is 0, the intersection is, too; divide by something tiny instead.",
    ],
    "anchors": [
        "First list the n + m - 1 pairs of size and ratio in the right order, on paper for "
        "n = 2 and m = 3.",
        "Width s√r and height s/√r are measured in heights of the picture. As a fraction of its "
        "*width*, the width must be multiplied by h / w.",
        "Centres of shape (h, w, 1, 2) and half sizes of shape (K, 2) broadcast to (h, w, K, 2). "
        "Join the two corners along the last axis and flatten the rest.",
    ],
    "match": [
        "Deal with the empty cases first. Then the matrix: `iou = pairwise_iou(anchors, gt)`, "
        "a row for each anchor.",
        "`iou.argmax()` counts through the flattened matrix, row by row: `divmod` by the number "
        "of columns gives anchor and object. Strike out with -1.",
        "You may fill in the threshold matches first and let the greedy ones overwrite them, but "
        "compute the largest IoU of each row before you strike anything out.",
    ],
    "offset": [
        "Get centre and size of both boxes from their corners. Then it is the formula of the text.",
        "x goes with the width of the *anchor*, y with its height; both at once are `[:, :2]`.",
        "In `box_loss`, sum over the last axis first, then pick with the mask. An empty selection "
        "has sum 0; divide by at least 1.",
    ],
    "nms": [
        "Sort once, `argsort(descending=True, stable=True)`, and work on the list of indices.",
        "Take the first index, keep it, and filter the rest of the list by the IoU with it. A box "
        "that was filtered out is never looked at again.",
        "For classes: find the indices of one class, run `nms` on these boxes, and translate its "
        "answer back: `here[nms(...)]`. Sort all the kept ones by score in the end.",
    ],
    "roi": [
        "`math.floor(v + 0.5)` rounds halves up (Python's `round` does not). Round, clip, and only "
        "then divide into bins.",
        "The end of a bin is rounded up: `-(-a // b)` is the ceiling of a / b.",
        "For `roi_align`, n * q evenly spaced points along y and m * q along x suffice. Weights of "
        "shape (points, cells) from the hat, one matrix for each axis, and one `einsum`.",
    ],
    "heads": [
        "Which padding keeps the size of a map under a 3 x 3 kernel? How many numbers does an "
        "anchor need?",
        "`permute` puts the channels last; then flatten everything but the batch, and concatenate.",
    ],
    "train": [
        "Compute labels and offsets of all anchors for all pictures before the loop; anchors do "
        "not change. `model(images[:1])[2]` gives them.",
        "Labels are the class plus 1, and 0 for background. `iou.argmax(0)` is the best anchor of "
        "each object; force its match.",
        "In `detect`: `model.eval()`, softmax, drop column 0, the best of the others, decode, and "
        "NMS class by class. Sort nothing by hand: `batched_nms` does it.",
    ],
    "debug": [
        "Print the broken boxes. Which of them have x1 < x2?",
        "Which border of the box is the left one after the mirror?",
    ],
}

# --- boxes -----------------------------------------------------------------------------------


@pytest.mark.exercise("boxes")
def test_formats(student):
    """`convert` knows corners, centre and size, and corner and size."""
    corners = torch.tensor([[2.0, 1.0, 6.0, 9.0]])
    centre = torch.tensor([[4.0, 5.0, 4.0, 8.0]])
    corner = torch.tensor([[2.0, 1.0, 4.0, 8.0]])
    assert_close(
        student.convert(corners, "xyxy", "cxcywh"),
        centre,
        "corners as centre and size",
        symptoms={"This is corner and size: x and y should be those of the centre.": corner},
    )
    assert_close(student.convert(corners, "xyxy", "xywh"), corner, "corners as corner and size")
    assert_close(
        student.convert(centre, "cxcywh", "xyxy"),
        corners,
        "centre and size as corners",
        symptoms={
            "Go *half* the width and height to each side.": torch.tensor([[0.0, -3.0, 8.0, 13.0]])
        },
    )
    assert_close(
        student.convert(corner, "xywh", "cxcywh"), centre, "corner and size as centre and size"
    )
    with raises(ValueError):
        student.convert(corners, "xyxy", "yxyx")


@pytest.mark.exercise("boxes")
def test_small_overlaps(student):
    """`box_iou` is the shared area by the covered area, for all pairs."""
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 2.0, 1.0]])
    b = torch.tensor([[2.0, 1.0, 6.0, 5.0], [0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 7.0, 8.0]])
    assert_close(
        student.box_iou(a, b),
        torch.tensor([[6 / 26, 1.0, 0.0], [0.0, 2 / 16, 0.0]]),
        "the IoU matrix",
        symptoms={
            "Boxes that do not touch have a negative width *and* height, and the product is "
            "positive: clamp first.": torch.tensor([[6 / 26, 1.0, 1 / 21], [0.0, 2 / 16, 12 / -4]]),
            "The shared area is counted twice in the union.": torch.tensor(
                [[6 / 32, 0.5, 0.0], [0.0, 2 / 18, 0.0]]
            ),
        },
    )


@pytest.mark.exercise("boxes")
def test_strange_boxes(student):
    """A box without area has IoU 0, and one with x2 < x1 raises a ValueError."""
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    assert_close(student.box_iou(point, point), torch.zeros(1, 1), "the IoU of a box without area")
    with raises(ValueError):
        student.box_iou(torch.tensor([[3.0, 0.0, 1.0, 2.0]]), point)


# --- anchors ---------------------------------------------------------------------------------


@pytest.mark.exercise("anchors")
def test_one_cell(student):
    """The cell of a 1 x 1 map has its n + m - 1 anchors around the middle, sizes first."""
    got = student.multibox_prior(1, 1, [0.5, 0.2], [1, 4])
    expected = torch.tensor(
        [[0.25, 0.25, 0.75, 0.75], [0.4, 0.4, 0.6, 0.6], [0.0, 0.375, 1.0, 0.625]]
    )
    assert_close(
        got,
        expected,
        "the anchors",
        symptoms={
            "The ratio is width over height: ratio 4 is wide, not high.": torch.tensor(
                [[0.25, 0.25, 0.75, 0.75], [0.4, 0.4, 0.6, 0.6], [0.375, 0.0, 0.625, 1.0]]
            ),
            "The area should not change with the ratio: use the root of the ratio.": torch.tensor(
                [[0.25, 0.25, 0.75, 0.75], [0.4, 0.4, 0.6, 0.6], [-0.5, 0.4375, 1.5, 0.5625]]
            ),
        },
    )


@pytest.mark.exercise("anchors")
def test_grid(student):
    """The centres are the middles of the cells, row by row, and a wide map has narrow fractions."""
    got = student.multibox_prior(1, 2, [1.0], [1])
    assert_close(
        got,
        torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]),
        "the anchors of a 1 x 2 map",
        symptoms={
            "A square on the screen is half as wide in fractions if the picture is twice as wide: "
            "multiply the width by h / w.": torch.tensor(
                [[-0.25, 0.0, 0.75, 1.0], [0.25, 0.0, 1.25, 1.0]]
            ),
            "The centre is in the middle of the cell, not at its corner.": torch.tensor(
                [[-0.25, -0.5, 0.25, 0.5], [0.25, -0.5, 0.75, 0.5]]
            ),
        },
    )
    assert_shape(student.multibox_prior(3, 5, [0.5, 0.3], [1, 2, 0.5]), (60, 4))


# --- match -----------------------------------------------------------------------------------

ANCHORS = torch.tensor(
    [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [50, 50, 60, 60], [80, 80, 90, 90]]
)


@pytest.mark.exercise("match")
def test_threshold_and_best(student):
    """Every object gets its best anchor; others only from the threshold on; the rest is -1."""
    gt = torch.tensor([[0.0, 0, 10, 10], [24, 0, 40, 10]])
    assert_close(
        student.assign(ANCHORS, gt),
        torch.tensor([0, 0, 1, -1, -1]),
        "the object of each anchor",
        symptoms={
            "An object keeps its best anchor even if the IoU is below the threshold.": torch.tensor(
                [0, 0, -1, -1, -1]
            ),
            "An anchor that fits well takes its object, even if another fits better.": torch.tensor(
                [0, -1, 1, -1, -1]
            ),
            "Anchors below the threshold are background, -1.": torch.tensor([0, 0, 1, 0, 0]),
        },
    )


@pytest.mark.exercise("match")
def test_greedy(student):
    """An anchor that is the best of two objects goes to the one that fits better."""
    gt = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    assert_close(
        student.assign(ANCHORS[:2], gt),
        torch.tensor([0, 1]),
        "the object of each anchor",
        symptoms={"Strike out the row of an anchor that is taken.": torch.tensor([1, 0])},
    )
    empty = student.assign(ANCHORS, torch.zeros(0, 4))
    assert_close(empty, torch.full((5,), -1), "the answer for no objects")


# --- offset ----------------------------------------------------------------------------------


@pytest.mark.exercise("offset")
def test_worked_offsets(student):
    """`encode` gives the move in anchor sizes and the logarithm of the growth."""
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 0.0, 25.0, 40.0]])
    expected = torch.tensor([[1.0, 0.5, math.log(2), math.log(2)]])
    assert_close(
        student.encode(anchor, box),
        expected,
        "the offsets",
        symptoms={
            "Divide by the size of the anchor, not of the object.": torch.tensor(
                [[0.5, 0.25, math.log(2), math.log(2)]]
            ),
            "Anchor and object are swapped.": torch.tensor(
                [[-0.5, -0.25, -math.log(2), -math.log(2)]]
            ),
            "The sizes need a logarithm.": torch.tensor([[1.0, 0.5, 2.0, 2.0]]),
            "The differences are in pixels; divide by the size of the anchor.": torch.tensor(
                [[10.0, 10.0, math.log(2), math.log(2)]]
            ),
        },
    )
    assert_close(student.decode(anchor, expected), box, "the decoded box", atol=1e-4)


@pytest.mark.exercise("offset")
def test_masked_loss(student):
    """`box_loss` sums |t - p| for the matched anchors, and averages over these."""
    t = torch.zeros(3, 4)
    p = torch.tensor([[1.0, -1.0, 0.0, 2.0], [9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 3.0, 1.0]])
    mask = torch.tensor([True, False, True])
    assert_close(
        student.box_loss(t, p, mask),
        torch.tensor(4.0),
        "the loss",
        symptoms={
            "Background anchors count, too; the mask should leave them out.": torch.tensor(44 / 3),
            "Divide by the matched anchors only.": torch.tensor(8 / 3),
            "Sum over the four numbers of an anchor.": torch.tensor(1.0),
            "This is the squared error.": torch.tensor(8.0),
        },
    )
    assert_close(student.box_loss(t, p, ~mask & False), torch.tensor(0.0), "the loss of no anchors")


# --- nms -------------------------------------------------------------------------------------

CHAIN = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [40, 40, 50, 50]])


@pytest.mark.exercise("nms")
def test_chain(student):
    """A removed box removes nobody, and the kept ones come with the best score first."""
    scores = torch.tensor([0.7, 0.6, 0.5, 0.9])
    assert_close(
        student.nms(CHAIN, scores, 0.5),
        torch.tensor([3, 0, 2]),
        "the kept indices",
        symptoms={
            "A box that is already removed must not remove others.": torch.tensor([3, 0]),
            "Sort by score, best first.": torch.tensor([0, 2, 3]),
        },
    )
    half = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
    assert_close(
        student.nms(half, scores[:2], 0.5),
        torch.tensor([0, 1]),
        "the kept indices at an IoU equal to the threshold",
    )
    assert_shape(student.nms(torch.zeros(0, 4), torch.zeros(0), 0.5), (0,), "the answer for no box")


@pytest.mark.exercise("nms")
def test_classes_apart(student):
    """`batched_nms` never removes a box because of another class."""
    scores = torch.tensor([0.7, 0.9, 0.8, 0.5])
    labels = torch.tensor([0, 1, 0, 0])
    assert_close(
        student.batched_nms(CHAIN, scores, 0.2, labels),
        torch.tensor([1, 2, 3]),
        "the kept indices",
        symptoms={
            "The classes were thrown together.": torch.tensor([1, 3]),
            "The answer is not sorted by score over all classes.": torch.tensor([2, 3, 1]),
        },
    )


# --- roi -------------------------------------------------------------------------------------

MAP = torch.arange(20.0).view(1, 4, 5)


@pytest.mark.exercise("roi")
def test_rounded_bins(student):
    """`roi_pool` rounds the region, and bins overlap where the size does not divide."""
    got = student.roi_pool(MAP, torch.tensor([[0.6, 1.4, 4.2, 3.5]]), (1, 2))
    # Columns 1 to 3, rows 1 to 3: bins of columns 1, 2 and 2, 3.
    assert_close(
        got,
        torch.tensor([[[[17.0, 18.0]]]]),
        "the pooled region",
        symptoms={
            "The end of a bin is rounded up, so that bins may overlap.": torch.tensor(
                [[[[16.0, 18.0]]]]
            ),
            "x2 is the border of the region, not its last cell.": torch.tensor([[[[17.0, 19.0]]]]),
            "x and y are swapped: rows belong to y.": torch.tensor([[[[12.0, 13.0]]]]),
        },
    )
    outside = student.roi_pool(MAP, torch.tensor([[3.0, -4.0, 9.0, 2.0]]), (2, 1))
    assert_close(outside, torch.tensor([[[[4.0], [9.0]]]]), "a region that leaves the map")


@pytest.mark.exercise("roi")
def test_no_rounding(student):
    """`roi_align` reads a linear map exactly: the value in the middle of each bin."""
    ramp = (torch.arange(8.0) + 0.5).expand(1, 6, 8)
    rois = torch.tensor([[1.3, 1.0, 5.3, 4.0]])
    exact = torch.tensor([[[[2.3, 4.3], [2.3, 4.3]]]])
    assert_close(
        student.roi_align(ramp, rois, (2, 2), 2),
        exact,
        "the region of a map that is its own column",
        symptoms={
            "The centre of cell 0 is at ½, so half a cell must go before you interpolate.": exact
            + 0.5,
            "The region is rounded; read between the cells.": torch.tensor(
                [[[[2.0, 4.0], [2.0, 4.0]]]]
            ),
        },
    )
    one = student.roi_align(MAP, torch.tensor([[0.0, 0.0, 1.0, 2.0]]), (1, 1), 1)
    assert_close(one, torch.tensor([[[[2.5]]]]), "one point between two rows")


# --- heads -----------------------------------------------------------------------------------


@pytest.mark.exercise("heads")
def test_channels(student):
    """The heads keep the size of the map and have a channel for each number to predict."""
    x = torch.zeros(2, 5, 4, 7)
    assert_shape(student.cls_predictor(5, 3, 10)(x), (2, 33, 4, 7), "the class head's output")
    assert_shape(student.bbox_predictor(5, 3)(x), (2, 12, 4, 7), "the box head's output")


@pytest.mark.exercise("heads")
def test_flattening(student):
    """`concat_preds` keeps the numbers of a cell side by side, map after map."""
    first = torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]])  # 2 channels, 1 x 2 cells
    second = torch.tensor([[[[5.0]], [[6.0]], [[7.0]]]])
    assert_close(
        student.concat_preds([first, second]),
        torch.tensor([[1.0, 10.0, 2.0, 20.0, 5.0, 6.0, 7.0]]),
        "the row",
        symptoms={
            "Put the channels last before you flatten.": torch.tensor(
                [[1.0, 2.0, 10.0, 20.0, 5.0, 6.0, 7.0]]
            )
        },
    )


# --- train -----------------------------------------------------------------------------------


@probe
def detect_with_answers(student, scores, offsets, anchors, min_score, thr):
    """detect on a model whose outputs are given; and whether the model was in eval mode."""

    class Fixed(nn.Module):
        def forward(self, x):
            self.seen = (self.training, tuple(x.shape))
            return scores[None], offsets[None], anchors

    model = Fixed().train()
    boxes, labels, best = student.detect(model, torch.zeros(3, 8, 8), min_score, thr)
    return boxes, labels, best, model.seen


@pytest.mark.exercise("train")
def test_detect_reads_a_model(student):
    """`detect` drops background, decodes, and removes duplicates, in eval mode."""
    anchors = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [20, 20, 24, 24], [40, 40, 44, 44]])
    probabilities = torch.tensor(
        [[0.1, 0.8, 0.1, 0], [0.3, 0.6, 0.1, 0], [0.2, 0.1, 0.1, 0.6], [0.97, 0.01, 0.01, 0.01]]
    )
    offsets = torch.zeros(4, 4)
    offsets[2] = torch.tensor([0.5, 0.0, math.log(2), 0.0])
    boxes, labels, scores, seen = student.run(
        detect_with_answers, (probabilities + 1e-9).log(), offsets, anchors, 0.05, 0.4
    )
    assert_true(not seen[0], "The model was in training mode: call `model.eval()` first.")
    assert_equal(tuple(seen[1]), (1, 3, 8, 8), "the shape of the batch that the model sees")
    assert_close(
        labels,
        torch.tensor([0, 2]),
        "the labels",
        symptoms={
            "Class 0 of the model is background: subtract 1.": torch.tensor([1, 3]),
            "The duplicate of the first box should go.": torch.tensor([0, 0, 2]),
        },
    )
    assert_close(scores, torch.tensor([0.8, 0.6]), "the scores", atol=1e-4)
    expected = torch.tensor([[0.0, 0.0, 4.0, 4.0], [20.0, 20.0, 28.0, 24.0]])
    assert_close(boxes, expected, "the boxes", atol=1e-3)


@probe
def short_training(student):
    """Shapes of the outputs after two steps, and whether they are finite."""
    images = torch.linspace(0, 1, 3 * 3 * 16 * 16).view(3, 3, 16, 16)
    boxes = [torch.tensor([[2.0, 3.0, 12.0, 13.0]])] * 3
    labels = [torch.tensor([0]), torch.tensor([1]), torch.tensor([2])]
    model = student.train_tiny_ssd(images, boxes, labels, 2)
    scores, offsets, _ = model(images)
    finite = bool(torch.isfinite(scores).all() and torch.isfinite(offsets).all())
    return tuple(scores.shape), tuple(offsets.shape), finite


@pytest.mark.exercise("train")
def test_two_steps(student):
    """`train_tiny_ssd` returns a TinySSD whose outputs are finite."""
    scores, offsets, finite = student.run(short_training)
    assert_equal(scores, (3, 40, 4), "the shape of the model's scores")
    assert_equal(offsets, (3, 40, 4), "the shape of the model's offsets")
    assert_true(finite, "The outputs hold inf or nan. Is there a log or a division by 0?")


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_mirror(student):
    """`flip` mirrors picture and boxes, and left stays left of right."""
    image = torch.arange(24.0).view(1, 3, 8)
    boxes = torch.tensor([[1.0, 0.0, 4.0, 2.0]])
    with unchanged(image, boxes):
        flipped, got = student.flip(image, boxes)
    assert_close(flipped, image.flip(-1), "the picture")
    assert_close(
        got,
        torch.tensor([[4.0, 0.0, 7.0, 2.0]]),
        "the boxes",
        symptoms={"The new left border is the old *right* one.": torch.tensor([[7.0, 0, 4, 2]])},
    )
