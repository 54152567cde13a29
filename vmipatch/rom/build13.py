# SPDX-License-Identifier: MIT
"""How is a ROM of API 13 put together? Header, an entry of 32 bytes for each call, longer code.

| offset | what |
| --- | --- |
| 0x00 | option ROM, `cVmi` and version, as of API 3; no hole; in the private word the licence |
| 0x20 | three reserved slots: marks for our hypervisor, PCI and PnP headers, as of API 3 |
| 0x70 | in the paravirtual ROM: that the answers of API 3.1 are there, at 0x88 |
| 32 n | the entry of call n, 4 (VMI_Init) to 87 |
| then | longer code, tables of the marks, licence, manufacturer, product |

Layout: struct VROMHeader and VROMCallTable of the March 2006 patches (paravirtualInterface.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import partial

from vmipatch.choices import Flavor
from vmipatch.errors import AssemblyFailed
from vmipatch.isa.assemble import assemble
from vmipatch.rom.build import LICENSE, SHIFT, even, image, marks_of
from vmipatch.rom.header import PCI_OFF, PNP_OFF, SECTOR_LEN, pci_header, pnp_header, strings
from vmipatch.rom.slots import FIRST_SLOT, slot_constants, slot_label, slots_source
from vmipatch.vmi.api13 import MAJOR_13, MINOR_13, SLOT_LEN, Call13
from vmipatch.vmi.calls import API_MAJOR, API_MINOR
from vmipatch.vmi.marks import Marks
from vmipatch.vmi.shared import ANSWERS_SIGNATURE, ROM_PA, RomMark

_ROM = struct.Struct("<HB4sx4sBBxxxxxxxxHHHxxxx")
_FAR_RETURN = b"\xcb"
_ANSWERS = struct.pack("<IBB", ANSWERS_SIGNATURE, API_MINOR, API_MAJOR)
_CODE_OFF = FIRST_SLOT * SLOT_LEN


@dataclass(frozen=True, slots=True)
class Rom13:
    """An image of API 13, and the marks in it."""

    flavor: Flavor
    data: bytes = field(repr=False)
    marks: Marks

    @property
    def entries(self) -> dict[Call13, int]:
        """Where each call is, as an offset: the interface says so."""
        return {call: call * SLOT_LEN for call in Call13}

    @property
    def fixups(self) -> tuple[int, ...]:
        """Words that hold physical addresses."""
        return self.marks.fixup_offs


def build_rom_13(
    flavor: Flavor,
    *,
    api_major: int = MAJOR_13,
    api_minor: int = MINOR_13,
    fail_init: bool = False,
) -> Rom13:
    """A ROM of API 13 of one flavour; the same arguments give the same bytes.

    The keywords make ROMs that a kernel has to cope with: another version, a VMI_Init that fails.
    Raises AssemblyFailed if the ROM cannot be made.
    """
    source = slots_source(flavor, fail_init=fail_init)
    low, high = (
        assemble(
            source,
            ROM_PA + _CODE_OFF + shift,
            symbols=slot_constants(shift, fail_init=fail_init),
            name=f"{flavor.value} ROM of API 13",
        )
        for shift in (0, SHIFT)
    )
    for call in Call13:
        if low.labels[slot_label(call)] != ROM_PA + call * SLOT_LEN:
            raise AssemblyFailed(
                f"the entry of {call.name} is not at its place", hint="this is a bug of vmipatch"
            )
    marks = marks_of(_CODE_OFF, low, high)
    tables_off = even(_CODE_OFF + len(low.code))
    mark, tables = marks.pack(tables_off)
    texts = strings(LICENSE, f"VMI ROM of API 13 ({flavor.value})")
    tail = low.code.ljust(tables_off - _CODE_OFF, b"\0") + tables + b"".join(texts)
    answers = _ANSWERS if flavor is Flavor.PARAVIRT else b""
    front = partial(
        _header, (api_minor, api_major), mark, answers, tables_off + len(tables),
        list(map(len, texts)),
    )  # fmt: skip
    return Rom13(flavor, image(front, _CODE_OFF, tail), marks)


def _header(
    version: tuple[int, int],
    mark: bytes,
    answers: bytes,
    strings_off: int,
    lengths: list[int],
    rom_len: int,
) -> bytes:
    """The bytes in front of the first slot; `version` is minor, major."""
    out = bytearray(_CODE_OFF)
    sectors = rom_len // SECTOR_LEN
    _ROM.pack_into(
        out, 0, 0xAA55, sectors, _FAR_RETURN, b"cVmi", *version, strings_off, PCI_OFF, PNP_OFF
    )
    manufacturer_off = strings_off + lengths[0]
    for off, data in (
        (RomMark.MARKS, mark),
        (RomMark.ANSWERS, answers),
        (PCI_OFF, pci_header(sectors)),
        (PNP_OFF, pnp_header(manufacturer_off, manufacturer_off + lengths[1])),
    ):
        out[off : off + len(data)] = data
    return bytes(out)
