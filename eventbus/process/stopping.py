"""A graceful end on SIGTERM (Kubernetes, systemd) and SIGINT (Ctrl-C)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first signal sets. The second signal does what it does by default: end at once.

    Outside the main thread Python has no signals; there the event stays as it is.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        for each in _SIGNALS:
            signal.signal(each, before[each] if before[each] is not None else signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
