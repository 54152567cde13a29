# SPDX-License-Identifier: MIT
"""Which value do the JSON bytes in a file hold? The file may be anyone's."""

from __future__ import annotations

import json
from typing import Any


def json_value(text: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for whatever is not one or nests too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets nest too deeply") from None
