"""Public checks of the chapter on image transforms and augmentation."""

import math

import pytest
import torch
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises, unchanged

HINTS = {
    "normalize": [
        "The C numbers must meet the channel axis: `mean[:, None, None]` has shape (C, 1, 1) and "
        "broadcasts against (C, H, W) and (N, C, H, W) alike.",
        "`torch.as_tensor(mean).to(x)` makes a tensor of x's dtype and device, whatever came in.",
        "`channel_stats`: keep three sums for each channel: how many values, their sum, the sum "
        "of their squares. Convert each batch to float64 first, and divide only at the very end.",
    ],
    "color": [
        "Write one small function `blend(x, dull, factor)` that clips, and use it three times.",
        "The dull version belongs to the picture as it is at that moment: the contrast's grey is "
        "that of the picture whose brightness has already been changed.",
        "`clipped_hist`: what was cut off is `(hist - hist.clamp(max=limit)).sum(-1)`, one number "
        "for each histogram. `keepdim=True` lets it broadcast back.",
    ],
    "noise": [
        "Draw one uniform number for each *pixel*, shape (H, W), not for each value.",
        "With share = (1 - snr) / 2: which part of [0, 1) becomes pepper, which salt?",
        "Draw another number to decide with probability p. Without noise return `img` itself; "
        "with noise work on `img.clone()`.",
    ],
    "pad": [
        "Which index of the old row belongs at each place of the new one? Begin with "
        "`torch.arange(-left, n + right)`, and mend those below 0 and those from n on.",
        "Edge is a `clamp`. A mirror on pixel 0 sends i to -i, a mirror behind it sends i to "
        "-1 - i; the table has the right side.",
        "For constant, index with clamped indices first, then overwrite the places whose index is "
        "outside. And `x[..., index]` pads the last axis of any shape.",
    ],
    "affine": [
        "Convert all three angles with `math.radians`. The formula for b stands above the "
        "exercise: c + t - A c.",
        "`warp`: make the list of all *output* points (x, y), shape (2, H * W), and send it "
        "through `torch.linalg.inv(A) @ (points - b)`.",
        "For each of the four neighbours of (x, y): its weight, whether it is inside, and its "
        "place in the flattened picture, row * W + column. Add weight * inside * value.",
    ],
    "erase": [
        "`cutout`: draw a centre, compute the first row and column, and cut off below 0 only: a "
        "slice stops at the far border by itself.",
        "`erase_box`: `math.exp` of a number that is uniform between the *logarithms* of the "
        "two ratios is log-uniform.",
        "h w = area and h / w = r give h = sqrt(area r), w = sqrt(area / r). A rectangle of height "
        "`height` has h - height + 1 places.",
    ],
    "mix": [
        "`F.one_hot(y, num_classes)` gives integers; bring them to x's dtype before weighting.",
        "One `torch.randperm(len(x), generator=generator)` gives the partners; use the same "
        "for the pictures and the labels.",
        "`cutmix`: first cut the rectangle to the picture, then count its pixels. The share of "
        "the partner is that count over H * W; the drawn lambda plays no part any more.",
    ],
    "pipeline": [
        "`Compose` is a loop that feeds each output to the next. `RandomApply` draws once, before "
        "the loop.",
        "`ten_crop`: five pairs (first row, first column), used for the picture and for "
        "`img.flip(2)`, then `torch.stack`.",
        "`tta_predict`: remember `model.training`, call `model.eval()`, average the *softmax* of "
        "each view under `torch.no_grad()`, and put the mode back with `model.train(...)`.",
    ],
    "debug": [
        "Draw a box near the right border on paper and hold the paper to a mirror. Which of its "
        "edges is the left one now?",
        "Mirrored, the place x goes to W - x. The new x1 must be the smaller of the two.",
    ],
}


# --- normalize -------------------------------------------------------------------------------

SMALL = torch.tensor([[[1.0, 3.0]], [[10.0, 20.0]]])  # two channels of 1 x 2 pixels


