# SPDX-License-Identifier: MIT
"""Does a rewritten kernel become its input again?"""
