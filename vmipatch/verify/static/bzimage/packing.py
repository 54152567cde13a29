# SPDX-License-Identifier: MIT
"""Is the payload packed by the recipe that packs the original's?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.bzimage import BzImage
from vmipatch.image.packing import (
    Compression,
    Recipe,
    candidates,
    likely_recipe,
    pack,
    pack_payload,
    parameters,
)
from vmipatch.verify.static.bzimage.inputs import INSIDE, Shipped
from vmipatch.verify.static.rules import PACKING
from vmipatch.verify.static.verdict import NOT_PACKED_AGAIN, Report

PACKED_AGAIN = "payloads packed again"


def payload_of(data: bytes, read: BzImage) -> bytes:
    """The packed payload, with the length that follows the stream."""
    start = read.header.code_off + read.header.payload_offset
    return data[start : start + read.header.payload_length]


def check_packing(shipped: Shipped, unpacked: bytes, report: Report) -> None:
    """The payload of the output is `unpacked`, packed as the original's is."""
    old, new, notes = shipped.old, shipped.new, shipped.notes
    compression, stream = old.payload.compression, old.payload.stream
    if new.payload.compression is not compression:
        message = f"it is packed by {new.payload.compression.label}, was by {compression.label}"
        report.add(PACKING, 0, message, INSIDE)
        return
    known = list(candidates(compression, stream))
    recipe = notes.recipe if notes and notes.recipe else likely_recipe(compression, stream)
    if recipe not in known:
        report.add(PACKING, 0, f"{recipe} does not pack the original's payload", INSIDE)
        return
    found = payload_of(shipped.unsigned, new)
    again, repeats = _packed(recipe, unpacked, shipped)
    if again == found:
        report.counts[PACKED_AGAIN] += 1
    elif repeats:
        report.add(PACKING, 0, f"{recipe} gives another stream", INSIDE)
    else:
        report.counts[NOT_PACKED_AGAIN] += 1
        _check_form(shipped, found, known, report)


def _packed(recipe: Recipe, unpacked: bytes, shipped: Shipped) -> tuple[bytes | None, bool]:
    """The payload packed again, and whether the recipe gives the original's payload here."""
    old = shipped.old
    with ThreadPoolExecutor(1) as pool:
        try:
            was = pool.submit(pack_payload, recipe, old.payload.unpacked)
            made = pack_payload(recipe, unpacked)
            return made, was.result() == payload_of(shipped.original, old)
        except EnvironmentProblem:
            return None, False


def _check_form(shipped: Shipped, found: bytes, known: list[Recipe], report: Report) -> None:
    """A stream that is not packed again ends where it should, with the original's parameters."""
    payload = shipped.new.payload
    appended = payload.compression.appended_len
    heads = _heads(payload.compression, shipped.old.payload.stream, known)
    is_known = parameters(payload.compression, payload.stream) in heads
    if not is_known or list(candidates(payload.compression, payload.stream)) != known:
        report.add(PACKING, 0, "its stream has other parameters", INSIDE)
    if found != payload.stream + len(payload.unpacked).to_bytes(4, "little")[:appended]:
        report.add(PACKING, 0, "its stream does not end where the payload does", INSIDE)


def _heads(compression: Compression, stream: bytes, known: list[Recipe]) -> set[bytes]:
    """The parameters of the original's `stream`, and those that recipes for it write."""
    heads = {parameters(compression, stream)}
    for recipe in known:
        try:
            heads.add(parameters(compression, pack(recipe, b"")))
        except EnvironmentProblem:
            continue  # its program is not here
    return heads
