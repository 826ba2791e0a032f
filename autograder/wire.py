"""What crosses between the trusted tests and the process that runs a student's code.

A message is a frame: lengths, a JSON header, raw bytes. Nothing in it can execute, and a malformed
one gives a `WireError`, whatever its sender had in mind. Plain values are copied. Tensors, arrays,
random generators and modules are *shared*: each side holds its own object under one number, and
every message first brings the receiver's up to date, down to the bytes of their memory. So changes
in place, views, expanded tensors, `.grad` and identity look the same on both sides, although they
have no memory in common.

`Peer` is one end of such a conversation; `remote.py` (the tests' end) and `worker.py` (the
student's end) derive theirs from it.
"""

from __future__ import annotations

import base64
import builtins
import collections
import ctypes
import functools
import itertools
import json
import math
import operator
import random
import socket
import struct
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import TensorWeakRef

__all__ = ["Decoder", "Encoder", "Peer", "WireError", "receive_frame", "send_frame"]

MAX_PAYLOAD = 256 << 20  # bytes of tensors and arrays in one message
MAX_HEADER = 16 << 20  # bytes of JSON
MAX_NODES = 1 << 20  # values in one message, repeated ones counted every time
MAX_KEYS = 1 << 14  # entries of one dict or set: keys can be chosen to collide
MAX_DEPTH = 64
MAX_INT_BITS = 14_000  # Python refuses to print integers of more than 4,300 digits
SMALL = 1 << 16  # bytes of payload up to which a message travels in one piece
TRIM_ABOVE = 1 << 20  # a small view of a storage larger than this travels without the rest of it

_LENGTHS = struct.Struct("!IIQ")  # bytes of the header, of its tail, of the payload


class WireError(Exception):
    """A value that cannot be sent, or a message that cannot be read; one sentence."""


# --- frames ----------------------------------------------------------------------------------


def send_frame(
    sock: socket.socket,
    header: bytes,
    tail: dict,
    payload: list[bytes],
    deadline: float = math.inf,
) -> None:
    """Send what `Encoder.finish` made, and a tail of what was known later, if any.

    Args:
        deadline: a `time.monotonic()`.

    Raises:
        TimeoutError, OSError: it could not be sent in time, or nobody listens.
    """
    end = _dump(tail) if tail else b""
    total = sum(len(p) for p in payload)
    head = _LENGTHS.pack(len(header), len(end), total) + header + end
    if total < SMALL:
        payload, head = [], head + b"".join(payload)
    for part in (head, *payload):
        _await(sock, deadline)
        sock.sendall(part)


