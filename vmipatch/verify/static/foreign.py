# SPDX-License-Identifier: MIT
"""Which foreign signatures does a file carry, and do they sign what is proven?

A signature is made after the rewrite, by a key that vmipatch does not know. It is cut off, named,
and what is left is proven. It must be whole, and the digest that it names must be that of the file.
"""

from __future__ import annotations

import struct

from vmipatch.image.module import SIGNATURE_END
from vmipatch.image.pkcs7 import BrokenSignature, KeyCheck, Signature, read_signature
from vmipatch.verify.static.rules import FOREIGN_SIGNATURE
from vmipatch.verify.static.signature import Foreign
from vmipatch.verify.static.verdict import Report

_TRAILER = struct.Struct(">BBBBB3sI")
"""struct module_signature (include/linux/module_signature.h), the length in network order."""
_PKCS7 = 2
END_OF_FILE = "end of the file"


def cut_module_signature(data: bytes, report: Report) -> bytes:
    """The module in `data` without the signature after it, which is noted if there is one."""
    if not data.endswith(SIGNATURE_END):
        return data
    at = len(data) - len(SIGNATURE_END) - _TRAILER.size
    try:
        if at < 0:
            raise BrokenSignature("it is cut off")
        algo, hash_, id_type, signer_len, key_len, pad, length = _TRAILER.unpack_from(data, at)
        if (algo, hash_, id_type, signer_len, key_len, pad) != (0, 0, _PKCS7, 0, 0, bytes(3)):
            raise BrokenSignature("it is not of the kind that Linux takes since 4.3")
        if length > at:
            raise BrokenSignature("it is longer than the file")
        content = data[: at - length]
        found = read_signature(data[at - length : at])
        if found.length != length:
            raise BrokenSignature("it has another length than its trailer says")
    except BrokenSignature as error:
        report.add(FOREIGN_SIGNATURE, 0, str(error), END_OF_FILE)
        return data
    if found.content is not None:
        report.add(FOREIGN_SIGNATURE, 0, "it signs a content of its own", END_OF_FILE)
    if found.message_digest not in (None, found.digest(content)):
        message = f"its {found.digest_name} is not that of the file"
        report.add(FOREIGN_SIGNATURE, 0, message, END_OF_FILE)
    taken = len(data) - len(content)
    note_foreign("module signature", found, taken, content, report)
    return content


def note_foreign(
    kind: str, found: Signature, length: int, content: bytes, report: Report, *, named: bool = False
) -> None:
    """Note the signature `found` of `content`; a finding if its key did not sign that."""
    key = found.check_key(content)
    if key is KeyCheck.OTHER:
        report.add(FOREIGN_SIGNATURE, 0, key.value, END_OF_FILE)
    is_named = named or found.message_digest is not None
    report.signatures.append(Foreign(kind, found.signer, found.digest_name, length, is_named, key))
