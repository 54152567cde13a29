/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What becomes of a trap that the ROM sees before the kernel?
 *
 * A page fault may be the ROM's doing: a page table is read-only, or Xen's level 2 is late. A #GP at
 * ring 1 is an instruction that was left native and that Xen does not emulate. All else is the
 * kernel's.
 */

#include "rom.h"

#define PAGE_FAULT 14
#define GENERAL_PROTECTION 13
#define FAULT_PRESENT 1u
#define FAULT_WRITE 2u
#define MAX_FALLBACKS 1024u
#define POPF_FLAGS 0x240fd5u       /* ID, AC, and all below bit 12: not VM, IOPL, RF */

void hide_features(u32 *registers);

static struct { u32 va, native; } fallbacks[MAX_FALLBACKS];
static u32 fallback_count;

static const struct ending NEXT = { 0, 8 };    /* return to the frame, over vector and error code */

/* The table of instructions under a HLT is copied: the kernel uses its memory again. */
void set_fallback(const u32 *table, u32 count)
{
    if (fallback_count + count > MAX_FALLBACKS) stop("the kernel has too many fallbacks");
    copy(&fallbacks[fallback_count], table, count * sizeof fallbacks[0]);
    fallback_count += count;
}

/* The byte that was at `va` before a HLT took its place; -1: it was none of the kernel's fallbacks. */
static int native_byte(u32 va)
{
    for (u32 i = 0; i < fallback_count; i++)
        if (fallbacks[i].va == va) return (int)(fallbacks[i].native & 0xff);
    return -1;
}

/* From the vector on, as words: vector, error, EIP, CS, EFLAGS, then the interrupted stack. */
static struct ending push_flags(struct frame *frame)
{
    u32 *word = &frame->vector, flags = frame->eflags;
    word[1] = frame->eip + 1;
    word[2] = frame->cs;
    word[3] = word[4] = flags;
    return (struct ending){ 0, 4 };
}

static struct ending pop_flags(struct frame *frame)
{
    u32 *word = &frame->vector, eip = frame->eip, cs = frame->cs;
    word[5] = (word[5] & POPF_FLAGS) | 2;
    word[4] = cs;
    word[3] = eip + 1;
    return (struct ending){ 0, 12 };
}

static struct ending emulate_fallback(struct frame *frame, int native)
{
    const u8 *code = (const u8 *)frame->eip;
    u32 registers[5] = { 0, 0, 0, 0, frame->eax };
    switch (native) {
    case 0x9c: return push_flags(frame);
    case 0x9d: return pop_flags(frame);
    case 0xcf: return (struct ending){ 0, 20 };            /* IRET, by the frame below ours */
    case 0x0f:
        if (code[1] != 0xa2) break;                        /* CPUID */
        asm volatile("cpuid" : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                     : "a"(frame->eax), "c"(frame->ecx));
        hide_features(registers);
        frame->eax = registers[0];
        frame->ebx = registers[1];
        frame->ecx = registers[2];
        frame->edx = registers[3];
        frame->eip += 2;
        return NEXT;
    default: break;
    }
    say("fallback %x %x at %x", (u32)native, code[1], frame->eip);
    stop("an instruction under a HLT that the ROM does not know");
}

/* The address of a memory operand; `len` gets the bytes of ModRM and what follows it. 0: unknown. */
static u32 operand_va(struct frame *frame, const u8 *modrm, u32 *len)
{
    u32 mod = modrm[0] >> 6, rm = modrm[0] & 7, base, displacement = 0;
    const u8 *at = modrm + 1;
    if (mod == 3) return 0;
    if (rm == 4) {
        if (*at++ != 0x24) return 0;                       /* [esp] and no index */
        base = (u32)&frame->esp;
    } else if (mod == 0 && rm == 5) {
        base = 0;
        mod = 2;
    } else {
        base = (&frame->edi)[7 - rm];
    }
    if (mod == 1) displacement = (u32)(s8)*at++;
    if (mod == 2) {
        copy(&displacement, at, 4);
        at += 4;
    }
    *len = (u32)(at - modrm);
    return base + displacement;
}

/* LGDT, LIDT, INVLPG: 0f 01 and ModRM. Bytes of the instruction, 0 if it is another one. */
static u32 emulate_system(struct frame *frame, const u8 *code)
{
    u32 len, va = operand_va(frame, code + 2, &len);
    if (!va) return 0;
    switch ((code[2] >> 3) & 7) {
    case 2: set_gdt((const u16 *)va); break;
    case 3: set_idt((const u16 *)va); break;
    case 7: flush_page(va); break;
    default: return 0;
    }
    return 2 + len;
}

