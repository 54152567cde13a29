# SPDX-License-Identifier: MIT
"""The VMI ROM: an option ROM that answers the calls of a rewritten kernel.

`entries` says which calls are served and how, the `.S` files hold the code, one file a group of
calls, `header` makes the first bytes, `build` the image; `slots` and `build13` one of API 13.
"""

from vmipatch.rom.build import Rom, build_rom
from vmipatch.rom.build13 import Rom13, build_rom_13
from vmipatch.rom.entries import RelocationType

__all__ = ["RelocationType", "Rom", "Rom13", "build_rom", "build_rom_13"]
