# SPDX-License-Identifier: MIT
"""Helpers of the build: not installed with the package."""
