# SPDX-License-Identifier: MIT
"""Of which kind is a file? Told by its content, never by its name."""

from __future__ import annotations

import enum
from typing import Final

from vmipatch.errors import NotServed


class Kind(enum.Enum):
    """A kind of file that vmipatch works on."""

    VMLINUX = "vmlinux"  # an ELF file, linked; a debug twin too
    BZIMAGE = "bzImage"
    MODULE = "module"
    PACKED_MODULE = "packed module"  # by gzip, xz or zstd
    TREE = "module tree"
    FLAT = "flat binary"  # or a.out: no header says where it is linked


KERNELS: Final = frozenset({Kind.VMLINUX, Kind.BZIMAGE})
MODULES: Final = frozenset({Kind.MODULE, Kind.PACKED_MODULE})
ANY: Final = frozenset(Kind) - {Kind.FLAT}
"""All whose content tells what they are."""


def require_pair(kind: Kind, original: Kind, name: str) -> None:
    """Raise NotServed if a file of one kind, called `name`, cannot be made from one of the other.

    A kernel is made from a kernel, a module from a module, packed or not, a tree from a tree.
    """
    families = (KERNELS, MODULES, frozenset({Kind.TREE}))
    if not any({kind, original} <= family for family in families):
        raise NotServed(
            f"{with_article(kind)} is not made from {with_article(original)}",
            file=name,
            hint="name the file or directory that was rewritten",
        )


def with_article(kind: Kind) -> str:
    """The kind as a sentence needs it: "a vmlinux"."""
    return f"a {kind.value}"
