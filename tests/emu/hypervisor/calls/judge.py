# SPDX-License-Identifier: MIT
"""Did a call keep what is promised? To the guest what the table says; to all others, everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.emu.guest import CODE_PA, DATA_PA, STACK_PA
from tests.emu.hypervisor.calls.arguments import REGISTERS, Attempt
from tests.emu.hypervisor.calls.outside import BY_TIME, MAY_CHANGE, OF_GUEST, Outside, devices_at
from tests.emu.hypervisor.calls.playground import CallOutcome, Playground
from vmipatch.emu.devices.cmos import EPOCH_NS
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.cpuid import cpuid_leaf
from vmipatch.emu.report import Call, Ending
from vmipatch.rom.entries import SERVED, Means
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import CYCLES_HZ, SHARED_PA, TIME_PA, Hypercall, Shared
from vmipatch.vmi.table import ROW_OF

C = VmiCall
_ARITHMETIC: Final = 0x8D5
_NO_RETURN: Final = {C.IRET, C.SYSEXIT}
_INTO: Final = {C.INL: 4, C.INB: 1, C.INW: 2}
_STRINGS: Final = {C.INSL: 4, C.INSB: 1, C.INSW: 2, C.OUTSL: 4, C.OUTSB: 1, C.OUTSW: 2}
_OUTS: Final = {C.OUTL: 4, C.OUTB: 1, C.OUTW: 2}
_SITE_LEN: Final = 5
_ENABLED: Final = 0xFF
"""L0 to G3 of DR7 (Intel SDM volume 3, 19.2.4)."""
_NOT_BLAMED: Final = {1, 3, 4}
"""Vectors that come after an instruction."""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True, slots=True)
class Before:
    """Facts from before the call that a judgement needs."""

    seen: dict[str, object]
    now_ns: int
    due_ns: int | None
    lines: int
    stores: int
    """Stores of the guest to where no memory is: the local APIC hears those of its page."""
    mask: int
    """The word of virtual IF: the guest may have scribbled over its own page."""
    is_sane: bool
    """Whether the guest is paravirtual, and ROM, pages, code and stack where it says they are."""
    is_clock_whole: bool
    """Whether what the guest reads its clock from is as the hypervisor left it."""

    @classmethod
    def of(cls, playground: Playground, seen: dict[str, object]) -> Before:
        """The machine as it is now, of which `seen` was looked at."""
        machine = playground.machine
        return cls(
            seen, machine.clock.now_ns, machine.clock.next_due_ns,
            machine.statistics.lines.total(), machine.statistics.calls[Call.HOLE_WRITE],
            machine.memory.words[SHARED_PA >> 2],
            playground.is_sane, _is_clock_whole(playground),
        )  # fmt: skip


def judge(
    playground: Playground, outside: Outside, attempt: Attempt, before: Before, outcome: CallOutcome
) -> dict[str, object]:
    """Look at everything after a call; returns what was seen. Raises Broken."""
    machine = playground.machine
    registers = machine.cpu.registers
    _demand(outcome.ending is not Ending.ESCAPED, "CPL 0")
    _demand(registers.cpl != 0 and registers.task_limit == 0, "ring or task register")
    _demand(bool(registers.raw_eflags & Flag.IF), "real IF is off")
    iopl = playground.privilege._vcpu.iopl if registers.cpl == 3 else 0
    _demand(registers.raw_eflags >> 12 & 3 == iopl, "real IOPL")
    spoilt = outside.spoilt()
    _demand(not spoilt, spoilt)
    seen = outside.look()
    changed = {name for name, value in seen.items() if value != before.seen[name]}
    allowed = _allowed(playground, attempt, before, outcome)
    _demand(changed <= allowed, f"changed: {sorted(changed - allowed)}")
    call = attempt.call
    if isinstance(call, Hypercall) or call in _NO_RETURN or not before.is_sane:
        return seen
    if outcome.stop == "back":
        _judge_return(playground, call, attempt, before)
    elif outcome.frame:
        _judge_fault(playground, call, attempt, outcome)
    return seen


def _allowed(
    playground: Playground, attempt: Attempt, before: Before, outcome: CallOutcome
) -> frozenset[str]:
    machine, call = playground.machine, attempt.call
    if isinstance(call, Hypercall):  # of any call, or of code that it started
        return OF_GUEST | {"fallbacks", "runtime"}
    allowed = MAY_CHANGE.get(call, frozenset())
    port = attempt.registers["edx"] & 0xFFFF
    size = _INTO.get(call) or _OUTS.get(call) or _STRINGS.get(call)
    if size:
        allowed |= devices_at(port, size)
    is_due = before.due_ns is not None and before.due_ns <= machine.clock.now_ns
    if is_due or machine.statistics.lines.total() != before.lines:
        allowed |= BY_TIME
    if machine.statistics.calls[Call.HOLE_WRITE] != before.stores:
        allowed |= {"apic"}
    debug = playground.privilege._vcpu.debug
    if attempt.registers["eflags"] & Flag.TF or _has_hit(before.seen["debug"], debug):
        allowed |= {"debug"}
    astray = call in _NO_RETURN or outcome.stop is None
    code = CODE_PA, CODE_PA + len(playground.code)
    if astray or not playground.memory.is_in(*code):
        allowed |= OF_GUEST
    return allowed


def _has_hit(before: object, debug: list[int]) -> bool:
    """Whether a breakpoint that was enabled told DR6 of an access, and nothing else changed."""
    assert isinstance(before, tuple)
    is_enabled = bool(before[7] & _ENABLED)
    return is_enabled and [*before[:6], before[7]] == [*debug[:6], debug[7]]


def _judge_fault(
    playground: Playground, call: VmiCall, attempt: Attempt, outcome: CallOutcome
) -> None:
    """A call that a hypercall serves fails at its site, as an instruction would: nothing done."""
    _, eip, _, _ = outcome.frame
    vector = int((outcome.stop or "fault_0")[6:])
    is_stepped = attempt.registers["eflags"] & Flag.TF
    if SERVED[call] is not Means.HYPERCALL or vector in _NOT_BLAMED or is_stepped:
        return
    _demand(eip == playground.label(f"site_{call}"), f"fault {vector} blamed on {eip:#x}")
    _demand(outcome.stack == STACK_PA - 0x100, "stack after a fault")
    _keep(playground, attempt, set())


def _judge_return(playground: Playground, call: VmiCall, attempt: Attempt, before: Before) -> None:
    """Registers as the table says, results in their range."""
    machine = playground.machine
    _keep(playground, attempt, set(ROW_OF[call].results))
    registers = machine.cpu.registers
    _demand(registers.esp == STACK_PA - 0x100, "ESP")
    flags = registers.eflags ^ attempt.registers["eflags"]
    _demand(not flags & (_ARITHMETIC | Flag.DF | Flag.AC), "flags")
    check = RESULTS.get(call)
    if check is not None:
        result = registers.eax | registers.edx << 32
        _demand(check(playground, attempt, before, result), f"result {result:#x}")


def _keep(playground: Playground, attempt: Attempt, results: set[str]) -> None:
    registers = playground.machine.cpu.registers
    for name in REGISTERS:
        if name not in results:
            value = getattr(registers, name)
            _demand(value == attempt.registers[name], f"{name} is {value:#x}")


Check = Callable[[Playground, Attempt, Before, int], bool]
"""Gets EDX:EAX."""


def _low(result: int) -> int:
    return result & 0xFFFFFFFF


def _is_control(name: str) -> Check:
    """The value that the CPU has, as long as the guest's own page says so."""

    def check(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
        machine = playground.machine
        word = machine.memory.words[(SHARED_PA + Shared[name.upper()]) >> 2]
        real = getattr(machine.cpu.registers, name)
        return _low(result) == word and (real == word or not _is_page_whole(playground))

    return check


def _is_page_whole(playground: Playground) -> bool:
    """Whether only the hypervisor has written to the shared page since it did."""
    vcpu = playground.privilege._vcpu
    page = vcpu.page
    found = bytes(page.octets[Shared.CR0 : Shared.IRET_SITE])
    steps = bytes(page.octets[:])
    vcpu.show()
    wanted = bytes(page.octets[Shared.CR0 : Shared.IRET_SITE])
    page.octets[:] = steps
    return found == wanted


def _is_clock_whole(playground: Playground) -> bool:
    page, octets = playground.privilege._vcpu.page, playground.machine.memory.octets
    steps = int.from_bytes(octets[SHARED_PA + Shared.TSC_STEPS :][:8], "little")
    cells = bytes(playground.machine.clock._octets)
    return steps == page.steps_ns() and bytes(octets[TIME_PA : TIME_PA + len(cells)]) == cells


def _is_table(name: str) -> Check:
    def check(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
        machine, va = playground.machine, attempt.registers["eax"]
        if not DATA_PA <= va < DATA_PA + 0x1FFA:
            return True
        base, limit = getattr(machine.cpu.registers, name)
        stored = machine.mmu.peek(va, 6)
        wanted = (limit & 0xFFFF).to_bytes(2, "little") + base.to_bytes(4, "little")
        return stored == wanted or not _is_page_whole(playground)

    return check


def _is_identity(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    registers = playground.machine.cpu.registers
    leaf = cpuid_leaf(attempt.registers["eax"], pae=True, apic=False)
    found = (registers.eax, registers.ebx, registers.ecx, registers.edx)
    return found == (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)


def _is_input(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    kept = 0xFFFFFFFF << 8 * _INTO[VmiCall(attempt.call)] & 0xFFFFFFFF
    return not (_low(result) ^ attempt.registers["eax"]) & kept


def _is_string(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    """Counted down to 0, the pointer after the last item."""
    call, registers = VmiCall(attempt.call), playground.machine.cpu.registers
    name = "esi" if call.name[0] == "O" else "edi"
    step = _STRINGS[call] * (-1 if attempt.registers["eflags"] & Flag.DF else 1)
    wanted = attempt.registers[name] + step * attempt.registers["ecx"] & 0xFFFFFFFF
    return not registers.ecx and getattr(registers, name) == wanted


def _is_time(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    """Between the call's beginning and now, up to what the guest's own steps may add."""
    return _within(playground, before, result, 0)


def _is_wall_time(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    return _within(playground, before, result, EPOCH_NS)


def _within(playground: Playground, before: Before, result: int, offset: int) -> bool:
    after_ns = playground.machine.clock.now_ns
    return not before.is_clock_whole or before.now_ns <= result - offset <= after_ns


def _is_counter(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    if attempt.registers["eax"] > 1:
        return result == 0
    return _within(playground, before, result, 0)


def _is_mask(playground: Playground, attempt: Attempt, before: Before, result: int) -> bool:
    return _low(result) in (0, 0x200) or before.mask not in (0, 0x200)


RESULTS: Final[dict[VmiCall, Check]] = {
    C.CPUID: _is_identity,
    C.GET_GDT: _is_table("gdtr"), C.GET_IDT: _is_table("idtr"),
    C.GET_CR0: _is_control("cr0"), C.GET_CR2: _is_control("cr2"),
    C.GET_CR3: _is_control("cr3"), C.GET_CR4: _is_control("cr4"),
    C.GET_LDT: lambda p, a, b, r: _low(r) < 0x10000 or not _is_page_whole(p),
    C.GET_TR: lambda p, a, b, r: _low(r) < 0x10000 or not _is_page_whole(p),
    C.GET_DR: lambda p, a, b, r: _low(r) in (
        p.privilege._vcpu.debug if a.registers["eax"] < 8 else [a.registers["eax"]]
    ),
    C.RDTSC: _is_time, C.GET_CYCLE_COUNTER: _is_counter, C.GET_WALLCLOCK_TIME: _is_wall_time,
    C.GET_INTERRUPT_MASK: _is_mask,
    **dict.fromkeys(_INTO, _is_input), **dict.fromkeys(_STRINGS, _is_string),
    C.GET_CYCLE_FREQUENCY: lambda p, a, b, r: r == CYCLES_HZ,
    C.CANCEL_ALARM: lambda p, a, b, r: _low(r) in (0, 1),
    C.WALLCLOCK_UPDATED: lambda p, a, b, r: _low(r) == 0,
}  # fmt: skip
"""Possible results of a call that came back."""


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise Broken(complaint)
