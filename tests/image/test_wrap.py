# SPDX-License-Identifier: MIT
"""Does a wrapped kernel start, where it should, with everything a kernel is owed?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.image.reporting_guest import MIB, PAGE_OFFSET, ReportingGuest, comparable
from tests.support.qemu import boot
from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.setup_header import LoadFlag
from vmipatch.image.types import Segment, SegmentKind
from vmipatch.image.wrap import wrap

needs_qemu = pytest.mark.qemu


@needs_qemu
@pytest.mark.parametrize("start_pa", [MIB, 2 * MIB, 16 * MIB], ids=lambda pa: f"{pa // MIB}MiB")
def test_kernel_without_list_runs_where_it_was_linked(start_pa: int, tmp_path: Path) -> None:
    guest = ReportingGuest.linked_at(start_pa)
    report = guest.run(wrap(guest.image, None), tmp_path)
    assert comparable(report) == guest.expected()


@needs_qemu
def test_kernel_longer_than_the_way_to_its_place_arrives_whole(tmp_path: Path) -> None:
    """QEMU's random seed, which 7.2 puts after the file, then lies in the way, too."""
    guest = ReportingGuest.linked_at(16 * MIB, data_len=24 * MIB)
    report = guest.run(wrap(guest.image, guest.relocs), tmp_path, "nokaslr")
    assert comparable(report) == guest.expected()


@needs_qemu
@pytest.mark.parametrize("append", ["nokaslr", "quiet nokaslr ro", "mem=100M", "memmap=1M$40M"])
def test_command_line_keeps_the_kernel_where_it_was_linked(append: str, tmp_path: Path) -> None:
    guest = ReportingGuest.linked_at(16 * MIB)
    report = guest.run(wrap(guest.image, guest.relocs), tmp_path, append)
    assert comparable(report) == guest.expected()


@needs_qemu
def test_kernel_moves_to_different_slots_and_arrives_whole(tmp_path: Path) -> None:
    guest = ReportingGuest.linked_at(16 * MIB)
    file = wrap(guest.image, guest.relocs)
    distances = set()
    for shift in range(1, 6):
        # Same file, same command line, another speed: only the clocks tell the boots apart.
        clock = ("-icount", f"shift={shift},sleep=off")
        report = guest.run(file, tmp_path, "nokaslrx xnokaslr maxmem=1", clock)
        distances.add(report.distance)
        assert report.distance % (2 * MIB) == 0
        assert report.pointer == guest.data_va + report.distance
        assert report.loadflags & LoadFlag.KASLR
        here = replace(report, distance=0, pointer=guest.data_va)
        assert comparable(here) == replace(guest.expected(), loadflags=3)
    assert len(distances) > 1


@needs_qemu
def test_kernel_stays_when_kaslr_is_not_wanted(tmp_path: Path) -> None:
    guest = ReportingGuest.linked_at(16 * MIB)
    report = guest.run(wrap(guest.image, guest.relocs, kaslr=False), tmp_path)
    assert comparable(report) == guest.expected()


@needs_qemu
@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
@pytest.mark.parametrize("append", ["", "nokaslr"])
def test_linux_reaches_user_space(
    kernel: Callable[[str], Path],
    initramfs: Callable[[str, tuple[()]], Path],
    name: str,
    append: str,
    tmp_path: Path,
) -> None:
    image = ElfImage.parse(kernel(name).read_bytes(), name)
    wrapped = tmp_path / "bzImage"
    wrapped.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
    result = boot(wrapped, initramfs("workload.sh", ()), append=append, smp=2)
    assert "VMI-MARK done" in result.console, str(result)


def test_wrapped_kernel_can_be_read_back() -> None:
    guest = ReportingGuest.linked_at(16 * MIB)
    read = BzImage.parse(wrap(guest.image, guest.relocs, version="6.1.0-vmi"))
    assert (read.compression, read.relocs) == (Compression.NONE, guest.relocs)
    assert read.version == "6.1.0-vmi"
    inner = ElfImage.parse(read.vmlinux)
    assert inner.entry == guest.image.entry
    for found, wanted in zip(inner.loads, guest.image.loads, strict=True):
        assert (found.pa, found.va, found.mem_len) == (wanted.pa, wanted.va, wanted.mem_len)
        assert bytes_of(inner, found) == bytes_of(guest.image, wanted)


def bytes_of(image: ElfImage, segment: Segment) -> bytes:
    return image.data[segment.off : segment.off + segment.file_len]


def test_wrapping_is_reproducible() -> None:
    assert wrap(*pair(16 * MIB)) == wrap(*pair(16 * MIB))


