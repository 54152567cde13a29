# SPDX-License-Identifier: MIT
"""How does a note write down the way in which a file was packed? As JSON."""

from __future__ import annotations

import json

from vmipatch.image.packing import Compression, Packer, Recipe, is_known
from vmipatch.image.stored_json import json_value


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
    """The recipe that `recipe_text` gave these bytes for. Raises ValueError if none did.

    Its options go to a program: any others than vmipatch's own are refused.
    """
    try:
        fields = json_value(text)
        compression = next(c for c in Compression if c.label == fields["compression"])
        header = bytes.fromhex(fields["header"])
        recipe = Recipe(compression, Packer(fields["maker"]), str(fields["options"]), header)
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"no recipe: {error}") from error
    if not is_known(recipe):
        raise ValueError("no recipe of ours")
    return recipe
