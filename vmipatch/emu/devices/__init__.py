# SPDX-License-Identifier: MIT
"""Which devices does the machine have, and how do they answer?"""
