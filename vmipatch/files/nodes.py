# SPDX-License-Identifier: MIT
"""What is in a tree of files? Every node once, by what it is; no link is followed."""

from __future__ import annotations

import contextlib
import enum
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.packed import packing_of
from vmipatch.image.packing import Compression

MODULE_SUFFIXES: Final = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


class NodeKind(enum.Enum):
    """The kind of a name in a directory."""

    DIRECTORY = "directory"
    MODULE = "module"  # a regular file, by its name
    FILE = "file"  # any other regular file
    LINK = "symbolic link"  # wherever it points to, if anywhere
    SPECIAL = "special file"  # pipe, device or socket


REGULAR: Final = frozenset({NodeKind.MODULE, NodeKind.FILE})


@dataclass(frozen=True, slots=True)
class Node:
    """One name in a tree."""

    path: str
    """Relative to the tree; bytes that are not UTF-8 as os.fsdecode has them."""
    kind: NodeKind
    size: int
    """Bytes of a regular file."""


def nodes_of(root: str) -> list[Node]:
    """All nodes below the directory `root`, by path, so that a directory precedes what is in it.

    Raises EnvironmentProblem if `root` is not a directory or cannot be read.
    """
    if not os.path.isdir(root):
        why = "is not a directory" if os.path.lexists(root) else "does not exist"
        raise EnvironmentProblem(why, file=root, hint="give the directory of a module tree")
    return sorted(_below(root, ""), key=lambda node: node.path.split(os.sep))


def is_module_name(path: str) -> bool:
    """Whether a file is named as modules are."""
    return path.endswith(MODULE_SUFFIXES)


def unpacked_name(path: str) -> str:
    """The name that a module had before it was packed."""
    suffix = next(s for s in MODULE_SUFFIXES if path.endswith(s))
    return path.removesuffix(suffix) + MODULE_SUFFIXES[0]


def packed_name(path: str, data: bytes) -> str:
    """The name of a module as its packing has it, that of the file `data`."""
    suffixes = {Compression.GZIP: ".gz", Compression.XZ: ".xz", Compression.ZSTD: ".zst"}
    return unpacked_name(path) + suffixes.get(packing_of(data), "")


def _below(root: str, directory: str) -> Iterator[Node]:
    found = []
    try:
        with os.scandir(os.path.join(root, directory)) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    status = entry.stat(follow_symlinks=False)
                    found.append((entry.name, kind_of(entry.name, status.st_mode), status.st_size))
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot be read: {error.strerror}",
            file=os.path.join(root, directory),
            hint="check its permissions",
        ) from error
    for name, kind, size in found:
        path = os.path.join(directory, name)
        yield Node(path, kind, size if kind in REGULAR else 0)
        if kind is NodeKind.DIRECTORY:
            yield from _below(root, path)


def kind_of(name: str, mode: int) -> NodeKind:
    """The kind of a node with this name and st_mode."""
    if stat.S_ISLNK(mode):
        return NodeKind.LINK
    if stat.S_ISDIR(mode):
        return NodeKind.DIRECTORY
    if stat.S_ISREG(mode):
        return NodeKind.MODULE if is_module_name(name) else NodeKind.FILE
    return NodeKind.SPECIAL
