# SPDX-License-Identifier: MIT
"""What does a report of a bug need of a kernel, and nothing private? One file to send.

A bundle has headers, tables as places and counts, sites, versions, and what was found; no bytes of
the kernel but those of setup header, ELF headers and sensitive instructions, no path, no name of
a builder or signer, and no name of a symbol unless it was asked for. It is an archive of
plain text that a user can read before it leaves the house; the same kernel gives the same bytes on
the same installation.
"""

from __future__ import annotations

import gzip
import io
import json
import platform
import re
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Final

from vmipatch import __version__
from vmipatch.files.diagnosis import SCHEMA, Diagnosis
from vmipatch.files.kernel import KernelFile
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader, header_end
from vmipatch.image.symbols import STT_SECTION

NAME: Final = "vmipatch-bundle"
"""The directory in the archive."""
HIDDEN: Final = "(left out)"
_WORD: Final = re.compile(r"[A-Za-z_.$][\w.$]*")
_OPENING: Final = """\
What `vmipatch doctor --bundle` packed for a report of a bug. All of it is text; read it.

versions.json    vmipatch, Python, the libraries, the kind of processor
doctor.json      what the screen said, without names of files, builders and signers
headers.json     setup header, ELF header, segments, sections, tables
sites.json       each sensitive instruction: address, bytes, what becomes of it and why
"""
_WITH_NAMES: Final = (
    "symbols.json     every symbol: address, size, kind, name (--names asked for it)\n"
)
_WITHOUT_NAMES: Final = "Names of symbols are left out; --names packs them, too.\n"


def bundle(found: Diagnosis, *, names: bool = False) -> bytes:
    """The archive (tar, packed by gzip) about what was found; with `names`, those of symbols."""
    hide = _keep if names else _hider(found.image)
    files = {
        "README.txt": (_OPENING + (_WITH_NAMES if names else _WITHOUT_NAMES)).encode(),
        "versions.json": _json(versions()),
        "doctor.json": _json({"schema": SCHEMA, "vmipatch": __version__, **_doctor(found, hide)}),
        "headers.json": _json(_headers(found)),
        "sites.json": _json(_sites(found)),
    }
    if names and found.image is not None:
        files["symbols.json"] = _json(_symbols(found.image))
    return _archive(files)


def versions() -> dict[str, Any]:
    """The platform: versions of libraries, kind of processor; nothing of this host."""
    return {
        "vmipatch": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 1 << 32 else 32,
        "libraries": {name: _version(name) for name in _libraries()},
    }


def _libraries() -> list[str]:
    """Names of what vmipatch may import, by its own package data; numpy if that is missing."""
    try:
        wanted = requires("vmipatch") or []
    except PackageNotFoundError:
        wanted = ["numpy"]
    found = (re.match(r"[\w.-]+", each) for each in wanted if "extra == 'dev'" not in each)
    return sorted({match[0] for match in found if match and match[0] != "vmipatch"})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _doctor(found: Diagnosis, hide: Callable[[str], str]) -> dict[str, Any]:
    """The report without what is private."""
    report = found.report()
    report["kernel"] = HIDDEN
    report["signature"]["signer"] = HIDDEN
    report["lost"] = [hide(each) for each in report["lost"]]
    report["tables_not_understood"] = [hide(each) for each in report["tables_not_understood"]]
    if (refusal := report["refusal"]) is not None:
        for key in ("message", "place", "hint"):
            text = (refusal[key] or "").replace(found.file.name, HIDDEN)
            refusal[key] = hide(text) if key != "hint" else text
    return report


def _hider(image: ElfImage | None) -> Callable[[str], str]:
    """A function that puts addresses in the places of names of symbols."""
    table = {} if image is None else image.symbols.by_name
    sections = set() if image is None else set(image.section_by_name)

    def instead(match: re.Match[str]) -> str:
        symbol = None if match[0] in sections else table.get(match[0])
        return match[0] if symbol is None else f"symbol@{symbol.va:#x}"

    return lambda text: _WORD.sub(instead, text)


def _keep(text: str) -> str:
    return text


def _headers(found: Diagnosis) -> dict[str, Any]:
    result: dict[str, Any] = {"kind": found.file.kind.value, "setup": None, "elf": None}
    if isinstance(found.file, KernelFile) and found.boot is not None:
        result["setup"] = _setup(found.file.data, found.file.name)
    images = [("elf", found.image)]
    if isinstance(found.file, KernelFile) and found.boot is not None and found.boot.compression:
        images.append(("payload", found.file.image))
    for key, image in images:
        if image is not None:
            result[key] = _elf(image)
    return result


def _setup(data: bytes, name: str) -> dict[str, Any]:
    """The setup header's bytes; a boot loader's command line is elsewhere."""
    header = SetupHeader.parse(data, name)
    return {"offset": HEADER_OFF, "bytes": data[HEADER_OFF : header_end(header.version)].hex()}


def _elf(image: ElfImage) -> dict[str, Any]:
    """Header, segments and sections of an ELF file."""
    return {
        "header": image.data[:52].hex(),
        "segments": [
            {"kind": s.kind.name, "off": s.off, "va": s.va, "pa": s.pa, "file_len": s.file_len,
             "mem_len": s.mem_len, "flags": s.flags, "align": s.align}
            for s in image.segments
        ],
        "sections": [
            {"name": s.name, "kind": s.kind.name, "flags": int(s.flags), "va": s.va, "off": s.off,
             "size": s.size, "link": s.link, "info": s.info, "align": s.align,
             "entry_len": s.entry_len}
            for s in image.sections
        ],
    }  # fmt: skip


def _sites(found: Diagnosis) -> list[dict[str, Any]]:
    """Each site as `scan` reports it, without its symbol."""
    if found.census is None:
        return []
    sites: list[dict[str, Any]] = found.census.report()["sites"]
    for site in sites:
        del site["symbol"]
    return sites


def _symbols(image: ElfImage) -> list[dict[str, Any]]:
    return [
        {"va": s.va, "size": s.size, "kind": s.kind, "section": s.section, "name": s.name}
        for s in image.symbols
        if s.name and s.kind != STT_SECTION
    ]


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _archive(files: dict[str, bytes]) -> bytes:
    """A tar file without times, owners and hosts, packed."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)
