"""The example service of compose.yaml: it changes an order twice a second, and shows its figures on port 9102."""

from __future__ import annotations

import os
import random
import signal
import threading

from prometheus_client import start_http_server
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus import metrics

STATES = ("new", "paid", "packed", "sent")


class Base(DeclarativeBase):
    """The models of the shop."""


class Order(Base):
    """An order of a shop."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    total: Mapped[int]
    last_author: Mapped[str | None]


def change(session: Session) -> None:
    """The next state of the oldest order that is not sent, now and then a new order."""
    order = session.scalars(select(Order).where(Order.state != STATES[-1]).order_by(Order.id)).first()
    if order is None or random.random() < 0.3:  # noqa: S311  no secret
        session.add(Order(state=STATES[0], total=random.randrange(1, 1000)))  # noqa: S311  likewise
    else:
        order.state = STATES[STATES.index(order.state) + 1]


def main() -> None:
    """Run until SIGTERM."""
    engine = create_engine(os.environ["DATABASE_URL"])
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with eventbus.install(sessions) as bus:
        metrics.register(bus)
        start_http_server(int(os.environ.get("PORT", "9102")))
        while not stop.wait(0.5):
            with eventbus.acting_as("ann"), sessions.begin() as session:
                change(session)


if __name__ == "__main__":
    main()
