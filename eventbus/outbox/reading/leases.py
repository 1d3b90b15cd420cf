"""Who may do what: leases that their holders show to be alive.

Whether a holder that says nothing is dead is decided in `delivery.outboxes.liveness`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final, NamedTuple, final

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from eventbus.outbox.access import Access
from eventbus.outbox.owner import Owner, is_dead
from eventbus.outbox.tables import lease

RELAY: Final = "relay"
"""The lease of the active relay."""
ABANDONED: Final = -1
"""The beat of a holder that ended in order: its rows may be taken at once."""


class Lease(NamedTuple):
    """Who holds what, and its heart beat."""

    name: str
    holder: str
    beat: int


def has_relay(connection: Connection) -> bool:
    """Whether a relay has the lease of this database, and is not known to be gone."""
    holder = connection.scalar(select(lease.c.holder).where(lease.c.name == RELAY))
    return holder is not None and not is_dead(holder)


@final
class Leases:
    """The leases of one database, as seen by one owner. Each call is a transaction of its own."""

    def __init__(self, access: Access, owner: Owner) -> None:
        self._access = access
        self._owner = owner

    def of(self, names: Iterable[str]) -> dict[str, Lease]:
        """The leases of these names that exist."""
        query = select(lease).where(lease.c.name.in_(list(names)))
        return {row.name: Lease(*row) for row in self._access.run(lambda connection: connection.execute(query).all())}

    def has_relay(self) -> bool:
        """As the function of this name."""
        return self._access.run(has_relay)

    def take(self, name: str, seen: Lease | None) -> bool:
        """Take a lease that is as it was seen, or does not exist. Of several who try, one succeeds."""

        def work(connection: Connection) -> bool:
            if seen is None:
                connection.execute(insert(lease).values(name=name, holder=self._owner.name, beat=1))
                return True
            statement = update(lease).where(
                lease.c.name == name, lease.c.holder == seen.holder, lease.c.beat == seen.beat
            )
            return (
                connection.execute(statement.values(holder=self._owner.name, beat=max(seen.beat, 0) + 1)).rowcount == 1
            )

        try:
            return self._access.change(work)
        except IntegrityError:
            return False

    def beat(self, name: str) -> bool:
        """Show that the holder lives; False if it is no longer the holder."""
        statement = update(lease).where(lease.c.name == name, lease.c.holder == self._owner.name)
        beaten = statement.values(beat=lease.c.beat + 1)
        return self._access.change(lambda connection: connection.execute(beaten).rowcount) == 1

    def release(self, name: str) -> None:
        """Give a lease back, if held; the next one takes it at once."""
        statement = delete(lease).where(lease.c.name == name, lease.c.holder == self._owner.name)
        self._access.change(lambda connection: connection.execute(statement))

    def abandon(self, name: str) -> None:
        """Leave rows to whoever comes first: this process ends."""

        def work(connection: Connection) -> None:
            mine = update(lease).where(lease.c.name == name, lease.c.holder == self._owner.name).values(beat=ABANDONED)
            if connection.execute(mine).rowcount == 0 and name == self._owner.name:
                connection.execute(insert(lease).values(name=name, holder=name, beat=ABANDONED))

        # Somebody may take it between the two statements: as good.
        with contextlib.suppress(IntegrityError):
            self._access.change(work)
