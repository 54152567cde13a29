# SPDX-License-Identifier: MIT
"""Which assembly makes up a ROM of API 13? An entry of 32 bytes for each call, then what is longer.

Linux copies such a ROM over its own stubs and calls both, the copy and the ROM. So each entry must
do the same in either: those for a PC name no absolute address and jump inside the image; those of
the paravirtual ROM hold the code that the hypervisor need not find in the ROM, and else jump to
the ROM itself.

The paravirtual ROM has the entries and the answers of API 3.1 besides, for rewritten kernels
(docs/decisions/0050).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmipatch.choices import Flavor
from vmipatch.isa.assemble import assemble
from vmipatch.rom.entries import SERVED, Means, served_calls
from vmipatch.rom.source import body, constants, entries_source, label, labelled, preamble
from vmipatch.vmi.api13 import SAME, SLOT_LEN, Call13
from vmipatch.vmi.calls import VmiCall

SECOND_JUMP_OFF: Final = 8
"""Where in VMI_Init's entry the jump to VMI_GetRelocationInfo of API 3 is."""
FIRST_SLOT: Final = int(Call13.INIT)
SLOT_ALIGN: Final = f".p2align {SLOT_LEN.bit_length() - 1}, 0xcc"

_C = Call13
_BY_HYPERCALL: Final = frozenset({_C.RDMSR, _C.WRMSR, _C.RDPMC})
"""Calls that API 3.1 answers NONE: API 13 has no such answer."""
AT_HOME: Final = frozenset(
    {
        _C.IRET, _C.RDTSC, _C.GET_CYCLE_COUNTER, _C.GET_WALLCLOCK_TIME, _C.CPUID,
        _C.INL, _C.INB, _C.INW, _C.INSL, _C.INSB, _C.INSW,
        _C.OUTL, _C.OUTB, _C.OUTW, _C.OUTSL, _C.OUTSB, _C.OUTSW,
        _C.SWAP_PXE_LONG_ATOMIC, _C.TEST_AND_SET_PXE_BIT, _C.TEST_AND_CLEAR_PXE_BIT,
        _C.TEST_AND_SET_PXE_LONG_BIT, _C.TEST_AND_CLEAR_PXE_LONG_BIT, _C.GET_RELOCATION_INFO,
    }
)  # fmt: skip
"""Code that the hypervisor has to find in the ROM: it restarts an IRET, waits for a reading of the
clock, and blames a sensitive instruction on the kernel unless the ROM executes it."""


def slot_label(call: Call13) -> str:
    """The label of the slot of `call`."""
    return f"slot_{call.name.lower()}"


def slots_source(flavor: Flavor, *, fail_init: bool) -> str:
    """The source of a ROM of API 13 from the slot of VMI_Init on.

    Raises AssemblyFailed if the files lack a body that the table of calls promises.
    """
    paravirt = flavor is Flavor.PARAVIRT
    fitting = _fitting(flavor)
    lines = preamble()
    inside = fitting - AT_HOME if paravirt else fitting
    for call in Call13:
        lines.append(SLOT_ALIGN)
        if call in inside:
            lines += labelled(slot_label(call), _code(call, flavor), align="")
        else:
            lines += [f"{slot_label(call)}:", *_jump(call, paravirt)]
    lines += [SLOT_ALIGN, "slots_end:"]
    lines += labelled("init", body("INIT", paravirt and not fail_init))
    written: set[str] = set()
    if paravirt:
        lines += entries_source(flavor)
        written = {label(call) for call in served_calls(flavor)}
    for call in Call13:
        if call is not _C.INIT and call not in inside and _label(call) not in written:
            lines += labelled(_label(call), _code(call, flavor))
    return "\n".join(lines)


def slot_constants(shift: int, *, fail_init: bool) -> dict[str, int]:
    """The names that these sources use, besides those of every ROM."""
    return constants(shift, fail_init=fail_init) | {
        "CALL_WBINVD": int(VmiCall.WBINVD),
        "FIRST_SLOT": FIRST_SLOT,
        "SLOT_COUNT": len(Call13),
    }


def _label(call: Call13) -> str:
    return call.name.lower()


def _jump(call: Call13, paravirt: bool) -> Iterator[str]:
    """To code after the slots; in the paravirtual ROM from a copy too.

    VMI_Init's entry has room for a second jump, where API 3 has VMI_GetRelocationInfo.
    """
    if not paravirt or call is _C.INIT:
        yield f"    jmp {_label(call)}"
        if paravirt:
            yield f".p2align {SECOND_JUMP_OFF.bit_length() - 1}, 0xcc"
            yield "    jmp get_reloc"
        return
    yield f"    jmp dword ptr cs:[target_of_{_label(call)}]"
    yield f"target_of_{_label(call)}:"
    yield f"    .long {_label(call)}"


def _code(call: Call13, flavor: Flavor) -> str:
    """The instructions of the call."""
    if flavor is Flavor.PARAVIRT:
        same = SAME.get(call)
        if same is not None and (call in _BY_HYPERCALL or SERVED.get(same) is Means.HYPERCALL):
            return f"    HYPERCALL {same:d}"
        means = None if same is None else SERVED.get(same)
        return body(call.name, means is not Means.INSTRUCTION)
    trace = f"    TRACE {call:d}\n" if flavor is Flavor.TRACE else ""
    return trace + body(call.name, False)


def _fitting(flavor: Flavor) -> frozenset[Call13]:
    """The calls whose code is no longer than a slot, by assembling it."""
    paravirt = flavor is Flavor.PARAVIRT
    lines = preamble()
    if paravirt:
        lines += labelled("lookups", body("LOOKUPS", paravirt))
        lines += labelled("read_clock", body("RDTSC", paravirt))
    lines.append(f"{slot_label(_C.INIT)}:")
    calls = [call for call in Call13 if call is not _C.INIT]
    for call in calls:
        lines += [*labelled(_label(call), _code(call, flavor)), f"end_of_{_label(call)}:"]
    at = assemble(
        "\n".join(lines), symbols=slot_constants(0, fail_init=False), name="entries"
    ).labels
    return frozenset(
        call for call in calls if at[f"end_of_{_label(call)}"] - at[_label(call)] <= SLOT_LEN
    )
