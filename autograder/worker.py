"""The process that runs a student's code.

The *zygote*, which `python -m autograder.sandbox FD` becomes, imports what every worker needs, then
forks one worker for each request that comes over the socket FD. Neither it nor a worker ever holds
a test, a reference answer or anything else of the process that started it. A worker holds the
namespace of one notebook and answers the messages of `remote.Client`.
"""

from __future__ import annotations

import ast
import builtins
import codeop
import contextlib
import copy
import ctypes
import functools
import gc
import importlib
import io
import json
import linecache
import operator
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autograder.sandbox import Bounds, Sandbox
from autograder.wire import (
    Decoder,
    Encoder,
    Peer,
    WireError,
    is_pure,
    receive_frame,
    send_frame,
)
from course.testing import CalledFunctions, Student, rebuild_probe

MAX_OUTPUT = 64 << 10  # bytes of print that are kept
MAX_PRINTED = 64 << 20  # bytes of print that a request may come to
MAX_TEXT = 2_000  # characters of a repr or an error message
MAX_FRAMES = 20

_PR_SET_CHILD_SUBREAPER = 36
_MADV_COLLAPSE, _LARGE_PAGE = 25, 2 << 20


# --- running cells ------------------------------------------------------------------------------


class OutputLimit(Exception):
    """The code prints without end."""


class _Output(io.BytesIO):
    """What is printed, up to a limit; the rest is counted and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.printed = 0

    def write(self, data: bytes) -> int:
        self.printed += len(data)
        if self.printed > MAX_PRINTED:
            raise OutputLimit(f"The grader allows {MAX_PRINTED >> 20} MB of printed output.")
        super().write(bytes(data)[: max(0, MAX_OUTPUT - self.tell())])
        return len(data)

    def close(self) -> None:
        """Stay readable when the stream around it goes."""


@contextlib.contextmanager
def captured() -> Iterator[_Output]:
    """Collect what is printed; each block has streams of its own, lest one closes another's."""
    output = _Output()
    stream = io.TextIOWrapper(output, "utf-8", errors="replace", write_through=True)
    sys.stdout = sys.stderr = stream
    try:
        yield output
    finally:
        sys.stdout = sys.stderr = io.TextIOWrapper(_Output(), "utf-8", errors="replace")


_MAGIC_LINE = re.compile(r"\s*([%!?]|[\w.,\s]+=\s*[%!]|.*\?\s*$)")
_PYTHON_CELL_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")


def without_magics(source: str) -> str:
    """Drop IPython's magics and shell lines; line numbers stay.

    Only lines at which Python stops reading are looked at, so that `%` within strings is safe.

    Raises:
        SyntaxError: what is left is no Python.
    """
    lines = source.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines and lines[first].startswith("%%"):
        if not lines[first].startswith(_PYTHON_CELL_MAGICS):
            return ""
        lines[first] = ""
    while True:
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines)
        except SyntaxError as error:
            at = (error.lineno or 0) - 1
            if not (0 <= at < len(lines) and _MAGIC_LINE.match(lines[at])):
                raise
            lines[at] = lines[at][: len(lines[at]) - len(lines[at].lstrip())] + "pass"


def describe_error(error: BaseException, bounds: Bounds) -> dict[str, Any]:
    """An exception as plain data: type, bases, message, and the student's own frames.

    Where it comes from a limit of the sandbox, the message says from which.
    """
    frames = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name in _cells:
            source = linecache.getline(name, line).strip()
            frames.append([frame.f_code.co_name, line, source[:MAX_TEXT]])
    args = error.args if type(error.args) is tuple else ()
    plain = all(type(a) in (int, float, bool, str, type(None)) for a in args)
    try:
        message = str(error)[:MAX_TEXT]
        if limit := bounds.explain(error):
            message = f"{message.splitlines()[0]} ({limit})" if message else limit
            args, plain = (message,), True
    except Exception:
        message = "(its message cannot be shown)"
    return {
        "type": type(error).__qualname__,
        "mro": [f"{c.__module__}.{c.__qualname__}" for c in type(error).__mro__],
        "message": message,
        "args": [a[:MAX_TEXT] if isinstance(a, str) else a for a in args] if plain else [message],
        "frames": frames[-MAX_FRAMES:],
    }


_cells: set[str] = set()  # the file names under which cells were compiled


# --- the worker ---------------------------------------------------------------------------------


