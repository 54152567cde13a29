# SPDX-License-Identifier: MIT
"""Are small files that ask for gigabytes refused with little memory and in little time?"""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from tests.hostile.bombs import SHAPES, UNPACKED_LEN, bzimage, packed_zeros
from tests.hostile.measured import Measured, measured
from tests.support.smallmodule import SmallModule
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing.compression import Compression
from vmipatch.restore.note import MAGIC
from vmipatch.restore.take import with_note, without_note
from vmipatch.rewrite.module import rewrite_module

MOST_MB, MOST_CPU_S = 600, 30
LARGEST = 20 << 20
HARMLESS = frozenset(
    {"as many sections as there may be", "notes without end", "memory without bytes"}
)
"""They may be read, as long as that costs little."""
ELF_HEAD = bytes.fromhex("7f454c46 010101 000000000000000000 0200 0300 01000000")


def assert_cheap(done: Measured) -> None:
    """One error at most, and no more memory and time than a kernel's file takes."""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    assert done.returncode in (ExitCode.SUCCESS, ExitCode.INPUT), done.stderr
    assert done.peak_mb < MOST_MB, done
    assert done.cpu_s < MOST_CPU_S, done


@pytest.mark.parametrize("relocatable", [False, True], ids=["kernel", "module"])
@pytest.mark.parametrize("name", SHAPES)
def test_headers_that_ask_for_much_cost_little(
    name: str, relocatable: bool, tmp_path: Path
) -> None:
    path = tmp_path / ("m.ko" if relocatable else "vmlinux")
    path.write_bytes(SHAPES[name](relocatable))
    assert path.stat().st_size < LARGEST
    done = measured("scan", path)
    assert_cheap(done)
    assert name in HARMLESS or done.returncode == ExitCode.INPUT


@pytest.mark.parametrize("packing", [c for c in Compression if c is not Compression.NONE])
def test_stream_that_unpacks_to_much_is_refused(packing: Compression, tmp_path: Path) -> None:
    stream = packed_zeros(packing, front=ELF_HEAD)
    assert len(stream) < LARGEST
    kernel, module = tmp_path / "vmlinuz", tmp_path / "m.ko.packed"
    kernel.write_bytes(bzimage(stream))
    module.write_bytes(stream)
    for path in (kernel, module):
        done = measured("scan", path)
        assert_cheap(done)
        assert done.returncode == ExitCode.INPUT, done


def test_packed_kernel_that_is_nearly_too_long_is_refused_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(packed_zeros(Compression.ZSTD, 216 << 20, ELF_HEAD)))
    done = measured("scan", path)
    assert_cheap(done)
    assert "MiB" not in done.stderr


@pytest.mark.parametrize("length", [UNPACKED_LEN, 64 << 20])
def test_note_that_unpacks_to_much_is_refused(length: int, tmp_path: Path) -> None:
    small = SmallModule()
    small.section(".text").function("f", "fa 9c c3")
    image = ElfImage.parse(rewrite_module(small.build(), "m.ko").data)
    section = image.section_by_name[".vmi.restore"]
    old = image.section_bytes(section)
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC32, preset=0)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(length >> 20)) + packer.flush()
    note = old[: old.index(MAGIC)] + MAGIC + zeros
    path = tmp_path / "m.ko"
    path.write_bytes(with_note(without_note(image), note))
    done = measured("restore", path, "-o", tmp_path / "out")
    assert_cheap(done)
    assert done.returncode == ExitCode.INPUT
