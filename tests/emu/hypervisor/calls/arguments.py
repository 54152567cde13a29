# SPDX-License-Identifier: MIT
"""With what is a call made? With what a kernel might pass, and with nonsense.

Arguments that fail the first check of a call never reach what follows, so most are of the right
kind: addresses of the guest's tables, selectors of its segments, ports that exist.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.emu.guest import (
    CODE_PA,
    DATA_PA,
    IDT_OFF,
    STACK_PA,
    TABLES_PA,
    USER_CS,
    USER_DS,
    USER_STACK_PA,
)
from tests.emu.hypervisor.calls import playground as guest
from vmipatch.emu.devices.local_apic import BASE_PA
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Hypercall
from vmipatch.vmi.table import ROW_OF, ArgumentPlace

C = VmiCall
REGISTERS: Final = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
STACK_WORDS: Final = 6
_ENDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)
_PAGES = (
    DATA_PA, DATA_PA + 0x1000, guest.READ_ONLY_PA, guest.ABSENT_PA, STACK_PA - 0x1000, TABLES_PA,
    USER_STACK_PA - 0x1000, CODE_PA, guest.DIRECTORY_PA, guest.TABLE_PA, guest.WINDOW_TABLE_PA,
    guest.PAE_ROOT_PA, guest.PAE_DIRECTORY_PA, guest.PAE_TABLE_PA, guest.LDT_PA, ROM_PA, SHARED_PA,
    TIME_PA, guest.WINDOW_VA, 0xA0000, 0xF0000, BASE_PA, guest.RAM_LEN - 0x1000, guest.RAM_LEN,
    0x7FF000, 0, 0xFFFFF000,
)  # fmt: skip
_FRAMES = (*_PAGES, guest.RAM_LEN * 2, 0x40000000)
_PORTS = (0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92,
          0xE9, *range(0x3F8, 0x400), *range(0xCF8, 0xD00), 0xFFFF, 0)  # fmt: skip
_APIC = (0x20, 0x30, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x100, 0x200, 0x300, 0x310, 0x320, 0x350, 0x380,
         0x390, 0x3E0)  # fmt: skip
_KINDS = (0x92, 0x93, 0x9A, 0x9E, 0xF2, 0xFA, 0xB2, 0xBA, 0x82, 0x89, 0x8B, 0x81, 0x8C, 0x85, 0x8E,
          0x8F, 0xEE, 0x0E, 0x12, 0x96)  # fmt: skip
_NT, _TF, _AC, _VM = 1 << 14, 1 << 8, 1 << 18, 1 << 17


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call, with everything that it depends on."""

    call: guest.Way
    registers: dict[str, int]
    """General registers without ESP, and `eflags`."""
    stack: list[int]
    """Words at ESP in front of the call."""
    image: bytes
    """Bytes put at DATA_PA before the call."""

    def __str__(self) -> str:
        registers = ", ".join(f"{name}={value:#x}" for name, value in self.registers.items())
        stack = " ".join(f"{word:#x}" for word in self.stack)
        return f"{self.call.name}({registers}; {stack}; {self.image.hex()})"


