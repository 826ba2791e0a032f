"""The trust boundary: what a test sees of a student's code that runs in another process."""

import collections
import contextlib
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autograder.remote import RemoteError, RemoteModule, RemoteStudent, remote_isinstance
from autograder.runner import Cell, Limits, StudentZygote, ZygoteError, run_exercise
from autograder.wire import WireError
from course.testing import AnswerLost, Mismatch, Test, does_not_call, probe

SET_UP = """
import math
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
"""


@pytest.fixture(scope="module")
def zygote():
    with StudentZygote() as warm:
        yield warm


@pytest.fixture
def answer(zygote):
    """Runs a snippet as a student's notebook; gives the student."""
    open_ = []

    def run(source, **limits) -> RemoteStudent:
        process = zygote.spawn([Cell("set-up", SET_UP), Cell("answer", source)], Limits(**limits))
        open_.append(process)
        student = process.student
        assert [r.status for r in process.reports] == ["run", "run"], process.reports
        student.reset(0)
        return student

    yield run
    for process in open_:
        process.close()


def randn(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


# --- values and memory ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -(10**40), 1.5, math.inf, -0.0, 2 - 3j, "naïve \ud800", b"\x00\xff",
        (1, [2, {"a": (3,)}], {4, 5}), frozenset({1}), slice(1, None, 2), range(3, 9, 2), ...,
        torch.float16, torch.channels_last, torch.device("cpu"), torch.Size([2, 3]),
        collections.OrderedDict(b=1, a=2), {(1, 2): "x", None: 0}, np.float32(1.5), np.bool_(True),
        Path("/some/where"), float, nn.ReLU, F.relu,
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),  # no address: xdist compares ids
)  # fmt: skip
def test_plain_values_come_back_equal(answer, value):
    result = answer("def same(x): return x").same(value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32, torch.complex128],
    ids=str,
)
def test_tensors_of_every_dtype_come_back_exactly(answer, dtype):
    x = (torch.randn(3, 4) * 100).to(dtype)
    result = answer("def double(x): return torch.cat([x, x])").double(x)
    assert result.dtype == dtype
    assert torch.equal(result, torch.cat([x, x]))


def test_layout_is_kept(answer):
    student = answer("def layout(x): return x.stride(), x.storage_offset(), x.is_contiguous()")
    base = torch.arange(24.0).reshape(4, 6)
    for x in (base, base.T, base[1:, ::2], base[:, :1].expand(4, 5), torch.empty(0, 3)):
        assert student.layout(x) == (x.stride(), x.storage_offset(), x.is_contiguous())


def test_the_very_argument_comes_back(answer):
    student = answer("def pair(x): return x, [x, x]")
    for value in (torch.ones(2), torch.ones(2, requires_grad=True), np.ones(2), [1], {"a": 1}):
        first, (second, third) = student.pair(value)
        assert first is second is third is value


def test_a_result_is_a_view_exactly_when_the_students_is(answer):
    student = answer("def view(x): return x.view(-1)\ndef copy(x): return x.clone().view(-1)")
    x = torch.zeros(2, 3)
    view, copy = student.view(x), student.copy(x)
    view[0], copy[1] = 9, 9
    assert x.tolist() == [[9, 0, 0], [0, 0, 0]]
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_aliasing_among_arguments_is_seen(answer):
    student = answer(
        """
def start(x): return x.untyped_storage().data_ptr()
def shares(x, y): return start(x) == start(y)
def same_memory(a, b): return np.may_share_memory(a, np.asarray(b))
def fill(x): x.fill_(5)
"""
    )
    base = torch.zeros(6)
    assert student.shares(base[:2], base[4:])
    assert not student.shares(base, base.clone())
    array = np.zeros(6)
    assert student.same_memory(array, torch.from_numpy(array))
    assert student.same_memory(array, array[2:])
    assert not student.same_memory(array, torch.tensor(array))
    student.fill(torch.from_numpy(array)[3:])
    assert array.tolist() == [0, 0, 0, 5, 5, 5]


def test_numpy_and_torch_share_results(answer):
    student = answer("def both():\n    a = np.zeros(3)\n    return a, torch.from_numpy(a)")
    array, tensor = student.both()
    tensor[1] = 7
    assert array.tolist() == [0, 7, 0]


def test_expanded_input_is_one_memory(answer):
    student = answer("def poke(x): x[0, 0] = 1.0; return x[1, 0].item()")
    assert student.poke(torch.zeros(1, 3).expand(2, 3)) == 1.0


def test_changes_in_place_reach_the_caller(answer):
    student = answer(
        """
def change(x, a, items, table, seen):
    x.add_(1); a *= 2; items.append(x); table["k"] = [1]; table.pop("old"); seen.add(3)
"""
    )
    x, a, items, table, seen = torch.zeros(2), np.ones(2), [1], {"old": 0}, set()
    student.change(x[None], a, items, table, seen)
    assert x.tolist() == [1, 1]
    assert a.tolist() == [2, 2]
    assert items[0] == 1
    assert items[1].data_ptr() == x.data_ptr()
    assert table == {"k": [1]}
    assert seen == {3}


