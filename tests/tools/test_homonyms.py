# SPDX-License-Identifier: MIT
"""Is a public class found that has the name of another one?"""

from __future__ import annotations

from tools.homonyms import ALLOWED, homonyms, not_allowed, sources

CLASS = "class {}:\n    pass\n"


def test_tree_has_no_name_with_two_meanings() -> None:
    assert not_allowed(sources()) == {}


def test_each_exception_is_needed() -> None:
    found = {name: len(modules) for name, modules in homonyms(sources()).items()}
    assert found == {name: count for name, (count, _) in ALLOWED.items()}


def test_two_classes_of_the_package_are_found() -> None:
    texts = {"vmipatch.a": CLASS.format("Thing"), "vmipatch.b": CLASS.format("Thing")}
    assert homonyms(texts) == {"Thing": ["vmipatch.a", "vmipatch.b"]}
    assert homonyms({**texts, "vmipatch.b": CLASS.format("_Thing")}) == {}


def test_a_class_that_tests_share_counts_and_one_of_a_single_file_does_not() -> None:
    texts = {"vmipatch.a": CLASS.format("Thing"), "tests.helper": CLASS.format("Thing")}
    assert homonyms(texts) == {}
    texts["tests.test_a"] = "from tests.helper import Thing\n"
    assert homonyms(texts) == {"Thing": ["tests.helper", "vmipatch.a"]}


def test_one_more_of_an_allowed_name_is_not_allowed() -> None:
    name, (count, _) = next(iter(ALLOWED.items()))
    texts = {f"vmipatch.m{number}": CLASS.format(name) for number in range(count)}
    assert not_allowed(texts) == {}
    assert not_allowed({**texts, "vmipatch.more": CLASS.format(name)})
