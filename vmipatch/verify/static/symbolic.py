# SPDX-License-Identifier: MIT
"""What does a register hold, in terms of what it held before?

Values are sums: multiples of unknowns plus a constant, modulo 2^32. That is enough to tell whether
two short pieces of code that move values, and add constants to them, have the same result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that is not known beforehand, and that may depend on other values."""

    name: str
    of: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """A sum of unknowns, each with a factor, and a constant."""

    terms: frozenset[tuple[Unknown, int]]
    constant: int

    def __add__(self, other: Value) -> Value:
        factors: Counter[Unknown] = Counter()
        for unknown, factor in (*self.terms, *other.terms):
            factors[unknown] = (factors[unknown] + factor) & MASK
        terms = frozenset((u, f) for u, f in factors.items() if f)
        return Value(terms, (self.constant + other.constant) & MASK)

    def times(self, factor: int) -> Value:
        """The value, `factor` times."""
        terms = frozenset((u, f * factor & MASK) for u, f in self.terms if f * factor & MASK)
        return Value(terms, self.constant * factor & MASK)

    def above(self, base: Value) -> int | None:
        """How far the value lies above `base`, signed; None if that is not a constant."""
        distance = self + base.times(MASK)
        if distance.terms:
            return None
        return distance.constant - (distance.constant >> 31 << 32)


def constant(number: int) -> Value:
    """A number."""
    return Value(frozenset(), number & MASK)


def unknown(name: str, *of: Value) -> Value:
    """An unknown, perhaps made of other values."""
    return Value(frozenset({(Unknown(name, of), 1)}), 0)


def joined(low: Value, high: Value) -> Value:
    """The lower 16 bits of `low` and the upper ones of `high`."""
    return unknown(_JOINED, _part(low, 0), _part(high, 1))


def _part(value: Value, which: int) -> Value:
    """`value` with sums of halves replaced by the half that counts.

    The lower half of a sum is that of its parts' lower halves; the upper one has no such rule.
    """
    if which and (len(value.terms) != 1 or value.constant):
        return value
    result = constant(value.constant)
    for part, factor in value.terms:
        alone = Value(frozenset({(part, 1)}), 0)
        known = part.of[which] if part.name == _JOINED and (factor == 1 or not which) else alone
        result += known.times(factor)
    return result


_JOINED = "lower and upper half"
