"""Public checks of the chapter on hooks, CAM and TensorBoard."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import assert_close, assert_equal, probe, raises

HINTS = {
    "tensor": [
        "`t.register_hook(f)` returns the handle. What f returns takes the place of the gradient.",
        "`clip_grad_hook`: a method of tensors limits every entry from below and above. Its name "
        "without an underscore at the end makes a new tensor.",
        "`grads_of`: make a list of None, one for each tensor. Each hook writes into its own "
        "place. In a loop, a lambda needs `i=i` among its arguments to remember which.",
        "Call `f(*tensors).backward()` inside `try`, and remove the handles in `finally`.",
    ],
    "features": [
        "`dict(model.named_modules())[name]` finds a layer, and raises a KeyError by itself. Do "
        "this in `__init__`, for all names, before any hook is registered.",
        "Each hook must know its name: write a method `keep(self, name)` that defines a hook and "
        "returns it.",
        "The hook keeps the output and returns `output.clone()`, so that a layer that works in "
        "place writes into the clone.",
        "`__enter__` registers and returns self; `__exit__` removes all handles and empties the "
        "list; `__call__` starts with a new dict.",
    ],
    "pre": [
        "`ablate` is a forward hook that returns a changed output. Change a clone.",
        "`output[:, channels] = 0` works for any number of axes after the second.",
        "`normalize_input` is a forward pre-hook `hook(module, args)`. `x, *rest = args` takes the "
        "first input off; return a tuple with the new x and the rest.",
        "Turn mean and std into tensors of x's dtype and device, and give them the shape "
        "(C, 1, 1), so that they are broadcast over channels.",
    ],
    "backward": [
        "`module.register_full_backward_hook(hook)` with `hook(module, grad_input, grad_output)`: "
        "both are tuples of tensors.",
        "grad_input is there only if the input requires a gradient: take "
        "`x.detach().requires_grad_()`.",
        "`torch.autograd.grad(loss, x)` runs the backward pass, hooks included, without writing "
        "into any `.grad`.",
    ],
    "cam": [
        "`cam`: multiply map k by `weights[cls, k]`, sum over k, ReLU, then `F.interpolate`. It "
        "wants four axes: add one for the channel and take it off again.",
        "`gradcam`: a forward hook on the layer keeps its output. With "
        "`scores[torch.arange(N), cls].sum()` every image gets its own gradient.",
        "`torch.autograd.grad(score, maps)` gives the gradient; its mean over the two last axes "
        "is alpha.",
        "For frozen models let the input require a gradient; inside of `torch.no_grad()` use "
        "`torch.enable_grad()`. Note each module's `training` first, and restore it in `finally`.",
    ],
    "summary": [
        "A layer is a module with `not list(module.children())`. Give each a forward hook that "
        "appends a row.",
        "The hook must know the layer's name: let a function `note(name)` make it.",
        "Remember `id(p)` of every parameter that has been counted.",
        "Before the run, note `(module, module.training)` for all modules; restore it in "
        "`finally`, and remove the handles there.",
    ],
    "grid": [
        "How many columns are there, if there are fewer images than nrow? And how many rows?",
        "`imgs.new_full((C, height, width), pad_value)` makes the empty grid.",
        "Image i is in row `i // columns` and column `i % columns`. Its top edge is at "
        "`row * (H + padding) + padding`.",
        "Normalise before you place the images, or the frame is normalised as well.",
    ],
    "debug": [
        "How many variables called `name` are there in `remember_broken`? When is it read?",
        "Give each hook a variable of its own: a function that takes name, and defines and "
        "returns the hook.",
    ],
}

# --- tensor ----------------------------------------------------------------------------------


@probe
def clip_in_the_middle(student, limit):
    """Gradients of x and of a neighbour for z = h + n, where h = 2x is clipped; then without."""
    x = torch.zeros(3, requires_grad=True)
    n = torch.zeros(3, requires_grad=True)
    neighbour = 1 * n
    h = 2 * x
    handle = student.clip_grad_hook(h, limit)
    z = (h + neighbour) * torch.tensor([-3.0, 0.5, 2.0])
    z.sum().backward(retain_graph=True)
    first = x.grad.clone(), n.grad.clone()
    handle.remove()
    x.grad = None
    z.sum().backward()
    return [*first, x.grad]


@pytest.mark.exercise("tensor")
def test_clipped_and_released(student):
    """`clip_grad_hook` clips each entry of this tensor's gradient until it is removed."""
    clipped, neighbour, whole = student.run(clip_in_the_middle, 1.0)
    assert_close(
        clipped,
        torch.tensor([-2.0, 1.0, 2.0]),
        "the gradient before h",
        symptoms={
            "Only the upper end is clipped.": torch.tensor([-6.0, 1.0, 2.0]),
            "Nothing is clipped: does the hook return something?": torch.tensor([-6.0, 1.0, 4.0]),
        },
    )
    assert_close(
        neighbour,
        torch.tensor([-3.0, 0.5, 2.0]),
        "the gradient of a neighbour",
        symptoms={
            "The gradient was changed in place, and the neighbour shares it.": torch.tensor(
                [-1.0, 0.5, 1.0]
            )
        },
    )
    assert_close(whole, torch.tensor([-6.0, 1.0, 4.0]), "the gradient after `remove`")
    with raises(ValueError):
        student.clip_grad_hook(torch.ones(2, requires_grad=True), 0)


