# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Page tables, by the calls of API 3.

memory_checks:
    mov eax, 0
    mov edx, PAGE_OFFSET
    mov ecx, 0x337fe                    # more than there is, as Linux says
    PUSH(0)
    VMI(SET_LINEAR_MAPPING)
    lea esp, [esp + 4]
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 0x41
    mov ecx, 0
    PUSH(0)
    PUSH(0)
    VMI(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    mov dword ptr [FRAME_A], 0xaaaa
    mov dword ptr [FRAME_B], 0xbbbb
    mov eax, FRAME_A + 7
    mov edx, PAGE_TABLE
    mov ecx, WINDOW + 0x11              # of the current address space
    VMI(SET_PXE)
    CHECK("page of SetPxE", dword ptr [WINDOW], 0xaaaa)
    mov eax, FRAME_B + 7
    mov edx, PAGE_TABLE
    mov ecx, WINDOW + 0x11
    VMI(SET_PXE)
    mov eax, WINDOW
    VMI(INVAL_PAGE)
    CHECK("page after InvalPage", dword ptr [WINDOW], 0xbbbb)
    mov dword ptr [PAGE_TABLE], FRAME_A + 7
    mov eax, PAGE_TABLE
    mov edx, WINDOW + 0x11
    VMI(UPDATE_PXE)
    mov eax, 1
    VMI(FLUSH_TLB)
    CHECK("page after FlushTLB", dword ptr [WINDOW], 0xaaaa)
    mov eax, FRAME_B + 0x107            # a global one
    mov edx, PAGE_TABLE
    mov ecx, 1
    VMI(SET_PXE)
    mov eax, 3
    VMI(FLUSH_TLB)
    CHECK("page after a global FlushTLB", dword ptr [WINDOW], 0xbbbb)
    mov eax, 1
    VMI(SET_LAZY_MODE)
    mov eax, 0
    mov edx, PAGE_TABLE
    mov ecx, 1
    VMI(SET_PXE)
    mov eax, 0
    VMI(SET_LAZY_MODE)
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
    mov eax, 0x89abc067
    mov edx, 0x12
    lea ecx, [scratch]
    PUSH(0x11)
    VMI(SET_PXE_LONG)
    lea esp, [esp + 4]
    CHECK("low half of SetPxELong", dword ptr [scratch], 0x89abc067)
    CHECK("high half of SetPxELong", dword ptr [scratch + 4], 0x12)
    lea eax, [scratch]
    mov edx, 0x11
    VMI(UPDATE_PXE_LONG)
    mov eax, 0                          # a clear, which never shows a half
    mov edx, 0
    lea ecx, [scratch]
    PUSH(0x11)
    VMI(SET_PXE_LONG)
    lea esp, [esp + 4]
    CHECK("low half of a clear", dword ptr [scratch], 0)
    CHECK("high half of a clear", dword ptr [scratch + 4], 0)
    mov esi, dword ptr [DIRECTORY + 768 * 4]
    mov eax, DIRECTORY / 0x1000         # in use, not empty, and cloned by the guest itself
    mov edx, 0x62
    mov ecx, DIRECTORY_2 / 0x1000
    PUSH(256)
    PUSH(768)
    VMI(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    CHECK("entry after AllocatePage", dword ptr [DIRECTORY + 768 * 4], esi)
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 0x41
    VMI(RELEASE_PAGE)
    ret

# Linux has its fixed mappings below the hole, wherever the ROM says that it begins.
fixmap_checks:
    mov esi, dword ptr [rom]
    test esi, esi
    jz no_hole
    mov esi, dword ptr [esi + 0x10]
no_hole:
    sub esi, 0x2000
    mov edx, esi
    shr edx, 22
    lea edx, [4*edx + DIRECTORY]
    mov eax, FIX_TABLE + 7
    mov ecx, 2
    VMI(SET_PXE)
    mov edx, esi
    shr edx, 12
    and edx, 0x3ff
    lea edx, [4*edx + FIX_TABLE]
    mov eax, FRAME_A + 0x163
    lea ecx, [esi + 0x11]
    VMI(SET_PXE)
    mov eax, esi
    VMI(INVAL_PAGE)
    CHECK("page below the hole", dword ptr [esi], 0xaaaa)
    ret
