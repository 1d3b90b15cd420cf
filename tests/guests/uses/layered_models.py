"""Models that stand on others' packages: sqlalchemy-mixins, sqlalchemy-json, factory_boy, SQLAlchemy-Continuum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import factory
import sqlalchemy as sa
from sqlalchemy.orm import (
    Mapped,
    configure_mappers,
    declarative_base,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from sqlalchemy_continuum import make_versioned, version_class
from sqlalchemy_json import MutableJson, NestedMutableJson
from sqlalchemy_mixins import AllFeaturesMixin, TimestampsMixin

DATABASE: Final = "sqlite:///layered.sqlite3"

make_versioned(user_cls=None)
Base: Any = declarative_base()
MODELS: Any = Base
Session = scoped_session(sessionmaker())


class Team(Base, AllFeaturesMixin, TimestampsMixin):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))
    settings: Mapped[Any] = mapped_column(MutableJson, default=dict)
    nested: Mapped[Any] = mapped_column(NestedMutableJson, default=dict)
    articles: Mapped[list[Any]] = relationship("Article", back_populates="team", cascade="all, delete-orphan")


class Article(Base):
    __tablename__ = "article"
    __versioned__: Final[dict[str, Any]] = {}
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(50))
    team_id: Mapped[int | None] = mapped_column(sa.ForeignKey(Team.id))
    team: Mapped[Team | None] = relationship(back_populates="articles")
    tags: Mapped[list[Any]] = relationship("Tag", secondary="article_tag")


class Tag(Base):
    __tablename__ = "tag"
    __versioned__: Final[dict[str, Any]] = {}
    name: Mapped[str] = mapped_column(sa.String(50), primary_key=True)


sa.Table(
    "article_tag",
    Base.metadata,
    sa.Column("article_id", sa.ForeignKey("article.id"), primary_key=True),
    sa.Column("tag_name", sa.ForeignKey("tag.name"), primary_key=True),
)
configure_mappers()
EXCLUDE: Final = [Base.metadata.tables["article_tag_version"]]


class TeamFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = Team
        sqlalchemy_session = Session
        sqlalchemy_session_persistence = "commit"

    name = factory.Sequence(lambda n: f"team {n}")


class ArticleFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = Article
        sqlalchemy_session = Session
        sqlalchemy_session_persistence = "flush"
        sqlalchemy_get_or_create = ("title",)

    title = factory.Sequence(lambda n: f"article {n % 5}")
    team = factory.SubFactory(TeamFactory)


def use() -> Iterator[Any]:
    """Yields what each package shows of its work."""
    engine = sa.create_engine(DATABASE)
    Session.configure(bind=engine)
    Base.metadata.create_all(engine)
    Team.set_session(Session)
    yield from _mixins()
    yield from _json()
    yield from _factories()
    yield from _versions()
    Session.remove()


def _mixins() -> Iterator[Any]:
    team = Team.create(name="Ann's")
    team.update(name="Bob's")
    Session.commit()
    Team.create(name="gone").delete()
    Session.commit()
    yield Team.where(name__startswith="Bob").count(), [each.name for each in Team.sort("-name").all()]


def _json() -> Iterator[Any]:
    team = Team.find(1)
    team.settings["a"] = 1
    Session.commit()
    team.nested = {"deep": {"list": [1, {"x": 2}]}}
    Session.commit()
    team.nested["deep"]["list"][1]["x"] = 3
    team.nested["deep"]["list"].append("é")
    Session.commit()
    team.settings.update(b=[1, 2])
    Session.flush()
    del team.settings["a"]
    Session.commit()
    yield dict(team.settings), dict(team.nested)


def _factories() -> Iterator[Any]:
    TeamFactory.create_batch(3)
    ArticleFactory.create_batch(8)
    Session.commit()
    yield Session.query(Team).count(), sorted(each.title for each in Session.query(Article))


def _versions() -> Iterator[Any]:
    article = Session.query(Article).filter_by(title="article 1").one()
    article.title = "second"
    article.tags = [Tag(name="x"), Tag(name="y")]
    Session.commit()
    article.title = "third"
    article.tags.pop()
    Session.commit()
    yield [each.title for each in article.versions]
    article.versions[0].revert()
    Session.commit()
    yield article.title
    Session.delete(article)
    Session.commit()
    version = version_class(Article)
    yield [(each.title, each.operation_type) for each in Session.query(version).order_by(version.transaction_id)]
