"""Finds calls of library functions that an exercise forbids, by reading the code.

It sees through imports, aliases and `getattr`; what hides better than that is left to the tests
that watch the running code (`does_not_call`).
"""

from __future__ import annotations

import ast
import importlib
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
    code: Iterable[tuple[str, ast.stmt]], context: Sequence[ast.stmt], forbid: Sequence[str]
) -> list[Use]:
    """Uses of forbidden functions in an exercise's code.

    Args:
        code: (cell, statement): the exercise's, and those of helpers that it uses.
        context: the notebook's top-level statements; imports and assignments give names a meaning.
        forbid: dotted names such as `torch.nn.functional.conv2d`.
    """
    if not forbid:
        return []
    code = list(code)
    names = _Names([*context, *(statement for _, statement in code)])
    found = []
    for where, statement in code:
        for node in _expressions(statement):
            if any(names.means(node, path) for path in forbid):
                text = ast.unparse(node).splitlines()[0][:60]
                found.append(Use(text, node.lineno, where))
    # `F.conv2d` and the `F.conv2d(x)` around it are one use; the outermost comes first
    return list({(use.where, use.line): use for use in reversed(found)}.values())[::-1]


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: without annotations and the types that isinstance is asked for."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        if name == "args" and isinstance(node, ast.Call) and _called(node) in TYPE_TESTS:
            value = value[:1]
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _expressions(child)


TYPE_TESTS = ("isinstance", "issubclass")


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "id", "") or getattr(function, "attr", "")


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class _Names:
    """What the names of a notebook stand for, as dotted paths into libraries."""

    def __init__(self, context: Sequence[ast.stmt]):
        self.paths: dict[str, str] = {}
        self.stars: list[str] = []  # modules imported with *
        nodes = [node for tree in context for node in ast.walk(tree)]
        self.own = {node.name for node in context if isinstance(node, DEFINITIONS)}
        self.methods = {node.name for node in nodes if isinstance(node, DEFINITIONS)}
        for node in nodes:
            self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
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

    def means(self, node: ast.AST, forbidden: str) -> bool:
        """Whether an expression (or an import) gets hold of the forbidden function."""
        if isinstance(node, ast.ImportFrom):
            return any(_same(f"{node.module}.{alias.name}", forbidden) for alias in node.names)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return _same("torch.matmul", forbidden)
        path = self.path(node)
        if path:
            return _same(path, forbidden)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return self._is_method(node.func, forbidden)
        return False

    def _is_method(self, method: ast.Attribute, forbidden: str) -> bool:
        """`x.matmul(y)`: a tensor method, as far as one can tell without running it."""
        if self.path(method) or method.attr in self.methods:
            return False
        if isinstance(method.value, ast.Constant):  # a text's
            return False
        return callable(getattr(torch.Tensor, method.attr, None)) and _same(
            f"torch.Tensor.{method.attr}", forbidden
        )


IMPORTS = ("__import__", "import_module")


def _same(path: str, forbidden: str) -> bool:
    if path.startswith(("torch.ops.", "torch._")):  # the same functions by their inner names
        return forbidden.split(".")[-1] in path.split(".")
    if _canonical(path) == _canonical(forbidden):
        return True
    one, other = _object(path), _object(forbidden)
    return one is not None and one is other


def _canonical(path: str) -> str:
    """One path for a function that torch offers as function and as method."""
    head, _, last = path.rpartition(".")
    if head == "torch.Tensor" or (head == "torch.nn.functional" and hasattr(torch, last)):
        return f"torch.{last}"
    return path


def _object(path: str) -> Any:
    """The thing at a dotted path of torch or NumPy; None if there is none."""
    first, *rest = path.split(".")
    if first not in ("torch", "numpy"):
        return None
    thing = importlib.import_module(first)
    for name in rest:
        thing = getattr(thing, name, None)
    return thing
