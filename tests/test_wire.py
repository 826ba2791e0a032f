"""The wire format: what comes back is what was sent, and nothing hostile gets through."""

import json
import math
import socket
import struct
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autograder import wire
from autograder.remote import Channel, Client
from autograder.wire import Decoder, Encoder, Peer, WireError
from course.testing import AnswerLost


class Line:
    """Two peers; what one sends, the other gets."""

    def __init__(self):
        self.here, self.there = Peer(0), Peer(1)

    def send(self, value, back=False, tamper=lambda header: None):
        sender, receiver = (self.there, self.here) if back else (self.here, self.there)
        encoder = Encoder(sender)
        header = {"states": encoder.states(), "body": encoder.node(value)}
        text, payload = encoder.finish(header)
        a, b = socket.socketpair()
        with a, b:
            args = (a, text, {"farewell": [[], []]}, payload)
            thread = threading.Thread(target=wire.send_frame, args=args)
            thread.start()
            header, payload = wire.receive_frame(b)
            thread.join()
        tamper(header)
        decoder = Decoder(receiver, header, payload)
        decoder.states(header["states"])
        self.decoder = decoder
        return decoder.value(header["body"])


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.binary(),
    st.text(st.characters(exclude_categories=())), st.just(...),
    st.builds(slice, st.none() | st.integers(-(2**60), 2**60), st.integers(-5, 5)),
    st.sampled_from([torch.float32, torch.bool, torch.strided, torch.Size([2, 0])]),
)  # fmt: skip
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.booleans())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4), st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
    ),
    max_leaves=20,
)  # fmt: skip
DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
    torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip


