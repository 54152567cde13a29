# SPDX-License-Identifier: MIT
"""How does a note write down the way in which a file was packed? As JSON."""

from __future__ import annotations

import json

from vmipatch.image.packing import Compression, Maker, Recipe


def recipe_text(recipe: Recipe) -> bytes:
    """The recipe in words, the same bytes each time."""
    fields = {
        "compression": recipe.compression.label,
        "maker": recipe.maker.value,
        "options": recipe.options,
        "header": recipe.header.hex(),
    }
    return json.dumps(fields, sort_keys=True).encode()


def recipe_from(text: bytes) -> Recipe:
    """The recipe that `recipe_text` gave these bytes for. Raises ValueError if none did."""
    try:
        fields = json.loads(text)
        compression = next(c for c in Compression if c.label == fields["compression"])
        header = bytes.fromhex(fields["header"])
        return Recipe(compression, Maker(fields["maker"]), str(fields["options"]), header)
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"no recipe: {error}") from error
