# SPDX-License-Identifier: MIT
"""Does the kernel do on a hypervisor that others wrote what it does alone? Xen, started in QEMU.

`machine` starts Xen with the kernel as domain 0, `interrupt_log` reads system calls out of what
QEMU logs, `compare` holds both against a boot without any hypervisor.
"""
