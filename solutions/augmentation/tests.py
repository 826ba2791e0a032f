"""Hidden tests of the chapter on image transforms and augmentation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_same_gradients,
    probe,
    raises,
    rand,
    randint,
    randn,
    unchanged,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def share(value):
    return torch.as_tensor(value, dtype=torch.float64)


# --- normalize -------------------------------------------------------------------------------


@pytest.mark.exercise("normalize", points=3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 5, 4), (1, 1, 3, 2), (3, 2, 3, 3), (2, 3, 3)])
def test_normalize_by_channel(student, device, shape, dtype):
    """normalize should give (x - mean) / std with each channel's own numbers, and keep the dtype."""
    x, channels = randn(*shape, dtype=dtype, device=device), shape[-3]
    mean, std = rand(channels) * 3 - 1, rand(channels) + 0.3
    column = (slice(None), None, None)
    expected = (x - mean.to(x)[column]) / std.to(x)[column]
    for given in ((mean.tolist(), std.tolist()), (mean, std), (tuple(mean.float()), std.numpy())):
        if isinstance(given[0], tuple):
            given = (tuple(v.item() for v in given[0]), given[1].tolist())
        with unchanged(x):
            got = student.normalize(x, *given)
        assert_close(
            got,
            expected,
            rtol=1e-5,
            atol=1e-6,
            symptoms={
                "The numbers have an axis for N, which a single picture has not. Shape (C, 1, 1) "
                "broadcasts against both.": expected[None],
            },
        )


@pytest.mark.exercise("normalize", points=1)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 3, 4)])
def test_there_and_back(student, device, shape):
    """denormalize should undo normalize, and be x * std + mean."""
    x, mean, std = randn(*shape, device=device), [0.4, -2.0, 7.0], [0.2, 3.0, 0.5]
    m, s = (torch.tensor(v).double().to(device)[:, None, None] for v in (mean, std))
    with unchanged(x):
        got = student.denormalize(x, mean, std)
    assert_close(got, x * s + m)
    assert_close(student.denormalize(student.normalize(x, mean, std), mean, std), x, atol=1e-6)
    for given in ((mean, std), (m.cpu().flatten(), s.cpu().flatten())):
        single = student.denormalize(x.float(), *given)
        assert_close(single, (x * s + m).float(), "the float32 output")
    ones = student.normalize(x, [0.5, 0.5, 0.5], torch.ones(3))
    assert_close(ones, x - 0.5, "the output for deviations of one")


@pytest.mark.exercise("normalize", points=1)
def test_gradients_of_both(student, device):
    """Gradients should flow through normalize (divided by std) and denormalize (times std)."""
    x, mean, std = randn(2, 2, 3, 4, device=device), [0.4, -2.0], [0.2, 3.0]
    s = torch.tensor(std).double().to(device)[:, None, None]
    assert_same_gradients(lambda x: student.normalize(x, mean, std), lambda x: x / s, x)
    assert_same_gradients(lambda x: student.denormalize(x, mean, std), lambda x: x * s, x)


