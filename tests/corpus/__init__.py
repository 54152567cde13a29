# SPDX-License-Identifier: MIT
"""Which kernels does vmipatch hold for? A table of pinned kernels, and what is done with each."""
