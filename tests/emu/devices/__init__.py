# SPDX-License-Identifier: MIT
"""Are the devices those of a PC?"""