@probe
def catch_three(student):
    """Gradients of (h²).sum() with h = 3x for x, h and an unused tensor, and what is left."""
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    h = 3 * x
    unused = torch.ones(2, requires_grad=True)

    def f(x, h, unused):
        return (h**2).sum()

    got = [None if g is None else g.detach() for g in student.grads_of(f, [x, h, unused])]
    return got, len(h._backward_hooks or {}), h.retains_grad


@pytest.mark.exercise("tensor")
def test_caught(student):
    """`grads_of` returns the gradients of leaves and intermediate tensors, and leaves no hook."""
    got, hooks, retains = student.run(catch_three)
    h = torch.tensor([6.0, -12.0])
    assert_close(
        list(got),
        [3 * h, h, None],
        "the gradients of x, h and an unused tensor",
        symptoms={
            "All hooks write into the last place: they share the loop's variable.": [
                None,
                None,
                3 * h,
            ]
        },
    )
    assert_equal(hooks, 0, "the number of hooks left")
    assert_equal(retains, False, "`h.retains_grad`")


# --- features --------------------------------------------------------------------------------


@probe
def features_of_two(student, inplace):
    """What Features keeps of a small net, and the numbers of hooks within and after the block."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=inplace), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
        net[0].bias.zero_()
    counts = []
    with student.Features(net, ["0", "1"]) as features:
        kept = features(torch.tensor([[-1.0, 3.0]]))
        counts.append(sum(len(m._forward_hooks) for m in net))
    counts.append(sum(len(m._forward_hooks) for m in net))
    return {name: value.detach() for name, value in kept.items()}, counts


@pytest.mark.exercise("features")
def test_kept(student):
    """`Features` keeps what the named layers return, and its hooks end with the block."""
    kept, counts = student.run(features_of_two, False)
    expected = {"0": torch.tensor([[-1.0, 3.0, 2.0]]), "1": torch.tensor([[0.0, 3.0, 2.0]])}
    assert_close(
        kept,
        expected,
        "the features",
        symptoms={
            "Every name has the last layer's output.": {
                "0": expected["1"],
                "1": expected["1"],
            }
        },
    )
    assert_close(
        list(counts),
        [2, 0],
        "the numbers of hooks within and after the block",
        symptoms={"The hooks stay behind.": [2, 2]},
    )


@pytest.mark.exercise("features")
def test_kept_before_inplace(student):
    """A kept tensor stays what its layer returned, even if the next layer works in place."""
    kept, _ = student.run(features_of_two, True)
    assert_close(
        kept["0"],
        torch.tensor([[-1.0, 3.0, 2.0]]),
        'features["0"]',
        symptoms={"The ReLU wrote into the tensor that you kept.": torch.tensor([[0.0, 3.0, 2.0]])},
    )


@probe
def errors_of_features(student):
    found = []
    net = nn.Sequential(nn.Linear(2, 3))
    for name in ("0", "9"):
        try:
            student.Features(net, [name])(torch.zeros(1, 2))
            found.append("no error")
        except NotImplementedError:
            raise
        except Exception as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.exercise("features")
def test_errors(student):
    """A call outside of the block is a RuntimeError, an unknown name a KeyError."""
    got = student.run(errors_of_features)
    assert_equal(list(got), ["RuntimeError", "KeyError"], "the errors")


# --- pre -------------------------------------------------------------------------------------


@probe
def cut_and_restore(student, x):
    """Cut channel 1 of an identity; its output, its input afterwards, and the restored output."""
    net = nn.Sequential(nn.Identity())
    handle = student.ablate(net, "0", [1])
    y = net(x).clone()
    handle.remove()
    return y, x.clone(), net(torch.ones(1, 2))


@pytest.mark.exercise("pre")
def test_cut(student):
    """`ablate` sets channels of a layer's output to zero, not in place, until it is removed."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = torch.tensor([[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]])
    y, after, restored = student.run(cut_and_restore, x.clone())
    assert_close(
        y,
        expected,
        symptoms={
            "Nothing is cut: does the hook return the new output?": x,
            "The first axis is the batch; channels are the second.": torch.tensor(
                [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
            ),
        },
    )
    assert_close(
        after,
        x,
        "the input, which an identity returns",
        symptoms={"The output was changed in place; change a clone.": expected},
    )
    assert_close(restored, torch.ones(1, 2), "the output after `remove`")


@pytest.mark.exercise("pre")
def test_unknown_layer(student):
    """`ablate` raises a KeyError for an unknown layer."""
    with raises(KeyError):
        student.ablate(nn.Sequential(nn.Identity()), "conv", [0])


@probe
def see_normalized(student, x):
    net = nn.Identity()
    handle = student.normalize_input(net, [1.0, 2.0], [2.0, 0.5])
    y = net(x).clone()
    handle.remove()
    return y, net(x).clone()


@pytest.mark.exercise("pre")
def test_normalized(student):
    """`normalize_input` lets the model see (x - mean) / std for each channel, until removed."""
    x = torch.tensor([3.0, 5.0, 2.0, 4.0], dtype=torch.float64).view(1, 2, 1, 2)
    expected = torch.tensor([1.0, 2.0, 0.0, 4.0], dtype=torch.float64).view(1, 2, 1, 2)
    y, after = student.run(see_normalized, x)
    assert_close(
        y,
        expected,
        "what the model sees",
        symptoms={
            "It is multiplied by std.": torch.tensor(
                [4.0, 8.0, 0.0, 1.0], dtype=torch.float64
            ).view(1, 2, 1, 2),
            "The hook has no effect: does it return anything?": x,
        },
    )
    assert_close(after, x, "what the model sees after `remove`")


# --- backward --------------------------------------------------------------------------------


@probe
def flow_of_three(student):
    """The report of scale-by-3, identity, sum of halves; hooks and gradients that are left."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(3 * torch.eye(2))
        net[2].weight.copy_(torch.tensor([[0.6, 0.8]]))
    x = torch.ones(1, 2)
    got = student.gradient_norms(net, lambda y: 2 * y.sum(), x)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(m, kind)) for m in net.modules() for kind in kinds)
    grads = [name for name, p in net.named_parameters() if p.grad is not None]
    return {name: [float(v) for v in pair] for name, pair in got.items()}, hooks, grads


@pytest.mark.exercise("backward")
def test_report(student):
    """`gradient_norms` gives each child's norms at its input and at its output."""
    got, _, _ = student.run(flow_of_three)
    expected = {"0": [6.0, 2.0], "1": [2.0, 2.0], "2": [2.0, 2.0]}
    assert_close(
        {name: list(pair) for name, pair in got.items()},
        expected,
        "the report",
        rtol=1e-5,
        symptoms={
            "Input and output are exchanged.": {n: pair[::-1] for n, pair in expected.items()}
        },
    )


@pytest.mark.exercise("backward")
def test_clean(student):
    """`gradient_norms` leaves no hook and touches no `.grad`."""
    _, hooks, grads = student.run(flow_of_three)
    assert_equal(hooks, 0, "the number of hooks left")
    assert_equal(list(grads), [], "the parameters with a gradient")


# --- cam -------------------------------------------------------------------------------------

MAPS = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[2.0, 0.0], [1.0, 1.0]]])[None]
WEIGHTS = torch.tensor([[1.0, 0.0], [2.0, -1.0]])


