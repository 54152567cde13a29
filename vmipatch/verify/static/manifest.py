# SPDX-License-Identifier: MIT
"""What does the output say about itself?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START
from vmipatch.image.stored_json import json_value
from vmipatch.verify.static.outline import Window
from vmipatch.verify.static.rules import MANIFEST
from vmipatch.verify.static.verdict import Report

SECTION = ".vmi.manifest"
VERSION = 1
MODES = ("absorb", "shift")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The proof's part of the manifest; nothing in it is believed that can be checked."""

    shift_len: int
    """Bytes by which the sections after .text moved."""
    native: dict[int, str] = field(hash=False)
    """Sensitive instructions without a record, by output address, with the reason."""
    redirect: dict[int, int] = field(hash=False)
    """Original addresses and those that branches to them target instead of their images."""
    input_sha256: str = ""
    """Of the file that was rewritten."""
    windows: tuple[Window, ...] = ()
    """Instructions of the original that stand in trampolines."""
    start: str = START
    """The name of the function before which the runtime runs."""
    keep: tuple[str, ...] = ()
    """Two symbols, `START..END`, around each range that is kept as it is."""
    padding: str = Padding.PREFIX.value
    """How sites are filled up, which is asked of every site."""


def read_manifest(output: ElfImage, report: Report) -> Manifest:
    """The manifest of `output`; an empty one, and a finding, if it cannot be read."""
    section = output.section_by_name.get(SECTION)
    if section is None:
        report.add(MANIFEST, 0, f"there is no {SECTION}", SECTION)
        return Manifest(0, {}, {})
    try:
        content = content_of(output)
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']!r:.40} is not known")
        if content["mode"] not in MODES:
            raise ValueError(f"mode {content['mode']!r:.40} is not known")
        shift_len = _word(content["shift_len"])
        if (shift_len > 0) != (content["mode"] == "shift") or shift_len % 4096:
            raise ValueError(f"a shift of {shift_len} bytes does not go with its mode")
        native = {_word(e["va"]): str(e["reason"]) for e in content.get("native", [])}
        redirect = {_word(old): _word(new) for old, new in content.get("redirect", [])}
        digest = str(content["input_sha256"])
        windows = tuple(_window(*each) for each in content.get("trampolines", []))
        padding = str(content["padding"])
        if not all(native.values()):
            raise ValueError("an instruction is listed without a reason")
        start = content.get("start", START)
        if not isinstance(start, str) or content.get("start") == START:
            raise ValueError("its start is not the name of another function")
        keep = _names(content["keep"]) if "keep" in content else ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.add(MANIFEST, 0, f"it cannot be read: {error}", SECTION)
        return Manifest(0, {}, {})
    return Manifest(shift_len, native, redirect, digest, windows, start, keep, padding)


def content_of(output: ElfImage) -> Any:
    """The JSON in the section of `output`; zeros after it do not count. Raises ValueError."""
    return json_value(output.section_bytes(output.section_by_name[SECTION]).rstrip(b"\0"))


def _names(value: object) -> tuple[str, ...]:
    """`value` if it is a list of names, ascending, at least one. Raises ValueError."""
    if not isinstance(value, list) or not value or value != sorted(set(map(str, value))):
        raise ValueError("what is kept is not a list of names")
    return tuple(value)


def _window(start_va: object, size: object, *_: object) -> Window:
    """A window by original address and bytes. Raises ValueError."""
    return Window(_word(start_va), _word(start_va) + _word(size))


def _word(value: object) -> int:
    """`value` if it is a number of 32 bits. Raises ValueError."""
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise ValueError(f"{value!r:.40} is not a number of 32 bits")
    return value
