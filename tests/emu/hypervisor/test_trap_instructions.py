# SPDX-License-Identifier: MIT
"""Does a kernel at CPL 1 see of each sensitive instruction what it sees at CPL 0?"""

from __future__ import annotations

import pytest

from tests.emu.guest import (
    DATA_PA,
    KERNEL_CS,
    KERNEL_DS,
    STACK_PA,
    TABLES_PA,
    TO_USER,
    TSS,
    USER_DS,
    Gate,
)
from tests.emu.ring1_guest import run_both
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending

WORDS = 16
D = DATA_PA
END = "\n cli\n hlt\n"

FLAGS = {
    "pushf sees sti and cli": f"""
        sti
        pushfd
        pop dword ptr [{D}]
        cli
        pushfd
        pop dword ptr [{D + 4}]
    """,
    "popf sets every flag that pushf then shows": f"""
        push 0x247ed7
        popfd
        pushfd
        pop dword ptr [{D}]
        push 2
        popfd
        pushfd
        pop dword ptr [{D + 4}]
    """,
    "prefixes belong to the instruction": f"""
        push 0x202
        .byte 0x3e, 0x3e, 0x9d
        .byte 0x3e, 0x9c
        pop dword ptr [{D}]
        .byte 0x3e, 0xfa
        .byte 0x3e, 0x3e, 0x3e, 0x9c
        pop dword ptr [{D + 4}]
    """,
    "16-bit pushf and popf": f"""
        mov dword ptr [{D}], 0
        push 0x200000
        popfd
        .byte 0x66, 0x68, 0x02, 0x0a
        .byte 0x66, 0x9d
        pushfd
        pop dword ptr [{D + 4}]
        .byte 0x66, 0x9c
        .byte 0x66, 0x58
        mov word ptr [{D}], ax
        mov dword ptr [{D + 8}], esp
    """,
    "arithmetic flags live over cli, sti and pushf": f"""
        mov eax, 0x7fffffff
        add eax, 1
        cli
        sti
        pushfd
        lea esp, [esp + 4]
        seto byte ptr [{D}]
        sets byte ptr [{D + 1}]
        setc byte ptr [{D + 2}]
    """,
}

TABLES = {
    "sgdt, sidt": f"""
        .byte 0x0f, 0x01, 0x05
        .long {D}
        .byte 0x0f, 0x01, 0x0d
        .long {D + 8}
    """,
    "sldt, str, smsw to registers and memory": f"""
        mov eax, -1
        str eax
        mov dword ptr [{D}], eax
        mov eax, -1
        str ax
        mov dword ptr [{D + 4}], eax
        str word ptr [{D + 8}]
        sldt ecx
        mov dword ptr [{D + 12}], ecx
        smsw edx
        mov dword ptr [{D + 16}], edx
        smsw word ptr [{D + 20}]
    """,
    "lgdt and lidt through every kind of address": f"""
        mov ebx, {TABLES_PA}
        mov esi, 0x160
        .byte 0x0f, 0x01, 0x94, 0x73
        .long 0xb00 - 0x2c0
        .byte 0x0f, 0x01, 0x05
        .long {D}
        mov ebp, {TABLES_PA + 0xB10 + 8}
        .byte 0x0f, 0x01, 0x5d, 0xf8
        .byte 0x0f, 0x01, 0x0d
        .long {D + 8}
        mov word ptr [{D + 0x20}], 0x77
        mov dword ptr [{D + 0x22}], {TABLES_PA}
        mov eax, {D + 0x20}
        .byte 0x0f, 0x01, 0x18
        .byte 0x0f, 0x01, 0x0d
        .long {D + 16}
    """,
}

