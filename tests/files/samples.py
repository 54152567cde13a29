# SPDX-License-Identifier: MIT
"""One small file of each kind, and trees of modules as the world has them."""

from __future__ import annotations

import lzma
from pathlib import Path

from tests.support.smallmodule import SmallModule
from vmipatch.files.kind import Kind
from vmipatch.files.open import open_kernel


def module(code: str = "9c 58 fa c3") -> bytes:
    """A module with one function of these bytes."""
    small = SmallModule()
    small.section(".text").function("f", code)
    return small.build()


def make_tree(root: Path) -> Path:
    """A small tree: a module with sites, one without, a packed one, and a file besides."""
    below = root / "kernel"
    below.mkdir(parents=True)
    (below / "site.ko").write_bytes(module())
    (below / "plain.ko").write_bytes(module("c3"))
    (below / "packed.ko.xz").write_bytes(lzma.compress(module("fb 90 c3")))
    (root / "modules.order").write_text("kernel/site.ko\n")
    return root


def one_of_each(directory: Path, guest: Path) -> dict[Kind, Path]:
    """A file of each kind that `rewrite` takes; the vmlinux is `guest`."""
    paths = {
        Kind.VMLINUX: directory / "vmlinux",
        Kind.BZIMAGE: directory / "bzImage",
        Kind.MODULE: directory / "m.ko",
        Kind.PACKED_MODULE: directory / "m.ko.xz",
        Kind.TREE: directory / "tree",
    }
    paths[Kind.VMLINUX].write_bytes(guest.read_bytes())
    paths[Kind.BZIMAGE].write_bytes(open_kernel(guest).wrap().data)
    paths[Kind.MODULE].write_bytes(module())
    paths[Kind.PACKED_MODULE].write_bytes(lzma.compress(module()))
    make_tree(paths[Kind.TREE])
    return paths


def contents(tree: Path) -> dict[str, bytes]:
    """The regular files below a directory."""
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
