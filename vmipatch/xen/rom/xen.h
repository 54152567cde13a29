/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What does Xen promise a 32-bit paravirtual guest?
 *
 * Numbers and layouts of the public interface, as Xen's public headers give them: xen.h,
 * arch-x86/xen.h, arch-x86/xen-x86_32.h, event_channel.h, physdev.h, sched.h, vcpu.h.
 */
#ifndef VMIPATCH_XEN_H
#define VMIPATCH_XEN_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;

enum hypercall {
    HYPERCALL_SET_TRAP_TABLE = 0,
    HYPERCALL_MMU_UPDATE = 1,
    HYPERCALL_SET_GDT = 2,
    HYPERCALL_STACK_SWITCH = 3,
    HYPERCALL_SET_CALLBACKS = 4,
    HYPERCALL_SET_DEBUGREG = 8,
    HYPERCALL_GET_DEBUGREG = 9,
    HYPERCALL_UPDATE_DESCRIPTOR = 10,
    HYPERCALL_UPDATE_VA_MAPPING = 14,
    HYPERCALL_SET_TIMER_OP = 15,
    HYPERCALL_XEN_VERSION = 17,
    HYPERCALL_CONSOLE_IO = 18,
    HYPERCALL_IRET = 23,
    HYPERCALL_VCPU_OP = 24,
    HYPERCALL_MMUEXT_OP = 26,
    HYPERCALL_SCHED_OP = 29,
    HYPERCALL_EVENT_CHANNEL_OP = 32,
    HYPERCALL_PHYSDEV_OP = 33,
};

enum mmuext { PIN_L2_TABLE = 1, UNPIN_TABLE = 4, TLB_FLUSH_LOCAL = 6, INVLPG_LOCAL = 7, SET_LDT = 13 };
enum sched_op { SCHED_BLOCK = 1, SCHED_SHUTDOWN = 2 };
enum shutdown_reason { SHUTDOWN_POWEROFF = 0, SHUTDOWN_REBOOT = 1 };
enum event_channel_op { EVENT_BIND_VIRQ = 1, EVENT_BIND_PIRQ = 2 };
enum physdev_op { PHYSDEV_SET_IOPL = 6, PHYSDEV_EOI = 12, PHYSDEV_MAP_PIRQ = 13, PHYSDEV_SETUP_GSI = 21 };

#define VIRQ_TIMER 0
#define VCPU_STOP_PERIODIC_TIMER 7
#define DOMID_SELF 0x7ff0
#define MAP_PIRQ_TYPE_GSI 1
#define UVMF_INVLPG 2              /* update_va_mapping: and forget the old translation */
#define TRAP_MASKS_EVENTS 4        /* struct trap_info: virtual IF is off in the handler */
#define FLAT_RING1_CS 0xe019
#define FLAT_RING1_DS 0xe021

struct start_info {
    char magic[32];
    u32 nr_pages;                  /* of the domain */
    u32 shared_info_pa;            /* a machine address */
    u32 flags;
    u32 store_mfn, store_channel;
    u32 console_offset, console_size;
    u32 pt_base;                   /* linear address of the level-3 table */
    u32 nr_pt_frames;
    u32 mfn_list;                  /* linear address of a word for each page: its machine frame */
    u32 mod_start, mod_len;
    char command_line[1024];
};

struct trap_info {
    u8 vector, flags;              /* flags: DPL of INT n, TRAP_MASKS_EVENTS */
    u16 cs;
    u32 address;
};

struct vcpu_time {
    u32 version;                   /* odd while Xen writes */
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time;               /* nanoseconds at tsc_timestamp */
    u32 tsc_to_system_mul;
    s8 tsc_shift;
    u8 pad1[3];
};

struct vcpu_info {
    u8 upcall_pending, upcall_mask;
    u8 pad[2];
    u32 pending_words;
    u32 cr2;
    u32 arch_pad[5];
    struct vcpu_time time;
};

struct shared_info {
    struct vcpu_info vcpu[32];
    u32 events_pending[32];
    u32 events_masked[32];
    u32 wall_version, wall_seconds, wall_nanoseconds;
};

struct bind_virq { u32 virq, vcpu, port; };
struct bind_pirq { u32 pirq, flags, port; };
struct setup_gsi { int gsi; u8 triggering, polarity; };
struct map_pirq { u16 domain; u16 pad; int type, index, pirq, bus, devfn, entry; u64 table_base; };

_Static_assert(sizeof(struct vcpu_info) == 64, "vcpu_info");
_Static_assert(__builtin_offsetof(struct shared_info, events_pending) == 2048, "shared_info");

#endif