def receive_frame(sock: socket.socket, deadline: float = math.inf) -> tuple[dict, list[bytes]]:
    """Receive one message: its header, tail included, and its payload.

    Raises:
        WireError: it is malformed or over a limit.
        EOFError, OSError: the other side is gone.
        TimeoutError: it did not come in time.
    """
    length, end, total = _LENGTHS.unpack(_receive(sock, _LENGTHS.size, deadline))
    _check_header(length)
    _check_header(end)
    _check_payload(total)
    whole = total < SMALL
    data = _receive(sock, length + end + total * whole, deadline)
    try:
        header = json.loads(data[:length])
        if end:
            header.update(json.loads(data[length : length + end]))
        sizes = header["sizes"]
        if not all(type(n) is int and n >= 0 for n in sizes) or sum(sizes) != total:
            raise ValueError("wrong sizes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WireError("The message is not readable.") from None
    if not whole:
        return header, [_receive(sock, n, deadline) for n in sizes]
    stops = [*itertools.accumulate(sizes, initial=length + end)]
    return header, [data[start:stop] for start, stop in itertools.pairwise(stops)]


_JSON = json.JSONEncoder(separators=(",", ":"))


def _dump(header: dict) -> bytes:
    return _JSON.encode(header).encode()


def _check_header(length: int) -> None:
    if length > MAX_HEADER:
        raise WireError(f"A message may hold {MAX_HEADER >> 20} MB beside its tensors.")


def _check_payload(total: int) -> None:
    if total > MAX_PAYLOAD:
        raise WireError(f"A message may hold {MAX_PAYLOAD >> 20} MB of tensors, not {total >> 20}.")


def _receive(sock: socket.socket, n: int, deadline: float) -> bytes:
    parts, missing = [], n
    while missing:
        _await(sock, deadline)
        part = sock.recv(min(missing, 1 << 20))
        if not part:
            raise EOFError("The other side is gone.")
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _await(sock: socket.socket, deadline: float) -> None:
    if deadline == math.inf:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


# --- memory ----------------------------------------------------------------------------------


class _Span:
    """Bytes at an address, kept alive by their owner; `np.asarray` makes them an array."""

    def __init__(self, owner: Any, address: int, nbytes: int):
        self.owner = owner
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


@dataclass(frozen=True)
class _Owner:
    """A weak reference to what keeps memory alive: a torch storage or a root array."""

    deref: Callable[[], Any]
    address: int
    nbytes: int
    is_storage: bool

    @classmethod
    def of_storage(cls, storage: torch.UntypedStorage) -> _Owner:
        ref, address, nbytes = StorageWeakRef(storage), storage.data_ptr(), storage.nbytes()

        def deref() -> torch.UntypedStorage | None:
            found = torch.UntypedStorage._new_with_weak_ptr(ref.cdata)
            # `resize_` moves the memory of a living storage.
            return found if found is not None and found.data_ptr() == address else None

        return cls(deref, address, nbytes, True)

    @classmethod
    def of_array(cls, array: np.ndarray) -> _Owner:
        """The owner of an array's memory, at the root of its chain of bases."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if isinstance(root.base, torch.Tensor):
            return cls.of_storage(root.base.untyped_storage())
        low, high = np.lib.array_utils.byte_bounds(root)
        return cls(weakref.ref(root), low, high - low, False)


class Buffer:
    """A stretch of memory of which both sides hold a copy, and its bytes when last in step."""

    def __init__(self, number: int, address: int, nbytes: int, device: str, owners: list[_Owner]):
        self.id, self.address, self.nbytes, self.device = number, address, nbytes, device
        self.owners = owners
        self.seen: bytes | None = None

    def holder(self) -> Any:
        """What keeps the memory alive, or None when it is gone."""
        for owner in self.owners:
            if (holder := owner.deref()) is not None:
                return holder
        return None

    def contains(self, start: int, stop: int, device: str) -> bool:
        inside = self.address <= start and stop <= self.address + self.nbytes
        return inside and device == self.device and start < stop

    def _on_device(self, holder: torch.UntypedStorage) -> torch.Tensor:
        """The memory of a device as a tensor."""
        start = self.address - holder.data_ptr()
        empty = torch.empty(0, dtype=torch.uint8, device=self.device)
        return empty.set_(holder, start, (self.nbytes,), (1,))

    def update(self) -> bool:
        """Look at the memory again; whether it changed since it was last in step."""
        holder = self.holder()  # alive until the end
        if holder is None or not self.nbytes:
            self.seen = self.seen or b""
            return False
        if self.device != "cpu":
            now = self._on_device(holder).cpu().numpy().tobytes()
            changed, self.seen = now != self.seen, now
            return changed
        if self.seen is not None and not _memcmp(self.address, self.seen, self.nbytes):
            return False
        self.seen = ctypes.string_at(self.address, self.nbytes)
        return True

    def write(self, data: bytes) -> None:
        """Take over the other side's bytes."""
        if len(data) != self.nbytes:
            raise WireError("The message holds memory of the wrong size.")
        holder = self.holder()  # alive until the end
        if holder is not None and self.nbytes and self.device == "cpu":
            ctypes.memmove(self.address, data, self.nbytes)
        elif holder is not None and self.nbytes:
            self._on_device(holder).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        self.seen = data

    def storage(self, start: int, nbytes: int) -> torch.UntypedStorage:
        """The storage of that part of the memory; made where none of that extent exists."""
        address = self.address + start
        for owner in self.owners:
            exact = owner.is_storage and (owner.address, owner.nbytes) == (address, nbytes)
            if exact and (found := owner.deref()) is not None:
                return found
        if not nbytes:
            return torch.empty(0, dtype=torch.uint8, device=self.device).untyped_storage()
        if self.device != "cpu":
            raise WireError("A part of another storage cannot be sent from this device.")
        made = torch.from_numpy(np.asarray(_Span(self.holder(), address, nbytes)))
        self.owners.append(_Owner.of_storage(made.untyped_storage()))
        return made.untyped_storage()


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# --- what both sides hold under one number ----------------------------------------------------


class _CountedRef:
    """A stand-in for `weakref.ref`, for types that have none: dead when only it is left."""

    def __init__(self, value: Any):
        self._value = value

    def __call__(self) -> Any:
        # the attribute and getrefcount's own argument
        return self._value if sys.getrefcount(self._value) > 2 else None


@dataclass(eq=False)
class Record:
    """One shared object: its number, a weak reference, and its state when last in step."""

    id: int
    kind: str  # tensor, array, random, module; branch: a tensor inside the sender's graph
    ref: Callable[[], Any]
    print: Any = None
    leaf: TensorWeakRef | None = None  # of a branch: where gradients leave this side's graph

    def is_branch_still(self, value: torch.Tensor) -> bool:
        """Whether nothing was done in place to a branch since it came."""
        node = value.grad_fn
        if self.leaf is None or not isinstance(node, _Branch._backward_cls):
            return False
        return node.next_functions[-1][0].variable is self.leaf()


def _ref(value: Any) -> Callable[[], Any]:
    if isinstance(value, torch.Tensor):
        return TensorWeakRef(value)
    try:
        return weakref.ref(value)
    except TypeError:
        return _CountedRef(value)


class Peer:
    """One end of a conversation: what it shares with the other end, and by which number.

    Args:
        first: 0 or 1; the two ends number what they share with even and odd numbers.
    """

    def __init__(self, first: int):
        self._numbers = itertools.count(first, 2)
        self.records: dict[int, Record] = {}
        self.buffers: dict[int, Buffer] = {}
        self._by_object: dict[int, Record] = {}
        self.forgotten: list[int] = []  # numbers that the other end may forget
        self.freed: list[int] = []  # the same of memory

    def number(self) -> int:
        """A number that neither end has used."""
        return next(self._numbers)

    def find(self, value: Any) -> Record | None:
        """The record of an object that is shared already."""
        record = self._by_object.get(id(value))
        if record is None or record.id not in self.records:
            return None
        is_leaf = record.leaf is not None and record.leaf() is value
        return record if is_leaf or record.ref() is value else None

    def add(self, record: Record, *values: Any) -> None:
        """Share an object from now on; the leaf of a branch answers to the same number."""
        self.records[record.id] = record
        for value in values:
            self._by_object[id(value)] = record

    def drop(self, number: int) -> None:
        """Share an object no longer."""
        self.records.pop(number, None)

    def purge(self) -> None:
        """Forget what is gone on this side."""
        for record in list(self.records.values()):
            if record.ref() is None and (record.leaf is None or record.leaf() is None):
                self.drop(record.id)
                self.forgotten.append(record.id)
        for buffer in list(self.buffers.values()):
            if buffer.holder() is None:
                del self.buffers[buffer.id]
                self.freed.append(buffer.id)
        if len(self._by_object) > 2 * len(self.records) + 64:
            self._by_object = {
                key: record for key, record in self._by_object.items() if record.id in self.records
            }

    def farewell(self) -> list:
        """What the other end should forget too."""
        self.purge()
        lists = [self.forgotten, self.freed]
        self.forgotten, self.freed = [], []
        return lists

    def forget(self, lists: list) -> None:
        """Follow the other end's farewell."""
        numbers, buffers = lists
        for number in numbers:
            self.drop(number)
        for number in buffers:
            self.buffers.pop(number, None)

    # What each end adds: objects that stay where they are.

    stand_ins: tuple[type, ...] = ()  # classes of which `refer` is asked at once

    def refer(self, value: Any, encoder: Encoder) -> list:
        """The node of a value that is not plain.

        Raises:
            WireError: it cannot be sent.
        """
        raise WireError(f"A value of type {type(value).__name__} cannot be sent.")

    def resolve(self, node: list, decoder: Decoder) -> Any:
        """The value of a node that `refer` made at the other end."""
        raise WireError("The message holds an unknown kind of value.")

    def describe_module(self, module: nn.Module) -> dict:
        """What the other end needs of a module beyond `Encoder.module_state`."""
        return {}

    def complete_module(self, module: nn.Module, extra: dict) -> None:
        """Take over what the other end's `describe_module` said."""

    def may_send(self, thing: Any) -> bool:
        """Whether a function or class that has a public name may go by it."""
        return True

    def may_receive(self, thing: Any) -> bool:
        """Whether a function or class may come by its name."""
        return True


# --- values to JSON ---------------------------------------------------------------------------

_BIT_GENERATORS = {"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"}
_TORCH_NAMES = (torch.dtype, torch.layout, torch.memory_format)
_MODULE_SLOTS = frozenset(vars(nn.Module()))
_FLAT = {bool, float, str, type(None)}


class Encoder:
    """Builds one message of a peer. Nothing is shared until `finish`."""

    def __init__(self, peer: Peer, answering: Decoder | None = None):
        self.peer = peer
        self.containers: list[Any] = []  # lists, dicts and sets, in order of appearance
        self.outputs: list[torch.Tensor] = []  # tensors with a history on this side
        self.rebased: dict[int, torch.Tensor] = {}  # shared ones that got a history in place
        self._answering = answering
        self._open: set[int] = set()
        self._seen: dict[int, int] = {}
        self._new: dict[int, tuple[Record, Any]] = {}
        self._changed: list[Record] = []
        self._spans: list[tuple[dict, int, int, str, _Owner]] = []
        self._kept: list[Any] = []
        self._depth = 0
        self._nodes = 0
        peer.purge()

    def node(self, value: Any) -> Any:
        """The JSON of a value.

        Raises:
            WireError: it cannot be sent.
        """
        kind = type(value)
        if kind in _FLAT or (kind is int and -(1 << 53) < value < 1 << 53):
            return value
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise WireError(f"A message may hold {MAX_NODES} values.")
        if self._depth >= MAX_DEPTH:
            raise WireError(f"A value may be nested {MAX_DEPTH} deep.")
        self._depth += 1
        try:
            return self._node(value, kind)
        finally:
            self._depth -= 1

    def _node(self, value: Any, kind: type) -> Any:
        if (simple := _SIMPLE.get(kind)) is not None:
            return simple(value)
        if kind in (list, dict, set, collections.OrderedDict, *_DICTS):
            return self._container(value, kind)
        if kind in (tuple, frozenset):
            return [kind.__name__, [self.node(v) for v in value]]
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, self.peer.stand_ins):
            return self.peer.refer(value, self)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            if value.dtype.kind not in "?biufcSUmM":
                raise WireError(f"NumPy values of dtype {value.dtype} cannot be sent.")
            return ["scalar", value.dtype.str, _text(value.tobytes())]
        if isinstance(value, _TORCH_NAMES):
            return ["torch", str(value).removeprefix("torch.")]
        if isinstance(value, tuple) and (fields := _fields(kind)) is not None:
            return ["named", kind.__name__, list(fields), [self.node(v) for v in value]]
        if isinstance(value, Path):
            return ["path", str(value)]
        if (state := random_state(value)) is not None:
            return self.shared(value, "random", lambda: state)
        if (name := public_name(value)) is not None and self.peer.may_send(value):
            return ["name", *name]
        return self.peer.refer(value, self)

    def _container(self, value: Any, kind: type) -> list:
        number = self._seen.get(id(value))
        if number is not None:
            if number in self._open:
                raise WireError("A value that contains itself cannot be sent.")
            return ["again", number]
        if self._answering is not None:
            for known, theirs in enumerate(self._answering.containers):
                if theirs is value:
                    return ["yours", known]
        number = self._seen[id(value)] = len(self.containers)
        self._open.add(number)
        node = self.contents(value)
        self._open.discard(number)
        return node

    def contents(self, value: Any) -> list:
        """The node of a container, even if the other end has it already."""
        self.containers.append(value)
        if isinstance(value, dict):
            name = "ordered" if isinstance(value, collections.OrderedDict) else "dict"
            self._check_keys(value)
            return [name, [[self.node(k), self.node(v)] for k, v in value.items()]]
        if isinstance(value, set):
            self._check_keys(value)
        return [type(value).__name__, [self.node(v) for v in value]]

    def _check_keys(self, value: Any) -> None:
        if len(value) > MAX_KEYS:
            raise WireError(f"A dict or set may have {MAX_KEYS} entries.")

    # shared objects

    def shared(self, value: Any, kind: str, describe: Callable[[], Any]) -> list:
        """The node of a shared object; `describe` gives its state, if it is new over there."""
        record = self.peer.find(value) or self._new.get(id(value), (None,))[0]
        if record is not None:
            return ["same", record.id]
        record = Record(self.peer.number(), kind, _ref(value))
        self._new[id(value)] = (record, value)
        return [kind, record.id, describe()]

    def _tensor(self, value: torch.Tensor) -> list:
        if torch._C._functorch.is_functorch_wrapped_tensor(value):
            raise WireError("A call inside a torch.func transform cannot be sent; use a probe.")
        if value.layout is torch.sparse_coo:
            parts = value.detach().coalesce()
            return ["sparse", self.node(parts.indices()), self.node(parts.values()), [*value.shape]]
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise WireError(f"A {value.layout} tensor on {value.device} cannot be sent.")
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        if isinstance(value, nn.parameter.UninitializedTensorMixin):
            raise WireError("A parameter that is not initialized yet cannot be sent.")
        if value.requires_grad and not value.is_leaf:
            return self._inner(value)
        return self.shared(value, "tensor", lambda: self.tensor_state(value))

    def _inner(self, value: torch.Tensor) -> list:
        """A tensor with a history: the other side continues it, see `Decoder.branch`."""
        if self._answering is not None:
            record = self.peer.find(value)
            if record is not None:
                if not record.is_branch_still(value):
                    self.rebased[record.id] = value
                return ["same", record.id]
            known = next((i for i, o in enumerate(self.outputs) if o is value), None)
            if known is not None:
                return ["output", known]
            self.outputs.append(value)
            return ["output", len(self.outputs) - 1, self._layout(value)]
        if (known := self._new.get(id(value))) is not None:
            return ["same", known[0].id]
        record = Record(self.peer.number(), "branch", _ref(value))
        self._new[id(value)] = (record, value)
        return ["branch", record.id, self._layout(value)]

    def tensor_state(self, value: torch.Tensor) -> dict:
        """All that the other side needs for the same tensor."""
        state = self._layout(value)
        flags = {"parameter": isinstance(value, nn.Parameter), "leaf": value.requires_grad}
        state.update((k, True) for k, v in flags.items() if v)
        if value.grad is not None:
            state["grad"] = self.node(value.grad)
        return state

    def _layout(self, value: torch.Tensor) -> dict:
        self._kept.append(value)
        storage = value.untyped_storage()
        start, size, width = storage.data_ptr(), storage.nbytes(), value.element_size()
        strides, offset = value.stride(), value.storage_offset()
        extent = _extent(value.shape, strides)
        if size > TRIM_ABOVE and 4 * extent * width < size and not self._known(start, size):
            start, size, offset = start + offset * width, extent * width, 0
        layout = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": [*value.shape],
            "strides": [*strides],
            "offset": offset,
        }
        if value.is_inference():
            layout["inference"] = True
        device = str(value.device)
        self._spans.append((layout, start, start + size, device, _Owner.of_storage(storage)))
        return layout

    def _known(self, start: int, size: int) -> bool:
        return any(b.address <= start < b.address + size for b in self.peer.buffers.values())

    def _array(self, value: np.ndarray) -> list:
        if value.dtype.kind not in "?biufcSUmM":
            raise WireError(f"Arrays of dtype {value.dtype} cannot be sent.")
        if type(value) is not np.ndarray:
            value = np.asarray(value)
        return self.shared(value, "array", lambda: self._array_state(value))

    def _array_state(self, value: np.ndarray) -> dict:
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        flags = {"writeable": value.flags.writeable}
        if not root.flags.writeable:  # bytes, say: the other side gets a copy
            value = np.array(value)
        self._kept.append(value)
        owner = _Owner.of_array(value)
        start = _address(value) if value.size else owner.address
        state = {
            "dtype": value.dtype.str,
            "shape": [*value.shape],
            "strides": [*value.strides],
            "offset": start - owner.address,
            **flags,
        }
        span = (state, owner.address, owner.address + owner.nbytes, "cpu", owner)
        self._spans.append(span)
        return state

    def module_state(self, value: nn.Module) -> dict:
        """The state that modules keep in step on both sides."""
        loose = value._non_persistent_buffers_set
        return {
            "extra": self.node(self.peer.describe_module(value)),
            "training": bool(value.training),
            "parameters": [[k, self.node(v)] for k, v in value._parameters.items()],
            "buffers": [[k, self.node(v), k not in loose] for k, v in value._buffers.items()],
            "children": [[k, self.node(v)] for k, v in value._modules.items()],
        }

    def states(self) -> list:
        """The shared objects that changed since both sides were in step."""
        changed = []
        for record in list(self.peer.records.values()):
            value = record.ref()
            if value is None or record.print == fingerprint(self.peer, record, value):
                continue
            if record.kind == "tensor":
                if not value.is_leaf:
                    continue  # it has a history now and travels as what it is
                state = self.tensor_state(value)
            elif record.kind == "random":
                state = random_state(value)
            else:
                state = self.module_state(value)
            self._changed.append(record)
            changed.append([record.id, state])
        return changed

    def finish(self, header: dict) -> tuple[bytes, list[bytes]]:
        """Find the memory behind the message, share what is new, and close the message.

        Raises:
            WireError: the message is over a limit; then nothing was shared.
        """
        new = self._place()
        _check_payload(sum(b.nbytes for b in new))
        dirty = [b for b in self.peer.buffers.values() if b.update()]
        for buffer in new:
            buffer.update()
        payload = [b.seen for b in (*new, *dirty)]
        header["new"] = [[b.id, b.device] for b in new]
        header["dirty"] = [b.id for b in dirty]
        header["sizes"] = [len(data) for data in payload]
        text = _dump(header)
        _check_header(len(text))
        self.peer.buffers.update((b.id, b) for b in new)
        for record, value in self._new.values():
            self.peer.add(record, value)
        for record in [*self._changed, *(record for record, _ in self._new.values())]:
            record.print = fingerprint(self.peer, record, record.ref())
        return text, payload

    def _place(self) -> list[Buffer]:
        """Give every layout its memory: a shared buffer, or a new one for all that overlap."""
        open_: list[tuple[dict, int, int, str, _Owner]] = []
        buffers = self.peer.buffers.values()
        for span in self._spans:
            layout, start, stop, device, _ = span
            buffer = next((b for b in buffers if b.contains(start, stop, device)), None)
            if buffer is None:
                open_.append(span)
            else:
                layout["memory"] = [buffer.id, start - buffer.address, stop - start]
        new: list[Buffer] = []
        for layout, start, stop, device, owner in sorted(open_, key=lambda s: (s[3], s[1], -s[2])):
            last = new[-1] if new else None
            if last is None or last.device != device or not start < last.address + last.nbytes:
                last = Buffer(self.peer.number(), start, stop - start, device, [])
                new.append(last)
            last.nbytes = max(last.nbytes, stop - last.address)
            last.owners.append(owner)
            layout["memory"] = [last.id, start - last.address, stop - start]
        return new


