# SPDX-License-Identifier: MIT
"""How does a small guest start its second processor? As the SDM says: INIT, STARTUP, real mode.

Source: Intel SDM volume 3, 8.4.4. The guest's source has a label `second`, where that processor
arrives in protected mode with flat segments and a stack of its own, interrupts off.
"""

from __future__ import annotations

from dataclasses import replace

from tests.emu.guest import GDT_REGISTER_OFF, IDT_REGISTER_OFF, KERNEL_CS, KERNEL_DS, TABLES_PA
from tests.emu.ring1_guest import OPTIONS
from vmipatch.emu.schedule import MIN_TURN_LEN

TWO = replace(OPTIONS, cpus=2)
HASTY = replace(TWO, turn_len=MIN_TURN_LEN)

APIC, IO_APIC = 0xFEE00000, 0xFEC00000
EOI, SVR, ICR, ICR_HIGH = APIC + 0xB0, APIC + 0xF0, APIC + 0x300, APIC + 0x310
PAGE = 9
TRAMPOLINE_PA = PAGE << 12
SECOND_STACK_PA = 0x12D000


_IMAGE_OFF = 0x20
"""Of the trampoline: where the image for GDTR is."""
_CODE = bytes.fromhex(
    "fa"  # cli
    "662e0f01162000"  # lgdt cs:[0x20]
    "66b801000000"  # mov eax, 1
    "0f01f0"  # lmsw ax
    "66ea"  # jmp far, the operand of which follows
)


def _bytes_to(place_pa: int, code: bytes) -> str:
    return "\n".join(f"mov byte ptr [{place_pa + i}], {octet}" for i, octet in enumerate(code))


TRAMPOLINE = f"""
    {_bytes_to(TRAMPOLINE_PA, _CODE)}
    mov eax, arrived
    mov dword ptr [{TRAMPOLINE_PA + len(_CODE)}], eax
    mov word ptr [{TRAMPOLINE_PA + len(_CODE) + 4}], {KERNEL_CS}
    mov ax, word ptr [{TABLES_PA + GDT_REGISTER_OFF}]
    mov word ptr [{TRAMPOLINE_PA + _IMAGE_OFF}], ax
    mov eax, dword ptr [{TABLES_PA + GDT_REGISTER_OFF + 2}]
    mov dword ptr [{TRAMPOLINE_PA + _IMAGE_OFF + 2}], eax
"""

APIC_ON = f"mov dword ptr [{SVR}], 0x1ff\n"
INIT_SECOND = f"mov dword ptr [{ICR_HIGH}], 0x01000000\n mov dword ptr [{ICR}], 0x4500\n"
STARTUP_SECOND = f"mov dword ptr [{ICR}], {0x4600 | PAGE}\n"

START = f"{TRAMPOLINE} {APIC_ON} {INIT_SECOND} {STARTUP_SECOND}"

ARRIVAL = f"""
arrived:
    mov eax, {KERNEL_DS}
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, {SECOND_STACK_PA}
    lidt [{TABLES_PA + IDT_REGISTER_OFF}]
    {APIC_ON}
second:
"""


def until(place_pa: int, value: int, label: str) -> str:
    """Wait, with PAUSE, for another processor to write `value`."""
    return f"""
    {label}:
        pause
        cmp dword ptr [{place_pa}], {value}
        jne {label}
    """


def send(vector: int, destination: int) -> str:
    """A message to another processor; vector with delivery mode as in the ICR."""
    return f"""
        mov dword ptr [{ICR_HIGH}], {destination << 24}
        mov dword ptr [{ICR}], {0x4000 | vector}
    """