def test_arguments_stay_linked_while_the_student_keeps_them(answer):
    student = answer(
        """
class SGD:
    def __init__(self, params, lr): self.params, self.lr = list(params), lr
    @torch.no_grad()
    def step(self):
        for p in self.params: p -= self.lr * p.grad
    def zero_grad(self):
        for p in self.params: p.grad = None
"""
    )
    w = torch.ones(2, requires_grad=True)
    optimizer = student.SGD([w], 0.5)
    (w * 3).sum().backward()
    optimizer.step()
    assert w.tolist() == [-0.5, -0.5]
    optimizer.zero_grad()
    assert w.grad is None
    with torch.no_grad():
        w.zero_()
    (w * 2).sum().backward()
    optimizer.step()
    assert w.tolist() == [-1, -1]
    assert optimizer.params[0] is w


def test_memory_is_rebound_on_both_sides(answer):
    student = answer("def double_(p): p.data = p.data.double()\ndef kind(p): return p.dtype")
    p = nn.Parameter(torch.ones(2))
    student.double_(p)
    assert p.dtype == torch.float64
    p.data = p.data.half()
    assert student.kind(p) is torch.float16


def test_random_generators_advance_on_both_sides(answer):
    student = answer(
        """
class Noise:
    def __init__(self, generator): self.generator = generator
    def __call__(self): return torch.randn(2, generator=self.generator)
def draw(rng): return rng.random()
"""
    )
    g, twin = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    noise = student.Noise(g)
    assert torch.equal(noise(), torch.randn(2, generator=twin))
    assert torch.equal(torch.randn(2, generator=g), torch.randn(2, generator=twin))
    assert torch.equal(noise(), torch.randn(2, generator=twin))
    import random

    for make in (np.random.default_rng, random.Random, np.random.RandomState):
        rng, twin = make(3), make(3)
        assert [student.draw(rng), rng.random()] == [twin.random(), twin.random()]


def test_named_tuples_keep_their_fields(answer):
    student = answer(
        """
from collections import namedtuple
Point = namedtuple("Point", "x y")
def top(x): return torch.topk(x, 2)
def point(): return Point(1, 2)
"""
    )
    assert student.top(torch.arange(4.0)).values.tolist() == [3, 2]
    assert student.point().y == 2


def test_sparse_tensors(answer):
    student = answer(
        "class Twice:\n    def __call__(self, x): return x.to_dense() * 2, (x * 2).coalesce()"
    )
    dense, sparse = student.Twice()(torch.eye(3).to_sparse())
    assert torch.equal(dense, 2 * torch.eye(3))
    assert torch.equal(sparse.to_dense(), dense)


def test_objects_that_cannot_be_sent_are_named(answer):
    student = answer("def same(x): return x\ndef loop():\n    a = []; a.append(a); return a")
    with pytest.raises(WireError, match="@probe"):
        student.same(lambda: 0)
    with pytest.raises(WireError, match="contains itself"):
        student.loop()
    assert student.same(1) == 1


# --- gradients ------------------------------------------------------------------------------------

POLYNOMIAL = """
def f(x, w): return (x ** 3 * w).sum(0)
def nested(batch): return {"y": batch["x"] * batch["pair"][1], "n": 3}
def detached(x): return x.detach() * 2
def partly(x): return x * 2, x.detach(), torch.arange(3), x.argmax()
def unused(x, y): return x * 2
def inner(x):
    y = (x ** 2).sum()
    y.backward()
    return y.item()
"""


def test_gradcheck_and_gradgradcheck(answer):
    student = answer(POLYNOMIAL)
    x, w = randn(3, 2, requires_grad=True), randn(2, requires_grad=True)
    assert torch.autograd.gradcheck(student.f, (x, w))
    assert torch.autograd.gradgradcheck(student.f, (x, w))


def test_gradients_flow_through_a_longer_graph(answer):
    student = answer(POLYNOMIAL)
    x, w = randn(3, 2, requires_grad=True), randn(2, requires_grad=True)

    def loss(f):
        h = f(torch.tanh(x * 2), w.exp())
        return f(h[None] + 1, w).sum()

    ours = torch.autograd.grad(loss(student.f), (x, w))
    theirs = torch.autograd.grad(loss(lambda x, w: (x**3 * w).sum(0)), (x, w))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    loss(student.f).backward()
    assert torch.allclose(x.grad, theirs[0])


def test_third_derivative(answer):
    x = torch.tensor([2.0], requires_grad=True)
    y = answer("def cube(x): return x ** 4").cube(x)
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert y.item() == 48


def test_nested_arguments_and_results_are_differentiable(answer):
    x, y = randn(2, requires_grad=True), randn(2, requires_grad=True)
    result = answer(POLYNOMIAL).nested({"x": x, "pair": (1, y)})
    result["y"].sum().backward()
    assert torch.equal(x.grad, y)
    assert torch.equal(y.grad, x)
    assert result["n"] == 3


def test_a_detached_answer_does_not_look_differentiable(answer):
    student = answer(POLYNOMIAL)
    x = randn(3, requires_grad=True)
    assert not student.detached(x).requires_grad
    assert [v.requires_grad for v in student.partly(x)] == [True, False, False, False]
    with torch.no_grad():
        assert not student.partly(x)[0].requires_grad
    with torch.inference_mode():
        assert student.partly(x)[0].is_inference()


