# SPDX-License-Identifier: MIT
"""What do the texts in a file do: manifests, recipes, names? Each may be anyone's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import COMMAND, ENVIRONMENT, Done, invoke, validated
from tests.files.samples import make_tree
from tests.rewrite.smallkernel import SmallKernel
from tests.support.elfbuilder import RODATA
from tests.support.smallmodule import SmallModule
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe, is_known
from vmipatch.restore import module as restore_module
from vmipatch.restore.recipe import recipe_from, recipe_text
from vmipatch.rewrite import rewrite

NESTED = {"brackets": b"[", "braces": b'{"a":', "both": b'[{"a":'}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A kernel with a trampoline's worth of sites, and the same rewritten."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 9c 58 0f22d8 0f0110 fb c3")
    kernel.text.function("after", "c3", filler=b"\xcc")
    directory = tmp_path_factory.mktemp("pair")
    original, output = directory / "first-file", directory / "output"
    original.write_bytes(kernel.build())
    output.write_bytes(rewrite(kernel.image()).data)
    return original, output


def with_long_manifest(path: Path, content: bytes) -> bytes:
    """The file with a manifest of any length, at its end."""
    image = ElfImage.parse(path.read_bytes())
    section = image.section_by_name[".vmi.manifest"]
    data = bytearray(image.data)
    head = int.from_bytes(data[32:36], "little") + 40 * section.index
    data[head + 16 : head + 24] = len(data).to_bytes(4, "little") + len(content).to_bytes(
        4, "little"
    )
    return bytes(data) + content


def assert_one_error(done: Done, code: int = ExitCode.INPUT) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "internal" not in done.stderr


@pytest.mark.parametrize("opening", NESTED.values(), ids=NESTED)
def test_nested_manifest_is_one_clear_error(
    opening: bytes, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    original, output = pair
    bad = tmp_path / "bad"
    bad.write_bytes(with_long_manifest(output, opening * 200_000))
    assert_one_error(invoke("verify", bad))
    proven = invoke("verify", "--static", bad, "--original", original)
    assert proven.returncode in (ExitCode.FINDINGS, ExitCode.INPUT)
    assert "internal" not in proven.stderr
    assert str(original) not in proven.stderr


@pytest.mark.parametrize("opening", NESTED.values(), ids=NESTED)
def test_nested_recipe_is_one_clear_error(
    opening: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallModule()
    small.section(".text").function("f", "fa c3")
    (tmp_path / "m.ko").write_bytes(small.build())
    monkeypatch.setattr(restore_module, "recipe_text", lambda _: opening * 10_000)
    assert invoke("rewrite", tmp_path / "m.ko", "-o", tmp_path / "out.ko").returncode == 0
    assert_one_error(invoke("restore", tmp_path / "out.ko", "-o", tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("compression", "options"),
    [
        (Compression.ZSTD, "-3 -o /etc/motd --force"),
        (Compression.ZSTD, "-3 --ultra --memory=99999999"),
        (Compression.GZIP, "-n -9 --keep /etc/passwd"),
        (Compression.LZ4, "-l -9 -f /etc/passwd"),
        (Compression.XZ, "--check=crc32 --lzma2=preset=6,dict=999MiB"),
        (Compression.XZ, "--check=sha256 --lzma2=preset=6,dict=1MiB"),
        (Compression.XZ, "--check=crc32 --lzma2=preset=6,dict=0MiB"),
        (Compression.BZIP2, "-9\n"),
        (Compression.LZMA, ""),
    ],
)
def test_options_of_a_recipe_are_vmipatchs_own(compression: Compression, options: str) -> None:
    """They go to a program, which would write where they say."""
    for maker in Packer:
        recipe = Recipe(compression, maker, options)
        assert not is_known(recipe)
        with pytest.raises(ValueError, match="no recipe of ours"):
            recipe_from(recipe_text(recipe))


def test_header_of_a_recipe_is_lzops() -> None:
    for header in (b"", b"\x89LZO", b"x" * 40):
        assert not is_known(Recipe(Compression.LZO, Packer.PROGRAM, "-9", header))
    assert not is_known(Recipe(Compression.GZIP, Packer.PROGRAM, "-n", b"x"))


VERDICTS = (ExitCode.SUCCESS, ExitCode.FINDINGS, ExitCode.INPUT)
WORDS = (0, 1, -1, 4095, 4096, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 64, 0xC1000000, 0xC1000001)


def spoilt(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The manifest with one claim replaced by a claim about anything."""
    result: dict[str, Any] = json.loads(json.dumps(manifest))

    def word() -> int:
        return rng.choice((*WORDS, rng.getrandbits(32), 0xC1000000 + rng.getrandbits(15)))

    match rng.choice(("trampolines", "redirect", "native", "shift", "any")):
        case "trampolines":
            result["trampolines"] = [[word() for _ in range(4)] for _ in range(rng.randrange(1, 4))]
        case "redirect":
            result["redirect"] += [[word(), word()]]
        case "native":
            row = {"va": word(), "kind": "lgdt", "disposition": "native-trapping", "reason": "x"}
            result["native"] += [row]
        case "shift":
            result["mode"], result["shift_len"] = rng.choice(("shift", "absorb")), word()
        case "any":
            result[rng.choice(sorted(result))] = rng.choice((None, [], {}, "x", 1e308, word()))
    return result


