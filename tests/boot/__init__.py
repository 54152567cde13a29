# SPDX-License-Identifier: MIT
"""Does an ordinary PC boot the rewritten kernels, and do they behave like the originals?"""
