"""Public checks of the chapter on ViT, Swin and MAE."""

import pytest
import torch
import torch.nn.functional as F
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
    "patchify": [
        "Split two axes: H into (H/p, p) and W into (W/p, p). `unflatten(3, (-1, p))` does one of "
        "them; begin with the last axis, so that the numbers of the others stay.",
        "After the split the axes are (n, c, a, b, u, v). They should become (n, a, u, c, b, v): "
        "`permute`, then `flatten` twice. `unpatchify` goes the same way back.",
        "`conv_to_linear`: the weight (d, C, p, p) with its last three axes flattened is the weight "
        "of the linear layer. Copy it within `torch.no_grad()`.",
    ],
    "vit": [
        "`proj` gives (N, dim, rows, cols). `flatten(2)` and `.mT` make (N, T, dim) of it.",
        "`cls.expand(N, -1, -1)` repeats the class token for each picture; `torch.cat` along axis 1 "
        "puts it first. Then add the positions.",
        "`positions`: take off the first, turn the others into (1, dim, rows, cols) of the training "
        "grid, `F.interpolate(…, mode='bicubic')`, flatten, and put the first back.",
    ],
    "windows": [
        "As in `patchify`, but the channels are last: (n, a, b, u, v, c) becomes (n, a, u, b, v, c).",
        "`window_reverse`: split the first axis into (N, h/m, w_/m) and the second into (m, m), "
        "swap the same two axes, and merge.",
        "`x[:, 0::2, 0::2]` is the upper left token of each block, `x[:, 1::2, 0::2]` the lower "
        "left one. `F.pad` names the last axis first: (0, 0, left, right, top, bottom).",
    ],
    "mask": [
        "One axis first: `(torch.arange(h) - s) // m` is the piece of each row.",
        "Make one number of the two pieces, such that different pairs give different numbers; roll "
        "this map by -s, and cut it into windows.",
        "With labels of shape (nW, m * m), compare `[:, :, None]` with `[:, None]`, and let "
        "`torch.where` choose 0 or -100.",
    ],
    "cost": [
        "With n = h * w tokens: each of the four projections is an (n, c) by (c, c) product.",
        "Scores: n * n dot products of length c. The weighted sums cost the same again.",
        "In windows a token meets m * m others instead of h * w.",
    ],
    "maemask": [
        "`torch.rand(N, T, generator=rng).argsort(1)` is a random order for each picture.",
        "`argsort` of that order is `ids_restore`. A patch is hidden if its place is k or later.",
        "`x.gather(1, index)` needs an index of the shape of the result: the first k of the order, "
        "with a new last axis that is expanded to d.",
    ],
    "mae": [
        "Sequence first: visible tokens, then T - k copies of the mask token "
        "(`mask_token.expand`), joined along axis 1.",
        "`gather` along axis 1 with `ids_restore` puts each token at its own place; then add `pos` "
        "to all of them.",
        "The loss: squared error, mean over axis 2, times the mask, summed, divided by the number "
        "of hidden patches, which `clamp(min=1)` keeps from being 0.",
    ],
    "debug": [
        "Follow one pixel: where is it after the roll, and where at the end?",
        "Nothing takes the roll back.",
    ],
}


@pytest.mark.exercise("patchify")
def test_worked_example(student):
    """`patchify` cuts the worked example into six squares, and `unpatchify` puts them together."""
    x = torch.arange(24.0).view(1, 1, 4, 6)
    rows = [
        [0, 1, 6, 7],
        [2, 3, 8, 9],
        [4, 5, 10, 11],
        [12, 13, 18, 19],
        [14, 15, 20, 21],
        [16, 17, 22, 23],
    ]
    expected = torch.tensor(rows, dtype=torch.float32)[None]
    assert_close(
        student.patchify(x, 2),
        expected,
        "the patches",
        symptoms={
            "These are strips, not squares: a reshape alone moves no axis.": x.view(1, 6, 4),
            "In a patch the row should vary more slowly than the column.": expected[
                ..., [0, 2, 1, 3]
            ],
            "Patches should follow each other row by row.": expected[:, [0, 3, 1, 4, 2, 5]],
        },
    )
    assert_close(student.unpatchify(expected, 2, 4, 6), x, "the picture")


