# SPDX-License-Identifier: MIT
"""Is what a build leaves beside a vmlinux found, named where it lacks, and refused if foreign?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recover.taken_out import without_relocations
from tests.recover.test_complete import small
from tests.rewrite.smallkernel import SmallKernel
from vmipatch.choices import BootCodeChoice
from vmipatch.errors import InputNotUnderstood
from vmipatch.files.beside import LIST, UNSTRIPPED
from vmipatch.files.kernel import KernelFile
from vmipatch.files.open import open_bytes, open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.wrap import wrap
from vmipatch.restore import restore
from vmipatch.verify.static import check_static


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A directory with a vmlinux whose relocations were taken out."""
    data, _ = without_relocations(small())
    (tmp_path / "vmlinux").write_bytes(data)
    return tmp_path


def put_list(build: Path) -> None:
    _, relocs = without_relocations(small())
    (build / LIST).parent.mkdir(parents=True)
    (build / LIST).write_bytes(emit_list(relocs))


def check_rewritten(vmlinux: Path, *, is_recovered: bool) -> None:
    """It is rewritten, proven against what is beside it, and comes back."""
    file = open_kernel(vmlinux)
    done = file.rewrite()
    assert done.is_recovered is is_recovered
    image = ElfImage.parse(done.data)
    linked = file.linked
    assert check_static(linked.image, image, linked.fixed).findings == ()
    assert restore(image).data == vmlinux.read_bytes()


def test_file_with_relocations_beside_it_is_taken(build: Path) -> None:
    (build / UNSTRIPPED).write_bytes(small().build())
    put_list(build)
    check_rewritten(build / "vmlinux", is_recovered=False)


def test_list_below_it_is_taken(build: Path) -> None:
    put_list(build)
    check_rewritten(build / "vmlinux", is_recovered=True)


@pytest.mark.parametrize("name", ["vmlinux", "vmlinux-6.12.9"])
@pytest.mark.parametrize("beside", ["vmlinux.relocs", "NAME.relocs", "NAME.unstripped"])
def test_files_that_were_copied_together_are_found(name: str, beside: str, build: Path) -> None:
    (build / "vmlinux").rename(build / name)
    _, relocs = without_relocations(small())
    is_list = beside.endswith(".relocs")
    data = emit_list(relocs) if is_list else small().build()
    (build / beside.replace("NAME", name)).write_bytes(data)
    check_rewritten(build / name, is_recovered=is_list)


def test_file_of_another_kernel_beside_it_is_refused(build: Path) -> None:
    other = small()
    other.text.function("more", "90 c3")
    (build / UNSTRIPPED).write_bytes(other.build())
    with pytest.raises(InputNotUnderstood, match="not the kernel that"):
        open_kernel(build / "vmlinux").rewrite()


def test_what_is_wanted_is_named_where_nothing_is_there(build: Path) -> None:
    with pytest.raises(InputNotUnderstood) as caught:
        open_kernel(build / "vmlinux").rewrite()
    assert UNSTRIPPED in str(caught.value.hint)
    assert LIST in str(caught.value.hint)


def test_bytes_of_no_file_have_nothing_beside_them(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_list(build)
    monkeypatch.chdir(build)
    file = open_bytes((build / "vmlinux").read_bytes(), "vmlinux")
    assert isinstance(file, KernelFile)
    with pytest.raises(InputNotUnderstood, match="no relocations"):
        file.rewrite()


def bzimage(kernel: SmallKernel, path: Path) -> KernelFile:
    _, relocs = without_relocations(kernel)
    path.write_bytes(wrap(kernel.image(), relocs))
    return open_kernel(path)


def test_debug_twin_without_relocations_is_completed_by_the_bzimage(build: Path) -> None:
    packed = bzimage(small(), build / "bzImage")
    debug = open_kernel(build / "vmlinux")
    done = packed.rewrite(debug=debug, boot_code=BootCodeChoice.OWN)
    assert done.is_recovered
    assert ElfImage.parse(done.vmlinux).symbols.address("reads") is not None


def test_file_with_relocations_beside_the_debug_twin_is_taken(build: Path) -> None:
    (build / UNSTRIPPED).write_bytes(small().build())
    packed = bzimage(small(), build / "bzImage")
    debug = open_kernel(build / "vmlinux")
    assert not packed.rewrite(debug=debug, boot_code=BootCodeChoice.OWN).is_recovered


def test_debug_twin_of_another_kernel_is_refused_with_or_without_relocations(build: Path) -> None:
    other = small()
    other.text.function("more", "90 c3")
    packed = bzimage(other, build / "bzImage")
    with pytest.raises(InputNotUnderstood, match="not the kernel that"):
        packed.rewrite(debug=open_kernel(build / "vmlinux"))
