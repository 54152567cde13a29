# SPDX-License-Identifier: MIT
"""Does a deprivileged kernel see what it sees at CPL 0?"""
