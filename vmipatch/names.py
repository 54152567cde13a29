# SPDX-License-Identifier: MIT
"""What does a report call a file? By the last part of its path: the rest is the host's."""

from __future__ import annotations

import os


def base_name(path: str) -> str:
    """The last part of a path, also of a directory with a slash after it."""
    return os.path.basename(os.path.normpath(path)) or path


def relative_name(path: str) -> str:
    """A path below the working directory as it is; of any other the last part."""
    normal = os.path.normpath(path)
    is_outside = os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir
    return base_name(path) if is_outside else normal


def without_directory(message: str, path: str) -> str:
    """A message that begins with the name of the file `path`, without directories before that."""
    at = message.find(os.sep + path)
    head = message[: max(at, 0)]
    return message if at < 0 or ": " in head else message[at + len(os.sep) :]
