# SPDX-License-Identifier: MIT
""".parainstructions: which indirect calls through pv_ops does the kernel replace at boot.

`struct paravirt_patch_site` of arch/x86/include/asm/paravirt_types.h; `struct paravirt_patch` of
include/asm-i386/paravirt.h in 2.6.20. The last two bytes are the registers that a replacement may
clobber (up to 4.20 or so), then filling. An unpatched site holds a `call *m32`, or a `jmp *m32`,
between pushes and pops of the registers it must keep (2.6.20), with a prefix %cs in entry code. The
operand is absolute, or whatever a compiler makes of "m" (up to 2.6.24, `call *12(%ebx)`).
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import U32, Mask, Role, TableName, WordForm

OPCODE, CALL, JMP = 0xFF, 2, 4
"""Of calls and jumps to what an operand holds: the middle of their ModRM says which it is."""
CALL_LEN = 2
"""The least, `call *(%eax)`."""


def _check(draft: Draft) -> None:
    site, length = draft.target("site"), draft.entries["len"].astype(np.int64)
    draft.require(length >= CALL_LEN, "is too short for an indirect call")
    draft.require(draft.view.code.hold(site, length), "lies outside of the code", site)
    draft.require(_holds_call(draft, site, length), "is not an indirect call or jump", site)


def _holds_call(draft: Draft, site: U32, length: np.ndarray) -> Mask:
    """Whether an indirect call or jump through memory lies inside of each site."""
    most = int(length.max())
    octets = np.pad(draft.view.bytes_at(site, most), ((0, 0), (0, 1)))
    found = np.zeros(len(site), dtype=np.bool_)
    for at in range(most - CALL_LEN + 1):
        opcode, modrm, sib = (octets[:, at + n] for n in range(3))
        here = (opcode == OPCODE) & np.isin(modrm >> 3 & 7, (CALL, JMP)) & (modrm >> 6 != 3)
        found |= here & (at + 2 + _operand_len(modrm, sib) <= length)
    return found


def _operand_len(modrm: np.ndarray, sib: np.ndarray) -> np.ndarray:
    """Bytes after the ModRM of an operand in memory (SDM vol. 2, table 2-2)."""
    mod, has_sib = modrm >> 6, modrm & 7 == 4
    is_absolute = (mod == 0) & (np.where(has_sib, sib, modrm) & 7 == 5)
    length: np.ndarray = has_sib + np.where((mod == 2) | is_absolute, 4, mod == 1)
    return length


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("site"), draft.entries["len"])


PARAINSTRUCTIONS = TableKind(
    TableName.PARAINSTRUCTIONS,
    first_of(
        between("__parainstructions", "__parainstructions_end"),
        between("__start_parainstructions", "__stop_parainstructions"),
        section(".parainstructions"),
    ),
    (
        TableLayout(
            "8 bytes: u32 site, u8 type, u8 len, u16 clobbers or filling",
            np.dtype([("site", "<u4"), ("type", "u1"), ("len", "u1"), ("clobbers", "<u2")]),
            (TableField("site", WordForm.ABSOLUTE, Role.INSTRUCTION),),
            _check,
            _places,
        ),
    ),
)
