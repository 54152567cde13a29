# SPDX-License-Identifier: MIT
"""How does docs/reference.md come to be? `python -m tools.api_page` makes it of the docstrings.

It has each name of `vmipatch.__all__`, with its attributes, its methods and their signatures.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import vmipatch

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference.md"
_HEAD: Final = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- Written by `python -m tools.api_page` from the docstrings: change those. -->
# API reference

Each name of `vmipatch.__all__`, with what versions promise to keep
([what stays](api.md#what-stays)). How they go together: [From Python](api.md).
"""


def page() -> str:
    """The whole page."""
    names = sorted((name for name in vmipatch.__all__ if name != "__version__"), key=str.lower)
    index = ", ".join(f"[`{name}`](#{name.lower()})" for name in names)
    parts = "".join(f"\n## {name}\n\n{_described(name)}" for name in names)
    return f"{_HEAD}\n{index}; and `__version__`, the version as text.\n{parts}"


class _Source(str):
    """An annotation that is shown as it is in the source, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _described(name: str) -> str:
    """One name: how it is called or made, what it is, what it has."""
    value = getattr(vmipatch, name)
    if inspect.isfunction(value):
        return f"{_code(f'vmipatch.{name}{_signature(value)}')}\n{_prose(value)}\n"
    text = f"{_prose(value)}\n"
    if issubclass(value, enum.Enum):
        rows = [(f"{each.name}", _shown(each.value)) for each in value]
        return text + _table(("member", "value"), rows) + _rest(value)
    if _is_made_by_users(value):
        text = f"{_code(f'vmipatch.{name}{_signature(value)}')}\n{text}"
    return text + _rest(value)


def _is_made_by_users(value: type) -> bool:
    """Whether nothing must be given to make one, as with options."""
    parameters = list(inspect.signature(value).parameters.values())
    return bool(parameters) and all(each.default is not each.empty for each in parameters)


def _rest(value: type) -> str:
    """Attributes and methods."""
    text = ""
    attributes: dict[str, str] = {}
    for name, what in _attributes(value):
        attributes[name] = what or attributes.get(name, "")
    if attributes:
        text += _table(("attribute", "what it is"), sorted(attributes.items()))
    for method in _methods(value):
        text += f"\n{_code(f'{method.__name__}{_signature(method)}')}\n{_prose(method)}\n"
    return text


def _attributes(value: type) -> Iterator[tuple[str, str]]:
    """Names and descriptions of fields and properties, of the bases first."""
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("vmipatch"):
            continue
        described = _described_fields(base)
        own = [f.name for f in dataclasses.fields(base)] if dataclasses.is_dataclass(base) else []
        for name in dict.fromkeys((*own, *described)):
            if not name.startswith("_") and not isinstance(vars(base).get(name), property):
                yield name, described.get(name, "")
        for name, member in vars(base).items():
            if isinstance(member, property) and not name.startswith("_"):
                yield name, _first(member)


def _described_fields(value: type) -> dict[str, str]:
    """The text below each annotated name of a class body."""
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            text = ast.literal_eval(below.value) if is_text else ""  # type: ignore[union-attr]
            found[field.target.id] = " ".join(text.split())
    return found


def _methods(value: type) -> Iterator[Any]:
    """Public methods that a class or a base of ours defines, in the order of the source."""
    seen: dict[str, Any] = {}
    for base in reversed(value.__mro__):
        if base.__module__.startswith("vmipatch"):
            for name, member in vars(base).items():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and not name.startswith("_"):
                    seen[name] = function
    yield from seen.values()


def _signature(value: Any) -> str:
    """Parameters and result, a line each if they are long."""
    signature = inspect.signature(value)
    parameters = [
        each.replace(annotation=_Source(each.annotation), default=_named(each.default))
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    result = signature.return_annotation
    result = inspect.Signature.empty if isinstance(value, type) else _Source(result)
    text = str(signature.replace(parameters=parameters, return_annotation=result))
    if len(text) <= 80:
        return text
    head, _, result = text.rpartition(")")
    return "(\n" + ",\n".join(f"    {part}" for part in _split(head[1:])) + f"\n){result}"


def _named(default: Any) -> Any:
    """A default as a source has it: members of enums by name."""
    if isinstance(default, enum.Enum):
        return _Source(f"{type(default).__name__}.{default.name}")
    return default


def _split(text: str) -> Iterator[str]:
    """Parameters of a signature: commas in brackets do not separate."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()


def _shown(value: object) -> str:
    return f"`{value}`" if isinstance(value, str | int) else f"`{value!r}`"


def _prose(value: Any) -> str:
    return inspect.getdoc(value) or ""


def _first(value: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(_prose(value).partition("\n\n")[0].split())


def _code(text: str) -> str:
    return f"```\n{text}\n```\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join(["", f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
