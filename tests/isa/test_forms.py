# SPDX-License-Identifier: MIT
"""Does every row of the table match its own instructions, and no other row's?"""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.isa.encodings import SPECIAL, by_capstone, by_iced, examples
from vmipatch.isa.classify import call_of, classify, has_memory_operand, split_prefixes
from vmipatch.isa.forms import FORMS, AtCpl1, Form, Operand, Treatment
from vmipatch.vmi.calls import VmiCall

each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)

ALIASES = {
    "pushf": "pushfd",
    "popf": "popfd",
    "iret": "iretd",
    "sysret": "sysret",
}
"""What decoders call the 32-bit form of an instruction."""
FAR = {"lcall": "call", "ljmp": "jmp"}
"""capstone's names of branches to another segment."""


def by_name(name: str) -> Form:
    return next(form for form in FORMS if form.name == name)


@each_form
def test_every_encoding_is_classified_as_its_row(form: Form) -> None:
    for code in examples(form):
        assert classify(code) is form, code.hex()


@each_form
def test_both_decoders_call_the_encodings_by_the_name_of_the_row(form: Form) -> None:
    verb = form.name.split()[0]
    for code in examples(form):
        for decoded in (by_iced(code), by_capstone(code)):
            assert decoded is not None, code.hex()
            length, mnemonic, _ = decoded
            assert length == len(code)
            assert FAR.get(mnemonic, mnemonic) in (verb, ALIASES.get(verb)), code.hex()


@each_form
def test_prefixes_do_not_hide_a_form(form: Form) -> None:
    for code in examples(form):
        for prefix in (b"\x3e", b"\x2e\x3e", b"\x66", b"\x67"):
            assert (classify(prefix + code) is form) is not (prefix in form.hidden_by)


def test_names_are_unique() -> None:
    names = [form.name for form in FORMS]
    assert len(set(names)) == len(names)


def test_no_two_rows_match_the_same_bytes() -> None:
    for one, other in combinations(FORMS, 2):
        assert not overlap(one, other), f"{one.name} and {other.name}"


def overlap(one: Form, other: Form) -> bool:
    """Whether some bytes have both forms."""
    if None not in (one.prefix, other.prefix) and one.prefix != other.prefix:
        return False
    short, long = sorted((one, other), key=lambda form: len(form.opcode))
    if not long.opcode.startswith(short.opcode):
        return False
    if len(short.opcode) == len(long.opcode):
        return bool(modrm_values(short) & modrm_values(long))
    return long.opcode[len(short.opcode)] in modrm_values(short)


def modrm_values(form: Form) -> set[int]:
    """The bytes that may follow the opcode."""
    if form.operand is Operand.NONE:
        return set(range(256))
    wanted = {Operand.ANY: (0, 1, 2, 3), Operand.MEMORY: (0, 1, 2), Operand.REGISTER: (3,)}
    return {
        octet
        for octet in range(256)
        if octet >> 6 in wanted[form.operand] and form.reg in (None, octet >> 3 & 7)
    }


def test_rows_say_what_is_done_consistently() -> None:
    for form in FORMS:
        assert (form.treatment is Treatment.CALL) == (form.call is not None), form.name
        assert form.treatment is not Treatment.LEAVE or form.at_cpl1 is AtCpl1.SAME, form.name
        assert not form.is_unprivileged or form.treatment is Treatment.CALL, form.name


def test_forms_of_one_class_are_treated_alike() -> None:
    for one, other in combinations(FORMS, 2):
        if one.kind == other.kind:
            assert (one.at_cpl1, one.treatment) == (other.at_cpl1, other.treatment), one.kind


def test_classic_unprivileged_instructions_are_all_there() -> None:
    """Robin and Irvine, section 3: those that a 32-bit kernel can execute."""
    differs = {form.name.split()[0] for form in FORMS if form.is_unprivileged}
    assert differs >= {"pushf", "popf", "sgdt", "sidt", "sldt", "smsw", "str", "mov", "push"}


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("ec", VmiCall.INB),
        ("ed", VmiCall.INL),
        ("66ed", VmiCall.INW),
        ("66e71f", VmiCall.OUTW),
        ("e71f", VmiCall.OUTL),
        ("f36f", VmiCall.OUTSL),
        ("f3666f", VmiCall.OUTSW),
        ("666d", VmiCall.INSW),
        ("66ee", VmiCall.OUTB),
        ("fa", VmiCall.DISABLE_INTERRUPTS),
        ("0f08", None),
    ],
)
def test_call_follows_the_operand_size(code: str, call: VmiCall | None) -> None:
    form = classify(bytes.fromhex(code))
    assert form is not None
    assert call_of(form, bytes.fromhex(code)) is call


@each_form
def test_memory_operands_are_those_that_decoders_see(form: Form) -> None:
    if form.operand is Operand.NONE or form.kind in ("far call", "far jmp"):
        return
    for code in examples(form):
        decoded = by_iced(code)
        assert decoded is not None
        assert has_memory_operand(form, code) == ("[" in decoded[2]), code.hex()


def test_control_registers_have_no_memory_operand_whatever_their_mod_says() -> None:
    for code in (bytes((*opcode, modrm)) for opcode in SPECIAL for modrm in (0x00, 0xC0)):
        form = classify(code)
        assert form is not None
        assert not has_memory_operand(form, code)


def test_truncated_instructions_have_no_form() -> None:
    for code in (b"", b"\x0f", b"\x0f\x01", b"\x8e", b"\x3e\x3e", b"\xff"):
        assert classify(code) is None


def test_prefixes_are_told_from_the_opcode() -> None:
    assert split_prefixes(b"\xf3\x66\x6d") == (b"\xf3\x66", b"\x6d")
    assert split_prefixes(b"\x90") == (b"", b"\x90")
    assert split_prefixes(b"\x3e\x3e") == (b"\x3e\x3e", b"")
