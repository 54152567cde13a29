# SPDX-License-Identifier: MIT
"""Is what the examples promise true?"""
