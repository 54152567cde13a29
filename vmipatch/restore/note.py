# SPDX-License-Identifier: MIT
"""What is in the section .vmi.restore, and how is it packed?

Six bytes of magic and version, then an xz stream (with a CRC-32) that holds, in this order:

| field | form |
| --- | --- |
| what the note gives | u8, a number of Gives |
| bytes of the result, and their SHA-256 | u32, 32 bytes |
| seven columns | each a u32 length and its bytes |

The columns: of the runs, as `runs.told` gives them, the first, second and third numbers; the bytes
that the output lacks, the shortest pieces first; one bit for each question of `runs` and `led`; the
distances between the bytes that are still wrong then, and what they are. Numbers in columns are
varints, seven bits a byte, the lowest first; those that may be negative are zigzag.
"""

from __future__ import annotations

import enum
import io
import lzma
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from vmipatch.errors import MalformedImage

SECTION = ".vmi.restore"
MAGIC = b"VMIRS\x02"
"""The last byte is the version: a note says by it which rules of `led` and `runs` it follows."""
MAX_LEN = 1 << 30
"""Neither a kernel nor the columns of its note are longer; more is damage."""
USUAL_LEN = 96 << 20
RATIO = 12
"""Columns of more than USUAL_LEN bytes are those of a whole file with debug information, which xz
packs to a sixth; more than RATIO bytes for each of the note are damage."""
PIECE_LEN = 1 << 20
NUMBERS = (0, 1, 2, 5)
"""The columns that hold numbers, which take thirty times the memory once they are read."""
ANSWERS = 4
MAX_NUMBERS_LEN = MAX_ANSWERS_LEN = 1 << 22
"""Bytes of these together: fifty times what Debian's kernels need."""
MAX_MEMORY_LEN = 1 << 26
"""Bytes that unpacking a note takes at most: its dictionary is far smaller."""

_HEAD = struct.Struct("<BI32s")
_LEN = struct.Struct("<I")
_COLUMNS = 7
_SMALL = 1 << 22
"""Up to here a column costs little time at the highest level."""
DAMAGED = "restore from another copy of the rewritten kernel"


class Gives(enum.Enum):
    """The file that comes back: number in the note, name in reports, words in messages."""

    INPUT = (0, "input", "the file that was rewritten")
    WITHOUT_DEBUG = (
        1,
        "without-debug",
        "the file that was rewritten, but its debug sections are empty",
    )
    PAYLOAD = (2, "payload", "the kernel inside of the bzImage that was rewritten")
    UNPACKED = (3, "unpacked", "the module that was rewritten, as it was before it was packed")

    def __init__(self, number: int, label: str, text: str) -> None:
        self.number = number
        self.label = label
        self.text = text


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """Everything that the output does not say of the file it was made from."""

    gives: Gives
    length: int
    sha256: bytes
    rows: tuple[tuple[int, int, int], ...]
    """The runs as `runs.told` gives them."""
    literals: bytes = field(repr=False)
    """The bytes that they lack, as `runs.by_length` gives them."""
    answers: np.ndarray
    """Yes or no (bool), in the order in which the questions come up."""
    wrong_at: np.ndarray
    """Offsets in the result (i64, ascending) of bytes that are not what was computed."""
    right: bytes = field(repr=False)
    """The bytes that are there instead."""

    def pack(self) -> bytes:
        """The bytes of the section."""
        columns = (
            _varints(_zigzag(row[0]) for row in self.rows),
            _varints(_zigzag(row[1]) for row in self.rows),
            _varints(row[2] for row in self.rows),
            self.literals,
            np.packbits(self.answers).tobytes(),
            _varints(np.diff(self.wrong_at, prepend=0).tolist()),
            self.right,
        )
        body = _HEAD.pack(self.gives.number, self.length, self.sha256)
        body += b"".join(_LEN.pack(len(column)) + column for column in columns)
        return MAGIC + lzma.compress(
            body, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[_filter(len(body))]
        )

    @classmethod
    def unpack(cls, data: bytes, name: str, place: str = SECTION) -> Note:
        """Read the note at `place` of the file `name`. Raises MalformedImage if it is damaged."""
        try:
            return cls._unpack(data)
        except MalformedImage as error:
            error.file, error.place = name, place
            raise

    @classmethod
    def _unpack(cls, data: bytes) -> Note:
        if data[: len(MAGIC)] != MAGIC:
            _refuse("begins with no magic number and version that this vmipatch knows")
        columns, head = _columns(_unpacked(data[len(MAGIC) :]))
        number, length, digest = _HEAD.unpack(head)
        gives = next((gives for gives in Gives if gives.number == number), None)
        numbers_len = sum(len(columns[i]) for i in NUMBERS)
        if numbers_len > MAX_NUMBERS_LEN or len(columns[ANSWERS]) > MAX_ANSWERS_LEN:
            _refuse("describes more pieces than any kernel has")
        lacking, ways, copy_lens, gaps = (_numbers(columns[i]) for i in NUMBERS)
        wrong_at = np.cumsum(np.array(gaps, dtype=np.int64))
        if not len(lacking) == len(ways) == len(copy_lens) or len(gaps) != len(columns[6]):
            _refuse("has columns of different lengths")
        if gives is None or length > MAX_LEN:
            _refuse("gives nothing that is known")
        return cls(
            gives,
            length,
            digest,
            tuple(zip(map(_signed, lacking), map(_signed, ways), copy_lens, strict=True)),
            columns[3],
            np.unpackbits(np.frombuffer(columns[ANSWERS], np.uint8)).astype(np.bool_),
            wrong_at,
            columns[6],
        )


