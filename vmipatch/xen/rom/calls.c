/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What does the kernel find at 0xC8000, and what answers it? The header, GetRelocationInfo, and
 * the calls that need a line between their registers and the function that does the work.
 *
 * Layout of the header: vmipatch/rom/header.py.
 */

#include "rom.h"

#define ROM_PA 0xc8000u

#define INIT 0x80u
#define GET_RELOCATION 0x88u
#define CALL_RELATIVE 1u
#define NOT_NEEDED 3u

extern const struct { u32 number, entry; } calls_start[], calls_end[];
u8 rom_head[256] = { 1 };          /* the builder writes what vmipatch/rom/header.py makes */

/* VMI_Init: the kernel has been at ring 1 since its first instruction. */
static u32 init(void) { return 0; }

static u64 get_relocation(u32 call)
{
    if (call == CALL_IO_DELAY) return (u64)NOT_NEEDED << 32;
    for (u32 i = 0; &calls_start[i] < calls_end; i++)
        if (calls_start[i].number == call) return (u64)CALL_RELATIVE << 32 | calls_start[i].entry;
    return 0;
}

static void jump(u8 *page, u32 offset, const void *to)
{
    u32 displacement = (u32)to - (facts.page_offset + ROM_PA + offset + 5);
    page[offset] = 0xe9;
    copy(page + offset + 1, &displacement, 4);
}

/* The page that is mapped at 0xC8000. */
void make_rom(u8 *page)
{
    u8 sum = 0;
    copy(page, rom_head, facts.rom_head_len);
    jump(page, INIT, init);
    jump(page, GET_RELOCATION, get_relocation);
    for (u32 i = 0; i < PAGE_LEN; i++) sum = (u8)(sum + page[i]);
    page[PAGE_LEN - 1] = (u8)-sum;
}

/* Results of CPUID, then the leaf: nothing that needs ring 0, or memory that Xen keeps. */
void hide_features(u32 *registers)
{
    u32 *eax = &registers[0], *ebx = &registers[1], *ecx = &registers[2], *edx = &registers[3];
    u32 leaf = registers[4];
    if (leaf == 0) {
        if (*eax > 4) *eax = 4;
    } else if (leaf == 1) {
        *edx &= 0xfffc8577;        /* no PSE, MCE, APIC, SEP, MTRR, PGE, MCA, PAT, PSE-36 */
        *ecx &= 0x00002201;        /* SSE3, SSSE3, CMPXCHG16B */
    } else if (leaf == 0x80000000) {
        if (*eax > 0x80000004) *eax = 0x80000004;
    } else if (leaf == 0x80000001) {
        *ecx = *edx = 0;           /* no NX, no SYSCALL */
    } else if (leaf > 4 && (leaf < 0x80000000 || leaf > 0x80000004)) {
        *eax = *ebx = *ecx = *edx = 0;
    }
}

void set_cr2(u32 value) { THIS_VCPU.cr2 = value; }
void set_debug_register(u32 number, u32 value) { hypercall(HYPERCALL_SET_DEBUGREG, number, value); }
u32 get_debug_register(u32 number) { return (u32)hypercall(HYPERCALL_GET_DEBUGREG, number); }
void set_iopl_mask(u32 flags) { set_iopl(flags >> 12 & 3); }
void reboot(void) { end(SHUTDOWN_REBOOT); }
void shutdown(void) { end(SHUTDOWN_POWEROFF); }

/* IN and OUT: EAX is the accumulator, EDX the port; what the width leaves out stays. */
u32 call_inb(u32 eax, u32 edx) { return (eax & ~0xffu) | port_in(edx & 0xffff, 1); }
u32 call_inw(u32 eax, u32 edx) { return (eax & ~0xffffu) | port_in(edx & 0xffff, 2); }
u32 call_inl(u32 eax, u32 edx) { (void)eax; return port_in(edx & 0xffff, 4); }
void call_outb(u32 eax, u32 edx) { port_out(edx & 0xffff, eax & 0xff, 1); }
void call_outw(u32 eax, u32 edx) { port_out(edx & 0xffff, eax & 0xffff, 2); }
void call_outl(u32 eax, u32 edx) { port_out(edx & 0xffff, eax, 4); }

/* As PUSHA leaves them. */
struct registers { u32 edi, esi, ebp, esp, ebx, edx, ecx, eax; };

void call_insb(struct registers *r) { string_in(&r->edi, &r->ecx, r->edx & 0xffff, 1); }
void call_insw(struct registers *r) { string_in(&r->edi, &r->ecx, r->edx & 0xffff, 2); }
void call_insl(struct registers *r) { string_in(&r->edi, &r->ecx, r->edx & 0xffff, 4); }
void call_outsb(struct registers *r) { string_out(&r->esi, &r->ecx, r->edx & 0xffff, 1); }
void call_outsw(struct registers *r) { string_out(&r->esi, &r->ecx, r->edx & 0xffff, 2); }
void call_outsl(struct registers *r) { string_out(&r->esi, &r->ecx, r->edx & 0xffff, 4); }
