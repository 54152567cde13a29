# SPDX-License-Identifier: MIT
"""Which kinds of changes are there, and of what each? The registry that the modules `of_*` fill."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.verify.edit import OFFSET, SIZE, FileEdit

Target = tuple[Any, ...]
Targets = Callable[[Any], Sequence[Target]]
"""From an honest file, as its kinds of change take it."""
Apply = Callable[[FileEdit, random.Random, Any], str]
"""Changes an ELF file, and says how."""
EDGES = (0, 1, 2, 3, 4, 7, 8, 0xFF, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xC1000000, 0xFFF1)
"""Values at which programs that read a field decide otherwise."""


class NotHere(Exception):
    """A file has nothing that could be changed in this way."""


@dataclass(frozen=True, slots=True)
class ChangeKind:
    """One way to change a file."""

    name: str
    targets: Targets
    """The parts of a file that can be changed so, each once."""
    apply: Callable[..., Any]
    """Changes one target, and says how. Raises NotHere."""
    weight: int
    """How often each target is taken, each time with another value."""


OF_ELF: dict[str, ChangeKind] = {}
"""By name, in the order of definition."""


def kind(name: str, targets: Targets, weight: int = 1) -> Callable[[Apply], Apply]:
    """Register a function as the way to make changes of one kind."""

    def register(apply: Apply) -> Apply:
        OF_ELF[name] = ChangeKind(name, targets, apply, weight)
        return apply

    return register


def times(count: int) -> Targets:
    """A kind that draws its places itself: `count` of them."""
    return lambda _: [(number,) for number in range(count)]


def exchange(edit: FileEdit, section: str, unit: int, dice: random.Random) -> int:
    """Exchange two neighbours of `unit` bytes; the offset of the first. Raises NotHere."""
    head = edit.head(section)
    count = head[SIZE] // unit
    if count < 2:
        raise NotHere
    at = head[OFFSET] + unit * dice.randrange(count - 1)
    first, second = (bytes(edit.data[at + i : at + i + unit]) for i in (0, unit))
    if first == second:
        raise NotHere
    edit.data[at : at + 2 * unit] = second + first
    return at - head[OFFSET]


def other_value(old: int, dice: random.Random, width: int = 4) -> int:
    """Another value for a field of `width` bytes: at an edge, near, with a bit flipped, any."""
    most = (1 << 8 * width) - 1
    while True:
        flipped, near = old ^ 1 << dice.randrange(8 * width), old + dice.choice((-16, -4, -1, 1, 4))
        value = dice.choice((flipped, flipped, near, dice.choice(EDGES), dice.getrandbits(32)))
        if value & most != old:
            return value & most


def other_byte(old: int, dice: random.Random) -> int:
    """Another byte."""
    return old ^ dice.randrange(1, 256)
