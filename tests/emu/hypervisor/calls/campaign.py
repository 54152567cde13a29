# SPDX-License-Identifier: MIT
"""So many random calls: `python -m tests.emu.hypervisor.calls.campaign --seed 7 --calls 100000`.

The same seed makes the same calls. A promise that is broken is reported with the call.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
import traceback
from collections import Counter
from typing import Final

from tests.emu.guest import DATA_PA
from tests.emu.hypervisor.calls.arguments import Attempt, Dice
from tests.emu.hypervisor.calls.judge import Before, Broken, judge
from tests.emu.hypervisor.calls.outside import Outside
from tests.emu.hypervisor.calls.playground import CallOutcome, Paging, Playground, Way
from tests.emu.ring1_guest import entries
from vmipatch.choices import Mode
from vmipatch.vmi.shared import Hypercall

LIFE: Final = 1000
"""Calls of one machine, whose devices drift."""
RUN: Final = 6
"""Calls in a row, at most, each from where the one before has left the guest."""
MSRS_EVERY: Final = 32


def play(seed: int, calls: int) -> Counter[str]:
    """Make so many calls; how often each ended where. Raises Broken with seed and call."""
    dice = random.Random(seed)
    ends: Counter[str] = Counter()
    left = calls
    for life in itertools.count():
        if not left:
            return ends
        now = min(LIFE, left)
        left -= now
        kinds = [(paging, mode) for paging in Paging for mode in (Mode.PARAVIRT, Mode.AUDIT)]
        paging, mode = kinds[(seed + life) % len(kinds)]
        live(dice, Playground(paging, mode), now, ends, f"seed {seed}, life {life}")
    raise AssertionError("counts for ever")


def live(
    dice: random.Random, playground: Playground, calls: int, ends: Counter[str], what: str
) -> None:
    """The calls of one machine."""
    known: list[Way] = [*sorted(entries()), *Hypercall]
    outside, maker = Outside(playground), Dice(dice, playground.label)
    seen: dict[str, object] | None = None
    history: list[Attempt] = []
    for number in range(calls):
        if seen is None:
            playground.restore()
            seen, history = outside.look(), []
        attempt = maker.attempt(dice.choice(known))
        history.append(attempt)
        try:
            outcome, seen = _once(playground, outside, attempt, seen, not number % MSRS_EVERY)
        except BaseException as error:
            calls_so_far = "\n".join(map(str, history))
            error.add_note(f"{what}, call {number}, since the last restart:\n{calls_so_far}")
            raise
        way = "int " if isinstance(attempt.call, Hypercall) else ""
        ends[f"{way}{attempt.call.name}: {outcome.stop or outcome.ending.name.lower()}"] += 1
        if outcome.stop != "back" or len(history) >= RUN or not dice.randrange(3):
            seen = None


def _once(
    playground: Playground, outside: Outside, attempt: Attempt, seen: dict[str, object],
    is_thorough: bool,
) -> tuple[CallOutcome, dict[str, object]]:  # fmt: skip
    memory = playground.machine.memory
    memory.octets[DATA_PA : DATA_PA + len(attempt.image)] = attempt.image
    before = Before.of(playground, seen)
    outcome = playground.call(attempt.call, attempt.registers, attempt.stack)
    after = judge(playground, outside, attempt, before, outcome)
    if is_thorough and (spoilt := outside.spoilt_msrs()):
        raise Broken(spoilt)
    return outcome, after


def main() -> int:
    """Play from the command line, in steps that are reported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=10_000)
    options = parser.parse_args()
    ends: Counter[str] = Counter()
    broken = 0
    for first in range(0, options.calls, options.step):
        count = min(options.step, options.calls - first)
        seed = options.seed + first // options.step
        print(f"seed {seed}: {count} calls", flush=True)
        try:
            ends += play(seed, count)
        except Exception:
            broken += 1
            traceback.print_exc(file=sys.stdout)
    for name, count in sorted(ends.items()):
        print(f"{count:8} {name}")
    print(f"{ends.total()} calls, {time.process_time():.0f} s of CPU, {broken} seeds broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
