"""A shop's models, and its Sessions with the bus."""

import os

from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "order"
    id: Mapped[str] = mapped_column(primary_key=True)
    buyer: Mapped[str]


class Line(Base):
    __tablename__ = "line"
    id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("order.id"))
    what: Mapped[str]


engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///shop.sqlite3"))
Session = sessionmaker(engine)
BY_HAND = bool(os.environ.get("SHOP_BY_HAND"))
"""Whether the lines are published by hand after the commit: the loss that chaos is to find."""
eventbus.install(Session, service="shop", exclude=[Line] if BY_HAND else [])