/* IN and OUT. Bytes of the instruction, 0 if it is another one. */
static u32 emulate_port(struct frame *frame, const u8 *code)
{
    const u8 *at = code;
    u32 width = 4, count = 1;
    int repeated = 0;
    for (;; at++) {
        if (*at == 0x66) width = 2;
        else if (*at == 0xf3 || *at == 0xf2) repeated = 1;
        else break;
    }
    u8 opcode = *at++;
    u32 port = frame->edx & 0xffff, *counter = repeated ? &frame->ecx : &count;
    if (!(opcode & 1)) width = 1;
    u32 mask = width == 4 ? ~0u : (1u << (8 * width)) - 1;
    if ((opcode & 0xfe) == 0x6c) string_in(&frame->edi, counter, port, width);
    else if ((opcode & 0xfe) == 0x6e) string_out(&frame->esi, counter, port, width);
    else if ((opcode & 0xf4) == 0xe4) {
        if (opcode < 0xe8) port = *at++;
        if (opcode & 2) port_out(port, frame->eax & mask, width);
        else frame->eax = (frame->eax & ~mask) | (port_in(port, width) & mask);
    } else return 0;
    return (u32)(at - code);
}

/* What follows 0f. Bytes of the instruction, 0 if it is not emulated. */
static u32 emulate_two_byte(struct frame *frame, const u8 *code)
{
    switch (code[1]) {
    case 0x00:                                             /* LLDT, LTR of a register */
        if (code[2] < 0xc0) return 0;
        if (((code[2] >> 3) & 7) == 2) set_ldt((&frame->edi)[7 - (code[2] & 7)]);
        else if (((code[2] >> 3) & 7) == 3) set_tr((&frame->edi)[7 - (code[2] & 7)]);
        else return 0;
        return 3;
    case 0x01: return emulate_system(frame, code);
    case 0x22: return 3;                                   /* MOV to CR0 with bits that Xen keeps */
    case 0x30: return 2;                                   /* WRMSR that Xen does not know */
    case 0x32:                                             /* RDMSR */
        frame->eax = frame->edx = 0;
        return 2;
    default: return 0;
    }
}

/* An instruction at ring 1 that the hardware refuses, and Xen. 1 if it was emulated. */
static int emulate_privileged(struct frame *frame)
{
    const u8 *code = (const u8 *)frame->eip, *start = code;
    u32 len = 0;
    while (*code == 0x3e || *code == 0x2e || *code == 0x26 || *code == 0x36) code++;
    if (code[0] == 0x0f) len = emulate_two_byte(frame, code);
    else if (code[0] == 0x8e && (code[1] & 0xf8) == 0xd0) {   /* MOV to SS, with RPL 0 */
        asm volatile("mov %0, %%ss" ::"r"(GUEST_DS));
        len = 2;
    } else if (code[0] == 0xfa || code[0] == 0xfb) {
        if (code[0] == 0xfa) frame->eflags &= ~FLAG_IF;
        else frame->eflags |= FLAG_IF;
        len = 1;
    } else if (code[0] == 0xf4) {
        hypercall(HYPERCALL_SCHED_OP, SCHED_BLOCK, 0);
        len = 1;
    } else {
        len = emulate_port(frame, code);
    }
    if (!len) return 0;
    frame->eip += (u32)(code - start) + len;
    return 1;
}

/* Whether EIP is a linear address: the code of a BIOS has segments of its own. */
static int is_flat(const struct frame *frame)
{
    u16 cs = (u16)frame->cs;
    return cs == GUEST_CS || cs == FLAT_RING1_CS;
}

/* A page fault that the kernel does not have to know of. 1 if so. */
static int mend_page_fault(struct frame *frame)
{
    u32 va = THIS_VCPU.cr2;
    if (!(frame->error & FAULT_PRESENT)) return bring_in_kernel_entry(va);
    if (!is_flat(frame) || !(frame->error & FAULT_WRITE) || va < facts.page_offset) return 0;
    if (type_of(frame_of(va)) == ORDINARY) return 0;
    if (forget_empty_table(va) || emulate_store(frame, va)) return 1;
    const u32 *code = (const u32 *)frame->eip;
    say("store to %x at %x: %x %x", va, frame->eip, code[0], code[1]);
    stop("a store to a page table by an instruction that the ROM does not know");
}

static struct ending to_guest(struct frame *frame)
{
    if (is_trap_gate(frame->vector) && (frame->eflags & FLAG_IF)) THIS_VCPU.upcall_mask = 0;
    return (struct ending){ guest_vector(frame->vector), 0 };
}

struct ending trap(struct frame *frame)
{
    if (frame->vector == PAGE_FAULT && mend_page_fault(frame)) return NEXT;
    if (frame->vector == GENERAL_PROTECTION && is_flat(frame)) {
        int native = *(const u8 *)frame->eip == 0xf4 ? native_byte(frame->eip) : -1;
        if (native >= 0) return emulate_fallback(frame, native);
        if (emulate_privileged(frame)) return NEXT;
    }
    if (has_idt()) return to_guest(frame);
    const u32 *code = (const u32 *)frame->eip;
    say("trap %x, error %x at %x: %x %x, address %x", frame->vector, frame->error, frame->eip, code[0], code[1], THIS_VCPU.cr2);
    stop("an exception before the kernel has an IDT");
}
