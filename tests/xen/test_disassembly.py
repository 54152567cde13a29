# SPDX-License-Identifier: MIT
"""Is what the kernel and Xen enter, as a decoder reads it, the code of entry.S that was meant?

What they call is C, which is tested by its work; another compiler lays it out anew, so it has names
here.
"""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

from vmipatch.isa.decode import text_of
from vmipatch.vmi.calls import VmiCall
from vmipatch.xen.code import RomCode, rom_code

GOLDEN = Path(__file__).with_name("entries.txt")
"""A line for each entry: its name, and its code, with functions and variables by their names."""
TRAPS = ("hypercall", *(f"hook_{n}" for n in (0, 3, 6, 7, 8, 10, 11, 12, 13, 14)), "hooked",
         "resume", "upcall_entry", "failsafe_entry")  # fmt: skip
CELLS = ("hypercall_page", "shared")
"""Of which parts are used."""
CELL_LEN = 4096
LAST = ("ret", "jmp ")


def entries(rom: RomCode) -> dict[str, int]:
    """Address of each entry by name: calls in the order of the table, then the others."""
    start, end = (rom.symbols[name] - rom.start for name in ("calls_start", "calls_end"))
    rows = struct.iter_unpack("<II", rom.data[start:end])
    return {VmiCall(number).name: va for number, va in rows} | {n: rom.symbols[n] for n in TRAPS}


def line_of(rom: RomCode, name: str, va: int, end_va: int) -> str:
    """An entry as GOLDEN has it: up to the last instruction that goes elsewhere."""
    text = text_of(rom.data[va - rom.start : end_va - rom.start], va).split("; ")
    ends = [at for at, one in enumerate(text) if one.startswith(LAST)]
    kept = text[: ends[-1] + 1] if ends else text
    code = re.sub(
        r"0x[0-9A-F]+", lambda m: named(rom, int(m[0], 16), va, end_va) or m[0], "; ".join(kept)
    )
    return f"{name}: {code}"


def named(rom: RomCode, value: int, va: int, end_va: int) -> str:
    """The name of an address; empty for a number."""
    if va <= value < end_va:
        return f"+{value - va:#x}"
    if name := next((name for name, at in rom.symbols.items() if at == value and value), ""):
        return name
    for cell in CELLS:
        if 0 <= value - rom.symbols[cell] < CELL_LEN:
            return f"{cell}+{value - rom.symbols[cell]:#x}"
    return ""


def lines(rom: RomCode) -> list[str]:
    found = entries(rom)
    borders = sorted({*found.values(), rom.symbols["place"]})
    ends = dict(itertools.pairwise(borders))
    return [line_of(rom, name, va, ends[va]) for name, va in found.items()]


def test_entries_are_what_was_meant() -> None:
    text = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert lines(rom_code()) == [line for line in text if not line.startswith("#")]


def test_calls_of_entry_code_address_memory_by_the_stack_segment_alone() -> None:
    """Entry code calls them while DS is the process's."""
    hot = ("DISABLE_INTERRUPTS", "ENABLE_INTERRUPTS", "GET_INTERRUPT_MASK", "SET_INTERRUPT_MASK",
           "IRET", "HALT")  # fmt: skip
    for line in lines(rom_code()):
        if line.startswith(tuple(f"{name}:" for name in hot)):
            memory = re.findall(r"\[[^]]*\]", line)
            assert all(one.startswith(("[ss:", "[esp")) for one in memory), line
