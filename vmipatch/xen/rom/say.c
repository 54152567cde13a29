/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What does the ROM tell, and how does the domain end? Lines on Xen's own console. */

#include "rom.h"

#define MAX_REFUSALS_TOLD 20

static char line[128];
static u32 line_len;
static u32 refusals;

static void put(char c)
{
    line[line_len++] = c;
    if (c == '\n' || line_len == sizeof line) {
        hypercall(HYPERCALL_CONSOLE_IO, 0, line_len, line);
        line_len = 0;
    }
}

static void put_hex(u32 value)
{
    int digits = 1;
    while (digits < 8 && value >> (4 * digits)) digits++;
    while (digits--) put("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}

/* A line: %x takes a number and shows it in hexadecimal, %s a string. */
void say(const char *format, ...)
{
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    for (const char *c = "vmi: "; *c; c++) put(*c);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        if (*++format == 'x') {
            put_hex(__builtin_va_arg(arguments, u32));
        } else {
            for (const char *s = __builtin_va_arg(arguments, const char *); *s; s++) put(*s);
        }
    }
    put('\n');
    __builtin_va_end(arguments);
}

/* Xen would not do something that the kernel wants: it goes on without. */
void refused(const char *what, u32 where, u64 value, int error)
{
    if (refusals++ < MAX_REFUSALS_TOLD)
        say("Xen refused %s at %x, %x:%x, error %x", what, where, (u32)(value >> 32), (u32)value, -error);
}

void end(enum shutdown_reason reason)
{
    u32 argument = reason;
    say("domain 0 ends, %x hypercalls were refused", refusals);
    hypercall(HYPERCALL_SCHED_OP, SCHED_SHUTDOWN, &argument);
    for (;;) {}
}

void stop(const char *why)
{
    say("stop: %s", why);
    end(SHUTDOWN_REBOOT);
}
