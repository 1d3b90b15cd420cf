"""The relay's own way of reading a server's outbox."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from eventbus.outbox.tables import metadata
from eventbus.relay.readers import ServerReader


def test_a_database_that_goes_away_while_a_connection_is_set_up_is_one_that_cannot_be_reached(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    metadata.create_all(engine)

    def lost(*_: Any) -> None:
        raise sqlite3.OperationalError("lost")

    reader = ServerReader(engine, everything=True)
    event.listen(Engine, "engine_connect", lost)
    try:
        with pytest.raises(DBAPIError):
            reader.read(0, sure=True)
    finally:
        event.remove(Engine, "engine_connect", lost)
    assert reader.read(0, sure=True) == []
    reader.close()
    engine.dispose()