@pytest.mark.exercise("normalize")
def test_each_channel_by_its_own_numbers(student):
    """`normalize` subtracts the channel's mean and divides by its standard deviation."""
    expected = torch.tensor([[[-0.5, 0.5]], [[-1.0, 1.0]]])
    assert_close(
        student.normalize(SMALL, [2.0, 15.0], [2.0, 5.0]),
        expected,
        symptoms={
            "It divides first and subtracts then.": torch.tensor([[[-1.5, -0.5]], [[-13, -11.0]]]),
            "It multiplies by the standard deviation.": torch.tensor([[[-2.0, 2.0]], [[-25, 25]]]),
            "It divides by the variance.": torch.tensor([[[-0.25, 0.25]], [[-0.2, 0.2]]]),
        },
    )
    batch = torch.stack([SMALL, SMALL + 1])
    back = student.denormalize(student.normalize(batch, [2.0, 15.0], [2.0, 5.0]), [2, 15], [2, 5])
    assert_close(back, batch, "there and back")


@pytest.mark.exercise("normalize")
def test_zero_deviation(student):
    """A standard deviation of zero raises a ValueError."""
    with raises(ValueError):
        student.normalize(SMALL, [0.0, 0.0], [1.0, 0.0])


@pytest.mark.exercise("normalize")
def test_statistics_of_uneven_batches(student):
    """`channel_stats` gives the mean and standard deviation of all pixels, not of the batches."""
    batches = [
        torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1),
        torch.tensor([10.0]).view(1, 1, 1, 1),
    ]
    mean, std = student.channel_stats(batches)
    assert_close(
        mean,
        torch.tensor([4.0]).double(),
        "the mean",
        symptoms={
            "The mean of the batches' means: they count alike.": torch.tensor([6.0]).double()
        },
    )
    assert_close(
        std,
        torch.tensor([math.sqrt(12.5)]).double(),
        "the standard deviation",
        symptoms={
            "This is the variance; take its root.": torch.tensor([12.5]).double(),
            "It divides by n - 1; here all pixels are there, so divide by n.": torch.tensor(
                [math.sqrt(50 / 3)]
            ).double(),
        },
    )


# --- color -----------------------------------------------------------------------------------

TWO = torch.tensor([[[0.8, 0.2]], [[0.4, 0.2]], [[0.1, 0.2]]])  # an orange and a grey pixel
ORANGE = 0.2989 * 0.8 + 0.587 * 0.4 + 0.114 * 0.1
GREY = 0.2 * (0.2989 + 0.587 + 0.114)


@pytest.mark.exercise("color")
def test_single_blends(student):
    """With one factor unlike 1, `adjust` blends with black, mean grey or the grey picture."""
    with unchanged(TWO):
        same = student.adjust(TWO, 1, 1, 1)
        dark, flat, dull = (student.adjust(TWO, *f) for f in ((0.5, 1, 1), (1, 0, 1), (1, 1, 0)))
    assert_close(same, TWO, "the picture for factors 1, 1, 1")
    assert_close(dark, 0.5 * TWO, "the picture for brightness 0.5")
    mean = (ORANGE + GREY) / 2
    assert_close(
        flat,
        torch.full((3, 1, 2), mean),
        "the picture for contrast 0",
        symptoms={
            "The grey of the contrast is the mean of the *grey picture*, whose channels have "
            "different weights.": torch.full((3, 1, 2), TWO.mean().item())
        },
    )
    assert_close(
        dull,
        torch.tensor([[[ORANGE, GREY]]]).expand(3, 1, 2),
        "the picture for saturation 0",
        symptoms={
            "Grey is a weighted sum of the channels, not their mean.": TWO.mean(0)
            .expand(3, 1, 2)
            .clone()
        },
    )


@pytest.mark.exercise("color")
def test_clipped(student):
    """Values stay in [0, 1]; a negative factor raises a ValueError."""
    bright = student.adjust(TWO, 2, 1, 1)
    assert_close(
        bright,
        (2 * TWO).clamp(0, 1),
        "the picture for brightness 2",
        symptoms={"Values above 1 are to be clipped.": 2 * TWO},
    )
    with raises(ValueError):
        student.adjust(TWO, 1, -0.1, 1)


