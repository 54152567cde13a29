# SPDX-License-Identifier: MIT
"""How does a module come back: its sections, its signature, and packed as it was?

The section .vmi.restore of a module holds six bytes of magic and version, the SHA-256 of the file
that comes back, one byte for the form (0: linked, 1: as stored), the recipe by which it was packed
(u16 length, JSON; nothing if that is not known), and a note as in `note`. What the runs of the
note describe is the linked module, as all its questions are about addresses; a module of a form
that no build has, which linking changes for good, is described as it is stored.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from vmipatch.errors import InputNotUnderstood, MalformedImage, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module, is_module
from vmipatch.image.packed import pack, unpack
from vmipatch.image.packing import Recipe
from vmipatch.image.trim import without_debug
from vmipatch.image.unlinked import file_bytes, linked_bytes
from vmipatch.restore.note import DAMAGED, SECTION, Gives, Note, is_canonical
from vmipatch.restore.rebuild import Restored, rebuild
from vmipatch.restore.recipe import recipe_from, recipe_text
from vmipatch.restore.runs import WithoutNote
from vmipatch.restore.take import Noted, make_note, with_note
from vmipatch.restore.walk import Resized

MAGIC = b"VMIRM\x01"
_HEAD = struct.Struct("<6s32sBH")
_LINKED, _STORED = 0, 1


@dataclass(frozen=True, slots=True)
class WantedModule:
    """The file that is to come back."""

    data: bytes = field(repr=False)
    """Unpacked, with its signature."""
    name: str
    recipe: Recipe | None
    """How it was packed; None if it is unknown."""
    packed_sha256: str
    """Of the file as it was packed."""
    whole: bool
    """Whether debug sections have to come back too."""


def add_module_note(data: bytes, wanted: WantedModule, resized: Sequence[Resized]) -> Noted:
    """The rewritten module `data`, whose last section is an empty note, with a note that gives
    the `wanted` file back.

    `resized` are all changes of length, in linked address order. Raises VmipatchError if the note
    gives something else: then the rewriter has a bug.
    """
    module = Module.parse(wanted.data, wanted.name)
    target = module.file if wanted.whole else without_debug(module.file)
    signature = wanted.data[len(module.file.data) :]
    unpacked = target.data + signature
    if target is not module.file:
        gives = Gives.WITHOUT_DEBUG
    else:
        gives = Gives.UNPACKED if wanted.recipe is None else Gives.INPUT
    recipe = wanted.recipe if gives is Gives.INPUT else None
    digest = bytes.fromhex(wanted.packed_sha256) if recipe else hashlib.sha256(unpacked).digest()
    body = _body(data, len(data), wanted.name)
    for form in (_LINKED, _STORED):
        described = target if form == _STORED else linked_bytes(Module.parse(target.data))
        note = make_note(described, signature, body, resized, gives)
        result = with_note(ElfImage.parse(data, wanted.name), _packed(digest, form, recipe, note))
        if _rebuilt(_body(result, len(data), wanted.name), form, note) == unpacked:
            return Noted(result, gives, digest.hex(), len(result) - len(data))
    raise VmipatchError("the note gives another module than the input", file=wanted.name)


def restore_module(stored: bytes, name: str) -> Restored:
    """The file that the rewritten module `stored`, packed or not, was made from.

    Raises InputNotUnderstood if there is no note, MalformedImage if note or module are damaged,
    EnvironmentProblem without the library or program of the compression.
    """
    data = unpack(stored, name)
    file = Module.parse(data, name).file
    section = file.section_by_name.get(SECTION)
    if section is None or not section.size:
        raise InputNotUnderstood(
            f"there is no {SECTION} in it: nothing tells what it was made from",
            file=name,
            hint="give a module that `vmipatch rewrite` changed, as it was written",
        )
    digest, form, recipe, note = _unpacked(file.section_bytes(section), name)
    result = _rebuilt(_body(file.data, section.off, name), form, note)
    if result is not None and recipe is not None:
        result = pack(result, recipe)
    if result is None or hashlib.sha256(result).digest() != digest:
        raise MalformedImage(
            "what comes out has another SHA-256 than the input had: the module was changed since"
            + (f", or packed here otherwise than by {recipe}" if recipe else ""),
            file=name,
            hint=DAMAGED,
        )
    return Restored(result, note.gives, digest.hex(), section.size)


def is_canonical_module(section: bytes) -> bool:
    """Whether the section of a module is written as `add_module_note` writes it (`is_canonical`).

    Raises MalformedImage if it is damaged.
    """
    digest, form, recipe, note = _unpacked(section, "<bytes>")
    front = _packed(digest, form, recipe, note)[: -len(note.pack())]
    return section.startswith(front) and is_canonical(section[len(front) :])


def _body(data: bytes, end_off: int, name: str) -> WithoutNote:
    image = linked_bytes(Module.parse(data, name))
    return WithoutNote.of(image, end_off, b"")


def _rebuilt(body: WithoutNote, form: int, note: Note) -> bytes | None:
    result = rebuild(body, note)
    if result is None or form == _STORED:
        return result
    return file_bytes(result, body.image.name) if is_module(result) else None


def _packed(digest: bytes, form: int, recipe: Recipe | None, note: Note) -> bytes:
    text = b"" if recipe is None else recipe_text(recipe)
    return _HEAD.pack(MAGIC, digest, form, len(text)) + text + note.pack()


def _unpacked(data: bytes, name: str) -> tuple[bytes, int, Recipe | None, Note]:
    damaged = MalformedImage("the note is damaged", file=name, place=SECTION, hint=DAMAGED)
    if len(data) < _HEAD.size:
        raise damaged
    magic, digest, form, text_len = _HEAD.unpack_from(data)
    text = data[_HEAD.size : _HEAD.size + text_len]
    if magic != MAGIC or form not in (_LINKED, _STORED):
        raise damaged
    try:
        recipe = recipe_from(text) if text else None
    except ValueError as error:
        raise damaged from error
    return digest, form, recipe, Note.unpack(data[_HEAD.size + text_len :], name)
