# SPDX-License-Identifier: MIT
"""Which parts of a certificate does the page of a verdict show? What is left out, and hashes."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

from vmipatch.verify.html import code, table

HASHES: Final = {
    "output_sha256": "the file that was verified",
    "output_kernel_sha256": "the kernel in it",
    "input_sha256": "the original",
    "input_kernel_sha256": "the kernel in it",
    "input_references_sha256": "the file with its references",
    "rom_sha256": "the ROM of the boots",
}
"""Names of hashes in a certificate; one that repeats the hash of its file is left out."""


def not_done(certificate: Mapping[str, Any]) -> str:
    """Steps that were left out, and what no step covers."""
    rows = [[escape(each["what"]), code(each["how"])] for each in certificate["not_done"]]
    steps = table("Steps that were left out", ["step", "how to have it done"], rows)
    never = "".join(f"<li>{escape(text)}</li>\n" for text in certificate["never_covered"])
    note = "<p>No step covers:</p>\n"
    return f"{steps if rows else '<p>no step was left out</p>'}{note}<ul>\n{never}</ul>\n"


def provenance(certificate: Mapping[str, Any]) -> str:
    """Hashes of the files, and the versions that the verdict rests on."""
    seen: set[str] = set()
    rows = []
    for name, what in HASHES.items():
        digest = certificate.get(name)
        if digest is not None and digest not in seen:
            rows.append([escape(what), code(digest)])
            seen.add(digest)
    files = table("Files, by SHA-256", ["file", "SHA-256"], rows) if rows else ""
    return files + versions(certificate["tool"])


def versions(tool: Mapping[str, Any]) -> str:
    """The programs and libraries, a line each."""
    rows = [[escape(tool["name"]), code(tool["version"])]]
    for kind in ("decoders", "emulator"):
        rows += [[escape(name), code(version)] for name, version in tool[kind].items()]
    return table("Programs and libraries", ["name", "version"], rows)
