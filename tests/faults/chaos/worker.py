"""A service under fire: `python -m tests.faults.chaos.worker DATABASE BROKER NAME SEED [TRANSACTIONS]`.

With EVENTBUS_DELIVERY=relay it publishes nothing itself.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from eventbus.bus import Bus
from eventbus.errors import EventBusError
from eventbus.settings import Settings
from tests.faults.chaos.models import Base, membership, name_transactions
from tests.faults.chaos.work import Dice, transaction

SERVICE = "chaos"
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": 5, "options": "-c lock_timeout=3s"},
    "mysql": {"connect_timeout": 5, "init_command": "SET innodb_lock_wait_timeout = 3"},
}


def open_engine(url: str) -> Engine:
    engine = create_engine(url, pool_size=2, connect_args=_ARGUMENTS[url.partition("+")[0]])
    name_transactions(engine)
    return engine


def install(sessions: sessionmaker[Session], broker: str, exchange: str, **options: Any) -> Bus:
    settings = Settings(url=broker, service=SERVICE, exchange=exchange, queue=exchange, **options)
    models = [mapper.class_ for mapper in Base.registry.mappers]
    return eventbus.install(sessions, settings=settings, include=[*models, membership], auto_fields=False)


def main(database: str, broker: str, name: str, seed: str, transactions: str = "1000000000") -> None:
    """Work until killed, or for so many transactions."""
    # It tells with tracebacks of each connection that it drops since it is lost: none of them is a crash.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    engine, dice = open_engine(database), Dice(seed)
    sessions = sessionmaker(engine)
    install(sessions, broker, name, delivery=os.environ.get("EVENTBUS_DELIVERY", "thread"))
    print("ready", flush=True)
    for _ in range(int(transactions)):
        try:
            transaction(sessions, dice)
        except SQLAlchemyError as error:
            _tell(error)
            if getattr(error, "connection_invalidated", False):
                engine.dispose()
                time.sleep(0.05)
        except EventBusError as error:
            _tell(error)


def _tell(error: Exception) -> None:
    text = str(error).partition("\n")[0]
    # At once, as all processes write to one log.
    sys.stderr.write(f"error {type(error).__name__} {text[:200]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
