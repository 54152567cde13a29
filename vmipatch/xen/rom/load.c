/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What would the kernel's own start have left after? It is skipped up to the switch to paging:
 * Xen has switched it on. Boot parameters, command line and page tables are made here instead.
 *
 * Offsets of boot parameters: Linux, Documentation/x86/boot.rst and zero-page.rst.
 */

#include "rom.h"

#define E820_ENTRIES 0x1e8
#define E820_TABLE 0x2d0
#define BOOT_VERSION 0x206
#define BOOT_LOADER 0x210
#define RAMDISK 0x218
#define RAMDISK_LEN 0x21c
#define E820_RAM 1
#define E820_RESERVED 2
#define LOADER_UNDEFINED 0xff
#define FIXADDR_TOP 0xffbff000u    /* below Xen's hole, with a guard page */
#define TRAMPOLINE_PA 0x20000u     /* of the machine: Linux wants some memory below 1 MiB */
#define TRAMPOLINE_LEN 0x10000u


extern u8 rom_page[];

struct start { u32 entry, stack; };

static u8 *boot(u32 offset) { return (u8 *)facts.boot_params + offset; }
static void put16(u32 offset, u32 value) { copy(boot(offset), &value, 2); }
static void put32(u32 offset, u32 value) { copy(boot(offset), &value, 4); }

static void add_range(u32 start, u32 end, u32 kind)
{
    u32 row[5] = { start, 0, end - start, 0, kind };
    if (end > start) copy(boot(E820_TABLE + 20 * (*boot(E820_ENTRIES))++), row, sizeof row);
}

static void tell_memory(const struct start_info *start)
{
    u32 tables = pa_of((void *)start->pt_base), tables_end = tables + start->nr_pt_frames * PAGE_LEN;
    add_range(TRAMPOLINE_PA, TRAMPOLINE_PA + TRAMPOLINE_LEN, E820_RAM);
    add_range(shift, pa_of((void *)facts.rom_start), E820_RAM);
    add_range(pa_of((void *)facts.rom_start), pa_of((void *)facts.rom_end), E820_RESERVED);
    add_range(pa_of((void *)facts.rom_end), tables, E820_RAM);
    add_range(tables, tables_end, E820_RESERVED);
    add_range(tables_end, shift + facts.image_len, E820_RAM);
}

/* What the image was made with, then what Xen was given for domain 0. */
static void tell_command_line(const struct start_info *start)
{
    char *line = (char *)facts.command_line, *last = line + facts.command_line_len - 1;
    for (const char *c = (const char *)facts.append; *c && line < last;) *line++ = *c++;
    if (*start->command_line && line < last) *line++ = ' ';
    for (const char *c = start->command_line; *c && line < last;) *line++ = *c++;
    *line = 0;
}

static void tell_kernel(const struct start_info *start)
{
    put16(BOOT_VERSION, 0x209);
    *boot(BOOT_LOADER) = LOADER_UNDEFINED;
    if (facts.initrd_len) {
        put32(RAMDISK, pa_of((void *)facts.initrd));
        put32(RAMDISK_LEN, facts.initrd_len);
    }
    tell_memory(start);
    tell_command_line(start);
    if (facts.max_pfn_mapped) *(u32 *)facts.max_pfn_mapped = (shift + facts.image_len) >> 12;
    *(u32 *)facts.fixaddr_top = FIXADDR_TOP;
}

/* Runs at the new addresses; `info` has been moved. */
struct start load(struct start_info *info)
{
    info->pt_base += shift;
    pages = facts.image_len >> 12;
    hook_early_traps();
    adopt_boot_tables(info->pt_base, info->nr_pt_frames);
    make_rom(rom_page);
    map_low_memory(info->shared_info_pa);
    share_kernel_tables();
    tell_kernel(info);
    start_timer();
    bind_interrupts();
    say("domain 0 at %x, %x pages", shift, pages);
    return (struct start){ facts.entry, *(u32 *)facts.stack };
}
