# SPDX-License-Identifier: MIT
"""Which instructions of the output are worth asking whether they are sensitive?"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from vmipatch.isa.classify import split_prefixes
from vmipatch.isa.forms import FORMS
from vmipatch.isa.second import Filler
from vmipatch.verify.static.side import I64, Side

_FOUND: WeakKeyDictionary[Side, I64] = WeakKeyDictionary()


def candidates(side: Side) -> I64:
    """Indices of instructions that may be sensitive, by their first bytes; of 32 bits alone.

    Several rules ask: they are looked for once, and known as long as the side is.
    """
    found = _FOUND.get(side)
    if found is None:
        found = _FOUND[side] = _candidates(side)
        found.flags.writeable = False
    return found


def _candidates(side: Side) -> I64:
    opcode = side.octets[side.offs]
    escaped = np.flatnonzero(opcode == 0x0F)
    second = side.octets[np.minimum(side.offs[escaped] + 1, len(side.octets) - 1)]
    one = np.zeros(256, np.bool_)
    two = np.zeros(256, np.bool_)
    for form in FORMS:
        if form.opcode[0] == 0x0F:
            two[form.opcode[1]] = True
        else:
            one[form.opcode[0]] = True
    prefixed = np.zeros(256, np.bool_)
    prefixed[[code for code in range(256) if not split_prefixes(bytes((code,)))[1]]] = True
    likely = (one | prefixed)[opcode]
    likely[escaped] |= two[second]
    return np.flatnonzero(likely & (side.fillers != Filler.OPAQUE))
