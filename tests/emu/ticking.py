# SPDX-License-Identifier: MIT
"""How does a test guest let the timer interrupt it? The text it runs for that."""

from __future__ import annotations


def controllers(first_vector: int, mask: int = 0xFE) -> str:
    """Initialise the first interrupt controller; by `mask`, all lines but the timer's are off."""
    return f"""
    mov al, 0x11
    out 0x20, al
    mov al, {first_vector}
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, {mask}
    out 0x21, al
"""


EVERY_MS = """
    mov al, 0x34
    out 0x43, al
    mov al, 0xa9
    out 0x40, al
    mov al, 0x04
    out 0x40, al
"""
"""The timer rises line 0 every 1193 of its cycles: every millisecond."""