@pytest.mark.exercise("normalize", points=1)
@pytest.mark.parametrize("std", [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
def test_zero_std_raises(student, std):
    """normalize should raise a ValueError where a standard deviation is zero."""
    with raises(ValueError):
        student.normalize(randn(3, 2, 2), [0.0, 0.0, 0.0], std)
    with raises(ValueError):
        student.normalize(randn(1, 3, 2, 2), torch.zeros(3), torch.tensor(std))


@pytest.mark.exercise("normalize", points=3)
@pytest.mark.parametrize("sizes", [(5, 3, 1), (4,), (1, 1, 6, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_stats_of_all_pixels(student, device, sizes, dtype):
    """channel_stats should give mean and standard deviation of all pixels, from uneven batches."""
    scale = torch.tensor([1.0, 5.0, 0.2]).double()[:, None, None]
    batches = [
        (randn(n, 3, 4, 5) * scale * (i + 1) + 2 * i).to(device, dtype) for i, n in enumerate(sizes)
    ]
    with unchanged(*batches):
        mean, std = student.channel_stats(batches)
    pixels = torch.cat(batches).double().movedim(1, 0).flatten(1)
    assert_close(
        mean,
        pixels.mean(1),
        "the mean",
        rtol=1e-6,
        symptoms={
            "The sum is divided by the number of pictures. Count pixels: each picture has "
            "H W of them in a channel.": 20 * pixels.mean(1),
            "The sums are kept in float32; convert each batch to float64 first.": pixels.mean(
                1
            ).float(),
        },
    )
    sample = pixels.std(1)
    assert_close(
        std,
        pixels.std(1, correction=0),
        "the standard deviation",
        rtol=1e-6,
        symptoms={
            "It divides by n - 1, not by the number of pixels n.": sample,
            "This is the variance; take its root.": pixels.var(1, correction=0),
        },
    )


@probe
def stats_in_one_pass(student, x):
    """The statistics of a stream that can be walked through once; of a constant; of large values."""
    mean, std = student.channel_stats(iter(x.split(2)))
    constant = []
    for value in (0.1, 0.2, 0.3, 0.7, 1 / 3, 0.9, 1.1, 2.3):
        flat = torch.full((3, 1, 3, 3), value, dtype=torch.float64)
        constant.append(student.channel_stats(list(flat.split(2)))[1])
    far = torch.tensor([-0.5, 0.5]).repeat(500).view(10, 1, 10, 10) + 4000
    large = student.channel_stats([far.float()])
    return mean, std, torch.cat(constant), large[1]


@pytest.mark.exercise("normalize", points=1)
def test_stream(student, device):
    """channel_stats should walk through the batches once, sum in float64, and raise without any."""
    x = randn(5, 2, 3, 4, device=device)
    mean, std, constant, large = student.run(stats_in_one_pass, x)
    pixels = x.movedim(1, 0).flatten(1)
    assert_close(mean, pixels.mean(1), "the mean of a stream")
    assert_close(std, pixels.std(1, correction=0), "the standard deviation of a stream")
    assert_close(constant, torch.zeros(8).double(), "std of equal values", atol=1e-6)
    assert_close(large, torch.full((1,), 0.5).double(), "std of values around 4000", atol=1e-4)
    with raises(ValueError):
        student.channel_stats([])


# --- color -----------------------------------------------------------------------------------

LUMA = (0.2989, 0.587, 0.114)


def grey(x):
    return sum(weight * channel for weight, channel in zip(LUMA, x, strict=True))


def adjusted(x, brightness, contrast, saturation):
    x = (brightness * x).clamp(0, 1)
    x = (contrast * x + (1 - contrast) * grey(x).mean()).clamp(0, 1)
    return (saturation * x + (1 - saturation) * grey(x)).clamp(0, 1)


FACTORS = [(0.6, 1, 1), (1, 0.4, 1), (1, 1, 0.3), (1.7, 1, 1), (1, 2.5, 1), (1, 1, 3)]


@pytest.mark.exercise("color", points=4)
@pytest.mark.parametrize("factors", [*FACTORS, (1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0)])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (4, 2)])
def test_one_factor(student, device, shape, factors):
    """With one factor unlike 1, adjust should blend with black, mean grey or grey, and clip."""
    img = rand(3, *shape, device=device)
    with unchanged(img):
        got = student.adjust(img, *factors)
    symptoms = {
        "The factor belongs to the picture, 1 - factor to the dull version.": adjusted(
            img, *(1 - f for f in factors)
        )
    }
    if factors[1] != 1:
        symptoms[
            "Contrast blends with a middle grey, 0.5. Its dull version is the mean of the grey picture."
        ] = (img * factors[1] + (1 - factors[1]) * 0.5).clamp(0, 1)
    assert_close(
        got,
        adjusted(img, *factors),
        rtol=1e-5,
        atol=1e-7,
        symptoms=symptoms,
    )


@pytest.mark.exercise("color", points=3)
@pytest.mark.parametrize("factors", [(1.6, 0.5, 2), (0.7, 2.2, 0.4), (1.9, 1.8, 1.7), (0.3, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_order_of_three(student, device, factors, dtype):
    """adjust should change brightness, contrast and saturation in this order, clipping each time."""
    img = rand(3, 6, 5, device=device, dtype=dtype)
    brightness, contrast, saturation = factors
    late = adjusted(adjusted(img, brightness, 1, saturation), 1, contrast, 1)
    assert_close(
        student.adjust(img, *factors),
        adjusted(img, *factors),
        rtol=1e-5,
        atol=1e-6,
        symptoms={
            "Contrast comes last. The order is brightness, contrast, saturation.": late,
        },
    )


@pytest.mark.exercise("color", points=1)
def test_gradient_of_adjust(student, device):
    """Gradients should flow through adjust, through the mean of the contrast as well."""
    img = 0.3 + 0.3 * rand(3, 3, 4, device=device)  # nothing is clipped
    assert_same_gradients(
        lambda x: student.adjust(x, 0.9, 1.3, 0.8), lambda x: adjusted(x, 0.9, 1.3, 0.8), img
    )


@pytest.mark.exercise("color", points=1)
@pytest.mark.parametrize("factors", [(-0.1, 1, 1), (1, -0.1, 1), (1, 1, -2)])
def test_negative_factor(student, factors):
    """adjust should raise a ValueError for a negative factor, whichever it is."""
    with raises(ValueError):
        student.adjust(rand(3, 2, 2), *factors)


@pytest.mark.exercise("color", points=2)
@pytest.mark.parametrize("g", [0.25, 0.7, 1, 2.2, 3])
def test_gamma_and_its_inverse(student, device, g):
    """gamma_correct should be x ** g, undone by 1 / g; g must be positive."""
    x = rand(2, 3, 4, device=device)
    with unchanged(x):
        got = student.gamma_correct(x, g)
    assert_close(got, x.pow(g))
    assert_close(student.gamma_correct(got, 1 / g), x, "there and back", atol=1e-6)
    ends = torch.tensor([0.0, 1.0], device=device)
    assert_close(student.gamma_correct(ends, g), ends, "black and white")
    assert_same_gradients(lambda x: student.gamma_correct(x, g), lambda x: x.pow(g), x + 0.05)
    for wrong in (0, -g):
        with raises(ValueError):
            student.gamma_correct(x, wrong)


def clipped(hist, limit):
    return hist.clamp(max=limit) + (hist - limit).clamp(min=0).mean(-1, keepdim=True)


@pytest.mark.exercise("color", points=3)
@pytest.mark.parametrize("shape", [(3, 16), (7,), (2, 3, 5), (1,)])
@pytest.mark.parametrize("limit", [8, 3, 0.5, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_histograms(student, device, shape, limit, dtype):
    """clipped_hist should cut at the limit and share the excess among all levels of the row."""
    hist = randint(0, 20, shape, device=device).to(dtype)
    with unchanged(hist):
        got = student.clipped_hist(hist, limit)
    cut, n = hist.clamp(max=limit), hist.shape[-1]
    assert_close(
        got,
        clipped(hist, limit),
        symptoms={
            "The excess of all rows is given to each row. Sum along the last axis only.": cut
            + (hist - cut).sum() / n,
            "The cut histogram is scaled up, so that frequent levels get most of the excess. All "
            "levels get the same share.": cut * (hist.sum(-1) / cut.sum(-1))[..., None],
        },
    )
    assert_close(got.sum(-1), hist.sum(-1), "the totals")
    assert_same_gradients(
        lambda x: student.clipped_hist(x, limit), lambda x: clipped(x, limit), hist + 0.25
    )


@pytest.mark.exercise("color", points=1)
@pytest.mark.parametrize("limit", [0, -1.5])
def test_limit_is_positive(student, limit):
    """clipped_hist should raise a ValueError for a limit that is not positive."""
    with raises(ValueError):
        student.clipped_hist(torch.ones(4), limit)


# --- noise -----------------------------------------------------------------------------------


@pytest.mark.exercise("noise", points=3)
@pytest.mark.parametrize("snr", [0.9, 0.5, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares(student, device, snr, dtype):
    """The share snr of the pixels should stay; of the others half should be salt, half pepper."""
    noise = student.SaltPepper(snr, 1.0, seeded(5))
    img = 0.2 + 0.5 * rand(2, 150, 120, dtype=dtype, device=device)
    with unchanged(img):
        out = noise(img)
    assert_equal([tuple(out.shape), out.dtype], [(2, 150, 120), dtype], "shape and dtype")
    kept = (out == img)[0].double().mean().cpu()
    salt, pepper = ((out == v)[0].double().mean().cpu() for v in (1, 0))
    margin = 6 * math.sqrt(0.25 / 18000)  # six standard deviations at the most
    assert_close(
        kept,
        share(snr),
        "the share of pixels that stay",
        atol=margin,
        symptoms={
            "snr is taken as the share of *noisy* pixels. It is the share that stays.": share(
                1 - snr
            ),
            "Salt gets a share of 1 - snr, and pepper too. Together they get 1 - snr.": share(
                max(2 * snr - 1, 0)
            ),
        },
    )
    assert_close(
        salt,
        share((1 - snr) / 2),
        "the share of salt",
        atol=margin,
        symptoms={
            "All noisy pixels become white. Half of them should be pepper.": share(1 - snr),
            "All noisy pixels become black. Half of them should be salt.": share(0),
        },
    )
    assert_close(pepper, share((1 - snr) / 2), "the share of pepper", atol=margin)


@pytest.mark.exercise("noise", points=2)
@pytest.mark.parametrize("shape", [(3, 40, 30), (1, 7, 5), (4, 1, 9)])
def test_pixels_go_together(student, device, shape):
    """All channels of a pixel should stay, or become 1, or become 0 together."""
    img = 0.2 + 0.5 * rand(*shape, device=device)
    out = student.SaltPepper(0.5, 1.0, seeded(2))(img)
    same, white, black = ((out == v).sum(0) for v in (img, 1, 0))
    whole = ((same == shape[0]) | (white == shape[0]) | (black == shape[0])).double().mean()
    assert_close(
        whole.cpu(),
        share(1.0),
        "the share of pixels whose channels share their fate",
        symptoms={
            "One number is drawn for each value, so a pixel's red can become 1 while its blue "
            "stays. Draw one number for each pixel, shape (H, W).": whole.cpu()
        },
    )


@pytest.mark.exercise("noise", points=1)
@pytest.mark.parametrize("shape", [(2, 30, 7)])
def test_extreme_shares(student, device, shape):
    """snr = 1 should change nothing, snr = 0 should leave no pixel as it was."""
    img = 0.2 + 0.5 * rand(*shape, device=device)
    assert_close(student.SaltPepper(1.0, 1.0, seeded(0))(img), img, "the picture for snr = 1")
    out = student.SaltPepper(0.0, 1.0, seeded(0))(img)
    assert_close((out == img).double().mean().cpu(), share(0), "the share that stays for snr = 0")
    whites = (out[0] == 1).double().mean().cpu()
    assert_close(whites, share(0.5), "the share of salt for snr = 0", atol=0.25)


@probe
def noise_facts(student, p, times):
    """How often a picture is noisy, whether the same object comes back else, and repeatability."""
    img = torch.full((1, 6, 6), 0.5)
    noise = student.SaltPepper(0.0, p, torch.Generator().manual_seed(1))
    outs = [noise(img) for _ in range(times)]
    noisy = sum(bool((out != img).any()) for out in outs)
    same = all((out is img) == bool((out == img).all()) for out in outs)
    before = torch.get_rng_state()
    a, b = (
        student.SaltPepper(0.5, 0.7, torch.Generator().manual_seed(s))(img.expand(1, 6, 6))
        for s in (3, 3)
    )
    alone = bool((torch.get_rng_state() == before).all())
    big = torch.full((1, 20, 20), 0.5)
    maker = student.SaltPepper(0.5, 1.0, torch.Generator().manual_seed(3))
    return noisy / times, same, torch.equal(a, b), alone, torch.equal(maker(big), maker(big))


@pytest.mark.exercise("noise", points=3)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.8, 1.0])
def test_how_often(student, p):
    """Noise should come with probability p, else the same object; the generator is the only source
    of randomness, and each call draws anew."""
    often, same, repeatable, alone, frozen = student.run(noise_facts, p, 600)
    margin = 6 * math.sqrt(p * (1 - p) / 600)
    assert_close(share(often), share(p), "how often there is noise", atol=margin + 1e-9)
    assert_equal(same, True, "the same object comes back exactly where there is no noise:")
    assert_equal(repeatable, True, "the same noise for the same seed:")
    assert_equal(alone, True, "the global generator is left alone:")
    assert_equal(frozen, False, "the same noise at two calls in a row:")


@pytest.mark.exercise("noise", points=1)
@pytest.mark.parametrize("snr, p", [(-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1)])
def test_shares_are_checked(student, snr, p):
    """SaltPepper should raise a ValueError where snr or p is not in [0, 1]."""
    with raises(ValueError):
        student.SaltPepper(snr, p, seeded(0))


# --- pad -------------------------------------------------------------------------------------

MODES = ("constant", "edge", "reflect", "symmetric")


def numpy_pad(x, left, right, mode, fill=0):
    width = [(0, 0)] * (x.ndim - 1) + [(left, right)]
    extra = {"constant_values": fill} if mode == "constant" else {}
    return torch.from_numpy(np.pad(x.cpu().numpy(), width, mode, **extra)).to(x.device)


@pytest.mark.exercise("pad", points=6)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("left, right", [(0, 0), (1, 0), (0, 1), (2, 3), (3, 1), (4, 4)])
@pytest.mark.parametrize("n", [5, 6, 9])
def test_equals_numpy(student, device, n, left, right, mode):
    """pad1d should equal np.pad in all four modes, with different widths on both sides."""
    x = randn(n, device=device)
    with unchanged(x):
        got = student.pad1d(x, left, right, mode)
    tail = numpy_pad(x, left, right, mode)
    if mode == "reflect" and right:
        tail[left + n :] = numpy_pad(x, left, right, "symmetric")[left + n :]
    assert_close(
        got,
        numpy_pad(x, left, right, mode),
        symptoms={
            "On the right side the last pixel is repeated. Reflect has its mirror *on* that "
            "pixel: index 2 (n - 1) - i.": tail
        },
    )


@pytest.mark.exercise("pad", points=2)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_as_wide_as_it_goes(student, device, n, mode):
    """The widest padding of each mode should work: reflect n - 1, symmetric n, the others more."""
    x = randn(2, n, device=device)
    widest = {"reflect": n - 1, "symmetric": n}.get(mode, 3 * n + 1)
    got = student.pad1d(x, widest, widest, mode)
    assert_close(got, numpy_pad(x, widest, widest, mode))


@pytest.mark.exercise("pad", points=2)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (1, 1, 2, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_last_axis_and_dtype(student, device, shape, mode, dtype):
    """pad1d should pad the last axis of any shape, keep the dtype, and use fill."""
    x = randint(0, 200, shape, device=device).to(dtype)
    with unchanged(x):
        got = (
            student.pad1d(x, 1, 2, mode, 7) if mode == "constant" else student.pad1d(x, 1, 2, mode)
        )
    assert_close(got, numpy_pad(x, 1, 2, mode, 7))


@pytest.mark.exercise("pad", points=1)
@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_padding(student, device, mode):
    """Each pixel should get the gradients of all its copies."""
    x = randn(2, 4, device=device)
    source = numpy_pad(torch.arange(4), 3, 2, mode, -1).to(device)
    copied = (source >= 0).double()
    assert_same_gradients(
        lambda x: student.pad1d(x, 3, 2, mode, 1.5), lambda x: x[:, source] * copied, x
    )
    with unchanged(x):
        copy = student.pad1d(x, 0, 0, mode)
        copy += 1


@pytest.mark.exercise("pad", points=4)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_too_wide(student, n, mode):
    """reflect by more than n - 1 and symmetric by more than n should raise, on either side; so
    should an unknown mode."""
    x = randn(n)
    first = n if mode == "reflect" else n + 1
    for left, right in ((first, 0), (0, first), (first + 3, first + 1)):
        with raises(ValueError):
            student.pad1d(x, left, right, mode)
    for wrong in ("wrap", "Reflect", "replicate"):
        with raises(ValueError):
            student.pad1d(x, 0, 0, wrong)


# --- affine ----------------------------------------------------------------------------------


def matrix_by_steps(angle, translate, scale, shear, center):
    """Built from five 3 x 3 matrices."""
    a, px, py = (math.radians(v) for v in (angle, *shear))
    rows = [
        [[1, 0, center[0] + translate[0]], [0, 1, center[1] + translate[1]], [0, 0, 1]],
        [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]],
        [[scale, 0, 0], [0, scale, 0], [0, 0, 1]],
        [[1, 0, 0], [-math.tan(py), 1, 0], [0, 0, 1]],
        [[1, -math.tan(px), 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, -center[0]], [0, 1, -center[1]], [0, 0, 1]],
    ]
    M = torch.eye(3, dtype=torch.float64)
    for row in rows:
        M = M @ torch.tensor(row, dtype=torch.float64)
    return M[:2]


def wrong_matrices(angle, translate, scale, shear, center):
    """What slips in the formula give, by the sentence that names the slip."""
    M = matrix_by_steps(angle, translate, scale, shear, center)
    A, c, t = M[:, :2], torch.tensor(center).double(), torch.tensor(translate).double()
    corner = matrix_by_steps(angle, translate, scale, shear, (0, 0))
    px, py = (math.tan(math.radians(v)) for v in shear)
    X, Y = (torch.tensor(m).double() for m in ([[1, -px], [0, 1]], [[1, 0], [-py, 1]]))
    turned = matrix_by_steps(angle, (0, 0), scale, (0, 0), (0, 0))[:, :2] @ X @ Y

    def with_b(A, b):
        return torch.cat([A, b[:, None]], 1)

    return {
        "It turns the other way. With y pointing down, (cos, -sin; sin, cos) turns clockwise on "
        "the screen.": matrix_by_steps(-angle, translate, scale, shear, center),
        "The scale is used as a factor for areas. It is one for lengths.": matrix_by_steps(
            angle, translate, math.sqrt(scale), shear, center
        ),
        "The shears have the wrong sign: -tan in both matrices.": matrix_by_steps(
            angle, translate, scale, tuple(-v for v in shear), center
        ),
        "The centre does not stay where it is: everything turns around the corner (0, 0).": corner,
        "The translation is multiplied by A. It comes last: b = c + t - A c.": with_b(
            A, c + A @ t - A @ c
        ),
        "The centre is subtracted, but not added again at the end: b = c + t - A c.": with_b(
            A, t - A @ c
        ),
        "The two shears are exchanged. A = s R S_y S_x: along x first, so S_x stands on the "
        "right.": with_b(turned, c + t - turned @ c),
    }


@pytest.mark.exercise("affine", points=3)
@pytest.mark.parametrize(
    "knobs",
    [
        (30, (0, 0), 1, (0, 0), (0, 0)),
        (-75, (0, 0), 1, (0, 0), (4.5, 2)),
        (0, (30.1, -20.7), 1, (0, 0), (6, 1)),
        (0, (0, 0), 0.4, (0, 0), (3, 7)),
        (0, (0, 0), 1, (20, 0), (3, 5)),
        (0, (0, 0), 1, (0, -35), (3, 5)),
    ],
)
def test_single_parts(student, knobs):
    """affine_matrix should be right for a turn, a translation, a scaling and each shear alone."""
    assert_close(
        student.affine_matrix(*knobs),
        matrix_by_steps(*knobs),
        "M",
        rtol=0,
        atol=1e-9,
        symptoms=wrong_matrices(*knobs),
    )


@pytest.mark.exercise("affine", points=3)
@pytest.mark.parametrize(
    "knobs",
    [
        (25, (2, -1), 0.8, (10, -5), (4.5, 4)),
        (-130, (0.5, 7), 1.7, (-30, 40), (10, 3)),
        (90, (1, 1), 2, (15, 15), (0, 5.5)),
    ],
)
def test_all_parts(student, knobs):
    """affine_matrix should shear, scale, turn and move around the centre, in this order."""
    M = student.affine_matrix(*knobs)
    assert_close(M, matrix_by_steps(*knobs), "M", symptoms=wrong_matrices(*knobs))
    _, translate, scale, _, center = knobs
    goes_to = M[:, :2] @ torch.tensor(center).double() + M[:, 2]
    there = torch.tensor([c + t for c, t in zip(center, translate, strict=True)]).double()
    assert_close(goes_to, there, "where the centre goes")
    area = torch.linalg.det(M[:, :2])
    assert_close(area, share(scale**2), "the determinant, the factor for areas")


@pytest.mark.exercise("affine", points=1)
@pytest.mark.parametrize("scale", [0, -1, -0.5])
def test_scale_is_positive(student, scale):
    """affine_matrix should raise a ValueError for a scale that is not positive."""
    with raises(ValueError):
        student.affine_matrix(10, (0, 0), scale, (0, 0), (1, 1))


def library_warp(img, M, mode="bilinear", outside="zeros"):
    """With F.grid_sample, whose coordinates run from -1 to 1 over whole pixels."""
    H, W = img.shape[1:]
    rows, cols = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    points = torch.stack([cols.flatten(), rows.flatten()]).double()
    came = torch.linalg.solve(M[:, :2], points - M[:, 2:])
    size = torch.tensor([[W], [H]], dtype=torch.float64)
    grid = ((2 * came + 1) / size - 1).T.view(1, H, W, 2)
    return F.grid_sample(img[None], grid.to(img), mode, outside, align_corners=False)[0]


@pytest.mark.exercise("affine", points=3)
@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 5), (2, 1, 6), (2, 6, 1)])
@pytest.mark.parametrize(
    "knobs",
    [
        (33, (0, 0), 1, (0, 0), (4, 3)),
        (-10, (1.3, -0.6), 1.4, (12, 0), (2, 2)),
        (200, (0, 2), 0.6, (0, 25), (4, 4)),
        (0, (-2.25, 1.5), 1, (0, 0), (0, 0)),
    ],
)
def test_warp_equals_grid_sample(student, device, shape, knobs):
    """warp should read bilinearly at the place that each output pixel came from, with zeros outside."""
    img, M = randn(*shape, device=device), matrix_by_steps(*knobs)
    with unchanged(img, M):
        got = student.warp(img, M)
    assert_close(
        got,
        library_warp(img, M),
        atol=1e-7,
        symptoms={
            "It reads the nearest pixel only. Between pixels the value is the weighted mean of the "
            "four around.": library_warp(img, M, "nearest"),
            "Outside of the picture the last pixels go on. There should be zeros.": library_warp(
                img, M, outside="border"
            ),
            "The translation is not undone: subtract b first, then apply the inverse of A.": (
                library_warp(img, torch.cat([M[:, :2], M[:, :2] @ M[:, 2:]], 1))
            ),
            "The transpose of A is not its inverse, unless A is a turn.": library_warp(
                img, torch.cat([torch.linalg.inv(M[:, :2]).T, M[:, 2:]], 1)
            ),
        },
    )


@pytest.mark.exercise("affine", points=2)
@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 6, 3)])
def test_whole_pixels(student, device, shape):
    """The identity should return the picture, whole translations should move it, and four quarter
    turns should give it back."""
    img = randn(*shape, device=device, dtype=torch.float32)
    knobs = (0, (0, 0), 1, (0, 0), (0, 0))
    assert_close(student.warp(img, matrix_by_steps(*knobs)), img, "the picture after the identity")
    M = matrix_by_steps(0, (2, -1), 1, (0, 0), (1, 1))
    expected = torch.zeros_like(img)
    expected[:, :-1, 2:] = img[:, 1:, :-2]
    back, swapped = torch.zeros_like(img), torch.zeros_like(img)
    back[:, 1:, :-2] = img[:, :-1, 2:]
    swapped[:, 2:, :-1] = img[:, :-2, 1:]
    assert_close(
        student.warp(img, M),
        expected,
        "the picture moved by (2, -1)",
        symptoms={
            "The picture moves the wrong way. Each output pixel asks where it came from: that is "
            "the inverse of M.": back,
            "x and y are exchanged. M acts on points (x, y), and x counts columns.": swapped,
        },
    )
    square = img[:, :3, :3]
    quarter = matrix_by_steps(90, (0, 0), 1, (0, 0), (1, 1))
    turned = student.warp(square, quarter)
    assert_close(turned, square.rot90(-1, (1, 2)), "a quarter turn, clockwise", atol=1e-5)


@pytest.mark.exercise("affine", points=1)
def test_area_and_round_trip(student, device):
    """Scale 0.5 should leave a quarter of the area; a warp and its inverse should give a smooth
    picture back."""
    y, x = np.mgrid[:81, :81] - 40.0
    disc = torch.tensor(np.hypot(x, y) < 30, dtype=torch.float64, device=device)[None]
    small = student.warp(disc, student.affine_matrix(0, (0, 0), 0.5, (0, 0), (40, 40)))
    assert_close((small.sum() / disc.sum()).cpu(), share(0.25), "the ratio of areas", atol=0.025)
    smooth = torch.tensor(np.exp(-(x**2 + y**2) / 200), device=device)[None]
    there = student.affine_matrix(35, (3, -2), 1.2, (10, 0), (40, 40))
    A, b = there[:, :2], there[:, 2:]
    back = torch.cat([torch.linalg.inv(A), -torch.linalg.inv(A) @ b], 1)
    again = student.warp(student.warp(smooth, there), back)
    gap = (again - smooth)[:, 25:56, 25:56].abs().max().cpu()
    assert_close(gap, share(0.0), "the largest gap in the middle after there and back", atol=0.02)


@pytest.mark.exercise("affine", points=2)
def test_gradient_of_warp(student, device):
    """Gradients should flow through warp to the picture, and the dtype should be the picture's."""
    M = matrix_by_steps(20, (0.4, 0.3), 1.1, (5, 0), (2, 2))
    img = randn(2, 4, 5, device=device)
    assert_same_gradients(lambda x: student.warp(x, M), lambda x: library_warp(x, M), img)
    single = student.warp(img.float(), M)
    assert_close(single, library_warp(img, M).float(), "the float32 output")


# --- erase -----------------------------------------------------------------------------------


@probe
def many_holes(student, h, w, length, times, seed):
    """Cutouts of a picture of ones: edges and areas of the holes, how often each pixel is hit."""
    g = torch.Generator().manual_seed(seed)
    ones = torch.ones(2, h, w)
    hit, edges, wrong = torch.zeros(h, w), [], 0
    for _ in range(times):
        out = student.cutout(ones, length, g)
        hole = out[0] == 0
        hit += hole
        rows, cols = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        wrong += int(not torch.equal(out[0], out[1]) or len(rows) == 0)
        if len(rows) and len(cols):
            box = [int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1]
            wrong += int(hole.sum()) != (box[1] - box[0]) * (box[3] - box[2])
            edges.append(box)
    return hit / times, edges, wrong, bool((ones == 1).all())


def hole_of(y, x, h, w, length):
    top, left = y - length // 2, x - length // 2
    return max(top, 0), min(top + length, h), max(left, 0), min(left + length, w)


@pytest.mark.exercise("erase", points=3)
@pytest.mark.parametrize("h, w, length", [(9, 12, 5), (12, 9, 4), (7, 7, 1), (6, 8, 2), (5, 4, 9)])
def test_holes_are_clipped_squares(student, h, w, length):
    """cutout should make the full square inside and cut it off at the border, the same in all
    channels, for odd and even sides."""
    possible = {hole_of(y, x, h, w, length) for y in range(h) for x in range(w)}
    _, edges, wrong, untouched = student.run(many_holes, h, w, length, 400, 3)
    assert_equal(wrong, 0, "holes that are no rectangle, or not the same in all channels:")
    assert_equal(untouched, True, "the input is as it was:")
    seen = {tuple(edge) for edge in edges}
    assert_equal(sorted(seen - possible)[:4], [], "holes (top, bottom, left, right) that cannot be")


@pytest.mark.exercise("erase", points=2)
@pytest.mark.parametrize("h, w, length", [(6, 7, 3), (4, 9, 4), (5, 5, 1)])
def test_centres_are_uniform(student, h, w, length):
    """Every pixel should be equally likely as the centre of a cutout, so that each is hit as often
    as its place says."""
    times = 1200
    often, *_ = student.run(many_holes, h, w, length, times, 11)
    expected = torch.zeros(h, w)
    for y in range(h):
        for x in range(w):
            top, bottom, left, right = hole_of(y, x, h, w, length)
            expected[top:bottom, left:right] += 1 / (h * w)
    inside, corner = torch.zeros(h, w), torch.zeros(h, w)
    for y in range(h - length + 1):
        for x in range(w - length + 1):
            n = (h - length + 1) * (w - length + 1)
            inside[y : y + length, x : x + length] += 1 / n
    for y in range(h):
        for x in range(w):
            corner[y : y + length, x : x + length] += 1 / (h * w)
    margin = 6 * math.sqrt(0.25 / times)
    assert_close(
        often,
        expected,
        "how often each pixel is hit",
        atol=min(margin, 0.06),
        rtol=0,
        symptoms={
            "The square always lies inside completely. Its *centre* is uniform over all pixels, so "
            "near the border a part is cut off.": inside,
            "The place that is drawn is used as the corner of the square, not as its centre.": corner,
        },
    )


@pytest.mark.exercise("erase", points=1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rest_of_the_picture(student, device, dtype):
    """Outside of the hole a picture of any dtype should stay as it is; the seed decides the hole."""
    img = rand(3, 8, 6, device=device, dtype=dtype) + 0.5
    with unchanged(img):
        out = student.cutout(img, 3, seeded(4))
    assert_equal(out.dtype, dtype, "the dtype")
    assert_close(torch.where(out == 0, img, out), img, "the picture outside of the hole")
    assert_close(student.cutout(img, 3, seeded(4)), out, "the picture for the same seed")
    assert_equal(bool((out == 0).any()), True, "whether there is a hole")


@probe
def many_boxes(student, h, w, scale, ratio, times, seed):
    """Rectangles as a table; a row of -1 where there is none."""
    g = torch.Generator().manual_seed(seed)
    before = torch.get_rng_state()
    boxes = [student.erase_box(h, w, scale, ratio, g) for _ in range(times)]
    alone = torch.equal(before, torch.get_rng_state())
    again = [student.erase_box(h, w, scale, ratio, g.manual_seed(seed)) for _ in range(2)]
    whole = all(b is None or all(type(v) is int for v in b) for b in boxes)
    facts = [whole, alone and again == boxes[:1] * 2]
    return torch.tensor([[-1] * 4 if b is None else list(b) for b in boxes]), facts


@pytest.mark.exercise("erase", points=3)
@pytest.mark.parametrize(
    "h, w, scale, ratio",
    [
        (200, 250, (0.05, 0.15), (1, 4)),
        (300, 400, (0.02, 0.2), (1 / 3, 3)),
        (200, 500, (0.1, 0.3), (0.5, 1)),
    ],
)
def test_area_and_ratio(student, h, w, scale, ratio):
    """erase_box should draw areas uniformly and ratios log-uniformly in their ranges."""
    times = 700
    boxes, facts = student.run(many_boxes, h, w, scale, ratio, times, 8)
    assert_equal(facts[0], True, "whether each box is four ints, or None:")
    assert_equal(facts[1], True, "whether all random numbers come from the generator:")
    boxes = boxes[boxes[:, 0] >= 0].double()
    assert_close(share(len(boxes) / times), share(1.0), "the share of boxes that fit", atol=0.1)
    area = boxes[:, 2] * boxes[:, 3] / (h * w)
    log_ratio = (boxes[:, 2] / boxes[:, 3]).log()
    low, high = (math.log(r) for r in ratio)
    linear = [r * math.log(r) - r for r in ratio]  # the integral of log r
    assert_close(
        log_ratio.mean(),
        share((low + high) / 2),
        "the mean of log(height / width)",
        atol=0.01 + 5 * (high - low) / math.sqrt(12 * times),
        symptoms={
            "The ratio is height / width, but here a large ratio makes the box wide: "
            "height = sqrt(area r), width = sqrt(area / r).": share(-(low + high) / 2),
            "The ratio is drawn uniformly. Draw its logarithm uniformly, and take the "
            "exponential.": share((linear[1] - linear[0]) / (ratio[1] - ratio[0])),
        },
    )
    for value, a, b, slack, name in (
        (area, *scale, 0.004, "area"),
        (log_ratio, low, high, 0.04, "log(ratio)"),
    ):
        inside = ((value > a - slack) & (value < b + slack)).double().mean()
        assert_close(inside, share(1.0), f"the share of {name} inside its range")
        position = ((value - a) / (b - a)).sort().values
        line = (torch.arange(len(value)) + 0.5) / len(value)
        gap = (position - line).abs().max()  # Kolmogorov and Smirnov
        assert_close(gap, share(0.0), f"how far {name} is from uniform", atol=0.085)


@pytest.mark.exercise("erase", points=1)
def test_places_and_misfits(student):
    """Every place where a rectangle fits should be equally likely; ten misfits should give None."""
    boxes, _ = student.run(many_boxes, 4, 5, (0.2, 0.2), (1, 1), 900, 5)  # 2 x 2
    assert_close(boxes[:, 2:].double().mean(0), torch.tensor([2.0, 2.0]).double(), "mean size")
    counts = torch.bincount(boxes[:, 0] * 4 + boxes[:, 1], minlength=12).double() / 900
    assert_equal(len(counts), 12, "the number of places of 2 x 2 in 4 x 5")
    short = torch.zeros(3, 4).double()
    short[:2, :3] = 1 / 6
    assert_close(
        counts,
        torch.full((12,), 1 / 12).double(),
        "how often each place",
        atol=0.055,
        symptoms={
            "The last place is never drawn. `torch.randint(k, ...)` gives 0 to k - 1, and a box of "
            "height `height` has h - height + 1 places.": short.flatten()
        },
    )
    full, _ = student.run(many_boxes, 3, 6, (1.0, 1.0), (0.5, 0.5), 5, 0)
    assert_equal(full.tolist(), [[0, 0, 3, 6]] * 5, "rectangles as large as the picture")
    for area, ratio, size in ((4, 0.25, [1, 4]), (4, 4, [4, 1]), (20.3, 1, [5, 5]), (1, 1, [1, 1])):
        some, _ = student.run(many_boxes, 10, 10, (area / 100, area / 100), (ratio, ratio), 2, 0)
        assert_equal(some[:, 2:].tolist(), [size] * 2, f"sizes for area {area} and ratio {ratio}")
    for h, w, scale, ratio in (
        (100, 4, (0.9, 0.9), (1, 1)),
        (4, 100, (0.9, 0.9), (1, 1)),
        (3, 3, (0.01, 0.01), (1, 1)),
        (10, 10, (0.01, 0.01), (0.2, 0.2)),
        (10, 10, (0.01, 0.01), (5, 5)),
    ):
        none, _ = student.run(many_boxes, h, w, scale, ratio, 3, 1)
        sides = [round(math.sqrt(scale[0] * h * w * r)) for r in (ratio[0], 1 / ratio[0])]
        squeezed = [min(max(s, 1), n) for s, n in zip(sides, (h, w), strict=True)]
        assert_close(
            none[:, 2:],
            torch.full((3, 2), -1),
            f"height and width of what fits into {h} x {w} (-1: None)",
            symptoms={
                "A rectangle that does not fit is squeezed into the picture. Draw again, up to "
                "ten times.": torch.tensor([squeezed] * 3),
                "After ten misfits the whole picture is erased. Give None.": torch.tensor(
                    [[h, w]] * 3
                ),
            },
        )
    hard, _ = student.run(many_boxes, 20, 20, (0.5, 0.5), (0.125, 8), 800, 2)  # 1/3 fit
    misses = (hard[:, 0] < 0).double().mean()
    assert_close(
        misses,
        share((2 / 3) ** 10),
        "how often ten do not fit",
        atol=0.03,
        symptoms={
            "It gives up after the first rectangle that does not fit. There are ten tries.": share(
                0.643
            )
        },
    )


# --- mix -------------------------------------------------------------------------------------


@pytest.mark.exercise("mix", points=3)
@pytest.mark.parametrize(
    "n, shape", [(5, (3, 4, 6)), (4, (1, 5, 3)), (1, (2, 3, 3)), (7, (1, 1, 1))]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mixup_agrees_with_its_labels(student, device, n, shape, dtype):
    """mixup should mix pictures and labels with the same weights, one lambda for the batch, and one
    partner for each picture."""
    x, y = randn(n, *shape, dtype=dtype, device=device), torch.arange(n, device=device)
    for seed in range(4):
        with unchanged(x, y):
            mixed, soft = student.mixup(x, y, 1.0, n + 2, seeded(seed))
        assert_equal(
            [tuple(mixed.shape), tuple(soft.shape), soft.dtype],
            [(n, *shape), (n, n + 2), dtype],
            "shapes and dtype",
        )
        assert_close(soft.sum(1), torch.ones_like(soft[:, 0]), "the sums of the labels")
        by_labels = torch.einsum("ij,jchw->ichw", soft[:, :n], x)
        assert_close(mixed, by_labels, "the pictures, mixed by their labels", atol=1e-5)
        own = soft.diagonal()[soft.diagonal() < 0.99999]
        assert_close(
            own,
            own[:1].expand_as(own),
            "the weights of the pictures' own labels",
            symptoms={"Each picture has a lambda of its own. Draw one for the whole batch.": own},
        )
        assert_close(soft[:, :n].sum(0), torch.ones_like(soft[:, 0]), "what each picture gives")


def pasted_share(lam, h, w, rng):
    """The pasted share of CutMix for a given lambda and a random centre."""
    total = 1.0
    for n in (h, w):
        size = round(n * math.sqrt(1 - lam))
        first = rng.randint(n) - size // 2
        total *= min(first + size, n) - max(first, 0)
    return total / (h * w)


@probe
def many_mixtures(student, name, alpha, n, h, w, times, seed):
    """The weight of the other pictures in each of many mixtures of a batch with n classes."""
    g = torch.Generator().manual_seed(seed)
    before = torch.get_rng_state()
    x, y = torch.zeros(n, 1, h, w), torch.arange(n)
    weights, partners = [], torch.zeros(n, n)
    for _ in range(times):
        _, soft = getattr(student, name)(x, y, alpha, n, g)
        weights.append(1 - soft.diagonal().min())
        partners += (soft > 1e-6).float() if alpha > 0.5 else 0
    alone = bool((torch.get_rng_state() == before).all())
    return torch.stack(weights), partners / times, alone


@pytest.mark.exercise("mix", points=3)
@pytest.mark.parametrize("alpha", [1.0, 0.2, 3.0])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_lambda_comes_from_beta(student, name, alpha):
    """lambda should come from Beta(alpha, alpha), drawn anew each time, by the generator alone."""
    times, n, h, w = 300, 8, 16, 12
    weights, _, alone = student.run(many_mixtures, name, alpha, n, h, w, times, 21)
    assert_equal(alone, True, "the global generator is left alone:")
    rng = np.random.RandomState(0)
    lam = rng.beta(alpha, alpha, 4000)
    expected = 1 - lam if name == "mixup" else [pasted_share(v, h, w, rng) for v in lam]
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    # A batch whose permutation moves nothing (1 in 40320) has weight 0.
    weights = weights.double()
    centre = expected.mean()
    for got, want, what in (
        (weights, expected, "the mean of the partner's weight"),
        ((weights - centre).abs(), (expected - centre).abs(), "its mean distance from the middle"),
    ):
        margin = 5 * float(want.std()) * math.sqrt(1 / times + 1 / 4000)
        assert_close(got.mean(), want.mean(), what, atol=margin)


@pytest.mark.exercise("mix", points=2)
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_partners_are_random(student, name):
    """Every picture should be every other picture's partner equally often, by a random permutation;
    the same seed gives the same mixture."""
    _, partners, _ = student.run(many_mixtures, name, 1.0, 4, 6, 6, 400, 4)
    others = partners[~torch.eye(4, dtype=torch.bool)]
    # Where the whole rectangle is rounded away no partner is seen: a little below 1/4 for cutmix.
    expected = torch.full((12,), 0.25 if name == "mixup" else 0.245)
    fixed = [torch.eye(4).roll(k, 1)[~torch.eye(4, dtype=torch.bool)] for k in (1, -1)]
    sentence = "The partner is always the {} picture of the batch. Draw a random permutation."
    assert_close(
        others,
        expected,
        "how often each of the others is the partner",
        atol=0.1,
        symptoms={
            sentence.format("next"): fixed[0],
            sentence.format("previous"): fixed[1],
        },
    )
    x, y = randn(5, 2, 6, 6), torch.arange(5)
    f = getattr(student, name)
    first, second = f(x, y, 1.0, 5, seeded(9)), f(x, y, 1.0, 5, seeded(9))
    assert_close(list(second), list(first), "the second mixture with the same seed")


@pytest.mark.exercise("mix", points=2)
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alpha_zero_and_repeated_labels(student, device, name, dtype):
    """alpha = 0 should change nothing; pictures of one class should keep a label of one class."""
    x = randn(6, 2, 5, 4, dtype=dtype, device=device)
    y = torch.tensor([2, 0, 2, 3, 0, 2], device=device)
    with unchanged(x, y):
        mixed, soft = getattr(student, name)(x, y, 0, 6, seeded(1))
    assert_close(mixed, x, "the pictures for alpha = 0")
    assert_close(soft, F.one_hot(y, 6).to(dtype), "the labels for alpha = 0")
    same = torch.full((6,), 3, device=device)
    _, soft = getattr(student, name)(x, same, 1.0, 6, seeded(1))
    assert_close(soft, F.one_hot(same, 6).to(dtype), "the labels of pictures of one class")


@pytest.mark.exercise("mix", points=3)
@pytest.mark.parametrize("n, h, w", [(4, 9, 7), (3, 1, 8), (5, 12, 16), (2, 5, 5)])
def test_cutmix_labels_count_pixels(student, device, n, h, w):
    """The label's weights should be the shares of pixels that are really there, exactly; what is
    pasted should be one rectangle, from the same place of the partner."""
    place = torch.arange(h * w, device=device).double().view(1, 1, h, w) / (h * w) / 2
    x = place + torch.arange(n, device=device).double().view(n, 1, 1, 1)
    for seed in range(12):
        with unchanged(x):
            mixed, soft = student.cutmix(x, torch.arange(n, device=device), 1.0, n, seeded(seed))
        source = mixed[:, 0].floor()
        assert_close(mixed - mixed.floor(), place.expand_as(mixed), "the places of the pixels")
        counted = torch.stack([(source == k).double().mean((1, 2)) for k in range(n)], 1)
        exchanged = torch.where((counted > 0) & (counted < 1), 1 - counted, counted)
        assert_close(
            soft,
            counted,
            "the labels",
            atol=1e-6,
            symptoms={
                "The weights are exchanged: the partner gets the share that is pasted.": exchanged
            },
        )
        own = torch.arange(n, device=device)[:, None, None]
        pasted = (source != own).double()
        for hole in pasted[pasted.sum((1, 2)) > 0]:
            rows, cols = hole.amax(1), hole.amax(0)
            assert_close(hole, rows[:, None] * cols, "the pasted rectangle, as ones")
            edges = [int(v.diff().abs().sum()) for v in (rows, cols)]
            assert_equal(max(edges) <= 2, True, "whether the pasted pixels are one rectangle")


@probe
def cutmix_edges(student, h, w, times, seed):
    """Edges of the pasted rectangles (top, bottom, left, right); one number each for four kinds."""
    g = torch.Generator().manual_seed(seed)
    x = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, h, w)
    found = []
    for _ in range(times):
        mixed, _ = student.cutmix(x, torch.arange(2), 1.0, 2, g)
        hole = mixed[0, 0] == 1
        if hole.any():
            rows, cols = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
            found.append([rows[0], rows[-1] + 1, cols[0], cols[-1] + 1])
    return torch.tensor(found)


@pytest.mark.exercise("mix", points=2)
@pytest.mark.parametrize("h, w", [(10, 14), (15, 8)])
def test_cutmix_rectangles(student, h, w):
    """The rectangle should have sqrt(1 - lambda) of the picture's height and width, rounded, around
    a centre that is uniform over all pixels."""
    edges = student.run(cutmix_edges, h, w, 500, 6).double()
    assert_close(share(len(edges) / 500), share(0.49), "the share of batches mixed", atol=0.15)
    free = (edges[:, 0] > 0) & (edges[:, 1] < h) & (edges[:, 2] > 0) & (edges[:, 3] < w)
    height, width = (edges[:, 1] - edges[:, 0])[free], (edges[:, 3] - edges[:, 2])[free]
    gap = (height / h - width / w).abs().max()
    assert_close(
        gap, share(0.0), "height / H minus width / W, inside", atol=0.5 / h + 0.5 / w + 1e-9
    )
    # A reference draws the same distribution of edges.
    rng = np.random.RandomState(1)
    expected = []
    for _ in range(8000):
        side = math.sqrt(1 - rng.beta(1, 1))
        box = []
        for n in (h, w):
            size = round(n * side)
            first = rng.randint(n) - size // 2
            box += [max(first, 0), min(first + size, n)]
        if box[1] > box[0] and box[3] > box[2]:
            expected.append(box)
    expected = torch.tensor(expected).double()
    margin = 5 * expected.std(0) / math.sqrt(len(edges))
    for k, name in enumerate(
        ("first row", "end of the rows", "first column", "end of the columns")
    ):
        assert_close(
            edges[:, k].mean(), expected[:, k].mean(), f"the mean {name}", atol=float(margin[k])
        )


# --- pipeline --------------------------------------------------------------------------------


@probe
def add_two(x):
    return x + 2


@probe
def triple(x):
    return 3 * x


@probe
def negate(x):
    return -x


@pytest.mark.exercise("pipeline", points=1)
@pytest.mark.parametrize(
    "steps, expected",
    [([add_two, triple, negate], -15.0), ([negate, triple, add_two], -7.0), ([], 3.0)],
)
def test_compose_in_order(student, steps, expected):
    """Compose should feed each output to the next transform, first one first; none: unchanged."""
    chain = student.Compose(steps)
    for _ in range(2):
        assert_close(chain(torch.tensor(3.0)), torch.tensor(expected))


@probe
def random_apply_facts(student, p, times, seed):
    """How often the list was applied, what came out, and how many numbers were drawn."""
    g = torch.Generator().manual_seed(seed)
    maybe = student.RandomApply([lambda x: x + 2, lambda x: 3 * x], p, g)
    before = torch.get_rng_state()
    results = [maybe(1) for _ in range(times)]
    alone = bool((torch.get_rng_state() == before).all())
    again = student.RandomApply([lambda x: x + 2, lambda x: 3 * x], p, g.manual_seed(seed))
    same = results == [again(1) for _ in range(times)]
    empty = student.RandomApply([], 1.0, g)(5)
    return sorted(set(results)), sum(r != 1 for r in results) / times, alone, same, empty


@pytest.mark.exercise("pipeline", points=2)
@pytest.mark.parametrize("p", [0.25, 0.0, 0.9, 1.0])
def test_apply_all_or_nothing(student, p):
    """RandomApply should apply the whole list in order with probability p, else nothing, drawing
    from the generator alone."""
    results, often, alone, same, empty = student.run(random_apply_facts, p, 1000, 3)
    possible = [1] * (p < 1) + [9] * (p > 0)
    assert_equal(results, possible, "the results for 1")
    margin = 6 * math.sqrt(p * (1 - p) / 1000)
    assert_close(
        share(often),
        share(p),
        "how often it is applied",
        atol=margin + 1e-9,
        symptoms={"The decision is turned round: p is how often it is applied.": share(1 - p)},
    )
    assert_equal(alone, True, "the global generator is left alone:")
    assert_equal(same, True, "the same results for the same seed:")
    assert_equal(empty, 5, "the result of an empty list")


def crops_by_hand(img, h, w):
    H, W = img.shape[1:]
    places = [(0, 0), (0, W - w), (H - h, 0), (H - h, W - w)]
    places.append((round((H - h) / 2), round((W - w) / 2)))
    both = []
    for x in (img, img.flip(2)):
        both += [x[:, i : i + h, j : j + w] for i, j in places]
    return torch.stack(both)


@pytest.mark.exercise("pipeline", points=3)
@pytest.mark.parametrize(
    "shape, size",
    [
        ((3, 8, 11), (3, 4)),
        ((1, 7, 7), (4, 2)),
        ((2, 9, 6), (4, 3)),
        ((1, 5, 10), (5, 5)),
        ((3, 4, 4), (4, 4)),
        ((1, 12, 5), (1, 1)),
    ],
)
def test_ten_crops(student, device, shape, size):
    """ten_crop should give the corners and the centre, of the picture and of its mirror."""
    img = randn(*shape, device=device)
    with unchanged(img):
        got = student.ten_crop(img, size)
    right = crops_by_hand(img, *size)
    H, W = img.shape[1:]
    h, w = size
    i, j = (H - h) // 2, (W - w) // 2
    floored = right.clone()
    floored[4], floored[9] = (x[:, i : i + h, j : j + w].clone() for x in (img, img.flip(2)))
    upside = torch.cat([right[:5], crops_by_hand(img.flip(1), *size)[:5]])
    assert_close(
        got,
        right,
        symptoms={
            "The second five come from the picture turned upside down. A mirror left to right "
            "turns the last axis round: `img.flip(2)`.": upside,
            "The centre starts at (H - h) // 2. The docstring wants Python's `round`, as "
            "torchvision does.": floored,
            "Crop and mirrored crop take turns. First all five of the picture, then all five of "
            "its mirror.": right[[0, 5, 1, 6, 2, 7, 3, 8, 4, 9]],
            "Upper right and lower left are exchanged.": right[[0, 2, 1, 3, 4, 5, 7, 6, 8, 9]],
        },
    )
    assert_same_gradients(
        lambda x: student.ten_crop(x, size), lambda x: crops_by_hand(x, *size), img
    )


@pytest.mark.exercise("pipeline", points=1)
@pytest.mark.parametrize("size", [(6, 3), (3, 8), (6, 8)])
def test_crop_too_large(student, size):
    """ten_crop should raise a ValueError for a crop that is larger than the picture."""
    with raises(ValueError):
        student.ten_crop(randn(1, 5, 7), size)


@probe
def as_it_is(x):
    return x


@probe
def reverse(x):
    return x.flip(-1)


@probe
def shift(x):
    return x.roll(1, -1)


def small_model(device, hidden=0.0):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        model[1].running_mean.normal_(generator=generator)
        model[1].running_var.uniform_(0.5, 2, generator=generator)
    return model.to(device, torch.float64)


@pytest.mark.exercise("pipeline", points=2)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "views", [[as_it_is], [as_it_is, reverse], [shift, reverse, as_it_is, shift]]
)
def test_mean_over_views(student, device, views, training):
    """tta_predict should give the mean of the views' probabilities, in evaluation mode, without
    gradients, and leave mode and buffers as they were."""
    model, x = small_model(device).train(training), randn(3, 1, 3, 4, device=device)
    twin = small_model(device).eval()
    with torch.no_grad():
        expected = torch.stack([twin(view(x)).softmax(1) for view in views]).mean(0)
    with unchanged(x, model[1].running_mean):
        got = student.tta_predict(model, x, views)
    assert_close(
        got,
        expected,
        symptoms={"The probabilities are added up, not averaged.": expected * len(views)},
    )
    assert_equal(got.requires_grad, False, "whether the result has a gradient")
    assert_equal(model.training, training, "the model's mode (training) afterwards")
    assert_equal(model[2].training, training, "the mode of the model's dropout afterwards")


@pytest.mark.exercise("pipeline", points=1)
@pytest.mark.parametrize("n", [1, 4])
def test_invariant_model(student, device, n):
    """For a model whose answer does not change with the view, averaging should change nothing."""
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 5))
    model = model.to(device, torch.float64)
    x = randn(n, 2, 6, device=device)
    expected = model(x).softmax(1).detach()
    assert_close(student.tta_predict(model, x, [as_it_is, reverse, shift]), expected)
