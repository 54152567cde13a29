# SPDX-License-Identifier: MIT
"""What does a payload hold: a stream, and behind it the unpacked length?"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmipatch.errors import EnvironmentProblem, MalformedImage, NotSupported
from vmipatch.image.packing.codec import CorruptStream, Recipe
from vmipatch.image.packing.compression import LENGTH_LEN, Compression
from vmipatch.image.packing.recipe import CODECS, pack
from vmipatch.limits import Limit

MAX_PAYLOAD_LEN = 1 << 30
"""No i386 kernel is longer than 512 MiB; twice that is an attack or damage."""


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
    if len(unpacked) > MAX_PAYLOAD_LEN:
        raise _damaged("the payload unpacks to more than any kernel is long", name)
    return Payload(compression, payload[:length], unpacked)


def pack_payload(recipe: Recipe, unpacked: bytes) -> bytes:
    """The payload for `unpacked`, its length behind the stream as Linux's boot code reads it."""
    stream = pack(recipe, unpacked)
    appended = recipe.compression.appended_len
    return stream + len(unpacked).to_bytes(LENGTH_LEN, "little")[:appended]


def _damaged(message: str, name: str) -> MalformedImage:
    hint = "the file is truncated or corrupted: copy it again"
    return MalformedImage(message, file=name, place="payload", hint=hint)
