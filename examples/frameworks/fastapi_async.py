"""FastAPI with AsyncSessions. `uvicorn examples.frameworks.fastapi_async:app --workers 3`"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import eventbus


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    last_author: Mapped[str | None]


engine = create_async_engine(os.environ.get("CRM_DATABASE", "sqlite+aiosqlite:///crm.sqlite3"))
Session = async_sessionmaker(engine, expire_on_commit=False)
bus = eventbus.install(Session, service="crm")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """At the end, what was committed is delivered; in a thread, so that the loop is not blocked."""
    yield
    await asyncio.to_thread(bus.close)
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def as_user(x_user: Annotated[str | None, Header()] = None) -> AsyncIterator[AsyncSession]:
    """The Session of a request, with its author."""
    async with Session() as session:
        if x_user is None:
            yield session
        else:
            with eventbus.acting_as(x_user):
                yield session


@app.post("/contacts/{name}")
async def add(name: str, session: Annotated[AsyncSession, Depends(as_user)]) -> str:
    """Add a contact; returns its id."""
    session.add(contact := Contact(name=name))
    await session.commit()
    return contact.id
