# SPDX-License-Identifier: MIT
"""Which guest makes the random calls? One with tables, paging and users, put back in no time.

It has one site for each call; the host, playing the kernel, sets registers and stack and starts it
there. Wherever it comes to, it stops: after the site, at a handler, at the users' system call.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from tests.emu.guest import (
    CODE_PA,
    DATA_PA,
    KERNEL_CS,
    PRELUDE,
    STACK_PA,
    TABLES_PA,
    TSS_OFF,
    Gate,
)
from tests.emu.hypervisor.calls.saved import Saved
from tests.emu.ring1_guest import INIT, ModeGuest, entries, paravirt_of, paravirt_rom
from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.events import WITH_ERROR_CODE
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.image.elf import ElfImage
from vmipatch.isa.assemble import Assembled, assemble
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Hypercall, Shared

RAM_LEN: Final = 4 << 20
DIRECTORY_PA, TABLE_PA, WINDOW_TABLE_PA = 0x140000, 0x142000, 0x143000
PAE_ROOT_PA, PAE_DIRECTORY_PA, PAE_TABLE_PA = 0x144000, 0x145000, 0x146000
LDT_PA, STACK16_PA, OTHER_GDT_PA = 0x150000, 0x151000, 0x152000
READ_ONLY_PA, ABSENT_PA = DATA_PA + 0x2000, DATA_PA + 0x3000
WINDOW_VA: Final = 0x800000
GDT_LEN: Final = 0x100
USED_PA: Final = (0xC0000, 0x160000)
_ALL_EVERY: Final = 16
"""How often all memory is put back, and not only what the guest uses."""
LDT, STACK16, BASED, CONFORMING, SPARE_TSS, CALL_GATE, TASK_GATE, RING1_DATA, TSS16 = range(
    0x30, 0x78, 8
)
_IN_PLACE = (*range(ROM_PA, TIME_PA + 1, 0x1000), CODE_PA, DATA_PA, STACK_PA - 0x1000, TABLES_PA)
CAME, SLICE_NS, MOST_SLICES = 0x80, 30_000, 6
_STEPS = slice(SHARED_PA + Shared.TSC_STEPS, SHARED_PA + Shared.TSC_STEPS + 8)
_LARGE, _RIGHTS = 0x80, 7
_PAGE_LEN: Final = 0x1000


Way = VmiCall | Hypercall
"""A call of the ROM, or the interrupt after it without the ROM."""


class Paging(enum.Enum):
    """How the guest maps its memory, all of it where it is."""

    OFF = "off"
    LEGACY = "32-bit"
    PAE = "PAE"


def _descriptor(base: int, limit: int, kind: int, flags: int = 0) -> tuple[int, int]:
    low = limit & 0xFFFF | base << 16 & 0xFFFFFFFF
    return low, base >> 16 & 0xFF | kind << 8 | limit & 0xF0000 | flags << 20 | base & 0xFF000000


_TSS_PA = TABLES_PA + TSS_OFF
_GDT_MORE: Final[dict[int, tuple[int, int]]] = {
    LDT: _descriptor(LDT_PA, 0x3F, 0x82),
    STACK16: _descriptor(STACK16_PA, 0xFFF, 0x92),
    BASED: _descriptor(DATA_PA, 0xFFF, 0xF2, 4),
    CONFORMING: _descriptor(0, 0xFFFFF, 0x9E, 0xC),
    SPARE_TSS: _descriptor(_TSS_PA, 0x67, 0x89),
    CALL_GATE: (KERNEL_CS << 16, 0x108C00),
    TASK_GATE: (SPARE_TSS << 16, 0x8500),
    RING1_DATA: _descriptor(0, 0xFFFFF, 0xB2, 0xC),
    TSS16: _descriptor(_TSS_PA, 0x2B, 0x81),
}
_LDT_MORE: Final = {0x08: _descriptor(0, 0xFFFFF, 0xF2, 0xC), 0x10: _descriptor(0, 99, 0xFA, 4)}
_PIC = ((0x20, 0x11), (0xA0, 0x11), (0x21, 0x20), (0xA1, 0x28), (0x21, 4), (0xA1, 2), (0x21, 1),
        (0xA1, 1), (0x21, 0), (0xA1, 0))  # fmt: skip


def _stores(places: Mapping[int, int]) -> str:
    return "\n".join(f"mov dword ptr [{pa}], {word:#x}" for pa, word in places.items())


def _table_words() -> dict[int, int]:
    words: dict[int, int] = {}
    for base, more in ((TABLES_PA, _GDT_MORE), (LDT_PA, _LDT_MORE)):
        for at, (low, high) in more.items():
            words |= {base + at: low, base + at + 4: high}
    return words | {
        OTHER_GDT_PA - 8: (TABLES_PA & 0xFFFF) << 16 | GDT_LEN - 1,
        OTHER_GDT_PA - 4: TABLES_PA >> 16,
    }


def _fill(start_pa: int, width: int, count: int, first: int) -> str:
    return f"""
    mov edi, {start_pa}
    mov eax, {first}
    mov ecx, {count}
