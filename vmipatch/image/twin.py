# SPDX-License-Identifier: MIT
"""Is a vmlinux the one that a bzImage holds? The same bytes in the same places, the same list.

A distribution ships the bzImage stripped, and beside it a vmlinux with symbols and relocations.
"""

from __future__ import annotations

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.types import Segment

_HINT = "give the vmlinux of exactly this kernel: the same package, the same version"


def require_twin(bzimage: BzImage, debug: ElfImage) -> tuple[int, ...] | None:
    """The relocation list that `debug` and `bzimage` agree on, None if the bzImage has none.

    Raises InputNotUnderstood unless the segments of both have the same places and bytes and their
    relocations move the same words.
    """
    payload = ElfImage.parse(bzimage.vmlinux, bzimage.name)
    for packed, loaded in zip(payload.loads, debug.loads, strict=False):
        if _extent(packed) != _extent(loaded):
            raise _differs(bzimage, debug, f"a segment begins at {packed.va:#x}, or is longer")
        old = payload.data[packed.off : packed.off + packed.file_len]
        new = debug.data[loaded.off : loaded.off + loaded.file_len]
        if old != new:
            off = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
            place = debug.symbols.place_of(packed.va + off)
            raise _differs(
                bzimage, debug, f"the first other byte is at {packed.va + off:#x}", place
            )
    if len(list(payload.loads)) != len(list(debug.loads)):
        raise _differs(bzimage, debug, "one has more segments")
    if bzimage.relocs is None:
        return None
    listed = relocation_list(debug, Relocations.of(debug))
    if listed != bzimage.relocs:
        other = min(set(listed) ^ set(bzimage.relocs))
        raise _differs(
            bzimage,
            debug,
            f"the relocation of {other:#x} is known to one of them only",
            debug.symbols.place_of(other),
        )
    return listed


def _extent(segment: Segment) -> tuple[int, int, int, int]:
    return segment.va, segment.pa, segment.file_len, segment.mem_len


def _differs(
    bzimage: BzImage, debug: ElfImage, how: str, place: str | None = None
) -> InputNotUnderstood:
    return InputNotUnderstood(
        f"this is not the kernel that {bzimage.name} holds: {how}",
        file=debug.name,
        place=place,
        hint=_HINT,
    )
