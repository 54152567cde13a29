# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Page tables, by the calls of API 13. Linux does not annotate them: they are functions in its text,
# stubs or the ROM's copy.

memory_checks:
    mov eax, 0
    mov edx, PAGE_OFFSET
    mov ecx, 0x337fe                    # more than there is
    VMI_STACK(SET_LINEAR_MAPPING, 0)
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 1
    mov ecx, 0
    PUSH(0)
    PUSH(0)
    CALL_WINDOW(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    mov dword ptr [FRAME_A], 0xaaaa
    mov dword ptr [FRAME_B], 0xbbbb
    mov eax, PAGE_TABLE
    mov edx, FRAME_A + 7
    CALL_WINDOW(SET_PXE_BY_ADDRESS)
    CHECK("page of SetPxE", dword ptr [WINDOW], 0xaaaa)
    mov eax, PAGE_TABLE
    mov edx, FRAME_B + 7
    CALL_WINDOW(SWAP_PXE)
    and eax, 0xfffff007
    CHECK("entry that SwapPxE took", eax, FRAME_A + 7)
    mov eax, WINDOW
    VMI(INVAL_PAGE)
    CHECK("page after InvalPage", dword ptr [WINDOW], 0xbbbb)
    mov eax, PAGE_TABLE
    CALL_WINDOW(GET_PXE)
    CHECK("entry with what the processor marked", eax, FRAME_B + 0x27)
    mov eax, PAGE_TABLE
    mov edx, 5                          # Accessed
    CALL_WINDOW(TEST_AND_CLEAR_PXE_BIT)
    CHECK("Accessed was set", eax, 0xffffffff)
    mov eax, PAGE_TABLE
    mov edx, 5
    CALL_WINDOW(TEST_AND_CLEAR_PXE_BIT)
    CHECK("Accessed was cleared", eax, 0)
    mov eax, PAGE_TABLE
    mov edx, 9                          # one of the kernel's own
    CALL_WINDOW(TEST_AND_SET_PXE_BIT)
    CHECK("bit 9 was clear", eax, 0)
    mov eax, PAGE_TABLE
    CALL_WINDOW(GET_PXE)
    CHECK("bit 9 is set, Accessed is clear", eax, FRAME_B + 0x207)
    mov dword ptr [PAGE_TABLE], FRAME_A + 7
    mov eax, 0x80                       # updates of page tables
    CALL_WINDOW(FLUSH_DEFERRED_CALLS)
    CHECK("result of FlushDeferredCalls", eax, 0)
    mov eax, 1
    VMI(FLUSH_TLB)
    CHECK("page after FlushTLB", dword ptr [WINDOW], 0xaaaa)
    mov eax, PAGE_TABLE
    mov edx, FRAME_B + 0x107            # a global one
    CALL_WINDOW(SET_PXE_BY_ADDRESS)
    mov eax, 3
    VMI(FLUSH_TLB)
    CHECK("page after a global FlushTLB", dword ptr [WINDOW], 0xbbbb)
    mov eax, PAGE_TABLE
    mov edx, 0
    CALL_WINDOW(SET_PXE_BY_ADDRESS)
    mov eax, 3
    VMI(FLUSH_TLB)
    lea eax, [no_page]
    mov dword ptr [resume], eax
    mov dword ptr [resume_esp], esp
    mov eax, dword ptr [WINDOW + 0x124]
    SAY("FAIL: a page without an entry")
no_page:
    CHECK("vector of a missing page", dword ptr [fault_vector], 14)
    CHECK("error of a missing page", dword ptr [fault_error], 0)
    VMI(GET_CR2)
    CHECK("CR2 of a missing page", eax, WINDOW + 0x124)
    call long_checks
    mov eax, DIRECTORY / 0x1000         # in use, not empty, and cloned by the guest itself
    mov edx, 2
    mov ecx, DIRECTORY_2 / 0x1000
    mov esi, dword ptr [DIRECTORY + 768 * 4]
    PUSH(256)
    PUSH(768)
    CALL_WINDOW(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    CHECK("entry after AllocatePage", dword ptr [DIRECTORY + 768 * 4], esi)
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 1
    CALL_WINDOW(RELEASE_PAGE)
    ret

# Entries of PAE, in memory that is not a page table.
long_checks:
    mov eax, 0x89abc067
    mov edx, 0x12
    lea ecx, [scratch]
    CALL_WINDOW(SET_PXE_LONG_UNFLAGGED)
    CHECK("low half of SetPxELong", dword ptr [scratch], 0x89abc067)
    CHECK("high half of SetPxELong", dword ptr [scratch + 4], 0x12)
    lea eax, [scratch]
    CALL_WINDOW(GET_PXE_LONG)
    CHECK("low half of GetPxELong", eax, 0x89abc067)
    CHECK("high half of GetPxELong", edx, 0x12)
    mov eax, 0x11223067
    mov edx, 0x34
    lea ecx, [scratch]
    CALL_WINDOW(SWAP_PXE_LONG_ATOMIC)
    CHECK("low half that SwapPxELongAtomic took", eax, 0x89abc067)
    CHECK("high half that SwapPxELongAtomic took", edx, 0x12)
    lea eax, [scratch]
    mov edx, 33
    CALL_WINDOW(TEST_AND_SET_PXE_LONG_BIT)
    CHECK("bit 33 was clear", eax, 0)
    lea eax, [scratch]
    mov edx, 6
    CALL_WINDOW(TEST_AND_CLEAR_PXE_LONG_BIT)
    CHECK("Dirty was set", eax, 0xffffffff)
    lea eax, [scratch]
    CALL_WINDOW(DEACTIVATE_PXE_LONG_ATOMIC)
    CHECK("low half that was deactivated", eax, 0x11223027)
    CHECK("high half that was deactivated", edx, 0x36)
    CHECK("low half after it", dword ptr [scratch], 0)
    CHECK("high half after it", dword ptr [scratch + 4], 0)
    ret

# Calls with arguments on the stack, as the macros of Linux make them: pushed in the translation.
fixmap_checks:
    lea eax, [gdt]
    mov edx, 18
    mov ecx, checks_word
    shl ecx, 16
    mov cx, 0xffff
    mov esi, checks_word
    shr esi, 16
    and esi, 0xff
    or esi, 0x00cff200
    VMI_STACK(WRITE_GDT_ENTRY, esi)
    mov eax, 0x93
    mov fs, ax
    CHECK("segment of WriteGDTEntry with its own push", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov eax, LDT
    mov edx, 1
    mov ecx, dword ptr [gdt + 8 * 18]
    mov esi, dword ptr [gdt + 8 * 18 + 4]
    VMI_STACK(WRITE_LDT_ENTRY, esi)
    mov eax, 0x0f
    mov fs, ax
    CHECK("segment of WriteLDTEntry with its own push", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov eax, 2
    mov edx, WINDOW
    mov ecx, 1
    VMI_STACK(SET_LINEAR_MAPPING, 0x12345)
    VMI(PAUSE)
    call apic_register_checks
    ret

# Registers of the local APIC by their linear addresses, with or without a ROM.
apic_register_checks:
    cmp dword ptr [rom], 0              # without, only where the hardware is
    jne apic_there
    cmp dword ptr [ring], 0
    je apic_there
    ret
apic_there:
    mov dword ptr [DIRECTORY + 0x3fb * 4], 0xfec0009b
    mov eax, APIC + 0x80
    mov edx, 0x50
    VMI(APIC_WRITE)
    mov eax, APIC + 0x80
    VMI(APIC_READ)
    CHECK("task priority", eax, 0x50)
    mov eax, APIC + 0x80
    mov edx, 0
    VMI(APIC_WRITE)
    ret
