"""The vocabulary that public checks and hidden tests share.

A test is a pytest function marked with the exercise that it belongs to::

    @pytest.mark.exercise("corr", points=8)
    @pytest.mark.parametrize("image, kernel", [((6, 8), (1, 2)), ((5, 5), (5, 5))])
    def test_matches_conv2d(student, device, image, kernel):
        \"\"\"The output should equal F.conv2d's for any image and kernel size.\"\"\"

`student` gives the names of an answer, wherever it lives: a notebook's namespace, a worker behind a
process boundary, the reference solution. Tests cannot tell which, and must not try.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import itertools
import linecache
import math
import numbers
import random
import re
import sys
import tempfile
import textwrap
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.gradcheck import GradcheckError
from torch.overrides import TorchFunctionMode

__all__ = [
    "Answer",
    "AnswerLost",
    "Counterexample",
    "Mismatch",
    "Outcome",
    "Student",
    "Test",
    "alternative",
    "assert_close",
    "assert_equal",
    "assert_gradcheck",
    "assert_gradgradcheck",
    "assert_same_gradients",
    "assert_shape",
    "assert_true",
    "brief",
    "collect",
    "describe_call",
    "does_not_call",
    "misconception",
    "probe",
    "raises",
    "rand",
    "randint",
    "randn",
    "unchanged",
]

# (rtol, atol) by dtype. float32 leaves room for sums taken in another order.
TOLERANCES = {
    torch.float64: (1e-7, 1e-9),
    torch.complex128: (1e-7, 1e-9),
    torch.float32: (1e-4, 1e-5),
    torch.complex64: (1e-4, 1e-5),
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
}


# --- what goes wrong -------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterexample:
    """The first case in which a test did not hold, as short texts."""

    inputs: str = ""
    expected: str = ""
    got: str = ""


class Mismatch(AssertionError):
    """A value is not the expected one."""

    def __init__(self, reason: str, expected: str = "", got: str = "", symptom: str = ""):
        super().__init__(reason)
        self.expected, self.got, self.symptom = expected, got, symptom


class AnswerLost(Exception):
    """The process that ran the answer is gone; `status` says how ("timed out", "crashed")."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status = status


