# SPDX-License-Identifier: MIT
"""The manifest as the rewriter would write it for the decisions that the output follows."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from vmipatch.choices import Padding
from vmipatch.image.ascending import among
from vmipatch.image.hook import START
from vmipatch.isa.classify import classify
from vmipatch.isa.forms import Form, FormTreatment
from vmipatch.isa.second import Filler
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.ledger import IN_SHADOW
from vmipatch.verify.static.manifest import VERSION, content_of
from vmipatch.verify.static.reasons import NativeReason
from vmipatch.verify.static.reproduce.layout import Layout

NATIVE = {False: "native-trapping", True: "native-unprivileged"}
"""Whether an instruction is silently wrong at CPL 1, and what the manifest calls it."""
REWRITTEN, HARMLESS = "rewritten", "harmless"
"""Counts of a manifest that stand beside those of the forms."""
REASONS = frozenset(why.value for why in NativeReason)
PADDINGS = frozenset(padding.value for padding in Padding)


def manifest_bytes(comparison: Comparison, new: Layout) -> bytes:
    """The bytes of the section.

    Decisions are read from the manifest itself, each a member of a closed list: the reasons,
    the kind of padding, which VP061 asks of every site, and which debug sections were emptied if
    the original was read without them.
    """
    said = content_of(comparison.output)
    native = _native(comparison)
    counts = Counter(row["disposition"] for row in native)
    counts[REWRITTEN] = len(comparison.bodies.bodies)
    counts[HARMLESS] = _harmless(comparison)
    content = {
        "version": VERSION,
        "input_sha256": comparison.manifest.input_sha256,
        "mode": "shift" if new.shift_len else "absorb",
        "shift_len": new.shift_len,
        "padding": _member(said.get("padding"), PADDINGS),
        "sites": {name: count for name, count in sorted(counts.items()) if count},
        "native": native,
        "dropped": _dropped(comparison, said.get("dropped")),
        "redirect": sorted(comparison.redirect.items()),
        "trampolines": _trampolines(comparison, new),
    }
    if comparison.manifest.start != START:
        content["start"] = comparison.manifest.start
    if comparison.manifest.keep:
        content["keep"] = comparison.manifest.keep
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _native(comparison: Comparison) -> list[dict[str, Any]]:
    """The instructions left native, by the original's addresses; reasons are the manifest's."""
    right = comparison.right
    old_of = np.full(len(right), -1, np.int64)
    old_of[comparison.paired.p] = comparison.paired.o
    reasons = comparison.manifest.native
    index = right.find(np.array(list(reasons), np.int64))
    rows = []
    for va, at in zip(reasons, index.tolist(), strict=True):
        forms = _forms(comparison, at) if at >= 0 else []
        if forms and reasons[va] in REASONS:
            disposition = NATIVE[any(form.is_unprivileged for form in forms)]
            kind = "+".join(form.kind for form in forms)
            row = {"va": va, "kind": kind, "disposition": disposition, "reason": reasons[va]}
            rows.append((int(old_of[at]), row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _forms(comparison: Comparison, index: int) -> list[Form]:
    """The form of one instruction of the output, and of what is one site with it: what stands in
    its interrupt shadow, unless something points there.
    """
    side = comparison.right
    form = classify(side.code(index))
    if form is None:
        return []
    old = int(comparison.paired.old_of[index])
    if form.kind != "sti" or old < 0 or old + 1 >= len(comparison.left):
        return [form]
    after = classify(comparison.left.code(old + 1))
    is_target = among(comparison.left.starts[old + 1 : old + 2], comparison.targets)[0]
    return [form, after] if after and after.kind in IN_SHADOW and not is_target else [form]


def _dropped(comparison: Comparison, said: Any) -> list[str]:
    """Debug sections that held anything; of an original without them those that it is said of."""
    said = said if isinstance(said, list) else []
    debug = [s for s in comparison.inputs.original.sections if s.is_debug]
    return [s.name for s in debug if s.size or s.name in said]


def _member(value: Any, closed: frozenset[str]) -> str:
    """`value` if it is in a closed list, whatever a manifest may hold."""
    return value if isinstance(value, str) and value in closed else ""


def _harmless(comparison: Comparison) -> int:
    """How many instructions are sensitive and do at CPL 1 what a kernel asks of them."""
    side = comparison.left
    which = candidates(side)
    forms = (classify(side.code(i)) for i in which[side.fillers[which] == Filler.CODE].tolist())
    return sum(form is not None and form.treatment is FormTreatment.LEAVE for form in forms)


def _trampolines(comparison: Comparison, new: Layout) -> list[tuple[int, int, int, int]]:
    """Address and bytes of each window, and of its code out of line."""
    windows = sorted(comparison.manifest.windows, key=lambda window: window.start_va)
    if not windows:
        return []
    starts = np.array([window.start_va for window in windows], np.int64)
    begins = new.moves(comparison.left.targets(comparison.left.find(starts)))
    ends = np.append(begins[1:], sum(new.trampolines))
    sizes = [window.end_va - window.start_va for window in windows]
    rows = zip(starts.tolist(), sizes, begins.tolist(), (ends - begins).tolist(), strict=True)
    return list(rows)
