# SPDX-License-Identifier: MIT
"""Which changes does a campaign make of one file, in which order, each from a seed of its own?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.verify.adversarial import of_added, of_contents, of_headers, of_tables
from tests.verify.adversarial.kinds import OF_ELF, ChangeKind, NotHere, Target
from tests.verify.edit import FileEdit
from vmipatch.image.elf import ElfImage

MODULES = (of_headers, of_tables, of_contents, of_added)
"""Their functions are in the registry."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One change that is to be made."""

    kind: str
    target: Target
    round: int
    """Which time this target has its turn."""

    def seed(self, seed: int) -> str:
        """Of its random numbers, in a campaign of a seed."""
        return f"{seed}/{self.kind}/{self.target}/{self.round}"


def planned(image: Any, seed: int, count: int, kinds: Mapping[str, ChangeKind] = OF_ELF
            ) -> list[Planned]:  # fmt: skip
    """`count` changes: all targets of all kinds, or of each kind its share, at least one."""
    dice = random.Random(seed)
    every: dict[str, list[Planned]] = {}
    for name, kind in kinds.items():
        turns = [Planned(name, t, r) for t in kind.targets(image) for r in range(kind.weight)]
        dice.shuffle(turns)
        turns.sort(key=lambda turn: turn.round)
        every[name] = turns
    total = sum(map(len, every.values()))
    share = min(count / max(total, 1), 1)
    chosen: list[Planned] = []
    for turns in every.values():
        chosen += turns[: max(round(len(turns) * share), 1)]
    dice.shuffle(chosen)
    return chosen


def changed(image: ElfImage, one: Planned, seed: int, kinds: Mapping[str, ChangeKind] = OF_ELF
            ) -> tuple[bytes, str]:  # fmt: skip
    """The file after a change, and what was changed. Raises NotHere if nothing was."""
    edit = FileEdit.of(image)
    dice = random.Random(one.seed(seed))
    what = kinds[one.kind].apply(edit, dice, one.target)
    data = edit.file()
    if data == image.data:
        raise NotHere
    return data, what
