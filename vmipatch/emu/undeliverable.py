# SPDX-License-Identifier: MIT
"""What if an event cannot be delivered? Then the run ends, and its report says why."""

from __future__ import annotations

from vmipatch.emu.processor.events import Delivery, Event, TripleFault, UnsupportedGate
from vmipatch.emu.report import Ending, GuestEnded


def deliver_or_end(delivery: Delivery, event: Event) -> None:
    """Let the guest's handler run next. Raises GuestEnded if the guest has none that can."""
    try:
        delivery.deliver(event)
    except TripleFault as fault:
        # `reboot=t` and kexec load an IDT of no length and raise a fault, which resets a PC.
        meant = fault.idt_limit == 0
        ending = Ending.RESET_BY_FAULT if meant else Ending.TRIPLE_FAULT
        raise GuestEnded(ending, str(fault)) from fault
    except UnsupportedGate as gate:
        raise GuestEnded(Ending.UNSUPPORTED, str(gate)) from gate
