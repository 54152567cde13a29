# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where the callers of module_finalize arrive: a module is in its place, linked, and has not run.
#
# The module loader calls module_finalize(hdr, sechdrs, me) for each module, in every Linux from 2.6
# on (kernel/module.c; include/linux/moduleloader.h), with the section headers of the file whose
# addresses are those in memory. That is all that is used of the kernel here, besides the place of
# the name in struct module, after an enum and a list head.
#
# A kernel that runs natively goes on at once. Otherwise:
# - a module with annotations is patched, after what the kernel patches itself; it is refused if
#   it holds instructions that are silently wrong at CPL 1 and have no call;
# - one without is refused if its code holds any such instruction. At CPL 0 all of it is harmless.
#
# In:    EAX = hdr, EDX = sechdrs, ECX = me
# Out:   EAX = 0, or a negative error number
# Keeps: EBX, ESI, EDI, EBP

.set section_len, 40        # Elf32_Shdr: sh_name 0, sh_flags 8, sh_addr 12, sh_offset 16, sh_size 20
.set name_off, 12           # of struct module

# A frame at EBP: the job, and what the caller gave.
.set frame_hdr, job_len
.set frame_sections, job_len + 4
.set frame_module, job_len + 8
.set frame_init, job_len + 12           # records of init code, and their end
.set frame_init_end, job_len + 16
.set frame_text, job_len + 20           # thunks
.set frame_text_end, job_len + 24
.set frame_len, job_len + 28

vmi_module:
    push ebp
    call vmi_in_module
vmi_in_module:
    pop ebp
    sub ebp, vmi_in_module
    cmp dword ptr [ebp + vmi_rom], 0
    jne vmi_module_checked
    pop ebp
    jmp fact_module_finalize

vmi_module_checked:
    push ebx
    push esi
    push edi
    mov edi, dword ptr [ebp + vmi_rom]
    mov ebx, ebp
    sub esp, frame_len
    mov ebp, esp
    push edi
    mov edi, ebp
    push ecx
    push eax
    mov ecx, frame_len / 4
    xor eax, eax
    cld
    rep stosd
    pop eax
    pop ecx
    pop edi
    mov dword ptr [ebp + job_self], ebx
    mov dword ptr [ebp + frame_hdr], eax
    mov dword ptr [ebp + frame_sections], edx
    mov dword ptr [ebp + frame_module], ecx

    mov eax, vmi_name_records
    call vmi_find_section
    jc vmi_unknown
    mov dword ptr [ebp + job_records], eax
    mov dword ptr [ebp + job_records_end], edx
    mov eax, vmi_name_init_records
    call vmi_find_section
    mov dword ptr [ebp + frame_init], eax
    mov dword ptr [ebp + frame_init_end], edx
    mov eax, vmi_name_calls
    call vmi_find_section
    mov dword ptr [ebp + job_calls], eax
    mov dword ptr [ebp + job_calls_end], edx
    mov eax, vmi_name_text
    call vmi_find_section
    mov dword ptr [ebp + frame_text], eax
    mov dword ptr [ebp + frame_text_end], edx
    mov eax, vmi_name_fallback
    call vmi_find_section
    call vmi_is_deprivileged
    jz vmi_may_load
    cmp eax, edx
    je vmi_may_load
    mov eax, dword ptr [eax]
    mov edx, vmi_said_unsafe
    jmp vmi_refuse_module
vmi_may_load:
    call vmi_aim_thunks
    call vmi_is_deprivileged
    jz vmi_all_aimed
    cmp dword ptr [ebp + job_refused], 0
    mov eax, dword ptr [ebp + job_first_refused]
    mov edx, vmi_said_unserved
    jne vmi_refuse_module
    mov eax, dword ptr [ebp + frame_text]
    mov edx, dword ptr [ebp + frame_text_end]
    cmp eax, edx
    je vmi_all_aimed
    call vmi_announce
vmi_all_aimed:
    call vmi_finalize
    test eax, eax
    js vmi_module_done
    call vmi_patch
    mov eax, dword ptr [ebp + frame_init]
    mov dword ptr [ebp + job_records], eax
    mov eax, dword ptr [ebp + frame_init_end]
    mov dword ptr [ebp + job_records_end], eax
    call vmi_patch
    mov eax, vmi_said_module
    mov edx, dword ptr [ebp + job_patched]
    call vmi_log_module
    xor eax, eax
