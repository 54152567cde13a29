# SPDX-License-Identifier: MIT
"""Which programs and libraries does a verdict rest on, in which versions?"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from vmipatch import __version__

DECODERS: Final = ("capstone", "iced-x86")
EMULATOR: Final = "unicorn"
UNKNOWN: Final = "unknown"


def tool() -> dict[str, Any]:
    """vmipatch, the two decoders, and the emulator of the boots, by name and version."""
    return {
        "name": "vmipatch",
        "version": __version__,
        "decoders": {name: _version(name) for name in DECODERS},
        "emulator": {EMULATOR: _version(EMULATOR)},
    }


def _version(package: str) -> str:
    """The installed version; a package that was put there by hand may not say."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
