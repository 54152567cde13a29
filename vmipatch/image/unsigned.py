# SPDX-License-Identifier: MIT
"""What was a file before somebody signed it? Signatures stand at its end.

Source: PE Format (Microsoft), attribute certificate table.
"""

from __future__ import annotations

from vmipatch.image.repack import pe_header


def unsigned_bzimage(data: bytes) -> bytes:
    """The bzImage without what sbsign added: signatures at its end, their entry, the checksum."""
    off, length = pe_header.certificates(data)
    if not length or off + length != len(data):
        return data
    result = bytearray(data[:off])
    pe_header.without_signature(result)
    return bytes(result)
