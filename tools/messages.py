# SPDX-License-Identifier: MIT
"""Which messages can an error of vmipatch have? Read from its sources; nothing is executed.

A message is a pattern: `…` stands for what is known only when it is raised. Variables are followed
to what is assigned to them, parameters to what callers give for them (tools/expressions.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tools.expressions import Expressions, Function, SourceModule, called, sources_of
from vmipatch.limits import Limit

ROOTS: Final = ("VmipatchError", "UsageError", "BadParameter")
"""Ours, and click's for a wrong command line."""
WITH_LIMIT: Final = "NotSupported"
REFERENCE: Final = "UnclassifiedReference"
HOME: Final = "errors.py"


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """The text of an error, in one of the places that make it."""

    error: str
    """Name of its class; of one that errors.py does not define, the nearest that it does."""
    text: str
    hints: frozenset[str]
    """Remedies; none if neither the place nor the class has one."""


class Errors:
    """The classes of errors, and the places that make one."""

    def __init__(self, sources: list[SourceModule]) -> None:
        self._sources = sources
        self._expressions = Expressions(sources)

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef | None]:
        """Every class of error by name, in the order of derivation; None: it is click's."""
        found: dict[str, ast.ClassDef | None] = dict.fromkeys(ROOTS)
        left = [node for source in self._sources for node in source.of(ast.ClassDef)]
        while derived := [node for node in left if _base(node) in found or node.name in ROOTS]:
            found |= {node.name: node for node in derived}
            left = [node for node in left if node not in derived]
        return found

    def messages(self) -> Iterator[Message]:
        """One for each pattern of each place."""
        for source in self._sources:
            for node in source.of(ast.Call) if source.path.name != HOME else ():
                yield from self.messages_of(node, source)

    def _made_by(self, node: ast.Call, source: SourceModule) -> str | None:
        """The class whose instance a call makes; `super().__init__` in one of them is one."""
        name = called(node)
        if name == "__init__":
            own = source.within.get(node)
            made = (n for n, c in self.classes.items() if c is not None and own in c.body)
            return next(made, None)
        known = name in self.classes and not self._says_it_itself(name)
        return name if known else None

    def _says_it_itself(self, error: str) -> bool:
        """Whether the message of a class is made in its `__init__`, or in that of a base."""
        while error not in (*ROOTS, WITH_LIMIT, REFERENCE):
            definition = self.classes[error]
            assert definition is not None, "only the classes of click are not defined here"
            if any(isinstance(each, Function) for each in definition.body):
                return True
            error = _base(definition)
        return False

    def messages_of(self, node: ast.Call, source: SourceModule) -> Iterator[Message]:
        """Those of one call; none if it does not make an error."""
        error = self._made_by(node, source)
        if error is None:
            return
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        arguments = list(node.args)
        texts: set[str] = set()
        hints = self._usual_hints(error)
        if error == WITH_LIMIT:
            limit = Limit[ast.unparse(arguments.pop(0)).removeprefix("Limit.")]
            texts, hints = {limit.what}, {limit.remedy}
        message = arguments[0] if arguments else given.get("message")
        hint = given.get("hint")
        for case in self._cases(
            [each for each in (message, hint) if each is not None], node, source
        ):
            if message is not None:
                texts = case.texts(message, source, node)
            if hint is not None:
                hints = case.texts(hint, source, node) - {""} or hints
            for text in _without_endings(texts):
                yield Message(self._public(error), text, frozenset(hints))

    def _cases(
        self, parts: list[ast.expr], node: ast.Call, source: SourceModule
    ) -> Iterator[Expressions]:
        """One for each call of the function around, if message or hint are a parameter of it."""
        function = source.within.get(node)
        names = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
        if function is not None and names & {each.arg for each in function.args.args}:
            calls = list(self._expressions.calls_of(function, source))
            yield from (Expressions(self._sources, given) for given in calls)
            if calls:
                return
        yield self._expressions

    def _public(self, error: str) -> str:
        """The nearest class that errors.py defines, or the class of click."""
        definition = self.classes[error]
        home = next(source for source in self._sources if source.path.name == HOME)
        while definition is not None and definition not in home.tree.body:
            error = _base(definition)
            definition = self.classes[error]
        return error

    def _usual_hints(self, error: str) -> set[str]:
        """The hint of a class, or of the nearest one that it derives from."""
        if error == REFERENCE:
            return {Limit.REFERENCE.remedy}
        definition = self.classes.get(error)
        while definition is not None:
            for node in definition.body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "usual_hint":
                    return {str(ast.literal_eval(node.value))}
            definition = self.classes.get(_base(definition))
        return set()


def _base(node: ast.ClassDef) -> str:
    return ast.unparse(node.bases[0]) if node.bases else ""


def _without_endings(texts: set[str]) -> set[str]:
    """Without what may follow: those that are another one and more, in brackets or at its end."""
    plain = {re.sub(r"(?<=[a-z0-9`])…$", "", text) for text in texts}
    return {text for text in plain if text.removesuffix(" (…)") not in plain - {text}}


def messages() -> dict[tuple[str, str], list[str]]:
    """Remedies by class and message, of all errors that vmipatch raises, sorted."""
    found: dict[tuple[str, str], set[str]] = {}
    for each in Errors(sources_of()).messages():
        found.setdefault((each.error, each.text), set()).update(each.hints)
    return {key: sorted(found[key]) for key in sorted(found)}
