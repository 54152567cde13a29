# SPDX-License-Identifier: MIT
"""What is run of a bzImage whose payload cannot be found? The code that unpacks it.

Before boot protocol 2.08 (Linux 2.6.26) a bzImage does not tell where its payload lies, and the
payload is not an ELF file. Its protected-mode code unpacks it wherever it belongs, and runs it.
What boots as Linux does and is not Linux (memtest86+) has no payload at all.
Source: Documentation/x86/boot.rst of Linux, "Loading The Rest of The Kernel" and "32-bit BOOT
PROTOCOL".
"""

from __future__ import annotations

import struct

from vmipatch.errors import MalformedImage
from vmipatch.image.bzimage import PAYLOAD_SINCE
from vmipatch.image.elf import EM_386, ElfImage
from vmipatch.image.setup_header import SetupHeader

LOAD_PA = 0x100000
"""Where the protected-mode code of a bzImage is loaded and entered."""
_CODE_OFF = 0x1000
_IDENT = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
_HEADER = struct.Struct("<16s2H5I6H")
_SEGMENT = struct.Struct("<8I")
_EXECUTABLE, _LOAD, _ALL_RIGHTS = 2, 1, 7


def hides_payload(header: SetupHeader) -> bool:
    """Whether a bzImage with this header is to be run by its own code."""
    return header.version < PAYLOAD_SINCE or not header.payload_length


def protected_mode_code(data: bytes, header: SetupHeader, name: str) -> ElfImage:
    """The code after the setup of the bzImage `data`, as a kernel to load and enter.

    Raises MalformedImage if missing.
    """
    code = data[header.code_off :]
    wanted = 16 * header.syssize
    if not code or len(code) + 15 < wanted:
        raise MalformedImage(
            f"the header promises {wanted:#x} bytes of code, the file has {len(code):#x}",
            file=name,
            place=f"offset {header.code_off:#x}",
            hint="the file is truncated: copy it again",
        )
    front = _HEADER.pack(
        _IDENT, _EXECUTABLE, EM_386, 1, LOAD_PA, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 1, 40, 0, 0,
    )  # fmt: skip
    front += _SEGMENT.pack(
        _LOAD, _CODE_OFF, LOAD_PA, LOAD_PA, len(code), len(code), _ALL_RIGHTS, _CODE_OFF
    )
    return ElfImage.parse(front.ljust(_CODE_OFF, b"\0") + code, name)
