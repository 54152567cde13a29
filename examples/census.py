# SPDX-License-Identifier: MIT
"""Which subsystems of a kernel have sensitive instructions? python -m examples.census vmlinux."""

from __future__ import annotations

import sys
from collections import Counter

import vmipatch


def census(path: str) -> Counter[str]:
    """Number of sensitive instructions by the first word of the function's name."""
    found = vmipatch.open(path).scan()
    assert isinstance(found, vmipatch.Census), "of one file, not of a tree"
    return Counter(found.place_of(site).strip("_").partition("_")[0] for site in found.sites)


if __name__ == "__main__":
    for subsystem, sites in census(sys.argv[1]).most_common(20):
        print(f"{sites:6}  {subsystem}")
