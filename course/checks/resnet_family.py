"""Public checks of the chapter on ResNet, DenseNet, RepVGG and feature fusion."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, assert_true, probe, raises, unchanged

HINTS = {
    "block": [
        "First decide when a block cannot work: which two things change the shape? Raise before "
        "you make any layer.",
        "A convolution with a stride and `padding=1` halves the map as a 1x1 convolution with the "
        "same stride does, so `shortcut` needs that stride, too.",
        "In `forward`, keep x. Compute `h` through conv1, bn1, relu, conv2, bn2; add "
        "`self.shortcut(x)`; then the last relu.",
    ],
    "bottleneck": [
        "It is the residual block with three convolutions: 1x1, 3x3, 1x1. Only the 3x3 has "
        "padding and stride.",
        "The projection is needed if the stride is not 1 *or* the channels change.",
        "For the counts: a k x k convolution from a to b channels has a * b * k * k weights. "
        "With c and c // 4, add up three of them.",
    ],
    "gradient": [
        "Keep to the order of the recipe: stem, then conv_a and conv_b of the first block, of the "
        "second, ..., head, x, y. Each draws random numbers.",
        "The shortcut is added before the block's last ReLU. After `backward()`, look at "
        "`stem.weight.grad`.",
        "For the Jacobians write one function of x that returns two things, X_L and the sum of "
        "the branches' outputs, and give it to `torch.autograd.functional.jacobian`.",
    ],
    "variants": [
        "Read the figure from below. Everything below the plus sign belongs to `branch`, "
        "everything above it to `forward`.",
        "`bn1` and `bn2` are numbered in the order of use. In kind b the second one is used after "
        "the sum, in kind e both come before a convolution.",
        '`"ab" in "abcde"` is True in Python. Compare with a tuple of five letters.',
    ],
    "dense": [
        "DenseLayer: two times BN, ReLU, convolution. At the end `torch.cat([x, new], dim=1)`.",
        "`F.dropout` needs to be told whether the layer is training. It is applied to the new "
        "channels before they are joined.",
        "DenseBlock: layer i (from 0) reads cin + i * k channels. An nn.Sequential is built by "
        "`super().__init__(*layers)`.",
        "densenet: keep the current number of channels in a variable. A block adds n * k to it; "
        "a transition makes it floor(theta * it), and comes only *between* blocks.",
    ],
    "fusion": [
        "Two calls of `torch.cat`, one for the inputs, one for the kernels. Which axis of w "
        "belongs to the input channels?",
        "To keep the size with an odd kernel, pad by half of it (rounded down), in each axis by "
        "its own.",
    ],
    "repvgg": [
        "Fold each batch normalisation first: per output channel, the kernel times "
        "weight / sqrt(running_var + eps), and the bias is bias - running_mean times the same "
        "factor.",
        "A 1x1 kernel becomes 3x3 by `F.pad` with one zero on each side. The identity is a kernel "
        "with a 1 at the centre: for output channel i, at which place of the second axis?",
        "With groups, the second axis has c // groups places, and channel i is at "
        "i % (c // groups). At the end sum kernels and biases, and copy them into a new nn.Conv2d "
        "under `torch.no_grad()`.",
    ],
    "debug": [
        "Print x before and after the call.",
        "`nn.ReLU(inplace=True)` and `x.relu_()` write into their input. `F.relu(x)` does not.",
    ],
}


# --- block -----------------------------------------------------------------------------------


@pytest.mark.exercise("block")
def test_shapes(student):
    """`Residual` keeps the shape, or halves the map and changes the channels with a projection."""
    x = torch.randn(2, 4, 6, 7)
    assert_equal(tuple(student.Residual(4, 4)(x).shape), (2, 4, 6, 7), "the shape")
    half = student.Residual(4, 8, 2, use_1x1=True)
    assert_equal(tuple(half(x).shape), (2, 8, 3, 4), "the shape with stride 2 and 8 channels")


@pytest.mark.exercise("block")
def test_identity_is_easy(student):
    """With a branch of zeros, the block is relu(x)."""
    torch.manual_seed(0)
    block, x = student.Residual(3, 3).eval(), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        with unchanged(x):
            got = block(x)
    assert_close(
        got,
        F.relu(x),
        symptoms={
            "The shortcut is not added.": torch.zeros_like(x),
            "The ReLU after the sum is missing.": x,
        },
    )


@pytest.mark.exercise("block")
def test_layers(student):
    """The names are as documented: without projection 6 parameters, with it 9."""
    own = dict(student.Residual(3, 3).named_parameters())
    expected = ["bn1.bias", "bn1.weight", "bn2.bias", "bn2.weight", "conv1.weight", "conv2.weight"]
    assert_equal(sorted(own), expected, "the names")
    side = dict(student.Residual(3, 5, use_1x1=True).named_parameters())
    more = sorted(set(side) - set(own))
    assert_equal(more, ["shortcut.0.weight", "shortcut.1.bias", "shortcut.1.weight"], "more names")


@pytest.mark.exercise("block")
def test_missing_projection(student):
    """A block that changes the shape without a projection raises when it is made."""
    with raises(ValueError):
        student.Residual(4, 8)
    with raises(ValueError):
        student.Residual(4, 4, stride=2)


# --- bottleneck ------------------------------------------------------------------------------


@pytest.mark.exercise("bottleneck")
def test_bottleneck_shapes(student):
    """`Bottleneck` has any number of output channels; the stride shrinks the map."""
    x = torch.randn(2, 8, 6, 5)
    assert_equal(tuple(student.Bottleneck(8, 2, 8)(x).shape), (2, 8, 6, 5), "the shape")
    half = student.Bottleneck(8, 4, 12, 2)
    assert_equal(tuple(half(x).shape), (2, 12, 3, 3), "the shape with stride 2")
    assert_equal(tuple(half.conv2.weight.shape), (4, 4, 3, 3), "the inner kernel")


@pytest.mark.exercise("bottleneck")
def test_empty_bottleneck(student):
    """With a branch of zeros the block is relu(x)."""
    torch.manual_seed(0)
    block, x = student.Bottleneck(4, 2, 4).eval(), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        block.bn3.weight.zero_()
        block.bn3.bias.zero_()
        got = block(x)
    assert_close(got, F.relu(x), symptoms={"The shortcut is not added.": torch.zeros_like(x)})


@pytest.mark.exercise("bottleneck")
def test_counts(student):
    """`params_bottleneck(256)` gives the two numbers of the text; 6 cannot be divided by 4."""
    assert_close(
        list(student.params_bottleneck(256)),
        [69632, 1179648],
        "the two counts",
        symptoms={
            "Only one 3x3 convolution of the basic block is counted.": [69632, 589824],
            "The second 1x1 convolution is missing.": [53248, 1179648],
        },
    )
    with raises(ValueError):
        student.params_bottleneck(6)


# --- gradient --------------------------------------------------------------------------------


@pytest.mark.exercise("gradient")
def test_repeatable(student):
    """`first_layer_grad` gives a float that depends on the seed only, as the recipe says."""
    got = student.first_layer_grad(0, True, 3)
    torch.manual_seed(3)
    kw = {"dtype": torch.float64}
    stem, head = nn.Conv2d(3, 16, 3, padding=1, **kw), nn.Linear(16, 10, **kw)
    x, y = torch.randn(8, 3, 8, 8, **kw), torch.randint(10, (8,))
    F.cross_entropy(head(stem(x).relu().mean((2, 3))), y).backward()
    assert_true(type(got) is float, "The result should be a float; use .item().")
    assert_close(got, stem.weight.grad.norm().item(), "the norm for no blocks", rtol=1e-6)


@pytest.mark.exercise("gradient")
def test_ratio(student):
    """With 4 blocks, the residual gradient is far more than 100 times the plain one."""
    plain, residual = (student.first_layer_grad(4, flag, 0) for flag in (False, True))
    assert_true(plain > 0, "No gradient arrives at the first layer.")
    assert_true(residual > 100 * plain, f"The ratio is {residual / plain:.3g}.")


@probe
def squared(v):
    return v * v


@probe
def tripled(v):
    return 3 * v


@probe
def twice_the_second(v):
    return torch.stack([2 * v[1], 0 * v[0]])


@pytest.mark.exercise("gradient")
def test_two_branches(student):
    """For x + x² and then x + 3x, whole is 4 (1 + 2x), and branches is 1 less."""
    x = torch.tensor([1.0, 2.0])
    whole, part = student.jacobian_identity([squared, tripled], x)
    expected = torch.diag(4 * (1 + 2 * x))
    assert_close(whole, expected, "whole")
    assert_close(
        part,
        expected - torch.eye(2),
        "branches",
        symptoms={
            "The second branch should see the first block's output.": torch.diag(2 * x + 3),
            "The identity does not belong to the branches.": expected,
        },
    )


@pytest.mark.exercise("gradient")
def test_rows_are_outputs(student):
    """Rows are outputs, columns are inputs."""
    whole, _ = student.jacobian_identity([twice_the_second], torch.ones(2))
    expected = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert_close(whole, expected, "whole", symptoms={"It is transposed.": expected.T})


# --- variants --------------------------------------------------------------------------------


@pytest.mark.exercise("variants")
def test_sign_of_the_sum(student):
    """Only (a) and (b) end in a ReLU; the branch of (c) is never negative, that of (e) may be."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5) - 1
    with torch.no_grad():
        for kind in "abcde":
            smallest = student.Block(3, kind)(x).min().item()
            what = f"whether the output of kind {kind} has negative values"
            assert_equal(smallest < 0, kind not in "ab", what)
        for kind in "ce":
            smallest = student.Block(3, kind).branch(x).min().item()
            assert_equal(smallest < 0, kind == "e", f"whether the branch of kind {kind} has any")