def _extent(shape: Iterable[int], strides: Iterable[int]) -> int:
    """Elements from the first to the last one."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def fingerprint(peer: Peer, record: Record, value: Any) -> Any:
    """What tells whether a shared object changed beyond the bytes of its memory."""
    if record.kind == "tensor":
        grad = value.grad if value.is_leaf else None
        return (
            value.untyped_storage().data_ptr(),
            value.storage_offset(),
            value.shape,
            value.stride(),
            value.dtype,
            value.requires_grad,
            _number(peer, grad),
        )
    if record.kind == "random":
        return random_state(value)
    if isinstance(value, nn.Module):
        attributes = plain_attributes(value) if record.kind == "module" else {}
        return (
            value.training,
            [(k, _number(peer, v)) for k, v in value._parameters.items()],
            [(k, _number(peer, v)) for k, v in value._buffers.items()],
            [(k, _number(peer, v)) for k, v in value._modules.items()],
            set(value._non_persistent_buffers_set),
            [(k, v if type(v) in _FLAT else repr(v)) for k, v in attributes.items()],
        )
    return None


def _number(peer: Peer, value: Any) -> int:
    if value is None:
        return -1
    record = peer.find(value)
    return -2 if record is None else record.id  # -2: not shared yet, so never in step


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a torch.nn module that its constructor set: sizes, flags, functions."""
    hidden = {"_flat_weights", "_flat_weight_refs"} if isinstance(module, nn.RNNBase) else set()
    return {k: v for k, v in vars(module).items() if k not in _MODULE_SLOTS and k not in hidden}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _fields(kind: type) -> tuple[str, ...] | None:
    if kind.__module__ == "torch.return_types":
        return kind.__match_args__
    return getattr(kind, "_fields", None)


