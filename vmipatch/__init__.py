# SPDX-License-Identifier: MIT
"""vmipatch: VMI for i386 kernel binaries."""

__version__ = "0.1.0"
