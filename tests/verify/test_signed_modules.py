# SPDX-License-Identifier: MIT
"""Are modules proven that were signed and packed after the rewrite? Are signatures named?"""

from __future__ import annotations

import gzip
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.files.samples import make_tree, module
from tests.support.signing import Signer
from vmipatch.errors import ExitCode, MalformedImage, NotSupported
from vmipatch.files.module import ModuleFile
from vmipatch.files.open import open_bytes
from vmipatch.image.packed import OPTIONS, pack, usual
from vmipatch.image.packing import Compression
from vmipatch.limits import Limit
from vmipatch.verify.static.module import check_module

AS_SIGN_FILE = ("-noattr", "-nocerts")
FORMS = {
    "as sign-file": AS_SIGN_FILE,
    "with its certificate": ("-noattr",),
    "with attributes": ("-nocerts",),
    "with all": (),
}
CHECKED = FORMS.keys() - {"as sign-file"}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pack(data, usual(Compression.ZSTD)),
}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.make(tmp_path_factory.mktemp("key"))


def opened(data: bytes) -> ModuleFile:
    file = open_bytes(data, "m.ko")
    assert isinstance(file, ModuleFile)
    return file


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_signed_module_is_proven_and_comes_back(form: str, packing: str, signer: Signer) -> None:
    made = opened(module()).rewrite()
    file = opened(PACKINGS[packing](signer.module(made.data, *FORMS[form])))
    done = file.verify(opened(module()))
    assert done.holds, done.verdict.findings
    (named,) = done.certificate()["signatures"]
    assert named["checked"] is (form in CHECKED)
    assert named["signer"].startswith("test key ")
    assert opened(file.data).restore().data == module()


def test_untouched_module_may_be_signed_anew(signer: Signer) -> None:
    plain = module("c3")
    old = signer.module(plain, *AS_SIGN_FILE)
    for original in (plain, old):
        for content in (plain, old):
            if original == plain and content == old:
                continue
            verdict = check_module(original, signer.module(content))
            assert verdict.holds, verdict.findings
            assert len(verdict.signatures) == 1


def test_signature_of_other_bytes_is_refused(signer: Signer) -> None:
    made = opened(module()).rewrite().data
    other = signer.module(made + b"\0")[len(made) + 1 :]
    assert {r.number for r in check_module(module(), made + other).totals} == {"VP146"}


def test_signature_of_the_original_is_refused(signer: Signer) -> None:
    original = signer.module(module(), *AS_SIGN_FILE)
    made = opened(original).rewrite().data
    stale = original[len(module()) :]
    assert {r.number for r in check_module(original, made + stale).totals} == {"VP146"}


@pytest.mark.parametrize("off", [-1, -29, -33, -36, -40])
def test_damaged_trailer_is_refused(off: int, signer: Signer) -> None:
    made = signer.module(opened(module()).rewrite().data)
    data = bytearray(made)
    data[off] ^= 0x55
    try:
        assert not check_module(module(), bytes(data)).holds
    except MalformedImage:
        assert off == -29  # the signature would be longer than the file


def test_value_that_its_key_did_not_make_is_refused(signer: Signer) -> None:
    made = opened(module()).rewrite().data
    data = bytearray(signer.module(made))
    data[-50] ^= 1
    assert {r.number for r in check_module(module(), bytes(data)).totals} == {"VP146"}


def test_changed_module_under_a_new_signature_is_refuted(signer: Signer) -> None:
    data = bytearray(opened(module()).rewrite().data)
    at = data.index(b"\x3e\x3e\x3e\x3e\xfa")
    data[at + 4] = 0xFB
    assert not check_module(module(), signer.module(bytes(data))).holds


@pytest.mark.parametrize("packing", PACKINGS)
def test_signed_and_packed_tree_is_proven(packing: str, signer: Signer, tmp_path: Path) -> None:
    original, tree, paper = make_tree(tmp_path / "was"), tmp_path / "now", tmp_path / "paper"
    assert invoke("rewrite", original, "-o", tree).returncode == ExitCode.SUCCESS
    for path in sorted(tree.rglob("*.ko")):
        data = signer.module(path.read_bytes(), *AS_SIGN_FILE)
        path.unlink()
        path.with_name(path.name + packing).write_bytes(PACKINGS[packing](data))
    done = invoke("verify", tree, "--original", original, "--certificate", paper)
    assert done.returncode == ExitCode.SUCCESS, done.stdout + done.stderr
    certificate = validated(paper.read_text(), "tree-certificate-1")
    signed = [row for row in certificate["modules"] if row["signatures"]]
    assert len(signed) == 2
    back = tmp_path / "back"
    assert invoke("restore", tree, "-o", back).returncode == ExitCode.SUCCESS
    for name in ("kernel/site.ko", "kernel/packed.ko.xz", "modules.order"):
        assert (back / name).read_bytes() == (original / name).read_bytes()


def test_module_that_is_there_packed_and_unpacked_is_refuted(tmp_path: Path) -> None:
    original, tree = make_tree(tmp_path / "was"), tmp_path / "now"
    assert invoke("rewrite", original, "-o", tree).returncode == ExitCode.SUCCESS
    path = tree / "kernel" / "site.ko"
    shutil.copy(path, path.with_name("site.ko.xz"))
    done = invoke("verify", tree, "--original", original)
    assert done.returncode == ExitCode.FINDINGS


def test_every_packing_of_modules_is_tried() -> None:
    assert {f".{c.label}"[:3] for c in OPTIONS} == {suffix[:3] for suffix in PACKINGS if suffix}


def frame(content: bytes) -> bytes:
    """A frame that decoders of zstd skip (RFC 8878, section 3.1.2)."""
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize(
    ("packing", "after"),
    [
        (".gz", b"anything"),
        (".gz", gzip.compress(b"anything", mtime=0)),
        (".xz", lzma.compress(b"anything")),
        (".xz", bytes(5)),
        (".zst", frame(b"anything")),
        (".zst", b"anything"),
    ],
    ids=("gz", "gz twice", "xz twice", "xz, half its padding", "zst, a frame to skip", "zst"),
)
def test_packed_module_that_something_follows_is_not_read(packing: str, after: bytes) -> None:
    """kmod would read another stream as a part of the module, the kernel would not."""
    packed = PACKINGS[packing](opened(module()).rewrite().data)
    assert opened(packed).verify(opened(module())).holds
    with pytest.raises(NotSupported, match=f"{len(after)} bytes follow the") as caught:
        opened(packed + after).verify(opened(module()))
    assert caught.value.limit is Limit.AFTER_STREAM


def test_padding_after_an_xz_stream_is_a_part_of_the_format() -> None:
    packed = lzma.compress(opened(module()).rewrite().data)
    assert opened(packed + bytes(8)).verify(opened(module())).holds
