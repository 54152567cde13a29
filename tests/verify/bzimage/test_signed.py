# SPDX-License-Identifier: MIT
"""Is a vmlinuz proven that sbsign signed, and is a signature of something else refused?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.image.repack.forms import FORMS
from tests.support.signing import Signer
from tests.verify.bzimage.samples import make_sample, pe_front
from tests.verify.bzimage.test_proof import STATIC, refused_by
from vmipatch.files.kernel import KernelFile
from vmipatch.files.open import open_bytes, open_kernel
from vmipatch.image.repack import pe_header
from vmipatch.verify.static.bzimage.pe import PeHeaders, checksum

EFI = FORMS["5.10 with EFI stub"]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.make(tmp_path_factory.mktemp("key"))


def test_signed_vmlinuz_is_proven_and_comes_back(signer: Signer, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "sample", EFI, pe_front)
    signed = signer.bzimage(sample.output.read_bytes())
    assert pe_header.certificates(signed)[1]
    file = open_bytes(signed, "signed")
    original, twin = open_kernel(sample.original), open_kernel(sample.twin)
    assert isinstance(file, KernelFile)
    done = file.verify(original, STATIC, debug=twin)
    assert done.holds, done.verdict.findings
    (named,) = done.certificate()["signatures"]
    assert named["kind"] == "Authenticode" and named["checked"]
    assert named["key"] == "its key signed the digest"
    assert "Authenticode by test key" in done.verdict.phases[0].what
    assert file.restore().data == sample.original.read_bytes()
    twice = signer.bzimage(signed)
    assert refused_by(sample, twice) == set()
    for damaged, why in damages(signed, signer, sample.output.read_bytes()):
        assert "VP146" in refused_by(sample, damaged), why


def damages(signed: bytes, signer: Signer, unsigned: bytes) -> list[tuple[bytes, str]]:
    """Files with signatures that are not of what is in them."""
    off, length = pe_header.certificates(signed)
    pe = PeHeaders.of(signed)
    assert pe is not None
    other = bytearray(unsigned)
    other[0x700] ^= 1
    foreign = signer.bzimage(bytes(other))
    wrong_sum = bytearray(signed)
    wrong_sum[pe.checksum] = struct.pack("<I", checksum(signed, pe) ^ 1)
    value = bytearray(signed)
    value[off + length - 20] ^= 1
    return [
        (signed[:off] + foreign[off:], "a signature of another file"),
        (bytes(wrong_sum), "a wrong checksum"),
        (bytes(value), "a value that its key did not make"),
        (signed + bytes(8), "bytes after the signature"),
        (signed[:-8], "a signature that is cut off"),
        (signed[:off] + struct.pack("<I", length + 8) + signed[off + 4 :], "a wrong length"),
    ]


def test_changed_bytes_under_a_new_signature_are_refused(signer: Signer, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "sample", EFI, pe_front)
    data = bytearray(sample.output.read_bytes())
    data[0x500] ^= 1
    assert "VP142" in refused_by(sample, signer.bzimage(bytes(data)))


@pytest.mark.parametrize("at", range(0, 40, 4))
def test_changed_section_table_is_refused(at: int, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "sample", EFI, pe_front)
    data = bytearray(sample.output.read_bytes())
    pe = PeHeaders.of(bytes(data))
    assert pe is not None
    data[pe.sections + 40 + at] ^= 1
    assert "VP143" in refused_by(sample, bytes(data))


@pytest.mark.kernels
def test_vmlinuz_without_efi_stub_cannot_be_signed_by_sbsign(kernel: KernelFinder) -> None:
    data = kernel("tiny").with_name("bzImage").read_bytes()
    assert PeHeaders.of(data) is None
