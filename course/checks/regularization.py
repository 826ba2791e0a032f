"""Public checks of the chapter on regularisation and dropout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.testing import (
    assert_close,
    assert_equal,
    assert_true,
    probe,
    raises,
)

HINTS = {
    "biasvar": [
        "Collect the predictions of all sets in one tensor of shape (n_sets, n): "
        "`torch.stack`. Which axis counts the sets?",
        "bias2 compares the *mean over the sets* with f(x0). var compares every prediction with "
        "that mean.",
        "For mse, draw new noise for every prediction (`generator=rng`). The targets that were "
        "fitted would flatter a model that memorises them.",
    ],
    "ridge-lasso": [
        "`soft_threshold`: the sign of v, times what is left of |v| after t is taken away, but "
        "not less than 0.",
        "`ridge`: set the gradient of the stated function to zero. Mind the 1 / n: it belongs to "
        "X^T X and to X^T y, and not to lam.",
        "`lasso_ista`: a step of length 1 / ell against the gradient of the smooth part, then a "
        "soft threshold of lam / ell. `torch.linalg.eigvalsh` sorts the eigenvalues upwards.",
    ],
    "decay": [
        "`p.dim()` tells the number of axes. `model.parameters()` gives a shared parameter once.",
        "`sgd_decay_step`: work on p itself, with methods that end in an underscore, under "
        "`torch.no_grad()`.",
        "First shrink p by the factor 1 - lr * wd, then subtract lr * g. Skip a p whose gradient "
        "is None before you do either.",
    ],
    "dropout": [
        "`torch.rand_like(x) < keep` is a mask that is True with probability keep, entry by entry.",
        "nn.Module sets `self.training` for you; `train()` and `eval()` switch it.",
        "With p = 1 the division is by zero. Nothing is kept then, so any other divisor will do.",
    ],
    "spatial": [
        "A mask may have length 1 along an axis: broadcasting then gives all entries of that axis "
        "the same value.",
        "`SpatialDropout`: copy the shape of x into a list and put 1 at the shared axes.",
        "`DropConnectLinear`: the mask has the shape (N, out, in). `torch.einsum` with "
        "'noi,ni->no' multiplies each example with its own weights. Scale before the bias is "
        "added.",
    ],
    "depth": [
        "`survival` is a straight line in l, from 1 at l = 0 to pL at l = L.",
        "`DropPath`: the mask has the shape (N, 1, 1, …), with as many axes as x.",
        "In batch mode the first axis of the mask has length 1 as well.",
    ],
    "dropblock": [
        "`dropblock_gamma`: `pair(feat)` gives height and width. How many positions has a block "
        "along an axis?",
        "`DropBlock`: draw the seeds on the small grid of positions. To let each seed grow into a "
        "block, pad by block - 1 on all sides and take a maximum over block x block windows.",
        "The scale is (entries of the mask) / (ones in the mask). What if there are no ones?",
    ],
    "flood": [
        "`flood`: an absolute value folds the loss up at the level b.",
        "`EarlyStopper`: how many epochs ago was the best one? Compare that with the patience.",
        "The tensors of `model.state_dict()` are the parameters themselves: training goes on "
        "changing them. Keep a copy.",
    ],
    "debug": [
        "What type has `p.norm().item()`, and what can autograd know about it?",
        "Stay with tensors from the parameter to the loss: `p.pow(2).sum()`.",
    ],
}


# --- biasvar -----------------------------------------------------------------------------------


@probe
def always_two(x, y):
    return torch.full_like(y, 2.0)


@probe
def memorise(x, y):
    return y.clone()


@probe
def squares(x):
    return x**2


@pytest.mark.exercise("biasvar")
def test_a_stubborn_model(student):
    """A model that always says 2 has no variance; its bias is its distance from f."""
    x0 = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)  # f: 0, 1, 4
    rng = torch.Generator().manual_seed(0)
    bias2, var, noise, mse = student.decompose(always_two, x0, squares, 0.5, 300, rng)
    assert_close(
        bias2,
        3.0,  # (4 + 1 + 4) / 3
        "bias2",
        symptoms={
            "This is the bias itself; it should be squared at each point.": 1 / 3,
            "This is the squared mean bias; square at each point, then average.": 1 / 9,
            "This is the sum over x0; take the mean.": 9.0,
        },
    )
    assert_close(var, 0.0, "var", atol=1e-12)
    assert_close(noise, 0.25, "noise", symptoms={"The noise is sigma squared.": 0.5})
    assert_close(mse, 3.25, "mse", rtol=0.05)


@pytest.mark.exercise("biasvar")
def test_a_model_that_memorises(student):
    """A model that repeats its targets has the variance sigma², and an error of 2 sigma²."""
    x0 = torch.linspace(-1, 1, 8, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    bias2, var, _, mse = student.decompose(memorise, x0, squares, 2.0, 1000, rng)
    assert_close(bias2, 0.0, "bias2", atol=0.05)
    assert_close(var, 4.0, "var", rtol=0.1)
    assert_true(
        mse > 1.0, f"mse is {mse:.2f}: compare with new targets, not with those that were fitted."
    )
    assert_close(mse, 8.0, "mse", rtol=0.1)


# --- ridge-lasso -------------------------------------------------------------------------------


@pytest.mark.exercise("ridge-lasso")
def test_soft_threshold(student):
    """`soft_threshold` moves by t towards zero, and no further."""
    v = torch.tensor([3.0, -2.0, 0.5, -0.5, 1.0, 0.0])
    assert_close(
        student.soft_threshold(v, 1.0),
        torch.tensor([2.0, -1.0, 0.0, 0.0, 0.0, 0.0]),
        symptoms={
            "This is the hard threshold: what survives should move by t, too.": torch.tensor(
                [3.0, -2.0, 0.0, 0.0, 0.0, 0.0]
            ),
            "It has moved past zero.": v - v.sign(),
            "Negative numbers should move upwards.": (v - 1).clamp(min=0),
        },
    )
    with raises(ValueError):
        student.soft_threshold(v, -0.1)


@pytest.mark.exercise("ridge-lasso")
def test_ridge_by_hand(student):
    """`ridge` minimises the stated function, with its 1 / n and its 1 / 2."""
    X = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([3.0, 5.0, 4.0, 1.0], dtype=torch.float64)
    # X^T X / n = diag(0.5, 1), X^T y / n = (2, 2)
    assert_close(
        student.ridge(X, y, 0.5),
        torch.tensor([2.0, 4 / 3], dtype=torch.float64),
        "w",
        symptoms={
            "The 1 / n is missing: lam is too small beside X^T X.": torch.tensor(
                [8 / 2.5, 8 / 4.5], dtype=torch.float64
            ),
            "The penalty counts twice: it has a factor 1 / 2.": torch.tensor(
                [2 / 1.5, 1.0], dtype=torch.float64
            ),
            "The penalty has no effect.": torch.tensor([4.0, 2.0], dtype=torch.float64),
        },
    )


@pytest.mark.exercise("ridge-lasso")
def test_lasso_by_hand(student):
    """`lasso_ista` starts at zero and finds the minimum."""
    X = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([3.0, 5.0, 1.0, 1.0], dtype=torch.float64)
    # X^T X / n = diag(0.5, 1), X^T y / n = (2, 0.5), ell = 1
    zero = torch.zeros(2, dtype=torch.float64)
    assert_close(student.lasso_ista(X, y, 0.6, 0), zero, "w after no step")
    one = torch.tensor([1.4, 0.0], dtype=torch.float64)
    assert_close(
        student.lasso_ista(X, y, 0.6, 1),
        one,
        "w after one step",
        symptoms={
            "There is a step, but no threshold.": torch.tensor([2.0, 0.5], dtype=torch.float64),
            "The 1 / n is missing.": torch.tensor([1.85, 0.35], dtype=torch.float64),
        },
    )
    best = torch.tensor([2.8, 0.0], dtype=torch.float64)
    assert_close(student.lasso_ista(X, y, 0.6, 100), best, "w after 100 steps")


# --- decay -------------------------------------------------------------------------------------


@probe
def named_groups(student):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = student.decay_groups(model, 0.1)
    return [([names.get(id(p), "?") for p in g["params"]], g["weight_decay"]) for g in groups]


@pytest.mark.exercise("decay")
def test_two_groups(student):
    """`decay_groups` decays the weights of dense layers, and neither biases nor batch norm."""
    groups = student.run(named_groups)
    assert_equal(len(groups), 2, "the number of groups")
    assert_equal(list(groups[0][0]), ["0.weight", "2.weight"], "the parameters that decay")
    assert_equal(
        list(groups[1][0]), ["0.bias", "1.weight", "1.bias", "2.bias"], "those that do not"
    )
    assert_equal([groups[0][1], groups[1][1]], [0.1, 0.0], "their weight_decay")


@pytest.mark.exercise("decay")
def test_one_step(student):
    """`sgd_decay_step` shrinks p, then steps against g, in place."""
    p, g = torch.tensor([2.0, -2.0]), torch.tensor([0.3, 0.3])
    student.sgd_decay_step([p], [g], 0.1, 0.5)
    assert_close(
        p,
        torch.tensor([1.87, -1.93]),
        "p",
        symptoms={
            "Nothing has changed: work in place, on p itself.": torch.tensor([2.0, -2.0]),
            "The decay lacks the learning rate.": torch.tensor([0.97, -1.03]),
            "There is no decay.": torch.tensor([1.97, -2.03]),
            "The step goes uphill.": torch.tensor([1.93, -1.87]),
            "The step is taken first and then shrunk, too.": torch.tensor([1.8715, -1.9285]),
        },
    )
    q = torch.tensor([4.0])
    student.sgd_decay_step([q], [None], 0.1, 0.5)
    assert_close(q, torch.tensor([4.0]), "a parameter without a gradient")
    with raises(ValueError):
        student.sgd_decay_step([p, q], [g], 0.1, 0.5)


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.exercise("dropout")
def test_inverted(student):
    """In training, `MyDropout(0.2)` gives 0 or x / 0.8; on average x stays."""
    x = torch.full((5000,), 4.0)
    y = student.MyDropout(0.2)(x)
    kept = y[y != 0]
    assert_close(
        kept,
        torch.full_like(kept, 5.0),
        "what is kept",
        symptoms={
            "What is kept should be divided by the keep probability.": torch.full_like(kept, 4.0),
            "It is divided by p; divide by 1 - p.": torch.full_like(kept, 20.0),
        },
    )
    share = len(kept) / 5000
    assert_true(share > 0.5, f"A share of {share:.2f} is kept: p is the probability to drop.")
    assert_close(share, 0.8, "the share that is kept", atol=0.04)


@pytest.mark.exercise("dropout")
def test_evaluation(student):
    """In evaluation mode, `MyDropout` does nothing; `classic_dropout` scales by 1 - p."""
    x = torch.tensor([1.0, -2.0, 4.0])
    assert_close(student.MyDropout(0.25).eval()(x), x, "MyDropout in evaluation mode")
    assert_close(
        student.classic_dropout(x, 0.25, False),
        0.75 * x,
        "classic_dropout without training",
        symptoms={
            "It should be scaled by the keep probability.": x,
            "p is the probability to drop; scale by 1 - p.": 0.25 * x,
        },
    )


@pytest.mark.exercise("dropout")
def test_classic_training(student):
    """In training, `classic_dropout` keeps x as it is, or gives 0."""
    x = torch.full((5000,), 4.0)
    y = student.classic_dropout(x, 0.25, True)
    kept = y[y != 0]
    assert_close(kept, torch.full_like(kept, 4.0), "what is kept")
    assert_close(len(kept) / 5000, 0.75, "the share that is kept", atol=0.04)


@pytest.mark.exercise("dropout")
def test_edges(student):
    """p = 1 gives zeros, p = 1.5 a ValueError, integers a TypeError."""
    x = torch.tensor([1.0, -2.0, 4.0])
    assert_close(student.MyDropout(1.0)(x), torch.zeros(3), "p = 1")
    with raises(ValueError):
        student.MyDropout(1.5)
    with raises(TypeError):
        student.MyDropout(0.5)(torch.tensor([1, 2, 3]))


# --- spatial -----------------------------------------------------------------------------------


@pytest.mark.exercise("spatial")
def test_whole_channels(student):
    """With `shared_dims=(2, 3)`, a channel is dropped as a whole, or kept and scaled."""
    x = torch.ones(50, 4, 3, 5)
    y = student.SpatialDropout(0.5, (2, 3))(x)
    assert_close(y, y[:, :, :1, :1].expand(50, 4, 3, 5), "all entries of a channel")
    values = sorted(set(y.flatten().tolist()))
    assert_close(values, [0.0, 2.0], "the values")
    channels = y[:, :, 0, 0]
    assert_true(
        bool((channels != channels[:, :1]).any()), "Channels of an example should differ in fate."
    )
    assert_close(student.SpatialDropout(0.5, (2, 3)).eval()(x), x, "evaluation mode")


@pytest.mark.exercise("spatial")
def test_dropconnect(student):
    """`DropConnectLinear` is a linear layer in evaluation, and has the same mean in training."""
    layer = student.DropConnectLinear(3, 2, 0.25)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert_equal(tuple(weight.shape), (2, 3), "the shape of weight")
    assert_equal(tuple(bias.shape), (2,), "the shape of bias")
    x = torch.tensor([[1.0, 2.0, -1.0]])
    plain = F.linear(x, weight, bias)
    layer.eval()
    assert_close(layer(x), plain, "the output in evaluation mode")
    layer.train()
    many = layer(x.expand(4000, 3)).detach()
    assert_true(bool((many != many[:1]).any()), "Every example should have a mask of its own.")
    assert_close(many.mean(0), plain[0].detach(), "the mean in training mode", atol=0.1)


# --- depth -------------------------------------------------------------------------------------


@pytest.mark.exercise("depth")
def test_survival(student):
    """`survival` falls in a straight line from 1 to pL."""
    got = [student.survival(k, 4, 0.6) for k in range(5)]
    assert_close(
        got,
        [1.0, 0.9, 0.8, 0.7, 0.6],
        "survival(0, 4, 0.6) to survival(4, 4, 0.6)",
        symptoms={
            "These are the probabilities to be dropped.": [0.0, 0.1, 0.2, 0.3, 0.4],
            "It should fall by the share 1 - pL, not by pL.": [1.0, 0.85, 0.7, 0.55, 0.4],
        },
    )
    with raises(ValueError):
        student.survival(5, 4, 0.6)


@pytest.mark.exercise("depth")
def test_rows(student):
    """`DropPath(0.5)` drops whole examples, or doubles them."""
    x = torch.ones(40, 3, 2)
    y = student.DropPath(0.5)(x)
    assert_close(y, y[:, :1, :1].expand(40, 3, 2), "all entries of an example")
    assert_close(sorted(set(y.flatten().tolist())), [0.0, 2.0], "the values")
    assert_close(student.DropPath(0.5).eval()(x), x, "evaluation mode")


@pytest.mark.exercise("depth")
def test_batch_mode(student):
    """In batch mode all examples share one draw; another mode is a ValueError."""
    layer, x = student.DropPath(0.5, "batch"), torch.ones(6, 2)
    seen = set()
    for _ in range(30):
        y = layer(x)
        assert_close(y, y[:1, :1].expand(6, 2), "all entries of a batch")
        seen.add(y[0, 0].item())
    assert_close(sorted(seen), [0.0, 2.0], "the values in thirty calls")
    with raises(ValueError):
        student.DropPath(0.5, "column")


# --- dropblock ---------------------------------------------------------------------------------


@pytest.mark.exercise("dropblock")
def test_gamma(student):
    """`dropblock_gamma` counts the positions at which a block fits."""
    assert_close(
        student.dropblock_gamma(0.9, 3, 12),
        0.1 / 9 * 144 / 100,
        "dropblock_gamma(0.9, 3, 12)",
        symptoms={
            "The second factor is missing.": 0.1 / 9,
            "keep is the share to keep; drop 1 - keep.": 0.9 / 9 * 144 / 100,
            "A block of 3 has 12 - 3 + 1 positions.": 0.1 / 9 * 144 / 81,
        },
    )
    assert_close(
        student.dropblock_gamma(0.8, 2, (4, 6)), 0.2 / 4 * 24 / 15, "gamma for a 4 x 6 map"
    )
    with raises(ValueError):
        student.dropblock_gamma(0.9, 8, 7)


@pytest.mark.exercise("dropblock")
def test_blocks(student):
    """`DropBlock` drops squares, and rescales by what it kept."""
    x = torch.ones(30, 2, 9, 9)
    layer = student.DropBlock(0.8, 3)
    y = layer(x)
    dropped = (y == 0).float()
    share = dropped.mean().item()
    assert_true(0.1 < share < 0.3, f"A share of {share:.2f} is dropped; 0.2 was wanted.")
    # A square is what is left of the dropped pixels when all 3 x 3 windows are looked at.
    inside = -F.max_pool2d(-dropped, 3, stride=1)
    grown = F.max_pool2d(F.pad(inside, [2] * 4), 3, stride=1)
    assert_close(grown, dropped, "the dropped pixels, covered by 3 x 3 squares")
    assert_close(
        y.mean().item(),
        1.0,
        "the mean of the output",
        rtol=1e-4,
        symptoms={"What is kept is not rescaled.": 1 - share},
    )
    layer.eval()
    assert_close(layer(x), x, "evaluation mode")


@pytest.mark.exercise("dropblock")
def test_uniform(student):
    """`UniformDropout(0.5)` multiplies by numbers between 0.5 and 1.5."""
    x = torch.full((4000,), 2.0)
    layer = student.UniformDropout(0.5)
    y = layer(x)
    low, high, mean = y.min().item(), y.max().item(), y.mean().item()
    assert_close([low, high, mean], [1.0, 3.0, 2.0], "(smallest, largest, mean)", atol=0.05)
    layer.eval()
    assert_close(layer(x), x, "evaluation mode")
    with raises(ValueError):
        student.UniformDropout(-0.1)


# --- flood -------------------------------------------------------------------------------------


@pytest.mark.exercise("flood")
def test_flood(student):
    """`flood` leaves a loss above b alone, and turns the gradient round below."""
    loss = torch.tensor([1.0, 0.1, 0.4], requires_grad=True)
    y = student.flood(loss, 0.4)
    assert_close(
        y.detach(),
        torch.tensor([1.0, 0.7, 0.4]),
        symptoms={
            "The level b is not added again.": torch.tensor([0.6, 0.3, 0.0]),
            "The loss is cut off at b; then there is no gradient below.": torch.tensor(
                [1.0, 0.4, 0.4]
            ),
        },
    )
    y.sum().backward()
    assert_close(loss.grad, torch.tensor([1.0, -1.0, 0.0]), "the gradient")


@probe
def watch_training(student, values, kw):
    """Feed values to a stopper; the model's weight is the number of the epoch."""
    stopper, model = student.EarlyStopper(**kw), nn.Linear(1, 1)
    stops = []
    for epoch, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(float(epoch))
        stops.append(bool(stopper.step(value, model)))
        if stops[-1]:
            break
    stopper.restore(model)
    return stops, stopper.best, stopper.best_epoch, model.weight.item()


