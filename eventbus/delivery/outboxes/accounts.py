"""The outboxes that one dispatcher writes to or looks after."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, final

from eventbus.delivery.outboxes.account import Account
from eventbus.delivery.tempo import Tempo
from eventbus.outbox import Store

_EVERY: Final = 1.0
"""Seconds between two looks for databases that the application has left."""


@final
class Accounts:
    """One `Account` for each outbox. Writers' threads touch it under the lock."""

    def __init__(self, lock: threading.RLock, tempo: Tempo, *, expects_rows: bool) -> None:
        self._lock = lock
        self._tempo = tempo
        self._expects_rows = expects_rows
        self._by_store: dict[Store, Account] = {}
        self._retire_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._by_store)

    def __iter__(self) -> Iterator[Account]:
        return iter(list(self._by_store.values()))

    def of(self, store: Store) -> Account:
        """That outbox's account, which is opened if there is none."""
        account = self._by_store.get(store)
        if account is None:
            account = Account(store, self._lock, self._tempo, expects_rows=self._expects_rows)
            self._by_store[store] = account
        return account

    @property
    def behind(self) -> bool:
        """Whether rows wait in an outbox because memory was full."""
        return any(account.behind for account in self._by_store.values())

    def settled_since(self, since: float) -> bool:
        """Whether the outboxes show all that was done, and were asked since then for what is still parked."""
        return all(account.settled_since(since) for account in self._by_store.values())

    @property
    def held_back(self) -> int:
        """Events that this process has parked, and that are not known to have got through since."""
        return sum(account.held_back for account in self._by_store.values())

    @property
    def parked(self) -> int:
        """Rows that are parked, as last counted."""
        return sum(account.parked for account in self._by_store.values())

    def retire(self, at: float) -> list[Account]:
        """Those of databases whose engines the application has disposed of, where nothing is to be done any more."""
        if at < self._retire_at:
            return []
        self._retire_at = at + _EVERY
        with self._lock:
            retired = [store for store, account in self._by_store.items() if account.is_over]
            return [self._by_store.pop(store) for store in retired]