def test_an_unused_input_gets_no_gradient(answer):
    x, y = randn(2, requires_grad=True), randn(2, requires_grad=True)
    answer(POLYNOMIAL).unused(x, y).sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert y.grad is None


def test_backward_in_the_students_code_reaches_leaves_and_graphs(answer):
    student = answer(POLYNOMIAL)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    student.inner(x)
    assert x.grad.tolist() == [2, 4]
    student.inner(x * 3)
    assert x.grad.tolist() == [2 + 18, 4 + 36]


def test_in_place_on_a_graph(answer):
    student = answer("def scale(x, w): x.mul_(w); return x\ndef add(x, w): x.add_(w * 2)")
    x, w = randn(3, requires_grad=True), randn(3, requires_grad=True)
    h = x * 1
    assert student.scale(h, w) is h
    h.sum().backward()
    assert torch.equal(x.grad, w)
    assert torch.equal(w.grad, x)
    total = torch.zeros(3, dtype=torch.float64)
    student.add(total, w)
    assert total.requires_grad
    total.sum().backward()
    assert torch.equal(w.grad, x + 2)


def test_graphs_are_released(answer, zygote):
    student = answer("import gc\ndef f(x): return (x ** 2).sum()\ndef live(): return 0")
    graphs = probe(_count_graphs)
    x = randn(4, requires_grad=True)
    for _ in range(20):
        student.f(x).backward()
    student.live()
    assert student.run(graphs) == 0
    assert len(student._client.records) <= 1
    assert len(student._client.buffers) <= 2


def _count_graphs(student):
    import gc

    kind = "Worker"
    workers = [o for o in gc.get_objects() if type(o).__name__ == kind]
    return sum(len(w._graphs) for w in workers)


def test_autograd_functions(answer):
    student = answer(
        """
class Bell(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.exp(-x * x)
    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        return -2 * x * torch.exp(-x * x) * grad
class Wrong(Bell):
    @staticmethod
    def backward(ctx, grad): return grad
class Broken(Bell):
    @staticmethod
    def backward(ctx, grad): raise ValueError("no gradient today")
"""
    )
    x = randn(3, requires_grad=True)
    assert torch.allclose(student.Bell.apply(x), (-x.square()).exp())
    assert torch.autograd.gradcheck(student.Bell.apply, x)
    assert torch.autograd.gradgradcheck(student.Bell.apply, x)
    assert not torch.autograd.gradcheck(student.Wrong.apply, x, raise_exception=False)
    with pytest.raises(ValueError, match="no gradient today"):
        student.Broken.apply(x).sum().backward()


# --- modules --------------------------------------------------------------------------------------

NET = """
class Net(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.first = nn.Linear(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.scale = nn.Parameter(torch.ones(1))
        self.hidden = hidden
        self.register_buffer("calls", torch.tensor(0))
    def forward(self, x):
        self.calls += 1
        return self.scale * torch.relu(self.norm(self.first(x))).sum(1)
    def count(self): return sum(p.numel() for p in self.parameters())
"""


class LocalNet(nn.Module):
    """The twin of NET."""

    def __init__(self, hidden=4):
        super().__init__()
        self.first = nn.Linear(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return self.scale * torch.relu(self.norm(self.first(x))).sum(1)


def test_a_module_is_a_module(answer):
    net = answer(NET).Net(hidden=5)
    assert isinstance(net, nn.Module)
    assert type(net) is RemoteModule
    assert isinstance(net.first, nn.Linear)
    assert not isinstance(net.first, nn.Conv2d)
    assert net.first.weight.shape == (5, 3)
    assert isinstance(net.first.weight, nn.Parameter)
    assert net.first.out_features == net.hidden == 5
    assert net.count() == sum(p.numel() for p in net.parameters())
    assert [n for n, _ in net.named_modules()] == ["", "first", "norm"]
    assert {*net.state_dict()} == {*LocalNet().state_dict()}
    assert "Linear(in_features=3, out_features=5" in repr(net)
    assert remote_isinstance(net, nn.Module)
    assert remote_isinstance(net, "Net")
    assert net.first is net.first


def test_training_on_both_sides_of_the_boundary_is_the_same(answer):
    net, twin = answer(NET).Net(), LocalNet()
    twin.load_state_dict(net.state_dict())
    x, y = torch.randn(8, 3), torch.randn(8)
    for model in (net, twin):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    for (name, a), (_, b) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert net.calls == 5
    net.eval()
    twin.eval()
    assert not net.norm.training
    before = net.norm.running_mean.clone()
    assert torch.equal(net(x), twin(x))
    assert torch.equal(net.norm.running_mean, before)


def test_state_dict_goes_both_ways(answer):
    student = answer(NET)
    a, b = student.Net(), student.Net()
    x = torch.randn(4, 3)
    assert not torch.equal(a.eval()(x), b.eval()(x))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))


