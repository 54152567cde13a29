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
from typing import TYPE_CHECKING, Final

from vmipatch.emu import returns
from vmipatch.emu.audit import AuditLog
from vmipatch.emu.cmos import EPOCH_NS
from vmipatch.emu.device_calls import DEVICE_CALLS
from vmipatch.emu.events import Cause, Event, Fault, Vector
from vmipatch.emu.exits import ExitKind
from vmipatch.emu.fallback import HLT, MAX_ENTRIES, read_fallbacks
from vmipatch.emu.hypercalls import CALLS
from vmipatch.emu.hypervisor import TrapPrivilege
from vmipatch.emu.loader import Boot
from vmipatch.emu.memory import PAGE_LEN, Access, GuestMemory
from vmipatch.emu.own_code import OwnCode
from vmipatch.emu.paging import PageFault
from vmipatch.emu.registers import MASK32, Flag, SegReg
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.rom_image import GuestRom
from vmipatch.emu.shared_page import SharedPage
from vmipatch.emu.virtual_cpu import KERNEL_RING, USER_RING
from vmipatch.isa.trapped import TrappedInstruction, take_apart
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.marks import RestartRegion
from vmipatch.vmi.shared import SHARED_PA, TIME_PA, Hypercall, Restart, Time

if TYPE_CHECKING:
    from vmipatch.emu.machine import Machine

_EXIT_OF: Final = {
    Hypercall.DELIVER: ExitKind.HYPERCALL_DELIVER,
    Hypercall.IRET: ExitKind.HYPERCALL_IRET,
    Hypercall.INIT: ExitKind.HYPERCALL_INIT,
    Hypercall.CALL: ExitKind.HYPERCALL_CALL,
    Hypercall.HALT: ExitKind.HYPERCALL_HALT,
}
_REFUSED: Final = 0xFFFFFFFF
_NS_PER_ENTRY: Final = 500
_ENTRIES_PER_EXIT: Final = 8
"""What it costs to read one entry of a table of fallbacks, in the guest's time and the host's."""
_GRACE_NS: Final = 10_000
"""How long an interrupt may wait before the guest is told."""
_NEAR_CALL_LEN: Final = 5
_EPOCH_LEN: Final = 8
_SYSENTER_CS: Final = 0x174
_USER_CS_OFF, _USER_SS_OFF = 16, 24
_IF: Final = int(Flag.IF)
_ISOLATED: Final = (
    "a call of the ROM on page tables that do not map it: with page-table isolation a kernel "
    "cannot run paravirtually, boot it with pti=off"
)


class Watch(enum.Enum):
    """What happens to instructions that CPL 1 lets pass, once the guest is paravirtual."""

    MEASURED = "they run as on hardware"
    AUDIT = "they are intercepted and noted"


