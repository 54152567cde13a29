# SPDX-License-Identifier: MIT
"""How bundled assembly sources become bytes (the only module that touches keystone).

Sources are Intel syntax, one statement a line, `#` starts a comment. Labels are collected, so
that other code can ask where they ended up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import keystone

from vmipatch.errors import AssemblyFailed

_LABEL = re.compile(r"^\s*([A-Za-z_][\w.]*):")
TEN = (10).to_bytes(4, "little")
MOST_UNFIT = 1000
_COMMENT = re.compile(r"#.*$|/\*.*?\*/")


@dataclass(frozen=True, slots=True)
class Assembled:
    """Code linked at `va`, with the addresses of its labels (those of `.L` kind left out)."""

    va: int
    code: bytes = field(repr=False)
    labels: dict[str, int] = field(hash=False)


def assemble(
    source: str, va: int = 0, *, symbols: Mapping[str, int] | None = None, name: str = "<source>"
) -> Assembled:
    """Assemble 32-bit (or, after `.code16`, 16-bit) `source` linked at `va`.

    `symbols` are values of names the source uses and does not define.
    Raises AssemblyFailed with keystone's complaint.
    """
    lines = [_COMMENT.sub("", line).rstrip() for line in source.splitlines()]
    names = [m[1] for line in lines if (m := _LABEL.match(line))]
    known = dict(symbols or {})
    constants = [f".set {key}, {value:#x}" for key, value in known.items()]
    # keystone has no symbol table to ask: the labels are appended as words and cut off again.
    # The alignment makes the length of the code itself visible in the last word.
    probe = ["vmipatch_end_of_code:", *(f".long {n}" for n in [*names, "vmipatch_end_of_code"])]
    text = "\n".join([*constants, *lines, *probe])
    engine = _decimal_engine()
    try:
        output, _ = engine.asm(text, va, as_bytes=True)
    except keystone.KsError as error:
        raise AssemblyFailed(f"{name}: {error}", hint="this is a bug of vmipatch") from error
    if output is None:
        raise AssemblyFailed(f"{name}: nothing was assembled", hint="this is a bug of vmipatch")
    words = 4 * (len(names) + 1)
    code, tail = output[:-words], output[-words:]
    values = [int.from_bytes(tail[i : i + 4], "little") for i in range(0, words, 4)]
    if values[-1] != (va + len(code)) & 0xFFFFFFFF:
        raise AssemblyFailed(f"{name}: the labels do not add up", hint="this is a bug of vmipatch")
    return Assembled(va, bytes(code), dict(zip(names, values[:-1], strict=True)))


def _decimal_engine() -> keystone.Ks:
    """A new assembler, which takes 10 for ten.

    keystone 0.9 leaves its radix uninitialised: where the memory held 16, numbers without a prefix
    are hexadecimal, and no option of its resets that.
    """
    unfit: list[keystone.Ks] = []  # kept until the end: their memory is not to be had again
    while len(unfit) < MOST_UNFIT:
        engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_32)
        if engine.asm(".long 10", as_bytes=True)[0] == TEN:
            return engine
        unfit.append(engine)
    raise AssemblyFailed(
        f"keystone takes decimal numbers for hexadecimal, {MOST_UNFIT} times in a row",
        hint="start again; if that does not help, report it",
    )


def assemble_resource(
    package: str, file: str, va: int = 0, *, symbols: Mapping[str, int] | None = None
) -> Assembled:
    """Assemble the `.S` file that lies in `package`."""
    source = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    return assemble(source, va, symbols=symbols, name=file)
