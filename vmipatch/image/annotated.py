# SPDX-License-Identifier: MIT
"""Does a kernel have annotated call sites of its own, and whose? Told by content."""

from __future__ import annotations

from typing import Final

from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.vmi.record13 import Annotations, Record13, records_13, whose

SECTION: Final = ".vmi.annotation"


def annotations_of(image: ElfImage) -> Annotations | None:
    """Whose the records of the annotation section are; None without one."""
    data = _records(image)
    return None if data is None else whose(data, lambda va, length: _read(image, va, length))


def annotated_sites(image: ElfImage) -> tuple[Record13, ...]:
    """The call sites of API 13, in the order of the records; none if it has no such records."""
    data = _records(image) or b""
    return records_13(data, lambda va, length: _read(image, va, length))


def is_annotated_13(image: ElfImage) -> bool:
    """Whether the kernel looks for a ROM of API 13, as its call sites say."""
    return bool(annotated_sites(image))


def _records(image: ElfImage) -> bytes | None:
    section = image.section_by_name.get(SECTION)
    return None if section is None else image.section_bytes(section)


def _read(image: ElfImage, va: int, length: int) -> bytes:
    try:
        return image.read(va, length)
    except VmipatchError:
        return b""
