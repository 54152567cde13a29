# SPDX-License-Identifier: MIT
"""Does the kernel see the interrupt flag that its instructions have made?

A wrong IF hardly ever reaches the outside: the next system call or interrupt repairs it. So a
paravirtual run is compared with a model. The model has one bit, and does to it what the instruction
of each site would have done natively: cli clears it, sti sets it, popf and iret take it from the
stack, pushf reads it. At each site the virtual IF has to be the model's, and what pushf leaves in
the register or on the stack has to hold it. An interrupt or exception hands the bit to the
hypervisor, which is trusted: from there the model takes what it finds at the next site.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Final

from vmipatch.emu.events import Cause, Event
from vmipatch.emu.machine import Machine
from vmipatch.emu.paravirt import ParavirtPrivilege
from vmipatch.emu.registers import Flag
from vmipatch.emu.virtual_cpu import KERNEL_RING
from vmipatch.image.elf import ElfImage
from vmipatch.verify.coverage import native_sites
from vmipatch.verify.lockstep.events import Emit, Kind
from vmipatch.verify.sites.shapes import PatchedSite, patched_sites

CHANNEL: Final = "virtual interrupt flag"

_IF: Final = int(Flag.IF)
_SETS: Final = {"cli": False, "sti": True, "sti+hlt": True, "sti+sysexit": True}
"""What a site of the kind makes of the flag, whatever is on the stack."""
_FLAGS_OFF: Final = {"popf": 0, "iret": 8}
"""Where the stack holds what it becomes."""
_READS: Final = "pushf"
_WORD_LEN: Final = 4
_NAMES: Final = {False: "off", True: "on"}


class FlagModel:
    """Watches every site of a paravirtual kernel that makes or reads the interrupt flag."""

    def __init__(
        self, machine: Machine, privilege: ParavirtPrivilege, image: ElfImage, emit: Emit
    ) -> None:
        """Watch from now on. Raises InputNotUnderstood if `image` is not a rewritten kernel."""
        self.checked = 0
        """How often the flag was compared."""
        self._registers = machine.cpu.registers
        self._mmu, self._memory = machine.mmu, machine.memory
        self._privilege = privilege
        self._symbols = image.symbols
        self._emit = emit
        self._flag: bool | None = None
        """The model's; None where the hypervisor has changed it."""
        self._last = ("", 0)
        """Kind and address of the site before."""
        self._read: Counter[str] = Counter()
        """How often the flag was read, by what read it."""
        self._executed: Counter[int] = Counter()
        self._reads: dict[tuple[int, int], bool] = {}
        """What the pushf under way has to leave, by where it goes on and the stack there."""
        kinds: dict[int, str] = {site.va: site.kind for site in native_sites(image)}
        for site in patched_sites(image):
            kinds[site.va] = site.kind
            if site.kind == _READS:
                del kinds[site.va]
                machine.cpu.watch(site.va, partial(self._on_read, site))
                machine.cpu.watch(site.end_va, partial(self._behind_read, site))
        for va, kind in sorted(kinds.items()):
            if kind in _SETS or kind in _FLAGS_OFF:
                machine.cpu.watch(va, partial(self._on_write, kind, va))

    def on_delivery(self, event: Event) -> None:
        """A handler of the kernel is about to be entered: the hypervisor sees to the flag."""
        is_kernel = self._privilege.is_paravirtual and self._registers.cpl == KERNEL_RING
        if event.cause is Cause.EXTERNAL and is_kernel and self._flag is False:
            self._wrong(f"{event} comes, though {self._before()} has made it off")
        self._flag = None

    def _on_write(self, kind: str, va: int) -> None:
        """A site that makes the flag is about to be executed."""
        if not self._privilege.is_paravirtual:
            return
        self._compare(kind, va)
        if kind in _SETS:
            self._flag = _SETS[kind]
        else:
            flags = self._stacked(_FLAGS_OFF[kind])
            self._flag = None if flags is None else bool(flags & _IF)

    def _on_read(self, site: PatchedSite) -> None:
        """A pushf, with or without a pop behind it, is about to be executed."""
        if not self._privilege.is_paravirtual:
            return
        self._flag = self._compare(site.kind, site.va)
        esp = self._registers.esp - (_WORD_LEN if site.pops is None else 0)
        self._reads[site.end_va, esp] = self._flag
        self._read[_name(site)] += 1

    def _behind_read(self, site: PatchedSite) -> None:
        """The instruction behind it is about to be executed, if it is not come to otherwise."""
        registers = self._registers
        right = self._reads.pop((site.end_va, registers.esp), None)
        if right is None:
            return
        found = self._stacked(0) if site.pops is None else registers.gpr(site.pops)
        if found is not None and bool(found & _IF) is not right:
            name = _name(site)
            times, of_all = self._executed[site.va], self._read[name]
            self._wrong(
                f"{name} at {self._place(site.va)} reads it as {_NAMES[not right]}, it is "
                f"{_NAMES[right]} (execution {times} of this site, {of_all} of all {name})",
                site.va,
            )

    def _compare(self, kind: str, va: int) -> bool:
        """The virtual IF, after a look whether it is what it has to be."""
        self.checked += 1
        self._executed[va] += 1
        found = self._privilege.interrupts_enabled()
        if self._flag is not None and found is not self._flag:
            self._wrong(
                f"it is {_NAMES[found]} before {kind} at {self._place(va)}, though "
                f"{self._before()} has made or found it {_NAMES[self._flag]}",
                va,
            )
        self._last = kind, va
        return found

    def _before(self) -> str:
        kind, va = self._last
        return f"{kind} at {self._place(va)}, execution {self._executed[va]},"

    def _place(self, va: int) -> str:
        return f"{self._symbols.place_of(va)} ({va:#x})"

    def _stacked(self, off: int) -> int | None:
        """The word so many bytes above the top of the stack."""
        registers = self._registers
        pa = self._mmu.find(registers.stack_va(registers.esp + off))
        return None if pa is None else self._memory.read_u32(pa)

    def _wrong(self, text: str, va: int | None = None) -> None:
        self._emit(Kind.FLAG, CHANNEL, text, va)


def _name(site: PatchedSite) -> str:
    return "pushf" if site.pops is None else "pushf and pop"
