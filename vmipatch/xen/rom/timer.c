/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What time is it, and when does the kernel's timer tick?
 *
 * Channel 0 of the kernel's PIT is a timer of Xen's; the other channels are Xen's own emulation.
 * Registers: 8254 data sheet. No 64-bit division: there is no library to do it.
 */

#include "rom.h"

#define PIT_HZ 1193182ull
#define SECOND 1000000000ull
#define COUNT_SHIFT 22             /* nanoseconds of a count, times 2^22, fit 32 bits */
#define NANOSECONDS ((u32)((SECOND << COUNT_SHIFT) / PIT_HZ))
#define COUNTS ((u32)((PIT_HZ << 32) / SECOND))

#define PIT_CHANNEL_0 0x40
#define PIT_COMMAND 0x43
#define MODE_RATE 2                /* modes 2 and 3 repeat */
#define MODE_SQUARE 3

static u32 mode, reload, written, low_byte, read_high;
static u32 latched, latched_value;
static u64 started, expiry, period;
static int armed;

static u64 read_tsc(void)
{
    u64 value;
    asm volatile("rdtsc" : "=A"(value));
    return value;
}

/* (value * factor) >> 32 */
static u64 scaled(u64 value, u32 factor)
{
    return ((u64)(u32)value * factor >> 32) + (value >> 32) * factor;
}

/* Xen's system time in nanoseconds (public/xen.h, vcpu_time_info). */
u64 now(void)
{
    volatile struct vcpu_time *time = &THIS_VCPU.time;
    u32 version;
    u64 result;
    do {
        version = time->version;
        u64 passed = read_tsc() - time->tsc_timestamp;
        passed = time->tsc_shift < 0 ? passed >> -time->tsc_shift : passed << time->tsc_shift;
        result = time->system_time + scaled(passed, time->tsc_to_system_mul);
    } while (version != time->version || (version & 1));
    return result;
}

static void arm(void) { hypercall(HYPERCALL_SET_TIMER_OP, (u32)expiry, (u32)(expiry >> 32)); }

static void disarm(void)
{
    armed = 0;
    hypercall(HYPERCALL_SET_TIMER_OP, 0, 0);
}

/* The kernel has written a count: 0 stands for 65536. */
static void count_from(u32 count)
{
    reload = count ? count : 65536;
    started = now();
    u64 length = (u64)reload * NANOSECONDS >> COUNT_SHIFT;
    period = mode == MODE_RATE || mode == MODE_SQUARE ? length : 0;
    expiry = started + length;
    armed = 1;
    arm();
}

/* The event of the timer: interrupt line 0 is raised; ticks that were missed are one. */
void timer_expired(void)
{
    u64 time = now();
    if (!armed) return;
    if (time < expiry) {
        arm();
        return;
    }
    raise_irq(0);
    if (!period) {
        armed = 0;
        return;
    }
    do expiry += period;
    while (expiry <= time);
    arm();
}

static u32 counter(void)
{
    u32 passed = (u32)scaled(now() - started, COUNTS);
    if (!reload) return 0;
    return mode == MODE_RATE || mode == MODE_SQUARE ? reload - passed % reload : reload - passed;
}

int timer_in(u32 port, u32 *value)
{
    if (port != PIT_CHANNEL_0) return 0;
    u32 count = latched ? latched_value : counter();
    *value = read_high ? count >> 8 & 0xff : count & 0xff;
    if (read_high) latched = 0;
    read_high = !read_high;
    return 1;
}

int timer_out(u32 port, u32 value)
{
    if (port == PIT_COMMAND && !(value & 0xc0)) {          /* of channel 0 */
        read_high = 0;
        if (value & 0x30) {
            mode = value >> 1 & 7;
            if (mode > 5) mode -= 4;
            written = 0;
            disarm();
        } else {
            latched = 1;
            latched_value = counter();
        }
        return 1;
    }
    if (port != PIT_CHANNEL_0) return 0;
    if (written) count_from(low_byte | (value & 0xff) << 8);
    else low_byte = value & 0xff;
    written = !written;
    return 1;
}

void start_timer(void) { hypercall(HYPERCALL_VCPU_OP, VCPU_STOP_PERIODIC_TIMER, 0, 0); }
