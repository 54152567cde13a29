# SPDX-License-Identifier: MIT
"""Is what Linux's build packs unpacked, and packed again to the same bytes?

The streams come from the programs that the build runs, with its options (scripts/Makefile.lib).
"""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from vmipatch.errors import EnvironmentProblem, MalformedImage
from vmipatch.image.packing import (
    Compression,
    Packer,
    Recipe,
    find_recipe,
    likely_recipe,
    pack,
    pack_payload,
    unpack_payload,
)
from vmipatch.image.packing.recipe import CODECS

BUILD = {
    Compression.GZIP: "gzip -n -f -9",
    Compression.BZIP2: "bzip2 -9",
    Compression.LZMA: "xz --format=lzma -9",
    Compression.XZ: "xz --check=crc32 --x86 --lzma2=,dict=32MiB",
    Compression.LZO: "lzop -9",
    Compression.LZ4: "lz4 -l -9 - -",
    Compression.ZSTD: "zstd -22 --ultra",
}


def like_code(length: int) -> bytes:
    """Bytes with the repetitions of code, the same in every run."""
    numbers = random.Random(7)
    words = [numbers.randbytes(numbers.randint(1, 9)) for _ in range(500)]
    text = bytearray(Compression.NONE.magic)
    while len(text) < length:
        text += numbers.choice(words)
    return bytes(text[:length])


DATA = like_code(300_000)  # more than a block of lzop


@pytest.fixture(scope="module", params=BUILD, ids=lambda c: c.label)
def compression(request: pytest.FixtureRequest) -> Compression:
    chosen: Compression = request.param
    return chosen


@pytest.fixture(scope="module")
def stream(compression: Compression) -> bytes:
    command = BUILD[compression].split()
    return subprocess.run(command, input=DATA, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def payload(compression: Compression, stream: bytes) -> bytes:
    appended = b"" if compression is Compression.GZIP else len(DATA).to_bytes(4, "little")
    return stream + appended


def test_what_the_build_packed_is_unpacked(
    compression: Compression, stream: bytes, payload: bytes
) -> None:
    read = unpack_payload(payload)
    assert (read.compression, read.stream, read.unpacked) == (compression, stream, DATA)


def test_recipe_that_is_found_gives_the_stream_back(
    compression: Compression, stream: bytes, payload: bytes
) -> None:
    recipe = find_recipe(compression, stream, DATA)
    assert recipe is not None
    assert pack(recipe, DATA) == stream
    assert pack_payload(recipe, DATA) == payload


@pytest.mark.parametrize("program", ["gzip", "bzip2"])
def test_no_recipe_is_found_for_other_options(program: str) -> None:
    stream = subprocess.run([program, "-1"], input=DATA, capture_output=True, check=True).stdout
    assert find_recipe(Compression.of(stream) or Compression.NONE, stream, DATA) is None


def test_libraries_pack_what_they_unpack(compression: Compression, stream: bytes) -> None:
    codec = CODECS[compression]
    recipe = next(r for r in codec.candidates(stream) if r.maker is Packer.LIBRARY)
    packed = pack_payload(recipe, DATA)
    assert unpack_payload(packed).unpacked == DATA
    assert len(packed) < len(stream) * 1.05


def test_likely_recipe_is_the_first_to_be_tried(compression: Compression, stream: bytes) -> None:
    made = pack(likely_recipe(compression, stream), DATA)
    assert unpack_payload(made + len(DATA).to_bytes(4, "little")).unpacked == DATA


def test_cut_payload_is_refused(payload: bytes) -> None:
    for kept in (len(payload) // 2, 60, 20):
        with pytest.raises(MalformedImage):
            unpack_payload(payload[:kept])


@pytest.mark.parametrize(
    ("compression", "package"),
    [(Compression.LZO, "lzallright"), (Compression.LZ4, "lz4"), (Compression.ZSTD, "zstandard")],
)
def test_missing_library_is_named(
    compression: Compression, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (package, f"{package}.block"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentProblem, match=rf"{package}, .*\(pip install {package}\)"):
        unpack_payload(compression.magic + bytes(40), "bzImage")


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentProblem, match="gzip is not installed"):
        pack(Recipe(Compression.GZIP, Packer.PROGRAM, "-n -9"), DATA)


def test_options_from_the_environment_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = subprocess.run(["gzip", "-n", "-9"], input=DATA, capture_output=True, check=True)
    monkeypatch.setenv("GZIP", "-1")
    assert find_recipe(Compression.GZIP, stream.stdout, DATA) is not None


def test_dictionary_of_xz_is_read_from_the_stream() -> None:
    command = ["xz", "--check=crc32", "--lzma2=preset=9,dict=128MiB"]
    stream = subprocess.run(command, input=DATA, capture_output=True, check=True).stdout
    recipe = find_recipe(Compression.XZ, stream, DATA)
    assert recipe is not None
    assert recipe.options.startswith("--check=crc32 --lzma2=")
    assert recipe.options.endswith(",dict=128MiB")
