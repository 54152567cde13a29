# SPDX-License-Identifier: MIT
"""Which changed files break vmipatch, which changed outputs pass its proof? `make fuzz` asks."""
