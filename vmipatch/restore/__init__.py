# SPDX-License-Identifier: MIT
"""How a rewritten kernel becomes its input again, to the last byte, by a note inside of it."""

from vmipatch.restore.note import Gives
from vmipatch.restore.rebuild import Restored, restore
from vmipatch.restore.take import Noted, add_note, empty_note, without_debug

__all__ = ["Gives", "Noted", "Restored", "add_note", "empty_note", "restore", "without_debug"]
