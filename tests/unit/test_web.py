"""The pages of `eventbus web`: what they show, and whom they show it to."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from starlette.testclient import TestClient

from consumers.base import ConsumerSettings
from consumers.history.settings import HistorySettings
from consumers.json_mirror.command import main as mirror
from consumers.json_mirror.lateness import Lateness
from consumers.json_mirror.settings import MirrorSettings
from consumers.web.app import make_app
from consumers.web.command import main
from consumers.web.live import _paced
from consumers.web.pages import ago, as_text
from consumers.web.settings import WebSettings
from eventbus import acting_as, install
from eventbus.errors import ConfigurationError
from eventbus.outbox import ParkedRow, Store
from eventbus.outbox.reading.parked_rows import NEVER
from tests.support.consuming import publish

TOKEN = "a-token-of-some-length"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\x1b[2J",
    "\u202e",
    "{{ 7*7 }}",
    "a" * 5000,
]


class Base(DeclarativeBase): ...


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    team_id: Mapped[int | None]
    api_token: Mapped[str | None]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebSettings:
    """A mirror of a few records that has run, with dead letters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTBUS_SERVICE", "crm")
    monkeypatch.setenv("DATA_DIR", "data")
    engine = sa.create_engine("sqlite:///app.sqlite3")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with install(sessions, service="crm") as bus:
        with acting_as("ann"), sessions.begin() as session:
            session.add(Team(id=1, title="Sales"))
            session.add_all(Contact(id=f"c{n:03}", name=f"name {n % 7}", team_id=1) for n in range(120))
            session.add_all(Contact(id=f"h{n}", name=text, api_token="s3cret") for n, text in enumerate(HOSTILE))
        with sessions.begin() as session:
            session.delete(session.get_one(Contact, "c119"))
        bus.flush()
    engine.dispose()
    consumer = ConsumerSettings(url="sqlite:///eventbus-broker.sqlite3")
    publish(consumer, [b"<b>no JSON</b>", b'{"a": 1}'])
    assert mirror(["--drain"]) == 0
    made = MirrorSettings(data_dir=Path("data"), consumer=consumer)
    return WebSettings(mirror=made, history=HistorySettings(data_dir=Path("data")))


@pytest.fixture
def browser(settings: WebSettings) -> Iterator[TestClient]:
    with TestClient(make_app(settings), base_url="http://127.0.0.1:8089") as client:
        yield client


def client(settings: WebSettings, **changes: Any) -> TestClient:
    return TestClient(make_app(replace(settings, **changes)), base_url="http://127.0.0.1:8089", follow_redirects=False)


# --- what pages show ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/records",
        "/records/crm/contact",
        "/records/crm/contact/c001",
        "/history",
        "/letters",
        "/live",
        "/records/crm/team/1",
    ],
)
def test_each_page_is_there_and_has_a_twin_for_programs(browser: TestClient, path: str) -> None:
    page = browser.get(path)
    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")
    twin = browser.get("/overview.json" if path == "/" else f"{path}.json")
    assert twin.status_code == 200
    assert isinstance(twin.json(), dict)


def test_a_list_goes_on_by_key_until_all_were_shown(browser: TestClient) -> None:
    seen: list[str] = []
    address = "/records/crm/contact"
    while address:
        text = browser.get(address).text
        seen += re.findall(r'href="/records/crm/contact/([^"?]+)"', text)
        more = re.search(r'rel="next" href="([^"]+)"', text)
        address = html.unescape(more[1]) if more else ""
    assert len(seen) == len(set(seen)) == 119 + len(HOSTILE)


def test_a_list_is_filtered_by_key_and_by_field_and_ordered(browser: TestClient) -> None:
    def found(query: str) -> list[str]:
        return re.findall(r'href="/records/crm/contact/([^"?]+)"', browser.get(f"/records/crm/contact?{query}").text)

    assert found("prefix=c00") == [f"c00{n}" for n in range(10)]
    assert found("field=name&value=NAME+3") == [f"c{n:03}" for n in range(3, 119, 7)]
    assert found("field=team_id&value=2") == []
    assert found("by=name&down=1&prefix=c")[0] in {f"c{n:03}" for n in range(6, 119, 7)}


def test_a_record_links_to_the_records_it_refers_to_and_back(browser: TestClient) -> None:
    assert '<a href="/records/crm/team/1">1</a>' in browser.get("/records/crm/contact/c001").text
    assert "/records/crm/contact?field=team_id" in browser.get("/records/crm/team/1").text


def test_a_deleted_record_says_so(browser: TestClient) -> None:
    assert "Deleted, at version" in browser.get("/records/crm/contact/c119").text