def test_no_manifest_makes_the_original_a_damaged_file(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    original, output = pair
    image = ElfImage.parse(output.read_bytes())
    raw = image.section_bytes(image.section_by_name[".vmi.manifest"])
    manifest = json.loads(raw.rstrip(b"\0"))
    bad = tmp_path / "bad"
    for seed in range(120):
        content = json.dumps(spoilt(manifest, random.Random(seed))).encode()
        bad.write_bytes(with_long_manifest(output, content))
        done = invoke("verify", "--static", bad, "--original", original)
        assert done.returncode in VERDICTS, (seed, content, done.stderr)
        assert f"{original}:" not in done.stderr, (seed, content, done.stderr)


CONTROLS = {
    "escape": "\x1b[31mred\x1b[0m",
    "bell": "a\x07b",
    "carriage return": "good\rbad",
    "new line": "a\nvmipatch: all is well",
    "C1": "a\x9b31mb",
    "right to left": "a\u202etxt.ok",
    "line separator": "a\u2028b",
    "delete": "a\x7fb",
}


CONTROLLING = ("Cc", "Cf", "Zl", "Zp")


def raw_controls(text: str) -> list[str]:
    """The characters that a terminal would obey, but for new lines and tabs."""
    return [
        c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t"
    ]


def named(name: str) -> Iterator[tuple[str, bytes]]:
    """A kernel and a module with that name for a symbol and for a section."""
    kernel = SmallKernel()
    kernel.text.function(name, "fa 9c 58 0f0110 0fff c3")
    kernel.text.function("after", "c3", filler=b"\xcc")
    kernel.block(name, 0xC1010000, RODATA).put(b"1234")
    yield "vmlinux", kernel.build()
    kernel = SmallKernel()
    kernel.text.function(name, "fa 9c 58 0f0110 c3")
    kernel.text.function("after", "c3", filler=b"\xcc")
    yield "good", kernel.build()
    small = SmallModule()
    small.section(".text").function(name, "fa 9c 0f0110 c3")
    yield "m.ko", small.build()


@pytest.mark.parametrize("what", CONTROLS)
def test_names_in_files_are_shown_escaped(what: str, tmp_path: Path) -> None:
    name = CONTROLS[what]
    for file, data in named(name):
        path, out, page = tmp_path / file, tmp_path / "out", tmp_path / "page"
        path.write_bytes(data)
        done = [invoke("scan", path), invoke("rewrite", path, "-o", out, "-v")]
        if out.exists():
            spoilt_out = tmp_path / "spoilt"
            spoilt_out.write_bytes(out.read_bytes().replace(b"\xfa", b"\xfb"))
            done.append(
                invoke("verify", "--static", spoilt_out, "--original", path, "--report", page)
            )
            out.unlink()
        texts = [text for each in done for text in (each.stdout, each.stderr)]
        texts.append(page.read_text() if page.exists() else "")
        for text in texts:
            assert not raw_controls(text), text
            assert not [line for line in text.splitlines() if line.startswith("vmipatch: all is")]


@pytest.mark.parametrize("what", CONTROLS)
def test_names_of_files_are_shown_escaped(what: str, tmp_path: Path) -> None:
    path = tmp_path / CONTROLS[what]
    for make in (lambda: None, lambda: path.write_bytes(b"\x7fELF")):
        make()
        for arguments in (
            ("scan", path), ("rewrite", path, "-o", tmp_path / "o"), ("verify", path),
            ("restore", path, "-o", tmp_path / "o"), ("run", path), ("wrap", path, "-o", path),
            ("verify", tmp_path / "o", "--original", path), (path,), ("explain", path),
            ("scan", tmp_path, f"--{path}"), ("rom", "-o", path / "x"),
        ):  # fmt: skip
            done = invoke(*arguments)
            assert done.returncode
            assert not raw_controls(done.stdout + done.stderr), (arguments, done)


def run(*arguments: str | bytes | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """A command with names that need not be text, as a process of its own."""
    words = [os.fsencode(word) for word in (*COMMAND, *arguments)]
    return subprocess.run(words, capture_output=True, check=False, cwd=cwd, env=ENVIRONMENT)


def test_names_that_are_not_text_go_everywhere(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, _ = pair
    kernel, output, log = b"k\xff\xfe", b"out\x80", b"log\xc3"
    (tmp_path / os.fsdecode(kernel)).write_bytes(original.read_bytes())
    jobs: list[tuple[str | bytes, ...]] = [
        ("scan", kernel, "--json", log),
        ("scan", kernel, "--json", "-"),
        ("rewrite", kernel, "-o", output, "--json", log, "--system-map", b"map\xff",
         "--address-map", b"addresses\xff"),
        ("verify", "--static", output, "--original", kernel, "--json", log, "--report", b"page\xff",
         "--certificate", b"paper\xff", "--sarif", b"sarif\xff"),
        ("verify", "--static", output, "--original", kernel, "--json", "-"),
        ("restore", output, "-o", b"back\xff", "--json", log),
        ("wrap", output, "-o", b"image\xff", "--json", log),
        ("rom", "-o", b"rom\xff", "--json", log),
    ]  # fmt: skip
    for arguments in jobs:
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
        text = done.stdout if "-" in arguments else (tmp_path / os.fsdecode(log)).read_bytes()
        schema = json.loads(text)["schema"].removeprefix("vmipatch.").replace("/", "-")
        validated(text.decode(), schema)
    back = (tmp_path / os.fsdecode(b"back\xff")).read_bytes()
    assert back == original.read_bytes()
    missing = run("verify", b"none\xff", cwd=tmp_path)
    assert missing.returncode in (ExitCode.ENVIRONMENT, ExitCode.USAGE)
    assert b"\\udcff" in missing.stderr


def test_trees_with_names_that_are_not_text_go_everywhere(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / os.fsdecode(b"tree\xff"))
    os.rename(tree / "kernel" / "site.ko", os.fsencode(tree) + b"/kernel/s\xe4te.ko")
    for arguments in (
        ("scan", b"tree\xff", "--json", "log"),
        ("rewrite", b"tree\xff", "-o", b"out\xff", "--json", "log"),
        ("verify", b"out\xff", "--original", b"tree\xff", "--json", "log", "--report", "page",
         "--certificate", "paper", "--sarif", "sarif"),
        ("restore", b"out\xff", "-o", b"back\xff", "--json", "log"),
    ):  # fmt: skip
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
        json.loads((tmp_path / "log").read_bytes())


@pytest.mark.parametrize("kind", ["kernel", "module", "tree"])
def test_reports_never_take_the_place_of_an_input(
    kind: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    subject = tmp_path / "subject"
    if kind == "kernel":
        subject.write_bytes(pair[0].read_bytes())
    elif kind == "module":
        small = SmallModule()
        small.section(".text").function("f", "fa c3")
        subject.write_bytes(small.build())
    else:
        make_tree(subject)
    inside = subject if kind != "tree" else subject / "kernel" / "site.ko"
    before, out = inside.read_bytes(), tmp_path / "out"
    assert invoke("rewrite", subject, "-o", out).returncode == 0
    output = out if kind != "tree" else out / "kernel" / "site.ko"
    after = output.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(inside)
    how = () if kind != "kernel" else ("--static",)
    for target in (inside, link, output):
        for inputs, arguments in (
            ((inside,), ("scan", subject, "--json", target)),
            ((inside,), ("rewrite", subject, "-o", tmp_path / "other", "--json", target)),
            ((inside, output), ("verify", *how, out, "--original", subject, "--json", target)),
            ((inside, output), ("verify", *how, out, "--original", subject, "--sarif", target)),
            ((inside, output), ("verify", *how, out, "--original", subject, "--report", target)),
            ((output,), ("restore", out, "-o", tmp_path / "back", "--json", target)),
        ):
            done = invoke(*arguments)
            for path, content in ((inside, before), (output, after)):
                assert path not in inputs or path.read_bytes() == content, arguments
                path.write_bytes(content)
            assert "internal" not in done.stderr
