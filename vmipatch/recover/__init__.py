# SPDX-License-Identifier: MIT
"""What a stripped kernel still tells about its symbols, tables and references."""

from vmipatch.recover.complete import complete
from vmipatch.recover.image import Recovered, recover

__all__ = ["Recovered", "complete", "recover"]
