"""A command, as cron runs it: `python -m examples.frameworks.typer_import add ann bob`"""

from __future__ import annotations

import os

import typer
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
app = typer.Typer()


@app.command()
def add(names: list[str], author: str = "cron") -> None:
    """Add contacts by these names."""
    with bus, eventbus.acting_as(author), Session.begin() as session:  # the bus is closed at the end: all is delivered
        session.add_all([Contact(name=name) for name in names])


if __name__ == "__main__":
    eventbus.drain_on_sigterm()
    app()
