# SPDX-License-Identifier: MIT
"""Which seeded faults does only execution show? Those of the ROM, which no kernel file holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from unittest import mock

from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom, source
from vmipatch.rom.entries import served_calls
from vmipatch.verify.sites import check_sites
from vmipatch.verify.sites.shapes import shapes_of
from vmipatch.vmi.calls import VmiCall

Damage = Callable[[str], str]

REASON = "the ROM is not a part of the kernel's file"
RETURN = "\n    ret"
WITHOUT_RETURN = frozenset({VmiCall.IRET, VmiCall.SYSEXIT, VmiCall.SHUTDOWN})
WITHOUT_A_TRACE = frozenset({VmiCall.WBINVD, VmiCall.INVAL_PAGE, VmiCall.RDTSC})
"""Calls that change nothing that can be compared: two caches, and a time that differs anyway."""
GIVES_IN_EAX = frozenset(
    {
        VmiCall.GET_CR0, VmiCall.GET_CR2, VmiCall.GET_CR3, VmiCall.GET_CR4, VmiCall.GET_LDT,
        VmiCall.GET_TR, VmiCall.GET_DR, VmiCall.GET_INTERRUPT_MASK, VmiCall.CPUID, VmiCall.INL,
        VmiCall.INB, VmiCall.INW,
    }
)  # fmt: skip


def _clobbers_register(body: str) -> str:
    return f"    lea ebp, [ebp + 1]\n{body}"


def _clobbers_flag(body: str) -> str:
    return body.replace(RETURN, f"\n    cmc{RETURN}")


def _answers_otherwise(body: str) -> str:
    return body.replace(RETURN, f"\n    lea eax, [eax + 1]{RETURN}")


def _does_nothing(_body: str) -> str:
    return RETURN


KINDS: dict[str, tuple[Damage, Callable[[VmiCall], bool]]] = {
    "ROM: a register clobbered": (_clobbers_register, lambda _call: True),
    "ROM: a flag clobbered": (_clobbers_flag, lambda call: call not in WITHOUT_RETURN),
    "ROM: another answer": (_answers_otherwise, lambda call: call in GIVES_IN_EAX),
    "ROM: a call does nothing": (
        _does_nothing,
        lambda call: call not in WITHOUT_RETURN | WITHOUT_A_TRACE,
    ),
}
"""By name: what is done to the body of an entry, and to which calls it can be done."""


def damaged_rom(call: VmiCall, damage: Damage) -> bytes:
    """Our ROM with another body for one call; a ROM as sound as the other in every other way."""
    whole = source._entry

    def entry(one: VmiCall, flavor: Flavor) -> str:
        if one is not call:
            return whole(one, flavor)
        body = whole(one, flavor)
        if body.strip().startswith("HYPERCALL"):
            number = int(call)
            body = f"    push ebx\n    mov ebx, {number}\n    int INT_CALL\n    pop ebx{RETURN}\n"
        return damage(body)

    with mock.patch.object(source, "_entry", entry):
        return build_rom(Flavor.PARAVIRT).data


def rom_faults(
    image: ElfImage, kind: str, dice: random.Random, count: int
) -> Iterator[tuple[VmiCall, bool]]:
    """`count` damaged entries, and whether executing the sites that call them shows it."""
    damage, fits = KINDS[kind]
    shapes = shapes_of(image).shapes
    served = set(served_calls(Flavor.PARAVIRT))
    calls = sorted({s.site.call for s in shapes if s.site.call in served and fits(s.site.call)})
    for call in dice.sample(calls, min(count, len(calls))):
        mine = [shape for shape in shapes if shape.site.call is call]
        rom = damaged_rom(call, damage)
        yield call, bool(check_sites(image, rom, states=20, shapes=mine).findings)
