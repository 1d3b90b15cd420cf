"""A service that counts: one record, changed again and again, so that order shows."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The service's tables."""


class Contact(Base):
    """What is counted."""

    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


def count(sessions: Callable[[], Session], key: int = 1) -> None:
    """One more, in a transaction of its own; 0 at the first time."""
    with sessions() as session:
        contact = session.get(Contact, key)
        if contact is None:
            session.add(Contact(id=key))
        else:
            contact.value += 1
        session.commit()
