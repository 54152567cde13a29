# SPDX-License-Identifier: MIT
"""What stands in front of the ROM's code? The header of API 3.0, two BIOS headers and strings.

| offset | what |
| --- | --- |
| 0x00 | option ROM: 55 AA, length in 512 bytes, 16-bit entry |
| 0x08 | `cVmi`, version, licence, PCI and PnP offsets |
| 0x20 | marks for our hypervisor (vmi/marks.py) |
| 0x30 | PCI data structure (PCI Firmware Specification 3.0, 5.1.2) |
| 0x50 | PnP expansion header (Plug and Play BIOS Specification 1.0A, 3.2) |
| 0x80 | jump to VMI_Init |
| 0x88 | jump to VMI_GetRelocationInfo |
| 0x90 | licence, manufacturer, product |

Layout of the VMI fields: struct vrom_header in Linux 2.6.32, arch/x86/include/asm/vmi.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vmipatch.vmi.calls import VmiCall

SECTOR_LEN = 512
CODE_ALIGN = 16
INIT_OFF = 0x80
GET_RELOC_OFF = 0x88
VERSION = (0, 1)
MANUFACTURER = "vmipatch"

PCI_OFF = 0x30
PNP_OFF = 0x50
_STRINGS_OFF = 0x90
_VENDOR_VMWARE, _DEVICE_VMI = 0x15AD, 0x0801
_FAR_RETURN = b"\xcb"
_ROM = struct.Struct("<HB4sx4sBBBxIxxHHHxxxx")
_PCI = struct.Struct("<4sHHHHB3sHBBBBxx")
_PNP = struct.Struct("<4sBBHxBIHH14x")
_NEAR_JUMP = struct.Struct("<Bi3x")


@dataclass(frozen=True, slots=True)
class RomHead:
    """The fields of the header."""

    product: str
    license: str
    api_major: int
    api_minor: int
    virtual_top: int = 0
    """From this linear address on the guest leaves everything alone; 0: nothing."""

    @property
    def strings(self) -> tuple[bytes, ...]:
        """Licence, manufacturer and product, each with its NUL."""
        return strings(self.license, self.product)

    @property
    def code_off(self) -> int:
        """Where code can begin."""
        return -(-(_STRINGS_OFF + sum(map(len, self.strings))) // CODE_ALIGN) * CODE_ALIGN

    def pack(self, rom_len: int, marks: bytes, init_off: int, get_reloc_off: int) -> bytes:
        """The bytes in front of the code of a ROM of `rom_len` bytes, whole sectors."""
        sectors = rom_len // SECTOR_LEN
        license_off = _STRINGS_OFF
        manufacturer_off = license_off + len(self.strings[0])
        product_off = manufacturer_off + len(self.strings[1])
        out = bytearray(self.code_off)
        _ROM.pack_into(
            out, 0, 0xAA55, sectors, _FAR_RETURN, b"cVmi", self.api_minor, self.api_major,
            max(VmiCall) + 1, self.virtual_top, license_off, PCI_OFF, PNP_OFF,
        )  # fmt: skip
        out[0x20 : 0x20 + len(marks)] = marks
        pci = pci_header(sectors)
        out[PCI_OFF : PCI_OFF + len(pci)] = pci
        pnp = pnp_header(manufacturer_off, product_off)
        out[PNP_OFF : PNP_OFF + len(pnp)] = pnp
        _NEAR_JUMP.pack_into(out, INIT_OFF, 0xE9, init_off - INIT_OFF - 5)
        _NEAR_JUMP.pack_into(out, GET_RELOC_OFF, 0xE9, get_reloc_off - GET_RELOC_OFF - 5)
        strings = b"".join(self.strings)
        out[_STRINGS_OFF : _STRINGS_OFF + len(strings)] = strings
        return bytes(out)


def strings(license: str, product: str) -> tuple[bytes, bytes, bytes]:
    """Licence, manufacturer and product, each with its NUL."""
    one, two, three = (text.encode("ascii") + b"\0" for text in (license, MANUFACTURER, product))
    return one, two, three


def pci_header(sectors: int) -> bytes:
    """The only image, x86 code, of a device that fits no class."""
    no_class, x86, last_image = b"\0\0\xff", 0, 0x80
    major, minor = VERSION
    return _PCI.pack(
        b"PCIR", _VENDOR_VMWARE, _DEVICE_VMI, 0, _PCI.size, 0, no_class, sectors, minor, major,
        x86, last_image,
    )  # fmt: skip


def pnp_header(manufacturer_off: int, product_off: int) -> bytes:
    """A device without boot vectors."""
    fields = (1, _PNP.size // 16, 0)
    pnp = bytearray(_PNP.pack(b"$PnP", *fields, 0, 0, manufacturer_off, product_off))
    pnp[9] = checksum_byte(pnp)
    return bytes(pnp)


def checksum_byte(data: bytes | bytearray) -> int:
    """The byte that, added to `data`, makes the 8-bit sum 0."""
    return -sum(data) % 256