next_entry:
    mov dword ptr [edi], eax
    add edi, {width}
    add eax, 0x1000
    dec ecx
    jnz next_entry
"""


def _paging_source(paging: Paging) -> str:
    """Low memory and the local APIC where they are, a read-only page, an absent one, a window."""
    if paging is Paging.OFF:
        return ""
    pae = paging is Paging.PAE
    width = 8 if pae else 4
    table = PAE_TABLE_PA if pae else TABLE_PA
    words = {table + (READ_ONLY_PA >> 12) * width: READ_ONLY_PA | 5}
    words[table + (ABSENT_PA >> 12) * width] = ABSENT_PA
    if pae:
        words |= {PAE_ROOT_PA: PAE_DIRECTORY_PA | 1, PAE_ROOT_PA + 24: DIRECTORY_PA | 1}
        words |= {PAE_DIRECTORY_PA: table | _RIGHTS, PAE_DIRECTORY_PA + 8: table + 0x1000 | _RIGHTS}
        words |= {PAE_DIRECTORY_PA + 32: WINDOW_TABLE_PA | _RIGHTS}
        words |= {DIRECTORY_PA + 0x1F7 * 8: 0xFEE00000 | _LARGE | _RIGHTS}
    else:
        words |= {DIRECTORY_PA: TABLE_PA | _RIGHTS, DIRECTORY_PA + 8: WINDOW_TABLE_PA | _RIGHTS}
        words |= {DIRECTORY_PA + 0xFFC - 16: 0xFEC00000 | _LARGE | _RIGHTS}
    return f"""
    {_fill(table, width, 1024, _RIGHTS)}
    {_stores(words)}
    mov eax, cr4
    or eax, {0xB0 if pae else 0x90}
    mov cr4, eax
    mov eax, {PAE_ROOT_PA if pae else DIRECTORY_PA}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
