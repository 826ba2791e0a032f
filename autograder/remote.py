"""A student's answer, seen from the tests, while its code runs in another process.

`RemoteStudent` behaves as `course.testing.Student` does. What it hands out are values, or stand-ins
for objects that stay in the worker: `Remote` for any object, `RemoteModule` for an nn.Module.
"""

from __future__ import annotations

import builtins
import functools
import json
import math
import socket
import time
import weakref
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from autograder.usage import EVERY
from autograder.wire import (
    Decoder,
    Encoder,
    Peer,
    WireError,
    is_pure,
    plain_attributes,
    receive_frame,
    send_frame,
)
from course.testing import AnswerLost, Mismatch, Probe, describe_call

__all__ = [
    "Channel",
    "Remote",
    "RemoteError",
    "RemoteModule",
    "RemoteStudent",
    "remote_isinstance",
]


class RemoteError(Exception):
    """An error of a class that only the student's code knows, or one that would end a process."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Channel:
    """The line to one worker.

    Args:
        sock: connected to the worker.
    """

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self.cause: Callable[[], str] = lambda: ""  # asked for the reason when the worker is gone
        self.excess: Callable[[], str] = lambda: ""  # asked now and then what bound is broken
        self.deadline = math.inf  # a time.monotonic()
        self.limit = math.inf  # the seconds that led to this deadline, for the message
        self.lost: AnswerLost | None = None
        self.exceeded = False  # it was lost for a bound that it broke with all that it started

    def exchange(self, header: bytes, tail: dict, payload: list) -> tuple[dict, list]:
        """Send a request and wait for its answer.

        Raises:
            AnswerLost: the worker is late, gone, or not to be understood; from now on.
        """
        self.check()
        try:
            send_frame(self._sock, header, tail, payload, self.deadline)
            self._wait()
            return receive_frame(self._sock, self.deadline)
        except TimeoutError:
            raise self.lose("timed out", f"It did not finish within {self.limit:g} s.") from None
        except (EOFError, OSError):
            reason = self.cause() or "The process ended without an answer."
            raise self.lose("crashed", reason) from None
        except WireError as error:
            raise self.lose("crashed", f"Its answer is not readable: {error}") from None

    def _wait(self) -> None:
        """Wait for the beginning of an answer."""
        while True:
            if reason := self.excess():
                self.exceeded = True
                raise self.lose("crashed", reason)
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(min(left, EVERY))
            with suppress(TimeoutError):
                self._sock.recv(1, socket.MSG_PEEK)
                return

    def check(self) -> None:
        """Raise what ended the line, if it ended."""
        if self.lost is not None:
            raise AnswerLost(self.lost.status, str(self.lost))

    def lose(self, status: str, reason: str) -> AnswerLost:
        """End the line."""
        self.lost = AnswerLost(status, reason)
        self._sock.close()
        return self.lost

    def close(self) -> None:
        """Hang up."""
        self.lose("crashed", "The process was closed.")


# --- the tests' end of the conversation -----------------------------------------------------------


class Client(Peer):
    """The tests' end of the conversation."""

    @property
    def stand_ins(self) -> tuple[type, ...]:
        return (Remote,)

    def __init__(self, channel: Channel):
        super().__init__(0)
        self.channel = channel
        self.released: list[int] = []  # graphs that no tensor here needs any more
        self.seed: int | None = None  # the worker starts a new test before the next request
        self.watching: list[set[str]] = []  # they collect the names of the functions called
        self._handles: weakref.WeakValueDictionary[int, Remote] = weakref.WeakValueDictionary()

    def request(self, operation: str, *args: Any) -> Any:
        """Have the worker do something; returns or raises what it did.

        Raises:
            WireError: an argument or the result cannot be sent.
            AnswerLost: there will be no answer.
            Exception: what the student's code raised.
        """
        self.channel.check()
        encoder = Encoder(self)
        # What both sides share must not die here while the worker may still name it.
        alive = [record.ref() for record in self.records.values()]
        header = {
            "states": encoder.states(),
            "body": encoder.node((operation, *args)),
            "mode": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
            "released": self.released[:],
            "farewell": [self.forgotten[:], self.freed[:]],
            "seed": self.seed,
            "watch": bool(self.watching),
        }
        text, payload = encoder.finish(header)
        for told, said in zip(
            (self.released, self.forgotten, self.freed), (header["released"], *header["farewell"])
        ):
            del told[: len(said)]
        self.seed = None
        answer = self.channel.exchange(text, {}, payload)
        try:
            result = self._read(encoder, *answer)
        except WireError as error:
            raise self.channel.lose("crashed", f"Its answer is not readable: {error}") from None
        del alive
        if isinstance(result, Exception):
            raise result
        return result

    def _read(self, encoder: Encoder, header: dict, payload: list) -> Any:
        reply = Decoder(self, header, payload, encoder.containers)
        try:
            reply.states(header["states"])
            if "error" in header:
                result = _rebuild_error(header["error"])
            else:
                result = reply.value(header["value"])
            if header["containers"]:
                for number, node in header["containers"]:
                    reply.update_container(number, node)
                reply.check_containers()
            if header["graph"]:
                self._continue_graph(reply, header["graph"])
            called = header["called"]
            if not all(type(name) is str for name in called):
                raise WireError("The message holds a malformed name.")
            for names in self.watching:
                names.update(called)
            targets = [(reply.value(["same", n]), reply.value(g)) for n, g in header["gradients"]]
            if not all(t.requires_grad and t.shape == g.shape for t, g in targets):
                raise WireError("The message holds a malformed gradient.")
            if "farewell" in header:
                self.forget(header["farewell"])
        except WireError:
            raise
        except Exception as error:
            raise WireError(f"The message is malformed ({type(error).__name__}).") from None
        if targets:  # student code called backward() on what the tests' graph led to
            torch.autograd.backward(*zip(*targets, strict=True), retain_graph=True)
        return result

    def _continue_graph(self, reply: Decoder, graph: dict) -> None:
        """Make the outputs of a call the outcome of its inputs, here too."""
        leaves = [reply.value(node) for node in graph["leaves"]]
        rebased = [reply.value(["same", number]) for number in graph["rebased"]]
        tensors = [*leaves, *rebased]
        if not all(isinstance(t, torch.Tensor) for t in tensors):
            raise WireError("The message holds a malformed graph.")
        call = _Call(self, graph["id"], leaves, len(rebased))
        with torch.inference_mode(False), torch.enable_grad():
            _Recorded.apply(call, reply.outputs, *tensors)
        for number in graph["rebased"]:
            self.drop(number)

    def refer(self, value: Any, encoder: Encoder) -> list:
        if isinstance(value, Remote):
            return ["handle", _number(value)]
        record = self.find(value)
        if record is not None:
            return ["same", record.id]
        if isinstance(value, Probe):
            source = [value.__probe_source__, value.__name__]
            return encoder.shared(value, "probe", lambda: source)
        kind = type(value)
        if isinstance(value, nn.Module) and kind.__module__.startswith("torch.nn.modules."):
            name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("torch.nn.modules.")
            state = lambda: {"class": name, **encoder.module_state(value)}  # noqa: E731
            return encoder.shared(value, "module", state)
        if isinstance(value, nn.Module):
            raise WireError(f"A {kind.__name__} is no layer of torch.nn; build it in a probe.")
        if callable(value):
            raise WireError("A function of a test's own must be a module-level @probe.")
        return super().refer(value, encoder)

    def resolve(self, node: list, decoder: Decoder) -> Any:
        if node[0] == "handle":
            _, number, about = node
            return self._stand_in(number, _check_about(about))
        if node[0] == "remote":
            _, number, state = node
            module = RemoteModule(self, number)
            decoder.share(number, "remote", module)
            decoder.update_module(module, state)
            return module
        return super().resolve(node, decoder)

    def _stand_in(self, number: int, about: dict) -> Remote:
        found = self._handles.get(number)
        if found is None:
            found = self._handles[number] = Remote(self, number, about)
            if number in self.forgotten:  # a stand-in for the same object died a moment ago
                self.forgotten.remove(number)
        return found

    def describe_module(self, module: nn.Module) -> dict:
        return {} if isinstance(module, RemoteModule) else plain_attributes(module)

    def complete_module(self, module: nn.Module, extra: dict) -> None:
        if isinstance(module, RemoteModule):
            module._take_over(_check_about(extra))

    def may_receive(self, thing: Any) -> bool:
        return is_pure(thing)