@pytest.mark.exercise("patchify")
def test_channels(student):
    """In a patch, the channels come one after the other; patches that do not fit are an error."""
    x = torch.arange(2 * 2 * 4.0).view(1, 2, 2, 4)
    expected = F.unfold(x, 2, stride=2).mT
    last = expected.unflatten(2, (2, 4)).transpose(2, 3).flatten(2)
    assert_close(
        student.patchify(x, 2),
        expected,
        "the patches of two channels",
        symptoms={"The channel should vary slowest in a patch, not fastest.": last},
    )
    assert_close(student.unpatchify(expected, 2, 2, 4), x, "the picture of two channels")
    with raises(ValueError):
        student.patchify(torch.zeros(1, 1, 4, 5), 2)


@probe
def linear_of(student, conv):
    linear = student.conv_to_linear(conv)
    return linear.weight.detach(), linear.bias.detach()


@pytest.mark.exercise("patchify")
def test_linear(student):
    """`conv_to_linear` flattens each kernel into a row of the weight, and keeps the bias."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 2, stride=2)
    weight, bias = student.run(linear_of, conv)
    assert_close(weight, conv.weight.detach().flatten(1), "the weight")
    assert_close(bias, conv.bias.detach(), "the bias")


@probe
def small_vit(student, x):
    """Of a small ViT: its tokens, those computed by hand, its scores, and some settings."""
    torch.manual_seed(0)
    vit = student.ViT((1, 4, 6), 2, 8, 2, 2, 3)
    with torch.no_grad():
        vit.cls.normal_()
        vit.pos.normal_()
        patches = vit.proj(x).flatten(2).mT
        cls = vit.cls.expand(len(x), -1, -1)
        by_hand = torch.cat([cls, patches], 1) + vit.pos
        out = vit.encoder(by_hand)
        scores = vit.head(out[:, 0]), vit.head(out.mean(1)), vit.head(out[:, -1])
        layer = vit.encoder.layers[0]
        settings = {
            "depth": len(vit.encoder.layers),
            "hidden size": layer.linear1.out_features,
            "norm_first": layer.norm_first,
            "batch_first": layer.self_attn.batch_first,
            "dropout": layer.dropout.p,
            "activation": getattr(layer.activation, "__name__", "gelu").lower(),
            "last norm": type(vit.encoder.norm).__name__,
        }
        return vit.tokens(x), by_hand, by_hand - vit.pos, vit(x), scores, settings


@pytest.mark.exercise("vit")
def test_tokens(student):
    """`tokens` are the class token and the patches, with their positions added."""
    x = torch.arange(48.0).view(2, 1, 4, 6) / 48
    tokens, by_hand, bare, _, _, _ = student.run(small_vit, x)
    assert_shape(tokens, (2, 7, 8), "tokens of six patches")
    assert_close(
        tokens,
        by_hand,
        "the tokens",
        symptoms={
            "The positions are not added.": bare,
            "The class token should come first, not last.": bare.roll(-1, 1) + by_hand - bare,
        },
    )


@pytest.mark.exercise("vit")
def test_settings(student):
    """The encoder has the depth, hidden size, order and activation that the stub asks for."""
    settings = student.run(small_vit, torch.zeros(1, 1, 4, 6))[-1]
    expected = {
        "depth": 2,
        "hidden size": 32,
        "norm_first": True,
        "batch_first": True,
        "dropout": 0.0,
        "activation": "gelu",
        "last norm": "LayerNorm",
    }
    for name, value in expected.items():
        assert_equal(settings[name], value, f"the setting “{name}”")


@pytest.mark.exercise("vit")
def test_scores(student):
    """The scores come from the class token's output alone."""
    x = torch.arange(48.0).view(2, 1, 4, 6) / 48
    _, _, _, got, (first, mean, last), _ = student.run(small_vit, x)
    assert_close(
        got,
        first,
        "the scores",
        symptoms={
            "This is the head of the mean over all tokens; take token 0.": mean,
            "This is the head of the last token; the class token is the first.": last,
        },
    )


