# SPDX-License-Identifier: MIT
"""A new identity for a new file: the GNU build-id of a rewritten kernel."""

from __future__ import annotations

import hashlib
import struct

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import SectionKind

NT_GNU_BUILD_ID = 3
OWNER = b"GNU\0"


def renew_build_id(data: bytes) -> bytes:
    """`data` with its build-id replaced by a hash of the file (with the id zeroed).

    A kernel without a build-id is returned as it is. Two rewrites of one kernel by one version
    of vmipatch have the same id.
    """
    image = ElfImage.parse(data)
    place = _find(image)
    if place is None:
        return data
    off, length = place
    result = bytearray(data)
    result[off : off + length] = bytes(length)
    digest = hashlib.sha1(result, usedforsecurity=False).digest()
    result[off : off + length] = digest[:length].ljust(length, b"\0")
    return bytes(result)


def _find(image: ElfImage) -> tuple[int, int] | None:
    """File offset and length of the id in a note section."""
    for section in image.allocated_sections:
        if section.kind is not SectionKind.NOTE:
            continue
        notes, at = image.section_bytes(section), 0
        while at + 12 <= len(notes):
            name_len, desc_len, kind = struct.unpack_from("<III", notes, at)
            desc_at = at + 12 + -(-name_len // 4) * 4
            if kind == NT_GNU_BUILD_ID and notes[at + 12 :].startswith(OWNER):
                return section.off + desc_at, desc_len
            at = desc_at + -(-desc_len // 4) * 4
    return None
