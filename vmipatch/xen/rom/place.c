/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Where in the machine is domain 0, and how does everything get to where Linux expects it?
 *
 * Linux takes a physical address for the number of a page, and writes it into page tables that the
 * hardware reads: the domain's memory must be one block, and be mapped at PAGE_OFFSET plus its
 * machine address. Xen has mapped it at PAGE_OFFSET. So the same tables are entered a second time,
 * further up, and every word of kernel and ROM that holds an address is moved by the difference.
 *
 * This file runs where the image was linked, and is moved while it runs: both mappings hold.
 */

#include "rom.h"

volatile struct facts facts __attribute__((section(".facts"))) = { .page_offset = 1 };

#define BIG_LEN 0x200000u          /* what an entry of level 2 maps */
#define BELOW_VMALLOC 0xf7000000u  /* the kernel maps no memory above: 128 MiB are vmalloc's */

static void require_one_block(const struct start_info *start, const u32 *frames)
{
    u32 needed = facts.image_len >> 12, first = frames[0];
    if (start->nr_pages < needed) {
        say("the image is made for %x pages, domain 0 has %x", needed, start->nr_pages);
        stop("give Xen dom0_mem as `vmipatch xen-image` says");
    }
    for (u32 i = 1; i < needed; i++)
        if (frames[i] != first + i) stop("domain 0's memory is not one block, which Linux needs");
    if (first >= BELOW_VMALLOC >> 12 || facts.page_offset + (first << 12) + facts.image_len > BELOW_VMALLOC
        || (first << 12) + facts.image_len > BELOW_VMALLOC - facts.page_offset) {
        say("domain 0's memory begins at %x000", first);
        stop("domain 0's memory is higher than Linux maps: give Xen a smaller mem=");
    }
    if (first << 12 & (BIG_LEN - 1)) stop("domain 0's memory begins amid 2 MiB");
}

/* Level 2 maps everything once more, `by` bytes further up. */
static void map_again(const struct start_info *start, const u32 *frames, u32 by)
{
    const u64 *level_3 = (const u64 *)start->pt_base;
    for (u32 at = 0; at < facts.image_len; at += BIG_LEN) {
        u32 from = facts.page_offset + at, to = from + by, done;
        u32 table = (u32)(level_3[from >> 30] >> 12) - frames[0];
        const u64 *entries = (const u64 *)(facts.page_offset + (table << 12));
        u64 request[2] = { ((u32)level_3[to >> 30] & ~0xfffu) + (to >> 21 & 511) * 8, entries[from >> 21 & 511] };
        if (hypercall(HYPERCALL_MMU_UPDATE, request, 1, &done, DOMID_SELF))
            stop("Xen does not let domain 0 map its memory again");
    }
}

/* Returns how far everything was moved. From then on only the new addresses count. */
u32 place(const struct start_info *start)
{
    const u32 *frames = (const u32 *)start->mfn_list;
    u32 by = frames[0] << 12;
    require_one_block(start, frames);
    map_again(start, frames, by);
    const u32 *moves = (const u32 *)facts.moves;
    u32 count = facts.moves_len;
    for (u32 i = 0; i < count; i++) *(u32 *)moves[i] += by;
    shift = by;
    return by;
}
