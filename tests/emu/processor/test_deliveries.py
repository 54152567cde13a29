# SPDX-License-Identifier: MIT
"""Does an event that Python has no part in end as it would with Python, whatever the tables hold?

A hook that wants to see events makes Python deliver them; `test_events` says what is right.
"""

from __future__ import annotations

import ctypes
import random
import struct
from dataclasses import dataclass, replace

import pytest
from unicorn.unicorn_py3.unicorn import uclib

from tests.emu.guest import (
    DATA_PA,
    IDT_OFF,
    KERNEL_CS,
    KERNEL_DS,
    STACK_PA,
    TABLES_PA,
    TO_USER,
    TSS_OFF,
    EndedGuest,
    Gate,
    Guest,
)
from tests.emu.ring1_guest import INIT, ModeGuest
from vmipatch.choices import Mode
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor.trap import TrapPrivilege
from vmipatch.emu.machine import Machine
from vmipatch.emu.native import NativePrivilege
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor import deliveries, library
from vmipatch.emu.processor.engine import why_plain
from vmipatch.emu.report import Call, Ending

SAMPLE, CAMPAIGN = 60, 5000
OPTIONS = MachineOptions(ram_len=8 << 20, limit_ns=2_000_000)
TABLE_PA, DIRECTORY_PA, SPARE_PA = 0x200000, 0x201000, 0x203000
LOST_VA = 0x40000000

PAGED = f"""
    mov edi, {TABLE_PA}
    mov eax, 7
fill:
    mov [edi], eax
    add edi, 4
    add eax, 0x1000
    cmp eax, 0x400000
    jb fill
    mov dword ptr [{DIRECTORY_PA}], {TABLE_PA + 7}
    mov eax, {DIRECTORY_PA}
    mov cr3, eax
"""
SWITCH_ON = """
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
"""
HANDLER = f"""
    ud2
handler:
    push eax
    mov eax, esp
    add dword ptr [{DATA_PA}], 1
    cmp dword ptr [{DATA_PA}], 3
    ja enough
    mov [{DATA_PA + 0x10}], eax
    mov eax, cr2
    mov [{DATA_PA + 0x14}], eax
    pop eax
    iretd
enough:
    cli
    hlt
"""
INTO = "mov al, 0x7f\n add al, 1\n into"
EVENTS = (
    "int 0x80",
    "int3",
    "sti\n int 0x80",
    f"mov eax, [{LOST_VA}]",
    f"mov dword ptr [{LOST_VA + 0xFFE}], 1",
    "mov ax, 0x100\n mov fs, ax",
    "xor ecx, ecx\n div ecx",
    INTO,
    "push 0x7003\n popfd\n int 0x81",
)
GATES = {vector: Gate("handler", 3) for vector in (0, 3, 4, 8, 10, 11, 12, 13, 14, 0x80, 0x81)}
SELECTORS = (0, KERNEL_CS, KERNEL_DS, 0x1B, 0x23, 0x28, 0x2C, 0x30, 0x101, 0xFFFF)
STACKS = (STACK_PA, STACK_PA - 2, 4, 0x12E004, SPARE_PA + 8, LOST_VA + 8, 0xFFFFFFFC)
PAGES = (TABLES_PA, STACK_PA - 0x1000, DATA_PA, SPARE_PA, SPARE_PA - 0x1000)


@dataclass(slots=True)
class Disturbed(ModeGuest):
    """A guest whose tables are not what they should be."""

    mode: Mode = Mode.NATIVE
    patches: tuple[tuple[int, bytes], ...] = ()
    """Offsets in the tables."""

    def _tables(self, code: object) -> bytes:
        tables = bytearray(Guest._tables(self, code))  # type: ignore[arg-type]
        for off, data in self.patches:
            tables[off : off + len(data)] = data
        return bytes(tables)


def one_of(dice: random.Random, mode: Mode) -> Disturbed:
    """A random event with random tables."""
    patches: list[tuple[int, bytes]] = []
    unmapped = ""
    limit = 0x7FF
    for _ in range(dice.randrange(4)):
        gate_off = IDT_OFF + 8 * dice.choice(tuple(GATES))
        match dice.randrange(8):
            case 0:
                patches.append((gate_off + 5, bytes([dice.choice(RIGHTS)])))
            case 1:
                patches.append((gate_off + 2, struct.pack("<H", dice.choice(SELECTORS))))
            case 2:
                patches.append((8 * dice.randrange(1, 6) + 5, bytes([dice.choice(RIGHTS)])))
            case 3:
                patches.append((TSS_OFF + 8, struct.pack("<H", dice.choice(SELECTORS))))
            case 4:
                patches.append((TSS_OFF + 4, struct.pack("<I", dice.choice(STACKS))))
            case 5:
                page = dice.choice(PAGES) >> 12
                unmapped += f"mov dword ptr [{TABLE_PA + 4 * page}], {dice.choice((0, 5, 0x60))}\n"
            case 6:
                limit = dice.choice((0, 0x3F, 0x6F, 0x3FF, 0x407))
            case _:
                patches.append((0x28, struct.pack("<H", dice.choice((4, 11, 12, 0x67)))))
    user = dice.choice((TO_USER + "user:\n", ""))
    stack = f"mov esp, {dice.choice(STACKS)}\n" if not user and dice.random() < 0.3 else ""
    events = "\n".join(dice.choices(EVENTS, k=2))
    start = INIT if mode.has_rom else ""
    body = start + PAGED + unmapped + SWITCH_ON + user + stack + events
    return Disturbed(body + HANDLER, GATES, idt_limit=limit, patches=tuple(patches), mode=mode)