def test_what_stays_home_appears_nowhere(browser: TestClient) -> None:
    for path in ("/records/crm/contact?prefix=h", "/records/crm/contact/h0", "/records/crm/contact.json"):
        assert "s3cret" not in browser.get(path).text


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_values_are_text_always(browser: TestClient, number: int) -> None:
    for path in ("/records/crm/contact?prefix=h", f"/records/crm/contact/h{number}"):
        text = browser.get(path).text
        assert not re.search(r"<(script|img)(?! src=\"/static/)", text)
        assert "49" not in re.findall(r"<td>\s*(\S+)\s*</td>", text)


def test_pages_stay_small_whatever_a_value_holds(browser: TestClient) -> None:
    assert len(browser.get("/records/crm/contact").content) < 100_000
    assert len(browser.get("/records/crm/contact/h5").content) < 100_000


def test_dead_letters_are_grouped_and_shown_as_text(browser: TestClient) -> None:
    text = browser.get("/letters").text
    assert "not JSON" in text
    letter = re.findall(r'href="(/letters/[0-9a-f]{16})"', text)
    assert len(letter) == 2
    shown = "".join(browser.get(address).text for address in letter)
    assert "&lt;b&gt;no JSON&lt;/b&gt;" in shown


def test_the_overview_says_in_one_sentence_what_is_wrong_and_what_to_do(browser: TestClient) -> None:
    text = browser.get("/").text
    assert "2 dead letters of json-mirror." in text
    assert "eventbus dead-letters list" in text


