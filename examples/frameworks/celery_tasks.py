"""Celery, whose workers fork. `celery -A examples.frameworks.celery_tasks worker --concurrency 3`"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    last_author: Mapped[str | None]


engine = create_engine(os.environ.get("CRM_DATABASE", "sqlite:///crm.sqlite3"))
Session = sessionmaker(engine)
bus = eventbus.install(Session, service="crm")
app = Celery("crm", broker=os.environ.get("CELERY_BROKER", "amqp://guest:guest@localhost//"))


@worker_process_init.connect
def forked(**_: Any) -> None:
    """A child must not use the connections of its parent."""
    engine.dispose(close=False)


@worker_process_shutdown.connect
def ending(**_: Any) -> None:
    """Celery's children end with os._exit(), which runs nothing: deliver here. What is left waits in the outbox."""
    bus.close()


@app.task(acks_late=True)  # type: ignore[untyped-decorator]
def add(name: str, author: str) -> None:
    """Add a contact. The author comes with the task: a worker has no user of its own."""
    with eventbus.acting_as(author), Session.begin() as session:
        session.add(Contact(name=name))
