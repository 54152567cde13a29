# SPDX-License-Identifier: MIT
"""How does a test run a guest that might never come back? In a process of its own, and in time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

from tests.emu.hypervisor.test_attacks import CATCH, GATES
from tests.emu.ring1_guest import ModeGuest
from vmipatch.choices import Mode
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending

PATIENCE_S: Final = 60
"""Of the host's time: a hundred times what any of these guests takes."""
_WORDS: Final = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """The rest of a guest that has come to its end."""

    ending: Ending
    details: str
    now_ns: int
    words: tuple[int, ...]
    """Words that the guest left at DATA_PA; the first one counts its faults."""
    traps: dict[str, int]


def run_in_time(
    source: str, limit_ns: int, mode: Mode = Mode.PARAVIRT, *, ram_len: int = 8 << 20
) -> Outcome:
    """Run a guest with the handlers of the attacks; one that hangs fails the test."""
    order = {"source": source, "mode": mode.name, "limit_ns": limit_ns, "ram_len": ram_len}
    done = subprocess.run(
        [sys.executable, "-m", "tests.emu.hypervisor.hostile"],
        check=False,
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return Outcome(
        Ending[found["ending"]],
        found["details"],
        found["now_ns"],
        tuple(found["words"]),
        found["traps"],
    )


def _obey(order: dict[str, Any]) -> dict[str, Any]:
    options = MachineOptions(ram_len=order["ram_len"], limit_ns=order["limit_ns"])
    run = ModeGuest(f"{order['source']}\n {CATCH}", GATES, mode=Mode[order["mode"]]).run(options)
    return {
        "ending": run.result.ending.name,
        "details": run.result.details,
        "now_ns": run.result.now_ns,
        "words": [run.word(i) for i in range(_WORDS)],
        "traps": {str(kind): count for kind, count in run.result.statistics.traps.items()},
    }


if __name__ == "__main__":
    json.dump(_obey(json.load(sys.stdin)), sys.stdout)