@pytest.mark.exercise("flood")
def test_stopper(student):
    """`EarlyStopper` waits for `patience` bad epochs in a row and restores the best weights."""
    values = [0.9, 0.7, 0.8, 0.6, 0.65, 0.66, 0.61, 0.5]
    stops, best, epoch, weight = student.run(watch_training, values, {"patience": 3})
    assert_equal(len(stops), 7, "the number of epochs until it stops")
    assert_close(best, 0.6, "best")
    assert_equal(epoch, 3, "best_epoch")
    assert_close(
        weight,
        3.0,
        "the restored weight (the number of its epoch)",
        symptoms={
            "These are the last weights. Does the stopper keep a copy, or the model's own "
            "tensors, which training goes on changing?": 6.0
        },
    )


@pytest.mark.exercise("flood")
def test_stopper_options(student):
    """`mode="max"` wants large values; an improvement has to be larger than `min_delta`."""
    stops, _, epoch, _ = student.run(
        watch_training, [0.5, 0.8, 0.7, 0.6], {"patience": 2, "mode": "max"}
    )
    assert_equal((len(stops), epoch), (4, 1), "(epochs until it stops, best_epoch)")
    stops, _, epoch, _ = student.run(
        watch_training, [1.0, 0.9, 0.8, 0.2], {"patience": 2, "min_delta": 0.25}
    )
    assert_equal((len(stops), epoch), (3, 0), "(epochs until it stops, best_epoch)")
    with raises(ValueError):
        student.EarlyStopper(3, mode="lowest")


# --- debug -------------------------------------------------------------------------------------


@pytest.mark.exercise("debug")
def test_the_penalty_has_a_gradient(student):
    """`penalised_loss` adds lam / 2 * |weights|² to the loss, and lam * weight to the gradient."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(3.0)
    x, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0]])
    loss = student.penalised_loss(model, x, y, 4.0)
    assert_close(
        loss.item(),
        11.0,  # (2 - 1)^2 + 2 * (1 + 4)
        "the loss",
        symptoms={
            "The bias is penalised, too.": 29.0,
            "The factor 1 / 2 is missing.": 21.0,
            "The norm is not squared.": 1 + 2 * 5**0.5,
        },
    )
    loss.backward()
    assert_close(
        model.weight.grad,
        torch.tensor([[6.0, -6.0]]),  # 2 * 1 * x + 4 * w
        "the gradient of the weight",
        symptoms={
            "The penalty has no gradient: a number has no history.": torch.tensor([[2.0, 2.0]])
        },
    )