@pytest.mark.exercise("color")
def test_gamma(student):
    """`gamma_correct` raises to the power g; g must be positive."""
    x = torch.tensor([0.0, 0.25, 1.0])
    assert_close(
        student.gamma_correct(x, 0.5),
        torch.tensor([0.0, 0.5, 1.0]),
        symptoms={"This is the power 1 / g.": x**2},
    )
    with raises(ValueError):
        student.gamma_correct(x, 0)


@pytest.mark.exercise("color")
def test_worked_histogram(student):
    """`clipped_hist` gives the worked example; each row of several keeps its own total."""
    hist = torch.tensor([6.0, 1.0, 0.0, 1.0])
    got = student.clipped_hist(hist, 3)
    assert_close(
        got,
        torch.tensor([3.75, 1.75, 0.75, 1.75]),
        symptoms={
            "The excess is lost; share it among all levels.": hist.clamp(max=3),
            "Every level gets the excess whole.": torch.tensor([6.0, 4.0, 3.0, 4.0]),
            "All levels share the excess, those that were cut as well.": torch.tensor(
                [3.0, 2.0, 1.0, 2.0]
            ),
        },
    )
    two = torch.stack([hist, torch.full((4,), 2.0)])
    assert_close(student.clipped_hist(two, 3)[1], two[1], "a histogram below the limit")


# --- noise -----------------------------------------------------------------------------------


@pytest.mark.exercise("noise")
def test_three_kinds_of_pixels(student):
    """About snr of the pixels stay; of the others half are white, half black; colours go together."""
    noise = student.SaltPepper(0.6, 1.0, torch.Generator().manual_seed(0))
    img = torch.full((3, 60, 50), 0.4)
    with unchanged(img):
        out = noise(img)
    assert_equal(tuple(out.shape), (3, 60, 50), "the shape")
    assert_true(
        torch.equal(out[0], out[1]) and torch.equal(out[0], out[2]),
        "All channels of a pixel share its fate: draw for pixels, not for values.",
    )
    kept, salt, pepper = ((out[0] == v).double().mean() for v in (img[0, 0, 0], 1.0, 0.0))
    assert_close(kept, torch.tensor(0.6).double(), "the share that stays", atol=0.06)
    assert_close(salt, torch.tensor(0.2).double(), "the share of salt", atol=0.05)
    assert_close(pepper, torch.tensor(0.2).double(), "the share of pepper", atol=0.05)


@probe
def is_same_object(student):
    """Whether the picture comes back as it is for p = 0, and as a new one for p = 1."""
    img = torch.full((1, 8, 8), 0.5)
    never = student.SaltPepper(0.5, 0.0, torch.Generator().manual_seed(0))
    always = student.SaltPepper(0.5, 1.0, torch.Generator().manual_seed(0))
    return [never(img) is img, always(img) is img]


@pytest.mark.exercise("noise")
def test_probability(student):
    """With p = 0 the very same picture comes back, with p = 1 a new one."""
    assert_equal(student.run(is_same_object), [True, False], "the same object for p = 0, p = 1")


# --- pad -------------------------------------------------------------------------------------

ROW = torch.tensor([1, 2, 3, 4])


@pytest.mark.exercise("pad")
def test_four_modes(student):
    """`pad1d` gives the four rows of the figure."""
    expected = {
        "constant": [0, 0, 1, 2, 3, 4, 0, 0],
        "edge": [1, 1, 1, 2, 3, 4, 4, 4],
        "reflect": [3, 2, 1, 2, 3, 4, 3, 2],
        "symmetric": [2, 1, 1, 2, 3, 4, 4, 3],
    }
    sentence = {
        "reflect": "The last pixel is repeated: that is symmetric.",
        "symmetric": "The last pixel is not repeated: that is reflect.",
    }
    other = {"reflect": "symmetric", "symmetric": "reflect"}
    for mode, row in expected.items():
        wrong = torch.tensor(expected[other.get(mode, mode)])
        assert_close(
            student.pad1d(ROW, 2, 2, mode),
            torch.tensor(row),
            f"{mode}",
            symptoms={sentence[mode]: wrong} if mode in sentence else None,
        )