"""


@cache
def _code(paging: Paging) -> Assembled:
    lines = [PRELUDE, _stores(_table_words())]
    lines += [f"mov al, {value}\nout {port}, al" for port, value in _PIC]
    lines += [f".byte 0x0f, 0x01, 0x15\n.long {OTHER_GDT_PA - 8}", _paging_source(paging)]
    lines += [f"mov ecx, 0x174\nmov eax, {KERNEL_CS}\nmov edx, 0\nwrmsr", INIT, "ready:"]
    for name in _STOPS:
        lines += [f"{name}:", "cli", "hlt", f"jmp {name}"]
    for call, entry in entries().items():
        lines += [
            f"site_{call}:",
            f"call {entry}",
            f"back_{call}:",
            "cli",
            "hlt",
            f"jmp back_{call}",
        ]
    for vector in Hypercall:
        lines += [f"site_{vector}:", f"int {vector}", f"back_{vector}:", "cli", "hlt"]
        lines += [f"jmp back_{vector}"]
    return assemble("\n".join([*lines, "user:", "int 0x80", "jmp user"]), CODE_PA)


_STOPS = ("first_stop", "irq", "came", *(f"fault_{vector}" for vector in range(32)))
_GATES = {
    **{vector: Gate(f"fault_{vector}", 3 if vector in (3, 4) else 0) for vector in range(32)},
    **{vector: Gate("irq") for vector in (*range(0x20, 0x30), 0x41)},
    CAME: Gate("came", 3),
}


class Impatient:
    """A terminal that cuts time into slices, and ends a call that takes too many of them."""

    def __init__(self) -> None:
        self.slices = 0
        self.at_slice: Callable[[], None] = lambda: None

    def send(self, value: int) -> None:
        """No one listens."""

    def poll(self, idle: bool) -> bytes:
        """Nothing to say. Raises GuestEnded."""
        self.slices += 1
        if self.slices > MOST_SLICES:
            raise GuestEnded(Ending.QUIT, "patience")
        if not idle:
            self.at_slice()
        return b""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How a call ended."""

    ending: Ending
    stop: str | None
    """Where in the guest: `back`, `irq`, `came`, `fault_N`; None: elsewhere."""
    frame: tuple[int, ...] = ()
    """Of a fault: error code, EIP, CS, EFLAGS."""
    stack: int = 0
    """ESP in front of that frame."""


