# SPDX-License-Identifier: MIT
"""What is in a machine's memory at a given instruction? Asked through QEMU's GDB stub.

Only what the tests need of the protocol (GDB manual, appendix E "Remote Serial Protocol"). QEMU
keeps breakpoints to itself: no byte of the guest changes, and no clock.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.support.qemu import QemuBoot

Starter = Callable[[tuple[str, ...]], QemuBoot]
"""Boots a machine to its end, with the given arguments of QEMU besides its own."""
Found = TypeVar("Found")

TIME_LIMIT_S = 120


class StubError(Exception):
    """The stub refused a command, or the machine ended meanwhile."""


class Stub:
    """A machine that stands still, at the other end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def run_to(self, va: int) -> None:
        """Let the machine run until it is about to execute `va`. Raises StubError if it ends."""
        self._ask(f"Z1,{va:x},1")
        self._send("c")
        stopped = self._packet()
        if not stopped.startswith("T05"):
            raise StubError(f"the machine did not stop at {va:#x}: {stopped}")
        self._ask(f"z1,{va:x},1")

    def read(self, va: int, length: int) -> bytes:
        """`length` bytes of memory at the linear address `va`. Raises StubError if unmapped."""
        with tempfile.NamedTemporaryFile() as copy:
            command = f'memsave {va:#x} {length:#x} "{copy.name}"'
            self._ask(f"qRcmd,{command.encode().hex()}")
            data = copy.read()
        if len(data) != length:
            raise StubError(f"no memory at {va:#x}")
        return data

    def let_go(self) -> None:
        """The machine runs on without us."""
        self._ask("D")

    def end(self) -> None:
        """QEMU ends here and now, in good order."""
        self._send("k")

    def _ask(self, command: str) -> None:
        self._send(command)
        answer = self._packet()
        if answer != "OK":
            raise StubError(f"{command}: {answer or 'not supported'}")

    def _send(self, command: str) -> None:
        self._connection.sendall(f"${command}#{sum(command.encode()) % 256:02x}".encode())

    def _packet(self) -> str:
        """The contents of the next `$contents#checksum`; what is before it are acknowledgements."""
        while (end := self._received.find(b"#")) < 0 or len(self._received) < end + 3:
            more = self._connection.recv(4096)
            if not more:
                raise StubError("the machine has ended")
            self._received += more
        start = self._received.index(b"$") + 1
        packet = self._received[start:end].decode()
        del self._received[: end + 3]
        self._connection.sendall(b"+")
        return packet


def visit(start: Starter, look: Callable[[Stub], Found]) -> tuple[QemuBoot, Found]:
    """Start a machine that stands still, `look`, and wait for the machine's end.

    `look` lets the machine go or ends it; if it fails, the machine is ended.
    """
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as pool:
        place = Path(scratch) / "gdb"
        running = pool.submit(start, ("-S", "-gdb", f"unix:{place},server=on,wait=off"))
        with _connect(place, running.done) as connection:
            stub = Stub(connection)
            try:
                found = look(stub)
            except StubError:
                stub.end()
                raise
            boot = running.result()
    return boot, found


def _connect(place: Path, gave_up: Callable[[], bool]) -> socket.socket:
    """A connection to the stub, as soon as QEMU listens."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIME_LIMIT_S)
    deadline = time.monotonic() + TIME_LIMIT_S
    while not gave_up() and time.monotonic() < deadline:
        try:
            connection.connect(str(place))
        except OSError:
            time.sleep(0.01)
        else:
            return connection
    connection.close()
    raise StubError("QEMU does not listen")
