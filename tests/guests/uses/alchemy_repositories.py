"""advanced-alchemy: its repositories and services, sync and async, over models of its own bases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from typing import Any, Final

from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.exceptions import DuplicateKeyError, NotFoundError
from advanced_alchemy.filters import CollectionFilter, LimitOffset, OrderBy, SearchFilter
from advanced_alchemy.mixins import SlugKey
from advanced_alchemy.repository import (
    SQLAlchemyAsyncRepository,
    SQLAlchemyAsyncSlugRepository,
    SQLAlchemySyncRepository,
)
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from advanced_alchemy.types import JsonB
from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, sessionmaker

DATABASE: Final = "sqlite:///alchemy.sqlite3"


class GuestAuthor(UUIDAuditBase):
    name: Mapped[str] = mapped_column(unique=True)
    born: Mapped[date | None]
    notes: Mapped[dict[str, Any] | None] = mapped_column(JsonB)
    books: Mapped[list[GuestBook]] = relationship(
        back_populates="author", cascade="all, delete-orphan", lazy="selectin"
    )


class GuestBook(UUIDAuditBase, SlugKey):
    title: Mapped[str]
    author_id: Mapped[Any] = mapped_column(ForeignKey(GuestAuthor.id))
    author: Mapped[GuestAuthor] = relationship(back_populates="books", lazy="joined")


MODELS: Final = [GuestAuthor, GuestBook]


class Authors(SQLAlchemySyncRepository[GuestAuthor]):
    model_type = GuestAuthor


class AsyncAuthors(SQLAlchemyAsyncRepository[GuestAuthor]):
    model_type = GuestAuthor


class Books(SQLAlchemyAsyncSlugRepository[GuestBook]):
    model_type = GuestBook


class BookService(SQLAlchemyAsyncRepositoryService[GuestBook, Books]):
    repository_type = Books


def use() -> Iterator[Any]:
    """Yields what a user of the repositories sees."""
    engine = create_engine(DATABASE)
    UUIDAuditBase.metadata.create_all(engine, [each.__table__ for each in MODELS])
    with sessionmaker(engine, expire_on_commit=False)() as session:
        yield from _synchronous(session)
    engine.dispose()
    yield from asyncio.run(_asynchronous())


def _synchronous(session: Session) -> Iterator[Any]:
    authors = Authors(session=session, auto_commit=True)
    made = authors.add_many([GuestAuthor(name=f"author {n}", born=date(1900 + n, 1, 1)) for n in range(30)])
    yield [(each.name, each.born) for each in made]
    one = authors.add(GuestAuthor(name="Ann", notes={"a": [1, None]}))
    authors.update(GuestAuthor(id=one.id, name="Ann B."))
    yield authors.get(one.id).notes, authors.get_one(name="Ann B.").born
    try:
        authors.add(GuestAuthor(name="Ann B."))
    except DuplicateKeyError as error:
        session.rollback()
        yield type(error).__name__
    changed = [{"id": each.id, "notes": {"n": n}} for n, each in enumerate(made[:10])]
    yield len(authors.update_many([GuestAuthor(**each) for each in changed]))
    yield authors.upsert(GuestAuthor(name="Ann B.", born=date(2000, 2, 2)), match_fields=["name"]).born
    both = [GuestAuthor(name="author 3", notes={"up": 1}), GuestAuthor(name="new one")]
    yield sorted(each.name for each in authors.upsert_many(both, match_fields=["name"]))
    yield authors.get_or_upsert(match_fields=["name"], name="author 5", born=date(1, 1, 1))[1]
    yield authors.get_and_update(match_fields=["name"], name="author 6", notes={"seen": True})[1]
    yield authors.delete(made[0].id).name, len(authors.delete_many([each.id for each in made[20:]]))
    yield len(authors.delete_where(GuestAuthor.name.in_(["author 1", "author 2"])))
    found, total = authors.list_and_count(LimitOffset(5, 2), OrderBy("name"), SearchFilter("name", "author"))
    yield [each.name for each in found], total
    try:
        authors.delete(made[0].id)
    except NotFoundError as error:
        yield type(error).__name__


async def _asynchronous() -> list[Any]:
    engine = create_async_engine(DATABASE.replace("sqlite:", "sqlite+aiosqlite:"))
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        seen = [each async for each in _books(session)]
    await engine.dispose()
    return seen


async def _books(session: AsyncSession) -> Any:
    authors, service = AsyncAuthors(session=session), BookService(session=session)
    author = await authors.get_one(name="Ann B.")
    slugs = [await service.repository.get_available_slug(f"Title {n % 3}") for n in range(3)]
    books = [{"title": f"title {n}", "slug": slug, "author_id": author.id} for n, slug in enumerate(slugs)]
    yield [each.title for each in await service.create_many(books, auto_commit=True)]
    book = await service.get_one(title="title 1")
    yield (await service.update({"title": "another"}, item_id=book.id, auto_commit=True)).slug
    yield (await service.upsert({"title": "upserted", "slug": "u", "author_id": author.id}, auto_commit=True)).title
    other = GuestAuthor(name="Bob", books=[GuestBook(title="b1", slug="b1"), GuestBook(title="b2", slug="b2")])
    await authors.add(other, auto_commit=True)
    other.books.pop()
    await session.commit()
    await session.rollback()
    yield sorted(each.title for each in await service.list(CollectionFilter("slug", ["b1", "b2", "u"])))
    await authors.delete(author.id, auto_commit=True)
    yield await authors.count(), await service.count()