def brief(value: Any, digits: int = 4) -> str:
    """A short text for a value: small tensors in full, large ones by shape and first values."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":  # texts, objects
        return brief(value.tolist(), digits)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = torch.as_tensor(value)
        try:
            return _brief_tensor(tensor, digits)
        except Exception:  # nothing to read: on the meta device, ragged, not initialised yet
            return f"a {_dtype(tensor)} tensor on {tensor.device} without readable values"
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, (float, complex, np.floating)):
        return f"{value:.{digits}g}"
    if isinstance(value, torch.Size):
        return str(tuple(value))
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        shown = [brief(v, digits) for v in value[:8]] + (["…"] if len(value) > 8 else [])
        text = ", ".join(shown)
        if isinstance(value, list):
            return f"[{text}]"
        return f"({text},)" if len(value) == 1 else f"({text})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{brief(k)}: {brief(v, digits)}" for k, v in value.items()) + "}"
    if isinstance(value, type) or inspect.isroutine(value) or isinstance(value, Probe):
        return getattr(value, "__name__", "a function")
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= 120 else text[:117] + "…"


def _brief_tensor(tensor: torch.Tensor, digits: int) -> str:
    tensor = tensor.detach().cpu()
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    if tensor.numel() <= 16:
        return _nested(tensor, digits)
    first = ", ".join(brief(v, digits) for v in tensor.flatten()[:3].tolist())
    return f"{_dtype(tensor)}{list(tensor.shape)} [{first}, …]"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _nested(tensor: torch.Tensor, digits: int) -> str:
    if tensor.dim() == 0:
        return brief(tensor.item(), digits)
    if tensor.numel() == 0:
        return f"an empty tensor of shape {tuple(tensor.shape)}"
    return "[" + ", ".join(_nested(row, digits) for row in tensor) + "]"


def describe_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """`corr2d([[0, 1], [2, 3]], k=[[1]])`: the inputs of a counter-example."""
    parts = [brief(a) for a in args] + [f"{k}={brief(v)}" for k, v in kwargs.items()]
    return f"{name}({', '.join(parts)})"


# --- an answer, seen from a test -------------------------------------------------------------


class Student:
    """The names of an answer that lives in this process.

    Attribute access gives the object of that name; calls of plain functions are noted in
    `last_call`, for the counter-example.

    Raises:
        Mismatch: on access to a name that the answer does not define.
    """

    def __init__(self, namespace: Mapping[str, Any]):
        self.__dict__.update(_namespace=namespace, last_call="")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = self._namespace[name]
        except KeyError:
            raise Mismatch(f"`{name}` is not defined; run the cell that defines it.") from None
        if not isinstance(value, types.FunctionType):
            return value

        @functools.wraps(value)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.__dict__["last_call"] = describe_call(name, args, kwargs)
            return value(*args, **kwargs)

        return recorded

    def run(self, probe: Probe, *args: Any) -> Any:
        """Call `probe(student, *args)` where the answer lives; it returns plain values."""
        return probe(self, *args)

    @contextmanager
    def watch(self) -> Iterator[set[str]]:
        """Collect the names of the torch functions that are called within the block."""
        with CalledFunctions() as mode:
            yield mode.names


class CalledFunctions(TorchFunctionMode):
    """Notes the `__name__` of every torch function and tensor method that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class Probe:
    """A function that travels to the answer as source text; see `probe`."""

    def __init__(self, function: Callable):
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__probe_source__ = _source_without_decorators(function)
        self.function = rebuild_probe(self.__probe_source__, self.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def probe(function: Callable) -> Probe:
    """Mark a module-level function as one that may run beside the answer.

    It is compiled from its source with `torch`, `nn`, `F`, `math` and `np` as its only globals,
    here as well as there, so that a probe that leans on the rest of its file fails at home.
    """
    return Probe(function)


def rebuild_probe(source: str, name: str) -> Callable:
    """Compile the source of a probe in the namespace that every probe gets."""
    namespace = {"torch": torch, "nn": nn, "F": F, "math": math, "np": np}
    exec(compile(source, f"<probe {name}>", "exec"), namespace)
    return namespace[name]


def _source_without_decorators(thing: Callable) -> str:
    """The source of a function, without its decorators."""
    source = textwrap.dedent(inspect.getsource(thing))
    first = ast.parse(source).body[0]
    return "".join(source.splitlines(keepends=True)[first.lineno - 1 :])


# --- random inputs ---------------------------------------------------------------------------

# Inputs come from a generator of their own, reseeded for every case: what an answer draws from the
# global one changes nothing here.
_inputs = torch.Generator()


def randn(
    *shape: int, dtype: torch.dtype = torch.float64, device="cpu", requires_grad: bool = False
) -> torch.Tensor:
    """Standard normal input of the given shape."""
    values = torch.randn(shape, generator=_inputs, dtype=torch.float64)
    return values.to(device=device, dtype=dtype).requires_grad_(requires_grad)


def rand(
    *shape: int, dtype: torch.dtype = torch.float64, device="cpu", requires_grad: bool = False
) -> torch.Tensor:
    """Input uniform on [0, 1) of the given shape."""
    values = torch.rand(shape, generator=_inputs, dtype=torch.float64)
    return values.to(device=device, dtype=dtype).requires_grad_(requires_grad)


def randint(low: int, high: int, shape: Sequence[int], device="cpu") -> torch.Tensor:
    """Integers of [low, high) of the given shape, int64."""
    return torch.randint(low, high, tuple(shape), generator=_inputs).to(device)


def seed_of(text: str) -> int:
    """The seed that `seed_inputs` makes of a text."""
    return zlib.crc32(text.encode())


def seed_inputs(text: str) -> None:
    """Seed every generator in reach from a text."""
    seed = seed_of(text)
    _inputs.manual_seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


# --- assertions ------------------------------------------------------------------------------


def assert_true(condition: Any, sentence: str) -> None:
    """Fail with the sentence unless the condition holds."""
    if not bool(condition):
        raise Mismatch(sentence)


def assert_close(
    got: Any,
    expected: Any,
    what: str = "the output",
    *,
    rtol: float | None = None,
    atol: float | None = None,
    symptoms: Mapping[str, Any] | None = None,
) -> None:
    """Compare tensors, arrays, numbers, or containers of them: type, shape, dtype, then values.

    Args:
        rtol, atol: tolerances; by default those of the expected dtype (`TOLERANCES`).
        symptoms: sentence → the value that a known mistake would give. Where `got` equals one,
            its sentence is the reason that the student reads.
    """
    try:
        _compare(got, expected, what, rtol, atol)
    except Mismatch as mismatch:
        for sentence, wrong in (symptoms or {}).items():
            try:
                _compare(got, wrong, what, rtol, atol)
            except Mismatch:
                continue
            mismatch.symptom = sentence
            break
        raise mismatch from None


def _compare(got: Any, expected: Any, what: str, rtol: float | None, atol: float | None) -> None:
    if isinstance(expected, torch.Tensor):
        return _compare_tensors(got, expected, what, rtol, atol)
    if isinstance(expected, np.ndarray):
        if not isinstance(got, np.ndarray):
            raise _unlike(got, expected, f"{what} should be a NumPy array, not {_kind(got)}.")
        return _compare_tensors(torch.as_tensor(got), torch.as_tensor(expected), what, rtol, atol)
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            size = f"{len(got)} values" if isinstance(got, (list, tuple)) else _kind(got)
            raise _unlike(got, expected, f"{what} should hold {len(expected)} values, not {size}.")
        for i, (g, e) in enumerate(zip(got, expected, strict=True)):
            _compare(g, e, f"{what}[{i}]", rtol, atol)
        return None
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            raise _unlike(
                got, expected, f"{what} should have the keys {sorted(map(str, expected))}."
            )
        for key in expected:
            _compare(got[key], expected[key], f"{what}[{key!r}]", rtol, atol)
        return None
    if isinstance(expected, bool) or not isinstance(expected, numbers.Number):
        return assert_equal(got, expected, what)
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, numbers.Number):
        raise _unlike(got, expected, f"{what} should be a number, not {_kind(got)}.")
    default_rtol, default_atol = TOLERANCES[torch.float64]
    rtol, atol = default_rtol if rtol is None else rtol, default_atol if atol is None else atol
    same = got == expected or (got != got and expected != expected)
    if not same and not abs(got - expected) <= atol + rtol * abs(expected):
        raise _differs(got, expected, what)


