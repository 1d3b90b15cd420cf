"""The pytest plugin: a test asserts what a user's Sessions publish, runs the whole chain, or kills the service.

pytest loads it by its entry point `pytest11`. It imports neither SQLAlchemy nor anything else of eventbus until a test
asks for one of its fixtures, so that it costs nothing to those who do not. `-p no:eventbus` leaves it out altogether.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from eventbus.testing import CapturedEvents
    from eventbus.trials.asserting import AssertPublished
    from eventbus.trials.chain import Chain
    from eventbus.trials.chaos import Chaos

_CHAOS: Final = "eventbus_chaos"
_SESSION: Final = "eventbus_session"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option and the setting of the plugin."""
    group = parser.getgroup("eventbus", "events of SQLAlchemy Sessions")
    group.addoption(
        "--eventbus-chaos",
        action="store_true",
        help="run the tests that use the fixture eventbus_chaos: kill the service at each failpoint",
    )
    parser.addini(_SESSION, "the sessionmaker that the fixtures install on, as package.module:Session", default="")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --eventbus-chaos, a test that uses `eventbus_chaos` runs once a failpoint."""
    if _CHAOS in metafunc.fixturenames and metafunc.config.getoption("--eventbus-chaos"):
        metafunc.parametrize(_CHAOS, import_module("eventbus.process.failpoints").NAMES, indirect=True)


@pytest.fixture
def eventbus_session(request: pytest.FixtureRequest) -> Any:
    """What the other fixtures install on: the setting `eventbus_session`. Override it to return your sessionmaker."""
    named = request.config.getini(_SESSION)
    module, _, name = named.partition(":")
    if not name:
        raise pytest.UsageError(
            "eventbus does not know your sessionmaker: set eventbus_session = package.module:Session in pytest's "
            "settings, or write a fixture eventbus_session that returns it"
        )
    return getattr(import_module(module), name)


@pytest.fixture
def eventbus_options() -> Mapping[str, Any]:
    """Arguments for `eventbus.install`, besides those of a bus that is there already. Override it to return yours."""
    return {}


@pytest.fixture
def eventbus_events(eventbus_session: Any, eventbus_options: Mapping[str, Any]) -> Iterator[CapturedEvents]:
    """The events that Sessions commit during the test; no broker, no outbox (see `eventbus.testing`)."""
    with import_module("eventbus.trials.instead").captured(eventbus_session, eventbus_options) as events:
        yield events


@pytest.fixture
def assert_published(eventbus_events: CapturedEvents) -> AssertPublished:
    """`assert_published("contact.updated", pk="ab12", after={"phone": "+32"})`: exactly one such event; returns it."""
    made: AssertPublished = import_module("eventbus.trials.asserting").AssertPublished(eventbus_events)
    return made


@pytest.fixture
def eventbus_chain(eventbus_session: Any, eventbus_options: Mapping[str, Any], tmp_path: Path) -> Iterator[Chain]:
    """The whole chain: outbox, the embedded broker, and the mirror in a process of its own, all of this test alone."""
    with import_module("eventbus.trials.chain").chain(eventbus_session, eventbus_options, tmp_path) as chain:
        yield chain


@pytest.fixture
def eventbus_chaos(request: pytest.FixtureRequest, tmp_path: Path) -> Chaos:
    """Kills a process of yours at one failpoint, and proves that nothing was lost; only with --eventbus-chaos."""
    if not request.config.getoption("--eventbus-chaos"):
        pytest.skip("kills the service at each failpoint: give --eventbus-chaos")
    made: Chaos = import_module("eventbus.trials.chaos").Chaos(request.param, tmp_path)
    return made