class Dice:
    """Arguments by kind."""

    def __init__(self, dice: random.Random, label: Callable[[str], int]) -> None:
        """`label`: addresses in the guest's code."""
        self.dice = dice
        self._label = label
        self._is_odd = False

    def attempt(self, call: guest.Way) -> Attempt:
        """A call of that number; of a hypercall, any number in EBX, and perhaps a frame."""
        dice = self.dice
        if isinstance(call, Hypercall):
            registers = {name: self.anything() for name in REGISTERS} | {"eflags": self.flags()}
            registers["ebx"] = dice.choice((dice.randrange(80), registers["ebx"]))
            return Attempt(call, registers, self.frame(), self.image())
        row = ROW_OF[call]
        self._is_odd = not dice.randrange(6)
        registers = {name: self.anything() for name in REGISTERS}
        stack = [self.anything() for _ in range(STACK_WORDS)]
        if not self._is_odd:
            for argument in row.arguments:
                word = self._word(call, argument.place)
                if argument.place.is_register:
                    registers[argument.place.value] = word
                elif argument.place is not ArgumentPlace.FRAME:
                    stack[argument.place is ArgumentPlace.STACK_2] = word
            if call is C.IRET:
                stack = self.frame()
        if row.native.startswith("rep ") and dice.randrange(50):
            registers["ecx"] = dice.randrange(9)
        registers["eflags"] = self.flags()
        return Attempt(call, registers, stack, self.image())

    def _word(self, call: VmiCall, place: ArgumentPlace) -> int:
        if not self.dice.randrange(8):
            return self.anything()
        maker = MAKERS.get((call, place))
        return self.anything() if maker is None else maker(self) & 0xFFFFFFFF

    def anything(self) -> int:
        """Any number, a small one, an address, a selector."""
        dice = self.dice
        kind = dice.randrange(6)
        if kind == 0:
            return dice.getrandbits(32)
        if kind == 1:
            return dice.randrange(0x200)
        if kind == 2:
            return 1 << dice.randrange(32)
        if kind == 3:
            return dice.choice(_ENDS)
        return self.address() if kind == 4 else self.selector()

    def address(self) -> int:
        """In or at the end of a page that means something."""
        dice = self.dice
        page = dice.choice(_PAGES) if dice.randrange(3) else DATA_PA
        kind = dice.randrange(4)
        off = 0 if kind == 0 else dice.randrange(0x1000) & -4 if kind == 1 else dice.randrange(64)
        return page + (0x1000 - dice.randrange(1, 9) if kind == 3 else off) & 0xFFFFFFFF

    def frame_number(self) -> int:
        """A page frame."""
        return self.dice.choice(_FRAMES) >> 12

    def entry(self) -> int:
        """The low word of an entry of a page table."""
        rights = self.dice.choice((0, 1, 3, 5, 7, 0x67, 0x63, 0x87, 0xE7, 0x107, 0x1E7, 0x27))
        return self.dice.choice(_FRAMES) | rights

    def entry_address(self) -> int:
        """The place of an entry of the guest's page tables, or another."""
        dice = self.dice
        page = dice.choice(_PAGES[8:14])
        return page + dice.choice(
            (0, 8, 0x20, 0x40, 0x648, 0x660, 0x800, 0x900, dice.randrange(4096))
        )

    def selector(self) -> int:
        """Of a segment that exists, and some that do not."""
        dice = self.dice
        return (
            dice.randrange(0, 0x90, 8) | dice.choice((0, 0, 1, 3, 4, 7))
            if dice.randrange(9)
            else (dice.getrandbits(16))
        )

    def control0(self) -> int:
        """CR0 with paging as it is, mostly."""
        dice = self.dice
        value = 0x11 | (0x80010000 if dice.randrange(4) else 0)
        return value ^ (1 << dice.randrange(32) if dice.randrange(3) else dice.getrandbits(5))

    def control4(self) -> int:
        """CR4 with bits that exist, mostly."""
        return self.dice.getrandbits(11) if self.dice.randrange(4) else self.dice.getrandbits(32)

    def control3(self) -> int:
        """The base of something that might be page tables."""
        dice = self.dice
        if dice.randrange(3):
            return dice.choice((guest.DIRECTORY_PA, guest.PAE_ROOT_PA)) | dice.choice(
                (0, 0, 8, 0x18)
            )
        return dice.choice(_FRAMES) | dice.choice((0, 0x20, 0xFE0))

    def kind_and_limit(self) -> int:
        """The high word of a descriptor, or of a gate."""
        dice = self.dice
        high = dice.choice(_KINDS) << 8 | dice.choice((0, 0x40, 0xC0, 0xCF)) << 16
        return high | dice.choice((0, 0x12, 0x11, 0xC0, 0xFF000000, dice.getrandbits(8)))

    def base_and_limit(self) -> int:
        """The low word of a descriptor, or of a gate."""
        dice = self.dice
        low = dice.choice((0, 0x67, 0xFF, 0xFFF, 0xFFFF, dice.getrandbits(16)))
        return low | dice.choice((0, 8, 0x28, 0x30, 0x1000, dice.getrandbits(16))) << 16

    def table(self) -> int:
        """Where a descriptor table is, or might be."""
        return self.dice.choice((TABLES_PA, TABLES_PA, TABLES_PA + IDT_OFF, guest.LDT_PA, DATA_PA))

    def index(self) -> int:
        """Of a descriptor or a gate."""
        return self.dice.randrange(0x30) if self.dice.randrange(6) else self.dice.getrandbits(29)

    def port(self) -> int:
        """A port, often with a device."""
        return self.dice.choice(_PORTS) if self.dice.randrange(6) else self.dice.getrandbits(32)

    def count(self) -> int:
        """How often; seldom, more than anybody's patience."""
        return self.dice.randrange(9) if self.dice.randrange(60) else self.dice.getrandbits(32)

    def flags(self) -> int:
        """EFLAGS of the kernel: real IF is 1, IOPL 0."""
        dice = self.dice
        odd = dice.choice((_NT, _TF, _AC)) if not dice.randrange(12) else 0
        return dice.getrandbits(12) & 0x8D5 | 0x202 | odd | (0 if dice.randrange(6) else 0x400)

    def frame(self) -> list[int]:
        """The frame of IRET: EIP, CS, EFLAGS, ESP, SS and what a return to vm86 has more."""
        dice, label = self.dice, self._label
        to_user = dice.randrange(2)
        eip = label("user") if to_user else label("first_stop")
        code = USER_CS if to_user else dice.choice((8, 9))
        words = [
            eip, code, dice.choice((2, 0x202, 0x3202, 0x1202, 0x4202, 0x20202, 0x302, 0x40202)),
            dice.choice((USER_STACK_PA, DATA_PA + 0x800, 0)), USER_DS, 0,
        ]  # fmt: skip
        if dice.randrange(2):
            where = dice.randrange(STACK_WORDS)
            words[where] = self.selector() if where in (1, 4) else self.anything()
        return words

    def image(self) -> bytes:
        """Limit and base, as SetGDT and SetIDT read them; then a state of another processor."""
        dice = self.dice
        base = dice.choice((TABLES_PA, TABLES_PA + IDT_OFF, DATA_PA, guest.ABSENT_PA, ROM_PA,
                            dice.getrandbits(32)))  # fmt: skip
        limit = dice.choice((0x2F, 0xFF, 0x7FF, 0xFFFF, 0, 7, dice.getrandbits(16)))
        return limit.to_bytes(2, "little") + base.to_bytes(4, "little") + dice.randbytes(10)

    def expiry(self) -> int:
        """The low word of a time."""
        return self.dice.choice((0, 1, self.dice.getrandbits(32)))

    def seldom(self) -> int:
        """0, but for one in four."""
        return 0 if self.dice.randrange(4) else self.dice.getrandbits(32)

    def one_of(self, *values: int) -> int:
        """One of some values."""
        return self.dice.choice(values)


