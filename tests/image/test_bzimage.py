# SPDX-License-Identifier: MIT
"""Does the reader find what a bzImage holds, and does it say clearly when it cannot?"""

from __future__ import annotations

import bz2
import gzip
import lzma
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.errors import InputNotUnderstood, MalformedImage, VmipatchError
from vmipatch.image.bzimage import BzImage, is_bzimage
from vmipatch.image.packing import Compression
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.setup_header import HEADER_OFF, LoadFlag, SetupHeader, header_end

RELOCS = (0xC1000004, 0xC1000010)
PREFIX_LEN = 64
"""Code of the decompressor in front of the payload."""


def small_kernel() -> bytes:
    builder = ElfBuilder()
    builder.section(".text", 0xC1000000, bytes(range(64)), TEXT)
    builder.section(".data", 0xC1002000, b"data", DATA)
    builder.nobits(".bss", 0xC1004000, 0x100000)
    return builder.build()


KERNEL = small_kernel()
HEADER = SetupHeader(
    setup_sects=1,
    jump=0x6AEB,
    version=0x020F,
    loadflags=LoadFlag.LOADED_HIGH,
    payload_offset=PREFIX_LEN,
)


def bzimage(payload: bytes, **changes: int) -> bytes:
    """A file with `payload`; `changes` are header fields."""
    fields = {"payload_length": len(payload), "kernel_version": 0x90, **changes}
    full = replace(HEADER, **fields)
    setup = bytes(HEADER_OFF) + full.emit()
    setup = setup.ljust(0x290, b"\0") + b"6.1.0 (somebody)\0"
    return setup.ljust(full.code_off, b"\0") + bytes(PREFIX_LEN) + payload + bytes(100)


UNPACKED = KERNEL + emit_list(RELOCS)
LENGTH = len(UNPACKED).to_bytes(4, "little")
PACKED = {
    Compression.NONE: UNPACKED,
    Compression.GZIP: gzip.compress(UNPACKED),
    Compression.XZ: lzma.compress(UNPACKED, check=lzma.CHECK_CRC32) + LENGTH,
    Compression.BZIP2: bz2.compress(UNPACKED) + LENGTH,
    Compression.LZMA: lzma.compress(UNPACKED, format=lzma.FORMAT_ALONE) + LENGTH,
}


@pytest.mark.parametrize("compression", PACKED, ids=lambda c: c.label)
def test_kernel_and_list_come_out_of_every_supported_compression(compression: Compression) -> None:
    read = BzImage.parse(bzimage(PACKED[compression]))
    assert (read.compression, read.vmlinux, read.relocs) == (compression, KERNEL, RELOCS)
    assert read.version == "6.1.0 (somebody)"


def test_kernel_without_list_has_none() -> None:
    assert BzImage.parse(bzimage(gzip.compress(KERNEL))).relocs is None


def test_unknown_compression_shows_its_first_bytes() -> None:
    with pytest.raises(InputNotUnderstood, match="de ad be ef"):
        BzImage.parse(bzimage(b"\xde\xad\xbe\xef" * 9))


@pytest.mark.parametrize("compression", set(PACKED) - {Compression.NONE}, ids=lambda c: c.label)
def test_payload_that_ends_early_is_damaged(compression: Compression) -> None:
    with pytest.raises(MalformedImage, match="payload"):
        BzImage.parse(bzimage(PACKED[compression][:-40]))


def test_truncated_file_is_named_as_such() -> None:
    file = bzimage(PACKED[Compression.GZIP])
    with pytest.raises(MalformedImage, match="truncated"):
        BzImage.parse(file[:-120], "vmlinuz")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\xfc\xfa" + bytes(98), "is not an ELF file"),
        (b"\x7fELF\x02" + KERNEL[5:], "not a 32-bit little-endian one"),
    ],
)
def test_payload_that_is_not_our_elf_is_refused_for_what_it_is(
    payload: bytes, message: str
) -> None:
    with pytest.raises(InputNotUnderstood, match=message) as caught:
        BzImage.parse(bzimage(gzip.compress(payload)))
    assert not isinstance(caught.value, MalformedImage)
    assert caught.value.hint


