# SPDX-License-Identifier: MIT
"""Tests of vmipatch.verify.variation."""