def test_mirrors_follow_local_changes(answer):
    student = answer(NET + "def trainable(net): return [p.requires_grad for p in net.parameters()]")
    net = student.Net()
    net.first.requires_grad_(False)
    assert student.trainable(net) == [True, False, False, True, True]
    net.double()
    assert net(randn(2, 3)).dtype == torch.float64
    net.first = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    assert len(student.trainable(net)) == 4
    net.hidden = 7
    assert net.hidden == 7
    with torch.no_grad():
        net.scale.zero_()
    assert net(randn(2, 3)).abs().sum() == 0


def test_mirrors_follow_remote_changes(answer):
    student = answer(
        """
def freeze(net):
    net.requires_grad_(False)
    net.eval()
def widen(net):
    net.head = nn.Linear(2, 1); net.bias = None
"""
    )
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    student.freeze(net)
    assert not any(p.requires_grad for p in net.parameters())
    assert not net[1].training
    layer = nn.Linear(2, 2)
    student.widen(layer)
    assert layer.bias is None
    assert isinstance(layer.head, nn.Linear)


def test_torch_modules_as_arguments(answer):
    student = answer(
        """
def accumulate(model, loss_fn, batches):
    for x, y in batches: loss_fn(model(x), y).backward()
def types(*modules): return [type(m).__name__ for m in modules]
def call(m, x): return m(x)
class Wrap(nn.Module):
    def __init__(self, inner): super().__init__(); self.inner = inner
    def forward(self, x): return self.inner(x) + x
"""
    )
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    x, y = torch.randn(5, 2), torch.randn(5, 1)
    student.accumulate(model, nn.MSELoss(), [(x, y), (x, y)])
    twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    weights = {k: v for k, v in model.state_dict().items() if "running" not in k}
    twin.load_state_dict(weights, strict=False)
    for _ in range(2):
        F.mse_loss(twin(x), y).backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(model[1].running_var, twin[1].running_var)

    lstm = nn.LSTM(2, 3, bidirectional=True)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    pool = nn.MaxPool2d(2)
    assert student.types(lstm, attention, encoder, pool) == [
        "LSTM", "MultiheadAttention", "TransformerEncoderLayer", "MaxPool2d",
    ]  # fmt: skip
    sequence = torch.randn(5, 1, 2)
    assert torch.equal(student.call(lstm, sequence)[0], lstm(sequence)[0])
    sequence = torch.randn(2, 5, 4)
    assert torch.equal(student.call(encoder.eval(), sequence), encoder(sequence))
    inner = nn.Linear(2, 2)
    wrapped = student.Wrap(inner)
    assert wrapped.inner is inner
    wrapped(torch.ones(1, 2)).sum().backward()
    assert inner.weight.grad is not None


def test_a_sequential_of_the_students(answer):
    net = answer("def build(): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())").build()
    assert isinstance(net, nn.Sequential)
    assert len(net) == 2
    assert [type(m).__mro__[0] for m in net] == [RemoteModule] * 2
    assert isinstance(net[0], nn.Conv2d)
    assert net[0] is next(net.children())
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(net(x), F.conv2d(x, net[0].weight, net[0].bias).flatten(1))


def test_overridden_train_is_the_students(answer):
    net = answer(
        """
class Frozen(nn.Module):
    def __init__(self): super().__init__(); self.norm = nn.BatchNorm1d(2)
    def train(self, mode=True):
        super().train(mode); self.norm.eval(); return self
"""
    ).Frozen()
    assert net.train() is net
    assert net.training
    assert not net.norm.training


def test_modules_can_be_copied(answer):
    import copy

    net = answer(NET).Net()
    twin = copy.deepcopy(net)
    assert torch.equal(net.first.weight, twin.first.weight)
    with torch.no_grad():
        twin.first.weight.zero_()
    assert net.first.weight.abs().sum() > 0


# --- objects --------------------------------------------------------------------------------------

LENGTH = """
class Length:
    def __init__(self, metres, parts=()):
        self.metres, self.uses, self.parts = metres, 0, parts
    def __add__(self, more):
        if not isinstance(more, Length): more = Length(more)
        return Length(self.metres + more.metres, (self, more))
    def __mul__(self, times): return Length(self.metres * times, (self,))
    __radd__ = __add__
    __rmul__ = __mul__
    def count(self):
        self.uses += 1
        for part in self.parts: part.count()
    def __repr__(self): return f"Length({self.metres})"
"""


def test_operators_and_attributes(answer):
    student = answer(LENGTH)
    a, b = student.Length(2.0), student.Length(3.0)
    c = 2 * a + b + a + 1
    c.count()
    assert (c.metres, a.uses, b.uses) == (10.0, 2, 1)
    assert repr(c) == str(c) == "Length(10.0)"
    assert c.parts[0].parts[1] is a
    a.uses = 0
    assert a.uses == 0
    assert isinstance(a, student.Length)
    assert not isinstance(3, student.Length)
    assert remote_isinstance(a, "Length")
    assert a != b
    assert a == c.parts[0].parts[1]
    assert len({a, b, a}) == 2
    assert not hasattr(a, "missing")
    with pytest.raises(TypeError):
        a - 1


