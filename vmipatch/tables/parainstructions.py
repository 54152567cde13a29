# SPDX-License-Identifier: MIT
""".parainstructions: which indirect calls through pv_ops does the kernel replace at boot.

arch/x86/include/asm/paravirt_types.h, `struct paravirt_patch_site`. The unpatched site is a
`call *m32` (or a tail `jmp *m32`), as the compiler left it.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import any_of
from vmipatch.tables.table import Form, Role, TableName

CALL_MEMORY, JMP_MEMORY = bytes.fromhex("ff15"), bytes.fromhex("ff25")
CALL_LEN = 6


def _check(draft: Draft) -> None:
    site, length = draft.target("site"), draft.entries["len"].astype(np.int64)
    draft.require(length >= CALL_LEN, "is too short for an indirect call")
    draft.require(draft.view.code.hold(site, length), "lies outside of the code", site)
    indirect = any_of(draft.view.bytes_at(site, 2), (CALL_MEMORY, JMP_MEMORY))
    draft.require(indirect, "is no indirect call or jump", site)


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("site"), draft.entries["len"])


PARAINSTRUCTIONS = TableKind(
    TableName.PARAINSTRUCTIONS,
    first_of(between("__parainstructions", "__parainstructions_end"), section(".parainstructions")),
    (
        Layout(
            "8 bytes: u32 site, u8 type, u8 len, padding",
            np.dtype([("site", "<u4"), ("type", "u1"), ("len", "u1"), ("pad", "<u2")]),
            (Field("site", Form.ABSOLUTE, Role.INSTRUCTION),),
            _check,
            _places,
        ),
    ),
)
