/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Which pages are page tables, and what do their entries become?
 *
 * Xen lets a guest use its own tables if it cannot write to them: a page table is mapped read-only
 * wherever it is mapped. The kernel does not know, so the ROM keeps a type for each page of the
 * domain and takes the write permission out of every entry that would break the rule.
 *
 * - Level 1: the kernel's own pages. Xen performs plain stores; those it refuses come to stores.c.
 * - Level 2 of user space: the kernel's own pages, found when a page directory is loaded.
 * - Level 2 of the kernel: Linux shares it between all processes, which Xen does not allow. The
 *   kernel's is ordinary memory; Xen's own is the real one and follows it, at the first fault.
 * - Level 3: there is one, Xen's. Loading a page directory writes its entries for user space.
 */

#include "rom.h"

#define HOLE_VA 0xffc00000u        /* Xen's own from here on */
#define LOW_FRAMES 256u            /* the machine's first MiB */
#define ROM_FRAME 0xc8u
#define BIOS_DATA_FRAME 0u
#define EXTENDED_BIOS_FRAME 0x9fu
#define BIOS_FRAME 0xf0u
#define IO_APIC_FRAME 0xfec00u
#define LOCAL_APIC_FRAME 0xfee00u
#define ADDRESS_BITS 0x8000000000000fffull /* of an entry, the others */

extern u8 rom_page[];

u32 shift, pages;
static u8 types[MAX_PAGES];
static u64 *level_3;
static u64 *kernel_tables[4];      /* Xen's level 2, by the slot of level 3; 0 for user space */
static u32 first_kernel_slot, shared_info_frame, guest_cr3;
static u64 low_table[TABLE_LEN] __attribute__((aligned(4096)));
static u64 shared_table[TABLE_LEN] __attribute__((aligned(4096)));
static u64 kernels_low_table[TABLE_LEN] __attribute__((aligned(4096)));
static u64 kernels_shared_table[TABLE_LEN] __attribute__((aligned(4096)));
static u8 empty_page[PAGE_LEN] __attribute__((aligned(4096)));

int is_ours(u32 frame) { return frame - (shift >> 12) < pages; }
enum page_type type_of(u32 frame) { return is_ours(frame) ? types[frame - (shift >> 12)] : ORDINARY; }

static void set_type(u32 frame, enum page_type type)
{
    if (is_ours(frame)) types[frame - (shift >> 12)] = type;
}

static u64 *table_of(u64 entry) { return va_of((u32)entry & ~(PAGE_LEN - 1)); }

/* One operation on page tables that takes a frame or an address. 0, or a negative error number. */
static int extended(enum mmuext command, u32 argument)
{
    u32 operation[3] = { command, argument, 0 }, done;
    return hypercall(HYPERCALL_MMUEXT_OP, operation, 1, &done, DOMID_SELF);
}

static int update(const u64 *entry, u64 value)
{
    u64 request[2] = { pa_of(entry), value };
    u32 done;
    return hypercall(HYPERCALL_MMU_UPDATE, request, 1, &done, DOMID_SELF);
}

static int map(u32 frame, u64 flags)
{
    u64 entry = ((u64)frame << 12) | flags;
    return hypercall(HYPERCALL_UPDATE_VA_MAPPING, va_of(frame << 12), (u32)entry, (u32)(entry >> 32), UVMF_INVLPG);
}

int flush_tlb(void) { return extended(TLB_FLUSH_LOCAL, 0); }
int flush_page(u32 va) { return extended(INVLPG_LOCAL, va); }

static int is_hidden(u32 frame)
{
    /* No BIOS, no MP table, no ACPI: what they describe is Xen's. */
    return frame == BIOS_DATA_FRAME || frame == EXTENDED_BIOS_FRAME
        || (frame >= BIOS_FRAME && frame < LOW_FRAMES)
        || frame == IO_APIC_FRAME || frame == LOCAL_APIC_FRAME;
}

/* The entry of a level-1 table that Xen accepts for one that the kernel wants; 0: nothing there. */
static u64 acceptable(u64 entry)
{
    u32 frame = (u32)(entry >> 12), first = shift >> 12;
    u64 bits = entry & ADDRESS_BITS;
    if (!(entry & PTE_PRESENT)) return entry;
    if (type_of(frame) != ORDINARY) return entry & ~PTE_WRITE;
    if (is_ours(frame)) return entry;
    if (frame == frame_of((u32)&shared)) return bits | ((u64)shared_info_frame << 12);
    if (frame == ROM_FRAME) return bits | pa_of(rom_page);
    if (is_hidden(frame)) return bits | pa_of(empty_page);
    if (frame >= LOW_FRAMES && frame < first) return 0; /* memory of others, below ours */
    return entry;
}

