# SPDX-License-Identifier: MIT
"""What came of executing a site, and in what may CPL 0 and CPL 1 differ?"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final

from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import Vector
from vmipatch.verify.sites.scene import ABSENT_SS, GDT_OFF, KERNEL_CS, KERNEL_DS, OTHER_SS
from vmipatch.verify.sites.shapes import PatchedSite, Way

_IF: Final = int(Flag.IF)
_RPL_1: Final = 1
_DPL_1_BIT: Final = 0x20
_RIGHTS_OFF: Final = 5
_FRAME_CS_OFF: Final = 4
_EAX, _EDX = 0, 2


class RunEnd(enum.Enum):
    """Where a run ended."""

    AFTER = "after the site"
    RETURNED = "where a return went"
    FAULT = "in a handler"
    LOST = "nowhere, in a millisecond"


@dataclass(frozen=True, slots=True)
class FaultSeen:
    """Arguments of a handler."""

    vector: int
    error: int | None
    eip: int
    cs: int
    eflags: int
    user_stack: tuple[int, int] | None
    """ESP and SS, of code at CPL 3."""


@dataclass(frozen=True, slots=True)
class PortTraffic:
    """An `in` or `out`."""

    port: int
    size: int
    value: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class MemoryWindow:
    """Memory as it is after a run."""

    va: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SiteOutcome:
    """Everything a guest can know after the execution of one site."""

    ending: RunEnd
    event: FaultSeen | None
    sound: bool
    """Whether the hypervisor's promises hold: CPL 1, IOPL 0, the real IF on."""
    general: tuple[int, ...]
    """EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI."""
    eflags: int
    """With virtual IF in place of the real one."""
    selectors: tuple[int, ...]
    """ES, CS, SS, DS, FS, GS."""
    bases: tuple[int, ...]
    """Where those segments begin."""
    controls: tuple[int, ...]
    """CR0, CR2, CR3, CR4."""
    shown: tuple[int, ...]
    """The same as a paravirtual guest reads them."""
    tables: tuple[tuple[int, int], tuple[int, int], int, int]
    """GDTR and IDTR (base, limit), LDTR and TR (selectors)."""
    debug: tuple[int, ...]
    msr: int
    """The model-specific register that ECX named before the run."""
    ports: tuple[PortTraffic, ...]
    waits: tuple[bool, ...]
    """For each time that the guest waited for an interrupt: whether it would get one."""
    descriptors: bytes
    memory: tuple[MemoryWindow, ...]
    """Operands, the live part of the stack, and the state's own places."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two outcomes differ."""

    field: str
    native: object
    paravirt: object

    def __str__(self) -> str:
        native, paravirt, base_va = self.native, self.paravirt, 0
        if self.field == "memory" and isinstance(native, tuple) and isinstance(paravirt, tuple):
            native, paravirt = next(p for p in zip(native, paravirt, strict=True) if p[0] != p[1])
            base_va, native, paravirt = native.va, native.data, paravirt.data
        where = ""
        if isinstance(native, bytes) and isinstance(paravirt, bytes):
            start, end = _where_they_differ(native, paravirt)
            where = f" from {base_va + start:#x} on"
            native, paravirt = native[start:end], paravirt[start:end]
        return f"{self.field}{where}: {_text(native)} at CPL 0, {_text(paravirt)} at CPL 1"


def _where_they_differ(one: bytes, other: bytes) -> tuple[int, int]:
    """From the first byte that differs to the end of the last one."""
    marks = [a != b for a, b in itertools.zip_longest(one, other)]
    if not any(marks):
        return 0, 0  # the same bytes at another address
    return marks.index(True), len(marks) - marks[::-1].index(True)


