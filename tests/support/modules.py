# SPDX-License-Identifier: MIT
"""Which modules does a boot load, in which order, and what do they work on?

A tree is what a kernel has below /lib/modules/RELEASE. What a module needs stands in its section
.modinfo (Linux, scripts/mod/modpost.c).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import hashing
from vmipatch.image.elf import ElfImage
from vmipatch.image.packed import unpack

DIRECTORY = "modules"
"""Where the file system of a boot has them."""
DISK_MIB = 8
HELLO = "a file of the host"

CMAC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
CMAC_MESSAGE = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
CMAC = "070a16b46b4d4144f79bdd9dd04a287c"
"""Example 2 of RFC 4493."""


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """The modules of one kernel by name; dashes are underscores."""

    by_name: Mapping[str, Path]

    @classmethod
    def of(cls, directory: Path) -> ModuleTree:
        """All modules below a directory."""
        paths = sorted(directory.rglob("*.ko*"))
        return cls({path.name.partition(".ko")[0].replace("-", "_"): path for path in paths})

    def read(self, name: str) -> bytes:
        """The unpacked bytes of a module. Raises KeyError."""
        return unpack(self.by_name[name].read_bytes(), name)

    def in_order(self, names: Sequence[str]) -> list[str]:
        """`names` and what they need, each after what it needs."""
        order: list[str] = []
        for name in names:
            needed = self.in_order(self._needs(name))
            order += [each for each in (*needed, name) if each not in order]
        return order

    def _needs(self, name: str) -> list[str]:
        image = ElfImage.parse(self.read(name), name)
        facts = image.section_bytes(image.section_by_name[".modinfo"]).split(b"\0")
        (needed,) = (fact[8:].decode() for fact in facts if fact.startswith(b"depends="))
        return [each.replace("-", "_") for each in needed.split(",") if each]


def files(
    tree: ModuleTree,
    loaded: Sequence[str],
    arguments: Mapping[str, str],
    change: Callable[[bytes, str], bytes] | None,
) -> Iterator[tuple[str, bytes]]:
    """For an initial file system: modules from `tree`, changed, and the order to load them in."""
    order = tree.in_order(loaded)
    for name in order:
        data = tree.read(name)
        yield f"{DIRECTORY}/{name}.ko", data if change is None else change(data, name)
    lines = (f"{name} {arguments.get(name, '')}".rstrip() + "\n" for name in order)
    yield f"{DIRECTORY}/order", "".join(lines).encode()


def materials(scratch: Path) -> Iterator[tuple[str, bytes]]:
    """For an initial file system: a disk with ext4, and programs that ask for hashes."""
    yield f"{DIRECTORY}/disk", disk(scratch)
    yield f"{DIRECTORY}/blake2b", hashing.program("blake2b-256", HELLO.encode())
    code = hashing.program("cmac(aes-fixed-time)", CMAC_MESSAGE, CMAC_KEY)
    yield f"{DIRECTORY}/cmac", code


def expected_hashes() -> list[str]:
    """Lines that the programs have the script print."""
    blake2b = hashlib.blake2b(HELLO.encode(), digest_size=32).hexdigest()
    return [f"blake2b {blake2b}", f"cmac {CMAC}"]


def md5_of_numbers() -> str:
    """The line that the script prints of a file that it writes to the disk."""
    numbers = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    return f"{hashlib.md5(numbers, usedforsecurity=False).hexdigest()}  -"


def disk(scratch: Path) -> bytes:
    """An image with an ext4 file system that holds the file hello."""
    contents, image = scratch / "contents", scratch / "disk"
    contents.mkdir()
    (contents / "hello").write_text(f"{HELLO}\n")
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(contents), str(image), f"{DISK_MIB}M"]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(command, check=True, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL)
    return image.read_bytes()
