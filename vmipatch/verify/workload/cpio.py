# SPDX-License-Identifier: MIT
"""What does an initial file system consist of? Files of a cpio archive in the `newc` format.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MAGIC: Final = b"070701"
_ALIGN: Final = 4
_TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry; `mode` as stat(2) has it."""

    path: str
    mode: int
    data: bytes = field(default=b"", repr=False)
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def directory(path: str) -> Member:
    """A directory that everybody may read."""
    return Member(path, stat.S_IFDIR | 0o755)


def program(path: str, data: bytes) -> Member:
    """A file that everybody may execute."""
    return Member(path, stat.S_IFREG | 0o755, data)


def character_device(path: str, major: int, minor: int) -> Member:
    """A device for root alone."""
    return Member(path, stat.S_IFCHR | 0o600, device=(major, minor))


def pack(members: Sequence[Member]) -> bytes:
    """The archive, uncompressed; the same members give the same bytes."""
    numbered = enumerate([*members, Member(_TRAILER, 0)], start=1)
    return b"".join(_record(number, member) for number, member in numbered)


def _record(number: int, member: Member) -> bytes:
    """Header and name, then the data, each padded to a multiple of four."""
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    # ino mode uid gid nlink mtime filesize dev(2) rdev(2) namesize check
    fields = (
        number, member.mode, 0, 0, links, 0, len(member.data), 0, 0, *member.device, len(name), 0
    )  # fmt: skip
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(member.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)
