# SPDX-License-Identifier: MIT
"""Does every random guest come to an end that a report can name, at CPL 0 only natively?"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.emu.hypervisor.random_guests import LIMIT_NS
from vmipatch.choices import Mode
from vmipatch.emu.clock import MAX_SLICE, NS_PER_BYTE
from vmipatch.emu.report import Ending

SAMPLE, CAMPAIGN, STEP = 12, 1000, 50
PATIENCE_S = 60
"""Of the host's time for one guest: six times what the slowest took on a busy host."""
LATE_NS = MAX_SLICE * NS_PER_BYTE + 1_000_000
"""The limit is looked at after a slice, and a guest that only faults is given a millisecond."""


def check(mode: Mode, first: int, end: int) -> None:
    module = "tests.emu.hypervisor.random_guests"
    done = subprocess.run(
        [sys.executable, "-m", module, mode.name, str(first), str(end)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * (end - first),
    )  # fmt: skip
    fates = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after seed {first + len(fates) - 1}: {done.stderr}"
    assert [fate["seed"] for fate in fates] == list(range(first, end))
    for fate in fates:
        assert fate["ending"], fate["details"]
        assert Ending[fate["ending"]] is not Ending.ESCAPED, fate
        assert mode is Mode.NATIVE or 0 not in fate["rings"], fate
        assert fate["now_ns"] <= LIMIT_NS + LATE_NS, fate
        assert fate["host_s"] <= PATIENCE_S, fate


@pytest.mark.parametrize("mode", Mode)
def test_random_guests_come_to_an_end(mode: Mode) -> None:
    check(mode, 0, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, CAMPAIGN, STEP))
@pytest.mark.parametrize("mode", Mode)
def test_campaign_of_random_guests(mode: Mode, first: int) -> None:
    check(mode, first, first + STEP)
