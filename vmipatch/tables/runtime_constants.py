# SPDX-License-Identifier: MIT
"""runtime_ptr_* and kin: which instructions get a number of boot as their immediate operand.

arch/x86/include/asm/runtime-const.h, 6.11 and later: one s32 for each, from the word itself to the
operand in the instruction, which the kernel overwrites before anything runs there. Each variable
has a section of its own, `runtime_KIND_VARIABLE`, between two symbols (RUNTIME_CONST of
include/asm-generic/vmlinux.lds.h):

- `ptr`: `mov $0x89abcdef, %reg`, a pointer;
- `shift`: `shr $12, %reg`, a count of bits, one byte;
- `mask`: `and $0x12345678, %reg`.

A kernel has one table of all of them here: between its sections is filling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.layout import Draft, TableField, TableLayout, places
from vmipatch.tables.locate import Range, between, first_of, section
from vmipatch.tables.nops import any_of
from vmipatch.tables.source import ImageSource
from vmipatch.tables.table import Role, Table, TableName, WordForm
from vmipatch.tables.view import ImageView

PREFIX, START, STOP = "runtime_", "__start_", "__stop_"
REGISTERS = range(8)
_MOV = tuple(bytes((0xB8 + reg,)) for reg in REGISTERS)
_SHR = tuple(bytes((0xC1, 0xE8 + reg)) for reg in REGISTERS)
_AND = (*(bytes((0x81, 0xE0 + reg)) for reg in REGISTERS), bytes((0x25,)))


@dataclass(frozen=True, slots=True)
class _Constant:
    """One kind of operand."""

    kind: str
    """The beginning of its sections' names, after PREFIX."""
    instruction: str
    opcodes: tuple[bytes, ...]
    """The bytes before the operand."""
    placeholder: bytes
    """The operand as built."""

    def check(self, draft: Draft) -> None:
        """Each word must point to the placeholder in one of the instructions."""
        draft.require_own_code("operand")
        operand = draft.target("operand")
        length = len(self.placeholder)
        held = draft.view.bytes_at(operand, length)
        fits = np.zeros(len(operand), np.bool_)
        for opcode in self.opcodes:
            before = draft.view.bytes_at(operand - np.uint32(len(opcode)), len(opcode))
            fits |= any_of(before, (opcode,))
        fits &= any_of(held, (self.placeholder,))
        draft.require(fits, f"does not point to the operand of `{self.instruction}`", operand)

    @property
    def layout(self) -> TableLayout:
        """Of one section."""
        return TableLayout(
            "4 bytes: s32 operand",
            np.dtype([("operand", "<u4")]),
            (TableField("operand", WordForm.RELATIVE, Role.OPERAND),),
            self.check,
            lambda draft: places(draft.target("operand"), len(self.placeholder), Role.OPERAND),
        )


CONSTANTS = (
    _Constant("ptr_", "mov $0x89abcdef, %reg", _MOV, bytes.fromhex("efcdab89")),
    _Constant("shift_", "shr $12, %reg", _SHR, bytes((12,))),
    _Constant("mask_", "and $0x12345678, %reg", _AND, bytes.fromhex("78563412")),
)


@dataclass(frozen=True, slots=True)
class RuntimeConstantsKind:
    """The sections of all constants."""

    name: TableName = TableName.RUNTIME_CONSTANTS

    def parse(self, view: ImageView) -> Table | None:
        """The words of all sections, None if there are none.

        Raises MalformedTable if a word does not point to such an operand, or if a section is of
        a kind that is not known.
        """
        parts = [
            _constant(view.image, name, extent).layout.read(view, self.name, extent)
            for name, extent in _extents(view.image)
        ]
        if not parts:
            return None
        parts.sort(key=lambda part: part.start_va)
        return Table(
            name=self.name,
            layout=parts[0].layout,
            start_va=parts[0].start_va,
            end_va=max(part.end_va for part in parts),
            entries=np.concatenate([part.entries for part in parts]),
            words=np.concatenate([part.words for part in parts]),
            places=np.concatenate([part.places for part in parts]),
        )


def _extents(image: ImageSource) -> Iterator[tuple[str, Range]]:
    """Name and bytes of each section that has any, by its symbols or its header."""
    names = {name for name in image.section_by_name if name.startswith(PREFIX)}
    begin = START + PREFIX
    names |= {name[len(START) :] for name in image.symbols.by_name if name.startswith(begin)}
    for name in sorted(names):
        extent = first_of(between(START + name, STOP + name), section(name))(image)
        if extent is not None:
            yield name, extent


def _constant(image: ImageSource, name: str, extent: Range) -> _Constant:
    for each in CONSTANTS:
        if name.startswith(PREFIX + each.kind):
            return each
    raise MalformedTable(
        f"{name}: the kernel patches operands in a way that is newer than vmipatch knows",
        file=image.name,
        place=f"{extent.start_va:#x}",
        hint="report this kernel",
    )


RUNTIME_CONSTANTS = RuntimeConstantsKind()
