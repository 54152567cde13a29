# SPDX-License-Identifier: MIT
"""Is each byte of a file one that the proof has put there itself?"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tests.verify.ledger_bytes import LedgerPair
from tests.verify.pair import small_pair
from tests.verify.test_rules import EditedFile
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SYMBOL
from vmipatch.verify.static import check_static
from vmipatch.verify.static.comparison import Comparison, Inputs
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.reproduce.check import differences
from vmipatch.verify.static.reproduce.place import Reproduction
from vmipatch.verify.static.reproduce.reproduce import reproduce
from vmipatch.verify.static.reproduce.rows import COPIED, NUMBERS, Row
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.record import RECORD_LEN

ADDRESS, INFO = 12, 28
"""Offsets in a section header (System V ABI, chapter 4)."""
LONG_NOP, SHORT_NOPS = bytes.fromhex("8d7600"), bytes.fromhex("89f690")
PAGE = 4096


def end_of(section: str, now: EditedFile) -> int:
    """File offset of the byte after a section."""
    found = now.image.section_by_name[section]
    return found.off + found.size


def longer(now: EditedFile) -> None:
    """Something follows the file."""
    now.data += b"\0"


def names_swapped(now: EditedFile) -> None:
    """The last two labels change places in the strings, and their symbols with them."""
    table, strings = (now.image.section_by_name[name] for name in (".symtab", ".strtab"))
    entries = np.frombuffer(now.image.section_bytes(table), SYMBOL).copy()
    old = now.image.section_bytes(strings)
    at = sorted(entries["name"][-2:].tolist())
    first, second = old[at[0] : at[1]], old[at[1] :]
    entries["name"][-2:] = [at[0] + len(second), at[0]]
    now.put(strings.off + at[0], second + first)
    now.put(table.off, entries.tobytes())


def labels_swapped(now: EditedFile) -> None:
    """The entries of two labels change places."""
    off = end_of(".symtab", now) - 2 * SYMBOL.itemsize
    first, second = (bytes(now.data[off + i * 16 :][:16]) for i in (0, 1))
    now.put(off, second + first)


def entries_swapped(now: EditedFile) -> None:
    """Two relocations change places: a loader does not care."""
    off = now.off(".rel.text")
    first, second = (bytes(now.data[off + i * 8 :][:8]) for i in (0, 1))
    now.put(off, second + first)


def records_swapped(now: EditedFile) -> None:
    """Two records change places: all sums stay as they are."""
    first, second = (now.records()[RECORD_LEN * i :][:RECORD_LEN] for i in (0, 1))
    now.put(now.off(".vmi.annotation"), second + first)


def thunk_calls_swapped(now: EditedFile) -> None:
    """Two calls in thunks are listed the other way round: the runtime does not care."""
    off = now.off(".vmi.thunks")
    first, second = (bytes(now.data[off + i * 8 :][:8]) for i in (0, 1))
    now.put(off, second + first)


def gap_filled(now: EditedFile) -> None:
    """A byte between two sections of a segment."""
    _, made = reproduced()
    gaps = np.isin(made.canvas.rows, [NUMBERS[row] for row in (Row.GAPS, Row.ZEROS)])
    now.put(int(np.flatnonzero(gaps[PAGE:])[0]) + PAGE, b"\x90")


def identity_made_up(now: EditedFile) -> None:
    """A build-id that is a hash of nothing."""
    now.write(now.image.section_by_name[".notes"].va + 16, b"0123")


def other_note(now: EditedFile) -> None:
    """The note gives another file than it says."""
    now.put(end_of(".vmi.restore", now) - 40, b"\xff\xff")


DAMAGES: dict[str, tuple[str, Callable[[EditedFile], None]]] = {
    "longer": ("VP100", longer),
    "address of what is not loaded": (
        "VP101",
        lambda now: now.header_word(".comment", ADDRESS, 1),
    ),
    "info of a section": ("VP101", lambda now: now.header_word(".data", INFO, 1)),
    "names": ("VP102", names_swapped),
    "labels": ("VP103", labels_swapped),
    "relocations": ("VP104", entries_swapped),
    "gap": ("VP106", gap_filled),
    "build-id": ("VP107", identity_made_up),
    "records": ("VP061", records_swapped),
    "calls in thunks": ("VP108", thunk_calls_swapped),
    "manifest": ("VP109", lambda now: now.swap(b'"padding":"prefix"', b'"padding":"pRefix"')),
    "note": ("VP145", other_note),
}


@cache
def reproduced(padding: Padding = Padding.PREFIX) -> tuple[ElfImage, Reproduction]:
    original, output = small_pair(padding)
    report = Report(hex)
    inputs = Inputs(original, output, read_manifest(output, report), report)
    return output, reproduce(Comparison.of(inputs))


@pytest.mark.parametrize("padding", list(Padding))
def test_file_is_reproduced_to_the_last_byte(padding: Padding) -> None:
    output, made = reproduced(padding)
    assert made.canvas.octets.tobytes() == output.data
    assert made.canvas.rows.all()


def test_ledger_counts_each_byte_once() -> None:
    original, output = small_pair()
    ledger = check_static(original, output).file
    assert ledger is not None
    assert ledger.file_len == len(output.data)
    assert ledger.unexplained == 0
    assert ledger.decisions["records"] > 5
    assert set(ledger.rows) <= {row.label for row in Row}


@pytest.mark.parametrize("what", DAMAGES)
def test_change_that_no_loader_sees_is_refused(what: str) -> None:
    original, output = small_pair()
    now = EditedFile(output)
    number, damage = DAMAGES[what]
    damage(now)
    verdict = check_static(original, now.changed, original_sha256=original.file_sha256)
    assert number in {rule.number for rule in verdict.totals}, verdict.findings


def test_every_byte_of_rows_that_are_built_is_compared() -> None:
    output, made = reproduced()
    octets = np.frombuffer(output.data, np.uint8)
    every = differences(~octets, made)
    assert len(every) == len(output.data)


def test_changed_bytes_of_every_row_are_refused() -> None:
    victim, dice = LedgerPair(*small_pair()), random.Random(16)
    for row in Row:
        changes = list(victim.changes(row, 5, dice))
        assert all(victim.is_refused(change) for change in changes), row
        assert all(victim.is_refuted(change) for change in changes[:1]), row


def test_thunk_has_one_form() -> None:
    """Without an index the scale says nothing: 8d 64 24 04 and 8d 64 a4 04 do the same."""
    original, output = small_pair()
    now = EditedFile(output)
    now.swap(bytes.fromhex("8d642404c3"), bytes.fromhex("8d64a404c3"))
    assert "VP072" in {rule.number for rule in check_static(original, now.changed).totals}


def test_rows_that_are_copied_are_few() -> None:
    _, made = reproduced()
    copied = [row for row in COPIED if (made.canvas.rows == NUMBERS[row]).any()]
    assert set(copied) == {Row.THUNKS, Row.RUNTIME, Row.NOTE}


def test_padding_of_other_nops_is_refused() -> None:
    original, output = small_pair(Padding.NOP)
    _, made = reproduced(Padding.NOP)
    octets, padding = output.data, made.canvas.rows == NUMBERS[Row.SITE_PADDING]
    at = next(
        i for i in np.flatnonzero(padding).tolist()
        if octets[i:].startswith(LONG_NOP) and not padding[i - 1] and padding[i : i + 3].all()
    )  # fmt: skip
    now = EditedFile(output)
    now.put(at, SHORT_NOPS)
    assert differences(np.frombuffer(now.changed.data, np.uint8), made).size
    assert "VP061" in {rule.number for rule in check_static(original, now.changed).totals}


def test_every_rule_of_the_file_has_a_damage() -> None:
    own = {row.rule.number for row in Row if row.rule.number >= "VP100"}
    assert own | {"VP061"} == {"VP105", *(number for number, _ in DAMAGES.values())}


def test_shortened_file_is_refused() -> None:
    original, output = small_pair()
    note = output.section_by_name[".vmi.restore"]
    data = bytearray(output.data[: note.off])
    table = struct.unpack_from("<I", data, 32)[0] + 40 * note.index
    struct.pack_into("<I", data, table + 20, 0)
    digest = original.file_sha256
    output = ElfImage.parse(bytes(data), "without note")
    assert not check_static(original, output, original_sha256=digest).holds
