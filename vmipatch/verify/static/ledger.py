# SPDX-License-Identifier: MIT
"""Is every byte of code proven to be what it is, and every sensitive decoding in one bucket?

The scan keeps such an account with its own decoder; this one is made from the second decoder's
view of both files and shares nothing with it but the table of instructions. Control flow is
followed in the original; what it proves holds in the output for the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE
from vmipatch.isa.anywhere import sensitive_anywhere
from vmipatch.isa.classify import classify
from vmipatch.isa.second import Filler, Leaves
from vmipatch.tables.table import Role, TableName, Tables
from vmipatch.verify.static.added import NEW_CODE
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.rules import (
    BOUNDARY_UNPROVEN,
    BYTE_UNACCOUNTED,
    DECODING_UNACCOUNTED,
)
from vmipatch.verify.static.side import I32, I64, Flags, Side
from vmipatch.verify.static.verdict import NAMED_KEPT

IN_SHADOW = ("hlt", "sysexit", "mwait")
"""Instructions that are one site with the sti in front of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Proven:
    """The facts proven of each instruction of one side."""

    reached: Flags
    """Control flow reaches it."""
    signature: Flags
    """No code: what the kernel looks for after the jump of a static call."""
    disputed: Flags
    """Control flow leads into the middle of it."""


def prove_boundaries(comparison: Comparison, references: I64) -> Proven:
    """Follow control flow in the original from symbols, tables and `references`.

    Symbols that name parts of instructions are left out.

    `references` are the addresses that relocated words hold, and the entry point; they may lead
    inside an instruction, where they are halves of a computation.
    """
    side, tables = comparison.left, comparison.tables
    named, places_end = _named(comparison.original, tables)
    named = named[~among(named, comparison.inner)]
    reached = np.zeros(len(side), np.bool_)
    for vas in (named, references, places_end):
        index = side.find(vas)
        reached[index[index >= 0]] = True
    reached, astray = follow(side, reached)
    marks = np.zeros(len(side), np.bool_)
    strays = distinct(np.concatenate([named, astray]))
    strays = strays[side.find(strays) < 0]
    over = side.over(strays)
    marks[over[over >= 0]] = True
    return Proven(reached, _signatures(side, tables) & ~reached, marks)


def follow(side: Side, reached: Flags) -> tuple[Flags, I64]:
    """The code that control reaches from `reached`, by direct branches, calls and falling through.

    Also returns the targets of its branches at which no instruction begins.
    """
    falls = (side.leaves != Leaves.JUMP) & (side.leaves != Leaves.STOP) & side.known
    joined = np.zeros(len(side), np.bool_)
    joined[1:] = falls[:-1] & (side.ends[:-1] == side.starts[1:])
    group = np.cumsum(~joined, dtype=np.int32) - 1
    branches = np.flatnonzero(side.widths > 0)
    leads_to = side.linked_targets(branches)
    target = side.find(leads_to)
    astray = [np.zeros(0, np.int64)]
    while True:
        reached = _run_on(reached, group)
        taken = reached[branches]
        new = target[taken & (target >= 0)]
        astray.append(leads_to[taken & (target < 0)])
        branches, leads_to, target = branches[~taken], leads_to[~taken], target[~taken]
        if not len(new) or reached[new].all():
            return reached, np.concatenate(astray)
        reached[new] = True


def _run_on(reached: Flags, group: I32) -> Flags:
    """Everything after a reached instruction of the same group is reached."""
    seeds = np.flatnonzero(reached)
    first = np.full(int(group[-1]) + 1, len(group), np.int32)
    first[group[seeds[::-1]]] = seeds[::-1]  # the lowest is written last
    return np.asarray(np.arange(len(group), dtype=np.int32) >= first[group])


def _named(image: ElfImage, tables: Tables) -> tuple[I64, I64]:
    """Code that symbols and tables name; and the code after what the kernel replaces."""
    entries = image.symbols.entries
    here = np.isin(entries["shndx"], [s.index for s in image.executable_sections])
    labels = np.isin(entries["info"] & 15, (STT_FUNC, STT_NOTYPE)) & (entries["shndx"] < SHN_ABS)
    parts = [entries["value"][here & labels].astype(np.int64)]
    ends = [np.zeros(0, np.int64)]
    for table in tables:
        is_code = ~np.isin(table.words["role"], (Role.DATA, Role.OPERAND))
        parts.append(table.words["target_va"][is_code].astype(np.int64))
        parts.append(table.instruction_places["va"].astype(np.int64))
        replaced = table.places_of(Role.INSTRUCTION)
        ends.append(replaced["va"].astype(np.int64) + replaced["len"])
    return distinct(np.concatenate(parts)), distinct(np.concatenate(ends))


def _signatures(side: Side, tables: Tables) -> Flags:
    result = np.zeros(len(side), np.bool_)
    places = tables.places(TableName.STATIC_CALLS)
    start = places["va"].astype(np.int64)
    low = np.searchsorted(side.starts, start)
    high = np.searchsorted(side.starts, start + places["len"])
    for first, end in zip(low.tolist(), high.tolist(), strict=True):
        result[first:end] = True
    return result


