# SPDX-License-Identifier: MIT
"""The payload of a bzImage, packed and unpacked: one codec for each compression.

`recipe.find_recipe` tells how a stream was made, `pack` makes one that way.
"""

from vmipatch.image.packing.codec import Packer, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.parameters import parameters
from vmipatch.image.packing.payload import Payload, pack_payload, unpack_payload
from vmipatch.image.packing.recipe import candidates, find_recipe, is_known, likely_recipe, pack

__all__ = [
    "Compression",
    "Packer",
    "Payload",
    "Recipe",
    "candidates",
    "find_recipe",
    "is_known",
    "likely_recipe",
    "pack",
    "pack_payload",
    "parameters",
    "unpack_payload",
]
