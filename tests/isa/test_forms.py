# SPDX-License-Identifier: MIT
"""Does every row of the table match its own instructions, and no other row's?"""

from __future__ import annotations

from itertools import combinations

import iced_x86
import pytest

from tests.isa.encodings import SPECIAL, by_capstone, by_iced, examples
from vmipatch.isa.classify import call_of, classify, has_memory_operand, split_prefixes
from vmipatch.isa.forms import FORMS, AtCpl1, Form, FormTreatment, WantedModrm
from vmipatch.isa.second import instruction_len
from vmipatch.vmi.calls import VmiCall

each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)

ALIASES = {
    "pushf": "pushfd",
    "popf": "popfd",
    "iret": "iretd",
    "sysret": "sysret",
    "wruss": "wrussd",
    "wrss": "wrssd",
}
"""Decoders' names of the 32-bit form of an instruction."""
UNKNOWN_TO_CAPSTONE = frozenset(
    ("rdpru", "invlpgb", "tlbsync", "pvalidate", "wrmsrns", "tdcall", "hreset", "loadiwkey",
     "enqcmds", "enqcmd")
)  # fmt: skip
"""capstone 5.0 has no name for them: the second decoder knows their lengths by the table."""
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
        known = [by_iced(code)]
        if verb in UNKNOWN_TO_CAPSTONE:
            assert by_capstone(code) is None
        else:
            known.append(by_capstone(code))
        for decoded in known:
            assert decoded is not None, code.hex()
            length, mnemonic, _ = decoded
            assert length == len(code)
            assert FAR.get(mnemonic, mnemonic) in (verb, ALIASES.get(verb)), code.hex()


@each_form
def test_prefixes_do_not_hide_a_form(form: Form) -> None:
    for code in examples(form):
        for prefix in (b"\x3e", b"\x2e\x3e", b"\x66", b"\x67"):
            assert (classify(prefix + code) is form) is not (prefix in form.hidden_by)


@each_form
@pytest.mark.parametrize("prefix", ["", "3e", "67"])
def test_the_second_decoder_gives_each_encoding_its_length(form: Form, prefix: str) -> None:
    for bare in examples(form):
        code = bytes.fromhex(prefix) + bare
        decoded = by_iced(code + b"\x90" * 12)
        assert decoded is not None
        assert instruction_len(code + b"\x90" * 12) == decoded[0], code.hex()


@pytest.mark.parametrize(
    "form", [f for f in FORMS if f.prefix or f.hidden_by], ids=lambda f: f.name
)
@pytest.mark.parametrize("prefix", ["", "66", "f2", "f3", "67"])
def test_prefixes_that_select_or_hide_do_so_as_the_first_decoder_says(
    form: Form, prefix: str
) -> None:
    bare = form.opcode + (b"" if form.operand is WantedModrm.NONE else example_tail(form))
    code = bytes.fromhex(prefix) + bare + b"\x00" * (form.opcode[:2] == b"\x0f\x3a")
    decoded, found = by_iced(code), classify(code)
    if decoded is not None:  # else it is not an instruction, and its class does not matter
        assert (found is form) == (decoded[1] in (form.name.split()[0], ALIASES.get(form.kind)))


def example_tail(form: Form) -> bytes:
    """The byte after the opcode of the first example."""
    return examples(form)[0].split(form.opcode, 1)[1][:1]


ONLY_IN_64_BITS = {
    "swapgs": "0f01f8", "rdmsrlist": "f20f01c6", "wrmsrlist": "f30f01c6", "lkgs": "f20f00f0",
    "erets": "f20f01ca", "eretu": "f30f01ca", "seamcall": "660f01cf", "psmash": "f30f01ff",
    "rmpadjust": "f30f01fe", "rmpupdate": "f20f01fe", "clui": "f30f01ee", "stui": "f30f01ef",
    "uiret": "f30f01ec", "testui": "f30f01ed", "senduipi": "f30fc7f0",
}  # fmt: skip


@pytest.mark.parametrize("name", ONLY_IN_64_BITS)
def test_what_64_bit_mode_alone_has_is_no_instruction(name: str) -> None:
    code = bytes.fromhex(ONLY_IN_64_BITS[name])
    assert by_iced(code) is None
    wide = iced_x86.Decoder(64, code).decode()
    assert wide.code and wide.len == len(code)


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
    for form, hiding in ((one, other), (other, one)):
        if form.prefix is not None and form.prefix in hiding.hidden_by:
            return False
    short, long = sorted((one, other), key=lambda form: len(form.opcode))
    if not long.opcode.startswith(short.opcode):
        return False
    if len(short.opcode) == len(long.opcode):
        return bool(modrm_values(short) & modrm_values(long))
    return long.opcode[len(short.opcode)] in modrm_values(short)


def modrm_values(form: Form) -> set[int]:
    """The bytes that may follow the opcode."""
    if form.operand is WantedModrm.NONE:
        return set(range(256))
    wanted = {
        WantedModrm.ANY: (0, 1, 2, 3),
        WantedModrm.MEMORY: (0, 1, 2),
        WantedModrm.REGISTER: (3,),
    }
    return {
        octet
        for octet in range(256)
        if octet >> 6 in wanted[form.operand] and form.reg in (None, octet >> 3 & 7)
    }


def test_rows_say_what_is_done_consistently() -> None:
    for form in FORMS:
        assert (form.treatment is FormTreatment.CALL) == (form.call is not None), form.name
        harmless = (AtCpl1.SAME, AtCpl1.DIFFERS_BY_DESCRIPTOR)
        assert (form.treatment is FormTreatment.LEAVE) == (form.at_cpl1 in harmless), form.name
        assert not form.is_unprivileged or form.treatment is FormTreatment.CALL, form.name


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
    if form.operand is WantedModrm.NONE or form.kind in ("far call", "far jmp"):
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