def _compare_tensors(
    got: Any, expected: torch.Tensor, what: str, rtol: float | None, atol: float | None
) -> None:
    if not isinstance(got, torch.Tensor):
        raise _unlike(got, expected, f"{what} should be a tensor, not {_kind(got)}.")
    assert_shape(got, expected.shape, what)
    if got.dtype != expected.dtype:
        raise _unlike(
            got.dtype,
            expected.dtype,
            f"{what} should have dtype {expected.dtype}, not {got.dtype}.",
        )
    if got.device.type != expected.device.type:
        raise _unlike(
            got.device, expected.device, f"{what} should be on {expected.device}, not {got.device}."
        )
    default_rtol, default_atol = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    rtol, atol = default_rtol if rtol is None else rtol, default_atol if atol is None else atol
    a, b = got.detach().cpu(), expected.detach().cpu()
    if a.is_sparse or b.is_sparse:
        a, b = a.to_dense(), b.to_dense()
    close = torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return
    wrong = int((~close).sum())
    first = tuple(int(i) for i in (~close).nonzero()[0])
    place = f" at [{', '.join(map(str, first))}]" if first else ""
    share = f" ({wrong} of {close.numel()} values differ)" if close.numel() > 1 else ""
    hint = " It holds NaN." if a.is_floating_point() and a.isnan().any() else ""
    got, expected = _pair(a[first], b[first])
    raise _unlike(a, b, f"{what} should be {expected}{place}, not {got}{share}.{hint}")


