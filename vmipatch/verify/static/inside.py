# SPDX-License-Identifier: MIT
"""Does anything point to the inside of a native body?"""

from __future__ import annotations

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import INSIDE_BODY


@judges(INSIDE_BODY)
def check_inside(comparison: Comparison) -> None:
    """Nothing points to an address inside of a body."""
    led_to = distinct(np.concatenate([comparison.targets, comparison.inner]))
    images = comparison.images(led_to)
    index = comparison.right.over(images)
    body = np.where(index >= 0, comparison.bodies.body_of[np.maximum(index, 0)], -1)
    first = np.array(
        [int(comparison.right.starts[b.first]) for b in comparison.bodies.bodies] or [0]
    )
    inside = (body >= 0) & (images != first[np.maximum(body, 0)]) & (images != NOWHERE)
    for i in np.flatnonzero(inside).tolist():
        message = f"something pointed to {led_to[i]:#x}: now inside of a body"
        comparison.report.add(INSIDE_BODY, int(images[i]), message)
