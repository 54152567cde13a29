# SPDX-License-Identifier: MIT
"""Another kernel in a bzImage that keeps its own boot code."""
