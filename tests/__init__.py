# SPDX-License-Identifier: MIT
"""Which promises does vmipatch keep? The tests mirror the package."""
