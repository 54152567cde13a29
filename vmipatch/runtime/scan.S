# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where is the first instruction that is silently wrong at CPL 1?
#
# Code is walked from end to end; vmipatch/isa/lengths.py makes the tables, from the opcode maps of
# Intel's manual and our own table of sensitive forms. A byte of a map:
#
#   bits 0-3  kind of the immediate (vmi_immediates: its bytes, for 32 and 16 bits)
#   bit 4     ModRM follows                   bit 6  unprivileged, if vmi_groups says so for ModRM
#   bit 5     unprivileged                    bit 7  a prefix
#
# In:       ESI, EDX = begin and end of the code, EBP = job
# Out:      EAX = address of the instruction, 0 if missing
# Clobbers: EBX, ECX, ESI, EDI, flags

.set kind_offset, 5         # of mov between memory and accumulator: as long as an address
.set kind_group_byte, 7     # f6, f7: an immediate for ModRM.reg 0 and 1 only
.set kind_group_word, 8
.set kind_map, 9            # 0f 38: an opcode follows, then ModRM
.set kind_map_byte, 10      # 0f 3a: the same, with an immediate byte

vmi_scan:
    push ebp
    push edx
    mov ebp, dword ptr [ebp + job_self]
vmi_next_instruction:
    cmp esi, dword ptr [esp]
    jae vmi_none_found
    push esi                                # [esp]: the instruction, [esp + 4]: the end
    xor ecx, ecx                            # CL = 1: 16-bit operand, CH = 1: 16-bit address
vmi_next_prefix:
    call vmi_take
    mov bl, byte ptr [ebp + eax + vmi_one_byte]
    test bl, 0x80
    jz vmi_opcode
    cmp al, 0x66
    jne vmi_not_operand_size
    mov cl, 1
vmi_not_operand_size:
    cmp al, 0x67
    jne vmi_next_prefix
    mov ch, 1
    jmp vmi_next_prefix

vmi_opcode:
    mov edi, eax                            # EDI = opcode, plus 256 for the map of 0f
    cmp al, 0x0F
    je vmi_two_bytes
    cmp al, 0xC5
    je vmi_maybe_vex2
    cmp al, 0xC4
    je vmi_maybe_vex3
    cmp al, 0x62
    je vmi_maybe_evex
vmi_have_kind:
    test bl, 0x20
    jnz vmi_scan_hit
    xor eax, eax
    test bl, 0x10
    jz vmi_immediate
    call vmi_take                           # EAX = ModRM
    test bl, 0x40
    jz vmi_no_group
    call vmi_match_group
    jc vmi_scan_hit
vmi_no_group:
    call vmi_skip_operand
vmi_immediate:
    and ebx, 15
    cmp bl, kind_group_byte
    jb vmi_skip_immediate
    cmp bl, kind_group_word
    ja vmi_skip_immediate
    test al, 0x30                           # ModRM.reg above 1: no immediate
    jnz vmi_next
vmi_skip_immediate:
    mov al, cl
    cmp bl, kind_offset
    jne vmi_immediate_len
    mov al, ch
vmi_immediate_len:
    and eax, 1
    lea eax, [eax + ebx * 2]
    movzx eax, byte ptr [ebp + eax + vmi_immediates]
    add esi, eax
vmi_next:
    add esp, 4
    jmp vmi_next_instruction

vmi_two_bytes:
    call vmi_take
    lea edi, [eax + 256]
    mov bl, byte ptr [ebp + eax + vmi_two_byte]
    mov bh, bl
    and bh, 15
    cmp bh, kind_map
    jb vmi_have_kind
    call vmi_take                           # the third byte of the opcode
    jmp vmi_have_kind

# VEX and EVEX: in 32-bit code their second byte would be a ModRM that names a register. None of
# the instructions that they encode is sensitive; the map tells what follows the opcode.
vmi_maybe_vex2:
    call vmi_is_vex
    jb vmi_have_kind
    call vmi_take
    mov edi, 1
    jmp vmi_vex
