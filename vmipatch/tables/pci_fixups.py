# SPDX-License-Identifier: MIT
""".pci_fixup: which functions repair which PCI devices.

include/linux/pci.h, `struct pci_fixup`: 8 bytes up to 3.1 (2.6.18, 2.6.39), with a class and a
shift since (3.6), the hook relative from 4.19 on. Up to eight tables by phase of the boot lie side
by side in one section, entries alike: they are read as one.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Role, TableName, WordForm

SHIFTS = (0, 8, 16)
"""The values that `class_shift` may have, says its comment."""


def _check(draft: Draft) -> None:
    draft.require_code("hook")
    if "class_shift" in (draft.entries.dtype.names or ()):
        shift = draft.entries["class_shift"]
        draft.require(np.isin(shift, SHIFTS), "has no class shift", shift)


_DEVICE = [("vendor", "<u2"), ("device", "<u2")]
_CLASS = [("class", "<u4"), ("class_shift", "<u4")]


def _layout(name: str, columns: list[tuple[str, str]], form: WordForm) -> TableLayout:
    entry = np.dtype([*columns, ("hook", "<u4")])
    return TableLayout(name, entry, (TableField("hook", form, Role.FUNCTION),), _check)


PCI_FIXUPS = TableKind(
    TableName.PCI_FIXUPS,
    first_of(
        between("__start_pci_fixups_early", "__end_pci_fixups_suspend_late"),
        section(".pci_fixup"),
    ),
    (
        _layout(
            "16 bytes: u16 vendor, u16 device, u32 class, u32 class_shift, s32 hook",
            [*_DEVICE, *_CLASS],
            WordForm.RELATIVE,
        ),
        _layout(
            "16 bytes: u16 vendor, u16 device, u32 class, u32 class_shift, u32 hook",
            [*_DEVICE, *_CLASS],
            WordForm.ABSOLUTE,
        ),
        _layout("8 bytes: u16 vendor, u16 device, u32 hook", _DEVICE, WordForm.ABSOLUTE),
    ),
)
