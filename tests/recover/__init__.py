# SPDX-License-Identifier: MIT
"""Is the rewritten kernel the same kernel, with room for calls?"""
