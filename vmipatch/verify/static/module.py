# SPDX-License-Identifier: MIT
"""Is this module the original, laid out anew, and nothing else?

Both files are linked alike and compared as kernels are. What is linked for the comparison is what
any loader would link: `links` demands the relocations for it.
"""

from __future__ import annotations

import hashlib
from functools import partial

from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.module import Module
from vmipatch.isa.classify import classify
from vmipatch.isa.second import decode_second
from vmipatch.verify.static.check import check_static
from vmipatch.verify.static.foreign import END_OF_FILE, cut_module_signature
from vmipatch.verify.static.manifest import SECTION as MANIFEST_SECTION
from vmipatch.verify.static.reproduce.check import check_module_file
from vmipatch.verify.static.rules import FILE_END, FOREIGN_SIGNATURE, NATIVE_UNLISTED
from vmipatch.verify.static.second_reader import report_differences
from vmipatch.verify.static.verdict import Report, StaticVerdict
from vmipatch.verify.static.way_back import check_module_way_back


def check_module(
    original: bytes, output: bytes, name: str = "<bytes>", stored: bytes | None = None
) -> StaticVerdict:
    """Prove that `output` is the rewritten module `original`, or that nothing had to be done to it.

    A signature after `output` is cut off, and named in the verdict. `stored` is the original as it
    was stored, packed maybe: what `restore` has to give back. Raises MalformedImage and
    MalformedTable for files that are no modules.
    """
    is_rewritten = MANIFEST_SECTION in Module.parse(output, name).file.section_by_name
    if original == output and not is_rewritten:
        return _check_untouched(Module.parse(output, name).image)
    report = Report(hex)
    was = Module.parse(original, name)
    content = cut_module_signature(output, report)
    signature = original[len(original) - was.signature_len :]
    if signature and is_rewritten and output.endswith(signature):
        message = "it is the original's, and signs other bytes"
        report.add(FOREIGN_SIGNATURE, 0, message, END_OF_FILE)
    now = Module.parse(content, name)
    unsigned = original[: len(original) - was.signature_len]
    if not is_rewritten and content in (original, unsigned):
        return _check_untouched(now.image) + report.verdict()
    report_differences(was.file, now.file, report)
    digest = hashlib.sha256(original).hexdigest()  # with its signature
    of_file = partial(check_module_file, was, now)
    verdict = check_static(was.image, now.image, original_sha256=digest, of_file=of_file)
    if is_rewritten:
        _check_end(content, now, report)
        check_module_way_back(original if stored is None else stored, content, name, report)
    return verdict + report.verdict()


def _check_end(content: bytes, module: Module, report: Report) -> None:
    """Nothing follows the last section of a rewritten module."""
    file = module.file
    headers_off = int.from_bytes(file.data[SHOFF_AT:][:4], "little")
    headers_end = headers_off + SECTION_HEADER_LEN * len(file.sections)
    end = max(headers_end, *(s.off + s.size for s in file.sections if s.has_bytes))
    if end < len(content):
        report.add(FILE_END, 0, f"{len(content) - end} bytes follow the module", END_OF_FILE)


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
