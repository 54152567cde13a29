# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where the callers of start_kernel arrive.
#
# In:    what the kernel passes to start_kernel; interrupts are off, paging is on, one processor
# Out:   the same; start_kernel is entered by a jump, as if its caller had called it
# Keeps: every general register; if the ROM switched, CS and SS have another RPL
#
# Throughout: EBP = run-time address minus linked address (what KASLR added), EDI = the ROM.
# All addresses in this code are linked ones; the words are not in the relocation list.

vmi_start:
    pushad
    cld
    call vmi_here
vmi_here:
    pop ebp
    sub ebp, vmi_here

    call vmi_find_rom               # EDI = ROM or 0, EAX = message
    test edi, edi
    jz vmi_native
    call vmi_check_kernel           # EAX = message or 0
    test eax, eax
    jnz vmi_native

    lea ecx, [edi + 0x80]
    push ebp
    push edi
    call ecx                        # VMI_Init: EAX = 0, the kernel runs paravirtually now
    pop edi
    pop ebp
    test eax, eax
    mov eax, vmi_said_init
    jnz vmi_native

    call vmi_bring_in
    mov dword ptr [ebp + vmi_rom], edi
    lea eax, [ebp + fact_text]
    lea edx, [ebp + fact_text_end]
    call vmi_announce
    mov eax, fact_keep_calls
    test eax, eax
    jz vmi_calls_kept
    mov byte ptr [ebp + eax], fact_keep_value   # what the kernel copies over them are no sites
vmi_calls_kept:

    mov eax, ebp
    sub esp, job_len
    mov ebp, esp
    mov dword ptr [ebp + job_self], eax
    mov dword ptr [ebp + job_added], eax
    lea ecx, [eax + fact_annotation]
    mov dword ptr [ebp + job_records], ecx
    lea ecx, [eax + fact_annotation_end]
    mov dword ptr [ebp + job_records_end], ecx
    lea ecx, [eax + fact_thunk_calls]
    mov dword ptr [ebp + job_calls], ecx
    lea ecx, [eax + fact_thunk_calls_end]
    mov dword ptr [ebp + job_calls_end], ecx
    lea ecx, [eax + fact_fallback]
    mov dword ptr [ebp + job_fallback], ecx
    lea ecx, [eax + fact_fallback_end]
    mov dword ptr [ebp + job_fallback_end], ecx
    xor eax, eax
    mov dword ptr [ebp + job_refused], eax
    mov dword ptr [ebp + job_first_refused], eax
    mov dword ptr [ebp + job_patched], eax
    mov dword ptr [ebp + job_left], eax
    call vmi_aim_thunks
    call vmi_patch
    mov eax, cs
    test al, 3
    jz vmi_patched                  # still at CPL 0: the instruction does what it says
    call vmi_fall_back
vmi_patched:
    jmp vmi_serialized
vmi_serialized:
    mov ecx, dword ptr [ebp + job_patched]
    mov edx, dword ptr [ebp + job_left]
    add edx, ecx                    # all that have a record
    push dword ptr [ebp + job_first_refused]
    push dword ptr [ebp + job_refused]
    mov ebp, dword ptr [ebp + job_self]
    mov eax, vmi_said_totals
    call vmi_log
    pop edx                         # how many calls inside thunks were refused
    pop ecx                         # the first one
    add esp, job_len
    test edx, edx
    jz vmi_done
    mov eax, vmi_said_refused
    call vmi_log
    jmp vmi_done

vmi_native:
    call vmi_log
vmi_done:
    popad
    jmp fact_start_kernel

# The ROM in use, 0 while the kernel is native; written once, before text becomes read-only.
vmi_rom:
    .long 0
