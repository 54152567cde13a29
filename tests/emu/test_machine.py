# SPDX-License-Identifier: MIT
"""Does the machine as a whole do what a PC does?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, SECOND_NS, TO_USER, USER_CS, Gate, Guest
from tests.emu.ticking import EVERY_MS, controllers
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.memory import Access, GuestMemory
from vmipatch.emu.report import Call, Ending

INIT_PIC = controllers(0x30)
KEEP = f"""
handler:
    mov eax, dword ptr [esp]
    mov dword ptr [{DATA_PA}], eax
    mov eax, dword ptr [esp + 4]
    mov dword ptr [{DATA_PA} + 4], eax
    mov eax, dword ptr [esp + 8]
    mov dword ptr [{DATA_PA} + 8], eax
    mov dword ptr [{DATA_PA} + 12], ebx
    hlt
"""


def test_hello() -> None:
    letters = "\n".join(f"mov al, {letter}\nout dx, al" for letter in b"hello")
    run = Guest(f"mov edx, 0x3f8\n{letters}\nhlt").run()
    assert run.heard == b"hello"
    assert run.result.ending is Ending.HALTED
    assert run.result.statistics.calls[Call.OUT] == 5


def test_timer_wakes_a_sleeping_guest_and_no_time_is_wasted() -> None:
    source = f"""
        {INIT_PIC} {EVERY_MS}
        xor ebx, ebx
    again:
        sti
        hlt
        cli
        cmp ebx, 100
        jb again
        mov dword ptr [{DATA_PA}], ebx
        hlt
    tick:
        inc ebx
        mov al, 0x20
        out 0x20, al
        iretd
    """
    run = Guest(source, {0x30: Gate("tick")}).run()
    assert run.word(0) == 100
    assert run.result.statistics.lines == {0: 100}
    assert run.result.now_ns == pytest.approx(100_000_000, rel=0.01)
    assert run.result.blocks < 2000


def test_timer_interrupts_a_loop_at_user_level() -> None:
    source = f"{INIT_PIC} {EVERY_MS} {TO_USER} user: jmp user\n {KEEP}"
    run = Guest(source, {0x30: Gate("handler")}).run()
    assert (run.word(0), run.word(1)) == (run.code.labels["user"], USER_CS)


def test_interrupt_waits_for_the_flag_and_the_instruction_after_sti() -> None:
    source = f"""
        {INIT_PIC} {EVERY_MS}
        xor ebx, ebx
        mov ecx, 200000
    wait:
        loop wait
        sti
        inc ebx
    after:
        inc ebx
        hlt
        {KEEP}
    """
    run = Guest(source, {0x30: Gate("handler")}).run()
    assert run.word(0) == run.code.labels["after"]
    assert run.word(3) == 1


def test_masked_request_is_withdrawn_before_it_is_taken() -> None:
    """A promise to Unicorn must follow the controller: the line is masked while IF is off."""
    source = f"""
        {INIT_PIC} {EVERY_MS}
        mov ecx, 200000
    wait:
        loop wait
        mov al, 0xff
        out 0x21, al
        sti
        nop
        nop
        mov dword ptr [{DATA_PA}], 0x600d
        cli
        hlt
    handler:
        cli
        hlt
    """
    run = Guest(source, {0x30: Gate("handler")}).run()
    assert run.word(0) == 0x600D
    assert not run.result.statistics.lines


@pytest.mark.parametrize("instruction", ["in al, 0x71", "out 0x71, al", "rep\n outsb"])
def test_port_is_refused_to_a_process_and_nothing_has_changed(instruction: str) -> None:
    source = f"""
        {TO_USER}
    user:
        mov eax, 0x11223344
        mov esi, {DATA_PA}
        mov ecx, 3
        mov edx, 0x71
    at: {instruction}
    handler:
        mov dword ptr [{DATA_PA} + 16], eax
        mov dword ptr [{DATA_PA} + 20], esi
        mov dword ptr [{DATA_PA} + 24], ecx
        mov eax, dword ptr [esp]
        mov dword ptr [{DATA_PA}], eax
        mov eax, dword ptr [esp + 4]
        mov dword ptr [{DATA_PA} + 4], eax
        cli
        hlt
    """
    run = Guest(source, {13: Gate("handler")}).run()
    assert (run.word(0), run.word(1)) == (0, run.code.labels["at"])
    assert (run.word(4), run.word(5), run.word(6)) == (0x11223344, DATA_PA, 3)
    assert not run.machine.board.bus.writes


def test_process_may_use_the_ports_that_its_bitmap_allows() -> None:
    bitmap = bytearray(b"\xff" * 16)
    bitmap[0x71 // 8] &= ~(1 << 0x71 % 8) & 0xFF
    source = f"{TO_USER} user: in al, 0x71\n in al, 0x70\n {KEEP}"
    run = Guest(source, {13: Gate("handler")}, io_map=bytes(bitmap)).run()
    assert run.machine.board.bus.reads == {0x71: 1}


def test_empty_addresses_read_as_ones_and_swallow_writes() -> None:
    source = f"""
        mov dword ptr [0xb8000], 0x07410741
        mov eax, dword ptr [0xb8000]
        mov dword ptr [{DATA_PA}], eax
        mov eax, dword ptr [0xfec00010]
        mov dword ptr [{DATA_PA} + 4], eax
        hlt
    """
    run = Guest(source).run()
    assert (run.word(0), run.word(1)) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert run.result.statistics.calls[Call.HOLE_READ] == 2
    assert run.result.statistics.calls[Call.HOLE_WRITE] == 1


def test_code_that_is_nowhere_is_an_undefined_instruction() -> None:
    run = Guest(f"mov eax, 0xfee00000\n jmp eax\n {KEEP}", {6: Gate("handler")}).run()
    assert run.word(0) == 0xFEE00000


@pytest.mark.parametrize(
    "instruction", ["mov dword ptr [0xc8ffc], eax", "push eax", "inc byte ptr [0xc8004]"]
)
def test_read_only_page_stays_as_it_is(instruction: str) -> None:
    page = bytes(range(256)) * 16
    memory = GuestMemory(8 << 20)
    memory.plug(0xC8000, page, Access.READ_ONLY)
    source = f"""
        mov esp, 0xc8ffc
    at: {instruction}
        hlt
    """
    run = Guest(source, memory=memory).run()
    assert run.result.ending is Ending.TRIPLE_FAULT
    assert run.result.place == f"EIP {run.code.labels['at']:#x} at CPL 0"
    assert memory.read(0xC8000, 0x1000) == page


def test_guest_that_changes_its_own_code_runs_the_new_code() -> None:
    source = f"""
        mov ecx, 2
    again:
    patched:
        mov eax, 1
        add dword ptr [{DATA_PA}], eax
        mov byte ptr [patched + 1], 16
        dec ecx
        jnz again
        hlt
    """
    assert Guest(source).run().word(0) == 17


@pytest.mark.parametrize(("pae", "apic"), [(True, False), (False, True)])
def test_cpuid_shows_what_was_asked_for(pae: bool, apic: bool) -> None:
    source = f"mov eax, 1\n cpuid\n mov dword ptr [{DATA_PA}], edx\n hlt"
    options = MachineOptions(ram_len=8 << 20, pae=pae, apic=apic, limit_ns=SECOND_NS)
    features = Guest(source).run(options).word(0)
    assert bool(features & 1 << 6) is pae
    assert bool(features & 1 << 9) is apic
    assert not features & (1 << 11 | 1 << 16), "SEP, PAT"


def test_endless_loop_ends_at_the_limit() -> None:
    run = Guest("here: jmp here").run(MachineOptions(ram_len=8 << 20, limit_ns=10_000_000))
    assert run.result.ending is Ending.LIMIT
    assert not run.result.ending.by_guest
    assert run.result.now_ns == pytest.approx(10_000_000, rel=0.3)


def test_block_that_is_longer_than_a_slice_runs() -> None:
    """Subtracting before testing would stop before such a block for ever."""
    source = "mov ecx, 1000\n again:\n" + "nop\n" * 900 + "dec ecx\n jnz again\n hlt"

    def many_alarms(machine: Machine) -> None:
        for due_ns in range(0, 10_000_000, 1000):
            machine.clock.at(due_ns, lambda: None)

    run = Guest(source, prepare=many_alarms).run()
    assert run.result.ending is Ending.HALTED


def test_trace_tells_what_left_the_fast_path() -> None:
    lines: list[str] = []

    def listen(machine: Machine) -> None:
        machine.watch(Hooks(on_trace=lambda now_ns, what: lines.append(what)))

    Guest("mov al, 7\n out 0x80, al\n hlt", prepare=listen).run()
    assert any("out 0x80 <- 0x07" in line for line in lines)


def test_error_in_a_device_is_not_lost_in_c_code() -> None:
    def break_it(machine: Machine) -> None:
        def fail(value: int) -> None:
            raise ZeroDivisionError(value)

        machine.board.bus.claim(0x99, None, fail)

    with pytest.raises(ZeroDivisionError, match="5"):
        Guest("mov al, 5\n out 0x99, al\n hlt", prepare=break_it).run()
