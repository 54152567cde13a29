# SPDX-License-Identifier: MIT
"""Is a machine with two processors one? They start, interrupt, stop and see each other's writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.emu.guest import DATA_PA, EndedGuest, Gate
from tests.emu.ring1_guest import ModeGuest
from tests.emu.second_processor import (
    APIC_ON,
    ARRIVAL,
    EOI,
    HASTY,
    INIT_SECOND,
    IO_APIC,
    START,
    STARTUP_SECOND,
    TRAMPOLINE,
    TRAMPOLINE_PA,
    TWO,
    send,
    until,
)
from tests.emu.ticking import EVERY_MS
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.schedule import ProcessorState

MODES = pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP])
READY, DONE, COUNT, SEEN = (DATA_PA + 4 * index for index in range(4))
OFF = "mov dx, 0x604\n mov ax, 0x3401\n out dx, ax\n"
"""ACPI's soft-off."""
VECTOR = 0x41


def run(
    first: str,
    second: str,
    mode: Mode,
    gates: dict[int, Gate] | None = None,
    options: MachineOptions = TWO,
) -> EndedGuest:
    """`first` starts the second processor itself; both end as they like."""
    return ModeGuest(f"{first}\n{ARRIVAL}\n{second}\n", gates or {}, mode=mode).run(options)


@MODES
def test_second_processor_starts_where_the_message_says_and_knows_its_number(mode: Mode) -> None:
    second = f"""
        mov eax, 1
        cpuid
        shr ebx, 24
        mov dword ptr [{SEEN}], ebx
        mov dword ptr [{READY}], 1
        hlt
    """
    done = run(f"{START} {until(READY, 1, 'wait')} {OFF}", second, mode)
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(3) == 1
    processors = done.machine.processors
    assert processors is not None
    assert [each.state for each in processors.each] == [
        ProcessorState.RUNNING,
        ProcessorState.HALTED,
    ]


@MODES
def test_processor_without_startup_never_runs(mode: Mode) -> None:
    first = f"{TRAMPOLINE} {APIC_ON} {INIT_SECOND} mov ecx, 100000\n again: loop again\n {OFF}"
    done = run(first, f"mov dword ptr [{READY}], 1\n hlt", mode)
    assert done.word(0) == 0
    assert done.machine.processors is not None
    assert done.machine.processors.each[1].state is ProcessorState.OFF


@MODES
def test_second_startup_message_is_not_heeded(mode: Mode) -> None:
    """Linux sends two: the processor must not begin anew."""
    first = f"{START} {until(READY, 1, 'wait')} {STARTUP_SECOND} {until(DONE, 1, 'end')} {OFF}"
    second = f"""
        inc dword ptr [{COUNT}]
        mov dword ptr [{READY}], 1
        mov ecx, 100000
    again:
        loop again
        mov dword ptr [{DONE}], 1
        hlt
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(2) == 1


@MODES
def test_locked_increments_are_all_counted_whatever_the_turns(mode: Mode) -> None:
    count = f"mov ecx, 5000\n {{0}}: lock inc dword ptr [{COUNT}]\n dec ecx\n jnz {{0}}\n"
    first = f"{START} {count.format('one')} {until(DONE, 1, 'wait')} {OFF}"
    done = run(first, f"{count.format('two')} mov dword ptr [{DONE}], 1\n hlt", mode, options=HASTY)
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(2) == 10000
    assert done.machine.processors is not None
    assert done.machine.processors.switches > 20


@MODES
def test_interrupt_of_one_wakes_the_other(mode: Mode) -> None:
    second = f"""
        mov dword ptr [{READY}], 1
    again:
        sti
        hlt
        cli
        cmp dword ptr [{COUNT}], 3
        jb again
        mov dword ptr [{DONE}], 1
        hlt
    handler:
        inc dword ptr [{COUNT}]
        mov dword ptr [{EOI}], 0
        iretd
    """
    first = START + until(READY, 1, "wait")
    for number in range(1, 4):
        first += send(VECTOR, 1) + until(COUNT, number, f"wait{number}")
    done = run(f"{first} {until(DONE, 1, 'end')} {OFF}", second, mode, {VECTOR: Gate("handler")})
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(2) == 3


@MODES
def test_code_that_one_writes_is_what_the_other_executes(mode: Mode) -> None:
    """Two hundred times: the second calls `code`, which the first has changed meanwhile."""
    first = f"""
        {START}
        xor ecx, ecx
    change:
        inc ecx
        mov byte ptr [code + 1], cl
        mov dword ptr [{READY}], ecx
    answer:
        pause
        cmp dword ptr [{DONE}], ecx
        jne answer
        cmp ecx, 200
        jne change
        {OFF}
    """
    second = f"""
        xor ecx, ecx
    order:
        inc ecx
    wait:
        pause
        cmp dword ptr [{READY}], ecx
        jne wait
        call code
        movzx eax, al
        cmp eax, ecx
        je right
        inc dword ptr [{COUNT}]
    right:
        mov dword ptr [{DONE}], ecx
        jmp order
    code:
        mov al, 0
        ret
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF
    assert (done.word(1), done.word(2)) == (200, 0)