def _unlike(got: Any, expected: Any, reason: str) -> Mismatch:
    shown = _pair(got, expected)
    return Mismatch(_capital(reason), expected=shown[1], got=shown[0])


def _differs(got: Any, expected: Any, what: str) -> Mismatch:
    got, expected = _pair(got, expected)
    reason = f"{_capital(what)} should be {expected}, not {got}."
    return Mismatch(reason, expected=expected, got=got)


def _pair(got: Any, expected: Any) -> tuple[str, str]:
    """Both as short texts, with as many digits as it takes to tell them apart."""
    for digits in (6, 9, 12, 15, 17):
        shown = brief(got, digits), brief(expected, digits)
        if shown[0] != shown[1]:
            break
    return shown


def _capital(text: str) -> str:
    """A sentence's first letter; code such as `f(x)` or `b[0]` stays as it is."""
    return text if re.match(r"\w*[_(\[.`]", text) else text[0].upper() + text[1:]


def _kind(value: Any) -> str:
    if value is None:
        return "None (is a `return` missing?)"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def assert_equal(got: Any, expected: Any, what: str = "the result") -> None:
    """Compare numbers, texts, tuples, sets and the like exactly; lists and tuples are different."""
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return _compare(got, expected, what, 0.0, 0.0)
    if isinstance(got, torch.Tensor) and got.numel() == 1 and isinstance(expected, numbers.Number):
        got = got.item()
    if isinstance(got, torch.Size):
        got = tuple(got)
    if type(got) is not type(expected) and not (
        isinstance(got, numbers.Number)
        and isinstance(expected, numbers.Number)
        and isinstance(got, bool) == isinstance(expected, bool)
    ):
        wanted = "None" if expected is None else _kind(expected)
        raise _unlike(got, expected, f"{what} should be {wanted}, not {_kind(got)}.")
    if got != expected:
        place, got, expected = _apart(got, expected)
        raise _differs(got, expected, f"{what}{place}")


def _apart(got: Any, expected: Any, place: str = "") -> tuple[str, Any, Any]:
    """Where two unequal values differ, in case that their short texts do not show it."""
    if brief(got, 6) != brief(expected, 6) or not isinstance(expected, (list, tuple, str)):
        return place, got, expected
    for i, (g, e) in enumerate(zip(got, expected, strict=False)):
        if g != e and isinstance(expected, str):
            return f"{place}[{i}:]", got[i:], expected[i:]
        if g != e:
            return _apart(g, e, f"{place}[{i}]")
    return f"{place} (its length)", len(got), len(expected)


def assert_shape(got: Any, shape: Sequence[int], what: str = "the output") -> None:
    """Compare a tensor's or array's shape."""
    if not hasattr(got, "shape"):
        raise Mismatch(f"{_capital(what)} should be a tensor, not {_kind(got)}.")
    if tuple(got.shape) != tuple(shape):
        raise Mismatch(
            f"{_capital(what)} should have shape {tuple(shape)}, not {tuple(got.shape)}.",
            expected=f"shape {tuple(shape)}",
            got=f"shape {tuple(got.shape)}",
        )


def assert_gradcheck(f: Callable, *inputs: Any, what: str = "the gradient") -> None:
    """Compare the gradient of f with finite differences; inputs are float64 and require grad."""
    _gradcheck(torch.autograd.gradcheck, f, inputs, what)