RIGHTS = (0x8E, 0x8F, 0xEE, 0xEF, 0x0E, 0x85, 0xE5, 0x86, 0xE6, 0xE7, 0x8C, 0x9B, 0x9F, 0x93, 0xFB,
          0xF3, 0x97, 0x1B, 0x92, 0x89, 0x00)  # fmt: skip
"""Of gates and of segments, mixed."""


def both(guest: Disturbed) -> tuple[EndedGuest, EndedGuest]:
    """The guest with Python out of it, and with Python."""

    def watch(machine: Machine) -> None:
        machine.watch(Hooks(on_delivery=lambda event: None))

    return guest.run(OPTIONS), replace(guest, prepare=watch).run(OPTIONS)


def state(run: EndedGuest) -> tuple[object, ...]:
    """All that the guest can tell, and the counts."""
    registers = run.machine.cpu.registers
    # A frame that is pushed where no memory is: Python's way does not reach devices there.
    run.result.statistics.calls[Call.HOLE_WRITE] = 0
    return (
        run.result,
        run.machine.memory.digest(),
        tuple(registers.gpr(number) for number in range(8)),
        registers.eflags,
        registers.cr2,
    )


def check(seed: int, mode: Mode) -> None:
    alone, python = both(one_of(random.Random(seed), mode))
    assert state(alone) == state(python), f"seed {seed}"


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", range(SAMPLE))
def test_random_tables_make_no_difference(seed: int, mode: Mode) -> None:
    check(seed, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("hundreds", range(CAMPAIGN // 100))
def test_campaign_of_random_tables(hundreds: int, mode: Mode) -> None:
    for seed in range(1000 + 100 * hundreds, 1100 + 100 * hundreds):
        check(seed, mode)


@pytest.mark.parametrize("event", EVENTS)
def test_usual_events_need_no_python(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not why_plain()
    monkeypatch.setattr(NativePrivilege, "on_interrupt", _never)
    guest = Disturbed(PAGED + SWITCH_ON + TO_USER + "user:\n" + event + HANDLER, GATES)
    run = guest.run(OPTIONS)
    assert run.result.ending is Ending.HALTED
    assert sum(run.result.statistics.vectors.values()) >= 1


@pytest.mark.parametrize("mode", [Mode.TRAP, Mode.PARAVIRT, Mode.AUDIT])
@pytest.mark.parametrize("event", ["int 0x80", "int3", f"mov eax, [{LOST_VA}]", INTO])
def test_usual_events_of_a_deprivileged_guest_need_no_python(
    event: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not why_plain()
    monkeypatch.setattr(TrapPrivilege, "deliver", _never)
    start = INIT if mode.has_rom else ""
    end = "\n handler: cli\n hlt"
    source = start + PAGED + SWITCH_ON + TO_USER + "user:\n" + event + end
    run = Disturbed(source, GATES, mode=mode).run(OPTIONS)
    assert run.result.ending is Ending.HALTED
    assert sum(run.result.statistics.vectors.values()) >= 1


def test_hook_that_wants_events_gets_each() -> None:
    seen: list[int] = []

    def watch(machine: Machine) -> None:
        machine.watch(Hooks(on_interrupt=seen.append))

    run = Guest("int 0x80\n int 0x80\n cli\n hlt\n handler: iretd", GATES, prepare=watch).run()
    assert seen == [0x80, 0x80]
    assert run.result.statistics.vectors == {0x80: 2}


def test_shadow_of_sti_ends_with_an_exception() -> None:
    """As `events` has it: the handler's first instruction may be interrupted."""
    source = """
        sti
        int 0x80
        hlt
    handler:
        cli
        hlt
    """
    run = Guest(source, GATES).run()
    assert not run.machine.cpu.registers.interrupt_shadow
    assert run.result.ending is Ending.HALTED


def test_each_byte_that_is_relied_on_is_compared() -> None:
    for place in deliveries.PLACES:
        va = ctypes.cast(getattr(ctypes.CDLL(uclib._name), place.symbol), ctypes.c_void_p).value
        assert va is not None
        original = ctypes.string_at(va + place.off, place.length)
        for off in range(place.length):
            octets = bytearray(original)
            octets[off] ^= 1 << off % 8
            copy = (ctypes.c_char * place.length).from_buffer(octets)
            found = library.unknown((place,), lambda _: ctypes.addressof(copy) - place.off)  # noqa: B023
            assert found == f"its {place.symbol} is not the one that was measured"


def test_hook_that_wants_some_events_gets_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    asked: list[int] = []

    def watch(machine: Machine) -> None:
        machine.watch(
            Hooks(
                vectors=frozenset({0x81}),
                on_interrupt=seen.append,
                on_delivery=lambda event: seen.append(event.vector),
            )
        )

    python = NativePrivilege.on_interrupt

    def note(privilege: NativePrivilege, number: int) -> None:
        asked.append(number)
        python(privilege, number)

    monkeypatch.setattr(NativePrivilege, "on_interrupt", note)
    source = "int 0x80\n int 0x81\n int 0x80\n cli\n hlt\n handler: iretd"
    run = Guest(source, GATES, prepare=watch).run()
    assert (seen, asked) == ([0x81, 0x81], [0x81])
    assert run.result.statistics.vectors == {0x80: 2, 0x81: 1}


def _never(privilege: object, event: object) -> None:
    raise AssertionError(f"Python got {event}")
