# SPDX-License-Identifier: MIT
"""Is an honest bzImage proven, whole, whatever its boot code? Is every changed byte refused?"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import invoke, validated
from tests.conftest import KernelFinder
from tests.image.repack.forms import FORMS
from tests.verify.bzimage.flips import flips, shipped_files
from tests.verify.bzimage.samples import BzImageSample, make_sample, small_linux
from vmipatch.choices import Extent
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.files.open import open_kernel
from vmipatch.files.verification import VerifyOptions
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe, pack_payload
from vmipatch.image.relocations import Relocations
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader
from vmipatch.restore import without_note
from vmipatch.verify.static.bzimage.check import check_bzimage
from vmipatch.verify.static.check import check_static
from vmipatch.verify.static.outline import TRAMPOLINES


@pytest.fixture(scope="module", params=FORMS)
def every(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BzImageSample:
    """A sample with each form of boot code."""
    return make_sample(tmp_path_factory.mktemp("sample"), FORMS[request.param])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> BzImageSample:
    return make_sample(tmp_path_factory.mktemp("sample"))


GZIP_BY_PROGRAM = Recipe(Compression.GZIP, Packer.PROGRAM, "-n -9")
STATIC = VerifyOptions(Extent.STATIC)


def refused_by(sample: BzImageSample, output: bytes) -> set[str]:
    """Numbers of the rules that `output` breaks; `not read` if it cannot be read."""
    shipped = shipped_files(sample.original, sample.twin, output)
    try:
        verdict = check_bzimage(shipped)
        if shipped.witness is not None:
            verdict += check_static(shipped.linked, shipped.witness, is_witness=True)
    except VmipatchError:
        return {"not read"}
    return {rule.number for rule in verdict.totals}


def with_crc(data: bytes) -> bytes:
    """The file with the CRC that Linux's build would give it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]) ^ 0xFFFFFFFF)


def test_honest_file_is_proven_from_end_to_end(every: BzImageSample) -> None:
    done = open_kernel(every.output).verify(
        open_kernel(every.original), debug=open_kernel(every.twin), options=STATIC
    )
    assert done.holds, done.verdict.findings
    static = done.verdict.evidence.static
    assert static is not None
    assert static.counts["bytes of the bzImage"] == every.output.stat().st_size
    assert static.counts["bytes given back"] == every.original.stat().st_size


def test_changed_bytes_of_every_region_are_refused(every: BzImageSample) -> None:
    shipped = shipped_files(every.original, every.twin, every.output.read_bytes())
    found = list(flips(shipped, 3, seed=1))
    assert [flip for flip in found if not flip.refused_by] == []
    assert len({flip.region for flip in found}) > 7


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> BzImageSample:
    """A sample with relocated words out of line."""
    return make_sample(tmp_path_factory.mktemp("sample"), vmlinux=small_linux(crowded=True))


def test_relocated_words_out_of_line_are_proven(crowded: BzImageSample) -> None:
    assert refused_by(crowded, crowded.output.read_bytes()) == set()
    shipped = shipped_files(crowded.original, crowded.twin, crowded.output.read_bytes())
    assert shipped.witness is not None
    section = shipped.witness.section_by_name[TRAMPOLINES]
    entries = Relocations.of(shipped.witness).entries
    assert np.count_nonzero(entries["section"] == section.index) >= 10


@pytest.mark.slow
def test_200_changed_bytes_of_every_region_are_refused(sample: BzImageSample) -> None:
    shipped = shipped_files(sample.original, sample.twin, sample.output.read_bytes())
    found = list(flips(shipped, 200))
    assert [flip for flip in found if not flip.refused_by] == []
    assert len(found) > 1000


def test_witness_is_the_vmlinux_that_was_packed(sample: BzImageSample) -> None:
    made = open_kernel(sample.original).rewrite(debug=open_kernel(sample.twin))
    shipped = shipped_files(sample.original, sample.twin, sample.output.read_bytes())
    packed = without_note(ElfImage.parse(made.vmlinux))
    assert shipped.witness is not None
    for mine, theirs in zip(shipped.witness.sections, packed.sections, strict=True):
        assert mine == replace(theirs, off=mine.off)
        assert shipped.witness.section_bytes(mine) == packed.section_bytes(theirs), mine.name