def assert_gradgradcheck(f: Callable, *inputs: Any, what: str = "the second derivative") -> None:
    """Compare the second derivative of f with finite differences of its gradient."""
    _gradcheck(torch.autograd.gradgradcheck, f, inputs, what)


def _gradcheck(compare: Callable, f: Callable, inputs: tuple, what: str) -> None:
    output = f(*inputs)
    if isinstance(output, torch.Tensor) and not output.requires_grad:
        raise Mismatch(f"{_capital(what)} is missing: is the output detached?")
    with contextlib.suppress(GradcheckError):  # along one random direction, in a few calls
        compare(f, inputs, check_undefined_grad=False, fast_mode=True)
        return
    try:  # entry by entry: this decides, and shows them
        compare(f, inputs, check_undefined_grad=False)
    except GradcheckError as error:
        text = str(error)
        numerical = re.search(r"numerical:\s*(tensor\(.*?\))\s*analytical", text, re.S)
        analytical = re.search(r"analytical:\s*(tensor\(.*?\))\s*$", text, re.S)
        raise Mismatch(
            f"{_capital(what)} does not agree with finite differences.",
            expected=_squeeze(numerical),
            got=_squeeze(analytical) or text.splitlines()[0],
        ) from None


def _squeeze(match: re.Match | None) -> str:
    return re.sub(r"\s+", " ", match.group(1))[:300] if match else ""


def assert_same_gradients(
    f: Callable, reference: Callable, *inputs: Any, what: str = "the gradient"
) -> None:
    """Compare the gradients of sum(c * f(inputs)) and the reference's, for one random c.

    Args:
        inputs: arguments; the gradient is taken to each floating-point tensor among them.
    """
    grads = []
    weight = None
    for function in (f, reference):
        leaves = [_as_leaf(x) for x in inputs]
        wanted = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
        output = function(*leaves)
        if not isinstance(output, torch.Tensor) or not output.requires_grad:
            raise Mismatch(f"{_capital(what)} is missing: is the output detached?")
        if weight is None or weight.shape != output.shape:
            weight = randn(*output.shape, dtype=output.dtype, device=output.device)
        got = torch.autograd.grad((output * weight).sum(), wanted, allow_unused=True)
        grads.append(
            [torch.zeros_like(x) if g is None else g for g, x in zip(got, wanted, strict=True)]
        )
    for i, (got, expected) in enumerate(zip(*grads, strict=True)):
        _compare(got, expected, f"{what} with respect to input {i + 1}", None, None)


def _as_leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


@contextmanager
def raises(error: type[BaseException] | tuple, match: str | None = None) -> Iterator[None]:
    """The block should raise `error`, with a message that contains the pattern `match`."""
    wanted = error if isinstance(error, tuple) else (error,)
    name = " or ".join(e.__name__ for e in wanted)
    try:
        yield
    except (NotImplementedError, AnswerLost) as stub:
        # NotImplementedError is a RuntimeError, but from a stub it only means "not written yet".
        if NotImplementedError not in wanted or isinstance(stub, AnswerLost):
            raise
    except wanted as raised:
        if match and not re.search(match, str(raised), re.I):
            raise Mismatch(
                f"The message of the {type(raised).__name__} should tell what is wrong.",
                expected=f"a message with “{match}”",
                got=str(raised) or "no message",
            ) from None
    except Mismatch:
        raise
    except Exception as other:
        raise Mismatch(
            f"This should raise {name}, but raised {type(other).__name__}.",
            expected=name,
            got=f"{type(other).__name__}: {other}",
        ) from None
    else:
        raise Mismatch(f"This should raise {name}, but no error came.", name, "no error")


@contextmanager
def unchanged(*values: Any) -> Iterator[None]:
    """The tensors and arrays should be the same after the block, bit for bit."""
    before = [_copy(v) for v in values]
    yield
    for old, new in zip(before, values, strict=True):
        if not _identical(old, new):
            raise Mismatch("The input was changed in place.", expected=brief(old), got=brief(new))


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return type(value)(map(_copy, value)) if isinstance(value, (list, tuple)) else value


