# SPDX-License-Identifier: MIT
"""Are control characters of a guest kept from files, and given to terminals?"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emu.test_run_command import REBOOT, write_kernel
from vmipatch.cli.guest_text import GuestText

SENT = b"\x1b]0;title\x07red\x1b[31m\tcaf\xc3\xa9\xff\xc2\x9b\r\nab\rc\n"
SHOWN = b"\\x1b]0;title\\x07red\\x1b[31m\tcaf\xc3\xa9\\xff\\x9b\r\nab\\rc\n"
COMMAND = [sys.executable, "-m", "vmipatch", "-q", "run", "--native", "--memory", "8"]


def sender(path: Path, data: bytes) -> Path:
    """A kernel that writes `data` to its serial port."""
    sends = "".join(f"mov al, {value}\n out dx, al\n" for value in data)
    return write_kernel(path, f"mov edx, 0x3f8\n {sends} {REBOOT}")


@pytest.mark.parametrize("piece", range(1, len(SENT) + 1))
def test_text_is_the_same_in_whatever_pieces_it_comes(piece: int) -> None:
    text = GuestText()
    shown = [text.add(SENT[i : i + piece]) for i in range(0, len(SENT), piece)]
    assert b"".join(shown) + text.add(b"", final=True) == SHOWN


@pytest.mark.parametrize(
    ("last", "shown"), [(b"a\r", b"a\\r"), (b"a\r\r\n", b"a\r\r\n"), (b"\xc3", b"\\xc3")]
)
def test_end_of_the_text_is_not_lost(last: bytes, shown: bytes) -> None:
    text = GuestText()
    assert text.add(last) + text.add(b"", final=True) == shown


def test_file_gets_no_control_characters(tmp_path: Path) -> None:
    kernel = sender(tmp_path / "vmlinux", SENT)
    done = subprocess.run([*COMMAND, str(kernel)], capture_output=True, check=True)
    assert done.stdout == SHOWN
    told = subprocess.run([*COMMAND, "--json", "-", str(kernel)], capture_output=True, check=True)
    assert told.stderr == SHOWN


def test_terminal_gets_every_byte(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "raw"], stdin=theirs, check=True)
    with open(ours, "rb", buffering=0) as terminal:
        subprocess.run(
            [*COMMAND, str(sender(tmp_path / "vmlinux", SENT))],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            check=True,
        )
        heard = bytearray()
        while len(heard) < len(SENT):
            heard += terminal.read(len(SENT))
        os.close(theirs)
    assert bytes(heard) == SENT
