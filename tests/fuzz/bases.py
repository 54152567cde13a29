# SPDX-License-Identifier: MIT
"""Which sound files are changed? Small ones of every kind, written by builders."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from functools import cache

from tests.rewrite.smallkernel import SmallKernel, Word
from tests.support.smallmodule import SmallModule
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite


def kernel() -> bytes:
    """A vmlinux with sites of several kinds, a pointer to code, and data."""
    small = SmallKernel()
    small.text.function("start_kernel", "fa 9c 58 0f22d8 0f0138 fb f4 66ed 9d c3")
    small.text.function("other", "40 0f20c0 0f06 cf", filler=b"\xcc")
    small.rodata().put(Word("other"))
    small.writable().put(b"some data")
    return small.build()


def module() -> bytes:
    """A module with a few sites."""
    small = SmallModule()
    small.section(".text").function("f", "fa 9c 58 fb c3")
    return small.build()


@cache
def output() -> tuple[ElfImage, bytes]:
    """A kernel as parsed, and its rewritten file."""
    image = ElfImage.parse(kernel(), "original")
    return image, rewrite(image).data


BASES: dict[str, Callable[[], bytes]] = {
    "vmlinux": cache(kernel),
    "module": cache(module),
    "output": lambda: output()[1],
    "bzImage": cache(lambda: open_kernel(kernel(), name="vmlinux").wrap().data),
    "packed by gzip": cache(lambda: gzip.compress(module(), mtime=0)),
    "packed by xz": cache(lambda: lzma.compress(module(), check=lzma.CHECK_CRC32)),
}
"""By name; each is built once."""
