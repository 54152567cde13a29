# SPDX-License-Identifier: MIT
"""`python -m tests.verify.adversarial FILE:CHANGES...`: a campaign; 1 if a change was accepted."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
from pathlib import Path

from tests.verify.adversarial.campaign import run
from tests.verify.adversarial.outcome import ACCEPTED, FAILED, read
from tests.verify.adversarial.page import write_page
from tests.verify.campaign import PAGE

STATE = Path("build/adversarial.jsonl")


def main() -> int:
    """Run the campaigns of some files, as many at once as there are workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("order", nargs="+", metavar="FILE:CHANGES")
    parser.add_argument("--seed", type=int, help="that of the state file, or a new one")
    parser.add_argument("--state", type=Path, default=STATE, help="kept, and gone on with")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    state: Path = given.state
    state.parent.mkdir(parents=True, exist_ok=True)
    known = read(state)
    seed = given.seed
    if seed is None:
        seed = known[-1].seed if known else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    jobs = [(name, seed, int(count), state) for name, _, count in
            (word.rpartition(":") for word in given.order)]  # fmt: skip
    with multiprocessing.get_context("spawn").Pool(min(given.workers, len(jobs))) as pool:
        for name in pool.imap_unordered(run, jobs, 1):
            print(f"{name}: done", flush=True)
            write_page(given.page, read(state))
    outcomes = read(state)
    bad = [outcome for outcome in outcomes if outcome.result in (ACCEPTED, FAILED)]
    print(f"{len(outcomes)} changes, {len(bad)} accepted or failed")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