def test_incomplete_kernel_is_damaged() -> None:
    with pytest.raises(MalformedImage, match="not complete"):
        BzImage.parse(bzimage(gzip.compress(KERNEL[:-4])))


def test_rest_that_is_no_list_is_damaged() -> None:
    with pytest.raises(MalformedImage, match="relocation list"):
        BzImage.parse(bzimage(gzip.compress(KERNEL + b"rest")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loadflags": 0}, "zImage"),
        ({"version": 0x0105}, "zImage"),
        ({"boot_flag": 0}, "damaged"),
        ({"payload_length": 0}, "says that there is no payload"),
        ({"version": 0x0207, "jump": 0x46EB}, r"protocol 2\.07"),
        ({"header": 0}, "not a bzImage"),
    ],
)
def test_header_that_cannot_be_used_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputNotUnderstood, match=message):
        BzImage.parse(bzimage(PACKED[Compression.GZIP], **changes))


def test_a_vmlinux_is_no_bzimage() -> None:
    assert not is_bzimage(KERNEL)
    assert is_bzimage(bzimage(b""))
    with pytest.raises(InputNotUnderstood, match="not a bzImage"):
        BzImage.parse(KERNEL)


@given(st.data())
def test_damage_anywhere_gives_an_error_of_ours_or_the_kernel(data: st.DataObject) -> None:
    file = bytearray(bzimage(PACKED[Compression.NONE]))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(file)), st.integers(0, len(file))))
    try:
        read = BzImage.parse(bytes(file[:length]))
    except VmipatchError as error:
        assert isinstance(error, InputNotUnderstood)
    else:
        assert len(read.vmlinux) <= length


@pytest.mark.parametrize(
    ("field", "offset", "length"),
    [
        ("setup_sects", 0x1F1, 1),
        ("syssize", 0x1F4, 4),
        ("boot_flag", 0x1FE, 2),
        ("loadflags", 0x211, 1),
        ("code32_start", 0x214, 4),
        ("cmd_line_ptr", 0x228, 4),
        ("initrd_addr_max", 0x22C, 4),
        ("kernel_alignment", 0x230, 4),
        ("relocatable_kernel", 0x234, 1),
        ("min_alignment", 0x235, 1),
        ("xloadflags", 0x236, 2),
        ("cmdline_size", 0x238, 4),
        ("payload_offset", 0x248, 4),
        ("payload_length", 0x24C, 4),
        ("setup_data", 0x250, 8),
        ("pref_address", 0x258, 8),
        ("init_size", 0x260, 4),
        ("kernel_info_offset", 0x268, 4),
    ],
)
def test_field_lies_where_the_boot_protocol_says(field: str, offset: int, length: int) -> None:
    clear, full = (replace(HEADER, **{field: value}) for value in (0, (1 << 8 * length) - 1))
    pairs = zip(clear.emit(), full.emit(), strict=True)
    differing = [HEADER_OFF + at for at, (a, b) in enumerate(pairs) if a != b]
    assert differing == list(range(offset, offset + length))


@given(st.sampled_from([0x0202, 0x0204, 0x0206, 0x0209, 0x020A, 0x020D, 0x020F]))
def test_header_reads_back_as_far_as_its_version_has_it(version: int) -> None:
    jump = 0xEB | (header_end(version) - 0x202) << 8
    header = SetupHeader(
        version=version, jump=jump, loadflags=1, init_size=7, payload_offset=9, code32_start=5
    )
    read = SetupHeader.parse((bytes(HEADER_OFF) + header.emit()).ljust(1024, b"\xff"))
    assert read.code32_start == 5
    assert read.payload_offset == (9 if version >= 0x0208 else 0)
    assert read.init_size == (7 if version >= 0x020A else 0)
