/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Which interrupt does the kernel get next? Two 8259A controllers, fed by event channels.
 *
 * Xen keeps the real controllers. An interrupt line that it gives to the domain, and its timer, are
 * events; a handler in the kernel's IDT gets them. Registers: 8259A data sheet.
 */

#include "rom.h"

#define LINES 16u
#define CASCADE 2u
#define EVENTS 32u                 /* those of the first word are more than we bind */
#define TRIGGER_MODES 0x4d0        /* of the chipset: a bit for each line, 1 means level */

#define ICW1 0x10
#define IS_OCW3 0x08
#define READ_ISR 0x03
#define EOI 0x20
#define EOI_SPECIFIC 0x40

static u16 requested, in_service, masked = 0xffff;
static struct chip { u8 vector, initializing, read_isr; } chips[2] = { { 0x08, 0, 0 }, { 0x70, 0, 0 } };
static u8 line_of_event[EVENTS];
static u32 bound_events;

static void bind_event(u32 event, u32 irq)
{
    if (event >= EVENTS) stop("Xen gave an event channel beyond the first word");
    line_of_event[event] = (u8)irq;
    bound_events |= 1u << event;
    shared.events_masked[0] &= ~(1u << event);
}

static void bind_line(u32 irq, int is_level)
{
    struct setup_gsi gsi = { (int)irq, (u8)is_level, (u8)is_level };
    struct map_pirq mapping = { .domain = DOMID_SELF, .type = MAP_PIRQ_TYPE_GSI, .index = (int)irq, .pirq = (int)irq };
    struct bind_pirq binding = { irq, 0, 0 };
    /* What Xen uses itself it does not give: such a line stays silent. */
    if (hypercall(HYPERCALL_PHYSDEV_OP, PHYSDEV_SETUP_GSI, &gsi)) return;
    if (hypercall(HYPERCALL_PHYSDEV_OP, PHYSDEV_MAP_PIRQ, &mapping)) return;
    if (hypercall(HYPERCALL_EVENT_CHANNEL_OP, EVENT_BIND_PIRQ, &binding)) return;
    bind_event(binding.port, irq);
}

void bind_interrupts(void)
{
    struct bind_virq timer = { VIRQ_TIMER, 0, 0 };
    if (hypercall(HYPERCALL_EVENT_CHANNEL_OP, EVENT_BIND_VIRQ, &timer)) stop("Xen gives no timer");
    bind_event(timer.port, 0);
    u32 level = port_in(TRIGGER_MODES, 1) | port_in(TRIGGER_MODES + 1, 1) << 8;
    for (u32 irq = 1; irq < LINES; irq++)
        if (irq != CASCADE) bind_line(irq, level >> irq & 1);
}

/* The lines that ask and may: those of the second controller come through the cascade. */
static u32 ready(void)
{
    u32 lines = requested & ~(u32)masked;
    return masked >> CASCADE & 1 ? lines & 0xff : lines;
}

/* Xen looks again on its next way to the kernel, and calls `upcall`. */
static void ask_again(void)
{
    THIS_VCPU.upcall_pending = 1;
    if (!THIS_VCPU.upcall_mask) hypercall(HYPERCALL_XEN_VERSION, 0, 0);
}

void raise_irq(u32 irq) { requested |= (u16)(1u << irq); }

/* Events have come: the handler of the interrupt to take now, 0 for none. */
u32 upcall(void)
{
    THIS_VCPU.upcall_pending = 0;
    u32 events = 0;
    if (__atomic_exchange_n(&THIS_VCPU.pending_words, 0, __ATOMIC_SEQ_CST) & 1)
        events = __atomic_exchange_n(&shared.events_pending[0], 0, __ATOMIC_SEQ_CST);
    events &= bound_events;
    for (u32 event = 0; event < EVENTS; event++) {
        if (!(events >> event & 1)) continue;
        if (line_of_event[event]) raise_irq(line_of_event[event]);
        else timer_expired();
    }
    u32 lines = ready();
    if (!lines || !has_idt()) return 0;
    u32 irq = (u32)__builtin_ctz(lines);
    requested &= (u16)~(1u << irq);
    in_service |= (u16)(1u << irq);
    if (ready()) THIS_VCPU.upcall_pending = 1;
    return guest_vector(chips[irq >> 3].vector + (irq & 7));
}

static void end_of_interrupt(u32 chip, u32 value)
{
    u32 of_chip = in_service >> (8 * chip) & 0xff, irq;
    if (value & EOI_SPECIFIC) irq = 8 * chip + (value & 7);
    else if (of_chip) irq = 8 * chip + (u32)__builtin_ctz(of_chip);
    else return;
    in_service &= (u16)~(1u << irq);
    if (irq && irq != CASCADE) hypercall(HYPERCALL_PHYSDEV_OP, PHYSDEV_EOI, &irq);
}

static void set_masks(u32 chip, u32 value)
{
    masked = chip ? (u16)((masked & 0xff) | value << 8) : (u16)((masked & 0xff00) | value);
    if (ready()) ask_again();
}

static void command(u32 number, u32 value)
{
    struct chip *chip = &chips[number];
    if (value & ICW1) {
        chip->initializing = 2;
        chip->read_isr = 0;
    } else if (value & IS_OCW3) {
        if (value & 2) chip->read_isr = (value & READ_ISR) == READ_ISR;
    } else if (value & EOI) {
        end_of_interrupt(number, value);
    }
}

static void data(u32 number, u32 value)
{
    struct chip *chip = &chips[number];
    if (!chip->initializing) {
        set_masks(number, value & 0xff);
        return;
    }
    if (chip->initializing == 2) chip->vector = value & 0xf8;
    chip->initializing = chip->initializing == 4 ? 0 : chip->initializing + 1;
}

static int is_pic(u32 port) { return (port & ~0x81u) == 0x20; }

int pic_out(u32 port, u32 value)
{
    if (!is_pic(port)) return 0;
    if (port & 1) data(port >> 7, value);
    else command(port >> 7, value);
    return 1;
}

int pic_in(u32 port, u32 *value)
{
    if (!is_pic(port)) return 0;
    u32 chip = port >> 7;
    u16 lines = port & 1 ? masked : chips[chip].read_isr ? in_service : requested;
    *value = lines >> (8 * chip) & 0xff;
    return 1;
}