def test_containers_iterators_and_context_managers(answer):
    student = answer(
        """
import contextlib, itertools
class Data(torch.utils.data.Dataset):
    kind = "data"
    def __len__(self): return 3
    def __getitem__(self, i):
        if not 0 <= i < 3: raise IndexError(i)
        return torch.full((2,), float(i)), i
    def __contains__(self, x): return x == 1
def forever():
    x = torch.zeros(1)
    for i in itertools.count(): x = x + 1; yield i, x
def two():
    yield 1
    yield 2
state = []
@contextlib.contextmanager
def manager(x):
    state.append("in")
    try: yield x + 1
    except ValueError as e: state.append(str(e))
    finally: state.append("out")
"""
    )
    data = student.Data()
    assert len(data) == 3
    assert [label for _, label in data] == [0, 1, 2]
    assert data[2][0].tolist() == [2, 2]
    assert 1 in data
    assert student.Data.kind == "data"
    batches = list(torch.utils.data.DataLoader(data, batch_size=2))
    assert [b[1].tolist() for b in batches] == [[0, 1], [2]]
    stream = student.forever()
    assert [next(stream)[0] for _ in range(3)] == [0, 1, 2]
    assert [next(iter(stream))[0] for _ in range(2)] == [3, 4]
    assert list(student.two()) == [1, 2]
    with student.manager(1) as value:
        assert value == 2
    with student.manager(1):
        raise ValueError("lost")
    assert student.state == ["in", "out", "in", "lost", "out"]


def test_functions_of_torch_and_of_the_students_as_arguments(answer):
    student = answer(
        "def apply(f, x): return f(x)\n"
        "def adder(n):\n    def add(x): return x + n\n    return add\n"
        "def which(f): return f is torch.relu, f is F.relu, f is math.exp, f is np.tanh\n"
    )
    x = randn(3, requires_grad=True)
    for f in (torch.relu, F.softplus, torch.sin):
        (grad,) = torch.autograd.grad(student.apply(f, x).sum(), x)
        (expected,) = torch.autograd.grad(f(x).sum(), x)
        assert torch.equal(grad, expected)
    add = student.adder(2)
    assert add(1) == 3
    assert student.apply(add, 1) == 3
    functions = (torch.relu, F.relu, math.exp, np.tanh)
    assert [student.which(f).index(True) for f in functions] == [0, 1, 2, 3]


# --- probes ---------------------------------------------------------------------------------------


@probe
def cube(x):
    return (x**3).sum()


@probe
def subclasses(student, names):
    return {n: issubclass(getattr(student, n), nn.Module) for n in names}


@probe
def make_net(student):
    return student.Net()


def test_probes_as_arguments(answer):
    student = answer(
        """
def vjp(f, x, v):
    y = f(x)
    return torch.autograd.grad(y, x, v)[0]
def back(f): return f
"""
    )
    x = randn(3, requires_grad=True)
    assert torch.allclose(student.vjp(cube, x, torch.tensor(2.0).double()), 6 * x**2)
    assert student.back(cube) is cube


def test_probes_run_beside_the_answer(answer):
    student = answer(NET + "def helper(): pass")
    assert student.run(subclasses, ["Net"]) == {"Net": True}
    with pytest.raises(WireError, match="plain values, not a Net"):
        student.run(make_net)


def test_calls_are_recorded_and_watched(answer):
    student = answer("def f(x, k=1): return F.relu(x) * k")
    student.f(torch.tensor([1.0, -2.0]), k=2)
    assert student.last_call == "f([1, -2], k=2)"
    with pytest.raises(Mismatch, match="without `relu`"), does_not_call(student, "relu"):
        student.f(torch.ones(1))
    with does_not_call(student, "conv2d"):
        student.f(torch.ones(1))


# --- errors and prints ----------------------------------------------------------------------------


def test_exceptions_arrive_as_raised(answer):
    student = answer(
        """
class Odd(ValueError):
    pass
class Strange(Exception):
    def __init__(self, a, b): super().__init__(f"{a} and {b}")
def fail(kind, *args): raise kind(*args)
def odd(): raise Odd("it is odd")
def strange(): raise Strange(1, 2)
def todo(): raise NotImplementedError
def deep(n):
    if n: deep(n - 1)
    return torch.zeros(2) @ torch.zeros(3)
def leave(): raise SystemExit(3)
def stop(): raise KeyboardInterrupt
def recurse(): return recurse()
def mutate_and_fail(x): x += 1; raise ValueError
"""
    )
    for kind, args in ((ValueError, ("bad",)), (KeyError, ("k",)), (IndexError, (2, 3))):
        with pytest.raises(kind) as caught:
            student.fail(kind, *args)
        assert type(caught.value) is kind
        assert caught.value.args == args
    with pytest.raises(NotImplementedError):
        student.todo()
    with pytest.raises(ValueError, match="it is odd") as caught:
        student.odd()
    assert isinstance(caught.value, RemoteError)
    assert type(caught.value).__name__ == "Odd"
    assert [f[0] for f in caught.value.student_frames] == ["odd"]
    with pytest.raises(RemoteError, match="1 and 2"):
        student.strange()
    with pytest.raises(RuntimeError, match="size") as caught:
        student.deep(2)
    assert [f[0] for f in caught.value.student_frames] == ["deep"] * 3
    assert caught.value.student_frames[-1][1:] == (12, "return torch.zeros(2) @ torch.zeros(3)")
    with pytest.raises(RemoteError, match="SystemExit: 3"):
        student.leave()
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        student.stop()
    with pytest.raises(RecursionError):
        student.recurse()
    x = torch.zeros(1)
    with pytest.raises(ValueError):
        student.mutate_and_fail(x)
    assert x.item() == 1


