# SPDX-License-Identifier: MIT
"""Is every byte of a rewritten bzImage one that the proof made, or one that it explains?

| bytes | rule |
| --- | --- |
| setup code, setup header, headers for EFI | VP142, VP143 |
| head and tail of the boot code | VP142 |
| payload | VP140, VP141 |
| notes | VP145 |
| zeros after the notes, CRC, end of the file | VP144 |
| signatures | VP146 |
| all of a file with vmipatch's own boot code | VP147 |
"""

from __future__ import annotations

from typing import Final

from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader, header_end
from vmipatch.image.wrap import wrap
from vmipatch.verify.static.bzimage.around import CRC_LEN, Inside, crc_of, expected_around
from vmipatch.verify.static.bzimage.boot_code import UnknownBootCode
from vmipatch.verify.static.bzimage.inputs import INSIDE, NOTES, Shipped
from vmipatch.verify.static.bzimage.kernel_facts import link_of
from vmipatch.verify.static.bzimage.ledger import ledger_of
from vmipatch.verify.static.bzimage.packing import check_packing
from vmipatch.verify.static.bzimage.payload import expected_elf, expected_payload, overwritten
from vmipatch.verify.static.bzimage.pe import PeHeaders
from vmipatch.verify.static.bzimage.way_back import check_way_back
from vmipatch.verify.static.rules import (
    BOOT_CODE,
    FILE_END,
    FOREIGN_SIGNATURE,
    OWN_BOOT_CODE,
    PACKING,
    PAYLOAD,
    SETUP_HEADER,
    WAY_BACK,
    Rule,
)
from vmipatch.verify.static.verdict import BYTES, Report, StaticVerdict

RULES_OF_BZIMAGES: Final = (
    PAYLOAD, PACKING, BOOT_CODE, SETUP_HEADER, FILE_END, WAY_BACK, FOREIGN_SIGNATURE, OWN_BOOT_CODE,
)  # fmt: skip
"""All that may be found here."""
SETUP, HEADERS, CODE, END = "setup code", "headers", "boot code", "end of the file"


def check_bzimage(shipped: Shipped) -> StaticVerdict:
    """Prove all of the output but the kernel in it, which the static proof takes as a witness.

    Raises as Shipped does.
    """
    report = Report(hex)
    proven = shipped.witness
    if proven is not None and shipped.note_inside is not None:
        _check_own(shipped, proven, shipped.note_inside, report)
    elif proven is not None:
        _check_kept(shipped, proven, report)
    check_way_back(shipped, report)
    report.counts[BYTES] += len(shipped.output)
    if not report.has_findings and not shipped.report.has_findings and proven is not None:
        report.file = ledger_of(shipped)
    return report.verdict() + shipped.report.verdict()


def _check_own(shipped: Shipped, proven: ElfImage, note: bytes, report: Report) -> None:
    """vmipatch's own boot code around the proven kernel."""
    old = shipped.old
    elf = expected_elf(proven, shipped.twin.unpacked, note)
    align = old.header.kernel_alignment
    try:
        should = wrap(proven, shipped.relocs, align=align, version=old.version, elf=elf)
    except VmipatchError as error:
        report.add(OWN_BOOT_CODE, 0, error.message, CODE)
        return
    _compare(OWN_BOOT_CODE, "file", shipped.unsigned, should, 0, report)
    report.counts["bytes of own boot code"] += len(should) - len(elf)


def _check_kept(shipped: Shipped, proven: ElfImage, report: Report) -> None:
    """The original's boot code around the proven kernel."""
    link_pa, _ = link_of(ElfImage.parse(shipped.old.vmlinux), shipped.old.header.pref_address)
    elf = expected_elf(proven, shipped.twin.unpacked)
    unpacked = expected_payload(elf, shipped.relocs, link_pa)
    _compare(PAYLOAD, INSIDE, shipped.new.payload.unpacked, unpacked, 0, report)
    if (va := overwritten(elf, link_pa)) is not None:
        message = "the boot code would write over this segment before it is moved"
        report.add(PAYLOAD, va, message, INSIDE)
    check_packing(shipped, unpacked, report)
    _check_around(shipped, proven, len(unpacked), report)


def _check_around(shipped: Shipped, proven: ElfImage, unpacked_len: int, report: Report) -> None:
    header = shipped.new.header
    end = header.code_off + header.syssize * 16
    data, after = shipped.unsigned[:end], shipped.unsigned[end:]
    if after:
        report.add(FILE_END, 0, f"{len(after)} bytes follow the boot code", END)
    notes_len = shipped.notes.length if shipped.notes else 0
    inside = Inside(
        proven, header.payload_length, notes_len, unpacked_len, len(data) - header.code_off
    )
    try:
        around = expected_around(shipped.original, shipped.old, inside)
    except UnknownBootCode as error:
        report.add(BOOT_CODE, 0, str(error), CODE)
        return
    except VmipatchError as error:
        report.add(BOOT_CODE, 0, error.message, CODE)
        return
    report.counts["words of boot code"] += around.words
    _check_setup(data, around.setup, report)
    head_end = len(around.setup) + len(around.head)
    _compare(BOOT_CODE, CODE, data[len(around.setup) : head_end], around.head, 0, report)
    notes_end = head_end + header.payload_length + notes_len
    gap = data[notes_end : around.tail_off]
    _compare(FILE_END, NOTES, gap, bytes(len(gap)), notes_end, report)
    tail, crc = around.tail[:-CRC_LEN], around.tail[-CRC_LEN:]
    crc = crc_of(data[:-CRC_LEN]) if around.has_crc else crc
    _compare(BOOT_CODE, CODE, data[around.tail_off : -CRC_LEN], tail, around.tail_off, report)
    _compare(FILE_END, END, data[-CRC_LEN:], crc, len(data) - CRC_LEN, report)


def _check_setup(data: bytes, should: bytes, report: Report) -> None:
    """Fields of the setup header by name, then all else of the real-mode part."""
    was, now = SetupHeader.parse(data), SetupHeader.parse(should)
    for name in SetupHeader.__slots__:
        found, wanted = getattr(was, name), getattr(now, name)
        if found != wanted:
            message = f"{name} is {found:#x}, should be {wanted:#x}"
            report.add(SETUP_HEADER, 0, message, "setup header")
    end = header_end(now.version)
    found = data[:HEADER_OFF] + should[HEADER_OFF:end] + data[end : len(should)]
    try:
        pe = PeHeaders.of(should)
    except UnknownBootCode:
        pe = None
    headers_end = HEADER_OFF
    _compare(SETUP_HEADER if pe else BOOT_CODE, HEADERS, found[:headers_end], should[:headers_end],
             0, report)  # fmt: skip
    _compare(BOOT_CODE, SETUP, found[end:], should[end:], end, report)


def _compare(rule: Rule, place: str, found: bytes, should: bytes, off: int, report: Report) -> None:
    """Report the first byte that differs, and how many do; `off` is added to its place."""
    if found == should:
        return
    if len(found) != len(should):
        message = f"it has {len(found)} bytes, should have {len(should)}"
        report.add(rule, 0, message, place)
        return
    at = next(i for i, (a, b) in enumerate(zip(found, should, strict=True)) if a != b)
    count = sum(a != b for a, b in zip(found, should, strict=True))
    message = f"byte {off + at:#x} is {found[at]:02x}, should be {should[at]:02x}; {count} differ"
    report.add(rule, 0, message, place)
