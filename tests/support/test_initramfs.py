# SPDX-License-Identifier: MIT
"""Is the initial file system a proper and reproducible archive?"""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import initramfs

NAMES = st.text("abc", min_size=1, max_size=9)
FILES = st.dictionaries(st.builds("{}/{}.sh".format, NAMES, NAMES), st.binary(max_size=64))


@given(FILES)
def test_archive_holds_every_file_and_its_directories(files: dict[str, bytes]) -> None:
    found = list(initramfs.members(initramfs.pack(files)))
    assert {m.path: m.data for m in found if stat.S_ISREG(m.mode)} == files
    directories = {m.path for m in found if stat.S_ISDIR(m.mode)}
    assert directories == {path.partition("/")[0] for path in files}


@given(FILES)
def test_order_of_the_files_does_not_show(files: dict[str, bytes]) -> None:
    backwards = dict(reversed(files.items()))
    assert initramfs.pack(files) == initramfs.pack(backwards)


def test_directory_comes_before_what_is_in_it() -> None:
    paths = [m.path for m in initramfs.members(initramfs.pack({"a/b/c": b"", "a/a": b""}))]
    assert paths == ["a", "a/b", "a/a", "a/b/c"]


@pytest.mark.parametrize("damage", [b"", b"070702", b"\x1f\x8b"])
def test_what_is_no_archive_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no cpio header at offset 0x0"):
        list(initramfs.members(damage))
