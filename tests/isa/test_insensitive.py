# SPDX-License-Identifier: MIT
"""Is everything that decoders do not call sensitive left alone, and nothing sensitive overlooked?

Judged by the words that the decoders print, over all opcodes and any ModRM.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.isa.encodings import by_capstone, by_iced
from vmipatch.isa.classify import classify


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SENSITIVE = words(
    "lgdt lidt sgdt sidt lldt ltr sldt str lmsw smsw clts invd wbinvd wbnoinvd invlpg invpcid hlt "
    "rdmsr wrmsr rdpmc rdtsc rdtscp sysexit sysexitd sysret sysretd rsm xsetbv xgetbv xsaves "
    "xrstors monitor mwait clac stac vmcall vmmcall vmlaunch vmresume vmxoff stgi encls cli sti "
    "in out insb insw insd outsb outsw outsd pushf pushfd popf popfd iret iretd cpuid retf "
    "lds les lfs lgs lss lar lsl verr verw arpl int into int1 sysenter syscall lcall ljmp "
    "enclv pconfig wrmsrns setssbsy clrssbsy wrussd wrssd hreset loadiwkey enqcmds enqcmd tpause "
    "umwait tdcall rdpru invlpgb tlbsync pvalidate vmfunc"
)
HYPERVISOR_ONLY = words(
    "vmrun vmload vmsave clgi skinit invlpga vmxon vmclear vmptrld vmptrst vmread vmwrite "
    "invept invvpid getsec"
)
"""They fault at CPL 1 as other privileged ones do. Only a kernel that hosts guests has them, and
the table may list them or not."""

_SPECIAL = re.compile(r"(?:[cdefgs]s|cr\d+|dr\d+)")
_NO_SUCH = re.compile(r"mov .*\bcr(?:1|[5-9]|1\d)\b.*|mov cs,.*")
"""Control registers that i386 lacks, and loads of CS: #UD everywhere, but capstone prints them."""
_PREFIX_WORDS = words("rep repe repz repne repnz lock data16 notrack bnd")


def is_sensitive(mnemonic: str, operands: str) -> bool | None:
    """The rule for the printed words; None if the table may do as it likes."""
    verb = next((word for word in mnemonic.split() if word not in _PREFIX_WORDS), mnemonic)
    if verb in HYPERVISOR_ONLY or _NO_SUCH.fullmatch(f"{verb} {operands}"):
        return None
    if verb in ("mov", "push", "pop"):
        return any(_SPECIAL.fullmatch(part.strip()) for part in operands.split(","))
    if verb in ("call", "jmp"):
        return is_far(operands)
    return verb in SENSITIVE


def is_far(operands: str) -> bool:
    """iced writes `far [eax]` and `60h:12h`; capstone leaves out the size of far pointers."""
    if "[" in operands:
        return "far" in operands or operands.startswith("ptr")
    return ":" in operands


def agrees(code: bytes, decoded: tuple[int, str, str] | None) -> bool:
    """Whether `classify` says what the decoder's words say (vacuously where it decodes none)."""
    if decoded is None:
        return True
    length, mnemonic, operands = decoded
    expected = is_sensitive(mnemonic, operands)
    return expected is None or expected == (classify(code[:length]) is not None)


Decode = Callable[[bytes], tuple[int, str, str] | None]
TAIL = bytes.fromhex("0400000011223344556677")
MAPS = {"one byte": "", "0f": "0f", "0f 38": "0f38"}


@pytest.mark.parametrize("decode", [by_iced, by_capstone])
@pytest.mark.parametrize("escape", MAPS.values(), ids=MAPS)
def test_every_opcode_is_judged_as_its_words_say(escape: str, decode: Decode) -> None:
    prefix = bytes.fromhex(escape)
    for opcode in range(256):
        for modrm in range(256):
            code = prefix + bytes((opcode, modrm)) + TAIL
            assert agrees(code, decode(code)), (code.hex(), decode(code))


prefixes = st.lists(st.sampled_from((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66)), max_size=3)
opcodes = st.one_of(
    st.binary(min_size=1, max_size=1),
    st.binary(min_size=1, max_size=1).map(lambda code: b"\x0f" + code),
)
instructions = st.builds(
    lambda front, opcode, rest: bytes(front) + opcode + rest,
    prefixes,
    opcodes,
    st.binary(min_size=10, max_size=10),
)


@pytest.mark.parametrize("code", ["660f78c00102", "660f79c1", "f20f78c10102", "f20f79c1"])
def test_moves_of_bits_in_a_register_are_no_reads_of_a_hypervisors(code: str) -> None:
    octets = bytes.fromhex(code)
    for decode in (by_iced, by_capstone):
        decoded = decode(octets + TAIL)
        assert decoded is not None and decoded[1] in ("extrq", "insertq")
        assert agrees(octets, decoded)


@settings(max_examples=1000)
@given(instructions)
def test_first_decoder_and_table_agree_on_any_instruction(code: bytes) -> None:
    assert agrees(code, by_iced(code)), by_iced(code)


@settings(max_examples=1000)
@given(instructions)
def test_second_decoder_and_table_agree_on_any_instruction(code: bytes) -> None:
    assert agrees(code, by_capstone(code)), by_capstone(code)