def _big(value: int) -> list:
    if value.bit_length() > MAX_INT_BITS:
        raise WireError(f"An integer may have {MAX_INT_BITS} bits.")
    return ["int", hex(value)]


_CONTAINERS = (list, tuple, dict, set, frozenset)
_DICTS = (collections.defaultdict, collections.Counter)
_SIMPLE: dict[type, Callable[[Any], Any]] = {
    int: _big,
    complex: lambda v: ["complex", v.real, v.imag],
    bytes: lambda v: ["bytes", _text(v)],
    slice: lambda v: ["slice", *(_index(i) for i in (v.start, v.stop, v.step))],
    range: lambda v: ["range", *(_index(i) for i in (v.start, v.stop, v.step))],
    types.EllipsisType: lambda v: ["ellipsis"],
    torch.Size: lambda v: ["size", [*v]],
    torch.device: lambda v: ["device", str(v)],
}


def _index(value: Any) -> int | None:
    try:
        index = None if value is None else operator.index(value)
    except TypeError:
        raise WireError("A slice may hold integers only.") from None
    if index is not None and index.bit_length() > 64:
        raise WireError("A slice or range may hold 64-bit integers.")
    return index


def random_state(value: Any) -> list | None:
    """The state of a random generator as plain lists; None for any other value."""
    if type(value) is torch.Generator:
        return ["torch", str(value.device), _text(value.get_state().numpy().tobytes())]
    if type(value) is random.Random:
        version, words, gauss = value.getstate()
        return ["random", version, list(words), gauss]
    if type(value) is np.random.Generator:
        return ["numpy", _plain(value.bit_generator.state)]
    if type(value) is np.random.RandomState:
        return ["numpy-legacy", _plain(value.get_state(legacy=False))]
    return None


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: _plain(v) for k, v in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state


