# SPDX-License-Identifier: MIT
"""In which states are sites executed? Random ones, in which the instruction has something to do.

What is not drawn, because the two worlds cannot agree or the oracle does not know it:

* POPF and IRET with TF (the step would be taken inside a thunk), IOPL (VMI has a call for it),
  RF and VM; IRET with NT set (a task switch);
* control register bits, and a null selector for LTR, that Unicorn does not refuse though a
  processor does; control register bits that end paging; an absent stack segment for IRET, of
  which Unicorn says #NP and a processor #SS;
* breakpoints in hardware, which neither side models.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.emu.processor.segment import SegReg
from vmipatch.isa.classify import split_prefixes
from vmipatch.isa.trapped import MemoryPlace
from vmipatch.verify.sites.scene import (
    ABSENT_CS,
    ABSENT_DS,
    ABSENT_LDT,
    ABSENT_SS,
    ABSENT_TASK,
    BEYOND,
    BUSY_TASK,
    CODE_ALONE,
    KERNEL_CS,
    KERNEL_DS,
    LDT,
    NULL_LDT,
    ODD_DS,
    OTHER_SS,
    OTHER_TASK,
    STACK_LEN,
    TASK,
    USER_CS,
    USER_DS,
    VALUES,
    Scene,
)
from vmipatch.verify.sites.shapes import PatchedSite

_ESP: Final = 4
_EAX, _ECX, _EDX, _ESI, _EDI = 0, 1, 2, 6, 7
_STACK_MARGIN: Final = 0x100
_FAULT_ODDS: Final = 8
_REP: Final = 0xF3
_USER: Final = 3
_TI: Final = 4

_FREE: Final = int(
    Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.IF | Flag.DF | Flag.OF
    | Flag.AC | Flag.ID
)  # fmt: skip
_LOCAL_DS: Final = LDT | _TI
_USER_DATA: Final = bytes.fromhex("ffff000000f3cf00")
_NT, _FIXED = int(Flag.NT), int(Flag.FIXED)
_CR0_FREE: Final = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 16 | 1 << 18  # MP EM TS NE WP AM
_CR4_FREE: Final = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10
"""PVI, TSD, DE, MCE, PGE, OSFXSR, OSXMMEXCPT."""
_CR0_TS: Final = 1 << 3
_CACHING: Final = 0x18  # PCD and PWT of CR3
_DR6_RESET, _DR7_RESET, _DR6_STATUS = 0xFFFF0FF0, 0x400, 0xE00F
REFUSED_MSR: Final = 0x00C0FFEE
"""A register that no processor has."""
_MSRS: Final = (0x174, 0x175, 0x176, 0x277, 0xC0000080, REFUSED_MSR)
_EFER, _EFER_NXE = 0xC0000080, 0x800


@dataclass(frozen=True, slots=True)
class Ground:
    """The kernel's state by the time its sites are executed."""

    scene: Scene
    cr0: int
    cr3: int
    cr4: int
    other_cr3: int
    """A copy of the page tables' root."""
    nowhere_va: int
    """An address that is not mapped."""


@dataclass(frozen=True, slots=True)
class SiteState:
    """A machine right before a site."""

    general: tuple[int, ...]
    eflags: int
    values: tuple[int, ...]
    """In the order of scene.VALUES."""
    stack: bytes
    operands: bytes
    places: tuple[tuple[int, bytes], ...]
    """Memory elsewhere that the site names by its address alone."""
    port_seed: int


def random_state(site: PatchedSite, ground: Ground, seed: str) -> SiteState:
    """The state that belongs to `seed`, for an execution of `site`."""
    draft = _Draft(random.Random(seed), site, ground)
    draft.arrange()
    return draft.finished()


