# SPDX-License-Identifier: MIT
"""What do files do that were made to do harm to those who read them?"""
