# SPDX-License-Identifier: MIT
"""How does a test get a .bss whose zeros are in the file? As linkers do where bytes follow it."""

from __future__ import annotations

import struct

from tests.support.elfbuilder import SECTION_HEADER
from vmipatch.image.elf import SHOFF_AT, ElfImage
from vmipatch.image.types import SectionKind


def without_bytes(data: bytes, name: str) -> bytes:
    """The ELF file `data` with its section `name`, whose bytes stay, called NOBITS."""
    section = ElfImage.parse(data).section_by_name[name]
    (shoff,) = struct.unpack_from("<I", data, SHOFF_AT)
    at = shoff + SECTION_HEADER.size * section.index + 4
    return data[:at] + struct.pack("<I", SectionKind.NOBITS) + data[at + 4 :]