vmi_maybe_vex3:
    call vmi_is_vex
    jb vmi_have_kind
    call vmi_take
    mov edi, eax
    and edi, 31
    call vmi_take
    jmp vmi_vex
vmi_maybe_evex:
    call vmi_is_vex
    jb vmi_have_kind
    call vmi_take
    mov edi, eax
    and edi, 7
    call vmi_take
    call vmi_take
vmi_vex:
    call vmi_take                           # the opcode, in map EDI
    mov bl, 0x10
    cmp edi, 3
    je vmi_vex_byte
    cmp edi, 1
    jne vmi_no_vex_byte
    mov bl, byte ptr [ebp + eax + vmi_two_byte]
    and bl, 0x1F
    jmp vmi_no_vex_byte
vmi_vex_byte:
    mov bl, 0x11
vmi_no_vex_byte:
    jmp vmi_have_kind

vmi_none_found:
    xor eax, eax
    jmp vmi_scanned
vmi_scan_hit:
    pop eax
vmi_scanned:
    pop edx
    pop ebp
    ret

# CF is set unless the byte at ESI can belong to VEX.
vmi_is_vex:
    cmp esi, dword ptr [esp + 8]
    jae vmi_no_vex
    cmp byte ptr [esi], 0xC0
    ret
vmi_no_vex:
    stc
    ret

# EAX = the next byte; 0 after the end. Called with the instruction and the end on the stack.
vmi_take:
    xor eax, eax
    cmp esi, dword ptr [esp + 8]
    jae vmi_taken
    mov al, byte ptr [esi]
vmi_taken:
    inc esi
    ret

# CF is set if the opcode EDI is unprivileged with ModRM AL. Keeps AL, BL, ECX.
# A row: u16 opcode, u8 values of ModRM.reg with a memory operand, u8 those with a register.
vmi_match_group:
    push ebx
    push ecx
    movzx ecx, al
    shr ecx, 3
    and ecx, 7
    mov ebx, vmi_groups
    add ebx, ebp
vmi_next_group:
    cmp word ptr [ebx], 0xFFFF
    je vmi_no_match
    cmp word ptr [ebx], di
    je vmi_matched
    add ebx, 4
    jmp vmi_next_group
vmi_matched:
    cmp al, 0xC0
    movzx ebx, word ptr [ebx + 2]
    jb vmi_of_memory
    mov bl, bh
vmi_of_memory:
    bt ebx, ecx
    jmp vmi_group_told
vmi_no_match:
    clc
vmi_group_told:
    pop ecx
    pop ebx
    ret

# Steps over SIB and displacement of ModRM AL. Keeps AL, BL, ECX.
vmi_skip_operand:
    push eax
    push ebx
    mov bl, al
    mov bh, al
    shr bl, 6
    and bh, 7
    cmp bl, 3
    je vmi_operand_done
    test ch, ch
    jnz vmi_narrow_operand
    cmp bh, 4
    jne vmi_no_sib
    mov bh, 8                               # unlike any base without SIB
    cmp esi, dword ptr [esp + 16]
    jae vmi_no_base
    mov bh, byte ptr [esi]
    and bh, 7
vmi_no_base:
    inc esi
vmi_no_sib:
    cmp bl, 1
    je vmi_byte_displacement
    jb vmi_maybe_absolute
    add esi, 4
    jmp vmi_operand_done
vmi_maybe_absolute:
    cmp bh, 5
    jne vmi_operand_done
    add esi, 4
    jmp vmi_operand_done
vmi_byte_displacement:
    inc esi
    jmp vmi_operand_done
vmi_narrow_operand:
    cmp bl, 1
    je vmi_byte_displacement
    ja vmi_word_displacement
    cmp bh, 6
    jne vmi_operand_done
vmi_word_displacement:
    add esi, 2
vmi_operand_done:
    pop ebx
    pop eax
    ret

