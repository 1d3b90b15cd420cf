"""The durable truth of the mirror: one SQLite file with the newest version of every record, document or tombstone.

A batch of messages is one transaction with `synchronous=FULL`; once `apply` has returned, no crash can lose it, and the
messages may be acknowledged. The files are brought up to date from here: `apply` notes their paths as *pending* in the
same transaction, and only what is known to have reached the disk is taken off that note (`settle`). So a start after a
crash or a power loss has to look at the last seconds' files, not at all of them.

Newest version wins, the same version again changes nothing. A deletion leaves a tombstone, so that a late update does
not bring the record back; tombstones are pruned by age.

Other processes may read the file at any time (write-ahead log); the one writer holds the lock of the directory.

`layout` says what is in the file, `file` opens it, `reading` asks it, `writing` takes a batch in, `store` is the whole.
"""

from consumers.json_mirror.state.journal import BASELINE, Journal
from consumers.json_mirror.state.layout import STATE_FILE, require
from consumers.json_mirror.state.reading import Reader
from consumers.json_mirror.state.store import State
from consumers.json_mirror.state.values import MOST_ENTITIES, Bounds, Change, Figures, Noted, Record, Written

__all__ = [
    "BASELINE",
    "MOST_ENTITIES",
    "STATE_FILE",
    "Bounds",
    "Change",
    "Figures",
    "Journal",
    "Noted",
    "Reader",
    "Record",
    "State",
    "Written",
    "require",
]