def same(a, b):
    """Equal, with equal types, nan equal to nan and 0.0 different from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return a == b


@given(VALUES)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_values_round_trip(value):
    assert same(Line().send(value), value)


@st.composite
def views(draw):
    """A tensor and a view of it, anywhere in its memory."""
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    base = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    view = base
    for dim in range(base.dim()):
        start, step = draw(st.integers(0, 2)), draw(st.integers(1, 2))
        view = view[(slice(None),) * dim + (slice(start, None, step),)]
    if draw(st.booleans()):
        view = view.transpose(0, -1)
    return base, view[None].expand(draw(st.integers(1, 3)), *view.shape)


@given(views())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_tensors_round_trip_with_their_memory(pair):
    base, view = Line().send(pair)
    for got, sent in zip((base, view), pair, strict=True):
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        assert got.stride() == sent.stride()
        assert torch.equal(got, sent)
    if base.numel() and view.numel():
        assert base.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()
        base.zero_()
        assert not view.any()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3)[:, ::-1], np.asfortranarray(np.eye(3)), np.zeros((0, 2)),
        np.array(["a", "bcd"]), np.array([b"x"]), np.array(3), np.ones(3, "complex64"),
        np.array(["2020-01-01"], "datetime64[D]"), np.broadcast_to(np.ones(2), (3, 2)),
        np.frombuffer(b"abcdefgh", np.int32), np.arange(5, dtype=">i4"),
    ],
)  # fmt: skip
def test_arrays_round_trip(array):
    got = Line().send(array)
    assert got.dtype == array.dtype
    assert got.flags.writeable == array.flags.writeable
    np.testing.assert_array_equal(got, array)


def test_only_changes_travel():
    line = Line()
    x = torch.zeros(1000)
    got = line.send(x)
    assert line.send(x) is got
    assert line.decoder.header["sizes"] == []
    x[3] = 1
    line.send(None)
    assert line.decoder.header["sizes"] == [4000]
    assert got[3] == 1
    got[4] = 2
    line.send(None, back=True)
    assert x[4] == 2


def test_a_small_view_travels_without_its_storage():
    line = Line()
    base = torch.arange(1_000_000.0)
    got = line.send(base[500_000:500_010:3])
    assert line.decoder.header["sizes"] == [40]
    assert got.tolist() == [500_000, 500_003, 500_006, 500_009]


def test_grad_and_flags_travel():
    line = Line()
    p = nn.Parameter(torch.ones(2))
    got = line.send(p)
    assert type(got) is nn.Parameter
    p.grad = torch.full((2,), 3.0)
    line.send(None)
    assert got.grad.tolist() == [3, 3]
    got.grad.mul_(2)
    got.requires_grad_(False)
    line.send(None, back=True)
    assert p.grad.tolist() == [6, 6]
    assert not p.requires_grad
    p.grad = None
    line.send(None)
    assert got.grad is None


@pytest.mark.parametrize(
    "value",
    [
        object(), lambda: 0, open, eval, torch.load, np.load, np.array([object()]), 1 << 20_000,
        dict.fromkeys(range(1 << 15)), [[0]] * (1 << 20), torch.zeros(1).to("meta"),
        torch.empty(300 << 20, dtype=torch.uint8), "x" * (17 << 20), slice("a", "b"),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_whole(value):
    line = Line()
    with pytest.raises(WireError):
        line.send([torch.zeros(3), value])
    assert not line.here.buffers
    assert not line.here.records


def test_deep_and_cyclic_values_are_refused():
    deep, cyclic = [], []
    for _ in range(1000):
        deep = [deep]
    cyclic.append((cyclic,))
    for value in (deep, cyclic):
        with pytest.raises(WireError):
            Line().send(value)


# --- hostile messages -----------------------------------------------------------------------------


def receive(data):
    a, b = socket.socketpair()
    with b:
        threading.Thread(target=lambda: (a.sendall(data), a.close())).start()
        return wire.receive_frame(b)


def frame(header, tail=b'{"sizes":[]}', payload=b"", total=None):
    total = len(payload) if total is None else total
    return struct.pack("!IIQ", len(header), len(tail), total) + header + tail + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(b"{}")[:10], frame(b'{"a":1}')[:-3], frame(b"{}", b'{"sizes":[100]}', total=100), b"",
    ],
    ids=["lengths", "header", "payload", "nothing"],
)  # fmt: skip
def test_truncated_frames_are_the_end(data):
    with pytest.raises(EOFError):
        receive(data)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!IIQ", 2**32 - 1, 2, 0),
        struct.pack("!IIQ", 2, 2**32 - 1, 0),
        struct.pack("!IIQ", 2, 2, 2**64 - 1),
        frame(b"{"), frame(b"[]"), frame(b"\xff\xfe"), frame(b"[" * 100_000), frame(b"1" * 5000),
        frame(b"{}", b"{}"), frame(b"{}", b'{"sizes":[-1]}'), frame(b"{}", b'{"sizes":[1]}'),
        frame(b"{}", b'{"sizes":[true]}', b"x"), frame(b"{}", b'{"sizes":"ab"}'),
        frame(b"{}", b'{"sizes":[1e999]}'), frame(b"null", b"null"),
    ],
)  # fmt: skip
def test_malformed_frames_are_refused(data):
    with pytest.raises(WireError):
        receive(data)


def decode(node, payload=(), new=(), peer=None):
    header = {"new": [[n, "cpu"] for n in new], "dirty": []}
    payload = [bytes(p) for p in payload]
    return Decoder(peer or Peer(0), header, payload).value(node)


def tensor(**changes):
    state = {
        "dtype": "float32", "shape": [2, 2], "strides": [2, 1], "offset": 0, "memory": [1, 0, 16],
    }  # fmt: skip
    return ["tensor", 3, {**state, **changes}]


def array(**changes):
    state = {
        "dtype": "<f4", "shape": [4], "strides": [4], "offset": 0, "memory": [1, 0, 16],
        "writeable": True,
    }  # fmt: skip
    return ["array", 3, {**state, **changes}]


def test_the_hostile_nodes_below_are_well_formed_but_for_one_thing():
    assert decode(tensor(), [bytes(16)], [1]).shape == (2, 2)
    assert decode(array(), [bytes(16)], [1]).shape == (4,)


LAUGHS = ["list", [1] * 10]
for _ in range(1, 60):
    LAUGHS = ["list", [LAUGHS, *([["again", 59 - _ + 1]] * 9)]]


@pytest.mark.parametrize(
    "node",
    [
        ["no such"], [], {}, [[]], [None], ["list"], ["list", 3], ["list", [1], 2], ["int", "z"],
        ["int", "f" * 10_000], ["complex", "a", "b"], ["bytes", "*"], ["size", [-1, "a"]],
        ["device", "nowhere:7"], ["torch", "load"], ["torch", "nn"], ["range", 0, 1, 0],
        ["dict", [[["list", []], 1]]], ["dict", [[i, 0] for i in range(1 << 15)]],
        ["set", [["list", []]]], ["named", "a b", ["x"], [1]], ["named", "T", ["class"], [1]],
        ["named", "T", ["x"], [1, 2]], ["again", 0], ["again", -1], ["list", [["again", 0]]],
        ["yours", 0], ["yours", -1], ["same", 5], ["handle", 1], ["probe", 1, ["import os", "f"]],
        ["module", 1, {}], ["remote", 1, {}], ["output", 0], ["output", 5, {}],
        ["scalar", "O", "AAAAAAAAAAA="], ["scalar", "<f8", "AA=="], ["random", 1, ["pickle"]],
        ["random", 1, ["numpy", {"bit_generator": "os"}]], ["random", 1, ["random", 3, [1], None]],
        ["name", "os", "system"], ["name", "builtins", "eval"], ["name", "torch", "load"],
        ["name", "torch", "hub"], ["name", "torch", "__builtins__"], ["name", "numpy", "load"],
        ["sparse", 1, 2, [2]], ["sparse", ["list", []], ["list", []], [1 << 40, 1 << 40]],
        tensor(dtype="load"), tensor(dtype="nn"), tensor(shape=[2, 3]), tensor(strides=[3, 1]),
        tensor(strides=[-1, 1]), tensor(shape=[-2, -2]), tensor(shape=[2]), tensor(offset=1),
        tensor(offset=-1), tensor(offset=2**70), tensor(memory=[9, 0, 16]), tensor(shape=["2", 2]),
        tensor(memory=[1, 8, 16]), tensor(memory=[1, -8, 16]), tensor(memory=[1, 0, 2**40]),
        tensor(shape=[2**31, 2**31], strides=[0, 0]), tensor(shape=[2.0, 2]), tensor(grad=3),
        tensor(memory=[1, 1, 8], shape=[2], strides=[1]), tensor(dtype="int64", leaf=True),
        tensor(grad=["list", []]), tensor(memory=None), ["tensor", "3", tensor()[2]],
        array(dtype="O"), array(dtype="<f8"), array(shape=[5]), array(strides=[8]),
        array(strides=[-4]), array(offset=4), array(offset=-4), array(memory=[1, -4, 16]),
        array(shape=[2**40], strides=[0]), array(memory=[1, 0, 99]), array(shape=[-1]),
        LAUGHS,
    ],
    ids=lambda node: json.dumps(node)[:60],
)  # fmt: skip
def test_hostile_nodes_are_refused(node):
    with pytest.raises(WireError):
        decode(node, [bytes(16)], [1])


@pytest.mark.parametrize(
    "header",
    [
        {}, {"new": [], "dirty": []}, {"new": [[1]], "dirty": []}, {"new": [], "dirty": [7]},
        {"new": [["1", "cpu"]], "dirty": []}, {"new": [[1, "nowhere"]], "dirty": []},
        {"new": 1, "dirty": 2},
    ],
)  # fmt: skip
def test_hostile_memory_is_refused(header):
    with pytest.raises(WireError):
        Decoder(Peer(0), header, [bytes(4)])


def test_shared_memory_keeps_its_size():
    line = Line()
    x = torch.zeros(4)
    line.send(x)
    (number,) = line.here.buffers
    with pytest.raises(WireError):
        Decoder(line.here, {"new": [], "dirty": [number]}, [bytes(999)])
    with pytest.raises(WireError):
        Decoder(line.here, {"new": [[number, "cpu"]], "dirty": []}, [bytes(16)])


NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 40) | st.text(max_size=3) | st.floats()
    | st.sampled_from(sorted(wire._READERS)),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.sampled_from([*tensor()[2], *array()[2], "grad", "leaf"]), inner),
    max_leaves=15,
)  # fmt: skip


@given(st.sampled_from(sorted(wire._READERS)), st.lists(NODES, max_size=4))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_random_nodes_give_a_value_or_a_wire_error(tag, rest):
    try:
        decode([tag, *rest], [bytes(16)], [1])
    except WireError as error:
        assert str(error).count("\n") == 0


REPLY = {
    "new": [], "dirty": [], "states": [], "value": 1, "containers": [], "graph": None,
    "gradients": [], "farewell": [[], []], "sizes": [], "called": [],
}  # fmt: skip


def ask(reply, *args):
    """What the tests' end makes of a worker that sends this reply."""
    a, b = socket.socketpair()
    with a, b:
        client = Client(Channel(a))
        channel = client.channel
        channel.exchange = lambda header, tail, payload: (reply, [])
        return client.request("call", 1, args, {})


