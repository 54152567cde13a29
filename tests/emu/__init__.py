# SPDX-License-Identifier: MIT
"""Is the emulated PC a PC?"""
