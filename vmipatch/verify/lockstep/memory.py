# SPDX-License-Identifier: MIT
"""Which memory do the pointers of a system call point to, where it is cheap to look at?

One row a call and pointer. What holds times (stat, rusage, sysinfo), random numbers, or nothing but
what other calls show as well, has no row. Sizes are those of include/uapi of i386.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vmipatch.verify.console import FOREIGN_RULES, RULES, normalised
from vmipatch.verify.system_calls import NUMBERS
from vmipatch.verify.user_space import Detail

Peek = Callable[[int, int], bytes]
"""As many bytes of a process from an address on as are mapped, up to a length."""

_SHOWN_LEN: Final = 40
_LONGEST: Final = 1 << 16
"""Bytes of one buffer that are looked at."""
_STRING_LEN: Final = 256
_MANY: Final = 64
"""Entries of a vector that are looked at."""
_ERRORS: Final = 0xFFFFF000
_VECTOR_LEN: Final = 8


class PointeeLength(enum.Enum):
    """The length of what a pointer points to."""

    STRING = "up to a zero"
    STRINGS = "pointers to such, up to a zero"
    ARGUMENT = "so many bytes as another argument says"
    RESULT = "so many bytes as the result says"
    FIXED = "a structure"
    VECTOR = "pointers and lengths, so many as the next argument says"


@dataclass(frozen=True, slots=True)
class Pointee:
    """The memory that argument number `pointer` points to."""

    pointer: int
    extent: PointeeLength
    number: int = 0
    """The argument with the length, or the length itself."""


def _rows(text: str, *pointees: Pointee) -> dict[int, tuple[Pointee, ...]]:
    return {NUMBERS[name]: pointees for name in text.split()}


_S, _F = PointeeLength.STRING, PointeeLength.FIXED

GIVEN: Final = {
    **_rows("open creat unlink chdir mknod chmod access mkdir rmdir chroot umount2 "
            "truncate stat64 lstat64 chown32 readlink swapon acct", Pointee(0, _S)),
    **_rows("link rename symlink", Pointee(0, _S), Pointee(1, _S)),
    **_rows("mount", Pointee(0, _S), Pointee(1, _S), Pointee(2, _S)),
    **_rows("openat mkdirat mknodat unlinkat fchmodat faccessat readlinkat fstatat64 statx",
            Pointee(1, _S)),
    **_rows("execve", Pointee(0, _S), Pointee(1, PointeeLength.STRINGS),
            Pointee(2, PointeeLength.STRINGS)),
    **_rows("write pwrite64 sendto", Pointee(1, PointeeLength.ARGUMENT, 2)),
    **_rows("writev", Pointee(1, PointeeLength.VECTOR, 2)),
    **_rows("sethostname setdomainname", Pointee(0, PointeeLength.ARGUMENT, 1)),
    **_rows("sigaction", Pointee(1, _F, 16)),
    **_rows("rt_sigaction", Pointee(1, _F, 20)),
    **_rows("sigprocmask", Pointee(1, _F, 4)),
    **_rows("rt_sigprocmask", Pointee(1, _F, 8)),
    **_rows("setitimer setrlimit", Pointee(1, _F, 16)),
    **_rows("nanosleep set_thread_area", Pointee(0, _F, 8)),
    **_rows("clock_nanosleep", Pointee(2, _F, 8)),
    **_rows("clock_nanosleep_time64", Pointee(2, _F, 16)),
}  # fmt: skip
"""The memory that the kernel is given, by call number."""

RETURNED: Final = {
    **_rows("read pread64 readlink getdents getdents64 recvfrom", Pointee(1, PointeeLength.RESULT)),
    **_rows("readlinkat", Pointee(2, PointeeLength.RESULT)),
    **_rows("getcwd", Pointee(0, PointeeLength.RESULT)),
    **_rows("pipe pipe2", Pointee(0, _F, 8)),
    **_rows("waitpid wait4", Pointee(1, _F, 4)),
    **_rows("sigaction", Pointee(2, _F, 16)),
    **_rows("rt_sigaction", Pointee(2, _F, 20)),
    **_rows("sigprocmask", Pointee(2, _F, 4)),
    **_rows("rt_sigprocmask", Pointee(2, _F, 8)),
    **_rows("_llseek", Pointee(3, _F, 8)),
    **_rows("getrlimit ugetrlimit", Pointee(1, _F, 8)),
    **_rows("uname", Pointee(0, _F, 390)),
}  # fmt: skip
"""The memory that it gives back, by call number, if the call succeeds."""


def given(number: int, arguments: tuple[int, ...], peek: Peek, detail: Detail) -> str:
    """The memory that the process passes by the pointers of its call."""
    rows = GIVEN.get(number, ()) if detail is not Detail.NUMBERS else ()
    return "".join(f" {_shown(part, detail)}" for part in _parts(rows, arguments, 0, peek))


def returned(
    number: int, arguments: tuple[int, ...], result: int, peek: Peek, detail: Detail
) -> str:
    """The memory that the kernel has filled in; none after an error, or if it depends on time."""
    rows = RETURNED.get(number, ())
    if result >= _ERRORS or detail is not Detail.EXACT:
        return ""
    return "".join(f" {_shown(part, detail)}" for part in _parts(rows, arguments, result, peek))


def _parts(
    rows: tuple[Pointee, ...], arguments: tuple[int, ...], result: int, peek: Peek
) -> Iterator[bytes]:
    for row in rows:
        va = arguments[row.pointer]
        if not va:
            continue
        match row.extent:
            case PointeeLength.STRING:
                yield _string(va, peek)
            case PointeeLength.STRINGS:
                yield from (_string(each, peek) for each in _pointers(va, peek))
            case PointeeLength.ARGUMENT:
                yield peek(va, min(arguments[row.number], _LONGEST))
            case PointeeLength.RESULT:
                yield peek(va, min(result, _LONGEST))
            case PointeeLength.FIXED:
                yield peek(va, row.number)
            case PointeeLength.VECTOR:
                vector = peek(va, min(arguments[row.number], _MANY) * _VECTOR_LEN)
                words = memoryview(vector[: len(vector) & ~7]).cast("I")
                yield b"".join(
                    peek(words[i], min(words[i + 1], _LONGEST)) for i in range(0, len(words), 2)
                )


def _string(va: int, peek: Peek) -> bytes:
    return peek(va, _STRING_LEN).split(b"\0")[0]


def _pointers(va: int, peek: Peek) -> Iterator[int]:
    for i in range(_MANY):
        pointer = int.from_bytes(peek(va + 4 * i, 4), "little")
        if not pointer:
            return
        yield pointer


def _shown(data: bytes, detail: Detail) -> str:
    """Short data as they are; of long ones the beginning, length and sum."""
    if detail is Detail.TIMED:
        text = data.decode("ascii", errors="replace").splitlines()
        data = "\n".join(normalised(text, False, RULES + FOREIGN_RULES)).encode()
    if len(data) <= _SHOWN_LEN:
        return repr(data)[1:]
    return f"{repr(data[:_SHOWN_LEN])[1:]}... ({len(data)} bytes, crc {zlib.crc32(data):08x})"
