# SPDX-License-Identifier: MIT
"""How does a kernel that knows run at CPL 1? With a ROM that answers for it, and hypercalls.

The run begins as trap and emulate. VMI_Init makes it paravirtual: the ROM is told where it is, the
guest gets the shared page, and a measured run drops the intercepts of what CPL 1 lets pass. An
audit run keeps them, hands the ROM's own instructions through, and everything else that is caught
is emulated and noted. When the guest switches paging off (reboot, kexec), it is trapped again.
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import replace
from typing import Final

from vmipatch.emu.devices.cmos import EPOCH_NS
from vmipatch.emu.hypervisor import returns
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.hypervisor.fallback import HLT
from vmipatch.emu.hypervisor.initial_state import InitialState, load_initial_state
from vmipatch.emu.hypervisor.numbered_calls import NumberedCalls
from vmipatch.emu.hypervisor.own_code import OwnCode
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.hypervisor.shared_page import SharedPage
from vmipatch.emu.hypervisor.trap import TrapPrivilege
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING, USER_RING
from vmipatch.emu.hypervisor.world import World, put_page, take_page
from vmipatch.emu.loader import Boot
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.processor.bits import Cr0, Flag
from vmipatch.emu.processor.events import Cause, Event, Fault, Vector
from vmipatch.emu.processor.memory import PAGE_LEN, Access, GuestMemory
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.processor.registers import MASK32
from vmipatch.emu.processor.segment import SegReg
from vmipatch.emu.report import EmulatedInstruction, Ending, GuestEnded
from vmipatch.isa.trapped import TrappedInstruction, take_apart
from vmipatch.vmi.marks import RestartRegion
from vmipatch.vmi.shared import SHARED_PA, TIME_PA, Hypercall, Restart, Time

_EXIT_OF: Final = {
    Hypercall.DELIVER: ExitKind.HYPERCALL_DELIVER,
    Hypercall.IRET: ExitKind.HYPERCALL_IRET,
    Hypercall.INIT: ExitKind.HYPERCALL_INIT,
    Hypercall.CALL: ExitKind.HYPERCALL_CALL,
    Hypercall.HALT: ExitKind.HYPERCALL_HALT,
}
_REFUSED: Final = 0xFFFFFFFF
_GRACE_NS: Final = 10_000
"""How long an interrupt may wait before the guest is told."""
_NEAR_CALL_LEN: Final = 5
_EPOCH_LEN: Final = 8
_IF: Final = int(Flag.IF)
_PG: Final = int(Cr0.PG)
_ISOLATED: Final = (
    "a call of the ROM on page tables that do not map it: with page-table isolation a kernel "
    "cannot run paravirtually, boot it with pti=off"
)


class Watch(enum.Enum):
    """The handling of instructions that CPL 1 lets pass, once the guest is paravirtual."""

    MEASURED = "they run as on hardware"
    AUDIT = "they are intercepted and noted"


class ParavirtPrivilege(TrapPrivilege):
    """CPL 1 for a guest kernel that may become paravirtual."""

    def __init__(self, parts: MachineParts, world: World, watch: Watch = Watch.MEASURED) -> None:
        """`world`: what the processors of the machine share."""
        super().__init__(parts)
        self.world = world
        self._rom = world.rom
        self._watch = watch
        self._page = b""
        """The shared page, while another processor is in the engine."""
        self._is_new = False
        self._shown_ns: int | None = None
        """From when on the guest sees the interrupt that waits."""
        self.is_paravirtual = False
        self._calls = NumberedCalls(parts, world, self._context, self._note_pending, self._spend)

    def start(self, boot: Boot) -> None:
        """Enter the kernel as a boot loader does, but for its ring."""
        self.world.own_code = OwnCode(boot.kernel)
        super().start(boot)

    def deliver(self, event: Event) -> None:
        """Let the guest's handler run next; what fails in the ROM's IRET fails at its site."""
        registers = self._registers
        if self.is_paravirtual and event.cause is Cause.EXCEPTION and registers.cpl == KERNEL_RING:
            if self._rom.is_iret(registers.code_va):
                self._blame_iret_site()
            elif event.vector == Vector.PAGE_FAULT and self._rom.holds(registers.cr2):
                raise GuestEnded(Ending.UNSUPPORTED, _ISOLATED)
        super().deliver(event)

    def prepare(self) -> bool:
        """Finish VMI_Init or its opposite; then as in trap mode."""
        if self._is_new:
            self._is_new = False
            self._observe(self._watch is Watch.AUDIT)
            self._vcpu.enter(self._registers.cpl)
        elif self.is_paravirtual and self._context.paging_left:
            self._leave()
        return super().prepare()

    def findings(self) -> tuple[EmulatedInstruction, ...]:
        """Those that the audit noted."""
        return self.world.audit.findings()

    def _on_software(self, number: int) -> None:
        wanted = number in _EXIT_OF and self._registers.cpl == KERNEL_RING
        if not wanted or not (self.is_paravirtual or number == Hypercall.INIT):
            super()._on_software(number)
            return
        call = Hypercall(number)
        self._traps[_EXIT_OF[call]] += 1
        match call:
            case Hypercall.INIT:
                self._registers.eax = 0 if self._init() else _REFUSED
            case Hypercall.IRET:
                self._iret()
            case Hypercall.CALL:
                self._call()
            case Hypercall.HALT:
                self._vcpu.page.interrupts_enabled = True
                if not self._pending:
                    self._context.halt()
        self._after_emulation()

    def _on_intercept(self) -> None:
        registers = self._registers
        va = registers.code_va
        knows = self.is_paravirtual and (self._rom.holds(va) or self._is_own(va))
        if registers.cpl == USER_RING or not knows:
            super()._on_intercept()
            return
        self._traps[ExitKind.ROM] += 1
        instruction = self._instruction()
        try:
            self._as_hardware(instruction)
        except (Fault, PageFault) as fault:
            self.deliver(self._event_of(fault))

    def _as_hardware(self, instruction: TrappedInstruction | None) -> None:
        """Do as CPL 1 does with an instruction that it lets pass. Raises Fault, PageFault."""
        context, registers = self._context, self._registers
        kind = None if instruction is None else instruction.form.kind
        if kind == "iret":
            returns.hardware_iret(context)
            return
        if kind == "pushf":
            context.push(registers.eflags | _IF)
        elif kind == "popf":
            value = context.peek(0)
            context.drop(4)
            self._vcpu.load_real_flags(value, KERNEL_RING)
        if instruction is None or kind not in ("pushf", "popf"):
            raise Fault(Vector.PROTECTION, 0)
        registers.eip += instruction.length

    def _emulate(self, instruction: TrappedInstruction, counted_as: ExitKind | None = None) -> bool:
        va = self._registers.code_va
        if instruction.code == HLT and (taken := self._stands_for(va)) is not None:
            return super()._emulate(taken, ExitKind.FALLBACK)
        if not self.is_paravirtual:
            return self._emulate_outside(instruction)
        emulated = super()._emulate(instruction)
        if emulated and not self._rom.holds(va) and not self._is_own(va):
            self.world.audit.note(va, instruction)
        return emulated

    def _stands_for(self, va: int) -> TrappedInstruction | None:
        """The instruction that a HLT at `va` stands for, if it is a fallback.

        Head code is met by further processors before they switch paging on, at its physical
        address: the guest's table has the linear one.
        """
        if not self.is_paravirtual:
            if not self.world.is_entered or self._registers.cr0 & _PG:
                return None
            va = va + self._rom.base_va & MASK32
        first, window = self.world.fallbacks.get(va), self._window()
        if first is None or window is None:
            return None
        return take_apart(first + window[1:])

    def _emulate_outside(self, instruction: TrappedInstruction) -> bool:
        """Not paravirtual: a further processor joins the others once it has page tables."""
        had_paging = self._registers.cr0 & _PG
        emulated = super()._emulate(instruction)
        if self.world.is_entered and not had_paging and self._registers.cr0 & _PG:
            self._join()
        return emulated

    def _deliver_pending(self) -> None:
        """Take the interrupt that waits, unless the ROM has to come to a place for it first."""
        registers = self._registers
        if self.is_paravirtual and registers.cpl == KERNEL_RING:
            region = self._rom.restart_at(registers.code_va)
            if region is not None:
                self._restart(region)
                return
        super()._deliver_pending()

    def _deliver_nmi(self) -> None:
        """The same of one that nothing masks; it waits for the ROM all the same."""
        registers = self._registers
        if self.is_paravirtual and registers.cpl == KERNEL_RING:
            region = self._rom.restart_at(registers.code_va)
            if region is not None:
                self._restart(region)
                return
        super()._deliver_nmi()

    def _restart(self, region: RestartRegion) -> None:
        """Let the ROM begin anew: it will see that an event waits, and ask for it."""
        registers = self._registers
        if region.kind is Restart.IRET_ECX_SAVED:
            # The ROM has just pushed it: if the page is gone, the guest plays, and loses ECX.
            with contextlib.suppress(PageFault):
                registers.ecx = self._context.peek(0)
            self._context.drop(4)
        registers.eip = self._rom.entry_va(region)
        self._vcpu.page.interrupts_enabled = False
        self._vcpu.page.pending = True

    def _note_pending(self) -> None:
        """The guest is told of an interrupt that waits only if it keeps it waiting: as a rule it
        lets it in within the time of a few hundred instructions, and needs no hypercall for that.
        """
        super()._note_pending()
        if not self._pending:
            self._shown_ns = None
        elif self.is_paravirtual and not self._vcpu.interrupts_enabled:
            clock = self.parts.clock
            if self._shown_ns is None:
                self._shown_ns = clock.now_ns + _GRACE_NS
                clock.at(self._shown_ns, lambda: None)
            if clock.now_ns < self._shown_ns:
                self._vcpu.page.pending = self._vcpu.iopl != 0

    def _init(self) -> bool:
        """VMI_Init: whether the guest is paravirtual now. EIP is in the ROM, after the `int`."""
        va = self._registers.code_va
        pa = self._mmu.find(va)
        stack = self._registers.segment(SegReg.SS)
        if self.world.is_entered or pa is None or not self._rom.holds_pa(pa) or stack.base:
            return False
        self._show_ring()
        self._rom.place(self._mmu.memory, (va - pa) & MASK32, stack.selector)
        self.world.is_entered = True
        self._join()
        self.parts.clock.guest_ns = self._vcpu.page.steps_ns
        return True

    def _join(self) -> None:
        """Share the page with the guest; from now on this processor is paravirtual."""
        vcpu = self._vcpu
        page = SharedPage(self._mmu.memory.octets[SHARED_PA : SHARED_PA + PAGE_LEN])
        page.interrupts_enabled = vcpu.page.interrupts_enabled
        page.pending = self._pending
        vcpu.page = page
        vcpu.outer.rom_va, vcpu.outer.rom_len = self._rom.va, self._rom.length
        vcpu.show()
        self.is_paravirtual = self._is_new = True
        vcpu.outer.answers = not self._pending
        self._context.paging_left = False
        self._cpu.stop()

    def _show_ring(self) -> None:
        """The kernel reads its ring from CS now, which may still be the boot loader's."""
        registers = self._registers
        code = registers.segment(SegReg.CS)
        registers.set_segment(SegReg.CS, replace(code, selector=code.selector | KERNEL_RING))

    def _leave(self) -> None:
        """The guest has no use for the ROM any more: as in the beginning."""
        self.is_paravirtual = False
        self._vcpu.outer.answers = False
        self._context.paging_left = False
        self.world.leave()
        steps_ns = self._vcpu.page.steps_ns()
        self.parts.clock.guest_ns = lambda: steps_ns
        page = SharedPage()
        page.interrupts_enabled = self._vcpu.page.interrupts_enabled
        self._vcpu.page = page
        self._observe(True)
        self._vcpu.enter(self._registers.cpl)

    def _iret(self) -> None:
        """The call IRET; if it fails, the guest finds itself at the site."""
        try:
            returns.vmi_iret(self._context)
            self._note_pending()
        except (Fault, PageFault) as fault:
            self._blame_iret_site()
            super().deliver(self._event_of(fault))

    def _blame_iret_site(self) -> None:
        page = self._vcpu.page
        self._registers.eip = page.iret_site_va
        page.interrupts_enabled = False

    def _call(self) -> None:
        """A call by number; if it fails, the guest finds itself at the call."""
        try:
            self._calls.serve(self._registers.ebx)
        except (Fault, PageFault) as fault:
            try:
                self._return_to_call()
            except PageFault as no_stack:
                self.deliver(self._event_of(no_stack))
            else:
                self.deliver(self._event_of(fault))

    def _return_to_call(self) -> None:
        """Leave the ROM's entry as if the near call that led there had not been made."""
        registers, context = self._registers, self._context
        caller_ebx, behind_va = context.peek(0), context.peek(4)
        registers.ebx = caller_ebx
        registers.eip = behind_va - _NEAR_CALL_LEN
        context.drop(8)

    def start_up(self, page: int) -> None:
        """Begin as SetInitialAPState has told, else in real mode."""
        self.is_paravirtual = self._is_new = False
        self._vcpu.outer.answers = False
        self._shown_ns = None
        state = self.world.states.pop(self.parts.local.number, None)
        super().start_up(page)
        if state is not None:
            self._begin(state)

    def _begin(self, state: InitialState) -> None:
        """Paravirtual from the first instruction. The state is the guest's: it may be unfit."""
        try:
            self._leave_real_mode(state.cr0)
            load_initial_state(self._context, state)
        except (Fault, PageFault) as fault:
            raise GuestEnded(Ending.UNSUPPORTED, f"the state of a processor: {fault}") from fault
        self._vcpu.page.interrupts_enabled = bool(state.eflags & _IF)
        self._join()

    def switch_out(self) -> None:
        """Keep the shared page, which is at one address for all."""
        if self.is_paravirtual:
            self._page = take_page(self._mmu.memory)

    def switch_in(self) -> None:
        """Show the shared page of this processor."""
        super().switch_in()
        if self.is_paravirtual:
            put_page(self._mmu.memory, self._page)

    @property
    def is_held(self) -> bool:
        """In the ROM: its RDTSC adds to the clock first, and then reads it."""
        return self.is_paravirtual and self._rom.holds(self._registers.code_va)

    def _is_own(self, va: int) -> bool:
        own_code = self.world.own_code
        return own_code is not None and own_code.holds(va, self._mmu)


def plug_paravirt(memory: GuestMemory, rom: GuestRom) -> memoryview:
    """Give a machine that is being built the ROM and its pages; returns the time page."""
    rom.plug(memory)
    memory.plug(SHARED_PA, bytes(PAGE_LEN), Access.READ_WRITE)
    time_page = bytearray(PAGE_LEN)
    time_page[Time.EPOCH : Time.EPOCH + _EPOCH_LEN] = EPOCH_NS.to_bytes(_EPOCH_LEN, "little")
    memory.plug(TIME_PA, bytes(time_page), Access.READ_ONLY)
    return memory.octets[TIME_PA : TIME_PA + PAGE_LEN]
