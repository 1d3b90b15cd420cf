"""The documentation: its Python runs as it stands, its links lead somewhere, and it knows every setting."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import eventbus
from consumers import base
from eventbus import bus as buses
from eventbus import commands
from eventbus.environment import KNOWN

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "k8s/README.md", "examples/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    phone: Mapped[str | None]

class LogLine(Base):
    __tablename__ = "log_line"
    id: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[int]
"""
"""`myapp.models`."""
CONTEXT = """
import logging
from marshmallow import Schema, fields
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from sqlalchemy import create_engine, delete, event, select
from sqlalchemy.orm import sessionmaker
import eventbus
from myapp.models import Base, Contact, LogLine

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
session, limit, who, log = Session(), 5, lambda: "ann", logging.getLogger("example")
"""
"""What the pages take for granted."""


def blocks() -> Iterator[Any]:
    """Every block of Python, with its page and line."""
    for page in PAGES:
        text = page.read_text()
        matches = re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
        found = [(text.count("\n", 0, each.start()) + 2, each[1]) for each in matches]
        if page.name == "README.md" and found:
            found = [(found[0][0], "\n".join(code for _, code in found))]  # the second is typed after the first
        for line, code in found:
            yield pytest.param(page.name, line, code, id=f"{page.name}:{line}")


@pytest.fixture
def myapp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name, code in (("myapp", ""), ("myapp.models", MODELS)):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(code, module.__dict__)
    monkeypatch.chdir(tmp_path)
    before = set(buses._installed.values())
    yield
    for bus in set(buses._installed.values()) - before:
        bus.close(timeout=0)


@pytest.mark.usefixtures("myapp")
@pytest.mark.parametrize(("page", "line", "code"), list(blocks()))
def test_every_block_of_python_runs(page: str, line: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "run", lambda _, handle: len(handle([])))
    code = re.sub(r"^(\s+)…$", r"\1...", code, flags=re.MULTILINE)
    code = re.sub(r"^(>>>|\.\.\.) ?", "", code, flags=re.MULTILINE)
    code = code.replace("redis://cache.internal/0", "memory://").replace("raise SystemExit(", "assert not (")
    namespace: dict[str, Any] = {"__name__": "__main__", "index": {}, "op": types.SimpleNamespace(execute=str)}
    exec(CONTEXT, namespace)
    exec(compile("\n" * (line - 1) + code, page, "exec", dont_inherit=True), namespace)
    namespace["session"].close()
    namespace["engine"].dispose()


@pytest.mark.usefixtures("myapp")
def test_a_command_that_imports_the_readmes_service_adds_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(from.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    service: Any = types.ModuleType("service")
    monkeypatch.setitem(sys.modules, "service", service)
    exec(compile(code, "service.py", "exec", dont_inherit=True), vars(service))
    with service.Session() as session:
        assert session.query(service.Contact).count() == 0
    service.engine.dispose()


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)[)\"]", page.read_text()):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def test_every_page_is_linked_from_where_a_reader_begins() -> None:
    """Nobody finds a page that only other pages know."""
    beginnings = [(ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")]
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", "\n".join(beginnings)))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - linked == set()


def test_the_architecture_names_modules_and_rooms_that_there_are() -> None:
    there = [
        f"/{path.relative_to(ROOT)}" for room in ("eventbus", "consumers", "tests") for path in (ROOT / room).rglob("*")
    ]
    named = re.findall(r"`([a-z0-9_/]+(?:\.py|/))`", (ROOT / "docs/architecture.md").read_text())
    assert len(named) > 100
    assert [name for name in named if not any(path.endswith(f"/{name.rstrip('/')}") for path in there)] == []


def test_every_setting_is_documented() -> None:
    code = "\n".join(path.read_text() for top in ("eventbus", "consumers") for path in (ROOT / top).rglob("*.py"))
    settings = {
        name if name in ("DATA_DIR", "DATABASE_URL") or name.startswith("EVENTBUS_") else f"EVENTBUS_{name}"
        for name in re.findall(r"env\.\w+\(\s*\"([A-Z_]+)\"", code)
    }
    assert len(settings) > 20
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert {name for name in settings if f"`{name}`" not in page} == set()
    assert {name for name in settings if name.startswith("EVENTBUS_")} <= KNOWN


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command line in the page's blocks and in backticks: its words, and its options."""
    text = page.read_text().replace("\\|", "|")  # as it stands in a table
    fences = r"^ *```(\w*)\n(.*?)^ *```$"
    blocks = [code for kind, code in re.findall(fences, text, re.DOTALL | re.MULTILINE) if kind in ("", "console")]
    prose = re.sub(fences, "", text, flags=re.DOTALL | re.MULTILINE)
    for code in [*"\n".join(blocks).splitlines(), *re.findall(r"`([^`\n]+)`", prose)]:
        for found in re.finditer(r"(?<![\w/.-])(?<!-n )eventbus ([a-z][a-z-]*.*)", code):
            line = re.split(r" #|[;&`]| \| ", found[1])[0]
            yield line, re.findall(r"(?<=\s)--[a-z][a-z-]*", line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    for line, options in commands_of(page):
        command: click.Command = commands.eventbus
        known = {"--help", "--version"}
        for word in line.split():
            if not isinstance(command, click.Group) or word.startswith("-"):
                break
            inner = [command.get_command(click.Context(command), each) for each in word.split("|") if each != "…"]
            assert inner, line
            assert None not in inner, line
            command = inner[0] or command
            known |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        assert set(options) <= known, line


def test_every_name_of_the_package_is_documented() -> None:
    pages = "\n".join(page.read_text() for page in PAGES)
    assert {name for name in eventbus.__all__ if not re.search(rf"\b{name}\b", pages)} == set()
