# SPDX-License-Identifier: MIT
"""Does text not grow as long as the padding of a kernel takes its sites, thunks and runtime?

Kernels whose functions are aligned to 4 have little more. Room for a copy of a ROM is kept unless
the kernel cannot make the ROM's own place non-executable.
"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import SmallKernel
from tests.support.elfbuilder import RODATA
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.plan import ROM_COPY_LEN, ROOM_ALIGN, ROOM_LEN, _room_len
from vmipatch.rom import build_rom
from vmipatch.scan.scan import scan
from vmipatch.tables.paging_levels import MIDDLE, TOP
from vmipatch.verify.static import check_static

GROWTH = 4 + 4
"""Of the sites in `f`."""
SPARE = 2 * ROOM_ALIGN
PAGE = 0x1000


def kernel(filler_len: int, *labels: str) -> SmallKernel:
    """Two sites, and so many bytes of filler up to the end of .text, a page and .rodata."""
    small = SmallKernel(room=False)
    small.text.function("start_kernel", "90 c3")
    small.text.function("f", "fa 90 fb c3")
    for name in labels:
        small.text.label(name)
    small.text.put("c3")
    code_len = -(filler_len + len(small.text.data)) % PAGE
    small.text.put(b"\xc3" + b"\x31\xc0" * (code_len // 2), b"\xcc" * (code_len % 2))
    small.text.put(b"\xcc" * (filler_len - 1 - code_len % 2))
    end_va = small.text.end_va
    small.block(".after", end_va, RODATA, PAGE).put("00000000")
    return small


def least_len() -> int:
    """Bytes of thunks and runtime, wherever the room begins."""
    return _room_len(scan(kernel(PAGE).image())) + ROOM_ALIGN


def room_of(small: SmallKernel) -> int:
    """Bytes of the room from an aligned address on; negative if sections moved."""
    original = small.image()
    done = rewrite(original)
    output = ElfImage.parse(done.data, "output")
    verdict = check_static(original, output)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    section = output.section_by_name[".vmi.text"]
    return -section.size if done.placement.shift_len else section.size


TWO_LEVELS, THREE_LEVELS, UNKNOWN = (TOP,), (TOP, MIDDLE), ()


@pytest.mark.parametrize("labels", [TWO_LEVELS, THREE_LEVELS, UNKNOWN])
def test_room_is_ample_where_there_is_padding(labels: tuple[str, ...]) -> None:
    assert room_of(kernel(ROOM_LEN + GROWTH + SPARE, *labels)) > ROOM_LEN - ROOM_ALIGN


@pytest.mark.parametrize("labels", [TWO_LEVELS, THREE_LEVELS, UNKNOWN])
def test_text_does_not_grow_for_want_of_ample_room(labels: tuple[str, ...]) -> None:
    filler_len = least_len() + ROM_COPY_LEN + GROWTH + SPARE
    room_len = room_of(kernel(filler_len, *labels))
    assert least_len() + ROM_COPY_LEN - ROOM_ALIGN < room_len < ROOM_LEN - ROOM_ALIGN


@pytest.mark.parametrize(
    ("labels", "moves"), [(TWO_LEVELS, False), (THREE_LEVELS, True), (UNKNOWN, True)]
)
def test_copy_of_a_rom_needs_room_where_memory_may_become_non_executable(
    labels: tuple[str, ...], moves: bool
) -> None:
    room_len = room_of(kernel(least_len() + GROWTH + SPARE, *labels))
    assert (room_len < 0) is moves
    assert abs(room_len) > (ROOM_LEN if moves else least_len()) - ROOM_ALIGN


def test_sections_move_where_not_even_the_least_room_fits() -> None:
    assert room_of(kernel(least_len() - 0x100, *TWO_LEVELS)) < ROOM_ALIGN - ROOM_LEN


def test_copy_has_room_for_our_own_rom() -> None:
    assert len(build_rom(Flavor.NATIVE).data) <= ROM_COPY_LEN
    assert len(build_rom(Flavor.TRACE).data) <= ROM_COPY_LEN
