# SPDX-License-Identifier: MIT
"""How does a process come back from a signal to selectors that it must not have?

A static program that builds a signal frame and calls sigreturn(2); the kernel puts RPL 3 into what
it finds there and returns by IRET, which refuses some of it (Linux, arch/x86/kernel/signal.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.isa.assemble import assemble

CAME_BACK = 42
"""The exit status if the kernel returned to where the frame says."""
_LINK_VA = 0x08048000
_KEPT = 0x10000
"""In place of a selector: the process's own."""

# struct sigcontext_32 (arch/x86/include/uapi/asm/sigcontext.h) is what ESP points at when the
# handler's `ret` has taken the frame's first word and its `pop` the signal number. What is after
# it has only to be readable.
_SOURCE = """
start:
    sub esp, 2048
    mov edi, esp
    mov ecx, 22
    mov eax, 0
    cld
    rep stosd
    mov eax, ds
    mov dword ptr [esp + 8], eax        # es
    mov dword ptr [esp + 12], eax       # ds
    mov dword ptr [esp + 28], esp       # sp
    mov dword ptr [esp + 56], came_back # ip
    pushfd
    pop dword ptr [esp + 64]            # flags; the address counts from the end of the pop
    mov eax, cs
    mov ebx, FRAME_CS
    cmp ebx, KEPT
    je keep_cs
    mov eax, ebx
keep_cs:
    mov dword ptr [esp + 60], eax
    mov eax, ss
    mov ebx, FRAME_SS
    cmp ebx, KEPT
    je keep_ss
    mov eax, ebx
keep_ss:
    mov dword ptr [esp + 72], eax
    mov eax, 119                        # sigreturn
    int 0x80
came_back:
    mov ebx, CAME_BACK
    mov eax, 1                          # exit
    int 0x80
"""


def returning_to(*, cs: int = _KEPT, ss: int = _KEPT) -> bytes:
    """An ELF program that exits with CAME_BACK, or does not come back to `cs` and `ss`."""
    names = {"FRAME_CS": cs, "FRAME_SS": ss, "KEPT": _KEPT, "CAME_BACK": CAME_BACK}
    linked = assemble(_SOURCE, _LINK_VA, symbols=names, name="sigreturn")
    builder = ElfBuilder(entry=linked.labels["start"], physical_offset=0)
    builder.section(".text", _LINK_VA, linked.code, TEXT)
    return builder.build()


PROGRAMS: Mapping[str, bytes] = MappingProxyType(
    {
        "own selectors": returning_to(),
        "no CS": returning_to(cs=0),
        "CS beyond the table": returning_to(cs=0xFFF8),
        "stack as CS": returning_to(cs=0x78),
        "kernel's CS": returning_to(cs=0x60),
        "no SS": returning_to(ss=0),
        "SS beyond the table": returning_to(ss=0xFFF8),
        "code as SS": returning_to(ss=0x70),
        "kernel's SS": returning_to(ss=0x68),
    }
)
"""By what is in the frame. GDT entries: 12 and 13 the kernel's, 14 and 15 the user's code and data
(arch/x86/include/asm/segment.h)."""
