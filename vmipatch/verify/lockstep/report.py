# SPDX-License-Identifier: MIT
"""How is a divergence shown? What each machine said, and what it had said before, with names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmipatch.image.symbols import SymbolTable
from vmipatch.verify.lockstep.compare import Divergence
from vmipatch.verify.lockstep.events import EventKind, SeenEvent
from vmipatch.verify.lockstep.world import NAMES

_NS_PER_S: Final = 1_000_000_000
_NOTHING: Final = "nothing more"
_USER: Final = frozenset(
    {EventKind.CALL, EventKind.RESULT, EventKind.FAULT, EventKind.SIGNAL, EventKind.PROCESS}
)
"""Kinds whose place is in a process."""


def headline(divergence: Divergence) -> str:
    """The divergence in one line."""
    if (wrong := divergence.wrong) is not None:
        return f"{divergence.channel}: {wrong.text}"
    said = (
        f"{name}: `{_NOTHING if side.event is None else side.event.text}`"
        for name, side in zip(NAMES, divergence.sides, strict=True)
    )
    return f"{divergence.channel}, event {divergence.number + 1}: {'; '.join(said)}"


def history(divergence: Divergence, symbols: tuple[SymbolTable, ...]) -> Iterator[str]:
    """Lines with the last events of each machine; `symbols` of the kernel that each one ran."""
    for name, side, table in zip(NAMES, divergence.sides, symbols, strict=True):
        yield f"{name}:"
        for event in side.before:
            mark = ">" if event is side.event else " "
            yield f"{mark} {_line(event, table)}"
        if side.event is None and divergence.wrong is None:
            yield f"> {'':14} {_NOTHING} of {divergence.channel}"


def _line(event: SeenEvent, symbols: SymbolTable) -> str:
    place = f"{event.va:#x}" if event.kind in _USER else symbols.place_of(event.va)
    return f"{event.now_ns / _NS_PER_S:12.6f} s {event.channel}: {event.text}  [{place}]"