class _Call:
    """A call whose graph the worker keeps as long as this lives."""

    def __init__(self, client: Client, number: int, leaves: list[torch.Tensor], rebased: int):
        self.client, self.number, self.leaves, self.rebased = client, number, leaves, rebased

    def gradients(self, grads: Sequence[torch.Tensor | None], needed: Sequence[bool]) -> list:
        wanted = [i for i in range(len(self.leaves)) if needed[i]]
        found: list[Any] = [None] * len(needed)
        if wanted and any(g is not None for g in grads):
            result = self.client.request("gradients", self.number, list(grads), wanted)
            for i, grad in zip(wanted, result, strict=True):
                found[i] = grad
        return found

    def __del__(self) -> None:
        self.client.released.append(self.number)


class _Recorded(torch.autograd.Function):
    """The node of a remote call in the local graph.

    `outputs` are ready; the last inputs are tensors that the call changed in place.
    """

    @staticmethod
    def forward(ctx, call, outputs, *tensors):
        ctx.call = call
        ctx.set_materialize_grads(False)
        rebased = tensors[len(call.leaves) :]
        ctx.mark_dirty(*rebased)
        return (*outputs, *rebased)

    @staticmethod
    def backward(ctx, *grads):
        return None, None, *ctx.call.gradients(grads, ctx.needs_input_grad[2:])


