"""Whether the files of a mirror say what the tables of a service say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, Row, Table, func, select
from sqlalchemy.orm import Session

Counts = dict[str, int]
"""How many there are, by the name of the entity, which is that of the table here."""


def count_rows(session: Session, metadata: MetaData) -> Counts:
    """Rows of each table."""
    return {
        table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in metadata.sorted_tables
    }


def count_files(directory: Path, metadata: MetaData) -> Counts:
    """Files of each entity; `directory` is that of the service."""
    return {table.name: sum(1 for _ in _files(directory, table)) for table in metadata.sorted_tables}


def equal(session: Session, metadata: MetaData, directory: Path) -> bool:
    """Whether each row has a file with all of its columns, and each file a row."""
    if count_rows(session, metadata) != count_files(directory, metadata):
        return False
    try:
        return all(_rows(session, table) == _records(directory, table) for table in metadata.sorted_tables)
    except FileNotFoundError:
        return False  # deleted while we read: the mirror is at it


def _rows(session: Session, table: Table) -> list[str]:
    rows: list[Row[Any]] = list(session.execute(select(table)))
    return sorted(_text({name: _plain(value) for name, value in row._mapping.items()}) for row in rows)


def _records(directory: Path, table: Table) -> list[str]:
    return sorted(_text(json.loads(path.read_bytes())["fields"]) for path in _files(directory, table))


def _files(directory: Path, table: Table) -> Iterator[Path]:
    return (directory / table.name).glob("*.json")


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)
