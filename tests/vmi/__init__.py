# SPDX-License-Identifier: MIT
"""Are call numbers and annotation records those of the VMI interface?"""
