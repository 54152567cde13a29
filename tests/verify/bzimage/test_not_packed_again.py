# SPDX-License-Identifier: MIT
"""Where this machine cannot pack a payload again: is a stream refused that boot code cannot unpack?

Each unpacks here, to the right bytes, and has parameters that Linux's build does not choose: a
check that boot code does not know, another filter, a dictionary that it has no memory for.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from dataclasses import dataclass
from typing import Any

import pytest
import zstandard

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.packing import Compression, likely_recipe, pack, parameters
from vmipatch.image.packing.payload import Payload
from vmipatch.verify.static.bzimage import packing
from vmipatch.verify.static.verdict import NOT_PACKED_AGAIN, Report

DATA = bytes(range(256)) * 64
MIB = 1 << 20


def xz(check: int = lzma.CHECK_CRC32, *filters: dict[str, Any], dict_len: int = 32 * MIB) -> bytes:
    """An xz stream with LZMA2 last."""
    last = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dict_len}
    return lzma.compress(DATA, lzma.FORMAT_XZ, check=check, filters=[*filters, last])


X86: dict[str, Any] = {"id": lzma.FILTER_X86}
ARM: dict[str, Any] = {"id": lzma.FILTER_ARM}
DELTA: dict[str, Any] = {"id": lzma.FILTER_DELTA, "dist": 1}


def zstd(**options: Any) -> bytes:
    """A frame of unknown length."""
    made = zstandard.ZstdCompressionParameters.from_level(
        22, **{"write_checksum": True, "write_content_size": False, **options}
    )
    packer = zstandard.ZstdCompressor(compression_params=made).compressobj()
    return packer.compress(DATA) + packer.flush()


def named_gzip() -> bytes:
    """With the name of a file in its header, which may be anything."""
    plain = gzip.compress(DATA, 9, mtime=0)
    return plain[:3] + b"\x08" + plain[4:10] + b"anything\0" + plain[10:]


@dataclass(frozen=True)
class Side:
    """One file, as the check of its packing asks for it."""

    payload: Payload


@dataclass(frozen=True)
class Pair:
    """Both files."""

    old: Side
    new: Side
    notes: None = None
    original: bytes = b""
    unsigned: bytes = b""


def broken(
    compression: Compression, was: bytes, now: bytes, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """The rules that are broken if `was` became `now`, and nothing can be packed again."""
    sides = (Side(Payload(compression, stream, DATA)) for stream in (was, now))
    report = Report(hex)
    appended = len(DATA).to_bytes(4, "little")[: compression.appended_len]

    def cannot(*_: object) -> bytes:
        raise EnvironmentProblem("its program is not here")

    monkeypatch.setattr(packing, "pack_payload", cannot)
    monkeypatch.setattr(packing, "payload_of", lambda _, side: side.payload.stream + appended)
    packing.check_packing(Pair(*sides), DATA, report)  # type: ignore[arg-type]
    assert report.counts[NOT_PACKED_AGAIN] == 1
    return {rule.number for rule in report.verdict().totals}


HONEST = {
    Compression.XZ: xz(lzma.CHECK_CRC32, X86),
    Compression.LZMA: lzma.compress(DATA, lzma.FORMAT_ALONE, preset=9),
    Compression.BZIP2: bz2.compress(DATA, 9),
    Compression.GZIP: gzip.compress(DATA, 9, mtime=0),
    Compression.ZSTD: zstd(),
}
WRONG: list[tuple[Compression, str, bytes]] = [
    (Compression.XZ, "a check that boot code lacks", xz(lzma.CHECK_SHA256, X86)),
    (Compression.XZ, "no filter", xz(lzma.CHECK_CRC32)),
    (Compression.XZ, "a filter of another processor", xz(lzma.CHECK_CRC32, ARM)),
    (Compression.XZ, "two filters", xz(lzma.CHECK_CRC32, X86, DELTA)),
    (Compression.XZ, "a large dictionary", xz(lzma.CHECK_CRC32, X86, dict_len=96 * MIB)),
    (
        Compression.LZMA, "a large dictionary",
        lzma.compress(
            DATA, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 128 * MIB}]
        ),
    ),
    (Compression.BZIP2, "another block size", bz2.compress(DATA, 1)),
    (Compression.GZIP, "a name", named_gzip()),
    (Compression.ZSTD, "a small window", zstd(window_log=20)),
    (Compression.ZSTD, "no checksum", zstd(write_checksum=False)),
]  # fmt: skip


@pytest.mark.parametrize("compression", HONEST, ids=lambda c: c.label)
def test_other_bytes_of_the_same_parameters_hold(
    compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = HONEST[compression]
    made = pack(likely_recipe(compression, was), DATA)
    for now in (was, made):
        assert broken(compression, was, now, monkeypatch) == set()


@pytest.mark.parametrize(("compression", "what", "now"), WRONG, ids=lambda v: str(v)[:40])
def test_stream_with_other_parameters_is_refused(
    compression: Compression, what: str, now: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken(compression, HONEST[compression], now, monkeypatch) == {"VP141"}


def test_sizes_that_threads_write_are_not_parameters() -> None:
    """`xz -T2` writes the sizes of a block into its header (.xz file format, section 3.1)."""
    plain = xz(lzma.CHECK_CRC32, X86)
    end = 12 + 4 * (plain[12] + 1)
    body = bytes((plain[13] | 0xC0,)) + b"\x81\x80\x01" * 2 + plain[14 : end - 4]
    body += bytes(-(len(body) + 1) % 4)
    threaded = plain[:12] + bytes(((len(body) + 1) // 4,)) + body + bytes(4)
    assert parameters(Compression.XZ, threaded) == parameters(Compression.XZ, plain)
