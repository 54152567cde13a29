# SPDX-License-Identifier: MIT
"""What does a rewritten kernel cost, and what does rewriting it? (docs/bench.md)."""
