"""fastapi-users over its SQLAlchemy adapter, and many threads over one scoped_session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fastapi_users import BaseUserManager, UUIDIDMixin, schemas
from fastapi_users.db import SQLAlchemyBaseOAuthAccountTableUUID, SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users.exceptions import UserAlreadyExists
from fastapi_users_db_sqlalchemy.access_token import SQLAlchemyAccessTokenDatabase, SQLAlchemyBaseAccessTokenTableUUID
from sqlalchemy import create_engine, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, scoped_session, sessionmaker

DATABASE: Final = "sqlite:///users.sqlite3"


class Base(DeclarativeBase):
    pass


class OAuthAccount(SQLAlchemyBaseOAuthAccountTableUUID, Base):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    oauth_accounts: Mapped[list[OAuthAccount]] = relationship("OAuthAccount", lazy="joined")


class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    pass


class Task(Base):
    """What a scheduler's workers write."""

    __tablename__ = "task"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)


MODELS: Final = Base


class Manager(UUIDIDMixin, BaseUserManager[User, Any]):
    reset_password_token_secret = "r"
    verification_token_secret = "v"


def use() -> Iterator[Any]:
    """Yields what users of these see."""
    engine = create_engine(DATABASE, connect_args={"timeout": 60})
    Base.metadata.create_all(engine)
    yield from asyncio.run(_users())
    sessions = scoped_session(sessionmaker(engine))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _work(sessions, n), range(24)))
    yield sorted((each.id, each.state, each.tries) for each in sessions.scalars(select(Task)))
    sessions.remove()
    engine.dispose()


def _work(sessions: Any, n: int) -> None:
    try:
        sessions.add(Task(id=n, state="queued"))
        sessions.commit()
        sessions.execute(update(Task).where(Task.id == n).values(state="running", tries=Task.tries + 1))
        sessions.commit()
        task = sessions.get(Task, n)
        task.state = "failed" if n % 5 == 0 else "done"
        sessions.rollback() if n % 7 == 0 else sessions.commit()
        if n % 6 == 0:
            sessions.query(Task).filter(Task.id == n).delete()
            sessions.commit()
    finally:
        sessions.remove()


async def _users() -> list[Any]:
    engine = create_async_engine(DATABASE.replace("sqlite:", "sqlite+aiosqlite:"))
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        seen = [each async for each in _steps(session)]
    await engine.dispose()
    return seen


async def _steps(session: AsyncSession) -> AsyncIterator[Any]:
    users = SQLAlchemyUserDatabase(session, User, OAuthAccount)
    manager = Manager(users)
    ann = await manager.create(schemas.BaseUserCreate(email="ann@example.org", password="long-password"))
    try:
        await manager.create(schemas.BaseUserCreate(email="ann@example.org", password="long-password"))
    except UserAlreadyExists:
        yield "exists"
    await manager.update(schemas.BaseUserUpdate(password="another-password"), ann)
    account = {"oauth_name": "o", "access_token": "t", "account_id": "1", "account_email": "ann@example.org"}
    ann = await users.add_oauth_account(ann, account)
    ann = await users.update_oauth_account(ann, ann.oauth_accounts[0], {"access_token": "u", "expires_at": 5})
    tokens = SQLAlchemyAccessTokenDatabase(session, AccessToken)
    first = await tokens.create({"token": "first", "user_id": ann.id})
    await tokens.create({"token": "second", "user_id": ann.id})
    await tokens.update(first, {"token": "renamed"})
    await tokens.delete(await tokens.get_by_token("second"))
    bob = await manager.create(schemas.BaseUserCreate(email="bob@example.org", password="long-password"))
    await manager.delete(bob)
    found = await users.get_by_oauth_account("o", "1")
    yield found.email, [(each.access_token, each.expires_at) for each in found.oauth_accounts]
    yield await tokens.get_by_token("first"), (await tokens.get_by_token("renamed")).user_id == ann.id