@pytest.mark.exercise("pad")
def test_sides_fill_and_rows(student):
    """Left and right may differ, `fill` is used, and the last axis of a matrix is padded."""
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with unchanged(table):
        got = student.pad1d(table, 1, 0, "constant", 9)
    assert_close(got, torch.tensor([[9.0, 1, 2], [9, 3, 4]]), "constant with fill 9, on the left")


@pytest.mark.exercise("pad")
def test_what_a_mirror_can_show(student):
    """`reflect` by n and `symmetric` by n + 1 raise a ValueError, as does an unknown mode."""
    assert_close(student.pad1d(ROW, 3, 0, "reflect"), torch.tensor([4, 3, 2, 1, 2, 3, 4]))
    for left, mode in ((4, "reflect"), (5, "symmetric"), (1, "wrap")):
        with raises(ValueError):
            student.pad1d(ROW, left, 0, mode)


# --- affine ----------------------------------------------------------------------------------


@pytest.mark.exercise("affine")
def test_known_matrices(student):
    """`affine_matrix` for a quarter turn, a translation, a scaling around a centre, and a shear."""
    cases = {
        "a turn by 90 degrees": ((90, (0, 0), 1, (0, 0), (0, 0)), [[0.0, -1, 0], [1, 0, 0]]),
        "a translation": ((0, (3, -2), 1, (0, 0), (5, 5)), [[1.0, 0, 3], [0, 1, -2]]),
        "scale 0.5 around (4, 2)": ((0, (0, 0), 0.5, (0, 0), (4, 2)), [[0.5, 0, 2], [0, 0.5, 1]]),
        "shear x by 45 degrees": ((0, (0, 0), 1, (45, 0), (0, 0)), [[1.0, -1, 0], [0, 1, 0]]),
    }
    wrong = {
        "It turns the other way: with y downwards, clockwise is [cos, -sin; sin, cos].": [
            [0.0, 1, 0],
            [-1, 0, 0],
        ],
        "The scale is a factor for lengths, not for areas.": [
            [math.sqrt(0.5), 0, 4 - 4 * math.sqrt(0.5)],
            [0, math.sqrt(0.5), 2 - 2 * math.sqrt(0.5)],
        ],
        "The centre does not stay in place: b = c + t - A c.": [[0.5, 0, 0], [0, 0.5, 0]],
    }
    symptoms = {text: torch.tensor(M).double() for text, M in wrong.items()}
    for name, (arguments, expected) in cases.items():
        got = student.affine_matrix(*arguments)
        assert_close(got, torch.tensor(expected).double(), f"M for {name}", symptoms=symptoms)


@pytest.mark.exercise("affine")
def test_scale_zero(student):
    """A scale of zero raises a ValueError."""
    with raises(ValueError):
        student.affine_matrix(0, (0, 0), 0, (0, 0), (0, 0))


@pytest.mark.exercise("affine")
def test_small_warps(student):
    """`warp` with the identity changes nothing; moved right by 1 (or by half a pixel), zeros enter."""
    img = torch.tensor([[[1.0, 2.0, 4.0], [8.0, 6.0, 0.0]]])
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).double()
    move, half = still.clone(), still.clone()
    move[0, 2], half[0, 2] = 1, 0.5
    assert_close(student.warp(img, still), img, "the picture after the identity")
    assert_close(
        student.warp(img, move),
        torch.tensor([[[0.0, 1, 2], [0, 8, 6]]]),
        "the picture moved right by 1",
        symptoms={
            "It moves the other way: each output pixel asks where it came from, so use the "
            "inverse.": torch.tensor([[[2.0, 4, 0], [6, 0, 0]]]),
            "It moves down: M is for (x, y), and x counts columns.": torch.tensor(
                [[[0.0, 0, 0], [1, 2, 4]]]
            ),
            "Outside of the picture there are zeros, not the last pixel.": torch.tensor(
                [[[1.0, 1, 2], [8, 8, 6]]]
            ),
        },
    )
    assert_close(
        student.warp(img, half),
        torch.tensor([[[0.5, 1.5, 3], [4, 7, 3]]]),
        "the picture moved right by 0.5",
    )