@pytest.mark.exercise("cam")
def test_weighted_sum(student):
    """`cam` adds the maps, weighted for the class, and cuts at zero, then enlarges."""
    signed = torch.tensor([[[-2.0, 2.0], [3.0, 5.0]]])
    assert_close(
        student.cam(MAPS, WEIGHTS, 1, (2, 2)),
        signed.relu(),
        "the map of class 1",
        symptoms={
            "Cut negative values at zero.": signed,
            "The weights are used as weights[k, cls]; a class has a row.": torch.tensor(
                [[[0.0, 0.0], [0.0, 0.0]]]
            ),
        },
    )
    expected = F.interpolate(signed.relu()[None], size=(3, 4), mode="bilinear")[0]
    assert_close(
        student.cam(MAPS, WEIGHTS, 1, (3, 4)),
        expected,
        "the map, enlarged",
        symptoms={
            "Cut at zero first, then enlarge.": F.interpolate(
                signed[None], size=(3, 4), mode="bilinear"
            )[0].relu(),
            "It was enlarged with align_corners=True.": F.interpolate(
                signed.relu()[None], size=(3, 4), mode="bilinear", align_corners=True
            )[0],
        },
    )
    both = student.cam(torch.cat([MAPS, MAPS]), WEIGHTS, torch.tensor([0, 1]), (2, 2))
    assert_close(both, torch.cat([MAPS[:, 0], signed.relu()]), "the maps of classes 0 and 1")


