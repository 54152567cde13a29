# SPDX-License-Identifier: MIT
"""Rewritten bzImages: which are proven, which changes are refused?"""
