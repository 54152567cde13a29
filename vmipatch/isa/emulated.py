# SPDX-License-Identifier: MIT
"""Where does a kernel ask Xen to emulate the next instruction?

`ud2` and the letters `xen`, then cpuid: XEN_EMULATE_PREFIX of arch/x86/include/asm/xen/prefix.h
(up to 5.8 for 32-bit paravirtual guests). Xen compares these bytes and takes the cpuid after them;
the letters are never executed.
"""

from __future__ import annotations

XEN_PREFIX = bytes.fromhex("0f0b") + b"xen"
CPUID = bytes.fromhex("0fa2")


def emulated_prefixes(code: bytes) -> list[int]:
    """Offsets of all prefixes in `code` that cpuid follows, ascending."""
    result: list[int] = []
    at = code.find(XEN_PREFIX + CPUID)
    while at >= 0:
        result.append(at)
        at = code.find(XEN_PREFIX + CPUID, at + 1)
    return result
