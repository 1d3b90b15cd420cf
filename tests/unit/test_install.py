"""What `install()` is given: mistakes are told at once, and a second call cannot mean something else."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import StaticPool
from sqlalchemy.orm import sessionmaker

import eventbus
from eventbus import environment
from eventbus.errors import ConfigurationError, InstallError
from eventbus.testing import MemoryPublisher
from tests.support.world import proper_engine
from tests.support.zoo import Base, Contact, Team


@pytest.fixture
def maker() -> Iterator[sessionmaker[Any]]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def install(maker: Any, **options: Any) -> eventbus.Bus:
    settings = eventbus.Settings(url=f"memory://{uuid.uuid4().hex}", service="crm")
    return eventbus.install(maker, **{"settings": settings, "publisher": MemoryPublisher(), **options})


@pytest.mark.parametrize("name", ["outbox", "create_outbox", "reread"])
@pytest.mark.parametrize("value", ["no", "", 0, None])
def test_yes_or_no_is_no_text_or_number(maker: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"install\({name}=.*\): give True or False"):
        install(maker, **{name: value})


def test_a_second_install_says_the_same_or_nothing(maker: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings = eventbus.Settings(url="memory://x", service="crm")
    first = install(maker, settings=settings, include=[Contact], bulk="warn")
    try:
        assert eventbus.install(maker) is first
        assert install(maker, settings=settings, include=[Contact]) is first
        for other in ({"bulk": "raise"}, {"include": [Team]}, {"service": "shop"}, {"outbox": False}):
            (name,) = other
            with pytest.raises(InstallError, match=f"called before, with another {name}"):
                eventbus.install(maker, **other)  # type: ignore[arg-type]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert eventbus.install(maker, author=lambda: "ann") is first
        assert "its own author is what counts" not in caplog.text
        assert "the first one's author is what counts" in caplog.text
    finally:
        first.close()
    with install(maker, include=[Team]) as second:
        assert second is not first


def test_variables_that_nobody_reads_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "_told", set())
    names = ["EVENTBUS_SERVCIE", "EVENTBUS_URL_FILES", "EVENTBUS_XYZ", "EVENTBUS_PORT", "EVENTBUS_PORT_5672_TCP_ADDR"]
    for name in (*names, "EVENTBUS_SERVICE_HOST", "EVENTBUS_QUEUE"):
        monkeypatch.setenv(name, "x")
    for _ in range(2):
        eventbus.Settings.from_env()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "EVENTBUS_SERVCIE is set, and nobody reads it: did you mean EVENTBUS_SERVICE?",
        "EVENTBUS_URL_FILES is set, and nobody reads it: did you mean EVENTBUS_DURABLE_FILES?",
        "EVENTBUS_XYZ is set, and nobody reads it: take it away",
    ]


def test_listeners_that_somebody_took_away_are_not_missed(maker: Any) -> None:
    """As tests of a program do, which clear all listeners of a Session."""
    bus = install(maker)
    kind = type(maker())
    methods = {name: kind.__dict__.get(name) for name in ("bulk_save_objects", "_is_clean")}
    kind.dispatch._clear()
    bus.close()
    assert all(kind.__dict__.get(name) is not method for name, method in methods.items())
