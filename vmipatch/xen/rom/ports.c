/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Where does port input and output go? Interrupt controllers and timer are the ROM's; for the rest
 * Xen performs the instruction, if it lets domain 0 have the port. With I/O privilege Xen takes CLI
 * and STI of the kernel for harmless and ignores them, so the ROM has it for one access only.
 */

#include "rom.h"

static u32 guest_iopl;

static void set_privilege(u32 level) { hypercall(HYPERCALL_PHYSDEV_OP, PHYSDEV_SET_IOPL, &level); }

/* SetIOPLMask: the kernel runs a process that may use ports. */
void set_iopl(u32 level)
{
    guest_iopl = level & 3;
    set_privilege(guest_iopl == 3 ? 3 : 0);
}

static void begin_access(void)
{
    if (guest_iopl != 3) set_privilege(1);
}

static void end_access(void)
{
    if (guest_iopl != 3) set_privilege(0);
}

u32 port_in(u32 port, u32 width)
{
    u32 value = 0;
    if (pic_in(port, &value) || timer_in(port, &value)) return value;
    begin_access();
    if (width == 1) asm volatile("inb %%dx, %%al" : "+a"(value) : "d"(port));
    else if (width == 2) asm volatile("inw %%dx, %%ax" : "+a"(value) : "d"(port));
    else asm volatile("inl %%dx, %%eax" : "+a"(value) : "d"(port));
    end_access();
    return value;
}

void port_out(u32 port, u32 value, u32 width)
{
    if (pic_out(port, value) || timer_out(port, value)) return;
    begin_access();
    if (width == 1) asm volatile("outb %%al, %%dx" ::"a"(value), "d"(port));
    else if (width == 2) asm volatile("outw %%ax, %%dx" ::"a"(value), "d"(port));
    else asm volatile("outl %%eax, %%dx" ::"a"(value), "d"(port));
    end_access();
}

/* INS: `ecx` elements to `edi`, which go on as the instruction's registers do. DF is clear. */
void string_in(u32 *edi, u32 *ecx, u32 port, u32 width)
{
    for (; *ecx; --*ecx, *edi += width) {
        u32 value = port_in(port, width);
        copy((void *)*edi, &value, width);
    }
}

void string_out(u32 *esi, u32 *ecx, u32 port, u32 width)
{
    for (; *ecx; --*ecx, *esi += width) {
        u32 value = 0;
        copy(&value, (const void *)*esi, width);
        port_out(port, value, width);
    }
}
