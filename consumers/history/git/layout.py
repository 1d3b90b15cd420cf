"""Where a record's file lies in the tree of the repository.

A directory of 20,000 files makes a commit of one of them cost 84 KB and 32 ms; below three hexadecimal digits of a hash
it is 2.5 KB and less than 0.3 ms. So `crm/contact/ab12.json` is `crm/contact/3/f/a/ab12.json` here.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Final

README: Final = "README"
README_TEXT: Final = b"""The history of a mirror of eventbus: one commit a database transaction.

The record in DATA_DIR/<service>/<entity>/<name>.json is here in <service>/<entity>/<x>/<y>/<z>/<name>.json, where x, y
and z are the first three hexadecimal digits of the SHA-256 of <name>.json. `eventbus history path MODEL KEY` says it.

This repository is made of .eventbus/history.sqlite3 and can be made again: write nothing here, clone it.
"""


@lru_cache(maxsize=10_000)
def path_of(path: str) -> str:
    """`crm/contact/ab12.json` → `crm/contact/3/f/a/ab12.json`."""
    directory, _, name = path.rpartition("/")
    digits = sha256(name.encode()).hexdigest()
    return f"{directory}/{digits[0]}/{digits[1]}/{digits[2]}/{name}"


def flat(path: str) -> str:
    """The way back: where the file lies in DATA_DIR."""
    parts = path.split("/")
    return "/".join([*parts[:-4], parts[-1]])
