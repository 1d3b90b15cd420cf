"""Models of every shape that capture has to know: keys, relationships, inheritance, columns that fill themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, ForeignKey, ForeignKeyConstraint, String, Table, func, literal, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    backref,
    column_property,
    composite,
    deferred,
    mapped_column,
    relationship,
    synonym,
)


class Base(DeclarativeBase):
    """All models of the zoo."""


# -- links ------------------------------------------------------

membership = Table(
    "membership",
    Base.metadata,
    Column("contact_id", ForeignKey("contact.id"), primary_key=True),
    Column("team_id", ForeignKey("team.id"), primary_key=True),
    Column("role", String(20), server_default="member"),
)
friendship = Table(
    "friendship",
    Base.metadata,
    Column("left_id", ForeignKey("contact.id"), primary_key=True),
    Column("right_id", ForeignKey("contact.id"), primary_key=True),
)


@dataclass
class Address:
    """A composite."""

    street: str | None
    town: str | None


class Contact(Base):
    """Text key, authors and times, JSON of both kinds, composite, hybrid, synonym, deferred and computed values."""

    __tablename__ = "contact"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(50))
    telephone = synonym("phone")
    street: Mapped[str | None] = mapped_column(String(50))
    town: Mapped[str | None] = mapped_column(String(50))
    address: Mapped[Address] = composite("street", "town")
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    live: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSON()))
    notes: Mapped[str | None] = deferred(mapped_column(String(200), info={"eventbus": True}))
    visits: Mapped[int] = mapped_column(server_default="0")
    stamp: Mapped[int | None] = mapped_column(onupdate=text("coalesce(stamp, 0) + 1"))
    created_by: Mapped[str | None] = mapped_column(String(50))
    updated_by: Mapped[str | None] = mapped_column(String(50))
    created_at: Mapped[datetime | None] = mapped_column(DateTime().with_variant(DateTime(), "sqlite"))
    shout: Mapped[str] = column_property(func.upper(name))

    teams: Mapped[list[Team]] = relationship(secondary=membership, back_populates="contacts")
    friends: Mapped[list[Contact]] = relationship(
        secondary=friendship,
        primaryjoin=lambda: Contact.id == friendship.c.left_id,
        secondaryjoin=lambda: Contact.id == friendship.c.right_id,
        backref="befriended_by",
    )

    @hybrid_property
    def label(self) -> str:
        return f"{self.name}!"

    @label.inplace.setter
    def _set_label(self, value: str) -> None:
        self.name = value.rstrip("!")


class Team(Base):
    """Integer key made by the database."""

    __tablename__ = "team"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    contacts: Mapped[list[Contact]] = relationship(secondary=membership, back_populates="teams")


# -- one to many ------------------------------------------------


class Order(Base):
    """Owns its lines (delete-orphan, no back reference), lends its papers (foreign key set to NULL)."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    lines: Mapped[list[OrderLine]] = relationship(cascade="all, delete-orphan")
    papers: Mapped[list[Paper]] = relationship(back_populates="order")


class OrderLine(Base):
    """Composite key; owns parts of its own."""

    __tablename__ = "order_line"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str | None] = mapped_column(String(50))
    parts: Mapped[list[Part]] = relationship(cascade="all, delete-orphan")


class Part(Base):
    """The grandchild."""

    __tablename__ = "part"
    __table_args__ = (ForeignKeyConstraint(["order_id", "position"], ["order_line.order_id", "order_line.position"]),)

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    position: Mapped[int]
    name: Mapped[str | None] = mapped_column(String(50))


class Paper(Base):
    """Outlives its order."""

    __tablename__ = "paper"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(50))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="papers")
    updated_by: Mapped[str | None] = mapped_column(String(50))


class Widget(Base):
    """Two tables that point at each other: needs post_update."""

    __tablename__ = "widget"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    favorite_id: Mapped[int | None] = mapped_column(ForeignKey("entry.id", use_alter=True, name="fk_favorite"))
    entries: Mapped[list[Entry]] = relationship(
        primaryjoin=lambda: Widget.id == Entry.widget_id, cascade="all, delete-orphan"
    )
    favorite: Mapped[Entry | None] = relationship(
        primaryjoin=lambda: Widget.favorite_id == Entry.id, foreign_keys=lambda: Widget.favorite_id, post_update=True
    )


class Entry(Base):
    """See Widget."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    widget_id: Mapped[int | None] = mapped_column(ForeignKey("widget.id"))
    name: Mapped[str] = mapped_column(String(50))


class Node(Base):
    """A tree, of which each node keeps a secret."""

    __tablename__ = "node"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    password: Mapped[str | None] = mapped_column(String(50))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("node.id"))
    children: Mapped[list[Node]] = relationship(cascade="all", backref=backref("parent", remote_side=lambda: Node.id))


# -- inheritance ------------------------------------------------


class Person(Base):
    """Joined inheritance."""

    __tablename__ = "person"
    __mapper_args__ = {"polymorphic_identity": "person", "polymorphic_on": "kind"}  # noqa: RUF012 - declarative reads it so

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(50))
    changed: Mapped[int | None] = mapped_column(onupdate=1)


class Engineer(Person):
    """Has a second table."""

    __tablename__ = "engineer"
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012 - declarative reads it so

    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    language: Mapped[str | None] = mapped_column(String(50))
    level: Mapped[int] = mapped_column(server_default="1")


class Vehicle(Base):
    """Single-table inheritance."""

    __tablename__ = "vehicle"
    __mapper_args__ = {"polymorphic_identity": "vehicle", "polymorphic_on": "kind"}  # noqa: RUF012 - declarative reads it so

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(50))


class Car(Vehicle):
    """Has columns of its own in the same table."""

    __mapper_args__ = {"polymorphic_identity": "car"}  # noqa: RUF012 - declarative reads it so

    doors: Mapped[int | None] = mapped_column(use_existing_column=True)


class Truck(Vehicle):
    """Another one."""

    __mapper_args__ = {"polymorphic_identity": "truck"}  # noqa: RUF012 - declarative reads it so

    load: Mapped[int | None]


class Boat(Base):
    """Concrete inheritance."""

    __tablename__ = "boat"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))


class Ferry(Boat):
    """A table with all columns."""

    __tablename__ = "ferry"
    __mapper_args__ = {"concrete": True}  # noqa: RUF012 - declarative reads it so

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))
    cars: Mapped[int | None]


# -- columns ----------------------------------------------------


class Document(Base):
    """Counts its versions; its key may change, and its pages follow."""

    __tablename__ = "document"

    code: Mapped[str] = mapped_column(String(20), primary_key=True)
    title: Mapped[str | None] = mapped_column(String(50))
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - declarative reads it so


class Counter(Base):
    """Nothing but a key and what the database fills in."""

    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(server_default=text("7"))
    double: Mapped[int] = mapped_column(default=lambda: 14)
    fixed: Mapped[int | None] = mapped_column(default=literal(3))
