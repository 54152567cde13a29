# SPDX-License-Identifier: MIT
""".notes: at which physical address does a PVH loader enter the kernel.

The ELF note `Xen` of type 18 (XEN_ELFNOTE_PHYS32_ENTRY), arch/x86/platform/pvh/head.S. It has a
relocation in .rel.notes but none in the list that the decompressor walks.
"""

from __future__ import annotations

import struct

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import Range
from vmipatch.tables.source import ImageSource
from vmipatch.tables.table import Role, TableName, WordForm
from vmipatch.tables.view import ImageView

NOTE_HEADER = struct.Struct("<III")
PHYS32_ENTRY = (b"Xen\0", 18)
WORD_LEN = 4


def _locate(image: ImageSource) -> Range | None:
    notes = image.section_by_name.get(".notes")
    if notes is None or not notes.has_bytes or not notes.size:
        return None
    data = image.read(notes.va, notes.size)
    at = 0
    while at < len(data):
        if at + NOTE_HEADER.size > len(data):
            raise _overrun(image, notes.va + at)
        name_len, desc_len, kind = NOTE_HEADER.unpack_from(data, at)
        name_at = at + NOTE_HEADER.size
        desc_at = name_at + _aligned(name_len)
        if desc_at + desc_len > len(data):
            raise _overrun(image, notes.va + at)
        if (data[name_at : name_at + name_len], kind) == PHYS32_ENTRY:
            return Range(notes.va + desc_at, notes.va + desc_at + desc_len)
        at = desc_at + _aligned(desc_len)
    return None


def _aligned(length: int) -> int:
    return -(-length // WORD_LEN) * WORD_LEN


def _overrun(image: ImageSource, va: int) -> MalformedTable:
    return MalformedTable(
        f"{TableName.PVH_NOTE.value}: a note runs over the end of .notes",
        file=image.name,
        place=f"{va:#x}",
    )


def _physical_offset(view: ImageView) -> int:
    """Linked minus physical addresses, of the first segment: that of the code."""
    first = next(iter(view.image.loads), None)
    return 0 if first is None else first.va - first.pa


def _check(draft: Draft) -> None:
    if len(draft) != 1:
        raise draft.refusal("the entry point is not one word")
    draft.require_code("entry")


PVH_NOTE = TableKind(
    TableName.PVH_NOTE,
    _locate,
    (
        TableLayout(
            "4 bytes: u32 physical entry",
            np.dtype([("entry", "<u4")]),
            (TableField("entry", WordForm.PHYSICAL, Role.FUNCTION),),
            _check,
            base=_physical_offset,
        ),
    ),
)