# --- erase -----------------------------------------------------------------------------------


@pytest.mark.exercise("erase")
def test_squares(student):
    """`cutout` makes a zero square of the full side inside, smaller at the border; odd sides too."""
    g = torch.Generator().manual_seed(0)
    img = torch.ones(2, 12, 15)
    areas = set()
    with unchanged(img):
        for _ in range(30):
            out = student.cutout(img, 5, g)
            areas.add(int((out[1] == 0).sum()))
    assert_close(
        max(areas),
        25,
        "the area of the largest of 30 holes with side 5",
        symptoms={
            "From y - length // 2 to y + length // 2 are only 4 rows for length 5.": 16,
            "From y - 5 // 2 to y + 5 // 2 with both ends would be 5; here are 6.": 36,
        },
    )
    assert_true(min(areas) < 25, "Near the border a hole should be cut off, and so be smaller.")


@pytest.mark.exercise("erase")
def test_boxes_fit(student):
    """`erase_box` has the wanted area and shape, and lies inside the picture."""
    g = torch.Generator().manual_seed(0)
    for _ in range(10):
        top, left, height, width = student.erase_box(40, 60, (0.1, 0.1), (4, 4), g)
        assert_equal([height, width], [31, 8], "height and width for area 240 and ratio 4")
        inside = 0 <= top <= 40 - 31 and 0 <= left <= 60 - 8
        assert_true(inside, f"The rectangle at ({top}, {left}) is not inside the picture.")


@pytest.mark.exercise("erase")
def test_nothing_fits(student):
    """Where no rectangle fits, `erase_box` returns None."""
    g = torch.Generator().manual_seed(0)
    assert_equal(student.erase_box(4, 100, (0.9, 0.9), (1, 1), g), None, "the answer")


# --- mix -------------------------------------------------------------------------------------


@pytest.mark.exercise("mix")
def test_labels_tell_the_mixture(student):
    """`mixup` mixes pictures and labels with the same weights, which add up to 1."""
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 3).clone()
    y = torch.arange(4)
    with unchanged(x, y):
        mixed, soft = student.mixup(x, y, 1.0, 5, torch.Generator().manual_seed(3))
    assert_equal([tuple(mixed.shape), tuple(soft.shape)], [(4, 1, 2, 3), (4, 5)], "the shapes")
    assert_close(soft.sum(1), torch.ones(4), "the sums of the labels")
    assert_close(mixed[:, 0, 0, 0], soft[:, :4] @ x[:, 0, 0, 0], "the pictures, by their labels")


@pytest.mark.exercise("mix")
def test_no_mixing(student):
    """With alpha = 0 both give back the pictures, and one-hot labels."""
    x, y = (
        torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([2, 0, 2]),
    )
    hot = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, 1]])
    for f in (student.mixup, student.cutmix):
        mixed, soft = f(x, y, 0, 3, torch.Generator().manual_seed(0))
        assert_close(mixed, x, "the pictures")
        assert_close(soft, hot, "the labels")


@pytest.mark.exercise("mix")
def test_labels_count_pixels(student):
    """In `cutmix` the labels' weights are the shares of the pixels, counted in the picture."""
    x = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 9, 7).clone()
    for seed in range(6):
        mixed, soft = student.cutmix(
            x, torch.arange(3), 1.0, 3, torch.Generator().manual_seed(seed)
        )
        counted = torch.stack([(mixed[:, 0] == k).float().mean((1, 2)) for k in range(3)], 1)
        assert_close(soft, counted, "the labels")


# --- pipeline --------------------------------------------------------------------------------


@probe
def add_one(x):
    return x + 1


@probe
def double(x):
    return 2 * x


