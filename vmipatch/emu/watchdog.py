# SPDX-License-Identifier: MIT
"""How does a run end at its limit of real time where the machine's loop never looks at the clock?

The loop looks between two slices. A slice always ends: blocks of code are counted, and so are
events that execute none. What a device or a hypercall does in Python need not end, so the system's
timer sends a signal if the run has not ended a moment after the limit, and the signal's handler
raises in the midst of it. It does so again each second: an exception that is raised where C code
has called, before the call's own `try`, is lost.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_AGAIN_S: Final = 1.0
GRACE_S: Final = 1.0
"""After the limit, for the loop itself."""


@contextlib.contextmanager
def raising_at(deadline_s: float | None, ended: Callable[[], BaseException]) -> Iterator[None]:
    """Raise `ended()` in this thread a moment after `deadline_s` (time.monotonic), and each second
    from then on.

    Without a deadline, outside of the main thread, and where the process uses the timer or its
    signal itself, nothing is raised.
    """
    if deadline_s is None or not _is_free():
        yield
        return
    armed = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if armed:
            raise ended()

    signal.signal(signal.SIGALRM, ring)
    left_s = max(deadline_s - time.monotonic(), 0)
    signal.setitimer(signal.ITIMER_REAL, left_s + GRACE_S, _AGAIN_S)
    try:
        yield
    finally:
        with contextlib.suppress(type(ended())):  # it may ring just now
            armed = False
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _is_free() -> bool:
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    )
