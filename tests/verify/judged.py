# SPDX-License-Identifier: MIT
"""How do tests ask one check of the static proof about a few facts?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vmipatch.verify.static import StaticFinding
from vmipatch.verify.static.comparison import Check
from vmipatch.verify.static.verdict import Report


def judged(check: Check[Any], **facts: Any) -> tuple[StaticFinding, ...]:
    """The findings of `check` about a comparison of which only these facts are known."""
    report = Report(hex)
    check(SimpleNamespace(report=report, **facts))
    return report.verdict().findings