# --- errors of student code -----------------------------------------------------------------------

_ERRORS = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        *(e for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, Exception)),
        torch.OutOfMemoryError,
        torch.linalg.LinAlgError,
        np.linalg.LinAlgError,
        np.exceptions.AxisError,
        json.JSONDecodeError,
        zipfile.BadZipFile,
        WireError,
    )
}


def _rebuild_error(told: dict) -> Exception:
    """The exception that the worker described."""
    kind, message, mro = str(told["type"]), str(told["message"]), list(map(str, told["mro"]))
    known = _ERRORS.get(mro[0])
    if known is None and "builtins.Exception" not in mro:
        error = RemoteError(f"The code ended itself with {kind}" + (message and f": {message}"))
    else:
        base = next((_ERRORS[name] for name in mro if name in _ERRORS), Exception)
        made = known or type(kind[:100], (RemoteError, base), {})
        error = _construct(made, told["args"] if known else [message], message)
    error.student_frames = [(str(f), int(line), str(text)) for f, line, text in told["frames"]]
    return error


def _construct(kind: type[Exception], args: list, message: str) -> Exception:
    if not all(type(a) in (int, float, bool, str, type(None)) for a in args):
        raise WireError("The message holds a malformed error.")
    for attempt in (args, [message]):
        try:
            return kind(*attempt)
        except Exception:
            continue
    return RemoteError(message)


# --- stand-ins ------------------------------------------------------------------------------------

_KINDS = ("class", "function", "object")
_READABLE = {"__name__", "__qualname__", "__doc__", "__wrapped__", "__annotations__"}


def _check_about(about: dict) -> dict:
    texts = [about["name"], *about["mro"], *about["overrides"]]
    if about["kind"] not in _KINDS or not all(type(t) is str for t in texts):
        raise WireError("The message holds a malformed description.")
    return about


