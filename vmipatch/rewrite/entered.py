# SPDX-License-Identifier: MIT
"""Will the runtime of a rewritten kernel ever run?"""

from __future__ import annotations

import numpy as np

from vmipatch.errors import InputNotUnderstood, NotSupported
from vmipatch.image.hook import START
from vmipatch.isa.decode import Flow
from vmipatch.limits import Limit
from vmipatch.scan.code import CodeMap
from vmipatch.scan.hook import Hook


def require_entered(code_map: CodeMap) -> None:
    """Raise unless something enters the function before which the runtime is to run.

    NotSupported if nothing does, or if what does cannot be redirected; InputNotUnderstood for a
    name that was given and is not that of one function.
    """
    image, name, hook = code_map.image, code_map.start, code_map.hook
    if hook is None and name == START:
        raise NotSupported(
            Limit.NOT_ENTERED,
            f"it has no {START}, before which the runtime would run",
            file=image.name,
            place="symbols",
        )
    if hook is None:
        raise InputNotUnderstood(
            f"no code, or more than one function, has the name {name}",
            file=image.name,
            place="symbols",
            hint="name one function that is entered once, in protected mode and with its page "
            "tables in use",
        )
    if not hook.is_entered:
        raise NotSupported(
            Limit.NOT_ENTERED,
            f"no branch and no absolute word targets {name}, before which the runtime would run",
            file=image.name,
            place=f"{hook.va:#x} ({name})",
        )
    _require_redirectable(code_map, hook)


def _require_redirectable(code_map: CodeMap, hook: Hook) -> None:
    """Raise NotSupported for a branch that has no form with which it reaches the runtime."""
    places = np.array(hook.branches, np.int64)
    for stream in code_map.streams.values():
        which = np.searchsorted(stream.starts, places[_inside(places, stream.va, stream.end_va)])
        for index in which[stream.flows[which] == Flow.LOOP][:1].tolist():
            va = int(stream.starts[index])
            raise NotSupported(
                Limit.STUCK_BRANCH,
                f"loop and jecxz have no near form, and this one targets {hook.name}",
                file=code_map.image.name,
                place=f"{va:#x} ({code_map.image.symbols.place_of(va)})",
                hint="enter the function by a jump or a call",
            )


def _inside(vas: np.ndarray, start_va: int, end_va: int) -> np.ndarray:
    result: np.ndarray = (vas >= start_va) & (vas < end_va)
    return result
