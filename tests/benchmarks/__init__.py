# SPDX-License-Identifier: MIT
"""Does the benchmark count right?"""
