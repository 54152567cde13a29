# SPDX-License-Identifier: MIT
"""How is one site executed? On a machine that stopped right before start_kernel, in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING, USER_RING
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import WITH_ERROR_CODE, Cause, Event, Vector
from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.emu.processor.segment import SegReg
from vmipatch.emu.report import Ending as MachineEnding
from vmipatch.emu.report import GuestEnded
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.isa.trapped import MAX_LEN, take_apart
from vmipatch.verify.sites.outcome import FaultSeen, MemoryWindow, PortTraffic, RunEnd, SiteOutcome
from vmipatch.verify.sites.scene import (
    CODE_OFF,
    DEBUGS,
    HANDLERS_OFF,
    KERNEL_DS,
    OPERANDS_OFF,
    PAGING_OFF,
    SCENE_LEN,
    SCENE_PA,
    STACK_LEN,
    TABLES_OFF,
    VALUES,
    VALUES_OFF,
    Scene,
)
from vmipatch.verify.sites.shapes import PatchedSite
from vmipatch.verify.sites.states import REFUSED_MSR, Ground, SiteState
from vmipatch.verify.start import hook_of
from vmipatch.vmi.shared import ROM_MAX_LEN, ROM_PA, SHARED_PA, TIME_PA, Shared

NEW_CODE: Final = ".vmi.text"
_MSR_KINDS: Final = ("rdmsr", "wrmsr")
_RUN_NS: Final = 1_000_000
_IF, _IOPL = int(Flag.IF), int(Flag.IOPL)
_ACCESSED_AND_DIRTY: Final = 0x60
_ESP, _ECX = 4, 1
_FRAME_LEN: Final = 20
_SPARE_LEN: Final = 8 << 20
_NOWHERE: Final = (0x6F000000, 0xBFFF0000, 0xF7000000)
_SHOWN: Final = (Shared.CR0, Shared.CR2, Shared.CR3, Shared.CR4)
_OURS: Final = {*range(SCENE_PA, SCENE_PA + SCENE_LEN, PAGE_LEN), SHARED_PA, TIME_PA}


class Stand:
    """A machine whose kernel has come to start_kernel; CPL 0 or, paravirtually, CPL 1."""

    def __init__(self, image: ElfImage, mode: Mode, rom: bytes = b"") -> None:
        """Start `image` natively, or with `rom` in a mode that has one.

        Raises InputNotUnderstood if the kernel does not come to start_kernel, or has not become
        paravirtual there.
        """
        end_pa = max(segment.pa + segment.mem_len for segment in image.loads)
        options = MachineOptions(ram_len=end_pa + _SPARE_LEN & -_SPARE_LEN)
        self._machine = build_machine(MachineSpec(mode, options, rom))
        self._is_paravirtual = mode is not Mode.NATIVE
        self._machine.cpu.refused_msrs = frozenset({REFUSED_MSR})
        self._added = image.section_by_name.get(NEW_CODE, ())
        self._registers = self._machine.cpu.registers
        self._boot(image)
        base_va = next(s.va - s.pa & 0xFFFFFFFF for s in image.loads)
        self.scene = Scene(base_va)
        if self._is_paravirtual:  # as VMI_Init does, with the stack that the scene has
            GuestRom(rom).place(self._machine.memory, base_va, KERNEL_DS | KERNEL_RING)
        self._tables = self.scene.tables()
        self._ports = _Ports()
        self._waits: list[bool] = []
        """Whether interrupts were on, for each time the guest waited for one."""
        self._machine.watch(Hooks(on_wait=self._wake, ports=self._ports))
        self.ground = self._look_around()
        self._set_scene()
        self._unwatch_site: list[Callable[[], None]] = []
        for va, ending in (
            (self.scene.landing_va, RunEnd.FAULT),
            (self.scene.target_va, RunEnd.RETURNED),
        ):
            self._watch(va, ending)
        self._ending = RunEnd.LOST
        self._before = self._pages().copy()

    def aim(self, site: PatchedSite) -> None:
        """Execute `site` from now on."""
        for unwatch in self._unwatch_site:
            unwatch()
        self._unwatch_site = [self._watch(site.end_va, RunEnd.AFTER)]
        if site.kind in _MSR_KINDS and not self._is_paravirtual:
            watch = self._machine.cpu.watch_range
            self._unwatch_site.append(watch(site.va, site.end_va, self._refuse_msr))

    def is_added(self, va: int) -> bool:
        """Whether the instruction there is a thunk's or the ROM's."""
        base_va = self.scene.base_va
        return va in self._added or 0 <= va - base_va - ROM_PA < ROM_MAX_LEN

    def bytes_at(self, va: int, length: int) -> bytes:
        """The bytes in the kernel's memory."""
        return self._machine.mmu.read(va, length)

    def execute(self, site: PatchedSite, state: SiteState) -> SiteOutcome:
        """The outcome of `site` in `state`. Raises PageFault for places that are not mapped."""
        memory, registers = self._machine.memory, self._registers
        kept = [(va, self.bytes_at(va, len(data))) for va, data in state.places]
        self._prepare(state)
        registers.eflags = Flag.FIXED
        self._run(self.scene.code.labels["load"])
        for number, value in enumerate(state.general):
            registers.set_gpr(number, value)
        self._set_flags(state.eflags)
        self._ports.begin(state.port_seed)
        self._waits.clear()
        ending = self._run(site.va)
        try:
            outcome = self._outcome(ending, state)
            return replace(outcome, debug=self._debug()) if site.kind == "mov to dr" else outcome
        finally:
            for va, data in kept:
                memory.load(self._machine.mmu.translate(va), data)

    def stray_writes(self) -> tuple[int, ...]:
        """Physical pages that have changed since the last call, besides those that may.

        May: the scene, the shared pages, and page tables in which the CPU noted accesses.
        """
        now = self._pages()
        changed = np.flatnonzero((now != self._before).any(axis=1))
        bits = (now[changed] ^ self._before[changed]).view(np.uint32)
        is_stray = (bits & ~np.uint32(_ACCESSED_AND_DIRTY)).any(axis=1)
        self._before[changed] = now[changed]
        return tuple(pa for pa in (changed[is_stray] * PAGE_LEN).tolist() if pa not in _OURS)

    def _look_around(self) -> Ground:
        """The ground that states are to fit."""
        registers, scene = self._registers, self.scene
        mmu = self._machine.mmu
        nowhere = next((va for va in _NOWHERE if mmu.find(va) is None), None)
        if nowhere is None:
            raise InputNotUnderstood(
                "every address is mapped at start_kernel", hint="report this kernel"
            )
        return Ground(
            scene,
            registers.cr0,
            registers.cr3,
            registers.cr4,
            (SCENE_PA + PAGING_OFF) | registers.cr3 & (PAGE_LEN - 1),
            nowhere,
        )

    def _boot(self, image: ElfImage) -> None:
        start, start_va = hook_of(image)
        if start_va is None:
            raise InputNotUnderstood(f"the kernel has no {start}", file=image.name)
        unwatch = self._watch(start_va, RunEnd.AFTER)
        result = self._machine.run(Boot(image))
        unwatch()
        if result.ending is not MachineEnding.QUIT:
            raise InputNotUnderstood(
                f"the kernel does not come to {start}: {result.ending.value}, {result.place}",
                file=image.name,
                hint="see what happens: vmipatch run --paravirt",
            )
        if self._is_paravirtual and not self._machine.privilege.is_paravirtual:
            raise InputNotUnderstood(
                f"the kernel is not paravirtual at {start}",
                file=image.name,
                hint="give a rewritten kernel",
            )

    def _set_scene(self) -> None:
        memory, scene = self._machine.memory, self.scene
        memory.load(SCENE_PA, bytes(SCENE_LEN))
        memory.load(SCENE_PA + HANDLERS_OFF, scene.handlers())
        memory.load(SCENE_PA + CODE_OFF, scene.code.code)
        root_pa = self._registers.cr3 & -PAGE_LEN
        memory.load(SCENE_PA + PAGING_OFF, memory.read(root_pa, PAGE_LEN))
        self._machine.cpu.flush_code()

    def _prepare(self, state: SiteState) -> None:
        memory, scene = self._machine.memory, self.scene
        values = np.array(state.values, dtype="<u4").tobytes()
        memory.load(SCENE_PA + TABLES_OFF, self._tables)
        memory.load(SCENE_PA + TABLES_OFF + VALUES_OFF, values)
        memory.load(SCENE_PA + OPERANDS_OFF, state.operands)
        memory.load(scene.stack_va - scene.va + SCENE_PA, state.stack)
        for va, data in state.places:
            memory.load(self._machine.mmu.translate(va), data)

    def _set_flags(self, eflags: int) -> None:
        if self._is_paravirtual:
            self._shared[Shared.VIRTUAL_IF >> 2] = eflags & _IF
            eflags |= _IF
        self._registers.eflags = eflags

    @property
    def _shared(self) -> memoryview:
        return self._machine.memory.octets[SHARED_PA : SHARED_PA + PAGE_LEN].cast("I")

    def _watch(self, va: int, ending: RunEnd) -> Callable[[], None]:
        def reached() -> None:
            self._ending = ending
            raise GuestEnded(MachineEnding.QUIT)

        return self._machine.cpu.watch(va, reached)

    def _refuse_msr(self, va: int) -> None:
        """Do what a processor does and Unicorn does not: #GP for a register that there is not."""
        if self._registers.ecx == REFUSED_MSR and take_apart(self.bytes_at(va, MAX_LEN)):
            self._is_refused = True
            raise GuestEnded(MachineEnding.QUIT)

    def _wake(self, interrupts_enabled: bool) -> bool:
        """The guest waits for an interrupt: it comes, but is not delivered."""
        self._waits.append(interrupts_enabled)
        return True

    def _run(self, va: int) -> RunEnd:
        """Execute from `va` to a place that is watched, or for a millisecond."""
        self._registers.eip = va
        self._ending = RunEnd.LOST
        self._is_refused = False
        machine, clock = self._machine, self._machine.clock
        alarm = clock.at(clock.now_ns + _RUN_NS, _lost)
        machine.resume()
        if self._is_refused:
            machine.privilege.deliver(Event(Vector.PROTECTION, Cause.EXCEPTION, 0))
            machine.resume()
        alarm.cancel()
        return self._ending

    def _debug(self) -> tuple[int, ...]:
        """The debug registers, as guest code reads them. It spoils the general ones."""
        self._run(self.scene.code.labels["tell"])
        words = self._machine.mmu
        return tuple(
            words.read_u32(self.scene.values_va + 4 * index)
            for index, name in enumerate(VALUES)
            if name in DEBUGS
        )

    def _outcome(self, ending: RunEnd, state: SiteState) -> SiteOutcome:
        registers = self._registers
        general = tuple(registers.gpr(number) for number in range(8))
        event, live_va = None, general[_ESP]
        if ending is RunEnd.FAULT:
            event, live_va = self._event(general[_ESP])
            live_va = live_va if event.user_stack is None else state.general[_ESP] + _FRAME_LEN
        eflags = registers.eflags & ~_IOPL
        sound = True
        if self._is_paravirtual:
            sound = bool(eflags & _IF) and registers.iopl == 0 and registers.cpl == KERNEL_RING
            eflags = eflags & ~_IF | self._shared[Shared.VIRTUAL_IF >> 2]
        controls = (registers.cr0, registers.cr2, registers.cr3, registers.cr4)
        words = self._shared
        shown = tuple(words[cell >> 2] for cell in _SHOWN) if self._is_paravirtual else controls
        task = words[Shared.TR >> 2] if self._is_paravirtual else registers.tr.selector
        return SiteOutcome(
            ending=ending,
            event=event,
            sound=sound,
            general=general,
            eflags=eflags,
            selectors=tuple(registers.selector(which) for which in SegReg),
            bases=tuple(registers.segment(which).base for which in SegReg),
            controls=controls,
            shown=shown,
            tables=(registers.gdtr, registers.idtr, registers.ldtr.selector, task),
            msr=self._machine.cpu.read_msr(state.general[_ECX]),
            ports=self._ports.accesses,
            waits=tuple(self._waits),
            descriptors=self._machine.memory.read(SCENE_PA + TABLES_OFF, VALUES_OFF),
            memory=self._windows(state, live_va),
            debug=(),
        )

    def _windows(self, state: SiteState, live_va: int) -> tuple[MemoryWindow, ...]:
        scene = self.scene
        end_va = scene.stack_va + STACK_LEN
        live_va = min(max(live_va, scene.stack_va), end_va)
        return (
            *(MemoryWindow(va, self.bytes_at(va, len(data))) for va, data in state.places),
            MemoryWindow(scene.operands_va, self.bytes_at(scene.operands_va, PAGE_LEN)),
            MemoryWindow(live_va, self.bytes_at(live_va, end_va - live_va)),
        )

    def _event(self, esp: int) -> tuple[FaultSeen, int]:
        """The handler's frame on its stack; and where the stack ended before, if it is ours."""
        words = self._machine.mmu
        vector = words.read_u32(esp)
        at = esp + 4
        error = None
        if vector in WITH_ERROR_CODE:
            error = words.read_u32(at)
            at += 4
        eip, cs, eflags = (words.read_u32(at + 4 * i) for i in range(3))
        user = None
        if cs & 3 == USER_RING:
            user = words.read_u32(at + 12), words.read_u32(at + 16) & 0xFFFF
        return FaultSeen(vector, error, eip, cs & 0xFFFF, eflags, user), at + 12

    def _pages(self) -> np.ndarray:
        """All memory as it is now, a row for each page."""
        memory = np.frombuffer(self._machine.memory.octets, dtype=np.uint64)
        return memory.reshape(-1, PAGE_LEN // 8)


class _Ports:
    """Ports that give any values, the same ones for the same seed, and remember."""

    def __init__(self) -> None:
        self._accesses: list[PortTraffic] = []
        self._seed = 0

    @property
    def accesses(self) -> tuple[PortTraffic, ...]:
        """All since `begin`."""
        return tuple(self._accesses)

    def begin(self, seed: int) -> None:
        """Forget what happened."""
        self._accesses.clear()
        self._seed = seed

    def read(self, port: int, size: int) -> int:
        """A value that depends on the seed and on what has been read."""
        mixed = (self._seed + port * 0x9E3779B1 + len(self._accesses) * 0x85EBCA6B) * 0xC2B2AE35
        value = mixed >> 7 & (1 << 8 * size) - 1
        self._accesses.append(PortTraffic(port, size, value, False))
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Remember it."""
        masked = value & (1 << 8 * size) - 1
        self._accesses.append(PortTraffic(port, size, masked, True))


def _lost() -> None:
    raise GuestEnded(MachineEnding.QUIT)
