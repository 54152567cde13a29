# SPDX-License-Identifier: MIT
"""Tests of another kernel in a bzImage that keeps its own boot code."""
