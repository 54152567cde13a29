# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the runtime says. Byte 1 and a digit are the kernel's mark of a line's level (6 is a message,
# 4 a warning); for a kernel older than 3.6 they are assembled as `<6>` and `<4>`.

vmi_said_no_rom:
    .asciz "\0016vmi: no ROM found, native\n"
vmi_said_version:
    .asciz "\0016vmi: ROM has another API version, native\n"
vmi_said_older:
    .asciz "\0016vmi: ROM of API 13 has no fallbacks, native\n"
vmi_said_pci:
    .asciz "\0016vmi: ROM has no PCI header, native\n"
vmi_said_licence:
    .asciz "\0016vmi: ROM has no GPL licence, native\n"
vmi_said_checksum:
    .asciz "\0016vmi: ROM has a wrong checksum, native\n"
vmi_said_damaged:
    .asciz "\0016vmi: annotations are damaged, native\n"
vmi_said_changed:
    .asciz "\0016vmi: code differs from its annotations, native\n"
vmi_said_init:
    .asciz "\0016vmi: ROM failed to initialize, native\n"
vmi_said_totals:
    .asciz "\0016vmi: paravirtual, %u of %u sites patched\n"
vmi_said_refused:
    .asciz "\0014vmi: ROM refuses call %u, the first of %u in thunks\n"
vmi_said_module:
    .asciz "\0016vmi: module %s, %u sites patched\n"
vmi_said_unrewritten:
    .asciz "\0014vmi: module %s refused: not rewritten, silently wrong here at %08x\n"
vmi_said_unsafe:
    .asciz "\0014vmi: module %s refused: rewritten, silently wrong here at %08x\n"
vmi_said_unserved:
    .asciz "\0014vmi: module %s refused: the ROM does not serve call %u of its thunks\n"
