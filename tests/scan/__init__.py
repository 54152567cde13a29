# SPDX-License-Identifier: MIT
"""Is every sensitive instruction found, grouped and judged?"""
