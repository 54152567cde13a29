# SPDX-License-Identifier: MIT
"""Where the guest's sections come to lie, and which words of them are references.

The assembler emits no relocations. They are found by assembling a section again: once with
every outside symbol moved by an odd distance of its own, once with the section itself moved by
2 MiB. A word that follows is a reference, and by how much it follows says to what.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from examples.guest.source import STT_NOTYPE, Program
from vmipatch.errors import AssemblyFailed
from vmipatch.image.relocations import R_386_32, R_386_PC32
from vmipatch.isa.assemble import Assembled, assemble

PAGE_LEN = 4096
PAGE_OFFSET = 0xC0000000
EX_TABLE = "__ex_table"
INIT_TEXT = ".init.text"
SHIFT_LEN = 0x200000


@dataclass(frozen=True, slots=True)
class Place:
    """One row of the linker script."""

    name: str
    align: int
    writable: bool = False
    executable: bool = False
    has_bytes: bool = True
    bounds: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Symbols at its begin and at its end."""


PLACES = (
    Place(".text", PAGE_LEN, executable=True, bounds=(("_text", "_stext"), ("_etext",))),
    Place(".rodata", PAGE_LEN, bounds=(("__start_rodata",), ())),
    Place(
        EX_TABLE, 4, bounds=(("__start___ex_table",), ("__stop___ex_table", "__end_rodata"))
    ),
    Place(".data", PAGE_LEN, writable=True, bounds=(("_sdata",), ("_edata",))),
    Place(INIT_TEXT, PAGE_LEN, executable=True, bounds=(("_sinittext",), ("_einittext",))),
    Place(".init.data", PAGE_LEN, writable=True, bounds=((), ("__init_end",))),
    Place(
        ".bss", PAGE_LEN, writable=True, has_bytes=False,
        bounds=(("__bss_start",), ("__bss_stop", "_end")),
    ),
)  # fmt: skip
"""The order of arch/x86/kernel/vmlinux.lds.S."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A relocation: the word at `va` refers to `symbol` (a section's name: its symbol)."""

    va: int
    kind: int
    symbol: str


@dataclass(frozen=True, slots=True)
class LinkedSymbol:
    """A named address; `size` is 0 for plain labels."""

    name: str
    va: int
    size: int
    kind: int
    section: str
    is_global: bool


@dataclass(frozen=True, slots=True)
class LinkedSection:
    """A section at its place."""

    place: Place
    va: int
    code: bytes
    references: tuple[Reference, ...]

    @property
    def end_va(self) -> int:
        """First address after the section."""
        return self.va + len(self.code)


@dataclass(frozen=True, slots=True)
class LinkedProgram:
    """The linked program."""

    sections: tuple[LinkedSection, ...]
    symbols: tuple[LinkedSymbol, ...]

    def address(self, name: str) -> int:
        """The value of a symbol. Raises KeyError if missing."""
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol.va
        raise KeyError(name)


def link(program: Program, base_va: int, places: Sequence[Place] = PLACES) -> LinkedProgram:
    """Lay the sections of `program` out from `base_va` on and resolve all references.

    Raises AssemblyFailed for what the assembler refuses and for an undefined symbol.
    """
    linker = _Linker(program, base_va, places)
    sections = tuple(linker.linked(place) for place in places)
    return LinkedProgram(sections, tuple(linker.symbols()))


