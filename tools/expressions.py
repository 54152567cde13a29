# SPDX-License-Identifier: MIT
"""Which texts can an expression of vmipatch's sources be? Nothing is executed.

`…` stands for what is not known. Variables are followed to what their function assigns to them,
parameters to what callers give for them, constants through imports.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final, TypeVar

from vmipatch.limits import Limit

PACKAGE: Final = Path(__file__).parent.parent / "vmipatch"
ANY: Final = "…"
MOST_STEPS: Final = 6
"""Variables and callers that are followed one after the other."""
_PHRASE: Final = re.compile(r"^[a-z]\S* |[a-z]+ [a-z]+")
"""Part of a sentence; other texts within one are names, and stand for any."""

Function = ast.FunctionDef
N = TypeVar("N", bound=ast.AST)


@dataclass(frozen=True, eq=False)
class SourceModule:
    """One module."""

    path: Path
    tree: ast.Module

    @cached_property
    def _nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    def of(self, kind: type[N]) -> Iterator[N]:
        """All nodes of a kind."""
        return (node for node in self._nodes if isinstance(node, kind))

    @cached_property
    def within(self) -> dict[ast.AST, Function]:
        """The innermost function that each node lies in."""
        return {node: function for function in self.of(Function) for node in ast.walk(function)}

    @cached_property
    def beside(self) -> dict[ast.AST, list[ast.stmt]]:
        """The statements of the innermost block that each node lies in."""
        found: dict[ast.AST, list[ast.stmt]] = {}
        for node in self._nodes:
            for block in (getattr(node, name, None) for name in ("body", "orelse", "handlers")):
                if isinstance(block, list):
                    found |= {part: block for each in block for part in ast.walk(each)}
        return found

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """Calls by the last part of the name that is called."""
        found = defaultdict(list)
        for node in self.of(ast.Call):
            found[called(node)].append(node)
        return found

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Values of the names that the module assigns to."""
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                found[ast.unparse(target)] = node.value
        return found

    @cached_property
    def imported(self) -> dict[str, str]:
        """Names that come from other modules, with the end of that module's path."""
        return {
            name.asname or name.name: (node.module or "").replace(".", "/") + ".py"
            for node in self.of(ast.ImportFrom)
            for name in node.names
        }


@cache
def sources_of(package: Path = PACKAGE) -> list[SourceModule]:
    """All modules below a directory."""
    paths = sorted(package.rglob("*.py"))
    return [SourceModule(path, ast.parse(path.read_text("utf-8"))) for path in paths]


def called(node: ast.Call) -> str:
    """The last part of the name that is called; empty for anything else."""
    target = node.func
    if isinstance(target, ast.Name):
        return target.id
    return target.attr if isinstance(target, ast.Attribute) else ""


@dataclass(frozen=True)
class Given:
    """One call of a function: its parameters' expressions, and where they stand."""

    function: Function
    values: dict[str, ast.expr]
    source: SourceModule
    node: ast.Call