Maker = Callable[[Dice], int]
_A, _D, _CX, _S1, _S2 = (
    ArgumentPlace.EAX,
    ArgumentPlace.EDX,
    ArgumentPlace.ECX,
    ArgumentPlace.STACK_1,
    ArgumentPlace.STACK_2,
)


def _of(*values: int) -> Maker:
    return lambda dice: dice.one_of(*values)


_PXE_FLAGS = _of(1, 2, 0x11, 0x31, 0x41, 0x80001031)
MAKERS: Final[dict[tuple[VmiCall, ArgumentPlace], Maker]] = {
    (C.CPUID, _A): _of(0, 1, 2, 4, 7, 0xD, 0x40000000, 0x80000000, 0x80000001, 0x80000008),
    **dict.fromkeys(
        ((C.SET_GDT, _A), (C.SET_IDT, _A)), _of(DATA_PA, DATA_PA, guest.OTHER_GDT_PA - 8)
    ),
    **{(call, _A): Dice.address for call in (C.GET_GDT, C.GET_IDT, C.INVAL_PAGE, C.SET_CR2)},
    (C.SET_LDT, _A): _of(0, guest.LDT, guest.LDT | 3, 8, guest.LDT | 4),
    (C.SET_TR, _A): _of(0x28, guest.SPARE_TSS, guest.SPARE_TSS | 3, guest.TSS16, guest.LDT, 0),
    **{
        (call, place): maker
        for call in (C.WRITE_GDT_ENTRY, C.WRITE_LDT_ENTRY, C.WRITE_IDT_ENTRY)
        for place, maker in (
            (_A, Dice.table), (_D, Dice.index), (_CX, Dice.base_and_limit),
            (_S1, Dice.kind_and_limit),
        )
    },
    (C.UPDATE_KERNEL_STACK, _A): Dice.selector,
    (C.UPDATE_KERNEL_STACK, _D): Dice.address,
    (C.SET_CR0, _A): Dice.control0,
    (C.SET_CR3, _A): Dice.control3,
    (C.SET_CR4, _A): Dice.control4,
    (C.SET_DR, _A): _of(*range(9)),
    (C.GET_DR, _A): _of(*range(9)),
    (C.SET_INTERRUPT_MASK, _A): _of(0, 0x200, 0x202, 0xFFFFFFFF),
    (C.SYSEXIT, _D): lambda dice: dice._label("user"),
    (C.SYSEXIT, _CX): _of(USER_STACK_PA, DATA_PA + 0x800),
    (C.SET_PXE, _A): Dice.entry,
    (C.SET_PXE, _D): Dice.entry_address,
    (C.SET_PXE, _CX): _PXE_FLAGS,
    (C.SET_PXE_LONG, _A): Dice.entry,
    (C.SET_PXE_LONG, _D): _of(0, 0, 1, 0x80000000, 0xFFFFFFFF),
    (C.SET_PXE_LONG, _CX): Dice.entry_address,
    (C.SET_PXE_LONG, _S1): _PXE_FLAGS,
    **{(call, _A): Dice.entry_address for call in (C.UPDATE_PXE, C.UPDATE_PXE_LONG)},
    **{(call, _D): _PXE_FLAGS for call in (C.UPDATE_PXE, C.UPDATE_PXE_LONG)},
    **{(call, _A): Dice.frame_number for call in (C.ALLOCATE_PAGE, C.RELEASE_PAGE)},
    **{(call, _D): _of(0x41, 0x42, 0x51, 0x62, 4) for call in (C.ALLOCATE_PAGE, C.RELEASE_PAGE)},
    (C.FLUSH_TLB, _A): _of(1, 2, 3),
    (C.SET_LINEAR_MAPPING, _A): _of(0, 1, 2, 3, 4),
    **{
        (row.call, place): maker
        for row in ROW_OF.values()
        if row.native.startswith(("in ", "out ", "rep "))
        for place, maker in (
            (_D, Dice.port), (_CX, Dice.count), (ArgumentPlace.ESI, Dice.address),
            (ArgumentPlace.EDI, Dice.address),
        )
    },
    (C.SET_IOPL_MASK, _A): _of(0, 0x1000, 0x2000, 0x3000),
    (C.SET_INITIAL_AP_STATE, _A): Dice.address,
    **{(call, _A): _of(*_APIC, BASE_PA + 0x320) for call in (C.APIC_READ, C.APIC_WRITE)},
    (C.APIC_WRITE, _D): _of(0, 0x1FF, 0x41, 0x20041, 0x10041, 0x10000, 0x44041, 0xFFFFFFFF),
    (C.GET_CYCLE_COUNTER, _A): _of(0, 1, 2, 3),
    (C.SET_ALARM, _A): _of(0, 1, 2, 0x100, 0x101, 0x10000, 0x10100, 0x10101),
    (C.SET_ALARM, _D): Dice.expiry,
    **{(C.SET_ALARM, place): Dice.seldom for place in (_CX, _S2)},
    (C.SET_ALARM, _S1): _of(0, 1, 10_000, 1_000_000, 0xFFFFFFFF),
    (C.CANCEL_ALARM, _A): _of(0, 1, 2, 0x101),
    (C.SET_LAZY_MODE, _A): _of(0, 1, 2),
    (C.SET_FALLBACK, _A): Dice.address,
    (C.SET_FALLBACK, _D): Dice.count,
    (C.SET_RUNTIME, _A): Dice.address,
    (C.SET_RUNTIME, _D): Dice.address,
}  # fmt: skip
"""Values that a kernel might pass; any other argument is anything."""
