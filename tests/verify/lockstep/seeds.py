# SPDX-License-Identifier: MIT
"""Kernels with a thunk that tells the truth but once."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.translate import ThunkCode, thunk_code
from vmipatch.scan.site import Fusion, Site

THUNKING = importlib.import_module("vmipatch.rewrite.thunks")
_COUNTER_OFF = 0x80
_REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


def wrong_flag_once(original: ElfImage, call: int, patch: pytest.MonkeyPatch) -> bytes:
    """The kernel rewritten, but that the thunks of `pushf; pop r` turn IF over in what they give
    at their call number `call`, all together. They count in a word of memory: the end of the first
    stack, which is never reached.
    """
    word_va = _counter_va(rewrite(original).data)

    def lying(site: Site) -> ThunkCode | None:
        code = thunk_code(site)
        if code is None or site.fusion is not Fusion.READ_FLAGS:
            return code
        word = f"dword ptr ss:[{word_va:#x}]"
        lines = (
            "pushfd", f"inc {word}", f"cmp {word}, {call}", "jne {label}true",
            f"xor {_REGISTERS[site.code[-1] & 7]}, 0x200", "{label}true:", "popfd", "ret",
        )  # fmt: skip
        assert code.lines[-1] == "ret"
        return replace(code, lines=(*code.lines[:-1], *lines))

    with patch.context() as patched:
        patched.setattr(THUNKING, "thunk_code", lying)
        data = rewrite(original).data
    assert _counter_va(data) == word_va
    return data


def _counter_va(kernel: bytes) -> int:
    stack_va = ElfImage.parse(kernel, "seeded").symbols.address("init_stack")
    assert stack_va is not None
    return stack_va + _COUNTER_OFF
