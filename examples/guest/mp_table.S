# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Which processors does the machine have? What the MP table says that its BIOS leaves.

#define MP_FLOATING 0x5f504d5f          # "_MP_" (MultiProcessor Specification 1.4, chapter 4)
#define BIOS_BASE 0xc00f0000
#define BIOS_END 0xc0100000

SECTION(.text)

# How many processors the MP table has. out: EAX; the APIC of the second in second_apic_id;
# clobbers ECX, EDX, ESI, and EBX by CPUID
FUNC(count_processors)
    cmp dword ptr [has_cpuid], 0
    je .Lone_processor
    mov eax, 1
    cpuid
    test edx, 0x200
    jz .Lone_processor
    mov esi, BIOS_BASE
.Lsearch_table:
    cmp dword ptr [esi], MP_FLOATING
    je .Ltable_found
    add esi, 16
    cmp esi, BIOS_END
    jb .Lsearch_table
.Lone_processor:
    mov eax, 1
    ret
.Ltable_found:
    mov esi, [esi + 4]
    test esi, esi
    jz .Lone_processor
    cmp esi, 0x100000
    jae .Lone_processor
    add esi, PAGE_OFFSET
    movzx ecx, word ptr [esi + 34]
    add esi, 44
    xor eax, eax
    jecxz .Lcounted
.Lnext_mp_entry:
    mov edx, 8
    cmp byte ptr [esi], 0
    jne .Lmp_entry_done
    mov edx, 20
    test byte ptr [esi + 3], 1
    jz .Lmp_entry_done
    inc eax
    test byte ptr [esi + 3], 2
    jnz .Lmp_entry_done
    movzx ebx, byte ptr [esi + 1]
    mov [second_apic_id], ebx
.Lmp_entry_done:
    add esi, edx
    loop .Lnext_mp_entry
.Lcounted:
    ret
END(count_processors)

SECTION(.bss)

OBJECT(second_apic_id, 4)
    .skip 4
END(second_apic_id)
