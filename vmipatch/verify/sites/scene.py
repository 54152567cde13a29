# SPDX-License-Identifier: MIT
"""What is around a site when it is executed? Tables, handlers and memory of our own.

All lies in conventional memory, which a kernel does not use before start_kernel, and is reached as
the kernel reaches it: through its own page tables at `base_va`. What loads the scene is code
of a guest, so that CPL 0 and CPL 1 come to it by the same instructions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.isa.assemble import Assembled, assemble

SCENE_PA: Final = 0x20000
TABLES_OFF, HANDLERS_OFF, CODE_OFF, PAGING_OFF = 0, 0x1000, 0x2000, 0x3000
OPERANDS_OFF, STACK_OFF, SCENE_LEN = 0x6000, 0x8000, 0xA000
"""One page each, but for operands and stack: two."""
STACK_LEN: Final = 0x800
"""The part of the stack's first page, at its end, that a state fills."""

GDT_OFF, IDT_OFF, TSS_OFF, REGISTERS_OFF, VALUES_OFF = 0, 0x100, 0xA00, 0xB00, 0xC00
HANDLER_LEN: Final = 16
VECTORS: Final = 256

KERNEL_CS, KERNEL_DS, USER_CS, USER_DS = 0x08, 0x10, 0x1B, 0x23
TASK, LDT, ODD_DS, OTHER_TASK, ABSENT_CS, ABSENT_TASK, ABSENT_LDT, BUSY_TASK = (
    0x28, 0x30, 0x3B, 0x40, 0x4B, 0x50, 0x58, 0x60,
)  # fmt: skip
ABSENT_DS, CODE_ALONE, ABSENT_SS = 0x6B, 0x73, 0x78
"""Data that is not present, code that cannot be read, and a stack of the kernel's not present."""
OTHER_SS: Final = 0x80
"""A stack of the kernel's, as good as KERNEL_DS, that the ROM has not been told of."""
BEYOND: Final = 0x100
ODD_BASE: Final = 0x34560
SYSENTER_CS: Final = KERNEL_CS
"""SYSEXIT wants the user's segments 16 and 24 after it."""
NULL_LDT: Final = 0

CONTROLS: Final = ("cr3", "cr4", "cr0", "cr2")
DEBUGS: Final = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
SELECTORS: Final = ("ds", "es", "fs", "gs", "ldt")
VALUES: Final = (*CONTROLS, *DEBUGS, *SELECTORS, "ss")
_MSRS: Final = (0x174, 0x175, 0x176)
_GDT_LEN = 0x88
_GATE = 0x8E00
_PUSH_AND_JUMP = struct.Struct("<BIBI")
_PUSH, _JUMP = 0x68, 0xE9


