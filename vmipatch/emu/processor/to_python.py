# SPDX-License-Identifier: MIT
"""How does code that delivers events give one to Python? As it was before the code looked at it.

RBP points to the CPU's state, RBX to the facts of the delivery: whether one is under way at 64, the
event at 68, and what the state held before at 72 to 88. Control comes to one of three labels. In:
RDI, ESI as the callback gets them. Out: RDX, the callback's cell. Clobbers RCX.
"""

from __future__ import annotations

from typing import Final

TO_PYTHON: Final = bytes.fromhex(
    "8b4b48"  # again: mov ecx, [rbx+72]
    "898d0c150000"  # mov [rbp+is_software], ecx
    "8b4b4c"  # mov ecx, [rbx+76]
    "898d08150000"  # mov [rbp+error_code], ecx
    "8b4b50"  # mov ecx, [rbx+80]
    "898d78150000"  # mov [rbp+old_exception], ecx
    "488b4b58"  # mov rcx, [rbx+88]
    "48898db8010000"  # mov [rbp+cr2], rcx
    "c7434000000000"  # other: mov dword ptr [rbx+64], 0
    "8b7344"  # mov esi, [rbx+68]
    "4889da"  # python: mov rdx, rbx
)
