# SPDX-License-Identifier: MIT
"""Which bytes of memory does an instruction load and store, by the Intel SDM?"""

from __future__ import annotations

import pytest

from vmipatch.isa.accesses import memory_accesses
from vmipatch.isa.assemble import assemble

GPR = (0x1011, 0x200, 0x300, 0x400, 0x8000, 0x600, 0x700, 0x900)
"""EAX to EDI."""
EAX, EBX, ESP, ESI, EDI = GPR[0], GPR[3], GPR[4], GPR[6], GPR[7]
CASES = {
    "mov dword ptr [0x5000], 1": [("stores", 0x5000, 4)],
    "mov al, [ebx + 2*esi + 8]": [("loads", EBX + 2 * ESI + 8, 1)],
    "add word ptr [ebx], 1": [("loads stores", EBX, 2)],
    "push dword ptr [ebx]": [("loads", EBX, 4), ("stores", ESP - 4, 4)],
    "pop dword ptr [ebx]": [("loads", ESP, 4), ("stores", EBX, 4)],
    "movsw": [("stores", EDI, 2), ("loads", ESI, 2)],
    "rep movsb": [("stores", EDI, 1), ("loads", ESI, 1)],
    "xlatb": [("loads", EBX + (EAX & 0xFF), 1)],
    "fxsave [ebx]": [("stores", EBX, 512)],
    "cmpxchg8b [ebx]": [("loads stores", EBX, 8)],
    "lea eax, [ebx]": [],
    "mov eax, ebx": [],
    "ret": [("loads", ESP, 4)],
}


@pytest.mark.parametrize("text", CASES)
def test_operands_are_those_of_the_manual(text: str) -> None:
    found = []
    for access in memory_accesses(assemble(text).code, 32):
        kinds = " ".join(name for name in ("loads", "stores") if getattr(access, name))
        (va,) = (
            va for va in range(0x10000) if access.overlaps(0, GPR.__getitem__, va, 1)
            and not access.overlaps(0, GPR.__getitem__, va - 1, 1)
        )  # fmt: skip
        found.append((kinds, va, access.length))
    assert sorted(found) == sorted(CASES[text])


def test_base_of_the_segment_counts() -> None:
    (access,) = memory_accesses(assemble("mov gs:[0x10], eax").code, 32)
    assert access.place.segment == 5
    assert access.overlaps(0xFFFFFFF8, GPR.__getitem__, 8, 4), "addresses wrap around"
    assert not access.overlaps(0xFFFFFFF8, GPR.__getitem__, 4, 4)
    assert not access.overlaps(0xFFFFFFF8, GPR.__getitem__, 12, 4)


def test_bytes_that_are_not_an_instruction_access_nothing() -> None:
    assert memory_accesses(b"\x0f\xff"[:1], 32) == ()
