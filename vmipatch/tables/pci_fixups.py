# SPDX-License-Identifier: MIT
""".pci_fixup: which functions repair which PCI devices.

include/linux/pci.h, `struct pci_fixup`. Eight tables by phase of the boot lie side by side in
one section, entries alike: they are read as one.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Form, Role, TableName


def _check(draft: Draft) -> None:
    draft.require_code("hook")


def _layout(name: str, form: Form) -> Layout:
    return Layout(
        name,
        np.dtype(
            [
                ("vendor", "<u2"),
                ("device", "<u2"),
                ("class", "<u4"),
                ("class_shift", "<u4"),
                ("hook", "<u4"),
            ]
        ),
        (Field("hook", form, Role.FUNCTION),),
        _check,
    )


PCI_FIXUPS = TableKind(
    TableName.PCI_FIXUPS,
    first_of(
        between("__start_pci_fixups_early", "__end_pci_fixups_suspend_late"),
        section(".pci_fixup"),
    ),
    (
        _layout(
            "16 bytes: u16 vendor, u16 device, u32 class, u32 class_shift, s32 hook",
            Form.RELATIVE,
        ),
        _layout(
            "16 bytes: u16 vendor, u16 device, u32 class, u32 class_shift, u32 hook",
            Form.ABSOLUTE,
        ),
    ),
)
