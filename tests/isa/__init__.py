# SPDX-License-Identifier: MIT
"""Does the table of sensitive instructions mean what it says, and do decoders agree with it?"""