def test_a_broker_that_is_away_breaks_no_page(settings: WebSettings) -> None:
    away = replace(settings.mirror, consumer=ConsumerSettings(url="amqp://guest:hunter2@127.0.0.1:1//"))
    with client(settings, mirror=away) as browser:
        assert "the broker cannot be reached" in browser.get("/").text.lower().replace("the broker", "the broker")
        assert browser.get("/records/crm/contact").status_code == 200
        letters = browser.get("/letters")
        assert letters.status_code == 503
        assert "hunter2" not in browser.get("/").text + letters.text


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/records/crm/nobody",
        "/records/crm/contact/nobody",
        "/records/..%2f..%2f/etc",
        "/records/crm/%2e%2e%2f%2e%2e",
        "/static/..%2fguard.py",
        "/static/%2e%2e/guard.py",
        "/transactions/99999999999999999999",
        "/letters/zz",
        "/records/crm/contact/" + "k" * 7000,
    ],
)
def test_what_is_not_there_is_a_404_in_words(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_a_search_ends_soon_and_goes_on_with_a_link(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.web.records.LOOKING", 0.0)
    found, address = 0, "?field=id&value=c118"
    pages = 0
    while address:
        page = browser.get(f"/records/crm/contact.json{address}").json()
        found, address, pages = found + len(page["rows"]), page["more"], pages + 1
    assert found == 1
    assert pages > 100  # each looked at one record


# --- whom they show it to -------------------------------------------------------------------------------------------


def test_every_answer_forbids_what_no_page_needs(browser: TestClient) -> None:
    for path in ("/", "/nothing", "/static/style.css", "/overview.json"):
        policy = browser.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert browser.get(path).headers["x-content-type-options"] == "nosniff"


def test_no_page_loads_anything_from_elsewhere_or_has_a_script_or_style_in_it(browser: TestClient) -> None:
    for path in ("/", "/records/crm/contact", "/live"):
        text = browser.get(path).text
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
        assert not re.search(r"<style|style=| on[a-z]+=|<script(?! src=\"/static/)", text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8089", "127.0.0.1.evil.example", "", "[::2]:8089"])
def test_another_host_is_refused(browser: TestClient, host: str) -> None:
    assert browser.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8090"])
def test_another_sites_form_is_refused(settings: WebSettings, origin: str) -> None:
    with client(settings, allow_writes=True) as browser:
        answer = browser.post("/letters/retry", data={"reason": "not JSON"}, headers={"origin": origin})
        assert answer.status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(browser: TestClient, method: str) -> None:
    assert browser.request(method, "/").status_code == 405


def test_nothing_can_be_done_unless_it_is_allowed(browser: TestClient) -> None:
    assert '<form class="action"' not in browser.get("/letters").text
    assert browser.post("/letters/retry", data={"reason": "not JSON"}).status_code == 403
    assert browser.get("/letters/retry").status_code in (404, 405)


def token_of(browser: TestClient) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', browser.get("/letters").text)
    assert found
    return found[1]


def test_an_action_needs_the_forms_own_token(settings: WebSettings) -> None:
    with client(settings, allow_writes=True) as browser:
        assert browser.post("/letters/retry", data={"reason": "not JSON", "form_token": "0" * 64}).status_code == 403
        assert browser.get("/letters").text.count("not JSON") > 0


def test_a_dead_letter_is_thrown_away_only_with_its_number(
    settings: WebSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with client(settings, allow_writes=True) as browser:
        asked = {"reason": "not JSON", "form_token": token_of(browser)}
        assert browser.post("/letters/purge", data={**asked, "count": "7"}).status_code == 400
        assert browser.post("/letters/purge", data={**asked, "count": "1"}).status_code == 303
        assert "<h2>not JSON" not in browser.get("/letters").text
    assert "1 dead letter thrown away, by local" in caplog.text


def test_dead_letters_are_sent_again(settings: WebSettings, caplog: pytest.LogCaptureFixture) -> None:
    with client(settings, allow_writes=True) as browser:
        asked = {"reason": "not JSON", "form_token": token_of(browser)}
        assert browser.post("/letters/retry", data=asked).status_code == 303
    assert "1 dead letter sent again, by local" in caplog.text


def test_with_a_token_nothing_is_shown_without_it(settings: WebSettings) -> None:
    with client(settings, token=TOKEN) as browser:
        assert browser.get("/").headers["location"] == "/login"
        assert browser.get("/overview.json").status_code == 401
        assert browser.get("/live/events").status_code == 401
        assert browser.get("/", headers={"authorization": "Bearer wrong"}).status_code == 303
        assert browser.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert browser.post("/login", data={"token": "wrong"}).status_code == 403
        answer = browser.post("/login", data={"token": TOKEN})
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert browser.get("/").status_code == 200


def test_behind_a_proxy_its_header_says_who_looks(settings: WebSettings) -> None:
    with client(settings, proxy_header="x-forwarded-user") as browser:
        assert browser.get("/").status_code == 303
        assert "seen by ann" in browser.get("/", headers={"x-forwarded-user": "ann"}).text


def test_any_other_address_than_this_machine_needs_a_login() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.org", "::"):
        with pytest.raises(ConfigurationError, match="EVENTBUS_WEB_TOKEN"):
            WebSettings(host=host)
        WebSettings(host=host, token=TOKEN)
    for host in ("127.0.0.1", "localhost", "::1"):
        WebSettings(host=host)
    with pytest.raises(ConfigurationError, match="too short"):
        WebSettings(token="short")
    assert TOKEN not in repr(WebSettings(token=TOKEN))


def test_the_command_refuses_what_cannot_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data-dir", "nowhere"]) == 2
    assert "no mirror has run in nowhere" in capsys.readouterr().err
    assert main(["--host", "0.0.0.0"]) == 2
    assert "EVENTBUS_WEB_TOKEN" in capsys.readouterr().err


def test_times_and_values_read_well() -> None:
    assert ago("") == ago("nonsense") == ago(None) == "\N{EN DASH}"
    assert ago("2001-01-01T00:00:00Z").endswith(" d ago")
    assert as_text({"a": [1]}) == '{"a":[1]}'
    assert as_text("x" * 5000).endswith("… (5,002 characters)")


# --- the outbox of a service ------------------------------------------------------------------------------------------


def park(url: str) -> None:
    store = Store(sa.create_engine(url))
    store.parked.add([ParkedRow(17, 0, 1_763_884_800_000_000, NEVER, 3, "<b>NO_ROUTE</b>", b"{}\n{}")])
    store.close()


def test_parked_rows_of_a_database_that_is_given_are_shown_as_text(settings: WebSettings) -> None:
    park("sqlite:///app.sqlite3")
    with client(settings, database="sqlite:///app.sqlite3") as browser:
        page, twin = browser.get("/letters").text, browser.get("/letters.json").json()
        overview = browser.get("/overview.json").json()
    assert "&lt;b&gt;NO_ROUTE&lt;/b&gt;" in page
    assert [(row["id"], row["events"], row["attempts"]) for row in twin["parked"]] == [("17", 2, 3)]
    assert overview["figures"]["parked"] == 1


def test_without_a_database_the_page_says_how_to_name_one(browser: TestClient) -> None:
    assert "DATABASE_URL" in browser.get("/letters").text


def test_a_database_that_is_away_breaks_no_page(settings: WebSettings) -> None:
    with client(settings, database="postgresql+psycopg://nobody:s3cret@localhost:1/none") as browser:
        letters, overview = browser.get("/letters"), browser.get("/")
    assert letters.status_code == overview.status_code == 200
    assert "s3cret" not in letters.text + overview.text


def test_how_late_files_were_is_drawn(settings: WebSettings) -> None:
    now = [time.time() - 120]
    lateness = Lateness(settings.mirror.lateness_file, clock=lambda: now[0])
    lateness.add(0.004)
    lateness.add(0.25)
    now[0] += 60
    lateness.turn()
    with client(settings) as browser:
        page, twin = browser.get("/").text, browser.get("/overview.json").json()
    assert "which took 250 ms" in page
    assert twin["worst"] == 0.25


def test_live_changes_are_shown_at_a_pace_that_leaves_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += timeout or 0.0
            return False

    monkeypatch.setattr("consumers.web.live.time.monotonic", lambda: now[0])
    assert len(list(_paced(range(1_000), Stop()))) == 1_000
    assert now[0] == pytest.approx(2.0)
