# SPDX-License-Identifier: MIT
"""What does a ROM tell the hypervisor about itself? Its marks: words to fix up, code to rewind."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from vmipatch.errors import InputNotUnderstood
from vmipatch.vmi.shared import MARKS_SIGNATURE, RESTART_LEN, Restart, RomMark

_MARKS = struct.Struct("<IHHHHHH")
_WORD = struct.Struct("<H")
_RESTART = struct.Struct("<HHHH")
MARKS_LEN = _MARKS.size


@dataclass(frozen=True, slots=True)
class RestartRegion:
    """Code that an event must not interrupt, as offsets in the ROM; see Restart."""

    start_off: int
    end_off: int
    entry_off: int
    kind: Restart

    def pack(self) -> bytes:
        """The RESTART_LEN bytes of the region."""
        return _RESTART.pack(self.start_off, self.end_off, self.entry_off, self.kind)


@dataclass(frozen=True, slots=True)
class Marks:
    """Offsets in the ROM that the hypervisor has to know."""

    fixup_offs: tuple[int, ...] = ()
    """Words (u32) that hold physical addresses, to become linear ones at VMI_Init."""
    restarts: tuple[RestartRegion, ...] = ()
    iret_off: int = 0
    """The hardware iret of the IRET call; 0 if missing."""
    stack_off: int = 0
    """A word (u32) that is to hold minus the selector in SS; 0 if missing."""

    def pack(self, tables_off: int) -> tuple[bytes, bytes]:
        """The MARKS_LEN bytes of the header, and the tables that stand at `tables_off`."""
        fixups = b"".join(_WORD.pack(off) for off in self.fixup_offs)
        restarts = b"".join(region.pack() for region in self.restarts)
        head = _MARKS.pack(
            MARKS_SIGNATURE,
            tables_off,
            len(self.fixup_offs),
            tables_off + len(fixups),
            len(self.restarts),
            self.iret_off,
            self.stack_off,
        )
        return head, fixups + restarts


def parse_marks(rom: bytes) -> Marks | None:
    """The marks in a ROM image; None if it has none, as a ROM of somebody else.

    Raises InputNotUnderstood if they point outside the image or contradict themselves.
    """
    if len(rom) < RomMark.MARKS + MARKS_LEN:
        return None
    signature, *fields = _MARKS.unpack_from(rom, RomMark.MARKS)
    if signature != MARKS_SIGNATURE:
        return None
    fixups_off, fixup_count, restarts_off, restart_count, iret_off, stack_off = fields
    fixups = _slice(rom, fixups_off, fixup_count * _WORD.size)
    offs = tuple(off for (off,) in _WORD.iter_unpack(fixups))
    restarts = _slice(rom, restarts_off, restart_count * RESTART_LEN)
    regions = tuple(_region(row, len(rom)) for row in _RESTART.iter_unpack(restarts))
    _demand(all(off + 4 <= len(rom) for off in offs), "a word to fix up lies outside")
    _demand(iret_off < len(rom), "the iret lies outside")
    _demand(stack_off + 4 <= len(rom), "the word for the stack segment lies outside")
    return Marks(offs, regions, iret_off, stack_off)


def _region(row: Iterable[int], rom_len: int) -> RestartRegion:
    start, end, entry, kind = row
    _demand(start < end <= rom_len and entry < rom_len, "a restartable region lies outside")
    _demand(kind in set(Restart), f"a restartable region has the unknown kind {kind}")
    return RestartRegion(start, end, entry, Restart(kind))


def _slice(rom: bytes, off: int, length: int) -> bytes:
    _demand(off + length <= len(rom), "a table lies outside")
    return rom[off : off + length]


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise InputNotUnderstood(
            f"the marks of the ROM are wrong: {complaint}", hint="build it with `vmipatch rom`"
        )
