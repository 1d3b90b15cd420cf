"""A consumer of one's own that keeps records: in an SQLite file, as they are in the tables. Ends with Ctrl-C.

EVENTBUS_QUEUE=records python examples/consumer_merge.py records.sqlite3
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from collections.abc import Sequence

from consumers.base import DONE, ConsumerSettings, Delivery, Merged, Outcome, merge, run
from eventbus.events.envelope import Event

TABLE = "CREATE TABLE IF NOT EXISTS record (name TEXT PRIMARY KEY, version INTEGER, fields TEXT, stub TEXT, rest BLOB)"


class Keeper:
    """A row a record. Deleted ones stay, without fields, so that a late event does not bring them back."""

    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path)
        self.database.execute(TABLE)

    def __call__(self, batch: Sequence[Delivery]) -> Sequence[Outcome]:
        """A transaction a batch: once it is committed, no crash can lose it."""
        with self.database:
            for delivery in batch:
                self.keep(delivery.event)
        return [DONE] * len(batch)

    def keep(self, event: Event) -> None:
        """Merge one event into what is known of its record."""
        name = f"{event.model}/{event.record}"
        known = self.find(name)
        record = merge(known, event)
        if record is not known:
            row = name, record.version, json.dumps(record.fields), json.dumps(record.stub), record.rest
            self.database.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)", row)

    def find(self, name: str) -> Merged | None:
        """What is known of a record; None before its first event."""
        query = "SELECT version, fields, stub, rest FROM record WHERE name = ?"
        row = self.database.execute(query, (name,)).fetchone()
        return row and Merged.restore(row[0], json.loads(row[1]), json.loads(row[2]), row[3])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(run(ConsumerSettings.from_env, Keeper(sys.argv[1])))
