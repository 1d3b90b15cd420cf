"""What the desk does."""

from sqlalchemy import update

import eventbus
from desk.db import Session, Ticket, bus
from eventbus.errors import FlushTimeout


def open_ticket(subject: str, *, author: str | None) -> str:
    """A new ticket; returns its key, which eventbus fills in."""
    with eventbus.acting_as(author), Session.begin() as session:
        session.add(ticket := Ticket(subject=subject))
    return ticket.id


def close_all(author: str, reason: str) -> None:
    """Close every ticket, in one statement."""
    with eventbus.acting_as(author), eventbus.annotate(reason=reason), Session.begin() as session:
        session.execute(update(Ticket).values(state="closed"))


def repair(key: str, subject: str) -> None:
    """Correct a subject without telling anybody."""
    with Session() as session, eventbus.muted(session):
        session.get_one(Ticket, key).subject = subject
        session.commit()


def delivered(timeout: float) -> int:
    """How many events the broker has not confirmed in that time."""
    try:
        bus.flush(timeout=timeout)
    except FlushTimeout as error:
        return error.pending
    return bus.stats().pending_events
