/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What do the kernel's descriptor tables become?
 *
 * The GDT is the kernel's own page, read-only, without the system descriptors that Xen refuses; a
 * copy keeps what the kernel wrote. An LDT is copied to pages of the ROM, for Linux keeps it where
 * other data are. Of the IDT, Xen gets the gates; #GP and #PF come to the ROM first.
 */

#include "rom.h"

#define GATE_PRESENT 0x8000u
#define INTERRUPT_GATE 14
#define TRAP_GATE 15
#define VECTORS 256u
#define IS_CODE_OR_DATA (1ull << 44)
#define IS_PRESENT (1ull << 47)
#define LDT_TYPE 2u
#define LDT_PAGES 16u              /* of 8,192 entries */

extern void hook_0(void), hook_3(void), hook_6(void), hook_7(void), hook_8(void), hook_10(void);
extern void hook_11(void), hook_12(void), hook_13(void), hook_14(void);
extern void upcall_entry(void), failsafe_entry(void);
extern u32 tss_va;

static u64 gdt[TABLE_LEN];         /* as the kernel wrote it */
static u16 gdt_register[3], idt_register[3];
static u32 gdt_frame, idt_va, task_selector, ldt_selector;
static u64 ldt[LDT_PAGES * TABLE_LEN] __attribute__((aligned(4096)));
static int ldt_is_set;
static struct trap_info traps[VECTORS + 1];

static u32 base_of(u64 descriptor)
{
    return ((u32)(descriptor >> 16) & 0xffffff) | (u32)(descriptor >> 56) << 24;
}

static u32 limit_of(u64 descriptor)
{
    return ((u32)descriptor & 0xffff) | ((u32)(descriptor >> 32) & 0xf0000);
}

/* What Xen may see of a descriptor: TSS, LDT and gates are its own affair. */
static u64 shown(u64 descriptor)
{
    int is_system = (descriptor & IS_PRESENT) && !(descriptor & IS_CODE_OR_DATA);
    return is_system ? 0 : descriptor;
}

static u32 base_in(const u16 *table_register) { return table_register[1] | (u32)table_register[2] << 16; }

u64 descriptor_at(u32 va) { return gdt[(va & (PAGE_LEN - 1)) >> 3]; }

static void follow_task(void) { tss_va = task_selector ? base_of(gdt[task_selector >> 3]) : 0; }

/* A store to the GDT, at `va` in the mapping of all memory. */
int store_descriptor(u32 va, u64 value)
{
    gdt[(va & (PAGE_LEN - 1)) >> 3] = value;
    follow_task();
    u64 entry = shown(value);
    return hypercall(HYPERCALL_UPDATE_DESCRIPTOR, pa_of((void *)va), 0, (u32)entry, (u32)(entry >> 32));
}

void set_gdt(const u16 *descriptor)
{
    copy(gdt_register, descriptor, sizeof gdt_register);
    u32 frame = frame_at(base_in(gdt_register)), before = gdt_frame;
    if (frame == before) return;
    u64 *page = va_of(frame << 12);
    if (!is_ours(frame)) stop("the kernel's GDT is not in its memory");
    for (u32 i = 0; i < TABLE_LEN; i++) {
        gdt[i] = page[i];
        page[i] = shown(page[i]);
    }
    if (protect(frame, DESCRIPTORS)) stop("the kernel's GDT cannot be made read-only");
    int error = hypercall(HYPERCALL_SET_GDT, &frame, TABLE_LEN);
    if (error) stop("Xen refused the kernel's GDT");
    gdt_frame = frame;
    if (before) release(before);
    hypercall(HYPERCALL_SET_CALLBACKS, GUEST_CS, upcall_entry, GUEST_CS, failsafe_entry);
}

void get_gdt(u16 *descriptor) { copy(descriptor, gdt_register, sizeof gdt_register); }
void get_idt(u16 *descriptor) { copy(descriptor, idt_register, sizeof idt_register); }

u32 get_tr(void) { return task_selector; }
u32 get_ldt(void) { return ldt_selector; }

void set_tr(u32 selector)
{
    task_selector = selector & 0xffff;
    follow_task();
}

static void use_ldt(u32 entries)
{
    u32 operation[3] = { SET_LDT, entries ? (u32)ldt : 0, entries }, done;
    int error = hypercall(HYPERCALL_MMUEXT_OP, operation, 1, &done, DOMID_SELF);
    if (error) refused("an LDT", (u32)ldt, entries, error);
    ldt_is_set = entries != 0;
}

