# SPDX-License-Identifier: MIT
"""The example kernel, built once for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.guest.build import build


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vmlinux that every command accepts."""
    path = tmp_path_factory.mktemp("guest") / "vmlinux"
    path.write_bytes(build())
    return path
