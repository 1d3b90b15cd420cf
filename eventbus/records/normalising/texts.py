"""Texts, and what is kept as text or bytes: UUIDs, enums, binary values."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from eventbus.records.columns import MYSQL, Normaliser, enum_members
from eventbus.records.expressions import refuse_expression


def text(type_: Any, dialect: Dialect) -> Normaliser:
    """Texts; a CHAR is padded or trimmed as the database does it."""
    length = getattr(type_, "length", None)
    if isinstance(type_, sa.CHAR | sa.NCHAR) and dialect.name == "postgresql" and length:
        return lambda value: plain_text(value).ljust(length)
    if isinstance(type_, sa.CHAR | sa.NCHAR) and dialect.name in MYSQL:
        return lambda value: plain_text(value).rstrip(" ")
    return plain_text


def plain_text(value: Any) -> str:
    """Any text, bytes or number as a text of no subclass."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    refuse_expression(value)
    return str(int(value) if isinstance(value, bool) else value)


def uuid(type_: Any, _dialect: Dialect) -> Normaliser:
    """UUIDs, as objects or as text."""
    if type_.as_uuid:
        return lambda value: value if isinstance(value, UUID) else UUID(str(value))
    return lambda value: str(UUID(str(value)))


def enum(type_: sa.Enum, _dialect: Dialect) -> Normaliser:
    """The member that a stored text stands for; the text itself, where there is no enum class."""
    members = enum_members(type_)
    known = set(members.values())

    def normal(value: Any) -> Any:
        if type_.enum_class is not None and value in known:
            return value
        text = plain_text(value)
        return members.get(text, text)

    return normal


def binary(type_: Any, dialect: Dialect) -> Normaliser:
    """Bytes; a BINARY is padded as the database does it."""
    length = getattr(type_, "length", None)
    if isinstance(type_, sa.BINARY) and dialect.name in MYSQL and length:
        return lambda value: _bytes(value).ljust(length, b"\0")
    return _bytes


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return memoryview(value).tobytes()
    raise TypeError("not bytes")
