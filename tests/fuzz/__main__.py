# SPDX-License-Identifier: MIT
"""`python -m tests.fuzz --seconds N`: changed files, as long as told; findings as JSON."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.corpus import KEPT, row_of
from tests.fuzz.judge import case_of, fault, smallest


def main() -> int:
    """Run; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default=None, help="the run that printed it, once more")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz/findings.json"))
    given = parser.parse_args()
    seed = given.seed or f"{random.SystemRandom().getrandbits(32):08x}"
    print(f"seed {seed}", flush=True)
    begun, counts, found = time.monotonic(), Counter[str](), []
    queue = [*(case for case in KEPT)]
    number = 0
    while time.monotonic() - begun < given.seconds:
        case = queue.pop() if queue else case_of(f"{seed}/{number}")
        number += not queue
        counts[f"{case.target}: {case.base}"] += 1
        if why := fault(case):
            case = smallest(case)
            found.append({**row_of(case), "why": why})
            print(f"{case.seed} {case.target} {case.base} {case.changes}\n{why}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:7} {name}")
    print(f"{counts.total()} cases, {time.monotonic() - begun:.0f} s, {len(found)} findings")
    if found:
        given.findings.parent.mkdir(parents=True, exist_ok=True)
        given.findings.write_text(json.dumps(found, indent=1) + "\n")
        print(f"reproducers: {given.findings}; keep them in tests/fuzz/corpus.json")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
