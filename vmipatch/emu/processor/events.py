# SPDX-License-Identifier: MIT
"""How does an event reach the guest's handler? Through its IDT, as the CPU would have done it.

Source: Intel SDM volume 3, 6.10 to 6.15 (gates, stack switch, error codes, double faults) and
volume 2, INT n. Task gates and 16-bit gates are not supported: no i386 Linux takes an event through
them except a double fault, whose outcome is not waited for.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.paging import Mmu, PageFault
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import NULL_SEGMENT, SegmentState, SegReg


class Vector(enum.IntEnum):
    """Exceptions of the CPU."""

    DIVIDE = 0
    DEBUG = 1
    NMI = 2
    BREAKPOINT = 3
    OVERFLOW = 4
    BOUND = 5
    UNDEFINED = 6
    NO_FPU = 7
    DOUBLE_FAULT = 8
    TSS = 10
    NOT_PRESENT = 11
    STACK = 12
    PROTECTION = 13
    PAGE_FAULT = 14
    FPU = 16
    ALIGNMENT = 17
    SIMD = 19


WITH_ERROR_CODE: Final = frozenset(
    {
        Vector.DOUBLE_FAULT, Vector.TSS, Vector.NOT_PRESENT, Vector.STACK, Vector.PROTECTION,
        Vector.PAGE_FAULT, Vector.ALIGNMENT,
    }
)  # fmt: skip
_CONTRIBUTORY = frozenset(
    {Vector.DIVIDE, Vector.TSS, Vector.NOT_PRESENT, Vector.STACK, Vector.PROTECTION}
)


_DOUBLE: Final[dict[int, frozenset[Vector]]] = {
    **dict.fromkeys(_CONTRIBUTORY, _CONTRIBUTORY),
    Vector.PAGE_FAULT: _CONTRIBUTORY | {Vector.PAGE_FAULT},
}
"""Which second exceptions make a double fault of the first (SDM volume 3, table 6-5)."""


class Cause(enum.Enum):
    """The kind of an event."""

    EXCEPTION = "exception"
    SOFTWARE = "software interrupt"
    EXTERNAL = "external interrupt"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a handler of the guest is to be called for.

    EIP is at the instruction that failed, or after a software interrupt.
    """

    vector: int
    cause: Cause
    error: int | None = None

    @classmethod
    def exception(cls, vector: int, error: int = 0) -> Event:
        """An exception; its error code is dropped where the CPU has none."""
        return cls(vector, Cause.EXCEPTION, error if vector in WITH_ERROR_CODE else None)

    def __str__(self) -> str:
        code = "" if self.error is None else f", error code {self.error:#x}"
        return f"{self.cause.value} {self.vector}{code}"


class Fault(Exception):
    """An event could not be delivered, which is an exception of its own."""

    def __init__(self, vector: Vector, error: int) -> None:
        super().__init__(f"{vector.name} with error code {error:#x}")
        self.vector = vector
        self.error = error


class TripleFault(Exception):
    """Not even a double fault could be delivered: the CPU stops."""

    def __init__(self, event: Event, idt_limit: int) -> None:
        super().__init__(f"triple fault, begun by {event}")
        self.event = event
        self.idt_limit = idt_limit