class Worker(Peer):
    """The student's end of the conversation: one namespace, and what the tests hold of it."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(1)
        self.bounds = bounds
        module = types.ModuleType("__main__")
        module.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = module
        self.namespace = module.__dict__
        self._compile = codeop.Compile()  # remembers `from __future__ import …`
        self._held: dict[int, Any] = {}  # what the tests refer to, by number
        self._number_of: dict[int, int] = {}
        self._graphs: dict[int, tuple[list, list]] = {}
        self._only_plain = False

    # requests

    def serve(self, sock: socket.socket) -> None:
        """Answer requests until the other side closes."""
        owner = os.getpid()
        while True:
            try:
                header, payload = receive_frame(sock)
            except (EOFError, OSError):
                return
            text, payload = self._answer(header, payload)
            if os.getpid() != owner:  # the student's code forked, and its child came back here
                return
            # Only now, after the request and its answer are gone, is it known what was kept.
            farewell = self.farewell()
            send_frame(sock, text, {"farewell": farewell} if any(farewell) else {}, payload)

    def _answer(self, header: dict, payload: list) -> tuple[bytes, list]:
        request = Decoder(self, header, payload)
        request.states(header["states"])
        operation, *args = request.value(header["body"])
        self.forget(header["farewell"])
        for number in header["released"]:
            self._graphs.pop(number, None)
        if header["seed"] is not None:
            self._reset(header["seed"])
        before = [_shallow(c) for c in request.containers]
        self._only_plain = operation == "run"
        grad, inference = header["mode"]
        watch = CalledFunctions()
        watched = watch if header["watch"] else contextlib.nullcontext()
        try:
            with captured(), torch.inference_mode(inference), torch.set_grad_enabled(grad), watched:
                result = getattr(self, f"do_{operation}")(*args)
            return self._reply(request, before, watch, lambda e: {"value": e.node(result)})
        except BaseException as error:
            described = describe_error(error, self.bounds)
            # The frames hold the arguments, the error holds the frames.
            traceback.clear_frames(error.__traceback__)
            error.__traceback__ = error.__context__ = error.__cause__ = None
        try:
            return self._reply(request, before, watch, lambda e: {"error": described})
        except Exception:  # what the student's code left behind cannot be sent either
            rest = {"called": [], "states": [], "containers": [], "graph": None, "gradients": []}
            return Encoder(self, answering=request).finish({"error": described, **rest})

    def _reply(
        self,
        request: Decoder,
        before: list,
        watch: CalledFunctions,
        body: Callable[[Encoder], dict],
    ) -> tuple[bytes, list]:
        encoder = Encoder(self, answering=request)
        header = {"called": sorted(watch.names), "states": encoder.states(), **body(encoder)}
        header["containers"] = [
            [number, encoder.contents(now)]
            for number, (now, old) in enumerate(zip(request.containers, before, strict=True))
            if _differs(now, old)
        ]
        for record in list(self.records.values()):
            if isinstance(value := record.ref(), torch.Tensor) and value.grad_fn is not None:
                encoder.node(value)  # notes in `rebased` whether it was changed in place
        outputs = [*encoder.outputs, *encoder.rebased.values()]
        leaves, number = _leaves(outputs), self.number()
        header["graph"] = outputs and {
            "id": number,
            "leaves": [encoder.node(leaf) for leaf in leaves],
            "rebased": [*encoder.rebased],
        }
        header["gradients"] = self._gradients(encoder)
        finished = encoder.finish(header)
        if outputs:
            self._graphs[number] = outputs, leaves
        for rebased in encoder.rebased:
            self.drop(rebased)
        return finished

    def _gradients(self, encoder: Encoder) -> list:
        """Gradients that the student's code sent back into the tests' own graph."""
        found = []
        for record in self.records.values():
            leaf = record.leaf() if record.leaf is not None else None
            if leaf is not None and leaf.grad is not None:
                found.append([record.id, encoder.node(leaf.grad)])
                leaf.grad = None
        return found

    # operations

    def do_exec(self, source: str, name: str) -> dict:
        """Execute a cell, statement by statement, up to the first that fails."""
        file = f"<{name}>"
        _cells.add(file)
        with captured() as output:
            try:
                source = without_magics(source)
                linecache.cache[file] = (len(source), None, source.splitlines(True), file)
                for node in ast.parse(source).body:
                    code = self._compile(ast.Module([node], []), file, "exec")
                    exec(code, self.namespace)
                error = None
            except BaseException as raised:
                error = describe_error(raised, self.bounds)
                if isinstance(raised, SyntaxError) and not error["frames"]:
                    line = (raised.text or "").strip()
                    error["message"] = raised.msg
                    error["frames"] = [["<module>", raised.lineno or 0, line]]
        return {"error": error, "output": output.getvalue().decode("utf-8", "replace")}

    def do_lookup(self, name: str) -> tuple[bool, Any]:
        return name in self.namespace, self.namespace.get(name)

    def do_call(self, target: Any, args: tuple, kwargs: dict) -> Any:
        return target(*args, **kwargs)

    def do_operate(self, name: str, *args: Any) -> Any:
        return _OPERATIONS[name](*args)

    def do_run(self, probe: Callable, args: tuple) -> Any:
        return probe(Student(self.namespace), *args)

    def _reset(self, seed: int) -> None:
        """Start a test: seeds, and whatever the student's code may have left switched."""
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # else torch.manual_seed would note a stack trace
            torch.cuda.manual_seed_all(seed)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(1)

    def do_gradients(self, number: int, grads: list, wanted: list[int]) -> list:
        """The vector-Jacobian product of a kept graph."""
        outputs, leaves = self._graphs[number]
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        return list(
            torch.autograd.grad(
                [o for o, _ in pairs],
                [leaves[i] for i in wanted],
                [g for _, g in pairs],
                create_graph=torch.is_grad_enabled(),
                retain_graph=True,
                allow_unused=True,
            )
        )

    # references

    def refer(self, value: Any, encoder: Encoder) -> list:
        record = self.find(value)
        if record is not None:
            return ["same", record.id]
        if self._only_plain:
            raise WireError(f"A probe returns plain values, not a {type(value).__name__}.")
        if isinstance(value, nn.Module):
            return self._hold_module(value, encoder)
        number = self._number_of.get(id(value))
        if number is None:
            number = self.number()
            self._held[number] = value
            self._number_of[id(value)] = number
        return ["handle", number, _describe(value)]

    def _hold_module(self, module: nn.Module, encoder: Encoder) -> list:
        node = encoder.shared(module, "remote", lambda: encoder.module_state(module))
        self._held[node[1]] = module
        return node

    def describe_module(self, module: nn.Module) -> dict:
        return _describe(module)

    def resolve(self, node: list, decoder: Decoder) -> Any:
        kind, number, *rest = node
        if kind == "handle":
            return self._held[number]
        if kind == "probe":
            return decoder.share(number, "probe", _rebuild_probe(*rest[0]))
        if kind == "module":
            return self._rebuild_module(number, rest[0], decoder)
        return super().resolve(node, decoder)

    def _rebuild_module(self, number: int, state: dict, decoder: Decoder) -> nn.Module:
        """A torch.nn layer like the tests', without calling its constructor."""
        kind = operator.attrgetter(state["class"])(torch.nn.modules)
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        decoder.update_module(module, state)
        return decoder.share(number, "module", module)

    def complete_module(self, module: nn.Module, extra: dict) -> None:
        vars(module).update(extra)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()

    def may_send(self, thing: Any) -> bool:
        return is_pure(thing)

    def drop(self, number: int) -> None:
        super().drop(number)
        value = self._held.pop(number, None)
        self._number_of.pop(id(value), None)


