# SPDX-License-Identifier: MIT
"""Tests of the tools of the build."""
