# SPDX-License-Identifier: MIT
"""Tests of compressions in and out."""
