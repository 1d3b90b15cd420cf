"""Litestar with advanced-alchemy. `uvicorn examples.frameworks.litestar_alchemy:app --workers 3`"""

from __future__ import annotations

import asyncio
import os

from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, post
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
alchemy = SQLAlchemyAsyncConfig(
    engine_instance=engine, session_maker=Session, session_config=AsyncSessionConfig(expire_on_commit=False)
)


@post("/contacts/{name:str}")
async def add(name: str, db_session: AsyncSession, request: Request) -> str:
    """Add a contact; returns its id."""
    with eventbus.acting_as(request.headers.get("x-user")):
        db_session.add(contact := Contact(name=name))
        await db_session.commit()
    return contact.id


async def close() -> None:
    """What was committed is delivered; in a thread, so that the loop is not blocked."""
    await asyncio.to_thread(bus.close)


app = Litestar([add], plugins=[SQLAlchemyPlugin(config=alchemy)], on_shutdown=[close])
