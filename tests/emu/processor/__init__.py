# SPDX-License-Identifier: MIT
"""Is the emulated CPU an i386 CPU?"""
