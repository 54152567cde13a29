# SPDX-License-Identifier: MIT
"""Does another library find the same headers in an ELF file? lief, for the proof.

Headers are read in image/elf.py. What a defect there made of a file must not be proven by the
same defect: the proof asks lief, as it decodes code with another library than the scan.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import lief

from vmipatch.image.elf import (
    ELF_HEADER_LEN,
    NAMES_INDEX_AT,
    PHOFF_AT,
    SECTION_HEADER_LEN,
    SEGMENT_HEADER_LEN,
    ElfImage,
)

_NAMES_OFF_AT = 16
"""Of sh_offset in Elf32_Shdr (System V ABI, chapter 4)."""
SECTION_FIELDS = {
    "name": "name",
    "va": "virtual_address",
    "size": "size",
    "link": "link",
    "info": "information",
    "align": "alignment",
    "entry_len": "entry_size",
}
"""Fields of a section header that are compared: our name, and lief's."""
SEGMENT_FIELDS = {
    "off": "file_offset",
    "va": "virtual_address",
    "pa": "physical_address",
    "file_len": "physical_size",
    "mem_len": "virtual_size",
    "align": "alignment",
}
"""The same for a program header."""

lief.logging.disable()


def header_differences(image: ElfImage) -> Iterator[str]:
    """How lief reads the headers of `image` otherwise, a sentence each; nothing where it agrees."""
    binary = lief.ELF.parse(_headers_alone(image), _headers_only())
    if not isinstance(binary, lief.ELF.Binary):
        yield "lief finds no ELF file"
        return
    counted = (len(image.sections), len(image.segments))
    found = (len(binary.sections), len(binary.segments))
    if counted != found:
        yield f"lief finds {found[0]} sections and {found[1]} segments, not {counted}"
        return
    if binary.entrypoint != image.entry:
        yield f"lief reads e_entry as {binary.entrypoint:#x}, not {image.entry:#x}"
    for what, ours, theirs, fields in (
        ("section", image.sections, binary.sections, SECTION_FIELDS),
        ("segment", image.segments, binary.segments, SEGMENT_FIELDS),
    ):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            for name, their_name in fields.items():
                read, said = getattr(one, name), getattr(other, their_name)
                if read != said:
                    yield f"lief reads {name} of {what} {index} as {said!r}, not {read!r}"


def _headers_only() -> lief.ELF.ParserConfig:
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symtab_symbols = False
    config.parse_dyn_symbols = False
    config.parse_symbol_versions = False
    config.parse_notes = False
    config.parse_overlay = False
    return config


def _headers_alone(image: ElfImage) -> bytes:
    """A file of the header tables and the names of sections: lief copies all that it is given."""
    data = image.data
    phoff, shoff = struct.unpack_from("<2I", data, PHOFF_AT)
    (names_index,) = struct.unpack_from("<H", data, NAMES_INDEX_AT)
    segments_end = ELF_HEADER_LEN + SEGMENT_HEADER_LEN * len(image.segments)
    result = bytearray(data[:ELF_HEADER_LEN])
    struct.pack_into("<2I", result, PHOFF_AT, ELF_HEADER_LEN, segments_end)
    result += data[phoff : phoff + SEGMENT_HEADER_LEN * len(image.segments)]
    result += data[shoff : shoff + SECTION_HEADER_LEN * len(image.sections)]
    if image.sections:
        at = segments_end + SECTION_HEADER_LEN * names_index + _NAMES_OFF_AT
        names_off, names_len = struct.unpack_from("<2I", result, at)
        struct.pack_into("<I", result, at, len(result))
        result += data[names_off : names_off + names_len]
    return bytes(result)
