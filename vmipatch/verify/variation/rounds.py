# SPDX-License-Identifier: MIT
"""How is the original booted so that it shows what it does by itself? In rounds, until it has.

A process that sleeps wakes with a tick of the timer, so that the phase of the timer is soon
forgotten: what the next tick interrupts is decided by the time that the code between two ticks
takes. Virtual time is counted in bytes of code, and a kernel with padding at its sites has more of
them. So some boots have a kernel that takes longer, and phase and drag are varied together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from vmipatch.verify.boots import BootOrder, BootResult
from vmipatch.verify.variation.runs import Variation

PERIOD: Final = 1000
"""Parts of a period of the timer, as BootOrder counts them."""
ROUNDS: Final = 4
"""Most of them: as many boots in each, with phases between those before."""
DRAGS: Final = (0, 120, 60, 180)
"""Of one boot after the other, in thousandths of a byte a block. The padding of a rewritten tiny
costs about 100: its boot takes 0.6 % longer, and one with 250 takes 1.5 %."""


def shifted(order: BootOrder, times: int, round_: int = 0) -> list[BootOrder]:
    """The same boot so many times, with phases that are evenly spread."""
    return [
        replace(
            order,
            timer_shift=(number * ROUNDS + round_) * PERIOD // (ROUNDS * (times + 1)),
            kernel_drag=DRAGS[(number + round_) % len(DRAGS)],
        )
        for number in range(1, times + 1)
    ]


def further(
    boots: Sequence[BootResult],
    compared: Sequence[BootResult],
    boot_round: Callable[[int], list[BootResult]],
    *,
    foreign: bool,
) -> list[BootResult]:
    """More boots of the original, round by round, while one of `compared` does what none does.

    `boots`: of the original, in round 0; `boot_round` boots it in the round of a number; `foreign`
    as for `Variation.of`.
    """
    more: list[BootResult] = []
    for number in range(1, ROUNDS):
        variation = Variation.of([*boots, *more], foreign=foreign)
        if not any(map(variation.objects, compared)):
            break
        more += boot_round(number)
    return more
