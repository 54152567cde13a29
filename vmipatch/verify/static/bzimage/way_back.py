# SPDX-License-Identifier: MIT
"""Does `restore` give back the bzImage that was named as the original?"""

from __future__ import annotations

import hashlib

from vmipatch.restore import SECTION, Gives, Note, file_of, is_canonical, listed, rebuild
from vmipatch.verify.static.bzimage.inputs import NOTES, Shipped
from vmipatch.verify.static.bzimage.packing import payload_of
from vmipatch.verify.static.rules import WAY_BACK
from vmipatch.verify.static.verdict import Report


def check_way_back(shipped: Shipped, report: Report) -> None:
    """Execute the notes of the output; without notes there is a finding already."""
    kernel_note = shipped.kernel_note
    if shipped.note_inside is not None and kernel_note is not None:
        _check_inside(shipped, shipped.note_inside, kernel_note, report)
        return
    notes = shipped.notes
    if notes is None or kernel_note is None:
        return
    if not all(map(is_canonical, (notes.kernel_note, notes.packed_note))):
        report.add(WAY_BACK, 0, "a note is not written as vmipatch writes it", NOTES)
    old = shipped.old
    kernel = rebuild(shipped.body, kernel_note)
    if kernel != old.vmlinux + listed(old):
        report.add(WAY_BACK, 0, f"it gives {_named(kernel)} for the kernel inside", NOTES)
    if notes.note.gives is Gives.PAYLOAD and notes.recipe is None:
        result, target = kernel and kernel[: len(old.vmlinux)], old.vmlinux
    else:
        payload = b"" if notes.recipe is None else payload_of(shipped.original, old)
        if notes.recipe is not None and kernel != old.payload.unpacked:
            report.add(WAY_BACK, 0, "what it would pack is not what was packed", NOTES)
        result, target = file_of(shipped.unsigned, payload, notes.note), shipped.original
    should = hashlib.sha256(target).digest()
    if result != target or notes.note.sha256 != should:
        message = f"the note gives {_named(result)}, the original has {should.hex()}"
        report.add(WAY_BACK, 0, message, NOTES)
    else:
        report.counts["bytes given back"] += len(target)


def _check_inside(shipped: Shipped, packed: bytes, note: Note, report: Report) -> None:
    """A file without the original's boot code gives back the kernel that was in it."""
    old = shipped.old
    if not is_canonical(packed) or note.gives is not Gives.PAYLOAD:
        report.add(WAY_BACK, 0, "the note is not written as vmipatch writes it", SECTION)
    kernel, target = rebuild(shipped.body, note), old.vmlinux + listed(old)
    if kernel != target or note.sha256 != hashlib.sha256(target).digest():
        report.add(WAY_BACK, 0, f"it gives {_named(kernel)} for the kernel inside", SECTION)
    else:
        report.counts["bytes given back"] += len(old.vmlinux)


def _named(data: bytes | None) -> str:
    return "nothing" if data is None else hashlib.sha256(data).hexdigest()
