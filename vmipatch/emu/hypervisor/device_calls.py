# SPDX-License-Identifier: MIT
"""Which VMI calls reach a device of the machine? Those of the local APIC and of the alarms.

Arguments as in API 3.0; those on the stack stand above the EBX that the ROM has pushed and the
return address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.devices.local import LocalDevices
from vmipatch.emu.hypervisor.context import Context
from vmipatch.vmi.calls import VmiCall

DeviceCall = Callable[[Context, LocalDevices], None]
_FIRST_OFF: Final = 8
"""Where the first stack argument is, seen from the stack pointer of a hypercall."""


def _apic_read(context: Context, devices: LocalDevices) -> None:
    registers = context.registers
    registers.eax = devices.apic.read(registers.eax)


def _apic_write(context: Context, devices: LocalDevices) -> None:
    devices.apic.write(context.registers.eax, context.registers.edx)


def _set_alarm(context: Context, devices: LocalDevices) -> None:
    registers = context.registers
    period = context.peek(_FIRST_OFF) | context.peek(_FIRST_OFF + 4) << 32
    devices.alarms.set(registers.eax, registers.ecx << 32 | registers.edx, period)


def _cancel_alarm(context: Context, devices: LocalDevices) -> None:
    registers = context.registers
    registers.eax = devices.alarms.cancel(registers.eax)


DEVICE_CALLS: Final[dict[VmiCall, DeviceCall]] = {
    VmiCall.APIC_READ: _apic_read,
    VmiCall.APIC_WRITE: _apic_write,
    VmiCall.SET_ALARM: _set_alarm,
    VmiCall.CANCEL_ALARM: _cancel_alarm,
}
"""By call."""