def _make_random(state: list) -> Any:
    kind = state[0]
    if kind == "torch":
        made = torch.Generator(device=state[1])
    elif kind == "random":
        made = random.Random()
    elif kind == "numpy" and state[1]["bit_generator"] in _BIT_GENERATORS:
        made = np.random.Generator(getattr(np.random, state[1]["bit_generator"])())
    elif kind == "numpy-legacy":
        made = np.random.RandomState()
    else:
        raise WireError("The message holds an unknown random generator.")
    _set_random(made, state)
    return made


def _set_random(generator: Any, state: list) -> None:
    if type(generator) is torch.Generator:
        data = np.frombuffer(base64.b64decode(state[2]), np.uint8)
        generator.set_state(torch.from_numpy(data.copy()))
    elif type(generator) is random.Random:
        generator.setstate((state[1], tuple(state[2]), state[3]))
    elif type(generator) is np.random.Generator:
        generator.bit_generator.state = _arrays(state[1])
    else:
        generator.set_state(_arrays(state[1]))


def _arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: _arrays(v) for k, v in state.items()}
    if type(state) is not list:
        return state
    return np.array(state, np.uint32 if len(state) == 624 else np.uint64)  # 624: MT19937's words


# --- functions and classes by name --------------------------------------------------------------

_NAMED = {m.__name__: m for m in (torch, torch.nn.functional, math, operator, np, builtins)}
_NAMED |= {"torch.nn": nn, "torch.linalg": torch.linalg, "torch.special": torch.special}
# They run code, or touch files and networks.
_UNNAMED = frozenset(
    """
    eval exec compile open input print breakpoint exit quit help globals locals vars getattr
    setattr delattr type object super memoryview load save from_file fromfile memmap loadtxt
    savetxt savez savez_compressed genfromtxt fromregex attrgetter methodcaller
    """.split()  # noqa: SIM905
)
_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)


