# SPDX-License-Identifier: MIT
"""Tests of kernel files in and out."""
