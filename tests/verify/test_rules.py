# SPDX-License-Identifier: MIT
"""Is each rule of the static proof broken by what it forbids?"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.elfbuilder import DATA, RODATA, TEXT, ElfBuilder
from tests.verify.judged import judged
from tests.verify.pair import ALT_VA, DATA_VA, PAGE_OFFSET, RODATA_VA, TEXT_VA, small_pair
from vmipatch.choices import Padding
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32
from vmipatch.verify.static import RULES, check_static
from vmipatch.verify.static.added import check_added_words
from vmipatch.verify.static.bzimage.check import RULES_OF_BZIMAGES
from vmipatch.verify.static.check import OF_COMPARISON, OF_FILES, ON_THE_WAY
from vmipatch.verify.static.comparison import Check, Comparison, Inputs
from vmipatch.verify.static.headers import is_comparable
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.records import check_record_relocations
from vmipatch.verify.static.reproduce.check import check_file
from vmipatch.verify.static.verdict import KEPT_OF_A_RULE, Report
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import RECORD_LEN, unpack_records

RECORDS, INIT_RECORDS = ".vmi.annotation", ".vmi.annotation.init"
EX_TABLE_VA = RODATA_VA + 0x100


class EditedFile:
    """One file of a pair, to be changed at addresses, symbols and headers."""

    def __init__(self, image: ElfImage) -> None:
        self.image, self.data = image, bytearray(image.data)

    def at(self, name: str) -> int:
        """The address of a symbol."""
        va = self.image.symbols.address(name)
        assert va is not None
        return va

    def off(self, name: str) -> int:
        """The file offset of a section."""
        return self.image.section_by_name[name].off

    def write(self, va: int, content: str | bytes) -> None:
        """Overwrite bytes (or hexadecimal) at an address."""
        code = bytes.fromhex(content) if isinstance(content, str) else content
        self.put(self.image.offset_of(va), code)

    def put(self, off: int, content: bytes) -> None:
        """Overwrite bytes at a file offset."""
        self.data[off : off + len(content)] = content

    def add(self, va: int, summand: int) -> None:
        """Add to the word at an address."""
        word = int.from_bytes(self.image.read(va, 4), "little")
        self.write(va, struct.pack("<I", (word + summand) & 0xFFFFFFFF))

    def find(self, function: str, code: str) -> int:
        """The address of bytes in the first 64 of a function."""
        va = self.at(function)
        return va + self.image.read(va, 64).index(bytes.fromhex(code))

    def symbol_field(self, name: str, field_off: int, summand: int) -> None:
        """Add to a word of a symbol table entry."""
        index = self.image.symbols.by_name[name].index
        off = self.off(".symtab") + 16 * index + field_off
        word = int.from_bytes(self.data[off : off + 4], "little")
        self.put(off, struct.pack("<I", word + summand))

    def header_word(self, section: str, field_off: int, value: int) -> None:
        """Overwrite a word of a section header."""
        table = int.from_bytes(self.data[32:36], "little")
        index = self.image.section_by_name[section].index
        self.put(table + 40 * index + field_off, struct.pack("<I", value))

    def record(self, index: int = 0, section: str = RECORDS, **fields: Any) -> None:
        """Change fields of a record."""
        records = list(
            unpack_records(self.image.section_bytes(self.image.section_by_name[section]))
        )
        packed = replace(records[index], **fields).pack()
        self.put(self.off(section) + index * RECORD_LEN, packed)

    def records(self, section: str = RECORDS) -> bytes:
        """The bytes of a record section."""
        return self.image.section_bytes(self.image.section_by_name[section])

    def swap(self, old: bytes, new: bytes) -> None:
        """Replace bytes of the file by as many others."""
        assert len(old) == len(new) and old in self.data
        self.put(self.data.index(old), new)

    @property
    def changed(self) -> ElfImage:
        """The file as it is now."""
        return ElfImage.parse(bytes(self.data), self.image.name)


Damage = Callable[[EditedFile, EditedFile], None]


def barrier_lost(was: EditedFile, now: EditedFile) -> None:
    now.write(now.find("reads_clock", "c3c3cc") + 2, "90")


def led_into_instruction(was: EditedFile, now: EditedFile) -> None:
    was.add(was.find("start_kernel", "e8") + 1, 1)


def led_into_body(was: EditedFile, now: EditedFile) -> None:
    """The jz targets the hlt of sti; hlt in both files."""
    for file in (was, now):
        jump_va = file.find("start_kernel", "e8") + 5
        target_va = file.find("start_kernel", "fbf4") + 1
        file.write(jump_va + 1, struct.pack("<b", target_va - jump_va - 2))


def alternative_over_site(was: EditedFile, now: EditedFile) -> None:
    was.add(ALT_VA, was.at("runs_on") - (was.at("runs_on") + 2))
    now.add(ALT_VA, now.at("runs_on") - now.find("runs_on", "31c0"))


def order_lost(was: EditedFile, now: EditedFile) -> None:
    first, second = (now.image.read(EX_TABLE_VA + at, 12) for at in (0, 12))
    moved = struct.unpack("<iiI", second), struct.unpack("<iiI", first)
    for at, shift, (insn, fixup, kind) in ((0, 12, moved[0]), (12, -12, moved[1])):
        now.write(EX_TABLE_VA + at, struct.pack("<iiI", insn + shift, fixup + shift, kind))


def identity_kept(was: EditedFile, now: EditedFile) -> None:
    va = now.image.section_by_name[".notes"].va + 16
    now.write(va, was.image.read(va, 20))


def records_swapped(was: EditedFile, now: EditedFile) -> None:
    now.put(now.off(INIT_RECORDS), now.records()[:RECORD_LEN])
    now.put(now.off(RECORDS), now.records(INIT_RECORDS)[:RECORD_LEN])


def record_doubled(was: EditedFile, now: EditedFile) -> None:
    now.put(now.off(RECORDS) + RECORD_LEN, now.records()[:RECORD_LEN])


def idt_leads_to_early_code(was: EditedFile, now: EditedFile) -> None:
    for file in (was, now):
        file.add(file.at("def_idts"), file.at("early") - file.at("loads_twice"))


def reason_lost(was: EditedFile, now: EditedFile) -> None:
    # It is entered by a physical address, and switches paging on: its iret stays native.
    va = now.find("early", "cf")
    now.swap(f'"va":{va}'.encode(), f'"va":{va + 1}'.encode())


def other_function_redirected(was: EditedFile, now: EditedFile) -> None:
    old, new = (f'"redirect":[[{was.at(name)}'.encode() for name in ("start_kernel", "runs_on"))
    now.swap(old, new)


def unknown_reason(was: EditedFile, now: EditedFile) -> None:
    now.swap(b"runs before paging is on", b"walks before paging is on"[:24])


DAMAGES: list[tuple[str, Damage]] = [
    ("VP001", lambda was, now: now.write(now.find("runs_on", "31c0"), "31c9")),
    ("VP002", lambda was, now: now.symbol_field("runs_on", 4, DATA_VA - now.at("runs_on"))),
    ("VP003", barrier_lost),
    ("VP004", lambda was, now: now.write(now.find("runs_on", "31c0"), "0f04")),
    ("VP005", lambda was, now: now.add(now.find("start_kernel", "e8") + 1, 1)),
    ("VP006", led_into_instruction),
    ("VP007", other_function_redirected),
    ("VP010", lambda was, now: now.add(DATA_VA + 8, 4)),
    ("VP011", lambda was, now: now.put(now.off(".rel.data"), struct.pack("<I", DATA_VA + 20))),
    ("VP020", lambda was, now: now.add(EX_TABLE_VA + 4, 1)),
    ("VP021", order_lost),
    ("VP022", alternative_over_site),
    ("VP030", lambda was, now: now.symbol_field("pointers", 4, 4)),
    ("VP031", lambda was, now: now.symbol_field("runs_on", 8, 1)),
    ("VP032", lambda was, now: now.symbol_field("runs_on", 0, 1)),
    ("VP040", lambda was, now: now.write(DATA_VA + 20, b"P")),
    ("VP041", lambda was, now: now.put(now.off(".comment"), b"S")),
    ("VP042", identity_kept),
    ("VP050", lambda was, now: now.header_word(".data", 32, 8)),
    ("VP051", lambda was, now: now.put(52 + 24, struct.pack("<I", 7))),
    ("VP052", lambda was, now: now.header_word(".vmi.text", 20, 0x100)),
    ("VP052", lambda was, now: now.header_word(".vmi.restore", 8, 2)),
    ("VP052", lambda was, now: now.header_word(".vmi.restore", 16, 0x1000)),
    ("VP053", lambda was, now: now.swap(b'"version":1', b'"version":9')),
    ("VP060", lambda was, now: now.record(native_va=now.find("runs_on", "31c0"), native_len=5)),
    ("VP061", lambda was, now: now.record(pad_len=5)),
    ("VP062", lambda was, now: now.record(call=VmiCall.CLTS)),
    ("VP063", lambda was, now: now.record(call_off=1)),
    ("VP064", record_doubled),
    ("VP065", records_swapped),
    ("VP066", record_doubled),
    ("VP067", led_into_body),
    ("VP068", reason_lost),
    ("VP069", lambda was, now: now.put(now.off(".vmi.thunks") + 4, struct.pack("<I", 9999))),
    ("VP070", lambda was, now: now.header_word(".vmi.fallback", 20, 4)),
    ("VP071", lambda was, now: now.write(now.at("__vmi_start"), "90")),
    ("VP072", lambda was, now: now.write(now.at("__vmi_text"), "52")),
    ("VP080", led_into_instruction),
    ("VP081", reason_lost),
    ("VP085", idt_leads_to_early_code),
    ("VP087", unknown_reason),
    ("VP073", lambda was, now: now.symbol_field("__vmi_annotation_end", 4, 16)),
]
ON_THEIR_OWN = {
    *("VP012", "VP013", "VP023", "VP024", "VP025", "VP054", "VP074", "VP075", "VP082"),
    *("VP086", "VP088", "VP089", "VP090", "VP098"),
    *(rule.number for rule in check_file.rules if rule.number >= "VP100"),
}
"""Rules with tests of their own: below, in test_out_of_line, in tests/rewrite (test_code_pages,
test_emulated, test_computed_entries, test_aligned, test_own_address), in test_decoder_bugs and
test_decisions, that of the two readers in tests/image, those of the file in reproduce."""
OF_BZIMAGES = {f"VP{number}" for number in range(140, 148)}
"""Those of tests/verify/bzimage."""


@pytest.mark.parametrize("padding", list(Padding))
def test_rewritten_kernel_holds(padding: Padding) -> None:
    verdict = check_static(*small_pair(padding))
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["records"] > 5


@pytest.mark.parametrize(("number", "damage"), DAMAGES, ids=[n for n, _ in DAMAGES])
def test_rule_is_broken_by_what_it_forbids(number: str, damage: Damage) -> None:
    was, now = (EditedFile(image) for image in small_pair())
    damage(was, now)
    verdict = check_static(was.changed, now.changed)
    assert not verdict.holds
    broken = {rule.number for rule in verdict.totals}
    assert number in broken, "\n".join(map(str, verdict.findings))


def test_every_rule_has_a_damage() -> None:
    assert {rule.number for rule in RULES} == {n for n, _ in DAMAGES} | ON_THEIR_OWN | OF_BZIMAGES


def test_every_rule_is_registered_with_a_check() -> None:
    checks: tuple[Check[Any], ...] = (*OF_FILES, *OF_COMPARISON, check_file)
    of_kernels = {rule for check in checks for rule in check.rules}
    assert set(RULES) == {*ON_THE_WAY, *of_kernels, *RULES_OF_BZIMAGES}


@pytest.mark.parametrize(("number", "damage"), DAMAGES, ids=[n for n, _ in DAMAGES])
def test_check_reports_nothing_but_what_it_is_registered_with(number: str, damage: Damage) -> None:
    was, now = (EditedFile(image) for image in small_pair())
    damage(was, now)
    original, output = was.changed, now.changed
    report = Report(output.symbols.place_of)
    inputs = Inputs(original, output, read_manifest(output, report), report)
    comparison = Comparison.of(inputs) if is_comparable(inputs) else None
    assert set(report.verdict().totals) <= set(ON_THE_WAY)
    checks: list[tuple[Check[Any], Any]] = [(check, inputs) for check in OF_FILES]
    checks += [(check, comparison) for check in OF_COMPARISON if comparison]
    for check, subject in checks:
        fresh = replace(inputs, report=Report(hex))
        check(fresh if subject is inputs else replace(subject, inputs=fresh))
        assert set(fresh.report.verdict().totals) <= set(check.rules)


def test_rules_are_numbered_once() -> None:
    numbers = [rule.number for rule in RULES]
    assert numbers == sorted(set(numbers))


def test_relocation_of_a_record_is_found() -> None:
    builder = ElfBuilder()
    builder.section(RECORDS, DATA_VA, bytes(RECORD_LEN), RODATA)
    builder.symbol("native", DATA_VA)
    builder.relocation(DATA_VA + 4, R_386_32, "native")
    image = builder.image()
    findings = judged(check_record_relocations, output=image)
    assert [f.rule.number for f in findings] == ["VP012"]


def test_word_of_added_code_that_the_kernel_lacks_is_found() -> None:
    builder = ElfBuilder()
    builder.section(".vmi.text", TEXT_VA, struct.pack("<I", DATA_VA + 8), TEXT)
    builder.section(".data", DATA_VA, struct.pack("<I", DATA_VA), DATA)
    builder.symbol("pointers", DATA_VA)
    builder.relocation(TEXT_VA, R_386_32, "pointers")
    builder.relocation(DATA_VA, R_386_32, "pointers")
    image = builder.image()
    findings = judged(check_added_words, output=image)
    assert [(f.rule.number, f.va) for f in findings] == [("VP013", TEXT_VA)]


def test_proof_against_another_file_than_the_rewritten_one_is_none() -> None:
    original, output = small_pair()
    other, same = (hashlib.sha256(original.data + end).hexdigest() for end in (b"x", b""))
    assert check_static(original, output, original_sha256=same).holds
    finding, way_back = check_static(original, output, original_sha256=other).findings
    assert (finding.rule.number, way_back.rule.number) == ("VP054", "VP145")
    assert same in finding.message and other in finding.message


def test_original_alone_is_not_a_rewritten_kernel() -> None:
    original, _ = small_pair()
    verdict = check_static(original, original)
    assert not verdict.holds


def test_stripped_original_is_refused() -> None:
    builder = ElfBuilder(entry=DATA_VA - PAGE_OFFSET)
    builder.section(".rodata", DATA_VA, b"data", RODATA)
    with pytest.raises(InputNotUnderstood, match="no symbols"):
        check_static(builder.image(), builder.image())


def test_findings_beyond_the_limit_are_counted() -> None:
    report = Report(hex)
    for va in range(KEPT_OF_A_RULE + 5):
        report.add(RULES[0], va, "again")
    verdict = report.verdict()
    assert len(verdict.findings) == KEPT_OF_A_RULE
    assert verdict.totals == {RULES[0]: KEPT_OF_A_RULE + 5}
