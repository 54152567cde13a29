# SPDX-License-Identifier: MIT
"""What is this? A path or a file's bytes, read once, as a value that knows its kind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmipatch.errors import NotServed
from vmipatch.files.file import BYTES, read_file, sha256_of
from vmipatch.files.kernel import KernelFile
from vmipatch.files.kind import Kind, with_article
from vmipatch.files.module import ModuleFile
from vmipatch.image.bzimage import is_bzimage
from vmipatch.image.elf import ELF_MAGIC, require_magic
from vmipatch.image.module import is_module
from vmipatch.image.packed import packing_of, unpack
from vmipatch.image.packing import Compression

if TYPE_CHECKING:
    from vmipatch.files.tree import ModuleTree


Source = str | os.PathLike[str] | bytes | bytearray | memoryview
"""A path, or the bytes of a file."""


def open_any(
    source: Source, *, name: str | None = None, keep_debug: bool = True, base: int | None = None
) -> KernelFile | ModuleFile | ModuleTree:
    """Open `source`: a kernel, a module or a tree of modules.

    `source` is a path (of a pipe, too), or the bytes of a file; `name` is what messages and reports
    call it. A file is read here, once and whole, and never again; with a vmlinux that has no
    relocations, what its build left beside it. Without `keep_debug` the debug
    sections of a vmlinux, nine tenths of a distribution's, are let go of: a rewrite is the same,
    but cannot keep them for `restore`. `base` is where the code of a flat binary or an a.out file
    is linked, which can be scanned then.

    Raises EnvironmentProblem if it cannot be read, MalformedImage if it is not one of these.
    NotServed is raised for a `base` of a file that says itself where it is linked.
    """
    found = _open(source, name, keep_debug, base)
    if base is not None and found.kind is not Kind.FLAT:
        raise NotServed(
            f"--base does not serve {with_article(found.kind)}, which says where it is linked",
            file=found.name,
            hint="leave the base out",
        )
    return found


def _open(
    source: Source, name: str | None, keep_debug: bool, base: int | None
) -> KernelFile | ModuleFile | ModuleTree:
    if isinstance(source, bytes | bytearray | memoryview):
        return open_bytes(bytes(source), name or BYTES, keep_debug=keep_debug, base=base)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise TypeError(f"a path or the bytes of a file are wanted, not {kind}")
    path = os.fsdecode(source)
    if os.path.isdir(path):
        from vmipatch.files.tree import ModuleTree

        return ModuleTree.of(path, name)
    return open_bytes(read_file(path), name or path, keep_debug=keep_debug, path=path, base=base)


def open_kernel(source: Source, *, name: str | None = None, keep_debug: bool = True) -> KernelFile:
    """The kernel in `source`. Raises as `open_any`, and NotServed for a module or a tree."""
    found = open_any(source, name=name, keep_debug=keep_debug)
    if not isinstance(found, KernelFile):
        raise NotServed(
            f"a {found.kind.value} is not a kernel", file=found.name,
            hint="give a vmlinux or a bzImage",
        )  # fmt: skip
    return found


def open_bytes(
    data: bytes, name: str, *, keep_debug: bool = True, path: str | None = None,
    base: int | None = None,
) -> KernelFile | ModuleFile:  # fmt: skip
    """The value of a file with these bytes, read at `path`. Raises MalformedImage for others.

    With a `base`, what is nothing else is a flat binary.
    """
    digest = sha256_of(data)
    if is_bzimage(data):
        return KernelFile.of(name, Kind.BZIMAGE, digest, data)
    packing = packing_of(data)
    content = data if packing is Compression.NONE else unpack(data, name)
    if is_module(content):
        kind = Kind.MODULE if packing is Compression.NONE else Kind.PACKED_MODULE
        return ModuleFile(name, kind, digest, data, content)
    kind = Kind.BZIMAGE if is_bzimage(content) else Kind.VMLINUX
    if kind is Kind.VMLINUX and base is not None and not content.startswith(ELF_MAGIC):
        return KernelFile(name, Kind.FLAT, digest, content, packing, base=base)
    if kind is Kind.VMLINUX:
        require_magic(content, name)
    return KernelFile.of(
        name, kind, digest, content, keep_debug=keep_debug, packing=packing, path=path
    )
