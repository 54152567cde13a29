# SPDX-License-Identifier: MIT
"""How a rewritten kernel or module becomes its input again, to the last byte, by a note in it."""

from vmipatch.restore.frame import (
    Frame,
    Written,
    body_inside,
    file_of,
    frame_note,
    listed,
    note_inside,
    read_notes,
    restore_bzimage,
)
from vmipatch.restore.module import (
    WantedModule,
    add_module_note,
    is_canonical_module,
    restore_module,
)
from vmipatch.restore.note import SECTION, Gives, Note, is_canonical
from vmipatch.restore.rebuild import Restored, placed, rebuild, restore
from vmipatch.restore.runs import CopyRun, Pads, WithoutNote, padded_sites
from vmipatch.restore.take import (
    Noted,
    Wanted,
    add_note,
    empty_note,
    make_note,
    with_note,
    without_note,
)

__all__ = [
    "SECTION",
    "CopyRun",
    "Frame",
    "Gives",
    "Note",
    "Noted",
    "Pads",
    "Restored",
    "Wanted",
    "WantedModule",
    "WithoutNote",
    "Written",
    "add_module_note",
    "add_note",
    "body_inside",
    "empty_note",
    "file_of",
    "frame_note",
    "is_canonical",
    "is_canonical_module",
    "listed",
    "make_note",
    "note_inside",
    "padded_sites",
    "placed",
    "read_notes",
    "rebuild",
    "restore",
    "restore_bzimage",
    "restore_module",
    "with_note",
    "without_note",
]
