"""SQLModel: its Session is a subclass of SQLAlchemy's, made by a sessionmaker.

`python -m examples.frameworks.sqlmodel_service ann bob`
"""

from __future__ import annotations

import os
import sys

from sqlalchemy import String
from sqlalchemy.orm import sessionmaker
from sqlmodel import Field, Session, SQLModel, create_engine

import eventbus


class Contact(SQLModel, table=True):
    """A table and a pydantic model at once. Its id is filled in at the flush, as its column is a String."""

    id: str | None = Field(default=None, primary_key=True, sa_type=String)
    name: str
    last_author: str | None = None


engine = create_engine(os.environ.get("CRM_DATABASE", "sqlite:///crm.sqlite3"))
Maker = sessionmaker(engine, class_=Session)
eventbus.install(Maker, service="crm")


def add(names: list[str]) -> None:
    """Add contacts by these names."""
    with Maker() as session, eventbus.acting_as("import"):
        session.add_all([Contact(name=name) for name in names])
        session.commit()


if __name__ == "__main__":
    add(sys.argv[1:])
