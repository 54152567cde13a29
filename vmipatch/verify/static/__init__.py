# SPDX-License-Identifier: MIT
"""The proof from bytes alone: an output is its original, laid out anew."""

from vmipatch.verify.static.check import check_static
from vmipatch.verify.static.rules import RULES, Rule
from vmipatch.verify.static.verdict import StaticFinding, StaticVerdict

__all__ = ["RULES", "Rule", "StaticFinding", "StaticVerdict", "check_static"]
