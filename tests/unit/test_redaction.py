"""What is shown of URLs and of strangers' texts: no piece of a password, and nothing that drives a terminal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.json_mirror import cache
from eventbus import transports
from eventbus.cli import make_engine
from eventbus.errors import ConfigurationError
from eventbus.redaction import LONGEST, fault_of, redact, redact_url, shown

ONE, TWO = "CANONE", "CANTWO"
SPECIAL = [
    *[
        "",
        "@",
        ":",
        "/",
        "#",
        "?",
        "%",
        "%40",
        "%zz",
        "&",
        "[",
        "]",
        " ",
        '"',
        "'",
        "\\",
        "\t",
        "é",
        "$",
        "|",
        ",",
        "+",
    ],
    *[
        "@x@",
        "://",
        "@a://b:",
        "\u2028",
        "=",
        "{x}",
        "%2F",
        "%0a",
        "a b@c d",
        ";",
        "?x=@",
        "#@",
        "@h/",
        "@h:1/",
        "\x7f",
    ],
]
"""What people have in passwords and do not encode."""
BROKEN = [
    "amqp//user:{}@h",
    "user:{}@h",
    "{}",
    "http://user:{}@h/",
    "amqp://user:{}@h:12x//",
    "amqp://user:{}@h:99999//",
    "amqps://user:{}@h//?verify=verify_none",
    "amqps://user:{}@h//?password={}",
    "amqps://user:{}@h//?keyfile=x",
    "amqp://user:{}@[::1//",
    "amqp://user:{}@\x7f//",
    "sqlite://user:{}@h/x",
    "memory://user:{}@x",
    "redis://{}@h/0",
    "redis://:{}@h:port/0",
    "redis://h/0?password={}",
    "postgresql+psycopg://user:{}@h:notaport/db",
    "postgresql+psycopg://user:{}@h1:1,h2:2/db",
    "postgresql+nodriver://user:{}@h/db",
    "postgresql+psycopg:///db?host=127.0.0.1&user=u&password={}",
    "postgresql+psycopg://h/db?sslpassword={}",
    "mysql+pymysql://user@h/db?passwd={}&nosuch=1",
]


@pytest.mark.parametrize("url", BROKEN)
def test_no_piece_of_a_secret_shows_whatever_it_holds_and_wherever_the_url_is_wrong(url: str) -> None:
    for special in SPECIAL:
        text = url.format(*[f"{ONE}{special}{TWO}"] * url.count("{}"))
        shows = [told for told in _told(text) if ONE in told or TWO in told]
        assert not shows, (special, shows)


def _told(url: str) -> list[str]:
    """All that anybody says about the URL, without a server."""
    said = [redact_url(url), fault_of(url) or ""]
    for attempt in (transports.connection, cache.open, make_engine):
        try:
            attempt(url)
        except ConfigurationError as error:
            said.append(str(error))
    return said


@given(
    st.text(alphabet="@:/?#[]%;=& ax1\n'\"", max_size=6), st.sampled_from(["amqp", "redis", "rediss", "mysql+pymysql"])
)
@example("@/", "amqp")
def test_a_password_of_any_separators_shows_in_nothing(special: str, scheme: str) -> None:
    for told in _told(f"{scheme}://user:{ONE}{special}{TWO}@host.example:1/x"):
        assert ONE not in told
        assert TWO not in told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://crm:pw@broker.example:5671/%2F", "amqp://crm:***@broker.example:5671/%2F"),
        ("amqps://b.example//?cacertfile=/etc/ca.pem", "amqps://b.example//?cacertfile=/etc/ca.pem"),
        ("sqlite:////srv/a b/broker.sqlite3", "sqlite:////srv/a b/broker.sqlite3"),
        ("redis://:pw@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("secretword", "(10 characters, which are no URL)"),
        ("amqp://user:secretword", "amqp://*** (22 characters)"),
    ],
)
def test_what_is_no_secret_is_told(url: str, told: str) -> None:
    assert redact_url(url) == told


@pytest.mark.parametrize(
    "text",
    [
        "redis://127.0.0.1:6379/0: OOM command not allowed, script: 7, on @user_script:5.",
        "amqp://crm:***@127.0.0.1:5672//: no process <rabbit@node.example>",
        "postgresql://db.example:5432/x: FATAL: no entry for ann@example.org",
    ],
)
def test_an_at_sign_behind_a_url_is_no_password(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a", "a://", "a://b:", "a://b:@", "a://:@/", "://", "password=", "?token=a&", "x.y+", "@", 'a://b:"c://'],
    ids=repr,
)
def test_the_time_grows_no_faster_than_the_text(piece: str) -> None:
    text = f"{piece * (1_000_000 // len(piece))}amqp://u:p@h/"
    # With time that grows as the square, this would run into the limit of a test.
    assert len(redact(text)) < 200_000
    assert "u:p" not in redact_url(text)
    assert len(shown(text)) < 1000
    fault_of(text)


@given(st.text() | st.binary())
def test_what_a_stranger_wrote_is_cut_and_cannot_drive_a_terminal(value: str | bytes) -> None:
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= LONGEST * 10 + 40


def test_a_cut_says_how_much_is_missing() -> None:
    assert shown("x" * 1200) == f"{'x' * 200}… (1,000 more)"


def test_secrets_by_name_are_hidden_in_sentences() -> None:
    for name, sign in itertools.product(("password", "passwd", "pwd", "sslpassword"), ("?", " ", "&")):
        assert ONE not in redact(f"connection failed:{sign}{name}={ONE}")
