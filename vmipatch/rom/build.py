# SPDX-License-Identifier: MIT
"""How the ROM's parts become an image of which BIOS, kernel and hypervisor each read theirs."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from vmipatch.choices import Flavor
from vmipatch.errors import AssemblyFailed
from vmipatch.isa.assemble import Assembled, assemble
from vmipatch.rom.entries import served_calls
from vmipatch.rom.header import SECTOR_LEN, RomHead, checksum_byte
from vmipatch.rom.source import constants, label, rom_source
from vmipatch.vmi.calls import API_MAJOR, API_MINOR, VmiCall
from vmipatch.vmi.marks import Marks, RestartRegion
from vmipatch.vmi.shared import ROM_MAX_LEN, ROM_PA, Restart

LICENSE = "GPL v2"
"""The licence that Linux insists on, and true: the sources are `GPL-2.0-only OR MIT`."""

SHIFT = 0x40000000
"""Assembled here and this much higher, absolute words differ in their last byte and no other."""
_IRET_ENTRY = "iret_again"
_COMPARISON, _COMPARED_AT = "iret_compares_stack", 2
"""The instruction that is fixed up, and where its displacement is."""
_IRET_REGIONS = (
    ("iret_if_stored", "iret_gives_up", Restart.IRET_ECX_SAVED),
    ("iret_gives_up", "iret_pops_ecx", Restart.IRET_FRAME),
    ("iret_pops_ecx", "hardware_iret", Restart.IRET_ECX_SAVED),
    ("hardware_iret", "iret_end", Restart.IRET_FRAME),
)
"""From the store of the frame's IF to the return, by labels of returns.S."""


@dataclass(frozen=True, slots=True)
class Rom:
    """An image, and where in it things are (offsets from its start)."""

    flavor: Flavor
    data: bytes = field(repr=False)
    entries: dict[VmiCall, int] = field(hash=False)
    """The calls it serves."""
    init_off: int
    get_reloc_off: int
    marks: Marks

    @property
    def fixups(self) -> tuple[int, ...]:
        """Words that hold physical addresses."""
        return self.marks.fixup_offs

    @property
    def restarts(self) -> tuple[RestartRegion, ...]:
        """Code that an event must not interrupt."""
        return self.marks.restarts


def build_rom(
    flavor: Flavor,
    *,
    api_major: int = API_MAJOR,
    api_minor: int = API_MINOR,
    license: str = LICENSE,
    virtual_top: int = 0,
    fail_init: bool = False,
    none: Set[VmiCall] = frozenset(),
    nop: Set[VmiCall] = frozenset(),
    jump: Set[VmiCall] = frozenset(),
) -> Rom:
    """A ROM of one flavour; the same arguments give the same bytes.

    The keywords make ROMs that a kernel has to cope with: another version or licence, a hole from
    `virtual_top` on, a VMI_Init that fails, calls answered NONE, NOP or JUMP_REL. Raises
    AssemblyFailed if the ROM cannot be made.
    """
    head = RomHead(f"VMI ROM ({flavor.value})", license, api_major, api_minor, virtual_top)
    source = rom_source(flavor, fail_init=fail_init, none=none, nop=nop, jump=jump)
    low, high = (
        assemble(
            source,
            ROM_PA + head.code_off + shift,
            symbols=constants(shift, fail_init=fail_init),
            name=f"{flavor.value} ROM",
        )
        for shift in (0, SHIFT)
    )
    marks = marks_of(head.code_off, low, high)
    off_of = {name: va - ROM_PA for name, va in low.labels.items()}
    entries = {call: off_of[label(call)] for call in served_calls(flavor) if call not in none | nop}
    tables_off = even(head.code_off + len(low.code))
    mark, tables = marks.pack(tables_off)
    tail = low.code.ljust(tables_off - head.code_off, b"\0") + tables
    init_off, get_reloc_off = off_of["init"], off_of["get_reloc"]
    data = image(
        lambda rom_len: head.pack(rom_len, mark, init_off, get_reloc_off), head.code_off, tail
    )
    return Rom(flavor, data, entries, init_off, get_reloc_off, marks)


def image(front_of: Callable[[int], bytes], code_off: int, tail: bytes) -> bytes:
    """A whole number of sectors with a sum of 0: what `front_of` their length, then `tail`.

    Raises AssemblyFailed if our hypervisor has no room for it.
    """
    end = code_off + len(tail) + 1
    rom_len = -(-end // SECTOR_LEN) * SECTOR_LEN
    if rom_len > ROM_MAX_LEN:
        raise AssemblyFailed(
            f"the ROM has {rom_len} bytes, {ROM_MAX_LEN} are its limit",
            hint="this is a bug of vmipatch",
        )
    data = bytearray(rom_len)
    front = front_of(rom_len)
    data[: len(front)] = front
    data[code_off : code_off + len(tail)] = tail
    data[-1] = checksum_byte(data)
    return bytes(data)


def marks_of(code_off: int, low: Assembled, high: Assembled) -> Marks:
    """The hypervisor's marks in the code that begins at `code_off`, `high` linked SHIFT higher."""
    fixups = tuple(code_off + off for off in _absolute_words(low.code, high.code))
    if "hardware_iret" not in low.labels:
        return Marks(fixups)
    off_of = {name: va - ROM_PA for name, va in low.labels.items()}
    restarts = tuple(
        RestartRegion(off_of[start], off_of[end], off_of[_IRET_ENTRY], kind)
        for start, end, kind in _IRET_REGIONS
    )
    stack_off = off_of[_COMPARISON] + _COMPARED_AT
    return Marks(fixups, restarts, off_of["hardware_iret"], stack_off)


def _absolute_words(low: bytes, high: bytes) -> list[int]:
    """Offsets of the words that moved with the code, `high` being `low` linked SHIFT higher."""
    words = [off - 3 for off, (a, b) in enumerate(zip(low, high, strict=True)) if a != b]
    for off in words:
        before, after = (int.from_bytes(code[off : off + 4], "little") for code in (low, high))
        if after - before != SHIFT:
            raise AssemblyFailed(
                f"the ROM's code at {off:#x} depends on its place",
                hint="this is a bug of vmipatch",
            )
    return words


def even(off: int) -> int:
    """The next even offset: tables hold words of 16 bits."""
    return off + (off & 1)
