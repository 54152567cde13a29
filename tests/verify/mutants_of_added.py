# SPDX-License-Identifier: MIT
"""Which kinds of fault does the mutation campaign seed into what rewriting adds to a kernel?

Thunks, translations, the runtime and its tables; `mutants` names the kinds of all.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.verify.faults import SeededFault, Victim, some
from vmipatch.isa.decode import decode
from vmipatch.vmi.calls import VmiCall

POP = range(0x58, 0x60)
POP_ESP = 0x5C
SETS_FLAGS = {
    bytes.fromhex("8d642404"): bytes.fromhex("83c40490"),  # lea esp, [esp + 4]: add esp, 4
    bytes.fromhex("8d40ff"): bytes.fromhex("83e801"),  # lea eax, [eax - 1]: sub eax, 1
    bytes.fromhex("b901000000"): bytes.fromhex("31c9419090"),  # mov ecx, 1: xor ecx, ecx; inc ecx
    bytes.fromhex("8b442408"): bytes.fromhex("33442408"),  # mov eax, [esp + 8]: xor eax, [esp + 8]
    bytes.fromhex("89c1"): bytes.fromhex("01c1"),  # mov ecx, eax: add ecx, eax
}
"""Code of thunks, and what does the same or nearly so, but for the flags."""


def thunks_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A bit of a thunk flipped: another register, flag or address."""
    for thunk in _thunks(victim, dice, 4 * count):
        if not count or not victim.claim_name(f"thunk {thunk.va:#x}"):
            continue
        count -= 1
        va = thunk.va + dice.randrange(thunk.length)
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield replace(thunk.fault, what=f"bit of the thunk byte {va:#x}")


def thunks_clobber_registers(
    victim: Victim, dice: random.Random, count: int
) -> Iterator[SeededFault]:
    """A register that a thunk has saved comes back as another one."""
    for thunk in _thunks(victim, dice, len(victim.thunk_vas)):
        stream = decode(victim.whole.read(thunk.va, thunk.length), thunk.va, [])
        pops = [
            i for i in range(len(stream)) if stream.bytes_at(i)[0] in POP and stream.lens[i] == 1
        ]
        if not pops or not count or not victim.claim_name(f"thunk {thunk.va:#x}"):
            continue
        index = dice.choice(pops)
        was = stream.bytes_at(index)[0]
        now = dice.choice([op for op in POP if op not in (was, POP_ESP)])
        victim.write(int(stream.starts[index]), bytes((now,)))
        yield replace(thunk.fault, what=f"pop {now & 7} for pop {was & 7} in {thunk.va:#x}")
        count -= 1


def thunks_clobber_flags(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A thunk moves with an instruction that sets the flags."""
    for thunk in _thunks(victim, dice, len(victim.thunk_vas)):
        code = victim.whole.read(thunk.va, thunk.length)
        places = [(code.find(was), now) for was, now in SETS_FLAGS.items() if was in code]
        if not places or not count or not victim.claim_name(f"thunk {thunk.va:#x}"):
            continue
        at, now = dice.choice(places)
        victim.write(thunk.va + at, now)
        yield replace(thunk.fault, what=f"{now.hex(' ')} in {thunk.va:#x}")
        count -= 1


def runtimes_patched(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A bit of the runtime flipped."""
    code = victim.whole.section_by_name[".vmi.text"]
    start_va = victim.whole.symbols.address("__vmi_start")
    assert start_va is not None
    for va in some(dice, range(start_va, code.end_va), count):
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        yield SeededFault(start_va, code.end_va - start_va, "", f"bit of the runtime byte {va:#x}")


def thunk_calls_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Another VMI call, or another place, for a call inside a thunk."""
    section = victim.whole.section_by_name[".vmi.thunks"]
    for index in some(dice, range(section.size // 8), count):
        va = section.va + 8 * index
        target, number = victim.word(va), victim.word(va + 4)
        if dice.randrange(2):
            number = int(dice.choice([c for c in VmiCall if c != number]))
        else:
            target += 1
        victim.write(va, struct.pack("<II", target, number))
        yield SeededFault(va, 8, ".vmi.text", f"entry {index}: {target:#x}, {number}")


def translations_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A bit of a translation flipped."""
    for name, index, _, record in some(dice, victim.placed_records(), count):
        va = record.translation_va + dice.randrange(record.translation_len)
        victim.write(va, bytes((victim.whole.read(va, 1)[0] ^ 1 << dice.randrange(8),)))
        what = f"byte {va:#x} of its translation"
        yield SeededFault(record.native_va, record.native_len, f"{name}[{index}]", what)


def fallbacks_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """An entry of the table of native instructions that names another place or byte."""
    section = victim.whole.section_by_name[".vmi.fallback"]
    for index in some(dice, range(section.size // 8), count):
        va = section.va + 8 * index + dice.choice((0, 4))
        victim.write(va, struct.pack("<I", victim.word(va) ^ 1 << dice.randrange(8)))
        yield SeededFault(section.va + 8 * index, 8, "", f"entry {index}")


@dataclass(frozen=True, slots=True)
class _Thunk:
    va: int
    length: int
    fault: SeededFault


def _thunks(victim: Victim, dice: random.Random, count: int) -> Iterator[_Thunk]:
    """Some thunks; a finding says `the thunk at` its address."""
    vas = victim.thunk_vas
    for index in dice.sample(range(len(vas) - 1), min(count, len(vas) - 1)):
        va, length = vas[index], vas[index + 1] - vas[index]
        yield _Thunk(va, length, SeededFault(va, length, "", ""))
