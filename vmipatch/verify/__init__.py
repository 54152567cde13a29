# SPDX-License-Identifier: MIT
"""Proofs about a rewritten kernel."""