def _identical(old: Any, new: Any) -> bool:
    if isinstance(old, (torch.Tensor, np.ndarray)):
        a, b = torch.as_tensor(old).detach(), torch.as_tensor(new).detach()
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(
                torch.nan_to_num(a) if a.is_floating_point() else a,
                torch.nan_to_num(b) if b.is_floating_point() else b,
            )
        )
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_identical(old[k], new[k]) for k in old)
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(map(_identical, old, new))
    return old == new


@contextmanager
def does_not_call(student: Any, *names: str) -> Iterator[None]:
    """The answer should not call these torch functions or tensor methods within the block."""
    with student.watch() as called:
        yield
    used = sorted(called & set(names))
    if used:
        raise Mismatch(f"This exercise is to be solved without `{used[0]}`.")


# --- tests, collected and run ----------------------------------------------------------------

FIXTURES = ("student", "device", "tmp_path")


@dataclass(frozen=True)
class Outcome:
    """What one test said of one answer."""

    test: str
    exercise: str
    statement: str
    points: float
    status: str  # passed, failed, not attempted, timed out, crashed
    reason: str = ""
    symptom: str = ""
    counterexample: Counterexample = Counterexample()

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Test:
    """One test function with its cases (the combinations of its parameters)."""

    __test__ = False  # pytest would collect this class where it is imported

    name: str
    exercise: str
    statement: str
    points: float
    function: Callable
    cases: tuple[dict[str, Any], ...] = field(default=({},))

    def run(self, student: Any, device: str = "cpu") -> Outcome:
        """Run the cases up to the first that does not hold."""
        for index in range(len(self.cases)):
            try:
                self.run_case(student, index, device)
            except Exception as error:
                return self.outcome(student, index, error)
        return self.success()

    def run_case(self, student: Any, index: int, device: str = "cpu") -> None:
        """Run one case; raises what the test raises."""
        seed_inputs(f"{self.name} {index}")
        arguments = dict(self.cases[index])
        wanted = inspect.signature(self.function).parameters
        if "student" in wanted:
            arguments["student"] = student
        if "device" in wanted:
            arguments["device"] = device
        if "tmp_path" not in wanted:
            return self.function(**arguments)
        with tempfile.TemporaryDirectory() as folder:
            return self.function(**arguments, tmp_path=Path(folder))

    def success(self) -> Outcome:
        """The outcome when every case holds."""
        return Outcome(self.name, self.exercise, self.statement, self.points, "passed")

    def outcome(self, student: Any, index: int, error: Exception) -> Outcome:
        """Translate what a failing case raised into words for the student."""
        values = ", ".join(f"{k} = {brief(v)}" for k, v in self.cases[index].items())
        inputs = getattr(student, "last_call", "") or values
        status, symptom, expected, got = "failed", "", "", ""
        if isinstance(error, NotImplementedError):
            status, reason, inputs = "not attempted", str(error) or "Not written yet.", ""
        elif isinstance(error, AnswerLost):
            status, reason = error.status, str(error)
        elif isinstance(error, Mismatch):
            reason, symptom, expected, got = str(error), error.symptom, error.expected, error.got
        elif isinstance(error, AssertionError):
            reason = str(error).splitlines()[0] if str(error) else self.statement
        else:
            reason = f"It raised {type(error).__name__}: {error}{_where(student, error)}"
        return Outcome(
            self.name,
            self.exercise,
            self.statement,
            self.points,
            status,
            reason,
            symptom,
            Counterexample(inputs, expected, got),
        )


def _where(student: Any, error: BaseException) -> str:
    """The line of the answer that raised, as text; empty where it is not the answer's."""
    frames = getattr(error, "student_frames", None)
    if frames is None:
        namespace = getattr(student, "_namespace", None)
        frames = [
            (frame.f_code.co_name, line, _line_of(frame, line))
            for frame, line in _walk(error)
            if frame.f_globals is namespace
        ]
    if not frames:
        return ""
    name, line, source = frames[-1]
    return f" (in {name}, line {line}{': ' + source if source else ''})"


