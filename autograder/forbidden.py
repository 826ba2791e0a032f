"""Finds calls of library functions that an exercise forbids, by reading the code.

It sees through imports, aliases and `getattr`; what hides better than that is left to the tests
that watch the running code (`does_not_call`).
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Use:
    """A place where code reaches for a forbidden function."""

    text: str
    line: int
    where: str  # the cell


def forbidden_uses(
    code: Iterable[tuple[str, ast.stmt]], names: Names, forbid: Sequence[str]
) -> list[Use]:
    """Uses of forbidden functions in an exercise's code, at most one a line.

    Args:
        code: (cell, statement): the exercise's, and those of helpers that it uses.
        names: what names mean in this notebook.
        forbid: dotted names such as `torch.nn.functional.conv2d`.
    """
    if not forbid:
        return []
    found: dict[tuple[str, int], Use] = {}
    wanted = {canonical(path) for path in forbid}
    objects = [thing for path in forbid if (thing := _object(path)) is not None]
    last = {path.split(".")[-1] for path in forbid}

    def is_forbidden(path: str) -> bool:
        if path.startswith(("torch.ops.", "torch._")):  # the same functions by their inner names
            return not last.isdisjoint(path.split("."))
        if canonical(path) in wanted:
            return True
        thing = _object(path)
        return thing is not None and any(thing is one for one in objects)

    for where, statement in code:
        for node in _running(statement):
            if any(map(is_forbidden, names.reached(node))):
                text = ast.unparse(node).splitlines()[0][:60]
                found.setdefault((where, node.lineno), Use(text, node.lineno, where))
    return list(found.values())


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: without annotations and the types that isinstance is asked for."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        if name == "args" and isinstance(node, ast.Call) and _called(node) in TYPE_TESTS:
            value = value[:1]
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _running(child)


TYPE_TESTS = ("isinstance", "issubclass")
IMPORTS = ("__import__", "import_module")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "id", "") or getattr(function, "attr", "")


class Names:
    """What the names of a notebook stand for, as dotted paths into libraries.

    Args:
        statements: its top-level statements; imports and assignments give names a meaning.
    """

    def __init__(self, statements: Iterable[ast.stmt]):
        statements = list(statements)
        self.paths: dict[str, str] = {}
        self.stars: list[str] = []  # modules imported with *
        self.own = {node.name for node in statements if isinstance(node, DEFINITIONS)}
        self.methods: set[str] = set()
        for statement in statements:
            for node in ast.walk(statement):
                self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, DEFINITIONS):
            self.methods.add(node.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                self.paths[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if alias.name == "*":
                    self.stars.append(node.module)
                else:
                    self.paths[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, (ast.Assign, ast.NamedExpr)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            path = self.path(node.value)
            for target in targets:
                if path and isinstance(target, ast.Name):
                    self.paths[target.id] = path

    def path(self, node: ast.AST) -> str | None:
        """`torch.nn.functional.conv2d` for `F.conv2d`; None for what is not a library's."""
        match node:
            case ast.Name(id=name) if name in self.own:
                return None
            case ast.Name(id=name):
                stars = (m for m in self.stars if hasattr(_object(m), name))
                return self.paths.get(name) or next((f"{m}.{name}" for m in stars), None)
            case ast.Attribute(value=value, attr=attr):
                base, last = self.path(value), attr
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=attr), *_]):
                base, last = self.path(value), attr
            case ast.Call(func=ast.Name(id="vars"), args=[value]):
                base, last = self.path(value), "__dict__"
            case ast.Subscript(value=value, slice=ast.Constant(value=attr)):
                base, last = (self.path(value) or "").removesuffix(".__dict__"), attr
            case ast.Call(args=[ast.Constant(value=str(module)), *_]) if _called(node) in IMPORTS:
                return module
            case _:
                return None
        return f"{base}.{last}" if base else None

    def reached(self, node: ast.AST) -> list[str]:
        """The library functions that a node itself gets hold of, as dotted paths."""
        if isinstance(node, ast.ImportFrom):
            return [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return ["torch.matmul"]
        if path := self.path(node):
            return [path]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return self._tensor_method(node.func)
        return []

    def _tensor_method(self, method: ast.Attribute) -> list[str]:
        """`x.matmul(y)`: a tensor's, as far as one can tell without running it."""
        if self.path(method) or method.attr in self.methods:
            return []
        if isinstance(method.value, ast.Constant):  # a text's
            return []
        known = callable(getattr(torch.Tensor, method.attr, None))
        return [f"torch.Tensor.{method.attr}"] if known else []


def canonical(path: str) -> str:
    """One path for a function that torch offers as function and as method."""
    head, _, last = path.rpartition(".")
    if head == "torch.Tensor" or (head == "torch.nn.functional" and hasattr(torch, last)):
        return f"torch.{last}"
    return path


def shortened(text: str) -> str:
    """A text with library functions as people write them: `F.conv2d`, `nn.Conv2d`."""
    for long, short in (("torch.nn.functional.", "F."), ("torch.nn.", "nn."), ("numpy.", "np.")):
        text = re.sub(rf"(?<![\w.]){re.escape(long)}", short, text)
    return text


@functools.lru_cache(4096)
def _object(path: str) -> Any:
    """The thing at a dotted path of torch or NumPy; None if there is none."""
    first, *rest = path.split(".")
    if first not in ("torch", "numpy"):
        return None
    thing = importlib.import_module(first)
    for name in rest:
        thing = getattr(thing, name, None)
    return thing