class _Linker:
    """Addresses of everything, found by a first assembly with guessed outside symbols."""

    def __init__(self, program: Program, base_va: int, places: Sequence[Place]) -> None:
        self.program, self.places = program, places
        self.names = self._names()
        guess = dict.fromkeys(itertools.chain(*self.names.values()), base_va + 0x345678)
        self.va: dict[str, int] = {}
        self.home = {name: section for section, names in self.names.items() for name in names}
        self.values: dict[str, int] = {}
        at = base_va
        for place in places:
            at += -at % place.align
            self.va[place.name] = at
            draft = self._draft(place, at, guess)
            self.values |= draft.labels
            for bound, names in zip((at, at + len(draft.code)), place.bounds, strict=True):
                self.values |= dict.fromkeys(names, bound)
            at += len(draft.code)
        if INIT_TEXT in self.va:  # init memory is given back by the page
            self.values["__init_begin"] = self.va[INIT_TEXT]
            self.values["__init_end"] += -self.values["__init_end"] % PAGE_LEN
        self.code = {place.name: self._assembled(place).code for place in places}

    def _names(self) -> dict[str, list[str]]:
        """Names that each section defines: its labels and the bounds given to it."""
        names: dict[str, list[str]] = {}
        for place in self.places:
            names[place.name] = [name for bound in place.bounds for name in bound]
            if place.name != EX_TABLE:
                lines = self.program.sections.setdefault(place.name, [])
                names[place.name] += [x[:-1] for x in lines if x.endswith(":") and x[0] != "."]
        if INIT_TEXT in names:
            names[INIT_TEXT].append("__init_begin")
        return names

    def _draft(self, place: Place, va: int, guess: Mapping[str, int]) -> Assembled:
        if place.name == EX_TABLE:
            return Assembled(va, bytes(12 * len(self.program.ex_entries)), {})
        return self._assemble(place, va, guess)

    def _assemble(self, place: Place, va: int, values: Mapping[str, int]) -> Assembled:
        """Assemble a section with the values of what it uses and does not define."""
        source = self.program.text_of(place.name)
        labels = {line[:-1] for line in self.program.sections[place.name] if line.endswith(":")}
        outside = {name: value for name, value in values.items() if name not in labels}
        return assemble(source, va, symbols=outside, name=place.name)

    def _assembled(self, place: Place) -> Assembled:
        """The final bytes of a section."""
        va = self.va[place.name]
        if place.name == EX_TABLE:
            return Assembled(va, self._ex_table(va), {})
        final = self._assemble(place, va, self.values)
        moved = [name for name, value in final.labels.items() if self.values[name] != value]
        if moved:
            raise AssemblyFailed(f"{moved[0]} moved between two passes", place=place.name)
        return final

    def _ex_table(self, va: int) -> bytes:
        """The rows of __ex_table (Linux 6.1: insn - ., fixup - ., type), sorted by insn."""
        rows = sorted(
            (self.values[entry.insn], self.values[entry.fixup], entry.kind)
            for entry in self.program.ex_entries
        )
        words = (
            (insn - (va + 12 * i), fixup - (va + 12 * i + 4), kind)
            for i, (insn, fixup, kind) in enumerate(rows)
        )
        return b"".join(struct.pack("<iiI", *row) for row in words)

    def linked(self, place: Place) -> LinkedSection:
        """A section with its references."""
        va, code = self.va[place.name], self.code[place.name]
        if place.name == EX_TABLE:
            return LinkedSection(place, va, code, ())
        found = sorted(self._references(place, code), key=lambda r: r.va)
        if place.executable:
            ends = [self.values[d.end] for d in self.program.declared.values() if d.end]
            starts = [self.values[d.name] for d in self.program.declared.values()]
            code = _with_nops(code, va, starts, ends)
        return LinkedSection(place, va, code, tuple(found))

    def _references(self, place: Place, code: bytes) -> Iterator[Reference]:
        """All words of `code` that depend on where something lies."""
        va = self.va[place.name]
        distances = {2 * i + 0x10001: name for i, name in enumerate(self.values)}
        moved = {name: self.values[name] + by for by, name in distances.items()}
        outside = dict(_differences(code, self._assemble(place, va, moved).code, 0))
        shifted = self._assemble(place, va + SHIFT_LEN, self.values).code
        for at, by in _differences(code, shifted, 2):
            is_pc32 = by == -SHIFT_LEN
            if is_pc32 != (at in outside) or by not in (SHIFT_LEN, -SHIFT_LEN):
                raise AssemblyFailed(f"no reference is known like that at {va + at:#x}")
            if not is_pc32:
                value = int.from_bytes(code[at : at + 4], "little")
                yield Reference(va + at, R_386_32, self._symbol_at(value, place))
            else:
                yield Reference(va + at, R_386_PC32, self._symbol_of(distances[outside[at]]))
                del outside[at]
        for label, target in self.program.calls.items():
            if self.home[label] == self.home[target] == place.name:
                yield Reference(self.values[label] + 1, R_386_PC32, self._symbol_of(target))
        for at, by in outside.items():
            yield Reference(va + at, R_386_32, self._symbol_of(distances[by]))

    def _symbol_of(self, name: str) -> str:
        """The symbol that ld would write for `name`: local labels are section plus addend."""
        is_bound = name not in self.program.declared and any(
            name in names for place in self.places for names in place.bounds
        )
        is_global = name in self.program.declared or is_bound or name == "__init_begin"
        return name if is_global else self.home[name]

    def _symbol_at(self, value: int, place: Place) -> str:
        """The global symbol of `place` at `value`, else the section itself."""
        names = self.program.declared
        return next(
            (n for n in names if self.values[n] == value and self.home[n] == place.name),
            place.name,
        )

    def symbols(self) -> Iterator[LinkedSymbol]:
        """Every symbol: labels of the sources and bounds of the sections."""
        for name, va in self.values.items():
            if name in self.program.invented:
                continue
            section, declared = self.home[name], self.program.declared.get(name)
            if declared is None:
                yield LinkedSymbol(name, va, 0, STT_NOTYPE, section, self._symbol_of(name) == name)
                continue
            size = self.values[declared.end] - va if declared.end else 0
            yield LinkedSymbol(name, va, size, declared.kind, section, True)


def _differences(before: bytes, after: bytes, lowest: int) -> Iterator[tuple[int, int]]:
    """Offset and signed change of each word that differs; byte `lowest` of it always does."""
    if len(before) != len(after):
        raise AssemblyFailed("the length of a section depends on where its symbols lie")
    at, length = 0, len(before)
    while at < length:
        if before[at] == after[at]:
            at += 1
            continue
        start = at - lowest
        old, new = (struct.unpack_from("<I", data, start)[0] for data in (before, after))
        yield start, (new - old + 0x80000000) % 0x100000000 - 0x80000000
        at = start + 4


NOPS = {
    1: "90",
    2: "89f6",
    3: "8d7600",
    4: "8d742600",
    5: "2e8d742600",
    6: "8db600000000",
    7: "8db42600000000",
}
"""The bytes that gas pads i386 code with: no 0F 1F, which a plain i386 does not have."""


def _with_nops(code: bytes, va: int, starts: list[int], ends: list[int]) -> bytes:
    """`code` with the int3 between the functions replaced by nops, as gas leaves them."""
    padded = bytearray(code)
    inside = [end for end in ends if va <= end < va + len(code)]
    for end in inside:
        start = min((s for s in starts if s >= end), default=0) - va
        gap = start - (end - va)
        if 0 < gap < 16 and set(padded[end - va : start]) == {0xCC}:
            pieces = [7] * (gap // 7) + [gap % 7] * bool(gap % 7)
            padded[end - va : start] = bytes.fromhex("".join(NOPS[n] for n in pieces))
    return bytes(padded)
