# SPDX-License-Identifier: MIT
"""How did a run of a kernel end, in words?"""

from __future__ import annotations

from vmipatch.emu.report import Ending


class Ended:
    """The end of a run."""

    __slots__ = ()
    ending: Ending | None
    """None: the emulator gave up, which no sound kernel makes it do."""
    details: str

    @property
    def ended_by_guest(self) -> bool:
        """Whether the kernel meant to end the run."""
        return self.ending is not None and self.ending.by_guest

    @property
    def how(self) -> str:
        """The end in words."""
        what = self.ending.value if self.ending else "the emulator gave up"
        return f"{what} ({self.details})" if self.details else what