/* Makes a page read-only in the mapping of all memory, which is where it gets its type from. */
int protect(u32 frame, enum page_type type)
{
    enum page_type before = type_of(frame);
    set_type(frame, type);
    int error = map(frame, PTE_KERNEL_READ);
    if (error) {
        refused("to protect a page", frame, type, error);
        set_type(frame, before);
    }
    return error;
}

/* The page is ordinary memory again. */
void release(u32 frame)
{
    enum page_type before = type_of(frame);
    if (before == LEVEL_2) extended(UNPIN_TABLE, frame);
    set_type(frame, ORDINARY);
    int error = map(frame, PTE_KERNEL);
    if (error) {
        refused("to release a page", frame, before, error);
        set_type(frame, before);
    }
}

static void adopt_level_1(u32 frame)
{
    if (!is_ours(frame) || type_of(frame) != ORDINARY) return;
    u64 *table = va_of(frame << 12);
    set_type(frame, LEVEL_1);      /* first: it may map itself */
    for (u32 i = 0; i < TABLE_LEN; i++)
        if (table[i]) table[i] = acceptable(table[i]);
    protect(frame, LEVEL_1);
}

static void adopt_level_2(u32 frame)
{
    if (!is_ours(frame) || type_of(frame) != ORDINARY) return;
    u64 *table = va_of(frame << 12);
    for (u32 i = 0; i < TABLE_LEN; i++)
        if (table[i] & PTE_PRESENT) adopt_level_1((u32)(table[i] >> 12));
    protect(frame, LEVEL_2);
    int error = extended(PIN_L2_TABLE, frame);
    if (error) refused("a level-2 table", frame, 0, error);
}

/* What the kernel's entry for `va` says, in its own tables. */
static u64 *kernel_entry(u32 va)
{
    u64 *tables = (u64 *)facts.page_middle;
    return &tables[((va >> 30) - first_kernel_slot) * TABLE_LEN + ((va >> 21) & (TABLE_LEN - 1))];
}

static u64 *real_entry(u32 va) { return &kernel_tables[va >> 30][(va >> 21) & (TABLE_LEN - 1)]; }

/* Xen's level 2 follows the kernel's for the 2 MiB at `va`. 0, or a negative error number. */
int set_kernel_entry(u32 va, u64 value)
{
    if (va >= HOLE_VA) return 0;
    if (value & PTE_LARGE) stop("the kernel maps a large page, which Xen does not do (PSE is not shown)");
    if (value & PTE_PRESENT) adopt_level_1((u32)(value >> 12));
    if (*real_entry(va) == value) return 0;
    int error = update(real_entry(va), value);
    if (error) refused("an entry of the kernel's level 2", va, value, error);
    return error;
}

/* After a fault at `va`: 1 if the kernel's own tables map what the real ones did not yet. */
int bring_in_kernel_entry(u32 va)
{
    if (va < facts.page_offset || va >= HOLE_VA) return 0;
    u64 value = *kernel_entry(va);
    if (!(value & PTE_PRESENT) || (*real_entry(va) & PTE_PRESENT)) return 0;
    return !set_kernel_entry(va, value);
}

/* Xen's level 3 shows user space as the page directory in CR3 does. */
static void follow_directory(void)
{
    u64 *directory = va_of(guest_cr3 & ~31u);
    for (u32 slot = 0; slot < first_kernel_slot; slot++) {
        u64 entry = directory[slot] & PTE_PRESENT ? (directory[slot] & ~ADDRESS_BITS) | PTE_PRESENT : 0;
        if ((level_3[slot] & ~ADDRESS_BITS) == (entry & ~ADDRESS_BITS)) continue;
        if (entry) adopt_level_2((u32)(entry >> 12));
        int error = update(&level_3[slot], entry);
        if (error) refused("an entry of level 3", slot, entry, error);
    }
}

void set_cr3(u32 cr3)
{
    guest_cr3 = cr3;
    follow_directory();
    flush_tlb();
}

u32 get_cr3(void) { return guest_cr3; }

/* The frame that the kernel's address `va` is mapped to; 0 if it is not. */
u32 frame_at(u32 va)
{
    u64 entry = *real_entry(va);
    if (!(entry & PTE_PRESENT)) entry = *kernel_entry(va);
    if (!(entry & PTE_PRESENT)) return 0;
    return (u32)(table_of(entry)[(va >> 12) & (TABLE_LEN - 1)] >> 12);
}

