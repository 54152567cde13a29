# SPDX-License-Identifier: MIT
"""How does a whole bzImage come back: its boot code, and its payload packed as it was?

Everything it needs stands right after the payload, in front of the tail of the boot code, where
it is not read or packed once more: six bytes of magic and version, a u32 length and a
CRC-32 of what follows, then the recipe of the payload (u16 length, JSON), a note as in `note` for
the kernel inside (after its u32 length), and one for the file. Runs of that take from the bzImage,
and from the payload packed again as if it stood after the bzImage.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.bzimage import BzImage, elf_length
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Recipe, pack_payload
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.unsigned import unsigned_bzimage
from vmipatch.restore.note import DAMAGED, SECTION, Gives, Note
from vmipatch.restore.rebuild import Restored, copied, fits, given_back
from vmipatch.restore.recipe import recipe_from, recipe_text
from vmipatch.restore.runs import CopyRun, WithoutNote, by_length, decode_runs, in_file_order, told

MAGIC = b"VMIRF\x02"
CRC_LEN = 4
"""The last bytes of boot code are a sum over everything: over the note too."""
_HEAD = struct.Struct("<6sII")
_LEN = struct.Struct("<I")
_PLACE = "after the payload"
_NO_ANSWERS = np.zeros(0, dtype=np.bool_)


def listed(bzimage: BzImage) -> bytes:
    """The relocation list of a bzImage as its payload holds it."""
    return b"" if bzimage.relocs is None else emit_list(bzimage.relocs)


@dataclass(frozen=True, slots=True)
class Frame:
    """The bzImage that is to come back."""

    data: bytes = field(repr=False)
    old: BzImage
    """The same, as it was read."""
    recipe: Recipe | None
    """The recipe that packs the payload as it was packed."""
    whole: bool
    """Whether the payload is kept where there is no recipe; else only the kernel comes back."""
    linked: ElfImage
    """The kernel in it, as it was linked."""


def frame_note(frame: Frame, kernel_note: bytes, output: bytes) -> bytes:
    """The note that makes the bzImage of `frame` of the rewritten one, `output`.

    `kernel_note` is the packed note for the kernel inside. Of `output` the bytes after the
    payload, as long as the result, and the last four do not count.
    """
    data, old, recipe = frame.data, frame.old, frame.recipe
    if recipe is None and not frame.whole:
        note = _note(Gives.PAYLOAD, old.vmlinux, [], b"", b"", ())
        return _packed(None, kernel_note, note)
    start = old.header.code_off + old.header.payload_offset
    end = start + old.header.payload_length
    code_end = min(old.header.code_off + old.header.syssize * 16, len(data))
    tail = data[end:code_end].lstrip(b"\0")
    gap_len = code_end - end - len(tail)
    packed = b"" if recipe is None else data[start:end]
    runs = [
        CopyRun(0, 0, start),
        CopyRun(end - start - len(packed), len(output), len(packed)),
        CopyRun(gap_len, len(output) - len(tail), len(tail)),
        CopyRun(len(data) - code_end, 0, 0),
    ]
    literals = data[start : end - len(packed)] + bytes(gap_len) + data[code_end:]
    summed = range(max(code_end - CRC_LEN, end), code_end)
    note = _note(Gives.INPUT, data, runs, literals, copied(output + packed, runs, literals), summed)
    return _packed(recipe, kernel_note, note)


@dataclass(frozen=True, slots=True)
class Written:
    """The notes in a rewritten bzImage, as they were read."""

    recipe: Recipe | None
    """The recipe that packs the payload as it was packed."""
    kernel_note: bytes = field(repr=False)
    """The packed note for the kernel inside."""
    packed_note: bytes = field(repr=False)
    """That for the file."""
    note: Note = field(repr=False)
    """The same, unpacked."""
    length: int
    """Bytes of it all, from the end of the payload on."""


def read_notes(data: bytes, read: BzImage) -> Written:
    """The notes in the rewritten bzImage `data`, which was read as `read`.

    Raises InputNotUnderstood if there are none, MalformedImage if they are damaged.
    """
    return _unpacked(data, read)


def body_inside(read: BzImage) -> WithoutNote:
    """The kernel in a rewritten bzImage and its relocation list: what its note describes.

    Raises MalformedImage if that is not an ELF file.
    """
    image = ElfImage.parse(read.vmlinux, read.name)
    section = image.section_by_name.get(SECTION)
    end = section.off if section is not None and section.size else len(read.vmlinux)
    return WithoutNote.of(image, end, listed(read))


def file_of(output: bytes, payload: bytes, note: Note) -> bytes | None:
    """The result of the note for the file, from rewritten bzImage and the original's payload.

    None if it does not fit them.
    """
    return _rebuilt(output + payload, note)


def restore_bzimage(data: bytes, name: str, payload: bytes | None = None) -> Restored:
    """The bzImage that the rewritten bzImage `data` was made from, or the kernel inside.

    Signatures that were put on it since are taken off. `payload` is the original packed payload,
    if somebody has it; packing takes long. Raises
    InputNotUnderstood without a note, MalformedImage if something is damaged, EnvironmentProblem
    without the library or program of the compression.
    """
    data = unsigned_bzimage(data)
    read = BzImage.parse(data, name)
    inside = note_inside(read)
    if inside is not None:
        return _kernel_alone(inside, read)
    written = _unpacked(data, read)
    recipe, note = written.recipe, written.note
    kernel = given_back(body_inside(read), written.kernel_note, _PLACE)
    if note.gives is Gives.PAYLOAD:
        result: bytes | None = kernel.data[: elf_length(kernel.data, name)]
    else:
        if recipe is not None and payload is None:
            payload = pack_payload(recipe, kernel.data)
        result = _rebuilt(data + (payload or b"" if recipe else b""), note)
    if result is None or hashlib.sha256(result).digest() != note.sha256:
        raise MalformedImage(
            "what comes out has another SHA-256 than the input had: the file was changed since, "
            f"or packed here otherwise than by {recipe}",
            file=name,
            hint=DAMAGED,
        )
    return Restored(result, note.gives, note.sha256.hex(), written.length)


def note_inside(read: BzImage) -> bytes | None:
    """The packed note in the kernel of a bzImage with vmipatch's own boot code; None in others.

    Raises MalformedImage if what is in it is not an ELF file.
    """
    image = ElfImage.parse(read.vmlinux, read.name)
    section = image.section_by_name.get(SECTION)
    return image.section_bytes(section) if section is not None and section.size else None


def _kernel_alone(note: bytes, read: BzImage) -> Restored:
    """The kernel that came in a bzImage whose boot code is not kept."""
    kernel = given_back(body_inside(read), note, SECTION)
    result = kernel.data[: elf_length(kernel.data, read.name)]
    return Restored(result, Gives.PAYLOAD, hashlib.sha256(result).hexdigest(), len(note))


def _note(
    gives: Gives, target: bytes, runs: list[CopyRun], literals: bytes, computed: bytes, extra: Any
) -> Note:
    """`computed` is what the runs give; bytes at `extra` count as wrong in any case."""
    wanted = np.frombuffer(target, dtype=np.uint8)
    wrong = np.zeros(len(wanted), dtype=np.bool_)
    if runs:
        wrong = np.frombuffer(computed, dtype=np.uint8) != wanted
        wrong[list(extra)] = True
    wrong_at = np.flatnonzero(wrong)
    digest = hashlib.sha256(target).digest()
    right = wanted[wrong_at].tobytes()
    rows = tuple(told(runs, (), ()))
    ordered = by_length(literals, runs)
    return Note(gives, len(target), digest, rows, ordered, _NO_ANSWERS, wrong_at, right)


def _rebuilt(body: bytes, note: Note) -> bytes | None:
    runs = decode_runs(note.rows, (), ())
    if not fits(body, note, runs):
        return None
    literals = in_file_order(note.literals, runs)
    result = np.frombuffer(copied(body, runs, literals), dtype=np.uint8).copy()
    result[note.wrong_at] = np.frombuffer(note.right, dtype=np.uint8)
    return result.tobytes()


def _packed(recipe: Recipe | None, kernel_note: bytes, note: Note) -> bytes:
    text = b"" if recipe is None else recipe_text(recipe)
    body = struct.pack("<H", len(text)) + text
    body += _LEN.pack(len(kernel_note)) + kernel_note + note.pack()
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def _unpacked(data: bytes, read: BzImage) -> Written:
    header = read.header
    at = header.code_off + header.payload_offset + header.payload_length
    if data[at : at + len(MAGIC)] != MAGIC or len(data) < at + _HEAD.size:
        raise InputNotUnderstood(
            "there is no note after its payload: nothing tells what it was made from",
            file=read.name,
            hint="give the output of `vmipatch rewrite`, as it was written",
        )
    _, length, crc = _HEAD.unpack_from(data, at)
    body = data[at + _HEAD.size : at + _HEAD.size + length]
    if len(body) != length or zlib.crc32(body) != crc:
        _refuse(read.name)
    text_len = int.from_bytes(body[:2], "little")
    text, notes = body[2 : 2 + text_len], body[2 + text_len :]
    end = _LEN.size + int.from_bytes(notes[: _LEN.size], "little")
    recipe = _recipe(text, read.name) if text else None
    note = Note.unpack(notes[end:], read.name, _PLACE)
    return Written(recipe, notes[_LEN.size : end], notes[end:], note, _HEAD.size + length)


def _recipe(text: bytes, name: str) -> Recipe:
    try:
        recipe = recipe_from(text)
    except ValueError:
        _refuse(name)
    if recipe_text(recipe) != text:
        _refuse(name)
    return recipe


def _refuse(name: str) -> NoReturn:
    raise MalformedImage("the note is damaged", file=name, place=_PLACE, hint=DAMAGED)
