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
from vmipatch.isa.forms import FORMS, AtCpl1, Form, WantedModrm

Octets = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

LONGEST = 15
"""Bytes of the longest instruction (Intel SDM volume 2, section 2.3.11)."""
TWO_BYTES = 0x0F
WINDOW = 1 << 20
NO_FORM = 255


def is_sensitive(form: Form) -> bool:
    """Whether a deprivileged kernel must not execute it as it is, unseen."""
    return form.at_cpl1 not in (AtCpl1.SAME, AtCpl1.DIFFERS_BY_DESCRIPTOR)


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
        yield hit.astype(np.int64) + begin, kinds[hit]


def _forms_at(octets: Octets) -> Octets:
    """The form whose decoding begins at each byte but the last LONGEST."""
    one, two = _tables()
    size = len(octets) - LONGEST
    at = np.arange(size)
    is_prefix = _prefixes()[octets]
    # The first byte after all prefixes that begin at each byte.
    opcode_at = np.where(is_prefix, len(octets), np.arange(len(octets)))
    opcode_at = np.minimum.accumulate(opcode_at[::-1])[::-1][:size]
    opcode_at = np.where(opcode_at - at < LONGEST, np.minimum(opcode_at, size - 1), at)
    first, second, third = octets[:size], octets[1 : size + 1], octets[2 : size + 2]
    plain = one[first, second]
    plain = np.where(first == TWO_BYTES, two[second, third], plain)
    result: Octets = plain[opcode_at]
    for number, form in _SPECIAL:
        begins = np.flatnonzero(_has_opcode(form, octets, size)[opcode_at])
        wanted = [_has_prefix(code, octets, begins, opcode_at) for code in _selecting(form)]
        hidden = [_has_prefix(code, octets, begins, opcode_at) for code in form.hidden_by]
        keeps = np.all([np.ones(len(begins), np.bool_), *wanted, *(~has for has in hidden)], axis=0)
        result[begins[keeps]] = number
    return result


def _has_opcode(form: Form, octets: Octets, size: int) -> npt.NDArray[np.bool_]:
    """Where opcode and ModRM of a form stand."""
    length = len(form.opcode)
    here = np.ones(size, np.bool_)
    for index, octet in enumerate(form.opcode):
        here &= octets[index : size + index] == octet
    modrm = octets[length : size + length]
    if form.operand is not WantedModrm.NONE and form.reg is not None:
        here &= modrm >> 3 & 7 == form.reg
    if form.operand in (WantedModrm.MEMORY, WantedModrm.REGISTER):
        here &= (modrm >> 6 == 3) == (form.operand is WantedModrm.REGISTER)
    return here


def _selecting(form: Form) -> tuple[int, ...]:
    return () if form.prefix is None else (form.prefix,)


def _has_prefix(
    code: int, octets: Octets, begins: Numbers, opcode_at: Numbers
) -> npt.NDArray[np.bool_]:
    """Whether the byte is among the prefixes of the instructions at `begins`."""
    before = np.concatenate(([0], np.cumsum(octets == code)))
    found: npt.NDArray[np.bool_] = before[opcode_at[begins]] > before[begins]
    return found


@cache
def _prefixes() -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(256), sorted(PREFIXES))


@cache
def _tables() -> tuple[Octets, Octets]:
    """Forms that no prefix selects or hides, by opcode and next byte, for both opcode maps."""
    special = {number for number, _ in _SPECIAL}
    numbers = {form.name: n for n, form in enumerate(SENSITIVE) if n not in special}
    one, two = (np.full((256, 256), NO_FORM, np.uint8) for _ in range(2))
    for opcode in range(256):
        for second in range(256):
            if opcode not in PREFIXES and opcode != TWO_BYTES:
                form = classify(bytes((opcode, second)))
                if form is not None and form.name in numbers:
                    one[opcode, second] = numbers[form.name]
            form = classify(bytes((TWO_BYTES, opcode, second)))
            if form is not None and form.name in numbers:
                two[opcode, second] = numbers[form.name]
    return one, two


def _is_special(form: Form) -> bool:
    """Whether two bytes do not tell the form: prefixes do, or a third byte and ModRM."""
    is_long = len(form.opcode) == 3 and form.operand is not WantedModrm.NONE
    return is_long or form.prefix is not None or bool(form.hidden_by)


# The first row of the table that fits rules, so it is written last.
_SPECIAL = [(n, form) for n, form in enumerate(SENSITIVE) if _is_special(form)][::-1]
