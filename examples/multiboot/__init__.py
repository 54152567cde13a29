# SPDX-License-Identifier: MIT
"""A small multiboot kernel that is not Linux: what vmipatch does with such kernels, by example.

It has what distinguishes them: multiboot headers and other data in its code, a physical entry and a
symbol with that physical value, code that is copied, a function of its own that begins its C code,
a second processor, tasks with a vector of their own for system calls. Parts that any kernel has
(console, descriptors, interrupt controllers, MP table, linker) are those of `examples.guest`.
"""

from examples.multiboot.build import build

__all__ = ["build"]