def public_name(value: Any) -> tuple[str, str] | None:
    """Module and name of a public function or class of torch, NumPy, math, operator, builtins."""
    if not isinstance(value, _FUNCTIONS):
        return None
    name = getattr(value, "__name__", None)
    if not isinstance(name, str) or name.startswith("_") or name in _UNNAMED:
        return None
    for module_name, module in _NAMED.items():
        if vars(module).get(name) is value:
            return module_name, name
    return None


def is_pure(thing: Any) -> bool:
    """Whether student code may hand this to the tests: plain types, layers, F's functions."""
    if isinstance(thing, type):
        return vars(builtins).get(thing.__name__) is thing or issubclass(thing, nn.Module)
    return getattr(thing, "__module__", None) in ("torch.nn.functional", "torch._C._nn")


def _by_name(module: str, name: str) -> Any:
    if name.startswith("_") or name in _UNNAMED:
        raise WireError("The message names a function that may not be sent.")
    thing = vars(_NAMED[module])[name]
    if not isinstance(thing, _FUNCTIONS):
        raise WireError("The message names something that is no function.")
    return thing


# --- JSON to values -----------------------------------------------------------------------------


class Decoder:
    """Reads one message of the other end.

    Args:
        answered: the containers of the request that this message answers.
    """

    def __init__(
        self, peer: Peer, header: dict, payload: list[bytes], answered: Sequence[Any] = ()
    ):
        self.peer, self.header = peer, header
        self.containers: list[Any] = []
        self.outputs: list[torch.Tensor] = []
        self.kept: list[Any] = []
        self._answered = answered
        self._sizes: list[int | None] = []
        self._nodes = 0
        self._depth = 0
        with self._strictly():
            self._memory(payload)

    @contextmanager
    def _strictly(self) -> Iterator[None]:
        """Whatever a hostile message breaks is a malformed message."""
        try:
            yield
        except WireError:
            raise
        except Exception as error:
            raise WireError(f"The message is malformed ({type(error).__name__}).") from None

    def _memory(self, payload: list[bytes]) -> None:
        new, dirty = self.header["new"], self.header["dirty"]
        if len(new) + len(dirty) != len(payload):
            raise WireError("The message lacks memory that it names.")
        for (number, device), data in zip(new, payload[: len(new)], strict=True):
            if type(number) is not int or number in self.peer.buffers:
                raise WireError("The message shares memory that is shared already.")
            memory = torch.empty(len(data), dtype=torch.uint8, device=device)
            self.kept.append(memory)
            owner = _Owner.of_storage(memory.untyped_storage())
            buffer = Buffer(number, owner.address, len(data), str(memory.device), [owner])
            buffer.write(data)
            self.peer.buffers[number] = buffer
        for number, data in zip(dirty, payload[len(new) :], strict=True):
            self.peer.buffers[number].write(data)

    def states(self, states: list) -> None:
        """Bring the shared objects up to date."""
        with self._strictly(), torch.no_grad():
            for number, state in states:
                record = self.peer.records[number]
                value = record.ref()
                if value is None or (record.kind == "tensor" and not value.is_leaf):
                    continue
                if record.kind == "tensor":
                    self._update_tensor(value, state)
                elif record.kind == "random":
                    _set_random(value, state)
                else:
                    self.update_module(value, state)
                record.print = fingerprint(self.peer, record, value)

    def value(self, node: Any) -> Any:
        """The value of a node.

        Raises:
            WireError: the node is malformed or over a limit.
        """
        with self._strictly():
            return self._value(node)

    def _value(self, node: Any) -> Any:
        self._count(1)
        if type(node) is not list:
            if type(node) is dict:
                raise WireError("The message is malformed.")
            return node
        if self._depth >= MAX_DEPTH:
            raise WireError(f"A value may be nested {MAX_DEPTH} deep.")
        self._depth += 1
        try:
            read = _READERS.get(node[0])
            return self.peer.resolve(node, self) if read is None else read(self, *node[1:])
        finally:
            self._depth -= 1

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise WireError(f"A message may hold {MAX_NODES} values.")

    # containers

    def _container(self, made: Any, fill: Callable[[], None]) -> Any:
        number, before = len(self.containers), self._nodes
        self.containers.append(made)
        self._sizes.append(None)
        fill()
        self._sizes[number] = self._nodes - before
        return made

    def _list(self, nodes: list) -> list:
        made: list = []
        return self._container(made, lambda: made.extend(self._value(n) for n in nodes))

    def _set(self, nodes: list) -> set:
        made: set = set()
        _check_count(nodes)
        return self._container(made, lambda: made.update(self._value(n) for n in nodes))

    def _dict(self, pairs: list, kind: type = dict) -> dict:
        made = kind()
        _check_count(pairs)
        fill = lambda: made.update((self._value(k), self._value(v)) for k, v in pairs)  # noqa: E731
        return self._container(made, fill)

    def _again(self, number: int) -> Any:
        size = self._sizes[_natural(number)]
        if size is None:
            raise WireError("A value that contains itself cannot be sent.")
        self._count(size)
        return self.containers[number]

    def _yours(self, number: int) -> Any:
        container = self._answered[_natural(number)]
        self._count(len(container))
        return container

    def _frozenset(self, nodes: list) -> frozenset:
        _check_count(nodes)
        return frozenset(self._value(n) for n in nodes)

    def _named(self, name: str, fields: list, nodes: list) -> tuple:
        if len(fields) != len(nodes) or len(fields) > 64:
            raise WireError("The message holds a malformed named tuple.")
        return _namedtuple(name, tuple(fields))(*(self._value(n) for n in nodes))

    def update_container(self, number: int, node: list) -> None:
        """Give a container of the answered request its new contents."""
        with self._strictly():
            target, made = self._answered[_natural(number)], self._value(node)
            if isinstance(target, list) and isinstance(made, list):
                target[:] = made
            elif isinstance(target, (dict, set)) and isinstance(made, (dict, set)):
                target.clear()
                target.update(made)
            else:
                raise WireError("The message changes a container into another.")

    def check_containers(self) -> None:
        """Refuse what cyclic or endlessly repeated containers an update may have built."""
        self._nodes, open_ = 0, [(c, 0) for c in self._answered]
        try:
            while open_:
                value, depth = open_.pop()
                if depth >= MAX_DEPTH:
                    raise WireError("A value that contains itself cannot be sent.")
                inner = [*value, *value.values()] if isinstance(value, dict) else value
                self._count(len(inner))
                open_ += [(v, depth + 1) for v in inner if isinstance(v, _CONTAINERS)]
        except WireError:
            for container in self._answered:
                container.clear()
            raise

    # shared objects

    def _same(self, number: int) -> Any:
        record = self.peer.records[number]
        value = record.ref()
        if value is None:
            raise WireError("The message names an object that is gone.")
        return value

    def share(self, number: int, kind: str, value: Any, leaf: torch.Tensor | None = None) -> Any:
        """Enter an object that the other end shares from now on."""
        if type(number) is not int or number in self.peer.records:
            raise WireError("The message shares an object that is shared already.")
        record = Record(number, kind, _ref(value))
        self.peer.add(record, value)
        if leaf is not None:
            record.leaf = TensorWeakRef(leaf)
            self.peer.add(record, leaf)
        self.kept.append(value)
        record.print = fingerprint(self.peer, record, value)
        return value

    def layout(self, layout: dict) -> torch.Tensor:
        """A tensor without history over shared memory."""
        dtype = getattr(torch, layout["dtype"])
        number, start, nbytes = layout["memory"]
        buffer = self.peer.buffers[number]
        shape, strides = layout["shape"], layout["strides"]
        if not isinstance(dtype, torch.dtype) or len(shape) != len(strides):
            raise WireError("The message holds a malformed tensor.")
        numbers = [*shape, *strides, layout["offset"], start, nbytes]
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise WireError("The message holds a malformed tensor.")
        width = dtype.itemsize
        if start + nbytes > buffer.nbytes or math.prod(shape) * width > MAX_PAYLOAD:
            raise WireError("The message holds a tensor that is larger than its memory.")
        if 0 not in shape and (layout["offset"] + _extent(shape, strides)) * width > nbytes:
            raise WireError("The message holds a tensor that is larger than its memory.")
        if buffer.device == "cpu" and nbytes and (buffer.address + start) % width:
            raise WireError("The message holds a tensor at an odd address.")
        offset = layout["offset"] if 0 not in shape else 0
        storage, device = buffer.storage(start, nbytes), buffer.device
        inference = bool(layout.get("inference"))
        if inference == torch.is_inference_mode_enabled():  # nearly always
            return torch.empty(0, dtype=dtype, device=device).set_(storage, offset, shape, strides)
        with torch.inference_mode(inference):
            return torch.empty(0, dtype=dtype, device=device).set_(storage, offset, shape, strides)

    def _tensor(self, number: int, state: dict) -> torch.Tensor:
        value = self.layout(state)
        if state.get("parameter"):
            value = nn.Parameter(value, requires_grad=bool(state.get("leaf")))
        elif state.get("leaf"):
            value.requires_grad_()
        if "grad" in state:
            value.grad = self._grad(state["grad"])
        return self.share(number, "tensor", value)

    def _grad(self, node: Any) -> torch.Tensor:
        grad = self._value(node)
        if not isinstance(grad, torch.Tensor):
            raise WireError("The message holds a gradient that is no tensor.")
        return grad

    def _update_tensor(self, value: torch.Tensor, state: dict) -> None:
        fresh = self.layout(state)
        same = (
            fresh.dtype == value.dtype
            and fresh.shape == value.shape
            and fresh.stride() == value.stride()
            and fresh.data_ptr() == value.data_ptr()
        )
        leaf = bool(state.get("leaf"))
        if not leaf:
            value.requires_grad_(False)
        if not same:
            value.grad = None
            value.data = fresh
        if leaf:
            value.requires_grad_()
        grad = self._grad(state["grad"]) if "grad" in state else None
        if grad is not value.grad:
            value.grad = grad

    def _branch(self, number: int, layout: dict) -> torch.Tensor:
        """A tensor inside the other side's graph: here it grows out of a leaf of its own."""
        leaf, value = self.layout(layout).requires_grad_(), self.layout(layout)
        with torch.enable_grad():
            _Branch.apply([value], leaf)
        return self.share(number, "branch", value, leaf)

    def _output(self, number: int, layout: dict | None = None) -> torch.Tensor:
        if layout is None:
            return self.outputs[_natural(number)]
        if number != len(self.outputs):
            raise WireError("The message holds its outputs in disorder.")
        self.outputs.append(self.layout(layout))
        return self.outputs[-1]

    def _array(self, number: int, state: dict) -> np.ndarray:
        dtype = np.dtype(state["dtype"])
        if dtype.kind not in "?biufcSUmM":
            raise WireError(f"Arrays of dtype {dtype} cannot be sent.")
        buffer_number, start, nbytes = state["memory"]
        buffer = self.peer.buffers[buffer_number]
        if min(start, nbytes) < 0 or start + nbytes > buffer.nbytes:
            raise WireError("The message holds an array that is larger than its memory.")
        if math.prod(state["shape"]) * dtype.itemsize > MAX_PAYLOAD:
            raise WireError("The message holds an array that is larger than its memory.")
        if nbytes:
            bytes_ = np.asarray(_Span(buffer.holder(), buffer.address + start, nbytes))
        else:
            bytes_ = np.empty(0, np.uint8)
        value = np.ndarray(state["shape"], dtype, bytes_, state["offset"], state["strides"])
        value.flags.writeable = bool(state["writeable"])
        return self.share(number, "array", value)

    def _random(self, number: int, state: list) -> Any:
        return self.share(number, "random", _make_random(state))

    def _sparse(self, indices: Any, values: Any, shape: list) -> torch.Tensor:
        if math.prod(shape) > MAX_PAYLOAD:
            raise WireError("The message holds a sparse tensor that is too large.")
        indices, values = self._value(indices), self._value(values)
        return torch.sparse_coo_tensor(
            indices, values, shape, check_invariants=True, is_coalesced=True
        )

    def update_module(self, module: nn.Module, state: dict) -> None:
        """Give a module the state that `Encoder.module_state` described."""
        extra = self._value(state["extra"])
        module.training = bool(state["training"])
        parameters = {_key(k): self._value(v) for k, v in state["parameters"]}
        buffers = {_key(k): self._value(v) for k, v, _ in state["buffers"]}
        children = {_key(k): self._value(v) for k, v in state["children"]}
        for values, kind in (
            (parameters, nn.Parameter),
            (buffers, torch.Tensor),
            (children, nn.Module),
        ):
            if not all(v is None or isinstance(v, kind) for v in values.values()):
                raise WireError("The message holds a malformed module.")
        _replace(module._parameters, parameters)
        _replace(module._buffers, buffers)
        _replace(module._modules, children)
        loose = {k for k, _, persistent in state["buffers"] if not persistent}
        module._non_persistent_buffers_set = loose
        self.peer.complete_module(module, extra)

    def _name(self, module: str, name: str) -> Any:
        thing = _by_name(module, name)
        if not self.peer.may_receive(thing):
            raise WireError("The message names a function that may not be sent.")
        return thing