@probe
def gradcam_of_pooled(student, maps, weights, inplace):
    """Grad-CAM at a layer that copies, before pooling and a head, and what is left behind."""
    body = [nn.MaxPool2d(1), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(2, 2), nn.Dropout(0.9))
    with torch.no_grad():
        net[4].weight.copy_(weights)
    net.train()
    heat = [student.gradcam(net, "0", maps, c) for c in (0, 1)]
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    return heat, net.training, hooks, net[4].weight.grad is None


@pytest.mark.exercise("cam")
def test_pooled_gradients(student):
    """For a head behind global average pooling, `gradcam` is `cam` divided by HW."""
    (first, second), training, hooks, untouched = student.run(
        gradcam_of_pooled, MAPS + 1, WEIGHTS, False
    )
    expected = torch.tensor([[[0.0, 3.0], [4.0, 6.0]]]) / 4
    assert_close(first, (MAPS + 1)[:, 0] / 4, "the map of class 0")
    assert_close(
        second,
        torch.tensor([[[0.0, 3.0], [4.0, 6.0]]]) / 4,
        "the map of class 1",
        symptoms={
            "The gradients are summed; take their mean over positions.": 4 * expected,
            "The ReLU is missing.": torch.tensor([[[-1.0, 3.0], [4.0, 6.0]]]) / 4,
        },
    )
    assert_equal([training, hooks, untouched], [True, 0, True], "train mode, hooks left, no .grad")


