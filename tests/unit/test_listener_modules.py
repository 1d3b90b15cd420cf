"""`install(Session, listeners="crm.events")`: hooks by the module, in the order of their names."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

from eventbus.errors import ConfigurationError, InstallError
from eventbus.listeners import hooks
from eventbus.testing import capture_events
from tests.support.zoo import Base, Team

HEARD = "heard = []"
LISTENER = """
from eventbus import Listener
from house.heard import heard
class {name}(Listener):
    def changed(self, change):
        heard.append("{name}")
"""
HOOK = """
from eventbus import listens_for
from house.heard import heard
from tests.support.zoo import Team
@listens_for(Team)
def {name}(change):
    heard.append("{name}")
"""

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules of a package `house`, by their names in it; they are gone after the test, and their hooks."""

    def write(**modules: str) -> None:
        for name, code in modules.items():
            path = tmp_path / "house" / f"{name.replace('__', '/')}.py"
            for directory in (path.parent, tmp_path / "house"):
                directory.mkdir(exist_ok=True, parents=True)
                (directory / "__init__.py").touch()
            path.write_text(textwrap.dedent(code))

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(hooks.registered)
    write(heard=HEARD)
    yield write
    hooks.registered[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


@pytest.fixture
def factory() -> Iterator[sessionmaker[Session]]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def heard(factory: sessionmaker[Session], package: str = "house.events") -> list[str]:
    """Who hears of a new team, in this order."""
    with capture_events(factory, listeners=package):
        names: list[str] = import_module("house.heard").heard
        names.clear()
        with factory.begin() as session:
            session.add(Team(title="t"))
    return list(names)


def test_listeners_and_hooks_of_all_modules_are_told_in_the_order_of_their_names(
    write: Write, factory: sessionmaker[Session]
) -> None:
    write(
        events__mails=LISTENER.format(name="Mails") + LISTENER.format(name="Letters"),
        events__audit=LISTENER.format(name="Audit") + HOOK.format(name="later") + HOOK.format(name="early"),
        events__deep__search=HOOK.format(name="search"),
    )
    names = heard(factory)
    assert [name for name in names if name[0].isupper()] == ["Audit", "Letters", "Mails"]
    assert [name for name in names if name[0].islower()] == ["early", "later", "search"]


def test_a_hook_imported_before_has_its_place_all_the_same(write: Write, factory: sessionmaker[Session]) -> None:
    write(events__b=HOOK.format(name="second"), events__a=HOOK.format(name="first"))
    import_module("house.events.b")
    assert heard(factory) == ["first", "second"]
    assert heard(factory) == ["first", "second"], "a second bus registers no function again"


def test_a_module_alone_will_do(write: Write, factory: sessionmaker[Session]) -> None:
    write(single=LISTENER.format(name="Single"))
    assert heard(factory, "house.single") == ["Single"]


def test_what_is_no_listener_to_be_made_is_left_out(write: Write, factory: sessionmaker[Session]) -> None:
    abstract = """
    from abc import ABC, abstractmethod
    from eventbus import Listener
    class Abstract(Listener, ABC):
        @abstractmethod
        def word(self): ...
    """
    write(
        events__a=LISTENER.format(name="_Base") + LISTENER.format(name="Kept") + "Again = Kept\n",
        events__b="from house.events.a import Kept\n" + textwrap.dedent(abstract),
        events____main__="raise SystemExit('this is the program')",
    )
    assert heard(factory) == ["Kept"]


@pytest.mark.parametrize("code", ["import no_such_module", "def broken(:", "eventbus.listens_for(7)"])
def test_an_import_that_fails_says_which_module(write: Write, factory: sessionmaker[Session], code: str) -> None:
    write(events__good=HOOK.format(name="good"), events__poor="import eventbus\n" + code)
    with pytest.raises(InstallError, match=r"house\.events\.poor cannot be imported: \w+Error: ") as failed:
        heard(factory)
    assert failed.value.__cause__ is not None
    write(events__poor="")
    assert heard(factory) == ["good"], "the next try is a clean one"


def test_a_module_that_fails_after_its_hooks_does_not_register_them_twice(
    write: Write, factory: sessionmaker[Session]
) -> None:
    write(events__hook=HOOK.format(name="once") + "1 / 0")
    with pytest.raises(InstallError, match="ZeroDivisionError"):
        heard(factory)
    write(events__hook=HOOK.format(name="once"))
    assert heard(factory) == ["once"]


def test_a_package_that_is_not_there_is_named(factory: sessionmaker[Session]) -> None:
    with pytest.raises(InstallError, match=r"the module no_house\.events cannot be imported"):
        heard(factory, "no_house.events")


@pytest.mark.parametrize("name", ["", "crm events", ".events", "crm..events"])
def test_what_is_no_name_is_refused(factory: sessionmaker[Session], name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"listeners=.*crm\.events"):
        heard(factory, name)


def test_a_listener_that_wants_arguments_is_named(write: Write, factory: sessionmaker[Session]) -> None:
    write(events__a=LISTENER.format(name="Wants") + "    def __init__(self, index): ...\n")
    with pytest.raises(ConfigurationError, match=r"house\.events\.a\.Wants cannot be made without arguments"):
        heard(factory)


def test_a_module_may_install_a_bus_of_its_own(write: Write, factory: sessionmaker[Session]) -> None:
    other = """
    from sqlalchemy.orm import sessionmaker
    from eventbus.testing import capture_events
    with capture_events(sessionmaker()):
        pass
    """
    write(events__a=other, events__b=LISTENER.format(name="Told"))
    assert heard(factory) == ["Told"]
