# SPDX-License-Identifier: MIT
"""Has the page about messages each message of the sources, with a cause and a remedy?"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.expressions import SourceModule, sources_of
from tools.messages import Errors, messages
from tools.troubleshooting import GROUPS, PAGE, PageRow, code, page_of, rows_of
from vmipatch import errors

ERRORS = """
class VmipatchError(Exception):
    pass


class MalformedImage(VmipatchError):
    usual_hint = "copy it"
"""


@pytest.fixture(scope="module")
def raised() -> dict[tuple[str, str], list[str]]:
    return messages()


def said_by(code_text: str) -> dict[str, set[str]]:
    """Messages, with their remedies, of a package with one module besides its errors."""
    parts = (("errors.py", ERRORS), ("part.py", code_text))
    sources = [SourceModule(Path(name), ast.parse(text)) for name, text in parts]
    found: dict[str, set[str]] = {}
    for each in Errors(sources).messages():
        found.setdefault(each.text, set()).update(each.hints)
    return found


def test_page_has_every_message_and_remedy(raised: dict[tuple[str, str], list[str]]) -> None:
    text = PAGE.read_text("utf-8")
    assert page_of(raised, rows_of(text)) == text, "write it: python -m tools.troubleshooting"


def test_every_message_has_a_cause_and_a_remedy() -> None:
    rows = rows_of(PAGE.read_text("utf-8"))
    assert [key for key, row in rows.items() if not row.cause or not row.remedy] == []
    assert len(rows) > 300


def test_a_new_message_has_no_cause_and_others_keep_theirs() -> None:
    kept = {("OutputTaken", code("is taken")): PageRow("by another", "")}
    page = page_of({("OutputTaken", "is new"): ["stop"], ("OutputTaken", "is taken"): []}, kept)
    rows = rows_of(page)
    assert rows["OutputTaken", "`is new`"] == PageRow("", "stop")
    assert rows["OutputTaken", "`is taken`"].cause == "by another"


def test_each_class_that_is_raised_has_a_group(raised: dict[tuple[str, str], list[str]]) -> None:
    groups = [group.error for group in GROUPS]
    assert {error for error, _ in raised} == set(groups)
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    ours &= {name for name in ours if issubclass(getattr(errors, name), errors.VmipatchError)}
    assert ours <= set(groups)


def test_no_message_is_known_only_when_it_is_raised(
    raised: dict[tuple[str, str], list[str]],
) -> None:
    assert [text for _, text in raised if not any(map(str.isalpha, text))] == ["…: …"]


def test_texts_are_followed_through_variables_parameters_and_choices() -> None:
    assert said_by(
        """
def f(size, name):
    why = "is short" if size else "is empty"
    raise MalformedImage(f"{name} {why}, {size:#x}", file=name)

def g(why, hint="look"):
    raise VmipatchError(f"it {why}", hint=hint)

def h():
    for place, what in ((1, "is one way"), (2, "is the other way")):
        g(what)
    raise g("needs more", "give it")
"""
    ) == {
        "… is short, …": {"copy it"},
        "… is empty, …": {"copy it"},
        "it is one way": {"look"},
        "it is the other way": {"look"},
        "it needs more": {"give it"},
    }


def test_a_subclass_says_what_its_own_constructor_says() -> None:
    assert said_by(
        """
class NoRoom(VmipatchError):
    def __init__(self, count):
        super().__init__(f"{count} bytes too many")

class Less(NoRoom):
    pass

def f():
    raise NoRoom(3)

def g():
    raise Less(4)
"""
    ) == {"… bytes too many": set()}


def test_every_raise_of_ours_gives_a_message() -> None:
    sources = sources_of()
    found = Errors(sources)
    raises = [
        (node.exc, source)
        for source in sources
        for node in source.of(ast.Raise)
        if isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in found.classes
    ]
    own = {"NoRoom", "Crowded", "OutOfReach", "Untranslatable", "Misfit", "InitOverflow"}
    silent = {
        ast.unparse(call.func)
        for call, source in raises
        if not list(found.messages_of(call, source))
    }
    assert silent <= own, "these have their message in their constructor"