def _shallow(container: Any) -> list:
    if isinstance(container, dict):
        return [x for pair in container.items() for x in pair]
    return list(container)


def _differs(container: Any, before: list) -> bool:
    now = _shallow(container)
    return len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True))


def _leaves(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The leaf tensors at which a graph starts."""
    leaves, seen, open_ = [], set(), [o.grad_fn for o in outputs]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        open_.extend(n for n, _ in node.next_functions)
    return leaves


@functools.lru_cache(256)
def _rebuild_probe(source: str, name: str) -> Callable:
    return rebuild_probe(source, name)


def _describe(value: Any) -> dict:
    """What a stand-in should know without asking."""
    # By type(): the value itself may answer any question wrongly.
    own = type(value)
    kind = value if issubclass(own, type) else own
    word = "class" if kind is value else "function" if own is types.FunctionType else "object"
    return {
        "name": str(value.__name__ if word == "function" else kind.__name__),
        "mro": [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__],
        "kind": word,
        "overrides": sorted(_overrides(kind)) if issubclass(own, nn.Module) else [],
    }


def _overrides(kind: type) -> set[str]:
    """Public methods of nn.Module that a module's own classes redefine.

    All but those that a stand-in asks the worker for anyway.
    """
    own = {n for c in kind.__mro__ if c not in nn.Module.__mro__ for n in vars(c)}
    names = own & set(vars(nn.Module)) - {"forward", "extra_repr"}
    return {n for n in names if not n.startswith("_")}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _exit(manager: Any, error: str | None, message: str) -> Any:
    kind = getattr(builtins, error) if error else None
    raised = kind(message) if kind else None
    return type(manager).__exit__(manager, kind, raised, None)


_OPERATIONS: dict[str, Callable] = {
    **{name: getattr(operator, name) for name in operator.__all__},
    **{f.__name__: f for f in (len, bool, int, float, iter, next, round, divmod, reversed)},
    **{f.__name__: f for f in (getattr, setattr, delattr, isinstance, issubclass, dir)},
    "repr": _shown,
    "str": lambda v: str(v)[:MAX_TEXT],
    "enter": lambda v: type(v).__enter__(v),
    "exit": _exit,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


# --- the zygote ---------------------------------------------------------------------------------


def _work(channel: int, folder: Path, sandbox: Sandbox) -> None:
    """The life of a worker, from the fork to its end."""
    try:
        os.dup2(channel, 3)
        os.closerange(4, 1024)
        sandbox.confine(folder)
        os.environ.update(HOME=str(folder), TMPDIR=str(folder))
        tempfile.tempdir = None
        Worker(sandbox.bounds).serve(socket.socket(fileno=3))
    finally:
        os._exit(0)


class Zygote:
    """Forks workers, and buries them."""

    def __init__(self, control: socket.socket, sandbox: Sandbox):
        self.control, self.sandbox = control, sandbox
        self._folders: dict[int, Path] = {}
        self._dead: dict[int, tuple[int, float]] = {}  # wait status, seconds of CPU time
        self._count = 0

    def serve(self) -> None:
        """Obey until the other side closes; then leave nobody behind."""
        while True:
            message, fds, _, _ = socket.recv_fds(self.control, 4096, 1)
            if not message:
                break
            request = json.loads(message)
            reply = self._spawn(fds[0]) if fds else self._end(request["pid"], request["grace"])
            self.control.send(json.dumps(reply).encode())
        for pid in list(self._folders):
            self._end(pid, 0)

    def _spawn(self, channel: int) -> dict:
        self._count += 1
        folder = self.sandbox.new_folder(self._count)
        pid = self.sandbox.fork()
        if not pid:
            _work(channel, folder, self.sandbox)
        os.close(channel)
        self._folders[pid] = folder
        return {"pid": pid}

    def _end(self, pid: int, grace: float) -> dict:
        """Kill a worker and all that it started; a grace lets one that is dying say why."""
        until = time.monotonic() + grace
        while not self._reap(pid) and time.monotonic() < until:
            time.sleep(0.001)
        for kill in (os.kill, os.killpg):  # a newborn may not have its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        while not self._reap(pid):
            time.sleep(0.0005)
        self._sweep()
        self.sandbox.remove_folder(self._folders.pop(pid))
        status, seconds = self._dead.pop(pid)
        return {"status": status, "seconds": seconds}

    def _reap(self, pid: int) -> bool:
        """Collect the dead; whether this worker is among them."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.wait4(-1, os.WNOHANG))[0]:
                used = dead[2].ru_utime + dead[2].ru_stime
                self._dead[dead[0]] = dead[1], used
        return pid in self._dead

    def _sweep(self) -> None:
        """Kill processes that left their worker's group: orphans come to the zygote."""
        while True:
            self._reap(0)
            self._dead = {pid: end for pid, end in self._dead.items() if pid in self._folders}
            if not (strays := self._strays()):
                return
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.0005)

    def _strays(self) -> list[int]:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return []
        own = os.getpid()
        children = [pid for pid, parent in self.sandbox.parents() if parent == own]
        return [pid for pid in children if pid not in self._folders]


def _use_large_pages() -> None:
    """Hold what is in memory in pages of 2 MB, where the kernel can.

    A fork copies a table of all pages; of small ones, that takes longer than most tests.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, _, _, _, *name = line.split()
            if rights == "rw-p" and name in ([], ["[heap]"]):
                start, stop = (int(address, 16) for address in span.split("-"))
                for page in range(-(-start // _LARGE_PAGE), stop // _LARGE_PAGE):
                    madvise(page * _LARGE_PAGE, _LARGE_PAGE, _MADV_COLLAPSE)


def main(control: socket.socket, sandbox: Sandbox, imports: list[str]) -> None:
    """Warm up, then fork workers on request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    torch.set_num_threads(1)
    for name in imports:
        with contextlib.suppress(Exception):  # the cell that needs it will say so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that a worker shares
    _use_large_pages()
    sandbox.shut()
    ready = {"layers": sorted(sandbox.layers), "pid": sandbox.own_pid()}
    control.send(json.dumps(ready).encode())
    Zygote(control, sandbox).serve()
