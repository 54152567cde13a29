# SPDX-License-Identifier: MIT
"""What of the original is kept byte for byte, and where is it in the output?"""

from __future__ import annotations

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.kept import Kept
from vmipatch.verify.static.rules import MANIFEST
from vmipatch.verify.static.verdict import Report


def kept_of(image: ElfImage, names: tuple[str, ...], report: Report) -> Kept:
    """As Kept.of; a finding, and nothing by name, if the manifest names what is not there."""
    try:
        return Kept.of(image, names)
    except InputNotUnderstood as error:
        report.add(MANIFEST, 0, f"what it has kept: {error.message}", error.place or "")
        return Kept.of(image)
