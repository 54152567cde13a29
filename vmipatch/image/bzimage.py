# SPDX-License-Identifier: MIT
"""What is inside a bzImage? The kernel it holds as an ELF file, and its relocation list.

Source: Documentation/x86/boot.rst of Linux (payload_offset, payload_length) and
arch/x86/boot/compressed: the payload is compressed(ELF file + relocation list), followed by four
bytes of length where the compression itself does not tell it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.packing import Compression, Payload, unpack_payload
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.setup_header import SetupHeader
from vmipatch.limits import Limit

PAYLOAD_SINCE = 0x0208
"""The first boot protocol that tells where the payload lies (Linux 2.6.26)."""
PAYLOAD_LENGTH_OFF = 0x24C
_SHT_NULL, _SHT_NOBITS = 0, 8


@dataclass(frozen=True, slots=True)
class BzImage:
    """A bzImage and what it holds."""

    name: str
    """The file's name in messages."""
    header: SetupHeader
    payload: Payload = field(repr=False)
    vmlinux: bytes = field(repr=False)
    """The ELF file, ready for ElfImage.parse."""
    relocs: tuple[int, ...] | None = field(repr=False)
    """Linked virtual addresses of the words that move with the kernel; None if there is no list."""
    version: str
    """The version string for boot menus, empty if missing."""

    @property
    def compression(self) -> Compression:
        """How the payload is packed."""
        return self.payload.compression

    @classmethod
    def parse(cls, data: bytes, name: str = "<bytes>") -> BzImage:
        """Read the bzImage `data`.

        Raises InputNotUnderstood if it is not a bzImage or older than protocol 2.08,
        EnvironmentProblem if the library of its compression is not installed, MalformedImage if
        it is damaged.
        """
        header = SetupHeader.parse(data, name)
        payload = unpack_payload(
            _payload(data, header, name),
            name,
            f"offset {header.code_off + header.payload_offset:#x}",
        )
        end = elf_length(payload.unpacked, name)
        tail = payload.unpacked[end:]
        relocs = parse_list(tail, name) if tail else None
        version = _version(data, header)
        return cls(name, header, payload, payload.unpacked[:end], relocs, version)


def is_bzimage(data: bytes) -> bool:
    """Whether `data` has the magic number of a bzImage."""
    return data[0x202:0x206] == b"HdrS"


def elf_length(data: bytes, name: str) -> int:
    """Bytes of the ELF32 file that `data` begins with: the end of what its headers speak of.

    Raises InputNotUnderstood if it is not one, MalformedImage if that is more than there is.
    """
    if len(data) < 52 or data[:6] != b"\x7fELF\x01\x01":
        is_elf = data[:4] == b"\x7fELF"
        if is_elf:
            what = "the payload is an ELF file, but not a 32-bit little-endian one"
            raise NotSupported(Limit.ARCHITECTURE, what, file=name, place="payload")
        what = "the payload is not an ELF file, so nothing tells its code from its data"
        raise NotSupported(Limit.PAYLOAD, what, file=name, place="payload")
    phoff, shoff = struct.unpack_from("<II", data, 28)
    header_len, ph_len, ph_count, sh_len, sh_count = struct.unpack_from("<5H", data, 40)
    ends: list[int] = [header_len, phoff + ph_len * ph_count, shoff + sh_len * sh_count]
    if max(ends) <= len(data) and (not ph_count or ph_len >= 32) and (not sh_count or sh_len >= 40):
        for at in range(phoff, phoff + ph_len * ph_count, ph_len or 1):
            offset, _, _, file_len = struct.unpack_from("<4I", data, at + 4)
            ends.append(offset + file_len)
        for at in range(shoff, shoff + sh_len * sh_count, sh_len or 1):
            kind, _, _, offset, size = struct.unpack_from("<5I", data, at + 4)
            ends.append(0 if kind in (_SHT_NULL, _SHT_NOBITS) else offset + size)
        if max(ends) <= len(data):
            return max(ends)
    raise MalformedImage(
        "the ELF file in the payload is not complete",
        file=name,
        place="payload",
        hint="the file is truncated or corrupted: copy it again",
    )


def _payload(data: bytes, header: SetupHeader, name: str) -> bytes:
    """The packed bytes that the header points to."""
    if header.version < PAYLOAD_SINCE:
        raise NotSupported(
            Limit.BOOT_PROTOCOL,
            f"boot protocol {header.version >> 8}.{header.version & 0xFF:02} "
            "does not tell where the payload lies",
            file=name,
        )
    if not header.payload_length:
        raise NotSupported(
            Limit.NO_PAYLOAD,
            "its header says that there is no payload: it boots as Linux does, and is not a Linux "
            "that unpacks itself",
            file=name,
            place=f"offset {PAYLOAD_LENGTH_OFF:#x}",
        )
    start = header.code_off + header.payload_offset
    if start + header.payload_length > len(data):
        raise MalformedImage(
            f"the payload should end at {start + header.payload_length:#x}, the file has "
            f"{len(data):#x} bytes",
            file=name,
            place=f"offset {start:#x}",
            hint="the file is truncated: copy it again",
        )
    return data[start : start + header.payload_length]


def _version(data: bytes, header: SetupHeader) -> str:
    """The NUL-terminated string that kernel_version points to."""
    if not header.kernel_version:
        return ""
    start = header.kernel_version + 0x200
    return data[start : start + 256].split(b"\0")[0].decode("ascii", "replace")