CONTROL = {
    "control registers": f"""
        mov eax, cr0
        mov dword ptr [{D}], eax
        or eax, 0x10008
        mov cr0, eax
        mov ecx, cr0
        mov dword ptr [{D + 4}], ecx
        clts
        mov ecx, cr0
        mov dword ptr [{D + 8}], ecx
        mov eax, 0x12345678
        mov cr2, eax
        mov edx, cr2
        mov dword ptr [{D + 12}], edx
        mov eax, 0x90
        mov cr4, eax
        mov esi, cr4
        mov dword ptr [{D + 16}], esi
        mov ebx, {TABLES_PA}
        mov cr3, ebx
        mov edi, cr3
        mov dword ptr [{D + 20}], edi
    """,
    "lmsw sets TS and cannot clear PE": f"""
        mov eax, 8
        lmsw ax
        mov eax, cr0
        mov dword ptr [{D}], eax
        mov dword ptr [{D + 4}], 0
        lmsw word ptr [{D + 4}]
        mov eax, cr0
        mov dword ptr [{D + 4}], eax
    """,
    "debug registers, 4 and 5 being 6 and 7": f"""
        mov eax, 0x1111
        mov dr0, eax
        mov eax, 0x2222
        mov dr3, eax
        mov ecx, dr0
        mov edx, dr3
        mov dword ptr [{D}], ecx
        mov dword ptr [{D + 4}], edx
        mov ecx, dr7
        mov dword ptr [{D + 8}], ecx
    """,
    "model-specific registers": f"""
        mov ecx, 0x174
        mov eax, 0x60
        mov edx, 0
        wrmsr
        mov eax, 5
        rdmsr
        mov dword ptr [{D}], eax
        mov dword ptr [{D + 4}], edx
        mov ecx, 0x123456
        rdmsr
        mov dword ptr [{D + 8}], eax
        wbinvd
    """,
}

SEGMENTS = {
    "loads of SS with RPL 0": f"""
        mov eax, {KERNEL_DS}
        mov ss, ax
        mov dword ptr [{D}], esp
        push {KERNEL_DS}
        pop ss
        mov dword ptr [{D + 4}], esp
        mov dword ptr [{D + 8}], {STACK_PA - 64}
        mov dword ptr [{D + 12}], {KERNEL_DS}
        lss esp, [{D + 8}]
        mov dword ptr [{D + 16}], esp
    """,
    "data segments of the kernel": f"""
        mov eax, {KERNEL_DS}
        mov fs, ax
        mov gs, ax
        push {KERNEL_DS}
        pop es
        mov word ptr fs:[{D}], fs
        mov word ptr es:[{D + 4}], gs
        mov eax, {USER_DS}
        mov ds, ax
        mov word ptr [{D + 8}], ds
    """,
    "far jump, far call and far return": f"""
        mov dword ptr [{D + 0x20}], 0
        .byte 0xea
        .long jumped
        .short {KERNEL_CS}
    jumped:
        inc dword ptr [{D + 0x20}]
        .byte 0x9a
        .long called
        .short {KERNEL_CS}
        mov dword ptr [{D + 4}], esp
        push 7
        push 8
        push {KERNEL_CS}
        mov eax, returned
        push eax
        .byte 0xca, 0x08, 0x00
    called:
        inc dword ptr [{D + 0x20}]
        .byte 0xcb
    returned:
        inc dword ptr [{D + 0x20}]
        mov dword ptr [{D + 8}], esp
    """,
    "iret to the same ring": f"""
        push 0xa02
        push {KERNEL_CS}
        mov eax, returned
        push eax
        iretd
        ud2
    returned:
        pushfd
        pop dword ptr [{D}]
        mov dword ptr [{D + 4}], esp
    """,
}


@pytest.mark.parametrize(
    "name", [*FLAGS, *TABLES, *CONTROL, *SEGMENTS], ids=lambda name: name.replace(" ", "-")
)
def test_kernel_sees_what_it_sees_at_cpl_0(name: str) -> None:
    source = {**FLAGS, **TABLES, **CONTROL, **SEGMENTS}[name]
    native, trap = run_both(source + END)
    assert (native.result.ending, trap.result.ending) == (Ending.HALTED, Ending.HALTED)
    seen = [trap.word(i) for i in range(WORDS)]
    assert seen == [native.word(i) for i in range(WORDS)]
    assert any(seen), "the guest has left nothing to compare"


REPORT = f"""
handler:
    mov eax, {KERNEL_DS}
    mov ds, ax
    pop dword ptr [{D + 16}]
    pop dword ptr [{D + 20}]
    pop eax
    and eax, 0xfffc
    mov dword ptr [{D + 24}], eax
    pop dword ptr [{D + 28}]
    pushfd
    pop dword ptr [{D + 32}]
    cli
    hlt
"""
"""Error code, EIP, CS without RPL, EFLAGS; then the handler's own EFLAGS."""

