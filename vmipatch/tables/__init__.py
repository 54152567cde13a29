# SPDX-License-Identifier: MIT
"""The kernel's own metadata tables, one file each."""
