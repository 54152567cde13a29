# SPDX-License-Identifier: MIT
"""Which long step is under way? A caller that wants to show it listens; no result depends on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Tell = Callable[[int, int], None]
"""Is told how much of how many a step has done."""
Listener = Callable[[str], AbstractContextManager[Tell]]
"""Gets the name of a step; what it returns is entered when the step begins, left when it ends."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Steps of this thread are announced to `listener`, until the context ends."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextlib.contextmanager
def step(name: str) -> Iterator[Tell]:
    """The body is one step, `name` what it does: "laying out code".

    A body that can count gives the value how much it has done, and of how many.
    """
    listener = _LISTENER.get()
    with contextlib.nullcontext(_to_no_one) if listener is None else listener(name) as tell:
        yield tell


def _to_no_one(done: int, total: int) -> None:
    """Without a listener."""
