# SPDX-License-Identifier: MIT
"""Why did a deprivileged guest leave its own code? One name for each kind of interrupt callback.

The kinds are the keys of `Statistics.traps`, and add up to the calls of kind INTERRUPT there. What
has a callback of its own (ports, cpuid, rdtsc) is counted by the machine for every privilege alike.
"""

from __future__ import annotations

import enum

from vmipatch.emu.processor.events import Vector


class ExitKind(enum.StrEnum):
    """Every way by which an interrupt callback ends."""

    CLI = "cli"
    STI = "sti"
    PUSHF = "pushf"
    POPF = "popf"
    IRET = "iret"
    HLT = "hlt"
    CR_READ = "read of a control register"
    CR_WRITE = "write of a control register"
    CLTS = "clts"
    DEBUG_REGISTER = "debug register"
    MSR = "rdmsr or wrmsr"
    TSC = "rdtsc with CR4.TSD"
    SHADOW = "end of the shadow of sti, with an interrupt waiting"
    INVLPG = "invlpg"
    CACHE = "invd or wbinvd"
    TABLE_LOAD = "lgdt, lidt, lldt or ltr"
    TABLE_STORE = "sgdt, sidt, sldt, str or smsw"
    STACK_SEGMENT = "load of SS with RPL 0"
    FAR_RETURN = "far return with RPL 0"
    DESCRIPTOR = "first use of a descriptor with DPL 0"
    FALLBACK = "hlt in place of another instruction"
    ROM = "instruction of the ROM, in an audit run"
    USER_FLAGS = "cli or sti of a process with IOPL 3"
    USER_OBSERVED = "first intercept of code at CPL 3"
    HYPERCALL_DELIVER = "hypercall: deliver"
    HYPERCALL_IRET = "hypercall: iret"
    HYPERCALL_INIT = "hypercall: init"
    HYPERCALL_CALL = "hypercall: call"
    HYPERCALL_HALT = "hypercall: halt"
    INT = "software interrupt"
    PAGE_FAULT = "page fault"
    PROTECTION = "general protection fault"
    EXCEPTION = "other exception"


SENSITIVE = frozenset(
    {
        ExitKind.CLI, ExitKind.STI, ExitKind.PUSHF, ExitKind.POPF, ExitKind.IRET, ExitKind.HLT,
        ExitKind.CR_READ, ExitKind.CR_WRITE, ExitKind.CLTS, ExitKind.DEBUG_REGISTER, ExitKind.MSR,
        ExitKind.TSC,
        ExitKind.INVLPG, ExitKind.CACHE, ExitKind.TABLE_LOAD, ExitKind.TABLE_STORE,
        ExitKind.STACK_SEGMENT, ExitKind.FAR_RETURN, ExitKind.DESCRIPTOR, ExitKind.FALLBACK,
    }
)  # fmt: skip
"""Instructions of the kernel that were emulated: what a rewritten kernel is to do without."""


def exit_kind(vector: int, is_software: bool) -> ExitKind:
    """How an event that goes to the guest is counted."""
    if is_software:
        return ExitKind.INT
    return ExitKind.PAGE_FAULT if vector == Vector.PAGE_FAULT else ExitKind.EXCEPTION
