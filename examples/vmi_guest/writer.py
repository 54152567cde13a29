# SPDX-License-Identifier: MIT
"""What do the statements in the sources of the conformance guest become?

Besides assembly the sources have, one a line:

    VMI(NAME)                   a patchable site of that call, and a check of what it spoilt
    VMI_RAW(NAME)               the site alone, for calls that do not come back
    SITE(NAME, label)           as VMI_RAW, the label at the site
    CHECK("text", got, wanted)  count, and say so if they differ
    SAY("text %x %s", ...)      a line on the serial port
    ONLY_IF_SERVED(NAME, label) go on at the label if the ROM declines the call
    PUSH(name)                  push a constant
    EXCEPTION_STUBS             one entry of 16 bytes for each exception

and for API 13

    VMI_STACK(NAME, operands)   as VMI, with arguments that the translation pushes
    CALL_WINDOW(NAME)           as VMI, a call of the window that holds stubs or the ROM's copy
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol

from vmipatch.vmi.table import Clobbers

_STATEMENT = re.compile(r"^\s*([A-Z_]+)\((.*)\)\s*(?:#.*)?$")
_STRING = re.compile(r'^\s*("(?:[^"]*)")\s*,?\s*(.*)$')
_REGISTERS = ("eax", "ecx", "edx", "ebx", "", "ebp", "esi", "edi")
_FLAGS_AT = 4
_FLAGS = 0x8D5
_SPOILT = {Clobbers.STANDARD: 0b10111, Clobbers.FLAGS: 1 << _FLAGS_AT, Clobbers.NOTHING: 0}
_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)


class CheckedRow(Protocol):
    """The part of a call's row, in the table of either API, that a check needs."""

    @property
    def name(self) -> str:
        """As the specification spells it."""

    @property
    def results(self) -> tuple[str, ...]:
        """Registers that hold results."""

    @property
    def clobbers(self) -> Clobbers:
        """Registers that may be spoilt besides."""


class Writer(abc.ABC):
    """Expands statements, and collects texts; how a site looks is up to the API."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    @abc.abstractmethod
    def call(self, name: str) -> IntEnum:
        """The call of that name."""

    @abc.abstractmethod
    def row(self, call: IntEnum) -> CheckedRow:
        """Its row in the table."""

    @abc.abstractmethod
    def place(self, call: IntEnum, label: str = "", pushed: tuple[str, ...] = ()) -> Iterator[str]:
        """A site, and what is to be known of it later."""

    @abc.abstractmethod
    def only_if_served(self, call: IntEnum, label: str) -> Iterator[str]:
        """A branch to the label unless the call is served."""

    def tables(self) -> Iterator[str]:
        """The lines after the code; here the texts."""
        for text, label in self.texts.items():
            yield f"{label}:"
            yield f"    .asciz {text}"

    def expand(self, line: str) -> Iterator[str]:
        """The lines of assembly for a line of the sources."""
        match = _STATEMENT.match(line)
        if line.strip() == "EXCEPTION_STUBS":
            yield from _exception_stubs()
        elif match is None:
            yield line
        elif match[1] == "PUSH":
            yield from push(match[2])
        else:
            yield from getattr(self, f"_{match[1].lower()}")(match[2])

    def _vmi_raw(self, name: str) -> Iterator[str]:
        yield from self.place(self.call(name))

    def _site(self, arguments: str) -> Iterator[str]:
        name, label = (part.strip() for part in arguments.split(","))
        yield from self.place(self.call(name), label)

    def _vmi(self, name: str) -> Iterator[str]:
        call = self.call(name)
        yield from self._checked(call, self.place(call))

    def _vmi_stack(self, arguments: str) -> Iterator[str]:
        name, *pushed = (part.strip() for part in arguments.split(","))
        call = self.call(name)
        yield from self._checked(call, self.place(call, "", tuple(pushed)))

    def _call_window(self, name: str) -> Iterator[str]:
        yield from self._checked(self.call(name), iter([f"    call window_{name.lower()}"]))

    def _checked(self, call: IntEnum, site: Iterator[str]) -> Iterator[str]:
        """A site between two pictures of the registers, which are compared."""
        row = self.row(call)
        results = sum(1 << _REGISTERS.index(register) for register in row.results)
        yield from _save("before")
        yield f"    mov dword ptr [before + {4 * _FLAGS_AT}], {_FLAGS:#x}"
        yield "    pushfd"
        yield f"    or dword ptr [esp], {_FLAGS:#x}"
        yield "    popfd"
        yield from site
        yield "    pushfd"
        yield f"    pop dword ptr [after + {4 * _FLAGS_AT}]"
        yield from _save("after")
        yield f"    and dword ptr [after + {4 * _FLAGS_AT}], {_FLAGS:#x}"
        yield f"    mov dword ptr [result_mask], {results:#x}"
        yield f"    mov dword ptr [spoilt_mask], {_SPOILT[row.clobbers]:#x}"
        label = self._text(f'"{row.name}"')
        yield f"    mov dword ptr [call_name], {label}"
        yield "    call compare_registers"

    def _only_if_served(self, arguments: str) -> Iterator[str]:
        name, label = (part.strip() for part in arguments.split(","))
        yield from self.only_if_served(self.call(name), label)

    def _check(self, arguments: str) -> Iterator[str]:
        text, rest = self._split(arguments)
        got, wanted = (part.strip() for part in rest.rsplit(",", 1))
        for operand in (text, wanted, got):
            yield from push(operand)
        yield "    call check"
        yield "    lea esp, [esp + 12]"

    def _say(self, arguments: str) -> Iterator[str]:
        text, rest = self._split(arguments)
        values = [part.strip() for part in rest.split(",")] if rest else []
        for operand in (*reversed(values), text):
            yield from push(operand)
        yield "    call say"
        yield f"    lea esp, [esp + {4 * len(values) + 4}]"

    def _split(self, arguments: str) -> tuple[str, str]:
        match = _STRING.match(arguments)
        assert match is not None, arguments
        return self._text(match[1]), match[2]

    def _text(self, text: str) -> str:
        return self.texts.setdefault(text, f"text_{len(self.texts)}")


def push(operand: str) -> Iterator[str]:
    """PUSH; of a name, the assembler would make one of 16 bits."""
    if operand in _REGISTERS or operand.startswith("dword"):
        yield f"    push {operand}"
    else:
        yield "    .byte 0x68"
        yield f"    .long {operand}"


def _save(place: str) -> Iterator[str]:
    for index, register in enumerate(_REGISTERS):
        if register:
            yield f"    mov dword ptr [{place} + {4 * index}], {register}"


def _exception_stubs() -> Iterator[str]:
    for vector in range(32):
        yield ".p2align 4"
        if vector not in _WITH_ERROR:
            yield "    push 0"
        yield f"    push {vector}"
        yield "    jmp exception"