class UnsupportedGate(Exception):
    """The guest's IDT wants a task switch, or 16-bit code.

    Linux has a task gate for double faults alone: a kernel whose stack has overflowed comes here.
    """


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Eight bytes of a descriptor table."""

    low: int
    high: int

    @property
    def base(self) -> int:
        """Where the segment begins."""
        return self.low >> 16 | (self.high & 0xFF) << 16 | self.high & 0xFF000000

    @property
    def limit(self) -> int:
        """The highest offset in bytes, whatever the granularity."""
        limit = self.low & 0xFFFF | self.high & 0xF0000
        return limit << 12 | 0xFFF if self.high & 1 << 23 else limit

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.high >> 13 & 3

    @property
    def type(self) -> int:
        """Type with the S bit on top: 0x18 and above is code, 0x10 to 0x17 data."""
        return self.high >> 8 & 0x1F

    @property
    def is_present(self) -> bool:
        """The P bit."""
        return bool(self.high & 1 << 15)

    def segment(self, selector: int) -> SegmentState:
        """The contents of a segment register after loading this."""
        return SegmentState(selector, self.base, self.limit, self.high)


_INTERRUPT_GATE, _TRAP_GATE = 0x0E, 0x0F
_OTHER_GATES: Final = {0x05: "task gate", 0x06: "16-bit gate", 0x07: "16-bit gate"}
_CODE, _CONFORMING, _WRITABLE_DATA = 0x18, 0x04, 0x12
_BIG = 1 << 22
_SHORT_FORMS: dict[int, bytes] = {Vector.BREAKPOINT: b"\xcc", Vector.OVERFLOW: b"\xce"}
_IN_IDT, _EXTERNAL = 2, 1
# Plain numbers: & with an IntFlag takes a microsecond.
_VM, _INTERRUPT = int(Flag.VM), int(Flag.IF)
_CLEARED = int(Flag.TF | Flag.NT | Flag.RF | Flag.VM)


class Delivery:
    """Delivers events to a guest at CPL 0; a hypervisor refines the methods without underscore."""

    def __init__(self, registers: RegisterFile, mmu: Mmu) -> None:
        self.registers = registers
        self.mmu = mmu
        self._begun_by: Event | None = None
        """The event that is being delivered, before anything went wrong with it."""

    def has_gate(self, vector: int) -> bool:
        """Whether the IDT has a 32-bit gate for an external interrupt of this vector."""
        try:
            self._gate(Event(vector, Cause.EXTERNAL), _EXTERNAL)
        except (Fault, PageFault, UnsupportedGate):
            return False
        return True

    def flags_to_push(self) -> int:
        """EFLAGS as the guest is to find them in the frame."""
        return self.registers.eflags

    def ring_of(self, dpl: int) -> int:
        """The ring in which code of a descriptor with this DPL runs."""
        return dpl

    def load(self, descriptor: Descriptor, selector: int, ring: int) -> SegmentState:
        """The contents of CS or SS when a handler begins in `ring`."""
        return descriptor.segment(selector & ~3 | ring)

    def mask_interrupts(self) -> None:
        """An interrupt gate was passed."""
        self.registers.raw_eflags &= ~_INTERRUPT

    def deliver(self, event: Event) -> None:
        """Change the registers and the guest's stack so that the handler runs next.

        Raises TripleFault and UnsupportedGate.
        """
        if self._begun_by is not None:
            self._deliver(event)
            return
        self._begun_by = event
        try:
            self._deliver(event)
        finally:
            self._begun_by = None

    def _deliver(self, event: Event) -> None:
        registers = self.registers
        at = registers.eip
        try:
            self._enter(event)
        except Fault as fault:
            registers.eip = at
            self._escalate(event, Event.exception(fault.vector, fault.error))
        except PageFault as fault:
            registers.eip = at
            registers.cr2 = fault.va
            self._escalate(event, Event.exception(Vector.PAGE_FAULT, fault.code))

    def descriptor(self, selector: int, vector: Vector, extra: int = 0) -> Descriptor:
        """Descriptor of a selector. Raises Fault(vector) outside of its table, and PageFault."""
        registers = self.registers
        ldtr = registers.ldtr
        base, limit = (ldtr.base, ldtr.limit) if selector & 4 else registers.gdtr
        if not selector & 0xFFFC or selector | 7 > limit:
            raise Fault(vector, selector & 0xFFFC | extra)
        place_va = base + (selector & 0xFFF8)
        return Descriptor(*self.mmu.read_u64(place_va))

    def _escalate(self, first: Event, second: Event) -> None:
        if first.cause is Cause.SOFTWARE:
            self.registers.eip -= self._software_length(first.vector)
        elif first.cause is Cause.EXCEPTION:
            if first.vector == Vector.DOUBLE_FAULT:
                raise TripleFault(self._begun_by or first, self.registers.idtr[1])
            if second.vector in _DOUBLE.get(first.vector, frozenset()):
                self._deliver_double_fault(first, second)
                return
        self.deliver(second)

    def _deliver_double_fault(self, first: Event, second: Event) -> None:
        try:
            self.deliver(Event.exception(Vector.DOUBLE_FAULT))
        except UnsupportedGate as gate:
            raise UnsupportedGate(
                f"double fault: {first} could not be delivered because of {second} "
                f"(CR2 {self.registers.cr2:#x}), and {gate}"
            ) from None

    def _software_length(self, vector: int) -> int:
        """Bytes of the `int` before EIP; its prefixes, which have no meaning, left out."""
        code_va = self.registers.segment(SegReg.CS).base + self.registers.eip
        last = self.mmu.peek(code_va - 1, 1)
        return 1 if last == _SHORT_FORMS.get(vector) else 2

    def _enter(self, event: Event) -> None:
        registers = self.registers
        extra = 0 if event.cause is Cause.SOFTWARE else _EXTERNAL
        gate = self._gate(event, extra)
        selector = gate.low >> 16
        code = self.descriptor(selector, Vector.PROTECTION, extra)
        cpl = registers.cpl
        if code.type & _CODE != _CODE or code.dpl > cpl:
            raise Fault(Vector.PROTECTION, selector & 0xFFFC | extra)
        ring = cpl if code.type & _CONFORMING else self.ring_of(code.dpl)
        if ring > cpl:
            raise Fault(Vector.PROTECTION, selector & 0xFFFC | extra)
        if not code.is_present:
            raise Fault(Vector.NOT_PRESENT, selector & 0xFFFC | extra)
        flags = self.flags_to_push()
        frame: list[int] = []
        stack, esp = registers.segment(SegReg.SS), registers.esp
        if ring < cpl:
            frame = self._outer_stack(flags)
            stack, esp = self._inner_stack(code.dpl, ring, extra)
        frame += [flags, registers.selector(SegReg.CS), registers.eip]
        if event.error is not None:
            frame.append(event.error)
        esp = self._push(stack, esp, frame)
        if flags & _VM:
            for which in (SegReg.GS, SegReg.FS, SegReg.DS, SegReg.ES):
                registers.set_segment(which, NULL_SEGMENT)
        registers.set_segment(SegReg.SS, stack)
        registers.esp = esp
        registers.set_segment(SegReg.CS, self.load(code, selector, ring))
        registers.cpl = ring
        registers.refresh()
        registers.end_shadow()
        registers.raw_eflags &= ~_CLEARED
        if gate.type == _INTERRUPT_GATE:
            self.mask_interrupts()
        registers.eip = gate.low & 0xFFFF | gate.high & 0xFFFF0000

    def _gate(self, event: Event, extra: int) -> Descriptor:
        """The gate of an event. Raises Fault if it must not be used."""
        base, limit = self.registers.idtr
        code = event.vector * 8 | _IN_IDT | extra
        if event.vector * 8 + 7 > limit:
            raise Fault(Vector.PROTECTION, code)
        place_va = base + event.vector * 8
        gate = Descriptor(*self.mmu.read_u64(place_va))
        if gate.type in _OTHER_GATES and gate.is_present:
            raise UnsupportedGate(f"{event} goes to a {_OTHER_GATES[gate.type]}")
        if gate.type not in (_INTERRUPT_GATE, _TRAP_GATE):
            raise Fault(Vector.PROTECTION, code)
        if event.cause is Cause.SOFTWARE and self.ring_of(gate.dpl) < self.registers.cpl:
            raise Fault(Vector.PROTECTION, code)
        if not gate.is_present:
            raise Fault(Vector.NOT_PRESENT, code)
        return gate

    def _outer_stack(self, flags: int) -> list[int]:
        """The words pushed first when the stack changes."""
        registers = self.registers
        outer = [registers.selector(SegReg.SS), registers.esp]
        if flags & _VM:
            order = (SegReg.GS, SegReg.FS, SegReg.DS, SegReg.ES)
            return [registers.selector(which) for which in order] + outer
        return outer

    def _inner_stack(self, level: int, ring: int, extra: int) -> tuple[SegmentState, int]:
        """Stack segment and pointer that the TSS has for privilege `level`."""
        tss = self.registers.tr
        if 8 * level + 11 > tss.limit:
            raise Fault(Vector.TSS, tss.selector & 0xFFFC | extra)
        esp, selector = self.mmu.read_u64(tss.base + 4 + 8 * level)
        selector &= 0xFFFF
        descriptor = self.descriptor(selector, Vector.TSS, extra)
        usable = descriptor.type & ~0x05 == _WRITABLE_DATA
        if not usable or descriptor.dpl != level or selector & 3 != level:
            raise Fault(Vector.TSS, selector & 0xFFFC | extra)
        if not descriptor.is_present:
            raise Fault(Vector.STACK, selector & 0xFFFC | extra)
        return self.load(descriptor, selector, ring), esp

    def _push(self, stack: SegmentState, esp: int, frame: list[int]) -> int:
        """Write `frame`, first word on top; returns the new ESP. PageFault leaves all as it was."""
        mask = 0xFFFFFFFF if stack.attributes & _BIG else 0xFFFF
        bottom = (esp - 4 * len(frame)) & mask
        self.mmu.write_words(stack.base + bottom, frame[::-1])
        return esp & ~mask | bottom