class Remote:
    """A stand-in for an object of the worker's: attributes, calls and operators happen there."""

    __slots__ = ("__weakref__", "_about", "_client", "_note", "_number")
    __array_ufunc__ = None  # NumPy shall leave mixed arithmetic to the operators below

    def __init__(self, client: Client, number: int, about: dict):
        for name, value in (("client", client), ("number", number), ("about", about)):
            object.__setattr__(self, f"_{name}", value)
        object.__setattr__(self, "_note", None)

    def __del__(self) -> None:
        self._client.forgotten.append(self._number)

    @property
    def __remote_mro__(self) -> list[str]:
        """The qualified names of the object's classes; of its own bases where it is a class."""
        return self._about["mro"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        return _operate(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _operate(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _operate(self, "delattr", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._note is not None:
            self._note(args, kwargs)
        return self._client.request("call", self, args, kwargs)

    def __dir__(self) -> list[str]:
        return _operate(self, "dir")

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __iter__(self) -> Iterator:
        return _operate(self, "iter")

    def __next__(self) -> Any:
        return _operate(self, "next")

    def __instancecheck__(self, instance: Any) -> bool:
        if not isinstance(instance, (Remote, RemoteModule)):
            return False
        return self._client.request("operate", "isinstance", instance, self)

    def __subclasscheck__(self, subclass: Any) -> bool:
        return isinstance(subclass, Remote) and _operate(subclass, "issubclass", self)

    def __enter__(self) -> Any:
        return _operate(self, "enter")

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> Any:
        name = kind.__name__ if kind and kind.__module__ == "builtins" else kind and "Exception"
        return _operate(self, "exit", name, str(error or ""))

    def __reduce_ex__(self, protocol: int) -> Any:
        raise TypeError("A stand-in for a student's object cannot be pickled.")


class RemoteModule(nn.Module):
    """A stand-in for an nn.Module of the worker's.

    It has the module's parameters, buffers and children; both sides are brought into step by every
    message, so optimizers, `state_dict`, `train` and `to` work on it as on any module. Calling it
    runs the student's `forward`; every other attribute is the worker's.
    """

    def __init__(self, client: Client, number: int):
        super().__init__()
        about = {"name": "Module", "mro": [], "kind": "object", "overrides": []}
        vars(self).update(_client=client, _number=number, _about=about)

    @property
    def __remote_mro__(self) -> list[str]:
        """The qualified names of the module's classes."""
        return self._about["mro"]

    @property
    def __class__(self) -> type:
        """For `isinstance(net.conv, nn.Conv2d)`: the layer of torch.nn that it is or extends."""
        for name in vars(self).get("_about", {"mro": ()})["mro"]:
            layer = _LAYERS.get(name)
            if layer is not None:
                return layer
        return RemoteModule

    def _take_over(self, about: dict) -> None:
        vars(self)["_about"] = about
        for name in about["overrides"]:
            if callable(getattr(nn.Module, name, None)):
                vars(self)[name] = functools.partial(_call_method, self, name)

    def _get_name(self) -> str:
        return self._about["name"]

    def extra_repr(self) -> str:
        return _call_method(self, "extra_repr")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._client.request("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") and name not in _READABLE:
                raise
        return _operate(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        mirrored = isinstance(value, (nn.Parameter, nn.Module)) or any(
            name in vars(self)[slot] for slot in ("_parameters", "_buffers", "_modules")
        )
        if mirrored or name in vars(self):
            super().__setattr__(name, value)
        else:
            _operate(self, "setattr", name, value)

    def __bool__(self) -> bool:
        return _operate(self, "bool")


def _call_method(target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return target._client.request("call", _operate(target, "getattr", name), args, kwargs)


def _operate(target: Remote | RemoteModule, name: str, *args: Any) -> Any:
    return target._client.request("operate", name, target, *args)


def _number(remote: Remote) -> int:
    return object.__getattribute__(remote, "_number")


def _forward(kind: type, special: str, name: str) -> None:
    """Give a stand-in an operator that happens in the worker."""

    def method(self: Any, *args: Any) -> Any:
        return _operate(self, name, *args)

    setattr(kind, special, method)


def _reflect(kind: type, special: str, name: str) -> None:
    def method(self: Any, other: Any) -> Any:
        return self._client.request("operate", name, other, self)

    setattr(kind, special, method)


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_BITWISE = ("lshift", "rshift", "and_", "or_", "xor")
for _name in (*_BINARY, *_BITWISE):
    _bare = _name.rstrip("_")
    _forward(Remote, f"__{_bare}__", _name)
    _forward(Remote, f"__i{_bare}__", f"i{_bare}")
    _reflect(Remote, f"__r{_bare}__", _name)
_COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert", "bool", "int", "float", "repr", "str", "copy")
for _name in (*_COMPARISONS, *_UNARY, "round", "divmod"):
    _forward(Remote, f"__{_name}__", _name)
for _kind in (Remote, RemoteModule):
    for _name in ("len", "getitem", "setitem", "delitem", "contains", "copy"):
        _forward(_kind, f"__{_name}__", _name)
    _kind.__deepcopy__ = lambda self, memo: _operate(self, "deepcopy")
_forward(RemoteModule, "__iter__", "iter")

_LAYERS = {
    f"{layer.__module__}.{layer.__qualname__}": layer
    for layer in vars(nn).values()
    if isinstance(layer, type) and issubclass(layer, nn.Module) and layer is not nn.Module
}


def remote_isinstance(value: Any, kind: type | str) -> bool:
    """`isinstance` by name: whether one of the object's classes, there or here, is called so.

    Args:
        kind: a class of a library, or the name of one of the student's.
    """
    mro = getattr(value, "__remote_mro__", None)
    if mro is None:
        mro = [f"{c.__module__}.{c.__qualname__}" for c in type(value).__mro__]
    name = f"__main__.{kind}" if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return name in mro


# --- the student ----------------------------------------------------------------------------------


class RemoteStudent:
    """The names of an answer that lives in a worker; see `course.testing.Student`.

    Raises:
        Mismatch: on access to a name that the answer does not define.
        AnswerLost: on any access, once the worker is gone.
    """

    def __init__(self, channel: Channel):
        self.channel, self.last_call = channel, ""
        self.begun: list[str] = []  # what the test called of the answer, in order
        self.stuck: Collection[str] = ()  # what is not to be called any more
        self.refused: AnswerLost | None = None
        self._client = Client(channel)
        self._functions: dict[str, Remote] = {}
        self._namespace = None  # `course.testing` looks here for the globals of local frames

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._functions:
            return self._functions[name]
        found, value = self._client.request("lookup", name)
        if not found:
            raise Mismatch(f"`{name}` is not defined in the notebook.")
        if isinstance(value, Remote) and value._about["kind"] != "object":
            self._functions[name] = value
            note = self._record if value._about["kind"] == "function" else self._begin
            object.__setattr__(value, "_note", functools.partial(note, name))
        return value

    def _record(self, name: str, args: tuple, kwargs: dict) -> None:
        self.last_call = describe_call(name, args, kwargs)
        self._begin(name)

    def _begin(self, name: str, *_: Any) -> None:
        if name in self.stuck:
            reason = "It ran out of time in the two tests before, so this one was not run."
            self.refused = AnswerLost("not run", reason)
        self.check()
        self.begun.append(name)

    def check(self) -> None:
        """Raise why the test gets no answer, should it have swallowed that."""
        self.channel.check()
        if self.refused is not None:
            raise self.refused

    def run(self, probe: Probe, *args: Any) -> Any:
        """Call `probe(student, *args)` in the worker; it returns plain values."""
        self._begin(f"probe {probe.__name__}")
        return self._client.request("run", probe, args)

    @contextmanager
    def watch(self) -> Iterator[set[str]]:
        """Collect the names of the torch functions that the answer calls within the block."""
        self._client.watching.append(set())
        try:
            yield self._client.watching[-1]
        finally:
            self._client.watching.pop()

    def execute(self, source: str, name: str) -> dict[str, Any]:
        """Execute a cell: its `error` (None, or type, message and frames) and its `output`."""
        self._functions.clear()
        return self._client.request("exec", source, name)

    def reset(self, seed: int, stuck: Collection[str] = ()) -> None:
        """Start a test: seed the worker and undo what the student's code may have switched.

        Args:
            stuck: names that are not called any more, since they only take time.
        """
        self.last_call, self.begun, self.stuck, self.refused = "", [], stuck, None
        self._client.seed = seed
