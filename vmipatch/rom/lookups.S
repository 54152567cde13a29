# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Arithmetic by table. Loads leave the flags alone, AND and OR do not: an entry that looks its
# results up neither spoils the caller's flags nor spends two instructions on saving them.

BODY(LOOKUPS, paravirt)
# Bit 1 of a byte, in place: 0 or 2. It is IF in byte 1 of EFLAGS, VM in byte 2.
bit1_of:
    .fill 64, 4, 0x02020000
# A selector's low byte for CPL 1: RPL 0 becomes RPL 1, the rest stays.
rpl1_of:
    RPL1_TABLE
