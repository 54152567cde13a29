# SPDX-License-Identifier: MIT
"""How is a guest's console shown where no terminal is attached? Control characters are escaped.

A terminal gets the bytes as they are, as from QEMU: it is the end of the serial line. A file or a
pipe is read by other programs, and by people whose terminal is not the guest's to command.
"""

from __future__ import annotations

import codecs
from typing import Final

from vmipatch.errors import escaped

_KEPT: Final = "\n\t"
_RETURN: Final = "\r"


class GuestText:
    """The bytes of a serial line, in pieces, as UTF-8 without control characters.

    New lines, with the carriage returns before them, and tabs are kept; all else that cannot be
    printed, and bytes that are not UTF-8, become an escape in hexadecimal.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._returns = ""
        """Carriage returns of which it is not known yet what they stand before."""

    def add(self, data: bytes, *, final: bool = False) -> bytes:
        """The text that can be shown after `data`; with `final`, all that was held back too."""
        text = self._returns + self._decoder.decode(data, final)
        kept = len(text) if final else len(text.rstrip(_RETURN))
        self._returns = text[kept:]
        lines = text[:kept].split("\n")
        return "\n".join([*map(_line, lines[:-1]), escaped(lines[-1], _KEPT)]).encode()


def _line(line: str) -> str:
    """A line without its end."""
    end = len(line.rstrip(_RETURN))
    return escaped(line[:end], _KEPT) + line[end:]