@pytest.mark.exercise("cam")
def test_pooled_gradients_inplace(student):
    """`gradcam` sees the layer's own maps, also where a ReLU behind it works in place."""
    maps = torch.tensor([[[4.0, -2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])[None]
    (first, _), *_ = student.run(gradcam_of_pooled, maps, WEIGHTS, True)
    # The gradient of map 0 is 1/4 where it is positive, so its mean is 3/16.
    assert_close(
        first,
        torch.tensor([[[4.0, 0.0], [2.0, 1.0]]]) * 3 / 16,
        "the map of class 0",
        symptoms={
            "The gradient is that of the ReLU's output.": torch.tensor([[[4.0, 0], [2, 1]]]) / 4
        },
    )


# --- summary ---------------------------------------------------------------------------------


@probe
def summary_of_tied(student):
    """The rows of a net with a shared weight and a batch normalisation, and what is left."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    net = nn.Sequential(first, nn.Sequential(nn.BatchNorm1d(2), second))
    rows = student.summary(net, torch.ones(3, 2))
    left = [net.training, int(net[1][0].num_batches_tracked)]
    left.append(sum(len(m._forward_hooks) for m in net.modules()))
    return [[name, kind, tuple(shape), params] for name, kind, shape, params in rows], left


@pytest.mark.exercise("summary")
def test_rows(student):
    """`summary` has a row for each layer, and counts a shared parameter once."""
    got, _ = student.run(summary_of_tied)
    expected = [
        ["0", "Linear", (3, 2), 6],
        ["1.0", "BatchNorm1d", (3, 2), 4],
        ["1.1", "Linear", (3, 2), 0],
    ]
    assert_close(
        [list(row) for row in got],
        expected,
        "the rows",
        symptoms={
            "The shared weight is counted twice.": [*expected[:2], ["1.1", "Linear", (3, 2), 4]]
        },
    )


@pytest.mark.exercise("summary")
def test_model_untouched(student):
    """`summary` leaves mode, running statistics and hooks as they were."""
    _, left = student.run(summary_of_tied)
    assert_equal(list(left), [True, 0, 0], "train mode, batches counted, hooks left")


# --- grid ------------------------------------------------------------------------------------


@pytest.mark.exercise("grid")
def test_three_in_rows_of_two(student):
    """`make_grid` places images row by row, with a frame around each."""
    imgs = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 3, 1, 2)
    got = student.make_grid(imgs, nrow=2, padding=1, pad_value=9.0)
    expected = torch.full((3, 5, 7), 9.0)
    expected[:, 1, 1:3], expected[:, 1, 4:6], expected[:, 3, 1:3] = 1.0, 2.0, 3.0
    by_columns = torch.full((3, 5, 7), 9.0)
    by_columns[:, 1, 1:3], by_columns[:, 3, 1:3], by_columns[:, 1, 4:6] = 1.0, 2.0, 3.0
    assert_close(
        got,
        expected,
        "the grid",
        symptoms={"The images run down the columns; fill row by row.": by_columns},
    )


@pytest.mark.exercise("grid")
def test_grey_and_normalized(student):
    """Grey images become colour images, and `normalize` maps the range to [0, 1]."""
    imgs = torch.tensor([-1.0, 1.0, 3.0]).view(3, 1, 1, 1)
    line = student.make_grid(imgs, padding=0, normalize=True)
    assert_close(line, torch.tensor([[[0.0, 0.5, 1.0]]] * 3), "the line of three pixels")
    line = student.make_grid(imgs, padding=0, normalize=True, value_range=(0.0, 2.0))
    assert_close(
        line,
        torch.tensor([[[0.0, 0.5, 1.0]]] * 3),
        "the line with value_range=(0, 2)",
        symptoms={
            "Clip the values to the range first.": torch.tensor([[[-0.5, 0.5, 1.5]]] * 3),
        },
    )


@pytest.mark.exercise("grid")
def test_one_and_none(student):
    """One image comes back without a frame; an empty batch raises a ValueError."""
    assert_close(student.make_grid(torch.ones(1, 3, 2, 4)), torch.ones(3, 2, 4), "the one image")
    with raises(ValueError):
        student.make_grid(torch.zeros(0, 3, 2, 2))


# --- debug -----------------------------------------------------------------------------------


@probe
def remember_two(student):
    """Shapes after a first call, store and output after a second one, and the hooks left."""
    net = nn.Sequential(nn.Identity(), nn.Flatten())
    store, handles = student.remember(net)
    net(torch.ones(2, 3, 4))
    shapes = {name: list(value.shape) for name, value in store.items()}
    output = net(torch.full((1, 1, 2), 5.0)).tolist()
    second = {name: value.flatten().tolist() for name, value in store.items()}
    for handle in handles:
        handle.remove()
    return shapes, second, output, len(net[0]._forward_hooks)


@pytest.mark.exercise("debug")
def test_every_child(student):
    """`remember` keeps the output of each child under its own name, anew in every call."""
    shapes, second, output, left = student.run(remember_two)
    assert_close(
        {name: list(shape) for name, shape in shapes.items()},
        {"0": [2, 3, 4], "1": [2, 12]},
        "the shapes in the store",
        symptoms={"All hooks use the last name of the loop.": {"1": [2, 12]}},
    )
    assert_close(list(output), [[5.0, 5.0]], "the model's output in a second call")
    assert_close(
        {name: list(values) for name, values in second.items()},
        {"0": [5.0, 5.0], "1": [5.0, 5.0]},
        "the store after a second call",
    )
    assert_equal(left, 0, "the hooks left after removing all handles")
