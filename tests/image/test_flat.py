# SPDX-License-Identifier: MIT
"""Is a flat binary, or an a.out file, read with its code at the given address?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from vmipatch.errors import ExitCode, InputNotUnderstood, MalformedImage, NotServed
from vmipatch.files.open import open_any, open_kernel
from vmipatch.image.flat import NMAGIC, OMAGIC, QMAGIC, ZMAGIC, flat_image

CODE = bytes.fromhex("fa 0f22d8 eb01 fb c3")
"""cli; mov %eax, %cr3; jmp over a byte that is a sti; ret"""


def aout(magic: int, text: bytes, *, symbols: bool = False, entry: int = 0x100000) -> bytes:
    """An a.out file with `text`, a word of data, and maybe two symbols of code and one of data."""
    rows, strings = b"", b""
    if symbols:
        strings = struct.pack("<I", 4 + 14) + b"_start\0_other\0"
        rows = struct.pack("<IBBHI", 4, 5, 0, 0, 0x100000)
        rows += struct.pack("<IBBHI", 11, 4, 0, 0, 0x100006)
        rows += struct.pack("<IBBHI", 4, 7, 0, 0, 0x100002)
    header = struct.pack("<8I", 100 << 16 | magic, len(text), 4, 0, len(rows), entry, 0, 0)
    if magic == ZMAGIC:
        header = header.ljust(1024, b"\0")
    if magic == QMAGIC:
        text = header + text[len(header) :]
        header = b""
    return header + text + b"data" + rows + strings


def test_flat_binary_is_entered_at_its_first_byte() -> None:
    image = flat_image(CODE, 0x100000, "flat")
    (section,) = image.executable_sections
    assert (section.va, section.size, image.entry) == (0x100000, len(CODE), 0x100000)
    assert image.read(0x100001, 3) == CODE[1:4]


@pytest.mark.parametrize("magic", [OMAGIC, NMAGIC, ZMAGIC])
def test_text_of_an_aout_file_is_at_the_given_address(magic: int) -> None:
    image = flat_image(aout(magic, CODE, symbols=True, entry=0x100001), 0x100000, "a.out")
    (section,) = image.executable_sections
    assert image.section_bytes(section) == CODE
    assert image.entry == 0x100001
    assert image.symbols.address("_start") == 0x100000
    assert image.symbols.address("_other") == 0x100006
    assert [s.va for s in image.symbols if s.name] == [0x100000, 0x100006], "none of data"


def test_qmagic_counts_its_header_as_text() -> None:
    image = flat_image(aout(QMAGIC, bytes(32) + CODE), 0x1000, "a.out")
    (section,) = image.executable_sections
    assert image.read(0x1020, len(CODE)) == CODE
    assert section.size == 32 + len(CODE)


@pytest.mark.parametrize(
    "data", [b"", aout(OMAGIC, CODE)[:-5], aout(OMAGIC, CODE, symbols=True)[:-3]]
)
def test_file_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedImage):
        flat_image(data, 0x100000, "cut off")


def test_code_does_not_reach_beyond_the_address_space() -> None:
    with pytest.raises(InputNotUnderstood, match="beyond 4 GiB"):
        flat_image(CODE, 0xFFFFFFFE, "high")


def test_scan_counts_what_is_reached_and_says_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    path.write_bytes(CODE)
    done = invoke("scan", path, "--base", "0x100000", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = validated(done.stdout, "scan-2")
    found = {site["address"]: (site["class"], site["disposition"]) for site in report["sites"]}
    assert found[0x100000] == ("cli", "native-trapping"), "paging is not on there"
    assert found[0x100001] == ("mov to cr", "native-trapping")
    assert found[0x100006] == ("sti", "unknown")
    assert report["evidence"]["entries"] == [0x100000]
    assert (report["evidence"]["sites_proven"], report["evidence"]["sites_unknown"]) == (2, 1)


def test_base_of_a_file_that_says_where_it_is_linked_is_refused(guest: Path) -> None:
    with pytest.raises(NotServed, match="--base does not serve a vmlinux"):
        open_any(guest, base=0x100000)


def test_flat_binary_is_only_scanned(tmp_path: Path) -> None:
    opened = open_any(CODE, base=0)
    for job in ("rewrite", "restore", "verify", "wrap"):
        with pytest.raises(NotServed, match="can only be scanned"):
            getattr(opened, job)()
    path = tmp_path / "flat"
    path.write_bytes(CODE)
    assert invoke("scan", path).returncode == ExitCode.INPUT, "nothing says where it is linked"
    with pytest.raises(MalformedImage):
        open_kernel(path)
