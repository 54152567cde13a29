# SPDX-License-Identifier: MIT
"""What do ROM and hypervisor of API 3.1 share? Hypercalls, pages, and the marks in the ROM.

VMI leaves this to the vendor (the guest never sees it). Ours: the hypervisor loads the ROM image at
ROM_PA, gives it two pages after it, and on VMI_Init adds the linear base of low memory to every
word that the ROM's fix-up table lists. A page table maps low memory at one offset, so ROM and pages
are reached at `base + pa`, where `base` is the address VMI_Init was called at minus its place.
"""

from __future__ import annotations

import enum

ROM_PA = 0xC8000
ROM_MAX_LEN = 0x4000
SHARED_PA = 0xCC000
"""One page per virtual CPU, readable and writable by the guest: untrusted input to the host."""
TIME_PA = 0xCD000
"""The page with a copy of the clock. It holds no host pointer, and the host never reads it.

No instruction of the guest can write to it or to the ROM, but the page walker can: a guest that
calls them page tables gets bits 5 and 6 (Accessed, Dirty) set in their words. That changes what its
own ROM does and what its own RDTSC says, as writes to its own memory would, and nothing else.
"""


class Hypercall(enum.IntEnum):
    """Interrupt vectors of `int n` at CPL 1; from CPL 3 they are faults like any other.

    Arguments and results are in the registers of the VMI call of that name; everything else,
    EFLAGS too, comes back as it was.
    """

    DELIVER = 0xE0  # virtual IF was set while an event was pending: deliver it now
    IRET = 0xE1  # ESP points at the frame: virtual IF from it, return, deliver what is pending
    INIT = 0xE2  # VMI_Init: EAX = 0 when the guest now runs paravirtually
    CALL = 0xE3  # any other call: EBX = call number, ESP points at the caller's EBX, then the
    # return address (all that SYSEXIT has to be told)
    HALT = 0xE4  # virtual IF on, wait for an interrupt


class Shared(enum.IntEnum):
    """Offsets in the shared page, u32 each unless noted."""

    VIRTUAL_IF = 0x00  # 0x200 or 0
    PENDING = 0x04  # not 0 while an event waits for virtual IF
    CR0 = 0x08
    CR2 = 0x0C
    CR3 = 0x10
    CR4 = 0x14
    GDTR = 0x18  # u16 limit, u32 base
    IDTR = 0x20  # u16 limit, u32 base
    LDTR = 0x28
    TR = 0x2C
    IRET_SITE = 0x30  # address of the site whose IRET is under way
    TSC_STEPS = 0x38  # u64: what RDTSC reads in the guest have added to the clock


class Time(enum.IntEnum):
    """Offsets in the time page; `tsc = (BASE - LEFT) * SCALE + SKEW + Shared.TSC_STEPS`."""

    LEFT = 0x00  # i64, counts down while the guest runs
    BASE = 0x08  # i64
    SKEW = 0x10  # i64
    SCALE = 0x18  # u32
    SEQUENCE = 0x1C  # u32, another value whenever LEFT, BASE or SKEW change but by counting down
    EPOCH = 0x20  # i64, nanoseconds from 1970 to the moment when the clock was 0


CYCLES_HZ = 1_000_000_000
"""Frequency of the clock, which is that of RDTSC and of the cycle counters."""

TSC_STEP = 1000
"""Time that each RDTSC adds in the guest, so that loops that wait for the clock end soon."""


class RomMark(enum.IntEnum):
    """Offsets in the ROM header of what the hypervisor needs to know, most in reserved bytes."""

    API_MAJOR = 0x0D  # u8
    MARKS = 0x20  # u32 signature VMP1
    FIXUPS = 0x24  # u16 offset, u16 count: u16 offsets of words to add `base` to at VMI_Init
    RESTARTS = 0x28  # u16 offset, u16 count: restartable regions, RESTART_LEN bytes each
    IRET = 0x2C  # u16 offset of the hardware iret, 0 for none: its faults belong to IRET_SITE
    STACK = (
        0x2E  # u16 offset of a word, 0 for none: at VMI_Init it becomes minus the selector in SS
    )

    ANSWERS = 0x70  # u32 signature VMP3, u8 minor, u8 major: this ROM of API 13 has the answers and
    # the entries of that API too, VMI_GetRelocationInfo at 0x88 (docs/decisions/0050)


ANSWERS_SIGNATURE = 0x33504D56
MARKS_SIGNATURE = 0x31504D56
RESTART_LEN = 8
"""u16 start, u16 end, u16 entry, u16 kind (Restart): offsets of code in the ROM."""


class Restart(enum.IntEnum):
    """The action for an event that arrives while EIP is in a region [start, end)."""

    IRET_ECX_SAVED = 1  # ECX is on top of the stack: pop it, then continue as IRET_FRAME
    IRET_FRAME = 2  # ESP is at the frame: virtual IF off, EIP back to `entry`, deliver from there
