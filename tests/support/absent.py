# SPDX-License-Identifier: MIT
"""Does a test that lacks something fail? In CI, where all has to run; elsewhere it is skipped."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def absent(message: str) -> NoReturn:
    """End the test, saying what is missing and how to get it."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def program(name: str) -> str:
    """The path of a program that `make programs` installs; ends the test without it."""
    path = shutil.which(name)
    return path or absent(f"{name} is missing: run `make programs`")
