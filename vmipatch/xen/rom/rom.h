/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What do the parts of the ROM for Xen know of each other, and of the kernel that they serve? */
#ifndef VMIPATCH_ROM_H
#define VMIPATCH_ROM_H

#include "xen.h"
#include "numbers.h"             /* struct facts and the calls: vmipatch/xen/facts.py */

#define PAGE_LEN 4096u
#define TABLE_LEN 512u             /* entries of a page table with PAE */
#define MAX_PAGES 0x38000u         /* of the domain: 896 MiB */
#define GUEST_CS 0x61              /* Linux' __KERNEL_CS and __KERNEL_DS at ring 1 */
#define GUEST_DS 0x69
#define FLAG_IF 0x200u
#define FLAG_ZF 0x40u

#define PTE_PRESENT 1ull
#define PTE_WRITE 2ull
#define PTE_LARGE 0x80ull
#define PTE_KERNEL 0x63ull         /* present, writable, accessed, dirty */
#define PTE_KERNEL_READ 0x61ull

/* A trap's stack, as entry.S leaves it. ESP and SS are there if the trap came from ring 3. */
struct frame {
    u32 edi, esi, ebp, esp_of_pusha, ebx, edx, ecx, eax, es, ds;
    u32 vector, error, eip, cs, eflags, esp, ss;
};

/* How a hooked trap ends: at a handler of the guest, or by a return from the frame's EIP on. */
struct ending { u32 handler, dropped; };

extern volatile struct facts facts; /* what the image's builder knows; all but numbers move with it */
extern volatile struct shared_info shared;
extern u32 shift, pages;           /* the machine address of the domain, and its pages */
#define THIS_VCPU (shared.vcpu[0])

static inline u32 pa_of(const volatile void *va) { return (u32)va - facts.page_offset; }
static inline void *va_of(u32 pa) { return (void *)(pa + facts.page_offset); }
static inline u32 frame_of(u32 va) { return (va - facts.page_offset) >> 12; }
static inline void copy(void *to, const void *from, u32 len)
{
    for (u32 i = 0; i < len; i++) ((u8 *)to)[i] = ((const u8 *)from)[i];
}

/* entry.S */
int hypercall(enum hypercall number, ...);

/* say.c: lines on Xen's console */
void say(const char *format, ...);
void __attribute__((noreturn)) stop(const char *why);
void __attribute__((noreturn)) end(enum shutdown_reason reason);
void refused(const char *what, u32 where, u64 value, int error);

/* pages.c */
enum page_type { ORDINARY, LEVEL_1, LEVEL_2, LEVEL_3, DESCRIPTORS };
enum page_type type_of(u32 frame);
int is_ours(u32 frame);
void adopt_boot_tables(u32 level_3_va, u32 frames);
void map_low_memory(u32 shared_info_pa);
void share_kernel_tables(void);
int set_kernel_entry(u32 va, u64 value);
int bring_in_kernel_entry(u32 va);
int store_entry(u32 va, u64 value);
int forget_empty_table(u32 va);
int protect(u32 frame, enum page_type type);
void release(u32 frame);
u32 frame_at(u32 va);
int flush_tlb(void);
int flush_page(u32 va);
void set_cr3(u32 cr3);
u32 get_cr3(void);

/* stores.c: a store that Xen refused, decoded */
enum store_kind { STORE_NONE, STORE_REGISTER, STORE_IMMEDIATE, STORE_EXCHANGE, STORE_STRING, STORE_MOVE, STORE_COMPARE, STORE_AND, STORE_OR };
#define NO_REGISTER 0xff           /* the operand is the immediate */
struct store {
    u8 kind;
    u8 width;                      /* bytes of the operand */
    u8 reg;                        /* the register of ModRM */
    u8 repeated;                   /* REP */
    u8 len;                        /* bytes of the instruction */
    u32 immediate;
};
struct store decode_store(const u8 *code);
int emulate_store(struct frame *frame, u32 va);

/* tables.c: descriptor tables */
u32 guest_vector(u32 vector);
int is_trap_gate(u32 vector);
void set_gdt(const u16 *descriptor);
void set_idt(const u16 *descriptor);
void set_ldt(u32 selector);
void set_tr(u32 selector);
u32 get_ldt(void);
u32 get_tr(void);
void get_gdt(u16 *descriptor);
void get_idt(u16 *descriptor);
u64 descriptor_at(u32 va);
int store_descriptor(u32 va, u64 value);
void hook_early_traps(void);
int has_idt(void);

/* traps.c */
struct ending trap(struct frame *frame);
void set_fallback(const u32 *table, u32 count);

/* ports.c, pic.c, timer.c */
u32 port_in(u32 port, u32 width);
void port_out(u32 port, u32 value, u32 width);
void string_in(u32 *edi, u32 *ecx, u32 port, u32 width);
void string_out(u32 *esi, u32 *ecx, u32 port, u32 width);
void set_iopl(u32 level);
int pic_in(u32 port, u32 *value);
int pic_out(u32 port, u32 value);
void raise_irq(u32 irq);
void bind_interrupts(void);
u32 upcall(void);
u64 now(void);
void start_timer(void);
void timer_expired(void);
int timer_in(u32 port, u32 *value);
int timer_out(u32 port, u32 value);

/* calls.c */
void make_rom(u8 *page);

#endif
