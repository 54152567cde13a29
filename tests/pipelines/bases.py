# SPDX-License-Identifier: MIT
"""Which file systems do the recipes run in?"""

from __future__ import annotations

from typing import Final

from tests.pipelines.chroot import Base

PYTHON: Final = ("python3-venv", "python3-numpy")

PACKAGER: Final = Base(
    "bookworm",
    "i386",
    (
        *PYTHON,
        *("build-essential", "debhelper", "fakeroot", "sbsigntool", "openssl", "linux-kbuild-6.1"),
        *("linux-image-686", "linux-image-686-dbg"),
    ),
)
"""Where a distribution builds packages for i386: all build dependencies are installed."""

MACHINE: Final = Base(
    "bookworm",
    "i386",
    (
        *PYTHON,
        *("initramfs-tools", "kmod", "linux-base", "zstd", "systemd"),
        *("dkms", "linux-headers-686", "openssl"),
    ),
)
"""A user's machine without a kernel: it gets one and boots it, and dkms builds its modules."""

RPM: Final = Base("bookworm", "i386", (*PYTHON, "rpm", "rpmlint", "cpio", "gcc"))
"""Where RPM packages are built."""

TRIXIE: Final = Base("trixie", "amd64", ("python3-venv",))
"""Debian 13, which has another Python."""

TRIXIE_I386: Final = Base("trixie", "i386", PYTHON)
"""Debian 13 for i386, whose numpy 2 keeps 32 bits where that of Debian 12 widens them."""

SID: Final = Base("sid", "amd64", ("python3-venv",))
"""Debian's next release, which has the newest Python."""
