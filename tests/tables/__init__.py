# SPDX-License-Identifier: MIT
"""Do the table parsers understand, refuse and re-emit the kernel's tables."""
