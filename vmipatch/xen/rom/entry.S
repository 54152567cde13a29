/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Where Xen and the kernel enter the ROM: the start of the domain, traps, events, VMI calls.
 *
 * C is called with arguments in EAX, EDX and ECX. DS and ES are flat wherever C runs; the calls of
 * entry code (IF, IRET) address memory through SS alone.
 */
#include "numbers.h"

#define FLAT_RING1_DS 0xe021
#define GUEST_DS 0x69
#define SHARED_PENDING shared                   /* struct vcpu_info of xen.h */
#define SHARED_MASK shared + 1
#define SHARED_CR2 shared + 8

        .intel_syntax noprefix

#define NOTE(type, kind, value...) \
        .long 4, 2f - 1f, type; .asciz "Xen"; 1: kind value; 2: .balign 4

/* What the builder of domain 0 reads (public/elfnote.h). */
        .section .note.Xen, "a", @note
        NOTE(1, .long, start)                   /* ENTRY */
        NOTE(2, .long, hypercall_page)          /* HYPERCALL_PAGE */
        NOTE(3, .long, linked_page_offset)      /* VIRT_BASE: where page 0 of the domain is */
        NOTE(4, .long, 0)                       /* PADDR_OFFSET */
        NOTE(5, .asciz, "xen-3.0")              /* XEN_VERSION */
        NOTE(6, .asciz, "linux-vmi")            /* GUEST_OS */
        NOTE(8, .asciz, "generic")              /* LOADER */
        NOTE(9, .asciz, "yes")                  /* PAE_MODE */
        NOTE(12, .long, 0xf5800000)             /* HV_START_LOW */

        .section .bss
        .balign 4096
hypercall_page:
        .space 4096
        .global rom_page
rom_page:
        .space 4096

        .text
/*
 * In:  ESI = start_info, ESP = a stack, both where the image was linked.
 * `place` maps everything where it belongs and moves the addresses in it, those of this code too.
 */
        .global start
start:  cld
        mov eax, esi
        call place                              /* EAX = how far everything moves */
        add esi, eax
        add esp, eax
        mov ecx, offset moved
        jmp ecx
moved:  mov eax, esi
        call load                               /* EAX = where the kernel goes on, EDX = its stack */
        mov esp, edx
        jmp eax

/* hypercall(number, up to 5 arguments), all on the stack. */
        .global hypercall
hypercall:
        push ebx
        push esi
        push edi
        mov eax, [esp + 16]
        shl eax, 5
        add eax, offset hypercall_page
        mov ebx, [esp + 20]
        mov ecx, [esp + 24]
        mov edx, [esp + 28]
        mov esi, [esp + 32]
        mov edi, [esp + 36]
        call eax
        pop edi
        pop esi
        pop ebx
        ret

/* A trap that the ROM looks at first. On the stack: error code if any, EIP, CS, EFLAGS, ... */
        .macro HOOK vector, has_error
        .global hook_\vector
hook_\vector:
        .if \has_error == 0
        push 0
        .endif
        push \vector
        jmp hooked
        .endm
        HOOK 0, 0
        HOOK 3, 0
        HOOK 6, 0
        HOOK 7, 0
        HOOK 8, 1
        HOOK 10, 1
        HOOK 11, 1
        HOOK 12, 1
        HOOK 13, 1
        HOOK 14, 1
hooked: push ds
        push es
        pusha
        mov eax, FLAT_RING1_DS
        mov ds, eax
        mov es, eax
        cld
        mov eax, esp
        call trap                               /* EAX = a handler, or 0 and EDX = bytes to drop */
        test eax, eax
        jz resume
        mov [esp + 40], eax                     /* over the vector; the error code is next */
        popa
        pop es
        pop ds
        ret
resume: mov [esp + 40], edx
        popa
        pop es
        pop ds
        add esp, [esp]
        jmp iret_frame

/* An event. On the stack: EIP, CS, EFLAGS, ... */
        .global upcall_entry, failsafe_entry
upcall_entry:
        push 0
        push ds
        push es
        pusha
        mov eax, FLAT_RING1_DS
        mov ds, eax
        mov es, eax
        cld
        mov word ptr [esp + 40 + 4 + 4 + 2], 0  /* Xen's saved mask, in the upper half of CS */
        call upcall                             /* EAX = a handler, or 0 */
        mov [esp + 40], eax
        test eax, eax
        popa
        pop es
        pop ds
        jz 1f
        ret
1:      lea esp, [esp + 4]
        jmp iret_frame
/* Xen could not load the segments of a return: FS to DS, then the frame. */
failsafe_entry:
        add esp, 16
        jmp iret_frame

/* VMI calls: a row for GetRelocationInfo, and the entry. */
        .macro ENTRY call
        .pushsection .calls, "a"
        .long \call, 1f
        .popsection
        .balign 16
1:
        .endm

