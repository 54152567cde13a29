# SPDX-License-Identifier: MIT
"""What is not rewritten, and is what is rewritten the same bytes each time?"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rewrite.smallkernel import TEXT_VA, Distance, Part, SmallKernel, Word
from tests.rewrite.test_sections import full_kernel
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.choices import Padding
from vmipatch.errors import ExitCode, InputNotUnderstood, MalformedImage
from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.symbols import STT_FUNC
from vmipatch.rewrite import plan, rewrite
from vmipatch.rewrite.fixed import Crowded

ROOT = Path(__file__).parents[2]


def test_rewritten_kernel_is_refused() -> None:
    done = full_kernel(room=True).rewrite()
    with pytest.raises(InputNotUnderstood, match="rewritten already") as caught:
        rewrite(done.image)
    assert caught.value.exit_code is ExitCode.INPUT
    assert (caught.value.file, caught.value.place) == ("rewritten", ".vmi.annotation")
    assert caught.value.hint


def test_kernel_without_relocations_is_refused() -> None:
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA, b"\xfa\xc3", TEXT)
    builder.symbol("f", TEXT_VA, size=2, kind=2)
    with pytest.raises(InputNotUnderstood, match=r"no \.rel\.text section") as caught:
        rewrite(builder.image("stripped"))
    assert caught.value.file == "stripped"
    assert "--emit-relocs" in caught.value.hint


def test_kernel_without_code_is_refused() -> None:
    builder = ElfBuilder()
    builder.section(".data", TEXT_VA, bytes(8))
    with pytest.raises(InputNotUnderstood, match=r"no \.text section"):
        rewrite(builder.image())


@pytest.mark.parametrize("size", (8, 0))
def test_sections_that_share_memory_are_refused(size: int) -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    kernel.writable().put(bytes(8))
    image = kernel.image()
    text, section = (image.section_by_name[name] for name in (".text", ".data"))
    (headers_off,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    header_off = headers_off + SECTION_HEADER_LEN * section.index
    data = bytearray(image.data)
    struct.pack_into("<3I", data, header_off + 12, text.end_va - 4, section.off, size)
    with pytest.raises(MalformedImage, match=r"shares memory with section \.text") as caught:
        rewrite(ElfImage.parse(bytes(data), "overlapping"))
    assert caught.value.place == f"section {section.index} (.data)"


@pytest.mark.parametrize(
    ("size", "where"), ((2, "inside of an instruction"), (0xFFFFFFF8, r"beyond \.text"))
)
def test_function_that_ends_nowhere_is_refused(size: int, where: str) -> None:
    kernel = SmallKernel()
    start_va = kernel.text.function("f", "b801000000 c3")
    kernel.labels["f"] = (start_va, STT_FUNC, size)
    with pytest.raises(MalformedImage, match=f"symbol f ends {where}"):
        kernel.rewrite()


def test_code_without_room_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving sites native would go on for ever if none of them is what has no room."""
    kernel = SmallKernel()
    start_va = kernel.text.function("f", "fa c3")

    def crowded(*_: object) -> None:
        raise Crowded(frozenset({start_va + 1}))

    monkeypatch.setattr(plan, "place", crowded)
    with pytest.raises(InputNotUnderstood, match="no room") as caught:
        kernel.rewrite()
    assert caught.value.place == f"{start_va + 1:#x}"


UNCLEAR: dict[str, tuple[str, tuple[Part, ...]]] = {
    "branch into an instruction": ("into the middle", ("fa eb01 b8 01000000 c3",)),
    "dead branch into an instruction": ("into the middle", ("fa c3 7c01 b8 01000000",)),
    "word over two instructions": ("not an operand", ("fa b8 0000", Word("f"), "c3")),
    "word in filler": ("not an operand", ("fa c3 0f1f80", Word("f"), "c3")),
    "distance in no branch": ("not an operand", ("fa 68", Distance("f", -4), "58 c3")),
    "branch out of the kernel": ("leads out of the kernel", ("fa e9 00000060 c3",)),
    "ud0, which decoders measure differently": ("not an instruction", ("fa 0fff c0 c3",)),
}
"""Functions that no build makes, and what is said of them."""


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_nobody_can_lead_is_refused(name: str) -> None:
    expected, code = UNCLEAR[name]
    kernel = SmallKernel()
    kernel.text.function("f", *code)
    with pytest.raises(InputNotUnderstood, match=expected) as caught:
        kernel.rewrite()
    assert caught.value.place
    assert caught.value.hint and "damaged" not in caught.value.hint


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("room", [True, False], ids=["absorb", "shift"])
def test_equal_input_gives_equal_bytes(room: bool, padding: Padding) -> None:
    first, second = (full_kernel(room=room).rewrite(padding) for _ in range(2))
    assert first.done.data == second.done.data


def test_padding_changes_the_bytes() -> None:
    kernels = {padding: full_kernel(room=True).rewrite(padding) for padding in Padding}
    assert kernels[Padding.PREFIX].done.data != kernels[Padding.NOP].done.data


def test_hash_order_does_not_reach_the_output(tmp_path: Path) -> None:
    source = tmp_path / "vmlinux"
    source.write_bytes(full_kernel(room=False).build())
    digests = {digest_in_process(source, seed) for seed in ("0", "1", "4242")}
    expected = rewrite(ElfImage.parse(source.read_bytes(), source.name)).data
    assert digests == {hashlib.sha256(expected).hexdigest()}


DIGEST = """
import hashlib, sys
from pathlib import Path
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
source = Path(sys.argv[1])
data = rewrite(ElfImage.parse(source.read_bytes(), source.name)).data
print(hashlib.sha256(data).hexdigest())
"""


def digest_in_process(source: Path, seed: str) -> str:
    """Digest of the rewritten `source`, made by a fresh interpreter with this hash seed."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DIGEST, str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_output_does_not_know_how_its_input_was_called() -> None:
    data = full_kernel(room=True).build()
    one, other = (rewrite(ElfImage.parse(data, name)).data for name in ("one", "other"))
    assert one == other


def test_kernel_without_sites_is_rewritten_to_itself() -> None:
    """But for the added sections: every function is where it was."""
    kernel = SmallKernel()
    kernel.text.function("f", "40 c3")
    kernel.rodata().put(Word("f"))
    done = kernel.rewrite()
    assert not done.done.sites
    names = ("startup_32", "behind_head", "f")
    assert [done.code(name, 2) for name in names] == [
        kernel.image().read(kernel.va(name), 2) for name in names
    ]
