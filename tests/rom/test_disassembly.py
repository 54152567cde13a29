# SPDX-License-Identifier: MIT
"""Is every entry, as a decoder reads it, the code that was meant? The assembler has known bugs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmipatch.choices import Flavor
from vmipatch.isa.decode import text_of
from vmipatch.rom import Rom, build_rom
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Shared, Time

GOLDEN = Path(__file__).with_name("entries.txt")
"""One line an entry: flavour, call, code at address 0, with the names of cells and tables."""
LOOKUP_LEN = 256
LEA_OPERANDS = ("ecx*4", "ecx-5", "ecx-0x7FFFFFFF", "eax+ecx-0x200")
"""In brackets, but no memory."""


def lookups(rom: Rom) -> dict[int, str]:
    """The tables of the ROM by what is in them, and their addresses."""
    tables = {
        "bit1_of": bytes(value & 2 for value in range(LOOKUP_LEN)),
        "rpl1_of": bytes(v if v & 3 else v + 1 for v in range(LOOKUP_LEN)),
    }
    return {ROM_PA + rom.data.index(table): name for name, table in tables.items()}


def names(rom: Rom) -> dict[int, str]:
    """Names of absolute addresses."""
    known = {SHARED_PA + cell: f"shared.{cell.name}" for cell in Shared}
    known |= {TIME_PA + cell: f"time.{cell.name}" for cell in Time}
    halves = {va + 4: f"{name}+4" for va, name in known.items() if va + 4 not in known}
    low_bytes = {SHARED_PA + Shared.VIRTUAL_IF + 1: "shared.VIRTUAL_IF+1"}
    return known | halves | low_bytes | lookups(rom)


def code_of(rom: Rom, call: VmiCall) -> bytes:
    """The bytes of an entry, without the padding after it."""
    start = rom.entries[call]
    ends = [off for off in rom.entries.values() if off > start]
    behind_last = rom.data.find(b"\xcc", start)
    end = min(ends) if ends else behind_last if behind_last > 0 else start + 0x20
    return rom.data[start:end].rstrip(b"\xcc")


def line_of(rom: Rom, call: VmiCall) -> str:
    """An entry as GOLDEN has it."""
    known = names(rom) if rom.flavor is Flavor.PARAVIRT else {}
    if rom.flavor is Flavor.PARAVIRT:
        read_clock_off = rom.data.index(code_of(rom, VmiCall.RDTSC))
        known[(read_clock_off - rom.entries[call]) & 0xFFFFFFFF] = "read_clock"
    text = text_of(code_of(rom, call), 0)
    text = re.sub(r"0x[0-9A-F]+", lambda m: known.get(int(m[0], 16), m[0]), text)
    return f"{rom.flavor.value} {call.name}: {text}"


@pytest.mark.parametrize("flavor", [Flavor.NATIVE, Flavor.PARAVIRT])
def test_entries_are_what_was_meant(flavor: Flavor) -> None:
    rom = build_rom(flavor)
    expected = [
        line
        for line in GOLDEN.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"{flavor.value} ")
    ]
    assert [line_of(rom, call) for call in rom.entries] == expected


def test_trace_entries_are_native_entries_after_a_byte_for_the_port() -> None:
    native, trace = build_rom(Flavor.NATIVE), build_rom(Flavor.TRACE)
    for call in native.entries:
        prologue = bytes([0x50, 0xB0, call, 0xE6, 0xE9, 0x58])
        assert code_of(trace, call) == prologue + code_of(native, call)


def test_hot_entries_name_memory_by_stack_or_code_segment_only() -> None:
    """DS and ES are the user's in entry code."""
    rom = build_rom(Flavor.PARAVIRT)
    hot = (
        VmiCall.ENABLE_INTERRUPTS,
        VmiCall.DISABLE_INTERRUPTS,
        VmiCall.GET_INTERRUPT_MASK,
        VmiCall.SET_INTERRUPT_MASK,
        VmiCall.IRET,
    )
    for call in hot:
        operands = re.findall(r"\[([^\]]+)\]", text_of(code_of(rom, call), 0))
        addresses = [text for text in operands if text not in LEA_OPERANDS]
        assert all(text.startswith(("ss:", "cs:", "esp")) for text in addresses), call