@judges(BOUNDARY_UNPROVEN, BYTE_UNACCOUNTED, DECODING_UNACCOUNTED)
def check_ledger(comparison: Comparison) -> None:
    """Every byte of the original's code, and every sensitive decoding of the output's."""
    proven = _proven(comparison)
    _check_boundaries(comparison, proven)
    _check_decodings(comparison, proven)


def _proven(comparison: Comparison) -> Proven:
    """The instructions of the original that its tables, references and symbols prove."""
    left, offset, relocated = comparison.left, comparison.images.physical, comparison.relocated
    values = relocated["value"].astype(np.int64)[relocated["kind"] == R_386_32]
    entry = comparison.original.entry
    held = distinct(np.concatenate([values, values + offset, [entry, entry + offset]]))
    references = distinct(np.concatenate([comparison.targets, held]))
    branches = distinct(left.linked_targets(np.flatnonzero(left.widths > 0)))
    # What only a branch targets is proven by that branch, if it is proven itself.
    references = references[~among(references, branches) | among(references, held)]
    proven = prove_boundaries(comparison, references)
    for start, end in comparison.code.marks.kept.ranges:
        here = (left.starts >= start) & (left.starts < end)
        proven.reached[here] = False  # not as code of 32 bits
    return proven


def _check_boundaries(comparison: Comparison, proven: Proven) -> None:
    """Count the bytes of the original by what is proven of them; nothing may be unknown."""
    side, report = comparison.left, comparison.report
    filler = side.fillers != Filler.CODE
    code = proven.reached & ~filler
    idle = ~proven.reached & ~filler & ~proven.signature
    unknown = proven.disputed | (proven.reached & ~side.known)
    if not len(comparison.relocated):
        unknown |= idle
    for index in np.flatnonzero(unknown).tolist():
        what = (
            "something leads into the middle of it"
            if proven.disputed[index]
            else "nothing proves that an instruction begins here"
        )
        message = f"`{side.code(index).hex(' ')}`: {what}"
        va = int(side.starts[index])
        report.add(BOUNDARY_UNPROVEN, va, message, side.image.symbols.place_of(va))
    for index in np.flatnonzero(code & (side.leaves == Leaves.NARROW)).tolist():
        report.add(BYTE_UNACCOUNTED, int(side.starts[index]), "a branch of 16 bits")
    counts = report.counts
    counts["bytes: proven code"] += int(side.lens[code & ~unknown].sum())
    counts["bytes: padding"] += int(side.lens[filler & ~unknown].sum())
    counts["bytes: signatures"] += int(side.lens[proven.signature & ~filler & ~unknown].sum())
    counts["bytes: never executed"] += int(side.lens[idle & ~unknown].sum())
    counts["bytes: unknown"] += int(side.lens[unknown].sum())
    if named := comparison.code.kept.named:
        counts[NAMED_KEPT] += sum(end - start for start, end in named)


def _check_decodings(comparison: Comparison, proven: Proven) -> None:
    """Put each sensitive decoding at each byte of the output into one bucket.

    Rewritten, if a record has it; native, if the manifest lists it; at no boundary, or in what is
    never executed. A boundary with a sensitive instruction that is neither recorded nor listed was
    overlooked.
    """
    output, side, paired = comparison.output, comparison.right, comparison.paired
    bodies, report = comparison.bodies, comparison.report
    runs = np.zeros(len(side), np.bool_)
    runs[paired.p] = proven.reached[paired.o]
    listed = np.array(sorted(comparison.manifest.native), np.int64)
    for section in side.sections:
        vas = sensitive_anywhere(output.section_bytes(section))[0] + section.va
        over = side.over(vas)
        begins = side.starts[over] == vas
        recorded = begins & (bodies.body_of[over] >= 0)
        native = begins & ~recorded & (among(vas, listed) | _behind_listed(side, over, listed))
        is_code = np.isin(side.fillers[over], (Filler.CODE, Filler.OPAQUE))
        idle = ~recorded & ~native & ~runs[over] & is_code
        missed = begins & ~recorded & ~native & ~idle
        counts = report.counts
        counts["decodings: rewritten"] += int(recorded.sum())
        counts["decodings: native"] += int(native.sum())
        counts["decodings: never executed"] += int(idle.sum())
        counts["decodings: at no boundary"] += int((~begins & ~idle).sum())
        counts["decodings"] += len(vas)
        for index in over[missed].tolist():
            code = side.code(index).hex(" ")
            message = f"`{code}` is sensitive and has neither record nor reason"
            report.add(DECODING_UNACCOUNTED, int(side.starts[index]), message)
    added = output.section_by_name.get(NEW_CODE)
    if added is not None:
        found = sensitive_anywhere(output.section_bytes(added))[0]
        report.counts["decodings: in added code"] += len(found)
        report.counts["decodings"] += len(found)


def _behind_listed(side: Side, over: I64, listed: I64) -> Flags:
    """Whether it stands in the shadow of a listed sti: the manifest names a group by its first."""
    result = among(side.starts[np.maximum(over - 1, 0)], listed)
    for at in np.flatnonzero(result).tolist():
        index = int(over[at])
        before, form = classify(side.code(index - 1)), classify(side.code(index))
        shadowed = form is not None and form.kind in IN_SHADOW
        result[at] = shadowed and before is not None and before.kind == "sti"
    return result