def test_hostile_errors_and_objects(answer):
    student = answer(
        """
class Sly(Exception):
    def __str__(self): raise RuntimeError("no")
class Everything:
    def __eq__(self, other): return True
    def __getattr__(self, name): raise ValueError(name)
class Fake(torch.Tensor): pass
class Bad(nn.Module):
    @property
    def training(self): raise ValueError
    @training.setter
    def training(self, value): pass
def sly(): raise Sly
def fake(): return torch.ones(2).as_subclass(Fake)
"""
    )
    with pytest.raises(RemoteError, match="cannot be shown"):
        student.sly()
    assert type(student.fake()) is torch.Tensor
    everything = student.Everything()
    assert not isinstance(everything, torch.Tensor)
    with pytest.raises(ValueError):
        _ = everything.shape
    with pytest.raises(ValueError):
        student.Bad()
    assert student.fake().tolist() == [1, 1]


def test_missing_names_say_so(answer):
    with pytest.raises(Mismatch, match="`corr2d` is not defined in the notebook"):
        _ = answer("x = 1").corr2d


def test_prints_never_mix_with_the_protocol(answer):
    student = answer(
        """
import os, sys
def noisy(x):
    print("x" * 1_000_000); os.write(1, b"raw"); os.write(2, b"raw"); sys.stdout.buffer.write(b"b")
    sys.stdout.close()
    return x
"""
    )
    assert student.noisy(1) == 1
    assert student.noisy(2) == 2


# --- cells ----------------------------------------------------------------------------------------


def test_cells_run_statement_by_statement(zygote):
    cells = [
        Cell("magic", "%matplotlib inline\n!pip install x\nfiles = !ls\nprint(5 % 3)"),
        Cell("text", "text = '''\n%kept\n'''\n%timeit text"),
        Cell("shell", "%%bash\nrm -rf nothing"),
        Cell("timed", "%%time\na = 1"),
        Cell("half", "b = 2\ndef f():\n    return 1 / 0\nf()\nc = 3"),
        Cell("broken", "d = 4\nif True print(1)"),
        Cell("future", "from __future__ import annotations\ndef g(x: Nowhere): return __name__"),
        Cell("leave", "import sys\nsys.exit('bye')"),
        Cell("source", "import inspect\ndef h():\n    return 7\ntext_of_h = inspect.getsource(h)"),
    ]
    with zygote.spawn(cells) as process:
        student = process.student
        assert (student.text, student.a, student.b) == ("\n%kept\n", 1, 2)
        assert student.g(1) == "__main__"
        assert student.text_of_h == "def h():\n    return 7\n"
        for name in ("c", "d", "files"):
            with pytest.raises(Mismatch):
                getattr(student, name)
        status = {r.name: (r.status, r.error, r.line) for r in process.reports}
        assert status == {
            "magic": ("run", "", 0), "text": ("run", "", 0), "shell": ("run", "", 0),
            "timed": ("run", "", 0),
            "half": ("failed", "ZeroDivisionError", 4), "broken": ("failed", "SyntaxError", 2),
            "future": ("run", "", 0), "leave": ("failed", "SystemExit", 2),
            "source": ("run", "", 0),
        }  # fmt: skip
        assert process.reports[0].output == "2\n"


def test_a_cell_that_hangs_or_dies_is_left_out(zygote):
    cells = [
        Cell("good", "x = 1"), Cell("hang", "while True: pass"),
        Cell("die", "import os; os._exit(3)"), Cell("after", "y = 2"),
    ]  # fmt: skip
    with zygote.spawn(cells, Limits(cell=0.5)) as process:
        student = process.student
        assert (student.x, student.y) == (1, 2)
        assert [r.status for r in process.reports] == ["run", "timed out", "crashed", "run"]
        assert "exit code 3" in process.reports[2].reason


# --- tests of an exercise -------------------------------------------------------------------------


def make_test(name, function, *cases):
    return Test(name, "ex", "It should hold.", 1.0, function, cases or ({},))


def check_square(student, n):
    assert student.square(n) == n * n


HOSTILE = """
import ctypes, os, signal, time
def square(n):
    if n == 2:
        while True: pass
    if n == 3: os._exit(0)
    if n == 4: ctypes.string_at(0)
    if n == 5: os.abort()
    if n == 6: signal.signal(signal.SIGINT, signal.SIG_IGN); torch.ones(3000, 3000).matrix_exp()
    return n * n
"""


