# SPDX-License-Identifier: MIT
"""What of a kernel file is of use to those who do not read debug information?

A distribution's vmlinux is nine tenths DWARF, which would be held in memory by every process that
looks at the kernel.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.types import Trimmed

OFFSET_IN_HEADER = 16
"""Where sh_offset and sh_size are in a section header."""
ALIGNMENT = 4


def without_debug(image: ElfImage) -> ElfImage:
    """`image` with its debug sections emptied, all else of every section as it was.

    The result knows what the file was. The image itself, if it has no debug sections, or if
    something that is loaded follows them.
    """
    debug = [s for s in image.sections if s.is_debug and s.has_bytes and s.size]
    cut_off = min((s.off for s in debug), default=len(image.data))
    loaded = [s.off + s.size for s in image.allocated_sections if s.has_bytes]
    loaded += [s.off + s.file_len for s in image.segments]
    if not debug or max(loaded, default=0) > cut_off:
        return image
    whole = memoryview(image.data)
    kept = bytearray(whole[:cut_off])
    (shoff,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    headers = bytearray(image.data[shoff : shoff + SECTION_HEADER_LEN * len(image.sections)])
    for section in image.sections:
        off, size = section.off, section.size
        if section.is_debug:
            off, size = cut_off, 0
        elif section.has_bytes and section.off + section.size > cut_off:
            off = len(kept)
            kept += whole[section.off : section.off + section.size]
            kept += bytes(-len(kept) % ALIGNMENT)
        at = SECTION_HEADER_LEN * section.index + OFFSET_IN_HEADER
        struct.pack_into("<II", headers, at, off, size)
    struct.pack_into("<I", kept, SHOFF_AT, len(kept))
    kept += headers
    trimmed = image.trimmed or Trimmed(image.file_sha256, image.debug_names)
    return replace(ElfImage.parse(bytes(kept), image.name), trimmed=trimmed)
