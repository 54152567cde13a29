# SPDX-License-Identifier: MIT
"""What does a test kernel find as its first file system?

A cpio archive in the `newc` format (Linux, Documentation/driver-api/early-userspace/
buffer-format.rst) with busybox, /init and the script that is the test.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "kernels" / "initramfs"
BUSYBOX = "bin/busybox"

_MAGIC = b"070701"
_HEADER_LEN = 110
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Member:
    """One file or directory of an archive; `mode` as in stat(2)."""

    path: str
    mode: int
    data: bytes = b""


def build(busybox: bytes, test: str, extra: Mapping[str, bytes] | None = None) -> bytes:
    """An uncompressed initial file system whose /init runs `test` and reboots.

    `busybox` is a static i386 binary, `test` the name of a script in tests/kernels/initramfs,
    `extra` maps more paths (without the leading slash) to contents.
    """
    files = {
        BUSYBOX: busybox,
        "init": (SOURCES / "init").read_bytes(),
        "test": (SOURCES / test).read_bytes(),
        **(extra or {}),
    }
    return pack(files)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive with `files`, all executable, and their directories.

    The same input gives the same bytes: sorted, owned by root, time 0.
    """
    parents = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    members = [Member(path, stat.S_IFDIR | 0o755) for path in sorted(parents)]
    members += [Member(path, stat.S_IFREG | 0o755, files[path]) for path in sorted(files)]
    records = [_record(number, member) for number, member in enumerate(members, start=1)]
    return b"".join([*records, _record(0, Member(_TRAILER, 0))])


def members(archive: bytes) -> Iterator[Member]:
    """Members of an uncompressed cpio archive. Raises ValueError if it is not one."""
    position = 0
    while True:
        header = archive[position : position + _HEADER_LEN]
        if header[:6] != _MAGIC or len(header) != _HEADER_LEN:
            raise ValueError(f"no cpio header at offset {position:#x}")
        fields = [int(header[at : at + 8], 16) for at in range(6, _HEADER_LEN, 8)]
        mode, data_len, name_len = fields[1], fields[6], fields[11]
        name_off = position + _HEADER_LEN
        path = archive[name_off : name_off + name_len - 1].decode()
        if path == _TRAILER:
            return
        data_off = _aligned(name_off + name_len)
        yield Member(path, mode, archive[data_off : data_off + data_len])
        position = _aligned(data_off + data_len)


def _record(number: int, member: Member) -> bytes:
    """Header, name and data of one member, each padded to a multiple of four."""
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    # ino mode uid gid nlink mtime filesize dev(2) rdev(2) namesize check
    fields = (number, member.mode, 0, 0, links, 0, len(member.data), 0, 0, 0, 0, len(name), 0)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(member.data)


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
