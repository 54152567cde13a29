# SPDX-License-Identifier: MIT
"""What does a payload hold: a stream, and after it the unpacked length?"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmipatch.errors import EnvironmentProblem, MalformedImage, NotSupported
from vmipatch.image.packing.codec import CorruptStream, Recipe
from vmipatch.image.packing.compression import LENGTH_LEN, Compression
from vmipatch.image.packing.recipe import CODECS, pack
from vmipatch.limits import Limit

MAX_PAYLOAD_LEN = 224 << 20
"""Distributions' kernels have a sixth of this; more is an attack or damage. What is read of it may
be held twice, and any file is to be refused with less than 600 MB of memory."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload taken apart."""

    compression: Compression
    stream: bytes = field(repr=False)
    """Without the length that Linux's build appends."""
    unpacked: bytes = field(repr=False)


def unpack_payload(payload: bytes, name: str = "<bytes>", place: str = "payload") -> Payload:
    """Unpack what a bzImage's header points to.

    Raises InputNotUnderstood if it begins like no compression of Linux, EnvironmentProblem if its
    library is not installed, MalformedImage if it is damaged.
    """
    compression = Compression.of(payload)
    if compression is None:
        raise NotSupported(
            Limit.COMPRESSION,
            f"the payload begins with {payload[:6].hex(' ')}, no compression that Linux uses",
            file=name,
            place=place,
        )
    if compression is Compression.NONE:
        return Payload(compression, payload, payload)
    try:
        unpacked, length = CODECS[compression].unpack(payload, MAX_PAYLOAD_LEN)
    except CorruptStream as error:
        raise _damaged(f"the {compression.label} payload is damaged: {error}", name) from error
    except EnvironmentProblem as error:
        raise error.in_file(name) from error
    return Payload(compression, payload[:length], unpacked)


def pack_payload(recipe: Recipe, unpacked: bytes) -> bytes:
    """The payload for `unpacked`, its length after the stream as Linux's boot code reads it."""
    stream = pack(recipe, unpacked)
    appended = recipe.compression.appended_len
    return stream + len(unpacked).to_bytes(LENGTH_LEN, "little")[:appended]


def _damaged(message: str, name: str) -> MalformedImage:
    hint = "the file is truncated or corrupted: copy it again"
    return MalformedImage(message, file=name, place="payload", hint=hint)
