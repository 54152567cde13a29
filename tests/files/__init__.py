# SPDX-License-Identifier: MIT
"""Tests of vmipatch.files."""
