# SPDX-License-Identifier: MIT
"""Which number each VMI call has (API 3.0 as Linux 2.6.21-2.6.36 shipped it, and our 3.1)."""

from __future__ import annotations

import enum

API_MAJOR, API_MINOR = 3, 1


class VmiCall(enum.IntEnum):
    """Call numbers: 0-73 are API 3.0 (Linux arch/x86/kernel/vmi_32.c), from 74 on our 3.1."""

    CPUID = 0
    WRMSR = 1
    RDMSR = 2
    SET_GDT = 3
    SET_LDT = 4
    SET_IDT = 5
    SET_TR = 6
    GET_GDT = 7
    GET_LDT = 8
    GET_IDT = 9
    GET_TR = 10
    WRITE_GDT_ENTRY = 11
    WRITE_LDT_ENTRY = 12
    WRITE_IDT_ENTRY = 13
    UPDATE_KERNEL_STACK = 14
    SET_CR0 = 15
    SET_CR2 = 16
    SET_CR3 = 17
    SET_CR4 = 18
    GET_CR0 = 19
    GET_CR2 = 20
    GET_CR3 = 21
    GET_CR4 = 22
    WBINVD = 23
    SET_DR = 24
    GET_DR = 25
    RDPMC = 26
    RDTSC = 27
    CLTS = 28
    ENABLE_INTERRUPTS = 29
    DISABLE_INTERRUPTS = 30
    GET_INTERRUPT_MASK = 31
    SET_INTERRUPT_MASK = 32
    IRET = 33
    SYSEXIT = 34
    HALT = 35
    REBOOT = 36
    SHUTDOWN = 37
    SET_PXE = 38
    SET_PXE_LONG = 39
    UPDATE_PXE = 40
    UPDATE_PXE_LONG = 41
    MACHINE_TO_PHYSICAL = 42
    PHYSICAL_TO_MACHINE = 43
    ALLOCATE_PAGE = 44
    RELEASE_PAGE = 45
    INVAL_PAGE = 46
    FLUSH_TLB = 47
    SET_LINEAR_MAPPING = 48
    INL = 49
    INB = 50
    INW = 51
    INSL = 52
    INSB = 53
    INSW = 54
    OUTL = 55
    OUTB = 56
    OUTW = 57
    OUTSL = 58
    OUTSB = 59
    OUTSW = 60
    SET_IOPL_MASK = 61
    SET_INITIAL_AP_STATE = 62
    APIC_WRITE = 63
    APIC_READ = 64
    IO_DELAY = 65
    GET_CYCLE_FREQUENCY = 66
    GET_CYCLE_COUNTER = 67
    SET_ALARM = 68
    CANCEL_ALARM = 69
    GET_WALLCLOCK_TIME = 70
    WALLCLOCK_UPDATED = 71
    SET_CALLBACKS = 72
    SET_LAZY_MODE = 73
    SET_XCR = 74
    READ_SEGMENT = 75  # CS or SS with RPL 0: no call of the ROM, a thunk alone serves it
    SET_FALLBACK = (
        76  # EAX = table of one-byte fallbacks, EDX = entries: served by hypervisors only
    )
    SET_RUNTIME = 77  # EAX, EDX: range of the guest's thunks and runtime, whose flags are real ones