@pytest.mark.exercise("pipeline")
def test_order(student):
    """`Compose` applies the first transform first."""
    chain = student.Compose([add_one, double])
    assert_close(
        chain(torch.tensor(3.0)),
        torch.tensor(8.0),
        symptoms={
            "The last transform is applied first.": torch.tensor(7.0),
            "Each transform gets the input, not the output of the one before.": torch.tensor(6.0),
        },
    )


@pytest.mark.exercise("pipeline")
def test_all_or_nothing(student):
    """`RandomApply` applies all of the list or nothing, about p of the time."""
    maybe = student.RandomApply([add_one, double], 0.5, torch.Generator().manual_seed(0))
    results = [float(maybe(torch.tensor(3.0))) for _ in range(60)]
    assert_equal(sorted(set(results)), [3.0, 8.0], "the different results of 60 calls on 3")
    assert_true(12 < results.count(8.0) < 48, "Of 60 calls with p = 0.5 about 30 should change 3.")


@pytest.mark.exercise("pipeline")
def test_corners(student):
    """`ten_crop` takes the corners and the centre, then those of the mirrored picture."""
    ramp = torch.arange(30.0).view(1, 5, 6)
    crops = student.ten_crop(ramp, (2, 3))
    assert_equal(tuple(crops.shape), (10, 1, 2, 3), "the shape")
    # A mirrored row begins with its right end: 5, 11, 17, ...
    expected = torch.tensor([0.0, 3, 18, 21, 14, 5, 2, 23, 20, 15])
    got = crops[:, 0, 0, 0]
    symptoms = {
        "The second five should be crops of the mirrored picture, in its order: its upper left "
        "corner is the old upper right one.": torch.tensor([0.0, 3, 18, 21, 14, 2, 5, 20, 23, 15]),
        "The crops are not mirrored.": torch.tensor([0.0, 3, 18, 21, 14, 0, 3, 18, 21, 14]),
    }
    assert_close(got, expected, "the first pixels", symptoms=symptoms)
    with raises(ValueError):
        student.ten_crop(ramp, (6, 3))


@probe
def as_it_is(x):
    return x


@probe
def mirrored(x):
    return x.flip(1)


@pytest.mark.exercise("pipeline")
def test_mean_of_probabilities(student):
    """`tta_predict` averages probabilities, and leaves the model in training mode as it was."""
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    x = torch.tensor([[math.log(3.0), 0.0]])
    got = student.tta_predict(model, x, [as_it_is, mirrored, as_it_is])
    expected = torch.tensor([[0.75 * 2 + 0.25, 0.25 * 2 + 0.75]]) / 3
    assert_close(
        got,
        expected,
        symptoms={
            "It averages the logits; average the probabilities.": ((2 * x + x.flip(1)) / 3).softmax(
                1
            ),
            "It adds the views up; divide by their number.": 3 * expected,
        },
    )
    assert_true(model.training, "The model was in training mode before; put it back.")


# --- debug -----------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_mirrored_boxes(student):
    """The box of the mirrored picture begins where the old one ended, counted from the right."""
    image = torch.zeros(1, 4, 10)
    image[:, 1:3, 6:9] = 1
    boxes = torch.tensor([[6.0, 1.0, 9.0, 3.0]])
    with unchanged(image, boxes):
        flipped, moved = student.flip_with_boxes(image, boxes)
    assert_close(flipped, image.flip(2), "the picture")
    assert_close(
        moved,
        torch.tensor([[1.0, 1.0, 4.0, 3.0]]),
        "the boxes",
        symptoms={
            "x1 is larger than x2: a mirror exchanges left and right.": torch.tensor(
                [[4.0, 1.0, 1.0, 3.0]]
            ),
            "The edges are places between pixels, not pixels: W - x, without - 1.": torch.tensor(
                [[0.0, 1.0, 3.0, 3.0]]
            ),
            "W is the picture's width, axis 2; axis 1 holds its rows.": torch.tensor(
                [[-5.0, 1.0, -2.0, 3.0]]
            ),
        },
    )
    empty = student.flip_with_boxes(image, torch.zeros(0, 4))[1]
    assert_equal(tuple(empty.shape), (0, 4), "the shape for no boxes")