def test_a_hanging_or_dying_answer_loses_only_its_test(zygote):
    tests = [make_test(f"test_{n}", check_square, {"n": n}) for n in range(1, 8)]
    cells = [Cell("set-up", SET_UP), Cell("answer", HOSTILE)]
    with zygote.spawn(cells, Limits(test=0.4)) as process:
        outcomes = run_exercise(tests, process)
    assert [o.status for o in outcomes] == [
        "passed", "timed out", "crashed", "crashed", "crashed", "timed out", "passed",
    ]  # fmt: skip
    assert outcomes[1].reason == "It did not finish within 0.4 s."
    assert "exit code 0" in outcomes[2].reason
    assert outcomes[3].reason == "The process was killed by signal 11 (segmentation fault)."
    assert "was killed by signal" in outcomes[4].reason
    assert outcomes[1].counterexample.inputs == "square(2)"


def test_a_hang_costs_the_limit_once_and_no_other_function_its_points(zygote):
    source = "def square(n):\n    while True: pass\n\ndef cube(n): return n ** 3"

    def check_cube(student):
        assert student.cube(2) == 8

    tests = [make_test(f"test_{n}", check_square, {"n": n}) for n in range(3)]
    tests.append(make_test("test_cube", check_cube))
    with zygote.spawn([Cell("answer", source)]) as process:
        started = time.monotonic()
        outcomes = run_exercise(tests, process, Limits(test=4.0))
    assert time.monotonic() - started < 3 * 4.0
    assert [o.status for o in outcomes] == ["timed out", "timed out", "not run", "passed"]
    assert outcomes[0].reason == "It did not finish within 4 s."
    why = "An earlier test of this exercise used up 4 s, so this one had 1 s."
    assert outcomes[1].reason == f"It did not finish within 1 s. {why}"
    why = "It ran out of time in the two tests before, so this one was not run."
    assert outcomes[2].reason == why


def test_what_hung_twice_in_a_row_is_not_called_again(zygote):
    source = """
class Net:
    def forward(self, n):
        while n < 9: pass
        return n

def slow(n):
    while n % 2: pass
    return n
"""

    def check_net(student):
        assert student.Net().forward(1) == 1

    def check_probe(student):
        student.run(hangs)

    def swallow(student):
        with contextlib.suppress(Exception):
            student.Net()

    def check_slow(student, n):
        assert student.slow(n) == n

    tests = [make_test(f"test_net_{n}", check_net) for n in range(3)]
    tests += [make_test("test_swallowed", swallow)]
    tests += [make_test(f"test_probe_{n}", check_probe) for n in range(3)]
    tests += [make_test(f"test_slow_{n}", check_slow, {"n": n}) for n in (1, 2, 3, 4)]
    with zygote.spawn([Cell("answer", source)]) as process:
        outcomes = run_exercise(tests, process, Limits(test=0.3, exercise=60))
    hung = ["timed out", "timed out", "not run"]
    assert [o.status for o in outcomes] == [
        *hung, "not run", *hung, "timed out", "passed", "timed out", "passed",
    ]  # fmt: skip


@probe
def hangs(student):
    while True:
        pass


def test_a_cell_that_hangs_hurries_only_what_comes_after(zygote):
    cells = [
        Cell("slow", "import time; time.sleep(1.5); x = 1"), Cell("hang", "while True: pass"),
        Cell("hang again", "while True: pass"), Cell("after", "y = 2"),
    ]  # fmt: skip
    with zygote.spawn(cells, Limits(cell=3.0)) as process:
        assert (process.student.x, process.student.y) == (1, 2)
    assert [r.status for r in process.reports] == ["run", "timed out", "timed out", "run"]
    assert "within 3 s" in process.reports[1].reason
    assert "within 1 s" in process.reports[2].reason


def test_an_exercise_has_a_limit_of_its_own(zygote):
    tests = [make_test(f"test_{n}", check_square, {"n": 2}) for n in range(4)]
    with zygote.spawn([Cell("set-up", SET_UP), Cell("answer", HOSTILE)]) as process:
        started = time.monotonic()
        outcomes = run_exercise(tests, process, Limits(test=0.3, exercise=0.5))
    assert time.monotonic() - started < 2
    assert [o.status for o in outcomes] == ["timed out"] * 4
    assert "0.5 s" in outcomes[-1].reason


def test_outcomes_are_those_of_a_local_run(zygote):
    source = """
def square(n):
    if n == 0: raise NotImplementedError
    if n == 1: raise KeyError("k")
    return n * n if n < 3 else 0
"""
    tests = [make_test(f"test_{n}", check_square, {"n": n}) for n in range(4)]
    with zygote.spawn([Cell("answer", source)]) as process:
        remote = run_exercise(tests, process)
    assert [o.status for o in remote] == ["not attempted", "failed", "passed", "failed"]
    assert remote[1].reason == (
        "It raised KeyError: 'k' (in square, line 4: if n == 1: raise KeyError(\"k\"))"
    )


def test_an_error_in_the_test_itself_tells_the_call(zygote):
    def check(student):
        return student.square(2) @ torch.ones(3)

    cells = [Cell("set-up", SET_UP), Cell("answer", "def square(n): return torch.ones(n)")]
    with zygote.spawn(cells) as process:
        (outcome,) = run_exercise([make_test("test_shape", check)], process)
    assert outcome.reason.startswith("It raised RuntimeError: inconsistent tensor size")
    assert outcome.counterexample.inputs == "square(2)"


