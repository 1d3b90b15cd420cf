"""Bindings that can never match are refused, with what to write."""

from __future__ import annotations

import itertools
import re

import pytest

from consumers.base import ConsumerSettings
from consumers.base.binding_syntax import fault_of_binding
from eventbus.errors import ConfigurationError
from eventbus.events import naming


@pytest.mark.parametrize(
    "binding",
    ["#", "crm.#", "*.*.*", "crm.contact.*", "#.deleted", "*.contact.#", "crm.#.created", "#.#", "%43rm.*.updated"],
)
def test_what_can_match_is_taken(binding: str) -> None:
    assert fault_of_binding(binding) is None
    ConsumerSettings(bindings=(binding,))


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("crm", "write crm.#"),
        ("crm.*", "write crm.*.#"),
        ("crm.contact", "write crm.contact.#"),
        ("*", "write"),
        ("crm.contact.update", "updated?"),
        ("crm.contact.Deleted", "deleted?"),
        ("crm.#.contact", "third word"),
        ("CRM.#", "%43%52%4D"),
        ("crm.OrderLine.created", "%4Frder%4Cine"),
        ("crm.contact.created.x", "three words"),
        ("a.b.c.d.#", "three words"),
        ("crm..created", "write *"),
        ("", "three words"),
        (".".join(["x" * 200, "y" * 200, "*"]), "255"),
    ],
)
def test_what_can_never_match_is_refused_with_what_to_write(binding: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"EVENTBUS_BINDINGS.*{re.escape(told)}"):
        ConsumerSettings(bindings=("#", binding))


def _expression(binding: str) -> str:
    expression = binding.replace(".", r"\.").replace("*", "[^.]+")
    return expression.replace(r"#\.", r"(?:[^.]+\.)*").replace(r"\.#", r"(?:\.[^.]+)*").replace("#", ".*")


def test_it_agrees_with_the_matching_of_a_broker_over_all_short_bindings() -> None:
    """A binding of these words is refused exactly where no key of these words matches it."""
    words = ["crm", "*", "#", "created", "Bad"]
    keys = [
        naming.routing_key(service, entity, op)
        for service in ("crm", "created", "x")
        for entity in ("crm", "created", "y")
        for op in "cud"
    ]
    for length in range(1, 5):
        for chosen in itertools.product(words, repeat=length):
            pattern = re.compile(_expression(".".join(chosen)))
            matches = any(pattern.fullmatch(key) for key in keys)
            assert (fault_of_binding(".".join(chosen)) is None) == matches, chosen