@pytest.mark.exercise("variants")
def test_first_layer_of_the_branch(student):
    """Where x = -1 everywhere, the ReLU of (d) lets nothing through to its first convolution."""
    x = -torch.ones(1, 2, 4, 4)
    for kind, zero in (("a", False), ("d", True)):
        block = student.Block(2, kind).eval()
        with torch.no_grad(), unchanged(x):
            nothing = bool((block.branch(x).abs() < 1e-7).all())
        assert_equal(nothing, zero, f"whether the branch of kind {kind} is zero here")


@pytest.mark.exercise("variants")
def test_kinds(student):
    """Any other kind raises a ValueError."""
    for kind in ("f", "ab"):
        with raises(ValueError):
            student.Block(3, kind)


# --- dense -----------------------------------------------------------------------------------


@pytest.mark.exercise("dense")
def test_layer_joins(student):
    """`DenseLayer` gives its input unchanged, and k new channels after it."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3)
    y = student.DenseLayer(5, 2)(x)
    assert_equal(tuple(y.shape), (2, 7, 4, 3), "the shape")
    assert_close(y[:, :5], x, "the first five channels")


@pytest.mark.exercise("dense")
def test_block_grows(student):
    """`DenseBlock` of 3 layers turns 4 channels into 4 + 3 · 2; `conv1` of the last reads 8."""
    block = student.DenseBlock(3, 4, 2)
    assert_equal(tuple(block(torch.randn(2, 4, 3, 3)).shape), (2, 10, 3, 3), "the shape")
    reads = [m.conv1.weight.shape[1] for m in block.modules() if hasattr(m, "conv1")]
    assert_equal(reads, [4, 6, 8], "the channels that the layers read")


@pytest.mark.exercise("dense")
def test_transition_shrinks(student):
    """`Transition` rounds theta · cin down, and halves the map by averaging."""
    y = student.Transition(7, 0.5)(torch.randn(2, 7, 6, 5))
    assert_equal(tuple(y.shape), (2, 3, 3, 2), "the shape")
    with raises(ValueError):
        student.Transition(8, 1.5)


@pytest.mark.exercise("dense")
def test_small_densenet(student):
    """`densenet(4, (2, 2), 0.5, 10)` has 4,706 parameters, and takes pictures of any size."""
    net = student.densenet(4, (2, 2), 0.5, 10).eval()
    assert_close(
        sum(p.numel() for p in net.parameters()),
        4706,
        "the number of parameters",
        symptoms={
            "A transition stands behind the last block; they stand between blocks.": 4770,
        },
    )
    with torch.no_grad():
        for size in ((32, 32), (64, 40)):
            out = net(torch.zeros(1, 3, *size))
            assert_equal(tuple(out.shape), (1, 10), f"the shape for {size}")


# --- fusion ----------------------------------------------------------------------------------


@pytest.mark.exercise("fusion")
def test_equals_adding(student):
    """`shared_concat_conv` equals the convolution of x + y, and keeps the size."""
    torch.manual_seed(0)
    x, y, w = torch.randn(1, 2, 4, 5), torch.randn(1, 2, 4, 5), torch.randn(3, 2, 3, 3)
    with unchanged(x, y, w):
        got = student.shared_concat_conv(x, y, w)
    assert_close(
        got,
        F.conv2d(x + y, w, padding=1),
        symptoms={
            "The size should stay; pad by half of the kernel.": F.conv2d(x + y, w),
            "Only x is convolved.": F.conv2d(x, w, padding=1),
        },
    )
    with raises(ValueError):
        student.shared_concat_conv(x, y[:, :1], w)


@pytest.mark.exercise("fusion")
def test_price(student):
    """Concatenating 4 + 4 channels before a 3x3 with 5 outputs needs 180 more weights."""
    assert_close(
        student.extra_params(4, 5, 3),
        180,
        "`extra_params(4, 5, 3)`",
        symptoms={"This is the whole layer after concatenating.": 360},
    )


# --- repvgg ----------------------------------------------------------------------------------


def trained(block):
    """The block after a few batches in training mode, then in eval mode."""
    torch.manual_seed(0)
    channels = block.conv3.weight.shape[0]
    with torch.no_grad():
        for _ in range(3):
            block(2 * torch.randn(4, channels, 5, 5) + 1)
        for bn in (block.bn3, block.bn1, block.bn0):
            if bn is not None:
                bn.weight.uniform_(0.5, 2.0)
                bn.bias.uniform_(-1.0, 1.0)
    return block.eval()


@pytest.mark.exercise("repvgg")
def test_branches(student):
    """`RepBlock` has three branches for stride 1, two for stride 2, and no ReLU."""
    block = student.RepBlock(4)
    assert_true(block.bn0 is not None, "For stride 1 there is an identity branch with `bn0`.")
    assert_true(student.RepBlock(4, 2).bn0 is None, "For stride 2, `bn0` should be None.")
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        expected = block.bn3(block.conv3(x)) + block.bn1(block.conv1(x)) + block.bn0(x)
        assert_close(
            block(x),
            expected,
            symptoms={"There should be no ReLU at the end.": F.relu(expected)},
        )


@pytest.mark.exercise("repvgg")
def test_fuse(student):
    """`fuse` gives one 3x3 convolution that does what the block does in eval mode."""
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    for stride, groups in ((1, 1), (2, 1), (1, 2)):
        block = trained(student.RepBlock(4, stride, groups))
        with torch.no_grad():
            fused = student.fuse(block)
            what = f"the output for stride={stride}, groups={groups}"
            assert_close(fused(x), block(x), what, rtol=1e-3, atol=1e-4)
    assert_equal(tuple(fused.weight.shape), (4, 2, 3, 3), "the fused weight's shape for 2 groups")


@pytest.mark.exercise("repvgg")
def test_identity_alone(student):
    """With zero convolutions and a fresh `bn0`, the kernel is 1 at the centre of its own channel."""
    block = student.RepBlock(3).eval()
    with torch.no_grad():
        block.conv3.weight.zero_()
        block.conv1.weight.zero_()
        kernel = student.fuse(block).weight
    centre = torch.zeros(3, 3, 3, 3)
    centre[range(3), range(3), 1, 1] = 1
    ones = torch.zeros(3, 3, 3, 3)
    ones[range(3), range(3)] = 1
    assert_close(
        kernel,
        centre,
        "the fused weight",
        rtol=1e-3,
        atol=1e-4,
        symptoms={
            "Nine ones sum over the window; the identity is 1 at the centre only.": ones,
            "The identity branch is missing.": torch.zeros_like(centre),
        },
    )


@pytest.mark.exercise("repvgg")
def test_not_while_training(student):
    """`fuse` refuses a block in training mode."""
    with raises(ValueError):
        student.fuse(student.RepBlock(3))


# --- debug -----------------------------------------------------------------------------------


@probe
def one_less(x):
    return x - 1


@probe
def twice(x):
    return 2 * x


@pytest.mark.exercise("debug")
def test_clean_shortcut(student):
    """`preact` adds the branch to the unchanged input."""
    x = torch.tensor([-2.0, -1.0, 0.5, 3.0])
    with unchanged(x):
        got = student.preact(x, torch.zeros_like, torch.zeros_like)
    assert_close(got, x, symptoms={"There is a ReLU on the shortcut.": F.relu(x)})
    got = student.preact(x, one_less, twice)
    assert_close(got, torch.tensor([-2.0, -1.0, 0.5, 7.0]), "the output with a branch")
