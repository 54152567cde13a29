# SPDX-License-Identifier: MIT
"""Tests of vmipatch.verify.lockstep."""
