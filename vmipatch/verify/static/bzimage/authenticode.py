# SPDX-License-Identifier: MIT
"""What is a bzImage without the signatures that sbsign put on it, and do they sign that?

Signatures stand at the end of the file. They sign all of it but the checksum, the entry of the
headers that names them, and themselves.
Source: Windows Authenticode Portable Executable Signature Format; PE Format, attribute certificate
table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vmipatch.image.pkcs7 import BrokenSignature, Signature, read_signature
from vmipatch.verify.static.bzimage.boot_code import UnknownBootCode
from vmipatch.verify.static.bzimage.pe import PeHeaders, checksum
from vmipatch.verify.static.foreign import note_foreign
from vmipatch.verify.static.rules import FOREIGN_SIGNATURE
from vmipatch.verify.static.verdict import Report

PLACE = "signatures"
_CERTIFICATE = struct.Struct("<IHH")
_REVISION, _PKCS7 = 0x0200, 2
_ALIGN = 8


def cut_signatures(data: bytes, report: Report) -> bytes:
    """The bzImage in `data` as it was before it was signed; the signatures are noted.

    The checksum of a signed file is that of the whole file, or 0; it is cut off, too.
    """
    try:
        pe = PeHeaders.of(data)
    except UnknownBootCode:
        return data  # its headers are compared with the original's
    off, length = (0, 0) if pe is None else pe.signatures(data)
    if pe is None or not length:
        return data
    if off + length != len(data) or off % _ALIGN or off < pe.sections:
        message = f"[{off:#x}, {off + length:#x}) is not the end of the file"
        report.add(FOREIGN_SIGNATURE, 0, message, PLACE)
        return data
    said = int.from_bytes(data[pe.checksum], "little")
    if said not in (0, checksum(data, pe)):
        message = f"the checksum is {said:#x}, should be {checksum(data, pe):#x}"
        report.add(FOREIGN_SIGNATURE, 0, message, PLACE)
    signed = data[: pe.checksum.start] + data[pe.checksum.stop : pe.certificates.start]
    signed += data[pe.certificates.stop : off]
    try:
        for size, each in _certificates(data[off:]):
            _require_digest(each, signed)
            content = each.content or b""
            note_foreign("Authenticode", each, size, content, report, named=True)
    except BrokenSignature as error:
        report.add(FOREIGN_SIGNATURE, 0, str(error), PLACE)
    unsigned = bytearray(data[:off])
    unsigned[pe.checksum] = bytes(4)
    unsigned[pe.certificates] = bytes(8)
    return bytes(unsigned)


def _certificates(table: bytes) -> Iterator[tuple[int, Signature]]:
    """Length and signature of each entry. Raises BrokenSignature."""
    at = 0
    while at < len(table):
        if at + _CERTIFICATE.size > len(table):
            raise BrokenSignature("the table is cut off")
        length, revision, kind = _CERTIFICATE.unpack_from(table, at)
        if (revision, kind) != (_REVISION, _PKCS7) or length < _CERTIFICATE.size:
            raise BrokenSignature("an entry is not a PKCS#7 signature")
        end = at + length
        signature = read_signature(table[at + _CERTIFICATE.size : end])
        start, after = at, at + _CERTIFICATE.size + signature.length
        at = -(-end // _ALIGN) * _ALIGN
        if at > len(table) or at - after >= _ALIGN or any(table[after:at]):
            raise BrokenSignature("an entry has another length than its signature")
        yield at - start, signature


def _require_digest(signature: Signature, signed: bytes) -> None:
    """Raise BrokenSignature unless it holds the digest of `signed`.

    Its content is the inside of SpcIndirectDataContent: a type, and a DigestInfo, which ends it.
    """
    content = signature.content
    digest = signature.digest(signed)
    if content is None or not content.endswith(bytes((4, len(digest))) + digest):
        raise BrokenSignature(f"its {signature.digest_name} is not that of the file")
    if signature.message_digest != signature.digest(content):
        raise BrokenSignature("its attributes name another digest than that of its content")
