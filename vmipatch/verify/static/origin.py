# SPDX-License-Identifier: MIT
"""Is the original the file that the output was made from?"""

from __future__ import annotations

from vmipatch.verify.static.comparison import Inputs, judges
from vmipatch.verify.static.manifest import SECTION
from vmipatch.verify.static.rules import OTHER_INPUT


@judges(OTHER_INPUT)
def check_origin(inputs: Inputs) -> None:
    """The manifest names the original's hash, where that is known."""
    made_from, given = inputs.manifest.input_sha256, inputs.original_sha256
    if given not in (None, made_from):
        message = f"made from {made_from}, the original has {given}"
        inputs.report.add(OTHER_INPUT, 0, message, SECTION)
