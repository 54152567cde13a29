# SPDX-License-Identifier: MIT
"""Which CPU does the machine have? Unicorn, and what is around it."""
