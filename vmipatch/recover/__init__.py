# SPDX-License-Identifier: MIT
"""What does a stripped kernel still tell about its symbols, tables and references?"""

from vmipatch.recover.complete import complete
from vmipatch.recover.image import Recovered, recover, with_own_symbols

__all__ = ["Recovered", "complete", "recover", "with_own_symbols"]
