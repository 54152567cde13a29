# SPDX-License-Identifier: MIT
""".altinstr_replacement: which branches does the code of the alternatives hold.

A replacement is copied over its original, and apply_alternatives() corrects one branch only, in
its first 5 bytes: a `call` rel32, and from 4.1 on a `jmp` rel32 (arch/x86/kernel/alternative.c of
3.16 and 4.4). Such a branch has its target as its target where it stands; all other code must not
depend on its address, and branches of its own stay inside of it.

Before 4.1, `_static_cpu_has_safe` (arch/x86/include/asm/cpufeature.h, 3.10 to 4.0) wrote the
displacement of its `jmp` as the copy needs it: both labels of one `asm goto` belong to the function
of the original, which is a `jmp` rel32 itself. All jumps of one kernel are of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.alternatives import ALTERNATIVES, REPLACEMENT_SECTION
from vmipatch.tables.layout import origin
from vmipatch.tables.nops import CALL, JMP
from vmipatch.tables.table import PLACE, U32, WORD, Role, Table, TableName, WordForm
from vmipatch.tables.view import ImageView

BRANCH_LEN = 5


@dataclass(frozen=True, slots=True)
class ReplacementKind:
    """The section of replacements: entries of any length, told by the alternatives."""

    name: TableName = TableName.ALTINSTR_REPLACEMENT

    def parse(self, view: ImageView) -> Table | None:
        """The section, None if missing. Entries are places, dtype PLACE.

        Raises MalformedTable if a branch has its target outside of the code, whichever way it is
        read.
        """
        found = view.image.section_by_name.get(REPLACEMENT_SECTION)
        alternatives = ALTERNATIVES.parse(view)
        if found is None or alternatives is None:
            return None
        pairs = _pairs(alternatives)
        replacement = np.ascontiguousarray(pairs[:, 1])
        return Table(
            name=self.name,
            layout="code",
            start_va=found.va,
            end_va=found.end_va,
            entries=replacement,
            words=_branches(view, pairs),
            places=replacement,
            in_code=True,
        )


def _pairs(alternatives: Table) -> np.ndarray:
    """Original and replacement (dtype PLACE, shape (n, 2)), by replacement, each of them once."""
    places = alternatives.places
    at = np.flatnonzero((places["role"] == Role.REPLACEMENT) & (places["len"] > 0))
    pairs = np.zeros((len(at), 2), PLACE)
    pairs[:, 0], pairs[:, 1] = places[at - 1], places[at]
    _, first = np.unique(pairs[:, 1], return_index=True)
    return pairs[first]


def _branches(view: ImageView, pairs: np.ndarray) -> np.ndarray:
    """The rel32 words of the replacements that begin with a call or jmp, dtype WORD."""
    replacement = pairs[:, 1]
    va = np.ascontiguousarray(replacement["va"])
    opcode = view.bytes_at(va, 1)[:, 0]
    is_branch = ((opcode == CALL) | (opcode == JMP)) & (replacement["len"] >= BRANCH_LEN)
    words = np.zeros(len(replacement), WORD)
    words["va"], words["form"], words["role"] = va + 1, WordForm.BRANCH, Role.TARGET
    words["target_va"] = view.words_at(va + np.uint32(1)) + origin(words, 0)
    is_own = words["target_va"] - va < replacement["len"]
    chosen = is_branch & ~is_own
    words, pairs = np.ascontiguousarray(words[chosen]), pairs[chosen]
    words = _as_copied(view, words, pairs, opcode[chosen] == JMP)
    there = view.code.hold(np.ascontiguousarray(words["target_va"]))
    if not there.all():
        wrong = words[np.argmin(there)]
        raise MalformedTable(
            f"{REPLACEMENT_SECTION}: a branch leads out of the code to {wrong['target_va']:#x}",
            file=view.image.name,
            place=f"{wrong['va'] - 1:#x}",
        )
    return words


def _as_copied(
    view: ImageView, words: np.ndarray, pairs: np.ndarray, is_jump: np.ndarray
) -> np.ndarray:
    """`words`, its jumps with the targets of their copies if that is how they are stored.

    So they are if every original is a jmp rel32 and every such target lies in the code, and if the
    other reading does not hold, or has fewer targets in the functions of the originals.
    """
    jumps, places = words[is_jump], pairs[is_jump]
    original = np.ascontiguousarray(places[:, 0]["va"])
    jumps["form"] = WordForm.COPIED_BRANCH
    jumps["bias"] = places[:, 1]["va"] - original
    jumps["target_va"] -= jumps["bias"]
    in_place = np.ascontiguousarray(words["target_va"][is_jump])
    copied = np.ascontiguousarray(jumps["target_va"])
    lens = places["len"] == BRANCH_LEN
    spelled = lens.all() and (view.bytes_at(original, 1)[:, 0] == JMP).all()
    if not len(jumps) or not spelled or not view.code.hold(copied).all():
        return words
    at_home = _in_functions_of(view, original, copied) - _in_functions_of(view, original, in_place)
    if view.code.hold(in_place).all() and at_home <= 0:
        return words
    result = words.copy()
    result[is_jump] = jumps
    return result


def _in_functions_of(view: ImageView, vas: U32, targets: U32) -> int:
    """How many of `targets` lie in the function of the address beside them, as symbols tell."""
    count = 0
    for va, target in zip(vas.tolist(), targets.tolist(), strict=True):
        following = view.image.symbols.next_va(min(va, target))
        count += following is None or following > max(va, target)
    return count


ALTINSTR_REPLACEMENT = ReplacementKind()