def _walk(error: BaseException) -> Iterator[tuple[types.FrameType, int]]:
    traceback = error.__traceback__
    while traceback:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _line_of(frame: types.FrameType, line: int) -> str:
    return linecache.getline(frame.f_code.co_filename, line).strip()


def collect(module: types.ModuleType) -> list[Test]:
    """The tests of a module, in the order in which it defines them.

    Raises:
        ValueError: for a test without docstring, or one that asks for what no test may have.
    """
    tests = []
    for name, function in vars(module).items():
        marks = getattr(function, "pytestmark", ())
        owner = next((m for m in marks if m.name == "exercise"), None)
        if owner is None or not inspect.isfunction(function):
            continue
        cases = _cases(marks)
        strange = set(inspect.signature(function).parameters) - set(FIXTURES) - set(cases[0])
        if strange:
            raise ValueError(
                f"{module.__name__}.{name} asks for {sorted(strange)}; "
                f"a test may have {', '.join(FIXTURES)} and its own parameters."
            )
        statement = inspect.getdoc(function)
        if not statement:
            raise ValueError(f"{module.__name__}.{name} has no docstring to show to the student.")
        statement = " ".join(statement.split())
        points = owner.kwargs.get("points", 0)
        tests.append(Test(name, owner.args[0], statement, points, function, tuple(cases)))
    return tests


def _cases(marks: Sequence[Any]) -> list[dict[str, Any]]:
    """The product of all `parametrize` marks, the nearest to the function varying slowest."""
    axes = []
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, rows = mark.args[0], mark.args[1]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        axis = []
        for row in rows:
            if type(row).__name__ == "ParameterSet":  # pytest.param(...)
                row = row.values
            elif len(names) == 1:
                row = (row,)
            axis.append(dict(zip(names, row, strict=True)))
        axes.append(axis)
    return [
        {k: v for part in combination for k, v in part.items()}
        for combination in itertools.product(*axes)
    ]


# --- right and wrong answers of the authors --------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An author's answer to one name of an exercise: a misconception or an alternative."""

    kind: str
    exercise: str
    name: str
    hint: str
    source: str


def misconception(exercise: str, *, hint: str) -> Callable:
    """Mark a wrong answer that students give, and the hint that it deserves.

    The function or class below bears the student's name; it is added to the module's ANSWERS.
    """
    return _answer("misconception", exercise, hint)


def alternative(exercise: str) -> Callable:
    """Mark another right answer."""
    return _answer("alternative", exercise, "")


def _answer(kind: str, exercise: str, hint: str) -> Callable:
    caller = sys._getframe(2)

    def register(thing: Any) -> Any:
        source = _definition_below(caller.f_code.co_filename, line)
        answer = Answer(kind, exercise, thing.__name__, hint, source)
        caller.f_globals.setdefault("ANSWERS", []).append(answer)
        return thing

    line = caller.f_lineno
    return register


def _definition_below(file: str, line: int) -> str:
    """The source of the definition that is decorated at a line, without that decorator.

    `inspect.getsource` would not do: many answers bear one name, and it finds the first of them.
    """
    for first, last, source in _decorated(tuple(linecache.getlines(file))):
        if first <= line <= last:
            return source
    raise ValueError(f"{file}, line {line}: no definition stands below the decorator.")


@functools.lru_cache(maxsize=1)  # a file's decorators ask one after the other
def _decorated(lines: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """The first and last line of each decorator in a file, and the definition below it."""
    return [
        (d.lineno, d.end_lineno, textwrap.dedent("".join(lines[d.end_lineno : node.end_lineno])))
        for node in ast.walk(ast.parse("".join(lines)))
        for d in getattr(node, "decorator_list", ())
    ]
