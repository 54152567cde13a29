# SPDX-License-Identifier: MIT
"""What does the setup header of a bzImage say, field by field, and how is one written?

Source: Documentation/x86/boot.rst of Linux, "The Real-Mode Kernel Header" (offsets, sizes, names)
and "Details of Header Fields" (meanings).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import asdict, dataclass, fields

from vmipatch.errors import InputNotUnderstood, MalformedImage, NotSupported
from vmipatch.limits import Limit

SECTOR_LEN = 512
HEADER_OFF = 0x1F1
JUMP_OFF = 0x200
"""The 16-bit entry point: a short jump, whose second byte tells how long the header is."""
MAGIC_OFF = 0x202
MAGIC = b"HdrS"
BOOT_FLAG = 0xAA55
OLDEST_VERSION = 0x0200
"""The first protocol with this header, and with code loaded at 1 MiB (Linux 1.3.73)."""


class LoadFlag(enum.IntFlag):
    """Bits of `loadflags`."""

    LOADED_HIGH = 1 << 0
    KASLR = 1 << 1
    QUIET = 1 << 5
    KEEP_SEGMENTS = 1 << 6
    CAN_USE_HEAP = 1 << 7


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The fields in file order; those a header is too old to have are 0.

    `loadflags` is kept as a number, since loaders set bits of their own.
    """

    setup_sects: int = 0
    root_flags: int = 0
    syssize: int = 0
    """Length of the protected-mode code in units of 16 bytes."""
    ram_size: int = 0
    vid_mode: int = 0
    root_dev: int = 0
    boot_flag: int = BOOT_FLAG
    jump: int = 0
    header: int = int.from_bytes(MAGIC, "little")
    version: int = 0
    """Major number in the upper byte, minor in the lower."""
    realmode_swtch: int = 0
    start_sys_seg: int = 0
    kernel_version: int = 0
    """Where the version string lies, less 0x200; 0 if missing."""
    type_of_loader: int = 0
    loadflags: int = 0
    setup_move_size: int = 0
    code32_start: int = 0
    ramdisk_image: int = 0
    ramdisk_size: int = 0
    bootsect_kludge: int = 0
    heap_end_ptr: int = 0
    ext_loader_ver: int = 0
    ext_loader_type: int = 0
    cmd_line_ptr: int = 0
    initrd_addr_max: int = 0
    kernel_alignment: int = 0
    relocatable_kernel: int = 0
    min_alignment: int = 0
    """A power of two, as its exponent."""
    xloadflags: int = 0
    cmdline_size: int = 0
    hardware_subarch: int = 0
    hardware_subarch_data: int = 0
    payload_offset: int = 0
    """From the start of the protected-mode code."""
    payload_length: int = 0
    setup_data: int = 0
    pref_address: int = 0
    init_size: int = 0
    handover_offset: int = 0
    kernel_info_offset: int = 0

    @property
    def code_off(self) -> int:
        """File offset of the protected-mode code; 0 sectors of setup mean 4."""
        return ((self.setup_sects or 4) + 1) * SECTOR_LEN

    def emit(self) -> bytes:
        """The bytes from HEADER_OFF on, as long as `version` has it."""
        return _LAYOUT.pack(*asdict(self).values())[: header_end(self.version) - HEADER_OFF]

    @classmethod
    def parse(cls, data: bytes, file: str = "<bytes>") -> SetupHeader:
        """Read the header of the bzImage `data`.

        Raises InputNotUnderstood if it is not a bzImage, MalformedImage if it is damaged.
        """
        if data[MAGIC_OFF : MAGIC_OFF + 4] != MAGIC:
            raise InputNotUnderstood(
                "this is not a bzImage",
                file=file,
                place=f"offset {MAGIC_OFF:#x}",
                hint="a bzImage has the letters HdrS there",
            )
        end = MAGIC_OFF + data[JUMP_OFF + 1]
        known = data[HEADER_OFF : min(end, HEADER_OFF + _LAYOUT.size)]
        header = cls(*_LAYOUT.unpack(known.ljust(_LAYOUT.size, b"\0")))
        if header.boot_flag != BOOT_FLAG or end > len(data):
            raise MalformedImage(
                "the setup header is damaged",
                file=file,
                place=f"offset {HEADER_OFF:#x}",
                hint="the file is truncated or corrupted: copy it again",
            )
        if header.version < OLDEST_VERSION or not header.loadflags & LoadFlag.LOADED_HIGH:
            raise NotSupported(
                Limit.ZIMAGE,
                "this is a zImage, whose code is loaded below 1 MiB",
                file=file,
            )
        return header


_LAYOUT = struct.Struct("<BHIHHHHHIHIHHBBHIIIIHBBIIIBBHIIQIIQQIII")
assert len(_LAYOUT.unpack(bytes(_LAYOUT.size))) == len(fields(SetupHeader))

_HEADER_ENDS = (
    (0x020F, 0x26C),
    (0x020B, 0x268),
    (0x020A, 0x264),
    (0x0209, 0x258),
    (0x0208, 0x250),
    (0x0207, 0x248),
    (0x0206, 0x23C),
    (0x0205, 0x236),
    (0x0203, 0x230),
    (0x0202, 0x22C),
)
"""From which protocol version on the header ends where."""


def header_end(version: int) -> int:
    """Offset in the file of the first byte after the header of protocol `version`."""
    return next((end for since, end in _HEADER_ENDS if version >= since), 0x228)
