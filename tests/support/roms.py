# SPDX-License-Identifier: MIT
"""What should a ROM make of a rewritten kernel on a PC (at CPL 0)? Derived from the kernel's file.

The runtime's decisions (vmipatch/runtime/patch.S) made a second time, from the records alone.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vmipatch.image.elf import ElfImage
from vmipatch.rom import Rom
from vmipatch.rom.entries import TRACE_PORT
from vmipatch.tables.entry_text import entry_text
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    MERGE_FLAGS,
    NEAR_CALL_LEN,
    AnnotationRecord,
    unpack_records,
)

RECORDS = (".vmi.annotation", ".vmi.annotation.init")
THUNK_CALLS = ".vmi.thunks"
ADDED = ".vmi.text"
CODE = (".text", ".init.text", ADDED)
"""The sections that the runtime writes to."""
NOP = b"\x90"
NO_INDEX = 0x20
"""The index that makes index 0 (EAX) of a SIB byte index 4 (none)."""
NATIVE_AT_CPL0 = frozenset({VmiCall.IRET, VmiCall.READ_SEGMENT})
"""An IRET that faults must do so where the exception table looks for it; CS and SS tell no lies."""


def rom_arguments(rom: bytes, directory: Path) -> tuple[str, ...]:
    """QEMU's arguments for an option ROM, which is written to `directory`."""
    path = directory / f"{hashlib.sha256(rom).hexdigest()[:16]}.rom"
    path.write_bytes(rom)
    return "-option-rom", str(path)


def trace_arguments(path: Path) -> tuple[str, ...]:
    """QEMU's arguments to have every byte that a trace ROM writes in the file `path`."""
    return (
        *("-chardev", f"file,id=trace,path={path}"),
        *("-device", f"isa-debugcon,iobase={TRACE_PORT:#x},chardev=trace"),
    )


Code = dict[str, bytes]
"""The sections of CODE by name."""


def native_code(image: ElfImage) -> Code:
    """The code in memory when the runtime has done nothing."""
    return {name: image.section_bytes(image.section_by_name[name]) for name in CODE}


@dataclass(frozen=True)
class Patching:
    """A rewritten kernel after the runtime, on a ROM whose VMI_Init succeeds."""

    image: ElfImage
    rom: Rom

    @cached_property
    def records(self) -> tuple[AnnotationRecord, ...]:
        """All of them, those of init code too."""
        sections = (self.image.section_by_name[name] for name in RECORDS)
        data = b"".join(map(self.image.section_bytes, sections))
        return tuple(unpack_records(data))

    @cached_property
    def thunk_calls(self) -> tuple[tuple[int, VmiCall], ...]:
        """Address and number of each call that a thunk makes."""
        return tuple((va, VmiCall(call)) for va, call in self._thunk_table if call != MERGE_FLAGS)

    @cached_property
    def merges(self) -> tuple[int, ...]:
        """Where thunks put real flags and virtual interrupt flag together (`lea`)."""
        return tuple(va for va, call in self._thunk_table if call == MERGE_FLAGS)

    @cached_property
    def _thunk_table(self) -> tuple[tuple[int, int], ...]:
        table = self.image.section_bytes(self.image.section_by_name[THUNK_CALLS])
        return tuple((va, call) for va, call in struct.iter_unpack("<II", table))

    @cached_property
    def outside_entry_code(self) -> tuple[AnnotationRecord, ...]:
        """Sites that could become a call at CPL 0, where entry code keeps its instructions."""
        entry_va, entry_end_va = entry_text(self.image.symbols)
        return tuple(r for r in self.records if not entry_va <= r.native_va < entry_end_va)

    @cached_property
    def patched(self) -> tuple[AnnotationRecord, ...]:
        """The sites that become calls: the ROM serves all calls that they, or their thunks, make.

        The thunk of HLT asks whether interrupts are on; any other makes its record's call alone.
        """
        asks = set() if VmiCall.GET_INTERRUPT_MASK in self.rom.entries else {VmiCall.HALT}
        return tuple(
            record
            for record in self.outside_entry_code
            if record.call not in NATIVE_AT_CPL0
            and record.call in self.rom.entries
            and not (record.call in asks and record.call_off == FINAL_TRANSLATION)
        )

    @property
    def said(self) -> list[str]:
        """The runtime's messages."""
        totals = f"vmi: paravirtual, {len(self.patched)} of {len(self.records)} sites patched"
        refused = [call for _, call in self.thunk_calls if call not in self.rom.entries]
        if not refused:
            return [totals]
        first = f"vmi: ROM refuses call {int(refused[0])}, the first of {len(refused)} in thunks"
        return [totals, first]

    @cached_property
    def calls(self) -> tuple[tuple[int, VmiCall], ...]:
        """Address and number of every near call of the ROM: those of sites, those of thunks."""
        direct = (r for r in self.patched if r.call_off != FINAL_TRANSLATION)
        return (*((r.native_va + r.call_off, r.call) for r in direct), *self.thunk_calls)

    def code(self, rom_va: int) -> Code:
        """The code in memory when the runtime has patched, the ROM's copy being at `rom_va`."""
        return {name: self._section(name, rom_va) for name in CODE if name != ADDED} | {
            ADDED: self._added(rom_va)
        }

    def _section(self, name: str, rom_va: int) -> bytes:
        """Code with sites: the bytes in the file, and calls at the patched sites."""
        section = self.image.section_by_name[name]
        code = bytearray(self.image.section_bytes(section))
        for record in self.patched:
            if section.va <= record.native_va < section.end_va:
                at = record.native_va - section.va
                code[at : at + record.native_len] = self._site(record, rom_va)
        return bytes(code)

    def _site(self, record: AnnotationRecord, rom_va: int) -> bytes:
        """The bytes of a patched site, the ROM being at `rom_va`."""
        code = self.image.read(record.translation_va, record.translation_len)
        if record.call_off != FINAL_TRANSLATION:
            behind_off = record.call_off + NEAR_CALL_LEN
            target_va = rom_va + self.rom.entries[record.call]
            displacement = struct.pack("<i", target_va - record.native_va - behind_off)
            code = code[: record.call_off + 1] + displacement + code[behind_off:]
        else:
            (distance,) = struct.unpack_from("<i", code, 1)
            distance += record.translation_va - record.native_va
            code = code[:1] + struct.pack("<i", distance) + code[NEAR_CALL_LEN:]
        return code.ljust(record.native_len, NOP)

    def _added(self, rom_va: int) -> bytes:
        """Thunks and runtime: their calls aimed, their flags those of CPL 0, the ROM's copy."""
        section = self.image.section_by_name[ADDED]
        code = bytearray(self.image.section_bytes(section))
        for call_va, call in self.thunk_calls:
            if call in self.rom.entries:
                target_va = rom_va + self.rom.entries[call]
                at = call_va - section.va
                struct.pack_into("<i", code, at + 1, target_va - call_va - NEAR_CALL_LEN)
        for merge_va in self.merges:
            sib_off = merge_va - section.va + 2
            code[sib_off] |= NO_INDEX
            code[sib_off + 1 : sib_off + 5] = bytes(4)
        copy_off = rom_va - section.va
        code[copy_off : copy_off + len(self.rom.data)] = self.rom.data
        return bytes(code)
