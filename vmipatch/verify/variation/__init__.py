# SPDX-License-Identifier: MIT
"""What does the original kernel itself do differently when its timer ticks at another moment?

Processes that race, and what they print, depend on when the timer ticks. `align` finds where
sequences of several runs differ, `calls` and `console` what a run may do there, `runs` asks all of
it about a rewritten kernel. Decision: docs/decisions/0030.
"""

from vmipatch.verify.variation.runs import Variation

__all__ = ["Variation"]
