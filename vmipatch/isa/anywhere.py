# SPDX-License-Identifier: MIT
"""At which bytes could a sensitive instruction begin, whatever the boundaries are?

Every offset is looked at, so that nothing depends on where a decoder thinks that instructions
begin. Derived from the table of forms by asking `classify`, never a second copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from vmipatch.isa.classify import PREFIXES, classify
from vmipatch.isa.forms import FORMS, AtCpl1, Form, Operand

Octets = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

LONGEST = 15
"""Bytes of the longest instruction (Intel SDM volume 2, section 2.3.11)."""
TWO_BYTES = 0x0F
WINDOW = 1 << 20
NO_FORM = 255


def is_sensitive(form: Form) -> bool:
    """Whether a deprivileged kernel must not execute it as it is, unseen."""
    return form.at_cpl1 is not AtCpl1.SAME


SENSITIVE: tuple[Form, ...] = tuple(form for form in FORMS if is_sensitive(form))
"""The forms by the numbers that `sensitive_anywhere` gives."""


def sensitive_anywhere(code: bytes) -> tuple[Numbers, Octets]:
    """Offsets in `code` at which a sensitive form could be decoded, ascending, and which one.

    Where `code` ends early, its last instruction is taken to go on with zeros.
    """
    octets = np.frombuffer(code + bytes(2 * LONGEST), np.uint8)
    found = list(_windows(octets, len(code)))
    offs = [off for off, _ in found] or [np.zeros(0, np.int64)]
    kinds = [kind for _, kind in found] or [np.zeros(0, np.uint8)]
    return np.concatenate(offs), np.concatenate(kinds)


def _windows(octets: Octets, length: int) -> Iterator[tuple[Numbers, Octets]]:
    for begin in range(0, length, WINDOW):
        end = min(begin + WINDOW, length)
        kinds = _forms_at(octets[begin : end + 2 * LONGEST])[: end - begin]
        hit = np.flatnonzero(kinds != NO_FORM)
        yield hit + begin, kinds[hit]


def _forms_at(octets: Octets) -> Octets:
    """The form whose decoding begins at each byte but the last LONGEST."""
    one, two, long_forms = _tables()
    size = len(octets) - LONGEST
    at = np.arange(size)
    is_prefix = _prefixes()[octets]
    # The first byte behind all prefixes that begin at each byte.
    opcode_at = np.where(is_prefix, len(octets), np.arange(len(octets)))
    opcode_at = np.minimum.accumulate(opcode_at[::-1])[::-1][:size]
    opcode_at = np.where(opcode_at - at < LONGEST, np.minimum(opcode_at, size - 1), at)
    first, second, third = octets[:size], octets[1 : size + 1], octets[2 : size + 2]
    plain = one[first, second]
    plain = np.where(first == TWO_BYTES, two[second, third], plain)
    result: Octets = plain[opcode_at]
    narrowed = np.concatenate(([0], np.cumsum(octets == 0x66)))
    for number, form in long_forms:
        here = (first == form.opcode[0]) & (second == form.opcode[1]) & (third == form.opcode[2])
        is_memory = octets[3 : size + 3] >> 6 != 3
        wanted = (here & is_memory)[opcode_at] & (narrowed[opcode_at] > narrowed[at])
        result[wanted] = number
    return result


@cache
def _prefixes() -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(256), sorted(PREFIXES))


@cache
def _tables() -> tuple[Octets, Octets, list[tuple[int, Form]]]:
    """Forms by opcode and next byte, for both opcode maps; and those of three opcode bytes."""
    number = {form.name: index for index, form in enumerate(SENSITIVE)}
    one, two = (np.full((256, 256), NO_FORM, np.uint8) for _ in range(2))
    for opcode in range(256):
        for behind in range(256):
            if opcode not in PREFIXES and opcode != TWO_BYTES:
                form = classify(bytes((opcode, behind)))
                if form is not None and form.name in number:
                    one[opcode, behind] = number[form.name]
            form = classify(bytes((TWO_BYTES, opcode, behind)))
            if form is not None and form.name in number:
                two[opcode, behind] = number[form.name]
    # All of these want a 66 prefix and memory (tests/isa/test_anywhere.py).
    long_forms = [
        (number[form.name], form)
        for form in SENSITIVE
        if len(form.opcode) == 3 and form.operand is not Operand.NONE
    ]
    return one, two, long_forms