def differences(
    site: PatchedSite, native: SiteOutcome, paravirt: SiteOutcome, is_added: Callable[[int], bool]
) -> tuple[Difference, ...]:
    """In which fields two runs of `site` differ, beyond what is known to.

    `is_added` tells addresses of thunks and of the ROM. The known differences, all of them:

    * CS and SS of the kernel have RPL 1, the descriptors that they select DPL 1 (design rule D6).
      What stores or pushes them gives RPL 0, since it is compared with.
    * An IRET that is refused leaves its frame with RPL 1 in CS, and is reported with interrupts
      off: the ROM has prepared both for the hardware. Kernels return with interrupts off.
    * User code always runs with interrupts on.
    * RDTSC gives another time. SMSW leaves anything in the upper half of a register.
    * A page fault of REP INS and REP OUTS arises in the ROM, which the site calls itself: EIP and
      ESP are the ROM's. One that is mended goes on there, and a kernel that expects none comes to
      the same end. Where the exception table expects a fault, it has to be at that address.
    """
    native, paravirt = _as_native(site, native), _as_native(site, paravirt)
    if _faulted_inside(site, native, paravirt, is_added):
        paravirt = _at_site(native, paravirt)
    found = tuple(
        Difference(f.name, getattr(native, f.name), getattr(paravirt, f.name))
        for f in fields(SiteOutcome)
        if getattr(native, f.name) != getattr(paravirt, f.name)
    )
    places = _fault_va(native), _fault_va(paravirt)
    if site.fixup_va is not None and set(places) - {None, site.fixup_va}:
        found = (*found, Difference("fault that no fixup expects", *places))
    return found


def _fault_va(outcome: SiteOutcome) -> int | None:
    """Where the kernel's own instruction faulted."""
    event = outcome.event
    return event.eip if event is not None and event.user_stack is None else None


def _as_native(site: PatchedSite, outcome: SiteOutcome) -> SiteOutcome:
    """The outcome without what is known to differ."""
    descriptors = bytearray(outcome.descriptors)
    for selector in (KERNEL_CS, KERNEL_DS, OTHER_SS, ABSENT_SS):
        descriptors[GDT_OFF + selector + _RIGHTS_OFF] &= ~_DPL_1_BIT
    event, general, memory = outcome.event, outcome.general, outcome.memory
    if event is not None:
        event = replace(event, cs=_kernel(event.cs))
    if site.kind == "rdtsc":
        general = tuple(0 if i in (_EAX, _EDX) else value for i, value in enumerate(general))
    if site.kind == "smsw" and site.first.memory is None:
        rm = site.first.rm
        general = tuple(value & 0xFFFF if i == rm else value for i, value in enumerate(general))
    if site.kind == "iret" and event is not None:
        event = replace(event, eflags=event.eflags & ~_IF)
    if site.kind == "iret" and event is not None and event.user_stack is None:
        memory = (*memory[:-1], _with_rpl_1(memory[-1]))
    return replace(
        outcome,
        event=event,
        general=general,
        memory=memory,
        selectors=tuple(map(_kernel, outcome.selectors)),
        descriptors=bytes(descriptors),
    )


def _kernel(selector: int) -> int:
    kernel = (KERNEL_CS | _RPL_1, KERNEL_DS | _RPL_1, OTHER_SS | _RPL_1)
    return selector & ~_RPL_1 if selector in kernel else selector


def _with_rpl_1(stack: MemoryWindow) -> MemoryWindow:
    data = bytearray(stack.data)
    if len(data) > _FRAME_CS_OFF and data[_FRAME_CS_OFF] & 3 == 0:
        data[_FRAME_CS_OFF] |= _RPL_1
    return replace(stack, data=bytes(data))


def _faulted_inside(
    site: PatchedSite, native: SiteOutcome, paravirt: SiteOutcome, is_added: Callable[[int], bool]
) -> bool:
    """Whether both faulted alike, one of them in the ROM."""
    one, other = native.event, paravirt.event
    if one is None or other is None or site.way is not Way.DIRECT:
        return False
    alike = (one.vector, one.error) == (other.vector, other.error)
    expected = one.vector == Vector.PAGE_FAULT and site.kind in ("ins", "outs")
    return alike and expected and one.user_stack is None and is_added(other.eip)


def _at_site(native: SiteOutcome, paravirt: SiteOutcome) -> SiteOutcome:
    """The outcome of a fault in the ROM, with the site's registers and stack."""
    return replace(
        paravirt,
        event=native.event,
        general=native.general,
        eflags=native.eflags,
        memory=(*paravirt.memory[:-1], native.memory[-1]),
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or not isinstance(value, int):
        return f"({', '.join(map(_text, value))})" if isinstance(value, tuple) else str(value)
    return f"{value:#x}"
