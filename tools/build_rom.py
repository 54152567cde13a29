# SPDX-License-Identifier: MIT
"""How does the ROM for Xen get into a wheel? Compiled by the build, as one file of the package."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RomHook(BuildHookInterface):  # type: ignore[misc]
    """A hook of hatchling; a checkout (version `editable`) compiles when it is first asked."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the linked ROM into the wheel; without a compiler, warn and leave it out.

        Such a wheel compiles when it is first asked for the ROM, as a checkout does.
        """
        sys.path.insert(0, self.root)
        from vmipatch.xen.compiler import LINKED_NAME, can_link, link

        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if version == "editable":
            return
        if not can_link():
            self.app.display_warning("no gcc for i386: this wheel has no ROM for Xen")
            return
        self._scratch = tempfile.TemporaryDirectory()
        linked = Path(self._scratch.name) / LINKED_NAME
        linked.write_bytes(link())
        build_data["force_include"][str(linked)] = f"vmipatch/xen/{LINKED_NAME}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel has taken."""
        if self._scratch is not None:
            self._scratch.cleanup()
