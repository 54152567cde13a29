# SPDX-License-Identifier: MIT
"""What is it like to run on bare hardware? The guest kernel has the CPU at CPL 0.

External interrupts are *promised*: Unicorn takes one through the guest's IDT as soon as IF allows,
without a call into Python. The interrupt controllers learn of it before anybody can look at them
again, and the promise follows them when a device, a mask or an end of interrupt changes what is
pending: the guest sees what it would see with an INTR line.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.loader import Boot, enter
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.privilege import STORM_NS, Privilege
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.debug_registers import (
    DR6,
    DR6_RESET,
    DR7,
    DR7_RESET,
    ENABLED,
    NO_BREAKPOINTS,
)
from vmipatch.emu.processor.events import (
    WITH_ERROR_CODE,
    Cause,
    Delivery,
    Event,
    Vector,
)
from vmipatch.emu.processor.intercepts import DEBUG_REGISTERS, VMEXIT, SvmExit
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.processor.pause import skip_pause
from vmipatch.emu.processor.performance import corrected
from vmipatch.emu.processor.segment import SegmentState
from vmipatch.emu.processor.startup import start_up
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.undeliverable import deliver_or_end
from vmipatch.isa.classify import PREFIXES
from vmipatch.isa.trapped import MAX_LEN

_VM = int(Flag.VM)
_MOV_TO_DR: Final = b"\x0f\x23"
_PREFIXES: Final = bytes(sorted(PREFIXES))
_DE: Final = 1 << 3
"""Of CR4: debugging extensions."""
_OF_DELIVERY: Final = frozenset(
    {Vector.TSS, Vector.NOT_PRESENT, Vector.STACK, Vector.PROTECTION, Vector.PAGE_FAULT}
)
"""Exceptions that the delivery of an interrupt may end with."""
_IO_MAP_OFF = 0x66
"""Where a TSS tells the offset of its I/O permission bitmap."""


class NativePrivilege(Privilege):
    """CPL 0 for the guest kernel."""

    @property
    def is_hardware(self) -> bool:
        """Always, but for an interrupt that is promised and has no gate: Python sees it fail."""
        return self._promised is None or self._delivery.has_gate(self._promised[1])

    def __init__(self, parts: MachineParts) -> None:
        super().__init__(parts)
        self._cpu = parts.cpu
        self._registers = parts.cpu.registers
        self._pic = parts.local.interrupts
        self._delivery = Delivery(self._registers, parts.mmu)
        self._apic = parts.local.apic
        self._promised: tuple[int, int] | None = None
        self._debug = list(NO_BREAKPOINTS)
        self._nmi_promised = False
        self._last_ns = -1

    def start(self, boot: Boot) -> None:
        """Enter the kernel as a boot loader does."""
        enter(self._registers, boot)
        self._intercept()

    def start_up(self, page: int) -> None:
        """Begin in real mode."""
        start_up(self._registers, page)
        self._debug[:] = NO_BREAKPOINTS
        self._intercept()

    def _intercept(self) -> None:
        """Debug registers; and PAUSE of several processors, as one alone waits for no other."""
        pause = () if self.parts.pause is None else (SvmExit.PAUSE,)
        self._cpu.intercept(frozenset({SvmExit.DR_WRITE, *pause}))

    def on_interrupt(self, number: int) -> None:
        """Deliver through the guest's IDT."""
        software = self._cpu.take_exception()
        self._cpu.spend_event()
        if number >= VMEXIT:
            self._on_intercept(number)
            return
        if not software and number in _OF_DELIVERY and self._take_promised():
            return
        if software:
            event = Event(number, Cause.SOFTWARE)
        elif number in WITH_ERROR_CODE:
            event = Event(number, Cause.EXCEPTION, self._registers.error_code)
        else:
            event = Event(number, Cause.EXCEPTION)
        self.deliver(event)

    def _take_promised(self) -> bool:
        """Deliver the promised interrupt if Unicorn may just have failed to; whether it may.

        Unicorn would try again for ever, since its interrupt is acknowledged after the delivery. A
        fault of an instruction at such a place comes again, so it may come after the interrupt.
        """
        promised = self._promised
        if promised is None or not self._cpu.interrupt_promised:
            return False
        if not self._registers.interrupt_flag or self._registers.interrupt_shadow:
            return False
        self._promised = None
        self._cpu.promise_interrupt(None)
        vector = self._pic.acknowledge(promised[0])
        self.parts.statistics.lines[promised[0]] += 1
        self.deliver(Event(vector, Cause.EXTERNAL))
        self.after_devices()
        return True

    def _on_intercept(self, number: int) -> None:
        """PAUSE, and `mov` to a debug register."""
        register = number - VMEXIT - SvmExit.DR_WRITE
        if register in range(DEBUG_REGISTERS):
            self._write_debug(register)
            return
        if number != VMEXIT + SvmExit.PAUSE or self.parts.pause is None:
            raise GuestEnded(Ending.UNSUPPORTED, f"intercept {number - VMEXIT:#x} at CPL 0")
        skip_pause(self._registers, self.parts.mmu)
        self.parts.pause()

    def _write_debug(self, register: int) -> None:
        """MOV to a debug register; 4 and 5 are names of 6 and 7, unless CR4.DE says that they do
        not exist.
        """
        registers = self._registers
        code = self.parts.mmu.peek(registers.code_va, MAX_LEN)
        rest = code.lstrip(_PREFIXES)
        if not rest.startswith(_MOV_TO_DR) or len(rest) == len(_MOV_TO_DR):
            raise GuestEnded(Ending.UNSUPPORTED, f"a write of DR{register} by {code.hex()}")
        if register in (4, 5):
            if registers.cr4 & _DE:
                self.deliver(Event.exception(Vector.UNDEFINED))
                return
            register += 2
        value = registers.gpr(rest[len(_MOV_TO_DR)] & 7)  # whatever the upper bits say
        registers.eip += len(code) - len(rest) + len(_MOV_TO_DR) + 1
        if register == DR6:
            registers.debug_status = value | DR6_RESET
            return
        had_breakpoints = self._has_breakpoints
        self._debug[register] = value | DR7_RESET if register == DR7 else value
        if had_breakpoints or self._has_breakpoints:
            self.parts.load_breakpoints(self._debug)
        else:
            registers.set_debug(register, self._debug[register])

    @property
    def _has_breakpoints(self) -> bool:
        return bool(self._debug[DR7] & ENABLED)

    def deliver(self, event: Event) -> None:
        """Change registers and stack so that the handler runs next."""
        event = corrected(event, self._registers, self.parts.mmu)
        self.parts.delivered(event)
        deliver_or_end(self._delivery, event)

    def may_use_port(self, port: int, size: int) -> bool:
        """IOPL and the bitmap of the TSS, which Unicorn does not check."""
        registers = self._registers
        if not registers.cpl or (
            registers.cpl <= registers.iopl and not registers.raw_eflags & _VM
        ):
            return True
        tss, mmu = registers.tr, self.parts.mmu
        if tss.limit < _IO_MAP_OFF + 1:
            return False
        try:
            place = (mmu.read_u32(tss.base + _IO_MAP_OFF) & 0xFFFF) + (port >> 3)
            if place + 1 > tss.limit:
                return False
            bits = int.from_bytes(mmu.read(tss.base + place, 2), "little")
        except PageFault:
            return False
        return not bits >> (port & 7) & ((1 << size) - 1)

    def interrupts_enabled(self) -> bool:
        """EFLAGS.IF."""
        return self._registers.interrupt_flag

    @property
    def task(self) -> SegmentState:
        """The CPU's own."""
        return self._registers.tr

    def prepare(self) -> bool:
        """A `hlt` stops the CPU by itself."""
        return False

    def before_run(self) -> None:
        """The pending interrupt has been promised.

        A guest that faults for ever executes nothing: its time has to go on all the same.
        """
        clock = self.parts.clock
        if self._cpu.events_spent and clock.now_ns == self._last_ns:
            clock.pass_ns(STORM_NS)
        self._last_ns = clock.now_ns

    def before_devices(self) -> None:
        """Acknowledge a promised interrupt that has been taken meanwhile."""
        if self._promised is not None and not self._cpu.interrupt_promised:
            line, _ = self._promised
            self._promised = None
            self._pic.acknowledge(line)
            self.parts.statistics.lines[line] += 1

        if self._nmi_promised and not self._cpu.nmi_promised:
            self._nmi_promised = self._apic.nmi_waits = False

    def after_devices(self) -> None:
        """Promise what is pending now; if it can be taken at once, leave the code for it."""
        if self._apic.nmi_waits and not self._nmi_promised:
            self._nmi_promised = True
            self._cpu.promise_nmi()
            self._cpu.stop()
        line = self._pic.pending_line()
        if line is None and self._promised is None:
            return
        promise = None if line is None else (line, self._pic.vector_of(line))
        if promise == self._promised:
            return
        self._promised = promise
        self._cpu.promise_interrupt(None if promise is None else promise[1])
        if promise is not None and self._registers.interrupt_flag:
            self._cpu.stop()

    def switch_out(self) -> None:
        """Leave no promise and no breakpoint in the engine for the next processor."""
        self.take_promises_back()
        if self._has_breakpoints:
            self.parts.load_breakpoints(NO_BREAKPOINTS)

    def take_promises_back(self) -> None:
        """They are made again when the devices have had their turn."""
        self.before_devices()
        if self._promised is not None:
            self._promised = None
            self._cpu.promise_interrupt(None)
        if self._nmi_promised:
            self._nmi_promised = False
            self._cpu.take_nmi_back()

    def switch_in(self) -> None:
        """Promises are made when the devices have had their turn."""
        if self._has_breakpoints:
            self.parts.load_breakpoints(self._debug)