def pair(start_pa: int) -> tuple[ElfImage, tuple[int, ...]]:
    guest = ReportingGuest.linked_at(start_pa, data_len=0x1000)
    return guest.image, guest.relocs


def test_header_of_a_relocatable_kernel_lets_the_loader_choose() -> None:
    header = BzImage.parse(wrap(*pair(16 * MIB))).header
    assert (header.relocatable_kernel, header.pref_address) == (1, 16 * MIB)
    assert (header.kernel_alignment, 1 << header.min_alignment) == (2 * MIB, 2 * MIB)


@pytest.mark.parametrize("start_pa", [MIB, 16 * MIB])
def test_header_of_a_fixed_kernel_claims_memory_from_the_load_address(start_pa: int) -> None:
    image, _ = pair(start_pa)
    file = wrap(image, None)
    header = BzImage.parse(file).header
    assert header.relocatable_kernel == 0
    end_pa = max(s.pa + s.mem_len for s in image.loads)
    assert header.code32_start + header.init_size >= end_pa + len(file) - (end_pa - start_pa)


def test_given_alignment_is_kept() -> None:
    image, relocs = pair(16 * MIB)
    assert BzImage.parse(wrap(image, relocs, align=16 * MIB)).header.kernel_alignment == 16 * MIB
    with pytest.raises(InputNotUnderstood, match="power of two"):
        wrap(image, relocs, align=3 * MIB)


@given(
    st.lists(
        st.tuples(st.integers(0, 9000), st.integers(0, 9000), st.integers(0, 9000)),
        min_size=1,
        max_size=64,
    )
)
def test_staged_image_is_never_overwritten_before_it_is_read(
    shapes: list[tuple[int, int, int]],
) -> None:
    """Any gaps, lengths and zeros: see the docstring of wrap.py."""
    segments: list[Segment] = []
    at_pa = 16 * MIB
    for gap, file_len, zeros in shapes:
        at_pa += gap if segments else 0
        mem_len = max(file_len + zeros, 1)
        segments.append(
            Segment(SegmentKind.LOAD, 0, at_pa + PAGE_OFFSET, at_pa, file_len, mem_len, 7, 4096)
        )
        at_pa += mem_len
    image = ElfImage("built", bytes(9000), (), tuple(segments), 16 * MIB, {})
    read = BzImage.parse(file := wrap(image, ()))
    image_len = len(file) - read.header.code_off
    stage_pa = 16 * MIB + (read.header.init_size - image_len) // 4096 * 4096
    assert stage_pa >= 16 * MIB + read.header.payload_offset, "entry.S runs while it is moved"
    payload_pa = stage_pa + read.header.payload_offset
    inner = ElfImage.parse(read.vmlinux).loads
    for source, target in zip(inner, segments, strict=True):
        assert payload_pa + source.off >= target.pa
    assert payload_pa + len(read.vmlinux) >= at_pa


def broken(**changes: Any) -> ElfImage:
    """The small guest with its first segment changed."""
    image, _ = pair(16 * MIB)
    first, *rest = image.loads
    return replace(image, segments=(replace(first, **changes), *rest))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mem_len": 0x5000}, MalformedImage, "overlap"),
        ({"mem_len": 1}, MalformedImage, "longer in the file"),
        ({"pa": 0x1000}, InputNotUnderstood, "1 MiB and 512 MiB"),
        ({"pa": 8 * MIB}, MalformedImage, "entry point"),
    ],
)
def test_kernel_that_cannot_start_is_refused(
    changes: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrap(broken(**changes), None)


def test_kernel_without_segments_is_refused() -> None:
    image, _ = pair(16 * MIB)
    with pytest.raises(InputNotUnderstood, match="no program segment"):
        wrap(replace(image, segments=()), None)


def test_relocations_need_one_distance_and_stored_words() -> None:
    image, relocs = pair(16 * MIB)
    with pytest.raises(InputNotUnderstood, match="distance"):
        wrap(broken(va=0xD0000000), relocs)
    bss = next(s for s in image.sections if s.name == ".bss")
    for va in (0xC0000000, bss.va, bss.va - 2, 0xFFFFFFFE):
        with pytest.raises(MalformedImage, match="outside"):
            wrap(image, (*relocs, va))


def test_virtual_entry_point_is_understood() -> None:
    image, _ = pair(16 * MIB)
    virtual = replace(image, entry=image.entry + PAGE_OFFSET)
    code = [wrap(i, None)[BzImage.parse(wrap(i, None)).header.code_off :] for i in (image, virtual)]
    differing = sum(a != b for a, b in zip(*code, strict=True))
    assert differing == 1, "e_entry of the payload, and nothing that runs"
