"""FastAPI with plain `def` dependencies, which run in threads.

`uvicorn examples.frameworks.fastapi_sync:app --workers 3`
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    last_author: Mapped[str | None]


engine = create_engine(os.environ.get("CRM_DATABASE", "sqlite:///crm.sqlite3"))
Maker = sessionmaker(engine, expire_on_commit=False)
bus = eventbus.install(Maker, service="crm")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """At the end, what was committed is delivered."""
    yield
    await run_in_threadpool(bus.close)


app = FastAPI(lifespan=lifespan)


def as_user(x_user: Annotated[str | None, Header()] = None) -> Iterator[Session]:
    """The Session of a request, and its author: FastAPI runs this in another context than the request."""
    with Maker() as session:
        if x_user is None:
            yield session
        else:
            with eventbus.acting_as(x_user, session=session):
                yield session


@app.post("/contacts/{name}")
def add(name: str, session: Annotated[Session, Depends(as_user)]) -> str:
    """Add a contact; returns its id."""
    session.add(contact := Contact(name=name))
    session.commit()
    return contact.id
