# SPDX-License-Identifier: MIT
"""What does `vmipatch rewrite` do with a bzImage and the vmlinux that is in it?"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.conftest import KernelFinder
from tests.image.test_bzimage import bzimage
from tests.recover.stripped import ship
from tests.rewrite.smallkernel import SmallKernel
from vmipatch.errors import ExitCode
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list, relocation_list
from vmipatch.image.relocations import Relocations


@pytest.fixture
def packed(guest: Path, tmp_path: Path) -> Path:
    """The guest in a bzImage, with the boot code of `vmipatch wrap`."""
    output = tmp_path / "bzImage"
    assert invoke("wrap", guest, "-o", output).returncode == ExitCode.SUCCESS
    return output


def test_bzimage_comes_out_with_its_kernel_rewritten(
    guest: Path, packed: Path, tmp_path: Path
) -> None:
    output, twin, log = tmp_path / "out", tmp_path / "vmlinux.vmi", tmp_path / "log"
    done = invoke(
        "rewrite", packed, "--debug", guest, "-o", output, "--vmlinux", twin, "--json", log
    )
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    report = validated(log.read_text(), "rewrite-1")
    assert report["bzimage"]["output_len"] == output.stat().st_size
    made = BzImage.parse(output.read_bytes())
    image = ElfImage.parse(twin.read_bytes())
    assert made.relocs == relocation_list(image, Relocations.of(image))
    inside = ElfImage.parse(made.vmlinux)
    for load, same in zip(inside.loads, image.loads, strict=True):
        bytes_inside = inside.data[load.off : load.off + load.file_len]
        assert bytes_inside == image.data[same.off : same.off + same.file_len]
    verified = invoke("verify", "--static", twin, "--original", guest)
    assert verified.returncode == ExitCode.SUCCESS, verified.stdout


def test_bzimage_with_our_own_boot_code_is_proven(
    guest: Path, packed: Path, tmp_path: Path
) -> None:
    output, back = tmp_path / "out", tmp_path / "back"
    assert invoke("rewrite", packed, "--debug", guest, "-o", output).returncode == ExitCode.SUCCESS
    done = invoke("verify", "--static", output, "--original", packed, "--debug", guest)
    assert done.returncode == ExitCode.SUCCESS, done.stdout
    assert "holds: proven from its bytes" in done.stdout
    assert invoke("restore", output, "-o", back).returncode == ExitCode.SUCCESS
    assert back.read_bytes() == BzImage.parse(packed.read_bytes()).vmlinux


def test_bzimage_is_booted_without_its_original(guest: Path, packed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert invoke("rewrite", packed, "--debug", guest, "-o", output).returncode == ExitCode.SUCCESS
    done = invoke("verify", "--quick", output)
    assert done.returncode == ExitCode.SUCCESS, done.stdout
    assert "holds as far as it was booted" in done.stdout
    assert "the boot code, the headers and the packing of the bzImage" in done.stdout


def test_every_part_of_a_bzimage_with_our_own_boot_code_is_proven(
    guest: Path, packed: Path, tmp_path: Path
) -> None:
    output, changed = tmp_path / "out", tmp_path / "changed"
    assert invoke("rewrite", packed, "--debug", guest, "-o", output).returncode == ExitCode.SUCCESS
    data = output.read_bytes()
    header = BzImage.parse(data).header
    code, payload = header.code_off, header.code_off + header.payload_offset
    for off in (0, 0x1F8, 0x258, 0x260, 0x300, code - 1, code, code + 0x40, payload + 4,
                payload + header.payload_length, len(data) - 1):  # fmt: skip
        changed.write_bytes(data[:off] + bytes((data[off] ^ 1,)) + data[off + 1 :])
        done = invoke("verify", "--static", changed, "--original", packed, "--debug", guest)
        assert done.returncode in (ExitCode.FINDINGS, ExitCode.INPUT), hex(off)


def test_boot_code_that_is_not_understood_is_replaced_and_reported(
    guest: Path, packed: Path, tmp_path: Path
) -> None:
    done = invoke("rewrite", packed, "--debug", guest, "-o", tmp_path / "out")
    assert "vmipatch's boot code" in done.stderr
    assert "lost: the kernel's own boot code" in done.stderr


def test_boot_code_that_must_stay_and_is_not_understood_is_an_error(
    guest: Path, packed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    done = invoke("rewrite", packed, "--debug", guest, "-o", output, "--boot-code", "keep")
    assert done.returncode == ExitCode.INPUT
    assert not output.exists()


def test_bzimage_without_relocation_list_is_refused_for_that_and_scanned(tmp_path: Path) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa fb f4 c3")
    inside, _ = ship(kernel)
    packed, output = tmp_path / "bzImage", tmp_path / "out"
    packed.write_bytes(bzimage(gzip.compress(inside.data)))
    done = invoke("rewrite", packed, "-o", output)
    assert done.returncode == ExitCode.INPUT
    assert "no relocations and no relocation list" in done.stderr
    assert "CONFIG_RELOCATABLE=y" in done.stderr
    assert not output.exists()
    counted = invoke("scan", packed)
    assert counted.returncode == ExitCode.SUCCESS, counted.stderr
    assert "sti+hlt" in counted.stdout


def test_vmlinux_of_another_build_is_refused(guest: Path, packed: Path, tmp_path: Path) -> None:
    image = ElfImage.parse(guest.read_bytes())
    other = bytearray(image.data)
    load = next(image.loads)
    other[load.off + load.file_len - 1] ^= 1
    debug, output = tmp_path / "other", tmp_path / "out"
    debug.write_bytes(other)
    done = invoke("rewrite", packed, "--debug", debug, "-o", output)
    assert done.returncode == ExitCode.INPUT
    assert f"not the kernel that {packed} holds" in done.stderr
    assert f"{load.va + load.file_len - 1:#x}" in done.stderr
    assert not output.exists()


def test_debug_is_for_bzimages_only(guest: Path, tmp_path: Path) -> None:
    done = invoke("rewrite", guest, "--debug", guest, "-o", tmp_path / "out")
    assert done.returncode == ExitCode.USAGE


@pytest.mark.kernels
def test_kernel_alone_is_proven_as_the_guide_says(kernel: KernelFinder, tmp_path: Path) -> None:
    """Of a bzImage, and of what such a file holds: an ELF file, the relocation list after it."""
    bzimage = kernel("tiny").with_name("bzImage")
    packed = BzImage.parse(bzimage.read_bytes())
    assert packed.relocs is not None
    unpacked, twin, output = (tmp_path / name for name in ("unpacked", "vmlinux.vmi", "out"))
    unpacked.write_bytes(packed.vmlinux + emit_list(packed.relocs))
    for original, command in (
        (bzimage, ("-o", output, "--vmlinux", twin)),
        (unpacked, ("-o", twin)),
    ):
        done = invoke("rewrite", original, *command)
        assert done.returncode == ExitCode.SUCCESS, done.stderr
        verified = invoke("verify", "--static", twin, "--original", original)
        assert verified.returncode == ExitCode.SUCCESS, verified.stdout
        assert "were recovered" in verified.stdout
        other = invoke("verify", "--static", twin, "--original", kernel("tiny"))
        assert other.returncode == ExitCode.FINDINGS, other.stdout