FAULTS = {
    "iret to a selector beyond the table": ("push 2\n push 0x330\n push 0x1234\n at: iretd", 13),
    "iret to user code with the kernel's stack": (
        f"push {KERNEL_DS}\n push 0\n push 0x202\n push 0x1b\n push 0\n at: iretd",
        13,
    ),
    "iret to the kernel's code with user privilege": (
        f"push {USER_DS}\n push 0\n push 0x202\n push {KERNEL_CS | 3}\n push 0\n at: iretd",
        13,
    ),
    "iret to data": (f"push 2\n push {KERNEL_DS}\n push 0\n at: iretd", 13),
    "ltr of a busy task": (f"mov eax, {TSS}\n at: ltr ax", 13),
    "lldt of data": (f"mov eax, {KERNEL_DS}\n at: lldt ax", 13),
    "mov ss with user data": (f"mov eax, {USER_DS}\n at: mov ss, ax", 13),
    "mov ds beyond the table": ("mov eax, 0x330\n at: mov ds, ax", 13),
    "far return to user data": (f"push {USER_DS}\n push 0\n at: .byte 0xcb", 13),
    "far jump to the task": ("at: .byte 0xea\n .long 0\n .short 0x13", 13),
}


@pytest.mark.parametrize("name", FAULTS, ids=lambda name: name.replace(" ", "-"))
def test_refused_instruction_faults_as_at_cpl_0(name: str) -> None:
    source, vector = FAULTS[name]
    native, trap = run_both(f"sti\n {source}\n ud2\n {REPORT}", {vector: Gate("handler")})
    seen = [trap.word(i) for i in range(4, 9)]
    assert seen == [native.word(i) for i in range(4, 9)]
    assert seen[1] == trap.code.labels["at"]


@pytest.mark.parametrize(
    "source",
    [
        "mov eax, 0x80000000\n at: mov cr4, eax",
        "mov eax, 0x80000000\n at: mov cr0, eax",
        "mov eax, 0\n at: ltr ax",
        "mov ecx, 0xc0000080\n mov edx, 0\n mov eax, 0x1100\n at: wrmsr",
    ],
)
def test_manual_is_obeyed_where_unicorn_forgives(source: str) -> None:
    _, trap = run_both(f"sti\n {source}\n ud2\n {REPORT}", {13: Gate("handler")})
    assert (trap.word(4), trap.word(5)) == (0, trap.code.labels["at"])


def test_process_sees_its_own_flags_and_cannot_change_if() -> None:
    source = f"""
        {TO_USER}
    user:
        pushfd
        pop ebx
        push 0x2
        popfd
        pushfd
        pop ecx
        int 0x80
    handler:
        mov eax, {KERNEL_DS}
        mov ds, ax
        mov dword ptr [{D}], ebx
        mov dword ptr [{D + 4}], ecx
        mov eax, dword ptr [esp + 8]
        mov dword ptr [{D + 8}], eax
        cli
        hlt
    """
    native, trap = run_both(source, {0x80: Gate("handler", 3)})
    assert [trap.word(i) for i in range(3)] == [native.word(i) for i in range(3)] == [0x202] * 3


def test_kernel_segments_are_taken_from_a_process() -> None:
    source = f"""
        mov eax, {KERNEL_DS}
        mov fs, ax
        mov eax, {USER_DS}
        mov gs, ax
        {TO_USER}
    user:
        mov eax, 0
        mov ax, fs
        mov ecx, 0
        mov cx, gs
        int 0x80
    handler:
        mov edx, {KERNEL_DS}
        mov ds, dx
        mov dword ptr [{D}], eax
        mov dword ptr [{D + 4}], ecx
        cli
        hlt
    """
    native, trap = run_both(source, {0x80: Gate("handler", 3)})
    assert [trap.word(i) for i in range(2)] == [native.word(i) for i in range(2)] == [0, USER_DS]


def test_every_exit_is_counted_by_its_kind() -> None:
    _, trap = run_both("cli\n sti\n sti\n pushfd\n popfd\n clts\n wbinvd\n" + END)
    traps = trap.result.statistics.traps
    assert traps[ExitKind.CLI] == 2 and traps[ExitKind.STI] == 2
    assert traps[ExitKind.PUSHF] == traps[ExitKind.POPF] == 1
    assert traps[ExitKind.CLTS] == traps[ExitKind.CACHE] == traps[ExitKind.HLT] == 1
    assert traps.total() == sum(
        count for call, count in trap.result.statistics.calls.items() if call.name == "INTERRUPT"
    )


def test_native_run_counts_no_traps() -> None:
    native, _ = run_both("cli\n sti\n" + END)
    assert not native.result.statistics.traps