@dataclass(frozen=True, slots=True)
class Scene:
    """The scene as a kernel with low memory at `base_va` sees it."""

    base_va: int
    va: int = field(init=False)
    code: Assembled = field(init=False)
    """`load` brings everything about, `tell` stores debug registers; both end at `landing`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "va", (self.base_va + SCENE_PA) & 0xFFFFFFFF)
        object.__setattr__(self, "code", assemble(self._source(), self.va + CODE_OFF, name="scene"))

    @property
    def landing_va(self) -> int:
        """Where every run ends that does not reach the end of its site."""
        return self.code.labels["landing"]

    @property
    def target_va(self) -> int:
        """The target of returns to the kernel."""
        return self.code.labels["target"]

    @property
    def operands_va(self) -> int:
        """Memory operands."""
        return self.va + OPERANDS_OFF

    @property
    def stack_va(self) -> int:
        """The first byte of the stack that a state fills; as much again lies below it."""
        return self.va + STACK_OFF + PAGE_LEN - STACK_LEN

    @property
    def values_va(self) -> int:
        """The words named by VALUES."""
        return self.va + TABLES_OFF + VALUES_OFF

    def tables(self) -> bytes:
        """The page of tables as it is before a run, without values."""
        page = bytearray(PAGE_LEN)
        tss_va = self.va + TSS_OFF
        struct.pack_into(f"<{_GDT_LEN // 8}Q", page, GDT_OFF, *self._descriptors(tss_va))
        for vector in range(VECTORS):
            handler_va = self.va + HANDLERS_OFF + vector * HANDLER_LEN
            low, high = handler_va & 0xFFFF, handler_va & 0xFFFF0000
            struct.pack_into("<2I", page, IDT_OFF + 8 * vector, low | KERNEL_CS << 16, high | _GATE)
        struct.pack_into("<2I", page, TSS_OFF + 4, self.va + SCENE_LEN, KERNEL_DS)
        struct.pack_into("<H", page, TSS_OFF + 0x66, 0x68)
        struct.pack_into("<HI", page, REGISTERS_OFF, _GDT_LEN - 1, self.va + GDT_OFF)
        struct.pack_into("<HI", page, REGISTERS_OFF + 8, VECTORS * 8 - 1, self.va + IDT_OFF)
        return bytes(page)

    def handlers(self) -> bytes:
        """One for each vector: it pushes the vector and goes to the landing."""
        page = bytearray(VECTORS * HANDLER_LEN)
        for vector in range(VECTORS):
            at = vector * HANDLER_LEN
            behind_va = self.va + HANDLERS_OFF + at + _PUSH_AND_JUMP.size
            distance = self.landing_va - behind_va & 0xFFFFFFFF
            _PUSH_AND_JUMP.pack_into(page, at, _PUSH, vector, _JUMP, distance)
        return bytes(page)

    def _descriptors(self, tss_va: int) -> tuple[int, ...]:
        flat = 0x00CF00000000FFFF
        return (
            0,
            flat | 0x9B << 40,
            flat | 0x93 << 40,
            flat | 0xFB << 40,
            flat | 0xF3 << 40,
            _system(tss_va, 0x67, 0x89),
            _system(self.operands_va, 0xFFF, 0x82),
            flat | 0xF3 << 40 | (ODD_BASE & 0xFFFFFF) << 16,
            _system(tss_va, 0x67, 0x89),
            flat | 0x7B << 40,
            _system(tss_va, 0x67, 0x09),
            _system(self.operands_va, 0xFFF, 0x02),
            _system(tss_va, 0x67, 0x8B),
            flat | 0x73 << 40,
            flat | 0xF9 << 40,
            flat | 0x13 << 40,
            flat | 0x93 << 40,
        )

    def _source(self) -> str:
        tables_va = self.va + TABLES_OFF
        at = {name: self.values_va + 4 * i for i, name in enumerate(VALUES)}
        # As bytes: the assembler gives LGDT and LIDT an operand-size prefix, and 24 bits of base.
        lines = [
            "load:",
            f".byte 0x2e, 0x0f, 0x01, 0x15\n.long {tables_va + REGISTERS_OFF}",
            f".byte 0x2e, 0x0f, 0x01, 0x1d\n.long {tables_va + REGISTERS_OFF + 8}",
            f"mov ax, word ptr cs:[{at['ss']}]\nmov ss, ax",
            f"mov esp, {self.va + SCENE_LEN}",
            f"push {KERNEL_CS}\nmov eax, reloaded\npush eax\nretf\nreloaded:",
        ]
        for name in (*CONTROLS, *DEBUGS):
            lines.append(f"mov eax, dword ptr cs:[{at[name]}]\nmov {name}, eax")
        lines.append(f"mov ax, word ptr cs:[{at['ldt']}]\nlldt ax\nmov ax, {TASK}\nltr ax")
        for msr in _MSRS:
            value = SYSENTER_CS if msr == _MSRS[0] else 0
            lines.append(f"mov ecx, {msr}\nmov eax, {value}\nmov edx, 0\nwrmsr")
        for name in ("ds", "es", "fs", "gs"):
            lines.append(f"mov ax, word ptr cs:[{at[name]}]\nmov {name}, ax")
        lines.append("jmp landing\ntell:")
        for name in DEBUGS:
            lines.append(f"mov eax, {name}\nmov dword ptr ss:[{at[name]}], eax")
        lines.append("landing:\nnop\nnop\ntarget:\nnop\nnop")
        return "\n".join(lines)


def _system(base_va: int, limit: int, rights: int) -> int:
    """A descriptor of a TSS or LDT."""
    return limit | (base_va & 0xFFFFFF) << 16 | rights << 40 | (base_va >> 24) << 56
