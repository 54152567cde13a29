# SPDX-License-Identifier: MIT
"""Tests of vmipatch.verify.xen."""