class Expressions:
    """Values of the expressions of some modules, in one call of a function if `given`."""

    def __init__(self, sources: list[SourceModule], given: Given | None = None) -> None:
        self._sources = sources
        self._given = given

    def texts(self, value: ast.expr, source: SourceModule, at: ast.AST, steps: int = 0) -> set[str]:
        """Texts that an expression at the node `at` of a module can be."""
        found = self._raw(value, source, at, steps)
        return {re.sub(f"{ANY}(\\s*{ANY})+", ANY, text) for text in found}

    def _raw(self, value: ast.expr, source: SourceModule, at: ast.AST, steps: int) -> set[str]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return {value.value}
        if isinstance(value, ast.IfExp):
            return self._raw(value.body, source, at, steps) | self._raw(
                value.orelse, source, at, steps
            )
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            return self._joined([value.left, value.right], source, at, steps)
        if isinstance(value, ast.JoinedStr):
            return self._joined(value.values, source, at, steps)
        if isinstance(value, ast.FormattedValue) and value.format_spec is None:
            found = self._raw(value.value, source, at, steps)
            found = found - {""} or found  # a part that may be missing
            return {text if _PHRASE.search(text) else ANY for text in found}
        if isinstance(value, ast.Attribute) and ast.unparse(value).startswith("Limit."):
            limit, _, what = ast.unparse(value).removeprefix("Limit.").partition(".")
            return {getattr(Limit[limit], what)}
        if isinstance(value, ast.Name) and steps < MOST_STEPS:
            return self._of_name(value.id, source, at, steps + 1) or {ANY}
        return {ANY}

    def _joined(
        self, parts: list[ast.expr], source: SourceModule, at: ast.AST, steps: int
    ) -> set[str]:
        choices = [self.texts(part, source, at, steps) for part in parts]
        return {"".join(each) for each in itertools.product(*choices)}

    def _of_name(self, name: str, source: SourceModule, at: ast.AST, steps: int) -> set[str]:
        """Texts of a variable: assigned in the function, a parameter of it, or a constant."""
        function = source.within.get(at)
        if function is not None:
            near = [each for each in source.beside[at] if isinstance(each, ast.Assign)]
            assigned = list(_assigned(name, near)) or list(_assigned(name, ast.walk(function)))
            if assigned:
                return set().union(*(self._raw(v, source, at, steps) for v in assigned))
            call = self._given
            if call is not None and call.function is function and name in call.values:
                return self._raw(call.values[name], call.source, call.node, steps)
            arguments = (*function.args.args, *function.args.kwonlyargs)
            if name in [each.arg for each in arguments]:
                return self._from_callers(name, function, source, steps)
        home = source
        if name in source.imported:
            ending = source.imported[name]
            home = next((s for s in self._sources if str(s.path).endswith(ending)), source)
        constant = home.constants.get(name)
        return set() if constant is None else self._raw(constant, home, home.tree, steps)

    def calls_of(self, function: Function, home: SourceModule) -> Iterator[Given]:
        """Parameters of each call of a function, which is found by its name."""
        names = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        target = _class_of(function, home) if function.name == "__init__" else function.name
        is_anywhere = _is_method(function) and not target.startswith("_")
        for source in self._sources:
            if source is home or is_anywhere or target in source.imported:
                for node in source.calls[target]:
                    given = defaults | dict(zip(names, node.args, strict=False))
                    given |= {k.arg: k.value for k in node.keywords if k.arg is not None}
                    yield Given(function, given, source, node)

    def _from_callers(
        self, name: str, function: Function, home: SourceModule, steps: int
    ) -> set[str]:
        """Texts that callers give for the parameter `name`, or its default."""
        found: set[str] = set()
        for call in self.calls_of(function, home):
            if name in call.values:
                found |= self._raw(call.values[name], call.source, call.node, steps)
        return found


def _is_method(function: Function) -> bool:
    return any(each.arg == "self" for each in function.args.args)


def _class_of(function: Function, home: SourceModule) -> str:
    """The class that has this method."""
    return next(node.name for node in home.of(ast.ClassDef) if function in node.body)


def _assigned(name: str, nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """Each expression that one of `nodes` assigns to the variable, through tuples too."""
    nodes = list(nodes)
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _bound(name, target, node.value, nodes)
        elif isinstance(node, ast.For):
            rows = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else [node.iter]
            for row in rows:
                yield from _bound(name, node.target, row, nodes)


def _bound(
    name: str, target: ast.expr, value: ast.expr, nodes: Sequence[ast.AST]
) -> Iterator[ast.expr]:
    """The part of `value` that `name` gets when the target is assigned to."""
    if _is_none(value):
        return
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    elif isinstance(target, ast.Tuple) and name in ast.unparse(target).strip("()").split(", "):
        rows = _plainly_assigned(value.id, nodes) if isinstance(value, ast.Name) else [value]
        for row in rows:
            if isinstance(row, ast.Tuple) and len(row.elts) == len(target.elts):
                for each, part in zip(target.elts, row.elts, strict=True):
                    yield from _bound(name, each, part, nodes)
            elif not _is_none(row):
                yield row


def _plainly_assigned(name: str, nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """Each expression of `name = expression` among the nodes."""
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            yield node.value


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
