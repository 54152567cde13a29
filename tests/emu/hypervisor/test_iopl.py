# SPDX-License-Identifier: MIT
"""Does a process get the IOPL that the kernel puts into the frame it returns by?

Linux up to 5.4 gives a process its ports so: iopl(2) changes EFLAGS in the frame of the system call
(arch/x86/kernel/ioport.c).
"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, USER_CS, USER_DS, USER_STACK_PA, Gate
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest, call_rom, entry_words
from vmipatch.choices import Mode
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall as C

D = DATA_PA
PORT = 0x80


def frame(iopl: int, label: str) -> str:
    """A return to `label`, at CPL 3."""
    return f"""
        push {USER_DS}
        push {USER_STACK_PA}
        push {0x202 | iopl << 12}
        push {USER_CS}
        mov eax, {label}
        push eax
    """


def kernel(first: int, second: int, returns: str) -> str:
    """A process with one IOPL, then with another; what it could do is noted."""
    return f"""
        {frame(first, "user")}
        {returns}
    user:
        mov esi, {D}
        pushfd
        pop dword ptr [esi]
        mov ebx, refused_1
        out {PORT}, al
        mov dword ptr [esi + 4], 1
    refused_1:
        int 0x30
    system_call:
        mov eax, [esp + 8]
        mov [esi + 8], eax
        cmp esi, {D}
        jne end
        mov esi, {D + 16}
        and dword ptr [esp + 8], 0xffffcfff
        or dword ptr [esp + 8], {second << 12}
        mov eax, again
        mov [esp], eax
        {returns}
    again:
        pushfd
        pop dword ptr [esi]
        mov ebx, refused_2
        out {PORT}, al
        mov dword ptr [esi + 4], 1
    refused_2:
        int 0x30
    protection:
        add esp, 4
        mov [esp], ebx
        {returns}
    end:
        cli
        hlt
    """


GATES = {0x30: Gate("system_call", dpl=3), 13: Gate("protection")}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (3, 3), (0, 0), (1, 2)])
def test_iopl_of_a_frame_is_the_process_s(first: int, second: int, mode: Mode) -> None:
    """Intel SDM volume 2, IRET: at CPL 0 it loads IOPL; volume 1, 19.5.1: CPL <= IOPL may."""
    returns, words = "iretd", ""
    if mode.has_rom:
        returns, words = call_rom(C.IRET), entry_words(C.IRET)
    source = f"{INIT if mode.has_rom else ''} {kernel(first, second, returns)} .p2align 2\n {words}"
    run = ModeGuest(source, GATES, mode=mode).run(OPTIONS)
    assert run.result.ending is Ending.HALTED, run.result
    for at, iopl in ((0, first), (4, second)):
        assert run.word(at) >> 12 & 3 == iopl, "what the process reads"
        assert run.word(at + 1) == (iopl == 3), "whether it has the port"
        assert run.word(at + 2) >> 12 & 3 == iopl, "what the kernel reads"