def is_canonical(packed: bytes) -> bool:
    """Whether a note is written as `Note.pack` writes it, but for the choices of xz.

    Zeros may follow up to the end of a word.
    Another release of liblzma may pack in other bytes; what they unpack to is the same. Raises
    MalformedImage if the note is damaged.
    """
    written = packed.rstrip(b"\0")
    if len(packed) - len(written) >= _WORD_LEN:
        return False
    again = Note.unpack(packed, "<bytes>").pack()
    if again.rstrip(b"\0") == written:
        return True
    bodies = [_unpacked(data[len(MAGIC) :]) for data in (written.ljust(len(packed), b"\0"), again)]
    front = len(MAGIC) + _XZ_HEADERS_LEN
    return bodies[0] == bodies[1] and written[:front] == again[:front]


_WORD_LEN = 4
_XZ_HEADERS_LEN = 24
"""Of the stream and of its only block."""


def _filter(length: int) -> dict[str, int]:
    """Long notes (with everything in them) are packed fast, and none with a great dictionary."""
    preset = 9 | lzma.PRESET_EXTREME if length <= _SMALL else 1
    return {
        "id": lzma.FILTER_LZMA2,
        "preset": preset,
        "dict_size": min(max(length, 1 << 12), 1 << 23),
        "lc": 0,
        "pb": 0,
    }


def _unpacked(data: bytes) -> bytes:
    limit = min(MAX_LEN, max(USUAL_LEN, RATIO * len(data)))
    stream, out = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY_LEN), io.BytesIO()
    feed = data
    try:
        while not stream.eof and out.tell() <= limit:
            out.write(stream.decompress(feed, PIECE_LEN))
            feed = b""
            if stream.needs_input:
                break
    except (lzma.LZMAError, EOFError):
        _refuse("is damaged: its checksum is wrong")
    if out.tell() > limit:
        _refuse(f"unpacks to more than {limit >> 20} MiB")
    if not stream.eof or stream.unused_data.strip(b"\0"):
        _refuse("is damaged: it has no end, or more after it")
    return out.getvalue()


def _columns(body: bytes) -> tuple[list[bytes], bytes]:
    at, columns = _HEAD.size, []
    for _ in range(_COLUMNS):
        if at + _LEN.size > len(body):
            break
        (length,) = _LEN.unpack_from(body, at)
        columns.append(body[at + _LEN.size : at + _LEN.size + length])
        at += _LEN.size + length
    if len(columns) != _COLUMNS or at != len(body):
        _refuse("is cut off")
    return columns, body[: _HEAD.size]


def _zigzag(number: int) -> int:
    """Small for small numbers of either sign."""
    return number * 2 if number >= 0 else -number * 2 - 1


def _signed(number: int) -> int:
    return -(number + 1) // 2 if number & 1 else number // 2


def _varints(numbers: Iterable[int]) -> bytes:
    result = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            result.append(rest & 0x7F | 0x80)
            rest >>= 7
        result.append(rest)
    return bytes(result)


def _numbers(column: bytes) -> list[int]:
    result, number, shift = [], 0, 0
    for octet in column:
        number |= (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            result.append(number)
            number = shift = 0
        elif shift > 35:
            _refuse("holds a number of more than 32 bits")
    return result


def _refuse(message: str) -> NoReturn:
    raise MalformedImage(f"the note {message}", hint=DAMAGED)
