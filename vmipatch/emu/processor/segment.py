# SPDX-License-Identifier: MIT
"""What does a segment register hold, and which are there?"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class SegReg(enum.IntEnum):
    """Segment registers in the order of their encoding."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment register with its hidden part.

    `limit` counts bytes; `attributes` is the upper half of a descriptor, base and limit included.
    """

    selector: int
    base: int
    limit: int
    attributes: int

    @property
    def dpl(self) -> int:
        """Privilege level of the descriptor."""
        return self.attributes >> 13 & 3


NULL_SEGMENT: Final = SegmentState(0, 0, 0, 0)
