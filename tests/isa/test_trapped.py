# SPDX-License-Identifier: MIT
"""Is an instruction taken apart as the manual says?"""

import pytest

from vmipatch.isa.trapped import MAX_LEN, MemoryPlace, take_apart

REGISTER_VALUES = [0x1000, 0x20000, 0x300000, 0x4000000, 0x50000000, 6, 0xFFFFFFFF, 0x80000000]


def offset_of(hex_code: str) -> int:
    taken = take_apart(bytes.fromhex(hex_code))
    assert taken is not None and taken.memory is not None
    return taken.memory.offset(REGISTER_VALUES.__getitem__)


@pytest.mark.parametrize(
    ("hex_code", "offset"),
    [
        ("0f0110", 0x1000),  # lgdt [eax]
        ("0f011578563412", 0x12345678),  # lgdt [0x12345678]
        ("0f013c24", 0x50000000),  # invlpg [esp]
        ("0f017d00", 6),  # invlpg [ebp]
        ("0f017df8", 0xFFFFFFFE),  # invlpg [ebp-8]
        ("0f01bc8378563412", 0x4000000 + 0x4000 + 0x12345678),  # invlpg [ebx+eax*4+...]
        ("0f013cfd04000000", 0x00000004),  # invlpg [edi*8+4] wraps around
        ("670f011f", 0x0000),  # lidt [bx]
        ("670f011e3412", 0x1234),  # lidt [0x1234]
    ],
)
def test_offset_of_a_memory_operand(hex_code: str, offset: int) -> None:
    assert offset_of(hex_code) == offset


@pytest.mark.parametrize(
    ("hex_code", "segment"),
    [("0f0110", 3), ("0f013c24", 2), ("0f017d00", 2), ("640f0110", 4), ("2e0f0110", 1)],
)
def test_default_and_overriding_segment(hex_code: str, segment: int) -> None:
    taken = take_apart(bytes.fromhex(hex_code))
    assert taken is not None and isinstance(taken.memory, MemoryPlace)
    assert taken.memory.segment == segment


def test_prefixes_belong_to_the_instruction_and_what_follows_does_not() -> None:
    taken = take_apart(bytes.fromhex("3e3e3e9c" + "90" * 11))
    assert taken is not None
    assert (taken.form.kind, taken.length, taken.operand_len) == ("pushf", 4, 4)
    narrow = take_apart(bytes.fromhex("669c"))
    assert narrow is not None and narrow.operand_len == 2


def test_control_register_moves_name_registers_whatever_mod_says() -> None:
    for modrm in ("d8", "18"):
        taken = take_apart(bytes.fromhex("0f22" + modrm))
        assert taken is not None
        assert (taken.form.name, taken.reg, taken.rm) == ("mov cr3, r32", 3, 0)
        assert taken.memory is None


def test_far_jump_keeps_its_pointer() -> None:
    taken = take_apart(bytes.fromhex("ea78563412" + "6000"))
    assert taken is not None and taken.tail == bytes.fromhex("785634126000")


@pytest.mark.parametrize("hex_code", ["", "90", "0f", "0f01", "89d8", "f0fa"])
def test_other_bytes_are_no_trapped_instruction(hex_code: str) -> None:
    assert take_apart(bytes.fromhex(hex_code)) is None


def test_an_instruction_has_at_most_fifteen_bytes() -> None:
    assert take_apart(b"\x3e" * MAX_LEN + b"\x9c") is None
    longest = take_apart(b"\x3e" * (MAX_LEN - 1) + b"\x9c")
    assert longest is not None and longest.length == MAX_LEN