/* A store to a page table at `va` (a multiple of 8) that Xen refused as it stood. */
int store_entry(u32 va, u64 value)
{
    u64 *entry = (u64 *)va, before = *entry;
    int level_1 = type_of(frame_of(va)) == LEVEL_1;
    if (level_1) value = acceptable(value);
    else if (value & PTE_PRESENT) adopt_level_1((u32)(value >> 12));
    if (value == before) return 0;
    int error = update(entry, value);
    if (error) {
        refused("an entry of a page table", va, value, error);
        return error;
    }
    if (!level_1 && (before & PTE_PRESENT) && (value >> 12) != (before >> 12)
        && type_of((u32)(before >> 12)) == LEVEL_1)
        release((u32)(before >> 12));
    return 0;
}

/* A store to a level-2 table that is empty and not in use: it was freed. 1 if so. */
int forget_empty_table(u32 va)
{
    u32 frame = frame_of(va);
    const u64 *table = (const u64 *)(va & ~(PAGE_LEN - 1));
    if (type_of(frame) != LEVEL_2) return 0;
    for (u32 slot = 0; slot < 4; slot++)
        if ((u32)(level_3[slot] >> 12) == frame) return 0;
    for (u32 i = 0; i < TABLE_LEN; i++)
        if (table[i]) return 0;
    release(frame);
    return 1;
}

/* Xen's own tables, `frames` pages from level 3 on, become the ROM's. */
void adopt_boot_tables(u32 level_3_va, u32 frames)
{
    level_3 = (u64 *)level_3_va;
    first_kernel_slot = facts.page_offset >> 30;
    for (u32 i = 0; i < frames; i++) set_type(frame_of(level_3_va) + i, LEVEL_1);
    set_type(frame_of(level_3_va), LEVEL_3);
    for (u32 slot = 0; slot < 4; slot++) {
        if (!(level_3[slot] & PTE_PRESENT)) {
            if (slot >= first_kernel_slot) stop("Xen made no level-2 table for the kernel");
            continue;
        }
        set_type((u32)(level_3[slot] >> 12), LEVEL_2);
        if (slot >= first_kernel_slot) kernel_tables[slot] = table_of(level_3[slot]);
    }
}

/* Below the domain's own memory: the machine's first MiB with the ROM in it, and the shared page. */
void map_low_memory(u32 shared_info_pa)
{
    u32 shared_va = (u32)&shared, first = facts.page_offset;
    shared_info_frame = shared_info_pa >> 12;
    for (u32 frame = 0; frame < LOW_FRAMES; frame++) low_table[frame] = acceptable(((u64)frame << 12) | PTE_KERNEL);
    shared_table[(shared_va >> 12) & (TABLE_LEN - 1)] = shared_info_pa | PTE_KERNEL;
    for (u32 va = first; va < first + shift; va += TABLE_LEN * PAGE_LEN) {
        const u64 *table = va == first ? low_table : va == (shared_va & ~0x1fffffu) ? shared_table : 0;
        if (table) protect(frame_of((u32)table), LEVEL_1);
        u64 entry = table ? pa_of(table) | 0x67 : 0;
        if (*real_entry(va) == entry) continue;
        int error = update(real_entry(va), entry);
        if (error) stop("Xen does not let domain 0 map the first MiB of the machine");
    }
    flush_tlb();
}

/*
 * The kernel's own tables say what Xen's do, and its page directory is the one in CR3. For low memory
 * they name other tables of level 1 than Xen's: Linux maps all memory again while it starts, with
 * entries that Xen takes as they stand, and the ROM at 0xC8000 has to outlast that.
 */
void share_kernel_tables(void)
{
    u64 *directory = (u64 *)facts.page_directory;
    for (u32 slot = 0; slot < 4; slot++) {
        directory[slot] = 0;
        if (slot < first_kernel_slot) continue;
        for (u32 i = 0; i < TABLE_LEN; i++) {
            u32 va = (slot << 30) + (i << 21);
            *kernel_entry(va) = va < HOLE_VA ? *real_entry(va) : 0;
        }
        directory[slot] = pa_of(kernel_entry(slot << 30)) | PTE_PRESENT;
    }
    for (u32 i = 0; i < TABLE_LEN; i++) {
        kernels_low_table[i] = low_table[i] ? ((u64)i << 12) | PTE_KERNEL : 0;
        kernels_shared_table[i] = shared_table[i];
    }
    *kernel_entry(facts.page_offset) = pa_of(kernels_low_table) | 0x67;
    *kernel_entry((u32)&shared) = pa_of(kernels_shared_table) | 0x67;
    guest_cr3 = pa_of(directory);
}
