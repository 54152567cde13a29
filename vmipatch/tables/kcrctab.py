# SPDX-License-Identifier: MIT
"""__kcrctab and kin: which words look like addresses and are checksums of exports.

One u32 for each entry of the __ksymtab of the same suffix. Up to 5.18 the linker fills it from
absolute symbols `__crc_*` (include/linux/module.h of 2.6.18, export.h of 4.19), so that the words
have relocations, and a checksum may happen to lie between the ends of the image: it must stay
as it is whatever moves.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.ksymtab import ALL_KSYMTABS
from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Role, TableName, WordForm


def _check(draft: Draft) -> None:
    name = draft.name.value.replace("kcrctab", "ksymtab")
    exports = next(kind for kind in ALL_KSYMTABS if kind.name.value == name).parse(draft.view)
    count = 0 if exports is None else len(exports)
    if count != len(draft):
        raise draft.refusal(f"there are {len(draft)} checksums of {count} exports")


_LAYOUT = TableLayout(
    "4 bytes: u32 checksum",
    np.dtype([("checksum", "<u4")]),
    (TableField("checksum", WordForm.VALUE, Role.DATA),),
    _check,
)


def _kind(name: TableName) -> TableKind:
    bounds = between(f"__start_{name.value}", f"__stop_{name.value}")
    return TableKind(name, first_of(bounds, section(name.value)), (_LAYOUT,))


KCRCTAB = _kind(TableName.KCRCTAB)
KCRCTAB_GPL = _kind(TableName.KCRCTAB_GPL)
KCRCTAB_UNUSED = _kind(TableName.KCRCTAB_UNUSED)
KCRCTAB_UNUSED_GPL = _kind(TableName.KCRCTAB_UNUSED_GPL)
KCRCTAB_GPL_FUTURE = _kind(TableName.KCRCTAB_GPL_FUTURE)

ALL_KCRCTABS = (KCRCTAB, KCRCTAB_GPL, KCRCTAB_UNUSED, KCRCTAB_UNUSED_GPL, KCRCTAB_GPL_FUTURE)
