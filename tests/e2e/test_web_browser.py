"""The pages in a real browser: changes as they come, hostile names, keyboard, small screens, accessibility."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from eventbus import acting_as, install
from tests.support.consuming import wait_for

ROOT = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"`${alert(3)}\u202e"
PAGES = ("/", "/records", "/records/crm/contact", "/records/crm/contact/ab12", "/history", "/letters", "/live")


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    phone: Mapped[str | None]


@dataclass
class World:
    """A service, its mirror with a history, and the pages."""

    address: str
    sessions: sessionmaker[Session]
    troubles: list[str] = field(default_factory=list)


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is installed; Debian's package chromium has it")
        pytest.skip("no Chromium is installed")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield made
        made.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("web")
    environment = {**os.environ, "DATA_DIR": "data", "EVENTBUS_HISTORY": "sqlite", "EVENTBUS_HISTORY_SETTLE": "0.1"}
    environment["EVENTBUS_URL"] = f"sqlite:///{directory}/broker.sqlite3"
    engine = sa.create_engine(f"sqlite:///{directory}/app.sqlite3")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (directory / f"{arguments[0]}.log").open("wb") as log:
            command = [sys.executable, "-m", "eventbus", *arguments]
            made = subprocess.Popen(command, cwd=directory, env={**environment, "PYTHONPATH": str(ROOT)}, stderr=log)
        processes.append(made)
        return made

    with install(sessions, service="crm", url=environment["EVENTBUS_URL"]) as bus:
        with acting_as("ann"), sessions.begin() as session:
            session.add_all([Contact(id="ab12", name="Ann", phone=None), Contact(id="evil", name=HOSTILE, phone=None)])
        with acting_as("bob"), sessions.begin() as session:
            session.get_one(Contact, "ab12").phone = "+32"
        bus.flush()
        start("mirror")
        wait_for((directory / "data/crm/contact/ab12.json").exists, 60)
        start("web", "--port", "0")
        log = directory / "web.log"
        running = re.compile(r"look at it: (http://127\.0\.0\.1:\d+)")
        wait_for(lambda: running.search(log.read_text()) is not None, 60)
        found = running.search(log.read_text())
        assert found
        yield World(found[1], sessions)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(30) == 0
    engine.dispose()


@pytest.fixture
def page(browser: Browser, world: World) -> Iterator[Page]:
    """A tab in which nothing may go wrong: no error on the console, no dialog."""
    context = browser.new_context(base_url=world.address)
    made = context.new_page()
    troubles: list[str] = []
    made.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: troubles.append(str(error)))
    made.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    yield made
    context.close()
    assert troubles == []


def test_a_change_shows_without_a_reload(page: Page, world: World) -> None:
    page.goto("/live")
    expect(page.locator("#state")).to_have_text("Live.", timeout=20_000)

    def changed() -> bool:
        # Until the page's queue is bound nothing is seen of what happens.
        with acting_as("eve"), world.sessions.begin() as session:
            contact = session.get_one(Contact, "ab12")
            contact.phone = f"{contact.phone}1"
        return page.locator("#changes li").count() > 0

    wait_for(changed, 30)
    first = page.locator("#changes > li").first
    expect(first).to_contain_text("changed crm.contact ab12")
    expect(first).to_contain_text("by eve")
    expect(first.locator("ins").first).to_contain_text('"+32')


def test_the_live_page_pauses_and_goes_on(page: Page, world: World) -> None:
    page.goto("/live?binding=crm.contact.created")
    expect(page.locator("#state")).to_have_text("Live.", timeout=20_000)
    page.get_by_role("button", name="Pause").click()
    numbers = iter(range(1000))

    def held() -> bool:
        with world.sessions.begin() as session:
            session.add(Contact(id=f"p{next(numbers)}", name=HOSTILE, phone=None))
        return "waiting" in (page.locator("#state").text_content() or "")

    wait_for(held, 30)
    expect(page.locator("#changes > li")).to_have_count(0)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#changes > li").first).to_contain_text("created crm.contact p")
    expect(page.locator("#changes > li").first).to_contain_text("<img src=x")


@pytest.mark.parametrize("path", [*PAGES, "/records/crm/contact/evil"])
def test_no_page_runs_what_a_record_holds(page: Page, path: str) -> None:
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()


def test_the_history_of_a_record_is_beside_it(page: Page) -> None:
    page.goto("/records/crm/contact/ab12")
    versions = page.locator("ol.versions > li")
    expect(versions.last).to_contain_text("created")
    expect(versions.last).to_contain_text("by ann")
    expect(versions.nth(-2)).to_contain_text("by bob")
    expect(versions.nth(-2)).to_contain_text("phone")
    versions.last.locator("a", has=page.locator("time")).click()
    expect(page.locator("p.remedy")).to_contain_text("As it was at")
    expect(page.locator("table.fields")).to_contain_text("null")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, world: World, path: str, scheme: str) -> None:
    context = browser.new_context(base_url=world.address, color_scheme=scheme)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.goto(path)
    results = Axe().run(tab)
    found = [(each["id"], [node["target"] for node in each["nodes"]]) for each in results.response["violations"]]
    context.close()
    assert found == []


@pytest.mark.parametrize("path", PAGES)
def test_a_telephone_shows_each_page_without_scrolling_sideways(browser: Browser, world: World, path: str) -> None:
    context = browser.new_context(base_url=world.address, viewport={"width": 360, "height": 740})
    tab = context.new_page()
    tab.goto(path)
    width = tab.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert width <= 360


def test_all_but_live_works_without_javascript(browser: Browser, world: World) -> None:
    context = browser.new_context(base_url=world.address, java_script_enabled=False)
    tab = context.new_page()
    tab.goto("/")
    tab.get_by_role("link", name="Records", exact=True).click()
    tab.get_by_role("link", name="crm.contact").click()
    tab.get_by_role("link", name="ab12").click()
    expect(tab.locator("h1")).to_have_text("ab12")
    tab.goto("/live")
    expect(tab.locator("#state")).to_contain_text("Live changes need JavaScript")
    context.close()


def test_the_keyboard_alone_leads_everywhere(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    for name in ("eventbus", "Overview", "Records"):
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text(name)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Records")
