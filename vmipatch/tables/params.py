# SPDX-License-Identifier: MIT
"""Which functions read the kernel's command line: __setup() and built-in module parameters.

`struct obs_kernel_param` of include/linux/init.h, 12 bytes since 2.6.16 (2.6.18 to 6.1), and
`struct kernel_param` of include/linux/moduleparam.h: with two functions (2.6.18; 2.6.32 splits the
permissions), with a table of functions (2.6.39), with the module as well (4.4 to 6.1). The argument
may be the address of anything, or a number.
"""

from __future__ import annotations

from vmipatch.tables.layout import TableKind
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.record import code, data, datum, number, record
from vmipatch.tables.table import TableName

PERMISSIONS = 0o10000
"""File modes are below this."""

SETUP_PARAMS = TableKind(
    TableName.SETUP_PARAMS,
    first_of(between("__setup_start", "__setup_end"), section(".init.setup")),
    (
        record(
            "u32 text, u32 function, s32 early",
            data("text"),
            code("function"),
            number("early", below=2),
        ),
    ),
)

MODULE_PARAMS = TableKind(
    TableName.MODULE_PARAMS,
    first_of(between("__start___param", "__stop___param"), section("__param")),
    (
        record(
            "u32 name, u32 module, u32 operations, u16 permissions, s8 level, u8 flags, u32 arg",
            data("name"),
            data("module", nullable=True),
            data("operations"),
            number("permissions", 2, below=PERMISSIONS),
            number("level", 1),
            number("flags", 1),
            datum("argument"),
        ),
        record(
            "u32 name, u32 operations, u16 permissions, u16 flags or level, u32 arg",
            data("name"),
            data("operations"),
            number("permissions", 2, below=PERMISSIONS),
            number("flags", 2),
            datum("argument"),
        ),
        record(
            "u32 name, u16 permissions, u16 flags, u32 set, u32 get, u32 arg",
            data("name"),
            number("permissions", 2, below=PERMISSIONS),
            number("flags", 2),
            code("set", nullable=True),
            code("get", nullable=True),
            datum("argument"),
        ),
    ),
)
