# SPDX-License-Identifier: MIT
"""Do the nops of padded sites change nothing, and do fused groups keep their order?"""

from __future__ import annotations

from typing import Any

import pytest
import unicorn
from hypothesis import given
from hypothesis import strategies as st
from unicorn import x86_const as reg

from tests.isa.encodings import by_capstone, by_iced
from vmipatch.choices import Padding
from vmipatch.isa.classify import classify
from vmipatch.rewrite.body import NOPS, body_of, nops
from vmipatch.scan.site import Disposition, Fusion, Reason, Site

CODE_VA, PAGE = 0x10000, 0x1000
GENERAL = [
    getattr(reg, f"UC_X86_REG_{name}")
    for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")
]
FLAGS = reg.UC_X86_REG_EFLAGS
ARITHMETIC_FLAGS = 0x8D5
"""CF, PF, AF, ZF, SF, OF."""
words = st.integers(0, 0xFFFFFFFF)
each_padding = pytest.mark.parametrize("padding", list(Padding))


@pytest.mark.parametrize("length", NOPS)
def test_each_nop_is_one_instruction_of_its_length(length: int) -> None:
    for decoded in (by_iced(NOPS[length]), by_capstone(NOPS[length])):
        assert decoded is not None
        assert decoded[0] == len(NOPS[length]) == length


@pytest.mark.parametrize("length", NOPS)
def test_no_nop_is_of_the_kind_that_older_processors_lack(length: int) -> None:
    assert not NOPS[length].startswith((b"\x0f\x1f", b"\x66\x0f\x1f"))


def new_machine() -> Any:
    """A 32-bit processor without memory; unicorn has no types."""
    return unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)  # type: ignore[attr-defined, no-untyped-call]


@pytest.mark.parametrize("length", NOPS)
@given(values=st.lists(words, min_size=8, max_size=8), flags=words)
def test_executed_nop_changes_nothing(length: int, values: list[int], flags: int) -> None:
    """Registers may hold anything: a lea does not touch the memory it names."""
    machine = new_machine()
    machine.mem_map(CODE_VA, PAGE)
    machine.mem_write(CODE_VA, NOPS[length])
    for register, value in zip(GENERAL, values, strict=True):
        machine.reg_write(register, value)
    machine.reg_write(FLAGS, flags & ARITHMETIC_FLAGS | 2)
    machine.emu_start(CODE_VA, CODE_VA + length, count=1)
    assert [machine.reg_read(register) for register in GENERAL] == values
    assert machine.reg_read(FLAGS) & ARITHMETIC_FLAGS == flags & ARITHMETIC_FLAGS
    assert machine.reg_read(reg.UC_X86_REG_EIP) == CODE_VA + length
    assert machine.mem_read(CODE_VA, PAGE) == NOPS[length].ljust(PAGE, b"\0")


@given(st.integers(0, 100))
def test_filler_is_made_of_whole_nops(length: int) -> None:
    filler = nops(length)
    assert len(filler) == length
    count = 0
    while filler:
        size = max(n for n, code in NOPS.items() if filler.startswith(code))
        filler = filler[size:]
        count += 1
    assert count <= length // 7 + 2


def site(*parts: str, fusion: Fusion = Fusion.NONE) -> Site:
    """A site of these instructions."""
    codes = [bytes.fromhex(part) for part in parts]
    forms = tuple(form for form in map(classify, codes) if form is not None)
    code = b"".join(codes)
    return Site(0, code, 1, forms, fusion, None, Disposition.REWRITTEN, Reason.CALL)


GROUPS = {
    "sti hlt": site("fb", "f4", fusion=Fusion.SHADOW),
    "sti sysexit": site("fb", "0f35", fusion=Fusion.SHADOW),
    "pushf pop eax": site("9c", "58", fusion=Fusion.READ_FLAGS),
}


@each_padding
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_fused_group_stays_together_and_in_order(group: Site, padding: Padding) -> None:
    body = body_of(group, padding)
    assert group.code in body.code
    assert len(body.code) == 5


@each_padding
@pytest.mark.parametrize("first", ["sti", "sti hlt", "sti sysexit"])
def test_sti_has_nothing_after_it_but_what_it_protects(first: str, padding: Padding) -> None:
    one = GROUPS.get(first, site("fb"))
    body = body_of(one, padding).code
    assert body.endswith(one.code)


@each_padding
def test_site_that_is_long_enough_stays_as_it_is(padding: Padding) -> None:
    lgdt = site("0f0115000000c1")
    body = body_of(lgdt, padding)
    assert (body.code, body.pad_len, body.added_instructions) == (lgdt.code, 0, 0)


@each_padding
def test_prefix_and_operand_size_of_the_original_survive(padding: Padding) -> None:
    assert b"\x66\xed" in body_of(site("66ed"), padding).code
    assert b"\xf3\x6d" in body_of(site("f36d"), padding).code
