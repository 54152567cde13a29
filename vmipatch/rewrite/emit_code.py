# SPDX-License-Identifier: MIT
"""The bytes of a section of code under its new layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.body import NativeBody, nops
from vmipatch.rewrite.layout import Change
from vmipatch.scan.site import Site

INT3 = b"\xcc"
NEAR_JUMP = b"\xe9"
NEAR_CONDITION = 0x80
"""Second opcode byte of `jo rel32`; the low four bits of a short jcc are added (Intel SDM, Jcc)."""

SHORT_LEN = 2
"""Bytes of a branch with a displacement of one byte, but for its prefixes, which stay."""


def emit_code(
    stream: InstructionStream,
    changes: Sequence[Change],
    bodies: Mapping[int, tuple[Site, NativeBody]],
    new: AddressMap,
    redirect: Mapping[int, int],
    linked_targets: np.ndarray,
) -> bytes:
    """The new bytes of `stream`: unchanged runs copied, changes filled in, branches led on.

    `linked_targets` are those of `CodeMap.linked_targets`, `bodies` the sites by address,
    `redirect` the new targets of branches, by their own addresses, that are to target something
    else than the image of their target.
    """
    parts: list[bytes] = []
    at = stream.va
    for change in changes:
        parts.append(stream.code[at - stream.va : change.va - stream.va])
        site = bodies.get(change.va) if change.old_len else None
        parts.append(_replacement(stream, change, site))
        at = change.va + change.old_len
    parts.append(stream.code[at - stream.va :])
    code = bytearray(b"".join(parts))
    changed = {change.va for change in changes if change.old_len}
    _lead_branches(stream, changed, new, redirect, linked_targets, code)
    return bytes(code)


def _replacement(
    stream: InstructionStream, change: Change, site: tuple[Site, NativeBody] | None
) -> bytes:
    if site is not None:
        return site[1].code
    if not change.old_len:
        return nops(change.new_len)
    index = stream.index_of(change.va)
    old = stream.bytes_at(index)
    match Flow(int(stream.flows[index])):
        case Flow.JUMP:
            return old[:-SHORT_LEN] + NEAR_JUMP + bytes(4)
        case Flow.CONDITION:
            near = bytes((0x0F, NEAR_CONDITION | old[-SHORT_LEN] & 15))
            return old[:-SHORT_LEN] + near + bytes(4)
    return INT3 * change.new_len if old == INT3 else nops(change.new_len)


def _lead_branches(
    stream: InstructionStream,
    changed: set[int],
    new: AddressMap,
    redirect: Mapping[int, int],
    linked_targets: np.ndarray,
    code: bytearray,
) -> None:
    """Write the displacement of every direct branch."""
    base = new.one(stream.va)
    starts = stream.starts[stream.branches].astype(np.int64)
    widths = stream.branch_widths.copy()
    lens = stream.lens[stream.branches].astype(np.int64)
    flows = stream.flows[stream.branches]
    if changed:
        widened = among(starts, np.array(sorted(changed), dtype=np.int64))
        lens[widened] += np.where(flows[widened] == Flow.JUMP, 5, 6) - SHORT_LEN
        widths[widened] = 4
    ends = new(starts) + lens
    targets = new(linked_targets) + stream.branch_targets - linked_targets
    for va, new_va in redirect.items():
        targets[starts == va] = new_va
    reach = targets - ends
    at = ends - base - widths
    octets = np.frombuffer(code, dtype=np.uint8)
    for shift in range(4):
        wide = widths > shift
        octets[at[wide] + shift] = (reach[wide] >> (8 * shift)) & 0xFF
