# SPDX-License-Identifier: MIT
"""When does an interrupt that waits reach a kernel at CPL 1? As soon as virtual IF lets it in.

Not in the shadow of `sti` or of a load of SS: the instruction after it is executed first, by a step
of the hypervisor's own.
"""

from __future__ import annotations

from vmipatch.emu.hypervisor.deprivileged import Deprivileged
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import (
    Cause,
    Event,
    Vector,
)
from vmipatch.emu.processor.pause import pause_len
from vmipatch.emu.processor.performance import corrected
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.undeliverable import deliver_or_end

_VM, _TF = int(Flag.VM), int(Flag.TF)


class WaitingInterrupts(Deprivileged):
    """Interrupts for a kernel at CPL 1."""

    def deliver(self, event: Event) -> None:
        """Let the guest's handler run next, at CPL 1."""
        self._end_step()
        if self._in_real_mode:
            raise GuestEnded(Ending.UNSUPPORTED, f"{event} in real mode")
        event = corrected(event, self._registers, self._mmu)
        self.parts.delivered(event)
        deliver_or_end(self._delivery, event)

    def interrupts_enabled(self) -> bool:
        """Virtual IF."""
        return self._vcpu.interrupts_enabled

    def before_devices(self) -> None:
        """Interrupts are acknowledged when they are delivered: nothing is owed."""

    def after_devices(self) -> None:
        """Note whether an interrupt waits; leave the running code if it can be taken."""
        pic, vcpu = self._pic, self._vcpu
        settled = not (self._pending or vcpu.iopl or vcpu.page.pending)
        if settled and pic.pending_line() is None:
            return  # as after nearly each access to a port
        self._note_pending()
        if self._pending and self._vcpu.interrupts_enabled:
            self._cpu.stop()

    def prepare(self) -> bool:
        """Let time pass; whether the guest waits, and nothing comes yet."""
        if self._in_real_mode:
            return False
        if not self._vcpu.holds:
            raise GuestEnded(Ending.ESCAPED)
        if self._registers.raw_eflags & _VM:
            raise GuestEnded(Ending.UNSUPPORTED, "a return to virtual 8086 mode")
        self._let_time_pass()
        self._waits = self._context.halted and not (self._pending and self._vcpu.interrupts_enabled)
        self._context.halted = False
        if self._waits and self.parts.pause is not None:
            self._last_ns = -1  # others may wake it before time goes on
        return self._waits

    def before_run(self) -> None:
        """Deliver the interrupt that waits, if it may come now."""
        self._end_step()
        if self._waits:
            self._note_pending()
        if self._apic.nmi_waits and not self._in_real_mode:
            self._offer_nmi()
        if not self._pending or not self._vcpu.interrupts_enabled:
            return
        if self._context.shadow_va == self._registers.eip:
            self._context.shadow_va = None
            self._begin_step()
        else:
            self._deliver_pending()

    def _begin_step(self) -> None:
        """One instruction, then the interrupt that waits: the next might switch it off again."""
        registers = self._registers
        if length := pause_len(self._window() or b""):
            registers.eip += length  # a step would not end after it
            self._deliver_pending()
        elif registers.raw_eflags & _TF or self._would_show_step():
            clock = self.parts.clock
            clock.at(clock.now_ns, lambda: None)  # one block, then here again
        else:
            self._stepping = True
            registers.raw_eflags |= _TF

    def _would_show_step(self) -> bool:
        """Whether the next instruction pushes the real flags, which no rewritten kernel does."""
        instruction = None if self._vcpu.observed else self._instruction()
        return instruction is not None and instruction.form.kind == "pushf"

    def _end_step(self) -> bool:
        """Whether the CPU was to come back after one instruction."""
        stepping, self._stepping = self._stepping, False
        if stepping:
            self._registers.raw_eflags &= ~_TF
        return stepping

    def _offer_nmi(self) -> None:
        """Deliver a non-maskable interrupt, unless one is being served.

        An IRET that the ROM makes itself is not seen; but a handler keeps interrupts off, so that
        it has returned when they are on.
        """
        context = self._context
        if context.serves_nmi and not self._vcpu.interrupts_enabled:
            return
        if context.shadow_va == self._registers.eip:
            self.parts.clock.at(self.parts.clock.now_ns, lambda: None)  # one block, then here
        else:
            self._deliver_nmi()

    def _deliver_nmi(self) -> None:
        self._apic.nmi_waits = False
        self._context.serves_nmi = True
        self.deliver(Event(Vector.NMI, Cause.EXTERNAL))

    def _after_emulation(self) -> None:
        """An instruction may have let an interrupt in."""
        if not self._pending or not self._vcpu.interrupts_enabled or self._context.halted:
            return
        if self._context.shadow_va == self._registers.eip:
            self._cpu.stop()
        else:
            self._deliver_pending()

    def _deliver_pending(self) -> None:
        """Take the interrupt that waits."""
        line = self._pic.pending_line()
        if line is not None:
            vector = self._pic.acknowledge(line)
            self.parts.statistics.lines[line] += 1
            self.deliver(Event(vector, Cause.EXTERNAL))
        self._note_pending()

    def _note_pending(self) -> None:
        self._pending = self._pic.pending_line() is not None
        self._vcpu.page.pending = self._pending or self._vcpu.iopl != 0
        self._vcpu.outer.answers = self.is_paravirtual and not self._pending