vmi_module_done:
    add esp, frame_len
    pop edi
    pop esi
    pop ebx
    pop ebp
    ret

# No annotations: no code of it may hold what is silently wrong at CPL 1.
vmi_unknown:
    call vmi_is_deprivileged
    jz vmi_as_ever
    mov edi, dword ptr [ebp + frame_hdr]
    movzx edi, word ptr [edi + 48]          # e_shnum
    mov ebx, dword ptr [ebp + frame_sections]
vmi_next_code:
    dec edi
    js vmi_as_ever
    mov eax, dword ptr [ebx + 8]
    and eax, 6
    cmp eax, 6                              # SHF_ALLOC, SHF_EXECINSTR
    jne vmi_no_code
    mov esi, dword ptr [ebx + 12]
    mov edx, dword ptr [ebx + 20]
    add edx, esi
    push ebx
    push edi
    call vmi_scan
    pop edi
    pop ebx
    mov edx, vmi_said_unrewritten
    test eax, eax
    jnz vmi_refuse_module
vmi_no_code:
    add ebx, section_len
    jmp vmi_next_code
vmi_as_ever:
    call vmi_finalize
    jmp vmi_module_done

# EAX = address of an instruction or number of a call, EDX = message
vmi_refuse_module:
    xchg eax, edx
    call vmi_log_module
    mov eax, 0xFFFFFFF8                     # -ENOEXEC
    jmp vmi_module_done

# Calls the kernel's own module_finalize: EAX = what it says. Keeps EBX, ESI, EDI, EBP.
vmi_finalize:
    mov eax, dword ptr [ebp + frame_hdr]
    mov edx, dword ptr [ebp + frame_sections]
    mov ecx, dword ptr [ebp + frame_module]
    call fact_module_finalize
    ret

# EAX = message with the name of the module, then EDX, as arguments. Keeps EBP, EDI.
vmi_log_module:
    push edi
    push ebp
    mov ecx, dword ptr [ebp + frame_module]
    add ecx, name_off
    mov ebp, dword ptr [ebp + job_self]
    call vmi_log
    pop ebp
    pop edi
    ret

# ZF is clear at CPL 1 and above. Keeps all registers.
vmi_is_deprivileged:
    push eax
    mov eax, cs
    test al, 3
    pop eax
    ret

# The section with the name at linked address EAX: EAX, EDX = where it begins and ends in memory;
# with CF set both are 0, and there is no such section. Clobbers ECX.
vmi_find_section:
    push ebx
    push esi
    push edi
    add eax, dword ptr [ebp + job_self]
    mov ebx, dword ptr [ebp + frame_hdr]
    movzx ecx, word ptr [ebx + 50]          # e_shstrndx
    imul ecx, ecx, section_len
    add ecx, dword ptr [ebp + frame_sections]
    mov edx, dword ptr [ecx + 16]
    add edx, ebx                            # EDX = the names
    movzx ecx, word ptr [ebx + 48]
    mov ebx, dword ptr [ebp + frame_sections]
vmi_next_section:
    dec ecx
    js vmi_no_section
    mov esi, eax
    mov edi, dword ptr [ebx]
    add edi, edx
vmi_next_letter:
    push eax
    lodsb
    cmp al, byte ptr [edi]
    jne vmi_other_section
    inc edi
    test al, al
    pop eax
    jnz vmi_next_letter
    mov eax, dword ptr [ebx + 12]
    mov edx, dword ptr [ebx + 20]
    add edx, eax
    clc
    jmp vmi_section_found
vmi_other_section:
    pop eax
    add ebx, section_len
    jmp vmi_next_section
vmi_no_section:
    xor eax, eax
    xor edx, edx
    stc
vmi_section_found:
    pop edi
    pop esi
    pop ebx
    ret

vmi_name_records:
    .asciz ".vmi.annotation"
vmi_name_init_records:
    .asciz ".vmi.annotation.init"
vmi_name_calls:
    .asciz ".vmi.thunks"
vmi_name_text:
    .asciz ".vmi.text"
vmi_name_fallback:
    .asciz ".vmi.fallback"
