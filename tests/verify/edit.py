# SPDX-License-Identifier: MIT
"""How does a test change a rewritten file as somebody would who knows ELF, and not vmipatch?

Sections are appended at the end of the file, with new headers; nothing of the product writes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from vmipatch.image.elf import ElfImage

HEADER = struct.Struct("<10I")
NAME, TYPE, FLAGS, ADDR, OFFSET, SIZE, LINK, INFO, ALIGN, ENTRY = range(10)
PROGBITS, REL, RELA, NOBITS = 1, 9, 4, 8
SHOFF_AT, SHNUM_AT, SHSTRNDX_AT = 32, 48, 50


@dataclass(slots=True)
class FileEdit:
    """The bytes of one file and its section headers, to be changed and read again."""

    data: bytearray
    heads: list[list[int]]
    names: int
    """Index of the section with the names of sections."""

    @classmethod
    def of(cls, image: ElfImage) -> FileEdit:
        """A copy of `image`."""
        data = bytearray(image.data)
        (shoff,) = struct.unpack_from("<I", data, SHOFF_AT)
        count, names = struct.unpack_from("<HH", data, SHNUM_AT)
        heads = [list(HEADER.unpack_from(data, shoff + HEADER.size * i)) for i in range(count)]
        return cls(data, heads, names)

    def name(self, index: int) -> str:
        """The name of a section."""
        start = self.heads[self.names][OFFSET] + self.heads[index][NAME]
        return self.data[start : self.data.index(0, start)].decode()

    def index(self, name: str) -> int:
        """The section of a name."""
        return next(i for i in range(len(self.heads)) if self.name(i) == name)

    def head(self, name: str) -> list[int]:
        """The header of a section, to be changed."""
        return self.heads[self.index(name)]

    def content(self, name: str) -> bytes:
        """The bytes of a section."""
        head = self.head(name)
        return bytes(self.data[head[OFFSET] : head[OFFSET] + head[SIZE]])

    def put(self, va: int, code: bytes) -> None:
        """Overwrite bytes at an address."""
        for head in self.heads:
            loaded = head[FLAGS] & 2 and head[TYPE] != NOBITS
            if loaded and head[ADDR] <= va < head[ADDR] + head[SIZE]:
                off = head[OFFSET] + va - head[ADDR]
                self.data[off : off + len(code)] = code
                return
        raise KeyError(hex(va))

    def append(self, content: bytes) -> int:
        """Add bytes at the end of the file; returns their offset."""
        self.data += bytes(-len(self.data) % 16)
        off = len(self.data)
        self.data += content
        return off

    def rewrite(self, name: str, content: bytes) -> None:
        """Give a section that is not loaded another content."""
        head = self.head(name)
        head[OFFSET], head[SIZE] = self.append(content), len(content)

    def add_section(self, name: str, kind: int = PROGBITS, content: bytes = b"", **to: int) -> None:
        """Add a section; `to` are other columns of its header by name."""
        names = bytes(self.content(self.name(self.names)))
        self.rewrite(self.name(self.names), names + name.encode() + b"\0")
        head = [len(names), kind, 0, 0, self.append(content), len(content), 0, 0, 1, 0]
        for column, value in to.items():
            head[globals()[column.upper()]] = value
        self.heads.append(head)

    def manifest(self) -> dict[str, Any]:
        """The manifest, to be changed and put back."""
        found: dict[str, Any] = json.loads(self.content(".vmi.manifest"))
        return found

    def set_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":")) + "\n"
        self.rewrite(".vmi.manifest", text.encode())

    def image(self, name: str = "edited") -> ElfImage:
        """The file as it is now."""
        return ElfImage.parse(self.file(), name)

    def file(self) -> bytes:
        """The bytes of the file as it is now; headers move only if some were added."""
        heads = b"".join(HEADER.pack(*head) for head in self.heads)
        whole = bytearray(self.data)
        off, count = (
            struct.unpack_from(form, whole, at)[0]
            for form, at in (("<I", SHOFF_AT), ("<H", SHNUM_AT))
        )
        if count != len(self.heads):
            off = self.append(b"")
            whole = bytearray(self.data)
            struct.pack_into("<I", whole, SHOFF_AT, off)
            struct.pack_into("<H", whole, SHNUM_AT, len(self.heads))
        whole[off : off + len(heads)] = heads
        return bytes(whole)
