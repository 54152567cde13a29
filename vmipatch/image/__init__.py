# SPDX-License-Identifier: MIT
"""Kernel files in and out."""
