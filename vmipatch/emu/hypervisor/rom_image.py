# SPDX-License-Identifier: MIT
"""Which ROM does the guest see, and what does it mean that EIP is in it?"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.memory import PAGE_LEN, Access, GuestMemory
from vmipatch.errors import InputNotUnderstood
from vmipatch.vmi.api13 import MAJOR_13
from vmipatch.vmi.marks import RestartRegion, parse_marks
from vmipatch.vmi.shared import ROM_MAX_LEN, ROM_PA, RomMark

_WORD_LEN: Final = 4


class GuestRom:
    """An option ROM at ROM_PA, of our own making."""

    def __init__(self, image: bytes) -> None:
        """Raise InputNotUnderstood for a ROM that this hypervisor cannot serve."""
        marks = parse_marks(image)
        if marks is None or not marks.iret_off:
            raise InputNotUnderstood(
                "the ROM is not made for this hypervisor", hint="build it with `vmipatch rom`"
            )
        if len(image) > ROM_MAX_LEN:
            raise InputNotUnderstood(
                f"the ROM has {len(image)} bytes", hint=f"there is room for {ROM_MAX_LEN}"
            )
        self._image = image
        self._marks = marks
        self.base_va = 0
        """Where low memory is mapped: the ROM is at base_va + ROM_PA."""

    @property
    def va(self) -> int:
        """Linear address of the image."""
        return (self.base_va + ROM_PA) & 0xFFFFFFFF

    @property
    def length(self) -> int:
        """Bytes of the image."""
        return len(self._image)

    def state_va(self, told: int) -> int:
        """Linear address of what SetInitialAPState names.

        The document of API 13 says a linear address, the patches of Linux pass a physical one: what
        is below the base of low memory is that.
        """
        if self._image[RomMark.API_MAJOR] == MAJOR_13 and told < self.base_va:
            return told + self.base_va
        return told

    def plug(self, memory: GuestMemory) -> None:
        """Put the image into a machine that is being built."""
        padding = bytes(-len(self._image) % PAGE_LEN)
        memory.plug(ROM_PA, self._image + padding, Access.READ_ONLY)

    def place(self, memory: GuestMemory, base_va: int, stack_selector: int) -> None:
        """Make the image ready for a kernel that sees low memory at `base_va`.

        `stack_selector` is in SS now, and has base 0.
        """
        image = bytearray(self._image)
        for off in self._marks.fixup_offs:
            word = int.from_bytes(image[off : off + _WORD_LEN], "little") + base_va
            image[off : off + _WORD_LEN] = (word & 0xFFFFFFFF).to_bytes(_WORD_LEN, "little")
        if off := self._marks.stack_off:
            image[off : off + _WORD_LEN] = (-stack_selector & 0xFFFFFFFF).to_bytes(
                _WORD_LEN, "little"
            )
        memory.load(ROM_PA, bytes(image))
        self.base_va = base_va

    def holds_pa(self, pa: int) -> bool:
        """Whether a physical address is the ROM's."""
        return ROM_PA <= pa < ROM_PA + len(self._image)

    def holds(self, va: int) -> bool:
        """Whether a linear address is the ROM's."""
        return 0 <= self._off(va) < len(self._image)

    def is_iret(self, va: int) -> bool:
        """Whether the hardware's IRET of the IRET call is there."""
        return self._off(va) == self._marks.iret_off

    def restart_at(self, va: int) -> RestartRegion | None:
        """The region around `va` that no event must interrupt."""
        off = self._off(va)
        for region in self._marks.restarts:
            if region.start_off <= off < region.end_off:
                return region
        return None

    def entry_va(self, region: RestartRegion) -> int:
        """Where the code of a region begins anew."""
        return (self.base_va + ROM_PA + region.entry_off) & 0xFFFFFFFF

    def _off(self, va: int) -> int:
        return va - ROM_PA - self.base_va & 0xFFFFFFFF
