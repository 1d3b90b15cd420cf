"""Names: three words in every routing key, no two names that meet, and a way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import ConfigurationError
from eventbus.events import naming


@pytest.mark.parametrize(
    ("class_name", "entity"),
    [
        ("Contact", "contact"),
        ("OrderLine", "order_line"),
        ("HTTPServer", "http_server"),
        ("OrderV2Line", "order_v2_line"),
        ("already_snake", "already_snake"),
    ],
)
def test_entity_is_the_class_name_in_snake_case(class_name: str, entity: str) -> None:
    assert naming.snake_case(class_name) == entity


@given(st.text())
def test_quote_has_an_inverse_and_keeps_to_its_alphabet(text: str) -> None:
    quoted = naming.quote(text)
    assert naming.unquote(quoted) == text
    assert set(quoted) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-%ABCDEF")


@given(st.text(), st.text())
def test_quoted_names_that_differ_also_differ_on_a_disk_that_folds_case(one: str, other: str) -> None:
    assert (naming.quote(one).lower() == naming.quote(other).lower()) == (one == other)


def test_lone_surrogates_survive() -> None:
    assert naming.unquote(naming.quote("\ud800")) == "\ud800"


@pytest.mark.parametrize("text", ["A", "a.b", "%41%", "%4", "%61", "%2e", "ü"])
def test_unquote_refuses_what_quote_never_gives(text: str) -> None:
    with pytest.raises(ValueError, match="not a quoted name"):
        naming.unquote(text)


@given(st.text(min_size=1, max_size=15), st.text(min_size=1, max_size=15), st.sampled_from("cudr"))
def test_a_routing_key_has_three_words(service: str, entity: str, op: str) -> None:
    assert naming.routing_key(naming.quote(service), naming.quote(entity), op).count(".") == 2


def test_a_routing_key_amqp_cannot_carry_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="256 bytes, AMQP allows 255"):
        naming.routing_key("s", "e" * (256 - len("s..created")), "c")
    assert len(naming.routing_key("s", "e" * (255 - len("s..created")), "c")) == 255


@pytest.mark.parametrize(
    ("pk", "subject"), [("ab12", "contact/ab12"), (5, "contact/5"), ([1, "é"], 'contact/[1,"é"]'), ("5", "contact/5")]
)
def test_subject_is_entity_and_key(pk: object, subject: str) -> None:
    assert naming.subject("contact", pk) == subject