@MODES
def test_processor_is_stopped_by_init_and_starts_anew(mode: Mode) -> None:
    first = f"""
        {START} {until(READY, 1, "one")}
        {INIT_SECOND}
        mov dword ptr [{READY}], 0
        mov ecx, 100000
    again:
        loop again
        mov eax, dword ptr [{COUNT}]
        mov dword ptr [{SEEN}], eax
        {STARTUP_SECOND} {until(READY, 1, "two")} {OFF}
    """
    second = f"""
        inc dword ptr [{COUNT}]
        mov dword ptr [{READY}], 1
    for_ever:
        jmp for_ever
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF
    assert (done.word(3), done.word(2)) == (1, 2)


@MODES
def test_timer_goes_where_the_io_apic_sends_it(mode: Mode) -> None:
    def entry(register: int, value: int) -> str:
        return f"""
            mov dword ptr [{IO_APIC}], {register}
            mov dword ptr [{IO_APIC + 0x10}], {value}
        """

    first = f"""
        {START} {until(READY, 1, "wait")}
        {entry(0x15, 1 << 24)} {entry(0x14, VECTOR)}
        {EVERY_MS}
        {until(COUNT, 5, "end")} {OFF}
    """
    second = f"""
        mov dword ptr [{READY}], 1
        sti
    again:
        hlt
        jmp again
    handler:
        inc dword ptr [{COUNT}]
        mov dword ptr [{EOI}], 0
        iretd
    """
    done = run(first, second, mode, {VECTOR: Gate("handler")})
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(2) == 5
    assert 4_000_000 < done.result.now_ns < 8_000_000


@MODES
def test_pause_makes_way_for_the_processor_that_is_waited_for(mode: Mode) -> None:
    """A hundred rounds of ping-pong end in far less than a hundred turns' time."""
    first = f"""
        {START}
        xor ecx, ecx
    ping:
        inc ecx
        mov dword ptr [{READY}], ecx
    answer:
        pause
        cmp dword ptr [{DONE}], ecx
        jne answer
        cmp ecx, 100
        jne ping
        {OFF}
    """
    second = f"""
        xor ecx, ecx
    order:
        inc ecx
    wait:
        pause
        cmp dword ptr [{READY}], ecx
        jne wait
        mov dword ptr [{DONE}], ecx
        jmp order
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF
    assert done.result.executed_len < 20 * TWO.turn_len
    assert done.result.statistics.pauses >= 100


@MODES
def test_interrupt_that_waits_for_one_is_not_taken_by_the_other(mode: Mode) -> None:
    """The first asks for one of its own with interrupts off; the second has them on."""
    first = f"""
        {START} {send(VECTOR, 0)} {until(READY, 1, "wait")}
        mov eax, dword ptr [{COUNT}]
        mov dword ptr [{SEEN}], eax
        sti
        {until(COUNT, 1, "taken")} {OFF}
    """
    second = f"""
        sti
        mov ecx, 100000
    again:
        loop again
        mov dword ptr [{READY}], 1
        jmp again
    handler:
        inc dword ptr [{COUNT}]
        mov dword ptr [{EOI}], 0
        iretd
    """
    done = run(first, second, mode, {VECTOR: Gate("handler")})
    assert done.result.ending is Ending.POWERED_OFF
    assert (done.word(3), done.word(2)) == (0, 1)


@MODES
def test_machine_ends_when_every_processor_waits_for_ever(mode: Mode) -> None:
    done = run(f"{START} {until(READY, 1, 'wait')} hlt", f"mov dword ptr [{READY}], 1\n hlt", mode)
    assert done.result.ending is Ending.HALTED
    assert "every processor" in done.result.details


@MODES
def test_init_of_the_boot_processor_resets_the_machine(mode: Mode) -> None:
    done = run(START + "again: jmp again", send(0x500, 0) + "hlt", mode)
    assert done.result.ending is Ending.RESET


@MODES
def test_two_runs_are_the_same_to_the_last_byte(mode: Mode) -> None:
    """Without LOCK, what is lost depends on where turns end: on executed bytes alone."""
    count = f"""
        mov ecx, 20000
    {{0}}:
        mov eax, dword ptr [{COUNT}]
        jmp {{0}}_add
    {{0}}_add:
        inc eax
        mov dword ptr [{COUNT}], eax
        dec ecx
        jnz {{0}}
    """
    first = f"{START} {count.format('one')} {until(DONE, 1, 'wait')} {OFF}"
    second = f"{count.format('two')} mov dword ptr [{DONE}], 1\n hlt"
    both = [run(first, second, mode, options=HASTY) for _ in range(2)]
    assert both[0].word(2) < 40000
    digests = [(each.machine.memory.digest(), each.result.blocks) for each in both]
    assert digests[0] == digests[1]
    slower = run(first, second, mode, options=replace(HASTY, turn_len=5000))
    assert slower.word(2) != both[0].word(2)


def test_real_mode_is_the_only_time_at_cpl_0() -> None:
    """The code after LMSW in the trampoline is fetched in 16-bit segments, at CPL 1 already."""
    first = f"{START} {until(READY, 1, 'wait')} {OFF}"
    second = f"mov eax, cs\n mov dword ptr [{SEEN}], eax\n mov dword ptr [{READY}], 1\n hlt"
    done = run(first, second, Mode.TRAP)
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(3) & 3 == 1
    assert done.result.statistics.traps[ExitKind.DESCRIPTOR] > 0


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("cd10", Ending.UNSUPPORTED),  # int 0x10
        ("0f0b", Ending.UNSUPPORTED),  # ud2
        ("0f01360000", Ending.UNSUPPORTED),  # lmsw [0]
        ("66b800000080" + "0f22c0", Ending.UNSUPPORTED),  # mov cr0, PG
        ("66b801000080" + "0f22c0", Ending.TRIPLE_FAULT),  # mov cr0, PG | PE, without tables
        ("f4", Ending.HALTED),  # hlt, interrupts off
    ],
)
def test_strange_trampolines_end_the_run_and_reach_nothing(code: str, ending: Ending) -> None:
    lines = "\n".join(
        f"mov byte ptr [{TRAMPOLINE_PA + i}], {octet}"
        for i, octet in enumerate(bytes.fromhex(code))
    )
    first = f"{lines}\n{APIC_ON} {INIT_SECOND} {STARTUP_SECOND} hlt"
    done = run(first, "hlt", Mode.TRAP)
    assert done.result.ending is ending


@MODES
def test_non_maskable_interrupt_reaches_a_processor_with_interrupts_off(mode: Mode) -> None:
    first = f"{START} {until(READY, 1, 'wait')} {send(0x400, 1)} {until(COUNT, 1, 'end')} {OFF}"
    second = f"""
        mov dword ptr [{READY}], 1
        cli
    again:
        jmp again
    handler:
        inc dword ptr [{COUNT}]
        iretd
    """
    done = run(first, second, mode, {2: Gate("handler")})
    assert done.result.ending is Ending.POWERED_OFF
    assert done.word(2) == 1


@MODES
def test_non_maskable_interrupt_wakes_and_the_next_one_waits_for_iret(mode: Mode) -> None:
    """The handler of the first stays in it until the second has been sent."""
    first = f"""
        {START} {until(READY, 1, "wait")}
        {send(0x400, 1)} {until(COUNT, 1, "served")}
        {send(0x400, 1)}
        mov ecx, 100000
    later:
        loop later
        mov eax, dword ptr [{COUNT}]
        mov dword ptr [{SEEN}], eax
        mov dword ptr [{DONE}], 1
        {until(COUNT, 2, "end")} {OFF}
    """
    second = f"""
        mov dword ptr [{READY}], 1
        hlt
    again:
        jmp again
    handler:
        inc dword ptr [{COUNT}]
    stay:
        cmp dword ptr [{DONE}], 1
        jne stay
        iretd
    """
    done = run(first, second, mode, {2: Gate("handler")})
    assert done.result.ending is Ending.POWERED_OFF
    assert (done.word(3), done.word(2)) == (1, 2)
