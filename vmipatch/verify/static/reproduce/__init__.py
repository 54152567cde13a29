# SPDX-License-Identifier: MIT
"""The file that an output should be, built from the original and validated decisions."""