class _Branch(torch.autograd.Function):
    """Makes ready tensors the outcome of a leaf, without copying them."""

    @staticmethod
    def forward(ctx, ready, leaf):
        return tuple(ready)

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def _replace(target: dict, source: dict) -> None:
    if list(target) != list(source) or any(target[k] is not v for k, v in source.items()):
        target.clear()
        target.update(source)


def _key(name: Any) -> str:
    if type(name) is not str or "." in name:
        raise WireError("The message holds a malformed module.")
    return name


def _natural(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise WireError("The message is malformed.")
    return number


def _check_count(nodes: list) -> None:
    if len(nodes) > MAX_KEYS:
        raise WireError(f"A dict or set may have {MAX_KEYS} entries.")


@functools.lru_cache(256)
def _namedtuple(name: str, fields: tuple[str, ...]) -> type:
    return collections.namedtuple(name, fields)


def _torch_name(decoder: Decoder, name: str) -> Any:
    value = getattr(torch, name)
    if not isinstance(value, _TORCH_NAMES):
        raise WireError("The message is malformed.")
    return value


def _scalar(decoder: Decoder, dtype: str, data: str) -> Any:
    kind = np.dtype(dtype)
    if kind.kind not in "?biufcSUmM":
        raise WireError("The message is malformed.")
    if not kind.itemsize:
        return kind.type()
    (value,) = np.frombuffer(base64.b64decode(data), kind)
    return value


def _integer(decoder: Decoder, text: str) -> int:
    if len(text) > MAX_INT_BITS // 4 + 4:
        raise WireError(f"An integer may have {MAX_INT_BITS} bits.")
    return int(text, 16)


_READERS: dict[str, Callable] = {
    "int": _integer,
    "complex": lambda d, real, imag: complex(real, imag),
    "bytes": lambda d, text: base64.b64decode(text, validate=True),
    "slice": lambda d, *parts: slice(*parts),
    "range": lambda d, *parts: range(*parts),
    "ellipsis": lambda d: ...,
    "size": lambda d, shape: torch.Size(shape),
    "device": lambda d, text: torch.device(text),
    "torch": _torch_name,
    "scalar": _scalar,
    "path": lambda d, text: Path(text),
    "list": Decoder._list,
    "dict": Decoder._dict,
    "ordered": lambda d, pairs: d._dict(pairs, collections.OrderedDict),
    "set": Decoder._set,
    "tuple": lambda d, nodes: tuple(d._value(n) for n in nodes),
    "frozenset": Decoder._frozenset,
    "named": Decoder._named,
    "again": Decoder._again,
    "yours": Decoder._yours,
    "same": Decoder._same,
    "tensor": Decoder._tensor,
    "branch": Decoder._branch,
    "output": Decoder._output,
    "sparse": Decoder._sparse,
    "array": Decoder._array,
    "random": Decoder._random,
    "name": Decoder._name,
}
