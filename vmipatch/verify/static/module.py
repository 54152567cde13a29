# SPDX-License-Identifier: MIT
"""Is this module the original, laid out anew, and nothing else?

Both files are linked alike and compared as kernels are. What is linked for the comparison is what
any loader would link: `links` demands the relocations for it.
"""

from __future__ import annotations

import hashlib

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module
from vmipatch.isa.classify import classify
from vmipatch.isa.second import decode_second
from vmipatch.verify.static.check import check_static
from vmipatch.verify.static.manifest import SECTION as MANIFEST_SECTION
from vmipatch.verify.static.rules import NATIVE_UNLISTED, UNLOADED_CHANGED
from vmipatch.verify.static.verdict import Report, StaticVerdict


def check_module(original: bytes, output: bytes, name: str = "<bytes>") -> StaticVerdict:
    """Prove that `output` is the rewritten module `original`, or that nothing had to be done to it.

    Raises MalformedImage and MalformedTable for files that are no modules.
    """
    if (
        original == output
        and MANIFEST_SECTION not in Module.parse(output, name).file.section_by_name
    ):
        return _check_untouched(Module.parse(output, name).image)
    was, now = Module.parse(original, name), Module.parse(output, name)
    digest = hashlib.sha256(original).hexdigest()  # with its signature
    verdict = check_static(was.image, now.image, original_sha256=digest)
    if now.signature_len:
        report = Report(now.image.symbols.place_of)
        message = "a signature of other bytes stands behind the module"
        report.add(UNLOADED_CHANGED, 0, message, "end of the file")
        return _joined(verdict, report.verdict())
    return verdict


def _joined(first: StaticVerdict, second: StaticVerdict) -> StaticVerdict:
    return StaticVerdict(
        first.findings + second.findings, {**first.totals, **second.totals}, first.counts
    )


def _check_untouched(image: ElfImage) -> StaticVerdict:
    """A module without a record holds nothing that would be silently wrong at CPL 1."""
    report = Report(image.symbols.place_of)
    for section in image.executable_sections:
        code = image.section_bytes(section)
        labels = image.symbols.entries
        mine = labels["value"][labels["shndx"] == section.index].tolist()
        decoded = decode_second(code, section.va, sorted(set(mine)))
        report.counts["code bytes"] += len(code)
        report.counts["instructions"] += len(decoded)
        offs = (decoded.starts - section.va).tolist()
        for off, length in zip(offs, decoded.lens.tolist(), strict=True):
            form = classify(code[off : off + length])
            if form is not None and form.is_unprivileged:
                message = f"`{code[off : off + length].hex(' ')}` ({form.name}) has no record"
                report.add(NATIVE_UNLISTED, section.va + off, message)
    return report.verdict()