@probe
def larger(student, x):
    vit = student.ViT((1, 4, 6), 2, 8, 1, 2, 3)
    with torch.no_grad():
        vit.pos[0, :, 0] = torch.arange(7.0)
        return vit.positions(2, 3), vit.positions(4, 6), vit.pos.clone(), vit.tokens(x).shape[1]


@pytest.mark.exercise("vit")
def test_other_sizes(student):
    """Positions of the training grid stay; for another grid all but the first are scaled."""
    same, more, pos, count = student.run(larger, torch.zeros(1, 1, 8, 12))
    assert_close(same, pos, "the positions of the training grid", atol=1e-5)
    assert_equal(count, 25, "the number of tokens of a picture of 8 x 12")
    assert_shape(more, (1, 25, 8), "the positions of 4 x 6 patches")
    assert_close(more[:, 0], pos[:, 0], "the class token's position", atol=1e-5)
    grid = pos[0, 1:].T.reshape(1, 8, 2, 3)
    expected = F.interpolate(grid, (4, 6), mode="bicubic").flatten(2).mT
    assert_close(more[:, 1:], expected, "the scaled positions", atol=1e-5)


@pytest.mark.exercise("windows")
def test_small_windows(student):
    """`window_partition` cuts a 4 x 6 map into six windows, and `window_reverse` undoes it."""
    x = torch.arange(24.0).view(1, 4, 6, 1)
    expected = F.unfold(x.movedim(-1, 1), 2, stride=2).mT.reshape(6, 4, 1)
    with unchanged(x):
        got = student.window_partition(x, 2)
    assert_close(
        got,
        expected,
        "the windows",
        symptoms={
            "These are strips: the axes have to move.": x.reshape(6, 4, 1),
            "Windows should follow each other row by row.": expected[[0, 3, 1, 4, 2, 5]],
        },
    )
    assert_close(student.window_reverse(expected, 2, 4, 6), x, "the map")
    two = torch.cat([x, -x])
    back = student.window_reverse(torch.cat([expected, -expected]), 2, 4, 6)
    assert_close(back, two, "two maps")
    with raises(ValueError):
        student.window_partition(x, 4)


