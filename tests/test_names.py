# SPDX-License-Identifier: MIT
"""Do reports call files by names that say nothing of the host?"""

from __future__ import annotations

import pytest

from vmipatch.names import base_name, relative_name, without_directory


@pytest.mark.parametrize(
    ("path", "base", "relative"),
    [
        ("/home/me/vmlinux", "vmlinux", "vmlinux"),
        ("build/vmlinux", "vmlinux", "build/vmlinux"),
        ("../vmlinux", "vmlinux", "vmlinux"),
        ("./build/../vmlinux", "vmlinux", "vmlinux"),
        ("/lib/modules/6.1/", "6.1", "6.1"),
        ("<bytes>", "<bytes>", "<bytes>"),
        ("-", "-", "-"),
    ],
)
def test_a_path_of_the_host_has_a_name(path: str, base: str, relative: str) -> None:
    assert (base_name(path), relative_name(path)) == (base, relative)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/lib/modules/a/b.ko: .text: it is wrong", "a/b.ko: .text: it is wrong"),
        ("a/b.ko: it is wrong", "a/b.ko: it is wrong"),
        (".text: see /lib/a/b.ko", ".text: see /lib/a/b.ko"),
        ("", ""),
    ],
)
def test_a_message_names_the_module_and_not_where_the_tree_is(message: str, told: str) -> None:
    assert without_directory(message, "a/b.ko") == told