/* The copy is replaced as a whole: no entry of it is in use while it is writable. */
void set_ldt(u32 selector)
{
    ldt_selector = selector & 0xffff;
    u64 descriptor = gdt[ldt_selector >> 3];
    u32 entries = 0;
    if (ldt_selector && ((u32)(descriptor >> 40) & 0x1f) == LDT_TYPE)
        entries = (limit_of(descriptor) + 1) / 8;
    if (entries > LDT_PAGES * TABLE_LEN) entries = LDT_PAGES * TABLE_LEN;
    if (!entries && !ldt_is_set) return;
    use_ldt(0);
    for (u32 page = 0; page < LDT_PAGES; page++) {
        u32 frame = frame_of((u32)ldt) + page;
        if (type_of(frame) != ORDINARY) release(frame);
    }
    if (!entries) return;
    const u64 *from = (const u64 *)base_of(descriptor);
    for (u32 i = 0; i < LDT_PAGES * TABLE_LEN; i++) ldt[i] = i < entries ? shown(from[i]) : 0;
    for (u32 page = 0; page * TABLE_LEN < entries; page++)
        protect(frame_of((u32)ldt) + page, DESCRIPTORS);
    use_ldt(entries);
}

int has_idt(void) { return idt_va != 0; }

/* The address in the kernel's gate of a vector. */
u32 guest_vector(u32 vector)
{
    const u32 *gate = (const u32 *)(idt_va + 8 * vector);
    return (gate[1] & 0xffff0000) | (gate[0] & 0xffff);
}

/* Whether the kernel's handler of `vector` leaves interrupts as they were. */
int is_trap_gate(u32 vector)
{
    const u32 *gate = (const u32 *)(idt_va + 8 * vector);
    return ((gate[1] >> 8) & 15) == TRAP_GATE;
}

/* The gate of a vector as Xen takes it; 0 if missing (a task gate is not one). */
static int read_gate(u32 vector, struct trap_info *trap)
{
    const u32 *gate = (const u32 *)(idt_va + 8 * vector);
    u32 type = (gate[1] >> 8) & 15;
    if (!(gate[1] & GATE_PRESENT) || (type != INTERRUPT_GATE && type != TRAP_GATE)) return 0;
    trap->vector = (u8)vector;
    trap->flags = (u8)(((gate[1] >> 13) & 3) | (type == INTERRUPT_GATE ? TRAP_MASKS_EVENTS : 0));
    trap->cs = GUEST_CS;
    trap->address = guest_vector(vector);
    if (vector == 13 || vector == 14) {
        trap->flags |= TRAP_MASKS_EVENTS;
        trap->address = (u32)(vector == 13 ? hook_13 : hook_14);
    }
    return 1;
}

void set_idt(const u16 *descriptor)
{
    u32 count = 0;
    copy(idt_register, descriptor, sizeof idt_register);
    if (idt_register[0] < 8 * 32 - 1) end(SHUTDOWN_REBOOT); /* Linux' way to a triple fault */
    idt_va = base_in(idt_register);
    for (u32 vector = 0; vector < VECTORS && 8 * vector < idt_register[0]; vector++)
        count += (u32)read_gate(vector, &traps[count]);
    traps[count].address = 0;
    int error = hypercall(HYPERCALL_SET_TRAP_TABLE, traps);
    if (error) refused("a trap table", idt_va, count, error);
}

/* Until the kernel has an IDT, every exception comes to the ROM. */
void hook_early_traps(void)
{
    static const struct { u8 vector; void (*entry)(void); } early[] = {
        { 0, hook_0 }, { 3, hook_3 }, { 6, hook_6 }, { 7, hook_7 }, { 8, hook_8 }, { 10, hook_10 },
        { 11, hook_11 }, { 12, hook_12 }, { 13, hook_13 }, { 14, hook_14 },
    };
    const u32 count = sizeof early / sizeof early[0];
    for (u32 i = 0; i < count; i++) {
        traps[i].vector = early[i].vector;
        traps[i].flags = TRAP_MASKS_EVENTS;
        traps[i].cs = FLAT_RING1_CS;
        traps[i].address = (u32)early[i].entry;
    }
    traps[count].address = 0;
    hypercall(HYPERCALL_SET_TRAP_TABLE, traps);
    hypercall(HYPERCALL_SET_CALLBACKS, FLAT_RING1_CS, upcall_entry, FLAT_RING1_CS, failsafe_entry);
}
