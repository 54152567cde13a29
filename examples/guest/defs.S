# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Which constants and macros the guest's sources share: selectors, register frame, task struct.

#define PAGE_OFFSET 0xc0000000
#define LOWMEM_TABLES 8                 # page tables: 32 MiB of lowmem

# Selectors as in Linux for i386; each kernel selector is RPL 0. A paravirtual kernel may see
# RPL 1 in CS and SS, so whatever prints a kernel selector masks its RPL.
#define KERNEL_CS 0x60
#define KERNEL_DS 0x68
#define USER_CS 0x73
#define USER_DS 0x7b
#define TSS_SEL 0x80
#define LDT_SEL 0x88
#define SMALL_SEL 0x93                  # data, DPL 3, limit 0x123
#define ABSENT_SEL 0x98                 # data, not present
#define TLS_SEL 0x33                    # written again and again, as for set_thread_area
#define PERCPU_SEL 0xd8
#define LDT_DATA_SEL 0x07               # LDT entry 0
#define BEYOND_SEL 0x100                # after the last entry of the GDT

# The frame that SAVE_ALL leaves.
#define REG_BX 0
#define REG_CX 4
#define REG_DX 8
#define REG_AX 24
#define REG_DS 28
#define REG_VECTOR 44
#define REG_ERROR 48
#define REG_IP 52
#define REG_CS 56
#define REG_FLAGS 60
#define REG_SP 64

# struct task; the current one is at fs:[CPU_CURRENT].
#define TASK_SP 0
#define TASK_SP0 4
#define TASK_NEXT 8
#define CPU_CURRENT 0
#define CPU_PREEMPT 4

#define FLAG_TF 0x100
#define FLAG_IF 0x200
#define CR0_TS 8
#define CR4_TSD 4

#define USER_BASE 0x08048000
#define USER_STACK 0x0804b000           # end of a page
#define DEMAND_BASE 0x08100000          # four pages that appear when touched
#define DEMAND_END 0x08104000
#define VMALLOC_BASE 0xd0000000

#define NO_FAULT 0xff                   # in the place of a vector

# Save all registers after vector and error code; kernel segments in DS, ES, FS. Clobbers EDX.
.macro SAVE_ALL
    cld
    push gs
    push fs
    push es
    push ds
    push eax
    push ebp
    push edi
    push esi
    push edx
    push ecx
    push ebx
    mov edx, USER_DS
    mov ds, edx
    mov es, edx
    mov edx, PERCPU_SEL
    mov fs, edx
    xor edx, edx
    mov gs, edx
.endm

# Take all registers back and drop vector and error code.
.macro RESTORE_ALL
    pop ebx
    pop ecx
    pop edx
    pop esi
    pop edi
    pop ebp
    pop eax
    pop ds
    pop es
    pop fs
    pop gs
    lea esp, [esp + 8]
.endm

# reg = EFLAGS
.macro READ_FLAGS reg
    pushfd
    pop \reg
.endm

# reg = 1 if the interrupt flag is set, else 0; clobbers flags
.macro READ_IF reg
    pushfd
    pop \reg
    shr \reg, 9
    and \reg, 1
.endm