@probe
def merged(student, x):
    torch.manual_seed(0)
    layer = student.PatchMerging(x.shape[-1])
    with torch.no_grad():
        layer.norm.weight.normal_()
        layer.norm.bias.normal_()
        outputs = []
        for order in ((0, 1, 2, 3), (0, 2, 1, 3)):
            full = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            four = [full[:, k % 2 :: 2, k // 2 :: 2] for k in order]
            outputs.append(layer.reduction(layer.norm(torch.cat(four, -1))))
        return layer(x), outputs, layer.reduction.bias is None


@pytest.mark.exercise("windows")
@pytest.mark.parametrize("h, w", [(4, 2), (3, 5)])
def test_merging(student, h, w):
    """`PatchMerging` joins four tokens in the stated order, and pads odd sizes with zeros."""
    x = torch.arange(h * w * 2.0).view(1, h, w, 2) % 7
    got, (expected, across), bare = student.run(merged, x)
    assert_true(bare, "The reduction should have no bias.")
    assert_close(
        got,
        expected,
        "the merged map",
        symptoms={"The order is down first, then right: upper left, lower left, …": across},
    )


@pytest.mark.exercise("mask")
def test_four_windows(student):
    """In a 4 x 4 map with windows of 2, the last window holds four pieces, the first one."""
    got = student.sw_mask(4, 4, 2, 1)
    alone = torch.full((4, 4), -100.0).fill_diagonal_(0)
    stripes = torch.full((4, 4), -100.0)
    stripes[0, 2] = stripes[2, 0] = stripes[1, 3] = stripes[3, 1] = 0
    stripes.fill_diagonal_(0)
    blocks = torch.full((4, 4), -100.0)
    blocks[:2, :2] = blocks[2:, 2:] = 0
    expected = torch.stack([torch.zeros(4, 4), stripes, blocks, alone])
    assert_close(
        got,
        expected,
        "the mask",
        symptoms={
            "Pieces and strangers are exchanged: -100 is for tokens of different pieces.": -100
            - expected,
            "Windows 1 and 2 are exchanged: they are numbered row by row.": expected[[0, 2, 1, 3]],
            "The labels should be rolled by -s, not by s.": expected[[3, 2, 1, 0]],
        },
    )


@pytest.mark.exercise("mask")
def test_no_shift(student):
    """Without a shift nothing is masked; sizes that do not fit are an error."""
    got = student.sw_mask(4, 6, 2, 0)
    assert_close(got, torch.zeros(6, 4, 4), "the mask for s = 0")
    seen = (student.sw_mask(14, 14, 7, 3) == 0).sum(2).amin(1)
    assert_equal(seen.tolist(), [49, 21, 21, 9], "the fewest tokens that one may see, by window")
    for bad in ((4, 5, 2, 1), (4, 4, 2, 2)):
        with raises(ValueError):
            student.sw_mask(*bad)


@pytest.mark.exercise("cost")
def test_small_numbers(student):
    """On paper: 6 tokens of 5 channels cost 600 for the projections and 360 for the rest."""
    assert_close(
        student.macs_msa(2, 3, 5),
        960,
        "`macs_msa(2, 3, 5)`",
        symptoms={
            "There are four projections: queries, keys, values, and the output.": 450 + 360,
            "Scores and weighted sums both cost n * n * c.": 600 + 180,
            "The scores compare all pairs: the number of tokens squared.": 600 + 60,
        },
    )
    assert_close(
        student.macs_wmsa(4, 6, 5, 2),
        2400 + 960,
        "`macs_wmsa(4, 6, 5, 2)`",
        symptoms={
            "A token meets m * m others, not m.": 2400 + 480,
            "This is the cost of a single window.": 400 + 160,
        },
    )


@pytest.mark.exercise("cost")
def test_one_window(student):
    """With a single window both formulas agree; at 56 x 56 they differ by a factor of 13.8."""
    assert_equal(student.macs_wmsa(7, 7, 96, 7), student.macs_msa(7, 7, 96), "one window")
    ratio = student.macs_msa(56, 56, 96) / student.macs_wmsa(56, 56, 96, 7)
    assert_close(round(ratio, 1), 13.8, "the ratio for 56, 96 and 7")


@pytest.mark.exercise("maemask")
def test_quarter_stays(student):
    """Of 8 tokens 2 stay at ratio 0.75, and they are tokens of the same picture."""
    x = torch.arange(24.0).view(3, 8, 1)
    with unchanged(x):
        visible, mask, restore = student.random_mask(x, 0.75, torch.Generator().manual_seed(1))
    assert_shape(visible, (3, 2, 1), "`visible`")
    assert_shape(mask, (3, 8), "`mask`")
    assert_equal(mask.sum(1).tolist(), [6, 6, 6], "the number of hidden patches")
    shown = [x[n, ~mask[n].bool(), 0].tolist() for n in range(3)]
    got = [sorted(row) for row in visible[..., 0].tolist()]
    assert_equal(got, shown, "the visible tokens, sorted")
    places = restore.sort(1).values.tolist()
    assert_equal(places, [list(range(8))] * 3, "`ids_restore`, sorted")


@pytest.mark.exercise("maemask")
def test_order_comes_back(student):
    """With nothing hidden, `ids_restore` puts the shuffled tokens into their old order."""
    x = torch.arange(21.0).view(3, 7, 1)
    visible, mask, restore = student.random_mask(x, 0.0, torch.Generator().manual_seed(2))
    assert_shape(visible, (3, 7, 1), "`visible` at ratio 0")
    assert_equal(int(mask.sum()), 0, "the number of hidden patches")
    assert_close(
        visible.gather(1, restore[..., None]),
        x,
        "the restored order",
        symptoms={
            "`ids_restore` is the shuffle itself; its inverse is needed.": visible.gather(
                1, restore[..., None]
            ).gather(1, restore.argsort(1)[..., None]),
        },
    )
    with raises(ValueError):
        student.random_mask(x, 1.5, torch.Generator())


@pytest.mark.exercise("maemask")
def test_where_chance_comes_from(student):
    """The same generator state gives the same choice, and pictures have choices of their own."""
    x = torch.zeros(6, 20, 2)
    first, again = (
        student.random_mask(x, 0.5, torch.Generator().manual_seed(3))[1] for _ in range(2)
    )
    assert_close(again, first, "the mask for the same state of the generator")
    different = len({tuple(row) for row in first.tolist()})
    assert_equal(different, 6, "the number of different masks among 6 pictures")


@pytest.mark.exercise("mae")
def test_places(student):
    """`decoder_input` puts visible tokens back, the mask token elsewhere, and adds positions."""
    vis = torch.tensor([[[10.0], [20.0]]])  # patches 2 and 0
    restore = torch.tensor([[1, 3, 0, 2]])
    token, pos = torch.tensor([[[-5.0]]]), torch.tensor([[[0.1], [0.2], [0.3], [0.4]]])
    bare = torch.tensor([[[20.0], [-5.0], [10.0], [-5.0]]])
    assert_close(
        student.decoder_input(vis, restore, token, pos),
        bare + pos,
        "the decoder's input",
        symptoms={
            "The positions are missing.": bare,
            "Only the mask tokens have positions; visible ones need them, too.": bare
            + pos * (bare < 0),
            "The order is not restored.": torch.tensor([[[10.0], [20.0], [-5.0], [-5.0]]]) + pos,
        },
    )


@pytest.mark.exercise("mae")
def test_hidden_only(student):
    """`mae_loss` is the mean over hidden patches only, and 0 where nothing is hidden."""
    img = torch.tensor([[[[1.0, 1.0, 4.0, 6.0], [1.0, 1.0, 4.0, 6.0]]]])
    pred = torch.tensor([[[4.0, 4, 4, 4], [4.0, 6, 4, 8]]])
    mask = torch.tensor([[False, True]])
    assert_close(
        student.mae_loss(pred, img, mask, False),
        torch.tensor(1.0),
        "the loss with patch 1 hidden",
        symptoms={
            "Visible patches count, too.": torch.tensor(5.0),
            "Divide by the number of hidden patches, not of all.": torch.tensor(0.5),
            "Take the mean over the pixels of a patch, not the sum.": torch.tensor(4.0),
            "The mask is turned around: True is hidden.": torch.tensor(9.0),
        },
    )
    nothing = student.mae_loss(pred, img, torch.zeros(1, 2, dtype=torch.bool), False)
    assert_close(nothing, torch.tensor(0.0), "the loss with nothing hidden")


@pytest.mark.exercise("mae")
def test_normalised(student):
    """With `norm_pix` the target has mean 0 and standard deviation 1; a flat patch is all 0."""
    img = torch.tensor([[[[7.0, 7.0, 1.0, 2.0], [7.0, 7.0, 3.0, 4.0]]]])
    sharp = torch.tensor([[-1.5, -0.5, 0.5, 1.5]]) / (torch.tensor(5 / 3) + 1e-6).sqrt()
    pred = torch.stack([torch.zeros(1, 4), sharp], 1)
    got = student.mae_loss(pred, img, torch.ones(1, 2, dtype=torch.bool), True)
    assert_close(got, torch.tensor(0.0), "the loss of a perfect prediction", atol=1e-6)


@probe
def identity(windows):
    return windows


@probe
def mean_of_window(windows):
    return windows.mean(1, keepdim=True).expand_as(windows)


@pytest.mark.exercise("debug")
def test_stays_in_place(student):
    """With an `attend` that does nothing, the map comes back as it was."""
    x = torch.arange(32.0).view(1, 2, 4, 4)
    assert_close(
        student.shifted_windows(x, 2, 1, identity),
        x,
        "the map",
        symptoms={
            "The map is still rolled by -s.": x.roll((-1, -1), (2, 3)),
            "The roll back goes in the wrong direction.": x.roll((-2, -2), (2, 3)),
        },
    )


@pytest.mark.exercise("debug")
def test_windows_are_shifted(student):
    """With the mean of each window, equal numbers stand in the shifted windows."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    got = student.shifted_windows(x, 2, 1, mean_of_window)
    plain = F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    rolled = F.avg_pool2d(x.roll((-1, -1), (2, 3)), 2)
    expected = rolled.repeat_interleave(2, 2).repeat_interleave(2, 3).roll((1, 1), (2, 3))
    assert_close(
        got, expected, "the means", symptoms={"The windows are not shifted at all.": plain}
    )
