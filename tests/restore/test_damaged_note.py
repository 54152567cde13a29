# SPDX-License-Identifier: MIT
"""Does restore refuse whatever would not give the input back?"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.commands import invoke
from tests.restore.small import kernel_with_everything
from vmipatch.errors import ExitCode, InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.restore import restore

PADDED_TO = 4
SIZE_OFF = 20
"""sh_size in a section header."""


@cache
def rewritten() -> bytes:
    return kernel_with_everything().rewrite().done.data


def note_range(data: bytes) -> tuple[int, int]:
    section = ElfImage.parse(data).section_by_name[".vmi.restore"]
    return section.off, section.off + section.size


@settings(max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_note_is_refused(where: float, flip: int) -> None:
    data = bytearray(rewritten())
    start, end = note_range(rewritten())
    data[start + int(where * (end - start))] ^= flip
    with pytest.raises(InputNotUnderstood, match="restore from another copy"):
        restore(ElfImage.parse(bytes(data)))


@settings(max_examples=20)
@given(left=st.floats(0, 1, exclude_max=True))
def test_a_note_that_was_cut_off_is_refused(left: float) -> None:
    data = bytearray(rewritten())
    image = ElfImage.parse(rewritten())
    start, end = note_range(rewritten())
    (headers,) = struct.unpack_from("<I", data, 32)
    header = headers + 40 * image.section_by_name[".vmi.restore"].index
    struct.pack_into("<I", data, header + SIZE_OFF, int(left * (end - start - PADDED_TO)))
    with pytest.raises(InputNotUnderstood):
        restore(ElfImage.parse(bytes(data)))


@pytest.mark.parametrize(
    ("section", "at"),
    ((".text", 0), (".rodata", 0), (".data", 8), (".symtab", 28), (".vmi.annotation", 4)),
)
def test_a_kernel_that_was_changed_is_refused(section: str, at: int) -> None:
    data = bytearray(rewritten())
    data[ElfImage.parse(rewritten()).section_by_name[section].off + at] ^= 1
    with pytest.raises(InputNotUnderstood):
        restore(ElfImage.parse(bytes(data)))


def test_refusals_leave_no_file(tmp_path: Path) -> None:
    damaged = bytearray(rewritten())
    damaged[note_range(rewritten())[1] - 20] ^= 1
    plain = kernel_with_everything().build()
    for name, data, said in (
        ("damaged", bytes(damaged), "the note is damaged"),
        ("plain", plain, "give the output of `vmipatch rewrite`"),
        ("none", b"", "the file is empty"),
    ):
        kernel, output = tmp_path / name, tmp_path / f"{name}.out"
        kernel.write_bytes(data)
        result = invoke("restore", kernel, "-o", output)
        assert result.returncode == ExitCode.INPUT
        assert said in result.stderr
        assert str(kernel) in result.stderr
        assert not output.exists()
