# SPDX-License-Identifier: MIT
"""How does a worker process end when its parent does? It watches the parent, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

ORPHANED = 128 + signal.SIGTERM
"""Exit code of a worker whose parent is gone; no one is left to read it."""


def begin_worker() -> None:
    """To be called first in a worker: ends the process when its parent is gone.

    A pool's worker otherwise waits for work for ever after its parent was killed. Ctrl-C is left to
    the parent: a terminal sends it to both.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def begin_pool_worker() -> None:
    """The same in a worker of a pool: SIGTERM to the whole group is the parent's to answer."""
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(ORPHANED)
