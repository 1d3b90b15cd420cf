"""Shows that a process lives, in a thread of its own: a broker that is slow must not make it look dead."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final, final

from eventbus.delivery.outboxes.account import DATABASE_ERRORS, Account
from eventbus.outbox.turns import Occupied

_PATIENCE: Final = 2.0
_POLL: Final = 0.05

logger = logging.getLogger("eventbus.outbox")


@final
class Pulse:
    """Every `every` seconds a sign of life for those of `accounts()` that need one.

    `accounts` is called in the pulse's thread; None ends it.
    """

    def __init__(self, accounts: Callable[[], Iterable[Account] | None], every: float) -> None:
        self._accounts = accounts
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventbus-pulse", daemon=True)

    def start(self) -> None:
        """Raises RuntimeError where no thread can be started any more."""
        self._thread.start()

    def close(self) -> None:
        """No sign of life comes after that, unless the database does not answer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._stop.wait(self._every) and (accounts := self._accounts()) is not None:
            for account in accounts:
                self._beat(account)

    def _beat(self, account: Account) -> None:
        try:
            while True:
                try:
                    account.sign.give()
                    return
                except Occupied:
                    # Between two transactions of the application there is a moment, mostly.
                    if self._stop.wait(_POLL):
                        return
        except DATABASE_ERRORS:
            # Whoever reads and deletes rows there tells of it.
            logger.debug("no sign of life could be given", exc_info=True)
        except Exception:
            logger.exception("no sign of life could be given")
