# SPDX-License-Identifier: MIT
"""For which reasons may the manifest say that a sensitive instruction stayed as it was?"""

from __future__ import annotations

import enum


class NativeReason(enum.Enum):
    """The closed list; the words are those of the manifest."""

    NO_CALL = "no VMI call exists; it faults at CPL 1 and is emulated"
    NEVER_A_CALL = "loads SS or CS: a call cannot stand here; it faults unless the RPL fits"
    BEFORE_PAGING = "runs before paging is on, where no ROM is mapped"
    ALTERNATIVE = "the kernel replaces it by an alternative at boot"
    PATCHED = "the kernel patches this place at run time"
    REPLACEMENT = "an alternative: the kernel copies it over an original"
    COPIED = "the kernel copies this code elsewhere before it runs"
    FIXED_STRIDE = "lies in an array of code with a fixed stride"
    FIRMWARE = "calls firmware, on the firmware's terms"
    OTHER_SECTION = "lies in a section that is not laid out anew"
    FIXUP = "its fault has to find the kernel's exception table, which names the site"
    HELD_BY_FIXUP = "no room to widen it, and the exception table, which is sorted, names it"
    NO_TRANSLATION = "no thunk exists for this operand or operand size"
    NO_ROOM = "the region has no room for the padding it needs"
    EMULATED = "Xen emulates it after a prefix of its own, as long as nothing stands between"
    LABELLED = "a label names an operand in it, at a distance that the kernel may count on"
    OWN_ADDRESS = "computes addresses of code from its own, at distances that nothing records"
    SHORT_BRANCH = "a branch over it has no near form, and would miss its target if it grew"
    FIXED = "what may refer to this code is not certain, so it stays where it is"


OF_A_ZONE = frozenset(
    {
        NativeReason.BEFORE_PAGING,
        NativeReason.ALTERNATIVE,
        NativeReason.PATCHED,
        NativeReason.REPLACEMENT,
        NativeReason.COPIED,
        NativeReason.FIXED_STRIDE,
        NativeReason.FIRMWARE,
        NativeReason.EMULATED,
        NativeReason.OWN_ADDRESS,
    }
)
"""They hold of ranges of the original that the proof computes (zones)."""
OF_THE_LAYOUT = frozenset({NativeReason.NO_ROOM, NativeReason.SHORT_BRANCH})
"""Free decisions: an instruction that could have become a call and did not is as it was."""