def test_a_plain_reply_is_read():
    assert ask(REPLY) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"value": ["probe", 1, ["import os", "f"]]}, {"value": ["module", 1, {}]},
        {"value": ["name", "torch", "compile"]}, {"value": ["name", "numpy", "fromfile"]},
        {"value": ["handle", 1, {}]}, {"value": ["handle", [], 3]}, {"value": ["remote", 1, {}]},
        {"value": ["remote", 1, {"extra": ["dict", []]}]}, {"states": [[1, {}]]}, {"states": 3},
        {"states": [[0, {"dtype": "float32"}]]}, {"error": {}}, {"error": 3}, {"graph": {"id": 1}},
        {"graph": {"id": 1, "leaves": [3], "rebased": []}}, {"gradients": [[0, 1]]},
        {"graph": {"id": 1, "leaves": [], "rebased": [5]}}, {"farewell": 1}, {"farewell": [[]]},
        {"containers": [[0, ["dict", []]]]}, {"containers": [[9, ["list", []]]]},
        {"containers": [[0, ["list", [["yours", 0]]]]]}, {"new": None}, {"dirty": [1]},
        {"called": 3}, {"called": [[]]},
        {"error": {"type": "E", "message": "", "mro": [], "args": [], "frames": []}},
        {"error": {"type": "E", "message": "", "mro": ["x"], "args": [[]], "frames": [1]}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)  # fmt: skip
def test_hostile_replies_end_the_line(change):
    with pytest.raises(AnswerLost, match="not readable"):
        ask({**REPLY, **change}, [1], torch.zeros(2))


@given(st.dictionaries(st.sampled_from([*REPLY, "error"]), NODES, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_random_replies_give_a_value_or_end_the_line(change):
    try:
        ask({**REPLY, **change}, [1], torch.zeros(2))
    except AnswerLost as lost:
        assert lost.status == "crashed"
