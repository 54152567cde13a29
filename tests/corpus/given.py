# SPDX-License-Identifier: MIT
"""Which kernels does somebody else bring? The files of a directory that are kernels (`--extra`).

A debug twin is known by its name: vmlinux-X or X.vmlinux beside vmlinuz-X, bzImage-X or X.bzImage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.corpus.places import CorpusKernel

PREFIX = "given/"
"""Of the names of such kernels, so that none is taken for a row of the table."""

_ELF = b"\x7fELF\x01\x01"
"""32 bits, little-endian."""
_MACHINE_OFF, _MACHINE_I386 = 0x12, 3
_TYPE_OFF, _TYPE_EXECUTABLE = 0x10, 2
_MAGIC_OFF, _MAGIC = 0x202, b"HdrS"
"""A kernel image (Documentation/arch/x86/boot.rst, field `header`)."""
_HEAD_LEN = 0x210
_PACKED_WORD = re.compile(r"vmlinuz|bzImage", re.I)
_LINKED = "vmlinux"


def kernels_in(directory: Path) -> Iterator[CorpusKernel]:
    """The kernels below a directory, named by their paths, in order. Raises NotADirectoryError."""
    if not directory.is_dir():
        raise NotADirectoryError(directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    linked = {path for path in files if _is_linked(path)}
    packed = [path for path in files if _is_packed(path)]
    twins: set[Path] = set()
    for path in packed:
        twin = next((each for each in twin_names(path) if each in linked), None)
        twins |= {twin} if twin else set()
        config = _config_of(path)
        yield CorpusKernel(_name(path, directory), path, twin, config_file=config)
    for path in sorted(linked - twins):
        yield CorpusKernel(_name(path, directory), None, path, config_file=_config_of(path))


def twin_names(packed: Path) -> tuple[Path, ...]:
    """Where the debug twin of a bzImage would lie."""
    name = packed.name
    renamed = _PACKED_WORD.sub(_LINKED, name)
    names = [renamed] if renamed != name else []
    stem = name.removesuffix(".bzImage").removesuffix(".vmlinuz")
    names += [f"{stem}.{_LINKED}", f"{name}.{_LINKED}", f"{name}.debug"]
    unstripped = [f"{renamed}.unstripped"] if renamed != name else []
    return tuple(packed.with_name(each) for each in unstripped + names if each != name)


def _config_of(kernel: Path) -> Path | None:
    name = re.sub(r"vmlinuz|bzImage|vmlinux", "config", kernel.name)
    place = kernel.with_name(name)
    return place if name != kernel.name and place.is_file() else None


def _name(path: Path, directory: Path) -> str:
    return f"{PREFIX}{path.relative_to(directory)}"


def _is_linked(path: Path) -> bool:
    head = _head(path)
    if not head.startswith(_ELF) or len(head) < _MACHINE_OFF + 2:
        return False
    kind, machine = struct.unpack_from("<HH", head, _TYPE_OFF)
    return bool(kind == _TYPE_EXECUTABLE and machine == _MACHINE_I386)


def _is_packed(path: Path) -> bool:
    return _head(path)[_MAGIC_OFF : _MAGIC_OFF + len(_MAGIC)] == _MAGIC


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_LEN)
