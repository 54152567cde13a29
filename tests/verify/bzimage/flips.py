# SPDX-License-Identifier: MIT
"""Is every changed byte of a rewritten bzImage refused? `python -m tests.verify.bzimage.flips`.

Of each region of the file as many bytes as asked for are drawn, each is changed alone, the CRC of
the file is made right again, and the file is read and proven anew. What the proof makes of parts
that are unchanged is made once: a witness for equal kernels and notes, a stream for equal data, the
surroundings for equal lengths.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

from vmipatch.errors import VmipatchError
from vmipatch.files.open import open_kernel
from vmipatch.files.rewriting import linked_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import pack_payload
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.setup_header import HEADER_OFF, header_end
from vmipatch.verify.static.bzimage import check, inputs, packing
from vmipatch.verify.static.bzimage.around import CRC_LEN, Inside, crc_of, expected_around
from vmipatch.verify.static.bzimage.inputs import Shipped
from vmipatch.verify.static.bzimage.witness import WitnessParts, witness

UNREADABLE = "not read"


@dataclass(frozen=True, slots=True)
class Flip:
    """One changed byte, and what refused it."""

    region: str
    off: int
    value: int
    refused_by: tuple[str, ...]
    """Numbers of rules, or UNREADABLE; nothing if the change was accepted."""


def shipped_files(original: Path, debug: Path | None, output: bytes) -> Shipped:
    """The pair as `verify` takes it."""
    file = open_kernel(original)
    twin = None if debug is None else open_kernel(debug)
    linked = linked_kernel(file, twin, whole=False)
    return Shipped(file.data, file.name, output, "output", linked.image)


def regions(shipped: Shipped) -> dict[str, range]:
    """Offsets of the parts of the output."""
    header, notes = shipped.new.header, shipped.notes
    assert notes is not None
    payload = header.code_off + header.payload_offset
    payload_end = payload + header.payload_length
    notes_end = payload_end + notes.length
    old = shipped.old.header
    tail_len = old.syssize * 16 - old.payload_offset - old.payload_length
    end = len(shipped.unsigned)
    found = {
        "before the setup header": range(HEADER_OFF),
        "setup header": range(HEADER_OFF, header_end(header.version)),
        "setup code": range(header_end(header.version), header.code_off),
        "head": range(header.code_off, payload),
        "payload": range(payload, payload_end),
        "notes": range(payload_end, notes_end),
        "zeros": range(notes_end, end - tail_len),
        "tail": range(end - tail_len, end - 4),
        "last word": range(end - 4, end),
    }
    return {name: where for name, where in found.items() if len(where)}


def flips(shipped: Shipped, count: int, seed: int = 0) -> Iterator[Flip]:
    """Change `count` bytes of each region, one at a time; all of a region that has fewer."""
    draw = random.Random(seed)
    with made_once(shipped):
        for name, where in regions(shipped).items():
            for off in draw.sample(where, min(count, len(where))):
                value = shipped.output[off] ^ draw.randrange(1, 256)
                yield Flip(name, off, value, _refusal(shipped, off, value))


def _refusal(shipped: Shipped, off: int, value: int) -> tuple[str, ...]:
    data = bytearray(shipped.output)
    data[off] = value
    if off < len(data) - CRC_LEN:
        data[-CRC_LEN:] = crc_of(bytes(data[:-CRC_LEN]))
    try:
        verdict = check.check_bzimage(replace(shipped, output=bytes(data)))
    except VmipatchError:
        return (UNREADABLE,)
    return tuple(rule.number for rule in verdict.totals)


@contextmanager
def made_once(shipped: Shipped) -> Iterator[None]:
    """Keep what is made of equal inputs. The functions are pure."""
    right = shipped.witness
    body, note, relocs = shipped.body, shipped.notes, shipped.relocs
    make_witness, make_around = witness, expected_around

    def kept_witness(parts: WitnessParts) -> object:
        same = parts.inside.data == body.image.data and parts.relocs == shipped.new.relocs
        return right if same else make_witness(parts)

    known: dict[object, object] = {}

    def kept_list(image: ElfImage, found: Relocations, *, with_notes: bool) -> object:
        same = image is right
        return relocs if same else relocation_list(image, found, with_notes=with_notes)

    def around(data: bytes, old: object, inside: Inside) -> object:
        key = (inside.payload_len, inside.notes_len, inside.unpacked_len, inside.code_len)
        if inside.kernel is not right:
            return make_around(data, old, inside)  # type: ignore[arg-type]
        if key not in known:
            known[key] = make_around(data, old, inside)  # type: ignore[arg-type]
        return known[key]

    assert note is not None
    with (
        patch.object(inputs, "witness", kept_witness),
        patch.object(check, "expected_around", around),
        patch.object(packing, "pack_payload", lru_cache(4)(pack_payload)),
        patch.object(Shipped, "old", shipped.old),
        patch.object(inputs, "relocation_list", kept_list),
        patch.object(Shipped, "twin", shipped.twin),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--debug", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shipped = shipped_files(given.original, given.debug, given.output.read_bytes())
    tally: Counter[tuple[str, str]] = Counter()
    accepted = []
    for flip in flips(shipped, given.count, given.seed):
        tally[flip.region, "+".join(flip.refused_by) or "ACCEPTED"] += 1
        if not flip.refused_by:
            accepted.append(flip)
    for (region, by), count in sorted(tally.items()):
        print(f"{region:24} {by:20} {count:6}")
    for flip in accepted:
        print(f"ACCEPTED {flip.region} {flip.off:#x} = {flip.value:02x}")


if __name__ == "__main__":
    main()
