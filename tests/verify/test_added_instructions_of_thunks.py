# SPDX-License-Identifier: MIT
"""Is a thunk refused that does more than its instruction, even where nothing seems to differ?

An interrupt may come at each instruction of a thunk, and its frame is written below ESP: what was
there is lost. Each output is the rewriter's, with instructions put into every thunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.rewrite.smallkernel import SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import thunks
from vmipatch.rewrite.rewrite import rewrite
from vmipatch.verify.static import check_static

SITES = "fa 0f20d8 fb 9c 58 0f22d8 0f20e1 ec 9d 9c 59 c3"
"""cli; mov eax, cr3; sti; pushf; pop eax; mov cr3, eax; mov ecx, cr4; in al, dx; popf; pushf; pop
ecx."""
Lines = tuple[str, ...]


def putting(front: Lines = (), back: Lines = (), after_call: Lines = ()) -> Callable[..., Any]:
    """`_link`, which puts lines at the start of each thunk, before its ret and after its calls."""
    real = thunks._link

    def link(*given: Any) -> list[str]:
        label, *lines = real(*given)
        found = [label, *front]
        for line in lines:
            found += [*(back if line.strip() == "ret" else ()), line]
            found += after_call if "0xe8" in line else ()
        return found

    return link


def broken(monkeypatch: pytest.MonkeyPatch, **lines: Lines) -> set[str]:
    """The rules that are broken by such thunks."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", SITES)
    kernel.rodata().put(Word("start_kernel"))
    image = kernel.image()
    monkeypatch.setattr(thunks, "_link", putting(**lines))
    output = ElfImage.parse(rewrite(image).data, "output")
    digest = image.file_sha256
    return {r.number for r in check_static(image, output, original_sha256=digest).totals}


UP, DOWN = "lea esp, [esp + 4]", "lea esp, [esp - 4]"


@pytest.mark.parametrize(
    "lines",
    [
        {"front": (UP, DOWN)},
        {"back": (UP, DOWN)},
        {"front": ("push eax", UP, DOWN, "pop eax")},
        {"front": ("mov dword ptr [esp - 4], eax", "mov eax, dword ptr [esp - 4]")},
        {"back": ("mov dword ptr [esp - 4], ecx",)},
        {"back": ("mov ecx, dword ptr [esp - 8]",)},
    ],
    ids=str,
)
def test_word_below_the_stack_pointer_is_lost(
    lines: dict[str, Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken(monkeypatch) == set()
    assert "VP072" in broken(monkeypatch, **lines)


BORROWS: Lines = (
    "push ecx", "mov ecx, dword ptr [esp + 8]", "mov dword ptr [esp + 8], eax",
    "mov dword ptr [esp + 8], ecx", "pop ecx",
)  # fmt: skip


def test_word_of_the_caller_that_is_another_for_a_while_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another processor may read it: wait queues have entries on the stacks of tasks."""
    assert "VP072" in broken(monkeypatch, front=BORROWS)


@pytest.mark.parametrize(
    "lines",
    [
        {"front": ("push eax", "pop ecx")},
        {"back": ("push eax",)},
        {"front": ("push dword ptr [ecx]", "pop edx")},
        {"front": ("xchg eax, ecx", "xchg eax, ecx")},
        {"back": ("test eax, eax",)},
        {"front": (".byte 0x3e", "push eax", "pop eax")},
        {"back": ("int3",)},
        {"front": (".byte 0xeb, 0",)},
    ],
    ids=str,
)
def test_other_instruction_is_refused(
    lines: dict[str, Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "VP072" in broken(monkeypatch, **lines)


@pytest.mark.parametrize("lines", [{"front": ("push eax", "pop eax")}, {"back": ("nop",)}], ids=str)
def test_what_changes_nothing_is_free(
    lines: dict[str, Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 0049: registers, flags, stack and calls are what they should be at each place."""
    assert broken(monkeypatch, **lines) == set()
