# SPDX-License-Identifier: MIT
"""The VMI ROM: an option ROM that answers the calls of a rewritten kernel.

`entries` says which calls are served and how, the `.S` files hold the code, one file a group of
calls, `header` makes the first bytes, `build` the image.
"""

from vmipatch.rom.build import Rom, build_rom
from vmipatch.rom.entries import RelocationType

__all__ = ["RelocationType", "Rom", "build_rom"]