def header_field(**fields: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        emitted = replace(SetupHeader.parse(data), **fields).emit()
        return data[:HEADER_OFF] + emitted + data[HEADER_OFF + len(emitted) :]

    return change


def zeroed_head(data: bytes) -> bytes:
    header = SetupHeader.parse(data)
    head_end = header.code_off + header.payload_offset
    return data[: header.code_off].ljust(head_end, b"\0") + data[head_end:]


def zeroed_tail(data: bytes) -> bytes:
    return data[:-0x300].ljust(len(data) - 4, b"\0") + data[-4:]


def other_setup_sector(data: bytes) -> bytes:
    return data[:0x500] + b"\xf4" + data[0x501:]


def packed_otherwise(data: bytes) -> bytes:
    """The same kernel, packed by the library at another level, as long as before."""
    header = SetupHeader.parse(data)
    start = header.code_off + header.payload_offset
    end = start + header.payload_length
    unpacked = gzip.decompress(data[start:end])
    streams = (
        data[start : start + 10] + packer.compress(unpacked) + packer.flush() + data[end - 8 : end]
        for packer in (zlib.compressobj(level, wbits=-15) for level in range(8, 0, -1))
    )
    # Of a small kernel two levels may give the same.
    stream = next(stream for stream in streams if stream != data[start:end])
    packed = header_field(payload_length=len(stream))(data[:start]) + stream + data[end:]
    return packed if len(stream) == end - start else packed[: len(data) - 4] + packed[-4:]


def other_gzip_header(data: bytes) -> bytes:
    header = SetupHeader.parse(data)
    at = header.code_off + header.payload_offset + 9
    return data[:at] + b"\x07" + data[at + 1 :]


def longer_payload(data: bytes) -> bytes:
    """The payload takes the magic number of the notes in."""
    return header_field(payload_length=SetupHeader.parse(data).payload_length + 4)(data)


def other_code(data: bytes) -> bytes:
    """A kernel with another instruction, packed right."""
    header = SetupHeader.parse(data)
    start = header.code_off + header.payload_offset
    end = start + header.payload_length
    unpacked = bytearray(gzip.decompress(data[start:end]))
    at = unpacked.index(b"\x0f\x20\xc0")
    unpacked[at + 2] = 0xD8
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(bytes(unpacked)) + packer.flush()
    sums = struct.pack("<II", zlib.crc32(bytes(unpacked)), len(unpacked))
    stream = data[start : start + 10] + body + sums
    return header_field(payload_length=len(stream))(data[:start]) + stream + data[end:]


def inside_changed(change: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    """The payload unpacked, changed, and packed as it was."""

    def changed(data: bytes) -> bytes:
        header = SetupHeader.parse(data)
        start = header.code_off + header.payload_offset
        end = start + header.payload_length
        unpacked = bytearray(gzip.decompress(data[start:end]))
        change(unpacked)
        stream = pack_payload(GZIP_BY_PROGRAM, bytes(unpacked))
        return header_field(payload_length=len(stream))(data[:start]) + stream + data[end:]

    return changed


def gap_before_records(data: bytearray) -> None:
    """A byte between the last section of the kernel and the segment of records."""
    records = ElfImage.parse(bytes(data)).section_by_name[".vmi.annotation"]
    data[records.off - 1] ^= 1


def name_of_section(data: bytearray) -> None:
    """A name that no header uses grows at the end of the string table."""
    at = data.index(b"\0.shstrtab\0")
    data[at + 1 : at + 10] = b".shstrtaa"


def more_in_list(data: bytearray) -> None:
    """Another word moves with the kernel."""
    last = int.from_bytes(data[-4:], "little")
    data += struct.pack("<I", last + 4)


def in_trampoline(at: int, bits: int) -> Callable[[bytearray], None]:
    """Bits change `at` bytes after the start of the first `movl $f, variable` out of line."""

    def change(data: bytearray) -> None:
        section = ElfImage.parse(bytes(data)).section_by_name[TRAMPOLINES]
        data[data.index(b"\xc7\x05", section.off, section.off + section.size) + at] ^= bits

    return change


@pytest.mark.parametrize(("at", "bits", "rule"), [(-1, 2, "VP001"), (2, 4, "VP010")])
def test_change_out_of_line_is_refused(
    at: int, bits: int, rule: str, crowded: BzImageSample
) -> None:
    change = inside_changed(in_trampoline(at, bits))
    assert rule in refused_by(crowded, with_crc(change(crowded.output.read_bytes())))


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zeroed head": (zeroed_head, "VP142"),
    "zeroed tail": (zeroed_tail, "VP142"),
    "setup sector": (other_setup_sector, "VP142"),
    "absurd pref_address": (header_field(pref_address=0x7FFF0000), "VP143"),
    "absurd init_size": (header_field(init_size=0x1000), "VP143"),
    "larger init_size": (header_field(init_size=0x7FFFF000), "VP143"),
    "alignment": (header_field(kernel_alignment=0x1000), "VP143"),
    "not relocatable": (header_field(relocatable_kernel=0), "VP143"),
    "entry": (header_field(code32_start=0x200000), "VP143"),
    "EFI entry": (header_field(handover_offset=0x20), "VP143"),
    "shorter syssize": (header_field(syssize=0x10), "VP144"),
    "packed otherwise": (packed_otherwise, "VP141"),
    "gzip's system": (other_gzip_header, "VP141"),
    "longer payload": (longer_payload, "VP145"),
    "other code": (other_code, "VP001"),
    "gap in the kernel": (inside_changed(gap_before_records), "VP140"),
    "names of sections": (inside_changed(name_of_section), "VP140"),
    "longer relocation list": (inside_changed(more_in_list), "VP140"),
    "trailing bytes": (lambda data: data + bytes(16), "VP144"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_that_keeps_the_crc_is_refused_by_its_rule(
    change: str, sample: BzImageSample
) -> None:
    make, rule = CHANGES[change]
    assert rule in refused_by(sample, with_crc(make(sample.output.read_bytes())))


def test_wrong_crc_is_refused(sample: BzImageSample) -> None:
    data = sample.output.read_bytes()
    assert refused_by(sample, data[:-1] + bytes((data[-1] ^ 1,))) == {"VP144"}


def test_tail_that_moved_further_than_needed_is_refused(sample: BzImageSample) -> None:
    """All words of it led rightly, by the code that makes honest files."""
    from unittest.mock import patch

    from vmipatch.image.repack import repack

    least = repack._distance
    with patch.object(repack, "_distance", lambda *words: least(*words) + 0x4000):
        made = open_kernel(sample.original).rewrite(debug=open_kernel(sample.twin))
    assert refused_by(sample, made.data) == {"VP142"}


def test_command_takes_what_is_shipped(sample: BzImageSample, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate"
    words = ("--original", sample.original, "--debug", sample.twin, "--certificate", certificate)
    done = invoke("verify", "--static", sample.output, *words)
    assert done.returncode == ExitCode.SUCCESS, done.stdout
    paper = validated(certificate.read_text(), "certificate-1")
    assert paper["output_sha256"] == hashlib.sha256(sample.output.read_bytes()).hexdigest()
    assert paper["input_sha256"] == hashlib.sha256(sample.original.read_bytes()).hexdigest()
    inside = BzImage.parse(sample.output.read_bytes()).vmlinux
    assert paper["output_kernel_sha256"] == hashlib.sha256(inside).hexdigest()
    assert {"VP140", "VP142", "VP145"} <= set(paper["proven"]["rules"])


def test_file_without_notes_is_refuted_and_not_booted(
    sample: BzImageSample, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    changed.write_bytes(sample.original.read_bytes())
    done = invoke("verify", changed, "--original", sample.original, "--debug", sample.twin)
    assert done.returncode == ExitCode.FINDINGS
    assert "VP145" in done.stdout


def test_bzimage_is_compared_with_a_bzimage(sample: BzImageSample) -> None:
    done = invoke("verify", "--static", sample.output, "--original", sample.twin)
    assert done.returncode == ExitCode.USAGE
    assert "--debug" in done.stderr


@pytest.mark.parametrize("words", [(), ("--original", "twin")])
def test_debug_twin_without_its_bzimage_is_refused(
    words: tuple[str, ...], sample: BzImageSample
) -> None:
    paths = [str(sample.twin) if word == "twin" else word for word in words]
    done = invoke("verify", "--static", sample.twin, *paths, "--debug", sample.twin)
    assert done.returncode == ExitCode.USAGE


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "smp-pae"])
def test_real_vmlinuz_is_proven(name: str, kernel: KernelFinder, tmp_path: Path) -> None:
    vmlinux, output = kernel(name), tmp_path / "vmlinuz.vmi"
    original = vmlinux.with_name("bzImage")
    made = open_kernel(original).rewrite(debug=open_kernel(vmlinux))
    assert made.packed is not None and not made.packed.losses
    output.write_bytes(made.data)
    done = invoke("verify", "--static", output, "--original", original, "--debug", vmlinux)
    assert done.returncode == ExitCode.SUCCESS, done.stdout
