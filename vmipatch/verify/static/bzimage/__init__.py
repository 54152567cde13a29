# SPDX-License-Identifier: MIT
"""Is this bzImage the original with the rewritten kernel in it, and nothing else?

The kernel in a bzImage has neither symbols nor relocations. `witness` gives it those of the
original, so that it is proven as a vmlinux is; `payload` makes the file that must be inside of
that; `boot_code` and `setup` make all that is around it. What is expected is compared byte by byte.
"""