class _Draft:
    """A state while it is being made."""

    def __init__(self, rng: random.Random, site: PatchedSite, ground: Ground) -> None:
        self.rng, self.site, self.ground = rng, site, ground
        scene = ground.scene
        self.general = [self.u32() for _ in range(8)]
        self.general[_ESP] = scene.stack_va + 4 * rng.randrange(
            _STACK_MARGIN // 4, (STACK_LEN - _STACK_MARGIN) // 4
        )
        self.eflags = rng.getrandbits(32) & (_FREE | _NT) | _FIXED
        self.stack = bytearray(rng.randbytes(STACK_LEN))
        self.operands = bytearray(rng.randbytes(PAGE_LEN))
        self.places: list[tuple[int, bytes]] = []
        odd = (USER_DS, ODD_DS, 0)
        self.values = dict.fromkeys(VALUES, 0) | {
            "cr0": ground.cr0 ^ rng.choice((0, _CR0_TS)),
            "cr2": self.u32(),
            "cr3": ground.cr3,
            "cr4": ground.cr4,
            **{f"dr{n}": self.u32() for n in range(4)},
            "dr6": _DR6_RESET,
            "dr7": _DR7_RESET,
            "ldt": rng.choice((NULL_LDT, LDT)),
            "ss": KERNEL_DS,
            **{name: rng.choice(odd) for name in ("ds", "es", "fs", "gs")},
        }

    def u32(self) -> int:
        """A number, often one at the edge."""
        return self.rng.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, *(self.rng.getrandbits(32),) * 4))

    def arrange(self) -> None:
        """Give the instruction operands that make sense."""
        first = self.site.first
        if first.memory is not None:
            self._flatten(first.memory.segment)
            self.operand_va = self._reach(first.memory)
        if (arrange := _ARRANGERS.get(self.site.kind)) is not None:
            arrange(self)

    def finished(self) -> SiteState:
        """The state, nothing of it to change any more."""
        return SiteState(
            tuple(value & 0xFFFFFFFF for value in self.general),
            self.eflags,
            tuple(self.values[name] for name in VALUES),
            bytes(self.stack),
            bytes(self.operands),
            tuple(self.places),
            self.rng.getrandbits(32),
        )

    def put(self, va: int, data: bytes) -> None:
        """Let memory hold `data`, where there is memory of ours."""
        scene = self.ground.scene
        for start_va, octets in ((scene.stack_va, self.stack), (scene.operands_va, self.operands)):
            at = va - start_va
            if 0 <= at <= len(octets) - len(data):
                octets[at : at + len(data)] = data
                return
        self.places = [(at, old) for at, old in self.places if at != va] + (
            [(va, data)] if va != self.ground.nowhere_va else []
        )

    def give(self, value: int, width: int) -> None:
        """Let the operand of the instruction, register or memory, have a value."""
        first = self.site.first
        data = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if first.memory is not None:
            self.put(self.operand_va, data)
        elif width == 2:
            self.general[first.rm] = self.general[first.rm] & ~0xFFFF | value & 0xFFFF
        else:
            self.general[first.rm] = value

    def push(self, *words: int) -> None:
        """Let the top of the stack hold words, the first on top."""
        self.put(self.general[_ESP], struct.pack(f"<{len(words)}I", *words))

    def flags(self, *, nested: bool) -> int:
        """EFLAGS for POPF and IRET."""
        return self.rng.getrandbits(32) & (_FREE | (_NT if nested else 0)) | _FIXED

    def target(self) -> int:
        """An address for a memory operand: mostly one in the page of operands."""
        if not self.rng.randrange(_FAULT_ODDS):
            return self.ground.nowhere_va
        return self.ground.scene.operands_va + self.rng.randrange(64, PAGE_LEN - 64)

    def _flatten(self, segment: int) -> None:
        name = {SegReg.DS: "ds", SegReg.ES: "es"}.get(SegReg(segment))
        if name is not None:
            self.values[name] = USER_DS

    def _reach(self, place: MemoryPlace) -> int:
        """Choose base and index so that the operand is somewhere useful; returns its address."""
        target = self.target()
        base, index = place.base, place.index
        if base is None and index is None:
            if self.site.kind != "invlpg":  # reads nothing: its operand may be anywhere
                self.places.append((place.displacement, self.rng.randbytes(8)))
        elif base == _ESP:
            if index is not None:
                self.general[index] = self.rng.randrange(16)
        elif base is None or base == index:
            assert index is not None, "one of them is there"
            factor = place.scale + (base is not None)
            self.general[index] = (target - place.displacement & 0xFFFFFFFF) // factor
        else:
            if index is not None:
                self.general[index] = self.rng.randrange(16)
            offset = place.displacement
            offset += self.general[index] * place.scale if index is not None else 0
            self.general[base] = target - offset & 0xFFFFFFFF
        return place.offset(lambda number: self.general[number])


def _popf(draft: _Draft) -> None:
    draft.push(draft.flags(nested=True))


def _iret(draft: _Draft) -> None:
    draft.eflags &= ~_NT
    draft.values["ss"] = draft.rng.choice((KERNEL_DS, KERNEL_DS, OTHER_SS))
    rng, scene = draft.rng, draft.ground.scene
    code, stack = rng.choice(
        (
            *((KERNEL_CS, 0),) * 4,
            *((USER_CS, USER_DS),) * 4,
            (0, 0),
            (BEYOND, 0),
            (BEYOND | _USER, USER_DS),
            (ABSENT_CS, USER_DS),
            (KERNEL_DS, 0),
            (USER_CS & ~_USER, 0),
            (USER_CS, 0),
            (USER_CS, KERNEL_DS),
            (USER_CS, BEYOND | _USER),
        )
    )
    eip = scene.target_va if code == KERNEL_CS else draft.ground.nowhere_va
    selector = code | rng.getrandbits(16) << 16
    draft.push(eip, selector, draft.flags(nested=False), draft.u32(), stack)


def _sysexit(draft: _Draft) -> None:
    draft.general[_EDX] = draft.ground.nowhere_va


def _cr0(draft: _Draft) -> None:
    draft.give(draft.ground.cr0 ^ draft.rng.getrandbits(32) & _CR0_FREE, 4)


def _cr3(draft: _Draft) -> None:
    root = draft.rng.choice((draft.ground.cr3, draft.ground.other_cr3))
    draft.give(root ^ draft.rng.getrandbits(32) & _CACHING, 4)