/* Served by C. results: how many of EAX, EDX it returns; everything else is kept. */
        .macro SERVE call, function, results=0
        ENTRY \call
        pushf
        pusha
        cld
        call \function
        .if \results >= 1
        mov [esp + 28], eax
        .endif
        .if \results >= 2
        mov [esp + 20], edx
        .endif
        popa
        popf
        ret
        .endm

        SERVE CALL_SET_GDT, set_gdt
        SERVE CALL_SET_IDT, set_idt
        SERVE CALL_SET_LDT, set_ldt
        SERVE CALL_SET_TR, set_tr
        SERVE CALL_GET_GDT, get_gdt
        SERVE CALL_GET_IDT, get_idt
        SERVE CALL_GET_LDT, get_ldt, 1
        SERVE CALL_GET_TR, get_tr, 1
        SERVE CALL_SET_CR3, set_cr3
        SERVE CALL_GET_CR3, get_cr3, 1
        SERVE CALL_SET_DR, set_debug_register
        SERVE CALL_GET_DR, get_debug_register, 1
        SERVE CALL_INVAL_PAGE, flush_page
        SERVE CALL_SET_CR2, set_cr2
        SERVE CALL_SET_FALLBACK, set_fallback
        SERVE CALL_SET_IOPL_MASK, set_iopl_mask
        SERVE CALL_REBOOT, reboot
        SERVE CALL_SHUTDOWN, shutdown
        SERVE CALL_INB, call_inb, 1
        SERVE CALL_INW, call_inw, 1
        SERVE CALL_INL, call_inl, 1
        SERVE CALL_OUTB, call_outb
        SERVE CALL_OUTW, call_outw
        SERVE CALL_OUTL, call_outl

/* The string forms change the registers that the instructions change: ESI, EDI, ECX. */
        .macro STRING call, function
        ENTRY \call
        pushf
        pusha
        mov eax, esp                            /* DF is the caller's */
        cld
        call \function
        popa
        popf
        ret
        .endm
        STRING CALL_INSB, call_insb
        STRING CALL_INSW, call_insw
        STRING CALL_INSL, call_insl
        STRING CALL_OUTSB, call_outsb
        STRING CALL_OUTSW, call_outsw
        STRING CALL_OUTSL, call_outsl

/* What Xen emulates, or lets a guest execute. All keep EFLAGS. */
        .macro AS_IT_IS call, instruction:vararg
        ENTRY \call
        \instruction
        ret
        .endm
        AS_IT_IS CALL_GET_CR0, mov eax, cr0
        AS_IT_IS CALL_SET_CR0, mov cr0, eax
        AS_IT_IS CALL_GET_CR4, mov eax, cr4
        AS_IT_IS CALL_SET_CR4, mov cr4, eax
        AS_IT_IS CALL_CLTS, clts
        AS_IT_IS CALL_RDTSC, rdtsc
        AS_IT_IS CALL_WBINVD, wbinvd

        ENTRY CALL_GET_CR2
        mov eax, ss:[SHARED_CR2]
        ret

/* In: EAX = leaf, ECX = subleaf. Out: EAX, EBX, ECX, EDX. */
        ENTRY CALL_CPUID
        pushf
        push eax
        cpuid
        push edx
        push ecx
        push ebx
        push eax
        mov eax, esp                            /* four results, then the leaf */
        cld
        call hide_features
        pop eax
        pop ebx
        pop ecx
        pop edx
        lea esp, [esp + 4]
        popf
        ret

/* Virtual IF is the byte in which Xen looks whether events are masked. All keep every register. */
        ENTRY CALL_DISABLE_INTERRUPTS
mask_events:
        mov byte ptr ss:[SHARED_MASK], 1
        ret

        ENTRY CALL_ENABLE_INTERRUPTS
allow_events:
        mov byte ptr ss:[SHARED_MASK], 0
        pushf
        cmp byte ptr ss:[SHARED_PENDING], 0
        jne 1f
        popf
        ret
1:      push eax                                /* Xen delivers on the way back from any hypercall */
        push ebx
        push ecx
        xor ebx, ebx
        xor ecx, ecx
        call hypercall_page + 32 * 17           /* xen_version */
        pop ecx
        pop ebx
        pop eax
        popf
        ret

/* Out: EAX = IF (0x200) or 0. Keeps the rest, and EFLAGS. */
        ENTRY CALL_GET_INTERRUPT_MASK
        mov eax, 0
        pushf
        cmp byte ptr ss:[SHARED_MASK], 0
        jne 1f
        mov eax, 0x200
1:      popf
        ret

        ENTRY CALL_SET_INTERRUPT_MASK
        pushf
        test ah, 2
        jz 1f
        popf
        jmp allow_events
1:      popf
        jmp mask_events

        ENTRY CALL_HALT
        pushf
        push eax
        push ebx
        push ecx
        mov ebx, 1                              /* SCHED_BLOCK: with virtual IF on */
        xor ecx, ecx
        call hypercall_page + 32 * 29
        pop ecx
        pop ebx
        pop eax
        popf
        ret

/*
 * In: 0(ESP) = after the call, then the frame: EIP, CS, EFLAGS and what they entail.
 *
 * Xen returns. What would make it end the domain is mended first: CS with RPL 0, and EFLAGS.VM (a
 * null CS takes its place: the process gets a fault). To user mode, Xen has to know the stack for
 * the way back, which is in the task's TSS.
 */
        ENTRY CALL_IRET
        lea esp, [esp + 4]
iret_frame:
        test byte ptr ss:[esp + 10], 2          /* EFLAGS.VM */
        jz 1f
        and byte ptr ss:[esp + 10], 0xfd
        mov dword ptr ss:[esp + 4], 3
1:      test byte ptr ss:[esp + 4], 3
        jnz 2f
        or byte ptr ss:[esp + 4], 1
2:      test byte ptr ss:[esp + 4], 2
        jz 4f
        push eax
        mov eax, ss:[tss_va]
        test eax, eax
        jz 3f
        mov eax, ss:[eax + 4]                   /* sp0 */
        cmp eax, ss:[kernel_stack]
        je 3f
        mov ss:[kernel_stack], eax
        push ebx
        push ecx
        mov ebx, GUEST_DS
        mov ecx, eax
        call hypercall_page + 32 * 3            /* stack_switch */
        pop ecx
        pop ebx
3:      pop eax
4:      jmp hypercall_page + 32 * 23            /* iret */

        .data
        .global tss_va
tss_va: .long 0
kernel_stack:
        .long 0
