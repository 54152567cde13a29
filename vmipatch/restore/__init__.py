# SPDX-License-Identifier: MIT
"""How a rewritten kernel or module becomes its input again, to the last byte, by a note in it."""

from vmipatch.restore.frame import Frame, frame_note, listed, restore_bzimage
from vmipatch.restore.module import WantedModule, add_module_note, restore_module
from vmipatch.restore.note import Gives
from vmipatch.restore.rebuild import Restored, restore
from vmipatch.restore.runs import Body
from vmipatch.restore.take import Noted, Wanted, add_note, empty_note, make_note, without_note

__all__ = [
    "Body",
    "Frame",
    "Gives",
    "Noted",
    "Restored",
    "Wanted",
    "WantedModule",
    "add_module_note",
    "add_note",
    "empty_note",
    "frame_note",
    "listed",
    "make_note",
    "restore",
    "restore_bzimage",
    "restore_module",
    "without_note",
]