def _cr4(draft: _Draft) -> None:
    draft.give(draft.ground.cr4 ^ draft.rng.getrandbits(32) & _CR4_FREE, 4)


def _to_control(draft: _Draft) -> None:
    arrange = {0: _cr0, 3: _cr3, 4: _cr4}.get(draft.site.first.reg)
    if arrange is not None:
        arrange(draft)


def _to_debug(draft: _Draft) -> None:
    rng = draft.rng
    match draft.site.first.reg:
        case 4 | 6:
            draft.give(rng.choice((0, _DR6_RESET | rng.getrandbits(32) & _DR6_STATUS)), 4)
        case 5 | 7:
            draft.give(rng.choice((0, _DR7_RESET | rng.getrandbits(16) << 16)), 4)


def _load_ldt(draft: _Draft) -> None:
    choices = (0, _USER, *(LDT,) * 4, TASK, ABSENT_LDT, BEYOND, LDT | _TI, KERNEL_DS)
    draft.give(draft.rng.choice(choices), 2)


def _load_task(draft: _Draft) -> None:
    choices = (*(OTHER_TASK,) * 4, BUSY_TASK, ABSENT_TASK, LDT, BEYOND, OTHER_TASK | _TI)
    draft.give(draft.rng.choice(choices), 2)


def _segment(draft: _Draft) -> int:
    """A selector for a data segment; one in three is refused, or is null."""
    good = (USER_DS, USER_DS, ODD_DS, KERNEL_DS, KERNEL_CS, USER_CS)
    bad = (0, _USER, BEYOND, ABSENT_DS, CODE_ALONE, TASK, _LOCAL_DS, BEYOND | _USER)
    # Good as well, if there is a local table: it lies where operands do.
    draft.put(draft.ground.scene.operands_va + (_LOCAL_DS & ~7), _USER_DATA)
    return draft.rng.choice(good if draft.rng.randrange(3) else bad)


def _stack_segment(draft: _Draft) -> int:
    return draft.rng.choice(
        (*(KERNEL_DS,) * 5, 0, USER_DS, USER_DS & ~_USER, BEYOND, ABSENT_SS, KERNEL_CS, TASK)
    )


def _to_segment(draft: _Draft) -> None:
    draft.give(_segment(draft), 2)


def _pop_segment(draft: _Draft) -> None:
    draft.push(_segment(draft) | draft.rng.getrandbits(16) << 16)


def _far_pointer(draft: _Draft) -> None:
    draft.put(draft.operand_va + 4, struct.pack("<H", _segment(draft)))


def _to_stack_segment(draft: _Draft) -> None:
    draft.give(_stack_segment(draft), 2)


def _pop_stack_segment(draft: _Draft) -> None:
    draft.push(_stack_segment(draft) | draft.rng.getrandbits(16) << 16)


def _far_stack_pointer(draft: _Draft) -> None:
    """After it the stack is where it was, or somewhat higher."""
    esp = draft.general[_ESP] + 4 * draft.rng.randrange(8)
    draft.put(draft.operand_va, struct.pack("<IH", esp, _stack_segment(draft)))


def _tested_segment(draft: _Draft) -> None:
    """Not one of the kernel's that was never loaded: its descriptor tells the ring."""
    draft.give(draft.rng.choice((0, USER_DS, USER_CS, KERNEL_DS, BEYOND, TASK)), 2)


def _string(draft: _Draft) -> None:
    """INS and OUTS: a few elements, from or to the page of operands."""
    draft.values["ds"] = draft.values["es"] = USER_DS
    draft.general[_ESI if draft.site.kind == "outs" else _EDI] = draft.target()
    prefixes, _ = split_prefixes(draft.site.first.code)
    if _REP in prefixes:
        draft.general[_ECX] = draft.rng.randrange(5)


def _msr(draft: _Draft) -> None:
    number = draft.general[_ECX] = draft.rng.choice(_MSRS)
    if number == _EFER:
        draft.general[_EAX] &= _EFER_NXE
        draft.general[_EDX] = 0


def _cpuid(draft: _Draft) -> None:
    draft.general[_EAX] = draft.rng.choice((0, 1, 2, 3, 4, 7, 0x80000000, draft.u32()))


_ARRANGERS: Final[dict[str, Callable[[_Draft], None]]] = {
    "popf": _popf,
    "iret": _iret,
    "sysexit": _sysexit,
    "sti+sysexit": _sysexit,
    "mov to cr": _to_control,
    "mov to dr": _to_debug,
    "lldt": _load_ldt,
    "ltr": _load_task,
    "ins": _string,
    "outs": _string,
    "rdmsr": _msr,
    "wrmsr": _msr,
    "cpuid": _cpuid,
    "mov to segment": _to_segment,
    "pop segment": _pop_segment,
    **dict.fromkeys(("lds", "les", "lfs", "lgs"), _far_pointer),
    "mov to ss": _to_stack_segment,
    "pop ss": _pop_stack_segment,
    "lss": _far_stack_pointer,
    "verr": _tested_segment,
    "verw": _tested_segment,
}
"""By kind; the others take any registers, and any memory there is."""
