# SPDX-License-Identifier: MIT
"""Does each event find its handler, with the frame that the CPU would have pushed?"""

from __future__ import annotations

import pytest

from tests.emu.guest import (
    DATA_PA,
    KERNEL_CS,
    STACK_PA,
    TO_USER,
    USER_CS,
    USER_DS,
    USER_STACK_PA,
    Gate,
    Guest,
)
from vmipatch.emu.processor.events import Vector
from vmipatch.emu.report import Ending

KEEP_FRAME = f"""
handler:
    cld
    mov esi, esp
    mov edi, {DATA_PA}
    mov ecx, 6
    rep
    movs dword ptr es:[edi], dword ptr [esi]
    mov dword ptr [{DATA_PA + 0x20}], esp
    mov word ptr [{DATA_PA + 0x24}], cs
    cli
    hlt
"""
"""Six words of the stack to DATA_PA, then ESP and CS."""


def test_software_interrupt_from_user_mode_switches_the_stack() -> None:
    run = Guest(
        f"{TO_USER} user: int 0x80\n after: nop\n {KEEP_FRAME}", {0x80: Gate("handler", 3)}
    ).run()
    assert run.result.ending is Ending.HALTED
    frame = [run.word(i) for i in range(5)]
    assert frame == [run.code.labels["after"], USER_CS, 0x202, USER_STACK_PA, USER_DS]
    assert run.word(8) == STACK_PA - 20
    assert run.word(9) == KERNEL_CS


@pytest.mark.parametrize(("instruction", "vector"), [("int 0x70", 0x70), ("int3", 3), ("into", 4)])
def test_refused_software_interrupt_names_the_instruction(instruction: str, vector: int) -> None:
    source = f"""
        {TO_USER}
    user:
        mov eax, 0x7fffffff
        add eax, 1
    at: {instruction}
        {KEEP_FRAME}
    """
    run = Guest(source, {vector: Gate("handler", 0), 13: Gate("handler")}).run()
    assert run.word(0) == vector * 8 + 2
    assert run.word(1) == run.code.labels["at"]
    assert run.word(2) == USER_CS


def test_gate_that_is_not_present_is_told_so() -> None:
    source = f"{TO_USER} user: int 0x80\n {KEEP_FRAME}"
    run = Guest(source, {0x80: Gate("handler", 3, False), 11: Gate("handler")}).run()
    assert run.word(0) == 0x80 * 8 + 2


def test_exception_is_reported_at_the_instruction_with_exact_flags() -> None:
    source = f"""
        stc
        mov ax, 0x100
    at: mov fs, ax
        {KEEP_FRAME}
    """
    run = Guest(source, {13: Gate("handler")}).run()
    assert run.word(0) == 0x100
    assert run.word(1) == run.code.labels["at"]
    assert run.word(3) & 1, "the carry flag"


def test_undefined_instruction_has_no_error_code() -> None:
    run = Guest(f"at: ud2\n {KEEP_FRAME}", {6: Gate("handler")}).run()
    assert run.word(0) == run.code.labels["at"]
    assert run.word(1) == KERNEL_CS


def test_many_faults_in_a_row_stay_what_they_are() -> None:
    """Unicorn takes the second page fault for a double fault unless told that the first is over."""
    source = f"""
        mov ecx, 100
    again:
        mov ax, 0x100
    at: mov fs, ax
        dec ecx
        jnz again
        mov dword ptr [{DATA_PA}], ebx
        cli
        hlt
    handler:
        inc ebx
        add esp, 4
        add dword ptr [esp], 3
        iretd
    """
    run = Guest("xor ebx, ebx\n" + source, {13: Gate("handler")}).run()
    assert run.word(0) == 100
    assert run.result.statistics.vectors[Vector.PROTECTION] == 100


def test_fault_without_a_handler_is_a_double_fault() -> None:
    run = Guest(f"mov ax, 0x100\n mov fs, ax\n {KEEP_FRAME}", {8: Gate("handler")}).run()
    assert run.result.ending is Ending.HALTED
    assert run.word(0) == 0


def test_exception_without_any_handler_ends_the_run() -> None:
    run = Guest("ud2").run()
    assert run.result.ending is Ending.TRIPLE_FAULT
    assert not run.result.ending.by_guest


def test_exception_without_an_idt_is_a_way_to_reboot() -> None:
    run = Guest("int3", idt_limit=0).run()
    assert run.result.ending is Ending.RESET_BY_FAULT
    assert run.result.ending.by_guest


def test_double_fault_by_task_gate_stops_and_says_how_it_came_about() -> None:
    """Linux handles it in a task of its own; what follows is a report and a halt."""
    source = f"mov dword ptr [{0x110100 + Vector.DOUBLE_FAULT * 8 + 4}], 0x00008500\n"
    run = Guest(source + "mov ax, 0x100\n mov fs, ax").run()
    assert run.result.ending is Ending.UNSUPPORTED
    assert run.result.details.startswith("double fault: exception 13, error code 0x100 could not")
    assert "task gate" in run.result.details


def test_task_gate_is_refused_in_words() -> None:
    def make_task_gate() -> str:
        return f"mov dword ptr [{0x110100 + 0x80 * 8 + 4}], 0x0000e500\n int 0x80"

    run = Guest(make_task_gate()).run()
    assert run.result.ending is Ending.UNSUPPORTED
    assert "task gate" in run.result.details
