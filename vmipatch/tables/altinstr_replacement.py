# SPDX-License-Identifier: MIT
""".altinstr_replacement: which branches does the code of the alternatives hold.

A replacement is copied over its original, and apply_alternatives() corrects one branch only: a
`call` or `jmp` rel32 in its first 5 bytes. Such a branch leads, where it stands, to its target;
all other code must not depend on its address, and branches of its own stay inside of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.alternatives import ALTERNATIVES, REPLACEMENT_SECTION
from vmipatch.tables.layout import origin
from vmipatch.tables.nops import CALL, JMP
from vmipatch.tables.table import WORD, Form, Role, Table, TableName
from vmipatch.tables.view import ImageView

BRANCH_LEN = 5


@dataclass(frozen=True, slots=True)
class ReplacementKind:
    """The section of replacements: entries of any length, told by the alternatives."""

    name: TableName = TableName.ALTINSTR_REPLACEMENT

    def parse(self, view: ImageView) -> Table | None:
        """The section, None if there is none. Entries are places, dtype PLACE.

        Raises MalformedTable if a branch leads out of the code.
        """
        found = view.image.section_by_name.get(REPLACEMENT_SECTION)
        alternatives = ALTERNATIVES.parse(view)
        if found is None or alternatives is None:
            return None
        replacement = np.unique(alternatives.places_of(Role.REPLACEMENT))
        replacement = replacement[replacement["len"] > 0]
        return Table(
            name=self.name,
            layout="code",
            start_va=found.va,
            end_va=found.end_va,
            entries=replacement,
            words=_branches(view, replacement),
            places=replacement,
            in_code=True,
        )


def _branches(view: ImageView, replacement: np.ndarray) -> np.ndarray:
    """The rel32 words of the replacements that begin with a call or jmp, dtype WORD."""
    va = np.ascontiguousarray(replacement["va"])
    opcode = view.bytes_at(va, 1)[:, 0]
    is_branch = ((opcode == CALL) | (opcode == JMP)) & (replacement["len"] >= BRANCH_LEN)
    words = np.zeros(len(replacement), WORD)
    words["va"], words["form"], words["role"] = va + 1, Form.BRANCH, Role.TARGET
    words["target_va"] = view.words_at(va + np.uint32(1)) + origin(words, 0)
    is_own = words["target_va"] - va < replacement["len"]
    words = np.ascontiguousarray(words[is_branch & ~is_own])
    there = view.code.hold(np.ascontiguousarray(words["target_va"]))
    if not there.all():
        wrong = words[np.argmin(there)]
        raise MalformedTable(
            f"{REPLACEMENT_SECTION}: a branch leads out of the code to {wrong['target_va']:#x}",
            file=view.image.name,
            place=f"{wrong['va'] - 1:#x}",
        )
    return words


ALTINSTR_REPLACEMENT = ReplacementKind()