class ParavirtPrivilege(TrapPrivilege):
    """CPL 1 for a guest kernel that may become paravirtual."""

    def __init__(self, machine: Machine, rom: GuestRom, watch: Watch = Watch.MEASURED) -> None:
        super().__init__(machine)
        self._rom = rom
        self._watch = watch
        self._fallbacks: dict[int, bytes] = {}
        self._own_code: OwnCode | None = None
        """Thunks and runtime in the guest, which mean what the hardware does, as the ROM does."""
        self._is_new = False
        self._shown_ns: int | None = None
        """From when on the guest sees the interrupt that waits."""
        self.is_paravirtual = False
        self.audit = AuditLog()

    def start(self, boot: Boot) -> None:
        """Enter the kernel as a boot loader does, but for its ring."""
        self._own_code = OwnCode(boot.kernel)
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

    def before_run(self) -> None:
        """The CPU is about to run again."""
        if self._is_new:
            self._is_new = False
            self._observe(self._watch is Watch.AUDIT)
            self._vcpu.enter(self._registers.cpl)
        elif self.is_paravirtual and self._context.paging_left:
            self._leave()
        super().before_run()

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
        """What CPL 1 does with an instruction that it lets pass. Raises Fault, PageFault."""
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
        if not self.is_paravirtual:
            return super()._emulate(instruction)
        va = self._registers.code_va
        if instruction.code == HLT and (first := self._fallbacks.get(va)) is not None:
            window = self._window()
            taken = None if window is None else take_apart(first + window[1:])
            if taken is not None:
                return super()._emulate(taken, ExitKind.FALLBACK)
        emulated = super()._emulate(instruction)
        if emulated and not self._rom.holds(va):
            self.audit.note(va, instruction)
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
            clock = self.machine.clock
            if self._shown_ns is None:
                self._shown_ns = clock.now_ns + _GRACE_NS
                clock.at(self._shown_ns, lambda: None)
            if clock.now_ns < self._shown_ns:
                self._vcpu.page.pending = self._vcpu.iopl != 0

    def _init(self) -> bool:
        """VMI_Init: whether the guest is paravirtual now. EIP is in the ROM, behind the `int`."""
        va = self._registers.code_va
        pa = self._mmu.find(va)
        stack = self._registers.segment(SegReg.SS)
        if self.is_paravirtual or pa is None or not self._rom.holds_pa(pa) or stack.base:
            return False
        memory, vcpu = self._mmu.memory, self._vcpu
        self._show_ring()
        self._rom.place(memory, (va - pa) & MASK32, stack.selector)
        page = SharedPage(memory.octets[SHARED_PA : SHARED_PA + PAGE_LEN])
        page.interrupts_enabled = vcpu.page.interrupts_enabled
        page.pending = self._pending
        vcpu.page = page
        vcpu.show()
        self.machine.clock.guest_ns = page.steps_ns
        self.is_paravirtual = self._is_new = True
        self._context.paging_left = False
        self._cpu.stop()
        return True

    def _show_ring(self) -> None:
        """The kernel reads its ring from CS now, which may still be the boot loader's."""
        registers = self._registers
        code = registers.segment(SegReg.CS)
        registers.set_segment(SegReg.CS, replace(code, selector=code.selector | KERNEL_RING))

    def _leave(self) -> None:
        """The guest has no use for the ROM any more: as in the beginning."""
        self.is_paravirtual = False
        self._context.paging_left = False
        self._fallbacks = {}
        if self._own_code is not None:
            self._own_code.forget()
        steps_ns = self._vcpu.page.steps_ns()
        self.machine.clock.guest_ns = lambda: steps_ns
        page = SharedPage()
        page.interrupts_enabled = self._vcpu.page.interrupts_enabled
        self._vcpu.page = page
        self._observe(True)
        self._vcpu.enter(self._registers.cpl)

    def _iret(self) -> None:
        """The call IRET; if it fails, the guest finds itself at the site."""
        try:
            returns.vmi_iret(self._context)
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
            self._do_call(self._registers.ebx)
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

    def _do_call(self, number: int) -> None:
        """Raises Fault, PageFault; #GP for a call that nobody serves."""
        try:
            call = VmiCall(number)
        except ValueError:
            raise Fault(Vector.PROTECTION, 0) from None
        if call is VmiCall.SET_FALLBACK:
            self._set_fallback()
        elif call is VmiCall.SET_RUNTIME:
            self._set_runtime()
        elif call is VmiCall.SYSEXIT:
            self._sysexit()
        elif call is VmiCall.IRET:
            self._iret_on_other_stack()
        elif (body := CALLS.get(call)) is not None:
            body(self._context)
        elif (device_body := DEVICE_CALLS.get(call)) is not None:
            device_body(self._context, self.machine.board)
            self._note_pending()
        else:
            raise Fault(Vector.PROTECTION, 0)

    def _set_fallback(self) -> None:
        registers = self._registers
        entries = min(registers.edx, MAX_ENTRIES)
        self._spend(entries // _ENTRIES_PER_EXIT)
        self.machine.clock.pass_ns(entries * _NS_PER_ENTRY)
        try:
            self._fallbacks = read_fallbacks(self._mmu, registers.eax, registers.edx)
        except ValueError:
            raise Fault(Vector.PROTECTION, 0) from None

    def _set_runtime(self) -> None:
        """What is exempt from the audit: the code that the rewriter added, and never the kernel."""
        wanted = range(self._registers.eax, self._registers.edx)
        if self._own_code is None or not self._own_code.announce(wanted, self._mmu):
            raise Fault(Vector.PROTECTION, 0)

    def _is_own(self, va: int) -> bool:
        return self._own_code is not None and self._own_code.holds(va, self._mmu)

    def _iret_on_other_stack(self) -> None:
        """IRET where SS is not the segment of VMI_Init: ESP is at EBX, return address and frame."""
        registers, context = self._registers, self._context
        caller_ebx, at = context.peek(0), registers.esp
        context.drop(8)
        try:
            returns.vmi_iret(context)
        except (Fault, PageFault):
            registers.esp = at
            raise
        registers.ebx = caller_ebx

    def _sysexit(self) -> None:
        """To the user: EIP from EDX, ESP from ECX, EBX from the stack, virtual IF on."""
        selector = self._cpu.read_msr(_SYSENTER_CS) & 0xFFFC
        if not selector:
            raise Fault(Vector.PROTECTION, 0)
        caller_ebx = self._context.peek(0)
        returns.enter_user(
            self._context,
            self._registers.edx,
            self._registers.ecx,
            (selector + _USER_CS_OFF) | USER_RING,
            (selector + _USER_SS_OFF) | USER_RING,
        )
        self._registers.ebx = caller_ebx
        self._vcpu.page.interrupts_enabled = True


def plug_paravirt(memory: GuestMemory, rom: GuestRom) -> memoryview:
    """Give a machine that is being built the ROM and its pages; returns the time page."""
    rom.plug(memory)
    memory.plug(SHARED_PA, bytes(PAGE_LEN), Access.READ_WRITE)
    time_page = bytearray(PAGE_LEN)
    time_page[Time.EPOCH : Time.EPOCH + _EPOCH_LEN] = EPOCH_NS.to_bytes(_EPOCH_LEN, "little")
    memory.plug(TIME_PA, bytes(time_page), Access.READ_ONLY)
    return memory.octets[TIME_PA : TIME_PA + PAGE_LEN]
