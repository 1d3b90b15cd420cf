"""The outbox: committed events, in the database that committed them, until the broker has them.

`metadata` holds its tables, for Alembic. `Outbox` writes in the writer's transaction, `Store` is the side of those who
publish (dispatcher and relay).
"""

from eventbus.outbox.owner import Owner
from eventbus.outbox.reading.leases import Lease
from eventbus.outbox.reading.parked_rows import ParkedRow
from eventbus.outbox.reading.store import Row, Store
from eventbus.outbox.tables import metadata
from eventbus.outbox.versions import VersionClock
from eventbus.outbox.writing.writer import Entry, Outbox

__all__ = ["Entry", "Lease", "Outbox", "Owner", "ParkedRow", "Row", "Store", "VersionClock", "metadata"]
