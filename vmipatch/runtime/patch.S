# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Every site becomes a call.
#
# The ROM says for each call number how to reach it (VMI relocation types). First the calls inside
# thunks are aimed. Then each record's translation is copied over its site, if the ROM serves what it
# calls: the call of the record, and for Halt GetInterruptMask too, as its thunk asks whether
# interrupts are on (rewrite/translate.py; verify proves that no thunk makes another call). Nothing
# else runs this code yet: at boot there is one processor, and a module has not been entered. At CPL 0
# entry code keeps its instructions: with page-table isolation it runs where neither thunks nor ROM
# are mapped. What remains unprivileged and native in the kernel gets a hlt over its first byte when
# we are deprivileged, so that it faults instead of being silently wrong; the hypervisor is told the
# table.

# In:       EBP = job, EDI = ROM
# Out:      job_refused, job_first_refused
# Clobbers: EAX, EBX, EDX, ESI, flags
vmi_aim_thunks:
    mov esi, dword ptr [ebp + job_calls]
vmi_next_thunk:
    cmp esi, dword ptr [ebp + job_calls_end]
    jae vmi_thunks_aimed
    mov eax, dword ptr [esi + 4]            # call number
    mov ebx, dword ptr [esi]
    add ebx, dword ptr [ebp + job_added]
    cmp eax, merge_flags
    je vmi_merge
    call vmi_ask
    cmp dl, 1
    je vmi_aim_thunk
    inc dword ptr [ebp + job_refused]
    cmp dword ptr [ebp + job_refused], 1
    jne vmi_thunk_done
    mov eax, dword ptr [esi + 4]
    mov dword ptr [ebp + job_first_refused], eax
    jmp vmi_thunk_done
vmi_merge:                                  # lea r, [flags + eax - 0x200]
    mov eax, cs
    test al, 3
    jnz vmi_thunk_done
    or byte ptr [ebx + 2], 0x20             # at CPL 0: lea r, [flags]
    mov dword ptr [ebx + 3], 0
    jmp vmi_thunk_done
vmi_aim_thunk:
    sub eax, ebx
    sub eax, 5
    mov dword ptr [ebx + 1], eax
vmi_thunk_done:
    add esi, 8
    jmp vmi_next_thunk
vmi_thunks_aimed:
    ret

# In:       EBP = job, EDI = ROM
# Out:      job_patched, job_left
# Clobbers: EAX, EBX, ECX, EDX, ESI, flags
vmi_patch:
    mov esi, dword ptr [ebp + job_records]
vmi_next_record:
    cmp esi, dword ptr [ebp + job_records_end]
    jae vmi_records_done
    mov eax, dword ptr [esi]
    cmp eax, call_read_segment
    jne vmi_needs_rom
    mov edx, cs
    and edx, 3                              # a thunk alone, for an RPL of 1
    jmp vmi_asked
vmi_needs_rom:
    call vmi_ask
vmi_asked:
    mov ebx, dword ptr [esi + 4]
    add ebx, dword ptr [ebp + job_added]    # EBX = site
    mov ecx, cs
    test cl, 3
    jnz vmi_may_call
    mov ecx, ebx
    sub ecx, dword ptr [ebp + job_self]
    cmp ecx, fact_entry_text
    jb vmi_may_call
    cmp ecx, fact_entry_text_end
    jb vmi_leave
vmi_may_call:
    cmp byte ptr [esi + 15], 0xFF
    jne vmi_direct
    cmp dl, 1
    jne vmi_leave
    cmp dword ptr [esi], call_halt
    jne vmi_thunk_served
    mov eax, call_get_interrupt_mask
    call vmi_ask
    cmp dl, 1
    jne vmi_leave
vmi_thunk_served:
    push esi
    call vmi_copy
    pop esi
    mov eax, dword ptr [esi + 8]
    add eax, dword ptr [ebp + job_added]
    sub eax, ebx
    add dword ptr [ebx + 1], eax            # it was a call from the translation
    jmp vmi_count

