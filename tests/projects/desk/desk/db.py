"""The models, and Sessions with the bus."""

import os

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus


class Base(DeclarativeBase): ...


class Ticket(Base):
    __tablename__ = "ticket"
    id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str]
    state: Mapped[str] = mapped_column(default="open")
    last_author: Mapped[str | None]


engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///desk.sqlite3"))
Session = sessionmaker(engine, expire_on_commit=False)
bus = eventbus.install(Session, service="desk", include=[Ticket], bulk="capture")
closed: list[str | None] = []
"""Who has closed tickets, the latest last."""


@eventbus.listens_for(Ticket, "updated")
def note(change: eventbus.Change) -> None:
    """Keep who closes tickets."""
    if "state" in change.changed:
        closed.append(change.author)
