# SPDX-License-Identifier: MIT
"""What is the PC that kernels run on here? Unicorn's CPU with memory, clock and devices."""
