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

from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING
from vmipatch.emu.machine import Machine
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import Cause, Event
from vmipatch.emu.processor.registers import MASK32
from vmipatch.image.elf import ElfImage
from vmipatch.verify.coverage import native_sites
from vmipatch.verify.lockstep.events import Emit, EventKind
from vmipatch.verify.lockstep.later import Later
from vmipatch.verify.sites.shapes import PatchedSite, patched_sites
from vmipatch.verify.start import hook_of

CHANNEL: Final = "virtual interrupt flag"

_IF: Final = int(Flag.IF)
_SETS: Final = {"cli": False, "sti": True, "sti+hlt": True, "sti+sysexit": True}
"""The flag after a site of the kind, whatever is on the stack."""
_FLAGS_OFF: Final = {"popf": 0, "iret": 8}
"""Where the stack holds what it becomes."""
_READS: Final = "pushf"
_WATCHED: Final = frozenset({*_SETS, *_FLAGS_OFF, _READS})
_EMULATED: Final = (ExitKind.CLI, ExitKind.STI, ExitKind.POPF, ExitKind.IRET)
_CALL, _CALL_LEN = b"\xe8", 5
_WORD_LEN: Final = 4
_NAMES: Final = {False: "off", True: "on"}


class FlagModel:
    """Watches every site of a paravirtual kernel that makes or reads the interrupt flag."""

    def __init__(self, machine: Machine, image: ElfImage, emit: Emit, later: Later) -> None:
        """Watch from now on. Raises InputNotUnderstood if `image` is not a rewritten kernel."""
        self.checked = 0
        """How often the flag was compared."""
        self.was_paravirtual = False
        """Whether the kernel ever was."""
        self._cpu, self._registers = machine.cpu, machine.cpu.registers
        self._mmu, self._memory = machine.mmu, machine.memory
        self._privilege = machine.privilege
        self._traps = machine.statistics.traps
        self._emulated = 0
        """How often the hypervisor has executed an instruction that makes the flag."""
        self._symbols = image.symbols
        self._emit = emit
        self._flag: bool | None = None
        """The model's; None where the hypervisor has changed it."""
        self._read: Counter[str] = Counter()
        """How often the flag was read, by what read it."""
        self._last = ("", 0)
        """Kind and address of the site before."""
        self._executed: Counter[int] = Counter()
        self._results: dict[tuple[int, int], bool] = {}
        """The flag that a pushf under way has to leave, by where it goes on and the stack there."""
        self._image = image
        self._sites: dict[int, PatchedSite] = {}
        self._has_begun = False
        self._later = later
        _, start_va = hook_of(image)
        if start_va is not None:
            self._cpu.watch(start_va, self._at_start)

    def _at_start(self) -> None:
        """The runtime hands over to the kernel: its sites are calls, if it is paravirtual."""
        if self._privilege.is_paravirtual and not self._has_begun:
            self._later(self._begin)

    def _begin(self) -> None:
        """Watch the sites, by what they call: a watch on each would make the CPU much slower."""
        if self._has_begun:
            return
        self._has_begun = True
        natives = {site.va: site.kind for site in native_sites(self._image)}
        targets = set()
        for site in patched_sites(self._image):
            natives.pop(site.va, None)
            if site.kind not in _WATCHED:
                continue
            self._sites[site.va] = site
            if site.kind == _READS:
                self._cpu.watch(site.end_va, partial(self._behind_read, site))
            code = self._mmu.peek(site.va, _CALL_LEN)
            if code[:1] == _CALL and len(code) == _CALL_LEN:
                distance = int.from_bytes(code[1:], "little")
                targets.add((site.va + _CALL_LEN + distance) & MASK32)
            else:
                self._cpu.watch(site.va, partial(self._on_site, site.kind, site.va, 0))
        for va, kind in sorted(natives.items()):
            if kind in _SETS or kind in _FLAGS_OFF:
                self._cpu.watch(va, partial(self._on_site, kind, va, 0))
        for va in sorted(targets):
            self._cpu.watch(va, self._on_call)

    def on_delivery(self, event: Event) -> None:
        """A handler of the kernel is about to be entered: the hypervisor sees to the flag."""
        if self._privilege.is_paravirtual:
            self.was_paravirtual = True
            self._at_start()  # at the latest: the kernel may have no symbols
        is_kernel = self._registers.cpl == KERNEL_RING
        if event.cause is Cause.EXTERNAL and is_kernel and self._flag is False:
            self._wrong(f"{event} comes, though {self._before()} has made it off")
        self._flag = None

    def _on_call(self) -> None:
        """Where sites call is about to be entered, by a site or by somebody else."""
        return_va = self._stacked(0)
        site = None if return_va is None else self._sites.get(return_va - _CALL_LEN)
        if site is not None:
            self._on_site(site.kind, site.va, _WORD_LEN)

    def _on_site(self, kind: str, va: int, depth: int) -> None:
        """A site is executed; its stack is `depth` bytes further up."""
        if not self._privilege.is_paravirtual:
            return
        found = self._compare(kind, va)
        if kind in _SETS:
            self._flag = _SETS[kind]
        elif kind in _FLAGS_OFF:
            flags = self._stacked(depth + _FLAGS_OFF[kind])
            self._flag = None if flags is None else bool(flags & _IF)
        else:
            self._flag = found
            self._expect(self._sites[va], self._registers.esp + depth, found)

    def _expect(self, site: PatchedSite, esp: int, flag: bool) -> None:
        """The pushf at `site` has to leave `flag`."""
        self._read[_name(site)] += 1
        self._results[site.end_va, esp - (_WORD_LEN if site.pops is None else 0)] = flag

    def _behind_read(self, site: PatchedSite) -> None:
        """The instruction after it is about to be executed, if it is not come to otherwise."""
        registers = self._registers
        right = self._results.pop((site.end_va, registers.esp), None)
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
        emulated = sum(self._traps[kind] for kind in _EMULATED)
        if emulated != self._emulated:
            self._emulated, self._flag = emulated, None
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
        self._emit(EventKind.FLAG, CHANNEL, text, va)


def _name(site: PatchedSite) -> str:
    return "pushf" if site.pops is None else "pushf and pop"
