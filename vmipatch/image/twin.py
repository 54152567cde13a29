# SPDX-License-Identifier: MIT
"""Is a vmlinux the one that a bzImage holds? The same bytes in the same places, the same list.

A distribution ships the bzImage stripped, and beside it a vmlinux with symbols and relocations.
Since Linux 6.17 the build packs less than it links: .modinfo follows _end, and is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations, has_relocations
from vmipatch.image.types import Section, Segment

_HINT = "give the vmlinux of exactly this kernel: the same package, the same version"


@dataclass(frozen=True, slots=True)
class Twin:
    """The common parts of a bzImage and the vmlinux of the same kernel, and the others."""

    relocs: tuple[int, ...] | None
    """The relocation list that both agree on, None if the bzImage has none."""
    unpacked: frozenset[str]
    """Loaded sections of the vmlinux that the bzImage has zeros for."""
    lists_notes: bool = False
    """Whether the relocation list has the words of notes."""


def require_twin(bzimage: BzImage, debug: ElfImage) -> Twin:
    """Compare `debug`, which has relocations, with the kernel in `bzimage`.

    Raises InputNotUnderstood unless the segments of both have the same places and bytes and their
    relocations move the same words.
    """
    unpacked = require_same_bytes(bzimage, debug)
    if bzimage.relocs is None:
        return Twin(None, unpacked)
    if not has_relocations(debug):
        raise InputNotUnderstood(
            "this is the kernel that the bzImage holds, and has no relocations",
            file=debug.name,
            place="section headers",
            hint="complete it by the bzImage's own list (vmipatch.recover.complete)",
        )
    relocations = Relocations.of(debug)
    listed = relocation_list(debug, relocations)
    if listed == bzimage.relocs:
        return Twin(listed, unpacked)
    with_notes = relocation_list(debug, relocations, with_notes=True)
    if with_notes != bzimage.relocs:
        other = min(set(listed) ^ set(bzimage.relocs))
        raise _differs(
            bzimage,
            debug,
            f"the relocation of {other:#x} is known to one of them only",
            debug.symbols.place_of(other),
        )
    return Twin(with_notes, unpacked, lists_notes=True)


def require_same_bytes(bzimage: BzImage, debug: ElfImage) -> frozenset[str]:
    """Compare what both load; the names of the sections that the bzImage has zeros for.

    Raises InputNotUnderstood unless the segments of both have the same places and bytes.
    """
    return require_same_kernel(ElfImage.parse(bzimage.vmlinux, bzimage.name), debug)


def require_same_kernel(payload: ElfImage, debug: ElfImage) -> frozenset[str]:
    """The same for any file `payload` of which `debug` is to be the whole."""
    unpacked: set[str] = set()
    for packed, loaded in zip(payload.loads, debug.loads, strict=False):
        if _extent(packed) != _extent(loaded):
            raise _differs(payload, debug, f"a segment begins at {packed.va:#x}, or is longer")
        old = payload.data[packed.off : packed.off + packed.file_len]
        new = debug.data[loaded.off : loaded.off + loaded.file_len]
        if old == new:
            continue
        other = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
        for section in _left_out(payload, debug, loaded):
            at = section.va - loaded.va
            if other[at : at + section.size].any() and not any(old[at : at + section.size]):
                other[at : at + section.size] = False
                unpacked.add(section.name)
        if other.any():
            va = packed.va + int(np.flatnonzero(other)[0])
            place = debug.symbols.place_of(va)
            raise _differs(payload, debug, f"the first other byte is at {va:#x}", place)
    if len(list(payload.loads)) != len(list(debug.loads)):
        raise _differs(payload, debug, "one has more segments")
    return frozenset(unpacked)


def _left_out(payload: ElfImage, debug: ElfImage, segment: Segment) -> list[Section]:
    """Sections that `segment` of `debug` loads and of which `payload` has not even a header."""
    return [
        section
        for section in debug.allocated_sections
        if section.name not in payload.section_by_name
        and section.has_bytes
        and segment.va <= section.va
        and section.end_va <= segment.va + segment.file_len
    ]


def _extent(segment: Segment) -> tuple[int, int, int, int]:
    return segment.va, segment.pa, segment.file_len, segment.mem_len


def _differs(
    packed: BzImage | ElfImage, debug: ElfImage, how: str, place: str | None = None
) -> InputNotUnderstood:
    return InputNotUnderstood(
        f"this is not the kernel that {packed.name} holds: {how}",
        file=debug.name,
        place=place,
        hint=_HINT,
    )
