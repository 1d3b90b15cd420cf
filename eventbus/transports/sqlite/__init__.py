"""The embedded broker: a kombu transport on one SQLite file, `sqlite:///broker.sqlite3`, for any number of processes.

Offered: direct, topic and fanout exchanges, mandatory publishing, acknowledgement (also multiple), reject, requeue in
place, prefetch per consumer, dead-lettering with `x-death`, delivery limit, single active consumer, auto-delete queues;
redelivery as soon as a consumer's process is gone; waking across processes within milliseconds.
Not offered, and refused or logged where asked for: exclusive queues and consumers, headers exchanges, auto-delete
exchanges, exchange-to-exchange bindings, time to live, length limits, priorities, transactions.

From the outside in: `transport`, `connection` and `channel` are the face towards kombu and keep what belongs to one
connection; `broker` is the verbs, one transaction each; `catalogue` (exchanges, queues, bindings), `sessions` (who
consumes, and lives), `messages` and `dead_letters` are what the verbs are made of; `file` and `layout` are the SQLite
file, `doorbell` wakes and tells who lives, `routing` decides where a message goes.

The file has mode 0600 and stays small: acknowledged messages are deleted, an idle consumer gives the pages back to the
file system (up to 1 MiB is kept for the next messages), the log is cut to 8 MiB. Beside it are SQLite's `-wal` and
`-shm` and one named pipe, `-bell-…`, for each connection that consumes. It must be on a local file system.
"""

from eventbus.transports.sqlite.transport import Transport

__all__ = ["Transport"]
