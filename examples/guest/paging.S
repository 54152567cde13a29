# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Which pages the guest maps: the final directory, demand pages of ring 3, and experiments.

SECTION(.init.text)

# Build swapper_pg_dir (lowmem, vmalloc area, user area; no identity map) and load it.
# Clobbers EAX, ECX, ESI, EDI.
FUNC(paging_init)
    mov esi, initial_page_table + 768 * 4
    mov edi, swapper_pg_dir + 768 * 4
    mov ecx, 256
    rep movsd
    mov eax, vmalloc_page_table - PAGE_OFFSET + 3
    mov [swapper_pg_dir + 832 * 4], eax
    mov eax, user_page_table - PAGE_OFFSET + 7
    mov [swapper_pg_dir + 32 * 4], eax
    mov eax, user_code_page - PAGE_OFFSET + 7
    mov [user_page_table + 0x48 * 4], eax
    mov eax, user_stack_page - PAGE_OFFSET + 7
    mov [user_page_table + 0x4a * 4], eax
    mov eax, swapper_pg_dir - PAGE_OFFSET
    mov cr3, eax
    ret
END(paging_init)

SECTION(.text)

# Give the user a page of zeros at CR2, which lies in the demand region.
# in: EAX = frame, EDX = faulting address; clobbers EAX, ECX, EDX
FUNC(map_demand_page)
    push edi
    sub edx, DEMAND_BASE
    and edx, 0xfffff000
    lea edi, [edx + demand_pages]
    shr edx, 10
    lea eax, [edi - PAGE_OFFSET + 7]
    mov [user_page_table + 0x400 + edx], eax
    xor eax, eax
    mov ecx, 1024
    rep stosd
    inc dword ptr [demand_count]
    pop edi
    ret
END(map_demand_page)

# Set the first entry of the vmalloc area. in: EAX = entry; all registers are kept
FUNC(set_vmalloc_entry)
    mov [vmalloc_page_table], eax
    ret
END(set_vmalloc_entry)

# INVLPG, CR3 reload, write protection in the kernel, CR2 and error codes.
FUNC(observe_pages)
    mov dword ptr [page_one], 0x1111
    mov dword ptr [page_two], 0x2222
    mov eax, page_one - PAGE_OFFSET + 3
    call set_vmalloc_entry
    mov eax, VMALLOC_BASE
    invlpg [eax]
    mov ebx, [VMALLOC_BASE]
    mov eax, page_two - PAGE_OFFSET + 3
    call set_vmalloc_entry
    invlpg [VMALLOC_BASE]
    mov ecx, [VMALLOC_BASE]
    REPORT("invlpg: first page %x second page %x", ebx, ecx)

    mov eax, page_one - PAGE_OFFSET + 3
    call set_vmalloc_entry
    mov eax, cr3
    mov cr3, eax
    mov ecx, [VMALLOC_BASE]
    mov esi, swapper_pg_dir - PAGE_OFFSET
    xor ebx, ebx
    cmp eax, esi
    sete bl
    REPORT("cr3: reload shows page %x, reads as loaded: %y", ecx, ebx)

    mov eax, page_one - PAGE_OFFSET + 1
    call set_vmalloc_entry
    invlpg [VMALLOC_BASE]
    mov eax, NO_FAULT
    EX_NEXT mov dword ptr [VMALLOC_BASE], 5
    REPORT("page: kernel write to a read-only page: vector %x error %x", eax, [last_error])

    xor eax, eax
    call set_vmalloc_entry
    invlpg [VMALLOC_BASE]
    mov eax, NO_FAULT
    EX_NEXT mov ecx, [VMALLOC_BASE + 0x123]
    REPORT("page: kernel read: vector %x error %x cr2 %x", eax, [last_error], [last_cr2])
    mov eax, NO_FAULT
    EX_NEXT mov [VMALLOC_BASE + 0x456], ecx
    REPORT("page: kernel write: vector %x error %x cr2 %x", eax, [last_error], [last_cr2])
    mov eax, NO_FAULT
    EX_NEXT mov ecx, [8]
    REPORT("page: null pointer: vector %x error %x cr2 %x", eax, [last_error], [last_cr2])

    mov eax, 0x5a5a0
    mov cr2, eax
    mov eax, cr2
    REPORT("cr2: reads back %x", eax)
    ret
END(observe_pages)

SECTION(.bss)

OBJECT(swapper_pg_dir, 4096)
    .skip 4096
END(swapper_pg_dir)

OBJECT(vmalloc_page_table, 4096)
    .skip 4096
END(vmalloc_page_table)

OBJECT(user_page_table, 4096)
    .skip 4096
END(user_page_table)

OBJECT(user_code_page, 4096)
    .skip 4096
END(user_code_page)

OBJECT(user_stack_page, 4096)
    .skip 4096
END(user_stack_page)

OBJECT(demand_pages, 4096)
    .skip 16384
END(demand_pages)

OBJECT(page_one, 4096)
    .skip 4096
END(page_one)

OBJECT(page_two, 4096)
    .skip 4096
END(page_two)

OBJECT(demand_count, 4)
    .skip 4
END(demand_count)
