# SPDX-License-Identifier: MIT
"""Tests of the VMI ROM."""
