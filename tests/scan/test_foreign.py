# SPDX-License-Identifier: MIT
"""Is a kernel that is not Linux scanned from the entries that its headers name?"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.files.census import census_of
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import MAGIC_1
from vmipatch.scan import Disposition, scan
from vmipatch.scan.ledger import ByteClass, LedgerReason

TEXT_VA = 0xC1000000
FLAGS = 1 << 16


def header(entry_va: int) -> bytes:
    """A header of version 1 that names an entry of its own, physically."""
    words = (MAGIC_1, FLAGS, -(MAGIC_1 + FLAGS) & 0xFFFFFFFF, 0, 0, 0, 0, entry_va - 0xC0000000)
    return struct.pack("<8I", *words)


def kernel(code: bytes, *, entry: int = TEXT_VA - 0xC0000000) -> ElfImage:
    builder = ElfBuilder(entry=entry)
    builder.section(".text", TEXT_VA, code, TEXT)
    return builder.image()


def stripped(code: bytes) -> ElfImage:
    """A kernel of which nothing is known but its entries: no symbols, no relocations."""
    image = kernel(code)
    kept = tuple(s for s in image.sections if s.is_alloc or s.index == 0)
    return replace(image, sections=kept, section_by_name={s.name: s for s in kept})


# jmp over the header; two bytes of filler; the header; cli; hlt; ret; a function nothing targets
CODE = bytes.fromhex("eb22 6690") + header(TEXT_VA + 40) + bytes.fromhex("fa f4 c3 90")
REST = bytes.fromhex("fb c3 0f22e0 c3")


def test_header_in_code_is_data_and_the_entry_that_it_names_a_boundary() -> None:
    image = stripped(CODE + REST)
    (account,) = scan(image).ledger.sections
    assert account.evidence[LedgerReason.BOOT_HEADER] == 32
    assert account.why(TEXT_VA + 4) is LedgerReason.BOOT_HEADER
    assert account.why(TEXT_VA + 36) is LedgerReason.BRANCH
    assert account.why(TEXT_VA + 40) is LedgerReason.REFERENCE, "the header names it"
    assert [kind for _, _, kind in account.intervals][:3] == [
        ByteClass.CODE, ByteClass.PADDING, ByteClass.DATA,
    ]  # fmt: skip


def test_header_is_not_decoded_as_code() -> None:
    """Of this one a decoder makes a sti: its checksum holds fb."""
    every = (struct.pack("<3I", MAGIC_1, f, -(MAGIC_1 + f) & 0xFFFFFFFF) for f in range(1 << 16))
    words = next(words for words in every if b"\xfb" in words[8:])
    image = stripped(bytes.fromhex("eb0e 6690") + words + bytes.fromhex("fa c3"))
    assert [(site.va, site.kind) for site in scan(image).sites] == [(TEXT_VA + 16, "cli")]


def test_census_does_not_say_what_becomes_of_bytes_that_are_unknown() -> None:
    census = census_of(stripped(CODE + REST))
    counts = {(site.va - TEXT_VA, site.disposition) for site in census.sites}
    assert (36, Disposition.NATIVE_TRAPPING) in counts, "paging is not on there"
    unknown = {va for va, disposition in counts if disposition is Disposition.UNKNOWN}
    assert unknown == {42}, "what is at 40 the header names"
    for site in census.sites:
        accounts = census.result.ledger.sections
        (account,) = (a for a in accounts if a.start_va <= site.va < a.end_va)
        kind = next(k for start, end, k in account.intervals if start <= site.va < end)
        assert (kind is ByteClass.UNKNOWN) == (site.disposition is Disposition.UNKNOWN)
    evidence = census.report()["evidence"]
    assert (evidence["symbols"], evidence["relocations"]) == (False, False)
    assert evidence["entries"] == [TEXT_VA, TEXT_VA + 40]


def test_far_jump_to_a_constant_is_followed() -> None:
    """As code does that has just loaded its segments: once linked, once still physical."""
    for target in (TEXT_VA + 8, TEXT_VA + 8 - 0xC0000000):
        code = b"\xea" + struct.pack("<IH", target, 8) + bytes.fromhex("90 fa c3")
        (account,) = scan(stripped(code)).ledger.sections
        assert account.why(TEXT_VA + 8) is LedgerReason.BRANCH


def test_kernel_without_section_headers_is_scanned_by_its_segments() -> None:
    image = replace(stripped(CODE + REST), sections=(), section_by_name={})
    image = replace(image, segments=tuple(replace(s, flags=5) for s in image.segments))
    with_headers = census_of(stripped(CODE + REST))
    census = census_of(image)
    assert [(s.va, s.kind) for s in census.sites] == [(s.va, s.kind) for s in with_headers.sites]


def test_branches_into_instructions_show_a_wrong_sweep() -> None:
    astray = stripped(bytes.fromhex("eb07 7401 b8c3c3c3c3 c3"))
    assert census_of(astray).report()["evidence"]["branches_astray"] == 1
    assert census_of(stripped(CODE)).report()["evidence"]["branches_astray"] == 0


def test_table_has_a_column_for_unknown_sites_where_there_are_some(
    guest: Path, tmp_path: Path
) -> None:
    path = tmp_path / "foreign"
    data = bytearray(kernel(CODE + REST).data)
    data[32:36], data[48:52] = bytes(4), bytes(4)  # no section headers
    at = int.from_bytes(data[28:32], "little") + 24
    data[at : at + 4] = (5).to_bytes(4, "little")
    path.write_bytes(data)
    foreign, linux = invoke("scan", path), invoke("scan", guest)
    assert foreign.returncode == 0, foreign.stderr
    assert "unknown" in foreign.stdout.splitlines()[0]
    assert "unknown" not in linux.stdout.splitlines()[0]


@pytest.mark.parametrize("field", ["disposition", "evidence"])
def test_json_says_of_each_site_what_it_rests_on(field: str, guest: Path) -> None:
    report = validated(invoke("scan", guest, "--json", "-").stdout, "scan-2")
    assert all(site[field] for site in report["sites"])
    assert report["evidence"]["sites_unknown"] == 0