def test_every_case_starts_from_the_same_state(zygote):
    source = """
def f():
    value = torch.rand(1).item() + np.random.rand()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
    return value, grad, dtype
"""
    seen = []

    def check(student, n):
        seen.append(student.f())
        assert student.f()[1]

    test = make_test("test_seeds", check, {"n": 0}, {"n": 0})
    with zygote.spawn([Cell("set-up", SET_UP), Cell("answer", source)]) as process:
        assert run_exercise([test, test], process)[1].passed
    assert seen[:2] == seen[2:]
    assert seen[0][2] is torch.float32


# --- processes ------------------------------------------------------------------------------------


@probe
def look_around(student):
    import contextlib
    import gc
    import os
    import sys

    frame, names = sys._getframe(), []
    while frame:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    inner = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            inner.append(os.fstat(fd))
    modules = [m for m in sys.modules if "test" in m or "solution" in m or "autograder" in m]
    functions = [f.__module__ for f in gc.get_objects() if type(f).__name__ == "function"]
    return {
        "frames": names, "modules": modules, "environment": dict(os.environ), "fds": len(inner),
        "tests": [m for m in functions if m and "test_boundary" in m],
        "argv": sys.argv, "files": os.listdir(),
    }  # fmt: skip


def test_the_worker_holds_nothing_of_the_tester(zygote, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    with StudentZygote(["no.such.module"]) as fresh, fresh.spawn([]) as process:
        seen = process.student.run(look_around)
    assert seen["files"] == []
    assert seen["tests"] == []
    ours = {m for m in sys.modules if "test_boundary" in m or m.startswith("solutions")}
    assert not ours & set(seen["modules"])
    assert "autograder.runner" not in seen["modules"]
    assert not any("test_boundary" in f or "pytest" in f for f in seen["frames"])
    assert {*seen["environment"]} <= {
        "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR", "MPLBACKEND", "PYTHONPATH",
        "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR", "USER",
    }  # fmt: skip
    assert seen["fds"] == 4  # three streams, the socket


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def children_of(pid):
    """Of a process, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == pid:
            found += [stat.parent.name, *children_of(int(stat.parent.name))]
    return found


def test_many_workers_leave_nothing_behind(zygote):
    with zygote.spawn([]):
        pass
    before, others = open_descriptors(), children_of(zygote._process.pid)
    for _ in range(300):
        with zygote.spawn([Cell("c", "def f(x): return x")]) as process:
            assert process.student.f(1) == 1
    assert open_descriptors() == before
    assert children_of(zygote._process.pid) == others
    assert list(zygote._scratch.iterdir()) == []


def test_what_a_worker_started_dies_with_it(zygote):
    source = """
import os, time
def start():
    for escape in (False, True):
        read, write = os.pipe()
        if not os.fork():
            if escape:
                os.setsid()
                if os.fork(): os._exit(0)
            os.write(write, b"started")
            time.sleep(60)
            os._exit(0)
        os.read(read, 20)
"""
    before = children_of(zygote._process.pid)
    with zygote.spawn([Cell("c", source)]) as process:
        process.student.start()
        assert len(children_of(zygote._process.pid)) >= len(before) + 3
    assert children_of(zygote._process.pid) == before


def test_a_forked_child_does_not_answer(answer):
    student = answer("import os\ndef fork(): return os.fork() > 0\ndef one(): return 1")
    student.fork()
    assert [student.one() for _ in range(5)] == [1] * 5


def test_a_worker_that_is_lost_stays_lost(answer):
    student = answer("import os\ndef die(): os._exit(7)\ndef fine(): return 1")
    fine = student.fine
    with pytest.raises(AnswerLost, match="exit code 7"):
        student.die()
    for _ in range(2):
        with pytest.raises(AnswerLost, match="exit code 7"):
            fine()


def test_a_zygote_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ZygoteError, match="forks workers"):
        StudentZygote()


def test_a_call_is_one_message_and_its_answer(answer, monkeypatch):
    student = answer("def f(x): return x + 1")
    f, x, sent = student.f, torch.zeros(4), []
    exchange = student.channel.exchange
    monkeypatch.setattr(
        student.channel, "exchange", lambda *message: sent.append(message) or exchange(*message)
    )
    for _ in range(5):
        f(x)
    assert len(sent) == 5
    assert max(len(header) for header, _, _ in sent) < 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_and_modules_on_a_gpu(answer):
    student = answer(NET + "def f(x, w): x.add_(1); return (x ** 2 * w).sum(0), x.view(-1)")
    x, w = randn(3, 2, device="cuda"), randn(2, device="cuda", requires_grad=True)
    before = x.clone()
    y, view = student.f(x, w)
    assert torch.equal(x, before + 1)
    assert torch.allclose(y, (x**2 * w).sum(0))
    view[0] = 5
    assert x[0, 0] == 5
    inputs = (randn(3, 2, device="cuda", requires_grad=True), w)
    assert torch.autograd.gradcheck(lambda x, w: student.f(x * 1, w)[0], inputs)
    net = student.Net().cuda()
    net(torch.randn(4, 3, device="cuda")).sum().backward()
    assert net.first.weight.grad.device.type == "cuda"
    assert net.calls == 1
