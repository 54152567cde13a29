# SPDX-License-Identifier: MIT
"""By what is each byte of a proven bzImage explained?"""

from __future__ import annotations

from vmipatch.image.setup_header import HEADER_OFF, header_end
from vmipatch.verify.static.bzimage.around import CRC_LEN
from vmipatch.verify.static.bzimage.inputs import Shipped
from vmipatch.verify.static.file_ledger import UNEXPLAINED_BYTES, FileLedger

NOTES = "notes for restore"
OWN = "own boot code and the kernel in it"
SIGNATURES = "signatures of others"


def ledger_of(shipped: Shipped) -> FileLedger:
    """The ledger of a bzImage in which nothing was found: each byte was compared by then.

    Notes are copied: they are executed, and give the original (VP145). So are signatures that were
    put on later, which sign all the rest (VP146).
    """
    foreign = len(shipped.output) - len(shipped.unsigned)
    rows = _own(shipped) if shipped.note_inside is not None else _kept(shipped)
    if foreign:
        rows[SIGNATURES] = foreign
    rows[UNEXPLAINED_BYTES] = len(shipped.output) - sum(rows.values())
    copied = frozenset({NOTES, SIGNATURES} & rows.keys())
    return FileLedger(rows, copied, {"lengths of payload and notes": 2})


def _own(shipped: Shipped) -> dict[str, int]:
    """vmipatch's own boot code: the whole file is made anew, but for the note inside."""
    note_len = len(shipped.note_inside or b"")
    return {OWN: len(shipped.unsigned) - note_len, NOTES: note_len}


def _kept(shipped: Shipped) -> dict[str, int]:
    """The original's boot code: its parts in the order of the file."""
    old, new = shipped.old.header, shipped.new.header
    assert shipped.notes is not None, "a file without notes has no witness"
    payload = new.code_off + new.payload_offset
    notes = payload + new.payload_length
    zeros = notes + shipped.notes.length
    end = new.code_off + new.syssize * 16
    tail = end - (old.syssize * 16 - old.payload_offset - old.payload_length)
    return {
        "setup header": header_end(new.version) - HEADER_OFF,
        "setup code and headers for EFI": new.code_off - header_end(new.version) + HEADER_OFF,
        "boot code before the payload": payload - new.code_off,
        "payload": notes - payload,
        NOTES: zeros - notes,
        "zeros": tail - zeros,
        "boot code after the payload": end - CRC_LEN - tail,
        "CRC-32": CRC_LEN,
    }
