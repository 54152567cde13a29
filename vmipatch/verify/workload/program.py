# SPDX-License-Identifier: MIT
"""Which bytes are verify's initial file system and /init, its program?"""

from __future__ import annotations

import struct
from functools import cache
from importlib import resources
from typing import Final

from vmipatch.isa.assemble import assemble
from vmipatch.verify.system_calls import NUMBERS
from vmipatch.verify.workload.cpio import character_device, directory, pack, program

PREFIX: Final = "verify: "
"""Each line of the workload begins so."""
DONE: Final = f"{PREFIX}done"
"""The line that the workload ends with."""
FAILED: Final = "FAILED"
"""The end of the lines of steps that went wrong."""
PROGRAM: Final = "init["
"""In lines of the kernel about faults that the workload makes on purpose."""

_FILES: Final = (
    "start.S", "files.S", "processes.S", "signals.S", "time.S", "rights.S", "data.S",
)  # fmt: skip
"""One after the other they are the program."""
_LOAD_VA: Final = 0x08048000
_PAGE_LEN: Final = 0x1000
_BUFFER_LEN: Final = 0x1000
_ELF_HEADER: Final = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIIIIIII")
_IDENTIFICATION: Final = b"\x7fELF\x01\x01\x01"
_EXECUTABLE, _I386, _PT_LOAD, _READ_WRITE_EXECUTE = 2, 3, 1, 7


@cache
def initramfs() -> bytes:
    """The file system, an uncompressed cpio archive; always the same bytes."""
    return pack(
        [
            directory("dev"),
            character_device("dev/console", 5, 1),
            character_device("dev/null", 1, 3),
            program("init", init_program()),
        ]
    )


def source() -> str:
    """The whole assembly of /init; start.S says what it does."""
    here = resources.files(__package__)
    return "\n".join(here.joinpath(file).read_text(encoding="utf-8") for file in _FILES)


def init_program() -> bytes:
    """The static i386 ELF that the kernel starts as /init."""
    headers_len = _ELF_HEADER.size + _PROGRAM_HEADER.size
    code_va = _LOAD_VA + headers_len
    calls = {f"sys_{name}": number for name, number in NUMBERS.items()}
    linked = assemble(source(), code_va, symbols=calls, name="/init")
    file_len = headers_len + len(linked.code)
    header = _ELF_HEADER.pack(
        _IDENTIFICATION, _EXECUTABLE, _I386, 1, linked.labels["_start"],
        _ELF_HEADER.size, 0, 0, _ELF_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0,
    )  # fmt: skip
    segment = _PROGRAM_HEADER.pack(
        _PT_LOAD, 0, _LOAD_VA, _LOAD_VA, file_len, file_len + _BUFFER_LEN,
        _READ_WRITE_EXECUTE, _PAGE_LEN,
    )  # fmt: skip
    return header + segment + linked.code
