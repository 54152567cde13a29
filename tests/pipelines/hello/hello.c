// SPDX-License-Identifier: GPL-2.0-only OR MIT
// A module of a user's: instructions that would be silently wrong at CPL 1 if nothing rewrote them.
#include <linux/init.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <asm/processor.h>

static int __init hello_init(void)
{
	unsigned long flags;

	local_irq_save(flags);
	pr_info("hello: %s, cpuid %x\n", irqs_disabled() ? "interrupts are off" : "wrong",
		cpuid_eax(0) != 0);
	local_irq_restore(flags);
	pr_info("hello: %s\n", irqs_disabled() ? "wrong" : "interrupts are on");
	return 0;
}

static void __exit hello_exit(void)
{
	pr_info("hello: gone\n");
}

module_init(hello_init);
module_exit(hello_exit);
MODULE_DESCRIPTION("Says whether interrupts are on");
MODULE_LICENSE("Dual MIT/GPL");
