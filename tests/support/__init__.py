# SPDX-License-Identifier: MIT
"""What do the tests share? Kernels, initial file systems, QEMU, and the comparison of consoles."""
