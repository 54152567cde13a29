# SPDX-License-Identifier: MIT
"""Has the API reference each public name, and does it say what each attribute is?"""

from __future__ import annotations

import re

import vmipatch
from tools.api_page import PAGE, page


def test_reference_is_that_of_the_docstrings() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it: python -m tools.api_page"


def test_every_public_name_has_its_part_and_stands_in_the_guide_to_the_api() -> None:
    parts = re.findall(r"(?m)^## (\w+)$", PAGE.read_text("utf-8"))
    assert sorted([*parts, "__version__"]) == sorted(vmipatch.__all__)
    guide = (PAGE.parent / "api.md").read_text("utf-8")
    assert [name for name in vmipatch.__all__ if not re.search(rf"\b{name}\b", guide)] == []


def test_every_attribute_says_what_it_is() -> None:
    assert re.findall(r"(?m)^\| `\w+` \|\s*\|$", PAGE.read_text("utf-8")) == []


def test_every_function_says_what_it_does() -> None:
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"```\n[^`]*?\n```\n\n(.*)", text)
    assert len(blocks) > 30
    assert [line for line in blocks if not line[:1].isupper() and not line.startswith("`")] == []
