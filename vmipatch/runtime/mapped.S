# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Is the place of option ROMs mapped? In a kernel that is not Linux it need not be, and looking for a
# ROM there would be a fault before the kernel has an IDT.
#
# Page tables are looked at that lie in the kernel's image, which is mapped. Of others nothing is
# known here: kernels that have them elsewhere map memory as a whole.
#
# In:       EBP = relocation
# Out:      as vmi_find_rom; EDI = 0 and EAX = linked address of a message if it is not mapped
# Clobbers: EAX, EBX, ECX, EDX, ESI, flags

vmi_find_mapped_rom:
    xor ebx, ebx                    # with CPUID, CR4 says whether entries have 8 bytes
    pushfd
    pop eax
    mov ecx, eax
    xor eax, 0x200000
    push eax
    popfd
    pushfd
    pop eax
    cmp eax, ecx
    je vmi_tables_known
    push ecx
    popfd
    mov ebx, cr4
vmi_tables_known:
    mov eax, cr3
    mov ecx, 32                     # pages from 0xC0000 to 0xE0000
    test bl, 0x20
    jnz vmi_entries_of_8
    mov edx, rom_directory_off
    call vmi_next_table
    mov edx, rom_table_off
    call vmi_next_table_of_pages
vmi_next_page:
    test byte ptr [esi], 1
    jz vmi_not_mapped
    add esi, 4
    loop vmi_next_page
    jmp vmi_find_rom

vmi_entries_of_8:
    and eax, 0xFFFFFFE0
    mov edx, rom_pointer_off
    call vmi_next_table_at
    mov edx, rom_directory_off_8
    call vmi_next_table
    mov edx, rom_table_off_8
    call vmi_next_table_of_pages
vmi_next_page_of_8:
    test byte ptr [esi], 1
    jz vmi_not_mapped
    add esi, 8
    loop vmi_next_page_of_8
    jmp vmi_find_rom

# EAX = entry of a table, EDX = offset of an entry in the table that it points to. Out: ESI = linked
# address of that entry, EAX = its low word; does not return if nothing is there, or nothing is known
vmi_next_table_of_pages:
    test al, 0x80
    jnz vmi_is_mapped               # a large page
vmi_next_table:
    and eax, 0xFFFFF000
vmi_next_table_at:
    cmp eax, fact_image_pa
    jb vmi_is_mapped
    cmp eax, fact_image_end_pa
    jae vmi_is_mapped
    lea esi, [eax + edx + fact_page_offset]
    mov eax, dword ptr [esi]
    test al, 1
    jz vmi_not_mapped_here
    ret
vmi_is_mapped:
    pop eax
    jmp vmi_find_rom
vmi_not_mapped_here:
    pop eax
vmi_not_mapped:
    mov eax, vmi_said_not_mapped
    xor edi, edi
    ret

vmi_said_not_mapped:
    .asciz "\0016vmi: the place of ROMs is not mapped, native\n"