vmi_direct:
    cmp dword ptr [esi], call_iret
    jne vmi_not_iret
    mov ecx, cs                             # at CPL 0 an IRET that faults must do so at its site,
    test cl, 3                              # or user space could bring the kernel down
    jz vmi_leave
vmi_not_iret:
    cmp dl, 1
    je vmi_aim                              # CALL_REL
    cmp dl, 2
    je vmi_aim                              # JUMP_REL
    cmp dl, 3
    jne vmi_leave                           # NONE
    movzx ecx, byte ptr [esi + 12]          # NOP
    mov edx, ebx
    call vmi_fill
    jmp vmi_count
vmi_aim:
    push edx
    push eax
    push esi
    call vmi_copy
    pop esi
    pop eax
    pop edx
    movzx ecx, byte ptr [esi + 15]
    add ecx, ebx                            # ECX = the call inside the translation
    cmp dl, 2
    jne vmi_displace
    mov byte ptr [ecx], 0xE9
vmi_displace:
    sub eax, ecx
    sub eax, 5
    mov dword ptr [ecx + 1], eax
vmi_count:
    inc dword ptr [ebp + job_patched]
    jmp vmi_record_done
vmi_leave:
    inc dword ptr [ebp + job_left]
vmi_record_done:
    add esi, 16
    jmp vmi_next_record
vmi_records_done:
    ret

# Copies the translation of the record at ESI over the site at EBX; the rest becomes nops.
# Clobbers: EAX, ECX, EDX, ESI
vmi_copy:
    push edi
    mov edi, ebx
    movzx ecx, byte ptr [esi + 13]
    movzx edx, byte ptr [esi + 12]
    mov esi, dword ptr [esi + 8]
    add esi, dword ptr [ebp + job_added]
    sub edx, ecx
    rep movsb
    mov ecx, edx
    mov edx, edi
    pop edi
# Falls through: writes ECX nops at EDX.
vmi_fill:
    test ecx, ecx
    jz vmi_filled
    mov byte ptr [edx], 0x90
    inc edx
    dec ecx
    jmp vmi_fill
vmi_filled:
    ret

# Asks the ROM at EDI for call EAX: EAX = address, DL = relocation type. Keeps all other registers.
vmi_ask:
    push ecx
    push ebx
    push esi
    push edi
    push ebp
    lea ecx, [edi + 0x88]
    call ecx
    pop ebp
    pop edi
    pop esi
    pop ebx
    pop ecx
    ret

# Tells a hypervisor where code of ours is, [EAX, EDX): its pushf and popf mean the real flags.
# In:       EDI = ROM
# Clobbers: EAX, EBX, ECX, EDX, flags
vmi_announce:
    push eax
    push edx
    mov eax, call_set_runtime
    call vmi_ask
    mov ebx, eax
    mov cl, dl
    pop edx
    pop eax
    cmp cl, 1
    jne vmi_announced
    call ebx
vmi_announced:
    ret

# Relocates the table of one-byte fallbacks, announces it, then puts a hlt over each entry.
# In:       EBP = job, EDI = ROM
# Clobbers: EAX, EBX, ECX, EDX, ESI, flags
vmi_fall_back:
    mov esi, dword ptr [ebp + job_fallback]
    mov ecx, dword ptr [ebp + job_fallback_end]
    cmp esi, ecx
    jae vmi_fell_back
    mov eax, call_set_fallback
    call vmi_ask
    cmp dl, 1
    jne vmi_fell_back
    mov ebx, eax
    mov edx, dword ptr [ebp + job_added]
vmi_relocate_fallback:
    add dword ptr [esi], edx
    add esi, 8
    cmp esi, ecx
    jb vmi_relocate_fallback
    mov eax, dword ptr [ebp + job_fallback]
    mov edx, ecx
    sub edx, eax
    shr edx, 3
    call ebx
    mov esi, dword ptr [ebp + job_fallback]
vmi_next_fallback:
    mov ebx, dword ptr [esi]
    mov byte ptr [ebx], 0xF4
    add esi, 8
    cmp esi, dword ptr [ebp + job_fallback_end]
    jb vmi_next_fallback
vmi_fell_back:
    ret
