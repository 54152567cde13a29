# SPDX-License-Identifier: MIT
"""What do the guest's `.S` files say? Sections, symbols and exception-table entries.

The dialect, one statement a line, `#` starts a comment:

    #define NAME value          a constant, replaced as text in the files that follow
    SECTION(.text)              what follows belongs there
    FUNC(name) ... END(name)    a global function, 16-byte aligned; FUNC(name, 8) otherwise
    OBJECT(name, 4) ... END(name)   a global object, aligned as said
    GLOBAL(name)                a global label without a type
    jmp_near name               a jump of five bytes whatever the distance
    EX(fixup) insn              if insn faults, go on at the label `fixup`
    EX_NEXT insn                if insn faults, go on after it with EAX = vector
    REPORT("cli: if=%x", ebx)   print a line; %x is hexadecimal, %y yes or no
    USER_TEXT(ebx, "text")      EBX = address of the text, by position-independent code
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from examples.guest.spelling import respell
from vmipatch.errors import AssemblyFailed

STT_NOTYPE, STT_OBJECT, STT_FUNC = range(3)


class ExKind(enum.IntEnum):
    """Type of an exception-table entry (Linux 6.1, asm/extable_fixup_types.h)."""

    DEFAULT = 1
    FAULT = 2  # also puts the vector into EAX


@dataclass(frozen=True, slots=True)
class ExEntry:
    """One row of __ex_table, by labels."""

    insn: str
    fixup: str
    kind: ExKind


@dataclass(frozen=True, slots=True)
class Declared:
    """A global name of the sources; it ends at the label `end`, or has no size."""

    name: str
    kind: int
    end: str | None


@dataclass(slots=True)
class Program:
    """All sources, sorted into sections and reduced to what the assembler understands."""

    sections: dict[str, list[str]] = field(default_factory=dict)
    declared: dict[str, Declared] = field(default_factory=dict)
    ex_entries: list[ExEntry] = field(default_factory=list)
    invented: set[str] = field(default_factory=set)
    """Labels that serve the build and do not become symbols."""
    calls: dict[str, str] = field(default_factory=dict)
    """Invented label of each call and `jmp_near` -> its target."""

    def text_of(self, section: str) -> str:
        """The assembly source of one section."""
        return "\n".join(self.sections[section])


_DEFINE = re.compile(r"#define\s+(\w+)\s+(.+?)\s*(?:#.*)?$")
_CALL = re.compile(r"^(SECTION|FUNC|END|OBJECT|GLOBAL|REPORT|USER_TEXT)\((.*)\)\s*(?:#.*)?$")
_EX = re.compile(r"^EX\((\w+)\)\s+(.+)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WORD = re.compile(r"[A-Za-z_]\w*")
_BRANCH = re.compile(r"^(call|jmp_near)\s+(?!e[a-d]x|e[sd]i|ebp)([A-Za-z_]\w*)\s*(?:#.*)?$")
_STRINGS = ".rodata"
CODE = (".text", ".init.text")
"""Sections of kernel code; user code is data in .rodata."""


def read_program(
    files: Iterable[tuple[str, str]], homes: Mapping[str, str] = MappingProxyType({})
) -> Program:
    """Read `(name, text)` of each source, in order; `homes` has other names for some sections.

    Raises AssemblyFailed, naming file and line, if a statement cannot be read.
    """
    reader = _Reader(homes)
    for name, text in files:
        reader.section = None
        for number, line in enumerate(text.splitlines(), 1):
            try:
                reader.statement(line.strip())
            except ValueError as error:
                raise AssemblyFailed(str(error), file=name, place=f"line {number}") from error
    reader.finish()
    return reader.program


class _Reader:
    """Where the reading of the sources stands."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self.program = Program()
        self.homes = homes
        self.section: str | None = None
        self.constants: dict[str, str] = {}
        self.macros: list[str] = []
        self.in_macro = False
        self.strings: dict[str, str] = {}
        self.kinds: dict[str, int] = {}

    def statement(self, line: str) -> None:
        """Take in one stripped line."""
        if define := _DEFINE.match(line):
            self.constants[define[1]] = self.expand(define[2])
        elif line.startswith("#") or not line:
            return
        elif line.startswith(".macro") or self.in_macro:
            self.in_macro = not line.startswith(".endm")
            self.macros += respell(self.expand(line))
        elif call := _CALL.match(line):
            getattr(self, f"do_{call[1].lower()}")(*_arguments(call[2]))
        elif line.startswith("EX_NEXT "):
            self.ex_next(line.removeprefix("EX_NEXT "))
        elif match := _EX.match(line):
            self.guard(match[2], match[1], ExKind.DEFAULT)
        else:
            self.emit(line)

    def expand(self, line: str) -> str:
        """`line` with the constants put in."""
        return _WORD.sub(lambda m: self.constants.get(m[0], m[0]), line)

    def emit(self, *lines: str) -> None:
        """Add assembler lines to the current section."""
        if self.section is None:
            raise ValueError("a statement stands before the first SECTION()")
        for line in lines:
            text = self.expand(line)
            if self.section in CODE and (branch := _BRANCH.match(text)):
                self.branch(branch[1], branch[2])
            else:
                self.program.sections[self.section] += respell(text)

    def branch(self, mnemonic: str, target: str) -> None:
        """A near branch of five bytes, of which gas would leave a relocation."""
        label = self.invent(f"branch_{len(self.program.calls)}")
        self.program.calls[label] = target
        self.program.sections[self.section or ""] += [f"{label}:", f"{mnemonic} {target}"]

    def invent(self, label: str) -> str:
        """Note a label that must not become a symbol."""
        self.program.invented.add(label)
        return label

    def guard(self, insn: str, fixup: str, kind: ExKind) -> None:
        """Emit `insn` with an exception-table entry."""
        label = self.invent(f"ex_insn_{len(self.program.ex_entries)}")
        self.program.ex_entries.append(ExEntry(label, fixup, kind))
        self.emit(f"{label}:", insn)

    def ex_next(self, insn: str) -> None:
        """A faulting `insn` goes on after itself, with EAX = vector."""
        fixup = self.invent(f"ex_next_{len(self.program.ex_entries)}")
        self.guard(insn, fixup, ExKind.FAULT)
        self.emit(f"{fixup}:")

    def do_section(self, name: str) -> None:
        self.section = self.homes.get(name, name)
        self.program.sections.setdefault(self.section, [])

    def declare(self, name: str, kind: int, end: str | None) -> None:
        if name in self.program.declared:
            raise ValueError(f"{name} is defined twice")
        self.program.declared[name] = Declared(name, kind, end)

    def do_func(self, name: str, align: str = "16") -> None:
        self.declare(name, STT_FUNC, self.invent(f"end_of_{name}"))
        self.emit(f".balign {align}, 0xcc", f"{name}:")

    def do_object(self, name: str, align: str) -> None:
        self.declare(name, STT_OBJECT, self.invent(f"end_of_{name}"))
        self.emit(f".balign {align}, 0", f"{name}:")

    def do_end(self, name: str) -> None:
        self.emit(f"end_of_{name}:")

    def do_global(self, name: str) -> None:
        self.declare(name, STT_NOTYPE, None)
        self.emit(f"{name}:")

    def do_report(self, text: str, *values: str) -> None:
        """Push the values and the text for `report`, which cleans nothing up."""
        label = self.strings.setdefault(_unquote(text) + "\n", f"text_{len(self.strings)}")
        self.invent(label)
        self.emit(*(f"push {_operand(value)}" for value in reversed(values)))
        self.emit(f"push {label}", "call report", f"add esp, {4 * (1 + len(values))}")

    def do_user_text(self, register: str, text: str) -> None:
        label = f".Luser_text_{len(self.strings)}_{len(self.program.sections[_STRINGS])}"
        self.emit(f"call {label}", _bytes(_unquote(text)), f"{label}:", f"pop {register}")

    def finish(self) -> None:
        """Append the texts, and put the macros in front of each section."""
        strings = self.program.sections.setdefault(_STRINGS, [])
        for text, label in self.strings.items():
            strings += [f"{label}:", _bytes(text)]
        for section, lines in self.program.sections.items():
            self.program.sections[section] = [*self.macros, *_with_near_jumps(lines)]


def _with_near_jumps(lines: list[str]) -> Iterator[str]:
    """Spell each `jmp_near`: the assembler shortens what stays inside of a section."""
    inside = {line[:-1] for line in lines if line.endswith(":")}
    for line in lines:
        target = line.removeprefix("jmp_near ")
        if target == line:
            yield line
        elif target in inside:
            yield f".byte 0xe9\n.long {target} - . - 4"
        else:
            yield f"jmp {target}"


def _arguments(text: str) -> list[str]:
    """Split at the commas outside of quotes."""
    parts = re.findall(r'"(?:[^"\\]|\\.)*"|[^,"\s][^,"]*', text)
    return [part.strip() for part in parts]


def _unquote(text: str) -> str:
    match = _STRING.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is not a text in quotes")
    return match[1]


def _bytes(text: str) -> str:
    """A NUL-terminated text as numbers, since the assembler front end sees a comment in `#`."""
    return ".byte " + ", ".join(str(octet) for octet in (*text.encode("ascii"), 0))


def _operand(value: str) -> str:
    return f"dword ptr {value}" if value.startswith("[") else value
