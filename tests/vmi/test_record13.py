# SPDX-License-Identifier: MIT
"""Are records of the March 2006 patches told from ours by what they say?

The samples are bytes: one that was published, the others as the macros of the patches make them.
"""

from __future__ import annotations

import pytest

from vmipatch.vmi.api13 import Call13
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import FINAL_TRANSLATION, AnnotationRecord
from vmipatch.vmi.record13 import Annotations, records_13, whose

SITE_VA, TRANSLATION_VA = 0xC010002E, 0xC0300000

STI = ("23000000", "fb66666690", "e823000000", "05050400")
"""Amsden's disassembly of process.o, 22 March 2006: record, site, translation, lengths."""
WRITE_GDT_ENTRY = ("10000000", "890cd08974d004666690", "56e8100000008d642404", "0a0a0300")
FLUSH_TLB = ("38000000", "0f20d80f22d8", "e838000000", "0605ff00")
"""The native instructions are longer: no padding, and -1."""
SET_LINEAR_MAPPING = ("3a000000", "66666666666666666690", "51e83a0000008d642404", "0a0a0a00")
UPDATE_KERNEL_STACK = ("13000000", "6666666690", "e813000000", "05050500")
PUSHED_BYTE = ("3a000000", "66" * 10 + "90", "6a00e83a0000008d642404", "0b0b0b00")
PUSHED_WORD = ("3a000000", "66" * 11 + "90" + "6690", "6878563412e83a0000008d642404",
               "0e0e0e00")  # fmt: skip
"""14 bytes of padding: a nop of 12 and one of 2."""
SAMPLES = [
    STI, WRITE_GDT_ENTRY, FLUSH_TLB, SET_LINEAR_MAPPING, UPDATE_KERNEL_STACK, PUSHED_BYTE,
    PUSHED_WORD,
]  # fmt: skip


class Memory:
    """Bytes at addresses."""

    def __init__(self) -> None:
        self.at: dict[int, bytes] = {}

    def read(self, va: int, length: int) -> bytes:
        """As many as there are, of one piece."""
        return next((d[va - s :][:length] for s, d in self.at.items() if s <= va < s + len(d)), b"")

    def record(self, number: str, native: str, translation: str, lengths: str) -> bytes:
        """Put site and translation into memory; returns the record."""
        site_va = SITE_VA + 0x100 * len(self.at)
        translation_va = TRANSLATION_VA + 0x100 * len(self.at)
        self.at[site_va] = bytes.fromhex(native)
        self.at[translation_va] = bytes.fromhex(translation)
        addresses = site_va.to_bytes(4, "little") + translation_va.to_bytes(4, "little")
        return bytes.fromhex(number) + addresses + bytes.fromhex(lengths)


def told(*samples: tuple[str, str, str, str]) -> Annotations:
    memory = Memory()
    return whose(b"".join(memory.record(*sample) for sample in samples), memory.read)


def test_published_record_is_read() -> None:
    memory = Memory()
    (record,) = records_13(memory.record(*STI), memory.read)
    assert record.call is Call13.ENABLE_INTERRUPTS
    assert (record.native_va, record.translation_va, record.pad_len) == (
        SITE_VA, TRANSLATION_VA, 4,
    )  # fmt: skip
    assert record.native == b"\xfb\x66\x66\x66\x90"


@pytest.mark.parametrize("sample", SAMPLES)
def test_each_shape_of_the_macros_is_one_of_api_13(sample: tuple[str, str, str, str]) -> None:
    assert told(sample) is Annotations.MARCH_2006


def test_all_together_are_of_api_13() -> None:
    assert told(*SAMPLES) is Annotations.MARCH_2006


WRONG = {
    "number that no call has": ("58000000", "fb66666690", "e858000000", "05050400"),
    "number of the header": ("04000000", "fb66666690", "e804000000", "05050400"),
    "displacement of another call": (STI[0], STI[1], "e824000000", STI[3]),
    "last byte": (*STI[:3], "05050401"),
    "site shorter than its translation": (STI[0], "fb666690", STI[2], "04050400"),
    "padding of another length": (*STI[:3], "05050300"),
    "padding by single nops": (STI[0], "fb90909090", *STI[2:]),
    "jump": (STI[0], STI[1], "e923000000", STI[3]),
    "nothing takes the push off": (
        SET_LINEAR_MAPPING[0], "666666666690", "51e83a000000", "06060600",
    ),
    "too much is taken off": (*SET_LINEAR_MAPPING[:2], "51e83a0000008d642408", "0a0a0a00"),
    "push of ESP": (*SET_LINEAR_MAPPING[:2], "54e83a0000008d642404", "0a0a0a00"),
    "two calls": (STI[0], "fb" + "66" * 8 + "90", "e823000000e823000000", "0a0a0900"),
    "no call": (STI[0], "fb90", "5050", "02020100"),
    "translation in no memory": (STI[0], STI[1], "e8230000", STI[3]),
}  # fmt: skip


@pytest.mark.parametrize("sample", WRONG.values(), ids=WRONG)
def test_one_wrong_record_makes_all_of_neither(sample: tuple[str, str, str, str]) -> None:
    assert told(sample) is not Annotations.MARCH_2006
    assert told(STI, sample, FLUSH_TLB) is Annotations.UNKNOWN


def test_records_of_a_rewritten_kernel_are_ours() -> None:
    """Numbers that API 13 has too; the calls are `call .+5`, or aimed at a thunk already."""
    memory = Memory()
    memory.at[TRANSLATION_VA] = bytes.fromhex("e800000000e8fc0f0000")
    memory.at[SITE_VA] = bytes.fromhex("fb666666900f20c06690")
    ours = [
        AnnotationRecord(VmiCall.ENABLE_INTERRUPTS, SITE_VA, TRANSLATION_VA, 5, 5, 4, 0),
        AnnotationRecord(
            VmiCall.GET_CR0, SITE_VA + 5, TRANSLATION_VA + 5, 5, 5, 2, FINAL_TRANSLATION
        ),
    ]
    data = b"".join(record.pack() for record in ours)
    assert whose(data, memory.read) is Annotations.OURS
    assert whose(data + b"\0" * 8, memory.read) is Annotations.UNKNOWN
    assert whose(data.replace(b"\x1d\0\0\0", b"\x23\0\0\0", 1), memory.read) is Annotations.OURS


def test_empty_section_is_not_of_api_13() -> None:
    assert whose(b"", Memory().read) is not Annotations.MARCH_2006