class Playground:
    """A paravirtual guest that can be put back to where it was after VMI_Init."""

    def __init__(self, paging: Paging, mode: Mode) -> None:
        self.terminal = Impatient()
        self._restores = 0
        options = MachineOptions(ram_len=RAM_LEN)
        self.machine = build_machine(MachineSpec(mode, options, paravirt_rom()), self.terminal)
        self.privilege = paravirt_of(self.machine)
        self._code = _code(paging)
        self._stop_at = {self._code.labels[name] + 2: name for name in _STOPS}
        calls = (*entries(), *Hypercall)
        self._back_at = {self._code.labels[f"back_{call}"] + 2: call for call in calls}
        self._boot = Boot(self._image())
        registers = self.machine.cpu.registers
        self._controls = registers.cr0, registers.cr4
        self._blank = self._snapshot()
        self._begin()

    @property
    def is_sane(self) -> bool:
        """Whether the guest is paravirtual, and sees ROM, shared pages, code and stack in place."""
        find = self.machine.mmu.find
        return self.privilege.is_paravirtual and all(find(pa) == pa for pa in _IN_PLACE)

    @property
    def code(self) -> bytes:
        """The guest's code."""
        return self._code.code

    def label(self, name: str) -> int:
        """An address in the guest's code."""
        return self._code.labels[name]

    @property
    def memory(self) -> Saved:
        """All memory after VMI_Init."""
        return self._ready[1]

    def restore(self) -> None:
        """Everything of the guest but its devices as it was after VMI_Init."""
        if not self.privilege.is_paravirtual:
            self._restores = -1
            self._put_back(self._blank)
            self._begin()
            return
        self._put_back(self._ready)
        vcpu, context = self.privilege._vcpu, self.privilege._context
        vcpu.iopl, vcpu.task, vcpu.debug = 0, self._task, [*self._debug]
        context.load_breakpoints(vcpu.debug)
        context.halted, context.shadow_va, context.paging_left = False, None, False
        world = self.privilege.world
        world.fallbacks, world.states = {}, {}
        if world.own_code is not None:
            world.own_code.forget()
        self.privilege._note_pending()

    def call(self, call: Way, registers: Mapping[str, int], stack: list[int]) -> CallOutcome:
        """Make one call from its site, with these registers and words at ESP."""
        machine, file = self.machine, self.machine.cpu.registers
        for name, value in registers.items():
            setattr(file, name, value)
        file.raw_eflags = registers["eflags"]  # where a start takes all flags from
        esp = STACK_PA - 0x100
        for index, word in enumerate(stack):
            machine.memory.write_u32(esp + 4 * index, word)
        file.esp = esp
        return self._run(self.label(f"site_{call}"), call)

    def _run(self, eip: int, call: Way) -> CallOutcome:
        machine, file = self.machine, self.machine.cpu.registers
        file.eip = eip
        self.terminal.slices = 0
        self.terminal.at_slice = (
            self._cut if call not in (VmiCall.HALT, Hypercall.HALT) else lambda: None
        )
        ending = machine.resume().ending
        at = file.eip
        if ending is Ending.HALTED and self._back_at.get(at) is call:
            return CallOutcome(ending, "back")
        stop = self._stop_at.get(at) if ending is Ending.HALTED else None
        if stop is None or not stop.startswith("fault_"):
            return CallOutcome(ending, stop)
        has_error = int(stop[6:]) in WITH_ERROR_CODE
        count = 4 if has_error else 3
        octets = machine.mmu.peek(file.esp, 4 * count)
        words = [int.from_bytes(octets[i : i + 4], "little") for i in range(0, len(octets), 4)]
        frame = tuple(words if has_error else [0, *words])
        return CallOutcome(ending, stop, frame if len(frame) == 4 else (), file.esp + 4 * count)

    def _cut(self) -> None:
        clock = self.machine.clock
        clock.at(clock.now_ns + SLICE_NS, lambda: None)

    def _begin(self) -> None:
        """From the loader to the instruction after VMI_Init."""
        machine, vcpu = self.machine, self.privilege._vcpu
        vcpu.iopl, vcpu.page.interrupts_enabled = 0, False
        self.privilege._context.halted = False
        self.terminal.slices, self.terminal.at_slice = -1000, lambda: None
        result = machine.run(self._boot)
        at = machine.cpu.registers.eip
        assert result.ending is Ending.HALTED and self._stop_at.get(at) == "first_stop", result
        registers = machine.cpu.registers
        self._controls = registers.cr0, registers.cr4
        self._task, self._debug = vcpu.task, [*vcpu.debug]
        self._ready = self._snapshot()

    def _snapshot(self) -> tuple[bytes, Saved]:
        machine = self.machine
        return bytes(machine.cpu._state.words.cast("B")), Saved(machine.memory)

    def _put_back(self, snapshot: tuple[bytes, Saved]) -> None:
        """CPU and memory, but for the steps of the clock: time does not go back."""
        machine = self.machine
        words, memory = snapshot
        octets = machine.memory.octets
        steps = bytes(octets[_STEPS])
        is_code_changed = False
        self._restores += 1
        where = USED_PA if self._restores % _ALL_EVERY else (0, RAM_LEN)
        for pa in memory.changed_pages(*where):
            octets[pa : pa + _PAGE_LEN] = memory.octets[pa : pa + _PAGE_LEN]
            is_code_changed |= pa == CODE_PA or ROM_PA <= pa < SHARED_PA
        octets[_STEPS] = steps
        registers = machine.cpu.registers
        registers.cr0, registers.cr4 = self._controls  # forgets translations, if there were any
        machine.cpu._state.words.cast("B")[:] = words
        if is_code_changed:
            machine.cpu.flush_code()
        self.privilege._mmu.forget()
        machine.cpu.flush_tlb()
        machine.clock.pass_ns(0)

    def _image(self) -> ElfImage:
        builder = ElfBuilder(entry=CODE_PA, physical_offset=0)
        builder.section(".text", CODE_PA, self._code.code, TEXT, align=4096)
        tables = ModeGuest("", _GATES)._tables(self._code)
        builder.section(".data", TABLES_PA, tables, DATA, align=4096)
        return builder.image()
